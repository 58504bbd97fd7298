"""Directories without tokenizer.json, and GGUF metadata, give the ids that the files' own libraries give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from myna.errors import UserError
from myna.tokenizer.convert import from_gguf
from myna.tokenizer.pieces import byte_alphabet
from myna.tokenizer.sentencepiece import CONTROL, NORMAL, SPACE, UNUSED, USER_DEFINED, describe_pieces, read_pieces
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from tests.tokenizer.model_files import SMALL, train_pieces, write_pieces
from tests.tokenizer.strings import plain_strings, strings
from tests.tokenizer.test_others import WORDS

# transformers takes U+0085 for a space, SentencePiece does not, and Myna follows SentencePiece
TEXTS = [text for text in (*GOLDEN_TEXTS, *plain_strings(400, 9)) if "<s>" not in text and "\x85" not in text]


def write(folder: Path, **files: Any) -> Path:
    """Write files whose names have two underscores for a dot: bytes and texts as they are, others as JSON."""
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        data = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def same(tokenizer: Tokenizer, reference: Callable[[str], list[int]], ties: int = 0) -> None:
    different = [text for text in TEXTS if tokenizer.encode(text) != reference(text)]
    assert len(different) <= ties, different


def ids_of(theirs: Any, **arguments: Any) -> Callable[[str], list[int]]:
    theirs.split_special_tokens = True
    return lambda text: theirs(text, add_special_tokens=False, **arguments)["input_ids"]


def test_t5(tmp_path: Path) -> None:
    data = train_pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = Tokenizer.open(write(tmp_path, spiece__model=data, config__json={"model_type": "t5"}))
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "spiece.model"]  # opening writes nothing
    assert tokenizer.vocab_size == len(theirs) == 900
    assert tokenizer.special_id("<extra_id_0>") == theirs.convert_tokens_to_ids("<extra_id_0>") == 899
    same(tokenizer, ids_of(theirs))
    assert tokenizer.encode_inputs(["the cat"], ["a"]) == [theirs("the cat", "a")["input_ids"]]
    assert tokenizer.separator_id == 1


def test_albert(tmp_path: Path) -> None:
    data = train_pieces(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]"], user_defined_symbols=["[MASK]"])
    tokenizer = Tokenizer.open(write(tmp_path, spiece__model=data, config__json={"model_type": "albert"}))
    theirs = transformers.AlbertTokenizer.from_pretrained(tmp_path)
    same(tokenizer, ids_of(theirs))
    inputs, expected = tokenizer.encode_inputs(["The Café"], ["9, b"]), theirs("The Café", "9, b", return_token_type_ids=True)
    assert (inputs[0], inputs.type_ids[0]) == (expected["input_ids"], expected["token_type_ids"])


def test_xlm_roberta_and_llama(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    data = train_pieces()
    name = "sentencepiece.bpe.model"
    tokenizer = Tokenizer.open(write(tmp_path / "x", **{name: data}, config__json={"model_type": "xlm-roberta"}))
    same(tokenizer, ids_of(transformers.XLMRobertaTokenizer.from_pretrained(tmp_path / "x")))
    assert tokenizer.encode_inputs(["a"], ["b"])[0][:1] == [0]
    assert tokenizer.special_id("<mask>") == 801
    data = train_pieces(model_type="bpe", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity",
                        remove_extra_whitespaces=False)
    more = {"100": {"content": "no"}, "1000": {"content": "<|im_end|>", "special": True}}
    folder = write(tmp_path / "l", tokenizer__model=data, tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"})
    tokenizer = Tokenizer.open(folder)
    same(tokenizer, library.SentencePieceProcessor(model_proto=data).encode)
    assert tokenizer.encode_inputs(["a b"])[0] == [1, *tokenizer.encode("a b")]
    write(folder, tokenizer_config__json={"tokenizer_class": "LlamaTokenizerFast", "added_tokens_decoder": {"1000": more["1000"]}})
    assert Tokenizer.open(folder).special_id("<|im_end|>") == 1000
    write(folder, tokenizer_config__json={"tokenizer_class": "NllbTokenizer"})
    with pytest.raises(UserError, match="'nllb'"):
        Tokenizer.open(folder)


@pytest.mark.filterwarnings("ignore:Recommended")
def test_marian(tmp_path: Path) -> None:
    source, target = train_pieces(vocab_size=700), train_pieces(vocab_size=850)
    names = dict.fromkeys([*read_pieces(source, "s").texts, *read_pieces(target, "t").texts])
    order = ["</s>", "<unk>", ">>fr<<", *(name for name in names if name not in ("<s>", "</s>", "<unk>")), "<pad>"]
    write(tmp_path, source__spm=source, target__spm=target, vocab__json={name: id for id, name in enumerate(order)},
          config__json={"model_type": "marian"})
    reads, writes = Tokenizer.open(tmp_path), Tokenizer.open(tmp_path, "target")
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path)
    same(reads, ids_of(theirs), ties=2)  # runs of "-", whose cuts have the same score: see test_sentencepiece.py
    same(writes, lambda text: theirs(text_target=text, add_special_tokens=False)["input_ids"], ties=4)
    assert reads.encode_inputs([">>fr<< the cat"])[0] == theirs(">>fr<< the cat")["input_ids"]
    ids = theirs(text_target="the class, and functions")["input_ids"]
    assert writes.decode(ids) == reads.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert (reads.separator_id, reads.pad_id) == (0, len(order) - 1)
    (tmp_path / "saved").mkdir()
    reads.save(tmp_path / "saved")
    writes.save(tmp_path / "saved", part="target")
    again = Tokenizer.open(tmp_path / "saved", "target")
    assert again.encode("the class") == writes.encode("the class")


def test_the_two_files_of_gpt2(tmp_path: Path, bpe: Tokenizer) -> None:
    learned = [name for name in bpe.token_names() if not name.startswith("<|")]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in bpe.merges)
    for family, theirs in (("gpt2", transformers.GPT2Tokenizer), ("qwen2", transformers.Qwen2Tokenizer),
                           ("roberta", transformers.RobertaTokenizer)):
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if family == "roberta" else ["<|endoftext|>"]
        ids = {name: id for id, name in enumerate([*learned, *special])}
        folder = write(tmp_path / family, vocab__json=ids, merges__txt=merges, config__json={"model_type": family})
        tokenizer, reference = Tokenizer.open(folder), theirs.from_pretrained(folder)
        same(tokenizer, ids_of(reference))
        assert tokenizer.encode_inputs(["a b"], ["c"])[0] == reference("a b", "c")["input_ids"]
        assert tokenizer.lossless is (family != "qwen2")
    write(tmp_path / "gpt2", config__json={"model_type": "ctrl"})
    with pytest.raises(UserError, match="'ctrl'"):
        Tokenizer.open(tmp_path / "gpt2")


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False, "tokenize_chinese_chars": False}])
def test_vocab_txt(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path, vocab__txt="\n".join(WORDS) + "\n", tokenizer_config__json=settings, config__json={"model_type": "bert"})
    tokenizer, theirs = Tokenizer.open(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path, **settings)
    same(tokenizer, ids_of(theirs))
    assert tokenizer.encode_inputs(["the unknowing"], ["A b"])[0] == theirs("the unknowing", "A b")["input_ids"]
    data = "\n".join(WORDS).encode()
    for step in range(50):
        (tmp_path / "vocab.txt").write_bytes(data[:len(data) * step // 50])
        try:
            Tokenizer.open(tmp_path).encode("the")
        except UserError as error:
            assert "\n" not in str(error)


def test_a_directory_with_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*tokenizer\.json"):
        Tokenizer.open(tmp_path)
    write(tmp_path, source__spm=b"", target__spm=b"", vocab__json={"a": 10**9})
    with pytest.raises(UserError):
        Tokenizer.open(tmp_path)


def gguf(model: str, tokens: list[str], **values: Any) -> dict[str, Any]:
    values |= {"model": model, "tokens": tokens}
    return {"general.architecture": "llama", **{f"tokenizer.ggml.{key}": value for key, value in values.items()}}


def test_gguf_of_bytes() -> None:
    tokens = [*byte_alphabet().values(), "th", "the", "<|end|>", "<think>", "[PAD1]"]
    types = [NORMAL] * 258 + [CONTROL, USER_DEFINED, UNUSED]
    values = {"token_type": types, "merges": ["t h", "th e"], "pre": "llama3", "bos_token_id": 258, "eos_token_id": 258}
    text, settings = from_gguf(gguf("gpt2", tokens, **values))
    tokenizer = Tokenizer(text, settings)
    assert (settings["bos_token"], tokenizer.separator_id, tokenizer.pre_tokenizer_name) == ("<|end|>", 258, "llama-bpe")
    assert tokenizer.encode("the<think><|end|>")[:2] == [257, 259]
    assert tokenizer.encode_inputs(["the"])[0] == [258, 257]
    assert Tokenizer(from_gguf(gguf("gpt2", tokens, **values, add_bos_token=False))[0]).encode_inputs(["the"]) == [[257]]
    assert tokenizer.decode([257, 258, 260, 259]) == "the<think>"
    assert tokenizer.lossless
    for change, message in (({"pre": "nobody"}, "'nobody'"), ({"merges": ["abc"]}, "merges"), ({"token_type": [1]}, "another length"),
                            ({"eos_token_id": 10**9}, "eos_token_id"), ({"tokens": ["the", *tokens[1:]]}, "twice"),
                            ({"model": "rwkv"}, "'rwkv'"), ({"tokens": None}, "no list of tokens"), ({"pre": None}, "does not say")):
        with pytest.raises(UserError, match=message):
            from_gguf(gguf(**{"model": "gpt2", "tokens": tokens, **values, **change}))


def test_gguf_of_pieces_equals_llama_cpp(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    from myna.formats.gguf import write_gguf

    pieces = read_pieces(train_pieces(model_type="bpe", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity",
                                      remove_extra_whitespaces=False), "m")
    metadata = gguf("llama", list(pieces.texts), scores=list(pieces.scores), token_type=list(pieces.types), bos_token_id=1, eos_token_id=2,
                    unknown_token_id=0)
    write_gguf(tmp_path / "v.gguf", metadata, [])
    theirs = llama_cpp.Llama(model_path=str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    text, settings = from_gguf(metadata)
    tokenizer = Tokenizer(text, settings)
    for text in (*GOLDEN_TEXTS[:-1], *strings(500, 8)):
        if text:
            assert tokenizer.encode(text) == theirs.tokenize(text.encode(), add_bos=False, special=False), text
    assert tokenizer.encode_inputs(["the cat"])[0] == theirs.tokenize(b"the cat", add_bos=True, special=False)


def test_gguf_of_unigram_and_words() -> None:
    texts, scores, types = zip(*SMALL, strict=True)
    values = {"scores": list(scores), "token_type": list(types), "eos_token_id": 2, "unknown_token_id": 0, "remove_extra_whitespaces": True}
    text, _ = from_gguf(gguf("t5", list(texts), **values))
    direct = Tokenizer(describe_pieces(read_pieces(write_pieces(SMALL), "m")))
    for shown in ("abc  cab", "</s>", "x"):
        assert Tokenizer(text).encode(shown) == direct.encode(shown)
    assert Tokenizer(text).encode_inputs(["ab"])[0][-1] == 2
    marked = [word if word[0] == "[" and word[-1] == "]" else word[2:] if word.startswith("##") else SPACE + word for word in WORDS]
    words, settings = from_gguf(gguf("bert", marked, cls_token_id=2, seperator_token_id=3, unknown_token_id=1, mask_token_id=4))
    parts = [WORDS.index(word) for word in ("[CLS]", "the", "un", "##know", "##ing", "!", "[SEP]")]
    assert Tokenizer(words, settings).encode_inputs(["The unknowing!"]) == [parts]
