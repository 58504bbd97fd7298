"""Random tiny Qwen3 models of `transformers`, the reference, and ours with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from myna.models.decoder import Decoder, DecoderConfig

SHAPE: dict[str, Any] = {"vocab_size": 101, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
                         "rope_theta": 5000.0, "tie_word_embeddings": False, "eos_token_id": 3}
CASES = {"four groups": {"num_key_value_heads": 1}, "two groups": {}, "one group": {"num_key_value_heads": 4},
         "tied": {"tie_word_embeddings": True}, "narrow": {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 33}}


def reference(**changes: Any) -> Qwen3ForCausalLM:
    """Make a random model, gains included, whose layers matter and whose logits lie far apart."""
    model = Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "bos_token_id": None, "pad_token_id": None, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5 if "proj" in name else 0.7, generator=generator)
    return model


def ours(model: Qwen3ForCausalLM, **changes: Any) -> Decoder:
    """Make our decoder with the same weights."""
    mine = Decoder(DecoderConfig(**{**SHAPE, **changes}))
    mine.load_state_dict({name.removeprefix("model."): value for name, value in model.state_dict().items()
                          if not (changes.get("tie_word_embeddings") and name == "lm_head.weight")})
    return mine
