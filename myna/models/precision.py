"""In what numbers an opened model computes: float32 as it comes, matrices in bfloat16, or a decoder in int8.

bfloat16 keeps matrices and tables in half the memory and multiplies in it, which pays where the processor has products in bfloat16;
gains, biases and log-probabilities stay float32. int8: see int8.py.

Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", section 3.

    model = set_precision(load_model(Path("my-model")), "bfloat16")
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from myna.errors import UserError, nearest
from myna.files import read_json, write_json
from myna.models.families import family_of

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: list[str] = list(get_args(Precision))
MEASURED = "precision.json"  # beside a model, by precision


def precisions_of(model_type: str) -> list[str]:
    """Name the precisions that models of a type have."""
    if (family := family_of(model_type)) == "decoder":
        return PRECISIONS
    neural = family in ("rnn", "lstm", "gru", "encoder", "encoder-decoder") and model_type != "attention_rnn"
    return PRECISIONS[:2] if neural else PRECISIONS[:1]


def set_precision(model: Any, precision: str) -> Any:
    """Return what computes as told: the float32 model itself, changed in place for bfloat16, or another in int8.

    Raises UserError when there is no such precision, or the model does not have it.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}{nearest(precision, PRECISIONS)}", "one of " + ", ".join(PRECISIONS))
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__.lower())
    if precision != "float32" and precision not in (known := precisions_of(model_type)):
        raise UserError(f"no {model_type} computes in {precision}", " or ".join(known), "leave out the precision")
    if precision == "int8":
        from myna.models.int8 import quantize_decoder

        return quantize_decoder(model)
    if precision == "bfloat16":
        import torch

        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()
        model.compute_dtype = torch.bfloat16
    return model


class Measured(NamedTuple):
    """How a precision scored on a text, and float32 on the same."""

    metric: str
    value: float
    float32: float
    files: list[str]

    def say(self, precision: str) -> str:
        """Write it as one line: "int8: 1.234 bits per byte (float32 1.230)"."""
        return f"{precision}: {self.value:.3f} {self.metric.replace('_', ' ')} (float32 {self.float32:.3f})"


def keep_measured(folder: Path, precision: str, measured: Measured) -> None:
    """Keep a precision's score in a model directory, where `myna show` finds it."""
    known = {name: one._asdict() for name, one in read_measured(folder).items()}
    write_json(folder / MEASURED, {**known, precision: measured._asdict()})


def read_measured(folder: Path) -> dict[str, Measured]:
    """Return what `keep_measured` kept; empty where nothing was. Raises UserError when the file is damaged."""
    path = folder / MEASURED
    found = read_json(path) if path.is_file() else {}
    try:
        measured = {str(name): Measured(**one) for name, one in found.items()}
        for one in measured.values():
            if not (isinstance(one.metric, str) and isinstance(one.files, list) and math.isfinite(one.value + one.float32)):
                raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path} is damaged", "what `myna evaluate --keep` wrote there", "remove it and measure again") from None
    return measured
