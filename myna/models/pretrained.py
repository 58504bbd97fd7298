"""Model directories: which class reads one, and how a decoder is written so that `transformers` opens it.

The class is chosen by `model_type` in config.json and by nothing else. Weights are safetensors only; a pickle is refused.
Sizes are compared with the file before anything is allocated.

    model = load_model(Path("my-model"))
    model.log_probs([17, 5, 99])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.errors import UserError, nearest
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.protocol import LanguageModel
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from myna.models.decoder import Decoder, DecoderConfig

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
          "max_position_embeddings")
_LARGEST = 1 << 24  # of any one size: far above every published model, far below what would overflow
_LARGEST_TABLE = 1 << 26  # positions x head_dim; Qwen3's longest context, 262,144 positions of 128, is half of it


def load_model(folder: Path) -> LanguageModel:
    """Open a model directory in float32. Raises UserError when it is not one, is damaged, or its tokenizer gives other ids."""
    config = read_config(folder)
    _check_golden(folder)
    match config.get("model_type"):
        case "qwen3":
            return _load_decoder(folder, config)
        case "ngram":
            from myna.models.ngram import Ngram

            return Ngram.open(folder)
        case other:
            raise UserError(f"{folder / 'config.json'} has model_type {_shown(other)}{nearest(str(other)[:60], ['qwen3', 'ngram'])}",
                            "qwen3 or ngram")


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a model directory; refuses what is no directory, and pickles, with the reason."""
    action = "give the directory that `myna build --out` made"
    if not folder.exists():
        raise UserError(f"no such model directory: {folder}", "a directory with config.json and model.safetensors", action)
    if not folder.is_dir():
        why = "a pickle, which can run code, so it is never opened" if folder.suffix in _PICKLES else "a file"
        raise UserError(f"{folder} is {why}", "a directory with config.json and model.safetensors", action)
    if (folder / "plan.json").is_file() and not (folder / "myna.json").is_file():  # which is written last
        raise UserError(f"{folder} holds a build that was not finished", "a model directory",
                        f"go on with myna build --resume --out {folder}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json", "a model directory", action)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles and not any(folder.glob("*.safetensors*")):
        raise UserError(f"{folder} holds its weights in {pickles[0]}, a pickle, which can run code, so it is never opened",
                        "model.safetensors", "convert it where you trust it: model.save_pretrained(..., safe_serialization=True)")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} is not an object", "a Hugging Face config.json", "restore the file")
    return config


def _check_golden(folder: Path) -> None:
    """Hold the tokenizer against the ids it gave when the model was written."""
    if (folder / "myna.json").is_file():
        written = read_json(folder / "myna.json")
        if not isinstance(written, dict) or "golden" not in written:
            raise UserError(f"{folder / 'myna.json'} holds no golden token ids", "what Myna wrote there", "restore the file")
        Tokenizer.open(folder).check_golden(written["golden"], str(folder))


def _load_decoder(folder: Path, config: dict[str, Any]) -> Decoder:
    """Read a Qwen3 directory, whoever wrote it."""
    import torch

    from myna.models.decoder import Decoder

    shape = _decoder_config(folder / "config.json", config)
    stored = {_from_hub(name): tensor for name, tensor in open_weights(folder).items()}
    held = sum(tensor.elements for tensor in stored.values())
    if shape.count_parameters() > held:  # so that what is allocated next is no more than the file gives
        raise UserError(f"{folder} holds {held:,} weights", f"{shape.count_parameters():,}, as its config.json says",
                        "restore the directory")
    model = Decoder(shape)
    wanted = dict(model.named_parameters())
    if shape.tie_word_embeddings:
        stored.pop("lm_head.weight", None)  # some writers store the tied head as well
    missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    if missing or extra:
        said = f"lacks {missing[0]}" if missing else f"has {_shown(extra[0])}, which a qwen3 has not"
        raise UserError(f"{folder} {said}", "the weights of its config.json", "restore the directory")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if stored[name].shape != tuple(parameter.shape):
                raise UserError(f"{name} in {folder} has shape {_shown(list(stored[name].shape))}",
                                f"{list(parameter.shape)}, as config.json says")
            parameter.copy_(torch.from_numpy(stored[name].read()))
    return model.requires_grad_(False).eval()


