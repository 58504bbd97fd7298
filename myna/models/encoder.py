"""The Transformer encoder: every position sees the whole text, and the model learns by guessing tokens that were hidden from it.

One file for three styles, told apart by values. BERT (Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional
Transformers", sections 3 and A): token types, learned positions, a norm after each residual sum, exact GELU. RoBERTa (Liu et
al. 2019): the same layers, one token type, positions counted from the padding id on. ALBERT (Lan et al. 2020): embeddings
of a smaller width and a projection, layers that share their weights, and a head that judges the order of two segments.

Only hidden tokens are predicted, so after the last layer's attention only their positions are computed.

    model = Encoder(EncoderConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2), seed=0)
    model.encode(torch.tensor([[5, 3, 9]]))                   # (1, 3, 64)
    model.masked_log_probs(torch.tensor([[5, 3, 9]]))         # (3, 512), natural logarithms

B rows · T tokens · C hidden_size · E embedding_size · V vocabulary · N chosen positions · H heads · D width of a head
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.errors import UserError
from myna.models.encoder_start import look_around
from myna.models.kernels import linear_cross_entropy
from myna.models.protocol import LogProbs

MASKED_SHARE = 0.4  # of the tokens are hidden and predicted (myna.data.options); what plans count the head's products by
_EXPLICIT_LENGTH = 512  # as in myna.models.kernels: up to here explicit bfloat16 attention beat the fused one on CPUs
_FILL = 32  # the bias rides as one more column of the head's matrix, which is filled up to a multiple of this
_HEAD_WIDTH = 32  # half of BERT's: narrow models want heads for several neighbours (myna.models.encoder_start)
_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh"}  # transformers' words: the approximations of F.gelu


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder, in the words of Hugging Face's config.json; 0, "" and None mean what the style usually has."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    model_type: str = "bert"
    num_attention_heads: int = 0
    intermediate_size: int = 0
    embedding_size: int = 0
    num_hidden_groups: int = 0
    inner_group_num: int = 1
    max_position_embeddings: int = 128
    type_vocab_size: int = 0
    hidden_act: str = ""
    layer_norm_eps: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    masked_head: bool = True
    pooler: bool | None = None
    pair_head: bool | None = None

    def __post_init__(self) -> None:
        albert, roberta = self.model_type == "albert", self.model_type == "roberta"
        pair_head = albert and self.masked_head if self.pair_head is None else self.pair_head
        derived = {
            "num_attention_heads": self.num_attention_heads or max(1, self.hidden_size // _HEAD_WIDTH),
            "intermediate_size": self.intermediate_size or 4 * self.hidden_size,
            "embedding_size": self.embedding_size or (min(128, self.hidden_size) if albert else self.hidden_size),  # Lan et al.: 128
            "num_hidden_groups": self.num_hidden_groups or (1 if albert else self.num_hidden_layers),
            "type_vocab_size": self.type_vocab_size or (1 if roberta else 2),
            "hidden_act": self.hidden_act or ("gelu_new" if albert else "gelu"),
            "pad_token_id": 0 if roberta and self.pad_token_id is None else self.pad_token_id,
            "attention_dropout": self.dropout if self.attention_dropout is None else self.attention_dropout, "pair_head": pair_head,
            "pooler": pair_head if self.pooler is None else self.pooler}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def position_offset(self) -> int:
        """The first position's row of the table: RoBERTa keeps the rows up to the padding id for padding."""
        return (self.pad_token_id or 0) + 1 if self.model_type == "roberta" else 0

    def _layers(self) -> int:
        return self.num_hidden_groups * self.inner_group_num

    def count_parameters(self) -> int:
        """Count every weight; what layers share counts once."""
        C, E, F_ = self.hidden_size, self.embedding_size, self.intermediate_size
        tables = (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * E + 2 * E
        mapping = (E + 1) * C if self.model_type == "albert" else 0
        layer = 4 * (C + 1) * C + (C + 1) * F_ + (F_ + 1) * C + 4 * C
        head = (C + 1) * E + 2 * E + self.vocab_size if self.masked_head else 0
        return tables + mapping + self._layers() * layer + head + (C + 1) * C * bool(self.pooler) + (C + 1) * 2 * bool(self.pair_head)

    def products_per_token(self) -> int:
        """Count the multiplications of a forward pass in training, per token: the head only for the share that is hidden."""
        C, E = self.hidden_size, self.embedding_size
        attention, rest = 3 * C * C, C * C + 2 * C * self.intermediate_size
        depth = self.num_hidden_layers * self.inner_group_num
        head = C * E + E * self.vocab_size if self.masked_head else 0
        mapping = E * C if self.model_type == "albert" else 0
        return mapping + depth * attention + (depth - 1) * rest + round(MASKED_SHARE * (rest + head))


class Affine(nn.Linear):
    """A matrix and a bias, kept in float32 and used in the dtype of what they are applied to."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Norm(nn.LayerNorm):
    """Mean 0 and variance 1 over the last dimension, then gain and bias (Ba et al. 2016), in the dtype of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Layer(nn.Module):
    """Attention and MLP, each added to what came in and normalised after the sum (as in Vaswani et al. 2017)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        C = config.hidden_size
        self.heads, self.approximate = config.num_attention_heads, _ACTIVATIONS.get(config.hidden_act)
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout or 0.0
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Affine(C, C) for _ in range(4))
        self.attention_norm = Norm(C, config.layer_norm_eps)
        self.up_proj, self.down_proj = Affine(C, config.intermediate_size), Affine(config.intermediate_size, C)
        self.output_norm = Norm(C, config.layer_norm_eps)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Gather from all positions: x (B, T, C) to (B, T, C). mask (B, T) is True at text; None: everywhere."""
        B, T, C = x.shape
        three = (self.q_proj, self.k_proj, self.v_proj)
        weight, bias = torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three])
        qkv = F.linear(x, weight.to(x.dtype), bias.to(x.dtype)).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        dropout = self.attention_dropout if self.training else 0.0
        return mix(q, k, v, mask, dropout).transpose(1, 2).flatten(2)

    def finish(self, x: Tensor, gathered: Tensor) -> Tensor:
        """Go from a position's input and what attention gathered for it to its output; each position for itself: (..., C)."""
        x = self.attention_norm(x + F.dropout(self.o_proj(gathered), self.dropout, self.training))
        inner = self.down_proj(activate(self.up_proj(x), self.approximate))
        out: Tensor = self.output_norm(x + F.dropout(inner, self.dropout, self.training))
        return out


