"""Whisper out of CTranslate2's file into a directory that Myna and `transformers` open: the same numbers under other names.

In `model.bin` queries, keys and values of self-attention are one matrix (keys and values of the attention to the sound another), and
keys have a bias of zeros. Every variable of the file is used, or checked to say what this model computes anyway.

    import_ctranslate2(Path("whisper-tiny-ct2"), Path("whisper-tiny"))
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, nearest
from myna.files import new_directory, read_json, write_atomic, write_json
from myna.formats.ctranslate2 import CTranslate2, open_ctranslate2
from myna.models.encoder_decoder import EncoderDecoderConfig
from myna.models.whisper import Speech
from myna.models.whisper_files import read_speech, write_preprocessor_config, write_speech, write_whisper_config

Array = npt.NDArray[np.float32]

_SAID = {"activation": 3, "pre_norm": 1, "alibi": 0, "scale_embeddings": 0, "start_from_zero_embedding": 0, "layernorm_embedding": 0,
         "multi_query_attention": 0}  # what must be so; 3 is CTranslate2's ActivationType GELU
_UNREAD = ("decoder/alignment_heads", "decoder/alignment_layer")  # heads averaged for word times where config.json names none
_PIECES = {"self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
           "self_attention/linear_1": ("self_attn.out_proj",), "self_attention/layer_norm": ("self_attn_layer_norm",),
           "attention/linear_0": ("encoder_attn.q_proj",), "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
           "attention/linear_2": ("encoder_attn.out_proj",), "attention/layer_norm": ("encoder_attn_layer_norm",),
           "ffn/linear_0": ("fc1",), "ffn/linear_1": ("fc2",), "ffn/layer_norm": ("final_layer_norm",)}
_KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_WHOLE = {"decoder/embeddings/weight": "decoder.embed_tokens.weight"} | {
    f"{side}/position_encodings/encodings": f"{side}.embed_positions.weight" for side in ("encoder", "decoder")} | {
    f"{side}/layer_norm/{kind}": f"{side}.layer_norm.{_KINDS[kind]}" for side in ("encoder", "decoder") for kind in ("gamma", "beta")} | {
    f"encoder/conv{n}/{kind}": f"encoder.conv{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
_FIRST_TIMES = 50  # a first time of at most 1 s, in steps of 0.02 s: the paper's code and every published generation_config.json
_ENGLISH_ONLY = 51864  # ids of the models of English alone; those of several languages have at least one more
_CARD = """---
license: mit
library_name: transformers
pipeline_tag: automatic-speech-recognition
---

# Whisper, from a CTranslate2 file

Speech to text by OpenAI's Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision"), released under
the MIT licence. {layers} layers on each side of width {width}, {weights:,} weights, {vocab:,} ids, {languages}. The weights
were read from a CTranslate2 model of {type} numbers and are written in float32, every value exactly.

    myna transcribe DIRECTORY recording.wav
"""


def import_ctranslate2(folder: Path, out: Path) -> None:
    """Write the Hugging Face directory `out` from a CTranslate2 directory: model.bin, config.json, tokenizer.json.

    Raises UserError when a file is missing or damaged, holds another kind of model, or a variable that has no place.
    """
    from safetensors.numpy import save

    stored = open_ctranslate2(folder / "model.bin")
    if stored.specification != "WhisperSpec":
        raise UserError(f"{folder / 'model.bin'} holds a {stored.specification}", "a WhisperSpec", "only Whisper is read from CTranslate2")
    _check_said(folder / "model.bin", stored)
    tensors = _rename(folder / "model.bin", stored)
    tokens, said = _read_tokens(folder / "tokenizer.json"), read_json(folder / "config.json")
    config = _read_shape(folder / "model.bin", stored, tensors, tokens)
    speech = _read_speech(folder, said, tokens, config.vocab_size)
    held = sum(tensor.size for tensor in tensors.values())
    if config.count_parameters() != held:
        raise UserError(f"{folder / 'model.bin'} holds {held:,} weights", f"{config.count_parameters():,}, as its sizes say")
    ids = {"bos_token_id": None, "eos_token_id": config.eos_token_id, "pad_token_id": config.eos_token_id}
    with new_directory(out) as new:
        write_atomic(new / "model.safetensors", save(tensors, {"format": "pt"}))
        shutil.copyfile(folder / "tokenizer.json", new / "tokenizer.json")
        write_json(new / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
                                                   "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
                                                   "model_max_length": config.max_position_embeddings})
        write_json(new / "config.json", {**write_whisper_config(config), **ids, "dtype": "float32", "torch_dtype": "float32"})
        write_json(new / "generation_config.json", {**ids, "decoder_start_token_id": config.decoder_start_token_id, "do_sample": False,
                                                    "max_length": config.max_position_embeddings, **write_speech(speech)})
        write_json(new / "preprocessor_config.json", write_preprocessor_config(config))
        kind = {0: "float32", 4: "float16", 5: "bfloat16"}[stored.variables["decoder/embeddings/weight"].type]
        languages = f"{len(speech.lang_to_id)} languages" if speech.lang_to_id else "English only"
        (new / "README.md").write_text(_CARD.format(
            layers=config.num_hidden_layers, width=config.hidden_size, weights=held, vocab=config.vocab_size, type=kind,
            languages=languages), encoding="utf-8")


def _check_said(path: Path, stored: CTranslate2) -> None:
    """Hold the file's single numbers against what is computed here; every one of them is looked at."""
    for name, variable in stored.variables.items():
        last = name.rpartition("/")[2]
        if last in _SAID and variable.number() != _SAID[last]:
            raise UserError(f"{name} in {path} is {variable.number()}", f"{_SAID[last]}, the only value computed here")
    if stored.aliases.get("decoder/projection/weight") != "decoder/embeddings/weight":
        raise UserError(f"{path} has a head of its own", "one table for embedding and head, as every Whisper has")


