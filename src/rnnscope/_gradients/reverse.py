"""The reverse pass through all layers, from the top to the bottom."""

from __future__ import annotations

from torch import Tensor

from rnnscope._gradients.backward import (
    Backward,
    Gradient,
    PartValues,
    adjoints_of_x,
)
from rnnscope._gradients.compiled import Adjoints, swept
from rnnscope._gradients.differentiable import Differentiable, part_values
from rnnscope._gradients.upstream import Upstream
from rnnscope._kernels.engine import reversing
from rnnscope._kernels.reverse import ReverseKernel
from rnnscope.cells import quantity_names
from rnnscope.cells.derivation import adjoint_of, adjoint_places

__all__ = ["Reverse"]


class Reverse:
    """The layers from the top to the bottom."""

    def __init__(self, trace: Differentiable, upstream: Upstream) -> None:
        self.trace, self.upstream = trace, upstream
        structure, call = trace.structure, trace.call
        self.structure = structure
        self.dtype = upstream.h.dtype
        self.lead = (structure.num_layers, len(structure.directions))
        self.shape = (call.steps, call.batch)
        units = structure.hidden_size
        self.places = adjoint_places(trace.cell)

        def new(size: int) -> Tensor:
            return upstream.h.new_empty(*self.lead, *self.shape, size)

        self.stored = {name: new(structure.state_size(name)) for name in self.places.kept}
        self.of_h = new(len(self.places.gates) * units)
        shared = self.places.shared
        self.of_x = self.of_h if shared else new(len(trace.cell.gates) * units)
        self.inputs: list[Tensor] = []
        self.initial: list[list[dict[str, Tensor]]] = []
        self.gradients: list[list[Gradient]] = []

    def run(self) -> None:
        """Fill ``stored``, ``inputs``, ``initial`` and ``gradients``."""
        reached: Tensor | None = self.upstream.h
        for layer in reversed(range(self.structure.num_layers)):
            weights = self.trace.weights[layer]
            x = self.upstream.h.new_zeros(*self.shape, weights[0].ih.shape[1])
            initial, gradients = [], []
            for d in range(len(weights)):
                carry, gradient = self._direction(layer, d, reached, x)
                initial.append(carry)
                gradients.append(gradient)
            self.inputs.insert(0, x)
            self.initial.insert(0, initial)
            self.gradients.insert(0, gradients)
            mask = self.trace.masks[layer]
            reached = x
            if mask is not None:
                reached = x * self.structure.dropout_factor(mask, x.dtype).transpose(0, 1)

    def _direction(
        self, layer: int, d: int, reached: Tensor | None, x: Tensor
    ) -> tuple[dict[str, Tensor], Gradient]:
        trace = self.trace
        part = part_values(trace, layer, d)
        direct = {
            state: value
            for state in part.cell.states
            if (
                value := self.upstream.direct(
                    trace, state, layer, d, reached if state == "h" else None
                )
            )
            is not None
        }
        of_h, of_x = self.of_h[layer, d], self.of_x[layer, d]
        stored = {name: value[layer, d] for name, value in self.stored.items()}
        reverse = trace.directions[d] == "reverse"
        kernel = self._kernel(part)
        if kernel is not None:
            adjoints = Adjoints(of_h, of_x, stored)
            call = (trace.lengths, reverse)
            carry, gradient = swept(kernel, part, direct, call, adjoints)
            x.view(-1, x.shape[-1]).addmm_(of_x.flatten(0, 1), part.weights.ih)
            return carry, gradient
        backward = Backward(part, direct, reverse, trace.call.valid)
        gradient = Gradient(part.weights)
        for start, stop, block_adjoints in backward.blocks(of_h):
            if not self.places.shared:
                adjoints_of_x(block_adjoints, part.weights, of_x[start:stop])
            gradient.add(block_adjoints, backward.gates, of_x[start:stop])
            x[start:stop].view(-1, x.shape[-1]).addmm_(
                of_x[start:stop].flatten(0, 1), part.weights.ih
            )
            for name, value in stored.items():
                adjoint = adjoint_of(block_adjoints.block, name)
                block_adjoints.combined(adjoint, value.shape[-1], out=value[start:stop])
        return backward.carry, gradient

    def _kernel(self, part: PartValues) -> ReverseKernel | None:
        """By which a part is taken backwards, where one computes so many numbers."""
        numbers = part.x.shape[0] * part.x.shape[1] * self.structure.hidden_size
        return reversing(part.weights.ih, part.cell, numbers * len(part.cell.equations))

    def values(self) -> dict[str, Tensor]:
        """Every quantity (layer, direction, batch, time, unit)."""
        units = self.structure.hidden_size
        quantities: dict[str, Tensor] = {}
        for name in quantity_names(self.trace.cell):
            place = self.places.same.get(name, name)
            if isinstance(place, str):
                value = self.stored[place]
            else:
                array, k = self.of_h if place[0] == "h" else self.of_x, place[1]
                value = array[..., k * units : (k + 1) * units]
            quantities[name] = value.transpose(2, 3)
        return quantities
