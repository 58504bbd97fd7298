"""`myna fill`: an encoder that has learned a few sentences by heart, and the search against trying everything."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import myna
from myna.cli.main import main
from myna.data.masking import choose, read_marks, uniform
from myna.errors import UserError
from myna.generate.fill import fill_text
from myna.generate.options import FillOptions
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.pretrained import save_model
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.conftest import Built
from tests.tokenizer.corpora import write_corpus

SENTENCES = ["The king of Denmark sleeps in the garden.", "The queen of Norway walks by the river.", "我有一只鸟，它学会了说话。"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of an encoder that has learned SENTENCES by heart."""
    place = tmp_path_factory.mktemp("fill")
    corpus = write_corpus(place / "corpus", [sentence.replace("Norway", "Nor way") * 3 for sentence in SENTENCES])
    tokenizer = train_tokenizer(corpus, TokenizerOptions(vocab_size=384, special_tokens=("<|mask|>", "<|cls|>")))
    marks = read_marks(tokenizer)
    rows = [[marks.cls_id, *tokenizer.encode(text), marks.separator_id] for text in SENTENCES] * 8
    length = max(map(len, rows))
    ids = np.array([[*row, *[tokenizer.pad_id] * (length - len(row))] for row in rows])
    words = np.where(marks.special[ids], -1, np.arange(length))
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=2, max_position_embeddings=64)
    model = Encoder(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    mask = torch.from_numpy((ids != tokenizer.pad_id).astype(np.int64))
    for step in range(80):
        chosen = choose(words, uniform(0, step, ids.size).reshape(ids.shape), 0.3)
        batch = {"input_ids": torch.from_numpy(np.where(chosen, marks.mask_id, ids)), "attention_mask": mask,
                 "labels": torch.from_numpy(np.where(chosen, ids, -100))}
        loss = model.loss(batch)[0]["masked_token"][0] / model.counts(batch)["masked_token"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model, place / "model", tokenizer.pad_id)
    tokenizer.save(place / "model")
    return place / "model"


def fill(folder: Path, text: str, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    assert main(["fill", str(folder), text, "--json", *flags]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["text"] == text
    found: list[dict[str, Any]] = value["fillings"]
    return found


@pytest.mark.parametrize("blank", ["[MASK]", "<mask>", "<|mask|>", "___", "______"])
def test_the_word_that_was_learned_comes_first(folder: Path, blank: str, capsys: pytest.CaptureFixture[str]) -> None:
    fillings = fill(folder, f"The {blank} of Denmark sleeps in the garden.", capsys)
    assert fillings[0]["text"] == SENTENCES[0] and fillings[0]["words"] == ["king"]
    assert len(fillings) == 5 and len({tuple(filling["words"]) for filling in fillings}) == 5
    chances = [filling["probability"] for filling in fillings]
    assert chances == sorted(chances, reverse=True) and 0.5 < chances[0] <= 1
    for filling in fillings:
        assert filling["probability"] == pytest.approx(math.exp(filling["log_prob"] / sum(filling["pieces"])))
        assert " " not in filling["words"][0].strip()


def test_a_word_of_several_pieces_and_several_blanks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.open(folder)
    assert len(tokenizer.encode(" Norway")) > 1
    first = fill(folder, "The queen of ___ walks by the river.", capsys)[0]
    assert first["words"] == ["Norway"] and first["pieces"] == [len(tokenizer.encode(" Norway"))]
    assert fill(folder, "The queen of ___ walks by the river.", capsys, "--max-pieces", "1")[0]["pieces"] == [1]
    both = fill(folder, "The ___ of Norway walks ___ the river.", capsys, "--n", "2")
    assert both[0]["text"] == SENTENCES[1] and len(both) == 2


def test_chinese_and_the_beginning_of_a_text_need_no_space(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(folder, "___，它学会了说话。", capsys)[0]["text"] == SENTENCES[2]
    assert fill(folder, "___ king of Denmark sleeps in the garden.", capsys)[0]["text"] == SENTENCES[0]


def test_lines_for_a_person(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", str(folder), "The queen of ___ walks by the river.", "--n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "%  The queen of Norway walks by the river.   (mean of 3 pieces)" in lines[0]


def test_what_cannot_be_filled_is_one_line(folder: Path, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(words: str, *argv: str) -> None:
        assert main(["fill", *argv]) == 2
        said = capsys.readouterr().err
        assert said.count("myna: ") == 1 and words in said.splitlines()[-1]  # a mixture is named before

    refused("no blank", str(folder), "The king of Denmark")
    refused("at most 64", str(folder), "The ___ of Denmark " * 20)
    refused("n is 0", str(folder), "___", "--n", "0")
    refused("myna build --family encoder", str(built.folder), "The ___ of Denmark")
    refused("myna build --family encoder", str(built.ngram), "The ___ of Denmark")
    body = Encoder(EncoderConfig(vocab_size=Tokenizer.open(folder).vocab_size, hidden_size=32, num_hidden_layers=1, masked_head=False))
    save_model(body, tmp_path, None)
    Tokenizer.open(folder).save(tmp_path)
    refused("no head that predicts tokens", str(tmp_path), "The ___ of Denmark")


class Table:
    """A model whose pieces depend on the piece before and on whether the next is still hidden."""

    max_length = 50

    def __init__(self, size: int, mask_id: int) -> None:
        self.scores = np.random.default_rng(0).normal(0, 3, (size, 2, size))
        self.scores -= np.logaddexp.reduce(self.scores, axis=-1, keepdims=True)
        self.mask_id = mask_id

    def masked_log_probs(self, ids: Any, mask: Any = None, chosen: Any = None) -> Any:
        rows, columns = np.nonzero(chosen.numpy())
        values = ids.numpy()
        return self.scores[values[rows, columns - 1], (values[rows, columns + 1] == self.mask_id).astype(int)].astype(np.float32)


def test_a_wide_search_finds_what_trying_everything_finds(folder: Path) -> None:
    tokenizer = Tokenizer.open(folder)
    marks = read_marks(tokenizer)
    table: Any = Table(tokenizer.vocab_size, marks.mask_id)
    found = fill_text(table, tokenizer, "a___b", FillOptions(n=400, max_pieces=2))
    ends = tokenizer.encode("a")[0]
    word = [id for id, piece in enumerate(tokenizer.token_bytes) if piece[:1].strip() and id not in tokenizer.special_ids]
    best: dict[str, float] = {}
    for pieces in [*itertools.product(word), *itertools.product(word, repeat=2)]:
        chain = [ends, *pieces]
        total = sum(float(table.scores[chain[i], int(i < len(pieces) - 1), chain[i + 1]]) for i in range(len(pieces)))
        try:
            text = tokenizer.decode_bytes(pieces).decode("utf-8")
        except UnicodeDecodeError:
            continue
        best[text] = max(best.get(text, -math.inf), total / len(pieces))
    expected = sorted(best, key=lambda text: -best[text])[:5]
    assert [filling.words[0] for filling in found[:5]] == expected
    assert math.log(found[0].probability) == pytest.approx(best[expected[0]], abs=1e-4)
    with pytest.raises(UserError, match="max_pieces"):
        fill_text(table, tokenizer, "___", FillOptions(max_pieces=0))


def test_a_text_comes_from_standard_input_as_well(folder: Path, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    text = "我有一只___，它学会了说话。"
    expected = fill(folder, text, capsys)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode() + b"\n"), encoding="ascii"))
    assert main(["fill", str(folder), "-", "--json"]) == 0
    assert [filling.text for filling in myna.load(folder).fill(text, n=2)] == [one["text"] for one in expected[:2]]
    assert json.loads(capsys.readouterr().out) == {"text": text, "options": {"n": 5, "max_pieces": 3}, "fillings": expected}
