"""Evaluation of language models on text: which block a token's bits go to, the same bytes under two tokenizers, whole reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from myna.corpus.store import Corpus
from myna.data.shards import Shard, write_shards
from myna.errors import UserError
from myna.evaluate.language import Text, corpus_text, evaluate_language, report_language, sample_text, shard_text
from myna.evaluate.options import EvaluateOptions
from myna.models.ngram import Ngram, fit_ngram
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

WORDS = ["the", "mill", "by", "river", "ground", "corn", "all", "day", "水车", "在", "河边", "转", "了", "一天", "naïve", "🐦", "sang"]


def write_text(seed: int, words: int = 400) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[int(i)] for i in rng.zipf(1.5, words) % len(WORDS)) + "\n"


class Made(NamedTuple):
    corpus: Corpus
    tokenizer: Tokenizer
    tokens: Path

    def shard(self, name: str) -> Shard:
        return Shard.open(self.tokens, name)

    def ngram(self, order: int | None = None) -> Ngram:
        from myna.models.options import NgramOptions

        options = NgramOptions(order=order)
        return fit_ngram(self.shard("train").ids, self.shard("valid").ids, self.tokenizer.vocab_size, self.tokenizer.separator_id, options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("evaluate")
    train, valid, test = [write_text(i) for i in range(20)], [write_text(50)], [write_text(60), "", "短い", write_text(61)]
    corpus = write_corpus(folder / "corpus", train, valid, test)
    tokenizer = train_tokenizer(corpus, TokenizerOptions(vocab_size=320))
    (folder / "tokens").mkdir()
    write_shards(corpus, tokenizer, folder / "tokens")
    return Made(corpus, tokenizer, folder / "tokens")


class Costs:
    """A model whose t-th token of any document costs (t + 1) / 1024 nats."""

    max_length = None
    separator_id = 0
    vocab_size = 1 << 20

    def log_probs(self, ids: Sequence[int], source: object = None) -> np.ndarray:
        return -np.arange(1, len(ids) + 1, dtype=np.float32) / 1024


def test_bits_bytes_and_characters_go_to_the_block_of_their_first_byte(made: Made) -> None:
    shard = made.shard("test")
    blocks = evaluate_language(Costs(), made.tokenizer, shard_text(shard))  # type: ignore[arg-type]
    size = blocks.block_bytes
    expected = np.zeros((4, len(blocks.bits)))  # the slow twin: token by token, character by character
    at = 0
    for row in shard.documents:
        for t, id in enumerate(shard.ids[row["start"]:row["end"]].tolist()):
            expected[0, at // size] += (t + 1) / 1024 / np.log(2)
            expected[3, at // size] += 1
            at += len(made.tokenizer.token_bytes[id])
    whole = "".join(made.corpus.text(row["start"], row["end"]) for row in made.corpus.part("test"))
    assert at == len(whole.encode()) == shard.text_bytes
    at = 0
    for character in whole:
        expected[2, at // size] += 1
        for byte in range(len(character.encode())):
            expected[1, (at + byte) // size] += 1
        at += len(character.encode())
    np.testing.assert_allclose([blocks.bits, blocks.bytes, blocks.characters, blocks.tokens], expected, rtol=1e-6)
    assert len(blocks.bits) > 10


def test_two_tokenizers_share_their_blocks(made: Made, tmp_path: Path) -> None:
    other = train_tokenizer(made.corpus, TokenizerOptions(kind="characters"))
    text = corpus_text(made.corpus)
    one, two = (evaluate_language(Costs(), tokenizer, text) for tokenizer in (made.tokenizer, other))  # type: ignore[arg-type]
    assert (one.bytes == two.bytes).all() and (one.characters == two.characters).all()
    assert one.tokens.sum() < two.tokens.sum()
    report = report_language(Costs(), made.tokenizer, text, Costs(), "characters", other)  # type: ignore[arg-type]
    assert set(report.differences) == {"bits_per_byte", "bits_per_character"}


def test_a_report_is_the_sum_of_log_probs_over_bytes_and_finds_the_better_model(made: Made) -> None:
    shard, good, poor = made.shard("test"), made.ngram(), made.ngram(order=1)
    report = report_language(good, made.tokenizer, shard_text(shard), poor, poor.name, options=EvaluateOptions(resamples=300))
    scores = np.concatenate([good.log_probs(shard.ids[row["start"]:row["end"]]) for row in shard.documents]).astype(np.float64)
    assert report.metrics["bits_per_byte"].value == pytest.approx(-scores.sum() / np.log(2) / shard.text_bytes, rel=1e-6)
    assert report.metrics["perplexity"].value == pytest.approx(np.exp(-scores.mean()), rel=1e-6)
    assert "significantly better" in report.verdict() and report.baseline.startswith("1-gram")
    assert "bootstrap=300" in report.metrics["perplexity"].signature
    assert report == report_language(good, made.tokenizer, shard_text(shard), poor, poor.name, options=EvaluateOptions(resamples=300))


def test_a_sample_is_small_fixed_and_of_whole_beginnings(made: Made) -> None:
    shard = made.shard("train")
    text = sample_text(shard, made.tokenizer, 3000)
    parts = list(text.documents(made.tokenizer))
    assert 0 < sum(map(len, parts)) <= 3000 and len(parts) == 2
    assert all((a == b).all() for a, b in zip(parts, text.documents(made.tokenizer), strict=True))
    first, last = shard.documents[0], shard.documents[-1]
    assert (parts[0] == shard.ids[first["start"]:first["start"] + len(parts[0])]).all()
    assert (parts[1] == shard.ids[last["start"]:last["start"] + len(parts[1])]).all()
    blocks = evaluate_language(made.ngram(2), made.tokenizer, text)
    assert blocks.tokens.sum() == sum(map(len, parts)) and 0 < blocks.bits_per_byte < 8
    whole = sample_text(shard, made.tokenizer, 10**9)
    assert whole.bytes == shard.text_bytes


def test_nothing_to_score_and_a_foreign_tokenizer_are_one_line(made: Made) -> None:
    with pytest.raises(UserError, match="no text"):
        evaluate_language(Costs(), made.tokenizer, Text(0, lambda tokenizer: iter(())))  # type: ignore[arg-type]
    small = fit_ngram(np.array([1, 2, 0]), np.array([1, 0]), 3, 0)
    with pytest.raises(UserError, match="a model of 3 ids"):
        evaluate_language(small, made.tokenizer, shard_text(made.shard("test")))
