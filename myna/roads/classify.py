"""The road of a classifier: texts with labels and minutes in; a model that labels texts out, measured beside simpler ones.

read -> what would spoil the scores is said -> linear models on n-grams, in seconds -> where a base or the time asks for it a neural
model: plan, rehearsal, the one training loop -> what the validation part says is used: one of them, or both with weights -> measured
on the test part -> written. The baseline is a linear model on characters 1 to 3 without naive Bayes,
and the majority class stands beside.

    tune_classifier("new", {"data": [Path("reviews.csv")]}, Path("my-classifier"), TuneRecipe(TuneOptions(task="classify")), clock)
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import duration, say
from myna.data.labelled import LabelledReading, LabelledText, Parts, read_labelled, split_labelled
from myna.errors import UserError
from myna.evaluate.classes import measure_classes
from myna.evaluate.measured import Measured
from myna.files import sha256
from myna.metrics.report import Report
from myna.models.calibration import fit_temperature, mean_loss, text_losses
from myna.models.fetched import resolve_model
from myna.models.linear import Linear, LinearConfig
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.build import Clock
from myna.roads.seen import read_seen
from myna.roads.task_pages import finish_task
from myna.tasks.classify import Classifier, Member
from myna.tokenizer.scripts import unspaced_bytes

Array = npt.NDArray[Any]

BASELINE = "baseline"  # the folder of the baseline's model
_LOOKED_AT = 2000  # texts whose script is looked at
_UNSPACED_SHARE = 0.3  # of the bytes, from which a corpus is one of characters without spaces
_CHINESE = LinearConfig(characters=(1, 4))
_SPACED = LinearConfig(characters=(2, 5), words=(1, 2))
_BASELINE = LinearConfig(characters=(1, 3), naive_bayes=False)
_SHARES = np.linspace(0, 1, 21)  # of the neural model's scores, tried on the validation part
_LINEAR_SHARE = 0.5  # of the time, after which no other strength of a linear model is tried
_SLOWER = 1.5  # times as long as planned that measuring may take on a machine that other work shares
_LEAST_GAIN = 0.005  # nats on the validation part, below which another model is not worth its time


@dataclasses.dataclass
class Fitted:
    """A model with what the validation part says of it."""

    name: str
    model: Any
    scores: Array
    temperature: float
    loss: float
    accuracy: float
    seconds: float = 0.0

    def say(self) -> str:
        """Say it in a line."""
        return f"{self.name}: accuracy {self.accuracy:.4f}, {self.loss:.4f} nats a text on the validation part ({duration(self.seconds)})"


def tune_classifier(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Make a classifier at `out`; returns its scores on the test part beside the baseline's. Raises UserError as `tune`.

    base: 'new', a model directory, or the name of a fetched model. given: files by role: data, and valid and test where they are apart.
    """
    with clock.stage("read the texts"):
        readings = {role: read_labelled(given[role], recipe.rows) for role in ("data", "valid", "test") if given.get(role)}
        for role, reading in readings.items():
            for line in reading.said():
                say(f"  {line}" if role == "data" else f"  {role}: {line}")
        several = any(reading.several for reading in readings.values())
        for reading in readings.values():
            reading.several = several
        parts = split_labelled(readings["data"], recipe.split, readings.get("valid"), readings.get("test"))
        for line in parts.said:
            say(f"  {line}")
    return _Road(base, given, out, recipe, clock, readings, parts, several).run()


