"""Conversations, questions with answers, or plain text, from rows in the formats that people share; told apart by their columns.

    alpaca              instruction, input (may be empty), output                 tatsu-lab/alpaca
    sharegpt            conversations: [{from: human | gpt | system, value}]      the ShareGPT dumps
    messages            messages: [{role: user | assistant | system, content}]    the OpenAI and Hugging Face chat format
    prompt/completion   prompt, completion; question, answer; and the like        CSV as a rule
    text                text, or a file of plain text: every token is learned

Pairs of a better and a worse answer (DPO) are refused by name: this is not how they are learned from. What is dropped or cut is
counted, with the first place. The split is by the hash of a conversation, so equal ones never stand on both sides.

    reading = read_conversations([Path("train.jsonl")], RowsOptions())
    parts = split_examples(reading.examples, SplitOptions())
    parts["train"][0].messages, reading.formats
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from myna.corpus.options import SplitOptions
from myna.corpus.read import walk
from myna.corpus.split import cut_sections, rank_units
from myna.corpus.store import PARTS, RANGE
from myna.corpus.tables import TEXT_KEYS
from myna.data.options import RowsOptions
from myna.data.rows import FORMATS, Row, format_of, read_rows
from myna.errors import UserError, nearest
from myna.files import sha256

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

_LISTS = ("messages", "conversations", "conversation")
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"), ("question", "answer"), ("question", "response"),
          ("query", "response"), ("input", "output"), ("instruction", "response"))
_TEXTS = tuple(key for key in TEXT_KEYS if key != "completion")
_ROLES = {"system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
          "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_KNOWN = sorted({*_LISTS, *_TEXTS, "instruction", "output", *(name for pair in _PAIRS for name in pair)})
_SURROGATES = re.compile("[\ud800-\udfff]")  # undecodable bytes, or halves of a pair that a JSON escape left alone
_FEW, _LARGE_SHARE, _SECTIONS = 20, 0.2, 40  # as in myna.corpus.split: when texts are cut into sections, and into how many
_LEAST_SECTION = 512
_LEAST_HELD_OUT = 2  # conversations: an interval needs as many


@dataclass(frozen=True)
class Example:
    """What is learned from together: messages that end with an answer, or a text."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    where: str = ""
    "file:line"
    pair: bool = False
    "The messages are a prompt and its completion, which a model without a chat template can learn from too."
    ends: bool = True
    "The text ends here; false of a section that goes on."

    @property
    def key(self) -> bytes:
        """Hash what is learned from, 16 bytes: equal for equal conversations."""
        value = json.dumps([self.messages, self.text], ensure_ascii=False, sort_keys=True)
        return hashlib.blake2b(value.encode("utf-8"), digest_size=16).digest()

    @property
    def question(self) -> tuple[Message, ...]:
        """The messages before the first answer."""
        answered = next((place for place, message in enumerate(self.messages) if message["role"] == "assistant"), len(self.messages))
        return self.messages[:answered]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all contents."""
        return len(self.text.encode()) + sum(len(message["content"].encode()) for message in self.messages)


@dataclass
class Problem:
    """How many rows had it, and where the first is."""

    count: int = 0
    first: str = ""


@dataclass
class Reading:
    """What was read: examples, how many rows of which format, and what was dropped or cut."""

    examples: list[Example] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    problems: dict[str, Problem] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)

    def note(self, what: str, where: str) -> None:
        """Count a problem."""
        problem = self.problems.setdefault(what, Problem(0, where))
        problem.count += 1

    def said(self) -> list[str]:
        """Say in lines what was found: the formats with their columns and rows, then the problems with their first place."""
        found = [f"{name}; {count:,} {'row' if count == 1 else 'rows'}" for name, count in self.formats.most_common()]
        found += [f"{len(self.formats)} formats are mixed"] if len(self.formats) > 1 else []
        return found + [f"{problem.count:,} {what} (first: {problem.first})" for what, problem in self.problems.items()]


def read_conversations(paths: Sequence[Path], options: RowsOptions) -> Reading:
    """Read files and folders of rows. Raises UserError on a row that cannot be read unless `skip_bad`, and when nothing is left."""
    reading = Reading()
    seen: set[bytes] = set()
    for found in walk(paths):
        if found.reason or not format_of(found.path):
            reason = found.reason or f"not one of {', '.join(FORMATS)}"
            if found.path in paths:
                raise UserError(f"{found.name}: {reason}", "rows of JSONL, JSON, CSV, TSV or Parquet, or a text file")
            reading.note(f"files not read: {reason}", found.name)
            continue
        before = len(reading.examples)
        size = 0
        for row in read_rows(found.path):
            example = _take(row, f"{found.name}:{row.line}", options, reading)
            if example is None:
                continue
            if example.key in seen:
                reading.note("duplicates dropped", example.where)
                continue
            seen.add(example.key)
            reading.examples.append(example)
            size += example.bytes
        reading.files.append({"path": found.name, "sha256": sha256(found.path), "bytes": found.path.stat().st_size, "kept": size,
                              "status": "ok", "format": format_of(found.path), "documents": len(reading.examples) - before})
    if not reading.examples:
        raise UserError("no conversation and no text is left to learn from" + "".join(f"; {line}" for line in reading.said()[:3]),
                        "rows with an answer, or text")
    return reading


def _take(row: Row, where: str, options: RowsOptions, reading: Reading) -> Example | None:
    """Turn a row into an example; None, counted, when it is left out."""
    try:
        if row.problem:
            raise _BadRowError(row.problem)
        name, example = _read(row.value, where, options)
    except _BadRowError as error:
        if not options.skip_bad:
            raise UserError(f"{where}: {error.args[0]}", error.args[1] if len(error.args) > 1 else "a row that can be read",
                            error.args[2] if len(error.args) > 2 else "mend the row, or pass over such rows with --skip-bad") from None
        reading.note("bad rows passed over", where)
        return None
    except _NoTextError:
        reading.note("rows with a content that is no text dropped", where)
        return None
    reading.formats[name] += 1
    if any(_SURROGATES.search(content) for content in (example.text, *(message["content"] for message in example.messages))):
        reading.note("rows with broken characters, each now U+FFFD", where)
        clean = tuple({**message, "content": _SURROGATES.sub("\ufffd", message["content"])} for message in example.messages)
        example = dataclasses.replace(example, messages=clean, text=_SURROGATES.sub("\ufffd", example.text))
    return _check(example, reading)


class _BadRowError(Exception):
    """A row that cannot be read: what it is, what was expected, what to do."""


class _NoTextError(Exception):
    """A content that is no text: null, where a tool was called, or a number."""


def _read(value: Mapping[str, Any], where: str, options: RowsOptions) -> tuple[str, Example]:
    """Return the name of a row's format with its columns, and what it says; raises _BadRowError when no format has such columns."""
    if "chosen" in value and "rejected" in value:
        raise UserError(f"{where} holds preference pairs (chosen, rejected), as DPO learns from", "rows with one answer each",
                        "keep the column of chosen answers and tune on that")
    for column in (options.prompt, options.answer, options.text):
        if column and column not in value:
            raise UserError(f"{where} has no column {column!r}{nearest(column, list(value))}", f"one of {', '.join(map(str, value))}")
    named = (options.prompt, options.answer) if options.prompt and options.answer else None
    if bool(options.prompt) != bool(options.answer):
        raise UserError("only one of the columns of prompt and answer is named", "both", "--rows.prompt COLUMN --rows.answer COLUMN")
    system = _system(value)
    if named is None and not options.text:
        for name in _LISTS:
            if isinstance(value.get(name), list):
                turns, kind = _turns(value[name])
                begun = system if not turns or turns[0]["role"] != "system" else ()
                return f"{kind}: {name}", Example((*begun, *turns), where=where)
        if "instruction" in value and "output" in value:
            columns = [name for name in ("instruction", "input", "output") if name in value]
            more = _text(value.get("input") or "")
            asked = _text(value["instruction"]) + (f"\n\n{more}" if more.strip() else "")
            return f"alpaca: {', '.join(columns)}", Example((*system, *_pair(asked, _text(value["output"]))), where=where, pair=True)
    pair = named or (None if options.text else next((pair for pair in _PAIRS if pair[0] in value and pair[1] in value), None))
    if pair is not None:
        question, answer = (_text(value[name]) for name in pair)
        return f"prompt/completion: {pair[0]}, {pair[1]}", Example((*system, *_pair(question, answer)), where=where, pair=True)
    column = options.text or next((name for name in _TEXTS if name in value), "")
    if column:
        return f"text: {column}", Example(text=_text(value[column]), where=where)
    columns = [str(name) for name in value]
    close = next((hint for name in columns if name not in _KNOWN and (hint := nearest(name, _KNOWN))), "")
    raise _BadRowError(f"columns {', '.join(columns)[:200] or 'none'}{close}",
                       "messages, conversations, instruction and output, prompt and completion, question and answer, or text",
                       "name them: --rows.prompt COLUMN --rows.answer COLUMN, or --rows.text COLUMN")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _NoTextError
    return value


