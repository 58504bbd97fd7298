"""A decoder that turns one text into another, a summary say: one instruction, always the same, and greedy text.

`Writing` says how a task is written: as a conversation (an instruction and the source, the answer) by the model's chat template, or as
plain text where the model has none. `task.json` in the model's directory keeps it, with how many tokens of a source the
model learned from (`source_tokens`) and how many it writes at most (`max_tokens`), so that sources are laid out in use as in training.

    writer = Writer.open(Path("my-summarizer"), model, tokenizer)
    [written] = writer.write(["A long text"])
    written.text, written.stopped
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna.console import track
from myna.data.conversations import Example
from myna.errors import UserError, shown
from myna.files import read_json, write_json
from myna.generate.beam import search_beams
from myna.generate.greedy import answer_prompts
from myna.generate.options import SampleOptions
from myna.retrieval.passages import cut_passages
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer

TASK = "task.json"
_MOST_BYTES = 1 << 20  # of task.json: an instruction takes a line
_LONGEST_INSTRUCTION = 4000  # characters
MOST_TOKENS = 4096  # to write, and of a source
_ROWS, _ROW_TOKENS = 16, 8192  # prompts written at once, and tokens of them: what they keep in memory
_BYTES_OF_TOKEN = 8  # of text that are looked at for each token of room: a text of longer ones gives chunks that are not quite full


@dataclass(frozen=True)
class Writing:
    """How a task is learned and done by a decoder."""

    task: str
    instruction: str = ""
    "Stands before the source, a blank line between; empty for none."
    sources: tuple[str, ...] = ()
    "Usual names of the column of sources, likeliest first."
    targets: tuple[str, ...] = ()
    "Usual names of the column of what is to be written."
    max_tokens: int = 256
    "That are written at most; the tuning lowers it to what its rows need."
    chat: bool = True
    "Written by the model's chat template; false where it has none."
    joint: str = "\n\n"
    "Stands between source and text where there is no chat template."
    source_tokens: int = 0
    "Of a source that the model learned from; 0 before that is known."
    target_words: int = 0
    "Median words of what was learned to be written, as ROUGE counts them: as much as a baseline may say."

    def ask(self, source: str, templated: bool) -> str:
        """Put the instruction before a source; templated: a chat template says where the answer begins, and no joint need."""
        return (f"{self.instruction}\n\n" if self.instruction else "") + source + ("" if templated else self.joint)

    def lay(self, source: str, target: str, templated: bool, where: str = "") -> Example:
        """Write a source, and what is to be learned, as an example."""
        asked, answer = {"role": "user", "content": self.ask(source, templated)}, {"role": "assistant", "content": target}
        return Example((asked, answer), where=where, pair=True)

    def encode(self, source: str, tokenizer: Tokenizer, template: ChatTemplate | None) -> list[int]:
        """Turn a source into the ids that its text follows."""
        asked = self.ask(source, template is not None)
        if template is not None:
            return template.encode([{"role": "user", "content": asked}], add_generation_prompt=True)
        return tokenizer.encode(asked)


@dataclass(frozen=True)
class Written:
    """What was written for a source, and whether it ended by itself."""

    text: str
    stopped: bool
    tokens: int


class Writer:
    """A decoder with the way its task is written."""

    def __init__(self, model: Any, tokenizer: Tokenizer, template: ChatTemplate | None, writing: Writing) -> None:
        self.model, self.tokenizer, self.template, self.writing = model, tokenizer, template, writing

    @classmethod
    def open(cls, folder: Path, model: Any, tokenizer: Tokenizer, task: str) -> Writer:
        """Take an opened model whose directory says how `task` is written. Raises UserError when it does not."""
        writing = read_writing(folder, task)
        if not hasattr(model, "step"):
            raise UserError(f"{folder} holds a model that writes nothing ({type(model).__name__})", "a decoder", "restore the directory")
        return cls(model, tokenizer, ChatTemplate.open(folder, tokenizer) if writing.chat else None, writing)

    @property
    def room(self) -> int:
        """How many tokens of a source can be read at once: as many as were learned from, or as the model has room for."""
        most = self.writing.source_tokens or MOST_TOKENS
        if self.model.max_length is None:
            return most
        around = len(self.writing.encode("x", self.tokenizer, self.template))
        longest: int = self.model.max_length
        return max(1, min(most, longest - around - self.writing.max_tokens))

    def write(self, sources: Sequence[str], max_tokens: int | None = None, num_beams: int = 1, said: str = "") -> list[Written]:
        """Write a text for each source, greedily, or with beams the likeliest found. said: what a progress bar is called, if any.

        Raises UserError on a source that does not fit the model: cut it first (`cut_chunks`).
        """
        most = max_tokens or self.writing.max_tokens
        prompts = [self.writing.encode(source, self.tokenizer, self.template) for source in sources]
        longest = self.model.max_length
        for number, prompt in enumerate(prompts, 1):
            if longest is not None and len(prompt) >= longest:
                raise UserError(f"source {number} takes {len(prompt):,} tokens", f"fewer than {longest:,}, all this model can see",
                                "shorten it")
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))  # those of about one length together
        written: dict[int, Written] = {}
        with track(said, len(prompts)) if said else contextlib.nullcontext() as advance:
            for batch in _gather(order, [len(prompt) for prompt in prompts], 1 if num_beams > 1 else _ROWS):
                for place, one in zip(batch, self._write([prompts[place] for place in batch], most, num_beams), strict=True):
                    written[place] = one
                if advance is not None:
                    advance(len(batch))
        return [written[place] for place in range(len(prompts))]

    def _write(self, prompts: list[list[int]], most: int, num_beams: int) -> list[Written]:
        ends = {self.tokenizer.separator_id, *(self.template.end_ids if self.template is not None else ())}
        if num_beams > 1:
            options = SampleOptions(max_tokens=most, temperature=0.0, num_beams=num_beams)
            best = search_beams(self.model, prompts[0], options, ends)[0]
            ids = [id for id in best.tokens if id not in ends]
            return [Written(self._decode(ids), best.finish_reason == "stop", len(ids))]
        return [Written(self._decode(answer.ids), answer.stopped, len(answer.ids))
                for answer in answer_prompts(self.model, prompts, ends, most)]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).strip()


def _gather(order: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Gather places into batches of at most `most`, and not many tokens."""
    batches: list[list[int]] = []
    for place in order:  # the longest of a batch comes last, and its length is what each of the others takes too
        if not batches or len(batches[-1]) == most or (len(batches[-1]) + 1) * lengths[place] > _ROW_TOKENS:
            batches.append([])
        batches[-1].append(place)
    return batches


