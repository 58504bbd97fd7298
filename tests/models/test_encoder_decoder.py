"""The encoder-decoder against `transformers`' T5, Marian and BART: logits, cache, masks, greedy text, files; and the readable T5."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from myna.errors import UserError
from myna.files import write_json
from myna.models import source as source_module
from myna.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from myna.models.encoder_decoder_files import encoder_decoder_places
from myna.models.encoder_decoder_layers import distance_buckets, query_scale
from myna.models.pretrained import load_model
from tests.docs_code import load_block

CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}
V, PAD, EOS = 61, 0, 3
T5: dict[str, Any] = {"vocab_size": V, "d_model": 32, "d_kv": 12, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
                      "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "pad_token_id": PAD, "eos_token_id": EOS,
                      "decoder_start_token_id": PAD, "n_positions": 48}
# not more layers in the decoder: transformers 5.23 then fails in generate (it sizes the cache by the encoder)
SIDES: dict[str, Any] = {"vocab_size": V, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
                         "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 48,
                         "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD, "bos_token_id": None,
                         "forced_eos_token_id": None}
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "T5 v1.0": (T5Config, T5ForConditionalGeneration, {**T5, "feed_forward_proj": "relu"}),
    "T5 v1.1": (T5Config, T5ForConditionalGeneration, {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "T5 tied, not scaled": (T5Config, T5ForConditionalGeneration, {**T5, "feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-3}),
    "Marian": (MarianConfig, MarianMTModel, {**SIDES, "activation_function": "swish", "scale_embedding": True}),
    "Marian, not scaled": (MarianConfig, MarianMTModel, {**SIDES, "activation_function": "relu"}),
    "BART": (BartConfig, BartForConditionalGeneration, {**SIDES, "activation_function": "gelu"}),
}
SCALES = {"T5 v1.0": 1.5, "T5 v1.1": 1.0, "T5 tied, not scaled": 0.3, "Marian": 0.2, "Marian, not scaled": 0.3, "BART": 0.3}  # embeddings


def reference(name: str) -> Any:
    """Make a random model whose layers matter and whose logits lie far apart, its head its own where it is not tied."""
    kind, make, values = CASES[name]
    model = make(kind(**values, attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(0)
    if name == "T5 v1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, 32))
    if name == "T5 tied, not scaled":
        model.config.scale_decoder_outputs = False
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "embed_positions" in key and "Marian" in name:
                continue
            if parameter.dim() == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + (0.5 if key.endswith("weight") else -0.5))
            else:
                scale = SCALES[name] if "shared" in key else 1.0 if "bias" in key or "embed" in key else 1.3 / parameter.shape[1] ** 0.5
                if name.startswith("T5") and key.endswith(("q.weight", "k.weight")):
                    scale /= 2
                parameter.normal_(0, scale, generator=generator)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(0, 1, generator=generator)
    return model


@pytest.fixture(scope="module", params=CASES, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, EncoderDecoder]:
    """Theirs, and what we read from the directory that it saved."""
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    mine = load_model(folder)
    assert isinstance(mine, EncoderDecoder)
    return theirs, mine


def rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, V, length).tolist() for length in lengths]


def padded(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, texts))
    return (torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in texts]),
            torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in texts]))


def their_log_probs(theirs: Any, source: list[int], target: list[int]) -> np.ndarray:
    """After each id of the target, alone and without a cache."""
    with torch.no_grad():
        return theirs(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].log_softmax(-1).numpy()


def make_batch(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Tensor]:
    ids, mask = padded(sources)
    labels, seen = padded(targets)
    inputs = torch.cat((torch.full((len(targets), 1), PAD), labels[:, :-1]), dim=1)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": inputs, "labels": labels.masked_fill(seen == 0, -100)}


def test_logits_loss_and_every_gradient_are_those_of_transformers(pair: tuple[Any, EncoderDecoder]) -> None:
    theirs, mine = pair
    batch = make_batch(rows([19, 7, 12]), rows([14, 14, 9], seed=1))
    mine.requires_grad_(True)
    expected = theirs(**{name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}).logits
    assert expected.std() > 0.3  # or the test would show nothing
    got = mine.logits(mine.decode(batch["decoder_input_ids"], *mine.encode(batch["input_ids"], batch["attention_mask"].bool())))
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    wanted = batch["labels"] != -100
    loss = torch.nn.functional.cross_entropy(expected[wanted], batch["labels"][wanted], reduction="sum")
    theirs.zero_grad()
    loss.backward()
    mine.zero_grad()
    losses, carry = mine.loss(batch)
    assert carry is None and losses.keys() == mine.counts(batch).keys() == {"target_token"} and mine.counts(batch)["target_token"] == 37
    total, weight = losses["target_token"]
    torch.testing.assert_close(total, loss, rtol=1e-5, atol=0)
    (total * weight).backward()
    named = dict(theirs.named_parameters())
    for ours, place in encoder_decoder_places(mine.config).items():
        gradient = mine.get_parameter(ours).grad
        assert gradient is not None, ours
        if ours != "final_logits_bias":  # which transformers does not train, nor does it the row of the pad where it is the start
            first = 1 if ours == "shared.weight" and mine.config.model_type != "t5" else 0
            gradient = gradient / place.scale
            torch.testing.assert_close(gradient[first:], named[place.name].grad[first:], rtol=1e-3, atol=1e-4,
                                       msg=lambda text, ours=ours: f"{ours}: {text}")


def test_with_a_cache_in_pieces_of_any_size_rows_are_scored_as_without(pair: tuple[Any, EncoderDecoder]) -> None:
    theirs, mine = pair
    sources, targets = rows([16, 3, 9]), rows([30, 21, 11], seed=1)
    expected = [their_log_probs(theirs, source, target) for source, target in zip(sources, targets, strict=True)]
    state = mine.start(3, sources)
    got: list[list[np.ndarray]] = [[], [], []]
    at = [0, 0, 0]
    for sizes in ([7, 2, 1], [1, 1, 1], [3, 9, 2], [1, 1, 1], [18, 8, 6]):
        out = mine.step([row[a : a + size] for row, a, size in zip(targets, at, sizes, strict=True)], state, last=False)
        for b, size in enumerate(sizes):
            got[b].extend(out[b, :size])
            assert (out[b, size:] == 0).all()
        at = [a + size for a, size in zip(at, sizes, strict=True)]
        assert state.lengths == at
    for mine_row, theirs_row in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine_row, theirs_row, rtol=0, atol=3e-5)


def test_after_truncate_and_select_sources_go_with_their_rows(pair: tuple[Any, EncoderDecoder]) -> None:
    theirs, mine = pair
    sources, (first, second, third), more = rows([8, 15, 4]), rows([12, 9, 17], seed=3), rows([4, 3, 6], seed=4)
    state = mine.start(3, sources)
    mine.step([first, second, third], state)
    state.truncate([0, 9, 16])
    state.select([2, 0, 2])
    out = mine.step(more, state)
    texts = [(sources[2], [*third[:16], *more[0]]), (sources[0], more[1]), (sources[2], [*third[:16], *more[2]])]
    np.testing.assert_allclose(out, [their_log_probs(theirs, *text)[-1] for text in texts], rtol=0, atol=3e-5)


# ---- against the readable version, and itself ----

def random_model(**changes: Any) -> EncoderDecoder:
    shape = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 8, **changes}
    model = EncoderDecoder(EncoderDecoderConfig(**shape)).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    return model


def test_logits_are_those_of_the_readable_t5() -> None:
    readable = load_block("docs/families/encoder-decoder.md", 0)
    model = random_model(relative_attention_num_buckets=8, relative_attention_max_distance=6, max_position_embeddings=20)
    weights = {name: parameter.numpy() * (query_scale(model.config) if name.endswith("q_proj.weight") else 1)
               for name, parameter in model.named_parameters()}
    source, target = [5, 6, 7, 8, 9, 10, 11, 12, 13], [0, 5, 8, 9, 11, 3, 2, 1, 7, 4, 39]
    expected = readable.t5_logits(weights, source, target, layers=2, heads=4, buckets=8, furthest=6)
    got = model.logits(model.decode(torch.tensor([target]), *model.encode(torch.tensor([source]), None)))[0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (4, 9), (33, 100)])
@pytest.mark.parametrize("both_ways", [True, False])
def test_every_distance_has_the_bucket_of_t5(buckets: int, furthest: int, both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-300, 300)
    expected = T5Attention._relative_position_bucket(distances, both_ways, buckets, furthest)
    assert torch.equal(distance_buckets(distances, both_ways, buckets, furthest), expected)


@pytest.mark.parametrize("at_once", [8192, 16], ids=["all windows at once", "two at once"])
@pytest.mark.parametrize("model_type", ["t5", "marian"])
def test_a_long_document_is_scored_in_windows_given_the_text_before(model_type: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_SCORED_AT_ONCE", at_once)
    model = random_model(model_type=model_type)
    for length in (1, 7, 8, 9, 16, 35):
        ids = np.random.default_rng(length).integers(1, 40, length).tolist()
        expected: list[float] = []
        for at in range(0, max(1, length - 4), 4):
            out = model.step([[0, *ids[at : at + 7]]], model.start(1, [[*ids[max(0, at - 7) : at], 0]]), last=False)[0]
            expected += [out[t, id] for t, id in enumerate(ids[at : at + 8])][4 if at else 0 :]
        np.testing.assert_allclose(model.log_probs(ids), expected, rtol=0, atol=2e-5)
    given = model.log_probs([5, 6, 7], [8, 9])
    np.testing.assert_allclose(given, model.step([[0, 5, 6]], model.start(1, [[8, 9]]), last=False)[0][[0, 1, 2], [5, 6, 7]], **CLOSE)
    assert np.abs(given - model.log_probs([5, 6, 7])).max() > 0.01
    with pytest.raises(ValueError, match="9 ids"):
        model.log_probs([1] * 9, [2])


def test_sources_and_targets_that_do_not_fit_are_refused() -> None:
    model = random_model()
    with pytest.raises(ValueError, match="9 ids"):
        model.start(1, [[1] * 9])
    with pytest.raises(ValueError, match="2 rows"):
        model.start(2, [[1]])
    state = model.start(1)
    with pytest.raises(ValueError, match="9 ids"):
        model.step([[1] * 9], state)
    assert state.lengths == [0]
    np.testing.assert_array_equal(model.step([[3]], model.start(1, [[]])), model.step([[3]], model.start()))


@pytest.mark.parametrize("model_type", ["t5", "marian", "bart"])
def test_padding_micro_batches_and_row_order_change_no_gradient(model_type: str) -> None:
    model = random_model(model_type=model_type, max_position_embeddings=30).requires_grad_(True)
    batch = make_batch(rows([19, 3, 12, 1], 2), rows([4, 14, 9, 2], seed=3))
    batch = {name: values.clamp(max=39) for name, values in batch.items()}

    def gradients(parts: list[dict[str, Tensor]]) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        total = torch.zeros(())
        for part in parts:
            total = total + model.loss(part)[0]["target_token"][0]
        total.backward()
        return float(total.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, wanted = gradients([batch])
    wider = {"input_ids": 5, "attention_mask": 0, "decoder_input_ids": 5, "labels": -100}
    wide = {name: torch.nn.functional.pad(values, (0, 6), value=wider[name]) for name, values in batch.items()}
    order = torch.tensor([2, 0, 3, 1])
    for parts in ([wide], [{name: values[order] for name, values in batch.items()}],
                  [{name: values[row : row + 1] for name, values in batch.items()} for row in range(4)]):
        got, found = gradients(parts)
        assert got == pytest.approx(expected, rel=1e-5)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model_type", ["t5", "marian", "bart"])
def test_one_batch_is_learned_and_dropout_is_for_training_alone(model_type: str) -> None:
    config = EncoderDecoderConfig(40, 32, 1, 2, max_position_embeddings=12, model_type=model_type, dropout=0.02)
    torch.manual_seed(2)  # of dropout, which draws from the one generator of the process
    model = EncoderDecoder(config, seed=1)
    sources = rows([8, 8, 8, 8], seed=4)
    sources = [[id % 36 + 2 for id in row] for row in sources]
    batch = make_batch(sources, [row[::-1] for row in sources])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = float(model.loss(batch)[0]["target_token"][0].detach()) / 32
    assert first == pytest.approx(np.log(40), abs=0.5)
    for _ in range(120):
        optimizer.zero_grad()
        (model.loss(batch)[0]["target_token"][0] / 32).backward()
        optimizer.step()
    model.eval()
    assert float(model.loss(batch)[0]["target_token"][0].detach()) / 32 < 0.1
    model.train()
    assert model.training and (model.log_probs([5, 6, 7]) == model.log_probs([5, 6, 7])).all()
    assert float(model.loss(batch)[0]["target_token"][0].detach()) != float(model.loss(batch)[0]["target_token"][0].detach())


def test_bfloat16_products_give_nearly_the_loss_of_float32() -> None:
    for model_type in ("t5", "marian"):
        model = random_model(model_type=model_type, max_position_embeddings=20).requires_grad_(True)
        batch = {name: values.clamp(max=39) for name, values in make_batch(rows([19, 7, 12]), rows([14, 14, 9], seed=1)).items()}
        exact = float(model.loss(batch)[0]["target_token"][0].detach())
        model.compute_dtype = torch.bfloat16
        total = model.loss(batch)[0]["target_token"][0]
        total.backward()
        assert total.dtype == torch.float32 and 0 < abs(float(total.detach()) - exact) < 0.02 * exact
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
        assert model.log_probs([4, 5, 6]).dtype == np.float32


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "gated": False, "num_decoder_layers": 3}, {"head_dim": 24},
                                     {"model_type": "marian", "num_decoder_layers": 1}, {"model_type": "bart"}], ids=str)
def test_the_count_of_parameters_is_exact_and_tables_are_named(changes: dict[str, Any]) -> None:
    model = EncoderDecoder(EncoderDecoderConfig(**{"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                                                   **changes}))
    assert model.config.count_parameters() == sum(parameter.numel() for parameter in model.parameters())
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2} - model.table_names()
    assert all(name.endswith("proj.weight") for name in matrices) and len(model.table_names()) >= 2
    assert {"shared.weight"} < model.table_names() < {name for name, _ in model.named_parameters()}


def test_a_new_model_is_its_seed() -> None:
    config = EncoderDecoderConfig(40, 32, 1, 2)
    torch.manual_seed(5)
    first = EncoderDecoder(config, 1)
    torch.manual_seed(6)
    again, other = EncoderDecoder(config, 1), EncoderDecoder(config, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.shared.weight, other.shared.weight)


# ---- directories ----

@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = getattr(request, "param", "T5 v1.1")
    reference(name).save_pretrained(tmp_path)
    return tmp_path


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_model(folder)
    line = str(caught.value)
    assert "\n" not in line and len(line.replace(str(folder), "")) <= 400 and all(word in line for word in words), line


def change(folder: Path, **changes: Any) -> None:
    write_json(folder / "config.json", {**json.loads((folder / "config.json").read_text()), **changes})


def rewrite(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("folder", ["Marian"], indirect=True)
def test_marians_copies_may_be_stored_and_must_be_copies(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    shared, positions = stored["model.shared.weight"], load_model(folder).sinusoids
    rewrite(folder, lambda t: t.update({"lm_head.weight": shared, "model.encoder.embed_tokens.weight": shared,
                                        "model.decoder.embed_positions.weight": positions.half()}))
    load_model(folder)
    for name in ("lm_head.weight", "model.decoder.embed_tokens.weight", "model.encoder.embed_positions.weight"):
        save_file(stored, folder / "model.safetensors")
        rewrite(folder, lambda t, name=name: t.update({name: torch.ones(48 if "positions" in name else V, 32)}))
        refused(folder, name, "table")
        rewrite(folder, lambda t, name=name: t.update({name: torch.ones(3)}))
        refused(folder, name, "shape")


@pytest.mark.parametrize(("name", "changes", "words"), [
    ("T5 v1.1", {"feed_forward_proj": "gated-tanh"}, ["feed_forward_proj"]), ("T5 v1.1", {"dense_act_fn": "tanh"}, ["dense_act_fn"]),
    ("T5 v1.1", {"is_gated_act": False}, ["is_gated_act"]), ("T5 v1.1", {"d_model": 1 << 20}, ["weights"]),
    ("T5 v1.1", {"relative_attention_num_buckets": 2}, ["buckets"]), ("T5 v1.1", {"relative_attention_max_distance": 3}, ["distance"]),
    ("T5 v1.1", {"relative_attention_max_distance": 0}, ["distance"]), ("T5 v1.1", {"num_layers": 10**6}, ["weights"]),
    ("T5 v1.1", {"num_heads": 0}, ["num_heads"]), ("T5 v1.1", {"d_kv": "8"}, ["d_kv"]), ("T5 v1.1", {"n_positions": -1}, ["n_positions"]),
    ("T5 v1.1", {"decoder_start_token_id": V}, ["decoder_start_token_id"]), ("T5 v1.1", {"eos_token_id": None}, ["eos_token_id"]),
    ("T5 v1.1", {"is_encoder_decoder": False}, ["is_encoder_decoder"]), ("T5 v1.1", {"layer_norm_epsilon": float("nan")}, ["config.json"]),
    ("T5 v1.1", {"dropout_rate": 1.0}, ["dropout_rate"]), ("T5 v1.1", {"scale_decoder_outputs": "yes"}, ["scale_decoder_outputs"]),
    ("Marian", {"decoder_ffn_dim": 48}, ["decoder_ffn_dim"]), ("Marian", {"decoder_attention_heads": 2}, ["decoder_attention_heads"]),
    ("Marian", {"share_encoder_decoder_embeddings": False}, ["share_encoder_decoder_embeddings"]),
    ("Marian", {"tie_word_embeddings": False}, ["tie_word_embeddings"]), ("Marian", {"normalize_before": True}, ["normalize_before"]),
    ("Marian", {"decoder_vocab_size": 70}, ["decoder_vocab_size"]), ("Marian", {"activation_function": "tanh"}, ["activation_function"]),
    ("Marian", {"max_position_embeddings": 1 << 24}, ["max_position_embeddings"]), ("Marian", {"encoder_attention_heads": 5}, ["heads"]),
    ("Marian", {"encoder_layers": None}, ["encoder_layers"]), ("BART", {"add_final_layer_norm": True}, ["add_final_layer_norm"]),
], ids=lambda value: str(value)[:40])
def test_what_would_be_computed_otherwise_or_cannot_be_is_refused(
        name: str, changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    reference(name).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    if "decoder_attention_heads" not in changes and "encoder_attention_heads" in changes:
        change(tmp_path, decoder_attention_heads=changes["encoder_attention_heads"])
    refused(tmp_path, *words)


@pytest.mark.parametrize(("edit", "words"), [
    (lambda t: t.pop("encoder.final_layer_norm.weight"), []), (lambda t: t.update({"decoder.extra": torch.ones(3)}), ["decoder.extra"]),
    (lambda t: t.update({"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": torch.ones(4, 8)}), ["shape"]),
    (lambda t: t.update({"encoder.embed_tokens.weight": torch.ones(V, 32)}), ["both sides share"]), (lambda t: t.clear(), []),
], ids=["missing", "extra", "turned", "a table of its own", "none"])
def test_weights_that_do_not_fit_are_refused(edit: Callable[[dict[str, Tensor]], object], words: list[str], folder: Path) -> None:
    rewrite(folder, edit)
    refused(folder, *words)


def test_shapes_that_do_not_go_together_are_value_errors() -> None:
    for changes in ({"num_attention_heads": 3, "model_type": "marian"}, {"model_type": "bart", "tie_word_embeddings": False},
                    {"model_type": "marian", "gated": True}):
        with pytest.raises(ValueError):
            EncoderDecoderConfig(**{"vocab_size": 9, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **changes})
