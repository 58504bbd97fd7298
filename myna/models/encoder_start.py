"""The first weights of an encoder: heads that look at the neighbours, so that it need not find out first where they are.

From random weights an encoder spends thousands of steps guessing by frequency alone: its positions are random vectors that must first
be told apart, beside token vectors that grow faster. With `look_around` 490,000 tokens of Shakespeare brought the loss of hidden
tokens to 4.39 instead of 5.65 nats (docs/families/encoder.md). These are values of weights that any BERT has, all of them
trained further. Positions begin as sines and cosines (Vaswani et al. 2017, section 3.5) in a quarter of the dimensions, which
nothing else reads or writes at first; queries and keys begin as rotations of them, since cos(w (t + d) - w s), summed over the
frequencies w, is largest at s = t + d. Starting from a structure that training would find: Trockman & Kolter 2023,
"Mimetic initialization of self-attention layers".

    look_around(model)         # after the random weights; the heads of each layer look 1 left, 1 right, 2 left, ...

P dimensions kept for positions · n frequencies · T positions · D width of a head
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from myna.models.encoder import Encoder, Layer

_SHARE = 4  # one dimension in so many is for positions
_SCORE = 11.0  # of the position looked at before the softmax; at 5.5 heads fell back to looking everywhere (docs/families/encoder.md)
_LONGEST = 2  # the slowest wave is half as long as the table: no two positions are alike


def look_around(model: Encoder) -> None:
    """Write positions and attention into a model with random weights; one too narrow for a wave is left as it is."""
    config = model.config
    E, C = config.embedding_size, config.hidden_size
    head = C // config.num_attention_heads
    P = min(E // _SHARE, head) // 2 * 2
    T = model.max_length
    if P < 4 or T < 4:
        return
    waves = math.pi * (2 * _LONGEST / T) ** (torch.arange(P // 2) / (P // 2 - 1))  # (n,) from pi, of length 2, down
    angles = torch.outer(torch.arange(T), waves)
    model.word_embeddings.weight[:, E - P:] = 0
    model.position_embeddings.weight.zero_()
    model.position_embeddings.weight[config.position_offset:, E - P:] = torch.stack((angles.sin(), angles.cos()), -1).flatten(1) * 2**0.5
    if model.embedding_proj is not None:  # ALBERT: the projection hands these dimensions on as they are
        weight = model.embedding_proj.weight
        weight[C - P:] = 0
        weight[:, E - P:] = 0
        weight[C - P:, E - P:] = torch.eye(P)
    if model.head is not None:  # which token stands somewhere does not depend on where
        model.head.dense.weight[:, C - P:] = 0
        model.head.norm.weight[E - P:] = 0
    size = (_SCORE * head**0.5 / E) ** 0.5  # q . k is E size^2 at the position looked at, after the embeddings' norm
    for layer in model.layers:
        _look(layer, waves, size, P)  # type: ignore[arg-type]


def _look(layer: Layer, waves: Tensor, size: float, P: int) -> None:
    """Let head 0 of a layer look one to the left, head 1 one to the right, head 2 two to the left, and so on."""
    C = layer.q_proj.weight.shape[1]
    D = C // layer.heads
    for projection in (layer.v_proj, layer.up_proj):
        projection.weight[:, C - P:] = 0
    for number in range(layer.heads):
        offset = (number // 2 + 1) * (1 if number % 2 else -1)
        cos, sin = (offset * waves).cos(), (offset * waves).sin()
        even = torch.arange(0, P, 2)
        query, key = torch.zeros(D, C), torch.zeros(D, C)
        key[torch.arange(P), C - P + torch.arange(P)] = size
        query[even, C - P + even] = query[even + 1, C - P + even + 1] = cos * size
        query[even, C - P + even + 1], query[even + 1, C - P + even] = sin * size, -sin * size
        layer.q_proj.weight[number * D:(number + 1) * D] = query
        layer.k_proj.weight[number * D:(number + 1) * D] = key
