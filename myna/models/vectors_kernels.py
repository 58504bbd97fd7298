"""The inner loops of word vectors, compiled; imported only where vectors are trained, because the compiler takes half a second.

Every random choice comes from a state that the caller sets for each block of text, so a block's result depends on the tables, the
block and that state alone. Loops run without Python's lock: threads work side by side, each on tables of its own.

Source: Mikolov, Sutskever, Chen, Corrado & Dean 2013, "Distributed Representations of Words and Phrases and their
Compositionality", equations 4 and 5; the alias table: Walker 1977, in the form of Vose 1991.

V words, R rows of the input table (V, and one per bucket of n-grams), C size of a vector, N words of a block.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_compiled = numba.njit(nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz", "nnan", "ninf"}, error_model="numpy")


@_compiled
def draw(state: Array) -> Any:
    """Give the next 64 random bits (Marsaglia 2003, xorshift64, with Vigna's multiplier)."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return x * np.uint64(2685821657736338717)


@_compiled
def uniform(state: Array) -> float:
    """Give a number in [0, 1)."""
    return float(draw(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@_compiled
def update(inputs: Array, outputs: Array, rows: Array, targets: Array, rate: float, hidden: Array, error: Array) -> float:
    """Move the vectors one step: the mean of the input `rows` shall predict `targets[0]` and none of the others.

    inputs (R, C) and outputs (V, C) change in place; hidden and error (C,) are room to work in. Returns the loss before the step in
    nats. Every input row gets the whole gradient of the mean, not its share, as in the reference programs of the two papers.
    """
    size = hidden.shape[0]
    for c in range(size):
        hidden[c] = inputs[rows[0], c]
        error[c] = 0.0
    if len(rows) > 1:
        for k in range(1, len(rows)):
            for c in range(size):
                hidden[c] += inputs[rows[k], c]
        share = np.float32(1.0 / len(rows))
        for c in range(size):
            hidden[c] *= share
    likelihood = 1.0  # of all targets; at least 1e-13 each, so that 20 of them stay above the smallest float64
    for k in range(len(targets)):
        output = outputs[targets[k]]
        dot = np.float32(0.0)
        for c in range(size):
            dot += hidden[c] * output[c]
        if k == 0:
            chance = 1.0 / (1.0 + math.exp(-dot))
            step = np.float32(rate * (1.0 - chance))
        else:
            wrong = 1.0 / (1.0 + math.exp(-dot))
            chance = 1.0 - wrong
            step = np.float32(-rate * wrong)
        likelihood *= max(chance, 1e-13)
        for c in range(size):
            error[c] += step * output[c]
            output[c] += step * hidden[c]
    for row in rows:
        for c in range(size):
            inputs[row, c] += error[c]
    return -math.log(likelihood)


@_compiled
def train_block(block: Array, keep: Array, alias: Array, other: Array, inputs: Array, outputs: Array, first: Array, parts: Array,
                window: int, negatives: int, cbow: bool, rate_from: float, rate_to: float, seed: int, touched_in: Array,
                touched_out: Array) -> tuple[float, int]:
    """Train on one block of text: word numbers (N,), -1 between documents. Returns (sum of losses, predictions).

    keep (V,): the chance that a frequent word stays. alias, other (V,): the table that negatives are drawn from.
    parts[first[w] : first[w + 1]]: the input rows of word w. The rate falls in a straight line. touched_*: set where a row changed.
    """
    state = np.zeros(1, np.uint64)
    state[0] = np.uint64(seed) | np.uint64(1)
    kept = np.empty(len(block), np.int64)
    count = 0
    for word in block:
        if word < 0 or keep[word] >= 1.0 or uniform(state) < keep[word]:
            kept[count] = word
            count += 1
    hidden, error = np.empty(inputs.shape[1], np.float32), np.empty(inputs.shape[1], np.float32)
    targets = np.empty(negatives + 1, np.int64)
    longest = 1
    for word in range(len(keep)):
        longest = max(longest, first[word + 1] - first[word])
    rows = np.empty(2 * window * longest, np.int64)
    loss, predictions, words = 0.0, 0, len(keep)
    for i in range(count):
        center = kept[i]
        if center < 0:
            continue
        rate = rate_from + (rate_to - rate_from) * i / count
        reach = 1 + int(draw(state) % np.uint64(window))  # nearer words count more: each distance is within reach less often
        start, end = i, i + 1
        while start > 0 and i - start < reach and kept[start - 1] >= 0:
            start -= 1
        while end < count and end - i <= reach and kept[end] >= 0:
            end += 1
        neighbours = end - start - 1
        for turn in range(min(neighbours, 1) if cbow else neighbours):
            size, right = 0, center
            if cbow:
                for j in range(start, end):
                    if j != i:
                        size = gather(rows, size, kept[j], first, parts)
            else:
                right = kept[start + turn + (start + turn >= i)]
                size = gather(rows, 0, center, first, parts)
            used = draw_targets(targets, right, alias, other, words, state)
            loss += update(inputs, outputs, rows[:size], targets[:used], rate, hidden, error)
            predictions += 1
            mark(touched_out, targets[:used])
            mark(touched_in, rows[:size])
    return loss, predictions


@_compiled
def draw_targets(targets: Array, right: int, alias: Array, other: Array, words: int, state: Array) -> int:
    """Put the right word and the wrong ones drawn for it into `targets`; one that is drawn right is left out. Returns how many."""
    targets[0] = right
    used = 1
    for _ in range(len(targets) - 1):
        word = int(draw(state) % np.uint64(words))
        if uniform(state) >= alias[word]:
            word = other[word]
        if word != right:
            targets[used] = word
            used += 1
    return used


@_compiled
def gather(rows: Array, size: int, word: int, first: Array, parts: Array) -> int:
    """Append the input rows of a word to the `size` rows that are there; returns how many there are then."""
    for k in range(first[word], first[word + 1]):
        rows[size] = parts[k]
        size += 1
    return size


@_compiled
def mark(touched: Array, rows: Array) -> None:
    """Set the flag of each row."""
    for row in rows:
        touched[row] = True


@_compiled
def merge(table: Array, copies: Array, touched: Array) -> None:
    """Bring the threads' copies (threads, R, C) together: a row becomes the mean of those that changed it; flags are cleared."""
    for row in range(table.shape[0]):
        changed = 0
        for k in range(len(copies)):
            changed += touched[k, row]
        if not changed:
            continue
        for c in range(table.shape[1]):
            total = np.float32(0.0)
            for k in range(len(copies)):
                if touched[k, row]:
                    total += copies[k, row, c]
            table[row, c] = total / changed
        for k in range(len(copies)):
            copies[k, row] = table[row]
            touched[k, row] = False


def make_alias(weights: Array) -> tuple[Array, Array]:
    """Build Vose's alias table of a distribution (V,): keep column i with chance alias[i], else take other[i]."""
    scaled = (weights / weights.sum() * len(weights)).tolist()
    alias, other = np.ones(len(scaled), np.float64), np.arange(len(scaled))
    small = [i for i, share in enumerate(scaled) if share < 1]
    large = [i for i, share in enumerate(scaled) if share >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low], other[low] = scaled[low], high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    return alias, other