def _decoder_config(path: Path, config: dict[str, Any]) -> DecoderConfig:
    """Read the shape, and refuse what this decoder would compute otherwise."""
    from myna.models.decoder import DecoderConfig

    fixed = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise UserError(f"{key} in {path} is {_shown(config[key])}", f"{value!r}, the only one Myna computes for qwen3")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"rope_parameters in {path} are {_shown(rope)}", 'rope_type "default"')
    eos = config.get("eos_token_id")
    given = {"head_dim": 128, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, **config,  # transformers' Qwen3Config defaults
             "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
             "eos_token_id": eos[0] if isinstance(eos, list) and eos else eos}
    sizes: dict[str, int] = {}
    for name in _SIZES:
        value = given.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
            raise UserError(f"{name} in {path} is {_shown(value)}", f"a whole number from 1 to {_LARGEST:,}", "restore the file")
        sizes[name] = value
    heads, groups = given["num_attention_heads"], given["num_key_value_heads"]
    if heads % groups or given["head_dim"] % 2:
        raise UserError(f"{heads} heads of {given['head_dim']} over {groups} key-value heads in {path}",
                        "an even width and a whole group size")
    for name in ("rope_theta", "rms_norm_eps"):
        if not isinstance(given[name], (int, float)) or not 0 < given[name] < 1e12:
            raise UserError(f"{name} in {path} is {_shown(given[name])}", "a positive number", "restore the file")
    if sizes["max_position_embeddings"] * sizes["head_dim"] > _LARGEST_TABLE:
        raise UserError(f"max_position_embeddings in {path} is {sizes['max_position_embeddings']:,}",
                        f"at most {_LARGEST_TABLE // sizes['head_dim']:,} for a head_dim of {sizes['head_dim']}", "restore the file")
    separator = given["eos_token_id"]
    if not isinstance(separator, int) or isinstance(separator, bool) or not 0 <= separator < given["vocab_size"]:
        raise UserError(f"eos_token_id in {path} is {_shown(separator)}", "an id of the vocabulary, which separates documents")
    return DecoderConfig(**sizes, rms_norm_eps=float(given["rms_norm_eps"]), rope_theta=float(given["rope_theta"]),
                         tie_word_embeddings=bool(given["tie_word_embeddings"]), eos_token_id=separator)


def _shown(value: object) -> str:
    """Show a value from somebody else's file: short, and without control characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def save_decoder(model: Decoder, folder: Path, pad_token_id: int | None) -> None:
    """Write config.json, generation_config.json and model.safetensors as `transformers` reads a Qwen3; the tokenizer is the caller's."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_to_hub(name): parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    write_atomic(folder / "model.safetensors", save(tensors, {"format": "pt"}))
    c = model.config
    write_json(folder / "config.json", {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **{name: getattr(c, name) for name in _SIZES},
        "hidden_act": "silu", "rms_norm_eps": c.rms_norm_eps, "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "tie_word_embeddings": c.tie_word_embeddings, "use_cache": True, "use_sliding_window": False, "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta}, "rope_theta": c.rope_theta,
        "bos_token_id": None, "eos_token_id": c.eos_token_id, "pad_token_id": pad_token_id, "dtype": "float32", "torch_dtype": "float32"})
    write_json(folder / "generation_config.json", {"bos_token_id": None, "eos_token_id": c.eos_token_id, "pad_token_id": pad_token_id,
                                                   "do_sample": False})


def _to_hub(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _from_hub(name: str) -> str:
    return name.removeprefix("model.")
