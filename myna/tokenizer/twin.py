"""Byte-level BPE in plain Python: the same ids as the fast tokenizer, slowly. It teaches, and the tests hold the fast one to it.

Learning. Start with the 256 bytes as the vocabulary and each word as its bytes. Count every pair of neighbours in all
words. Join the most frequent pair everywhere and call the result a new token; write the pair down as a *merge*. Repeat
until the vocabulary is full. Frequent words end as one token, rare ones stay in pieces, and nothing is ever unknown.

Encoding. Cut the text into words, turn each into bytes, then apply the merges in the order in which they were learned:
always the earliest-learned pair that is present, until none is.

Words matter: without them " the dog" could become one token, and the vocabulary would fill with phrases. `words` is the
Qwen2 pattern (`patterns.QWEN2`) written out, one rule a line.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", algorithm 1; Radford et al.
2019 (GPT-2), section 2.2.

    merges = train(["low lower lowest"] * 10, 4)
    encode("slowest", merges)      # [b's', b'low', b'es', b't'] or so
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

Merge = tuple[bytes, bytes]

_SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000").union(map(chr, range(0x2000, 0x200B)))  # \s
_CONTRACTIONS = ("s", "t", "re", "ve", "m", "ll", "d")


def train(texts: Iterable[str], count: int) -> list[Merge]:
    """Learn `count` merges; a pair that occurs only once is not worth a token."""
    words = Counter(word.encode() for text in texts for word in split(text))
    pieces = {word: [bytes([byte]) for byte in word] for word in words}
    # ids break ties, as in the fast trainer: bytes in the order of their printable stand-ins, then merges as learned
    order = {bytes([byte]): rank for rank, byte in enumerate([*range(33, 127), *range(161, 173), *range(174, 256),
                                                              *range(0, 33), *range(127, 161), 173])}
    merges: list[Merge] = []
    while len(merges) < count:
        pairs: Counter[Merge] = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(pieces[word]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], order[pair[0]], order[pair[1]]), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        order.setdefault(best[0] + best[1], len(order))
        pieces = {word: join(tokens, best) for word, tokens in pieces.items()}
    return merges


def encode(text: str, merges: list[Merge]) -> list[bytes]:
    """Turn a text into tokens, each as its bytes; joined together they are the text again."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    tokens: list[bytes] = []
    for word in split(text):
        pieces = [bytes([byte]) for byte in word.encode()]
        while True:
            present = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
            if not present:
                break
            pieces = join(pieces, min(present, key=ranks.__getitem__))
        tokens += pieces
    return tokens


def join(pieces: list[bytes], pair: Merge) -> list[bytes]:
    """Join every occurrence of a pair, from the left; what was just joined is not joined again."""
    joined: list[bytes] = []
    i = 0
    while i < len(pieces):
        found = tuple(pieces[i : i + 2]) == pair
        joined.append(pair[0] + pair[1] if found else pieces[i])
        i += 2 if found else 1
    return joined


def split(text: str) -> Iterator[str]:
    """Cut a text into words by the Qwen2 pattern."""
    start = 0
    while start < len(text):
        end = _word_end(text, start)
        yield text[start:end]
        start = end


def _word_end(text: str, i: int) -> int:
    """Find where the word that begins at `i` ends: the first rule that fits decides."""
    first, following = text[i], text[i + 1 : i + 2]
    if first == "'":  # 's, 't, 're, ...
        for ending in _CONTRACTIONS:
            if text[i + 1 : i + 1 + len(ending)].casefold() == ending:
                return i + 1 + len(ending)
    if _is_letter(first):  # letters ...
        return _run(text, i, _is_letter)
    if not _is_number(first) and first not in "\r\n" and following and _is_letter(following):
        return _run(text, i + 1, _is_letter)  # ... with one space or sign before them
    if _is_number(first):  # a single digit
        return i + 1
    j = i + 1 if first == " " else i
    end = _run(text, j, _is_sign)
    if end > j:  # signs, with a space before and newlines after
        return _run(text, end, "\r\n".__contains__)
    end = _run(text, i, _SPACES.__contains__)
    newline = max(text.rfind("\n", i, end), text.rfind("\r", i, end))
    if newline >= 0:  # white space up to the last newline
        return newline + 1
    if end < len(text) and end - i > 1:  # spaces, but the last one belongs to the next word
        return end - 1
    return end


def _run(text: str, i: int, belongs: Callable[[str], bool]) -> int:
    while i < len(text) and belongs(text[i]):
        i += 1
    return i


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] == "L"


def _is_number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def _is_sign(character: str) -> bool:
    return character not in _SPACES and not _is_letter(character) and not _is_number(character)
