"""What a model directory says of itself, read without loading the model: its shape, what made it, how good it was.

`config.json` and the header of `model.safetensors` are enough for any directory that Myna can load; `myna.json` and the stage
reports beside it, which `myna build` writes, add the rest. Nothing here needs torch.

    record = read_record(Path("my-model"))
    record.parameters, record.lineage.get("seed")
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna.console import human
from myna.errors import UserError
from myna.files import read_json
from myna.formats.weights import open_weights
from myna.metrics.report import Report
from myna.models.adapter import Adapter, find_base, is_adapter, read_adapter
from myna.models.families import LOADED, MODEL_TYPES, family_of
from myna.models.mixture import MIXTURE, read_mixture
from myna.models.pretrained import read_config

_KINDS = {  # what each is called in a sentence
    "ngram": "an n-gram model", "unbounded": "an unbounded n-gram model", "hmm": "a hidden Markov model", "vectors": "word vectors",
    "rnn": "a recurrent network (Elman)", "lstm": "a recurrent network (LSTM)", "gru": "a recurrent network (GRU)",
    "attention_rnn": "a recurrent encoder-decoder with attention", "decoder": "a Transformer decoder", "encoder": "a Transformer encoder",
    "encoder-decoder": "a Transformer encoder-decoder"}
_LAYERS, _WIDTH = ("num_hidden_layers", "n_layer", "num_layers"), ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_OWN = ("ngram", "unbounded", "hmm", "vectors", "rnn", "lstm", "gru", "attention_rnn")  # model types that transformers does not know
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", "position_ids", "token_type_ids")  # in published files
_TABLES = tuple(f"{root}{name}.weight" for root in ("", "model.") for name in ("shared", "decoder.embed_tokens", "encoder.embed_tokens"))
_TIED = (("cls.predictions.decoder.weight", "lm_head.decoder.weight", "predictions.decoder.weight"),
         ("cls.predictions.decoder.bias", "lm_head.decoder.bias", "predictions.decoder.bias"))  # an encoder's head, written once more
_UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"  # of the first T5 files
_MYNA = {"report": dict, "lineage": dict, "plan": dict, "actual": dict, "stages": dict, "hashes": dict, "samples": list, "notes": list,
         "alone": dict}
_DAMAGE = (AttributeError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError)


@dataclass(frozen=True)
class Record:
    """A model directory in words and numbers; what is not known is empty."""

    folder: Path
    config: dict[str, Any]
    parameters: int
    files: dict[str, int]
    "Bytes of each file of the model directory."
    myna: dict[str, Any]
    "myna.json, or nothing."
    corpus: dict[str, Any]
    "corpus/report.json, or nothing."
    split: dict[str, Any]
    "corpus/split.json, or nothing."
    tokens: dict[str, Any]
    "tokens/report.json, or nothing."
    adapter: Adapter | None = None
    "What it changes of its base, where it is an adapter; shape and parameters are then the base's."

    @property
    def name(self) -> str:
        """The directory's own name."""
        return _name(self.folder.resolve())

    @property
    def model_type(self) -> str:
        """config.json's model_type."""
        return str(self.config["model_type"])

    @property
    def family(self) -> str:
        """One of `myna.models.families.MODEL_TYPES`."""
        return str(family_of(self.model_type))

    @property
    def kind(self) -> str:
        """What it is, in words: "a Transformer decoder"."""
        kind = _KINDS.get(self.model_type) or _KINDS[self.family]
        return kind if self.adapter is None else f"an adapter of {kind}"

    @property
    def in_transformers(self) -> bool:
        """Whether `transformers` opens the directory."""
        return self.model_type not in _OWN

    @property
    def mixture(self) -> list[tuple[str, float]]:
        """Members and weights of the mixture in the directory; empty when it is one model."""
        return [(name, weight) for name, _, weight in read_mixture(self.folder)] if (self.folder / MIXTURE).is_file() else []

    @property
    def vocab_size(self) -> int:
        """Ids of the vocabulary."""
        return int(self.config["vocab_size"])

    @property
    def context(self) -> int | None:
        """Tokens the model sees at once; an n-gram's order less one; None when it has no limit or the config does not say."""
        if self.family == "ngram":
            return int(self.config["order"]) - 1
        found = (self.config.get(name) for name in ("max_position_embeddings", "n_positions"))  # the latter: GPT-2, T5
        return next((int(value) for value in found if isinstance(value, int)), None)

    @property
    def shape(self) -> list[tuple[str, str]]:
        """The sizes of the model in words: (name, value)."""
        c, rows = self.config, [("parameters", f"{self.parameters:,}")]
        if self.family == "ngram":
            names = {"kneser_ney": "modified Kneser-Ney", "witten_bell": "Witten-Bell", "stupid_backoff": "stupid back-off"}
            ngrams = ", ".join(f"{human(n)} of length {k}" for k, n in enumerate(c["ngrams"], start=1))
            return [("order", str(c["order"])), ("smoothing", names.get(c.get("smoothing", ""), "")), ("n-grams", ngrams)]
        if self.family == "hmm":
            return [*rows, ("states", f"{c['num_states']:,}")]
        if self.family == "vectors":
            return [*rows, ("vectors", f"{c['vocab_size']:,} of {c['hidden_size']} numbers")]
        layers, width = (next((c[name] for name in names if name in c), None) for names in (_LAYERS, _WIDTH))
        heads, groups = next((c[name] for name in _HEADS if name in c), None), c.get("num_key_value_heads")
        if layers is not None and width is not None:
            rows.append(("layers", f"{layers} of width {width}"))
        if heads is not None:
            width = f" of {c['head_dim']}" if "head_dim" in c else ""
            rows.append(("attention", f"{heads} heads{width}" + (f", {groups} for keys and values" if groups not in (None, heads) else "")))
        if self.context is not None:
            rows.append(("context", f"{self.context:,} tokens"))
        if self.adapter is not None:
            rows.append(("adapter", f"LoRA of rank {self.adapter.rank} on {', '.join(self.adapter.targets)}: "
                                    f"{self.adapter.parameters:,} parameters"))
        return rows

    @property
    def lineage(self) -> dict[str, Any]:
        """Inputs, seed, versions, command line."""
        return dict(self.myna.get("lineage", {}))

    @property
    def plan(self) -> dict[str, Any]:
        """plan.json as it was before step 1."""
        return dict(self.myna.get("plan") or {})

    @property
    def actual(self) -> dict[str, Any]:
        """What the plan predicted, as it came out."""
        return dict(self.myna.get("actual") or {})

    @property
    def alone(self) -> str:
        """What the trained model scores without what it is mixed with, in words; empty when it is not mixed."""
        kept = self.myna.get("alone")
        if not kept or not self.mixture:
            return ""
        try:
            scores = Report.from_json(kept).metrics
        except _DAMAGE as error:
            raise UserError(f"'alone' in {self.folder / 'myna.json'} is damaged ({error})", "a report as Myna writes it",
                            "restore the file") from None
        metric, score = next(iter(scores.items()))
        members = " + ".join(f"{weight:.2f} {name}" for name, weight in self.mixture)
        return (f"The scores are of the mixture {members}; the {self.mixture[0][0]} alone has {score.value:.3f} {metric.replace('_', ' ')} "
                f"[{score.low:.3f}, {score.high:.3f}].")

    @property
    def report(self) -> Report:
        """Scores on the test split, the baseline's beside them; empty when there are none."""
        try:
            return Report.from_json(self.myna.get("report", {}))
        except _DAMAGE as error:
            raise UserError(f"the report in {self.folder / 'myna.json'} is damaged ({error})", "a report as Myna writes it",
                            "restore the file") from None


