"""Sentence vectors: those of `transformers` with the same pooling, whatever else is in the call; the commands; MiniLM where it is."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.models.fetched import resolve_model
from myna.models.pooling import Pooling, read_pooling
from myna.models.pretrained import save_model
from myna.tasks.embed import embed_texts, rank_texts
from myna.tokenizer.tokenizer import Tokenizer
from tests.models.decoders import random_decoder, small_tokenizer

ENGLISH = [line.strip() for text in topics.values() for line in text.split(".") if 3 < len(line.strip()) < 300]
TEXTS = ["A cat sits.", "", "今天天气很好，我们去公园散步。", "🙂🙃 emoji 👩\u200d👩\u200d👧", "龘 春眠不觉晓，处处闻啼鸟。", " ",
         "x " * 400, "naïve café \ufb01", *ENGLISH[:20]]

CAT = "一只猫坐在垫子上，窗外正下着雨，它看着我们不说话。"


def write_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a small random encoder and its WordPiece tokenizer as `transformers` does."""
    rust = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    rust.normalizer, rust.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rust.train_from_iterator(ENGLISH + TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    rust.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
                            mask_token="[MASK]").save_pretrained(folder)
    shape: dict[str, Any] = {"vocab_size": rust.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 48, "max_position_embeddings": 130, "pad_token_id": 0, "initializer_range": 0.3}
    torch.manual_seed(seed)
    (BertModel(BertConfig(**shape)) if kind == "bert" else RobertaModel(RobertaConfig(**shape))).save_pretrained(folder)
    return folder


