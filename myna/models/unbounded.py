"""The unbounded n-gram: an n-gram whose contexts are as long as the corpus repeats itself, read off the corpus's index.

An n-gram of order K forgets all but K - 1 ids. The index of the corpus finds, for any history, every end of it that has been seen,
however long, and what followed there; these counts are blended into the n-gram's distribution, the longest context last, with weights
learned on the validation split for each class of context. Nothing is stored per n-gram: the model is the corpus, sorted.

Sources: J. Liu et al., "Infini-gram: scaling unbounded n-gram language models to a trillion tokens", COLM 2024 (the longest end of the
history that occurs, found by suffix array); J. Cleary and W. Teahan, "Unbounded length contexts for PPM", The Computer Journal 40
(1997). Liu et al. answer with the longest context's counts alone, which give most ids no probability; the blend is `myna.models.blend`.

    model = fit_unbounded(train.ids, valid.ids, vocab_size=2048, separator_id=0)
    model.log_probs([17, 5, 99])                         # (3,) natural log-probabilities
    state = model.start()
    model.step([[0, 17, 5]], state)                      # (1, 2048)

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from myna.console import human, say
from myna.corpus.index import Index
from myna.errors import UserError
from myna.files import read_json, write_json
from myna.models.ngram import Ngram, NgramState, draw_documents, fit_ngram
from myna.models.options import UnboundedOptions
from myna.models.protocol import Ids, LogProbs

Array = npt.NDArray[Any]

_START = (0.1, 0.6, 0.3)  # weights before any validation text, worth one context of each class
_PASSES = 200  # of EM at most; it took 20 to 60 on every corpus tried
_GAIN = 1e-6  # bits per token: a pass that gains less is the last
_VALID_TOKENS = 1_000_000  # some 300 weights need no more


class UnboundedState:
    """The ids each row has taken, and the chain of its histories (see `myna.corpus.suffixes.extend`)."""

    def __init__(self, rows: int) -> None:
        self.base = NgramState(rows)
        self.chains: list[tuple[Array, int] | None] = [None] * rows  # None: to be followed again from the last separator

    @property
    def lengths(self) -> list[int]:
        return self.base.lengths

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids."""
        before = self.lengths
        self.base.truncate(lengths)
        self.chains = [chain if old == new else None for chain, old, new in zip(self.chains, before, lengths, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order."""
        self.base.select(rows)
        self.chains = [None if chain is None else (chain[0].copy(), chain[1]) for chain in (self.chains[row] for row in rows)]


class Unbounded:
    """An index of the training ids over a base n-gram of the same ids.

    weights: (classes, 3) float64, rows sum to one (see `myna.models.blend`). facts: how it was fitted, JSON values of config.json.
    """

    max_length: int | None = None

    def __init__(self, base: Ngram, index: Index, weights: Array, facts: dict[str, Any]) -> None:
        self.base, self.index, self.weights, self.facts = base, index, weights, facts
        self.vocab_size, self.separator_id = base.vocab_size, base.separator_id

    @property
    def name(self) -> str:
        """Say what it is, as a table's heading does."""
        return f"unbounded n-gram over a {self.base.name}"

    def start(self, rows: int = 1, source: Any = None) -> UnboundedState:
        """Return a state of `rows` rows with nothing seen."""
        return UnboundedState(rows)

    def log_probs(self, ids: Sequence[int] | Array, source: Any = None) -> LogProbs:
        """Score one document after the separator: (T,); or several, a separator after each."""
        from myna.models.blend import score

        chances = np.exp(self.base.log_probs(cast(Sequence[int], ids)).astype(np.float64))
        contexts, begins = self._contexts(np.append(self.separator_id, np.asarray(ids, np.int64)))
        score(contexts, begins, self.weights, chances)
        return np.log(chances).astype(np.float32)

    def _contexts(self, stream: Array) -> tuple[Array, Array]:
        """Find the contexts of every id of `stream` but the first: see `myna.models.blend.collect`."""
        from myna.models.blend import collect

        index, begins = self.index, np.empty(len(stream), np.int64)
        room = 2 * len(stream)
        while True:
            contexts = np.empty((room, 4), np.int32)
            found = collect(index.earlier, index.starts, index.following, index.last_row, stream, self.separator_id, self.base.order,
                            contexts, begins)
            if found <= room:
                return contexts, begins
            room = found

    def step(self, ids: Ids, state: UnboundedState, last: bool = True) -> LogProbs:
        """Append `ids` to the state; (B, V) after each row's last id, or (B, T, V) after every id with last=False."""
        held = [list(row) for row in state.base.ids]
        out = self.base.step(ids, state.base, last)
        for b, row in enumerate(ids):
            new = np.asarray(row, np.int64)
            chain = state.chains[b]
            if chain is None:
                chain = self._follow(np.empty((64, 3), np.int64), 0, np.array(held[b], np.int64))
            for t in range(len(new)):
                chain = self._follow(*chain, new[t:t + 1])
                if not last:
                    out[b, t] = self._blend(out[b, t], *chain)
            if last:
                out[b] = self._blend(out[b], *chain)
            state.chains[b] = chain
        return out

    def _follow(self, chain: Array, size: int, ids: Array) -> tuple[Array, int]:
        """Extend a chain by ids; it begins again at each separator."""
        from myna.corpus.suffixes import extend

        for id in ids.tolist():
            chain, size = extend(self.index.earlier, self.index.starts, chain, 0 if id == self.separator_id else size, id)
        return chain, size

    def _blend(self, row: Array, chain: Array, size: int) -> LogProbs:
        from myna.models.blend import spread

        chances = np.exp(row.astype(np.float64))
        spread(chain, size, self.index.following, self.index.last_row, self.base.order, self.weights, chances)
        return np.log(chances).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write config.json, index/ and ngram/ into `folder` (the tokenizer's files are the caller's)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.index.save(folder / "index")
        self.base.save(folder / "ngram")
        write_json(folder / "config.json", {"model_type": "unbounded", "vocab_size": self.vocab_size, "separator_id": self.separator_id,
                                            "weights": self.weights.tolist(), **self.facts})

    @classmethod
    def open(cls, folder: Path) -> Unbounded:
        """Read a model directory. Raises UserError unless its index, its n-gram and its weights are whole and fit each other."""
        path = folder / "config.json"
        config = read_json(path)
        if not isinstance(config, dict) or config.get("model_type") != "unbounded":
            raise UserError(f"{path} is not an unbounded n-gram's", 'model_type "unbounded"', "give an unbounded n-gram's directory")
        weights = _read_weights(path, config.get("weights"))
        base, index = Ngram.open(folder / "ngram"), Index.open(folder / "index")
        sizes = {"vocab_size": base.vocab_size, "separator_id": base.separator_id}
        if any(config.get(key) != size for key, size in sizes.items()) or index.vocab_size != base.vocab_size:
            raise UserError(f"{folder} puts together what does not belong together", "one vocabulary and separator in config.json, "
                            "ngram and index", "restore the directory or build it again")
        _check_base(base)
        facts = {key: value for key, value in config.items() if key not in ("model_type", "weights", *sizes)}
        return cls(base, index, weights, facts)


def _read_weights(path: Path, given: Any) -> Array:
    from myna.models.blend import CLASSES

    try:
        weights = np.array(given, np.float64)
    except (ValueError, TypeError, OverflowError):
        weights = np.zeros(0)
    fits = weights.shape == (CLASSES, 3) and np.all(weights >= 0) and np.allclose(weights.sum(1), 1, rtol=0, atol=1e-9)
    if not fits or np.any(weights[:, 0] > 1 - 1e-9):  # a context that hands nothing on would leave ids without a probability
        raise UserError(f"the weights in {path} are damaged", f"{CLASSES} rows of 3 that sum to one", "restore the file or build it again")
    return weights


def _check_base(base: Ngram) -> None:
    if base.facts.get("smoothing") == "stupid_backoff":
        raise UserError("an unbounded n-gram over stupid back-off, whose scores sum to no one", "a base with probabilities",
                        "use kneser_ney or witten_bell")


def fit_unbounded(train_ids: Array, valid_ids: Array, vocab_size: int, separator_id: int, options: UnboundedOptions | None = None,
                  base: Ngram | None = None) -> Unbounded:
    """Index the training ids and learn, on the validation ids, how far to trust which contexts.

    train_ids, valid_ids: flat token streams, every document followed by the separator. base: the n-gram of the same training ids;
    none fits one. Raises UserError when there is nothing to index or to learn from, or the base has another vocabulary.
    """
    options = options or UnboundedOptions()
    if options.max_tokens < 1:
        raise UserError(f"max_tokens {options.max_tokens}", "1 or more", "leave it out for the default")
    valid = draw_documents(valid_ids, separator_id, _VALID_TOKENS)
    if not np.any(valid != separator_id):
        raise UserError("the validation split is empty", "text to learn the unbounded n-gram's weights from", "add text")
    if int(valid.max()) >= vocab_size:
        raise UserError(f"a validation split with id {int(valid.max())}", f"ids below {vocab_size}", "use one tokenizer for all splits")
    train = draw_documents(train_ids, separator_id, options.max_tokens)
    if len(train) < len(train_ids):
        say(f"unbounded n-gram: indexing {human(len(train))} of {human(len(train_ids))} training tokens (max_tokens), documents drawn "
            "at random")
    base = base or fit_ngram(train, valid_ids, vocab_size, separator_id)
    if (base.vocab_size, base.separator_id) != (vocab_size, separator_id):
        raise UserError(f"a base n-gram over {base.vocab_size} ids with separator {base.separator_id}", f"{vocab_size} and {separator_id}",
                        "give the n-gram of the same tokens")
    _check_base(base)
    if len(train) <= base.order:
        raise UserError(f"a training text of {len(train)} tokens", f"more than the base's order, {base.order}", "add text")
    model = Unbounded(base, Index.build(train, vocab_size), np.zeros((0, 3)), {})
    _learn(model, valid)
    model.facts |= {"tokens": len(train), "tokens_available": len(train_ids)}
    return model


def _learn(model: Unbounded, valid: Array) -> None:
    """Set the weights by expectation maximisation over the text of `valid` (separators are not scored) and note its bits."""
    from myna.models.blend import CLASSES, credit

    text = np.flatnonzero(valid != model.separator_id)
    contexts, begins = model._contexts(np.append(model.separator_id, valid.astype(np.int64)))
    spans = np.diff(begins)[text]
    contexts = contexts[np.repeat(begins[:-1][text] - np.cumsum(spans) + spans, spans) + np.arange(spans.sum())]
    begins = np.append(0, np.cumsum(spans))
    chances = np.exp(model.base.log_probs(cast(Sequence[int], valid))[text].astype(np.float64))
    prior = np.tile(_START, (CLASSES, 1))
    weights, bits = prior, np.inf
    for _ in range(_PASSES):
        shares = prior.copy()
        last, bits = bits, -credit(contexts, begins, weights, chances, shares) / len(text) / np.log(2)
        if last - bits < _GAIN:
            break
        weights = shares / shares.sum(1, keepdims=True)
    model.weights = weights
    model.facts |= {"bits_per_token": float(bits), "base_bits_per_token": float(-np.log2(chances).mean())}
