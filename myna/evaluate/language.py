"""Measure language models on text: every document from its beginning, every text token scored once, block by block.

Nothing of size (tokens, vocabulary) is kept; documents stream through. Model and baseline see the same bytes, each through its own
tokenizer. Bits per byte as in J. Rae et al., "Compressive Transformers" (2020), section 4, and L. Gao et al., "The Pile"
(2020), section 3.1; a bounded model's stride is the protocol's (`LanguageModel.log_probs`).

    text = shard_text(Shard.open(folder, "test"))
    report = report_language(model, tokenizer, text, baseline=ngram, name=ngram.name)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import track
from myna.corpus.store import Corpus
from myna.data.shards import Shard
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.metrics.language import Blocks, block_size, language_report
from myna.metrics.report import Report
from myna.models.protocol import LanguageModel
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

_BYTES_AT_ONCE = 1 << 20  # of a document whose characters are counted
_FEWEST_RESAMPLES = 100  # the 2.5 % tails of fewer are one or two draws
_SAMPLE_DOCUMENT = 1024  # tokens wanted of each document of a sample: enough to leave its beginning


@dataclass(frozen=True)
class Text:
    """Documents to score: their UTF-8 bytes in all, and a function that gives their ids under a tokenizer, one array each."""

    bytes: int
    documents: Callable[[Tokenizer], Iterator[Array]]


def shard_text(shard: Shard) -> Text:
    """Take all documents of a split, already encoded; score it only with the tokenizer that encoded it."""
    return Text(shard.text_bytes, lambda tokenizer: (shard.ids[row["start"]:row["end"]] for row in shard.documents))


def sample_text(shard: Shard, tokenizer: Tokenizer, max_tokens: int) -> Text:
    """Take a fixed sample of a split, at most `max_tokens`, for the validation curve."""
    parts = sample_documents(shard, max_tokens)
    return Text(sum(len(tokenizer.decode_bytes(part)) for part in parts), lambda tokenizer: iter(parts))


def sample_documents(shard: Shard, max_tokens: int) -> list[Array]:
    """Take the ids of a fixed sample of a split: the beginnings of evenly spaced documents, at most `max_tokens` in all."""
    rows = shard.documents
    count = min(len(rows), max(1, max_tokens // _SAMPLE_DOCUMENT))
    chosen = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)] if count else rows
    return [np.asarray(shard.ids[row["start"]:min(row["end"], row["start"] + max_tokens // count)]) for row in chosen]


def corpus_text(corpus: Corpus) -> Text:
    """Take all documents of a cleaned corpus, whatever its split."""
    def documents(tokenizer: Tokenizer) -> Iterator[Array]:
        for row in corpus.documents:
            pieces = [np.array(ids, np.int32) for ids in map(tokenizer.encode, corpus.pieces(row["start"], row["end"]))]
            yield np.concatenate(pieces) if pieces else np.zeros(0, np.int32)

    return Text(int((corpus.documents["end"] - corpus.documents["start"]).sum()), documents)


def evaluate_language(model: LanguageModel, tokenizer: Tokenizer, text: Text, label: str = "evaluating") -> Blocks:
    """Score every token of a text; returns bits, bytes, characters and tokens per block of about 2 KB.

    Raises UserError when the text is empty, or the model has fewer ids than the tokenizer.
    """
    if text.bytes == 0:
        raise UserError("no text to evaluate on", "at least a few hundred bytes", "give a file with text")
    if model.vocab_size < tokenizer.vocab_size:
        raise UserError(f"a model of {model.vocab_size} ids with a tokenizer of {tokenizer.vocab_size}",
                        "the tokenizer it was trained with", "restore the model directory")
    size = block_size(text.bytes)
    count = -(-text.bytes // size)
    bits, characters, tokens = np.zeros(count), np.zeros(count), np.zeros(count)
    lengths = np.array([len(piece) for piece in tokenizer.token_bytes], np.int64)
    offset = 0
    with track(label, text.bytes, "B") as advance:
        for document in text.documents(tokenizer):
            ids = document.astype(np.int64)
            if not len(ids):
                continue
            ends = offset + np.cumsum(lengths[ids])
            blocks = np.minimum((ends - lengths[ids]) // size, count - 1)  # of each token's first byte
            bits += np.bincount(blocks, model.log_probs(ids.tolist()).astype(np.float64) / -np.log(2), minlength=count)
            tokens += np.bincount(blocks, minlength=count)
            _count_characters(tokenizer.decode_bytes(ids), offset, size, characters)
            advance(int(ends[-1]) - offset)
            offset = int(ends[-1])
    if offset != text.bytes:
        raise ValueError(f"the tokenizer gave back {offset} bytes of a text of {text.bytes}")
    sizes = np.full(count, float(size))
    sizes[-1] = text.bytes - (count - 1) * size
    return Blocks(bits, sizes, characters, tokens, size, tokenizer.fingerprint)


def report_language(model: LanguageModel, tokenizer: Tokenizer, text: Text, baseline: LanguageModel | None = None, name: str = "n-gram",
                    baseline_tokenizer: Tokenizer | None = None, options: EvaluateOptions | None = None) -> Report:
    """Score a model and its baseline (called `name`, with the same tokenizer unless it has its own) on a text."""
    options = options or EvaluateOptions()
    if options.resamples < _FEWEST_RESAMPLES:
        raise UserError(f"resamples is {options.resamples}", f"at least {_FEWEST_RESAMPLES}, for the ends of an interval")
    scored = evaluate_language(model, tokenizer, text)
    beside = evaluate_language(baseline, baseline_tokenizer or tokenizer, text, f"evaluating the {name}") if baseline else None
    return language_report(scored, beside, name, options.resamples, options.seed)


def _count_characters(data: bytes, offset: int, size: int, characters: Array) -> None:
    """Add to each block the characters that begin in it: the bytes that do not continue one (UTF-8's 10xxxxxx)."""
    for start in range(0, len(data), _BYTES_AT_ONCE):
        values = np.frombuffer(data[start:start + _BYTES_AT_ONCE], np.uint8)
        begins = offset + start + np.flatnonzero((values & 0xC0) != 0x80)
        characters += np.bincount(begins // size, minlength=len(characters))