def _system(value: Mapping[str, Any]) -> tuple[Message, ...]:
    given = next((value[name] for name in ("system", "system_prompt") if isinstance(value.get(name), str)), "")
    return ({"role": "system", "content": given},) if given.strip() else ()


def _pair(question: str, answer: str) -> tuple[Message, Message]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _turns(listed: list[Any]) -> tuple[tuple[Message, ...], str]:
    """Read a list of turns, spelled role/content or from/value, and name the spelling."""
    turns, kind = [], "messages"
    for turn in listed:
        if not isinstance(turn, dict):
            raise _BadRowError(f"a turn that is no object ({type(turn).__name__})", "role and content, or from and value")
        if "from" in turn and "value" in turn:
            kind, role, content = "sharegpt", turn["from"], turn["value"]
        elif "role" in turn and "content" in turn:
            role, content = turn["role"], turn["content"]
        else:
            raise _BadRowError(f"a turn with {', '.join(map(str, turn))[:80]}", "role and content, or from and value")
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise _BadRowError(f"a turn of {str(role)[:40]!r}{nearest(str(role)[:40], list(_ROLES))}", "system, user or assistant")
        turns.append({"role": _ROLES[role.lower()], "content": _text(content)})
    return tuple(turns), kind


def _check(example: Example, reading: Reading) -> Example | None:
    """Leave out what cannot be learned from, counted: an order that is no conversation, emptiness, a question without an answer."""
    if not example.messages:
        if not example.text.strip():
            reading.note("empty texts dropped", example.where)
            return None
        return example
    messages = list(example.messages)
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if messages[-1]["role"] == "user" and "assistant" in spoken:
        reading.note("conversations that ended with a user's turn, which was cut", example.where)
        while messages[-1]["role"] != "assistant":
            messages.pop()
    begin = int(messages[0]["role"] == "system")
    roles = [message["role"] for message in messages[begin:]]
    if "assistant" not in spoken:
        reading.note("conversations without an answer dropped", example.where)
    elif roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        reading.note("conversations with roles in a wrong order dropped", example.where)
    elif any(not message["content"].strip() for message in messages if message["role"] == "assistant"):
        reading.note("conversations with an empty answer dropped", example.where)
    elif any(not message["content"].strip() for message in messages):
        reading.note("conversations with an empty question dropped", example.where)
    else:
        return dataclasses.replace(example, messages=tuple(messages))
    return None


