"""The rehearsal: two batches through train, save, reload, evaluate and generate before step 1, so that nothing fails late.

    rehearse(plan, tokenizer, read, Path("my-model/.rehearsal"), lambda model, tokenizer: model.step([[0]], model.start()))
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
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


def rehearse(plan: Plan, tokenizer: Tokenizer, read: Callable[[int], Batch], folder: Path,
             speak: Callable[[Any, Tokenizer], object]) -> None:
    """Run two steps of everything in `folder`, which is removed; raises UserError when the reloaded model gives other numbers.

    speak: what uses the opened model, handed in because generation stands on the same level as training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    model = new_model(plan.config(), plan.seed, plan.precision)
    try:
        train(model, read, Run(_BATCHES, plan.micro_rows), replace(plan.options(), validations=0), folder / "run", Hooks())
    except Interrupted:
        raise Interrupted("stopped in the rehearsal, before step 1; go on with --resume") from None
    model.eval()
    model.compute_dtype = torch.float32
    save_model(model, folder / "model", tokenizer.pad_id)
    tokenizer.save(folder / "model", plan.context)
    reloaded: Any = load_model(folder / "model")
    rows = {name: tensor[: plan.micro_rows] for name, tensor in read(0).items()}
    with torch.no_grad():
        before, after = ({name: float(total) for name, (total, _) in opened.loss(rows)[0].items()} for opened in (model, reloaded))
    if not all(math.isfinite(total) for total in before.values()) or before != after:
        raise UserError("rehearsal: the saved model does not give the trained model's numbers", "equal losses",
                        "this is a defect of Myna or of this PyTorch; please report it")
    speak(reloaded, Tokenizer.open(folder / "model"))
    shutil.rmtree(folder)
