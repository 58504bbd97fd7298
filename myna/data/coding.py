"""Sources and targets of a translator as ids: placeholders as numbered tokens, the nearest example beside the source.

A source is written with the example most like it, where there is one: source, how like it is, the example's source, its translation,
and the separator. A small model then learns to edit a translation where it could not have made one (Bulte and Tezcan 2019, "Neural
fuzzy repair", with the target alone). What does not fit the context is left out from the example's side; a source that does not fit
is the caller's to cut.

    coder = Coder(tokenizer, length=256)
    coded = coder.encode_source("{count} files", Example("{n} file", "{n} 个文件", 0.7))
    coder.decode(coder.encode_target("{count} 个文件", coded.masked), coded.masked)     # "{count} 个文件"
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from myna.data.placeholders import Masked, mask
from myna.tokenizer.tokenizer import Tokenizer

_MOST = 16  # placeholders that have a token of their own; one in ten thousand of the texts looked at has more
_LEVELS = (0.4, 0.6, 0.8)  # likenesses that are told apart: about quarters of the texts looked at
_NEAREST, _TRANSLATED = [f"<|nearest_{level}|>" for level in range(len(_LEVELS) + 1)], "<|translated|>"
_PLACEHOLDERS = [f"<|placeholder_{number}|>" for number in range(_MOST)]
SPECIAL_TOKENS = (*_NEAREST, _TRANSLATED, *_PLACEHOLDERS)
_SHARE = 2  # a source of more than this part of the context is too long: the rest is for an example


class Example(NamedTuple):
    """An example beside a source, and how like it is."""

    source: str
    target: str
    similarity: float


class Coded(NamedTuple):
    """A source as ids, and its placeholders."""

    ids: list[int]
    masked: Masked


class Coder:
    """Turns texts into ids and back. A tokenizer without Myna's tokens lends its spare special ones, as T5's <extra_id_0>."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        """Take a tokenizer and the context, in ids of a source and of a target."""
        self.tokenizer, self.length = tokenizer, length
        self.separator_id = tokenizer.separator_id
        names = {name: id for id, name in enumerate(tokenizer.token_names()) if id in tokenizer.special_ids}
        if all(name in names for name in SPECIAL_TOKENS):
            self.levels, self.translated = [names[name] for name in _NEAREST], names[_TRANSLATED]
            self.placeholders = [names[name] for name in _PLACEHOLDERS]
        else:
            spare = [id for name, id in sorted(names.items(), key=lambda item: item[1]) if name.startswith(("<extra_id_", "<|reserved_"))]
            self.levels, self.translated, self.placeholders = [], -1, spare[:_MOST]
        self._number = {id: number for number, id in enumerate(self.placeholders)}

    @property
    def longest(self) -> int:
        """Ids of a source alone at most, the separator included."""
        return self.length // _SHARE if self.levels else self.length

    def mask(self, text: str) -> Masked:
        """Find the placeholders of a source, as many as there are tokens for."""
        return mask(text, most=len(self.placeholders))

    def encode_parts(self, masked: Masked) -> list[int]:
        """Turn a text in parts into ids."""
        ids: list[int] = []
        for part in masked.parts:
            ids += [self.placeholders[part]] if isinstance(part, int) else self.tokenizer.encode(part)
        return ids

    def encode_source(self, text: str, example: Example | None = None) -> Coded:
        """Turn a source into ids, with an example beside it; the separator is last."""
        masked = self.mask(text)
        ids = self.encode_parts(masked)
        if example is not None and self.levels:
            source, target = align_example(example, masked)
            level = self.levels[sum(example.similarity >= step for step in _LEVELS)]
            beside = [level, *self.encode_parts(source), self.translated, *self.encode_parts(target)]
            if len(ids) + len(beside) < self.length:
                ids = ids + beside
        return Coded([*ids, self.separator_id], masked)

    def encode_target(self, text: str, masked: Masked) -> list[int]:
        """Turn a target into ids, its placeholders as the source's have numbers; the separator is last."""
        return [*self.encode_parts(mask(text, masked.found)), self.separator_id]

    def decode(self, ids: Iterable[int], masked: Masked) -> str:
        """Turn a target's ids into text, the source's placeholders in their places."""
        text: list[str] = []
        stretch: list[int] = []
        for id in ids:
            number = self._number.get(id)
            if number is None or number >= len(masked.found):
                stretch += [] if id in self.tokenizer.special_ids else [id]
                continue
            text += [self.tokenizer.decode(stretch), masked.found[number]]
            stretch = []
        return "".join([*text, self.tokenizer.decode(stretch)])


def align_example(example: Example, masked: Masked) -> tuple[Masked, Masked]:
    """Number an example's placeholders as a source's are: equal ones alike, the others in their order; those beyond stay away."""
    theirs = mask(example.source)
    free = list(range(len(masked.found)))
    numbers: dict[int, int] = {}
    for place, spelled in enumerate(theirs.found):
        same = next((number for number in free if masked.found[number] == spelled), None)
        if same is not None:
            numbers[place] = same
            free.remove(same)
    for place in range(len(theirs.found)):
        if place not in numbers and free:
            numbers[place] = free.pop(0)
    return _renumber(theirs, numbers), _renumber(mask(example.target, theirs.found), numbers)


def _renumber(masked: Masked, numbers: dict[int, int]) -> Masked:
    parts: Sequence[str | int] = masked.parts
    return Masked(tuple(part if isinstance(part, str) else numbers[part] for part in parts if isinstance(part, str) or part in numbers),
                  masked.found)
