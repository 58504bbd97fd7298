"""Which shapes a plan may choose from, family by family, and the settings that train each best here.

A ladder goes from small to large, (layers, hidden size); depth grows with width as in the GPT-3 table (Brown et al. 2020, table
2.1), from smaller sizes. The numbers are from runs of this code (docs/log.md) unless said to be a choice.

    [shape.count_parameters() for shape in rungs("decoder", "qwen3", Sizes(2048, 0), PlanOptions())]
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from myna.errors import UserError, nearest
from myna.models.create import Config, make_config
from myna.models.families import MODEL_TYPES, OPENED, Family
from myna.train.options import PlanOptions, TrainOptions

RATES = {"muon": 0.03, "adamw": 0.003, "adam": 0.003, "sgd": 0.1}  # muon: swept on Shakespeare; the others are usual values, not swept


@dataclass(frozen=True)
class Settings:
    """What a family is trained with unless the user says otherwise."""

    ladder: tuple[tuple[int, int], ...]
    tokens_per_weight: float  # tokens per weight of the layers to take a shape
    contexts: tuple[tuple[float, int], ...]  # (tokens seen in all, up to which) -> tokens of a window
    batches: tuple[tuple[float, int], ...]  # (tokens seen in all, up to which) -> tokens of an optimizer step
    rates: dict[str, float]
    embedding_rate: float = 0.03
    optimizer: str = "muon"
    weight_decay: float = 0.01


_DECODER = Settings(
    ladder=((2, 64), (3, 128), (4, 192), (4, 256), (5, 320), (6, 384), (7, 448), (8, 512), (10, 640), (12, 768), (16, 1024)),
    tokens_per_weight=0.6,  # own choice, from few runs
    # short windows learn more per token while little is known yet: 128 beat 256 by 1 % at 0.8M tokens (docs/log.md)
    contexts=((2.5e6, 128), (1e8, 256), (float("inf"), 512)),
    # the batch may grow with the tokens (McCandlish et al. 2018); small ones learn more per token, large ones cost fewer updates
    batches=((4e6, 2048), (1.6e7, 4096), (1e8, 8192), (float("inf"), 32768)),
    rates=RATES)
# AdamW was ahead of Muon, 64 rows of 16 tokens ahead of 32 of 32, a decay of 0.3 ahead of 0.01 (docs/log.md); the larger rungs and the
# tokens for each are a choice
_RECURRENT = Settings(
    ladder=((1, 128), (1, 256), (1, 384), (1, 512), (2, 512), (2, 768), (2, 1024)), tokens_per_weight=1.0,
    contexts=((float("inf"), 16),), batches=((1e7, 1024), (float("inf"), 4096)), rates=RATES | {"adamw": 0.016, "adam": 0.016},
    optimizer="adamw", weight_decay=0.3)
# two layers of 512 at AdamW's 0.016 learned nothing for a quarter of the run: the Elman network has no gates to hold its state
_ELMAN = dataclasses.replace(_RECURRENT, ladder=((1, 128), (1, 256), (1, 384), (1, 512)), tokens_per_weight=4.0,
                             rates=RATES | {"adamw": 0.008, "adam": 0.008})
# 0.01 for both, with 1,024 tokens a step, was the best of nine settings at 490,000 tokens, each run once
# in two minutes on Shakespeare two layers of 128 were ahead of three, of two of 64 and of four of 192: few answers a token want few weights
_ENCODER = dataclasses.replace(_DECODER, ladder=((2, 64), (2, 128), *_DECODER.ladder[1:]), tokens_per_weight=12.0,
                               contexts=((1e8, 128), (float("inf"), 512)), rates=RATES | {"muon": 0.01}, embedding_rate=0.01,
                               batches=((8e6, 1024), (2e7, 2048), (3e7, 4096), (1e8, 8192), (float("inf"), 32768)))
_ENCODER_DECODER = dataclasses.replace(_DECODER, contexts=((1e8, 128), (float("inf"), 512)))
_SETTINGS: dict[Family, Settings] = {
    "rnn": _ELMAN, "lstm": _RECURRENT, "gru": _RECURRENT, "decoder": _DECODER, "encoder": _ENCODER, "encoder-decoder": _ENCODER_DECODER}


@dataclass(frozen=True)
class Sizes:
    """What a shape takes from the text's vocabulary."""

    vocab_size: int
    separator_id: int
    pad_id: int = 0


def settings_of(family: Family) -> Settings:
    """Return what a neural family is trained with."""
    return _SETTINGS[family]


