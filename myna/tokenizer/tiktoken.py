"""tiktoken rank files: a token in base64 and its rank on each line, described as byte-level BPE of a tokenizer.json.

tiktoken has no merges: of all neighbouring tokens whose joined bytes are a token, the one of the lowest rank is joined first, and a
word that is a token is taken whole. Here each way to make a token of two others becomes a merge, in order of rank.

Source: OpenAI's tiktoken (`load.py` for the file, `_educational.py` for the algorithm); which pattern belongs to which file:
`tiktoken_ext/openai_public.py`, and the tokenizers that Qwen, Meta and Whisper published.

    ranks = read_ranks(Path("cl100k_base.tiktoken").read_bytes(), "cl100k_base.tiktoken")
    text = describe_ranks(ranks, "cl100k_base")
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

from myna.errors import UserError, nearest
from myna.tokenizer.assemble import describe_bytes
from myna.tokenizer.patterns import entry_of
from myna.tokenizer.pieces import byte_alphabet

_MAX_BYTES = 8 << 20  # of all tokens together; those of cl100k_base have 0.7 million
_END, _TURNS = "<|endoftext|>", ("<|im_start|>", "<|im_end|>")
_LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
          "<|reserved_special_token_2|>", "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>",
          "<|reserved_special_token_4|>", "<|eot_id|>", *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)))
# what a file's name says: the pattern that cuts words, and the special tokens with the ids that follow the ranks
_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "gpt2": ("gpt-2", (_END,)), "r50k_base": ("gpt-2", (_END,)), "multilingual": ("gpt-2", (_END,)),
    "cl100k_base": ("cl100k", ("", _END, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")),
    "llama3": ("llama-bpe", _LLAMA),
    "qwen": ("qwen2", (_END, *_TURNS, *(f"<|extra_{i}|>" for i in range(205)))),
}


def read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """Read a rank file; token to rank, which is its id. Raises UserError, with the line, for anything else."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f"{where} line {number}: {line[:40]!r}", "a token in base64 and its rank", "get the file again") from None
    if len(set(ranks.values())) != len(ranks) or min(ranks.values(), default=-1) < 0 or sum(map(len, ranks)) > _MAX_BYTES:
        raise UserError(f"{where} has {len(ranks):,} tokens whose ranks are not different or whose bytes are more than {_MAX_BYTES:,}",
                        "each rank once", "get the file again")
    return ranks


def looks_like_ranks(data: bytes) -> bool:
    """Tell a rank file from a SentencePiece model, both of which are named tokenizer.model."""
    try:
        read_ranks(data[:4096].rpartition(b"\n")[0], "")
    except UserError:
        return False
    return True


def describe_ranks(ranks: Mapping[bytes, int], name: str, special: Sequence[str] = ()) -> str:
    """Give the text of a tokenizer.json; `name` is the file's, which tells the pattern and, without `special`, the special tokens.

    An empty name among `special` leaves an id free. Raises UserError for a name that Myna does not know.
    """
    if name not in _FILES:
        raise UserError(f"a rank file named {name!r:.40}{nearest(name, list(_FILES))}, whose pattern Myna does not know",
                        "one of " + ", ".join(_FILES), "use the model's tokenizer.json")
    pattern, known = _FILES[name]
    alphabet = byte_alphabet()
    spelled = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], spelled[left], spelled[right]))
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    first = max(ranks.values()) + 1
    added = [(first + place, text, True) for place, text in enumerate(special or known) if text]
    vocab |= {text: id for id, text, _ in added}
    return describe_bytes(vocab, [[left, right] for *_, left, right in sorted(merges)], entry_of(pattern), ignore_merges=True, added=added)
