"""Summaries of texts of any length: by a decoder that was tuned for it, or of the text's own sentences.

A decoder sees so much of a text as it learned from. A longer one is cut at paragraphs and sentences into chunks, each is summarized, and
so are the summaries together, until one is left; what is taken out of a text needs no chunks (`myna.tasks.extract`).

    Extractor("textrank", 3).summarize("A long text. ...").text
    summarize_chunks(writer, "A long text. ...").chunks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna.console import say
from myna.errors import UserError, shown
from myna.files import read_json, write_json
from myna.tasks.extract import METHODS, extract
from myna.tasks.writing import MOST_TOKENS, TASK, Writer, Writing, cut_chunks

# usual names of columns, those of data sets that people share; 正文 text, 摘要 summary, 标题 title
SUMMARIZE = Writing("summarize", "Summarize this text.", ("text", "article", "document", "content", "body", "dialogue", "source", "正文"),
                    ("summary", "headline", "highlights", "abstract", "title", "target", "摘要", "标题"))
SENTENCES = 3  # that are taken out of a text where nothing says how many: own choice
_MOST_BYTES = 1 << 20  # of task.json
_MOST_SENTENCES = 1000


@dataclass(frozen=True)
class Summary:
    """A summary and how it was made."""

    text: str
    method: str
    "decoder, textrank or lead."
    chunks: int = 1
    "Pieces that the text was read in."
    stopped: bool = True
    "Whether a decoder ended it by itself; False where it was cut at the most it may write."
    spans: tuple[tuple[int, int], ...] = ()
    "Where the sentences stand in the text, in characters; of a decoder nothing."

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Extractor:
    """A way to take so many sentences out of a text."""

    method: str
    sentences: int = SENTENCES
    target_words: int = 0
    "Median words of the summaries it was chosen by: as much as a baseline may say; 0 where it was not chosen."

    def summarize(self, text: str) -> Summary:
        """Summarize a text. Raises UserError when it is empty."""
        found = extract(text, self.method, self.sentences)
        return Summary(found.text, self.method, spans=found.spans)

    def save(self, folder: Path) -> None:
        """Write task.json."""
        write_json(folder / TASK, {"format": 1, "task": SUMMARIZE.task, "method": self.method, "sentences": self.sentences,
                                   "target_words": self.target_words})

    @classmethod
    def open(cls, folder: Path) -> Extractor:
        """Read a directory that `is_extractor` says is one. Raises UserError when it is damaged."""
        found = read_json(folder / TASK, _MOST_BYTES)
        sentences, words = (found.get(name) for name in ("sentences", "target_words"))
        if type(sentences) is not int or not 1 <= sentences <= _MOST_SENTENCES or type(words) is not int or not 0 <= words <= MOST_TOKENS:
            raise UserError(f"{folder / TASK} has {shown(sentences)} sentences of {shown(words)} words", "what `myna tune` wrote there",
                            "restore the file")
        return cls(str(found["method"]), sentences, words)


def is_extractor(folder: Path) -> bool:
    """Tell whether a directory is one that takes sentences out of texts, by its task.json."""
    found: Any = read_json(folder / TASK, _MOST_BYTES) if (folder / TASK).is_file() else {}
    return isinstance(found, dict) and found.get("task") == SUMMARIZE.task and found.get("method") in METHODS


def summarize_chunks(writer: Writer, text: str, max_tokens: int | None = None, num_beams: int = 1, beginning: bool = False) -> Summary:
    """Summarize a text of any length by a decoder; chunks are said. beginning: read no more than its beginning, which is said too.

    Raises UserError when the text is empty.
    """
    chunks = cut_chunks(text, writer.room, writer.tokenizer, 2 if beginning else None)
    if not chunks:
        raise UserError("the text is empty", "a text to summarize", "leave it out")
    if beginning and len(chunks) > 1:
        say(f"only the beginning of the text is read, {writer.room} tokens")
        chunks = chunks[:1]
    count = len(chunks)
    while True:
        if len(chunks) > 1:
            say(f"the text takes {len(chunks)} chunks of {writer.room} tokens: each is summarized, and then the summaries are")
        written = writer.write(chunks, max_tokens, num_beams)
        if len(chunks) == 1:
            return Summary(written[0].text, "decoder", count, written[0].stopped)
        joined = "\n\n".join(one.text for one in written if one.text)
        smaller = cut_chunks(joined, writer.room, writer.tokenizer)
        if not smaller or len(smaller) >= len(chunks):  # a model that writes as much as it reads
            say("the summaries together are no shorter than the text: they are given as they are")
            return Summary(joined, "decoder", count, all(one.stopped for one in written))
        chunks = smaller


def summarize_beginnings(writer: Writer, texts: Sequence[str], said: str = "") -> list[Summary]:
    """Summarize the beginnings of texts, as much as the decoder learned from: what it is measured by."""
    beginnings = [next(iter(cut_chunks(text, writer.room, writer.tokenizer, 1)), "") for text in texts]
    return [Summary(one.text, "decoder", 1, one.stopped) for one in writer.write(beginnings, said=said)]
