"""The report of a build as one page: what was made, how good it is beside its baseline, from what, and how long it took.

`report.html` stands alone: no script, no request to any server, styles and drawings inside, and a content security policy that
lets a browser load nothing else. All texts are escaped by the template engine, since samples and file names come from users.

    write_page(Path("my-model"))          # my-model/report.html
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from myna.console import duration, human
from myna.evaluate.curves import Curves, draw_curves, read_curves
from myna.files import read_json, write_atomic
from myna.metrics.report import Report, Score
from myna.models.record import Record, read_record
from myna.tokenizer.scripts import SCRIPTS, script_ids

_FILES_SHOWN = 50  # own choice: what a person looks through; the rest is counted, and all of it is in corpus/report.json
_SAMPLE_CHARACTERS = 700
_WIDE, _NARROW = (800, 380), (340, 320)  # pixels of the chart on a desktop and on a phone
_MEANINGS = {
    "bits_per_byte": "Surprise per byte of text: 8 is knowing nothing. Divided by 8, the size to which such text could be packed"
                     " ({packed:.0f} %). Compares any two models.",
    "bits_per_character": "The same per character; a Chinese character is three bytes. Compares any two models.",
    "perplexity": "As unsure as picking from this many equally likely tokens each time. Compares models with the same tokenizer.",
}


def write_page(folder: Path) -> Path:
    """Write `report.html` into a finished build directory and return its path. Raises UserError when the directory is none."""
    record = read_record(folder)
    path, log = folder / "report.html", folder / "log.jsonl"
    rows: list[dict[str, Any]] = []
    if log.is_file():  # what has no training log was made without torch, and is described without it
        from myna.train.loop import read_log

        rows = read_log(log)
    write_atomic(path, render(record, rows))
    return path


def make_environment() -> jinja2.Environment:
    """Return what the pages are rendered with: everything shown is escaped, an unknown name is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": _size, "duration": _duration, "human": human, "language": language, "digest": _digest, "cut": _cut}
    return environment


def render(record: Record, log: Sequence[dict[str, Any]]) -> str:
    """Return the page of a model directory as HTML; log: the rows of log.jsonl."""
    curves = _curves(record, log)
    page = make_environment().get_template("page.html").render(
        record=record, myna=record.myna, plan=record.plan, actual=record.actual, lineage=record.lineage, tokens=record.tokens,
        report=record.report, verdict=_verdict(record), scores=_scores(record.report), span=lay_span(record.report, "bits_per_byte"),
        score_table=_table(record.report), curves=curves, wide=_draw(curves, *_WIDE), narrow=_draw(curves, *_NARROW),
        growth=_growth(log), tiles=_tiles(record), compared=_compared(record), shape=_shape(record), data=_data(record),
        command=shlex.join(["myna", *record.lineage.get("argv", [])[1:]]),
        slowest=max(record.myna.get("stages", {}).values(), default=0.0))
    # a lone half of a surrogate pair, as a file name may hold, is no character that a page can have
    return page.encode("utf-8", "replace").decode("utf-8")


def _verdict(record: Record) -> dict[str, str]:
    """Put the result in a headline: its tone (better, worse, even, alone), the words, and what stands under them."""
    report = record.report
    unseen = record.tokens.get("parts", {}).get("test", {}).get("bytes")
    text = f"{_size(unseen)} of text it never saw" if unseen else "text it never saw"
    if "bits_per_byte" not in report.metrics and report.improvements:
        gained = next(iter(report.improvements.values()))
        tone = "better" if gained.low > 0 else "worse" if gained.high < 0 else "even"
        words = {"better": "Better than", "worse": "Worse than", "even": "Not distinguishable from"}[tone]
        return {"tone": tone, "head": f"{words} its baseline: {report.baseline}", "under": f"{report.verdict()} Measured on {text}."}
    if "bits_per_byte" not in report.metrics:
        return {"tone": "alone", "head": "Not measured yet", "under": "No scores are kept in this directory."}
    value = report.metrics["bits_per_byte"].value
    gain = report.improvements.get("bits_per_byte")
    if gain is None:
        return {"tone": "alone", "head": f"{value:.3f} bits per byte", "under": f"Measured on {text}; no baseline stands beside it."}
    beaten = report.baseline if record.myna.get("tuned") else "its n-gram baseline"
    interval = f"95 % interval {_signed(gain.low)} to {_signed(gain.high)} %"
    beside = f"{value:.3f} beside {report.baseline_metrics['bits_per_byte'].value:.3f} bits per byte, on {text}"
    if gain.low > 0:
        interval = f"95 % interval {gain.low:.1f} to {gain.high:.1f} %"
        return {"tone": "better", "head": f"{gain.value:.1f} % fewer bits per byte than {beaten}",
                "under": f"{beside} ({interval})."}
    if gain.high < 0:
        interval = f"95 % interval {-gain.high:.1f} to {-gain.low:.1f} %"
        return {"tone": "worse", "head": f"{-gain.value:.1f} % more bits per byte than {beaten}",
                "under": f"{beside} ({interval})."}
    return {"tone": "even", "head": f"Not distinguishable from {beaten}",
            "under": f"{beside} (difference {_signed(gain.value)} %, {interval})."}


