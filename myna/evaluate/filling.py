"""Measure how well an encoder fills blanks: accuracy and pseudo-perplexity of hidden tokens, beside an n-gram that sees both sides.

Where the directory holds no n-gram, always saying the text's most frequent token stands beside, whose accuracy is given in any case.

    measured = measure_filling(model, tokenizer, text, ngram, EvaluateOptions())
    measured.report.metrics["masked_accuracy"].value, measured.details["worst"]

N hidden tokens
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from myna.evaluate.language import Text
from myna.evaluate.masked import Hidden, guess_hidden, report_hidden
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.paired import Measure, means, measured_report, ratio
from myna.metrics.report import Report
from myna.models.ngram import Ngram
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from myna.models.encoder import Encoder

_EXAMPLES, _SHOWN, _AROUND = 5, 3, 12  # hidden tokens kept at each end, shown, and ids of text on each side


def measure_filling(model: Encoder, tokenizer: Tokenizer, text: Text, baseline: Ngram | None, options: EvaluateOptions) -> Measured:
    """Score the guesses of hidden tokens of a text. Raises UserError when it is too short or the tokenizer has no mask token."""
    hidden = guess_hidden(model, tokenizer, text, baseline, options)
    report = report_hidden(hidden, baseline.name if baseline else "", tokenizer, options)
    truth = hidden.stream[hidden.chosen]
    commonest = Counter(truth.tolist()).most_common(1)[0][0]
    if baseline is None:
        report = _beside_commonest(report, hidden, truth == commonest, options)
    order = np.argsort(-hidden.model.log_probs, kind="stable").tolist()
    details = {"hidden": len(truth), "tokens": hidden.tokens,
               "most_frequent": {"token": tokenizer.decode([commonest]), "accuracy": float(np.mean(truth == commonest))},
               "best": [_show(hidden, tokenizer, at) for at in order[:_EXAMPLES]],
               "worst": [_show(hidden, tokenizer, at) for at in order[::-1][:_EXAMPLES]]}
    return Measured(report, details, _say(details))


def _beside_commonest(report: Report, hidden: Hidden, right: Any, options: EvaluateOptions) -> Report:
    """Set the accuracy beside that of always saying one token."""
    signature = report.metrics["masked_accuracy"].signature.replace(f"block={hidden.block_size}B", "unit=token")
    measure = Measure(means(hidden.model.correct), ratio, signature, means(right))
    compared = measured_report({"masked_accuracy": measure}, "most frequent token", options.resamples, options.seed)
    return Report({**report.metrics, **compared.metrics}, compared.baseline, compared.baseline_metrics, compared.differences,
                  compared.improvements)


def _show(hidden: Hidden, tokenizer: Tokenizer, at: int) -> dict[str, Any]:
    place = int(hidden.chosen[at])
    left, right = hidden.stream[max(0, place - _AROUND) : place], hidden.stream[place + 1 : place + 1 + _AROUND]
    return {"left": tokenizer.decode(left.tolist()), "token": tokenizer.decode([int(hidden.stream[place])]),
            "right": tokenizer.decode(right.tolist()), "guessed": tokenizer.decode([int(hidden.model.likeliest[at])]),
            "probability": float(np.exp(hidden.model.log_probs[at]))}


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what lies behind the scores."""
    most = details["most_frequent"]
    lines = [f"{details['hidden']:,} of {details['tokens']:,} tokens hidden; always saying {most['token']!r} would be right in "
             f"{most['accuracy']:.3f}"]
    for name in ("best", "worst"):
        lines.append(f"{name}:")
        lines += [f"  {row['probability']:.3f} {' '.join(row['left'].split())[-24:]} [{row['token'].strip()}] "
                  f"{' '.join(row['right'].split())[:20]} (guessed {row['guessed'].strip()!r})" for row in details[name][:_SHOWN]]
    return lines
