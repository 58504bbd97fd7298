"""`myna generate`: what is printed where, flags, prompts, interruption."""

from __future__ import annotations

import io
import json
import sys

import pytest

from myna.cli.main import main
from myna.tokenizer.tokenizer import Tokenizer
from tests.formats.models import write_tokenizer
from tests.generate.models import Script, Table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture()
def use(monkeypatch):
    """Make `load_model` give a made-up model."""

    def install(model):
        monkeypatch.setattr("myna.api.load_directory", lambda folder, member=None, precision="float32": model)

    return install


def says(folder, text: str, prompt: str = "x") -> Script:
    """A model that continues a one-token prompt with this text."""
    tokenizer = Tokenizer.open(folder)
    assert len(tokenizer.encode(prompt)) == 1
    model = Script(tokenizer.encode(text), tokenizer.vocab_size)
    model.separator_id = tokenizer.separator_id
    model.said[-1] = tokenizer.separator_id
    return model


def random_model(folder) -> Table:
    tokenizer = Tokenizer.open(folder)
    model = Table(tokenizer.vocab_size, seed=2)
    model.separator_id = tokenizer.separator_id
    return model


def test_the_prompt_and_its_continuation_go_to_standard_output_and_the_speed_to_standard_error(folder, use, capsys):
    use(says(folder, "从前 once 🐦"))
    assert main(["generate", str(folder), "x", "--greedy", "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    assert out == "x从前 once 🐦\n"
    assert "tokens/s" in err
    assert "ended by stop" in err
    assert "seed 7" in err


def test_no_echo_leaves_the_prompt_out(folder, use, capsys):
    use(says(folder, " once"))
    assert main(["generate", str(folder), "x", "--temperature", "0", "--no-echo"]) == 0
    assert capsys.readouterr().out == " once\n"


def test_text_appears_piece_by_piece(folder, use, monkeypatch):
    use(says(folder, "一二三"))
    writes = []

    class Terminal(io.StringIO):
        def write(self, text):
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Terminal())
    main(["generate", str(folder), "x", "--greedy"])
    assert [text for text in writes if text] == ["x", "一", "二", "三", "\n"]


def test_the_prompt_comes_from_standard_input_less_one_final_newline(folder, use, monkeypatch, capsys):
    use(says(folder, "!"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\n"), encoding="utf-8"))
    assert main(["generate", str(folder), "-", "--greedy"]) == 0
    assert capsys.readouterr().out == "x!\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert main(["generate", str(folder), "-"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_many_texts_are_labelled(folder, use, capsys):
    use(random_model(folder))
    assert main(["generate", str(folder), "x", "--n", "3", "--seed", "1", "--max-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("--- 1 of 3 (")
    assert out.count(" of 3 (") == 3


def test_json_is_one_object_and_a_seed_draws_the_same_again(folder, use, capsys):
    use(random_model(folder))
    arguments = ["generate", str(folder), "x", "--n", "2", "--max-tokens", "12", "--top-k", "50", "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["prompt"] == "x"
    assert [sorted(entry) for entry in first["generations"]] == [["dropped_bytes", "finish_reason", "log_probs", "text", "tokens"]] * 2
    assert main([*arguments, "--seed", str(first["options"]["seed"])]) == 0
    assert json.loads(capsys.readouterr().out)["generations"] == first["generations"]


def test_stop_strings_are_one_flag_each_with_commas_and_escapes(folder, use, capsys):
    use(says(folder, "a, b; c\n\nd"))
    assert main(["generate", str(folder), "x", "--greedy", "--stop", r"\n\n", "--stop", "zz"]) == 0
    assert capsys.readouterr().out == "xa, b; c\n"
    use(says(folder, "a, b; c\n\nd"))
    assert main(["generate", str(folder), "x", "--greedy", "--stop", ", b"]) == 0
    assert capsys.readouterr().out == "xa\n"


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_an_interruption_keeps_what_was_generated(folder, use, capsys, json_flag):
    model = says(folder, "一二三四")
    step = model.step

    def interrupted(ids, state, last=True):
        if state.lengths and state.lengths[0] >= 3:
            raise KeyboardInterrupt
        return step(ids, state, last)

    model.step = interrupted
    use(model)
    assert main(["generate", str(folder), "x", "--greedy", *json_flag]) == 130
    out, err = capsys.readouterr()
    assert "ended by interrupted" in err
    if json_flag:
        [entry] = json.loads(out)["generations"]
        assert entry["finish_reason"] == "interrupted"
        assert entry["text"]
        assert "一二三四".startswith(entry["text"])
    else:
        assert out.endswith("\n")
        assert out[:2] == "x一"


@pytest.mark.parametrize(("arguments", "said"), [
    (["--top-p", "2"], "top_p"), (["--temperature", "-1"], "temperature"), (["--greedy", "--temperature", "1"], "--greedy"),
    (["--max-tokens", "x"], "max_tokens"), (["--tempratur", "1"], "did you mean --temperature"), (["--stop", ""], "stop"),
])
def test_wrong_flags_get_one_line(folder, use, capsys, arguments, said):
    use(random_model(folder))
    assert main(["generate", str(folder), "x", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_printed(folder, use, capsys):
    model = random_model(folder)
    model.max_length = 3
    use(model)
    assert main(["generate", str(folder), "qqqqqqqq"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "at most 3" in err


def test_bytes_that_are_no_text_are_said(folder, use, capsys):
    tokenizer = Tokenizer.open(folder)
    model = says(folder, "ab")
    model.said = [tokenizer.token_bytes.index(b"\xff"), tokenizer.separator_id]
    use(model)
    assert main(["generate", str(folder), "x", "--greedy"]) == 0
    out, err = capsys.readouterr()
    assert out == "x\n"
    assert "1 bytes" in err
