"""The Transformer decoder: a stack of causal layers that gives the next token's distribution.

The shape and names are those of `transformers`' Qwen3 (RMSNorm, rotary positions, normalised queries and keys, grouped keys,
SwiGLU), so what is saved opens there. Output projections start at zero, so the model begins as its embedding and learns
faster (Zhang et al. 2019, Fixup; not measured apart here).

    model = Decoder(DecoderConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2), seed=0)
    state = model.start()
    model.step([[1, 2, 3]], state)      # (1, 512) natural log-probabilities of what follows

B rows · T tokens · C hidden_size · V vocabulary · S slots of the cache
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.cache import Cache
from myna.models.kernels import linear_cross_entropy, normalize
from myna.models.layers import Block, Linear, RMSNorm, rotary_table
from myna.models.protocol import Ids, LogProbs

_SCORED_AT_ONCE = 8192  # ids per forward pass when a document is scored: bounds memory, large enough for full speed


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder, in the words of Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    head_dim: int = 64
    max_position_embeddings: int = 256
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    eos_token_id: int = 0
    model_type: str = "qwen3"

    def __post_init__(self) -> None:
        heads = self.num_attention_heads or self.hidden_size // self.head_dim
        # 8/3 C gives three matrices the count of the usual two of 4 C (Shazeer 2020)
        derived = {"num_attention_heads": heads, "num_key_value_heads": self.num_key_value_heads or heads,
                   "intermediate_size": self.intermediate_size or 64 * max(1, round(self.hidden_size * 8 / 3 / 64))}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def count_parameters(self) -> int:
        """Count every weight, embeddings included."""
        C, D = self.hidden_size, self.head_dim
        attention = 2 * C * D * (self.num_attention_heads + self.num_key_value_heads) + 2 * D
        layer = attention + 3 * C * self.intermediate_size + 2 * C
        embeddings = self.vocab_size * C * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + C


class Decoder(nn.Module):
    """A language model (`LanguageModel`) that the training loop can train (`Trainable`)."""

    def __init__(self, config: DecoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.max_position_embeddings
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32
        shape = (config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(*shape, config.rms_norm_eps) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)
        cos, sin = rotary_table(config.max_position_embeddings, config.head_dim, config.rope_theta)
        self.cos, self.sin = nn.Buffer(cos, persistent=False), nn.Buffer(sin, persistent=False)
        self._initialize(seed)

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                nn.init.zeros_(parameter)
            elif name.endswith("proj.weight"):  # uniform with variance 1 / fan-in (LeCun et al. 1998)
                bound = (3 / parameter.shape[1]) ** 0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif name == "embed_tokens.weight":  # tied: the head wants small rows, or the first loss is far above ln V
                nn.init.normal_(parameter, std=0.02 if self.lm_head is None else 1.0, generator=generator)

    # ---- training ----

    def hidden(self, ids: Tensor) -> Tensor:
        """Run all layers over ids (B, T) from position 0; returns normalised hidden states (B, T, C), their gain still to come."""
        dtype = self.compute_dtype
        x = F.embedding(ids, self.embed_tokens.weight).to(dtype)  # (B, T, C)
        cos, sin = self.cos[: ids.shape[1], None], self.sin[: ids.shape[1], None]  # (T, 1, D)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return normalize(x, self.norm.eps)

    def head(self) -> Tensor:
        """Return the matrix that scores hidden states, (V, C), with the last norm's gain in it."""
        return (self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight) * self.norm.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id of the vocabulary: (..., C) to (..., V), float32."""
        return F.linear(hidden, self.head().to(hidden.dtype)).float()

    def loss(self, batch: Tensor, carry: Any = None) -> tuple[dict[str, tuple[Tensor, int, float]], Any]:
        """Next-token cross-entropy of a batch of windows (B, T + 1), summed, with its count."""
        hidden, targets = self.hidden(batch[:, :-1]), batch[:, 1:]
        total = linear_cross_entropy(hidden.flatten(0, 1), self.head(), targets.flatten())
        return {"next_token": (total, targets.numel(), 1.0)}, carry

    # ---- inference ----

    def start(self, rows: int = 1, source: None = None) -> Cache:
        """Return an empty key-value cache for `rows` rows."""
        config = self.config
        return Cache(config.num_hidden_layers, rows, config.num_key_value_heads, config.head_dim, self.compute_dtype)

    @torch.inference_mode()
    def step(self, ids: Ids, state: Cache, last: bool = True) -> LogProbs:
        """Append ids, rows of any lengths, and return natural log-probabilities: (B, V), or (B, T, V) with last=False."""
        counts = [len(row) for row in ids]
        if len(counts) != len(state.lengths) or min(counts) < 1:
            raise ValueError(f"step wants at least one id for each of {len(state.lengths)} rows, got {counts}")
        T, used = max(counts), max(length + count for length, count in zip(state.lengths, counts, strict=True))
        if self.max_length is not None and used > self.max_length:
            raise ValueError(f"{used} ids do not fit the context of {self.max_length}")
        padded = torch.zeros(len(counts), T, dtype=torch.int64)
        for row, values in enumerate(ids):
            padded[row, : counts[row]] = torch.as_tensor(np.asarray(values, dtype=np.int64))
        hidden = self._extend(padded, state, T)
        state.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
        if last:
            hidden = hidden[torch.arange(len(counts)), torch.tensor(counts) - 1]  # (B, C)
        log_probs = self.logits(hidden).log_softmax(-1)
        if not last:
            for row, count in enumerate(counts):
                log_probs[row, count:] = 0
        out: LogProbs = log_probs.numpy()
        return out

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
        x = F.embedding(ids, self.embed_tokens.weight).to(self.compute_dtype)
        at = positions.clamp(max=limit - 1)
        cos, sin = self.cos[at][:, :, None], self.sin[at][:, :, None]  # (B, T, 1, D)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Block)
            q, k, v = layer.self_attn.project(x, layer.input_layernorm, cos, sin)
            k, v = state.append(number, positions, k, v, used)
            x = x + layer.self_attn.mix(q, k, v, mask)
            x = x + layer.mlp(x, layer.post_attention_layernorm)
        return normalize(x, self.norm.eps)

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], source: None = None) -> LogProbs:
        """Score one document after the separator: (T,). Long ones slide by half a context, so each id sees at least that much."""
        length = len(ids)
        context = self.config.max_position_embeddings
        stride = max(1, context // 2)
        stream = torch.as_tensor(np.concatenate(([self.separator_id], np.asarray(ids, dtype=np.int64))))
        scores = np.empty(length, dtype=np.float32)
        starts = [0, *range(stride, length - context + stride, stride)] if length > context else [0]
        rows = max(1, _SCORED_AT_ONCE // context)
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
                logits = self.logits(hidden[row, new:width])
                nll = F.cross_entropy(logits, batch[row, new + 1 : width + 1], reduction="none")
                scores[start + new : start + width] = -nll.numpy()
        return scores


def new_decoder(config: DecoderConfig, seed: int, precision: str) -> Decoder:
    """Make a decoder to be trained from its first weights, computing in `precision` (a torch dtype's name)."""
    model = Decoder(config, seed)
    model.compute_dtype = getattr(torch, precision)
    # gains on normalised queries and keys cost up to 14 % of a step (docs/log.md; their effect on the loss is unmeasured): they stay 1
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.requires_grad_(False)
    return model
