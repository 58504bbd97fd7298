"""Chat templates: what transformers gives, ids that are the same in training and in a chat, and messages that stay text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.files import write_json
from myna.tokenizer.chat import CHATML, ChatTemplate, Message
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer

MARKS = ("<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|header|>", "<|turn|>")
# texts of my own in the style of published models' templates, with the marks of the test tokenizer
TEMPLATES = {
    "chatml": CHATML,
    "smollm2": (  # the text inside the SmolLM2 GGUF file
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful "
        "AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set intro = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set intro = false %}{% endif %}"
        "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must take turns: user, assistant, user, ...') }}{% endif %}"
        "{% if loop.index0 == 0 and intro != false %}{% set said = '<<SYS>>\\n' + intro + '\\n<</SYS>>\\n\\n' + m['content'] %}"
        "{% else %}{% set said = m['content'] %}{% endif %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + said.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "llama3": (
        "{{- bos_token }}\n{%- for m in messages %}\n    {{- '<|header|>' + m['role'] + '<|header|>\\n\\n' "
        "+ m['content'] | trim + '<|turn|>' }}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|header|>assistant<|header|>\\n\\n' }}\n{%- endif %}\n"),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ '[SYSTEM] ' ~ m.content ~ '[/SYSTEM]' }}"
        "{% elif m.role == 'user' %}{{ '[INST] ' ~ m.content ~ '[/INST]' }}{% else %}{{ ' ' ~ m.content ~ eos_token }}{% endif %}"
        "{% endfor %}"),
    "zephyr": (
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
    "qwen": (
        "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}\n"
        "{%- set ns = namespace(turns=0) %}{%- for m in messages %}\n"
        "{%- if m.content is string and m.role in ['user', 'assistant', 'system'] %}"
        "{%- set ns.turns = ns.turns + 1 %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{%- endif %}"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt and ns.turns %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set start = 1 %}{% set prefix = messages[0]['content'] + '\n\n' %}"
        "{% else %}{% set start = 0 %}{% set prefix = '' %}{% endif %}{% for m in messages[start:] %}"
        "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
        "{{ '<|im_start|>' + role + '\n' + (prefix if loop.first else '') + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"),
    "plain": (
        "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}"
        "{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
        "{% else %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"),
    "json": (
        "{% for m in messages %}{% if loop.index > 40 %}{% break %}{% endif %}{{ '<|turn|>' + m | tojson }}{% endfor %}"
        "{% if tools %}{{ tools }}{% endif %}{% if add_generation_prompt %}{{ '<|turn|>' }}{% endif %}"),
}
CONVERSATIONS = [
    [("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi! How are you?"), ("user", "Well, and you?"), ("assistant", "Fine.")],
    [("system", "Be brief."), ("user", "What is 2 + 2?"), ("assistant", "4")],
    [("system", "你是一只鸟。"), ("user", "春眠不觉晓"), ("assistant", "处处闻啼鸟。"),
     ("user", "夜来风雨声"), ("assistant", "花落知多少。"), ("user", "谢谢！👋🏽")],
    [("user", "def f(x):\n    return x\n\n\n"), ("assistant", "```python\nf(1)\n```"),
     ("user", "a < b && c > d | e \"'\\ {{ x }} {% y %}")],
]
FINISHED = [
    *CONVERSATIONS[1:3],
    [("user", "Go on"), ("assistant", "\n\n  an answer after an empty line")],
    [("user", " spaces "), ("assistant", "  two of them  "), ("user", "tab\t"), ("assistant", "\tand a tab\t\n")],
    [("user", "说"), ("assistant", "　全角空格，然后中文。"), ("user", "再说"), ("assistant", "好的\n")],
    [("user", "code"), ("assistant", "    indented\n        more\n"), ("user", "again"), ("assistant", ".dot\n\n\n")],
    [("system", "s"), ("user", ""), ("assistant", "")],
    [("user", "123"), ("assistant", "456"), ("user", "'s"), ("assistant", "'s it's"), ("user", "👋"), ("assistant", "🏽 👨‍👩‍👧")],
]


def talk(turns: list[tuple[str, str]]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


@pytest.fixture(scope="session")
def marked(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus, TokenizerOptions(vocab_size=1024, special_tokens=MARKS))


@pytest.fixture(scope="session")
def folders(marked: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory for each template, as transformers reads it."""
    made = {}
    for name, text in TEMPLATES.items():
        folder = tmp_path_factory.mktemp(name)
        marked.save(folder)
        said = json.loads((folder / "tokenizer_config.json").read_text())
        said |= {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "split_special_tokens": False}
        write_json(folder / "tokenizer_config.json", said)
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        made[name] = folder
    return made


