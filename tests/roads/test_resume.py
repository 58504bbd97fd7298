"""Stopping and going on: kills at any moment, signals, damage and a full disk leave a run that ends with the very same bits.

A run is `myna build` in a process of its own. To spare two seconds of imports per run, the processes are forked from one that has
imported everything and computed nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from myna.cli.main import main
from myna.files import lock, sha256
from myna.models.ngram import Ngram
from myna.train.checkpoint import load_checkpoint
from tests.conftest import tiny_flags, write_topics

STEPS = 40
_LONG = 240.0  # seconds after which a process hangs; no promise, only an end to waiting on a busy machine

_FORKER = textwrap.dedent("""
    import json, os, sys, traceback
    import torch, torch._dynamo, myna.roads.build, myna.api, myna.cli.build, myna.models.pretrained
    import myna.train.loop, myna.train.plan, myna.train.rehearsal
    import myna.cli.plan, myna.audit.card, myna.evaluate.page, tokenizers, rich.console, rich.progress
    from myna.cli.main import main
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["myna", *request["argv"]]
            try:
                code = main(request["argv"])
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
""")


class Runs:
    """Starts runs one at a time: `start`, then `kill` or nothing, then `wait`."""

    def __init__(self, folder: Path) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        self.process = subprocess.Popen([sys.executable, "-c", _FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = 0

    def start(self, *argv: str) -> None:
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"argv": argv, "out": str(self.out), "err": str(self.err)}), file=self.process.stdin, flush=True)
        self.pid = int(self.process.stdout.readline())

    @property
    def running(self) -> bool:
        """Whether the run has not ended; a process that has ended is reaped by the forker at once."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, number)

    def wait(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def run(self, *argv: str) -> int:
        self.start(*argv)
        return self.wait()

    def said(self) -> str:
        return self.err.read_text(encoding="utf-8")


class Reference(NamedTuple):
    texts: Path
    folder: Path
    seconds: float
    begins: float
    "Seconds until the first step."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("runs"))
    yield made
    assert made.process.stdin
    made.process.stdin.close()
    made.process.wait()


def request(texts: Path, out: Path, *more: str) -> list[str]:
    return ["build", str(texts), "--out", str(out), "--steps", str(STEPS), "--threads", "1", "--train.checkpoint-seconds", "0.1",
            *tiny_flags(), *more]


