"""Strings of programs in packages become pairs that `myna tune --task translate` reads."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from myna.data.options import RowsOptions
from myna.data.pairs import read_pairs
from myna.fetch.pairs import read_homeassistant, read_jupyterlab


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_strings_of_components_are_joined_by_their_keys(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "a/translations/en.json": {"title": "Door {name}", "step": {"user": "Host", "ref": "[%key:common::host%]", "same": "MQTT"}, "n": 3},
        "a/translations/zh-Hans.json": {"title": "门 {name}", "step": {"user": "主机", "ref": "x", "same": "MQTT", "more": "多"}},
        "a/translations/de.json": {"step": {"user": "Host-Adresse"}}, "a/translations/fr.json": {"title": "Porte"},
        "b/translations/en.json": {"title": "Open"}, "b/translations/zh-Hans.json": {"title": ""}}
    made = dict(read_homeassistant((f"homeassistant/components/{path}", json.dumps(value).encode()) for path, value in files.items()))
    assert rows(made["en-zh.jsonl"]) == [{"source": "Host", "target": "主机", "key": "a.step.user"},
                                        {"source": "Door {name}", "target": "门 {name}", "key": "a.title"}]
    assert rows(made["en-de.jsonl"]) == [{"source": "Host", "target": "Host-Adresse", "key": "a.step.user"}]
    (tmp_path / "en-zh.jsonl").write_text(made["en-zh.jsonl"], encoding="utf-8")
    found = read_pairs([tmp_path / "en-zh.jsonl"], RowsOptions(), ("source",), ("target",))
    assert [(pair.source, pair.target) for pair in found.pairs] == [("Host", "主机"), ("Door {name}", "门 {name}")]


def catalogue(entries: dict[str, str]) -> bytes:
    """Write a .mo file, as the GNU gettext manual describes it in "The Format of GNU MO Files"."""
    keys = sorted(entries)
    texts = [*(key.encode() for key in keys), *(entries[key].encode() for key in keys)]
    count, begin = len(keys), 28 + 16 * len(keys)
    tables, data = b"", b""
    for text in texts:
        tables += struct.pack("<2I", len(text), begin + len(data))
        data += text + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0) + tables + data


def test_catalogues_lose_their_contexts_and_keep_their_plurals() -> None:
    data = catalogue({"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n!=1;\n", "menu\x04Open": "打开",
                      "Close": "关闭", "%1 file\0%1 files": "%1 个文件\0%1 些文件", "JSON": "JSON", "Empty": ""})
    folder = "pack/locale/zh_CN/LC_MESSAGES"
    (name, text), = read_jupyterlab(iter([(f"{folder}/jupyterlab.mo", data), (f"{folder}/a.mo", data)]))
    assert name == "en-zh.jsonl" and len(rows(text)) == 8
    assert sorted((row["source"], row["target"], row["key"]) for row in rows(text)[:4]) == [
        ("%1 file", "%1 个文件", "a"), ("%1 file", "%1 些文件", "a"), ("Close", "关闭", "a"), ("Open", "打开", "a:menu")]
