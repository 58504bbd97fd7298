"""`myna import` and `myna export --to arpa`: the same model again, KenLM's numbers, and one line for what does not fit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from myna.cli.main import main
from myna.formats.arpa import read_arpa
from myna.models.ngram import Ngram, fit_ngram
from myna.models.ngram_arpa import word_list
from myna.models.options import NgramOptions
from myna.models.pretrained import load_model
from myna.models.record import read_record
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

LINES = ["the cat sat on the mat\n", "a bird that learned to talk\tand sang\n", "从前有一只鸟，它学会了说话。\n",
         "the bird sat ▁ on \\x20 the cat 🐦\n",
         "a cat that learned to sing\n\n", "it's <s> not </s> a <unk>\n"]
UNSEEN = "the bird sang ✓ to the cat, 一只鸟 on\ta mat\n\\▁"


@pytest.fixture(scope="module", params=["bpe", "characters"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned n-gram's directory over tokens with blanks, line ends, parts of characters and special names."""
    made = tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer(write_corpus(made / "corpus", LINES * 20), TokenizerOptions(kind=request.param, vocab_size=384))
    ids = np.array([id for line in LINES * 3 + LINES[:2] for id in [*tokenizer.encode(line), tokenizer.separator_id]])
    fit_ngram(ids, ids, tokenizer.vocab_size, tokenizer.separator_id,
              NgramOptions(order=4, smoothing="kneser_ney", prune=(0, 0, 0, 2))).save(made / "model")
    tokenizer.save(made / "model")
    return made / "model"


@pytest.fixture(scope="module")
def arpa(folder: Path) -> Path:
    assert main(["export", str(folder), "--to", "arpa", "--out", str(folder.parent / "x.arpa")]) == 0
    return folder.parent / "x.arpa"


