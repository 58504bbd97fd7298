"""Recurrent language models: the Elman network, the LSTM and the GRU, one file told apart by `model_type`.

A layer reads one token at a time and hands a state of fixed size to the next: no context length, constant memory per token.
Elman, "Finding structure in time" (1990); Hochreiter & Schmidhuber, "Long short-term memory" (1997), with the forget gate of
Gers et al. (2000); Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014). Weights have the names, order
and formulas of torch.nn.RNN, LSTM and GRU. Trained by truncated back-propagation with the state carried over (`Streams`).

    model = Recurrent(RecurrentConfig("lstm", vocab_size=512, hidden_size=64, num_hidden_layers=1), seed=0)
    state = model.start()
    model.step([[1, 2, 3]], state)      # (1, 512) natural log-probabilities of what follows

B rows · T tokens · C embedding size · H hidden size · L layers · V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.models.kernels import IGNORED, linear_cross_entropy
from myna.models.protocol import Hidden, Ids, LogProbs
from myna.models.recurrent_state import RecurrentState, States
from myna.models.scan import GATES, scan
from myna.models.steps import check_step, score_step

Carry = tuple[Tensor, ...] | None

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of a layer in one direction, as torch.nn names them
_PIECE = 2048  # ids of a long document scored by one row; pieces are scored side by side
_WARM_UP = 512  # ids before a piece that its row reads first: what an id further back changes is given in docs/families/recurrent.md
_ROWS = 32  # pieces side by side: products of fewer rows are bound by reading the weights
_EMBEDDING_STD = 0.1  # of a tied table: large enough to be read as input, small enough that the first loss is near ln V
_FORGET_BIAS = 1.0  # Jozefowicz et al. 2015, section 3.2: a new cell should remember


@dataclass(frozen=True)
class RecurrentConfig:
    """The shape of a recurrent model, in the words of Hugging Face's config.json."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    embedding_size: int = 0
    dropout: float = 0.0
    bidirectional: bool = False
    tie_word_embeddings: bool = True
    eos_token_id: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding_size", self.embedding_size or self.hidden_size)
        if self.model_type not in GATES:
            raise ValueError(f"model_type is {self.model_type!r}, not one of {', '.join(GATES)}")
        if self.tie_word_embeddings and self.embedding_size != self.outputs:
            raise ValueError(f"a table of {self.embedding_size} columns cannot also score outputs of {self.outputs}")

    @property
    def directions(self) -> int:
        """1, or 2 where every layer also reads from the end (no language model then)."""
        return 2 if self.bidirectional else 1

    @property
    def outputs(self) -> int:
        """Width of what `encode` returns."""
        return self.directions * self.hidden_size

    def sizes(self) -> list[tuple[str, int]]:
        """Return (suffix of its parameters' names, width of its input) of every layer and direction, in the order they run."""
        return [(f"l{layer}{way}", self.outputs if layer else self.embedding_size)
                for layer in range(self.num_hidden_layers) for way in ("", "_reverse")[: self.directions]]

    def count_parameters(self) -> int:
        """Count every weight, embeddings included."""
        rows = GATES[self.model_type] * self.hidden_size
        layers = sum(rows * (width + self.hidden_size + 2) for _, width in self.sizes())
        return layers + self.vocab_size * (self.embedding_size + (0 if self.tie_word_embeddings else self.outputs))

    def products_per_token(self) -> int:
        """Count the multiplications of a forward pass over one token, the head's included."""
        rows = GATES[self.model_type] * self.hidden_size
        return sum(rows * (width + self.hidden_size) for _, width in self.sizes()) + self.vocab_size * self.outputs