def activate(x: Tensor, approximate: str | None) -> Tensor:
    """GELU (Hendrycks & Gimpel 2016), exact or by tanh; None: ReLU."""
    return F.relu(x) if approximate is None else F.gelu(x, approximate=approximate)


def mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention in both directions: (B, H, T, D) each; mask (B, T) is True at keys that may be seen."""
    B, H, T, D = q.shape
    hidden = None if mask is None else mask[:, None, None, :]
    if q.dtype != torch.bfloat16 or T > _EXPLICIT_LENGTH:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=hidden, dropout_p=dropout)
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    scores = torch.bmm(q * (1 / math.sqrt(D)), k.transpose(1, 2))
    if hidden is not None:
        scores = scores.view(B, H, T, T).masked_fill(~hidden, -math.inf).view(B * H, T, T)
    return torch.bmm(F.dropout(scores.softmax(-1), dropout), v).view(B, H, T, D)


class Head(nn.Module):
    """What stands before the tied output matrix: dense, activation, norm; and the bias of every id."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Affine(config.hidden_size, config.embedding_size)
        self.norm = Norm(config.embedding_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        # RoBERTa's head is always exact GELU, whatever its layers have
        self.approximate = "none" if config.model_type == "roberta" else _ACTIVATIONS.get(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(activate(self.dense(x), self.approximate))
        return out


class Encoder(nn.Module):
    """A masked language model that the training loop can train (`Trainable`)."""

    def __init__(self, config: EncoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length = config.max_position_embeddings - config.position_offset
        self.separator_id = config.eos_token_id
        self.compute_dtype = torch.float32
        E, C = config.embedding_size, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, E)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, E)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, E)
        self.embedding_norm = Norm(E, config.layer_norm_eps)
        self.embedding_proj = Affine(E, C) if config.model_type == "albert" else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_groups * config.inner_group_num))
        self.pooler = Affine(C, C) if config.pooler else None
        self.head = Head(config) if config.masked_head else None
        self.pair_head = Affine(C, 2) if config.pair_head else None
        self._initialize(seed)

    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "type_embeddings.weight")):
                nn.init.zeros_(parameter)  # as in the decoder: the model begins as its embedding
            elif name.endswith("embeddings.weight"):
                nn.init.normal_(parameter, std=0.02, generator=generator)  # tied: the head wants small rows
            elif parameter.ndim == 2:  # uniform with variance 1 / fan-in (LeCun et al. 1998)
                bound = (3 / parameter.shape[1]) ** 0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            look_around(self)

    def table_names(self) -> set[str]:
        """Name the embeddings, one of which is also the head's matrix."""
        return {f"{name}_embeddings.weight" for name in ("word", "position", "token_type")}

    # ---- the layers ----

    def encode(self, ids: Tensor, mask: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Run all layers: ids, mask (1 at text, 0 at padding) and types (B, T) to hidden states (B, T, C), with gradients."""
        return self._run(ids, mask, token_type_ids, None)

    def _run(self, ids: Tensor, mask: Tensor | None, types: Tensor | None, chosen: Tensor | None) -> Tensor:
        """Run all layers; with `chosen`, flat positions (N,), finish the last layer for these alone: (N, C)."""
        if ids.shape[1] > self.max_length:
            raise ValueError(f"{ids.shape[1]} ids do not fit the context of {self.max_length}")
        seen = None if mask is None or bool(mask.all()) else mask.bool()
        x = self._embed(ids, types)
        order = self._order()
        for number, layer in enumerate(order):
            gathered = layer.attend(x, seen)
            if chosen is not None and number == len(order) - 1:
                x, gathered = x.flatten(0, 1)[chosen], gathered.flatten(0, 1)[chosen]
            x = layer.finish(x, gathered)
        return x

    def _order(self) -> list[Layer]:
        """List the layers as they are run; ALBERT's groups one after another, each as often as the depth asks."""
        config = self.config
        inner, per_group = config.inner_group_num, config.num_hidden_layers / config.num_hidden_groups
        groups = [int(number / per_group) for number in range(config.num_hidden_layers)]
        return [self.layers[group * inner + i] for group in groups for i in range(inner)]  # type: ignore[misc]

    def _embed(self, ids: Tensor, types: Tensor | None) -> Tensor:
        table = self.position_embeddings.weight
        if self.config.model_type == "roberta":
            text = ids.ne(self.config.pad_token_id or 0).long()
            positions = F.embedding(text.cumsum(1) * text + self.config.position_offset - 1, table)  # (B, T, E)
        else:
            positions = table[: ids.shape[1]]
        kinds = self.token_type_embeddings.weight[0] if types is None else F.embedding(types, self.token_type_embeddings.weight)
        x = F.embedding(ids, self.word_embeddings.weight) + (positions + kinds)
        x = F.dropout(self.embedding_norm(x.to(self.compute_dtype)), self.config.dropout, self.training)
        return x if self.embedding_proj is None else self.embedding_proj(x)

    def pool(self, hidden: Tensor) -> Tensor:
        """Summarise rows by their first position: hidden states there (B, C) to (B, C)."""
        if self.pooler is None:
            raise ValueError("this encoder has no pooler")
        return torch.tanh(self.pooler(hidden))

    # ---- training ----

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the hidden tokens and, where the order of segments is judged, the pairs."""
        counted = {"masked_token": int((batch["labels"] >= 0).sum())}
        if self.pair_head is not None and "sentence_order_label" in batch:
            counted["sentence_order"] = int((batch["sentence_order_label"] >= 0).sum())
        return counted

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy of the hidden tokens and of the segments' order, summed in nats, with equal weights (Lan et al. 2020)."""
        labels = batch["labels"].flatten()
        chosen = torch.nonzero(labels >= 0)[:, 0]  # (N,)
        order = batch.get("sentence_order_label") if self.pair_head is not None else None
        firsts = torch.arange(0 if order is None else len(order)) * batch["labels"].shape[1]
        hidden = self._run(batch["input_ids"], batch.get("attention_mask"), batch.get("token_type_ids"), torch.cat((chosen, firsts)))
        losses = {"masked_token": (self._masked_loss(hidden[: len(chosen)], labels[chosen]), 1.0)}
        if order is not None and self.pair_head is not None:
            logits = self.pair_head(self.pool(hidden[len(chosen):])).float()
            losses["sentence_order"] = (F.cross_entropy(logits, order, ignore_index=-100, reduction="sum"), 1.0)
        return losses, carry

    def _masked_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        head = self._needed_head()
        columns = -(-(self.config.embedding_size + 1) // _FILL) * _FILL
        filled = F.pad(torch.cat((self.word_embeddings.weight, head.bias[:, None]), 1), (0, columns - self.config.embedding_size - 1))
        x = head(hidden)
        x = F.pad(torch.cat((x, torch.ones_like(x[:, :1])), 1), (0, columns - x.shape[1] - 1))
        return linear_cross_entropy(x, filled, targets)

    # ---- inference ----

    @torch.inference_mode()
    def masked_log_probs(self, ids: Tensor, mask: Tensor | None = None, chosen: Tensor | None = None,
                         token_type_ids: Tensor | None = None) -> LogProbs:
        """Score every id of the vocabulary at the positions where `chosen` (B, T) is True, row after row: (N, V), natural logarithms.

        chosen left out means every position. Hide what is to be guessed by the mask token's id in `ids`.
        """
        at = torch.arange(ids.numel()) if chosen is None else torch.nonzero(chosen.flatten())[:, 0]
        out: LogProbs = self.logits(self._run(ids, mask, token_type_ids, at)).log_softmax(-1).numpy()
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id of the vocabulary from hidden states: (..., C) to (..., V), float32."""
        head = self._needed_head()
        x = head(hidden)
        return F.linear(x, self.word_embeddings.weight.to(x.dtype)).float() + head.bias

    def _needed_head(self) -> Head:
        if self.head is None:
            raise UserError("this encoder has no head that predicts tokens", "one trained by hiding tokens (a ...ForMaskedLM directory)")
        return self.head
