"""`myna show DIR`: what a model is, from what it was made and how good it is; also of a cleaned corpus or its tokens.

    myna show my-model
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.cli.main import Parser, existing
from myna.console import duration, human, printable
from myna.errors import UserError

if TYPE_CHECKING:
    from myna.models.record import Record

_SHOWN = 3  # reasons, files or notes on a line


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna show`."""
    parser.add_argument("directory", metavar="DIR", help="a model directory, a cleaned corpus, a tokens directory or an index")


def run(args: argparse.Namespace) -> int:
    """Describe the directory without loading the model."""
    from myna.models.fetched import resolve_model
    from myna.tasks.record import has_task_record

    folder = existing(str(resolve_model(args.directory)))
    try:
        if (folder / "text.utf8").is_file() and (folder / "documents.npy").is_file():
            value, lines, table = _corpus(folder)
        elif (folder / "train.bin").is_file() and (folder / "report.json").is_file():
            value, lines, table = _tokens(folder)
        elif (folder / "index.json").is_file():
            value, lines, table = _index(folder)
        elif has_task_record(folder):
            value, lines, table = _task(folder)
        else:
            value, lines, table = _model(folder)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:  # a file that Myna did not write so
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error})", "a directory as Myna writes it",
                        "restore it or make it again") from None
    if args.json:
        print(json.dumps(value, ensure_ascii=False))
        return 0
    for line in lines:
        print(printable(line))
    if table is not None:
        from rich.console import Console

        Console(width=80).print(table)
    return 0


