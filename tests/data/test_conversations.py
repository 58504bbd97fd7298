"""Rows of other people's formats become conversations; what is dropped, cut or refused is said with its place."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from myna.corpus.options import SplitOptions
from myna.data.conversations import Example, Reading, read_conversations, split_examples
from myna.data.options import RowsOptions
from myna.errors import UserError

TALK = ({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"})


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> Reading:
    return read_conversations([path], RowsOptions(**options))


def talk(*contents: str, roles: tuple[str, ...] = ("user", "assistant")) -> dict[str, Any]:
    return {"messages": [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]}


@pytest.mark.parametrize(("row", "format", "messages"), [
    ({"instruction": "Add", "input": "2+2?", "output": "4"}, "alpaca: instruction, input, output",
     ({"role": "user", "content": "Add\n\n2+2?"}, TALK[1])),
    ({"instruction": "2+2?", "input": "", "output": "4", "text": "### all of it"}, "alpaca: instruction, input, output", TALK),
    ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "id": 3}, "sharegpt: conversations", TALK),
    ({"conversations": [{"role": "User", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}, "messages: conversations", TALK),
    ({"messages": list(TALK), "system": "Be short."}, "messages: messages", ({"role": "system", "content": "Be short."}, *TALK)),
    ({"prompt": "2+2?", "completion": "4"}, "prompt/completion: prompt, completion", TALK),
    ({"question": "2+2?", "answer": "4", "title": "sums"}, "prompt/completion: question, answer", TALK),
])
def test_each_format_is_told_by_its_columns(tmp_path: Path, row: dict[str, Any], format: str, messages: tuple[Any, ...]) -> None:
    reading = read(write(tmp_path / "rows.jsonl", row))
    assert [example.messages for example in reading.examples] == [messages]
    assert reading.said() == [f"{format}; 1 row"] and reading.examples[0].where.endswith("rows.jsonl:1")


def test_csv_tsv_json_parquet_and_compressed_rows(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], ["one, or\ntwo?", "two"], ["three?", 'a "quoted" four']])
    (tmp_path / "b.tsv").write_text("question\tanswer\nfive?\tsix\n")
    (tmp_path / "c.json").write_text(json.dumps([{"instruction": "seven?", "output": "eight"}]))
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "nine?", "completion": "ten"}\n'))
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    turns = [{"role": "user", "content": "eleven?"}, {"role": "assistant", "content": "twelve"}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "e.parquet")
    reading = read(tmp_path)
    assert [(e.messages[0]["content"], e.messages[1]["content"]) for e in reading.examples] == [
        ("one, or\ntwo?", "two"), ("three?", 'a "quoted" four'), ("five?", "six"), ("seven?", "eight"), ("nine?", "ten"),
        ("eleven?", "twelve")]
    assert reading.examples[1].where.endswith("a.csv:4")
    assert reading.said()[-1] == "4 formats are mixed" and len(reading.files) == 5


def test_text_files_and_text_columns(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("café".encode("cp1252") + b" and more of it\n")
    write(tmp_path / "b.jsonl", {"text": "one document"}, {"text": " "})
    reading = read(tmp_path)
    assert [example.text for example in reading.examples] == ["café and more of it\n", "one document"]
    assert reading.problems["empty texts dropped"].first.endswith("b.jsonl:2")


def test_what_is_dropped_or_cut_is_counted_with_its_first_place(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", talk("a", "b"), talk("a", "b"), talk("a", "b", "c"), talk("a", " "), talk(" ", "b"), talk("a"),
                 talk("x", "y", roles=("assistant", "user")), talk("x", "y", "z", roles=("user", "user")),
                 {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, talk("q", "\ud800 r"))
    reading = read(path)
    assert {what: (problem.count, problem.first.rpartition(":")[2]) for what, problem in reading.problems.items()} == {
        "duplicates dropped": (2, "2"), "conversations that ended with a user's turn, which was cut": (2, "3"),
        "conversations with an empty answer dropped": (1, "4"), "conversations with an empty question dropped": (1, "5"),
        "conversations without an answer dropped": (2, "6"), "conversations with roles in a wrong order dropped": (1, "7"),
        "rows with a content that is no text dropped": (1, "9"), "rows with broken characters, each now U+FFFD": (1, "10")}
    assert [example.messages[-1]["content"] for example in reading.examples] == ["b", "\ufffd r"]


@pytest.mark.parametrize(("row", "said"), [
    ('{"messages": [', "rows.jsonl:2: no JSON"), ("[1]", "rows.jsonl:2: a row that is no object"),
    ({"messages": [{"role": "usr", "content": "a"}]}, "did you mean user"), ({"messages": ["a"]}, "a turn that is no object"),
    ({"messages": [{"speaker": "a"}]}, "a turn with speaker"), ({"quesion": "a", "answer": "b"}, "did you mean question"),
    ({"chosen": "a", "rejected": "b", "prompt": "c"}, "preference pairs"), ("[" * 100_000, "no JSON")])
def test_a_bad_row_is_an_error_with_its_place(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path / "rows.jsonl", talk("a", "b"), row, talk("c", "d"))
    with pytest.raises(UserError) as caught:
        read(path)
    assert said in str(caught.value) and "rows.jsonl:2" in str(caught.value)
    if "preference" not in said:
        reading = read(path, skip_bad=True)
        assert len(reading.examples) == 2 and reading.problems["bad rows passed over"].count == 1


def test_columns_named_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"quest": "2+2?", "reply": "4", "text": "other"})
    assert read(path, prompt="quest", answer="reply").examples[0].messages == TALK
    assert read(path, text="reply").examples[0].text == "4"
    with pytest.raises(UserError, match=r"no column 'repli' \(did you mean reply\?\)"):
        read(path, prompt="quest", answer="repli")
    with pytest.raises(UserError, match="only one"):
        read(path, prompt="quest")


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="not one of"):
        read(tmp_path / "x.docx")
    write(tmp_path / "rows.jsonl", talk("a", "b"))
    assert any("files not read" in line for line in read(tmp_path).said())
    (tmp_path / "bad.csv").write_text("question,answer\n1,2,3\n")
    with pytest.raises(UserError, match=r"bad\.csv:2: 3 cells under a header of 2"):
        read(tmp_path / "bad.csv")
    with pytest.raises(UserError, match="no conversation"):
        read(write(tmp_path / "none.jsonl"))


def test_the_split_is_by_content_and_holds_some_of_each_out() -> None:
    examples = [Example(({"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": "yes " * 20})) for n in range(200)]
    parts = split_examples(examples, SplitOptions())
    assert {name: len(part) for name, part in parts.items()} == {"train": 181, "valid": 9, "test": 10}
    again = split_examples([*examples[::-1], Example(messages=examples[0].messages)], SplitOptions())
    assert {e.key for e in again["test"]} == {e.key for e in parts["test"]}
    sides = [{e.key for e in part} for part in again.values()]
    assert not sides[0] & sides[1] and not sides[1] & sides[2] and not sides[0] & sides[2]
    few = split_examples(examples[:6], SplitOptions())
    assert [len(few[name]) for name in ("train", "valid", "test")] == [2, 2, 2]
    with pytest.raises(UserError, match="too few"):
        split_examples(examples[:4], SplitOptions())


def test_a_long_text_is_cut_into_sections_of_which_only_the_last_ends() -> None:
    text = "".join(f"Paragraph {n} says é and goes on for a while.\n\n" for n in range(600))
    parts = split_examples([Example(text=text)], SplitOptions())
    sections = [example for part in parts.values() for example in part]
    assert len(sections) > 30 and sum(example.ends for example in sections) == 1
    assert sum(example.bytes for example in sections) == len(text.encode())
