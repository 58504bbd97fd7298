"""Model directories that are hostile or broken: everything is refused in one line, or gives the logits that it should.

The cases of `hostile_cases.py` run in children of one warm process (`warden.py`), with limits of memory and time and an audit hook.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from myna.files import write_json
from myna.generate.rules import read_rules
from myna.models import decoder as decoder_module
from myna.models.pretrained import load_model, save_model
from myna.tokenizer.tokenizer import Tokenizer
from tests.models.decoders import LLAMA3, edit_config, random_decoder, refused, rewrite, small_tokenizer
from tests.models.hostile_cases import Case, mutations, paths, traps


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    model = random_decoder(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.separator_id)
    save_model(model, folder, tokenizer.pad_id)
    tokenizer.save(folder, model.max_length)
    write_json(folder / "myna.json", {"format": 1, "golden": tokenizer.golden()})
    load_model(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def test_what_is_no_model_directory(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no such model directory")
    refused(folder / "config.json", "is a file", "directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json")
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors")


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], Any], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_a_pickle_is_refused_and_never_opened(folder: Path, name: str) -> None:
    fired, trap = folder.parent / "fired", folder / name
    trap.write_bytes(pickle.dumps(_Trap(fired)))
    refused(trap, "a pickle, which can run code")
    (folder / "model.safetensors").rename(folder.parent / "aside")
    refused(folder, name, "a pickle, which can run code", "convert")
    (folder.parent / "aside").rename(folder / "model.safetensors")
    load_model(folder)  # beside safetensors it is not looked at
    assert not fired.exists()
    pickle.loads(trap.read_bytes())  # noqa: S301 (the trap does work)
    assert fired.exists()


def test_a_build_that_was_not_finished(folder: Path) -> None:
    (folder / "plan.json").write_text("{}")
    load_model(folder)
    (folder / "myna.json").unlink()  # the weights are there, the measured and checked directory is not
    refused(folder, "not finished", "myna build --resume --out")
    (folder / "config.json").unlink()
    refused(folder, "not finished", "myna build --resume --out")


@pytest.mark.parametrize(("given", "words"), [
    ("qwen33", ["'qwen33'", "did you mean qwen3?"]), ("n-gram", ["did you mean ngram?"]), ("resnet", ["'resnet'", "one of ngram, "]),
    (None, ["None"]), (["qwen3"], ["['qwen3']"]), ("x" * 10**6, ["xxx"]), ("a\nb\x1b[31m", ["model_type"]),
])
def test_a_model_type_that_is_not_known(folder: Path, given: Any, words: list[str]) -> None:
    edit_config(folder, model_type=given)
    refused(folder, "config.json", *words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe{", b'{"model_type": "qwen3"', b"[" * 10**5,
                                     b'{"a": 1' + b"0" * 10**4 + b"}"], ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("name", ["config.json", "myna.json"])
def test_damaged_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, name)


def test_a_tokenizer_that_does_not_give_the_golden_ids(folder: Path) -> None:
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["merges"] = described["model"]["merges"][:-40]
    path.write_text(json.dumps(described))
    refused(folder, "golden ids", "restore tokenizer.json")
    path.unlink()
    refused(folder, "tokenizer.json")


@pytest.mark.parametrize("myna", [{}, {"golden": None}, {"golden": []}, {"golden": {"texts": ["a"], "ids": [[]]}}])
def test_golden_ids_cannot_be_talked_away(folder: Path, myna: dict[str, Any]) -> None:
    write_json(folder / "myna.json", myna)
    refused(folder, "golden")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                  "num_key_value_heads", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, 1 << 24, 1 << 62, 10**400, 2.5, "64", None, True, [64]], ids=lambda value: str(value)[:12])
def test_sizes_that_cannot_be_are_refused_before_anything_is_allocated(
        folder: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "rotary_table", _refuse)  # the first thing a decoder of that size would take
    monkeypatch.setattr(decoder_module.nn, "Embedding", _refuse)
    edit_config(folder, **{name: value})
    refused(folder)


def _refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("something was allocated")


@pytest.mark.parametrize("changes", [
    {"vocab_size": 1 << 24, "tie_word_embeddings": True}, {"hidden_size": 4096}, {"max_position_embeddings": 1 << 22},
    {"num_hidden_layers": 10**6}, {"vocab_size": 1 << 20, "hidden_size": 1 << 20},
], ids=str)
def test_sizes_larger_than_the_file_are_refused_before_anything_is_allocated(
        folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    edit_config(folder, **changes)
    monkeypatch.setattr(decoder_module, "rotary_table", _refuse)
    monkeypatch.setattr(decoder_module.nn, "Embedding", _refuse)
    refused(folder)


@pytest.mark.parametrize(("changes", "words"), [
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, ["yarn"]),
    ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["dynamic", "llama3"]),
    ({"rope_scaling": {"type": "linear"}, "rope_parameters": None}, ["factor", "None"]),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta_fast": 32}}, ["beta_fast"]),
    ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, ["low_freq_factor"]),
    ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 2.5}}, ["original_max_position_embeddings"]),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
    ({"final_logit_softcapping": 30.0}, ["final_logit_softcapping"]), ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
    ({"logit_scale": 0.25}, ["logit_scale"]), ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
    ({"layer_types": ["full_attention", "linear_attention"]}, ["layer_types"]), ({"mlp_bias": True}, ["mlp_bias"]),
    ({"rope_parameters": "default"}, ["rope_parameters"]), ({"rope_parameters": {"rope_theta": "big"}}, ["rope_theta"]),
    ({"rope_parameters": {"rope_theta": -1.0}}, ["rope_theta"]), ({"rms_norm_eps": float("nan")}, ["rms_norm_eps"]),
    ({"rms_norm_eps": None}, ["rms_norm_eps"]), ({"hidden_act": "gelu"}, ["hidden_act", "silu"]),
    ({"attention_bias": "yes"}, ["attention_bias"]), ({"use_sliding_window": "yes"}, ["use_sliding_window"]),
    ({"eos_token_id": None}, ["eos_token_id"]), ({"eos_token_id": 10**6}, ["eos_token_id"]), ({"eos_token_id": []}, ["eos_token_id"]),
    ({"eos_token_id": True}, ["eos_token_id"]), ({"num_key_value_heads": 3}, ["key-value"]), ({"head_dim": 31}, ["31"]),
    ({"hidden_act": "x" * 10**5}, ["hidden_act"]),
], ids=lambda value: str(value)[:40])
def test_what_would_be_computed_otherwise_is_refused(folder: Path, changes: dict[str, Any], words: list[str]) -> None:
    edit_config(folder, **changes)
    refused(folder, "config.json", *words)


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.pop("model.norm.weight"), []),
    (lambda t: t.update({"model.norm.weights": t.pop("model.norm.weight")}), ["norm.weight"]),
    (lambda t: t.update({"model.layers.9.extra": torch.ones(3)}), ["layers.9.extra", "config.json"]),
    (lambda t: t.update({"a\nb\x1b[31m" + "x" * 10**4: torch.ones(3)}), ["has"]),
    (lambda t: t.update({"model.layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.up_proj.weight"].T}), ["up_proj", "shape"]),
    (lambda t: t.update({"model.norm.weight": t["model.norm.weight"].int()}), ["norm.weight", "I32"]),
    (lambda t: t.clear(), []),
], ids=["missing", "renamed", "extra", "extra with an ugly name", "turned", "integers", "none"])
def test_tensors_that_do_not_fit_the_config(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], words: list[str]) -> None:
    rewrite(folder, change)
    refused(folder, *words)


def test_a_file_cut_anywhere(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in (0, 4, 8, 9, header // 2, header - 1, header, header + 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(folder, "model.safetensors")


def test_a_header_that_lies(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])

    def write(text: bytes, told: int | None = None) -> None:
        path.write_bytes(struct.pack("<Q", len(text) if told is None else told) + text + whole[8 + size :])

    for told in (0, 1 << 31, 1 << 63, (1 << 64) - 1):
        write(whole[8 : 8 + size], told)
        refused(folder, "model.safetensors")
    for changes in ({"shape": [1 << 40, 1 << 40]}, {"shape": [-1]}, {"dtype": "F99"}, {"data_offsets": [0, 1 << 50]},
                    {"data_offsets": [1 << 50, 0]}, {"data_offsets": [0]}, {"shape": "64"}):
        write(json.dumps({**header, "model.norm.weight": {**header["model.norm.weight"], **changes}}).encode())
        refused(folder, "model.safetensors")
    for text in (b"[" * 10**5, b"{}", b"[]", b'{"a": {}}', b"\xff" * 20):
        write(text)
        refused(folder)


@pytest.mark.parametrize("index", [{}, [], {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../../secret"}},
                                   {"weight_map": {"a": "/etc/passwd"}}, {"weight_map": {"a": "absent.safetensors"}},
                                   {"weight_map": {"a": ".."}}, {"weight_map": {}}], ids=str)
def test_an_index_that_leads_nowhere(folder: Path, index: Any) -> None:
    write_json(folder / "model.safetensors.index.json", index)
    load_model(folder)  # beside a whole file it is not read, in transformers neither
    (folder / "model.safetensors").unlink()
    refused(folder)


# ---- in children with limits ----

PROMPT = "The bird"
Ask = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A directory that Myna did not write: no golden ids, a template."""
    folder = tmp_path_factory.mktemp("foreign") / "model"
    save_model(random_decoder(model_type="llama", vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.separator_id), folder, None)
    tokenizer.save(folder, 128)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    write_json(folder / "special_tokens_map.json", {"eos_token": "<|endoftext|>"})
    return folder


