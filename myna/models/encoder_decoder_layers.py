"""The bricks of an encoder-decoder: attention over the same or another sequence, two kinds of norm, three ways to tell positions.

Sources: Vaswani et al. 2017 (attention, sinusoids), Raffel et al. 2020, section 2.1 (T5: a learned bias for each distance, no
centring, no scale), Shazeer 2020 (gated MLP). Written as single-device code; the parameters stay float32.

    Attention(config)(x, *Attention(config).keys_values(source), None)      # (B, T, C)

B rows · T ids of x · S keys · C hidden_size · H heads · D head_dim
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.kernels import normalize
from myna.models.source import drop

if TYPE_CHECKING:
    from myna.models.encoder_decoder import EncoderDecoderConfig, SourceState

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "gelu_new": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu, "swish": F.silu}
ACTIVATIONS = tuple(_ACTIVATIONS)
_BEFORE = ("t5", "whisper")  # normalise before each sublayer, and once more at the end; the others after each
BART_OFFSET = 2  # BART's first position is row 2 of its table (transformers' BartLearnedPositionalEmbedding)


class Linear(nn.Linear):
    """A matrix kept in float32 and used in the dtype of what it is applied to."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016), or with `centred` false T5's: divided by the root mean square, no bias."""

    def __init__(self, size: int, eps: float, centred: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if centred else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return normalize(x, self.eps) * self.weight.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Queries of one sequence look at keys of the same or of another."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        C, inner, bias = config.hidden_size, config.num_attention_heads * config.head_dim, config.model_type != "t5"
        self.heads, self.scale = config.num_attention_heads, query_scale(config)
        self.q_proj, self.v_proj = (Linear(C, inner, bias) for _ in range(2))
        self.k_proj = Linear(C, inner, bias and config.model_type != "whisper")  # a bias of keys cancels in the softmax
        self.o_proj = Linear(inner, C, bias)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H D) to (B, H, T, D)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of x (B, S, C), (B, H, S, D) each."""
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Mix values by softmax(q k + bias); `bias`, -inf where a query may not look, broadcasts to (B, H, T, S)."""
        scores = torch.matmul(self.split(self.q_proj(x)) * self.scale, keys.mT)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        out: Tensor = self.o_proj(torch.matmul(weights, values).transpose(1, 2).flatten(2))
        return out


def query_scale(config: EncoderDecoderConfig) -> float:
    """Return what queries are multiplied by: 1 / sqrt(D); for T5, whose files hold queries already scaled, the nearest power of two.

    T5 itself has no scale but queries so much smaller than keys; a step of Muon, which is of one size for every matrix, would then
    move the scores sqrt(D) times as far (240 steps on Shakespeare: the training loss after 180 was 4.09 without, 3.89 with the scale).
    """
    exact: float = config.head_dim**-0.5
    return 2.0 ** round(math.log2(exact)) if config.model_type == "t5" else exact


class MLP(nn.Module):
    """down(act(up(x))), or gated down(act(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        C, inner, bias = config.hidden_size, config.intermediate_size, config.model_type != "t5"
        self.gate_proj = Linear(C, inner, bias) if config.gated else None
        self.up_proj, self.down_proj = Linear(C, inner, bias), Linear(inner, C, bias)
        self.act = _ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.act(self.up_proj(x)) if self.gate_proj is None else self.act(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention to itself, attention to the source where `crossed`, MLP; each added to the stream, normalised before or after."""

    def __init__(self, config: EncoderDecoderConfig, crossed: bool) -> None:
        super().__init__()
        self.after, self.dropout = config.model_type not in _BEFORE, config.dropout
        self.self_attn, self.self_attn_norm = Attention(config), _norm(config)
        self.cross_attn = Attention(config) if crossed else None
        self.cross_attn_norm = _norm(config) if crossed else None
        self.mlp, self.mlp_norm = MLP(config), _norm(config)

    def forward(self, x: Tensor, bias: Tensor | None, remember: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
                source: tuple[Tensor, Tensor] | None = None, source_bias: Tensor | None = None) -> Tensor:
        """x (B, T, C). `remember` swaps new keys and values for all so far; `source` holds the source's keys and values."""
        def look_back(y: Tensor) -> Tensor:
            keys, values = self.self_attn.keys_values(y)
            out: Tensor = self.self_attn(y, *(remember(keys, values) if remember else (keys, values)), bias)
            return out

        x = self._add(x, look_back, self.self_attn_norm)
        if self.cross_attn is not None and source is not None:
            cross = self.cross_attn
            x = self._add(x, lambda y: cross(y, *source, source_bias), self.cross_attn_norm)
        return self._add(x, self.mlp, self.mlp_norm)

    def _add(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: nn.Module | None) -> Tensor:
        assert norm is not None
        new = drop(sublayer(x if self.after else norm(x)), self.dropout, self)
        out: Tensor = norm(x + new) if self.after else x + new
        return out


