"""Continue a prompt as text, whole or as it comes, with any language model and its tokenizer.

    for text in generate_text(model, tokenizer, "Once", SampleOptions(n=3, seed=1)):
        print(text)                            # str(text) is the text; text.tokens, text.log_probs, text.finish_reason

    stream = stream_text(model, tokenizer, "Once", SampleOptions())
    for row, piece in stream:
        print(piece, end="", flush=True)
    stream.generations[0].finish_reason        # "stop" or "length"
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from myna.generate.beam import check_beams, search_beams
from myna.generate.options import SampleOptions
from myna.generate.sample import Drawn, sample_tokens
from myna.generate.stream import TextStream
from myna.models.protocol import LanguageModel

if TYPE_CHECKING:
    from myna.tokenizer.tokenizer import Tokenizer


@dataclass
class Generation:
    """One continuation, without its prompt."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)  # every id drawn, the one that ended the text included
    log_probs: list[float] = field(default_factory=list)  # the model's own, natural, one per token
    finish_reason: str = ""  # "stop" (the text ended or met a stop string), "length" (no more room), "" (still going)
    dropped_bytes: int = 0  # bytes drawn that are no UTF-8

    def __str__(self) -> str:
        return self.text


class Stream:
    """Continuations of one prompt on their way: iterate once for (row, piece of text)."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: SampleOptions) -> None:
        self.generations = [Generation() for _ in range(options.n)]
        self._texts = [TextStream(options.stop) for _ in range(options.n)]
        self._bytes = tokenizer.token_bytes
        self._pieces = [""] * options.n
        # special tokens have no text, so a text cannot go on after one
        if options.num_beams > 1:
            check_beams(options)
            self._drawn = self._search(model, tokenizer, prompt, options)
        else:
            self._drawn = sample_tokens(model, tokenizer.encode(prompt), options, tokenizer.special_ids, self._ended)

    def _search(self, model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: SampleOptions) -> Iterator[Drawn]:
        """Give the tokens of the best texts; nothing is certain before the search has ended."""
        def ended(ids: list[int]) -> bool:
            return any(stop in tokenizer.decode(ids) for stop in options.stop)

        beams = search_beams(model, tokenizer.encode(prompt), options, tokenizer.special_ids, ended if options.stop else None)
        for row, beam in enumerate(beams):
            for place, (token, log_prob) in enumerate(zip(beam.tokens, beam.log_probs, strict=True), start=1):
                self._ended(row, token)
                yield Drawn(row, token, log_prob, beam.finish_reason if place == len(beam.tokens) else "")

    def _ended(self, row: int, token: int) -> bool:
        # a model may have more ids than its tokenizer (its table padded to a round size); those have no text
        self._pieces[row] = self._texts[row].feed(self._bytes[token] if token < len(self._bytes) else b"")
        return self._texts[row].stopped

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for row, token, log_prob, finish_reason in self._drawn:
            generation, text = self.generations[row], self._texts[row]
            piece, self._pieces[row] = self._pieces[row], ""
            if finish_reason:
                piece += text.finish()
            generation.text += piece
            generation.tokens.append(token)
            generation.log_probs.append(log_prob)
            generation.finish_reason, generation.dropped_bytes = finish_reason, text.dropped
            if piece:
                yield row, piece


def stream_text(model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: SampleOptions | None = None) -> Stream:
    """Continue a prompt, giving (row, text) pieces as they are certain; `.generations` holds the results so far."""
    return Stream(model, tokenizer, prompt, options or SampleOptions())


def generate_text(model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: SampleOptions | None = None) -> list[Generation]:
    """Continue a prompt `options.n` times, in one batch. Raises UserError when the prompt does not fit the model."""
    stream = stream_text(model, tokenizer, prompt, options)
    for _ in stream:
        pass
    return stream.generations
