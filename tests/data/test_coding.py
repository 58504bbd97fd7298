"""Sources with their nearest example and targets, as ids and back."""

from __future__ import annotations

from myna.data.coding import SPECIAL_TOKENS, Coder, Example, align_example
from myna.data.placeholders import mask
from myna.tokenizer.train import learn_tokenizer

TEXTS = ["open the door of {name}", "打开 {name} 的门", "close the window", "关窗"]


def make(length: int = 64) -> Coder:
    return Coder(learn_tokenizer(TEXTS, 384, special_tokens=SPECIAL_TOKENS), length)


def test_a_target_comes_back_with_the_sources_placeholders() -> None:
    coder = make()
    coded = coder.encode_source("{a} and {b} and {a}")
    assert coded.masked.found == ("{a}", "{b}", "{a}") and coded.ids[-1] == coder.separator_id
    assert sum(id in coder.placeholders for id in coded.ids) == 3
    target = coder.encode_target("{b}和 {a} 门{a}", coded.masked)
    assert coder.decode(target, coded.masked) == "{b}和 {a} 门{a}"
    assert coder.decode([coder.placeholders[9], *target], coded.masked) == "{b}和 {a} 门{a}"  # none of the source's


def test_the_example_stands_beside_the_source_where_it_fits() -> None:
    coder = make()
    example = Example("close {x}", "关 {x}", 0.7)
    alone, beside = coder.encode_source("open {name}"), coder.encode_source("open {name}", example)
    assert beside.ids[: len(alone.ids) - 1] == alone.ids[:-1] and beside.ids[len(alone.ids) - 1] == coder.levels[2]
    assert beside.ids.count(coder.placeholders[0]) == 3  # the example's placeholder has the source's number
    assert coder.encode_source("open {name}", Example("close " * 40, "关", 0.7)).ids == alone.ids


def test_an_examples_placeholders_take_the_sources_numbers() -> None:
    source, target = align_example(Example("{c} of {b} in {d}", "{d} {b} {c}", 0.5), mask("{a} of {b}"))
    assert source.parts == (0, " of ", 1, " in ") and target.parts == (" ", 1, " ", 0)
