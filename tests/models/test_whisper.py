"""Whisper against `transformers`: logits, cache, greedy and beam texts, files in both directions, the import from CTranslate2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationMixin, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from myna.errors import UserError
from myna.files import write_json
from myna.generate.beam import search_beams
from myna.generate.options import SampleOptions
from myna.generate.sample import sample_tokens
from myna.models.pretrained import load_model, save_model
from myna.models.whisper import Whisper
from myna.models.whisper_import import import_ctranslate2
from tests.formats.test_ctranslate2 import model_bytes

V, START, END, WITHOUT = 71, 60, 59, 62  # the ids from 63 on are times
SHAPE: dict[str, Any] = {"vocab_size": V, "d_model": 24, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 3,
                         "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "num_mel_bins": 10,
                         "max_source_positions": 30, "max_target_positions": 80, "decoder_start_token_id": START, "eos_token_id": END,
                         "bos_token_id": END, "pad_token_id": END, "begin_suppress_tokens": None}
SAID = {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3, END], "no_timestamps_token_id": WITHOUT, "max_initial_timestamp_index": 5,
        "alignment_heads": [[1, 0]], "is_multilingual": False, "prev_sot_token_id": 61}


def make_theirs(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**SHAPE, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand(parameter.shape) + (0.5 if name.endswith("weight") else -0.5))
            else:
                parameter.normal_(0, 2.0 if "embed_positions" in name else 0.4 if "embed" in name else 1.3 / parameter[0].numel() ** 0.5)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("theirs")
    make_theirs().save_pretrained(out)
    said = json.loads((out / "generation_config.json").read_text())
    write_json(out / "generation_config.json", said | SAID)
    return out


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Any, Whisper]:
    mine = load_model(folder)
    assert isinstance(mine, Whisper)
    return make_theirs(), mine


def sounds(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (rows, 10, 60)).astype(np.float32)


def their_log_probs(theirs: Any, sound: np.ndarray, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = theirs(input_features=torch.tensor(sound[None]), decoder_input_ids=torch.tensor([ids])).logits[0]
    assert logits.std() > 0.3  # or the test would show nothing
    return logits.log_softmax(-1).numpy()


def test_logits_are_those_of_transformers_in_any_steps(pair: tuple[Any, Whisper]) -> None:
    theirs, mine = pair
    heard = sounds(2)
    texts = [[START, 5, 6, 7, 8, 9, 10], [START, 50, 40, 30, 20]]
    expected = [their_log_probs(theirs, sound, text) for sound, text in zip(heard, texts, strict=True)]
    state = mine.start(2, heard)
    got = mine.step(texts, state, last=False)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(got[row, : len(text)], expected[row], atol=1e-4)
    state.truncate([3, 2])
    state.select([1, 0, 1])
    again = mine.step([texts[1][2:], texts[0][3:], texts[1][2:3]], state)
    for row, wanted in enumerate((expected[1][4], expected[0][6], expected[1][2])):
        np.testing.assert_allclose(again[row], wanted, atol=1e-4)
    np.testing.assert_allclose(mine.log_probs(texts[0][1:], heard[0]), expected[0][np.arange(6), texts[0][1:]], atol=1e-4)
    one = mine.start(3, heard[0])  # one sound for all rows
    np.testing.assert_allclose(mine.step([texts[0]] * 3, one), [expected[0][-1]] * 3, atol=1e-4)


class Hearing:
    """A model with its sound, as the sampler and the beams take one."""

    def __init__(self, model: Whisper, sound: np.ndarray) -> None:
        self.model, self.sound = model, sound
        self.vocab_size, self.max_length, self.separator_id = model.vocab_size, model.max_length, model.separator_id
        self.step, self.log_probs = model.step, model.log_probs

    def start(self, rows: int = 1, source: None = None) -> Any:
        return self.model.start(rows, self.sound)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_and_beam_texts_are_those_of_transformers(seed: int, pair: tuple[Any, Whisper]) -> None:
    theirs, mine = pair
    sound = sounds(1, seed)[0]
    for beams in (1, 3):
        theirs.generation_config.update(eos_token_id=END, pad_token_id=END, decoder_start_token_id=START)
        # not Whisper's own generate, which adds marks of tasks and times
        expected = GenerationMixin.generate(theirs, torch.tensor(sound[None]), max_new_tokens=64, num_beams=beams, do_sample=False,
                                            decoder_input_ids=torch.tensor([[START]]))[0, 1:].tolist()
        if beams == 1:
            got = [drawn.token for drawn in sample_tokens(Hearing(mine, sound), [START], SampleOptions(max_tokens=64, temperature=0.0))]
        else:
            got = search_beams(Hearing(mine, sound), [START], SampleOptions(max_tokens=64, num_beams=beams))[0].tokens
        assert got == expected[: len(got)] and set(expected[len(got) :]) <= {END}
        assert len(set(got)) > 3


def test_what_is_saved_here_opens_there_and_again_here(pair: tuple[Any, Whisper], folder: Path, tmp_path: Path) -> None:
    theirs, mine = pair
    save_model(mine, tmp_path, None)
    written, original = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert written.keys() == original.keys() - {"proj_out.weight"}
    assert all(torch.equal(written[name], original[name]) for name in written)
    reopened = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    text = [START, 5, 6, 7]
    np.testing.assert_allclose(their_log_probs(reopened, sounds(1)[0], text), their_log_probs(theirs, sounds(1)[0], text), atol=1e-5)
    assert reopened.generation_config.suppress_tokens == [1, 2] and reopened.generation_config.no_timestamps_token_id == WITHOUT
    assert load_model(tmp_path).speech == mine.speech and mine.speech.begin_suppress_tokens == (3, END)
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.feature_size, extractor.hop_length, extractor.n_fft) == (10, 160, 400)


def test_shards_and_a_head_stored_twice_open(pair: tuple[Any, Whisper], folder: Path, tmp_path: Path) -> None:
    theirs, mine = pair
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    sound, text = sounds(1)[0], [[START, 5]]
    expected = mine.step(text, mine.start(1, sound))
    np.testing.assert_allclose(load_model(tmp_path / "shards").step(text, mine.start(1, sound)), expected, atol=1e-5)
    shutil.copytree(folder, tmp_path / "twice")
    stored = load_file(folder / "model.safetensors")
    head = {"proj_out.weight": stored["model.decoder.embed_tokens.weight"].clone()}
    save_file(stored | head, tmp_path / "twice" / "model.safetensors")
    load_model(tmp_path / "twice")
    head["proj_out.weight"][0, 0] += 1
    save_file(stored | head, tmp_path / "twice" / "model.safetensors")
    with pytest.raises(UserError, match="is not the embedding"):
        load_model(tmp_path / "twice")


def test_it_computes_in_bfloat16(pair: tuple[Any, Whisper], folder: Path) -> None:
    half, full = load_model(folder, "bfloat16"), pair[1]
    text, sound = [[START, 5, 6, 7]], sounds(1)[0]
    got, expected = half.step(text, half.start(1, sound)), full.step(text, full.start(1, sound))
    assert got.dtype == np.float32 and 0 < np.abs(got - expected).mean() < 0.1


@pytest.mark.parametrize(("name", "values", "said"), [
    ("config.json", {"scale_embedding": True}, "scale_embedding"), ("config.json", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("config.json", {"decoder_attention_heads": 2}, "decoder_attention_heads"), ("config.json", {"d_model": 48}, "holds|shape"),
    ("config.json", {"num_mel_bins": 10**9}, "num_mel_bins"), ("config.json", {"encoder_attention_heads": 5}, "heads"),
    ("config.json", {"max_source_positions": 1 << 24}, "weights, as its config.json says|holds"),
    ("generation_config.json", {"suppress_tokens": [V]}, "suppress_tokens"),
    ("generation_config.json", {"lang_to_id": {"<|en|>": -1}}, "lang_to_id"),
    ("generation_config.json", {"no_timestamps_token_id": "x"}, "no_timestamps_token_id"),
    ("generation_config.json", {"alignment_heads": [[1]]}, "alignment_heads"),
], ids=str)
def test_a_directory_that_says_otherwise_is_refused(name: str, values: dict[str, Any], said: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    write_json(tmp_path / "m" / name, json.loads((folder / name).read_text()) | values)
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / "m")


def test_another_way_to_hear_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    write_json(tmp_path / "m" / "preprocessor_config.json", {"hop_length": 80, "feature_size": 10})
    with pytest.raises(UserError, match="hop_length"):
        load_model(tmp_path / "m")


def test_a_source_that_does_not_fit_is_refused(pair: tuple[Any, Whisper]) -> None:
    mine = pair[1]
    for wrong in (np.zeros((9, 60)), np.zeros((10, 61)), np.zeros((10, 0)), np.zeros((2, 10, 60)), np.zeros(60)):
        with pytest.raises(ValueError, match="a source of"):
            mine.start(3, wrong.astype(np.float32))
    with pytest.raises(UserError, match="myna transcribe"):
        mine.start()


# ---- CTranslate2 ----

def as_ctranslate2(folder: Path, model: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What CTranslate2's converter makes of a model: fused matrices, keys with a bias of zeros, single numbers beside."""
    got = {name.removeprefix("model."): values.numpy().astype(np.float16) for name, values in model.state_dict().items()}
    out: dict[str, Any] = {"decoder/embeddings/weight": got["decoder.embed_tokens.weight"]}
    for side, layers in (("encoder", 3), ("decoder", 2)):
        out[f"{side}/num_heads"], out[f"{side}/position_encodings/encodings"] = np.int16(3), got[f"{side}.embed_positions.weight"]
        norms = [("layer_norm", "layer_norm")]
        for layer in range(layers):
            at, theirs = f"{side}/layer_{layer}", f"{side}.layers.{layer}"
            norms += [(f"layer_{layer}/{ours}", f"layers.{layer}.{name}") for ours, name in (
                ("self_attention/layer_norm", "self_attn_layer_norm"), ("ffn/layer_norm", "final_layer_norm"),
                *([("attention/layer_norm", "encoder_attn_layer_norm")] if side == "decoder" else []))]
            blocks = [("self_attention", "self_attn", ("qkv", "o"))]
            blocks += [("attention", "encoder_attn", ("q", "kv", "o"))] if side == "decoder" else []
            for ours, name, matrices in blocks:
                for number, letters in enumerate(matrices):
                    parts = [f"{theirs}.{name}.{'out' if letter == 'o' else letter}_proj" for letter in letters]
                    out[f"{at}/{ours}/linear_{number}/weight"] = np.concatenate([got[f"{part}.weight"] for part in parts])
                    out[f"{at}/{ours}/linear_{number}/bias"] = np.concatenate([got.get(f"{part}.bias", np.zeros(24, np.float16))
                                                                               for part in parts])
            for number in (0, 1):
                for kind in ("weight", "bias"):
                    out[f"{at}/ffn/linear_{number}/{kind}"] = got[f"{theirs}.fc{number + 1}.{kind}"]
        for ours, name in norms:
            out[f"{side}/{ours}/gamma"], out[f"{side}/{ours}/beta"] = got[f"{side}.{name}.weight"], got[f"{side}.{name}.bias"]
    for conv in ("conv1", "conv2"):
        out |= {f"encoder/{conv}/{kind}": got[f"encoder.{conv}.{kind}"] for kind in ("weight", "bias")}
    out |= {"decoder/activation": np.int8(3), "decoder/pre_norm": np.int8(1), "decoder/alibi": np.int8(0),
            "decoder/scale_embeddings": np.int8(0), "decoder/start_from_zero_embedding": np.int8(0),
            "decoder/alignment_heads": np.int16(1), "decoder/alignment_layer": np.int16(-1)}
    return out, {"decoder/projection/weight": "decoder/embeddings/weight"}


