"""Contrastive search: of the likeliest tokens the one whose hidden state is least like those before it, so that a text does not go round.

Each of the `top_k` likeliest tokens v is tried. With h_v the last layer's state after it and h_j those of all ids before,

    score(v) = (1 - alpha) p(v) - alpha max_j cos(h_v, h_j)

and the best is taken; nothing is drawn at random. Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 3.2;
`penalty_alpha` and `top_k` are Hugging Face's words. A step with `top_k` rows tries all candidates at once, and what it gives is kept
for the one that is taken, so a token costs one step. The readable twin is in tests/generate/test_contrastive.py.

    for drawn in search_contrastive(model, [5, 7], SampleOptions(penalty_alpha=0.6, top_k=4)):
        print(drawn.token, drawn.log_prob)

K candidates · C hidden_size · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import numpy as np

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.generate.sample import Drawn, check_prompt, penalize, probabilities
from myna.models.protocol import Hidden, HiddenModel, LanguageModel


def search_contrastive(model: LanguageModel, prompt: Sequence[int], options: SampleOptions, stop_ids: Collection[int] = (),
                       ended: Callable[[int, int], bool] | None = None, rules: Rules | None = None) -> Iterator[Drawn]:
    """Continue the prompt by contrastive search; yields each token of the one text there is, as `sample_tokens` does.

    Raises UserError, before anything is written, when the model shows no hidden states or the prompt leaves no room.
    """
    if not hasattr(model, "step_hidden"):
        raise UserError(f"penalty_alpha with a model that has no hidden states to compare ({type(model).__name__})",
                        "a decoder or a recurrent model", "leave it out: --top-p draws with any model")
    ids = check_prompt(model, prompt)
    room = options.max_tokens if model.max_length is None else min(options.max_tokens, model.max_length - len(ids))
    if room < 1:
        raise UserError(f"the prompt is {len(ids):,} tokens long", f"at most {len(ids) - 1:,}: each candidate is read before it is taken",
                        "shorten it")
    return _search(cast(HiddenModel, model), ids, options, room, {model.separator_id, *stop_ids}, ended or (lambda row, token: False),
                   rules or Rules())


def _search(model: HiddenModel, ids: list[int], options: SampleOptions, room: int, stops: set[int],
            ended: Callable[[int, int], bool], rules: Rules) -> Iterator[Drawn]:
    state: Any = model.start(1)
    log_probs, states = model.step_hidden([ids], state)
    seen = np.zeros(log_probs.shape, dtype=bool)
    seen[0, ids] = True
    before = _directions(states[0])  # (T, C)
    said: list[int] = []
    for count in range(1, room + 1):
        if np.isnan(log_probs).any():
            raise UserError("the model gives NaN instead of probabilities", "finite weights", "train again with a smaller learning rate")
        allowed = log_probs if rules.plain else rules.restrict(log_probs[0], ids, said, count == room)[None]
        chances = probabilities(penalize(allowed, seen, options.repetition_penalty))[0]
        candidates = np.argsort(-chances, kind="stable")[: options.top_k]
        candidates = candidates[chances[candidates] > 0]
        state.select([0] * len(candidates))
        after, states = model.step_hidden(candidates[:, None], state)
        directions = _directions(states[:, 0])  # (K, C)
        alike = (directions @ before.T).max(axis=1)  # (K,)
        best = int(np.argmax((1 - options.penalty_alpha) * chances[candidates] - options.penalty_alpha * alike))
        token, log_prob = int(candidates[best]), float(log_probs[0, candidates[best]])
        state.select([best])
        stopped = token in stops or ended(0, token)
        yield Drawn(0, token, log_prob, "stop" if stopped else "length" if count == room else "")
        if stopped:
            return
        said.append(token)
        seen[0, token] = True
        log_probs, before = after[best : best + 1], np.concatenate((before, directions[best : best + 1]))


def _directions(states: Hidden) -> Hidden:
    """Bring states (N, C) to length 1; one of length 0 stays, and is like nothing."""
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    out: Hidden = (states / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return out


def check_contrastive(options: SampleOptions) -> None:
    """Raise UserError on options that contrastive search would not read."""
    default = SampleOptions()
    if options.top_k < 2:
        raise UserError(f"penalty_alpha with top_k {options.top_k}", "a top_k of at least 2: the candidates", "add --top-k 4")
    unread = [name for name in ("top_p", "min_p", "n", "num_beams") if getattr(options, name) != getattr(default, name)]
    if unread or options.temperature not in (0.0, default.temperature):
        raise UserError(f"{unread[0] if unread else 'temperature'} with penalty_alpha", "one of the two",
                        "contrastive search gives one text, and draws nothing at random")
