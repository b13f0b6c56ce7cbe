"""Checkpoints in several files, with an index that says which array lies in which."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rnnscope._files.content import FileContent
from rnnscope._files.disk import Allowance, LazyArray, no_file
from rnnscope.errors import FileError

__all__ = ["INDEX", "read_index", "refuse_shard"]

INDEX = ".index.json"
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<ending>\.\w+)")
_PARSED = 40  # JSON takes up to so many times its bytes


def read_index(path: Path, read: Callable[[Path], FileContent]) -> FileContent:
    """The arrays of all files that an index names; each file is read by ``read``.

    Raises ``FileError`` where the index is damaged, or names what is not in its folder.
    """
    allowance = Allowance.of(path)
    allowance.take(_PARSED * allowance.size, "the index")
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        places = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: expected the index of a checkpoint, an object with weight_map, which maps "
            f"names of arrays to files"
        ) from error
    contents: dict[str, FileContent] = {}
    for file in dict.fromkeys(places.values()):
        shard = path.parent / file
        if Path(file).name != file or not shard.is_file():
            reason = no_file(shard) if Path(file).name == file else "outside of the index's folder"
            raise FileError(f"{path}: it names {file[:80]!r}: {reason}")
        contents[file] = read(shard)
    arrays: dict[str, LazyArray] = {}
    for name, file in places.items():
        if name not in contents[file].arrays:
            raise FileError(f"{path}: damaged: {name[:80]} is not in {file}, as the index says")
        arrays[name] = contents[file].arrays[name]
    if not contents:
        raise FileError(f"{path}: its weight_map names no file")
    whole = Allowance(path, sum(content.allowance.size for content in contents.values()))
    whole.spent = sum(content.allowance.spent for content in contents.values())
    cells = {name: cell for content in contents.values() for name, cell in content.cells.items()}
    first = next(iter(contents.values()))
    return replace(first, path=path, allowance=whole, arrays=arrays, cells=cells, conversions={})


def refuse_shard(path: Path) -> None:
    """Raise ``FileError`` for one file of several: arrays of a layer may be in another."""
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) < 2:
        return
    index = path.with_name(f"{match['stem']}{match['ending']}{INDEX}")
    how = (
        f"load {index.name}, which names them all"
        if index.is_file()
        else f"load their index, {index.name}, which is not here; or rename the file, if it holds "
        f"the layers whole"
    )
    raise FileError(f"{path}: one of {int(match['count'])} files of a checkpoint: {how}")
