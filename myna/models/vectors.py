"""Word vectors: each word as a point, near to the words that stand in the same company.

A word's vector is trained to tell the words that really stand near it from words drawn at random. What comes out can be looked
at (`nearest`, `analogy`), and can begin the table of a neural model (`embeddings_for`).

Source: Mikolov, Chen, Corrado & Dean 2013, "Efficient Estimation of Word Representations in Vector Space"; parts of words:
Bojanowski, Grave, Joulin & Mikolov 2017, "Enriching Word Vectors with Subword Information", section 3.2.

    vectors = fit_vectors(train.ids, tokenizer, tokenizer.separator_id, VectorsOptions())     # myna.models.vectors_fit
    vectors.nearest("king", 5)                         # [("queen", 0.71), ...]

V words, B buckets of parts, C numbers in a vector.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, nearest
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.formats.word2vec import read_word2vec
from myna.models.directory import whole
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

_SHORTEST, _LONGEST = 3, 6  # characters in a part of a word, Bojanowski et al. 2017, section 4.3
_LARGEST = 1 << 31  # numbers in a table
_MARK = "\u2581"  # stands for a space inside a token's name, as SentencePiece writes it
# How the table of a neural model is called at the end of its tensor's name: Llama's and Qwen's, GPT-2's, BERT's, T5's and Marian's,
# Myna's own recurrent models.
_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embedding.weight", "embeddings.weight")


class Vectors:
    """Words, their vectors, and what they were trained with; made by `fit_vectors`, `Vectors.open` or `import_word2vec`."""

    def __init__(self, words: Sequence[str], inputs: Array, outputs: Array | None = None, counts: Array | None = None,
                 facts: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> None:
        """Take words (V,), inputs (V + B, C), outputs (V, C) and counts (V,); `facts` is what config.json tells beside the sizes."""
        self.words = list(words)
        self.inputs, self.outputs = inputs, outputs
        self.counts = np.zeros(len(self.words), np.int64) if counts is None else counts
        self.facts = dict(facts or {})
        self.tokenizer = tokenizer
        self._rows: dict[str, int] = {}
        for row, word in enumerate(self.words):
            self._rows.setdefault(word, row)

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        method = {"skipgram": "skip-gram", "cbow": "CBOW"}.get(str(self.facts.get("method")), "imported")
        return f"word vectors ({method}{', parts of words' if self.buckets else ''})"

    @property
    def vocab_size(self) -> int:
        """How many words have a vector."""
        return len(self.words)

    @property
    def buckets(self) -> int:
        """How many vectors the parts of words share; 0 without them."""
        return len(self.inputs) - len(self.words)

    @functools.cached_property
    def table(self) -> npt.NDArray[np.float32]:
        """The vectors (V, C): with parts, the mean of a word's own and theirs."""
        if not self.buckets:
            return np.asarray(self.inputs, np.float32)
        return np.stack([self.inputs[[row, *self._parts(word)]].mean(0) for row, word in enumerate(self.words)])

    @functools.cached_property
    def _unit(self) -> npt.NDArray[np.float32]:
        return _normalized(self.table)

    def _parts(self, word: str) -> list[int]:
        return [self.vocab_size + bucket for bucket in hash_parts(word, self.buckets)]

    def vector(self, word: str) -> npt.NDArray[np.float32]:
        """Give a word's vector (C,).

        A word that was not seen gets the mean of its parts' vectors where those were trained, or of its tokens' vectors where
        the words are tokens. Raises UserError, with the nearest spelling, when there is nothing to go by.
        """
        row = self.find(word)
        if row is not None:
            return np.asarray(self.table[row], np.float32)
        if self.buckets and word:
            return np.asarray(self.inputs[self._parts(word.lower() if self._merged else word)].mean(0), np.float32)
        pieces = []
        if self.tokenizer is not None and not self._merged:
            names = name_tokens(self.tokenizer, self._merged)
            pieces = [self._rows[name] for id in self.tokenizer.encode(f" {word}") if (name := names[id]) in self._rows]
        if not pieces:
            raise UserError(f"no vector for {word!r}{nearest(word, self.words)}", f"one of {len(self.words):,} words")
        return np.asarray(self.table[pieces].mean(0), np.float32)

    def find(self, word: str) -> int | None:
        """Give the row of a word, None when it has none: as it is, after a space, or in small letters."""
        tried = (word, word.lower()) if self._merged else (f"{_MARK}{word}", word)
        return next((self._rows[form] for form in tried if form in self._rows), None)

    @property
    def _merged(self) -> bool:
        return self.facts.get("forms") != "tokens"

    def nearest(self, word: str, n: int = 10) -> list[tuple[str, float]]:
        """List the `n` words whose vectors point most nearly the same way, with the cosine, best first."""
        return self._closest(self.vector(word), n, [word])

    def analogy(self, a: str, b: str, c: str, n: int = 10) -> list[tuple[str, float]]:
        """List the words that are to `c` as `b` is to `a`: nearest to b - a + c, these three left out (same paper, section 4)."""
        first, second, third = (_normalized(self.vector(word)[None])[0] for word in (a, b, c))
        return self._closest(second - first + third, n, [a, b, c])

    def _closest(self, vector: Array, n: int, without: Sequence[str]) -> list[tuple[str, float]]:
        if n < 1:
            raise UserError(f"n is {n}", "1 or more")
        cosines = self._unit @ _normalized(vector[None])[0]
        hidden = {row for word in without if (row := self.find(word)) is not None}
        best = np.argsort(-cosines, kind="stable")[: n + len(hidden)]
        return [(self.words[row], float(cosines[row])) for row in best.tolist() if row not in hidden][:n]

    def embeddings_for(self, tokenizer: Tokenizer, hidden_size: int, std: float = 0.02,
                       seed: int = 0) -> tuple[npt.NDArray[np.float32], int]:
        """Make a table (V, hidden_size) to begin a neural model with, and say how many of its tokens have a vector here.

        Vectors are turned onto their `hidden_size` main directions, or widened by random numbers, and scaled as a whole to the
        deviation `std` of the model's own beginning; the other rows are normal random numbers of that deviation.
        """
        table = np.random.default_rng(seed).normal(0, std, (tokenizer.vocab_size, hidden_size)).astype(np.float32)
        rows = [self._rows.get(name, -1) if name is not None else -1 for name in name_tokens(tokenizer, self._merged)]
        found = np.flatnonzero(np.array(rows) >= 0)
        if not len(found):
            return table, 0
        known = self.table[np.array(rows)[found]].astype(np.float64)
        if hidden_size < known.shape[1]:
            _, directions = np.linalg.eigh(known.T @ known)  # of the smallest first
            known = known @ directions[:, ::-1][:, :hidden_size]
        table[found, : known.shape[1]] = known * (std / max(float(np.sqrt(np.mean(known**2))), 1e-12))
        return table, len(found)

    def save(self, folder: Path) -> None:
        """Write config.json, words.json, model.safetensors and, where there is one, the tokenizer."""
        from safetensors.numpy import save

        tensors = {"input": np.ascontiguousarray(self.inputs, np.float32)}
        if self.outputs is not None:
            tensors["output"] = np.ascontiguousarray(self.outputs, np.float32)
        write_atomic(folder / "model.safetensors", save(tensors))
        write_json(folder / "words.json", {"words": self.words, "counts": self.counts.tolist()})
        write_json(folder / "config.json", {"model_type": "vectors", "vocab_size": self.vocab_size, "hidden_size": self.inputs.shape[1],
                                            "buckets": self.buckets, **self.facts})
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """Read a directory that `save` wrote. Raises UserError when anything in it cannot be."""
        path = folder / "config.json"
        config = read_json(path)
        if not isinstance(config, dict) or config.get("model_type") != "vectors":
            raise UserError(f"{path} tells of no word vectors", "model_type vectors", "give the directory of another build")
        V, C, B = whole(path, config, "vocab_size"), whole(path, config, "hidden_size"), whole(path, config, "buckets", low=0)
        if (V + B) * C > _LARGEST:
            raise UserError(f"{path} tells of {V + B:,} vectors of {C:,} numbers", f"{_LARGEST:,} numbers at most", "restore the file")
        words, counts = _read_words(folder / "words.json", V)
        stored = open_weights(folder)
        wanted = {"input": (V + B, C), **({"output": (V, C)} if "output" in stored else {})}
        if {name: tensor.shape for name, tensor in stored.items()} != wanted:
            raise UserError(f"{folder / 'model.safetensors'} has other tables than config.json says", str(wanted), "restore the files")
        tables = {name: tensor.read() for name, tensor in stored.items()}
        if not all(np.isfinite(table).all() for table in tables.values()):
            raise UserError(f"{folder / 'model.safetensors'} holds numbers that are not finite", "word vectors", "restore the file")
        tokenizer = Tokenizer.open(folder) if (folder / "tokenizer.json").is_file() else None
        facts = {key: value for key, value in config.items() if key not in ("model_type", "vocab_size", "hidden_size", "buckets")}
        return cls(words, tables["input"], tables.get("output"), counts, facts, tokenizer)


