"""What a task adds to the road of a tuning (`myna.roads.language`): its examples, its own measure, its files.

    Tuning(base, out, recipe, reading, clock, request, task).run()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from myna.data.conversations import Example
from myna.evaluate.measured import Measured
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer


class Task(Protocol):
    """What a task adds to the road of a tuning."""

    said: list[str]
    "What is to be kept of what was said."
    answer_tokens: int
    "At most, of the answers that are shown before and after."

    @property
    def chat(self) -> bool:
        """Whether its examples are conversations, written by the model's chat template where it has one."""

    def lay(self, tokenizer: Tokenizer, template: ChatTemplate | None, context: int | None) -> dict[str, list[Example]]:
        """Make the examples of train, valid and test, cut so that they fit a row of `context` tokens; whole where it is None."""

    def settle(self, left: float | None, per_token: float, per_step: float) -> dict[str, Any]:
        """Choose what is measured in the seconds that are left, None where time does not count: {"sources": N, "seconds": of it}."""

    def measure(self, model: Any, sources: int) -> Measured:
        """Measure the tuned model at the task on so many held-out sources."""

    def save(self, out: Path) -> None:
        """Write what makes the directory one of this task."""
