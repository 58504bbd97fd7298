"""Which batches a family learns from: one visible choice.

    read = open_reader("decoder", "qwen3", ids, context=256, rows=16, seed=0, tokenizer=tokenizer, options=ReaderOptions())
    read(0)["input_ids"]        # (16, 256)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.data.masking import Masked, read_marks
from myna.data.options import MaskingOptions, SpanOptions
from myna.data.order import Windows
from myna.data.spans import Spans, read_sentinels
from myna.data.streams import Streams
from myna.tokenizer.tokenizer import Tokenizer

Rows = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class ReaderOptions:
    """What the user decides of the batches, of whatever family."""

    masking: MaskingOptions = field(default_factory=MaskingOptions)
    spans: SpanOptions = field(default_factory=SpanOptions)


def open_reader(family: str, model_type: str, ids: NDArray[np.integer[Any]], context: int, rows: int, seed: int,
                tokenizer: Tokenizer, options: ReaderOptions) -> Callable[[int], Rows]:
    """Return a function from a step (from 0) to its rows, which depends on nothing else.

    ids: the training stream (N,). context: ids of a row. Raises UserError when the stream is too short or an option cannot be.
    """
    reader: Windows | Streams | Masked | Spans
    match family:
        case "decoder":
            reader = Windows(ids, context, seed)
        case "rnn" | "lstm" | "gru":
            reader = Streams(ids, context, seed)
            reader.steps_per_epoch(rows)  # refuses a short text here rather than in the first step
        case "encoder":
            reader = Masked(ids, context, seed, read_marks(tokenizer), options.masking, pairs=model_type == "albert")
        case "encoder-decoder":
            reader = Spans(ids, context, seed, tokenizer.separator_id, read_sentinels(tokenizer), options.spans)
        case _:
            raise ValueError(f"{family!r} is not trained on batches")
    return lambda step: reader.read(step, rows)
