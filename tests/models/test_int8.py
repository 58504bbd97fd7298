"""Decoders in int8 beside their readable twin, `Decoder` with the same rounded matrices: every style, the cache, greedy text."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import myna
from myna.errors import UserError
from myna.models.decoder import Decoder
from myna.models.int8 import Int8Decoder, quantize, quantize_decoder
from myna.models.int8_kernels import exponential, multiply
from tests.models.decoders import CASES, IDS, random_decoder

APART = 1e-4  # in log-probabilities that reach -35: additions in another order


def restore(weight: torch.Tensor) -> torch.Tensor:
    """Round a matrix and return it in float32."""
    weights, scales = quantize(weight)
    blocks = weights.reshape(len(weight), -1, 64) * scales[..., None]
    return torch.from_numpy(blocks.reshape(len(weight), -1)[:, : weight.shape[1]].copy())


def twin_of(model: Decoder) -> Decoder:
    """Copy a decoder with the matrices that int8 has; learned positions are no matrix of a product and stay."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.ndim == 2 and "positions" not in name:
                parameter.copy_(restore(parameter))
    return twin


@pytest.fixture(scope="module", params=CASES, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Decoder, Int8Decoder]:
    model = random_decoder(**CASES[request.param])
    return twin_of(model), quantize_decoder(model)


@pytest.fixture(scope="module")
def model() -> Int8Decoder:
    return quantize_decoder(random_decoder())


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=APART)


def ids_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 77, length).tolist()


def continue_greedily(model: Any, ids: list[int], count: int) -> list[int]:
    state, out = model.start(), list(ids)
    scores = model.step([ids], state)
    for _ in range(count):
        out.append(int(scores[0].argmax()))
        scores = model.step([out[-1:]], state)
    return out


def test_it_gives_what_its_twin_gives(pair: tuple[Decoder, Int8Decoder]) -> None:
    twin, model = pair
    assert (model.vocab_size, model.max_length, model.separator_id) == (twin.vocab_size, twin.max_length, twin.separator_id)
    expected = twin.step([IDS], twin.start(), last=False)
    assert np.ptp(expected) > 10  # the logits lie apart
    close(model.step([IDS], model.start(), last=False), expected)
    state = model.start()
    one_by_one = np.concatenate([model.step([[id]], state) for id in IDS])
    close(one_by_one, expected[0])
    assert state.lengths == [len(IDS)]


def test_rows_of_other_lengths_are_as_alone(pair: tuple[Decoder, Int8Decoder]) -> None:
    twin, model = pair
    rows = [ids_of(length, length) for length in (3, 11, 1, 7, 6)]  # 28 ids: some of them together, some alone
    more = [[5], [6, 7], [8, 9, 10], [11], [12]]
    state = model.start(len(rows))
    first, second = model.step(rows, state), model.step(more, state)
    assert state.lengths == [len(row) + len(ids) for row, ids in zip(rows, more, strict=True)]
    for b, (row, ids) in enumerate(zip(rows, more, strict=True)):
        beside = twin.start()
        close(first[b], twin.step([row], beside)[0])
        close(second[b], twin.step([ids], beside)[0])


def test_greedy_text_is_the_twins(pair: tuple[Decoder, Int8Decoder]) -> None:
    twin, model = pair
    assert continue_greedily(model, IDS[:4], 64) == continue_greedily(twin, IDS[:4], 64)


def test_documents_score_as_the_twins_beyond_the_context_too(pair: tuple[Decoder, Int8Decoder]) -> None:
    twin, model = pair
    for length in (1, 40, 128, 129, 300):  # the context is 128
        document = ids_of(length, length)
        close(model.log_probs(document), twin.log_probs(document))


def test_rounding_moves_a_weight_by_half_a_step_and_scores_by_little(pair: tuple[Decoder, Int8Decoder]) -> None:
    twin, model = pair
    exact = random_decoder(**{name: getattr(twin.config, name) for name in twin.config.__dataclass_fields__})
    for (name, rounded), full in zip(twin.named_parameters(), exact.parameters(), strict=True):
        step = full.abs().max() / 127 if full.ndim == 2 and "positions" not in name else 0.0
        assert (rounded - full).abs().max() <= 0.501 * step
    document = ids_of(100)
    apart = model.log_probs(document) - exact.log_probs(document)  # of scores of -15; a tiny random model has nothing to average over
    assert np.abs(apart).mean() < 0.4 and abs(apart.mean()) < 0.1


