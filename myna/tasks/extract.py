"""Summaries made of a text's own sentences: the first ones, or those that have most in common with the others (TextRank).

TextRank (Mihalcea and Tarau 2004, "TextRank: Bringing Order into Texts", section 4) takes sentences for the nodes of a graph. Two are
joined by how many different terms they share, over the logarithms of their lengths, and each is worth what its neighbours are, in
proportion: the stationary point of a walk that goes on with probability 0.85. Nothing is learned, and any language will do: terms are
words, or in Chinese characters and pairs of them (`myna.retrieval.terms`).

    extract("他来了。...", "textrank", 3).text
    rank_sentences(["A cat sat.", "The cat ran.", "Rain fell."])         # (3,), the higher the more central

N sentences
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from myna.corpus.sentences import cut_sentences
from myna.errors import UserError, nearest
from myna.metrics.summaries import WORDS
from myna.retrieval.terms import find_terms

Array = npt.NDArray[Any]

Method = Literal["lead", "textrank"]
METHODS: tuple[str, ...] = get_args(Method)
_DAMPING, _NEAR, _ROUNDS = 0.85, 1e-6, 200  # section 2.2 of the paper goes on until the error is below 1e-4
_MOST = 2000  # sentences compared with each other at once: the square of it is held in memory, 32 MB


@dataclass(frozen=True)
class Extract:
    """Sentences of a text, in its order."""

    text: str
    spans: tuple[tuple[int, int], ...]
    "Where they stand in the text, in characters."


def extract(text: str, method: str, sentences: int) -> Extract:
    """Take so many sentences out of a text. Raises UserError when there is none, or no such method."""
    if method not in METHODS:
        raise UserError(f"method is {method!r}{nearest(method, list(METHODS))}", "one of " + ", ".join(METHODS))
    if sentences < 1:
        raise UserError(f"sentences is {sentences}", "a whole number, at least 1")
    spans = cut_sentences(text)
    if not spans:
        raise UserError("the text is empty", "a text to summarize", "leave it out")
    if method == "lead" or len(spans) <= sentences:
        kept = list(range(min(sentences, len(spans))))
    else:
        scores = rank_sentences([text[start:end] for start, end in spans])
        kept = sorted(np.argsort(-scores, kind="stable")[:sentences].tolist())
    return Extract(join_sentences([text[slice(*spans[place])] for place in kept]), tuple(spans[place] for place in kept))


def join_sentences(sentences: Sequence[str]) -> str:
    """Join sentences in one line: with a space, but for one that ends as Chinese and Japanese do."""
    joined = ""
    for sentence in (" ".join(sentence.split()) for sentence in sentences):
        joined += sentence if not joined or joined[-1] in "。！？；…”』」）" else f" {sentence}"
    return joined


def rank_sentences(sentences: Sequence[str]) -> Array:
    """Score sentences by TextRank: (N,), their mean 1. Of more than 2,000 each stretch sends its best to be ranked together."""
    if len(sentences) <= _MOST:
        return walk_graph(compare_sentences(sentences))
    stretches = np.array_split(np.arange(len(sentences)), -(-len(sentences) // _MOST))
    scores = np.zeros(len(sentences))
    chosen: list[int] = []
    for stretch in stretches:
        inside = walk_graph(compare_sentences([sentences[place] for place in stretch]))
        scores[stretch] = inside * 1e-6  # below all that were chosen, in their own order
        chosen += stretch[np.argsort(-inside, kind="stable")[: _MOST // len(stretches)]].tolist()
    scores[chosen] = rank_sentences([sentences[place] for place in chosen])
    return scores


def compare_sentences(sentences: Sequence[str]) -> Array:
    """Weigh what joins sentences: (N, N), the different terms that two share over the logarithms of their lengths, 0 with itself."""
    terms = [find_terms(sentence) for sentence in sentences]
    holders: dict[str, list[int]] = {}
    for place, listed in enumerate(terms):
        for term in dict.fromkeys(listed):
            holders.setdefault(term, []).append(place)
    shared = np.zeros((len(terms), len(terms)))
    for places in holders.values():
        if len(places) > 1:
            shared[np.ix_(places, places)] += 1
    np.fill_diagonal(shared, 0.0)
    logs = np.log(np.maximum(1, [len(listed) for listed in terms]))
    lengths = logs[:, None] + logs[None]
    weights: Array = np.divide(shared, lengths, out=np.zeros_like(shared), where=lengths > 0)  # two of one term have no length to divide by
    return weights


def walk_graph(weights: Array, damping: float = _DAMPING) -> Array:
    """Iterate what nodes are worth, (N,), from the symmetric weights between them (N, N) until it stands still.

    A node that is joined to none gives what it is worth to all, as in PageRank, so that the mean stays 1.
    """
    count = len(weights)
    totals = weights.sum(axis=1)
    alone = totals == 0
    moves = np.divide(weights, totals[:, None], out=np.zeros_like(weights), where=~alone[:, None])  # a row: where one goes on to
    worth = np.ones(count)
    for _ in range(_ROUNDS):
        new = 1 - damping + damping * (worth @ moves + worth[alone].sum() / count)
        if np.abs(new - worth).max() < _NEAR:
            return np.asarray(new)
        worth = new
    return worth


def lead_words(text: str, count: int) -> str:
    """Return the beginning of a text up to so many words, as ROUGE counts them: the baseline of every summary."""
    ends = [found.end() for found in itertools.islice(WORDS.finditer(text), count)]
    return " ".join(text[: ends[-1] if ends else 0].split())
