"""The readable versions that the documentation shows are what the tests hold the real code against: one text, two uses."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def load_block(page: str, number: int = 0) -> ModuleType:
    """Import the `number`-th python block of a page of the documentation as a module."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.py"
        path.write_text(blocks[number], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"{Path(page).stem}_{number}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module
