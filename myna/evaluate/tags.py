"""Measure a tagger: labels of given words, names, and words with labels of plain text, with intervals over sentences beside a baseline's.

Of given words the share of right labels and macro F1 over labels; of labels B-, I- and O the F1 of whole names (as in CoNLL 2003); of text
without spaces the F1 of words, whose both ends must be right, and of words with their labels. What lies behind: each label's scores, which
labels are taken for which, words that training did not have, and the sentences that were told best and worst.

    measured = measure_tags(items, answers, options, ("hidden Markov model", others))
    measured.report.metrics["accuracy"].value, measured.details["confused"]

N sentences · K labels
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.data.tagged import TaggedSentence
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.classification import calibration_error, f1, macro_f1, micro_f1, precision, recall
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.tagging import count_spans

Array = npt.NDArray[Any]
Cut = frozenset[tuple[int, int, str]]

_EXAMPLES, _WORDS, _PAIRS = 5, 60, 20  # sentences shown at each end, words of each, pairs of labels most often confused


@dataclass(frozen=True)
class Answers:
    """What a tagger says of sentences: the labels of given tokens, and words (start, end, label) found in plain text."""

    labels: list[list[str]] = field(default_factory=list)
    cut: list[Cut] | None = None
    chances: list[Array] | None = None
    "The probability of every label of every token (T, K)."
    known: Sequence[str] = ()
    "The K labels."


@dataclass(frozen=True)
class Truth:
    """What is right: tokens with their labels, words in the plain text, and what the labels are ('tags', 'spans' or 'segments')."""

    items: Sequence[TaggedSentence]
    tokens: list[list[str]]
    labels: list[list[str]]
    cut: list[Cut] | None
    scheme: str


def count_labels(references: Sequence[Sequence[str]], given: Sequence[Sequence[str]], labels: Sequence[str]) -> Array:
    """Count what was right, wrongly given and missed of each label in each sentence: (N, 3K), as `classification.f1` takes it."""
    size, place = len(labels), {label: at for at, label in enumerate(labels)}
    table = np.zeros((len(references), 3 * size), np.int64)
    for row, true, found in zip(table, references, given, strict=True):
        for wanted, had in zip(true, found, strict=True):
            if wanted == had:
                row[place[wanted]] += 1
            else:
                row[size + place[had]] += 1
                row[2 * size + place[wanted]] += 1
    return table


def count_cuts(references: Sequence[Collection[Any]], given: Sequence[Collection[Any]]) -> Array:
    """Count words right, wrongly given and missed in each sentence: (N, 3), as `classification.micro_f1` takes it."""
    pairs = [(set(true), set(found)) for true, found in zip(references, given, strict=True)]
    return np.array([[len(true & found), len(found - true), len(true - found)] for true, found in pairs], np.int64).reshape(-1, 3)


def measure_tags(truth: Truth, answers: Answers, options: EvaluateOptions, baseline: tuple[str, Answers],
                 knows: Callable[[str], bool] | None = None) -> Measured:
    """Measure answers beside a baseline's. knows: tells whether training had a word. Raises UserError on fewer than two sentences."""
    name, others = baseline
    used = sorted({label for rows in (truth.labels, answers.labels, others.labels) for row in rows for label in row})
    how = f"labels={len(used)}|unit=sentence|bootstrap={options.resamples}|seed={options.seed}|v1"

    def right(rows: Sequence[Sequence[str]]) -> Array:
        return np.array([[sum(a == b for a, b in zip(true, row, strict=True)), len(true)]
                         for true, row in zip(truth.labels, rows, strict=True)], np.int64)

    measures = {}
    if truth.scheme != "segments":
        counted = count_labels(truth.labels, answers.labels, used)
        measures["accuracy"] = Measure(right(answers.labels), ratio, f"accuracy of given words|{how}", right(others.labels))
        measures["macro_f1"] = Measure(counted, macro_f1, f"macro F1 of given words|{how}", count_labels(truth.labels, others.labels, used))
    if truth.scheme == "spans":
        measures["entity_f1"] = Measure(count_spans(truth.labels, answers.labels), micro_f1, f"F1 of spans|{how}",
                                        count_spans(truth.labels, others.labels))
    if truth.cut is not None and answers.cut is not None and others.cut is not None:
        for metric, keep in (("word_f1", 2), ("tagged_word_f1", 3)):
            if metric == "word_f1" or truth.scheme != "segments":
                true, found, beside = ([{word[:keep] for word in row} for row in rows] for rows in (truth.cut, answers.cut, others.cut))
                what = "F1 of words" if keep == 2 else "F1 of words with labels"
                measures[metric] = Measure(count_cuts(true, found), micro_f1, f"{what} of plain text|{how}", count_cuts(true, beside))
    if truth.scheme == "segments":
        measures["accuracy"] = Measure(right(answers.labels), ratio, f"accuracy of B, M, E, S|{how}", right(others.labels))
    report = measured_report(measures, name, options.resamples, options.seed)
    details = _describe(truth, answers, used, knows)
    return Measured(report, details, _say(details))


