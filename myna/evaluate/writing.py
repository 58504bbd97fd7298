"""Measure how a model writes: bits per byte, and how varied its continuations of held-out prompts are by each way of choosing tokens.

Prompts are taken evenly from the text; what follows them there is what a person wrote. The model goes on with each greedily, with beams,
by drawing (the default of `myna generate`) and by contrastive search, and the n-gram by drawing. Likely texts go round in circles
(Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"), so the person's numbers stand beside all.

    measured = measure_writing(model, tokenizer, Rules(), text, ngram, ngram_tokenizer, EvaluateOptions())
    measured.details["ways"]["greedy"]["repetition_4"]

P prompts
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from myna.console import track
from myna.errors import UserError
from myna.evaluate.language import Text, report_language
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.generate.text import generate_text
from myna.metrics.diversity import LONGEST, across, count_distinct, repetition, split_words
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report
from myna.models.ngram import Ngram
from myna.models.protocol import LanguageModel
from myna.tokenizer.tokenizer import Tokenizer

PROMPTS, PROMPT_TOKENS, TOKENS = 24, 32, 64  # own choice: a minute for a small model on one core
_FEWEST_PROMPTS = 2  # for an interval
_EXAMPLES, _SHOWN, _CHARACTERS = 5, 2, 400  # texts kept at each end, shown, and of each
_GREEDY, _DRAWN = "greedy", "drawn"
WAYS = {_GREEDY: SampleOptions(temperature=0.0), "4 beams": SampleOptions(num_beams=4), _DRAWN: SampleOptions(),
        "contrastive": SampleOptions(penalty_alpha=0.6, top_k=4)}  # alpha and k as in Su et al. 2022, section 5


@dataclass(frozen=True)
class Prompt:
    """A piece of a text, and what follows it there."""

    text: str
    human: str


@dataclass(frozen=True)
class Written:
    """What was written by one way: a text for each prompt, its words no more than the person's, and the seconds it took."""

    texts: list[str]
    words: list[list[str]]
    seconds: float = 0.0


def measure_writing(model: LanguageModel, tokenizer: Tokenizer, rules: Rules, text: Text, baseline: Ngram | None,
                    baseline_tokenizer: Tokenizer | None, options: EvaluateOptions, prompts: int = PROMPTS) -> Measured:
    """Score a text, and what model and baseline write after its prompts.

    Raises UserError when the model answers a source, or the text is too short for two prompts.
    """
    if rules.source:
        raise UserError("a model that answers one text with another", "a model that goes on with a text", "--task translate measures pairs")
    given = take_prompts(tokenizer, text, model.max_length, prompts)
    name = baseline.name if baseline else ""
    report = report_language(model, tokenizer, text, baseline, name, baseline_tokenizer, options)
    human = [split_words(prompt.human) for prompt in given]
    written = {"a person": Written([prompt.human for prompt in given], human)}
    missing: dict[str, str] = {}
    with track("writing", (len(WAYS) + (baseline is not None)) * len(given), " texts") as advance:
        def write(way: str, writer: LanguageModel, words: Tokenizer, sampling: SampleOptions, obeyed: Rules) -> Written:
            began, texts = time.monotonic(), []
            for seed, prompt in enumerate(given):
                sampled = _with_seed(sampling, seed)
                texts.append(str(generate_text(writer, words, prompt.text, sampled, obeyed)[0]))
                advance(1)
            cut = [split_words(one)[: len(most)] for one, most in zip(texts, human, strict=True)]
            return Written(texts, cut, time.monotonic() - began)

        for way, sampling in WAYS.items():
            try:
                written[way] = write(way, model, tokenizer, sampling, rules)
            except UserError as error:  # a family that has no hidden states
                if way != "contrastive":
                    raise
                missing[way] = error.got
        beside = write(name, baseline, baseline_tokenizer or tokenizer, WAYS[_DRAWN], Rules()) if baseline else None
    if beside:
        written[f"{name}, {_DRAWN}"] = beside
    varied = _report(written[_DRAWN], beside, name, options, given)
    joined = Report(report.metrics | varied.metrics, report.baseline, report.baseline_metrics | varied.baseline_metrics,
                    report.differences | varied.differences, report.improvements)  # more variety is not better in itself
    details = _describe(given, written) | ({"missing": missing} if missing else {})
    return Measured(joined, details, _say(details))


