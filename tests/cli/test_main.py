"""The command line itself: flags wherever they stand, help, errors in one line, signals, output that any terminal takes."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from myna import __version__
from myna.cli import clean
from myna.cli.main import COMMANDS, Parser, add_options, main, read_options
from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.models.options import NgramOptions
from myna.train.options import TrainOptions

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture()
def parser() -> Parser:
    made = Parser("myna test", "A test.")
    made.add_argument("model", metavar="DIR")
    made.add_argument("prompt", metavar="PROMPT", nargs="?", default="")
    made.add_argument("--out", metavar="FILE")
    add_options(made, SampleOptions)
    add_options(made, NgramOptions, "ngram")
    return made


@pytest.mark.parametrize("argv", [
    ["m", "p", "--max-tokens", "3", "--ngram.max-order", "4"], ["--max-tokens=3", "m", "--ngram.max-order=4", "p"],
    ["m", "--max_tokens", "3", "--ngram.max_order", "4", "p"], ["m", "p", "--max_tokens=3", "--ngram.max_order=4"],
])
def test_flags_may_stand_anywhere_with_dashes_or_underscores(parser: Parser, argv: list[str]) -> None:
    args = parser.parse(argv)
    assert (args.model, args.prompt) == ("m", "p")
    assert read_options(args, SampleOptions) == SampleOptions(max_tokens=3)
    assert read_options(args, NgramOptions, "ngram") == NgramOptions(max_order=4)


@pytest.mark.parametrize(("argv", "prompt"), [
    (["m", "--", "--max_tokens"], "--max_tokens"), (["m", "--seed", "1", "--", "-x"], "-x"), (["m", "-5"], "-5"),
    (["m", "--a dash and_words"], "--a dash and_words"), (["m", "snake_case --x_y"], "snake_case --x_y"), (["m", ""], ""),
])
def test_a_prompt_is_never_changed(parser: Parser, argv: list[str], prompt: str) -> None:
    assert parser.parse(argv).prompt == prompt


def test_values_are_never_changed(parser: Parser) -> None:
    assert parser.parse(["m", "--out=my_file=--x_y"]).out == "my_file=--x_y"
    with pytest.raises(UserError, match="temperature is -1"):
        read_options(parser.parse(["m", "--temperature", "-1"]), SampleOptions)


@pytest.mark.parametrize(("argv", "said"), [
    (["m", "--max-token", "3"], r"unknown argument --max-token \(did you mean --max-tokens\?\); see myna test --help"),
    (["--ngram.ordr=3", "m"], r"unknown argument --ngram.ordr \(did you mean --ngram.order\?\)"),
    (["--otu", "x"], r"unknown argument --otu \(did you mean --out\?\)"), (["m", "p", "q"], "unknown argument q"), ([], "required: DIR"),
    (["m", "-q"], "unknown argument -q"), (["m", "--out"], "--out: expected one argument"), (["--max-tokens", "3"], "required: DIR"),
])
def test_a_wrong_flag_is_a_user_error(parser: Parser, argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parser.parse(argv)


def test_only_given_flags_win_over_the_recipe() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, TrainOptions, "train")
    recipe = {"train": {"momentum": 0.5, "warmup": 0.1}}
    args = parser.parse_args(["--train.warmup", "0.2"])
    assert read_options(args, TrainOptions, "train", recipe) == TrainOptions(momentum=0.5, warmup=0.2)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_and_fits_80_columns(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = []
    for argv in ([name, "--help"], [name, "-h"], ["help", name], [name, "--help", "--bogus"]):
        assert main(argv) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0].startswith(f"usage: myna {name} ") and "[OPTIONS]" in shown[0].splitlines()[0] and "--json" in shown[0]
    assert max(map(len, shown[0].splitlines())) <= 80
    assert len(set(shown)) == 1


def test_help_says_what_a_flag_takes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["build", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("usage: myna build [INPUT ...] --out DIR [OPTIONS] ")
    for said in ("--minutes X", "--steps N", "--train.optimizer muon|adamw|adam|sgd", "(default linear)", "--clean.deduplicate true|false",
                 "(default 10)", "--clean.text-key TEXT"):
        assert said in out, said


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for argv in ([], ["-h"], ["--help"], ["help"]):
        assert main(argv) == 0
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1 and all(f"  {name} " in shown[0] for name in COMMANDS)
    assert max(map(len, shown[0].splitlines())) <= 90
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"myna {__version__}\n"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genrate", "x"]) == 2
    assert capsys.readouterr().err.startswith("myna: unknown command 'genrate' (did you mean generate?); expected one of fetch, build")


def run_as(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> int:
    monkeypatch.setattr(clean, "run", run)
    return main(["clean", "x", "--out", "y"])


@pytest.mark.parametrize(("error", "code", "said"), [
    (UserError("got\nthis", "that", "do so"), 2, "got this; expected that; do so"), (KeyboardInterrupt(), 130, "interrupted"),
    (KeyboardInterrupt("stopped and saved at step 3"), 130, "stopped and saved at step 3"),
    (OSError(28, "No space left on device", "/x/y"), 2, "No space left on device: /x/y"), (MemoryError(), 2, "out of memory; close"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory; close"),
    (UserError("a name with \x1b[31m and \udcff"), 2, r"a name with \x1b[31m and \udcff"), (UserError("从前"), 2, "从前"),
])
def test_every_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int,
                                 said: str) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    assert run_as(monkeypatch, fail) == code
    err = capsys.readouterr().err
    assert err.startswith(f"myna: {said}") and err.count("\n") == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run_as(monkeypatch, fail)


def test_signal_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    inside = []
    assert run_as(monkeypatch, lambda args: inside.append(signal.getsignal(signal.SIGTERM)) or 0) == 0
    assert inside[0] is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Run a script in which the command `clean` does what the test says."""
    script = f"import ctypes, sys, time\nimport myna.cli.clean as clean, myna.cli.stop as stop\nfrom myna.cli.main import main\n{code}\n"
    script += "clean.run, stop._PATIENCE = run, 0.5\nsys.exit(main(['clean', 'x', '--out', 'y']))"
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                            encoding="utf-8", env={**os.environ, **environment})


