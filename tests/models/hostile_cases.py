"""Model directories as somebody who means harm, or a bad disk, would leave them: each a function that spoils a sound copy.

A case returns what must come of it: "refused" (exit 2 and one line), "same" (the logits of the sound directory), or "either" where the
values were changed to others that a sound directory could have.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Case = Callable[[Path], str]
JSONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_VALUES: dict[str, Any] = {"huge": 1 << 62, "long": 10**400, "negative": -7, "zero": 0, "NaN": float("nan"), "infinite": float("inf"),
                           "text": "64", "list": [64], "object": {"a": 1}, "true": True, "fraction": 2.5, "deep": [[[[[]]]]],
                           "escape": "\x1b[31m\n" * 50}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
          "max_position_embeddings")


def _spoil_bytes(name: str, seed: int) -> Case:
    """Change, cut or add bytes of a file, a safetensors file's header among them."""
    def case(folder: Path) -> str:
        path, chance = folder / name, random.Random(seed)
        data = bytearray(path.read_bytes())
        end = 8 + struct.unpack("<Q", data[:8])[0] if name.endswith(".safetensors") else len(data)
        before = bytes(data)
        match seed % 4:
            case 0:
                for _ in range(chance.randint(1, 8)):
                    data[chance.randrange(end)] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(end):]
            case 2:
                at = chance.randrange(end)
                data[at:at] = chance.randbytes(chance.randint(1, 40))
            case _:
                at = chance.randrange(end)
                del data[at:min(end, at + chance.randint(1, 30))]
        path.write_bytes(data)
        if name.endswith(".safetensors"):
            return "same" if _header(before) == _header(bytes(data)) and len(before) == len(data) else "refused"
        try:
            return "same" if json.loads(data) == json.loads(before) else "either"
        except ValueError:
            return "refused" if name in ("config.json", "generation_config.json", "tokenizer.json") else "either"
    return case


def _header(data: bytes) -> Any:
    try:
        read = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        return {name: value for name, value in read.items() if name != "__metadata__"}
    except (ValueError, struct.error, AttributeError):
        return data


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change the value in a JSON file, which may then hold NaN."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def _set(name: str, key: str, value: Any, outcome: str) -> Case:
    def case(folder: Path) -> str:
        edit(folder, name, lambda read: read.update({key: value}))
        return outcome
    return case


def _write(name: str, data: bytes, outcome: str = "refused") -> Case:
    def case(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return outcome
    return case


def _bend_header(change: Callable[[dict[str, Any]], object], told: int | None = None) -> Case:
    """Write another safetensors header over the same numbers."""
    def case(folder: Path) -> str:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if told is None else told) + text + data[8 + size:])
        return "refused"
    return case


def _each(header: dict[str, Any], **changes: Any) -> None:
    for name, value in header.items():
        if name != "__metadata__":
            value |= changes


def _index(mapped: Any) -> Case:
    def case(folder: Path) -> str:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(mapped))
        return "refused"
    return case


