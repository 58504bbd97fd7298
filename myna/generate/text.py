"""Continue a prompt as text, whole or as it comes, with any language model and its tokenizer.

    for text in generate_text(model, tokenizer, "Once", SampleOptions(n=3, seed=1)):
        print(text)                            # str(text) is the text; text.tokens, text.log_probs, text.finish_reason

    stream = stream_text(model, tokenizer, "Once", SampleOptions())
    for row, piece in stream:
        print(piece, end="", flush=True)
    stream.generations[0].finish_reason        # "stop" or "length"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from myna.errors import UserError
from myna.generate.beam import check_beams, search_beams
from myna.generate.contrastive import check_contrastive, search_contrastive
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
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
    """Continuations of one prompt on their way: iterate once for (row, piece of text).

    A prompt of ids is taken as it is; `state` may have read its first ids already (see `sample_tokens`).
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, prompt: str | Sequence[int], options: SampleOptions, rules: Rules,
                 state: Any = None, target: Tokenizer | None = None) -> None:
        self.generations = [Generation() for _ in range(options.n)]
        self._texts = [TextStream(options.stop) for _ in range(options.n)]
        written = target or tokenizer
        self._bytes, self._marked = written.token_bytes, rules.source and not written.lossless
        self._pieces = [""] * options.n
        # ids as the model's tokenizer surrounds them: a model of pairs ends its source, many decoders begin with a token of their own
        ids = _ids(tokenizer, prompt) if prompt or rules.source else []
        begun, source = ([], ids) if rules.source else (ids, None)
        # special tokens have no text, so a text that was continued cannot go on after one; an answer may begin with one
        stops = rules.end_ids if rules.source else rules.end_ids | tokenizer.special_ids
        if options.num_beams > 1 and not options.penalty_alpha:
            check_beams(options)
            self._drawn = self._search(model, written, begun, options, stops, source, rules)
        elif options.penalty_alpha > 0:
            check_contrastive(options)
            if rules.source:
                raise UserError("penalty_alpha with a model that answers a source", "a model that goes on with a text", "try --num-beams 4")
            self._drawn = search_contrastive(model, begun, options, stops, self._ended, rules)
        else:
            self._drawn = sample_tokens(model, begun, options, stops, self._ended, source, rules, state)

    def _search(self, model: LanguageModel, tokenizer: Tokenizer, begun: list[int], options: SampleOptions, stops: frozenset[int],
                source: list[int] | None, rules: Rules) -> Iterator[Drawn]:
        """Give the tokens of the best texts; nothing is certain before the search has ended."""
        def ended(ids: list[int]) -> bool:
            return any(stop in tokenizer.decode(ids) for stop in options.stop)

        beams = search_beams(model, begun, options, stops, ended if options.stop else None, source, rules)
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
            generation.tokens.append(token)
            generation.log_probs.append(log_prob)
            generation.finish_reason, generation.dropped_bytes = finish_reason, text.dropped
            if not generation.text and self._marked:  # a word's mark stands for a space before it, the first word's for none
                piece = piece.removeprefix(" ")
            generation.text += piece
            if piece:
                yield row, piece


def _ids(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    return tokenizer.encode_inputs([prompt])[0] if isinstance(prompt, str) else list(prompt)


def stream_text(model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: SampleOptions | None = None,
                rules: Rules | None = None, target: Tokenizer | None = None) -> Stream:
    """Continue a prompt, or answer it where `rules.source` says so, giving (row, text) pieces as they are certain.

    `.generations` holds the results so far. rules: what the model's directory says (`read_rules`). target: the tokenizer of what is
    written, where it is not that of what is read.
    """
    return Stream(model, tokenizer, prompt, options or SampleOptions(), rules or Rules(), target=target)


def generate_text(model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: SampleOptions | None = None,
                  rules: Rules | None = None, target: Tokenizer | None = None) -> list[Generation]:
    """Do so `options.n` times, in one batch. Raises UserError when the prompt does not fit the model."""
    stream = stream_text(model, tokenizer, prompt, options, rules, target)
    for _ in stream:
        pass
    return stream.generations
