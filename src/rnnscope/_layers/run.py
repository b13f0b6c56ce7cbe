"""A cell over time, step by step, by its declared equations.

What opening cannot do is done here: there are no outputs to open yet. Every operation is a plain
one, so autograd can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnscope._kernels import engine
from rnnscope._kernels.forward import ForwardKernel
from rnnscope._layers.call import Call
from rnnscope._layers.compiled import Frames, run_by_kernel
from rnnscope._layers.sequences import keep_on_padding, running_order, without_padding
from rnnscope._layers.structure import Structure, Weights
from rnnscope._layers.tensors import fresh
from rnnscope.cells import part_name, quantity_names
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Previous,
    Project,
    Quantity,
    Vector,
    Weighted,
    evaluate,
)
from rnnscope.cells.cells import Affine

__all__ = ["Change", "Passage", "Ran", "run_call", "run_direction"]

NOTHING: Mapping[str, Any] = MappingProxyType({})


Change = Callable[[int, Tensor], Tensor]
"""What an edit makes of a quantity (batch, units) at a step."""


def _part_names(gate: Affine) -> tuple[str, str]:
    return f"{gate.gate}_from_x", f"{gate.gate}_from_h"


class _AffineParts:
    """The affine parts of one layer in one direction: what x says at all steps, and what h says
    at one, each in one product of all gates.

    Where an equation only asks for the sum W_ik x + b_ik + W_hk h + b_hk of a gate, and nothing
    changes its parts, the gates' sums are one addition too.
    """

    def __init__(
        self, weights: Weights, x: Tensor, record: frozenset[str], changes: Mapping[str, Change]
    ) -> None:
        self.weights, self.changes = weights, changes
        affine = weights.cell.affine
        edited = {
            gate.gate for gate in affine if any(name in changes for name in _part_names(gate))
        }
        self.summed = [gate for gate in affine if gate.summed and gate.gate not in edited]
        apart = [gate for gate in affine if not gate.summed or gate.gate in edited]
        self.of_x = [gate for gate in apart if gate.x is not None]
        self.of_h = [gate for gate in apart if gate.h is not None]
        self.recorded = any(name in record for gate in self.summed for name in _part_names(gate))
        self.size = weights.hidden_size
        gates = [affine_gate.gate for affine_gate in (*self.summed, *self.of_h)]
        self.matrix_h = self._rows(gates, weights.hh, weights.b_hh)
        self.from_x = self._of_all_steps(x)
        self.composite: dict[Expr, tuple[Tensor, Tensor | None]] = {}

    def _rows(
        self, gates: list[str], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The rows of several gates."""
        if gates == list(self.weights.cell.gates):
            return weight, bias
        slices = [self.weights.rows(k) for k in gates]
        if not slices:
            return weight[:0], None
        if all(block.stop == next_block.start for block, next_block in pairwise(slices)):
            rows = slice(slices[0].start, slices[-1].stop)
            return weight[rows], None if bias is None else bias[rows]
        stacked = torch.cat([weight[rows] for rows in slices])
        return stacked, None if bias is None else torch.cat([bias[rows] for rows in slices])

    def _split(self, stacked: Tensor, apart: int) -> Sequence[Tensor]:
        """The block of the gates that are summed, then every other gate."""
        sizes = [len(self.summed) * self.size, *[self.size] * apart]
        return torch.split(stacked, sizes, dim=-1) if len(sizes) > 1 else (stacked,)

    def _of_all_steps(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """What x says, each block by step."""
        gates = [affine_gate.gate for affine_gate in (*self.summed, *self.of_x)]
        if not gates:
            return []
        # flat: how three dims are multiplied depends on strides and on whether a graph is made
        matrix = self._rows(gates, self.weights.ih, self.weights.b_ih)
        stacked = linear(x.flatten(0, 1), *matrix)
        stacked = stacked.reshape(*x.shape[:2], stacked.shape[-1])
        # not by index: the gradient of each step would be a tensor of all steps
        return [block.unbind(0) for block in self._split(stacked, len(self.of_x))]

    def at(self, t: int, h: Tensor) -> tuple[dict[Expr, Tensor], dict[object, Tensor]]:
        """Single parts and sums of parts at a step, from h of the step before."""
        parts: dict[Expr, Tensor] = {}
        sums: dict[object, Tensor] = {}
        ours = self._split(linear(h, *self.matrix_h), len(self.of_h))
        count = len(self.summed)
        if count:
            total = self.from_x[0][t] + ours[0]
            each_gate = total.chunk(count, dim=-1) if count > 1 else (total,)
            for gate, value in zip(self.summed, each_gate, strict=True):
                sums[gate.both] = value
        if self.recorded:
            of_x, of_h = self.from_x[0][t].chunk(count, dim=-1), ours[0].chunk(count, dim=-1)
            for gate, from_x, from_h in zip(self.summed, of_x, of_h, strict=True):
                parts[gate.both[0]], parts[gate.both[1]] = from_x, from_h
        for gate, block in zip(self.of_x, self.from_x[1:], strict=True):
            parts[gate.both[0]] = self._changed(gate.both[0], t, block[t])
        for gate, value in zip(self.of_h, ours[1:], strict=True):
            parts[gate.both[1]] = self._changed(gate.both[1], t, value)
        return parts, sums

    def other(self, leaf: Weighted, t: int, value: Tensor) -> Tensor:
        """An affine part of something else than x or h."""
        if leaf not in self.composite:
            match leaf:
                case FromH(gate):
                    self.composite[leaf] = self.weights.of_h(gate)
                case Project():
                    self.composite[leaf] = self.weights.projection, None
                case FromX():
                    raise AssertionError("the inputs' parts of all steps are given")
        return self._changed(leaf, t, linear(value, *self.composite[leaf]))

    def _changed(self, leaf: Expr, t: int, value: Tensor) -> Tensor:
        change = self.changes.get(part_name(leaf) or "")
        return value if change is None else change(t, value)


class _Step:
    """The environment of ``evaluate`` at one step: (batch, units) each."""

    def __init__(self, parts: _AffineParts, t: int, before: Mapping[str, Tensor]) -> None:
        self.of, self.t = parts, t
        self.values: dict[Expr, Tensor] = {Previous(name): t for name, t in before.items()}
        self.parts, self.sums = parts.at(t, before["h"])

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        if isinstance(leaf, Vector):
            return self.of.weights.vectors[leaf.name]
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        if leaves in self.sums:
            return self.sums[leaves]
        first, *further = (self._product(leaf) for leaf in leaves)
        return sum(further, first)

    def _product(self, leaf: Weighted) -> Tensor:
        if leaf not in self.parts:
            assert not isinstance(leaf, FromX), "the inputs' parts of all steps are given"
            self.parts[leaf] = self.of.other(leaf, self.t, evaluate(leaf.of, self))
        return self.parts[leaf]


@dataclass(frozen=True)
class Passage:
    """One layer in one direction, run: every recorded quantity and h (time, batch, units),
    anything on padding, and each state after the last step (batch, units)."""

    quantities: Mapping[str, Tensor]
    final: Mapping[str, Tensor]


def run_direction(
    weights: Weights,
    x: Tensor,
    initial: Mapping[str, Tensor],
    valid: Tensor | None,
    reverse: bool,
    record: frozenset[str],
    changes: Mapping[str, Change] = NOTHING,
) -> Passage:
    """One layer in one direction, step by step.

    ``x`` (time, batch, feature); ``initial`` maps states to (batch, units); ``valid`` (time,
    batch) is False on padding, where states stay what they were. ``changes`` are applied to the
    quantities of these names as soon as each is computed.
    """
    cell = weights.cell
    parts = _AffineParts(weights, x, record, changes)

    def spread(value: Tensor) -> Tensor:
        """A quantity of parameters or numbers alone is the same for all sequences."""
        return (
            value.to(x.dtype).expand(x.shape[1], weights.hidden_size) if value.dim() < 2 else value
        )

    plan = [
        (name, equation, f"{name}_pre", changes.get(name), changes.get(f"{name}_pre"))
        for name, equation in cell.equations.items()
    ]
    kept: dict[str, list[Tensor]] = {name: [] for name in sorted(record | {"h"})}
    affine = any("_from_" in name for name in kept)
    states = dict(initial)
    steps = range(x.shape[0])
    for t in running_order(steps, reverse):
        env = _Step(parts, t, states)
        quantities: dict[str, Tensor] = {}
        for name, equation, pre, change, change_of_pre in plan:
            if isinstance(equation, Apply):
                argument = spread(evaluate(equation.argument, env))
                if change_of_pre is not None:
                    argument = change_of_pre(t, argument)
                quantities[pre] = argument
                value = equation.function.forward(argument)
            else:
                value = spread(evaluate(equation, env))
            if change is not None:
                value = change(t, value)
            quantities[name] = env.values[Quantity(name)] = value
        if affine:
            named = ((part_name(leaf), value) for leaf, value in env.parts.items())
            quantities |= {part: value for part, value in named if part is not None}
        inside = None if valid is None else valid[t]
        after = {
            name: keep_on_padding(quantities[name], states[name], inside) for name in cell.states
        }
        for name, values in kept.items():
            values.append(quantities[name])
        states = after
    stacked = {name: torch.stack(v[::-1] if reverse else v) for name, v in kept.items()}
    return Passage(stacked, states)


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
        return "torch" if self.memory is None else "llvm"

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
        valid = self.call.valid
        if self.memory is not None:
            return {
                name: without_padding(self.memory[name], valid).transpose(2, 3)
                for name in quantity_names(self.structure.cell)
                if name in present
            }
        return {
            name: torch.stack(
                [
                    torch.stack(
                        [
                            without_padding(passage.quantities[name].detach(), valid).transpose(
                                0, 1
                            )
                            for passage in row
                        ]
                    )
                    for row in self.passages
                ]
            )
            for name in quantity_names(self.structure.cell)
            if name in present
        }


def run_call(
    structure: Structure,
    call: Call,
    weights: tuple[tuple[Weights, ...], ...],
    record: frozenset[str],
    masks: tuple[Tensor | None, ...] | None = None,
    compiled: bool = False,
) -> Ran:
    """All layers and directions of a call, with dropout between layers where the module drops.

    Its masks are drawn, or those that are given. ``compiled``: no gradient is asked for, so that a
    kernel may run it, where there is one that pays.
    """
    valid = call.valid
    inputs: list[Tensor | None] = []
    used: list[Tensor | None] = [None]
    layers: list[tuple[Passage, ...]] = []
    flow, dropped = call.x, True
    kernel = _kernel(structure, call, weights, record) if compiled else None
    memory = None if kernel is None else _memory(structure, call, record)

    def passage(layer: int, d: int, x: Tensor) -> Passage:
        initial = {name: value[layer, d] for name, value in call.initial.items()}
        reverse = structure.directions[d] == "reverse"
        if kernel is None or memory is None:
            return run_direction(weights[layer][d], x, initial, valid, reverse, record)
        values = {name: value[layer, d] for name, value in memory.items()}
        frames = Frames(values, (), call.every_length, reverse)
        final = run_by_kernel(kernel, weights[layer][d], x, initial, frames)
        return Passage(
            {name: _steps_alone(values[name], name, structure) for name in values}, final
        )

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


def _steps_alone(value: Tensor, name: str, structure: Structure) -> Tensor:
    """A quantity (time, batch, unit); states have one place more at both ends."""
    return value[1:-1] if name in structure.cell.states else value


def _kernel(
    structure: Structure,
    call: Call,
    weights: tuple[tuple[Weights, ...], ...],
    record: frozenset[str],
) -> ForwardKernel | None:
    """The kernel that runs a call; None where torch does."""
    x, cell = call.x, structure.cell
    if weights[0][0].ih.dtype != x.dtype or not x.numel():
        return None
    parts = any(name not in cell.equations for name in record)
    numbers = call.steps * call.batch * structure.hidden_size * len(cell.equations)
    return engine.running(cell, x.dtype, x.device, parts, numbers)


def _memory(structure: Structure, call: Call, record: frozenset[str]) -> dict[str, Tensor]:
    """For the quantities that a kernel keeps, (layer, direction, time, batch, unit)."""
    cell, lead = structure.cell, (structure.num_layers, len(structure.directions))
    return {
        name: fresh(
            (
                *(*lead, call.steps + 2 * (name in cell.states), call.batch),
                structure.state_size(name),
            ),
            call.x,
            call.x.dtype,
        )
        for name in quantity_names(cell)
        if name in record.union(cell.states)
    }


def _joined(passages: tuple[Passage, ...]) -> Tensor:
    """H over directions, (time, batch, direction × output)."""
    parts = [passage.quantities["h"] for passage in passages]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
