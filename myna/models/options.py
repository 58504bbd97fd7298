"""Options of the models that are not trained by gradient descent. Imported by the command line, so nothing heavy here.

    NgramOptions(order=5, smoothing="kneser_ney")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Smoothing = Literal["kneser_ney", "witten_bell", "stupid_backoff"]


@dataclass(frozen=True)
class NgramOptions:
    """How the n-gram baseline is estimated."""

    order: int | None = None
    "Length of the longest n-gram; none chooses it on the validation split."
    max_order: int = 6
    "Longest order tried when it is chosen; counting stops earlier when an order no longer helps."
    smoothing: Smoothing | None = None
    "kneser_ney (modified, interpolated), witten_bell or stupid_backoff; none chooses between the first two on the validation split."
    prune: tuple[int, ...] = ()
    "Leave out n-grams seen at most so often, by length (0,0,1: trigrams and longer seen once); the last number is for all longer ones."
    max_tokens: int = 8_000_000
    "Count at most this many training tokens, from documents drawn at random; memory stays under 300 bytes a token."


@dataclass(frozen=True)
class MixtureOptions:
    """What a model is mixed with."""

    members: tuple[Literal["ngram", "unbounded", "hmm"], ...] | None = None
    "Counted models whose probabilities are added to the model's, weighted by the validation split; none: ngram for what was trained."


@dataclass(frozen=True)
class HmmOptions:
    """How a hidden Markov model is trained."""

    states: int | None = None
    "Hidden states; none takes the most that the text can fill and the time allows, at most 256 where no time is set."
    restarts: int = 3
    "Random starts, each tried for a tenth of a pass; the one that is best on the validation split goes on."
    iterations: int = 50
    "Passes over the training text at most; it stops earlier when they no longer help."
    update_tokens: int = 3072
    "Training tokens between two updates, fewer in a short text; 0: one update a pass (Baum-Welch as published), which needs more passes."


@dataclass(frozen=True)
class UnboundedOptions:
    """How the unbounded n-gram is made."""

    max_tokens: int = 100_000_000
    "Index at most this many training tokens, from documents drawn at random."


@dataclass(frozen=True)
class TaggerOptions:
    """How a part-of-speech tagger is estimated."""

    longest_ending: int = 5
    "Characters of a word's ending, at most, by which an unknown word is tagged."
    rare: int = 10
    "Endings are learned from words seen at most so often."


@dataclass(frozen=True)
class VectorsOptions:
    """How word vectors are trained."""

    method: Literal["skipgram", "cbow"] = "skipgram"
    "skipgram: a word predicts each of its neighbours; cbow: the neighbours together predict the word, which is faster."
    hidden_size: int = 100
    "Numbers in a vector."
    window: int = 5
    "Neighbours on each side, at most."
    negatives: int = 5
    "Wrong words drawn for each right one."
    epochs: int | None = None
    "Passes over the training text; none takes 10 million words' worth, at least 5 and at most 50."
    learning_rate: float | None = None
    "Step at the beginning, falling in a straight line; none takes 0.025, or 0.05 for cbow."
    min_count: int = 5
    "Leave out words seen less often."
    sample: float = 0.001
    "Pass over occurrences of words that are more frequent than this share of the text, the more the more frequent; 0 keeps all."
    subwords: bool = False
    "Add to each word the vectors of its parts of 3 to 6 characters, so that unknown words have vectors too."
    buckets: int = 50_000
    "Vectors that the parts of words share."
    forms: Literal["words", "tokens"] | None = None
    "words: capitals and the space before a word make no other word, signs are left out; tokens: each token; none goes by the tokenizer."
