"""The road of a completer: functions and minutes in; a decoder that writes their bodies out, measured beside an n-gram model.

pairs of code and body, divided by module -> the road of a tuning (`myna.roads.language`), in which the prompt is plain text that goes on
and the body and the token that ends it are learned -> an n-gram model of the same functions as the baseline -> bodies written for
held-out functions by the tuned model, by the baseline and by the untuned base.

    tune_completer("smollm2", given, Path("my-completer"), TuneRecipe(TuneOptions(task="complete")), clock)
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from myna import machine
from myna.console import say
from myna.data.conversations import Example
from myna.data.pairs import Pair, PairReading, read_pairs, split_pairs
from myna.errors import UserError
from myna.evaluate.code import ROWS, Written, measure_code, write_bodies
from myna.evaluate.measured import Measured
from myna.files import write_json
from myna.generate.rules import read_rules
from myna.metrics.report import Report
from myna.models.adapter import find_base, holder_of, is_adapter, read_adapter
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.models.pretrained import load_model
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.build import Clock
from myna.roads.language import Tuning, open_base
from myna.roads.seen import read_seen, save_seen
from myna.tasks.complete import TASK, find_function
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer

BASELINE = "baseline"  # the folder of the n-gram model
PROMPTS = ("prompt", "code", "source", "input", "instruction")
BODIES = ("completion", "body", "response", "output", "target")
MODULE = "module"  # the column that says where a function stands
_INDENT = 4  # spaces given to a body that has none
_MAX_TOKENS = 96  # written for each function that is measured: two of three bodies in Python's library are shorter
_ORDER = 5  # own choice: the longest n-gram that is tried
_SHARE, _FEWEST, _MOST = 0.3, 16, 96  # of the time that is left, for measuring; functions measured at least and at most: own choice
_TIMED_ROWS = 20  # answers whose steps were timed, at most: a step of more rows takes longer by as much


def tune_completer(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Tune a decoder to write the bodies of functions; returns its scores beside the n-gram's. Raises UserError as `tune`."""
    if base == "new":
        raise UserError("--task complete from nothing", "a decoder that knows Python, such as smollm2",
                        "a decoder that only saw these functions predicts them worse than n-grams do (docs/tasks/complete.md)")
    with clock.stage("read the functions"):
        folder = open_base(base, out)
        readings = {role: read_functions(given[role], recipe) for role in ("data", "valid", "test") if given.get(role)}
        parts = split_pairs(readings["data"], recipe.split, readings.get("valid"), readings.get("test"))
        for role, reading in readings.items():
            for line in reading.said():
                say(f"  {line}" if role == "data" else f"  {role}: {line}")
        files = [file for reading in readings.values() for file in reading.notes.files]
        notes = dataclasses.replace(readings["data"].notes, files=files)
    task = CompleteTask(folder, parts, recipe)
    return Tuning(folder, out, recipe, notes, clock, request_of(recipe, given), task).run()


def read_functions(paths: Sequence[Path], recipe: TuneRecipe) -> PairReading:
    """Read rows of code with the body that follows it; a body begins on a line of its own. Raises UserError as `read_pairs`."""
    reading = read_pairs(paths, recipe.rows, PROMPTS, BODIES, group=MODULE, strip=False)
    placed = []
    for pair in reading.pairs:
        source, body = (side.replace("\r\n", "\n").rstrip() for side in (pair.source, pair.target))
        function, body = find_function(source), body.lstrip("\n")
        if function is None:
            reading.notes.note("rows dropped, whose prompt ends with no open function", pair.where)
            continue
        space = body[: len(body) - len(body.lstrip())]
        if len(space.expandtabs()) <= function.indent:
            reading.notes.note(f"bodies without indentation, which were given {_INDENT} spaces", pair.where)
            body = " " * (function.indent + _INDENT) + body.lstrip()
        placed.append(dataclasses.replace(pair, source=source, target="\n" + body))
    if not placed:
        raise UserError("no row's prompt ends with an open function", "prompts that end with a def line, or with its docstring",
                        "myna fetch python-functions shows the form")
    reading.pairs = placed
    return reading


