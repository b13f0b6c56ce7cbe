"""Golden files: texts kept in tests/golden, written anew where RNNSCOPE_REGENERATE=1."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, text: str) -> None:
    """The text is the one in the golden file of that name."""
    file = FOLDER / name
    if os.environ.get("RNNSCOPE_REGENERATE") == "1":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    assert file.is_file(), f"no {file}: run with RNNSCOPE_REGENERATE=1 and look at what it wrote"
    assert text.rstrip("\n") + "\n" == file.read_text(encoding="utf-8")
