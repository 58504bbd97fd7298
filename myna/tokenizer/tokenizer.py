"""The tokenizer: text to ids and back, without loss. One class over `tokenizer.json`.

Byte-level BPE: text is cut into words by a known pattern, a word is its UTF-8 bytes, and learned merges join bytes into
tokens. Or a Unigram model over the same bytes, whose tokens are whole words (`myna/tokenizer/words.py`). Every text has ids,
and `decode(encode(text)) == text`. Text is data: "<|endoftext|>" inside a text gives the ids of its letters, never the id that
separates documents.

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
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from myna.errors import UserError, nearest
from myna.files import read_json, write_atomic, write_json
from myna.tokenizer.patterns import NAMES, name_of
from myna.tokenizer.scripts import INSIDE, LETTER, LINE, SIGN, UNSPACED_LETTER, edges

SEPARATOR = "<|endoftext|>"  # ends a document; GPT-2's and Qwen's word for it
PAD = "<|pad|>"  # its own token: a pad that equals the separator teaches a model never to stop
CHAT = ("<|im_start|>", "<|im_end|>")  # ChatML's turn marks, so that the vocabulary need not change for chat
_ROLES = {"mask_token": "<|mask|>", "cls_token": "<|cls|>", "sep_token": "<|sep|>"}  # transformers' names for what an encoder adds
_SPECIAL = re.compile(r"<\|\w{1,40}\|>", re.ASCII)  # the form of every special token here
_MAX_FILE = 64 << 20  # bytes; the largest published tokenizer.json (Gemma's, 262k tokens) is 33 MB
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

        Raises UserError, naming `where`, when it is not byte-level BPE with a pattern that Myna knows.
        """
        try:
            described = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _not_a_tokenizer(where, f"not valid JSON ({error})") from None
        self.pre_tokenizer_name = _check(described, where)
        self.whole_words = described["model"].get("type") == "Unigram"
        with _rust_errors(f"{where} cannot be read", "a tokenizer.json of the tokenizers library"):
            self._rust = tokenizers.Tokenizer.from_str(text)
            self._rust.no_padding()  # a length in somebody else's file must not decide how much memory is taken
            self._rust.no_truncation()
            self._rust.encode_special_tokens = True
        self._text = text
        self._settings = dict(settings) if settings else None
        added = self._rust.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._names = {id: token.content for id, token in added.items()}
        vocabulary = self._rust.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise _not_a_tokenizer(where, "an empty vocabulary")
        self.vocab_size = max(vocabulary.values()) + 1
        if self.vocab_size > _MAX_VOCAB:
            raise _not_a_tokenizer(where, f"a token with id {self.vocab_size - 1:,}")
        self.token_bytes = self._read_bytes(vocabulary, where)
        self._separator_id = self._find_separator(vocabulary)
        self._where = where

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`, and `tokenizer_config.json` if there is one. Raises UserError."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"no file {path}", "a directory with a tokenizer.json", "check the path")
        if path.stat().st_size > _MAX_FILE:
            raise _not_a_tokenizer(str(path), f"{path.stat().st_size:,} bytes, more than {_MAX_FILE:,}")
        settings = folder / "tokenizer_config.json"
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise _not_a_tokenizer(str(path), f"not UTF-8 ({error.reason} at byte {error.start})") from None
        read = read_json(settings) if settings.is_file() else None
        return cls(text, read if isinstance(read, dict) else None, str(path))

    def save(self, folder: Path, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; `max_length` is the model's context in tokens."""
        write_atomic(folder / "tokenizer.json", self._text)
        settings = dict(self._settings) if self._settings else self._own_settings()
        if max_length is not None:
            settings["model_max_length"] = max_length
        write_json(folder / "tokenizer_config.json", settings)

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; nothing is added and nothing in the text is special.

        Raises UserError on a lone surrogate, which is not text. A text of more than 262,144 characters is cut, after a
        newline where there is one.
        """
        return [id for ids in self.encode_batch(cut(text, _MAX_PIECE)) for id in ids]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Turn texts into ids on all cores; the caller keeps each text short (one piece) and the batch to a few MB."""
        texts = list(texts)
        with _rust_errors("the tokenizer failed on this text", "ordinary text"):
            try:
                return [encoding.ids for encoding in self._rust.encode_batch_fast(texts, add_special_tokens=False)]
            except (TypeError, UnicodeEncodeError):
                bad = next((text for text in texts if not _is_text(text)), "")
                raise UserError(f"text with a lone surrogate: {bad[:40]!r}", "Unicode text",
                                "decode the bytes with errors='replace' or clean the text first") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; special tokens give nothing, bytes that are not a whole character give U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into exact UTF-8 bytes, which may begin or end inside a character. Raises UserError on an unknown id."""
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
        if self._separator_id is None:
            raise UserError(f"{self._where} has no token between documents", f"{SEPARATOR} or an eos_token in tokenizer_config.json")
        return self._separator_id

    @functools.cached_property
    def pad_id(self) -> int | None:
        """The id that fills rows to one length, or None."""
        name = _content((self._settings or self._own_settings()).get("pad_token"))
        return self._rust.token_to_id(name) if name else None

    def special_id(self, name: str) -> int:
        """Give the id of a special token by its name, such as <|mask|>. Raises UserError when there is none."""
        id = self._rust.token_to_id(name)
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
        return [self.decode(ids[start:end]) for start, end in itertools.pairwise(cuts)]

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

        Raises UserError when tokens are whole words, which no merge builds.
        """
        if self.whole_words:
            raise UserError(f"{self._where} holds whole words", "byte-level BPE, all that other tools' files can hold",
                            "build with --tokenizer.kind bpe")
        return [_pair(merge) for merge in json.loads(self._text)["model"]["merges"]]

    def token_names(self) -> list[str]:
        """The vocabulary in order of id, in the byte alphabet of tokenizer.json; ids without a token get `[unused]`."""
        return [self._rust.id_to_token(id) or f"[unused{id}]" for id in range(self.vocab_size)]

    def _read_bytes(self, vocabulary: dict[str, int], where: str) -> list[bytes]:
        table = [b""] * self.vocab_size
        back = {character: byte for byte, character in byte_alphabet().items()}
        for token, id in vocabulary.items():
            if id in self.special_ids:
                continue
            if id in self._names:  # an added token that is not special stands for its own text
                table[id] = token.encode("utf-8")
                continue
            try:
                table[id] = bytes([back[character] for character in token])
            except KeyError:
                raise _not_a_tokenizer(where, f"the token {token[:20]!r}, which is outside the byte alphabet") from None
        missing = 256 - len({piece for piece in table if len(piece) == 1})
        if missing:
            raise _not_a_tokenizer(where, f"a vocabulary without {missing} of the 256 bytes")
        return table

    def _find_separator(self, vocabulary: dict[str, int]) -> int | None:
        names = [_content((self._settings or {}).get("eos_token")), SEPARATOR]
        # Qwen's chat models end a turn with eos_token but a document with <|endoftext|>
        ids = [vocabulary[name] for name in reversed(names) if name and vocabulary.get(name) in self.special_ids]
        return ids[0] if ids else None

    def _own_settings(self) -> dict[str, Any]:
        """Say to transformers what tokenizer.json does not: without the class it adds a normaliser and ids differ."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SEPARATOR,
            "bos_token": None,
            "unk_token": None,
            "pad_token": PAD,
            **{role: name for role, name in _ROLES.items() if name in self._names.values()},
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # as here: "<|endoftext|>" in a text is text
        }


def byte_alphabet() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in a tokenizer.json (GPT-2's table).

    Printable Latin-1 stands for itself; the other 68 bytes, in order, get the characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def cut(text: str, size: int) -> Iterator[str]:
    """Cut text into pieces of at most `size` characters, after a newline followed by a non-space where there is one.

    The patterns qwen2 and llama-bpe always end a word there, so such a cut changes no id (gpt-2 and smollm: unless
    several newlines meet). A piece without such a newline is cut anywhere.
    """
    start = 0
    while len(text) - start > size:
        end = text.rfind("\n", start, start + size) + 1
        while end > start and text[end].isspace():
            end = text.rfind("\n", start, end - 1) + 1
        end = end if end > start else start + size
        yield text[start:end]
        start = end
    yield text[start:]


def _check(described: Any, where: str) -> str:
    """Name the pattern of a tokenizer.json that Myna can run safely and decode exactly; else raise UserError."""
    model = described.get("model") if isinstance(described, dict) else None
    if not isinstance(model, dict):
        raise _not_a_tokenizer(where, "no model")
    kind = model.get("type", "BPE")
    if kind == "Unigram":
        _check_scores(model.get("vocab"), where)
    elif not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise _not_a_tokenizer(where, "no BPE vocabulary and merges")
    if kind not in ("BPE", "Unigram") or model.get("byte_fallback") or model.get("dropout") or (kind == "Unigram" and model.get("unk_id")):
        raise _not_a_tokenizer(where, f"a {kind} model" + (" with dropout" if model.get("dropout") else ""))
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _not_a_tokenizer(where, "tokens with a prefix or suffix mark")
    normalizer = described.get("normalizer")
    if normalizer is not None and not (isinstance(normalizer, dict) and normalizer.get("type") == "NFC"):
        raise _not_a_tokenizer(where, f"a normalizer ({str(normalizer)[:60]})")
    name = name_of(described.get("pre_tokenizer"))
    if name is None:
        raise UserError(f"{where} has a pre-tokenizer that Myna does not know ({str(described.get('pre_tokenizer'))[:80]})",
                        "one of " + ", ".join(NAMES), "use another model")
    return name


def _check_scores(vocab: Any, where: str) -> None:
    """Check the vocabulary of a Unigram model: distinct tokens with finite scores."""
    rows = vocab if isinstance(vocab, list) else []
    sound = all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], float | int)
                and math.isfinite(row[1]) for row in rows)
    if not rows or not sound or len({row[0] for row in rows}) != len(rows):
        raise _not_a_tokenizer(where, "no list of distinct tokens with their scores")


def _not_a_tokenizer(where: str, got: str) -> UserError:
    return UserError(f"{where} has {got}", "a tokenizer.json of byte-level BPE or whole words", "use another model or restore the file")


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


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


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
