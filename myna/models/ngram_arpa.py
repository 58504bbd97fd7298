"""Write an n-gram model as an ARPA file, and make one from an ARPA file: the words are the tokenizer's tokens.

The separator is `<s>` as a context and `</s>` as a prediction, so its node holds the log-probability of the one and the back-off weight of
the other. A file of another tool may have `<unk>`: its probability is shared evenly by the ids that are no word of the file, which keeps
the sum over all ids at 1.

    export_arpa(Ngram.open(folder), Tokenizer.open(folder), Path("model.arpa"))
    model = import_arpa(Path("model.arpa"), Tokenizer.open(folder))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import human, say
from myna.errors import UserError
from myna.formats.arpa import END, START, UNKNOWN, Arpa, read_arpa, spell_words, unspell, write_arpa
from myna.models.ngram import Ngram
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

_NEVER = -99.0  # log10 of what cannot be: SRILM's number for zero
_FAR = 0.01  # how far the 1-grams may sum from 1 before it is said: files give 4 to 7 digits


def export_arpa(model: Ngram, tokenizer: Tokenizer, out: Path) -> dict[str, Any]:
    """Write the model; returns {"bytes": size, "ngrams": [n per length], "words": n}. Raises UserError when ids do not fit."""
    if tokenizer.vocab_size != model.vocab_size or tokenizer.separator_id != model.separator_id:
        raise UserError(f"a tokenizer of {tokenizer.vocab_size:,} ids beside a model of {model.vocab_size:,}", "the model's own tokenizer",
                        "restore the directory")
    sizes = [len(chances) for _, chances, _ in model.levels()]
    write_arpa(out, word_list(tokenizer), model.separator_id, sizes, model.levels())
    return {"bytes": out.stat().st_size, "ngrams": sizes, "words": tokenizer.vocab_size}


def word_list(tokenizer: Tokenizer) -> list[str]:
    """Name every id as the ARPA file of a model over this tokenizer does (the separator is `<s>` and `</s>` there)."""
    names = {id: tokenizer.tokens([id])[0] for id in sorted(tokenizer.special_ids)}
    return spell_words(tokenizer.token_bytes, names)


def import_arpa(path: Path, tokenizer: Tokenizer, strict: bool = True) -> Ngram:
    """Read a model over a tokenizer's ids.

    Raises UserError when a word is no token or, if `strict`, when an id is no word and the file has no `<unk>` to share with it;
    otherwise such ids never occur.
    """
    arpa = read_arpa(path)
    ids, unknown = _match(arpa, tokenizer, path)
    _check_unknown(arpa, ids, path)
    chances, backoffs = _first_level(arpa, ids, unknown, tokenizer, path if strict else None)
    log_probs, weights, keys = [chances], [backoffs], []
    nodes, levels = ids, arpa.levels[1:]
    while levels and not len(levels[-1].words):
        levels.pop()
    for level in levels:
        key = nodes[level.contexts] * tokenizer.vocab_size + ids[level.words]
        level.backoffs[ids[level.words] == tokenizer.separator_id] = 0  # no context reaches across a separator
        order = np.argsort(key)
        nodes = np.empty(len(key), np.int64)
        nodes[order] = np.arange(len(key))
        keys.append(key[order])
        log_probs.append(_natural(level.log10[order]))
        weights.append(_natural(level.backoffs[order]))
    total = float(np.exp(chances.astype(np.float64)).sum())
    if abs(total - 1) > _FAR:
        say(f"{path}: the probabilities of its 1-grams sum to {total:.4f}, not to 1")
    return Ngram(tokenizer.vocab_size, tokenizer.separator_id, keys, log_probs, weights[:-1] if keys else [], {"smoothing": "imported"})


def _match(arpa: Arpa, tokenizer: Tokenizer, path: Path) -> tuple[Array, Array]:
    """Find the id of each word (W,), and the ids that are no word. `<unk>` is the one id that is no word; -1 where there are several."""
    separator = tokenizer.separator_id
    known = {word: id for id, word in enumerate(word_list(tokenizer)) if id != separator}
    by_bytes = {piece: id for id, piece in reversed(list(enumerate(tokenizer.token_bytes))) if piece}
    ids, taken = np.full(len(arpa.words), -1, np.int64), {separator: START}
    lines = arpa.levels[0].lines
    for number, word in enumerate(arpa.words):
        if word in (START, END):
            ids[number] = separator
        elif word not in UNKNOWN:
            # Which characters are printable differs between versions of Unicode, so the same bytes are the same token.
            id = known.get(word, by_bytes.get(unspell(word), -1))
            if id < 0 or id in taken:
                said = f"is the same token as {taken[id]!r}" if id in taken else "is no token of the tokenizer"
                raise UserError(f"{path}:{lines[number]}: the word {word[:40]!r} {said}", "the vocabulary that the model was made with",
                                "give its directory with --tokenizer")
            ids[number], taken[id] = id, word
    unknown = np.setdiff1d(np.arange(tokenizer.vocab_size), np.array(list(taken)))
    for mark in (START, END):
        if mark not in arpa.words:
            raise UserError(f"{path}:{lines[0] if len(lines) else 1}: the 1-grams have no {mark}", "both <s> and </s>")
    if len(unknown) == 1:
        ids[[number for number, word in enumerate(arpa.words) if word in UNKNOWN]] = unknown[0]
    return ids, unknown


def _check_unknown(arpa: Arpa, ids: Array, path: Path) -> None:
    """Refuse longer n-grams with `<unk>` unless it is one id: as many copies would be needed as there are ids that are no word."""
    rows = ids < 0  # n-grams, of the length at hand, that have such a word
    for level in arpa.levels[1:]:
        rows = rows[level.contexts] | (ids < 0)[level.words]
        for row in np.flatnonzero(rows)[:1]:
            raise UserError(f"{path}:{level.lines[row]}: an n-gram with <unk>, which here stands for several ids", "<unk> as a 1-gram only",
                            "make the model over a closed vocabulary")


def _first_level(arpa: Arpa, ids: Array, unknown: Array, tokenizer: Tokenizer, strict: Path | None) -> tuple[Array, Array]:
    """Lay the 1-grams over all ids: natural log-probabilities and back-offs, both (V,)."""
    chances, backoffs = np.full(tokenizer.vocab_size, _NEVER), np.zeros(tokenizer.vocab_size)
    level = arpa.levels[0]
    marks = {word: number for number, word in enumerate(arpa.words) if word in (START, END) or word in UNKNOWN}
    chances[ids], backoffs[ids] = level.log10, level.backoffs  # -1, several unknown ids, is put right below
    chances[tokenizer.separator_id], backoffs[tokenizer.separator_id] = level.log10[marks[END]], level.backoffs[marks[START]]
    shared = next((number for word, number in marks.items() if word in UNKNOWN), None)
    if shared is not None and len(unknown):
        chances[unknown] = level.log10[shared] - np.log10(len(unknown))
        backoffs[unknown] = level.backoffs[shared]
        say(f"<unk> is shared by the {human(len(unknown))} ids that are no word of the file")
    elif shared is not None:
        say("<unk> is left out: every id is a word of the file")
    elif strict and len(unknown):
        raise UserError(f"{strict}: {len(unknown):,} ids of the tokenizer are no words of it, such as {tokenizer.tokens(unknown[:1])[0]!r}",
                        "a word for every id, or <unk>", "give the tokenizer that the model was made with")
    return _natural(chances), _natural(backoffs)


def _natural(log10: Array) -> Array:
    return np.asarray(log10 * np.log(10), np.float32)
