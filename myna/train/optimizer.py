"""Optimizers: which parameter is trained by which rule, and one step of them all.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers") for the matrices inside the layers, AdamW (Loshchilov &
Hutter 2019) for embeddings, head and norms. `torch.optim.Muon` orthogonalises one matrix at a time; here matrices of one
shape are stacked and orthogonalised together, which took about half the time for small models (docs/log.md). A test holds the
two equal.

    optimizers = make_optimizers(model, TrainOptions())
    step_optimizers(optimizers, factor=1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from myna.train.options import TrainOptions

# Quintic Newton-Schulz coefficients and number of iterations, from the reference cited above; torch.optim.Muon has the same.
_A, _B, _C = 3.4445, -4.775, 2.0315
_ITERATIONS = 5


class Muon(Optimizer):
    """SGD with Nesterov momentum whose update is replaced by the nearest (semi-)orthogonal matrix."""

    def __init__(self, params: Sequence[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonalize(torch.stack([self._direction(p, group["momentum"]) for p in parameters]))
                # a wide matrix's rows have norm 1 after this, a tall one's are scaled up to match (Jordan et al. 2024)
                scale = -group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=scale)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return, for each matrix (N, rows, columns), one with about the same singular vectors and all singular values near 1."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return (x.mT if tall else x).to(matrices.dtype)


def make_optimizers(model: nn.Module, options: TrainOptions) -> list[Optimizer]:
    """Group the model's trainable parameters and give each its rule; every group keeps its peak rate as `peak`.

    model: a `Trainable`, which says which of its matrices are tables.
    """
    names: set[str] = model.table_names()  # type: ignore[operator]
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and name not in names]
    tables = [p for name, p in named if p.ndim == 2 and name in names]
    vectors = [p for _, p in named if p.ndim != 2]
    rate, table_rate, decay = options.learning_rate, options.embedding_learning_rate, options.weight_decay
    if rate is None or table_rate is None or decay is None:
        raise ValueError("the rates are left to the family: settle the options first")
    betas = (options.beta1, options.beta2)
    optimizers: list[Optimizer]
    if options.optimizer == "muon":
        other = [{"params": tables + vectors, "lr": table_rate, "weight_decay": 0.0}]
        optimizers = [Muon(matrices, rate, options.momentum, decay)] if matrices else []
        optimizers.append(AdamW(other, betas=betas, eps=1e-10))
    else:
        groups: list[dict[str, Any]] = [{"params": matrices + tables, "weight_decay": decay},
                                        {"params": vectors, "weight_decay": 0.0}]
        match options.optimizer:
            case "adamw":
                optimizers = [AdamW(groups, lr=rate, betas=betas)]
            case "adam":
                optimizers = [Adam(groups, lr=rate, betas=betas)]
            case "sgd":
                optimizers = [SGD(groups, rate, options.momentum)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def step_optimizers(optimizers: list[Optimizer], factor: float) -> None:
    """Take one step at `factor` of the peak rates and clear the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
