"""Random tiny decoders of `transformers`, the reference, in every style, ours with the same weights, and their directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from myna.errors import UserError
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.decoder_files import decoder_places
from myna.models.pretrained import load_model
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

IDS = [5, 9, 2, 30, 17, 8, 8, 1, 29, 12]
SHAPE: dict[str, Any] = {"model_type": "qwen3", "vocab_size": 101, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
                         "norm_eps": 1e-5, "rope_theta": 5000.0, "tie_word_embeddings": False, "eos_token_id": 3}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
GPT2 = {"model_type": "gpt2", "num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}
LLAMA = {"model_type": "llama", "head_dim": 16}
CASES: dict[str, dict[str, Any]] = {
    "qwen3-four-groups": {"num_key_value_heads": 1},
    "qwen3": {},
    "qwen3-one-group-biased": {"num_key_value_heads": 4, "attention_bias": True},
    "qwen3-tied": {"tie_word_embeddings": True},
    "qwen3-narrow": {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 77},
    "llama": LLAMA,
    "llama-biased-tied": {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama3-positions": {**LLAMA, "rope_scaling": LLAMA3},
    "linear-positions": {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 1},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "head_dim": 16},
    "gpt2": GPT2,
    "gpt2-untied": {**GPT2, "tie_word_embeddings": False, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32},
}
_WORDS = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "intermediate_size": "n_inner",
          "max_position_embeddings": "n_positions", "norm_eps": "layer_norm_epsilon"}


def reference_config(**changes: Any) -> Any:
    """Make the config of `transformers` of a shape in our words."""
    shape = {**SHAPE, "bos_token_id": None, "pad_token_id": None, **changes}
    if shape["model_type"] == "gpt2":
        unread = ("num_key_value_heads", "head_dim", "rope_theta")
        return AutoConfig.for_model(**{_WORDS.get(name, name): value for name, value in shape.items() if name not in unread},
                                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    shape["rope_parameters"] = {"rope_type": "default", **(shape.pop("rope_scaling", None) or {}), "rope_theta": shape.pop("rope_theta")}
    return AutoConfig.for_model(**{"norm_eps": 0, "sliding_window": None, **shape, "rms_norm_eps": shape["norm_eps"]})


def reference(**changes: Any) -> Any:
    """Make a random model, gains and biases included, whose layers matter and whose logits lie far apart."""
    model = AutoModelForCausalLM.from_config(reference_config(**changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            elif parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                inside = "proj" in name or "c_" in name
                table = 0.2 if model.config.tie_word_embeddings else 0.5
                strong = (4 if "c_" in name else 1.5) / max(parameter.shape) ** 0.5  # GPT-2's rows are wider, its biases speak too
                parameter.normal_(0, strong if inside else table, generator=generator)
    return model


def ours(model: Any, **changes: Any) -> Decoder:
    """Make our decoder with the same weights."""
    mine = Decoder(DecoderConfig(**{**SHAPE, **changes}))
    stored, places = dict(model.named_parameters()), decoder_places(mine.config)
    with torch.no_grad():
        for name, parameter in mine.named_parameters():
            parameter.copy_(as_ours(stored[places[name].name].detach(), places[name]))
    return mine


def as_ours(tensor: torch.Tensor, place: Any) -> torch.Tensor:
    """Take a parameter (or its gradient) out of the tensor it is written in."""
    return (tensor.T if place.transpose else tensor).chunk(place.parts)[place.part]


def windows(rows: Any) -> dict[str, torch.Tensor]:
    """Make the batch of whole windows (B, T + 1)."""
    ids = torch.as_tensor(rows)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def random_decoder(**changes: Any) -> Decoder:
    """Make one of ours whose layers matter, gains and biases included."""
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
    """Score one row with ours."""
    with torch.no_grad():
        return model.logits(model.hidden(torch.tensor([ids])))[0]


def their_logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    """Score one row with theirs."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


def refused(folder: Path, *words: str) -> str:
    """Loading gives a UserError of one line, not too long, with these words; returns it."""
    with pytest.raises(UserError) as caught:
        load_model(folder)
    line = str(caught.value).replace(str(folder), "DIR")
    assert "\n" not in line and line.isprintable() and len(line) <= 400, line
    for word in words:
        assert word in line, line
    return line


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a directory."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def edit_config(folder: Path, removed: tuple[str, ...] = (), **changes: Any) -> None:
    """Change the values of a directory's config.json."""
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in removed} | changes
    (folder / "config.json").write_text(json.dumps(config))  # which may hold NaN, as somebody else's may


def small_tokenizer(folder: Path) -> Tokenizer:
    """Train a tokenizer of about 512 tokens."""
    texts = [*list(topics.values())[:12], "从前有一只鸟，它学会了说话。春眠不觉晓，处处闻啼鸟。\n" * 20]
    return train_tokenizer(write_corpus(folder, texts), TokenizerOptions(vocab_size=512))
