"""A model directory as GGUF: read back by ggml's Python package, and run by llama.cpp with the same ids and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.models.gguf_export import export_gguf
from myna.tokenizer.tokenizer import Tokenizer
from tests.formats.models import TEXTS, write_model, write_tokenizer

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "attn_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def export(folder: Path, out: Path, dtype: str) -> dict:
    return export_gguf(folder, out, Tokenizer.open(folder), dtype)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return folder, write_model(folder)


def state_of(model) -> dict[str, np.ndarray]:
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    back = {source: target for target, source in NAMES.items()}
    out = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        target = names.get(name) or f"blk.{parts[2]}.{back['.'.join(parts[3:-1])]}.weight"
        out[target] = value.float().numpy()
    return out


@pytest.mark.parametrize(("dtype", "kind"), [("f32", "F32"), ("f16", "F16"), ("q8_0", "Q8_0")])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_every_tensor_reads_back_equal(tmp_path, dtype, kind, stored):
    model = write_model(tmp_path / "m", dtype=stored)
    report = export(tmp_path / "m", tmp_path / "x.gguf", dtype)
    wanted = state_of(model)
    tensors = gguf.GGUFReader(tmp_path / "x.gguf").tensors
    assert {t.name for t in tensors} == set(wanted)
    for t in tensors:
        values = wanted[t.name]
        expected = gguf.GGMLQuantizationType["F32" if values.ndim == 1 else kind]
        assert t.tensor_type == expected
        np.testing.assert_array_equal(t.data, gguf.quants.quantize(values, expected))
    assert report["bytes"] == (tmp_path / "x.gguf").stat().st_size
    assert (report["dtype"], report["pattern"], report["tensors"], report["kept_f16"]) == (dtype, "qwen2", len(wanted), [])


def test_metadata_says_what_the_model_is(tiny, tmp_path):
    folder, model = tiny
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    export(folder, tmp_path / "x.gguf", "f16")
    (folder / "chat_template.jinja").unlink()
    fields = {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / "x.gguf").fields.items()}
    config, tokenizer = model.config, Tokenizer.open(folder)
    for key, value in {
        "general.architecture": "qwen3", "general.name": "tiny", "general.file_type": 1, "general.quantization_version": 2,
        "qwen3.block_count": 2, "qwen3.context_length": 256, "qwen3.embedding_length": 64, "qwen3.feed_forward_length": 128,
        "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 32,
        "qwen3.attention.value_length": 32, "qwen3.rope.freq_base": 50000.0, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.bos_token_id": config.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages }}",
    }.items():
        assert fields[key] == value, key
    assert fields["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == len(set(tokens)) == config.vocab_size
    described = json.loads((folder / "tokenizer.json").read_text())
    for token, number in described["model"]["vocab"].items():
        assert (tokens[number], kinds[number]) == (token, gguf.TokenType.NORMAL)
    assert [kinds[tokens.index(name)] for name in ("<|endoftext|>", "<|reserved_0|>", "<think>")] == [
        gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]
    assert set(kinds[tokenizer.vocab_size :]) == {gguf.TokenType.UNUSED}
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in described["model"]["merges"]]


def test_tied_embeddings_are_written_once(tmp_path):
    write_model(tmp_path / "m", tie_word_embeddings=True)
    export(tmp_path / "m", tmp_path / "x.gguf", "f16")
    names = [t.name for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors]
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def test_sharded_weights_are_read(tmp_path):
    model = write_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "m", max_shard_size="100KB")
    assert (tmp_path / "m" / "model.safetensors.index.json").exists()
    export(tmp_path / "m", tmp_path / "x.gguf", "f32")
    wanted = state_of(model)
    for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors:
        np.testing.assert_array_equal(t.data, wanted[t.name])


def test_matrices_that_do_not_divide_into_blocks_stay_f16_and_are_named(tmp_path):
    write_model(tmp_path / "m", intermediate_size=72)
    report = export(tmp_path / "m", tmp_path / "x.gguf", "q8_0")
    assert report["kept_f16"] == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"


def greedy(model, ids: list[int], tokens: int) -> list[int]:
    for _ in range(tokens):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-tokens:]


def test_llama_cpp_gives_the_same_ids_and_the_same_32_greedy_tokens(tiny, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    folder, model = tiny
    export(folder, tmp_path / "x.gguf", "f32")
    engine = llama_cpp.Llama(str(tmp_path / "x.gguf"), n_ctx=256, verbose=False, type_k=0, type_v=0)
    tokenizer = Tokenizer.open(folder)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert engine.tokenize(text.encode(), add_bos=False, special=False) == ids, text
        assert engine.tokenize(text.encode(), add_bos=True, special=False) == ids, "a BOS was added"
    for text in TEXTS[:5]:
        ids = tokenizer.encode(text)
        engine.reset()
        stream = engine.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
        assert [next(stream) for _ in range(32)] == greedy(model, ids, 32), text
    assert engine.token_eos() == engine.token_bos() == tokenizer.separator_id
    assert engine.detokenize(tokenizer.encode(TEXTS[1])).decode() == TEXTS[1]


@pytest.mark.parametrize(("dtype", "limit"), [("f16", 0.02), ("q8_0", 0.25)])
def test_llama_cpp_runs_the_smaller_types_with_nearly_the_same_logits(tiny, tmp_path, dtype, limit):
    llama_cpp = pytest.importorskip("llama_cpp")
    folder, model = tiny
    export(folder, tmp_path / "x.gguf", dtype)
    engine = llama_cpp.Llama(str(tmp_path / "x.gguf"), n_ctx=256, verbose=False, type_k=0, type_v=0, logits_all=True)
    ids = Tokenizer.open(folder).encode(TEXTS[0])
    engine.eval(ids)
    theirs = np.array(engine.scores[: len(ids)])
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(theirs - ours).max() < limit * ours.std() * 3


@pytest.mark.parametrize(("pattern", "ignore_merges", "named"),
                         [("qwen2", False, "qwen2"), ("gpt-2", False, "gpt-2"), ("smollm", False, "smollm"), ("llama-bpe", False, "dbrx"),
                          ("llama-bpe", True, "llama-bpe")])
def test_llama_cpp_gives_the_same_ids_with_every_known_pattern(tmp_path, pattern, ignore_merges, named):
    folder = tmp_path / "m"
    write_model(folder, pattern, ignore_merges=ignore_merges, num_hidden_layers=1)
    assert export(folder, tmp_path / "x.gguf", "f16")["pattern"] == named
    llama_cpp = pytest.importorskip("llama_cpp")
    engine = llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False)
    tokenizer = Tokenizer.open(folder)
    random, signs = np.random.default_rng(0), list("".join(TEXTS) + " \n\t\r  '")
    for text in [*TEXTS, "".join(TEXTS), *("".join(random.choice(signs, 40)) for _ in range(100))]:
        assert engine.tokenize(text.encode(), add_bos=True, special=False) == tokenizer.encode(text), text


# ---- what llama.cpp could not run is refused ----


def edit(folder: Path, file: str, **changes) -> None:
    described = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**described, **changes}))


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_type": "ngram"}, "ngram"), ({"model_type": "llama"}, "4 surplus"),
    ({"attention_bias": True}, "attention_bias"), ({"model_type": "bert"}, "bert"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "rope_type"), ({"head_dim": None}, "q_proj"),
    ({"num_hidden_layers": 3}, "11 missing"), ({"num_hidden_layers": 1}, "11 surplus"), ({"intermediate_size": 192}, "mlp"),
    ({"vocab_size": 512}, "eos_token_id"), ({"vocab_size": 700}, "embed_tokens"),
])
def test_a_model_that_does_not_fit_is_refused(tmp_path, changes, said):
    write_model(tmp_path / "m")
    edit(tmp_path / "m", "config.json", **changes)
    with pytest.raises(UserError, match=said):
        export(tmp_path / "m", tmp_path / "x.gguf", "f16")
    assert not (tmp_path / "x.gguf").exists()


def test_an_unknown_dtype_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match=r"q5_k.*f32, f16"):
        export(tiny[0], tmp_path / "x.gguf", "q5_k")


def test_whole_words_before_merges_only_with_the_pattern_that_has_it(tmp_path):
    write_model(tmp_path / "m")
    write_tokenizer(tmp_path / "m", "qwen2", ignore_merges=True)
    with pytest.raises(UserError, match="ignore_merges"):
        export(tmp_path / "m", tmp_path / "x.gguf", "f16")


def test_a_pattern_that_llama_cpp_does_not_know_is_refused(tmp_path):
    write_model(tmp_path / "m")
    other = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}
    edit(tmp_path / "m", "tokenizer.json", pre_tokenizer=other)
    with pytest.raises(UserError, match="pre-tokenizer"):
        export(tmp_path / "m", tmp_path / "x.gguf", "f16")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:4], lambda data: b"",
                                    lambda data: b"\xff" * 8 + data[8:]])
def test_damaged_weights_are_refused(tmp_path, damage):
    write_model(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        export(tmp_path / "m", tmp_path / "x.gguf", "f16")


def test_a_directory_without_safetensors_is_refused(tmp_path):
    write_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no file .*model\.safetensors"):
        export(tmp_path / "m", tmp_path / "x.gguf", "f16")
