"""Chunks of a text hold all of it and fit; what is written before a source."""

from __future__ import annotations

import pytest

from myna.tasks.writing import Writing, cut_chunks
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [f"The river rose {number} times. 台风今天登陆上海。" for number in range(40)]
    return train_tokenizer(write_corpus(tmp_path_factory.mktemp("corpus") / "corpus", texts), TokenizerOptions(vocab_size=300))


@pytest.mark.parametrize("text", ["The river rose. " * 60, "台风今天登陆上海。" * 50, "First part.\n\n" + "Second part is long. " * 30,
                                  "x" * 700, "一" * 300, "é🐦 " * 80])
@pytest.mark.parametrize("room", [16, 50])
def test_chunks_hold_the_whole_text_and_fit(text: str, room: int, tokenizer: Tokenizer) -> None:
    chunks = cut_chunks(text, room, tokenizer)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert len(chunks) > 1 and all(len(tokenizer.encode(chunk)) <= room for chunk in chunks)
    assert cut_chunks(text, room, tokenizer, 1) == chunks[:1]


def test_chunks_end_with_a_sentence(tokenizer: Tokenizer) -> None:
    chunks = cut_chunks("台风今天登陆上海。" * 20, 40, tokenizer)
    assert all(chunk.endswith("。") for chunk in chunks)
    assert cut_chunks(" \n ", 40, tokenizer) == [] and cut_chunks("One. Two.", 40, tokenizer) == ["One. Two."]


def test_what_is_asked() -> None:
    writing = Writing("summarize", "Summarize this text.")
    assert writing.ask("台风。", True) == "Summarize this text.\n\n台风。" and writing.ask("台风。", False).endswith("台风。\n\n")
    example = writing.lay("台风。", "雨", True, "rows.jsonl:3")
    assert [message["role"] for message in example.messages] == ["user", "assistant"] and example.messages[1]["content"] == "雨"
    assert example.pair and example.where == "rows.jsonl:3"
