"""One way to write a number that is said alike: 一百二十三, 123 and "one hundred and twenty-three" all become 123.

A transcript may write digits where the reference writes words; neither is an error of hearing. Both sides are folded before they are
compared, so a word that is only part of an idiom (一心一意) is folded on both and costs nothing. Chinese: whole numbers up to 亿, mixed
ones (3万), digits read one by one (二零二四), decimals (三点五) and per cent (百分之五). English: cardinals below a billion. Ordinals,
fractions and times of day stay as they are, and a year read in pairs stays a pair (19 84).

    fold_numbers("一百二十三个人")        # "123个人"
    fold_numbers("twenty-three men")     # "23 men"
"""

from __future__ import annotations

import re

_DIGITS = {"〇": 0, "两": 2, "兩": 2, **{character: value for value, character in enumerate("零一二三四五六七八九")}}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_DIGIT = "0-9" + "".join(_DIGITS)
_CHINESE = re.compile(f"(百分之)?([{_DIGIT}十][{_DIGIT}{''.join(_UNITS)}{''.join(_MYRIADS)}]*)(?:[点點.]([{_DIGIT}]+))?([万萬亿億]*)")
_LONGEST = 40  # characters of a number; a longer run is left as it is

_ONES = {word: value for value, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"))}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SCALES = {"thousand": 1000, "million": 10**6}
_NUMBER = "|".join((*_ONES, *_TENS, "hundred", *_SCALES))
_ENGLISH = re.compile(rf"\b(?:{'|'.join((*_ONES, *_TENS))})\b(?:(?:[ -]|(?<=hundred|housand|million) and )(?:{_NUMBER})\b)*", re.IGNORECASE)
_WORD = re.compile("[a-z]+")


def fold_numbers(text: str) -> str:
    """Write the numbers of a text in digits; what is no well-formed number stays."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,000
    return _ENGLISH.sub(lambda match: _read_english(match.group()), _CHINESE.sub(_fold_chinese, text))


# ---- Chinese ----

def _fold_chinese(match: re.Match[str]) -> str:
    whole, decimals, myriad = match[2], match[3] or "", match[4]
    if len(match[0]) > _LONGEST or (myriad and not decimals):
        return match[0]
    value = read_chinese(whole)
    if value is None:
        return match[0]
    if decimals:
        digits = _as_digits(decimals)
        if myriad:  # 1.5万
            scale = 1
            for character in myriad:
                scale *= _MYRIADS[character]
            return str(int(f"{value}{digits}") * scale // 10 ** len(digits))
        return f"{value}.{digits}"
    return value


def read_chinese(text: str) -> str | None:
    """Read a run of Chinese and Arabic numerals: its digits, or None where it is no number. Zeros in front are kept in a row of digits."""
    if not set(text) & (_UNITS.keys() | _MYRIADS.keys()):
        return _as_digits(text)
    total = section = 0
    digits, unit = "", 1  # digits that have no unit yet, the unit before them
    for character in text:
        if character in _MYRIADS:
            section += _lone(digits, unit)
            scale = _MYRIADS[character]
            total = (total + section) * scale if scale > 10**4 else total + section * scale  # 一万亿: the 亿 counts all before it
            if not total:
                return None
            section, digits, unit = 0, "", scale
        elif character in _UNITS:
            if len(digits.lstrip("0")) > 1 and not digits.isascii():
                return None
            section += (int(digits) if digits.strip("0") else 1 if character == "十" else 0) * _UNITS[character]
            if not section:
                return None
            digits, unit = "", _UNITS[character]
        else:
            digits += _as_digits(character)
    return str(total + section + _lone(digits, unit))


def _lone(digits: str, unit: int) -> int:
    """Return what the last digits stand for: after a unit a single one is of the next lower (一百二 is 120), after a zero it is not."""
    return int(digits) * (unit // 10 if unit >= 100 and len(digits) == 1 else 1) if digits else 0


def _as_digits(text: str) -> str:
    return "".join(str(_DIGITS.get(character, character)) for character in text)


# ---- English ----

def _read_english(text: str) -> str:
    """Write cardinals in digits. Where words do not join into one number (nineteen eighty) each number stands alone."""
    numbers: list[int] = []
    total = current = 0
    least = 10**9  # what comes next in the same number must be below: after twenty 1 to 9, after hundred 1 to 99
    started = False
    for word in _WORD.findall(text.lower()):
        if word == "and":
            continue
        if word == "hundred" or word in _SCALES:
            scale = _SCALES.get(word, 100)
            if scale == 100 and 0 < current < 100:
                current, least = current * 100, 100
                continue
            if scale > 100 and 0 < current < 1000:
                total, current, least = total + current * scale, 0, scale
                continue
            value = scale
        else:
            value = _ONES.get(word, _TENS.get(word, 0))
        if started and (value >= least or value == 0 or (current % 100 and value >= 10) or current % 10):
            numbers.append(total + current)
            total = current = 0
        current += value
        started, least = True, 10 if value in _TENS.values() else 1
    return " ".join(map(str, [*numbers, total + current]))
