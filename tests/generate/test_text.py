"""A prompt in, text out: pieces, results, stop strings, special tokens."""

from __future__ import annotations

import pytest

from myna.errors import UserError
from myna.generate.options import SampleOptions
from myna.generate.text import generate_text, stream_text
from tests.generate.models import Bytes, Script, Table

BYTES = Bytes()


def say(text: str | bytes, **options):
    data = text.encode() if isinstance(text, str) else text
    model = Script([byte + 2 for byte in data], vocab=300)
    return stream_text(model, BYTES, "p", SampleOptions(temperature=0.0, **options))


def test_pieces_are_whole_characters_and_add_up_to_the_text():
    stream = say("从前有一只鸟🐦!")
    pieces = list(stream)
    assert pieces == [(0, character) for character in "从前有一只鸟🐦!"]
    [out] = stream.generations
    assert str(out) == out.text == "从前有一只鸟🐦!"
    assert out.finish_reason == "stop"
    assert out.tokens == [byte + 2 for byte in out.text.encode()] + [0]
    assert len(out.log_probs) == len(out.tokens)
    assert out.dropped_bytes == 0


def test_a_stop_string_over_several_tokens_ends_the_text_before_it():
    [out] = generate_text(Script([byte + 2 for byte in b"one two END three"], vocab=300), BYTES, "p",
                          SampleOptions(temperature=0.0, stop=("two END", "x")))
    assert (out.text, out.finish_reason) == ("one ", "stop")
    assert bytes(token - 2 for token in out.tokens) == b"one two END"


def test_the_beginning_of_a_stop_string_is_shown_when_it_comes_to_nothing():
    stream = say("abcEN", stop=("END",))
    assert "".join(piece for _, piece in stream) == "abcEN"
    stream = say("abcEN and more", stop=("END",), max_tokens=5)
    assert "".join(piece for _, piece in stream) == "abcEN"
    assert stream.generations[0].finish_reason == "length"


def test_bytes_that_are_no_text_are_dropped_and_counted():
    [out] = list_generations(say(b"a\xff\xfe\xe4\xb8z\xe4"))
    assert (out.text, out.dropped_bytes) == ("az", 5)


def test_a_special_token_ends_the_text():
    model = Script([ord("a") + 2, 1, ord("b") + 2], vocab=300)
    [out] = generate_text(model, BYTES, "p", SampleOptions(temperature=0.0))
    assert (out.text, out.finish_reason, out.tokens[-1]) == ("a", "stop", 1)


def test_an_id_that_the_tokenizer_does_not_have_gives_no_text():
    model = Script([ord("a") + 2, 299, ord("b") + 2], vocab=300)
    assert str(generate_text(model, BYTES, "p", SampleOptions(temperature=0.0))[0]) == "ab"


def test_many_rows_stream_together_and_equal_the_whole():
    model, options = Table(vocab=258, seed=4), SampleOptions(max_tokens=40, n=5, seed=9, temperature=1.2, stop=("q",))
    stream = stream_text(model, BYTES, "hello", options)
    texts = [""] * 5
    for row, piece in stream:
        assert piece
        assert "\ufffd" not in piece
        texts[row] += piece
    assert texts == [out.text for out in stream.generations]
    assert stream.generations == generate_text(model, BYTES, "hello", options)
    assert all(out.finish_reason in ("stop", "length") for out in stream.generations)


def test_what_was_drawn_so_far_is_there_when_the_stream_is_left():
    stream = say("abcdef")
    for number, _ in enumerate(stream):
        if number == 2:
            break
    [out] = stream.generations
    assert (out.text, out.finish_reason) == ("abc", "")


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="10 tokens"):
        generate_text(Table(vocab=258, max_length=8), BYTES, "0123456789")


def list_generations(stream):
    list(stream)
    return stream.generations
