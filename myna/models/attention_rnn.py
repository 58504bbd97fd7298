"""The recurrent encoder-decoder with attention: a network reads a source both ways, another writes and, before each word, looks back.

Bahdanau, Cho & Bengio, "Neural machine translation by jointly learning to align and translate" (2015), section 3 and appendix A:
a bidirectional GRU, additive attention, a GRU that takes the attended source with the word before. What scores the words is one
layer of tanh (Luong et al. 2015, equation 5) in the place of their maxout. Deeper ones add GRU layers on both sides.

    model = AttentionRnn(AttentionRnnConfig(vocab_size=512, hidden_size=64), seed=0)
    state = model.start(source=[[5, 6, 7]])
    model.step([[model.separator_id]], state)      # (1, 512) natural log-probabilities of the target's first id

B rows · S source ids · T target ids · C embedding size · H hidden size · A attention size · L layers · V vocabulary
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from myna.models.directory import Place, choice, fill_model, number, separator, whole
from myna.models.kernels import linear_cross_entropy
from myna.models.protocol import Ids, LogProbs
from myna.models.source import check_source, cut_alike, drop, pad_step, score_in_windows
from myna.models.steps import pad_rows, score_step

_EMBEDDING_STD = 0.1  # of a tied table: large enough to be read as input, small enough that the first loss is near ln V
_GROWTH = 64  # steps for which room is made at a time


@dataclass(frozen=True)
class AttentionRnnConfig:
    """The shape of a recurrent encoder-decoder."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int = 1
    "GRU layers of each side."
    embedding_size: int = 0
    attention_size: int = 0
    max_position_embeddings: int = 128
    "Ids of a source, and of a target."
    tie_word_embeddings: bool = True
    dropout: float = 0.0
    eos_token_id: int = 0
    model_type: str = "attention_rnn"

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding_size", self.embedding_size or self.hidden_size)
        object.__setattr__(self, "attention_size", self.attention_size or self.hidden_size)

    def count_parameters(self) -> int:
        """Count every weight, embeddings included."""
        C, H, A, L = self.embedding_size, self.hidden_size, self.attention_size, self.num_hidden_layers
        encoder = 6 * H * (C + H + 2) + (L - 1) * 6 * H * (2 * H + H + 2)
        decoder = 3 * H * (C + 2 * H + H + 2) + (L - 1) * 3 * H * (H + H + 2)
        between = L * H * (H + 1) + A * (H + 2 * H + 1) + C * (H + 2 * H + C + 1)
        return encoder + decoder + between + self.vocab_size * C * (1 if self.tie_word_embeddings else 2)

    def products_per_token(self) -> int:
        """Count the multiplications for one target id, the head's and those of one source id beside it included."""
        C, H, A, L = self.embedding_size, self.hidden_size, self.attention_size, self.num_hidden_layers
        encoder = 6 * H * (C + H) + (L - 1) * 18 * H * H + 2 * H * A
        decoder = 3 * H * (C + 3 * H) + (L - 1) * 6 * H * H + A * H + self.max_position_embeddings * (A + 2 * H)
        return encoder + decoder + C * (3 * H + C) + self.vocab_size * C


class Memory(NamedTuple):
    """The source as the decoder sees it."""

    values: Tensor  # (B, S, 2 H)
    keys: Tensor  # (B, S, A)
    mask: Tensor  # (B, S) true at ids


