"""Classifiers from rows to labels: the whole road by the command line, what is kept, refused and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.models.calibration import fit_temperature, mean_loss
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.heads import Neural, TextClassifier
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.roads.classify import Fitted, choose_members
from myna.tasks.classify import Classifier, Member, is_classifier
from myna.tokenizer.train import learn_tokenizer
from tests.models.test_linear import WORDS, draw, one_hot

GENTLE = ["--threads", "1", "--evaluate.resamples", "200"]


def write_rows(path: Path, count: int, seed: int = 0, names: Any = tuple(WORDS)) -> Path:
    texts, labels = draw(count, seed)
    rows = [{"review": text, "sentiment": names[label]} for text, label in zip(texts, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A linear classifier of 400 rows."""
    folder = tmp_path_factory.mktemp("classify")
    rows = write_rows(folder / "rows.jsonl", 400)
    assert main(["tune", "new", str(rows), "--task", "classify", "--minutes", "1", "--out", str(folder / "model"), *GENTLE]) == 0
    return folder / "model", rows


def test_the_road_leaves_a_directory_that_classifies(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = myna.load(made[0])
    found = model.classify(["great fine lovely", "dull grey cold"])
    assert [result.label for result in found] == ["good", "bad"] and found[0].labels == ("good",) and str(found[1]) == "bad"
    assert sum(found[0].probabilities.values()) == pytest.approx(1) and found[0].probability == found[0].probabilities["good"] > 0.5
    code, out, _ = run("classify", made[0], "great fine lovely", "--json", capsys=capsys)
    result = json.loads(out)["results"][0]
    assert code == 0 and result["label"] == "good" and set(result["probabilities"]) == set(WORDS)
    report = json.loads((made[0] / "report.json").read_text())
    assert report["report"]["accuracy"]["value"] > 0.8 and report["report"]["baseline"]["name"] == "linear on characters 1-3"
    assert sum(map(sum, report["confusion"]["rows"])) == report["texts"] and report["majority"]["accuracy"] < 0.6
    assert any("no neural model" in line for line in report["said"])


def test_texts_come_from_arguments_standard_input_and_files(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", ["great fine\n", "\n", "dull cold\n"])
    (tmp_path / "a.txt").write_text("moon fish\n\npurple seven\n")
    code, out, _ = run("classify", made[0], "-", "--file", tmp_path / "a.txt", capsys=capsys)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["good", "bad", "odd", "odd"]
    code, out, _ = run("classify", made[0], "--file", made[1], "--json", capsys=capsys)
    assert code == 0 and len(json.loads(out)["results"]) == 400
    for words, why in (([], "no text was given"), ([" "], "text 1 is empty"), (["x", "--threshold", "0.4"], "exactly one label"),
                       (["--file", tmp_path / "none.csv"], "no such file")):
        code, _, err = run("classify", made[0], *words, capsys=capsys)
        assert code == 2 and why in err and err.count("\n") == 1


def test_evaluate_leaves_out_what_was_learned_and_names_unseen_labels(made: tuple[Path, Path], tmp_path: Path,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("evaluate", made[0], made[1], "--task", "classify", "--json", capsys=capsys)
    assert code == 0 and "320" not in err.split("texts were learned")[1] and "360 texts were learned from and are left out" in err
    rows = write_rows(tmp_path / "new.jsonl", 60, seed=5)
    with rows.open("a") as file:
        file.write('{"review": "entirely new", "sentiment": "unheard"}\n')
    code, out, err = run("evaluate", made[0], rows, "--task", "classify", "--json", "--resamples", "200", capsys=capsys)
    value = json.loads(out)
    assert code == 0 and "1 texts have labels that were never seen in training, so they are always wrong: unheard" in err
    assert {"accuracy", "macro_f1", "micro_recall", "accuracy_difference", "baseline"} <= set(value)
    assert value["details"]["labels"]["unheard"]["recall"] == 0 and value["details"]["worst"][0]["true"] == ["unheard"]
    assert 0 <= value["details"]["calibration_error"] <= 1
    code, out, _ = run("evaluate", made[0], rows, "--task", "classify", "--resamples", "200", capsys=capsys)
    assert code == 0 and "calibration error" in out and "worst:" in out
    code, _, err = run("evaluate", made[0], rows, "--task", "classify", "--label", "sentimemt", capsys=capsys)
    assert code == 2 and "did you mean sentiment?" in err


def test_scores_are_those_of_scikit_learn(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = write_rows(tmp_path / "new.jsonl", 150, seed=7)
    _, out, _ = run("evaluate", made[0], rows, "--task", "classify", "--json", "--resamples", "50", capsys=capsys)
    value = json.loads(out)
    items = list({row["review"]: row["sentiment"] for row in map(json.loads, rows.read_text().splitlines())}.items())
    given = [result.label for result in myna.load(made[0]).classify([text for text, _ in items])]
    true = [label for _, label in items]
    assert value["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(true, given))
    for name, average in (("macro", "macro"), ("micro", "micro")):
        expected = metrics.precision_recall_fscore_support(true, given, average=average, zero_division=0)
        assert [value[f"{name}_{one}"]["value"] for one in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert value["details"]["confusion"]["rows"] == metrics.confusion_matrix(true, given, labels=sorted(WORDS)).tolist()


def test_several_labels_are_given_from_a_threshold_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    lines = []
    for number in range(400):
        names = [name for name in WORDS if generator.random() < 0.5]
        words = [generator.choice(WORDS[name].split()) for name in names for _ in range(3)]
        lines.append(json.dumps({"text": " ".join([*words, f"filler{number}"]), "labels": "|".join(names)}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    code, _, err = run("tune", "new", tmp_path / "rows.jsonl", "--task", "classify", "--multi-label", "--minutes", "1", "--out",
                       tmp_path / "model", *GENTLE, capsys=capsys)
    assert code == 0 and "labels a text" in err
    model = myna.load(tmp_path / "model")
    both, none = model.classify(["great fine cold grey dull lovely", "filler"])
    assert set(both.labels) == {"good", "bad"} and none.labels == () and str(none) == "(none)"
    assert model.classify(["great fine cold grey dull lovely"], threshold=0.999999)[0].labels == ()
    with pytest.raises(UserError, match="between 0 and 1"):
        model.classify(["x"], threshold=1.5)
    assert json.loads((tmp_path / "model" / "report.json").read_text())["report"]["accuracy"]["value"] > 0.7


def test_a_given_test_part_is_what_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = write_rows(tmp_path / "train.jsonl", 200), write_rows(tmp_path / "test.jsonl", 40, seed=3)
    with test.open("a") as file:
        file.write(train.read_text().splitlines()[0] + "\n")
    code, _, err = run("tune", "new", train, "--test", test, "--task", "classify", "--out", tmp_path / "model", "--minutes", "1",
                         "--json", *GENTLE, capsys=capsys)
    assert code == 0 and "1 texts of the training part stand in the test part too" in err
    assert json.loads((tmp_path / "model" / "report.json").read_text())["texts"] == 41
    code, _, err = run("tune", "smollm2", train, "--test", test, "--out", tmp_path / "other", capsys=capsys)
    assert code == 2 and "--task classify" in err


@pytest.mark.parametrize("change", [{"members": []}, {"members": [{"folder": "../x", "weight": 1}]}, {"threshold": 3}, {"task": "tag"},
                                    {"members": [{"folder": ".", "weight": "1"}]}, {"labels": ["a"]}, {"multi_label": True}])
def test_a_damaged_task_is_refused(made: tuple[Path, Path], tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made[0], folder)
    value = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(UserError):
        myna.load(folder)


# ---- neural ----

DECODERS = ["llama", "mistral", "qwen2", "qwen3", "gpt2"]


def tiny(kind: str, vocab_size: int) -> Encoder | Decoder | Recurrent:
    if kind in DECODERS:
        return Decoder(DecoderConfig(vocab_size, 32, 2, head_dim=16, max_position_embeddings=40, model_type=kind), seed=1)
    if kind == "gru":
        return Recurrent(RecurrentConfig("gru", vocab_size, 8, 1, 16, bidirectional=True))
    return Encoder(EncoderConfig(vocab_size, 32, 2, model_type=kind, max_position_embeddings=40, pad_token_id=1), seed=1)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "gru", *DECODERS])
@pytest.mark.parametrize("several", [False, True])
def test_a_neural_classifier_opens_as_it_was_saved_and_padding_changes_nothing(tmp_path: Path, kind: str, several: bool) -> None:
    tokenizer = learn_tokenizer(draw(50)[0], 512)
    model = TextClassifier(tiny(kind, tokenizer.vocab_size), ["a", "b", "c"], several, seed=2).requires_grad_(False).eval()
    texts = ["great fine", "dull grey cold poor broken moon", "x"]
    before = Neural(model, tokenizer, 32)
    before.save(tmp_path)
    after = Neural.open(tmp_path)
    np.testing.assert_array_equal(before.score(texts), after.score(texts))
    alone = np.concatenate([after.score([text]) for text in texts])
    np.testing.assert_allclose(alone, after.score(texts), atol=1e-5)
    assert after.labels == ["a", "b", "c"] and after.several == several and is_classifier(tmp_path)
    assert Classifier.open(tmp_path).classify(texts)[0].label in "abc"
    if kind != "gru":
        transformers = pytest.importorskip("transformers")
        theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        rows = tokenizer.encode_inputs(texts)
        width, pad = max(map(len, rows)), theirs.config.pad_token_id
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with torch.no_grad():
            np.testing.assert_allclose(theirs.eval()(ids, attention_mask=mask).logits.numpy(), after.score(texts), atol=1e-5)
        assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert theirs.config.problem_type.startswith("multi" if several else "single")
        theirs.save_pretrained(tmp_path / "theirs")
        tokenizer.save(tmp_path / "theirs")
        np.testing.assert_allclose(Neural.open(tmp_path / "theirs").score(texts), after.score(texts), atol=1e-6)


def test_a_model_from_nothing_is_trained_by_the_one_loop_and_joins_where_it_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                                                 ) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 400)
    code, _, err = run("tune", "new", rows, "--task", "classify", "--steps", "8", "--out", tmp_path / "model", *GENTLE,
                       "--train.validations", "2", capsys=capsys)
    assert code == 0 and "gru classifier: accuracy" in err and ("are used" in err or "alone is used" in err)
    assert (tmp_path / "model" / "log.jsonl").is_file() and not (tmp_path / "model" / "checkpoints").exists()
    assert myna.load(tmp_path / "model").classify(["great fine lovely"])[0].label == "good"
    code, _, err = run("tune", "new", rows, "--task", "classify", "--out", tmp_path / "model", capsys=capsys)
    assert code == 2 and "finished" in err
    assert run("tune", "--resume", "--out", tmp_path / "model", capsys=capsys)[0] == 0


@pytest.mark.parametrize("checkpoints", [0, 1000])  # one at every step, or none before the kill
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                                checkpoints: int) -> None:
    from myna.train.examples import Reader

    words = ["tune", "new", write_rows(tmp_path / "rows.jsonl", 200), "--task", "classify", "--steps", "6", *GENTLE,
             "--train.checkpoint-seconds", checkpoints, "--test", write_rows(tmp_path / "test.jsonl", 33, seed=5)]
    assert run(*words, "--out", tmp_path / "whole", capsys=capsys)[0] == 0
    with monkeypatch.context() as patch:
        read = Reader.read

        def killed(reader: Reader, step: int) -> Any:
            if step == 4:
                raise KeyboardInterrupt
            return read(reader, step)

        patch.setattr(Reader, "read", killed)
        assert run(*words, "--out", tmp_path / "cut", capsys=capsys)[0] == 130
    assert run("tune", "--resume", "--out", tmp_path / "cut", capsys=capsys)[0] == 0
    for name in ("model.safetensors", "task.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((tmp_path / "cut" / "report.json").read_text())["texts"] == 33  # the test part that was given apart


@pytest.mark.parametrize(("kind", "method"), [("llama", "lora"), ("gpt2", "lora"), ("qwen3", "full"), ("llama", "head")])
def test_a_decoder_is_a_base(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, method: str) -> None:
    from myna.models.pretrained import load_model, save_model

    rows = write_rows(tmp_path / "rows.jsonl", 200)
    tokenizer = learn_tokenizer([*draw(50)[0], "今天天气很好"], 512)
    save_model(tiny(kind, tokenizer.vocab_size), tmp_path / "base", tokenizer.pad_id)
    tokenizer.save(tmp_path / "base")
    code, _, err = run("tune", tmp_path / "base", rows, "--task", "classify", "--steps", "60", "--method", method,
                       "--out", tmp_path / "model", "--learning-rate", "0.02", "--train.validations", "1", *GENTLE, capsys=capsys)
    assert code == 0 and f"{kind} classifier: accuracy" in err
    folder = next(one for one in (tmp_path / "model", tmp_path / "model" / "neural") if "ForSeq" in (one / "config.json").read_text())
    model = Neural.open(folder)
    before = dict(load_model(tmp_path / "base").named_parameters())
    changed = {name for name, value in model.model.body.named_parameters() if not torch.equal(value, before[name])}
    expected = {"head": lambda name: name.startswith("norm"), "lora": lambda name: name.endswith("proj.weight"), "full": lambda name: True}
    assert changed and all(expected[method](name) for name in changed)
    assert myna.load(tmp_path / "model").classify(["今天天气很好"])[0].label in WORDS


def test_an_encoder_is_a_base_and_other_families_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from myna.models.pretrained import save_model

    rows = write_rows(tmp_path / "rows.jsonl", 200)
    tokenizer = learn_tokenizer(draw(50)[0], 512)
    save_model(tiny("bert", tokenizer.vocab_size), tmp_path / "base", tokenizer.pad_id)
    tokenizer.save(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")  # with a buffer of whole numbers, as published files have it
    weights["bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    code, _, err = run("tune", tmp_path / "base", rows, "--task", "classify", "--steps", "4", "--out", tmp_path / "model", *GENTLE,
                       capsys=capsys)
    assert code == 0 and "bert classifier: accuracy" in err
    shutil.rmtree(tmp_path / "base")
    config = {"model_type": "ngram"}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    code, _, err = run("tune", tmp_path / "base", rows, "--task", "classify", "--out", tmp_path / "other", *GENTLE, capsys=capsys)
    assert code == 2 and "holds a ngram" in err
    with pytest.raises(UserError, match="gives no labels"):
        Classifier.open(tmp_path / "base")
    assert not is_classifier(tmp_path / "base")


def test_members_are_added_with_their_weights() -> None:
    class Fixed:
        labels, several = ["a", "b"], False

        def __init__(self, *scores: float) -> None:
            self.scores = np.array([scores], np.float32)

        def score(self, texts: Any) -> np.ndarray:
            return np.repeat(self.scores, len(texts), axis=0)

        def save(self, folder: Path) -> None: ...

    both = Classifier([Member(".", Fixed(1, 0), 2.0), Member("linear", Fixed(0, 1), 0.5)])
    assert np.exp(both.log_probs(["x", "y"])) == pytest.approx(np.tile([1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))], (2, 1)))
    assert one_hot(np.array([1]), 2).tolist() == [[0, 1]]


def fitted(name: str, scores: np.ndarray, targets: np.ndarray) -> Fitted:
    temperature = fit_temperature(scores, targets, False)
    return Fitted(name, object(), scores, temperature, mean_loss(scores / temperature, targets, False), 0.0)


@pytest.mark.parametrize(("count", "helps", "asked", "taken"), [
    (2000, True, False, ["both"]), (2000, False, False, ["linear"]), (2000, False, True, ["neural"]), (20, True, False, ["linear"]),
    (20, True, True, ["neural"]), (2, True, False, ["linear"])])
def test_more_than_the_simpler_model_is_taken_only_where_it_is_better_by_more_than_chance(
        monkeypatch: pytest.MonkeyPatch, count: int, helps: bool, asked: bool, taken: list[str]) -> None:
    monkeypatch.setattr("myna.roads.classify.Member", lambda folder, model, weight: (folder, model))
    rng = np.random.default_rng(3)
    targets = np.eye(2)[rng.integers(0, 2, count)]
    signal = 1.6 * targets - 0.8
    linear = fitted("linear", signal + rng.normal(0, 1, (count, 2)), targets)
    neural = fitted("neural", signal + (rng.normal(0, 1, (count, 2)) if helps else linear.scores - signal), targets)
    members, why = choose_members(linear, neural, targets, False, asked)
    found = ["both"] if len(members) == 2 else [one.name for one in (linear, neural) if one.model is members[0][1]]
    assert found == taken and ("both are used" in why) == (taken == ["both"])


def test_what_makes_no_more_texts_right_is_not_added_for_its_loss() -> None:
    rng = np.random.default_rng(3)
    targets = np.eye(2)[rng.integers(0, 2, 2000)]
    signs = 2 * targets - 1
    lower = np.where(rng.random(2000) < 0.2, -1.0, 1.0)  # both err in the same texts,
    ease = np.stack([1 + 2 * (rng.random(2000) < 0.5) * (lower > 0) for _ in range(2)])  # and each knows of others that they are easy
    linear, neural = (fitted(name, signs * (lower * sure)[:, None], targets) for name, sure in zip(("linear", "neural"), ease, strict=True))
    [member], why = choose_members(linear, neural, targets, False, False)
    assert member.model is linear.model and "more texts right" in why


def test_a_neural_model_that_is_far_better_is_taken_alone_and_one_far_worse_is_not() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(2)[rng.integers(0, 2, 400)]
    good, bad = fitted("good", 8 * targets, targets), fitted("bad", rng.normal(0, 1, (400, 2)), targets)
    for linear, neural, asked in ((bad, good, False), (good, bad, True)):
        [member], why = choose_members(linear, neural, targets, False, asked)
        assert member.model is good.model and "the good alone is used" in why


def test_texts_that_are_cut_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = learn_tokenizer([*draw(50)[0], "从前有一只鸟"], 512)
    model = TextClassifier(tiny("gru", tokenizer.vocab_size), ["a", "b"], False, seed=2).requires_grad_(False).eval()
    Neural(model, tokenizer, 8).save(tmp_path)
    for _ in range(2):
        code, _, err = run("classify", tmp_path, "从前有一只鸟" * 9, "鸟", "great " * 40, capsys=capsys)
        assert code == 0 and "2 of 3 texts have more than 8 tokens: their beginning was read" in err
    assert run("classify", tmp_path, "鸟", capsys=capsys)[2] == ""


def test_too_short_a_time_is_said_and_gives_a_linear_model_of_one_strength(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    code, _, err = run("tune", "new", rows, "--task", "classify", "--minutes", "1e-6", "--out", tmp_path / "model", *GENTLE, capsys=capsys)
    assert code == 0 and err.count("with no other strength: half of the time is spent") == 3
    assert myna.load(tmp_path / "model").classify(["great fine lovely"])[0].label in WORDS
