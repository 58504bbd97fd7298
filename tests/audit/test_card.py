"""The model card: front matter that the Hub can read, whatever the texts hold, and honest words under it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from myna.audit.card import code, escape, quoted, shell, write_card
from myna.metrics.report import Report
from tests.evaluate.directories import HOSTILE, make_report, write_directory


def front_matter(card: str) -> tuple[dict[str, object], str]:
    """Read the few shapes of YAML that the card uses: `key: value` and `key:` with a list of quoted words under it."""
    begin, matter, body = card.split("---\n", 2)
    assert begin == ""
    found: dict[str, object] = {}
    for line in matter.splitlines():
        if line.startswith("- "):
            listed = found[list(found)[-1]]
            assert isinstance(listed, list)
            listed.append(line[2:].strip('"'))
        else:
            key, _, value = line.partition(":")
            found[key] = value.strip().strip('"') or []
    return found, body


def test_front_matter_says_what_the_hub_reads(tmp_path: Path) -> None:
    matter, _ = front_matter(write_card(write_directory(tmp_path / "my-model")).read_text(encoding="utf-8"))
    assert matter == {"library_name": "myna", "pipeline_tag": "text-generation", "license": "unknown", "language": "zh",
                      "tags": ["myna", "qwen3", "decoder"]}


def test_the_card_has_scores_use_limits_and_lineage(tmp_path: Path) -> None:
    card = write_card(write_directory(tmp_path / "my-model")).read_text(encoding="utf-8")
    assert "| bits per byte | 1.837 (1.817 to 1.857) | 1.932 (1.912 to 1.952) |" in card
    assert "significantly better than its baseline" in card and "95 % intervals" in card
    for said in ("myna generate my-model", 'AutoModelForCausalLM.from_pretrained("my-model")', "It memorises", "no assistant",
                 "72 files, 1.5MB read, 1.4MB kept", "| duplicate | 70,000 |", "and 52 more", "has seen 1.6M tokens",
                 "| torch | 2.13.0 |", "| seed | 7 |", "myna build ", "ef" * 32):
        assert said in card, said


def test_an_n_gram_says_that_transformers_cannot_load_it(tmp_path: Path) -> None:
    card = write_card(write_directory(tmp_path / "m", family="ngram", report=Report(make_report().metrics))).read_text(encoding="utf-8")
    assert "An n-gram model" in card and "`transformers` and llama.cpp cannot load it" in card
    assert "AutoModel" not in card and "gguf" not in card and "No baseline was measured" in card


def test_hostile_text_cannot_leave_its_place(tmp_path: Path) -> None:
    folder = tmp_path / 'x" y: [1]\n---\n# owned\n```<b>'
    card = write_card(write_directory(folder, text=HOSTILE.replace("/", "∕"))).read_text(encoding="utf-8")
    matter, body = front_matter(card)
    assert set(matter) == {"library_name", "pipeline_tag", "license", "language", "tags"}
    fence, prose = "", []
    for line in body.splitlines():  # fenced blocks hold text as it is; what is left must have no markup of the hostile kind
        mark = re.match("`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif mark:
            fence = mark[0]
        elif not line.startswith("    "):
            prose.append(line)
    assert fence == ""
    assert not [line for line in prose if line.startswith("# owned") or re.match("-{3,}$", line)]
    assert not re.search(r"(?<!\\)(<script|<b>|\]\(javascript|\$\{)", "\n".join(prose))
    rows = [line for line in prose if "alert" in line and line.startswith("|")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)  # still three cells


@pytest.mark.parametrize(("value", "expected"), [
    ("a|b", r"a\|b"), ("[x](y) <b> `c` *d* _e_", r"\[x\](y) \<b\> \`c\` \*d\* \_e\_"), ("one\n# two\x1b[31m", r"one # two \[31m"),
    ("www.example.org", r"www\.example.org"), ("https://x", r"https\://x"), ("三国演义.txt", "三国演义.txt"), (3, 3)])
def test_escape_makes_plain_text(value: object, expected: object) -> None:
    assert escape(value) == expected


def test_a_fence_is_longer_than_any_in_it() -> None:
    assert code("a\n````\nb") == "`````\na\n````\nb\n`````"
    assert quoted('a"\n: 中') == '"a\\"\\n: \\u4e2d"'
    assert shell("a b'; rm\n") == "'a b'\"'\"'; rm '"


def test_language_is_said_only_when_the_script_tells(tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "m")
    report = folder / "tokens" / "report.json"
    report.write_text(report.read_text(encoding="utf-8").replace('"Han"', '"Latin"'), encoding="utf-8")
    assert "language" not in front_matter(write_card(folder).read_text(encoding="utf-8"))[0]
    report.write_text(report.read_text(encoding="utf-8").replace('"Latin"', '"Han"').replace('"punctuation"', '"Kana"'), encoding="utf-8")
    assert front_matter(write_card(folder).read_text(encoding="utf-8"))[0]["language"] == "ja"