def split_examples(examples: Sequence[Example], options: SplitOptions) -> dict[str, list[Example]]:
    """Divide examples into train, valid and test by their hashes, by `myna.corpus.split`'s rule; at least two each held out.

    Few or large texts are first cut into sections. Raises UserError when nothing is left to train on.
    """
    units = _cut_texts(examples)
    rows = np.zeros(len(units), dtype=RANGE)
    ends = np.cumsum([unit.bytes for unit in units])
    rows["end"], rows["start"] = ends, [0, *ends[:-1]]
    keys = np.array([unit.key for unit in units], dtype="V16")
    part = np.zeros(len(units), dtype=np.int8)
    wanted = [(PARTS.index("test"), options.test_fraction), (PARTS.index("valid"), options.valid_fraction)]
    rank_units(part, rows, keys, np.arange(len(units)), wanted, _LEAST_HELD_OUT)
    parts = {name: [unit for unit, chosen in zip(units, part, strict=True) if chosen == number] for number, name in enumerate(PARTS)}
    if not parts["train"] or len(parts["valid"]) < _LEAST_HELD_OUT:
        raise UserError(f"{len(units)} different {'conversation' if len(units) == 1 else 'conversations'} are too few to hold some out",
                        f"at least {2 * _LEAST_HELD_OUT + 1}", "give more rows")
    return parts


def _cut_texts(examples: Sequence[Example]) -> list[Example]:
    """Cut texts into sections at paragraph ends when they are few, or one is a large share of all."""
    total = sum(example.bytes for example in examples)
    texts = [example for example in examples if not example.messages]
    if not texts or (len(examples) >= _FEW and max(example.bytes for example in texts) <= _LARGE_SHARE * total):
        return list(examples)
    size = max(_LEAST_SECTION, total // _SECTIONS)
    found: list[Example] = []
    for example in examples:
        data = example.text.encode("utf-8")
        if example.messages or len(data) <= size + size // 2:
            found.append(example)
            continue
        sections = [piece.decode("utf-8") for piece in cut_sections(io.BytesIO(data), 0, len(data), size)]
        found += [dataclasses.replace(example, text=text, ends=number == len(sections)) for number, text in enumerate(sections, 1)]
    return found
