"""Speech to text: the rules of times held against transformers', windows, silence, loops, languages; and real speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

import myna
import myna.api
from myna.cli.main import main
from myna.data.audio import RATE, log_mel, read_audio
from myna.errors import UserError
from myna.fetch import data_directory
from myna.metrics.speech import word_error_rate
from myna.models.fetched import resolve_model
from myna.models.whisper import Speech
from myna.tasks.options import TranscribeOptions
from myna.tasks.transcribe import Heard, restrict, transcribe
from tests.tasks.whispers import write_noise, write_whisper

END, START, NO_SPEECH, WITHOUT = 90, 91, 98, 99
FIRST = WITHOUT + 1
V = FIRST + 1501
SPEECH = Speech(no_timestamps_token_id=WITHOUT, suppress_tokens=(START, NO_SPEECH, 7), begin_suppress_tokens=(3, END),
                max_initial_timestamp_index=50)
A_TALE = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch
of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it was the spring of hope, it was the
winter of despair, we had everything before us, we had nothing before us, we were all going direct to Heaven, we were all going direct the
other way - in short, the period was so far like the present period, that some of its noisiest authorities insisted on its being received,
for good or for evil, in the superlative degree of comparison only."""  # Charles Dickens, A Tale of Two Cities (1859), chapter 1


def time(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


def test_the_rules_are_those_of_transformers() -> None:
    rng = np.random.default_rng(0)
    config = GenerationConfig(eos_token_id=END, no_timestamps_token_id=WITHOUT, max_initial_timestamp_index=50)
    processors = [SuppressTokensLogitsProcessor(list(SPEECH.suppress_tokens)), SuppressTokensAtBeginLogitsProcessor([3, END], 1),
                  WhisperTimeStampLogitsProcessor(config, begin_index=1)]
    kinds = set()
    for trial in range(300):
        said, at = [], 0.0
        for _ in range(rng.integers(0, 4)):
            said += [time(at), *rng.integers(8, 80, rng.integers(1, 4)).tolist()]
            at += float(rng.integers(1, 300)) * 0.02
            said += [time(at)] if rng.random() < 0.8 else []
        said = said[: rng.integers(0, len(said) + 1)]
        logits = rng.normal(0, 3, V).astype(np.float32)
        logits[FIRST:] -= rng.choice([0, 9])
        scores = torch.tensor(logits).log_softmax(-1)[None]
        expected = scores.clone()
        for process in processors:
            expected = process(torch.tensor([[START, *said]]), expected)
        got = restrict(scores[0].numpy(), said, SPEECH, END)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected[0].numpy()), err_msg=f"{trial} {said}")
        kinds.add((bool(np.isfinite(got[:FIRST]).any()), bool(np.isfinite(got[FIRST:]).any())))
    assert len(kinds) == 3  # words alone, times alone, both


class Words:
    """A tokenizer whose ids below 90 are words."""

    def decode(self, ids: list[int]) -> str:
        return "".join(f" w{id}" for id in ids)


class Scripted:
    """A model that says of each sound what a script has for its loudness, in tenths: `Whisper`'s methods and nothing else."""

    max_columns, vocab_size, max_length, separator_id = 3000, V, 448, END

    def __init__(self, script: dict[int, list[int]], speech: Speech = SPEECH, no_speech: float = 0.0, sure: float = 0.99) -> None:
        self.script, self.speech, self.no_speech, self.sure = script, speech, no_speech, sure
        self.config = type("Config", (), {"num_mel_bins": 80, "decoder_start_token_id": START})
        self.prompts: list[list[int]] = []
        self.heard: list[np.ndarray] = []

    def hear(self, features: np.ndarray) -> int:
        self.heard.append(features)
        return len(self.heard)

    def begin(self, hidden: int, rows: int = 1) -> Any:
        return _ScriptedState(hidden)

    def step(self, ids: Any, state: Any, last: bool = True) -> np.ndarray:
        state.said += ids[0]
        if not state.prompt:
            state.prompt = len(ids[0])
            self.prompts.append(list(ids[0]))
        script = [*self.script[state.hidden], END]
        out = np.full((len(ids), len(ids[0]), V), np.log((1 - self.sure) / V), dtype=np.float32)
        out[:, -1, script[min(len(state.said) - state.prompt, len(script) - 1)]] = np.log(self.sure)
        out[:, 0, NO_SPEECH] = np.log(self.no_speech + 1e-9)
        return out[:, -1] if last else out


class _ScriptedState:
    def __init__(self, hidden: int) -> None:
        self.hidden, self.said, self.prompt = hidden, [], 0  # type: ignore[var-annotated]

    @property
    def lengths(self) -> list[int]:
        return [len(self.said)]

    def select(self, rows: Any) -> None:
        assert list(rows) == [0]


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def run(model: Scripted, samples: np.ndarray, **options: Any) -> Any:
    return transcribe(model, Words(), samples, TranscribeOptions(**options))  # type: ignore[arg-type]