@pytest.fixture(scope="module")
def ask(foreign: Path) -> Iterator[Ask]:
    """Have a directory opened by a child."""
    with subprocess.Popen([sys.executable, "-m", "tests.models.warden"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
                          cwd=Path(__file__).parents[2]) as warden:
        assert warden.stdin is not None and warden.stdout is not None

        def open_in_a_child(folder: Path) -> dict[str, Any]:
            size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and not path.is_symlink())
            warden.stdin.write(json.dumps({"folder": str(folder), "prompt": PROMPT, "bytes": size}) + "\n")
            warden.stdin.flush()
            answer: dict[str, Any] = json.loads(warden.stdout.readline())
            return answer

        yield open_in_a_child
        warden.stdin.close()


def generated(answer: dict[str, Any]) -> tuple[list[int], list[float]]:
    (one,) = json.loads(answer["printed"].splitlines()[0])["generations"]
    return one["tokens"], one["log_probs"]


def check(name: str, case: Case, foreign: Path, place: Path, ask: Ask) -> str:
    """Spoil a copy, have it opened, and return what is wrong with the outcome; nothing is."""
    folder = Path(shutil.copytree(foreign, place / "model"))
    expected = case(folder)
    answer = ask(folder)
    said = answer["said"].replace(str(folder), "DIR")
    shutil.rmtree(place)
    lines = [line for line in said.splitlines() if line.startswith("myna:")]
    if answer["code"] not in (0, 2) or "Traceback" in said or answer["seen"] or "out of memory" in said:
        return f"{name}: {answer['code']} after {answer['seconds']:.1f} s, {answer['seen']}, {said[-300:]}"
    if answer["code"] == 2 and (expected == "same" or not lines or len(lines[-1]) > 300 or not lines[-1].isprintable()):
        return f"{name}: {expected} was expected; refused in {len(lines[-1]) if lines else 0} characters: {said[-400:]}"
    if answer["code"] == 0 and expected == "refused":
        return f"{name}: not refused"
    if answer["code"] == 0 and expected == "same":
        tokens, scores = generated(ask(foreign))
        found, log_probs = generated(answer)
        if found != tokens or max(abs(a - b) for a, b in zip(scores, log_probs, strict=True)) > 1e-4:
            return f"{name}: other logits"
    return ""


