"""Speech to text with Whisper: half a minute at a time, each window begun where the last one said a sentence ended.

Radford et al. 2022, sections 2.3 (marks: language, task, times) and 4.5 (long recordings). The model writes times around what it says,
in steps of 0.02 s; a window whose last sentence is cut off ends at the time before it, and the next one begins there. A text that
repeats itself (compresses too well) or that the model itself finds unlikely is drawn again at a higher temperature. A window that
is silent, or in which the model hears no speech, gives no text, and is counted.

    transcript = transcribe(model, tokenizer, read_audio(Path("speech.wav")), TranscribeOptions())
    str(transcript), [(segment.start, segment.end, segment.text) for segment in transcript.segments]

V vocabulary
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.console import track
from myna.data.audio import HOP, RATE, log_mel
from myna.errors import UserError, nearest
from myna.generate.beam import search_beams
from myna.generate.options import SampleOptions
from myna.generate.sample import sample_tokens
from myna.models.protocol import Ids, LanguageModel, LogProbs
from myna.tasks.options import TranscribeOptions

if TYPE_CHECKING:
    from myna.models.encoder_decoder import SourceState
    from myna.models.whisper import Speech, Whisper
    from myna.tokenizer.tokenizer import Tokenizer

STEP = 2 * HOP  # samples of a step of the written times: 0.02 s (section 2.3)
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # this and the next three: section 4.5
MOST_COMPRESSED = 2.4  # bytes of a text over those of its gzip: more is a loop
LEAST_LIKELY = -1.0  # mean natural log-probability of an id
NO_SPEECH = 0.6  # probability of the mark for it, where the text is unlikely as well
SILENCE = 1e-4  # root mean square: 80 dB below full scale, three steps of a 16-bit sample


@dataclass(frozen=True)
class Segment:
    """What was said from one time to another, in seconds from the beginning of the recording."""

    start: float
    end: float
    text: str


@dataclass
class Transcript:
    """What a recording says, and what was passed over."""

    segments: list[Segment] = field(default_factory=list)
    language: str = ""  # as en; empty: the model knows one alone
    seconds: float = 0.0
    silent_seconds: float = 0.0  # windows without energy, or in which no speech was heard
    drawn_again: int = 0  # windows whose first text was no good
    doubtful: int = 0  # windows whose last text was no good either

    def __str__(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


def transcribe(model: Whisper, tokenizer: Tokenizer, samples: npt.NDArray[np.float32], options: TranscribeOptions,
               advance: Callable[[float], None] | None = None) -> Transcript:
    """Write down what is said in mono samples at 16,000 Hz, of any length.

    advance: told the seconds of sound that are done; without it progress is shown.

    Raises UserError when the model writes no times or does not know the language.
    """
    times = model.vocab_size - model.speech.no_timestamps_token_id - 1  # ids: 0.00, 0.02, ... up to the length of a window
    if model.speech.no_timestamps_token_id < 0 or times < model.max_columns // 2 + 1:
        raise UserError("a speech model that writes no times", "a no_timestamps_token_id with ids for all times after it",
                        "restore its generation_config.json")
    window, found = model.max_columns * HOP, Transcript(seconds=len(samples) / RATE)
    prompt: list[int] = []
    with contextlib.nullcontext(advance) if advance else track("transcribing", found.seconds, "s") as told:
        at = 0
        while at < len(samples):
            part = samples[at : at + window]
            moved = len(part)
            if np.sqrt(np.mean(np.square(part, dtype=np.float64))) > SILENCE:
                hidden = model.hear(log_mel(part, model.config.num_mel_bins, model.max_columns))
                prompt = prompt or _find_prompt(model, hidden, options, found)
                heard = _decode(Heard(model, hidden), prompt, tokenizer, options, found)
                if heard is not None:
                    segments, moved = _cut(heard, model.speech, tokenizer, len(part))
                    found.segments += [Segment(at / RATE + start, at / RATE + end, text) for start, end, text in segments]
                else:
                    found.silent_seconds += moved / RATE
            else:
                found.silent_seconds += moved / RATE
            at += moved
            told(moved / RATE)
    return found


def _find_prompt(model: Whisper, hidden: Any, options: TranscribeOptions, found: Transcript) -> list[int]:
    """Return the marks that a text begins with; of a model of several languages the language and the task (section 2.3)."""
    speech, start = model.speech, model.config.decoder_start_token_id
    if not speech.lang_to_id:
        if options.language not in ("", "en") or options.task != "transcribe":
            raise UserError(f"--language {options.language or 'en'} --task {options.task} with a model of English alone",
                            "en and transcribe", "take a model of several languages")
        return [start]
    names = sorted(speech.lang_to_id)
    if options.language:
        name = f"<|{options.language}|>"
        if name not in speech.lang_to_id:
            known = [one.strip("<|>") for one in names]
            raise UserError(f"unknown language {options.language!r}{nearest(options.language, known)}", "one of " + ", ".join(known))
    else:
        scores = model.step([[start]], model.begin(hidden))[0]
        name = max(names, key=lambda one: float(scores[speech.lang_to_id[one]]))
    found.language = name.strip("<|>")
    if options.task not in speech.task_to_id:
        raise UserError(f"--task {options.task} with a model that does not know it", "one of " + ", ".join(speech.task_to_id))
    return [start, speech.lang_to_id[name], speech.task_to_id[options.task]]


# ---- one window ----

class HeardState:
    """The model's state and what each row has said. A `State`."""

    def __init__(self, state: SourceState, rows: int) -> None:
        self.state = state
        self.said: list[list[int]] = [[] for _ in range(rows)]
        self.prompt = 0  # ids of the prompt, once it was read

    @property
    def lengths(self) -> list[int]:
        """How many ids each row has taken."""
        return self.state.lengths

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids."""
        self.state.truncate(lengths)
        self.said = [row[:length] for row, length in zip(self.said, lengths, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; repeats are allowed."""
        self.state.select(rows)
        self.said = [list(self.said[row]) for row in rows]


