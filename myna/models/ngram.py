"""The n-gram language model: the baseline that every other model stands beside, and a complete `LanguageModel` itself.

Each seen n-gram stores its interpolated log-probability and each context its back-off weight, so the probability of an id is
that of the longest n-gram seen, times the weights of the longer contexts seen (the form ARPA files and KenLM have).
`log_probs` is one sorted search per level over all positions at once; `step` spreads the same stored numbers over the
vocabulary, shortest context first, so the two agree to the bit.

Source: Chen & Goodman (1999); see `myna.models.counts` for the estimates. Storage as in K. Heafield, "KenLM: faster and
smaller language model queries", WMT 2011, section 2 (the sorted-array trie).

    model = fit_ngram(train.ids, valid.ids, vocab_size=2048, separator_id=0)
    model.log_probs([17, 5, 99])                         # (3,) natural log-probabilities
    state = model.start()
    model.step([[0, 17, 5]], state)                      # (1, 2048)

B rows, T tokens, V vocabulary, K order, P positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from myna.console import human, say
from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.models.counts import Counts, Table, estimate, find, with_start
from myna.models.options import NgramOptions, Smoothing
from myna.models.protocol import Ids, LogProbs

Array = npt.NDArray[Any]

_POSITIONS = 1 << 18  # scored at once: about 100 bytes each
_VALID_TOKENS = 1_000_000  # enough to tell orders apart: their differences are some hundredths of a bit per token


class NgramState:
    """The ids each row has taken."""

    def __init__(self, rows: int) -> None:
        self.ids: list[list[int]] = [[] for _ in range(rows)]

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.ids]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids."""
        for row, length in zip(self.ids, lengths, strict=True):
            if not 0 <= length <= len(row):
                raise ValueError(f"cannot cut a row of {len(row)} ids to {length}")
            del row[length:]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order."""
        self.ids = [list(self.ids[row]) for row in rows]


class Ngram:
    """A back-off n-gram model over token ids.

    keys: per level from 2, the sorted int64 keys (node of the context * V + id). log_probs: per level from 1, float32.
    backoffs: per level from 1 to order - 1, float32 log-weight of each node as a context. facts: how it was estimated
    (smoothing, discounts, what was tried), JSON values written to config.json.
    """

    max_length: int | None = None

    def __init__(self, vocab_size: int, separator_id: int, keys: list[Array], log_probs: list[Array], backoffs: list[Array],
                 facts: dict[str, Any]) -> None:
        self.vocab_size = vocab_size
        self.separator_id = separator_id
        self.facts = facts
        self._keys, self._log_probs, self._backoffs = keys, log_probs, backoffs

    @property
    def order(self) -> int:
        """Length of the longest n-gram."""
        return len(self._log_probs)

    @property
    def name(self) -> str:
        """Say what it is, as a table's heading does."""
        titles = {"kneser_ney": "modified Kneser-Ney", "witten_bell": "Witten-Bell"}
        return f"{self.order}-gram, {titles.get(self.facts.get('smoothing', ''), 'smoothed')}"

    def start(self, rows: int = 1, source: Any = None) -> NgramState:
        """Return a state of `rows` rows with nothing seen."""
        return NgramState(rows)

    def log_probs(self, ids: Sequence[int], source: Any = None) -> LogProbs:
        """Score one document after the separator: (T,)."""
        stream = np.append(self.separator_id, self._checked(ids))
        scores = np.empty(len(stream) - 1, np.float32)
        for start in range(0, len(scores), _POSITIONS):
            first = max(0, start - max(0, self.order - 2))  # the ids that the piece's first context reaches
            piece = stream[first:start + _POSITIONS + 1]
            scores[start:start + _POSITIONS] = self._scores(piece)[start - first:]
        return scores

    def _scores(self, stream: Array) -> LogProbs:
        """Score every id but the first, given those before it in `stream`."""
        levels = self._levels(stream, np.arange(len(stream)))
        scores = self._log_probs[0][stream[1:]].copy()
        for level in range(2, self.order + 1):
            contexts = levels[level - 2][:-1]
            inside = np.flatnonzero(contexts >= 0)
            if level < self.order:
                found = levels[level - 1][1:][inside]
            else:
                found = find(self._keys[-1], contexts[inside] * self.vocab_size + stream[1:][inside])
            longer = scores[inside] + self._backoffs[level - 2][contexts[inside]]
            scores[inside] = np.where(found >= 0, self._log_probs[level - 1][found], longer)
        return scores

    def step(self, ids: Ids, state: NgramState, last: bool = True) -> LogProbs:
        """Append `ids` to the state; (B, V) after each row's last id, or (B, T, V) after every id with last=False."""
        if len(ids) != len(state.ids):
            raise ValueError(f"{len(ids)} rows of ids for a state of {len(state.ids)} rows")
        new = [self._checked(row) for row in ids]
        if any(len(row) == 0 for row in new):
            raise ValueError("every row takes at least one id")
        tails = [held[max(0, len(held) - self.order + 2):] for held in state.ids]  # the ids that a context may still reach
        stream = np.concatenate([part for pair in zip(tails, new, strict=True) for part in pair]).astype(np.int64)
        ends = np.cumsum([len(tail) + len(row) for tail, row in zip(tails, new, strict=True)])
        reach = np.concatenate([np.arange(len(tail) + len(row)) for tail, row in zip(tails, new, strict=True)])
        levels = self._levels(stream, reach)
        for held, taken in zip(state.ids, new, strict=True):
            held.extend(taken.tolist())
        if last:
            return self._rows([nodes[ends - 1] for nodes in levels])
        out = np.zeros((len(new), max(map(len, new)), self.vocab_size), np.float32)  # (B, T, V)
        for b, (end, row) in enumerate(zip(ends, new, strict=True)):
            out[b, :len(row)] = self._rows([nodes[end - len(row):end] for nodes in levels])
        return out

    def _checked(self, ids: Sequence[int] | Array) -> Array:
        row = np.asarray(ids, np.int64)
        if row.ndim != 1 or (len(row) and (row.min() < 0 or row.max() >= self.vocab_size)):
            raise ValueError(f"ids must be a flat list of numbers from 0 to {self.vocab_size - 1}")
        return row

    def _levels(self, stream: Array, reach: Array) -> list[Array]:
        """Return, per level below the order, the node of the n-gram that ends at each position; -1 where it was not seen.

        reach: how many ids before each position belong to its row.
        """
        levels = [stream]
        for level in range(2, self.order):
            nodes = np.full(len(stream), -1, np.int64)
            inside = np.flatnonzero(reach >= level - 1)
            inside = inside[levels[-1][inside - 1] >= 0]
            nodes[inside] = find(self._keys[level - 2], levels[-1][inside - 1] * self.vocab_size + stream[inside])
            levels.append(nodes)
        return levels

    def _rows(self, contexts: list[Array]) -> LogProbs:
        """Spread the distribution after each position, given its context's node per level: (P, V)."""
        rows = np.tile(self._log_probs[0], (len(contexts[0]), 1))
        for level in range(2, self.order + 1):
            inside = np.flatnonzero(contexts[level - 2] >= 0)
            nodes = contexts[level - 2][inside]
            rows[inside] += self._backoffs[level - 2][nodes][:, None]
            keys = self._keys[level - 2]
            first, end = np.searchsorted(keys, nodes * self.vocab_size), np.searchsorted(keys, (nodes + 1) * self.vocab_size)
            for row, a, b in zip(inside, first, end, strict=True):
                rows[row, keys[a:b] % self.vocab_size] = self._log_probs[level - 1][a:b]
        return rows

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder` (the tokenizer's files are the caller's)."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"level_{k}.log_probs": values for k, values in enumerate(self._log_probs, start=1)}
        tensors |= {f"level_{k}.backoffs": values for k, values in enumerate(self._backoffs, start=1)}
        tensors |= {f"level_{k}.keys": values for k, values in enumerate(self._keys, start=2)}
        write_atomic(folder / "model.safetensors", save(tensors))  # save_file would make it readable by its owner alone
        write_json(folder / "config.json", {
            "model_type": "ngram", "order": self.order, "vocab_size": self.vocab_size, "separator_id": self.separator_id,
            "ngrams": [len(values) for values in self._log_probs], **self.facts})

    @classmethod
    def open(cls, folder: Path) -> Ngram:
        """Read a model directory. Raises UserError unless every size, type, key and number in it fits the others."""
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or config.get("model_type") != "ngram":
            raise UserError(f"{folder / 'config.json'} is not an n-gram's", 'model_type "ngram"', "give an n-gram's directory")
        vocab_size, separator_id, ngrams = config.get("vocab_size"), config.get("separator_id"), config.get("ngrams")
        if not (isinstance(ngrams, list) and ngrams and all(_whole(n, 1) for n in ngrams) and _whole(config.get("order"), 1)
                and len(ngrams) == config["order"] and isinstance(vocab_size, int) and vocab_size == ngrams[0]
                and isinstance(separator_id, int) and _whole(separator_id, 0) and separator_id < vocab_size):
            raise UserError(f"{folder / 'config.json'} has sizes that cannot be", "order, vocab_size, separator_id and ngrams that agree",
                            "restore the directory or build it again")
        tensors = _read_tensors(folder / "model.safetensors", ngrams)
        order = len(ngrams)
        facts = {key: value for key, value in config.items() if key not in ("model_type", "order", "vocab_size", "separator_id", "ngrams")}
        model = cls(vocab_size, separator_id, [tensors[f"level_{k}.keys"] for k in range(2, order + 1)],
                    [tensors[f"level_{k}.log_probs"] for k in range(1, order + 1)],
                    [tensors[f"level_{k}.backoffs"] for k in range(1, order)], facts)
        model._check(folder / "model.safetensors")
        return model

    def _check(self, where: Path) -> None:
        """Refuse numbers that would index outside an array or are no log-probabilities."""
        def refuse(what: str) -> UserError:
            return UserError(f"{where} is damaged: {what}", "an n-gram model as Myna writes it", "restore the file or build it again")

        above = len(self._log_probs[0])
        for level, keys in enumerate(self._keys, start=2):
            if keys[0] < 0 or keys[-1] // self.vocab_size >= above or not np.all(keys[1:] > keys[:-1]):
                raise refuse(f"the keys of level {level} are out of order or out of range")
            above = len(keys)
        for name, values in _named(self._log_probs, self._backoffs):
            # A sum of positive terms rounded to float32 may pass log 1 = 0 by an ulp or so.
            if not np.all(np.isfinite(values)) or np.any(values > 1e-6):
                raise refuse(f"{name} holds numbers that are no logarithms of probabilities")


def _named(log_probs: list[Array], backoffs: list[Array]) -> Iterable[tuple[str, Array]]:
    yield from ((f"level_{k}.log_probs", values) for k, values in enumerate(log_probs, start=1))
    yield from ((f"level_{k}.backoffs", values) for k, values in enumerate(backoffs, start=1))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _read_tensors(path: Path, ngrams: list[int]) -> dict[str, Array]:
    """Read the tensors that `ngrams` (n-grams per level) calls for, each with its one allowed shape and type."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    wanted: dict[str, tuple[int, str]] = {}
    for level, size in enumerate(ngrams, start=1):
        wanted[f"level_{level}.log_probs"] = (size, "float32")
        if level < len(ngrams):
            wanted[f"level_{level}.backoffs"] = (size, "float32")
        if level > 1:
            wanted[f"level_{level}.keys"] = (size, "int64")
    try:
        tensors: dict[str, Array] = load_file(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}", "the model's numbers beside its config.json", "check the path") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error})", "model.safetensors as Myna writes it", "restore the file") from None
    if set(tensors) != set(wanted):
        raise UserError(f"{path} differs from its config.json in {', '.join(sorted(set(tensors) ^ set(wanted))[:3])}",
                        "the tensors of its order", "restore the directory or build it again")
    for name, (size, dtype) in wanted.items():
        if tensors[name].shape != (size,) or tensors[name].dtype != np.dtype(dtype):
            raise UserError(f"{name} in {path} is {tensors[name].dtype}{list(tensors[name].shape)}", f"{dtype}[{size}]",
                            "restore the directory or build it again")
    return tensors


def fit_ngram(train_ids: Array, valid_ids: Array, vocab_size: int, separator_id: int, options: NgramOptions | None = None) -> Ngram:
    """Estimate an n-gram model; order and smoothing, unless given, are those with the fewest bits on the validation split.

    train_ids, valid_ids: flat token streams, every document followed by the separator. Orders are tried from 1 upward, each
    smoothing until an order does not help it. Raises UserError when there is nothing to count or to choose by.
    """
    options = options or NgramOptions()
    train = draw_documents(train_ids, separator_id, options.max_tokens)
    if len(train) < len(train_ids):
        say(f"n-gram: counting {human(len(train))} of {human(len(train_ids))} training tokens (max_tokens), documents drawn at random")
    smoothings = [options.smoothing] if options.smoothing else list(get_args(Smoothing))
    last_order = options.max_order if options.order is None else options.order
    if not np.any(train != separator_id) or last_order < 1 or options.max_tokens < 1 or int(train.max()) >= vocab_size:
        raise UserError("nothing an n-gram could count", f"training ids below {vocab_size} and an order of 1 or more", "check the corpus")
    probe = _Probe(draw_documents(valid_ids, separator_id, _VALID_TOKENS), vocab_size, separator_id)
    if not probe.tokens and not (options.order and options.smoothing):
        raise UserError("the validation split is empty", "text to choose the n-gram's order and smoothing by", "set both, or add text")
    counts = Counts(train, vocab_size, separator_id)
    ladders = [_Ladder(counts, smoothing) for smoothing in smoothings]
    tried: list[dict[str, Any]] = []
    best: tuple[float, int, _Ladder, list[Table]] | None = None
    for order in range(1, last_order + 1):
        if order > 1 and not counts.add_level():
            say(f"n-gram: no document is long enough for order {order}; the order is at most {order - 1}")
            break
        probe.extend(counts.levels[-1].keys)
        for ladder in list(ladders):
            tables = ladder.climb()
            bits = probe.bits_per_token(tables)
            tried.append({"order": order, "smoothing": ladder.smoothing, "bits_per_token": bits})
            if best is None or (options.order and best[1] < order) or bits < best[0]:
                best = (bits, order, ladder, tables)
            if not options.order and bits >= ladder.bits:
                ladders.remove(ladder)
            ladder.bits = bits
        if not ladders:
            break
    assert best is not None
    facts = {"tokens": len(train), "tokens_available": len(train_ids), "tried": tried}
    return _finish(counts, best[2].smoothing, best[3], separator_id, facts)


def draw_documents(ids: Array, separator_id: int, limit: int, seed: int = 0) -> Array:
    """Return the whole stream if it has at most `limit` ids, else documents drawn at random up to it, the last one cut."""
    if len(ids) <= limit:
        return np.asarray(ids)
    piece = 1 << 24  # compare the stream in pieces: it may be larger than memory
    ends = np.concatenate([np.flatnonzero(ids[at:at + piece] == separator_id) + at + 1 for at in range(0, len(ids), piece)])
    starts = np.concatenate([[0], ends])
    ends = np.append(ends, len(ids))
    parts, room = [], limit
    for document in np.random.default_rng(seed).permutation(len(starts)):
        part = ids[starts[document]:min(ends[document], starts[document] + room)]
        parts.append(part)
        room -= len(part)
        if not room:
            break
    return np.concatenate(parts)


class _Ladder:
    """One smoothing's tables, a level higher at each call of `climb`."""

    def __init__(self, counts: Counts, smoothing: Smoothing) -> None:
        self.counts, self.smoothing = counts, smoothing
        self.bits = float("inf")  # on the validation split, at the last order
        self._below: list[Table] = []  # final estimates of the levels under the highest
        self._top: Table | None = None

    def climb(self) -> list[Table]:
        """Return the tables of the model whose order is the highest level counted."""
        levels = self.counts.levels
        if len(levels) > 1:
            left = levels[-2].left
            assert left is not None and self._top is not None
            # Kneser-Ney: below the order, an n-gram counts as often as different ids stand before it.
            self._below.append(self._estimate(len(levels) - 1, left) if self.smoothing == "kneser_ney" else self._top)
        self._top = self._estimate(len(levels), levels[-1].counts)
        return [*self._below, self._top]

    def _estimate(self, number: int, counts: Array) -> Table:
        level, vocab_size = self.counts.levels[number - 1], self.counts.vocab_size
        if number == 1:
            return estimate(counts, np.zeros(vocab_size, np.int64), 1, np.full(vocab_size, 1 / vocab_size), self.smoothing)
        contexts = len(self.counts.levels[number - 2].keys)
        return estimate(counts, level.keys // vocab_size, contexts, self._below[number - 2].probabilities[level.suffixes], self.smoothing)


class _Probe:
    """The validation split, looked up once per level and scored under any tables."""

    def __init__(self, ids: Array, vocab_size: int, separator_id: int) -> None:
        self.vocab_size = vocab_size
        self.ids, self._reach = with_start(ids, separator_id)
        self._text = self.ids[1:] != separator_id
        self.tokens = int(np.count_nonzero(self._text))
        self._nodes: list[Array] = []

    def extend(self, keys: Array) -> None:
        """Look up the next level's n-grams."""
        if not self._nodes:
            self._nodes.append(self.ids.astype(np.int64))
            return
        nodes = np.full(len(self.ids), -1, np.int64)
        inside = np.flatnonzero(self._reach >= len(self._nodes))
        inside = inside[self._nodes[-1][inside - 1] >= 0]
        nodes[inside] = find(keys, self._nodes[-1][inside - 1] * self.vocab_size + self.ids[inside])
        self._nodes.append(nodes)

    def bits_per_token(self, tables: list[Table]) -> float:
        """Return the mean bits of a text token (separators are not scored); 0 when there is none."""
        if not self.tokens:
            return 0.0
        chances = tables[0].probabilities[self.ids[1:]]
        for table, above, nodes in zip(tables[1:], self._nodes, self._nodes[1:], strict=False):
            contexts, found = above[:-1], nodes[1:]
            shorter = np.where(contexts >= 0, table.weights[contexts], 1.0) * chances
            chances = np.where(found >= 0, table.probabilities[found], shorter)
        return float(-np.log2(chances[self._text]).mean())


def _finish(counts: Counts, smoothing: Smoothing, tables: list[Table], separator_id: int, facts: dict[str, Any]) -> Ngram:
    fixed = [k for k, table in enumerate(tables, start=1) if table.fallback]
    if fixed:
        say(f"n-gram: fixed discounts 0.5, 1, 1.5 at length {', '.join(map(str, fixed))} (its counts of counts give none)")
    described = {"smoothing": smoothing, "discounts": [table.discounts for table in tables], "fixed_discounts": fixed, **facts}
    return Ngram(counts.vocab_size, separator_id, [level.keys for level in counts.levels[1:len(tables)]],
                 [np.log(table.probabilities).astype(np.float32) for table in tables],
                 [np.log(table.weights).astype(np.float32) for table in tables[1:]], described)
