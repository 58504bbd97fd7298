"""Text from bytes: exact for any text under any split, and never a broken character for any bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from myna.generate.stream import TextStream

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60)


def feed(data: bytes, cuts: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(stop)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [stream.feed(data[a:b]) for a, b in itertools.pairwise(places)]
    return [*pieces, stream.finish()], stream


@given(TEXT, st.lists(st.integers(0, 300)))
def test_any_split_of_any_text_streams_back_exactly(text, cuts):
    pieces, stream = feed(text.encode(), cuts)
    assert "".join(pieces) == text
    assert stream.dropped == 0


@given(st.binary(max_size=80), st.lists(st.integers(0, 100)))
@example(b"\xef\xbf\xbd", [1])
@example("\ufffda\ufffd".encode(), [2, 4])
@example(b"\xed\xa0\x80\xe4\xb8A\xff", [1, 4])
def test_random_bytes_never_show_a_broken_character(data, cuts):
    pieces, stream = feed(data, cuts)
    text = "".join(pieces)
    assert "\ufffd" not in text
    assert text == data.decode("utf-8", "ignore").replace("\ufffd", "")  # whatever the split
    assert stream.dropped == len(data) - len(text.encode())


@given(TEXT, TEXT.filter(bool), st.lists(st.integers(0, 300)))
def test_nothing_of_a_stop_string_is_shown_whatever_the_split(before, stop, cuts):
    pieces, stream = feed((before + stop + "after").encode(), cuts, (stop,))
    assert stream.stopped
    assert "".join(pieces) == (before + stop).split(stop)[0]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 40)))
def test_stop_strings_cut_at_the_same_place_as_one_byte_at_a_time(text, stops, cuts):
    whole, one = feed(text.encode(), cuts, tuple(stops)), feed(text.encode(), list(range(len(text))), tuple(stops))
    assert "".join(whole[0]) == "".join(one[0])
    assert whole[1].stopped == one[1].stopped == any(stop in text for stop in stops)


def test_text_is_shown_as_soon_as_it_is_certain():
    stream = TextStream(["\n\n", "END"])
    assert stream.feed("你".encode()[:2]) == ""
    assert stream.feed("你".encode()[2:] + b"!") == "你!"
    assert stream.feed(b"a\n") == "a"
    assert stream.feed(b"bE") == "\nb"
    assert stream.feed(b"N") == ""
    assert stream.feed(b"E") == "EN"
    assert stream.finish() == "E"


def test_after_a_stop_nothing_more_comes():
    stream = TextStream(["x"])
    assert [stream.feed(b"axb"), stream.feed(b"c"), stream.finish()] == ["a", "", ""]


@pytest.mark.parametrize(("data", "text", "dropped"),
                         [(b"a\xffb", "ab", 1), (b"\xe4\xb8", "", 2), (b"\xf0\x9f\x91A", "A", 3), (b"", "", 0)])
def test_bytes_that_are_no_text_are_counted(data, text, dropped):
    stream = TextStream()
    assert stream.feed(data) + stream.finish() == text
    assert stream.dropped == dropped
