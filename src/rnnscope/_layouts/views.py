"""Which numbers of a stored array belong to which parameter of which gate.

This one function serves both directions: reading copies out of the views, writing into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from rnnscope._layouts.layout import UNUSED, Array, Stored
from rnnscope.errors import ShapeError

__all__ = ["Piece", "Sizes", "measure", "shape_of", "views"]

Piece = tuple[str, str]
"""A parameter of a gate, such as ("W_ih", "f"); the projection is ("W_hr", "")."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one layer: input, units, and h, which a projection makes smaller."""

    feature: int
    hidden: int
    output: int

    def width(self, part: str) -> int:
        """The size of the vector that a matrix multiplies."""
        return self.feature if part == "W_ih" else self.output


def shape_of(stored: Stored, array: Array, gates: str, sizes: Sizes) -> tuple[int, ...]:
    """The shape in which an array is stored, for one layer in one direction."""
    stack = len(gates) * sizes.hidden
    match array.parts:
        case ("W_hr",):
            shape = (sizes.output, sizes.hidden)
        case ("peephole",) | ("b_ih",) | ("b_hh",):
            return (stack,)
        case ("b_ih", "b_hh"):
            return (2, stack) if stored.biases == "stacked" else (2 * stack,)
        case parts:
            shape = (stack, sum(map(sizes.width, parts)))
    return shape if stored.orientation == "rows" else shape[::-1]


def views(
    stored: Stored, array: Array, gates: str, tensor: Tensor, sizes: Sizes
) -> Iterator[tuple[Piece, Tensor, tuple[int, ...]]]:
    """Each piece in an array: a view of its numbers, and the shape that PyTorch gives them.

    The view has that shape, except with ``reshaped``, where its numbers have only its order.
    """
    H = sizes.hidden
    of_gate = {g: slice(k * H, (k + 1) * H) for k, g in enumerate(gates) if g != UNUSED}
    match array.parts:
        case ("W_hr",):
            rows = tensor if stored.orientation == "rows" else tensor.T
            yield ("W_hr", ""), rows, (sizes.output, H)
        case ("b_ih", "b_hh"):
            for part, half in zip(array.parts, tensor.reshape(2, -1), strict=True):
                for gate, rows_of in of_gate.items():
                    yield (part, gate), half[rows_of], (H,)
        case (("peephole" | "b_ih" | "b_hh") as part,):
            for gate, rows_of in of_gate.items():
                yield (part, gate), tensor[rows_of], (H,)
        case parts:
            start = 0
            for part in parts:
                width = sizes.width(part)
                for gate, rows_of in of_gate.items():
                    shape = (H, width)
                    match stored.orientation:
                        case "rows":
                            yield (part, gate), tensor[rows_of, start : start + width], shape
                        case "columns":
                            yield (part, gate), tensor[start : start + width, rows_of].T, shape
                        case "reshaped":
                            yield (part, gate), tensor[:, rows_of], shape
                start += width


def measure(stored: Stored, arrays: Mapping[Array, tuple[str, str, Tensor]]) -> Sizes:
    """The sizes of one layer, from one array of each kind that holds a matrix.

    ``found`` maps each array to (name, gates, tensor). Raises ``ShapeError``.
    """
    across = 0 if stored.orientation == "rows" else 1  # the axis on which gates are stacked

    def matrix(part: str) -> tuple[Array, str, str, Tensor] | None:
        for array, (name, gates, tensor) in arrays.items():
            if part in array.parts:
                if tensor.dim() != 2:
                    raise ShapeError(
                        f"{name} must have 2 dims for each direction; got {tuple(tensor.shape)}"
                    )
                return array, name, gates, tensor
        return None

    recurrent, inputs, projection = matrix("W_hh"), matrix("W_ih"), matrix("W_hr")
    assert recurrent is not None
    assert inputs is not None
    _, name, gates, tensor = recurrent
    rows = tensor.shape[across]
    if rows % len(gates) or not rows:
        raise ShapeError(
            f"{name} must have {len(gates)} × hidden {'rows' if across == 0 else 'columns'}, "
            f"for the gates {gates}; got {tuple(tensor.shape)}"
        )
    hidden = output = rows // len(gates)
    if projection is not None:
        output = projection[3].shape[across]
    array, name, _, tensor = inputs
    feature = tensor.shape[1 - across] - (output if "W_hh" in array.parts else 0)
    if feature < 1:
        raise ShapeError(
            f"{name} must hold input + {output} {'columns' if across == 0 else 'rows'}; "
            f"got {tuple(tensor.shape)}"
        )
    return Sizes(feature, hidden, output)
