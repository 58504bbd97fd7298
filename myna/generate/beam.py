"""Beam search: the likeliest whole texts, not one token at a time, with any language model.

Of all continuations of the texts kept so far the `num_beams` likeliest are kept, each token; a text that ends leaves the beam with its
log-probability divided by its length to the power of `length_penalty`. The search ends when no text still in the beam could do better than
the worst of the `num_beams` that have ended. The rules are those of `transformers` 5 (`GenerationMixin._beam_search` with its
default `early_stopping=False`), which the tests hold it against. Sources: Lowerre, "The Harpy speech recognition system" (1976);
length normalisation, Wu et al., "Google's neural machine translation system" (2016), section 7, in its simplest form.

    best = search_beams(model, [5, 7], SampleOptions(num_beams=4, max_tokens=32))[0]
    best.tokens, best.score

B beams · V vocabulary
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.generate.sample import check_prompt, warp
from myna.models.protocol import LanguageModel, LogProbs


@dataclass(frozen=True)
class Beam:
    """A continuation: its ids, the model's own log-probability of each, their sum as the search ranks it, and why it ended."""

    tokens: list[int]
    log_probs: list[float]
    score: float
    finish_reason: str = ""


def search_beams(model: LanguageModel, prompt: Sequence[int], options: SampleOptions, stop_ids: Collection[int] = (),
                 ended: Callable[[list[int]], bool] | None = None, source: Sequence[int] | None = None,
                 rules: Rules | None = None) -> list[Beam]:
    """Find the `options.n` best of `options.num_beams` continuations, best first.

    A text ends after the separator, one of `stop_ids`, or ids for which `ended(ids)` is true ("stop"), or after `max_tokens` or when the
    model can hold no more ("length"). source: what an encoder-decoder reads. rules: what may be said where. Raises UserError when the
    prompt does not fit the model.
    """
    ids, rules = check_prompt(model, prompt, source), rules or Rules()
    stops = {model.separator_id, *stop_ids}
    limit = options.max_tokens if model.max_length is None else min(options.max_tokens, model.max_length - len(ids) + 1)
    greedy = dataclasses.replace(options, temperature=0.0)
    search = _Search(options.num_beams, limit, options.length_penalty, stops, ended)
    state = model.start(1, None if source is None else [list(source)])
    log_probs = model.step([ids], state)
    while True:
        seen = np.zeros(log_probs.shape, dtype=bool)
        for row, beam in enumerate(search.beams):
            seen[row, [*ids, *beam.tokens]] = True
        allowed = log_probs if rules.plain else np.stack([rules.restrict(one, ids, beam.tokens, search.last)
                                                          for one, beam in zip(log_probs, search.beams, strict=True)])
        rows = search.grow(warp(allowed, seen, greedy), log_probs)
        if not rows:
            return search.finished[:options.n]
        state.select(rows)
        log_probs = model.step([[beam.tokens[-1]] for beam in search.beams], state)


def search_sources(model: LanguageModel, sources: Sequence[Sequence[int]], limits: Sequence[int], options: SampleOptions,
                   allow: Callable[[int, list[int], LogProbs, bool], LogProbs]) -> list[Beam]:
    """Find the best of `options.num_beams` targets of each source, all of them a step at a time in one batch.

    limits: ids of each target at most. allow(number, tokens, log_probs (V,), last): the scores of what may follow in the target of a
    source, -inf where it may not. A target ends with the separator.
    """
    searches = [_Search(options.num_beams, limit, options.length_penalty, {model.separator_id}) for limit in limits]
    state = model.start(len(sources), [list(source) for source in sources])
    log_probs = model.step([[model.separator_id]] * len(sources), state)
    live = list(range(len(sources)))
    while live:
        kept: list[int] = []
        still: list[int] = []
        at = 0
        for number in live:
            search, size = searches[number], len(searches[number].beams)
            rows = slice(at, at + size)
            allowed = np.stack([allow(number, beam.tokens, one, search.last)
                                for one, beam in zip(log_probs[rows], search.beams, strict=True)])
            grown = search.grow(allowed, log_probs[rows])
            kept += [at + row for row in grown]
            still += [number] if grown else []
            at += size
        live = still
        if live:
            state.select(kept)
            log_probs = model.step([[beam.tokens[-1]] for number in live for beam in searches[number].beams], state)
    return [search.finished[0] for search in searches]


class _Search:
    """The beam of one text, and the texts that have left it."""

    def __init__(self, width: int, limit: int, penalty: float, stops: Collection[int],
                 ended: Callable[[list[int]], bool] | None = None) -> None:
        self.width, self.limit, self.penalty, self.stops, self.ended = width, limit, penalty, stops, ended
        self.beams, self.finished = [Beam([], [], 0.0)], list[Beam]()

    @property
    def last(self) -> bool:
        """Whether no id comes after the next one."""
        return len(self.beams[0].tokens) + 1 == self.limit

    def grow(self, allowed: LogProbs, log_probs: LogProbs) -> list[int]:
        """Let every text of the beam grow by an id; returns the rows that those kept grew from, none when the search is over.

        allowed: (B, V) scores of the ids as the search ranks them. log_probs: (B, V), the model's own.
        """
        length = len(self.beams[0].tokens) + 1
        scores = allowed.astype(np.float64) + np.array([beam.score for beam in self.beams])[:, None]  # (B, V)
        kept: list[Beam] = []
        rows: list[int] = []
        for place, (row, token) in enumerate(_best(scores, self.width * (1 + len(self.stops)))):
            before = self.beams[row]
            grown = Beam([*before.tokens, token], [*before.log_probs, float(log_probs[row, token])], float(scores[row, token]))
            stopped = token in self.stops or (self.ended is not None and self.ended(grown.tokens))
            if (stopped or length == self.limit) and place < self.width:
                reason = "stop" if stopped else "length"
                self.finished.append(dataclasses.replace(grown, score=grown.score / length**self.penalty, finish_reason=reason))
            elif not stopped and length < self.limit and len(kept) < self.width:
                kept.append(grown)
                rows.append(row)
        self.finished = sorted(self.finished, key=lambda beam: -beam.score)[:self.width]
        if not kept or (len(self.finished) == self.width and kept[0].score / length**self.penalty <= self.finished[-1].score):
            return []
        self.beams = kept
        return rows


def _best(scores: np.ndarray[Any, np.dtype[np.float64]], count: int) -> list[tuple[int, int]]:
    """Return (row, token) of the highest scores, best first; the first of equal ones comes first."""
    flat = scores.ravel()
    count = min(count, len(flat))
    chosen = np.sort(np.argpartition(-flat, count - 1)[:count])
    order = chosen[np.argsort(-flat[chosen], kind="stable")]
    return [(int(place) // scores.shape[1], int(place) % scores.shape[1]) for place in order if np.isfinite(flat[place])]


def check_beams(options: SampleOptions) -> None:
    """Raise UserError on options that a search for the best text would not read."""
    if options.n > options.num_beams:
        raise UserError(f"n is {options.n} with num_beams {options.num_beams}", "at most as many texts as beams")
    default = SampleOptions()
    unread = [name for name in ("top_k", "top_p", "min_p") if getattr(options, name) != getattr(default, name)]
    if unread or options.temperature not in (0.0, default.temperature):
        raise UserError(f"{unread[0] if unread else 'temperature'} with num_beams {options.num_beams}", "one of the two",
                        "beam search draws nothing at random")
