"""How an encoder's directory turns the hidden states of a text into one vector: the files that `sentence-transformers` writes.

`modules.json` lists the steps (encoder, pooling, normalisation), the pooling's folder says which, `sentence_bert_config.json` how long
a text may be (Reimers & Gurevych 2019, section 3). A directory without them says nothing, and the mean over all tokens is taken, as
published there. A step that Myna does not compute is refused: without it the vectors would be others.

    pooling = read_pooling(Path("minilm"))
    pooling.apply(hidden)                    # (B, T, C) to (B, C)

B rows · T tokens · C hidden_size
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from myna.errors import UserError, shown
from myna.files import read_json
from myna.models.directory import choice, whole

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["mean", "cls", "max", "mean_sqrt_len"]
_MODES: dict[str, Mode] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max",
                           "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len"}
_LENGTHS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_albert_config.json")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}")  # a plain name, so never a path out of the directory
_STEPS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])


@dataclass(frozen=True)
class Pooling:
    """How hidden states become a vector."""

    mode: Mode = "mean"
    normalize: bool = False
    max_length: int | None = None
    "Tokens of a text, [CLS] and [SEP] among them; None: as many as the encoder sees."
    lower_case: bool = False
    said: bool = False
    "Whether the directory says so, or it is what is taken where nothing is said."

    def apply(self, hidden: Tensor) -> Tensor:
        """Turn hidden states of texts of one length (B, T, C) into vectors (B, C), float32."""
        import torch.nn.functional as F

        hidden = hidden.float()
        match self.mode:
            case "mean":
                out = hidden.mean(1)
            case "cls":
                out = hidden[:, 0]
            case "max":
                out = hidden.amax(1)
            case "mean_sqrt_len":
                out = hidden.sum(1) / hidden.shape[1] ** 0.5
        return F.normalize(out, dim=-1) if self.normalize else out

    def __str__(self) -> str:
        words = {"mean": "mean of all tokens", "cls": "first token", "max": "largest of all tokens",
                 "mean_sqrt_len": "sum of all tokens over the root of their number"}
        scaled = ", scaled to length 1" if self.normalize else ""
        return words[self.mode] + scaled + ("" if self.said else " (the directory says nothing of it)")


def read_pooling(folder: Path) -> Pooling:
    """Read what a directory says. Raises UserError on a step or a value that Myna does not compute."""
    path = folder / "modules.json"
    if not path.is_file():
        return Pooling()
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) and isinstance(module.get("type"), str) for module in modules):
        raise UserError(f"{path} is no list of steps", "what sentence-transformers writes", "restore the file")
    steps = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if steps not in _STEPS:
        unknown = next((step for step in steps if step not in _STEPS[1]), None)
        said = f"has the step {shown(unknown)}" if unknown else f"lists {shown(steps)}"
        raise UserError(f"{path} {said}", "Transformer, Pooling and, if it likes, Normalize", "use another model")
    choice(path, modules[0], "path", "")
    inside = modules[1].get("path")
    if not isinstance(inside, str) or not _FOLDER.fullmatch(inside):
        raise UserError(f"{path} leads to {shown(inside)}", "a folder in the directory, as 1_Pooling", "restore the file")
    _refuse_prompt(folder)
    length = next((folder / name for name in _LENGTHS if (folder / name).is_file()), None)
    values = _read_object(length) if length else {}
    limit = None
    if length is not None and values.get("max_seq_length") is not None:
        limit = whole(length, values, "max_seq_length", low=3)
    lower = choice(length, values, "do_lower_case", False, True) if length else False
    return Pooling(_read_mode(folder / inside / "config.json"), len(steps) == 3, limit, lower, True)


def _read_mode(path: Path) -> Mode:
    config = _read_object(path)
    chosen = sorted(name for name, value in config.items() if name.startswith("pooling_mode_") and value is not False)
    if not chosen and isinstance(named := config.get("pooling_mode"), str):  # the word of sentence-transformers 5
        chosen = [name for name, mode in _MODES.items() if mode == named] or [named]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise UserError(f"{path} pools by {shown(chosen)}", "one of " + ", ".join(_MODES), "use another model")
    return _MODES[chosen[0]]


def _refuse_prompt(folder: Path) -> None:
    """Refuse a directory that puts words before every text: its vectors were trained with them."""
    path = folder / "config_sentence_transformers.json"
    if path.is_file() and (name := _read_object(path).get("default_prompt_name")) is not None:
        raise UserError(f"default_prompt_name in {path} is {shown(name)}", "none",
                        "put those words before the texts yourself and set it to null")


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not an object", "what sentence-transformers writes", "restore the file")
    return value
