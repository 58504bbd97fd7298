"""The road of a tagger: words with labels and minutes in; a model that labels words out, measured beside a hidden Markov model.

read -> what would spoil the scores is said -> the baselines and a conditional random field, in a minute or two -> where words have no
spaces between, another that finds them -> where a base or the time asks for it a neural model: plan, rehearsal, the one training loop ->
what the validation part says is used: one of them, or both with weights -> measured on the test part -> written.

    tune_tagger("new", {"data": [Path("cantonese/")]}, Path("my-tagger"), TuneRecipe(TuneOptions(task="tag")), clock)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import duration, say
from myna.data.tagged import TaggedSentence, cut_labels, labels_of, read_tagged, split_tagged
from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.evaluate.tags import Answers, Truth, measure_tags
from myna.metrics.report import Report
from myna.metrics.tagging import spans_of
from myna.models.chain import SEGMENTS, scheme_of
from myna.models.hmm_tagger import Tagger, fit_tagger
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.build import Clock
from myna.roads.seen import read_seen
from myna.roads.task_pages import finish_task
from myna.tasks.tag import SEGMENTER, FindWords, Member, WordTagger, put_together
from myna.tokenizer.atoms import find_atoms, join_words

Array = npt.NDArray[Any]

BASELINE = "baseline"  # the folder of the baseline
_CHAIN_SHARE, _SEGMENTER_SHARE = 0.4, 0.15  # of the minutes, at most, for each conditional random field: own choice
_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)  # of the neural model's scores, tried on the validation part
_ADDED = (0.25, 0.5, 0.75, 1.0)  # weights of what the hidden Markov model says of each word, tried too
_TEMPERATURES = (0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5)
_CHOSEN_BY = {"segments": "F1 of words", "spans": "F1 of names", "tags": "accuracy"}  # on the validation part, by what the labels are
_LEAST_GAIN = 0.001  # of the validation part's score, below which a second model is not worth its time


@dataclasses.dataclass
class _Fitted:
    """A model with what the validation part says of it, as the score that is chosen by."""

    model: Any
    score: float
    seconds: float


def tune_tagger(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Make a tagger at `out`; returns its scores on the test part beside the baseline's. Raises UserError as `tune`.

    base: 'new', a model directory, or the name of a fetched model. given: files by role: data, and valid and test where they are apart.
    """
    return _Road(base, given, out, recipe, clock).run()


