"""Batches for an encoder: windows of the stream in which some tokens are hidden and must be guessed.

Of the tokens of a window a share is chosen (15 % in BERT, by default 40 % here: Wettig et al. 2023, "Should you mask 15 % in masked
language modeling?"); of these 80 % become the mask token, 10 % another token drawn at random and 10 % stay
as they are, since there are no masks in the text that the model will meet later (Devlin et al. 2019, "BERT", section 3.1 and
appendix A.1). With `whole_word`, all pieces of a word are chosen together (the authors' release of May 2019; Cui et al. 2021 for
Chinese). The choice is drawn anew in every step (Liu et al. 2019, "RoBERTa", section 4.1): it is a pure function of
(seed, step), so a resumed run needs no history. With `pairs`, as ALBERT learns (Lan et al. 2020, section 3.1): two consecutive
segments, swapped half of the time, with a label that says so.

    reader = Masked(ids, context=128, seed=0, marks=read_marks(tokenizer))
    reader.read(step=0, rows=16)["labels"]            # (16, 128): ids to guess, -100 elsewhere

B rows · T tokens of a row · N tokens of a window without its marks · V vocabulary
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myna.data.options import MaskingOptions
from myna.data.order import Order, read_batch
from myna.errors import UserError
from myna.tokenizer.tokenizer import Tokenizer

MASK_NAMES, CLS_NAMES = ("<|mask|>", "<mask>", "[MASK]"), ("<|cls|>", "<s>", "[CLS]")  # ours, RoBERTa's, BERT's
NOTHING = -100  # the label of a position where nothing is predicted; PyTorch's and transformers' word for it
_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stays (Devlin et al. 2019, appendix A.1)
_SMALLEST = 4  # tokens of a window: fewer have no context to guess from


class Marks(NamedTuple):
    """What masking must know of a vocabulary."""

    mask_id: int
    cls_id: int
    separator_id: int
    special: NDArray[np.bool_]  # (V,) never chosen, never drawn
    starts: NDArray[np.bool_]  # (V,) begins a word wherever it stands
    ends: NDArray[np.bool_]  # (V,) what follows begins a word


def read_marks(tokenizer: Tokenizer) -> Marks:
    """Look up the marks of a vocabulary, by the names that Myna, RoBERTa and BERT give them. Raises UserError when one is missing."""
    special = np.zeros(tokenizer.vocab_size, bool)
    special[list(tokenizer.special_ids)] = True
    return Marks(_find(tokenizer, MASK_NAMES), _find(tokenizer, CLS_NAMES), tokenizer.separator_id, special, tokenizer.word_starts(),
                 tokenizer.word_ends())


def _find(tokenizer: Tokenizer, names: tuple[str, ...]) -> int:
    for name in names[1:]:
        try:
            return tokenizer.special_id(name)
        except UserError:
            continue
    return tokenizer.special_id(names[0])


def position_padding(tokenizer: Tokenizer) -> int:
    """Return an id that no text has, the lowest: a byte that is never part of UTF-8. For RoBERTa's `pad_token_id`.

    RoBERTa counts positions from `pad_token_id` + 1 on and gives tokens with that id no position of their own; the id of Myna's
    pad token stands at the end of the vocabulary, so the table of positions would be as long as the vocabulary.
    """
    never = {bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}  # RFC 3629, section 3
    return next(id for id, piece in enumerate(tokenizer.token_bytes) if piece in never)


class Masked:
    """Windows of a token stream, each epoch in another order, with another choice of hidden tokens in every step."""

    def __init__(self, ids: NDArray[np.integer[Any]], context: int, seed: int, marks: Marks, options: MaskingOptions | None = None,
                 pairs: bool = False) -> None:
        """ids: the token stream. context: ids of a row, marks included. Raises UserError when there is not one window, or on an option
        that cannot be."""
        self.options = options or MaskingOptions()
        if not 0 < self.options.mask_probability < 1:
            raise UserError(f"mask_probability is {self.options.mask_probability:g}", "a share above 0 and below 1, 0.4 for instance")
        self.ids, self.context, self.seed, self.marks, self.pairs = ids, context, seed, marks, pairs
        self._body = context - (3 if pairs else 2)
        if self._body < _SMALLEST:
            raise UserError(f"a context of {context} for an encoder", f"at least {context - self._body + _SMALLEST}")
        self._order = Order(len(ids), self._body, seed)
        self._ordinary = np.flatnonzero(~marks.special)

    def read(self, step: int, rows: int) -> dict[str, NDArray[np.int64]]:
        """Return the rows of a step: input_ids, labels and attention_mask (B, T), with pairs token_type_ids (B, T) and
        sentence_order_label (B,): 0 in order, 1 swapped, -100 where a document ends between the two."""
        body = read_batch(self.ids, self._order.starts(step, rows), self._body)[:, :-1]  # (B, N)
        draws = uniform(self.seed, step, rows * (3 * self.context + 2))
        more: dict[str, NDArray[np.int64]] = {}
        if self.pairs:
            cuts, draws = np.split(draws, [2 * rows])
            framed, more = self._pair(body, cuts[:rows], cuts[rows:])
        else:
            framed = frame(body, self.marks)
        chosen_by, acted_by, drawn_by = draws[: 3 * framed.size].reshape(3, *framed.shape)
        chosen = choose(self.words(framed), chosen_by, self.options.mask_probability)
        masked, random = chosen & (acted_by < _MASKED), chosen & (acted_by >= _MASKED) & (acted_by < _MASKED + _RANDOM)
        drawn = self._ordinary[(drawn_by * len(self._ordinary)).astype(np.int64)]
        inputs = np.where(masked, self.marks.mask_id, np.where(random, drawn, framed))
        return {"input_ids": inputs, "labels": np.where(chosen, framed, NOTHING), "attention_mask": np.ones_like(framed), **more}

    def words(self, framed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number what is chosen together, row by row from 0: words, or single tokens; -1 where nothing may be chosen."""
        special = self.marks.special[framed]
        begins = np.ones_like(special)
        if self.options.whole_word:
            begins[:, 1:] = self.marks.starts[framed[:, 1:]] | self.marks.ends[framed[:, :-1]]
        return np.where(special, -1, np.cumsum(begins, axis=1) - 1)

    def _pair(self, body: NDArray[np.int64], cut_by: NDArray[np.float64], swap_by: NDArray[np.float64],
              ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
        """Cut each window somewhere in its middle half and swap the segments of half of the rows."""
        N, separator = body.shape[1], self.marks.separator_id
        cuts = N // 4 + (cut_by * (N - 2 * (N // 4) + 1)).astype(np.int64)
        cuts = np.clip(cuts, 1, N - 1)
        framed = np.empty((len(body), self.context), np.int64)
        types = np.zeros_like(framed)
        order = np.empty(len(body), np.int64)
        for row, (text, cut) in enumerate(zip(body, cuts.tolist(), strict=True)):
            related = separator not in text[cut - 1:cut + 1]
            swapped = related and bool(swap_by[row] < 0.5)
            first, second = (text[cut:], text[:cut]) if swapped else (text[:cut], text[cut:])
            framed[row] = np.concatenate(([self.marks.cls_id], first, [separator], second, [separator]))
            types[row, len(first) + 2:] = 1
            order[row] = int(swapped) if related else NOTHING
        return framed, {"token_type_ids": types, "sentence_order_label": order}


def frame(body: NDArray[np.int64], marks: Marks) -> NDArray[np.int64]:
    """Put the class mark before each row and the separator after it: (B, N) to (B, N + 2)."""
    ends = np.ones((len(body), 1), np.int64)
    return np.concatenate((ends * marks.cls_id, body, ends * marks.separator_id), axis=1)


def choose(words: NDArray[np.int64], draws: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Choose words in random order while they fit into `share` of a row's tokens, to the nearest; at least one word of a row.

    words (B, T): the number of each token's word, in order of appearance, -1: none. draws (B, T): uniform in [0, 1).
    """
    places = np.arange(words.shape[1])
    keys = np.where(words < 0, np.inf, np.take_along_axis(draws, np.maximum(words, 0), axis=1))
    order = np.argsort(keys, axis=1, kind="stable")
    ranked = np.take_along_axis(words, order, axis=1)
    begins = np.ones_like(ranked, dtype=bool)
    begins[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    before = np.maximum.accumulate(np.where(begins, places, 0), axis=1)  # tokens of the words drawn earlier
    ends = np.ones_like(begins)
    ends[:, :-1] = begins[:, 1:]
    after = np.minimum.accumulate(np.where(ends, places + 1, len(places))[:, ::-1], axis=1)[:, ::-1]
    budget = share * (words >= 0).sum(axis=1, keepdims=True)
    taken = (ranked >= 0) & ((before + after <= 2 * budget) | (before == 0))
    chosen: NDArray[np.bool_] = np.empty_like(taken)
    np.put_along_axis(chosen, order, taken, axis=1)
    return chosen


def uniform(seed: int, step: int, count: int) -> NDArray[np.float64]:
    """Draw numbers from [0, 1) that depend on (seed, step) alone.

    From Philox's raw bits (Salmon et al. 2011), whose stream NumPy keeps the same in all versions (NEP 19), unlike its generators'.
    """
    key = int.from_bytes(hashlib.blake2b(f"myna masking {seed} {step}".encode(), digest_size=16).digest(), "little")
    raw: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
