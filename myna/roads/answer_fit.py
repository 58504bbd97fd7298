"""Fit what answers questions: which sentence, and whether to answer at all, on questions asked with their passage and without.

Every question is asked of the whole index and of a small part of it, so that the numbers the decision goes by mean the same in a large
collection and in a folder of a few files. A question that its passage does not answer is one that is to be refused.

    rows = ask_variants(questions, collection, background, seed=0)
    fitted = fit_answers(rows, valid_rows, background)
    fitted.answerer.threshold, fitted.said

N rows: questions in a variant · F features
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import track
from myna.corpus.sentences import cut_sentences
from myna.data.questions import Excerpt, Question, find_answer
from myna.errors import UserError
from myna.evaluate.questions import holds_answer
from myna.metrics.answers import answer_f1
from myna.models.logistic import Logistic, fit_logistic
from myna.models.span_head import Spans
from myna.retrieval.evidence import SENTENCE_FEATURES, Background, Evidence, find_evidence, hide_passages
from myna.retrieval.index import Index
from myna.retrieval.options import IndexOptions
from myna.tasks.answer import (
    FOUND,
    LOOKED_IN,
    SPAN_FEATURES,
    Answerer,
    Choice,
    choose_sentence,
    decision_features,
    span_features,
    surround_sentence,
)

Array = npt.NDArray[Any]

CITED = 0.9  # of the answers given where there is one, the share whose passage must hold it: the threshold is chosen for it
_SMALLEST, _LARGEST_SHARE = 3, 0.5  # passages of the small parts of the index that questions are asked of as well


@dataclass(frozen=True)
class Collection:
    """An index of passages: owners (P,) gives each indexed passage the number of its text, `numbers` that of each text."""

    index: Index
    owners: Array
    numbers: dict[str, int]


@dataclass(frozen=True)
class Row:
    """A question asked of an index: what was found, whether its passage was there, and whether the index was whole."""

    question: Question
    found: list[Evidence]
    there: bool
    whole: bool

    @property
    def answerable(self) -> bool:
        """Whether the index answers it."""
        return self.there and bool(self.question.answers)


@dataclass(frozen=True)
class Fitted:
    """What was fitted, how it does on the validation part, and what is to be said."""

    answerer: Answerer
    f1: float
    "Mean F1 of the answers to questions that have one, whether or not the decision would give them."
    said: str


def index_passages(passages: Sequence[str], folder: Path) -> Collection:
    """Make an index of texts, a file each, in an empty folder. Texts that differ in white space alone are one."""
    texts: dict[str, int] = {}
    numbers = {passage: texts.setdefault(" ".join(passage.split()), len(texts)) for passage in passages}
    (folder / "passages").mkdir(parents=True)
    written: set[int] = set()
    for passage, number in numbers.items():
        if number not in written:
            (folder / "passages" / f"{number:07d}.txt").write_text(passage + "\n", encoding="utf-8", errors="replace")
            written.add(number)
    index = Index.create(folder / "index", IndexOptions())
    index.add([folder / "passages"])
    owners = np.array([int(Path(index.owner(passage)).stem) for passage in range(len(index))])
    return Collection(index, owners, numbers)


def ask_variants(questions: Sequence[Question], collection: Collection, background: Background, seed: int, what: str = "") -> list[Row]:
    """Ask questions of the whole index and of a small part of it, each with the question's passage and without."""
    generator = np.random.default_rng(seed)
    index, owners, count = collection.index, collection.owners, len(set(collection.numbers.values()))
    largest, rows = max(_SMALLEST, int(_LARGEST_SHARE * count)), []
    with track(f"asking {what}", len(questions), " questions") as advance:
        for question in questions:
            own = owners == collection.numbers[question.passage]
            size = int(np.exp(generator.uniform(np.log(_SMALLEST), np.log(largest))))
            few = np.isin(owners, generator.choice(count, min(size, count), replace=False)) | own
            for whole, kept in ((True, np.ones_like(own)), (False, few)):
                for there in (True, False):
                    with hide_passages(index, ~kept if there else ~kept | own):
                        found = find_evidence(index, question.question, background, None, FOUND)
                    rows.append(Row(question, found, there, whole))
            advance(1)
    return rows


def fit_answers(rows: Sequence[Row], valid: Sequence[Row], background: Background, reader: Spans | None = None,
                ranker: Logistic | None = None) -> Fitted:
    """Fit the ranker of sentences, where none is given, and the decision to rows; the threshold is chosen on `valid`, whole indexes alone.

    reader: of spans, whose scores are among the numbers then; it must not have learned from the questions of either.
    Raises UserError where no sentence of the rows answers anything.
    """
    ranker = ranker or _fit_ranker(rows)
    chosen = _choose(rows, ranker, reader)
    table = [(choice.features, _is_right(row, choice)) for row, choice in zip(rows, chosen, strict=True) if choice]
    decision = fit_logistic(np.stack([features for features, _ in table]), np.array([right for _, right in table], np.float64),
                            decision_features(reader is not None))
    chooser = None if reader is None else _fit_chooser(rows, chosen)
    beside = chosen if rows is valid else _choose(valid, ranker, reader)
    whole = [(row, choice) for row, choice in zip(valid, beside, strict=True) if row.whole]
    answerable = np.array([row.answerable for row, _ in whole])
    sure = np.array([float(decision.probabilities(choice.features[None])[0]) if choice else 0.0 for _, choice in whole])
    right = np.array([choice is not None and _is_right(row, choice) for row, choice in whole])
    threshold = choose_threshold(sure, answerable, right)
    answerer = Answerer(ranker, decision, threshold, background, reader, chooser)
    f1 = float(np.mean([answer_f1(answerer.word(choice)[0], row.question.answers) if choice else 0.0
                        for row, choice in whole if row.answerable]))
    given = sure >= threshold
    cited = right[given & answerable].mean() if (given & answerable).any() else 0.0
    said = (f"{'with spans' if reader else 'by words'}: F1 {f1:.3f}; from a confidence of {threshold:.3f}, {given[answerable].mean():.3f} "
            f"of what can be answered is, {cited:.3f} of that from a passage with the answer, and {(~given)[~answerable].mean():.3f} of "
            "what cannot is refused")
    return Fitted(answerer, f1, said)


