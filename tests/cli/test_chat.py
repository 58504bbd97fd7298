"""`myna chat`: pipes, JSON, the dialogue's commands, interruption."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from myna.cli.main import main
from myna.tokenizer.tokenizer import Tokenizer
from tests.formats.models import write_tokenizer
from tests.generate.test_chat import Script


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A model that always answers "yes, I do \\x07." and ends its turn."""
    tokenizer = Tokenizer.open(folder)
    script = Script([*tokenizer.encode("yes, I do \x07."), tokenizer.special_id("<|im_end|>")], tokenizer.vocab_size)
    monkeypatch.setattr("myna.api.load_directory", lambda *given, **named: script)
    return script


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException] | Callable[[], str]) -> None:
    """A person at a terminal; at the end Ctrl-D."""
    waiting: Iterator[Any] = iter(lines)

    def read(prompt: str = "") -> str:
        line = next(waiting, EOFError)
        if isinstance(line, type):
            raise line
        return str(line)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())


def test_a_pipe_is_answered_line_by_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(monkeypatch, "hi\n\n/quit\n你好\r\n".encode())
    assert main(["chat", str(folder), "--greedy"]) == 0
    out, err = capsys.readouterr()
    assert out == "yes, I do \x07.\n" * 3
    assert "never learned from conversations" in err
    assert "myna tune" in err


def test_json_has_an_object_for_every_answer(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(monkeypatch, b"one\ntwo")
    assert main(["chat", str(folder), "--json", "--seed", "7", "--system", "Be brief.", "--max-tokens", "3"]) == 0
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["message"], second["message"]) == ("one", "two")
    assert first["finish_reason"] == "length"
    assert first["tokens"] == 3
    assert first["tokens_read"] == first["prompt_tokens"]
    assert second["tokens_read"] < second["prompt_tokens"]
    assert first["seed"] == 7
    assert "cut after 3 tokens; --max-tokens allows more" in err


def test_bytes_that_are_no_text_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(monkeypatch, b"one\n\xff\n")
    assert main(["chat", str(folder), "--greedy"]) == 2
    assert "line 2 of standard input is not UTF-8" in capsys.readouterr().err


def test_the_dialogue(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    type_lines(monkeypatch, "/help", "/regenerate", "/save x", "/system Be kind.", "hi", "", "again", "/undo",
               f"/save {saved}", f"/save {saved}", "/regenerate", "/reset", "/undo",
               f"/load {saved}", "/system", "/load", "/sav y", "/quit", "never read")
    assert main(["chat", str(folder), "--greedy"]) == 0
    out, err = capsys.readouterr()
    assert out.count("yes, I do .") == 3  # without the bell
    assert "\x07" not in out
    written = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"},
               {"role": "assistant", "content": "yes, I do \x07."}]
    assert json.loads(saved.read_text()) == {"messages": written}
    for words in ("/regenerate", "nothing to answer yet", "nothing to save yet", "system prompt: Be kind.",
                  "taken back; 3 messages are left", "saved 3 messages", "the system prompt kept", "nothing to take back",
                  "loaded 3 messages", "/load without a file",
                  "unknown command /sav (did you mean /save?)"):
        assert words in err, words


def test_a_file_is_not_written_over(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                    tmp_path: Path) -> None:
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    type_lines(monkeypatch, "hi", f"/save {other}", f"/load {other}")
    assert main(["chat", str(folder), "--greedy"]) == 0
    assert other.read_text() == "mine"
    err = capsys.readouterr().err
    assert "mine.txt exists" in err
    assert "holds no conversation" in err


def test_a_message_without_room_is_taken_back(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    type_lines(monkeypatch, "long " * 600, "hi")
    assert main(["chat", str(folder), "--greedy"]) == 0
    out, err = capsys.readouterr()
    assert "the last message takes" in err
    assert out.count("yes, I do .") == 1


def test_ctrl_c_stops_an_answer_and_then_ends(folder: Path, model: Script, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    step, steps = model.step, []

    def interrupted(ids: Any, state: Any, last: bool = True) -> Any:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(ids, state, last)

    monkeypatch.setattr(model, "step", interrupted)
    type_lines(monkeypatch, "hi", f"/save {tmp_path / 't.jsonl'}", KeyboardInterrupt)
    assert main(["chat", str(folder), "--greedy"]) == 0
    assert "stopped; what was said is kept" in capsys.readouterr().err
    answer = json.loads((tmp_path / "t.jsonl").read_text())["messages"][-1]
    assert answer["role"] == "assistant"
    assert "yes, I do".startswith(answer["content"][:9])
    assert answer["content"] != "yes, I do \x07."


def test_a_saved_conversation_can_be_learned_from(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from myna.data.conversations import read_conversations
    from myna.data.options import RowsOptions

    saved = tmp_path / "talk.jsonl"
    type_lines(monkeypatch, "hi", f"/save {saved}")
    assert main(["chat", str(folder), "--greedy"]) == 0
    [example] = read_conversations([saved], RowsOptions()).examples
    assert [message["content"] for message in example.messages] == ["hi", "yes, I do \x07."]


def test_passages_of_an_index_are_read_and_named(folder: Path, model: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "tower.txt").write_text("The old tower was built by Ada in 1901. 塔很高，有很多鸟，大家都喜欢去那里。\n" * 2)
    (tmp_path / "documents" / "river.txt").write_text("The river is long and full of trout; boats go down it in summer, slowly.\n" * 2)
    assert main(["index", str(tmp_path / "documents"), "--out", str(tmp_path / "index")]) == 0
    capsys.readouterr()
    pipe(monkeypatch, "who built the tower?\n塔上有鸟吗\nxyzzy\n".encode())
    flags = ["--greedy", "--json", "--system", "Be brief.", "--index", str(tmp_path / "index"), "--passages", "1"]
    assert main(["chat", str(folder), *flags]) == 0
    done = capsys.readouterr()
    first, second, third = (json.loads(line) for line in done.out.splitlines())
    for result in (first, second):
        assert [source["file"] for source in result["sources"]] == ["documents/tower.txt"] or "tower.txt" in result["sources"][0]["file"]
    assert "Ada" in first["sources"][0]["text"] and third["sources"] == []
    assert "tower.txt, byte 0" in done.err and "nothing in the index was read" in done.err
    assert first["prompt_tokens"] > third["prompt_tokens"]  # what was read stands in one prompt alone, not in the history
    pipe(monkeypatch, b"who built the tower?\n")
    assert main(["chat", str(folder), "--index", str(tmp_path / "absent")]) == 2
    assert "index" in capsys.readouterr().err
