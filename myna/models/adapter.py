"""Adapters as directories that `peft` reads and writes: a change of low rank to some matrices of a model that lies elsewhere.

`adapter_config.json` names the base and the matrices, `adapter_model.safetensors` holds two small ones for each. Format: peft's
`LoraConfig` and `get_peft_model_state_dict` (0.21). Ours also say in the file's metadata which weights the base had (SHA-256), and
another base is refused: a change to one model is noise in another. What Myna does not compute is refused by name.

    model = load_adapted(Path("my-adapter"), load_model)        # the base with the change merged into it
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.console import say
from myna.errors import UserError, nearest, shown
from myna.fetch import MODELS, default_folder
from myna.files import read_json, sha256, write_atomic, write_json
from myna.formats.weights import StoredTensor, list_tensors, open_weights, read_metadata
from myna.models.directory import choice, number, whole
from myna.models.fetched import resolve_model

if TYPE_CHECKING:
    from torch import nn

    from myna.models.layers import Linear

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EVERY = "all-linear"  # peft's word for every matrix but the head
_ROOT, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_LARGEST_RANK = 4096
_HASH, _NAME = "base_sha256", "base_name"
_DECODERS = ("qwen3", "qwen2", "llama", "mistral", "gpt2")
# what does not change what is computed from the matrices in the file
_PASSED = {"alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode",
           "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
           "target_modules", "task_type", "use_rslora", "bias", "init_lora_weights", "ensure_weight_tying", "runtime_config"}


@dataclass(frozen=True)
class Adapter:
    """What an adapter's directory says, its matrices not yet read."""

    folder: Path
    base: str
    "Where the base was, as peft wrote it: a path or a name."
    base_sha256: str
    "Of the base's weights; empty where another tool wrote the adapter."
    base_name: str
    "The base's name in the catalogue; empty where it has none."
    rank: int
    scale: float
    pairs: dict[str, tuple[StoredTensor, StoredTensor]]
    "Module of the base: A (r, in) and B (out, r)."

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(down.elements + up.elements for down, up in self.pairs.values())

    @property
    def targets(self) -> list[str]:
        """The kinds of matrices that it changes, as "q_proj"."""
        return sorted({module.rsplit(".", 1)[-1] for module in self.pairs})


def is_adapter(folder: Path) -> bool:
    """Tell whether a directory is opened as an adapter; like `transformers`, before a config.json beside it is looked at."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read what an adapter says of itself. Raises UserError on what is damaged, or would be computed otherwise."""
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not an object", "peft's adapter_config.json", "restore the file")
    choice(path, config, "peft_type", "LORA")
    choice(path, config, "bias", "none")
    choice(path, config, "init_lora_weights", True, False, "gaussian")  # others change the base's own weights
    for name, value in config.items():
        if value not in (None, False, [], {}) and name not in _PASSED:
            raise UserError(f"{shown(name)} in {path} is {shown(value)}", "none of it, as Myna does not compute it", "merge it with peft")
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            raise UserError(f"{name} in {path} is {shown(config[name])}", "one r and one lora_alpha for all", "merge it with peft")
    rank, alpha = whole(path, config, "r", high=_LARGEST_RANK), number(path, config, "lora_alpha", low=-1e6, high=1e6)
    spread = math.sqrt(rank) if choice(path, config, "use_rslora", False, True) else rank  # rsLoRA: Kalajdzievski 2023
    base = config.get("base_model_name_or_path")
    if base is not None and (not isinstance(base, str) or "\0" in base):
        raise UserError(f"base_model_name_or_path in {path} is {shown(base)}", "the base's path or name", "restore the file")
    pairs = dict(_pair(folder / WEIGHTS, list_tensors(folder / WEIGHTS), rank))
    metadata = read_metadata(folder / WEIGHTS)
    _check_targets(path, config.get("target_modules"), pairs)
    return Adapter(folder, base or "", metadata.get(_HASH, ""), metadata.get(_NAME, ""), rank, alpha / spread, pairs)


