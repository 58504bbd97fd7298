"""Word and character error rate: how much of what was said was written otherwise, left out or made up.

Both are an edit distance over the length of the reference: (substitutions + deletions + insertions) / reference words, or characters.
An insertion costs like any other edit, so a rate can exceed 1. Of the alignments with the fewest edits one is taken by a fixed rule
(that of `rapidfuzz`, which `jiwer` counts with), so that the three counts are the same elsewhere.

Sources: Levenshtein 1966; the bit-parallel table of H. Hyyrö, "Explaining and extending the bit-parallel approximate string matching
algorithm of Myers" (2001): a column of the table is two whole numbers, whose bits say where it rises and falls.

    word_error_rate("It was the best of times", "it was a best of time")        # ErrorRate(substitutions=2, ...), .rate 0.333
    character_error_rate("今天天气很好", "今天天汽好").rate                           # 0.333
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from myna.errors import UserError
from myna.metrics.intervals import RESAMPLES
from myna.metrics.numerals import fold_numbers
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report, Score

_BLOCK_WORDS, _FEWEST_BLOCKS, _SMALLEST_BLOCK = 350, 20, 5  # 350 words are about the 2 KB of `metrics/language.py`'s blocks
_APOSTROPHES = "'\u2019\u02bc"
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))  # ideographs, by Unicode's blocks


@dataclass(frozen=True)
class Folding:
    """What is written in several ways and compared as one, beside what always is (case, width, punctuation)."""

    numbers: bool = False
    "123, 一百二十三 and one hundred and twenty-three."
    to_simplified: Callable[[str], str] | None = None
    "Traditional and simplified Chinese: what turns a text into the latter."

    def __call__(self, text: str) -> str:
        """Write a text in the one way."""
        text = text if self.to_simplified is None else self.to_simplified(text)
        return fold_numbers(text) if self.numbers else text

    @property
    def signature(self) -> str:
        """Say how texts are compared."""
        return (f"case=folded|punctuation=dropped|numbers={'digits' if self.numbers else 'as-written'}|width=NFKC"
                f"|variants={'simplified' if self.to_simplified else 'kept'}")


AS_WRITTEN = Folding()


@dataclass(frozen=True)
class ErrorRate:
    """Edits that turn the reference into the hypothesis, and the reference's length."""

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def edits(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits over the reference's length; of an empty reference 0 or, where something was written, infinite."""
        return self.edits / self.length if self.length else float("inf") if self.edits else 0.0


def normalize_words(text: str, folding: Folding = AS_WRITTEN) -> list[str]:
    """Cut a text into the words that are compared: NFKC (full-width forms folded), lower case, punctuation dropped.

    An apostrophe inside a word stays (don't), a hyphen parts words, and each Chinese character is a word. Numbers (10 is not ten) and
    traditional forms stay as they are written unless `folding` says otherwise.
    """
    folded = folding(unicodedata.normalize("NFKC", text).casefold())
    out = []
    for place, character in enumerate(folded):
        before, after = folded[place - 1 : place], folded[place + 1 : place + 2]
        if character in _APOSTROPHES and before.isalnum() and after.isalnum():
            out.append("'")
        elif any(low <= ord(character) <= high for low, high in _HAN):
            out.append(f" {character} ")
        elif unicodedata.category(character)[0] in "LNM":
            out.append(character)
        else:
            out.append(" ")
    return "".join(out).split()


def normalize_characters(text: str, folding: Folding = AS_WRITTEN) -> list[str]:
    """Cut a text into the characters that are compared: those of `normalize_words`, without what lies between the words."""
    return [character for word in normalize_words(text, folding) for character in word]


def word_error_rate(reference: str, hypothesis: str, folding: Folding = AS_WRITTEN) -> ErrorRate:
    """Count the edits between the words of two texts, normalised by `normalize_words`."""
    return count_edits(normalize_words(reference, folding), normalize_words(hypothesis, folding))


def character_error_rate(reference: str, hypothesis: str, folding: Folding = AS_WRITTEN) -> ErrorRate:
    """Count the edits between the characters of two texts, normalised by `normalize_characters`: the measure for Chinese."""
    return count_edits(normalize_characters(reference, folding), normalize_characters(hypothesis, folding))


def count_edits(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorRate:
    """Count the edits that turn one sequence into another."""
    kinds = [kind for kind, _ in find_edits(reference, hypothesis)]
    return ErrorRate(kinds.count("substitution"), kinds.count("deletion"), kinds.count("insertion"), len(reference))


def find_edits(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[tuple[str, int]]:
    """Return the fewest edits that turn `reference` into `hypothesis`: (kind, place in the reference), in order.

    Time is len(reference) * len(hypothesis) / 64 and memory a quarter of a byte for each pair.
    """
    shared = min(len(reference), len(hypothesis))
    start = next((i for i in range(shared) if reference[i] != hypothesis[i]), shared)
    end = next((i for i in range(shared - start) if reference[-1 - i] != hypothesis[-1 - i]), shared - start)
    wanted, given = reference[start : len(reference) - end], hypothesis[start : len(hypothesis) - end]
    rises, falls = _table(wanted, given)
    row, column = len(wanted), len(given)
    edits: list[tuple[str, int]] = []
    while row and column:  # from the last corner of the table back to the first
        if rises[column] >> (row - 1) & 1:
            row -= 1
            edits.append(("deletion", start + row))
        elif column > 1 and falls[column - 1] >> (row - 1) & 1:
            column -= 1
            edits.append(("insertion", start + row))
        else:
            row, column = row - 1, column - 1
            if wanted[row] != given[column]:
                edits.append(("substitution", start + row))
    edits += [("deletion", start + place) for place in reversed(range(row))]
    edits += [("insertion", start)] * column
    return edits[::-1]


def _table(wanted: Sequence[Hashable], given: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return for each column of the table of distances (the first is of nothing given) where it rises by one from a row to the next, and
    where it falls: bit i is the step from row i to row i + 1."""
    places: dict[Hashable, int] = {}
    for place, item in enumerate(wanted):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(wanted)) - 1
    up, down = full, 0
    rises, falls = [up], [down]
    for item in given:
        same = places.get(item, 0)
        diagonal = (((same & up) + up) ^ up) | same | down  # where the distance is that of the place up and left
        right_up, right_down = down | ~(diagonal | up), diagonal & up  # where it rises or falls from the column before
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(diagonal | right_up)) & full, right_up & diagonal & full
        rises.append(up)
        falls.append(down)
    return rises, falls


def speech_report(references: Sequence[str], hypotheses: Sequence[str], resamples: int = RESAMPLES, seed: int = 0,
                  folding: Folding = AS_WRITTEN) -> Report:
    """Score transcripts against what was said, each with a 95 % interval by the bootstrap over blocks of reference words.

    Raises UserError when the references have fewer than two blocks of words.
    """
    metrics: dict[str, Score] = {}
    for name, normalize in (("word_error_rate", normalize_words), ("character_error_rate", normalize_characters)):
        pairs = [(normalize(reference, folding), normalize(hypothesis, folding))
                 for reference, hypothesis in zip(references, hypotheses, strict=True)]
        length = sum(len(reference) for reference, _ in pairs)
        size = block_words(length)
        rows = np.array([row for reference, hypothesis in pairs for row in count_blocks(reference, hypothesis, size)]).reshape(-1, 2)
        if len(rows) < 2:
            raise UserError(f"a reference of {length} words", f"at least {2 * _SMALLEST_BLOCK}, for an interval", "give more speech")
        unit = "word" if name.startswith("word") else "character"
        signature = f"{name}|per={unit}|{folding.signature}|bootstrap={resamples}|block={size}{unit}s|seed={seed}|v1"
        metrics |= measured_report({name: Measure(rows, ratio, signature, lower_is_better=True)}, "", resamples, seed).metrics
    return Report(metrics)


def block_words(length: int) -> int:
    """Return how many words, or characters, of a reference of `length` make a block of the bootstrap."""
    return max(_SMALLEST_BLOCK, min(_BLOCK_WORDS, length // _FEWEST_BLOCKS))


def count_blocks(reference: Sequence[str], hypothesis: Sequence[str], size: int) -> list[tuple[int, int]]:
    """Return (edits, length) of each block of the reference; the last takes what would be less than half of one.

    Raises UserError when the reference is empty and the hypothesis is not.
    """
    if not reference:
        if hypothesis:
            raise UserError("a reference without words", "what was said", "leave a recording without speech out")
        return []
    cuts = list(range(0, max(1, len(reference) - size // 2), size))
    places = np.array([place for _, place in find_edits(reference, hypothesis)], dtype=np.int64)
    counts = np.bincount(np.searchsorted(cuts, places, side="right") - 1, minlength=len(cuts))
    return [(int(count), end - begin) for count, (begin, end) in zip(counts, pairwise([*cuts, len(reference)]), strict=True)]
