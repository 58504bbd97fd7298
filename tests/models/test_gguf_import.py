"""GGUF in and out: a random model of `transformers` exported, run by llama.cpp, imported, and the same again."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from myna.cli.main import main
from myna.errors import UserError
from myna.formats.gguf import Tensor, write_gguf
from myna.formats.gguf_read import open_gguf
from myna.models.gguf_export import export_gguf
from myna.models.gguf_import import import_gguf
from myna.models.gguf_names import read_rope_factors, rope_factors
from myna.models.pretrained import load_model, read_config
from myna.tokenizer.tokenizer import Tokenizer
from tests.formats.models import TEXTS, write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
with_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")

SIZES = {"vocab_size": 768, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "bos_token_id": None}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": True, "rope_theta": 50000.0}),
    "llama untied, linear": ("Llama", {"tie_word_embeddings": False,
                                       "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama 3": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3, "head_dim": 32}),
    "llama with biases": ("Llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": False, "head_dim": 32}),
    "gpt2": ("GPT2", {}),
}


def write_family(folder: Path, family: str):
    """Write a random model of a family and a tokenizer; returns the transformers model."""
    folder.mkdir(parents=True, exist_ok=True)
    separator = write_tokenizer(folder)
    kind, changes = FAMILIES[family]
    if kind == "GPT2":
        sizes = {"vocab_size": 768, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 96, "bos_token_id": None}
        config, cls = transformers.GPT2Config(**sizes, eos_token_id=separator), transformers.GPT2LMHeadModel
    else:
        config = getattr(transformers, f"{kind}Config")(**SIZES, **changes, eos_token_id=separator)
        cls = getattr(transformers, f"{kind}ForCausalLM")
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-0.5, 0.5) if name.endswith("bias") else parameter.uniform_(0.5, 1.5)
            else:  # large enough that the layers matter and logits lie far apart
                large = not any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5 if large else 0.7)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=list(FAMILIES))
def made(request, tmp_path_factory):
    """A model of each family, the directory it was saved to, its GGUF file and the directory that was imported from that."""
    place = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    model = write_family(place / "model", request.param)
    (place / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    export_gguf(place / "model", place / "x.gguf", Tokenizer.open(place / "model"), "f32")
    import_gguf(place / "x.gguf", place / "again")
    return model, place


def logits(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def test_the_same_numbers_come_back_bit_for_bit(made):
    model, place = made
    again = transformers.AutoModelForCausalLM.from_pretrained(place / "again").eval()
    wanted = dict(model.named_parameters())
    found = dict(again.named_parameters())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    ids = Tokenizer.open(place / "model").encode(TEXTS[0])
    np.testing.assert_allclose(logits(again, ids), logits(model, ids), atol=1e-5)


def test_myna_opens_it_with_the_same_logits_and_ids(made):
    model, place = made
    opened, tokenizer = load_model(place / "again"), Tokenizer.open(place / "again")
    for text in TEXTS:
        assert tokenizer.encode(text) == Tokenizer.open(place / "model").encode(text), text
    ids = tokenizer.encode(TEXTS[0])
    ours = opened.step([ids], opened.start(), last=False)[0]
    wanted = torch.from_numpy(logits(model, ids)).log_softmax(-1).numpy()
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_transformers_opens_the_tokenizer_with_the_same_ids(made):
    _, place = made
    theirs = transformers.AutoTokenizer.from_pretrained(place / "again")
    ours = Tokenizer.open(place / "again")
    for text in TEXTS:
        text = unicodedata.normalize("NFC", text)  # for a qwen2, transformers takes its own class, which normalises, whatever the file says
        assert theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours.encode(text), text
    assert theirs.chat_template == "{{ messages[0].content }}"


@with_llama_cpp
def test_llama_cpp_gives_the_same_logits(made):
    import llama_cpp

    model, place = made
    engine = llama_cpp.Llama(str(place / "x.gguf"), n_ctx=256, verbose=False, type_k=0, type_v=0, logits_all=True, n_threads=1)
    ids = Tokenizer.open(place / "model").encode("".join(TEXTS))[:200]
    engine.eval(ids)
    wanted = logits(model, ids)
    np.testing.assert_allclose(np.array(engine.scores[: len(ids)]), wanted, atol=2e-3 * wanted.std())


def test_the_directory_is_one_that_the_other_commands_know(made, capsys):
    _, place = made
    assert main(["show", str(place / "again")]) == 0
    assert main(["generate", str(place / "again"), "Once", "--max-tokens", "4"]) == 0
    written = json.loads((place / "again" / "myna.json").read_text())
    assert written["lineage"]["inputs"][0]["bytes"] == (place / "x.gguf").stat().st_size
    assert written["golden"]["ids"] == Tokenizer.open(place / "model").golden()["ids"]
    assert "no licence" in (place / "again" / "README.md").read_text()


# ---- tokenizers ----


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer_gives_the_same_ids_in_llama_cpp_and_comes_back(tmp_path, prefix):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / "model"
    write_family(folder, "llama")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (tmp_path / "text").write_text("\n".join(TEXTS * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(folder / "tokenizer"), vocab_size=760, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix,
        minloglevel=2)
    edit(folder / "config.json", eos_token_id=2, bos_token_id=1)
    tokenizer = Tokenizer.open(folder)
    report = export_gguf(folder, tmp_path / "x.gguf", tokenizer, "f16")
    assert report["pattern"] == "llama"
    import_gguf(tmp_path / "x.gguf", tmp_path / "again")
    again = Tokenizer.open(tmp_path / "again")
    texts = [*TEXTS, "".join(TEXTS), "zebra Ω 𝔘"]
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert list(again.encode_inputs(texts)) == list(tokenizer.encode_inputs(texts))
    llama_cpp = pytest.importorskip("llama_cpp")
    engine = llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False)
    for text in texts:
        assert engine.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text
        assert [engine.tokenize(text.encode(), add_bos=True, special=False)] == list(tokenizer.encode_inputs([text])), text


def test_a_bos_that_the_tokenizer_adds_is_added_by_llama_cpp(tmp_path):
    write_family(tmp_path / "model", "qwen3")
    described = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    bos = Tokenizer.open(tmp_path / "model").special_id("<|im_start|>")
    edit(tmp_path / "model" / "tokenizer.json", post_processor={
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [bos], "tokens": ["<|im_start|>"]}}})
    assert described["post_processor"] is None
    export_gguf(tmp_path / "model", tmp_path / "x.gguf", Tokenizer.open(tmp_path / "model"), "f16")
    metadata = open_gguf(tmp_path / "x.gguf").metadata
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.bos_token_id"]) == (True, bos)
    import_gguf(tmp_path / "x.gguf", tmp_path / "again")
    assert Tokenizer.open(tmp_path / "again").encode_inputs(["x"])[0][0] == bos


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- a directory for transformers ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_directory_is_written_again_in_any_type(tmp_path, dtype, capsys):
    model = write_family(tmp_path / "model", "llama 3")
    assert main(["export", str(tmp_path / "model"), "--to", "hf", "--dtype", dtype, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["check"]
    assert found["same_ids"] == found["prompts"] == 5
    if dtype == "float32":
        assert found["same_tokens"] == found["tokens"] and found["largest_difference"] < 1e-5
    else:  # the rounding shows
        assert 1e-4 < found["largest_difference"] < 4 and found["same_tokens"] > found["tokens"] / 2
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.dtype == getattr(torch, dtype)
    for (name, value), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(value.to(theirs.dtype), other), name
    assert read_config(tmp_path / "out")["eos_token_id"] == model.config.eos_token_id
    assert load_model(tmp_path / "out").config == load_model(tmp_path / "model").config


def test_an_adapter_is_exported_merged(tmp_path, capsys):
    peft = pytest.importorskip("peft")
    model = write_family(tmp_path / "model", "qwen3")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "model"))
    assert main(["export", str(tmp_path / "adapter"), "--to", "hf", "--out", str(tmp_path / "out")]) == 0
    assert main(["export", str(tmp_path / "adapter"), "--quantize", "f32", "--out", str(tmp_path / "x.gguf"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    import_gguf(tmp_path / "x.gguf", tmp_path / "again")
    ids = Tokenizer.open(tmp_path / "out").encode(TEXTS[0])
    wanted = logits(adapted.merge_and_unload().eval(), ids)
    for folder in ("out", "again"):
        np.testing.assert_allclose(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder), ids), wanted, atol=2e-4)
    assert open_gguf(tmp_path / "x.gguf").metadata["general.name"] == "adapter"
    assert report["check"] is None or report["check"]["same_tokens"] == report["check"]["tokens"]


# ---- what a file says of its positions, and what does not add up ----


def test_llama_3s_factors_are_those_of_transformers_and_are_found_again(tmp_path):
    model = write_family(tmp_path / "model", "llama 3")
    export_gguf(tmp_path / "model", tmp_path / "x.gguf", Tokenizer.open(tmp_path / "model"), "f16")
    factors = open_gguf(tmp_path / "x.gguf").tensors["rope_freqs.weight"].read()
    plain = 1 / (10000.0 ** (np.arange(0, 32, 2) / 32))
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-6)
    assert len(set(factors.tolist())) > 3
    for theta, low, high, original, factor in ((500000.0, 1.0, 4.0, 8192, 32.0), (10000.0, 2.0, 3.5, 4096, 8.0)):
        scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                   "original_max_position_embeddings": original}
        config = load_model(tmp_path / "model").config
        config = type(config)(**{**vars(config), "rope_scaling": scaling, "rope_theta": theta, "head_dim": 128})
        written = rope_factors(config)
        assert written is not None
        assert read_rope_factors(Path("x"), written, theta, original) == scaling
    with pytest.raises(UserError, match="not scaled"):
        read_rope_factors(Path("x"), np.linspace(1, 9, 64, dtype=np.float32), 10000.0, 8192)
    assert read_rope_factors(Path("x"), np.ones(64, dtype=np.float32), 10000.0, 8192) is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Metadata and tensors of a good file."""
    folder = tmp_path_factory.mktemp("whole")
    write_family(folder / "model", "llama")
    export_gguf(folder / "model", folder / "x.gguf", Tokenizer.open(folder / "model"), "f16")
    return open_gguf(folder / "x.gguf")


