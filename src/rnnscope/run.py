"""A cell over time, step by step, by its declared equations.

What opening cannot do is done here: there are no outputs to open yet. Every operation is a plain
one, so autograd can follow.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnscope.adopt import Weights
from rnnscope.cells import part_name
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

__all__ = ["run_direction"]


class _Step:
    """The environment of ``evaluate`` at one step: (batch, units) each."""

    def __init__(self, weights: Weights, x: Mapping[Expr, Tensor], before: Mapping[str, Tensor]):
        self.weights = weights
        self.values: dict[Expr, Tensor] = {Previous(name): t for name, t in before.items()}
        self.parts: dict[Expr, Tensor] = dict(x)

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
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
    kept: dict[str, list[Tensor]] = {}
    states = dict(initial)
    steps = range(x.shape[0])
    for t in reversed(steps) if reverse else steps:
        env = _Step(weights, {leaf: value[t] for leaf, value in inputs.items()}, states)
        found: dict[str, Tensor] = {}
        for name, equation in equations.items():
            if isinstance(equation, Apply):
                found[f"{name}_pre"] = evaluate(equation.argument, env)
                value = equation.function.forward(found[f"{name}_pre"])
            else:
                value = evaluate(equation, env)
            found[name] = env.values[Quantity(name)] = value
        found |= {part: value for leaf, value in env.parts.items() if (part := part_name(leaf))}
        after = {name: found[name] for name in cell.states}
        if valid is not None:
            inside = valid[t, :, None]
            after = {name: torch.where(inside, after[name], states[name]) for name in after}
        for name in record.union(cell.states):
            kept.setdefault(name, []).append(found[name])
        states = after
    return {name: torch.stack(values[::-1] if reverse else values) for name, values in kept.items()}
