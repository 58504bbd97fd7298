"""Models by name: what `myna fetch` brought is used wherever a model directory is.

    fetch_model("smollm2")          # downloads once, makes a Hugging Face directory of it
    resolve_model("smollm2")        # that directory
"""

from __future__ import annotations

import shutil
from pathlib import Path

from myna import __version__
from myna.errors import UserError
from myna.fetch import CATALOG, MODELS, Form, default_folder, fetch
from myna.files import MANIFEST, sha256, write_json
from myna.tokenizer.tokenizer import Tokenizer

# of a published directory: weights, what opens them, and how sentence-transformers pools; not other tools' forms of the same weights
_TAKEN = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "vocab.txt", "chat_template.jinja", "README.md", "modules.json", "sentence_bert_config.json",
          "*/config.json")


def fetch_model(name: str, out: Path | None = None) -> Path:
    """Get a model of the catalogue into `out`, or the user's data directory; returns its model directory. Raises UserError as `fetch`."""
    return fetch(name, out, _convert)


def resolve_model(name: str | Path) -> Path:
    """Return the directory that a path, or the name of a fetched model, means. Raises UserError when the model was not fetched."""
    folder = Path(name)
    if folder.exists() or str(name) not in MODELS:
        return folder
    fetched = default_folder(str(name))
    if not (fetched / MANIFEST).is_file():
        raise UserError(f"{name} has not been fetched", "a directory, or the name of a fetched model",
                        f"myna fetch {name} ({CATALOG[str(name)].size / 1e6:.0f} MB)")
    return fetched / str(name)


def _convert(form: Form, files: Path, out: Path) -> None:
    """Make a model directory of an archive's files."""
    match form:
        case "huggingface":
            for pattern in _TAKEN:
                for path in files.glob(pattern):
                    target = out / path.relative_to(files)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(path, target)
            hashes = {"model.safetensors": sha256(out / "model.safetensors")}
            write_json(out / "myna.json", {"format": 1, "version": __version__, "golden": Tokenizer.open(out).golden(), "hashes": hashes})
        case "gguf":
            from myna.models.gguf_import import import_gguf

            (path,) = files.glob("*.gguf")
            import_gguf(path, out)
        case "ctranslate2":
            from myna.models.whisper_import import import_ctranslate2

            import_ctranslate2(files, out)