@pytest.fixture(scope="module")
def reference(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The uninterrupted run."""
    place = tmp_path_factory.mktemp("reference")
    texts = write_topics(place / "texts", 25)
    began = time.monotonic()
    runs.start(*request(texts, place / "model"))
    wait_until(runs, lambda: logged(place / "model") >= 1)
    begins = time.monotonic() - began
    assert runs.wait() == 0, runs.said()
    return Reference(texts, place / "model", time.monotonic() - began, begins)


def rows(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


def logged(folder: Path) -> int:
    """How many steps the log holds, as it is being written."""
    try:
        return (folder / "log.jsonl").read_bytes().count(b'"event": "step"')
    except OSError:
        return 0


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*"))


def exact(folder: Path) -> dict[str, Any]:
    """Everything that must not differ by a bit."""
    steps = [(row["step"], row["loss"].hex(), row["gradient_norm"].hex(), row["learning_rate"].hex()) for row in rows(folder, "step")]
    curve = [(row["step"], row["bits_per_byte"].hex()) for row in rows(folder, "valid")]
    samples = [(row["step"], row["text"]) for row in rows(folder, "sample")]
    report = json.loads((folder / "myna.json").read_text(encoding="utf-8"))["report"]
    hashes = {name: sha256(folder / name) for name in ("model.safetensors", "tokenizer.json", "config.json", "ngram/model.safetensors")}
    return {"steps": steps, "curve": curve, "samples": samples, "report": report, **hashes}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check_equal(folder: Path, reference: Reference) -> None:
    found, wanted = exact(folder), exact(reference.folder)
    assert [step[0] for step in found["steps"]] == list(range(1, STEPS + 1))
    for name, value in wanted.items():
        assert found[name] == value, name
    assert files(folder) == files(reference.folder), "killed runs left files behind"


def wait_until(runs: Runs, condition: Callable[[], bool]) -> bool:
    """Wait for a condition; False when the run ended before it came true."""
    deadline = time.monotonic() + _LONG
    while not condition():
        if not runs.running:
            return False
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.001)
    return True


def stop_at_step(runs: Runs, reference: Reference, out: Path, step: int, number: int) -> int:
    """Begin a run and send it a signal once it has logged a step; returns its exit code."""
    runs.start(*request(reference.texts, out))
    assert wait_until(runs, lambda: logged(out) >= step and bool(checkpoints(out))), runs.said()
    runs.send(number)
    return runs.wait()


def kill(runs: Runs, reference: Reference, out: Path, kind: str, rng: random.Random) -> bool:
    """Go on with a run and kill it at a random moment of some kind; False when it was done before."""
    runs.start(*request(reference.texts, out, "--resume"))
    if kind == "early":  # reading, tokenizer, baseline, plan, rehearsal
        time.sleep(rng.uniform(0, reference.begins))
    elif kind == "step":
        wanted = logged(out) + rng.randint(1, STEPS // 3)
        wait_until(runs, lambda: logged(out) >= min(wanted, STEPS - 1))
        time.sleep(rng.uniform(0, 0.02))
    elif kind == "save":  # a checkpoint is being written, moved or removed
        wait_until(runs, lambda: any((out / "checkpoints").glob(".step-*")))
        time.sleep(rng.uniform(0, 0.004))
    elif kind == "end":  # evaluation, writing the model directory
        wait_until(runs, lambda: logged(out) >= STEPS)
        time.sleep(rng.uniform(0, max(0.1, (reference.seconds - reference.begins) / 4)))
    runs.send(signal.SIGKILL)
    code = runs.wait()
    assert code in (0, -signal.SIGKILL), runs.said()
    return code != 0


def kill_and_resume(runs: Runs, reference: Reference, place: Path, kinds: list[str], seed: int) -> None:
    """Kill as often as there are kinds, in one directory as long as it is not done, and hold every result against the reference."""
    print(f"seed {seed}, kills: {', '.join(kinds)}")
    rng = random.Random(seed)
    number = 0
    for kind in kinds:
        out = place / f"model{number}"
        if not kill(runs, reference, out, kind, rng) or (out / "myna.json").is_file():
            assert runs.run("build", "--resume", "--out", str(out)) == 0, runs.said()
            check_equal(out, reference)
            number += 1
    out = place / f"model{number}"
    assert runs.run(*request(reference.texts, out, "--resume")) == 0, runs.said()
    check_equal(out, reference)


def test_three_kills_change_no_bit(runs: Runs, reference: Reference, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    kill_and_resume(runs, reference, tmp_path, ["early", rng.choice(["step", "save"]), "save"], seed)


@pytest.mark.slow
def test_twenty_kills_change_no_bit(runs: Runs, reference: Reference, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    kinds = ["early", "step", "save", "end"] * 5
    random.Random(seed).shuffle(kinds)
    kill_and_resume(runs, reference, tmp_path, kinds, seed)


def test_two_uninterrupted_runs_are_the_same(runs: Runs, reference: Reference, tmp_path: Path) -> None:
    """In a process that was not forked, and with another time between checkpoints."""
    out = tmp_path / "model"
    command = [sys.executable, "-m", "myna", *request(reference.texts, out), "--train.checkpoint-seconds", "1000"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    check_equal(out, reference)


def test_sigterm_saves_at_the_current_step(runs: Runs, reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert stop_at_step(runs, reference, out, 15, signal.SIGTERM) == 130
    last = runs.said().splitlines()[-1]
    assert last.startswith("myna: stopped and saved at step") and "--resume" in last and "Traceback" not in runs.said()
    newest = load_checkpoint(out / "checkpoints")
    assert newest is not None and newest.step == logged(out)
    assert runs.run("build", "--resume", "--out", str(out)) == 0, runs.said()  # the request is in plan.json
    assert f"resumed at step {newest.step}" in runs.said()
    check_equal(out, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_ends_in_one_line(runs: Runs, reference: Reference, tmp_path: Path, number: int) -> None:
    out = tmp_path / "model"
    runs.start(*request(reference.texts, out))
    wait_until(runs, lambda: (out / "corpus").is_dir())
    runs.send(number)
    assert runs.wait() == 130
    assert runs.said().splitlines()[-1] == "myna: interrupted; the stages that are done are kept: go on with --resume"
    assert "Traceback" not in runs.said() and not (out / "checkpoints").exists()


def test_a_damaged_newest_checkpoint_is_passed_over_and_this_is_said(runs: Runs, reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "model"
    runs.start(*request(reference.texts, out))
    assert wait_until(runs, lambda: len(checkpoints(out)) == 2), runs.said()
    runs.send(signal.SIGKILL)
    runs.wait()
    older, newest = checkpoints(out)[-2:]
    data = bytearray((newest / "tensors.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "tensors.safetensors").write_bytes(data)
    assert runs.run("build", "--resume", "--out", str(out)) == 0, runs.said()
    assert f"{newest} is damaged" in runs.said() and f"resumed at step {int(older.name[5:])}" in runs.said()
    check_equal(out, reference)


def test_two_runs_in_one_directory_are_refused(reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock(tmp_path / "model"):
        assert main(request(reference.texts, tmp_path / "model")) == 2
    assert "another run is writing" in one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("myna: ") and len(said[0]) <= 400
    return said[0]


def counting(texts: Path, out: Path) -> list[str]:
    return ["build", str(texts), "--out", str(out), "--family", "ngram", *tiny_flags()]


def test_resume_with_nothing_saved_starts_and_a_finished_build_stays(reference: Reference, tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    assert main([*counting(reference.texts, out), "--resume"]) == 0
    assert Ngram.open(out).order == 3
    written = {name: (out / name).stat().st_mtime_ns for name in ("myna.json", "model.safetensors")}
    capsys.readouterr()
    assert main(["build", "--resume", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "is finished" in said.err and "bits per byte" in said.out
    assert written == {name: (out / name).stat().st_mtime_ns for name in written}
    assert main(counting(reference.texts, out)) == 2
    assert "already holds a finished model" in one_line(capsys)


def test_resume_of_nothing_without_input_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--resume", "--out", str(tmp_path / "model")]) == 2
    assert "nothing to build from" in one_line(capsys)


@pytest.fixture(scope="module")
def stopped(runs: Runs, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a plan and checkpoints whose run was killed."""
    out = tmp_path_factory.mktemp("stopped") / "model"
    assert stop_at_step(runs, reference, out, 5, signal.SIGKILL) == -signal.SIGKILL
    return out


def test_a_begun_build_is_not_begun_again(reference: Reference, stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(request(reference.texts, stopped)) == 2
    assert "not finished" in one_line(capsys)


def test_resume_with_other_options_names_the_difference(reference: Reference, stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(request(reference.texts, stopped, "--resume", "--train.momentum", "0.9")) == 2
    assert "train.momentum was 0.95, now 0.9" in one_line(capsys)
    assert main(request(reference.texts, stopped, "--resume", "--seed", "7")) == 2
    assert "build.seed was 0, now 7" in one_line(capsys)


def test_a_corpus_that_changed_since_is_named(runs: Runs, reference: Reference, stopped: Path, tmp_path: Path) -> None:
    out, texts = tmp_path / "model", tmp_path / "texts"
    shutil.copytree(reference.texts, texts)
    assert stop_at_step(runs, reference._replace(texts=texts), out, 5, signal.SIGKILL) == -signal.SIGKILL
    (texts / "for.txt").write_text("other", encoding="utf-8")
    assert runs.run("build", "--resume", "--out", str(out)) == 2
    assert "for.txt" in runs.said().splitlines()[-1] and "was made with other inputs" in runs.said()


def test_a_corpus_that_is_gone_is_not_needed_again(runs: Runs, reference: Reference, tmp_path: Path) -> None:
    out, texts = tmp_path / "model", tmp_path / "texts"
    shutil.copytree(reference.texts, texts)
    assert stop_at_step(runs, reference._replace(texts=texts), out, 5, signal.SIGKILL) == -signal.SIGKILL
    shutil.rmtree(texts)
    assert runs.run("build", "--resume", "--out", str(out)) == 0, runs.said()
    assert "no longer there" in runs.said() and (out / "report.html").is_file()


def test_a_finished_build_gets_its_pages_back_and_refuses_other_options(reference: Reference, tmp_path: Path,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    shutil.copytree(reference.folder, out)
    (out / "report.html").unlink()
    assert main(["build", "--resume", "--out", str(out)]) == 0
    assert (out / "report.html").is_file()
    capsys.readouterr()
    assert main(["build", "--resume", "--out", str(out), "--seed", "7"]) == 2
    assert "build.seed was 0, now 7" in one_line(capsys)


@pytest.fixture()
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(runs: Runs, reference: Reference, small_disk: Path) -> None:
    out = small_disk / "model"
    runs.start(*request(reference.texts, out))
    assert wait_until(runs, lambda: bool(checkpoints(out))), runs.said()
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(1 << 16))
    assert runs.wait() == 2, runs.said()
    last = runs.said().splitlines()[-1]
    assert "space" in last and "Traceback" not in runs.said()
    (small_disk / "filler").unlink()
    newest = load_checkpoint(out / "checkpoints")
    assert newest is not None and newest.step >= 1
    assert runs.run("build", "--resume", "--out", str(out)) == 0, runs.said()
    check_equal(out, reference)