class Heard:
    """A model with the sound it heard, which says only what its marks allow: a `LanguageModel`, for the usual sampler and beams."""

    def __init__(self, model: Whisper, hidden: Any) -> None:
        self.model, self.hidden = model, hidden
        self.vocab_size, self.max_length, self.separator_id = model.vocab_size, model.max_length, model.separator_id
        self.no_speech = 0.0  # probability of the mark for it, once a prompt was read

    def start(self, rows: int = 1, source: None = None) -> HeardState:
        """Return a state with nothing written; the sound is the one it was made with."""
        return HeardState(self.model.begin(self.hidden, rows), rows)

    def step(self, ids: Ids, state: HeardState, last: bool = True) -> LogProbs:
        """Append ids and return log-probabilities after each row's last, (B, V), among what its marks allow; -inf elsewhere."""
        scores = self.model.step(ids, state.state, last=bool(state.prompt))
        if not state.prompt:  # the first step reads the prompt, of which every row has the same
            state.prompt = len(ids[0])
            mark = self.model.speech.no_timestamps_token_id - 1  # as `transformers` finds it: the id before
            self.no_speech = float(np.exp(scores[0, 0, mark]))
            scores = scores[:, -1]
        for row, new in zip(state.said, ids, strict=True):
            row.extend(new)
        allowed = np.stack([restrict(one, said[state.prompt :], self.model.speech, self.separator_id)
                            for one, said in zip(scores, state.said, strict=True)])
        most = allowed.max(axis=1, keepdims=True)  # finite: a text may always end, or go on
        out: LogProbs = allowed - most - np.log(np.exp(allowed - most).sum(axis=1, keepdims=True))
        return out

    def log_probs(self, ids: Sequence[int], source: None = None) -> LogProbs:
        """Score a text by the model itself, without rules: (T,)."""
        state = self.model.begin(self.hidden)
        scores = self.model.step([[self.model.config.decoder_start_token_id, *ids[:-1]]], state, last=False)[0]
        out: LogProbs = scores[np.arange(len(ids)), np.asarray(ids)]
        return out


