"""LoRA put into a decoder: it starts as the base, learns beside it, and makes or keeps nothing of a frozen matrix's size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from myna.errors import UserError
from myna.models.decoder import Decoder
from myna.models.encoder import Encoder, EncoderConfig
from myna.train.lora import add_lora, merge_lora
from myna.train.optimizer import make_optimizers, step_optimizers
from myna.train.options import TrainOptions
from tests.models.decoders import CASES, logits, random_decoder, windows

FAMILIES = ["llama-biased-tied", "qwen3", "qwen2", "gpt2-untied"]


def small(case: str = "llama-biased-tied", rank: int = 4, up: float = 0.1, **options: Any) -> Decoder:
    model = random_decoder(**CASES[case])
    add_lora(model, rank, 8.0, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(0, up, generator=torch.Generator().manual_seed(5)) if up else None
    return model


def batch_of(model: Decoder) -> dict[str, Tensor]:
    return windows(torch.randint(model.vocab_size, (3, 38), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("case", FAMILIES)
def test_a_new_adapter_changes_nothing_and_is_its_seed(case: str) -> None:
    plain, model, again, other = random_decoder(**CASES[case]), small(case, up=0), small(case, up=0), small(case, up=0, seed=1)
    assert (logits(model) - logits(plain)).abs().max() <= 1e-6 * logits(plain).abs().max()
    downs = [{name: p for name, p in m.named_parameters() if name.endswith(".down")} for m in (model, again, other)]
    for name, down in downs[0].items():
        assert torch.equal(down, downs[1][name]) and not torch.equal(down, downs[2][name])
        bound = down.shape[1] ** -0.5
        assert 0.9 * bound < down.abs().max() <= bound and abs(float(down.detach().std()) - bound / 3 ** 0.5) < 0.1 * bound
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".adapter." in name} and trained


@pytest.mark.parametrize("case", FAMILIES)
def test_what_a_change_gives_and_its_gradients_are_those_of_the_formula(case: str) -> None:
    """Against the same model whose weights are W + alpha / r B A, differentiated by autograd."""
    model, plain = small(case), random_decoder(**CASES[case]).requires_grad_(False)
    batch = batch_of(model)
    total = model.loss(batch)[0]["next_token"][0]
    total.backward()
    adapters = {name: module for name, module in model.named_modules() if name.endswith(".adapter")}
    named = list(model.named_parameters(remove_duplicate=False))
    leaves = {name: parameter.detach().clone().requires_grad_() for name, parameter in named if ".adapter." in name}
    weights = dict(plain.named_parameters())
    for name in adapters:
        place = name.removesuffix("adapter") + "weight"
        weights[place] = weights[place] + 8.0 / 4 * leaves[f"{name}.up"] @ leaves[f"{name}.down"]
    expected = loss_with(plain, weights, batch)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
    expected.backward()
    shared: dict[int, Tensor] = {}  # GPT-2's three share one A: its gradient is the sum
    for name, parameter in named:
        if name in leaves:
            gradient = leaves[name].grad
            assert gradient is not None
            shared[id(parameter)] = shared.get(id(parameter), torch.zeros_like(gradient)) + gradient
    for name, parameter in model.named_parameters():
        if name in leaves:
            assert (parameter.grad - shared[id(parameter)]).norm() <= 1e-4 * shared[id(parameter)].norm() + 1e-5, name
        else:
            assert parameter.grad is None, name


def loss_with(model: Decoder, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The loss of a decoder with other weights in the place of its own."""
    for name, weight in weights.items():
        owner, _, last = name.rpartition(".")
        delattr(model.get_submodule(owner), last)
        setattr(model.get_submodule(owner), last, weight)
    return model.loss(batch)[0]["next_token"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", FAMILIES)
def test_nothing_of_a_frozen_matrix_is_made_or_kept_for_the_backward_pass(case: str, dtype: torch.dtype) -> None:
    model = small(case)
    model.compute_dtype = dtype
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    matrices = {tuple(sorted(p.shape)) for name, p in model.named_parameters() if ".adapter." not in name and p.ndim == 2}
    joined = {tuple(sorted((sum(layer.weight.shape[0] for layer in layers), layers[0].weight.shape[1]))) for block in model.layers
              for layers in ([block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj],
                             [part for part in (block.mlp.gate_proj, block.mlp.up_proj) if part is not None])}
    kept: list[tuple[int, ...]] = []

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept.append(tuple(sorted(x.shape)))
        return x

    batch = batch_of(model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        total = model.loss(batch)[0]["next_token"][0]
    assert kept and not (matrices | joined) & set(kept)
    total.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert parameter.grad is None or (parameter.grad.abs().max() > 0 and parameter.grad.dtype == torch.float32)


def test_frozen_weights_in_bfloat16_learn_too_and_merge_rounds_once() -> None:
    exact, model = small(), small()
    for name, parameter in model.named_parameters():
        if ".adapter." not in name:
            parameter.data = parameter.data.bfloat16()
    model.compute_dtype = torch.bfloat16
    batch = batch_of(model)
    losses = [m.loss(batch)[0]["next_token"][0] for m in (exact, model)]
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=0.02)
    losses[1].backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    merge_lora(exact)
    merge_lora(model)
    for name, parameter in model.named_parameters():
        change = (parameter.float() - exact.get_parameter(name)).abs().max()
        assert parameter.dtype == torch.bfloat16 and change <= 2 ** -7 * exact.get_parameter(name).abs().max(), name


def test_it_learns_a_batch_by_adamw_and_the_base_stays_as_it_was() -> None:
    model, plain = small(rank=8, up=0), random_decoder(**CASES["llama-biased-tied"])
    batch = batch_of(model)
    optimizers = make_optimizers(model, TrainOptions(optimizer="adamw", learning_rate=0.02, embedding_learning_rate=0.02, weight_decay=0.0))
    grouped = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    losses = []
    for _ in range(40):
        total = model.loss(batch)[0]["next_token"][0]
        (total / 111).backward()
        step_optimizers(optimizers, 1.0)
        losses.append(float(total.detach()) / 111)
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))
    before = logits(model)
    merge_lora(model)
    assert (logits(model) - before).abs().max() <= 1e-5 * before.abs().max()


