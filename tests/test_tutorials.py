"""The tutorials run from top to bottom, and show what is committed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorial"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def text_of(output: nbformat.NotebookNode) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell shows, as text."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = "".join(map(text_of, cell.outputs))
            # what rounding leaves over differs from machine to machine
            found.append(re.sub(r"\b\d(\.\d+)?e-\d+\b|difference 0\b", "#", shown))
    return found


def test_there_are_tutorials() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_shows_what_it_computes(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    executed = nbformat.read(path, as_version=4)
    # an error in a cell, an assert among them, is raised here
    here = {"metadata": {"path": str(FOLDER)}}  # as Jupyter opens it
    NotebookClient(executed, timeout=300, kernel_name="python3", resources=here).execute()
    assert texts(executed) == texts(committed), "execute the notebook again and commit it"
    assert all(cell.execution_count for cell in committed.cells if cell.cell_type == "code")
