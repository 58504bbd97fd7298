"""A neural classifier: a body that reads the text (encoder, decoder, RNN, LSTM, GRU) and a head that scores the labels.

Encoders and decoders have the heads, names and files of Hugging Face's `BertForSequenceClassification`, `LlamaForSequenceClassification`
and their kin, so they open in `transformers` and what it saves opens here. An encoder gives the first token's state, through a dense
layer and tanh, then a matrix; a decoder the last token's, the only one that has seen the whole text, then a matrix. Recurrent bodies
are Myna's own: the largest and the mean of the states of every position, side by side, then a matrix.

Source: Devlin et al. 2019, "BERT", section 4.1; Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
section 3.2; pooling of a recurrent body: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", 3.3.

    model = TextClassifier(body, ["bad", "good"], several=False, seed=0)
    model.scores(torch.tensor([[5, 3, 9]]))                      # (1, 2)

B rows · T tokens · C width of the body's states · K labels
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.decoder import Decoder
from myna.models.decoder_files import decoder_places, load_decoder, write_decoder_config
from myna.models.directory import choice, fill_model, gather_tensors, whole
from myna.models.encoder import Affine, Encoder
from myna.models.encoder_files import encoder_places, load_encoder, write_encoder_config
from myna.models.families import family_of
from myna.models.layers import Linear
from myna.models.linear import describe_labels, read_label_names
from myna.models.recurrent import Recurrent
from myna.models.recurrent_files import read_recurrent_config, recurrent_places, write_recurrent_config
from myna.tokenizer.tokenizer import Tokenizer

_PARTS = {  # of the head, by the body's model_type: our names and those of the file
    "bert": {"out": "classifier"}, "albert": {"out": "classifier"}, "roberta": {"dense": "classifier.dense", "out": "classifier.out_proj"},
    **{kind: {"out": "classifier"} for kind in ("rnn", "lstm", "gru")},
    **{kind: {"out": "score"} for kind in ("llama", "mistral", "qwen2", "qwen3", "gpt2")}}
_NAMES = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
          "qwen3": "Qwen3", "gpt2": "GPT2"}  # in the names of transformers' classes
_ROWS = 64  # texts at a time

_Layer = TypeVar("_Layer", bound=nn.Linear)


class TextClassifier(nn.Module):
    """A body and a head that the training loop can train (`Trainable`)."""

    def __init__(self, body: Encoder | Decoder | Recurrent, labels: Sequence[str], several: bool, dropout: float = 0.1,
                 seed: int = 0) -> None:
        """Put a head of small random weights on a body, whose other heads are taken off."""
        super().__init__()
        self.kind: str = body.config.model_type
        self.labels, self.several, self.dropout = list(labels), several, dropout
        generator = torch.Generator().manual_seed(seed)
        if isinstance(body, Encoder):
            wants_pooler = self.kind != "roberta"
            if wants_pooler and body.pooler is None:
                body.pooler = _begin(Affine(body.config.hidden_size, body.config.hidden_size), generator)
            body.pooler = body.pooler if wants_pooler else None
            body.head = body.pair_head = None
            body.config = dataclasses.replace(body.config, masked_head=False, pair_head=False, pooler=wants_pooler)
            width = body.config.hidden_size
            self.dense = None if wants_pooler else _begin(Affine(width, width), generator)
        elif isinstance(body, Decoder):
            body.lm_head = None
            body.config = dataclasses.replace(body.config, tie_word_embeddings=True)
            width, self.dense = body.config.hidden_size, None
        else:
            width, self.dense = 2 * body.config.outputs, None
        self.body = body
        self.out = _begin(Linear(width, len(labels)) if isinstance(body, Decoder) else Affine(width, len(labels)), generator)

    def scores(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every label: ids and mask (B, T), 1 at text, to (B, K) float32."""
        mask = torch.ones_like(ids) if mask is None else mask
        if isinstance(self.body, Decoder):  # what follows the last token is padding, which no token before it sees
            hidden = self.body.hidden(ids, self.body.config.dropout if self.training else 0.0)
            state = self.body.norm.scale(hidden[torch.arange(len(ids)), mask.sum(1) - 1])
            return self._score(state)
        hidden = self.body.encode(ids, mask)  # (B, T, C)
        if isinstance(self.body, Encoder):
            state = self._drop(hidden[:, 0]) if self.dense is not None else self.body.pool(hidden[:, 0])
            state = state if self.dense is None else torch.tanh(self.dense(state))
        else:
            text = mask[..., None].to(hidden.dtype)
            largest = hidden.masked_fill(text == 0, torch.finfo(hidden.dtype).min).amax(1)
            state = torch.cat((largest, (hidden * text).sum(1) / text.sum(1)), -1)  # (B, 2 C)
        return self._score(state)

    def _score(self, state: Tensor) -> Tensor:
        out: Tensor = self.out(self._drop(state)).float()
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training and torch.is_grad_enabled())

    # ---- training ----

    def table_names(self) -> set[str]:
        """Name the embeddings."""
        return {f"body.{name}" for name in self.body.table_names()}

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the texts; of several labels, the decisions."""
        return {"label": batch["labels"].numel()}

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy in nats, summed. labels: (B,) ids, or (B, K) of 0 and 1 where a text may have several."""
        scores = self.scores(batch["input_ids"], batch["attention_mask"])
        if self.several:
            return {"label": (F.binary_cross_entropy_with_logits(scores, batch["labels"], reduction="sum"), 1.0)}, carry
        return {"label": (F.cross_entropy(scores, batch["labels"], reduction="sum"), 1.0)}, carry


