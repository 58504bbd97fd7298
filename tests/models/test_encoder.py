"""The encoder against `transformers`' BERT, RoBERTa and ALBERT, both ways, and against the readable version of the documentation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from myna.errors import UserError
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.pretrained import load_model, save_model

CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}
SHAPE: dict[str, Any] = {"vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80,
                         "max_position_embeddings": 40, "type_vocab_size": 2, "layer_norm_eps": 1e-6}
ALBERT: dict[str, Any] = {**SHAPE, "embedding_size": 20}
THEIRS: dict[str, tuple[Any, Any]] = {
    "bert": (BertForMaskedLM, BertConfig(**SHAPE)),
    "bert-relu": (BertForMaskedLM, BertConfig(**SHAPE, hidden_act="relu")),
    "bert-next-sentence": (BertForPreTraining, BertConfig(**SHAPE)),
    "bert-body": (BertModel, BertConfig(**SHAPE)),
    "bert-classifier": (BertForSequenceClassification, BertConfig(**SHAPE)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**SHAPE)),
    "roberta-tanh": (RobertaForMaskedLM, RobertaConfig(**SHAPE, hidden_act="gelu_new", pad_token_id=7)),
    "roberta-body": (RobertaModel, RobertaConfig(**SHAPE)),
    "albert": (AlbertForMaskedLM, AlbertConfig(**ALBERT)),
    "albert-gelu": (AlbertForMaskedLM, AlbertConfig(**ALBERT, hidden_act="gelu")),
    "albert-groups": (AlbertForPreTraining, AlbertConfig(**{**ALBERT, "num_hidden_layers": 5}, num_hidden_groups=2, inner_group_num=2)),
}


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give weights with which every part matters and the logits lie far apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.5 if "embeddings" in name else parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.3, generator=generator)


def theirs(case: str) -> Any:
    kind, config = THEIRS[case]
    model = kind(config).eval()
    randomize(model)
    return model


def batch(pad: int) -> dict[str, Tensor]:
    """Three rows of 17, 12 and 5 tokens, filled with padding, with token types."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 61, (3, 17), generator=generator)
    mask = torch.ones(3, 17, dtype=torch.int64)
    for row, length in ((1, 12), (2, 5)):
        ids[row, length:] = pad
        mask[row, length:] = 0
    types = (torch.arange(17) >= 4).long().expand(3, 17).clone()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def same(got: Tensor, expected: Tensor, mask: Tensor) -> None:
    seen = mask.bool()
    assert expected[seen].std() > 0.1  # or the test would show nothing
    torch.testing.assert_close(got[seen], expected[seen], **CLOSE)


def compare(mine: Encoder, model: Any) -> None:
    """Hold hidden states, logits and the judgement of pairs against theirs, padded and not."""
    rows = batch(model.config.pad_token_id)
    with torch.no_grad():
        hidden = mine.encode(rows["input_ids"], rows["attention_mask"], rows["token_type_ids"])
        out = model(**rows, output_hidden_states=True)
        same(hidden, out.hidden_states[-1], rows["attention_mask"])
        alone = mine.encode(rows["input_ids"][2:, :5], None, rows["token_type_ids"][2:, :5])
        torch.testing.assert_close(alone[0], hidden[2, :5], **CLOSE)  # padding changes nothing
        same(mine.encode(rows["input_ids"], rows["attention_mask"]),  # types left out are zeros
             model(rows["input_ids"], attention_mask=rows["attention_mask"], output_hidden_states=True).hidden_states[-1],
             rows["attention_mask"])
        everywhere = model(rows["input_ids"], output_hidden_states=True).hidden_states[-1]  # padding taken for text
        torch.testing.assert_close(mine.encode(rows["input_ids"]), everywhere, **CLOSE)
        logits = out.get("logits", out.get("prediction_logits"))
        if mine.head is not None:
            same(mine.logits(hidden), logits, rows["attention_mask"])
        if mine.pair_head is not None:
            pair = out.get("sop_logits", out.get("seq_relationship_logits"))
            torch.testing.assert_close(mine.pair_head(mine.pool(hidden[:, 0])), pair, **CLOSE)
        elif mine.pooler is not None and "pooler_output" in out:
            torch.testing.assert_close(mine.pool(hidden[:, 0]), out.pooler_output, **CLOSE)


