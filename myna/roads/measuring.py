"""Measure models at tasks they do as they are, without having been tuned for them: transcribe, generate, fill.

    evaluate_speech(Path("whisper-tiny"), [Path("speech/")], TuneRecipe(), TranscribeOptions()).report.metrics["word_error_rate"].value
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from myna.evaluate.measured import Measured
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