class CompleteTask:
    """What the task adds to the road: a `myna.roads.language.Task`."""

    chat, answer_tokens = False, 64

    def __init__(self, base: Path, parts: dict[str, list[Pair]], recipe: TuneRecipe) -> None:
        self.base, self.recipe = base, recipe
        self.parts = {name: sorted(pairs, key=_mix) for name, pairs in parts.items()}
        grouped = all(pair.group for pairs in parts.values() for pair in pairs)
        counts = ", ".join(f"{len(pairs):,} functions" + (f" of {len({pair.group for pair in pairs}):,} modules" if grouped else "")
                           + f" for {name}" for name, pairs in parts.items())
        self.said = [counts + ("; divided by module" if grouped else "; divided by prompt: rows of one module may stand on two sides")]
        say(f"  {self.said[0]}")
        self._tokenizer: Tokenizer | None = None
        self._ngram: Ngram | None = None

    def lay(self, tokenizer: Tokenizer, template: ChatTemplate | None, context: int | None) -> dict[str, list[Example]]:
        """Make the examples of each part, whole: what is longer than a row is left out by the labels, and counted."""
        self._tokenizer = tokenizer
        return {name: [Example(({"role": "user", "content": pair.source}, {"role": "assistant", "content": pair.target}),
                               where=pair.where, pair=True) for pair in pairs] for name, pairs in self.parts.items()}

    def settle(self, left: float | None, per_token: float, per_step: float) -> dict[str, Any]:
        """Choose how many functions are measured: whole batches, by all three models."""
        there = min(_MOST, len(self.parts["test"]))
        if left is None:
            return {"sources": min(there, _FEWEST), "seconds": 0.0}
        assert self._tokenizer is not None
        texts = [pair.source + pair.target for pair in self.parts["test"][:_MOST]]
        tokens = sum(map(len, self._tokenizer.encode_batch(texts))) / len(texts)

        def seconds(count: int) -> float:  # by the tuned model, its base and the n-gram
            rows = min(count, ROWS)
            return 3 * (_MAX_TOKENS * per_step * max(1.0, rows / _TIMED_ROWS) * math.ceil(count / rows) + count * tokens * per_token)

        sources = max((count for count in range(ROWS, there + 1, ROWS) if seconds(count) <= _SHARE * left), default=min(there, _FEWEST))
        return {"sources": sources, "seconds": seconds(sources)}

    def measure(self, model: Any, sources: int) -> Measured:
        """Write the bodies of held-out functions and judge them."""
        assert self._tokenizer is not None
        tokenizer = self._tokenizer
        self._ngram = fit_baseline(self.parts, tokenizer)
        base = load_model(self.base, _precision())
        measured, said = compare_models(model, tokenizer, self.parts["test"], sources, self.recipe, _ends(self.base, tokenizer, model),
                                        self._ngram, (self.base.name, base))
        self.said += said
        return measured

    def save(self, out: Path) -> None:
        """Write task.json, the baseline, and the hashes of what was learned from."""
        assert self._ngram is not None
        self._ngram.save(out / BASELINE)
        write_json(out / TASK, {"task": "complete", "max_tokens": _MAX_TOKENS, "said": self.said})
        save_seen(out, [key for name in ("train", "valid") for pair in self.parts[name] for key in (pair.key, _key(pair))])


def _key(pair: Pair) -> bytes:
    """Hash the prompt alone, whatever the module."""
    return dataclasses.replace(pair, group="").key


