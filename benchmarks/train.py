"""The training race: characters of a text to a saved model, Myna beside nanoGPT's published CPU setting, whole wall time.

    python benchmarks/train.py --peer PATH_TO_NANOGPT [--data FILE] [--pairs 3] [--json]

The first 90 % of FILE trains, the last 10 % validates. Each run is a fresh process, timed from its start to its end with the model
saved; the two alternate. Both saved models are then scored here on the whole last 10 %, at context 64: nats per character.
nanoGPT's preparation of the text is not counted; Myna's is. Myna's model is a directory that `transformers` opens; it is
scored through `transformers` when that is installed, so what is measured is what was saved.

FILE is by default the peer's data/shakespeare_char/input.txt. The peer's folder is copied, never changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONTEXT = 64
THEIR_SETTING = ["config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1",
                 "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000",
                 "--lr_decay_iters=2000", "--dropout=0.0"]  # nanoGPT's README, "I only have a macbook"
OUR_STEPS, OUR_ROWS = 240, 16  # fewest that pass the peer's loss with a margin (docs/log.md, "The training race")
OUR_RATE = 0.03


def split(data: Path) -> tuple[str, str]:
    """Cut a text into its first 90 % and last 10 % of characters, as nanoGPT's prepare.py does."""
    text = data.read_text(encoding="utf-8")
    return text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]