class AttentionState:
    """The source of each row and every state so far, so that a row can be cut back. A `State`."""

    def __init__(self, memory: Memory, first: Tensor) -> None:
        self.memory, self.history, self.lengths = memory, first[:, None], [0] * len(first)  # history (B, slots, L, H)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b's target back to `lengths[b]` ids."""
        if any(new > old or new < 0 for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot cut rows of {self.lengths} ids to {list(lengths)}")
        self.lengths = list(lengths)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, with their sources, in this order; repeats are allowed."""
        index = torch.tensor(list(rows), dtype=torch.int64)
        self.memory = Memory(*(part[index] for part in self.memory))
        self.history = self.history[index]
        self.lengths = [self.lengths[row] for row in rows]

    def append(self, states: Tensor, counts: Sequence[int]) -> None:
        """Add states (B, T, L, H), of which row b uses the first `counts[b]`."""
        missing = max(self.lengths) + 1 + states.shape[1] - self.history.shape[1]
        if missing > 0:
            self.history = F.pad(self.history, (0, 0, 0, 0, 0, -(-missing // _GROWTH) * _GROWTH))
        for row, (length, count) in enumerate(zip(self.lengths, counts, strict=True)):
            self.history[row, length + 1 : length + 1 + count] = states[row, :count]
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def last(self) -> Tensor:
        """Return each row's present state, (B, L, H)."""
        return self.history[torch.arange(len(self.lengths)), torch.tensor(self.lengths)]


class AttentionRnn(nn.Module):
    """A language model given a source (`LanguageModel`) that the training loop can train (`Trainable`)."""

    def __init__(self, config: AttentionRnnConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.max_position_embeddings
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32  # of the head's product; those of the GRUs are too small to gain from another
        C, H, A, L = config.embedding_size, config.hidden_size, config.attention_size, config.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, C)
        self.encoder = nn.GRU(C, H, L, batch_first=True, bidirectional=True)
        self.first_state = nn.Linear(H, L * H)
        self.attention_query = nn.Linear(H, A, bias=False)
        self.attention_key = nn.Linear(2 * H, A, bias=False)
        self.attention_score = nn.Parameter(torch.zeros(A))
        self.decoder = nn.ModuleList(nn.GRUCell(C + 2 * H if layer == 0 else H, H) for layer in range(L))
        self.readout = nn.Linear(H + 2 * H + C, C)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(C, config.vocab_size, bias=False)
        self._initialize(seed)

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name == "embed_tokens.weight":
                nn.init.normal_(parameter, std=_EMBEDDING_STD if self.lm_head is None else 1.0, generator=generator)
            elif "bias" in name or name == "lm_head.weight":
                nn.init.zeros_(parameter)
            else:  # uniform with variance 1 / fan-in (LeCun et al. 1998)
                bound = (3 / parameter.shape[-1]) ** 0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def table_names(self) -> set[str]:
        """Name the parameters that are looked up by id or score ids."""
        return {"embed_tokens.weight"} if self.lm_head is None else {"embed_tokens.weight", "lm_head.weight"}

    def encode(self, ids: Tensor, mask: Tensor | None) -> tuple[Memory, Tensor]:
        """Read sources (B, S), `mask` true at their ids; returns them and the decoder's first state, (B, L, H)."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        packed = pack_padded_sequence(self._embed(ids), mask.sum(1), batch_first=True, enforce_sorted=False)  # padding is not read
        values, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=ids.shape[1])
        backwards = values[:, 0, self.config.hidden_size :]  # has read all of the source when it is at its first id
        first = self.first_state(backwards).tanh().unflatten(1, (self.config.num_hidden_layers, -1))
        return Memory(values, self.attention_key(values), mask), first

    def decode(self, ids: Tensor, memory: Memory, state: Tensor) -> tuple[Tensor, Tensor]:
        """Write targets: ids (B, T) from a state (B, L, H); returns what the head reads, (B, T, C), and every state, (B, T, L, H)."""
        embedded = self._embed(ids)  # (B, T, C)
        hidden_pads = torch.zeros(memory.mask.shape).masked_fill_(~memory.mask, -math.inf)
        layers = list(state.unbind(1))
        states, contexts = [], []
        for t in range(ids.shape[1]):
            scores = (memory.keys + self.attention_query(layers[-1])[:, None]).tanh() @ self.attention_score  # (B, S)
            context = torch.bmm((scores + hidden_pads).softmax(-1)[:, None], memory.values)[:, 0]  # (B, 2 H)
            x = torch.cat((embedded[:, t], context), dim=1)
            for layer, cell in enumerate(self.decoder):
                x = layers[layer] = cell(x, layers[layer])
            states.append(torch.stack(layers, 1))
            contexts.append(context)
        seen = torch.stack(states, 1)
        read = torch.cat((seen[:, :, -1], torch.stack(contexts, 1), embedded), dim=-1)
        return drop(self.readout(read).tanh(), self.config.dropout, self).to(self.compute_dtype), seen

    def _embed(self, ids: Tensor) -> Tensor:
        return drop(F.embedding(ids, self.embed_tokens.weight), self.config.dropout, self)

    def head(self) -> Tensor:
        """Return the matrix that scores hidden states, (V, C)."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id of the vocabulary: (..., C) to (..., V), float32."""
        return F.linear(hidden, self.head().to(hidden.dtype)).float()

    # ---- training ----

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the target ids that are predicted."""
        return {"target_token": int((batch["labels"] != -100).sum())}

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy of the target's ids in nats, summed; input_ids, attention_mask (B, S), decoder_input_ids, labels (B, T)."""
        total = torch.zeros(())
        for ids, mask, inputs, labels in cut_alike(batch):
            hidden, _ = self.decode(inputs, *self.encode(ids, mask))
            wanted = labels != -100
            total = total + linear_cross_entropy(hidden[wanted], self.head(), labels[wanted])
        return {"target_token": (total, 1.0)}, carry

    # ---- inference ----

    @torch.inference_mode()
    def start(self, rows: int = 1, source: Sequence[Sequence[int]] | None = None) -> AttentionState:
        """Read a source for each row (None or empty: the separator alone) and return a state with nothing written."""
        return AttentionState(*self.encode(*pad_rows(check_source(source, rows, self.separator_id, self.config.max_position_embeddings))))

    @torch.inference_mode()
    def step(self, ids: Ids, state: AttentionState, last: bool = True) -> LogProbs:
        """Append target ids and return natural log-probabilities: (B, V), or (B, T, V) with last=False."""
        padded, counts = pad_step(ids, state.lengths, self.config.max_position_embeddings, self.separator_id, self.separator_id)
        hidden, states = self.decode(padded, state.memory, state.last())
        state.append(states, counts)
        return score_step(hidden, counts, last, self.logits)

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], source: Sequence[int] | None = None) -> LogProbs:
        """Score one document: (T,) natural log-probabilities, in windows as `EncoderDecoder.log_probs` does."""
        def score(sources: list[list[int]], targets: list[list[int]]) -> Iterator[Tensor]:
            inputs, _ = pad_rows([[self.separator_id, *target[:-1]] for target in targets])
            hidden, _ = self.decode(inputs, *self.encode(*pad_rows(sources)))
            for row, target in enumerate(targets):
                yield -F.cross_entropy(self.logits(hidden[row, : len(target)]), torch.tensor(target), reduction="none")

        return score_in_windows(ids, source, self.separator_id, self.config.max_position_embeddings, score)