def settle(options: TrainOptions, family: Family) -> TrainOptions:
    """Fill in what the user left to the family."""
    settings = _SETTINGS[family]
    optimizer = options.optimizer or settings.optimizer
    chosen = {"optimizer": optimizer, "learning_rate": settings.rates[optimizer], "embedding_learning_rate": settings.embedding_rate,
              "weight_decay": settings.weight_decay}
    return dataclasses.replace(options, **{name: value for name, value in chosen.items() if getattr(options, name) is None})  # type: ignore[arg-type]


def choose_model_type(family: Family, given: str | None) -> str:
    """Return the model_type that a build of a family makes. Raises UserError when the one given is not of the family."""
    known = [name for name in MODEL_TYPES[family] if name not in OPENED]
    if given is not None and given not in known:
        raise UserError(f"plan.model_type is {given!r}{nearest(given, known)}", f"one of {', '.join(known)} for --family {family}")
    return given or known[0]


def at_most(table: tuple[tuple[float, int], ...], tokens: float) -> int:
    """Look up the value for so many tokens in a table of (limit, value)."""
    return next(value for limit, value in table if tokens < limit)


def rungs(family: Family, model_type: str, sizes: Sizes, options: PlanOptions) -> list[Config]:
    """List the shapes to choose from, small to large, with what the user fixed; their context is not yet chosen.

    Raises UserError when what the user fixed does not go together.
    """
    unread = [name for name in _ONLY if getattr(options, name) is not None and family not in _ONLY[name]]
    if unread:
        raise UserError(f"--plan.{unread[0].replace('_', '-')} means nothing to --family {family}", "only options that are read",
                        f"it is for {', '.join(_ONLY[unread[0]])}")
    found: list[Config] = []
    problem: ValueError | None = None
    for layers, hidden in settings_of(family).ladder:
        values: dict[str, Any] = {"model_type": model_type, "vocab_size": sizes.vocab_size, "eos_token_id": sizes.separator_id,
                  "hidden_size": options.hidden_size or hidden, "num_hidden_layers": options.num_hidden_layers or layers,
                  "dropout": options.dropout}
        try:
            shape = make_config(values | _own(family, model_type, sizes, options, values["hidden_size"]))
        except ValueError as error:  # of this rung; with another hidden_size what was fixed may do
            problem = error
            continue
        if shape not in found:
            found.append(shape)
    if not found:
        raise UserError(str(problem), "a width in whole heads, and key-value heads that divide them",
                        "choose others, or leave them to the plan")
    return found


_TRANSFORMERS = ("decoder", "encoder", "encoder-decoder")
_ONLY: dict[str, tuple[str, ...]] = {"intermediate_size": _TRANSFORMERS, "head_dim": _TRANSFORMERS, "num_key_value_heads": ("decoder",)}


def _own(family: Family, model_type: str, sizes: Sizes, options: PlanOptions, hidden: int) -> dict[str, Any]:
    """Return the fields that only this family's config has."""
    if family in ("rnn", "lstm", "gru") or model_type == "attention_rnn":
        return {}
    # an encoder begins with a head for each neighbour, so it wants several
    head_dim = options.head_dim or (32 if family == "encoder" and hidden < 512 else 64)
    heads = hidden // head_dim
    if hidden % head_dim:
        raise ValueError(f"hidden_size is {hidden}, head_dim is {head_dim}")
    values: dict[str, Any] = {"num_attention_heads": heads}
    if options.intermediate_size:
        values["intermediate_size"] = options.intermediate_size
    if family == "encoder":
        values["pad_token_id"] = sizes.pad_id
    if family == "decoder":
        groups = options.num_key_value_heads or (heads if model_type == "gpt2" else _groups(heads))
        if heads % groups:
            raise ValueError(f"hidden_size is {hidden}, head_dim is {head_dim}, num_key_value_heads is {groups}")
        values |= {"num_key_value_heads": groups, "head_dim": head_dim, "tie_word_embeddings": False}
    return values


def _groups(heads: int) -> int:
    """Return the most heads for keys and values that are at most half of the attention heads and divide them."""
    return max(groups for groups in range(1, heads + 1) if heads % groups == 0 and groups <= max(1, heads // 2))


def layer_weights(config: Config) -> int:
    """Count the weights that are not in tables over the vocabulary: what the tokens of a text must fill."""
    width, tied = getattr(config, "embedding_size", config.hidden_size), getattr(config, "tie_word_embeddings", True)
    return config.count_parameters() - config.vocab_size * width * (1 if tied else 2)
