"""One report, three faces: JSON of the stated shape, a table that fits 80 columns, HTML that escapes."""

from __future__ import annotations

import io
import json

from rich.console import Console

from myna.metrics.report import Report, Score


def report(name: str = "6-gram, modified Kneser-Ney") -> Report:
    def score(value: float) -> Score:
        return Score(value, value - 0.05, value + 0.05, "how|v1")

    return Report({"bits_per_byte": score(1.837), "perplexity": score(61.25)}, name,
                  {"bits_per_byte": score(1.908), "perplexity": score(70.5)},
                  {"bits_per_byte": score(-0.071)}, {"bits_per_byte": score(3.72)})


def test_json_has_the_stated_shape_and_reads_back() -> None:
    value = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert list(value) == ["bits_per_byte", "perplexity", "bits_per_byte_difference", "bits_per_byte_improvement_percent", "baseline"]
    assert set(value["bits_per_byte"]) == {"value", "low", "high", "signature"}
    assert value["baseline"]["name"] == "6-gram, modified Kneser-Ney"
    assert value["baseline"]["bits_per_byte"]["value"] == 1.908
    assert Report.from_json(value) == report()
    alone = Report(report().metrics)
    assert "baseline" not in alone.to_json() and Report.from_json(alone.to_json()) == alone


def test_table_shows_model_beside_baseline_in_80_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(report().table())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if "│ bits per byte" in line)
    assert "1.837" in row and "1.908" in row and "-0.071" in row
    assert "[1.787, 1.887]" in out.getvalue() and "[61.20, 61.30]" in out.getvalue()
    assert "significantly better" in out.getvalue()


def test_brackets_in_a_name_are_no_markup() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(report("[red]x").table())
    assert out.getvalue().count("[red]x") == 2  # heading and verdict


def test_html_escapes_what_it_shows() -> None:
    fragment = report("<script>alert(1)</script>").html()
    assert "<script>" not in fragment and "&lt;script&gt;" in fragment
    assert "1.837" in fragment and "1.908" in fragment and "how|v1" in fragment


def test_verdict_without_a_baseline_says_so() -> None:
    assert "No baseline" in Report(report().metrics).verdict()


def test_a_baseline_without_an_error_is_not_called_missing() -> None:
    zero = Score(0.0, 0.0, 0.0, "word_error_rate|v1")
    report = Report({"word_error_rate": zero}, "greedy", {"word_error_rate": zero}, {"word_error_rate": zero})
    assert "greedy" in report.verdict() and "at 0" in report.verdict()
