"""One layer in one direction, opened by a compiled kernel: the products of a block of time by torch,
all that is left in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._kernels.engine import BLOCK_BYTES, pieces
from rnnscope._kernels.opening import EXTREME, OpeningKernel
from rnnscope._layers.sequences import running_order
from rnnscope._layers.structure import Weights
from rnnscope._opening.bounds import norms
from rnnscope.cells.algebra import Expr

__all__ = ["CompiledBlocks", "Measured"]


@dataclass(frozen=True)
class Measured:
    """What is measured beside the record, (time, batch): the norms of x and of h before each step,
    the largest deviation, and the largest magnitudes of expressions."""

    x_norm: Tensor
    h_norm: Tensor
    off: Tensor
    sizes: dict[Expr, Tensor]


@dataclass(frozen=True)
class _Products:
    """The affine parts of all gates, an array of columns: the matrices of x and of h, transposed,
    and what is added to each row."""

    x: Tensor
    h: Tensor
    bias: Tensor
    buffer: Tensor

    @classmethod
    def of(cls, weights: Weights, x: tuple[str, ...], h: tuple[str, ...], rows: int) -> _Products:
        """For the gates that use x and those that use h; the latter come first."""
        gates = x or h
        bias = weights.ih.new_zeros(len(gates) * weights.hidden_size)
        for names, vector in ((x, weights.b_ih), (h, weights.b_hh)):
            for k, gate in enumerate(names):
                if vector is not None:
                    place = bias[k * weights.hidden_size : (k + 1) * weights.hidden_size]
                    place += vector[weights.rows(gate)]
        return cls(
            _stacked(weights, weights.ih, x).T,
            _stacked(weights, weights.hh, h).T,
            bias,
            bias.new_empty(rows, len(bias)),
        )

    def compute(self, x: Tensor, h: Tensor) -> None:
        """Of the rows of a block."""
        buffer = self.buffer[: len(x)]
        if self.x.shape[1]:
            torch.mm(x, self.x, out=buffer)
            if self.h.shape[1]:
                buffer[:, : self.h.shape[1]].addmm_(h, self.h)
        elif self.h.shape[1]:
            torch.mm(h, self.h, out=buffer)


def _stacked(weights: Weights, matrix: Tensor, gates: tuple[str, ...]) -> Tensor:
    """The rows of some gates, as a view where they stand together."""
    if gates == tuple(weights.cell.gates):
        return matrix
    rows = [weights.rows(gate) for gate in gates]
    if not rows:
        return matrix[:0]
    if all(a.stop == b.start for a, b in zip(rows, rows[1:], strict=False)):
        return matrix[rows[0].start : rows[-1].stop]
    return torch.cat([matrix[r] for r in rows])


class CompiledBlocks:
    """Fills a record by a kernel. ``store`` holds the quantities of one layer and direction, time
    first, with the layer's own h in the frame of its states."""

    def __init__(
        self,
        kernel: OpeningKernel,
        weights: Weights,
        store: dict[str, Tensor],
        lengths: Tensor,
        reverse: bool,
        inputs: Callable[[int, int], Tensor],
    ) -> None:
        self.kernel, self.weights, self.store = kernel, weights, store
        self.reverse, self.inputs = reverse, inputs
        self.lengths = lengths.to(torch.int64).contiguous()
        h = store["h"]
        self.steps, self.batch, self.units = len(h) - 2, *h.shape[1:]
        columns = kernel.columns
        width = (len(columns.first) + len(columns.of_h)) * self.units * h.element_size()
        self.span = max(1, min(self.steps, BLOCK_BYTES // (self.batch * width)))
        rows = self.span * self.batch
        self.first = _Products.of(weights, columns.first, columns.summed, rows)
        self.second = _Products.of(weights, (), columns.of_h, rows)
        self.vectors = [weights.vectors[name].contiguous() for name in kernel.cell.vectors]
        new = h.new_empty
        shape = (self.steps, self.batch)
        self.measured = Measured(
            new(shape), new(shape), new(shape), {expr: new(shape) for expr in kernel.sizes}
        )

    def run(self) -> Measured | None:
        """Fill the record; None where a number of a comparison is not finite, which torch's way
        judges."""
        starts = range(0, self.steps, self.span)
        for start in running_order(starts, self.reverse):
            self._open(start, min(start + self.span, self.steps))
        measured = self.measured
        if not bool(measured.off.isfinite().all()):
            return None
        if bool((measured.x_norm == EXTREME).any()):
            measured.x_norm.copy_(norms(self.inputs(0, self.steps).to(measured.x_norm.dtype)))
        if bool((measured.h_norm == EXTREME).any()):
            h = self.store["h"]
            measured.h_norm.copy_(norms(h[2:] if self.reverse else h[:-2]))
        return measured

    def _open(self, start: int, stop: int) -> None:
        steps, batch, units = stop - start, self.batch, self.units
        x = self.inputs(start, stop).to(self.first.bias.dtype)
        x = x.resolve_neg().reshape(steps * batch, -1).contiguous()
        h = self.store["h"]
        before = h[start + 2 : stop + 2] if self.reverse else h[start:stop]
        before = before.view(steps * batch, units)
        self.first.compute(x, before)
        self.second.compute(x, before)
        numbers = steps * batch * units * len(self.kernel.cell.equations)
        scanned = bool(self.kernel.scans)
        count = pieces(numbers, batch if scanned else max(steps, batch))
        columns = count if scanned or batch >= steps else 1
        self._call(start, steps, x, count, columns)

    def _call(self, start: int, steps: int, x: Tensor, count: int, columns: int) -> None:
        measured, batch = self.measured, self.batch
        size = measured.off.element_size()
        states = self.kernel.cell.states
        at = start * batch * size  # of an array (time, batch)

        def place(name: str) -> int:
            value = self.store.get(name)
            if value is None:
                return 0
            first = value.data_ptr() + start * batch * self.units * size
            return first + (batch * self.units * size if name in states else 0)

        self.kernel.compiled(
            [
                *(columns, -(-batch // columns), -(-steps // (count // columns))),
                *(steps, batch, self.units, int(self.reverse), start, self.lengths.data_ptr()),
                *(x.data_ptr(), x.shape[1], place("h")),
                *(t.data_ptr() + at for t in (measured.x_norm, measured.h_norm, measured.off)),
                *(self.first.buffer.data_ptr(), len(self.first.bias), self.first.bias.data_ptr()),
                *(self.second.buffer.data_ptr(), len(self.second.bias)),
                self.second.bias.data_ptr(),
                *(vector.data_ptr() for vector in self.vectors),
                *(place(name) for name in self.kernel.kept),
                *(t.data_ptr() + at for t in measured.sizes.values()),
            ],
            count,
        )