def _rename(path: Path, stored: CTranslate2) -> dict[str, Array]:
    """Read every array under the names of `transformers`; raises UserError on one that has no place."""
    tensors: dict[str, Array] = {}
    for name, variable in stored.variables.items():
        side, _, rest = name.partition("/")
        inside, _, kind = rest.rpartition("/")
        layer, _, sublayer = inside.partition("/")
        if name in _WHOLE:
            tensors["model." + _WHOLE[name]] = variable.read()
        elif layer.startswith("layer_") and sublayer in _PIECES and kind in _KINDS and layer[6:].isdecimal():
            values, parts = variable.read(), _PIECES[sublayer]
            if not values.ndim or len(values) % len(parts):
                raise UserError(f"{name} in {path} has shape {list(values.shape)}", f"{len(parts)} parts of equal size")
            for part, piece in zip(parts, np.split(values, len(parts)), strict=True):
                if part.endswith("k_proj") and kind == "bias":
                    if piece.any():
                        raise UserError(f"{name} in {path} gives keys a bias", "zeros, as every Whisper has")
                    continue
                tensors[f"model.{side}.layers.{int(layer[6:])}.{part}.{_KINDS[kind]}"] = np.ascontiguousarray(piece)
        elif kind not in (*_SAID, "num_heads") and name not in _UNREAD:
            raise UserError(f"{path} holds {name!r}{nearest(name, list(_WHOLE))}", "the variables of a Whisper", "Myna has no place for it")
    return tensors


def _read_tokens(path: Path) -> dict[str, int]:
    """Read the ids of the marks in tokenizer.json."""
    described = read_json(path)
    added = described.get("added_tokens") if isinstance(described, dict) else None
    if not isinstance(added, list) or not all(isinstance(one, dict) and isinstance(one.get("content"), str)
                                              and isinstance(one.get("id"), int) for one in added):
        raise UserError(f"{path} lists no added_tokens", "the tokenizer.json of a Whisper", "restore the file")
    tokens = {one["content"]: one["id"] for one in added}
    for name in ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"):
        if name not in tokens:
            raise UserError(f"{path} has no {name}", "the tokenizer.json of a Whisper", "restore the file")
    return tokens


def _read_shape(path: Path, stored: CTranslate2, tensors: dict[str, Array], tokens: dict[str, int]) -> EncoderDecoderConfig:
    def rows(name: str, dimension: int, axes: int = 2) -> int:
        if name not in tensors or tensors[name].ndim != axes:
            raise UserError(f"{path} lacks {name} of {axes} dimensions", "the variables of a Whisper")
        return int(tensors[name].shape[dimension])

    def layers(side: str) -> int:
        return len({name.split(".")[3] for name in tensors if name.startswith(f"model.{side}.layers.")})

    numbers = {name: variable.number() for name, variable in stored.variables.items() if name.endswith("num_heads")}
    heads = set(numbers.values())
    vocab, width = rows("model.decoder.embed_tokens.weight", 0), rows("model.decoder.embed_tokens.weight", 1)
    try:
        if len(heads) != 1 or min(heads) < 1 or max(tokens.values()) >= vocab:
            raise ValueError(f"{heads} attention heads, {vocab:,} ids")
        return EncoderDecoderConfig(
            vocab_size=vocab, hidden_size=width, num_hidden_layers=layers("encoder"), num_decoder_layers=layers("decoder"),
            num_attention_heads=min(heads), intermediate_size=rows("model.encoder.layers.0.fc1.weight", 0), model_type="whisper",
            max_position_embeddings=rows("model.decoder.embed_positions.weight", 0),
            max_source_positions=rows("model.encoder.embed_positions.weight", 0),
            num_mel_bins=rows("model.encoder.conv1.weight", 1, 3), eos_token_id=tokens["<|endoftext|>"],
            decoder_start_token_id=tokens["<|startoftranscript|>"])
    except ValueError as error:
        raise UserError(f"{path}: {error}", "sizes that go together", "restore the file") from None


def _read_speech(folder: Path, said: Any, tokens: dict[str, int], vocab_size: int) -> Speech:
    """Say in `transformers`' words what CTranslate2's config.json and the tokenizer say of ids."""
    if not isinstance(said, dict):
        raise UserError(f"{folder / 'config.json'} is not an object", "the config.json of a CTranslate2 Whisper")
    languages: dict[str, int] = {}
    if vocab_size > _ENGLISH_ONLY:
        wanted = said.get("lang_ids") or []
        languages = {name: id for name, id in tokens.items() if isinstance(wanted, list) and id in wanted}
    tasks = {name: tokens[f"<|{name}|>"] for name in ("transcribe", "translate") if languages and f"<|{name}|>" in tokens}
    values = {"suppress_tokens": said.get("suppress_ids"), "begin_suppress_tokens": said.get("suppress_ids_begin"),
              "no_timestamps_token_id": tokens["<|notimestamps|>"], "max_initial_timestamp_index": _FIRST_TIMES,
              "prev_sot_token_id": tokens.get("<|startofprev|>"), "lang_to_id": languages, "task_to_id": tasks,
              "alignment_heads": said.get("alignment_heads")}
    return read_speech(folder / "config.json", values, vocab_size)
