"""Compare families: the same corpus, tokens and time for each, one table at the end.

The text is read, split and turned into tokens once; then every family is built in a folder of its own by the same `myna build` that a
person would call, one after the other, each in its own process, so that its memory is its own and a failure stops nothing else. A
comparison that was stopped goes on with `resume`: what is finished is not built again.

    compare([Path("my-texts/")], Path("compared"), ["ngram", "lstm", "decoder"], Recipe(BuildOptions(minutes=2)))
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from myna import machine
from myna.console import say
from myna.corpus.clean import prepare_corpus
from myna.data.shards import Shard, prepare_tokens
from myna.errors import UserError, nearest
from myna.evaluate.compare_page import write_compare_page
from myna.evaluate.comparison import Comparison, Row, compare_rows, score_blocks, time_steps
from myna.evaluate.language import sample_documents, shard_text
from myna.files import lock, read_json, write_json
from myna.generate.options import SampleOptions
from myna.generate.text import generate_text
from myna.models.families import CAUSAL
from myna.models.mixture import Mixture, fit_weights, write_mixture
from myna.models.pretrained import load_model
from myna.models.protocol import LanguageModel
from myna.models.record import read_record
from myna.recipe import SECTIONS, Recipe
from myna.roads.build import describe_mixture, prepare_ngram, tokenizer_options
from myna.tokenizer.tokenizer import Tokenizer

DEFAULT: tuple[str, ...] = ("ngram", "hmm", "rnn", "lstm", "gru", "decoder", "mixture")
MIXTURE = "mixture"
_STAGES = ("corpus", "tokens", "ngram")  # made once; every build finds them finished
_MEMBER_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "index", "ngram")
_SAMPLE = SampleOptions(max_tokens=120, temperature=0.8, seed=0)
_WEIGHT_TOKENS = 50_000  # of validation text, on which a mixture's weights are learned


def compare(inputs: Sequence[Path], out: Path, families: Sequence[str], recipe: Recipe, resume: bool = False, valid: Sequence[Path] = (),
            test: Sequence[Path] = ()) -> Comparison:
    """Build and measure each family in `out/FAMILY`; writes compare.json and compare.html into `out`.

    Raises UserError on what the user can mend, KeyboardInterrupt when stopped.
    """
    check_families(families)
    if (out / "tokens").exists() and not resume:
        raise UserError(f"{out} already holds a comparison", "a new directory", "go on with --resume, or choose another --out")
    with lock(out):
        machine.set_threads(recipe.build.threads or machine.usable_cores())
        for family in families:  # one tokenizer for all of them
            recipe = dataclasses.replace(recipe, tokenizer=tokenizer_options(recipe, family))
        corpus = prepare_corpus(inputs, out / "corpus", recipe.clean, recipe.split, valid, test)
        tokenizer, tokens = prepare_tokens(corpus, out / "tokens", recipe.tokenizer)
        prepare_ngram(tokens, tokenizer, out / "ngram", recipe.ngram)
        for family in (name for name in families if name != MIXTURE):
            _build(inputs, out, family, recipe, valid, test)
        models: dict[str, LanguageModel] = {name: load_model(_folder(out, name)) for name in families if name != MIXTURE}
        if MIXTURE in families:
            models[MIXTURE] = _mix(out, models)
        rows = [_measure(out, name, model, tokenizer) for name, model in models.items()]
        comparison = compare_rows(rows, recipe.build.minutes, recipe.evaluate)
        write_json(out / "compare.json", comparison.to_json())
        write_compare_page(out / "compare.html", comparison, inputs)
    return comparison


def check_families(families: Sequence[str]) -> None:
    """Raise UserError unless they are two or more different families that give the next token's distribution."""
    known = [*CAUSAL, MIXTURE]
    for name in families:
        if name in ("encoder", "vectors"):
            raise UserError(f"{name} gives no probability to a text", "families that do: " + ", ".join(known),
                            f"myna build --family {name} measures it in its own way")
        if name not in known:
            raise UserError(f"unknown family {name!r}{nearest(name, known)}", "any of " + ", ".join(known))
    if len(set(families)) < max(2, len(families)):
        raise UserError(f"the families {', '.join(families) or '(none)'}", "two or more, each once")
    if MIXTURE in families and len(families) < 3:
        raise UserError(f"a mixture of {families[0]}", "two or more families beside mixture")


def _folder(out: Path, family: str) -> Path:
    return out / f"{family}-model" if family in _STAGES else out / family


