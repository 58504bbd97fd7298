"""Subtitles: the forms that players read, times beyond an hour, signs that WebVTT reserves."""

from __future__ import annotations

from pathlib import Path

import pytest

from myna.cli.main import main
from myna.tasks.subtitles import format_transcript
from myna.tasks.transcribe import Segment, Transcript
from tests.tasks.whispers import write_noise, write_whisper

TALK = Transcript([Segment(0, 5.08, " It was the best of times,"), Segment(3661.5, 3663.0004, " 一 < 二 & 三")], seconds=3700)


def test_srt_numbers_its_sentences_and_has_a_comma() -> None:
    assert format_transcript(TALK, "srt") == ("1\n00:00:00,000 --> 00:00:05,080\nIt was the best of times,\n\n"
                                              "2\n01:01:01,500 --> 01:01:03,000\n一 < 二 & 三\n")


def test_vtt_has_its_word_a_point_and_html_signs() -> None:
    assert format_transcript(TALK, "vtt") == ("WEBVTT\n\n00:00:00.000 --> 00:00:05.080\nIt was the best of times,\n\n"
                                              "01:01:01.500 --> 01:01:03.000\n一 &lt; 二 &amp; 三\n")
    assert format_transcript(Transcript(), "vtt") == "WEBVTT\n" and format_transcript(Transcript(), "srt") == ""


def test_text_is_a_line_or_a_line_for_each_sentence() -> None:
    assert format_transcript(TALK) == "It was the best of times, 一 < 二 & 三\n"
    assert format_transcript(TALK, timestamps=True).splitlines()[1] == "[1:01:01.50 - 1:01:03.00] 一 < 二 & 三"


def test_the_command_writes_a_file_for_each_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_whisper(tmp_path / "whisper")
    one, two = (write_noise(tmp_path / f"{name}.wav") for name in ("one", "two"))
    out = tmp_path / "subtitles"
    assert main(["transcribe", str(folder), str(one), str(two), "--format", "vtt", "--out", str(out)]) == 0
    printed, said = capsys.readouterr()
    assert not printed and f"wrote {out / 'two.vtt'}" in said
    assert {path.name: path.read_text(encoding="utf-8")[:7] for path in out.iterdir()} == {"one.vtt": "WEBVTT\n", "two.vtt": "WEBVTT\n"}
    twin = tmp_path / "other"
    twin.mkdir()
    for flags, message in ((["--out", str(out), "--format", "vtt"], "is there already"), (["--format", "srt", str(two)], "--out DIR"),
                           ([str(write_noise(twin / "one.wav")), "--out", str(tmp_path / "new")], "would be written for"),
                           (["--json", "--timestamps"], "--json with --timestamps"),
                           (["--json", "--format", "srt"], "--json with --format"),
                           (["--timestamps", "--format", "srt"], "srt has times")):
        assert main(["transcribe", str(folder), str(one), *flags]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
