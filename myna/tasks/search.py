"""Search: an index of a person's documents with the encoder that its vectors are of.

    make_index(Path("my-index"), [Path("my-documents")], IndexOptions(encoder="minilm"))
    Searcher.open(Path("my-index")).search("who built the tower?", SearchOptions())
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from myna.errors import UserError
from myna.files import sha256
from myna.models.fetched import resolve_model
from myna.models.pooling import read_pooling
from myna.models.pretrained import load_model
from myna.retrieval.added import Added
from myna.retrieval.index import Hit, Index
from myna.retrieval.options import IndexOptions, SearchOptions
from myna.tasks.embed import embed_texts
from myna.tokenizer.tokenizer import Tokenizer


class Encode(Protocol):
    """Makes vectors of length 1 of texts, (N, C); what is to be said of texts is counted in `told`, or else said."""

    def __call__(self, texts: Sequence[str], told: Counter[str] | None = None) -> NDArray[np.float32]: ...


def make_index(folder: Path, inputs: Sequence[Path], options: IndexOptions) -> Added:
    """Make an index, or add to one that is there. Raises UserError when it was made with other options."""
    new = not folder.exists()
    if options.encoder and Path(options.encoder).exists():  # so that the index opens from any folder
        options = dataclasses.replace(options, encoder=str(Path(options.encoder).resolve()))
    if is_index(folder):
        index, embed = open_index(folder)
        if options not in (index.options, IndexOptions()):
            raise UserError(f"{folder} was made with {index.options}", "the same options, or none", "choose another --out")
    else:
        embed = open_encoder(options.encoder) if options.encoder else None
        index = Index.create(folder, options, _weights(options.encoder) if options.encoder else "")
    told: Counter[str] = Counter()
    try:
        added = index.add(inputs, functools.partial(embed, told=told) if embed else None)
    except UserError:
        if new and not len(index):
            shutil.rmtree(folder)
        raise
    added.notes += told
    return added


def open_index(folder: Path, vectors: bool = True) -> tuple[Index, Encode | None]:
    """Open an index, and the encoder of its vectors where it has some and `vectors` are wanted.

    Raises UserError when the encoder is gone, or is another than the vectors were made with.
    """
    index = Index.open(folder)
    if not (index.encoder and vectors):
        return index, None
    if _weights(index.options.encoder) != index.encoder:
        raise UserError(f"{index.options.encoder} has other weights than those that the vectors of {folder} were made with",
                        "the same encoder", "search with --mode lexical, or make the index again")
    return index, open_encoder(index.options.encoder)


def is_index(folder: Path) -> bool:
    """Tell whether a directory is an index of documents."""
    return (folder / "index.json").is_file()


@dataclasses.dataclass(frozen=True)
class Searcher:
    """An index, opened with the encoder of its vectors where it has some."""

    index: Index
    embed: Encode | None = dataclasses.field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Searcher:
        """Open an index directory. Raises UserError as `open_index`."""
        return cls(*open_index(folder))

    def search(self, query: str, options: SearchOptions) -> list[Hit]:
        """Find the passages that a query is about, the best first. Raises UserError when the index has no vectors for the mode."""
        return self.index.search(query, options, self.embed)


def open_encoder(name: str) -> Encode:
    """Return what makes vectors of length 1 of texts. Raises UserError when the model is no encoder."""
    folder = resolve_model(name)
    model, tokenizer, pooling = load_model(folder), Tokenizer.open(folder), read_pooling(folder)

    def embed(texts: Sequence[str], told: Counter[str] | None = None) -> NDArray[np.float32]:
        vectors = embed_texts(model, tokenizer, pooling, texts, told)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)

    return embed


def _weights(name: str) -> str:
    path = resolve_model(name) / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{name} has no model.safetensors", "a model directory of an encoder", "myna fetch minilm")
    return sha256(path)
