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
from rnnscope._layers.steps import Entry, Passage, parts_of, run_direction
from rnnscope._layers.stretches import (
    Memory,
    Stretch,
    memory_for,
    run_by_kernel,
    running_kernel,
)
from rnnscope._layers.structure import Structure, Weights
from rnnscope.cells import quantity_names

__all__ = ["Ran", "run_call"]


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


def run_call(
    structure: Structure,
    call: Call,
    weights: tuple[tuple[Weights, ...], ...],
    record: frozenset[str],
    masks: tuple[Tensor | None, ...] | None = None,
    compiled: bool = False,
    steady: bool = False,
) -> Ran:
    """All layers and directions of a call, with dropout between layers where the module drops.

    Its masks are drawn, or those that are given. ``compiled``: no gradient is asked for, so that a
    kernel may run it, where there is one that pays. ``steady``: what is returned has the same bits
    whatever is recorded, so that parts come from products of their own.
    """
    valid = call.valid
    inputs: list[Tensor | None] = []
    used: list[Tensor | None] = [None]
    layers: list[tuple[Passage, ...]] = []
    flow, dropped = call.x, True
    equations = frozenset(structure.cell.equations)
    parts = record - equations if steady else frozenset()
    kept = (record - parts) | equations if parts else record
    kernel = _kernel(call, weights, kept) if compiled else None
    # in one piece where it is to be a record
    memory = None if kernel is None or not record else _memory(structure, call, kept)

    def passage(layer: int, d: int, x: Tensor) -> Passage:
        initial = {name: value[layer, d] for name, value in call.initial.items()}
        reverse = structure.directions[d] == "reverse"
        entry = Entry(weights[layer][d], x, initial, valid, reverse)
        if kernel is None:
            return run_direction(entry, record)
        if memory is None:
            return run_by_kernel(kernel, entry, kept)
        part = Memory(kernel, entry, {name: value[layer, d] for name, value in memory.items()})
        part.fill(Stretch(0, call.steps, True))
        ran = part.passage()
        if not parts:
            return ran
        before = {name: framed_before(part.values[name], reverse) for name in part.states}
        computed = parts_of(entry, before, ran.quantities, parts)
        return replace(ran, quantities={**ran.quantities, **computed})

    for layer in range(len(weights)):
        inputs.append(flow if dropped else None)
        layers.append(tuple(passage(layer, d, flow) for d in range(len(structure.directions))))
        dropped = structure.training and structure.dropout > 0
        if layer < structure.num_layers - 1:
            flow = _joined(layers[-1])
            if dropped:
                replay_mask = None if masks is None else masks[layer + 1]
                mask = call.dropout(flow, structure.dropout) if replay_mask is None else replay_mask
                flow = flow * mask
                used.append(mask)
            else:
                used.append(None)
    if memory is not None:
        memory = {n: v[:, :, 1:-1] if n in structure.cell.states else v for n, v in memory.items()}
    return Ran(structure, call, weights, tuple(layers), tuple(inputs), tuple(used), memory)


def _kernel(
    call: Call, weights: tuple[tuple[Weights, ...], ...], record: frozenset[str]
) -> ForwardKernel | None:
    """The kernel that runs a call; None where torch does."""
    parts = [direction_weights for row in weights for direction_weights in row]
    tensors = [call.x, *call.initial.values(), *(t for part in parts for t in part.tensors())]
    return running_kernel(call.x, tensors, parts[0], record)


def _memory(structure: Structure, call: Call, record: frozenset[str]) -> dict[str, Tensor]:
    """For the quantities that a kernel keeps, (layer, direction, time, batch, unit)."""
    lead = (structure.num_layers, len(structure.directions))
    sizes = (call.steps, call.batch, structure.hidden_size)
    return memory_for(structure.cell, record, lead, sizes, call.x)


def _joined(passages: tuple[Passage, ...]) -> Tensor:
    """H over directions, (time, batch, direction × output)."""
    parts = [passage.quantities["h"] for passage in passages]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