@pytest.mark.parametrize("case", THEIRS)
def test_what_transformers_saves_opens_here_and_what_is_saved_here_opens_there(case: str, tmp_path: Path,
                                                                                capsys: pytest.CaptureFixture[str]) -> None:
    model = theirs(case)
    model.save_pretrained(tmp_path / "theirs")
    mine: Any = load_model(tmp_path / "theirs")
    assert ("2 weights are of another task's head and left out ('classifier')" in capsys.readouterr().err) == (case == "bert-classifier")
    assert mine.config.count_parameters() == sum(parameter.numel() for parameter in mine.parameters())
    compare(mine, model if case != "bert-classifier" else model.bert)
    assert (mine.pair_head is not None) == (case in ("bert-next-sentence", "albert-groups"))
    save_model(mine, tmp_path / "ours", model.config.pad_token_id)
    architecture = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"][0]
    kind = BertModel if case == "bert-classifier" else type(model) if mine.head is None else AutoModelForMaskedLM
    kind = AutoModelForPreTraining if architecture.endswith("ForPreTraining") else kind
    again, loading = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    compare(mine, again.eval())
    if mine.head is not None:
        assert type(again).__name__ == architecture
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
    reopened: Any = load_model(tmp_path / "ours")
    assert reopened.config == mine.config


@pytest.mark.parametrize(("case", "head"), [("bert", "cls.predictions"), ("roberta", "lm_head"), ("albert", "predictions")])
def test_a_head_stored_twice_must_be_the_table_it_is_tied_to(case: str, head: str, tmp_path: Path) -> None:
    model = theirs(case)
    model.save_pretrained(tmp_path)
    table = model.get_input_embeddings().weight.detach()
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, f"{head}.decoder.weight": table + 1}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="differs from what it is tied to"):
        load_model(tmp_path)


