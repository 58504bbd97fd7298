"""A reader of spans: an encoder that reads a question and a text beside it, and says where in the text the answer begins and ends.

One matrix scores every token as a beginning and as an end; that there is no answer is the score of the first token as both. Heads,
names and files are those of Hugging Face's `BertForQuestionAnswering` and its kin, so what is written opens in `transformers`, and what
it saved opens here.

Source: Devlin et al. 2019, "BERT", sections 4.2 and 4.3.

    spans = Spans.open(Path("my-reader"))
    spans.read("Who built it?", ["It was built by Anna in 1850."])        # [Span(score=3.1, start=16, end=20)]

B rows · T tokens · C width of the body's states
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.directory import choice, gather_tensors, whole
from myna.models.encoder import Affine, Encoder
from myna.models.encoder_files import encoder_places, load_encoder, write_encoder_config
from myna.tokenizer.tokenizer import Tokenizer

_NAMES = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert"}
_HEAD = "qa_outputs"
_MOST_CONFIG, _LONGEST = 4 << 20, 1 << 14  # bytes; tokens of a question and a text
_LONGEST_SPAN = 30  # tokens, as SQuAD's readers have it
_LEAST_TEXT = 16  # tokens that a question must leave for the text
_ROWS = 32  # texts at a time
_DROPOUT = 0.1


class Span(NamedTuple):
    """The best span of a text: its score over that of no answer, and where it is, in characters."""

    score: float
    start: int
    end: int


class Encoded(NamedTuple):
    """A question and a text as the model reads them: ids, types, and for each token of the text (from `first` on) its characters."""

    ids: list[int]
    types: list[int]
    first: int
    places: list[tuple[int, int]]
    cut: bool


class SpanModel(nn.Module):
    """An encoder and a head that the training loop can train (`Trainable`)."""

    def __init__(self, body: Encoder, seed: int = 0) -> None:
        """Put a head of small random weights on an encoder, whose other heads are taken off."""
        super().__init__()
        body.pooler = body.head = body.pair_head = None
        body.config = dataclasses.replace(body.config, masked_head=False, pair_head=False, pooler=False)
        self.body = body
        self.out = Affine(body.config.hidden_size, 2)
        nn.init.normal_(self.out.weight, std=0.02, generator=torch.Generator().manual_seed(seed))  # as Devlin et al. 2019
        nn.init.zeros_(self.out.bias)

    def scores(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """Score every token as a beginning and as an end: ids, mask (1 at text) and types (B, T) to (B, T, 2) float32."""
        hidden = self.body.encode(ids, mask, types if self.body.config.type_vocab_size > 1 else None)
        return self.out(F.dropout(hidden, _DROPOUT, self.training and torch.is_grad_enabled())).float()  # type: ignore[no-any-return]

    # ---- training ----

    def table_names(self) -> set[str]:
        """Name the embeddings."""
        return {f"body.{name}" for name in self.body.table_names()}

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the questions."""
        return {"span": len(batch["labels"])}

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy in nats of beginning and end, the mean of both, summed over rows.

        labels: (B, 2) positions, 0 and 0 where there is no answer. text: (B, T), 1 where one may begin or end: the text, and the first.
        """
        scores = self.scores(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        scores = scores.masked_fill(batch["text"][..., None] == 0, -math.inf)
        losses = [F.cross_entropy(scores[..., side], batch["labels"][:, side], reduction="sum") for side in (0, 1)]
        return {"span": ((losses[0] + losses[1]) / 2, 1.0)}, carry


class Spans:
    """A reader of spans with its tokenizer: questions and texts in, spans out."""

    def __init__(self, model: SpanModel, tokenizer: Tokenizer, max_length: int) -> None:
        """max_length: tokens of a question and a text together at most."""
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.cut = 0  # how many texts were longer so far; of those the beginning was read
        pair = tokenizer.encode_inputs([""], [""])[0]
        if len(pair) < 3:
            raise UserError("a tokenizer that marks no pairs of texts", "one with [CLS] and [SEP], or <s> and </s>", "take another base")
        self._before, self._between, self._after = pair[:1], pair[1:-1], pair[-1:]

    def encode(self, question: str, text: str) -> Encoded:
        """Turn a question and a text into what the model reads. Raises UserError when the question leaves no room for the text."""
        asked, (ids, places) = self.tokenizer.encode(question), self.tokenizer.encode_places(text)
        first = len(self._before) + len(asked) + len(self._between)
        room = self.max_length - first - len(self._after)
        if room < _LEAST_TEXT:
            raise UserError(f"a question of {len(asked):,} tokens", f"at most {len(asked) + room - _LEAST_TEXT}, so that {_LEAST_TEXT} of "
                            f"{self.max_length} are left for the text", "ask in fewer words")
        kept = ids[:room]
        row = [*self._before, *asked, *self._between, *kept, *self._after]
        return Encoded(row, [0] * first + [1] * (len(row) - first), first, places[:room], len(ids) > room)

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Lay rows side by side: input_ids, attention_mask, token_type_ids and text, (B, T) each."""
        longest = max(len(row.ids) for row in rows)
        table = np.zeros((4, len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            table[0, number, :len(row.ids)], table[1, number, :len(row.ids)], table[2, number, :len(row.ids)] = row.ids, 1, row.types
            table[3, number, 0] = table[3, number, row.first:row.first + len(row.places)] = 1
        return dict(zip(("input_ids", "attention_mask", "token_type_ids", "text"), torch.from_numpy(table), strict=True))

    @torch.inference_mode()
    def read(self, question: str, texts: Sequence[str]) -> list[Span]:
        """Find the best span of each text. Raises UserError when the question leaves no room."""
        self.model.eval()
        rows = [self.encode(question, text) for text in texts]
        self.cut += sum(row.cut for row in rows)
        found = []
        for at in range(0, len(rows), _ROWS):
            batch = self.collate(rows[at:at + _ROWS])
            scores = self.model.scores(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).numpy()
            found += [best_span(one, row) for one, row in zip(scores, rows[at:at + _ROWS], strict=True)]
        return found

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer, as `transformers` reads them."""
        from safetensors.torch import save

        body = self.model.body
        folder.mkdir(parents=True, exist_ok=True)
        tensors = gather_tensors(body, encoder_places(body.config))
        tensors |= {f"{_HEAD}.{name}": part.detach().contiguous() for name, part in self.model.out.named_parameters()}
        write_atomic(folder / "model.safetensors", save(tensors, {"format": "pt"}))
        written = write_encoder_config(body.config)
        write_json(folder / "config.json", {**written, "architectures": [f"{_NAMES[body.config.model_type]}ForQuestionAnswering"],
                                   "max_length": self.max_length, "pad_token_id": written.get("pad_token_id", self.tokenizer.pad_id),
                                   "dtype": "float32"})
        self.tokenizer.save(folder, self.max_length)

    @classmethod
    def open(cls, folder: Path) -> Spans:
        """Read a directory that `save`, or `transformers`, wrote. Raises UserError when anything in it cannot be."""
        path = folder / "config.json"
        config = read_json(path, _MOST_CONFIG)
        choice(path, config, "model_type", *_NAMES)
        places = {f"{_HEAD}.{name}": ("out", name) for name in ("weight", "bias")}
        model = SpanModel(load_encoder(folder, config, tuple(places)))
        stored = open_weights(folder, lambda name: name not in places)
        for place, (ours, name) in places.items():
            parameter = model.get_submodule(ours).get_parameter(name)
            if place not in stored or stored[place].shape != tuple(parameter.shape):
                found = list(stored[place].shape) if place in stored else "nothing"
                raise UserError(f"{place} in {folder} is {found}", f"{list(parameter.shape)}, of a reader of spans",
                                "restore the directory")
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(stored[place].read()))
        longest = model.body.max_length
        length = whole(path, config, "max_length", high=_LONGEST, default=min(longest, _LONGEST))
        return cls(model.requires_grad_(False).eval(), Tokenizer.open(folder), min(length, longest))


def best_span(scores: npt.NDArray[np.float32], row: Encoded) -> Span:
    """Choose the span of at most 30 tokens with the highest sum of scores (T, 2), over that of no answer."""
    count = len(row.places)
    if not count:
        return Span(-math.inf, 0, 0)
    begin, end = scores[row.first:row.first + count, 0], scores[row.first:row.first + count, 1]
    sums = begin[:, None] + end[None, :]
    allowed = np.triu(np.ones((count, count), bool)) & ~np.triu(np.ones((count, count), bool), _LONGEST_SPAN)
    one, other = np.unravel_index(int(np.argmax(np.where(allowed, sums, -np.inf))), sums.shape)
    return Span(float(sums[one, other] - scores[0].sum()), row.places[int(one)][0], row.places[int(other)][1])
