"""In what numbers an opened model computes: float32 as it comes, matrices in bfloat16, or a decoder in int8.

bfloat16 keeps matrices and tables in half the memory and multiplies in it, which pays where the processor has products in bfloat16;
gains, biases and log-probabilities stay float32. int8: see int8.py.

Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", section 3.

    model = set_precision(load_model(Path("my-model")), "bfloat16")
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from myna.errors import UserError, nearest
from myna.models.families import family_of

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: list[str] = list(get_args(Precision))


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
