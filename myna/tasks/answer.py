"""Answer questions from documents: find passages, choose a sentence, quote it with its place, or say that the documents do not tell.

Sentences are ranked, and the decision whether to answer at all is made, by logistic regressions over a few numbers (see
`myna.retrieval.evidence`), fitted on questions with their passages and on the same questions with the passage taken away. Where the
directory holds a reader of spans too (`myna.models.span_head`), it reads the sentence chosen and its neighbours; how sure it is of a span
there is among the numbers, and where that is likely to be the better answer it is the answer, else the sentence is.

    answerer = Answerer.open(Path("my-reader"))
    index, embed = open_index(Path("my-index"))
    answered = answerer.answer("who built the tower?", index, embed)
    answered.text, answered.quote, answered.file, answered.line, answered.confidence

F features · G features of a sentence
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.console import say
from myna.data.rows import format_of
from myna.errors import UserError, shown
from myna.files import read_json, sha256, write_json
from myna.models.logistic import Logistic, read_logistic
from myna.retrieval.evidence import PASSAGE_FEATURES, SENTENCE_FEATURES, Background, Evidence, find_evidence
from myna.retrieval.index import Embed, Index
from myna.retrieval.options import IndexOptions
from myna.retrieval.terms import count_terms, find_terms
from myna.tasks.search import open_index
from myna.tokenizer.chat import Message

if TYPE_CHECKING:
    from myna.models.span_head import Span, Spans

Array = npt.NDArray[Any]

TASK, TERMS = "task.json", "terms.json"
NO_ANSWER = "the documents do not tell"
READ_FEATURES = ("span",)  # of the decision, where there is a reader of spans
SPAN_FEATURES = ("span", "length")  # by which a span is taken, or the whole sentence
FOUND, LOOKED_IN = 5, 3  # passages found, and those whose sentences are candidates
_NEAR = 1  # sentences on either side of the one chosen that a reader of spans sees
_LEAST_SCORE = -30.0  # of a span: where a text has no room for one
_COMMON = 0.05  # share of other passages from which a word is a common one, that needs no support
_LONGEST = 4096  # characters of a question; more is a document
_MOST_BYTES, _MOST_TERMS = 64 << 20, 1_000_000


@dataclass(frozen=True)
class Answered:
    """What the documents tell: the answer and the sentence it stands in, or, not answered, the nearest sentence there is."""

    question: str
    answered: bool
    text: str
    "The answer; empty where there is none."
    how: str
    "What the text is: a 'span' of the quote, the whole 'sentence', 'generated', or ''."
    quote: str
    "The sentence that answers; where none does, the nearest one."
    passage: str
    file: str
    line: int | None
    "The line of the file that the quote begins in, from 1; none where the file has no lines or changed since it was indexed."
    offset: int
    "Where the quote begins in its file, in bytes, as `Hit.offset`."
    confidence: float
    "The probability that the quoted passage answers."
    threshold: float
    "The confidence from which an answer is given."
    unsupported: tuple[str, ...] = ()
    "Words of a generated answer that neither the passage nor the question holds."

    def __str__(self) -> str:
        return self.text if self.answered else NO_ANSWER

    @property
    def place(self) -> str:
        """Name the file and, where it has some, the line."""
        return f"{self.file}:{self.line}" if self.line else f"{self.file} (byte {self.offset:,})" if self.file else ""


@dataclass(frozen=True)
class Choice:
    """The sentence chosen of the passages found, and what the decision is made by."""

    evidence: Evidence
    sentence: int
    features: Array = field(repr=False)
    "(F,) of its passage"
    span: Span | None

    @property
    def quote(self) -> str:
        """The sentence."""
        return self.evidence.hit.text[slice(*self.evidence.sentences[self.sentence])]


class Answerer:
    """Ranks sentences, decides, and reads spans where it has a reader."""

    def __init__(self, ranker: Logistic, decision: Logistic, threshold: float, background: Background, reader: Spans | None = None,
                 chooser: Logistic | None = None, about: Mapping[str, Any] | None = None) -> None:
        """Take the ranker of sentences, and the decision with the probability from which on an answer is given.

        chooser: whether a span is the answer, or its sentence. about: what else task.json says.
        """
        self.ranker, self.decision, self.threshold, self.background = ranker, decision, threshold, background
        self.reader, self.chooser, self.about = reader, chooser, dict(about or {})

    def find(self, question: str, index: Index, embed: Embed | None) -> list[Evidence]:
        """Find passages with the numbers about them. Raises UserError on a question that is empty or no question."""
        if not question.strip():
            raise UserError("the question is empty", "a question")
        if len(question) > _LONGEST:
            raise UserError(f"a question of {len(question):,} characters", f"at most {_LONGEST:,}", "ask in fewer words")
        return find_evidence(index, question, self.background, embed, FOUND)

    def choose(self, question: str, found: Sequence[Evidence]) -> Choice | None:
        """Choose the best sentence of the passages found; None where there is none."""
        return choose_sentence(question, found, self.ranker, self.reader)

    def confidence(self, choice: Choice) -> float:
        """Return the probability that the chosen passage answers."""
        return float(self.decision.probabilities(choice.features[None])[0])

    def word(self, choice: Choice) -> tuple[str, str, int]:
        """Return what the answer is (a span likely to be better, or the sentence), how it came, and the number of its sentence."""
        if choice.span is not None and self.chooser is not None and self.chooser.logits(span_features(choice.span)[None])[0] > 0:
            _, start, end = choice.span
            inside = [number for number, (begin, _) in enumerate(choice.evidence.sentences) if begin <= start]
            return choice.evidence.hit.text[start:end].strip(), "span", inside[-1] if inside else choice.sentence
        return choice.quote, "sentence", choice.sentence

    def answer(self, question: str, index: Index, embed: Embed | None = None, threshold: float | None = None) -> Answered:
        """Answer from an index, or say that it does not tell. threshold: the confidence from which to answer, where not its own.

        Raises UserError on a question that is empty or too long.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold:g}", "a number from 0 to 1")
        threshold = self.threshold if threshold is None else threshold
        choice = self.choose(question, self.find(question, index, embed))
        if choice is None:
            return Answered(question, False, "", "", "", "", "", None, 0, 0.0, threshold)
        confidence = self.confidence(choice)
        text, how, sentence = self.word(choice) if confidence >= threshold else ("", "", choice.sentence)
        hit, (start, end) = choice.evidence.hit, choice.evidence.sentences[sentence]
        file, offset = index.place(hit.passage, len(hit.text[:start].encode("utf-8")))
        return Answered(question, bool(text), text, how, hit.text[start:end], hit.text, file, find_line(index, file, offset), offset,
                        confidence, threshold)

    # ---- files ----

    def save(self, folder: Path) -> None:
        """Write task.json, terms.json and, where there is a reader of spans, its model."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.reader is not None:
            self.reader.save(folder)
        write_json(folder / TERMS, {"passages": self.background.passages, "terms": dict(self.background.counts)})
        write_json(folder / TASK, {"format": 1, "task": "answer", "ranker": self.ranker.to_json(), "decision": self.decision.to_json(),
                                   "threshold": self.threshold, "reader": self.reader is not None,
                                   "chooser": None if self.chooser is None else self.chooser.to_json(), **self.about})

    @classmethod
    def open(cls, folder: Path) -> Answerer:
        """Open the directory of a reader. Raises UserError when it is none, or is damaged."""
        path = folder / TASK
        task = read_json(path, _MOST_BYTES) if path.is_file() else None
        if not isinstance(task, dict) or task.get("task") != "answer":
            raise UserError(f"{folder} is no reader" + (f": its task is {shown(task.get('task'))}" if isinstance(task, dict) else ""),
                            "what `myna tune` made with --task answer", "myna tune new DATA --task answer --out DIR makes one")
        spans, threshold, chooser = bool(task.get("reader")), task.get("threshold"), task.get("chooser")
        if not isinstance(threshold, int | float) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
            raise UserError(f"{path} has the threshold {shown(threshold)}", "a number from 0 to 1", "restore the file")
        own = ("format", "task", "ranker", "decision", "threshold", "reader", "chooser")
        return cls(read_logistic(task.get("ranker"), SENTENCE_FEATURES, str(path)),
                   read_logistic(task.get("decision"), decision_features(spans), str(path)), float(threshold),
                   _read_background(folder / TERMS), _open_reader(folder) if spans else None,
                   None if chooser is None or not spans else read_logistic(chooser, SPAN_FEATURES, str(path)),
                   {key: value for key, value in task.items() if key not in own})


def _open_reader(folder: Path) -> Spans:
    from myna.models.span_head import Spans  # here, so that a directory without one loads no torch

    return Spans.open(folder)


@contextmanager
def open_documents(folder: Path | None, documents: Sequence[Path]) -> Iterator[tuple[Index, Embed | None]]:
    """Open an index, or make one of documents that goes again. Raises UserError when there is neither, both, or no text."""
    if (folder is None) == (not documents):
        raise UserError("no documents to answer from" if folder is None else "an index and documents", "an index, or documents",
                        "myna answer DIR QUESTION --index my-index, or --documents my-documents/")
    if folder is not None:
        yield open_index(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        index = Index.create(Path(place) / "index", IndexOptions())
        say(f"{index.add(list(documents)).said()}; an index is kept by: myna index ... --out my-index")
        yield index, None


def answer_freely(answered: Answered, background: Background, speak: Callable[[list[Message]], str]) -> Answered:
    """Have a chat model write the answer from the passage quoted, and look each of its words up there.

    speak: messages to what the model says, greedily. Common words apart, those that neither passage nor question holds are named in
    `unsupported`; where they are half or more, or it says that the passage does not tell, what was quoted stays the answer.
    """
    if not answered.answered:
        return answered
    asked = (f"Passage: {answered.passage}\n\nQuestion: {answered.question}\n\nAnswer in one short sentence, with words of the passage "
             "alone. If it does not say, write: unknown")
    text = " ".join(speak([{"role": "user", "content": asked}]).split())
    held = set(find_terms(answered.passage)) | set(find_terms(answered.question))
    common = _COMMON * max(background.passages, 1)
    said = [term for term in dict.fromkeys(find_terms(text)) if background.counts.get(term, 0) <= common and len(term) > 1]
    strange = tuple(term for term in said if term not in held)
    if not said or 2 * len(strange) >= len(said) or text.strip(" .").lower() == "unknown":
        return dataclasses.replace(answered, unsupported=strange)
    return dataclasses.replace(answered, text=text, how="generated", unsupported=strange)


def is_answerer(folder: Path) -> bool:
    """Tell whether a directory holds what answers questions: by its task.json."""
    if not (folder / TASK).is_file():
        return False
    task = read_json(folder / TASK, _MOST_BYTES)
    return isinstance(task, dict) and task.get("task") == "answer"


def decision_features(spans: bool) -> tuple[str, ...]:
    """Name the features of a decision."""
    return PASSAGE_FEATURES + (READ_FEATURES if spans else ())


def span_features(span: Span) -> Array:
    """Return by what a span is taken or not: its score, and how long it is."""
    return np.array([span.score, math.log(1 + span.end - span.start)])


def choose_sentence(question: str, found: Sequence[Evidence], ranker: Logistic, reader: Spans | None = None) -> Choice | None:
    """Choose the sentence that the ranker likes best, and read it where there is a reader; None where nothing was found."""
    best: tuple[float, int, int] | None = None
    for number, evidence in enumerate(found[:LOOKED_IN]):
        if not evidence.sentences:
            continue
        logits = ranker.logits(evidence.about)
        place = int(np.argmax(logits))
        if best is None or logits[place] > best[0]:
            best = float(logits[place]), number, place
    if best is None:
        return None
    _, number, place = best
    evidence, span = found[number], None
    if reader is None:
        return Choice(evidence, place, evidence.features, None)
    start, end = surround_sentence(evidence.sentences, place)
    read = reader.read(question, [evidence.hit.text[start:end]])[0]
    span = read._replace(score=max(read.score, _LEAST_SCORE), start=start + read.start, end=start + read.end)
    return Choice(evidence, place, np.append(evidence.features, span.score), span)


def surround_sentence(sentences: Sequence[tuple[int, int]], place: int) -> tuple[int, int]:
    """Return the characters (start, end) of a sentence and its neighbours."""
    return sentences[max(0, place - _NEAR)][0], sentences[min(len(sentences) - 1, place + _NEAR)][1]


def count_background(passages: Sequence[str]) -> Background:
    """Count in how many passages each term stands; terms of one passage alone are left out, for they say little about others."""
    counts: dict[str, int] = {}
    for passage in passages:
        for term in count_terms(passage):
            counts[term] = counts.get(term, 0) + 1
    return Background({term: count for term, count in sorted(counts.items()) if count > 1}, len(passages))


def _read_background(path: Path) -> Background:
    value = read_json(path, _MOST_BYTES)
    terms, passages = (value.get("terms"), value.get("passages")) if isinstance(value, dict) else (None, None)
    if (not isinstance(terms, dict) or len(terms) > _MOST_TERMS or not isinstance(passages, int) or isinstance(passages, bool)
            or not 0 <= passages < 1 << 40
            or not all(isinstance(count, int) and 0 <= count <= passages for count in terms.values())):
        raise UserError(f"{path} is damaged", "counts of terms, none above that of passages", "restore the file")
    return Background(terms, passages)


def find_line(index: Index, file: str, offset: int) -> int | None:
    """Return the line of a file that a byte stands in, from 1; None where it has no lines, is packed, or changed since it was indexed."""
    path, known = Path(file), index.files.get(file)
    if known is None or format_of(path) in ("csv", "tsv", "parquet") or not path.is_file() or sha256(path) != known["sha256"]:
        return None
    with path.open("rb") as handle:
        if handle.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\xff\xfe", b"\xfe\xff")):
            return None  # packed, or of two bytes a character
        handle.seek(0)
        left, line = offset, 1
        while left > 0 and (part := handle.read(min(left, 1 << 20))):
            line, left = line + part.count(b"\n"), left - len(part)
    return None if left else line
