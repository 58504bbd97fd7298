"""The road of a task that a decoder learns from pairs of texts: that of a tuning (`myna.roads.language`), then the task's own measure.

pairs -> parts by the hash of the source -> sources cut to what a row has room for -> the road -> texts written for held-out sources,
as many as there is time for -> `task.json`, and `seen.bin` with the hashes of what was learned from.

    tune_writer("smollm2", given, Path("my-summarizer"), recipe, clock, SUMMARIZE, measure)
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from myna.console import say
from myna.data.conversations import Example
from myna.data.labels import TURN_TOKENS
from myna.data.pairs import Pair, PairReading, read_pairs, split_pairs
from myna.evaluate.measured import Measured
from myna.metrics.report import Report
from myna.metrics.summaries import summary_words
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.build import Clock
from myna.roads.language import Tuning, open_base
from myna.roads.seen import read_seen, save_seen
from myna.tasks.writing import MOST_TOKENS, Writer, Writing, cut_chunks, save_writing
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer

_SHARE = 0.15  # of the time that is left, for the task's own measure: own choice
_FEWEST, _MOST = 8, 200  # sources measured: own choice; fewer say nothing, more take time from the training
_AT_ONCE = 12  # texts are written in the time of one that was timed: of `Writer`'s batches of 16, the last of which are shorter
_NO_TIME = 64  # of a tuning by steps
_WRITTEN_SHARE = 0.98  # of the targets that what may be written must hold
_LOOKED_AT = 2000  # targets
_LEAST_ROOM = 16  # tokens of a source

Judge = Callable[[Writer, Sequence[Pair], TuneRecipe], Measured]
"Measures a writer on pairs that it never saw, beside a baseline."


def tune_writer(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock, writing: Writing, judge: Judge) -> Report:
    """Tune a decoder to write targets from sources; returns the task's scores beside its baseline's. Raises UserError as `tune`."""
    with clock.stage("read the rows"):
        folder = open_base(base, out)
        reading, parts = read_parts(given, recipe, writing)
    task = WritingTask(writing, parts, judge, recipe)
    return Tuning(folder, out, recipe, reading.notes, clock, request_of(recipe, given), task).run()


def read_parts(given: Inputs, recipe: TuneRecipe, writing: Writing) -> tuple[PairReading, dict[str, list[Pair]]]:
    """Read the pairs of a task and divide them into train, valid and test, each sorted by hash; what was found is said."""
    readings = {role: read_pairs(given[role], recipe.rows, writing.sources, writing.targets)
                for role in ("data", "valid", "test") if given.get(role)}
    reading = readings["data"]
    parts = split_pairs(reading, recipe.split, readings.get("valid"), readings.get("test"))
    for role, one in readings.items():
        for line in one.said():
            say(f"  {line}" if role == "data" else f"  {role}: {line}")
    say("  " + ", ".join(f"{len(pairs):,} pairs for {name}" for name, pairs in parts.items()))
    reading.notes.files += [file for role, one in readings.items() if role != "data" for file in one.notes.files]
    return reading, {name: sort_pairs(pairs) for name, pairs in parts.items()}


def sort_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Sort pairs by their hashes: then the first of them are any of them."""
    return sorted(pairs, key=lambda pair: (pair.key, pair.source, pair.target))


