"""Measure a model on files a person names, cleaned as a build cleans them, beside the baseline in its directory.

    evaluate_files(load_model(folder), Tokenizer.open(folder), [Path("unseen.txt")], folder / "ngram")
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from myna.console import human, say
from myna.corpus.clean import clean
from myna.corpus.options import CleanOptions
from myna.corpus.store import Corpus
from myna.evaluate.language import corpus_text, report_language
from myna.evaluate.options import EvaluateOptions
from myna.metrics.report import Report
from myna.models.ngram import Ngram
from myna.models.protocol import LanguageModel
from myna.tokenizer.tokenizer import Tokenizer


def evaluate_files(model: LanguageModel, tokenizer: Tokenizer, files: Sequence[Path], beside: Path,
                   options: EvaluateOptions | None = None) -> Report:
    """Score a model and the n-gram in the directory `beside`, if there is one, on the same cleaned bytes.

    Says what was left out of the files. Raises UserError when a file is missing or no text is left.
    """
    baseline = Ngram.open(beside) if beside.is_dir() else None
    if baseline is None:
        say(f"no baseline: {beside} does not exist" + (" (the model is itself an n-gram)" if isinstance(model, Ngram) else ""))
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
        return report_language(model, tokenizer, text, baseline, baseline.name if baseline else "",
                               Tokenizer.open(beside) if baseline else None, options)
