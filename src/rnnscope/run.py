"""A cell over time, step by step, by its declared equations.

What opening cannot do is done here: there are no outputs to open yet. Every operation is a plain
one, so autograd can follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnscope.adopt import Call, Structure, Weights
from rnnscope.cells import part_name, quantity_names
from rnnscope.expr import (
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
    leaves,
)

__all__ = ["Ran", "run_call", "run_direction"]


class _Step:
    """The environment of ``evaluate`` at one step: (batch, units) each."""

    def __init__(self, weights: Weights, x: Mapping[Expr, Tensor], before: Mapping[str, Tensor]):
        self.weights = weights
        self.values: dict[Expr, Tensor] = {Previous(name): t for name, t in before.items()}
        self.parts: dict[Expr, Tensor] = dict(x)

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        if isinstance(leaf, Vector):
            return self.weights.vectors[leaf.name]
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        first, *rest = (self._product(leaf) for leaf in leaves)
        return sum(rest, first)

    def _product(self, leaf: Weighted) -> Tensor:
        if leaf not in self.parts:
            match leaf:
                case FromH(gate, of):
                    self.parts[leaf] = linear(evaluate(of, self), *self.weights.of_h(gate))
                case Project(of):
                    self.parts[leaf] = linear(evaluate(of, self), self.weights.projection)
                case FromX():
                    raise AssertionError("the inputs' parts of all steps are given")
        return self.parts[leaf]


def run_direction(
    weights: Weights,
    x: Tensor,
    initial: Mapping[str, Tensor],
    valid: Tensor | None,
    reverse: bool,
    record: frozenset[str],
) -> dict[str, Tensor]:
    """One layer in one direction: every recorded quantity and every state, (time, batch, units).

    ``x`` (time, batch, feature); ``initial`` maps states to (batch, units); ``valid`` (time,
    batch) is False on padding, where states stay what they were.
    """
    cell = weights.cell
    equations = cell.equations
    inputs: dict[Expr, Tensor] = {}
    for equation in equations.values():
        for leaf in leaves(equation):
            if isinstance(leaf, FromX) and leaf not in inputs:
                inputs[leaf] = linear(x, *weights.of_x(leaf.gate))

    def spread(value: Tensor) -> Tensor:
        """A quantity of parameters or numbers alone is the same for all sequences."""
        return (
            value.to(x.dtype).expand(x.shape[1], weights.hidden_size) if value.dim() < 2 else value
        )

    kept: dict[str, list[Tensor]] = {}
    states = dict(initial)
    steps = range(x.shape[0])
    for t in reversed(steps) if reverse else steps:
        env = _Step(weights, {leaf: value[t] for leaf, value in inputs.items()}, states)
        found: dict[str, Tensor] = {}
        for name, equation in equations.items():
            if isinstance(equation, Apply):
                argument = spread(evaluate(equation.argument, env))
                found[f"{name}_pre"] = argument
                value = equation.function.forward(argument)
            else:
                value = spread(evaluate(equation, env))
            found[name] = env.values[Quantity(name)] = value
        for leaf, value in env.parts.items():
            part = part_name(leaf)
            if part is not None:
                found[part] = value
        after = {name: found[name] for name in cell.states}
        if valid is not None:
            inside = valid[t, :, None]
            after = {name: torch.where(inside, after[name], states[name]) for name in after}
        for name in record.union(cell.states):
            kept.setdefault(name, []).append(found[name])
        states = after
    return {name: torch.stack(values[::-1] if reverse else values) for name, values in kept.items()}


@dataclass(frozen=True)
class Ran:
    """A call, run by the equations: what is recorded, and what the module returns.

    ``found``: every recorded quantity and every state, by layer and direction, (time, batch, unit)
    each, anything on padding; ``inputs``: each layer's input (time, batch, feature), None where
    that is the states of the layer below, joined over directions.
    """

    structure: Structure
    call: Call
    weights: tuple[tuple[Weights, ...], ...]
    found: tuple[tuple[Mapping[str, Tensor], ...], ...]
    inputs: tuple[Tensor | None, ...]

    @property
    def hidden(self) -> Tensor:
        """H of the last layer, (time, batch, direction × output), zeros on padding."""
        return _without_padding(_joined(self.found[-1]), self.call)

    @property
    def final(self) -> dict[str, Tensor]:
        """Each state after the last step of its direction, (layer, direction, batch, unit)."""
        return {
            name: torch.stack(
                [
                    torch.stack(
                        [
                            self._last(each[name], direction)
                            for each, direction in zip(row, self.structure.directions, strict=True)
                        ]
                    )
                    for row in self.found
                ]
            )
            for name in self.structure.cell.states
        }

    def _last(self, value: Tensor, direction: str) -> Tensor:
        if direction == "reverse":
            return value[0]
        if self.call.lengths is None:
            return value[-1]
        return value[self.call.lengths - 1, torch.arange(self.call.batch, device=value.device)]

    @property
    def output(self) -> Any:
        """In the form in which the module returns it: (output, h_n), (output, (h_n, c_n)), or the
        states alone of a module of one step."""
        structure, call = self.structure, self.call
        final = tuple(
            value.reshape(structure.state_shape(name, call.batch, call.batched))
            for name, value in self.final.items()
        )
        states = final[0] if len(final) == 1 else final
        return states if structure.single_step else (structure.outgoing(self.hidden, call), states)

    def record(self, names: frozenset[str]) -> dict[str, Tensor]:
        """The quantities of these names (layer, direction, batch, time, unit), zeros on padding;
        detached."""
        every = {name for name in self.found[0][0] if name in names}
        return {
            name: torch.stack(
                [
                    torch.stack(
                        [
                            _without_padding(each[name].detach(), self.call).transpose(0, 1)
                            for each in row
                        ]
                    )
                    for row in self.found
                ]
            )
            for name in quantity_names(self.structure.cell)
            if name in every
        }


def run_call(
    structure: Structure,
    call: Call,
    weights: tuple[tuple[Weights, ...], ...],
    record: frozenset[str],
) -> Ran:
    """All layers and directions of a call, with dropout between layers where the module drops."""
    valid = call.valid
    inputs: list[Tensor | None] = []
    layers: list[tuple[dict[str, Tensor], ...]] = []
    flow, dropped = call.x, True
    for layer, row in enumerate(weights):
        inputs.append(flow if dropped else None)
        pairs = enumerate(zip(row, structure.directions, strict=True))
        layers.append(
            tuple(
                run_direction(
                    one,
                    flow,
                    {name: value[layer, d] for name, value in call.initial.items()},
                    valid,
                    direction == "reverse",
                    record,
                )
                for d, (one, direction) in pairs
            )
        )
        dropped = structure.training and structure.dropout > 0
        if layer < structure.num_layers - 1:
            flow = _joined(layers[-1])
            if dropped:
                flow = call.dropout(flow, structure.dropout)
    return Ran(structure, call, weights, tuple(layers), tuple(inputs))


def _joined(found: tuple[Mapping[str, Tensor], ...]) -> Tensor:
    """H over directions, (time, batch, direction × output)."""
    parts = [each["h"] for each in found]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _without_padding(value: Tensor, call: Call) -> Tensor:
    valid = call.valid
    return value if valid is None else value.masked_fill(~valid[..., None], 0)