def _build(inputs: Sequence[Path], out: Path, family: str, recipe: Recipe, valid: Sequence[Path], test: Sequence[Path]) -> None:
    """Build one family in its folder, on the shared stages, in a process of its own."""
    folder = _folder(out, family)
    folder.mkdir(exist_ok=True)
    for stage in _STAGES[:2] if family == "ngram" else _STAGES:  # the n-gram's own baseline is another
        if not (folder / stage).is_symlink():
            (folder / stage).symlink_to(Path("..") / stage, target_is_directory=True)
    alone = dataclasses.replace(recipe, mixture=dataclasses.replace(recipe.mixture, members=()))
    (out / "recipe.toml").write_text(write_toml(alone), encoding="utf-8")
    command = [sys.executable, "-m", "myna", "build", *map(str, inputs), "--recipe", str(out / "recipe.toml"), "--family", family,
               "--out", str(folder), "--resume", "--json"]
    for flag, paths in (("--valid", valid), ("--test", test)):
        command += [word for path in paths for word in (flag, str(path))]
    say(f"== {family} ({recipe.build.minutes:g} minutes)")
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUTF8": "1"}, check=False)
    if result.returncode == 130:
        raise KeyboardInterrupt(f"stopped in {family}; go on with --resume")
    if result.returncode != 0:
        raise UserError(f"{family} could not be built (exit code {result.returncode})", "the build above to end well",
                        "mend what it says and go on with --resume, or leave the family out")


def write_toml(recipe: Recipe) -> str:
    """Write a recipe as the TOML that `--recipe` reads; what is None is left to its default."""
    def line(name: str, value: Any) -> str:
        return f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)}\n"

    lines = [line(name, value) for name, value in dataclasses.asdict(recipe.build).items() if value is not None and name != "family"]
    for section in SECTIONS:
        values = {name: value for name, value in dataclasses.asdict(getattr(recipe, section)).items() if value is not None}
        lines += [f"\n[{section}]\n", *(line(name, str(value) if isinstance(value, Path) else value) for name, value in values.items())]
    return "".join(lines)


def _mix(out: Path, models: dict[str, LanguageModel]) -> LanguageModel:
    """Learn the weights of all families' sum and write it as a model directory; the first member is the best alone."""
    valid = Shard.open(out / "tokens", "valid")
    fitted = fit_weights(list(models.values()), sample_documents(valid, _WEIGHT_TOKENS))
    names = list(models)
    say(f"== {MIXTURE}")
    say(describe_mixture(names, fitted))
    order = sorted(range(len(names)), key=lambda place: fitted.member_bits[place])
    fitted = fitted._replace(weights=[fitted.weights[i] for i in order], member_bits=[fitted.member_bits[i] for i in order])
    names = [names[i] for i in order]
    folder = out / MIXTURE
    shutil.rmtree(folder, ignore_errors=True)
    for place, name in enumerate(names):
        _copy_model(_folder(out, name), folder / name if place else folder)
    write_mixture(folder, names, [name if place else "." for place, name in enumerate(names)], fitted)
    return Mixture([models[name] for name in names], names, fitted.weights)


def _copy_model(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in _MEMBER_FILES:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
        elif (source / name).is_dir() and read_json(source / "config.json").get("model_type") == "unbounded":
            shutil.copytree(source / name, target / name)


def _measure(out: Path, family: str, model: LanguageModel, tokenizer: Tokenizer) -> Row:
    test = Shard.open(out / "tokens", "test")
    blocks = score_blocks(model, tokenizer, shard_text(test), family)
    room = 128 if model.max_length is None else min(128, model.max_length - 2)
    speed = time_steps(model, [int(id) for id in test.ids[:room]])
    sample = str(generate_text(model, tokenizer, "", _SAMPLE)[0])
    if isinstance(model, Mixture):
        members = [read_record(_folder(out, name)) for name in model.names]
        return Row(family, model.name, blocks, sum(record.parameters for record in members),
                   sum(float(record.actual["seconds"]) for record in members), None, speed, None, sample, folder=family)
    record = read_record(_folder(out, family))
    read = record.actual.get("tokens", len(Shard.open(out / "tokens", "train").ids))
    return Row(family, record.kind, blocks, record.parameters, float(record.actual["seconds"]), int(read), speed,
               int(record.actual["peak_bytes"]), sample, _curve(_folder(out, family)), _folder(out, family).name)


def _curve(folder: Path) -> list[dict[str, float]]:
    """Read the validation curve of a build that has one."""
    if not (folder / "log.jsonl").is_file():
        return []
    from myna.train.loop import read_log

    return [{name: float(row[name]) for name in ("seconds", "tokens", "bits_per_byte")}
            for row in read_log(folder / "log.jsonl") if row["event"] == "valid" and "bits_per_byte" in row]
