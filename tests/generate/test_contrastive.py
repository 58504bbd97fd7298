"""Contrastive search against a readable twin that keeps nothing, on every model that shows hidden states; what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from myna.errors import UserError
from myna.generate.chat import Conversation
from myna.generate.contrastive import search_contrastive
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules, read_rules
from myna.generate.text import generate_text
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.int8 import quantize_decoder
from myna.models.mixture import Mixture
from myna.models.pretrained import save_model
from myna.models.recurrent import Recurrent, RecurrentConfig
from tests.generate.models import Bytes, Table

V = 29


def disturb(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.requires_grad_(False).eval().parameters():
        parameter.normal_(0, 0.4, generator=generator)
    return model


def decoder(seed: int = 0, vocab_size: int = V, length: int = 64, model_type: str = "qwen3") -> Decoder:
    return disturb(Decoder(DecoderConfig(vocab_size=vocab_size, hidden_size=64, num_hidden_layers=2, head_dim=32, num_key_value_heads=2,
                                         max_position_embeddings=length, model_type=model_type)), seed)


def twin(read: Callable[[list[int]], tuple[np.ndarray, np.ndarray]], prompt: list[int], alpha: float, k: int, count: int) -> list[int]:
    """Contrastive search as the paper's section 3.2 says it. read: ids to (logits after the last, (V,); hidden states, (T, C))."""
    ids = list(prompt)
    for _ in range(count):
        logits, before = read(ids)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        scores = {}
        for candidate in np.argsort(-chances)[:k].tolist():
            new = read([*ids, candidate])[1][-1]
            alike = max(float(new @ old / np.linalg.norm(new) / np.linalg.norm(old)) for old in before)
            scores[candidate] = (1 - alpha) * chances[candidate] - alpha * alike
        ids.append(max(scores, key=lambda one: scores[one]))
        if ids[-1] == 0:
            break
    return ids[len(prompt):]


def tokens(model: Any, prompt: list[int], alpha: float, k: int, count: int) -> list[int]:
    drawn = list(search_contrastive(model, prompt, SampleOptions(penalty_alpha=alpha, top_k=k, max_tokens=count)))
    assert [one.finish_reason for one in drawn[:-1]] == [""] * (len(drawn) - 1)
    assert drawn[-1].finish_reason == ("stop" if drawn[-1].token == 0 else "length")
    return [one.token for one in drawn]


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_a_decoder_writes_what_the_twin_writes_with_transformers_states(model_type: str, tmp_path: Path) -> None:
    texts = set()
    for seed in range(2):
        model = decoder(seed, model_type=model_type)
        save_model(model, tmp_path / str(seed), None)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / str(seed)).eval()

        def read(ids: list[int], theirs: Any = theirs) -> tuple[np.ndarray, np.ndarray]:
            with torch.no_grad():
                out = theirs(torch.tensor([ids]), output_hidden_states=True)
            return out.logits[0, -1].double().numpy(), out.hidden_states[-1][0].double().numpy()

        for alpha, k in ((0.6, 4), (0.3, 2), (1e-9, 3)):
            got = tokens(model, [3, 1, 4], alpha, k, 6)
            assert got == twin(read, [3, 1, 4], alpha, k, 6), (seed, alpha, k)
            texts.add(tuple(got))
    assert len(texts) > 2  # alpha and k matter


def test_recurrent_models_mixtures_and_int8_show_their_states_as_well() -> None:
    recurrent = disturb(Recurrent(RecurrentConfig("gru", V, 32, 2)), 1)
    mixture = Mixture([Table(V), recurrent], ["table", "gru"], [0.4, 0.6])
    rounded = quantize_decoder(decoder())
    for model in (recurrent, mixture, rounded):

        def read(ids: list[int], model: Any = model) -> tuple[np.ndarray, np.ndarray]:
            scores, states = model.step_hidden([ids], model.start())
            np.testing.assert_allclose(scores, model.step([ids], model.start()), atol=1e-5)
            return scores[0].astype(np.float64), states[0].astype(np.float64)

        assert tokens(model, [5, 2], 0.6, 4, 10) == twin(read, [5, 2], 0.6, 4, 10)


def test_without_a_penalty_it_is_greedy_and_the_text_comes_piece_by_piece() -> None:
    model, tokenizer = decoder(2, 258), Bytes()
    prompt = "春眠"
    greedy = generate_text(model, tokenizer, prompt, SampleOptions(temperature=0, max_tokens=20))[0]  # type: ignore[arg-type]
    nearly = generate_text(model, tokenizer, prompt, SampleOptions(penalty_alpha=1e-9, top_k=4, max_tokens=20))[0]  # type: ignore[arg-type]
    assert nearly.tokens == greedy.tokens and nearly.text == greedy.text
    np.testing.assert_allclose(nearly.log_probs, greedy.log_probs, atol=1e-4)
    other = generate_text(model, tokenizer, prompt, SampleOptions(penalty_alpha=0.8, top_k=4, max_tokens=20))[0]  # type: ignore[arg-type]
    assert other.tokens != greedy.tokens


def test_rules_and_the_end_of_the_context_are_obeyed() -> None:
    model = decoder(1, length=8)
    assert len(tokens(model, [3, 1, 4], 0.6, 4, 50)) <= 5  # each candidate is read, so the last slot is the last token's
    free = tokens(model, [3, 1, 4], 0.6, 4, 3)
    banned = [one.token for one in search_contrastive(model, [3, 1, 4], SampleOptions(penalty_alpha=0.6, top_k=4, max_tokens=3),
                                                      rules=Rules(banned=((free[0],),)))]
    assert free[0] not in banned
    with pytest.raises(UserError, match="8 tokens long"):
        search_contrastive(model, [1] * 8, SampleOptions(penalty_alpha=0.6, top_k=4))


@pytest.mark.parametrize(("options", "said"), [
    ({}, "top_k 0"), ({"top_k": 1}, "top_k 1"), ({"top_k": 4, "n": 2}, "n with"), ({"top_k": 4, "num_beams": 3}, "num_beams with"),
    ({"top_k": 4, "top_p": 0.5}, "top_p with"), ({"top_k": 4, "temperature": 1.0}, "temperature with"),
    ({"top_k": 4, "penalty_alpha": 1.5}, "penalty_alpha is 1.5")])
def test_options_it_would_not_read_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        generate_text(decoder(0, 258), Bytes(), "a", SampleOptions(**{"penalty_alpha": 0.6, **options}))  # type: ignore[arg-type]


def test_models_without_hidden_states_and_conversations_are_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"no hidden states to compare .Table."):
        search_contrastive(Table(V), [1], SampleOptions(penalty_alpha=0.6, top_k=4))
    with pytest.raises(UserError, match="mixture of a and b"):
        list(search_contrastive(Mixture([Table(V), Table(V, 1)], ["a", "b"], [0.5, 0.5]), [1], SampleOptions(penalty_alpha=0.6, top_k=4)))
    with pytest.raises(UserError, match=r"penalty_alpha is 0\.6"):
        Conversation(decoder(), Bytes(), None, SampleOptions(penalty_alpha=0.6, top_k=4))  # type: ignore[arg-type]


def test_a_directory_may_suggest_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for said, expected in (({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": 0.6, "top_k": 4}),
                           ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": True}, {"top_k": 4})):
        (tmp_path / "generation_config.json").write_text(json.dumps(said), encoding="utf-8")
        rules = read_rules(tmp_path, V)
        assert rules.suggested == expected and not rules.unread
