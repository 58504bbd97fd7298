"""The main road: text and minutes in, a measured model directory out. Calls the stages in the order in which text flows.

read, clean, split -> tokenizer and ids -> n-gram baseline -> plan -> rehearsal -> train -> mix -> evaluate -> write. Every stage
leaves a directory with a manifest, so a run that was stopped goes on where it was. The baseline comes before the plan because the
plan's expected loss is measured from it. Families that count have no plan and no rehearsal: they are fitted in one go.

    build(["my-texts/"], Path("my-model"), Recipe(BuildOptions(minutes=10)))
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna import __version__, machine
from myna.audit.card import write_card
from myna.console import duration, human, say
from myna.corpus.clean import prepare_corpus
from myna.corpus.store import Corpus
from myna.data.masking import CLS_NAMES, MASK_NAMES, position_padding
from myna.data.reader import ReaderOptions, open_reader
from myna.data.shards import Shard, prepare_tokens
from myna.data.spans import SENTINELS
from myna.evaluate.language import evaluate_language, report_language, sample_documents, sample_text, shard_text
from myna.evaluate.page import write_page
from myna.files import MANIFEST, lock, new_directory, read_json, same_manifest, sha256, write_json, write_manifest
from myna.generate.options import SampleOptions
from myna.generate.text import generate_text
from myna.metrics.report import Report
from myna.models.families import CAUSAL, COUNTED, Family
from myna.models.mixture import Fitted, Mixture, fit_weights, write_mixture
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.models.protocol import LanguageModel
from myna.recipe import Recipe
from myna.request import request_of, saved_request
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from myna.models.create import Config
    from myna.train.loop import Batch
    from myna.train.plan import Plan

_WRITING_SECONDS = 3.0  # for the bootstrap, the card, the report and the hashes at the end
_SAMPLE = SampleOptions(max_tokens=48, temperature=0.8, seed=0)
_FINAL_SAMPLES = 3
_MIXTURE_TOKENS = 50_000  # of validation text on which the weights of a mixture are learned: few weights need few tokens
_WORTH_MIXING = 0.002  # share of the bits that a mixture must save; two models to keep for less would be a poor bargain
SPECIAL_TOKENS: dict[str, tuple[str, ...]] = {"encoder": (MASK_NAMES[0], CLS_NAMES[0]), "encoder-decoder": SENTINELS}
_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "words.json")


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
        saved = saved_request(out, recipe, {"inputs": inputs, "valid": valid, "test": test}, resume)
        if saved is None:
            say(f"{out} is finished")
            write_pages(out)  # a kill may have come between the last of these and myna.json
            return Report.from_json(read_json(out / "myna.json")["report"])
        recipe, given = saved
        inputs, valid, test = given["inputs"], given["valid"], given["test"]
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
            tokenizer, _ = prepare_tokens(corpus, out / "tokens", tokenizer_options(recipe))
        with clock.stage("baseline"):
            options = dataclasses.replace(recipe.ngram, order=1) if recipe.build.family == "ngram" else recipe.ngram
            baseline = prepare_ngram(out / "tokens", tokenizer, out / "ngram", options)
        road = _Road(out, recipe, corpus, tokenizer, baseline, clock, request_of(recipe, given))
        return road.count() if recipe.build.family in COUNTED else road.train()


def tokenizer_options(recipe: Recipe, family: str | None = None) -> TokenizerOptions:
    """Return the tokenizer's options with the special tokens that a family, the recipe's own by default, needs."""
    listed, needed = recipe.tokenizer.special_tokens, SPECIAL_TOKENS.get(family or recipe.build.family, ())
    return dataclasses.replace(recipe.tokenizer, special_tokens=(*listed, *(name for name in needed if name not in listed)))


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

    @property
    def family(self) -> Family:
        """What is being made."""
        return self.recipe.build.family

    def count(self) -> Report:
        """Fit a family that needs no training loop."""
        with self.clock.stage("train"):
            left = None if self.recipe.build.steps is not None else self.recipe.build.minutes * 60 - self.clock.seconds - _WRITING_SECONDS
            model = self._fit(self.family, left)
            say(f"  {model.name}")
        model.save(self.out)
        return self._finish(model, None, {"seconds": self.clock.stages["train"], "peak_bytes": machine.peak_memory()})

    def _fit(self, family: Family, seconds: float | None) -> Any:
        """Fit a model of a family that counts; `seconds` bounds those that take as long as they are given."""
        train, valid = self.shards["train"].ids, self.shards["valid"].ids
        sizes = (train, valid, self.tokenizer.vocab_size, self.tokenizer.separator_id)
        match family:
            case "ngram":
                return fit_ngram(*sizes, self.recipe.ngram)
            case "unbounded":
                from myna.models.unbounded import fit_unbounded

                return fit_unbounded(*sizes, self.recipe.unbounded, self.baseline)
            case "hmm":
                from myna.models.hmm_fit import fit_hmm

                return fit_hmm(*sizes, self.recipe.hmm, seconds, self.recipe.build.seed)
            case "vectors":
                from myna.models.vectors_fit import fit_vectors

                threads = self.recipe.build.threads or machine.usable_cores()
                wanted = self.recipe.vectors
                return fit_vectors(train, self.tokenizer, self.tokenizer.separator_id, wanted, seconds, self.recipe.build.seed, threads)
            case _:
                raise ValueError(f"{family} is not fitted by counting")

    def train(self) -> Report:
        """Plan, rehearse, train, mix, evaluate and write a neural model."""
        import torch

        from myna.models.create import begin_with_vectors, new_model
        from myna.models.pretrained import save_model
        from myna.models.vectors import Vectors
        from myna.train.loop import Hooks, Run, train
        from myna.train.rehearsal import rehearse

        with self.clock.stage("plan"):
            given = self.recipe.plan.vectors
            vectors = None if given is None else Vectors.open(given)  # before anything that takes time
            plan = self._plan()
        read = open_batches(self.recipe, self.shards["train"], self.tokenizer)(plan.config(), plan.context, plan.batch_rows)
        torch.manual_seed(plan.seed)
        if not (self.out / "log.jsonl").is_file():
            with self.clock.stage("rehearsal"):
                rehearse(plan, self.tokenizer, read, self.out / ".rehearsal", self._speak)
        with self.clock.stage("train"):
            model = new_model(plan.config(), plan.seed, plan.precision)
            if vectors is not None:
                found = begin_with_vectors(model, vectors, self.tokenizer, plan.seed)
                say(f"  {found:,} of {self.tokenizer.vocab_size:,} rows of the embedding table begin with the vectors of {given}")
            hooks = Hooks(lambda: self._validate(model), lambda: self._sample(model))
            end = train(model, read, Run(plan.steps, plan.micro_rows, plan.seconds), plan.options(), self.out, hooks)
        model.eval()
        actual = {"seconds": round(end.seconds, 3), "seconds_per_step": end.seconds / end.step, "steps": end.step, "tokens": end.tokens,
                  "peak_bytes": machine.peak_memory(), **self._validate(model)}
        model.compute_dtype = torch.float32  # what is measured is what loads
        save_model(model, self.out, self.tokenizer.pad_id)
        return self._finish(model.requires_grad_(False), plan, actual)

    def _plan(self) -> Plan:
        """Read plan.json, or make it and write it before anything is trained."""
        from myna.train.plan import Plan

        path = self.out / "plan.json"
        if path.is_file():
            known = read_json(path)
            plan = Plan(**{field.name: known[field.name] for field in dataclasses.fields(Plan)})
        else:
            plan = plan_model(self.recipe, self.shards, self.tokenizer, self.baseline, self.clock.seconds)
            write_json(path, {**dataclasses.asdict(plan), "request": self.request})
        say(describe_plan(plan))
        return plan

    def _validate(self, model: Any) -> dict[str, float]:
        from myna.train.plan import VALIDATION_TOKENS

        if self.family == "encoder":
            from myna.data.masking import read_marks
            from myna.evaluate.masked import masked_loss, validation_batches

            pairs = model.config.model_type == "albert"
            batches = validation_batches(self.shards["valid"].ids, model.max_length, read_marks(self.tokenizer), self.recipe.masking, pairs)
            return masked_loss(model, batches)
        blocks = evaluate_language(model, self.tokenizer, sample_text(self.shards["valid"], self.tokenizer, VALIDATION_TOKENS))
        return {"bits_per_byte": blocks.bits_per_byte, "loss": blocks.loss}

    def _sample(self, model: Any) -> str:
        return str(generate_text(model, self.tokenizer, "", _SAMPLE)[0]) if self.family in CAUSAL else ""

    def _speak(self, model: Any, tokenizer: Tokenizer) -> None:
        if self.family in CAUSAL:
            generate_text(model, tokenizer, "", dataclasses.replace(_SAMPLE, max_tokens=4))
        else:
            self._validate(model)

    def _mix(self, model: LanguageModel) -> LanguageModel:
        """Add the counted members of the recipe to a model, when their sum is better on the validation split."""
        given = self.recipe.mixture.members
        members: tuple[Family, ...] = (() if self.family in COUNTED else ("ngram",)) if given is None else given
        wanted = [name for name in members if name != self.family]
        if self.family not in CAUSAL or not wanted:
            return model
        with self.clock.stage("mix"):
            names: list[str] = [self.family, *wanted]
            models = [model, *(self._member(name) for name in wanted)]
            fitted = fit_weights(models, sample_documents(self.shards["valid"], _MIXTURE_TOKENS))
            say(describe_mixture(names, fitted))
            if fitted.bits > fitted.member_bits[0] * (1 - _WORTH_MIXING):
                say("  that is not worth it: the model stays alone")
                return model
            write_mixture(self.out, names, [".", *wanted], fitted)
            return Mixture(models, names, fitted.weights)

    def _member(self, family: Family) -> LanguageModel:
        """Return a counted model to mix in, fitted in its own folder of the directory unless it is there."""
        if family == "ngram":
            return self.baseline
        folder = self.out / family
        if not (folder / "config.json").is_file():
            with new_directory(folder) as made:
                self._fit(family, None).save(made)
                self.tokenizer.save(made)
        from myna.models.pretrained import load_model

        opened: LanguageModel = load_model(folder)
        return opened

    def _finish(self, model: LanguageModel, plan: Plan | None, actual: dict[str, Any]) -> Report:
        """Evaluate on the test split, then write everything that stands beside the weights; myna.json is last but for the pages."""
        mixed = self._mix(model)
        with self.clock.stage("evaluate"):
            report = self._report(mixed)
            alone = None if mixed is model else self._report(model)
        with self.clock.stage("write"):
            self.tokenizer.save(self.out, getattr(model, "max_length", None))
            longer = dataclasses.replace(_SAMPLE, max_tokens=200, n=_FINAL_SAMPLES)
            samples = generate_text(mixed, self.tokenizer, "", longer) if self.family in CAUSAL else []
            hashed = [name for name in _FILES if (self.out / name).is_file()]
            actual["total_seconds"] = round(self.clock.seconds, 3)
            write_json(self.out / "myna.json", {
                "format": 1, "version": __version__, "family": self.recipe.build.family, "golden": self.tokenizer.golden(),
                "hashes": {name: sha256(self.out / name) for name in hashed}, "lineage": self._lineage(),
                "plan": None if plan is None else dataclasses.asdict(plan), "actual": actual, "report": report.to_json(),
                "alone": None if alone is None else alone.to_json(),
                "samples": [{"prompt": "", "text": str(sample)} for sample in samples], "stages": self.clock.stages,
                "notes": plan.notes if plan else []})
            write_pages(self.out)
        say(f"[{duration(self.clock.seconds)}] done: {self.out / 'report.html'}")
        return report

    def _report(self, model: Any) -> Report:
        """Score a model on the test split beside the baseline, as its family is scored."""
        measured = (model, self.tokenizer, shard_text(self.shards["test"]), self.baseline, self.baseline.name)
        match self.family:
            case "encoder":
                from myna.evaluate.masked import report_masked

                return report_masked(*measured, options=self.recipe.evaluate)
            case "vectors":
                from myna.evaluate.neighbours import report_neighbours

                train, test = self.shards["train"].ids, self.shards["test"].ids
                return report_neighbours(model, self.tokenizer, train, test, self.recipe.evaluate)
            case _:
                return report_language(*measured, options=self.recipe.evaluate)

    def _lineage(self) -> dict[str, Any]:
        kept = ("path", "sha256", "bytes", "kept", "status")
        return {"inputs": [{key: file.get(key) for key in kept} for file in self.corpus.files], "request": self.request,
                "corpus_manifest": sha256(self.out / "corpus" / MANIFEST), "tokens_manifest": sha256(self.out / "tokens" / MANIFEST),
                "seed": self.recipe.build.seed, "threads": self.recipe.build.threads or machine.usable_cores(), "argv": sys.argv,
                "versions": list_versions()}


def list_versions() -> dict[str, str]:
    """Return the versions of what computes here, for the lineage."""
    import numpy
    import tokenizers

    versions = {"myna": __version__, "python": platform.python_version(), "numpy": numpy.__version__, "tokenizers": tokenizers.__version__}
    if "torch" in sys.modules:
        versions["torch"] = str(sys.modules["torch"].__version__)
    return versions


def open_batches(recipe: Recipe, shard: Shard, tokenizer: Tokenizer) -> Callable[[Config, int, int], Callable[[int], Batch]]:
    """Return what opens a training split as a plan wants it: (config, context, rows) to a function from a step to its rows."""
    options = ReaderOptions(recipe.masking, recipe.spans)

    def open_rows(config: Config, context: int, rows: int) -> Callable[[int], Batch]:
        import torch

        read = open_reader(recipe.build.family, config.model_type, shard.ids, context, rows, recipe.build.seed, tokenizer, options)
        return lambda step: {name: torch.from_numpy(values) for name, values in read(step).items()}

    return open_rows


def plan_model(recipe: Recipe, shards: dict[str, Shard], tokenizer: Tokenizer, baseline: Ngram, spent: float) -> Plan:
    """Plan a neural model for what is left of the minutes (or for the steps) after `spent` seconds."""
    from myna.train.plan import VALIDATION_TOKENS, Request, Text, make_plan

    wanted = recipe.build
    seconds = None if wanted.steps is not None else wanted.minutes * 60 - spent - _WRITING_SECONDS
    blocks = evaluate_language(baseline, tokenizer, sample_text(shards["valid"], tokenizer, VALIDATION_TOKENS), "measuring the baseline")
    train = shards["train"]
    # RoBERTa counts positions from the padding id on, so its own is a low one
    pad_id = position_padding(tokenizer) if recipe.plan.model_type == "roberta" else tokenizer.pad_id
    text = Text(len(train), train.text_bytes, tokenizer.vocab_size, tokenizer.separator_id, len(shards["test"]), blocks.bits_per_byte,
                pad_id or 0)
    request = Request(seconds, wanted.steps, wanted.seed, wanted.family)
    return make_plan(request, text, recipe.plan, recipe.train, open_batches(recipe, train, tokenizer))


def describe_mixture(names: Sequence[str], fitted: Fitted) -> str:
    """Say what was mixed and what it gained."""
    parts = ", ".join(f"{name} {weight:.2f} (alone {bits:.3f})"
                      for name, weight, bits in zip(names, fitted.weights, fitted.member_bits, strict=True))
    return f"  {parts}: together {fitted.bits:.3f} bits per token of validation text"


def describe_plan(plan: Plan) -> str:
    """Say the plan in a few lines."""
    shape, expected = plan.model, plan.predicted
    loss = f", about {expected['bits_per_byte']:.2f} bits per byte" if "bits_per_byte" in expected else ""
    return (f"  {human(plan.parameters)} parameters: {shape['num_hidden_layers']} layers of {shape['hidden_size']}, "
            f"context {plan.context}, {plan.precision}\n"
            f"  {plan.steps:,} steps of {plan.batch_rows * plan.context:,} tokens ({human(plan.tokens)} tokens in all)\n"
            f"  expected: {duration(expected['seconds'])} of training, {expected['peak_bytes'] / 2**20:,.0f} MiB at most{loss}")


def write_pages(out: Path) -> None:
    """Write what is made from myna.json alone, and remove what is no longer needed."""
    write_card(out)
    write_page(out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