class _Road:
    """From the files to the finished directory."""

    def __init__(self, base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> None:
        self.base, self.given, self.out, self.recipe, self.clock = base, given, out, recipe, clock
        self.said: list[str] = []
        with clock.stage("read the sentences"):
            self.readings = {role: read_tagged(given[role], recipe.rows) for role in ("data", "valid", "test") if given.get(role)}
            for role, reading in self.readings.items():
                for line in reading.said():
                    self._note(line if role == "data" else f"{role}: {line}")
            kinds = {reading.segments for reading in self.readings.values()}
            if len(kinds) > 1:
                raise UserError("one of data, --valid and --test has labels, another words alone", "one kind of data",
                                "add --segment to learn the words of all")
            self.segments = kinds.pop()
            parts = split_tagged(self.readings["data"], recipe.split, self.readings.get("valid"), self.readings.get("test"))
            for line in parts.said:
                self._note(line)
        self.parts, self.tags, self.spaced = parts.sentences, parts.tags, parts.spaced
        if self.segments and self.spaced:
            raise UserError("words of a script with spaces between, which need no finding", "text without spaces, as Chinese",
                            "give words with labels")
        pairs = {name: [labels_of(one, self.spaced) for one in held] for name, held in self.parts.items()}
        self.sentences = {name: [tokens for tokens, _ in held] for name, held in pairs.items()}
        self.labels = {name: [labels for _, labels in held] for name, held in pairs.items()}
        self.tokens = "atoms" if self.segments else "words"
        self.tags = sorted(SEGMENTS) if self.segments else self.tags
        self.what = _CHOSEN_BY[scheme_of(self.tags)]

    def run(self) -> Report:
        """Go the road."""
        with self.clock.stage("baselines"):
            baseline = _Baseline(fit_tagger([list(zip(*pair, strict=True)) for pair in zip(self.sentences["train"], self.labels["train"],
                                                                                          strict=True)]), self._cutter_of_baseline())
            self._note(f"hidden Markov model: {self._score(baseline.tagger.tag):.4f} {self.what} on the validation "
                       f"part; each word's likeliest label: {self._score(baseline.tagger.most_frequent):.4f}")
        with self.clock.stage("conditional random field"):
            chain = self._fit_chain()
            segmenter = None if self.segments or self.spaced else self._fit_segmenter()
        neural = self._train_neural()
        members, why = self._choose(chain, neural, baseline.tagger)
        self._note(why)
        about = {"why": why, "base": self.base}
        tagger = WordTagger(members, self.spaced, segmenter, about)
        with self.clock.stage("measure"):
            measured = measure_tagger(tagger, self.parts["test"], self.recipe, baseline)
        return self._finish(tagger, baseline, measured)

    def _note(self, line: str) -> None:
        self.said.append(line)
        say(f"  {line}")

    def _score(self, label: Any) -> float:
        """Score what labels the validation part: `label` takes a sentence's tokens."""
        return self._compare([label(tokens) for tokens in self.sentences["valid"]])

    def _compare(self, given: Sequence[Sequence[str]]) -> float:
        true = self.labels["valid"]
        match self.what:
            case "accuracy":
                total = sum(map(len, true))
                return sum(a == b for rows in zip(true, given, strict=True) for a, b in zip(*rows, strict=True)) / max(1, total)
            case "F1 of names":
                wanted, found = ([set[Any](spans_of(row)) for row in rows] for rows in (true, given))
            case _:
                wanted, found = ([set[Any](put_together([(at, at + 1) for at in range(len(row))], row)) for row in rows]
                                 for rows in (true, given))
        right = sum(len(a & b) for a, b in zip(wanted, found, strict=True))
        return 2 * right / max(1, sum(map(len, wanted)) + sum(map(len, found)))

    # ---- the models ----

    def _cutter_of_baseline(self) -> Tagger | None:
        if self.segments or self.spaced:
            return None
        return fit_tagger([list(zip(*cut_labels(one.words, self.spaced), strict=True)) for one in self.parts["train"]])

    def _seconds(self, share: float) -> float | None:
        return None if self.recipe.tune.steps is not None else share * 60 * self.recipe.tune.minutes

    def _fit_chain(self) -> _Fitted:
        from myna.models.chain_fit import fit_chain  # here: it is compiled as it is imported

        began = self.clock.seconds
        chain, shares = fit_chain(self.sentences["train"], self.labels["train"], self.tags, self.tokens, self.sentences["valid"],
                                  self.labels["valid"], self._seconds(_CHAIN_SHARE), self.recipe.tune.seed)
        tagger = WordTagger([Member(".", chain)], self.spaced)
        found = _Fitted(chain, self._compare(tagger.label(self.sentences["valid"])), self.clock.seconds - began)
        self._note(f"conditional random field: {found.score:.4f} ({len(chain.features):,} features, {len(shares)} passes, "
                   f"{duration(found.seconds)})")
        return found

    def _fit_segmenter(self) -> WordTagger:
        """Fit what finds the words of plain text."""
        from myna.models.chain_fit import fit_chain

        cut = {name: [cut_labels(one.words, self.spaced) for one in self.parts[name]] for name in ("train", "valid")}
        chain, shares = fit_chain([atoms for atoms, _ in cut["train"]], [labels for _, labels in cut["train"]], sorted(SEGMENTS), "atoms",
                                  [atoms for atoms, _ in cut["valid"]], [labels for _, labels in cut["valid"]],
                                  self._seconds(_SEGMENTER_SHARE), self.recipe.tune.seed)
        self._note(f"words of plain text: {max(shares):.4f} of the labels B, M, E and S right ({len(chain.features):,} features, "
                   f"{len(shares)} passes)")
        return WordTagger([Member(".", chain)], self.spaced)

    def _train_neural(self) -> _Fitted | None:
        """Train a neural model where there is a base, or where the minutes allow one of its own; None where not."""
        from myna.train.tagging import TagMaterial, train_neural_tagger

        began, options = self.clock.seconds, self.recipe.tune
        material = TagMaterial(self.sentences["train"], self.labels["train"], self.sentences["valid"], self.labels["valid"], self.tags,
                               self.tokens, len(self.sentences["test"]))
        sources = [file["sha256"] for reading in self.readings.values() for file in reading.notes.files]
        with self.clock.stage("neural model"):
            made = train_neural_tagger(self.base, material, self.out, options, self.recipe.train,
                                       None if options.steps is not None else lambda: options.minutes * 60 - self.clock.seconds,
                                       {"request": request_of(self.recipe, self.given), "sources": sources})
        if isinstance(made, str):
            self._note(made)
            return None
        tagger = WordTagger([Member(".", made)], self.spaced)
        found = _Fitted(made, self._compare(tagger.label(self.sentences["valid"])), self.clock.seconds - began)
        self._note(f"{made.name}: {found.score:.4f} ({duration(found.seconds)})")
        return found

    def _choose(self, chain: _Fitted, neural: _Fitted | None, baseline: Tagger) -> tuple[list[Member], str]:
        """Take the model, or the weighted sum of several, that the validation part says is best; with the reason.

        To the conditional random field is added, where that helps, what the hidden Markov model says of each word by itself: it was
        counted, not climbed to, and knows rare words better.
        """
        valid = self.sentences["valid"]
        first, second = (Member(".", chain.model), chain.model.emit(valid)), (Member(BASELINE, baseline), baseline.emit(valid))
        before, told, weight, added = [first], f"conditional random field {chain.score:.4f}", 0.0, {0.0: 0.0}
        if baseline.tags == self.tags:  # not where no word has a middle, of which it then knows nothing
            added = {weight: self._try([first, _weighed(second, weight)]) for weight in _ADDED}
            weight = max(added, key=lambda one: added[one])
            told += f", with the hidden Markov model's words {added[weight]:.4f}"
        if added[weight] >= chain.score + _LEAST_GAIN:
            before = [first, _weighed(second, weight)]
        best, name = max(chain.score, added[weight] if len(before) > 1 else 0), "the conditional random field"
        name += f" is used, with {weight:g} of the hidden Markov model's words" if len(before) > 1 else " alone is used"
        if neural is not None:
            third = (Member(".", neural.model), neural.model.emit(valid))
            inner = [(dataclasses.replace(member, folder=member.folder.replace(".", "chain")), rows) for member, rows in before]
            mixed = {share: [_weighed(third, share), *(_weighed(one, 1 - share) for one in inner)] for share in _SHARES}
            scores = {share: self._try(kept) for share, kept in mixed.items()}
            share = max(scores, key=lambda one: scores[one])
            told += f", {neural.model.name} {neural.score:.4f}, together {scores[share]:.4f}"
            if scores[share] >= max(best, neural.score) + _LEAST_GAIN:
                beside = f", which has {weight:g} of the hidden Markov model's words" if len(before) > 1 else ""
                name = f"both are used, {share:g} {neural.model.name} and {1 - share:g} conditional random field{beside}"
                before = mixed[share]
            elif neural.score > best:
                before, name = [third], f"the {neural.model.name} alone is used"
        return self._temper([member for member, _ in before], [rows for _, rows in before]), (
            f"{name} ({self.what} on the validation part: {told})")

    def _try(self, kept: Sequence[_Emitted]) -> float:
        """Score members, whose scores of the validation part are known, together."""
        tagger = WordTagger([member for member, _ in kept], self.spaced)
        return self._compare(tagger.label_rows(tagger.combine([rows for _, rows in kept])))

    def _temper(self, members: list[Member], emitted: list[list[Array]]) -> list[Member]:
        """Divide the weights by the temperature whose probabilities are best on the validation part; what is chosen stays the same."""
        number = {tag: at for at, tag in enumerate(self.tags)}
        places = [[(at, number[tag]) for at, tag in enumerate(tags) if tag in number] for tags in self.labels["valid"]]
        losses = []
        for temperature in _TEMPERATURES:
            tagger = WordTagger([dataclasses.replace(member, weight=member.weight / temperature) for member in members], self.spaced)
            chances = tagger.chances_rows(tagger.combine(emitted))
            losses.append(-sum(float(np.log(np.maximum(table[tuple(zip(*held, strict=True))], 1e-12)).sum())
                               for table, held in zip(chances, places, strict=True) if held))
        temperature = _TEMPERATURES[int(np.argmin(losses))]
        return [dataclasses.replace(member, weight=member.weight / temperature) for member in members]

    # ---- the end ----

    def _finish(self, tagger: WordTagger, baseline: _Baseline, measured: Measured) -> Report:
        """Write the directory; myna.json is last."""
        with self.clock.stage("write"):
            for member in tagger.members:
                if member.folder != BASELINE:
                    member.model.save(self.out / member.folder)
            if tagger.segmenter is not None:
                tagger.segmenter.members[0].model.save(self.out / SEGMENTER)
            baseline.save(self.out / BASELINE)
            tagger.save_task(self.out)
            learned = [one.key for name in ("train", "valid") for one in self.parts[name]]
            return finish_task(self.out, "tagger", measured, self.said, learned, self.recipe, self.given,
                               [file for reading in self.readings.values() for file in reading.notes.files], self.clock)


@dataclasses.dataclass(frozen=True)
class _Baseline:
    """Hidden Markov models: of labels, and of words in plain text where they have no spaces between."""

    tagger: Tagger
    cutter: Tagger | None

    def save(self, folder: Path) -> None:
        self.tagger.save(folder)
        if self.cutter is not None:
            self.cutter.save(folder / SEGMENTER)

    @classmethod
    def open(cls, folder: Path) -> _Baseline:
        inside = folder / SEGMENTER
        return cls(Tagger.open(folder), Tagger.open(inside) if (inside / "config.json").is_file() else None)

    def find_words(self, text: str) -> list[tuple[int, int]]:
        atoms = find_atoms(text)
        return put_together(atoms, (self.cutter or self.tagger).tag([text[start:end] for start, end in atoms]))


_Emitted = tuple[Member, list[Array]]  # a member with its scores of the validation part


def _weighed(one: _Emitted, factor: float) -> _Emitted:
    return dataclasses.replace(one[0], weight=one[0].weight * factor), one[1]


def measure_tagger(tagger: WordTagger, items: Sequence[TaggedSentence], recipe: TuneRecipe, baseline: _Baseline | None) -> Measured:
    """Measure a tagger on sentences beside hidden Markov models, or beside always saying its first label where there are none."""
    pairs = [labels_of(one, tagger.spaced) for one in items]
    tokens, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    texts = [join_words(one.words, tagger.spaced) for one in items]
    plain = tagger.scheme == "segments" or tagger.segmenter is not None
    cut = [frozenset((start, start + len(word), label) for word, start, label in
                     zip(one.words, starts, one.tags or [""] * len(starts), strict=True))
           for one, (_, starts) in zip(items, texts, strict=True)] if plain else None
    truth = Truth(items, tokens, labels, cut, tagger.scheme)
    rows = tagger.emit(tokens)
    answers = Answers(tagger.label_rows(rows), _cut(texts, tagger.find_words, tagger.label, tagger.scheme) if plain else None,
                      tagger.chances_rows(rows), tagger.tags)
    if baseline is None:
        name = f"always {tagger.tags[0]}"
        others = Answers([[tagger.tags[0]] * len(row) for row in tokens])
    else:
        name = "hidden Markov model"
        label = baseline.tagger.tag
        others = Answers([label(row) for row in tokens],
                         _cut(texts, baseline.find_words, lambda rows: [label(row) for row in rows], tagger.scheme) if plain else None)
    measured = measure_tags(truth, answers, recipe.evaluate, (name, others),
                            None if baseline is None or tagger.scheme == "segments" else baseline.tagger.knows)
    if baseline is not None:
        total = max(1, sum(map(len, labels)))
        right = sum(a == b for row, true in zip(tokens, labels, strict=True)
                    for a, b in zip(baseline.tagger.most_frequent(row), true, strict=True)) / total
        measured.details["likeliest_label"] = {"accuracy": right}
        measured.lines.insert(0, f"each token's likeliest label alone would be right in {right:.4f}")
    return measured


def _cut(texts: Sequence[tuple[str, list[int]]], find_words: FindWords, label: Any, scheme: str) -> list[frozenset[tuple[int, int, str]]]:
    """Find the words of plain texts, and, unless that is all, their labels: (start, end, label)."""
    words = [find_words(text) for text, _ in texts]
    if scheme == "segments":
        return [frozenset((start, end, "") for start, end in row) for row in words]
    labels = label([[text[start:end] for start, end in row] for (text, _), row in zip(texts, words, strict=True)])
    return [frozenset((start, end, tag) for (start, end), tag in zip(row, tags, strict=True))
            for row, tags in zip(words, labels, strict=True)]


def evaluate_tagger(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a tagger's directory on sentences it did not learn from. Raises UserError when there are none."""
    tagger = WordTagger.open(folder)
    segments = tagger.scheme == "segments"
    reading = read_tagged(data, dataclasses.replace(recipe.rows, segment=segments or recipe.rows.segment))
    for line in reading.said():
        say(f"  {line}")
    if reading.segments != segments:
        raise UserError("words without labels", f"words with labels, as {folder} gives", "give other data")
    seen = read_seen(folder)
    items = [one for one in reading.sentences if one.key not in seen]
    if len(items) < len(reading.sentences):
        say(f"  {len(reading.sentences) - len(items):,} sentences were learned from and are left out")
    if not items:
        raise UserError(f"{folder} learned from all {len(reading.sentences):,} sentences", "sentences that it never saw", "give others")
    unknown = sorted({tag for one in items for tag in one.tags} - set(tagger.tags))
    if unknown:
        count = sum(tag in unknown for one in items for tag in one.tags)
        say(f"  {count:,} labels were never seen in training, so they are always wrong: {', '.join(unknown[:8])}"
            + (", ..." if len(unknown) > 8 else ""))
    baseline = _Baseline.open(folder / BASELINE) if (folder / BASELINE / "config.json").is_file() else None
    return measure_tagger(tagger, items, recipe, baseline)
