"""Score long streams with an n-gram model in compiled code: the same additions in the same order as `Ngram._scores`, so the same bits.

All n-grams longer than one id lie in one hash table of 16-byte slots: (context, id) as the key, then the log-probability and the
back-off weight, so a look-up touches one place in memory. A slot's own place is the name of its n-gram as a context, so there is nothing
else to look up. Read `Ngram._scores` first: it says the same in numpy.

Source: K. Heafield, "KenLM: faster and smaller language model queries", WMT 2011, section 2.1 (linear probing). There the key is a hash
of all words, here it is exact.

    HashedNgram(keys, log_probs, backoffs).scores(np.array([0, 17, 5, 99]))    # (3,), of every id but the first
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_EMPTY = -1
_NO_CONTINUATION = np.float32(np.inf)  # in the place of a back-off weight: nothing longer begins with this n-gram
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / golden ratio: Knuth, The Art of Computer Programming 3, section 6.4


class HashedNgram:
    """An n-gram model in one hash table. A context is an id below V, or V plus the slot of a longer n-gram."""

    def __init__(self, keys: list[Array], log_probs: list[Array], backoffs: list[Array]) -> None:
        self.order, vocab_size = len(log_probs), len(log_probs[0])
        longer = sum(map(len, keys))
        bits = max(4, int(np.ceil(np.log2(1.6 * longer + 1))))  # between 31 % and 62 % full
        self._shift = 64 - bits
        self._slots = np.full(2 << bits, _EMPTY, np.int64)
        self._log_probs = log_probs[0]
        self._backoffs = backoffs[0] if backoffs else np.zeros(vocab_size, np.float32)
        contexts = np.arange(vocab_size)  # how each n-gram one shorter is called here
        for level, values in enumerate(keys, start=1):
            weights = np.full(len(values), _NO_CONTINUATION, np.float32)
            if level < len(keys):
                continued = np.zeros(len(values), bool)
                continued[keys[level] // vocab_size] = True
                weights = np.where(continued | (backoffs[level] != 0), backoffs[level], weights)
            contexts = _insert(contexts[values // vocab_size] * vocab_size + values % vocab_size, log_probs[level], weights,
                               self._slots, self._slots.view(np.float32), self._shift) + vocab_size

    def scores(self, stream: Array) -> npt.NDArray[np.float32]:
        """Score every id but the first of a stream of int64 ids, given those before it: (T - 1,)."""
        out = np.empty(len(stream) - 1, np.float32)
        _score(stream, self.order, self._slots, self._slots.view(np.float32), self._shift, self._log_probs, self._backoffs, out)
        return out


@numba.njit("int64(int64, int64[::1], int64)")
def _find(key: Any, slots: Array, shift: int) -> Any:
    """Return the slot that holds the key, or the empty one where it would go."""
    mixed = np.uint64(key) * _MIX
    slot = np.int64((mixed ^ (mixed << np.uint64(29))) >> np.uint64(shift))
    last = len(slots) // 2 - 1
    while slots[2 * slot] != key and slots[2 * slot] != _EMPTY:
        slot = (slot + 1) & last
    return slot


@numba.njit("int64[::1](int64[::1], float32[::1], float32[::1], int64[::1], float32[::1], int64)")
def _insert(keys: Array, log_probs: Array, backoffs: Array, slots: Array, numbers: Array, shift: int) -> Array:
    places = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        slot = _find(keys[i], slots, shift)
        slots[2 * slot] = keys[i]
        numbers[4 * slot + 2] = log_probs[i]
        numbers[4 * slot + 3] = backoffs[i]
        places[i] = slot
    return places


_SCORE = "void(int64[::1], int64, int64[::1], float32[::1], int64, float32[::1], float32[::1], float32[::1])"


@numba.njit(_SCORE, nogil=True)
def _score(stream: Array, order: int, slots: Array, numbers: Array, shift: int, log_probs: Array, backoffs: Array, out: Array) -> None:
    vocab_size = len(log_probs)
    contexts = np.full(order + 1, -1, np.int64)  # contexts[k]: the n-gram of length k that ends at the last id; -1: none goes on
    weights = np.zeros(order + 1, np.float32)
    for position in range(len(stream)):
        id = stream[position]
        score = log_probs[id]
        longer, weight = id, backoffs[id]  # the n-gram that ends here, a length longer at each turn
        for length in range(1, order):
            context, above = contexts[length], weights[length]
            contexts[length], weights[length] = longer, weight
            longer = -1
            if context < 0:
                continue
            key = context * vocab_size + id
            slot = _find(key, slots, shift)
            if slots[2 * slot] == key:
                score, weight = numbers[4 * slot + 2], numbers[4 * slot + 3]
                if weight != _NO_CONTINUATION:
                    longer = vocab_size + slot
            else:
                score = score + above
        if position > 0:
            out[position - 1] = score
