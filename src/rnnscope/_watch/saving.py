"""What a watch saw, on disk: a folder with a trace for each call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnnscope._trace.verbs import Trace
from rnnscope.errors import FileError

__all__ = ["save_calls"]


def save_calls(folder: Path, calls: Mapping[str, Sequence[Trace]]) -> None:
    """Write the calls of each layer; see ``Seen.save``."""
    try:
        folder = folder.expanduser()  # mkdir would make a folder of the name "~"
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}") from error
    if occupied:
        raise FileError(f"cannot write {folder}: it holds something already; name a new folder")
    for name, traces in calls.items():
        for number, trace in enumerate(traces):
            trace.save(folder / f"{_file_name(name)}{number}.trace")


def _file_name(layer: str) -> str:
    """A layer's name as the beginning of a file's: what no file's name may hold is written out."""
    safe = re.sub(r"[^\w.\-]", lambda match: f"%{ord(match[0]):02x}", layer)
    return f"{safe}." if safe else ""
