"""LoRA (Hu et al. 2021, section 4.1): train two small matrices beside some of a model's, and nothing else.

Applied from outside to a model that was loaded: its weights are frozen, no gradient of one is ever made, and nothing of a weight's
size is kept for the backward pass. `peft` reads what is saved and saves what is read (`myna.models.adapter`).

    add_lora(model, rank=16, alpha=32, targets=("q_proj", "v_proj"), seed=0)
    ...                                                     # train: AdamW, as the matrices start small and zero
    save_adapter(model, Path("my-adapter"), base_folder)
    merge_lora(model)                                       # the change as part of the weights
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from myna.errors import UserError
from myna.models.adapter import EVERY, choose_modules, find_base, find_modules, merge_lora, put_adapter, read_adapter, save_adapter
from myna.models.low_rank import LowRank

__all__ = ["add_lora", "load_adapter", "merge_lora", "save_adapter"]


def add_lora(model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...] = (EVERY,), seed: int = 0) -> None:
    """Freeze a decoder and put a change of `rank` beside the matrices named: W x + alpha / rank * B A x, A random, B zero.

    targets: ends of names in `transformers` ("q_proj"; GPT-2's "c_attn", "attn.c_proj"), or "all-linear". The frozen weights may be
    stored in bfloat16; A and B are float32, and alone need a gradient. Raises UserError on a name or rank that cannot be.
    """
    if any(layer.adapter is not None for layers in find_modules(model).values() for layer in layers):
        raise ValueError("the model has an adapter already")
    chosen = choose_modules(model, targets)
    least = min(min(layers[0].in_features, sum(layer.out_features for layer in layers)) for layers in chosen.values())
    if not 1 <= rank <= least:
        raise UserError(f"rank {rank}", f"a whole number from 1 to {least:,}, the smallest side of a matrix to adapt")
    if not alpha > 0:
        raise UserError(f"alpha {alpha:g}", "a number above 0")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layers in chosen.values():
        bound = layers[0].in_features ** -0.5  # Kaiming uniform with a = sqrt(5) (He et al. 2015), as peft draws A
        down = nn.Parameter(torch.empty(rank, layers[0].in_features).uniform_(-bound, bound, generator=generator))
        for layer in layers:
            layer.adapter = LowRank(down, torch.zeros(layer.out_features, rank), alpha / rank)


def load_adapter(model: nn.Module, folder: Path, base_folder: Path | None = None) -> None:
    """Freeze a model and put a saved change beside its matrices, to be trained further.

    base_folder: what the model was loaded from; left out, the base that the adapter names. Raises UserError when the adapter is
    damaged, of another base, or computes what Myna does not.
    """
    adapter = read_adapter(folder)
    model.requires_grad_(False)
    put_adapter(model, adapter, base_folder or find_base(adapter))
