"""The road of a translator: pairs and minutes in; a model that translates out, measured beside its nearest example.

read -> split by source -> phrases of the aligned examples, in seconds -> a vocabulary of both languages, each source with the example
most like it, plan, rehearsal, the one training loop -> on the validation part: whether the phrases or the model translate better, and
from which likeness an example's translation is taken as it is -> measured on the test part -> written, the training part as its memory.

    tune_translator("new", {"data": [Path("en-zh.jsonl")]}, Path("my-translator"), TuneRecipe(TuneOptions(task="translate")), clock)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from myna.console import say
from myna.data.coding import SPECIAL_TOKENS, Coder, Example
from myna.data.pairs import Pair, PairReading, read_pairs, split_pairs
from myna.data.placeholders import find_placeholders, keeps_placeholders
from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.evaluate.translation import measure_translations, name_words
from myna.metrics.report import Report
from myna.metrics.translation import bleu, count_bleu, split_chinese, split_words
from myna.models.families import family_of
from myna.models.fetched import resolve_model
from myna.models.phrases import Phrases
from myna.models.pretrained import load_model, read_config, save_model
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.retrieval.memory import Memory
from myna.roads.build import Clock
from myna.roads.seen import read_seen
from myna.roads.task_pages import finish_task
from myna.tasks.translate import NEVER, Translated, Translator, mask_pair, take_example
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import learn_tokenizer
from myna.train.translating import Material, new_model, train_translator

# usual names of columns, likeliest first; where languages are the names, English is the source unless told otherwise
SOURCES = ("source", "src", "原文", "源文", "en", "english", "英文", "zh", "chinese", "中文", "de", "fr", "text", "input")
TARGETS = ("target", "tgt", "译文", "翻译", "translation", "zh", "chinese", "中文", "de", "german", "fr", "es", "ja", "ko", "ru", "en",
           "english", "英文", "output")
_VOCABULARY, _LENGTH = 4096, 192  # own choices: tokens of both languages, and those of a source with its example
_CHOSEN_ON = 500  # pairs of the validation part by which it is decided what examples are for
_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, NEVER)
_SECONDS_A_TEXT = 0.04  # to translate one, about, on one thread


def tune_translator(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Make a translator at `out`; returns its scores on the test part beside the nearest example's. Raises UserError as `tune`.

    base: 'new', or a directory of an encoder-decoder to go on with. given: files by role: data, and valid and test where they are apart.
    """
    with clock.stage("read the pairs"):
        readings = {role: read_pairs(given[role], recipe.rows, SOURCES, TARGETS) for role in ("data", "valid", "test") if given.get(role)}
        parts = split_pairs(readings["data"], recipe.split, readings.get("valid"), readings.get("test"))
        said: list[str] = []
        for role, reading in readings.items():
            said += reading.said() if role == "data" else [f"{role}: {line}" for line in reading.said()]
        said.append(", ".join(f"{name} {len(pairs):,}" for name, pairs in parts.items()) + " pairs")
        for line in said:
            say(f"  {line}")
    return _Road(base, given, out, recipe, clock, readings, parts, said).run()


