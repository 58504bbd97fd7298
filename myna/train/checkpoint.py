"""Checkpoints that survive a kill, a full disk and a flipped bit, so that a resumed run equals an uninterrupted one.

A checkpoint is a directory `step-00001234/` of `tensors.safetensors` (weights, optimizer, random states, carry: whatever the
loop names), `state.json` (counters and floats, exact) and `manifest.json` (SHA-256 of both), written in that order into a
temporary directory, each file fsynced, then renamed. Neither pickle nor `torch.save`: reading a checkpoint runs no code.
The write order is that of SQLite's "Atomic Commit" (sections 3 and 9); the file format is safetensors 0.x (its README,
"Format"), written by hand here because its library writes past Python's file errors and doubles the memory.

    save_checkpoint(Path("checkpoints"), 10, {"weight": torch.ones(2)}, {"loss": 1.5})
    load_checkpoint(Path("checkpoints")).tensors["weight"]
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from myna.console import say
from myna.errors import UserError
from myna.files import find_damage, fsync, new_directory, read_json, write_json, write_manifest

TENSORS, STATE = "tensors.safetensors", "state.json"
_SLACK = 1 << 16  # bytes beside the tensors and the state: manifest, safetensors header's padding, directory blocks
_DTYPES = {  # safetensors README, "Format"
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}


class Checkpoint(NamedTuple):
    """What `load_checkpoint` found."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-00000000` whole, then remove all but the newest `keep`; returns its path.

    state: JSON values; a NaN or an infinity is a ValueError, for JSON has none. Raises UserError, with the bytes needed and
    free, when the disk is full or not writable: then what was saved before is still there and nothing half-written is.
    """
    text = json.dumps(state, allow_nan=False)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + 200 * len(tensors) + 2 * len(text) + _SLACK
    path = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
        if shutil.disk_usage(folder).free < needed:
            raise _no_room(folder, step, needed, "not enough disk space")
        with new_directory(path) as temporary:
            _write_tensors(temporary / TENSORS, tensors)
            write_json(temporary / STATE, state)
            write_manifest(temporary, "checkpoint", {}, {"step": step})
    except OSError as error:
        raise _no_room(folder, step, needed, error.strerror or str(error)) from None
    _prune(folder, step, keep)
    return path


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; None when there is none.

    One whose bytes are not those of its manifest is passed over for the one before it, and this is said. The tensors may
    be backed by the file: copy them into place before the next save.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for step, path in _saved(folder):
        try:
            damage = find_damage(path) or _find_other_step(path, step)
            if not damage:
                return Checkpoint(step, load_file(path / TENSORS), read_json(path / STATE), path)
        except (OSError, SafetensorError, UserError) as error:
            damage = str(error)
        say(f"checkpoint {path} is damaged ({damage}); looking for the one before it")
    return None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named `parameter index.name`, and JSON values.

    Parameters are numbered as in `state_dict()`: in the order of the groups. Learning rates and all other options of the
    groups are in the JSON part. For AdamW, SGD and Muon: every state is a scalar or has its parameter's shape.
    """
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    state: dict[str, dict[str, Any]] = {}
    for index, values in packed["state"].items():
        _split(values, str(index), tensors, state)
    groups: dict[str, dict[str, Any]] = {}
    for number, group in enumerate(packed["param_groups"]):
        _split(group, f"group{number}", tensors, groups)
    return tensors, {"state": state, "groups": list(groups.values())}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Put back what `pack_optimizer` took, to the bit. Raises UserError when groups, parameters or shapes are others.

    Not `load_state_dict`, which casts every state to its parameter's type (a float32 moment of a bfloat16 weight would lose bits).
    """
    _check_same_shape(optimizer, tensors, state)
    optimizer.state.clear()
    index = 0
    for number, (group, saved) in enumerate(zip(optimizer.param_groups, state["groups"], strict=True)):
        for key, value in saved.items():
            if key != "params":
                group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        for name, tensor in _named(tensors, f"group{number}.").items():
            group[name] = tensor.clone()
        for parameter in group["params"]:
            values = {**state["state"].get(str(index), {}),
                      **{name: _placed(tensor, name, parameter, group) for name, tensor in _named(tensors, f"{index}.").items()}}
            if values:
                optimizer.state[parameter] = values
            index += 1


def _split(values: dict[str, Any], prefix: str, tensors: dict[str, Tensor], plain: dict[str, dict[str, Any]]) -> None:
    plain[prefix] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}.{key}"] = value
        else:
            plain[prefix][key] = value


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _placed(tensor: Tensor, name: str, parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """Copy a state to where its optimizer keeps it: beside the parameter, but step counters on the CPU unless fused or capturable."""
    if tensor.shape == parameter.shape and name != "step":
        return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)  # with the parameter's strides
    beside = name != "step" or group.get("fused") or group.get("capturable")
    return tensor.clone().to(parameter.device if beside else "cpu")


def _check_same_shape(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    here = [len(group["params"]) for group in optimizer.param_groups]
    there = [len(group["params"]) for group in state["groups"]]
    if here != there:
        raise UserError(f"the checkpoint's optimizer has {there} parameters in its groups, this one {here}",
                        "the run that wrote it", "resume with the options it began with")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        index = name.split(".")[0]
        if index.isdigit() and tensor.dim() and tensor.shape != parameters[int(index)].shape:
            raise UserError(f"the checkpoint's optimizer state {name} has shape {tuple(tensor.shape)}",
                            f"{tuple(parameters[int(index)].shape)}", "resume with the options the run began with")


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, one tensor in memory at a time, and fsync it."""
    unknown = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if unknown:
        raise TypeError(f"no safetensors type for {', '.join(unknown)}")
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # wide types first, so that all are aligned
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
    fsync(path)


