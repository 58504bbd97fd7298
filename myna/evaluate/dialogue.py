"""Measure how a model answers in conversations: how well it predicts what people answered, and what its own answers are like.

Predicted are the tokens of each answer and the one that ends it, given all that was said before (perplexity per token, bits per byte).
The model's own answers, drawn by taking the likeliest token, follow the history before each conversation's last answer: how many end by
themselves, how many of their words differ (distinct-n), how much of them repeats (`myna.metrics.diversity`). What people wrote
there has numbers of its own, which stand in the details. The baseline is an n-gram model of other conversations, in the same tokens.

    talks = take_talks(examples, tokenizer, template, context=512, tokens=16_384, prompts=32)
    measured = measure_dialogue(talks, speak(model, talks, tokenizer, ends), None, None, tokenizer, EvaluateOptions())

N conversations
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.data.conversations import Example
from myna.data.labels import Labelled, LabelReport, label_examples
from myna.evaluate.answers import score_pieces
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.generate.greedy import answer_prompts
from myna.metrics.diversity import LONGEST, across, count_distinct, split_words
from myna.metrics.language import perplexity
from myna.metrics.paired import Formula, Measure, means, measured_report, ratio
from myna.metrics.report import Report
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

TOKENS = 64  # of an answer at most, as in a tuning's own report
_ROWS = 16  # answers written at once
_EXAMPLES, _CHARACTERS = 5, 400  # answers shown at each end, and how much of each text


@dataclass(frozen=True)
class Talks:
    """Conversations as they are measured."""

    pieces: list[Labelled]
    "Their ids, and which of them are answers."
    prompts: list[list[int]]
    "What stands before each last answer, without the oldest turns where all has no room."
    questions: list[str]
    "The message before it."
    answers: list[str]
    "What a person answered."
    report: LabelReport


@dataclass(frozen=True)
class Spoken:
    """What a model gave: bits, bytes and tokens of the true answers (N, 3), and its own answers."""

    scores: Array
    answers: list[str]
    stopped: list[bool]


def take_talks(examples: Sequence[Example], tokenizer: Tokenizer, template: ChatTemplate, context: int, tokens: int, prompts: int) -> Talks:
    """Take conversations until there are `tokens`, two at least; the first `prompts` of them are answered too."""
    pieces, report = label_examples(examples, tokenizer, template, context, tokens)
    asked = examples[: min(prompts, report.examples)]
    histories = [_fit(example, template, context - TOKENS) for example in asked]
    return Talks(pieces, histories, [example.messages[-2]["content"] for example in asked],
                 [example.messages[-1]["content"] for example in asked], report)


def _fit(example: Example, template: ChatTemplate, room: int) -> list[int]:
    """Encode what stands before the last answer, without as many of the oldest exchanges as it takes to fit; at last without its begin."""
    begin = int(example.messages[0]["role"] == "system")
    for first in range(begin, len(example.messages) - 1, 2):
        ids = template.encode([*example.messages[:begin], *example.messages[first:-1]], add_generation_prompt=True)
        if len(ids) <= room:
            return ids
    return ids[-room:]


def speak(model: Any, talks: Talks, tokenizer: Tokenizer, ends: Collection[int]) -> Spoken:
    """Score the true answers, and answer greedily."""
    answers: list[str] = []
    stopped: list[bool] = []
    for at in range(0, len(talks.prompts), _ROWS):
        for answer in answer_prompts(model, talks.prompts[at : at + _ROWS], ends, TOKENS):
            answers.append(tokenizer.decode(answer.ids).strip())
            stopped.append(answer.stopped)
    return Spoken(_score(model, talks.pieces, tokenizer), answers, stopped)


def _score(model: Any, pieces: Sequence[Labelled], tokenizer: Tokenizer) -> Array:
    if hasattr(model, "loss"):
        return score_pieces(model, pieces, tokenizer)
    lengths = np.array([len(piece) for piece in tokenizer.token_bytes], np.int64)
    rows: dict[int, Array] = {}
    for piece in pieces:  # a count model: nothing stands before the first id but the separator
        learned = np.flatnonzero(piece.trained[1:]) + 1
        bits = -np.asarray(model.log_probs(piece.ids), np.float64)[learned].sum() / np.log(2)
        rows[piece.number] = rows.get(piece.number, 0.0) + np.array([bits, lengths[piece.ids[learned]].sum(), len(learned)])
    return np.stack(list(rows.values()))


def measure_dialogue(talks: Talks, own: Spoken, baseline: tuple[str, Spoken] | None, base: tuple[str, Spoken] | None, tokenizer: Tokenizer,
                     options: EvaluateOptions) -> Measured:
    """Score a model beside a baseline; `base`, the untuned model, stands in the details. Raises UserError with fewer than two talks."""
    report = _report(own, baseline, tokenizer, options)
    people = [split_words(answer) for answer in talks.answers]
    details: dict[str, Any] = {"conversations": len(own.scores), "answered": len(own.answers), "stopped": sum(own.stopped),
                               "people": _describe(people), "across": {"model": _across(own.answers), "people": _across(talks.answers)}}
    lines = [f"{sum(own.stopped):,} of {len(own.answers):,} answers end by themselves within {TOKENS} tokens",
             "people: " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in details["people"].items())]
    if base is not None:
        beside = _report(own, base, tokenizer, options)
        details["untuned"] = {**beside.to_json(), "stopped": sum(base[1].stopped)}
        lines.append(f"beside {base[0]}, untuned:")
        lines += [f"  {name.replace('_', ' ')}: {score.value:.3f} there, difference {beside.differences[name].value:+.3f} "
                  f"[{beside.differences[name].low:+.3f}, {beside.differences[name].high:+.3f}]"
                  for name, score in beside.baseline_metrics.items()]
    details |= _examples(talks, own)
    for name in ("best", "worst"):
        lines.append(f"{name}:")
        lines += [line for row in details[name][:3] for line in
                  (f"  {row['bits_per_byte']:.2f} bits per byte: {_line(row['question'])}", f"    person: {_line(row['true'])}",
                   f"    model:  {_line(row['given'])}")]
    return Measured(report, details, lines)


def _report(own: Spoken, beside: tuple[str, Spoken] | None, tokenizer: Tokenizer, options: EvaluateOptions) -> Report:
    how = f"greedy|max_tokens={TOKENS}|unit=conversation|bootstrap={options.resamples}|seed={options.seed}|v1"
    said = f"of=answers|unit=conversation|bootstrap={options.resamples}|seed={options.seed}|v1"
    name, other = beside or ("", None)
    told = {"perplexity": ([0, 2], perplexity, f"perplexity|per=token|tokenizer={tokenizer.fingerprint[:12]}|{said}"),
            "bits_per_byte": ([0, 1], ratio, f"bits_per_byte|{said}")}
    measures = {metric: Measure(own.scores[:, columns], formula, signature, None if other is None else other.scores[:, columns],
                                lower_is_better=True) for metric, (columns, formula, signature) in told.items()}
    scores, others = _statistics(own), {} if other is None else _statistics(other)
    written: Mapping[str, tuple[Array, Formula]] = {**scores}
    answers = {metric: Measure(values, formula, f"{metric}|{how}", others[metric][0] if metric in others else None,
                               lower_is_better=metric.startswith("repetition")) for metric, (values, formula) in written.items()}
    one, two = (measured_report(part, name, options.resamples, options.seed) for part in (measures, answers))
    return Report(one.metrics | two.metrics, name, one.baseline_metrics | two.baseline_metrics, one.differences | two.differences,
                  one.improvements | two.improvements)


def _statistics(spoken: Spoken) -> dict[str, tuple[Array, Formula]]:
    words = [split_words(answer) for answer in spoken.answers]
    counts = {n: np.array([count_distinct(row, n) for row in words], np.float64) for n in (1, 2, LONGEST)}
    return {"stop_rate": (means(np.array(spoken.stopped)), ratio), "distinct_1": (counts[1], ratio), "distinct_2": (counts[2], ratio),
            f"repetition_{LONGEST}": (np.stack([counts[LONGEST][:, 1] - counts[LONGEST][:, 0], counts[LONGEST][:, 1]], axis=1), ratio)}


def _describe(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """The numbers of what people wrote, as those of a model's answers."""
    sums = {n: np.array([count_distinct(row, n) for row in texts]).sum(axis=0) for n in (1, 2, LONGEST)}
    shares = {n: float(different / count) if count else 1.0 for n, (different, count) in sums.items()}
    return {"distinct_1": shares[1], "distinct_2": shares[2], f"repetition_{LONGEST}": 1 - shares[LONGEST],
            "words": float(np.mean([len(row) for row in texts]))}


def _across(texts: Sequence[str]) -> dict[str, float]:
    """Distinct n-grams of all answers together, as Li et al. count them."""
    words = [split_words(text) for text in texts]
    return {f"distinct_{n}": across(words, n) for n in (1, 2)}


def _examples(talks: Talks, own: Spoken) -> dict[str, Any]:
    """The conversations whose answers were told best and worst, of those that were answered."""
    numbers = list(dict.fromkeys(piece.number for piece in talks.pieces))
    bits = {number: float(row[0] / max(1.0, row[1])) for number, row in zip(numbers, own.scores, strict=True)}
    order = sorted((number for number in range(len(own.answers)) if number in bits), key=lambda number: bits[number])
    texts = {"question": talks.questions, "true": talks.answers, "given": own.answers}
    shown = [{**{name: listed[at][:_CHARACTERS] for name, listed in texts.items()}, "stopped": own.stopped[at], "bits_per_byte": bits[at]}
             for at in order]
    return {"best": shown[:_EXAMPLES], "worst": shown[::-1][:_EXAMPLES]}


def _line(text: str) -> str:
    return " ".join(text.split())[:66]
