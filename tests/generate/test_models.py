"""The sampler on a real Transformer: cache, batch and early ends change nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from myna.generate.options import SampleOptions  # noqa: E402
from myna.generate.sample import sample_tokens  # noqa: E402
from myna.models.decoder import Decoder, DecoderConfig  # noqa: E402


@pytest.fixture(scope="module")
def model():
    model = Decoder(DecoderConfig(vocab_size=64, hidden_size=64, num_hidden_layers=2, head_dim=32, max_position_embeddings=48), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.35, generator=generator)
    return model.eval()


def rows_of(model, prompt, options) -> list[list[tuple[int, float, str]]]:
    rows: list[list[tuple[int, float, str]]] = [[] for _ in range(options.n)]
    for drawn in sample_tokens(model, prompt, options):
        rows[drawn.row].append((drawn.token, drawn.log_prob, drawn.finish_reason))
    return rows


def test_greedy_equals_the_likeliest_token_without_a_cache(model):
    ids = [3, 9, 4]
    [drawn] = rows_of(model, ids, SampleOptions(max_tokens=20, temperature=0.0))
    for token, log_prob, _ in drawn:
        scores = model.step([ids], model.start())[0]
        assert token == scores.argmax()
        assert log_prob == pytest.approx(float(scores[token]), abs=1e-4)
        ids = [*ids, token]


def test_a_row_is_the_same_alone_and_in_a_batch_whose_rows_end_at_different_places(model):
    options = SampleOptions(max_tokens=30, seed=5, n=8, temperature=2.0, top_p=1.0)
    batch = rows_of(model, [7, 1], options)
    lengths = {len(row) for row in batch}
    assert len(lengths) > 1, "the seed must make some rows end early"
    alone = rows_of(model, [7, 1], dataclasses.replace(options, n=1))
    assert [token for token, _, _ in batch[0]] == [token for token, _, _ in alone[0]]
    for row in batch:  # each row's numbers are those of its own ids
        state, ids = model.start(), [7, 1]
        for token, log_prob, _ in row:
            assert log_prob == pytest.approx(float(model.step([ids], state)[0][token]), abs=1e-4)
            ids = [token]


def test_it_stops_where_the_model_is_full(model):
    drawn = rows_of(model, [5] * 46, SampleOptions(max_tokens=99, temperature=0.0, repetition_penalty=50.0))[0]
    assert len(drawn) <= 3
    assert drawn[-1][2] in ("length", "stop")
    assert np.isfinite([log_prob for _, log_prob, _ in drawn]).all()