def theirs(folder: Path, texts: list[str], pooling: Pooling, length: int) -> np.ndarray[Any, Any]:
    """Pool by hand what `transformers` computes as sentence-transformers does: padded batches, sorted by length."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = {}
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for at in range(0, len(order), 16):
        numbers = order[at : at + 16]
        batch = tokenizer([texts[number] for number in numbers], padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        match pooling.mode:
            case "mean":
                out = (hidden * mask).sum(1) / mask.sum(1)
            case "cls":
                out = hidden[:, 0]
            case "max":
                out = hidden.masked_fill(mask == 0, -1e9).max(1).values
            case "mean_sqrt_len":
                out = (hidden * mask).sum(1) / mask.sum(1).sqrt()
        found |= dict(zip(numbers, torch.nn.functional.normalize(out, dim=1) if pooling.normalize else out, strict=True))
    return torch.stack([found[number] for number in range(len(texts))]).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bert"), "bert")


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len"])
def test_vectors_are_those_of_transformers(tmp_path: Path, kind: str, mode: Any) -> None:
    write_encoder(tmp_path, kind)
    pooling = Pooling(mode, mode == "mean", 64)
    model = myna.load(tmp_path)
    got = embed_texts(model.model, model.tokenizer, pooling, TEXTS)
    assert got.dtype == np.float32 and got.shape == (len(TEXTS), 32)
    expected = theirs(tmp_path, TEXTS, pooling, 64)
    assert np.abs(expected[0] - expected[2]).max() > 0.1  # or they would all be equal
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_vector_does_not_depend_on_what_else_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = myna.load(folder)
    together = model.embed(TEXTS)
    np.testing.assert_allclose(model.embed(TEXTS[::-1])[::-1], together, rtol=0, atol=1e-5)
    monkeypatch.setattr("myna.tasks.embed._AT_ONCE", 1)
    monkeypatch.setattr("myna.tasks.embed._READ", 7)
    np.testing.assert_allclose(model.embed(TEXTS), together, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.embed(TEXTS[3]), together[3:4], rtol=0, atol=1e-5)
    assert model.embed([]).shape == (0, 32)


def test_marks_in_a_text_are_text(folder: Path) -> None:
    model = myna.load(folder)
    ids = model.tokenizer.encode_inputs(["a [SEP] b"])[0]
    assert ids.count(3) == 1
    assert np.abs(np.diff(model.embed(["a [SEP] b", "a b"]), axis=0)).max() > 0.01


def test_texts_that_are_cut_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = myna.load(folder)
    embed_texts(model.model, model.tokenizer, Pooling(max_length=16), ["short", "word " * 40, "long " * 30])
    assert "2 of 3 texts were longer than 16 tokens" in capsys.readouterr().err
    embed_texts(model.model, model.tokenizer, Pooling(lower_case=True), ["short"])
    assert "longer" not in capsys.readouterr().err


def test_texts_of_unknown_characters_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = myna.load(folder)
    model.embed(["驫驫 驫驫", "the dog", "驫 the dog runs on the mat"])
    assert "1 of 3 texts are a third or more of what the tokenizer does not know" in capsys.readouterr().err
    model.embed(["the dog"])
    assert capsys.readouterr().err == ""


def test_the_command_prints_writes_and_reads_lines(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    expected = myna.load(folder).embed([CAT, "a dog", ""])
    file = tmp_path / "texts.txt"
    file.write_bytes(f"{CAT}\r\na dog\n\n".encode("gb18030"))  # the last line is empty, and a text
    assert main(["embed", str(folder), "--file", str(file), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["texts"], value["width"], value["pooling"]) == (3, 32, "mean")
    np.testing.assert_allclose(value["embeddings"], expected, atol=1e-6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n")))
    out = tmp_path / "vectors.npy"
    assert main(["embed", str(folder), CAT, "-", "", "--out", str(out)]) == 0
    assert "the directory says nothing of it" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(out, allow_pickle=False), expected, atol=1e-6)
    assert main(["embed", str(folder), "one\x1b[2J text"]) == 0
    line = capsys.readouterr().out
    assert main(["embed", str(folder), "--file", str(file)]) == 0
    assert "is read as gb" in capsys.readouterr().err
    assert line.endswith("...  one [2J text\n") and len(line.split()) == 10


def test_similar_orders_texts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the dog runs", "a cat sits on the mat", "今天天气很好", "a cat sits"]
    vectors = myna.load(folder).embed(["a cat sits", *texts])
    cosines = vectors[1:] @ vectors[0] / np.linalg.norm(vectors[1:], axis=1) / np.linalg.norm(vectors[0])
    capsys.readouterr()
    (tmp_path / "t.txt").write_text("\n".join(texts[2:]) + "\n", encoding="utf-8")
    assert main(["similar", str(folder), "a cat sits", *texts[:2], "--file", str(tmp_path / "t.txt"), "--n", "3", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["candidates"] == 4 and [one["text"] for one in value["nearest"]] == [texts[i] for i in np.argsort(-cosines)[:3]]
    assert value["nearest"][0]["text"] == "a cat sits" and value["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert main(["similar", str(folder), "a cat sits", *texts]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "  1.000  a cat sits"
    assert rank_texts(np.zeros(3, np.float32), np.eye(3, dtype=np.float32))[0] == (0, 0.0)


def test_what_cannot_be_asked_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(random_decoder(vocab_size=512), tmp_path / "decoder", None)
    small_tokenizer(tmp_path / "corpus").save(tmp_path / "decoder")
    calls = [(["embed", str(folder)], "no text"), (["embed", str(folder), "x", "--out", "x.txt"], ".npy"),
             (["embed", str(folder), "x", "--out", str(tmp_path / "none" / "x.npy")], ".npy"),
             (["embed", str(folder), "--file", str(tmp_path / "none")], "no such file"),
             (["embed", str(tmp_path / "decoder"), "x"], "an encoder"), (["embed", str(tmp_path / "gone"), "x"], "no such model"),
             (["similar", str(folder), "a", "b", "--analogy", "c", "d"], "--analogy"),
             (["similar", str(tmp_path / "decoder"), "a", "b"], "an encoder")]
    capsys.readouterr()
    for argv, words in calls:
        assert main(argv) == 2, argv
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and words in said, said


def test_a_tokenizer_without_marks_has_no_vector_for_nothing(folder: Path) -> None:
    model = myna.load(folder)
    plain = small_tokenizer_without_marks(folder)
    with pytest.raises(UserError, match="text 2 is empty"):
        embed_texts(model.model, plain, Pooling(), ["a", ""])


def small_tokenizer_without_marks(folder: Path) -> Tokenizer:
    text = json.loads((folder / "tokenizer.json").read_text())
    text["post_processor"] = None
    target = folder.parent / "plain"
    target.mkdir(exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(text))
    (target / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    return Tokenizer.open(target)


def minilm() -> Path:
    try:
        return resolve_model("minilm")
    except UserError as error:
        pytest.skip(str(error))


def test_minilm_gives_the_vectors_of_transformers_on_200_texts() -> None:
    folder = minilm()
    pooling = read_pooling(folder)
    assert (pooling.mode, pooling.normalize, pooling.max_length, pooling.said) == ("mean", True, 256, True)
    texts = [*TEXTS, *ENGLISH[20:192]]
    assert len(texts) == 200
    got = myna.load("minilm").embed(texts)
    assert np.abs(got - theirs(folder, texts, pooling, 256)).max() < 1e-4


def test_minilm_puts_what_means_the_same_together() -> None:
    minilm()
    query, *others = myna.load("minilm").embed(["How do I reset my password?", "I forgot my login", "The weather is fine today"])
    assert rank_texts(query, np.stack(others))[0][0] == 0
