"""Tokenizers that many tests share, made once from Python's own documentation and a little Chinese."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import pytest

from myna.corpus.store import Corpus
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

CHINESE = (
    "从前有一只鸟，它学会了说话。\n春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n"
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
) * 200


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", [*topics.values(), CHINESE], [CHINESE[:500]], ["The end.\n"])


@pytest.fixture(scope="session")
def bpe(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus, TokenizerOptions(vocab_size=1024))


@pytest.fixture(scope="session")
def characters(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus, TokenizerOptions(kind="characters"))


@pytest.fixture(scope="session")
def words(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus, TokenizerOptions(kind="words"))


@pytest.fixture(scope="session", params=["bpe", "characters"])
def merging(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=["bpe", "characters", "words"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path)
    return tmp_path