def test_export_and_import_give_the_same_bits(folder: Path, arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(arpa), str(tmp_path / "again"), "--tokenizer", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["order"] == 4
    first, again = Ngram.open(folder), load_model(tmp_path / "again")
    assert isinstance(again, Ngram) and again.name == "4-gram, imported"
    for one, other in zip(first.levels(), again.levels(), strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or (np.asarray(a) == np.asarray(b)).all()
    record = read_record(tmp_path / "again")
    assert record.family == "ngram" and record.lineage["inputs"][0]["path"] == str(arpa)
    assert main(["show", str(tmp_path / "again")]) == 0
    assert main(["generate", str(tmp_path / "again"), "the", "--max-tokens", "8"]) == 0


@pytest.mark.skipif(importlib.util.find_spec("kenlm") is None, reason="needs kenlm")
def test_kenlm_gives_the_same_probabilities_and_perplexity(folder: Path, arpa: Path) -> None:
    import kenlm

    theirs, ours, tokenizer = kenlm.Model(str(arpa)), Ngram.open(folder), Tokenizer.open(folder)
    words = word_list(tokenizer)
    for text in [*LINES, UNSEEN, ""]:
        ids = tokenizer.encode(text)
        sentence = " ".join(words[id] for id in ids)
        scores = ours.log_probs([*ids, tokenizer.separator_id]) / np.log(10)
        full = list(theirs.full_scores(sentence))
        assert not any(unknown for _, _, unknown in full)
        np.testing.assert_allclose(scores, [score for score, _, _ in full], atol=1e-4)
        assert theirs.score(sentence) == pytest.approx(scores.sum(), rel=1e-5)
        assert theirs.perplexity(sentence) == pytest.approx(10 ** -scores.mean(dtype=np.float64), rel=1e-4)


def foreign(path: Path, words: list[str], unknown: str = "-1.2\t<unk>\n") -> Path:
    """A file of another tool: words of which each has 1/20, `<s>` goes on to the first of them."""
    lines = [f"-1.30103\t{word}\t-0.1\n" for word in words]
    size = len(words) + 2 + bool(unknown)
    path.write_text(f"\\data\\\nngram 1={size}\nngram 2=1\n\n\\1-grams:\n{unknown}-99\t<s>\t-0.5\n-1\t</s>\n{''.join(lines)}\n"
                    f"\\2-grams:\n-0.2\t<s> {words[0]}\n\n\\end\\\n", encoding="utf-8")
    return path


def test_unknown_words_share_their_probability(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.open(folder)
    path = foreign(tmp_path / "f.arpa", list("catsb"))
    assert main(["import", str(path), str(tmp_path / "f"), "--tokenizer", str(folder)]) == 0
    said = capsys.readouterr().err
    assert f"<unk> is shared by the {tokenizer.vocab_size - 6} ids" in said and "sum to 0.4131" in said
    model = load_model(tmp_path / "f")
    row = model.step([[tokenizer.separator_id]], model.start())[0] / np.log(10)
    ids = tokenizer.encode("cz")
    assert row[ids[0]] == pytest.approx(-0.2) and row[ids[1]] == pytest.approx(-0.5 - 1.2 - np.log10(tokenizer.vocab_size - 6))
    assert row[tokenizer.separator_id] == pytest.approx(-0.5 - 1)


def test_a_weight_after_the_end_of_a_document_is_not_used(folder: Path, tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.arpa", list("ab"))
    text = path.read_text().replace("ngram 2=1\n", "ngram 2=2\nngram 3=1\n").replace("-0.2\t<s> a\n", "-0.2\t<s> a\t0\n-0.3\ta </s>\t-7\n")
    path.write_text(text.replace("\\end", "\\3-grams:\n-0.1\t<s> a b\n\n\\end"))
    tokenizer = Tokenizer.open(folder)
    assert main(["import", str(path), str(tmp_path / "f"), "--tokenizer", str(folder)]) == 0
    model, [a, b] = Ngram.open(tmp_path / "f"), tokenizer.encode("ab")
    scores = model.log_probs([a, tokenizer.separator_id, b]) / np.log(10)
    np.testing.assert_allclose(scores, [-0.2, -0.3, -0.5 - 1.30103], rtol=1e-6)
    assert (model.compiled().scores(np.array([tokenizer.separator_id, a, tokenizer.separator_id, b])) / np.log(10) == scores).all()


def test_what_does_not_fit_is_one_line(folder: Path, arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.open(folder)
    other = tmp_path / "other"
    other.mkdir()
    train_tokenizer(write_corpus(tmp_path / "c", ["quite other text " * 20]), TokenizerOptions(vocab_size=512)).save(other)
    with_unknown = foreign(tmp_path / "g.arpa", list("ab"))
    with_unknown.write_text(with_unknown.read_text().replace("<s> a", "<s> <unk>"))
    headless = tmp_path / "h.arpa"
    headless.write_text(foreign(headless, list("ab")).read_text().replace("ngram 1=5", "ngram 1=4").replace("-1\t</s>\n", ""))
    cases = {
        f"import {arpa} {tmp_path / 'a'} --tokenizer {other}": "is no token of the tokenizer; expected the vocabulary",
        f"import {foreign(tmp_path / 'b.arpa', ['zebra'])} {tmp_path / 'a'} --tokenizer {folder}": "b.arpa:9: the word 'zebra' is no token",
        f"import {foreign(tmp_path / 'd.arpa', ['a', chr(92) + 'x61'])} {tmp_path / 'a'} --tokenizer {folder}": "is the same token as 'a'",
        f"import {foreign(tmp_path / 'e.arpa', list('ab'), '')} {tmp_path / 'a'} --tokenizer {folder}":
            f"{tokenizer.vocab_size - 3} ids of the tokenizer are no words of it",
        f"import {with_unknown} {tmp_path / 'a'} --tokenizer {folder}": "g.arpa:13: an n-gram with <unk>",
        f"import {headless} {tmp_path / 'a'} --tokenizer {folder}": "have no </s>",
        f"import {folder} {tmp_path / 'a'} --tokenizer {folder}": "--tokenizer with a model directory",
        f"import {folder} {tmp_path / 'a'}": "has a tokenizer.json",
        f"import {arpa} {folder} --tokenizer {folder}": "exists; expected a new directory",
        f"export {folder} --to arpa --quantize f16 --out {tmp_path / 'a'}": "--quantize with --to arpa",
        f"export {folder} --to arpa --out {tmp_path}": "is a folder",
    }
    for command, said in cases.items():
        assert main(command.split()) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error, error
    assert not (tmp_path / "a").exists()


def test_only_an_n_gram_has_an_arpa_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoder = tmp_path / "decoder"
    (decoder / "ngram").mkdir(parents=True)
    (decoder / "config.json").write_text('{"model_type": "qwen3"}')
    assert main(["export", str(decoder), "--to", "arpa", "--out", str(tmp_path / "x")]) == 2
    assert "is no n-gram model" in (said := capsys.readouterr().err) and "decoder/ngram, its baseline, is one" in said


def test_the_words_are_the_tokens_spelled(folder: Path, arpa: Path) -> None:
    words = set(read_arpa(arpa).words)
    assert {"\\x0a", "\\xe4", "▁", "<|pad|>", "<s>", "</s>", "\\\\", "a"} <= words and "<|endoftext|>" not in words
    assert len(words) == Tokenizer.open(folder).vocab_size + 1


# ---- GGUF, and directories of others ----


def test_a_gguf_file_is_imported_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    from myna.formats.gguf_quants import KINDS
    from myna.models.gguf_export import export_gguf
    from tests.formats.models import write_model

    write_model(tmp_path / "model", num_hidden_layers=1)
    report = export_gguf(tmp_path / "model", tmp_path / "x.gguf", Tokenizer.open(tmp_path / "model"), "q8_0")
    assert set(report["types"]) <= KINDS.keys()
    assert main(["import", str(tmp_path / "x.gguf"), str(tmp_path / "again"), "--json"]) == 0
    printed, said = capsys.readouterr()
    found = json.loads(printed)
    assert (found["types"], found["architecture"], found["licence"]) == (report["types"], "qwen3", "")
    assert "the file names no licence" in said and "not taken over: nothing" in said and "float32 numbers they stand for" in said
    assert main(["generate", str(tmp_path / "again"), "Once", "--max-tokens", "4"]) == 0
    assert main(["import", str(tmp_path / "x.gguf"), str(tmp_path / "again")]) == 2
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:9000])
    assert main(["import", str(tmp_path / "cut.gguf"), str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"myna: {tmp_path / 'cut.gguf'} ends inside of")
    assert not (tmp_path / "new").exists()


def test_a_directory_with_another_form_of_tokenizer_gets_a_tokenizer_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bert").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bird", "sang", "##s", "鸟", "."]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "bert" / "program.py").write_text("print('never run')")
    assert main(["import", str(tmp_path / "bert"), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == ["program.py"]
    opened = Tokenizer.open(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file() and not (tmp_path / "out" / "program.py").exists()
    assert opened.encode("The birds sang 鸟.") == [5, 6, 8, 7, 9, 10]
    (tmp_path / "nothing").mkdir()
    assert main(["import", str(tmp_path / "nothing"), str(tmp_path / "other")]) == 2
