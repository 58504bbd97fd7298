"""What this machine can do: cores, memory and measured speed, so that a plan is made of numbers and not of hope.

The limits are those that hold for this process: CPU affinity and the control group's memory and CPU quota (Linux kernel
documentation, "Control Group v2", sections 5.1 and 5.2) before the hardware's. The speed is measured by products and a copy with
PyTorch as it will be used, in about three seconds, and kept in the user's cache. This is also the only place that reads
`RANK`, `WORLD_SIZE` and whether there is a GPU.

    machine = probe()
    print(f"{machine.cpu}: {machine.float32_rate / 1e9:.0f} GFLOP/s")
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.files import read_json, write_json

_WIDE, _NARROW, _ROWS = 2048, 256, 2048  # width of the large product; width and rows of one as small models have them
_SECONDS = 0.4  # spent on each measurement; all of them together stay near 3 s, and under 15 s on a machine 50 times slower
_COPY = 128 << 20  # bytes; larger than the caches of most CPUs
_PAYS = 1.5  # own choice: bfloat16 must speed the products up by half, as its casts and what stays in float32 eat into the gain


@dataclass(frozen=True)
class Machine:
    """This machine, as this process may use it."""

    cpu: str
    cores: int
    "Processors that this process may use."
    threads: int
    "Threads that PyTorch uses, with which the rates below were measured."
    total_memory: int
    "Bytes that this process may ever use."
    free_memory: int
    "Bytes that are free now."
    float32_rate: float
    "FLOP/s of a 2048 x 2048 product."
    bfloat16_rate: float
    float32_small_rate: float
    "FLOP/s of (2048, 256) by (256, 256), a typical product of a small model."
    bfloat16_small_rate: float
    memory_bandwidth: float
    "Bytes/s read and written by a copy of 128 MiB."
    bfloat16_pays: bool
    "Whether small products are enough faster in bfloat16 to be worth its casts."
    torch: str
    "PyTorch's version."


def probe(refresh: bool = False) -> Machine:
    """Measure this machine with the threads PyTorch has now, or take the rates from the cache; free memory is always read anew."""
    import torch

    total, free = memory()
    key = {"cpu": cpu_name(), "cores": usable_cores(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    path = cache_directory() / f"machine-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json"
    rates = None if refresh else _read_rates(path, key)
    if rates is None:
        rates = _measure()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"machine": key, "rates": rates})
        except OSError:  # no place for a cache: the next call measures again
            pass
    pays = rates["bfloat16_small_rate"] > _PAYS * rates["float32_small_rate"]
    known: dict[str, Any] = {**key, **rates}
    return Machine(total_memory=total, free_memory=free, bfloat16_pays=pays, **known)


def cache_directory() -> Path:
    """Return the user's cache directory for Myna (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "myna"


def usable_cores(root: Path = Path("/")) -> int:
    """Count the processors this process may use: affinity and the control group's quota, rounded up; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(quota) / float(period) for text in _control(root, "cpu.max") for quota, period in [text.split()] if quota != "max"]
    old = root / "sys/fs/cgroup/cpu"  # version 1
    if (quota := _read_number(old / "cpu.cfs_quota_us")) > 0:
        quotas.append(quota / max(1, _read_number(old / "cpu.cfs_period_us")))
    return max(1, min([cores, *map(math.ceil, quotas)]))


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """Return (total, free) bytes for this process: the machine's, or less where a control group sets a limit."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limits = [(folder, int(text)) for folder, text in _control_files(root, "memory.max") if text != "max"]
    for folder, limit in limits:
        statistics = dict(line.split() for line in _read_text(folder / "memory.stat").splitlines())
        used = _read_number(folder / "memory.current") - int(statistics.get("inactive_file", 0))  # the kernel drops cached files at need
        total, free = min(total, limit), min(free, limit - max(0, used))
    old = root / "sys/fs/cgroup/memory"  # version 1
    if 0 < (limit := _read_number(old / "memory.limit_in_bytes")) < total:
        total, free = limit, min(free, limit - _read_number(old / "memory.usage_in_bytes"))
    return total, max(0, free)


