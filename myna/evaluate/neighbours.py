"""Measure word vectors on unseen text: do they know which words stand together better than counting does?

For a sample of places in the text: the word there, one of its neighbours, and a word drawn by its frequency. Vectors are right when the
neighbour's score, input vector of the one times output vector of the other, is above the drawn word's; chance is one half. That is
what skip-gram is trained for (Mikolov et al. 2013), on other text. The baseline has the same windows of the training text counted: it
prefers the word seen more often beside the first than its frequency makes likely (pointwise mutual information, Church and Hanks
1990); what it never saw together, which is most, it must guess.

    report = report_neighbours(vectors, tokenizer, train.ids, test.ids)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import say
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report
from myna.models.vectors import Vectors
from myna.models.vectors_fit import Stream
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

PAIRS = 20_000  # the interval is then about 1.4 % wide
_COUNTED = 2_000_000  # words of the training text whose neighbours the baseline counts: about 200 bytes each
_BLOCKS = 200  # pairs that stand near each other are resampled together
_FEWEST = 40  # pairs


def report_neighbours(vectors: Vectors, tokenizer: Tokenizer, train_ids: Array, test_ids: Array, options: EvaluateOptions | None = None,
                      ) -> Report:
    """Score vectors, and counted neighbours, by the share of pairs they tell from a drawn word. Raises UserError when there are too few."""
    options = options or EvaluateOptions()
    if vectors.outputs is None:
        raise UserError("vectors without the table that scores neighbours", "vectors that Myna trained",
                        "measure them before they are exported")
    window = int(vectors.facts.get("window", 5))
    here, there = _pairs(_rows(vectors, tokenizer, test_ids), window, options.seed)
    if len(here) < _FEWEST:
        raise UserError(f"{len(here)} pairs of known words in the test text", f"at least {_FEWEST}", "give more text")
    rng = np.random.default_rng(options.seed)
    drawn = rng.choice(vectors.vocab_size, size=len(here), p=vectors.counts / vectors.counts.sum())
    table, outputs = vectors.table, np.asarray(vectors.outputs, np.float32)
    scores = [np.einsum("pc,pc->p", table[here], outputs[other]) for other in (there, drawn)]
    train = _rows(vectors, tokenizer, train_ids[:_COUNTED])
    counted = _count_together(train, window, vectors.vocab_size, here, there, drawn)
    association = [together / np.maximum(vectors.counts[other], 1) for together, other in zip(counted, (there, drawn), strict=True)]
    known = float(np.mean((counted[0] > 0) | (counted[1] > 0)))
    say(f"neighbours: {len(here):,} pairs; in {100 * known:.0f} % of them counting has seen one of the two together")
    return _report(_right(*scores), _right(*association), window, options)


def _rows(vectors: Vectors, tokenizer: Tokenizer, ids: Array) -> Array:
    """Return the row of every word of a stream, -1 between documents; what has no vector is left out."""
    stream = Stream(ids, tokenizer, tokenizer.separator_id, str(vectors.facts.get("forms", "words")))
    known = {word: row for row, word in enumerate(vectors.words)}
    rows = np.array([known.get(word, -2) for word in stream.words] + [-1], np.int64)  # the last is what -1 points at
    found = rows[stream.block(0, len(ids))]
    return found[found > -2]


def _pairs(rows: Array, window: int, seed: int) -> tuple[Array, Array]:
    """Draw places and one neighbour of each within the window, never across documents."""
    rng = np.random.default_rng(seed)
    places = np.flatnonzero(rows >= 0)
    if len(places) > PAIRS:
        places = places[np.linspace(0, len(places) - 1, PAIRS).astype(np.int64)]
    offsets = rng.integers(1, window + 1, len(places)) * rng.choice([-1, 1], len(places))
    others = places + offsets
    documents = np.cumsum(rows == -1)
    inside = (others >= 0) & (others < len(rows))
    others = np.clip(others, 0, max(0, len(rows) - 1))
    kept = inside & (rows[others] >= 0) & (documents[others] == documents[places]) if len(rows) else inside
    return rows[places[kept]], rows[others[kept]]


def _count_together(rows: Array, window: int, size: int, here: Array, *others: Array) -> list[Array]:
    """Count how often each pair (here, other) stands within the window of the other in a stream."""
    wanted = [here * size + other for other in others]
    asked = np.unique(np.concatenate(wanted))
    totals = np.zeros(len(asked) + 1, np.int64)
    documents = np.cumsum(rows == -1)
    for offset in range(1, window + 1):
        left, right = rows[:-offset], rows[offset:]
        together = (left >= 0) & (right >= 0) & (documents[:-offset] == documents[offset:])
        for first, second in ((left, right), (right, left)):
            keys = first[together] * size + second[together]
            places = np.minimum(np.searchsorted(asked, keys), len(asked) - 1)
            totals += np.bincount(np.where(asked[places] == keys, places, len(asked)), minlength=len(totals))
    return [totals[np.searchsorted(asked, keys)] for keys in wanted]


def _right(true: Array, drawn: Array) -> Array:
    """Return 1 where the true neighbour scores higher, a half where neither does."""
    right: Array = (true > drawn) + 0.5 * (true == drawn)
    return right


def _report(model: Array, baseline: Array, window: int, options: EvaluateOptions) -> Report:
    blocks = np.arange(len(model)) * min(_BLOCKS, len(model) // 2) // len(model)
    asked, right, beside = (np.bincount(blocks, column) for column in (np.ones(len(model)), model, baseline))
    signature = f"neighbour_accuracy|pairs={len(model)}|window={window}|bootstrap={options.resamples}|seed={options.seed}|v1"
    measure = Measure(np.stack([right, asked], axis=1), ratio, signature, np.stack([beside, asked], axis=1))
    return measured_report({"neighbour_accuracy": measure}, "counted neighbours", options.resamples, options.seed)
