"""Translate texts with an encoder-decoder, or with phrases of the examples, whichever was better on the validation part.

A translator's directory has `task.json` beside the model, and `memory.jsonl`: the pairs of the training part and which of their words
are linked (see `myna.models.phrases`). The encoder-decoder reads each source with the example most like it (see `myna.data.coding`).
Where an example is so like a source that its translation was better on the validation part, that is taken as it is.

Every placeholder of the source is written exactly once. For the model, tokens of placeholders that are used up, or not the source's, are
masked, the end is masked until all are written, and where the room runs out the missing ones come.

    translator = Translator.open(Path("my-translator"))
    [result] = translator.translate(["Failed to connect to {host}"])
    result.text, result.score, result.nearest

N texts · V vocabulary
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from myna.console import say, track
from myna.corpus.sentences import cut_sentences
from myna.data.coding import Coded, Coder, Example, align_example
from myna.data.placeholders import Masked, keeps_placeholders, mask
from myna.errors import UserError, shown
from myna.files import read_json, write_atomic, write_json
from myna.generate.beam import Beam, search_sources
from myna.generate.options import SampleOptions
from myna.models.alignment import Links
from myna.models.phrases import Phrases
from myna.models.pretrained import load_model
from myna.models.protocol import LogProbs
from myna.retrieval.terms import UNSPACED
from myna.tasks.options import TranslateOptions
from myna.tokenizer.tokenizer import Tokenizer

TASK, MEMORY = "task.json", "memory.jsonl"
_MOST_TASK, _MOST_MEMORY = 1 << 20, 1 << 30  # bytes
_ROWS = 64  # sources at a time
_ROOM, _SPARE = 2, 16  # a target may have so many times the ids of its source, and so many more
_HOLDER = re.compile("\x00([0-9]+)")
_LINKS = re.compile(r"(?:[0-9]{1,4}-[0-9]{1,4}(?: |$))*")
_UNSPACED = re.compile(f"[{UNSPACED}]")
NEVER = 2.0  # of a threshold: no example is so like


@dataclass(frozen=True)
class Translated:
    """A translation: how likely it was, the mean natural log-probability of a token, and the example that lay beside it."""

    source: str
    text: str
    score: float
    nearest: Example | None
    origin: str = "model"
    "Who wrote it: model, phrases, memory (the example's translation); several where the text was cut."
    kept: bool = True
    "Whether the source's placeholders stand in it, each as often, and no other."
    note: str = ""
    "What was cut, or written at the end because there was no more room."

    def __str__(self) -> str:
        return self.text


class Translator:
    """An encoder-decoder, its coder, and the examples it may look at."""

    def __init__(self, model: Any, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], phrases: Phrases | None = None,
                 threshold: float = NEVER, about: Mapping[str, Any] | None = None) -> None:
        """Take a model and the pairs of the training part. threshold: likeness from which an example's translation is taken.

        phrases: of the same pairs; where they are given they write, and the model does not.
        """
        self.model, self.phrases, self.threshold, self.about = model, phrases, threshold, dict(about or {})
        from myna.retrieval.memory import Memory  # here: it is compiled as it is imported

        self.coder = Coder(tokenizer, int(model.max_length))
        self.pairs, self.memory = list(pairs), Memory([source for source, _ in pairs])
        kept = {self.coder.separator_id, *self.coder.placeholders}
        self._banned = np.array(sorted(tokenizer.special_ids - kept), dtype=np.int64)
        self._placeholders = np.array(self.coder.placeholders, dtype=np.int64)

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        return "phrases of the examples" if self.phrases else str(self.model.config.model_type)

    def translate(self, texts: Sequence[str], options: TranslateOptions | None = None) -> list[Translated]:
        """Translate texts. One that does not fit is cut at lines, then at sentences, which is said; blank ones stay as they are."""
        options = options or TranslateOptions()
        pieces = [self._cut(text) for text in texts]
        flat = [(row, place, piece) for row, cut in enumerate(pieces) for place, piece in enumerate(cut) if piece.strip()]
        done = self._translate([piece.strip() for _, _, piece in flat], options)
        found: list[list[Translated | str]] = [list(cut) for cut in pieces]
        for (row, place, _), result in zip(flat, done, strict=True):
            found[row][place] = result
        results = [_join(text, parts) for text, parts in zip(texts, found, strict=True)]
        if cut := sum(len(piece) > 1 for piece in pieces):
            say(f"{cut:,} texts do not fit {self.coder.longest} tokens and were translated in parts")
        return results

    def nearest(self, texts: Sequence[str], exclude: Sequence[Sequence[int]] | None = None) -> list[Example | None]:
        """Find the example most like each text."""
        found = self.memory.find(texts, 1, exclude)
        return [Example(*self.pairs[matches[0].place], matches[0].similarity) if matches else None for matches in found]

    # ---- one piece ----

    def _translate(self, sources: Sequence[str], options: TranslateOptions) -> list[Translated]:
        examples = self.nearest(sources)
        coded = [self.coder.encode_source(source, example) for source, example in zip(sources, examples, strict=True)]
        results: list[Translated | None] = [None] * len(sources)
        for number, (source, example, one) in enumerate(zip(sources, examples, coded, strict=True)):
            if example is not None and example.similarity >= self.threshold and (text := take_example(source, example, one)) is not None:
                results[number] = Translated(source, text, 0.0, example, "memory")
        left = sorted((number for number, result in enumerate(results) if result is None), key=lambda number: len(coded[number].ids))
        if self.phrases is not None:
            with track("translating", len(left), " texts") as advance:
                for number in left:
                    results[number] = self._write_phrases(sources[number], examples[number])
                    advance(1)
            left = []
        with track("translating", len(left), " texts") as advance:
            for at in range(0, len(left), _ROWS):
                chosen = left[at : at + _ROWS]
                for number, result in zip(chosen, self._search([coded[number] for number in chosen], options), strict=True):
                    beam, note = result
                    text = self.coder.decode(beam.tokens, coded[number].masked).strip()
                    results[number] = Translated(sources[number], text, float(np.mean(beam.log_probs)), examples[number], "model",
                                                 keeps_placeholders(sources[number], text), note)
                advance(len(chosen))
        return [result for result in results if result is not None]

    def _write_phrases(self, source: str, example: Example | None) -> Translated:
        assert self.phrases is not None
        masked = mask(source.replace("\x00", ""))
        found = self.phrases.translate(_spell(masked))
        text = _HOLDER.sub(lambda match: masked.found[int(match[1])], found.text)
        return Translated(source, text, found.score, example, "phrases", keeps_placeholders(source, text))

    def _search(self, coded: Sequence[Coded], options: TranslateOptions) -> list[tuple[Beam, str]]:
        """Search for the best targets, each with every placeholder of its source once."""
        needed = [frozenset(self.coder.placeholders[: len(one.masked.found)]) for one in coded]
        limits = [min(self.coder.length, _ROOM * len(self.coder.encode_parts(one.masked)) + len(need) + _SPARE)
                  for one, need in zip(coded, needed, strict=True)]

        def allow(number: int, tokens: list[int], scores: LogProbs, last: bool) -> LogProbs:
            return self._allow(needed[number], limits[number], tokens, scores)

        beams = search_sources(self.model, [one.ids for one in coded], limits,
                               SampleOptions(num_beams=options.num_beams, length_penalty=options.length_penalty), allow)
        return [(beam, "" if beam.finish_reason == "stop" else f"ended at {len(beam.tokens)} tokens" +
                 (", its missing placeholders at the end" if need else "")) for beam, need in zip(beams, needed, strict=True)]

    def _allow(self, needed: frozenset[int], limit: int, tokens: list[int], scores: LogProbs) -> LogProbs:
        """Mask what may not follow: special tokens, placeholders used or of other sources, the end while one is missing."""
        out = scores.copy()
        missing = needed.difference(tokens)
        out[self._banned] = -np.inf
        out[self._placeholders] = -np.inf
        open_ids = list(missing)
        if len(missing) >= limit - len(tokens):  # there is just room for them
            out[:] = -np.inf
        elif missing or not tokens:
            out[self.coder.separator_id] = -np.inf
        out[open_ids] = scores[open_ids]
        return out

    # ---- long texts ----

    def _cut(self, text: str) -> list[str]:
        """Cut a text that is too long at its lines, at sentences, and where these are too long too, between words."""
        if self._fits(text):
            return [text]
        pieces: list[str] = []
        for line in re.split(r"(\n+)", text):
            if self._fits(line):
                pieces.append(line)
                continue
            end = 0
            for start, stop in cut_sentences(line):
                pieces += [line[end:start], *self._halve(line[start:stop])]
                end = stop
            pieces.append(line[end:])
        return [piece for piece in pieces if piece]

    def _halve(self, text: str) -> list[str]:
        if self._fits(text) or len(text) < 2:
            return [text]
        middle = len(text) // 2
        space = text.rfind(" ", 1, middle + 1)
        cut = space + 1 if space > 0 else middle
        return [*self._halve(text[:cut]), *self._halve(text[cut:])]

    def _fits(self, text: str) -> bool:
        return len(text) < 2 or len(self.coder.encode_parts(self.coder.mask(text.strip()))) < self.coder.longest

    # ---- the directory ----

    def save_task(self, folder: Path) -> None:
        """Write task.json and memory.jsonl; the model is saved by whoever made it."""
        links = self.phrases.links if self.phrases else [[]] * len(self.pairs)
        rows = [[*pair, " ".join(f"{i}-{j}" for i, j in linked)] for pair, linked in zip(self.pairs, links, strict=True)]
        write_atomic(folder / MEMORY, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace"))
        write_json(folder / TASK, {**self.about, "format": 1, "task": "translate", "threshold": self.threshold,
                                   "writer": "phrases" if self.phrases else "model"})

    @classmethod
    def open(cls, folder: Path) -> Translator:
        """Open a translator's directory. Raises UserError when it is none, or is damaged."""
        path = folder / TASK
        task = read_json(path, _MOST_TASK)
        threshold = task.get("threshold") if isinstance(task, dict) else None
        if not isinstance(task, dict) or task.get("task") != "translate" or not isinstance(threshold, int | float):
            raise UserError(f"{path} is no translator's, or is damaged", "a directory that myna tune --task translate made")
        model = load_model(folder)
        if not hasattr(model, "encode") or not hasattr(model, "decode") or model.max_length is None:
            raise UserError(f"{folder} holds a {type(model).__name__}", "an encoder-decoder", "restore the directory")
        pairs, links = _read_memory(folder / MEMORY)
        phrases = None
        if task.get("writer") == "phrases":
            try:
                phrases = Phrases([mask_pair(*pair) or ("", "") for pair in pairs], links)
            except ValueError as error:
                raise UserError(f"{folder / MEMORY} is damaged ({error})", "the links of its pairs", "restore the file") from None
        return cls(model, Tokenizer.open(folder), pairs, phrases, float(threshold), task)


