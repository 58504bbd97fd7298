"""Make a tokenizer from a corpus: byte-level BPE, one token per character, or whole words. Same text, options and seed: same bytes.

The library's trainer keeps every distinct word in memory, and text without spaces is all distinct words, so it learns
from a seeded sample, in which runs of letters are cut: at 8 characters in scripts without spaces, at 32 in the others.
A merge learned from the cut runs holds for whole ones. Encoding later uses the published Qwen2 pattern unchanged.

Source: as in `myna/tokenizer/tokenizer.py`; Heaps' law for the size of the vocabulary: Manning, Raghavan, Schütze 2008,
"Introduction to Information Retrieval", section 5.1.1.

    tokenizer = train_tokenizer(Corpus.open(Path("corpus")), TokenizerOptions())
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

from myna.console import human, say, track
from myna.errors import UserError
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.patterns import QWEN2
from myna.tokenizer.pieces import byte_alphabet
from myna.tokenizer.scripts import code_points, unspaced_bytes, unspaced_points
from myna.tokenizer.tokenizer import Tokenizer, make_special_tokens
from myna.tokenizer.words import build_words, count_words, learn_words, read_word_list

_MULTIPLE = 64  # matrix kernels like a vocabulary in multiples of 64 (Karpathy, nanoGPT README: 50257 to 50304 was 25 % faster)
_LARGEST_CHOSEN = 65536  # what a 16-bit id can hold
_PIECE = 65536  # bytes of text handed to the library at a time
# Unspaced letters at most 8 in a word, others 32, signs 64: training memory is bounded by the number and length of words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_TRAINING = (QWEN2.replace(r"\p{L}+|", rf"(?:[\p{{L}}&&[{_UNSPACED}]]{{1,8}}|[\p{{L}}&&[^{_UNSPACED}]]{{1,32}})|", 1)
             .replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{N}]{1,64}"))
_LONGEST = 64  # bytes in a learned token, so that a rule of dashes does not fill the vocabulary with rules
_ENOUGH_WORDS = 5  # times that a word must occur to get a token when the size is not given: word2vec.c's min-count
_ENOUGH = 16  # a character outside ASCII seen this often in the corpus earns a place in the vocabulary that is chosen


class Corpus(Protocol):
    """What training needs of a corpus; `myna.corpus.store.Corpus` is one. Positions are bytes of the cleaned text."""

    def part(self, name: str) -> npt.NDArray[Any]:
        """Give the ranges (start, end) of 'train'."""

    def part_bytes(self, name: str) -> int:
        """Count the bytes of 'train'."""

    def text(self, start: int, end: int) -> str:
        """Give a range's text."""

    def pieces(self, start: int, end: int, size: int) -> Iterator[str]:
        """Give a range's text in pieces of at most `size` bytes."""


def train_tokenizer(corpus: Corpus, options: TokenizerOptions) -> Tokenizer:
    """Make a tokenizer from the corpus's training part.

    Raises UserError when that part is empty or the vocabulary asked for cannot hold every byte and the special tokens.
    """
    total = corpus.part_bytes("train")
    if total == 0:
        raise UserError("no training text in the corpus", "some text", "give more text or fewer filters")
    special = len(make_special_tokens(0, 1, options.special_tokens))
    if options.vocab_size is not None and options.vocab_size < 256 + special:
        raise UserError(f"vocab_size is {options.vocab_size}", f"at least {256 + special}: 256 bytes and {special} special tokens")
    if options.words is not None and options.kind != "words":
        raise UserError(f"a word list for a tokenizer of kind {options.kind}", "kind words", "add --tokenizer.kind words")
    if options.kind == "words":
        model = _words(corpus, options, (options.vocab_size or _LARGEST_CHOSEN) - 256 - special)
    elif options.kind == "characters":
        counts = _count_characters(_whole(corpus, total))
        model = _characters(counts, (options.vocab_size or _LARGEST_CHOSEN) - 256 - special)
    else:
        sample = draw_sample(corpus, options)
        drawn = int((sample["end"] - sample["start"]).sum())
        counts = _count_characters(_texts(corpus, sample))
        size = options.vocab_size
        if size is None:
            size = choose_vocab_size(total, int((counts[128:] >= _ENOUGH * drawn / total).sum()))
        size = math.ceil(size / _MULTIPLE) * _MULTIPLE
        say(f"learning a vocabulary of {size} tokens from {human(drawn)}B of {human(total)}B of training text")
        with _one_thread() if 2 * counts[unspaced_points()].sum() > counts.sum() else contextlib.nullcontext():
            model = _learn(_texts(corpus, sample), size - special)
    made = _finish(model, options.special_tokens)
    if options.vocab_size is not None and made.vocab_size < options.vocab_size:
        say(f"the training text gives only {made.vocab_size} tokens of the {options.vocab_size} asked for")
    return made


