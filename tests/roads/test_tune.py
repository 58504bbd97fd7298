"""The road of a tuning on a tiny model: what it leaves, who opens it, that it goes on after a kill, and what wrong use is told."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import myna
import myna.roads.language
import myna.roads.tune
from myna.cli.main import main
from myna.errors import UserError
from myna.files import sha256
from myna.metrics.report import Report
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.pretrained import load_model, save_model
from myna.recipe import TuneRecipe
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from myna.train.checkpoint import load_checkpoint
from myna.train.options import TuneOptions
from tests.tokenizer.corpora import write_corpus

FLAGS = ["--steps", "12", "--threads", "1", "--rank", "4", "--learning-rate", "0.01", "--train.validations", "2", "--batch-tokens", "256",
         "--evaluate.resamples", "200"]


@pytest.fixture(scope="module", autouse=True)
def short_measures() -> Any:
    """Measure little: the road is tested here, not the model."""
    patch = pytest.MonkeyPatch()
    for name, value in (("_TEST", 400), ("_UNRELATED", 600), ("_VALID", 300), ("_ANSWER_TOKENS", 6), ("_PROMPTS", 6)):
        patch.setattr(myna.roads.language, name, value)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(write_corpus(place / "corpus", list(topics.values())[:8]), TokenizerOptions(vocab_size=320))
    model = Decoder(DecoderConfig(tokenizer.vocab_size, 32, 1, 64, 2, 1, 16, 256, eos_token_id=tokenizer.separator_id, model_type="llama"))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "proj" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    save_model(model, place / "model", tokenizer.pad_id)
    tokenizer.save(place / "model")
    return place / "model"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "sums.jsonl"
    draw = random.Random(0)
    sums = {(draw.randint(0, 20), draw.randint(0, 20)) for _ in range(120)}
    path.write_text("".join(json.dumps({"question": f"{a}+{b}=?", "answer": f"It is {a + b}."}) + "\n" for a, b in sorted(sums)))
    return path


@pytest.fixture(scope="module")
def tuned(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "out"
    assert main(["tune", str(base), str(rows), "--out", str(out), "--merge", *FLAGS]) == 0
    return out


def test_the_directory_is_an_adapter_with_its_report(tuned: Path, base: Path) -> None:
    names = {path.name for path in tuned.iterdir()}
    assert names == {".lock", "README.md", "adapter_config.json", "adapter_model.safetensors", "baseline.json", "chat_template.jinja",
                     "generation_config.json", "log.jsonl", "merged", "myna.json", "plan.json", "report.html", "seen.bin", "tokenizer.json",
                     "tokenizer_config.json", "tokens"}
    record = json.loads((tuned / "myna.json").read_text())
    assert record["tuned"]["base_sha256"] == sha256(base / "model.safetensors") and record["tuned"]["method"] == "lora"
    assert len(record["tuned"]["answers"]) == 5 and record["tuned"]["prompts"] >= 5
    report = Report.from_json(record["report"])
    assert list(report.metrics) == ["bits_per_byte", "perplexity", "unrelated_bits_per_byte"] == list(report.improvements)
    assert report.improvements["bits_per_byte"].low > 0 and report.baseline == "the base, untuned"
    assert record["actual"]["steps"] == 12 and record["plan"]["predicted"]["peak_bytes"] > 0
    page, card = (tuned / "report.html").read_text(), (tuned / "README.md").read_text()
    assert "What the tuning changed" in page and "stopped by themselves" in page and "https://" not in page
    assert "library_name: peft" in card and record["tuned"]["base_sha256"] in card and "made from nothing" not in card


def test_the_log_has_every_step_and_the_loss_falls(tuned: Path) -> None:
    steps = [json.loads(line) for line in (tuned / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in steps if row["event"] == "step"]
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])


def test_merged_and_unmerged_give_the_same(tuned: Path, base: Path) -> None:
    ids = Tokenizer.open(tuned).encode("It is 4, and then some more of it")
    one, two, before = (load_model(folder).log_probs(ids) for folder in (tuned, tuned / "merged", base))
    assert abs(one - two).max() < 1e-5 < abs(one - before).max()
    assert ChatTemplate.open(tuned, Tokenizer.open(tuned)).end_ids


def distance(theirs: Any, folder: Path) -> float:
    """The largest difference between the log-probabilities of a text under another library's model and under ours."""
    tokenizer = Tokenizer.open(folder)
    ids = tokenizer.encode("It is 4, and then some more of it")
    with torch.no_grad():
        logits = theirs(torch.tensor([[tokenizer.separator_id, *ids]])).logits[0, :-1].log_softmax(-1)
    return float(abs(logits[torch.arange(len(ids)), ids].numpy() - load_model(folder).log_probs(ids)).max())


