"""Labelled texts from rows and folders: where they are found, what is left out and said, and a split that leaks nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from myna.corpus.options import SplitOptions
from myna.data.labelled import LabelledReading, read_labelled, split_labelled
from myna.data.options import RowsOptions
from myna.errors import UserError


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read(*paths: Path, **options: Any) -> LabelledReading:
    return read_labelled(list(paths), RowsOptions(**options))


def pairs(reading: LabelledReading) -> list[tuple[str, tuple[str, ...]]]:
    return [(text.text, text.labels) for text in reading.texts]


@pytest.mark.parametrize(("row", "columns"), [
    ({"text": "good", "label": "pos"}, {"text": "text", "label": "label"}),
    ({"Category": "pos", "Text": "good"}, {"text": "Text", "label": "Category"}),
    ({"id": 3, "review": "good", "sentiment": "pos"}, {"text": "review", "label": "sentiment"}),
    ({"title": "good", "topic": "pos"}, {"text": "title", "label": "topic"}),
    ({"编号": 3, "评论": "good", "情感": "pos"}, {"text": "评论", "label": "情感"}),
    ({"类别": "pos", "内容": "good"}, {"text": "内容", "label": "类别"}),
])
def test_columns_are_found_by_their_usual_names(tmp_path: Path, row: dict[str, Any], columns: dict[str, str]) -> None:
    reading = read(write(tmp_path / "a.jsonl", row))
    assert pairs(reading) == [("good", ("pos",))] and reading.columns == columns
    assert reading.said() == [f"text: {columns['text']}, label: {columns['label']}; 1 row"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_a_chinese_table_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    lines = "".join(f"这本书第{number}章写得很好看，值得一读,好评\r\n质量太差了，第{number}页就破了,差评\r\n" for number in range(9))
    (tmp_path / "a.csv").write_bytes(f"文本,标签\r\n{lines}".replace("，值", "、值").encode(encoding))
    found = pairs(read(tmp_path / "a.csv"))
    assert len(found) == 18 and found[0] == ("这本书第0章写得很好看、值得一读", ("好评",))


@pytest.mark.parametrize("cell", ["新闻|体育", "新闻,体育", "新闻，体育", "新闻、体育", "新闻;体育"])
def test_several_labels_in_a_cell_are_divided_where_they_are_asked_for(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "今天有比赛", "标签": cell}, {"text": "今天没有比赛", "标签": "新闻"})
    assert pairs(read(path, multi_label=True)) == [("今天有比赛", ("新闻", "体育")), ("今天没有比赛", ("新闻",))]
    reading = read(path)
    assert pairs(reading)[0] == ("今天有比赛", (cell,)) and any("--multi-label" in line for line in reading.said()) == ("|" in cell)


def test_a_title_goes_before_its_text_and_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"title": "Bread", "text": "It rose.", "label": 1, "other": 2.0})
    assert pairs(read(path)) == [("Bread\nIt rose.", ("1",))]
    assert pairs(read(path, text="text", label="other")) == [("It rose.", ("2",))]
    assert pairs(read(path, text="text+title")) == [("It rose.\nBread", ("1",))]
    with pytest.raises(UserError, match=r"a\.jsonl:1 has no column 'lable' \(did you mean label\?\)"):
        read(path, label="lable")
    with pytest.raises(UserError, match=r"no column of labels among 'text'.*--rows.label COLUMN"):
        read(write(tmp_path / "b.jsonl", {"text": "x"}))
    with pytest.raises(UserError, match="no column of texts"):
        read(write(tmp_path / "c.jsonl", {"label": "x", "foo": "bar"}))


def test_folders_hold_a_label_each_by_file_or_by_folder(tmp_path: Path) -> None:
    write(tmp_path / "a/pos.txt", "good", "", "fine")
    write(tmp_path / "a/neg.txt", "bad")
    assert sorted(pairs(read(tmp_path / "a"))) == [("bad", ("neg",)), ("fine", ("pos",)), ("good", ("pos",))]
    write(tmp_path / "b/pos/1.txt", "good", "fine")
    write(tmp_path / "b/neg/deep/1.txt", "bad")
    assert sorted(pairs(read(tmp_path / "b"))) == [("bad", ("neg",)), ("good\nfine", ("pos",))]
    write(tmp_path / "c/train/pos.txt", "good")
    with pytest.raises(UserError, match=r"would have the label 'train'.*--test"):
        read(tmp_path / "c")
    (tmp_path / "b" / "picture.png").write_bytes(b"\x89PNG")
    assert any("1 files not read" in line for line in read(tmp_path / "b").said())


def test_what_would_spoil_a_score_is_left_out_and_counted_with_its_place(tmp_path: Path) -> None:
    reading = read(write(tmp_path / "a.jsonl", {"text": " good ", "label": "pos"}, {"text": "good", "label": "pos"},
                         {"text": "so so", "label": "pos"}, {"text": "so so", "label": "neg"}, {"text": " ", "label": "neg"},
                         {"text": "what", "label": None}, {"text": "bad", "label": "neg"}))
    assert pairs(reading) == [("good", ("pos",)), ("bad", ("neg",))]
    said = "\n".join(reading.said())
    assert "1 duplicates dropped (first:" in said and "a.jsonl:2)" in said
    assert "2 rows dropped whose text also stands with another label" in said and "a.jsonl:3)" in said
    assert "1 empty texts dropped" in said and "1 rows without a label dropped" in said


@pytest.mark.parametrize(("bad", "why"), [
    ("{", "no JSON"), ({"text": 3, "label": "a"}, "its text is 3"), ({"text": "x", "label": {}}, r"its label is \{\}"),
    ({"text": "x", "label": 0.5}, "its label is 0.5"), ({"text": "x", "label": "a" * 300}, "its label has 300 characters"),
])
def test_a_bad_row_is_an_error_with_its_line_or_passed_over(tmp_path: Path, bad: Any, why: str) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "y", "label": "b"}, bad)
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {why}.*--skip-bad"):
        read(path)
    reading = read(path, skip_bad=True)
    assert pairs(reading) == [("y", ("b",))] and "1 bad rows passed over" in "\n".join(reading.said())


def test_several_labels_are_a_list_or_a_divided_cell_where_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "x", "labels": "a, b"}, {"text": "y", "labels": "b|c, d"}, {"text": "z", "labels": ""})
    assert pairs(read(path)) == [("x", ("a, b",)), ("y", ("b|c, d",))]
    several = read(path, multi_label=True)
    assert several.several and pairs(several) == [("x", ("a", "b")), ("y", ("b", "c, d")), ("z", ())]
    listed = read(write(tmp_path / "b.jsonl", {"text": "x", "labels": ["a"]}, {"text": "y", "labels": ["b", "a", "b"]}))
    assert listed.several and pairs(listed) == [("x", ("a",)), ("y", ("b", "a"))]


def test_the_split_follows_the_text_alone_and_a_given_test_is_taken_out_of_training(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(200)]
    one = split_labelled(read(write(tmp_path / "a.jsonl", *rows)), SplitOptions())
    two = split_labelled(read(write(tmp_path / "b.jsonl", *reversed(rows))), SplitOptions())
    assert {name: len(texts) for name, texts in one.texts.items()} == {"train": 160, "valid": 20, "test": 20}
    assert all({text.text for text in one.texts[name]} == {text.text for text in two.texts[name]} for name in one.texts)
    test = read(write(tmp_path / "t.jsonl", *rows[:10], {"text": "new", "label": "c"}))
    given = split_labelled(read(tmp_path / "a.jsonl"), SplitOptions(), test=test)
    assert given.texts["test"] == test.texts and len(given.texts["train"]) + len(given.texts["valid"]) == 190
    assert not {text.text for text in given.texts["test"]} & {text.text for part in ("train", "valid") for text in given.texts[part]}
    assert any("10 texts of the training part" in line for line in given.said)
    assert given.labels == ["a", "b"] and any("1 labels in test were never seen in training" in line for line in given.said)


def test_imbalance_and_too_few_texts_are_said(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": "rare" if number < 8 else "usual"} for number in range(400)]
    parts = split_labelled(read(write(tmp_path / "a.jsonl", *rows)), SplitOptions())
    assert any(line.startswith("uneven: usual stands") for line in parts.said)
    few = split_labelled(read(write(tmp_path / "few.jsonl", *rows[:40])), SplitOptions())
    assert any("the test part has 4 texts only" in line for line in few.said)
    with pytest.raises(UserError, match="at least 2 texts in each part, and 2 labels"):
        split_labelled(read(write(tmp_path / "b.jsonl", *rows[:3])), SplitOptions())
    with pytest.raises(UserError, match="have the label 'rare'"):
        split_labelled(read(write(tmp_path / "c.jsonl", *rows[:8])), SplitOptions())
