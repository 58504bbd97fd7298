"""Error rates: the readable ones of the documentation, jiwer's counts, Chinese, and intervals that hold the rate."""

from __future__ import annotations

import random

import pytest

from myna.errors import UserError
from myna.metrics.speech import (
    ErrorRate,
    character_error_rate,
    count_edits,
    find_edits,
    normalize_characters,
    normalize_words,
    speech_report,
    word_error_rate,
)
from tests.docs_code import load_block


def cases(count: int) -> list[tuple[list[str], list[str]]]:
    rng = random.Random(0)
    found = []
    for _ in range(count):
        words = [f"w{number}" for number in range(rng.choice([2, 5, 50]))]
        reference = rng.choices(words, k=rng.randint(1, 40))
        hypothesis = rng.choices(words, k=rng.randint(0, 40))
        if rng.random() < 0.5:  # near each other, as a transcript is
            hypothesis = [rng.choice(words) if rng.random() < 0.2 else word for word in reference if rng.random() < 0.8]
            for _ in range(rng.randint(0, 4)):
                hypothesis.insert(rng.randint(0, len(hypothesis)), rng.choice(words))
        found.append((reference, hypothesis))
    return found


def test_the_rate_is_that_of_the_documentation() -> None:
    error_rate = load_block("docs/families/whisper.md").error_rate
    for reference, hypothesis in cases(300):
        found = count_edits(reference, hypothesis)
        assert found.rate == pytest.approx(error_rate(reference, hypothesis))
        assert found.deletions - found.insertions == len(reference) - len(hypothesis)


def test_the_counts_are_those_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    for reference, hypothesis in cases(1000):
        theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        mine = count_edits(reference, hypothesis)
        assert (mine.substitutions, mine.deletions, mine.insertions) == (theirs.substitutions, theirs.deletions, theirs.insertions)
        assert mine.rate == pytest.approx(theirs.wer)


def test_the_edits_turn_the_one_into_the_other() -> None:
    for reference, hypothesis in cases(100):
        built: list[str] = []
        place = 0
        edits = find_edits(reference, hypothesis)
        for kind, at in edits:
            built += reference[place:at]
            place = at + (kind != "insertion")
            built += [] if kind == "deletion" else [hypothesis[len(built)]]
        assert built + reference[place:] == hypothesis and [at for _, at in edits] == sorted(at for _, at in edits)


@pytest.mark.parametrize(("text", "words"), [
    ("It\u2019s the \u201cbest\u201d of times\u2014well-known!", ["it's", "the", "best", "of", "times", "well", "known"]),
    ("'Quoted' DON'T \uff12\uff10 1,000", ["quoted", "don't", "20", "1", "000"]),
    ("今天天气\uff0c很好 GPT\uff14", ["今", "天", "天", "气", "很", "好", "gpt4"]),
    ("體 体", ["體", "体"]), ("  \n", []), ("caf\u00e9 cafe\u0301", ["caf\u00e9", "caf\u00e9"]),
])
def test_what_is_compared_is_as_the_signature_says(text: str, words: list[str]) -> None:
    assert normalize_words(text) == words
    assert normalize_characters(text) == list("".join(words))


def test_rates_of_texts() -> None:
    assert word_error_rate("It was the best of times", "it was a best of time") == ErrorRate(2, 0, 0, 6)
    assert character_error_rate("今天天气很好", "今天天汽好").rate == pytest.approx(2 / 6)
    assert word_error_rate("a", "a b c").rate == 2.0
    assert word_error_rate("", "").rate == 0.0 and word_error_rate("", "x").rate == float("inf")


def test_the_report_holds_the_rate_of_the_whole_and_says_how() -> None:
    reference = "it was the best of times it was the worst of times " * 40
    hypothesis = reference.replace("worst of times", "worst of time", 13) + "and more"
    report = speech_report([reference[:700], reference[700:]], [hypothesis[:700], hypothesis[700:]])
    score = report.metrics["word_error_rate"]
    assert 0 < score.low < score.value < score.high < 0.1 and "numbers=as-written" in score.signature
    assert speech_report([reference], [hypothesis]).metrics["word_error_rate"].value == pytest.approx(15 / 480)
    assert speech_report([reference], [reference]).metrics["word_error_rate"].value == 0
    with pytest.raises(UserError, match="2 words"):
        speech_report(["two words"], ["two words"])
    with pytest.raises(UserError, match="without words"):
        speech_report(["?"], ["two words"])