def mutations() -> Iterator[tuple[str, Case]]:
    """Yield 200 and more spoiled directories by name; the seeds are in the names."""
    for name in ("model.safetensors", *JSONS):
        for seed in range(24 if name == "model.safetensors" else 12):
            yield f"{name} bytes {seed}", _spoil_bytes(name, seed)
    for key in _SIZES:
        for kind in ("huge", "negative", "zero", "text", "NaN", "list", "true"):
            yield f"config {key} {kind}", _set("config.json", key, _VALUES[kind], "refused")
    for key in ("rms_norm_eps", "rope_parameters", "eos_token_id", "hidden_act", "model_type", "tie_word_embeddings"):
        for kind in ("NaN", "escape", "object", "deep", "negative"):
            if (key, kind) not in (("rope_parameters", "object"), ("rope_parameters", "deep")):
                yield f"config {key} {kind}", _set("config.json", key, _VALUES[kind], "refused")
    for key in ("eos_token_id", "bad_words_ids", "suppress_tokens", "forced_eos_token_id", "begin_suppress_tokens", "max_new_tokens",
                "no_repeat_ngram_size", "min_length"):
        for kind in ("huge", "object", "escape"):
            odd = key == "max_new_tokens" and kind == "huge"
            yield f"generation {key} {kind}", _set("generation_config.json", key, _VALUES[kind], "either" if odd else "refused")
    yield "every token banned", _set("generation_config.json", "suppress_tokens", list(range(400)), "either")
    for number, change in enumerate((
            lambda header: _each(header, shape=[1 << 40, 1 << 40]), lambda header: _each(header, shape=[-1]),
            lambda header: _each(header, dtype="F64"), lambda header: _each(header, dtype="I8"),
            lambda header: _each(header, data_offsets=[0, 1 << 60]), lambda header: _each(header, data_offsets=[8, 4]),
            lambda header: _each(header, data_offsets=["0", "4"]), lambda header: _each(header, data_offsets=[0, 4]),
            lambda header: header.clear(), lambda header: header.popitem(),
            lambda header: header.update({"x" * 5000: header.pop("model.norm.weight")}),
            lambda header: header.update({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20000)}))):
        yield f"header {number}", _bend_header(change)
    for told in (0, 1, 1 << 20, 1 << 40, (1 << 64) - 1):
        yield f"header said to have {told} bytes", _bend_header(lambda header: None, told)
    for number, mapped in enumerate((
            {}, [], {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../secret"}}, {"weight_map": {"a": "/etc/passwd"}},
            {"weight_map": {"a": ".."}}, {"weight_map": {"a": ""}}, {"weight_map": {"a": "x" * 5000}}, {"weight_map": {"a": "a\0b"}},
            {"weight_map": {"a": "absent.safetensors"}}, {"weight_map": {"a": "sub/model.safetensors"}})):
        yield f"index {number}", _index(mapped)
    deep = b"[" * 200_000 + b"]" * 200_000
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        yield f"{name} deep", _write(name, deep)
        yield f"{name} empty", _write(name, b"")
        yield f"{name} large", _write(name, b'{"a": [' + b"[]," * 25_000_000 + b"[]]}")
        yield f"{name} not UTF-8", _write(name, b"\xff\xfe{}")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.makedirs, (str(self.path), 0o777, True)


def traps(canary: Path) -> Iterator[tuple[str, Case]]:
    """Yield 60 directories that make `canary` when any of their code runs."""
    code = f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\n"
    pickled = pickle.dumps(Trap(canary))

    def beside(name: str, data: bytes) -> Case:
        def case(folder: Path) -> str:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            return "same"
        return case

    def instead(name: str) -> Case:
        def case(folder: Path) -> str:
            (folder / "model.safetensors").unlink()
            (folder / name).write_bytes(pickled)
            return "refused"
        return case

    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "weights.pkl", "arrays.npy", "adapter_model.bin",
                 "optimizer.pt", "training_args.bin", "rng_state.pth", "scheduler.pt", "tf_model.h5", ".metadata", "data.joblib",
                 "flax_model.msgpack"):
        yield f"{name} beside", beside(name, pickled)
        yield f"{name} instead", instead(name)
    yield "a pickle called safetensors", _write("model.safetensors", pickled)
    for name in ("modeling_trap.py", "configuration_trap.py", "tokenization_trap.py", "sitecustomize.py", "usercustomize.py", "conftest.py",
                 "torch.py", "numpy.py", "tokenizers.py", "safetensors/__init__.py", "torch/__init__.py",
                 "json.py", "myna.py", "__init__.py", "setup.py",
                 "handler.py"):
        yield f"{name} beside", beside(name, code.encode())
    known = {"AutoConfig": "configuration_trap.Config", "AutoModelForCausalLM": "modeling_trap.Model"}
    for words in ({"auto_map": known}, {"auto_map": known, "trust_remote_code": True}, {"text_config": {"auto_map": known}},
                  {"trust_remote_code": {"nested": {"trust_remote_code": True}}}, {"custom_pipelines": {"x": {"impl": "modeling_trap.P"}}},
                  {"quantization_config": None, "auto_map": {"AutoModel": "../../modeling_trap.Model"}},
                  {"_attn_implementation": "modeling_trap/x"}, {"__class__": "os.system"}):
        def case(folder: Path, words: dict[str, Any] = words) -> str:
            (folder / "modeling_trap.py").write_text(code)
            (folder / "configuration_trap.py").write_text(code)
            edit(folder, "config.json", lambda read: read.update(words))
            return "same"
        yield f"config {min(words)} {len(str(words))}", case
    for words in ({"model_type": "trap", "auto_map": known}, {"model_type": None, "auto_map": known}):
        yield f"unknown type {words['model_type']}", _both(code, words)
    for words in ({"auto_map": {"AutoTokenizer": ["tokenization_trap.T", None]}}, {"tokenizer_class": "tokenization_trap.T"},
                  {"tokenizer_class": "T", "auto_map": "tokenization_trap.T", "trust_remote_code": True}):
        def tokenizer(folder: Path, words: dict[str, Any] = words) -> str:
            (folder / "tokenization_trap.py").write_text(code)
            edit(folder, "tokenizer_config.json", lambda read: read.update(words))
            return "same"
        yield f"tokenizer {min(words)} {len(words)}", tokenizer


def _both(code: str, words: dict[str, Any]) -> Case:
    def case(folder: Path) -> str:
        (folder / "modeling_trap.py").write_text(code)
        edit(folder, "config.json", lambda read: read.update(words))
        return "refused"
    return case


def paths() -> Iterator[tuple[str, Case]]:
    """Yield directories whose files are links, pipes, devices, loops or each other."""
    files = ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "myna.json", "tokenizer_config.json",
             "chat_template.jinja", "mixture.json")
    needed = files[:3]

    def replaced(name: str, make: Callable[[Path], object], outcome: str) -> Case:
        def case(folder: Path) -> str:
            (folder / name).unlink(missing_ok=True)
            make(folder / name)
            return outcome
        return case

    for name in files:
        outcome = "refused" if name in needed else "either"
        yield f"{name} a pipe", replaced(name, os.mkfifo, outcome)
        yield f"{name} a folder", replaced(name, lambda path: path.mkdir(), outcome)
        yield f"{name} a link to a device", replaced(name, lambda path: path.symlink_to("/dev/zero"), outcome)
        yield f"{name} a link to a terminal", replaced(name, lambda path: path.symlink_to("/dev/tty"), outcome)
        yield f"{name} a link to itself", replaced(name, lambda path: path.symlink_to(path.name), outcome)
        yield f"{name} a link to nothing", replaced(name, lambda path: path.symlink_to("/nowhere"), outcome)
        yield f"{name} a link to endless text", replaced(name, lambda path: path.symlink_to("/proc/kmsg"), outcome)

    def linked(folder: Path) -> str:  # as in a hub's cache: every file a link to a blob
        blobs = folder.with_name(folder.name + "-blobs")
        blobs.mkdir()
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(blobs / str(number))
            path.symlink_to(blobs / str(number))
        return "same"

    def loop(folder: Path) -> str:
        (folder / "onnx").symlink_to(folder, target_is_directory=True)
        return "same"

    def twins(folder: Path) -> str:
        (folder / "Config.json").write_text("{")
        (folder / "MODEL.SAFETENSORS").write_bytes(b"x")
        return "same"

    yield "links to blobs", linked
    yield "a folder in itself", loop
    yield "names that differ in case", twins
