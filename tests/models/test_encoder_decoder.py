"""The encoder-decoder against `transformers`' T5, Marian and BART: logits, cache, masks, greedy text, files; and against itself computed slowly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

from myna.errors import UserError
from myna.files import write_json
from myna.models import source as source_module
from myna.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from myna.models.encoder_decoder_files import encoder_decoder_places
from myna.models.encoder_decoder_layers import distance_buckets
from myna.models.pretrained import load_model, save_model
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
SCALES = {"T5 v1.0": 1.5, "T5 v1.1": 1.0, "T5 tied, not scaled": 0.3, "Marian": 0.2, "Marian, not scaled": 0.3, "BART": 0.3}  # of embeddings


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
            torch.testing.assert_close(gradient[first:], named[place.name].grad[first:], rtol=1e-3, atol=1e-4, msg=lambda text, ours=ours: f"{ours}: {text}")


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


def test_thirty_two_greedy_tokens_are_those_of_transformers(pair: tuple[Any, EncoderDecoder]) -> None:
    theirs, mine = pair
    sources = rows([14, 6], seed=5)
    ids, mask = padded(sources)
    with torch.no_grad():
        expected = theirs.generate(ids, attention_mask=mask, max_new_tokens=32, min_new_tokens=32, num_beams=1, do_sample=False,
                                   no_repeat_ngram_size=1)[:, 1:].tolist()  # a random model would say one token for ever
    state, ids, got = mine.start(2, sources), [[mine.separator_id]] * 2, [[], []]
    for _ in range(32):
        scores = mine.step(ids, state)
        for row, said in zip(scores, got, strict=True):
            row[[EOS, PAD, *said]] = -np.inf
        ids = [[int(token)] for token in scores.argmax(-1)]
        got = [[*row, *new] for row, new in zip(got, ids, strict=True)]
    assert got == expected


def test_saved_here_it_opens_in_transformers(pair: tuple[Any, EncoderDecoder], tmp_path: Path) -> None:
    theirs, mine = pair
    save_model(mine, tmp_path, PAD)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype="auto").eval()
    assert type(again) is type(theirs) and again.dtype == torch.float32
    source, target = rows([11, 13], seed=6)
    np.testing.assert_allclose(their_log_probs(again, source, target), their_log_probs(theirs, source, target), **CLOSE)
    assert again.generation_config.decoder_start_token_id == PAD and again.generation_config.eos_token_id == EOS
    assert again.generate(torch.tensor([source]), max_new_tokens=5).shape[1] > 1
    reread = load_model(tmp_path)
    assert isinstance(reread, EncoderDecoder) and reread.config == mine.config
    for name, parameter in mine.named_parameters():
        assert torch.equal(reread.get_parameter(name), parameter), name
