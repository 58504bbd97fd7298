"""The Transformer decoder: a stack of causal layers that gives the next token's distribution.

One file for GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023), Mistral, Qwen2 and Qwen3: `STYLES` says in values what
each does differently. What is saved opens in `transformers`, whose names most parameters have. Output projections start at
zero, so the model begins as its embedding and learns faster (Zhang et al. 2019, Fixup; not measured apart here).

    model = Decoder(DecoderConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, model_type="llama"), seed=0)
    state = model.start()
    model.step([[1, 2, 3]], state)      # (1, 512) natural log-probabilities of what follows

B rows · T tokens · C hidden_size · V vocabulary · S slots of the cache
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.cache import Cache
from myna.models.kernels import IGNORED, linear_cross_entropy
from myna.models.layers import NORMS, Block, Linear, Rotation, Style, drop, rotary_table
from myna.models.protocol import Hidden, Ids, LogProbs
from myna.models.steps import check_step, pad_rows, score_step

_SCORED_AT_ONCE = 8192  # ids per forward pass when a document is scored: bounds memory, large enough for full speed
_LOGITS_AT_ONCE = 1 << 24  # float32 logits of a document held at once: 64 MB
_FIRST_TABLE = 1024  # positions whose rotations are made at once; more when they are needed, so a long context costs nothing unused

STYLES = {
    "qwen3": Style(query_key_norm=True),
    "qwen2": Style(query_key_value_bias=True),
    "llama": Style(),
    "mistral": Style(),
    "gpt2": Style("layer", "learned", "gelu_new", query_key_value_bias=True, output_bias=True, mlp_bias=True),
}


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder, in the words of Hugging Face's config.json; what is 0 is derived. Raises ValueError on what cannot be."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    head_dim: int = 64
    max_position_embeddings: int = 256
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    eos_token_id: int = 0
    model_type: str = "qwen3"
    dropout: float = 0.0
    "Share left out, in training only, of the embeddings and of what attention and MLP add."
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        heads = self.num_attention_heads or self.hidden_size // self.head_dim
        # a gate makes three matrices of two: at 8/3 C they have the count of the usual two of 4 C (Shazeer 2020)
        width = 64 * max(1, round(self.hidden_size * 8 / 3 / 64)) if STYLES[self.model_type].gated else 4 * self.hidden_size
        derived = {"num_attention_heads": heads, "num_key_value_heads": self.num_key_value_heads or heads,
                   "intermediate_size": self.intermediate_size or width}
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        groups = self.num_key_value_heads
        said = (f"hidden_size is {self.hidden_size}, num_attention_heads is {heads}, num_key_value_heads is {groups}, "
                f"head_dim is {self.head_dim}")
        if heads < 1 or heads % groups or (STYLES[self.model_type].positions == "rotary" and self.head_dim % 2):
            raise ValueError(said)
        if self.model_type == "gpt2" and (groups != heads or heads * self.head_dim != self.hidden_size):
            raise ValueError(f"{said}; the heads of a gpt2 fill its width, and each has its own keys")

    @property
    def style(self) -> Style:
        """What this decoder does differently from others, its biases included."""
        style = STYLES[self.model_type]
        return dataclasses.replace(style, query_key_value_bias=style.query_key_value_bias or self.attention_bias,
                                   output_bias=style.output_bias or self.attention_bias, mlp_bias=style.mlp_bias or self.mlp_bias)

    def count_parameters(self) -> int:
        """Count every weight, embeddings included."""
        C, D, style = self.hidden_size, self.head_dim, self.style
        heads, groups, inner = self.num_attention_heads, self.num_key_value_heads, self.intermediate_size
        norm = C * (2 if style.norm == "layer" else 1)
        attention = 2 * D if style.query_key_norm else 0
        attention += D * (heads + 2 * groups) * style.query_key_value_bias + C * style.output_bias
        mlp = (inner * (2 if style.gated else 1) + C) * style.mlp_bias
        embeddings = C * (self.vocab_size * (1 if self.tie_word_embeddings else 2))
        embeddings += C * self.max_position_embeddings if style.positions == "learned" else 0
        return self.num_hidden_layers * (self._layer_products() + attention + mlp + 2 * norm) + embeddings + norm

    def _layer_products(self) -> int:
        """Count the elements of a layer's matrices."""
        C, D, style = self.hidden_size, self.head_dim, self.style
        return 2 * C * D * (self.num_attention_heads + self.num_key_value_heads) + (3 if style.gated else 2) * C * self.intermediate_size

    def products_per_token(self) -> int:
        """Count the multiplications of a forward pass over one token in a full context, the head's included."""
        attention = 2 * self.num_attention_heads * self.head_dim * self.max_position_embeddings
        return self.num_hidden_layers * (self._layer_products() + attention) + self.vocab_size * self.hidden_size