class _Road:
    """From the parts to the finished directory."""

    def __init__(self, base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock, readings: dict[str, LabelledReading],
                 parts: Parts, several: bool) -> None:
        self.base, self.given, self.out, self.recipe, self.clock, self.readings = base, given, out, recipe, clock, readings
        self.parts, self.labels, self.several = parts.texts, parts.labels, several
        self.said: list[str] = list(parts.said)
        self.reading = 0.0  # seconds that a linear model takes for a text
        self.texts = {name: [item.text for item in items] for name, items in self.parts.items()}
        self.targets = {name: mark_labels(items, self.labels) for name, items in self.parts.items()}

    def run(self) -> Report:
        """Go the road."""
        with self.clock.stage("linear models"):
            baseline, linear = self._fit_linear()
        neural = self._train_neural()
        members, why = choose_members(linear, neural, self.targets["valid"], self.several, self.base != "new")
        self._note(why)
        about = {"columns": self.readings["data"].columns, "why": why, "majority": self._majority(), "base": self.base}
        classifier = Classifier(members, about=about)
        with self.clock.stage("measure"):
            measured = measure_against(classifier, self.parts["test"], self.recipe, baseline.model, self._majority())
        return self._finish(classifier, baseline, measured)

    def _note(self, line: str) -> None:
        self.said.append(line)
        say(f"  {line}")

    def _majority(self) -> list[str]:
        """What a classifier that never looks would say: the most frequent label, or the most frequent set of them."""
        return list(Counter(tuple(sorted(item.labels)) for item in self.parts["train"]).most_common(1)[0][0])

    # ---- linear models ----

    def _fit_linear(self) -> tuple[Fitted, Fitted]:
        """Fit the baseline, and one without and one with naive Bayes that are added up where that is better than the baseline."""
        from myna.models.linear_fit import add_linear, tabulate_texts  # here: it is compiled as it is imported

        sample = "".join(self.texts["train"][:_LOOKED_AT])
        chosen = _CHINESE if unspaced_bytes(sample) > _UNSPACED_SHARE * len(sample.encode("utf-8", "replace")) else _SPACED
        baseline = self._fit_best("plain linear model", _BASELINE, tabulate_texts(self.texts["train"], _BASELINE))
        began, table = self.clock.seconds, tabulate_texts(self.texts["train"], chosen)
        plain, bayes = (self._fit_best(f"linear model with{'' if bayes else 'out'} naive Bayes",
                                       dataclasses.replace(chosen, naive_bayes=bayes), table) for bayes in (False, True))
        model = add_linear(plain.model, bayes.model, (1 / plain.temperature, 1 / bayes.temperature))
        both = self._judge(f"linear model on {chosen}, with and without naive Bayes", model, model.score(self.texts["valid"]))
        both.seconds = self.clock.seconds - began
        self._note(both.say())
        if baseline.loss < both.loss:
            self._note("the plain linear model, which is the baseline, is better than both together and taken")
            return baseline, baseline
        return baseline, both

    def _fit_best(self, name: str, config: LinearConfig, table: Any) -> Fitted:
        """Fit with the strength that the validation part likes best."""
        from myna.models.linear_fit import STRENGTHS, fit_linear

        began = self.clock.seconds
        best: Fitted | None = None
        for strength in STRENGTHS:
            model = fit_linear(table, self.targets["train"], self.labels, config, strength, self.several, self.recipe.tune.seed)
            scoring = self.clock.seconds
            tried = self._judge(f"{name} on {config}", model, model.score(self.texts["valid"]))
            self.reading = max(self.reading, (self.clock.seconds - scoring) / max(1, len(self.texts["valid"])))
            if best is not None and tried.loss >= best.loss:
                break  # the loss has one valley: beyond it every larger C fits the training part closer and tells less
            best = tried
            if self.recipe.tune.steps is None and self.clock.seconds > _LINEAR_SHARE * self.recipe.tune.minutes * 60:
                self._note(f"the {name} is fitted with no other strength: half of the time is spent")
                break
        assert best is not None
        best.seconds = self.clock.seconds - began
        self._note(best.say())
        return best

    def _judge(self, name: str, model: Any, scores: Array) -> Fitted:
        targets = self.targets["valid"]
        temperature = fit_temperature(scores, targets, self.several)
        return Fitted(name, model, scores, temperature, mean_loss(scores / temperature, targets, self.several),
                      float(_find_right(scores, targets, self.several).mean()))

    # ---- the neural model ----

    def _train_neural(self) -> Fitted | None:
        """Train a neural model where there is a base, or where the minutes allow one of its own; None where not."""
        from myna.train.classifying import Material, train_neural

        began, options = self.clock.seconds, self.recipe.tune
        material = Material(self.texts["train"], self.targets["train"], self.texts["valid"], self.targets["valid"], self.labels,
                            self.several, len(self.texts["test"]))
        sources = [file["sha256"] for reading in self.readings.values() for file in reading.notes.files]
        if self.base != "new":
            sources += [sha256(path) for path in sorted(resolve_model(self.base).glob("*.safetensors"))]
        # two linear models read the test part at the end
        end = options.minutes * 60 - _SLOWER * 2 * self.reading * len(self.texts["test"])
        with self.clock.stage("neural model"):
            made = train_neural(self.base, material, self.out, options, self.recipe.train,
                                None if options.steps is not None else lambda: end - self.clock.seconds,
                                {"request": request_of(self.recipe, self.given), "sources": sources})
        if isinstance(made, str):
            self._note(made)
            return None
        neural = self._judge(made.name, made, made.score(self.texts["valid"]))
        neural.seconds = self.clock.seconds - began
        self._note(neural.say())
        return neural

    # ---- the end ----

    def _finish(self, classifier: Classifier, baseline: Fitted, measured: Measured) -> Report:
        """Write the directory; myna.json is last."""
        with self.clock.stage("write"):
            for member in classifier.members:
                member.model.save(self.out / member.folder)
            baseline.model.save(self.out / BASELINE)
            classifier.save_task(self.out)
            learned = [item.key for name in ("train", "valid") for item in self.parts[name]]
            return finish_task(self.out, "classifier", measured, self.said, learned, self.recipe, self.given,
                               [file for reading in self.readings.values() for file in reading.notes.files], self.clock)


