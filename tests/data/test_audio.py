"""Sound files: every kind of WAV, a resampler held against scipy's, the spectrogram of transformers, and headers that lie."""

from __future__ import annotations

import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from myna.data.audio import RATE, log_mel, phase_weights, read_audio, resample
from myna.errors import UserError
from tests.docs_code import load_block


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def wav(samples: bytes, kind: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, extra: bytes = b"",
        size: int | None = None) -> bytes:
    fmt = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * bits // 8 % 2**32, channels * bits // 8 % 2**16, bits) + extra
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    body += b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    return b"RIFF" + struct.pack("<I", len(body) % 2**32) + body


def coded(values: np.ndarray, kind: int, bits: int) -> bytes:
    if kind == 3:
        return values.astype(f"<f{bits // 8}").tobytes()
    whole = np.round(values.astype(np.float64) * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype("<u1").tobytes()
    return b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in whole)


@pytest.mark.parametrize(("kind", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_kind_of_wav_gives_its_samples(kind: int, bits: int, tmp_path: Path) -> None:
    values = tone(RATE, 0.05)
    (tmp_path / "a.wav").write_bytes(wav(coded(values, kind, bits), kind, bits=bits))
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), values, atol=2.0 ** (2 - bits) if kind == 1 and bits < 24 else 1e-6)
    guid = struct.pack("<HHIH", 22, bits, 4, kind) + bytes.fromhex("000000001000800000aa00389b71")
    (tmp_path / "b.wav").write_bytes(wav(coded(values, kind, bits), 0xFFFE, bits=bits, extra=guid))
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav"), read_audio(tmp_path / "a.wav"))


def test_the_standard_librarys_files_are_read_and_channels_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = tone(RATE), tone(RATE, hertz=1000)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.stack((left, right), 1) * 32767).round().astype("<i2").tobytes())
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-4)
    assert capsys.readouterr().err == "a.wav: averaged 2 channels\n"