def _saved(folder: Path) -> list[tuple[int, Path]]:
    """List checkpoints, newest first. One that a save of the same step had moved aside (`.old`) when it was killed counts too."""
    found = []
    for path in folder.glob("*step-*"):
        moved = path.name.startswith(".") and path.name.endswith(".old")
        digits = path.name.removeprefix(".").removeprefix("step-").removesuffix(".old")
        if digits.isdecimal() and (moved or path.name == f"step-{digits}"):
            found.append((int(digits), not moved, path))
    return [(step, path) for step, _, path in sorted(found, reverse=True)]


def _find_other_step(path: Path, step: int) -> str:
    manifest = read_json(path / "manifest.json")
    if manifest.get("options") != {"step": step} or set(manifest["outputs"]) != {TENSORS, STATE}:
        return f"manifest.json: not the manifest of a checkpoint of step {step}"
    return ""


def _clean(folder: Path) -> None:
    """Remove what killed runs left; a checkpoint they had moved aside, and not replaced, goes back to its place."""
    for path in folder.glob(".step-*.old"):
        place = folder / path.name.removeprefix(".").removesuffix(".old")
        if not place.exists():
            path.rename(place)
    for path in [*folder.glob(".step-*.old"), *folder.glob(".step-*.tmp")]:
        shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove checkpoints beyond the newest `keep`, and those after `step`: a run that is here has passed over them as damaged."""
    saved = _saved(folder)
    older = [path for number, path in saved if number < step]
    for path in [path for number, path in saved if number > step] + older[max(keep, 1) - 1:]:
        try:
            aside = path.with_name(f".{path.name}.tmp")  # in one rename, so that no half-removed directory looks like a checkpoint
            path.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            say(f"could not remove the old checkpoint {path} ({error.strerror}); training goes on")


def _no_room(folder: Path, step: int, needed: int, reason: str) -> UserError:
    try:
        free = f"{shutil.disk_usage(folder).free:,} are free"
    except OSError:
        free = "the free space is not known"
    saved = _saved(folder)
    kept = f"the last checkpoint is {saved[0][1]}" if saved else "there is no earlier checkpoint"
    return UserError(f"cannot save the checkpoint of step {step} in {folder}: {reason} ({needed:,} bytes needed, {free})", "",
                     f"{kept}; make room, then go on with --resume")
