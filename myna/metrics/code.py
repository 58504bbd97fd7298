"""Scores of code that was written: equal to what a person wrote, how near to it, and whether it is Python at all.

Space at the ends of lines, and blank lines before and after, count for nothing. Edit similarity is 1 - edits / length of the longer
text, in characters (Levenshtein 1966); `rapidfuzz` calls it the normalised similarity. Code is parsed into a syntax tree and never run.

    edit_similarity("    return x\\n", "    return y\\n")      # 0.917: one of 12 characters
    parses("def f(x):\\n    return x\\n"), parses("def f(x):\\n    return )")
"""

from __future__ import annotations

import ast
import warnings

from myna.metrics.speech import count_edits

_LARGEST = 1 << 17  # characters that are parsed: far more than a model writes, little enough for the parser's memory


def normalize_code(code: str) -> str:
    """Return code without space at the ends of its lines and without blank lines before and after it; its indentation stays."""
    return "\n".join(line.rstrip() for line in code.splitlines()).strip("\n")


def same_code(reference: str, given: str) -> bool:
    """Tell whether two pieces of code are equal, normalised by `normalize_code`."""
    return normalize_code(reference) == normalize_code(given)


def edit_similarity(reference: str, given: str) -> float:
    """Return how near two pieces of code are, 0 to 1, in characters, normalised by `normalize_code`; 1 where both are empty."""
    reference, given = normalize_code(reference), normalize_code(given)
    longer = max(len(reference), len(given))
    return 1 - count_edits(reference, given).edits / longer if longer else 1.0


def parses(code: str) -> bool:
    """Tell whether code is Python; all of it may be indented alike. Nothing of it is run. False of more than 128 Ki characters."""
    if len(code) > _LARGEST:
        return False
    first = next((line for line in code.splitlines() if line.strip()), "")
    if first[:1] in (" ", "\t"):
        code = "if 1:\n" + code  # a method as it stands in its class
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash that is no escape is worth a warning, not an error
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # zero bytes are a ValueError, deep nesting one of the last two
        return False
    return True
