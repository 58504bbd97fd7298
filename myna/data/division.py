"""Divide examples into train, valid and test by their hashes: equal ones never stand on two sides, and the order of files is nothing.

    parts = divide_by_hash(texts, [text.key for text in texts], {}, SplitOptions())
    parts["train"], parts["valid"], parts["test"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from myna.corpus.options import SplitOptions
from myna.corpus.split import rank_units
from myna.corpus.store import PARTS, RANGE

SHARE = 0.1  # of the examples held out for each of validation and test, unless told otherwise: twice that of language modelling
LEAST = 2  # examples of a part: an interval needs as many

Item = TypeVar("Item")


def divide_by_hash(items: Sequence[Item], keys: Sequence[bytes], given: Mapping[str, list[Item]], options: SplitOptions,
                   share: float = SHARE) -> dict[str, list[Item]]:
    """Divide items, each counting the same however long, by their keys of 16 bytes. given: parts that were given apart, and stay.

    share: held out for each part that is not given, where the options say nothing.
    """
    if options == SplitOptions():
        options = dataclasses.replace(options, test_fraction=share, valid_fraction=share)
    units = np.zeros(len(items), dtype=RANGE)
    units["start"], units["end"] = np.arange(len(items)), np.arange(1, len(items) + 1)
    part = np.zeros(len(items), dtype=np.int8)
    shares = {"test": options.test_fraction, "valid": options.valid_fraction}
    wanted = [(PARTS.index(name), fraction) for name, fraction in shares.items() if name not in given]
    if items:
        rank_units(part, units, np.array(keys, dtype="V16"), np.arange(len(items)), wanted, LEAST)
    return {name: given[name] if name in given else [item for item, chosen in zip(items, part, strict=True) if chosen == number]
            for number, name in enumerate(PARTS)}