def _read_words(path: Path, size: int) -> tuple[list[str], Array]:
    found = read_json(path)
    words, counts = (found.get("words"), found.get("counts")) if isinstance(found, dict) else (None, None)
    if (not isinstance(words, list) or not isinstance(counts, list) or len(words) != size or len(counts) != size
            or not all(isinstance(word, str) for word in words)
            or not all(isinstance(count, int) and 0 <= count < 1 << 62 for count in counts)):
        raise UserError(f"{path} is damaged", f"{size:,} words and their counts, as config.json says", "restore the file")
    return words, np.array(counts, np.int64)


def _normalized(table: Array) -> npt.NDArray[np.float32]:
    return np.asarray(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12), np.float32)


def hash_parts(word: str, buckets: int) -> list[int]:
    """Number the parts of a word, 3 to 6 characters of `<word>` with its marks, by their CRC-32 into `buckets`."""
    marked = f"<{word}>"
    return [zlib.crc32(marked[i : i + k].encode("utf-8", "surrogatepass")) % buckets
            for k in range(_SHORTEST, _LONGEST + 1) for i in range(len(marked) - k + 1)]


def name_tokens(tokenizer: Tokenizer, merged: bool) -> list[str | None]:
    """Say which word each token (V,) stands for, None for none.

    `merged`: without the space before it, in small letters, and signs stand for none. Else each token for itself, a space
    written as U+2581. Special tokens, and parts of a character where merged, stand for none.
    """
    names: list[str | None] = []
    for id, piece in enumerate(tokenizer.token_bytes):
        if id in tokenizer.special_ids or not piece:
            names.append(None)
        elif merged:
            word = piece.decode("utf-8", "replace").strip().lower()
            names.append(word if "\ufffd" not in word and any(map(str.isalnum, word)) and not any(map(str.isspace, word)) else None)
        else:
            shown = tokenizer.tokens([id])[0].replace(" ", _MARK)
            names.append("".join(repr(c)[1:-1] if c.isspace() else c for c in shown))
    return names


