"""The model card: `README.md` of a model directory, with the front matter that the Hugging Face Hub reads.

Source: M. Mitchell et al., "Model Cards for Model Reporting" (2019), section 4, for what a card has to say; the Hub's "Model Cards"
page for the front matter. File names, notes and options come from users, so every value is escaped unless it is marked as
Markdown made here: none can end the front matter, open a tag or a link, or leave its table cell.

    write_card(Path("my-model"))          # my-model/README.md
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from myna.console import duration, human
from myna.files import write_atomic
from myna.metrics.report import Report, Score
from myna.models.adapter import is_adapter
from myna.models.families import CAUSAL
from myna.models.record import Record, read_record

FILES_SHOWN = 20  # own choice; all are in corpus/report.json
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_MARKUP = re.compile(r"[\\`*_\[\]<>|~&$:@]|(?<=[wW]{3})\.")  # what has a meaning inside a line, in CommonMark 0.31, GitHub's tables and
# bare links, and maths; a backslash before any punctuation makes it text (CommonMark, 2.4). No value stands at the start of a line.
_PIPELINES = {"encoder": "fill-mask", "encoder-decoder": "text2text-generation", "vectors": "feature-extraction"}  # the hub's words
_LANGUAGES = {"Han": "zh", "Kana": "ja", "Hangul": "ko"}  # scripts that tell the language; Latin and most others do not
_SHARE = 0.3  # own choice: of the text's bytes, from which a script names its language; Japanese is often half Han


class Markdown(str):
    """Text that is Markdown already and stands as it is."""


def write_card(folder: Path) -> Path:
    """Write `README.md` into a finished build directory and return its path. Raises UserError when the directory is none."""
    path = folder / "README.md"
    write_atomic(path, render(read_record(folder)))
    return path


def render(record: Record) -> str:
    """Return the card of a model directory as Markdown."""
    lineage = record.lineage
    entries = record.corpus.get("files") or lineage.get("inputs", [])
    ranked = sorted(entries, key=lambda e: -(e.get("bytes") or 0))
    return make_environment().get_template("card.md.jinja").render(
        record=record, lineage=lineage, plan=record.plan, actual=record.actual, tokens=record.tokens, language=_language(record.tokens),
        rows=score_rows(record.report), verdict=record.report.verdict(), files=ranked[:FILES_SHOWN], rest=len(ranked[FILES_SHOWN:]),
        count=len(entries), kept=sum(e.get("kept") or 0 for e in entries), bytes=sum(e.get("bytes") or 0 for e in entries),
        dropped=_dropped(entries), tags=["myna", record.model_type, *([record.family] if record.family != record.model_type else [])],
        causal=record.family in CAUSAL, tuned=record.myna.get("tuned") or {}, adapter=is_adapter(record.folder),
        pipeline=_PIPELINES.get(record.family, "text-generation"),
        command=shlex.join(["myna", *lineage.get("argv", [])[1:]]))


def make_environment() -> jinja2.Environment:
    """Return what cards are rendered with: everything shown is escaped, an unknown name is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=False, undefined=jinja2.StrictUndefined, finalize=escape,
                                     trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"human": human, "duration": duration, "quoted": quoted, "code": code, "shell": shell}
    return environment


def escape(value: Any) -> Any:
    """Make a value stand as plain text anywhere in Markdown: one line, no control characters, punctuation behind a backslash."""
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    return _MARKUP.sub(r"\\\g<0>", _UNPRINTABLE.sub(" ", value))


def quoted(value: str) -> Markdown:
    """Write a value as a YAML scalar or Python string in double quotes; a JSON string in ASCII is both."""
    return Markdown(json.dumps(value))


def shell(value: str) -> Markdown:
    """Write a value as one word of a command line, in a code block."""
    return Markdown(shlex.quote(_UNPRINTABLE.sub(" ", value)))


def code(value: str) -> Markdown:
    """Put a value into a fenced block that nothing in it can close (CommonMark 0.31, 4.5)."""
    text = "\n".join(_UNPRINTABLE.sub(" ", line) for line in value.splitlines())
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return Markdown(f"{fence}\n{text}\n{fence}")


def score_rows(report: Report) -> list[tuple[str, str, str]]:
    """Lay the scores out: metric, model, baseline."""
    beside = report.baseline_metrics
    return [(name.replace("_", " "), _shown(score), _shown(beside[name]) if name in beside else "")
            for name, score in report.metrics.items()]


def _shown(score: Score) -> str:
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _language(tokens: dict[str, Any]) -> str:
    """Name the language of the text where its script tells, else ''."""
    sizes = {name: row["bytes"] for name, row in tokens.get("scripts", {}).items()}
    if not sizes or sum(sizes.get(name, 0) for name in _LANGUAGES) < _SHARE * sum(sizes.values()):
        return ""
    if sizes.get("Kana", 0) > 0.1 * sizes.get("Han", 0):
        return _LANGUAGES["Kana"]
    return _LANGUAGES[max(_LANGUAGES, key=lambda name: sizes.get(name, 0))]


def _dropped(entries: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    total: Counter[str] = Counter()
    for entry in entries:
        total.update(entry.get("dropped") or {})
    return total.most_common()
