"""Measure a classifier: accuracy, precision, recall and F1 with intervals beside a baseline's on the same texts, and what lies behind them.

The confusion matrix says which labels are taken for which; the calibration error how far the stated probabilities are from what comes
true (Guo et al. 2017); the best and worst texts, by the probability of what is true, are often mislabelled or unlike all others.

    measured = measure_classes(items, log_probs, decided, known_labels, options, baseline=("majority class", others))
    measured.report.metrics["accuracy"].value, measured.details["confusion"]

N texts · K labels
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.data.labelled import LabelledText
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.classification import (
    calibration_error,
    confusion_matrix,
    count_decisions,
    count_exact,
    f1,
    macro_f1,
    macro_precision,
    macro_recall,
    micro_f1,
    micro_precision,
    micro_recall,
    precision,
    recall,
)
from myna.metrics.paired import Measure, measured_report, ratio

Array = npt.NDArray[Any]

_FORMULAS = {"macro_f1": macro_f1, "macro_precision": macro_precision, "macro_recall": macro_recall, "micro_f1": micro_f1,
             "micro_precision": micro_precision, "micro_recall": micro_recall}
_EXAMPLES, _CHARACTERS = 5, 300  # texts shown at each end, and how much of each
_MOST_CONFUSED = 50  # labels of which the whole matrix is kept; of more, the pairs most often confused
_PAIRS = 20


def measure_classes(items: Sequence[LabelledText], log_probs: Array, decided: Sequence[Collection[str]], known: Sequence[str],
                    options: EvaluateOptions, baseline: tuple[str, Sequence[Collection[str]]], several: bool = False) -> Measured:
    """Measure what was decided (N) of texts against their labels. log_probs: (N, K) over the labels `known`. baseline: name and decisions.

    Macro scores are over the labels that occur or were given, as in scikit-learn. Raises UserError when there are fewer than two texts.
    """
    references = [item.labels for item in items]
    name, others = baseline
    labels = sorted({label for rows in (references, decided, others) for row in rows for label in row})
    counted, beside = count_decisions(references, decided, labels), count_decisions(references, others, labels)
    how = (f"labels={len(labels)}|{'several' if several else 'one'} a text|unit=text|bootstrap={options.resamples}|seed={options.seed}|v1")
    measures = {"accuracy": Measure(count_exact(references, decided), ratio, f"accuracy|{how}", count_exact(references, others))}
    for metric, formula in _FORMULAS.items():
        measures[metric] = Measure(counted, formula, f"{metric}|{how}", beside)
    report = measured_report(measures, name, options.resamples, options.seed)
    details = _describe(items, log_probs, decided, known, labels, counted, several)
    return Measured(report, details, _say(details))


def _describe(items: Sequence[LabelledText], log_probs: Array, decided: Sequence[Collection[str]], known: Sequence[str],
              labels: Sequence[str], counted: Array, several: bool) -> dict[str, Any]:
    sums = counted.sum(axis=0)[None]
    rights, wrongs, missed = np.split(sums[0], 3)
    per_label = {label: {"precision": float(precision(sums)[0, place]), "recall": float(recall(sums)[0, place]),
                         "f1": float(f1(sums)[0, place]), "texts": int(rights[place] + missed[place]),
                         "given": int(rights[place] + wrongs[place])} for place, label in enumerate(labels)}
    place = {label: number for number, label in enumerate(known)}
    truth = np.array([sum(_true_log_prob(row, item, place, several)) for row, item in zip(log_probs, items, strict=True)])
    order = np.argsort(-truth, kind="stable").tolist()
    details: dict[str, Any] = {"texts": len(items), "labels": per_label, "calibration_error": _calibrate(log_probs, items, known, several),
                               "best": [_show(items[at], decided[at], truth[at]) for at in order[:_EXAMPLES]],
                               "worst": [_show(items[at], decided[at], truth[at]) for at in order[::-1][:_EXAMPLES]]}
    if not several:
        table = confusion_matrix([item.labels[0] for item in items], [next(iter(row)) for row in decided], labels)
        if len(labels) <= _MOST_CONFUSED:
            details["confusion"] = {"labels": list(labels), "rows": table.tolist()}
        apart = [(int(table[row, column]), labels[row], labels[column]) for row, column in zip(*np.nonzero(table), strict=True)
                 if row != column]
        details["confused"] = [{"true": true, "given": given, "texts": count}
                               for count, true, given in sorted(apart, reverse=True)[:_PAIRS]]
    return details


def _true_log_prob(row: Array, item: LabelledText, place: dict[str, int], several: bool) -> list[float]:
    """Return the log-probabilities whose sum is that of a text's labels; a label that is not known has a chance of nothing."""
    if any(label not in place for label in item.labels):
        return [-np.inf]
    if not several:
        return [float(row[place[item.labels[0]]])]
    given = np.isin(np.arange(len(row)), [place[label] for label in item.labels])
    return [float(np.where(given, row, np.log(-np.expm1(np.minimum(row, -1e-12)))).sum())]


def _calibrate(log_probs: Array, items: Sequence[LabelledText], known: Sequence[str], several: bool) -> float:
    """The calibration error of the likeliest label, or of every decision where there may be several."""
    true = np.array([[label in item.labels for label in known] for item in items])
    if several:
        chances = np.exp(log_probs)
        given = chances >= 0.5
        return calibration_error(np.where(given, chances, 1 - chances).ravel(), (given == true).ravel())
    best = log_probs.argmax(axis=1)
    rows = np.arange(len(items))
    return calibration_error(np.exp(log_probs[rows, best]), true[rows, best])


def _show(item: LabelledText, decided: Collection[str], log_prob: float) -> dict[str, Any]:
    return {"text": item.text[:_CHARACTERS], "cut": len(item.text) > _CHARACTERS, "where": item.where, "true": list(item.labels),
            "given": list(decided), "probability": float(np.exp(log_prob))}


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what lies behind the scores."""
    lines = [f"calibration error {details['calibration_error']:.3f} over {details['texts']:,} texts",
             "label: precision, recall, F1 (texts)"]
    lines += [f"  {label}: {row['precision']:.3f}, {row['recall']:.3f}, {row['f1']:.3f} ({row['texts']:,})"
              for label, row in details["labels"].items()]
    if details.get("confused"):
        lines += ["most often confused: " + ", ".join(f"{pair['true']} taken for {pair['given']} {pair['texts']} times"
                                                      for pair in details["confused"][:5])]
    for name in ("best", "worst"):
        lines.append(f"{name}:")
        lines += [f"  {row['probability']:.3f} {', '.join(row['true'])} (given {', '.join(row['given']) or 'none'}): "
                  f"{' '.join(row['text'].split())[:70]}" for row in details[name][:3]]
    return lines
