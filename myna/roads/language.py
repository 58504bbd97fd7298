"""The road of a tuning: a model, other people's rows and minutes in; a tuned model beside its measured base out.

rows -> conversations, split -> labels, a gate -> the base measured -> plan -> rehearsal -> train -> the same measures -> write. Plan,
rehearsal, loop and pages are those of `myna.roads.build`; the baseline is the base itself. What LoRA writes is an adapter that `peft`
reads, and a model directory for Myna. A task that is learned in the same way (`Task`) says how its examples are cut to a row, and is
measured at its own work afterwards: then that is the report, and the losses stand beside it.

    tune_language("smollm2", {"data": [Path("my-rows.jsonl")], "base": [Path("smollm2")]}, Path("my-model"), TuneRecipe(), Clock())
"""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myna import __version__, machine
from myna.console import duration, say
from myna.data.conversations import Example, Reading, read_conversations, split_examples
from myna.data.labels import TURN_TOKENS, Labelled, LabelReport, Template, check_labels, label_examples, show_labels
from myna.data.packing import Packed
from myna.errors import UserError
from myna.evaluate.answers import Measured, report_tuning, score_pieces, take_passages
from myna.evaluate.measured import Measured as TaskMeasured
from myna.files import read_json, sha256, write_atomic, write_json
from myna.generate.greedy import answer_prompts
from myna.metrics.report import Report
from myna.models.adapter import hash_weights, is_adapter, save_adapter
from myna.models.families import family_of
from myna.models.fetched import resolve_model
from myna.models.pretrained import load_model, read_config, save_model
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.build import Clock, describe_plan, list_versions, write_pages
from myna.roads.seen import save_seen
from myna.roads.task import Task
from myna.roads.task_pages import write_task_pages
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer
from myna.train.loop import Batch, Hooks, Run, train
from myna.train.lora import load_adapter
from myna.train.plan import Plan
from myna.train.rehearsal import Making, rehearse
from myna.train.tuning import Costs, describe_change, plan_tuning, prepare_model, settle_tuning, time_forward

_CONTEXTS, _FITTING, _LOOKED_AT = (128, 256, 512), 0.9, 100  # tokens of a row, the share of the examples looked at that must fit
_TEST, _UNRELATED, _VALID = 16_384, 8_192, 4_096  # tokens measured at most
_MEASURING, _LOOKING = 0.1, 0.01  # shares of the time for each of the two measurements, and for each look at the validation part
_WRITING_SECONDS = 4.0  # for the bootstrap, the pages and the hashes at the end
_PROMPTS, _SHOWN, _ANSWER_TOKENS = 20, 5, 64  # held-out prompts that are answered, how many are shown, tokens of an answer at most
_SLOWER = 1.5  # times as long as the base's measure that of the tuned model takes: what was added is computed beside it
_SAMPLE_TOKENS, _LEAST_SAMPLE = 32, 8  # of the answer that is shown at each look
_COPIED = ("generation_config.json", "special_tokens_map.json")  # of the base's directory, as they are


def tune_language(base: str, given: Inputs, out: Path, recipe: TuneRecipe, clock: Clock) -> Report:
    """Tune a model on rows of conversations, answers or text; returns its losses beside its base's. Raises UserError as `tune`."""
    with clock.stage("read the rows"):
        folder = open_base(base, out)
        reading = read_conversations(given["data"], recipe.rows)
        for line in reading.said():
            say(f"  {line}")
    return Tuning(folder, out, recipe, reading, clock, request_of(recipe, given)).run()


def open_base(name: str, out: Path) -> Path:
    """Find the model to be tuned. Raises UserError when it is none that can be."""
    folder = resolve_model(name)
    if folder.exists() and is_adapter(folder):
        raise UserError(f"{folder} is an adapter", "a whole model", "merge it first: myna export --to hf")
    if family_of(str(read_config(folder).get("model_type"))) != "decoder":
        raise UserError(f"{folder} holds a {read_config(folder).get('model_type')}", "a Transformer decoder", "tune another model")
    if folder.resolve() == out.resolve():
        raise UserError(f"--out {out} is the model to be tuned", "another directory", "choose another --out")
    return folder


