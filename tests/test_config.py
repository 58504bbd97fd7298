"""Options: help from the source, layers, conversions and the error for everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from myna.config import convert, make, options_of, read_recipe
from myna.errors import UserError, nearest
from myna.recipe import SECTIONS, BuildOptions


@dataclass(frozen=True)
class Sample:
    """A class with fields of several kinds."""

    order: int | None = None
    "Length of the longest n-gram."
    rate: float = 0.5
    """How fast,
    in units."""
    kind: Literal["fast", "slow"] = "fast"
    stop: tuple[str, ...] = ()
    "Strings."


def test_options_have_the_string_under_the_field_as_help() -> None:
    found = {option.name: (option.default, option.help) for option in options_of(Sample)}
    assert found == {"order": (None, "Length of the longest n-gram."), "rate": (0.5, "How fast, in units."), "kind": ("fast", ""),
                     "stop": ((), "Strings.")}


def test_every_option_of_every_stage_has_a_help() -> None:
    from myna.generate.options import SampleOptions

    for cls in (BuildOptions, SampleOptions, *SECTIONS.values()):
        assert [option.name for option in options_of(cls) if not option.help.endswith(".")] == [], cls


def test_later_layers_win() -> None:
    assert make(Sample, {"order": 3, "rate": 1}, {"order": "5"}) == Sample(order=5, rate=1.0)


def test_an_unknown_key_names_the_nearest_and_the_place() -> None:
    with pytest.raises(UserError, match=r"unknown option 'ordr' in r\.toml \[x\] \(did you mean order\?\); expected one of order, rate"):
        make(Sample, {"ordr": 3}, where="r.toml [x]")


@pytest.mark.parametrize(("value", "kind", "expected"), [
    ("3", int, 3), (3, int, 3), (3.0, int, 3), ("1e-3", float, 0.001), (2, float, 2.0), ("-5", int, -5), ("x", str, "x"),
    ("true", bool, True), ("No", bool, False), (False, bool, False), ("0", bool, False), ("a/b", Path, Path("a/b")),
    ("none", int | None, None), (None, int | None, None), ("None", str | None, None), ("7", int | None, 7),
    ("slow", Literal["fast", "slow"], "slow"), ("", tuple[str, ...], ()), ("none", tuple[str, ...] | None, None),
    ("a,b", tuple[str, ...], ("a", "b")), (["a,b"], tuple[str, ...], ("a,b",)),
    ("1,2", tuple[int, ...], (1, 2)),
])
def test_convert(value: Any, kind: Any, expected: Any) -> None:
    found = convert(value, kind, "x")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(("value", "kind"), [
    ("3.5", int), (3.5, int), (True, int), ("", int), (math.inf, int), (True, float), ("nan", float), ("fast", float), (3, str),
    ("maybe", bool), (2, bool), ("quick", Literal["fast", "slow"]), ("x", int | None), ("1,x", tuple[int, ...]),
    (5, Path), ([], int), ({}, float),
    (3, tuple[str, ...]),
])
def test_what_is_not_of_the_kind_is_a_user_error(value: Any, kind: Any) -> None:
    with pytest.raises(UserError, match=r"^x is "):
        convert(value, kind, "x")


def test_a_wrong_choice_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'adamx' \(did you mean adam\?\); expected one of muon, adamw, adam, sgd"):
        make(SECTIONS["train"], {"optimizer": "adamx"})


def test_nearest_offers_nothing_far_away() -> None:
    assert nearest("stepz", ["steps", "seed"]) == " (did you mean steps?)" and nearest("qqq", ["steps", "seed"]) == ""


def write(folder: Path, text: str | bytes) -> Path:
    (folder / "recipe.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / "recipe.toml"


def test_a_recipe_has_top_level_keys_and_a_table_for_each_stage(tmp_path: Path) -> None:
    path = write(tmp_path, 'minutes = 3\nfamily = "ngram"\n[train]\nlearning_rate = 0.01\n[ngram]\norder = 4\n')
    assert read_recipe(path, SECTIONS, BuildOptions) == {"": {"minutes": 3, "family": "ngram"}, "train": {"learning_rate": 0.01},
                                                         "ngram": {"order": 4}}


@pytest.mark.parametrize(("text", "said"), [
    ("minuts = 3", r"unknown key 'minuts' .*did you mean minutes\?"),
    ("[trian]\nx = 1", r"unknown key 'trian' .*did you mean train\?"),
    ("train = 3", r"unknown key 'train'"),
    ("[train]\nlearning-rat = 1", r"unknown option 'learning-rat' in .*\[train\] \(did you mean learning_rate\?\)"),
    ("[train]\nlearning_rate = 'fast'", r"learning_rate in .*\[train\] is 'fast'; expected a number"),
    ("minutes = 'long'", r"minutes in .* is 'long'"),
    ("minutes = ", "not valid TOML"),
    (b"\xff\xfe", "not valid TOML"),
])
def test_a_wrong_recipe_names_the_key_and_the_file(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_recipe(write(tmp_path, text), SECTIONS, BuildOptions)
    assert "recipe.toml" in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(UserError, match="cannot read the recipe"):
            read_recipe(path, SECTIONS, BuildOptions)
