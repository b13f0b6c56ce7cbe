"""What a file that rnnscope wrote says of its cells, beside the arrays.

Arrays do not tell the two forms of a GRU apart, nor an LSTM of coupled gates from them, nor tanh
from relu. Each format has a place that other readers pass over: the ``_metadata`` of a state dict,
in which PyTorch keeps the versions of modules; the metadata of .safetensors; the comment of a
.npz, which is a .zip; an attribute of .h5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnnscope._files.content import FileContent
from rnnscope._files.stored_layer import CELL_KINDS, LoadRequest
from rnnscope._layers.recurrent import CELL_KEY
from rnnscope._layouts.kinds import nonlinearity_of, storage_kind
from rnnscope.cells import DECLARED
from rnnscope.errors import FileError, RefusedError

__all__ = ["KEY", "with_file_cell", "short_mark_of", "mark_of", "marks_in", "marks_of_state"]

KEY = "rnnscope.cells"
ROOM = 60_000  # bytes; a comment of .zip and an attribute of HDF5 have 64 KiB


def mark_of(cells: Mapping[str, str]) -> str:
    """The text that names the cell of each layer."""
    return json.dumps(dict(cells))


def short_mark_of(ending: str, cells: Mapping[str, str]) -> str:
    """The same text for a format with little room. Raises ``RefusedError`` if it is too long."""
    text = mark_of(cells)
    if len(text.encode()) > ROOM:
        raise RefusedError(
            f"what {len(cells)} layers are takes {len(text.encode())} bytes beside their arrays; "
            f"a {ending} file has room for {ROOM}: write .safetensors or .pt"
        )
    return text


def marks_in(path: Path, text: Any) -> dict[str, str]:
    """The cells that a file says its layers have. Raises ``FileError``."""
    try:
        cells = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: damaged: {KEY} is no JSON") from error
    if not isinstance(cells, dict) or not all(isinstance(cell, str) for cell in cells.values()):
        raise FileError(f"{path}: damaged: {KEY} must map layers to cells; got {str(cells)[:80]}")
    return cells


def marks_of_state(state: Mapping[Any, Any], before: str) -> dict[str, str]:
    """The cells that the ``_metadata`` of a state dict names."""
    cells = {}
    metadata = getattr(state, "_metadata", None)
    for name, facts in metadata.items() if isinstance(metadata, Mapping) else ():
        cell = facts.get(CELL_KEY) if isinstance(facts, Mapping) else None
        if isinstance(name, str) and isinstance(cell, str):
            cells[f"{before}{name}".rstrip(".")] = cell
    return cells


def with_file_cell(
    content: FileContent, name: str, place: str, request: LoadRequest
) -> LoadRequest:
    """The request for one layer, with the cell that the file says it has.

    Raises ``FileError`` where the caller says otherwise, ``RefusedError`` for a cell of which the
    file holds the name alone.
    """
    file_cell = content.cells.get(name)
    if file_cell is None:
        return request
    if file_cell not in DECLARED:
        raise RefusedError(
            f"{place}: its cell {file_cell[:80]!r} is declared in a program, not here: build "
            f"rnnscope.Recurrent(cell, ...) of that cell, and load_state_dict, or give it: "
            f"rnnscope.load(path, cells={{{name!r}: cell}})"
        )
    if request.cell is not None and storage_kind(file_cell) not in CELL_KINDS[request.cell]:
        raise FileError(f"{place}: the file says {file_cell}; got cell={request.cell!r}")
    stored, requested = nonlinearity_of(DECLARED[file_cell]), request.requested_nonlinearity
    if stored is not None and requested not in (None, stored):
        raise FileError(f"{place}: the file says {stored}; got nonlinearity={requested!r}")
    return replace(request, cell=file_cell)
