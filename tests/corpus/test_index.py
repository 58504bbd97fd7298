"""The index against a search that looks at every place, and against damaged files."""

from __future__ import annotations

import json
import mmap
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.corpus.index import Index, build_index
from myna.corpus.suffixes import extend
from myna.errors import UserError
from myna.files import write_manifest

SMALL = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size), max_size=60))
QUERY = st.lists(st.integers(0, 5), max_size=6)


def places(corpus: list[int], query: list[int]) -> list[int]:
    return [i for i in range(len(corpus) - len(query) + 1) if corpus[i:i + len(query)] == query]


def followers(corpus: list[int], query: list[int]) -> dict[int, int]:
    return dict(Counter(corpus[i + len(query)] for i in places(corpus, query) if i + len(query) < len(corpus)))


def index_of(corpus: list[int], wide: bool = False) -> Index:
    """Build an index; `wide` with the types of the largest corpora (int64 order, uint32 ids)."""
    if not wide:
        return Index.build(np.array(corpus, np.int64), 6)
    made = Index.build(np.array(corpus, np.int64), 70_000)
    return Index(made.ids, made.ends.astype(np.int64), 70_000)


@given(SMALL, QUERY, st.booleans())
@settings(max_examples=300, deadline=None)
def test_it_finds_what_a_search_of_every_place_finds(corpus: list[int], query: list[int], wide: bool) -> None:
    index = index_of(corpus, wide)
    expected = places(corpus, query)
    assert index.count(query) == len(expected)
    assert index.count_batch([query, [], query[:1]]).tolist() == [len(expected), len(corpus) + 1, len(places(corpus, query[:1]))]
    assert index.positions(query).tolist() == expected
    assert index.positions(query, limit=2).tolist() == expected[:2]
    ids, counts = index.next_counts(query)
    assert ids.tolist() == sorted(followers(corpus, query))
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == followers(corpus, query)


