"""Questions with what is relevant to them: the forms people write, and what is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.data.options import RowsOptions
from myna.data.relevance import read_queries
from myna.errors import UserError


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_forms(tmp_path: Path) -> None:
    sheet = tmp_path / "q.csv"
    sheet.write_text("问题,文件,引文\n谁建了塔？,a.txt | b/c.txt,建于\n\"who, then?\",d.md,\n", encoding="utf-8")
    rows = write(tmp_path / "q.jsonl", {"query": "何时", "passage": "0001.txt"}, {"query": "where", "passage": ["x", "y", None, "x"]},
                 {"query": "how", "quote": " by hand "})
    found = read_queries([sheet, rows], RowsOptions())
    assert [(one.text, one.relevant, one.quote) for one in found.queries] == [
        ("谁建了塔？", ("a.txt", "b/c.txt"), "建于"), ("who, then?", ("d.md",), ""), ("何时", ("0001.txt",), ""), ("where", ("x", "y"), ""),
        ("how", (), "by hand")]
    assert [one.where.rpartition(":")[2] for one in found.queries] == ["2", "3", "1", "2", "3"]
    assert any("问题" in line for line in found.said())


def test_named_columns_win(tmp_path: Path) -> None:
    rows = write(tmp_path / "q.jsonl", {"question": "no", "asked": "yes", "where": "a.txt", "file": "b.txt"})
    (one,) = read_queries([rows], RowsOptions(text="asked", label="where")).queries
    assert (one.text, one.relevant) == ("yes", ("a.txt",))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    good = {"question": "谁", "relevant": "a.txt"}
    rows = write(tmp_path / "q.jsonl", good, good, {"question": " ", "relevant": "a.txt"}, {"question": "x", "relevant": []},
                 {"question": 3, "relevant": "a.txt"}, {"question": "x", "relevant": [3]}, {"question": "y", "relevant": None})
    found = read_queries([rows], RowsOptions(skip_bad=True))
    assert len(found.queries) == 1
    said = "\n".join(found.said())
    for part in ("1 duplicates dropped", "1 rows without a question", "2 questions dropped to which nothing", "2 bad rows passed over"):
        assert part in said
    with pytest.raises(UserError, match="jsonl:5: its question is 3"):
        read_queries([rows], RowsOptions())


@pytest.mark.parametrize(("row", "options", "said"), [
    ({"ask": "x", "answer": "y"}, RowsOptions(), "no column called relevant"), ({"a": 1}, RowsOptions(), "no column called question"),
    ({"question": "x", "file": "y"}, RowsOptions(text="questoin"), "did you mean question"),
    ({"question": "", "file": "y"}, RowsOptions(), "no question with something relevant is left")])
def test_what_is_wrong_is_one_line(row: object, options: RowsOptions, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as raised:
        read_queries([write(tmp_path / "q.jsonl", row)], options)
    assert "\n" not in str(raised.value)


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("who?")
    for path in (tmp_path / "q.txt", tmp_path):
        with pytest.raises(UserError, match="no rows of questions"):
            read_queries([path], RowsOptions())
