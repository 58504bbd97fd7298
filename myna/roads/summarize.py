"""The road of a summarizer: pairs of text and summary in; a tuned decoder, or the better way to take sentences out, measured beside them.

With a decoder the road is that of `myna.roads.writing`. With `new` nothing is trained: the first sentences and TextRank's are tried on the
validation part, as many as its summaries are long, and the better is kept. The baseline of both is the beginning of the text.

    tune_summarizer("new", {"data": [Path("news.jsonl")]}, Path("my-summarizer"), TuneRecipe(TuneOptions(task="summarize")), clock)
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from myna import machine
from myna.console import say
from myna.corpus.sentences import cut_sentences
from myna.data.pairs import Pair, read_pairs
from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.evaluate.summaries import measure_summaries, score_summaries
from myna.metrics.report import Report
from myna.metrics.summaries import summary_words
from myna.models.precision import Precision
from myna.recipe import TuneRecipe
from myna.request import Inputs
from myna.roads.build import Clock
from myna.roads.task_pages import finish_task
from myna.roads.writing import leave_out_seen, read_parts, tune_writer
from myna.tasks.extract import METHODS
from myna.tasks.summarize import SUMMARIZE, Extractor, is_extractor, summarize_beginnings
from myna.tasks.writing import Writer

_LOOKED_AT = 1000  # pairs of the training part by which lengths are chosen, and of the validation part that is tried
_WHOLE = "the whole text"


def tune_summarizer(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Make a summarizer at `out`; returns its scores on the test part beside the baseline's. Raises UserError as `tune`.

    base: 'new', a decoder's directory, or the name of a fetched one. given: files by role: data, and valid and test where they are apart.
    """
    if base == "new":
        return _tune_extractor(given, out, recipe, clock)
    return tune_writer(base, given, out, recipe, clock, SUMMARIZE, _judge)


def _judge(writer: Writer, pairs: Sequence[Pair], recipe: TuneRecipe) -> Measured:
    """Measure a decoder's summaries of the beginnings of sources that it did not learn from."""
    summaries = [summary.text for summary in summarize_beginnings(writer, [pair.source for pair in pairs], "summaries")]
    words = max(1, writer.writing.target_words)
    return measure_summaries(pairs, summaries, words, _extract(pairs, 1), f"first {writer.room} tokens", recipe.evaluate)


def _extract(pairs: Sequence[Pair], sentences: int) -> dict[str, list[str]]:
    name = "sentence" if sentences == 1 else "sentences"
    return {f"{sentences} {name} by {method}": [Extractor(method, sentences).summarize(pair.source).text for pair in pairs]
            for method in METHODS}


# ---- sentences of the text ----


def _tune_extractor(given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    with clock.stage("read the rows"):
        reading, parts = read_parts(given, recipe, SUMMARIZE)
        said = reading.said()
    with clock.stage("choose"):
        pairs = parts["train"][:_LOOKED_AT]
        words = max(1, round(statistics.median(len(summary_words(pair.target)) for pair in pairs)))
        lengths = [len(summary_words(pair.source[start:end])) for pair in pairs for start, end in cut_sentences(pair.source)]
        sentences = max(1, round(words / statistics.median(lengths or [words])))
        tried = parts["valid"][:_LOOKED_AT]
        references = [pair.target for pair in tried]
        scores = {method: float(score_summaries(texts, references).mean())
                  for method, texts in zip(METHODS, _extract(tried, sentences).values(), strict=True)}
        best = max(scores, key=lambda method: scores[method])
        counted = f"{sentences} {'sentence' if sentences == 1 else 'sentences'}"
        why = (f"{best} is used, with {counted} for summaries of {words} words: the mean of ROUGE-1, -2 and -L on {len(tried):,} "
               "validation texts is " + ", ".join(f"{score:.4f} by {method}" for method, score in scores.items()))
        say(f"  {why}")
        said.append(why)
        extractor = Extractor(best, sentences, words)
    with clock.stage("measure"):
        measured = _measure_extractor(extractor, parts["test"], recipe)
    with clock.stage("write"):
        extractor.save(out)
        learned = [pair.key for name in ("train", "valid") for pair in parts[name]]
        return finish_task(out, "extractor", measured, said, learned, recipe, given, reading.notes.files, clock)


def _measure_extractor(extractor: Extractor, pairs: Sequence[Pair], recipe: TuneRecipe) -> Measured:
    summaries = [extractor.summarize(pair.source).text for pair in pairs]
    words = extractor.target_words or max(1, round(statistics.median(len(summary_words(text)) for text in summaries)))
    return measure_summaries(pairs, summaries, words, _extract(pairs, extractor.sentences), _WHOLE, recipe.evaluate)


# ---- a directory, measured ----


def evaluate_summarizer(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a summarizer's directory on pairs that it did not learn from. Raises UserError when there are none."""
    rows = dataclasses.replace(recipe.rows, answer=recipe.rows.answer or recipe.rows.label)  # as `myna evaluate --label` names it
    reading = read_pairs(data, rows, SUMMARIZE.sources, SUMMARIZE.targets)
    for line in reading.said():
        say(f"  {line}")
    pairs = leave_out_seen(folder, reading)
    if not pairs:
        raise UserError(f"{folder} learned from all {len(reading.pairs):,} pairs", "pairs that it never saw", "give others")
    if is_extractor(folder):
        return _measure_extractor(Extractor.open(folder), pairs, recipe)
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import Tokenizer

    precision: Precision = "bfloat16" if machine.probe().bfloat16_pays else "float32"  # as in the tuning
    return _judge(Writer.open(folder, load_model(folder, precision), Tokenizer.open(folder), SUMMARIZE.task), pairs, recipe)
