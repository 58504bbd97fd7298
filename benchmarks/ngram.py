"""The n-gram races: scoring beside KenLM's Python binding, estimating beside lmplz, and the index of a corpus.

    python benchmarks/ngram.py --data FILE [--peer PATH_TO_LMPLZ] [--order 5] [--pairs 5] [--json]

Scoring: Myna estimates on the first 90 % of FILE's lines and writes an ARPA file; both load it and score all lines, in turns. KenLM (the
package `kenlm`) is handed lines of words, one at a time, as it wants them, and gives a sum per line. Myna is timed twice: from the same
lines (split, looked up, scored in one batch, a number per word) and from ids. The numbers of both are compared.
Estimating: from the same lines to an ARPA file, order --order, in turns; only with --peer. lmplz's unknown word is our one unused id.
Index: building it over byte-level BPE ids of FILE and counting runs of 1 to 8 of them. Nothing is compared here.

Ratios are seconds of ours / theirs, per turn: below 1 is faster. Scoring is one thread on both sides; lmplz takes several.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from myna.formats.arpa import spell, write_arpa
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions


def read_words(data: Path) -> list[str]:
    """Cut a text into lines of words and signs, blanks between them; empty lines are left out."""
    lines = [re.findall(r"\w+|[^\w\s]", line) for line in data.read_text(encoding="utf-8").splitlines()]
    return [" ".join(spell(word.encode()) for word in line) for line in lines if line]


class Words:
    """The words of all lines by number: 0 is the end of a line, the last number is no word (lmplz's <unk>)."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.numbers = {"</s>": 0}
        for word in " ".join(lines).split():
            self.numbers.setdefault(word, len(self.numbers))
        self.size = len(self.numbers) + 1

    def ids(self, lines: Sequence[str]) -> Any:
        """Turn lines into one stream, each line followed by 0."""
        words = " </s> ".join(lines).split()
        words.append("</s>")
        return np.fromiter(map(self.numbers.__getitem__, words), np.int64, len(words))


def estimate(lines: Sequence[str], words: Words, order: int, out: Path) -> Ngram:
    """Estimate modified Kneser-Ney and write the ARPA file."""
    ids = words.ids(lines)
    model = fit_ngram(ids, ids[:0], words.size, 0, NgramOptions(order=order, smoothing="kneser_ney", max_tokens=1 << 31))
    sizes = [len(chances) for _, chances, _ in model.levels()]
    write_arpa(out, [*words.numbers, "<unk>"], 0, sizes, model.levels())
    return model


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Medians, and the ratio of each turn."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"ours": statistics.median(ours), "theirs": statistics.median(theirs), "ratio": statistics.median(ratios),
            "ratio_low": min(ratios), "ratio_high": max(ratios)}