def restrict(scores: LogProbs, said: Sequence[int], speech: Speech, end: int) -> LogProbs:
    """Set to -inf the log-probabilities (V,) of what may not follow `said`: times come in pairs and never fall, the first is early.

    Where all times together are likelier than any other id, a time must follow. Rules: the paper's own decoder, and `transformers`'
    WhisperTimeStampLogitsProcessor. end: the id that ends a text.
    """
    out = scores.copy()
    first = speech.no_timestamps_token_id + 1  # the time 0.00
    out[[*speech.suppress_tokens, *(() if said else speech.begin_suppress_tokens), speech.no_timestamps_token_id]] = -np.inf
    times = [id for id in said if id >= first]
    if not said:
        out[:first] = -np.inf
        if speech.max_initial_timestamp_index is not None:
            out[first + speech.max_initial_timestamp_index + 1 :] = -np.inf
    elif said[-1] >= first:
        if len(said) < 2 or said[-2] >= first:  # the pair is whole: words
            out[first:] = -np.inf
        else:  # the second of a pair, or the end
            out[:end] = -np.inf
    if times:
        open_pair = said[-1] >= first and len(said) > 1 and said[-2] < first
        out[first : times[-1] + (0 if open_pair else 1)] = -np.inf
    if np.isfinite(out[first:]).any() and np.logaddexp.reduce(out[first:].astype(np.float64)) > out[:first].max():
        out[:first] = -np.inf
    return out


def _decode(heard: Heard, prompt: list[int], tokenizer: Tokenizer, options: TranscribeOptions, found: Transcript) -> list[int] | None:
    """Write the ids of one window, drawn again while they are no good; None where there is no speech."""
    most = max(1, (heard.model.max_length or 2) // 2)  # of what it can hold half is for what was said before
    for temperature in TEMPERATURES:
        sampled = SampleOptions(max_tokens=most, temperature=temperature, top_p=1.0, seed=0)
        speaking: LanguageModel = heard
        if temperature == 0 and options.num_beams > 1:
            beams = search_beams(speaking, prompt, SampleOptions(max_tokens=most, temperature=0.0, num_beams=options.num_beams))
            if not beams:
                raise UserError("the directory's generation_config.json lets no text end", "ids that may be written",
                                "restore generation_config.json")
            tokens, log_probs = beams[0].tokens, beams[0].log_probs
        else:
            drawn = list(sample_tokens(speaking, prompt, sampled))
            tokens, log_probs = [one.token for one in drawn], [one.log_prob for one in drawn]
        likely = float(np.mean(log_probs))
        if heard.no_speech > NO_SPEECH and likely < LEAST_LIKELY:
            return None
        data = _text(tokens, heard.model.speech, tokenizer).strip().encode()
        if likely >= LEAST_LIKELY and len(data) <= MOST_COMPRESSED * len(zlib.compress(data)):
            break
        found.drawn_again += temperature == 0
    else:
        found.doubtful += 1
    return tokens if tokens[-1] != heard.separator_id else tokens[:-1]


def _text(ids: Sequence[int], speech: Speech, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([id for id in ids if id < speech.no_timestamps_token_id])


def _cut(ids: list[int], speech: Speech, tokenizer: Tokenizer, size: int) -> tuple[list[tuple[float, float, str]], int]:
    """Cut what a window of `size` samples said at its pairs of times; returns (start, end, text) and where the next window begins.

    Where a pair closes the last sentence and nothing follows it, or there is no pair, the whole window is done.
    """
    first = speech.no_timestamps_token_id + 1
    marks = [place for place, id in enumerate(ids) if id >= first]
    pairs = [place for place in marks if place and ids[place - 1] >= first]  # the second time of each pair within the text

    def seconds(id: int) -> float:
        return min((id - first) * STEP, size) / RATE

    pieces, begin = [], 0
    for place in pairs:
        pieces.append(ids[begin:place])
        begin = place
    done = size
    closed = len(ids) > 1 and ids[-1] >= first > ids[-2]
    if closed or not pairs:
        pieces.append(ids[begin:])
    else:  # what is after the last pair was cut off by the window's end
        done = (ids[pairs[-1] - 1] - first) * STEP
    out = []
    for piece in pieces:
        times = [id for id in piece if id >= first]
        start = seconds(times[0]) if times and piece[0] >= first else 0.0
        end = seconds(times[-1]) if len(times) > 1 or (times and piece[0] < first) else size / RATE
        text = _text(piece, speech, tokenizer)
        if text.strip() and end > start:
            out.append((start, end, text))
    return out, done if 0 < done <= size else size
