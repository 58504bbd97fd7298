"""Make a model whose weights are about to be read: none is drawn first.

Every module of torch draws its weights when it is made, which for 135 million of them takes longer than to read them, and ours
draw them once more. Here what would write into a parameter is passed over, so that its memory is not even touched before its weights
come. Computed tables, which are no parameters, are made as ever.

    with Unfilled():
        model = Decoder(config)        # weights of any value
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWN = (Tensor.uniform_, Tensor.normal_, Tensor.zero_)


class Unfilled(TorchFunctionMode):
    """Within it `torch.nn.init`, and drawing into a parameter, do nothing."""

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        given = kwargs or {}
        target = given.get("tensor", args[0] if args else None)
        if isinstance(target, nn.Parameter) and (getattr(func, "__module__", "") == "torch.nn.init" or func in _DRAWN):
            return target
        return func(*args, **given)
