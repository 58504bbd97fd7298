"""Measure what answers questions from documents: whether it finds, quotes, answers and refuses rightly, beside the plainest way to do it.

Each question is asked twice: of an index of all passages, and of the same index without the question's own passage, which then is a
question that the documents do not answer. Questions that their passage does not answer are such too, and harder: the passage is there.
The baseline takes the sentence of BM25's first passage that shares most with the question, and never refuses.

    measured = measure_answers(answerer, material, options)
    measured.report.metrics["citation"].value

N questions
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import track
from myna.data.questions import Question
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.answers import answer_exact, answer_f1, answer_words
from myna.metrics.classification import calibration_error
from myna.metrics.paired import Measure, measured_report, ratio
from myna.retrieval.evidence import SENTENCE_FEATURES, Evidence, hide_passages
from myna.retrieval.index import Embed, Index
from myna.tasks.answer import Answerer

Array = npt.NDArray[Any]

_EXAMPLES = 5
_COVERAGE = SENTENCE_FEATURES.index("coverage")


@dataclass(frozen=True)
class Asked:
    """Questions with the index of their passages: owners (P,) is the number of the passage's text, golds (N,) that of each question's."""

    questions: Sequence[Question]
    index: Index
    embed: Embed | None
    owners: Array
    golds: Array


@dataclass(frozen=True)
class Given:
    """What was made of a question: the answer and how it came, the sentence and the passage quoted, the confidence, and what was found."""

    text: str
    how: str
    quote: str
    passage: str
    confidence: float
    answered: bool
    found: list[int]
    "The numbers of the texts whose passages were found, the best first."


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Tell whether one of the answers stands in a text, as words one after another (see `myna.metrics.answers`)."""
    words = f" {' '.join(answer_words(text))} "
    return any(f" {' '.join(wanted)} " in words for wanted in map(answer_words, answers) if wanted)


def ask(answerer: Answerer, asked: Asked) -> list[tuple[Given, Given, Given]]:
    """Ask every question: as it is, without its passage, and of the baseline."""
    out = []
    with track("asking", len(asked.questions), " questions") as advance:
        for question, gold in zip(asked.questions, asked.golds, strict=True):
            found = answerer.find(question.question, asked.index, asked.embed)
            plain = found if asked.embed is None else answerer.find(question.question, asked.index, None)
            with hide_passages(asked.index, asked.owners == gold):
                without = answerer.find(question.question, asked.index, asked.embed)
            out.append((_decide(answerer, question, found, asked.owners), _decide(answerer, question, without, asked.owners),
                        _take_plainly(plain, asked.owners)))
            advance(1)
    return out


def _decide(answerer: Answerer, question: Question, found: Sequence[Evidence], owners: Array) -> Given:
    ranked = [int(owners[one.hit.passage]) for one in found]
    choice = answerer.choose(question.question, found)
    if choice is None:
        return Given("", "", "", "", 0.0, False, ranked)
    confidence = answerer.confidence(choice)
    text, how, sentence = answerer.word(choice)
    passage = choice.evidence.hit.text
    return Given(text, how, passage[slice(*choice.evidence.sentences[sentence])], passage, confidence, confidence >= answerer.threshold,
                 ranked)


def _take_plainly(found: Sequence[Evidence], owners: Array) -> Given:
    ranked = [int(owners[one.hit.passage]) for one in found]
    first = next((one for one in found if one.sentences), None)
    if first is None:
        return Given("", "", "", "", 0.0, False, ranked)
    quote = first.hit.text[slice(*first.sentences[int(np.argmax(first.about[:, _COVERAGE]))])]
    return Given(quote, "sentence", quote, first.hit.text, 1.0, True, ranked)


def measure_answers(answerer: Answerer, asked: Asked, options: EvaluateOptions) -> Measured:
    """Measure answers, quotes and refusals, beside the baseline on the same questions. Raises UserError when there are fewer than two."""
    rows = ask(answerer, asked)
    answerable = np.array([bool(question.answers) for question in asked.questions], np.float64)
    how = (f"index={'words' if asked.embed is None else 'hybrid'}|passages={len(asked.index)}|unit=question|"
           f"bootstrap={options.resamples}|seed={options.seed}|v1")
    model, plain = (_score(asked, [(row[place], row[1] if place == 0 else row[2]) for row in rows], answerable) for place in (0, 2))
    names = [name for name in model if model[name][:, 1].any()]
    measures = {name: Measure(model[name], ratio, f"{name}|{how}", plain[name]) for name in names}
    report = measured_report(measures, "best passage's best sentence, never refusing", options.resamples, options.seed)
    details = _describe(asked, rows, answerable)
    return Measured(report, details, _say(details, answerer))


