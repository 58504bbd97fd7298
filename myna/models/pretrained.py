"""Model directories: which class reads one, and how one is written so that `transformers` opens it.

The class is chosen by `model_type` in config.json and by nothing else. Weights are safetensors only; a pickle is refused.

    model = load_model(Path("my-model"))
    model.log_probs([17, 5, 99])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from myna.console import say
from myna.errors import UserError, nearest, shown
from myna.files import read_json, write_atomic, write_json
from myna.machine import return_memory
from myna.models.adapter import is_adapter, load_adapted
from myna.models.directory import gather_tensors
from myna.models.families import LOADED, family_of
from myna.models.mixture import MIXTURE, open_mixture, read_mixture
from myna.models.precision import precisions_of, set_precision
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import nn

_MOST_CONFIG = 4 << 20  # bytes; the longest published config.json, with a name for each of 21,000 labels, has 2 MB
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")


def load_model(folder: Path, precision: str = "float32") -> Any:
    """Open a model directory: a `LanguageModel`, an encoder or word vectors, as its model_type says.

    precision: float32, or where the model has it bfloat16 or int8 (see precision.py).

    An adapter's directory is opened as its base with the change merged into it.

    Raises UserError when it is not one, is damaged, or its tokenizer gives other ids.
    """
    model = set_precision(_open(folder), precision)
    if precision != "float32":
        return_memory()  # what float32 took
    return model


def _open(folder: Path) -> Any:
    """Open a directory in float32 by its model_type."""
    if is_adapter(folder):
        _check_golden(folder)
        return load_adapted(folder, load_model)
    config = read_config(folder)
    _check_code(folder, config)
    _check_golden(folder)
    match config.get("model_type"):
        case "qwen3" | "qwen2" | "llama" | "mistral" | "gpt2":
            from myna.models.decoder_files import load_decoder

            return load_decoder(folder, config)
        case "bert" | "roberta" | "albert":
            from myna.models.encoder_files import load_encoder

            return load_encoder(folder, config)
        case "t5" | "marian" | "bart":
            from myna.models.encoder_decoder_files import load_encoder_decoder

            return load_encoder_decoder(folder, config)
        case "whisper":
            from myna.models.whisper_files import load_whisper

            return load_whisper(folder, config)
        case "rnn" | "lstm" | "gru":
            from myna.models.recurrent_files import load_recurrent

            return load_recurrent(folder, config)
        case "attention_rnn":
            from myna.models.attention_rnn import open_attention_rnn

            return open_attention_rnn(folder, config)
        case "ngram":
            from myna.models.ngram import Ngram

            return Ngram.open(folder)
        case "unbounded":
            from myna.models.unbounded import Unbounded

            return Unbounded.open(folder)
        case "hmm":
            from myna.models.hmm import Hmm

            return Hmm.open(folder)
        case "vectors":
            from myna.models.vectors import Vectors

            return Vectors.open(folder)
        case other:
            raise UserError(f"{folder / 'config.json'} has model_type {shown(other)}{nearest(str(other)[:60], list(LOADED))}",
                            "one of " + ", ".join(LOADED))


def load_directory(folder: Path, member: str | None = None, precision: str = "float32") -> Any:
    """Open what a directory is used as: its mixture where it has one, or the member of it that is named, "decoder" say.

    precision: as in `load_model`; in a mixture it holds for the members that have it, and one must.

    Raises UserError as `load_model`, and when there is no such member.
    """
    if not (folder / MIXTURE).is_file():
        if member is not None and member != family_of(str(read_config(folder).get("model_type"))):
            raise UserError(f"{folder} has no member {member!r}", "a directory with mixture.json", "leave out --member: it is one model")
        return load_model(folder, precision)
    read_config(folder)
    if member is not None:
        return open_mixture(folder, lambda inside: load_model(inside, precision), member)
    types = {inside: str(read_config(inside).get("model_type")) for _, inside, _ in read_mixture(folder)}
    able = {inside for inside, model_type in types.items() if precision in precisions_of(model_type)}
    if not able:
        raise UserError(f"no member of {folder} computes in {precision}", "float32", "leave out the precision")
    return open_mixture(folder, lambda inside: load_model(inside, precision if inside in able else "float32"))


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
    config = read_json(folder / "config.json", _MOST_CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} is not an object", "a Hugging Face config.json", "restore the file")
    return config


def _check_code(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a model that only its own code could open; where Myna's own does, say that theirs is left alone."""
    if "auto_map" not in config:
        return
    if family_of(str(config.get("model_type"))) is None:
        raise UserError(f"{folder / 'config.json'} has model_type {shown(config.get('model_type'))} and asks by auto_map to run code of "
                        "the directory, which Myna never does", "a model_type that Myna knows", "convert it where you trust it")
    say(f"{folder}: auto_map in config.json names code of the directory, which is not run")


def _check_golden(folder: Path) -> None:
    """Hold the tokenizer against the ids it gave when the model was written."""
    if (folder / "myna.json").is_file():
        written = read_json(folder / "myna.json")
        if not isinstance(written, dict) or "golden" not in written:
            raise UserError(f"{folder / 'myna.json'} holds no golden token ids", "what Myna wrote there", "restore the file")
        Tokenizer.open(folder).check_golden(written["golden"], str(folder))


def save_model(model: nn.Module, folder: Path, pad_token_id: int | None) -> None:
    """Write config.json, generation_config.json and model.safetensors as `transformers` reads them; the tokenizer is the caller's."""
    from safetensors.torch import save

    config: Any = model.config
    speech: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    match config.model_type:
        case "qwen3" | "qwen2" | "llama" | "mistral" | "gpt2":
            from myna.models.decoder_files import decoder_places, write_decoder_config

            written, places = write_decoder_config(config), decoder_places(config)
        case "bert" | "roberta" | "albert":
            from myna.models.encoder_files import encoder_places, write_encoder_config

            written, places = write_encoder_config(config), encoder_places(config)
        case "t5" | "marian" | "bart":
            from myna.models.encoder_decoder_files import encoder_decoder_places, write_encoder_decoder_config

            written, places = write_encoder_decoder_config(config), encoder_decoder_places(config)
        case "whisper":
            from myna.models.whisper_files import whisper_places, write_preprocessor_config, write_speech, write_whisper_config

            written, places, speech = write_whisper_config(config), whisper_places(config), write_speech(cast(Any, model).speech)
            write_json(folder / "preprocessor_config.json", write_preprocessor_config(config))
        case "rnn" | "lstm" | "gru":
            from myna.models.recurrent_files import recurrent_places, write_recurrent_config

            written, places = write_recurrent_config(config), recurrent_places(config)
        case "attention_rnn":
            from myna.models.attention_rnn import attention_rnn_places, write_attention_rnn_config

            written, places = write_attention_rnn_config(config), attention_rnn_places(config)
        case other:
            raise ValueError(f"no way to save a {other}")
    write_atomic(folder / "model.safetensors", save(gather_tensors(model, places), {"format": "pt"}))
    ids = {"bos_token_id": None, "eos_token_id": written.get("eos_token_id", model.separator_id),
           "pad_token_id": written.get("pad_token_id", pad_token_id)}
    write_json(folder / "config.json", {**written, **ids, "dtype": "float32", "torch_dtype": "float32"})
    if any("ForCausalLM" in name or "LMHead" in name or "Generation" in name for name in written["architectures"]):
        ids |= {"decoder_start_token_id": written["decoder_start_token_id"]} if "decoder_start_token_id" in written else {}
        write_json(folder / "generation_config.json", {**ids, "do_sample": False, **speech})