def _begin(layer: _Layer, generator: torch.Generator) -> _Layer:
    nn.init.normal_(layer.weight, std=0.02, generator=generator)  # as Devlin et al. 2019
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@dataclasses.dataclass
class Neural:
    """A neural classifier with its tokenizer: texts in, scores out."""

    model: TextClassifier
    tokenizer: Tokenizer
    max_length: int
    cut: int = 0
    "How many texts were longer than `max_length` tokens so far; of those the beginning was read."

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        return f"{self.model.kind} classifier"

    @property
    def labels(self) -> list[str]:
        """The labels in order."""
        return self.model.labels

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return self.model.several

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Score every label of every text: (N, K), not yet probabilities."""
        self.model.eval()
        rows, cut = encode_texts(self.tokenizer, texts, self.max_length)
        self.cut += cut
        out = np.zeros((len(texts), len(self.labels)), np.float32)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))  # of one length, about, so that little is padded
        for at in range(0, len(order), _ROWS):
            chosen = order[at : at + _ROWS]
            ids, mask = pad_rows([rows[number] for number in chosen])
            out[chosen] = self.model.scores(ids, mask).numpy()
        return out

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer, of encoders and decoders as `transformers` reads them."""
        from safetensors.torch import save

        model, body = self.model, self.model.body
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(body, Encoder):
            written, places = write_encoder_config(body.config), encoder_places(body.config)
            written |= {"architectures": [f"{_NAMES[model.kind]}ForSequenceClassification"],
                        "classifier_dropout" if model.kind != "albert" else "classifier_dropout_prob": model.dropout}
        elif isinstance(body, Decoder):
            written, places = write_decoder_config(body.config), decoder_places(body.config)
            written |= {"architectures": [f"{_NAMES[model.kind]}ForSequenceClassification"], "classifier_dropout": model.dropout,
                        "eos_token_id": body.separator_id,
                        "pad_token_id": body.separator_id if self.tokenizer.pad_id is None else self.tokenizer.pad_id}
        else:
            written, places = write_recurrent_config(body.config), recurrent_places(body.config)
            written |= {"architectures": ["RecurrentForSequenceClassification"], "classifier_dropout": model.dropout,
                        "eos_token_id": body.separator_id}
        tensors = gather_tensors(body, places)
        tensors |= self._head_tensors()
        write_atomic(folder / "model.safetensors", save(tensors, {"format": "pt"}))
        write_json(folder / "config.json", {**written, **describe_labels(model.labels, model.several), "max_length": self.max_length,
                                            "pad_token_id": written.get("pad_token_id", self.tokenizer.pad_id), "dtype": "float32"})
        self.tokenizer.save(folder, self.max_length)

    def _head_tensors(self) -> dict[str, Tensor]:
        """Return the head's weights by the names of the file."""
        return {f"{theirs}.{name}": part.detach().contiguous() for ours, theirs in _PARTS[self.model.kind].items()
                for name, part in self.model.get_submodule(ours).named_parameters()}

    @classmethod
    def open(cls, folder: Path) -> Neural:
        """Read a directory that `save`, or `transformers`, wrote. Raises UserError when anything in it cannot be."""
        path = folder / "config.json"
        config = read_json(path, _MOST_CONFIG)
        labels, several = read_label_names(path, config)
        kind: str = choice(path, config, "model_type", *_PARTS)
        names = ("weight",) if family_of(kind) == "decoder" else ("weight", "bias")
        head = {f"{theirs}.{name}": (ours, name) for ours, theirs in _PARTS[kind].items() for name in names}
        if family_of(kind) == "decoder":
            body: Any = load_decoder(folder, config, tuple(head))
        elif kind in _NAMES:
            body = load_encoder(folder, config, tuple(head))
            if kind != "roberta" and body.pooler is None:
                raise UserError(f"{folder} lacks {kind}.pooler.dense.weight", "the weights of a classifier", "restore the directory")
        else:
            body = fill_model(Recurrent, read_recurrent_config(path, config), folder, recurrent_places, lambda name: name in head)
        model = TextClassifier(body, labels, several, _dropout(config))
        stored = open_weights(folder, lambda name: name not in head)
        for place, (ours, name) in head.items():
            parameter = model.get_submodule(ours).get_parameter(name)
            if place not in stored or stored[place].shape != tuple(parameter.shape):
                found = list(stored[place].shape) if place in stored else "nothing"
                raise UserError(f"{place} in {folder} is {found}", f"{list(parameter.shape)}, as config.json says", "restore the directory")
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(stored[place].read()))
        longest = getattr(body, "max_length", None) or _LONGEST
        length = whole(path, config, "max_length", high=_LONGEST, default=min(longest, _LONGEST))
        return cls(model.requires_grad_(False).eval(), Tokenizer.open(folder), min(length, longest))


_MOST_CONFIG = 4 << 20  # bytes
_LONGEST = 1 << 14  # tokens of a text


def _dropout(config: Mapping[str, Any]) -> float:
    value = config.get("classifier_dropout", config.get("classifier_dropout_prob"))
    value = config.get("hidden_dropout_prob", 0.1) if value is None else value
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 else 0.1


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[list[list[int]], int]:
    """Turn texts into ids as the model was trained on them, at least one each; returns them, and how many were cut."""
    rows = tokenizer.encode_inputs(texts, max_length=max_length)
    return [row or [0] for row in rows], rows.truncated


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Lay rows of ids side by side: ids (B, T), 0 where there is none, and a mask (B, T) that is 1 at ids."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
