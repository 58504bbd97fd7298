"""Measure what a tuning changed: the loss of held-out answers and of an unrelated text, and answers that are generated.

Answers are scored by the bits of the tokens that are learned (each answer and the token that ends its turn), over the UTF-8 bytes
of the answers. Before and after see the same conversations, so the interval is that of the paired difference, over
conversations (see `myna.metrics.intervals`). How many of the answers (`myna.generate.greedy`) end by themselves is the stop rate.

    rows = score_pieces(model, labelled, tokenizer)          # (N, 3): bits, bytes, tokens of each conversation

N conversations
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from myna.data.conversations import Example
from myna.data.labels import Labelled
from myna.data.packing import lay_rows
from myna.data.rows import read_rows
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.generate.greedy import Answer
from myna.metrics.language import perplexity
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report
from myna.tokenizer.tokenizer import Tokenizer

Array = npt.NDArray[Any]

BASELINE = "the base, untuned"
_PASSAGE, _SHORTEST = 2_000, 500  # characters of a passage of the unrelated text, and of the shortest taken
_CHARACTERS = 4  # of a token, about, by which passages are counted out


@dataclass
class Measured:
    """What was measured of a model: rows of `score_pieces` by name ("answers", "unrelated"), and its answers to the prompts."""

    scores: dict[str, Array]
    answers: list[Answer]
    seconds: float
    per_token: float = 0.0
    "Seconds to score a token."
    per_step: float = 0.0
    "Seconds to generate a token of all answers."

    @property
    def stopped(self) -> int:
        """How many answers ended by themselves."""
        return sum(answer.stopped for answer in self.answers)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"scores": {name: rows.tolist() for name, rows in self.scores.items()}, "answers": self.answers, "seconds": self.seconds,
                "per_token": self.per_token, "per_step": self.per_step}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Measured:
        """Read back what `to_json` gave."""
        scores = {name: np.array(rows) for name, rows in value["scores"].items()}
        return cls(scores, [Answer(*answer) for answer in value["answers"]], value["seconds"], value["per_token"], value["per_step"])


def take_passages(path: Path | None, tokens: int) -> list[Example]:
    """Take passages of about `tokens` in all, evenly spread over a text file, or over Python's own help topics when there is none.

    Raises UserError when the file gives fewer than two.
    """
    if path is None:
        texts = [topic[:_PASSAGE] for _, topic in sorted(pydoc_data.topics.topics.items())]
    else:
        text = "".join(str(row.value.get("text", "")) for row in read_rows(path))
        texts = [text[at:at + _PASSAGE] for at in range(0, len(text), _PASSAGE)]
    texts = [text for text in texts if len(text) >= _SHORTEST]
    if len(texts) < 2:
        raise UserError(f"{path} gives {len(texts)} passages of {_PASSAGE:,} characters", "at least 2", "give a longer --unrelated text")
    count = min(len(texts), max(2, tokens * _CHARACTERS // _PASSAGE))
    return [Example(text=texts[place], ends=False) for place in np.linspace(0, len(texts) - 1, count).astype(int)]


def score_pieces(model: Any, pieces: Sequence[Labelled], tokenizer: Tokenizer) -> Array:
    """Score what is learned of each piece: (N, 3) bits, bytes and tokens, a row for each conversation that the pieces are of."""
    lengths = np.array([len(piece) for piece in tokenizer.token_bytes], np.int64)
    rows: dict[int, Array] = {}
    model.eval()
    with torch.no_grad():
        for piece in pieces:
            batch = lay_rows([[(piece.ids, piece.trained)]], len(piece.ids) - 1, 0)
            losses, _ = model.loss({name: torch.from_numpy(batch[name]) for name in ("input_ids", "labels")})
            total = sum(float(total) for total, _ in losses.values())
            learned = piece.ids[1:][piece.trained[1:]]
            row = np.array([total / np.log(2), lengths[learned].sum(), len(learned)])
            rows[piece.number] = rows.get(piece.number, 0.0) + row
    return np.stack(list(rows.values()))


def report_tuning(before: dict[str, Array], after: dict[str, Array], fingerprint: str, precision: str, options: EvaluateOptions) -> Report:
    """Compare a tuned model with its base on the same conversations ("answers") and on an unrelated text ("unrelated")."""
    how = f"bootstrap={options.resamples}|seed={options.seed}|precision={precision}|v1"
    answers = {
        "bits_per_byte": Measure(after["answers"][:, [0, 1]], ratio, f"bits_per_byte|of=answers|unit=conversation|{how}",
                                 before["answers"][:, [0, 1]], lower_is_better=True),
        "perplexity": Measure(after["answers"][:, [0, 2]], perplexity,
                              f"perplexity|per=token|of=answers|unit=conversation|tokenizer={fingerprint[:12]}|{how}",
                              before["answers"][:, [0, 2]], lower_is_better=True)}
    elsewhere = {"unrelated_bits_per_byte": Measure(after["unrelated"][:, [0, 1]], ratio,
                                                    f"bits_per_byte|of=unrelated text|unit=passage|{how}",
                                                    before["unrelated"][:, [0, 1]], lower_is_better=True)}
    one, two = (measured_report(measures, BASELINE, options.resamples, options.seed) for measures in (answers, elsewhere))
    return Report(one.metrics | two.metrics, BASELINE, one.baseline_metrics | two.baseline_metrics, one.differences | two.differences,
                  one.improvements | two.improvements)
