"""Taggers from files to labelled words: the whole road by the command line, what is kept, refused and said."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.metrics.tagging import spans_of
from myna.models.chain import legal_steps
from myna.tasks.tag import Member, WordTagger, is_tagger, put_together
from tests.models.test_chain import draw_names

GENTLE = ["--threads", "1", "--evaluate.resamples", "200"]


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    rows = [f"{word}\t{tag}\n" for words, tags in zip(*draw_names(count, seed), strict=True)
            for word, tag in [*zip(words, tags, strict=True), ("", "")]]
    path.write_text("".join(row if row != "\t\n" else "\n" for row in rows), encoding="utf-8")
    return path


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tagger of names, of 400 sentences."""
    folder = tmp_path_factory.mktemp("tag")
    rows = write_rows(folder / "rows.tsv", 400)
    assert main(["tune", "new", str(rows), "--task", "tag", "--minutes", "1", "--out", str(folder / "model"), *GENTLE]) == 0
    return folder / "model", rows


def test_names_are_found_with_their_places(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = myna.load(made[0])
    [found] = model.tag([["第9", "陳", "明", "華", "去", "京", "見", "明"]])
    assert found.text == "第9陳明華去京見明" and [(one.kind, one.text, one.start, one.end) for one in found.entities] == [
        ("PER", "陳明華", 2, 5), ("LOC", "京", 6, 7)]
    assert all(found.text[word.start : word.end] == word.text and 0 < word.probability <= 1 for word in found.words)
    assert found.entities[0].probability == min(word.probability for word in found.words[1:4])
    code, out, _ = run("tag", made[0], "第9 陳 明 去", "--words", "given", "--json", capsys=capsys)
    result = json.loads(out)["results"][0]
    assert code == 0 and [word["tag"] for word in result["words"]] == ["O", "B-PER", "I-PER", "O"]
    assert result["entities"][0]["text"] == "陳明"
    code, out, _ = run("tag", made[0], "第9 陳 明 去", "--words", "given", capsys=capsys)
    assert code == 0 and out.splitlines()[0] == "第9/O 陳/B-PER 明/I-PER 去/O" and out.splitlines()[1].startswith("  PER: 陳明 (2-4, ")


def test_words_of_plain_text_are_found_first(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    found = myna.load(made[0]).tag("第7李玲去港食明")
    assert [word.text for word in found[0].words] == ["第7", "李", "玲", "去", "港", "食", "明"] and len(found) == 1
    monkeypatch.setattr("sys.stdin", ["第7李玲去\n", "\n"])
    (tmp_path / "a.txt").write_text("第8見明\n\n第9去港\n", encoding="utf-8")
    code, out, _ = run("tag", made[0], "-", "--file", tmp_path / "a.txt", "--lines", capsys=capsys)
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines() if line][:4] == ["第7", "李", "玲", "去"]
    code, out, _ = run("tag", made[0], "第7李玲去", "--words", made[0], capsys=capsys)
    assert code == 0 and out.startswith("第7/O 李/B-PER")
    for words, why in (([], "no text was given"), ([" "], "text 1 is empty"), (["x", "--words", "none"], "no such file"),
                       (["--file", made[0] / "task.json"], "holds rows")):
        code, _, err = run("tag", made[0], *words, capsys=capsys)
        assert code == 2 and why in err and err.count("\n") == 1


def test_the_report_stands_beside_the_hidden_markov_model(made: tuple[Path, Path]) -> None:
    report = json.loads((made[0] / "report.json").read_text())
    scores = report["report"]
    assert scores["baseline"]["name"] == "hidden Markov model"
    assert {"accuracy", "macro_f1", "entity_f1", "word_f1", "tagged_word_f1"} <= set(scores)
    assert scores["entity_f1"]["value"] > 0.9 and scores["entity_f1"]["value"] >= scores["baseline"]["entity_f1"]["value"]
    assert report["likeliest_label"]["accuracy"] < scores["accuracy"]["value"] and report["confused"] is not None
    assert any("hidden Markov model" in line for line in report["said"]) and any("no neural model" in line for line in report["said"])
    assert (made[0] / "README.md").is_file() and (made[0] / "report.html").is_file()


def test_evaluate_leaves_out_what_was_learned_and_names_unseen_labels(made: tuple[Path, Path], tmp_path: Path,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("evaluate", made[0], made[1], "--task", "tag", "--json", capsys=capsys)
    assert code == 0 and "sentences were learned from and are left out" in err
    rows = write_rows(tmp_path / "new.tsv", 60, seed=5)
    with rows.open("a", encoding="utf-8") as file:
        file.write("全新\tB-ORG\n")
    code, out, err = run("evaluate", made[0], rows, "--task", "tag", "--json", "--resamples", "200", capsys=capsys)
    value = json.loads(out)
    assert code == 0 and "1 labels were never seen in training, so they are always wrong: B-ORG" in err
    assert {"accuracy", "entity_f1", "entity_f1_difference", "baseline"} <= set(value)
    assert value["details"]["labels"]["B-ORG"]["recall"] == 0 and value["details"]["worst"][0]["true"] == ["B-ORG"]
    assert 0 <= value["details"]["calibration_error"] <= 1
    code, out, _ = run("evaluate", made[0], rows, "--task", "tag", "--resamples", "200", capsys=capsys)
    assert code == 0 and "most often confused" in out and "worst:" in out


def test_scores_are_those_of_the_references(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seqeval, metrics = pytest.importorskip("seqeval.metrics"), pytest.importorskip("sklearn.metrics")
    rows = write_rows(tmp_path / "new.tsv", 80, seed=7)
    _, out, _ = run("evaluate", made[0], rows, "--task", "tag", "--json", "--resamples", "50", capsys=capsys)
    value = json.loads(out)
    sentences, true = draw_names(80, seed=7)
    given = [[word.tag for word in found.words] for found in myna.load(made[0]).tag(sentences)]
    flat = [[tag for row in rows for tag in row] for rows in (true, given)]
    assert value["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(*flat))
    labels = sorted({*flat[0], *flat[1]})
    assert value["macro_f1"]["value"] == pytest.approx(metrics.f1_score(*flat, average="macro", labels=labels, zero_division=0))
    assert value["entity_f1"]["value"] == pytest.approx(seqeval.f1_score(true, given))


def test_names_are_never_broken(made: tuple[Path, Path]) -> None:
    """Whatever the words, no I- stands without its B-."""
    tagger = myna.load(made[0]).model
    rule, place = legal_steps(tagger.tags), {tag: at for at, tag in enumerate(tagger.tags)}
    generator = np.random.default_rng(0)
    for _ in range(50):
        words = [str(word) for word in generator.choice(list("陳明京去華港第王"), generator.integers(1, 9))]
        [labels] = tagger.label([words])
        path = [place[label] for label in labels]
        assert rule.start[path[0]] == 0 and not any(rule.between[a, b] for a, b in itertools.pairwise(path))
        assert len(spans_of(labels)) == sum(label.startswith("B-") for label in labels)


# ---- words alone ----

def test_words_are_learned_from_cut_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    known = ["香港", "去", "食飯", "我", "你哋", "好", "OK", "學生仔"]
    lines = [" ".join([*generator.choice(known, generator.integers(2, 7)), f"{number}"]) for number in range(300)]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    code, _, err = run("tune", "new", tmp_path / "a.txt", "--task", "tag", "--minutes", "0.5", "--out", tmp_path / "m", *GENTLE,
                       capsys=capsys)
    assert code == 0 and "spaces between its words" in err
    model = myna.load(tmp_path / "m")
    [found] = model.tag("學生仔去香港，OK好")
    assert str(found) == "學生仔 去 香港 ， OK 好" and [word.tag for word in found.words] == [""] * 6
    value = json.loads((tmp_path / "m" / "report.json").read_text())["report"]
    assert value["word_f1"]["value"] > 0.98 and "tagged_word_f1" not in value
    with pytest.raises(UserError, match="given as words"):
        model.tag([["我"]])
    (tmp_path / "b.txt").write_text("我 去 食飯 啦\n你哋 食飯 OK 啦\n", encoding="utf-8")
    code, out, _ = run("evaluate", tmp_path / "m", tmp_path / "b.txt", "--task", "tag", "--json", "--resamples", "50", capsys=capsys)
    assert code == 0 and json.loads(out)["word_f1"]["value"] > 0.7
    (tmp_path / "c.txt").write_text("\n".join(f"the bird {n} sings" for n in range(50)))
    code, _, err = run("tune", "new", tmp_path / "c.txt", "--task", "tag", "--out", tmp_path / "n", *GENTLE, capsys=capsys)
    assert code == 2 and "spaces between" in err


def test_words_of_two_characters_at_most_are_learned_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"去 香港 {number}" for number in range(40)), encoding="utf-8")
    code, _, _ = run("tune", "new", tmp_path / "a.txt", "--task", "tag", "--minutes", "0.2", "--out", tmp_path / "m", *GENTLE,
                       capsys=capsys)
    assert code == 0 and str(myna.load(tmp_path / "m").tag("去香港7")[0]) == "去 香港 7"


def test_atoms_are_put_together() -> None:
    assert put_together([(0, 1), (1, 2), (3, 4), (4, 5), (5, 6)], ["E", "S", "B", "M", "E"]) == [(0, 1), (1, 2), (3, 6)]


# ---- neural ----

def test_a_model_from_nothing_is_trained_by_the_one_loop_and_a_killed_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from myna.train.examples import Reader

    words = ["tune", "new", write_rows(tmp_path / "rows.tsv", 60), "--task", "tag", "--steps", "6", *GENTLE,
             "--train.checkpoint-seconds", "0"]
    code, _, err = run(*words, "--out", tmp_path / "whole", capsys=capsys)
    assert code == 0 and "gru tagger: " in err and (tmp_path / "whole" / "log.jsonl").is_file()
    with monkeypatch.context() as patch:
        read = Reader.read

        def killed(reader: Reader, step: int) -> Any:
            if step == 4:
                raise KeyboardInterrupt
            return read(reader, step)

        patch.setattr(Reader, "read", killed)
        assert run(*words, "--out", tmp_path / "cut", capsys=capsys)[0] == 130
    assert run("tune", "--resume", "--out", tmp_path / "cut", capsys=capsys)[0] == 0
    for name in ("model.safetensors", "task.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_encoder_is_a_base_and_joins_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from myna.models.pretrained import save_model
    from myna.models.token_head import NeuralTagger
    from myna.tokenizer.train import learn_tokenizer
    from tests.models.test_token_head import tiny

    rows = write_rows(tmp_path / "rows.tsv", 100)
    tokenizer = learn_tokenizer(["".join(words) for words in draw_names(50)[0]], 400)
    save_model(tiny("bert", tokenizer.vocab_size), tmp_path / "base", tokenizer.pad_id)
    tokenizer.save(tmp_path / "base")
    code, _, err = run("tune", tmp_path / "base", rows, "--task", "tag", "--steps", "3", "--out", tmp_path / "model", *GENTLE,
                       capsys=capsys)
    assert code == 0 and "bert tagger: " in err
    (tmp_path / "base" / "config.json").write_text('{"model_type": "ngram"}')
    code, _, err = run("tune", tmp_path / "base", rows, "--task", "tag", "--steps", "2", "--out", tmp_path / "no", *GENTLE, capsys=capsys)
    assert code == 2 and "holds a ngram" in err
    # one that has no task.json, as others write them
    from myna.models.token_head import TokenClassifier

    model = TokenClassifier(tiny("bert", tokenizer.vocab_size), ["O", "B-X", "I-X"]).requires_grad_(False).eval()
    NeuralTagger(model, tokenizer, 32).save(tmp_path / "plain")
    assert is_tagger(tmp_path / "plain") and not is_tagger(tmp_path / "base")
    assert [word.text for word in myna.load(tmp_path / "plain").tag("去bird!")[0].words] == ["去", "bird", "!"]


# ---- what is refused ----

@pytest.mark.parametrize("change", [{"members": []}, {"members": [{"folder": "../x", "weight": 1}]}, {"spaced": 1}, {"segmenter": "x"},
                                    {"members": [{"folder": ".", "weight": "1"}]}, {"members": [{"folder": ".", "weight": -1}]},
                                    {"labels": ["a"]}, {"members": [{"folder": "segmenter", "weight": 1}]}])
def test_a_damaged_task_is_refused(made: tuple[Path, Path], tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made[0], folder)
    value = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(UserError):
        myna.load(folder)


def test_more_labels_than_can_be_weighed_are_refused(tmp_path: Path) -> None:
    from myna.models.token_head import NeuralTagger, TokenClassifier
    from myna.tokenizer.train import learn_tokenizer
    from tests.models.test_token_head import tiny

    tokenizer = learn_tokenizer(["去港"], 300)
    model = TokenClassifier(tiny("gru", tokenizer.vocab_size), [str(number) for number in range(2001)]).requires_grad_(False)
    NeuralTagger(model, tokenizer, 32).save(tmp_path)
    with pytest.raises(UserError, match="2,001 labels"):
        myna.load(tmp_path)


def test_other_models_label_no_words(made: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="gives no labels"):
        myna.load(made[0]).classify(["x"])
    with pytest.raises(UserError, match="without spaces around"):
        myna.load(made[0]).tag([["去 ", "x"]])
    with pytest.raises(UserError, match="float32"):
        myna.load(made[0], precision="bfloat16")


def test_members_are_added_with_their_weights() -> None:
    class Fixed:
        tags, name = ["a", "b"], "fixed"

        def __init__(self, *scores: float) -> None:
            self.scores = np.array(scores)

        def emit(self, sentences: Any) -> list[np.ndarray]:
            return [np.tile(self.scores, (len(words), 1)) for words in sentences]

        def save(self, folder: Path) -> None: ...

    both = WordTagger([Member(".", Fixed(1, 0), 2.0), Member("chain", Fixed(0, 1), 0.5)], True)
    assert both.chances_rows(both.emit([["x", "y"]]))[0] == pytest.approx(np.tile([1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))], (2, 1)))
    assert both.label([["x", "y"]]) == [["a", "a"]]
