"""Options: a frozen dataclass per stage, filled from its defaults, then a TOML recipe, then flags.

The string under a field is its `--help`. An unknown key is an error that names the nearest right one.

    @dataclass(frozen=True)
    class CleanOptions:
        min_chars: int = 1
        "Drop documents shorter than this many characters."

    make(CleanOptions, {"min_chars": "20"}, where="recipe.toml [clean]")
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from myna.errors import UserError, nearest

T = TypeVar("T")


class Option(NamedTuple):
    """One field of an options dataclass, as a flag shows it."""

    name: str
    type: Any
    default: Any
    help: str


def options_of(cls: type) -> list[Option]:
    """List a dataclass's fields with their types, defaults and the strings under them."""
    hints = typing.get_type_hints(cls)
    helps = _field_docstrings(cls)
    return [Option(f.name, hints[f.name], f.default, helps.get(f.name, "")) for f in dataclasses.fields(cls)]


def make(cls: type[T], *layers: dict[str, Any], where: str = "") -> T:
    """Build `cls` from dictionaries, later ones winning. Raises UserError on an unknown key or a wrong value."""
    known = {option.name: option for option in options_of(cls)}
    values: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in known:
                raise UserError(f"unknown option {key!r}{_at(where)}{nearest(key, list(known))}", "one of " + ", ".join(known))
            values[key] = convert(value, known[key].type, f"{key}{_at(where)}")
    return cls(**values)


def convert(value: Any, kind: Any, name: str) -> Any:
    """Turn a TOML value or a flag's text into `kind`: str, int, float, bool, Path, Literal, X | None or tuple[X, ...]."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return convert(value, next(a for a in arguments if a is not type(None)), name)
    if origin is typing.Literal:
        if value in arguments:
            return value
        words = [str(argument) for argument in arguments]
        raise UserError(f"{name} is {value!r}{nearest(str(value), words)}", "one of " + ", ".join(words))
    if origin is tuple:
        items = [item for item in value.split(",") if item] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise UserError(f"{name} is {value!r}", "a list")
        return tuple(convert(item, arguments[0], name) for item in items)
    return _convert_plain(value, kind, name)


def _convert_plain(value: Any, kind: Any, name: str) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        if kind is int and (isinstance(value, bool) or (isinstance(value, float) and value != int(value))):
            raise ValueError
        if kind is float and isinstance(value, bool):
            raise ValueError
        if kind in (str, Path) and not isinstance(value, (str, Path)):
            raise ValueError
        converted = kind(value)
        if kind is float and converted != converted:
            raise ValueError
        return converted
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"{name} is {value!r}", words.get(kind, str(kind))) from None


def read_recipe(path: Path, sections: dict[str, type], top: type) -> dict[str, dict[str, Any]]:
    """Read a TOML recipe: top-level keys belong to `top`, tables to `sections`.

    Returns {"": top-level keys, section: keys}. Raises UserError on what is in neither, or is not TOML.
    """
    import tomllib

    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path} ({error.strerror})", "a TOML file", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error})", "a TOML file in UTF-8") from None
    layers: dict[str, dict[str, Any]] = {"": {}}
    tops = [option.name for option in options_of(top)]
    for key, value in raw.items():
        if isinstance(value, dict) and key in sections:
            make(sections[key], value, where=f"{path} [{key}]")
            layers[key] = value
        elif not isinstance(value, dict) and key in tops:
            layers[""][key] = value
        else:
            raise UserError(f"unknown key {key!r} in {path}{nearest(key, tops + list(sections))}",
                            f"one of {', '.join(tops)} or a table of {', '.join(sections)}")
    make(top, layers[""], where=str(path))
    return layers


def _at(where: str) -> str:
    return f" in {where}" if where else ""


def _field_docstrings(cls: type) -> dict[str, str]:
    """Read the string literal under each field from the class's source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)):
            found[field.target.id] = " ".join(below.value.value.split())
    return found
