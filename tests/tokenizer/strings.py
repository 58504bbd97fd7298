"""Strings on which tokenizers are known to differ, drawn from a seed: scripts, emoji, code, white space, special-token text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pydoc_data.topics import topics

CHINESE = "从前有一只鸟它学会了说话春眠不觉晓处闻啼夜来风雨声花落知多少，。！？、；：“”（）《》……"
EMOJI = ("👋🏽", "👨‍👩‍👧‍👦", "🇨🇳", "❤️", "😀", "🤷‍♂️", "🦜", "1️⃣")
SPACES = (" ", "  ", "\n", "\n\n", "\t", "\r\n", " \n", "   ", "\u3000", "\u00a0", "\u200b", "    ", "\u2028", "\x0b", "\x85")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<unk>", "<pad>",
           "<|startoftranscript|>", "<|0.00|>", "<0x41>", "<extra_id_0>", "▁")
CODE = ("def f(x):", "    return x", "!=", "{}", "();", "//", "/* */", "'s", "'ll", "I'M", "don't", "__init__", "0x1F", "3.14", "1234567",
        "CamelCase", "http://a.b/c?d=e&f", "λ", "±", "½", "²", "٣", "１２", "Ⅷ", "①", "9,", "``", "''")
SCRIPTS = ("é", "e\u0301", "ñ", "Straße", "İstanbul", "ΣΊΣΥΦΟΣ", "привет", "שָׁלוֹם", "مُرَحَّبًا", "हिन्दी", "ไทย", "한국어",
           "ひらがな", "カタカナ", "ﬁ", "ﷺ", "\ufeff", "\u200d", "𠮷", "𝒳", "ǅ", "ŉ", "\ufffd", "\ue000", "\x00", "㍿")
WORDS = " ".join(topics.values()).split(" ")


def strings(count: int, seed: int) -> Iterator[str]:
    """Draw `count` strings of one to thirteen parts; one part in twenty is any character of Unicode."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(_part(rng) for _ in range(rng.randrange(1, 14)))


def plain_strings(count: int, seed: int) -> list[str]:
    """Draw strings without special-token text, for references that give it special ids."""
    return [text for text in strings(3 * count, seed) if not any(name in text for name in SPECIAL)][:count]


def _part(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.30:
        return rng.choice(WORDS) + rng.choice(("", "", " "))
    if draw < 0.45:
        return "".join(rng.choices(CHINESE, k=rng.randrange(1, 12)))
    if draw < 0.60:
        return "".join(rng.choices(SPACES, k=rng.randrange(1, 5)))
    if draw < 0.95:
        return rng.choice(rng.choice((EMOJI, SPECIAL, CODE, SCRIPTS)))
    code = rng.randrange(1, 0x110000)
    return chr(code) if not 0xD800 <= code < 0xE000 else ""
