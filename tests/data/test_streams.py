"""The rows of recurrent training: each goes on where it stopped, every token is read, and nothing but (seed, step, rows) matters."""

from __future__ import annotations

import numpy as np
import pytest

from myna.data.streams import Streams
from myna.errors import UserError

IDS = np.arange(1003, dtype=np.uint16)  # so that an id is its own place


@pytest.mark.parametrize(("rows", "context"), [(1, 7), (4, 16), (5, 32), (1002, 1), (1, 1002)])
def test_every_row_goes_on_where_it_stopped_and_labels_are_the_ids_after(rows: int, context: int) -> None:
    streams = Streams(IDS, context, seed=3)
    steps = streams.steps_per_epoch(rows)
    before = None
    for step in range(steps):
        batch = streams.read(step, rows)
        assert batch["input_ids"].shape == batch["labels"].shape == (rows, context)
        assert batch["input_ids"].dtype == batch["labels"].dtype == np.int64
        both = np.concatenate((batch["input_ids"], batch["labels"][:, -1:]), 1)
        assert (np.diff(both) % 1003 == 1).all()  # the stream is a circle
        assert (batch["labels"][:, :-1] == batch["input_ids"][:, 1:]).all()
        if before is not None:
            assert (batch["input_ids"][:, 0] == before["labels"][:, -1]).all()
        before = batch


def test_an_epoch_reads_every_token_once_but_what_is_left_at_the_ends_of_stretches() -> None:
    streams = Streams(IDS, 16, seed=0)
    steps = streams.steps_per_epoch(4)
    assert steps == 1003 // 4 // 16
    phases = set()
    for epoch in range(3):
        read = np.concatenate([streams.read(step, 4)["labels"].ravel() for step in range(epoch * steps, (epoch + 1) * steps)])
        assert len(np.unique(read)) == len(read) == steps * 4 * 16 > 1003 - 4 * 17
        phases.add(int(streams.starts(epoch * steps, 4)[0]))
    assert len(phases) == 3  # each is cut elsewhere


def test_a_step_is_a_pure_function_of_the_seed() -> None:
    ahead = Streams(IDS, 16, seed=7)
    for step in range(40):
        ahead.read(step, 4)
    for step in (0, 14, 15, 39):
        assert (ahead.read(step, 4)["input_ids"] == Streams(IDS, 16, seed=7).read(step, 4)["input_ids"]).all()
    assert Streams(IDS, 16, seed=8).starts(0, 4)[0] != ahead.starts(0, 4)[0]
    # written down, so that another version of anything cannot change it silently
    assert ahead.starts(0, 4).tolist() == [932, 179, 429, 679]


@pytest.mark.parametrize(("rows", "context"), [(1, 1003), (4, 251), (1003, 1), (2000, 1)])
def test_a_text_shorter_than_one_step_is_an_error_in_one_line(rows: int, context: int) -> None:
    with pytest.raises(UserError, match="1,003 tokens") as error:
        Streams(IDS, context, seed=0).read(0, rows)
    assert "\n" not in str(error.value)


def test_every_row_forgets_at_its_own_steps_and_all_at_an_epochs_start() -> None:
    streams = Streams(np.arange(100_000), 64, seed=0)
    fresh = np.stack([streams.read(step, 8)["fresh"] for step in range(195)])
    assert fresh[0].all() and streams.read(195, 8)["fresh"].all()  # 100,000 // 8 // 64 steps
    for row in range(8):
        steps = np.flatnonzero(fresh[1:, row]) + 1
        assert (np.diff(steps) == 1024 // 64).all() and len(steps) in (12, 13)
    assert fresh[1:].sum(1).max() == 1
    assert Streams(np.arange(100_000), 4096, seed=0).read(1, 8)["fresh"].all()  # a window longer than that