def _pair(path: Path, tensors: dict[str, StoredTensor], rank: int) -> Iterator[tuple[str, tuple[StoredTensor, StoredTensor]]]:
    """Yield the two matrices of every module, their ranks checked."""
    for name, down in tensors.items():
        module = name.removeprefix(_ROOT).removesuffix(_DOWN).removesuffix(_UP)
        if name not in (_ROOT + module + _DOWN, _ROOT + module + _UP):
            raise UserError(f"{path} has {shown(name)}", f"names as {_ROOT}MODULE{_DOWN}", "merge it with peft")
        missing = next((end for end in (_DOWN, _UP) if _ROOT + module + end not in tensors), None)
        if missing is not None:
            raise UserError(f"{path} lacks {shown(_ROOT + module + missing)}", "an A and a B for every module", "restore the file")
        if name.endswith(_UP):
            continue
        up = tensors[_ROOT + module + _UP]
        for tensor, side in ((down, 0), (up, 1)):
            if len(tensor.shape) != 2 or tensor.shape[side] != rank:
                raise UserError(f"{shown(module)} in {path} has a matrix of shape {shown(list(tensor.shape))}",
                                f"rank {rank}, as {CONFIG} says", "restore the file")
        yield module, (down, up)


def _check_targets(path: Path, targets: Any, pairs: dict[str, Any]) -> None:
    """Hold the names that adapter_config.json gives against the matrices that are there."""
    if targets == EVERY and pairs:
        return
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise UserError(f"target_modules in {path} are {shown(targets)}", "a list of names", "restore the file")
    for target in targets:
        if not any(_matches(module, target) for module in pairs):
            raise UserError(f"target_modules in {path} has {shown(target)}", f"what {WEIGHTS} holds", "restore the file")
    for module in pairs:
        if not any(_matches(module, target) for target in targets):
            raise UserError(f"{path.parent / WEIGHTS} holds {shown(module)}", f"the target_modules of {CONFIG} alone", "restore the file")


def _matches(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


# ---- the base ----

def find_base(adapter: Adapter) -> Path:
    """Find the base's directory: the path as it is written, from the adapter's folder, or a fetched model of its name.

    Raises UserError that says where it was when it is gone.
    """
    places = [Path(adapter.base), adapter.folder / adapter.base] if adapter.base else []
    for place in places:
        if os.path.isfile(place / "config.json"):  # noqa: PTH113 (never raises, whatever the name)
            return place
    for name in (adapter.base_name, adapter.base):
        if name in MODELS:
            return resolve_model(name)  # which says how to fetch it
    raise UserError(f"{adapter.folder} is an adapter of {shown(adapter.base) if adapter.base else 'a model it does not name'}, "
                    "which is not there", "its base as a model directory",
                    f"put the base there, or write where it is as base_model_name_or_path in {CONFIG}")


def holder_of(folder: Path, name: str) -> Path:
    """Return the directory to read a file such as tokenizer.json from: an adapter's base where the adapter has none of its own."""
    return find_base(read_adapter(folder)) if is_adapter(folder) and not (folder / name).is_file() else folder


def hash_weights(folder: Path) -> str:
    """Return the SHA-256 of a model's weights: of model.safetensors, or of its parts' hashes and names as `sha256sum` prints them."""
    paths = sorted({tensor.path for tensor in open_weights(folder).values()})
    if len(paths) == 1:
        return sha256(paths[0])
    return hashlib.sha256("".join(f"{sha256(path)}  {path.name}\n" for path in paths).encode()).hexdigest()


def load_adapted(folder: Path, load: Callable[[Path], Any]) -> Any:
    """Open an adapter's base with `load`, in float32, and merge the change into it.

    Raises UserError when the base is gone or is another one.
    """
    adapter = read_adapter(folder)
    base = find_base(adapter)
    if is_adapter(base):
        raise UserError(f"the base of {folder} is {base}, an adapter itself", "a whole model", "merge the base first")
    model = load(base)
    put_adapter(model, adapter, base)
    merge_lora(model)
    return model


# ---- in the model ----

def find_modules(model: nn.Module) -> dict[str, list[Linear]]:
    """List the matrices that can be changed by their names in `transformers`; GPT-2's `c_attn` is three of ours.

    Raises UserError for a model that is no decoder.
    """
    from myna.models.decoder_files import decoder_places
    from myna.models.layers import Linear

    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in _DECODERS:
        raise UserError(f"LoRA on a {type(model).__name__}", "a Transformer decoder (" + ", ".join(_DECODERS) + ")", "choose another base")
    found: dict[str, dict[int, Linear]] = {}
    for name, place in decoder_places(config).items():
        layer = model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, Linear) and name.startswith("layers.") and name.endswith(".weight"):
            found.setdefault(place.name.removesuffix(".weight"), {})[place.part] = layer
    return {name: [parts[part] for part in sorted(parts)] for name, parts in found.items()}