def take_example(source: str, example: Example, coded: Coded) -> str | None:
    """Return an example's translation with the source's placeholders in it, or None where they are not the same number."""
    _, target = align_example(example, coded.masked)
    if len(target.used) != len(coded.masked.found):
        return None
    text = "".join(part if isinstance(part, str) else coded.masked.found[part] for part in target.parts)
    return text if keeps_placeholders(source, text) else None


def is_translator(folder: Path) -> bool:
    """Tell whether a directory is opened as a translator: by its task.json."""
    if not (folder / TASK).is_file():
        return False
    task = read_json(folder / TASK, _MOST_TASK)
    return isinstance(task, dict) and task.get("task") == "translate"


def mask_pair(source: str, target: str) -> tuple[str, str] | None:
    """Write the placeholders of a pair as \\x00 and a number, as phrases have them; None where the sides have not the same."""
    if not keeps_placeholders(source, target):
        return None
    masked = mask(source.replace("\x00", ""))
    return _spell(masked), _spell(mask(target.replace("\x00", ""), masked.found))


def _spell(masked: Masked) -> str:
    return "".join(part if isinstance(part, str) else f"\x00{part}" for part in masked.parts)


def _read_memory(path: Path) -> tuple[list[tuple[str, str]], list[Links]]:
    if not path.is_file():
        return [], []
    if path.stat().st_size > _MOST_MEMORY:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes", f"at most {_MOST_MEMORY:,}", "restore the file")
    pairs: list[tuple[str, str]] = []
    links: list[Links] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                pair = json.loads(line)
            except (ValueError, RecursionError):
                pair = None
            if (not isinstance(pair, list) or len(pair) != 3 or not all(isinstance(side, str) for side in pair)
                    or not _LINKS.fullmatch(pair[2])):
                raise UserError(f"{path}:{number} is {shown(line)}", "a list of a source, a target and links", "restore the file")
            pairs.append((pair[0], pair[1]))
            links.append([(int(i), int(j)) for i, _, j in (link.partition("-") for link in pair[2].split())])
    return pairs, links


def _join(source: str, parts: Sequence[Translated | str]) -> Translated:
    """Put the translations of a text's parts together; spaces between sentences stay where the translation has spaces."""
    done = [part for part in parts if isinstance(part, Translated)]
    if not done:
        return Translated(source, source, 0.0, None)
    if len(parts) == 1:
        return done[0] if done[0].source == source else Translated(source, *list(vars(done[0]).values())[1:])
    text = ""
    for part in parts:
        piece = part if isinstance(part, str) else part.text
        spaced = text and piece and not _UNSPACED.search(text[-1] + piece[0]) and not text[-1].isspace() and not piece[0].isspace()
        bare = isinstance(part, str) and "\n" not in part
        text += "" if bare else (" " + piece if spaced and not isinstance(part, str) else piece)
    notes = [f"cut into {len(done)} parts"]
    notes += [part.note for part in done if part.note]
    score = float(np.mean([part.score for part in done]))
    origin = " and ".join(sorted({part.origin for part in done}))
    return Translated(source, text, score, done[0].nearest, origin, keeps_placeholders(source, text), "; ".join(notes))