def _choose(rows: Sequence[Row], ranker: Logistic, reader: Spans | None) -> list[Choice | None]:
    with track("reading" if reader else "choosing", len(rows), " questions") as advance:
        chosen = []
        for row in rows:
            chosen.append(choose_sentence(row.question.question, row.found, ranker, reader))
            advance(1)
    return chosen


def _fit_ranker(rows: Sequence[Row]) -> Logistic:
    x, y = [], []
    for row in rows:
        if not (row.answerable and row.whole):
            continue
        for evidence in row.found[:LOOKED_IN]:
            x.append(evidence.about)
            y += [holds_answer(evidence.hit.text[start:end], row.question.answers) for start, end in evidence.sentences]
    if not any(y):
        raise UserError("no answer stands in a sentence of the passages found", "answers that stand in their passages, word for word",
                        "look at the columns of passages and answers")
    return fit_logistic(np.concatenate(x), np.array(y, np.float64), SENTENCE_FEATURES)


def _fit_chooser(rows: Sequence[Row], chosen: Sequence[Choice | None]) -> Logistic:
    """Fit when a span is a better answer than the sentence it stands in."""
    known = [(row, choice, choice.span) for row, choice in zip(rows, chosen, strict=True)
             if choice and choice.span and row.answerable and row.whole]
    better = [answer_f1(choice.evidence.hit.text[span.start:span.end], row.question.answers) > answer_f1(choice.quote, row.question.answers)
              for row, choice, span in known]
    return fit_logistic(np.stack([span_features(span) for _, _, span in known]), np.array(better, np.float64), SPAN_FEATURES)


def _is_right(row: Row, choice: Choice) -> bool:
    return row.answerable and holds_answer(choice.evidence.hit.text, row.question.answers)


def take_excerpts(rows: Sequence[Row], ranker: Logistic) -> list[Excerpt]:
    """Take what a reader of spans learns from: the sentences chosen, with the answer where they hold it, and those that hold it.

    Whole indexes with the passage alone; where the sentences chosen do not hold the answer, they are an example of none.
    """
    taken = []
    for row in rows:
        if not (row.whole and row.there):
            continue
        question = row.question
        choice = choose_sentence(question.question, row.found, ranker)
        texts = [] if choice is None else [choice.evidence.hit.text[slice(*surround_sentence(choice.evidence.sentences, choice.sentence))]]
        found = [(text, place) for text in texts if (place := _place(question.answers, text)) is not None]
        if not found and (start := max(question.starts, default=-1)) >= 0:
            sentences = cut_sentences(question.passage)
            inside = max(number for number, (begin, _) in enumerate(sentences) if begin <= start)
            text = question.passage[slice(*surround_sentence(sentences, inside))]
            found = [(text, place)] if (place := _place(question.answers, text)) is not None else []
            taken += [Excerpt(question.question, other, -1, -1) for other in texts]
        elif not found:
            taken += [Excerpt(question.question, other, -1, -1) for other in texts]
        taken += [Excerpt(question.question, text, *place) for text, place in found]
    return taken


def _place(answers: Sequence[str], text: str) -> tuple[int, int] | None:
    for answer in answers:
        shown, start = find_answer(answer, text)
        if start >= 0:
            return start, start + len(shown)
    return None


def choose_threshold(sure: Array, answerable: Array, right: Array) -> float:
    """Choose from which confidence on to answer: sure, answerable, right (N,).

    Of the thresholds where at least CITED of the answers given to answerable questions are right, that at which answering what can be
    answered and refusing what cannot are most even; where there is none, that of the most right answers among those given. It is put in
    the middle between the least sure answer that it gives and the next one.
    """
    values = np.unique(sure)
    ranks = [_rank_threshold(sure >= value, answerable, right) for value in values.tolist()]
    best = ranks.index(max(ranks))
    return float(values[best] + (values[best - 1] if best else 0.0)) / 2


def _rank_threshold(given: Array, answerable: Array, right: Array) -> tuple[bool, float, float]:
    told = given & answerable
    cited = float(right[told].mean()) if told.any() else 0.0
    if cited < CITED:
        return False, cited, 0.0
    refused = float((~given)[~answerable].mean()) if (~answerable).any() else 1.0
    answered = float(given[answerable].mean())
    return True, min(answered, refused), answered + refused
