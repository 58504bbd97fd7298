"""The main road: text and minutes in, a measured model directory out. Calls the stages in the order in which text flows.

read, clean, split -> tokenizer and ids -> n-gram baseline -> plan -> rehearsal -> train -> evaluate -> write. Every stage leaves a
directory with a manifest, so a run that was stopped goes on where it was. The baseline comes before the plan because the plan's
expected loss is measured from it.

    build(["my-texts/"], Path("my-model"), Recipe(BuildOptions(minutes=10)))
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna import __version__, machine
from myna.audit.card import write_card
from myna.console import duration, human, say
from myna.corpus.clean import prepare_corpus
from myna.corpus.store import Corpus
from myna.data.order import Order, read_batch
from myna.data.shards import Shard, prepare_tokens
from myna.errors import UserError
from myna.evaluate.language import evaluate_language, report_language, sample_text, shard_text
from myna.evaluate.page import write_page
from myna.files import MANIFEST, lock, new_directory, read_json, same_manifest, sha256, write_json, write_manifest
from myna.generate.options import SampleOptions
from myna.generate.text import generate_text
from myna.metrics.report import Report
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.models.protocol import LanguageModel
from myna.recipe import Recipe, differences
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from myna.models.decoder import Decoder
    from myna.train.plan import Plan

_WRITING_SECONDS = 3.0  # for the bootstrap, the card, the report and the hashes at the end
_SAMPLE = SampleOptions(max_tokens=48, temperature=0.8, seed=0)
_FINAL_SAMPLES = 3
_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class Clock:
    """Seconds since the build began, and how long each stage took."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.stages: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the build began."""
        return time.monotonic() - self.began

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say that a stage begins, and time it."""
        say(f"[{duration(self.seconds)}] {name}")
        began = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - began, 3)


def build(inputs: Sequence[Path], out: Path, recipe: Recipe, resume: bool = False, valid: Sequence[Path] = (),
          test: Sequence[Path] = ()) -> Report:
    """Make a model directory at `out` from texts, or go on with one; returns its scores on the test split.

    Raises UserError on anything the user can mend, Interrupted (a KeyboardInterrupt) when stopped after saving.
    """
    clock = Clock()
    with lock(out):
        saved = _saved_request(out, recipe, inputs, resume, valid, test)
        if saved is None:
            say(f"{out} is finished")
            _write_pages(out)  # a kill may have come between the last of these and myna.json
            return Report.from_json(read_json(out / "myna.json")["report"])
        recipe, inputs, valid, test = saved
        machine.set_threads(recipe.build.threads or machine.usable_cores())
        with clock.stage("read and clean"):
            gone = [str(path) for path in [*inputs, *valid, *test] if not path.exists()]
            if gone and (out / "plan.json").is_file():
                say(f"  {gone[0]} is no longer there: going on with what was read of it")
                corpus = Corpus.open(out / "corpus")
            else:
                corpus = prepare_corpus(inputs, out / "corpus", recipe.clean, recipe.split, valid, test)
            for note in read_json(out / "corpus" / "split.json").get("said", []):
                say(f"  {note}")
        with clock.stage("tokenizer"):
            tokenizer, _ = prepare_tokens(corpus, out / "tokens", recipe.tokenizer)
        with clock.stage("baseline"):
            options = dataclasses.replace(recipe.ngram, order=1) if recipe.build.family == "ngram" else recipe.ngram
            baseline = prepare_ngram(out / "tokens", tokenizer, out / "ngram", options)
        road = _Road(out, recipe, corpus, tokenizer, baseline, clock, _request(recipe, inputs, valid, test))
        return road.count() if recipe.build.family == "ngram" else road.train()


def prepare_ngram(tokens: Path, tokenizer: Tokenizer, out: Path, options: NgramOptions) -> Ngram:
    """Estimate an n-gram model on a tokens directory and write its model directory; a finished one is opened."""
    inputs = {"tokens": sha256(tokens / MANIFEST)}
    if not same_manifest(out, "ngram", inputs, dataclasses.asdict(options)):
        train, valid = Shard.open(tokens, "train"), Shard.open(tokens, "valid")
        with new_directory(out) as folder:
            fit_ngram(train.ids, valid.ids, tokenizer.vocab_size, tokenizer.separator_id, options).save(folder)
            tokenizer.save(folder)
            write_manifest(folder, "ngram", inputs, dataclasses.asdict(options))
    model = Ngram.open(out)
    say(f"  {model.name}")
    return model


class _Road:
    """The later half of a build: from ids to the finished directory."""

    def __init__(self, out: Path, recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer, baseline: Ngram, clock: Clock,
                 request: dict[str, Any]) -> None:
        self.out, self.recipe, self.corpus, self.tokenizer, self.baseline = out, recipe, corpus, tokenizer, baseline
        self.clock, self.request = clock, request
        self.shards = {name: Shard.open(out / "tokens", name) for name in ("train", "valid", "test")}

    def count(self) -> Report:
        """Make an n-gram the model itself; its baseline is the best order-1 model."""
        with self.clock.stage("train"):
            train, valid = self.shards["train"].ids, self.shards["valid"].ids
            model = fit_ngram(train, valid, self.tokenizer.vocab_size, self.tokenizer.separator_id, self.recipe.ngram)
            say(f"  {model.name}")
        model.save(self.out)
        return self._finish(model, None, {"seconds": self.clock.stages["train"], "peak_bytes": machine.peak_memory()})

    def train(self) -> Report:
        """Plan, rehearse, train, evaluate and write a decoder."""
        import torch

        from myna.models.decoder import new_decoder
        from myna.models.pretrained import save_decoder
        from myna.train.loop import Hooks, Run, train
        from myna.train.rehearsal import rehearse

        with self.clock.stage("plan"):
            plan = self._plan()
        order = Order(len(self.shards["train"]), plan.context, plan.seed)
        ids = self.shards["train"].ids

        def read(step: int) -> Tensor:
            return torch.from_numpy(read_batch(ids, order.starts(step, plan.batch_rows), plan.context))

        torch.manual_seed(plan.seed)
        if not (self.out / "log.jsonl").is_file():
            with self.clock.stage("rehearsal"):
                rehearse(plan, self.tokenizer, read, self.recipe.train, self.out / ".rehearsal", _speak)
        with self.clock.stage("train"):
            model = new_decoder(plan.config(), plan.seed, plan.precision)
            hooks = Hooks(lambda: self._validate(model), lambda: self._sample(model))
            end = train(model, read, Run(plan.steps, plan.micro_rows, plan.seconds), self.recipe.train, self.out, hooks)
        actual = {"seconds": round(end.seconds, 3), "seconds_per_step": end.seconds / end.step, "steps": end.step, "tokens": end.tokens,
                  "peak_bytes": machine.peak_memory(), **self._validate(model)}
        model.compute_dtype = torch.float32  # what is measured is what loads
        save_decoder(model, self.out, self.tokenizer.pad_id)
        return self._finish(model.requires_grad_(False), plan, actual)

    def _plan(self) -> Plan:
        """Read plan.json, or make it and write it before anything is trained."""
        from myna.train.plan import Plan

        path = self.out / "plan.json"
        if path.is_file():
            known = read_json(path)
            plan = Plan(**{field.name: known[field.name] for field in dataclasses.fields(Plan)})
        else:
            plan = plan_decoder(self.recipe, self.shards, self.tokenizer, self.baseline, self.clock.seconds)
            write_json(path, {**dataclasses.asdict(plan), "request": self.request})
        say(describe_plan(plan))
        return plan

    def _validate(self, model: Decoder) -> dict[str, float]:
        from myna.train.plan import VALIDATION_TOKENS

        blocks = evaluate_language(model, self.tokenizer, sample_text(self.shards["valid"], self.tokenizer, VALIDATION_TOKENS))
        return {"bits_per_byte": blocks.bits_per_byte, "loss": blocks.loss}

    def _sample(self, model: LanguageModel) -> str:
        return str(generate_text(model, self.tokenizer, "", _SAMPLE)[0])

    def _finish(self, model: LanguageModel, plan: Plan | None, actual: dict[str, Any]) -> Report:
        """Evaluate on the test split, then write everything that stands beside the weights; myna.json is last but for the pages."""
        with self.clock.stage("evaluate"):
            report = report_language(model, self.tokenizer, shard_text(self.shards["test"]), self.baseline, self.baseline.name,
                                     options=self.recipe.evaluate)
        with self.clock.stage("write"):
            self.tokenizer.save(self.out, model.max_length)
            samples = generate_text(model, self.tokenizer, "", dataclasses.replace(_SAMPLE, max_tokens=200, n=_FINAL_SAMPLES))
            hashed = [name for name in _FILES if (self.out / name).is_file()]
            actual["total_seconds"] = round(self.clock.seconds, 3)
            write_json(self.out / "myna.json", {
                "format": 1, "version": __version__, "family": self.recipe.build.family, "golden": self.tokenizer.golden(),
                "hashes": {name: sha256(self.out / name) for name in hashed}, "lineage": self._lineage(),
                "plan": None if plan is None else dataclasses.asdict(plan), "actual": actual, "report": report.to_json(),
                "samples": [{"prompt": "", "text": str(sample)} for sample in samples], "stages": self.clock.stages,
                "notes": plan.notes if plan else []})
            _write_pages(self.out)
        say(f"[{duration(self.clock.seconds)}] done: {self.out / 'report.html'}")
        return report

    def _lineage(self) -> dict[str, Any]:
        import numpy
        import tokenizers

        versions = {"myna": __version__, "python": platform.python_version(), "numpy": numpy.__version__,
                    "tokenizers": tokenizers.__version__}
        if "torch" in sys.modules:
            versions["torch"] = str(sys.modules["torch"].__version__)
        kept = ("path", "sha256", "bytes", "kept", "status")
        return {"inputs": [{key: file.get(key) for key in kept} for file in self.corpus.files], "request": self.request,
                "corpus_manifest": sha256(self.out / "corpus" / MANIFEST), "tokens_manifest": sha256(self.out / "tokens" / MANIFEST),
                "seed": self.recipe.build.seed, "threads": self.recipe.build.threads or machine.usable_cores(), "argv": sys.argv,
                "versions": versions}


def plan_decoder(recipe: Recipe, shards: dict[str, Shard], tokenizer: Tokenizer, baseline: Ngram, spent: float) -> Plan:
    """Plan a decoder for what is left of the minutes (or for the steps) after `spent` seconds."""
    from myna.train.plan import VALIDATION_TOKENS, Request, Text, make_plan

    wanted = recipe.build
    seconds = None if wanted.steps is not None else wanted.minutes * 60 - spent - _WRITING_SECONDS
    blocks = evaluate_language(baseline, tokenizer, sample_text(shards["valid"], tokenizer, VALIDATION_TOKENS), "measuring the baseline")
    train = shards["train"]
    text = Text(len(train), train.text_bytes, tokenizer.vocab_size, tokenizer.separator_id, len(shards["test"]), blocks.bits_per_byte)
    return make_plan(Request(seconds, wanted.steps, wanted.seed), text, recipe.plan, recipe.train)


def describe_plan(plan: Plan) -> str:
    """Say the plan in a few lines."""
    shape, expected = plan.model, plan.predicted
    loss = f", about {expected['bits_per_byte']:.2f} bits per byte" if "bits_per_byte" in expected else ""
    return (f"  {human(plan.parameters)} parameters: {shape['num_hidden_layers']} layers of {shape['hidden_size']}, "
            f"context {plan.context}, {plan.precision}\n"
            f"  {plan.steps:,} steps of {plan.batch_rows * plan.context:,} tokens ({human(plan.tokens)} tokens in all)\n"
            f"  expected: {duration(expected['seconds'])} of training, {expected['peak_bytes'] / 2**20:,.0f} MiB at most{loss}")


def _write_pages(out: Path) -> None:
    """Write what is made from myna.json alone, and remove what is no longer needed."""
    write_card(out)
    write_page(out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _speak(model: LanguageModel, tokenizer: Tokenizer) -> None:
    generate_text(model, tokenizer, "", dataclasses.replace(_SAMPLE, max_tokens=4))


def _request(recipe: Recipe, inputs: Sequence[Path], valid: Sequence[Path], test: Sequence[Path]) -> dict[str, Any]:
    paths = {"inputs": inputs, "valid": valid, "test": test}
    return {"recipe": recipe.to_json(), **{name: [str(path) for path in listed] for name, listed in paths.items()}}


def _saved_request(out: Path, recipe: Recipe, inputs: Sequence[Path], resume: bool, valid: Sequence[Path], test: Sequence[Path],
                   ) -> tuple[Recipe, Sequence[Path], Sequence[Path], Sequence[Path]] | None:
    """Decide what to build: the request as given or, on --resume, the one saved with the plan. None: nothing is left to do."""
    planned, finished = (out / "plan.json").is_file(), (out / "myna.json").is_file()
    if (planned or finished) and not resume:
        raise UserError(f"{out} already holds a {'finished model' if finished else 'build that was not finished'}", "a new directory",
                        "go on with --resume, or choose another --out")
    if not (planned or finished):
        if not inputs:
            raise UserError(f"nothing to build from: {out} holds no plan to resume" if resume else "no input was given",
                            "files or folders of text", "myna build my-texts/ --out my-model")
        return recipe, inputs, valid, test
    saved = read_json(out / "plan.json")["request"] if planned else read_json(out / "myna.json")["lineage"]["request"]
    old = Recipe.from_json(saved["recipe"], str(out))
    changed = differences(old, recipe, given_only=True)
    for name, paths in {"inputs": inputs, "valid": valid, "test": test}.items():
        if paths and [str(path) for path in paths] != saved[name]:
            changed.append(f"{name} were {' '.join(saved[name])}, now {' '.join(map(str, paths))}")
    if changed:
        raise UserError(f"{out} was begun with other options: {'; '.join(changed[:3])}", "the options it was begun with",
                        f"myna build --resume --out {out} takes them from there")
    if finished:
        return None
    inputs, valid, test = ([Path(path) for path in saved[name]] for name in ("inputs", "valid", "test"))
    return old, inputs, valid, test
