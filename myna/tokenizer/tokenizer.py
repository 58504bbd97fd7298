"""The tokenizer: text to ids and back, without loss. One class over `tokenizer.json`.

Byte-level BPE: text is cut into words by a known pattern, a word is its UTF-8 bytes, and learned merges join bytes into
tokens. Or a Unigram model over the same bytes, whose tokens are whole words (`myna/tokenizer/words.py`). Every text has ids,
and `decode(encode(text)) == text`. Text is data: "<|endoftext|>" inside a text gives the ids of its letters, never the id that
separates documents.

Tokenizers of others open as well: byte-level BPE, WordPiece, Unigram, and BPE over "▁" with bytes for what has no token
(`myna/tokenizer/components.py` says what is run of their files). Those that change the text are not `lossless`.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2; bytes as the
alphabet: Radford et al. 2019 (GPT-2), section 2.2. `myna/tokenizer/twin.py` says the same in a few lines of Python.

    tokenizer = Tokenizer.open(Path("my-model"))
    ids = tokenizer.encode("Once upon a time")
    tokenizer.decode(ids)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from myna.errors import UserError, nearest
from myna.files import read_regular, write_atomic, write_json
from myna.tokenizer.components import check_components, check_post_processor, hide_special_tokens, refusal, split_merge
from myna.tokenizer.convert import convert_directory, read_settings
from myna.tokenizer.inputs import Inputs, surround
from myna.tokenizer.pieces import byte_alphabet, cut, cut_at_spaces
from myna.tokenizer.scripts import INSIDE, LETTER, LINE, SIGN, UNSPACED_LETTER, edges

SEPARATOR = "<|endoftext|>"  # ends a document; GPT-2's and Qwen's word for it
PAD = "<|pad|>"  # its own token: a pad that equals the separator teaches a model never to stop
CHAT = ("<|im_start|>", "<|im_end|>")  # ChatML's turn marks, so that the vocabulary need not change for chat
_ROLES = {  # transformers' names for special tokens, and what they are called: Myna's names first, then SentencePiece's and BERT's
    "eos_token": (SEPARATOR, "</s>"), "bos_token": ("<s>",), "unk_token": ("<unk>", "[UNK]"), "pad_token": (PAD, "<pad>", "[PAD]"),
    "mask_token": ("<|mask|>", "<mask>", "[MASK]"), "cls_token": ("<|cls|>", "[CLS]"), "sep_token": ("<|sep|>", "[SEP]")}
_SPECIAL = re.compile(r"<\|\w{1,40}\|>", re.ASCII)  # the form of every special token here
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's name of a byte without a token
_IN_TEXT = frozenset(range(256)).difference(range(0xC0, 0xC2), range(0xF5, 0x100))  # the bytes that UTF-8 uses
_MAX_FILE = 64 << 20  # bytes; the largest published tokenizer.json (Gemma's, 262k tokens) is 33 MB
_MAX_MISSING = 32  # bytes without a token; SmolLM2 has none for 21, of which 13 never occur in UTF-8
_MAX_VOCAB = 1 << 20  # ids; the largest published vocabulary has about 2 ** 18
# The pattern's `\s*[\r\n]+` gives up (a Rust panic) after 10 million steps on one run of spaces, and a 20 MB word takes
# 3 GB, so longer texts are cut. 256 Ki characters take about 0.2 s.
_MAX_PIECE = 1 << 18

GOLDEN_TEXTS = (
    "Once upon a time, there was a bird that learned to talk.",
    "从前有一只鸟，它学会了说话。春眠不觉晓，處處聞啼鳥。",
    "GPT 和 Transformer 都是 model；用Python写code，3.14 倍 faster！",
    "café naïve Zürich Ελληνικά Привет שלום مرحبا हिन्दी ไทย 한국어 ひらがなカタカナ",
    "👋🏽 👨‍👩‍👧‍👦 🇨🇳 ❤️ ½ ² ﬁ ａｂｃ e\u0301 \u200b\ufeff\u0000",
    "   leading,  double   triple    and trailing   ",
    "\n\n\nline\r\nline\r\n\r\n\ttab\t\t\n  \n   indented\n",
    "def f(x: int) -> int:\n    return x * 2  # it's 'quoted', isn't it?\n\n\nI'LL we've they're\n",
    "0 1 22 333 4444 1234567890 １２３ ٣٤ 1e-5 0xFF 2026-07-04",
    f"{SEPARATOR}{CHAT[0]}user\nhi{CHAT[1]}{PAD}<s></s>[UNK]<|reserved_0|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!????。。。。……",
    "",
)  # one for each way in which two tokenizers are known to differ


class Tokenizer:
    """Text to ids and back, over the `tokenizers` library; made by `train_tokenizer` or `Tokenizer.open`."""

    def __init__(self, text: str, settings: dict[str, Any] | None = None, where: str = "tokenizer.json") -> None:
        """Read a tokenizer from the text of its tokenizer.json; `settings` is its tokenizer_config.json.

        Raises UserError, naming `where`, when it has a component that Myna does not know.
        """
        try:
            described = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise refusal(where, f"not valid JSON ({error})") from None
        self.layout = check_components(described, where)
        self.pre_tokenizer_name = self.layout.pattern
        self.whole_words = self.layout.byte_level and self.layout.kind == "Unigram"
        with _rust_errors(f"{where} cannot be read", "a tokenizer.json of the tokenizers library"):
            hidden = hide_special_tokens(described, self.layout)
            self._rust = tokenizers.Tokenizer.from_str(json.dumps(described) if hidden else text)
            self._rust.no_padding()  # a length in somebody else's file must not decide how much memory is taken
            self._rust.no_truncation()
            self._rust.encode_special_tokens = True
        self._text = text
        self._settings = dict(settings) if settings else None
        vocabulary = {hidden.get(token, token): id for token, id in self._rust.get_vocab(with_added_tokens=True).items()}
        if not vocabulary:
            raise refusal(where, "an empty vocabulary")
        self.vocab_size = max(vocabulary.values()) + 1
        if self.vocab_size > _MAX_VOCAB:
            raise refusal(where, f"a token with id {self.vocab_size - 1:,}")
        check_post_processor(described.get("post_processor"), self.vocab_size, where)
        added = self._rust.get_added_tokens_decoder()
        concealed = {vocabulary[name] for name in hidden.values()}
        self.special_ids = frozenset(concealed.union(id for id, token in added.items() if token.special))
        self._ids, self._tokens = vocabulary, {id: token for token, id in vocabulary.items()}
        self._names = {id: self._tokens[id] for id in self.special_ids.union(added)}
        self.token_bytes = self._read_bytes(where) if self.layout.byte_level else self._spell_tokens()
        # a byte without a token gives no id, in the library as in llama.cpp
        single = {piece for piece in self.token_bytes if len(piece) == 1}
        self.missing_bytes = _IN_TEXT.difference(*single) if self.layout.byte_level else frozenset()
        strips = any(token.lstrip or token.rstrip for token in added.values() if not token.special)
        self.lossless = self.layout.byte_level and not (self.missing_bytes or self.layout.prepends or self.layout.normalizes or strips)
        self._where = where

    @classmethod
    def open(cls, folder: Path, part: str = "") -> Tokenizer:
        """Read the tokenizer of a model directory: `tokenizer.json`, or what the other files there give (`convert.py`).

        With the settings of `tokenizer_config.json`, if there is one. `part` "target" is the tokenizer of what a model of pairs
        writes, where it is not that of what it reads: `target_tokenizer.json`, or Marian's target.spm. Raises UserError.
        """
        path = folder / (f"{part}_tokenizer.json" if part else "tokenizer.json")
        if part and not path.is_file() and not (folder / f"{part}.spm").is_file():
            path = folder / "tokenizer.json"  # one for both
        if not path.is_file():
            text, name = convert_directory(folder, part)
            return cls(text, read_settings(folder), str(folder / name))
        if path.stat().st_size > _MAX_FILE:
            raise refusal(str(path), f"{path.stat().st_size:,} bytes, more than {_MAX_FILE:,}")
        try:
            text = read_regular(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise refusal(str(path), f"not UTF-8 ({error.reason} at byte {error.start})") from None
        return cls(text, read_settings(folder), str(path))

    def save(self, folder: Path, max_length: int | None = None, part: str = "") -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; `max_length` is the model's context in tokens, `part` as in `open`."""
        write_atomic(folder / (f"{part}_tokenizer.json" if part else "tokenizer.json"), self._text)
        settings = dict(self._settings) if self._settings else self._own_settings()
        if max_length is not None:
            settings["model_max_length"] = max_length
        write_json(folder / "tokenizer_config.json", settings)

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; nothing is added and nothing in the text is special.

        Raises UserError on a lone surrogate, which is not text. A text of more than 262,144 characters is cut, after a
        newline where there is one (where the tokenizer is not byte-level, at a space between words).
        """
        return [id for ids in self.encode_batch(self._pieces(text)) for id in ids]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Turn texts into ids on all cores; the caller keeps each text short (one piece) and the batch to a few MB."""
        return [encoding.ids for encoding in self._encodings(list(texts), fast=True)]

    def encode_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Turn a text into ids, with the characters (start, end) of the text that each stands for; nothing is added."""
        encoded = tokenizers.Encoding.merge(self._encodings(list(self._pieces(text)), fast=False), growing_offsets=True)
        return encoded.ids, encoded.offsets

    def encode_inputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_length: int | None = None) -> Inputs:
        """Turn texts, or pairs of texts, into ids as the model was trained on them: with [CLS] and [SEP], or </s>.

        With `max_length` a longer input is cut, of a pair the longer text first; the result's `truncated` counts the cut ones and
        its `type_ids` tell the texts of a pair apart. Text is data here too. Raises UserError when the lists have other lengths.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"{len(texts)} texts and {len(pairs)} beside them", "as many")
        with _rust_errors("the tokenizer failed on this text", "ordinary text"):
            second = None if pairs is None else [self._encode_whole(text) for text in pairs]
            return surround(self._rust, [self._encode_whole(text) for text in texts], second, max_length)

    def _encode_whole(self, text: str) -> tokenizers.Encoding:
        return tokenizers.Encoding.merge(self._encodings(list(self._pieces(text)), fast=False), growing_offsets=False)

    def _pieces(self, text: str) -> Iterator[str]:
        return cut(text, _MAX_PIECE) if self.layout.byte_level else cut_at_spaces(text, _MAX_PIECE, self.layout.prepends)

    def _encodings(self, texts: list[str], fast: bool) -> list[tokenizers.Encoding]:
        encode = self._rust.encode_batch_fast if fast else self._rust.encode_batch  # fast: without offsets, which cannot be merged
        with _rust_errors("the tokenizer failed on this text", "ordinary text"):
            try:
                return encode(texts, add_special_tokens=False)
            except (TypeError, UnicodeEncodeError):
                bad = next((text for text in texts if not _is_text(text)), "")
                raise UserError(f"text with a lone surrogate: {bad[:40]!r}", "Unicode text",
                                "decode the bytes with errors='replace' or clean the text first") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; special tokens give nothing, bytes that are not a whole character give U+FFFD.

        A tokenizer that is not byte-level decodes as its file says: without the space that stands before its first word.
        """
        if self.layout.byte_level:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        numbers = [int(id) for id in ids]
        self.decode_bytes(numbers)  # unknown ids are errors
        with _rust_errors("the tokenizer failed on these ids", "ids that it made"):
            return self._rust.decode([id for id in numbers if id not in self.special_ids], skip_special_tokens=False)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into UTF-8 bytes, which may begin or end inside a character. Raises UserError on an unknown id.

        Exact where `lossless`; else each token as it reads inside a text, so that the first word may have a space before it.
        """
        table = self.token_bytes
        numbers = [int(id) for id in ids]
        for id in numbers:
            if not 0 <= id < self.vocab_size:
                raise UserError(f"token id {id}", f"0 to {self.vocab_size - 1}", "use the tokenizer that made these ids")
        return b"".join([table[id] for id in numbers])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Name each id for a person: its text, `\\xe4` for bytes that are a part of a character, a special token's name."""
        return [self._names[id] if id in self._names else self.decode_bytes([id]).decode("utf-8", "backslashreplace") for id in ids]

    @property
    def separator_id(self) -> int:
        """The id that follows each document and starts an empty prompt."""
        id = self._separator
        if id is None:
            raise UserError(f"{self._where} has no token between documents", f"{SEPARATOR} or an eos_token in tokenizer_config.json")
        return id

    @property
    def _separator(self) -> int | None:
        # Qwen's and Llama's chat models end a turn with eos_token but a document with these
        return self._find(SEPARATOR, "<|end_of_text|>", *self._role("eos_token", "sep_token"), "</s>", "[SEP]")

    def beginning_id(self) -> int | None:
        """Give the id after which a document begins: what the tokenizer puts before a text, else its separator, None where it has neither.

        config.json's eos_token_id need not be it: a chat model's ends a turn ("<|im_end|>"), and its documents stood after "<|endoftext|>".
        """
        added = self.encode_inputs([""])[0]
        return added[0] if len(added) == 1 else self._separator

    @functools.cached_property
    def pad_id(self) -> int | None:
        """The id that fills rows to one length, or None."""
        names = self._role("pad_token") or _ROLES["pad_token"]
        return next((self._ids[name] for name in names if name in self._ids), None)

    def _role(self, *roles: str) -> list[str]:
        """List the tokens that tokenizer_config.json names for these roles, such as eos_token."""
        return [name for role in roles if (name := _content((self._settings or {}).get(role)))]

    def _find(self, *names: str) -> int | None:
        """Give the id of the first of these names that is a special token, or None."""
        return next((self._ids[name] for name in names if self._ids.get(name) in self.special_ids), None)

    def special_id(self, name: str) -> int:
        """Give the id of a special token by its name, such as <|mask|>. Raises UserError when there is none."""
        id = self._ids.get(name)
        if id is None or id not in self.special_ids:
            known = [self._names[id] for id in sorted(self.special_ids)]
            raise UserError(f"{self._where} has no special token {name!r}{nearest(name, known)}", "",
                            f"train the tokenizer with --tokenizer.special-tokens '{name}'")
        return id

    def word_starts(self) -> npt.NDArray[np.bool_]:
        """Tell of each token (V,) whether it begins a word wherever it stands.

        It does when its first character is a space, a sign, or a letter of a script written without spaces (each Han character
        may begin a word), and so does a special token. Other letters and digits go on with the word before, unless a token of
        `word_ends` stands there.
        """
        return self._edges[0]

    def word_ends(self) -> npt.NDArray[np.bool_]:
        """Tell of each token (V,) whether the token after it always begins a word: it ends in a line end, a sign or such a script."""
        return self._edges[1]

    def segment(self, text: str) -> list[str]:
        """Cut a text into words, each with the space before it; joined they are the text.

        A tokenizer of kind words cuts Chinese into its words, any other into characters.
        """
        ids = self.encode(text)
        begins = self.word_starts()[ids]
        begins[1:] |= self.word_ends()[ids[:-1]]
        cuts = [0, *np.flatnonzero(begins[1:]) + 1, len(ids)] if ids else []
        return [self.decode_bytes(ids[start:end]).decode("utf-8", "replace") for start, end in itertools.pairwise(cuts)]

    @functools.cached_property
    def _edges(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        both = [edges(piece) for piece in self.token_bytes]
        starts = np.array([id in self._names or begin not in (INSIDE, LETTER) for id, (begin, _) in enumerate(both)])
        ends = np.array([id in self._names or end in (UNSPACED_LETTER, LINE, SIGN) for id, (_, end) in enumerate(both)])
        starts.flags.writeable = ends.flags.writeable = False  # every caller gets the same tables
        return starts, ends

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer.json: two tokenizers with the same one give the same ids."""
        return hashlib.sha256(self._text.encode("utf-8")).hexdigest()

    def golden(self) -> dict[str, Any]:
        """Give the ids of a fixed list of tricky texts: {"texts": [...], "ids": [[...], ...]}."""
        return {"texts": list(GOLDEN_TEXTS), "ids": self.encode_batch(GOLDEN_TEXTS)}

    def check_golden(self, golden: Any, where: str) -> None:
        """Raise UserError unless this tokenizer gives the golden ids that were written beside the model in `where`."""
        action = f"restore tokenizer.json in {where}, or train the model again"
        texts, ids = (golden.get("texts"), golden.get("ids")) if isinstance(golden, dict) else (None, None)
        if (not isinstance(texts, list) or not isinstance(ids, list) or not texts or len(texts) != len(ids)
                or not all(isinstance(text, str) for text in texts)):
            raise UserError(f"the golden token ids in {where} are damaged", 'lists of "texts" and "ids"', "restore myna.json")
        for text, wanted in zip(texts, ids, strict=True):
            got = self.encode(text)
            if got != wanted:
                raise UserError(f"the tokenizer in {where} does not give its golden ids: {text[:40]!r} gives {got[:8]}",
                                str(wanted[:8] if isinstance(wanted, list) else wanted), action)

    @functools.cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The merges in order of rank, in the byte alphabet of tokenizer.json (see `byte_alphabet`).

        Raises UserError when tokens are whole words, which no merge builds, or a text is changed before it is cut.
        """
        if self.layout.kind != "BPE" or not self.layout.byte_level or self.layout.prepends:
            raise UserError(f"{self._where} holds {'whole words' if self.whole_words else 'a model that is not byte-level BPE'}",
                            "byte-level BPE, all that other tools' files can hold", "build with --tokenizer.kind bpe")
        return [split_merge(merge) for merge in json.loads(self._text)["model"]["merges"]]

    def token_names(self) -> list[str]:
        """The vocabulary in order of id, in the byte alphabet of tokenizer.json; ids without a token get `[unused]`."""
        return [self._tokens.get(id) or f"[unused{id}]" for id in range(self.vocab_size)]

    def _spell_tokens(self) -> list[bytes]:
        """Give each token's bytes inside a text: what the file's decoder makes of it after another token."""
        table = [b""] * self.vocab_size
        decoder = self._rust.decoder
        falls_back = "ByteFallback" in str(json.loads(self._text).get("decoder"))
        for id, token in self._tokens.items():
            byte = _BYTE.fullmatch(token) if falls_back else None
            if byte is not None:
                table[id] = bytes([int(byte[1], 16)])
            elif id not in self.special_ids:
                table[id] = (decoder.decode(["a", token])[1:] if decoder is not None else f" {token}").encode("utf-8")
        return table

    def _read_bytes(self, where: str) -> list[bytes]:
        table = [b""] * self.vocab_size
        back = {character: byte for byte, character in byte_alphabet().items()}
        for id, token in self._tokens.items():
            if id in self.special_ids:
                continue
            if id in self._names:  # an added token that is not special stands for its own text
                table[id] = token.encode("utf-8")
                continue
            try:
                table[id] = bytes([back[character] for character in token])
            except KeyError:
                raise refusal(where, f"the token {token[:20]!r}, which is outside the byte alphabet") from None
        missing = 256 - len({piece for piece in table if len(piece) == 1})
        if missing > _MAX_MISSING:
            raise refusal(where, f"a vocabulary without {missing} of the 256 bytes")
        return table

    def _own_settings(self) -> dict[str, Any]:
        """Say to transformers what tokenizer.json does not: without the class it adds a normaliser and ids differ."""
        found = {role: next((name for name in names if self._ids.get(name) in self.special_ids), None) for role, names in _ROLES.items()}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{role: name for role, name in found.items() if name or role in ("eos_token", "bos_token", "unk_token", "pad_token")},
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # as here: "<|endoftext|>" in a text is text
        }


