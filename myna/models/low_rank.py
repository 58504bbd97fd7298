"""A change of low rank beside a matrix that stays as it is: W x + scale * up (down x), with `down` (r, in) and `up` (out, r).

LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, whose A is `down` and B is `up`). A decoder's
`Linear` has room for one, which `myna.train.lora` and `myna.models.adapter` put there from outside.

    linear.adapter = LowRank(torch.randn(16, 64), torch.zeros(96, 16), scale=2.0)
    linear(x)                                   # as before: `up` is zero
    merge(linear)                               # the sum as one matrix

B rows · T tokens · r rank
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from myna.models.layers import Linear, Norm


class LowRank(nn.Module):
    """The two matrices of a change, and what their product is multiplied by. Several changes may share one `down`."""

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.down = down if isinstance(down, nn.Parameter) else nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.scale = scale


def add_changes(out: Tensor, x: Tensor, layers: Sequence[Linear], norm: Norm | None = None) -> Tensor:
    """Add to `out`, the outputs of `layers` side by side (B, T, all outputs), what their adapters make of x (B, T, in).

    norm: what x was normalised by, where its gain is still to come: it goes into the small matrices.
    """
    if all(layer.adapter is None for layer in layers):
        return out
    downs: list[Tensor] = [layer.adapter.down for layer in layers if layer.adapter is not None]
    ups = [layer.weight.new_zeros(layer.out_features, 0, dtype=torch.float32) if layer.adapter is None else
           layer.adapter.up * layer.adapter.scale for layer in layers]
    down, bias = torch.cat(downs), None
    if norm is not None:
        down, bias = norm.fold(down, None)
    inner = F.linear(x, down.to(x.dtype), None if bias is None else bias.to(x.dtype))  # (B, T, all ranks)
    up = torch.block_diag(*ups).to(x.dtype)  # type: ignore[no-untyped-call]
    return torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), up.T).view_as(out)


@torch.no_grad()
def merge(layer: Linear) -> None:
    """Put a layer's change into its matrix, in float32 before it is rounded to how that is stored."""
    if layer.adapter is not None:
        change = layer.adapter.up.float() @ layer.adapter.down.float()
        layer.weight.copy_(torch.add(layer.weight.float(), change, alpha=layer.adapter.scale))
        layer.adapter = None
