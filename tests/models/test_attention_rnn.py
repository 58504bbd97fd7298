"""The recurrent encoder-decoder against its readable version, padding, chunks and a toy task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from myna.errors import UserError
from myna.models.attention_rnn import AttentionRnn, AttentionRnnConfig
from myna.models.pretrained import load_model, save_model
from tests.docs_code import load_block

V = 30


def random_model(**changes: Any) -> AttentionRnn:
    shape = {"vocab_size": V, "hidden_size": 12, "embedding_size": 8, "attention_size": 10, "max_position_embeddings": 24, **changes}
    model = AttentionRnn(AttentionRnnConfig(**shape)).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.normal_(0, 0.5, generator=generator)
    return model


def make_batch(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Tensor]:
    S, T = max(map(len, sources)), max(map(len, targets))
    return {"input_ids": torch.tensor([[*row, *[0] * (S - len(row))] for row in sources]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (S - len(row)) for row in sources]),
            "decoder_input_ids": torch.tensor([[0, *row[:-1], *[0] * (T - len(row))] for row in targets]),
            "labels": torch.tensor([[*row, *[-100] * (T - len(row))] for row in targets])}


def rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, V, length).tolist() for length in lengths]


def test_logits_are_those_of_the_readable_version() -> None:
    readable = load_block("docs/families/encoder-decoder.md", 1)
    model = random_model()
    weights = {name: parameter.numpy().astype(np.float64) for name, parameter in model.named_parameters()}
    sources, target = rows([9, 4, 1]), [0, 5, 8, 29, 1, 1, 3]
    out = model.step([target] * 3, model.start(3, sources), last=False)
    for source, got in zip(sources, out, strict=True):
        expected = readable.attention_rnn_logits(weights, source, target)
        assert expected.std() > 0.3
        expected -= np.log(np.exp(expected).sum(-1, keepdims=True))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_deeper_layers_are_those_of_torch() -> None:
    model = random_model(num_hidden_layers=2)
    ids, mask = torch.tensor(rows([7])), torch.ones(1, 7, dtype=torch.bool)
    memory, first = model.encode(ids, mask)
    values, last = model.encoder(model.embed_tokens(ids))
    torch.testing.assert_close(memory.values, values)
    torch.testing.assert_close(first.flatten(), model.first_state(last[-1]).tanh().flatten())  # the last layer, backwards
    _, states = model.decode(torch.tensor([[4]]), memory, first)
    torch.testing.assert_close(states[:, 0, 1], model.decoder[1](states[:, 0, 0], first[:, 1]))


def test_padding_micro_batches_and_row_order_change_no_gradient() -> None:
    model = random_model(num_hidden_layers=2).requires_grad_(True)
    batch = make_batch(rows([19, 3, 12, 1]), rows([4, 14, 9, 2], seed=3))

    def gradients(parts: list[dict[str, Tensor]]) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        total = torch.zeros(())
        for part in parts:
            losses, carry = model.loss(part)
            assert carry is None and losses["target_token"][1] == 1
            total = total + losses["target_token"][0]
        total.backward()
        return float(total.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    assert model.counts(batch) == {"target_token": 29}
    expected, wanted = gradients([batch])
    assert len(wanted) == len(list(model.parameters())) and all(gradient.abs().max() > 1e-6 for gradient in wanted)
    order = torch.tensor([2, 0, 3, 1])
    wide = {name: torch.nn.functional.pad(values, (0, 6), value=-100 if name == "labels" else 0) for name, values in batch.items()}
    for parts in ([wide], [{name: values[order] for name, values in batch.items()}],
                  [{name: values[row : row + 1] for name, values in batch.items()} for row in range(4)]):
        got, found = gradients(parts)
        assert got == pytest.approx(expected, rel=1e-5)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_select_and_truncate_keep_each_row_its_source() -> None:
    model = random_model()
    sources, (a, b, c), more = rows([8, 15, 4]), rows([12, 9, 17], seed=3), rows([4, 3, 6], seed=4)
    state = model.start(3, sources)
    model.step([a, b, c], state)
    state.truncate([0, 9, 16])
    state.select([2, 0, 2])
    out = model.step(more, state)
    for row, (source, text) in enumerate([(sources[2], [*c[:16], *more[0]]), (sources[0], more[1]), (sources[2], [*c[:16], *more[2]])]):
        np.testing.assert_allclose(out[row], model.step([text], model.start(1, [source]))[0], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="cannot cut"):
        state.truncate([99, 0, 0])


def test_a_long_document_is_scored_in_windows_given_the_text_before() -> None:
    model = random_model(max_position_embeddings=8)
    ids = rows([19], seed=6)[0]
    expected: list[float] = []
    for at in range(0, 15, 4):
        out = model.step([[0, *ids[at : at + 7]]], model.start(1, [[*ids[max(0, at - 7) : at], 0]]), last=False)[0]
        expected += [out[t, id] for t, id in enumerate(ids[at : at + 8])][4 if at else 0 :]
    np.testing.assert_allclose(model.log_probs(ids), expected, rtol=0, atol=1e-5)


def test_it_learns_to_write_backwards() -> None:
    """What a single vector between the two sides makes hard and attention makes easy."""
    model = AttentionRnn(AttentionRnnConfig(vocab_size=12, hidden_size=24), seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    for _ in range(200):
        sources = [rng.integers(1, 12, 6).tolist() for _ in range(16)]
        optimizer.zero_grad()
        (model.loss(make_batch(sources, [row[::-1] for row in sources]))[0]["target_token"][0] / 96).backward()
        optimizer.step()
    tests = [rng.integers(1, 12, 6).tolist() for _ in range(20)]
    state, ids, got = model.start(20, tests), [[0]] * 20, [[] for _ in tests]
    for _ in range(6):
        ids = [[int(id)] for id in model.step(ids, state).argmax(-1)]
        got = [[*row, *new] for row, new in zip(got, ids, strict=True)]
    assert np.mean(np.array(got) == np.array([row[::-1] for row in tests])) > 0.9


@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 3}, {"tie_word_embeddings": False}], ids=str)
def test_the_count_of_parameters_is_exact_and_a_model_is_its_seed(changes: dict[str, Any]) -> None:
    config = AttentionRnnConfig(**{"vocab_size": V, "hidden_size": 12, "embedding_size": 8, "attention_size": 10, **changes})
    model, again = AttentionRnn(config, 3), AttentionRnn(config, 3)
    assert config.count_parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert model.table_names() <= {name for name, _ in model.named_parameters()}
    loss = float(model.loss(make_batch([[1, 2]], [[3, 4, 5]]))[0]["target_token"][0].detach()) / 3
    assert loss == pytest.approx(np.log(V), abs=0.3)


@pytest.mark.parametrize(("changes", "word"), [
    ({"hidden_size": 0}, "hidden_size"), ({"hidden_size": 1 << 20}, "weights"), ({"attention_size": "9"}, "attention_size"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers"), ({"eos_token_id": V}, "eos_token_id"), ({"dropout": 2}, "dropout"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings"), ({"attention_size": 11}, "weights"), ({"attention_size": 9}, "shape"),
], ids=str)
def test_a_damaged_config_is_refused_in_one_line(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    save_model(random_model(), tmp_path, None)
    load_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=word) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
