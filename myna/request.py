"""What a run was asked for, kept with its plan so that `--resume` goes on with the same, or says what differs. Nothing heavy here.

    request_of(Recipe(), {"inputs": [Path("my-texts/")]})["inputs"]      # ["my-texts"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.files import read_json
from myna.recipe import AnyRecipe, differences

Inputs = Mapping[str, Sequence[Path]]  # what is read, by the names of its roles: inputs, valid, test; base, data

_EXAMPLES = {"build": ("files or folders of text", "myna build my-texts/ --out my-model"),
             "tune": ("files or folders of rows", "myna tune smollm2 my-rows.jsonl --out my-model")}


def request_of(recipe: AnyRecipe, given: Inputs) -> dict[str, Any]:
    """Return what plan.json keeps of a request."""
    return {"recipe": recipe.to_json(), **{name: [str(path) for path in listed] for name, listed in given.items()}}


def saved_request(out: Path, recipe: AnyRecipe, given: Inputs, resume: bool, command: str = "build") -> tuple[AnyRecipe, Inputs] | None:
    """Decide what to make: the request as given or, on --resume, the one saved with the plan. None: nothing is left to do.

    given: its first role is what there must be something of.
    """
    planned, finished = (out / "plan.json").is_file(), (out / "myna.json").is_file()
    expected, example = _EXAMPLES[command]
    if (planned or finished) and not resume:
        raise UserError(f"{out} already holds a {'finished model' if finished else f'{command} that was not finished'}", "a new directory",
                        "go on with --resume, or choose another --out")
    if not (planned or finished):
        if not next(iter(given.values())):
            got = f"nothing to {command} from: {out} holds no plan to resume" if resume else "no input was given"
            raise UserError(got, expected, example)
        return recipe, given
    saved = read_json(out / "plan.json")["request"] if planned else read_json(out / "myna.json")["lineage"]["request"]
    if not set(given) <= set(saved):
        raise UserError(f"{out} was not made by myna {command}", "a directory that it began", "choose another --out")
    old = type(recipe).from_json(saved["recipe"], str(out))
    changed = differences(old, recipe, given_only=True)
    for name, paths in given.items():
        if paths and [str(path) for path in paths] != saved[name]:
            changed.append(f"{name} were {' '.join(saved[name])}, now {' '.join(map(str, paths))}")
    if changed:
        raise UserError(f"{out} was begun with other options: {'; '.join(changed[:3])}", "the options it was begun with",
                        f"myna {command} --resume --out {out} takes them from there")
    return None if finished else (old, {name: [Path(path) for path in saved[name]] for name in given})
