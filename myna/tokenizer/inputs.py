"""Texts as a model was trained to see them: cut to a length, with [CLS] and [SEP] or </s> around them.

The cut is that of the `tokenizers` library with strategy `longest_first`: of a pair, the longer text loses tokens until
both have the same number. How many texts were cut is told, so that no caller is silent about it.

Source: `truncate_encodings` of the library, whose lengths these are; the template is the model's own post-processor.

    inputs = tokenizer.encode_inputs(["How are you?"], pairs=["Fine."], max_length=128)
    inputs[0], inputs.type_ids[0], inputs.truncated     # ids, 0 or 1 for each, number of texts that were cut
"""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers

from myna.errors import UserError


class Inputs(list[list[int]]):
    """A list of ids for each text; `type_ids` tells the first text of a pair (0) from the second, `truncated` counts cut texts."""

    def __init__(self, encodings: Iterable[tokenizers.Encoding], truncated: int) -> None:
        """Read the ids and type ids of finished encodings."""
        both = [(encoding.ids, encoding.type_ids) for encoding in encodings]
        super().__init__(ids for ids, _ in both)
        self.type_ids = [types for _, types in both]
        self.truncated = truncated


def surround(rust: tokenizers.Tokenizer, first: list[tokenizers.Encoding], second: list[tokenizers.Encoding] | None,
             max_length: int | None) -> Inputs:
    """Cut encodings without special tokens to `max_length` ids in all and put them through the post-processor."""
    added = rust.num_special_tokens_to_add(second is not None)
    if max_length is not None and max_length <= added:
        raise UserError(f"a length of {max_length} tokens, of which {added} are special", f"at least {added + 1}")
    finished, truncated = [], 0
    for index, encoding in enumerate(first):
        other = second[index] if second is not None else None
        if max_length is not None:
            lengths = shorten(len(encoding), len(other) if other is not None else 0, max_length - added)
            truncated += lengths != (len(encoding), len(other) if other is not None else 0)
            encoding.truncate(lengths[0])
            if other is not None:
                other.truncate(lengths[1])
        finished.append(rust.post_process(encoding, other, add_special_tokens=True))
    return Inputs(finished, truncated)


def shorten(first: int, second: int, room: int) -> tuple[int, int]:
    """Give the lengths of a pair after tokens were taken from the longer one until both fit `room`."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
