"""The roads of a summarizer on tiny models: a decoder that learns from pairs, sentences of the text, and what wrong use is told."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import myna
import myna.roads.evaluate
import myna.roads.language
import myna.roads.writing
from myna.cli.main import main
from myna.data.options import RowsOptions
from myna.errors import UserError
from myna.metrics.report import Report
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.pretrained import load_model, save_model
from myna.recipe import TuneRecipe
from myna.tasks.extract import lead_words
from myna.tasks.writing import Writer
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

CITIES = ("Lisbon", "Oslo", "北京", "Quito", "上海", "Cairo", "Lima", "Rome")
NEWS = ("rain", "snow", "wind", "洪水", "fog", "heat")
FLAGS = ["--task", "summarize", "--steps", "12", "--threads", "1", "--rank", "4", "--learning-rate", "0.01", "--train.validations", "1",
         "--batch-tokens", "512", "--evaluate.resamples", "200"]


def write_rows(path: Path, count: int, seed: int) -> Path:
    """Write articles of some sentences: the second tells where, the last what."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        city, news = draw.choice(CITIES), draw.choice(NEWS)
        filler = " ".join(f"Sentence {draw.randint(0, 99)} says little." for _ in range(draw.randint(2, 30)))
        rows.append({"Article": f"Report {number}. This is from {city}. {filler} There was {news}。", "headline": f"{news} in {city}"})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "news.jsonl", 80, 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    texts = [f"Sentence {number} says little. There was rain in Lisbon. 北京有洪水。上海" for number in range(60)]
    tokenizer = train_tokenizer(write_corpus(place / "corpus", texts), TokenizerOptions(vocab_size=300))
    model = Decoder(DecoderConfig(tokenizer.vocab_size, 32, 1, 64, 2, 1, 16, 320, eos_token_id=tokenizer.separator_id, model_type="llama"))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "proj" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    save_model(model, place / "model", tokenizer.pad_id)
    tokenizer.save(place / "model")
    return place / "model"


