"""Batches for an encoder-decoder on plain text: continue it, begin it, or fill the blanks in it.

A row is one of four kinds, drawn anew in every epoch:
- whole: source = the text before a window, as much as fits; target = the window (prefix language modelling, Raffel et al. 2020,
  "T5", section 3.2.3; here the split is at a window's start, so that each token is a target once per epoch). This is how a long
  document is scored;
- short: the same with a source of any length, as a prompt has;
- begin: source = the separator alone, target = the window, moved to the next beginning of a document where it holds one;
- blank: some spans of the window are each replaced by a sentinel; target = each sentinel with what it stands for, one sentinel
  more, and the separator (section 3.1.4: 15 % of the tokens, 3 tokens a span on average).
A source never reaches back into the document before, and ends with the separator, as T5's and Marian's do: a mark at a known distance
from everything before it, in a model whose attention between the two sides knows no positions.
Everything is a pure function of (seed, row number), by `Order` and hashes.

    reader = Spans(ids, context=128, seed=0, separator_id=0, sentinel_ids=range(500, 532), options=SpanOptions())
    reader.read(step=0, rows=16)["labels"]        # (16, 128)

B rows · S source ids · T target ids
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.data.options import SpanOptions
from myna.data.order import Order
from myna.errors import UserError
from myna.tokenizer.tokenizer import Tokenizer

SENTINELS = tuple(f"<|extra_id_{number}|>" for number in range(32))
NOTHING = -100  # the label of a position where nothing is predicted; PyTorch's and transformers' word for it
_SHORTEST = 8  # ids of a context: a blank, its sentinels and something around it
_STEP, _MIX = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64 (Steele, Lea and Flood 2014, figure 16, variant 13)

Array = NDArray[np.int64]


def read_sentinels(tokenizer: Tokenizer) -> list[int]:
    """Look up the sentinels of a vocabulary. Raises UserError when it has none."""
    return [tokenizer.special_id(name) for name in SENTINELS]


class Spans:
    """The rows of every step."""

    def __init__(self, ids: NDArray[np.integer[Any]], context: int, seed: int, separator_id: int, sentinel_ids: Sequence[int],
                 options: SpanOptions | None = None) -> None:
        """ids: the stream (N,). context: ids of a source and of a target. Raises UserError when the options cannot be."""
        self.options = options or SpanOptions()
        self.ids, self.context, self.seed, self.separator_id, self.sentinel_ids = ids, context, seed, separator_id, list(sentinel_ids)
        self._check()
        self.order = Order(len(ids), context, seed)

    def _check(self) -> None:
        o = self.options
        shares = {"short_share": o.short_share, "begin_share": o.begin_share, "blank_share": o.blank_share}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"{name} is {share:g}", "a share from 0 to 1")
        if sum(shares.values()) > 1 + 1e-9:
            raise UserError(f"{' + '.join(shares)} is {sum(shares.values()):g}", "at most 1; the rest has whole sources")
        if not 0 < o.noise_density < 1 or not 1 <= o.mean_span_length <= 1000:
            raise UserError(f"noise_density is {o.noise_density:g}, mean_span_length is {o.mean_span_length:g}",
                            "a share between 0 and 1, and a length from 1 to 1000")
        if self.context < _SHORTEST:
            raise UserError(f"a context of {self.context}", f"at least {_SHORTEST} tokens, for an encoder-decoder")
        hidden, spans = self._sizes()
        if o.blank_share and (spans < 1 or hidden + spans + 2 > self.context):
            raise UserError(f"noise_density is {o.noise_density:g}: a target of {hidden + spans + 2} ids for a context of {self.context}"
                            if spans else f"{len(self.sentinel_ids)} sentinels", "blanks that fit into a target, and two sentinels or more",
                            "lower it, or set blank_share to 0")

    def _sizes(self) -> tuple[int, int]:
        """Return how many tokens of a window are hidden, and in how many spans."""
        window = self.context - 1  # the separator after it needs a place
        hidden = min(max(1, round(window * self.options.noise_density)), window - 1)
        return hidden, min(max(1, round(hidden / self.options.mean_span_length)), window - hidden, len(self.sentinel_ids) - 1)

    def read(self, step: int, rows: int) -> dict[str, Array]:
        """Return the rows of optimizer step `step` (from 0): input_ids, attention_mask (B, S), decoder_input_ids, labels (B, T)."""
        L = self.context
        batch = {"input_ids": np.full((rows, L), self.separator_id, np.int64), "attention_mask": np.zeros((rows, L), np.int64),
                 "decoder_input_ids": np.full((rows, L), self.separator_id, np.int64), "labels": np.full((rows, L), NOTHING, np.int64)}
        for row, start in enumerate(self.order.starts(step, rows).tolist()):
            _, source, target = self.row(step * rows + row, start)
            batch["input_ids"][row, : len(source)] = source
            batch["attention_mask"][row, : len(source)] = 1
            batch["decoder_input_ids"][row, 1 : len(target)] = target[:-1]  # after the separator, which starts every target
            batch["labels"][row, : len(target)] = target
        return batch

    def row(self, number: int, start: int) -> tuple[str, Array, Array]:
        """Return the kind, source and target of row `number`, counted over all steps, whose window begins at token `start`."""
        digest = hashlib.blake2b(f"myna spans {self.seed} {number}".encode()).digest()
        kind_word, length_word, span_word = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8, 16))
        kind = self._kind(kind_word / 2.0**64)
        if kind == "blank":
            return kind, *hide_spans(self._take(start, self.context - 1), *self._cut(span_word), self.sentinel_ids, self.separator_id)
        if kind == "begin":
            found = np.flatnonzero(self._take(start - 1, self.context) == self.separator_id)
            start += int(found[0]) if len(found) else 0
            return kind, np.array([self.separator_id]), self._take(start, self.context)
        length = self.context - 1 if kind == "whole" else 1 + length_word % (self.context - 1)
        source = self._take(start - length, length)
        ends = np.flatnonzero(source == self.separator_id)
        source = source[ends[-1] + 1 :] if len(ends) else source
        return kind, np.append(source, self.separator_id), self._take(start, self.context)

    def _kind(self, drawn: float) -> str:
        o = self.options
        for kind, share in (("blank", o.blank_share), ("begin", o.begin_share), ("short", o.short_share)):
            if drawn < share:
                return kind
            drawn -= share
        return "whole"

    def _take(self, start: int, count: int) -> Array:
        """Take ids from the stream, which is a circle."""
        start %= len(self.ids)
        head = np.asarray(self.ids[start : start + count], np.int64)
        return head if len(head) == count else np.concatenate((head, np.asarray(self.ids[: count - len(head)], np.int64)))

    def _cut(self, word: int) -> tuple[Array, Array]:
        """Draw the lengths of kept and hidden spans, in turn; a window begins with a kept one and ends with a hidden one."""
        hidden, spans = self._sizes()
        return _parts(self.context - 1 - hidden, spans, word), _parts(hidden, spans, word ^ _MIX[0])


def hide_spans(window: Array, kept: Array, hidden: Array, sentinel_ids: Sequence[int], separator_id: int) -> tuple[Array, Array]:
    """Replace spans by sentinels: returns source and target. kept and hidden: lengths of the spans in turn, (K,) each."""
    source: list[int] = []
    target: list[int] = []
    at = 0
    for keep, hide, sentinel in zip(kept.tolist(), hidden.tolist(), sentinel_ids, strict=False):
        source += [*window[at : at + keep].tolist(), sentinel]
        target += [sentinel, *window[at + keep : at + keep + hide].tolist()]
        at += keep + hide
    source.append(separator_id)
    target += [sentinel_ids[len(kept)], separator_id]
    return np.array(source, np.int64), np.array(target, np.int64)


def _parts(count: int, parts: int, word: int) -> Array:
    """Cut `count` into `parts` numbers above 0, every way as likely as another."""
    values = np.uint64(word) + np.arange(1, count, dtype=np.uint64) * np.uint64(_STEP)  # wraps modulo 2**64, as meant
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        values = (values ^ values >> np.uint64(shift)) * np.uint64(factor)
    cuts = np.sort(np.argsort(values ^ values >> np.uint64(31), kind="stable")[: parts - 1]) + 1
    return np.diff(np.concatenate(([0], cuts, [count])))
