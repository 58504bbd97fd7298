"""The zipped table of news becomes rows of text and headline."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

import myna.fetch.summaries
from myna.errors import UserError
from myna.fetch.summaries import read_news

LONG = "The river rose after the storm. 上海也下雨。 " * 12


def pack(*rows: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("NewsArticles.csv", "article_id,title,subtitle,text\n" + "\n".join(rows) + "\n")
    return held.getvalue()


def test_headlines_and_texts() -> None:
    data = pack(f'1,"Storm in the, city",,"Share this with Media playback is not supported on this device {LONG}"',
                f'2,Rain and more rain,,"MOSCOW, February 7. /TASS/. {LONG}again"', f'3,A double of one,,"{LONG}"',
                f'4,Quotable,,"{LONG}five"', "5,A very short text,,short", f'6,,,"{LONG}six"')
    (name, text), = read_news(iter([("x/NewsArticles.zip", data)]))
    rows = [json.loads(line) for line in text.splitlines()]
    assert name == "news.jsonl" and [row["headline"] for row in rows] == ["Storm in the, city", "Rain and more rain"]
    assert all(row["text"].startswith("The river rose") for row in rows) and "上海" in rows[0]["text"]


def test_a_table_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(myna.fetch.summaries, "_LARGEST", 100)
    with pytest.raises(UserError, match="at most 100"):
        list(read_news(iter([("x.zip", pack(f'1,A b c,,"{LONG}"'))])))