def choose_members(linear: Fitted, neural: Fitted | None, targets: Array, several: bool, asked: bool) -> tuple[list[Member], str]:
    """Take a model, or the weighted sum of both, by the validation part's targets (N, K); returns the members and the reason.

    More than the simpler model is taken only where its loss is better by more than chance, and both only where more texts are right too:
    their share was chosen by these losses, so that they look better than they are. The simpler is the linear one, unless the neural one was
    asked for.
    """
    if neural is None:
        return [Member(".", linear.model, 1 / linear.temperature)], "the linear model is used: it is the only one"
    first, second = (neural, linear) if asked else (linear, neural)
    losses = {one.name: text_losses(one.scores / one.temperature, targets, several) for one in (first, second)}
    alone, other = (second, first) if _is_better(losses[first.name], losses[second.name]) else (first, second)
    parts = [linear.scores / linear.temperature, neural.scores / neural.temperature]
    mixed = [(1 - share) * parts[0] + share * parts[1] for share in _SHARES]
    temperatures = [fit_temperature(scores, targets, several) for scores in mixed]
    together = [text_losses(scores / temperature, targets, several) for scores, temperature in zip(mixed, temperatures, strict=True)]
    best = int(np.argmin([values.mean() for values in together]))
    rights = {one: _find_right(scores, targets, several) for one, scores in ((alone.name, alone.scores), ("both", mixed[best]))}
    told = (f"together {together[best].mean():.4f} nats a text and {rights['both'].mean():.4f} right on the validation part, alone "
            f"{linear.loss:.4f} and {linear.accuracy:.4f}, {neural.loss:.4f} and {neural.accuracy:.4f}")
    if not (_is_better(losses[alone.name], together[best]) and _are_more(rights[alone.name], rights["both"])):
        return [Member(".", alone.model, 1 / alone.temperature)], (
            f"the {alone.name} alone is used: neither the {other.name} nor both together are better than it by more than chance, with more "
            f"texts right ({told})")
    share, temperature = float(_SHARES[best]), temperatures[best]
    weights = (1 - share) / (linear.temperature * temperature), share / (neural.temperature * temperature)
    return [Member(".", neural.model, weights[1]), Member("linear", linear.model, weights[0])], (
        f"both are used, {1 - share:.2f} linear and {share:.2f} neural: {told}")