def write_ctranslate2(folder: Path, variables: dict[str, Any], aliases: dict[str, str]) -> Path:
    folder.mkdir()
    (folder / "model.bin").write_bytes(model_bytes(variables, aliases))
    marks = {"<|endoftext|>": END, "<|startoftranscript|>": START, "<|startofprev|>": 61, "<|notimestamps|>": WITHOUT}
    write_json(folder / "tokenizer.json", {"added_tokens": [{"content": name, "id": id} for name, id in marks.items()]})
    write_json(folder / "config.json", {"suppress_ids": [1, 2], "suppress_ids_begin": [3, END], "alignment_heads": [[1, 0]],
                                        "lang_ids": [60]})
    return folder


def test_what_is_imported_opens_here_and_there(tmp_path: Path) -> None:
    theirs = make_theirs().half().float()
    import_ctranslate2(write_ctranslate2(tmp_path / "in", *as_ctranslate2(tmp_path, theirs)), tmp_path / "out")
    mine, reopened = load_model(tmp_path / "out"), WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    for name, values in theirs.state_dict().items():
        assert torch.equal(values, reopened.state_dict()[name]), name
    sound, text = sounds(1)[0], [START, 5, 6]
    np.testing.assert_allclose(mine.step([text], mine.start(1, sound)), their_log_probs(theirs, sound, text)[-1:], atol=1e-4)
    assert mine.speech.suppress_tokens == (1, 2) and mine.speech.no_timestamps_token_id == WITHOUT and not mine.speech.lang_to_id
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("change", "said"), [
    ({"decoder/activation": np.int8(0)}, "activation"), ({"decoder/more/weight": np.zeros(3, np.float16)}, "Myna has no place for it"),
    ({"encoder/num_heads": np.int16(4)}, "attention heads"), ({"encoder/conv1/weight": np.zeros((24, 10), np.float16)}, "3 dimensions"),
    ({"decoder/layer_0/attention/linear_1/bias": np.ones(48, np.float16)}, "a bias"),
    ({"encoder/layer_0/self_attention/linear_0/weight": np.zeros((71, 24), np.float16)}, "3 parts"),
    ({"encoder/layer_0/ffn/linear_1/weight": np.zeros((3, 3), np.float16)}, "weights"),
    ({"encoder/layer_0/ffn/linear_1/weight": np.zeros((24, 40), np.int8)}, "without quantization"),
    ({"encoder/layer_9/ffn/linear_1/weight": np.zeros((24, 40), np.float16)}, "weights"),
], ids=str)
def test_a_ctranslate2_model_that_is_another_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    variables, aliases = as_ctranslate2(tmp_path, make_theirs())
    with pytest.raises(UserError, match=said):
        import_ctranslate2(write_ctranslate2(tmp_path / "in", variables | change, aliases), tmp_path / "out")
    assert not (tmp_path / "out").exists()
