"""What a model learned from, kept as hashes, so that a later measure can leave it out: `seen.bin`, 16 bytes for each example.

    save_seen(Path("my-classifier"), [item.key for item in learned])
    items = [item for item in others if item.key not in read_seen(Path("my-classifier"))]
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from myna.files import write_atomic

SEEN = "seen.bin"
_BYTES = 16  # of a hash


def save_seen(folder: Path, keys: Iterable[bytes]) -> None:
    """Write the hashes (16 bytes each) of what was learned from."""
    write_atomic(folder / SEEN, b"".join(sorted(set(keys))))


def read_seen(folder: Path) -> set[bytes]:
    """Return the hashes of what a directory learned from; none where it does not say."""
    path = folder / SEEN
    data = path.read_bytes() if path.is_file() else b""
    return {data[at : at + _BYTES] for at in range(0, len(data), _BYTES)}
