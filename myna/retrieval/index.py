"""An index of documents: a directory that finds the passages a question is about, by their words, by vectors, or by both.

It grows by segments: the files that are added become a cleaned corpus (`myna.corpus.clean`, so every passage is traced to file and
byte), its passages, and a block of postings. What is there already is not touched: files are known by their SHA-256, and the passages
of a file that changed are marked as deleted. `index.json` is written last and names what counts, so a run that is killed loses
the segment it was at, and the same command goes on.

    index/index.json            options, segments, blocks, files with their hashes, deleted passages
    index/segments/000001/      text.utf8, documents.npy, ..., passages.npy, vectors.npy
    index/blocks/0-811/         postings of passages 0 to 810

    index = Index.open(Path("my-index"))
    for hit in index.search("who built the tower?", SearchOptions(k=3)):
        print(hit.score, hit.file, hit.text)

N passages · C numbers of a vector
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import re
import shutil
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.config import make
from myna.console import track
from myna.corpus.clean import clean
from myna.corpus.options import CleanOptions
from myna.corpus.read import Found, walk
from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.files import lock, new_directory, read_json, sha256, write_json
from myna.retrieval.added import Added
from myna.retrieval.lexical import Block, join_blocks, score_blocks, write_block
from myna.retrieval.options import IndexOptions, Mode, SearchOptions
from myna.retrieval.passages import cut_passages
from myna.retrieval.terms import count_terms

Array = NDArray[Any]
Embed = Callable[[Sequence[str]], Array]  # texts to vectors (N, C) of length 1

PASSAGE = np.dtype([("start", "<i8"), ("end", "<i8"), ("document", "<i8")])
_SEGMENT_BYTES = 32 << 20  # files added together: what a kill may lose, and what is held in memory as postings
_BLOCK_BYTES = 16 << 20  # text of one block
_LARGEST_BLOCK = 1 << 24  # postings: joined blocks grow no larger, for joining holds them in memory
_FUSION = 60  # Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion", section 2
_FUSED = 100  # of each ranking: what is far down in both cannot come first
_AT_ONCE = 1 << 16  # vectors compared at a time


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    score: float
    text: str
    file: str
    offset: int
    "Where the passage begins in its file, in bytes (after unpacking; of the text column in CSV and Parquet); see `Corpus.source`."
    passage: int
    "Its number in the index."
    document: int = 0
    "The number of its document in its segment, of several in one file."


class Index:
    """An index directory, opened; made by `create` or `open`."""

    def __init__(self, folder: Path, described: dict[str, Any]) -> None:
        self.folder = folder
        with _undamaged(folder):
            self.options = make(IndexOptions, described["options"], where=str(folder / "index.json"))
            self.encoder: str = described["encoder"]
            self._segments: list[dict[str, Any]] = described["segments"]
            self._blocks: list[str] = described["blocks"]
            self.files: dict[str, dict[str, Any]] = described["files"]
            self._deleted: list[list[int]] = described["deleted"]
            self._open_parts()

    def _open_parts(self) -> None:
        """Open what index.json names, which may be somebody else's: its names stay inside, and its counts are those of the files."""
        self._corpora: dict[int, Corpus] = {}
        names = [*(segment["name"] for segment in self._segments), *self._blocks]
        if not all(re.fullmatch(r"[0-9-]{1,50}", name) for name in names):
            raise ValueError("names of segments or blocks")
        self._passages = [np.load(self._segment(number) / "passages.npy", mmap_mode="r") for number in range(len(self._segments))]
        self._firsts = [0, *itertools.accumulate(len(passages) for passages in self._passages)]
        self.blocks = [Block(self.folder / "blocks" / name) for name in self._blocks]
        if ([(segment["first"], segment["passages"]) for segment in self._segments]
                != list(zip(self._firsts, map(len, self._passages), strict=False))
                or [0, *(block.last for block in self.blocks)] != [*(block.first for block in self.blocks), len(self)]
                or any(passages.dtype != PASSAGE for passages in self._passages)):
            raise ValueError("its parts do not fit together")
        self._owners = sorted((int(file["first"]), path) for path, file in self.files.items() if file["last"] > file["first"])
        deleted = np.zeros(len(self), dtype=bool)
        for first, last in self._deleted:
            deleted[first:last] = True
        self.deleted: Array = deleted

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Open an index. Raises UserError when it is none."""
        if not (folder / "index.json").is_file():
            raise UserError(f"{folder} is no index", "a directory made by `myna index`", "myna index my-documents/ --out my-index")
        return cls(folder, read_json(folder / "index.json"))

    @classmethod
    def create(cls, folder: Path, options: IndexOptions, encoder: str = "") -> Index:
        """Make an empty index. encoder: the hash of the weights that make its vectors; empty: none. Raises UserError when one is there."""
        if folder.exists() and any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty", "a new directory", "choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        empty = {"format": 1, "options": asdict(options), "encoder": encoder, "segments": [], "blocks": [], "files": {}, "deleted": []}
        write_json(folder / "index.json", empty)
        return cls(folder, empty)

    def __len__(self) -> int:
        """Count all passages, the deleted among them."""
        return self._firsts[-1]

    def _segment(self, number: int) -> Path:
        return self.folder / "segments" / str(self._segments[number]["name"])

    # ---- growing ----

    def add(self, inputs: Sequence[Path], embed: Embed | None = None) -> Added:
        """Add files and folders; those whose bytes are known are passed over. Raises UserError when nothing is in the index afterwards.

        embed: makes the vectors, in an index that keeps some.
        """
        if bool(self.encoder) != (embed is not None):
            raise ValueError("an index with vectors wants what makes them, and no other does")
        added = Added()
        with lock(self.folder):
            self._sweep()
            for found in self._batches(inputs, added):
                self._add_segment(found, embed, added)
            under = [Path(name) for name in self.files if any(Path(name).is_relative_to(root) for root in inputs)]
            added.missing = sum(not path.exists() for path in under)
        if not len(self) or bool(self.deleted.all()):
            why = ", ".join(f"{count:,} {reason}" for reason, count in added.rejected.most_common(3)) or "no files"
            raise UserError(f"no text was found ({why})", "documents with text", "check the input")
        return added

    def _sweep(self) -> None:
        """Remove what a killed run left: directories that index.json does not name."""
        for kind, names in (("segments", [segment["name"] for segment in self._segments]), ("blocks", self._blocks)):
            for path in (self.folder / kind).glob("*"):
                if path.name not in names:
                    shutil.rmtree(path)

    def _batches(self, inputs: Sequence[Path], added: Added) -> Iterator[list[Found]]:
        """Yield the files that are new or changed, about `_SEGMENT_BYTES` at a time."""
        batch: list[Found] = []
        size = 0
        seen: set[Path] = set()
        for found in walk(inputs):
            if found.reason:
                added.rejected[found.reason] += 1
                continue
            place = found.path.resolve()
            if place in seen or place.is_relative_to(self.folder.resolve()):
                continue
            seen.add(place)
            known = self.files.get(found.name)
            if known is not None and known["sha256"] == sha256(found.path):
                added.unchanged += 1
                continue
            batch.append(found)
            size += found.path.stat().st_size
            if size >= _SEGMENT_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _add_segment(self, batch: list[Found], embed: Embed | None, added: Added) -> None:
        name, first = f"{max((int(s['name']) for s in self._segments), default=0) + 1:06d}", len(self)
        segment = self.folder / "segments" / name
        with new_directory(segment) as folder:
            report = clean([found.path for found in batch], folder, CleanOptions(), require_text=False)
            corpus = Corpus(folder)
            passages = self._cut(corpus)
            np.save(folder / "passages.npy", passages)
            if embed is not None:
                np.save(folder / "vectors.npy", self._embed(corpus, passages, embed))
        blocks = self._write_blocks(first, Corpus(segment), passages)
        for entry in report["files"]:
            added.files += 1
            added.documents += entry["documents"]
            if entry["status"] == "rejected":
                added.rejected[entry["reason"]] += 1
            elif entry["status"] == "partial":
                added.partial.append(f"{entry['path']} ({entry['reason']})")
            self._forget(entry["path"], added)
        files, owners = {}, corpus.documents["file"][passages["document"]] if len(passages) else np.zeros(0, np.int32)
        for number, entry in enumerate(report["files"]):
            low, high = np.searchsorted(owners, [number, number + 1]).tolist()
            files[entry["path"]] = {"sha256": entry["sha256"], "first": first + low, "last": first + high}
        self.files |= files
        added.passages += len(passages)
        self._segments.append({"name": name, "first": first, "passages": len(passages)})
        self._blocks += blocks
        self._save()
        self._open_parts()
        self._join()

    def _cut(self, corpus: Corpus) -> Array:
        rows: list[tuple[int, int, int]] = []
        for number, document in enumerate(corpus.documents):
            start, end = int(document["start"]), int(document["end"])
            data = corpus.text(start, end).encode("utf-8")
            rows += [(start + low, start + high, number) for low, high in cut_passages(data, self.options.passage_bytes)]
        return np.array(rows, dtype=PASSAGE)

    def _write_blocks(self, first: int, corpus: Corpus, passages: Array) -> list[str]:
        names: list[str] = []
        at = 0
        while at < len(passages):
            limit = int(passages["start"][at]) + _BLOCK_BYTES
            last = max(at + 1, int(np.searchsorted(passages["start"], limit)))
            name = f"{first + at}-{first + last}"
            with new_directory(self.folder / "blocks" / name) as folder, track("indexing", last - at, " passages") as advance:
                def counted(start: int = at, stop: int = last, advance: Callable[[int], None] = advance) -> Iterator[Counter[str]]:
                    for passage in passages[start:stop]:
                        advance(1)
                        yield count_terms(corpus.text(passage["start"], passage["end"]))

                write_block(folder, first + at, counted())
            names.append(name)
            at = last
        return names

    def _embed(self, corpus: Corpus, passages: Array, embed: Embed) -> Array:
        vectors: list[Array] = []
        with track("embedding", len(passages), " passages") as advance:
            for at in range(0, len(passages), 256):
                part = passages[at : at + 256]
                vectors.append(embed([corpus.text(p["start"], p["end"]) for p in part]).astype(np.float16))
                advance(len(part))
        return np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float16)

    def _forget(self, path: str, added: Added) -> None:
        """Mark the passages of a file's former bytes as deleted."""
        known = self.files.pop(path, None)
        if known is not None:
            added.replaced += 1
            if known["last"] > known["first"]:
                self._deleted.append([known["first"], known["last"]])

    def remove(self, paths: Sequence[Path]) -> int:
        """Take files, or folders of them, out of the index; returns how many. Raises UserError when one is not in it."""
        with lock(self.folder):
            before = len(self.files)
            for path in paths:
                inside = [name for name in self.files if Path(name) == path or path in Path(name).parents]
                if not inside:
                    raise UserError(f"{path} is not in the index {self.folder}", "a file or folder that was added", "myna index --list")
                for name in inside:
                    self._forget(name, Added())
            self._save()
            self._open_parts()
        return before - len(self.files)

    def _join(self) -> None:
        """Join the last two blocks while the earlier is no larger: so there are few blocks, and each posting is rewritten few times."""
        while len(self.blocks) > 1:
            one, other = self.blocks[-2:]
            if one.size > other.size or len(one.passages) + len(other.passages) > _LARGEST_BLOCK:
                return
            name = f"{one.first}-{other.last}"
            with new_directory(self.folder / "blocks" / name) as folder:
                join_blocks(folder, [one, other])
            self._blocks[-2:] = [name]
            self._save()
            self._open_parts()
            self._sweep()

    def _save(self) -> None:
        write_json(self.folder / "index.json", {
            "format": 1, "options": asdict(self.options), "encoder": self.encoder, "segments": self._segments, "blocks": self._blocks,
            "files": self.files, "deleted": self._deleted})

    # ---- finding ----

    def search(self, query: str, options: SearchOptions | None = None, embed: Embed | None = None) -> list[Hit]:
        """Find the passages that a query is about, the best first; none where no term of it occurs.

        embed: makes the query's vector, for dense and hybrid search. Raises UserError when the index has no vectors for them.
        """
        options = options or SearchOptions()
        hits: list[Hit] = []
        for passage, score in self.rank(query, options, embed):
            hit = self.hit(passage, score)
            if all(hit.text != other.text for other in hits):  # the same passage in two files is shown once
                hits.append(hit)
            if len(hits) == options.k:
                break
        return hits

    def rank(self, query: str, options: SearchOptions, embed: Embed | None = None) -> list[tuple[int, float]]:
        """Rank passages by number, with their scores, the best first, and more than k of them; see `search`."""
        mode = self.mode(options.mode, embed)
        rankings = []
        if mode in ("lexical", "hybrid"):
            with _undamaged(self.folder):
                scores = score_blocks(self.blocks, count_terms(query), self.deleted)
            rankings.append(self.best(scores, options.k, mode, above=0.0))
        if mode in ("dense", "hybrid") and query.strip():
            assert embed is not None
            rankings.append(self.best(self.similarities(embed([query])[0]), options.k, mode, above=-2.0))
        return _fuse(rankings) if len(rankings) > 1 else rankings[0] if rankings else []

    def mode(self, mode: Mode, embed: Embed | None) -> Mode:
        """Say what `auto` is here. Raises UserError when the index has no vectors for what was asked."""
        if mode == "auto":
            return "hybrid" if self.encoder and embed else "lexical"
        if mode != "lexical" and not (self.encoder and embed):
            raise UserError(f"{self.folder} has no vectors, which {mode} search needs", "an index made with --encoder",
                            "search with --mode lexical, or make one: myna index ... --encoder minilm")
        return mode

    def owner(self, passage: int) -> str:
        """Name the file that a passage is of."""
        at = bisect.bisect_right(self._owners, (passage, "\U0010ffff")) - 1
        return self._owners[at][1]

    def best(self, scores: Array, k: int, mode: str, above: float) -> list[tuple[int, float]]:
        """Rank passages by score, equal ones by number; more than k, for what is left out later."""
        most = min(len(scores), max(2 * k, _FUSED if mode == "hybrid" else 0) + 8)
        if not most:
            return []
        chosen = np.argpartition(-scores, most - 1)[:most]
        chosen = chosen[np.lexsort((chosen, -scores[chosen]))]
        return [(int(passage), float(scores[passage])) for passage in chosen if scores[passage] > above]

    def similarities(self, query: Array) -> Array:
        """Return the cosine of every passage's vector with the query's: (N,) float32, -2 of deleted ones."""
        scores = np.full(len(self), -2.0, dtype=np.float32)
        with _undamaged(self.folder):
            for number, first in enumerate(self._firsts[:-1]):
                vectors = np.load(self._segment(number) / "vectors.npy", mmap_mode="r")
                if len(vectors) != len(self._passages[number]):
                    raise ValueError("another number of vectors than of passages")
                for at in range(0, len(vectors), _AT_ONCE):
                    part = vectors[at : at + _AT_ONCE].astype(np.float32)
                    scores[first + at : first + at + len(part)] = part @ query.astype(np.float32)
        scores[self.deleted] = -2.0
        return scores

    def hit(self, passage: int, score: float = 0.0) -> Hit:
        """Return a passage by its number, with its text and its place in its file."""
        with _undamaged(self.folder):
            corpus, start, end, document = self._passage(passage)
            file, offset = corpus.source(start)
            return Hit(score, corpus.text(start, end), str(corpus.files[file]["path"]), offset, passage, document)

    def place(self, passage: int, at: int) -> tuple[str, int]:
        """Return the file of a passage, and where in it, as `Hit.offset`, byte `at` of the passage's text stands."""
        with _undamaged(self.folder):
            corpus, start, _, _ = self._passage(passage)
            file, offset = corpus.source(start + at)
            return str(corpus.files[file]["path"]), offset

    def _passage(self, passage: int) -> tuple[Corpus, int, int, int]:
        """Return the corpus that a passage is in, its beginning and end there, and its document."""
        number = bisect.bisect_right(self._firsts, passage) - 1
        if number not in self._corpora:
            self._corpora[number] = Corpus(self._segment(number))
        start, end, document = (int(value) for value in self._passages[number][passage - self._firsts[number]])
        if not 0 <= start <= end <= self._corpora[number].size:
            raise ValueError("a passage beyond the text")
        return self._corpora[number], start, end, document


@contextlib.contextmanager
def _undamaged(folder: Path) -> Iterator[None]:
    """Turn what reading a damaged index raises into a UserError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, OSError, EOFError,
            tokenize.TokenError) as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{folder} is damaged ({said})", "an index as Myna writes it", "make it again") from None



def _fuse(rankings: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Add up 1 / (60 + rank) over rankings."""
    scores: Counter[int] = Counter()
    for ranking in rankings:
        for rank, (passage, _) in enumerate(ranking[:_FUSED], start=1):
            scores[passage] += 1 / (_FUSION + rank)  # type: ignore[assignment]
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