class _Road:
    """From the parts to the finished directory."""

    def __init__(self, base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock, readings: dict[str, PairReading],
                 parts: dict[str, list[Pair]], said: list[str]) -> None:
        self.base, self.given, self.out, self.recipe, self.clock = base, given, out, recipe, clock
        self.readings, self.parts, self.said = readings, parts, said

    def run(self) -> Report:
        """Go the road."""
        pairs = [(pair.source, pair.target) for pair in self.parts["train"]]
        with self.clock.stage("phrases"):
            phrases = Phrases.fit([mask_pair(*pair) or ("", "") for pair in pairs])
        with self.clock.stage("vocabulary and nearest examples"):
            self._prepare()
            material = self._encode()
        with self.clock.stage("train"):
            model = self._train(material)
        columns = self.readings["data"].columns
        about = {"columns": columns, "words": name_words([pair.target for pair in self.parts["train"][:2000]]), "base": self.base}
        translator = Translator(model, self.coder.tokenizer, pairs, about=about)
        with self.clock.stage("choose"):
            self._choose(translator, phrases)
        with self.clock.stage("measure"):
            measured = measure_translator(translator, self.parts["test"], self.recipe)
        return self._finish(translator, measured)

    def _note(self, line: str) -> None:
        self.said.append(line)
        say(f"  {line}")

    def _prepare(self) -> None:
        """Make the tokenizer, or take the base's."""
        seed = self.recipe.tune.seed
        if self.base == "new":
            texts = [side for pair in self.parts["train"] for side in (pair.source, pair.target)]
            tokenizer = learn_tokenizer(texts, _VOCABULARY, special_tokens=SPECIAL_TOKENS)
            length = self.recipe.tune.context or _LENGTH
            self.make: Callable[[], Any] = functools.partial(new_model, self.recipe.tune.model_type, tokenizer.vocab_size, length, seed,
                                                             tokenizer.separator_id)
        else:
            folder = resolve_model(self.base)
            family = family_of(str(read_config(folder).get("model_type")))
            if family != "encoder-decoder" or not hasattr(load_model(folder), "decode"):
                raise UserError(f"{self.base} holds a {family or 'model of an unknown family'}", "an encoder-decoder (T5, Marian, "
                                "attention_rnn), or new for one from nothing", "choose another base")
            if (folder / "target_tokenizer.json").is_file():
                raise UserError(f"{self.base} has a tokenizer for each language", "one for both", "choose another base")
            tokenizer, self.make = Tokenizer.open(folder), functools.partial(load_model, folder)
            length = int(self.make().max_length)
        self.coder = Coder(tokenizer, length)
        if not self.coder.placeholders:
            self._note("the base's tokenizer has no spare tokens: placeholders are written as any text, and may get lost")

    def _encode(self) -> Material:
        """Turn pairs into ids, each source with the example most like it that is not its own."""
        pairs, places = self.parts["train"], dict[bytes, list[int]]()
        for number, pair in enumerate(pairs):
            places.setdefault(pair.key, []).append(number)
        memory = Memory([pair.source for pair in pairs])
        coded: dict[str, list[tuple[list[int], list[int]]]] = {}
        unlike = long = 0
        for name in ("train", "valid"):
            texts = [pair.source for pair in self.parts[name]]
            found = memory.find(texts, 1, [places.get(pair.key, []) for pair in self.parts[name]])
            rows = coded[name] = []
            for pair, matches in zip(self.parts[name], found, strict=True):
                if find_placeholders(pair.source) and not keeps_placeholders(pair.source, pair.target):
                    unlike += 1  # it would teach to lose them
                    continue
                like = pairs[matches[0].place] if matches else None
                example = Example(like.source, like.target, matches[0].similarity) if like else None
                source = self.coder.encode_source(pair.source, example)
                target = self.coder.encode_target(pair.target, source.masked)
                if max(len(source.ids), len(target)) > self.coder.length:
                    long += 1
                    continue
                rows.append((source.ids, target))
        if unlike:
            self._note(f"{unlike:,} pairs are not learned from: their placeholders differ")
        if long:
            self._note(f"{long:,} pairs are not learned from: they have more than {self.coder.length} tokens (--context)")
        if not coded["train"] or not coded["valid"]:
            raise UserError("no pair fits", f"pairs of at most {self.coder.length} tokens", "give a larger --context")
        texts_after = min(_CHOSEN_ON, len(self.parts["valid"])) + len(self.parts["test"])
        (sources, targets), (valid_sources, valid_targets) = (zip(*coded[name], strict=True) for name in ("train", "valid"))
        return Material(sources, targets, valid_sources, valid_targets, 5 + _SECONDS_A_TEXT * texts_after)

    def _train(self, material: Material) -> Any:
        options = self.recipe.tune
        sources = [file["sha256"] for reading in self.readings.values() for file in reading.notes.files]
        sample = [pair.source for pair in self.parts["valid"][:2]]
        return train_translator(self.make, self.coder, material, self.out, options, self.recipe.train,
                                None if options.steps is not None else lambda: options.minutes * 60 - self.clock.seconds,
                                {"request": request_of(self.recipe, self.given), "sources": sources},
                                lambda model: Translator(model.eval(), self.coder.tokenizer, []).translate(sample))

    def _choose(self, translator: Translator, phrases: Phrases) -> None:
        """Settle, on the validation part, who writes, and from which likeness an example's translation is taken."""
        pairs = self.parts["valid"][:_CHOSEN_ON]
        references = [pair.target for pair in pairs]
        split = split_chinese if translator.about["words"] == "zh" else split_words
        scores: dict[tuple[str, float], float] = {}
        for writer, phrases_or_none in (("model", None), ("phrases", phrases)):
            translator.phrases = phrases_or_none
            results = translator.translate([pair.source for pair in pairs])
            likeness = np.array([result.nearest.similarity if result.nearest else -1.0 for result in results])
            counts = [count_bleu(texts, references, split)
                      for texts in ([result.text for result in results], nearest_translations(translator, results))]
            for step in _THRESHOLDS:
                scores[writer, step] = float(bleu(np.where((likeness >= step)[:, None], counts[1], counts[0]).sum(axis=0)[None])[0])
        writer, best = max(scores, key=lambda one: (scores[one], one[1]))
        translator.phrases, translator.threshold = phrases if writer == "phrases" else None, best
        alone = {"phrases": scores["phrases", NEVER], "model": scores["model", NEVER], "nearest example": scores["model", 0.0]}
        listed = ", ".join(f"{name} {score:.1f}" for name, score in alone.items())
        self._note(f"BLEU on {len(pairs):,} pairs of the validation part: {listed}")
        how = "never" if best == NEVER else f"from a likeness of {best:g} on"
        self._note(f"the {writer} {'write' if writer == 'phrases' else 'writes'}, and an example's translation is taken as it is {how}: "
                   f"together {scores[writer, best]:.1f}")

    def _finish(self, translator: Translator, measured: Measured) -> Report:
        """Write the directory; myna.json is last."""
        out = self.out
        with self.clock.stage("write"):
            save_model(translator.model, out, self.coder.tokenizer.pad_id)
            self.coder.tokenizer.save(out, self.coder.length)
            translator.save_task(out)
            learned = [pair.key for name in ("train", "valid") for pair in self.parts[name]]
            return finish_task(self.out, "translator", measured, self.said, learned, self.recipe, self.given,
                               [file for reading in self.readings.values() for file in reading.notes.files], self.clock)


