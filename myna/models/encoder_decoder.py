"""The Transformer encoder-decoder: one stack reads a source as a whole, another writes a target and looks at the source as it goes.

Vaswani et al. 2017, "Attention Is All You Need". Told apart by values: T5 (Raffel et al. 2020, section 2.1: a bias for each
distance instead of positions, norms without centring before each sublayer, queries not scaled), Marian (sinusoidal positions,
LayerNorm after each sublayer) and BART (learned positions). Output projections start at zero, as in `decoder.py`.

    model = EncoderDecoder(EncoderDecoderConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=2), seed=0)
    state = model.start(source=[[5, 6, 7]])
    model.step([[model.separator_id]], state)      # (1, 512) natural log-probabilities of the target's first id

B rows · S source ids · T target ids · C hidden_size · H heads · D head_dim · F intermediate_size · V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.cache import Cache
from myna.models.encoder_decoder_layers import BART_OFFSET, Linear, Stack, sinusoid_table
from myna.models.kernels import linear_cross_entropy
from myna.models.protocol import Ids, LogProbs
from myna.models.source import check_source, cut_alike, drop, pad_step, score_in_windows
from myna.models.steps import pad_rows, score_step


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """The shape of an encoder-decoder; T5 v1.1 unless told otherwise. Raises ValueError when it does not go together."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_decoder_layers: int = 0
    intermediate_size: int = 0
    head_dim: int = 0
    max_position_embeddings: int = 256
    "Ids of a source, and of a target."
    hidden_act: str = ""
    gated: bool | None = None
    "An MLP of three matrices, act(gate(x)) * up(x); none: as the model_type has it."
    layer_norm_eps: float = 0.0
    tie_word_embeddings: bool | None = None
    scale_decoder_outputs: bool | None = None
    "Divide the last hidden state by the root of hidden_size (T5 v1.0)."
    scale_embedding: bool = False
    "Multiply embeddings by the root of hidden_size."
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout: float = 0.0
    eos_token_id: int = 0
    decoder_start_token_id: int = -1
    "What a target is written after; none given: the separator, as BART has it."
    model_type: str = "t5"
    num_mel_bins: int = 0
    "Of a model that hears (Whisper): bands of a sound's spectrogram."
    max_source_positions: int = 0
    "Of a model that hears: positions of a sound, each two columns of its spectrogram."

    def __post_init__(self) -> None:
        t5, C = self.model_type == "t5", self.hidden_size
        gated = t5 if self.gated is None else self.gated
        tied = not t5 if self.tie_word_embeddings is None else self.tie_word_embeddings
        derived = {  # a gated MLP has three matrices: 8/3 C gives them the count of the usual two of 4 C (Shazeer 2020)
            "num_decoder_layers": self.num_decoder_layers or self.num_hidden_layers, "gated": gated, "tie_word_embeddings": tied,
            "intermediate_size": self.intermediate_size or (64 * max(1, round(C * 8 / 3 / 64)) if gated else 4 * C),
            "head_dim": self.head_dim or C // self.num_attention_heads, "hidden_act": self.hidden_act or ("gelu_new" if t5 else "gelu"),
            "layer_norm_eps": self.layer_norm_eps or (1e-6 if t5 else 1e-5),
            "scale_decoder_outputs": t5 and tied if self.scale_decoder_outputs is None else self.scale_decoder_outputs,
            "decoder_start_token_id": self.eos_token_id if self.decoder_start_token_id < 0 else self.decoder_start_token_id}
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        if not t5 and (self.num_attention_heads * self.head_dim != C or C % 2):
            raise ValueError(f"hidden_size is {C}, not {self.num_attention_heads} heads of an even width")
        if not t5 and (gated or not tied):  # directories of neither kind could hold it
            raise ValueError(f"a {self.model_type} is tied and not gated")

    def count_parameters(self) -> int:
        """Count every weight, embeddings included."""
        t5, C, inner = self.model_type == "t5", self.hidden_size, self.num_attention_heads * self.head_dim
        norm = C if t5 else 2 * C
        attention = 4 * C * inner + (0 if t5 else (2 if self.model_type == "whisper" else 3) * inner + C) + norm
        mlp = (3 if self.gated else 2) * C * self.intermediate_size + (0 if t5 else self.intermediate_size + C) + norm
        layers = self.num_hidden_layers * (attention + mlp) + self.num_decoder_layers * (2 * attention + mlp)
        tables = self.vocab_size * C * (1 if self.tie_word_embeddings else 2)
        beside = {"t5": 2 * (self.relative_attention_num_buckets * self.num_attention_heads + C), "marian": self.vocab_size,
                  "bart": self.vocab_size + 2 * ((self.max_position_embeddings + BART_OFFSET) * C + norm),
                  "whisper": (3 * (self.num_mel_bins + C) + 2 + self.max_source_positions + self.max_position_embeddings) * C + 2 * norm}
        return layers + tables + beside[self.model_type]

    def products_per_token(self) -> int:
        """Count the multiplications for one target id, the head's and those of one source id beside it included."""
        C, inner, L = self.hidden_size, self.num_attention_heads * self.head_dim, self.max_position_embeddings
        attention, mlp = 4 * C * inner + 2 * L * inner, (3 if self.gated else 2) * C * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.num_decoder_layers * (2 * attention + mlp) + self.vocab_size * C


