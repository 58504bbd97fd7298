"""Recordings with their texts: rows, files side by side, lists; what is left out is counted, what is wrong is said in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.data.options import RowsOptions
from myna.data.recordings import RecordingReading, read_recordings
from myna.errors import UserError


def sounds(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"sound")
    return folder


def pairs(reading: RecordingReading) -> list[tuple[str, str]]:
    return [(one.path.name, one.text) for one in reading.recordings]


@pytest.mark.parametrize(("name", "text"), [
    ("rows.csv", "录音,文本\na.wav,你好\nsub/b.mp3,再见\n"), ("rows.tsv", "path\tsentence\na.wav\t你好\nsub/b.mp3\t再见\n"),
    ("rows.jsonl", '{"audio": {"path": "a.wav"}, "text": "你好"}\n{"audio": {"path": "sub/b.mp3"}, "text": "再见"}\n'),
    ("rows.json", json.dumps([{"file_name": "a.wav", "transcription": "你好"}, {"file_name": "sub/b.mp3", "transcription": "再见"}])),
    ("manifest.jsonl", '{"audio_filepath": "a.wav", "text": "你好"}\n{"audio_filepath": "sub/b.mp3", "text": "再见"}\n')])
def test_rows_name_recordings_from_their_folder(name: str, text: str, tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav", "sub/b.mp3")
    (tmp_path / name).write_text(text, encoding="utf-8")
    reading = read_recordings([tmp_path / name], RowsOptions())
    assert pairs(reading) == [("a.wav", "你好"), ("b.mp3", "再见")]
    assert reading.recordings[0].where == f"{tmp_path / name}:{2 if name.endswith('sv') else 1}"
    assert "2 rows" in reading.notes.said()[0]


def test_clips_of_common_voice_and_absolute_paths(tmp_path: Path) -> None:
    sounds(tmp_path, "clips/a.mp3", "b.wav")
    (tmp_path / "test.tsv").write_text(f"path\tsentence\na.mp3\tone\n{tmp_path / 'b.wav'}\ttwo\n", encoding="utf-8")
    assert pairs(read_recordings([tmp_path / "test.tsv"], RowsOptions())) == [("a.mp3", "one"), ("b.wav", "two")]


def test_files_side_by_side_and_lists_of_librispeech(tmp_path: Path) -> None:
    sounds(tmp_path, "1/84-1.flac", "1/84-2.flac", "talk.wav", "alone.wav", "notes.md")
    (tmp_path / "1" / "84.trans.txt").write_text("84-1 HE TOLD\n84-2 他說\n", encoding="utf-8")
    (tmp_path / "talk.txt").write_text("what is said\n", encoding="utf-8")
    (tmp_path / "lone.txt").write_text("nobody said", encoding="utf-8")
    reading = read_recordings([tmp_path], RowsOptions())
    assert pairs(reading) == [("84-1.flac", "HE TOLD"), ("84-2.flac", "他說"), ("talk.wav", "what is said")]
    said = "\n".join(reading.notes.said())
    for expected in ("1 recordings without a text", "alone.wav", "1 texts without a recording", "lone.txt", "neither sound nor text"):
        assert expected in said


def test_what_is_wrong_is_said_in_one_line_or_counted(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav", "b.wav")
    rows = tmp_path / "rows.csv"
    rows.write_text("audio,text\na.wav,one\nnone.wav,two\na.wav,again\nb.wav,\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.csv:3: no recording 'none\.wav'.*--skip-bad"):
        read_recordings([rows], RowsOptions())
    reading = read_recordings([rows], RowsOptions(skip_bad=True))
    said = "\n".join(reading.notes.said())
    assert pairs(reading) == [("a.wav", "one")]
    assert "1 bad rows passed over" in said and "1 recordings that stand twice" in said and "1 empty texts" in said
    for text, message in (("sound,text\na.wav,x\n", "no column of recordings"), ("audio,words\na.wav,x\n", "no column of texts"),
                          ("audio,text\n,x\n", "no path"), ("audio,text\nb.wav,\n", "no recording with a text is left")):
        rows.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_recordings([rows], RowsOptions())
    rows.write_text("audio,words\na.wav,字\n", encoding="utf-8")
    assert pairs(read_recordings([rows], RowsOptions(text="words"))) == [("a.wav", "字")]
    with pytest.raises(UserError, match="did you mean words"):
        read_recordings([rows], RowsOptions(text="word"))
    (tmp_path / "x.trans.txt").write_text("../../a text\n", encoding="utf-8")
    with pytest.raises(UserError, match="no name of a recording beside it"):
        read_recordings([tmp_path / "x.trans.txt"], RowsOptions())
    with pytest.raises(UserError, match="no recording with a text is left"):
        read_recordings([tmp_path / "a.wav"], RowsOptions())
    with pytest.raises(UserError, match="a text alone"):
        (tmp_path / "lone.txt").write_text("words", encoding="utf-8")
        read_recordings([tmp_path / "lone.txt"], RowsOptions())