def nearest_translations(translator: Translator, results: Sequence[Translated]) -> list[str]:
    """Return what the nearest example gives for each source: its translation, the source's placeholders in it where they fit."""
    texts = []
    for result in results:
        if result.nearest is None:
            texts.append(result.source)
            continue
        coded = translator.coder.encode_source(result.source)
        texts.append(take_example(result.source, result.nearest, coded) or result.nearest.target)
    return texts


def measure_translator(translator: Translator, pairs: Sequence[Pair], recipe: TuneRecipe) -> Measured:
    """Measure a translator on pairs beside its nearest examples."""
    results = translator.translate([pair.source for pair in pairs])
    return measure_translations(pairs, results, nearest_translations(translator, results), recipe.evaluate)


def evaluate_translator(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a translator's directory on pairs whose sources it did not learn from. Raises UserError when there are none."""
    translator = Translator.open(folder)
    columns = translator.about.get("columns")
    learned = {side: str(name).lower() for side, name in columns.items()} if isinstance(columns, dict) else {}
    reading = read_pairs(data, recipe.rows, (learned.get("source", ""), *SOURCES), (learned.get("target", ""), *TARGETS))
    for line in reading.said():
        say(f"  {line}")
    seen = read_seen(folder)
    pairs = [pair for pair in reading.pairs if pair.key not in seen]
    if len(pairs) < len(reading.pairs):
        say(f"  {len(reading.pairs) - len(pairs):,} pairs have sources that were learned from and are left out")
    if not pairs:
        raise UserError(f"{folder} learned from all {len(reading.pairs):,} sources", "sources that it never saw", "give others")
    return measure_translator(translator, pairs, recipe)
