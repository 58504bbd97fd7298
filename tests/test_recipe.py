"""The recipe: every option of the road in one value, to JSON and back, and what differs between two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.cli.build import add_arguments, read_road
from myna.cli.main import Parser
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.models.options import NgramOptions
from myna.recipe import BuildOptions, Recipe, differences
from myna.train.options import PlanOptions, TrainOptions


def read(*flags: str) -> Recipe:
    parser = Parser("myna build", "")
    add_arguments(parser)
    return read_road(parser.parse([*flags, "texts", "--out", "model"]))


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(BuildOptions(steps=7, seed=3, family="ngram"), ngram=NgramOptions(order=2), train=TrainOptions(learning_rate=0.1),
                    plan=PlanOptions(hidden_size=128))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json())), "x") == recipe
    assert differences(recipe, recipe) == []


def test_a_key_that_a_recipe_has_not_is_an_error_with_its_place() -> None:
    with pytest.raises(UserError, match=r"unknown option 'bogus' in plan\.json \[train\]"):
        Recipe.from_json({"train": {"bogus": 1}}, "plan.json")


def test_differences_name_section_option_and_both_values() -> None:
    old = Recipe(BuildOptions(seed=1))
    new = Recipe(BuildOptions(seed=2), evaluate=EvaluateOptions(resamples=10))
    assert differences(old, new) == ["build.seed was 1, now 2", "evaluate.resamples was 2000, now 10"]


def test_flat_options_are_the_flags() -> None:
    recipe = Recipe.from_flat({"train.learning_rate": "0.1", "ngram.max-order": 3}, BuildOptions(steps=5))
    assert recipe == Recipe(BuildOptions(steps=5), ngram=NgramOptions(max_order=3), train=TrainOptions(learning_rate=0.1))
    assert recipe == read("--train.learning-rate", "0.1", "--ngram.max_order=3", "--steps", "5")


@pytest.mark.parametrize("key", ["learning_rate", "trian.learning_rate", "train", "train.", "build.steps"])
def test_an_unknown_flat_option_is_an_error(key: str) -> None:
    with pytest.raises(UserError, match="unknown option"):
        Recipe.from_flat({key: 1}, BuildOptions())


@pytest.mark.parametrize(("wrong", "said"), [
    ({"minutes": 0.0}, "minutes is 0.0"), ({"minutes": float("inf")}, "minutes is inf"),
    ({"steps": 0}, "steps is 0; expected a whole number"), ({"seed": -1}, "seed is -1"), ({"threads": 0}, "threads is 0"),
])
def test_values_out_of_range_are_user_errors(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        BuildOptions(**wrong)  # type: ignore[arg-type]


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('steps = 9\nseed = 4\n[train]\noptimizer = "adamw"\nmomentum = 0.5\n[plan]\ncontext = 64\n', encoding="utf-8")
    recipe = read("--recipe", str(path), "--seed", "5", "--train.momentum", "0.9")
    assert recipe == Recipe(BuildOptions(steps=9, seed=5), plan=PlanOptions(context=64),
                            train=TrainOptions(optimizer="adamw", momentum=0.9))


def test_none_is_a_value_of_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("steps = 9\n", encoding="utf-8")
    assert read("--recipe", str(path), "--steps", "none").build.steps is None
