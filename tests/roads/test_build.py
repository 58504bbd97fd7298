"""The whole road on a small corpus: what it leaves on the disk, who can open it, and what wrong use is told."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myna
from myna.cli.main import COMMANDS, main
from myna.data.shards import Shard
from myna.files import find_damage, sha256
from myna.metrics.report import Report
from tests.conftest import TINY, Built, tiny_flags
from tests.tasks.whispers import write_noise, write_whisper

SENTENCES = ["春天来了，河边的柳树发了芽。", "老人坐在门前，讲起从前的故事。", "孩子们在院子里唱歌、跳舞，很高兴。",
             "水车一天到晚转个不停！", "他问：“你要到哪里去？”", "山上的雪还没有化，路很难走。",
             "《诗经》里有许多古老的歌。", "夜深了，灯还亮着……"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_directory_holds_what_the_design_says(built: Built) -> None:
    names = {path.name for path in built.folder.iterdir()}
    assert names == {".lock", "README.md", "config.json", "corpus", "generation_config.json", "log.jsonl", "model.safetensors", "myna.json",
                     "mixture.json", "ngram", "plan.json", "report.html", "tokenizer.json", "tokenizer_config.json", "tokens"}
    for stage in ("corpus", "tokens", "ngram"):
        assert find_damage(built.folder / stage) == ""
    assert {path.name for path in built.ngram.iterdir()} == names - {"generation_config.json", "log.jsonl", "mixture.json", "plan.json"}


def test_plan_json_has_its_keys(built: Built) -> None:
    plan = read(built.folder / "plan.json")
    assert plan.keys() >= {"family", "model", "parameters", "context", "batch_rows", "micro_rows", "steps", "precision", "compile",
                           "threads", "seed", "tokens", "predicted", "machine"}
    assert plan["predicted"].keys() >= {"seconds", "seconds_per_step", "peak_bytes", "bits_per_byte"}
    assert (plan["steps"], plan["context"], plan["threads"], plan["model"]["hidden_size"]) == (40, 64, 1, 64)
    assert plan["tokens"] == 40 * plan["batch_rows"] * 64


def test_the_log_has_every_step_a_curve_and_samples(built: Built) -> None:
    rows = [json.loads(line) for line in (built.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["event"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 41))
    assert all(row.keys() >= {"loss", "learning_rate", "gradient_norm", "tokens", "seconds"} for row in steps)
    assert [row["tokens"] for row in steps] == [512 * (k + 1) for k in range(40)]
    assert np.mean([row["loss"] for row in steps[-5:]]) < np.mean([row["loss"] for row in steps[:5]]) - 1
    curve = [row for row in rows if row["event"] == "valid"]
    assert [row["step"] for row in curve] == [20, 40] and curve[1]["bits_per_byte"] < curve[0]["bits_per_byte"]
    assert [row["step"] for row in rows if row["event"] == "sample"] == [20, 40]


@pytest.mark.parametrize("family", ["decoder", "ngram"])
def test_myna_json_says_what_made_the_model(built: Built, family: str) -> None:
    folder = built.folder if family == "decoder" else built.ngram
    record = read(folder / "myna.json")
    assert record.keys() >= {"format", "version", "family", "golden", "hashes", "lineage", "report", "plan", "actual"}
    assert (record["format"], record["version"], record["family"]) == (1, myna.__version__, family)
    assert record["hashes"].keys() >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert all(sha256(folder / name) == value for name, value in record["hashes"].items())
    lineage = record["lineage"]
    assert {Path(entry["path"]).name: entry["sha256"] for entry in lineage["inputs"]} == {
        path.name: sha256(path) for path in built.texts.iterdir()}
    assert lineage["request"]["inputs"] == [str(built.texts)] and lineage["seed"] == 0 and lineage["threads"] == 1
    assert lineage["versions"].keys() >= {"myna", "python", "numpy", "tokenizers"}
    assert lineage["request"]["recipe"]["ngram"]["order"] == 3
    for stage in ("corpus", "tokens"):
        assert lineage[f"{stage}_manifest"] == sha256(folder / stage / "manifest.json")


def test_the_report_has_intervals_and_a_baseline_on_the_same_bytes(built: Built) -> None:
    for folder, baseline in ((built.folder, "3-gram"), (built.ngram, "1-gram")):
        value = read(folder / "myna.json")["report"]
        assert value["baseline"]["name"].startswith(baseline)
        for name in ("bits_per_byte", "bits_per_character", "perplexity"):
            for scores in (value, value["baseline"]):
                assert scores[name].keys() == {"value", "low", "high", "signature"}
                assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]
            assert value[name]["signature"] == value["baseline"][name]["signature"]
        assert Report.from_json(value).to_json() == value
    assert read(built.ngram / "myna.json")["report"]["bits_per_byte_improvement_percent"]["low"] > 0
    shard = Shard.open(built.folder / "tokens", "test")
    bits = sum(-myna.load(built.folder).log_probs(shard.ids[row["start"]:row["end"]].tolist()).sum() for row in shard.documents) / np.log(2)
    assert np.isclose(bits / shard.text_bytes, read(built.folder / "myna.json")["report"]["bits_per_byte"]["value"], rtol=1e-4)


def test_actual_stands_beside_predicted(built: Built) -> None:
    record = read(built.folder / "myna.json")
    assert record["actual"].keys() >= {"seconds", "seconds_per_step", "peak_bytes", "steps", "tokens", "total_seconds", "bits_per_byte"}
    assert record["plan"]["predicted"].keys() >= {"seconds", "peak_bytes"} and record["actual"]["steps"] == 40
    assert sum(record["stages"].values()) <= record["actual"]["total_seconds"] + 1


def test_the_pages_need_nothing_from_elsewhere(built: Built) -> None:
    for folder in (built.folder, built.ngram):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "bits per byte" in page and not any(f"{scheme}://" in page for scheme in ("http", "https", "ws"))
        assert (folder / "README.md").read_text(encoding="utf-8").count("\n") > 10


def test_transformers_opens_the_directory(built: Built) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model, tokenizer = myna.load(built.folder, member="decoder"), transformers.AutoTokenizer.from_pretrained(built.folder)
    golden = read(built.folder / "myna.json")["golden"]
    assert len(golden["texts"]) > 5
    for text, ids in zip(golden["texts"], golden["ids"], strict=True):
        assert tokenizer(text)["input_ids"] == ids and tokenizer.decode(ids) == text
    theirs = transformers.AutoModelForCausalLM.from_pretrained(built.folder, dtype=torch.float32).eval()
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    ids = model.tokenizer.encode("The statement is an expression, and the value")[:20]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
        greedy = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24, eos_token_id=model.language_model.separator_id)
    found = model.language_model.step([ids], model.language_model.start(), last=False)[0]
    assert np.abs(found - expected).max() < 1e-4
    assert model.generate(model.tokenizer.decode(ids), temperature=0, max_tokens=24).tokens == greedy[0, len(ids):].tolist()


def test_the_same_seed_gives_the_same_ngram_and_another_split_another(built: Built, tmp_path: Path) -> None:
    again = myna.build(built.texts, out=tmp_path / "again", family="ngram", options=TINY)
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(built.ngram / "model.safetensors")
    held = sorted(built.texts.iterdir())[:4]
    other = myna.build(built.texts, out=tmp_path / "other", family="ngram", valid=held[:2], test=held[2:], options=TINY)
    assert again.to_json() != other.to_json()
    files = read(tmp_path / "other" / "corpus" / "report.json")["files"]
    documents = np.load(tmp_path / "other" / "corpus" / "documents.npy")
    roles = {Path(files[row["file"]]["path"]).name: int(row["role"]) for row in documents}
    assert {name for name, role in roles.items() if role == 2} == {path.name for path in held[2:]}
    assert {name for name, role in roles.items() if role == 1} == {path.name for path in held[:2]}


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files are GB18030 and UTF-8 by turns."""
    folder = tmp_path_factory.mktemp("chinese")
    rng = random.Random(0)
    for number in range(24):
        text = "\n".join("".join(rng.choices(SENTENCES, k=6)) for _ in range(20)) + f"\n第{number}章完。\n"
        (folder / f"{number:02}.txt").write_bytes(text.encode("gb18030" if number % 2 else "utf-8"))
    return folder


