"""What speaks for and against a sentence of an index answering a question: numbers that mean the same in a large index and in a small one.

A question's terms are weighed by how rare they are, in the index and in the passages that a reader was made with, so that in a folder of
three files "the" weighs little too. Then for each passage found, and each sentence in it: the share of the question's weight that is
there, the question's pairs of neighbouring terms, and the gap to the next passage. An index with vectors finds passages by these too.

    found = find_evidence(index, "who built the tower?", Background({}, 0), None, k=3)
    [(item.hit.file, item.sentences[0], item.features) for item in found]

Source: the features of "Learning to rank" for passages, as in Liu 2009, section 1.3; idf by Robertson and Zaragoza 2009.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.corpus.sentences import cut_sentences
from myna.retrieval.index import Embed, Hit, Index
from myna.retrieval.options import SearchOptions
from myna.retrieval.terms import UNSPACED, count_terms, find_terms

Array = NDArray[Any]

PASSAGE_FEATURES = ("coverage", "rarest", "score", "margin", "phrases")
SENTENCE_FEATURES = ("coverage", "beyond", "phrases", "passage", "number", "name", "length")

_SATURATION, _LENGTH = 1.2, 0.75  # of BM25, as in myna.retrieval.lexical
_RAREST = 3  # terms of a question that say most of what it is about
# own choice: words that ask for a number or a name, in English and Chinese
_ASKS_NUMBER = re.compile(r"\b(when|year|how (?:many|much|long|old|far|often|large|big|tall|high)|what (?:year|date|number|percentage|"
                          r"percent|century|decade|time|amount|population))\b|多少|几|何时|哪年|哪一年|什么时候|多[长久大高远]",
                          re.IGNORECASE)
_ASKS_NAME = re.compile(r"\b(who|whom|whose|where|which (?:city|country|person|company))\b|谁|哪里|哪儿|何处|什么地方", re.IGNORECASE)
# own choice: what only asks, and an answer does not repeat
_ASKING = frozenset(("who", "whom", "whose", "what", "which", "when", "where", "why", "how", "is", "are", "was", "were", "be", "been", "do",
                     "does", "did", "has", "have", "had", "the", "a", "an", "of", "in", "to"))
_ASKING_LETTERS = frozenset("谁什么哪几吗呢是的了多少何")
_NUMBER = re.compile(r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|billion)\b|"
                     "[一二三四五六七八九十百千万亿两]", re.IGNORECASE)
_NAME = re.compile(r"(?<=[^\s.!?] )[A-Z]\w")  # a capital inside a sentence


@dataclass(frozen=True)
class Background:
    """In how many passages of other texts a term stands, and how many passages those are."""

    counts: Mapping[str, int]
    passages: int


@dataclass(frozen=True)
class Evidence:
    """A passage found, its sentences as (start, end) in characters, and the numbers about both."""

    hit: Hit
    sentences: list[tuple[int, int]]
    features: Array
    "(F,): PASSAGE_FEATURES."
    about: Array = field(repr=False)
    "(S, G): SENTENCE_FEATURES of each sentence."


def find_evidence(index: Index, question: str, background: Background, embed: Embed | None, k: int) -> list[Evidence]:
    """Find the passages that a question is about, the best first, with the numbers that speak for them; none where nothing matches."""
    terms = count_terms(question)
    if not terms:
        return []
    hits = index.search(question, SearchOptions(k=k), embed)
    weights = weigh_terms(index, [term for term in terms if not _asks(term)] or list(terms), background)
    pairs = Counter(pair for pair in itertools.pairwise(find_terms(question)) if pair[0] in weights and pair[1] in weights)
    counted, mean = [_terms_of(hit.text)[0] for hit in hits], _mean_length(index)
    scores = [_score(weights, inside, mean) for inside in counted]
    found: list[Evidence] = []
    for number, (hit, inside, score) in enumerate(zip(hits, counted, scores, strict=True)):
        next_best = max((other for place, other in enumerate(scores) if place != number), default=0.0)
        rarest = sorted(weights, key=lambda term: (-weights[term], term))[:_RAREST]
        features = [_share(weights, inside), sum(term in inside for term in rarest) / len(rarest), score, score - next_best,
                    _share_pairs(pairs, weights, hit.text)]
        sentences = cut_sentences(hit.text)
        about = _describe_sentences(question, hit.text, sentences, weights, pairs, score / max(*scores, 1e-9))
        found.append(Evidence(hit, sentences, np.array(features), about))
    return found


def _asks(term: str) -> bool:
    """Tell whether a term of a question says what is asked for, and nothing that an answer would repeat."""
    return term in _ASKING or any(letter in _ASKING_LETTERS for letter in term)


def weigh_terms(index: Index, terms: Sequence[str], background: Background) -> dict[str, float]:
    """Return the idf of terms over the passages of an index and those of the background together."""
    live = ~index.deleted
    total = int(live.sum()) + background.passages
    weights = {}
    for term in terms:
        count = background.counts.get(term, 0)
        for block in index.blocks:
            passages, _ = block.find(term)
            count += int(live[passages + block.first].sum())
        weights[term] = math.log(1 + (total - count + 0.5) / (count + 0.5))
    return weights


@functools.lru_cache(maxsize=8192)
def _terms_of(text: str) -> tuple[Counter[str], frozenset[tuple[str, str]]]:
    """Count the terms of a passage or a sentence, and list its pairs of neighbours; kept, for many questions find the same one."""
    terms = find_terms(text)
    return Counter(terms), frozenset(itertools.pairwise(terms))


def _mean_length(index: Index) -> float:
    """Return the mean number of terms of the passages of an index."""
    live = ~index.deleted
    total = sum(int(block.lengths[live[block.first:block.last]].sum(dtype=np.int64)) for block in index.blocks)
    return max(1.0, total / max(1, int(live.sum())))


def _score(weights: Mapping[str, float], inside: Counter[str], mean: float) -> float:
    """Return BM25 with the weights given, over the highest there can be: from 0 to 1."""
    room = _SATURATION * (1 - _LENGTH + _LENGTH * inside.total() / mean)
    return sum(weight * inside[term] / (inside[term] + room) for term, weight in weights.items()) / max(sum(weights.values()), 1e-9)


def _share(weights: Mapping[str, float], inside: Mapping[str, int]) -> float:
    return sum(weight for term, weight in weights.items() if term in inside) / max(sum(weights.values()), 1e-9)


def _share_pairs(pairs: Counter[tuple[str, str]], weights: Mapping[str, float], text: str) -> float:
    """Return the share of a question's neighbouring terms, weighed, that are neighbours in a text too."""
    whole = sum(weights[one] + weights[other] for one, other in pairs)
    if not whole:
        return 0.0
    inside = _terms_of(text)[1]
    return sum(weights[one] + weights[other] for one, other in pairs if (one, other) in inside) / whole


