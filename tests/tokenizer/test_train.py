"""Training repeats byte for byte, keeps its bounds, and characters are never crossed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers

from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.scripts import SCRIPTS, byte_scripts, script_ids, unspaced_bytes
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import choose_vocab_size, draw_sample, train_tokenizer
from tests.tokenizer.conftest import CHINESE
from tests.tokenizer.corpora import write_corpus

SMALL = TokenizerOptions(vocab_size=512, sample_bytes=200_000, seed=3)


@pytest.mark.parametrize("kind", ["bpe", "characters", "words"])
def test_the_same_seed_gives_the_same_bytes(corpus: Corpus, kind: str, tmp_path: Path) -> None:
    here = train_tokenizer(corpus, TokenizerOptions(kind=kind, vocab_size=512, sample_bytes=200_000, seed=3))  # type: ignore[arg-type]
    program = f"""
from pathlib import Path
from myna.corpus.store import Corpus
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.train import train_tokenizer
options = TokenizerOptions(kind={kind!r}, vocab_size=512, sample_bytes=200_000, seed=3)
print(train_tokenizer(Corpus.open(Path({str(corpus.folder)!r})), options).fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here.fingerprint


def test_the_sample_is_bounded_seeded_and_whole_when_small(corpus: Corpus) -> None:
    total = corpus.part_bytes("train")

    def size(options: TokenizerOptions) -> int:
        drawn = draw_sample(corpus, options)
        assert (drawn["start"][1:] >= drawn["end"][:-1]).all()
        return int((drawn["end"] - drawn["start"]).sum())

    assert size(TokenizerOptions()) == total
    assert size(SMALL) <= 200_000 + 65536
    assert size(SMALL) >= 100_000
    assert not np.array_equal(draw_sample(corpus, SMALL), draw_sample(corpus, TokenizerOptions(sample_bytes=200_000, seed=4)))
    assert size(TokenizerOptions(sample_unspaced_bytes=1)) < total


def test_a_long_document_is_sampled_in_pieces(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [CHINESE * 40])
    drawn = draw_sample(corpus, TokenizerOptions(sample_unspaced_bytes=300_000))
    texts = [corpus.text(int(start), int(end)) for start, end in drawn]  # whole characters, or this fails
    assert 300_000 <= sum(map(unspaced_bytes, texts)) < 300_000 + 65536


def test_the_vocabulary_grows_with_the_corpus() -> None:
    assert choose_vocab_size(1_000_000, 0) == 1024
    assert choose_vocab_size(5_000_000, 10) == 2048
    assert choose_vocab_size(50_000_000, 0) == 8192
    assert choose_vocab_size(1_000_000_000, 0) == 32768
    assert choose_vocab_size(10**13, 0) == 32768
    assert choose_vocab_size(5_000_000, 3000) == 2048 + 3008
    assert choose_vocab_size(1, 0) == 512
    assert choose_vocab_size(10**12, 100_000) == 65536


def test_chinese_is_given_more_room(tmp_path: Path) -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 1000))) * 20
    rich = train_tokenizer(write_corpus(tmp_path / "rich", [many]), TokenizerOptions())
    poor = train_tokenizer(write_corpus(tmp_path / "poor", [topics["assert"] * 40]), TokenizerOptions())
    assert rich.vocab_size >= 512 + 1000 - 64
    assert poor.vocab_size <= 512


def test_learned_tokens_are_words(bpe: Tokenizer) -> None:
    assert len(bpe.encode(" the")) == 1
    assert len(bpe.encode("明月")) <= 2
    assert bpe.vocab_size == 1024
    assert max(map(len, bpe.token_bytes)) <= 64


def test_too_little_and_too_small_are_errors(tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_corpus(tmp_path / "empty", [], ["only validation text"])
    with pytest.raises(UserError, match="no training text"):
        train_tokenizer(empty, TokenizerOptions())
    with pytest.raises(UserError, match="at least 260"):
        train_tokenizer(corpus, TokenizerOptions(vocab_size=259))
    tiny = write_corpus(tmp_path / "tiny", ["a b"])
    assert train_tokenizer(tiny, TokenizerOptions(vocab_size=1000)).vocab_size == 320
    assert "only 320 tokens of the 1000" in capsys.readouterr().err


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("春眠不觉晓鸟abc 。é")), max_size=40))
def test_no_token_crosses_a_character_and_words_change_nothing(characters: Tokenizer, bpe: Tokenizer, text: str) -> None:
    ids = characters.encode(text)
    starts = {0}
    for id in ids:
        starts.add(max(starts) + len(characters.token_bytes[id]))
    boundaries = {len(text[:i].encode()) for i in range(len(text) + 1)}
    assert boundaries <= starts
    assert _without_words(characters).encode(text).ids == ids


def test_seen_characters_are_one_token_and_others_fall_back(characters: Tokenizer) -> None:
    assert len(characters.encode("春眠不觉晓，the ")) == len("春眠不觉晓，the ")
    assert characters.decode(characters.encode("龘🦜")) == "龘🦜"
    assert len(characters.encode("龘🦜")) > 2


def test_the_rarest_characters_lose_when_room_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(chr(0x4E00 + i) * (200 - i) for i in range(200))
    small = train_tokenizer(write_corpus(tmp_path / "c", [text]), TokenizerOptions(kind="characters", vocab_size=320))
    assert small.vocab_size == 320
    # the 60th shares its beginning, of 64 characters, with the frequent ones; the last does not
    assert [len(small.encode(chr(0x4E00 + i))) for i in (0, 10, 60, 199)] == [1, 1, 2, 3]
    assert "room for 5" in capsys.readouterr().err


def _without_words(tokenizer: Tokenizer) -> RustTokenizer:
    rust = RustTokenizer.from_str(tokenizer._text)
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.encode_special_tokens = True
    return rust


def test_scripts_of_characters_and_bytes() -> None:
    text = "aé中ぁไ1 ,🦜한"
    assert [SCRIPTS[i] for i in script_ids(text)] == ["Latin", "Latin", "Han", "Kana", "Southeast Asian", "digits", "space",
                                                      "punctuation", "symbols", "Hangul"]
    assert len(byte_scripts(text)) == len(text.encode())
    assert unspaced_bytes(text) == 9
    assert unspaced_bytes("plain") == 0


_PEAK = """
import resource, sys
from pathlib import Path
from myna.corpus.store import Corpus
from myna.data.shards import prepare_tokens
from myna.tokenizer.options import TokenizerOptions
tokenizer, out = prepare_tokens(Corpus.open(Path(sys.argv[1])), Path(sys.argv[2]), TokenizerOptions())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_is_bounded_on_chinese_without_spaces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ranks = np.minimum(rng.zipf(1.3, size=10_000_000), 6000).astype(np.uint32)
    text = (ranks + 0x4E00 - 1).astype("<u4").tobytes().decode("utf-32-le")  # 30 MB, not one space or mark
    write_corpus(tmp_path / "c", [text], [text[:1000]], [text[:1000]])
    program = [sys.executable, "-c", _PEAK, str(tmp_path / "c"), str(tmp_path / "out")]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scripts"]["Han"]["bytes"] == 30_000_000 + 6000
