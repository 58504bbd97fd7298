"""The rehearsal: two batches through train, save, reload, evaluate and generate before step 1, so that nothing fails late.

    rehearse(plan, tokenizer, read, TrainOptions(), Path("my-model/.rehearsal"), lambda model, tokenizer: model.step([[0]], model.start()))
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from myna.errors import UserError
from myna.models.decoder import new_decoder
from myna.models.pretrained import load_model, save_decoder
from myna.models.protocol import LanguageModel
from myna.tokenizer.tokenizer import Tokenizer
from myna.train.loop import Hooks, Interrupted, Run, train
from myna.train.options import TrainOptions
from myna.train.plan import Plan

_BATCHES = 2


def rehearse(plan: Plan, tokenizer: Tokenizer, read: Callable[[int], Tensor], options: TrainOptions, folder: Path,
             speak: Callable[[LanguageModel, Tokenizer], object]) -> None:
    """Run two steps of everything in `folder`, which is removed; raises UserError when the reloaded model gives other numbers.

    speak: what generates from the opened model, handed in because generation stands on the same level as training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    model = new_decoder(plan.config(), plan.seed, plan.precision)
    try:
        train(model, read, Run(_BATCHES, plan.micro_rows), replace(options, validations=0), folder / "run", Hooks())
    except Interrupted:
        raise Interrupted("stopped in the rehearsal, before step 1; go on with --resume") from None
    save_decoder(model, folder / "model", tokenizer.pad_id)
    tokenizer.save(folder / "model", plan.context)
    reloaded = load_model(folder / "model")
    model.compute_dtype = torch.float32
    ids = [int(i) for i in read(0)[0, 1 : min(plan.context, 64)]]
    before, after = model.log_probs(ids), reloaded.log_probs(ids)
    if not (np.isfinite(before).all() and np.array_equal(before, after)):
        raise UserError("rehearsal: the saved model does not give the trained model's numbers", "equal log-probabilities",
                        "this is a defect of Myna or of this PyTorch; please report it")
    speak(reloaded, Tokenizer.open(folder / "model"))
    shutil.rmtree(folder)
