"""What a directory says of pooling: every mode by its formula, real and newer spellings, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from myna.errors import UserError
from myna.models.pooling import Pooling, read_pooling

ST = "sentence_transformers.models."
MODULES = [{"idx": number, "name": str(number), "path": path, "type": ST + kind}
           for number, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])]
MODES = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len"}


def write(folder: Path, modules: Any = MODULES, pooling: Any = None, length: Any = None) -> Path:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    given = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True} if pooling is None else pooling
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(given))
    if length is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(length))
    return folder


@pytest.mark.parametrize("written", MODES)
def test_modes_are_read_and_computed(tmp_path: Path, written: str) -> None:
    config = {f"pooling_mode_{name}": name == written for name in (*MODES, "weightedmean_tokens", "lasttoken")}
    pooling = read_pooling(write(tmp_path, MODULES[:2], {**config, "include_prompt": True}))
    assert pooling == Pooling(MODES[written], said=True)  # type: ignore[arg-type]
    hidden = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = {"cls": hidden[:, 0], "mean": hidden.sum(1) / 5, "max": hidden.max(1).values, "mean_sqrt_len": hidden.sum(1) / 5 ** 0.5}
    torch.testing.assert_close(pooling.apply(hidden), expected[pooling.mode])
    torch.testing.assert_close(Pooling(pooling.mode, True).apply(hidden), F.normalize(expected[pooling.mode]))


def test_lengths_case_and_other_spellings(tmp_path: Path) -> None:
    newer = [{**module, "type": "sentence_transformers.x." + module["type"].rsplit(".", 1)[-1]} for module in MODULES]
    length = {"max_seq_length": 9, "do_lower_case": True}
    pooling = read_pooling(write(tmp_path, newer, {"embedding_dimension": 4, "pooling_mode": "cls"}, length))
    assert pooling == Pooling("cls", True, 9, True, True)
    assert "first token, scaled to length 1" in str(pooling)


def test_a_directory_that_says_nothing_gives_the_mean_and_it_is_said(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling("mean")
    assert "says nothing" in str(Pooling())


@pytest.mark.parametrize(("given", "word"), [
    ({"modules": [*MODULES, {"type": ST + "Dense", "path": "3_Dense"}]}, "'Dense'"), ({"modules": MODULES[1:]}, "Pooling"),
    ({"modules": {}}, "no list"), ({"modules": [1]}, "no list"), ({"modules": []}, "[]"),
    ({"modules": [{**MODULES[0], "path": "0_Transformer"}, *MODULES[1:]]}, "path"),
    ({"modules": [MODULES[0], {**MODULES[1], "path": "../../etc"}]}, "../../etc"),
    ({"modules": [MODULES[0], {**MODULES[1], "path": "/etc"}]}, "/etc"),
    ({"modules": [MODULES[0], {**MODULES[1], "path": "none"}]}, "none"),
    ({"pooling": {"pooling_mode_lasttoken": True}}, "lasttoken"), ({"pooling": {}}, "[]"), ({"pooling": []}, "not an object"),
    ({"pooling": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}}, "max_tokens"),
    ({"pooling": {"pooling_mode": "weightedmean"}}, "weightedmean"), ({"length": {"max_seq_length": 10 ** 12}}, "max_seq_length"),
    ({"length": {"max_seq_length": 0}}, "max_seq_length"), ({"length": {"do_lower_case": 3}}, "do_lower_case")], ids=str)
def test_what_is_not_computed_is_refused(tmp_path: Path, given: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as caught:
        read_pooling(write(tmp_path, **given))
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_words_before_every_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": None}))
    assert read_pooling(tmp_path).mode == "mean"
    path.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"}))
    with pytest.raises(UserError, match="default_prompt_name"):
        read_pooling(tmp_path)
