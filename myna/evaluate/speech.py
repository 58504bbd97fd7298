"""Measure a speech model on recordings: word and character error rate, beside greedy decoding where beams are searched, and its speed.

Texts are compared in lower case without punctuation, numbers in digits, Chinese in simplified characters a word each; the signature says
so (`myna.metrics.speech.Folding`). The interval is the bootstrap over recordings; of one recording alone over blocks of its words.

    measured = measure_speech(model, tokenizer, read_recordings([Path("speech/")], RowsOptions()), TranscribeOptions(), EvaluateOptions())
    measured.report.metrics["word_error_rate"].value, measured.details["worst"]

N recordings
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.console import say, track
from myna.data.audio import read_audio
from myna.data.recordings import Recording, RecordingReading
from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report
from myna.metrics.speech import Folding, block_words, count_blocks, count_edits, normalize_characters, normalize_words
from myna.tasks.options import TranscribeOptions
from myna.tasks.transcribe import transcribe

if TYPE_CHECKING:
    from myna.models.whisper import Whisper
    from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

_EXAMPLES, _SHOWN = 5, 3  # recordings kept at each end, and shown
_CHARACTERS = 300  # of each of their texts
_FEW = 10  # own choice: recordings below which the bootstrap's interval is called rough
_UNITS: tuple[tuple[str, str, Callable[[str, Folding], list[str]]], ...] = (
    ("word_error_rate", "word", normalize_words), ("character_error_rate", "character", normalize_characters))


@dataclass(frozen=True)
class Heard:
    """A recording and what the model wrote of it, searched as asked and, where that is with beams, greedily."""

    recording: Recording
    text: str
    greedy: str | None
    seconds: float
    "Of sound."
    took: tuple[float, float]
    "Seconds that each way took."


def find_folding(texts: Sequence[str]) -> Folding:
    """Choose how texts are compared: numbers in digits, Chinese in simplified characters where `opencc` is there; else this is said."""
    if not any("\u4e00" <= character <= "\u9fff" for text in texts for character in text):
        return Folding(numbers=True)
    try:
        import opencc
    except ImportError:
        say('traditional and simplified Chinese count as different: pip install "myna[speech]" makes them one')
        return Folding(numbers=True)
    return Folding(numbers=True, to_simplified=opencc.OpenCC("t2s").convert)


def measure_speech(model: Whisper, tokenizer: Tokenizer, reading: RecordingReading, speaking: TranscribeOptions, options: EvaluateOptions,
                   skip_bad: bool = False) -> Measured:
    """Transcribe recordings and compare with their texts.

    Raises UserError when a recording cannot be read, unless `skip_bad`, or there is too little to measure.
    """
    folding = find_folding([one.text for one in reading.recordings])
    given = [one for one in reading.recordings if normalize_words(one.text, folding)]
    for one in reading.recordings:
        if one not in given:
            reading.notes.note("texts without words dropped", one.where)
    heard = _hear(model, tokenizer, given, speaking, reading, skip_bad)
    for line in reading.notes.said():
        say(f"  {line}")
    if not heard:
        raise UserError("no recording was left to measure on", "recordings with what is said in them")
    report, baseline = Report({}), "greedy" if speaking.num_beams > 1 else ""
    for name, unit, normalize in _UNITS:
        rows, beside, per = _count(heard, lambda text, normalize=normalize: normalize(text, folding), unit)  # type: ignore[misc]
        how = f"{name}|per={unit}|{folding.signature}|bootstrap={options.resamples}|{per}|seed={options.seed}|v1"
        if len(rows) < 2:
            raise UserError("one recording of a few words", "two recordings, or one of at least 10 words, for an interval",
                            "give more speech")
        # blocks of words are not blocks of characters, so each rate is resampled alone
        measure = Measure(rows, ratio, how, beside, lower_is_better=True)
        report = _join(report, measured_report({name: measure}, baseline, options.resamples, options.seed))
    details = _describe(heard, folding, speaking)
    return Measured(report, details, _say(details))


def _join(one: Report, other: Report) -> Report:
    return Report(one.metrics | other.metrics, other.baseline, one.baseline_metrics | other.baseline_metrics,
                  one.differences | other.differences, one.improvements | other.improvements)


def _hear(model: Whisper, tokenizer: Tokenizer, given: Sequence[Recording], speaking: TranscribeOptions, reading: RecordingReading,
          skip_bad: bool) -> list[Heard]:
    """Transcribe each recording; what was changed of them is counted in the reading's notes."""
    heard: list[Heard] = []
    changes: Counter[str] = Counter()
    passes = [speaking, dataclasses.replace(speaking, num_beams=1)][: 2 if speaking.num_beams > 1 else 1]
    with track("transcribing", len(given), " recordings") as advance:
        for one in given:
            try:
                samples = read_audio(one.path, lambda change: changes.update([change]))
            except UserError as error:
                if not skip_bad:
                    raise UserError(f"{one.where}: {error}", "", "mend it, or pass over such recordings with --skip-bad") from None
                reading.notes.note("recordings that cannot be read passed over", f"{one.where}: {error.got}")
                continue
            texts, took = [], []
            for way in passes:
                began = time.monotonic()
                transcript = transcribe(model, tokenizer, samples, way, advance=lambda seconds: None)
                texts.append(str(transcript))
                took.append(time.monotonic() - began)
            heard.append(Heard(one, texts[0], texts[1] if len(texts) > 1 else None, transcript.seconds, (took[0], took[-1])))
            advance(1)
    for change, count in changes.items():
        say(f"  {_counted(count)} {change}")
    return heard


