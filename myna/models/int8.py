"""Decoders with int8 weights, for fast text on a CPU: a quarter of the memory to read per token, and no Python between layers.

`quantize_decoder` takes a finished `Decoder` of any style and returns an `Int8Decoder`, a `LanguageModel` that computes the same in
float32 from rounded matrices: each weight is a whole number from -127 to 127 times the scale of its block of 64, half a step off at
most. Gains of norms, biases and learned positions stay float32, and so do keys and values. The readable twin is `Decoder` itself, with
rounded weights: the tests hold one against the other. The loops are in int8_kernels.py.

Source: Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", section 2.1 (scales by block).

    model = quantize_decoder(Decoder(DecoderConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2)))
    model.step([[1, 2, 3]], model.start())      # (1, 512) natural log-probabilities of what follows

B rows · N new ids of all rows · L layers · K key-value heads · S slots of the cache · D head_dim · V vocabulary
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from myna import machine
from myna.console import say
from myna.errors import UserError
from myna.models.decoder import Decoder
from myna.models.int8_kernels import BLOCK, Gain, Layers, Matrix, Shape, decode, score
from myna.models.layers import Block, LayerNorm, RMSNorm, rotary_table
from myna.models.protocol import Hidden, Ids, LogProbs
from myna.models.steps import check_step

Array = npt.NDArray[Any]

_GROWTH = 256  # slots added to the cache at a time
_FIRST_TABLE = 1024  # positions whose rotations are made at once
_AT_ONCE = 128  # ids in one pass: enough to reuse each weight, and what lies between layers stays in the caches
_PATIENCE = 1.0  # seconds without a word
_ONE_AT_A_TIME = threading.Lock()  # two of numba's parallel calls at once end the process where it has no OpenMP


class Int8Cache:
    """Keys and values of every layer, (L, B, K, S, D) each, and the length of every row."""

    def __init__(self, layers: int, rows: int, key_value_heads: int, head_dim: int) -> None:
        self.keys = np.zeros((layers, rows, key_value_heads, 0, head_dim), np.float32)
        self.values = self.keys.copy()
        self.lengths = [0] * rows

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` positions."""
        if any(new > old or new < 0 for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot cut rows of {self.lengths} ids to {list(lengths)}")
        self.lengths = list(lengths)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; repeats are allowed."""
        index = np.asarray(rows, np.int64)
        self.keys, self.values = self.keys[:, index], self.values[:, index]
        self.lengths = [self.lengths[row] for row in rows]

    def reserve(self, slots: int) -> None:
        """Make room for `slots` positions in every row."""
        missing = slots - self.keys.shape[3]
        if missing > 0:
            more = ((0, 0), (0, 0), (0, 0), (0, -(-missing // _GROWTH) * _GROWTH), (0, 0))
            self.keys, self.values = np.pad(self.keys, more), np.pad(self.values, more)


class Int8Decoder:
    """A `LanguageModel` of int8 matrices; made by `quantize_decoder`."""

    def __init__(self, model: Decoder) -> None:
        config = model.config
        self.config = config
        self.vocab_size, self.separator_id, self.max_length = model.vocab_size, model.separator_id, model.max_length
        self._shape = Shape(config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
                            config.head_dim, config.style.positions == "rotary", config.style.gated, config.norm_eps)
        self.layers, self.head = _read_layers(model)
        launched: Any = numba.config
        self._threads = min(machine.usable_cores(), launched.NUMBA_NUM_THREADS)
        self._cos, self._sin = self._turn(min(_FIRST_TABLE, config.max_position_embeddings))

    def _turn(self, length: int) -> tuple[Array, Array]:
        config = self.config
        if not self._shape.rotary:
            return np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        cos, sin = rotary_table(length, config.head_dim, config.rope_theta, config.rope_scaling)
        return cos.contiguous().numpy(), sin.contiguous().numpy()

    def start(self, rows: int = 1, source: None = None) -> Int8Cache:
        """Return an empty key-value cache for `rows` rows."""
        config = self.config
        return Int8Cache(config.num_hidden_layers, rows, config.num_key_value_heads, config.head_dim)

    def step(self, ids: Ids, state: Int8Cache, last: bool = True) -> LogProbs:
        """Append ids, rows of any lengths, and return natural log-probabilities: (B, V), or (B, T, V) with last=False."""
        hidden, rows, places = self._take(ids, state)
        if last:
            return self._score(hidden[np.flatnonzero(np.diff(rows, append=-1))])
        out = np.zeros((len(ids), int(places.max()) + 1, self.vocab_size), np.float32)
        out[rows, places] = self._score(hidden)
        return out

    def step_hidden(self, ids: Ids, state: Int8Cache) -> tuple[LogProbs, Hidden]:
        """Append ids as `step` does; returns log-probabilities (B, V) and the last layer's states, its gain in them, (B, T, C)."""
        hidden, rows, places = self._take(ids, state)
        out = np.zeros((len(ids), int(places.max()) + 1, hidden.shape[1]), np.float32)
        out[rows, places] = hidden
        return self._score(hidden[np.flatnonzero(np.diff(rows, append=-1))]), out

    def _take(self, ids: Ids, state: Int8Cache) -> tuple[Array, Array, Array]:
        """Append ids to the state; returns hidden states (N, C), and of each its row and its place among the row's new ids."""
        counts = check_step(ids, state.lengths, self.max_length)
        rows = np.repeat(np.arange(len(counts)), counts)
        places = np.concatenate([np.arange(count) for count in counts])  # of each id in its row
        tokens = np.concatenate([np.asarray(row, np.int64) for row in ids])
        hidden = self._extend(tokens, rows, places + np.asarray(state.lengths)[rows], state)
        state.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
        return hidden, rows, places

    def log_probs(self, ids: Sequence[int], source: None = None) -> LogProbs:
        """Score one document after the separator: (T,). Long ones slide by half a context, so each id sees at least that much."""
        length, context = len(ids), self.config.max_position_embeddings
        stride = max(1, context // 2)
        stream = np.concatenate(([self.separator_id], np.asarray(ids, np.int64)))
        scores = np.empty(length, np.float32)
        # the first window scores all its ids, the later ones only those the window before did not reach
        for start in [0, *range(stride, length - context + stride, stride)] if length > context else [0]:
            width, new = min(context, length - start), 0 if start == 0 else context - stride
            state = self.start()
            state.reserve(width)
            for first in range(0, width, _AT_ONCE):
                places = np.arange(first, min(width, first + _AT_ONCE))
                hidden = self._extend(stream[start + places], np.zeros_like(places), places, state)
                wanted = places[places >= new]
                if len(wanted):
                    found = self._score(hidden[wanted - first])
                    scores[start + wanted] = found[np.arange(len(wanted)), stream[start + wanted + 1]]
        return scores

    def _extend(self, tokens: Array, rows: Array, positions: Array, state: Int8Cache) -> Array:
        """Run the layers over N ids at positions of rows; returns hidden states (N, C)."""
        if tokens.min(initial=0) < 0 or tokens.max(initial=0) >= self.vocab_size:  # the compiled code would read beyond the table
            raise IndexError(f"ids from {tokens.min()} to {tokens.max()} in a vocabulary of {self.vocab_size}")
        used = int(positions.max(initial=-1)) + 1
        state.reserve(used)
        if self._shape.rotary and len(self._cos) < used:
            self._cos, self._sin = self._turn(min(self.config.max_position_embeddings, 2 * used))
        pieces = [slice(at, at + _AT_ONCE) for at in range(0, len(tokens), _AT_ONCE)]
        found = [self._call(decode, self.layers, self._shape, tokens[piece], rows[piece], positions[piece], self._cos, self._sin,
                            state.keys, state.values) for piece in pieces]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _score(self, hidden: Array) -> LogProbs:
        out: LogProbs = self._call(score, self.head, hidden)
        return out

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call compiled code with as many threads as PyTorch may use."""
        with _ONE_AT_A_TIME:
            numba.set_num_threads(min(self._threads, torch.get_num_threads()))
            return function(*args)


def quantize_decoder(model: Decoder) -> Int8Decoder:
    """Round a decoder's matrices to int8; the model itself is left as it is. Compiles the loops at a process's first call."""
    made = Int8Decoder(model)
    told = threading.Timer(_PATIENCE, say, ["compiling the int8 decoder for this processor, which takes some seconds"])
    told.start()
    try:
        made.step([[made.separator_id]], made.start())
    finally:
        told.cancel()
    return made


def quantize(weight: Tensor) -> tuple[Array, Array]:
    """Round a matrix (R, C) to int8 by blocks of 64 columns: weights (R, C and zeros up to a multiple of 64) and scales (R, blocks).

    Raises UserError on weights that are infinite or no numbers: rounding would hide them.
    """
    padded = nn.functional.pad(weight.detach().float(), (0, -weight.shape[1] % BLOCK))
    blocks = padded.view(len(weight), -1, BLOCK)
    scales = blocks.abs().amax(-1) / 127
    if not bool(scales.isfinite().all()):
        raise UserError("a matrix with weights that are infinite or no numbers", "finite weights, to be rounded to int8",
                        "open the model in float32 to see what it gives")
    steps = torch.where(scales > 0, scales, 1.0)  # a block of zeros
    return (blocks / steps[..., None]).round_().to(torch.int8).view(padded.shape).numpy(), scales.numpy()


def _read_layers(model: Decoder) -> tuple[Layers, Matrix]:
    """Gather and round the matrices of each kind; the head is the table where they are tied."""
    blocks = [block for block in model.layers if isinstance(block, Block)]
    qkv = _stack([[block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj] for block in blocks])
    gates = [[part for part in (block.mlp.gate_proj, block.mlp.up_proj) if part is not None] for block in blocks]
    table = _stack([[model.embed_tokens]])
    positions = np.zeros((0, 0), np.float32) if model.embed_positions is None else model.embed_positions.weight.detach().numpy().copy()
    layers = Layers(table, positions, _norms([block.input_layernorm for block in blocks]), qkv,
                    _norms([block.self_attn.q_norm for block in blocks]).weight,
                    _norms([block.self_attn.k_norm for block in blocks]).weight,
                    _stack([[block.self_attn.o_proj] for block in blocks]),
                    _norms([block.post_attention_layernorm for block in blocks]), _stack(gates),
                    _stack([[block.mlp.down_proj] for block in blocks]), _norms([model.norm]))
    return layers, table if model.lm_head is None else _stack([[model.lm_head]])


def _stack(kinds: Sequence[Sequence[nn.Module]]) -> Matrix:
    """Round the matrices of one kind, those of a layer one above the other."""
    parts = [[quantize(part.weight) for part in layer] for layer in kinds]  # type: ignore[arg-type]
    biases = [np.concatenate([_bias(part) for part in layer]) for layer in kinds]
    weights, scales = (np.stack([np.concatenate([part[which] for part in layer]) for layer in parts]) for which in (0, 1))
    return Matrix(weights, scales, np.stack(biases))


def _bias(part: Any) -> Array:
    bias = getattr(part, "bias", None)
    return np.zeros(len(part.weight), np.float32) if bias is None else bias.detach().float().numpy()


def _norms(norms: Sequence[RMSNorm | LayerNorm | None]) -> Gain:
    """Stack the gains of one kind of norm, and the biases where it has them."""
    stacked = [np.stack([np.zeros(0, np.float32) if (value := getattr(norm, name, None)) is None else value.detach().float().numpy()
                         for norm in norms]) for name in ("weight", "bias")]
    return Gain(*stacked)
