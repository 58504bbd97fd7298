"""The bricks of a Transformer, written as single-device code; training, caching and export are applied from outside.

Sources: SwiGLU (Shazeer 2020), grouped-query attention (Ainslie et al. 2023), normalised queries and keys (Dehghani et al.
2023). Parameter names are those of `transformers`' Qwen3. A norm's gain is multiplied into the small matrix that reads the
norm rather than into the large activations: the same function, a pass over memory saved.

B rows · T tokens · C hidden_size · H attention heads · K key-value heads · D head_dim · S keys seen so far
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.kernels import attend, gated_silu, normalize, rotate


class Linear(nn.Linear):
    """A matrix without bias, kept in float32 and used in the dtype of what it is applied to."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """A normalisation whose gain is applied by the matrices that read it."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def project(self, x: Tensor, *layers: Linear) -> Tensor:
        """Normalise x and apply several matrices in one product; returns their outputs side by side."""
        weight = torch.cat([layer.weight for layer in layers]) * self.weight
        return F.linear(normalize(x, self.eps), weight.to(x.dtype))


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines of every position, (length, D) each, in float32 (see `kernels.rotate`)."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return angles.cos().repeat(1, 2), torch.cat((-angles.sin(), angles.sin()), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with grouped keys, normalised queries and keys, and rotary positions."""

    def __init__(self, hidden_size: int, heads: int, key_value_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads, self.key_value_heads, self.head_dim = heads, key_value_heads, head_dim
        self.q_proj = Linear(hidden_size, heads * head_dim)
        self.k_proj = Linear(hidden_size, key_value_heads * head_dim)
        self.v_proj = Linear(hidden_size, key_value_heads * head_dim)
        self.o_proj = Linear(heads * head_dim, hidden_size)
        self.q_norm = RMSNorm(head_dim, eps)
        self.k_norm = RMSNorm(head_dim, eps)

    def project(self, x: Tensor, norm: RMSNorm, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, D), keys and values (B, K, T, D); queries and keys are normalised and rotated.

        cos and sin (T, 1, D) or (B, T, 1, D), float32.
        """
        B, T, _ = x.shape
        H, K = self.heads, self.key_value_heads
        qkv = norm.project(x, self.q_proj, self.k_proj, self.v_proj).view(B, T, H + 2 * K, self.head_dim)
        qk, v = torch.split(qkv, [H + K, K], dim=2)
        # the gain of dimension i turns with it: half of it meets the cosine, its partner's the sine
        gain = torch.cat((self.q_norm.weight.expand(H, -1), self.k_norm.weight.expand(K, -1)))  # (H + K, D)
        partner = gain.roll(self.head_dim // 2, dims=-1)
        qk = rotate(normalize(qk, self.q_norm.eps), (cos * gain).to(x.dtype), (sin * partner).to(x.dtype))
        q, k = torch.split(qk, [H, K], dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and project back: q (B, H, T, D), k and v (B, K, S, D) to (B, T, C). A None mask means causal."""
        groups = self.heads // self.key_value_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        out: Tensor = self.o_proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor, norm: RMSNorm) -> Tensor:
        out: Tensor = self.down_proj(gated_silu(norm.project(x, self.gate_proj, self.up_proj)))
        return out


class Block(nn.Module):
    """One layer: attention, then the MLP, each on a normalised input and added to the stream."""

    def __init__(self, hidden_size: int, intermediate_size: int, heads: int, key_value_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.self_attn = Attention(hidden_size, heads, key_value_heads, head_dim, eps)
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)
        self.mlp = MLP(hidden_size, intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.self_attn.project(x, self.input_layernorm, cos, sin)
        x = x + self.self_attn.mix(q, k, v, mask=None)
        out: Tensor = x + self.mlp(x, self.post_attention_layernorm)
        return out
