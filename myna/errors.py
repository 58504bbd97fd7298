"""The one error a person sees: what was got, what was expected, what to do.

    raise UserError("no such folder: texts/", "a file or folder of text", "check the path")
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line and exits with code 2."""

    def __init__(self, got: str, expected: str = "", action: str = "") -> None:
        self.got, self.expected, self.action = got, expected, action
        parts = [got]
        if expected:
            parts.append(f"expected {expected}")
        if action:
            parts.append(action)
        super().__init__(" ".join("; ".join(parts).split()))


def nearest(name: str, known: list[str]) -> str:
    """Return ' (did you mean X?)' for the known name most like `name`, or an empty string."""
    import difflib

    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {match[0]}?)" if match else ""


def shown(value: object) -> str:
    """Show a value from somebody else's file: short, and without control characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