def cut_chunks(text: str, room: int, tokenizer: Tokenizer, most: int | None = None) -> list[str]:
    """Cut a text into chunks of at most `room` tokens, ending where a paragraph or sentence does; `most`: only the first of them."""
    data = text.encode("utf-8", "replace")
    chunks: list[str] = []
    at = 0
    while at < len(data) and (most is None or len(chunks) < most):
        piece = data[at : at + _BYTES_OF_TOKEN * room]
        rest = piece.decode("utf-8", "ignore")
        ids = tokenizer.encode(rest)
        limit = len(piece) if len(ids) <= room else max(1, len(tokenizer.decode(ids[:room]).encode()))
        while True:
            start, end = next(cut_passages(data[at : at + _BYTES_OF_TOKEN * room], limit), (0, 0))
            chunk = data[at + start : at + end].decode("utf-8", "ignore")
            if len(tokenizer.encode(chunk)) <= room or limit < 4:
                break
            limit = limit * 3 // 4  # a tokenizer that changes its text, or cuts a word otherwise at its end
        if not end:
            break  # white space alone is left
        chunks.append(chunk)
        at += end
    return chunks


def save_writing(writing: Writing, folder: Path) -> None:
    """Write task.json."""
    write_json(folder / TASK, {"format": 1, "method": "decoder", **{name: getattr(writing, name) for name in (
        "task", "instruction", "chat", "joint", "max_tokens", "source_tokens", "target_words")}})


def read_writing(folder: Path, task: str) -> Writing:
    """Read task.json of a decoder's directory. Raises UserError when it is damaged, or of another task."""
    path = folder / TASK
    found = read_json(path, _MOST_BYTES) if path.is_file() else {}
    if not isinstance(found, dict) or found.get("task") != task or found.get("method") != "decoder":
        told = f"tells of {shown(found.get('task'))}" if isinstance(found, dict) and found else "is not there"
        raise UserError(f"{path} {told}", f"a decoder made for {task}", f"myna tune smollm2 DATA --task {task} --out DIR makes one")
    wrong = next((name for name, good in (
        ("instruction", _is_text(found.get("instruction"))), ("joint", _is_text(found.get("joint"))),
        ("chat", isinstance(found.get("chat"), bool)),
        ("max_tokens", _is_count(found.get("max_tokens"), 1)),
        ("source_tokens", _is_count(found.get("source_tokens"), 0)),
        ("target_words", _is_count(found.get("target_words"), 0))) if not good), "")
    if wrong:
        raise UserError(f"{shown(wrong)} in {path} is {shown(found.get(wrong))}", "what `myna tune` wrote there", "restore the file")
    return Writing(task, found["instruction"], max_tokens=found["max_tokens"], chat=found["chat"], joint=found["joint"],
                   source_tokens=found["source_tokens"], target_words=found["target_words"])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_INSTRUCTION


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_TOKENS