@pytest.mark.parametrize("rate", [48000, 44100, 22050, 11025, 8000])
def test_a_change_of_rate_is_said_and_is_scipys(rate: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(0, 0.1, rate // 2 + 17).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(wav(values.tobytes(), 3, rate=rate, bits=32))
    got = read_audio(tmp_path / "a.wav")
    assert capsys.readouterr().err == f"a.wav: resampled {rate:,} Hz to 16,000 Hz\n"
    signal = pytest.importorskip("scipy.signal")
    up, down = RATE // np.gcd(rate, RATE), rate // np.gcd(rate, RATE)
    weights = phase_weights(int(up), int(down))
    half = weights.shape[1] // 2
    prototype = np.zeros(2 * half * up + 1)  # the rows of the table, laid out as one filter at `up` times the rate
    for row in range(up):
        prototype[half * up - (np.arange(1 - half, half + 1) * up - row)] = weights[row]
    expected = signal.resample_poly(values.astype(np.float64), up, down, window=prototype / up)
    assert len(got) == len(expected) == -(-len(values) * up // down)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [48000, 44100, 8000])
def test_what_is_heard_passes_and_what_is_not_does_not(rate: int) -> None:
    for hertz in (300, 1000, 3000):
        got = resample([tone(rate, hertz=hertz)], rate)[400:-400]
        np.testing.assert_allclose(got, tone(RATE, hertz=hertz)[400 : 400 + len(got)], atol=5e-4)
    if rate > RATE:
        assert np.abs(resample([tone(rate, hertz=9000)], rate)[400:-400]).max() < 1e-4
    values = tone(rate, 1.3)
    for pieces in (2, 7):  # blocks change nothing, but for the last bit of a sum
        np.testing.assert_allclose(resample(np.array_split(values, pieces), rate), resample([values], rate), atol=1e-6)
    assert len(resample([values[:1]], rate)) == -(-RATE // rate) and len(resample([], rate)) == 0


@pytest.mark.parametrize("bands", [80, 128])
def test_the_spectrogram_is_that_of_transformers(bands: int) -> None:
    rng = np.random.default_rng(1)
    extractor = WhisperFeatureExtractor(feature_size=bands)
    spoken = np.concatenate((tone(RATE, 2), np.zeros(RATE), tone(RATE, 1, 3000, 0.01)))
    for samples in (rng.normal(0, 0.1, 30 * RATE), spoken, np.zeros(RATE)):
        samples = samples.astype(np.float32)
        expected = extractor(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
        np.testing.assert_allclose(log_mel(samples, bands), expected, atol=1e-4)
    with pytest.raises(ValueError, match="480,001 samples"):
        log_mel(np.zeros(480_001))


def test_the_spectrogram_is_that_of_the_documentation() -> None:
    block = load_block("docs/families/whisper.md")
    samples = np.random.default_rng(2).normal(0, 0.1, RATE) * np.linspace(0, 1, RATE)
    np.testing.assert_allclose(log_mel(samples, columns=100), block.log_mel(samples), atol=1e-5)


SAMPLES = coded(tone(RATE, 0.05), 1, 16)


@pytest.mark.parametrize(("raw", "said"), [
    (wav(SAMPLES, rate=0), "1 channels at 0 Hz"), (wav(SAMPLES, rate=2**32 - 1), "at 4,294,967,295 Hz"),
    (wav(SAMPLES, channels=0), "0 channels of 16 bits"), (wav(SAMPLES, channels=4000), "4,000 channels"),
    (wav(SAMPLES, size=len(SAMPLES) + 2), "is cut: 1,602 bytes"), (wav(SAMPLES, size=2**32 - 2), "is cut: 4,294,967,294"),
    (wav(SAMPLES, kind=85), "format 85"), (wav(SAMPLES, bits=12), "12 bits"),
    (wav(b""), "holds no samples"), (wav(b"\1"), "holds no samples"),
    (wav(np.float32([0.5, np.nan]).tobytes(), 3, bits=32), "no numbers"), (wav(np.float64([1e300]).tobytes(), 3, bits=64), "no numbers"),
    (wav(SAMPLES)[:40], "ends before its samples"), (wav(SAMPLES)[:20], "a chunk of 16 bytes where 0"), (wav(SAMPLES)[:12], "ends before"),
    (b"RIFF\0\0\0\0WAVE" + b"junk" + struct.pack("<I", 2**31), "a chunk of 2,147,483,648 bytes"),
    (b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 20_000, "more than 10,000 chunks"),
    (b"RIFF\0\0\0\0WAVE" + b"data\4\0\0\0abcd", "does not describe"), (b"RIFF\0\0\0\0WAVE" + b"fmt \2\0\0\0ab", "in 2 bytes"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_header_that_lies_is_refused_in_one_line(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(raw)
    with pytest.raises(UserError, match=said) as caught:
        read_audio(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


def test_a_file_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.wav").write_bytes(wav(SAMPLES, size=2**32 - 1))
    assert len(read_audio(tmp_path / "a.wav")) == len(SAMPLES) // 2
    assert "does not say how long it is" in capsys.readouterr().err


def test_five_hours_are_too_long_and_nothing_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(wav(b"", rate=1000, bits=8, size=5 * 3600 * 1000))
        file.truncate(file.tell() + 5 * 3600 * 1000)
    with pytest.raises(UserError, match=r"5\.0 hours long"):
        read_audio(tmp_path / "a.wav")


def test_other_files_are_read_with_the_extra_or_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile = pytest.importorskip("soundfile")
    values = np.stack((tone(44100), tone(44100)), 1)
    for end, close in (("flac", 1e-3), ("mp3", 0.05)):
        soundfile.write(tmp_path / f"a.{end}", values, 44100)
        got = read_audio(tmp_path / f"a.{end}")
        np.testing.assert_allclose(got[500:7000], tone(RATE)[500:7000], atol=close)
    (tmp_path / "a.txt").write_text("no sound at all")
    with pytest.raises(UserError, match="a sound file: WAV, FLAC, MP3 or Ogg"):
        read_audio(tmp_path / "a.txt")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r'pip install "myna\[speech\]"'):
        read_audio(tmp_path / "a.flac")
    with pytest.raises(UserError, match="no file"):
        read_audio(tmp_path / "none.wav")


def test_an_mp3_that_was_cut_ends_where_it_was_cut_and_this_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile = pytest.importorskip("soundfile")
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile reads no MP3")
    whole = np.random.default_rng(0).normal(0, 0.1, 6 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "whole.mp3", whole, RATE)
    data = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 3])
    read = read_audio(tmp_path / "whole.mp3")
    assert abs(len(read) - len(whole)) < 0.2 * RATE and not capsys.readouterr().err
    cut = read_audio(tmp_path / "cut.mp3")
    assert RATE < len(cut) < 3 * RATE
    np.testing.assert_allclose(cut[: RATE], read[: RATE], atol=1e-3)
    assert "cut.mp3: ends after" in capsys.readouterr().err
    (tmp_path / "noise.mp3").write_bytes(b"\1" * 999)
    with pytest.raises(UserError, match=r"noise\.mp3 cannot be read"):
        read_audio(tmp_path / "noise.mp3")
