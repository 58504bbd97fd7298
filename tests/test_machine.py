"""The probe gives sane numbers, keeps them, and obeys the limits that a container sets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from myna import machine
from myna.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, small in (("_SECONDS", 0.01), ("_WIDE", 256), ("_ROWS", 256), ("_COPY", 1 << 20)):
        monkeypatch.setattr(machine, name, small)


def test_probe_is_sane_and_cached(tmp_path, monkeypatch):
    first = machine.probe()
    for rate in (first.float32_rate, first.bfloat16_rate, first.float32_small_rate, first.bfloat16_small_rate, first.memory_bandwidth):
        assert 1e7 < rate < 1e15
    assert 1 <= first.cores <= (os.cpu_count() or 1)
    assert 0 < first.free_memory <= first.total_memory < 1 << 50
    assert first.cpu and first.threads >= 1 and first.torch[0].isdigit()

    monkeypatch.setattr(machine, "_measure", lambda: pytest.fail("measured again"))
    assert replace(machine.probe(), free_memory=0, total_memory=0) == replace(first, free_memory=0, total_memory=0)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"rates": {"float32_rate": 1}}', '{"rates": null}'])
def test_a_damaged_cache_is_measured_again(tmp_path, damage):
    first = machine.probe()
    (cached,) = (tmp_path / "cache" / "myna").iterdir()
    whole = json.loads(cached.read_text())
    cached.write_text(damage)
    again = machine.probe()
    assert again.cpu == first.cpu
    assert json.loads(cached.read_text())["machine"] == whole["machine"]
    assert set(json.loads(cached.read_text())["rates"]) == set(whole["rates"])


def test_refresh_and_other_threads_measure_again(monkeypatch):
    import torch

    threads = torch.get_num_threads()
    names = ("float32_rate", "bfloat16_rate", "float32_small_rate", "bfloat16_small_rate", "memory_bandwidth")
    rates = dict.fromkeys(names, 1e9)
    monkeypatch.setattr(machine, "_measure", lambda: rates)
    assert machine.probe().float32_rate == 1e9
    rates = {**rates, "float32_rate": 2e9, "bfloat16_small_rate": 1.6e9}
    assert machine.probe().float32_rate == 1e9
    try:
        machine.set_threads(threads + 1)
        assert machine.probe().float32_rate == 2e9
    finally:
        machine.set_threads(threads)
    assert machine.probe().float32_rate == 1e9 and not machine.probe().bfloat16_pays
    assert machine.probe(refresh=True).bfloat16_pays


def test_no_place_for_a_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert machine.probe().float32_rate > 0


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_control_groups_version_2(tmp_path):
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/box/inner\n",
        "sys/fs/cgroup/box/memory.max": "1000000\n", "sys/fs/cgroup/box/memory.current": "700000\n",
        "sys/fs/cgroup/box/memory.stat": "anon 1\ninactive_file 200000\n",
        "sys/fs/cgroup/box/inner/memory.max": "max\n",
        "sys/fs/cgroup/box/inner/cpu.max": "50000 100000\n", "sys/fs/cgroup/box/cpu.max": "max 100000\n"})
    assert machine.memory(root) == (1_000_000, 500_000)
    assert machine.usable_cores(root) == 1


def test_control_groups_version_1(tmp_path):
    root = write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "5000000",
                            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000",
                            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"})
    assert machine.memory(root) == (5_000_000, 4_000_000)
    assert machine.usable_cores(root) == 1


def test_no_control_groups(tmp_path):
    total, free = machine.memory(tmp_path)
    assert free <= total and total > 1 << 28
    assert machine.usable_cores(tmp_path) >= 1


def test_affinity_is_obeyed():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    code = """if True:
        import os
        from myna.machine import usable_cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(usable_cores())"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "1"


def test_memory_of_this_process():
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    slack = 1 << 20  # the kernel keeps these counts per processor and adds them up late
    assert 64 << 20 < machine.current_memory() <= machine.peak_memory() + slack < 1 << 40
    before = machine.peak_memory()
    del block
    assert machine.peak_memory() >= before - slack and machine.current_memory() < before - (32 << 20)


def test_the_peak_of_a_child_is_its_own():
    block = bytearray(300 << 20)
    block[::4096] = b"x" * len(block[::4096])
    code = "from myna.machine import peak_memory; print(peak_memory())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1 << 20 < peak < 200 << 20


def test_ranks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (machine.rank(), machine.world_size()) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (machine.rank(), machine.world_size()) == (3, 4)
    monkeypatch.setenv("RANK", "-x")
    with pytest.raises(UserError, match="RANK"):
        machine.rank()


def test_threads_below_one():
    with pytest.raises(UserError, match="threads is 0"):
        machine.set_threads(0)


def test_device_is_one_torch_knows():
    import torch

    assert torch.zeros(1, device=machine.device()).sum() == 0


def test_importing_it_does_not_import_torch():
    code = "import sys, myna.machine; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_freed_memory_goes_back() -> None:
    kept = [bytes(100_000) for _ in range(1000)]  # small enough for the C library to keep when freed
    wall = bytes(100_000)  # above the others, so that the end of what is freed is not given back by itself
    del kept
    before = machine.current_memory()
    machine.return_memory()
    assert len(wall) and (platform.libc_ver()[0] != "glibc" or machine.current_memory() < before - 10_000_000)