def _describe_sentences(question: str, text: str, sentences: list[tuple[int, int]], weights: Mapping[str, float],
                        pairs: Counter[tuple[str, str]], passage: float) -> Array:
    rows = []
    inside = [_terms_of(text[start:end])[0] for start, end in sentences]
    beyond = {term: weight for term, weight in weights.items() if not inside or term not in inside[0]}
    number, name = bool(_ASKS_NUMBER.search(question)), bool(_ASKS_NAME.search(question))
    for place, (start, end) in enumerate(sentences):
        sentence = text[start:end]
        rows.append([_share(weights, inside[place]), _share(beyond, inside[place]), _share_pairs(pairs, weights, sentence), passage,
                     float(number and bool(_NUMBER.search(sentence))), float(name and _names(sentence)),
                     math.log(1 + inside[place].total())])
    return np.array(rows).reshape(len(rows), len(SENTENCE_FEATURES))


def _names(sentence: str) -> bool:
    """Tell whether a sentence may hold a name; Chinese has no capitals, so there it always may."""
    return bool(_NAME.search(sentence)) or bool(re.search(f"[{UNSPACED}]", sentence))


@contextmanager
def hide_passages(index: Index, hidden: Array) -> Iterator[None]:
    """Search an index for a while as if the passages `hidden` (N,) bool were not in it."""
    before = index.deleted
    index.deleted = before | hidden
    try:
        yield
    finally:
        index.deleted = before
