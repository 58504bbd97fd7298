"""Draw tokens from any language model: pure numpy over natural log-probabilities, and the loop that feeds them back.

The order is that of `transformers` 5 (`GenerationMixin._get_logits_processor`): repetition penalty, temperature, top-k,
top-p, min-p. Sources: repetition penalty, Keskar et al. 2019, CTRL, section 4.1; top-k, Fan et al. 2018, Hierarchical
Neural Story Generation, section 5.3; top-p, Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section
3.1; min-p, Nguyen et al. 2024, Turning Up the Heat, section 4.

    for drawn in sample_tokens(model, [5, 7], SampleOptions(n=2, seed=1)):
        print(drawn.row, drawn.token, drawn.log_prob, drawn.finish_reason)

B rows · V vocabulary
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.models.protocol import LanguageModel, LogProbs


class Drawn(NamedTuple):
    """One token of one row."""

    row: int
    token: int
    log_prob: float  # the model's own, before any option changed the distribution
    finish_reason: str  # "" while the row goes on; "stop" or "length" with its last token


def penalize(scores: LogProbs, seen: npt.NDArray[np.bool_], penalty: float) -> LogProbs:
    """Make seen tokens less likely: scores and seen are (B, V).

    Log-probabilities are never positive, so of CTRL's two cases (divide a positive score, multiply a negative one) only
    the second occurs.
    """
    return scores if penalty == 1 else np.where(seen, scores * np.float32(penalty), scores)


def keep_top_k(scores: LogProbs, k: int) -> LogProbs:
    """Set all but the k highest scores of each row to -inf; scores equal to the k-th all stay. k = 0 keeps all."""
    V = scores.shape[-1]
    if k == 0 or k >= V:
        return scores
    least = np.partition(scores, V - k, axis=-1)[:, V - k, None]  # (B, 1)
    return np.where(scores < least, np.float32(-np.inf), scores)


def keep_top_p(scores: LogProbs, p: float) -> LogProbs:
    """Set to -inf the unlikeliest scores of each row whose probabilities together do not exceed 1 - p; one always stays."""
    if p >= 1:
        return scores
    out = scores.copy()
    for row, probs in zip(out, probabilities(scores), strict=True):
        # tokens of at most (1 - p) / V each cannot add up to more than 1 - p: they go without being sorted
        large = np.flatnonzero(probs > (1 - p) / len(probs))
        order = large[np.argsort(probs[large], kind="stable")]  # ascending
        mass = 1 - probs[large].sum() + np.cumsum(probs[order])
        dropped = order[:-1][mass[:-1] <= 1 - p]
        kept = np.zeros(len(probs), dtype=bool)
        kept[large] = True
        kept[dropped] = False
        row[~kept] = -np.inf
    return out


def keep_min_p(scores: LogProbs, p: float) -> LogProbs:
    """Set to -inf the scores whose probability is below p times that of the row's likeliest token."""
    if p == 0:
        return scores
    threshold = scores.max(axis=-1, keepdims=True) + np.float32(np.log(p))
    return np.where(scores < threshold, np.float32(-np.inf), scores)


def probabilities(scores: LogProbs) -> npt.NDArray[np.float64]:
    """Turn scores (B, V) into probabilities that sum to 1 per row, in float64."""
    weights = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    out: npt.NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return out


def warp(log_probs: LogProbs, seen: npt.NDArray[np.bool_], options: SampleOptions) -> LogProbs:
    """Apply penalty, temperature, top-k, top-p and min-p in this order; what may not be drawn is -inf.

    At temperature 0 only the penalty applies: the likeliest token is the same after any of the others.
    """
    scores = penalize(log_probs, seen, options.repetition_penalty)
    if options.temperature == 0:
        return scores
    scores = scores / np.float32(options.temperature)
    return keep_min_p(keep_top_p(keep_top_k(scores, options.top_k), options.top_p), options.min_p)