HUGE = 1 << 40
BAD_METADATA = [
    ("general.architecture", "mamba", "mamba"), ("general.architecture", None, "architecture"), ("llama.block_count", HUGE, "block_count"),
    ("llama.block_count", 1 << 24, "weights"), ("llama.block_count", 0, "block_count"), ("llama.block_count", 1, "has 'blk.1"),
    ("llama.embedding_length", 128, "weights"), ("llama.embedding_length", 32, "[768, 64]"), ("llama.feed_forward_length", 95, "[95, 64]"),
    ("llama.attention.head_count", 3, "heads"), ("llama.attention.head_count", 0, "head_count"),
    ("llama.attention.head_count", 8, "weights|attn_"), ("llama.attention.head_count_kv", 3, "num_key_value_heads"),
    ("llama.attention.key_length", 0, "key_length"), ("llama.attention.value_length", 8, "value_length"),
    ("llama.rope.dimension_count", 8, "dimension_count"), ("llama.context_length", HUGE, "context_length"),
    ("llama.context_length", 1 << 24, "max_position_embeddings"), ("llama.rope.freq_base", -1.0, "freq_base"),
    ("llama.attention.layer_norm_rms_epsilon", None, "epsilon"), ("llama.rope.scaling.type", "yarn", "yarn"),
    ("llama.expert_count", 8, "expert_count"), ("llama.attention.clamp_kqv", 8.0, "clamp_kqv"), ("llama.logit_scale", 0.5, "logit_scale"),
    ("llama.something.new", 1, "something.new"), ("llama.attention.causal", False, "causal"),
    ("llama.embedding_length", "64", "embedding_length"),
    ("tokenizer.ggml.eos_token_id", 768, "eos_token_id"), ("tokenizer.ggml.model", "rwkv", "rwkv"),
    ("tokenizer.ggml.pre", "tekken", "tekken"), ("tokenizer.ggml.tokens", ["a", "b"], "token"), ("tokenizer.ggml.tokens", None, "tokens"),
    ("tokenizer.ggml.merges", ["a"], "merges"), ("tokenizer.ggml.eos_token_id", None, "eos_token_id"),
    ("tokenizer.ggml.merges", None, "merges"), ("tokenizer.ggml.token_type", [1, 1], "token_type"),
]


