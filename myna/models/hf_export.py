"""A model directory as `transformers` opens it, written from whatever Myna opens: an adapter merged, a GGUF import, a build.

    export_directory(Path("my-adapter"), Path("my-model"), "bfloat16")        # {"directory": "my-model", "bytes": ..., ...}
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from myna import __version__
from myna.errors import UserError
from myna.files import new_directory, read_json, sha256, write_json
from myna.formats.weights import open_weights
from myna.formats.weights_write import Written, write_weights
from myna.models.adapter import find_base, is_adapter, read_adapter
from myna.models.families import family_of
from myna.models.pretrained import load_model, read_config, save_model
from myna.tokenizer.tokenizer import Tokenizer

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # Hugging Face's word and safetensors'
FAMILIES = ("decoder", "encoder", "encoder-decoder")  # those that transformers has
_NOT_THEIRS = ("attention_rnn",)  # an encoder-decoder of ours alone
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_COPIED = ("chat_template.jinja", "generation_config.json", "special_tokens_map.json", "preprocessor_config.json",
           "target_tokenizer.json", "source.spm", "target.spm", "vocab.json", "merges.txt", "README.md")


def find_whole(folder: Path) -> Path:
    """Return the directory that holds config.json and tokenizer of a model: of an adapter without its own, its base's."""
    if is_adapter(folder) and not (folder / "config.json").is_file():
        return find_base(read_adapter(folder))
    return folder


def export_directory(folder: Path, out: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write a model as a new Hugging Face directory, its weights as float32, float16 or bfloat16.

    Returns {directory, bytes, dtype, model_type, parameters, merged}. Raises UserError for a model that `transformers` does not
    know, and when a weight does not fit the type.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}", "one of " + ", ".join(DTYPES))
    whole = find_whole(folder)
    config = read_config(whole)
    kind = str(config.get("model_type"))
    if family_of(kind) not in FAMILIES or kind in _NOT_THEIRS:
        raise UserError(f"{folder} is of type {kind}, which transformers does not know", "a Transformer",
                        "use the directory itself, Myna's own form of it")
    beside = folder if (folder / "tokenizer.json").is_file() else whole
    model, tokenizer = load_model(folder), Tokenizer.open(beside)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with new_directory(out) as made:
        save_model(model, made, tokenizer.pad_id)
        del model
        tokenizer.save(made)
        written = read_json(made / "config.json")
        kept = {name: config[name] for name in _IDS if name in config}
        write_json(made / "config.json", {**written, **kept, "dtype": dtype, "torch_dtype": dtype})
        stored = open_weights(made)
        if dtype != "float32":
            write_weights(made / "model.safetensors", [Written(name, DTYPES[dtype], tensor.shape, tensor.read)
                                                       for name, tensor in stored.items()])
        for name in _COPIED:
            source = next((place / name for place in (folder, whole) if (place / name).is_file()), None)
            if source is not None:
                shutil.copyfile(source, made / name)
        hashes = {path.name: sha256(path) for path in sorted(made.iterdir())}
        weights = next(iter(sorted(folder.glob("*.safetensors"))))
        lineage = {"inputs": [{"path": str(weights), "sha256": sha256(weights), "bytes": weights.stat().st_size}], "argv": sys.argv,
                   "versions": {"myna": __version__}}
        write_json(made / "myna.json", {"format": 1, "version": __version__, "family": family_of(kind), "golden": tokenizer.golden(),
                                        "hashes": hashes, "lineage": lineage, "notes": []})
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"directory": str(out), "bytes": size, "dtype": dtype, "model_type": kind, "parameters": parameters,
            "family": family_of(kind), "merged": is_adapter(folder)}
