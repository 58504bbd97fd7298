"""Encoders measured: one hidden token at a time as the readable version does it, and the n-gram that sees both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from myna.data.masking import read_marks
from myna.data.options import MaskingOptions
from myna.data.shards import Shard, write_shards
from myna.errors import UserError
from myna.evaluate import masked
from myna.evaluate.language import Text, shard_text
from myna.evaluate.masked import both_sides, draw_positions, guess, guess_from_both_sides, masked_loss, report_masked, validation_batches
from myna.evaluate.options import EvaluateOptions
from myna.models.directory import gather_tensors
from myna.models.encoder import Encoder, EncoderConfig
from myna.models.encoder_files import encoder_places
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.docs_code import load_block
from tests.evaluate.test_language import write_text
from tests.tokenizer.corpora import write_corpus


class Made(NamedTuple):
    tokenizer: Tokenizer
    shard: Shard
    ngram: Ngram
    model: Encoder

    @property
    def stream(self) -> np.ndarray:
        return np.append(self.tokenizer.separator_id, self.shard.ids).astype(np.int64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("masked")
    corpus = write_corpus(folder / "corpus", [write_text(i) for i in range(20)], [write_text(50)], [write_text(60), "", write_text(61)])
    tokenizer = train_tokenizer(corpus, TokenizerOptions(vocab_size=320, special_tokens=("<|mask|>", "<|cls|>")))
    (folder / "tokens").mkdir()
    write_shards(corpus, tokenizer, folder / "tokens")
    train, valid, test = (Shard.open(folder / "tokens", name) for name in ("train", "valid", "test"))
    ngram = fit_ngram(train.ids, valid.ids, tokenizer.vocab_size, tokenizer.separator_id, NgramOptions(order=3))
    return Made(tokenizer, test, ngram, encoder(tokenizer))


def encoder(tokenizer: Tokenizer, **changes: Any) -> Encoder:
    model = Encoder(EncoderConfig(**{"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": 2,
                                     "num_attention_heads": 2, "max_position_embeddings": 24, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.4, generator=generator)
            elif "norm" not in name:
                parameter.normal_(0, 0.1, generator=generator)
    return model.requires_grad_(False)


def test_scores_are_those_of_the_readable_version(made: Made) -> None:
    page = load_block("docs/families/encoder.md", 0)
    weights = {name: tensor.double().numpy() for name, tensor in gather_tensors(made.model, encoder_places(made.model.config)).items()}
    marks = read_marks(made.tokenizer)
    stream = made.stream[:15]
    framed = [marks.cls_id, *stream.tolist(), marks.separator_id]
    expected = page.pseudo_log_probs(weights, framed, marks.mask_id, 2, 2)
    found = guess(made.model, stream, np.arange(15), marks)
    np.testing.assert_allclose(found.log_probs, expected[1:-1], atol=1e-4)
    hidden = page.encode(weights, framed, 2, 2)
    np.testing.assert_allclose(made.model.encode(torch.tensor([framed]))[0].numpy(), hidden, atol=1e-4)


@pytest.mark.parametrize("at_once", [8192, 50])
def test_a_token_of_a_long_text_stands_in_the_middle_of_a_whole_context(made: Made, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked, "_TOKENS_AT_ONCE", at_once)
    marks, stream = read_marks(made.tokenizer), made.stream[:80]
    positions = np.array([0, 5, 11, 40, 70, 79])
    found = guess(made.model, stream, positions, marks)
    for number, position in enumerate(positions.tolist()):
        start = min(max(0, position - 11), 80 - 22)
        ids = torch.tensor([[marks.cls_id, *stream[start:start + 22].tolist(), marks.separator_id]])
        ids[0, position - start + 1] = marks.mask_id
        scores = made.model.masked_log_probs(ids)[position - start + 1]
        assert found.log_probs[number] == pytest.approx(scores[stream[position]], abs=1e-4)
        assert found.correct[number] == (scores.argmax() == stream[position])


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_n_gram_from_both_sides_is_its_own_posterior_of_the_hidden_token(made: Made, order: int) -> None:
    """p(w | the rest) is the joint probability of the text with w over the sum of the joint probabilities with any w."""
    train = np.append(made.shard.ids, made.shard.ids[::-1])
    model = fit_ngram(train, made.shard.ids, made.tokenizer.vocab_size, made.tokenizer.separator_id, NgramOptions(order=order))
    separator = made.tokenizer.separator_id
    text = np.array([*made.shard.ids[:12], separator])
    for place in (0, 1, 5, 11):
        joint = np.empty(model.vocab_size)
        for w in range(model.vocab_size):
            joint[w] = np.sum(model.log_probs([*text[:place], w, *text[place + 1:]]), dtype=np.float64)
        expected = joint - np.logaddexp.reduce(joint)
        found = both_sides(model, np.append(separator, text), place + 1)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.exp(found).sum() == pytest.approx(1)
    guesses = guess_from_both_sides(model, np.append(separator, text), np.array([6]))
    assert guesses.log_probs[0] == pytest.approx(both_sides(model, np.append(separator, text), 6)[text[5]])


def test_both_sides_guess_better_than_one(made: Made) -> None:
    stream = made.stream
    positions = np.flatnonzero(stream != made.tokenizer.separator_id)[:300]
    both = guess_from_both_sides(made.ngram, stream, positions)
    ids = stream[1:positions[-1] + 1].tolist()
    one = made.ngram.log_probs(ids)[[p - 1 for p in positions]]
    assert both.log_probs.mean() > one.mean() + 0.1 and both.correct.mean() > 0.2


def test_one_token_of_each_stretch_is_drawn() -> None:
    drawn = draw_positions(10_000, 100, seed=1)
    assert (drawn // 100 == np.arange(100)).all() and len(set((drawn % 100).tolist())) > 40
    np.testing.assert_array_equal(drawn, draw_positions(10_000, 100, seed=1))
    assert not np.array_equal(drawn, draw_positions(10_000, 100, seed=2))
    np.testing.assert_array_equal(draw_positions(7, 10, seed=0), np.arange(7))


def test_a_report_of_all_tokens(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    options = EvaluateOptions(resamples=200)
    report = report_masked(made.model, made.tokenizer, shard_text(made.shard), made.ngram, made.ngram.name, options, 10**6)
    assert "are hidden" not in capsys.readouterr().err
    assert list(report.metrics) == ["pseudo_bits_per_byte", "pseudo_perplexity", "masked_accuracy"]
    positions = np.flatnonzero(made.stream != made.tokenizer.separator_id)
    found = guess(made.model, made.stream, positions, read_marks(made.tokenizer))
    nats = -found.log_probs.mean(dtype=np.float64)
    assert report.metrics["pseudo_perplexity"].value == pytest.approx(np.exp(nats), rel=1e-5)
    bits = nats / np.log(2) * len(positions)
    assert report.metrics["pseudo_bits_per_byte"].value == pytest.approx(bits / made.shard.text_bytes, rel=1e-5)
    assert report.metrics["masked_accuracy"].value == found.correct.mean()
    assert all(score.low <= score.value <= score.high for score in report.metrics.values())
    beside = guess_from_both_sides(made.ngram, made.stream, positions)
    assert report.baseline_metrics["masked_accuracy"].value == beside.correct.mean()
    assert report.baseline == "3-gram, modified Kneser-Ney" and "significantly worse" in report.verdict()  # random weights
    assert report.improvements["pseudo_bits_per_byte"].value < 0 and report.improvements["masked_accuracy"].value < 0
    assert report.differences["masked_accuracy"].value == pytest.approx(found.correct.mean() - beside.correct.mean())


def test_a_sample_is_said_is_fixed_and_is_near_the_whole(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    text, options = shard_text(made.shard), EvaluateOptions(resamples=200, seed=3)
    report = report_masked(made.model, made.tokenizer, text, None, options=options, positions=400)
    tokens = int((made.shard.ids != made.tokenizer.separator_id).sum())
    assert f"400 of {tokens:,} tokens are hidden" in capsys.readouterr().err
    score = report.metrics["pseudo_bits_per_byte"]
    assert f"400of{tokens}tokens" in score.signature and report.baseline == ""
    assert report_masked(made.model, made.tokenizer, text, None, options=options, positions=400).metrics == report.metrics
    whole = report_masked(made.model, made.tokenizer, text, None, options=options, positions=10**6).metrics["pseudo_bits_per_byte"]
    assert score.value == pytest.approx(whole.value, rel=0.1)


def test_what_cannot_be_measured_is_one_line(made: Made, tmp_path: Path) -> None:
    text = shard_text(made.shard)
    with pytest.raises(UserError, match="resamples"):
        report_masked(made.model, made.tokenizer, text, options=EvaluateOptions(resamples=5))
    other = encoder(made.tokenizer, vocab_size=made.tokenizer.vocab_size + 64)
    with pytest.raises(UserError, match="the same tokenizer"):
        report_masked(other, made.tokenizer, text, made.ngram)
    short = Text(3, lambda tokenizer: iter([np.array(tokenizer.encode("the"))]))
    with pytest.raises(UserError, match="one block"):
        report_masked(made.model, made.tokenizer, short)
    empty = Text(0, lambda tokenizer: iter([]))
    with pytest.raises(UserError, match="one block"):
        report_masked(made.model, made.tokenizer, empty)
    unmasked = train_tokenizer(write_corpus(tmp_path / "c", ["abc " * 100]), TokenizerOptions(vocab_size=320))
    with pytest.raises(UserError, match="mask"):
        report_masked(made.model, unmasked, text)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_quick_loss_is_the_training_loss_of_a_fixed_sample(made: Made, pairs: bool) -> None:
    model = encoder(made.tokenizer, model_type="albert" if pairs else "bert")
    marks, options = read_marks(made.tokenizer), MaskingOptions(mask_probability=0.3)
    batches = validation_batches(made.shard.ids, 24, marks, options, pairs, tokens=600)
    again = validation_batches(made.shard.ids, 24, marks, options, pairs, tokens=600)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(batches, again, strict=True))
    measured = masked_loss(model, batches)
    summed = sum(float(model.loss(batch)[0]["masked_token"][0]) for batch in batches)
    counted = sum(model.counts(batch)["masked_token"] for batch in batches)
    assert sum(len(batch["input_ids"]) for batch in batches) == 25 and counted == pytest.approx(25 * 21.5 * 0.3, abs=13)
    assert measured["masked_loss"] == pytest.approx(summed / counted, rel=1e-5) and 0 <= measured["masked_accuracy"] < 0.5
    assert masked_loss(model, validation_batches(made.shard.ids[:3], 24, marks)) == {}
    assert len(validation_batches(made.shard.ids[:12], 24, marks)) == 1
