"""Measure a model on files a person names, cleaned as a build cleans them, beside the baseline in its directory.

    evaluate_files(load_model(folder), Tokenizer.open(folder), [Path("unseen.txt")], folder / "ngram")
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from myna.console import human, say
from myna.corpus.clean import clean
from myna.corpus.options import CleanOptions
from myna.corpus.read import walk
from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.evaluate.language import Text, corpus_text, report_language
from myna.evaluate.options import EvaluateOptions
from myna.files import read_json, sha256
from myna.metrics.report import Report
from myna.models.ngram import Ngram
from myna.tokenizer.tokenizer import Tokenizer


def evaluate_files(model: Any, tokenizer: Tokenizer, files: Sequence[Path], beside: Path,
                   options: EvaluateOptions | None = None) -> Report:
    """Score a model and the n-gram in the directory `beside`, if there is one, on the same cleaned bytes.

    A model that predicts the next token is scored on all of them, an encoder on hidden tokens. Says
    what was left out of the files. Raises UserError when a file is missing or no text is left.
    """
    if not hasattr(model, "log_probs") and not hasattr(model, "masked_log_probs"):
        raise UserError(f"a {type(model).__name__} gives no probability to a text", "a language model or an encoder",
                        "`myna show` has how it was measured when it was made")
    baseline = Ngram.open(beside) if beside.is_dir() else None
    if baseline is None:
        say(f"no baseline: {beside} does not exist" + (" (the model is itself an n-gram)" if isinstance(model, Ngram) else ""))
    with open_text(files) as text:
        name = baseline.name if baseline else ""
        if hasattr(model, "masked_log_probs"):
            from myna.evaluate.masked import report_masked

            return report_masked(model, tokenizer, text, baseline, name, options)
        return report_language(model, tokenizer, text, baseline, name, Tokenizer.open(beside) if baseline else None, options)


@contextlib.contextmanager
def open_text(files: Sequence[Path]) -> Iterator[Text]:
    """Clean files as a build does, to be read while the context is open; says what was left out."""
    with tempfile.TemporaryDirectory() as temporary:
        cleaned = clean(files, Path(temporary), CleanOptions())
        corpus = Corpus(Path(temporary))
        text = corpus_text(corpus)
        dropped = ", ".join(f"{human(size)}B {reason}" for reason, size in cleaned["totals"]["dropped"].items())
        count = len(corpus.documents)
        kept = f"{count} document{'' if count == 1 else 's'}, {human(text.bytes)}B of cleaned text"
        say(f"evaluating on {kept}" + (f"; dropped {dropped}" if dropped else ""))
        for entry in cleaned["files"]:
            if entry["status"] != "ok":
                say(f"{entry['path']} is {entry['status']}: {entry['reason']}")
        yield text


def leave_out_seen(folder: Path, data: Sequence[Path]) -> list[Path]:
    """Return the files under `data` that the model in `folder` was not built from, by their hashes; says how many it was.

    Raises UserError when none is left.
    """
    files = [place.path for place in walk(data)]
    record = read_json(folder / "myna.json") if (folder / "myna.json").is_file() else {}
    lineage = record.get("lineage") if isinstance(record, dict) else None
    inputs = lineage.get("inputs") if isinstance(lineage, dict) else None
    seen = {one.get("sha256") for one in inputs if isinstance(one, dict)} if isinstance(inputs, list) else set()
    unseen = [path for path in files if not path.is_file() or sha256(path) not in seen]
    if len(unseen) < len(files):
        say(f"{len(files) - len(unseen):,} of {len(files):,} files are left out: the model was built from them")
    if not unseen:
        raise UserError(f"{folder} was built from all {len(files):,} files", "text that it never saw", "give other files")
    return unseen
