"""Conversations: what it learned from is left out, the n-gram and the base stand beside, Chinese counts by characters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import myna
from myna.cli.main import main
from myna.data.conversations import read_conversations, split_examples
from myna.evaluate.dialogue import TOKENS, take_talks
from myna.recipe import TuneRecipe
from tests.roads.test_tune import base, rows, short_measures, tuned  # noqa: F401 - fixtures


def measure(folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    capsys.readouterr()
    assert main(["evaluate", str(folder), str(data), "--task", "chat", "--resamples", "200", "--json"]) == 0
    done = capsys.readouterr()
    return json.loads(done.out), done.err


def test_a_tuned_model_stands_beside_its_base_and_an_ngram(tuned: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    value, said = measure(tuned, rows, capsys)
    parts = split_examples(read_conversations([rows], TuneRecipe().rows).examples, TuneRecipe().split)
    learned = len(parts["train"]) + len(parts["valid"])
    assert f"{learned:,} conversations were learned from" in said and value["details"]["conversations"] == len(parts["test"])
    assert value["baseline"]["name"].endswith("Kneser-Ney") or "gram" in value["baseline"]["name"]
    for metric in ("perplexity", "bits_per_byte", "stop_rate", "distinct_1", "distinct_2", "repetition_4"):
        assert value[metric]["low"] <= value[metric]["value"] <= value[metric]["high"] and metric in value["baseline"], metric
    untuned = value["details"]["untuned"]
    assert value["bits_per_byte"]["value"] < untuned["baseline"]["bits_per_byte"]["value"]
    assert untuned["bits_per_byte_difference"]["high"] < 0
    assert len(value["details"]["best"]) == min(5, len(parts["test"])) and value["details"]["best"][0]["question"]


def test_others_conversations_are_halved(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    talks = [{"messages": [{"role": "user", "content": f"你好{n}"}, {"role": "assistant", "content": f"你好你好，我是{n}号鸟。"},
                           {"role": "user", "content": "再见"}, {"role": "assistant", "content": f"再见{n}"}]} for n in range(20)]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(talk, ensure_ascii=False) + "\n" for talk in talks), encoding="utf-8")
    value, said = measure(tuned, path, capsys)
    assert "10 conversations to be measured; the n-gram counts the other 10" in said and value["details"]["conversations"] == 10
    # people said 再见 and a number: two or three different words, and 见 once each
    assert value["details"]["people"]["distinct_1"] == 1 and 3 <= value["details"]["people"]["words"] <= 4
    assert value["details"]["across"]["people"]["distinct_1"] == pytest.approx(12 / 30, abs=0.05)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(talk) + "\n" for talk in talks[:3]))
    assert main(["evaluate", str(tuned), str(few), "--task", "chat"]) == 2
    assert "at least 4" in capsys.readouterr().err


def test_a_history_that_is_too_long_loses_its_oldest_turns(tuned: Path, tmp_path: Path) -> None:  # noqa: F811
    model = myna.load(tuned)
    turns = [{"role": role, "content": f"{role} {n}: " + "鸟" * 8} for n in range(8) for role in ("user", "assistant")]
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[2:4]}) + "\n")
    examples = read_conversations([path], TuneRecipe().rows).examples
    talks = take_talks(examples, model.tokenizer, model.chat_template, 256, 10**6, 5)
    assert len(talks.prompts) == 2 and len(talks.prompts[0]) <= 256 - TOKENS
    assert talks.questions[0] == turns[-2]["content"] and talks.answers[0] == turns[-1]["content"]
    shown = model.tokenizer.decode(talks.prompts[0])
    assert turns[-2]["content"] in shown and turns[0]["content"] not in shown
