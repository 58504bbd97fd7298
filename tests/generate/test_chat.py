"""A conversation: what the model remembers gives what a fresh reading gives, and nothing of it is lost or hidden."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch

from myna.errors import UserError
from myna.generate.chat import Conversation
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.mixture import Mixture
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.tokenizer.chat import CHATML, ChatTemplate
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

CONTEXT = 256
GREEDY = SampleOptions(max_tokens=24, temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    corpus = write_corpus(tmp_path_factory.mktemp("chat") / "c", list(topics.values())[:20], ["a"], ["b"])
    return train_tokenizer(corpus, TokenizerOptions(vocab_size=512))


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(CHATML, tokenizer)


def shake(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="module", params=["decoder", "lstm", "mixture"])
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Any:
    size = tokenizer.vocab_size
    decoder = shake(Decoder(DecoderConfig(vocab_size=size, hidden_size=64, num_hidden_layers=2, head_dim=32,
                                          max_position_embeddings=CONTEXT)))
    lstm = shake(Recurrent(RecurrentConfig("lstm", vocab_size=size, hidden_size=32, num_hidden_layers=1)))
    return {"decoder": lambda: decoder, "lstm": lambda: lstm,
            "mixture": lambda: Mixture([decoder, lstm], ["decoder", "lstm"], [0.5, 0.5])}[request.param]()


class Counting:
    """A model that counts the ids it reads."""

    def __init__(self, model: Any) -> None:
        self.model, self.read = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def step(self, ids: Any, state: Any, last: bool = True) -> Any:
        self.read += sum(map(len, ids))
        return self.model.step(ids, state, last)


def hear(conversation: Conversation, text: str | None = None) -> str:
    if text is not None:
        conversation.ask(text)
    return "".join(conversation.answer())


def test_what_is_remembered_gives_what_a_fresh_reading_gives(model: Any, tokenizer: Tokenizer, template: ChatTemplate) -> None:
    counting = Counting(model)
    talk = Conversation(counting, tokenizer, template, GREEDY)
    for text in ("Hello", "and then?", " why\n"):
        before, counting.read = len(talk.messages), 0
        said = hear(talk, text)
        assert talk.messages[before:] == [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
        assert counting.read == talk.read + len(talk.last.tokens) - 1
        fresh = Conversation(model, tokenizer, template, GREEDY, messages=talk.messages[:-1])
        assert hear(fresh) == said
        assert fresh.last.tokens == talk.last.tokens
        assert np.allclose(fresh.last.log_probs, talk.last.log_probs, atol=1e-4)
        assert fresh.read == fresh.prompt_tokens == talk.prompt_tokens
    assert talk.read < talk.prompt_tokens


def test_only_new_ids_are_read_where_the_answer_is_what_the_tokenizer_would_write(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    """An answer of whole words, drawn by a model that says what a script says."""
    answer = [*tokenizer.encode("yes it is"), tokenizer.special_id("<|im_end|>")]
    script = Script(answer, tokenizer.vocab_size)
    talk = Conversation(script, tokenizer, template, GREEDY)
    assert hear(talk, "one") == "yes it is"
    first = talk.prompt_tokens
    assert hear(talk, "two") == "yes it is"
    assert talk.read == talk.prompt_tokens - first - len(answer) + 1  # <|im_end|> ended the answer and was not read
    assert talk.last.finish_reason == "stop"
    talk.undo()
    talk.ask("three")
    hear(talk)
    assert [message["content"] for message in talk.messages] == ["one", "yes it is", "three", "yes it is"]


class Script:
    """A model that says the same ids after every assistant's mark."""

    max_length: int | None = 400

    def __init__(self, ids: list[int], vocab: int) -> None:
        self.ids, self.vocab_size, self.separator_id = ids, vocab, 0

    def start(self, rows: int = 1, source: Any = None) -> Any:
        return Said()

    def step(self, ids: Any, state: Any, last: bool = True) -> Any:
        assert len(ids[0]) > 0
        state.ids += ids[0]
        if len(ids[0]) > 1 or state.begin is None:
            state.begin = len(state.ids)
        out = np.full((1, self.vocab_size), -30.0, np.float32)
        out[0, self.ids[(len(state.ids) - state.begin) % len(self.ids)]] = 0
        return out


class Said:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.begin: int | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(self.ids)]

    def truncate(self, lengths: Any) -> None:
        assert lengths[0] < len(self.ids)
        del self.ids[lengths[0]:]
        self.begin = None

    def select(self, rows: Any) -> None:
        raise AssertionError("one row needs no copy")


