"""A checkpoint is whole or absent, whatever fails, and an optimizer comes back to the bit."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from myna.errors import UserError
from myna.train import checkpoint
from myna.train.checkpoint import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer


def make_tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(5, 3, generator=generator)
    return {"weight": normal, "half": normal.to(torch.bfloat16), "counter": torch.tensor(float(seed)), "ids": torch.arange(4) + seed,
            "random": generator.get_state(), "mask": normal > 0, "empty": torch.empty(0, 7), "turned": normal.t(),
            "f8": normal.to(torch.float8_e4m3fn)}


def make_state(seed: int) -> dict:
    return {"step": seed, "loss": 0.1 + seed / 3, "tiny": 5e-324, "big": 2**63, "text": "漢字", "nothing": None, "list": [1, 2.5]}


def assert_is(found: checkpoint.Checkpoint | None, seed: int) -> None:
    assert found is not None
    assert (found.step, found.state) == (seed, make_state(seed))
    expected = make_tensors(seed)
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        got = found.tensors[name]
        assert got.dtype == tensor.dtype and got.shape == tensor.shape, name
        if tensor.numel():
            assert torch.equal(got.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)), name


def save(folder: Path, seed: int, **options: int) -> Path:
    return save_checkpoint(folder, seed, make_tensors(seed), make_state(seed), **options)


def test_comes_back_to_the_bit_and_old_ones_go(tmp_path):
    folder = tmp_path / "new" / "checkpoints"
    assert load_checkpoint(folder) is None
    for seed in (1, 2, 30, 400):
        path = save(folder, seed)
        assert_is(load_checkpoint(folder), seed)
    assert path.name == "step-00000400"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000030", "step-00000400"]
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "state.json", "tensors.safetensors"]
    save(folder, 401, keep=1)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000401"]


def test_the_file_is_a_safetensors_file(tmp_path):
    path = save(tmp_path, 3)
    loaded = load_file(path / "tensors.safetensors")
    assert torch.equal(loaded["weight"], make_tensors(3)["weight"])


def test_same_step_again_replaces(tmp_path):
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, {"weight": torch.ones(1)}, {"again": True})
    found = load_checkpoint(tmp_path)
    assert found is not None and found.state == {"again": True}
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]


def test_state_must_be_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 1, {}, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="complex64"):
        save_checkpoint(tmp_path, 1, {"c": torch.ones(1, dtype=torch.complex64)}, {})
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-00000009.tmp").mkdir()
    (tmp_path / ".step-00000009.tmp" / "tensors.safetensors").write_bytes(b"part")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.old")
    assert_is(load_checkpoint(tmp_path), 1)
    save(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_killed_between_the_two_renames(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / ".step-00000001.old")
    assert_is(load_checkpoint(tmp_path), 1)
    save(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


# ---- faults: the k-th operation of a save fails, for every k


class CrashError(BaseException):
    """The process is gone: nothing after it does anything, clean-up included."""


class Faults:
    """Counts the file operations of a save and makes the k-th fail; after a crash every one does, and unsynced bytes are lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kth: int, kind: str) -> None:
        self.kth, self.kind, self.count, self.dead, self.unsynced = kth, kind, 0, False, set()
        self.real_open = io.open
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))
        monkeypatch.setattr(io, "open", self.open)
        monkeypatch.setattr(builtins, "open", self.open)

    def tick(self, name: str) -> None:
        self.count += 1
        if self.dead:
            raise CrashError
        if self.count == self.kth:
            if self.kind == "crash":
                self.dead = True
                raise CrashError
            number = errno.ENOSPC if self.kind == "short" else getattr(errno, self.kind)
            raise OSError(number, os.strerror(number), name)

    def wrap(self, name, real):
        def call(*args, **kwargs):
            self.tick(name)
            if name == "fsync":
                self.unsynced.discard(os.fstat(args[0]).st_ino)
            return real(*args, **kwargs)
        return call

    def open(self, path, mode="r", *args, **kwargs):
        if "w" in mode:
            self.tick("open")
        file = self.real_open(path, mode, *args, **kwargs)
        if "w" in mode:
            self.unsynced.add(os.fstat(file.fileno()).st_ino)
            real = file.write

            def write(data):
                if self.kind in ("short", "crash") and self.count + 1 == self.kth:
                    real(bytes(data)[: len(data) // 2] if isinstance(data, bytes | memoryview) else data[: len(data) // 2])
                    file.flush()
                self.tick("write")
                return real(data)

            return Shim(file, write)
        return file

    def lose_unsynced(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.unsynced:
                os.truncate(path, path.stat().st_size // 2)


class Shim:
    def __init__(self, file, write) -> None:
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def save_with_fault(folder: Path, kth: int, kind: str, seed: int) -> tuple[bool, BaseException | None]:
    """Save with the k-th operation failing; tells whether the save came that far, and what was raised."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults = Faults(monkeypatch, kth, kind)
        raised = None
        try:
            save(folder, seed)
        except (CrashError, UserError) as error:
            raised = error
    if kind == "crash":
        faults.lose_unsynced(folder)
    return faults.count >= kth, raised


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "short", "crash"])
@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step"])
def test_any_fault_leaves_the_old_or_the_new_whole(tmp_path, kind, again, capsys):
    kth, seen = 0, set()
    while True:
        kth += 1
        folder = tmp_path / str(kth)
        for seed in (1, 2):
            save(folder, seed)
        if again:  # step 2 was saved with other content before
            save_checkpoint(folder, 2, {"weight": torch.zeros(1)}, {"first": True})
        reached, raised = save_with_fault(folder, kth, kind, 2 if again else 3)
        found = load_checkpoint(folder)
        assert found is not None and "damaged" not in capsys.readouterr().err, f"operation {kth}"
        if again and found.state == {"first": True}:
            seen.add("old")
        else:
            seen.add("old" if found.step == 2 and not again else "new")
            assert_is(found, found.step)
        if isinstance(raised, UserError):
            line = str(raised)
            assert "\n" not in line and "bytes needed" in line and "are free" in line and "last checkpoint" in line
            assert not list(folder.glob(".*.tmp")), (kth, line)
        save(folder, 4)  # and the next save works and leaves nothing behind
        assert_is(load_checkpoint(folder), 4)
        assert all(p.name.startswith("step-") for p in folder.iterdir())
        if not reached:
            break
    assert kth > 20, "the shim saw every operation of a save"
    assert seen == {"old", "new"}


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_damage_falls_back_and_says_so(tmp_path, capsys, name):
    good = tmp_path / "good"
    for seed in (1, 2):
        save(good, seed)
    chance = random.Random(0)
    for case in range(60):
        folder = tmp_path / f"{case}"
        shutil.copytree(good, folder)
        file = folder / "step-00000002" / name
        data = bytearray(file.read_bytes())
        kind = ["flip", "cut", "delete", "empty", "grow"][case % 5]
        if kind == "flip":
            place = chance.randrange(len(data))
            data[place] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[chance.randrange(len(data)):]
        elif kind == "grow":
            data += b"\0"
        elif kind == "empty":
            data.clear()
        if kind == "delete":
            file.unlink()
        else:
            file.write_bytes(data)
        found = load_checkpoint(folder)
        said = capsys.readouterr().err
        if name == "manifest.json" and found is not None and found.step == 2:
            assert kind in ("flip", "cut")  # a bit of what the manifest tells about the run, or its last newline
            assert_is(found, 2)
        else:
            assert_is(found, 1)
            named = name in said or (name == "manifest.json" and kind == "flip")  # the flipped bit may lie in the name of another file
            assert "step-00000002" in said and named and said.count("\n") == 1
        shutil.rmtree(folder)


def test_nothing_whole_is_nothing(tmp_path, capsys):
    for seed in (1, 2):
        (save(tmp_path, seed) / "state.json").unlink()
    assert load_checkpoint(tmp_path) is None
    assert capsys.readouterr().err.count("damaged") == 2


def test_saving_after_a_fall_back_keeps_what_is_whole(tmp_path, capsys):
    for seed in (10, 20):
        save(tmp_path, seed)
    (tmp_path / "step-00000020" / "state.json").write_text("{}")
    assert_is(load_checkpoint(tmp_path), 10)
    save(tmp_path, 15, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000015"]


def test_a_checkpoint_of_another_step_is_refused(tmp_path, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2)
    shutil.rmtree(tmp_path / "step-00000002")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002")
    assert_is(load_checkpoint(tmp_path), 1)
    assert "step 2" in capsys.readouterr().err


def test_too_little_space_is_refused_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(checkpoint, "new_directory", None)
    with pytest.raises(UserError, match=r"needed, 1,000 are free.*step-00000001"):
        save(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


def test_a_really_full_disk(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        big = {"weight": torch.arange(60_000, dtype=torch.int32)}  # 240 kB: one fits in 400 kB, two do not
        save_checkpoint(disk, 1, big, {})
        with pytest.raises(UserError, match="not enough disk space"):
            save_checkpoint(disk, 2, big, {})
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        with pytest.raises(UserError, match="No space left on device"):
            save_checkpoint(disk, 2, big, {})
        monkeypatch.undo()
        assert [p.name for p in disk.iterdir()] == ["step-00000001"]
        found = load_checkpoint(disk)
        assert found is not None and torch.equal(found.tensors["weight"], big["weight"])
    finally:
        found = None
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_read_only_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot save the checkpoint of step 1"):
        save(tmp_path / "file", 1)


# ---- optimizers


def make_optimizer(kind: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(6, 4, generator=generator).to(dtype).t().requires_grad_(),
               torch.randn(4, 4, generator=generator).to(dtype).requires_grad_()]
    groups = [{"params": [weights[0]], "lr": 0.01}, {"params": [weights[1]], "lr": 0.003, "weight_decay": 0.2}]
    if kind == "AdamW":
        return weights, torch.optim.AdamW(groups, betas=(0.9, 0.95), amsgrad=True)
    if kind == "AdamW, rate a tensor":
        groups[0]["lr"] = torch.tensor(0.01)
        return weights, torch.optim.AdamW(groups, foreach=False, capturable=False)
    if kind == "SGD":
        return weights, torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    if kind == "SGD without momentum":
        return weights, torch.optim.SGD(groups)
    return weights, torch.optim.Muon(groups)


def advance(weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        for group in optimizer.param_groups:
            group["lr"] *= 0.97
        optimizer.step()


@pytest.mark.parametrize("kind", ["AdamW", "AdamW, rate a tensor", "SGD", "SGD without momentum", "Muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_goes_on_to_the_bit(tmp_path, kind, dtype):
    straight, optimizer = make_optimizer(kind, dtype)
    advance(straight, optimizer, range(9))

    first, optimizer = make_optimizer(kind, dtype)
    advance(first, optimizer, range(4))
    tensors, state = pack_optimizer(optimizer)
    save_checkpoint(tmp_path, 4, {f"optimizer.{name}": tensor for name, tensor in tensors.items()}, {"optimizer": state})

    second, fresh = make_optimizer(kind, dtype)
    with torch.no_grad():
        for weight, value in zip(second, first, strict=True):
            weight.copy_(value)
    found = load_checkpoint(tmp_path)
    assert found is not None
    tensors = {name.removeprefix("optimizer."): tensor for name, tensor in found.tensors.items()}
    unpack_optimizer(fresh, tensors, found.state["optimizer"])
    shutil.rmtree(found.path)
    again, state_again = pack_optimizer(fresh)
    assert state_again == state and all(torch.equal(again[name], tensors[name]) for name in tensors) and set(again) == set(tensors)
    advance(second, fresh, range(4, 9))
    for weight, value in zip(second, straight, strict=True):
        assert torch.equal(weight, value)


def test_moments_wider_than_their_weights_lose_no_bit():
    weights, optimizer = make_optimizer("AdamW", torch.bfloat16)
    advance(weights, optimizer, range(2))
    wide = torch.randn(4, 6)
    optimizer.state[weights[0]]["exp_avg"] = wide
    tensors, state = pack_optimizer(optimizer)
    unpack_optimizer(optimizer, tensors, state)
    assert torch.equal(optimizer.state[weights[0]]["exp_avg"], wide)


def test_another_optimizer_is_refused():
    _, optimizer = make_optimizer("AdamW", torch.float32)
    tensors, state = pack_optimizer(optimizer)
    with pytest.raises(UserError, match="groups"):
        unpack_optimizer(torch.optim.AdamW([torch.zeros(2, 2, requires_grad=True)]), tensors, state)
    with pytest.raises(UserError, match="shape"):
        unpack_optimizer(optimizer, {"0.exp_avg": torch.zeros(9)}, state)