@pytest.fixture(scope="session")
def templates(folders: dict[str, Path], marked: Tokenizer) -> dict[str, ChatTemplate]:
    return {name: ChatTemplate.open(folder, marked) for name, folder in folders.items()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(name: str, folders: dict[str, Path], templates: dict[str, ChatTemplate]) -> None:
    reference, template = AutoTokenizer.from_pretrained(folders[name]), templates[name]
    for turns in CONVERSATIONS:
        for ask in (False, True):
            messages = talk(turns)
            assert template.render(messages, ask) == reference.apply_chat_template(messages, add_generation_prompt=ask, tokenize=False)
            ids = template.encode(messages, ask)
            if name != "plain":  # without a mark after an answer, the cut there parts "." from a newline
                assert ids == reference.apply_chat_template(messages, add_generation_prompt=ask)["input_ids"]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "json"])
def test_the_ids_of_training_are_those_of_a_chat(name: str, templates: dict[str, ChatTemplate], marked: Tokenizer) -> None:
    template = templates[name]
    for turns in FINISHED:
        messages = talk(turns)
        ids, learned = template.encode_example(messages)
        assert ids == template.encode(messages)
        assert len(learned) == len(ids)
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        starts = [at for at in range(len(ids)) if learned[at] and not (at and learned[at - 1])]
        assert len(starts) == len(answers) or "" in [m["content"] for m in messages]
        for place, start in zip(answers, starts, strict=False):
            assert ids[:start] == template.encode(messages[:place], add_generation_prompt=True)
        spoken = [marked.decode(ids[start:ids_end(learned, start)]) for start in starts]
        for place, text in zip(answers, spoken, strict=False):
            assert text.strip() == messages[place]["content"].strip()
    assert template.rewritten == 0


def ids_end(learned: list[bool], start: int) -> int:
    return next((at for at in range(start, len(learned)) if not learned[at]), len(learned))


@pytest.mark.parametrize(("name", "mark"), [
    ("chatml", "<|im_end|>"), ("smollm2", "<|im_end|>"), ("llama2", "<|eos|>"), ("llama3", "<|turn|>"), ("mistral", "<|eos|>"),
    ("zephyr", "<|eos|>"), ("qwen", "<|im_end|>"), ("gemma", "<|im_end|>"), ("generation", "<|eos|>"), ("plain", None)])
def test_the_end_of_a_turn_is_found_and_learned(name: str, mark: str | None, templates: dict[str, ChatTemplate], marked: Tokenizer) -> None:
    template = templates[name]
    expected = {marked.special_id(mark)} if mark else set()
    assert template.end_ids == expected
    ids, learned = template.encode_example(talk(FINISHED[0]))
    last = max(at for at, flag in enumerate(learned) if flag)
    if mark:
        assert ids[last] == marked.special_id(mark)
        assert sum(flag and id == marked.special_id(mark) for id, flag in zip(ids, learned, strict=True)) == 2
    assert not marked.decode([id for id, flag in zip(ids, learned, strict=True) if flag]).endswith("\n")


PIECES = [*MARKS, "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>", "<|", "|>", "im_end", "im_end|>", "<|im_", "eos|>", "|", ">",
          "<", " ", "\n", "\ufdd0", "\ufdd1", "[INST]", "user", "bos", "好", "{{", "}}", "s"]
CONTENTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=8).map("".join)


def check_contents(templates: dict[str, ChatTemplate], name: str, contents: list[str], marked: Tokenizer) -> None:
    """The special tokens are as many as when the same template writes harmless messages."""
    roles = ["user", "assistant"]
    messages = [Message(role=roles[n % 2], content=content) for n, content in enumerate(contents)]
    harmless = [Message(role=message["role"], content="x") for message in messages]
    template = templates[name]
    found = [id for id in template.encode(messages) if id in marked.special_ids]
    assert found == [id for id in template.encode(harmless) if id in marked.special_ids]
    ids, _ = template.encode_example(messages)
    if name in ("chatml", "mistral", "plain"):  # the others trim or add
        assert marked.decode(ids).count("\ufdd0") == sum(content.count("\ufdd0") for content in contents)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "json"])
@settings(max_examples=30, deadline=None)
@given(contents=st.lists(CONTENTS, min_size=1, max_size=3))
def test_nothing_in_a_message_is_a_special_token(name: str, contents: list[str], templates: dict[str, ChatTemplate],
                                                 marked: Tokenizer) -> None:
    check_contents(templates, name, contents, marked)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(name=st.sampled_from([name for name in TEMPLATES if name != "json"]), contents=st.lists(CONTENTS, min_size=10, max_size=10))
