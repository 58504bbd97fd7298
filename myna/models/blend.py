"""Machine code of the unbounded n-gram: the contexts of each position, their blend with the base, and its weights by EM.

A context is an end of the history that the corpus holds. Of those seen 1, 2 to 3, 4 to 7, 8 to 15 ... times the longest each is
used, so a position has at most 17. For a context seen c times, before n kinds of id, and s times before the id in question, three
answers are mixed:

    a  s / c                                         its counts as they are
    b  max(s - 1, 0) / c  +  n / c * shorter         every count less one, and what that frees to the next shorter context
    e  shorter                                       not this context

where (a, b, e) sum to one and belong to the context's class (how long it is, how often it was seen, one kind or more), and `shorter`
is the same of the next shorter context, in the end the base. Sources: Chen & Goodman (1999), section 2.7 (absolute discounting);
F. Jelinek and R. Mercer, "Interpolated estimation of Markov source parameters from sparse data", 1980 (weights by class, by EM).

Compiled at the first call in a process, like `myna.corpus.suffixes`; nothing is checked here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from myna.corpus.suffixes import Int, extend, machine_code

Array = npt.NDArray[Any]

# A context seen more often is left to the base: counting what follows it would take longer than all the others together, and it
# is short, or predicted well by its last ids.
MOST_SEEN = 1 << 16
LENGTHS = (6, 8, 12, 16, 24, 32, 64)  # classes of contexts: fewer ids than 6, fewer than 8, ...
COUNTS = (2, 3, 5, 9, 17, 65)  # seen once, twice, up to 4, 8, 16, 64, more
CLASSES = (len(LENGTHS) + 1) * (len(COUNTS) + 1) * 2


@machine_code
def classify(length: Int, count: Int, kinds: Int) -> Int:
    """Number the class of a context."""
    by_length, by_count = 0, 0
    for edge in LENGTHS:
        by_length += length >= edge
    for edge in COUNTS:
        by_count += count >= edge
    return (by_length * (len(COUNTS) + 1) + by_count) * 2 + (kinds > 1)


@machine_code
def choose(chain: Array, size: Int, last_row: Int, least: Int, chosen: Array) -> Int:
    """Pick a position's contexts out of its chain, longest first: fills `chosen` with their place in it, returns how many.

    chosen: (17,). `last_row` is the one place of the corpus that nothing follows, so it counts for no context.
    """
    found, level = np.int64(0), np.int64(1)
    for k in range(size):
        count = chain[k, 2] - chain[k, 1]
        if chain[k, 1] <= last_row < chain[k, 2]:
            count -= 1
        if chain[k, 0] < least or count > MOST_SEEN:
            break
        if count >= level:
            chosen[found] = k
            found += 1
            while level <= count:
                level *= 2
    return found


@machine_code
def collect(earlier: Array, starts: Array, following: Array, last_row: Int, stream: Array, separator: Int, least: Int,
            contexts: Array, begins: Array) -> Int:
    """Fill, per id of `stream` but the first, its contexts of at least `least` ids, longest first.

    contexts: (room, 4) of class, c, n, s. begins: (len(stream),), where each id's contexts begin. Returns how many there are;
    of more than `room` only the first were written.
    """
    marks = np.full(len(starts) - 1, -1, np.int64)  # position at which each id was last met
    chain, size, chosen = np.empty((64, 3), np.int64), np.int64(0), np.empty(17, np.int64)
    total = np.int64(0)
    for t in range(len(stream) - 1):
        begins[t] = total
        if stream[t] == separator:
            size = np.int64(0)
        chain, size = extend(earlier, starts, chain, size, stream[t])
        kinds, hits, low, high = np.int64(0), np.int64(0), np.int64(0), np.int64(0)  # low..high: rows counted so far
        for j in range(choose(chain, size, last_row, least, chosen)):
            k = chosen[j]
            first, end = chain[k, 1], chain[k, 2]
            row = first
            while row < end:
                if row == low:
                    row = high
                    low = np.int64(-1)
                    continue
                if row != last_row:
                    id = following[row]
                    if marks[id] != t:
                        marks[id] = t
                        kinds += 1
                    if id == stream[t + 1]:
                        hits += 1
                row += 1
            low, high = first, end
            if total < len(contexts):
                count = end - first
                if first <= last_row < end:
                    count -= 1
                contexts[total, 0], contexts[total, 1] = classify(chain[k, 0], count, kinds), count
                contexts[total, 2], contexts[total, 3] = kinds, hits
            total += 1
    begins[len(stream) - 1] = total
    return total


@machine_code
def score(contexts: Array, begins: Array, weights: Array, chances: Array) -> None:
    """Turn the base's probabilities into the model's, in place; the additions are those of `spread`, in its order."""
    for t in range(len(chances)):
        left, sum = 1.0, 0.0
        for k in range(begins[t], begins[t + 1]):
            kind, count, kinds, hits = contexts[k, 0], contexts[k, 1], contexts[k, 2], contexts[k, 3]
            if hits:
                sum += left * ((weights[kind, 0] * hits + weights[kind, 1] * (hits - 1)) / count)
            left *= weights[kind, 1] * kinds / count + weights[kind, 2]
        chances[t] = sum + left * chances[t]


@machine_code
def spread(chain: Array, size: Int, following: Array, last_row: Int, least: Int, weights: Array, row: Array) -> None:
    """Turn the base's distribution into the model's, in place. row: (V,) float64."""
    hits, met = np.zeros(len(row), np.int64), np.empty(len(row), np.int64)  # times each id followed; the ids that did
    sums, chosen = np.zeros(len(row), np.float64), np.empty(17, np.int64)
    kinds, low, high, left = np.int64(0), np.int64(0), np.int64(0), 1.0
    for j in range(choose(chain, size, last_row, least, chosen)):
        k = chosen[j]
        first, end = chain[k, 1], chain[k, 2]
        at = first
        while at < end:
            if at == low:
                at = high
                low = np.int64(-1)
                continue
            if at != last_row:
                id = following[at]
                if hits[id] == 0:
                    met[kinds] = id
                    kinds += 1
                hits[id] += 1
            at += 1
        low, high = first, end
        count = end - first
        if first <= last_row < end:
            count -= 1
        kind = classify(chain[k, 0], count, kinds)
        for i in range(kinds):
            id = met[i]
            sums[id] += left * ((weights[kind, 0] * hits[id] + weights[kind, 1] * (hits[id] - 1)) / count)
        left *= weights[kind, 1] * kinds / count + weights[kind, 2]
    for id in range(len(row)):
        row[id] = sums[id] + left * row[id]


@machine_code
def credit(contexts: Array, begins: Array, weights: Array, base: Array, shares: Array) -> float:
    """One pass of expectation: add to `shares` (CLASSES, 3) how often each answer of each class gave the id; the log-likelihood.

    base: (T,) the base's probabilities.
    """
    total, shorter = 0.0, np.empty(17, np.float64)
    for t in range(len(base)):
        first, end = begins[t], begins[t + 1]
        chance = base[t]
        for k in range(end - 1, first - 1, -1):
            kind, count, kinds, hits = contexts[k, 0], contexts[k, 1], contexts[k, 2], contexts[k, 3]
            less = hits - 1 if hits else 0
            shorter[k - first] = chance
            chance = (weights[kind, 0] * hits + weights[kind, 1] * (less + kinds * chance)) / count + weights[kind, 2] * chance
        total += np.log(chance)
        reached = 1.0  # how surely this id came from this context or a shorter one
        for k in range(first, end):
            kind, count, kinds, hits = contexts[k, 0], contexts[k, 1], contexts[k, 2], contexts[k, 3]
            less, below = hits - 1 if hits else 0, shorter[k - first]
            raw, kept = weights[kind, 0] * hits / count, weights[kind, 1] * less / count
            freed, passed = weights[kind, 1] * kinds * below / count, weights[kind, 2] * below
            part = reached / (raw + kept + freed + passed)
            shares[kind, 0] += part * raw
            shares[kind, 1] += part * (kept + freed)
            shares[kind, 2] += part * passed
            reached = part * (freed + passed)
    return total
