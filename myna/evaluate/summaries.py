"""Measure summaries: ROUGE with intervals beside the beginning of the text, how much is copied, and what lies behind it.

The baseline is the beginning of each source, as many words as the summaries that were learned from have in the median: news say the most
important thing first, and few systems do much better (Nallapati et al. 2017, "SummaRuNNer", beat it by little). ROUGE counts a Chinese
character as a word (`myna.metrics.summaries`).

    measured = measure_summaries(pairs, summaries, 8, {"textrank": others}, "first 400 tokens", EvaluateOptions())
    measured.report.metrics["rouge_l"].value

N pairs
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.data.pairs import Pair
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.paired import Measure, means, measured_report, ratio
from myna.metrics.summaries import rouge_l, rouge_n, summary_words
from myna.tasks.extract import lead_words

Array = npt.NDArray[Any]

NAMES = ("rouge_1", "rouge_2", "rouge_l")
_EXAMPLES, _CHARACTERS = 5, 300  # shown at each end, and how much of each text


def score_summaries(summaries: Sequence[str], references: Sequence[str]) -> Array:
    """Return ROUGE-1, -2 and -L of each summary: (N, 3)."""
    return np.array([(rouge_n(given, true, 1), rouge_n(given, true, 2), rouge_l(given, true))
                     for given, true in zip(summaries, references, strict=True)]).reshape(-1, 3)


def measure_summaries(pairs: Sequence[Pair], summaries: Sequence[str], words: int, others: Mapping[str, Sequence[str]], read: str,
                      options: EvaluateOptions) -> Measured:
    """Measure summaries (N) of the pairs' sources beside the first `words` words of each, and what other ways gave.

    read: how much of a source was read, for the signature. Raises UserError when there are fewer than two.
    """
    references = [pair.target for pair in pairs]
    leads = [lead_words(pair.source, words) for pair in pairs]
    scores, beside = score_summaries(summaries, references), score_summaries(leads, references)
    how = f"F1|no stemming|a Han character is a word|read={read}|unit=text|bootstrap={options.resamples}|seed={options.seed}|v1"
    baseline = f"the first {words} {'word' if words == 1 else 'words'}"
    report = measured_report({name: Measure(means(scores[:, at]), ratio, f"{name}|baseline=first {words} words|{how}", means(beside[:, at]))
                              for at, name in enumerate(NAMES)}, baseline, options.resamples, options.seed)
    order = np.argsort(-scores.mean(axis=1), kind="stable").tolist()
    shown = [_show(pair, given, lead, row) for pair, given, lead, row in zip(pairs, summaries, leads, scores, strict=True)]
    details = {
        "texts": len(pairs), "length_ratio": _count(summaries) / max(1, _count(references)), "novel_bigrams": _novel(pairs, summaries),
        "novel_bigrams_of_references": _novel(pairs, references), "empty": sum(not summary.strip() for summary in summaries),
        "others": {name: dict(zip(NAMES, score_summaries(texts, references).mean(axis=0).tolist(), strict=True))
                   for name, texts in others.items()},
        "best": [shown[at] for at in order[:_EXAMPLES]], "worst": [shown[at] for at in order[::-1][:_EXAMPLES]]}
    return Measured(report, details, _say(details))


def _count(texts: Sequence[str]) -> int:
    return sum(len(summary_words(text)) for text in texts)


def _novel(pairs: Sequence[Pair], summaries: Sequence[str]) -> float:
    """The share of the summaries' pairs of words that their sources do not have (See et al. 2017, section 6)."""
    new = total = 0
    for pair, summary in zip(pairs, summaries, strict=True):
        source, given = (set(itertools.pairwise(words)) for words in map(summary_words, (pair.source, summary)))
        new, total = new + len(given - source), total + len(given)
    return new / max(1, total)


def _show(pair: Pair, summary: str, lead: str, scores: Array) -> dict[str, Any]:
    return {"where": pair.where, "source": pair.source[:_CHARACTERS], "cut": len(pair.source) > _CHARACTERS,
            "reference": pair.target[:_CHARACTERS], "summary": summary[:_CHARACTERS], "baseline": lead[:_CHARACTERS],
            **dict(zip(NAMES, scores.tolist(), strict=True))}


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what lies behind the scores."""
    lines = [f"{details['texts']:,} texts; the summaries are {details['length_ratio']:.2f} times as long as the references",
             f"{details['novel_bigrams']:.3f} of their pairs of words are not in the source (references "
             f"{details['novel_bigrams_of_references']:.3f})"]
    lines += [f"{details['empty']:,} summaries are empty"] if details["empty"] else []
    lines += [f"{name}: " + ", ".join(f"{metric.replace('_', ' ')} {value:.3f}" for metric, value in scores.items())
              for name, scores in details["others"].items()]
    for end in ("best", "worst"):
        lines.append(f"{end}:")
        lines += [f"  {row['rouge_l']:.3f} {_line(row['summary'])} (reference: {_line(row['reference'])})" for row in details[end][:3]]
    return lines


def _line(text: str) -> str:
    return " ".join(text.split())[:100]
