"""Options of the cleaning and splitting stages.

    CleanOptions(min_chars=20)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CleanOptions:
    """How raw files become cleaned documents."""

    min_chars: int = 1
    "Drop documents shorter than this many characters after cleaning."
    text_key: str = ""
    "The field or column that holds the text in JSONL, CSV, TSV and Parquet; empty means find it."
    encoding: str = ""
    "The encoding of every text file (such as gb18030); empty means detect it per file."
    deduplicate: bool = True
    "Drop documents whose cleaned text was already seen."


@dataclass(frozen=True)
class SplitOptions:
    """How documents are divided into train, valid and test."""

    test_fraction: float = 0.05
    "The largest share of the bytes set aside for test (at least one document or section)."
    valid_fraction: float = 0.05
    "The largest share of the bytes set aside for validation (at least one document or section)."
    section_bytes: int = 65536
    "The length of the sections that long documents are cut into when there are too few documents."
