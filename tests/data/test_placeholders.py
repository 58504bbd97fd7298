"""Placeholders are found whole, numbered alike in source and translation, and nothing else is taken for one."""

from __future__ import annotations

import random

import pytest

from myna.data.placeholders import find_placeholders, keeps_placeholders, mask


@pytest.mark.parametrize(("text", "found"), [
    ("Hello {name}, {{ user.name }}", ["{name}", "{{ user.name }}"]),
    ("{} of {0:>4d} at ${HOME} or $PATH", ["{}", "{0:>4d}", "${HOME}", "$PATH"]),
    ("%s has %(count)d, %1 and %1$s", ["%s", "%(count)d", "%1", "%1$s"]), ("100% sure, 5 % share, 3%share, %%", []),
    ("<b>粗体</b>和<br/>", ["<b>", "</b>", "<br/>"]), ("1 < 2 and 3 > 2", []), ("{% if x %}有{% endif %}", ["{% if x %}", "{% endif %}"]),
    ("见 https://example.org/a?b=1。再见", ["https://example.org/a?b=1"]), ("See (https://example.org/a).", ["https://example.org/a"]),
    ("[文档]({docs_url}).", ["{docs_url}"]), ("价格 $5", []),
])
def test_what_a_program_replaces_is_found(text: str, found: list[str]) -> None:
    assert find_placeholders(text) == found
    masked = mask(text)
    assert list(masked.found) == found and not masked.strange
    assert "".join(part if isinstance(part, str) else masked.found[part] for part in masked.parts) == text


def test_a_translation_has_the_numbers_of_its_source() -> None:
    source = mask("{a} from {b} to {a}")
    assert source.parts == (0, " from ", 1, " to ", 2)
    target = mask("从{b}到{a}，{c}，{a}", source.found)
    assert target.parts == ("从", 1, "到", 0, "，{c}，", 2) and target.strange == ("{c}",) and target.used == {0, 1, 2}
    assert mask("{a} {b} {c}", most=2) == (((0, " ", 1, " {c}")), ("{a}", "{b}"), ("{c}",))
    assert keeps_placeholders("{a} and {b}", "{b}和{a}") and not keeps_placeholders("{a}", "{a} {a}") and not keeps_placeholders("a", "$A")


def test_any_text_is_put_together_again() -> None:
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(generator.choice("{}%$<>()/ab 1门\nhtps:.") for _ in range(40))
        masked = mask(text)
        assert "".join(part if isinstance(part, str) else masked.found[part] for part in masked.parts) == text
