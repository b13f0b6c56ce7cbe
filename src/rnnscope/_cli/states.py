"""Initial states as a command line gives them: words such as ``h_0=0.5``, or an ``.npz`` file.

Files are data: nothing in them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._cli.inputs import MOST, number, reader_of
from rnnscope._cli.terminal import ArgumentError
from rnnscope._files.arrays import read_npz
from rnnscope._files.disk import LazyArray
from rnnscope._layers.adopt import adopt
from rnnscope.errors import DtypeError, FileError, ShapeError

__all__ = ["initial_states", "named_states"]


def initial_states(path: Path, layer: nn.Module) -> Any:
    """The initial states in an ``.npz`` file, ``h_0`` and where the layer has it ``c_0``, in the
    form that the layer takes.

    Raises ``FileError`` where one is missing, or something else is there.
    """
    arrays = reader_of(path, {".npz": read_npz})(path).arrays
    names = [f"{state}_0" for state in adopt(layer).cell.states]
    if sorted(arrays) != sorted(names):
        present = ", ".join(arrays) or "nothing"
        raise FileError(
            f"{path}: expected {' and '.join(names)}, (layers × directions, batch, hidden); "
            f"it holds {present}"
        )
    dtype = next(layer.parameters()).dtype
    states = tuple(_numbers(arrays[name], f"{path}: {name}").to(dtype) for name in names)
    return states[0] if len(states) == 1 else states


def _numbers(array: LazyArray, place: str) -> Tensor:
    if array.count > MOST:
        raise ShapeError(f"{place} has {array.count} numbers, more than {MOST}")
    try:
        value = array.read()
    except TypeError as error:  # text, dates and whatever else torch has no type for
        raise DtypeError(f"{place} must hold real numbers: {error}") from error
    if value.is_complex():
        raise DtypeError(f"{place} must hold real numbers; got {value.dtype}")
    return value.to(torch.float64)


def named_states(words: Sequence[str], layer: Any, batch: int) -> Any:
    """The initial states that words give, in the form that the layer takes: zeros where no word
    names a state, a number for every unit, or as many as there are units.

    Raises ``ArgumentError`` for a state that the layer lacks, and for a count that does not fit.
    """
    if len(words) == 1 and Path(words[0]).suffix == ".npz":
        return initial_states(Path(words[0]), layer)
    adopted = adopt(layer)
    names = [f"{state}_0" for state in adopted.cell.states]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    projected = getattr(layer, "proj_size", 0) or layer.hidden_size
    sizes = {name: projected if name == "h_0" else layer.hidden_size for name in names}
    parameter = next(layer.parameters())
    states = {
        name: torch.zeros(rows, batch, size, dtype=parameter.dtype, device="cpu")
        for name, size in sizes.items()
    }
    for word in words:
        name, values = _assignment(word, names)
        states[name] += _fitting(name, values, rows, batch, sizes[name])
        if bool(states[name].isinf().any()) and all(map(math.isfinite, values)):
            raise ArgumentError(f"--initial {word!r}: too large for {parameter.dtype}")
    given = tuple(states.values())
    return given[0] if len(given) == 1 else given


def _assignment(word: str, names: list[str]) -> tuple[str, list[float]]:
    match = re.fullmatch(r"\s*(\w+)\s*=\s*(.+?)\s*", word)
    if match is None:
        raise ArgumentError(f"--initial {word!r}: expected h_0=0.5, h_0=0.5,-1 or an .npz file")
    name, values = match.groups()
    if name not in names:
        raise ArgumentError(f"--initial: no state {name!r}; the layer has {' and '.join(names)}")
    try:
        return name, [number(part) for part in values.split(",")]
    except ValueError as error:
        raise ArgumentError(f"--initial {word!r}: {error}") from error


def _fitting(name: str, values: list[float], rows: int, batch: int, size: int) -> Tensor:
    """The numbers as (layers × directions, batch, size)."""
    value = torch.tensor(values, dtype=torch.float64, device="cpu")
    if value.numel() in (1, size):
        return value.expand(rows, batch, -1)
    if value.numel() == rows * size:
        return value.reshape(rows, 1, size).expand(-1, batch, -1)
    counts = [f"{size}, one for each unit"] if size > 1 else []
    counts += [f"{rows * size}, for each layer and direction"] if rows > 1 else []
    raise ArgumentError(
        f"--initial {name}: expected 1 number" + "".join(f", or {count}" for count in counts) + "; "
        f"got {value.numel()}"
    )
