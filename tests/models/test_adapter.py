"""Adapters as directories: what `peft` saves opens here with its logits, what is saved here opens there; what cannot be is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.fetch import default_folder
from myna.models.adapter import hash_weights, is_adapter, read_adapter
from myna.models.decoder import Decoder
from myna.models.fetched import resolve_model
from myna.models.pretrained import load_directory, load_model, save_model
from myna.train.lora import add_lora, load_adapter, merge_lora, save_adapter
from tests.models.decoders import CASES, logits, random_decoder, reference, small_tokenizer, their_logits

FAMILIES = ["llama-biased-tied", "qwen3", "qwen2", "mistral", "gpt2"]


def write_base(folder: Path, case: str = "llama-biased-tied") -> Path:
    save_model(random_decoder(**CASES[case]), folder, None)
    return folder


def tuned(base: Path, rank: int = 4, targets: tuple[str, ...] = ("all-linear",)) -> Decoder:
    """Load a base and give it a change that matters."""
    model: Decoder = load_model(base)
    add_lora(model, rank, 2 * rank, targets, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("adapter.up"):
                parameter.normal_(0, 0.05, generator=generator)
    return model


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Decoder]:
    base = write_base(tmp_path / "base")
    model = tuned(base)
    save_adapter(model, tmp_path / "adapter", base)
    return base, tmp_path / "adapter", model


@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.parametrize("rsloraed", [False, True])
def test_an_adapter_of_peft_gives_its_logits_here_and_ours_opens_there(tmp_path: Path, case: str, rsloraed: bool) -> None:
    peft = pytest.importorskip("peft")
    theirs = reference(**CASES[case])
    theirs.save_pretrained(tmp_path / "base")
    plain = their_logits(theirs)
    targets = ["c_attn", "c_fc"] if case == "gpt2" else ["q_proj", "v_proj", "gate_proj", "o_proj"]
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, use_rslora=rsloraed, task_type="CAUSAL_LM", fan_in_fan_out=case == "gpt2"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    adapted.save_pretrained(tmp_path / "theirs")
    edit(tmp_path / "theirs", base_model_name_or_path=str(tmp_path / "base"))
    expected = their_logits(adapted)
    assert (expected - plain).abs().max() > 0.1  # or the adapter would not be seen
    model = load_directory(tmp_path / "theirs")
    assert (logits(model) - expected).abs().max() <= 1e-4 * expected.abs().max()
    again = load_model(tmp_path / "base")
    load_adapter(again, tmp_path / "theirs")
    save_adapter(again, tmp_path / "ours", tmp_path / "base")
    back = peft.PeftModel.from_pretrained(reference(**CASES[case]).eval(), str(tmp_path / "ours"))
    assert (their_logits(back) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.filterwarnings("error:Unexpected keyword")
@pytest.mark.parametrize("case", FAMILIES)
def test_ours_opens_in_peft_with_our_logits(tmp_path: Path, case: str) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = write_base(tmp_path / "base", case)
    model = tuned(base)
    save_adapter(model, tmp_path / "adapter", base)
    assert peft.PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path == str(base)
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    expected = logits(model)
    assert (their_logits(theirs) - expected).abs().max() <= 1e-4 * expected.abs().max()
    names = set(theirs.peft_config["default"].target_modules)
    assert names == ({"c_attn", "c_proj", "c_fc"} if case == "gpt2" else
                     {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")})


@pytest.mark.parametrize("case", FAMILIES)
def test_merged_equals_unmerged_and_a_saved_merge_is_a_model_as_any_other(tmp_path: Path, case: str) -> None:
    base = write_base(tmp_path / "base", case)
    model = tuned(base)
    before, expected = logits(load_model(base)), logits(model)
    merge_lora(model)
    assert all("adapter" not in name for name, _ in model.named_parameters())
    assert (logits(model) - expected).abs().max() <= 1e-5 * expected.abs().max() < 0.1 * (expected - before).abs().max()
    save_model(model, tmp_path / "merged", None)
    assert torch.equal(logits(load_model(tmp_path / "merged")), logits(model))


def test_a_directory_with_an_adapter_is_its_base_with_the_change(pair: tuple[Path, Path, Decoder]) -> None:
    base, folder, model = pair
    assert is_adapter(folder) and not is_adapter(base)
    expected = logits(model)
    assert (logits(load_directory(folder)) - expected).abs().max() <= 1e-5 * expected.abs().max()
    again = load_model(base)
    load_adapter(again, folder, base)
    assert torch.equal(logits(again), expected)
    assert {name for name, p in again.named_parameters() if p.requires_grad} == {n for n, _ in again.named_parameters() if "adapter" in n}
    found = read_adapter(folder)
    assert (found.rank, found.scale, found.base, found.base_sha256) == (4, 2.0, str(base), hash_weights(base))
    assert found.parameters == sum(p.numel() for name, p in model.named_parameters() if "adapter" in name)


def test_some_targets_alone_are_written_by_names_that_say_so(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "gpt2")
    save_adapter(tuned(base, targets=("attn.c_proj",)), tmp_path / "adapter", base)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"] == [
        "transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj"]
    assert read_adapter(tmp_path / "adapter").targets == ["c_proj"]


def test_the_base_may_be_named_from_the_adapters_own_folder_and_is_missed_by_name(pair: tuple[Path, Path, Decoder],
                                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder, model = pair
    edit(folder, base_model_name_or_path="../base")
    expected = logits(model)
    monkeypatch.chdir("/")
    assert (logits(load_directory(folder)) - expected).abs().max() <= 1e-5 * expected.abs().max()
    edit(folder, base_model_name_or_path="somebody/some-model")
    refused(folder, "'somebody/some-model'", "not there", "base_model_name_or_path")
    edit(folder, base_model_name_or_path=None)
    refused(folder, "does not name")


def test_a_fetched_base_is_found_by_its_name_or_says_how_to_get_it(pair: tuple[Path, Path, Decoder], tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    base, folder, model = pair
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    edit(folder, base_model_name_or_path="smollm2")
    refused(folder, "smollm2 has not been fetched", "myna fetch smollm2")
    home = default_folder("smollm2")
    assert home.is_relative_to(tmp_path)
    home.mkdir(parents=True)
    (home / "manifest.json").write_text("{}")
    fetched = base.rename(resolve_model("smollm2"))
    expected = logits(model)
    assert (logits(load_directory(folder)) - expected).abs().max() <= 1e-5 * expected.abs().max()
    save_adapter(model, tmp_path / "second", fetched)
    assert read_adapter(tmp_path / "second").base_name == "smollm2"
    edit(tmp_path / "second", base_model_name_or_path="/was/elsewhere")
    assert (logits(load_directory(tmp_path / "second")) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_another_base_is_refused_and_one_that_cannot_be_checked_is_said(pair: tuple[Path, Path, Decoder], tmp_path: Path,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    base, folder, _ = pair
    other = load_model(base)
    with torch.no_grad():
        other.norm.weight[0] += 1e-3  # the least change is another model
    save_model(other, tmp_path / "other", None)
    edit(folder, base_model_name_or_path=str(tmp_path / "other"))
    refused(folder, hash_weights(base)[:12], hash_weights(tmp_path / "other")[:12], "the same base")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})  # as another tool writes it
    load_directory(folder)
    assert "does not say which weights" in capsys.readouterr().err
    chain = tmp_path / "chain"
    save_adapter(tuned(base), chain, base)
    edit(chain, base_model_name_or_path=str(folder))
    (folder / "config.json").write_text((base / "config.json").read_text())
    refused(chain, "an adapter itself")


def test_an_adapter_without_a_tokenizer_speaks_by_its_bases(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_model(random_decoder(vocab_size=512), base, None)
    small_tokenizer(tmp_path / "corpus").save(base)
    model = tuned(base)
    save_adapter(model, tmp_path / "adapter", base)
    merge_lora(model)
    save_model(model, tmp_path / "merged", None)
    small_tokenizer(tmp_path / "again").save(tmp_path / "merged")
    adapted, merged = (myna.load(tmp_path / name).generate("Once", max_tokens=8, temperature=0) for name in ("adapter", "merged"))
    assert adapted.tokens == merged.tokens and len(set(adapted.tokens)) > 1


def test_show_says_what_an_adapter_is(pair: tuple[Path, Path, Decoder], capsys: pytest.CaptureFixture[str]) -> None:
    base, folder, model = pair
    held = sum(p.numel() for name, p in model.named_parameters() if "adapter" in name)
    assert main(["show", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "an adapter of a Transformer decoder" in said
    assert f"LoRA of rank 4 on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj: {held:,}" in said
    assert "transformers with peft" in said and base.name in said
    assert main(["show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["adapter"]["parameters"] == held and shown["adapter"]["base_sha256"] == hash_weights(base)
    assert shown["parameters"] == load_model(base).config.count_parameters()
    edit(folder, base_model_name_or_path="gone")
    assert main(["show", str(folder)]) == 2
    assert "'gone'" in capsys.readouterr().err


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_dora": True}, "use_dora"), ({"peft_type": "IA3"}, "peft_type"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"bias": "all"}, "bias"), ({"init_lora_weights": "pissa"}, "init_lora_weights"), ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"), ({"layer_replication": [[0, 1]]}, "layer_replication"), ({"r": 10 ** 9}, "r in"),
    ({"r": 5}, "rank 5"), ({"r": True}, "r in"), ({"lora_alpha": "16"}, "lora_alpha"), ({"lora_alpha": float("nan")}, "lora_alpha"),
    ({"target_modules": ".*(a+)+$"}, "target_modules"), ({"target_modules": ["q_proj"]}, "target_modules"),
    ({"target_modules": ["a", "q_proj"]}, "'a'"), ({"target_modules": []}, "target_modules"), ({"a_new_thing": 1}, "a_new_thing"),
    ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path"), ({"base_model_name_or_path": "a\0b"}, "base_model_name_or_path"),
    ({"base_model_name_or_path": "x" * 5000}, "not there"), ({"lora_bias": True}, "lora_bias"), ({"use_rslora": "yes"}, "use_rslora")]


@pytest.mark.parametrize(("changes", "word"), REFUSED, ids=[f"{min(changes)} {number}" for number, (changes, _) in enumerate(REFUSED)])
def test_what_is_not_computed_or_cannot_be_is_refused_by_name(pair: tuple[Path, Path, Decoder], changes: dict[str, Any], word: str) -> None:
    edit(pair[1], **changes)
    refused(pair[1], word)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(("change", "word"), [
    (lambda t: t.pop(f"{Q}.lora_B.weight"), "lora_B"), (lambda t: t.pop(f"{Q}.lora_A.weight"), "lora_A"),
    (lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(4, 7)}), "shapes"),
    (lambda t: t.update({f"{Q}.lora_B.weight": torch.zeros(1, 4)}), "shapes"),
    (lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(4)}), "shape"),
    (lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(3, 64)}), "rank 4"),
    (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.zeros(64)}), "lora_magni"),
    (lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)}), "embed_tokens"),
    (lambda t: t.update({f"base_model.model.../q_proj.lora_{a}.weight": torch.zeros(4, 4) for a in "AB"}), "'../q_proj'"),
    (lambda t: t.update({f"base_model.model.x\n.q_proj.lora_{a}.weight": torch.zeros(4, 4) for a in "AB"}), "x\\n"),
    (lambda t: t.update({f"base_model.model.lm_head.lora_{a}.weight": torch.zeros(4, 4) for a in "AB"}), "lm_head"),
    (lambda t: t.clear(), "target_modules")])
def test_hostile_matrices_are_refused(pair: tuple[Path, Path, Decoder], change: Callable[[dict[str, Any]], object], word: str) -> None:
    path = pair[1] / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    refused(pair[1], word)


def test_files_that_are_cut_or_no_objects_are_refused(pair: tuple[Path, Path, Decoder]) -> None:
    path = pair[1] / "adapter_model.safetensors"
    data = path.read_bytes()
    for size in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:size])
        refused(pair[1])
    path.write_bytes(data)
    for text in ("[]", "", "{", '"x"'):
        (pair[1] / "adapter_config.json").write_text(text)
        refused(pair[1], "adapter_config.json")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_directory(folder)
    line = str(caught.value).replace(str(folder), "DIR")
    assert "\n" not in line and line.isprintable() and len(line) <= 600, line
    for word in words:
        assert word in line, line


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


