"""Whisper as a directory that `transformers` reads and writes: config.json, weights, generation_config.json, preprocessor_config.json.

    model = load_whisper(folder, read_json(folder / "config.json"))
    model.speech.suppress_tokens
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from myna.errors import UserError, shown
from myna.files import read_json
from myna.formats.weights import open_weights
from myna.models.directory import Place, choice, fill_model, number, separator, whole
from myna.models.encoder_decoder import EncoderDecoderConfig
from myna.models.encoder_decoder_files import layer_names
from myna.models.encoder_decoder_layers import ACTIVATIONS
from myna.models.whisper import Speech, Whisper

_HEAD = "proj_out.weight"  # the embedding once more, in some files
_HEARD = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160}  # what data/audio.py computes; Radford et al. 2022, section 2.2
_COLUMNS = 100  # of a spectrogram, a second


def load_whisper(folder: Path, config: dict[str, Any]) -> Whisper:
    """Open a directory whose config.json was read; raises UserError as `directory.fill_model` does, and on a head of its own."""
    shape = read_whisper_config(folder / "config.json", config)
    _check_preprocessor(folder / "preprocessor_config.json", shape)
    says = folder / "generation_config.json"
    speech = read_speech(says, read_json(says), shape.vocab_size) if says.is_file() else read_speech(
        folder / "config.json", config, shape.vocab_size)
    make = functools.partial(Whisper, speech=speech)
    model = fill_model(make, shape, folder, whisper_places, _HEAD.__eq__)
    head = open_weights(folder).get(_HEAD)
    if head is not None and not np.array_equal(head.read(), model.shared.weight.numpy()):
        raise UserError(f"{_HEAD} in {folder} is not the embedding", "one table for both")
    return model


def read_whisper_config(path: Path, config: dict[str, Any]) -> EncoderDecoderConfig:
    """Read the shape, and refuse what would be computed otherwise."""
    vocab_size, width = whole(path, config, "vocab_size"), whole(path, config, "d_model")
    heads, inner = whole(path, config, "encoder_attention_heads"), whole(path, config, "encoder_ffn_dim")
    choice(path, config, "decoder_attention_heads", heads)
    choice(path, config, "decoder_ffn_dim", inner)
    choice(path, config, "is_encoder_decoder", True)
    choice(path, config, "tie_word_embeddings", True)
    choice(path, config, "scale_embedding", False)
    try:
        return EncoderDecoderConfig(
            vocab_size=vocab_size, hidden_size=width, num_hidden_layers=whole(path, config, "encoder_layers"),
            num_decoder_layers=whole(path, config, "decoder_layers"), num_attention_heads=heads, head_dim=max(1, width // heads),
            intermediate_size=inner, hidden_act=choice(path, config, "activation_function", "gelu", *ACTIVATIONS),
            max_position_embeddings=whole(path, config, "max_target_positions", default=448), layer_norm_eps=1e-5,
            num_mel_bins=whole(path, config, "num_mel_bins", default=80), dropout=number(path, config, "dropout", 0.0, 0.99, 0.0),
            max_source_positions=whole(path, config, "max_source_positions", default=1500),
            eos_token_id=separator(path, config, vocab_size), model_type="whisper",
            decoder_start_token_id=whole(path, config, "decoder_start_token_id", 0, vocab_size - 1))
    except ValueError as error:
        raise UserError(f"{path}: {error}", "sizes that go together", "restore the file") from None


def _check_preprocessor(path: Path, config: EncoderDecoderConfig) -> None:
    """Refuse a directory whose sounds are to be made into numbers in another way."""
    if path.is_file():
        said = read_json(path)
        if not isinstance(said, dict):
            raise UserError(f"{path} is not an object", "the preprocessor_config.json of a Whisper model")
        for name, value in {**_HEARD, "feature_size": config.num_mel_bins}.items():
            choice(path, said, name, value)


def read_speech(path: Path, said: Any, vocab_size: int) -> Speech:
    """Read what a generation_config.json, or a config.json where there is none, says of ids; every one is checked."""
    if not isinstance(said, dict):
        raise UserError(f"{path} is not an object", "a generation_config.json", "restore the file")

    def fits(value: object, high: int = vocab_size) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < high

    def wrong(name: str) -> UserError:
        return UserError(f"{name} in {path} is {shown(said.get(name))}", f"ids from 0 to {vocab_size - 1}", "restore the file")

    def listed(name: str) -> tuple[int, ...]:
        value = said.get(name) or ()
        if not isinstance(value, list | tuple) or not all(map(fits, value)):
            raise wrong(name)
        return tuple(value)

    def named(name: str) -> dict[str, int]:
        value = said.get(name) or {}
        if not isinstance(value, dict) or not all(map(fits, value.values())):
            raise wrong(name)
        return dict(value)

    def one(name: str) -> int | None:
        value = said.get(name)
        if value is not None and not fits(value):
            raise wrong(name)
        return value

    heads = said.get("alignment_heads") or ()
    if not isinstance(heads, list | tuple) or not all(isinstance(pair, list) and len(pair) == 2 and all(map(fits, pair)) for pair in heads):
        raise wrong("alignment_heads")
    without = one("no_timestamps_token_id")
    return Speech(no_timestamps_token_id=-1 if without is None else without, suppress_tokens=listed("suppress_tokens"),
                  begin_suppress_tokens=listed("begin_suppress_tokens"), max_initial_timestamp_index=one("max_initial_timestamp_index"),
                  prev_sot_token_id=one("prev_sot_token_id"), lang_to_id=named("lang_to_id"), task_to_id=named("task_to_id"),
                  alignment_heads=tuple((pair[0], pair[1]) for pair in heads))


def write_speech(speech: Speech) -> dict[str, Any]:
    """Return what generation_config.json says of ids, in `transformers`' words."""
    one_language = {"is_multilingual": bool(speech.lang_to_id), "return_timestamps": False}
    values: Mapping[str, Any] = {
        "suppress_tokens": list(speech.suppress_tokens), "begin_suppress_tokens": list(speech.begin_suppress_tokens),
        "no_timestamps_token_id": None if speech.no_timestamps_token_id < 0 else speech.no_timestamps_token_id,
        "max_initial_timestamp_index": speech.max_initial_timestamp_index, "prev_sot_token_id": speech.prev_sot_token_id,
        "lang_to_id": speech.lang_to_id, "task_to_id": speech.task_to_id,
        "alignment_heads": [list(pair) for pair in speech.alignment_heads]}
    return {**one_language, **{name: value for name, value in values.items() if value not in (None, [], {})}}


