"""From the files of a package to pairs of a source and its translation, as `myna tune --task translate` and other tools read them.

    wheel = Path("homeassistant-2024.3.3-py3-none-any.whl")
    for name, text in read_homeassistant(read_members(wheel, "homeassistant/components/*/translations/*.json")):
        print(name, text.count("\\n"), "pairs")
"""

from __future__ import annotations

import gettext
import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

_LANGUAGES = {"zh-Hans": "zh", "de": "de"}  # the files' name of a language, and ours
_REFERENCE = "[%key"  # a text that points to another one
_CONTEXT = "\x04"  # stands in a .mo file between a text's context and the text


def read_homeassistant(members: Members) -> Texts:
    """Join the English strings of Home Assistant's components with the Chinese and the German ones under the same keys.

    Yields en-zh.jsonl and en-de.jsonl: source, target and key on each line, in the order of the keys. References to other strings and
    strings that are the same in both languages go.
    """
    languages: dict[str, dict[str, str]] = {}
    for path, data in members:
        language = PurePosixPath(path).stem
        if language == "en" or language in _LANGUAGES:
            component = PurePosixPath(path).parts[-3]
            languages.setdefault(language, {}).update(_flatten(json.loads(data), component))
    for language, short in _LANGUAGES.items():
        english, other = languages.get("en", {}), languages.get(language, {})
        yield f"en-{short}.jsonl", _write((english[key], other[key], key) for key in sorted(english.keys() & other.keys()))


def _flatten(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}")
    elif isinstance(value, str):
        yield key, value


def read_jupyterlab(members: Members) -> Texts:
    """Read the .mo catalogues of a JupyterLab language pack: one file of pairs, named by its language, as en-zh.jsonl.

    Of a text with a context, the context is cut and stands in the key; of one with a plural, each form that a language has gives a pair.
    """
    rows: list[tuple[str, str, str]] = []
    language = ""
    for path, data in sorted(members):
        parts = PurePosixPath(path)
        language = parts.parts[-3].split("_")[0]  # zh of .../zh_CN/LC_MESSAGES/jupyterlab.mo
        rows += _read_catalogue(data, parts.stem)
    yield f"en-{language}.jsonl", _write(iter(rows))


def _read_catalogue(data: bytes, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (English, translation, key). `gettext` keeps a plural's forms under the singular, with a number."""
    catalogue: dict[Any, str] = gettext.GNUTranslations(io.BytesIO(data))._catalog  # type: ignore[attr-defined]  # no public way lists it
    for entry, translation in catalogue.items():
        text = entry[0] if isinstance(entry, tuple) else entry
        context, _, text = text.rpartition(_CONTEXT)
        if text:  # the empty text's translation is the file's header
            yield text, translation, f"{name}:{context}" if context else name


def _write(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = [json.dumps({"source": source, "target": target, "key": key}, ensure_ascii=False) for source, target, key in rows
             if source.strip() and target.strip() and source != target and not source.startswith(_REFERENCE)
             and not target.startswith(_REFERENCE)]
    return "".join(line + "\n" for line in lines)
