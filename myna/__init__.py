"""Myna: text and minutes in; a cleaned, trained, measured, explained, servable language model out.

    import myna
    myna.build("my-texts/", minutes=10, out="my-model")
    print(myna.load("my-model").generate("Once upon a time"))
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load", "tune"]


def __getattr__(name: str) -> Any:  # so that `import myna` and `myna --help` load neither torch nor numpy
    if name in ("build", "load", "tune"):
        from myna import api

        return getattr(api, name)
    raise AttributeError(f"module 'myna' has no attribute {name!r}")
