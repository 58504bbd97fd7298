"""Score long streams with an n-gram model in compiled code: the same additions in the same order as `Ngram._scores`, so the same bits.

All n-grams longer than one id lie in one hash table of 24-byte slots: (context, id) as the key, log-probability, back-off weight, and
the longest shorter context that an id can still follow. A slot's own place is the name of its n-gram as a context, so an id that continues
the longest context costs one look-up, where `Ngram._scores` makes one per length. Read that first: it says the same in numpy.

Source: K. Heafield, "KenLM: faster and smaller language model queries", WMT 2011, sections 2.1 (linear probing) and 4.1 (contexts that
nothing continues are dropped from the state). There the key is a hash of all words, here it is exact.

    HashedNgram(keys, log_probs, backoffs).scores(np.array([0, 17, 5, 99]))    # (3,), of every id but the first
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_EMPTY = -1  # the key of a free slot; as a context: no id at all
_WIDTH = 3  # int64 in a slot: key; log-probability and weight, float32 each; link
_NO_CONTINUATION = np.float32(np.inf)  # in the place of a back-off weight: nothing longer begins with this n-gram
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / golden ratio: Knuth, The Art of Computer Programming 3, section 6.4


class HashedNgram:
    """An n-gram model in one hash table. A context is an id below V, or V plus the slot of a longer n-gram, or -1, the empty one."""

    def __init__(self, keys: list[Array], log_probs: list[Array], backoffs: list[Array]) -> None:
        vocab_size, order = len(log_probs[0]), len(log_probs)
        bits = max(4, int(np.ceil(np.log2(1.6 * sum(map(len, keys)) + 1))))  # between 31 % and 62 % full
        self._shift = 64 - bits
        self._slots = np.full(_WIDTH << bits, _EMPTY, np.int64)
        self._log_probs = log_probs[0]
        weights = [_mark(backoffs[k], keys[k] // vocab_size) if k < order - 1 else np.full(len(log_probs[k]), _NO_CONTINUATION, np.float32)
                   for k in range(order)]
        self._backoffs = weights[0]
        contexts = np.arange(vocab_size)  # how each n-gram one shorter is called here
        for level, values in enumerate(keys, start=1):
            contexts = vocab_size + _insert(contexts[values // vocab_size], values % vocab_size, log_probs[level], weights[level],
                                            self._slots, self._slots.view(np.float32), self._shift, self._backoffs)

    def scores(self, stream: Array) -> npt.NDArray[np.float32]:
        """Score every id but the first of a stream of int64 ids, given those before it: (T - 1,)."""
        out = np.empty(len(stream) - 1, np.float32)
        _score(stream, self._slots, self._slots.view(np.float32), self._shift, self._log_probs, self._backoffs, out)
        return out


def _mark(backoffs: Array, contexts: Array) -> Array:
    """Put the mark in the place of weights of 0 that nothing longer needs."""
    continued = np.zeros(len(backoffs), bool)
    continued[contexts] = True
    return np.where(continued | (backoffs != 0), backoffs, _NO_CONTINUATION)


@numba.njit("int64(int64, int64[::1], int64)")
def _find(key: Any, slots: Array, shift: int) -> Any:
    """Return where the slot begins that holds the key, or the free one where it would go."""
    mixed = np.uint64(key) * _MIX
    at = np.int64((mixed ^ (mixed << np.uint64(29))) >> np.uint64(shift)) * _WIDTH
    while slots[at] != key and slots[at] != _EMPTY:
        at = np.int64(at + _WIDTH)
        if at == len(slots):
            at = np.int64(0)
    return at


_INSERT = "int64[::1](int64[::1], int64[::1], float32[::1], float32[::1], int64[::1], float32[::1], int64, float32[::1])"


@numba.njit(_INSERT)
def _insert(contexts: Array, ids: Array, log_probs: Array, weights: Array, slots: Array, numbers: Array, shift: Any, backoffs: Array,
            ) -> Array:
    """Add the n-grams of one length, the shorter ones being there; returns their slots."""
    vocab_size = len(backoffs)
    places = np.empty(len(contexts), np.int64)
    for i in range(len(contexts)):
        id = ids[i]
        link: Any = contexts[i]
        while True:  # drop ids from the context's left until what is left, with the id, is there and can be continued
            link = slots[_WIDTH * (link - vocab_size) + 2] if link >= vocab_size else _EMPTY
            if link == _EMPTY:
                link = id if backoffs[id] != _NO_CONTINUATION else _EMPTY
                break
            at = _find(link * vocab_size + id, slots, shift)
            if slots[at] != _EMPTY and numbers[2 * at + 3] != _NO_CONTINUATION:
                link = vocab_size + at // _WIDTH
                break
        at = _find(contexts[i] * vocab_size + id, slots, shift)
        slots[at], slots[at + 2] = contexts[i] * vocab_size + id, link
        numbers[2 * at + 2], numbers[2 * at + 3] = log_probs[i], weights[i]
        places[i] = at // _WIDTH
    return places


@numba.njit("void(int64[::1], int64[::1], float32[::1], int64, float32[::1], float32[::1], float32[::1])", nogil=True)
def _score(stream: Array, slots: Array, numbers: Array, shift: Any, log_probs: Array, backoffs: Array, out: Array) -> None:
    vocab_size = len(log_probs)
    missed = np.empty(64, np.float32)  # the weights of the contexts that the id does not follow, longest first
    context = np.int64(_EMPTY)  # the longest context of the next id
    for position in range(len(stream)):
        id = stream[position]
        misses = 0
        while True:
            if context == _EMPTY:
                score = log_probs[id]
                if backoffs[id] != _NO_CONTINUATION:
                    context = id
                break
            at = _find(context * vocab_size + id, slots, shift)
            if slots[at] != _EMPTY:
                score = numbers[2 * at + 2]
                context = vocab_size + at // _WIDTH if numbers[2 * at + 3] != _NO_CONTINUATION else slots[at + 2]
                break
            if misses == len(missed):
                missed = np.append(missed, missed)
            if context < vocab_size:
                missed[misses] = backoffs[context]
                context = np.int64(_EMPTY)
            else:
                missed[misses] = numbers[2 * _WIDTH * (context - vocab_size) + 3]
                context = slots[_WIDTH * (context - vocab_size) + 2]
            misses += 1
        for miss in range(misses - 1, -1, -1):  # shortest context first, as in numpy
            score = score + missed[miss]
        if position > 0:
            out[position - 1] = score
