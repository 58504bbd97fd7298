"""A Whisper directory of a few thousand weights that were never trained, with a tokenizer: it hears nothing, but goes all the way."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch

from myna.models.encoder_decoder import EncoderDecoderConfig
from myna.models.pretrained import save_model
from myna.models.whisper import Speech, Whisper
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

RATE = 16_000
_COLUMNS = 60  # of a window: 0.6 s


def write_whisper(folder: Path) -> Path:
    """Write the directory; its windows are 0.6 s long."""
    corpus = write_corpus(folder.with_name(f"{folder.name}-text"), ["the best of times " * 20])
    tokenizer = train_tokenizer(corpus, TokenizerOptions(vocab_size=300))
    start, without = tokenizer.separator_id, tokenizer.vocab_size
    config = EncoderDecoderConfig(without + 1 + _COLUMNS // 2 + 1, 16, 1, 2, max_position_embeddings=40, model_type="whisper",
                                  num_mel_bins=80, max_source_positions=_COLUMNS // 2, eos_token_id=start, decoder_start_token_id=start)
    model = Whisper(config, speech=Speech(no_timestamps_token_id=without))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.3, generator=generator)
    save_model(model, folder, tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


def write_noise(path: Path, seconds: float = 1.0, loudness: float = 0.1) -> Path:
    """Write a mono recording of 16 bits at 16,000 Hz."""
    samples = np.random.default_rng(0).normal(0, loudness, int(seconds * RATE)).clip(-1, 1)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path
