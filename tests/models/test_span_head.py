"""A reader of spans: its directory is that of `transformers`, its scores too, and it learns where an answer stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from myna.errors import UserError
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.span_head import SpanModel, Spans, best_span
from myna.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "tower", "was", "built", "by", "anna", "berta", "in", "1612", "who", "塔",
             "高", "三", "米", "?", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return Tokenizer.open(tmp_path)


def make(tokenizer: Tokenizer, kind: str = "bert") -> Spans:
    config = EncoderConfig(tokenizer.vocab_size, 64, 2, kind, pad_token_id=0, max_position_embeddings=64)
    return Spans(SpanModel(Encoder(config, seed=1)), tokenizer, 48)


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_transformers_opens_it_with_the_same_scores(tokenizer: Tokenizer, tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    spans = make(tokenizer, kind)
    spans.save(tmp_path / "model")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model").eval()
    row = spans.encode("who built the tower ?", "anna built it in 1612 . 塔高三米")
    batch = spans.collate([row])
    ours = spans.model.eval().scores(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])[0].detach()
    out = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], token_type_ids=batch["token_type_ids"])
    assert torch.allclose(ours[:, 0], out.start_logits[0], atol=1e-5) and torch.allclose(ours[:, 1], out.end_logits[0], atol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    tokenizer.save(tmp_path / "again")
    assert Spans.open(tmp_path / "again").read("who ?", ["anna . 塔"])[0] == pytest.approx(spans.read("who ?", ["anna . 塔"])[0], abs=1e-4)


def test_the_best_span_is_the_highest_sum_in_order(tokenizer: Tokenizer) -> None:
    row = make(tokenizer).encode("who ?", "anna built 塔高三米")
    scores = np.random.default_rng(0).normal(size=(len(row.ids), 2)).astype(np.float32)
    pairs = {(i, j): scores[row.first + i, 0] + scores[row.first + j, 1] for i in range(len(row.places)) for j in range(i, len(row.places))}
    (i, j), best = max(pairs.items(), key=lambda item: item[1])
    found = best_span(scores, row)
    assert found.score == pytest.approx(best - scores[0].sum(), abs=1e-5)
    assert (found.start, found.end) == (row.places[i][0], row.places[j][1])


def test_it_learns_where_the_answer_stands_and_says_none(tokenizer: Tokenizer) -> None:
    spans = make(tokenizer)
    texts = ["the tower was built by anna in 1612 .", "berta built the 塔 .", "the tower was built in 1612 ."]
    rows = [spans.encode("who built the tower ?", text) for text in texts]
    labels = [next(((row.first + n,) * 2 for n, (a, b) in enumerate(row.places) if text[a:b] in ("anna", "berta")), (0, 0))
              for row, text in zip(rows, texts, strict=True)]
    batch = {**spans.collate(rows), "labels": torch.tensor(labels)}
    optimizer = torch.optim.Adam(spans.model.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        losses, _ = spans.model.train().loss(batch)
        losses["span"][0].backward()
        optimizer.step()
    found = spans.read("who built the tower ?", texts)
    assert [text[span.start:span.end] for text, span in zip(texts[:2], found, strict=False)] == ["anna", "berta"]
    assert found[2].score < min(found[0].score, found[1].score) - 4  # the third text does not say


def test_a_question_that_leaves_no_room_is_one_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="a question of 40 tokens; expected at most"):
        make(tokenizer).read("who " * 40, ["anna"])
    spans = make(tokenizer)
    assert spans.read("who ?", ["anna " * 100])[0].end <= 500 and spans.cut == 1


def test_a_damaged_head_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make(tokenizer).save(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["qa_outputs.weight"] = torch.zeros(3, 64)
    save_file(weights, tmp_path / "model" / "model.safetensors")
    with pytest.raises(UserError, match=r"qa_outputs.weight .* is \[3, 64\]"):
        Spans.open(tmp_path / "model")
