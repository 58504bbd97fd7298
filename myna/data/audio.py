"""Sound files as what a speech model hears: any rate and channels to 16,000 Hz mono, then a log-mel spectrogram.

WAV is read here (PCM of 8, 16, 24 and 32 bits, float of 32 and 64; the RIFF format as Microsoft and IBM published it in 1991 and
extended it with WAVE_FORMAT_EXTENSIBLE); FLAC, MP3 and Ogg by `soundfile` where it is installed. What a header says is held against
the file before anything is allocated. Channels are averaged. The rate changes by a windowed sinc (J. O. Smith, "Digital Audio
Resampling", 2002), one set of weights for each of the fractions of a sample at which an output can lie.

The spectrogram is Whisper's (Radford et al. 2022, section 2.2): 80 bands of Slaney's mel scale (M. Slaney, "Auditory Toolbox", 1998)
over windows of 25 ms, one each 10 ms; logarithms to base 10, nothing lower than 8 below the loudest, shifted and scaled by 4.

    samples = read_audio(Path("speech.wav"))            # (N,) float32 at 16,000 Hz, about -1 to 1
    log_mel(samples[:30 * RATE])                        # (80, 3000) float32
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from myna.console import say
from myna.errors import UserError

Array = npt.NDArray[np.float32]

RATE = 16_000  # samples a second that the model hears; like the next two, Radford et al. 2022, section 2.2
WINDOW = 400  # samples of a window: 25 ms
HOP = 160  # samples from one window to the next: 10 ms
LONGEST = 4 * 3600  # seconds of one file: 0.9 GB as float32
_RATES = (1_000, 192_000)  # samples a second: below is no speech, above no recorder
_MOST_CHANNELS = 64
_MOST_CHUNKS = 10_000  # of a WAV file, so that one of empty chunks cannot take long
_UNKNOWN = (0, 0xFFFFFFFF)  # a data size that a program writes when it does not know the end yet, as when it writes to a pipe
_FRAMES_AT_ONCE = 1 << 16
_INEXACT = 0.01  # own choice: share of the length by which a header of a file of varying bit rate may be wrong unsaid
_KINDS = {(1, 8): "<u1", (1, 16): "<i2", (1, 24): "<u1", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}  # (format, bits) to numpy
_EXTENSIBLE = 0xFFFE  # the format is in the first two bytes of the GUID that follows
_CROSSINGS = 24  # zero crossings of the sinc on each side, and with it
_BETA = 9.0  # Kaiser's window: 90 dB below in the stop band (Kaiser & Schafer 1980)
_ROLLOFF = 0.94  # of the lower Nyquist frequency passes; the rest is where the filter falls


def read_audio(path: Path, tell: Callable[[str], None] | None = None) -> Array:
    """Read a sound file as mono samples at 16,000 Hz, (N,), and say what was changed, or hand it to `tell`, without the file's name.

    Raises UserError, in one line, when it is no sound file, is damaged, empty or longer than `LONGEST` seconds.
    """
    if not path.is_file():
        raise UserError(f"no file {path}", "a recording: .wav, or .flac, .mp3, .ogg with the extra `speech`", "check the path")
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            wav = _read_header(path, file, path.stat().st_size)
            rate, channels, blocks = wav.rate, wav.channels, wav.blocks(file)
            samples = _convert(path, blocks, rate, channels, wav.frames, tell)
        else:
            samples = _read_with_soundfile(path, tell)
    if not len(samples):
        raise UserError(f"{path} holds no samples", "a recording", "check the file")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are no numbers", "finite samples", "write the file again")
    return samples


def _convert(path: Path, blocks: Iterable[npt.NDArray[Any]], rate: int, channels: int, frames: int,
             tell: Callable[[str], None] | None) -> Array:
    """Turn blocks (frames, channels) of a file into mono samples at `RATE`."""
    if not 1 <= channels <= _MOST_CHANNELS or not _RATES[0] <= rate <= _RATES[1]:
        raise UserError(f"{path} says it has {channels:,} channels at {rate:,} Hz",
                        f"1 to {_MOST_CHANNELS} channels at {_RATES[0]:,} to {_RATES[1]:,} Hz", "restore the file")
    if frames > LONGEST * rate:
        raise UserError(f"{path} is {frames / rate / 3600:.1f} hours long", f"at most {LONGEST // 3600} hours", "cut it into parts")
    changes = [] if rate == RATE else [f"resampled {rate:,} Hz to {RATE:,} Hz"]
    changes += [] if channels == 1 else [f"averaged {channels} channels"]
    if changes and tell:
        tell(", ".join(changes))
    elif changes:
        say(f"{path.name}: {', '.join(changes)}")
    with np.errstate(over="ignore", invalid="ignore"):  # float samples that are no numbers are refused by the caller
        return resample((block.mean(axis=1, dtype=np.float32) for block in blocks), rate)


# ---- files ----

@dataclass(frozen=True)
class _Wav:
    """What the header of a WAV file says, checked."""

    path: Path
    kind: tuple[int, int]
    channels: int
    rate: int
    offset: int
    frames: int

    def blocks(self, file: BinaryIO) -> Iterator[npt.NDArray[Any]]:
        """Yield samples as float32, (frames, channels), -1 to 1 where they are whole numbers."""
        width = self.kind[1] // 8
        file.seek(self.offset)
        for start in range(0, self.frames, _FRAMES_AT_ONCE):
            frames = min(_FRAMES_AT_ONCE, self.frames - start)
            raw = file.read(frames * self.channels * width)
            if len(raw) != frames * self.channels * width:
                raise UserError(f"{self.path} became shorter while it was read", "a file that nobody writes")
            yield _to_float(np.frombuffer(raw, dtype=_KINDS[self.kind]), self.kind).reshape(frames, self.channels)


def _to_float(raw: npt.NDArray[Any], kind: tuple[int, int]) -> npt.NDArray[Any]:
    if kind == (1, 8):  # the only width without a sign
        return (raw.astype(np.float32) - 128) / 128
    if kind == (1, 24):
        wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        raw, kind = wide.view("<i4")[:, 0], (1, 32)
    with np.errstate(over="ignore"):
        return raw.astype(np.float32) / np.float32(2.0 ** (kind[1] - 1) if kind[0] == 1 else 1)


def _read_header(path: Path, file: BinaryIO, size: int) -> _Wav:
    """Read the chunks of a WAV file up to its samples. Raises UserError on any size, rate or kind that cannot be."""
    def wrong(what: str, expected: str = "a whole WAV file") -> UserError:
        return UserError(f"{path} {what}", expected, "restore the file, or write it again as 16-bit PCM")

    described: tuple[int, ...] | None = None
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise wrong("ends before its samples")
        name, length = struct.unpack("<4sI", head)
        left = size - file.tell()
        if name == b"data":
            break
        if length > left:
            raise wrong(f"has a chunk of {length:,} bytes where {left:,} are left")
        if name == b"fmt ":
            body = file.read(min(length, 40))
            if length < 16:
                raise wrong(f"describes its samples in {length} bytes", "16 or more")
            described = struct.unpack("<HHIIHH", body[:16])
            if described[0] == _EXTENSIBLE and len(body) >= 26:
                described = (struct.unpack("<H", body[24:26])[0], *described[1:])
            file.seek(length - len(body), 1)
        else:
            file.seek(length, 1)
        file.seek(length % 2, 1)  # chunks begin at even places
    else:
        raise wrong(f"has more than {_MOST_CHUNKS:,} chunks before its samples")
    if described is None:
        raise wrong("does not describe its samples")
    kind, channels, rate, _, frame_bytes, bits = described
    if (kind, bits) not in _KINDS:
        raise wrong(f"holds samples of format {kind} with {bits} bits", "PCM of 8, 16, 24 or 32 bits, or float of 32 or 64")
    if not channels or frame_bytes != channels * bits // 8:
        raise wrong(f"has {channels} channels of {bits} bits in frames of {frame_bytes} bytes")
    if length in _UNKNOWN and left:
        say(f"{path.name}: its header does not say how long it is; read to the end of the file")
        length = left // frame_bytes * frame_bytes
    if length > left:
        raise wrong(f"is cut: {length:,} bytes of samples were written, {left:,} are there")
    return _Wav(path, (kind, bits), channels, rate, file.tell(), length // frame_bytes)


def _read_with_soundfile(path: Path, tell: Callable[[str], None] | None) -> Array:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, its library is not
        raise UserError(f"{path} is no WAV file, and other sound files are read by a package that is not installed", "a .wav file",
                        'convert it, or: pip install "myna[speech]"') from None
    try:
        with soundfile.SoundFile(path) as sound:
            return _convert(path, _blocks(path, sound, tell), sound.samplerate, sound.channels, sound.frames, tell)
    except (soundfile.SoundFileError, RuntimeError) as error:
        why = str(error).rpartition(": ")[2][:120]
        why = "no sound of a known form" if "not exist" in why else why  # libsndfile's words for an MP3 without a single frame
        raise UserError(f"{path} cannot be read ({why})", "a sound file: WAV, FLAC, MP3 or Ogg", "convert it to WAV") from None


def _blocks(path: Path, sound: Any, tell: Callable[[str], None] | None) -> Iterator[npt.NDArray[Any]]:
    """Yield what an open sound file holds, (frames, channels). One that ends before its header says is said, and ends there.

    `SoundFile.blocks` would fill up such a file, as an MP3 that was cut, with its last block again and again.
    """
    done = 0
    while len(block := sound.read(_FRAMES_AT_ONCE, dtype="float32", always_2d=True)):
        done += len(block)
        yield block
    if done < (1 - _INEXACT) * sound.frames:
        cut = f"ends after {done / sound.samplerate:.1f} s of the {sound.frames / sound.samplerate:.1f} s that its header says"
        tell(cut) if tell else say(f"{path.name}: {cut}")


# ---- rate ----

def resample(blocks: Iterable[npt.NDArray[Any]], rate: int, to: int = RATE) -> Array:
    """Turn mono samples at `rate`, in blocks, into samples at `to`: of N there come ceil(N * to / rate), in float32."""
    if rate == to:
        return np.concatenate([np.zeros(0, np.float32), *blocks]).astype(np.float32, copy=False)
    up, down = to // math.gcd(rate, to), rate // math.gcd(rate, to)
    weights = phase_weights(up, down)
    half = weights.shape[1] // 2
    out: list[Array] = []
    held, first, total, done = np.zeros(half, np.float32), -half, 0, 0  # held[0] is sample number `first`
    for block in _then_silence(blocks, half):
        total += len(block[0]) if block[1] else 0
        held = np.concatenate((held, block[0].astype(np.float32, copy=False)))
        # output n lies at n * down / up; it wants the samples up to `half` after that place
        ready = min(-(-(first + len(held) - half) * up // down), -(-total * up // down))
        places = np.arange(done, max(done, ready), dtype=np.int64) * down
        starts = places // up - half + 1 - first
        if len(places):
            windows = np.lib.stride_tricks.sliding_window_view(held, 2 * half)
            for at in range(0, len(places), _FRAMES_AT_ONCE // 4):
                part = slice(at, at + _FRAMES_AT_ONCE // 4)
                out.append(np.einsum("nk,nk->n", windows[starts[part]], weights[places[part] % up]))
            done = ready
            gone = max(0, int(starts[-1]))
            held, first = held[gone:], first + gone
    return np.concatenate([np.zeros(0, np.float32), *out])


def _then_silence(blocks: Iterable[npt.NDArray[Any]], length: int) -> Iterator[tuple[npt.NDArray[Any], bool]]:
    for block in blocks:
        yield block, True
    yield np.zeros(length, np.float32), False


@functools.lru_cache(maxsize=2)
def phase_weights(up: int, down: int) -> Array:
    """Return the weights of a change of rate by up / down: (up, taps), row p for outputs p / up of a sample after an input.

    Weight k of a row belongs to the input k - taps / 2 + 1 places away. Each row sums to 1.
    """
    cutoff = _ROLLOFF * min(1.0, up / down)  # of the input's Nyquist frequency
    half = math.ceil(_CROSSINGS / cutoff)
    away = np.arange(1 - half, half + 1) - np.arange(up)[:, None] / up
    window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (away / half) ** 2)))
    weights = np.sinc(cutoff * away) * window
    out: Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return out


# ---- spectrogram ----

def log_mel(samples: npt.NDArray[Any], bands: int = 80, columns: int = 3000) -> Array:
    """Return the log-mel spectrogram (bands, columns) of at most columns * HOP samples at 16,000 Hz; silence follows shorter ones.

    Raises ValueError when there are more.
    """
    if len(samples) > columns * HOP:
        raise ValueError(f"{len(samples):,} samples, where {columns * HOP:,} fit")
    padded = np.zeros(columns * HOP)
    padded[: len(samples)] = samples
    padded = np.pad(padded, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:columns]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)  # periodic
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2  # (columns, WINDOW / 2 + 1)
    logs = np.log10(np.maximum(mel_filters(bands) @ power.T, 1e-10))
    out: Array = ((np.maximum(logs, logs.max() - 8) + 4) / 4).astype(np.float32)
    return out


@functools.lru_cache(maxsize=4)
def mel_filters(bands: int) -> npt.NDArray[np.float64]:
    """Return Slaney's triangles over the bins of a spectrum, (bands, WINDOW / 2 + 1): of equal area, 0 Hz to half of `RATE`.

    His mel scale is linear up to 1,000 Hz (15 mel) and logarithmic above: 27 mel more at 6.4 times the frequency.
    """
    mels = np.linspace(0, 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4), bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    out: npt.NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return out