def _scores(report: Report) -> list[dict[str, Any]]:
    """List each metric with its scores and the line that says what it means."""
    packed = 100 * report.metrics["bits_per_byte"].value / 8 if "bits_per_byte" in report.metrics else 0.0
    return [{"name": name.replace("_", " "), "meaning": _MEANINGS.get(name, "").format(packed=packed)} for name in report.metrics]


def _table(report: Report) -> Markup:
    return Markup(report.html()) if report.metrics else Markup("")  # Report.html escapes what it shows


def lay_span(report: Report, metric: str) -> list[dict[str, Any]]:
    """Lay model and baseline on one axis of a metric: value and interval of each in percent of the width; nothing for one alone."""
    pairs = [("model", "this model", report.metrics.get(metric)), ("baseline", report.baseline, report.baseline_metrics.get(metric))]
    known: list[tuple[str, str, Score]] = [(kind, name, score) for kind, name, score in pairs if score is not None]
    if len(known) < 2:
        return []
    low, high = min(s.low for _, _, s in known), max(s.high for _, _, s in known)
    room = max(high - low, 1e-6)

    def place(value: float) -> float:
        return round(6 + 88 * (value - low) / room, 2)

    return [{"kind": kind, "name": name, "score": s, "low": place(s.low), "value": place(s.value), "width": place(s.high) - place(s.low)}
            for kind, name, s in known]


def _tiles(record: Record) -> list[tuple[str, str]]:
    """Choose the few numbers that stand at the top."""
    totals, actual = record.corpus.get("totals", {}), record.actual
    found = [(human(record.parameters), "n-grams and weights" if record.family in ("ngram", "unbounded") else "parameters"),
             (_size(totals["kept"]) if totals else "", "of cleaned text"),
             (_duration(actual["seconds"]) if "seconds" in actual else "", "of training"),
             (_duration(actual["total_seconds"]) if "total_seconds" in actual else "", "from text to report"),
             (_size(actual["peak_bytes"]) if "peak_bytes" in actual else "", "of memory at most")]
    return [(value, label) for value, label in found if value]


def _compared(record: Record) -> list[dict[str, str]]:
    """Set what the plan predicted beside what came."""
    predicted, actual = record.plan.get("predicted", {}), record.actual
    rows = (("training time", "seconds", _duration), ("time of a step", "seconds_per_step", _duration),
            ("peak memory", "peak_bytes", _size), ("bits per byte, validation", "bits_per_byte", "{:.3f}".format))
    return [{"name": name, "predicted": show(predicted[key]), "actual": show(actual[key]),
             "off": f"{_signed(100 * (actual[key] / predicted[key] - 1), 0)} %" if predicted[key] else ""}
            for name, key, show in rows if key in predicted and key in actual]


def _shape(record: Record) -> list[tuple[str, str]]:
    """Describe the model in its config's words."""
    opened = "opens in transformers" if record.in_transformers else "Myna's own; transformers cannot load it"
    mixed = " + ".join(f"{weight:.2f} {name}" for name, weight in record.mixture)
    rows = [("type", f"{record.kind} ({record.model_type}; {opened})"), *record.shape, ("mixture", mixed), *_run(record)]
    return [(name, value) for name, value in rows if value]


def _run(record: Record) -> list[tuple[str, str]]:
    plan, steps = record.plan, record.actual.get("steps")
    if not plan:
        return []
    return [("steps", f"{steps or plan['steps']:,} of {plan['batch_rows'] * plan['context']:,} tokens"),
            ("precision", f"{plan['precision']} products, float32 weights" + (", compiled" if plan["compile"] else "")),
            ("machine", f"{plan.get('machine', {}).get('cpu', '')}, {plan['threads']} threads")]


def _curves(record: Record, log: Sequence[dict[str, Any]]) -> Curves | None:
    """Read the curves; None when nothing was trained step by step."""
    train = record.tokens.get("parts", {}).get("train", {})
    if not train.get("tokens"):
        return None
    predicted = record.plan.get("predicted", {})
    curves = read_curves(log, train["bytes"] / train["tokens"], _baseline(record), predicted.get("bits_per_byte"))
    return curves if curves.training or curves.validation else None


def _draw(curves: Curves | None, width: int, height: int) -> Markup:
    return Markup(draw_curves(curves, width, height)) if curves else Markup("")


def _baseline(record: Record) -> float | None:
    """Work out the n-gram's bits per byte on the validation split from what it wrote down when its order was chosen."""
    valid, path = record.tokens.get("parts", {}).get("valid", {}), record.folder / "ngram" / "config.json"
    tried = read_json(path).get("tried", []) if path.is_file() else []
    if not tried or not valid.get("bytes"):
        return None
    return float(min(row["bits_per_token"] for row in tried) * valid["tokens"] / valid["bytes"])


