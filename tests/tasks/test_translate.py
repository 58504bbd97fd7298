"""The road of a translator on tiny pairs: learned by heart, placeholders never lost, long texts cut and said, the directory opened."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import myna
from myna.api import Model
from myna.cli.main import main
from myna.data.coding import SPECIAL_TOKENS, Coder
from myna.data.pairs import Pair
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.evaluate.translation import measure_translations, name_words
from myna.generate.beam import search_beams, search_sources
from myna.generate.options import SampleOptions
from myna.models.phrases import Phrases
from myna.tasks.options import TranslateOptions
from myna.tasks.translate import Translated, Translator, mask_pair
from myna.tokenizer.train import learn_tokenizer
from myna.train.options import TrainOptions, TuneOptions
from myna.train.translating import Kind, Material, new_model, train_translator

WORDS = {"open": "打开", "close": "关闭", "the door": "门", "the window": "窗户", "now": "现在", "{name}": "{name}"}
PAIRS = [("Open the door", "打开门"), ("Close the window", "关闭窗户"), ("Failed to connect to {host}", "连接到 {host} 失败"),
         ("Save", "保存"), ("Cancel", "取消"), ("Unknown error", "未知错误"), ("%s files of %(size)d", "%(size)d 中的 %s 个文件"),
         ("Battery low", "电量低"), ("See <b>{url}</b>", "请看 <b>{url}</b>"), ("Password", "密码")]


def make_translator(kind: Kind = "t5", pairs: Any = (), **options: Any) -> Translator:
    tokenizer = learn_tokenizer([side for pair in PAIRS for side in pair], 512, special_tokens=SPECIAL_TOKENS)
    model = new_model(kind, tokenizer.vocab_size, 64, 0, tokenizer.separator_id)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # an untrained head scores all tokens alike
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return Translator(model.requires_grad_(False).eval(), tokenizer, pairs, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translate")
    generator = random.Random(0)
    rows = []
    for _ in range(80):
        words = [generator.choice(list(WORDS)) for _ in range(3)]
        rows.append({"原文": " ".join(words), "译文": "".join(WORDS[word] for word in words)})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert main(["tune", "new", str(folder / "pairs.jsonl"), "--task", "translate", "--steps", "3", "--threads", "1", "--out",
                 str(folder / "out"), "--evaluate.resamples", "100"]) == 0
    return folder


@pytest.mark.parametrize("kind", ["t5", pytest.param("attention_rnn", marks=pytest.mark.slow)])
def test_ten_pairs_are_learned_by_heart(kind: Kind, tmp_path: Path) -> None:
    tokenizer = learn_tokenizer([side for pair in PAIRS for side in pair], 512, special_tokens=SPECIAL_TOKENS)
    coder = Coder(tokenizer, 64)
    sources = [coder.encode_source(source) for source, _ in PAIRS]
    targets = [coder.encode_target(target, coded.masked) for (_, target), coded in zip(PAIRS, sources, strict=True)]
    ids = [coded.ids for coded in sources]
    model = train_translator(lambda: new_model(kind, tokenizer.vocab_size, 64, 0, tokenizer.separator_id), coder,
                             Material(ids, targets, ids, targets, 1.0), tmp_path, TuneOptions(steps=80), TrainOptions(validations=1),
                             None, {}, lambda model: None)
    results = Translator(model, tokenizer, []).translate([source for source, _ in PAIRS])
    assert [result.text for result in results] == [target for _, target in PAIRS]
    assert all(result.kept and result.origin == "model" for result in results)


@pytest.mark.parametrize("kind", ["t5", "attention_rnn"])
def test_an_untrained_model_keeps_every_placeholder(kind: Kind) -> None:
    translator = make_translator(kind)
    generator = random.Random(0)
    sources = []
    for _ in range(12):
        words = [generator.choice(["{name}", "%s", "<b>", "</b>", "{{ x }}", "$VAR", "{name}", "门", "open", "door"]) for _ in range(4)]
        sources.append(" ".join(words))
    coded = [translator.coder.encode_source(source) for source in sources]
    for beams in (1, 3):
        for one, (beam, _) in zip(coded, translator._search(coded, TranslateOptions(num_beams=beams)), strict=True):
            written = [token for token in beam.tokens if token in translator.coder.placeholders]
            assert sorted(written) == translator.coder.placeholders[: len(one.masked.found)]
            text = translator.coder.decode(beam.tokens, one.masked)
            assert all(text.count(spelled) >= one.masked.found.count(spelled) for spelled in one.masked.found)


def test_many_sources_together_are_translated_as_one_by_one() -> None:
    translator = make_translator()
    sources = [[5, 6, 7, 0], [9, 0], [11, 12, 0]]
    options = SampleOptions(num_beams=3, max_tokens=6, temperature=0.0)
    together = search_sources(translator.model, sources, [6] * 3, options, lambda number, tokens, scores, last: scores)
    for source, beam in zip(sources, together, strict=True):
        [alone] = search_beams(translator.model, [translator.model.separator_id], options, source=source)
        assert beam.tokens == alone.tokens and beam.finish_reason == alone.finish_reason
        assert beam.score == pytest.approx(alone.score, abs=1e-4)


def test_a_long_text_is_cut_at_lines_and_sentences_and_this_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [pair for pair in PAIRS if mask_pair(*pair)]
    translator = make_translator(pairs=pairs, phrases=Phrases.fit([mask_pair(*pair) or ("", "") for pair in pairs]))
    text = "Open the door\n\n" + "Unknown error. " * 20 + "\nSave"
    [result, blank] = translator.translate([text, "  "])
    assert result.text.count("\n") == 3 and result.text.startswith("打开门\n\n") and result.text.endswith("\n保存")
    assert result.note.startswith("cut into") and "1 texts do not fit 32 tokens" in capsys.readouterr().err
    assert blank.text == "  "
    assert translator.translate(["x" * 500])[0].note.startswith("cut into")


def test_the_nearest_example_is_taken_from_the_threshold_on_with_the_sources_placeholders() -> None:
    translator = make_translator(pairs=PAIRS, threshold=0.7)
    [taken] = translator.translate(["Failed to connect to {server}"])
    assert taken.text == "连接到 {server} 失败" and taken.origin == "memory" and taken.nearest is not None
    assert taken.nearest.source == "Failed to connect to {host}"
    [other] = translator.translate(["Failed to connect to"], TranslateOptions(num_beams=1))  # like the example, but it has no placeholder
    assert other.origin == "model" and other.kept


def test_the_directory_translates_evaluates_and_opens_elsewhere(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = made / "out"
    capsys.readouterr()
    assert main(["translate", str(out), "open the door {name}", "", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert sorted(value["results"][0]["text"]) == sorted("打开门{name}") and value["results"][0]["kept"]  # the data has any order
    assert value["results"][1]["text"] == ""
    [result] = myna.load(out).translate("close the window now")
    assert str(result) == result.text and sorted(result.text) == sorted("关闭窗户现在") and result.nearest is not None
    fresh = made / "fresh.csv"
    fresh.write_text("原文,译文\nopen the door,打开门\nclose now,关闭现在\nopen the window the door,打开窗户门\n", encoding="utf-8")
    assert main(["evaluate", str(out), str(fresh), "--task", "translate", "--json", "--resamples", "100"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["bleu"]["signature"].startswith("BLEU|nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp")
    assert value["baseline"]["name"] == "nearest example"
    assert {"copy", "placeholders", "best", "worst"} <= value["details"].keys()
    with pytest.raises(UserError, match="not made to translate"):
        Model(out, object(), myna.load(out).tokenizer).translate("x")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    ours = Translator.open(out).model
    ids = torch.tensor([[5, 6, 7, ours.separator_id]])
    start = torch.tensor([[ours.config.decoder_start_token_id]])
    scored = theirs(input_ids=ids, decoder_input_ids=start).logits.log_softmax(-1)[0, 0].detach().numpy()
    state = ours.start(source=ids.tolist())
    assert np.abs(ours.step([[ours.separator_id]], state)[0] - scored).max() < 1e-4


def test_a_damaged_directory_is_one_line(made: Path, tmp_path: Path) -> None:
    import shutil

    for line in ('["a", "b", "0-99"]\n', '["a"]\n', "{\n", '["a", "b", "x"]\n'):
        broken = tmp_path / str(abs(hash(line)))
        shutil.copytree(made / "out", broken)
        (broken / "memory.jsonl").write_text(line, encoding="utf-8")
        with pytest.raises(UserError, match=r"memory\.jsonl"):
            Translator.open(broken)


def test_scores_stand_beside_the_nearest_example_and_copying() -> None:
    pairs = [Pair("open {a}", "打开{a}"), Pair("close", "关闭"), Pair("save all", "全部保存")]
    results = [Translated(pair.source, text, -0.1, None) for pair, text in zip(pairs, ("打开{a}", "关", "全部保存"), strict=True)]
    measured = measure_translations(pairs, results, ["打开", "关闭", "保存"], EvaluateOptions(resamples=50))
    assert measured.report.metrics["chrf"].value > measured.report.baseline_metrics["chrf"].value
    assert measured.details["placeholders"] == {"sources": 1, "kept": 1, "share": 1.0, "kept_in_references": 1}
    assert measured.details["exact"] == 2 and measured.details["worst"][0]["source"] == "close"
    assert name_words(["打开 WiFi 门窗户"]) == "zh" and name_words(["Öffne die Tür"]) == "13a"
