"""`myna show`: a finished build, a bare model directory, a corpus, tokens, and what is none of these."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from myna.cli.main import main
from tests.evaluate.directories import HOSTILE, write_directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "my-model")


def read_show(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return " ".join(out.split())


def test_a_build_is_described_in_80_columns(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = read_show(model, capsys)
    for words in ("my-model: a Transformer decoder of 32.8k parameters", "Myna and transformers (model_type qwen3)",
                  "layers 2 of width 64, attention 2 heads of 32, 1 for keys and values, context 256 tokens",
                  "512 tokens", "72 files, 1.5MB read, 1.4MB kept; dropped: duplicate 70.0kB", "train 1.2MB, valid 68.0kB, test 70.0kB",
                  "400 steps in 3 min 0 s, 910.0MB of memory, 1.860 bits per byte", "400 steps in 2 min 56 s, 871.0MB",
                  "Myna 0.1.0, seed 7, 2 threads", "6-gram", "1.837", "significantly better"):
        assert words in said, words


def test_json_has_the_stated_keys(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(model), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["kind", "model_type", "family", "parameters", "vocab_size", "context", "files", "mixture", "report", "lineage",
                           "plan",                           "actual"]
    assert value["model_type"] == "qwen3" and value["family"] == "decoder" and value["vocab_size"] == 512 and value["context"] == 256
    assert value["parameters"] == 512 * 64 + 64  # the tied head is stored twice and counts once
    assert value["report"] == json.loads((model / "myna.json").read_text(encoding="utf-8"))["report"]
    assert value["files"]["config.json"] == (model / "config.json").stat().st_size and "log.jsonl" in value["files"]
    assert value["lineage"]["seed"] == 7 and value["plan"]["steps"] == 400 and value["actual"]["steps"] == 400


def test_an_n_gram_counts_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_directory(tmp_path / "m", family="ngram")
    said = read_show(folder, capsys)
    assert "m: an n-gram model opens in Myna; transformers cannot load it" in said and "order 3" in said and "21.0k of length 3" in said
    main(["show", str(folder), "--json"])
    value = json.loads(capsys.readouterr().out)
    assert value["parameters"] == 512 + 9000 + 21000 + 512 + 9000 and value["context"] == 2 and value["plan"] == {}


def test_a_bare_model_directory_says_less(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in model.rglob("*"):
        if path.is_file() and path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    said = read_show(model, capsys)
    assert "32.8k parameters" in said and "No scores are kept" in said and "myna evaluate" in said
    assert "planned" not in said and "made by" not in said


def test_corpus_and_tokens_are_known_too(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = read_show(model / "corpus", capsys)
    for words in ("corpus: a cleaned corpus", "72 (70 ok, 1 partial, 1 rejected)", "duplicate 70.0kB, an image 5.0kB, unreadable 40B",
                  "line endings 2.8k characters", "picture.png: an image", "cut into sections"):
        assert words in said, words
    assert "Han" in read_show(model / "tokens", capsys)
    for name in ("corpus", "tokens"):
        assert main(["show", str(model / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == name


def test_no_text_can_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_directory(tmp_path / "m\x1b[2J\nx", text=HOSTILE.replace("/", "∕") + "\x1b]0;owned\x07\u202e")
    assert main(["show", str(folder)]) == 0 and main(["show", str(folder / "corpus")]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\u202e") and "alert(1)" in out


def test_a_name_that_is_no_utf8_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_directory(tmp_path / "m")
    (folder / "extra\udcff").write_bytes(b"x")
    assert main(["show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["extra\\xff"] == 1


def test_damage_and_strangers_are_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: Path, words: str) -> None:
        assert main(["show", str(path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("myna: ") and said.count("\n") == 1 and words in said

    refused(tmp_path / "absent", "no such file or folder")
    refused(tmp_path, "no config.json")
    myna = json.loads((model / "myna.json").read_text(encoding="utf-8"))
    for key, value in (("report", []), ("actual", {"seconds": "x"}), ("plan", {"predicted": {"seconds": 1}})):
        (model / "myna.json").write_text(json.dumps({**myna, key: value}), encoding="utf-8")
        refused(model, "damaged")
    (model / "myna.json").unlink()
    config = (model / "config.json").read_text(encoding="utf-8")
    (model / "config.json").write_text(config.replace("qwen3", "gpt9"), encoding="utf-8")
    refused(model, "model_type 'gpt9'")
    (model / "config.json").write_text(config, encoding="utf-8")
    (model / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")  # a header far longer than the file
    refused(model, "cannot be read")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(model, "a pickle")


def test_torch_is_not_loaded(model: Path) -> None:
    program = f"import sys; from myna.cli.main import main; main(['show', {str(model)!r}]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0