def draw(scores: LogProbs, generators: Sequence[np.random.Generator]) -> list[int]:
    """Draw one token per row by inverting its cumulative distribution with one number from the row's own generator."""
    tokens = []
    for probs, generator in zip(probabilities(scores), generators, strict=True):
        total = np.cumsum(probs)
        token = int(np.searchsorted(total, generator.random() * total[-1], side="right"))
        tokens.append(min(token, int(np.flatnonzero(probs)[-1])))  # rounding may reach the very end
    return tokens


def sample_tokens(model: LanguageModel, prompt: Sequence[int], options: SampleOptions, stop_ids: Collection[int] = (),
                  ended: Callable[[int, int], bool] | None = None, source: Sequence[int] | None = None,
                  rules: Rules | None = None, state: Any = None) -> Iterator[Drawn]:
    """Continue the prompt in `options.n` rows at once; yields each token as it is drawn.

    A row ends with reason "stop" after the separator, one of `stop_ids`, or a token for which `ended(row, token)` is true
    (it is asked once for every other token); with "length" after `max_tokens` or when the model can hold no more.
    source: what an encoder-decoder reads. rules: what may be said where. state: of one row, that has taken the first ids of the
    prompt but not all; it goes on from there and remembers all but the last id drawn.
    Row i draws from `SeedSequence([seed, i])`, so its text does not depend on how many rows there are.
    Raises UserError, before anything is drawn, when the prompt does not fit the model: it is never cut.
    """
    ids = check_prompt(model, prompt, source)
    seed = secrets.randbits(64) if options.seed is None else options.seed
    generators = [np.random.default_rng(np.random.SeedSequence([seed, row])) for row in range(options.n)]
    return _continue(model, ids, options, generators, {model.separator_id, *stop_ids}, ended or (lambda row, token: False),
                     model.start(1, None if source is None else [list(source)]) if state is None else state, rules or Rules())


def check_prompt(model: LanguageModel, prompt: Sequence[int], source: Sequence[int] | None = None) -> list[int]:
    """Return the ids that a text begins with: the prompt's, or the separator. Raises UserError when it or a source does not fit."""
    ids = list(prompt) or [model.separator_id]
    longest = max(len(ids), len(source or ()))
    if model.max_length is not None and longest > model.max_length:
        raise UserError(f"the prompt is {longest:,} tokens long", f"at most {model.max_length:,}, all this model can see", "shorten it")
    return ids


def _continue(model: LanguageModel, ids: list[int], options: SampleOptions, generators: list[np.random.Generator], stops: set[int],
              ended: Callable[[int, int], bool], state: Any, rules: Rules) -> Iterator[Drawn]:
    """Read the prompt once, then draw for all rows that still go on and feed what was drawn."""
    log_probs = np.repeat(model.step([ids[state.lengths[0]:]], state), options.n, axis=0)  # (B, V): the prompt is read once
    if options.n > 1:
        state.select([0] * options.n)
    seen = np.zeros(log_probs.shape, dtype=bool)
    seen[:, ids] = True
    rows, count = list(range(options.n)), 0
    said: list[list[int]] = [[] for _ in rows]
    while rows:
        if np.isnan(log_probs).any():
            raise UserError("the model gives NaN instead of probabilities", "finite weights", "train again with a smaller learning rate")
        count += 1
        full = count == options.max_tokens or (model.max_length is not None and len(ids) + count > model.max_length)
        allowed = log_probs if rules.plain else np.stack([rules.restrict(one, ids, said[row], full)
                                                          for one, row in zip(log_probs, rows, strict=True)])
        scores = warp(allowed, seen, options)
        tokens = scores.argmax(axis=-1).tolist() if options.temperature == 0 else draw(scores, [generators[row] for row in rows])
        going = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            stopped = token in stops or ended(row, token)
            said[row].append(token)
            if not (stopped or full):
                going.append(place)
            yield Drawn(row, token, float(log_probs[place, token]), "stop" if stopped else "length" if full else "")
        if not going:
            return
        if len(going) < len(rows):
            state.select(going)
            rows, tokens, seen = [rows[place] for place in going], [tokens[place] for place in going], seen[going]
        seen[np.arange(len(rows)), tokens] = True
        log_probs = model.step([[token] for token in tokens], state)