class Recurrent(nn.Module):
    """A language model (`LanguageModel`) that the training loop can train (`Trainable`), and a body for other heads (`encode`)."""

    def __init__(self, config: RecurrentConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32
        rows = GATES[config.model_type] * config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        for suffix, width in config.sizes():
            shapes = ((rows, width), (rows, config.hidden_size), (rows,), (rows,))
            for name, shape in zip(PARTS, shapes, strict=True):
                self.register_parameter(f"{name}_{suffix}", nn.Parameter(torch.zeros(shape)))
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.outputs, config.vocab_size, bias=False)
        self._initialize(seed)

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        tied = self.lm_head is None
        for name, parameter in self.named_parameters():
            if name == "embed_tokens.weight":
                nn.init.normal_(parameter, std=_EMBEDDING_STD if tied else 1.0, generator=generator)
            elif name.startswith("weight_hh"):  # orthogonal, so that a state's size lasts over many steps (Saxe et al. 2014)
                for gate in parameter.data.chunk(GATES[self.config.model_type]):
                    nn.init.orthogonal_(gate, generator=generator)
            elif name.startswith("weight_ih"):  # gates of variance about 1 whatever the size of the inputs
                scale = _EMBEDDING_STD if tied and name.startswith("weight_ih_l0") else 1.0
                nn.init.normal_(parameter, std=1 / (scale * parameter.shape[1] ** 0.5), generator=generator)
            elif name.startswith("bias_ih") and self.config.model_type == "lstm":
                parameter.data.chunk(4)[1].fill_(_FORGET_BIAS)
            elif name == "lm_head.weight":
                nn.init.zeros_(parameter)

    # ---- layers ----

    def _scan(self, suffix: str, x: Tensor, state: States) -> tuple[Tensor, States]:
        """Run one layer in one direction over x (T, B, width) from `state` (B, H)."""
        ih, hh, bias_ih, bias_hh = (self.get_parameter(f"{name}_{suffix}") for name in PARTS)
        apart = self.config.model_type == "gru"  # whose n gate multiplies b_hh by r
        shift = bias_ih if apart else bias_ih + bias_hh
        inputs = torch.addmm(shift.to(x.dtype), x.flatten(0, 1), ih.to(x.dtype).T).view(*x.shape[:2], -1)
        return scan(self.config.model_type, inputs, hh, bias_hh if apart else None, state)

    def _embed(self, ids: Tensor) -> Tensor:
        return self._drop(F.embedding(ids, self.embed_tokens.weight).to(self.compute_dtype))

    def _drop(self, x: Tensor) -> Tensor:
        """Drop out while training. A look at the validation text in between takes no gradient, so it drops nothing."""
        return F.dropout(x, self.config.dropout, self.training and torch.is_grad_enabled())

    def _run(self, ids: Tensor, carry: States) -> tuple[Tensor, list[States]]:
        """Run all layers over ids (T, B) from `carry` (B, L, H); returns hidden (T, B, H) and all states of each layer (T, B, H).

        Dropout is on what goes up, never on what goes to the next step (Zaremba et al. 2014).
        """
        x = self._embed(ids)
        kept: list[States] = []
        for layer in range(self.config.num_hidden_layers):
            x, states = self._scan(f"l{layer}", x, tuple(part[:, layer] for part in carry))
            x = self._drop(x)
            kept.append(states)
        return x, kept

    def zero_state(self, rows: int) -> States:
        """Return the state of rows that have seen nothing: (h,), of an lstm (h, c), (B, L, H) each."""
        config = self.config
        zeros = torch.zeros(rows, config.num_hidden_layers, config.hidden_size)
        return (zeros, zeros) if config.model_type == "lstm" else (zeros,)

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the last layer's hidden states (B, T, H), or (B, T, 2 H) in both directions, zero where mask (B, T) is.

        Padding comes after a row's ids and changes nothing before it.
        """
        B, T = ids.shape
        mask = torch.ones_like(ids) if mask is None else mask
        lengths, places = mask.long().sum(1), torch.arange(T)[:, None]
        # a row's ids from the last to the first, its padding where it was: (T, B), its own inverse
        turn = torch.where(places < lengths, lengths - 1 - places, places)[..., None]
        x, zeros = self._embed(ids.T), tuple(part[:, 0] for part in self.zero_state(B))
        for layer in range(self.config.num_hidden_layers):
            out, _ = self._scan(f"l{layer}", x, zeros)
            if self.config.bidirectional:
                back, _ = self._scan(f"l{layer}_reverse", x.gather(0, turn.expand_as(x)), zeros)
                out = torch.cat((out, back.gather(0, turn.expand_as(back))), -1)
            x = self._drop(out)
        return (x * mask.T[..., None]).transpose(0, 1)

    # ---- training ----

    def head(self) -> Tensor:
        """Return the matrix that scores hidden states, (V, H)."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def table_names(self) -> set[str]:
        """Name the parameters that are looked up by id or score ids."""
        return {"embed_tokens.weight"} | (set() if self.lm_head is None else {"lm_head.weight"})

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the positions that have an id to predict."""
        return {"next_token": int((batch["labels"] != IGNORED).sum())}

    def loss(self, batch: Mapping[str, Tensor], carry: Carry = None) -> tuple[dict[str, tuple[Tensor, float]], Carry]:
        """Next-token cross-entropy of rows that go on where `carry` (rows first) left off; returns it and the detached new carry.

        A row of which the batch says `fresh` (B,) starts from nothing instead.
        """
        state = carry or self.zero_state(len(batch["input_ids"]))
        if "fresh" in batch:
            state = tuple(part * (1 - batch["fresh"])[:, None, None] for part in state)
        hidden, states = self._run(batch["input_ids"].T, state)
        total = linear_cross_entropy(hidden.flatten(0, 1), self.head(), batch["labels"].T.flatten())
        return {"next_token": (total, 1.0)}, tuple(part.detach() for part in _last(states))

    # ---- inference ----

    def start(self, rows: int = 1, source: None = None) -> RecurrentState:
        """Return the state of `rows` rows with nothing seen."""
        return RecurrentState(self.zero_state(rows), self._replay)

    def _replay(self, ids: Sequence[int]) -> States:
        """Return the state, (L, H) each, after `ids` from the start."""
        with torch.inference_mode():
            _, states = self._run(torch.tensor(list(ids))[:, None], self.zero_state(1))
        return tuple(part[0] for part in _last(states))

    @torch.inference_mode()
    def step(self, ids: Ids, state: RecurrentState, last: bool = True) -> LogProbs:
        """Append ids, rows of any lengths, and return natural log-probabilities: (B, V), or (B, T, V) with last=False."""
        hidden, counts = self._take(ids, state)
        return score_step(hidden, counts, last, self._logits)

    @torch.inference_mode()
    def step_hidden(self, ids: Ids, state: RecurrentState) -> tuple[LogProbs, Hidden]:
        """Append ids as `step` does; returns log-probabilities (B, V) and the last layer's states (B, T, C)."""
        hidden, counts = self._take(ids, state)
        return score_step(hidden, counts, True, self._logits), hidden.float().numpy()

    def _take(self, ids: Ids, state: RecurrentState) -> tuple[Tensor, list[int]]:
        """Append ids to the state; returns what the head reads, (B, T, C), and how many ids each row took."""
        counts = check_step(ids, state.lengths)
        rows = [torch.as_tensor(np.asarray(row, dtype=np.int64)) for row in ids]
        hidden, states = self._run(nn.utils.rnn.pad_sequence(rows), state.carry)  # (T, B, H)
        state.extend([row.tolist() for row in rows], tuple(torch.stack(parts, 2).float() for parts in zip(*states, strict=True)))
        return hidden.transpose(0, 1), counts

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.head().to(hidden.dtype)).float()

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], source: None = None) -> LogProbs:
        """Score one document after the separator: (T,).

        A document longer than a piece is scored in pieces side by side, each of which first reads the 512 ids before it: one row
        alone would take one product of a vector after the other, about ten times as long.
        """
        stream = torch.as_tensor(np.concatenate(([self.separator_id], np.asarray(ids, dtype=np.int64))))
        scores = np.empty(len(ids), dtype=np.float32)
        starts = list(range(0, len(ids), _PIECE))
        for first in range(0, len(starts), _ROWS):
            group = starts[first : first + _ROWS]
            read = [stream[max(0, start - _WARM_UP) : start + _PIECE] for start in group]
            carry, padded = self.zero_state(len(group)), nn.utils.rnn.pad_sequence(read)  # (T, B)
            skip = [min(start, _WARM_UP) for start in group]  # ids of a row that are only read
            for at in range(0, len(padded), _WARM_UP):  # a part of the way at a time, so that memory is bounded
                ids_here = padded[at : at + _WARM_UP]
                hidden, states = self._run(ids_here, carry)
                carry = _last(states)
                for row, (start, skipped) in enumerate(zip(group, skip, strict=True)):
                    low, high = max(at, skipped), min(at + len(ids_here), len(read[row]), len(ids) - start + skipped)
                    if low < high:
                        targets = stream[start - skipped + low + 1 : start - skipped + high + 1]
                        picked = self._logits(hidden[low - at : high - at, row]).log_softmax(-1).gather(1, targets[:, None])
                        scores[start - skipped + low : start - skipped + high] = picked[:, 0].numpy()
        return scores


def _last(states: list[States]) -> States:
    """Put the layers' states after the last step side by side, (T, B, H) each to (B, L, H)."""
    return tuple(torch.stack([part[-1] for part in parts], 1).float() for parts in zip(*states, strict=True))
