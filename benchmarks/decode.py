"""The decoding race: one stream, greedy, tokens a second, Myna in int8 beside llama.cpp's 4 bits and transformers' bfloat16.

    python benchmarks/decode.py --model DIR --gguf FILE [--text FILE] [--pairs 5] [--tokens 128] [--threads 2] [--json]

DIR is the directory that `myna import FILE DIR` made of the GGUF file, so that all run the same model. In each turn every one continues
the same prompt, in turns. Tokens a second are of the steps after the prompt, Myna's with its sampler, llama.cpp's (`llama-cpp-python`)
with nothing but an argmax; `prompt` is how fast 512 tokens are read. Loading and compiling are counted apart.

With --text each scores the file's first 20,000 bytes in windows of 511 tokens after the separator, nothing carried over: bits per
byte, Myna's in float32 beside. Ratios are ours / theirs of each turn: above 1 is faster. A peer that is not installed is left out, which
is said.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

OURS = "myna int8"
PROMPT = "The quick brown fox jumps over the lazy dog. It was a sunny day and"
PROMPT_TOKENS = 512
WINDOW, TEXT_BYTES = 511, 20_000


class Runner(NamedTuple):
    """A program with the model loaded."""

    decode: Callable[[list[int], int], tuple[list[int], float]]  # continue a prompt: ids and the seconds after the first
    read: Callable[[list[int]], object]  # take a prompt
    nats: Callable[[list[int]], float]  # of a window after the separator
    loading: dict[str, float]  # seconds
    separator_id: int


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Call and time."""
    began = time.perf_counter()
    value = call()
    return value, time.perf_counter() - began


def open_ours(folder: Path, precision: str) -> Runner:
    """Myna."""
    from myna.generate.options import SampleOptions
    from myna.generate.sample import sample_tokens
    from myna.models.precision import set_precision
    from myna.models.pretrained import load_model

    full, loading = timed(lambda: load_model(folder))
    model, making = timed(lambda: set_precision(full, precision))  # the first time it compiles, or reads what was compiled before
    again = timed(lambda: set_precision(full, precision))[1]

    def decode(prompt: list[int], tokens: int) -> tuple[list[int], float]:
        drawn = sample_tokens(model, prompt, SampleOptions(temperature=0, max_tokens=tokens))
        ids = [next(drawn).token]
        rest, seconds = timed(lambda: [one.token for one in drawn])
        return ids + rest, seconds

    return Runner(decode, lambda prompt: model.step([prompt], model.start()), lambda ids: -float(model.log_probs(ids).sum()),
                  {"load": loading, "quantize": again, "compile": max(0.0, making - again)}, model.separator_id)


def open_llama(gguf: Path, threads: int, separator: int, score: bool) -> Runner:
    """llama.cpp through llama-cpp-python."""
    import llama_cpp

    def start(logits_all: bool) -> Any:
        return llama_cpp.Llama(str(gguf), n_ctx=2 * PROMPT_TOKENS, n_batch=PROMPT_TOKENS, n_threads=threads, n_threads_batch=threads,
                               logits_all=logits_all, verbose=False)

    model, loading = timed(lambda: start(False))
    scorer = start(True) if score else None

    def best() -> int:
        return int(np.ctypeslib.as_array(llama_cpp.llama_get_logits(model._ctx.ctx), shape=(model.n_vocab(),)).argmax())

    def read(prompt: list[int]) -> None:
        model.reset()
        model.eval(prompt)

    def step(id: int) -> int:
        model.eval([id])
        return best()

    def decode(prompt: list[int], tokens: int) -> tuple[list[int], float]:
        read(prompt)
        ids = [best()]
        began = time.perf_counter()
        while len(ids) < tokens:
            ids.append(step(ids[-1]))
        return ids, time.perf_counter() - began

    def nats(ids: list[int]) -> float:
        scorer.reset()
        scorer.eval([separator, *ids[:-1]])
        logits = np.array(scorer.scores[:len(ids)], np.float64)
        logits -= logits.max(-1, keepdims=True)
        return float((np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids)), ids]).sum())

    return Runner(decode, read, nats, {"load": loading}, separator)


