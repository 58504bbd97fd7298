"""The road of what answers questions: questions with their passages and minutes in; a directory that answers from any documents out.

read -> an index of all passages -> every question asked of it, with its passage and without -> a ranker of sentences and the decision
whether to answer, fitted in seconds -> on a base a reader of spans: plan, rehearsal, the one loop -> used where it answers better on the
validation part -> measured on the test part -> written.

    tune_answerer("new", {"data": [Path("questions.jsonl")]}, Path("my-reader"), TuneRecipe(TuneOptions(task="answer")), clock)
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from myna.console import say
from myna.data.questions import Question, QuestionParts, QuestionReading, read_questions, split_questions
from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.evaluate.questions import Asked, measure_answers
from myna.metrics.report import Report
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.answer_fit import CITED, Collection, Fitted, Row, ask_variants, fit_answers, index_passages, take_excerpts
from myna.roads.build import Clock
from myna.roads.seen import read_seen
from myna.roads.task_pages import finish_task
from myna.tasks.answer import Answerer, count_background

_MOST = {"train": 1000, "valid": 1000, "test": 2000}  # questions fitted on and measured: more change little and take minutes
_LEAST_GAIN = 0.005  # of the validation part's F1, below which a reader of spans is not worth its time


def tune_answerer(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Make what answers questions at `out`; returns its scores on the test part beside the baseline's. Raises UserError as `tune`.

    base: 'new' for no reader of spans, or an encoder. given: files by role: data, and valid and test where they are apart.
    """
    with clock.stage("read the questions"):
        readings = {role: read_questions(given[role], recipe.rows) for role in ("data", "valid", "test") if given.get(role)}
        for role, reading in readings.items():
            for line in reading.said():
                say(f"  {line}" if role == "data" else f"  {role}: {line}")
        parts = split_questions(readings["data"], recipe.split, readings.get("valid"), readings.get("test"))
    with tempfile.TemporaryDirectory(prefix=".index-", dir=out) as folder:
        return _Road(base, given, out, recipe, clock, readings, parts).run(Path(folder))


class _Road:
    """From the parts to the finished directory."""

    def __init__(self, base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock, readings: dict[str, QuestionReading],
                 parts: QuestionParts) -> None:
        self.base, self.given, self.out, self.recipe, self.clock, self.readings = base, given, out, recipe, clock, readings
        self.said: list[str] = []
        self.questions = parts.questions
        for line in parts.said:
            self._note(line)
        self.asked = {name: self._limit(name) for name in parts.questions}

    def _note(self, line: str) -> None:
        self.said.append(line)
        say(f"  {line}")

    def _limit(self, name: str) -> list[Question]:
        """Take as many questions of a part as are asked, drawn by their hashes."""
        part = sorted(self.questions[name], key=lambda question: question.key)
        if len(part) > _MOST[name]:
            self._note(f"{name}: {_MOST[name]:,} of {len(part):,} questions are asked, drawn by their hashes")
        return part[:_MOST[name]]

    def run(self, folder: Path) -> Report:
        """Go the road; folder: for the index of the passages, which goes again."""
        with self.clock.stage("index the passages"):
            collection = index_passages([question.passage for part in self.questions.values() for question in part], folder)
            background = count_background(sorted({question.passage for question in self.questions["train"]}))
        with self.clock.stage("by words"):
            rows = {name: ask_variants(self.asked[name], collection, background, self.recipe.tune.seed, f"the {name} part")
                    for name in ("train", "valid")}
            fitted = fit_answers(rows["train"], rows["valid"], background)
            self._note(fitted.said)
        why = "sentences are ranked by words: the base is new, so there is no reader of spans"
        if self.base != "new":
            fitted, why = self._read_spans(fitted, rows)
        self._note(why)
        answerer = fitted.answerer
        answerer.about |= {"base": self.base, "cited": CITED, "why": why}
        with self.clock.stage("measure"):
            measured = measure_answers(answerer, _of_collection(self.asked["test"], collection), self.recipe.evaluate)
        return self._finish(answerer, measured)

    def _read_spans(self, plain: Fitted, rows: dict[str, list[Row]]) -> tuple[Fitted, str]:
        """Train a reader of spans; returns what is used, with or without it, and why."""
        from myna.train.reading import train_reader  # here, so that a reader by words loads no torch

        options = self.recipe.tune
        with self.clock.stage("reader of spans"):
            sources = [file["sha256"] for reading in self.readings.values() for file in reading.notes.files]
            ranker = plain.answerer.ranker
            excerpts = {name: take_excerpts(rows[name], ranker) for name in ("train", "valid")}
            reader = train_reader(self.base, excerpts["train"], excerpts["valid"], len(rows["valid"]) + 2 * len(self.asked["test"]),
                                  self.out, options, self.recipe.train,
                                  None if options.steps is not None else lambda: options.minutes * 60 - self.clock.seconds,
                                  {"request": request_of(self.recipe, self.given), "sources": sources})
            fitted = fit_answers(rows["valid"], rows["valid"], plain.answerer.background, reader, ranker)
        self._note(fitted.said)
        if fitted.f1 < plain.f1 + _LEAST_GAIN:
            return plain, f"sentences are ranked by words alone: F1 {plain.f1:.3f} on the validation part, with spans {fitted.f1:.3f}"
        return fitted, f"spans are read: F1 {fitted.f1:.3f} on the validation part, by words alone {plain.f1:.3f}"

    def _finish(self, answerer: Answerer, measured: Measured) -> Report:
        """Write the directory; myna.json is last."""
        with self.clock.stage("write"):
            answerer.save(self.out)
            learned = [question.key for name in ("train", "valid") for question in self.questions[name]]
            return finish_task(self.out, "answerer", measured, self.said, learned, self.recipe, self.given,
                               [file for reading in self.readings.values() for file in reading.notes.files], self.clock)


def _of_collection(questions: Sequence[Question], collection: Collection) -> Asked:
    return Asked(questions, collection.index, None, collection.owners,
                 np.array([collection.numbers[question.passage] for question in questions]))


def evaluate_answerer(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a directory on questions it did not learn from, over an index of all their passages. Raises UserError when there are none."""
    answerer = Answerer.open(folder)
    reading = read_questions(data, recipe.rows)
    for line in reading.said():
        say(f"  {line}")
    learned = read_seen(folder)
    questions = [question for question in reading.questions if question.key not in learned]
    if len(questions) < len(reading.questions):
        say(f"  {len(reading.questions) - len(questions):,} questions were learned from and are left out; their passages are not")
    if not questions:
        raise UserError(f"{folder} learned from all {len(reading.questions):,} questions", "questions that it never saw", "give others")
    with tempfile.TemporaryDirectory() as place:
        collection = index_passages([question.passage for question in reading.questions], Path(place) / "collection")
        return measure_answers(answerer, _of_collection(questions, collection), recipe.evaluate)