@pytest.fixture(scope="module")
def tuned(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_TEST", 400), ("_UNRELATED", 600), ("_VALID", 300), ("_ANSWER_TOKENS", 6), ("_PROMPTS", 6)):
            patch.setattr(myna.roads.language, name, value)
        patch.setattr(myna.roads.writing, "_NO_TIME", 6)
        assert main(["tune", str(base), str(rows), "--out", str(out), "--merge", *FLAGS]) == 0
    return out


def test_the_tuned_directory_says_how_it_is_used(tuned: Path) -> None:
    task = json.loads((tuned / "task.json").read_text())
    assert task["task"] == "summarize" and task["method"] == "decoder" and task["chat"] and task["target_words"] in (3, 4)
    assert 0 < task["max_tokens"] < 60 and task["source_tokens"] + task["max_tokens"] <= 320
    record = json.loads((tuned / "myna.json").read_text())
    report = Report.from_json(record["report"])
    assert list(report.metrics) == ["rouge_1", "rouge_2", "rouge_l"] and report.baseline.startswith("the first ")
    assert "task.json" in record["hashes"] and record["plan"]["steps"] == 12 and "measure the task" in record["stages"]
    assert any("measured on 6 of 8 held-out sources, chosen" in line for line in record["notes"])
    details = json.loads((tuned / "report.json").read_text())
    assert details["losses"]["bits_per_byte"] and details["texts"] == 6 and details["lines"]
    assert set(details["others"]) == {"1 sentence by lead", "1 sentence by textrank"} and details["best"] and details["worst"]
    assert (tuned / "report.html").is_file() and len((tuned / "seen.bin").read_bytes()) == 72 * 16
    assert (tuned / "merged" / "task.json").read_text() == (tuned / "task.json").read_text()


def test_long_texts_go_through_chunks(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = myna.load(tuned)
    short = model.summarize("There was rain. 北京有洪水。")
    assert short.method == "decoder" and short.chunks == 1
    long = "\n\n".join(f"Sentence {number} says little. 北京有洪水。" for number in range(120))
    capsys.readouterr()
    summary = model.summarize(long, max_tokens=4)
    said = capsys.readouterr().err
    assert summary.chunks > 3 and f"the text takes {summary.chunks} chunks" in said and "then the summaries are" in said
    assert model.summarize(long, max_tokens=4) == summary
    capsys.readouterr()
    begun = model.summarize(long, max_tokens=4, beginning=True)
    assert begun.chunks == 1 and "only the beginning of the text is read" in capsys.readouterr().err
    assert begun.text == model.summarize(long[:2000], max_tokens=4, beginning=True).text
    assert model.summarize("There was rain.", max_tokens=3, num_beams=2).method == "decoder"
    with pytest.raises(UserError, match="the text is empty"):
        model.summarize(" \n\n ")


def test_a_batch_writes_what_each_text_alone_does(tuned: Path) -> None:
    model = myna.load(tuned)
    writer = Writer.open(tuned, model.model, model.tokenizer, "summarize")
    texts = ["There was fog in Oslo.", "北京有洪水。", "Sentence 5 says little. " * 4]
    assert writer.write(texts, 8) == [writer.write([text], 8)[0] for text in texts]
    [beams] = writer.write(texts[:1], 6, num_beams=3)
    assert beams.tokens <= 6


def test_a_plain_decoder_learns_without_a_chat_template(base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_template(folder: Path, tokenizer: Tokenizer) -> Any:
        raise UserError("no chat template")

    monkeypatch.setattr("myna.tokenizer.chat.ChatTemplate.open", no_template)
    report = myna.tune(base, rows, out=tmp_path / "out", task="summarize", steps=2, threads=1, batch_tokens=256,
                       options={"train.validations": 1, "evaluate.resamples": 200})
    assert "rouge_l" in report.metrics
    assert json.loads((tmp_path / "out" / "task.json").read_text())["chat"] is False
    assert myna.load(tmp_path / "out").summarize("There was rain.").method == "decoder"


def test_evaluation_leaves_out_what_was_learned(tuned: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tuned), str(rows), "--task", "summarize", "--json", "--resamples", "200"]) == 0
    out = capsys.readouterr()
    value = json.loads(out.out)
    with pytest.raises(UserError, match="has no column 'headlines'"):
        myna.roads.evaluate.evaluate_task("summarize", tuned, [rows], TuneRecipe(rows=RowsOptions(label="headlines")))
    assert "72 pairs were learned from and are left out" in out.err and value["details"]["texts"] == 8
    assert {"length_ratio", "novel_bigrams", "best", "worst"} <= set(value["details"])
    learned = tmp_path / "learned.jsonl"
    held = tuple(row["source"] for row in value["details"]["best"] + value["details"]["worst"])
    listed = [line for line in rows.read_text(encoding="utf-8").splitlines() if not json.loads(line)["Article"].startswith(held)]
    learned.write_text("\n".join(listed), encoding="utf-8")
    assert len(listed) == 72
    with pytest.raises(UserError, match="learned from all 72 pairs"):
        myna.roads.evaluate.evaluate_task("summarize", tuned, [learned], TuneRecipe())


def test_an_interrupted_tuning_goes_on(base: Path, tmp_path: Path) -> None:
    def stop(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    rows, out = write_rows(tmp_path / "rows.jsonl", 30, 3), tmp_path / "out"
    options = {"train.validations": 1, "evaluate.resamples": 200}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(myna.roads.language, "train", stop)
        myna.tune(base, rows, out=out, task="summarize", steps=2, threads=1, options=options)
    assert not (out / "task.json").exists()
    with pytest.raises(UserError, match="not finished"):
        myna.load(out).summarize("A text.")
    assert main(["tune", "--resume", "--out", str(out)]) == 0
    assert (out / "task.json").is_file() and json.loads((out / "myna.json").read_text())["plan"]["steps"] == 2


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of the text: the first is the summary."""
    place = tmp_path_factory.mktemp("extractor")
    draw = random.Random(1)
    lines = []
    for number in range(60):
        first = f"第{number}号台风今天在{draw.choice('沪京津渝')}登陆。"
        rest = "".join(f"居民说风雨不大{draw.randint(0, 99)}。" for _ in range(6))
        lines.append(json.dumps({"正文": first + rest, "标题": first[:-1]}, ensure_ascii=False))
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert main(["tune", "new", str(place / "rows.jsonl"), "--task", "summarize", "--out", str(place / "out"), "--evaluate.resamples",
                 "200"]) == 0
    return place / "out"


def test_sentences_of_the_text_are_chosen_by_the_validation_part(extractor: Path) -> None:
    assert json.loads((extractor / "task.json").read_text())["method"] == "lead"
    record = json.loads((extractor / "myna.json").read_text())
    assert any("lead is used, with 1 sentence" in line and "textrank" in line for line in record["notes"])
    report = Report.from_json(record["report"])
    assert report.metrics["rouge_l"].value == pytest.approx(1.0) and (extractor / "report.html").is_file()
    summary = myna.load(extractor).summarize("他来了。她走了！谁？")
    assert (str(summary), summary.method, summary.spans) == ("他来了。", "lead", ((0, 4),))
    assert str(myna.load(extractor).summarize("他来了。她走了！谁？", sentences=2)) == "他来了。她走了！"
    with pytest.raises(UserError, match="a decoder's options"):
        myna.load(extractor).summarize("他来了。", max_tokens=5)
    with pytest.raises(UserError, match="in int8"):
        myna.load(extractor, precision="int8")


def test_a_test_part_given_apart(tmp_path: Path) -> None:
    rows, test = write_rows(tmp_path / "rows.jsonl", 40, 4), write_rows(tmp_path / "test.jsonl", 12, 4)  # whose first 12 are the same
    assert main(["tune", "new", str(rows), "--test", str(test), "--task", "summarize", "--out", str(tmp_path / "out"),
                 "--evaluate.resamples", "200"]) == 0
    record = json.loads((tmp_path / "out" / "myna.json").read_text())
    assert any(line.startswith("12 training pairs taken out, whose sources stand in the test part") for line in record["notes"])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["texts"] == 12


def test_the_command_reads_texts_files_rows_and_standard_input(extractor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "long.txt"
    text.write_text("他来了。\n她走了！谁？", encoding="utf-8")
    table = tmp_path / "rows.jsonl"
    table.write_text('{"text": "One. Two."}\n{"text": ""}\n{"text": "三。四。"}\n', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("五。六。"))
    assert main(["summarize", str(extractor), str(text), str(table), "-", "七。八。", "--json"]) == 0
    out = capsys.readouterr()
    assert [row["text"] for row in json.loads(out.out)["summaries"]] == ["他来了。", "One.", "三。", "五。", "七。"]
    assert "1 empty texts" in out.err
    assert main(["summarize", "lead", str(text), "--sentences", "2"]) == 0
    assert capsys.readouterr().out == "他来了。她走了！\n"
    for arguments, told in ((["textrank", "missing.txt"], "no such file: missing.txt"), (["textrank", str(tmp_path)], "is a folder"),
                            (["textrank", " "], "the text is empty"), (["lead", "A.", "--sentences", "0"], "sentences is 0"),
                            (["lead", "A.", "--num-beams", "2"], "a decoder's options"),
                            (["lead", str(table), "--text", "body"], "no column of texts")):
        assert main(["summarize", *arguments]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 0), ("source_tokens", -1), ("chat", "yes"), ("instruction", 5), ("joint", None),
                                             ("target_words", 10**9), ("task", "tag"), ("method", "magic")])
def test_a_damaged_task_is_refused(name: str, value: Any, tuned: Path, tmp_path: Path) -> None:
    task = json.loads((tuned / "task.json").read_text())
    (tmp_path / "task.json").write_text(json.dumps({**task, name: value}))
    with pytest.raises(UserError, match=r"task\.json"):
        Writer.open(tmp_path, load_model(tuned), Tokenizer.open(tuned), "summarize")


def test_a_damaged_extractor_is_refused(extractor: Path, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text((extractor / "task.json").read_text().replace('"sentences": 1', '"sentences": -1'))
    with pytest.raises(UserError, match="-1 sentences"):
        myna.load(tmp_path)


def test_other_models_do_not_summarize(base: Path) -> None:
    with pytest.raises(UserError, match="a decoder made for summarize"):
        myna.load(base).summarize("A text.")
    assert lead_words("One two three.", 2) == "One two"
