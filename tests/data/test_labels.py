"""What is learned of a conversation, what is cut, and what is refused before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pydoc_data.topics import topics

import numpy as np
import pytest

from myna.data.conversations import Example
from myna.data.labels import Labelled, LabelReport, check_labels, label_examples, show_labels
from myna.errors import UserError
from myna.tokenizer.chat import CHATML, ChatTemplate
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "c", list(topics.values())[:8])
    return train_tokenizer(corpus, TokenizerOptions(vocab_size=320))


def talk(*contents: str, system: str = "") -> Example:
    messages = [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]
    begin = [{"role": "system", "content": system}] if system else []
    return Example((*begin, *messages), where="rows.jsonl:1", pair=len(contents) == 2)


def learned(piece: Labelled, tokenizer: Tokenizer) -> str:
    return "".join(tokenizer.tokens(piece.ids[piece.trained].tolist()))


def test_answers_and_their_ends_are_learned_and_nothing_else(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CHATML, tokenizer)
    labelled, report = label_examples([talk("Who?", "Me.", "Why?", "Because.", system="Be short.")], tokenizer, template, 200)
    assert learned(labelled[0], tokenizer) == "Me.<|im_end|>Because.<|im_end|>"
    assert "".join(tokenizer.tokens(labelled[0].ids.tolist())) == template.render(talk("Who?", "Me.", "Why?", "Because.",
                                                                                    system="Be short.").messages)
    assert (report.parts, report.spoken, report.ends_trained, report.longer, report.cut) == (1, 1, 1, 0, 0)
    assert report.trained == int(labelled[0].trained.sum()) and report.tokens == len(labelled[0].ids)
    assert any("100.0%" in line and "<|im_end|>" in line for line in report.said())
    check_labels(report)


def test_a_long_conversation_is_cut_from_its_end_into_parts_that_fit(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CHATML, tokenizer)
    turns = [f"{word} {number} and some more words" for number in range(20) for word in ("question", "answer")]
    labelled, report = label_examples([talk(*turns, system="Short.")], tokenizer, template, 200)
    assert len(labelled) > 2 and all(len(piece.ids) <= 201 for piece in labelled) and report.longer == 1
    assert "".join(learned(piece, tokenizer) for piece in labelled) == "".join(turn + "<|im_end|>" for turn in turns[1::2])
    texts = ["".join(tokenizer.tokens(piece.ids.tolist())) for piece in labelled]
    assert all(text.startswith("<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\nquestion") for text in texts)
    assert len({piece.number for piece in labelled}) == 1 and report.cut == 0


def test_an_exchange_that_does_not_fit_alone_is_dropped_and_counted(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CHATML, tokenizer)
    labelled, report = label_examples([talk("word " * 300, "no", "short?", "yes"), talk("word " * 300, "no")], tokenizer, template, 100)
    assert [learned(piece, tokenizer) for piece in labelled] == ["yes<|im_end|>"]
    assert report.cut > 500 and report.dropped == 1 and report.longer == 2
    assert any("dropped whole" in line for line in report.said())


def test_texts_are_learned_whole_between_separators(tokenizer: Tokenizer) -> None:
    text = "The quick brown fox. " * 40
    labelled, report = label_examples([Example(text=text), Example(text="goes on", ends=False)], tokenizer, None, 50)
    predicted = np.concatenate([piece.ids[1:] for piece in labelled[:-1]])
    assert predicted[-1] == tokenizer.separator_id and tokenizer.decode(predicted[:-1].tolist()) == text
    assert all(piece.trained[1:].all() and not piece.trained[0] for piece in labelled)
    assert labelled[-1].ids[0] == tokenizer.separator_id != labelled[-1].ids[-1]
    assert len({piece.number for piece in labelled}) == len(labelled)
    some, short = label_examples([Example(text=text), talk("a", "b")], tokenizer, None, 50, enough=120)
    assert len(some) == 3 and short.unread == 1
    check_labels(report)


def test_pairs_need_no_template_and_conversations_do(tokenizer: Tokenizer) -> None:
    labelled, _ = label_examples([talk("2+2=", "4")], tokenizer, None, 50)
    assert learned(labelled[0], tokenizer) == "4<|endoftext|>"
    with pytest.raises(UserError, match=r"rows\.jsonl:1 is a conversation, and the model has no chat template"):
        label_examples([talk("a", "b", "c", "d")], tokenizer, None, 50)


class Endless:
    """A template that writes the end of an answer but does not teach it."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template, self.end_ids = template, template.end_ids

    def encode_example(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
        ids, trained = self.template.encode_example(messages)
        return ids, [wanted and id not in self.end_ids for id, wanted in zip(ids, trained, strict=True)]


def test_what_cannot_learn_to_stop_is_refused_with_the_reason(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CHATML, tokenizer)
    _, report = label_examples([talk("a", "b")], tokenizer, Endless(template), 50)
    with pytest.raises(UserError, match=r"cannot learn to stop: the end of an answer \(<\|im_end\|>\) is in none"):
        check_labels(report)
    with pytest.raises(UserError, match="also the token that fills rows"):
        check_labels(dataclasses.replace(report, end_is_pad=True))
    plain = ChatTemplate("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
                         "{% if add_generation_prompt %}assistant: {% endif %}", tokenizer)
    _, report = label_examples([talk("a", "b")], tokenizer, plain, 50)
    with pytest.raises(UserError, match="writes no token after an answer"):
        check_labels(report)


def test_a_doubled_beginning_and_nothing_learned_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="begin with the same special token twice"):
        check_labels(LabelReport(50, parts=2, tokens=9, trained=3, doubled=2))
    with pytest.raises(UserError, match="none of the 9 tokens"):
        check_labels(LabelReport(50, parts=2, tokens=9))
    doubled = ChatTemplate("<|endoftext|><|endoftext|>" + CHATML, tokenizer)
    _, report = label_examples([talk("a", "b")], tokenizer, doubled, 50)
    assert report.doubled == 1


def test_the_example_shown_marks_what_is_learned(tokenizer: Tokenizer) -> None:
    labelled, _ = label_examples([talk("Who?\x1b", "Me é.")], tokenizer, ChatTemplate(CHATML, tokenizer), 50)
    assert show_labels(labelled[0], tokenizer) == (
        "<|im_start|>user\nWho?\\x1b<|im_end|>\n<|im_start|>assistant\n[[Me é.<|im_end|>]]\n")
    assert "\x1b[32mMe é.<|im_end|>\x1b[0m" in show_labels(labelled[0], tokenizer, colour=True)
    long, _ = label_examples([Example(text="word " * 1000)], tokenizer, None, 9000)
    assert show_labels(long[0], tokenizer).endswith("]] ...") and len(show_labels(long[0], tokenizer)) < 6000
