"""A finished build directory as `myna build` leaves it, written by hand in a moment: what the page, the card and `show` read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from myna.metrics.report import Report, Score

CHINESE = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。"
HOSTILE = '<script>alert(1)</script>"\'|`](javascript:x) ---\n# --- ${7*7} {{ 7*7 }}'


def score(value: float, spread: float = 0.02) -> Score:
    return Score(value, value - spread, value + spread, "metric|bootstrap=2000|block=2048B|seed=0|v1")


def make_report(model: float = 1.837, baseline: float = 1.932) -> Report:
    gain = 100 * (baseline - model) / baseline
    return Report({"bits_per_byte": score(model), "bits_per_character": score(model * 2.1), "perplexity": score(53.2, 1.5)},
                  "6-gram, modified Kneser-Ney",
                  {"bits_per_byte": score(baseline), "bits_per_character": score(baseline * 2.1), "perplexity": score(64.9, 1.9)},
                  {"bits_per_byte": score(model - baseline, 0.01)}, {"bits_per_byte": score(gain, 0.8)})


def write_log(path: Path, steps: int = 400, sample: str = CHINESE) -> None:
    """Write a run of `steps` steps that learns, with ten looks, an early decay, and a last row cut off by a kill."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        seconds = 0.43 * step
        loss = 3.7 + 3.8 * (1 + 20 * step / steps) ** -0.9 - 0.25 * step / steps + float(rng.normal(0, 0.06))
        rate = min(1.0, step / (0.02 * steps), (steps - step) / (0.6 * steps))
        common = {"tokens": step * 4096, "seconds": seconds}
        rows.append({"event": "step", "step": step, "loss": loss, "gradient_norm": 0.5, "learning_rate": rate, **common})
        if step == steps * 7 // 10:
            text = f"slower than planned: the decay starts at step {step} of {steps}"
            rows.append({"event": "note", "step": step, "text": text, **common})
        if step % max(1, steps // 10) == 0:
            rows.append({"event": "valid", "step": step, "bits_per_byte": (loss + 0.06) / 2.06, "loss": loss + 0.06, **common})
            rows.append({"event": "sample", "step": step, "text": sample[:20 + step % 30], **common})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + '\n{"event": "st', encoding="utf-8")


