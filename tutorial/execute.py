"""Execute tutorials in their places, so that they show what the present code prints.

OMP_NUM_THREADS=1 python tutorial/execute.py           # all of them
OMP_NUM_THREADS=1 python tutorial/execute.py 05 07     # those whose names begin so
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell; how its printed text came in pieces depends on the machine's load."""
    whole: list[nbformat.NotebookNode] = []
    for output in outputs:
        before = whole[-1] if whole else None
        if before and output.output_type == "stream" and before.get("name") == output.name:
            before.text += output.text
        else:
            whole.append(output)
    return whole


def execute(path: Path) -> None:
    """Run a notebook from top to bottom, and write it back with what it shows."""
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()  # the kernel writes its own version of Python into it
    here = {"metadata": {"path": str(HERE)}}
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=here, record_timing=False
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    notebook.metadata = metadata
    nbformat.write(notebook, path)
    print(path.name)


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:])
    for path in sorted(HERE.glob("*.ipynb")):
        if not chosen or path.name.startswith(chosen):
            execute(path)