@pytest.mark.parametrize(("key", "value", "said"), BAD_METADATA)
def test_metadata_that_does_not_add_up_is_one_line(whole, tmp_path, key, value, said):
    metadata = {**whole.metadata, key: value}
    if value is None:
        del metadata[key]
    write_gguf(tmp_path / "x.gguf", metadata, [Tensor(t.name, t.shape, t.dtype, t.read) for t in whole.tensors.values()])
    with pytest.raises(UserError, match=said) as found:
        import_gguf(tmp_path / "x.gguf", tmp_path / "out")
    assert len(str(found.value).replace(str(tmp_path), "")) <= 400
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.tmp").exists()


def test_tensors_that_are_not_those_of_the_architecture_are_one_line(whole, tmp_path):
    good = [Tensor(t.name, t.shape, t.dtype, t.read) for t in whole.tensors.values()]
    more = Tensor("blk.0.attn_gate.weight", (4,), "F32", lambda: np.ones(4, dtype=np.float32))
    rotated = Tensor("rope_freqs.weight", (7,), "F32", lambda: np.ones(7, dtype=np.float32))
    first = next(tensor for tensor in good if tensor.name == "blk.0.ffn_down.weight")
    turned = Tensor(first.name, first.shape[::-1], first.dtype, lambda: first.read().T)
    for tensors, said in (([*good, more], "attn_gate"), (good[:-1], "weights"), ([*good, rotated], "rope_freqs"),
                          ([turned if tensor is first else tensor for tensor in good], "ffn_down")):
        write_gguf(tmp_path / "x.gguf", whole.metadata, tensors)
        with pytest.raises(UserError, match=said):
            import_gguf(tmp_path / "x.gguf", tmp_path / "out")
    data = bytearray(whole.path.read_bytes())
    at = whole.tensors["blk.0.attn_norm.weight"].offset
    data[at : at + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(UserError, match="not finite"):
        import_gguf(tmp_path / "x.gguf", tmp_path / "out")


def test_frequencies_that_nothing_reads_are_dropped_and_said(whole, tmp_path):
    old = Tensor("blk.0.attn_rot_embd", (8,), "F32", lambda: np.ones(8, dtype=np.float32))
    write_gguf(tmp_path / "x.gguf", {**whole.metadata, "general.license": "mit", "general.name": "`<b>` *x*"},
               [*(Tensor(t.name, t.shape, t.dtype, t.read) for t in whole.tensors.values()), old])
    report = import_gguf(tmp_path / "x.gguf", tmp_path / "out")
    assert report["dropped"] == ["blk.0.attn_rot_embd"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# `'<b>' *x*`")
