"""Which parameter is trained by which rule, and Muon against `torch.optim.Muon`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from myna.models.decoder import Decoder, DecoderConfig
from myna.train.optimizer import Muon, make_optimizers, orthogonalize, step_optimizers
from myna.train.options import TrainOptions
from myna.train.shapes import settle


def decoder(tied: bool = False) -> Decoder:
    return Decoder(DecoderConfig(vocab_size=32, hidden_size=64, num_hidden_layers=2, head_dim=32, tie_word_embeddings=tied))


def random_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_on_stacked_matrices_is_torchs_on_each(weight_decay: float) -> None:
    shapes = [(16, 16), (16, 16), (8, 32), (32, 8), (8, 32), (32, 8), (96, 32), (32, 8)]
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    mine = Muon(ours, 0.02, 0.9, weight_decay)
    torchs = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=weight_decay, nesterov=True)
    for step in range(6):
        random_gradients(ours, step)
        random_gradients(theirs, step)
        if step == 3:  # a parameter without a gradient is left alone
            ours[4].grad = theirs[4].grad = None
        for optimizer in (mine, torchs):
            optimizer.param_groups[0]["lr"] = 0.02 / (step + 1)
            optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_orthogonalize_keeps_the_directions_and_evens_out_the_singular_values() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for given in (matrices, matrices.mT.contiguous()):
        found = orthogonalize(given)
        assert found.shape == given.shape and found.dtype == torch.float32
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6 and values.max() < 1.3  # Newton-Schulz with these coefficients ends between 0.7 and 1.2
        u, _, v = torch.linalg.svd(given, full_matrices=False)
        assert ((u @ v) * found).sum() > 0.97 * (u @ v).norm() * found.norm()
    assert (orthogonalize(torch.zeros(2, 4, 6)) == 0).all()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "sgd"])
def test_every_trainable_parameter_is_in_exactly_one_group(name: str, tied: bool) -> None:
    model = decoder(tied)
    model.layers[0].self_attn.q_norm.weight.requires_grad_(False)  # type: ignore[union-attr]
    optimizers = make_optimizers(model, settle(TrainOptions(optimizer=name), "decoder"))  # type: ignore[arg-type]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert {names[i] for i in listed} == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def groups_by_name(model: Decoder, options: TrainOptions) -> dict[str, tuple[str, dict]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (type(optimizer).__name__, group) for optimizer in make_optimizers(model, settle(options, "decoder"))
            for group in optimizer.param_groups for p in group["params"]}


def test_muon_takes_the_matrices_inside_the_layers_and_nothing_else() -> None:
    found = groups_by_name(decoder(), TrainOptions(learning_rate=0.05, embedding_learning_rate=0.007, weight_decay=0.3, momentum=0.8,
                                                   beta1=0.7, beta2=0.9))
    for name, (kind, group) in found.items():
        if "proj" in name:
            assert (kind, group["lr"], group["peak"], group["weight_decay"], group["momentum"]) == ("Muon", 0.05, 0.05, 0.3, 0.8), name
        else:
            rates = group["lr"], group["peak"], group["weight_decay"]
            assert (kind, rates, group["betas"]) == ("AdamW", (0.007, 0.007, 0.0), (0.7, 0.9)), name


@pytest.mark.parametrize(("name", "kind", "rate"), [("adamw", "AdamW", 0.003), ("adam", "Adam", 0.003), ("sgd", "SGD", 0.1)])
def test_adamw_and_sgd_train_all_and_decay_only_matrices(name: str, kind: str, rate: float) -> None:
    found = groups_by_name(decoder(), TrainOptions(optimizer=name, weight_decay=0.3, momentum=0.8))  # type: ignore[arg-type]
    for parameter, (made, group) in found.items():
        assert (made, group["lr"], group["peak"]) == (kind, rate, rate)
        assert group["weight_decay"] == (0.0 if "norm" in parameter else 0.3), parameter
        if kind == "SGD":
            assert group["momentum"] == 0.8
    assert groups_by_name(decoder(), TrainOptions(optimizer=name, learning_rate=0.5))["norm.weight"][1]["peak"] == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_step_is_torchs_own_at_a_share_of_the_peak_rate_and_clears_the_gradients(name: str) -> None:
    model, twin = decoder(), decoder()
    optimizers = make_optimizers(model, settle(TrainOptions(optimizer=name, weight_decay=0.0), "decoder"))  # type: ignore[arg-type]
    makers = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    plain = (torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.95) if name == "sgd"
             else makers[name](twin.parameters(), lr=0.003, betas=(0.8, 0.95), weight_decay=0.0))
    for step, factor in enumerate((0.5, 1.0, 0.25)):
        random_gradients(list(model.parameters()), step)
        random_gradients(list(twin.parameters()), step)
        step_optimizers(optimizers, factor)
        for group in plain.param_groups:
            group["lr"] = factor * (0.1 if name == "sgd" else 0.003)
        plain.step()
        assert all(parameter.grad is None for parameter in model.parameters())
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_a_factor_of_zero_changes_nothing() -> None:
    model = decoder()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizers = make_optimizers(model, settle(TrainOptions(), "decoder"))
    random_gradients(list(model.parameters()), 0)
    step_optimizers(optimizers, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
