"""Texts as vectors by an encoder: near each other where the meaning is, if the encoder was trained for that.

Sentence-BERT (Reimers & Gurevych 2019). Texts are run in batches of one length, so there is no padding: a vector does not depend on
what else was asked for, and no time goes into positions that hold nothing.

    vectors = embed_texts(model, tokenizer, read_pooling(folder), ["A cat sits.", "A dog runs."])    # (2, C) float32
    rank_texts(vectors[0], vectors[1:])                                                              # [(0, 0.41)]

N texts · C hidden_size · T tokens
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.console import say, track
from myna.errors import UserError
from myna.models.pooling import Pooling

if TYPE_CHECKING:
    from myna.tokenizer.tokenizer import Tokenizer

Vectors = npt.NDArray[np.float32]
_AT_ONCE = 4096  # tokens a batch has at most, a longer text alone: what it computes stays within a few MB
_READ = 4096  # texts turned into ids at a time
_UNKNOWN = "are a third or more of what the tokenizer does not know: their vectors say little"


def embed_texts(model: Any, tokenizer: Tokenizer, pooling: Pooling, texts: Sequence[str], told: Counter[str] | None = None) -> Vectors:
    """Give every text its vector: (N, C), in the order of the texts.

    model: an encoder. Texts longer than it sees are cut, and how many is said; with `told` it is counted there, and no progress is shown,
    for callers that give texts part by part. Raises UserError when the model is no encoder, or a text gives no token at all.
    """
    import torch

    from myna.models.encoder import Encoder

    if not isinstance(model, Encoder):
        raise UserError(f"a {type(model).__name__} has no sentence vectors", "an encoder (bert, roberta, albert), as minilm",
                        "myna fetch minilm")
    limit = min(model.max_length, pooling.max_length or model.max_length)
    rows: list[list[int]] = []
    cut = 0
    for at in range(0, len(texts), _READ):
        given = [text.lower() if pooling.lower_case else text for text in texts[at : at + _READ]]
        inputs = tokenizer.encode_inputs(given, max_length=limit)
        rows += inputs
        cut += inputs.truncated
    notes = Counter({f"were longer than {limit} tokens and cut there": cut, _UNKNOWN: _count_unknown(tokenizer, rows)})
    for what, count in (+notes).items():
        if told is None:
            say(f"{count:,} of {len(texts):,} texts {what}")
        else:
            told[what] += count
    if (empty := next((number for number, ids in enumerate(rows) if not ids), None)) is not None:
        raise UserError(f"text {empty + 1} is empty", "at least one token", "leave it out")
    vectors = np.empty((len(rows), model.config.hidden_size), dtype=np.float32)
    progress = track("embedding", len(rows), "texts") if told is None else contextlib.nullcontext(lambda _: None)
    with torch.inference_mode(), progress as advance:
        for batch in _batches(rows):
            ids = torch.tensor([rows[number] for number in batch])
            if int(ids.max()) >= model.vocab_size:
                raise UserError(f"the tokenizer gives id {int(ids.max()):,}", f"ids below {model.vocab_size:,}, which the model has",
                                "restore the directory")
            vectors[batch] = pooling.apply(model.encode(ids).float()).numpy()
            advance(len(batch))
    return vectors


def _count_unknown(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> int:
    """Count the texts of whose tokens a third or more is unknown: a script that the vocabulary was not made for."""
    for name in ("[UNK]", "<unk>"):
        try:
            id = tokenizer.special_id(name)
        except UserError:
            continue
        return sum(3 * ids.count(id) >= len(ids) > 0 for ids in rows)
    return 0


def _batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group the numbers of rows by length, longest first, so that what is most memory comes at once."""
    by_length: dict[int, list[int]] = {}
    for number, ids in enumerate(rows):
        by_length.setdefault(len(ids), []).append(number)
    batches = []
    for length in sorted(by_length, reverse=True):
        numbers, size = by_length[length], max(1, _AT_ONCE // length)
        batches += [numbers[at : at + size] for at in range(0, len(numbers), size)]
    return batches


def rank_texts(query: Vectors, vectors: Vectors) -> list[tuple[int, float]]:
    """Order vectors (N, C) by their cosine with a query (C,), best first: (number, cosine)."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    cosines = vectors @ query / np.maximum(lengths, np.finfo(np.float32).tiny)
    return [(int(number), float(cosines[number])) for number in np.argsort(-cosines, kind="stable")]
