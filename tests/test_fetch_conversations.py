"""The corpora of conversations in packages become JSONL of messages, as a YAML reader would have read them."""

from __future__ import annotations

import json

import pytest

from myna.data.conversations import read_conversations
from myna.data.options import RowsOptions
from myna.fetch.conversations import read_chatterbot, read_chitchat

YAML = """categories:
- test
conversations:
- - What's new?
  - Not much. A plain text
    that goes on
    over lines.
  - "Quoted: \\"yes\\""
- - 'It''s quoted'
  - |
    Sure:

        def f():
            return 1
- - alone
- - one: two

  - three

"""


def turns(text: str) -> list[list[str]]:
    return [[message["content"] for message in json.loads(line)["messages"]] for line in text.splitlines()]


def test_chatterbot_as_a_yaml_reader_reads_it() -> None:
    (name, text), = read_chatterbot(iter([("chatterbot_corpus/data/english/ai.yml", YAML.replace("one: two", "one, two").encode())]))
    assert name == "english-ai.jsonl"
    assert turns(text) == [["What's new?", "Not much. A plain text that goes on over lines.", 'Quoted: "yes"'],
                           ["It's quoted", "Sure:\n\n    def f():\n        return 1"], ["one, two", "three"]]
    assert [message["role"] for message in json.loads(text.splitlines()[0])["messages"]] == ["user", "assistant", "user"]
    yaml = pytest.importorskip("yaml")
    theirs = yaml.safe_load(YAML.replace("one: two", "one, two"))["conversations"]
    assert [[turn.strip() for turn in talk] for talk in theirs if len(talk) > 1] == turns(text)


def test_a_conversation_without_its_second_dash_is_read() -> None:
    (_, text), = read_chatterbot(iter([("x/english/t.yml", b"conversations:\n- Who?\n  - Me.\n- - a\n  - b\n")]))
    assert turns(text) == [["Who?", "Me."], ["a", "b"]]


def test_chitchat_joins_what_one_says_in_a_row() -> None:
    def say(sender: str, *texts: str) -> list[dict[str, str]]:
        return [{"text": text, "sender": sender, "timestamp": "2018-05-02T19:38:15Z"} for text in texts]

    data = {"1": {"messages": [say("a", "Hi", " "), say("a", "you?"), say("b", "Fine")], "start": "x"},
            "2": {"messages": [say("a", "Hello?")]}}
    (name, text), = read_chitchat(iter([("chitchat_dataset/dataset.json", json.dumps(data).encode())]))
    assert name == "chitchat.jsonl" and turns(text) == [["Hi\nyou?", "Fine"]]


def test_what_is_written_is_read_by_tune(tmp_path_factory: pytest.TempPathFactory) -> None:
    (name, text), = read_chatterbot(iter([("x/english/t.yml", b"conversations:\n- - a\n  - b\n")]))
    path = tmp_path_factory.mktemp("fetch") / name
    path.write_text(text)
    assert read_conversations([path], RowsOptions()).said() == ["messages: messages; 1 row"]
