"""Word vectors beside gensim's word2vec: the same words of the same text, the same settings, one thread each.

    python benchmarks/vectors.py DATA [--peer PYTHON] [--pairs 3] [--epochs 5] [--json]

DATA is a file or folder of English text. --peer names a Python that has gensim (default: this one). Each run is a fresh process, and
the two alternate; timed is the training from words in memory to vectors, building the vocabulary and compiling the loops included, imports
and reading not. Both write the word2vec text format, and both files are scored here: the share of (word, related, unrelated) triples
whose related word is nearer, among triples that both know. The triples were written for this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SETTING = {"hidden_size": 100, "window": 5, "negatives": 5, "sample": 0.001, "min_count": 5, "learning_rate": 0.025}
TRIPLES = """
king queen river|king prince bread|son daughter stone|father mother gold|brother sister wine|man woman sword|bread meat house
wine drink wall|silver gold tree|sun moon father|day night hand|river sea king|mountain hill son|sword spear oil|horse chariot bread
sheep goats gate|ox ass fire|city gate child|house door blood|hand arm day|eye ear road|mouth lips field|head hair city|foot feet moon
heaven earth coat|fire burn mother|water sea sword|rain cloud lamb|tree fruit king|corn oil eye|priest altar horse|prophet vision wine
servant master mountain|war battle bread|enemy foes corn|death grave silver|life death horse|love hate gold|joy gladness stone
sorrow grief gate|fear afraid oil|wise fool sheep|good evil tree|light darkness ass|black white brother|old young river|two three earth
seven ten mouth|north south son|speak words fish|weep tears gold|sing song sword|eat drink wall|come go silver|heart soul camel
crown throne door|lord god iron|law commandments fish|sin iniquity horse|ship sea altar|lion bear house|flesh blood night
""".replace("\n", "|")
SHOWN = ("king", "bread", "river", "wise")


def read_text(data: Path) -> str:
    """Read a file, or the text files of a folder in order."""
    files = sorted(path for path in data.rglob("*.txt")) if data.is_dir() else [data]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def prepare(text: str, folder: Path) -> None:
    """Make a tokenizer of words and write the ids, and the words that they stand for, a line for a document."""
    from train import OneText  # the file beside this one

    from myna.models.vectors_fit import Stream
    from myna.tokenizer.options import TokenizerOptions
    from myna.tokenizer.train import train_tokenizer

    tokenizer = train_tokenizer(OneText(text), TokenizerOptions(kind="words"))
    tokenizer.save(folder)
    ids = np.array([id for part in text.split("\n\n") for id in (*tokenizer.encode(part), tokenizer.separator_id)], np.int64)
    np.save(folder / "ids.npy", ids)
    stream = Stream(ids, tokenizer, tokenizer.separator_id, "words")
    words = [stream.words[number] if number >= 0 else "\n" for number in stream.block(0, len(ids))]
    lines = (" ".join(line.split()) for line in " ".join(words).split("\n"))
    (folder / "words.txt").write_text("\n".join(line for line in lines if line), encoding="utf-8")


def run_ours(folder: Path, epochs: int) -> dict[str, float]:
    """Train with Myna and write ours.vec."""
    from myna.formats.word2vec import write_word2vec
    from myna.models import vectors_kernels  # noqa: F401 (an import, not counted, as gensim's is not)
    from myna.models.options import VectorsOptions
    from myna.models.vectors_fit import fit_vectors
    from myna.tokenizer.tokenizer import Tokenizer

    tokenizer, ids = Tokenizer.open(folder), np.load(folder / "ids.npy")
    began, used = time.perf_counter(), time.process_time()
    vectors = fit_vectors(ids, tokenizer, tokenizer.separator_id, VectorsOptions(epochs=epochs, **SETTING))  # type: ignore[arg-type]
    found = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used, "words": vectors.facts["words_in_text"]}
    write_word2vec(vectors, folder / "ours.vec")
    return found


def run_theirs(folder: Path, epochs: int) -> dict[str, float]:
    """Train with gensim and write theirs.vec."""
    from gensim.models import Word2Vec  # type: ignore[import-not-found,import-untyped,unused-ignore]

    documents = [line.split() for line in (folder / "words.txt").read_text(encoding="utf-8").split("\n")]
    began, used = time.perf_counter(), time.process_time()
    model = Word2Vec(documents, vector_size=SETTING["hidden_size"], window=SETTING["window"], negative=SETTING["negatives"],
                     sample=SETTING["sample"], min_count=SETTING["min_count"], alpha=SETTING["learning_rate"], epochs=epochs,
                     sg=1, workers=1, seed=0)
    found = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used, "words": sum(map(len, documents))}
    model.wv.save_word2vec_format(str(folder / "theirs.vec"))
    return found


def score(folder: Path) -> dict[str, Any]:
    """Compare the two files: triples in the right order, and the nearest of a few words."""
    from myna.models.vectors import import_word2vec

    both = {name: import_word2vec(folder / f"{file}.vec") for name, file in (("myna", "ours"), ("gensim", "theirs"))}
    triples = [triple.split() for triple in TRIPLES.split("|") if triple]
    known = [triple for triple in triples if all(vectors.find(word) is not None for vectors in both.values() for word in triple)]
    found: dict[str, Any] = {"triples": len(known)}
    for name, vectors in both.items():
        unit = vectors.table / np.linalg.norm(vectors.table, axis=1, keepdims=True)
        rows = np.array([[vectors.find(word) for word in triple] for triple in known]).reshape(-1, 3)
        first, related, unrelated = (unit[rows[:, column]] for column in range(3))
        right = int(np.sum(np.sum(first * related, 1) > np.sum(first * unrelated, 1)))
        nearest = {word: [other for other, _ in vectors.nearest(word, 5)] for word in SHOWN if vectors.find(word) is not None}
        found[name] = {"right": right / max(len(known), 1), "nearest": nearest}
    return found


def race(data: Path, peer: str, pairs: int, epochs: int) -> dict[str, Any]:
    """Alternate the two and compare medians."""
    runs: dict[str, list[dict[str, float]]] = {"myna": [], "gensim": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(read_text(data), folder)
        for _ in range(pairs):
            for name, python, flag in (("myna", sys.executable, "--run-ours"), ("gensim", peer, "--run-theirs")):
                command = [python, str(Path(__file__).resolve()), str(data), flag, str(folder), "--epochs", str(epochs)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
                runs[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(f"{name}: {runs[name][-1]['seconds']:.1f} s, {runs[name][-1]['cpu_seconds']:.1f} s of processor", file=sys.stderr)
        scored = score(folder)
    found: dict[str, Any] = {"benchmark": "vectors", "data": data.name, "pairs": pairs, "epochs": epochs, **scored, "runs": runs}
    for key in ("seconds", "cpu_seconds"):
        ratios = [a[key] / b[key] for a, b in zip(runs["myna"], runs["gensim"], strict=True)]
        found[key] = {name: statistics.median(run[key] for run in runs[name]) for name in runs}
        found[key] |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
    return found


def main() -> None:
    """Race, and print medians, the ratio ours / theirs, and what both found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a text file or a folder of .txt")
    parser.add_argument("--peer", default=sys.executable, metavar="PYTHON", help="a Python with gensim (default: this one)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the text (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--run-ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run-theirs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_ours or args.run_theirs:
        print(json.dumps(run_ours(args.run_ours, args.epochs) if args.run_ours else run_theirs(args.run_theirs, args.epochs)))
        return
    if not args.data.exists():
        parser.error(f"no such file or folder: {args.data}")
    found = race(args.data, args.peer, args.pairs, args.epochs)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name in ("myna", "gensim"):
        words = found["runs"][name][0]["words"] * args.epochs
        print(f"{name:7} {found['seconds'][name]:6.1f} s, {found['cpu_seconds'][name]:6.1f} s of processor, "
              f"{words / found['cpu_seconds'][name] / 1e3:.0f}k words per second of processor; "
              f"{found[name]['right']:.1%} of {found['triples']} triples")
        for word, others in found[name]["nearest"].items():
            print(f"        {word}: {', '.join(others)}")
    for key in ("seconds", "cpu_seconds"):
        print(f"ratio of {key}: {found[key]['ratio']:.2f} ({found[key]['ratio_low']:.2f} to {found[key]['ratio_high']:.2f})")


if __name__ == "__main__":
    main()
