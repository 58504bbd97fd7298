"""RNN, LSTM and GRU against torch.nn and the documentation's readable version: outputs, states, every gradient, carried over or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from myna.data.streams import Streams
from myna.errors import UserError
from myna.files import read_json, write_json
from myna.models import recurrent as recurrent_module
from myna.models.pretrained import load_model, save_model
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.models.recurrent_state import RecurrentState
from myna.models.scan import GATES, scan
from tests.docs_code import load_block

KINDS = ["rnn", "lstm", "gru"]
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def recurrent(kind: str, **changes: Any) -> Recurrent:
    """A small model whose weights are not the first ones."""
    shape = {"vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, **changes}
    model = Recurrent(RecurrentConfig(kind, **shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model


def reference(model: Recurrent) -> Any:
    """torch.nn's module with the same weights under the same names."""
    config = model.config
    made = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[config.model_type](
        config.embedding_size, config.hidden_size, config.num_hidden_layers, batch_first=True, bidirectional=config.bidirectional)
    own = dict(model.named_parameters())
    assert {name for name, _ in made.named_parameters()} == own.keys() - model.table_names()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(own[name])
    return made


def random_ids(model: Recurrent, rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, model.vocab_size, (rows, length)))


def batch_of(model: Recurrent, rows: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    ids = random_ids(model, rows, length + 1, seed)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:].clone()}


def carry_of(model: Recurrent, rows: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.empty_like(part).normal_(0, 0.5, generator=generator) for part in model.zero_state(rows))


