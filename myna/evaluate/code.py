"""Measure how well bodies of functions are written: beside an n-gram model's of the same functions, and the untuned base's.

Bodies are written greedily, all models with the same limits, and end where the function ends (`myna.tasks.complete`). Whether a person
would call a body right is not measured: equal to the one that stood there, near to it, and Python at all are.

    written = write_bodies(model, tokenizer, pairs, ends, max_tokens=128)
    measured = measure_code(pairs, ("my-completer", written), ("4-gram", others), None, EvaluateOptions(), 128, "float32")

N functions
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.data.labels import Labelled
from myna.data.pairs import Pair
from myna.evaluate.answers import score_pieces
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.generate.greedy import answer_prompts
from myna.metrics.code import edit_similarity, parses, same_code
from myna.metrics.paired import Measure, means, measured_report, ratio
from myna.metrics.report import Report
from myna.models.protocol import LanguageModel
from myna.tasks.complete import Body, Function, find_function
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

ROWS = 32  # functions written at once: own choice, a step of 32 takes about twice as long as one of 1
_EXAMPLES, _CHARACTERS = 5, 1200  # functions shown at each end, and how much of each


@dataclass(frozen=True)
class Written:
    """What a model wrote for functions, and what the true bodies cost it."""

    bodies: list[str]
    stopped: list[bool]
    "Whether the function ended within the limit."
    bits: Array
    "(N, 2): bits of the true body and of the token that ends it, and the body's bytes."


def write_bodies(model: LanguageModel, tokenizer: Tokenizer, pairs: Sequence[Pair], ends: Collection[int], max_tokens: int) -> Written:
    """Write the body of each function greedily, and score the true one. pairs: code to go on from, and the body behind it."""
    bodies, stopped = [""] * len(pairs), [False] * len(pairs)
    prompts = [tokenizer.encode(pair.source) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda place: len(prompts[place]))
    for at in range(0, len(order), ROWS):
        rows = order[at : at + ROWS]
        begun = [Body(pairs[row].source, _open(pairs[row]), tokenizer.token_bytes) for row in rows]
        answers = answer_prompts(model, [prompts[row] for row in rows], ends, max_tokens,
                                 lambda place, token, begun=begun: begun[place].take(token))  # type: ignore[misc]
        for row, body, answer in zip(rows, begun, answers, strict=True):
            bodies[row], stopped[row] = body.close(), answer.stopped
    return Written(bodies, stopped, _score(model, tokenizer, pairs, prompts))


def _open(pair: Pair) -> Function:
    function = find_function(pair.source)
    if function is None:
        raise ValueError(f"{pair.where}: no function is open at the end of its prompt")
    return function


def _score(model: Any, tokenizer: Tokenizer, pairs: Sequence[Pair], prompts: Sequence[Sequence[int]]) -> Array:
    """Return the bits of each true body, its end included, and its bytes: (N, 2)."""
    bodies = [[*tokenizer.encode(pair.target), tokenizer.separator_id] for pair in pairs]
    sizes = [len(pair.target.encode("utf-8", "replace")) for pair in pairs]
    if hasattr(model, "loss"):  # as in training: nothing stands before the prompt
        pieces = [Labelled(np.array([*prompt, *body], np.int64), np.arange(len(prompt) + len(body)) >= len(prompt), number)
                  for number, (prompt, body) in enumerate(zip(prompts, bodies, strict=True))]
        bits = score_pieces(model, pieces, tokenizer)[:, 0]
    else:
        scores = (model.log_probs([*prompt, *body])[len(prompt) :] for prompt, body in zip(prompts, bodies, strict=True))
        bits = np.array([-float(np.asarray(score, np.float64).sum()) / np.log(2) for score in scores])
    return np.stack([bits, np.array(sizes, np.float64)], axis=1)


def measure_code(pairs: Sequence[Pair], written: Written, baseline: tuple[str, Written] | None, base: tuple[str, Written] | None,
                 options: EvaluateOptions, max_tokens: int, precision: str) -> Measured:
    """Score what was written (N) beside a baseline's; `base`, the untuned model, stands in the details with its own comparison.

    max_tokens, precision: with which all of it was written; the signatures name them.

    Raises UserError when there are fewer than two functions.
    """
    how = f"unit=function|greedy|max_tokens={max_tokens}|precision={precision}|bootstrap={options.resamples}|seed={options.seed}|v1"
    report = _report(pairs, written, baseline, options, how)
    similar = [edit_similarity(pair.target, body) for pair, body in zip(pairs, written.bodies, strict=True)]
    order = np.argsort(-np.array(similar), kind="stable").tolist()
    shown = [{"where": pair.where, "module": pair.group, "code": _cut(pair.source), "true": _cut(pair.target), "given": _cut(body),
              "similarity": value} for pair, body, value in zip(pairs, written.bodies, similar, strict=True)]
    details: dict[str, Any] = {"functions": len(pairs), "max_tokens": max_tokens, "stopped": sum(written.stopped),
                               "best": [shown[at] for at in order[:_EXAMPLES]], "worst": [shown[at] for at in order[::-1][:_EXAMPLES]]}
    lines = [f"{sum(written.stopped):,} of {len(pairs):,} bodies ended within {max_tokens:,} tokens"]
    if base is not None:
        beside = _report(pairs, written, base, options, how)
        details["untuned"] = {**beside.to_json(), "stopped": sum(base[1].stopped)}
        lines.append(f"beside {base[0]}, untuned:")
        lines += [f"  {name.replace('_', ' ')}: {score.value:.3f} there, difference {beside.differences[name].value:+.3f} "
                  f"[{beside.differences[name].low:+.3f}, {beside.differences[name].high:+.3f}]"
                  for name, score in beside.baseline_metrics.items()]
    return Measured(report, details, [*lines, *_show(details)])


def _report(pairs: Sequence[Pair], written: Written, beside: tuple[str, Written] | None, options: EvaluateOptions, how: str) -> Report:
    scores = _statistics(pairs, written)
    others = {} if beside is None else _statistics(pairs, beside[1])
    measures = {name: Measure(values, ratio, f"{name}|{how}", others.get(name), lower_is_better=name == "bits_per_byte")
                for name, values in scores.items()}
    return measured_report(measures, "" if beside is None else beside[0], options.resamples, options.seed)


def _statistics(pairs: Sequence[Pair], written: Written) -> dict[str, Array]:
    both = list(zip(pairs, written.bodies, strict=True))
    return {"exact_match": means(np.array([same_code(pair.target, body) for pair, body in both])),
            "edit_similarity": means(np.array([edit_similarity(pair.target, body) for pair, body in both])),
            # a function that only has a docstring parses, but nothing was written then
            "parse_rate": means(np.array([bool(body.strip()) and parses(pair.source + body + "\n") for pair, body in both])),
            "bits_per_byte": written.bits}


def _cut(code: str) -> str:
    return code if len(code) <= _CHARACTERS else code[:_CHARACTERS] + " ..."


def _show(details: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("best", "worst"):
        lines.append(f"{name}:")
        for row in details[name][:3]:
            first = next((line for line in row["code"].splitlines() if "def " in line), row["code"])
            lines += [f"  {row['similarity']:.3f} {first.strip()[:70]}", f"    true:  {' '.join(row['true'].split())[:66]}",
                      f"    given: {' '.join(row['given'].split())[:66]}"]
    return lines