def race_scoring(lines: list[str], words: Words, order: int, pairs: int, folder: Path) -> dict[str, Any]:
    """Score all lines in turns; the two must agree."""
    import kenlm

    model = estimate(lines[:len(lines) * 9 // 10], words, order, folder / "model.arpa")
    theirs = kenlm.Model(str(folder / "model.arpa"))
    ids = words.ids(lines)
    compiling = seconds(lambda: model.compiled().scores(ids[:2]))
    stream = np.append(0, ids)
    ours = model.compiled().scores(stream) / np.log(10)
    sums = np.add.reduceat(ours.astype(np.float64), np.append(0, np.flatnonzero(ids == 0)[:-1] + 1))
    apart = max(abs(a - theirs.score(line)) / (line.count(" ") + 2) for a, line in zip(sums.tolist(), lines, strict=True))
    each, at = 0.0, 0  # the largest difference of one word, on the first lines: full_scores is slow
    for line in lines[:2000]:
        scores = [score for score, _, _ in theirs.full_scores(line)]
        each = max(each, float(np.abs(ours[at:at + len(scores)] - scores).max()))
        at += len(scores)
    if max(apart, each) > 1e-4:
        raise SystemExit(f"the two differ by {max(apart, each):.2g} in log10 of a word")
    from_text, from_ids, kenlm_seconds = [], [], []
    for _ in range(pairs):
        from_text.append(seconds(lambda: model.compiled().scores(np.append(0, words.ids(lines)))))
        kenlm_seconds.append(seconds(lambda: sum(theirs.score(line) for line in lines)))
        from_ids.append(seconds(lambda: model.compiled().scores(stream)))
    found: dict[str, Any] = {"words": len(ids), "order": order, "ngrams": sum(len(chances) for _, chances, _ in model.levels()),
                             "largest_difference_log10": max(apart, each), "compile_seconds": compiling}
    return found | {"from_lines": compare(from_text, kenlm_seconds), "from_ids": compare(from_ids, kenlm_seconds)}


def race_estimating(lines: list[str], words: Words, order: int, pairs: int, lmplz: Path, folder: Path) -> dict[str, Any]:
    """Turn lines into an ARPA file in turns."""
    text = folder / "lines.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [str(lmplz), "-o", str(order), "--discount_fallback", "-S", "1G", "-T", str(folder), "--text", str(text), "--arpa",
               str(folder / "theirs.arpa")]
    ours, theirs, counting = [], [], []
    ids, options = words.ids(lines), NgramOptions(order=order, smoothing="kneser_ney", max_tokens=1 << 31)
    for _ in range(pairs):
        ours.append(seconds(lambda: estimate(lines, words, order, folder / "ours.arpa")))
        theirs.append(seconds(lambda: subprocess.run(command, check=True, capture_output=True)))
        counting.append(seconds(lambda: fit_ngram(ids, ids[:0], words.size, 0, options)))
    return {"words": len(ids), "order": order, **compare(ours, theirs), "ours_without_writing": statistics.median(counting)}


class OneText:
    """A text in memory as the corpus that tokenizer training reads."""

    def __init__(self, text: str) -> None:
        self.data = text.encode("utf-8")

    def part(self, name: str) -> Any:
        return np.array([(0, len(self.data))], dtype=[("start", "<i8"), ("end", "<i8")])

    def part_bytes(self, name: str) -> int:
        return len(self.data)

    def text(self, start: int, end: int) -> str:
        return self.data[start:end].decode("utf-8", errors="ignore")

    def pieces(self, start: int, end: int, size: int) -> Any:
        from myna.tokenizer.pieces import cut

        yield from cut(self.text(start, end), size // 4)


def measure_index(data: Path, runs: int, folder: Path) -> dict[str, float]:
    """Build the index of a text's tokens and count 10,000 runs of them, half of them with one id changed."""
    from myna.corpus.index import build_index
    from myna.tokenizer.options import TokenizerOptions
    from myna.tokenizer.train import train_tokenizer

    text = data.read_text(encoding="utf-8")
    tokenizer = train_tokenizer(OneText(text), TokenizerOptions())
    size = tokenizer.vocab_size
    ids = np.array(tokenizer.encode(text), np.uint16 if size <= 1 << 16 else np.uint32)
    building = [seconds(lambda run=run: build_index(ids, folder / f"index{run}", size)) for run in range(runs)]
    index = build_index(ids, folder / "index", size)
    rng = np.random.default_rng(0)
    queries = []
    for number in range(10_000):
        at, length = int(rng.integers(0, len(ids) - 8)), int(rng.integers(1, 9))
        query = ids[at:at + length].tolist()
        if number % 2:
            query[int(rng.integers(0, length))] = int(rng.integers(0, size))
        queries.append(query)
    index.count(queries[0])
    times = [seconds(lambda query=query: index.count(query)) * 1e6 for query in queries]
    return {"tokens": len(ids), "megabytes": len(text.encode()) / 1e6, "megabytes_per_second": len(text.encode()) / 1e6
            / statistics.median(building), "count_microseconds": statistics.median(times),
            "count_microseconds_99": float(np.percentile(times, 99))}


def main() -> None:
    """Race and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text file")
    parser.add_argument("--peer", type=Path, help="KenLM's lmplz; without it estimating is not raced")
    parser.add_argument("--order", type=int, default=5, help="order of the models (default 5)")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if not args.data.is_file() or (args.peer and not args.peer.is_file()):
        parser.error(f"no file {args.data if not args.data.is_file() else args.peer}")
    lines = read_words(args.data)
    words = Words(lines)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scoring = race_scoring(lines, words, args.order, args.pairs, folder)
        estimating = race_estimating(lines, words, args.order, args.pairs, args.peer, folder) if args.peer else None
        index = measure_index(args.data, args.pairs, folder)
    found = {"benchmark": "ngram", "data": args.data.name, "pairs": args.pairs, "scoring": scoring, "estimating": estimating,
             "index": index, "ratio": scoring["from_lines"]["ratio"]}
    if args.json:
        print(json.dumps(found))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print the results for a person."""
    scoring, estimating, index = found["scoring"], found["estimating"], found["index"]
    print(f"scoring {scoring['words']:,} words with {scoring['ngrams']:,} n-grams of order {scoring['order']}, million words a second")
    for name in ("from_lines", "from_ids"):
        row = scoring[name]
        ours, theirs = (scoring["words"] / row[side] / 1e6 for side in ("ours", "theirs"))
        print(f"  {name:<12} myna {ours:6.2f}   kenlm {theirs:6.2f}   ratio of seconds {row['ratio']:.3f} "
              f"({row['ratio_low']:.3f} to {row['ratio_high']:.3f})")
    print(f"  compiled in {scoring['compile_seconds']:.1f} s; largest difference {scoring['largest_difference_log10']:.1e} in log10")
    if estimating:
        print(f"estimating {estimating['words']:,} words to an ARPA file: myna {estimating['ours']:.2f} s "
              f"({estimating['ours_without_writing']:.2f} s of it without the file), lmplz {estimating['theirs']:.2f} s, ratio "
              f"{estimating['ratio']:.3f} ({estimating['ratio_low']:.3f} to {estimating['ratio_high']:.3f})")
    else:
        print("estimating: not raced (no --peer)", file=sys.stderr)
    print(f"index of {index['tokens']:,} tokens: {index['megabytes_per_second']:.1f} MB of text a second; a count takes "
          f"{index['count_microseconds']:.1f} microseconds (99 of 100 below {index['count_microseconds_99']:.1f})")


if __name__ == "__main__":
    main()
