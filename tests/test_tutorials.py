"""The tutorials run from top to bottom, and show what is committed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorial"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

QUICK = ("01_basic_rnn", "05_stacked_and_bidirectional")
"""These run in `make test`, the others in `make test-all`: the kernel of each starts anew."""

LARGEST = 100_000
"""Bytes of a notebook with its outputs: pictures are few and small."""


def text_of(output: nbformat.NotebookNode) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell shows, as text."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = "".join(map(text_of, cell.outputs))
            # what rounding leaves over differs from machine to machine
            found.append(re.sub(r"\b\d(\.\d+)?e[-+]\d+\b|difference 0\b", "#", shown))
    return found


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else [pytest.mark.slow])
        for path in NOTEBOOKS
    ],
)
def test_a_tutorial_shows_what_it_computes(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    executed = nbformat.read(path, as_version=4)
    # an error in a cell, an assert among them, is raised here
    here = {"metadata": {"path": str(FOLDER)}}  # as Jupyter opens it
    NotebookClient(executed, timeout=300, kernel_name="python3", resources=here).execute()
    again = f"python tutorial/execute.py {path.stem[:2]}, look at it, and commit it"
    assert texts(executed) == texts(committed), again


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_executed_and_is_the_same_in_every_run(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "execute the notebook and commit it"
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.get("name") != "stderr" for output in outputs)  # warnings
    assert not any(re.search(r"\b0x[0-9a-f]{6,}|/tmp/", text_of(output)) for output in outputs)
    assert path.stat().st_size < LARGEST


def test_the_list_of_tutorials_names_each_in_its_order() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\((\w+\.ipynb)\)", page) == [path.name for path in NOTEBOOKS]
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{k + 1:02}" for k in range(len(NOTEBOOKS))]
    for path in NOTEBOOKS:
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        number, words = title.removeprefix("# ").split(". ", 1)
        assert int(number) == int(path.name[:2])
        assert f"[{words.replace('`', '')}]" in page.replace("`", "")
    assert set(QUICK) < {path.stem for path in NOTEBOOKS}
