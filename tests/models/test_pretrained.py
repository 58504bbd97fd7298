"""Model directories: ours in `transformers`, theirs here, and everything hostile or broken refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from myna.errors import UserError
from myna.files import write_json
from myna.models import decoder as decoder_module
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.pretrained import load_model, save_model
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.models.decoders import CASES, LLAMA3, SHAPE, reference
from tests.tokenizer.corpora import write_corpus

IDS = [5, 9, 2, 30, 17, 8, 8, 1, 29, 12]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [*list(topics.values())[:12], "从前有一只鸟，它学会了说话。春眠不觉晓，处处闻啼鸟。\n" * 20]
    return train_tokenizer(write_corpus(tmp_path_factory.mktemp("corpus") / "c", texts), TokenizerOptions(vocab_size=512))


def random_decoder(**changes: Any) -> Decoder:
    model = Decoder(DecoderConfig(**{**SHAPE, **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.7 if "proj" not in name else 1.5 / parameter.shape[1] ** 0.5, generator=generator)
    return model


def logits(model: Decoder, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(torch.tensor([ids])))[0]


def their_logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


# ---- both directions ----

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


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def edit_config(folder: Path, removed: tuple[str, ...] = (), **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {name: value for name, value in config.items() if name not in removed} | changes)


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


# ---- hostile and broken ----

@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    model = random_decoder(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.separator_id)
    save_model(model, folder, tokenizer.pad_id)
    tokenizer.save(folder, model.max_length)
    write_json(folder / "myna.json", {"format": 1, "golden": tokenizer.golden()})
    load_model(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def refused(folder: Path, *words: str) -> str:
    """Loading gives a UserError of one line, not too long, with these words; returns it."""
    with pytest.raises(UserError) as caught:
        load_model(folder)
    line = str(caught.value).replace(str(folder), "DIR")
    assert "\n" not in line and line.isprintable() and len(line) <= 400, line
    for word in words:
        assert word in line, line
    return line


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def test_what_is_no_model_directory(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no such model directory")
    refused(folder / "config.json", "is a file", "directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json")
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors")


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], Any], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_a_pickle_is_refused_and_never_opened(folder: Path, name: str) -> None:
    fired, trap = folder.parent / "fired", folder / name
    trap.write_bytes(pickle.dumps(_Trap(fired)))
    refused(trap, "a pickle, which can run code")
    (folder / "model.safetensors").rename(folder.parent / "aside")
    refused(folder, name, "a pickle, which can run code", "convert")
    (folder.parent / "aside").rename(folder / "model.safetensors")
    load_model(folder)  # beside safetensors it is not looked at
    assert not fired.exists()
    pickle.loads(trap.read_bytes())  # noqa: S301 (the trap does work)
    assert fired.exists()


def test_a_build_that_was_not_finished(folder: Path) -> None:
    (folder / "plan.json").write_text("{}")
    load_model(folder)
    (folder / "myna.json").unlink()  # the weights are there, the measured and checked directory is not
    refused(folder, "not finished", "myna build --resume --out")
    (folder / "config.json").unlink()
    refused(folder, "not finished", "myna build --resume --out")


@pytest.mark.parametrize(("given", "words"), [
    ("qwen33", ["'qwen33'", "did you mean qwen3?"]), ("n-gram", ["did you mean ngram?"]), ("resnet", ["'resnet'", "one of ngram, "]),
    (None, ["None"]), (["qwen3"], ["['qwen3']"]), ("x" * 10**6, ["xxx"]), ("a\nb\x1b[31m", ["model_type"]),
])
def test_a_model_type_that_is_not_known(folder: Path, given: Any, words: list[str]) -> None:
    change_config(folder, model_type=given)
    refused(folder, "config.json", *words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe{", b'{"model_type": "qwen3"', b"[" * 10**5,
                                     b'{"a": 1' + b"0" * 10**4 + b"}"], ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("name", ["config.json", "myna.json"])
def test_damaged_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, name)


def test_a_tokenizer_that_does_not_give_the_golden_ids(folder: Path) -> None:
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["merges"] = described["model"]["merges"][:-40]
    path.write_text(json.dumps(described))
    refused(folder, "golden ids", "restore tokenizer.json")
    path.unlink()
    refused(folder, "tokenizer.json")


@pytest.mark.parametrize("myna", [{}, {"golden": None}, {"golden": []}, {"golden": {"texts": ["a"], "ids": [[]]}}])
def test_golden_ids_cannot_be_talked_away(folder: Path, myna: dict[str, Any]) -> None:
    write_json(folder / "myna.json", myna)
    refused(folder, "golden")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                  "num_key_value_heads", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, 1 << 24, 1 << 62, 10**400, 2.5, "64", None, True, [64]], ids=lambda value: str(value)[:12])
def test_sizes_that_cannot_be_are_refused_before_anything_is_allocated(
        folder: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "rotary_table", _refuse)  # the first thing a decoder of that size would take
    monkeypatch.setattr(decoder_module.nn, "Embedding", _refuse)
    change_config(folder, **{name: value})
    refused(folder)


def _refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("something was allocated")


@pytest.mark.parametrize("changes", [
    {"vocab_size": 1 << 24, "tie_word_embeddings": True}, {"hidden_size": 4096}, {"max_position_embeddings": 1 << 22},
    {"num_hidden_layers": 10**6}, {"vocab_size": 1 << 20, "hidden_size": 1 << 20},
], ids=str)
def test_sizes_larger_than_the_file_are_refused_before_anything_is_allocated(
        folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(folder, **changes)
    monkeypatch.setattr(decoder_module, "rotary_table", _refuse)
    monkeypatch.setattr(decoder_module.nn, "Embedding", _refuse)
    refused(folder)


@pytest.mark.parametrize(("changes", "words"), [
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, ["yarn"]),
    ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["dynamic", "llama3"]),
    ({"rope_scaling": {"type": "linear"}, "rope_parameters": None}, ["factor", "None"]),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta_fast": 32}}, ["beta_fast"]),
    ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, ["low_freq_factor"]),
    ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 2.5}}, ["original_max_position_embeddings"]),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
    ({"final_logit_softcapping": 30.0}, ["final_logit_softcapping"]), ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
    ({"logit_scale": 0.25}, ["logit_scale"]), ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
    ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types"]), ({"mlp_bias": True}, ["mlp_bias"]),
    ({"rope_parameters": "default"}, ["rope_parameters"]), ({"rope_parameters": {"rope_theta": "big"}}, ["rope_theta"]),
    ({"rope_parameters": {"rope_theta": -1.0}}, ["rope_theta"]), ({"rms_norm_eps": float("nan")}, ["rms_norm_eps"]),
    ({"rms_norm_eps": None}, ["rms_norm_eps"]), ({"hidden_act": "gelu"}, ["hidden_act", "silu"]),
    ({"attention_bias": "yes"}, ["attention_bias"]), ({"use_sliding_window": True}, ["use_sliding_window"]),
    ({"eos_token_id": None}, ["eos_token_id"]), ({"eos_token_id": 10**6}, ["eos_token_id"]), ({"eos_token_id": []}, ["eos_token_id"]),
    ({"eos_token_id": True}, ["eos_token_id"]), ({"num_key_value_heads": 3}, ["key-value"]), ({"head_dim": 31}, ["31"]),
    ({"hidden_act": "x" * 10**5}, ["hidden_act"]),
], ids=lambda value: str(value)[:40])
def test_what_would_be_computed_otherwise_is_refused(folder: Path, changes: dict[str, Any], words: list[str]) -> None:
    change_config(folder, **changes)
    refused(folder, "config.json", *words)


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.pop("model.norm.weight"), []),
    (lambda t: t.update({"model.norm.weights": t.pop("model.norm.weight")}), ["norm.weight"]),
    (lambda t: t.update({"model.layers.9.extra": torch.ones(3)}), ["layers.9.extra", "config.json"]),
    (lambda t: t.update({"a\nb\x1b[31m" + "x" * 10**4: torch.ones(3)}), ["has"]),
    (lambda t: t.update({"model.layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.up_proj.weight"].T}), ["up_proj", "shape"]),
    (lambda t: t.update({"model.norm.weight": t["model.norm.weight"].int()}), ["norm.weight", "I32"]),
    (lambda t: t.clear(), []),
], ids=["missing", "renamed", "extra", "extra with an ugly name", "turned", "integers", "none"])
def test_tensors_that_do_not_fit_the_config(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], words: list[str]) -> None:
    rewrite(folder, change)
    refused(folder, *words)


def test_a_file_cut_anywhere(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in (0, 4, 8, 9, header // 2, header - 1, header, header + 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(folder, "model.safetensors")


def test_a_header_that_lies(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])

    def write(text: bytes, told: int | None = None) -> None:
        path.write_bytes(struct.pack("<Q", len(text) if told is None else told) + text + whole[8 + size :])

    for told in (0, 1 << 31, 1 << 63, (1 << 64) - 1):
        write(whole[8 : 8 + size], told)
        refused(folder, "model.safetensors")
    for changes in ({"shape": [1 << 40, 1 << 40]}, {"shape": [-1]}, {"dtype": "F99"}, {"data_offsets": [0, 1 << 50]},
                    {"data_offsets": [1 << 50, 0]}, {"data_offsets": [0]}, {"shape": "64"}):
        write(json.dumps({**header, "model.norm.weight": {**header["model.norm.weight"], **changes}}).encode())
        refused(folder, "model.safetensors")
    for text in (b"[" * 10**5, b"{}", b"[]", b'{"a": {}}', b"\xff" * 20):
        write(text)
        refused(folder)


@pytest.mark.parametrize("index", [{}, [], {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../../secret"}},
                                   {"weight_map": {"a": "/etc/passwd"}}, {"weight_map": {"a": "absent.safetensors"}},
                                   {"weight_map": {"a": ".."}}, {"weight_map": {}}], ids=str)
def test_an_index_that_leads_nowhere(folder: Path, index: Any) -> None:
    write_json(folder / "model.safetensors.index.json", index)
    refused(folder)