def _norm(config: EncoderDecoderConfig) -> Norm:
    return Norm(config.hidden_size, config.layer_norm_eps, centred=config.model_type != "t5")


class Stack(nn.Module):
    """The layers of one side, and what tells them positions."""

    def __init__(self, config: EncoderDecoderConfig, layers: int, crossed: bool) -> None:
        super().__init__()
        self.config, self.crossed = config, crossed
        self.layers = nn.ModuleList(Layer(config, crossed) for _ in range(layers))
        t5, bart, C = config.model_type == "t5", config.model_type == "bart", config.hidden_size
        whisper = config.max_position_embeddings if crossed else config.max_source_positions
        self.relative_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads) if t5 else None
        self.norm = _norm(config) if config.model_type in _BEFORE else None
        learned = {"bart": config.max_position_embeddings + BART_OFFSET, "whisper": whisper}.get(config.model_type, 0)
        self.positions = nn.Embedding(learned, C) if learned else None
        self.embedding_norm = _norm(config) if bart else None

    def enter(self, x: Tensor, at: Tensor, sinusoids: Tensor | None = None) -> Tensor:
        """Tell embeddings x (B, T, C) their positions `at`, (T,) or (B, T)."""
        if self.positions is not None:
            x = x + F.embedding(at if self.embedding_norm is None else at + BART_OFFSET, self.positions.weight).to(x.dtype)
            x = x if self.embedding_norm is None else self.embedding_norm(x)
        elif sinusoids is not None and self.relative_bias is None:
            x = x + sinusoids[at].to(x.dtype)
        return drop(x, self.config.dropout, self)

    def extend(self, x: Tensor, state: SourceState, sinusoids: Tensor | None = None) -> Tensor:
        """Run new ids' embeddings x (B, T, C) through the layers, the cache's keys and the source in view; the norm is not applied."""
        positions = torch.tensor(state.lengths)[:, None] + torch.arange(x.shape[1])  # (B, T); padding may point past the end
        used = int(positions.max()) + 1
        state.cache.reserve(used)
        distances = torch.arange(used) - positions[..., None]  # (B, T, S): a query at position p sees slots 0..p
        bias = torch.zeros(distances.shape).masked_fill_(distances > 0, -math.inf)[:, None]
        if self.relative_bias is not None:
            bias = bias + self.distance_bias(distances).permute(0, 3, 1, 2)
        x = self.enter(x, positions.clamp(max=self.config.max_position_embeddings - 1), sinusoids)
        for number, layer in enumerate(self.layers):
            def remember(k: Tensor, v: Tensor, number: int = number) -> tuple[Tensor, Tensor]:
                return state.cache.append(number, positions, k, v, used)

            x = layer(x, bias.to(x.dtype), remember, state.source[number], state.source_bias)
        return x

    def distance_bias(self, distances: Tensor) -> Tensor:
        """Return what T5 adds to the score of a key so far ahead of its query: (...) to (..., H)."""
        assert self.relative_bias is not None
        buckets, furthest = self.config.relative_attention_num_buckets, self.config.relative_attention_max_distance
        return F.embedding(distance_buckets(distances, not self.crossed, buckets, furthest), self.relative_bias.weight)

    def even_bias(self, length: int) -> Tensor | None:
        """Return the bias of `length` positions among each other, (H, T, T), where only the encoder's side may look ahead."""
        bias = None
        if self.relative_bias is not None:  # one row of all distances, shifted by one place for each query
            line = self.distance_bias(torch.arange(1 - length, length))  # (2 T - 1, H)
            bias = line.T.unfold(1, length, 1).flip(1)
        if self.crossed:
            future = torch.full((length, length), -math.inf).triu_(1)
            return future if bias is None else bias + future
        return bias


def distance_buckets(distances: Tensor, both_ways: bool, buckets: int, furthest: int) -> Tensor:
    """Sort distances (key - query) into T5's buckets: each small one its own, larger ones in steps of equal ratio up to `furthest`.

    With `both_ways` half of the buckets is for keys ahead; without, keys ahead share bucket 0 (they are masked anyway).
    """
    ahead = torch.zeros_like(distances)
    if both_ways:
        buckets //= 2
        ahead = (distances > 0).long() * buckets
        distances = distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    exact = buckets // 2
    ratio = (distances.clamp(min=1).float() / exact).log() / math.log(furthest / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return ahead + torch.where(distances < exact, distances, far)


def sinusoid_table(positions: int, width: int) -> Tensor:
    """Return Marian's table (positions, width): sines of falling frequency, then their cosines (Vaswani et al. 2017, section 3.5)."""
    angles = np.arange(positions)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    return torch.tensor(np.concatenate((np.sin(angles), np.cos(angles)), axis=1), dtype=torch.float32)