class SourceState:
    """The source as the decoder's layers see it, and the cache of the target so far. A `State`."""

    def __init__(self, cache: Cache, source: list[tuple[Tensor, Tensor]], source_bias: Tensor | None) -> None:
        self.cache, self.source, self.source_bias = cache, source, source_bias  # keys and values (B, H, S, D); bias (B, 1, 1, S)

    @property
    def lengths(self) -> list[int]:
        """How many target ids each row has taken."""
        return self.cache.lengths

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b's target back to `lengths[b]` ids."""
        self.cache.truncate(lengths)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, with their sources, in this order; repeats are allowed."""
        self.cache.select(rows)
        index = torch.tensor(list(rows), dtype=torch.int64)
        self.source = [(keys[index], values[index]) for keys, values in self.source]
        self.source_bias = None if self.source_bias is None else self.source_bias[index]


class EncoderDecoder(nn.Module):
    """A language model given a source (`LanguageModel`) that the training loop can train (`Trainable`)."""

    def __init__(self, config: EncoderDecoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.max_position_embeddings
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32
        C, V = config.hidden_size, config.vocab_size
        self.shared = nn.Embedding(V, C)
        self.encoder = Stack(config, config.num_hidden_layers, crossed=False)
        self.decoder = Stack(config, config.num_decoder_layers, crossed=True)
        self.lm_head = None if config.tie_word_embeddings else Linear(C, V, bias=False)
        self.final_logits_bias = None if config.model_type == "t5" else nn.Parameter(torch.zeros(1, V))
        positions = config.max_position_embeddings if config.model_type == "marian" else 0
        self.sinusoids = nn.Buffer(sinusoid_table(positions, C), persistent=False)
        self._initialize(seed)

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight", "relative_bias.weight", "proj.bias")):
                nn.init.zeros_(parameter)
            elif name.endswith("proj.weight"):  # uniform with variance 1 / fan-in (LeCun et al. 1998)
                bound = (3 / parameter.shape[1]) ** 0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif name == "shared.weight":  # tied: the head wants small rows, or the first loss is far above ln V
                untied = 1.0 if not self.config.scale_embedding else self.config.hidden_size**-0.5
                nn.init.normal_(parameter, std=0.02 if self.lm_head is None else untied, generator=generator)
            elif name.endswith("positions.weight"):
                nn.init.normal_(parameter, std=0.02, generator=generator)

    def table_names(self) -> set[str]:
        """Name the parameters that are looked up by id, position or distance, or score ids."""
        ends = ("shared.weight", "lm_head.weight", "final_logits_bias", "relative_bias.weight", "positions.weight")
        return {name for name, _ in self.named_parameters() if name.endswith(ends)}

    def encode(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read sources (B, S), `mask` true at their ids; returns hidden states (B, S, C) and the bias that hides padding, (B, 1, 1, S)."""
        hidden_pads = None if mask is None else torch.zeros(mask.shape).masked_fill_(~mask, -math.inf)[:, None, None]
        hidden_pads = None if hidden_pads is None else hidden_pads.to(self.compute_dtype)
        x = self.encoder.enter(self._embed(ids), torch.arange(ids.shape[1]), self.sinusoids)
        bias = self.encoder.even_bias(ids.shape[1])
        bias = None if bias is None else bias.to(x.dtype)
        bias = hidden_pads if bias is None else bias if hidden_pads is None else bias + hidden_pads
        for layer in self.encoder.layers:
            x = layer(x, bias)
        return self._leave(self.encoder, x), hidden_pads

    def decode(self, ids: Tensor, source: Tensor, source_bias: Tensor | None) -> Tensor:
        """Write targets: ids (B, T) from position 0 with the encoder's states in view; returns what the head reads, (B, T, C)."""
        x = self.decoder.enter(self._embed(ids), torch.arange(ids.shape[1]), self.sinusoids)
        bias = self.decoder.even_bias(ids.shape[1])
        bias = None if bias is None else bias.to(x.dtype)
        for layer in self.decoder.layers:
            x = layer(x, bias, None, layer.cross_attn.keys_values(source), source_bias)  # type: ignore[union-attr,operator]
        return self._leave(self.decoder, x)

    def _embed(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.shared.weight)
        return (x * self.config.hidden_size**0.5 if self.config.scale_embedding else x).to(self.compute_dtype)

    def _leave(self, stack: Stack, x: Tensor) -> Tensor:
        x = x if stack.norm is None else drop(stack.norm(x), self.config.dropout, self)
        return x * self.config.hidden_size**-0.5 if stack.crossed and self.config.scale_decoder_outputs else x

    def head(self) -> Tensor:
        """Return the matrix that scores hidden states, (V, C)."""
        return self.shared.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id of the vocabulary: (..., C) to (..., V), float32."""
        out = F.linear(hidden, self.head().to(hidden.dtype)).float()
        return out if self.final_logits_bias is None else out + self.final_logits_bias[0]

    # ---- training ----

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the target ids that are predicted."""
        return {"target_token": int((batch["labels"] != -100).sum())}

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy of the target's ids in nats, summed; input_ids, attention_mask (B, S), decoder_input_ids, labels (B, T)."""
        total = torch.zeros(())
        for ids, mask, inputs, labels in cut_alike(batch):
            hidden = self.decode(inputs, *self.encode(ids, mask))
            wanted = labels != -100
            hidden, head = hidden[wanted], self.head()
            if self.final_logits_bias is not None:  # a column of ones brings the bias into the product
                hidden = torch.cat((hidden, hidden.new_ones(len(hidden), 1)), dim=1)
                head = torch.cat((head, self.final_logits_bias.T), dim=1)
            total = total + linear_cross_entropy(hidden, head, labels[wanted])
        return {"target_token": (total, 1.0)}, carry

    # ---- inference ----

    @torch.inference_mode()
    def start(self, rows: int = 1, source: Sequence[Sequence[int]] | None = None) -> SourceState:
        """Read a source for each row (None or empty: the separator alone) and return a state with nothing written."""
        c = self.config
        ids, mask = pad_rows(check_source(source, rows, self.separator_id, c.max_position_embeddings))
        hidden, bias = self.encode(ids, mask)
        assert bias is not None
        crossed = [layer.cross_attn.keys_values(hidden) for layer in self.decoder.layers]  # type: ignore[union-attr,operator]
        return SourceState(Cache(c.num_decoder_layers, rows, c.num_attention_heads, c.head_dim, self.compute_dtype), crossed, bias)

    @torch.inference_mode()
    def step(self, ids: Ids, state: SourceState, last: bool = True) -> LogProbs:
        """Append target ids and return natural log-probabilities: (B, V), or (B, T, V) with last=False.

        A separator at the very beginning stands for `decoder_start_token_id`.
        """
        padded, counts = pad_step(ids, state.lengths, self.config.max_position_embeddings, self.separator_id,
                                  self.config.decoder_start_token_id)
        hidden = self._extend(padded, state)
        state.cache.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
        return score_step(hidden, counts, last, self.logits)

    def _extend(self, ids: Tensor, state: SourceState) -> Tensor:
        """Run the decoder over new ids (B, T) with the cache's keys in view; returns what the head reads, (B, T, C)."""
        x = self.decoder.extend(self._embed(ids), state, self.sinusoids)
        return self._leave(self.decoder, x)

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], source: Sequence[int] | None = None) -> LogProbs:
        """Score one document: (T,) natural log-probabilities.

        In windows of `max_length` ids, half of one apart; the source of a window is the text before it, up to `max_length` ids with
        the separator that ends it. With a source given there is one window: raises ValueError when the document is longer.
        """
        def score(sources: list[list[int]], targets: list[list[int]]) -> Iterator[Tensor]:
            inputs, _ = pad_rows([[self.config.decoder_start_token_id, *target[:-1]] for target in targets])
            hidden = self.decode(inputs, *self.encode(*pad_rows(sources)))
            for row, target in enumerate(targets):
                yield -F.cross_entropy(self.logits(hidden[row, : len(target)]), torch.tensor(target), reduction="none")

        return score_in_windows(ids, source, self.separator_id, self.config.max_position_embeddings, score)