def test_with_a_cache_an_unmerged_adapter_gives_what_it_gives_without() -> None:
    model = small()
    ids = [5, 9, 2, 30, 17]
    stepped = torch.from_numpy(model.step([ids], model.start(), last=False)[0])
    assert (stepped - logits(model, ids).log_softmax(-1)).abs().max() < 1e-4


def test_targets_are_chosen_by_the_ends_of_names() -> None:
    some = small(targets=("q_proj", "mlp.down_proj"))
    assert {name.split(".")[-3] for name, p in some.named_parameters() if p.requires_grad} == {"q_proj", "down_proj"}
    gpt2 = small("gpt2", targets=("c_attn",))
    trained = [name for name, p in gpt2.named_parameters(remove_duplicate=False) if p.requires_grad]
    assert {name.split(".")[-3] for name in trained} == {"q_proj", "k_proj", "v_proj"}
    assert sum(p.numel() for p in gpt2.parameters() if p.requires_grad) == 2 * (4 * 64 + 3 * 64 * 4)  # one A for the three


@pytest.mark.parametrize(("options", "words"), [
    ({"targets": ("q_prj",)}, "did you mean q_proj"), ({"targets": ("lm_head",)}, "lm_head"), ({"targets": ()}, "no matrix"),
    ({"rank": 0}, "rank 0"), ({"rank": 33}, "1 to 32"), ({"rank": 10 ** 9}, "1 to 32")], ids=str)
def test_what_cannot_be_adapted_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small(**options)


def test_other_families_and_a_second_adapter_are_refused() -> None:
    with pytest.raises(UserError, match="LoRA on a Encoder"):
        add_lora(Encoder(EncoderConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1)), 4, 8.0)
    with pytest.raises(ValueError, match="already"):
        add_lora(small(), 4, 8.0)


def test_no_gradient_is_computed_of_a_frozen_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose result has a frozen matrix's shape is its gradient."""
    model = small("qwen2")
    frozen = {tuple(p.shape) for p in model.parameters() if not p.requires_grad and p.ndim == 2}
    made: list[tuple[int, ...]] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if "mm" in func.__name__ and isinstance(out, Tensor):
                made.append(tuple(out.shape))
            return out

    with Watch():
        model.loss(batch_of(model))[0]["next_token"][0].backward()
    assert made and not {shape for shape in made if shape in frozen or shape[::-1] in frozen}
