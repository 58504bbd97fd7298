"""Error rates of recordings: equal to jiwer's, beside greedy decoding, with an interval over recordings or over one's blocks."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myna.evaluate.speech
from myna.cli.main import main
from myna.data.recordings import Recording, RecordingReading
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.evaluate.speech import measure_speech
from myna.metrics.speech import normalize_words
from myna.tasks.options import TranscribeOptions
from myna.tasks.transcribe import Segment, Transcript
from tests.tasks.whispers import write_noise, write_whisper

RESAMPLES = EvaluateOptions(resamples=200)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], str]:
    """What a model says of a path with so many beams; nothing is heard."""
    script: dict[tuple[str, int], str] = {}
    now = [""]

    def read(path: Path, tell: Any = None) -> np.ndarray:
        now[0] = path.name
        if "damaged" in path.name:
            raise UserError(f"{path} cannot be read")
        tell("resampled 8,000 Hz to 16,000 Hz")
        return np.zeros(16_000, np.float32)

    def transcribe(model: Any, tokenizer: Any, samples: Any, options: TranscribeOptions, advance: Any = None) -> Transcript:
        return Transcript([Segment(0, 1, script[now[0], options.num_beams])], seconds=2.0)

    monkeypatch.setattr(myna.evaluate.speech, "read_audio", read)
    monkeypatch.setattr(myna.evaluate.speech, "transcribe", transcribe)
    return script


def measure(texts: dict[str, str], num_beams: int = 1, skip_bad: bool = False) -> Any:
    reading = RecordingReading([Recording(Path(name), text, f"rows:{name}") for name, text in texts.items()])
    return measure_speech(None, None, reading, TranscribeOptions(num_beams=num_beams), RESAMPLES, skip_bad)  # type: ignore[arg-type]


def test_the_rates_are_those_of_jiwer_and_beams_stand_beside_greedy(says: dict[tuple[str, int], str]) -> None:
    jiwer = pytest.importorskip("jiwer")
    rng = random.Random(0)
    words = ["the", "time", "天", "气", "best", "of"]
    texts = {f"{number}.wav": " ".join(rng.choices(words, k=rng.randint(3, 12))) for number in range(30)}
    for name, text in texts.items():
        for beams, share in ((5, 0.1), (1, 0.4)):
            says[name, beams] = " ".join(rng.choice(words) if rng.random() < share else word for word in text.split())
    measured = measure(texts, 5)
    for beams, scores in ((5, measured.report.metrics), (1, measured.report.baseline_metrics)):
        cut = [[" ".join(normalize_words(text)) for text in side] for side in (texts.values(), (says[name, beams] for name in texts))]
        assert scores["word_error_rate"].value == pytest.approx(jiwer.wer(*cut))
        plain = [[text.replace(" ", "") for text in side] for side in cut]
        assert scores["character_error_rate"].value == pytest.approx(jiwer.cer(*plain))
        assert scores["word_error_rate"].low < scores["word_error_rate"].value < scores["word_error_rate"].high
    assert measured.report.baseline == "greedy" and measured.report.improvements["word_error_rate"].low > 0
    theirs = jiwer.process_words(*[[" ".join(normalize_words(text)) for text in side]
                                   for side in (texts.values(), (says[name, 5] for name in texts))])
    details = measured.details
    for kind in ("substitutions", "deletions", "insertions"):
        assert details[kind] == getattr(theirs, kind)
    assert details["recordings"] == 30 and details["seconds"] == 60
    assert details["worst"][0]["word_error_rate"] >= details["worst"][1]["word_error_rate"] > details["best"][0]["word_error_rate"]
    assert "unit=recording" in measured.report.metrics["word_error_rate"].signature


def test_numbers_and_script_are_folded_and_the_signature_says_so(says: dict[tuple[str, int], str]) -> None:
    pytest.importorskip("opencc")
    says["a.wav", 1], says["b.wav", 1] = "他买了123本书", "天气很好"
    report = measure({"a.wav": "他買了一百二十三本書。", "b.wav": "天氣很好"}).report
    assert report.metrics["word_error_rate"].value == 0 == report.metrics["character_error_rate"].value
    signature = report.metrics["word_error_rate"].signature
    assert "numbers=digits" in signature and "variants=simplified" in signature


def test_without_opencc_the_variants_stay_and_this_is_said(says: dict[tuple[str, int], str], monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opencc", None)
    says["a.wav", 1], says["b.wav", 1] = "书", "天"
    report = measure({"a.wav": "書", "b.wav": "天"}).report
    assert report.metrics["word_error_rate"].value == 0.5 and "variants=kept" in report.metrics["word_error_rate"].signature
    assert 'pip install "myna[speech]"' in capsys.readouterr().err


def test_one_recording_is_cut_into_blocks_and_few_are_called_few(says: dict[tuple[str, int], str]) -> None:
    text = "it was the best of times it was the worst of times " * 5
    says["a.wav", 1] = text.replace("worst", "first", 2)
    measured = measure({"a.wav": text})
    score = measured.report.metrics["word_error_rate"]
    assert score.value == pytest.approx(2 / 60) and score.low < score.high and "block=5words" in score.signature
    assert any("only recording" in line for line in measured.lines)
    says["b.wav", 1] = "so"
    assert any("2 recordings are few" in line for line in measure({"a.wav": text, "b.wav": "so"}).lines)
    with pytest.raises(UserError, match="one recording of a few words"):
        measure({"b.wav": "so"})


def test_what_cannot_be_used_is_said_or_counted(says: dict[tuple[str, int], str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.wav", "b.wav"):
        says[name, 1] = "one two"
    texts = {"a.wav": "one two", "damaged.wav": "x", "b.wav": "one too", "c.wav": "..."}
    with pytest.raises(UserError, match=r"rows:damaged\.wav: damaged\.wav cannot be read.*--skip-bad"):
        measure(texts)
    measured = measure(texts, skip_bad=True)
    said = capsys.readouterr().err
    assert measured.details["recordings"] == 2 and measured.report.metrics["word_error_rate"].value == 0.25
    assert "1 recordings that cannot be read passed over" in said and "1 texts without words dropped" in said
    assert "2 recordings resampled 8,000 Hz to 16,000 Hz" in said
    with pytest.raises(UserError, match="no recording was left"):
        measure({"damaged.wav": "x"}, skip_bad=True)


def test_the_command_goes_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = write_whisper(tmp_path / "whisper"), tmp_path / "data"
    data.mkdir()
    for name in ("one", "two"):
        shutil.move(write_noise(tmp_path / f"{name}.wav", 0.6), data / f"{name}.wav")
        (data / f"{name}.txt").write_text("the best of times", encoding="utf-8")
    assert main(["evaluate", str(folder), str(data), "--task", "transcribe", "--num-beams", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baseline"]["name"] == "greedy" and found["word_error_rate"]["value"] > 0.5 and found["details"]["num_beams"] == 2
    assert main(["evaluate", str(folder), str(data), "--task", "transcribe"]) == 0
    out = capsys.readouterr().out
    assert "word error rate" in out and "no baseline: --num-beams 5" in out and "worst:" in out
