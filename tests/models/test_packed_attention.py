"""Rows that hold several documents: losses and gradients are those of the documents alone, however they were packed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from myna.models.decoder import Decoder
from tests.models.decoders import CASES, random_decoder

STYLES = ["qwen3", "llama-biased-tied", "llama3-positions", "mistral", "qwen2", "gpt2"]
LENGTHS = [7, 1, 12, 3, 9, 2]


@pytest.fixture(scope="module", params=STYLES)
def model(request: pytest.FixtureRequest) -> Decoder:
    return random_decoder(**CASES[request.param])


def documents(vocab_size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(vocab_size, (length + 1,), generator=generator) for length in LENGTHS]


def pack(rows: Sequence[Sequence[Tensor]], width: int) -> dict[str, Tensor]:
    """Lay documents into rows of one width; the first label of each is not learned, so that masks are met too."""
    batch = {name: torch.zeros(len(rows), width, dtype=torch.int64) for name in ("input_ids", "position_ids", "segment_ids")}
    batch["labels"] = torch.full((len(rows), width), -100)
    for b, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row, start=1):
            inside = slice(at, at + len(document) - 1)
            batch["input_ids"][b, inside], batch["labels"][b, inside] = document[:-1], document[1:]
            batch["position_ids"][b, inside], batch["segment_ids"][b, inside] = torch.arange(len(document) - 1), number
            if len(document) > 2:
                batch["labels"][b, at] = -100
            at += len(document) - 1
    return batch


def loss_and_gradients(model: Decoder, batches: Sequence[dict[str, Tensor]]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    summed = 0.0
    for batch in batches:
        (total, _), = model.loss(batch)[0].values()
        total.backward()  # type: ignore[no-untyped-call]
        summed += float(total.detach())
    return summed, {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def alone(model: Decoder, texts: Sequence[Tensor]) -> tuple[float, dict[str, Tensor]]:
    """Each document in a row of its own, on the plain path: no positions, no segments."""
    batches = [pack([[text]], len(text) - 1) for text in texts]
    return loss_and_gradients(model, [{name: batch[name] for name in ("input_ids", "labels")} for batch in batches])


PACKINGS = {
    "one full row": lambda d: [pack([d], sum(LENGTHS))],
    "another order, padded": lambda d: [pack([[d[i] for i in (4, 0, 5, 3, 1, 2)]], 40)],
    "three rows of one batch": lambda d: [pack([[d[2], d[1]], [d[0], d[5], d[3]], [d[4]]], 16)],
    "accumulated, a row of padding beside": lambda d: [pack([[d[4], d[1]], []], 16), pack([[d[3]], [d[2], d[0]]], 19), pack([[d[5]]], 2)],
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_loss_and_gradients_are_the_sum_of_the_documents_alone(model: Decoder, packing: str) -> None:
    texts = documents(model.vocab_size)
    expected, gradients = alone(model, texts)
    got, packed = loss_and_gradients(model, PACKINGS[packing](texts))
    assert got == pytest.approx(expected, rel=1e-5)
    assert packed.keys() == gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert (packed[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-5, name  # gpt2's key biases have none: only rounding


def test_without_segments_the_documents_do_see_each_other(model: Decoder) -> None:
    texts = documents(model.vocab_size)
    batch = pack([texts], sum(LENGTHS))
    seen, _ = loss_and_gradients(model, [{name: batch[name] for name in ("input_ids", "labels")}])
    assert abs(seen - alone(model, texts)[0]) > 0.5  # or the tests above would show nothing


def test_one_document_in_a_row_is_the_plain_path(model: Decoder) -> None:
    texts = documents(model.vocab_size)
    batch = pack([[texts[2]]], LENGTHS[2])
    with torch.no_grad():
        plain, packed = model.hidden(batch["input_ids"]), model.hidden(batch["input_ids"], 0.0, batch["position_ids"], batch["segment_ids"])
    torch.testing.assert_close(packed, plain, rtol=1e-6, atol=1e-6)


def test_products_in_bfloat16_keep_documents_apart_too(model: Decoder) -> None:
    texts = documents(model.vocab_size)
    first, second = pack([texts], 40), pack([[texts[0], *(text.flip(0) for text in texts[1:])]], 40)
    model.compute_dtype = torch.bfloat16
    try:
        with torch.no_grad():
            one, other = (model.hidden(b["input_ids"], 0.0, b["position_ids"], b["segment_ids"])[0, : LENGTHS[0]] for b in (first, second))
    finally:
        model.compute_dtype = torch.float32
    assert torch.equal(one, other)
