"""The decoder in every style against `transformers`: logits, gradients, cache, greedy text; and against itself computed slowly."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from myna.models import decoder as decoder_module
from myna.models import layers as layers_module
from myna.models.decoder import STYLES, Decoder, DecoderConfig, new_decoder
from myna.models.decoder_files import decoder_places
from myna.models.layers import drop
from tests.docs_code import load_block
from tests.models.decoders import CASES, SHAPE, as_ours, ours, reference, windows


def assert_close(got: Any, expected: Any) -> None:
    """Equal to 1e-5 of the largest value: what float32 additions in another order may do to logits."""
    got, expected = np.asarray(got), np.asarray(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module", params=CASES, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Decoder]:
    changes = CASES[request.param]
    model = reference(**changes)
    return model, ours(model, **changes)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return ours(reference())


def rows(model: Decoder, lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, model.vocab_size, length).tolist() for length in lengths]


def their_log_probs(theirs: Any, row: list[int]) -> np.ndarray:
    with torch.no_grad():
        return theirs(input_ids=torch.tensor([row])).logits[0].log_softmax(-1).numpy()


def our_loss(mine: Decoder, batch: Tensor) -> tuple[Tensor, int]:
    rows = windows(batch)
    losses, carry = mine.loss(rows)
    ((total, weight),) = losses.values()
    assert losses.keys() == mine.counts(rows).keys() == {"next_token"} and weight == 1 and carry is None
    return total, mine.counts(rows)["next_token"]


def our_gradients(mine: Decoder, batch: Tensor) -> dict[str, Tensor]:
    mine.zero_grad()
    total, count = our_loss(mine, batch)
    (total / count).backward()
    return {name: parameter.grad.clone() for name, parameter in mine.named_parameters()}


def test_logits_loss_and_every_gradient_are_those_of_transformers(pair: tuple[Any, Decoder]) -> None:
    theirs, mine = pair
    batch = torch.tensor(rows(mine, [20, 20, 20]))
    expected = theirs(input_ids=batch[:, :-1]).logits
    assert expected.std() > 0.3  # or the test would show nothing
    assert_close(mine.logits(mine.hidden(batch[:, :-1])).detach(), expected.detach())
    loss = F.cross_entropy(expected.flatten(0, 1), batch[:, 1:].flatten())
    theirs.zero_grad()
    loss.backward()
    total, count = our_loss(mine, batch)
    assert count == 57
    torch.testing.assert_close(total / count, loss, rtol=1e-5, atol=0)
    gradients = our_gradients(mine, batch)
    places, stored = decoder_places(mine.config), dict(theirs.named_parameters())
    assert gradients.keys() == places.keys() and {place.name for place in places.values()} == stored.keys()
    for name, place in places.items():
        assert stored[place.name].grad is not None
        gradient = as_ours(stored[place.name].grad, place)
        if not name.endswith("k_proj.bias") or mine.config.model_type != "gpt2":  # the softmax takes no notice of an equal shift
            assert gradient.abs().max() > 1e-5, name
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("case", [name for name, changes in CASES.items() if "rope_scaling" not in changes])
def test_the_readable_version_in_the_documentation_gives_the_same_logits(case: str) -> None:
    readable = load_block("docs/families/decoder.md")
    model = ours(reference(**CASES[case]), **CASES[case])
    ids = torch.tensor(rows(model, [40])[0])
    with torch.no_grad():
        expected = readable.logits(ids, dict(model.named_parameters()), model.config)
        assert_close(model.logits(model.hidden(ids[None]))[0], expected)


def test_with_a_cache_in_pieces_of_any_size_rows_are_scored_as_without(pair: tuple[Any, Decoder]) -> None:
    theirs, mine = pair
    texts = rows(mine, [30, 21, 11])
    expected = [their_log_probs(theirs, row) for row in texts]
    state = mine.start(3)
    got: list[list[np.ndarray]] = [[], [], []]
    at = [0, 0, 0]
    for sizes in ([7, 2, 1], [1, 1, 1], [3, 9, 2], [1, 1, 1], [18, 8, 6]):  # ragged: no row is ever as long as another
        pieces = [row[a : a + size] for row, a, size in zip(texts, at, sizes, strict=True)]
        out = mine.step(pieces, state, last=False)
        assert out.shape == (3, max(sizes), mine.vocab_size)
        for b, size in enumerate(sizes):
            got[b].extend(out[b, :size])
            assert (out[b, size:] == 0).all()
        at = [a + size for a, size in zip(at, sizes, strict=True)]
        assert state.lengths == at
    for mine_row, theirs_row in zip(got, expected, strict=True):
        assert_close(mine_row, theirs_row)


def test_after_truncate_and_select_it_goes_on_as_transformers_from_the_start(pair: tuple[Any, Decoder]) -> None:
    theirs, mine = pair
    first, second, third = rows(mine, [12, 9, 17], seed=3)
    more = rows(mine, [4, 3, 6], seed=4)
    state = mine.start(3)
    mine.step([first, second, third], state)
    state.truncate([0, 9, 16])  # an empty row beside others
    state.select([2, 0, 2])
    out = mine.step(more, state)
    texts = [[*third[:16], *more[0]], more[1], [*third[:16], *more[2]]]
    assert_close(out, [their_log_probs(theirs, row)[-1] for row in texts])


def test_sixty_four_greedy_tokens_are_those_of_transformers(pair: tuple[Any, Decoder]) -> None:
    theirs, mine = pair
    prompt = rows(mine, [6], seed=5)[0]
    with torch.no_grad():
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None)[0, 6:].tolist()
    state, ids, got = mine.start(), prompt, []
    while len(got) < 64:
        ids = [int(mine.step([ids], state)[0].argmax())]
        got += ids
    assert got == expected
    assert len(set(got)) > 3


def slow_log_probs(model: Decoder, ids: list[int]) -> list[float]:
    """One id at a time: the first window holds a whole context, each later one begins half a context further on."""
    context = model.config.max_position_embeddings
    stride = max(1, context // 2)
    stream, scores = [model.separator_id, *ids], []
    with torch.no_grad():
        for t, id in enumerate(ids):
            start = 0 if t < context else stride * math.ceil((t + 1 - context) / stride)
            hidden = model.hidden(torch.tensor([stream[start : t + 1]]))
            assert t < context or t + 1 - start >= context // 2
            scores.append(float(model.logits(hidden)[0, -1].log_softmax(-1)[id]))
    return scores


@pytest.mark.parametrize("case", ["qwen3", "gpt2"])
@pytest.mark.parametrize("context", [16, 7, 2])
@pytest.mark.parametrize("at_once", [8192, 40], ids=["all windows at once", "few windows at once"])
def test_log_probs_of_documents_longer_than_the_context(case: str, context: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "_SCORED_AT_ONCE", at_once)
    changes = {**CASES[case], "max_position_embeddings": context}
    model = ours(reference(**changes), **changes)
    for length in {0, 1, context - 1, context, context + 1, 2 * context, 3 * context + 1, 5 * context - 1}:
        ids = rows(model, [length], seed=length)[0]
        scores = model.log_probs(ids)
        assert scores.shape == (length,) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, slow_log_probs(model, ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", ["qwen3", "gpt2"])
def test_a_row_may_fill_the_context_and_not_a_step_more(case: str) -> None:
    changes = {**CASES[case], "max_position_embeddings": 64}
    model = ours(reference(**changes), **changes)
    assert model.max_length == 64
    full, other = rows(model, [64, 3])
    state = model.start(2)
    model.step([full[:60], other], state)
    with pytest.raises(ValueError, match="64"):
        model.step([[*full[60:], 1], [1]], state)
    assert state.lengths == [60, 3]
    # the short row's padding points past the end of the context while the other row is filled
    out = model.step([full[60:], [5]], state)
    assert_close(out[0], model.step([full], model.start())[0])
    assert_close(out[1], model.step([[*other, 5]], model.start())[0])
    out = model.step([[1], rows(model, [50], seed=9)[0]], cut := state_at(model, [[*full[:63]], other]))
    assert cut.lengths == [64, 53]
    assert_close(out[0], model.step([[*full[:63], 1]], model.start())[0])


def state_at(model: Decoder, ids: list[list[int]]) -> Any:
    state = model.start(len(ids))
    model.step(ids, state)
    return state


def test_however_a_batch_is_cut_up_the_gradient_is_the_same(model: Decoder) -> None:
    batch = torch.tensor(rows(model, [17] * 7))
    whole = our_gradients(model, batch)
    for size in (1, 2, 3, 6):
        model.zero_grad()
        summed = 0.0
        for micro in torch.split(batch, size):
            total, count = our_loss(model, micro)
            (total / (7 * 16)).backward()
            summed += float(total.detach()) / (7 * 16)
            assert count == len(micro) * 16
        assert summed == pytest.approx(float(our_loss(model, batch)[0].detach()) / (7 * 16), rel=1e-6)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6)
    model.zero_grad()


def test_bfloat16_products_give_nearly_the_loss_and_gradient_of_float32(model: Decoder) -> None:
    batch = torch.tensor(rows(model, [33] * 4))
    exact, gradients = float(our_loss(model, batch)[0].detach()), our_gradients(model, batch)
    model.compute_dtype = torch.bfloat16
    try:
        total = our_loss(model, batch)[0].detach()
        assert total.dtype == torch.float32 and float(total) != exact
        assert float(total) == pytest.approx(exact, rel=5e-3)
        for name, gradient in our_gradients(model, batch).items():
            assert gradient.dtype == torch.float32
            assert (gradient - gradients[name]).norm() < 0.1 * gradients[name].norm(), name
        document = rows(model, [30])[0]
        rounded, state = model.log_probs(document), model.start()
        assert state.keys[0].dtype == torch.bfloat16
        stepped = model.step([[model.separator_id, *document]], state, last=False)[0]
        assert np.abs(stepped[np.arange(30), document] - rounded).mean() < 0.2
    finally:
        model.compute_dtype = torch.float32
        model.zero_grad()
    assert 0 < np.abs(rounded - model.log_probs(document)).mean() < 0.2


@pytest.mark.parametrize("case", ["qwen3", "gpt2"])
def test_labels_of_minus_100_are_not_predicted(case: str) -> None:
    model = ours(reference(**CASES[case]), **CASES[case])
    batch = windows(rows(model, [17] * 4))
    batch["labels"] = batch["labels"].clone()
    batch["labels"][0], batch["labels"][2, :5] = -100, -100
    with torch.no_grad():
        expected = F.cross_entropy(model.logits(model.hidden(batch["input_ids"])).flatten(0, 1), batch["labels"].flatten(), reduction="sum")
        total, _ = model.loss(batch)[0]["next_token"]
    assert model.counts(batch) == {"next_token": 4 * 16 - 16 - 5}
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("model_type", STYLES)
def test_a_new_model_of_every_style_learns(model_type: str) -> None:
    shape = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 32, "max_position_embeddings": 32}
    model = new_decoder(DecoderConfig(**shape, model_type=model_type), seed=0)
    batch = windows(rows(model, [33] * 4))
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.01)
    losses = []
    for _ in range(30):
        total, count = model.loss(batch)[0]["next_token"][0], model.counts(batch)["next_token"]
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    assert losses[0] == pytest.approx(math.log(40), abs=0.3)
    assert losses[-1] < 0.5  # the ids are random, so the batch was learnt by heart: only a working attention can
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.endswith("k_proj.bias"):
            assert not torch.equal(parameter, Decoder(model.config).get_parameter(name)), name


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_dropout_is_for_training_alone(case: str) -> None:
    plain = ours(reference(**CASES[case]), **CASES[case])
    model = ours(reference(**CASES[case]), **CASES[case], dropout=0.3)
    ids = rows(model, [40] * 8)
    batch, document = windows(ids), ids[0]
    exact = float(plain.loss(batch)[0]["next_token"][0].detach())
    torch.manual_seed(0)
    first, second = (float(model.train().loss(batch)[0]["next_token"][0].detach()) for _ in range(2))
    assert len({first, second, exact}) == 3
    torch.manual_seed(0)
    assert float(model.loss(batch)[0]["next_token"][0].detach()) == first
    assert (model.log_probs(document) == plain.log_probs(document)).all()  # scoring leaves nothing out, in training mode too
    assert (model.step([document], model.start()) == plain.step([document], plain.start())).all()
    assert float(model.eval().loss(batch)[0]["next_token"][0].detach()) == exact


def test_dropout_is_of_the_embeddings_and_of_what_each_part_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ours(reference(), dropout=0.3).train()
    seen: list[float] = []
    for module in (decoder_module, layers_module):
        monkeypatch.setattr(module, "drop", lambda x, share: seen.append(share) or torch.zeros_like(x))
    hidden = model.hidden(windows(rows(model, [9]))["input_ids"], 0.3)
    assert seen == [0.3] * (1 + 2 * 2)
    assert (hidden == 0).all()  # so what is dropped is all that the stream is made of


def test_dropout_leaves_out_a_share_and_keeps_the_mean() -> None:
    x = torch.ones(100_000)
    torch.manual_seed(0)
    dropped = drop(x, 0.25)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert drop(x, 0.0) is x


def test_rotations_are_made_as_they_are_needed_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**CASES["llama3-positions"], "max_position_embeddings": 100}
    whole = ours(reference(**changes), **changes)
    monkeypatch.setattr(decoder_module, "_FIRST_TABLE", 4)
    model = ours(reference(**changes), **changes)
    document = rows(model, [60])[0]
    assert (model.log_probs(document[:3]) == whole.log_probs(document[:3])).all()
    np.testing.assert_allclose(model.step([document], model.start()), whole.step([document], whole.start()), rtol=0, atol=1e-6)
    batch = windows([document])
    model.loss(batch)[0]["next_token"][0].backward()  # with a table that was made while scoring
    assert model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_model_is_its_seed_and_guesses_evenly(tied: bool) -> None:
    config = DecoderConfig(vocab_size=300, hidden_size=128, num_hidden_layers=2, num_key_value_heads=1, tie_word_embeddings=tied)
    torch.manual_seed(5)
    first = Decoder(config, seed=1)
    torch.manual_seed(6)  # PyTorch's own random state has no say
    again, other = Decoder(config, seed=1), Decoder(config, seed=2)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            assert (a == 0).all()
        elif a.ndim == 2:
            assert not torch.equal(a, c), name
    total, count = our_loss(first, torch.tensor(rows(first, [65] * 4)))
    assert float(total.detach()) / count == pytest.approx(math.log(300), abs=0.2)


def test_parameters_are_counted_as_they_are_and_sizes_left_out_are_derived() -> None:
    for changes in CASES.values():
        config = DecoderConfig(**{**SHAPE, **changes})
        assert config.count_parameters() == sum(parameter.numel() for parameter in Decoder(config).parameters())
    for model_type in STYLES:
        derived = DecoderConfig(vocab_size=512, hidden_size=192, num_hidden_layers=1, model_type=model_type)
        assert (derived.num_attention_heads, derived.num_key_value_heads) == (3, 3)
        assert derived.intermediate_size == (768 if model_type == "gpt2" else 512)
        model = Decoder(derived)
        assert derived.count_parameters() == sum(parameter.numel() for parameter in model.parameters())
        tables = {"embed_tokens.weight", "embed_positions.weight"} if model_type == "gpt2" else {"embed_tokens.weight"}
        assert model.table_names() == tables
        matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and name not in tables)
        assert derived.products_per_token() == matrices + 512 * 192 + 2 * 3 * 64 * 256  # the head, and attention over 256 keys
        assert DecoderConfig(**dataclasses.asdict(derived)) == derived


@pytest.mark.parametrize("changes", [{"num_attention_heads": 3, "num_key_value_heads": 2}, {"head_dim": 31}, {"head_dim": 128},
                                     {**CASES["gpt2"], "num_key_value_heads": 2}, {**CASES["gpt2"], "head_dim": 32}], ids=str)
def test_shapes_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="num_attention_heads"):
        DecoderConfig(**{"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 1, **changes})
