"""Fill blanks in a text with an encoder: the likeliest words where the text says [MASK], <mask>, <|mask|> or ___.

A word may be several pieces of the vocabulary, so each number of pieces up to `max_pieces` is tried: that many mask tokens take
the blank's place and are filled from left to right by beam search, each piece scored with the pieces chosen so far in
view and the masks to come still hidden. Fillings of different lengths are ordered by their mean log-probability per
piece; the sum would always prefer the shortest. The probability shown is the exponential of that mean: of a filling of one
piece it is the model's own.

    fill_text(model, tokenizer, "The [MASK] of Denmark", FillOptions(n=3))[0].text

B beams · T tokens · V vocabulary
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from myna.data.masking import Marks, read_marks
from myna.errors import UserError
from myna.generate.options import FillOptions
from myna.models.protocol import LogProbs
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]

BLANK = re.compile(r"\[MASK\]|<\|mask\|>|<mask>|_{3,}")
_LEAST_BEAMS = 10  # own choice: a word's first piece is seldom lower than tenth when the whole word is among the best five
_MOST_COMBINATIONS = 27  # of lengths, of several blanks: three blanks of up to three pieces


class MaskedModel(Protocol):
    """What can fill a blank."""

    max_length: int

    def masked_log_probs(self, ids: Tensor, mask: Tensor | None = None, chosen: Tensor | None = None) -> LogProbs:
        """Score every id of the vocabulary at the chosen positions: (N, V)."""


@dataclass(frozen=True)
class Filling:
    """One way to fill the blanks of a text."""

    text: str
    words: list[str]
    pieces: list[int]
    "How many pieces of the vocabulary each word is."
    probability: float
    "Geometric mean over all pieces."
    log_prob: float
    "Sum over all pieces, natural logarithm."


def fill_text(model: MaskedModel, tokenizer: Tokenizer, text: str, options: FillOptions | None = None) -> list[Filling]:
    """Return the likeliest fillings of the blanks of a text, best first.

    A blank after a space is filled by a word that the space belongs to; one inside a word by what goes on without one. Raises
    UserError when there is no blank, the text does not fit the model or an option cannot be.
    """
    options = options or FillOptions()
    if options.n < 1 or options.max_pieces < 1:
        raise UserError(f"n is {options.n} and max_pieces is {options.max_pieces}", "1 or more")
    parts = BLANK.split(text)
    if len(parts) == 1:
        raise UserError(f"no blank in {text[:60]!r}", "[MASK], <mask>, <|mask|> or ___ where a word is missing")
    marks = read_marks(tokenizer)
    spaced = [part.endswith(" ") for part in parts[:-1]]
    around = [tokenizer.encode(part.removesuffix(" ") if end else part) for part, end in zip(parts, [*spaced, False], strict=True)]
    longest = options.max_pieces
    while longest > 1 and longest ** len(spaced) > _MOST_COMBINATIONS:
        longest -= 1
    length = sum(map(len, around)) + longest * len(spaced) + 2
    if length > model.max_length:
        raise UserError(f"a text of {length:,} tokens with its blanks filled", f"at most {model.max_length:,}, the model's context",
                        "give the sentences around the blank")
    found: dict[tuple[str, ...], Filling] = {}
    for lengths in itertools.product(range(1, longest + 1), repeat=len(spaced)):
        for filling in _search(model, tokenizer, marks, around, lengths, spaced, max(_LEAST_BEAMS, options.n)):
            key = tuple(filling.words)
            if key not in found or found[key].probability < filling.probability:
                found[key] = filling
    return sorted(found.values(), key=lambda filling: -filling.probability)[:options.n]


def _search(model: MaskedModel, tokenizer: Tokenizer, marks: Marks, around: Sequence[list[int]], lengths: Sequence[int],
            spaced: Sequence[bool], width: int) -> list[Filling]:
    """Fill blanks of given lengths by beam search from left to right."""
    import torch

    ids, slots = [marks.cls_id, *around[0]], []
    for count, after in zip(lengths, around[1:], strict=True):
        slots.append(range(len(ids), len(ids) + count))
        ids += [*[marks.mask_id] * count, *after]
    ids.append(marks.separator_id)
    begins, bare, inside = _kinds(tokenizer, marks)
    rows, totals = np.array([ids]), np.zeros(1)  # (B, T), (B,)
    for slot, space in zip(slots, spaced, strict=True):
        for place in slot:
            allowed = inside if place > slot[0] else begins if space else bare
            chosen = np.zeros(rows.shape, bool)
            chosen[:, place] = True
            scores = model.masked_log_probs(torch.from_numpy(rows), chosen=torch.from_numpy(chosen)).astype(np.float64)  # (B, V)
            summed = (totals[:, None] + np.where(allowed, scores, -np.inf)).ravel()
            best = np.argsort(-summed, kind="stable")[:width]
            best = best[np.isfinite(summed[best])]
            rows, totals = rows[best // scores.shape[1]].copy(), summed[best]
            rows[:, place] = best % scores.shape[1]
    fillings = []
    for row, total in zip(rows, totals, strict=True):
        words = _decode(tokenizer, [row[slot.start:slot.stop].tolist() for slot in slots])
        if words is not None:
            text = "".join(tokenizer.decode(part) + word for part, word in zip(around, [*words, ""], strict=True))
            mean = float(total) / sum(lengths)
            fillings.append(Filling(text, [word.removeprefix(" ") for word in words], list(lengths), math.exp(mean), float(total)))
    return fillings


def _kinds(tokenizer: Tokenizer, marks: Marks) -> tuple[Array, Array, Array]:
    """Tell of each token (V,) whether a word may begin with it after a space, begin with it without one, and go on with it."""
    pieces = tokenizer.token_bytes
    word = np.array([bool(piece.strip()) for piece in pieces]) & ~marks.special
    space = np.array([piece[:1] == b" " and piece[1:2].strip() != b"" for piece in pieces])
    bare = np.array([piece[:1].strip() != b"" for piece in pieces])
    return word & space, word & bare, word & bare


def _decode(tokenizer: Tokenizer, pieces: Sequence[list[int]]) -> list[str] | None:
    """Return the words that pieces spell, None where one is no text."""
    try:
        return [tokenizer.decode_bytes(ids).decode("utf-8") for ids in pieces]
    except UnicodeDecodeError:
        return None
