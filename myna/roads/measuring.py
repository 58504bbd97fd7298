"""Measure models at tasks they do as they are, without having been tuned for them: transcribe, generate, fill.

    evaluate_speech(Path("whisper-tiny"), [Path("speech/")], TuneRecipe(), TranscribeOptions()).report.metrics["word_error_rate"].value
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.models.precision import Precision
from myna.recipe import TuneRecipe
from myna.tasks.options import TranscribeOptions


def evaluate_speech(folder: Path, data: Sequence[Path], recipe: TuneRecipe, speaking: TranscribeOptions) -> Measured:
    """Measure a Whisper directory on recordings with their texts."""
    from myna.api import load
    from myna.data.recordings import read_recordings
    from myna.evaluate.speech import measure_speech

    opened = load(folder)
    opened.check_hears()
    reading = read_recordings(data, recipe.rows)
    return measure_speech(opened.model, opened.tokenizer, reading, speaking, recipe.evaluate, recipe.rows.skip_bad)


def evaluate_writing(folder: Path, data: Sequence[Path], recipe: TuneRecipe, member: str | None, precision: Precision) -> Measured:
    """Measure how a model goes on with texts it was not built from, beside the n-gram of its directory."""
    from myna.api import load
    from myna.evaluate.files import leave_out_seen, open_text
    from myna.evaluate.writing import measure_writing
    from myna.models.ngram import Ngram
    from myna.tokenizer.tokenizer import Tokenizer

    opened, beside = load(folder, member, precision), folder / "ngram"
    model, rules = opened.language_model, opened.rules
    baseline = Ngram.open(beside) if beside.is_dir() else None
    words = Tokenizer.open(beside) if baseline else None
    with open_text(leave_out_seen(folder, data)) as text:
        return measure_writing(model, opened.tokenizer, rules, text, baseline, words, recipe.evaluate)


def evaluate_filling(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure how an encoder fills blanks in texts it was not built from, beside the n-gram of its directory."""
    from myna.api import load
    from myna.evaluate.files import leave_out_seen, open_text
    from myna.evaluate.filling import measure_filling
    from myna.models.ngram import Ngram

    opened, beside = load(folder), folder / "ngram"
    if not hasattr(opened.model, "masked_log_probs"):
        raise UserError(f"{folder} holds a model that fills no blanks ({type(opened.model).__name__})", "an encoder with its head",
                        "make one with myna build --family encoder")
    with open_text(leave_out_seen(folder, data)) as text:
        return measure_filling(opened.model, opened.tokenizer, text, Ngram.open(beside) if beside.is_dir() else None, recipe.evaluate)
