"""The compiled half of int8 decoding: every product, norm, rotation and attention of a decoder over plain arrays.

A weight is an int8 times the float32 scale of its block of 64 columns. Products convert int8 to float32 in registers and add in
float32, so nothing but the weights is rounded; decoding one row is then bound by reading the weights once. `decode` runs all layers
and `score` the head with its log-softmax; with several new ids each weight is converted once for four of them.

`dot` is written in LLVM's own vector code, because its vectoriser does not find sums by blocks (10 times slower: docs/log.md). It holds
no instruction of one kind of processor: LLVM makes AVX-512, AVX2 or NEON of it.

Sources: blocks with a scale: Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", section 2.1, without the tree;
the layers: see layers.py.

    weights, scales = np.ones((1, 3, 64), np.int8), np.full((1, 3, 1), 0.5, np.float32)
    out = np.zeros((1, 3), np.float32)
    multiply(weights, scales, 0, np.ones((1, 64), np.float32), out)      # out is [[32, 32, 32]]

N new ids, of all rows · L layers · R rows of a matrix · C columns, a multiple of 64 · H heads · K key-value heads · D head_dim ·
S slots · V vocabulary
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.extending import intrinsic

from myna.machine import cache_directory

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])

BLOCK = 64  # columns that share a scale: bits per byte as with 32, half the scales to read (docs/log.md)
_LANES = 16  # float32 numbers of a 512-bit register, the widest there is; narrower processors use several
_TOGETHER = 4  # ids whose products share a converted weight: as fast as 8, and their inputs stay in the first cache
_ROWS = 16  # of a matrix in one piece of work: fine enough to share evenly
_SERIAL_KEYS = 192  # up to here attention of one id is done sooner than other threads are told of it
_SCORES = 4096  # of the vocabulary in one piece of the log-softmax
_config: Any = numba.config
_FAST = {"reassoc", "contract", "arcp", "nsz", "nnan", "ninf"}


def _keep_compiled() -> bool:
    """Let numba keep what it compiles in the user's cache, where that can be written; it is made anew for another processor or source."""
    folder = cache_directory() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    _config.CACHE_DIR = str(folder)  # which the decorators below read
    return os.access(folder, os.W_OK)


