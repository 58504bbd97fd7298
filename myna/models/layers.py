"""The bricks of a Transformer, written as single-device code; training, caching and export are applied from outside.

A style is made of values: which norm, whether positions turn queries and keys, which activation, biases or none. Sources:
SwiGLU (Shazeer 2020), grouped-query attention (Ainslie et al. 2023), normalised queries and keys (Dehghani et al. 2023),
LayerNorm (Ba et al. 2016), RMSNorm (Zhang & Sennrich 2019), GELU (Hendrycks & Gimpel 2016). A norm's gain (and bias) is
folded into the small matrix that reads the norm rather than applied to the large activations: the same function, a pass over
memory saved.

    block = Block(64, 128, heads=2, key_value_heads=1, head_dim=32, style=Style(), eps=1e-6)
    block(torch.randn(1, 5, 64), rotary_table(5, 32, 1e4))      # (1, 5, 64)

B rows · T tokens · C hidden_size · H attention heads · K key-value heads · D head_dim · S keys seen so far
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.kernels import attend, attend_within, gated_silu, multiply, normalize, rotate
from myna.models.low_rank import LowRank, add_changes

Rotation = tuple[Tensor, Tensor]  # cosines and signed sines, (T, 1, D) or (B, T, 1, D), float32
Runs = Sequence[Sequence[int]]  # the lengths of the documents that each row holds, one after another


@dataclass(frozen=True)
class Style:
    """What one kind of decoder does differently from another."""

    norm: Literal["rms", "layer"] = "rms"
    positions: Literal["rotary", "learned"] = "rotary"
    hidden_act: Literal["silu", "gelu_new"] = "silu"
    "silu gates: down(silu(gate(x)) * up(x)); gelu_new is down(gelu(up(x)))."
    query_key_norm: bool = False
    query_key_value_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return self.hidden_act == "silu"


class Linear(nn.Linear):
    """A matrix, used in the dtype of what it is applied to; `adapter` is a change that was put beside it from outside."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.adapter: LowRank | None = None

    def forward(self, x: Tensor) -> Tensor:
        return add_changes(multiply(x, lambda: (self.weight, self.bias)), x, [self])


class RMSNorm(nn.Module):
    """A normalisation by the root mean square; its gain is applied by the matrices that read it."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, self.eps)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the matrix and bias that read what `forward` gives, the gain in them."""
        return weight * self.weight, bias

    def scale(self, x: Tensor) -> Tensor:
        """Apply the gain to what `forward` gave."""
        return x * self.weight.to(x.dtype)


class LayerNorm(nn.Module):
    """A normalisation to mean 0 and variance 1; its gain and bias are applied by the matrices that read it."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], None, None, self.eps)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the matrix and bias that read what `forward` gives: W(gain x + b) + c = (W gain) x + (W b + c)."""
        moved = weight.to(self.bias.dtype) @ self.bias
        return weight * self.weight, moved if bias is None else moved + bias

    def scale(self, x: Tensor) -> Tensor:
        """Apply the gain and the bias to what `forward` gave."""
        return torch.addcmul(self.bias.to(x.dtype), x, self.weight.to(x.dtype))


Norm = RMSNorm | LayerNorm
NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}


def read_norm(x: Tensor, norm: Norm, *layers: Linear) -> Tensor:
    """Normalise x and apply several matrices in one product; returns their outputs side by side."""
    x = norm(x)
    if not torch.is_grad_enabled():  # one new id reads each matrix once: made anew with the gain in it, it would be moved four times
        scaled = norm.scale(x)
        return torch.cat([layer(scaled) for layer in layers], dim=-1)
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    out = multiply(x, lambda: norm.fold(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None))
    return add_changes(out, x, layers, norm)


