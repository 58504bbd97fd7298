"""One recurrent layer over time: RNN, LSTM and GRU, with back-propagation through time written by hand.

The input's product is made for all time steps at once by the caller, so a step is one product with the previous hidden state
and the arithmetic of the gates; the backward pass keeps the gates' gradients and makes the weight's in one product at the end.
Autograd would make it in one small product per step and keep every intermediate result. Products are in the dtype of `inputs`,
gates and what is remembered from step to step in float32 (a cell that forgets slowly adds many small terms). Formulas:
docs/families/recurrent.md; timings: docs/log.md.

    inputs = torch.randn(5, 2, 4 * 8)                                       # (T, B, 4 H)
    hidden, (h, c) = scan("lstm", inputs, torch.randn(4 * 8, 8), None, (torch.zeros(2, 8), torch.zeros(2, 8)))

T time steps · B rows · H hidden size · G gates (1, 4, 3)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GATES = {"rnn": 1, "lstm": 4, "gru": 3}  # matrices side by side in a layer's weights, in torch.nn's order: i f g o; r z n
_sigmoid_backward, _tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def scan(kind: str, inputs: Tensor, weight: Tensor, bias: Tensor | None, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a layer of `kind` (rnn, lstm, gru) over inputs (T, B, G H), which are W_ih x + b_ih (+ b_hh but for the gru).

    weight: W_hh (G H, H). bias: b_hh (G H,) of a gru, else None. state: h, and an lstm's c, (B, H) each. Returns hidden (T, B, H) in
    inputs' dtype and what the state was after every step, (T, B, H) each; what adds up over steps is in at least float32.
    """
    kept = torch.promote_types(inputs.dtype, torch.float32)
    state = tuple(part.to(kept) for part in state)
    match kind:
        case "lstm":
            hidden, cells = _Lstm.apply(inputs, weight, *state)  # type: ignore[no-untyped-call]
            return hidden, (hidden, cells)
        case "gru":
            states = _Gru.apply(inputs, weight, bias, *state)  # type: ignore[no-untyped-call]
        case _:
            states = _Rnn.apply(inputs, weight, *state)  # type: ignore[no-untyped-call]
    return states.to(inputs.dtype), (states,)