_before, _kept = _config.CACHE_DIR, _keep_compiled()
_options: Any = {"nogil": True, "fastmath": _FAST, "error_model": "numpy", "cache": _kept}
_inner: Any = {**_options, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # what only compiled code calls is compiled sooner so


def _compiled(function: F) -> F:
    """Translate a function at its first call, with its type kept (numba gives none)."""
    return cast(F, numba.njit(**_options)(function))


def _parallel(function: F) -> F:
    return cast(F, numba.njit(parallel=True, **_options)(function))


def _compiled_inside(function: F) -> F:
    return cast(F, numba.njit(**_inner)(function))


def _parallel_inside(function: F) -> F:
    return cast(F, numba.njit(parallel=True, **_inner)(function))


class Matrix(NamedTuple):
    """One kind of matrix of all layers."""

    weights: Array  # (L, R, C) int8
    scales: Array  # (L, R, C / 64) float32
    bias: Array  # (L, R) float32


class Gain(NamedTuple):
    """One kind of norm of all layers, (L, size) each; no biases (L, 0) where it has none."""

    weight: Array
    bias: Array


class Layers(NamedTuple):
    """Everything that `decode` reads of a model."""

    table: Matrix  # the embeddings, L = 1
    positions: Array  # (P, width) learned positions, (0, 0) without
    input_norm: Gain
    qkv: Matrix
    query_gain: Array  # (L, D), or (L, 0) without norms of queries and keys
    key_gain: Array
    out: Matrix
    inner_norm: Gain
    inner: Matrix  # gate above up, or up alone
    down: Matrix
    norm: Gain  # the last, L = 1


class Shape(NamedTuple):
    """The numbers of a model."""

    width: int
    inner: int
    heads: int
    groups: int
    head_dim: int
    rotary: bool
    gated: bool
    eps: float


def _dot_of(count: int) -> Callable[..., Any]:
    """Make the function that adds the products of one row of weights with `count` rows of inputs to their outputs."""
    i8, i32, f32 = ir.IntType(8), ir.IntType(32), ir.FloatType()
    bytes_, wholes, floats = (ir.VectorType(kind, _LANES) for kind in (i8, i32, f32))

    proxy: Any = cgutils.create_struct_proxy

    def take(builder: Any, pointer: Any, kind: Any) -> Any:
        value = builder.load(builder.bitcast(pointer, kind.as_pointer()))
        value.align = 1
        return value

    def add_lanes(builder: Any, value: Any) -> Any:
        for half in (8, 4, 2, 1):
            low, high = (builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(i32, half), list(range(at, at + half))))
                         for at in (0, half))
            value = builder.fadd(low, high, flags=["fast"])
        return builder.extract_element(value, i32(0))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = [proxy(kind)(context, builder, value=value).data
                  for kind, value in zip(signature.args[:4], args[:4], strict=True)]
        weights, scales, inputs, outputs = arrays
        weight_at, scale_at, input_at, input_step, output_at, output_step, blocks = args[4:]
        number = blocks.type
        rows = [builder.add(input_at, builder.mul(input_step, number(row))) for row in range(count)]
        starts = [builder.gep(weights, [weight_at]), builder.gep(scales, [scale_at]), *(builder.gep(inputs, [at]) for at in rows)]
        before, loop, done = builder.block, builder.append_basic_block("block"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        block = builder.phi(number)
        pointers, sums = [builder.phi(start.type) for start in starts], [builder.phi(floats) for _ in rows]
        scale = builder.insert_element(ir.Constant(floats, ir.Undefined), builder.load(pointers[1]), i32(0))
        scale = builder.shuffle_vector(scale, scale, ir.Constant(wholes, [0] * _LANES))
        parts: list[Any] = []
        for at in range(0, BLOCK, _LANES):
            weight = builder.sitofp(builder.sext(take(builder, builder.gep(pointers[0], [number(at)]), bytes_), wholes), floats)
            products = [builder.fmul(weight, take(builder, builder.gep(pointer, [number(at)]), floats), flags=["contract"])
                        for pointer in pointers[2:]]
            parts = [builder.fadd(*both, flags=["contract"]) for both in zip(parts, products, strict=True)] if parts else products
        after = [builder.fadd(total, builder.fmul(part, scale, flags=["contract"]), flags=["contract"])
                 for total, part in zip(sums, parts, strict=True)]
        following = builder.add(block, number(1))
        ends = [builder.gep(pointer, [number(1 if place == 1 else BLOCK)]) for place, pointer in enumerate(pointers)]
        firsts = [number(0), *starts, *[ir.Constant(floats, [0.0] * _LANES)] * count]
        for phi, first, last in zip([block, *pointers, *sums], firsts, [following, *ends, *after], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(last, loop)
        builder.cbranch(builder.icmp_signed("<", following, blocks), loop, done)
        builder.position_at_end(done)
        for row in range(count):
            place = builder.gep(outputs, [builder.add(output_at, builder.mul(output_step, number(row)))])
            builder.store(builder.fadd(builder.load(place), add_lanes(builder, after[row])), place)
        return context.get_dummy_value()

    @intrinsic
    def dot(typing: Any, weights: Any, scales: Any, inputs: Any, outputs: Any, weight_at: Any, scale_at: Any, input_at: Any,
            input_step: Any, output_at: Any, output_step: Any, blocks: Any) -> Any:
        return numba.void(weights, scales, inputs, outputs, *[numba.int64] * 7), generate

    made: Callable[..., Any] = dot
    return made


_dot, _dots = _dot_of(1), _dot_of(_TOGETHER)


@_parallel
def multiply(weights: Array, scales: Array, layer: Any, x: Array, out: Array) -> None:
    """Add W x of one layer's matrix to out (N, at least R), for x (N, C)."""
    count, columns, width = x.shape[0], x.shape[1], out.shape[1]
    size, blocks = weights.shape[1], scales.shape[2]
    for piece in numba.prange((size + _ROWS - 1) // _ROWS):
        first = piece * _ROWS
        last = min(size, first + _ROWS)
        whole = count - count % _TOGETHER
        for n in range(0, whole, _TOGETHER):
            for row in range(first, last):
                at = layer * size + row
                _dots(weights, scales, x, out, at * columns, at * blocks, n * columns, columns, n * width + row, width, blocks)
        for n in range(whole, count):
            for row in range(first, last):
                at = layer * size + row
                _dot(weights, scales, x, out, at * columns, at * blocks, n * columns, columns, n * width + row, width, blocks)


@_compiled_inside
def _apply(matrix: Matrix, layer: Any, x: Array, out: Array, add: bool) -> None:
    """Write W x + b of one layer's matrix for x (N, C) into out (N, at least R), or add it to what is there."""
    for n in range(x.shape[0]):
        for row in range(matrix.bias.shape[1]):
            out[n, row] = matrix.bias[layer, row] + (out[n, row] if add else np.float32(0))
    multiply(matrix.weights, matrix.scales, layer, x, out)


@_compiled
def exponential(x: Any) -> Any:
    """Return e ** x of a float32, to 2e-7 of it, and about 1e-38 below -87: a form that is computed in lanes."""
    x = max(x, np.float32(-87.0))
    x = min(x, np.float32(88.0))
    power = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    x = x - power * np.float32(0.6931471805599453)  # at most ln 2 / 2: the series ends within a float32's precision
    series = np.float32(1 / 5040) * x + np.float32(1 / 720)
    series = series * x + np.float32(1 / 120)
    series = series * x + np.float32(1 / 24)
    series = series * x + np.float32(1 / 6)
    series = series * x + np.float32(0.5)
    series = (series * x + np.float32(1)) * x + np.float32(1)
    return series * np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compiled_inside
def _normalize(x: Array, gain: Array, bias: Array, eps: Any, out: Array) -> None:
    """Normalise one vector: RMSNorm, or LayerNorm where there is a bias."""
    size, total, squares = x.shape[0], np.float32(0), np.float32(0)
    mean = np.float32(0)
    if bias.shape[0] > 0:
        for c in range(size):
            total += x[c]
        mean = total / np.float32(size)
    for c in range(size):
        squares += (x[c] - mean) * (x[c] - mean)
    scale = np.float32(1) / np.sqrt(squares / np.float32(size) + np.float32(eps))
    for c in range(size):
        out[c] = (x[c] - mean) * scale * gain[c]
    for c in range(bias.shape[0]):
        out[c] += bias[c]


@_compiled_inside
def _place(qkv: Array, n: int, layer: int, row: int, position: int, query_gain: Array, key_gain: Array, shape: Shape, cos: Array,
           sin: Array, keys: Array, values: Array) -> None:
    """Normalise and turn the queries and keys of one id, and put its keys and values into the cache."""
    size, half = shape.head_dim, shape.head_dim // 2
    no_bias = query_gain[0, :0]
    for head in range(shape.heads + shape.groups):
        x = qkv[n, head * size:(head + 1) * size]
        if query_gain.shape[1] > 0:
            _normalize(x, query_gain[layer] if head < shape.heads else key_gain[layer], no_bias, shape.eps, x)
        if shape.rotary:
            for c in range(half):
                low, high = x[c], x[c + half]
                x[c] = low * cos[position, c] + high * sin[position, c]
                x[c + half] = high * cos[position, c + half] + low * sin[position, c + half]
    for group in range(shape.groups):
        key, value = (shape.heads + group) * size, (shape.heads + shape.groups + group) * size
        for c in range(size):
            keys[layer, row, group, position, c] = qkv[n, key + c]
            values[layer, row, group, position, c] = qkv[n, value + c]


@_compiled_inside
def _attend(q: Array, keys: Array, values: Array, used: int, out: Array) -> None:
    """Mix the first `used` values (S, D) by the softmax of one query's products with their keys; q and out (D,)."""
    size = q.shape[0]
    scale, largest = np.float32(1 / math.sqrt(size)), np.float32(-3e38)
    weights = np.empty(used, np.float32)
    for s in range(used):
        total = np.float32(0)
        for c in range(size):
            total += q[c] * keys[s, c]
        weights[s] = total * scale
    for s in range(used):
        largest = max(largest, weights[s])
    total = np.float32(0)
    for s in range(used):
        weights[s] = exponential(weights[s] - largest)
        total += weights[s]
    for c in range(size):
        out[c] = np.float32(0)
    for s in range(used):
        for c in range(size):
            out[c] += weights[s] * values[s, c]
    for c in range(size):
        out[c] /= total


@_parallel_inside
def _attend_all(qkv: Array, rows: Array, positions: Array, layer: int, shape: Shape, keys: Array, values: Array, out: Array) -> None:
    """Attend with every head of every id: qkv (N, (H + 2 K) D) to out (N, at least H D)."""
    count, size, share = len(rows), shape.head_dim, shape.heads // shape.groups
    if count == 1 and positions[0] < _SERIAL_KEYS:
        for head in range(shape.heads):
            at = head * size
            _attend(qkv[0, at:at + size], keys[layer, rows[0], head // share], values[layer, rows[0], head // share], positions[0] + 1,
                    out[0, at:at + size])
        return
    for job in numba.prange(count * shape.heads):
        order, head = job // shape.heads, job % shape.heads
        n = order // 2 if order % 2 == 0 else count - 1 - order // 2  # the first id sees least, the last most: in turns
        at = head * size
        _attend(qkv[n, at:at + size], keys[layer, rows[n], head // share], values[layer, rows[n], head // share], positions[n] + 1,
                out[n, at:at + size])


@_compiled_inside
def _activate(x: Array, gated: bool, size: int, out: Array) -> None:
    """Apply silu(gate) * up, or gelu in its tanh form: x (2 size,) or (size,), out (at least size,)."""
    for c in range(size):
        if gated:
            out[c] = x[c] * x[size + c] / (np.float32(1) + exponential(-x[c]))
        else:  # (1 + tanh u) / 2 is 1 / (1 + e ** -2u)
            inside = np.float32(2 * math.sqrt(2 / math.pi)) * (x[c] + np.float32(0.044715) * x[c] * x[c] * x[c])
            out[c] = x[c] / (np.float32(1) + exponential(-inside))


@_parallel_inside
def _activate_all(x: Array, gated: bool, size: int, out: Array) -> None:
    """Apply the activation to every id."""
    if x.shape[0] == 1:
        _activate(x[0], gated, size, out[0])
        return
    for n in numba.prange(x.shape[0]):
        _activate(x[n], gated, size, out[n])


@_compiled
def decode(layers: Layers, shape: Shape, ids: Array, rows: Array, positions: Array, cos: Array, sin: Array, keys: Array,
           values: Array) -> Array:
    """Run all layers over N ids, each of a row at a position, ids of a row in order, and return normalised hidden states (N, C).

    cos and sin (P, D); keys and values (L, B, K, S, D) hold what came before and take what comes. Nothing is checked here.
    """
    count, width, columns = len(ids), shape.width, layers.table.weights.shape[2]
    x, normal = np.empty((count, width), np.float32), np.zeros((count, columns), np.float32)
    qkv = np.empty((count, layers.qkv.weights.shape[1]), np.float32)
    mixed = np.zeros((count, layers.out.weights.shape[2]), np.float32)
    inner = np.empty((count, layers.inner.weights.shape[1]), np.float32)
    active = np.zeros((count, layers.down.weights.shape[2]), np.float32)
    for n in range(count):
        for c in range(width):
            x[n, c] = np.float32(layers.table.weights[0, ids[n], c]) * layers.table.scales[0, ids[n], c // BLOCK]
        if not shape.rotary:
            for c in range(width):
                x[n, c] += layers.positions[positions[n], c]
    for layer in range(layers.qkv.weights.shape[0]):
        for n in range(count):
            _normalize(x[n], layers.input_norm.weight[layer], layers.input_norm.bias[layer], shape.eps, normal[n, :width])
        _apply(layers.qkv, layer, normal, qkv, False)
        for n in range(count):
            _place(qkv, n, layer, rows[n], positions[n], layers.query_gain, layers.key_gain, shape, cos, sin, keys, values)
        _attend_all(qkv, rows, positions, layer, shape, keys, values, mixed)
        _apply(layers.out, layer, mixed, x, True)
        for n in range(count):
            _normalize(x[n], layers.inner_norm.weight[layer], layers.inner_norm.bias[layer], shape.eps, normal[n, :width])
        _apply(layers.inner, layer, normal, inner, False)
        _activate_all(inner, shape.gated, shape.inner, active)
        _apply(layers.down, layer, active, x, True)
    for n in range(count):
        _normalize(x[n], layers.norm.weight[0], layers.norm.bias[0], shape.eps, normal[n, :width])
    return normal


@_parallel
def score(head: Matrix, hidden: Array) -> Array:
    """Return natural log-probabilities (N, V) after hidden states (N, C)."""
    count, size = hidden.shape[0], head.weights.shape[1]
    out = np.empty((count, size), np.float32)
    _apply(head, np.int64(0), hidden, out, False)
    pieces = (size + _SCORES - 1) // _SCORES
    largest, totals = np.empty((count, pieces), np.float32), np.empty((count, pieces), np.float32)
    for job in numba.prange(count * pieces):
        n, piece = job // pieces, job % pieces
        scores = out[n, piece * _SCORES:min(size, (piece + 1) * _SCORES)]
        most, total = np.float32(-3e38), np.float32(0)
        for v in range(len(scores)):
            most = max(most, scores[v])
        for v in range(len(scores)):
            total += exponential(scores[v] - most)
        largest[n, piece], totals[n, piece] = most, total
    for job in numba.prange(count * pieces):
        n, piece = job // pieces, job % pieces
        most, total = largest[n, 0], np.float32(0)
        for other in range(pieces):
            most = max(most, largest[n, other])
        for other in range(pieces):
            total += totals[n, other] * exponential(largest[n, other] - most)
        shift = most + np.log(total)
        scores = out[n, piece * _SCORES:min(size, (piece + 1) * _SCORES)]
        for v in range(len(scores)):
            scores[v] -= shift
    return out


_config.CACHE_DIR = _before
