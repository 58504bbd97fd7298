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

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.console import human, say
from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.models.counts import Counts, Ladder, Probe, Table, find
from myna.models.options import NgramOptions, Smoothing
from myna.models.protocol import Ids, LogProbs

if TYPE_CHECKING:
    from myna.models.ngram_fast import HashedNgram

Array = npt.NDArray[Any]

_POSITIONS = 1 << 18  # scored at once: about 100 bytes each
_COMPILE_AFTER = 2_000_000  # tokens a model scores in numpy, about 1.5 s, before it compiles the faster loop, which takes as long
_CHOICES: tuple[Smoothing, ...] = ("kneser_ney", "witten_bell")  # stupid back-off is for those who ask for it: it never won
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
        self._scored = 0
        self._fast: HashedNgram | None = None

    @property
    def order(self) -> int:
        """Length of the longest n-gram."""
        return len(self._log_probs)

    @property
    def name(self) -> str:
        """Say what it is, as a table's heading does."""
        titles = {"kneser_ney": "modified Kneser-Ney", "witten_bell": "Witten-Bell", "stupid_backoff": "stupid back-off",
                  "imported": "imported"}
        said = titles.get(str(self.facts.get("smoothing")), "smoothed")
        return f"{self.order}-gram, {said}{', pruned' if self.facts.get('prune') else ''}"

    def start(self, rows: int = 1, source: Any = None) -> NgramState:
        """Return a state of `rows` rows with nothing seen."""
        return NgramState(rows)

    def log_probs(self, ids: Sequence[int], source: Any = None) -> LogProbs:
        """Score one document after the separator: (T,); or several, a separator after each.

        A model that scores much compiles a loop for it (`myna.models.ngram_fast`), which gives the same bits some ten times as fast.
        """
        stream = np.append(self.separator_id, self._checked(ids))
        self._scored += len(stream)
        if self._scored > _COMPILE_AFTER:
            return self.compiled().scores(stream)
        scores = np.empty(len(stream) - 1, np.float32)
        for start in range(0, len(scores), _POSITIONS):
            first = max(0, start - max(0, self.order - 2))  # the ids that the piece's first context reaches
            piece = stream[first:start + _POSITIONS + 1]
            scores[start:start + _POSITIONS] = self._scores(piece)[start - first:]
        return scores

    def compiled(self) -> HashedNgram:
        """Lay the model out for the compiled scorer; twice the memory. Call it first where the time must not fall on a later call."""
        if self._fast is None:
            from myna.models.ngram_fast import HashedNgram

            self._fast = HashedNgram(self._keys, self._log_probs, self._backoffs)
        return self._fast

    def levels(self) -> Iterator[tuple[Array, Array, Array | None]]:
        """Yield, per length k, the n-grams' ids (n, k), log-probabilities (n,) and back-off weights (n,), None at the longest."""
        ids = np.arange(self.vocab_size, dtype=np.int32)[:, None]
        for number, chances in enumerate(self._log_probs):
            if number:
                keys = self._keys[number - 1]
                ids = np.concatenate([ids[keys // self.vocab_size], (keys % self.vocab_size).astype(np.int32)[:, None]], axis=1)
            yield ids, chances, self._backoffs[number] if number < self.order - 1 else None

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
            if not np.all(np.isfinite(values)) or (name.endswith("log_probs") and np.any(values > 0)):
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
    _check_options(options)
    train = draw_documents(train_ids, separator_id, options.max_tokens)
    if len(train) < len(train_ids):
        say(f"n-gram: counting {human(len(train))} of {human(len(train_ids))} training tokens (max_tokens), documents drawn at random")
    if not np.any(train != separator_id) or int(train.max()) >= vocab_size:
        raise UserError("nothing an n-gram could count", f"training ids below {vocab_size}", "check the corpus")
    probe = Probe(draw_documents(valid_ids, separator_id, _VALID_TOKENS), vocab_size, separator_id)
    if not probe.tokens and not (options.order and options.smoothing):
        raise UserError("the validation split is empty", "text to choose the n-gram's order and smoothing by", "set both, or add text")
    counts = Counts(train, vocab_size, separator_id)
    ladders = [Ladder(counts, smoothing, options.prune) for smoothing in ([options.smoothing] if options.smoothing else _CHOICES)]
    tried: list[dict[str, Any]] = []
    best: tuple[float, int, Ladder, list[Table]] | None = None
    for order in range(1, (options.order or options.max_order) + 1):
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
    return _finish(best[2], best[3], separator_id, {"tokens": len(train), "tokens_available": len(train_ids), "tried": tried})


def _check_options(options: NgramOptions) -> None:
    """Refuse what no n-gram model can have."""
    for name, value in (("order", options.order), ("max_order", options.max_order), ("max_tokens", options.max_tokens)):
        if value is not None and value < 1:
            raise UserError(f"the n-gram's {name} is {value}", "1 or more")
    prune = options.prune
    if any(a > b for a, b in zip((0, *prune), prune, strict=False)):
        raise UserError(f"prune is {','.join(map(str, prune))}", "counts from 0 up that do not fall, such as 0,0,1",
                        "a longer n-gram is never more frequent than its beginning, which must stay with it")


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


def _finish(ladder: Ladder, tables: list[Table], separator_id: int, facts: dict[str, Any]) -> Ngram:
    """Leave the pruned n-grams out, number the others anew and take logarithms."""
    fixed = [k for k, table in enumerate(tables, start=1) if table.fallback]
    if fixed:
        say(f"n-gram: fixed discounts 0.5, 1, 1.5 at length {', '.join(map(str, fixed))} (its counts of counts give none)")
    vocab_size, levels = ladder.counts.vocab_size, ladder.counts.levels[:len(tables)]
    kept = [np.ones(vocab_size, bool), *(ladder.kept(k) for k in range(2, len(tables) + 1))]  # every id stays a node
    order = next((k for k, some in enumerate(kept) if not some.any()), len(kept))
    if order < len(kept):
        say(f"n-gram: pruning leaves no n-gram longer than {order}")
    keys = []
    for level, above, stay in zip(levels[1:order], kept, kept[1:], strict=False):
        numbers = np.cumsum(above) - 1
        keys.append(numbers[level.keys[stay] // vocab_size] * vocab_size + level.keys[stay] % vocab_size)
    described = {"smoothing": ladder.smoothing, "discounts": [table.discounts for table in tables], "fixed_discounts": fixed, **facts}
    if ladder.prune:
        described |= {"prune": list(ladder.prune), "pruned": [int(np.count_nonzero(~some)) for some in kept]}
    # A sum of positive terms may pass 1 by an ulp: its logarithm is brought back to 0.
    return Ngram(vocab_size, separator_id, keys,
                 [np.minimum(np.log(table.probabilities[stay]), 0).astype(np.float32)
                  for table, stay in zip(tables[:order], kept, strict=False)],
                 [np.log(table.weights[stay]).astype(np.float32) for table, stay in zip(tables[1:order], kept, strict=False)], described)