def _tanh_(x: Tensor) -> Tensor:
    """Take tanh in place, as 2 sigmoid(2x) - 1: PyTorch's sigmoid is several times as fast as its tanh (docs/log.md)."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        T, B, _ = inputs.shape
        hidden = inputs.new_empty(T + 1, B, h.shape[1])
        cells, gates = c.new_empty(T + 1, B, h.shape[1]), c.new_empty(inputs.shape)
        tanh_cells = c.new_empty(T, B, h.shape[1])
        hidden[0], cells[0] = h, c
        turned, product = weight.to(inputs.dtype).T, torch.empty_like(inputs[0])
        i, f, g, o = (part.unbind() for part in gates.chunk(4, 2))
        hs, cs = hidden.unbind(), cells.unbind()
        for t, (x, gate, tanh_c) in enumerate(zip(inputs.unbind(), gates.unbind(), tanh_cells.unbind(), strict=True)):
            gate.copy_(torch.addmm(x, hs[t], turned, out=product))
            g[t].mul_(2)
            gate.sigmoid_()
            g[t].mul_(2).sub_(1)  # tanh, see _tanh_
            torch.mul(f[t], cs[t], out=cs[t + 1]).addcmul_(i[t], g[t])
            torch.mul(o[t], _tanh_(tanh_c.copy_(cs[t + 1])), out=hs[t + 1])
        ctx.save_for_backward(weight, hidden, cells, gates, tanh_cells)
        ctx.set_materialize_grads(False)
        return hidden[1:], cells[1:]

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor | None, grad_cells: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, hidden, cells, gates, tanh_cells = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden[1:]) if grad_hidden is None else grad_hidden
        cast, grad_gates = weight.to(hidden.dtype), torch.empty_like(gates, dtype=hidden.dtype)
        i, f, g, o = (part.unbind() for part in gates.chunk(4, 2))
        grad, both = torch.empty_like(gates[0]), gates.chunk(2, 2)[0].unbind()
        dh, dc = torch.empty_like(cells[0]), torch.zeros_like(cells[0])
        grad_i, grad_f, grad_g, grad_o = grad.chunk(4, 1)
        grad_both, through, product = grad.chunk(2, 1)[0], torch.empty_like(dh), torch.empty_like(hidden[0])
        cs, tanh_cs, later = cells.unbind(), tanh_cells.unbind(), grad_gates.unbind()
        for t in range(len(tanh_cs) - 1, -1, -1):
            dh.copy_(grad_hidden[t] if t == len(tanh_cs) - 1 else torch.addmm(grad_hidden[t], later[t + 1], cast, out=product))
            torch.mul(dh, o[t], out=through)
            dc.add_(_tanh_backward(through, tanh_cs[t], grad_input=through))
            if grad_cells is not None:
                dc.add_(grad_cells[t])
            torch.mul(dc, g[t], out=grad_i)
            torch.mul(dc, cs[t], out=grad_f)
            _sigmoid_backward(grad_both, both[t], grad_input=grad_both)
            _tanh_backward(torch.mul(dc, i[t], out=grad_g), g[t], grad_input=grad_g)
            _sigmoid_backward(torch.mul(dh, tanh_cs[t], out=grad_o), o[t], grad_input=grad_o)
            dc.mul_(f[t])
            later[t].copy_(grad)
        return grad_gates, _weight_gradient(grad_gates, hidden, weight), (later[0] @ cast).to(dc.dtype), dc


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        T, B, H = len(inputs), *h.shape
        hidden = inputs.new_empty(T + 1, B, H)
        states, gates = h.new_empty(T + 1, B, H), h.new_empty(T, B, 4 * H)  # r, z, n, and n's share of h before r
        hidden[0] = states[0] = h
        turned, shift, product = weight.to(inputs.dtype).T, bias.to(inputs.dtype), torch.empty_like(inputs[0])
        r, z, n, share = (part.unbind() for part in gates.chunk(4, 2))
        rz, hs, ss = gates.chunk(2, 2)[0].unbind(), hidden.unbind(), states.unbind()
        for t, x in enumerate(inputs.unbind()):
            torch.addmm(shift, hs[t], turned, out=product)
            torch.add(x[:, : 2 * H], product[:, : 2 * H], out=rz[t])
            rz[t].sigmoid_()
            share[t].copy_(product[:, 2 * H :])
            _tanh_(n[t].copy_(x[:, 2 * H :]).addcmul_(r[t], share[t]))
            hs[t + 1].copy_(torch.lerp(n[t], ss[t], z[t], out=ss[t + 1]))
        ctx.save_for_backward(weight, hidden, states, gates)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, hidden, states, gates = ctx.saved_tensors
        T, B, H = grad_states.shape
        cast = weight.to(hidden.dtype)
        grad_inputs = torch.empty(T, B, 3 * H, dtype=hidden.dtype)
        grad_gates = torch.empty_like(grad_inputs)  # of W_hh h: as grad_inputs but in its last third
        r, z, n, share = (part.unbind() for part in gates.chunk(4, 2))
        rz, ss, later, below = gates.chunk(2, 2)[0].unbind(), states.unbind(), grad_gates.unbind(), grad_inputs.unbind()
        grad, product, dh = torch.empty_like(gates[0, :, : 3 * H]), torch.empty_like(hidden[0]), torch.zeros_like(states[0])
        grad_r, grad_z, grad_n = grad.chunk(3, 1)
        grad_rz = grad[:, : 2 * H]
        for t in range(T - 1, -1, -1):
            dh.add_(grad_states[t])
            torch.mul(torch.sub(ss[t], n[t], out=grad_z), dh, out=grad_z)
            _tanh_backward(torch.addcmul(dh, dh, z[t], value=-1, out=grad_n), n[t], grad_input=grad_n)
            torch.mul(grad_n, share[t], out=grad_r)
            _sigmoid_backward(grad_rz, rz[t], grad_input=grad_rz)
            below[t].copy_(grad)
            grad_n.mul_(r[t])
            later[t].copy_(grad)
            dh.mul_(z[t]).add_(torch.mm(later[t], cast, out=product))
        return grad_inputs, _weight_gradient(grad_gates, hidden, weight), grad_gates.sum((0, 1), dtype=weight.dtype), dh


class _Rnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, h: Tensor) -> Tensor:
        hidden = inputs.new_empty(len(inputs) + 1, *h.shape)
        states = h.new_empty(hidden.shape)
        hidden[0] = states[0] = h
        turned, product = weight.to(inputs.dtype).T, torch.empty_like(inputs[0])
        hs, ss = hidden.unbind(), states.unbind()
        for t, x in enumerate(inputs.unbind()):
            hs[t + 1].copy_(_tanh_(ss[t + 1].copy_(torch.addmm(x, hs[t], turned, out=product))))
        ctx.save_for_backward(weight, hidden, states)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, hidden, states = ctx.saved_tensors
        cast, grad_gates = weight.to(hidden.dtype), torch.empty_like(hidden[1:])
        ss, later = states.unbind(), grad_gates.unbind()
        product, dh = torch.empty_like(hidden[0]), torch.zeros_like(states[0])
        for t in range(len(later) - 1, -1, -1):
            dh.add_(grad_states[t])
            later[t].copy_(_tanh_backward(dh, ss[t + 1], grad_input=dh))
            dh.copy_(torch.mm(later[t], cast, out=product))
        return grad_gates, _weight_gradient(grad_gates, hidden, weight), dh


def _weight_gradient(grad_gates: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    """Sum the outer products of all time steps in one product: (T, B, G H) and the states before, (T, B, H), to (G H, H)."""
    gradient: Tensor = grad_gates.flatten(0, 1).T @ hidden[:-1].flatten(0, 1)
    return gradient.to(weight.dtype)