class WritingTask:
    """What such a task adds to the road: a `myna.roads.language.Task`."""

    answer_tokens = 32  # own choice: all it writes is measured afterwards

    def __init__(self, writing: Writing, parts: dict[str, list[Pair]], judge: Judge, recipe: TuneRecipe) -> None:
        self.judge, self.recipe = judge, recipe
        words = statistics.median(len(summary_words(pair.target)) for pair in parts["train"])
        self.writing = dataclasses.replace(writing, target_words=min(MOST_TOKENS, max(1, round(words))))
        self.parts = parts
        self.said = [", ".join(f"{len(pairs):,} pairs for {name}" for name, pairs in parts.items())]
        self._words: tuple[Tokenizer, ChatTemplate | None] | None = None

    @property
    def chat(self) -> bool:
        """Whether the model's chat template writes the examples."""
        return self.writing.chat

    def lay(self, tokenizer: Tokenizer, template: ChatTemplate | None, context: int | None) -> dict[str, list[Example]]:
        """Make the examples of each part, sources cut at the end of a sentence so that they fit a row of `context` tokens."""
        self._words = tokenizer, template
        cut = 0
        if context is not None:
            self._choose_lengths(tokenizer, template, context)
        examples: dict[str, list[Example]] = {}
        for name, pairs in self.parts.items():
            sources = [pair.source for pair in pairs]
            if context is not None:
                sources = [next(iter(cut_chunks(source, self.writing.source_tokens, tokenizer, 1)), "") for source in sources]
                cut += sum(len(short) < len(pair.source) for short, pair in zip(sources, pairs, strict=True))
            examples[name] = [self.writing.lay(source, pair.target, template is not None, pair.where)
                              for source, pair in zip(sources, pairs, strict=True)]
        if context is not None:
            total = sum(map(len, self.parts.values()))
            said = [f"{cut:,} of {total:,} sources are longer than {self.writing.source_tokens} tokens: their beginning is learned "
                          "from, up to the end of a sentence", f"at most {self.writing.max_tokens} tokens are written"]
            for line in said:
                say(f"  {line}")
            self.said += said
        return examples

    def _choose_lengths(self, tokenizer: Tokenizer, template: ChatTemplate | None, context: int) -> None:
        """Choose how much is written at most, by the targets, and how much of a source is read, by what is left of the row."""
        lengths = sorted(map(len, tokenizer.encode_batch([pair.target for pair in self.parts["train"][:_LOOKED_AT]])))
        longest = lengths[min(len(lengths) - 1, int(_WRITTEN_SHARE * len(lengths)))] + TURN_TOKENS
        around = len(self.writing.encode("", tokenizer, template))
        written = max(1, min(self.writing.max_tokens, longest, (context - around) // 2))
        room = max(_LEAST_ROOM, context - around - written)
        self.writing = dataclasses.replace(self.writing, max_tokens=written, source_tokens=room, chat=template is not None)

    def settle(self, left: float | None, per_token: float, per_step: float) -> dict[str, Any]:
        """Choose how many sources are measured: those that a share of the time is enough for."""
        there = len(self.parts["test"])
        if left is None:
            return {"sources": min(there, _NO_TIME), "seconds": 0.0}
        assert self._words is not None
        tokens = [len(self.writing.encode(pair.source, *self._words)) for pair in self.parts["test"][:_NO_TIME]]
        most = self.writing.source_tokens
        each = per_token * sum(min(count, most) for count in tokens) / len(tokens) + per_step * self.writing.max_tokens / _AT_ONCE
        sources = min(there, _MOST, max(_FEWEST, int(_SHARE * left / each)))
        return {"sources": sources, "seconds": sources * each}

    def measure(self, model: Any, sources: int) -> Measured:
        """Write the texts of held-out sources and judge them."""
        assert self._words is not None
        self.said.append(f"measured on {sources:,} of {len(self.parts['test']):,} held-out sources, chosen by their hashes"
                         if sources < len(self.parts["test"]) else f"measured on all {sources:,} held-out sources")
        say(f"  {self.said[-1]}")
        return self.judge(Writer(model, *self._words, self.writing), self.parts["test"][:sources], self.recipe)

    def save(self, out: Path) -> None:
        """Write task.json and the hashes of what was learned from."""
        save_writing(self.writing, out)
        save_seen(out, [pair.key for name in ("train", "valid") for pair in self.parts[name]])


def leave_out_seen(folder: Path, reading: PairReading) -> list[Pair]:
    """Return the pairs that a directory did not learn from, sorted by hash; what is left out is said."""
    seen = read_seen(folder)
    pairs = sort_pairs([pair for pair in reading.pairs if pair.key not in seen])
    if len(pairs) < len(reading.pairs):
        say(f"  {len(reading.pairs) - len(pairs):,} pairs were learned from and are left out")
    return pairs
