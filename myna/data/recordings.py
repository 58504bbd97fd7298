"""Recordings with what is said in them: what speech recognition is measured on.

    rows       CSV, TSV, JSONL, JSON, Parquet: a column of paths (from the file's folder, or absolute) and one of texts
    folders    talk.wav beside talk.txt; or LibriSpeech's *.trans.txt, whose lines are a recording's name and its text

Sound files without a text, texts without a sound file, recordings that stand twice and empty texts are left out and counted.

    reading = read_recordings([Path("speech/")], RowsOptions())
    reading.recordings[0].path, reading.recordings[0].text, reading.notes.said()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.corpus.read import walk
from myna.data.conversations import Reading
from myna.data.options import RowsOptions
from myna.data.rows import FORMATS, format_of, read_rows
from myna.errors import UserError, nearest, shown

# usual names of columns, likeliest first, compared in small letters: those of Common Voice, LJ Speech, NeMo's manifests and such
_AUDIO = ("audio", "path", "file", "wav", "audio_path", "audio_filepath", "file_name", "filename", "clip", "recording", "录音", "音频")
_TEXTS = ("text", "sentence", "transcript", "transcription", "reference", "normalized_text", "文本", "转写")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_LIST = ".trans.txt"


@dataclass(frozen=True)
class Recording:
    """A sound file and what is said in it."""

    path: Path
    text: str
    where: str = ""
    "file:line of the text, or the text's file"


@dataclass
class RecordingReading:
    """What was read, and what is to be said of the reading."""

    recordings: list[Recording] = field(default_factory=list)
    notes: Reading = field(default_factory=Reading)


def read_recordings(paths: Sequence[Path], options: RowsOptions) -> RecordingReading:
    """Read files and folders. Raises UserError on a row that cannot be read unless `skip_bad`, and when no recording is left."""
    found = RecordingReading()
    files = list(walk(paths))
    there = {place.path for place in files}
    taken: set[Path] = set()
    unread: list[tuple[str, str]] = []
    for place in files:
        path = place.path
        if place.reason:
            unread.append((place.reason, place.name))
        elif path.name.endswith(_LIST):
            _take(_read_list(path, options, found.notes), taken, found)
        elif format_of(path) == "text" and path.suffix.lower() == ".txt":
            sound = next((path.with_suffix(end) for end in SOUNDS if path.with_suffix(end) in there), None)
            if sound is None and path in paths:
                raise UserError(f"{path}: a text alone", "recordings with their texts: a folder, or rows of path and text",
                                "`myna transcribe MODEL AUDIO --reference FILE` measures one recording")
            if sound is None:
                found.notes.note("texts without a recording of their name", place.name)
                continue
            text = "".join(str(row.value.get("text", "")) for row in read_rows(path))
            found.notes.formats["a text file beside each recording"] += 1
            _take(iter([Recording(sound, text.strip(), str(path))]), taken, found)
        elif format_of(path) and format_of(path) != "text":
            _take(_read_table(path, options, found.notes), taken, found)
        elif path.suffix.lower() not in SOUNDS:
            unread.append(("neither sound nor text", place.name))
    for reason, name in unread:
        if len(files) == 1:
            raise UserError(f"{name}: {reason}", f"a folder of recordings, or rows in one of {', '.join(FORMATS)}")
        found.notes.note(f"files not read: {reason}", name)
    for path in sorted(there - taken):
        if path.suffix.lower() in SOUNDS:
            found.notes.note("recordings without a text", str(path))
    if not found.recordings:
        raise UserError("no recording with a text is left" + "".join(f"; {line}" for line in found.notes.said()[:3]),
                        "name.wav beside name.txt, or rows with a path and a text")
    return found


def _take(given: Iterator[Recording], taken: set[Path], found: RecordingReading) -> None:
    """Take recordings once each, and those that have a text."""
    for one in given:
        if not one.text:
            found.notes.note("empty texts dropped", one.where)
        elif one.path in taken:
            found.notes.note("recordings that stand twice dropped", one.where)
        else:
            found.recordings.append(one)
        taken.add(one.path)


class _BadRowError(Exception):
    """A row that cannot be used, and why."""


def _bad(error: _BadRowError, where: str, options: RowsOptions, notes: Reading) -> None:
    """Count a bad row, or stop at it."""
    if not options.skip_bad:
        raise UserError(f"{where}: {error}", "a row with the path of a recording and a text",
                        "mend the row, or pass over such rows with --skip-bad") from None
    notes.note("bad rows passed over", where)


def _read_list(path: Path, options: RowsOptions, notes: Reading) -> Iterator[Recording]:
    """Read a list of LibriSpeech: a name without its ending, a space, a text."""
    text = "".join(str(row.value.get("text", "")) for row in read_rows(path))
    for number, line in enumerate(text.split("\n"), 1):
        name, _, said = line.strip().partition(" ")
        if not name:
            continue
        where = f"{path}:{number}"
        try:
            if Path(name).name != name:
                raise _BadRowError(f"{shown(name)} is no name of a recording beside it")
            sound = next((found for end in SOUNDS if (found := path.parent / f"{name}{end}").is_file()), None)
            if sound is None:
                raise _BadRowError(f"no {name}.flac or .wav beside it")
        except _BadRowError as error:
            _bad(error, where, options, notes)
            continue
        notes.formats[f"a list of names and texts (*{_LIST})"] += 1
        yield Recording(sound, said.strip(), where)


def _read_table(path: Path, options: RowsOptions, notes: Reading) -> Iterator[Recording]:
    columns: tuple[str, str] | None = None
    for row in read_rows(path):
        where = f"{path}:{row.line}"
        try:
            if row.problem:
                raise _BadRowError(row.problem)
            if columns is None or not set(columns) <= row.value.keys():
                columns = _find_columns(row.value, options, where)
            sound, text = _resolve(path.parent, row.value[columns[0]]), row.value[columns[1]]
            if not isinstance(text, str | None):
                raise _BadRowError(f"its text is {shown(text)}, no text")
        except _BadRowError as error:
            _bad(error, where, options, notes)
            continue
        notes.formats[f"audio: {columns[0]}, text: {columns[1]}"] += 1
        yield Recording(sound, (text or "").strip(), where)


def _find_columns(row: Mapping[str, Any], options: RowsOptions, where: str) -> tuple[str, str]:
    names = {str(name).strip().lower(): name for name in reversed(list(row))}
    listed = shown(", ".join(map(str, row)))
    audio = next((names[name] for name in _AUDIO if name in names), None)
    if audio is None:
        raise UserError(f"{where} has no column of recordings among {listed}", f"one called {', '.join(_AUDIO[:6])}", "rename the column")
    if options.text and options.text not in row:
        raise UserError(f"{where} has no column {options.text!r}{nearest(options.text, list(map(str, row)))}", f"one of {listed}",
                        "--text names it")
    text = options.text or next((names[name] for name in _TEXTS if name in names), None)
    if text is None:
        raise UserError(f"{where} has no column of texts among {listed}", f"one called {', '.join(_TEXTS[:5])}", "name it: --text COLUMN")
    return audio, text


def _resolve(folder: Path, name: Any) -> Path:
    """Find a recording that a row names, from the row's folder or (Common Voice) its folder `clips`."""
    if isinstance(name, dict):  # as `datasets` writes sound: {"path": ..., "bytes": ...}
        name = name.get("path")
    if not isinstance(name, str) or not name.strip() or "\x00" in name:
        raise _BadRowError(f"its recording is {shown(name)}, no path")
    for path in (folder / name.strip(), folder / "clips" / name.strip()):
        try:
            if path.is_file():
                return path
        except OSError:  # a name longer than any file's
            break
    raise _BadRowError(f"no recording {shown(name)} from {folder}")
