"""Answers from documents: the whole road by the command line, in English and Chinese, what is quoted, refused, measured and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.evaluate.questions import holds_answer
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.span_head import SpanModel, Spans
from myna.retrieval.evidence import Background, find_evidence, hide_passages
from myna.retrieval.index import Index
from myna.retrieval.options import IndexOptions
from myna.roads.answer_fit import CITED, choose_threshold
from myna.tasks.answer import Answered, Answerer, answer_freely, is_answerer
from myna.tokenizer.tokenizer import Tokenizer

NAMES = ("Anna", "Berta", "Carl", "Dora", "Emil", "Fritz", "Gerda", "Hans", "Ida", "Jonas", "Karin", "Lars")
THINGS = ("tower", "bridge", "harbour", "mill", "church", "castle", "school", "market", "library", "theatre")
DOCUMENTS = {"garden.md": "# Garden\n\nThe rose garden lies behind the station.\nIt was planted by Greta Lind in 1931.\n",
             "lamp.txt": "The lighthouse of Norra is painted red.\nThe keeper of the lighthouse is Sven Dahl.\n",
             "楼.txt": "望江楼位于成都市东门外的锦江边。\n这座楼由清代商人李华出资修建，于一八八九年完工。\n薛涛井在楼的西侧，井水清澈。\n"}
GENTLE = ["--threads", "1", "--evaluate.resamples", "200"]


def write_questions(path: Path, count: int, seed: int = 0) -> Path:
    """Write questions on passages of three sentences; a fifth of them asks for what the passage does not say."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        thing, year = f"{THINGS[number % 10]} number {number + seed * 1000}", str(generator.integers(1500, 1900))
        name, place = (NAMES[at] for at in generator.integers(12, size=2))
        passage = (f"There is a {thing} in this town. It stands near the house of {place}. "
                   f"The {thing} was built by {name} in the year {year}.")
        asked = [(f"Who built the {thing}?", [name]), (f"In what year was the {thing} built?", [year]),
                 (f"What did the wallpaper of the emperor cost in {thing}?", [])]
        question, answers = asked[min(2, int(generator.integers(0, 5)) // 2)]
        rows.append({"question": question, "context": passage, "answers": answers})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader by words, and beside it documents with an index of them."""
    folder = tmp_path_factory.mktemp("answer")
    rows = write_questions(folder / "questions.jsonl", 120)
    assert main(["tune", "new", str(rows), "--task", "answer", "--minutes", "1", "--out", str(folder / "reader"), *GENTLE]) == 0
    (folder / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    assert main(["index", str(folder / "documents"), "--out", str(folder / "index")]) == 0
    return folder


def test_the_answer_is_quoted_with_its_file_and_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = myna.load(made / "reader")
    for question, quote, name, line in (
            ("Who is the keeper of the lighthouse?", "The keeper of the lighthouse is Sven Dahl.", "lamp.txt", 2),
            ("Where is the rose garden?", "The rose garden lies behind the station.", "garden.md", 3),
            ("这座楼由谁出资修建？", "这座楼由清代商人李华出资修建，于一八八九年完工。", "楼.txt", 2),
            ("薛涛井在哪里？", "薛涛井在楼的西侧，井水清澈。", "楼.txt", 3)):
        found = reader.answer(question, made / "index")
        assert found.answered and found.quote == quote and found.text == quote and found.how == "sentence", found
        assert (Path(found.file).name, found.line) == (name, line) and found.place.endswith(f"{name}:{line}")
        data = (made / "documents" / name).read_bytes()
        assert data[found.offset:].decode().startswith(quote) and found.confidence >= found.threshold
    code, out, _ = run("answer", made / "reader", "薛涛井在哪里？", "--documents", made / "documents", "--json", capsys=capsys)
    [result] = json.loads(out)["results"]
    assert code == 0 and result["answered"] and result["quote"] == "薛涛井在楼的西侧，井水清澈。"


def test_what_the_documents_do_not_tell_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = myna.load(made / "reader")
    for question in ("What is the capital of Mongolia?", "How many moons has Jupiter?", "熊猫喜欢吃什么食物？", "xyzzy"):
        found = reader.answer(question, documents=made / "documents")
        assert not found.answered and found.text == "" and str(found) == "the documents do not tell", found
    (made / "asked.txt").write_text("What is the capital of Mongolia?\n\nWho is the keeper of the lighthouse?\n")
    code, out, _ = run("answer", made / "reader", "--file", made / "asked.txt", "--index", made / "index", capsys=capsys)
    assert code == 0 and "the documents do not tell" in out and "Sven Dahl" in out and "lamp.txt:2 (confidence" in out
    code, out, _ = run("answer", made / "reader", "Who is the keeper of the lighthouse?", "--index", made / "index", "--threshold", "1",
                       capsys=capsys)
    assert code == 0 and out.startswith("the documents do not tell") and "nearest: “The keeper" in out


def test_the_road_measures_answers_and_refusals(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((made / "reader" / "report.json").read_text())
    scores = report["report"]
    assert scores["citation"]["value"] > 0.9 and scores["answered"]["value"] > 0.7 and scores["refused_passage_out"]["value"] > 0.7
    assert scores["baseline"]["refused"]["value"] == 0 and scores["recall_at_5"]["value"] > 0.9
    assert {"best", "worst", "refused_wrongly", "calibration_error"} <= set(report)
    measuring = ("--task", "answer", "--resamples", "100")
    code, out, err = run("evaluate", made / "reader", made / "questions.jsonl", "--json", *measuring, capsys=capsys)
    assert code == 0 and "96 questions were learned from and are left out" in err and json.loads(out)["details"]["questions"] == 24
    other = write_questions(made / "other.jsonl", 40, seed=3)
    code, out, _ = run("evaluate", made / "reader", other, *measuring, capsys=capsys)
    assert code == 0 and "citation" in out and "40 questions" in out
    record = json.loads((made / "reader" / "myna.json").read_text())
    assert record["family"] == "answerer" and {"task.json", "terms.json"} <= set(record["hashes"])
    assert not list(made.glob("reader/.index-*"))


def test_mistakes_are_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "changed").mkdir()
    index = tmp_path / "vectors"
    shutil.copytree(made / "index", index)
    described = json.loads((index / "index.json").read_text())
    described |= {"encoder": "0" * 64, "options": {**described["options"], "encoder": str(made / "reader")}}
    (index / "index.json").write_text(json.dumps(described))
    for words, why in ((["reader", "Who?"], "no documents to answer from"),
                       (["reader", "--index", made / "index"], "no question was given"),
                       (["reader", "Who?", "--documents", tmp_path / "empty"], "no text was found"),
                       (["reader", " ", "--index", made / "index"], "the question is empty"),
                       (["reader", "Who? " * 1000, "--index", made / "index"], "a question of 5,000 characters"),
                       (["reader", "Who?", "--index", made / "documents"], "is no index"),
                       (["reader", "Who?", "--index", made / "index", "--documents", made / "documents"], "an index and documents"),
                       (["reader", "Who?", "--index", made / "index", "--threshold", "2"], "threshold is 2"),
                       (["reader", "Who?", "--index", index], "no model.safetensors"),
                       (["index", "Who?", "--index", made / "index"], "is no reader")):
        code, out, err = run("answer", made / words[0], *words[1:], capsys=capsys)
        last = err.rstrip("\n").splitlines()[-1]
        assert code == 2 and why in last and not out and "Traceback" not in err, (words, err)


def test_a_base_reads_spans_where_it_answers_better(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.?"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *(map(str.lower, NAMES))]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = Tokenizer.open(tmp_path)
    config = EncoderConfig(tokenizer.vocab_size, 32, 1, pad_token_id=0, max_position_embeddings=256)
    Spans(SpanModel(Encoder(config)), tokenizer, 256).save(tmp_path / "base")
    rows = write_questions(tmp_path / "questions.jsonl", 60)
    command = ("tune", tmp_path / "base", rows, "--task", "answer", "--steps", 2, *GENTLE)
    code, _, err = run(*command, "--out", tmp_path / "plain", capsys=capsys)
    assert code == 0
    for line in ("excerpts", "goes on from its head", "with spans: F1", "sentences are ranked by words alone"):
        assert line in err
    assert not (tmp_path / "plain" / "model.safetensors").exists()
    monkeypatch.setattr("myna.roads.answer._LEAST_GAIN", -1.0)
    code, _, err = run(*command, "--out", tmp_path / "spans", capsys=capsys)
    assert code == 0 and "spans are read: F1" in err
    reader = myna.load(tmp_path / "spans")
    found = reader.answer("Who is the keeper of the lighthouse?", made / "index", threshold=0.0)
    assert found.answered and found.text in found.passage and found.how in ("span", "sentence")
    assert reader.model.reader is not None and reader.model.decision.names[-1] == "span"
    code, _, err = run("tune", made / "index", rows, "--task", "answer", "--out", tmp_path / "no", capsys=capsys)
    assert code == 2 and "config.json" in err.splitlines()[-1]


def test_a_damaged_directory_is_refused(made: Path, tmp_path: Path) -> None:
    assert is_answerer(made / "reader") and not is_answerer(made / "index")
    whole = json.loads((made / "reader" / "task.json").read_text())
    for changed, why in (({"threshold": "x"}, "threshold"), ({"threshold": 2}, "threshold"), ({"ranker": None}, "has the features"),
                         ({"decision": {"features": {}, "intercept": 0}}, "has the features"), ({"task": "classify"}, "is no reader"),
                         ({"reader": True}, "phrases, span")):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made / "reader", folder)
        (folder / "task.json").write_text(json.dumps({**whole, **changed}))
        with pytest.raises(UserError, match=why):
            Answerer.open(folder)
    (tmp_path / "copy" / "task.json").write_text(json.dumps(whole))
    (tmp_path / "copy" / "terms.json").write_text(json.dumps({"passages": 1, "terms": {"a": 5}}))
    with pytest.raises(UserError, match="is damaged"):
        Answerer.open(tmp_path / "copy")


def test_the_line_is_told_only_of_files_that_are_as_they_were(made: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    path = tmp_path / "documents" / "lamp.txt"
    path.write_text(DOCUMENTS["lamp.txt"], encoding="utf-8")
    assert main(["index", str(tmp_path / "documents"), "--out", str(tmp_path / "index")]) == 0
    reader, question = myna.load(made / "reader"), "Who is the keeper of the lighthouse?"
    assert reader.answer(question, tmp_path / "index").line == 2
    path.write_text("New first line.\n" + DOCUMENTS["lamp.txt"], encoding="utf-8")
    found = reader.answer(question, tmp_path / "index")
    assert found.answered and found.line is None and "byte" in found.place


def test_a_generated_answer_is_looked_up_in_the_passage() -> None:
    passage = "The keeper is Sven Dahl. 灯塔是红色的。"
    given = Answered("Who keeps it?", True, "quote", "sentence", "quote", passage, "a.txt", 1, 0, 0.9, 0.5)
    background = Background({"the": 90, "is": 90, "it": 80}, 100)
    told: list[str] = []

    def speak(text: str) -> Answered:
        return answer_freely(given, background, lambda messages: told.append(messages[0]["content"]) or text)

    assert (speak("The keeper is Sven Dahl.").how, speak("The keeper is Sven Dahl.").unsupported) == ("generated", ())
    assert "norra" in speak("The keeper is Sven Dahl of Norra").unsupported
    assert speak("灯塔是红色的").how == "generated" and speak("蓝天白云飘").how == "sentence"
    for text in ("Napoleon Bonaparte", "unknown", ""):
        assert (speak(text).how, speak(text).text) == ("sentence", "quote")
    assert "Who keeps it?" in told[0] and given.passage in told[0]


def test_hidden_passages_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in DOCUMENTS.items():
        (texts / name).write_text(text, encoding="utf-8")
    index = Index.create(tmp_path / "whole", IndexOptions())
    index.add([texts])
    hidden = np.array([Path(index.owner(number)).name == "lamp.txt" for number in range(len(index))])
    with hide_passages(index, hidden):
        found = find_evidence(index, "the rose garden of the lighthouse", Background({}, 0), None, 3)
    (texts / "lamp.txt").unlink()
    other = Index.create(tmp_path / "part", IndexOptions())
    other.add([texts])
    expected = find_evidence(other, "the rose garden of the lighthouse", Background({}, 0), None, 3)
    assert [one.hit.text for one in found] == [one.hit.text for one in expected] and not index.deleted.any()
    for one, two in zip(found, expected, strict=True):
        assert one.features == pytest.approx(two.features) and one.about == pytest.approx(two.about)


def test_the_threshold_is_even_among_those_cited_rightly() -> None:
    sure = np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.5, 0.4, 0.2, 0.1, 0.05])
    answerable = np.array([True] * 5 + [False] * 5)
    assert choose_threshold(sure, answerable, answerable) == pytest.approx(0.55)  # 4 of 5 are answered, and all refused
    assert choose_threshold(np.array([0.99, 0.9, 0.1]), np.array([True, True, False]), np.array([True, True, False])) == pytest.approx(0.5)
    right = np.array([True, True, False, False, False] + [False] * 5)
    threshold = choose_threshold(sure, answerable, right)
    given = (sure >= threshold) & answerable
    assert right[given].mean() >= CITED


def test_an_answer_is_held_as_whole_words() -> None:
    assert holds_answer("It was built by Anna.", ["anna"]) and not holds_answer("It was built by Annabel.", ["Anna"])
    assert holds_answer("楼高三十九米。", ["三十九米"]) and not holds_answer("anything", ["the"]) and not holds_answer("anything", [])
