"""How varied and how repetitive texts are: distinct n-grams and repetition, of words, or of characters where there are no spaces.

distinct-n (Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5.1) is the share of
n-grams that differ from each other; rep-n (Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", section 6) is 1 less
it, within one text. Both fall and rise with length, so only texts of about one length compare. Neither is good in itself: what people
write has numbers of its own, and a model's are to be near them.

    repetition("to be or not to be or not to be".split())      # 0.43: 3 of 7 four-grams were there before
    across([["to", "be"], ["to", "be"]], 2)                    # 0.5: two texts say the same
"""

from __future__ import annotations

from collections.abc import Sequence

from myna.metrics.summaries import summary_words

LONGEST = 4  # n of the n-grams that count as repeated


def split_words(text: str) -> list[str]:
    """Cut a text into words in lower case without signs; a Han character, kana or Hangul syllable is a word."""
    return summary_words(text)


def count_distinct(words: Sequence[str], n: int) -> tuple[int, int]:
    """Return how many n-grams of one text differ, and how many there are."""
    ngrams = list(zip(*(words[at:] for at in range(n)), strict=False))
    return len(set(ngrams)), len(ngrams)


def distinct(words: Sequence[str], n: int) -> float:
    """Return the share of a text's n-grams that differ, from 0 to 1; 1 of a text too short to have any."""
    different, count = count_distinct(words, n)
    return different / count if count else 1.0


def repetition(words: Sequence[str], n: int = LONGEST) -> float:
    """Return the share of a text's n-grams that were in it before, from 0 to 1; 0 of a text too short to have any."""
    return 1 - distinct(words, n)


def across(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return the share of the n-grams of several texts together that differ: low when texts say the same as each other."""
    ngrams = [ngram for words in texts for ngram in zip(*(words[at:] for at in range(n)), strict=False)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0
