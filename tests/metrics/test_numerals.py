"""Numbers that are said alike are written alike, in Chinese and English; what is no number stays."""

from __future__ import annotations

import random

import pytest

from myna.metrics.numerals import fold_numbers
from myna.metrics.speech import Folding, character_error_rate, normalize_words, word_error_rate


@pytest.mark.parametrize(("text", "expected"), [
    ("一百二十三个人", "123个人"), ("二零二四年", "2024年"), ("三点五", "3.5"), ("百分之五", "5"), ("3万人", "30000人"), ("1.5万", "15000"),
    ("两千零五", "2005"), ("一百二", "120"), ("一千五", "1500"), ("一亿三千万", "130000000"), ("一万亿", "1000000000000"), ("十分", "10分"),
    ("老百姓", "老百姓"), ("千万别", "千万别"), ("一心一意", "1心1意"), ("twenty-three men", "23 men"), ("One hundred and one", "101"),
    ("one and two", "1 and 2"), ("nineteen eighty-four", "19 84"), ("five six seven", "5 6 7"), ("three hundred thousand", "300000"),
    ("one million two hundred thousand and five", "1200005"), ("hundreds of men", "hundreds of men"), ("1,000 men", "1000 men"),
    ("0.5 v1.2.3", "0.5 v1.2.3"), ("", "")])
def test_numbers_are_written_in_digits(text: str, expected: str) -> None:
    assert fold_numbers(text) == expected
    assert fold_numbers(expected) == expected


def chinese(number: int) -> str:
    """Say a number below 100,000,000 in full, the schoolbook way."""
    def four(value: int) -> str:
        said, gap = "", False
        for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
            digit, value = divmod(value, unit)
            if digit:
                said += ("零" if gap and said else "") + "零一二三四五六七八九"[digit] + name
                gap = False
            else:
                gap = True
        return said

    high, low = divmod(number, 10_000)
    return (four(high) + "万" if high else "") + ("零" if high and 0 < low < 1000 else "") + four(low)


def english(number: int) -> str:
    small = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
             "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if number < 20:
        return small[number]
    if number < 100:
        return tens[number // 10] + ("-" + small[number % 10] if number % 10 else "")
    if number < 1000:
        return small[number // 100] + " hundred" + (" and " + english(number % 100) if number % 100 else "")
    unit, name = (1000, "thousand") if number < 1_000_000 else (1_000_000, "million")
    return english(number // unit) + f" {name}" + (" " + english(number % unit) if number % unit else "")


def test_every_number_said_in_full_is_read_back() -> None:
    rng = random.Random(0)
    for number in [*range(1, 1300), *(rng.randrange(1, 10 ** rng.randrange(1, 9)) for _ in range(700))]:
        assert fold_numbers(chinese(number)) == str(number), chinese(number)
        assert fold_numbers(english(number)) == str(number), english(number)


def test_speech_is_compared_with_numbers_and_script_folded() -> None:
    opencc = pytest.importorskip("opencc")
    folding = Folding(numbers=True, to_simplified=opencc.OpenCC("t2s").convert)
    assert word_error_rate("他買了一百二十三本書", "他买了123本书", folding).rate == 0
    assert character_error_rate("他買了一百二十三本書", "他买了123本书").rate > 0.5
    assert normalize_words("Ｔwenty-three 個人", folding) == ["23", "个", "人"]
    assert "numbers=digits" in folding.signature and "variants=simplified" in folding.signature
    assert "numbers=as-written" in Folding().signature and "variants=kept" in Folding().signature