def _mix(pair: Pair) -> bytes:
    """Order pairs by chance, the same in every run, so that the first of them are of all modules."""
    return hashlib.blake2b((pair.source + pair.target).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _precision() -> Any:
    return "bfloat16" if machine.probe().bfloat16_pays else "float32"


def _ends(folder: Path, tokenizer: Tokenizer, model: Any) -> frozenset[int]:
    """The ids that end a text: as in `myna complete`, all special tokens too."""
    rules = read_rules(holder_of(folder, "config.json"), model.vocab_size)
    return rules.end_ids | tokenizer.special_ids | {tokenizer.separator_id}


def fit_baseline(parts: dict[str, list[Pair]], tokenizer: Tokenizer) -> Ngram:
    """Count the n-grams of whole functions; order and smoothing are chosen by the validation part."""
    streams = {}
    for name in ("train", "valid"):
        texts = tokenizer.encode_batch([side for pair in parts[name] for side in (pair.source, pair.target)])
        ids = [id for prompt, body in zip(texts[::2], texts[1::2], strict=True) for id in (*prompt, *body, tokenizer.separator_id)]
        streams[name] = np.array(ids, np.int64)
    return fit_ngram(streams["train"], streams["valid"], tokenizer.vocab_size, tokenizer.separator_id, NgramOptions(max_order=_ORDER))


def compare_models(model: Any, tokenizer: Tokenizer, pairs: Sequence[Pair], most: int, recipe: TuneRecipe, ends: frozenset[int],
                   baseline: Ngram | None, base: tuple[str, Any] | None) -> tuple[Measured, list[str]]:
    """Write the bodies of at most so many functions with each model and measure them; returns what is to be said of the choice, too."""
    longest = model.max_length
    fitting = [pair for pair in pairs if longest is None
               or len(tokenizer.encode(pair.source)) + max(_MAX_TOKENS, len(tokenizer.encode(pair.target)) + 1) <= longest]
    said = [f"measured on {min(most, len(fitting)):,} of {len(pairs):,} held-out functions, chosen by their hashes"]
    if len(fitting) < len(pairs):
        said.append(f"{len(pairs) - len(fitting):,} held-out functions are too long for the model and are not measured")
    for line in said:
        say(f"  {line}")
    fitting = fitting[:most]
    written: list[Written | None] = []
    for name, one in (("the model", model), ("the n-gram", baseline), ("the base", base[1] if base else None)):
        if one is not None:
            say(f"  {name} writes {len(fitting):,} bodies")
        written.append(None if one is None else write_bodies(one, tokenizer, fitting, ends, _MAX_TOKENS))
    own, counted, untuned = written
    assert own is not None
    beside = None if counted is None or baseline is None else (baseline.name, counted)
    return measure_code(fitting, own, beside, None if untuned is None or base is None else (base[0], untuned), recipe.evaluate,
                        _MAX_TOKENS, _precision()), said


def evaluate_completer(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a language model's directory on functions that it did not learn from, beside its n-gram model and its base.

    Raises UserError when nothing is left to measure.
    """
    from myna.api import load

    model = load(folder, precision=_precision())
    folder = model.folder
    reading = read_functions(data, recipe)
    for line in reading.said():
        say(f"  {line}")
    seen = read_seen(folder)
    pairs = sorted((pair for pair in reading.pairs if pair.key not in seen and _key(pair) not in seen), key=_mix)
    if len(pairs) < len(reading.pairs):
        say(f"  {len(reading.pairs) - len(pairs):,} functions, or others of their modules, were learned from and are left out")
    if not pairs:
        raise UserError(f"{folder} learned from all {len(reading.pairs):,} functions", "functions that it never saw", "give others")
    baseline = Ngram.open(folder / BASELINE) if (folder / BASELINE / "config.json").is_file() else None
    if baseline is None:
        say(f"  {folder} holds no n-gram model to stand beside: myna tune --task complete makes one")
    elif baseline.vocab_size != model.tokenizer.vocab_size:
        raise UserError(f"the baseline of {folder} has {baseline.vocab_size:,} tokens", f"the tokenizer's {model.tokenizer.vocab_size:,}",
                        "restore the directory")
    base = None
    if is_adapter(folder):
        place = find_base(read_adapter(folder))
        base = (place.name, load_model(place, _precision()))
    language_model: Any = model.language_model
    ends = model.rules.end_ids | model.tokenizer.special_ids | {model.tokenizer.separator_id}
    measured, said = compare_models(language_model, model.tokenizer, pairs, _MOST, recipe, ends, baseline, base)
    return Measured(measured.report, {**measured.details, "said": said}, measured.lines)
