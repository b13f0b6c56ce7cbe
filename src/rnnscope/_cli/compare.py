"""What the command compare reads and prints: an input, initial states, lengths; a verdict.

Files are data: nothing in them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._cli.inputs import MOST, reader_of
from rnnscope._cli.terminal import ArgumentError
from rnnscope._compare import Verdict, compare
from rnnscope._escaping import fenced
from rnnscope._files.arrays import read_npz
from rnnscope._files.disk import LazyArray
from rnnscope._layers.adopt import adopt
from rnnscope.errors import DtypeError, FileError, RnnscopeError, ShapeError

__all__ = ["Comparison", "Printed", "initial_states"]


@dataclass(frozen=True)
class Comparison:
    """Recorded numbers against a layer, as options of the command give them."""

    layer: nn.Module
    x: Tensor
    candidate: Path
    initial: Any = None
    lengths: list[int] | None = None
    axes: str | None = None
    effort: float = 1.0

    def verdict(self) -> Verdict:
        """What ``rnnscope.compare`` finds; raises what it raises, with options for arguments."""
        try:
            return compare(
                self.candidate,
                self.layer,
                self.x,
                self.initial,
                lengths=self.lengths,
                axes=self.axes,
                effort=self.effort,
            )
        except RnnscopeError as error:
            text = _in_options(str(error))
            raise (ArgumentError(text) if text != str(error) else error) from error


@dataclass(frozen=True)
class Printed:
    """A verdict in the forms that a command prints."""

    verdict: Verdict

    def __str__(self) -> str:
        return _in_options(str(self.verdict))

    def markdown(self) -> str:
        """The text as a block that keeps its columns."""
        return fenced(str(self).rstrip("\n")) + "\n"

    def data(self) -> dict[str, Any]:
        """Everything as plain values."""
        return self.verdict.to_dict()


def _in_options(text: str) -> str:
    """Arguments of Python as options of the command.

    >>> _in_options("say which, axes='tbu' or 'btu'")
    'say which, --axes tbu or btu'
    """
    said = re.sub(r"\baxes='(\w*)'", r"--axes \1", text)
    if said != text:
        said = re.sub(r"'([btu]{1,3})'", r"\1", said)
    return said


def initial_states(path: Path, layer: nn.Module) -> Any:
    """The initial states in an ``.npz`` file, ``h_0`` and where the layer has it ``c_0``, in the
    form that the layer takes.

    Raises ``FileError`` where one is missing, or something else is there.
    """
    arrays = reader_of(path, {".npz": read_npz})(path).arrays
    wanted = [f"{state}_0" for state in adopt(layer).cell.states]
    if sorted(arrays) != sorted(wanted):
        held = ", ".join(arrays) or "nothing"
        raise FileError(
            f"{path}: expected {' and '.join(wanted)}, (layers × directions, batch, hidden); "
            f"it holds {held}"
        )
    dtype = next(layer.parameters()).dtype
    states = tuple(_numbers(arrays[name], f"{path}: {name}").to(dtype) for name in wanted)
    return states[0] if len(states) == 1 else states


def _numbers(held: LazyArray, what: str) -> Tensor:
    if held.count > MOST:
        raise ShapeError(f"{what} has {held.count} numbers, more than {MOST}")
    try:
        value = held.read()
    except TypeError as error:  # text, dates and whatever else torch has no type for
        raise DtypeError(f"{what} must hold real numbers: {error}") from error
    if value.is_complex():
        raise DtypeError(f"{what} must hold real numbers; got {value.dtype}")
    return value.to(torch.float64)
