"""Every kernel against plain autograd: the same function in a line of PyTorch, values and all gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from myna.models import kernels
from myna.models.kernels import attend, linear_cross_entropy, normalize, rotate

EPS = 1e-3  # large, so that a kernel that forgot it would show


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(ours: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor],
         dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Run ours in `dtype` and the plain one in float64; returns pairs of (output and gradients of every input) in float64."""
    found = []
    for function, kind in ((ours, dtype), (plain, torch.float64)):
        leaves = [x.to(dtype).to(kind).requires_grad_() for x in inputs]
        out = function(*leaves)
        weights = random(*out.shape, seed=99).to(dtype).to(kind)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)])
    return [(a.double(), b) for a, b in zip(*found, strict=True)]


def assert_close(pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> None:
    for ours, plain in pairs:
        assert ours.shape == plain.shape
        assert (ours - plain).abs().max() <= tolerance * plain.abs().max(), (ours - plain).abs().max() / plain.abs().max()


BOTH = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"])


def plain_normalize(x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt()


@BOTH
def test_normalize(dtype: torch.dtype, tolerance: float) -> None:
    for scale in (1.0, 0.01, 30.0):  # at 0.01 the eps is most of the sum
        assert_close(both(lambda x: normalize(x, EPS), plain_normalize, [scale * random(3, 5, 16)], dtype), tolerance)


def test_normalize_of_zeros_is_zero_and_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    out = normalize(x, 1e-6)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert (out == 0).all() and torch.isfinite(grad).all()


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((right, left), -1) * sin


@BOTH
@pytest.mark.parametrize("rows", [1, 3], ids=["same positions", "positions by row"])
def test_rotate_with_a_gain_in_the_table(dtype: torch.dtype, tolerance: float, rows: int) -> None:
    inputs = [random(3, 5, 4, 8, seed=1), random(rows, 5, 4, 8, seed=2), random(rows, 5, 4, 8, seed=3)]
    assert_close(both(rotate, plain_rotate, inputs, dtype), tolerance)
    fixed = [inputs[1].to(dtype), inputs[2].to(dtype)]
    alone = both(lambda x: rotate(x, *fixed), lambda x: plain_rotate(x, *(t.double() for t in fixed)), inputs[:1], dtype)
    assert_close(alone, tolerance)


def test_rotate_turns_by_the_angle_and_keeps_lengths() -> None:
    angle = torch.tensor(0.3)
    x = torch.tensor([[1.0, 0.0]])  # the pair (1, 0) turned by 0.3
    out = rotate(x, angle.cos().expand(2), torch.stack((-angle.sin(), angle.sin())))
    torch.testing.assert_close(out, torch.tensor([[math.cos(0.3), math.sin(0.3)]]))


def plain_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril() if mask is None else mask
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v


@BOTH
def test_causal_attention(dtype: torch.dtype, tolerance: float) -> None:
    inputs = [random(2, 3, 20, 8, seed=seed) for seed in range(3)]
    assert_close(both(lambda q, k, v: attend(q, k, v, None), plain_attend, inputs, dtype), tolerance)


def test_attention_written_out_is_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [random(2, 3, 20, 8, seed=seed).bfloat16() for seed in range(3)]
    fused: list[bool] = []
    original = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: fused.append(True) or original(*a, **k))
    written_out = attend(*inputs, None)
    assert not fused
    monkeypatch.setattr(kernels, "_EXPLICIT_LENGTH", 19)  # one below this length
    torch.testing.assert_close(written_out, attend(*inputs, None), rtol=0, atol=2e-2)
    assert fused


def test_attention_with_a_mask() -> None:
    q, k, v = random(2, 3, 4, 8), random(2, 3, 9, 8, seed=1), random(2, 3, 9, 8, seed=2)
    mask = random(2, 1, 4, 9, seed=3) > -0.5
    mask[..., 0] = True
    torch.testing.assert_close(attend(q, k, v, mask), plain_attend(q, k, v, mask), rtol=0, atol=1e-6)


@BOTH
@pytest.mark.parametrize("at_once", [1 << 21, 1], ids=["one piece", "pieces of 64 rows"])
def test_linear_cross_entropy(dtype: torch.dtype, tolerance: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_LOGITS_AT_ONCE", at_once)
    targets = torch.randint(17, (150,), generator=torch.Generator().manual_seed(1))
    inputs = [random(150, 8), random(17, 8, seed=1)]
    assert_close(both(lambda h, w: linear_cross_entropy(h, w, targets),
                      lambda h, w: F.cross_entropy(h @ w.T, targets, reduction="sum"), inputs, dtype), tolerance)


@BOTH
@pytest.mark.parametrize("at_once", [1 << 21, 1], ids=["one piece", "pieces of 64 rows"])
def test_linear_cross_entropy_with_a_bias_and_rows_left_out(dtype: torch.dtype, tolerance: float, at_once: int,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_LOGITS_AT_ONCE", at_once)
    targets = torch.randint(17, (150,), generator=torch.Generator().manual_seed(1))
    targets[::3] = -100
    inputs = [random(150, 8), random(17, 8, seed=1), random(17, seed=2)]
    assert_close(both(lambda h, w, b: linear_cross_entropy(h, w, targets, b),
                      lambda h, w, b: F.cross_entropy(h @ w.T + b, targets, reduction="sum"), inputs, dtype), tolerance)


def test_linear_cross_entropy_of_nothing_is_zero_with_zero_gradients() -> None:
    hidden, weight = random(5, 8).requires_grad_(), random(17, 8, seed=1).requires_grad_()
    total = linear_cross_entropy(hidden, weight, torch.full((5,), -100))
    total.backward()
    assert float(total.detach()) == 0 and (hidden.grad == 0).all() and (weight.grad == 0).all()


def test_linear_cross_entropy_of_bfloat16_states_gives_float32_weights_their_gradient() -> None:
    hidden, weight, targets = random(70, 8).bfloat16().requires_grad_(), random(17, 8, seed=1).requires_grad_(), torch.arange(70) % 17
    total = linear_cross_entropy(hidden, weight, targets)
    total.backward()
    assert (total.dtype, hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    plain = weight.detach().clone().requires_grad_()
    F.cross_entropy(hidden.detach().float() @ plain.T, targets, reduction="sum").backward()
    assert (weight.grad - plain.grad).norm() < 1e-2 * plain.grad.norm()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_linear_cross_entropy_makes_no_gradients_where_none_are_wanted(mode: type, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = random(5, 8), random(17, 8, seed=1).requires_grad_(), torch.arange(5)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum").detach()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(torch, "mm", refuse)
    with mode():
        total = linear_cross_entropy(hidden, weight, targets)
    assert not total.requires_grad
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("frozen", ["weight", "hidden", "bias"])
def test_linear_cross_entropy_makes_no_gradient_of_what_is_frozen(frozen: str) -> None:
    inputs = {"hidden": random(70, 8), "weight": random(17, 8, seed=1), "bias": random(17, seed=2)}
    leaves = {name: tensor.requires_grad_(name != frozen) for name, tensor in inputs.items()}
    kept: list[torch.Size] = []
    targets = torch.arange(70) % 17
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        total = linear_cross_entropy(leaves["hidden"], leaves["weight"], targets, leaves["bias"])
    assert kept == [tensor.shape for name, tensor in inputs.items() if name != frozen]
    total.backward()
    plain = {name: tensor.detach().clone().requires_grad_(name != frozen) for name, tensor in inputs.items()}
    F.cross_entropy(plain["hidden"] @ plain["weight"].T + plain["bias"], targets, reduction="sum").backward()
    for name in inputs:
        if name == frozen:
            assert leaves[name].grad is None
        else:
            torch.testing.assert_close(leaves[name].grad, plain[name].grad, rtol=1e-4, atol=1e-4)
