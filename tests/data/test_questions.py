"""Questions from rows of every form: columns, answers as they stand in the passage, what is dropped and said, parts by passage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.corpus.options import SplitOptions
from myna.data.options import RowsOptions
from myna.data.questions import find_answer, read_questions, split_questions
from myna.errors import UserError

PASSAGE = "The tower was built by Anna. 塔高三十九米。"


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_of_every_form_give_the_same_question(tmp_path: Path) -> None:
    asked = {"question": "Who built it?", "context": PASSAGE}
    start = PASSAGE.index("Anna")
    forms = [write(tmp_path / "a.jsonl", {**asked, "answers": ["Anna"]}),
             write(tmp_path / "b.jsonl", {**asked, "answers": {"text": ["Anna"], "answer_start": [start]}}),
             write(tmp_path / "c.jsonl", {"query": "Who built it?", "passage": PASSAGE, "answer": "anna"}),
             tmp_path / "d.json", tmp_path / "e.csv"]
    nested = {"data": [{"title": "t", "paragraphs": [{"context": PASSAGE, "qas": [
        {"question": "Who built it?", "id": "1", "answers": [{"text": "Anna", "answer_start": start}], "is_impossible": False}]}]}]}
    forms[3].write_text(json.dumps(nested, indent=1), encoding="utf-8")
    forms[4].write_text(f'question,context,answers\nWho built it?,"{PASSAGE}","[""Anna""]"\n', encoding="utf-8")
    for path in forms:
        [question] = read_questions([path], RowsOptions()).questions
        assert (question.question, question.passage, question.answers, question.starts) == ("Who built it?", PASSAGE, ("Anna",), (start,))
    (tmp_path / "doc.txt").write_text(PASSAGE, encoding="utf-8")
    [question] = read_questions([write(tmp_path / "f.jsonl", {"question": "塔有多高？", "file": "doc.txt", "answer": "三十九米"})],
                                RowsOptions()).questions
    assert question.passage == PASSAGE and question.starts == (PASSAGE.index("三十九米"),)


def test_what_is_not_answered_dropped_or_wrong_is_said(tmp_path: Path) -> None:
    asked = {"question": "Who?", "context": PASSAGE}
    path = write(tmp_path / "a.jsonl", {**asked, "answer": "Anna"}, {**asked, "answer": "Anna"},
                 {**asked, "question": "b", "answer": "unknown"},
                 {**asked, "question": "c", "answer": "Anna", "is_impossible": True}, {**asked, "question": "d", "answer": "Berta"},
                 {**asked, "question": "", "answer": "Anna"})
    reading = read_questions([path], RowsOptions())
    assert [len(question.answers) for question in reading.questions] == [1, 0, 0, 1] and reading.questions[3].starts == (-1,)
    said = " ".join(reading.said())
    for line in ("1 duplicates dropped", "1 questions whose answer is 'unknown' taken as unanswered", "1 answers that do not stand",
                 "1 rows without a question or a passage dropped"):
        assert line in said
    for row, why in (({"question": "a?"}, "no column of passages"), ({**asked, "question": 3}, "no text"),
                     ({**asked, "answer": True}, "its answer is True"), ({"question": "a?", "file": "../a.txt"}, "not in the folder")):
        bad = write(tmp_path / "bad.jsonl", row)
        with pytest.raises(UserError, match=why):
            read_questions([bad], RowsOptions())
    with pytest.raises(UserError, match="did you mean context"):
        read_questions([path], RowsOptions(text="contxt"))
    assert "1 bad rows passed over" in " ".join(read_questions([path, bad], RowsOptions(skip_bad=True)).said())


def test_an_answer_is_found_whatever_its_spaces_and_case() -> None:
    assert find_answer("U.S.", "in the U . S . now") == ("U . S .", 7)
    assert find_answer("ANNA", "by Anna") == ("Anna", 3) and find_answer("三 十", "高三十米") == ("三十", 1)
    assert find_answer("Berta", "by Anna") == ("Berta", -1) and find_answer(" ", "x")[1] == -1


def test_no_passage_stands_on_two_sides(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}?", "context": f"passage {n // 3} 段", "answer": "passage"} for n in range(120)]
    reading = read_questions([write(tmp_path / "a.jsonl", *rows)], RowsOptions())
    parts = split_questions(reading, SplitOptions()).questions
    passages = {name: {question.passage for question in part} for name, part in parts.items()}
    assert {name: len(found) for name, found in passages.items()} == {"train": 24, "valid": 8, "test": 8}
    assert not passages["train"] & passages["test"] and not passages["valid"] & passages["test"]
    test = read_questions([write(tmp_path / "t.jsonl", *rows[:6])], RowsOptions())
    given = split_questions(reading, SplitOptions(), test=test)
    assert not {q.passage for q in given.questions["train"]} & {q.passage for q in test.questions} and "6 questions whose" in given.said[0]
    with pytest.raises(UserError, match="leave"):
        split_questions(test, SplitOptions())
