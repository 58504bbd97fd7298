"""Small corpus directories for tests, written by hand in the corpus's own layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from myna.corpus.store import DOCUMENT, RANGE, SPAN, Corpus


def write_corpus(folder: Path, train: Sequence[str], valid: Sequence[str] = (), test: Sequence[str] = ()) -> Corpus:
    """Write documents; document i comes from file i, where it begins at byte 1000 * i."""
    folder.mkdir(parents=True)
    texts = [text.encode() for text in (*train, *valid, *test)]
    ends = np.cumsum([len(text) for text in texts])
    starts = ends - [len(text) for text in texts]
    (folder / "text.utf8").write_bytes(b"".join(texts))
    numbers = range(len(texts))
    rows = list(zip(starts, ends, numbers, [1000 * i for i in numbers], [0] * len(texts), [b""] * len(texts), strict=True))
    np.save(folder / "documents.npy", np.array(rows, dtype=DOCUMENT))
    spans = [(start, i, 1000 * i, end - start) for i, (start, end) in enumerate(zip(starts, ends, strict=True))]
    np.save(folder / "spans.npy", np.array(spans, dtype=SPAN))
    names = ["train"] * len(train) + ["valid"] * len(valid) + ["test"] * len(test)
    for name in ("train", "valid", "test"):
        ranges = [(starts[i], ends[i], i) for i in numbers if names[i] == name]
        np.save(folder / f"{name}.npy", np.array(ranges, dtype=RANGE))
    (folder / "report.json").write_text(json.dumps({"files": [{"path": f"{i}.txt"} for i in numbers]}), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"texts": len(texts), "bytes": int(ends[-1])}), encoding="utf-8")
    return Corpus.open(folder)
