"""Beam search against `transformers`, against an exhaustive search, and on every kind of model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from myna.errors import UserError
from myna.generate.beam import search_beams
from myna.generate.options import SampleOptions
from myna.generate.text import generate_text
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.ngram import fit_ngram
from myna.models.options import NgramOptions
from myna.models.pretrained import save_model
from tests.generate.models import Bytes

V = 13


def decoder(seed: int) -> Decoder:
    config = DecoderConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1, head_dim=32,
                           max_position_embeddings=64, eos_token_id=0)
    model = Decoder(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(0, 0.7, generator=generator)
    return model


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("num_beams", [2, 4])
def test_the_beams_are_those_of_transformers(num_beams: int, length_penalty: float, tmp_path: Path) -> None:
    reasons = set()
    for seed in range(4):
        model = decoder(seed)
        save_model(model, tmp_path / str(seed), None)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / str(seed)).eval()
        for prompt in ([1, 2, 3], [7]):
            out = theirs.generate(torch.tensor([prompt]), num_beams=num_beams, num_return_sequences=num_beams, max_new_tokens=10,
                                  do_sample=False, length_penalty=length_penalty, pad_token_id=0, eos_token_id=0, output_scores=True,
                                  return_dict_in_generate=True)
            options = SampleOptions(num_beams=num_beams, n=num_beams, max_tokens=10, length_penalty=length_penalty)
            found = search_beams(model, prompt, options)
            assert len(found) == num_beams
            for beam, row, score in zip(found, out.sequences[:, len(prompt):].tolist(), out.sequences_scores.tolist(), strict=True):
                assert beam.tokens == row[: len(beam.tokens)] and not any(row[len(beam.tokens):])
                assert beam.score == pytest.approx(score, abs=1e-4)
                reasons.add(beam.finish_reason)
    assert reasons == {"stop", "length"} or length_penalty != 1.0


def test_with_enough_beams_it_finds_the_likeliest_text_there_is() -> None:
    rng = np.random.default_rng(0)
    ids = np.append(rng.choice(5, size=400, p=[0.1, 0.3, 0.2, 0.3, 0.1]), 0)
    model = fit_ngram(ids, ids, 5, 0, NgramOptions(order=3))
    (best,) = search_beams(model, [1], SampleOptions(num_beams=5**3, max_tokens=4, length_penalty=0.0))
    scores: dict[tuple[int, ...], float] = {}
    for text in itertools.product(range(5), repeat=4):
        text = text[: text.index(0) + 1] if 0 in text else text
        rows = model.step([[1, *text]], model.start(), last=False)[0]
        scores[text] = float(rows[np.arange(len(text)), list(text)].sum())
    expected = max(scores, key=lambda text: scores[text])
    assert tuple(best.tokens) == expected and best.score == pytest.approx(scores[expected], abs=1e-4)
    assert sum(best.log_probs) == pytest.approx(best.score, abs=1e-4)


def test_one_beam_is_greedy() -> None:
    model = decoder(3)
    state = model.start()
    row, expected = model.step([[4, 5]], state)[0], []
    while len(expected) < 8 and (not expected or expected[-1] != 0):
        expected.append(int(row.argmax()))
        row = model.step([[expected[-1]]], state)[0]
    (best,) = search_beams(model, [4, 5], SampleOptions(num_beams=1, max_tokens=8))
    assert best.tokens == expected


def test_it_ends_where_the_model_can_hold_no_more() -> None:
    model = decoder(1)
    prompt = [1 + i % (V - 1) for i in range(60)]
    found = search_beams(model, prompt, SampleOptions(num_beams=3, n=3, max_tokens=50), ())
    assert max(len(beam.tokens) for beam in found) <= 5
    with pytest.raises(UserError, match="65 tokens long"):
        search_beams(model, [1] * 65, SampleOptions(num_beams=2))


def test_a_text_ends_where_it_is_told_to() -> None:
    model = decoder(2)
    options = SampleOptions(num_beams=3, n=3, max_tokens=6, length_penalty=3.0)
    (free, *_) = search_beams(model, [1], options)
    stop = free.tokens[0]
    found = search_beams(model, [1], options, ended=lambda ids: ids[-1] == stop)
    assert all(stop not in beam.tokens[:-1] for beam in found) and len(free.tokens) > 1
    assert any(beam.finish_reason == "stop" and beam.tokens[-1] == stop for beam in found)


@pytest.mark.parametrize(("options", "words"), [
    (SampleOptions(num_beams=2, n=3), "n is 3"), (SampleOptions(num_beams=2, top_k=5), "top_k"),
    (SampleOptions(num_beams=2, top_p=0.5), "top_p"),
    (SampleOptions(num_beams=2, temperature=0.5), "temperature"),
], ids=str)
def test_what_a_search_does_not_read_is_refused(options: SampleOptions, words: str) -> None:
    with pytest.raises(UserError, match=words):
        generate_text(decoder(0), Bytes(), "", options)  # type: ignore[arg-type]


def test_text_comes_from_the_best_beams_and_ends_before_a_stop_string() -> None:
    words = ["the cat sat", "the cat ran", "the dog sat"]
    ids = np.array([byte for word in words * 20 for byte in [*Bytes().encode(word), 0]])
    model = fit_ngram(ids, ids, 258, 0, NgramOptions(order=6))
    first, second = generate_text(model, Bytes(), "the ", SampleOptions(num_beams=4, n=2, max_tokens=20))  # type: ignore[arg-type]
    assert {str(first), str(second)} < {"cat sat", "cat ran", "dog sat"} and first.finish_reason == "stop"
    assert sum(first.log_probs) / len(first.tokens) >= sum(second.log_probs) / len(second.tokens)
    (cut,) = generate_text(model, Bytes(), "the c", SampleOptions(num_beams=4, stop=("t s", "t r"), max_tokens=20))  # type: ignore[arg-type]
    assert str(cut) == "a" and cut.finish_reason == "stop"
