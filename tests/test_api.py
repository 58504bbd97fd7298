"""`import myna`: what a person's own program sees."""

from __future__ import annotations

import json
import shutil
import typing
from pathlib import Path

import numpy as np
import pytest

import myna
from myna.api import Measuring, Sampling
from myna.config import options_of
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.generate.options import SampleOptions
from tests.conftest import TINY, Built


@pytest.fixture(scope="module")
def model(built: Built) -> myna.api.Model:
    return myna.load(built.folder)


def test_generate_gives_text_tokens_and_log_probabilities(model) -> None:
    out = model.generate("The value", max_tokens=12, temperature=0.8, top_p=0.95, stop=["\n\n"], seed=1)
    assert str(out) == out.text and len(out.tokens) == len(out.log_probs) <= 12
    assert model.generate("The value", max_tokens=12, stop="\n\n", seed=1).text == out.text
    assert model.generate("The value", max_tokens=12, seed=2).tokens != out.tokens
    assert out.finish_reason in ("stop", "length")


def test_log_probabilities_of_what_was_drawn_are_those_of_the_text(model) -> None:
    out = model.generate("", max_tokens=10, seed=3)
    assert np.allclose(model.log_probs(out.tokens), out.log_probs, atol=1e-4)


def test_n_gives_a_list_whose_first_is_the_one_alone(model) -> None:
    one = model.generate("a", max_tokens=6, seed=5)
    three = model.generate("a", max_tokens=6, seed=5, n=3)
    assert [type(item) for item in three] == [type(one)] * 3 and three[0].tokens == one.tokens
    assert isinstance(model.generate("a", max_tokens=2, n=1), list)


def test_a_stop_string_may_be_a_comma(model) -> None:
    assert "," not in model.generate("", max_tokens=60, temperature=1.5, seed=1, stop=",").text


def test_stream_gives_the_same_text_in_pieces(model) -> None:
    stream = model.stream("The", max_tokens=15, seed=7)
    pieces = list(stream)
    assert {row for row, _ in pieces} == {0}
    assert "".join(piece for _, piece in pieces) == stream.generations[0].text == model.generate("The", max_tokens=15, seed=7).text


def test_tokenizer_and_language_model_are_the_directory_s(model) -> None:
    ids = model.tokenizer.encode("The statement 你好")
    assert model.tokenizer.decode(ids) == "The statement 你好"
    assert model.log_probs(ids).shape == (len(ids),) and (model.log_probs(ids) <= 0).all()
    assert model.language_model.vocab_size == model.tokenizer.vocab_size


def test_evaluate_measures_beside_the_baseline(model, built: Built) -> None:
    files = sorted(built.texts.iterdir())[:3]
    report = model.evaluate(files, resamples=200)
    assert report.baseline.startswith("3-gram") and report.metrics.keys() == report.baseline_metrics.keys()
    assert model.evaluate(str(files[0]), resamples=200).metrics["bits_per_byte"].value > 0


def test_an_ngram_does_all_of_it_too(built: Built) -> None:
    model = myna.load(str(built.ngram))
    assert model.generate("The", max_tokens=5, seed=1).tokens
    assert model.evaluate(sorted(built.texts.iterdir())[0], resamples=200).baseline.startswith("1-gram")


def test_build_returns_the_scores_and_can_be_called_again(built: Built, tmp_path: Path) -> None:
    for name in ("one", "two"):  # a submodule named build would replace the function after the first call
        report = myna.build(built.texts, 3, tmp_path / name, family="ngram", options=TINY)
    assert report.to_json().keys() >= {"bits_per_byte", "baseline"}
    assert (tmp_path / "two" / "myna.json").is_file()


def test_wrong_use_is_a_user_error(model, built: Built, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"train\.learing_rate.*did you mean train\.learning_rate"):
        myna.build(built.texts, out=out, options={"train.learing_rate": 1})
    for wrong in ({"minutes": 0}, {"minutes": float("nan")}, {"steps": 0}, {"seed": -1}, {"threads": 0}, {"family": "rnm"}, {"steps": "x"},
                  {"options": {"ngram.order": "many"}}, {"options": {"order": 3}}):
        with pytest.raises(UserError):
            myna.build(built.texts, **{"out": out, **wrong})
    assert not out.exists()
    with pytest.raises(UserError, match=r"temprature.*did you mean temperature"):
        model.generate("x", temprature=1)
    for call in (lambda: model.generate(n=0), lambda: model.generate(top_p=7), lambda: model.log_probs([model.tokenizer.vocab_size]),
                 lambda: model.log_probs([-1]), lambda: model.evaluate("absent.txt"), lambda: model.evaluate([], resamples=200),
                 lambda: model.evaluate(built.texts, resample=3), lambda: myna.load("absent"), lambda: myna.load(built.texts)):
        with pytest.raises(UserError):
            call()


def test_the_typed_options_are_the_options() -> None:
    """`Sampling` and `Measuring` exist for type checkers and editors; they must not fall behind."""
    assert set(typing.get_type_hints(Sampling)) | {"n"} == {option.name for option in options_of(SampleOptions)}
    assert set(typing.get_type_hints(Measuring)) == {option.name for option in options_of(EvaluateOptions)}


def test_the_package_shows_what_it_says() -> None:
    assert set(myna.__all__) == {"__version__", "build", "load", "tune"}
    with pytest.raises(AttributeError, match="no attribute 'embed'"):
        _ = myna.embed


def test_a_document_begins_after_the_tokenizers_separator_whatever_ends_a_turn(built: Built, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    left = shutil.ignore_patterns("corpus", "tokens", "ngram", "mixture.json", "myna.json", "plan.json")
    shutil.copytree(built.folder, folder, ignore=left)
    tokenizer = myna.load(built.folder).tokenizer
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": tokenizer.special_id("<|im_end|>")}))
    model, text = myna.load(folder), tokenizer.encode("The class statement")
    assert model.language_model.separator_id == tokenizer.separator_id == tokenizer.beginning_id()
    assert (model.log_probs(text) == myna.load(built.folder, member="decoder").log_probs(text)).all()