def write_directory(folder: Path, family: str = "decoder", text: str = CHINESE, report: Report | None = None) -> Path:
    """Write the directory of a decoder or an n-gram; `text` stands for everything that comes from users."""
    folder.mkdir(parents=True)
    if family == "decoder":
        config = {"model_type": "qwen3", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256,
                  "tie_word_embeddings": True}
        tensors = {"model.embed_tokens.weight": np.zeros((512, 64), np.float32), "model.norm.weight": np.ones(64, np.float32),
                   "lm_head.weight": np.zeros((512, 64), np.float32)}
        write_log(folder / "log.jsonl", sample=text)
        predicted = {"seconds": 180.0, "seconds_per_step": 0.45, "peak_bytes": 9.1e8, "bits_per_byte": 1.86}
        plan: dict[str, Any] | None = {
            "family": "decoder", "model": {}, "parameters": 32832, "context": 256, "batch_rows": 16, "micro_rows": 16, "steps": 400,
            "precision": "bfloat16", "compile": False, "threads": 2, "seed": 7, "tokens": 1638400, "predicted": predicted,
            "machine": {"cpu": "a processor"}, "notes": []}
        actual = {"seconds": 176.2, "seconds_per_step": 0.43, "steps": 400, "tokens": 1638400, "peak_bytes": 871_000_000,
                  "bits_per_byte": 1.82, "total_seconds": 203.5}
    else:
        config = {"model_type": "ngram", "order": 3, "vocab_size": 512, "separator_id": 0, "ngrams": [512, 9000, 21000],
                  "smoothing": "kneser_ney"}
        tensors, plan = {"level_1.log_probs": np.zeros(512, np.float32)}, None
        actual = {"seconds": 3.1, "peak_bytes": 210_000_000, "total_seconds": 9.0}
    _write(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors")
    (folder / "ngram").mkdir()
    tried = [{"order": 1, "smoothing": "kneser_ney", "bits_per_token": 8.1}, {"order": 3, "smoothing": "kneser_ney", "bits_per_token": 5.8}]
    _write(folder / "ngram" / "config.json", {"model_type": "ngram", "order": 3, "vocab_size": 512, "ngrams": [512, 1, 1], "tried": tried})
    files = _write_corpus(folder / "corpus", text)
    _write_tokens(folder / "tokens")
    inputs = [{key: entry[key] for key in ("path", "sha256", "bytes", "kept", "status")} for entry in files]
    lineage = {"inputs": inputs, "given": ["texts"], "corpus_manifest": "ab" * 32, "tokens_manifest": "cd" * 32, "seed": 7, "threads": 2,
               "argv": ["/somewhere/bin/myna", "build", text, "--out", folder.name],
               "versions": {"myna": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}}
    _write(folder / "myna.json", {
        "format": 1, "version": "0.1.0", "family": family, "golden": {"texts": [], "ids": []}, "hashes": {"config.json": "ef" * 32},
        "lineage": lineage, "plan": plan, "actual": actual, "report": (report or make_report()).to_json(),
        "samples": [{"prompt": text[:4], "text": text[4:]}, {"prompt": "", "text": "First Citizen\nSpeak, speak."}],
        "stages": {"read and clean": 1.2, "tokenizer": 4.0, "baseline": 6.5, "train": 176.2, "evaluate": 7.7},
        "notes": [f"a note on {text}"]})
    return folder


def _write_corpus(folder: Path, text: str) -> list[dict[str, Any]]:
    folder.mkdir()
    files: list[dict[str, Any]] = [
        {"path": f"texts/chapter-{i:03}.txt", "role": "main", "format": "text", "encoding": "gb18030" if i % 3 == 0 else "utf-8",
         "bytes": 20_000 + 10 * i, "kept": 19_000 + 10 * i, "dropped": {"duplicate": 1000}, "rewritten": {"line endings": 40},
         "documents": 1, "sha256": f"{i:064x}", "status": "ok", "reason": ""} for i in range(70)]
    files += [{"path": f"texts/{text}.txt.gz", "role": "main", "format": "text", "compression": "gz", "encoding": "utf-8", "bytes": 25_000,
               "kept": 24_960, "dropped": {"unreadable": 40}, "rewritten": {}, "documents": 1, "sha256": "0" * 64, "status": "partial",
               "reason": "cut short: the .gz data has no end"},
              {"path": "texts/picture.png", "role": "main", "format": "", "bytes": 5000, "kept": 0, "dropped": {"an image": 5000},
               "rewritten": {}, "documents": 0, "sha256": "1" * 64, "status": "rejected", "reason": "an image"}]
    totals: dict[str, Any] = {"files": len(files), **{key: sum(entry[key] for entry in files) for key in ("bytes", "kept", "documents")}}
    totals |= {"dropped": {"duplicate": 70_000, "an image": 5000, "unreadable": 40}, "rewritten": {"line endings": 2800},
               "dropped_documents": {}, "status": {"ok": 70, "partial": 1, "rejected": 1}}
    _write(folder / "report.json", {"totals": totals, "files": files})
    parts = {"train": 1_216_210, "valid": 68_000, "test": 70_000}
    said = ["1 document was cut into sections of about 65,536 bytes at paragraph ends"]
    _write(folder / "split.json", {**{name: {"bytes": size, "ranges": 3, "documents": 3} for name, size in parts.items()},
                                   "left_out_bytes": 0, "said": said})
    (folder / "text.utf8").write_bytes(b"")
    (folder / "documents.npy").write_bytes(b"")
    return files


def _write_tokens(folder: Path) -> None:
    folder.mkdir()
    parts = {name: {"documents": 3, "ids": size // 3 + 3, "bytes": size, "tokens": size // 3, "bytes_per_token": 3.0}
             for name, size in (("train", 1_216_210), ("valid", 68_000), ("test", 70_000))}
    scripts = {"Han": {"bytes": 1_100_000, "tokens": 300_000, "bytes_per_token": 3.67},
               "punctuation": {"bytes": 254_210, "tokens": 150_000, "bytes_per_token": 1.69}}
    _write(folder / "report.json", {"vocab_size": 512, "special_tokens": 4, "pre_tokenizer": "qwen2", "type": "uint16", "parts": parts,
                                    "bytes": 1_354_210, "tokens": 450_000, "bytes_per_token": 3.01, "scripts": scripts})
    (folder / "train.bin").write_bytes(b"")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