def check_all(cases: list[tuple[str, Case]], foreign: Path, tmp_path: Path, ask: Ask) -> None:
    sound = ask(foreign)
    assert sound["code"] == 0 and not sound["seen"], sound
    wrong = [found for number, (name, case) in enumerate(cases)
             if (found := check(name, case, foreign, tmp_path / str(number), ask))]
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)


def test_forty_of_all_hostile_directories(foreign: Path, tmp_path: Path, ask: Ask) -> None:
    canary = tmp_path / "canary"
    cases = [*mutations(), *traps(canary), *paths()]
    check_all(random.Random(1).sample(cases, 40), foreign, tmp_path, ask)
    assert not canary.exists()


@pytest.mark.slow
def test_two_hundred_mutations(foreign: Path, tmp_path: Path, ask: Ask) -> None:
    cases = list(mutations())
    assert len(cases) >= 200 and len(dict(cases)) == len(cases)
    check_all(cases, foreign, tmp_path, ask)


@pytest.mark.slow
def test_sixty_traps_never_spring(foreign: Path, tmp_path: Path, ask: Ask) -> None:
    canary = tmp_path / "canary"
    cases = list(traps(canary))
    assert len(cases) >= 59
    check_all(cases, foreign, tmp_path, ask)
    assert not canary.exists()


@pytest.mark.slow
def test_links_pipes_and_devices(foreign: Path, tmp_path: Path, ask: Ask) -> None:
    check_all(list(paths()), foreign, tmp_path, ask)


def test_code_of_a_directory_is_refused_or_said_to_be_left_alone(foreign: Path, tmp_path: Path, ask: Ask) -> None:
    folder = Path(shutil.copytree(foreign, tmp_path / "model"))
    edit_config(folder, auto_map={"AutoModel": "modeling.Model"})
    answer = ask(folder)
    assert answer["code"] == 0 and "auto_map in config.json names code of the directory, which is not run" in answer["said"]
    edit_config(folder, model_type="fancy")
    answer = ask(folder)
    assert answer["code"] == 2 and "asks by auto_map to run code of the directory, which Myna never does" in answer["said"]


def test_what_generation_config_asks_for_and_is_not_done_is_said(foreign: Path, tmp_path: Path, ask: Ask) -> None:
    folder = Path(shutil.copytree(foreign, tmp_path / "model"))
    written = json.loads((folder / "generation_config.json").read_text())
    write_json(folder / "generation_config.json", {**written, "do_sample": True, "temperature": 0.6, "top_p": 0.9, "typical_p": 0.5})
    said = ask(folder)["said"]
    assert "suggests temperature" not in said and "asks for typical_p 0.5, which Myna does not do" in said  # --greedy was given
    rules = read_rules(folder, 512)
    assert rules.suggested == {"temperature": 0.6, "top_p": 0.9} and rules.unread == {"typical_p": 0.5}
