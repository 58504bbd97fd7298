"""The report page: complete, self-contained, safe whatever the texts are, and right about what it says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from myna.errors import UserError
from myna.evaluate.curves import Curves, Point, draw_curves, read_curves, smooth, ticks
from myna.evaluate.page import language, write_page
from myna.metrics.report import Report
from tests.evaluate.directories import CHINESE, HOSTILE, make_report, write_directory

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page's tags and text; fails when tags are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_page(write_directory(tmp_path_factory.mktemp("page") / "my-model")))


def test_the_headline_is_the_verdict(decoder: Page) -> None:
    headline = re.search("<h1>.*?</h1>", decoder.source)
    assert headline and "4.9 % fewer bits per byte than its n-gram baseline" in headline[0]
    assert "1.837 beside 1.932 bits per byte, on 70.0 kB of text it never saw (95 % interval 4.1 to 5.7 %)" in decoder.text


@pytest.mark.parametrize(("report", "headline", "interval"), [
    (make_report(2.0, 1.932), "3.5 % more bits per byte", "2.7 to 4.3 %"),
    (make_report(1.93, 1.935), "Not distinguishable", "−0.5 to +1.1 %"),
    (Report(make_report().metrics), "1.837 bits per byte", "no baseline")])
def test_the_headline_says_when_it_is_not_better(tmp_path: Path, report: Report, headline: str, interval: str) -> None:
    page = Page(write_page(write_directory(tmp_path / "m", report=report)))
    assert headline in page.text and interval in page.text


def test_everything_a_build_knows_is_on_the_page(decoder: Page) -> None:
    for said in (
            "bits per character", "6-gram, modified Kneser-Ney", "53.20", "[51.70, 54.70]", "bootstrap=2000", "23 %",  # scores
            "n-gram 1.933", "slower than planned", "predicted before step 1: 1.860", "2 min 52 s",  # curves
            "step 40", "step 200", "step 400", CHINESE[4:30], "First Citizen Speak, speak.",  # samples
            "3 min 0 s", "2 min 56 s", "−2 %", "871.0 MB", "32,832", "400 of 4,096 tokens", "2 heads of 32, 1 for keys and values",  # plan
            "72 files", "94.84 %", "duplicate", "2,800 characters", "24 in gb18030", "rejected: an image", "cut short", "22 more files",
            "cut into sections", "89.8 %", "405,403", "Han", "3.67", "512 tokens in the vocabulary",  # split, tokenizer
            "read and clean", "7.7 s", "2.13.0", f"myna build '{CHINESE}' --out my-model", "ef" * 32, "ab" * 32):  # time, lineage
        assert said in decoder.text, said
    assert decoder.text.count("chapter-") >= 50 and "chapter-000" not in decoder.text  # the smallest are only counted


def test_it_asks_no_server_for_anything_and_its_policy_says_so(decoder: Page) -> None:
    style = re.search("<style>(.*?)</style>", decoder.source, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(attributes["content"] for tag, attributes in decoder.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not {"script", "link", "img", "iframe", "object", "base", "form", "a"} & {tag for tag, _ in decoder.tags}
    for tag, attributes in decoder.tags:
        assert not [name for name in attributes if name in ("src", "href", "style") or name.startswith("on")], tag
    assert not re.search(r"https?:|url\((?!#)|@import", decoder.source)


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    page = Page(write_page(write_directory(tmp_path / '<img src=x onerror="1">&', text=HOSTILE)))
    assert "script" not in {tag for tag, _ in page.tags} and "img" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text  # as text


def test_an_n_gram_has_a_page_without_curves(tmp_path: Path) -> None:
    page = Page(write_page(write_directory(tmp_path / "m", family="ngram")))
    assert "transformers cannot load it" in page.text and "21.0k of length 3" in page.text and "30.5k" not in page.text
    assert "How it learned" not in page.text and "predicted" not in page.text


def test_a_directory_without_stage_reports_says_less(tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "m")
    for path in ("corpus/report.json", "corpus/split.json", "tokens/report.json", "ngram/config.json", "log.jsonl"):
        (folder / path).unlink()
    page = Page(write_page(folder))
    assert "4.9 % fewer" in page.text and "72 files" in page.text and "How it learned" not in page.text
    myna = json.loads((folder / "myna.json").read_text(encoding="utf-8"))
    (folder / "myna.json").write_text(json.dumps({"report": {}}), encoding="utf-8")
    assert "Not measured yet" in Page(write_page(folder)).text
    (folder / "myna.json").write_text(json.dumps({**myna, "report": {"bits_per_byte": 3}}), encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        write_page(folder)


@pytest.mark.parametrize(("text", "expected"), [
    (CHINESE, "zh-Hans"), ("話說天下大勢,分久必合,合久必分。", "zh-Hant"), ("吾輩は猫である。名前はまだ無い。", "ja"),
    ("나는 고양이로소이다", "ko"), ("First Citizen", ""), ("A word, 中, in English", ""), ("", ""), ("12 !", "")])
def test_language_chooses_the_glyphs(text: str, expected: str) -> None:
    assert language(text) == expected


def test_samples_carry_their_language(decoder: Page) -> None:
    assert {attributes["lang"] for tag, attributes in decoder.tags if attributes.get("class") == "sample"} == {"zh-Hans", ""}


def test_training_loss_becomes_bits_per_byte() -> None:
    row = {"event": "step", "step": 1, "loss": 2.0794415416798357, "learning_rate": 1.0, "seconds": 1.0}  # ln 8: three bits a token
    skipped = {**row, "step": 2, "loss": None}
    curves = read_curves([row, skipped, {"event": "valid", "step": 2, "bits_per_byte": 1.5, "seconds": 2.0}], 2.0, None)
    assert curves.training == [Point(1, pytest.approx(1.5), 1.0)] and curves.validation == [Point(2, 1.5, 2.0)]


def test_smoothing_keeps_a_straight_line_and_the_mean() -> None:
    line = [Point(step, 10.0 - 0.001 * step, float(step)) for step in range(1, 6001)]
    thinned, averaged = smooth(line)
    assert len(thinned) == 300 and thinned[-1].step == 6000
    inner = range(0, 300 - 12)
    assert [averaged[i].value for i in inner] == pytest.approx([thinned[i].value for i in inner])  # centred: it does not lag
    assert sum(p.value for p in thinned) / 300 == pytest.approx(sum(p.value for p in line) / 6000)
    assert smooth([]) == ([], [])


@pytest.mark.parametrize(("low", "high", "expected"), [(1.77, 2.9, [1.8, 2.0, 2.2, 2.4, 2.6, 2.8]), (0, 400, [0, 100, 200, 300, 400]),
                                                       (1, 2, [1.0, 1.2, 1.4, 1.6, 1.8, 2.0])])
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 6) == expected


@pytest.mark.parametrize("curves", [
    Curves([Point(1, 2.0, 0.5)], [Point(1, 2.1, 0.5)], [Point(1, 1.0, 0.5)], 1.9, 2.2), Curves([], [Point(5, 2.1, 0.5)], []),
    Curves([Point(1, 2.0, 0.1), Point(2, 2.0, 0.2)], [], [Point(1, 0.0, 0.1)]),
    Curves([Point(s, 3 / s, s) for s in range(1, 5000)], [], [])])
def test_the_shortest_runs_are_drawn_too(curves: Curves) -> None:
    svg = draw_curves(curves, 340, 320)
    numbers = [float(n) for n in re.findall(r'(?:x|y|cx|cy|x1|x2|y1|y2)="(-?[\d.]+)"', svg)]
    assert numbers and all(0 <= n <= 340 for n in numbers) and "nan" not in svg and "inf" not in svg
