"""Whisper: an encoder hears half a minute of sound, a decoder writes what was said.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2: a log-mel spectrogram goes through two
convolutions of width 3 with GELU, the second of which halves its length; sinusoids tell positions (they are stored, so what is
stored counts); layers normalise before each sublayer and have no bias of keys; the decoder's positions are learned and its head is
its embedding. The layers, the cache and the state are those of `encoder_decoder.py`.

    model = load_model(Path("whisper-tiny"))
    state = model.start(source=log_mel(samples))           # (80, 3000) for 30 seconds, as data/audio.py makes it
    model.step([[model.config.decoder_start_token_id]], state)

B rows · M mel bands · F columns of the spectrogram · S = F / 2 source positions · T target ids · C hidden_size · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.errors import UserError
from myna.models.cache import Cache
from myna.models.encoder_decoder import EncoderDecoderConfig, SourceState
from myna.models.encoder_decoder_layers import Stack
from myna.models.protocol import Ids, LogProbs
from myna.models.source import pad_step
from myna.models.steps import score_step

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Speech:
    """What a Whisper directory says of its ids beside the weights, in `transformers`' words (generation_config.json)."""

    no_timestamps_token_id: int = -1
    "The ids after it are times, 0.02 s apart, from the beginning of the sound; -1: the model has no times."
    suppress_tokens: tuple[int, ...] = ()
    "Ids never written: marks of sounds that are not speech, and of tasks."
    begin_suppress_tokens: tuple[int, ...] = ()
    "Ids that no text begins with."
    max_initial_timestamp_index: int | None = None
    "The first time written is at most so many steps of 0.02 s."
    prev_sot_token_id: int | None = None
    "Begins what was said before."
    lang_to_id: dict[str, int] = field(default_factory=dict)
    'Of a model of several languages: "<|en|>" and the others.'
    task_to_id: dict[str, int] = field(default_factory=dict)
    'Of a model of several languages: "transcribe" and "translate".'
    alignment_heads: tuple[tuple[int, int], ...] = ()
    "(layer, head) that follow the sound; kept for other tools."


class Whisper(nn.Module):
    """A language model given a sound (`LanguageModel`); `config.model_type` is "whisper"."""

    def __init__(self, config: EncoderDecoderConfig, speech: Speech) -> None:
        super().__init__()
        self.config, self.speech = config, speech
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.max_position_embeddings
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32
        C = config.hidden_size
        self.conv1 = nn.Conv1d(config.num_mel_bins, C, 3, padding=1)
        self.conv2 = nn.Conv1d(C, C, 3, stride=2, padding=1)
        self.shared = nn.Embedding(config.vocab_size, C)
        self.encoder = Stack(config, config.num_hidden_layers, crossed=False)
        self.decoder = Stack(config, config.num_decoder_layers, crossed=True)

    @property
    def max_columns(self) -> int:
        """The longest spectrogram that it hears at once: 3000 columns of a hundredth of a second, in the published models."""
        return 2 * self.config.max_source_positions

    def encode(self, features: Tensor) -> Tensor:
        """Hear spectrograms (B, M, F); returns hidden states (B, S, C)."""
        x, dtype = features.to(self.compute_dtype), self.compute_dtype
        for conv in (self.conv1, self.conv2):
            assert conv.bias is not None
            x = F.gelu(F.conv1d(x, conv.weight.to(dtype), conv.bias.to(dtype), conv.stride, padding=1))
        x = x.mT  # (B, S, C)
        x = self.encoder.enter(x, torch.arange(x.shape[1]))
        for layer in self.encoder.layers:
            x = layer(x, None)
        return self._leave(self.encoder, x)

    def _leave(self, stack: Stack, x: Tensor) -> Tensor:
        assert stack.norm is not None
        out: Tensor = stack.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id of the vocabulary: (..., C) to (..., V), float32."""
        return F.linear(hidden, self.shared.weight.to(hidden.dtype)).float()

    @torch.inference_mode()
    def start(self, rows: int = 1, source: Features | None = None) -> SourceState:
        """Hear a spectrogram (M, F) for all rows, or one for each, (rows, M, F); returns a state with nothing written.

        Raises ValueError when its shape is not one that the model hears, UserError without a source.
        """
        return self.begin(self.hear(source, rows), rows)

    @torch.inference_mode()
    def hear(self, source: Features | None, rows: int = 1) -> Tensor:
        """Return the hidden states of one spectrogram, or of one for each row, (1 or rows, S, C); raises as `start`."""
        if source is None:
            raise UserError("a speech model without a sound", "a recording", "myna transcribe MODEL AUDIO gives it one")
        features = torch.as_tensor(source, dtype=torch.float32)
        features = features if features.dim() == 3 else features[None]
        if features.dim() != 3 or features.shape[0] not in (1, rows) or features.shape[1] != self.config.num_mel_bins:
            raise ValueError(f"a source of shape {np.shape(source)} for {rows} rows of {self.config.num_mel_bins} mel bands")
        if not 1 <= features.shape[2] <= self.max_columns:
            raise ValueError(f"a source of {features.shape[2]} columns, where 1 to {self.max_columns} fit")
        return self.encode(features)

    @torch.inference_mode()
    def begin(self, hidden: Tensor, rows: int = 1) -> SourceState:
        """Return a state with nothing written, for rows that heard `hidden`."""
        c = self.config
        crossed = [tuple(each.expand(rows, -1, -1, -1) for each in layer.cross_attn.keys_values(hidden))  # type: ignore[union-attr,operator]
                   for layer in self.decoder.layers]
        return SourceState(Cache(c.num_decoder_layers, rows, c.num_attention_heads, c.head_dim, self.compute_dtype), crossed, None)

    @torch.inference_mode()
    def step(self, ids: Ids, state: SourceState, last: bool = True) -> LogProbs:
        """Append target ids and return natural log-probabilities: (B, V), or (B, T, V) with last=False.

        A separator at the very beginning stands for `decoder_start_token_id`.
        """
        padded, counts = pad_step(ids, state.lengths, self.config.max_position_embeddings, self.separator_id,
                                  self.config.decoder_start_token_id)
        hidden = self._leave(self.decoder, self.decoder.extend(self.shared(padded).to(self.compute_dtype), state))
        state.cache.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
        return score_step(hidden, counts, last, self.logits)

    def log_probs(self, ids: Sequence[int], source: Features | None = None) -> LogProbs:
        """Score what is written after `decoder_start_token_id`: (T,). Raises ValueError when it is longer than the model writes."""
        state = self.start(1, source)
        if not ids:
            return np.zeros(0, dtype=np.float32)
        scores = self.step([[self.config.decoder_start_token_id, *ids[:-1]]], state, last=False)[0]
        out: LogProbs = scores[np.arange(len(ids)), np.asarray(ids)]
        return out
