"""Measure a model at conversations it did not learn from, beside an n-gram model of others and the model it was tuned from.

    evaluate_chat(Path("my-chat"), [Path("talks.jsonl")], TuneRecipe()).report.metrics["perplexity"].value

The n-gram counts what stands in the same data: the conversations that the model learned from too where there are some, else the half
that is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from myna import machine
from myna.console import say
from myna.data.conversations import Example, read_conversations
from myna.data.labels import label_examples
from myna.errors import UserError
from myna.evaluate.dialogue import TOKENS, measure_dialogue, speak, take_talks
from myna.evaluate.measured import Measured
from myna.models.adapter import find_base, is_adapter, read_adapter
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.models.pretrained import load_model
from myna.recipe import TuneRecipe
from myna.roads.seen import read_seen
from myna.tokenizer.chat import ChatTemplate
from myna.tokenizer.tokenizer import Tokenizer

_CONTEXT = 512  # tokens of a conversation seen at once, as the longest row of a tuning
_MEASURED, _PROMPTS = 16_384, 32  # tokens of conversations scored, and conversations answered, at most: own choice
_COUNTED = 500_000  # tokens that the n-gram counts at most: own choice
_FEWEST = 4  # conversations: two to measure, two to count
_ORDER, _VALID_SHARE = 5, 10  # the longest n-gram that is tried; one in so many conversations chooses its order


def evaluate_chat(folder: Path, data: Sequence[Path], recipe: TuneRecipe) -> Measured:
    """Measure a model's answers. Raises UserError when it has no chat template, or too few conversations are left."""
    from myna.api import load

    precision: Any = "bfloat16" if machine.probe().bfloat16_pays else "float32"
    opened = load(folder, precision=precision)
    folder, tokenizer, template = opened.folder, opened.tokenizer, opened.chat_template
    model: Any = opened.language_model
    reading = read_conversations(data, recipe.rows)
    for line in reading.said():
        say(f"  {line}")
    talks = sorted((example for example in reading.examples if example.messages), key=lambda example: example.key)
    if len(talks) < len(reading.examples):
        say(f"  {len(reading.examples) - len(talks):,} texts are no conversations and are left out")
    measured, counted = _divide(folder, talks)
    context = min(_CONTEXT, model.max_length or _CONTEXT)
    if context <= TOKENS:
        raise UserError(f"{folder} can see {context} tokens", f"more than the {TOKENS} of an answer", "measure another model")
    taken = take_talks(measured, tokenizer, template, context, _MEASURED, _PROMPTS)
    if len({piece.number for piece in taken.pieces}) < 2:
        raise UserError(f"{len(measured)} conversations that do not fit {context} tokens", "at least 2 that do", "give others")
    say(f"  measured on {taken.report.examples:,} of {len(measured):,} conversations ({taken.report.tokens:,} tokens), "
        f"{len(taken.prompts):,} of them answered")
    for line in taken.report.said()[2:]:
        say(f"  {line}")
    ngram = _count(counted, tokenizer, template, context)
    ends = opened.rules.end_ids | template.end_ids | tokenizer.special_ids | {tokenizer.separator_id}
    base = None
    if is_adapter(folder):
        place = find_base(read_adapter(folder))
        base = (place.name, speak(load_model(place, precision), taken, tokenizer, ends))
    own, counts = speak(model, taken, tokenizer, ends), speak(ngram, taken, tokenizer, ends)
    return measure_dialogue(taken, own, (ngram.name, counts), base, tokenizer, recipe.evaluate)


def _divide(folder: Path, talks: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Choose the conversations that are measured, and those that the n-gram counts. talks: in the order of their hashes."""
    seen = read_seen(folder)
    unseen = [example for example in talks if example.key not in seen]
    learned = [example for example in talks if example.key in seen]
    if learned:
        say(f"  {len(learned):,} conversations were learned from and are left out; the n-gram counts them")
    if not unseen:
        raise UserError(f"{folder} learned from all {len(talks):,} conversations", "some that it never saw", "give others")
    if len(learned) < _FEWEST // 2:
        half = len(unseen) // 2
        unseen, learned = unseen[:half], [*learned, *unseen[half:]]
        say(f"  {len(unseen):,} conversations to be measured; the n-gram counts the other {len(learned):,}")
    if len(unseen) < 2 or len(learned) < 2:
        raise UserError(f"{len(talks):,} conversations", f"at least {_FEWEST}, two to measure and two for the n-gram", "give more")
    return unseen, learned


def _count(talks: Sequence[Example], tokenizer: Tokenizer, template: ChatTemplate, context: int) -> Ngram:
    """Count the n-grams of whole conversations; one in ten chooses the order, but one at least."""
    pieces, _ = label_examples(talks, tokenizer, template, context, _COUNTED)
    streams: dict[bool, list[int]] = {False: [], True: []}
    last = pieces[-1].number if pieces else 0
    for piece in pieces:
        chooses = piece.number % _VALID_SHARE == _VALID_SHARE - 1 or (last < _VALID_SHARE - 1 and piece.number == last)
        streams[chooses] += [*piece.ids.tolist(), tokenizer.separator_id]
    if not streams[False] or not streams[True]:
        raise UserError(f"{len(talks)} conversations for the n-gram, of which too few fit {context} tokens", "at least 2 that do",
                        "give more")
    train, valid = (np.array(streams[chooses], np.int64) for chooses in (False, True))
    return fit_ngram(train, valid, tokenizer.vocab_size, tokenizer.separator_id, NgramOptions(max_order=_ORDER))
