"""The two protocols every model follows. B rows, T tokens, V vocabulary; log-probabilities are natural, numpy float32.

`LanguageModel` is all that generation, evaluation, the server and the audits know of a model. `Trainable` is all that
the training loop knows. Neither is a base class: a model satisfies them by having the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Ids = Sequence[Sequence[int]] | npt.NDArray[np.integer[Any]]  # B rows of new ids; rows may differ in length
LogProbs = npt.NDArray[np.float32]
Hidden = npt.NDArray[np.float32]


class State(Protocol):
    """What a model remembers of B rows: a context tuple, (h, c), a key-value cache."""

    @property
    def lengths(self) -> list[int]:
        """How many ids each row has taken."""

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids, as if the later ones had never been stepped."""

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; a row may be repeated (beams) or left out (finished)."""


class LanguageModel(Protocol):
    """Anything that gives the next token's distribution."""

    vocab_size: int
    max_length: int | None  # ids a state can hold; None = unbounded
    separator_id: int  # the id between documents; what an empty prompt starts from

    def start(self, rows: int = 1, source: Any = None) -> Any:
        """Return a `State` of `rows` rows with nothing seen."""

    def step(self, ids: Ids, state: Any, last: bool = True) -> LogProbs:
        """Append `ids` to the state (in place) and return log-probabilities of what follows.

        (B, V) after the last id of each row, or, with last=False, (B, T, V) after every id (rows shorter than T are padded with 0).
        Every row takes at least one id. Raises ValueError when a row would grow beyond `max_length`.
        """

    def log_probs(self, ids: Sequence[int], source: Any = None) -> LogProbs:
        """Score one document from its beginning: (T,), log p(ids[t] | separator, ids[:t]).

        A bounded model sees at least the last `max_length // 2` ids (the evaluation stride).
        """


class HiddenModel(LanguageModel, Protocol):
    """A language model that also shows what its last layer made of each id, as contrastive search wants it."""

    def step_hidden(self, ids: Ids, state: Any) -> tuple[LogProbs, Hidden]:
        """Do as `step`, and give the last layer's states of the new ids too: (B, V) and (B, T, C)."""


class Trainable(Protocol):
    """Anything the training loop can train: an `nn.Module` with three more methods.

    A batch maps Hugging Face's names to tensors, rows first: input_ids (B, T) and labels (B, T), already aligned (labels[b, t] is
    the id to predict at position t; -100: none), and what else the family reads. A carry is what a recurrent model hands from one
    step's rows to the next: tensors, rows first, or None.
    """

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the predictions that each loss of these rows is a sum over."""

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Return ({name: (sum in nats, weight)}, carry).

        The loop divides each sum by its count over all micro-batches and ranks of the step, so losses may count different things.
        """

    def table_names(self) -> set[str]:
        """Name the parameters that are looked up by id or score ids (embeddings, head): Muon is for the other matrices."""
