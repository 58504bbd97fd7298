"""A recipe: every option of a road in one value, from defaults, a TOML file and flags. Nothing heavy is imported here.

    Recipe(build=BuildOptions(minutes=3))
    TuneRecipe(tune=TuneOptions(method="full"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from myna.config import make, options_of
from myna.corpus.options import CleanOptions, SplitOptions
from myna.data.options import MaskingOptions, RowsOptions, SpanOptions
from myna.errors import UserError, nearest
from myna.evaluate.options import EvaluateOptions
from myna.models.families import Family
from myna.models.options import HmmOptions, MixtureOptions, NgramOptions, UnboundedOptions, VectorsOptions
from myna.tokenizer.options import TokenizerOptions
from myna.train.options import PlanOptions, TrainOptions, TuneOptions


@dataclass(frozen=True)
class BuildOptions:
    """What the user decides of a build."""

    minutes: float = 10.0
    "Time for everything, from reading the text to writing the report."
    steps: int | None = None
    "Train exactly this many steps instead of by time; the model's shape then depends on corpus, steps and options alone."
    seed: int = 0
    "Seed of the weights, the order of the text and the samples."
    threads: int | None = None
    "Processor threads to train with; none takes all this process may use."
    family: Family = "decoder"
    "What to make. Counted or fitted: ngram, unbounded, hmm, vectors. Trained: rnn, lstm, gru, decoder, encoder, encoder-decoder."

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("minutes", 0 < self.minutes < float("inf"), "a number above 0"),
            ("steps", self.steps is None or self.steps >= 1, "a whole number, at least 1"),
            ("seed", 0 <= self.seed < 1 << 63, "a whole number, 0 or more"),  # PyTorch's generators take 64 bits
            ("threads", self.threads is None or self.threads >= 1, "a whole number, at least 1"),
        ):
            if not good:
                raise UserError(f"{name} is {getattr(self, name)!r}", expected)


SECTIONS: dict[str, type] = {
    "clean": CleanOptions, "split": SplitOptions, "tokenizer": TokenizerOptions, "ngram": NgramOptions, "unbounded": UnboundedOptions,
    "hmm": HmmOptions, "vectors": VectorsOptions, "mixture": MixtureOptions, "masking": MaskingOptions, "spans": SpanOptions,
    "plan": PlanOptions, "train": TrainOptions, "evaluate": EvaluateOptions}


@dataclass(frozen=True)
class Recipe:
    """The options of every stage, in the order of the road."""

    build: BuildOptions = dataclasses.field(default_factory=BuildOptions)
    clean: CleanOptions = dataclasses.field(default_factory=CleanOptions)
    split: SplitOptions = dataclasses.field(default_factory=SplitOptions)
    tokenizer: TokenizerOptions = dataclasses.field(default_factory=TokenizerOptions)
    ngram: NgramOptions = dataclasses.field(default_factory=NgramOptions)
    unbounded: UnboundedOptions = dataclasses.field(default_factory=UnboundedOptions)
    hmm: HmmOptions = dataclasses.field(default_factory=HmmOptions)
    vectors: VectorsOptions = dataclasses.field(default_factory=VectorsOptions)
    mixture: MixtureOptions = dataclasses.field(default_factory=MixtureOptions)
    masking: MaskingOptions = dataclasses.field(default_factory=MaskingOptions)
    spans: SpanOptions = dataclasses.field(default_factory=SpanOptions)
    plan: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    evaluate: EvaluateOptions = dataclasses.field(default_factory=EvaluateOptions)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return {section: {option: value}}, as plan.json keeps it."""
        return _to_json(self)

    @classmethod
    def from_json(cls, value: dict[str, dict[str, Any]], where: str) -> Recipe:
        """Read back what `to_json` gave. Raises UserError on an unknown key or a wrong value."""
        return cls(**_read_sections({"build": BuildOptions, **SECTIONS}, value, where))

    @classmethod
    def from_flat(cls, options: Mapping[str, Any], build: BuildOptions) -> Recipe:
        """Take the stages' options by the names of their flags: {"train.learning_rate": 0.01}. Raises UserError on an unknown one."""
        return cls(build, **_make_sections(SECTIONS, options))


TUNE_SECTIONS: dict[str, type] = {"rows": RowsOptions, "split": SplitOptions, "train": TrainOptions, "evaluate": EvaluateOptions}


@dataclass(frozen=True)
class TuneRecipe:
    """The options of every stage of a tuning."""

    tune: TuneOptions = dataclasses.field(default_factory=TuneOptions)
    rows: RowsOptions = dataclasses.field(default_factory=RowsOptions)
    split: SplitOptions = dataclasses.field(default_factory=SplitOptions)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    evaluate: EvaluateOptions = dataclasses.field(default_factory=EvaluateOptions)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return {section: {option: value}}, as plan.json keeps it."""
        return _to_json(self)

    @classmethod
    def from_json(cls, value: dict[str, dict[str, Any]], where: str) -> TuneRecipe:
        """Read back what `to_json` gave. Raises UserError on an unknown key or a wrong value."""
        return cls(**_read_sections({"tune": TuneOptions, **TUNE_SECTIONS}, value, where))

    @classmethod
    def from_flat(cls, options: Mapping[str, Any], tune: TuneOptions) -> TuneRecipe:
        """Take the stages' options by the names of their flags, as `Recipe.from_flat`."""
        return cls(tune, **_make_sections(TUNE_SECTIONS, options))


def _to_json(recipe: Recipe | TuneRecipe) -> dict[str, dict[str, Any]]:
    sections = dataclasses.asdict(recipe)
    return {section: {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
            for section, values in sections.items()}


def _read_sections(kinds: dict[str, Any], value: dict[str, dict[str, Any]], where: str) -> dict[str, Any]:
    return {name: make(kinds[name], fields, where=f"{where} [{name}]") for name, fields in value.items() if name in kinds}


def _make_sections(kinds: dict[str, type], options: Mapping[str, Any]) -> dict[str, Any]:
    known = {f"{section}.{option.name}": section for section, kind in kinds.items() for option in options_of(kind)}
    layers: dict[str, dict[str, Any]] = {section: {} for section in kinds}
    for key, value in options.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UserError(f"unknown option {key!r}{nearest(name, list(known))}", "'stage.option', as in 'train.learning_rate'",
                            "the stages are " + ", ".join(kinds))
        layers[known[name]][name.split(".", 1)[1]] = value
    return {section: make(kind, layers[section], where="the options") for section, kind in kinds.items()}


AnyRecipe = TypeVar("AnyRecipe", Recipe, TuneRecipe)


def differences(old: AnyRecipe, new: AnyRecipe, given_only: bool = False) -> list[str]:
    """List what differs between two recipes, as 'train.decay was 0.6, now 0.5'; with `given_only` passing over defaults of the new."""
    found = []
    for section in (field.name for field in dataclasses.fields(old)):
        before, after = getattr(old, section), getattr(new, section)
        names = [option.name for option in options_of(type(before))]
        found += [f"{section}.{name} was {getattr(before, name)}, now {getattr(after, name)}"
                  for name in names if getattr(before, name) != getattr(after, name)
                  and not (given_only and getattr(after, name) == getattr(type(after)(), name))]
    return found
