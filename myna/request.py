"""What a build was asked for, kept with its plan so that `--resume` goes on with the same, or says what differs. Nothing heavy here.

    request_of(Recipe(), [Path("my-texts/")], [], [])["inputs"]      # ["my-texts"]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.files import read_json
from myna.recipe import Recipe, differences


def request_of(recipe: Recipe, inputs: Sequence[Path], valid: Sequence[Path], test: Sequence[Path]) -> dict[str, Any]:
    """Return what plan.json keeps of a request."""
    paths = {"inputs": inputs, "valid": valid, "test": test}
    return {"recipe": recipe.to_json(), **{name: [str(path) for path in listed] for name, listed in paths.items()}}


def saved_request(out: Path, recipe: Recipe, inputs: Sequence[Path], resume: bool, valid: Sequence[Path], test: Sequence[Path],
                   ) -> tuple[Recipe, Sequence[Path], Sequence[Path], Sequence[Path]] | None:
    """Decide what to build: the request as given or, on --resume, the one saved with the plan. None: nothing is left to do."""
    planned, finished = (out / "plan.json").is_file(), (out / "myna.json").is_file()
    if (planned or finished) and not resume:
        raise UserError(f"{out} already holds a {'finished model' if finished else 'build that was not finished'}", "a new directory",
                        "go on with --resume, or choose another --out")
    if not (planned or finished):
        if not inputs:
            raise UserError(f"nothing to build from: {out} holds no plan to resume" if resume else "no input was given",
                            "files or folders of text", "myna build my-texts/ --out my-model")
        return recipe, inputs, valid, test
    saved = read_json(out / "plan.json")["request"] if planned else read_json(out / "myna.json")["lineage"]["request"]
    old = Recipe.from_json(saved["recipe"], str(out))
    changed = differences(old, recipe, given_only=True)
    for name, paths in {"inputs": inputs, "valid": valid, "test": test}.items():
        if paths and [str(path) for path in paths] != saved[name]:
            changed.append(f"{name} were {' '.join(saved[name])}, now {' '.join(map(str, paths))}")
    if changed:
        raise UserError(f"{out} was begun with other options: {'; '.join(changed[:3])}", "the options it was begun with",
                        f"myna build --resume --out {out} takes them from there")
    if finished:
        return None
    inputs, valid, test = ([Path(path) for path in saved[name]] for name in ("inputs", "valid", "test"))
    return old, inputs, valid, test
