"""Talk about documents: the passages of an index that a message is about stand behind the system prompt while it is answered.

They take a third of the context at most, the best first; which of them were read is known after each answer, so that the source
can be named under it. A model may still say what stands in none of them: `myna answer` quotes instead.

    background = Background(Searcher.open(Path("my-index")), tokenizer, longest=2048)
    talk.background = background
    talk.ask("Who built the tower?")
    print("".join(talk.answer()), [hit.file for hit in background.hits])
"""

from __future__ import annotations

from myna.retrieval.index import Hit
from myna.retrieval.options import SearchOptions
from myna.tasks.search import Searcher
from myna.tokenizer.tokenizer import Tokenizer

_SHARE, _MOST = 3, 1024  # passages take one token in three of the context, and so many at most: own choice
_ASKED = "Answer from these passages where they say something about the question."


class Background:
    """What an index says about a message. hits: the passages that the last answer could read. left_out: those found, without room. cut: of
    the best only the beginning had room."""

    def __init__(self, searcher: Searcher, tokenizer: Tokenizer, longest: int | None, passages: int = 3) -> None:
        """Begin. longest: tokens that the model can see; None: any number. passages: read for an answer at most."""
        self.hits: list[Hit] = []
        self.left_out, self.cut = 0, False
        self._searcher, self._tokenizer = searcher, tokenizer
        self._options = SearchOptions(k=passages)
        self._room = _MOST if longest is None else min(_MOST, longest // _SHARE)

    def __call__(self, message: str) -> str:
        """Return the text that is put behind the system prompt, empty where nothing is found or fits."""
        found = self._searcher.search(message, self._options)
        self.hits, self.cut, text = [], False, ""
        for hit in found:
            longer = (text or _ASKED) + f"\n\n{hit.text.strip()}"
            ids = self._tokenizer.encode(longer)
            if len(ids) > self._room:
                if not self.hits:  # the best passage is read as far as there is room
                    self.hits, text, self.cut = [hit], self._tokenizer.decode(ids[: self._room]), True
                break
            self.hits.append(hit)
            text = longer
        self.left_out = len(found) - len(self.hits)
        return text
