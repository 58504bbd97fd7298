"""The batches of an encoder-decoder: a pure function of seed and step, with the shares asked for, from which the text comes back whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from myna.data.options import SpanOptions
from myna.data.order import Order
from myna.data.spans import NOTHING, SENTINELS, Spans, hide_spans
from myna.errors import UserError

SEPARATOR, MARKS = 0, list(range(900, 932))
ONLY = {"short": SpanOptions(1, 0, 0), "begin": SpanOptions(0, 1, 0), "blank": SpanOptions(0, 0, 1), "whole": SpanOptions(0, 0, 0)}


def stream(tokens: int = 5000, document: int = 170) -> np.ndarray:
    ids = np.random.default_rng(0).integers(1, 900, tokens).astype(np.uint16)
    ids[document - 1 :: document] = SEPARATOR
    ids[-1] = SEPARATOR
    return ids


def reader(context: int = 32, options: SpanOptions | None = None, seed: int = 0, **changes: int) -> Spans:
    return Spans(stream(**changes), context, seed, SEPARATOR, MARKS, options)


def kinds(made: Spans, count: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [made.row(number, start) for number, start in enumerate(made.order.starts(0, count).tolist())]


def restore(source: list[int], target: list[int]) -> list[int]:
    """Put what the target says in the place of each sentinel."""
    said: dict[int, list[int]] = {}
    for id in target:
        if id in MARKS:
            current = said.setdefault(id, [])
        else:
            current.append(id)
    assert list(said) == MARKS[: len(said)] and said.pop(MARKS[len(said) - 1]) == [SEPARATOR]
    assert [id for id in source if id in MARKS] == list(said)
    assert source.pop() == SEPARATOR
    return [id for mark in source for id in (said[mark] if mark in MARKS else [mark])]


def test_rows_are_a_function_of_seed_and_number_alone() -> None:
    whole = reader().read(0, 24)
    assert {name: values.shape for name, values in whole.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "decoder_input_ids", "labels"), (24, 32))
    assert all(values.dtype == np.int64 for values in whole.values())
    for rows in (1, 3, 8):
        made = reader()
        parts = [made.read(step, rows) for step in reversed(range(24 // rows))][::-1]
        for name, values in whole.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), values)
    assert not np.array_equal(reader(seed=1).read(0, 24)["labels"], whole["labels"])
    assert not np.array_equal(reader().read(7, 24)["labels"], whole["labels"])  # the next epoch has 156 windows: others


def test_shares_are_those_asked_for() -> None:
    counted = Counter(kind for kind, _, _ in kinds(reader(options=SpanOptions(0.3, 0.2, 0.1)), 4000))
    for kind, share in (("short", 0.3), ("begin", 0.2), ("blank", 0.1), ("whole", 0.4)):
        assert counted[kind] / 4000 == pytest.approx(share, abs=0.025)  # three standard deviations
    for name, options in ONLY.items():
        assert {kind for kind, _, _ in kinds(reader(options=options), 50)} == {name}


def test_every_target_follows_the_separator_and_is_aligned() -> None:
    batch = reader().read(3, 40)
    wanted = batch["labels"] != NOTHING
    assert (wanted.cumprod(1) == wanted).all() and wanted[:, 0].all()  # padding at the end alone
    assert (batch["decoder_input_ids"][:, 0] == SEPARATOR).all()
    inside = wanted[:, 1:]
    assert (batch["decoder_input_ids"][:, 1:][inside] == batch["labels"][:, :-1][inside]).all()
    mask = batch["attention_mask"]
    assert (mask.cumprod(1) == mask).all() and mask[:, 0].all() and (batch["input_ids"][mask == 0] == SEPARATOR).all()


@pytest.mark.parametrize("document", [170, 20])
def test_a_text_is_continued_from_what_stands_before_it_in_its_document(document: int) -> None:
    ids = stream(document=document)
    circle = np.concatenate((ids, ids, ids)).astype(np.int64)
    lengths = set()
    for options in (ONLY["whole"], ONLY["short"]):
        made = Spans(ids, 32, 0, SEPARATOR, MARKS, options)
        starts = made.order.starts(0, 300)
        for number, start in enumerate(starts.tolist()):
            kind, source, target = made.row(number, start)
            at = start + len(ids)
            assert target.tolist() == circle[at : at + 32].tolist()
            before, end = source[:-1], source[-1]
            assert before.tolist() == circle[at - len(before) : at].tolist() and end == SEPARATOR and len(before) <= 31
            assert (before != SEPARATOR).all()  # nothing of the document before
            if kind == "whole":
                assert len(before) == 31 or circle[at - len(before) - 1] == SEPARATOR
            elif circle[at - len(before) - 1] != SEPARATOR:
                lengths.add(len(before))
        assert len(np.unique(starts[: made.order.windows])) == min(300, made.order.windows)
    assert document == 20 or lengths == set(range(1, 32))


def test_a_beginning_is_that_of_a_document_where_there_is_one() -> None:
    ids = stream(document=50)
    made = Spans(ids, 32, 0, SEPARATOR, MARKS, ONLY["begin"])
    found = 0
    for number, start in enumerate(made.order.starts(0, 100).tolist()):
        _, source, target = made.row(number, start)
        assert source.tolist() == [SEPARATOR] and len(target) == 32
        document = start % 50
        if document == 0 or document > 50 - 32:
            first = start if document == 0 else start + 50 - document
            assert target.tolist() == np.concatenate((ids, ids))[first : first + 32].tolist()
            found += 1
        else:
            assert target.tolist() == np.concatenate((ids, ids))[start : start + 32].tolist()
    assert found > 40


@pytest.mark.parametrize("context", [8, 32, 128, 700])
def test_blanks_and_what_fills_them_give_back_the_text(context: int) -> None:
    made = reader(context, ONLY["blank"])
    order, ids = Order(5000, context, 0), np.concatenate((stream(), stream()))
    for number, start in enumerate(order.starts(0, 60).tolist()):
        _, source, target = made.row(number, start)
        window = ids[start : start + context - 1].astype(int).tolist()
        assert restore(source.tolist(), target.tolist()) == window
        hidden = sum(id not in MARKS for id in target.tolist()) - 1
        spans = sum(id in MARKS for id in source.tolist())
        assert hidden == max(1, round(0.15 * (context - 1))) and spans == min(31, max(1, round(hidden / 3)))
        assert source[0] not in MARKS and source[-2] in MARKS
        assert len(source) <= context and len(target) <= context


def test_spans_are_cut_in_every_way_as_often() -> None:
    """Of 41 less 1 tokens 6 are hidden in 2 spans: 5 ways to cut them."""
    counted = Counter(target.tolist().index(MARKS[1]) - 1 for _, _, target in kinds(reader(41, ONLY["blank"]), 3000))
    assert set(counted) == {1, 2, 3, 4, 5}
    assert all(count / 3000 == pytest.approx(0.2, abs=0.025) for count in counted.values())


def test_each_span_becomes_a_sentinel_and_one_more_ends_the_target() -> None:
    text = np.array([11, 12, 13, 14, 15, 16])  # the king is dead long live
    source, target = hide_spans(text, np.array([2, 2]), np.array([1, 1]), MARKS, SEPARATOR)
    assert source.tolist() == [11, 12, 900, 14, 15, 901, SEPARATOR]
    assert target.tolist() == [900, 13, 901, 16, 902, SEPARATOR]


def test_the_rows_are_the_same_on_every_machine() -> None:
    """Pinned: a checkpoint of an older version must go on with the rows it began with."""
    assert [kind for kind, _, _ in kinds(reader(), 8)] == KINDS
    source = reader(32, ONLY["blank"]).row(5, 100)[1]
    assert [at for at, id in enumerate(source.tolist()) if id in MARKS] == BLANKS


KINDS = ["whole", "whole", "short", "begin", "blank", "short", "short", "whole"]
BLANKS = [14, 27]


@pytest.mark.parametrize(("options", "context", "words"), [
    (SpanOptions(short_share=-0.1), 32, "short_share"), (SpanOptions(blank_share=1.5), 32, "blank_share"),
    (SpanOptions(0.5, 0.4, 0.3), 32, "at most 1"), (SpanOptions(noise_density=0), 32, "noise_density"),
    (SpanOptions(noise_density=1), 32, "noise_density"), (SpanOptions(mean_span_length=0.5), 32, "mean_span_length"),
    (SpanOptions(noise_density=0.97), 32, "noise_density"), (SpanOptions(), 4, "context of 4"),
    (SpanOptions(noise_density=float("nan")), 32, "noise_density"), (SpanOptions(begin_share=float("nan")), 32, "begin_share"),
], ids=str)
def test_options_that_cannot_be_are_refused(options: SpanOptions, context: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        reader(context, options)


def test_too_little_text_and_no_sentinels_are_refused() -> None:
    with pytest.raises(UserError, match="32 tokens"):
        reader(tokens=32)
    with pytest.raises(UserError, match="1 sentinels"):
        Spans(stream(), 32, 0, SEPARATOR, MARKS[:1])
    Spans(stream(), 32, 0, SEPARATOR, [], SpanOptions(blank_share=0)).read(0, 4)
    assert len(set(SENTINELS)) == 32
