"""Options of the batches that training reads. Imported by the command line, so nothing heavy here.

    MaskingOptions(whole_word=True)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskingOptions:
    """Which tokens an encoder must guess."""

    mask_probability: float = 0.4
    "Share of the tokens that are hidden and predicted: 0.15 in BERT, RoBERTa and ALBERT; 0.4 learns faster here."
    whole_word: bool = False
    "Hide all pieces of a word together; each Han character is a word."


@dataclass(frozen=True)
class SpanOptions:
    """What an encoder-decoder learns from plain text; the rows that are left continue a text given as much of it as fits."""

    short_share: float = 0.25
    "Share of the rows that continue a text given a part of any length, as a prompt is."
    begin_share: float = 0.15
    "Share of the rows that begin a text, given nothing."
    blank_share: float = 0.15
    "Share of the rows that fill blanks (span corruption)."
    noise_density: float = 0.15
    "Share of the tokens of such a row that are hidden (0.15 in T5)."
    mean_span_length: float = 3.0
    "Mean tokens of a blank (3 in T5)."


@dataclass(frozen=True)
class RowsOptions:
    """Which columns of the rows are learned from, where their names are not usual ones."""

    prompt: str = ""
    "Column that holds the question or instruction."
    answer: str = ""
    "Column that holds the answer."
    text: str = ""
    "Column of text: all of it is learned, or it is what is classified (there title+text joins two)."
    label: str = ""
    "Column of the labels (--task classify)."
    multi_label: bool = False
    "A text may have several labels: a list, or a cell divided by | or by commas (--task classify)."
    segment: bool = False
    "Learn to find the words themselves, not their labels (--task tag)."
    skip_bad: bool = False
    "Pass over rows that cannot be read, and count them, instead of stopping at the first."
