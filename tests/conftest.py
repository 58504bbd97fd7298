"""What several test files share: a small real corpus, and one small model built from it."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path
from typing import NamedTuple

import pytest

# the smallest model that goes the whole road in a few seconds
TINY = {"plan.hidden_size": 64, "plan.num_hidden_layers": 1, "plan.context": 64, "plan.batch_tokens": 512, "tokenizer.vocab_size": 512,
        "ngram.order": 3, "train.validations": 2, "evaluate.resamples": 200}


def tiny_flags() -> list[str]:
    """The same options as flags of the command line."""
    return [part for name, value in TINY.items() for part in ("--" + name.replace("_", "-"), str(value))]


def write_topics(folder: Path, count: int = 40) -> Path:
    """Write Python's own help topics, a file each: English text that is on every machine."""
    folder.mkdir(parents=True)
    for name, text in sorted(pydoc_data.topics.topics.items())[:count]:
        (folder / f"{name.replace('/', '_')}.txt").write_text(text, encoding="utf-8")
    return folder


class Built(NamedTuple):
    texts: Path
    folder: Path
    ngram: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A decoder and an n-gram, each built from the same texts by the whole road."""
    from myna.api import build

    place = tmp_path_factory.mktemp("built")
    texts = write_topics(place / "texts")
    build(texts, out=place / "model", steps=40, threads=1, options=TINY)
    build([texts], out=place / "counted", family="ngram", threads=1, options=TINY)
    return Built(texts, place / "model", place / "counted")
