"""Precisions: bfloat16 in every neural family, what each model has, and scores kept beside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from myna.cli.main import main
from myna.errors import UserError
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.int8 import Int8Decoder
from myna.models.mixture import Fitted, Mixture, write_mixture
from myna.models.precision import Measured, keep_measured, read_measured, set_precision
from myna.models.pretrained import load_directory, load_model, save_model
from tests.models.decoders import CASES, random_decoder
from tests.models.test_invariants import Case, attention_rnn, decoder, documents, encoder_decoder, ngram, recurrent

HALF: dict[str, Any] = {"decoder": decoder, "gpt2": lambda: decoder(model_type="gpt2", num_key_value_heads=4, head_dim=16),
                        "lstm": lambda: recurrent("lstm"), "gru": lambda: recurrent("gru"), "t5": lambda: encoder_decoder("t5"),
                        "bart": lambda: encoder_decoder("bart")}


@pytest.mark.parametrize("name", HALF)
def test_bfloat16_halves_the_matrices_and_scores_nearly_the_same(name: str, tmp_path: Path) -> None:
    case: Case = HALF[name]()
    case.save(tmp_path)
    half = load_model(tmp_path, "bfloat16")
    assert {p.dtype for p in half.parameters() if p.ndim > 1} == {torch.bfloat16}
    assert {p.dtype for p in half.parameters() if p.ndim < 2} <= {torch.float32}
    for document in documents(case.model):
        scores = half.log_probs(document)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, case.model.log_probs(document), rtol=0, atol=0.02)
        state = half.start()
        steps = [half.step([[id]], state)[0] for id in [half.separator_id, *document[:-1]]]
        np.testing.assert_allclose([row[id] for row, id in zip(steps, document, strict=True)], scores, rtol=0, atol=0.02)


@pytest.mark.parametrize("model_type", ["bert", "albert"])
def test_bfloat16_encoders(model_type: str) -> None:
    model = Encoder(EncoderConfig(40, 64, 2, model_type, num_attention_heads=4, intermediate_size=128)).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2, generator=generator)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 3, 1, 1, 2, 0]])
    scores, vectors = model.masked_log_probs(ids), model.encode(ids)
    half = set_precision(model, "bfloat16")
    np.testing.assert_allclose(half.masked_log_probs(ids), scores, rtol=0, atol=0.05)
    assert half.encode(ids).dtype == torch.bfloat16
    torch.testing.assert_close(half.encode(ids).float(), vectors, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_decoders_whose_logits_lie_apart(name: str) -> None:
    model, document = random_decoder(**CASES[name]), list(range(5, 60))
    exact = model.log_probs(document)
    apart = np.abs(set_precision(model, "bfloat16").log_probs(document) - exact)
    assert apart.mean() < 0.02 * np.abs(exact).mean()  # three decimal digits in each product, of two layers


def test_a_model_without_the_precision_says_which_it_has() -> None:
    for case, precision, words in ((recurrent("lstm"), "int8", "no lstm computes in int8; expected float32 or bfloat16"),
                                   (attention_rnn(), "bfloat16", "no attention_rnn computes in bfloat16; expected float32"),
                                   (ngram(), "int8", "no ngram computes in int8"), (decoder(), "int9", "int8")):
        with pytest.raises(UserError) as caught:
            set_precision(case.model, precision)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_mixture_takes_it_for_the_members_that_have_it(tmp_path: Path) -> None:
    decoder().save(tmp_path)
    ngram().save(tmp_path / "ngram")
    write_mixture(tmp_path, ["decoder", "ngram"], [".", "ngram"], Fitted([0.4, 0.6], [1.0, 1.0], 1.0, 1))
    opened = load_directory(tmp_path, precision="int8")
    assert isinstance(opened, Mixture) and [type(one).__name__ for one in opened.members] == ["Int8Decoder", "Ngram"]
    assert isinstance(load_directory(tmp_path, "decoder", "int8"), Int8Decoder)
    with pytest.raises(UserError, match="ngram"):
        load_directory(tmp_path, "ngram", "int8")
    with pytest.raises(UserError, match="no member"):
        load_directory(tmp_path, precision="int9")


def test_scores_are_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(decoder().model, tmp_path, None)
    assert read_measured(tmp_path) == {}
    keep_measured(tmp_path, "bfloat16", Measured("bits_per_byte", 1.2301, 1.23, ["a.txt"]))
    keep_measured(tmp_path, "int8", Measured("bits_per_byte", 1.234, 1.23, ["a.txt"]))
    assert list(read_measured(tmp_path)) == ["bfloat16", "int8"]
    assert main(["show", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "bfloat16: 1.230 bits per byte (float32 1.230); int8: 1.234 bits per byte (float32 1.230)" in shown
    for damage in ("[]", '{"int8": 3}', '{"int8": {"metric": "bits_per_byte"}}',
                   json.dumps({"int8": {"metric": 5, "value": 1, "float32": 1, "files": []}})):
        (tmp_path / "precision.json").write_text(damage)
        with pytest.raises(UserError, match="damaged"):
            read_measured(tmp_path)
