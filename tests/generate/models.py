"""A made-up bigram model and a byte tokenizer: the smallest things that satisfy what generation needs."""

from __future__ import annotations

import numpy as np


class TableState:
    def __init__(self, rows: int) -> None:
        self.ids: list[list[int]] = [[] for _ in range(rows)]

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.ids]

    def truncate(self, lengths) -> None:
        self.ids = [row[:length] for row, length in zip(self.ids, lengths, strict=True)]

    def select(self, rows) -> None:
        self.ids = [list(self.ids[row]) for row in rows]


class Table:
    """log p(next | last) from a table (V, V)."""

    def __init__(self, vocab: int, seed: int = 0, max_length: int | None = None) -> None:
        logits = np.random.default_rng(seed).normal(0, 2, (vocab, vocab))
        self.table = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
        self.vocab_size, self.max_length, self.separator_id = vocab, max_length, 0

    def start(self, rows: int = 1, source=None) -> TableState:
        return TableState(rows)

    def step(self, ids, state, last: bool = True):
        assert last
        assert len(ids) == len(state.ids)
        for row, new in zip(state.ids, ids, strict=True):
            row.extend(new)
            if self.max_length is not None and len(row) > self.max_length:
                raise ValueError("beyond max_length")
        return self.table[[row[-1] for row in state.ids]]

    def log_probs(self, ids, source=None):
        return self.table[[self.separator_id, *ids[:-1]], list(ids)]


class Script(Table):
    """Says given ids one after the other, whatever the prompt of one id, then the separator."""

    def __init__(self, ids: list[int], vocab: int) -> None:
        super().__init__(vocab)
        self.said = [*ids, 0]

    def step(self, ids, state, last: bool = True):
        super().step(ids, state)
        out = np.full((len(state.ids), self.vocab_size), -30, dtype=np.float32)
        for place, row in enumerate(state.ids):
            out[place, self.said[len(row) - 1]] = 0
        return out


class Bytes:
    """Id 0 is the separator, id 1 a special token, ids 2... the 256 bytes."""

    special_ids = frozenset({0, 1})
    vocab_size = 258
    separator_id = 0

    def __init__(self) -> None:
        self.token_bytes = [b"", b"", *(bytes([byte]) for byte in range(256))]

    def encode(self, text: str) -> list[int]:
        return [byte + 2 for byte in text.encode()]

    def encode_inputs(self, texts) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids) -> str:
        return b"".join(self.token_bytes[id] for id in ids).decode("utf-8", "replace")
