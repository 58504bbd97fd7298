"""Heads that label words: as `transformers` computes them, whatever stands beside, and as they were saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from myna.errors import UserError
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.models.token_head import NO_LABEL, NeuralTagger, TokenClassifier, WordEncoder, lay_out
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import learn_tokenizer

SENTENCES = [["我哋", "去", "香港", "食", "飯", "。"], ["OK", "啦"], ["去"]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_tokenizer([" ".join(words) for words in SENTENCES] * 3, 400)


def tiny(kind: str, vocab_size: int) -> Encoder | Recurrent:
    if kind in ("gru", "forward"):
        return Recurrent(RecurrentConfig("gru", vocab_size, 8, 1, 8 if kind == "forward" else 16, bidirectional=kind == "gru"), seed=4)
    return Encoder(EncoderConfig(vocab_size, 32, 2, model_type=kind, max_position_embeddings=40, pad_token_id=1), seed=1)


def make(kind: str, tokenizer: Tokenizer, length: int = 32) -> NeuralTagger:
    model = TokenClassifier(tiny(kind, tokenizer.vocab_size), ["a", "b", "c"], seed=2).requires_grad_(False).eval()
    return NeuralTagger(model, tokenizer, length)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "gru", "forward"])
def test_a_tagger_opens_as_it_was_saved_and_padding_changes_nothing(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    before = make(kind, tokenizer)
    before.save(tmp_path)
    after = NeuralTagger.open(tmp_path)
    together = after.emit(SENTENCES)
    for words, mine, row in zip(SENTENCES, before.emit(SENTENCES), together, strict=True):
        assert row.shape == (len(words), 3)
        np.testing.assert_array_equal(mine, row)
        np.testing.assert_allclose(after.emit([words])[0], row, atol=1e-5)
        np.testing.assert_allclose(np.exp(row).sum(axis=1), 1, atol=1e-5)
    assert after.tags == ["a", "b", "c"] and after.tokens == "words"
    if kind in ("gru", "forward"):
        return
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    [pieces] = after.words.encode(SENTENCES[0])
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor([pieces.ids])).logits[0, pieces.first].log_softmax(-1).numpy()
    np.testing.assert_allclose(logits, together[0], atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    for mine, row in zip(NeuralTagger.open(tmp_path / "theirs").emit(SENTENCES), together, strict=True):
        np.testing.assert_allclose(mine, row, atol=1e-5)


def test_words_are_pieces_with_the_places_that_transformers_gives(tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers import models, normalizers, pre_tokenizers, processors

    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "un", "##der", "##stand", "bird", "去"]
    rust = RustTokenizer(models.WordPiece({name: at for at, name in enumerate(names)}, unk_token="[UNK]"))
    rust.normalizer, rust.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 1), ("[SEP]", 2)])
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, pad_token="[PAD]")
    words = ["understand", "bird", "去", "xyz"]

    class Mine:
        """What `WordEncoder` asks of a tokenizer."""

        def encode(self, text: str) -> list[int]:
            return list(rust.encode(text, add_special_tokens=False).ids)

        def encode_inputs(self, texts: list[str]) -> list[list[int]]:
            return [rust.encode(text).ids for text in texts]

    [pieces] = WordEncoder(Mine(), 32, True).encode(words)  # type: ignore[arg-type]
    given = theirs(words, is_split_into_words=True)
    assert pieces.ids == given["input_ids"]
    owners = given.word_ids()
    assert pieces.first == [owners.index(word) for word in range(4)]
    assert pieces.last == [len(owners) - 1 - owners[::-1].index(word) for word in range(4)]


def test_long_sentences_are_read_in_parts_and_a_word_that_does_not_fit_is_refused(tokenizer: Tokenizer) -> None:
    tagger = make("bert", tokenizer, length=12)
    words = ["去", "飯"] * 20
    rows = tagger.words.encode(words)
    assert len(rows) > 2 and max(len(row.ids) for row in rows) <= 12 and sum(len(row.first) for row in rows) == 40
    [found] = tagger.emit([words])
    np.testing.assert_allclose(found[: len(rows[0].first)], tagger.emit([words[: len(rows[0].first)]])[0], atol=1e-6)
    with pytest.raises(UserError, match="pieces"):
        tagger.emit([["飯" * 30]])


def test_the_loss_is_of_words_alone(tokenizer: Tokenizer) -> None:
    tagger = make("gru", tokenizer)
    batch = {**lay_out([tagger.words.encode(words)[0] for words in SENTENCES]),
             "labels": torch.tensor([[0, 1, 2, 0, 1, 2], [1, 2] + [NO_LABEL] * 4, [0] + [NO_LABEL] * 5])}
    assert tagger.model.counts(batch) == {"label": 9}
    loss = float(tagger.model.loss(batch)[0]["label"][0])
    wanted = -sum(row[at, label] for row, labels in zip(tagger.emit(SENTENCES), batch["labels"].tolist(), strict=True)
                  for at, label in enumerate(labels) if label != NO_LABEL)
    assert loss == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("change", [{"model_type": "x"}, {"id2label": {"0": "a"}}, {"tokens": "x"}, {"max_length": 0}, {"hidden_size": 64}])
def test_a_damaged_directory_is_refused(tmp_path: Path, tokenizer: Tokenizer, change: dict[str, object]) -> None:
    make("gru", tokenizer).save(tmp_path)
    value = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(UserError):
        NeuralTagger.open(tmp_path)