def test_an_answer_that_is_stopped_is_kept(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    answer = [*tokenizer.encode("one two three four five six"), tokenizer.special_id("<|im_end|>")]
    talk = Conversation(Script(answer, tokenizer.vocab_size), tokenizer, template, GREEDY)
    talk.ask("count")
    pieces: list[str] = []
    for piece in talk.answer(stopped=lambda: len(pieces) >= 2):
        pieces.append(piece)
    assert talk.last.finish_reason == "interrupted"
    assert talk.messages[-1] == {"role": "assistant", "content": "".join(pieces)}
    assert len(pieces) < len(answer) - 1
    assert hear(talk, "again") == "one two three four five six"
    assert talk.read < talk.prompt_tokens


def test_an_error_in_the_middle_forgets_the_state_and_keeps_the_text(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    answer = [*tokenizer.encode("one two three four five six"), tokenizer.special_id("<|im_end|>")]
    talk = Conversation(Script(answer, tokenizer.vocab_size), tokenizer, template, GREEDY)
    talk.ask("count")
    with pytest.raises(KeyboardInterrupt):
        for number, _ in enumerate(talk.answer()):
            if number == 1:
                raise KeyboardInterrupt
    talk.messages = talk.messages[:2]  # the generator is closed by now
    assert talk.messages[-1]["role"] == "assistant"
    assert hear(talk, "again") == "one two three four five six"
    assert talk.read == talk.prompt_tokens


def test_the_oldest_turns_are_left_out_and_counted(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    answer = [*tokenizer.encode("yes " * 20), tokenizer.special_id("<|im_end|>")]
    talk = Conversation(Script(answer, tokenizer.vocab_size), tokenizer, template, SampleOptions(max_tokens=50, temperature=0.0))
    talk.system = "Answer yes."
    counts = []
    for turn in range(9):
        hear(talk, f"question {turn} " + "word " * 10)
        counts.append(talk.left_out)
        assert talk.prompt_tokens + 50 <= 400
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] > 4
    assert counts[-1] % 2 == 0
    assert len(talk.messages) == 19  # nothing is lost
    with pytest.raises(UserError, match=r"the last message takes .* at most 400"):
        hear(talk, "word " * 500)


def test_the_same_seed_gives_the_same_conversation_and_other_answers_to_every_message(tokenizer: Tokenizer, template: ChatTemplate,
                                                                                      model: Any) -> None:
    def talk(seed: int) -> list[str]:
        conversation = Conversation(model, tokenizer, template, SampleOptions(max_tokens=8, seed=seed))
        said = [hear(conversation, "Hello")]
        conversation.undo()
        return [*said, hear(conversation, "Hello")]

    first = talk(1)
    assert first == talk(1)
    assert first[0] != first[1]


def test_a_system_prompt_is_set_changed_and_taken_back(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    talk = Conversation(Script([5], tokenizer.vocab_size), tokenizer, template, messages=[{"role": "user", "content": "x"}])
    talk.system = "be brief"
    talk.system = "be long"
    assert [message["role"] for message in talk.messages] == ["system", "user"]
    assert talk.system == "be long"
    talk.system = ""
    assert talk.messages == [{"role": "user", "content": "x"}]
    assert talk.undo()
    assert not talk.undo()


def test_what_the_template_writes_around_an_answer_is_not_its_text(tokenizer: Tokenizer) -> None:
    spaced = ChatTemplate("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
                          "{% else %}{{ ' ' + m.content + ' <|im_end|>' }}{% endif %}{% endfor %}", tokenizer)
    answer = [*tokenizer.encode(" yes "), tokenizer.special_id("<|im_end|>")]
    talk = Conversation(Script(answer, tokenizer.vocab_size), tokenizer, spaced, GREEDY)
    hear(talk, "one")
    assert talk.messages[-1]["content"] == "yes"
    first = talk.prompt_tokens
    hear(talk, "two")
    assert talk.read == talk.prompt_tokens - first - len(answer) + 1


def test_what_cannot_be_a_conversation_is_refused(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    model = Script([5], tokenizer.vocab_size)
    with pytest.raises(UserError, match="answers one text with another"):
        Conversation(model, tokenizer, template, rules=Rules(source=True))
    with pytest.raises(UserError, match="n is 2"):
        Conversation(model, tokenizer, template, SampleOptions(n=2))
    with pytest.raises(UserError, match="last message is not the user's"):
        hear(Conversation(model, tokenizer, template))
