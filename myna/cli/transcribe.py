"""`myna transcribe MODEL AUDIO...`: what is said in recordings, by a Whisper model, as text or subtitles.

    myna transcribe whisper-tiny speech.wav --timestamps
    myna transcribe whisper-tiny talk.mp3 --format srt > talk.srt
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.cli.main import add_options, read_options
from myna.console import say
from myna.errors import UserError
from myna.files import write_atomic
from myna.tasks.options import TranscribeOptions
from myna.tasks.subtitles import FORMATS, format_transcript

if TYPE_CHECKING:
    from myna.metrics.report import Report
    from myna.tasks.transcribe import Transcript


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna transcribe`."""
    parser.add_argument("model", metavar="MODEL", help="directory of a Whisper model, or the name of a fetched one")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings: .wav; .flac, .mp3 and .ogg with the extra `speech`")
    add_options(parser, TranscribeOptions)
    parser.add_argument("--timestamps", action="store_true", help="print each sentence with the time at which it begins and ends")
    parser.add_argument("--format", choices=FORMATS, default="txt",
                        help="txt (default), or subtitles for a video player: srt (SubRip), vtt (WebVTT); --json has times as numbers")
    parser.add_argument("--out", metavar="DIR", help="write a file for each recording, named after it, instead of printing")
    parser.add_argument("--reference", metavar="FILE", help="what is said in all recordings, in their order: print the error rates")


def run(args: argparse.Namespace) -> int:
    """Transcribe: text on standard output, what was changed or passed over and the speed on standard error."""
    options = read_options(args, TranscribeOptions)
    if args.json and (args.format != "txt" or args.timestamps):
        raise UserError(f"--json with {'--timestamps' if args.timestamps else f'--format {args.format}'}", "one of the two",
                        "--json has text and times")
    if args.timestamps and args.format != "txt":
        raise UserError(f"--timestamps with --format {args.format}", "one of the two", f"{args.format} has times")
    if args.format != "txt" and len(args.audio) > 1 and not args.out:
        raise UserError(f"{len(args.audio)} recordings with --format {args.format} on one output", "one recording",
                        "--out DIR writes a file for each")
    targets = _plan_files(args.audio, Path(args.out), args.format) if args.out else {}
    reference = _read_reference(args.reference)
    from dataclasses import asdict

    from myna.api import load

    model = load(args.model)
    files: list[dict[str, Any]] = []
    texts: list[str] = []
    for name in args.audio:
        began = time.monotonic()
        transcript = model.transcribe(name, **asdict(options))
        seconds = time.monotonic() - began
        written = format_transcript(transcript, args.format, args.timestamps)
        if args.out:
            write_atomic(targets[name], written.encode())
            say(f"wrote {targets[name]}")
        elif not args.json:
            print(f"--- {name}\n{written}" if len(args.audio) > 1 else written, end="", flush=True)
        _say(name, transcript, seconds)
        texts.append(str(transcript))
        files.append({"path": name, "text": str(transcript), **asdict(transcript), "processing_seconds": seconds})
    report = _measure(reference, texts)
    if args.json:
        print(json.dumps({"model": args.model, "options": asdict(options), "files": files,
                          "report": report.to_json() if report else None}, ensure_ascii=False, allow_nan=False))
    elif report:
        import rich

        rich.print(report.table())
    return 0


def _plan_files(audio: list[str], folder: Path, format: str) -> dict[str, Path]:
    """Name the file of each recording. Raises UserError, before anything is heard, when one is there or two would be the same."""
    targets = {name: folder / f"{Path(name).stem}.{format}" for name in audio}
    for name, target in targets.items():
        twin = next((other for other in targets if other != name and targets[other] == target), None)
        if twin or target.exists():
            raise UserError(f"{target} would be written {f'for {twin} and {name}' if twin else 'but is there already'}",
                            "a new file for each recording", "choose another --out, or rename")
    folder.mkdir(parents=True, exist_ok=True)
    return targets


def _say(name: str, transcript: Transcript, seconds: float) -> None:
    heard = f"{transcript.seconds:.1f} s of sound in {seconds:.1f} s ({seconds / transcript.seconds:.2f} s a second)"
    language = f" · language {transcript.language}" if transcript.language else ""
    say(f"{Path(name).name}: {heard}{language}")
    if not transcript.segments:
        say(f"{Path(name).name}: no speech was heard")
    elif transcript.silent_seconds:
        say(f"{Path(name).name}: {transcript.silent_seconds:.1f} s without speech gave no text")
    if transcript.drawn_again:
        say(f"{Path(name).name}: {transcript.drawn_again} windows were drawn again, {transcript.doubtful} of them are doubtful to the end")


def _read_reference(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        reference = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})", "a text in UTF-8") from None
    _measure(reference, [reference])  # says that it is too short before anything is transcribed
    return reference


def _measure(reference: str | None, texts: list[str]) -> Report | None:
    if reference is None:
        return None
    from myna.evaluate.speech import find_folding
    from myna.metrics.speech import speech_report

    return speech_report([reference], [" ".join(texts)], folding=find_folding([reference]))
