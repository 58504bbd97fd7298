"""The chat template: a conversation to text and ids, the same for training, for talking and for export.

A model directory holds a Jinja template that writes the turns of a conversation as one text. It is somebody else's program and
runs in `myna/tokenizer/sandbox.py`. Three rules make its ids safe and the same everywhere:

- The ids are made piece by piece: at every special token that the template itself wrote, and where an answer begins and ends. So the ids
  that a model is trained on are those it meets in a chat, whatever an answer begins with.
- What a person writes is text. "<|im_end|>" inside a message gives the ids of its letters: before rendering, such a text is broken
  by a private mark, which is taken out again after the rendered text was cut at its special tokens.
- An answer is learned from only where the template writes it as the model would have met it: the text before it must be the
  prompt of a chat. Templates that rewrite what was said before (that drop an earlier answer's thinking, say) teach the last answer alone.

Format: Hugging Face's `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`. The default is OpenAI's ChatML.

    template = ChatTemplate.open(Path("my-model"), tokenizer)
    ids = template.encode([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    ids, learned = template.encode_example([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}])
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from myna.errors import UserError, nearest
from myna.files import read_json, read_regular
from myna.tokenizer.sandbox import Sandbox
from myna.tokenizer.tokenizer import CHAT, Tokenizer

ROLES = ("system", "user", "assistant")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MAX_FILE = 64 << 20  # bytes of a JSON file beside a tokenizer: the largest published tokenizer.json is 33 MB
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode 16, section 23.7: for use inside a program only
_PROBE = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "An answer 7361"}]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class _Answer(NamedTuple):
    """Where an answer stands in the rendered text, or -1 where the template writes another text than a chat would have shown."""

    start: int
    end: int


class _Added(NamedTuple):
    """A special token of the tokenizer: its id, and whether it takes the white space beside it."""

    id: int
    left: bool = False
    right: bool = False


class ChatTemplate:
    """One template with the tokenizer it writes for. `rewritten` counts the examples of which only the last answer was learned."""

    def __init__(self, text: str, tokenizer: Tokenizer, variables: Mapping[str, str] | None = None, stop_ids: Sequence[int] = (),
                 where: str = "chat_template.jinja", added: Mapping[str, tuple[bool, bool]] | None = None, default: bool = False) -> None:
        """Take a template's text; `variables` are the names it may use (bos_token, ...), `stop_ids` end an answer besides its own mark.

        added: special tokens that take the white space to their left and right. default: the directory itself has no template.
        """
        self.text, self.where, self.is_default, self.rewritten = text, where, default, 0
        self._tokenizer = tokenizer
        self._sandbox = Sandbox(text, variables or {}, where)
        self._stop_ids = frozenset(stop_ids)
        self._specials = {name: _Added(id, *(added or {}).get(name, ())) for id in sorted(tokenizer.special_ids)
                          if len(name := tokenizer.tokens([id])[0]) > 1}  # one character cannot be broken; none is known
        names = sorted(self._specials, key=len, reverse=True)
        self._cutter = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        self._heads = {name[:size] for name in names for size in range(1, len(name))}
        self._tails = {name[size:] for name in names for size in range(1, len(name))}
        self._mark = next((c for c in _NONCHARACTERS if not any(c in name for name in names)), _NONCHARACTERS[0])

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
        """Read the template of a model directory; ChatML where there is none and the tokenizer has its marks. Raises UserError."""
        settings, described = _read(folder / "tokenizer_config.json"), _read(folder / "tokenizer.json")
        where = folder / "chat_template.jinja"
        text: Any = _named(settings.get("chat_template"))
        if where.is_file():
            if where.stat().st_size > _MAX_FILE:
                raise UserError(f"{where} is {where.stat().st_size:,} bytes long", "a chat template")
            text = read_regular(where).decode("utf-8", "replace")
        elif isinstance(text, str):
            where = folder / "tokenizer_config.json"
        default = not isinstance(text, str)
        if default:
            names = {tokenizer.tokens([id])[0] for id in tokenizer.special_ids}
            if not names.issuperset(CHAT):
                raise UserError(f"{folder} has no chat template", "a model that was made for conversations",
                                "tune it on conversations with `myna tune`, or continue a text with `myna generate`")
            text = CHATML
        variables = _variables(_read(folder / "special_tokens_map.json")) | _variables(settings)
        added = {str(token.get("content")): (token.get("lstrip") is True, token.get("rstrip") is True)
                 for token in _list(described.get("added_tokens")) if isinstance(token, dict)}
        eos = _read(folder / "generation_config.json").get("eos_token_id")
        stops = [id for id in (eos if isinstance(eos, list) else [eos]) if type(id) is int and 0 <= id < tokenizer.vocab_size]
        return cls(text, tokenizer, variables, stops, "ChatML" if default else str(where), added, default)

    def render(self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool = False) -> str:
        """Write a conversation as text, ending with the words that open an answer where asked. Raises UserError."""
        return self._sandbox.render(check_messages(messages), add_generation_prompt)

    def encode(self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool = False) -> list[int]:
        """Turn a conversation into ids; nothing inside a message is a special token. Raises UserError."""
        text, answers, mark = self._divide(check_messages(messages), add_generation_prompt)
        return [id for start, end in _pieces(text, answers) for id in self._encode(text[start:end], mark, start == 0)]

    def encode_example(self, messages: Sequence[Mapping[str, object]]) -> tuple[list[int], list[bool]]:
        """Turn a whole conversation into ids, and tell of each whether it is learned: every answer and what ends its turn.

        Where the template writes an earlier answer otherwise than a chat would have shown it, only the last one is learned, and
        `rewritten` counts the example. Raises UserError when not even the last one can be.
        """
        text, answers, mark = self._divide(check_messages(messages), False)
        if any(min(answer) < 0 for answer in answers):
            if min(answers[-1]) < 0:
                raise UserError(f"the chat template ({self.where}) writes an answer otherwise than it asks for one",
                                "a template whose text of a conversation goes on from its own generation prompt", "use another template")
            self.rewritten += 1
            taught = answers[-1:]
        else:
            taught = answers
        ids: list[int] = []
        learned: list[bool] = []
        for start, end in _pieces(text, answers):
            piece = self._encode(text[start:end], mark, start == 0)
            ids += piece
            learned += [any(answer.start <= start and end <= answer.end for answer in taught)] * len(piece)
        return ids, learned

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer: the mark that the template writes after one, and those of generation_config.json."""
        probe = _PROBE[-1]["content"]
        try:
            text = self.render(_PROBE)
        except UserError:  # it wants another conversation than the probe; a real one will say what
            return self._stop_ids
        after = text[text.rfind(probe) + len(probe):].strip() if probe in text else ""
        found = self._cutter.search(after) if self._cutter else None
        if found:
            return self._stop_ids | {self._specials[found[0]].id}
        ids = self._encode(after, "", False)  # an added token that is not special, as in a few published models
        return self._stop_ids | (set(ids) if len(ids) == 1 else set())

    def answer_text(self, said: str) -> str:
        """Take from what a model said what the template itself writes around every answer, such as a space before it."""
        before, after = self._around
        return said.removeprefix(before).removesuffix(after)

    @functools.cached_property
    def _around(self) -> tuple[str, str]:
        """What the template writes between its generation prompt and an answer, and between that and the mark of its end."""
        probe = _PROBE[-1]["content"]
        try:
            before, text = self.render(_PROBE[:-1], add_generation_prompt=True), self.render(_PROBE)
        except UserError:
            return "", ""
        at = text.rfind(probe)
        if at < len(before) or not text.startswith(before):
            return "", ""
        after = text[at + len(probe):]
        found = self._cutter.search(after) if self._cutter else None
        return text[len(before):at], after[:found.start()] if found else ""

    def _divide(self, messages: list[Message], add_generation_prompt: bool) -> tuple[str, list[_Answer], str]:
        """Render with broken special tokens: the text, where each answer stands, and the mark to take out."""
        messages, mark = self._break(messages)
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        begun = [place for place in places if place]
        text, *rest = self._sandbox.render_each([(messages, add_generation_prompt), *((messages[:place], True) for place in begun),
                                                 *((messages[:place + 1], False) for place in places)])
        before = {0: ""} | dict(zip(begun, rest, strict=False))
        answers = []
        for place, shown in zip(places, rest[len(begun):], strict=True):
            after = shown.rstrip()
            start = len(before[place]) if text.startswith(before[place]) else -1
            answers.append(_Answer(start, max(len(after), start) if text.startswith(after) else -1))
        return text, answers, mark

    def _break(self, messages: list[Message]) -> tuple[list[Message], str]:
        """Put a mark, which no message holds, into every special token's text inside the messages, and where one might arise.

        It might where a message begins with the end of a special token, or ends with the beginning of one: the template may have
        written the rest. White space at both ends stays outside, for templates that trim.
        """
        longest = max((len(run) for message in messages for run in re.findall(f"{self._mark}+", message["content"])), default=0)
        mark = self._mark * (longest + 1)
        if self._cutter is None:
            return messages, mark
        return [Message(role=message["role"], content=self._break_text(message["content"], mark)) for message in messages], mark

    def _break_text(self, text: str, mark: str) -> str:
        assert self._cutter is not None
        core = text.strip()
        if not core:
            return text
        inside, at = "", 0
        while found := self._cutter.search(core, at):  # after its first character: another may begin inside it
            inside += core[at:found.start() + 1] + mark
            at = found.start() + 1
        inside += core[at:]
        sizes = range(1, min(len(core), max(map(len, self._specials))) + 1)
        within = any(core in name for name in self._specials)
        front = within or any(core[:size] in self._tails for size in sizes)
        back = within or any(core[-size:] in self._heads for size in sizes)
        begin = len(text) - len(text.lstrip())
        return text[:begin] + mark * front + inside + mark * back + text[begin + len(core):]

    def _encode(self, text: str, mark: str, first: bool) -> list[int]:
        """Turn a piece of rendered text into ids: special tokens by name, what is between as text. first: it begins the conversation."""
        parts = self._cutter.split(text) if self._cutter else [text]
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids.append(self._specials[part].id)
                continue
            if place and self._specials[parts[place - 1]].right:
                part = part.lstrip()
            if place + 1 < len(parts) and self._specials[parts[place + 1]].left:
                part = part.rstrip()
            ids += self._encode_text(part.replace(mark, "") if mark else part, joined=not place and not first)
        return ids

    def _encode_text(self, text: str, joined: bool) -> list[int]:
        """Turn text into ids; `joined` to what stands before it, it gets no space of its own where a tokenizer would add one."""
        if not text or not (joined and self._adds_space):
            return self._tokenizer.encode(text) if text else []
        line = self._tokenizer.encode("\n")
        ids = self._tokenizer.encode("\n" + text)
        return ids[len(line):] if ids[:len(line)] == line else self._tokenizer.encode(text)

    @functools.cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer begins a text with a space (SentencePiece's habit)."""
        line = self._tokenizer.encode("\n")
        return self._tokenizer.encode("\na")[len(line):] != self._tokenizer.encode("a")


def _pieces(text: str, answers: Sequence[_Answer]) -> list[tuple[int, int]]:
    """Cut a text where answers begin and end: (start, end) of each piece that is not empty."""
    cuts = sorted({0, len(text), *(place for answer in answers for place in answer if place >= 0)})
    return list(itertools.pairwise(cuts))


def check_messages(messages: Sequence[Mapping[str, object]]) -> list[Message]:
    """Check a conversation and keep only what every template reads."""
    checked = []
    for number, message in enumerate(messages, 1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if role not in ROLES:
            raise UserError(f"message {number} has the role {role!r}{nearest(str(role), list(ROLES))}", "one of " + ", ".join(ROLES))
        if not isinstance(content, str):
            raise UserError(f"the content of message {number} is {type(content).__name__}", "text")
        checked.append(Message(role=role, content=content))
    if not checked:
        raise UserError("an empty conversation", "at least one message")
    return checked


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object that may be absent."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_FILE:
        raise UserError(f"{path} is {path.stat().st_size:,} bytes long", f"at most {_MAX_FILE:,}")
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(value: Any) -> str | None:
    """Take the template called default where there are several."""
    for entry in _list(value):
        if isinstance(entry, dict) and entry.get("name") == "default":
            value = entry.get("template")
    return value if isinstance(value, str) else None


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """Read the tokens that a template may name: bos_token, eos_token, ..., each a string or a dictionary with its content."""
    contents = {name: value.get("content") if isinstance(value, dict) else value for name, value in settings.items()
                if name.endswith("_token")}
    return {name: value for name, value in contents.items() if isinstance(value, str)}
