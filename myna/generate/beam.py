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
from myna.models.protocol import LanguageModel


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
    width = options.num_beams
    greedy = dataclasses.replace(options, temperature=0.0)
    state = model.start(1, None if source is None else [list(source)])
    log_probs = model.step([ids], state)
    beams, finished = [Beam([], [], 0.0)], list[Beam]()
    for length in range(1, limit + 1):
        seen = np.zeros(log_probs.shape, dtype=bool)
        for row, beam in enumerate(beams):
            seen[row, [*ids, *beam.tokens]] = True
        allowed = log_probs if rules.plain else np.stack([rules.restrict(one, ids, beam.tokens, length == limit)
                                                          for one, beam in zip(log_probs, beams, strict=True)])
        scores = warp(allowed, seen, greedy).astype(np.float64) + np.array([beam.score for beam in beams])[:, None]  # (B, V)
        kept: list[Beam] = []
        rows: list[int] = []
        for place, (row, token) in enumerate(_best(scores, width * (1 + len(stops)))):
            grown = Beam([*beams[row].tokens, token], [*beams[row].log_probs, float(log_probs[row, token])], float(scores[row, token]))
            stopped = token in stops or (ended is not None and ended(grown.tokens))
            if (stopped or length == limit) and place < width:
                reason = "stop" if stopped else "length"
                finished.append(dataclasses.replace(grown, score=grown.score / length**options.length_penalty, finish_reason=reason))
            elif not stopped and length < limit and len(kept) < width:
                kept.append(grown)
                rows.append(row)
        finished = sorted(finished, key=lambda beam: -beam.score)[:width]
        if not kept or (len(finished) == width and kept[0].score / length**options.length_penalty <= finished[-1].score):
            break
        beams = kept
        state.select(rows)
        log_probs = model.step([[beam.tokens[-1]] for beam in beams], state)
    return finished[:options.n]


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
