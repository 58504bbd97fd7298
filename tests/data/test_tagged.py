"""Words with labels from files in all their forms: what is found, refused, counted, and how it is divided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.corpus.options import SplitOptions
from myna.data.options import RowsOptions
from myna.data.tagged import TaggedSentence, cut_labels, read_tagged, split_tagged
from myna.errors import UserError

PAIRS = [(("我", "去"), ("r", "v")), (("食", "飯", "。"), ("v", "n", "."))]


def pairs_of(path: Path, **options: object) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(one.words, one.tags) for one in read_tagged([path], RowsOptions(**options)).sentences]  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "text"), [
    ("a.tsv", "我\tr\n去\tv\n\n\n食\tv\n飯\tn\n。\t.\n"), ("a.txt", "我\tr\n去\tv\n\n食\tv\n飯\tn\n。\t.\n"),
    ("a.conll", "-DOCSTART- -X- O\n\n我 x r\n去 x v\n\n食 x v\n飯 x n\n。 x .\n"),
    ("a.conllu", "# text = x\n1\t我\t_\tr\t_\t_\t_\t_\t_\t_\n1-2\tx\t_\t_\t_\t_\t_\t_\t_\t_\n2\t去\t_\tv\t_\t_\t_\t_\t_\t_\n\n"
                 "1\t食\t_\tv\t_\t_\t_\t_\t_\t_\n2\t飯\t_\tn\t_\t_\t_\t_\t_\t_\n3\t。\t_\t.\t_\t_\t_\t_\t_\t_\n"),
    ("a.jsonl", '{"tokens": ["我", "去"], "ner_tags": ["r", "v"]}\n{"tokens": ["食", "飯", "。"], "ner_tags": ["v", "n", "."]}\n'),
    ("a.csv", 'words,pos\n我 去,r v\n食 飯 。,v n .\n')])
def test_every_form_gives_the_same_sentences(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert pairs_of(tmp_path / name) == PAIRS == pairs_of(tmp_path)


def test_parquet_with_numbers_as_labels(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"tokens": [["我", "去"], ["食"]], "ner_tags": [[0, 3], [1]]}), tmp_path / "a.parquet")
    assert pairs_of(tmp_path / "a.parquet") == [(("我", "去"), ("0", "3")), (("食",), ("1",))]


def test_columns_are_shown_and_others_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("我\tr\tX\n去\tv\tY\n", encoding="utf-8")
    assert pairs_of(tmp_path / "a.tsv") == [(("我", "去"), ("X", "Y"))]
    assert pairs_of(tmp_path / "a.tsv", label="2") == [(("我", "去"), ("r", "v"))]
    assert any("word in 1, label in 3" in line for line in read_tagged([tmp_path / "a.tsv"], RowsOptions()).said())
    (tmp_path / "b.jsonl").write_text('{"a": ["我"], "b": ["r"]}\n', encoding="utf-8")
    assert pairs_of(tmp_path / "b.jsonl", text="a", label="b") == [(("我",), ("r",))]
    for options, said in (({"label": "tag"}, "number of a column"), ({"label": "9"}, "3 columns")):
        with pytest.raises(UserError, match=said):
            pairs_of(tmp_path / "a.tsv", **options)
    with pytest.raises(UserError, match="no column of words"):
        pairs_of(tmp_path / "b.jsonl")


@pytest.mark.parametrize(("name", "text", "said"), [
    ("a.tsv", "我\tr\n去\n", r"a.tsv:2: 1 columns"), ("a.tsv", "我\t\n", "a.tsv:1: no word, or no label"),
    ("a.jsonl", '{"tokens": ["我", "去"], "tags": ["r"]}\n', "a.jsonl:1: 2 words and 1 labels"),
    ("a.jsonl", '{"tokens": ["我", null], "tags": ["r", "v"]}\n', "no list"), ("a.jsonl", "{\n", "no JSON"),
    ("a.jsonl", '{"tokens": ["我", " "], "tags": ["r", "v"]}\n', "empty or too long")])
def test_a_row_that_cannot_be_read_is_an_error_or_counted(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as found:
        pairs_of(tmp_path / name)
    assert "--skip-bad" in str(found.value) and "\n" not in str(found.value)
    (tmp_path / "good.tsv").write_text("好\ta\n", encoding="utf-8")
    reading = read_tagged([tmp_path], RowsOptions(skip_bad=True))
    assert reading.sentences[-1].words == ("好",) and any("passed over" in line for line in reading.said())


def test_a_file_that_is_not_tagged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "a.tsv").write_bytes(b"\x00\x01\x02" * 100)
    for name in ("a.png", "a.tsv"):
        with pytest.raises(UserError):
            pairs_of(tmp_path / name)
    (tmp_path / "b.tsv").write_text("\n\n")
    with pytest.raises(UserError, match="no sentence with labels"):
        pairs_of(tmp_path / "b.tsv")


def test_doubles_and_contradictions_are_counted_and_the_most_frequent_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("去\tn\n\n去\tv\n\n去\tv\n\n食\tv\n", encoding="utf-8")
    reading = read_tagged([tmp_path / "a.tsv"], RowsOptions())
    assert [(one.words, one.tags) for one in reading.sentences] == [(("去",), ("v",)), (("食",), ("v",))]
    assert sum(problem.count for problem in reading.notes.problems.values()) == 2 and "other labels" in " ".join(reading.said())


def test_spans_that_begin_with_i_begin_with_b(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("陳\tI-PER\n生\tI-PER\n去\tO\n港\tI-LOC\n\n王\tB-PER\n生\tI-LOC\n", encoding="utf-8")
    reading = read_tagged([tmp_path / "a.tsv"], RowsOptions())
    assert [one.tags for one in reading.sentences] == [("B-PER", "I-PER", "O", "B-LOC"), ("B-PER", "B-LOC")]
    assert any(line.startswith("3 spans") for line in reading.said())


def test_cut_text_and_characters_with_marks_are_words_to_find(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("我 去 香港\n\n食飯\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("我\tS\n去\tS\n香\tB\n港\tE\n\n食\tB\n飯\tE\n", encoding="utf-8")
    for name in ("a.txt", "b.tsv"):
        reading = read_tagged([tmp_path / name], RowsOptions())
        assert reading.segments and [one.words for one in reading.sentences] == [("我", "去", "香港"), ("食飯",)]
    (tmp_path / "c.tsv").write_text("香港\tn\n", encoding="utf-8")
    assert read_tagged([tmp_path / "c.tsv"], RowsOptions(segment=True)).sentences == [
        TaggedSentence(("香港",), (), f"{tmp_path / 'c.tsv'}:1")]
    with pytest.raises(UserError, match="words without labels"):
        read_tagged([tmp_path / "a.txt", tmp_path / "c.tsv"], RowsOptions())
    assert cut_labels(["我", "OK", "la", "香港人"], False) == (["我", "OK", "la", "香", "港", "人"], ["S", "S", "S", "B", "M", "E"])


def write(path: Path, numbers: range, tag: str = "n") -> Path:
    path.write_text("".join(json.dumps({"words": [f"鳥{n}", "飛"], "tags": [tag, "v"]}) + "\n" for n in numbers), encoding="utf-8")
    return path


def test_the_split_is_by_words_and_keeps_given_parts(tmp_path: Path) -> None:
    reading = read_tagged([write(tmp_path / "a.jsonl", range(100))], RowsOptions())
    parts = split_tagged(reading, SplitOptions())
    again = split_tagged(read_tagged([write(tmp_path / "b.jsonl", range(99, -1, -1))], RowsOptions()), SplitOptions())
    assert {name: {one.words for one in held} for name, held in parts.sentences.items()} == {
        name: {one.words for one in held} for name, held in again.sentences.items()}
    assert sum(map(len, parts.sentences.values())) == 100 and len(parts.sentences["test"]) == 10 and parts.tags == ["n", "v"]
    assert not parts.spaced
    test = read_tagged([write(tmp_path / "c.jsonl", range(90, 110), tag="nr")], RowsOptions())
    given = split_tagged(reading, SplitOptions(), test=test)
    said = " ".join(given.said)
    assert len(given.sentences["test"]) == 20 and "10 sentences of the training part stand in the test part too" in said
    assert "20 labels in test were never seen in training" in said and "do not stand in training" in said
    with pytest.raises(UserError, match="at least 2 sentences"):
        split_tagged(read_tagged([write(tmp_path / "d.jsonl", range(4))], RowsOptions()), SplitOptions())
