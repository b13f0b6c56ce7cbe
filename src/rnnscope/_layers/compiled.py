"""Calls of a compiled kernel on one layer in one direction: weights packed as it reads them, and
the addresses of all that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rnnscope._kernels.engine import pieces
from rnnscope._kernels.equations import scans
from rnnscope._kernels.forward import ForwardKernel
from rnnscope._layers.derived import derived
from rnnscope._layers.structure import Weights

__all__ = ["Frames", "Packed", "packed_columns"]


@dataclass(frozen=True)
class Packed:
    """The weights of a direction as a kernel reads them: for each tile of units the columns of each
    feature beside each other, zeros where there is no unit."""

    x: Tensor
    h: Tensor
    biases: Tensor
    vectors: tuple[Tensor, ...]

    @classmethod
    def of(cls, kernel: ForwardKernel, weights: Weights) -> Packed:
        """For a kernel of the weights' own cell; of small weights packed once."""
        return derived(weights, ("packed", id(kernel)), partial(cls._packed, kernel, weights))

    @classmethod
    def _packed(cls, kernel: ForwardKernel, weights: Weights) -> Packed:
        columns, units = kernel.columns, weights.hidden_size
        biases = weights.ih.new_zeros(columns.count, units)
        summed = columns.summed == tuple(kernel.cell.gates)
        if summed and weights.b_ih is not None and weights.b_hh is not None:
            torch.add(weights.b_ih.view_as(biases), weights.b_hh.view_as(biases), out=biases)
            return cls._with(kernel, weights, biases)
        of_h = range(len(columns.first), columns.count)
        for rows, names, vector in (
            (range(len(columns.first)), columns.first, weights.b_ih),
            ([*range(len(columns.summed)), *of_h], columns.summed + columns.of_h, weights.b_hh),
        ):
            for k, gate in zip(rows, names, strict=True):
                if vector is not None:
                    biases[k] += vector[weights.rows(gate)]
        return cls._with(kernel, weights, biases)

    @classmethod
    def _with(cls, kernel: ForwardKernel, weights: Weights, biases: Tensor) -> Packed:
        columns = kernel.columns
        return cls(
            _packed(kernel, _gates(weights, weights.ih, columns.first)),
            _packed(kernel, _gates(weights, weights.hh, columns.summed + columns.of_h)),
            _packed(kernel, biases.unsqueeze(-1)),
            tuple(weights.vectors[name].resolve_neg().contiguous() for name in kernel.cell.vectors),
        )


def _gates(weights: Weights, matrix: Tensor, gates: tuple[str, ...]) -> Tensor:
    """(gate, unit, feature) of some gates."""
    units, features = weights.hidden_size, matrix.shape[1]
    if gates == tuple(weights.cell.gates):
        return matrix.view(len(gates), units, features)
    if not gates:
        return matrix.new_empty(0, units, features)
    return torch.stack([matrix[weights.rows(gate)] for gate in gates])


def _packed(kernel: ForwardKernel, matrix: Tensor) -> Tensor:
    """(column, unit, feature) as (tile, column, feature, lane)."""
    count, units, features = matrix.shape
    tiles, lanes = -(-units // kernel.tile_units), kernel.tile_units
    padded = matrix
    if tiles * lanes != units:
        padded = matrix.new_zeros(count, tiles * lanes, features)
        padded[:, :units] = matrix
    cube = padded.reshape(count, tiles, lanes, features)
    return cube.permute(1, 0, 3, 2).resolve_neg().contiguous()


def packed_columns(matrix: Tensor, lanes: int) -> Tensor:
    """(row, unit) as (tile, row, lane): what rows of numbers say to units, zeros where there is
    none."""
    rows, units = matrix.shape
    tiles = -(-units // lanes)
    padded = matrix.new_zeros(rows, tiles * lanes)
    padded[:, :units] = matrix
    return padded.view(rows, tiles, lanes).transpose(0, 1).resolve_neg().contiguous()


@dataclass(frozen=True)
class Frames:
    """The memory that a kernel fills, of one layer and direction, time first: states have a place
    before the first step and one after the last (``sequences.frame_states``), other quantities
    have none; ``measured`` (time, batch) are what is measured beside them, in the kernel's
    order."""

    values: Mapping[str, Tensor]
    measured: tuple[Tensor, ...]
    lengths: Tensor
    reverse: bool

    def fill(
        self, kernel: ForwardKernel, packed: Packed, x: Tensor, span: tuple[int, int] | None = None
    ) -> None:
        """Call the kernel on x (time, batch, feature), of the type and on the device of the rest;
        the initial states stand in their frames. ``span``: the first step and that behind the last,
        all where none is given; the states before them stand in their frames."""
        h = self.values["h"]
        batch, units = h.shape[1:]
        start, stop = (0, len(h) - 2) if span is None else span
        steps = stop - start
        x = x if x.stride(-1) == 1 else x.contiguous()
        x = x.resolve_neg()
        numbers = steps * batch * units * len(kernel.cell.equations)
        by_batch = bool(scans(kernel.cell)) or not kernel.opens
        count = pieces(numbers, batch if by_batch else max(steps, batch))
        columns = count if by_batch or batch >= steps else 1
        lengths = self.lengths.to(torch.int64).contiguous()
        if start and self.reverse:  # alone asks for them
            lengths = lengths - start
        size = h.element_size()
        step = batch * units * size  # bytes of a step, and of the place before the first

        def place(name: str) -> int:
            value = self.values.get(name)
            if value is None:
                return 0
            assert value.is_contiguous(), "a kernel writes one row after the other"
            return value.data_ptr() + step * (start + (name in kernel.cell.states))

        measured = [t.data_ptr() + start * batch * size for t in self.measured]
        kernel.compiled(
            [
                *(columns, -(-batch // columns), -(-steps // (count // columns))),
                *(steps, batch, units, int(self.reverse), lengths.data_ptr()),
                *(x.data_ptr() + start * x.stride(0) * size, x.stride(0), x.stride(1), x.shape[2]),
                *(place("h"), packed.x.data_ptr(), packed.h.data_ptr(), packed.biases.data_ptr()),
                *(measured[:3] or [0, 0, 0]),
                *(vector.data_ptr() for vector in packed.vectors),
                *(place(name) for name in kernel.kept),
                *measured[3:],
            ],
            count,
        )
