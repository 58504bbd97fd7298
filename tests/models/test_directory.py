"""What every model directory shares: checked values, and weights through a table of names, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from myna.errors import UserError, shown
from myna.models.directory import Place, choice, fill_model, gather_tensors, number, separator, whole

HERE = Path("m/config.json")


@dataclass(frozen=True)
class Shape:
    """The size of a toy model."""

    size: int = 3

    def count_parameters(self) -> int:
        return 6 * self.size + 3 * self.size


class Toy(nn.Module):
    """Three matrices of a kind, and a vector."""

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(2, config.size)) for _ in range(3))
        self.gain = nn.Parameter(torch.randn(3 * config.size))


def places(config: Shape) -> dict[str, Place]:
    return {**{name: Place("qkv.weight", transpose=True, part=part, parts=3) for part, name in enumerate("qkv")}, "gain": Place("gain")}


def write(folder: Path, **changes: Any) -> Toy:
    toy = Toy(Shape())
    tensors = {**gather_tensors(toy, places(Shape())), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    return toy


def test_parts_side_by_side_and_turned_in_both_directions(tmp_path: Path) -> None:
    toy = write(tmp_path)
    stored = gather_tensors(toy, places(Shape()))
    assert stored.keys() == {"qkv.weight", "gain"} and stored["qkv.weight"].is_contiguous()
    assert torch.equal(stored["qkv.weight"], torch.cat((toy.q, toy.k, toy.v)).T)
    again = fill_model(Toy, Shape(), tmp_path, places)
    for name, parameter in toy.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())


def test_what_is_known_is_passed_over_and_other_spellings_are_read(tmp_path: Path) -> None:
    gain = torch.randn(9)
    write(tmp_path, gain=None, **{"old.gain": gain, "buffer.mask": torch.ones(5, dtype=torch.bool), "ids": torch.arange(4)})
    with pytest.raises(UserError, match=r"buffer\.mask"):
        fill_model(Toy, Shape(), tmp_path, places)
    read = fill_model(Toy, Shape(), tmp_path, places, lambda name: name in ("buffer.mask", "ids"), lambda name: name.removeprefix("old."))
    assert torch.equal(read.gain, gain)


@pytest.mark.parametrize(("changes", "words"), [
    ({"gain": None, "other": torch.ones(9)}, "lacks gain"), ({"more": torch.ones(2)}, "has 'more'"), ({"gain": None}, "18 weights"),
    ({"qkv.weight": torch.ones(6, 3)}, r"shape \[6, 3\]; expected \[3, 6\]"), ({"old.gain": torch.ones(9)}, "'gain' twice"),
    ({"gain": torch.ones(9, 1)}, r"shape \[9, 1\]"), ({"gain": torch.ones(9, dtype=torch.float64)}, "F64"),
], ids=lambda value: str(value)[:30])
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        fill_model(Toy, Shape(), tmp_path, places, spell=lambda name: name.removeprefix("old."))


def test_nothing_is_made_that_is_larger_than_the_file(tmp_path: Path) -> None:
    write(tmp_path)

    def refuse(config: Shape) -> Any:
        raise AssertionError("something was made")

    with pytest.raises(UserError, match="27 weights"):
        fill_model(refuse, Shape(1 << 24), tmp_path, refuse)


def test_values_of_a_config() -> None:
    config = {"n": 7, "x": 0.5, "flag": True, "none": None, "big": 10**400, "nan": float("nan"), "text": "silu", "one": 1}
    assert whole(HERE, config, "n") == 7 and whole(HERE, config, "absent", default=3) == 3
    assert number(HERE, config, "x") == 0.5 and number(HERE, config, "n") == 7.0 and number(HERE, config, "absent", default=0.1) == 0.1
    assert choice(HERE, config, "text", "gelu", "silu") == "silu" and choice(HERE, config, "absent", "gelu", "silu") == "gelu"
    assert choice(HERE, config, "flag", False, True) is True and choice(HERE, config, "none", 1, None) is None
    for name in ("x", "flag", "none", "big", "text", "absent"):
        with pytest.raises(UserError, match=f"^{name} in m/config.json"):
            whole(HERE, config, name)
    for low, high in ((8, 9), (1, 6)):
        with pytest.raises(UserError, match="whole number from"):
            whole(HERE, config, "n", low, high)
    for name in ("flag", "none", "big", "nan", "text", "absent"):
        with pytest.raises(UserError, match=f"^{name} in m/config.json"):
            number(HERE, config, name)
    for name, known in (("text", ("gelu",)), ("one", (True, False)), ("flag", (1, 0)), ("none", (False,))):
        with pytest.raises(UserError, match=f"^{name} in m/config.json"):
            choice(HERE, config, name, *known)


@pytest.mark.parametrize(("value", "expected"), [(5, 5), ([4, 2], 4), (0, 0), (9, None), (-1, None), ([], None), (None, None), (True, None),
                                                 ("3", None)])
def test_the_id_that_ends_a_document(value: Any, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match="eos_token_id"):
            separator(HERE, {"eos_token_id": value}, 9)
    else:
        assert separator(HERE, {"eos_token_id": value}, 9) == expected


def test_somebody_elses_value_is_shown_short_and_plain() -> None:
    assert shown("a\n\x1b[31m") == r"'a\n\x1b[31m'"
    assert len(shown("x" * 10**6)) == 63