def _count(heard: Sequence[Heard], cut: Callable[[str], list[str]], unit: str) -> tuple[Array, Array | None, str]:
    """Return (edits, length) of each recording, or of each block of the only one, the same of the greedy texts, and the item's name."""
    def rows(hypotheses: Sequence[str]) -> Array:
        pairs = [(cut(one.recording.text), cut(text)) for one, text in zip(heard, hypotheses, strict=True)]
        if len(pairs) == 1:
            return np.array(count_blocks(*pairs[0], block_words(len(pairs[0][0]))))
        return np.array([(count_edits(*pair).edits, len(pair[0])) for pair in pairs])

    per = "unit=recording" if len(heard) > 1 else f"block={block_words(len(cut(heard[0].recording.text)))}{unit}s"
    greedy = [one.greedy for one in heard if one.greedy is not None]
    return rows([one.text for one in heard]), rows(greedy) if greedy else None, per


def _describe(heard: Sequence[Heard], folding: Folding, speaking: TranscribeOptions) -> dict[str, Any]:
    """Tell of each recording, of the edits of all, and of the speed."""
    rates = [count_edits(normalize_words(one.recording.text, folding), normalize_words(one.text, folding)) for one in heard]
    order = sorted(range(len(heard)), key=lambda at: (rates[at].rate, -rates[at].length))
    seconds, took = sum(one.seconds for one in heard), [sum(one.took[way] for one in heard) for way in (0, 1)]

    def show(at: int) -> dict[str, Any]:
        one = heard[at]
        return {"path": str(one.recording.path), "where": one.recording.where, "seconds": one.seconds,
                "word_error_rate": rates[at].rate, "reference": one.recording.text[:_CHARACTERS], "transcript": one.text[:_CHARACTERS]}

    return {"recordings": len(heard), "words": sum(rate.length for rate in rates), "seconds": seconds, "num_beams": speaking.num_beams,
            "substitutions": sum(rate.substitutions for rate in rates), "deletions": sum(rate.deletions for rate in rates),
            "insertions": sum(rate.insertions for rate in rates), "without_error": sum(rate.edits == 0 for rate in rates),
            "seconds_of_sound_a_second": seconds / max(took[0], 1e-9),
            **({"greedy_seconds_of_sound_a_second": seconds / max(took[1], 1e-9)} if heard[0].greedy is not None else {}),
            "best": [show(at) for at in order[:_EXAMPLES]], "worst": [show(at) for at in order[::-1][:_EXAMPLES]]}


def _counted(count: int) -> str:
    return f"{count:,} recording{'' if count == 1 else 's'}"


def _say(details: dict[str, Any]) -> list[str]:
    """Say in lines what lies behind the scores."""
    speed = f"{details['seconds_of_sound_a_second']:.1f} s of sound a second"
    if "greedy_seconds_of_sound_a_second" in details:
        speed += f" with {details['num_beams']} beams, {details['greedy_seconds_of_sound_a_second']:.1f} greedily"
    lines = [f"{_counted(details['recordings'])}, {details['words']:,} words, {details['seconds']:,.1f} s of sound; {speed}",
             f"{details['substitutions']:,} words written otherwise, {details['deletions']:,} left out, {details['insertions']:,} added; "
             f"{_counted(details['without_error'])} without an error"]
    if details["recordings"] < _FEW:
        lines.append("the interval is over blocks of the only recording's words: it says nothing of other recordings"
                     if details["recordings"] == 1 else f"{details['recordings']} recordings are few: the interval is rough")
    if details["num_beams"] == 1:
        lines.append("no baseline: --num-beams 5 searches with beams, and greedy decoding then stands beside")
    for name in ("best", "worst"):
        lines.append(f"{name}:")
        for row in details[name][:_SHOWN]:
            lines += [f"  {row['word_error_rate']:.3f} {row['path']}", f"    said:    {' '.join(row['reference'].split())[:66]}",
                      f"    written: {' '.join(row['transcript'].split())[:66]}"]
    return lines
