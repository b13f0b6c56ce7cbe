"""Calls of a compiled reverse pass: the addresses of all that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._gradients.backward import Gradient, PartValues
from rnnscope._kernels.engine import pieces
from rnnscope._kernels.reverse import ReverseKernel
from rnnscope._layers.compiled import packed_columns
from rnnscope.cells.algebra import Expr, Previous, Quantity, Vector, Weighted

__all__ = ["Adjoints", "swept"]


@dataclass(frozen=True)
class Adjoints:
    """The memory that a reverse pass fills, of one layer and direction, time first: the gates'
    adjoints of the products with h and with x (the same where they are shared), and those that are
    kept by name."""

    of_h: Tensor
    of_x: Tensor
    kept: Mapping[str, Tensor]


def swept(
    kernel: ReverseKernel,
    part: PartValues,
    direct: Mapping[str, Tensor],
    call: tuple[Tensor, bool],
    adjoints: Adjoints,
) -> tuple[dict[str, Tensor], Gradient]:
    """Fill the adjoints; returns those of the initial states, and the gradients of parameters.

    ``direct`` is what reaches states from outside, (time, batch, unit); ``call`` the sequences'
    lengths and whether they run backward.
    """
    weights, (steps, batch) = part.weights, part.x.shape[:2]
    lengths, reverse = call[0].to(torch.int64).contiguous(), call[1]
    units, cell = weights.hidden_size, kernel.cell
    new = weights.ih.new_zeros
    carry = {state: new(batch, units) for state in cell.states}
    vectors = {name: new(steps, batch, units) for name in cell.vectors}
    block = part.block(0, steps)

    def numbers(leaf: Expr) -> Tensor:
        if isinstance(leaf, Quantity | Previous | Vector):
            return block.value(leaf).resolve_neg().contiguous()
        assert isinstance(leaf, Weighted), "what is read is a leaf"
        return block.products((leaf,), None).resolve_neg().contiguous()

    read = [numbers(leaf) for leaf in kernel.read]
    outside = {state: value.contiguous() for state, value in direct.items()}
    gates = kernel.places.gates
    rows = torch.cat([weights.hh[weights.rows(gate)] for gate in gates] or [weights.hh[:0]])
    hh = packed_columns(rows, kernel.lanes)
    for value in (adjoints.of_h, adjoints.of_x, *adjoints.kept.values()):
        assert value.is_contiguous(), "a kernel writes one row after the other"
    count = pieces(steps * batch * units * len(cell.equations), batch)
    kernel.compiled(
        [
            *(-(-batch // count), steps, batch, units, int(reverse), lengths.data_ptr()),
            *(adjoints.of_h.data_ptr(), adjoints.of_x.data_ptr(), hh.data_ptr()),
            *(outside[s].data_ptr() if s in outside else 0 for s in cell.states),
            *(carry[state].data_ptr() for state in cell.states),
            *(vectors[name].data_ptr() for name in cell.vectors),
            *(adjoints.kept[name].data_ptr() for name in kernel.places.kept),
            *(value.data_ptr() for value in read),
        ],
        count,
    )
    gradient = Gradient(weights)
    before = block.before["h"]
    gradient.add_products(block.x, before, adjoints.of_x, adjoints.of_h, gates)
    for name, value in vectors.items():
        gradient.weights.vectors[name].add_(value.sum((0, 1)))
    return carry, gradient