class Decoder(nn.Module):
    """A language model (`LanguageModel`) that the training loop can train (`Trainable`)."""

    def __init__(self, config: DecoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.max_position_embeddings
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32
        style = config.style
        shape = (config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = style.positions == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(Block(*shape, style, config.norm_eps) for _ in range(config.num_hidden_layers))
        self.norm = NORMS[style.norm](config.hidden_size, config.norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)
        self._table = None if learned else self._turn(min(_FIRST_TABLE, config.max_position_embeddings))
        self._initialize(seed)

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        small = self.lm_head is None  # tied: the head wants small rows, or the first loss is far above ln V
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight", ".bias")):
                nn.init.zeros_(parameter)
            elif name.endswith("proj.weight"):  # uniform with variance 1 / fan-in (LeCun et al. 1998)
                bound = (3 / parameter.shape[1]) ** 0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif name.startswith("embed_"):
                nn.init.normal_(parameter, std=0.02 if small else 1.0, generator=generator)

    def table_names(self) -> set[str]:
        """Name the parameters that are looked up by id or score ids."""
        return {name for name, _ in self.named_parameters() if name.startswith(("embed_", "lm_head."))}

    # ---- training ----

    def hidden(self, ids: Tensor, dropout: float = 0.0, positions: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Run all layers over ids (B, T); returns normalised hidden states (B, T, C), their gain still to come.

        positions (B, T): those of the ids, 0 to T - 1 where left out. segments (B, T): neighbours of one number are a document, which
        sees itself alone.
        """
        given = torch.arange(ids.shape[1]) if positions is None else positions
        x, rotation = self._embed(ids, given, int(ids.shape[1] if positions is None else positions.max() + 1))
        x = drop(x, dropout)
        runs = None if segments is None else [torch.unique_consecutive(row, return_counts=True)[1].tolist() for row in segments]
        for layer in self.layers:
            x = layer(x, rotation, dropout, runs)
        out: Tensor = self.norm(x)
        return out

    def _embed(self, ids: Tensor, positions: Tensor, used: int) -> tuple[Tensor, Rotation | None]:
        """Look up ids (B, T) at positions (T,) or (B, T) below `used`: (B, T, C), and the rotation of their queries and keys."""
        x = F.embedding(ids, self.embed_tokens.weight)
        if self.embed_positions is not None:
            return (x + F.embedding(positions, self.embed_positions.weight)).to(self.compute_dtype), None
        if self._table is None or len(self._table[0]) < used:
            self._table = self._turn(min(self.config.max_position_embeddings, 2 * used))
        cos, sin = self._table
        return x.to(self.compute_dtype), (cos[positions].unsqueeze(-2), sin[positions].unsqueeze(-2))  # (..., T, 1, D)

    def _turn(self, length: int) -> Rotation:
        return rotary_table(length, self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Return what scores hidden states, with the last norm's gain in it: a matrix (V, C), and a bias (V,) or None."""
        return self.norm.fold(self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight, None)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id of the vocabulary: (..., C) to (..., V), float32, without gradients."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.norm.scale(hidden), weight.to(hidden.dtype)).float()

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the labels that are to be predicted."""
        return {"next_token": int((batch["labels"] != IGNORED).sum())}

    def loss(self, batch: Mapping[str, Tensor], carry: Any = None) -> tuple[dict[str, tuple[Tensor, float]], Any]:
        """Next-token cross-entropy of windows: input_ids and labels (B, T), aligned, -100 where nothing is to be predicted.

        Rows that hold several documents say so by position_ids and segment_ids (B, T); see `hidden`.
        """
        dropout = self.config.dropout if self.training else 0.0
        hidden = self.hidden(batch["input_ids"], dropout, batch.get("position_ids"), batch.get("segment_ids"))
        weight, bias = self.head()
        total = linear_cross_entropy(hidden.flatten(0, 1), weight, batch["labels"].flatten(), bias)
        return {"next_token": (total, 1.0)}, carry

    # ---- inference ----

    def start(self, rows: int = 1, source: None = None) -> Cache:
        """Return an empty key-value cache for `rows` rows."""
        config = self.config
        return Cache(config.num_hidden_layers, rows, config.num_key_value_heads, config.head_dim, self.compute_dtype)

    @torch.inference_mode()
    def step(self, ids: Ids, state: Cache, last: bool = True) -> LogProbs:
        """Append ids, rows of any lengths, and return natural log-probabilities: (B, V), or (B, T, V) with last=False."""
        hidden, counts = self._take(ids, state)
        return score_step(hidden, counts, last, self.logits)

    @torch.inference_mode()
    def step_hidden(self, ids: Ids, state: Cache) -> tuple[LogProbs, Hidden]:
        """Append ids as `step` does; returns log-probabilities (B, V) and the last layer's states, its gain in them, (B, T, C)."""
        hidden, counts = self._take(ids, state)
        return score_step(hidden, counts, True, self.logits), self.norm.scale(hidden).float().numpy()

    def _take(self, ids: Ids, state: Cache) -> tuple[Tensor, list[int]]:
        """Append ids to the state; returns hidden states (B, T, C), and how many ids each row took."""
        counts = check_step(ids, state.lengths, self.max_length)
        hidden = self._extend(pad_rows(ids)[0], state, max(counts))
        state.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
        return hidden, counts

    def _extend(self, ids: Tensor, state: Cache, T: int) -> Tensor:
        """Run the layers over new ids (B, T) with the cache's keys in view; returns hidden states (B, T, C)."""
        limit = self.config.max_position_embeddings
        before = torch.tensor(state.lengths)[:, None]  # (B, 1)
        positions = before + torch.arange(T)  # (B, T); padding may point past the end, where its slot is free
        used = int(positions.max()) + 1
        state.reserve(used)
        # a query at position p sees slots 0..p; a full, even prefill needs no mask because it is plainly causal
        plain = not any(state.lengths)
        mask = None if plain else (torch.arange(used) <= positions[..., None])[:, None]  # (B, 1, T, S)
        x, rotation = self._embed(ids, positions.clamp(max=limit - 1), min(used, limit))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Block)
            q, k, v = layer.self_attn.project(x, layer.input_layernorm, rotation)
            k, v = state.append(number, positions, k, v, used)
            x = x + layer.self_attn.mix(q, k, v, mask)
            x = x + layer.mlp(x, layer.post_attention_layernorm)
        out: Tensor = self.norm(x)
        return out

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], source: None = None) -> LogProbs:
        """Score one document after the separator: (T,). Long ones slide by half a context, so each id sees at least that much."""
        length = len(ids)
        context = self.config.max_position_embeddings
        stride = max(1, context // 2)
        stream = torch.as_tensor(np.concatenate(([self.separator_id], np.asarray(ids, dtype=np.int64))))
        scores = np.empty(length, dtype=np.float32)
        starts = [0, *range(stride, length - context + stride, stride)] if length > context else [0]
        rows, at_once = max(1, _SCORED_AT_ONCE // context), max(64, _LOGITS_AT_ONCE // self.vocab_size)
        for first in range(0, len(starts), rows):
            group = starts[first : first + rows]
            widths = [min(context, length - start) for start in group]
            batch = torch.zeros(len(group), max(widths) + 1, dtype=torch.int64)
            for row, (start, width) in enumerate(zip(group, widths, strict=True)):
                batch[row, : width + 1] = stream[start : start + width + 1]
            # the first window scores all its ids, the later ones only those the window before did not reach
            hidden = self.hidden(batch[:, :-1])
            for row, (start, width) in enumerate(zip(group, widths, strict=True)):
                new = 0 if start == 0 else context - stride
                for at in range(new, width, at_once):  # never all logits of a long window at once
                    end = min(width, at + at_once)
                    nll = F.cross_entropy(self.logits(hidden[row, at:end]), batch[row, at + 1 : end + 1], reduction="none")
                    scores[start + at : start + end] = -nll.numpy()
        return scores


def new_decoder(config: DecoderConfig, seed: int) -> Decoder:
    """Make a decoder to be trained from its first weights."""
    model = Decoder(config, seed)
    # gains on normalised queries and keys cost up to 14 % of a step (docs/log.md; their effect on the loss is unmeasured): they stay 1
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.requires_grad_(False)
    return model