def _find_right(scores: Array, targets: Array, several: bool) -> Array:
    """Tell of each text whether its labels are right: (N,) of 0 and 1."""
    right = ((scores > 0) == (targets > 0)).all(axis=1) if several else targets[np.arange(len(scores)), scores.argmax(axis=1)]
    return np.asarray(right, np.float64)


def _are_more(rights: Array, others: Array) -> bool:
    """Tell whether the others have more texts right, by what chance would give."""
    gains = others - rights
    return len(gains) > 1 and float(gains.mean()) > float(gains.std(ddof=1)) / len(gains) ** 0.5


def _is_better(losses: Array, others: Array) -> bool:
    """Tell whether the others' losses of the same texts are smaller by what is worth it, and by twice what chance would give."""
    gains = losses - others
    return len(gains) > 1 and float(gains.mean()) > max(_LEAST_GAIN, 2 * float(gains.std(ddof=1)) / len(gains) ** 0.5)


def mark_labels(items: Sequence[LabelledText], labels: Sequence[str]) -> Array:
    """Mark which labels texts have: (N, K) of 0 and 1; a label that is not among `labels` marks nothing."""
    place = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(items), len(labels)), np.float32)
    for row, item in zip(table, items, strict=True):
        row[[place[label] for label in item.labels if label in place]] = 1
    return table


def measure_against(classifier: Classifier, items: Sequence[LabelledText], recipe: TuneRecipe, baseline: Linear | None,
                    majority: Sequence[str]) -> Measured:
    """Measure a classifier on texts beside the baseline's model, or beside the majority class where there is none."""
    texts = [item.text for item in items]
    log_probs = classifier.log_probs(texts)
    constant = [tuple(majority)] * len(items)
    if baseline is None:
        others, name = constant, "majority class"
    else:
        others, name = Classifier([Member(".", baseline)]).decide(Classifier([Member(".", baseline)]).log_probs(texts)), (
            f"linear on {baseline.config}")
    measured = measure_classes(items, log_probs, classifier.decide(log_probs), classifier.labels, recipe.evaluate, (name, others),
                               classifier.several)
    right = np.mean([set(item.labels) == set(majority) for item in items])
    measured.details["majority"] = {"labels": list(majority), "accuracy": float(right)}
    say(f"  the majority class ({', '.join(majority) or 'none'}) alone would be right in {right:.4f}")
    return measured


def evaluate_classifier(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a classifier's directory on labelled texts it did not learn from. Raises UserError when there are none."""
    from myna.tasks.classify import say_unseen

    classifier = Classifier.open(folder)
    reading = read_labelled(data, recipe.rows)
    for line in reading.said():
        say(f"  {line}")
    seen = read_seen(folder)
    items = [item for item in reading.texts if item.key not in seen]
    if len(items) < len(reading.texts):
        say(f"  {len(reading.texts) - len(items):,} texts were learned from and are left out")
    if not items:
        raise UserError(f"{folder} learned from all {len(reading.texts):,} texts", "texts that it never saw", "give others")
    if reading.several and not classifier.several:
        raise UserError("texts with several labels", f"one label each, as {folder} gives", "give other texts")
    say_unseen(classifier.labels, [item.labels for item in items])
    baseline = Linear.open(folder / BASELINE) if (folder / BASELINE / "config.json").is_file() else None
    majority = classifier.about.get("majority")
    known = isinstance(majority, list) and all(isinstance(label, str) for label in majority)
    return measure_against(classifier, items, recipe, baseline, majority if known and majority is not None else classifier.labels[:1])
