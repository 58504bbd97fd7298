"""How models write and fill: prompts of held-out text, each way of choosing beside a person and the n-gram; the whole command."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import myna.evaluate.writing
from myna.cli.main import main
from myna.errors import UserError
from myna.evaluate.language import Text
from myna.evaluate.options import EvaluateOptions
from myna.evaluate.writing import measure_writing, take_prompts
from myna.generate.rules import Rules
from myna.models.recurrent import Recurrent, RecurrentConfig
from tests.generate.models import Bytes, Table

RESAMPLES = EvaluateOptions(resamples=100)
VERSES = ["好雨知时节，当春乃发生。", "随风潜入夜，润物细无声。", "野径云俱黑，江船火独明。", "to be or not to be, that is the question. "]


class Letters(Bytes):
    """The byte tokenizer with what evaluation asks for as well."""

    fingerprint = "0" * 16
    lossless = True

    def decode_bytes(self, ids: Any) -> bytes:
        return b"".join(self.token_bytes[id] for id in ids)


def text_of(seed: int, size: int = 6000) -> Text:
    rng = random.Random(seed)
    data = "".join(f"{number} {rng.choice(VERSES)}" for number in range(size // 20)).encode()
    return Text(len(data), lambda tokenizer: iter([np.array([byte + 2 for byte in data])]))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(myna.evaluate.writing, "TOKENS", 24)


def test_prompts_are_taken_evenly_and_whole_characters_follow() -> None:
    text = text_of(0)
    whole = bytes(id - 2 for id in next(text.documents(Letters()))).decode()  # type: ignore[arg-type]
    prompts = take_prompts(Letters(), text, None, 10)  # type: ignore[arg-type]
    assert len(prompts) == 10 and all(prompt.text in whole and prompt.human in whole for prompt in prompts)
    places = [whole.index(prompt.text + prompt.human) if prompt.text + prompt.human in whole else -1 for prompt in prompts]
    assert max(places) > len(whole) // 2
    assert len(take_prompts(Letters(), text, 12, 10)[0].text.encode()) <= 12  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pieces of 56 tokens"):
        take_prompts(Letters(), text_of(0, 40), None, 10)  # type: ignore[arg-type]


def test_each_way_stands_beside_a_person_and_what_is_not_possible_is_said() -> None:
    model = Recurrent(RecurrentConfig("gru", 258, 32, 1)).requires_grad_(False).eval()
    measured = measure_writing(model, Letters(), Rules(), text_of(1), None, None, RESAMPLES, 4)  # type: ignore[arg-type]
    ways = measured.details["ways"]
    assert list(ways) == ["a person", "greedy", "4 beams", "drawn", "contrastive"] and "missing" not in measured.details
    assert ways["a person"]["repetition_4"] < 0.2
    report = measured.report
    assert report.metrics["repetition_4"].value == pytest.approx(ways["drawn"]["repetition_4"])
    assert report.metrics["distinct_2"].value == pytest.approx(ways["drawn"]["distinct_2"]) and "bits_per_byte" in report.metrics
    assert any("repeated" in line for line in measured.lines) and all(len(line) <= 140 for line in measured.lines)

    table = measure_writing(Table(258), Letters(), Rules(), text_of(1), None, None, RESAMPLES, 4)  # type: ignore[arg-type]
    assert "contrastive" not in table.details["ways"] and "no hidden states" in table.details["missing"]["contrastive"]
    assert any("contrastive: not possible" in line for line in table.lines)
    again = measure_writing(Table(258), Letters(), Rules(), text_of(1), None, None, RESAMPLES, 4)  # type: ignore[arg-type]
    assert again.details["ways"]["drawn"] | {"seconds": 0} == table.details["ways"]["drawn"] | {"seconds": 0}
    with pytest.raises(UserError, match="translate"):
        measure_writing(model, Letters(), Rules(source=True), text_of(1), None, None, RESAMPLES)  # type: ignore[arg-type]


def test_a_text_that_goes_round_is_found() -> None:
    class Round(Table):
        def step(self, ids: Any, state: Any, last: bool = True) -> Any:
            out = np.full((len(ids), 258), -20, np.float32)
            super().step(ids, state)
            for place, row in enumerate(state.ids):
                out[place, 2 + b"so so "[len(row) % 6]] = 0
            return out

    found = measure_writing(Round(258), Letters(), Rules(), text_of(2), None, None, RESAMPLES, 4).details  # type: ignore[arg-type]
    assert found["ways"]["greedy"]["distinct_1"] < 0.5 < found["ways"]["a person"]["distinct_1"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An n-gram, an encoder of no steps to speak of, and texts apart from theirs."""
    folder = tmp_path_factory.mktemp("built")
    rng = random.Random(0)
    for name in ("mine", "other"):
        lines = [" ".join(rng.choices(VERSES, k=6)) for _ in range(60 if name == "mine" else 15)]
        (folder / f"{name}.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    assert main(["build", str(folder / "mine.txt"), "--family", "ngram", "--out", str(folder / "ngram")]) == 0
    assert main(["build", str(folder / "mine.txt"), "--family", "encoder", "--steps", "2", "--threads", "1",
                 "--out", str(folder / "encoder"), "--plan.hidden-size", "64", "--plan.num-hidden-layers", "1"]) == 0
    return folder


def test_the_command_measures_writing_of_unseen_texts(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    both = [str(built / "mine.txt"), str(built / "other.txt")]
    assert main(["evaluate", str(built / "ngram"), *both, "--task", "generate", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["repetition_4"]["value"] == pytest.approx(found["details"]["ways"]["drawn"]["repetition_4"])
    assert "bits_per_byte" in found and "1 of 2 files are left out: the model was built from them" in err
    assert main(["evaluate", str(built / "ngram"), both[0], "--task", "generate"]) == 2
    assert "was built from all 1 files" in capsys.readouterr().err
    assert main(["evaluate", str(built / "ngram"), both[1], "--task", "fill"]) == 2
    assert "fills no blanks" in capsys.readouterr().err
    assert main(["evaluate", str(built / "encoder"), both[1], "--task", "fill", "--precision", "bfloat16"]) == 2
    assert "--precision with --task fill" in capsys.readouterr().err


def test_the_command_measures_filling_beside_the_ngram_or_the_commonest_token(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    other = str(built / "other.txt")
    assert main(["evaluate", str(built / "encoder"), other, "--task", "fill", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "gram" in found["baseline"]["name"] and found["baseline"]["masked_accuracy"]["value"] > found["masked_accuracy"]["value"]
    details = found["details"]
    assert details["best"][0]["probability"] > details["worst"][0]["probability"] and details["most_frequent"]["accuracy"] > 0.01
    (built / "encoder" / "ngram").rename(built / "away")
    assert main(["evaluate", str(built / "encoder"), other, "--task", "fill", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["baseline"]["name"] == "most frequent token"
    assert alone["baseline"]["masked_accuracy"]["value"] == pytest.approx(details["most_frequent"]["accuracy"])
    assert alone["masked_accuracy"]["value"] == pytest.approx(found["masked_accuracy"]["value"])
    assert main(["evaluate", str(built / "encoder"), other, "--task", "fill"]) == 0
    assert "always saying" in capsys.readouterr().out
    (built / "away").rename(built / "encoder" / "ngram")
