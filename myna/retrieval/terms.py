"""The terms by which texts are found: words of spaced scripts, characters and pairs of characters of Chinese and its neighbours.

Chinese has no spaces, and a word list would miss names and new words. A run of Han characters, kana or Hangul is therefore every character
in it and every pair of neighbours: pairs are about as good as words for finding (Nie et al. 2000, "On the use of words and n-grams for
Chinese information retrieval"), and single characters find what a pair misses. Words are compared in lower case, compatibility forms
(full-width letters, ligatures) made one, accents kept, and an English plural's s left off (Harman 1991, the "S stemmer").

    find_terms("Two cats; 人工智能")      # ["two", "cat", "人", "人工", "工", "工智", "智", "智能", "能"]
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# Han with its extensions and compatibility forms, kana, Hangul syllables: scripts that are cut into characters
UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
_RUNS = re.compile(f"[{UNSPACED}]+|[^\\W_{UNSPACED}]+(?:'[^\\W_{UNSPACED}]+)?")
_LONGEST = 64  # characters of a term; what is longer is no word, and its beginning finds it


def find_terms(text: str) -> list[str]:
    """List the terms of a text in their order."""
    found: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")):
        if _is_unspaced(run[0]):
            for at, character in enumerate(run):
                found.append(character)
                if at + 1 < len(run):
                    found.append(run[at : at + 2])
        else:
            found.append(_singular(run.removesuffix("'s"))[:_LONGEST])
    return found


def count_terms(text: str) -> Counter[str]:
    """Count the terms of a text."""
    return Counter(find_terms(text))


def _is_unspaced(character: str) -> bool:
    return re.match(f"[{UNSPACED}]", character) is not None


def _singular(word: str) -> str:
    """Leave off an English plural: the three rules of Harman's S stemmer."""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]