def spans(transcript: Any) -> list[tuple[float, float, str]]:
    return [(round(segment.start, 2), round(segment.end, 2), segment.text) for segment in transcript.segments]


def test_the_next_window_begins_where_the_last_whole_sentence_ended() -> None:
    model = Scripted({1: [time(0), 10, 11, time(12), time(12.5), 12, time(20), time(20), 13],
                      2: [time(0.5), 13, 14, time(9), time(9), 15, time(16)]})
    samples = noise(40)
    found = run(model, samples)
    assert spans(found) == [(0, 12, " w10 w11"), (12.5, 20, " w12"), (20.5, 29, " w13 w14"), (29, 36, " w15")]
    assert str(found) == "w10 w11 w12 w13 w14 w15" and model.prompts == [[START]] * 2
    np.testing.assert_array_equal(model.heard[1], log_mel(samples[20 * RATE :]))


@pytest.mark.parametrize(("says", "expected"), [
    ([time(0), 10, time(3)], [(0, 3, " w10")]),  # closed: the rest of the window is silent
    ([time(0), 10, 11], [(0, 8, " w10 w11")]),  # never closed: to the window's end
    ([time(1), 10, time(28)], [(1, 8, " w10")]),  # a time beyond the recording
    ([time(0)], []),  # no words
], ids=["closed", "open", "beyond", "empty"])
def test_a_short_recording_is_done_in_one_window(says: list[int], expected: list[Any]) -> None:
    model = Scripted({1: says})
    assert spans(run(model, noise(8))) == expected and len(model.heard) == 1


def test_silence_is_not_heard_and_no_speech_gives_no_text() -> None:
    quiet = run(Scripted({}), np.full(35 * RATE, 5e-5, np.float32))
    assert not quiet.segments and quiet.silent_seconds == 35 and str(quiet) == ""
    model = Scripted({1: [time(0), 10, time(3)]}, no_speech=0.9, sure=0.05)  # unlikely, and a mark that says why
    noisy = run(model, noise(8))
    assert not noisy.segments and noisy.silent_seconds == 8 and len(model.prompts) == 1
    sure = run(Scripted({1: [time(0), 10, time(3)]}, no_speech=0.9), noise(8))
    assert len(sure.segments) == 1 and sure.silent_seconds == 0


def test_a_loop_is_drawn_again_and_counted() -> None:
    model = Scripted({1: [time(0), *[10] * 150, time(3)]})
    found = run(model, noise(8))
    assert (found.drawn_again, found.doubtful, len(model.prompts)) == (1, 1, 6)
    assert run(Scripted({1: [time(0), *range(10, 60), time(3)]}), noise(8)).drawn_again == 0


LANGUAGES = {"lang_to_id": {"<|en|>": 92, "<|zh|>": 93}, "task_to_id": {"transcribe": 94, "translate": 95}}


def test_a_model_of_several_languages_is_told_or_asked() -> None:
    speech = Speech(no_timestamps_token_id=WITHOUT, **LANGUAGES)  # type: ignore[arg-type]
    model = Scripted({1: [time(0), 10, time(3)]}, speech)
    assert run(model, noise(8), language="zh", task="translate").language == "zh" and model.prompts == [[START, 93, 95]]
    asked = Scripted({1: [93, 10]}, speech)  # the likeliest after the start mark is <|zh|>
    assert run(asked, noise(8)).language == "zh" and asked.prompts[:2] == [[START], [START, 93, 94]]
    with pytest.raises(UserError, match=r"unknown language 'zn' .did you mean zh"):
        run(model, noise(8), language="zn")
    with pytest.raises(UserError, match="English alone"):
        run(Scripted({1: []}), noise(8), language="zh")
    with pytest.raises(UserError, match="no_timestamps_token_id"):
        run(Scripted({1: []}, Speech()), noise(8))
    with pytest.raises(UserError, match="no_timestamps_token_id"):
        run(Scripted({1: []}, Speech(no_timestamps_token_id=FIRST)), noise(8))


