"""What adding files to an index did: how many were read, and all that was not, with why.

    Added(files=3, documents=3, passages=12).said()
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Added:
    """What adding files did."""

    files: int = 0
    unchanged: int = 0
    replaced: int = 0
    documents: int = 0
    passages: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    partial: list[str] = field(default_factory=list)
    "Files read in part, each with what was wrong."
    missing: int = 0
    "Files of the index that are no longer where they were."
    notes: Counter[str] = field(default_factory=Counter)
    "What is to be said of the vectors of passages."

    def said(self) -> str:
        """Say it in a line."""
        parts = [f"{self.files:,} files, {self.documents:,} documents, {self.passages:,} passages added"]
        parts += [f"{self.unchanged:,} unchanged"] if self.unchanged else []
        parts += [f"{self.replaced:,} replaced"] if self.replaced else []
        parts += [f"{count:,} left out: {reason}" for reason, count in self.rejected.most_common()]
        parts += [f"{len(self.partial):,} read in part: {', '.join(self.partial[:3])}"] if self.partial else []
        parts += [f"{self.missing:,} no longer there, but still in the index (--remove takes them out)"] if self.missing else []
        parts += [f"{count:,} passages {what}" for what, count in self.notes.most_common()]
        return "; ".join(parts)
