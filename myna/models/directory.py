"""What every family of model directory shares: checked values of config.json, and weights by a literal table of names.

A family writes two things: how its config is read, and a table from its own parameter names to their places in the file. The
same table serves both directions. Sizes are compared with the file before a model of them is made, so a small file cannot
ask for much memory; a value that would change what is computed is refused, never passed over.

    Place("transformer.h.0.attn.c_attn.weight", transpose=True, part=1, parts=3)     # the keys' third of GPT-2's matrix
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from myna.errors import UserError, shown
from myna.formats.weights import StoredTensor, open_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST = 1 << 24  # of any one size: far above every published model, far below what would overflow


@dataclass(frozen=True)
class Place:
    """Where a parameter lies in a file: a tensor's name, and how it is written there."""

    name: str
    transpose: bool = False
    "Written (in, out), as GPT-2 writes its matrices."
    part: int = 0
    parts: int = 1
    "One of several of equal size that are written as one, side by side along the outputs."
    scale: float = 1.0
    "Written times this: a power of two, so that no bit is lost."


class Shape(Protocol):
    """A family's config: all that is asked of it is its exact size."""

    def count_parameters(self) -> int:
        """Count every weight."""


Model = TypeVar("Model", bound="nn.Module")
Config = TypeVar("Config", bound=Shape)


# ---- values of config.json ----

def whole(path: Path, config: Mapping[str, Any], name: str, low: int = 1, high: int = LARGEST, default: int | None = None) -> int:
    """Return a whole number of config.json, `default` where it says nothing; raises UserError outside of low..high."""
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} in {path} is {shown(value)}", f"a whole number from {low:,} to {high:,}", "restore the file")
    return value


def number(path: Path, config: Mapping[str, Any], name: str, low: float = 1e-12, high: float = 1e12,
           default: float | None = None) -> float:
    """Return a number of config.json, `default` where it says nothing; raises UserError outside of low..high."""
    value = config.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} in {path} is {shown(value)}", f"a number from {low:g} to {high:g}", "restore the file")
    return float(value)


def choice(path: Path, config: Mapping[str, Any], name: str, *known: Any) -> Any:
    """Return a value of config.json that is one of `known`, the first of them where it says nothing; raises UserError on another."""
    value = config.get(name, known[0])
    for one in known:
        if value == one and isinstance(value, bool) == isinstance(one, bool):
            return one
    expected = f"{known[0]!r}, the only value Myna computes here" if len(known) == 1 else "one of " + ", ".join(map(repr, known))
    raise UserError(f"{name} in {path} is {shown(value)}", expected)


def separator(path: Path, config: Mapping[str, Any], vocab_size: int) -> int:
    """Return the id that ends a document: `eos_token_id`, the first where there are several."""
    value = config.get("eos_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab_size:
        raise UserError(f"eos_token_id in {path} is {shown(value)}", "an id of the vocabulary, which separates documents")
    return value


# ---- weights ----

def fill_model(make: Callable[[Config], Model], config: Config, folder: Path, places: Callable[[Config], dict[str, Place]],
               ignored: Callable[[str], bool] = lambda name: False, spell: Callable[[str], str] = lambda name: name) -> Model:
    """Make the model of a config and read its weights, exactly, into float32; returns it ready to use, without gradients.

    make: the module's class. places: its table of names. ignored: stored tensors that are known and passed over (buffers, a tied
    head stored twice). spell: from a name in the file to the table's name. Raises UserError when a tensor is missing, unknown or
    of another shape.
    """
    import torch

    from myna.models.unfilled import Unfilled

    stored: dict[str, StoredTensor] = {}
    for name, tensor in open_weights(folder, ignored).items():
        if stored.setdefault(spell(name), tensor) is not tensor:
            raise UserError(f"{folder} holds {shown(spell(name))} twice", "each weight once", "restore the directory")
    held = sum(tensor.elements for tensor in stored.values())
    if config.count_parameters() > held:  # so that what is allocated next is no more than the file gives
        raise UserError(f"{folder} holds {held:,} weights", f"{config.count_parameters():,}, as its config.json says",
                        "restore the directory")
    table = places(config)
    wanted = {place.name for place in table.values()}
    if wanted != stored.keys():
        missing, extra = sorted(wanted - stored.keys()), sorted(stored.keys() - wanted)
        said = f"lacks {missing[0]}" if missing else f"has {shown(extra[0])}, which its config.json does not speak of"
        raise UserError(f"{folder} {said}", "the weights of its config.json", "restore the directory")
    with Unfilled():
        model = make(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            place = table[name]
            shape = _stored_shape(tuple(parameter.shape), place)
            if stored[place.name].shape != shape:
                raise UserError(f"{place.name} in {folder} has shape {shown(list(stored[place.name].shape))}",
                                f"{list(shape)}, as config.json says")
            values = torch.from_numpy(stored[place.name].map())  # read as it is copied: nothing is held beside file and model
            values = values.view(torch.bfloat16) if stored[place.name].dtype == "BF16" else values
            parameter.copy_((values.T if place.transpose else values).chunk(place.parts)[place.part])
            if place.scale != 1:
                parameter.div_(place.scale)
    return model.requires_grad_(False).eval()


def _stored_shape(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    together = (shape[0] * place.parts, *shape[1:]) if shape else ()
    return together[::-1] if place.transpose else together


def gather_tensors(model: nn.Module, places: Mapping[str, Place]) -> dict[str, Tensor]:
    """Return a model's parameters as they are written, by the names of the file."""
    import torch

    parts: dict[str, dict[int, Tensor]] = {}
    turned = {place.name for place in places.values() if place.transpose}
    for name, parameter in model.named_parameters():
        place = places[name]
        parts.setdefault(place.name, {})[place.part] = parameter.detach() if place.scale == 1 else parameter.detach() * place.scale
    found = {}
    for name, pieces in parts.items():
        tensor = torch.cat([pieces[part] for part in sorted(pieces)]) if len(pieces) > 1 else pieces[0]
        found[name] = (tensor.T if name in turned else tensor).contiguous()
    return found
