"""The data order is a pure function, covers every token once per epoch, and does not depend on how a step is sliced."""

from __future__ import annotations

import numpy as np
import pytest

from myna.data.order import Order, read_batch
from myna.errors import UserError

SHAPES = [(11, 10), (20, 10), (29, 10), (1000, 7), (4097, 16), (99_991, 13)]


@pytest.mark.parametrize(("tokens", "context"), SHAPES)
def test_each_token_is_predicted_once_per_epoch(tokens, context):
    order = Order(tokens, context, seed=3)
    ids = np.arange(tokens)
    for epoch in range(3):
        targets = read_batch(ids, order.starts(epoch, order.windows), context)[:, 1:]
        assert len(np.unique(targets)) == targets.size == tokens - tokens % context


@pytest.mark.parametrize(("tokens", "context"), SHAPES[:5])
def test_fast_and_readable_agree(tokens, context):
    order = Order(tokens, context, seed=5)
    count = min(3 * order.windows, 600)
    assert [order.window(index) for index in range(count)] == order.starts(0, count).tolist()


@pytest.mark.parametrize("rows", [1, 3, 8, 10, 25])
def test_resumes_at_every_boundary(rows):
    """With 10 windows per epoch: rows that divide it, do not, equal it and exceed it; over more than 3 epochs."""
    whole = Order(105, 10, seed=1).starts(0, 40 * rows).reshape(40, rows)
    for step in range(40):
        assert np.array_equal(Order(105, 10, seed=1).starts(step, rows), whole[step])


@pytest.mark.parametrize("micro", [1, 2, 3, 6, 12])
def test_slices_of_a_step_do_not_change_it(micro):
    order = Order(5000, 9, seed=2)
    for step in (0, 7, 45, 46, 47):
        parts = [order.starts(step * (12 // micro) + part, micro) for part in range(12 // micro)]
        assert np.array_equal(np.concatenate(parts), order.starts(step, 12))


def test_epochs_and_seeds_differ_in_order_and_in_phase():
    order = Order(100_000, 10, seed=0)
    first, second = order.starts(0, order.windows), order.starts(1, order.windows)
    other = Order(100_000, 10, seed=1).starts(0, order.windows)
    for a, b in ((first, second), (first, other)):
        assert (a != b).mean() > 0.99
    assert len({int(starts[0] % 10) for starts in (order.starts(epoch, order.windows) for epoch in range(20))}) > 4
    moved = (first - np.roll(first, 1)) % 100_000
    assert (moved == 10).mean() < 0.01  # neighbours in the text are not neighbours in time


def test_is_spread_evenly():
    """The mean start of a step is the middle of the text, and ranks of consecutive windows are uncorrelated."""
    order = Order(1 << 20, 16, seed=9)
    starts = order.starts(0, order.windows).astype(float)
    means = starts.reshape(256, -1).mean(axis=1) / (1 << 20)
    assert abs(means - 0.5).max() < 0.1  # 256 windows: standard deviation 0.018
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.02


def test_huge_streams_need_no_memory():
    order = Order(10**13, 1024, seed=0)
    starts = order.starts(10**6, 64)
    assert len(set(starts.tolist())) == 64 and starts.min() >= 0 and starts.max() < 10**13


def test_is_the_same_on_every_machine():
    """Pinned: a checkpoint of an older version must go on with the order it began with."""
    assert Order(1000, 10, seed=0).starts(0, 6).tolist() == PINNED


PINNED = [961, 401, 281, 611, 711, 151]


def test_batches_wrap_and_come_from_a_file(tmp_path):
    np.arange(10, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    ids = np.memmap(tmp_path / "ids.bin", dtype="<u2", mode="r")
    batch = read_batch(ids, np.array([0, 6, 9]), 4)
    assert batch.dtype == np.int64
    assert batch.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 0], [9, 0, 1, 2, 3]]


def test_too_little_text():
    with pytest.raises(UserError, match="10 tokens"):
        Order(10, 10, seed=0)
