"""A neural tagger: a body that reads a sentence (encoder, RNN, LSTM, GRU) and a head that scores the labels of each of its words.

A word is read as its pieces. Encoders have the head, names and files of Hugging Face's `BertForTokenClassification` and its kin, so they
open in `transformers` and what it saves opens here: a matrix on the state of the word's first piece. Recurrent bodies are Myna's own: a
matrix on the state that has read up to the word's last piece, and, where the body reads in both directions, on that which has read from
the end back to its first.

Source: Devlin et al. 2019, "BERT", section 5.3; a word read by its characters in both directions: Ling et al. 2015, "Finding Function
in Form".

    tagger = NeuralTagger.open(Path("my-tagger"))
    tagger.emit([["我", "去"]])[0]                                # (2, K) log-probabilities

B rows · T pieces · W words · C width of the body's states · K labels
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.errors import UserError, shown
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.directory import choice, fill_model, gather_tensors, whole
from myna.models.encoder import Affine, Encoder
from myna.models.encoder_files import encoder_places, load_encoder, write_encoder_config
from myna.models.linear import describe_labels, read_label_names
from myna.models.recurrent import Recurrent
from myna.models.recurrent_files import read_recurrent_config, recurrent_places, write_recurrent_config
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

NO_LABEL = -100  # where a row has no word: what `transformers` and torch ignore
HEAD = "ForTokenClassification"  # the end of what config.json calls such a model
_NAMES = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert"}
_KINDS = ("bert", "roberta", "albert", "rnn", "lstm", "gru")
_ROWS = 64  # sentences at a time
_MOST_CONFIG = 4 << 20  # bytes
_LONGEST = 1 << 14  # tokens of a sentence


class TokenClassifier(nn.Module):
    """A body and a head that the training loop can train (`Trainable`)."""

    def __init__(self, body: Encoder | Recurrent, labels: Sequence[str], dropout: float = 0.1, seed: int = 0) -> None:
        """Put a head of small random weights on a body, whose other heads are taken off."""
        super().__init__()
        self.kind: str = body.config.model_type
        self.labels, self.dropout = list(labels), dropout
        if isinstance(body, Encoder):
            body.pooler = body.head = body.pair_head = None
            body.config = dataclasses.replace(body.config, masked_head=False, pair_head=False, pooler=False)
            width = body.config.hidden_size
        else:
            width = body.config.outputs
        self.body = body
        self.out = Affine(width, len(labels))
        nn.init.normal_(self.out.weight, std=0.02, generator=torch.Generator().manual_seed(seed))  # as Devlin et al. 2019
        nn.init.zeros_(self.out.bias)

    def scores(self, ids: Tensor, mask: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Score every label of every word: ids and mask (B, T), places of its first and last piece (B, W), to (B, W, K) float32."""
        hidden = self.body.encode(ids, mask)  # (B, T, C)

        def at(states: Tensor, places: Tensor) -> Tensor:
            return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))

        if isinstance(self.body, Encoder):
            state = at(hidden, first)
        else:
            half = self.body.config.hidden_size
            state = torch.cat((at(hidden[..., :half], last), at(hidden[..., half:], first)), -1)  # the latter is nothing of one direction
        out: Tensor = self.out(F.dropout(state, self.dropout, self.training and torch.is_grad_enabled())).float()
        return out

    # ---- training ----

    def table_names(self) -> set[str]:
        """Name the embeddings."""
        return {f"body.{name}" for name in self.body.table_names()}

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the words."""
        return {"label": int((batch["labels"] != NO_LABEL).sum())}

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy in nats, summed over words. labels: (B, W) ids, NO_LABEL where there is no word."""
        scores = self.scores(batch["input_ids"], batch["attention_mask"], batch["first"], batch["last"])
        loss = F.cross_entropy(scores.flatten(0, 1), batch["labels"].flatten(), ignore_index=NO_LABEL, reduction="sum")
        return {"label": (loss, 1.0)}, carry


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A sentence as ids (T), with the places of each word's first and last piece (W)."""

    ids: list[int]
    first: list[int]
    last: list[int]


