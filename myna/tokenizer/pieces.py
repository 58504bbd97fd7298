"""Bytes as the characters of a tokenizer.json, and long texts in pieces that a tokenizer can take.

Source of the byte alphabet: `bytes_to_unicode` of GPT-2 (Radford et al. 2019).

    "".join(byte_alphabet()[byte] for byte in " é".encode())     # 'ĠÃ©'
    list(cut("one\ntwo", 4))                                     # ['one\n', 'two']
"""

from __future__ import annotations

from collections.abc import Iterator


def byte_alphabet() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in a tokenizer.json (GPT-2's table).

    Printable Latin-1 stands for itself; the other 68 bytes, in order, get the characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def cut(text: str, size: int) -> Iterator[str]:
    """Cut text into pieces of at most `size` characters, after a newline followed by a non-space where there is one.

    The patterns qwen2 and llama-bpe always end a word there, so such a cut changes no id (gpt-2 and smollm: unless
    several newlines meet). A piece without such a newline is cut anywhere.
    """
    start = 0
    while len(text) - start > size:
        end = text.rfind("\n", start, start + size) + 1
        while end > start and text[end].isspace():
            end = text.rfind("\n", start, end - 1) + 1
        end = end if end > start else start + size
        yield text[start:end]
        start = end
    yield text[start:]


def cut_at_spaces(text: str, size: int, drop: bool) -> Iterator[str]:
    """Cut text into pieces of at most `size` characters at a space between two words; with `drop` that space goes.

    A tokenizer that puts a space before a text puts it before each piece, in the place of the one dropped.
    """
    start = 0
    while len(text) - start > size:
        end = text.rfind(" ", start + 1, start + size)
        while end > start and (text[end - 1].isspace() or text[end + 1].isspace()):
            end = text.rfind(" ", start + 1, end)
        yield text[start:end] if end > start else text[start:start + size]
        start = end + drop if end > start else start + size
    yield text[start:]