def import_word2vec(path: Path) -> Vectors:
    """Read a file in the word2vec text format. Raises UserError, with the line, when it is not one."""
    words, table = read_word2vec(path)
    return Vectors(words, table, facts={"forms": "words"})


def open_vectors(folder: Path) -> Vectors:
    """Open word vectors, or the table of a neural model as vectors of its tokens' words. Raises UserError when there is neither."""
    config = read_json(folder / "config.json")
    if isinstance(config, dict) and config.get("model_type") == "vectors":
        return Vectors.open(folder)
    if isinstance(config, dict) and config.get("model_type") in ("ngram", "unbounded", "hmm"):
        raise UserError(f"{folder} holds a model of type {config['model_type']}, which has no vectors", "word vectors or a neural model")
    stored = open_weights(folder, lambda name: not name.endswith(_TABLES))
    names = [name for end in _TABLES for name in sorted(stored) if name.endswith(end) and len(stored[name].shape) == 2]  # likeliest first
    if not names:
        raise UserError(f"{folder / 'model.safetensors'} has no table of its tokens", "a tensor that ends in " + ", ".join(_TABLES))
    tokenizer = Tokenizer.open(folder)
    table = stored[names[0]].read()
    if len(table) < tokenizer.vocab_size:
        raise UserError(f"{names[0]} in {folder} has {len(table):,} rows", f"one for each of {tokenizer.vocab_size:,} tokens",
                        "restore the files")
    named = name_tokens(tokenizer, merged=False)
    rows = [id for id, name in enumerate(named) if name is not None]
    return Vectors([str(named[id]) for id in rows], table[rows], facts={"forms": "tokens"}, tokenizer=tokenizer)
