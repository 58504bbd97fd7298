"""Continue many prompts at once, each with the likeliest token at every step: the same prompts give the same texts.

    answers = answer_prompts(model, [prompt_ids], ends, max_tokens=64)
    answers[0].ids, answers[0].stopped
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a model said, and whether it stopped by itself."""

    ids: list[int]
    stopped: bool


def answer_prompts(model: Any, prompts: Sequence[Sequence[int]], ends: Collection[int], max_tokens: int,
                   ended: Callable[[int, int], bool] | None = None) -> list[Answer]:
    """Continue prompts greedily, all at once, each until one of `ends` or `max_tokens`; the token that ended it is not in its ids.

    ended: asked with the prompt's number and each token drawn for it; where it is true the answer has stopped, and that token stays.
    """
    answers = [Answer([], False) for _ in prompts]
    if not prompts:
        return answers
    room = [max_tokens if model.max_length is None else min(max_tokens, model.max_length - len(prompt)) for prompt in prompts]
    state = model.start(len(prompts))
    log_probs = model.step([list(prompt) for prompt in prompts], state)  # (B, V)
    rows = list(range(len(prompts)))
    while rows:
        going: list[int] = []
        tokens = log_probs.argmax(axis=-1).tolist()
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if token in ends:
                answers[row] = answers[row]._replace(stopped=True)
                continue
            answers[row].ids.append(token)
            if ended is not None and ended(row, token):
                answers[row] = answers[row]._replace(stopped=True)
            elif len(answers[row].ids) < room[row]:
                going.append(place)
        if not going:
            break
        if len(going) < len(rows):
            state.select(going)
        rows = [rows[place] for place in going]
        log_probs = model.step([[answers[row].ids[-1]] for row in rows], state)
    return answers
