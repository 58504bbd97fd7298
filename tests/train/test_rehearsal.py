"""The rehearsal finds what would fail late, before step 1, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.text import generate_text
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.pretrained import save_model
from myna.models.protocol import LanguageModel
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from myna.train import rehearsal
from myna.train.options import TrainOptions
from myna.train.plan import Plan
from myna.train.rehearsal import rehearse
from myna.train.shapes import settle
from tests.tokenizer.corpora import write_corpus


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "c", list(topics.values())[:8])
    return train_tokenizer(corpus, TokenizerOptions(vocab_size=320))


@pytest.fixture
def plan(tokenizer: Tokenizer) -> Plan:
    shape = DecoderConfig(tokenizer.vocab_size, 64, 2, 64, 2, 1, 32, 32, tie_word_embeddings=False, eos_token_id=tokenizer.separator_id)
    return Plan("decoder", dataclasses.asdict(shape), shape.count_parameters(), 32, 4, 2, 100, "bfloat16", False, 1, 0, 12800, None,
                {}, {}, [], dataclasses.asdict(OPTIONS))


OPTIONS = settle(TrainOptions(), "decoder")


def read(step: int) -> dict[str, Tensor]:
    windows = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(step))
    return {"input_ids": windows[:, :-1], "labels": windows[:, 1:]}


def speak(model: LanguageModel, tokenizer: Tokenizer) -> None:
    generate_text(model, tokenizer, "", SampleOptions(max_tokens=4, seed=0))


def test_a_sound_build_passes_and_leaves_nothing(plan: Plan, tokenizer: Tokenizer, tmp_path: Path) -> None:
    steps: list[int] = []
    (tmp_path / "r" / "model").mkdir(parents=True)  # what a killed rehearsal left
    (tmp_path / "r" / "model" / "config.json").write_text("{")
    rehearse(plan, tokenizer, lambda step: steps.append(step) or read(step), tmp_path / "r", speak)
    assert not list(tmp_path.iterdir())
    assert set(steps) == {0, 1}


def one_bit(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] += 0.01


def rounded(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name].bfloat16()


def swapped(tensors: dict[str, Tensor]) -> None:
    a, b = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    tensors[a], tensors[b] = tensors[b].clone(), tensors[a].clone()


def lost(tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.0.self_attn.q_norm.weight"]


@pytest.mark.parametrize("damage", [one_bit, rounded, swapped, lost])
def test_a_save_that_is_broken_is_found(damage: Callable[[dict[str, Tensor]], None], plan: Plan, tokenizer: Tokenizer, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Decoder, folder: Path, pad_token_id: int | None) -> None:
        save_model(model, folder, pad_token_id)
        tensors = load_file(folder / "model.safetensors")
        damage(tensors)
        save_file(tensors, folder / "model.safetensors")

    monkeypatch.setattr(rehearsal, "save_model", broken)
    with pytest.raises(UserError):
        rehearse(plan, tokenizer, read, tmp_path / "r", speak)


def test_a_tokenizer_that_does_not_come_back_is_found(plan: Plan, tokenizer: Tokenizer, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "save", lambda self, folder, max_length=None: (folder / "tokenizer.json").write_text("{}"))
    with pytest.raises(UserError):
        rehearse(plan, tokenizer, read, tmp_path / "r", speak)


def test_a_generation_that_fails_is_found(plan: Plan, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def fail(model: LanguageModel, tokenizer: Tokenizer) -> None:
        raise RuntimeError("cannot generate")

    with pytest.raises(RuntimeError, match="cannot generate"):
        rehearse(plan, tokenizer, read, tmp_path / "r", fail)


def test_numbers_that_are_not_finite_are_found(plan: Plan, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wild = settle(TrainOptions(optimizer="sgd", learning_rate=1e38, gradient_clip=1e30, warmup=0), "decoder")
    with pytest.raises(UserError, match="rehearsal"):
        rehearse(dataclasses.replace(plan, train=dataclasses.asdict(wild)), tokenizer, read, tmp_path / "r", speak)