def open_transformers(folder: Path, separator: int) -> Runner:
    """transformers in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = timed(lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval())

    @torch.inference_mode()
    def forward(ids: list[int], cache: Any = None) -> Any:
        return model(torch.tensor([ids]), past_key_values=cache, use_cache=True)

    def decode(prompt: list[int], tokens: int) -> tuple[list[int], float]:
        out = forward(prompt)
        ids = [int(out.logits[0, -1].argmax())]
        began = time.perf_counter()
        while len(ids) < tokens:
            out = forward(ids[-1:], out.past_key_values)
            ids.append(int(out.logits[0, -1].argmax()))
        return ids, time.perf_counter() - began

    def nats(ids: list[int]) -> float:
        scores = forward([separator, *ids[:-1]]).logits[0].float().log_softmax(-1)
        return -float(scores[torch.arange(len(ids)), torch.tensor(ids)].double().sum())

    return Runner(decode, forward, nats, {"load": loading}, separator)


def open_runners(model: Path, gguf: Path | None, threads: int, score: bool) -> dict[str, Runner]:
    """Load everything that is there."""
    runners = {OURS: open_ours(model, "int8")}
    separator = runners[OURS].separator_id
    makers: dict[str, Callable[[], Runner]] = {"transformers bfloat16": lambda: open_transformers(model, separator)}
    if gguf is not None:
        makers = {"llama.cpp": lambda: open_llama(gguf, threads, separator, score), **makers}
    else:
        print("llama.cpp: left out (no --gguf)", file=sys.stderr)
    for name, make in makers.items():
        try:
            runners[name] = make()
        except ImportError as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
    return runners


def race(runners: dict[str, Runner], prompt: list[int], tokens: int, pairs: int) -> dict[str, dict[str, Any]]:
    """Continue the prompt in turns, and read a long one."""
    long = (prompt * PROMPT_TOKENS)[:PROMPT_TOKENS]
    rates: dict[str, list[float]] = {name: [] for name in runners}
    prompt_rates: dict[str, list[float]] = {name: [] for name in runners}
    said: dict[str, list[int]] = {}
    for runner in runners.values():
        runner.decode(prompt, 8)  # what is done once
    for pair in range(pairs):
        for name, runner in runners.items():
            said[name], seconds = runner.decode(prompt, tokens)
            rates[name].append((tokens - 1) / seconds)
            prompt_rates[name].append(PROMPT_TOKENS / timed(lambda runner=runner: runner.read(long))[1])
        print(f"turn {pair + 1}: " + ", ".join(f"{name} {one[-1]:.1f}" for name, one in rates.items()) + " tokens/s", file=sys.stderr)
    return {name: {"tokens_per_second": spread(rates[name]), "ratio": compare(rates[OURS], rates[name]),
                   "prompt_tokens_per_second": spread(prompt_rates[name]), "prompt_ratio": compare(prompt_rates[OURS], prompt_rates[name]),
                   "same_tokens": next((at for at in range(tokens) if said[name][at] != said[OURS][at]), tokens),
                   "seconds": runner.loading} for name, runner in runners.items()}


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ratio of each turn."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def score_all(runners: dict[str, Runner], text: Path, model: Path, encode: Callable[[str], list[int]]) -> dict[str, float]:
    """Bits per byte of every program on the same windows."""
    data = text.read_bytes()[:TEXT_BYTES].decode("utf-8", errors="ignore")
    ids = encode(data)
    windows = [ids[at:at + WINDOW] for at in range(0, len(ids), WINDOW)]
    everyone = {**runners, "myna float32": open_ours(model, "float32")}
    return {name: sum(map(runner.nats, windows)) / math.log(2) / len(data.encode()) for name, runner in everyone.items()}


def main() -> None:
    """Race and print medians, ratios and bits per byte."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model directory with its tokenizer, or the name of a fetched model")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp; without it that is left out")
    parser.add_argument("--text", type=Path, help="a text to score; without it nothing is scored")
    parser.add_argument("--pairs", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a continuation (default 128)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()

    from myna.models.fetched import resolve_model

    args.model = resolve_model(args.model)
    for path in (args.model / "tokenizer.json", args.gguf, args.text):
        if path is not None and not path.is_file():
            parser.error(f"no file {path}")

    from myna.machine import set_threads
    from myna.tokenizer.tokenizer import Tokenizer

    set_threads(args.threads)
    tokenizer = Tokenizer.open(args.model)
    runners = open_runners(args.model, args.gguf, args.threads, args.text is not None)
    found = race(runners, tokenizer.encode(PROMPT), args.tokens, args.pairs)
    bits = score_all(runners, args.text, args.model, tokenizer.encode) if args.text else {}
    result = {"benchmark": "decode", "model": args.model.name, "tokens": args.tokens, "threads": args.threads, "pairs": args.pairs,
              "programs": found, "bits_per_byte": bits, "ratio": found.get("llama.cpp", {}).get("ratio", {}).get("median")}
    if args.json:
        print(json.dumps(result))
        return
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the results for a person."""
    heading = f"{result['tokens']} tokens, {result['threads']} threads, {result['pairs']} turns"
    print(f"{heading:<32}{'tokens/s':>12}{'least':>8}{'most':>8}   ours/theirs")
    for name, one in result["programs"].items():
        for label, kind in ((name, ""), ("  reading a prompt", "prompt_")):
            rate, ratio = one[f"{kind}tokens_per_second"], one[f"{kind}ratio"]
            print(f"{label:<32}{rate['median']:12.1f}{rate['low']:8.1f}{rate['high']:8.1f}   "
                  + ("" if name == OURS else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"))
        seconds = ", ".join(f"{what} {value:.1f}" for what, value in one["seconds"].items())
        print(f"  {one['same_tokens']} first tokens as ours; seconds to {seconds}")
    for name, bits in result["bits_per_byte"].items():
        print(f"{name:<32}{bits:12.4f} bits per byte")


if __name__ == "__main__":
    main()