def test_nothing_in_ten_thousand_messages_is_a_special_token(name: str, contents: list[str], templates: dict[str, ChatTemplate],
                                                             marked: Tokenizer) -> None:
    check_contents(templates, name, contents, marked)


THINKING = (  # drops what earlier answers thought, as reasoning models' templates do
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set said = m.content if loop.last else m.content.split('</think>')[-1] %}"
    "{% else %}{% set said = m.content %}{% endif %}{{ '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def test_where_a_template_rewrites_what_was_said_only_the_last_answer_is_learned(marked: Tokenizer) -> None:
    template = ChatTemplate(THINKING, marked)
    turns = [("user", "one"), ("assistant", "<think>hm</think>first"), ("user", "two"), ("assistant", "<think>so</think>second")]
    messages = talk(turns)
    ids, learned = template.encode_example(messages)
    assert template.rewritten == 1
    assert ids[:learned.index(True)] == template.encode(messages[:3], add_generation_prompt=True)
    assert marked.decode([id for id, flag in zip(ids, learned, strict=True) if flag]) == "<think>so</think>second"
    template.encode_example(messages[:2])
    assert template.rewritten == 1


def test_a_template_that_does_not_go_on_from_its_own_prompt_is_refused(marked: Tokenizer) -> None:
    template = ChatTemplate(CHATML.replace("assistant\n'", "assistant\n<think>\n'"), marked)
    with pytest.raises(UserError, match="writes an answer otherwise than it asks for one"):
        template.encode_example(talk(FINISHED[0]))


def test_what_is_no_conversation_is_refused(templates: dict[str, ChatTemplate]) -> None:
    for messages, words in (([], "empty conversation"), ([{"role": "usr", "content": "x"}], "did you mean user"),
                            ([{"role": "user", "content": None}], "content of message 1 is NoneType"), (["hi"], "role None")):
        with pytest.raises(UserError, match=words):
            templates["chatml"].encode(messages)
    with pytest.raises(UserError, match=r"refuses this conversation: Roles must take turns"):
        templates["llama2"].encode(talk([("user", "a"), ("user", "b")]))


def test_a_template_is_found_where_it_may_stand(marked: Tokenizer, bpe: Tokenizer, tmp_path: Path) -> None:
    marked.save(tmp_path)
    assert ChatTemplate.open(tmp_path, marked).is_default
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}{{ sep_token }}!"}]
    write_json(tmp_path / "special_tokens_map.json", {"bos_token": "<old>", "sep_token": {"content": "<|turn|>"}})
    write_json(tmp_path / "tokenizer_config.json", said | {"chat_template": named, "bos_token": "<|bos|>"})
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [5, "6", 7, 10**9, True]})
    template = ChatTemplate.open(tmp_path, marked)
    assert template.render(talk([("user", "x")])) == "<|bos|><|turn|>!"
    assert not template.is_default
    assert template.end_ids == {5, 7}
    (tmp_path / "chat_template.jinja").write_text("file")
    assert ChatTemplate.open(tmp_path, marked).text == "file"


def test_a_tokenizer_without_marks_has_no_conversations(tmp_path: Path, marked: Tokenizer) -> None:
    described = json.loads(marked._text)
    for token in described["added_tokens"]:
        token["content"] = token["content"].replace("im_", "no_")
    plain = Tokenizer(json.dumps(described))
    with pytest.raises(UserError, match="has no chat template"):
        ChatTemplate.open(tmp_path, plain)


def test_a_mark_that_takes_the_space_beside_it_is_as_in_transformers(marked: Tokenizer, tmp_path: Path) -> None:
    described = json.loads(marked._text)
    for token in described["added_tokens"]:
        token["rstrip"], token["lstrip"] = token["content"] == "<|user|>", token["content"] == "<|eos|>"
    tokenizer = Tokenizer(json.dumps(described), json.loads((marked_folder(marked, tmp_path) / "tokenizer_config.json").read_text()))
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["zephyr"].replace("eos_token", "' <|eos|>'"))
    template, reference = ChatTemplate.open(tmp_path, tokenizer), AutoTokenizer.from_pretrained(tmp_path)
    for turns in CONVERSATIONS:
        assert template.encode(talk(turns)) == reference.apply_chat_template(talk(turns))["input_ids"]


def marked_folder(marked: Tokenizer, folder: Path) -> Path:
    marked.save(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", said | {"split_special_tokens": False})
    return folder