@contextlib.contextmanager
def _rust_errors(got: str, expected: str) -> Iterator[None]:
    """Turn an error or a panic of the Rust library into a UserError. A panic is a BaseException with no public class."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UserError(f"{got} ({str(error)[:200]})", expected) from None
        raise


def _content(token: Any) -> str | None:
    """Read a token of tokenizer_config.json: a string, or a dictionary with its content."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _is_text(text: Any) -> bool:
    try:
        text.encode("utf-8")
    except (UnicodeEncodeError, AttributeError):
        return False
    return True


def make_special_tokens(learned: int, multiple: int, extra: Sequence[str] = ()) -> list[str]:
    """List the special tokens that follow `learned` tokens: the fixed four, `extra`, reserved ones up to a multiple of `multiple`.

    Raises UserError when a name in `extra` is not of the form <|name|> or comes twice.
    """
    named = [SEPARATOR, *CHAT, PAD]
    for name in extra:
        if not _SPECIAL.fullmatch(name) or name.startswith("<|reserved_"):
            raise UserError(f"the special token {name!r}", "<|name|>, with letters, digits and _ for the name")
        if name in named:
            raise UserError(f"the special token {name} comes twice", f"each once, beside {SEPARATOR}, {', '.join(CHAT)} and {PAD}")
        named.append(name)
    return [*named, *(f"<|reserved_{i}|>" for i in range(-(learned + len(named)) % multiple))]
