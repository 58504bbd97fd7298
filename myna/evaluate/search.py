"""Measure how well an index finds: recall, reciprocal rank and discounted gain over questions whose right passages are known.

What is ranked is files, each at its best passage, or passages where a question quotes one (`myna.data.relevance`). A search by vectors,
or by both, stands beside BM25 on the same questions; BM25 beside the plainest ranking there is, by how many of a question's different
words a passage holds.

    index, embed = open_index(Path("my-index"))
    measured = measure_search(index, reading.queries, EvaluateOptions(), "auto", embed)
    measured.report.metrics["recall_at_5"].value, measured.details["worst"]
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from myna.console import track
from myna.data.relevance import Query
from myna.errors import UserError
from myna.evaluate.measured import Measured
from myna.evaluate.options import EvaluateOptions
from myna.metrics.paired import Measure, means, measured_report, ratio
from myna.metrics.ranking import discounted_gain, recall_at, reciprocal_rank
from myna.retrieval.index import Embed, Index
from myna.retrieval.lexical import match_blocks
from myna.retrieval.options import Mode, SearchOptions
from myna.retrieval.terms import count_terms

_DEPTH = 100  # passages ranked, of which the first ten files or passages are looked at
_FIRST = 10  # what nobody scrolls to does not count
_EXAMPLES, _CHARACTERS = 5, 300  # questions shown at each end, and how much of each text
_AT_ONCE = 1024  # questions turned into vectors together

Rank = Callable[[str], list[tuple[int, float]]]
_METRICS: dict[str, Callable[[Sequence[str], set[str]], float]] = {
    **{f"recall_at_{k}": lambda ranked, relevant, k=k: recall_at(ranked, relevant, k) for k in (1, 5, 10)},  # type: ignore[misc]
    "mrr_at_10": lambda ranked, relevant: reciprocal_rank(ranked, relevant, _FIRST),
    "ndcg_at_10": lambda ranked, relevant: discounted_gain(ranked, dict.fromkeys(relevant, 1.0), _FIRST)}


def measure_search(index: Index, queries: Sequence[Query], options: EvaluateOptions, mode: Mode = "auto",
                   embed: Embed | None = None) -> Measured:
    """Measure a search over questions; those about which the index holds nothing are left out and counted.

    Raises UserError when fewer than two are left, or the index has no vectors for the mode.
    """
    mode = index.mode(mode, embed)
    kept, left_out = find_relevant(index, queries)
    if len(kept) < 2:
        why = "; ".join(f"{count:,} {reason}" for reason, count in left_out.most_common()) or "of too few"
        raise UserError(f"{len(kept)} questions are left ({why})", "at least 2 about what is in the index",
                        f"see myna index --list --out {index.folder} for its files")
    began = time.monotonic()
    ranked = _rank_all(index, kept, "questions", lambda texts: _ranks(index, texts, mode, embed))
    seconds = (time.monotonic() - began) / len(kept)
    name, plain = ("BM25", "lexical") if mode != "lexical" else ("shared words", "")
    others = _rank_all(index, kept, "baseline", lambda texts: [_shared(index, text) if not plain else
                                                               index.rank(text, SearchOptions(_DEPTH, "lexical")) for text in texts])
    files = sum(file["last"] > file["first"] for file in index.files.values())
    passages = int((~index.deleted).sum())
    how = f"files={files}|passages={passages}|unit=question|bootstrap={options.resamples}|seed={options.seed}|v1"
    measures = {}
    for metric, score in _METRICS.items():
        values, beside = ([score(row, relevant) for row, (_, relevant) in zip(rows, kept, strict=True)] for rows in (ranked, others))
        measures[metric] = Measure(means(np.array(values)), ratio, f"{metric}|{how}", means(np.array(beside)))
    report = measured_report(measures, name, options.resamples, options.seed)
    details = {"mode": mode, "questions": len(kept), "left_out": dict(left_out), "files": files, "passages": passages,
               "seconds_per_question": seconds, **_show_ends(index, kept, ranked, others)}
    return Measured(report, details, _say(details, name))


# ---- what is relevant ----


def find_relevant(index: Index, queries: Sequence[Query]) -> tuple[list[tuple[Query, set[str]]], Counter[str]]:
    """Find what questions name in an index: files by their paths there, passages by their numbers; and count what is left out, with why."""
    by_name: dict[str, list[str]] = {}
    for path, file in index.files.items():
        if file["last"] > file["first"]:
            for name in {PurePath(path).name, PurePath(path).stem}:
                by_name.setdefault(name, []).append(path)
    texts = [] if all(not query.quote for query in queries) else [
        ("" if index.deleted[number] else _bare(index.hit(number).text)) for number in range(len(index))]
    kept: list[tuple[Query, set[str]]] = []
    left_out: Counter[str] = Counter()
    for query in queries:
        found = [_find_file(name, by_name) for name in query.relevant]
        if problem := next((one for one in found if isinstance(one, str)), ""):
            left_out[problem] += 1
            continue
        files = {file for one in found for file in one}
        relevant = {str(number) for number in _find_quote(index, texts, query.quote, files)} if query.quote else files
        if relevant:
            kept.append((query, relevant))
        else:
            left_out["quote what is in no passage"] += 1
    return kept, left_out


def _find_file(name: str, by_name: dict[str, list[str]]) -> list[str] | str:
    """Return the one file that a name means, in a list, or say why there is none."""
    wanted = PurePath(name).parts
    found = []
    for path in by_name.get(wanted[-1] if wanted else "", []):
        parts = PurePath(path).parts
        above = min(len(parts), len(wanted)) - 1
        if parts[len(parts) - 1 - above : -1] == wanted[len(wanted) - 1 - above : -1]:
            found.append(path)
    if len(found) > 1:
        found = [path for path in found if PurePath(path).name == wanted[-1]] or found
    return found if len(found) == 1 else "name a file that is not in the index" if not found else "name what several files are called"


def _bare(text: str) -> str:
    """Leave out white space and the case of letters, which a quotation may change."""
    return "".join(text.split()).casefold()


def _find_quote(index: Index, texts: Sequence[str], quote: str, files: set[str]) -> list[int]:
    """List the passages that hold a quotation, or the two that it goes over the border of."""
    wanted = _bare(quote)
    inside = [number for number, text in enumerate(texts) if wanted in text and (not files or index.owner(number) in files)]
    if inside:
        return inside
    for number, (text, after) in enumerate(itertools.pairwise(texts)):
        if wanted in text + after and index.owner(number) == index.owner(number + 1) and (not files or index.owner(number) in files):
            return [number, number + 1]
    return []


# ---- ranking ----


def _rank_all(index: Index, kept: Sequence[tuple[Query, set[str]]], label: str,
              rank: Callable[[Sequence[str]], list[list[tuple[int, float]]]]) -> list[list[str]]:
    """Rank for every question: names of files, each once, or numbers of passages where the question quotes one."""
    rows: list[list[str]] = []
    with track(label, len(kept), " questions") as advance:
        for at in range(0, len(kept), _AT_ONCE):
            part = kept[at : at + _AT_ONCE]
            for (query, _), ranking in zip(part, rank([query.text for query, _ in part]), strict=True):
                names = [str(passage) if query.quote else index.owner(passage) for passage, _ in ranking]
                rows.append(list(dict.fromkeys(names)))
            advance(len(part))
    return rows


def _ranks(index: Index, texts: Sequence[str], mode: Mode, embed: Embed | None) -> list[list[tuple[int, float]]]:
    options = SearchOptions(_DEPTH, mode)
    if mode == "lexical" or embed is None:
        return [index.rank(text, options) for text in texts]
    vectors = embed(texts)  # in batches, many times faster than one by one
    return [index.rank(text, options, lambda _, row=row: vectors[row : row + 1])  # type: ignore[misc]
            for row, text in enumerate(texts)]


def _shared(index: Index, text: str) -> list[tuple[int, float]]:
    return index.best(match_blocks(index.blocks, count_terms(text), index.deleted), _DEPTH, "lexical", above=0.0)


# ---- what is shown ----


def _show_ends(index: Index, kept: Sequence[tuple[Query, set[str]]], ranked: Sequence[Sequence[str]],
               others: Sequence[Sequence[str]]) -> dict[str, list[dict[str, Any]]]:
    """Show the questions answered best and worst, and those on which search and baseline differ most either way."""
    scores = np.array([[reciprocal_rank(row, relevant, _FIRST) for row, (_, relevant) in zip(rows, kept, strict=True)]
                       for rows in (ranked, others)])
    apart = scores[0] - scores[1]

    def show(at: int) -> dict[str, Any]:
        query, relevant = kept[at]
        first = ranked[at][0] if ranked[at] else ""
        return {"question": query.text[:_CHARACTERS], "cut": len(query.text) > _CHARACTERS, "where": query.where,
                "relevant": sorted(relevant)[:_FIRST] if not query.quote else [query.quote[:_CHARACTERS]],
                "rank": _rank_of(ranked[at], relevant), "baseline_rank": _rank_of(others[at], relevant),
                "first": index.hit(int(first)).text[:_CHARACTERS] if query.quote and first else first}

    orders = {"best": np.argsort(-scores[0], kind="stable"), "worst": np.argsort(scores[0], kind="stable"),
              "gained": np.argsort(-apart, kind="stable")[: int((apart > 0).sum())],
              "lost": np.argsort(apart, kind="stable")[: int((apart < 0).sum())]}
    return {name: [show(int(at)) for at in order[:_EXAMPLES]] for name, order in orders.items()}


def _rank_of(row: Sequence[str], relevant: set[str]) -> int | None:
    return next((rank for rank, name in enumerate(row, start=1) if name in relevant), None)


def _say(details: dict[str, Any], baseline: str) -> list[str]:
    """Say in lines what lies behind the scores."""
    lines = [f"{details['mode']}: {details['questions']:,} questions over {details['passages']:,} passages of {details['files']:,} files, "
             f"{1000 * details['seconds_per_question']:.0f} ms each"]
    lines += [f"{count:,} questions left out, which {reason}" for reason, count in details["left_out"].items()]
    titles = {"worst": "worst (rank of what is relevant)", "gained": f"found better than by {baseline} (ranks here, there)",
              "lost": f"found worse than by {baseline} (ranks here, there)"}
    for name, title in titles.items():
        if details[name]:
            lines.append(f"{title}:")
        for row in details[name][:3]:
            ranks = [row["rank"]] if name == "worst" else [row["rank"], row["baseline_rank"]]
            lines.append(f"  {', '.join(str(rank or 'none') for rank in ranks)}: {' '.join(row['question'].split())[:70]}")
    return lines
