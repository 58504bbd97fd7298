"""Shards hold the corpus without loss, and every block points at the bytes it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from myna import files
from myna.cli.main import main
from myna.corpus.store import Corpus
from myna.data import shards
from myna.data.shards import BLOCK, Shard, prepare_tokens, write_shards
from myna.errors import UserError
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

CHINESE = "春眠不觉晓，处处闻啼鸟。\n\u3000\u3000夜来风雨声，花落知多少。\n\n"
TRAIN = ["a", *list(topics.values())[:40], CHINESE * 3000, "x" * 200_000, "<|endoftext|>\n", "🦜" * 700]
VALID = [topics["for"], CHINESE]
TEST = ["just one\n"]
OPTIONS = TokenizerOptions(vocab_size=512)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", TRAIN, VALID, TEST)


@pytest.fixture(scope="module")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    return prepare_tokens(corpus, tmp_path_factory.mktemp("tokens") / "t", OPTIONS)


@pytest.mark.parametrize(("name", "texts"), [("train", TRAIN), ("valid", VALID), ("test", TEST)])
def test_documents_come_back_whole(made: tuple[Tokenizer, Path], name: str, texts: list[str]) -> None:
    tokenizer, folder = made
    shard = Shard.open(folder, name)
    assert shard.ids.dtype == np.uint16
    assert len(shard.documents) == len(texts)
    assert [tokenizer.decode(shard.ids[row["start"] : row["end"]]) for row in shard.documents] == texts
    assert [int(row["bytes"]) for row in shard.documents] == [len(text.encode()) for text in texts]
    assert shard.text_bytes == sum(len(text.encode()) for text in texts)
    assert (np.flatnonzero(shard.ids == tokenizer.separator_id) == shard.documents["end"]).all()
    assert shard.documents["end"][-1] + 1 == len(shard)


@pytest.mark.parametrize("batch", [None, 1, 70_000])
def test_blocks_point_at_the_source(corpus: Corpus, made: tuple[Tokenizer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    batch: int | None) -> None:
    tokenizer, folder = made
    if batch is not None:  # what is encoded together changes nothing
        monkeypatch.setattr(shards, "_BATCH", batch)
        write_shards(corpus, tokenizer, tmp_path)
        assert (tmp_path / "train.bin").read_bytes() == (folder / "train.bin").read_bytes()
        assert (tmp_path / "train.blocks.npy").read_bytes() == (folder / "train.blocks.npy").read_bytes()
        return
    shard = Shard.open(folder, "train")
    expected = []
    for number, row in enumerate(shard.documents):
        ids = shard.ids[row["start"] : row["end"]].tolist()
        for k in range(0, len(ids), BLOCK):
            # document i of the test corpus is file i and begins at byte 1000 * i of it
            expected.append((row["start"] + k, number, number, 1000 * number + len(tokenizer.decode_bytes(ids[:k]))))
    assert shard.blocks.tolist() == expected
    for token in (0, 1, 2, 300, len(shard) - 1, int(shard.documents["end"][5])):
        block = max(row for row in expected if row[0] <= token)
        assert tuple(shard.locate(token)) == block[1:]
    for outside in (-1, len(shard)):
        with pytest.raises(IndexError):
            shard.locate(outside)


def test_later_parts_keep_their_documents(made: tuple[Tokenizer, Path]) -> None:
    shard = Shard.open(made[1], "valid")
    assert shard.documents["document"].tolist() == [len(TRAIN), len(TRAIN) + 1]
    assert shard.documents["offset"].tolist() == [1000 * len(TRAIN), 1000 * (len(TRAIN) + 1)]


def test_long_documents_have_the_ids_of_the_whole_text(made: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = made
    shard = Shard.open(folder, "train")
    number = TRAIN.index(CHINESE * 3000)
    row = shard.documents[number]
    assert shard.ids[row["start"] : row["end"]].tolist() == tokenizer.encode(TRAIN[number])


def test_the_report_adds_up(corpus: Corpus, made: tuple[Tokenizer, Path]) -> None:
    report = json.loads((made[1] / "report.json").read_text(encoding="utf-8"))
    assert report["vocab_size"] == 512
    for name, texts in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        assert report["parts"][name]["bytes"] == sum(len(text.encode()) for text in texts)
        assert report["parts"][name]["documents"] == len(texts)
        assert report["parts"][name]["tokens"] == len(Shard.open(made[1], name)) - len(texts)
    for key in ("bytes", "tokens"):
        assert sum(row[key] for row in report["scripts"].values()) == report[key] == sum(part[key] for part in report["parts"].values())
    han = sum(3 * sum("\u4e00" <= c <= "\u9fff" for c in text) for text in (*TRAIN, *VALID, *TEST))
    assert report["scripts"]["Han"]["bytes"] >= 0.9 * han


def test_a_finished_directory_is_used_again_and_another_refused(corpus: Corpus, made: tuple[Tokenizer, Path],
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    before = (made[1] / "manifest.json").stat().st_mtime_ns
    again, _ = prepare_tokens(corpus, made[1], OPTIONS)
    assert again.fingerprint == made[0].fingerprint
    assert (made[1] / "manifest.json").stat().st_mtime_ns == before
    assert "used as it is" in capsys.readouterr().err
    with pytest.raises(UserError, match="vocab_size was 512, now 576"):
        prepare_tokens(corpus, made[1], TokenizerOptions(vocab_size=576))
    with pytest.raises(UserError, match="other options"):
        prepare_tokens(corpus, made[1], OPTIONS, made[0])


def test_a_given_tokenizer_is_kept(corpus: Corpus, made: tuple[Tokenizer, Path], tmp_path: Path) -> None:
    tokenizer, folder = prepare_tokens(corpus, tmp_path / "t", TokenizerOptions(), made[0])
    assert tokenizer.fingerprint == made[0].fingerprint
    for name in ("tokenizer.json", "train.bin", "valid.blocks.npy"):
        assert (folder / name).read_bytes() == (made[1] / name).read_bytes()
    other = train_tokenizer(corpus, TokenizerOptions(vocab_size=320))
    with pytest.raises(UserError, match="tokenizer was"):
        prepare_tokens(corpus, tmp_path / "t", TokenizerOptions(), other)


def test_every_file_is_in_the_manifest(made: tuple[Tokenizer, Path]) -> None:
    manifest = files.read_json(made[1] / "manifest.json")
    assert set(manifest["outputs"]) == {file.name for file in made[1].iterdir()} - {"manifest.json"}
    assert manifest["inputs"].keys() == {"corpus"}


def test_a_failure_leaves_nothing(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(shards, "write_shards", fail)
    with pytest.raises(UserError):
        prepare_tokens(corpus, tmp_path / "t", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_changes_text_is_refused(made: tuple[Tokenizer, Path], tmp_path: Path) -> None:
    described = json.loads((made[1] / "tokenizer.json").read_text(encoding="utf-8"))
    described["normalizer"] = {"type": "NFC"}
    composing = Tokenizer(json.dumps(described))
    with pytest.raises(UserError, match="changes the text"):
        prepare_tokens(write_corpus(tmp_path / "c", ["e\u0301"]), tmp_path / "t", OPTIONS, composing)


def test_empty_parts_and_wide_vocabularies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "c", ["some text\n"])
    tokenizer = train_tokenizer(corpus, TokenizerOptions())
    monkeypatch.setattr(tokenizer, "vocab_size", 70_000)
    tokenizer.save(tmp_path)
    write_shards(corpus, tokenizer, tmp_path)
    assert len(Shard.open(tmp_path, "valid")) == 0
    assert Shard.open(tmp_path, "valid").text_bytes == 0
    shard = Shard.open(tmp_path, "train")
    assert shard.ids.dtype == np.uint32
    assert tokenizer.decode(shard.ids[:-1]) == "some text\n"


def test_damaged_shards_are_errors(made: tuple[Tokenizer, Path], tmp_path: Path) -> None:
    shutil.copytree(made[1], tmp_path / "t")
    with pytest.raises(UserError, match="'dev'"):
        Shard.open(tmp_path / "t", "dev")
    with (tmp_path / "t" / "train.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="its size is wrong"):
        Shard.open(tmp_path / "t", "train")
    np.save(tmp_path / "t" / "valid.blocks.npy", np.zeros(3))
    with pytest.raises(UserError, match="other columns"):
        Shard.open(tmp_path / "t", "valid")


def test_many_rows_fill_a_table(tmp_path: Path) -> None:
    with shards._Rows(tmp_path / "t.npy", shards.BLOCK_ROW) as rows:
        for i in range(40_000):
            rows.append((i, 1, 2, 3 * i))
    table = np.load(tmp_path / "t.npy")
    assert table["offset"].tolist() == [3 * i for i in range(40_000)]
    assert table.dtype == shards.BLOCK_ROW


def test_the_command_prints_a_table_and_json(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["tokenize", str(corpus.folder), "--out", str(tmp_path / "t"), "--vocab-size", "512"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "vocabulary 512 tokens, 4 of them special; pre-tokenizer qwen2" in printed
    assert any(line.startswith("Han") for line in printed.splitlines())
    assert max(map(len, printed.splitlines())) <= 80
    assert main([*flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["test"]["documents"] == 1
    assert main(["tokenize", str(corpus.folder), "--out", str(tmp_path / "u"), "--tokenizer", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    assert main([*flags, "--tokenizer", str(tmp_path / "t")]) == 2
    assert main([*flags, "--kind", "bqe"]) == 2
    assert "did you mean bpe" in capsys.readouterr().err
