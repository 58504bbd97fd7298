"""Packing: everything once an epoch, nothing visible across examples, and losses that no arrangement changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from myna.data.packing import IGNORED, Packed, lay_rows
from myna.errors import UserError
from myna.models.decoder import Decoder, DecoderConfig
from myna.train.loop import split_rows

rng = np.random.default_rng(0)
EXAMPLES = [(rng.integers(1, 60, n), rng.random(n) < 0.6) for n in rng.integers(2, 33, 50)]


def test_every_example_is_there_once_an_epoch_in_rows_that_are_full() -> None:
    packed = Packed(EXAMPLES, 32, seed=1, pad_id=0)
    assert sorted(number for row in packed.rows for number in row) == list(range(len(packed.examples)))
    assert all(sum(len(packed.examples[number][0]) - 1 for number in row) <= 32 for row in packed.rows)
    assert packed.fill > 0.85
    epoch = packed.read(0, len(packed.rows))
    learned = np.concatenate([ids[1:][trained[1:]] for ids, trained in packed.examples])
    assert sorted(epoch["labels"][epoch["labels"] != IGNORED]) == sorted(learned)


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    one, two = (Packed(EXAMPLES, 32, seed=1, pad_id=0) for _ in range(2))
    for _ in range(3):
        two.read(7, 4)
    for name, values in one.read(5, 4).items():
        assert values.dtype == np.int64 and np.array_equal(values, two.read(5, 4)[name])
    assert not np.array_equal(one.read(0, 4)["input_ids"], Packed(EXAMPLES, 32, seed=2, pad_id=0).read(0, 4)["input_ids"])
    small = one.read(3, 2)["input_ids"], one.read(4, 2)["input_ids"]
    assert not np.array_equal(*small)


def test_one_row_is_an_epoch_too() -> None:
    packed = Packed(EXAMPLES[:1], 32, 0, 0)
    assert np.array_equal(packed.read(0, 1)["labels"], packed.read(9, 1)["labels"])


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(UserError, match="no example"):
        Packed([(np.array([1, 2]), np.array([True, False]))], 8, 0, 0)
    with pytest.raises(ValueError, match="31 places"):
        Packed([(np.arange(32), np.ones(32, bool))], 16, 0, 0)


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    shape = DecoderConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, head_dim=16, max_position_embeddings=64, model_type="llama")
    model = Decoder(shape)
    for parameter in model.parameters():  # no projection at zero
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def gradients(model: Decoder, batches: list[dict[str, torch.Tensor]], count: int) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        total = model.loss(batch)[0]["next_token"][0] / count
        total.backward()
        loss += float(total.detach())
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def test_loss_and_gradients_do_not_depend_on_the_arrangement(model: Decoder) -> None:
    """Each example alone, packed, padded wider with another id, and cut into micro-batches: the same to 1e-5."""
    packed = Packed(EXAMPLES, 32, seed=3, pad_id=0)
    count = sum(int(trained[1:].sum()) for _, trained in packed.examples)
    alone = [tensors({"input_ids": ids[None, :-1], "labels": np.where(trained[1:], ids[1:], IGNORED)[None]})
             for ids, trained in packed.examples]
    loss, gradient = gradients(model, alone, count)
    epoch = tensors(packed.read(0, len(packed.rows)))
    wider = tensors(lay_rows([[packed.examples[number] for number in row] for row in packed.rows], 48, 5))
    micro = [{name: values[rows] for name, values in epoch.items()} for rows in split_rows(epoch, 3)]
    for batches in ([epoch], [wider], micro):
        other, moved = gradients(model, batches, count)
        assert other == pytest.approx(loss, rel=1e-5)
        assert float((moved - gradient).norm() / gradient.norm()) < 1e-5
    assert sum(model.counts(batch)["next_token"] for batch in micro) == count
