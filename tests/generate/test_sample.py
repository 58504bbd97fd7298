"""The sampler against transformers' processors, and the loop on small made-up models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.sample import draw, keep_min_p, keep_top_k, keep_top_p, penalize, probabilities, sample_tokens, warp
from tests.generate.models import Table

PLAIN = SampleOptions(temperature=1.0, top_p=1.0)


def random_log_probs(rows: int, vocab: int, seed: int, spread: float = 3.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, spread, (rows, vocab))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def assert_same_distribution(ours: np.ndarray, theirs) -> None:
    theirs = theirs.numpy()
    assert (np.isneginf(ours) == np.isneginf(theirs)).all()
    np.testing.assert_allclose(probabilities(ours), probabilities(theirs), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("changes", "name", "arguments"),
    [
        ({"temperature": 0.7}, "TemperatureLogitsWarper", (0.7,)),
        ({"temperature": 2.5}, "TemperatureLogitsWarper", (2.5,)),
        ({"top_k": 1}, "TopKLogitsWarper", (1,)),
        ({"top_k": 17}, "TopKLogitsWarper", (17,)),
        ({"top_k": 5000}, "TopKLogitsWarper", (5000,)),
        ({"top_p": 0.01}, "TopPLogitsWarper", (0.01,)),
        ({"top_p": 0.5}, "TopPLogitsWarper", (0.5,)),
        ({"top_p": 0.95}, "TopPLogitsWarper", (0.95,)),
        ({"min_p": 0.05}, "MinPLogitsWarper", (0.05,)),
        ({"min_p": 0.5}, "MinPLogitsWarper", (0.5,)),
        ({"repetition_penalty": 1.3}, "RepetitionPenaltyLogitsProcessor", (1.3,)),
        ({"repetition_penalty": 0.5}, "RepetitionPenaltyLogitsProcessor", (0.5,)),
    ],
)
def test_each_step_equals_transformers(changes, name, arguments, seed):
    process = pytest.importorskip("transformers.generation.logits_process")
    import torch

    log_probs = random_log_probs(3, 997, seed)
    ids = np.random.default_rng(seed).integers(0, 997, (3, 40))
    seen = np.zeros(log_probs.shape, dtype=bool)
    np.put_along_axis(seen, ids, True, axis=1)
    theirs = getattr(process, name)(*arguments)(torch.tensor(ids), torch.tensor(log_probs))
    ours = warp(log_probs, seen, dataclasses.replace(PLAIN, **changes))
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize("seed", range(6))
def test_all_steps_in_order_equal_transformers(seed):
    process = pytest.importorskip("transformers.generation.logits_process")
    import torch
    from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig

    random = np.random.default_rng(seed)
    options = SampleOptions(temperature=random.uniform(0.5, 2), top_k=int(random.integers(5, 200)), top_p=random.uniform(0.3, 0.99),
                            min_p=random.uniform(0, 0.1), repetition_penalty=random.uniform(1, 2))
    log_probs = random_log_probs(4, 500, seed, spread=2.0)
    ids = random.integers(0, 500, (4, 20))
    seen = np.zeros(log_probs.shape, dtype=bool)
    np.put_along_axis(seen, ids, True, axis=1)
    fields = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}

    class Bare(GenerationMixin):  # transformers' own choice of processors and of their order
        config = PreTrainedConfig()

    config = GenerationConfig(do_sample=True, num_beams=1, **fields)
    chain = Bare()._get_logits_processor(config, input_ids_seq_length=20, encoder_input_ids=None, prefix_allowed_tokens_fn=None,
                                         logits_processor=process.LogitsProcessorList(), device="cpu")
    assert len(chain) == 5
    assert_same_distribution(warp(log_probs, seen, options), chain(torch.tensor(ids), torch.tensor(log_probs)))


def test_off_switches_change_nothing():
    log_probs = random_log_probs(2, 50, 0)
    seen = np.ones(log_probs.shape, dtype=bool)
    for same in (penalize(log_probs, seen, 1.0), keep_top_k(log_probs, 0), keep_top_p(log_probs, 1.0), keep_min_p(log_probs, 0.0)):
        np.testing.assert_array_equal(same, log_probs)


def test_impossible_tokens_stay_impossible_and_one_is_always_kept():
    log_probs = np.array([[-np.inf, np.log(0.5), np.log(0.5), -np.inf]], dtype=np.float32)
    for options in (SampleOptions(top_p=1e-9), SampleOptions(top_k=1), SampleOptions(min_p=1.0), SampleOptions(repetition_penalty=9.0)):
        kept = np.flatnonzero(~np.isneginf(warp(log_probs, np.ones((1, 4), dtype=bool), options)))
        assert len(kept) >= 1
        assert set(kept) <= {1, 2}


def test_draws_follow_the_distribution():
    log_probs = np.log(np.array([0.5, 0.0, 0.3, 0.2]) + 1e-300)[None].repeat(2, 0).astype(np.float32)
    log_probs[:, 1] = -np.inf
    generators = [np.random.default_rng(row) for row in range(2)]
    counts = np.zeros(4)
    for _ in range(10_000):
        for token in draw(log_probs, generators):
            counts[token] += 1
    np.testing.assert_allclose(counts / 20_000, [0.5, 0, 0.3, 0.2], atol=0.015)


def test_rows_do_not_depend_on_the_batch():
    model = Table(vocab=40, seed=3)
    options = SampleOptions(max_tokens=30, seed=11, n=4, temperature=1.5)
    batch = rows_of(model, [5, 6], options)
    assert batch[0] == rows_of(model, [5, 6], dataclasses.replace(options, n=1))[0]
    assert batch[:2] == rows_of(model, [5, 6], dataclasses.replace(options, n=2))
    assert len({tuple(row) for row in batch}) == 4
    assert batch == rows_of(model, [5, 6], options)
    assert batch != rows_of(model, [5, 6], dataclasses.replace(options, seed=12))


def test_no_seed_draws_another_text_each_time():
    model = Table(vocab=40, seed=3)
    options = SampleOptions(max_tokens=30, temperature=2.0)
    assert rows_of(model, [5], options) != rows_of(model, [5], options)


def test_greedy_takes_the_likeliest_and_log_probs_are_the_models_own():
    model = Table(vocab=20, seed=1)
    last, wanted = 7, []
    for drawn in sample_tokens(model, [3, 7], SampleOptions(max_tokens=10, temperature=0.0, top_k=2, min_p=0.3)):
        assert drawn.token == model.table[last].argmax()
        assert drawn.log_prob == pytest.approx(float(model.table[last].max()))
        last = drawn.token
        wanted.append(drawn)
    assert wanted[-1].finish_reason in ("stop", "length")
    for drawn in sample_tokens(model, [3], SampleOptions(max_tokens=1, temperature=3.0, seed=5, repetition_penalty=2.0)):
        assert drawn.log_prob == pytest.approx(float(model.table[3][drawn.token]))


def test_greedy_penalty_counts_the_prompt_and_the_text():
    model = Table(vocab=6, seed=0)
    model.table[:] = np.log([0.04, 0.4, 0.3, 0.15, 0.07, 0.04])
    tokens = rows_of(model, [1], SampleOptions(max_tokens=3, temperature=0.0, repetition_penalty=10.0))[0]
    assert tokens == [2, 3, 4]  # 1 is in the prompt, then each drawn token is penalised in turn


def test_separator_and_stop_ids_end_a_row_and_the_others_go_on():
    model = Table(vocab=5, seed=0)
    model.table[:] = np.log([0.2, 0.2, 0.2, 0.2, 0.2])
    drawn = list(sample_tokens(model, [1], SampleOptions(max_tokens=200, n=6, seed=0, temperature=1.0, top_p=1.0), stop_ids=[4]))
    ends = {d.row: d for d in drawn if d.finish_reason}
    assert sorted(ends) == list(range(6))
    assert {d.token for d in ends.values()} <= {0, 4}
    assert all(d.finish_reason == "stop" for d in ends.values())
    assert not [d for d in drawn if not d.finish_reason and d.token in (0, 4)]


def test_ends_with_length_at_max_tokens_or_when_the_model_is_full():
    model = Table(vocab=8, seed=0)
    model.table[:, 0] = -50
    greedy = SampleOptions(max_tokens=5, temperature=0.0)
    drawn = list(sample_tokens(model, [1, 2], greedy))
    assert [d.finish_reason for d in drawn] == ["", "", "", "", "length"]
    model.max_length = 4
    drawn = list(sample_tokens(model, [1, 2], dataclasses.replace(greedy, max_tokens=50)))
    assert [d.finish_reason for d in drawn] == ["", "", "length"]  # 2 + 2 ids held, and the one that follows them


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers():
    model = Table(vocab=8, seed=0)
    model.max_length = 4
    assert len(list(sample_tokens(model, [1, 2, 3, 1], SampleOptions()))) == 1
    with pytest.raises(UserError, match=r"5 tokens.*at most 4"):
        list(sample_tokens(model, [1, 2, 3, 1, 2], SampleOptions()))


def test_an_empty_prompt_starts_from_the_separator():
    model = Table(vocab=20, seed=1)
    assert rows_of(model, [], SampleOptions(seed=1)) == rows_of(model, [model.separator_id], SampleOptions(seed=1))


def test_nan_is_said():
    model = Table(vocab=8, seed=0)
    model.table[:, 3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        list(sample_tokens(model, [1], SampleOptions()))


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("inf")}, {"top_k": -1}, {"top_p": 0.0},
                                 {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"stop": ("a", "")},
                                 {"seed": -1}, {"n": 0}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        SampleOptions(**bad)


def rows_of(model, prompt, options) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(options.n)]
    for drawn in sample_tokens(model, prompt, options):
        rows[drawn.row].append(drawn.token)
    return rows