def test_beams_keep_to_the_rules_as_well() -> None:
    class Rows(Scripted):
        def step(self, ids: Any, state: Any, last: bool = True) -> np.ndarray:
            rows = [super(Rows, self).step([new], part, last) for new, part in zip(ids, state.parts, strict=True)]
            return np.concatenate(rows)

        def begin(self, hidden: int, rows: int = 1) -> Any:
            return _Parts([_ScriptedState(hidden) for _ in range(rows)])

    class _Parts:
        def __init__(self, parts: list[Any]) -> None:
            self.parts = parts

        def select(self, rows: Any) -> None:
            copies = []
            for row in rows:
                copy = _ScriptedState(self.parts[row].hidden)
                copy.said, copy.prompt = list(self.parts[row].said), self.parts[row].prompt
                copies.append(copy)
            self.parts = copies

    found = run(Rows({1: [7, 10, 11, time(2), time(2), 12, time(4)]}), noise(8), num_beams=3)
    first = found.segments[0]
    assert first.text.endswith("w12") or first.text == " w10 w11" or " w11" in first.text
    assert " w7" not in str(found) and first.end <= 8


# ---- real weights ----

@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return resolve_model("whisper-tiny")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_real_weights_are_those_that_transformers_opens(folder: Path) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    mine = myna.load(folder)
    sound = log_mel(noise(30) * np.linspace(0, 1, 30 * RATE, dtype=np.float32))
    text = [50257, 50362, *mine.tokenizer.encode(" It was the best of times")]
    with torch.no_grad():
        expected = theirs(input_features=torch.tensor(sound[None]), decoder_input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
    got = mine.model.step([text], mine.model.start(1, sound), last=False)[0]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-3)
    processor = WhisperProcessor.from_pretrained(folder)
    heard = processor(noise(3), sampling_rate=RATE, return_tensors="np").input_features[0]
    np.testing.assert_allclose(log_mel(noise(3)), heard, atol=1e-4)
    assert processor.tokenizer.decode(text, skip_special_tokens=True) == mine.tokenizer.decode(text) == " It was the best of times"
    assert theirs.generation_config.suppress_tokens == list(mine.model.speech.suppress_tokens)


@pytest.mark.slow
def test_real_speech_is_written_down(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordings = sorted(data_directory().glob("**/two_cities.wav"))
    if not recordings:
        pytest.skip("two_cities.wav of package moonshine-voice has not been fetched")
    (tmp_path / "reference.txt").write_text(A_TALE, encoding="utf-8")
    assert main(["transcribe", str(folder), str(recordings[0]), "--reference", str(tmp_path / "reference.txt"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert word_error_rate(A_TALE, found["files"][0]["text"]).rate <= 0.15
    assert found["report"]["word_error_rate"]["value"] <= 0.15
    segments = found["files"][0]["segments"]
    assert 8 < len(segments) < 20 and all(0 <= segment["start"] < segment["end"] <= 44.4 for segment in segments)
    assert "resampled 48,000 Hz to 16,000 Hz" in err and "44.4 s of sound in" in err


def test_the_command_says_what_is_silent_and_what_does_not_hear(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import wave

    with wave.open(str(tmp_path / "silent.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(2 * RATE))
    assert main(["transcribe", str(folder), str(tmp_path / "silent.wav"), "--timestamps"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "" and "silent.wav: no speech was heard" in err
    assert main(["transcribe", str(folder), str(tmp_path / "none.wav")]) == 2
    assert main(["transcribe", str(folder), str(tmp_path / "silent.wav"), "--num-beams", "0"]) == 2
    assert main(["generate", str(folder), "Once"]) == 2
    assert "myna transcribe" in capsys.readouterr().err
    samples = read_audio(tmp_path / "silent.wav")
    model = myna.load(folder).model
    heard = Heard(model, model.hear(log_mel(samples)))
    heard.step([[50257]], heard.start())
    assert heard.no_speech > 0.3  # silence does sound like no speech


def test_a_model_that_does_not_hear_is_named() -> None:
    deaf = myna.api.Model(Path("my-model"), object(), None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="my-model holds a model that does not hear"):
        deaf.transcribe("a.wav")


def test_the_command_goes_all_the_way_on_a_model_that_was_never_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, noisy = write_whisper(tmp_path / "whisper"), write_noise(tmp_path / "noise.wav", 1.5)
    silent = write_noise(tmp_path / "silent.wav", loudness=0.0)
    (tmp_path / "reference.txt").write_text(A_TALE, encoding="utf-8")
    assert main(["transcribe", str(folder), str(noisy), "--reference", str(tmp_path / "reference.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0]["seconds"] == 1.5 and found["report"]["word_error_rate"]["value"] > 0.5
    assert main(["transcribe", str(folder), str(silent)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "" and "silent.wav: no speech was heard" in err
    (tmp_path / "short.txt").write_text("Two words", encoding="utf-8")
    for wrong, said in (([str(noisy), "--reference", str(tmp_path / "short.txt")], "a reference of 2 words"), (["none.wav"], "none.wav"),
                        ([str(tmp_path / "reference.txt")], "reference.txt"), ([str(noisy), "--language", "zh"], "English")):
        assert main(["transcribe", str(folder), *wrong]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
