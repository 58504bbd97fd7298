"""Which examples a step reads: each once in a pass, of about one length in a batch, and the same for a seed whatever was read before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.train.examples import Reader
from myna.train.loop import Batch


def make(lengths: list[int], seed: int = 0, rows: int = 4) -> Reader:
    def collate(chosen: npt.NDArray[np.int64]) -> Batch:
        return {"input_ids": torch.from_numpy(np.asarray(chosen))}

    return Reader(lengths, collate, seed, rows)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 9))
def test_every_example_comes_once_in_a_pass(lengths: list[int], seed: int) -> None:
    reader = make(lengths, seed)
    for number in range(2):
        steps = range(number * reader.per_pass, (number + 1) * reader.per_pass)
        seen = [int(at) for step in steps for at in reader.read(step)["input_ids"]]
        assert sorted(seen) == list(range(len(lengths)))


def test_a_step_is_the_same_whatever_was_read_before_and_passes_differ() -> None:
    lengths = np.random.default_rng(1).integers(1, 90, 300).tolist()
    one, other = make(lengths), make(lengths)
    backwards = {step: other.read(step)["input_ids"].tolist() for step in reversed(range(3 * one.per_pass))}
    forwards = {step: one.read(step)["input_ids"].tolist() for step in range(3 * one.per_pass)}
    assert forwards == backwards
    assert forwards[0] != make(lengths, seed=1).read(0)["input_ids"].tolist()
    assert [forwards[step] for step in range(one.per_pass)] != [forwards[step + one.per_pass] for step in range(one.per_pass)]


def test_rows_of_a_batch_have_about_one_length_and_the_largest_is_found() -> None:
    lengths = np.random.default_rng(2).integers(1, 500, 1600)
    reader = make(lengths.tolist(), rows=32)
    batches = [lengths[reader.read(step)["input_ids"].numpy()] for step in range(reader.per_pass)]
    padded = sum(batch.max() * len(batch) for batch in batches) / lengths.sum()
    assert padded < 1.1  # in the order they are drawn it is about 1.9
    assert batches[reader.largest()].max() == lengths.max()
    middle = batches[reader.middle()].max()
    assert min(batch.max() for batch in batches) < middle < max(batch.max() for batch in batches)