class Tuning:
    """A tuning from labels to the finished directory."""

    def __init__(self, base: Path, out: Path, recipe: TuneRecipe, reading: Reading, clock: Clock, request: dict[str, Any],
                 task: Task | None = None) -> None:
        self.base, self.out, self.recipe, self.reading, self.clock, self.request = base, out, recipe, reading, clock, request
        self.options, self.task = recipe.tune, task
        self.answer_tokens = _ANSWER_TOKENS if task is None else min(_ANSWER_TOKENS, task.answer_tokens)
        self.tokenizer = Tokenizer.open(base)
        self.template: ChatTemplate | None = None
        if task is None or task.chat:
            try:
                self.template = ChatTemplate.open(base, self.tokenizer)
            except UserError:  # a model for plain text; labels say so where there are conversations
                if not any(example.messages for example in reading.examples):
                    say("  the model has no chat template, and the data needs none")
        bfloat16 = self.options.steps is not None or machine.probe().bfloat16_pays
        self.precision = self.options.precision or ("bfloat16" if bfloat16 else "float32")
        kept = read_json(out / "plan.json") if (out / "plan.json").is_file() else {}
        self.plan = Plan(**{field.name: kept[field.name] for field in dataclasses.fields(Plan)}) if kept else None
        self.kept: dict[str, Any] = kept.get("tuning", {})
        if kept and self._sources() != self.kept["sources"]:
            raise UserError("the rows, or the weights of the base, are others than this tuning began with", "the same files",
                            "restore them, or begin again in another --out")

    def _sources(self) -> dict[str, Any]:
        return {"base": hash_weights(self.base), "data": [file["sha256"] for file in self.reading.files]}

    # ---- the stages ----

    def run(self) -> Report:
        """Go the road."""
        with self.clock.stage("label"):
            began = time.monotonic()
            model = self._load()
            self.opening = time.monotonic() - began
            if not self.kept:
                self.kept = {**self._choose_sizes(model), "sources": self._sources()}
            self._label(int(model.max_length or 1 << 30))
        with self.clock.stage("measure the base"):
            path = self.out / "baseline.json"
            before = Measured.from_json(read_json(path)) if self.plan and path.is_file() else self._measure(model)
            write_json(path, before.to_json())
            self._say_answers(before)
        with self.clock.stage("plan"):
            plan = self.plan or self._plan(model, before)
            say(describe_plan(plan))
            say(f"  {self.kept['changed']}")
        del model
        gc.collect()
        machine.return_memory()  # what the timed steps held, so that the next stage does not stand on top of it
        read = self._reader(plan)
        making = Making(self._make, self._save, self._open)
        if not (self.out / "log.jsonl").is_file():
            with self.clock.stage("rehearsal"):
                rehearse(plan, self.tokenizer, read, self.out / ".rehearsal", self._speak, making)
                gc.collect()
                machine.return_memory()
        with self.clock.stage("train"):
            tuned = self._make()
            hooks = Hooks(lambda: self._validate(tuned), lambda: self._answer(tuned, self.prompts["valid"][:1]))
            end = train(tuned, read, Run(plan.steps, plan.micro_rows, plan.seconds), plan.options(), self.out, hooks)
        actual = {"seconds": round(end.seconds, 3), "seconds_per_step": end.seconds / end.step, "steps": end.step, "tokens": end.tokens,
                  "peak_bytes": machine.peak_memory(), **self._validate(tuned)}
        machine.return_memory()
        with self.clock.stage("evaluate"):
            after = self._measure(tuned)
            self._say_answers(after)
        measured = None
        if self.task is not None:
            with self.clock.stage("measure the task"):
                measured = self.task.measure(tuned.eval(), self.kept["task"]["sources"])
        return self._finish(tuned, plan, actual, before, after, measured)

    def _load(self) -> Any:
        """Open the base, to be used with the products that training uses; what LoRA freezes is kept in their type too."""
        if self.options.method == "lora":
            return load_model(self.base, self.precision)
        model = load_model(self.base)
        model.compute_dtype = getattr(torch, self.precision)
        return model

    def _make(self) -> Any:
        """Open the base and prepare what the method trains; everything else is frozen."""
        return prepare_model(self._load(), self.options)

    def _save(self, model: Any, folder: Path) -> None:
        """Write what was tuned, with all that makes a model directory but myna.json."""
        if self.options.method == "lora":
            save_adapter(model, folder, self.base)
        else:
            save_model(model, folder, self.tokenizer.pad_id)
        self._save_words(folder)

    def _save_words(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        for name in _COPIED:
            if (self.base / name).is_file():
                shutil.copyfile(self.base / name, folder / name)
        if self.template is not None:
            write_atomic(folder / "chat_template.jinja", self.template.text)

    def _open(self, folder: Path) -> Any:
        """Open what `_save` wrote, an adapter beside its base's matrices, so that it must give the same bits."""
        if self.options.method != "lora":
            model = load_model(folder)
            model.compute_dtype = getattr(torch, self.precision)
            return model
        model = self._load()
        load_adapter(model, folder, self.base)
        return model

    def _speak(self, model: Any, tokenizer: Tokenizer) -> None:
        prompts = self.prompts["valid"][:2] or [[tokenizer.separator_id]]
        answer_prompts(model.eval(), prompts, self._ends(), 4)

    # ---- labels ----

    def _choose_sizes(self, model: Any) -> dict[str, Any]:
        """Choose, from the time there is and the speed of a forward pass, how much is labelled and measured."""
        per_token = time_forward(model)
        left = None if self.options.steps is not None else self.options.minutes * 60 - self.clock.seconds
        share = _MEASURING if self.task is None else _MEASURING / 2  # a task has a measure of its own
        most = math.inf if left is None else max(0.0, left) * share / per_token
        look = math.inf if left is None else max(0.0, left) * _LOOKING / per_token
        enough = None if left is None else int(max(4096.0, left / (2 * per_token)))  # learning takes at least twice a forward pass
        return {"per_token": per_token, "test": int(min(_TEST, 0.5 * most)), "unrelated": int(min(_UNRELATED, 0.25 * most)),
                # a generated token is read alone, which takes a few times as long as in a row
                "prompts": int(min(_PROMPTS, max(_SHOWN, 0.25 * most / (3 * _ANSWER_TOKENS)))),
                "valid": int(min(_VALID, look)), "enough": enough, "context": self.options.context}

    def _label(self, longest: int) -> None:
        """Split and label; the gate; show one example."""
        parts = self._take_parts(None)
        context = self.kept["context"] = min(longest, self.kept["context"] or self._choose_context(parts["train"]))
        if self.task is not None:
            parts = self._take_parts(context)
        template: Template | None = self.template
        self.labelled: dict[str, list[Labelled]] = {}
        self.reports: dict[str, LabelReport] = {}
        for name, examples in parts.items():
            enough = {"train": self.kept["enough"], "valid": self.kept["valid"], "test": self.kept["test"]}[name]
            limit = math.inf if enough is None else enough
            self.labelled[name], self.reports[name] = label_examples(examples, self.tokenizer, template, context, limit)
        self.learned = sorted({example.key for name in ("train", "valid") for example in parts[name]})
        for name, least in (("train", 1), ("valid", 1), ("test", 2)):  # an interval needs two
            count = len({piece.number for piece in self.labelled[name]})
            if count < least:
                raise UserError(f"the {name} part has {count} examples that fit a context of {context}", f"at least {least}",
                                "give more rows, a larger --context, or more --minutes to measure them in")
        for line in self.reports["train"].said():
            say(f"  {line}")
        check_labels(self.reports["train"])
        passages = take_passages(self.options.unrelated, self.kept["unrelated"])
        self.labelled["unrelated"], _ = label_examples(passages, self.tokenizer, None, context)
        say("  one example as the model will see it, what is learned " + ("in green:" if sys.stderr.isatty() else "between [[ and ]]:"))
        for line in show_labels(self.labelled["train"][0], self.tokenizer, sys.stderr.isatty()).splitlines():
            for shown in [line] if sys.stderr.isatty() else textwrap.wrap(line, 76) or [""]:
                say(f"    {shown}")
        asked = {name: [example for example in parts[name] if example.messages][:self.kept["prompts"]] for name in ("valid", "test")}
        self.questions = [example.question[-1]["content"] for example in asked["test"]]
        self.prompts = {name: [self._prompt(example)[-(context - 8):] for example in listed] for name, listed in asked.items()}

    def _take_parts(self, context: int | None) -> dict[str, list[Example]]:
        parts = split_examples(self.reading.examples, self.recipe.split) if self.task is None else self.task.lay(
            self.tokenizer, self.template, context)
        parts["train"].sort(key=lambda example: example.key)  # so that those read first are any
        return parts

    def _choose_context(self, examples: Sequence[Example]) -> int:
        """Choose the shortest row that holds nine of ten examples, by the tokens of their contents."""
        contents = [[message["content"] for message in example.messages] or [example.text] for example in examples[:_LOOKED_AT]]
        lengths = sorted(sum(map(len, self.tokenizer.encode_batch(texts))) + TURN_TOKENS * len(texts) for texts in contents)
        wanted = lengths[math.ceil(_FITTING * len(lengths)) - 1]
        return next((context for context in _CONTEXTS if context >= wanted), _CONTEXTS[-1])

    def _prompt(self, example: Example) -> list[int]:
        """The ids that a conversation's first answer follows."""
        messages = example.question
        if self.template is not None:
            return self.template.encode(messages, add_generation_prompt=True)
        return self.tokenizer.encode("\n\n".join(message["content"] for message in messages))

    def _ends(self) -> set[int]:
        return {self.tokenizer.separator_id, *(self.template.end_ids if self.template is not None else ())}

    # ---- measures ----

    def _measure(self, model: Any) -> Measured:
        began = time.monotonic()
        model.eval()
        scores = {name: score_pieces(model, self.labelled[part], self.tokenizer)
                  for name, part in (("answers", "test"), ("unrelated", "unrelated"))}
        scored = time.monotonic() - began
        answers = answer_prompts(model, self.prompts["test"], self._ends(), self.answer_tokens)
        seconds = time.monotonic() - began
        tokens = sum(len(piece.ids) for part in ("test", "unrelated") for piece in self.labelled[part])
        steps = 1 + max((len(answer.ids) for answer in answers), default=0)
        return Measured(scores, answers, seconds, scored / tokens, (seconds - scored) / steps)

    def _validate(self, model: Any) -> dict[str, float]:
        bits, size, tokens = score_pieces(model, self.labelled["valid"], self.tokenizer).sum(axis=0).tolist()
        machine.return_memory()  # pieces of every length leave holes that nothing else fits
        return {"bits_per_byte": bits / max(1.0, size), "loss": bits / tokens * math.log(2)}

    def _answer(self, model: Any, prompts: Sequence[Sequence[int]]) -> str:
        answers = answer_prompts(model.eval(), prompts, self._ends(), self.kept["sample_tokens"])
        return "".join(self.tokenizer.decode(answer.ids) for answer in answers)

    def _say_answers(self, measured: Measured) -> None:
        bits, size, _ = measured.scores["answers"].sum(axis=0)
        asked = len(measured.answers)
        ended = f"; {measured.stopped} of {asked} answers stop by themselves within {self.answer_tokens} tokens" if asked else ""
        say(f"  {bits / max(1.0, size):.3f} bits per byte of what is to be learned, held out{ended}")

    # ---- the plan ----

    def _pack(self) -> Packed:
        examples = [(piece.ids, piece.trained) for piece in self.labelled["train"]]
        return Packed(examples, self.kept["context"], self.options.seed, self.tokenizer.pad_id or 0)

    def _reader(self, plan: Plan) -> Callable[[int], Batch]:
        packed = self._pack()

        def read(step: int) -> Batch:
            return {name: torch.from_numpy(values) for name, values in packed.read(step, plan.batch_rows).items()}

        return read

    def _plan(self, model: Any, before: Measured) -> Plan:
        """Plan, and write plan.json before anything is trained. model: the base, which is spoiled."""
        left = self.options.minutes * 60 - self.clock.seconds
        # a slow machine shows less, so that looks do not take the time of the training
        fitting = int(left * _LOOKING / max(1e-9, before.per_step)) if self.options.steps is None else _SAMPLE_TOKENS
        self.kept["sample_tokens"] = min(_SAMPLE_TOKENS, max(_LEAST_SAMPLE, fitting))
        look = self.kept["valid"] * before.per_token + self.kept["sample_tokens"] * before.per_step
        measuring = _SLOWER * before.seconds + 3 * self.opening + _WRITING_SECONDS
        if self.task is not None:
            self.kept["task"] = self.task.settle(None if self.options.steps is not None else left, _SLOWER * self.kept["per_token"],
                                                 _SLOWER * before.per_step)
            measuring += self.kept["task"]["seconds"]
        costs = Costs(left, measuring, look, self.kept["per_token"])
        prepared = prepare_model(model, self.options)
        self.kept["changed"] = describe_change(prepared, self.options)
        train = settle_tuning(self.options, self.recipe.train)
        plan = plan_tuning(prepared, self._pack(), self.options, train, self.precision, costs)
        write_json(self.out / "plan.json", {**dataclasses.asdict(plan), "request": self.request, "tuning": self.kept})
        return plan

    # ---- the end ----

    def _finish(self, model: Any, plan: Plan, actual: dict[str, Any], before: Measured, after: Measured,
                measured: TaskMeasured | None) -> Report:
        """Write the model and everything that stands beside it; myna.json is last but for the pages."""
        losses = report_tuning(before.scores, after.scores, self.tokenizer.fingerprint, self.precision, self.recipe.evaluate)
        report = losses if measured is None else measured.report
        with self.clock.stage("write"):
            self._save(model, self.out)
            self._write_counts()
            if self.options.merge and self.options.method == "lora":
                save_model(load_model(self.out), self.out / "merged", self.tokenizer.pad_id)  # merged in float32
                self._save_words(self.out / "merged")
                if self.task is not None:
                    self.task.save(self.out / "merged")
            notes = list(plan.notes)
            if self.task is None:
                save_seen(self.out, self.learned)
            if self.task is not None and measured is not None:
                self.task.save(self.out)
                notes = [*self.reading.said(), *self.task.said, *notes]
                write_json(self.out / "report.json", {"report": report.to_json(), **measured.details, "lines": measured.lines,
                                                      "said": notes, "losses": losses.to_json()})
            actual["total_seconds"] = round(self.clock.seconds, 3)
            names = ("adapter_config.json", "adapter_model.safetensors", "config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "task.json")
            write_json(self.out / "myna.json", {
                "format": 1, "version": __version__, "family": "decoder", "golden": self.tokenizer.golden(),
                "hashes": {name: sha256(self.out / name) for name in names if (self.out / name).is_file()}, "lineage": self._lineage(),
                "plan": dataclasses.asdict(plan), "actual": actual, "report": report.to_json(), "samples": [],
                "tuned": self._describe(before, after), "stages": self.clock.stages, "notes": notes})
            (write_pages if self.task is None else write_task_pages)(self.out)
        say(f"[{duration(self.clock.seconds)}] done: {self.out / 'report.html'}")
        return report

    def _describe(self, before: Measured, after: Measured) -> dict[str, Any]:
        """What the report shows of a tuning beside the scores: what was changed, the rows, the labels, answers before and after."""
        shown = [{"prompt": question, "before": self.tokenizer.decode(old.ids), "after": self.tokenizer.decode(new.ids)}
                 for question, old, new in zip(self.questions, before.answers, after.answers, strict=True)]
        return {"base": self.request["base"][0], "base_sha256": self.kept["sources"]["base"], "method": self.options.method,
                "changed": self.kept["changed"], "rows": self.reading.said(), "labels": self.reports["train"].said(),
                "answers": shown[:_SHOWN], "prompts": len(after.answers), "answer_tokens": self.answer_tokens,
                "stopped": {"before": before.stopped, "after": after.stopped},
                "unrelated": "Python's help topics" if self.options.unrelated is None else str(self.options.unrelated)}

    def _write_counts(self) -> None:
        """Write what the pages read of the parts: tokens that are learned, and the bytes they stand for."""
        lengths = np.array([len(piece) for piece in self.tokenizer.token_bytes], np.int64)
        parts = {}
        for name in ("train", "valid", "test"):
            learned = [piece.ids[1:][piece.trained[1:]] for piece in self.labelled[name]]
            parts[name] = {"tokens": sum(map(len, learned)), "bytes": sum(int(lengths[ids].sum()) for ids in learned),
                           "documents": len({piece.number for piece in self.labelled[name]})}
        (self.out / "tokens").mkdir(exist_ok=True)
        per_token = parts["train"]["bytes"] / max(1, parts["train"]["tokens"])
        counts = {"vocab_size": self.tokenizer.vocab_size, "bytes_per_token": per_token, "parts": parts}
        write_json(self.out / "tokens" / "report.json", counts)

    def _lineage(self) -> dict[str, Any]:
        return {"inputs": self.reading.files, "request": self.request, "base_sha256": self.kept["sources"]["base"],
                "seed": self.options.seed, "threads": self.options.threads or machine.usable_cores(), "argv": sys.argv,
                "versions": list_versions()}