@given(SMALL, st.lists(st.integers(0, 5), max_size=40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_position_of_a_text_is_matched_as_far_back_as_the_corpus_goes(corpus: list[int], text: list[int], wide: bool) -> None:
    index = index_of(corpus, wide)
    matches = index.match(text)
    for t in range(len(text)):
        length = max(n for n in range(t + 2) if places(corpus, text[t + 1 - n:t + 1]))
        found = text[t + 1 - length:t + 1]
        assert matches.lengths[t] == length
        assert (matches.lows[t], matches.highs[t]) == index.find(found)
        assert index.longest_suffix(text[:t + 1]) == (length, *index.find(found))


def test_a_text_of_the_corpus_matches_all_the_way_and_a_run_of_one_id_too() -> None:
    corpus = np.random.default_rng(0).integers(0, 50, 5000)
    assert (Index.build(corpus, 50).match(corpus[1000:3000]).lengths == np.arange(1, 2001)).all()
    run = Index.build(np.zeros(300, np.int64), 1).match(np.zeros(400, np.int64))  # 300 ranges in the chain, more than it begins with
    assert (run.lengths == np.minimum(np.arange(1, 401), 300)).all()
    assert (run.highs - run.lows == 301 - run.lengths).all()


def test_a_chain_holds_one_history_per_set_of_places() -> None:
    corpus = np.random.default_rng(3).integers(0, 3, 80).tolist()
    index, text = index_of(corpus), [*corpus[10:40], 1, 2, *corpus[5:30]]
    chain, size = np.empty((1, 3), np.int64), 0  # too small, so that it grows
    for t, id in enumerate(text):
        chain, size = extend(index.earlier, index.starts, chain, size, id)
        ranges = [index.find(text[t + 1 - n:t + 1]) for n in range(1, t + 2)]
        longest = {bounds: n for n, bounds in enumerate(ranges, start=1) if bounds[0] < bounds[1]}
        assert chain[:size].tolist() == [[n, *bounds] for bounds, n in reversed(longest.items())]


def test_rows_are_sorted_by_history_read_backwards() -> None:
    corpus = np.random.default_rng(1).integers(0, 3, 200)
    histories = [corpus[:end][::-1].tolist() for end in index_of(corpus.tolist()).ends]
    assert histories == sorted(histories) and len(histories) == 201


def test_a_match_crosses_a_separator_only_where_the_query_has_one() -> None:
    index = index_of([1, 2, 0, 2, 1, 0])
    assert index.count([2, 2]) == 0 and index.count([2, 0, 2]) == 1 and index.count([0]) == 2
    assert index.next_counts([0])[0].tolist() == [2]  # nothing follows the last


def test_nothing_unknown_and_too_long() -> None:
    index = index_of([1, 2, 3])
    assert index.count([]) == 4 and index.find([]) == (0, 4)
    assert [array.tolist() for array in index.next_counts([])] == [[1, 2, 3], [1, 1, 1]]
    assert index.count([4]) == index.count([77]) == index.count([-1]) == index.count([1 << 40]) == 0
    assert index.count([1, 2, 3, 1]) == index.count([0, 1, 2, 3]) == 0 and index.count([1, 2, 3]) == 1
    assert index.longest_suffix([77, 2, 3])[0] == 2 and index.longest_suffix([2, 77])[0] == 0
    assert index.match([1, 77, 2]).lengths.tolist() == [1, 0, 1]
    assert index.count_batch([]).shape == (0,)
    empty = index_of([])
    assert empty.count([]) == 1 and empty.count([1]) == 0 and empty.match([1, 2]).lengths.tolist() == [0, 0]
    assert empty.next_counts([])[0].tolist() == [] and len(empty) == 0


def test_ids_beyond_16_bits_are_kept_and_told_apart() -> None:
    index = Index.build(np.array([65_536, 0, 1, 65_537, 0], np.uint32), 70_000)
    assert index.ids.dtype == np.uint32 and index.ends.dtype == np.int32
    assert index.positions([0]).tolist() == [1, 4] and index.count([65_536, 0]) == 1 and index.count([1, 65_537, 0]) == 1
    assert index_of([1]).ids.dtype == np.uint16


def owner(array: object) -> object:
    """What holds an array's bytes in the end."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def test_a_directory_holds_all_it_needs_and_may_be_moved(tmp_path: Path) -> None:
    corpus = np.random.default_rng(2).integers(0, 6, 300).astype(np.uint16)
    built = build_index(corpus, tmp_path / "index", 6)
    assert all(isinstance(owner(array), mmap.mmap) for array in (built.ids, built.ends))  # read from the files, not held
    (tmp_path / "index").rename(tmp_path / "moved")
    opened = Index.open(tmp_path / "moved")
    assert (opened.ids == corpus).all() and opened.count([1, 2]) == Index.build(corpus, 6).count([1, 2]) == built.count([1, 2]) > 0
    opened.save(tmp_path / "moved")  # over the files it is reading
    assert (Index.open(tmp_path / "moved").ends == built.ends).all()
    build_index(corpus[:0], tmp_path / "empty", 6)
    assert len(Index.open(tmp_path / "empty")) == 0


def swap(folder: Path) -> None:
    ends = np.load(folder / "ends.npy")
    ends[[5, 6]] = ends[[6, 5]]
    np.save(folder / "ends.npy", ends)


def repeat(folder: Path) -> None:
    ends = np.load(folder / "ends.npy")
    ends[5] = ends[6]
    np.save(folder / "ends.npy", ends)


def point_outside(folder: Path) -> None:
    ends = np.load(folder / "ends.npy")
    ends[ends == 7] = 10**6
    np.save(folder / "ends.npy", ends)


def point_before(folder: Path) -> None:
    ends = np.load(folder / "ends.npy")
    ends[ends == 7] = -1
    np.save(folder / "ends.npy", ends)


def begin_elsewhere(folder: Path) -> None:
    ends = np.load(folder / "ends.npy")
    np.save(folder / "ends.npy", np.roll(ends, 1))


def change_an_id(folder: Path) -> None:
    ids = np.load(folder / "ids.npy")
    ids[40] = (ids[40] + 3) % 6
    np.save(folder / "ids.npy", ids)


def exceed_the_vocabulary(folder: Path) -> None:
    ids = np.load(folder / "ids.npy")
    ids[40] = 600
    np.save(folder / "ids.npy", ids)


def use_another_type(folder: Path) -> None:
    np.save(folder / "ids.npy", np.load(folder / "ids.npy").astype(np.int64))


def lengthen(folder: Path) -> None:
    with (folder / "ends.npy").open("ab") as file:
        file.write(b"more")


def cut(folder: Path) -> None:
    data = (folder / "ends.npy").read_bytes()
    (folder / "ends.npy").write_bytes(data[:-40])


def empty_a_file(folder: Path) -> None:
    (folder / "ids.npy").write_bytes(b"")


def hide_objects(folder: Path) -> None:
    np.save(folder / "ids.npy", np.array([1, "x", None] * 100, object), allow_pickle=True)


def wrong_count(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"ids": 299, "vocab_size": 6}))


def huge_vocabulary(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"ids": 300, "vocab_size": 1 << 31}))


def no_sizes(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"ids": True, "vocab_size": "6"}))


def a_list_of_sizes(folder: Path) -> None:
    (folder / "index.json").write_text("[1, 2]")


def no_json(folder: Path) -> None:
    (folder / "index.json").write_text("{")


def remove_a_file(folder: Path) -> None:
    (folder / "ends.npy").unlink()


@pytest.mark.parametrize("damage", [swap, repeat, point_outside, point_before, begin_elsewhere, change_an_id, exceed_the_vocabulary,
                                    use_another_type, lengthen, cut, empty_a_file, hide_objects, wrong_count, huge_vocabulary, no_sizes,
                                    a_list_of_sizes, no_json, remove_a_file])
def test_a_damaged_directory_is_refused_by_its_hashes_and_without_them(tmp_path: Path, damage: object) -> None:
    folder = tmp_path / "index"
    build_index(np.random.default_rng(2).integers(0, 6, 300).astype(np.uint16), folder, 6)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match="damaged"):
        Index.open(folder)
    (folder / "manifest.json").unlink()
    write_manifest(folder, "index", {}, {})  # as somebody who wants it to be believed would
    with pytest.raises(UserError) as caught:
        Index.open(folder)
    assert "SHA-256" not in str(caught.value)


def test_a_vocabulary_that_its_ids_do_not_fit_is_refused_before_a_table_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="id 600"):
        Index(np.array([600], np.uint16), np.array([0, 1], np.int32), 6)
    build_index(np.array([1, 2]), tmp_path / "index", 70_000)
    (tmp_path / "index" / "index.json").write_text(json.dumps({"ids": 2, "vocab_size": 1 << 31}))  # 16 GB of counts
    (tmp_path / "index" / "manifest.json").unlink()
    write_manifest(tmp_path / "index", "index", {}, {})
    with pytest.raises(UserError, match="sizes"):
        Index.open(tmp_path / "index")


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        Index.open(tmp_path / "nowhere")
    build_index(np.array([1, 2]), tmp_path / "index", 6)
    shutil.copy(tmp_path / "index" / "ends.npy", tmp_path / "ends.npy")
    with pytest.raises(UserError):
        Index.open(tmp_path)


@pytest.mark.parametrize("ends", [[0, 2, 1], [0, 1, 1], [0, 2, 2], [0, 0, 1], [1, 0, 2], [0, 1], [0, 1, 2, 3], [0, 1, 3], [0, -1, 2]])
def test_only_the_one_right_order_is_taken(ends: list[int]) -> None:
    ids = np.array([1, 2], np.uint16)
    assert Index(ids, np.array([0, 1, 2], np.int32), 6).count([1, 2]) == 1
    with pytest.raises(UserError):
        Index(ids, np.array(ends, np.int32), 6)


@pytest.mark.parametrize("ids, vocab_size", [([6], 6), ([-1], 6), ([0], 0), ([1], 1 << 40)])
def test_ids_outside_the_vocabulary_are_refused(ids: list[int], vocab_size: int) -> None:
    with pytest.raises(UserError):
        Index.build(np.array(ids), vocab_size)
