"""Which tokens of a conversation are learned, and the report on that which is a gate: nothing is trained on labels that cannot work.

Of a conversation every answer and the token that ends it are learned, the rest is read only; of a text every token. The template
decides (`ChatTemplate.encode_example`), so the ids are those the model will see in a chat. What is longer than the context is cut
from its end backwards into parts that fit, each ending with an answer; an exchange that does not fit alone is dropped. A model that
never sees the end of an answer among its labels talks on for ever, so such data is refused.

    labelled, report = label_examples(examples, tokenizer, template, context=512)
    check_labels(report)
    print(show_labels(labelled[0], tokenizer))

T tokens of an example
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from myna.data.conversations import Example, Message
from myna.errors import UserError
from myna.tokenizer.tokenizer import Tokenizer

TURN_TOKENS = 5  # that a template usually writes around a message: two marks, the role, line ends
_SHOWN = 1200  # characters of the example that is shown
_LEARNED = ("[[", "]]")
_GREEN = ("\x1b[32m", "\x1b[0m")  # ECMA-48, select graphic rendition


class Template(Protocol):
    """What labels need of a chat template."""

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer."""

    def encode_example(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
        """Return the ids of a whole conversation, and which of them are learned."""


class Labelled(NamedTuple):
    """An example as ids, and which of them are learned: (T,) int64 and bool; pieces of one conversation have one `number`."""

    ids: npt.NDArray[np.int64]
    trained: npt.NDArray[np.bool_]
    number: int


@dataclass
class LabelReport:
    """What is learned of the examples and what is not, in counts."""

    context: int
    examples: int = 0
    conversations: int = 0
    "Of the examples, those that are no plain text."
    parts: int = 0
    "Pieces that fit the context, of all examples."
    spoken: int = 0
    "Pieces of conversations."
    tokens: int = 0
    trained: int = 0
    ends_trained: int = 0
    "Pieces of conversations in which the end of an answer is learned."
    longer: int = 0
    "Examples longer than the context."
    cut: int = 0
    "Tokens of exchanges that do not fit the context alone."
    dropped: int = 0
    "Examples of which nothing was left."
    doubled: int = 0
    "Pieces that begin with the same special token twice."
    unread: int = 0
    "Examples left unread, as those before them are enough."
    end_names: list[str] = field(default_factory=list)
    "The tokens that end an answer."
    end_is_pad: bool = False

    def said(self) -> list[str]:
        """Say it in lines."""
        share = self.trained / max(1, self.tokens)
        found = [f"{self.tokens:,} tokens in {self.parts:,} parts of at most {self.context:,}; {share:.1%} of them are learned"]
        if self.spoken:
            ends = " or ".join(self.end_names) or "no token"
            found.append(f"the end of an answer ({ends}) is learned in {self.ends_trained / self.spoken:.1%} of the parts")
        if self.longer:
            found.append(f"{self.longer:,} examples were longer than {self.context:,} tokens and were cut into parts that fit")
        if self.cut:
            share = self.cut / (self.tokens + self.cut)
            found.append(f"{self.cut:,} tokens ({share:.1%}) were dropped, in exchanges too long for the context")
        if self.unread:
            found.append(f"{self.unread:,} examples more are not needed: there is no time to learn from them")
        if self.dropped:
            found.append(f"{self.dropped:,} examples were dropped whole")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the counts."""
        return dict(vars(self))


def label_examples(examples: Sequence[Example], tokenizer: Tokenizer, template: Template | None, context: int,
                   enough: float = math.inf) -> tuple[list[Labelled], LabelReport]:
    """Turn examples into labelled ids of at most `context` + 1 each (the last is only predicted), and report on them.

    template: None for a model that has none: then only pairs of prompt and completion, and texts, can be learned from.
    enough: tokens after which no further example is read, when there are two: an interval needs as many.
    Raises UserError on a conversation without a template.
    """
    ends = template.end_ids if template is not None else frozenset({tokenizer.separator_id})
    report = LabelReport(context, end_names=tokenizer.tokens(sorted(ends)), end_is_pad=tokenizer.pad_id in ends)
    labelled: list[Labelled] = []
    number = 0
    for place, example in enumerate(examples):
        if report.tokens >= enough and number > 1:
            report.unread = len(examples) - place
            break
        report.examples += 1
        report.conversations += bool(example.messages)
        if not example.messages:
            pieces = _label_text(example, tokenizer, context, report)
        elif template is not None:
            pieces = _label_messages(example.messages, tokenizer, template, context, report)
        else:
            pieces = _label_pair(example, tokenizer, context, report)
        report.dropped += not pieces
        for ids, trained in pieces:
            if report.tokens >= enough and number > 1 and not example.messages:
                break  # of a long text, as much as is wanted
            number += not example.messages
            piece = Labelled(np.array(ids, dtype=np.int64), np.array(trained, dtype=bool), number)
            _count(piece, bool(example.messages), ends, tokenizer, report)
            labelled.append(piece)
        number += bool(example.messages)
    return labelled, report


def _count(piece: Labelled, spoken: bool, ends: frozenset[int], tokenizer: Tokenizer, report: LabelReport) -> None:
    learned = piece.ids[piece.trained]
    report.parts += 1
    report.tokens += len(piece.ids)
    report.trained += len(learned)
    report.doubled += len(piece.ids) > 1 and piece.ids[0] == piece.ids[1] and int(piece.ids[0]) in tokenizer.special_ids
    if spoken:
        report.spoken += 1
        report.ends_trained += bool(np.isin(learned, list(ends)).any())


def check_labels(report: LabelReport) -> None:
    """Raise UserError, with the reason, when nothing is learned, answers would never end, or texts begin wrongly."""
    if not report.trained:
        raise UserError(f"none of the {report.tokens:,} tokens is learned", "answers or text that fit the context",
                        "give a larger --context")
    if report.spoken and not report.ends_trained:
        ends = " or ".join(report.end_names)
        reason = (f"the end of an answer ({ends}) is also the token that fills rows, and is left out of the loss" if report.end_is_pad else
                  f"the end of an answer ({ends}) is in none of the {report.spoken:,} labels" if ends else
                  "the chat template writes no token after an answer")
        raise UserError(f"a model tuned on this cannot learn to stop: {reason}", "a template that ends each answer with a token of its own",
                        "mend chat_template.jinja in the model's directory")
    if report.doubled:
        raise UserError(f"{report.doubled:,} of {report.parts:,} examples begin with the same special token twice", "one",
                        "the chat template writes it and it is added again: take it out of chat_template.jinja")


def _label_messages(messages: tuple[Message, ...], tokenizer: Tokenizer, template: Template, context: int,
                    report: LabelReport) -> list[tuple[list[int], list[bool]]]:
    """Encode a conversation whole, or cut from its end backwards into parts of whole exchanges that fit."""
    sizes = [len(tokenizer.encode(message["content"])) for message in messages]
    if sum(sizes) <= context + 1 and len((whole := template.encode_example(messages))[0]) <= context + 1:
        return [whole]
    report.longer += 1
    begin = messages[:1] if messages[0]["role"] == "system" else ()
    spoken, sizes = messages[len(begin):], sizes[len(begin):]
    exchanges = [(spoken[at:at + 2], sum(sizes[at:at + 2])) for at in range(0, len(spoken), 2)]
    found: list[tuple[list[int], list[bool]]] = []
    around = TURN_TOKENS * 2  # what the template adds to an exchange: at first a guess, then what it did
    while exchanges:
        taken, size = 0, 0
        while taken < len(exchanges) and (not taken or size + exchanges[-1 - taken][1] + around <= context + 1):
            size += exchanges[-1 - taken][1] + around
            taken += 1
        part = template.encode_example((*begin, *(message for exchange, _ in exchanges[-taken:] for message in exchange)))
        if len(part[0]) > context + 1 and taken > 1:  # the guess was low
            around = max(around + 1, math.ceil((len(part[0]) - size) / taken) + around)
            continue
        if len(part[0]) > context + 1:
            report.cut += exchanges[-1][1]
        else:
            found.append(part)
        del exchanges[-taken:]
    return found[::-1]


def _label_pair(example: Example, tokenizer: Tokenizer, context: int, report: LabelReport) -> list[tuple[list[int], list[bool]]]:
    """Encode a prompt with its completion right behind it, for a model without a chat template."""
    if not example.pair:
        raise UserError(f"{example.where} is a conversation, and the model has no chat template", "a model with a chat template",
                        "tune a model that has one, or give rows of prompt and completion")
    prompt = tokenizer.encode("\n\n".join(message["content"] for message in example.messages[:-1]))
    answer = [*tokenizer.encode(example.messages[-1]["content"]), tokenizer.separator_id]
    if len(prompt) + len(answer) > context + 1:
        report.longer += 1
        report.cut += len(prompt) + len(answer)
        return []
    return [(prompt + answer, [False] * len(prompt) + [True] * len(answer))]


def _label_text(example: Example, tokenizer: Tokenizer, context: int, report: LabelReport) -> list[tuple[list[int], list[bool]]]:
    """Encode a text between separators; a long one in pieces, each id of which is predicted once."""
    separator = tokenizer.separator_id
    ids = [separator, *tokenizer.encode(example.text), *([separator] if example.ends else [])]
    report.longer += len(ids) > context + 1
    pieces = [ids[at:at + context + 1] for at in range(0, len(ids) - 1, context)]
    return [(piece, [False] + [True] * (len(piece) - 1)) for piece in pieces]


def show_labels(example: Labelled, tokenizer: Tokenizer, colour: bool = False) -> str:
    """Write an example as the model sees it, what is learned marked by colour or by [[ ]]; special tokens by their names."""
    begin, end = _GREEN if colour else _LEARNED
    parts: list[str] = []
    held: list[int] = []
    marked = False

    def flush() -> None:
        parts.append(_printable(tokenizer.decode(held)))
        held.clear()

    for id, trained in zip(example.ids.tolist(), example.trained.tolist(), strict=True):
        if trained != marked:
            flush()
            parts.append(begin if trained else end)
            marked = trained
        if id in tokenizer.special_ids:
            flush()
            parts.append(tokenizer.tokens([id])[0])
        else:
            held.append(id)
        if sum(map(len, parts)) > _SHOWN:
            break
    flush()
    shown = "".join(parts) + (end if marked else "")
    return shown + (" ..." if sum(map(len, parts)) > _SHOWN else "")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
