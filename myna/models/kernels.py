"""The few operations that a small Transformer spends its time in on a CPU, with their gradients written by hand.

PyTorch's CPU build has no fused RMSNorm, rotation or linear-cross-entropy: autograd takes five to eight passes over memory
for each. These take two or three. Timings are in docs/log.md; tests hold each against plain autograd.

    normalize(torch.randn(2, 8), 1e-6)     # rows of root mean square 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_EXPLICIT_LENGTH = 512  # up to here explicit bfloat16 attention beat the fused one 1.8 to 5 times (docs/log.md, 2026-11-22)
Make = Callable[[], tuple[Tensor, Tensor | None]]  # gives a matrix (out, in) and a bias (out,)
IGNORED = -100  # the label where nothing is to be predicted: PyTorch's ignore_index and Hugging Face's word for it
_LOGITS_AT_ONCE = 1 << 21  # float32 logits held at a time in the loss: 8 MB, about the size of a cache


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (norm.square() / x.shape[-1] + eps).rsqrt().to(x.dtype)
        y: Tensor = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        projection = (grad * y).mean(-1, keepdim=True)
        grad_x: Tensor = torch.addcmul(grad, y, projection, value=-1).mul_(scale)
        return grad_x, None


def normalize(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square of the last dimension (Zhang & Sennrich 2019), without a gain."""
    out: Tensor = _Normalize.apply(x, eps)  # type: ignore[no-untyped-call]
    return out


def _swap_halves(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((x[..., half:], x[..., :half]), dim=-1)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(x if cos.requires_grad else None, cos, sin)
        return torch.addcmul(x * cos, _swap_halves(x), sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, cos, sin = ctx.saved_tensors
        grad_x = (grad * cos).add_(_swap_halves(grad * sin))
        if x is None:
            return grad_x, None, None
        return grad_x, (grad * x).sum_to_size(cos.shape), (grad * _swap_halves(x)).sum_to_size(sin.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle (Su et al. 2021); `sin` is negative in its first half.

    x (B, T, heads, D); cos and sin broadcast to it, and may carry a gain per dimension.
    """
    out: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = torch.chunk(x, 2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = torch.chunk(x, 2, dim=-1)
        both = torch.empty_like(x)  # the two halves' gradients side by side, as the product before wants them
        grad_gate, grad_up = torch.chunk(both, 2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=grad_gate)
        return both


def gated_silu(x: Tensor) -> Tensor:
    """SwiGLU's middle: silu of the first half of the last dimension times the second half (Shazeer 2020)."""
    out: Tensor = _GatedSilu.apply(x)  # type: ignore[no-untyped-call]
    return out


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, make: Make) -> Tensor:
        ctx.make = make
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad @ ctx.make()[0].to(grad.dtype), None, None, None


def multiply(x: Tensor, make: Make) -> Tensor:
    """Apply the matrix and bias that `make` makes of parameters, in x's dtype: (..., in) to (..., out).

    What is made of frozen parameters (joined, folded, rounded: of full size) is made again in the backward pass, rather than kept.
    """
    weight, bias = make()
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if frozen and x.requires_grad and torch.is_grad_enabled():
        out: Tensor = _Frozen.apply(x, weight, bias, make)  # type: ignore[no-untyped-call]
        return out
    return F.linear(x, weight, bias)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Mix values by scaled dot-product attention: q (B, H, T, D), k and v (B, H, S, D) to (B, H, T, D).

    `mask` (B, 1, T, S) is True where a query may look; None means causal with T = S.
    """
    B, H, T, D = q.shape
    if mask is not None or q.dtype != torch.bfloat16 or T > _EXPLICIT_LENGTH:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    hidden_future = torch.full((T, T), -math.inf, dtype=q.dtype).triu_(1)
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    weights = torch.baddbmm(hidden_future, q, k.transpose(1, 2), alpha=1 / math.sqrt(D)).softmax(-1)
    return torch.bmm(weights, v).view(B, H, T, D)


def attend_within(q: Tensor, k: Tensor, v: Tensor, runs: Sequence[Sequence[int]]) -> Tensor:
    """Mix values causally inside each run of a row: q, k and v (B, H, T, D) to (B, H, T, D); `runs` are their lengths, row by row.

    A product for each run took a third to all of the time that one over the whole row and a mask took (T = 512).
    """
    rows = []
    for *row, lengths in zip(torch.split(q, 1), torch.split(k, 1), torch.split(v, 1), runs, strict=True):
        parts = (torch.split_with_sizes(x, list(lengths), dim=2) for x in row)
        rows.append(torch.cat([attend(q, k, v, None) for q, k, v in zip(*parts, strict=True)], dim=2))
    return torch.cat(rows)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, enabled: bool) -> Tensor:
        cast = weight.to(hidden.dtype)
        cast_bias = None if bias is None else bias.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float64)
        # what is frozen gets no gradient made: for a head of 49,152 rows that is 40 to 60 % of the time and the largest matrix there is
        grad_hidden, grad_weight, grad_bias = (
            torch.zeros_like(x, dtype=dtype) if enabled and x is not None and x.requires_grad else None
            for x, dtype in ((hidden, None), (weight, torch.float32), (bias, torch.float32)))
        wanted = any(x is not None for x in (grad_hidden, grad_weight, grad_bias))
        rows = max(64, _LOGITS_AT_ONCE // len(weight))
        for at in range(0, len(hidden), rows):
            h, t = hidden[at : at + rows], targets[at : at + rows, None]
            log_probs = F.linear(h, cast, cast_bias).float().log_softmax(-1)
            total -= log_probs.gather(1, t).sum()
            if wanted:
                error = log_probs.exp_()  # d loss / d logits = softmax - one-hot
                error.scatter_add_(1, t, torch.full(t.shape, -1.0))
                if grad_bias is not None:
                    grad_bias += error.sum(0)
                error = error.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(error, cast, out=grad_hidden[at : at + rows])
                if grad_weight is not None:
                    grad_weight += error.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias = (None if x is None else x * grad.to(x.dtype) for x in ctx.saved_tensors)
        return hidden, weight, bias, None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum of -log softmax(hidden @ weight.T + bias)[targets] in nats, never holding all logits at once.

    hidden (N, C), weight (V, C), targets (N,), bias (V,); rows whose target is -100 are left out. The gradients are made in the
    forward pass while the logits are in the cache.
    """
    wanted_rows = targets != IGNORED
    if not bool(wanted_rows.all()):
        hidden, targets = hidden[wanted_rows], targets[wanted_rows]
    out: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return out