def their_loss(model: Recurrent, theirs: Any, batch: dict[str, Tensor], carry: tuple[Tensor, ...], weights: Tensor) -> tuple[Tensor, Any]:
    """Next-token cross-entropy, summed, by torch.nn from `carry`; and the state it ends with."""
    state = tuple(part.transpose(0, 1).contiguous() for part in carry)
    out, last = theirs(nn.functional.embedding(batch["input_ids"], weights), state if len(state) == 2 else state[0])
    head = weights if model.lm_head is None else model.lm_head.weight
    total = nn.functional.cross_entropy((out @ head.T).flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    return total, last if isinstance(last, tuple) else (last,)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# ---- the same numbers as torch.nn ----

@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 1}, {"tie_word_embeddings": False, "embedding_size": 7}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_carry_and_every_gradient_are_those_of_torch(kind: str, changes: dict[str, Any]) -> None:
    model = recurrent(kind, **changes)
    theirs, batch, carry = reference(model), batch_of(model, 4, 9), carry_of(model, 4)
    losses, new = model.loss(batch, carry)
    total, weight = losses["next_token"]
    total.backward()
    table = model.embed_tokens.weight.detach().clone().requires_grad_()
    expected, last = their_loss(model, theirs, batch, carry, table)
    expected.backward()
    assert weight == 1 and model.counts(batch) == {"next_token": 36}
    torch.testing.assert_close(total, expected, **CLOSE)
    assert new is not None and len(new) == len(last)
    for ours, other in zip(new, last, strict=True):
        assert not ours.requires_grad and ours.shape == (4, model.config.num_hidden_layers, 12)
        torch.testing.assert_close(ours, other.transpose(0, 1), **CLOSE)
    mine = gradients(model)
    torch.testing.assert_close(mine.pop("embed_tokens.weight"), table.grad, **CLOSE)
    assert theirs.weight_hh_l0.grad.abs().max() > 0.1  # or the test would show nothing
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_by_hand_is_the_derivative(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    T, B, H, rows = 3, 2, 2, 2 * GATES[kind]
    inputs, weight, state = values(T, B, rows), values(rows, H), tuple(values(B, H) for _ in range(2 if kind == "lstm" else 1))
    bias = values(rows) if kind == "gru" else None
    arguments = [inputs, weight, *state, *([] if bias is None else [bias])]

    def run(inputs: Tensor, weight: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        hidden, states = scan(kind, inputs, weight, rest[-1] if kind == "gru" else None, rest[:len(state)])
        return hidden, *states

    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradcheck(lambda *given: run(*given)[-1][-1], arguments)  # only the last state has a gradient


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both directions"])
@pytest.mark.parametrize("kind", KINDS)
def test_encode_is_torch_on_packed_sequences(kind: str, both: bool) -> None:
    model = recurrent(kind, bidirectional=both, tie_word_embeddings=False)
    theirs, ids, lengths = reference(model), random_ids(model, 4, 9), torch.tensor([9, 3, 7, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    weights = torch.randn(4, 9, model.config.outputs, generator=torch.Generator().manual_seed(0))
    out = model.encode(ids, mask)
    packed = pack_padded_sequence(model.embed_tokens(ids).detach(), lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(out, expected, **CLOSE)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    mine = gradients(model)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode(ids[:1]), out[:1], **CLOSE)  # no mask: all are ids
    changed = torch.where(mask.bool(), ids, (ids + 1) % model.vocab_size)
    assert torch.equal(model.encode(changed, mask), out)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_readable_version(kind: str) -> None:
    model, readable = recurrent(kind), load_block("docs/families/recurrent.md", 0)
    own = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    layers = [tuple(own[f"{part}_l{layer}"] for part in recurrent_module.PARTS) for layer in range(2)]
    ids = random_ids(model, 1, 20)[0].tolist()
    expected = readable.log_probs(kind, ids, model.separator_id, own["embed_tokens.weight"], layers)
    np.testing.assert_allclose(model.log_probs(ids), expected, rtol=0, atol=1e-5)


# ---- training ----

@pytest.mark.parametrize("kind", KINDS)
def test_windows_with_a_carried_state_have_the_losses_of_one_long_pass(kind: str) -> None:
    model, ids = recurrent(kind), np.random.default_rng(0).integers(0, 30, 400)
    streams, carry, total = Streams(ids, 8, seed=0), None, 0.0
    for step in range(6):
        losses, carry = model.loss({name: torch.from_numpy(rows) for name, rows in streams.read(step, 3).items()}, carry)
        total += float(losses["next_token"][0].detach())
    whole = Streams(ids, 48, seed=0).read(0, 3)
    losses, _ = model.loss({name: torch.from_numpy(rows) for name, rows in whole.items()})
    assert total == pytest.approx(float(losses["next_token"][0].detach()), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_row_starts_from_nothing_and_the_others_go_on(kind: str) -> None:
    model, batch = recurrent(kind), batch_of(recurrent(kind), 3, 5)
    carry = carry_of(model, 3)
    _, new = model.loss({**batch, "fresh": torch.tensor([0, 1, 0])}, carry)
    _, kept = model.loss(batch, carry)
    _, started = model.loss(batch)
    assert new is not None and kept is not None and started is not None
    for ours, going_on, starting in zip(new, kept, started, strict=True):
        assert torch.equal(ours[[0, 2]], going_on[[0, 2]]) and torch.equal(ours[1], starting[1])
        assert not torch.equal(going_on[1], starting[1])


@pytest.mark.parametrize("kind", KINDS)
def test_however_rows_are_cut_up_the_gradient_and_the_carry_are_the_same(kind: str) -> None:
    model, carry = recurrent(kind), carry_of(recurrent(kind), 5)
    batch = batch_of(model, 5, 8)
    batch["labels"][1, 3] = batch["labels"][4, 0] = -100
    losses, new = model.loss(batch, carry)
    losses["next_token"][0].backward()
    whole, counted = gradients(model), model.counts(batch)["next_token"]
    assert counted == 38 and new is not None
    for size in (1, 2, 3):
        model.zero_grad()
        parts = []
        for at in range(0, 5, size):
            rows = {name: part[at:at + size] for name, part in batch.items()}
            counted -= model.counts(rows)["next_token"] if size == 1 else 0
            losses, last = model.loss(rows, tuple(part[at:at + size] for part in carry))
            losses["next_token"][0].backward()
            parts.append(last)
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-5)
        for number, expected in enumerate(new):
            torch.testing.assert_close(torch.cat([part[number] for part in parts if part is not None]), expected, **CLOSE)
    assert counted == 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_is_learned_by_heart(kind: str) -> None:
    model = Recurrent(RecurrentConfig(kind, vocab_size=30, hidden_size=32, num_hidden_layers=1), seed=0)
    batch, optimizer = batch_of(model, 4, 12), torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(batch)[0]["next_token"][0] / 48
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_is_its_seed_and_guesses_evenly(kind: str, tied: bool) -> None:
    config = RecurrentConfig(kind, vocab_size=300, hidden_size=64, num_hidden_layers=2, tie_word_embeddings=tied)
    torch.manual_seed(5)
    first = Recurrent(config, seed=1)
    torch.manual_seed(6)  # PyTorch's own random state has no say
    again, other = Recurrent(config, seed=1), Recurrent(config, seed=2)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or name == "lm_head.weight" or not torch.equal(a, c), name
    if kind == "lstm":
        assert first.bias_ih_l1.tolist() == [0.0] * 64 + [1.0] * 64 + [0.0] * 128
    loss = float(first.loss(batch_of(first, 4, 64))[0]["next_token"][0].detach()) / 256
    assert loss == pytest.approx(math.log(300), abs=0.25)


def test_dropout_is_drawn_in_training_and_only_there() -> None:
    model, batch = recurrent("gru", dropout=0.5), batch_of(recurrent("gru"), 3, 8)

    def loss() -> float:
        return float(model.loss(batch)[0]["next_token"][0].detach())

    assert model.training and loss() != loss()
    torch.manual_seed(0)
    first = loss()
    torch.manual_seed(0)
    assert loss() == first
    assert (model.log_probs([1, 2, 3]) == recurrent("gru").log_probs([1, 2, 3])).all()  # a look in the middle of training
    model.eval()
    assert loss() == loss()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_products_give_nearly_the_loss_and_gradient_of_float32(kind: str) -> None:
    model, batch = recurrent(kind, hidden_size=64), batch_of(recurrent(kind), 8, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    exact = model.loss(batch)[0]["next_token"][0]
    exact.backward()
    expected = gradients(model)
    model.zero_grad()
    model.compute_dtype = torch.bfloat16
    rounded, carry = model.loss(batch)
    assert carry is not None and all(part.dtype == torch.float32 for part in carry)
    total = rounded["next_token"][0]
    total.backward()
    assert float(total.detach()) != float(exact.detach())
    assert float(total.detach()) == pytest.approx(float(exact.detach()), rel=5e-3)
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.1 * expected[name].norm(), name


# ---- inference ----

@pytest.mark.parametrize("kind", KINDS)
def test_long_documents_are_scored_in_pieces_that_read_what_is_before_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = recurrent(kind)
    ids = random_ids(model, 1, 53)[0].tolist()
    whole = model.log_probs(ids)
    monkeypatch.setattr(recurrent_module, "_PIECE", 8)
    monkeypatch.setattr(recurrent_module, "_ROWS", 3)
    for before in (1, 4, 8, 20):
        monkeypatch.setattr(recurrent_module, "_WARM_UP", before)
        expected = []
        for start in range(0, 53, 8):
            stream = [model.separator_id, *ids][max(0, start - before):start + 9]
            out = model.step([stream[:-1]], model.start(), last=False)[0]
            scores = out[np.arange(len(stream) - 1), stream[1:]]
            expected.extend(scores[min(start, before):])
        np.testing.assert_allclose(model.log_probs(ids), expected[:53], rtol=0, atol=1e-5)
    monkeypatch.setattr(recurrent_module, "_WARM_UP", 60)  # all that is before: the whole document
    np.testing.assert_allclose(model.log_probs(ids), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_further_back_than_the_states_kept_reads_the_ids_again(kind: str) -> None:
    model = recurrent(kind)
    rows = [random_ids(model, 1, length, seed=length)[0].tolist() for length in (100, 90, 10)]
    for lengths in ([100, 90, 10], [99, 27, 9], [36, 26, 1], [35, 1, 0], [0, 0, 0]):
        state = model.start(3)
        model.step([row[:5] for row in rows], state)
        model.step([row[5:] for row in rows], state)
        state.truncate(lengths)
        assert state.lengths == lengths
        more = [[7], [8, 9], [3]]
        out = model.step(more, state)
        expected = [model.step([[*row[:n], *new]], model.start())[0] for row, n, new in zip(rows, lengths, more, strict=True)]
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError):
        state.truncate([2, 0, 0])
    state.select([])
    assert state.lengths == []


def test_memory_of_a_state_does_not_grow_with_its_rows_length() -> None:
    model = recurrent("lstm")
    state: RecurrentState = model.start(2)

    def held() -> int:
        parts = [part for latest in state._latest for states in latest for part in states]
        assert len(parts) == 2 * 64 * 2  # rows, states of each, h and c
        return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())

    model.step([[1] * 900, [2] * 300], state)
    after_prefill = held()
    for _ in range(70):
        model.step([[1], [2]], state)
    assert held() == after_prefill == 2 * 64 * 2 * 2 * 12 * 4


# ---- files ----

@pytest.mark.parametrize("changes", [
    {}, {"num_hidden_layers": 1, "bidirectional": True, "tie_word_embeddings": False}, {"embedding_size": 7, "tie_word_embeddings": False},
    {"bidirectional": True, "embedding_size": 24}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_products_are_counted_as_they_are(kind: str, changes: dict[str, Any]) -> None:
    model = recurrent(kind, **changes)
    assert model.config.count_parameters() == sum(parameter.numel() for parameter in model.parameters())
    matrices = [p.numel() for name, p in model.named_parameters() if p.ndim == 2 and name != "embed_tokens.weight"]
    assert model.config.products_per_token() == sum(matrices) + (model.embed_tokens.weight.numel() if model.lm_head is None else 0)


def test_a_directory_says_what_it_is_and_gives_back_every_weight(tmp_path: Path) -> None:
    model = recurrent("gru", bidirectional=True, tie_word_embeddings=False, embedding_size=5, dropout=0.25, eos_token_id=3)
    save_model(model, tmp_path, None)
    again = load_model(tmp_path)
    assert again.config == model.config and not again.training
    for (name, a), (other, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)
    assert "transformers cannot load" in read_json(tmp_path / "config.json")["note"]


@pytest.mark.parametrize(("change", "said"), [
    ({"hidden_size": 13, "embedding_size": 13}, "weights"), ({"hidden_size": 0}, "hidden_size"), ({"vocab_size": 1 << 23}, "weights"),
    ({"dropout": 1.0}, "dropout"), ({"eos_token_id": 30}, "eos_token_id"),
    ({"num_hidden_layers": 3}, "weights"), ({"num_hidden_layers": 1}, "has '"),
    ({"embedding_size": 6}, "tie_word_embeddings"), ({"model_type": "gru"}, "shape"), ({"bidirectional": "no"}, "bidirectional")], ids=str)
def test_a_config_that_does_not_fit_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_model(recurrent("lstm"), tmp_path, None)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), **change})
    with pytest.raises(UserError, match=said) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_a_shape_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="lstn"):
        RecurrentConfig("lstn", 30, 8, 1)
    with pytest.raises(ValueError, match="table of 4"):
        RecurrentConfig("lstm", 30, 8, 1, embedding_size=4)