def choose_modules(model: nn.Module, targets: tuple[str, ...]) -> dict[str, list[Linear]]:
    """Choose matrices as peft does, by the ends of their names, or all. Raises UserError on a name that is none."""
    modules = find_modules(model)
    if targets == (EVERY,):
        return modules
    kinds = sorted({name.rsplit(".", 1)[-1] for name in modules})
    for target in targets:
        if not any(_matches(name, target) for name in modules):
            raise UserError(f"no matrix to adapt is called {shown(target)}{nearest(target, kinds)}",
                            f"{EVERY}, or some of " + ", ".join(kinds))
    if not targets:
        raise UserError("no matrix to adapt is named", f"{EVERY}, or some of " + ", ".join(kinds))
    return {name: layers for name, layers in modules.items() if any(_matches(name, target) for target in targets)}


def put_adapter(model: nn.Module, adapter: Adapter, base: Path) -> None:
    """Put an adapter's change beside the matrices of its base, which was loaded from `base`.

    Raises UserError when the base has other weights than the adapter was trained on, or none of that name or shape.
    """
    import torch

    from myna.models.low_rank import LowRank

    if not adapter.base_sha256:
        say(f"{adapter.folder} does not say which weights its base had: only names and shapes were checked")
    elif adapter.base_sha256 != (found := hash_weights(base)):
        raise UserError(f"the weights of {base} have SHA-256 {found[:12]}..., those that {adapter.folder} was trained on "
                        f"{shown(adapter.base_sha256[:12])[1:-1]}...", "the same base", "give it the base it was trained on")
    modules = find_modules(model)
    for name, (down, up) in adapter.pairs.items():
        if name not in modules:
            raise UserError(f"{adapter.folder} changes {shown(name)}", f"matrices of the layers of {base}", "give the right base")
        layers = modules[name]
        wanted = [[adapter.rank, layers[0].in_features], [sum(layer.out_features for layer in layers), adapter.rank]]
        if [list(down.shape), list(up.shape)] != wanted:
            raise UserError(f"{name} in {adapter.folder} has shapes {shown([list(down.shape), list(up.shape)])}",
                            f"{wanted}, as {base} has", "give the right base")
    with torch.no_grad():
        for name, (down, up) in adapter.pairs.items():
            shared = torch.nn.Parameter(torch.from_numpy(down.read()))
            ups = torch.from_numpy(up.read()).split([layer.out_features for layer in modules[name]])  # type: ignore[no-untyped-call]
            for layer, part in zip(modules[name], ups, strict=True):
                layer.adapter = LowRank(shared, part.clone(), adapter.scale)


def merge_lora(model: nn.Module) -> None:
    """Put every change into its matrix; the model is then as any other."""
    from myna.models.low_rank import merge

    for layers in find_modules(model).values():
        for layer in layers:
            merge(layer)


def save_adapter(model: nn.Module, folder: Path, base: Path) -> None:
    """Write the changes of a model that was loaded from `base` as peft does; folder: made if it is not there."""
    import torch
    from safetensors.torch import save

    everything = find_modules(model)
    tensors: dict[str, torch.Tensor] = {}
    changed: dict[str, float] = {}
    for name, layers in everything.items():
        adapters = [layer.adapter for layer in layers if layer.adapter is not None]
        if adapters:
            tensors[_ROOT + name + _DOWN] = adapters[0].down.detach().float().contiguous()
            tensors[_ROOT + name + _UP] = torch.cat([adapter.up.detach().float() for adapter in adapters])
            changed[name] = adapters[0].scale
    if not changed:
        raise ValueError("the model has no adapter")
    rank = len(next(iter(tensors.values())))
    alpha = next(iter(changed.values())) * rank
    kinds = {name.rsplit(".", 1)[-1] for name in changed}
    alike = all(name in changed for name in everything if name.rsplit(".", 1)[-1] in kinds)  # else GPT-2's c_proj would be two
    name_of_base = next((name for name in MODELS if default_folder(name).resolve() in base.resolve().parents), "")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, save(tensors, {"format": "pt", _HASH: hash_weights(base), _NAME: name_of_base}))
    write_json(folder / CONFIG, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base.resolve()), "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha, "lora_dropout": 0.0, "bias": "none", "use_rslora": False,
        "use_dora": False, "fan_in_fan_out": model.config.model_type == "gpt2", "inference_mode": True,  # type: ignore[union-attr]
        "init_lora_weights": True, "modules_to_save": None, "layers_to_transform": None,
        "target_modules": sorted(kinds) if alike else sorted(changed)})
