"""The key-value cache alone: what is written where, and what cutting, choosing and growing leave."""

from __future__ import annotations

import pytest
import torch

from myna.models import cache as cache_module
from myna.models.cache import Cache


def filled(rows: int = 2, slots: int = 3, layers: int = 2) -> Cache:
    """Row b of layer l holds 100 b + 10 l + position."""
    cache = Cache(layers, rows, 1, 2, torch.float32)
    cache.reserve(slots)
    positions = torch.arange(slots).expand(rows, -1)
    for layer in range(layers):
        value = (100 * torch.arange(rows)[:, None] + 10 * layer + positions)[:, None, :, None].expand(-1, 1, -1, 2).float()
        cache.append(layer, positions, value, -value, slots)
    cache.lengths = [slots] * rows
    return cache


def test_every_position_is_written_in_its_own_slot() -> None:
    cache = filled()
    positions = torch.tensor([[3, 4], [1, 2]])  # row 1 had been cut back to one
    cache.reserve(5)
    k, v = cache.append(1, positions, torch.full((2, 1, 2, 2), 7.0), torch.full((2, 1, 2, 2), 8.0), used=5)
    assert k[..., 0].tolist() == [[[10, 11, 12, 7, 7]], [[110, 7, 7, 0, 0]]]
    assert v[..., 1].tolist() == [[[-10, -11, -12, 8, 8]], [[-110, 8, 8, 0, 0]]]
    assert cache.keys[0][:, 0, :3, 0].tolist() == [[0, 1, 2], [100, 101, 102]]  # the other layer is as it was


def test_growing_keeps_what_is_there_and_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_GROWTH", 4)
    cache = filled(slots=3)
    assert cache.keys[0].shape[2] == 4
    before = cache.keys[0]
    cache.reserve(4)
    assert cache.keys[0] is before
    cache.reserve(5)
    assert cache.keys[0].shape[2] == cache.values[1].shape[2] == 8
    assert cache.keys[1][:, 0, :3, 0].tolist() == [[10, 11, 12], [110, 111, 112]]


def test_selected_rows_are_copies() -> None:
    cache = filled(rows=3)
    cache.lengths = [3, 2, 1]
    cache.select([2, 0, 2])
    assert cache.lengths == [1, 3, 1]
    cache.append(0, torch.tensor([[1], [3], [1]]), torch.tensor([5.0, 6.0, 7.0])[:, None, None, None].expand(3, 1, 1, 2),
                 torch.zeros(3, 1, 1, 2), used=3)
    assert cache.keys[0][:, 0, :2, 0].tolist() == [[200, 5], [0, 1], [200, 7]]


@pytest.mark.parametrize("lengths", [[4, 3], [-1, 0], [1], [1, 1, 1]])
def test_rows_cannot_be_cut_to_what_they_are_not(lengths: list[int]) -> None:
    cache = filled()
    with pytest.raises(ValueError):
        cache.truncate(lengths)
    assert cache.lengths == [3, 3]
