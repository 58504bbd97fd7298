"""What every `LanguageModel` promises, whatever is inside. A model joins by adding its factory to FACTORIES.

Exactly equal where the model computes the same numbers either way (n-gram); within 1e-4 where the order of additions may differ
(matrix products of other shapes).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from myna.models.attention_rnn import AttentionRnn, AttentionRnnConfig
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from myna.models.hmm import Hmm
from myna.models.int8 import quantize_decoder
from myna.models.mixture import Fitted, Mixture, write_mixture
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.models.pretrained import load_directory, load_model, save_model
from myna.models.protocol import LanguageModel
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.models.unbounded import fit_unbounded


class Case(NamedTuple):
    """A model, how to read it back from a directory, and how far equal numbers may be apart."""

    model: Any  # a LanguageModel
    save: Callable[[Path], object]
    open: Callable[[Path], LanguageModel]
    tolerance: float


def ngram(smoothing: str = "kneser_ney", order: int = 4, prune: tuple[int, ...] = ()) -> Case:
    rng = np.random.default_rng(1)
    ids = rng.choice(20, size=3000, p=np.arange(1, 21) / 210)
    ids[::37] = 0
    options = NgramOptions(order=order, smoothing=smoothing, prune=prune)  # type: ignore[arg-type]
    model = fit_ngram(np.append(ids, 0), np.append(ids[:300], 0), 21, 0, options)
    return Case(model, model.save, Ngram.open, 0)


def hmm() -> Case:
    rng = np.random.default_rng(1)
    parts = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5), 5), rng.dirichlet(np.ones(21), 5)
    model = Hmm(0, *(np.log(part) for part in parts), facts={})
    return Case(model, model.save, Hmm.open, 1e-6)


def unbounded() -> Case:
    rng = np.random.default_rng(1)
    ids = np.tile(rng.choice(np.arange(1, 21), size=600), 5)  # five times over, with changes: long contexts of several counts
    ids[rng.random(len(ids)) < 0.05] = 7
    ids[::97] = 0
    model = fit_unbounded(np.append(ids, 0), np.append(ids[:300], 0), 21, 0, base=ngram(order=2).model)
    return Case(model, model.save, load_model, 0)


def decoder(**changes: Any) -> Case:
    shape = {"vocab_size": 21, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 32, "max_position_embeddings": 32, **changes}
    model = Decoder(DecoderConfig(**shape)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # not the first weights, of which some are zero
        parameter.normal_(0, 0.2, generator=generator)
    return Case(model, lambda folder: save_model(model, folder, None), load_model, 1e-4)


def int8(**changes: Any) -> Case:
    """Rounded anew from the float32 weights that are saved."""
    full = decoder(**changes)
    return Case(quantize_decoder(full.model), full.save, lambda folder: load_model(folder, "int8"), full.tolerance)


def recurrent(model_type: str, **changes: Any) -> Case:
    shape = {"vocab_size": 21, "hidden_size": 24, "num_hidden_layers": 2, **changes}
    model = Recurrent(RecurrentConfig(model_type, **shape)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    return Case(model, lambda folder: save_model(model, folder, None), load_model, 1e-4)


def encoder_decoder(model_type: str, **changes: Any) -> Case:
    shape = {"vocab_size": 21, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32,
             **changes}
    config = EncoderDecoderConfig(**shape, model_type=model_type)
    return random_weights(EncoderDecoder(config), 0.2)


def attention_rnn(**changes: Any) -> Case:
    shape = {"vocab_size": 21, "hidden_size": 24, "max_position_embeddings": 32, **changes}
    return random_weights(AttentionRnn(AttentionRnnConfig(**shape)), 0.3)


def random_weights(model: Any, std: float) -> Case:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.requires_grad_(False).parameters():
        parameter.normal_(0, std, generator=generator)
    return Case(model, lambda folder: save_model(model, folder, None), load_model, 1e-4)


def mixture() -> Case:
    counted, trained = ngram(), decoder()
    members = [trained.model, counted.model]

    def save(folder: Path) -> None:
        trained.save(folder)
        counted.save(folder / "ngram")
        write_mixture(folder, ["decoder", "ngram"], [".", "ngram"], Fitted([0.4, 0.6], [1.0, 1.0], 1.0, 1))

    return Case(Mixture(members, ["decoder", "ngram"], [0.4, 0.6]), save, load_directory, 1e-4)


FACTORIES: dict[str, Callable[[], Case]] = {
    "ngram": ngram,
    "ngram-order-1": lambda: ngram(order=1),
    "ngram-witten-bell": lambda: ngram("witten_bell", 3),
    "ngram-stupid-backoff": lambda: ngram("stupid_backoff", 3),
    "ngram-pruned": lambda: ngram(prune=(0, 0, 1)),
    "hmm": hmm,
    "unbounded": unbounded,
    "decoder": decoder,
    "decoder-untied-one-group": lambda: decoder(tie_word_embeddings=False, num_key_value_heads=4),
    "decoder-llama": lambda: decoder(model_type="llama", attention_bias=True),
    "decoder-gpt2": lambda: decoder(model_type="gpt2", num_key_value_heads=4, head_dim=16),
    "decoder-int8": int8,
    "rnn": lambda: recurrent("rnn"),
    "lstm": lambda: recurrent("lstm"),
    "lstm-untied-narrow-embedding": lambda: recurrent("lstm", tie_word_embeddings=False, embedding_size=8, num_hidden_layers=1),
    "gru": lambda: recurrent("gru", dropout=0.5),
    "t5": lambda: encoder_decoder("t5", dropout=0.5),
    "t5-tied-with-a-start-of-its-own": lambda: encoder_decoder("t5", tie_word_embeddings=True, decoder_start_token_id=20, head_dim=12),
    "marian": lambda: encoder_decoder("marian", scale_embedding=True, num_decoder_layers=1),
    "bart": lambda: encoder_decoder("bart"),
    "mixture": mixture,
    "attention-rnn": attention_rnn,
    "attention-rnn-deep-untied": lambda: attention_rnn(num_hidden_layers=2, tie_word_embeddings=False, embedding_size=8, dropout=0.5),
}


@pytest.fixture(scope="module", params=FACTORIES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return FACTORIES[request.param]()


def close(a: Any, b: Any, case: Case) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=case.tolerance)


def documents(model: LanguageModel, count: int = 3, length: int = 9) -> list[list[int]]:
    rng = np.random.default_rng(2)
    return [[i for i in rng.integers(0, model.vocab_size, length).tolist() if i != model.separator_id] for _ in range(count)]


def test_every_row_is_a_distribution_over_the_whole_vocabulary(case: Case) -> None:
    model = case.model
    rows = model.step([[model.separator_id], [1, 2, 3], [model.vocab_size - 1]], model.start(3), last=True)
    assert rows.shape == (3, model.vocab_size) and rows.dtype == np.float32
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(-1), 1, atol=1e-5)


def test_log_probs_are_what_step_gave_each_id(case: Case) -> None:
    model = case.model
    for document in documents(model):
        scores = model.log_probs(document)
        assert scores.shape == (len(document),) and scores.dtype == np.float32
        at_once = model.step([[model.separator_id, *document]], model.start(), last=False)[0]
        close(at_once[np.arange(len(document)), document], scores, case)
        state, one_by_one = model.start(), []
        for id in [model.separator_id, *document]:
            one_by_one.append(model.step([[id]], state)[0])
        close(np.stack(one_by_one), at_once, case)
        assert state.lengths == [len(document) + 1]


def test_rows_of_other_lengths_and_in_other_order_change_nothing(case: Case) -> None:
    model = case.model
    rows = [row[:5 + b] for b, row in enumerate(documents(model))]
    alone = [model.step([row], model.start())[0] for row in rows]
    for order in ([0, 1, 2], [2, 0, 1]):
        state = model.start(3)
        together = model.step([rows[b] for b in order], state)
        assert state.lengths == [len(rows[b]) for b in order]
        close(together, np.stack([alone[b] for b in order]), case)
    padded = model.step(rows, model.start(3), last=False)
    for b, row in enumerate(rows):
        close(padded[b, len(row) - 1], alone[b], case)
        assert (padded[b, len(row):] == 0).all()


def test_future_ids_change_nothing(case: Case) -> None:
    model = case.model
    document = documents(model)[0]
    other = [*document[:4], *(1 + (i % (model.vocab_size - 1)) for i in document[4:])]
    assert other[4:] != document[4:]
    close(model.log_probs(document)[:4], model.log_probs(other)[:4], case)


def test_truncate_is_as_if_the_later_ids_had_never_been(case: Case) -> None:
    model = case.model
    first, second, third = documents(model)
    state = model.start(2)
    model.step([first, second], state)
    model.step([third[:2], third], state)
    state.truncate([len(first), 3])
    assert state.lengths == [len(first), 3]
    after = model.step([[5], [6, 7]], state)
    close(after[0], model.step([[*first, 5]], model.start())[0], case)
    close(after[1], model.step([[*second[:3], 6, 7]], model.start())[0], case)


def test_select_repeats_drops_and_reorders_rows_that_then_go_their_own_way(case: Case) -> None:
    model = case.model
    rows = documents(model)
    state = model.start(3)
    model.step(rows, state)
    state.select([2, 0, 2])
    assert state.lengths == [len(rows[2]), len(rows[0]), len(rows[2])]
    sources = [rows[2], rows[0], rows[2]]
    for more in ([[1], [2], [3]], [[4], [5], [6, 7]]):
        sources = [[*row, *ids] for row, ids in zip(sources, more, strict=True)]
        after = model.step(more, state)
        assert state.lengths == list(map(len, sources))
        close(after, np.stack([model.step([row], model.start())[0] for row in sources]), case)


def test_saved_and_opened_it_gives_the_same_bits(case: Case, tmp_path: Path) -> None:
    model = case.model
    case.save(tmp_path)
    again = case.open(tmp_path)
    assert (again.vocab_size, again.separator_id, again.max_length) == (model.vocab_size, model.separator_id, model.max_length)
    for document in documents(model):
        assert (again.log_probs(document) == model.log_probs(document)).all()


def test_a_row_takes_at_least_one_id(case: Case) -> None:
    with pytest.raises(ValueError):
        case.model.step([[1], []], case.model.start(2))


def test_a_document_without_ids_has_no_scores(case: Case) -> None:
    assert case.model.log_probs([]).shape == (0,)