PYTHON = """
def run(args):
    print("ready", flush=True)
    time.sleep(1000)
"""
NATIVE = """
def run(args):  # a native call that no signal ends, as learning a vocabulary is: a lock that is never given back
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    library.pthread_mutex_lock(mutex)
"""
DEAF = """
def run(args):  # a library that swallows the exception
    print("ready", flush=True)
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"""


@pytest.mark.parametrize(("code", "number"), [(PYTHON, signal.SIGTERM), (PYTHON, signal.SIGINT), (NATIVE, signal.SIGTERM),
                                              (NATIVE, signal.SIGINT), (DEAF, signal.SIGTERM)])
def test_a_signal_ends_any_command_in_one_line(code: str, number: int) -> None:
    process = start(code)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)  # into the call
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "myna: interrupted\n")


def test_a_handler_that_saves_is_given_its_time() -> None:
    """Training puts its own handler in place; the process is not ended under it."""
    process = start("""
import signal
def run(args):
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    print("ready", flush=True)
    while not asked:
        time.sleep(0.01)
    time.sleep(1.5)
    raise KeyboardInterrupt("stopped and saved")
""")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120)[1] == "myna: stopped and saved\n"
    assert process.returncode == 130


PRINTS = """
def run(args):
    print("从前 🐦 \\udcff")
    print("é", file=sys.stderr)
    return 0
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_can_be_printed_whatever_the_terminal(encoding: str) -> None:
    out, err = start(PRINTS, PYTHONIOENCODING=encoding).communicate(timeout=120)
    assert (out, err) == ("从前 🐦 \\udcff\n", "é\n")


def test_a_terminal_that_can_hold_all_text_keeps_its_encoding() -> None:
    process = start(PRINTS.replace(" \\udcff", ""), PYTHONIOENCODING="gb18030")
    assert process.stdout is not None
    assert process.stdout.buffer.read().decode("gb18030") == "从前 🐦\n"
    assert process.stderr is not None and process.stderr.buffer.read().decode("gb18030") == "é\n"
    process.wait()


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start("def run(args):\n    sys.stdin.readline()\n    print('x' * 10, end='')\n    return 0")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None and process.stderr.read() == ""
    assert process.wait(timeout=120) == 0
