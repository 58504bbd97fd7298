"""Decoders' directories in every style: ours in `transformers`, theirs here, and the spellings of published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from myna.models.decoder import Decoder
from myna.models.pretrained import load_model, save_model
from myna.tokenizer.tokenizer import Tokenizer
from tests.models.decoders import (
    CASES,
    edit_config,
    logits,
    random_decoder,
    refused,
    small_tokenizer,
    their_logits,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("corpus") / "c")


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_saved_here_opens_in_transformers(case: str, tmp_path: Path) -> None:
    model = random_decoder(**{**CASES[case], "vocab_size": 77})
    save_model(model, tmp_path, 9)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert theirs.dtype == torch.float32
    assert type(theirs).__name__ == json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    assert_close(logits(model), their_logits(theirs))
    assert theirs.config.max_position_embeddings == model.max_length
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == 3
    assert theirs.config.pad_token_id == theirs.generation_config.pad_token_id == 9
    theirs.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_model(tmp_path / "again")), logits(model))


def test_the_share_that_a_gpt2_leaves_out_in_training_is_kept(tmp_path: Path) -> None:
    save_model(random_decoder(**CASES["gpt2"], dropout=0.25), tmp_path, None)
    assert load_model(tmp_path).config.dropout == 0.25
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).config
    assert (theirs.resid_pdrop, theirs.embd_pdrop, theirs.attn_pdrop) == (0.25, 0.25, 0)


@pytest.mark.parametrize("changes", [{}, CASES["gpt2"]], ids=["qwen3", "gpt2"])
def test_with_its_tokenizer_it_speaks_in_transformers_as_here(changes: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = random_decoder(**changes, vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.separator_id)
    save_model(model, tmp_path, tokenizer.pad_id)
    tokenizer.save(tmp_path, model.max_length)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == tokenizer.separator_id
    assert theirs.config.pad_token_id == tokenizer.pad_id != tokenizer.separator_id
    read = AutoTokenizer.from_pretrained(tmp_path)
    golden = tokenizer.golden()
    assert [read(text)["input_ids"] for text in golden["texts"]] == golden["ids"]
    assert (read.eos_token_id, read.pad_token_id) == (tokenizer.separator_id, tokenizer.pad_id)
    prompt = read("The bird", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = theirs.generate(prompt, max_new_tokens=64, min_new_tokens=64)[0, prompt.shape[1]:].tolist()
    state, ids, got = model.start(), prompt[0].tolist(), []
    while len(got) < 64:
        scores = model.step([ids], state)[0]
        scores[tokenizer.separator_id] = -np.inf
        ids = [int(scores.argmax())]
        got += ids
    assert got == expected


def test_our_directory_opens_here_to_the_bit_and_is_ready_to_use(tmp_path: Path) -> None:
    model = random_decoder()
    save_model(model, tmp_path, None)
    again = load_model(tmp_path)
    assert isinstance(again, Decoder) and again.config == model.config
    assert torch.equal(logits(again), logits(model))
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(("changes", "words"), [
    ({"activation_function": "relu"}, ["activation_function", "gelu_new"]), ({"scale_attn_weights": False}, ["scale_attn_weights"]),
    ({"scale_attn_by_inverse_layer_idx": True}, ["inverse_layer_idx"]), ({"add_cross_attention": True}, ["add_cross_attention"]),
    ({"n_head": 5}, ["5 heads", "n_embd"]), ({"n_inner": 0}, ["n_inner"]), ({"layer_norm_epsilon": "x"}, ["layer_norm_epsilon"]),
    ({"n_positions": 1 << 23}, ["max_position_embeddings"]), ({"n_positions": 256}, ["weights"]), ({"resid_pdrop": 1.0}, ["resid_pdrop"]),
], ids=str)
def test_a_gpt2_that_would_be_computed_otherwise_is_refused(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    save_model(random_decoder(**CASES["gpt2"]), tmp_path, None)
    edit_config(tmp_path, **changes)
    refused(tmp_path, *words)
