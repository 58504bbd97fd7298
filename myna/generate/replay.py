"""Replay prompts in another runtime and compare: the same ids, the same log-probabilities, the same greedy tokens.

In llama.cpp with the `llama-cpp-python` package installed; a check of what was exported, not a way to run models. `transformers` is
never imported here: it fetches, and runs programs that a directory names. The tests hold exported directories against it.

    compare_gguf(Path("my-model.gguf"), model, tokenizer, ["Once"])   # {"prompts": 1, "same_ids": 1, "tokens": 32, "same_tokens": 32, ...}

T tokens · V vocabulary
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.generate.options import SampleOptions
from myna.generate.sample import sample_tokens
from myna.models.protocol import LanguageModel

if TYPE_CHECKING:
    from myna.tokenizer.tokenizer import Tokenizer

_F32 = 0  # ggml_type of the key-value cache; llama.cpp's default, F16, would add its own rounding
_LEAST_SHOWN = -9.2  # nats, a probability of 1 in 10,000: rarer tokens differ most and matter least, so they are not compared

Scores = Callable[[Sequence[int]], npt.NDArray[np.float32]]  # ids (T,) to logits (T, V) in the other runtime


def can_compare(runtime: str = "llama_cpp") -> bool:
    """Tell whether the other runtime is installed."""
    return importlib.util.find_spec(runtime) is not None


def compare_gguf(path: Path, model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], tokens: int = 32) -> dict[str, Any]:
    """Compare a GGUF file in llama.cpp with the model it was made from, as `compare`."""
    llama_cpp = importlib.import_module("llama_cpp")
    longest = max((len(tokenizer.encode(prompt)) for prompt in prompts), default=0) + tokens + 1
    room = longest if model.max_length is None else min(longest, model.max_length)
    engine = llama_cpp.Llama(str(path), n_ctx=room, n_batch=room, logits_all=True, verbose=False, type_k=_F32, type_v=_F32, n_gpu_layers=0)

    def score(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        engine.reset()
        engine.eval(list(ids))
        return np.array(engine.scores[: len(ids)], dtype=np.float32)

    def encode(text: str) -> list[int]:
        return [int(id) for id in engine.tokenize(text.encode(), add_bos=False, special=False)]

    return compare(encode, score, model, tokenizer, prompts, tokens)


def compare_models(other: LanguageModel, read: Tokenizer, model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str],
                   tokens: int = 32) -> dict[str, Any]:
    """Compare a directory that was written and opened again, its tokenizer `read`, with the model it was made from, as `compare`."""
    return compare(read.encode, lambda ids: _our_scores(other, ids), model, tokenizer, prompts, tokens)


def compare(encode: Callable[[str], list[int]], score: Scores, model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str],
            tokens: int) -> dict[str, Any]:
    """Compare another runtime with a model: on ids, and on up to `tokens` greedy tokens per prompt.

    Ours goes on greedily, and the other runtime is shown the same text. Returns {prompts, same_ids, tokens, same_tokens, gap,
    largest_difference}: greedy tokens are counted up to the first place where the other's likeliest is another one; gap is the
    largest difference, at such a place, between the log-probabilities our model gives the two (near 0 means a tie that rounding
    decided); largest_difference is that of any log-probability of the texts' tokens that is not below 1 in 10,000 in ours.
    """
    counted = {"prompts": len(prompts), "same_ids": 0, "tokens": 0, "same_tokens": 0}
    gap = largest = 0.0
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        counted["same_ids"] += encode(prompt) == ids
        ids = ids or [model.separator_id]
        room = tokens if model.max_length is None else min(tokens, model.max_length - len(ids))
        if room < 1:
            continue
        ours = [drawn.token for drawn in sample_tokens(model, ids, SampleOptions(max_tokens=room, temperature=0.0))]
        shown = [*ids, *ours[:-1]]
        wanted, found = _our_scores(model, shown), _normalize(score(shown))  # (T, V)
        largest = max(largest, float(np.abs(found - wanted)[wanted > _LEAST_SHOWN].max(initial=0)))
        theirs = found[len(ids) - 1 :].argmax(axis=-1).tolist()
        same = next((place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), len(ours))
        counted["tokens"] += len(ours)
        counted["same_tokens"] += same
        if same < len(ours):
            row = wanted[len(ids) - 1 + same]
            gap = max(gap, float(row[ours[same]] - row[theirs[same]]))
    return {**counted, "gap": gap, "largest_difference": largest}


def _our_scores(model: LanguageModel, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.asarray(model.step([list(ids)], model.start(), last=False)[0])


def _normalize(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits (T, V) as log-probabilities."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)
