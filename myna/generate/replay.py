"""Replay prompts in llama.cpp and compare: the same ids, and the same greedy tokens.

Only with the `llama-cpp-python` package installed; a check of an exported file, not a way to run models.

    compare_gguf(Path("my-model.gguf"), model, tokenizer, ["Once"])   # {"prompts": 1, "same_ids": 1, "tokens": 32, "same_tokens": 32, ...}
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.generate.options import SampleOptions
from myna.generate.sample import sample_tokens
from myna.models.protocol import LanguageModel

if TYPE_CHECKING:
    from myna.tokenizer.tokenizer import Tokenizer

_F32 = 0  # ggml_type of the key-value cache; llama.cpp's default, F16, would add its own rounding


def can_compare() -> bool:
    """Tell whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def compare_gguf(path: Path, model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], tokens: int = 32) -> dict[str, Any]:
    """Compare the file with the model it was made from, on ids and on up to `tokens` greedy tokens per prompt.

    Returns {prompts, same_ids, tokens, same_tokens, gap}: greedy tokens are counted up to the first that differs, and
    gap is the largest difference, at such a place, between the log-probabilities our model gives the two candidates
    (near 0 means a tie that rounding decided).
    """
    llama_cpp = importlib.import_module("llama_cpp")
    engine = llama_cpp.Llama(str(path), n_ctx=0, logits_all=False, verbose=False, type_k=_F32, type_v=_F32, n_gpu_layers=0)
    counted = {"prompts": len(prompts), "same_ids": 0, "tokens": 0, "same_tokens": 0}
    gap = 0.0
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        counted["same_ids"] += list(engine.tokenize(prompt.encode(), add_bos=False, special=False)) == ids
        ids = ids or [model.separator_id]
        room = tokens if model.max_length is None else min(tokens, model.max_length - len(ids))
        if room < 1:
            continue
        ours = [drawn.token for drawn in sample_tokens(model, ids, SampleOptions(max_tokens=room, temperature=0.0))]
        engine.reset()
        stream = engine.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
        theirs = [next(stream) for _ in ours]
        same = next((place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), len(ours))
        counted["tokens"] += len(ours)
        counted["same_tokens"] += same
        if same < len(ours):
            scores = model.step([[*ids, *ours[:same]]], model.start())[0]
            gap = max(gap, float(scores[ours[same]] - scores[theirs[same]]))
    return {**counted, "gap": gap}
