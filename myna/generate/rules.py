"""What a model directory says of generation: where a text ends, what may not be said, and how its makers liked to draw.

`generation_config.json` (or, in older directories, config.json) holds two kinds of values. Ids that end a text, that are forced at
its beginning or end and that may never be said belong to the model and are always obeyed, as `transformers` obeys them. How to draw
(temperature, top_p, beams) is a taste: it is taken only on request (`--use-suggested`), and said otherwise. What Myna does not do is
named. Words and order: `transformers` 5, `GenerationConfig` and `GenerationMixin._get_logits_processor`.

    rules = read_rules(Path("my-model"), model.vocab_size)
    rules.end_ids, rules.source, rules.suggested

V vocabulary
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from myna.errors import UserError, shown
from myna.files import read_json
from myna.generate.options import SampleOptions
from myna.models.protocol import LogProbs

_MOST_FILE = 4 << 20  # bytes; bad words for a whole vocabulary take about 2 MB
_SOURCED = ("t5", "marian", "bart")  # model types that read a source
_DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
            "top_h": None}  # what transformers takes where nothing is said; read only with do_sample
_SEARCHING = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
_CONTRASTING = {"penalty_alpha": 0.0, "top_k": 1}  # contrastive search, read only without do_sample
_ALWAYS = {"repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "sequence_bias": None,
           "exponential_decay_length_penalty": None, "guidance_scale": None,
           "forced_decoder_ids": None, "renormalize_logits": False, "watermarking_config": None,
           "num_beam_groups": 1, "diversity_penalty": 0.0, "stop_strings": None}


@dataclass(frozen=True)
class Rules:
    """What a directory says of generation."""

    end_ids: frozenset[int] = frozenset()
    source: bool = False
    "Whether a prompt is what the encoder reads, not what the decoder goes on with."
    first_id: int | None = None
    "Forced as the first id of a text that answers a source."
    last_ids: tuple[int, ...] = ()
    "One of these is forced where `max_tokens` ends a text."
    banned: tuple[tuple[int, ...], ...] = ()
    "Sequences that are never said: the last id of each may not follow the others."
    banned_first: tuple[int, ...] = ()
    "Ids that may not be the first."
    no_repeat_ngram_size: int = 0
    "So many ids in a row are never said twice; 0 lets them."
    min_length: int = 0
    "No end before there are so many ids, the prompt's or the one that an answer starts from included."
    min_new_tokens: int = 0
    "No end before so many new ids."
    suggested: Mapping[str, Any] = field(default_factory=dict)
    "Fields of `SampleOptions` that the directory's makers liked otherwise than transformers' defaults."
    unread: Mapping[str, Any] = field(default_factory=dict)
    "What the directory asks for and Myna does not do."

    @property
    def plain(self) -> bool:
        """Whether every id may be said anywhere."""
        return not (self.first_id is not None or self.last_ids or self.banned or self.banned_first or self.no_repeat_ngram_size
                    or self.min_length or self.min_new_tokens)

    def restrict(self, scores: LogProbs, prompt: Sequence[int], said: Sequence[int], last: bool) -> LogProbs:
        """Return the scores (V,) of what may follow `prompt` and `said`, -inf where it may not. last: no id comes after this one.

        Raises UserError when nothing may.
        """
        out = scores.copy()
        begin = len(said) == (0 if self.first_id is None else 1)
        before = [*prompt, *said]
        for sequence in self.banned:
            if len(sequence) == 1 or tuple(before[-(len(sequence) - 1):]) == sequence[:-1]:
                out[sequence[-1]] = -np.inf
        n = self.no_repeat_ngram_size
        tail = before[len(before) - n + 1:]
        repeated = [before[at + n - 1] for at in range(len(before) - n + 1) if before[at : at + n - 1] == tail] if n else []
        out[repeated] = -np.inf
        if len(before) < self.min_length or len(said) < self.min_new_tokens:
            out[list(self.end_ids)] = -np.inf
        if begin:
            out[list(self.banned_first)] = -np.inf
        forced = (self.first_id,) if not said and self.first_id is not None else self.last_ids if last else ()
        if forced:
            out[:] = -np.inf
            out[list(forced)] = 0
        if not np.isfinite(out).any():
            raise UserError("the directory's generation_config.json lets no token follow", "bad words and forced ids that leave some",
                            "restore generation_config.json")
        return out

    def say(self) -> list[str]:
        """Say in a line each what is suggested and not taken unless asked for, and what is asked for and not done."""
        lines = []
        if self.suggested:
            lines.append(f"generation_config.json suggests {_listed(self.suggested)}; --use-suggested takes them")
        if self.unread:
            lines.append(f"generation_config.json asks for {_listed(self.unread)}, which Myna does not do")
        return lines


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value if isinstance(value, int | float) else shown(value)}" for name, value in values.items())


def read_rules(folder: Path, vocab_size: int) -> Rules:
    """Read the rules of a model directory; those of one without generation_config.json are in config.json, as they once were.

    Raises UserError when a value is none that `transformers` could have written.
    """
    path = folder / "generation_config.json"
    config = read_json(folder / "config.json", _MOST_FILE)
    said = read_json(path, _MOST_FILE) if path.is_file() else config
    path = path if path.is_file() else folder / "config.json"
    if not isinstance(said, dict) or not isinstance(config, dict):
        raise UserError(f"{path} is not an object", "a Hugging Face generation_config.json", "restore the file")
    source = config.get("model_type") in _SOURCED and _answers(folder)
    ends = _ids(path, said if said.get("eos_token_id") is not None else config, "eos_token_id", vocab_size)
    banned = said.get("bad_words_ids") or []
    if not isinstance(banned, list) or not all(isinstance(one, list) and one for one in banned):
        raise UserError(f"bad_words_ids in {path} is {shown(banned)}", "a list of lists of ids", "restore the file")
    sequences = [tuple(_ids(path, {"bad_words_ids": one}, "bad_words_ids", vocab_size)) for one in banned]
    sequences = [one for one in sequences if not (len(one) == 1 and one[0] in ends)]  # as in transformers, an end is no bad word
    sequences += [(id,) for id in _ids(path, said, "suppress_tokens", vocab_size)]
    first = _ids(path, said, "forced_bos_token_id", vocab_size) if source else []
    suggested, unread = _tastes(path, said, source)
    counts = {name: _count(path, said, name) for name in ("no_repeat_ngram_size", "min_length", "min_new_tokens")}
    return Rules(frozenset(ends), source, first[0] if first else None, tuple(_ids(path, said, "forced_eos_token_id", vocab_size)),
                 tuple(sequences), tuple(_ids(path, said, "begin_suppress_tokens", vocab_size)), **counts, suggested=suggested,
                 unread=unread)


def _answers(folder: Path) -> bool:
    """Tell what an encoder-decoder's prompt is: a source, unless the model was built here, from running text, to continue it.

    myna.json tells a build from what was imported: only the former has a lineage. "prompt": "source" in it is for one trained on pairs.
    """
    if not (folder / "myna.json").is_file():
        return True
    written = read_json(folder / "myna.json")
    return isinstance(written, dict) and written.get("prompt", "source" if "lineage" not in written else "") == "source"


def _ids(path: Path, config: Mapping[str, Any], name: str, vocab_size: int) -> list[int]:
    value = config.get(name)
    listed = [] if value is None else value if isinstance(value, list) else [value]
    for id in listed:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < vocab_size:
            raise UserError(f"{name} in {path} has {shown(id)}", f"ids from 0 to {vocab_size - 1}", "restore the file")
    return listed


def _count(path: Path, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1 << 24):
        raise UserError(f"{name} in {path} is {shown(value)}", "a whole number, 0 or more", "restore the file")
    return value or 0


def _tastes(path: Path, said: Mapping[str, Any], source: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort what is said of drawing and searching into what Myna could do and what it does not."""
    beams = said.get("num_beams")
    searches = isinstance(beams, int) and beams > 1
    draws = said.get("do_sample") is True
    contrasts = not draws and bool(said.get("penalty_alpha"))
    neutral = _ALWAYS | (_SEARCHING if searches else {}) | (_CONTRASTING if contrasts else {}) | (_DRAWING if draws else {})
    asked = {name: said[name] for name, default in neutral.items() if said.get(name) not in (None, default)}
    known = {field.name for field in dataclasses.fields(SampleOptions)}
    suggested = {name: value for name, value in asked.items() if name in known}
    longest = said.get("max_new_tokens")
    if longest is None and source and isinstance(said.get("max_length"), int):
        longest = said["max_length"] - 1  # which counts the id that a text starts from
    if longest is not None:
        suggested["max_tokens"] = longest
    for name, value in suggested.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{name} in {path} is {shown(value)}", "a number", "restore the file")
    return suggested, {name: value for name, value in asked.items() if name not in suggested}
