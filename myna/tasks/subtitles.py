"""A transcript as text or as subtitles: what a video player shows under a talk.

SubRip (.srt) has no standard but its program's: a number, `00:00:05,080 --> 00:00:08,880`, the text, an empty line. WebVTT (.vtt) is the
W3C's: the word WEBVTT, then the same with a point for the comma and without numbers; there `&` and `<` are written as HTML has them.

    print(format_transcript(transcript, "srt"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from myna.tasks.transcribe import Transcript

FORMATS = ("txt", "srt", "vtt")


def format_transcript(transcript: Transcript, format: str = "txt", timestamps: bool = False) -> str:
    """Write a transcript in one of `FORMATS`, lines ended. timestamps: a line for each sentence of a txt, with its times."""
    spoken = [(segment.start, segment.end, " ".join(segment.text.split())) for segment in transcript.segments]
    match format:
        case "srt":
            return "\n".join(f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
                             for number, (start, end, text) in enumerate(spoken, 1))
        case "vtt":
            return "WEBVTT\n" + "".join(f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{_escape(text)}\n" for start, end, text in spoken)
        case "txt":
            lines = [f"[{_hundredths(start)} - {_hundredths(end)}] {text}" for start, end, text in spoken]
            lines = lines if timestamps else [str(transcript)]
            return "".join(f"{line}\n" for line in lines)
    raise ValueError(f"no format {format!r}")


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    return (f"{thousandths // 3_600_000:02}:{thousandths // 60_000 % 60:02}:{thousandths // 1000 % 60:02}"
            f"{point}{thousandths % 1000:03}")


def _hundredths(seconds: float) -> str:
    hundredths = round(seconds * 100)
    return f"{hundredths // 360_000}:{hundredths // 6000 % 60:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