def _describe(truth: Truth, answers: Answers, used: Sequence[str], knows: Callable[[str], bool] | None) -> dict[str, Any]:
    sums = count_labels(truth.labels, answers.labels, used).sum(axis=0)[None]
    rights, wrongs, missed = np.split(sums[0], 3)
    scores = [table(sums)[0] for table in (precision, recall, f1)]
    details: dict[str, Any] = {
        "sentences": len(truth.items), "tokens": int((rights + missed).sum()),
        "labels": {label: {"precision": float(scores[0][at]), "recall": float(scores[1][at]), "f1": float(scores[2][at]),
                           "tokens": int(rights[at] + missed[at]), "given": int(rights[at] + wrongs[at])}
                   for at, label in enumerate(used)}}
    apart = Counter((true, found) for rows in zip(truth.labels, answers.labels, strict=True)
                    for true, found in zip(*rows, strict=True) if true != found)
    details["confused"] = [{"true": true, "given": found, "tokens": count} for (true, found), count in apart.most_common(_PAIRS)]
    if knows is not None:
        hits: Counter[bool] = Counter()
        total: Counter[bool] = Counter()
        for tokens, true, found in zip(truth.tokens, truth.labels, answers.labels, strict=True):
            for token, wanted, had in zip(tokens, true, found, strict=True):
                seen = knows(token)
                total[seen] += 1
                hits[seen] += wanted == had
        details["seen_in_training"] = {name: {"tokens": total[seen], "accuracy": hits[seen] / total[seen] if total[seen] else None}
                                       for name, seen in (("yes", True), ("no", False))}
    if answers.chances is not None:
        details |= _rank(truth, answers)
    return details


def _rank(truth: Truth, answers: Answers) -> dict[str, Any]:
    """Say how sure the tagger was: the calibration error, and the sentences told best and worst by the mean log-probability of truth."""
    assert answers.chances is not None
    place = {label: at for at, label in enumerate(answers.known)}
    confidences, rights, means = [], [], []
    for table, true, found in zip(answers.chances, truth.labels, answers.labels, strict=True):
        confidences += [float(row[place[had]]) for row, had in zip(table, found, strict=True)]
        rights += [wanted == had for wanted, had in zip(true, found, strict=True)]
        told = [float(row[place[wanted]]) if wanted in place else 0.0 for row, wanted in zip(table, true, strict=True)]
        means.append(float(np.log(np.maximum(told, 1e-12)).mean()))
    order = np.argsort(-np.array(means), kind="stable").tolist()

    def show(at: int) -> dict[str, Any]:
        item, found = truth.items[at], answers.labels[at]
        return {"words": truth.tokens[at][:_WORDS], "cut": len(found) > _WORDS, "where": item.where, "true": truth.labels[at][:_WORDS],
                "given": found[:_WORDS], "probability": float(np.exp(means[at]))}

    return {"calibration_error": calibration_error(np.array(confidences), np.array(rights)),
            "best": [show(at) for at in order[:_EXAMPLES]], "worst": [show(at) for at in order[::-1][:_EXAMPLES]]}


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what lies behind the scores."""
    lines = [f"{details['sentences']:,} sentences, {details['tokens']:,} labels"]
    if "calibration_error" in details:
        lines.append(f"calibration error {details['calibration_error']:.3f}")
    for name, part in details.get("seen_in_training", {}).items():
        if part["tokens"]:
            lines.append(f"{'seen' if name == 'yes' else 'not seen'} in training: {part['tokens']:,}, right in {part['accuracy']:.4f}")
    common = sorted(details["labels"].items(), key=lambda pair: -pair[1]["tokens"])[:10]
    lines += ["label: precision, recall, F1 (how many)"]
    lines += [f"  {label}: {row['precision']:.3f}, {row['recall']:.3f}, {row['f1']:.3f} ({row['tokens']:,})" for label, row in common]
    if details["confused"]:
        lines.append("most often confused: " + ", ".join(f"{pair['true']} taken for {pair['given']} {pair['tokens']} times"
                                                         for pair in details["confused"][:5]))
    for name in ("best", "worst"):
        if name in details:
            lines.append(f"{name}:")
            lines += [f"  {row['probability']:.3f} " + " ".join(
                f"{word}/{had}" + ("" if had == wanted else f" (right: {wanted})")
                for word, had, wanted in zip(row["words"][:12], row["given"], row["true"], strict=False)) for row in details[name][:3]]
    return lines
