"""`myna evaluate`: a model directory and a file in, the table or one JSON object out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.cli.main import main
from myna.data.shards import Shard, write_shards
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.ngram import fit_ngram
from myna.models.options import NgramOptions
from myna.models.pretrained import save_model
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.evaluate.test_language import write_text
from tests.tokenizer.corpora import write_corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model (here the better n-gram) and its baseline (unigrams)."""
    folder = tmp_path_factory.mktemp("command")
    corpus = write_corpus(folder / "corpus", [write_text(i) for i in range(20)], [write_text(50)])
    tokenizer = train_tokenizer(corpus, TokenizerOptions(vocab_size=320))
    (folder / "tokens").mkdir()
    write_shards(corpus, tokenizer, folder / "tokens")
    train, valid = (Shard.open(folder / "tokens", name).ids for name in ("train", "valid"))
    for place, order in ((folder / "model", 4), (folder / "model" / "ngram", 1)):
        fit_ngram(train, valid, tokenizer.vocab_size, tokenizer.separator_id, NgramOptions(order=order)).save(place)
        tokenizer.save(place)
    return folder / "model"


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    (tmp_path / "unseen.txt").write_text("\n\n".join(write_text(seed) for seed in range(70, 80)), encoding="utf-8")
    return tmp_path / "unseen.txt"


def test_json_has_model_baseline_and_difference(model: Path, unseen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model), str(unseen), "--resamples", "200", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["baseline"]["name"].startswith("1-gram")
    assert value["bits_per_byte"]["value"] < value["baseline"]["bits_per_byte"]["value"]
    assert value["bits_per_byte_improvement_percent"]["low"] > 0
    assert "bootstrap=200" in value["bits_per_byte"]["signature"]


def test_the_table_ends_with_the_verdict(model: Path, unseen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model), str(unseen)]) == 0
    said = capsys.readouterr()
    assert "bits per byte" in said.out and "significantly better" in " ".join(said.out.split())
    assert max(map(len, said.out.splitlines())) <= 80
    assert "cleaned text" in said.err


def test_a_model_without_a_baseline_says_so(model: Path, unseen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model / "ngram"), str(unseen), "--json"]) == 0
    said = capsys.readouterr()
    assert "no baseline" in said.err and "baseline" not in json.loads(said.out)


def test_what_was_left_out_of_the_text_is_said(model: Path, unseen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, binary = tmp_path / "copy.txt", tmp_path / "picture.txt"
    copy.write_bytes(unseen.read_bytes())
    binary.write_bytes(bytes(range(256)) * 40)
    assert main(["evaluate", str(model), str(unseen), str(copy), str(binary), "--json"]) == 0
    said = capsys.readouterr().err
    assert "evaluating on 1 document," in said and "dropped" in said and "picture.txt is rejected" in said


def test_wrong_use_is_one_line(model: Path, unseen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    for arguments in ([str(model), "absent.txt"], ["absent", str(unseen)], [str(tmp_path), str(unseen)], [str(model), str(empty)],
                      [str(model), str(unseen), "--resample", "5"], [str(model), str(unseen), "--resamples", "0"]):
        assert main(["evaluate", *arguments]) == 2, arguments
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("myna: ")


def test_a_precision_is_scored_beside_float32_and_kept_when_told(model: Path, unseen: Path, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    trained = tmp_path / "trained"
    tokenizer = Tokenizer.open(model)
    shape = DecoderConfig(tokenizer.vocab_size, hidden_size=64, num_hidden_layers=1, eos_token_id=tokenizer.separator_id)
    save_model(Decoder(shape), trained, None)
    tokenizer.save(trained)
    command = ["evaluate", str(trained), str(unseen), "--resamples", "200", "--precision", "int8"]
    assert main([*command, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    pair = value["precision"]["int8"]
    assert pair["value"] == value["bits_per_byte"]["value"] == pytest.approx(pair["float32"], rel=0.01) and pair["files"] == ["unseen.txt"]
    assert not (trained / "precision.json").exists()
    assert main([*command, "--keep"]) == 0
    line = f"int8: {pair['value']:.3f} bits per byte (float32 {pair['float32']:.3f})"
    assert capsys.readouterr().out.endswith(f"{line}\n")
    assert main(["show", str(trained)]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    for wrong in (["--keep"], ["--precision", "int8", "--keep", "--member", "decoder"], ["--precision", "int9"]):
        assert main(["evaluate", str(trained), str(unseen), *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
