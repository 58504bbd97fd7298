"""A tiny random qwen3 directory with a real byte-level tokenizer, written by transformers and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from myna.tokenizer.patterns import QWEN2

LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEXTS = [
    "Once upon a time, there was a bird that learned to talk. It's 12345 years old, isn't it? I'LL SEE.",
    "从前有一只鸟，它学会了说话。春眠不觉晓，處處聞啼鳥。GPT 和 Transformer 都是 model；用Python写code！",
    "👋🏽 👨‍👩‍👧‍👦 🇨🇳 ❤️ ½ ² ﬁ ａｂｃ é \u200b １２３ ٣٤",
    "def f(x: int) -> int:\n    return x * 2  # it's 'quoted'\n\n\n\tif x:\r\n\t\tpass\r\n\r\n",
    "   leading,  double   triple    and trailing   ",
    "\n\n\n  \n   indented\n \n\t \t\n",
    "café naïve Zürich Ελληνικά Привет שלום مرحبا हिन्दी ไทย 한국어 ひらがなカタカナ",
    "<|endoftext|> inside <|im_start|>text<|im_end|> is text",
    "aaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!????。。。。…… e\u0301 a\u0301b",
    "1 22 333 4444 1234567890 3.14e-5 0xFF 2026-07-04",
    "don't DON'T we've they're I'm he'd she'll 's 't ''s",
    " ",
    "x",
]


def pre_tokenizer(name: str):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("gpt-2", "smollm"))
    if name == "gpt-2":
        return byte_level
    first = {"qwen2": pre_tokenizers.Split(Regex(QWEN2), "isolated"), "smollm": pre_tokenizers.Digits(individual_digits=True),
             "llama-bpe": pre_tokenizers.Split(Regex(LLAMA3), "isolated")}[name]
    return pre_tokenizers.Sequence([first, byte_level])


def write_tokenizer(folder: Path, pattern: str = "qwen2", vocab_size: int = 700, ignore_merges: bool = False) -> int:
    """Train a tokenizer on TEXTS; returns the id of the separator."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 6, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|reserved_0|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.token_to_id("<|endoftext|>")


def write_model(folder: Path, pattern: str = "qwen2", dtype: str = "float32", **changes):
    """Write a random model whose likeliest token is clear; returns the transformers model."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    ignore_merges = changes.pop("ignore_merges", False)
    separator = write_tokenizer(folder, pattern, ignore_merges=ignore_merges)
    shape = {"vocab_size": 768, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 50000.0,
             "tie_word_embeddings": False, "eos_token_id": separator, "bos_token_id": None, "dtype": dtype}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**{**shape, **changes})).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            else:  # large enough that the layers matter and logits lie far apart
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5 if "proj" in name else 0.7)
    model.save_pretrained(folder)
    return model