def read_record(folder: Path) -> Record:
    """Read a model directory. Raises UserError when it is none, is damaged, or has a model_type that Myna cannot load."""
    adapter = read_adapter(folder) if is_adapter(folder) else None
    base = folder if adapter is None else find_base(adapter)
    config = read_config(base)
    model_type, vocab_size = config.get("model_type"), config.get("vocab_size")
    if not isinstance(model_type, str) or family_of(model_type) is None:
        raise UserError(f"{folder / 'config.json'} has model_type {model_type!r}", "one of " + ", ".join(LOADED))
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise UserError(f"vocab_size in {folder / 'config.json'} is {vocab_size!r}", "a whole number", "restore the file")
    match model_type:
        case "ngram":
            parameters = _count_ngram(folder, config)
        case "unbounded":  # its weights, and the n-gram it stands on; the index holds the text itself
            parameters = _count_ngram(folder, read_config(folder / "ngram"))
        case _:
            parameters = _count_weights(base, config)
    files = {_name(path): path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")}
    myna = _read_optional(folder / "myna.json")
    for key, kind in _MYNA.items():
        if myna.get(key) is not None and not isinstance(myna[key], kind):
            raise UserError(f"{key!r} in {folder / 'myna.json'} is damaged", "myna.json as Myna writes it", "restore the file")
    return Record(folder, config, parameters, files, myna, _read_optional(folder / "corpus" / "report.json"),
                  _read_optional(folder / "corpus" / "split.json"), _read_optional(folder / "tokens" / "report.json"), adapter)


def _name(path: Path) -> str:
    """A file's name as text that can always be written (bytes that are no UTF-8 are shown escaped)."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _count_weights(folder: Path, config: dict[str, Any]) -> int:
    """Count the numbers in the safetensors headers; what was stored twice counts once, buffers and computed tables not at all."""
    kind, stored = config["model_type"], open_weights(folder, lambda name: name.endswith(_BUFFERS))
    tables = [name for name in _TABLES if name in stored]  # of an encoder-decoder: the one table, under any of its names
    passed = set(tables[1:])
    if kind in MODEL_TYPES["encoder"]:
        passed = {name for name in stored if name.endswith(_TIED[0])
                  or (name.endswith(_TIED[1]) and name.replace("decoder.bias", "bias") in stored)}
    elif kind == "t5":  # whose head is its own unless it is a copy
        passed |= {"lm_head.weight", _UNREAD} if tables and (
            "lm_head.weight" in stored and stored["lm_head.weight"].same(stored[tables[0]])) else {_UNREAD}
    elif config.get("tie_word_embeddings", kind in ("gpt2", "marian", "bart")):
        passed.add("lm_head.weight")
    if kind == "marian":
        passed |= {name for name in stored if name.endswith("embed_positions.weight")}
    return sum(tensor.elements for name, tensor in stored.items() if name not in passed)


def _count_ngram(folder: Path, config: dict[str, Any]) -> int:
    """Count log-probabilities and back-off weights: one per n-gram, and one per n-gram below the longest."""
    ngrams = config.get("ngrams")
    if not isinstance(ngrams, list) or not ngrams or not all(isinstance(n, int) for n in ngrams) or len(ngrams) != config.get("order"):
        raise UserError(f"{folder / 'config.json'} has sizes that cannot be", "order and ngrams that agree", "restore the file")
    return sum(ngrams) + sum(ngrams[:-1])


def _read_optional(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not an object", "a file written by Myna", "restore the file")
    return value
