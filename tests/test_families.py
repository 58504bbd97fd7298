"""Every family goes the whole road: built from text, opened again, used by the same commands, described by the same pages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.metrics.report import Report
from myna.models.families import CAUSAL, COUNTED, MODEL_TYPES, OPENED, family_of
from myna.models.mixture import Mixture
from myna.models.pretrained import load_model
from tests.conftest import TINY, write_topics

STEPS = 6
OPTIONS = {name: value for name, value in TINY.items() if name != "plan.num_hidden_layers"} | {"hmm.states": 8, "vectors.epochs": 1,
                                                                                               "vectors.hidden_size": 16}
KINDS = [(family, model_type) for family, types in MODEL_TYPES.items() for model_type in types if model_type not in OPENED]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("families") / "texts", 30)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[1])
def made(request: pytest.FixtureRequest, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path, Report]:
    family, model_type = request.param
    out = tmp_path_factory.mktemp(model_type) / "model"
    options = dict(OPTIONS)
    if family in COUNTED:
        options = {name: value for name, value in options.items() if not name.startswith("plan.")}
    else:
        options |= {"plan.model_type": model_type, "plan.num_hidden_layers": 1}
    report = myna.build(texts, out=out, steps=STEPS, threads=1, family=family, options=options)
    return family, model_type, out, report


def test_it_is_measured_beside_a_baseline(made: tuple[str, str, Path, Report]) -> None:
    _, _, out, report = made
    assert report.baseline and report.metrics and report.improvements
    assert all(score.low <= score.value <= score.high for score in report.metrics.values())
    assert json.loads((out / "myna.json").read_text(encoding="utf-8"))["report"] == report.to_json()


def test_the_directory_opens_as_what_it_is(made: tuple[str, str, Path, Report]) -> None:
    family, model_type, out, _ = made
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == model_type and family_of(model_type) == family
    model = load_model(out)
    assert hasattr(model, "step") == (family in CAUSAL)
    assert model.vocab_size == config["vocab_size"] or family == "vectors"


def test_the_same_commands_work_on_all(made: tuple[str, str, Path, Report], texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family, _, out, report = made
    assert main(["show", str(out)]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and next(iter(report.metrics)).replace("_", " ") in said
    a_file = str(sorted(texts.iterdir())[0])
    if family in CAUSAL:
        for more in (["--seed", "1"], ["--num-beams", "2"]):
            assert main(["generate", str(out), "The ", "--max-tokens", "6", *more, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["tokens"] > 0
        assert main(["evaluate", str(out), a_file, "--resamples", "200", "--json"]) == 0
        assert "bits_per_byte" in json.loads(capsys.readouterr().out)
    else:
        assert main(["generate", str(out), "The "]) == 2
        assert "does not predict a next token" in capsys.readouterr().err
    if family == "encoder":
        assert main(["fill", str(out), "The ___ of a class", "--json"]) == 0
        assert main(["evaluate", str(out), a_file, "--resamples", "200", "--json"]) == 0
        assert "pseudo_perplexity" in capsys.readouterr().out
    if family == "vectors":
        assert main(["similar", str(out), "the", "--json"]) == 0


def test_its_pages_describe_it(made: tuple[str, str, Path, Report]) -> None:
    family, model_type, out, _ = made
    card, page = ((out / name).read_text(encoding="utf-8") for name in ("README.md", "report.html"))
    known = model_type in ("qwen3", "llama", "gpt2", "mistral", "qwen2", "bert", "roberta", "albert", "t5", "marian", "bart")
    assert ("cannot load it" in card) != known and model_type in page
    assert ("myna generate" in card) == (family in CAUSAL)


def test_what_was_trained_is_mixed_with_the_ngram_when_that_is_better(made: tuple[str, str, Path, Report],
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    family, _, out, report = made
    if family in COUNTED or family == "encoder":
        assert not (out / "mixture.json").exists()
        return
    model = myna.load(out)  # after a few steps no network is as good as counting
    assert isinstance(model.language_model, Mixture) and model.language_model.names == [family, "ngram"]
    alone = Report.from_json(json.loads((out / "myna.json").read_text(encoding="utf-8"))["alone"])
    assert alone.metrics["bits_per_byte"].value > report.metrics["bits_per_byte"].value
    said = f"the {family} alone has {alone.metrics['bits_per_byte'].value:.3f} bits per byte"
    assert said in (out / "report.html").read_text(encoding="utf-8")
    assert main(["show", str(out)]) == 0 and said in " ".join(capsys.readouterr().out.split())
    single = myna.load(out, member=family)
    ids = model.tokenizer.encode("The statement is")
    ngram = myna.load(out, member="ngram").log_probs(ids)
    weights = model.language_model.weights
    expected = np.logaddexp(single.log_probs(ids) + np.log(weights[0]), ngram + np.log(weights[1]))
    np.testing.assert_allclose(model.log_probs(ids), expected, atol=1e-5)


def test_a_network_can_begin_with_word_vectors(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"tokenizer.kind": "words", "tokenizer.vocab_size": 1024, "ngram.order": 2, "evaluate.resamples": 200}
    myna.build(texts, out=tmp_path / "v", family="vectors", threads=1,
               options=words | {"vectors.hidden_size": 16, "vectors.epochs": 1, "vectors.min_count": 2})
    options = words | {"plan.hidden_size": 64, "plan.num_hidden_layers": 1, "plan.context": 32, "plan.batch_tokens": 512,
                       "train.validations": 1, "mixture.members": ""}
    losses = {}
    for name, more in (("with", {"plan.vectors": str(tmp_path / "v")}), ("without", {})):
        myna.build(texts, out=tmp_path / name, steps=2, threads=1, family="gru", options=options | more)
        losses[name] = [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines() if '"step",' in line]
    said = capsys.readouterr().err
    found = re.search(r"([\d,]+) of ([\d,]+) rows of the embedding table begin with the vectors of", said)
    assert found is not None and 100 < int(found[1].replace(",", "")) < int(found[2].replace(",", ""))
    assert losses["with"] != losses["without"]
    with pytest.raises(UserError, match="no-v"):
        myna.build(texts, out=tmp_path / "no", steps=2, threads=1, family="gru", options=options | {"plan.vectors": str(tmp_path / "no-v")})


def test_members_are_what_the_recipe_says(texts: Path, tmp_path: Path) -> None:
    options = {name: value for name, value in OPTIONS.items() if not name.startswith("plan.")}
    myna.build(texts, out=tmp_path / "m", family="ngram", threads=1, options=options | {"mixture.members": "hmm,unbounded"})
    model = myna.load(tmp_path / "m")
    assert isinstance(model.language_model, Mixture) and model.language_model.names == ["ngram", "hmm", "unbounded"]
    myna.build(texts, out=tmp_path / "alone", steps=2, threads=1, options=OPTIONS | {"mixture.members": ""})
    assert not isinstance(myna.load(tmp_path / "alone").language_model, Mixture)


@pytest.mark.parametrize(("family", "options", "words"), [
    ("lstm", {"plan.head_dim": 32}, "means nothing to --family lstm"),
    ("encoder", {"plan.model_type": "gpt2"}, "one of bert, roberta, albert"),
    ("decoder", {"plan.model_type": "qwen33"}, "did you mean qwen3"), ("gru", {"plan.dropout": 1.5}, "plan.dropout is 1.5"),
], ids=str)
def test_an_option_that_the_family_does_not_read_is_refused(family: str, options: dict[str, object], words: str, texts: Path,
                                                            tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        myna.build(texts, out=tmp_path / "m", steps=2, threads=1, family=family, options={"tokenizer.vocab_size": 512, **options})  # type: ignore[arg-type]