def _growth(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the first, the middle and the last sample of training, each with the score of that step."""
    rows = [row for row in log if row["event"] == "sample"]
    chosen = [rows[i] for i in sorted({0, (len(rows) - 1) // 2, len(rows) - 1})] if rows else []
    scores = {row["step"]: row.get("bits_per_byte") for row in log if row["event"] == "valid"}
    return [{**row, "bits_per_byte": scores.get(row["step"])} for row in chosen]


def _data(record: Record) -> dict[str, Any]:
    """Sum up where the text came from; of the files, those that had trouble and the largest are shown, at most 50 of each."""
    entries = record.corpus.get("files") or record.lineage.get("inputs", [])
    total, kept = sum(e.get("bytes") or 0 for e in entries), sum(e.get("kept") or 0 for e in entries)
    root = _common_folder([e["path"] for e in entries])
    ranked = [{**e, "short": e["path"].removeprefix(root), "kind": _format(e), "largest": _sum([e.get("dropped")]).most_common(1)}
              for e in sorted(entries, key=lambda e: -(e.get("bytes") or 0))]
    shown, rest = ranked[:_FILES_SHOWN], ranked[_FILES_SHOWN:]
    trouble = [e for e in ranked if e["status"] != "ok"][:_FILES_SHOWN]
    dropped, rewritten = _sum(e.get("dropped") for e in entries), _sum(e.get("rewritten") for e in entries)
    return {"bytes": total, "kept": kept, "root": root, "files": shown, "trouble": trouble, "count": len(entries), "rest": len(rest),
            "rest_bytes": sum(e.get("bytes") or 0 for e in rest), "dropped": dropped.most_common(), "rewritten": rewritten.most_common(),
            "documents": sum(e.get("documents") or 0 for e in entries),
            "formats": _counted(_format(e) for e in entries), "encodings": _counted(e.get("encoding", "") for e in entries),
            "status": _counted(e.get("status", "") for e in entries), "split": record.split, "parts": _parts(record)}


def _parts(record: Record) -> list[dict[str, Any]]:
    """Set bytes, documents and tokens of each part of the split side by side."""
    tokens, split = record.tokens.get("parts", {}), record.split
    rows = [{"name": name, **{key: {**split.get(name, {}), **tokens.get(name, {})}.get(key, 0) for key in ("bytes", "documents", "tokens")}}
            for name in ("train", "valid", "test") if name in split or name in tokens]
    total = sum(row["bytes"] for row in rows)
    return [{**row, "share": row["bytes"] / total if total else 0.0} for row in rows]


def _format(entry: dict[str, Any]) -> str:
    return ".".join(part for part in (entry.get("format", ""), entry.get("compression", "")) if part)


def _sum(counts: Iterable[dict[str, int] | None]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count or {})
    return total


def _counted(names: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(name for name in names if name).most_common()


def _common_folder(paths: Sequence[str]) -> str:
    """Find the folder that all paths share, with its last slash, so that it is shown once."""
    folders = [os.path.dirname(path) for path in paths]  # noqa: PTH120 (text, not a path of this machine)
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # absolute and relative paths, or none
        return ""
    return common.rstrip("/") + "/" if common else ""


def language(text: str) -> str:
    """Name the language a browser should choose glyphs for: zh-Hans, zh-Hant, ja, ko, or '' when the script does not tell."""
    counts = dict(zip(SCRIPTS, np.bincount(script_ids(text), minlength=len(SCRIPTS)).tolist(), strict=True))
    letters = sum(count for name, count in counts.items() if name not in ("space", "punctuation", "digits", "symbols", "other"))
    han, kana, hangul = counts["Han"], counts["Kana"], counts["Hangul"]
    if han + kana + hangul <= 0.3 * letters or not letters:
        return ""
    if hangul > han + kana:
        return "ko"
    if kana > 0.1 * (han + kana):
        return "ja"
    # characters that only one of the two national character sets has: GB 2312 is simplified, Big5 traditional
    simplified, traditional = (len(text.encode(codec, "ignore").decode(codec)) for codec in ("gb2312", "big5"))
    return "zh-Hant" if traditional > simplified else "zh-Hans"


def _digest(style: str) -> str:
    return base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode()


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SAMPLE_CHARACTERS else text[:_SAMPLE_CHARACTERS].rstrip() + " …"


def _size(count: float) -> str:
    """Write bytes: 1234567 is '1.2 MB'."""
    text = human(count)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def _duration(seconds: float) -> str:
    """Write seconds, with tenths or thousandths where they matter."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _signed(number: float, digits: int = 1) -> str:
    text = f"{number:+.{digits}f}".replace("-", "−")
    return text[1:] if not float(f"{number:.{digits}f}") else text
