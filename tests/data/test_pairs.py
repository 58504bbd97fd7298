"""Pairs from rows: columns found or named, what is left out and said, and a split by source that leaks nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from myna.corpus.options import SplitOptions
from myna.data.options import RowsOptions
from myna.data.pairs import PairReading, read_pairs, split_pairs
from myna.errors import UserError

SOURCES, TARGETS = ("source", "en", "zh", "原文"), ("target", "zh", "en", "译文")


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read(*paths: Path, **options: Any) -> PairReading:
    return read_pairs(list(paths), RowsOptions(**options), SOURCES, TARGETS)


def sides(reading: PairReading) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in reading.pairs]


@pytest.mark.parametrize(("row", "columns"), [
    ({"source": "door", "target": "门", "key": "x"}, {"source": "source", "target": "target"}),
    ({"id": 3, "ZH": "门", "EN": "door"}, {"source": "EN", "target": "ZH"}),
    ({"原文": "door", "译文": "门"}, {"source": "原文", "target": "译文"}),
    ({"en": "door", "source": "source", "target": "门"}, {"source": "source", "target": "target"}),
])
def test_columns_are_found_by_their_usual_names(tmp_path: Path, row: dict[str, Any], columns: dict[str, str]) -> None:
    reading = read(write(tmp_path / "a.jsonl", row))
    assert reading.columns == columns
    assert reading.said() == [f"source: {columns['source']}, target: {columns['target']}; 1 row"]


def test_columns_can_be_named_and_swapped_and_files_may_differ(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"en": "door", "zh": "门", "note": "n"})
    assert sides(read(path)) == [("door", "门")]
    assert sides(read(path, text="zh")) == [("门", "door")]  # the target is another column than the source
    assert sides(read(path, text="note", answer="en")) == [("n", "door")]
    table = tmp_path / "b.csv"
    table.write_text("source,target\n窗,window\n", encoding="utf-8")
    assert sides(read(path, table)) == [("door", "门"), ("窗", "window")]
    with pytest.raises(UserError, match=r"a\.jsonl:1 has no column 'nope' ?.*one of en, zh, note.*--rows.answer"):
        read(path, answer="nope")
    with pytest.raises(UserError, match=r"no column of targets among 'en, foo'.*--rows.answer COLUMN"):
        read(write(tmp_path / "c.jsonl", {"en": "x", "foo": "y"}))
    with pytest.raises(UserError, match="not one of"):
        read(write(tmp_path / "d.txt", "text"))


def test_doubles_empty_sides_and_several_targets_are_counted_with_their_place(tmp_path: Path) -> None:
    reading = read(write(tmp_path / "a.jsonl", {"source": " open ", "target": "打开"}, {"source": "open", "target": "打开"},
                         {"source": "open", "target": "开放"}, {"source": "", "target": "空"}, {"source": "off", "target": None}))
    assert sides(reading) == [("open", "打开"), ("open", "开放")]
    said = "\n".join(reading.said())
    assert "1 duplicates dropped (first:" in said and "a.jsonl:2)" in said
    assert "1 more targets of a source that stands with another, all kept" in said
    assert "1 pairs with an empty source dropped" in said and "1 pairs with an empty target dropped" in said
    with pytest.raises(UserError, match="no pair with two sides is left"):
        read(write(tmp_path / "b.jsonl", {"source": " ", "target": "x"}))


@pytest.mark.parametrize(("bad", "why"), [("{", "no JSON"), ({"source": 3, "target": "a"}, "its source is 3"),
                                          ({"source": "x", "target": ["a"]}, r"its target is \['a'\]")])
def test_a_bad_row_is_an_error_with_its_line_or_passed_over(tmp_path: Path, bad: Any, why: str) -> None:
    path = write(tmp_path / "a.jsonl", {"source": "y", "target": "b"}, bad)
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {why}.*--skip-bad"):
        read(path)
    reading = read(path, skip_bad=True)
    assert sides(reading) == [("y", "b")] and "1 bad rows passed over" in "\n".join(reading.said())


def test_equal_sources_stand_on_one_side_whatever_the_order(tmp_path: Path) -> None:
    rows = [{"source": f"第 {number // 2} 句", "target": f"sentence {number}"} for number in range(400)]
    one = split_pairs(read(write(tmp_path / "a.jsonl", *rows)), SplitOptions())
    two = split_pairs(read(write(tmp_path / "b.jsonl", *reversed(rows))), SplitOptions())
    assert {name: len(pairs) for name, pairs in one.items()} == {"train": 320, "valid": 40, "test": 40}
    sources = {name: {pair.source for pair in pairs} for name, pairs in one.items()}
    assert not sources["train"] & sources["valid"] and not sources["train"] & sources["test"] and not sources["valid"] & sources["test"]
    assert all(sources[name] == {pair.source for pair in two[name]} for name in two)


def test_given_parts_are_taken_out_of_training_and_too_few_pairs_are_an_error(tmp_path: Path) -> None:
    rows = [{"source": f"s{number}", "target": f"t{number}"} for number in range(100)]
    reading = read(write(tmp_path / "a.jsonl", *rows))
    test = read(write(tmp_path / "t.jsonl", {"source": "s1", "target": "another"}, {"source": "new", "target": "t"}))
    parts = split_pairs(reading, SplitOptions(), test=test)
    assert parts["test"] == test.pairs and len(parts["train"]) + len(parts["valid"]) == 99
    assert "1 training pairs taken out, whose sources stand in the test part" in "\n".join(reading.said())
    with pytest.raises(UserError, match="at least 2 pairs in each part"):
        split_pairs(read(write(tmp_path / "b.jsonl", *rows[:3])), SplitOptions())


def test_pairs_of_a_group_stay_together_and_keep_their_space(tmp_path: Path) -> None:
    rows = [{"source": f"def 函数{number}():", "target": "    return 1\n", "module": f"m{number % 10}"} for number in range(60)]
    reading = read_pairs([write(tmp_path / "a.jsonl", *rows, {"source": "  ", "target": "x", "module": "m1"})], RowsOptions(), SOURCES,
                         TARGETS, group="module", strip=False)
    assert len(reading.pairs) == 60 and reading.pairs[0].target == "    return 1\n" and reading.pairs[3].group == "m3"
    parts = split_pairs(reading, SplitOptions(test_fraction=0.2, valid_fraction=0.2))
    held = [{pair.group for pair in parts[name]} for name in ("train", "valid", "test")]
    assert all(held) and sum(map(len, held)) == 10 and len(set().union(*held)) == 10