def test_a_prompt_in_several_pieces_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myna.models.int8._FIRST_TABLE", 8)  # rotations have to be added
    full = random_decoder(max_position_embeddings=400, hidden_size=32, head_dim=16)
    long, twin = quantize_decoder(full), twin_of(full)
    document = ids_of(300)  # more than are taken in one pass, and more than the first slots
    whole = long.step([document, document[:5]], long.start(2), last=False)
    close(whole[0], twin.step([document], twin.start(), last=False)[0])
    state = long.start()
    close(np.concatenate([long.step([document[at:at + 37]], state, last=False)[0] for at in range(0, 300, 37)]), whole[0])
    state.truncate([280])  # where one id is shared among threads too
    close(np.concatenate([long.step([[id]], state) for id in document[280:]]), whole[0, 280:])
    close(whole[1, :5], whole[0, :5])
    assert (whole[1, 5:] == 0).all()


def test_turned_back_and_reordered_rows(model: Int8Decoder) -> None:
    state = model.start(2)
    model.step([IDS, IDS[:5]], state)
    state.truncate([6, 2])
    state.select([1, 0, 1])
    after = model.step([[7], [8], [9, 4]], state)
    for row, ids in zip(after, ([*IDS[:2], 7], [*IDS[:6], 8], [*IDS[:2], 9, 4]), strict=True):
        close(row, model.step([ids], model.start())[0])
    with pytest.raises(ValueError, match="cannot cut"):
        state.truncate([9, 9, 9])


def test_widths_that_no_block_divides() -> None:
    odd = random_decoder(hidden_size=40, intermediate_size=72, num_attention_heads=3, num_key_value_heads=3, head_dim=10, vocab_size=37)
    twin, model = twin_of(odd), quantize_decoder(odd)
    close(model.step([IDS], model.start(), last=False), twin.step([IDS], twin.start(), last=False))


def test_ids_that_are_none_are_refused_and_change_nothing(model: Int8Decoder) -> None:
    state = model.start()
    for ids in ([101], [-1], [5, 1 << 40]):
        with pytest.raises(IndexError):
            model.step([ids], state)
    with pytest.raises(ValueError):
        model.step([ids_of(129)], state)
    assert state.lengths == [0]


def test_blocks_of_zeros_and_of_one_size() -> None:
    weight = torch.zeros(3, 130)
    weight[1] = 2.54
    weight[2, 129] = -1e-30
    weights, scales = quantize(weight)
    assert weights.shape == (3, 192) and scales.shape == (3, 3) and weights.dtype == np.int8 and scales.dtype == np.float32
    assert (weights[0] == 0).all() and (weights[1, :130] == 127).all() and (weights[:, 130:] == 0).all() and weights[2, 129] == -127
    np.testing.assert_allclose(scales[1], 0.02, rtol=1e-6)
    assert torch.equal(restore(weight)[0], weight[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = random_decoder()
    model.layers[1].mlp.down_proj.weight.data[3, 5] = value
    with pytest.raises(UserError, match="no numbers"):
        quantize_decoder(model)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_product_by_blocks(count: int) -> None:
    rng = np.random.default_rng(0)
    weights, scales = rng.integers(-127, 128, (2, 35, 192)).astype(np.int8), rng.random((2, 35, 3), np.float32)
    x, out = rng.standard_normal((count, 192)).astype(np.float32), rng.standard_normal((count, 40)).astype(np.float32)
    expected = out.copy()
    expected[:, :35] += x @ (weights[1].reshape(35, 3, 64) * scales[1, ..., None]).reshape(35, 192).T
    multiply(weights, scales, 1, x, out)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_exponential() -> None:
    x = np.concatenate((np.linspace(-87, 88, 20001), [0.0])).astype(np.float32)
    got = np.array([exponential(value) for value in x])
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64)), rtol=3e-6)
    near = np.abs(x) < 10
    np.testing.assert_allclose(got[near], np.exp(x[near].astype(np.float64)), rtol=5e-7)
    assert exponential(np.float32(0)) == 1 and 0 <= exponential(np.float32(-1e9)) < 2e-38 and np.isfinite(exponential(np.float32(1e9)))


def test_several_threads_of_a_server_take_turns(model: Int8Decoder) -> None:
    expected = model.log_probs(ids_of(50))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(model.log_probs(ids_of(50)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all((one == expected).all() for one in found)


def test_nothing_compiled_is_kept_in_the_package(model: Int8Decoder) -> None:
    model.log_probs(IDS)
    assert not [path for path in Path(myna.__file__).parent.rglob("*") if path.suffix in (".nbi", ".nbc")]
