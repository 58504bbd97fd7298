"""GGUF in and out: a random model of `transformers` exported, run by llama.cpp, imported, and the same again."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from myna.cli.main import main
from myna.models.gguf_export import export_gguf
from myna.models.gguf_import import import_gguf
from myna.models.pretrained import load_model
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
