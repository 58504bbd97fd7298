"""Measure translations: BLEU and chrF with intervals beside the nearest example's, placeholders kept, the best and the worst.

The nearest example is what a translation memory would give: the translation of the source that is most like the one asked for. Copying
the source is measured too. Chinese and Japanese are cut into characters for BLEU (sacrebleu's "zh"), other languages into words ("13a").

    measured = measure_translations(pairs, results, nearest, EvaluateOptions())
    measured.report.metrics["bleu"].value, measured.details["placeholders"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from myna.data.pairs import Pair
from myna.data.placeholders import find_placeholders, keeps_placeholders
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.paired import Measure, measured_report
from myna.metrics.translation import bleu, chrf, count_bleu, count_chrf, split_chinese, split_words
from myna.tasks.translate import Translated
from myna.tokenizer.scripts import unspaced_bytes

BASELINE = "nearest example"
_UNSPACED_SHARE = 0.3  # of the bytes of the references, from which they are cut into characters
_EXAMPLES, _CHARACTERS = 5, 300  # translations shown at each end, and how much of each


def name_words(references: Sequence[str]) -> str:
    """Name sacrebleu's way of cutting such references into words: zh or 13a."""
    text = "".join(references)
    return "zh" if unspaced_bytes(text) > _UNSPACED_SHARE * len(text.encode("utf-8", "replace")) else "13a"


def measure_translations(pairs: Sequence[Pair], results: Sequence[Translated], nearest: Sequence[str],
                         options: EvaluateOptions) -> Measured:
    """Measure translations of pairs' sources against their targets. nearest: what the nearest example gives for each.

    Raises UserError when there are fewer than two pairs.
    """
    references, given = [pair.target for pair in pairs], [result.text for result in results]
    words = name_words(references)
    split = split_chinese if words == "zh" else split_words
    drawn = f"bs:{options.resamples}|seed:{options.seed}|v1"
    counted = count_chrf(given, references)
    measures = {
        "bleu": Measure(count_bleu(given, references, split), bleu, f"BLEU|nrefs:1|case:mixed|eff:no|tok:{words}|smooth:exp|{drawn}",
                        count_bleu(nearest, references, split)),
        "chrf": Measure(counted, chrf, f"chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{drawn}", count_chrf(nearest, references))}
    report = measured_report(measures, BASELINE, options.resamples, options.seed)
    sources = [pair.source for pair in pairs]
    holding = [number for number, source in enumerate(sources) if find_placeholders(source)]
    kept = sum(keeps_placeholders(sources[number], given[number]) for number in holding)
    truth = [keeps_placeholders(sources[number], references[number]) for number in holding]
    order = np.argsort(-chrf(counted), kind="stable").tolist()
    details: dict[str, Any] = {
        "pairs": len(pairs), "words": words, "exact": sum(one == other for one, other in zip(given, references, strict=True)),
        "copy": {"bleu": float(bleu(count_bleu(sources, references, split).sum(axis=0)[None])[0]),
                 "chrf": float(chrf(count_chrf(sources, references).sum(axis=0)[None])[0])},
        "placeholders": {"sources": len(holding), "kept": kept, "share": kept / len(holding) if holding else 1.0,
                         "kept_in_references": sum(truth)},
        "origins": dict(Counter(result.origin for result in results)),
        "notes": dict(Counter(result.note for result in results if result.note)),
        "best": [_show(pairs[at], results[at], counted[at]) for at in order[:_EXAMPLES]],
        "worst": [_show(pairs[at], results[at], counted[at]) for at in order[::-1][:_EXAMPLES]]}
    return Measured(report, details, _say(details))


def _show(pair: Pair, result: Translated, counted: Any) -> dict[str, Any]:
    beside = result.nearest
    return {"source": pair.source[:_CHARACTERS], "given": result.text[:_CHARACTERS], "true": pair.target[:_CHARACTERS],
            "chrf": float(chrf(counted[None])[0]), "where": pair.where, "origin": result.origin,
            "nearest": None if beside is None else {"source": beside.source[:_CHARACTERS], "target": beside.target[:_CHARACTERS],
                                                    "similarity": beside.similarity}}


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what lies behind the scores."""
    held, copied = details["placeholders"], details["copy"]
    lines = [f"{details['exact']:,} of {details['pairs']:,} translations are the reference; copying the source would have BLEU "
             f"{copied['bleu']:.1f}, chrF {copied['chrf']:.1f}",
             f"placeholders kept in {held['kept']:,} of {held['sources']:,} sources that have some ({held['share']:.1%}; the references "
             f"keep them in {held['kept_in_references']:,})",
             "written by: " + ", ".join(f"{name} {count:,}" for name, count in sorted(details["origins"].items()))]
    lines += [f"{count:,} times: {note}" for note, count in sorted(details["notes"].items(), key=lambda item: -item[1])[:5]]
    for name in ("best", "worst"):
        lines.append(f"{name}:")
        lines += [f"  {row['chrf']:.0f} {_line(row['source'])} -> {_line(row['given'])} (true: {_line(row['true'])})"
                  for row in details[name][:3]]
    return lines


def _line(text: str) -> str:
    return " ".join(text.split())[:60]
