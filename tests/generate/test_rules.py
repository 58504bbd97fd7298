"""A directory of pairs: the prompt is its source, its generation_config.json is obeyed, and the text is that of `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.files import write_json
from myna.generate.rules import read_rules

WORDS = ["▁the", "▁bird", "▁talks", "▁to", "▁a", "s", "▁", "t", "h", "e", "b", "i", "r", "d", "a", "l", "k", "o", "▁cat", "▁sings"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of somebody else with a SentencePiece-like tokenizer that ends a source with </s>."""
    folder = tmp_path_factory.mktemp("pairs")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((word, -2.0 - number / 10) for number, word in enumerate(WORDS))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>",
                                                  "unk_token": "<unk>"})
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
                                                feed_forward_proj="relu", decoder_start_token_id=0))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    model.generation_config.no_repeat_ngram_size = 2
    model.generation_config.bad_words_ids = [[2]]
    model.generation_config.update(num_beams=3, max_length=13)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("beams", [1, 3])
def test_a_prompt_is_the_source_and_the_text_is_that_of_transformers(beams: int, pairs: Path) -> None:
    theirs, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(pairs).eval(), AutoTokenizer.from_pretrained(pairs)
    given = tokenizer("the bird talks", return_tensors="pt")
    assert given["input_ids"][0, -1] == 1
    out = theirs.generate(given["input_ids"], attention_mask=given["attention_mask"], num_beams=beams, do_sample=False, max_length=None,
                          max_new_tokens=12)[0]
    got = myna.load(pairs).generate("the bird talks", max_tokens=12, num_beams=beams, **({"temperature": 0.0} if beams == 1 else {}))
    assert got.tokens == out[1:].tolist() and len(set(got.tokens)) > 2
    assert got.text == tokenizer.decode(out, skip_special_tokens=True)


def test_the_command_says_what_is_suggested_and_takes_it_on_request(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(pairs), "the cat", "--max-tokens", "12", "--greedy"]) == 0
    out, said = capsys.readouterr()
    assert "suggests num_beams 3; --use-suggested takes them" in said and not out.startswith("the cat")  # an answer, not a continuation
    assert main(["generate", str(pairs), "the cat", "--use-suggested", "--json"]) == 0
    out, said = capsys.readouterr()
    assert "as generation_config.json suggests: num_beams 3, max_tokens 12" in said
    options = json.loads(out)["options"]
    assert (options["num_beams"], options["max_tokens"]) == (3, 12)


@pytest.mark.parametrize(("written", "source"), [(None, True), ({"golden": {}}, True), ({"lineage": {}}, False),
                                                 ({"lineage": {}, "prompt": "source"}, True)], ids=str)
def test_a_build_continues_and_everything_else_answers(written: dict[str, Any] | None, source: bool, pairs: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((pairs / name).read_bytes())
    if written is not None:
        write_json(tmp_path / "myna.json", written)
    assert read_rules(tmp_path, 23).source == source


@pytest.mark.parametrize(("name", "value"), [("eos_token_id", 23), ("eos_token_id", True), ("bad_words_ids", [3]), ("bad_words_ids", [[]]),
                                             ("suppress_tokens", "x"), ("min_length", -1), ("no_repeat_ngram_size", 1.5),
                                             ("max_new_tokens", [3]), ("forced_bos_token_id", -1)], ids=str)
def test_values_that_cannot_be_are_refused_by_name(name: str, value: Any, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((pairs / "config.json").read_bytes())
    write_json(tmp_path / "generation_config.json", {"eos_token_id": 1, name: value})
    with pytest.raises(UserError, match=name if name != "max_new_tokens" else "max_tokens"):
        read_rules(tmp_path, 23)


def test_when_nothing_may_follow_it_is_said(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((pairs / "config.json").read_bytes())
    write_json(tmp_path / "generation_config.json", {"suppress_tokens": list(range(23))})
    rules = read_rules(tmp_path, 23)
    with pytest.raises(UserError, match="lets no token follow"):
        rules.restrict(torch.zeros(23).numpy(), [0], [], last=False)