def learn_tokenizer(texts: Sequence[str], vocab_size: int, least: int = 1, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Make a tokenizer from texts in memory: characters where most of the text is written without spaces, else learned merges.

    least: how often a character must stand; rarer ones become bytes. special_tokens: more of them, as <|name|>.
    """
    counts = _count_characters(texts)
    special = len(make_special_tokens(0, 1, special_tokens))
    if 2 * counts[unspaced_points()].sum() > counts.sum():
        return _finish(_characters(np.where(counts >= least, counts, 0), vocab_size - 256 - special), special_tokens)
    return _finish(_learn(texts, vocab_size - special), special_tokens)


def _words(corpus: Corpus, options: TokenizerOptions, room: int) -> RustTokenizer:
    """Build a model of whole words within `room` tokens, from a seeded sample; Chinese words from a list or learned."""
    if options.words is not None:
        known = read_word_list(Path(options.words))
    else:
        known = learn_words(_texts(corpus, draw_sample(corpus, options)))
    # counting, unlike learning, takes no memory for text without spaces
    sample = draw_sample(corpus, dataclasses.replace(options, sample_unspaced_bytes=options.sample_bytes))
    counts = count_words(_texts(corpus, sample), known)
    return build_words(counts, known, room, enough=_ENOUGH_WORDS if options.vocab_size is None else 2)


def choose_vocab_size(total: int, characters: int) -> int:
    """Choose the size of a BPE vocabulary for `total` bytes of text with so many frequent `characters` outside ASCII.

    By Heaps' law the number of distinct words grows about with the square root of the text, and a token that is seldom
    seen is badly learned, so the vocabulary does too. The constant is set by what was measured best for 5 MB of English
    and a few minutes of training (2,048): 1 MB gives 1,024, 50 MB 8,192, 1 GB 32,768. Characters come on top, because
    without a token of its own each costs two or three.
    """
    learned = 2048 * math.sqrt(total / 5e6)
    rounded = 1 << round(math.log2(max(learned, 1)))
    size = min(max(rounded, 512), 32768) + characters
    return min(round(size / _MULTIPLE) * _MULTIPLE, _LARGEST_CHOSEN)


def draw_sample(corpus: Corpus, options: TokenizerOptions) -> npt.NDArray[Any]:
    """Draw ranges of the training part, seeded, until either limit of the options is reached: array of (start i8, end i8).

    Both limits stop the whole draw, so the sample has the corpus's own mixture of scripts.
    """
    rng = np.random.default_rng(options.seed)
    kept = np.array(list(_toss(corpus, options.sample_bytes, rng)), dtype=[("start", "i8"), ("end", "i8")])
    rng.shuffle(kept)
    used = unspaced = count = 0
    for start, end in kept.tolist():
        if count and (used >= options.sample_bytes or unspaced >= options.sample_unspaced_bytes):
            break
        used += end - start
        unspaced += unspaced_bytes(corpus.text(start, end))
        count += 1
    return np.sort(kept[:count], order="start")


def _toss(corpus: Corpus, wanted: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Keep each short range, or each piece of a long one, with the chance that gives 5 % more than `wanted` bytes."""
    part = corpus.part("train")
    chance = 1.05 * wanted / max(corpus.part_bytes("train"), 1)
    short = part["end"] - part["start"] <= _PIECE
    drawn = part[~short | (rng.random(len(part)) < chance)]
    for start, end in zip(drawn["start"].tolist(), drawn["end"].tolist(), strict=True):
        if end - start <= _PIECE:
            yield start, end
            continue
        for piece in corpus.pieces(start, end, _PIECE):
            stop = start + len(piece.encode())
            if rng.random() < chance:
                yield start, stop
            start = stop


def _texts(corpus: Corpus, ranges: npt.NDArray[Any]) -> Iterator[str]:
    """Read ranges of text, under a progress bar."""
    with track("reading the sample", float((ranges["end"] - ranges["start"]).sum()), "B") as advance:
        for start, end in zip(ranges["start"].tolist(), ranges["end"].tolist(), strict=True):
            yield corpus.text(start, end)
            advance(end - start)


def _whole(corpus: Corpus, total: int) -> Iterator[str]:
    """Read the whole training part in pieces, under a progress bar."""
    part = corpus.part("train")
    with track("counting characters", total, "B") as advance:
        for start, end in zip(part["start"].tolist(), part["end"].tolist(), strict=True):
            for piece in corpus.pieces(start, end, _PIECE):
                yield piece
                advance(len(piece))


def _count_characters(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Count each code point: array of 0x110000."""
    counts = np.zeros(0x110000, dtype=np.int64)
    waiting: list[str] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= 1 << 20:  # a bincount costs as much as its million bins, so it must have many characters to count
            counts += np.bincount(code_points("".join(waiting)), minlength=len(counts))
            waiting, size = [], 0
    return counts + np.bincount(code_points("".join(waiting)), minlength=len(counts))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the library to one thread: on 3 MB of Chinese its parallel merging took 9 s where one thread took 5.

    The first merges, of bytes into characters, touch every word, and its threads wait for each other. On English the
    cutting into words is what costs, and threads help.
    """
    name = "TOKENIZERS_PARALLELISM"  # the library reads it at every call
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _learn(texts: Iterable[str], size: int) -> RustTokenizer:
    """Learn merges until the vocabulary, bytes included, has `size` tokens or no pair is left that occurs twice."""
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(_TRAINING)
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False, max_token_length=_LONGEST,
                                  initial_alphabet=sorted(byte_alphabet().values()))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _characters(counts: npt.NDArray[np.int64], room: int) -> RustTokenizer:
    """Build a BPE model whose merges build nothing but characters, the most frequent first, within `room` tokens.

    Each merge adds one continuation byte to the beginning of a character, so no token can hold parts of two and the
    order of merges and the cuts into words change nothing. A beginning shared by several characters is one token.
    """
    alphabet = byte_alphabet()
    beginnings: dict[bytes, None] = {}
    whole: list[bytes] = []
    for point in np.argsort(-counts, kind="stable")[: int((counts > 0).sum())].tolist():
        encoded = chr(point).encode()
        new = [encoded[:n] for n in range(2, len(encoded)) if encoded[:n] not in beginnings]
        if len(encoded) == 1:
            continue
        if len(beginnings) + len(whole) + len(new) + 1 > room:
            say(f"the vocabulary has room for {len(whole)} of {int((counts[128:] > 0).sum())} characters outside ASCII; "
                "the rarer ones become bytes")
            break
        beginnings.update(dict.fromkeys(new))
        whole.append(encoded)
    built = [*sorted(beginnings, key=len), *whole]
    words = ["".join(alphabet[byte] for byte in encoded) for encoded in built]
    vocabulary = {token: id for id, token in enumerate([*sorted(alphabet.values()), *words])}
    return RustTokenizer(models.BPE(vocab=vocabulary, merges=[(word[:-1], word[-1]) for word in words]))


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _finish(tokenizer: RustTokenizer, extra: Sequence[str]) -> Tokenizer:
    """Give a learned model the published pattern and the special tokens, at the end of the vocabulary."""
    tokenizer.pre_tokenizer = _pre_tokenizer(QWEN2)
    tokenizer.decoder = decoders.ByteLevel()
    special = make_special_tokens(tokenizer.get_vocab_size(), _MULTIPLE, extra)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return Tokenizer(tokenizer.to_str(pretty=True))