def take_prompts(tokenizer: Tokenizer, text: Text, longest: int | None, count: int) -> list[Prompt]:
    """Take prompts evenly from a text, each with what follows it. Raises UserError when there is no room for two."""
    room = PROMPT_TOKENS + TOKENS if longest is None else min(PROMPT_TOKENS + TOKENS, longest)
    begin = room * PROMPT_TOKENS // (PROMPT_TOKENS + TOKENS)
    documents = [document for document in text.documents(tokenizer) if len(document) >= room]
    starts = np.concatenate([np.stack([np.full(len(one) // room, at), np.arange(len(one) // room) * room], axis=1)
                             for at, one in enumerate(documents)]) if documents else np.zeros((0, 2), np.int64)
    if begin < 1 or len(starts) < _FEWEST_PROMPTS:
        raise UserError(f"a text with {len(starts)} pieces of {room} tokens", f"at least {_FEWEST_PROMPTS}, to be continued",
                        "give more text")
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(np.int64))]
    found = []
    for at, start in chosen.tolist():
        ids = documents[at][start : start + room].tolist()
        # a piece may begin or end within a character
        found.append(Prompt(tokenizer.decode(ids[:begin]).strip("\ufffd"), tokenizer.decode(ids[begin:]).strip("\ufffd")))
    return found


def _with_seed(options: SampleOptions, seed: int) -> SampleOptions:
    return dataclasses.replace(options, max_tokens=TOKENS, seed=seed)


def _report(model: Written, baseline: Written | None, name: str, options: EvaluateOptions, given: Sequence[Prompt]) -> Report:
    """Score repetition and distinct n-grams of what was drawn, prompt by prompt."""
    how = (f"{_DRAWN},temperature={WAYS[_DRAWN].temperature:g},top_p={WAYS[_DRAWN].top_p:g}|prompts={len(given)}of{PROMPT_TOKENS}tokens"
           f"|max_tokens={TOKENS}|words=lower,no-signs,Han-characters|bootstrap={options.resamples}|unit=prompt|seed={options.seed}|v1")

    def counted(written: Written, n: int, repeated: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = [count_distinct(words, n) for words in written.words]
        return np.array([(count - different if repeated else different, count) for different, count in rows], np.float64)

    measures = {}
    for metric, n, repeated in ((f"repetition_{LONGEST}", LONGEST, True), *((f"distinct_{n}", n, False) for n in (1, 2, 3))):
        measures[metric] = Measure(counted(model, n, repeated), ratio, f"{metric}|within-a-text|{how}",
                                   counted(baseline, n, repeated) if baseline else None, lower_is_better=repeated)
    return measured_report(measures, name if baseline else "", options.resamples, options.seed)


def _describe(given: Sequence[Prompt], written: dict[str, Written]) -> dict[str, Any]:
    """Give the numbers of every way, and the prompts after which greedy texts repeat themselves least and most."""
    ways = {}
    for way, made in written.items():
        sums = {n: np.array([count_distinct(words, n) for words in made.words]).sum(axis=0) for n in range(1, LONGEST + 1)}
        shares = {n: float(different / count) if count else 1.0 for n, (different, count) in sums.items()}
        ways[way] = {f"repetition_{LONGEST}": 1 - shares[LONGEST], **{f"distinct_{n}": shares[n] for n in (1, 2, 3)},
                     "distinct_3_across": across(made.words, 3), "words": float(np.mean([len(split_words(text)) for text in made.texts])),
                     "seconds": made.seconds}
    rates = [repetition(words) for words in written[_GREEDY].words]
    order = sorted(range(len(given)), key=lambda at: rates[at])

    def show(at: int) -> dict[str, Any]:
        return {"prompt": given[at].text[-_CHARACTERS:], f"repetition_{LONGEST}": rates[at],
                **{way: made.texts[at][:_CHARACTERS] for way, made in written.items()}}

    return {"prompts": len(given), "ways": ways, "best": [show(at) for at in order[:_EXAMPLES]],
            "worst": [show(at) for at in order[::-1][:_EXAMPLES]]}


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what was written by each way."""
    lines = [f"{details['prompts']} prompts of the text, each continued by at most {TOKENS} tokens",
             f"{'':<22} {'repeated':>8} {'dist-1':>7} {'dist-2':>7} {'dist-3':>7} {'across':>7} {'words':>6}"]
    for way, row in details["ways"].items():
        shares = " ".join(f"{row[key]:7.3f}" for key in ("distinct_1", "distinct_2", "distinct_3", "distinct_3_across"))
        lines.append(f"{way[:22]:<22} {row[f'repetition_{LONGEST}']:8.3f} {shares} {row['words']:6.1f}")
    lines += ["repeated: 4-grams that the text had before; dist-n: n-grams that differ within",
              "a text; across: 3-grams over all texts; each up to the person's number of words"]
    lines += [f"{way}: not possible ({why})" for way, why in details.get("missing", {}).items()]
    row = details["worst"][0]
    lines += [f"most repeated greedily ({row[f'repetition_{LONGEST}']:.3f}), after \"...{' '.join(row['prompt'].split())[-36:]}\":"]
    lines += [f"  {way[:20]}: {' '.join(row[way].split())[:56]}" for way in details["ways"] if way in row]
    return lines