class WordEncoder:
    """Turns words into pieces, each word by itself, as `transformers` does with `is_split_into_words`."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, spaces: bool) -> None:
        """Take the tokens of a row at most; with `spaces`, a space goes before each word where the tokenizer keeps one."""
        self.max_length = max_length
        around, inner = tokenizer.encode_inputs(["a"])[0], tokenizer.encode("a")
        at = next((at for at in range(len(around)) if around[at : at + len(inner)] == inner), 0)
        self.before, self.after = around[:at], around[at + len(inner):]
        self._tokenizer, self._space = tokenizer, " " if spaces and tokenizer.encode(" a") != inner else ""
        self._held: dict[str, list[int]] = {}

    def encode(self, words: Sequence[str]) -> list[Pieces]:
        """Lay a sentence out in as many rows as its pieces need. Raises UserError when one word alone does not fit."""
        room = self.max_length - len(self.before) - len(self.after)
        rows: list[Pieces] = []
        ids: list[int] = []
        first: list[int] = []
        last: list[int] = []
        for word in words:
            pieces = self._pieces(word)
            if len(pieces) > room:
                raise UserError(f"the word {shown(word[:40])} has {len(pieces):,} pieces",
                                f"at most {room:,}, which the model reads at once", "divide it, or leave it out")
            if len(ids) + len(pieces) > room:
                rows.append(Pieces([*self.before, *ids, *self.after], first, last))
                ids, first, last = [], [], []
            first.append(len(self.before) + len(ids))
            ids = ids + pieces
            last.append(len(self.before) + len(ids) - 1)
        return [*rows, Pieces([*self.before, *ids, *self.after], first, last)]

    def _pieces(self, word: str) -> list[int]:
        if word not in self._held:
            self._held[word] = self._tokenizer.encode(self._space + word) or [0]
        return self._held[word]


def lay_out(rows: Sequence[Pieces]) -> dict[str, Tensor]:
    """Lay rows side by side: input_ids and attention_mask (B, T), first and last (B, W), 0 where there is nothing."""
    length, width = max(len(row.ids) for row in rows), max(len(row.first) for row in rows)
    ids, mask = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
    first, last = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)], mask[number, : len(row.ids)] = row.ids, 1
        first[number, : len(row.first)], last[number, : len(row.last)] = row.first, row.last
    tables = {"input_ids": ids, "attention_mask": mask, "first": first, "last": last}
    return {name: torch.from_numpy(table) for name, table in tables.items()}


@dataclasses.dataclass
class NeuralTagger:
    """A neural tagger with its tokenizer: words in, log-probabilities of labels out."""

    model: TokenClassifier
    tokenizer: Tokenizer
    max_length: int
    tokens: str = "words"
    "'words', which have spaces before them where the tokenizer keeps such, or 'atoms', which have not."

    def __post_init__(self) -> None:
        self.words = WordEncoder(self.tokenizer, self.max_length, self.tokens == "words")

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        return f"{self.model.kind} tagger"

    @property
    def tags(self) -> list[str]:
        """The labels in order."""
        return self.model.labels

    @torch.inference_mode()
    def emit(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Give log-probabilities of every label of every word: (W, K) each."""
        self.model.eval()
        rows: list[Pieces] = []
        owners: list[int] = []
        for number, words in enumerate(sentences):
            held = self.words.encode(words)
            rows += held
            owners += [number] * len(held)
        found: list[Array] = [np.zeros((0, len(self.tags)))] * len(rows)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))  # of one length, about, so that little is padded
        for at in range(0, len(order), _ROWS):
            chosen = order[at : at + _ROWS]
            batch = lay_out([rows[number] for number in chosen])
            scores = self.model.scores(batch["input_ids"], batch["attention_mask"], batch["first"], batch["last"]).log_softmax(-1).numpy()
            for number, table in zip(chosen, scores, strict=True):
                found[number] = table[: len(rows[number].first)].astype(np.float64)
        whole_sentences: list[list[Array]] = [[] for _ in sentences]
        for owner, table in zip(owners, found, strict=True):
            whole_sentences[owner].append(table)
        return [np.concatenate(parts) for parts in whole_sentences]

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer, of an encoder as `transformers` reads them."""
        from safetensors.torch import save

        model, body = self.model, self.model.body
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(body, Encoder):
            written, places = write_encoder_config(body.config), encoder_places(body.config)
            written |= {"architectures": [_NAMES[model.kind] + HEAD],
                        "classifier_dropout" if model.kind != "albert" else "classifier_dropout_prob": model.dropout}
        else:
            written, places = write_recurrent_config(body.config), recurrent_places(body.config)
            written |= {"architectures": ["Recurrent" + HEAD], "classifier_dropout": model.dropout, "eos_token_id": body.separator_id}
        tensors = gather_tensors(body, places)
        tensors |= {f"classifier.{name}": part.detach().contiguous() for name, part in model.out.named_parameters()}
        write_atomic(folder / "model.safetensors", save(tensors, {"format": "pt"}))
        named = {key: value for key, value in describe_labels(model.labels, False).items() if key != "problem_type"}
        write_json(folder / "config.json", {**written, **named, "max_length": self.max_length, "tokens": self.tokens,
                                            "pad_token_id": written.get("pad_token_id", self.tokenizer.pad_id), "dtype": "float32"})
        self.tokenizer.save(folder, self.max_length)

    @classmethod
    def open(cls, folder: Path) -> NeuralTagger:
        """Read a directory that `save`, or `transformers`, wrote. Raises UserError when anything in it cannot be."""
        path = folder / "config.json"
        config = read_json(path, _MOST_CONFIG)
        labels, _ = read_label_names(path, config)
        kind: str = choice(path, config, "model_type", *_KINDS)
        head = ("classifier.weight", "classifier.bias")
        if kind in _NAMES:
            body: Any = load_encoder(folder, config, head)
        else:
            body = fill_model(Recurrent, read_recurrent_config(path, config), folder, recurrent_places, lambda name: name in head)
        value = config.get("classifier_dropout", config.get("classifier_dropout_prob"))
        value = config.get("hidden_dropout_prob", 0.1) if value is None else value
        model = TokenClassifier(body, labels, float(value) if isinstance(value, int | float) and 0 <= value < 1 else 0.1)
        stored = open_weights(folder, lambda name: name not in head)
        for place, parameter in zip(head, (model.out.weight, model.out.bias), strict=True):
            if place not in stored or stored[place].shape != tuple(parameter.shape):
                found = list(stored[place].shape) if place in stored else "nothing"
                raise UserError(f"{place} in {folder} is {found}", f"{list(parameter.shape)}, as config.json says", "restore the directory")
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(stored[place].read()))
        longest = getattr(body, "max_length", None) or _LONGEST
        length = whole(path, config, "max_length", high=_LONGEST, default=min(longest, _LONGEST))
        return cls(model.requires_grad_(False).eval(), Tokenizer.open(folder), min(length, longest),
                   str(choice(path, config, "tokens", "words", "atoms")))