class OneText:
    """A text in memory as the corpus that tokenizer training reads."""

    def __init__(self, text: str) -> None:
        self.data = text.encode("utf-8")

    def part(self, name: str) -> Any:
        import numpy as np

        return np.array([(0, len(self.data))], dtype=[("start", "<i8"), ("end", "<i8")])

    def part_bytes(self, name: str) -> int:
        return len(self.data)

    def text(self, start: int, end: int) -> str:
        return self.data[start:end].decode("utf-8", errors="ignore")

    def pieces(self, start: int, end: int, size: int) -> Any:
        from myna.tokenizer.pieces import cut

        yield from cut(self.text(start, end), size // 4)


def run_ours(data: Path, out: Path) -> None:
    """Tokenizer by characters, then Myna's train stage, then a saved model directory."""
    import numpy as np
    import torch

    from myna.data.order import Order, read_batch
    from myna.models.decoder import DecoderConfig, new_decoder
    from myna.models.pretrained import save_decoder
    from myna.tokenizer.options import TokenizerOptions
    from myna.tokenizer.train import train_tokenizer
    from myna.train.loop import Hooks, Run, train
    from myna.train.options import TrainOptions

    text, _ = split(data)
    tokenizer = train_tokenizer(OneText(text), TokenizerOptions(kind="characters"))
    ids = np.array(tokenizer.encode(text), dtype=np.uint16)
    config = DecoderConfig(tokenizer.vocab_size, hidden_size=128, num_hidden_layers=4, head_dim=64, max_position_embeddings=CONTEXT,
                           tie_word_embeddings=False, eos_token_id=tokenizer.separator_id)
    torch.manual_seed(0)
    model = new_decoder(config, seed=0, precision="bfloat16")
    order = Order(len(ids), CONTEXT, seed=0)
    options = TrainOptions(learning_rate=OUR_RATE, embedding_learning_rate=OUR_RATE, validations=0, checkpoint_seconds=float("inf"))
    train(model, lambda step: torch.from_numpy(read_batch(ids, order.starts(step, OUR_ROWS), CONTEXT)), Run(OUR_STEPS, OUR_ROWS), options,
          out, Hooks())
    save_decoder(model, out, tokenizer.pad_id)
    tokenizer.save(out, CONTEXT)


def windows(ids: Any) -> tuple[Any, Any]:
    """Cut ids into windows of 64 predictions each: inputs and targets (N, 64)."""
    import torch

    count = (len(ids) - 1) // CONTEXT
    stream = torch.as_tensor(ids[: count * CONTEXT + 1], dtype=torch.int64)
    return stream[:-1].view(count, CONTEXT), stream[1:].view(count, CONTEXT)


def score(model: Any, ids: Any) -> float:
    """Mean nats per prediction; `model` maps ids (B, 64) to logits (B, 64, V)."""
    import torch
    import torch.nn.functional as F

    inputs, targets = windows(ids)
    with torch.inference_mode():
        losses = [F.cross_entropy(model(x).flatten(0, 1).float(), y.flatten(), reduction="sum")
                  for x, y in zip(inputs.split(128), targets.split(128), strict=True)]
    return float(sum(losses) / targets.numel())


def score_ours(out: Path, data: Path) -> float:
    """Score the saved directory, through transformers when it is installed."""
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import Tokenizer

    ids = Tokenizer.open(out).encode(split(data)[1])
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        model: Any = load_model(out)
        return score(lambda x: model.logits(model.hidden(x)), ids)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    return score(lambda x: theirs(x).logits, ids)


def score_theirs(peer: Path, data: Path) -> float:
    """Score nanoGPT's checkpoint with its own model class."""
    import torch

    sys.path.insert(0, str(peer))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]  # nanoGPT's

    saved = torch.load(peer / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    text = data.read_text(encoding="utf-8")
    ids = {character: number for number, character in enumerate(sorted(set(text)))}  # as its prepare.py numbers them
    return score(lambda x: model.eval()(x, targets=torch.zeros_like(x))[0], [ids[character] for character in split(data)[1]])


def timed(command: list[str], folder: Path) -> float:
    """Run a command to its end; returns wall seconds. Its output is shown when it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - began


def race(peer: Path, data: Path, pairs: int) -> dict[str, Any]:
    """Alternate the two and compare medians."""
    here = Path(__file__).resolve()
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "peer"
        shutil.copytree(peer, copy, ignore=shutil.ignore_patterns(".git", "out*"))
        prepared = copy / "data" / "shakespeare_char"
        if data.resolve() != (prepared / "input.txt").resolve():
            shutil.copy(data, prepared / "input.txt")
        timed([sys.executable, "prepare.py"], prepared)
        for pair in range(pairs):
            out = Path(temporary) / f"ours{pair}"
            seconds = timed([sys.executable, str(here), "--run-ours", str(out), "--data", str(data)], here.parent.parent)
            ours.append({"seconds": seconds, "loss": score_ours(out, data)})
            shutil.rmtree(copy / "out-shakespeare-char", ignore_errors=True)
            seconds = timed([sys.executable, "train.py", *THEIR_SETTING], copy)
            theirs.append({"seconds": seconds, "loss": score_theirs(copy, data)})
            print(f"pair {pair + 1}: myna {ours[-1]['seconds']:.1f} s, {ours[-1]['loss']:.4f} nats; nanoGPT {theirs[-1]['seconds']:.1f} s, "
                  f"{theirs[-1]['loss']:.4f} nats", file=sys.stderr)
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "loss")}
               for name, runs in (("myna", ours), ("nanogpt", theirs))}
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True)]
    return {"benchmark": "train", "data": data.name, "pairs": pairs, **medians, "runs": {"myna": ours, "nanogpt": theirs},
            "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
            "same_loss": medians["myna"]["loss"] <= medians["nanogpt"]["loss"]}


def main() -> None:
    """Race and print the medians and the ratio of wall times, ours / theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--data", type=Path, help="a text file")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--run-ours", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_ours:
        run_ours(args.data, args.run_ours)
        return
    if not args.peer or not (args.peer / "train.py").is_file():
        parser.error("--peer must name a checkout of nanoGPT (a folder with train.py)")
    data = (args.data or args.peer / "data" / "shakespeare_char" / "input.txt").resolve()
    if not data.is_file():
        parser.error(f"no file {data}: give --data FILE")
    found = race(args.peer.resolve(), data, args.pairs)
    if args.json:
        print(json.dumps(found))
    else:
        for name in ("myna", "nanogpt"):
            print(f"{name:8} {found[name]['seconds']:7.1f} s   {found[name]['loss']:.4f} nats per character")
        print(f"ratio    {found['ratio']:.3f}  ({found['ratio_low']:.3f} to {found['ratio_high']:.3f})"
              f"{'' if found['same_loss'] else '   NOT the same loss'}")


if __name__ == "__main__":
    main()
