"""A whole call by the declared equations: all layers and directions, with dropout between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._kernels.forward import ForwardKernel
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import framed_before, without_padding
from rnnscope._layers.steps import DirectionInput, Passage, parts_of, run_direction
from rnnscope._layers.stretches import (
    RunMemory,
    Stretch,
    memory_for,
    repays,
    run_by_kernel,
    running_kernel,
)
from rnnscope._layers.structure import Structure, Weights
from rnnscope.cells import quantity_names

__all__ = ["CallByEquations", "Ran", "run_call"]


@dataclass(frozen=True)
class Ran:
    """A call, run by the equations: what is recorded, and what the module returns.

    ``passages``: by layer and direction; ``inputs``: each layer's input (time, batch, feature),
    None where that is the states of the layer below, joined over directions; ``masks``: what
    dropout multiplied them with, None where nothing was dropped.
    """

    structure: Structure
    call: Call
    weights: tuple[tuple[Weights, ...], ...]
    passages: tuple[tuple[Passage, ...], ...]
    inputs: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...]
    # where a kernel wrote them: every quantity (layer, direction, time, batch, unit)
    memory: Mapping[str, Tensor] | None = None

    @property
    def engine(self) -> str:
        """What computed: "llvm" or "torch"."""
        return "llvm" if self.passages[0][0].compiled else "torch"

    @property
    def hidden(self) -> Tensor:
        """H of the last layer, (time, batch, direction × output), zeros on padding."""
        return without_padding(_joined(self.passages[-1]), self.call.valid)

    @property
    def final(self) -> dict[str, Tensor]:
        """Each state after the last step of its direction, (layer, direction, batch, unit)."""
        return {
            name: torch.stack(
                [torch.stack([passage.final[name] for passage in row]) for row in self.passages]
            )
            for name in self.structure.cell.states
        }

    @property
    def output(self) -> Any:
        """In the form in which the module returns it: (output, h_n), (output, (h_n, c_n)), or the
        states alone of a module of one step."""
        structure = self.structure
        return structure.returning(
            None if structure.single_step else self.hidden, self.final, self.call
        )

    def record(self, names: frozenset[str]) -> dict[str, Tensor]:
        """The quantities of these names (layer, direction, batch, time, unit), zeros on padding;
        detached."""
        present = {name for name in self.passages[0][0].quantities if name in names}
        return {
            name: self._recorded(name)
            for name in quantity_names(self.structure.cell)
            if name in present
        }

    def _recorded(self, name: str) -> Tensor:
        valid = self.call.valid
        if self.memory is not None and name in self.memory:
            return without_padding(self.memory[name], valid).transpose(2, 3)

        def of(passage: Passage) -> Tensor:
            return without_padding(passage.quantities[name].detach(), valid).transpose(0, 1)

        return torch.stack([torch.stack([*map(of, row)]) for row in self.passages])


@dataclass(frozen=True)
class CallByEquations:
    """A call to be run by the equations, and the names of what is recorded of it; ``masks``, by
    layer, are what dropout multiplies with, drawn where none are given."""

    structure: Structure
    call: Call
    weights: tuple[tuple[Weights, ...], ...]
    record: frozenset[str]
    masks: tuple[Tensor | None, ...] | None = None


def run_call(forward: CallByEquations, compiled: bool = False, steady: bool = False) -> Ran:
    """All layers and directions of a call, with dropout between layers where the module drops.

    ``compiled``: no gradient is asked for, so that a kernel may run it, where there is one that
    pays. ``steady``: what is returned has the same bits whatever is recorded, so that parts come
    from products of their own; and a kernel must repay the packing of weights, as one that runs a
    model step by step would not.
    """
    structure, call, weights = forward.structure, forward.call, forward.weights
    inputs: list[Tensor | None] = []
    used: list[Tensor | None] = [None]
    layers: list[tuple[Passage, ...]] = []
    flow, dropped = call.x, True
    run = _LayerRuns(forward, compiled, steady)
    for layer in range(len(weights)):
        inputs.append(flow if dropped else None)
        layers.append(tuple(run.passage(layer, d, flow) for d in range(len(structure.directions))))
        dropped = structure.training and structure.dropout > 0
        if layer < structure.num_layers - 1:
            flow = _joined(layers[-1])
            if dropped:
                replayed = None if forward.masks is None else forward.masks[layer + 1]
                mask = call.dropout(flow, structure.dropout) if replayed is None else replayed
                flow = flow * mask
                used.append(mask)
            else:
                used.append(None)
    return Ran(structure, call, weights, tuple(layers), tuple(inputs), tuple(used), run.recorded)


class _LayerRuns:
    """Runs the layers of a call one by one, all by a kernel where there is one."""

    def __init__(self, forward: CallByEquations, compiled: bool, steady: bool) -> None:
        self.forward, self.valid = forward, forward.call.valid
        equations = frozenset(forward.structure.cell.equations)
        self.parts = forward.record - equations if steady else frozenset()
        self.kept = forward.record - self.parts | equations if self.parts else forward.record
        first = forward.weights[0][0]
        if steady and compiled:
            compiled = repays(first, forward.call.steps)
        self.kernel = self._kernel() if compiled else None
        # in one piece where it is to be a record, (layer, direction, time, batch, unit) by name
        self.memory: dict[str, Tensor] | None = None
        if self.kernel is not None and forward.record:
            self.memory = self._memory()

    def _kernel(self) -> ForwardKernel | None:
        call = self.forward.call
        of_parts = [part for row in self.forward.weights for part in row]
        tensors = [
            call.x,
            *call.initial.values(),
            *(t for part in of_parts for t in part.tensors()),
        ]
        return running_kernel(call.x, tensors, of_parts[0], self.kept)

    def _memory(self) -> dict[str, Tensor]:
        structure, call = self.forward.structure, self.forward.call
        lead = (structure.num_layers, len(structure.directions))
        sizes = (call.steps, call.batch, structure.hidden_size)
        return memory_for(structure.cell, self.kept, lead, sizes, call.x)

    @property
    def recorded(self) -> dict[str, Tensor] | None:
        """The memory, without the places before the first and after the last step."""
        states = self.forward.structure.cell.states
        if self.memory is None:
            return None
        return {n: v[:, :, 1:-1] if n in states else v for n, v in self.memory.items()}

    def passage(self, layer: int, d: int, x: Tensor) -> Passage:
        """One layer in one direction, on x (time, batch, feature)."""
        forward = self.forward
        initial = {name: value[layer, d] for name, value in forward.call.initial.items()}
        reverse = forward.structure.directions[d] == "reverse"
        entry = DirectionInput(forward.weights[layer][d], x, initial, self.valid, reverse)
        if self.kernel is None:
            return run_direction(entry, forward.record)
        if self.memory is None:
            return run_by_kernel(self.kernel, entry, self.kept)
        values = {name: value[layer, d] for name, value in self.memory.items()}
        memory = RunMemory(self.kernel, entry, values)
        memory.fill(Stretch(0, len(x), True))
        passage = memory.passage()
        if not self.parts:
            return passage
        before = {name: framed_before(memory.values[name], reverse) for name in memory.states}
        computed = parts_of(entry, before, passage.quantities, self.parts)
        return replace(passage, quantities={**passage.quantities, **computed})


def _joined(passages: tuple[Passage, ...]) -> Tensor:
    """H over directions, (time, batch, direction × output)."""
    parts = [passage.quantities["h"] for passage in passages]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
