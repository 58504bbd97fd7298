"""Pre-tokenizer patterns by the name that llama.cpp gives them: how text is cut into words before any merge.

Two uses. A GGUF file carries only the name (`tokenizer.ggml.pre`), so the name of what a tokenizer.json holds must be
recoverable. And a pattern from somebody else's file is a regular expression that could run for ever: Myna runs only
the ones listed here, never the one in the file.

Sources: the `tokenizer.json` that the authors of GPT-2, Qwen2, Llama 3 and SmolLM publish, and tiktoken's `openai_public.py`; the
names are those of `llama-vocab.cpp` in llama.cpp, which has none for cl100k.

    name_of({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})   # 'gpt-2'
    entry_of("gpt-2")                                                              # and back
"""

from __future__ import annotations

from typing import Any

from myna.errors import UserError, nearest

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")  # the same but for digits, which Llama 3 takes three at a time

# tiktoken's cl100k_base without its possessive marks, which change no cut; white space that ends a text is one word
_CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s")

_BYTES_ONLY = ("ByteLevel", False, False)  # (type, add_prefix_space, use_regex)
_KNOWN: dict[tuple[Any, ...], str] = {
    (("Split", QWEN2, "Isolated", False), _BYTES_ONLY): "qwen2",
    (("Split", _LLAMA3, "Isolated", False), _BYTES_ONLY): "llama-bpe",
    (("Split", _CL100K, "Isolated", False), _BYTES_ONLY): "cl100k",
    (("ByteLevel", False, True),): "gpt-2",
    (("Digits", True), ("ByteLevel", False, True)): "smollm",
}
NAMES = tuple(_KNOWN.values())
# llama.cpp's other names for the same cuts (the cases of llm_tokenizer_bpe in llama-vocab.cpp)
ALIASES = {
    "gpt2": "gpt-2", "phi-2": "gpt-2", "mpt": "gpt-2", "olmo": "gpt-2", "roberta-bpe": "gpt-2",
    "starcoder": "smollm", "refact": "smollm", "codeshell": "smollm", "command-r": "smollm",
    "stablelm2": "qwen2", "deepseek-r1-qwen": "qwen2", "megrez": "qwen2",
    "llama3": "llama-bpe", "llama-v3": "llama-bpe", "dbrx": "llama-bpe", "smaug-bpe": "llama-bpe",
}
RUN_OF_SPACES, FIRST_SPACES, LAST_SPACES = " {2,}", "^ +", " +$"
SPACES = frozenset({RUN_OF_SPACES, FIRST_SPACES, LAST_SPACES})  # the regular expressions that a normaliser may replace


def name_of(pre_tokenizer: Any) -> str | None:
    """Name the pattern that the `pre_tokenizer` entry of a tokenizer.json describes, or return None."""
    return _KNOWN.get(tuple(_steps(pre_tokenizer)))


def entry_of(name: str) -> dict[str, Any]:
    """Give the `pre_tokenizer` entry of a tokenizer.json for a pattern's name, also one that llama.cpp uses for the same cuts.

    Raises UserError for a name that Myna does not know.
    """
    known = ALIASES.get(name, name)
    if known not in NAMES:
        raise UserError(f"the pre-tokenizer {name!r:.40}{nearest(str(name), [*NAMES, *ALIASES])}, which Myna does not know",
                        "one of " + ", ".join((*NAMES, *ALIASES)), "use the model's Hugging Face directory")
    steps = next(steps for steps, found in _KNOWN.items() if found == known)
    entries = [_entry(step) for step in steps]
    return entries[0] if len(entries) == 1 else {"type": "Sequence", "pretokenizers": entries}


def _entry(step: tuple[Any, ...]) -> dict[str, Any]:
    if step[0] == "Split":
        return {"type": "Split", "pattern": {"Regex": step[1]}, "behavior": step[2], "invert": step[3]}
    if step[0] == "Digits":
        return {"type": "Digits", "individual_digits": step[1]}
    return {"type": "ByteLevel", "add_prefix_space": step[1], "trim_offsets": True, "use_regex": step[2]}


def _steps(entry: Any) -> list[tuple[Any, ...]]:
    """Reduce a pre_tokenizer entry to the settings that change its cuts."""
    if not isinstance(entry, dict):
        return [("unknown",)]
    kind = entry.get("type")
    if kind == "Sequence" and isinstance(entry.get("pretokenizers"), list):
        return [("unknown",) if _is_sequence(inner) else _steps(inner)[0] for inner in entry["pretokenizers"]]
    if kind == "Split" and isinstance(entry.get("pattern"), dict):
        return [("Split", str(entry["pattern"].get("Regex")), str(entry.get("behavior")), entry.get("invert") is True)]
    if kind == "ByteLevel":
        return [("ByteLevel", entry.get("add_prefix_space", True) is True, entry.get("use_regex", True) is True)]
    if kind == "Digits":
        return [("Digits", entry.get("individual_digits") is True)]
    return [("unknown",)]


def _is_sequence(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "Sequence"
