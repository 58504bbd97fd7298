"""Which batches a family learns from: one visible choice.

    read = open_reader("decoder", ids, context=256, rows=16, seed=0)
    read(0)["input_ids"]        # (16, 256)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.data.order import Windows
from myna.tokenizer.tokenizer import Tokenizer

Rows = dict[str, NDArray[np.int64]]


def open_reader(family: str, model_type: str, ids: NDArray[np.integer[Any]], context: int, rows: int, seed: int,
                tokenizer: Tokenizer) -> Callable[[int], Rows]:
    """Return a function from a step (from 0) to its rows, which depends on nothing else.

    ids: the training stream (N,). context: ids of a row. Raises UserError when the stream is too short.
    """
    match family:
        case "decoder":
            windows = Windows(ids, context, seed)
            return lambda step: windows.read(step, rows)
        case _:
            raise ValueError(f"{family!r} is not trained on batches")
