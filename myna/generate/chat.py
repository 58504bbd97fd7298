"""A conversation with a language model: what was said, and what the model still remembers of it.

Each answer continues the whole conversation, rendered by the model's chat template. The state of the model (a decoder's cache, a
recurrent state) stays between answers: it is cut back to what the new prompt has in common with what it has read, and only the
rest is read. Where a conversation outgrows the context, its oldest turns are left out of the prompt, and counted.

    conversation = Conversation(model, tokenizer, ChatTemplate.open(folder, tokenizer), SampleOptions(seed=1))
    conversation.ask("Hello")
    for piece in conversation.answer():
        print(piece, end="", flush=True)
    conversation.last.finish_reason, conversation.left_out
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.generate.text import Generation, Stream
from myna.models.protocol import LanguageModel
from myna.tokenizer.chat import ChatTemplate, Message, check_messages
from myna.tokenizer.tokenizer import Tokenizer

_ROOM = 4  # own choice: an answer may count on a quarter of the context, or on max_tokens where that is less


class Conversation:
    """Messages and the model's memory of them. `messages` may be changed between answers; the memory follows.

    background: gives what is put behind the system prompt while a message is answered; it does not stay in the messages.
    last: the latest answer as it was drawn. left_out: oldest messages that its prompt had no room for. read: ids that the model read for
    it, of `prompt_tokens`.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, template: ChatTemplate, options: SampleOptions | None = None,
                 rules: Rules | None = None, messages: Sequence[Mapping[str, object]] = ()) -> None:
        """Begin, or go on with `messages`. rules: what the model's directory says of generation.

        Raises UserError where the model answers a source instead of going on with a text, or an option asks for several texts.
        """
        rules, options = rules or Rules(), options or SampleOptions()
        if rules.source:
            raise UserError("a model that answers one text with another", "a decoder or another model that goes on with a text",
                            "`myna generate` gives its answer")
        if options.n > 1 or options.num_beams > 1:
            raise UserError(f"n is {options.n} and num_beams is {options.num_beams}", "1 of each in a conversation")
        if options.penalty_alpha:
            raise UserError(f"penalty_alpha is {options.penalty_alpha:g}", "0 in a conversation, whose answers are drawn", "leave it out")
        self.messages = check_messages(messages) if messages else []
        self.options, self.template = options, template
        self.background: Any = None  # called with the last message; `myna.tasks.chat.Background`, which this stage may not know
        self.last, self.left_out, self.read, self.prompt_tokens = Generation(), 0, 0, 0
        self._model, self._tokenizer = model, tokenizer
        self._rules = dataclasses.replace(rules, end_ids=rules.end_ids | template.end_ids)
        self._state: Any = None
        self._ids: list[int] = []  # what the state has taken
        self._answers = 0

    @property
    def system(self) -> str:
        """The system prompt, or an empty text."""
        return "".join(message["content"] for message in self._head())

    @system.setter
    def system(self, text: str) -> None:
        rest = self.messages[len(self._head()):]
        self.messages = [*([Message(role="system", content=text)] if text else []), *rest]

    def _head(self) -> list[Message]:
        return [message for message in self.messages[:1] if message["role"] == "system"]

    @property
    def longest(self) -> int | None:
        """Tokens that the model can see, prompt and answer together."""
        return self._model.max_length

    def ask(self, text: str) -> None:
        """Add what the user says."""
        self.messages.append(Message(role="user", content=text))

    def undo(self) -> bool:
        """Take back the last user's message and what came after it. Returns False where there is none."""
        places = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        if places:
            self.messages = self.messages[:places[-1]]
        return bool(places)

    def answer(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Draw an answer to the last message, piece by piece, and add it to the messages, also when it is cut short.

        stopped: asked after every piece; True ends the answer with reason "interrupted". Raises UserError when the last message has
        no room, and then nothing is added.
        """
        prompt = self._prompt()
        options = self.options
        if options.seed is not None:  # a fixed seed gives the same conversation, not the same answer to every message
            options = dataclasses.replace(options, seed=options.seed + self._answers)
        self._answers += 1
        self._recall(prompt)
        self.read, self.prompt_tokens = len(prompt) - len(self._ids), len(prompt)
        state, self._state = self._state, None  # until it is known what the state has taken
        stream = Stream(self._model, self._tokenizer, prompt, options, self._rules, state)
        generation = self.last = stream.generations[0]
        whole = False
        try:
            for _, piece in stream:
                yield piece
                if stopped() and not generation.finish_reason:
                    generation.finish_reason = "interrupted"
                    break
            whole = True
        finally:
            generation.finish_reason = generation.finish_reason or "interrupted"
            if whole:
                self._state, self._ids = state, [*prompt, *generation.tokens][:state.lengths[0]]
            if whole or generation.text:
                self.messages.append(Message(role="assistant", content=self.template.answer_text(generation.text)))

    def _prompt(self) -> list[int]:
        """Encode the conversation, without as many of its oldest turns as it takes to fit."""
        head = self._head()
        turns = self.messages[len(head):]
        if not turns or turns[-1]["role"] != "user":
            raise UserError("a conversation whose last message is not the user's", "a question to answer")
        if self.background is not None and (said := self.background(turns[-1]["content"])):
            head = [Message(role="system", content=f"{self.system}\n\n{said}".lstrip("\n"))]
        longest = self.longest
        self.left_out = 0
        while True:
            ids = self.template.encode([*head, *turns], add_generation_prompt=True)
            if longest is None or len(ids) <= longest - min(self.options.max_tokens, longest // _ROOM):
                return ids
            later = [place for place, message in enumerate(turns) if place and message["role"] == "user"]
            if not later:
                if len(ids) <= longest:
                    return ids
                raise UserError(f"the last message takes {len(ids):,} tokens with what stands around it",
                                f"at most {longest:,}, all this model can see", "shorten it, or the system prompt")
            self.left_out += later[0]
            turns = turns[later[0]:]

    def _recall(self, prompt: Sequence[int]) -> None:
        """Cut the state back to what it has in common with the prompt; at least one id stays to be read."""
        same = next((place for place, (old, new) in enumerate(zip(self._ids, prompt[:-1], strict=False)) if old != new),
                    min(len(self._ids), len(prompt) - 1))
        if self._state is None:
            self._state, same = self._model.start(1), 0
        elif same < len(self._ids):
            self._state.truncate([same])
        self._ids = self._ids[:same]
