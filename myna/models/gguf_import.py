"""A GGUF file as a model directory that Myna and `transformers` open: weights, sizes, tokenizer, chat template, licence.

Quantised weights become the float32 numbers that ggml computes from them, exactly; F16 and BF16 stay as they are. A tensor at a
time, so memory holds about twice the largest. What the file holds and this decoder would compute otherwise is refused.

    import_gguf(Path("model.gguf"), Path("my-model"))      # {"architecture": "llama", "types": {"Q4_1": 210, ...}, ...}
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna import __version__
from myna.errors import UserError, shown
from myna.files import new_directory, sha256, write_atomic, write_json
from myna.formats.gguf_read import GGUF, GGUFTensor, open_gguf
from myna.formats.weights_write import Written, write_weights
from myna.models.decoder import DecoderConfig
from myna.models.decoder_files import read_decoder_config, write_decoder_config
from myna.models.gguf_names import PLAIN, ROPE_FACTORS, Weight, list_weights, read_sizes
from myna.tokenizer.convert import from_gguf
from myna.tokenizer.tokenizer import Tokenizer

_BUFFERS = (".attn_rot_embd",)  # frequencies that old files hold and nothing reads
_KEPT = ("F16", "BF16")  # types that safetensors has too
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")  # SPDX's characters: what the front matter of a card can hold as it is
_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def import_gguf(path: Path, out: Path) -> dict[str, Any]:
    """Write the model of a GGUF file as a new model directory, whole or not at all.

    Returns {architecture, parameters, types, dropped, licence, name, vocab_size, context}: types counts the tensors of each
    type, dropped lists what was not taken over. Raises UserError when the file is damaged, or is not one that this decoder
    computes.
    """
    file = open_gguf(path)
    config = read_sizes(file)
    dropped = _check_tensors(file, config)
    context = file.metadata[f"{file.metadata['general.architecture']}.context_length"]
    if context > config.max_position_embeddings:
        dropped.append(f"the context beyond {config.max_position_embeddings:,} of {context:,} tokens, where its layers slide")
    tokenizer = _read_tokenizer(file)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{path} has {tokenizer.vocab_size:,} tokens and {config.vocab_size:,} embeddings", "an embedding for each token",
                        "get it again")
    info = {"architecture": str(file.metadata["general.architecture"]), "version": file.version, "parameters": config.count_parameters(),
            "types": file.count_types(), "dropped": dropped, "licence": _text(file, "general.license"),
            "name": _text(file, "general.name") or path.stem, "vocab_size": config.vocab_size, "context": config.max_position_embeddings}
    with new_directory(out) as folder:
        _write(folder, file, config, tokenizer)
        write_atomic(folder / "README.md", _card(info, path))
        hashes = {found.name: sha256(found) for found in sorted(folder.iterdir())}
        lineage = {"inputs": [{"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size}], "argv": sys.argv,
                   "versions": {"myna": __version__, "numpy": np.__version__}, "gguf": info}
        write_json(folder / "myna.json", {"format": 1, "version": __version__, "family": "decoder", "golden": tokenizer.golden(),
                                          "hashes": hashes, "lineage": lineage, "notes": []})
    return info


def _read_tokenizer(file: GGUF) -> Tokenizer:
    text, settings = from_gguf(file.metadata)
    if file.metadata.get(PLAIN) is True:  # a pattern's name alone says that a Qwen2 composes characters (NFC); our own files say it apart
        text = json.dumps({**json.loads(text), "normalizer": None}, ensure_ascii=False)
    return Tokenizer(text, settings, str(file.path))


def _check_tensors(file: GGUF, config: DecoderConfig) -> list[str]:
    """Hold the file's tensors against those of its sizes; returns the names of what is left out."""
    held = sum(tensor.elements for tensor in file.tensors.values())
    if config.count_parameters() > held:  # before a list of that many names is made
        raise UserError(f"{file.path} holds {held:,} weights", f"{config.count_parameters():,}, as its sizes say", "get it again")
    wanted = {weight.gguf: weight.gguf_shape for weight in list_weights(config)}
    dropped = [name for name in file.tensors if any(part in name for part in _BUFFERS)]
    rest = file.tensors.keys() - wanted.keys() - set(dropped) - ({ROPE_FACTORS} if config.model_type != "gpt2" else set())
    missing = sorted(wanted.keys() - file.tensors.keys())
    if missing or rest:
        said = f"lacks {missing[0]}" if missing else f"has {shown(min(rest))}, which a {config.model_type} does not"
        raise UserError(f"{file.path} {said}", "the tensors of its architecture", "get it again")
    for name, shape in wanted.items():
        found = file.tensors[name].shape
        if found != shape:
            raise UserError(f"{name} in {file.path} is {list(found)}", f"{list(shape)}, as its sizes say", "get it again")
    return dropped


def _write(folder: Path, file: GGUF, config: DecoderConfig, tokenizer: Tokenizer) -> None:
    metadata, V = file.metadata, config.vocab_size
    ids: dict[str, Any] = {}
    for name, word in _IDS.items():
        id = metadata.get(f"tokenizer.ggml.{word}_token_id")
        ids[name] = id if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < V else None
    described = {**write_decoder_config(config), **ids, "dtype": "float32", "torch_dtype": "float32"}
    read_decoder_config(folder / "config.json", described)  # what is written must open
    write_json(folder / "config.json", described)
    turn = metadata.get("tokenizer.ggml.eot_token_id")  # ends a turn where that is another token than the end of a text
    ends = [id for id in dict.fromkeys((ids["eos_token_id"], turn)) if isinstance(id, int) and 0 <= id < V]
    ids["eos_token_id"] = ends if len(ends) > 1 else ids["eos_token_id"]
    write_json(folder / "generation_config.json", {**ids, "do_sample": False})
    tokenizer.save(folder, config.max_position_embeddings)
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        write_atomic(folder / "chat_template.jinja", template)
    stored = [(weight, file.tensors[weight.gguf]) for weight in list_weights(config)]
    write_weights(folder / "model.safetensors", [
        Written(weight.name, tensor.dtype if tensor.dtype in _KEPT else "F32", weight.shape, partial(_read, weight, tensor))
        for weight, tensor in stored])


def _read(weight: Weight, tensor: GGUFTensor) -> npt.NDArray[np.float32]:
    values = tensor.read()
    if not np.isfinite(values).all():
        raise UserError(f"{tensor.name} in {tensor.path} holds a number that is not finite", "finite weights", "get the file again")
    return weight.from_gguf(values)


def _text(file: GGUF, key: str) -> str:
    value = file.metadata.get(key)
    return value if isinstance(value, str) else ""


def _card(info: dict[str, Any], path: Path) -> str:
    licence = info["licence"]
    front = f"---\nlicense: {licence}\n---\n" if _LICENCE.fullmatch(licence) else ""
    types = ", ".join(f"{count} of {kind}" for kind, count in info["types"].items())
    said = f"Licence, as the file says: {_code(licence)}." if licence else "The file names no licence: ask whoever published it."
    return (f"{front}# {_code(info['name'])}\n\nRead from the GGUF file {_code(path.name)} by Myna {__version__}: a "
            f"{info['architecture']} model of {info['parameters']:,} weights, {info['vocab_size']:,} tokens, a context of "
            f"{info['context']:,} tokens.\n\n{said}\n\nThe file's tensors: {types}. Quantised ones are written as the numbers that they "
            "stand for.\n")


def _code(text: str) -> str:
    """Show somebody else's text in a card: one line, no markup."""
    return "`" + json.dumps(text, ensure_ascii=False)[1:-1].replace("`", "'")[:200] + "`"