@pytest.mark.parametrize(("case", "changes", "words"), [
    ("bert", {"is_decoder": True}, "is_decoder"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("bert", {"hidden_act": "silu"}, "hidden_act"),
    ("bert", {"num_attention_heads": 5}, "5 heads"),
    ("bert", {"num_attention_heads": 0}, "num_attention_heads"),
    ("bert", {"vocab_size": 1 << 40}, "vocab_size"),
    ("bert", {"hidden_size": 1 << 20}, "weights"),
    ("bert", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ("bert", {"num_hidden_layers": 4}, "weights"),
    ("bert", {"num_hidden_layers": 2}, "which its config.json does not speak of"),
    ("bert", {"layer_norm_eps": "1"}, "layer_norm_eps"),
    ("bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps"),
    ("bert", {"hidden_dropout_prob": 2}, "hidden_dropout_prob"),
    ("bert", {"max_position_embeddings": 20}, "has shape"),
    ("bert", {"model_type": ["bert"]}, "model_type"),
    ("bert", {"eos_token_id": 61}, "eos_token_id"),
    ("roberta", {"pad_token_id": 39}, "max_position_embeddings"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id"),
    ("albert", {"num_hidden_groups": 9}, "num_hidden_groups"),
    ("albert", {"inner_group_num": 10**6}, "inner_group_num"),
    ("albert", {"embedding_size": 48}, "weights"),
])
def test_hostile_values_are_refused_in_one_line(case: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs(case).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError) as refused:
        load_model(tmp_path)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    theirs("bert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("cls.predictions.transform.dense.weight")
    save_file(tensors | {"x": torch.zeros(48 * 48)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="weights"):
        load_model(tmp_path)


# ---- training ----

def new(kind: str = "bert", **changes: Any) -> Encoder:
    values = {"vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 2, "model_type": kind, "max_position_embeddings": 40, **changes}
    return Encoder(EncoderConfig(**values), seed=1)


def training_rows(pairs: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(10, 61, (6, 16), generator=generator)
    chosen = torch.rand(6, 16, generator=generator) < 0.3
    chosen[0] = False  # a row without a hidden token
    rows = {"input_ids": torch.where(chosen, 9, ids), "labels": torch.where(chosen, ids, -100), "attention_mask": torch.ones_like(ids),
            "token_type_ids": (torch.arange(16) > 7).long().expand(6, 16)}
    return {**rows, "sentence_order_label": torch.tensor([0, 1, -100, 1, 0, 1])} if pairs else rows


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_the_loss_and_every_gradient_are_those_of_transformers(kind: str) -> None:
    model = theirs({"albert": "albert-groups"}.get(kind, kind))
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        mine: Any = load_model(Path(folder)).requires_grad_(True)  # type: ignore[attr-defined]
    rows = training_rows(kind == "albert")
    counts = mine.counts(rows)
    assert counts == {"masked_token": int((rows["labels"] >= 0).sum()), **({"sentence_order": 5} if kind == "albert" else {})}
    losses, carry = mine.loss(rows)
    assert carry is None and losses.keys() == counts.keys()
    total = sum(summed * weight / counts[name] for name, (summed, weight) in losses.items())
    total.backward()
    expected = model(**rows).loss
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
    from myna.models.encoder_files import encoder_places

    named = dict(model.named_parameters())
    for name, parameter in mine.named_parameters():
        gradient = named[encoder_places(mine.config)[name].name].grad
        if gradient is None or gradient.abs().max() == 0:
            assert parameter.grad is None or parameter.grad.abs().max() < 1e-6, name
            continue
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_one_batch_is_learned(kind: str) -> None:
    torch.manual_seed(0)
    model, rows = new(kind, type_vocab_size=2), training_rows(kind == "albert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    counts = model.counts(rows)
    first: dict[str, float] = {}
    for _ in range(100):
        losses = model.loss(rows)[0]
        means = {name: summed * weight / counts[name] for name, (summed, weight) in losses.items()}
        first = first or {name: float(mean.detach()) for name, mean in means.items()}
        optimizer.zero_grad()
        torch.stack(list(means.values())).sum().backward()
        optimizer.step()
    assert first["masked_token"] == pytest.approx(math.log(61), abs=0.3)
    assert all(float(mean.detach()) < 0.1 for mean in means.values())
    guessed = model.masked_log_probs(rows["input_ids"], chosen=rows["labels"] >= 0, token_type_ids=rows["token_type_ids"]).argmax(-1)
    assert (guessed == rows["labels"][rows["labels"] >= 0].numpy()).mean() > 0.97


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_however_a_batch_is_cut_up_the_gradient_is_the_same(kind: str) -> None:
    model, rows = new(kind, type_vocab_size=2), training_rows(kind == "albert")
    randomize(model)
    counts = model.counts(rows)

    def gradients(size: int) -> list[Tensor]:
        model.zero_grad()
        for at in range(0, 6, size):
            losses, _ = model.loss({name: tensor[at:at + size] for name, tensor in rows.items()})
            torch.stack([summed * weight / counts[name] for name, (summed, weight) in losses.items()]).sum().backward()
        return [parameter.grad.clone() if parameter.grad is not None else torch.zeros(1) for parameter in model.parameters()]

    whole = gradients(6)
    for size in (1, 2, 4):
        for a, b in zip(gradients(size), whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_only_the_chosen_positions_are_given_and_they_are_those_of_all() -> None:
    model = new(dropout=0.0).eval()
    randomize(model)
    rows = batch(0)
    everywhere = model.masked_log_probs(rows["input_ids"], rows["attention_mask"]).reshape(3, 17, 61)
    np.testing.assert_allclose(np.exp(everywhere).sum(-1), 1, atol=1e-5)
    chosen = torch.zeros(3, 17, dtype=torch.bool)
    chosen[0, 3] = chosen[2, 4] = chosen[2, 0] = True
    some = model.masked_log_probs(rows["input_ids"], rows["attention_mask"], chosen)
    np.testing.assert_allclose(some, everywhere[chosen.numpy()], atol=1e-5)
    with pytest.raises(ValueError, match="41 ids do not fit the context of 40"):
        model.encode(torch.zeros(1, 41, dtype=torch.int64))
    body = Encoder(EncoderConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, masked_head=False))
    with pytest.raises(UserError, match="no head"):
        body.masked_log_probs(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no pooler"):
        body.pool(torch.zeros(1, 16))


@pytest.mark.parametrize("length", [16, 600])  # explicit and fused attention
def test_bfloat16_products_give_nearly_what_float32_gives(length: int) -> None:
    model = new(max_position_embeddings=600).eval()
    ids = torch.randint(0, 61, (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, length // 2:] = 0
    randomize(model)
    with torch.no_grad():
        exact = model.encode(ids, mask)
        model.compute_dtype = torch.bfloat16
        rounded = model.encode(ids, mask)
    assert rounded.dtype == torch.bfloat16
    seen = mask.bool()
    assert 0 < (rounded.float() - exact)[seen].abs().mean() < 0.05
    assert model.masked_log_probs(ids[:, :3]).dtype == np.float32


def test_a_new_model_is_its_seed_and_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(5)
    first = new()
    torch.manual_seed(6)  # PyTorch's own random state has no say
    again, other = new(), Encoder(first.config, seed=2)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if name in ("word_embeddings.weight", "layers.0.v_proj.weight", "layers.1.up_proj.weight", "head.dense.weight"):
            assert not torch.equal(a, c), name
    assert first.table_names() <= {name for name, _ in first.named_parameters()}
    model = new(dropout=0.5)
    randomize(model)
    ids = batch(0)["input_ids"]
    with torch.no_grad():
        assert not torch.equal(model.encode(ids), model.encode(ids))
        model.eval()
        assert torch.equal(model.encode(ids), model.encode(ids))
    assert model.config.attention_dropout == 0.5


def test_sizes_left_out_are_the_styles_own_and_parameters_are_counted_as_they_are() -> None:
    bert, roberta, albert = (new(kind, hidden_size=192, num_hidden_layers=4) for kind in ("bert", "roberta", "albert"))
    assert (bert.config.num_attention_heads, bert.config.intermediate_size, bert.config.type_vocab_size) == (6, 768, 2)
    assert (roberta.config.type_vocab_size, roberta.max_length, roberta.config.pad_token_id) == (1, 39, 0)
    assert (albert.config.embedding_size, albert.config.num_hidden_groups, albert.config.hidden_act) == (128, 1, "gelu_new")
    assert albert.pair_head is not None and bert.pair_head is None and len(albert.layers) == 1
    for model in (bert, roberta, albert):
        assert model.config.count_parameters() == sum(parameter.numel() for parameter in model.parameters())
        assert EncoderConfig(**json.loads(json.dumps(vars(model.config)))) == model.config
    layer = 4 * 192**2 + 2 * 192 * 768
    rest = layer - 3 * 192**2
    assert bert.config.products_per_token() == 4 * layer - rest + round(0.4 * (rest + 192**2 + 192 * 61))


def test_relu_and_gelu_are_told_apart() -> None:
    from myna.models.encoder import activate

    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(activate(x, "none"), F.gelu(x))
    assert not torch.equal(activate(x, "tanh"), activate(x, "none")) and torch.equal(activate(x, None), x.clamp(min=0))


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_the_heads_of_a_new_model_look_at_the_neighbours(kind: str) -> None:
    model = new(kind, hidden_size=128, num_attention_heads=4, embedding_size=64 if kind == "albert" else 128, pad_token_id=5,
                max_position_embeddings=70).eval()
    ids = torch.randint(10, 61, (1, 64), generator=torch.Generator().manual_seed(0))
    places = torch.arange(4, 60)
    with torch.no_grad():
        x = model._embed(ids, None)
        for layer in model._order():
            q, k = (projection(x).view(64, 4, 32).transpose(0, 1) for projection in (layer.q_proj, layer.k_proj))
            weights = (q @ k.mT / 32**0.5).softmax(-1)
            for head, offset in enumerate((-1, 1, -2, 2)):
                assert (weights[head, places, places + offset] > 0.5).all()


def test_a_model_too_narrow_for_waves_begins_at_random() -> None:
    narrow = new(hidden_size=8, num_attention_heads=4)
    assert narrow.position_embeddings.weight.std() < 0.03