def write_whisper_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Return the config.json of a Whisper as `transformers` reads it."""
    c = config
    sides = {f"{side}_{name}": value for side, layers in (("encoder", c.num_hidden_layers), ("decoder", c.num_decoder_layers))
             for name, value in (("layers", layers), ("attention_heads", c.num_attention_heads), ("ffn_dim", c.intermediate_size),
                                 ("layerdrop", 0.0))}
    return {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "vocab_size": c.vocab_size,
            "d_model": c.hidden_size, **sides, "num_mel_bins": c.num_mel_bins, "max_source_positions": c.max_source_positions,
            "max_target_positions": c.max_position_embeddings, "activation_function": c.hidden_act, "scale_embedding": False,
            "dropout": c.dropout, "attention_dropout": 0.0, "activation_dropout": 0.0, "is_encoder_decoder": True, "use_cache": True,
            "tie_word_embeddings": True, "decoder_start_token_id": c.decoder_start_token_id, "eos_token_id": c.eos_token_id,
            "pad_token_id": c.eos_token_id}


def write_preprocessor_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Return the preprocessor_config.json: how a sound becomes what the model hears."""
    columns = 2 * config.max_source_positions
    return {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor", **_HEARD,
            "feature_size": config.num_mel_bins, "chunk_length": columns // _COLUMNS, "n_samples": columns * _HEARD["hop_length"],
            "nb_max_frames": columns, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": False}


def whisper_places(config: EncoderDecoderConfig) -> dict[str, Place]:
    """Name every parameter's place in the file."""
    table = {"shared.weight": "model.decoder.embed_tokens.weight",
             **{name: place for name, place in layer_names(config).items() if not name.endswith("k_proj.bias")}}
    for kind in ("weight", "bias"):
        table |= {f"{conv}.{kind}": f"model.encoder.{conv}.{kind}" for conv in ("conv1", "conv2")}
        table |= {f"{side}.norm.{kind}": f"model.{side}.layer_norm.{kind}" for side in ("encoder", "decoder")}
    table |= {f"{side}.positions.weight": f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}
    return {ours: Place(theirs) for ours, theirs in table.items()}
