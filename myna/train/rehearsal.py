"""The rehearsal: two batches through train, save, reload, evaluate and generate before step 1, so that nothing fails late.

    rehearse(plan, tokenizer, read, Path("my-model/.rehearsal"), lambda model, tokenizer: model.step([[0]], model.start()))
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from myna.errors import UserError
from myna.models.create import new_model
from myna.models.pretrained import load_model, save_model
from myna.tokenizer.tokenizer import Tokenizer
from myna.train.loop import Batch, Hooks, Interrupted, Run, train
from myna.train.plan import Plan

_BATCHES = 2


@dataclass(frozen=True)
class Making:
    """How the model to be trained is made, written and opened again, where it is not a new one of the plan's shape."""

    make: Callable[[], Any]
    save: Callable[[Any, Path], None]
    open: Callable[[Path], Any]


def rehearse(plan: Plan, tokenizer: Tokenizer, read: Callable[[int], Batch], folder: Path,
             speak: Callable[[Any, Tokenizer], object], making: Making | None = None) -> None:
    """Run two steps of everything in `folder`, which is removed; raises UserError when the reloaded model gives other numbers.

    speak: what uses the opened model, handed in because generation stands on the same level as training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    making = making or _as_planned(plan, tokenizer)
    model = making.make()
    try:
        train(model, read, Run(_BATCHES, plan.micro_rows), replace(plan.options(), validations=0), folder / "run", Hooks())
    except Interrupted:
        raise Interrupted("stopped in the rehearsal, before step 1; go on with --resume") from None
    model.eval()
    making.save(model, folder / "model")
    reloaded = making.open(folder / "model")
    rows = {name: tensor[: plan.micro_rows] for name, tensor in read(0).items()}
    with torch.no_grad():
        before, after = ({name: float(total) for name, (total, _) in opened.loss(rows)[0].items()} for opened in (model, reloaded))
    if not all(math.isfinite(total) for total in before.values()) or before != after:
        raise UserError("rehearsal: the saved model does not give the trained model's numbers", "equal losses",
                        "this is a defect of Myna or of this PyTorch; please report it")
    speak(reloaded, Tokenizer.open(folder / "model"))
    shutil.rmtree(folder)


def _as_planned(plan: Plan, tokenizer: Tokenizer) -> Making:
    """A new model of the plan's shape, written whole."""
    def save(model: Any, folder: Path) -> None:
        model.compute_dtype = torch.float32
        save_model(model, folder, tokenizer.pad_id)
        tokenizer.save(folder, plan.context)

    return Making(lambda: new_model(plan.config(), plan.seed, plan.precision), save, load_model)