def rotary_table(length: int, head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None) -> Rotation:
    """Return cosines and signed sines of every position, (length, D) each, in float32 (see `kernels.rotate`).

    scaling: how a longer context was reached, in the words of config.json's `rope_parameters`: rope_type "linear" slows every turn by
    `factor`; "llama3" only those that are slow already, with a smooth passage between (Llama 3.1; Grattafiori et al. 2024).
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is not None:
        slowed = frequencies / scaling["factor"]
        if scaling["rope_type"] == "linear":
            frequencies = slowed
        else:
            turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the context of the first training
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            share = ((turns - low) / (high - low)).clamp(0, 1)
            frequencies = (1 - share) * slowed + share * frequencies
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return angles.cos().repeat(1, 2), torch.cat((-angles.sin(), angles.sin()), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with grouped keys; queries and keys may be normalised, and turned by their positions."""

    def __init__(self, hidden_size: int, heads: int, key_value_heads: int, head_dim: int, style: Style, eps: float) -> None:
        super().__init__()
        self.heads, self.key_value_heads, self.head_dim = heads, key_value_heads, head_dim
        self.q_proj = Linear(hidden_size, heads * head_dim, style.query_key_value_bias)
        self.k_proj = Linear(hidden_size, key_value_heads * head_dim, style.query_key_value_bias)
        self.v_proj = Linear(hidden_size, key_value_heads * head_dim, style.query_key_value_bias)
        self.o_proj = Linear(heads * head_dim, hidden_size, style.output_bias)
        self.q_norm = RMSNorm(head_dim, eps) if style.query_key_norm else None
        self.k_norm = RMSNorm(head_dim, eps) if style.query_key_norm else None

    def project(self, x: Tensor, norm: Norm, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, D), keys and values (B, K, T, D)."""
        B, T, _ = x.shape
        H, K = self.heads, self.key_value_heads
        qkv = read_norm(x, norm, self.q_proj, self.k_proj, self.v_proj).view(B, T, H + 2 * K, self.head_dim)
        qk, v = torch.split(qkv, [H + K, K], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            qk = normalize(qk, self.q_norm.eps)
        if rotation is not None:
            qk = rotate(qk, *self._gain(rotation, x.dtype))
        q, k = torch.split(qk, [H, K], dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _gain(self, rotation: Rotation, dtype: torch.dtype) -> Rotation:
        """Fold the gains of the norms of queries and keys into the table that turns them."""
        cos, sin = rotation
        if self.q_norm is None or self.k_norm is None:
            return cos.to(dtype), sin.to(dtype)
        # the gain of dimension i turns with it: half of it meets the cosine, its partner's the sine
        gain = torch.cat((self.q_norm.weight.expand(self.heads, -1), self.k_norm.weight.expand(self.key_value_heads, -1)))  # (H + K, D)
        partner = gain.roll(self.head_dim // 2, dims=-1)
        return (cos * gain).to(dtype), (sin * partner).to(dtype)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, runs: Runs | None = None) -> Tensor:
        """Attend and project back: q (B, H, T, D), k and v (B, K, S, D) to (B, T, C). A None mask means causal, inside `runs` if given."""
        groups = self.heads // self.key_value_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = attend(q, k, v, mask) if runs is None else attend_within(q, k, v, runs)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two matrices with an activation between them, or three with a gate."""

    def __init__(self, hidden_size: int, intermediate_size: int, style: Style) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, style.mlp_bias) if style.gated else None
        self.up_proj = Linear(hidden_size, intermediate_size, style.mlp_bias)
        self.down_proj = Linear(intermediate_size, hidden_size, style.mlp_bias)

    def forward(self, x: Tensor, norm: Norm) -> Tensor:
        if self.gate_proj is None:
            inner = F.gelu(read_norm(x, norm, self.up_proj), approximate="tanh")
        else:
            inner = gated_silu(read_norm(x, norm, self.gate_proj, self.up_proj))
        out: Tensor = self.down_proj(inner)
        return out


class Block(nn.Module):
    """One layer: attention, then the MLP, each on a normalised input and added to the stream."""

    def __init__(self, hidden_size: int, intermediate_size: int, heads: int, key_value_heads: int, head_dim: int, style: Style,
                 eps: float) -> None:
        super().__init__()
        self.input_layernorm = NORMS[style.norm](hidden_size, eps)
        self.self_attn = Attention(hidden_size, heads, key_value_heads, head_dim, style, eps)
        self.post_attention_layernorm = NORMS[style.norm](hidden_size, eps)
        self.mlp = MLP(hidden_size, intermediate_size, style)

    def forward(self, x: Tensor, rotation: Rotation | None, dropout: float = 0.0, runs: Runs | None = None) -> Tensor:
        """x (B, T, C); `dropout` is the share of what each half adds that is left out; `runs`: documents that do not see each other."""
        q, k, v = self.self_attn.project(x, self.input_layernorm, rotation)
        x = x + drop(self.self_attn.mix(q, k, v, None, runs), dropout)
        return x + drop(self.mlp(x, self.post_attention_layernorm), dropout)


def drop(x: Tensor, share: float) -> Tensor:
    """Set a random share of x to 0 and scale the rest to keep its mean (Srivastava et al. 2014)."""
    return F.dropout(x, share) if share else x
