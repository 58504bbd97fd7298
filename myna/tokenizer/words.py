"""Whole words as tokens: the vocabulary of the `words` kind, counted in the text, with a word list for text without spaces.

The model is a Unigram model over byte-level strings: each token has a score, and a text becomes the tokens whose scores have
the greatest sum. A word with a space before it, or without one, scores `log(count / total) - log(total) - 1`: two tokens always
cost more than one, so a known word is one token. Chinese and other scripts without spaces score plain log probabilities, so a
clause is cut as its most probable words. Each of the 256 bytes is there too, at a cost above any word's, and nothing is unknown.

The words of a script without spaces come from a list, or are learned from the text. Source of the model: Kudo 2018, "Subword
Regularization", section 3.2; cutting by a list of words and their counts is the same model.

    model = build_words(count_words(["the cat and the hat"], {}), {}, room=1000)
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from myna.console import say
from myna.errors import UserError
from myna.tokenizer.pieces import byte_alphabet
from myna.tokenizer.scripts import code_points, unspaced_class

_TEXT = 1 << 20  # characters counted together
_LONGEST = 32  # characters in a word that earns a token
_MOST = 4_000_000  # distinct words held while counting, about 100 bytes each; beyond it those seen once are forgotten
_LONGEST_LEARNED = 4  # characters; Chinese words are 1 to 4 but for names
# Best of five settings by agreement with a dictionary's cuts of one novel (docs/tokenizer.md): times seen, nats by which the parts
# are more frequent together than by chance, nats of entropy of the neighbours on each side.
_SEEN, _TOGETHER, _FREE = 5, 3.0, 1.0
_LARGEST_LIST = 64 << 20  # bytes of a word list; the largest in common use has about 10 MB
# The same cuts as the pattern QWEN2 but for a sign that stands before a letter, which is a word of its own here.
_WORD = re.compile(r"'(?:[st]|re|ve|m|ll|d)| ?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", re.IGNORECASE)
_UNSPACED = re.compile(f"([{unspaced_class()}]+)")


def read_word_list(path: Path) -> dict[str, float]:
    """Read lines `word [count] [...]`, UTF-8, as log probabilities; only words wholly of scripts without spaces are taken.

    Raises UserError, with the line, on what cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no file {path}", "a list of words, one a line", "check --tokenizer.words")
    if path.stat().st_size > _LARGEST_LIST:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes", f"a word list of at most {_LARGEST_LIST:,}")
    counts: dict[str, float] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            word, *rest = line.split()[:2] or [""]
            if len(word) <= _LONGEST and _UNSPACED.fullmatch(word):
                counts[word] = max(counts.get(word, 0.0), _count(rest, f"{path}:{number}"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})", "a word list in UTF-8") from None
    if not counts:
        raise UserError(f"{path} has no word of Chinese or another script without spaces", "lines `word [count]`")
    total = sum(counts.values())
    return {word: math.log(count / total) for word, count in counts.items()}


def _count(rest: list[str], where: str) -> float:
    """Read the second column: a count, or a part of speech, which means 1."""
    try:
        count = float(rest[0]) if rest else 1.0
    except ValueError:
        return 1.0
    if not 0 <= count < 1e15:  # also refuses nan
        raise UserError(f"the count {rest[0]!r} in {where}", "a number of times, at least 0")
    return max(count, 0.5)