@pytest.mark.parametrize("family", ["decoder", "ngram"])
def test_a_chinese_corpus_of_two_encodings_streams_whole_characters(chinese: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                                    family: str) -> None:
    out = tmp_path / "model"
    more = ["--steps", "12"] if family == "decoder" else ["--family", "ngram"]
    assert main(["build", str(chinese), "--out", str(out), "--threads", "1", *tiny_flags(), *more]) == 0
    report = read(out / "corpus" / "report.json")
    assert {entry["encoding"] for entry in report["files"]} == {"gb18030", "utf-8"} and report["totals"]["dropped"] == {}
    assert "\ufffd" not in (out / "corpus" / "text.utf8").read_text(encoding="utf-8")
    capsys.readouterr()
    for flags in (["--seed", "1"], ["--seed", "2", "--temperature", "1.5", "--top-p", "1"]):
        assert main(["generate", str(out), "春天", "--max-tokens", "150", *flags]) == 0
        said = capsys.readouterr().out
        assert said.startswith("春天") and "\ufffd" not in said and len(set(said) & set("".join(SENTENCES))) > 5


def test_a_recipe_builds_and_flags_win(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    tables = {"ngram": "order = 2", "tokenizer": 'kind = "characters"'}
    recipe.write_text('family = "ngram"\nseed = 3\n' + "".join(f"[{name}]\n{line}\n" for name, line in tables.items()), encoding="utf-8")
    assert main(["build", str(built.texts), "--recipe", str(recipe), "--ngram.order", "4", "--out", str(tmp_path / "model"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["out"] == str(tmp_path / "model") and value["report"] == read(tmp_path / "model" / "myna.json")["report"]
    assert read(tmp_path / "model" / "config.json")["order"] == 4
    assert read(tmp_path / "model" / "myna.json")["lineage"]["request"]["recipe"]["build"]["seed"] == 3
    assert set(map(len, myna.load(tmp_path / "model").tokenizer.token_bytes)) <= {0, 1, 2, 3, 4}  # characters


def one_error(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run a command that must fail as a user's error; returns its one line."""
    assert main([str(part) for part in argv]) == 2, argv
    said = capsys.readouterr()
    last = said.err.rstrip("\n").splitlines()[-1]
    assert said.out == "" and last.startswith("myna: ") and "Traceback" not in said.err and len(last) < 600
    return last


def test_wrong_input_is_one_line(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "blank.txt").write_text("  \n\n", encoding="utf-8")
    (tmp_path / "small.txt").write_text("Hello.\n", encoding="utf-8")
    out = tmp_path / "model"
    for command in ("build", "clean"):
        assert "no such file or folder: " in one_error(capsys, command, tmp_path / "absent", "--out", out)
    assert "no text was kept from 0 files" in one_error(capsys, "build", tmp_path / "nothing", "--out", out)
    assert "no text was kept from 1 files" in one_error(capsys, "build", tmp_path / "blank.txt", "--out", out)
    assert "too small for the split" in one_error(capsys, "build", tmp_path / "small.txt", "--out", out)
    assert "no such file or folder" in one_error(capsys, "build", built.texts, "--valid", tmp_path / "absent", "--out", out)
    assert "no input was given" in one_error(capsys, "build", "--out", out)
    assert "no input was given" in one_error(capsys, "plan")
    assert not (out / "plan.json").exists() and not (out / "corpus").exists()


def test_a_wrong_option_is_one_line_and_names_the_nearest(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, recipe = tmp_path / "model", tmp_path / "recipe.toml"
    recipe.write_text("[train]\nlerning_rate = 1\n", encoding="utf-8")
    assert "did you mean --minutes?" in one_error(capsys, "build", built.texts, "--out", out, "--minuts", 3)
    assert "did you mean --train.learning-rate?" in one_error(capsys, "build", built.texts, "--out", out, "--train.lerning_rate", 3)
    assert "did you mean learning_rate?" in one_error(capsys, "build", built.texts, "--out", out, "--recipe", recipe)
    assert "steps is 0" in one_error(capsys, "build", built.texts, "--out", out, "--steps", 0)
    begun = ["build", built.texts, "--out", out, "--steps", 1, *tiny_flags()]
    assert "hidden_size is 65" in one_error(capsys, *begun, "--plan.hidden-size", 65)
    assert "more than one context of 100000" in one_error(capsys, *begun, "--plan.context", 100_000)
    assert "MiB of memory more and" in one_error(capsys, *begun, "--plan.hidden-size", 65536, "--plan.num-hidden-layers", 400)
    assert not (out / "plan.json").exists()


def test_a_model_directory_that_is_wrong_is_one_line(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(built.folder, broken, ignore=shutil.ignore_patterns("corpus", "tokens"))
    record = read(broken / "myna.json")
    record["golden"]["ids"][0][0] += 1
    (broken / "myna.json").write_text(json.dumps(record), encoding="utf-8")
    assert "ids" in one_error(capsys, "generate", broken, "x")
    pickled = tmp_path / "pickled"
    shutil.copytree(built.folder, pickled, ignore=shutil.ignore_patterns("corpus", "tokens", "ngram", "model.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    for place in (pickled, pickled / "pytorch_model.bin"):
        line = one_error(capsys, "generate", place, "x")
        assert "pickle" in line and "never opened" in line
    for place, said in ((tmp_path / "absent", "no such"), (built.texts, "no config.json"), (built.folder / "config.json", "is a file")):
        assert said in one_error(capsys, "generate", place, "x")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(built.folder / "plan.json", unfinished)
    assert "--resume" in one_error(capsys, "generate", unfinished, "x")


def test_every_command_prints_one_json_object(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    a_file = sorted(built.texts.iterdir())[0]
    corpus = tmp_path / "corpus"
    encoder = tmp_path / "encoder"
    made = ["build", str(built.texts), "--out", str(encoder), "--family", "encoder", "--steps", "2", "--threads", "1", *tiny_flags()]
    assert main(made) == 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}?", "answer": "It is so."}) + "\n" for n in range(60)), encoding="utf-8")
    labelled, topics = tmp_path / "labelled.csv", tmp_path / "topics"
    kinds = [f"{kind} number {n},{kind}\n" for n in range(60) for kind in ("bird", "tower")]
    labelled.write_text("text,label\n" + "".join(kinds), encoding="utf-8")
    assert main(["tune", "new", str(labelled), "--task", "classify", "--steps", "2", "--threads", "1", "--out", str(topics)]) == 0
    tagged, tagger = tmp_path / "tagged.tsv", tmp_path / "tagger"
    tagged.write_text("".join(f"鳥{n}\tn\n去\tv\n\n" for n in range(60)), encoding="utf-8")
    assert main(["tune", "new", str(tagged), "--task", "tag", "--minutes", "0.1", "--threads", "1", "--out", str(tagger)]) == 0
    asked, reader = tmp_path / "asked.jsonl", tmp_path / "reader"
    asked.write_text("".join(json.dumps({"question": f"who built tower {n}?", "context": f"A hill. Tower {n} was built by mason {n}.",
                                         "answers": [f"mason {n}"]}) + "\n" for n in range(20)), encoding="utf-8")
    assert main(["tune", "new", str(asked), "--task", "answer", "--threads", "1", "--out", str(reader)]) == 0
    paired, translator = tmp_path / "paired.jsonl", tmp_path / "translator"
    pairs = [{"source": f"open {{door}} {n}", "target": f"打开 {{door}} {n}"} for n in range(40)]
    paired.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    assert main(["tune", "new", str(paired), "--task", "translate", "--steps", "1", "--threads", "1", "--out", str(translator)]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    runs: dict[str, list[object]] = {
        "fetch": ["--list"], "build": [built.texts, "--out", tmp_path / "m", "--family", "ngram", *tiny_flags()],
        "plan": [built.texts, "--steps", 5, *tiny_flags()], "show": [built.folder], "generate": [built.folder, "Once", "--max-tokens", 5],
        "evaluate": [built.folder, a_file, "--resamples", 200], "clean": [built.texts, "--out", corpus],
        "tokenize": [corpus, "--out", tmp_path / "tokens"], "export": [built.ngram, "--to", "arpa", "--out", tmp_path / "m.arpa"],
        "compare": [built.texts, "--families", "ngram,unbounded", "--out", tmp_path / "compared", "--threads", 1, *tiny_flags()],
        "import": [tmp_path / "m.arpa", tmp_path / "imported", "--tokenizer", built.ngram], "similar": [built.folder, "the"],
        "fill": [encoder, "The ___ of a class"], "chat": [built.folder, "--member", "decoder", "--max-tokens", 4],
        "tune": [built.folder, rows, "--steps", 2, "--threads", 1, "--rank", 2, "--out", tmp_path / "tuned", "--evaluate.resamples", 200],
        "index": [built.texts, "--out", tmp_path / "index"], "search": [tmp_path / "index", "class"],
        "answer": [reader, "who built tower 3?", "--documents", built.texts],
        "classify": [topics, "a text"], "complete": [built.folder, "def f(x):", "--max-tokens", 4],
        "tag": [tagger, "鳥去"], "embed": [encoder, "a bird"],
        "translate": [translator, "open {door}"], "summarize": ["textrank", "One. Two.", "--sentences", 1],
        "transcribe": [write_whisper(tmp_path / "whisper"), write_noise(tmp_path / "noise.wav")]}
    assert set(runs) == set(COMMANDS)
    for name, argv in sorted(runs.items(), key=lambda run: run[0] == "import"):  # after the export that it reads
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main([name, *map(str, argv), "--json"]) == 0, name
        value = json.loads(out.getvalue())
        assert isinstance(value, dict | list) and value, name
        assert out.getvalue().count("\n") == 1, name
