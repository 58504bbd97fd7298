"""Decoders' directories in every style: ours in `transformers`, theirs here, and the spellings of published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from myna.models.decoder import Decoder, DecoderConfig
from myna.models.pretrained import load_model, save_model
from myna.models.record import read_record
from myna.tokenizer.tokenizer import Tokenizer
from tests.models.decoders import (
    CASES,
    SHAPE,
    edit_config,
    logits,
    random_decoder,
    reference,
    refused,
    rewrite,
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


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shards", ["5GB", "20KB"], ids=["one file", "shards"])
def test_what_transformers_saves_opens_here(case: str, shards: str, tmp_path: Path) -> None:
    theirs = reference(**CASES[case])
    theirs.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors.index.json").is_file() == (shards == "20KB")
    mine = load_model(tmp_path)
    assert isinstance(mine, Decoder)
    assert (mine.separator_id, mine.max_length) == (3, 128)
    assert mine.config == DecoderConfig(**{**SHAPE, **CASES[case], **({"rope_theta": 1e4} if "gpt2" in case else {})})
    assert_close(logits(mine), their_logits(theirs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["qwen3", "gpt2"])
def test_half_precision_weights_open_here_in_float32_exactly(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    reference(**CASES[case]).to(dtype).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_close(logits(load_model(tmp_path)), their_logits(theirs))


@pytest.mark.parametrize("case", ["qwen3-tied", "gpt2"])
def test_a_head_stored_beside_the_embeddings_it_is_tied_to_is_no_surprise(case: str, tmp_path: Path) -> None:
    model = random_decoder(**CASES[case])
    save_model(model, tmp_path, None)
    table = "transformer.wte.weight" if case == "gpt2" else "model.embed_tokens.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors[table]}))
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


def test_a_gpt2_as_it_was_published(tmp_path: Path) -> None:
    """No prefix, no head, the causal masks stored beside the weights, and nothing in config.json that has a default."""
    model = random_decoder(**{**CASES["gpt2"], "intermediate_size": 256})

    def publish(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128).tril().bool()
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    save_model(model, tmp_path, None)
    rewrite(tmp_path, publish)
    edit_config(tmp_path, ("n_inner", "resid_pdrop", "embd_pdrop", "attn_pdrop", "tie_word_embeddings", "dtype", "torch_dtype",
                           "scale_attn_weights"), n_ctx=128, task_specific_params={"text-generation": {"do_sample": True}})
    again = load_model(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.config.dropout == 0.1 and again.max_length == 128
    assert read_record(tmp_path).parameters == model.config.count_parameters()  # buffers are no parameters
    assert_close(logits(again), their_logits(AutoModelForCausalLM.from_pretrained(tmp_path)))


def test_older_ways_to_write_the_rotation_are_read(tmp_path: Path) -> None:
    model = random_decoder()
    save_model(model, tmp_path, None)
    edit_config(tmp_path, ("rope_parameters", "dtype"), rope_scaling=None, eos_token_id=[3, 5], torch_dtype="float32")
    again = load_model(tmp_path)
    assert again.separator_id == 3 and again.config.rope_theta == 5000.0
    assert torch.equal(logits(again), logits(model))


def test_an_older_llama(tmp_path: Path) -> None:
    """No heads' width, no key-value heads, no prefix, frequencies stored, and the scaling in its old words."""
    model = random_decoder(**{**CASES["linear-positions"], "num_key_value_heads": 4, "head_dim": 16, "rope_theta": 1e4})
    save_model(model, tmp_path, None)
    edit_config(tmp_path, ("head_dim", "rope_parameters", "rope_theta", "attention_bias", "mlp_bias"), num_key_value_heads=None,
                rope_scaling={"type": "linear", "factor": 2.5}, pretraining_tp=1)
    expected = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path))
    rewrite(tmp_path, lambda tensors: [tensors.update({name.removeprefix("model."): tensors.pop(name)}) for name in list(tensors)])
    rewrite(tmp_path, lambda tensors: tensors.update({f"layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(2)}))
    again = load_model(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert_close(logits(again), expected)


@pytest.mark.parametrize(("window", "words"), [(None, []), (128, []), (4096, []), (127, ["127", "at least 128"]), ("all", ["'all'"])])
def test_a_mistral_sees_its_whole_context_or_is_refused(window: Any, words: list[str], tmp_path: Path) -> None:
    model = random_decoder(**CASES["mistral"])
    save_model(model, tmp_path, None)
    edit_config(tmp_path, sliding_window=window)
    if words:
        refused(tmp_path, "sliding_window", *words)
    else:
        assert torch.equal(logits(load_model(tmp_path)), logits(model))


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