def _index(folder: Path) -> tuple[dict[str, Any], list[str], Any]:
    from myna.retrieval.index import Index

    index = Index.open(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    value = {"kind": "index", "files": len(index.files), "passages": int((~index.deleted).sum()), "bytes": size,
             "passage_bytes": index.options.passage_bytes, "encoder": index.options.encoder}
    vectors = f"words, and vectors of {index.options.encoder}" if index.encoder else "words alone"
    return value, [f"an index of {value['files']:,} files, {value['passages']:,} passages of at most {index.options.passage_bytes:,} bytes",
                   f"found by: {vectors}", f"on disk: {human(size)}B", f'next: myna search {folder} "..."'], None


def _task(folder: Path) -> tuple[dict[str, Any], list[str], Any]:
    from myna.tasks.record import read_task_record

    record = read_task_record(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    value = {"kind": "task", "task": record.task, "base": record.base, "bytes": size, "report": record.report.to_json(),
             "said": record.said, "lineage": record.lineage}
    rows = [("size", f"{human(size)}B"), ("data", ", ".join(str(file.get("path", "")) for file in record.files[:_SHOWN])),
            ("took", duration(record.seconds) if record.seconds else "")]
    lines = [f"{record.name}: for {record.task}, begun with {record.base or 'nothing'}", *_rows(rows),
             *(f"  {line}" for line in record.said), f"next: myna {record.task} {folder} {record.command}".rstrip()]
    return value, lines, record.report.table() if record.report.metrics else None


def _model(folder: Path) -> tuple[dict[str, Any], list[str], Any]:
    from myna.models.precision import read_measured
    from myna.models.record import read_record

    record, measured = read_record(folder), read_measured(folder)
    report = record.report
    value = {"kind": "model", "model_type": record.model_type, "family": record.family, "parameters": record.parameters,
             "vocab_size": record.vocab_size, "context": record.context, "files": record.files, "mixture": dict(record.mixture),
             "report": report.to_json(), "lineage": record.lineage, "plan": record.plan, "actual": record.actual}
    if measured:
        value["precision"] = {name: one._asdict() for name, one in measured.items()}
    if record.adapter is not None:
        value["adapter"] = {"base": record.adapter.base, "base_sha256": record.adapter.base_sha256, "rank": record.adapter.rank,
                            "scale": record.adapter.scale, "targets": record.adapter.targets, "parameters": record.adapter.parameters}
    size = f"{human(sum(record.files.values()))}B in {len(record.files)} files"
    shape = ", ".join(f"{name} {value}" for name, value in record.shape if name != "parameters" and value)
    rows = [("shape", shape), ("base", record.adapter.base if record.adapter else ""), ("mixture", _mixture(record)),
            ("vocabulary", f"{record.vocab_size:,} tokens"), ("size", size),
            ("text", _text(record)), ("split", _split(record.split)), ("planned", _planned(record)),
            ("trained", _trained(record)), ("made by", _made(record)),
            ("precision", "; ".join(one.say(name) for name, one in measured.items()))]
    lines = [f"{record.name}: {_kind(record)}", *_rows([("opens in", _opened(record)), *rows])]
    if record.alone:
        lines += textwrap.wrap(record.alone, 78, initial_indent="  ", subsequent_indent="  ")
    if not report.metrics:
        lines += ["", "No scores are kept here: measure it with `myna evaluate`."]
    return value, lines, report.table() if report.metrics else None


def _kind(record: Record) -> str:
    size = f" of {human(record.parameters)} parameters" if record.family not in ("ngram", "unbounded") else ""
    return f"{record.kind}{size}"


def _opened(record: Record) -> str:
    if record.adapter is not None:
        return f"Myna, and transformers with peft (model_type {record.model_type})"
    return f"Myna{' and transformers' if record.in_transformers else '; transformers cannot load it'} (model_type {record.model_type})"


def _mixture(record: Record) -> str:
    return " + ".join(f"{weight:.2f} {name}" for name, weight in record.mixture)


def _text(record: Record) -> str:
    totals = record.corpus.get("totals")
    if not totals:
        inputs = record.lineage.get("inputs", [])
        return f"{len(inputs):,} files, {human(sum(e.get('kept') or 0 for e in inputs))}B kept" if inputs else ""
    return f"{totals['files']:,} files, {human(totals['bytes'])}B read, {human(totals['kept'])}B kept{_reasons(totals['dropped'])}"


def _split(split: dict[str, Any]) -> str:
    return ", ".join(f"{name} {human(split[name]['bytes'])}B" for name in ("train", "valid", "test") if name in split)


def _trained(record: Record) -> str:
    actual = record.actual
    if "seconds" not in actual:
        return ""
    steps = f"{actual['steps']:,} steps in " if "steps" in actual else ""
    memory = f", {human(actual['peak_bytes'])}B of memory at most" if "peak_bytes" in actual else ""
    bits = f", {actual['bits_per_byte']:.3f} bits per byte on valid" if "bits_per_byte" in actual else ""
    return f"{steps}{duration(actual['seconds'])}{memory}{bits}"


def _planned(record: Record) -> str:
    predicted = record.plan.get("predicted")
    if not predicted:
        return ""
    bits = f", {predicted['bits_per_byte']:.3f} bits per byte on valid" if "bits_per_byte" in predicted else ""
    return f"{record.plan['steps']:,} steps in {duration(predicted['seconds'])}, {human(predicted['peak_bytes'])}B of memory{bits}"


def _made(record: Record) -> str:
    lineage = record.lineage
    if "seed" not in lineage:
        return ""
    return f"Myna {lineage.get('versions', {}).get('myna', '?')}, seed {lineage['seed']}, {lineage.get('threads', '?')} threads"


def _corpus(folder: Path) -> tuple[dict[str, Any], list[str], Any]:
    from myna.files import read_json

    report, path = read_json(folder / "report.json"), folder / "split.json"
    totals, split = report["totals"], read_json(path) if path.is_file() else {}
    value = {"kind": "corpus", "totals": totals, "split": split}
    status = ", ".join(f"{count:,} {name}" for name, count in totals["status"].items())
    rows = [("files", f"{totals['files']:,} ({status})"),
            ("text", f"{totals['documents']:,} documents, {human(totals['bytes'])}B read, {human(totals['kept'])}B kept"),
            ("dropped", _counts(totals["dropped"], "B")), ("rewritten", _counts(totals["rewritten"], " characters")),
            ("split", _split(split) or "none: the text is too small for it")]
    trouble = [entry for entry in report["files"] if entry["status"] != "ok"]
    rows += [(entry["status"], f"{entry['path']}: {entry['reason']}") for entry in trouble[:_SHOWN]]
    if len(trouble) > _SHOWN:
        rows.append(("", f"and {len(trouble) - _SHOWN:,} more, all in {folder / 'report.json'}"))
    return value, [f"{folder.resolve().name}: a cleaned corpus", *_rows(rows), *(f"  {said}" for said in split.get("said", []))], None


def _tokens(folder: Path) -> tuple[dict[str, Any], list[str], Any]:
    from myna.cli.tokenize import table
    from myna.files import read_json

    report = read_json(folder / "report.json")
    return {"kind": "tokens", **report}, [f"{folder.resolve().name}: a corpus as tokens", "", *table(report)], None


def _reasons(dropped: dict[str, int]) -> str:
    return f"; dropped: {_counts(dropped, 'B')}" if dropped else ""


def _counts(counts: dict[str, int], unit: str) -> str:
    shown = [f"{name} {human(count)}{unit}" for name, count in list(counts.items())[:_SHOWN]]
    return ", ".join([*shown, *([f"{len(counts) - _SHOWN} more reasons"] if len(counts) > _SHOWN else [])])


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    """Lay names and values out in 80 columns, long values on several lines."""
    return [line for name, value in rows if value
            for line in textwrap.wrap(value, 80, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14, break_on_hyphens=False)]
