"""Training of word vectors: skip-gram or CBOW with negative sampling over the ids of a shard, on several threads.

Each thread trains its block of text on a copy of the tables; after every round of blocks a row becomes the mean of the copies that
changed it. So the result depends on the seed and the number of threads, never on which thread was faster.

Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality", sections 2.2 (negative
sampling, the power 3/4) and 2.3 (frequent words); the form of the latter, and the defaults, as in their word2vec.c.

    vectors = fit_vectors(train.ids, tokenizer, tokenizer.separator_id, VectorsOptions(), seed=0, threads=2)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import human, say, track
from myna.errors import UserError
from myna.models.options import VectorsOptions
from myna.models.vectors import Vectors, hash_parts, name_tokens
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

_BLOCK = 50_000  # ids that a thread trains on between two meetings, fewer in a short text
_MEETINGS = 8  # of the threads in a pass, at least
_LEAST = 1000  # ids in a block: windows do not reach over its ends
_WORDS = 10_000_000  # seen in all where the passes are not given
_LAST = 1e-4  # of the learning rate is left at the end, as in word2vec.c
_MOST_NEGATIVES = 20  # more would let the product of chances leave float64 (vectors_kernels.update); the paper used 2 to 20


class Stream:
    """The training ids as numbers of words, block by block: 0 to V - 1, and -1 between documents."""

    def __init__(self, ids: Array, tokenizer: Tokenizer, separator_id: int, forms: str) -> None:
        self._ids, self._separator_id = ids, separator_id
        self._edges = (tokenizer.word_starts(), tokenizer.word_ends()) if forms == "words" else None
        names = name_tokens(tokenizer, merged=forms == "words")
        self.words = list(dict.fromkeys(name for name in names if name is not None))
        numbers = {name: number for number, name in enumerate(self.words)}
        self._numbers = np.array([-2 if name is None else numbers[name] for name in names], np.int32)
        self._numbers[separator_id] = -1
        if len(ids) and int(max(part.max() for part in np.array_split(ids, max(1, len(ids) >> 24)))) >= len(names):
            raise UserError("training ids beyond the vocabulary", f"ids below {len(names):,}", "use the tokenizer that made these ids")
        counts = np.zeros(len(self.words), np.int64)
        for start in range(0, len(ids), 1 << 20):
            found = self.block(start, start + (1 << 20))
            counts += np.bincount(found[found >= 0], minlength=len(counts))
        self.counts = counts

    def __len__(self) -> int:
        return len(self._ids)

    def block(self, start: int, end: int) -> Array:
        """Give the words of a range of ids; what stands for no word is left out."""
        ids = np.asarray(self._ids[start:end])
        numbers = self._numbers[ids]
        if self._edges is not None and len(ids):  # a word that took several tokens is not in the vocabulary, nor are its pieces words
            begins = self._edges[0][ids] | np.append(True, self._edges[1][ids[:-1]])
            group = np.cumsum(begins) - begins[0]
            alone = np.bincount(group)[group] == 1
            numbers = np.where(alone | (numbers == -1), numbers, -2)
        return np.asarray(numbers[numbers > -2])

    def keep(self, min_count: int) -> None:
        """Leave out words seen less than `min_count` times; number the others by frequency."""
        order = np.argsort(-self.counts, kind="stable")
        order = order[self.counts[order] >= max(min_count, 1)]
        new = np.full(len(self.words) + 2, -2, np.int32)  # the last two: what -2 and -1 point at
        new[-1] = -1
        new[order] = np.arange(len(order))
        self._numbers = new[self._numbers]
        self.words, self.counts = [self.words[i] for i in order], self.counts[order]


def fit_vectors(train_ids: Array, tokenizer: Tokenizer, separator_id: int, options: VectorsOptions | None = None,
                seconds: float | None = None, seed: int = 0, threads: int = 1) -> Vectors:
    """Train word vectors on token ids; with `seconds` it passes over the text less often where its passes would take longer.

    The same ids, options, seed and threads give the same bytes, unless the time cuts them short. Raises UserError when no
    word is frequent enough, or an option cannot be.
    """
    options = options or VectorsOptions()
    _check(options, threads)
    forms = options.forms or ("words" if tokenizer.whole_words else "tokens")
    stream = Stream(train_ids, tokenizer, separator_id, forms)
    stream.keep(options.min_count)
    V, C, B = len(stream.words), options.hidden_size, options.buckets if options.subwords else 0
    if V < 2:
        raise UserError(f"{V} words seen at least {options.min_count} times", "two or more", "give more text or a lower min_count")
    rng = np.random.default_rng(seed)
    inputs = ((rng.random((V + B, C), np.float32) - 0.5) / C).astype(np.float32)
    outputs = np.zeros((V, C), np.float32)
    total = int(stream.counts.sum())
    epochs = options.epochs or min(50, max(5, round(_WORDS / total)))
    say(f"word vectors: {human(V)} words, {human(total)} in the text, " + f"{epochs} passes")
    losses = _Run(stream, inputs, outputs, options, seed, threads).train(epochs, seconds)
    facts = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("hidden_size", "buckets", "epochs")}
    facts |= {"forms": forms, "epochs": len(losses), "seed": seed, "threads": threads, "tokens": len(train_ids), "words_in_text": total,
              "losses": losses}
    return Vectors(stream.words, inputs, outputs, stream.counts, facts, tokenizer)


def _check(options: VectorsOptions, threads: int) -> None:
    for name, value, low, high in (
        ("hidden_size", options.hidden_size, 1, 1 << 14), ("window", options.window, 1, 1000),
        ("negatives", options.negatives, 1, _MOST_NEGATIVES), ("epochs", 1 if options.epochs is None else options.epochs, 1, 1 << 20),
        ("min_count", options.min_count, 1, 1 << 40), ("buckets", options.buckets, 1, 1 << 24), ("threads", threads, 1, 1 << 10),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} of the word vectors is {value}", f"{low} to {high:,}")
    if not 0 <= options.sample <= 1:
        raise UserError(f"sample of the word vectors is {options.sample}", "0 to 1")
    if options.learning_rate is not None and not 0 < options.learning_rate < 10:
        raise UserError(f"learning_rate of the word vectors is {options.learning_rate}", "above 0 and below 10")


class _Run:
    """One training: what does not change, and the threads' copies of the tables."""

    def __init__(self, stream: Stream, inputs: Array, outputs: Array, options: VectorsOptions, seed: int, threads: int) -> None:
        from myna.models.vectors_kernels import make_alias

        self.stream, self.options, self.seed, self.threads = stream, options, seed, threads
        self.tables = inputs, outputs
        self.copies = [table[None] if threads == 1 else np.repeat(table[None], threads, axis=0) for table in self.tables]
        self.touched = [np.zeros((threads, len(table)), np.bool_) for table in self.tables]
        share = stream.counts / stream.counts.sum()
        keep = np.ones(len(share)) if not options.sample else (np.sqrt(share / options.sample) + 1) * options.sample / share
        parts = [[row, *(len(stream.words) + n for n in hash_parts(word, options.buckets) if options.subwords)]
                 if options.subwords else [row] for row, word in enumerate(stream.words)]
        first = np.cumsum([0, *map(len, parts)])
        self.fixed = (keep, *make_alias(stream.counts**0.75)), (first, np.concatenate(parts).astype(np.int64))

    def train(self, epochs: int, seconds: float | None) -> list[float]:
        """Pass over the text, less often where the time is short; returns each pass's mean loss per prediction in nats."""
        from myna.models.vectors_kernels import merge

        size = min(_BLOCK, max(_LEAST, len(self.stream) // (_MEETINGS * self.threads)))
        starts = list(range(0, len(self.stream), size))
        total, done = epochs * len(self.stream), 0
        losses: list[float] = []
        timed: tuple[float, int] | None = None  # from the second round on: the first compiles
        with ThreadPoolExecutor(self.threads) as pool, track("training word vectors", total) as advance:
            while done < total:
                loss = predictions = 0.0
                for turn in range(0, len(starts), self.threads):
                    group = starts[turn : turn + self.threads]
                    ends = [min(start + size, len(self.stream)) for start in group]
                    before, done = done, done + ends[-1] - group[0]
                    jobs = [pool.submit(self._block(len(losses), before / total, min(1.0, done / total)), k, start, end)
                            for k, (start, end) in enumerate(zip(group, ends, strict=True))]
                    for job in jobs:
                        found = job.result()
                        loss, predictions = loss + found[0], predictions + found[1]
                    if self.threads > 1:
                        for table, copies, touched in zip(self.tables, self.copies, self.touched, strict=True):
                            merge(table, copies, touched)
                    advance(done - before)
                    if seconds is not None and timed is not None:
                        total = self._fit(seconds, timed, done, total)
                        seconds = None  # decided once
                    timed = timed or (time.monotonic(), done)
                    if done >= total:
                        break
                losses.append(loss / max(predictions, 1))
        return losses

    def _fit(self, seconds: float, timed: tuple[float, int], done: int, total: int) -> int:
        """Return how many ids there is time for, at the rate of one round, at most `total`."""
        per_id = (time.monotonic() - timed[0]) / max(1, done - timed[1])
        room = done + int(seconds / max(per_id, 1e-12))
        if room < total:
            say(f"word vectors: {room / len(self.stream):.1f} passes instead of {total / len(self.stream):.0f} fit the time")
        return min(total, room)

    def _block(self, epoch: int, before: float, after: float) -> Callable[[int, int, int], tuple[float, int]]:
        """Make the job of one thread in this round: (thread, start, end) to (sum of losses, predictions)."""
        from myna.models import vectors_kernels

        train_block: Any = vectors_kernels.train_block  # numba's type for it takes no starred arguments
        options = self.options
        rate = options.learning_rate or (0.05 if options.method == "cbow" else 0.025)
        rates = [rate * max(1 - progress, _LAST) for progress in (before, after)]

        def work(thread: int, start: int, end: int) -> tuple[float, int]:
            state = np.random.SeedSequence((self.seed, epoch, start)).generate_state(1, np.uint64)[0]
            found: tuple[float, int] = train_block(
                self.stream.block(start, end), *self.fixed[0], self.copies[0][thread], self.copies[1][thread], *self.fixed[1],
                options.window, options.negatives, options.method == "cbow", rates[0], rates[1], state,
                self.touched[0][thread], self.touched[1][thread])
            return found

        return work