def test_peft_opens_the_adapter(tuned: Path, base: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tuned).eval()
    assert distance(theirs, tuned) < 1e-4


@pytest.mark.parametrize("method", ["full", "head"])
def test_the_other_methods_write_whole_models(method: str, base: Path, rows: Path, tmp_path: Path) -> None:
    report = myna.tune(base, rows, out=tmp_path / "out", method=method, steps=6, threads=1, learning_rate=0.003, batch_tokens=256,
                       precision="float32", options={"train.validations": 1, "evaluate.resamples": 200})
    assert report.metrics["bits_per_byte"].value < report.baseline_metrics["bits_per_byte"].value
    before, after = (load_model(folder) for folder in (base, tmp_path / "out"))
    same = torch.equal(before.layers[0].mlp.up_proj.weight, after.layers[0].mlp.up_proj.weight)
    assert same == (method == "head") and after.config.tie_word_embeddings == (method == "full")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert distance(theirs, tmp_path / "out") < 1e-4


def test_a_killed_run_goes_on_to_the_same_bits(base: Path, rows: Path, tmp_path: Path) -> None:
    flags = ["--steps", "16", *FLAGS[2:], "--train.checkpoint-seconds", "0"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["tune", str(base), str(rows), "--out", str(whole), *flags]) == 0
    code = "import sys, myna.roads.language as t; t._TEST, t._UNRELATED, t._VALID, t._ANSWER_TOKENS, t._PROMPTS = 400, 600, 300, 6, 6\n"
    code += "from myna.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, "tune", str(base), str(rows), "--out", str(killed), *flags],
                               stderr=subprocess.DEVNULL, cwd=Path(myna.__file__).parent.parent)
    deadline = time.monotonic() + 240
    while not list((killed / "checkpoints").glob("step-0000000[3-9]")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    checkpoint = load_checkpoint(killed / "checkpoints")
    assert checkpoint is not None and checkpoint.step < 16
    learned = {name for name in checkpoint.tensors if name.startswith("model.")}
    assert learned and all(".adapter." in name for name in learned)  # nothing of the base is in it
    with pytest.raises(UserError, match="--resume"):
        myna.tune(base, rows, out=killed)
    assert main(["tune", "--resume", "--out", str(killed)]) == 0
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (whole, killed))  # the header's order is not fixed
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_wrong_use_is_told_in_a_line(base: Path, rows: Path, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an adapter"):
        myna.tune(tuned, rows, out=tmp_path / "a")
    with pytest.raises(UserError, match="is the model to be tuned"):
        myna.tune(base, rows, out=base)
    (base / ".lock").unlink()
    with pytest.raises(UserError, match="no input was given"):
        myna.tune(base, [], out=tmp_path / "b")
    with pytest.raises(UserError, match=r"no matrix to adapt is called 'q_prj' \(did you mean q_proj\?\)"):
        myna.tune(base, rows, out=tmp_path / "c", steps=2, targets=("q_prj",))
    with pytest.raises(UserError, match="rank is 0"):
        myna.tune(base, rows, out=tmp_path / "d", rank=0)


def test_other_rows_are_not_gone_on_with(base: Path, rows: Path, tmp_path: Path) -> None:
    own = tmp_path / "rows.jsonl"
    own.write_text(rows.read_text())
    with pytest.raises(KeyboardInterrupt):
        _interrupted(base, own, tmp_path / "out")
    own.write_text(rows.read_text() + '{"question": "new?", "answer": "Yes."}\n')
    with pytest.raises(UserError, match="others than this tuning began with"):
        myna.tune(base, own, out=tmp_path / "out", resume=True)


def _interrupted(base: Path, rows: Path, out: Path) -> None:
    """Tune until the training begins."""
    def stop(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(myna.roads.language, "train", stop)
        myna.roads.tune.tune(base, [rows], out, TuneRecipe(TuneOptions(steps=2, threads=1)))


def test_plain_text_is_learned_whole(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number}. The same little sentence stands here over and over again.\n\n" for number in range(500)))
    report = myna.tune(base, text, out=tmp_path / "out", steps=8, threads=1, learning_rate=0.01, batch_tokens=512,
                       options={"train.validations": 1, "evaluate.resamples": 200})
    assert report.improvements["bits_per_byte"].low > 0
    assert json.loads((tmp_path / "out" / "myna.json").read_text())["tuned"]["prompts"] == 0