def _score(asked: Asked, given: Sequence[tuple[Given, Given]], answerable: Array) -> dict[str, Array]:
    """Return what each question adds (above, below) to every ratio."""
    one, ones = [first for first, _ in given], np.ones(len(given))
    answered = np.array([first.answered for first in one], np.float64)
    refused, elsewhere = 1 - answered, np.array([not second.answered for _, second in given], np.float64)

    def share(values: Sequence[float] | Array, of: Array) -> Array:
        return np.stack([np.asarray(values, np.float64) * of, of], axis=1)

    answers = [question.answers for question in asked.questions]
    told = answered * answerable
    right = [(answer_exact(first.text, true), answer_f1(first.text, true), holds_answer(first.passage, true),
              holds_answer(first.quote, true)) if true else (0.0, 0.0, False, False) for first, true in zip(one, answers, strict=True)]
    exact, f1, passage, sentence = (np.array(values, np.float64) for values in zip(*right, strict=True))
    return {
        "citation": share(passage, told), "citation_sentence": share(sentence, told), "answered": share(answered, answerable),
        # every question without its passage, and those that their passage does not answer
        "refused": np.stack([elsewhere + refused * (1 - answerable), ones + (1 - answerable)], axis=1),
        "refused_passage_out": share(elsewhere, ones), "refused_impossible": share(refused, 1 - answerable),
        "exact_match": share(exact * answered, answerable), "f1": share(f1 * answered, answerable), "f1_answered": share(f1, told),
        "recall_at_1": share([float(first.found[:1] == [gold]) for first, gold in zip(one, asked.golds, strict=True)], ones),
        "recall_at_5": share([float(gold in first.found) for first, gold in zip(one, asked.golds, strict=True)], ones)}


def _describe(asked: Asked, rows: Sequence[tuple[Given, Given, Given]], answerable: Array) -> dict[str, Any]:
    right = np.array([holds_answer(row[0].passage, question.answers) for row, question in zip(rows, asked.questions, strict=True)])
    sure = np.array([row[0].confidence for row in rows])
    told = np.array([row[0].answered for row in rows])
    both = np.concatenate([sure, [row[1].confidence for row in rows]])
    good = np.flatnonzero(told & right & (answerable > 0)).tolist()
    wrong = np.flatnonzero(told & ~right).tolist()
    silent = np.flatnonzero(~told & (answerable > 0)).tolist()

    def show(places: list[int], sign: int) -> list[dict[str, Any]]:
        listed = sorted(places, key=lambda at: (sign * sure[at], at))[:_EXAMPLES]
        return [{"question": asked.questions[at].question, "where": asked.questions[at].where, "true": list(asked.questions[at].answers),
                 "given": rows[at][0].text, "how": rows[at][0].how, "quote": rows[at][0].quote, "confidence": float(sure[at])}
                for at in listed]

    return {"questions": len(rows), "answerable": int(answerable.sum()), "answered_as_span": sum(row[0].how == "span" for row in rows),
            # the probability that the passage answers, of questions with and without it
            "calibration_error": calibration_error(np.where(both >= 0.5, both, 1 - both),
                                                   np.where(both >= 0.5, np.concatenate([right, np.zeros(len(rows), bool)]),
                                                            ~np.concatenate([right, np.zeros(len(rows), bool)]))),
            "best": show(good, -1), "worst": show(wrong, -1), "refused_wrongly": show(silent, -1)}


def _say(details: dict[str, Any], answerer: Answerer) -> list[str]:
    lines = [f"{details['questions']:,} questions, {details['answerable']:,} of them answered in their passage, each asked with the "
             "passage and without", f"answers are given from a confidence of {answerer.threshold:.3f}; calibration error "
             f"{details['calibration_error']:.3f}"]
    for name, title in (("best", "best:"), ("worst", "worst, answered wrongly:"), ("refused_wrongly", "refused, though answered there:")):
        lines += [title] if details[name] else []
        lines += [f"  {row['confidence']:.3f} {row['question'][:60]} | {' '.join(row['quote'].split())[:70]}" for row in details[name][:3]]
    return lines