def cpu_name() -> str:
    """Return the processor's name as it calls itself."""
    for line in _read_text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def set_threads(threads: int) -> None:
    """Let PyTorch use this many threads from here on. Raises UserError below one."""
    import torch

    if threads < 1:
        raise UserError(f"threads is {threads}", "at least 1", f"this process may use {usable_cores()}")
    torch.set_num_threads(threads)


def peak_memory() -> int:
    """Return the most bytes this process has held in memory so far."""
    for line in _read_text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):  # Linux; getrusage would also count what the parent held before it started this process
            return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # getrusage(2): kilobytes on Linux, bytes on macOS


def current_memory() -> int:
    """Return the bytes this process holds in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def return_memory() -> None:
    """Give back what was freed but is kept by the C library for later (malloc_trim(3) of glibc; others have no need of it)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def device() -> str:
    """Return where tensors live: 'cuda' where PyTorch finds a GPU, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def rank() -> int:
    """Return this process's number among those `torchrun` started; 0 without it."""
    return _environment_number("RANK", 0)


def world_size() -> int:
    """Return how many processes `torchrun` started; 1 without it."""
    return _environment_number("WORLD_SIZE", 1)


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}", "a whole number, set by torchrun", f"unset {name} or use torchrun")
    return int(text)


def _measure() -> dict[str, float]:
    import torch

    rates = {}
    with torch.inference_mode():
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            narrow, small = torch.randn(_ROWS, _NARROW).to(dtype), torch.randn(_NARROW, _NARROW).to(dtype)
            rate = 2 * _ROWS * _NARROW**2 / _best_seconds(partial(torch.matmul, narrow, small))
            rates[f"{name}_small_rate"] = rate
            width = _WIDE if 2 * _WIDE**3 / rate < 1 else _WIDE // 4  # a second for one product is too slow to repeat
            square = torch.randn(width, width).to(dtype)
            rates[f"{name}_rate"] = 2 * width**3 / _best_seconds(partial(torch.matmul, square, square))
        source = torch.ones(_COPY // 4)
        target = torch.empty_like(source)
        rates["memory_bandwidth"] = 2 * _COPY / _best_seconds(lambda: target.copy_(source))
    return rates


def _best_seconds(work: Callable[[], Any]) -> float:
    """Time the fastest of several runs: other programs can only make one slower."""
    work()
    best, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _read_rates(path: Path, key: dict[str, Any]) -> dict[str, float] | None:
    """Read the cached rates; None when there are none or they are not what `_measure` gives."""
    try:
        found = read_json(path)
        rates = {name: float(value) for name, value in found["rates"].items()}
    except (OSError, UserError, AttributeError, KeyError, TypeError, ValueError):
        return None
    names = {f"{kind}{size}_rate" for kind in ("float32", "bfloat16") for size in ("", "_small")} | {"memory_bandwidth"}
    sound = set(rates) == names and all(math.isfinite(value) and value > 0 for value in rates.values())
    return rates if sound and found.get("machine") == key else None


def _control_files(root: Path, name: str) -> list[tuple[Path, str]]:
    """Read a version 2 control file of this process's group and of every group above it."""
    top = root / "sys/fs/cgroup"
    line = next((line for line in _read_text(root / "proc/self/cgroup").splitlines() if line.startswith("0::")), "0::/")
    folder = top / line[3:].lstrip("/")
    folders = [folder, *folder.parents]
    inside = folders[:folders.index(top) + 1] if top in folders else [top]
    return [(place, text) for place in inside if (text := _read_text(place / name))]


def _control(root: Path, name: str) -> list[str]:
    return [text for _, text in _control_files(root, name)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _read_number(path: Path) -> int:
    text = _read_text(path)
    return int(text) if text.lstrip("-").isdecimal() else 0