def learn_words(texts: Iterable[str]) -> dict[str, float]:
    """Learn the words of scripts without spaces from text, as log probabilities; empty when there is none.

    A word is two to four characters that occur together far more often than apart, with many different neighbours on both
    sides (Jin & Tanaka-Ishii 2006, "Unsupervised Segmentation of Chinese Text by Use of Branching Entropy"); and every character.
    """
    text = "\n".join(run for piece in texts for run in _UNSPACED.findall(piece))
    points, letters = np.unique(code_points(text + "\n" * _LONGEST_LEARNED), return_inverse=True)  # 0 is the line end
    words = {chr(point): int(count) for point, count in zip(points[1:].tolist(), np.bincount(letters)[1:], strict=True)}
    size = len(text)
    # grams[k][i]: which sequence of k characters begins at i, or -1 when a run ends inside it
    grams = [np.zeros(0, np.int64), np.where(letters > 0, letters, -1).astype(np.int64)]
    counts, places = [np.zeros(0), np.bincount(letters).astype(np.float64)], [np.zeros(0, np.int64)] * 2
    for k in range(2, _LONGEST_LEARNED + 2):
        first, last = grams[k - 1][:size], grams[1][k - 1 : size + k - 1]
        at = np.flatnonzero((first[: len(last)] >= 0) & (last >= 0))
        _, place, number, count = np.unique(first[at] * len(points) + last[at], return_index=True, return_inverse=True, return_counts=True)
        grams.append(np.full(len(letters), -1, np.int64))
        grams[k][at] = number
        counts.append(count.astype(np.float64))
        places.append(at[place])
    for k in range(2, _LONGEST_LEARNED + 1):
        at, count = places[k], counts[k]
        apart = [counts[j][grams[j][at]] * counts[k - j][grams[k - j][at + j]] for j in range(1, k)]
        together = np.log(count * size / np.max(apart, axis=0))
        good = (count >= _SEEN) & (together >= _TOGETHER)
        for sequence in (grams[k][places[k + 1]], grams[k][places[k + 1] + 1]):  # neighbours on the right, on the left
            longer = counts[k + 1]
            known = np.bincount(sequence, longer * np.log(longer), len(count))  # the end of a run counts as a neighbour of its own
            good &= np.log(count) - known / count >= _FREE
        words |= {text[i : i + k]: int(n) for i, n in zip(at[good].tolist(), count[good].tolist(), strict=True)}
    total = sum(words.values())
    return {word: math.log(count / total) for word, count in words.items()}


def count_words(texts: Iterable[str], known: dict[str, float]) -> Counter[str]:
    """Count the words of texts; those of scripts without spaces are cut by the log probabilities of the `known` words."""
    cutter = _cutter(known) if known else None
    counts: Counter[str] = Counter()
    for text in _batches(texts):
        runs: Counter[str] = Counter()
        for word, times in Counter(_WORD.findall(text)).items():
            if word.isascii():
                counts[word] += times
                continue
            for i, part in enumerate(_UNSPACED.split(word)):
                if part:
                    (runs if i % 2 else counts)[part] += times
        distinct = list(runs)
        pieces = cutter.encode_batch(distinct, add_special_tokens=False) if cutter else []
        for run, encoding in zip(distinct, pieces, strict=bool(cutter)):
            for start, end in encoding.offsets:  # not its tokens: one that is unknown stands for several characters
                for word in [run[start:end]] if run[start:end] in known else run[start:end]:
                    counts[word] += runs[run]
        if len(counts) > _MOST:
            counts = Counter({word: times for word, times in counts.items() if times > 1})
    return Counter({word: times for word, times in counts.items() if len(word) <= _LONGEST})


def _batches(texts: Iterable[str]) -> Iterator[str]:
    """Join short texts, so that each distinct word is handled once for many; a line end keeps them apart."""
    waiting: list[str] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= _TEXT:
            yield "\n".join(waiting)
            waiting, size = [], 0
    yield "\n".join(waiting)


def _cutter(known: dict[str, float]) -> RustTokenizer:
    """Build the model that cuts runs of letters into known words, characters where there are none."""
    unknown = [("\n", 2 * min(known.values()))]  # never in a run; its score is what the library gives the unknown
    return RustTokenizer(models.Unigram(vocab=[*unknown, *known.items()], unk_id=0))


def build_words(counts: Counter[str], known: dict[str, float], room: int, enough: int = 2) -> RustTokenizer:
    """Build the Unigram model with the `room` most frequent words, each seen `enough` times, single characters once.

    `known` gives the log probabilities of words in scripts without spaces. Ids: the 256 bytes, then words by frequency.
    """
    alphabet = byte_alphabet()
    earned = [word for word, times in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if times >= enough or len(word) == 1]
    if len(earned) > room:
        say(f"the vocabulary has room for {room:,} of {len(earned):,} words; the rarer ones become parts of words or bytes")
    total = max(sum(counts.values()), 2)
    rarest = min(known.values(), default=0.0)
    scores = {}
    for word in earned[:room]:
        unspaced = _UNSPACED.fullmatch(word)
        score = known.get(word, rarest) if unspaced else math.log(counts[word] / total) - math.log(total) - 1
        scores["".join(alphabet[byte] for byte in word.encode())] = score
    byte_score = 2 * min(scores.values(), default=0.0) - 1
    letters = {letter: scores.pop(letter, byte_score) for letter in sorted(alphabet.values())}
    return RustTokenizer(models.Unigram(vocab=[*letters.items(), *scores.items()], unk_id=None, byte_fallback=False))
