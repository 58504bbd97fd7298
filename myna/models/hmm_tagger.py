"""The hidden Markov model with the states known: a part-of-speech tagger, whose states are tags and whose ids are words.

Trained on tagged sentences, nothing is hidden and nothing iterates: all probabilities are relative frequencies. p(tag | tag before) and
p(tag | word) are smoothed by Witten-Bell: what was seen is mixed with a wider distribution, which counts for as much as there are
different tags in what was seen. The wider distribution of a word is that of its longest known ending among the rare words, so that a
word never seen is tagged by its ending and by what kind of characters it has; the emission of Viterbi's algorithm is then
p(word | tag) ~ p(tag | word) / p(tag) (Bayes; p(word) is the same for all tags).

Sources: K. W. Church, "A stochastic parts program and noun phrase parser for unrestricted text", ANLP 1988; T. Brants, "TnT: a statistical
part-of-speech tagger", ANLP 2000, section 2.3, for endings of rare words and for p(tag | ending) turned round; I. H. Witten and T. C. Bell,
"The zero-frequency problem", IEEE Transactions on Information Theory 37 (1991), method C, for the smoothing (TnT has others).

    tagger = fit_tagger([[("a", "DET"), ("bird", "NOUN"), ("sings", "VERB")]])
    tagger.tag(["a", "bird"])                            # ["DET", "NOUN"]

S tags, W words, X endings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.models.hmm import best_path, read_log_probabilities
from myna.models.options import TaggerOptions
from myna.tokenizer.atoms import WIDTHS

Array = npt.NDArray[Any]
Sentence = Sequence[tuple[str, str]]

_LEAST = 1e-30  # no probability is smaller, so that logarithms stay finite
_LONGEST = 100  # characters of an ending: a bound on what a file may ask for


class Tagger:
    """A first-order part-of-speech tagger.

    tags: S names. words, endings: the rows of their tables; an ending's key is the word's kind of characters and its last few.
    tables: log_initial (S,) and log_transition (S, S + 1), whose last column is the sentence's end; log_tag (S,); log_word (W, S),
    log p(tag | word); log_ending (X, S), log p(tag | ending), of which the first is that of any word. All float32.
    """

    def __init__(self, tags: list[str], words: list[str], endings: list[str], longest: int, tables: dict[str, Array]) -> None:
        self.tags, self.longest = tags, longest
        self._words, self._endings = ({key: row for row, key in enumerate(keys)} for keys in (words, endings))
        self._tables = tables
        self._transition = tables["log_transition"].astype(np.float64)
        self.name = "hidden Markov model"

    def knows(self, word: str) -> bool:
        """Tell whether the word was in the training sentences."""
        return word in self._words

    def tag(self, words: Sequence[str]) -> list[str]:
        """Return the most probable tags of a sentence's words, together."""
        if not words:
            return []
        [emitted] = self.emit([words])
        emitted[-1] += self._transition[:, -1]
        path = best_path(self._tables["log_initial"].astype(np.float64), self._transition[:, :-1], emitted)
        return [self.tags[state] for state in path]

    def emit(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Score every tag of every word by itself, log p(tag | word) / p(tag): (T, S) for each sentence."""
        return [np.stack([self._of_word(word) for word in words]) - self._tables["log_tag"] for words in sentences]

    def most_frequent(self, words: Sequence[str]) -> list[str]:
        """Return the likeliest tag of each word by itself; of a word never seen, the most frequent tag of all."""
        common = self._tables["log_tag"]
        rows = [self._tables["log_word"][self._words[word]] if word in self._words else common for word in words]
        return [self.tags[int(row.argmax())] for row in rows]

    def _of_word(self, word: str) -> Array:
        """Log p(tag | word): (S,)."""
        word = word if word in self._words else word.translate(WIDTHS)  # a wide "？" is "?" where only that is known
        if word in self._words:
            return np.asarray(self._tables["log_word"][self._words[word]], np.float64)
        known = [self._endings[key] for key in _endings(word, self.longest) if key in self._endings]
        return np.asarray(self._tables["log_ending"][known[-1]], np.float64)

    def save(self, folder: Path) -> None:
        """Write config.json, words.json and model.safetensors into `folder`."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "model.safetensors", save(self._tables))
        write_json(folder / "words.json", {"words": list(self._words), "endings": list(self._endings)})
        write_json(folder / "config.json", {"model_type": "hmm_tagger", "tags": self.tags, "longest_ending": self.longest})

    @classmethod
    def open(cls, folder: Path) -> Tagger:
        """Read a tagger's directory. Raises UserError unless everything in it fits together."""
        config, lists = read_json(folder / "config.json"), read_json(folder / "words.json")
        if not isinstance(config, dict) or config.get("model_type") != "hmm_tagger":
            raise UserError(f"{folder / 'config.json'} is not a tagger's", 'model_type "hmm_tagger"', "give a tagger's directory")
        tags, longest = config.get("tags"), config.get("longest_ending")
        words, endings = (lists.get("words"), lists.get("endings")) if isinstance(lists, dict) else (None, None)
        if not (_distinct(tags) and _distinct(words) and _distinct(endings) and endings[0] == "" and isinstance(longest, int)
                and 0 <= longest <= _LONGEST):
            raise UserError(f"{folder} has no usable lists of tags, words and endings", "config.json and words.json as Myna writes them",
                            "restore the directory or train it again")
        s = len(tags)
        tables = read_log_probabilities(folder, {"log_initial": (s,), "log_transition": (s, s + 1), "log_tag": (s,),
                                                 "log_word": (len(words), s), "log_ending": (len(endings), s)})
        return cls(tags, words, endings, longest, tables)


def fit_tagger(sentences: Iterable[Sentence], options: TaggerOptions | None = None) -> Tagger:
    """Estimate a tagger from sentences of (word, tag). Raises UserError when there is none or an option is wrong."""
    options = options or TaggerOptions()
    if not 0 <= options.longest_ending <= _LONGEST or options.rare < 1:
        raise UserError(f"a tagger with longest_ending {options.longest_ending} and rare {options.rare}",
                        f"from 0 to {_LONGEST}, and 1 or more")
    held = [list(sentence) for sentence in sentences if len(sentence)]
    if not held:
        raise UserError("no tagged sentence to learn from", "at least one sentence of (word, tag)", "check the corpus")
    tags = sorted({tag for sentence in held for _, tag in sentence})
    number = {tag: state for state, tag in enumerate(tags)}
    words = sorted({word for sentence in held for word, _ in sentence})
    row = {word: place for place, word in enumerate(words)}
    s = len(tags)
    initial, pairs, by_word = np.zeros(s), np.zeros((s, s + 1)), np.zeros((len(words), s))
    for sentence in held:
        path = [number[tag] for _, tag in sentence]
        initial[path[0]] += 1
        np.add.at(pairs, (path, [*path[1:], s]), 1)
        np.add.at(by_word, ([row[word] for word, _ in sentence], path), 1)
    use = by_word.sum(0)
    follows = np.append(use, len(held))
    endings, log_ending = _fit_endings(words, by_word, use, options)
    places = {key: place for place, key in enumerate(endings)}
    wider = [max(places[key] for key in _endings(word, options.longest_ending) if key in places) for word in words]
    tables = {"log_initial": _mixed(initial[None], use / use.sum())[0], "log_transition": _mixed(pairs, follows / follows.sum()),
              "log_tag": use / use.sum(), "log_word": _mixed(by_word, log_ending[wider]), "log_ending": log_ending}
    return Tagger(tags, words, endings, options.longest_ending,
                  {name: np.log(np.maximum(table, _LEAST)).astype(np.float32) for name, table in tables.items()})


def _fit_endings(words: list[str], by_word: Array, use: Array, options: TaggerOptions) -> tuple[list[str], Array]:
    """Return the endings of rare words, shortest first, and p(tag | ending), each mixed with that of the next shorter: (X, S)."""
    counts: dict[str, Array] = {}
    for word, tagged in zip(words, by_word, strict=True):
        if tagged.sum() <= options.rare:  # frequent words have tags that no new word has
            for key in _endings(word, options.longest_ending):
                counts[key] = counts.get(key, 0) + tagged
    endings = sorted(counts, key=lambda key: (len(key), key)) or [""]
    found: dict[str, Array] = {}
    for key in endings:
        shorter = found[_shorter(key)] if key else use / use.sum()
        found[key] = _mixed(counts.get(key, np.zeros(len(use)))[None], shorter)[0]
    return endings, np.stack([found[key] for key in endings])


def _endings(word: str, longest: int) -> list[str]:
    """Return the keys that a word belongs to, widest first: any word, its kind of characters, that and its last characters."""
    kind = _kind(word)
    return ["", *(f"{kind}{word[len(word) - length:]}" for length in range(min(longest, len(word)) + 1))]


def _shorter(key: str) -> str:
    return key[0] + key[2:] if len(key) > 1 else ""


def _kind(word: str) -> str:
    """Say in one letter what characters a word has: d digits inside, p no letter, u capital first, l other letters, o without case."""
    if any(character.isdigit() for character in word):
        return "d"
    if not any(character.isalpha() for character in word):
        return "p"
    if word[0].isupper():
        return "u"
    return "l" if word.lower() != word.upper() else "o"


def _mixed(counts: Array, wider: Array) -> Array:
    """Mix the relative frequencies of each row with a wider distribution, which weighs as much as there are kinds in the row."""
    kinds = np.maximum((counts > 0).sum(-1, keepdims=True), 1)  # a row without counts is the wider distribution
    return np.asarray((counts + kinds * wider) / (counts.sum(-1, keepdims=True) + kinds))


def tag_accuracy(tagger: Tagger, sentences: Iterable[Sentence]) -> dict[str, float]:
    """Return the share of tags that are right: of all words, and of those that were in training and that were not (nan: none)."""
    right: Counter[bool] = Counter()
    seen: Counter[bool] = Counter()
    for sentence in sentences:
        found = tagger.tag([word for word, _ in sentence])
        for (word, tag), given in zip(sentence, found, strict=True):
            seen[tagger.knows(word)] += 1
            right[tagger.knows(word)] += tag == given

    def share(hits: int, of: int) -> float:
        return hits / of if of else float("nan")

    return {"all": share(right.total(), seen.total()), "known": share(right[True], seen[True]), "unknown": share(right[False], seen[False])}


def _distinct(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and len(values) > 0 and all(isinstance(v, str) for v in values) and len(set(values)) == len(values)
