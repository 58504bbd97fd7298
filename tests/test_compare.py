"""A comparison: the same text for all, a table in order, tests that mean what they say, a page, and a way to go on."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import myna
from myna.cli.main import main
from myna.compare import check_families, write_toml
from myna.config import make
from myna.errors import UserError
from myna.evaluate.compare_page import write_compare_page
from myna.evaluate.comparison import Row, compare_rows, time_steps
from myna.evaluate.options import EvaluateOptions
from myna.metrics.language import Blocks
from myna.recipe import SECTIONS, BuildOptions, Recipe
from tests.conftest import tiny_flags, write_topics
from tests.generate.models import Table

OPTIONS = EvaluateOptions(resamples=500)


def row(family: str, bits: float, seed: int = 0, curve: int = 0) -> Row:
    rng = np.random.default_rng(seed)
    size = np.full(60, 2048.0)
    blocks = Blocks(size * bits + rng.normal(0, 40, 60), size, size, size / 3, 2048, "tokenizer")
    points = [{"seconds": 10.0 * n, "tokens": 1e5 * n, "bits_per_byte": bits + 1 / n} for n in range(1, curve + 1)]
    return Row(family, f"a {family}", blocks, 1000, 60.0, 600_000, 500.0, 1 << 28, "It was <b>a day</b>.\n从前", points, family)


def test_rows_are_ordered_and_each_is_tested_against_the_next() -> None:
    compared = compare_rows([row("slow", 2.4), row("best", 2.0, 1), row("same", 2.001, 2)], 2.0, OPTIONS)
    assert [one.family for one in compared.rows] == ["best", "same", "slow"]
    first, second, limits = compared.sentences()
    assert "best is not distinguishable from same" in first and "same is significantly better than slow" in second
    assert "2 minutes" in limits and "one seed" in limits
    value = compared.to_json()
    assert [test["significant"] for test in value["tests"]] == [False, True]
    assert value["tests"][1]["improvement_percent"]["value"] == pytest.approx(100 * (2.4 - 2.001) / 2.4, abs=0.3)
    assert value["rows"][0]["family"] == "best" and set(value["rows"][0]["bits_per_byte"]) == {"value", "low", "high", "signature"}
    assert value["rows"][0]["training_tokens_per_second"] == 10_000
    json.dumps(value)


def test_the_page_stands_alone_and_shows_all(tmp_path: Path) -> None:
    compared = compare_rows([row("lstm", 2.4, curve=4), row("ngram", 2.0, 1), row("x<script>", 2.2, 2, curve=3)], 2.0, OPTIONS)
    write_compare_page(tmp_path / "c.html", compared, [Path("my texts")])
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("<svg class=\"chart\"") == 2 and page.count("<polyline") == 4
    assert "<script" not in page and "&lt;b&gt;a day" in page and "从前" in page and "default-src 'none'" in page
    for said in ("lstm", "ngram", "my texts", "2 minutes", "over tokens read", *compared.sentences()):
        assert said.replace("<", "&lt;").replace(">", "&gt;") in page
    counted = compare_rows([row("ngram", 2.0), row("hmm", 2.2, 1)], 2.0, OPTIONS)
    write_compare_page(tmp_path / "d.html", counted, [])
    assert "How they learned" not in (tmp_path / "d.html").read_text(encoding="utf-8")


def test_the_speed_is_of_single_tokens() -> None:
    steps: list[int] = []

    class Counting(Table):
        def step(self, ids, state, last=True):  # type: ignore[no-untyped-def]
            steps.append(len(ids[0]))
            return super().step(ids, state, last)

    assert time_steps(Counting(30), list(range(1, 29)) * 4) > 0
    assert steps[0] > 10 and set(steps[1:]) == {1} and len(steps) > 50


@pytest.mark.parametrize(("families", "words"), [
    ("ngram", "two or more"), ("ngram,ngram", "each once"), ("ngram,encoder", "no probability to a text"),
    ("ngram,vectors", "no probability"),
    ("ngram,lsmt", "did you mean lstm"), ("ngram,mixture", "a mixture of ngram"), ("", "two or more"),
])
def test_families_that_cannot_be_compared_are_one_line(families: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_families([name for name in families.split(",") if name])


def test_a_recipe_survives_its_way_through_toml() -> None:
    recipe = Recipe(BuildOptions(minutes=2.5, seed=3), **{name: make(SECTIONS[name], values) for name, values in {
        "tokenizer": {"special_tokens": ["<|a|>", "<|b|>"], "vocab_size": 512}, "train": {"learning_rate": 0.1, "optimizer": "adamw"},
        "mixture": {"members": ""}}.items()})
    read = tomllib.loads(write_toml(recipe))
    top = {name: value for name, value in read.items() if not isinstance(value, dict)}
    again = Recipe(make(BuildOptions, top), **{name: make(kind, read.get(name, {})) for name, kind in SECTIONS.items()})
    assert again == recipe


def test_a_comparison_runs_stops_nowhere_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, out = write_topics(tmp_path / "texts", 24), tmp_path / "out"
    command = ["compare", str(texts), "--families", "ngram,lstm,mixture", "--steps", "4", "--threads", "1", "--out", str(out),
               *tiny_flags(), "--json"]
    assert main(command) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert {one["family"] for one in value["rows"]} == {"ngram", "lstm", "mixture"}
    scores = {one["family"]: one["bits_per_byte"]["value"] for one in value["rows"]}
    assert scores["mixture"] <= min(scores["ngram"], scores["lstm"]) * 1.001
    for one in value["rows"]:
        assert one["parameters"] > 0 and one["generation_tokens_per_second"] > 0 and one["sample"]
        found = myna.load(out / one["folder"]).evaluate(sorted(texts.iterdir())[0], resamples=200)
        assert found.metrics["bits_per_byte"].value > 0
    assert (out / "compare.html").is_file()
    stamp = (out / "lstm" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 2 and "already holds a comparison" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert (out / "lstm" / "model.safetensors").stat().st_mtime_ns == stamp
    assert {one["family"]: one["bits_per_byte"]["value"] for one in json.loads(capsys.readouterr().out)["rows"]} == scores