def open_attention_rnn(folder: Path, config: dict[str, Any]) -> AttentionRnn:
    """Open a directory whose config.json was read. Raises UserError, one line, when it is damaged."""
    path = folder / "config.json"
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "embedding_size", "attention_size", "max_position_embeddings")
    sizes: dict[str, Any] = {name: whole(path, config, name) for name in names}
    shape = AttentionRnnConfig(**sizes, tie_word_embeddings=choice(path, config, "tie_word_embeddings", True, False),
                               dropout=number(path, config, "dropout", 0.0, 0.99, 0.0),
                               eos_token_id=separator(path, config, sizes["vocab_size"]))
    return fill_model(AttentionRnn, shape, folder, attention_rnn_places)


def write_attention_rnn_config(config: AttentionRnnConfig) -> dict[str, Any]:
    """Return the config.json; `transformers` has no such model."""
    return {"architectures": ["AttentionRnn"], **dataclasses.asdict(config), "is_encoder_decoder": True}


def attention_rnn_places(config: AttentionRnnConfig) -> dict[str, Place]:
    """Name every parameter's place in the file: its own name."""
    gru = [f"encoder.{part}_l{layer}{way}" for layer in range(config.num_hidden_layers) for way in ("", "_reverse")
           for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    cells = [f"decoder.{layer}.{part}" for layer in range(config.num_hidden_layers)
             for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    names = ["embed_tokens.weight", *gru, "first_state.weight", "first_state.bias", "attention_query.weight", "attention_key.weight",
             "attention_score", *cells, "readout.weight", "readout.bias", *([] if config.tie_word_embeddings else ["lm_head.weight"])]
    return {name: Place(name) for name in names}
