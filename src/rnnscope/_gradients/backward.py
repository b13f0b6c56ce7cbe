"""One layer in one direction, backwards: what a loss says of every number inside, derived from the
declared equations.

The derivative of the loss with respect to a number is its adjoint. All values are known, so each
adjoint of a step is a sum of (known factor) × (adjoint of a root), and the roots are few: the
states, and what a matrix is applied to that is neither x nor h. The factors of many steps come at
once; what is left for the loop over time is the roots and one product with W_hh a step. Blocks of
time keep the factors in cache, and memory at the size of the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnscope._layers.sequences import keep_on_padding, running_order
from rnnscope._layers.structure import Weights
from rnnscope.cells import Cell, part_name
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
from rnnscope.cells.derivation import Derivation, Root

__all__ = [
    "Adjoint",
    "Backward",
    "Block",
    "BlockAdjoints",
    "ByStep",
    "Gradient",
    "PartValues",
    "adjoints_of_x",
]

BLOCK_BYTES = 1 << 19
"""Size of one quantity in a block of time."""


class ByStep(Protocol):
    """Numbers (time, ..., batch, units), which need not all be in memory at once."""

    def __getitem__(self, steps: slice, /) -> Tensor:
        """The numbers of some steps."""


Factor = Tensor | float
Adjoint = dict[Root, Factor]
"""An adjoint of tensors."""


@dataclass(frozen=True)
class PartValues:
    """The numbers of one layer in one direction, time first: quantities and the states before each
    step by name (time, batch, units), and x (time, batch, feature)."""

    cell: Cell
    weights: Weights
    values: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    x: Tensor

    def section(self, start: int, stop: int, rows: Tensor | None = None) -> PartValues:
        """Some steps of it, of some sequences."""

        def of(value: Tensor) -> Tensor:
            section = value[start:stop]
            return section if rows is None else section[:, rows]

        return replace(
            self,
            values={name: of(value) for name, value in self.values.items()},
            before={name: of(value) for name, value in self.before.items()},
            x=of(self.x),
        )

    def block(self, start: int, stop: int) -> Block:
        """Some steps of it, in the type of the weights."""
        section, dtype = self.section(start, stop), self.weights.ih.dtype
        return Block(
            self.cell,
            self.weights,
            {name: value.to(dtype) for name, value in section.values.items()},
            {name: value.to(dtype) for name, value in section.before.items()},
            section.x.to(dtype),
        )


class Block(Derivation[Tensor]):
    """Some steps with the values of all quantities; the environment of ``evaluate``."""

    def __init__(
        self,
        cell: Cell,
        weights: Weights,
        values: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        x: Tensor,
    ) -> None:
        super().__init__(cell)
        self.weights, self.x = weights, x
        self.values, self.before = dict(values), before
        self.steps = x.shape[0]
        self.cache: dict[Expr, Tensor] = {}

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        """(steps, batch, units); a parameter is (units)."""
        match leaf:
            case Vector(name):
                return self.weights.vectors[name]
            case Previous(name):
                return self.before[name]
            case Quantity(name):
                if name not in self.values:
                    self.values[name] = evaluate(self.cell.equations[name], self)
                return self.values[name]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        """The sum of affine parts: recorded, or computed for all steps at once."""
        products = [self._product(leaf) for leaf in leaves]
        return sum(products[1:], products[0])

    def _product(self, leaf: Weighted) -> Tensor:
        name = part_name(leaf)
        if name in self.values:
            return self.values[name]
        if leaf not in self.cache:
            match leaf:
                case FromX(gate):
                    self.cache[leaf] = linear(self.x, *self.weights.of_x(gate))
                case FromH(gate, of):
                    self.cache[leaf] = linear(evaluate(of, self), *self.weights.of_h(gate))
                case Project(of):
                    self.cache[leaf] = linear(evaluate(of, self), self.weights.projection)
        return self.cache[leaf]

    def evaluated(self, expr: Expr) -> Tensor:
        """The value of a part of an equation, computed once."""
        if expr not in self.cache:
            self.cache[expr] = evaluate(expr, self)
        return self.cache[expr]

    def slope(self, expr: Apply, value: Tensor, name: str | None) -> Tensor:
        """The derivative of an elementwise function at each place."""
        argument = value
        if expr.function.derivative_at is not None:
            recorded = None if name is None else self.values.get(f"{name}_pre")
            argument = evaluate(expr.argument, self) if recorded is None else recorded
        return expr.function.slope(argument, value)


def adjoints_of_x(adjoints: BlockAdjoints, weights: Weights, out: Tensor | None = None) -> Tensor:
    """The adjoints of what x says to all gates, (steps, ..., batch, gates × units)."""
    units = weights.hidden_size
    shape = (*adjoints.of_h.shape[:-1], weights.ih.shape[0])
    of_x = adjoints.of_h.new_empty(shape) if out is None else out
    for gate in weights.cell.gates:
        adjoint = adjoints.block.at.get(FromX(gate), {})
        adjoints.combined(adjoint, units, out=of_x[..., weights.rows(gate)])
    return of_x


class Gradient:
    """The parameters' gradients of one layer in one direction, summed as blocks come."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights.map(torch.zeros_like)

    def add(self, adjoints: BlockAdjoints, gates: Sequence[str], of_x: Tensor) -> None:
        """A block's part; ``of_x`` (steps, batch, gates × units) are the adjoints of what x says
        to all gates."""
        block, total = adjoints.block, self.weights
        self.add_products(block.x, block.before["h"], of_x, adjoints.of_h, gates)
        for leaf, adjoint in block.at.items():
            match leaf:
                case FromH(gate, of) if of != Previous("h"):
                    flat = adjoints.combined(adjoint, self.units).flatten(0, 1)
                    weight, bias_of = total.of_h(gate)
                    weight.addmm_(flat.T, evaluate(of, block).flatten(0, 1))
                    if bias_of is not None:
                        bias_of.add_(flat.sum(0))
                case Project(of):
                    flat = adjoints.combined(adjoint, total.projection.shape[0]).flatten(0, 1)
                    total.projection.addmm_(flat.T, evaluate(of, block).flatten(0, 1))
                case Vector(name):
                    total.vectors[name].add_(adjoints.combined(adjoint, self.units).sum((0, 1)))

    def add_products(
        self, x: Tensor, before: Tensor, of_x: Tensor, of_h: Tensor, gates: Sequence[str]
    ) -> None:
        """What the products with x and with h of the step before give, (steps, batch, ...)."""
        total = self.weights
        flat = of_x.flatten(0, 1)
        total.ih.addmm_(flat.T, x.flatten(0, 1))
        summed: Tensor | float = 0.0
        if total.b_ih is not None:
            summed = flat.sum(0)
            total.b_ih.add_(summed)
        if not gates:
            return
        shared = of_h.data_ptr() == of_x.data_ptr() and of_h.shape == of_x.shape
        flat, before = of_h.flatten(0, 1), before.flatten(0, 1)
        all_gates = len(gates) == len(total.cell.gates)
        for k, gate in enumerate([""] if all_gates else gates):
            rows = slice(None) if all_gates else total.rows(gate)
            gate_adjoints = flat if all_gates else flat[:, k * self.units : (k + 1) * self.units]
            total.hh[rows].addmm_(gate_adjoints.T, before)
            if total.b_hh is not None:
                total.b_hh[rows] += summed if shared else gate_adjoints.sum(0)

    @property
    def units(self) -> int:
        """Rows of one gate."""
        return self.weights.hidden_size


# backwards over time ---------------------------------------------------------------------------


@dataclass
class BlockAdjoints:
    """A block after the loop: the adjoints of its roots (steps, ..., batch, units), and of the
    gates' products with h (steps, ..., batch, gates × units)."""

    block: Block
    roots: dict[Root, Tensor]
    of_h: Tensor

    def combined(self, adjoint: Adjoint, units: int, out: Tensor | None = None) -> Tensor:
        """Σ factor × root, (steps, ..., batch, units)."""
        shape = (*next(iter(self.roots.values())).shape[:-1], units)
        total = self.of_h.new_empty(shape) if out is None else out
        if not adjoint:
            return total.zero_()
        for k, (root, factor) in enumerate(adjoint.items()):
            value = self.roots[root]
            spread = _spread(factor, value)
            if k == 0:
                torch.mul(value, spread, out=total)
            elif isinstance(spread, float):
                total.add_(value, alpha=spread)
            else:
                total.addcmul_(value, spread)
        return total


def _spread(factor: Factor, value: Tensor) -> Factor:
    """The factor with a dim of length 1 for each dim that only the adjoints have."""
    if isinstance(factor, float) or factor.dim() < 3:
        return factor
    for _ in range(value.dim() - factor.dim()):
        factor = factor.unsqueeze(1)
    return factor


class Backward:
    """The loop over time, block after block from the last step that ran to the first.

    ``direct`` gives what reaches a state from outside, (time, ..., batch, units), where anything
    does; dims between time and batch are those of several losses at once.
    """

    def __init__(
        self,
        part: PartValues,
        direct: Mapping[str, ByStep],
        reverse: bool,
        valid: Tensor | None,
        lead: tuple[int, ...] = (),
    ) -> None:
        self.part, self.direct, self.reverse = part, direct, reverse
        self.valid = valid if reverse else None  # what lies behind the end is 0 from the start
        self.lead = lead
        weights = part.weights
        self.weights, self.units = weights, weights.hidden_size
        self.steps, self.batch = part.x.shape[:2]
        element = weights.ih.element_size()
        width = self.batch * self.units * element
        for size in lead:
            width *= size
        self.span = max(1, min(self.steps, BLOCK_BYTES // max(1, width)))
        self.gates = [affine.gate for affine in part.cell.affine if affine.h is not None]
        rows = [weights.rows(gate) for gate in self.gates]
        self.hh = weights.hh
        if len(rows) < len(weights.cell.gates):
            self.hh = torch.cat([weights.hh[r] for r in rows]) if rows else weights.hh[:0]
        self.memory: dict[Root, Tensor] = {}
        self.carry: dict[str, Tensor] = {
            name: weights.ih.new_zeros(*lead, self.batch, self.size(name))
            for name in part.cell.states
        }

    def size(self, root: Root) -> int:
        """Units of a root's adjoint: h and what W_hh is applied to have the output's size."""
        outputs = root == "h" or isinstance(root, FromH)
        return self.weights.hh.shape[1] if outputs else self.units

    def blocks(self, of_h: Tensor | None = None) -> Iterator[tuple[int, int, BlockAdjoints]]:
        """(start, stop, block) from the last that ran to the first, each to be read before the
        next; after all, ``carry`` holds the adjoints of the initial states.

        ``of_h`` (time, ..., batch, gates × units) is where those of the products with h go.
        """
        starts = range(0, self.steps, self.span)
        for start in running_order(starts, not self.reverse):
            stop = min(start + self.span, self.steps)
            block = self.part.block(start, stop).derived()
            place = None if of_h is None else of_h[start:stop]
            yield start, stop, self._sweep(self._empty(block, place), start, stop)

    def _sweep(self, adjoints: BlockAdjoints, start: int, stop: int) -> BlockAdjoints:
        """The roots' adjoints at each step of a block."""
        block = adjoints.block
        for root, root_adjoints in adjoints.roots.items():
            if isinstance(root, str):
                value = self.direct.get(root)
                root_adjoints.zero_() if value is None else root_adjoints.copy_(value[start:stop])
        steps = _Steps(self, adjoints)
        for t in running_order(range(block.steps), not self.reverse):
            steps.back(t, None if self.valid is None else self.valid[start + t])
        return adjoints

    def within(self, block: Block, states: Mapping[str, Tensor]) -> BlockAdjoints:
        """A block for which the states' adjoints are arguments; the other roots follow from them,
        step by step independently."""
        adjoints = self._empty(block.derived())
        for root in block.roots:
            if isinstance(root, str):
                adjoints.roots[root].copy_(states[root])
            else:
                matrix = self.matrix(root)
                product = adjoints.combined(block.feeds[root], matrix.shape[0])
                torch.matmul(product, matrix, out=adjoints.roots[root])
        for k, gate in enumerate(self.gates):
            place = adjoints.of_h[..., k * self.units : (k + 1) * self.units]
            adjoints.combined(block.at.get(FromH(gate), {}), self.units, out=place)
        return adjoints

    def matrix(self, leaf: Root) -> Tensor:
        """The matrix that an affine part applies."""
        if isinstance(leaf, FromH):
            return self.weights.of_h(leaf.gate)[0]
        return self.weights.projection

    def _empty(self, block: Block, of_h: Tensor | None = None) -> BlockAdjoints:
        """Memory for a block; it is the previous block's where the sizes agree."""
        shape = (block.steps, *self.lead, self.batch)
        sizes = {root: self.size(root) for root in block.roots}
        if self.memory.get("h", block.x[:0]).shape[:1] != shape[:1]:
            new = self.weights.ih.new_empty
            self.memory = {root: new(*shape, size) for root, size in sizes.items()}
        if of_h is None:
            of_h = self.weights.ih.new_empty(*shape, len(self.gates) * self.units)
        return BlockAdjoints(block, dict(self.memory), of_h)


@dataclass
class _Run:
    """Gates that stand together and get their adjoints from one root: rows first to last of the
    stacked ones, and their factors by step."""

    root: Root
    first: int
    last: int
    factors: list[Tensor] = field(default_factory=list)


class _Steps:
    """A block laid out by step, so that a step is few operations."""

    def __init__(self, backward: Backward, adjoints: BlockAdjoints) -> None:
        self.backward = backward
        block = adjoints.block
        self.block, self.states = block, backward.part.cell.states
        self.roots = {root: value.unbind(0) for root, value in adjoints.roots.items()}
        self.feeds = {root: self._by_step(adjoint) for root, adjoint in block.feeds.items()}
        units = backward.units
        cube = adjoints.of_h.view(*adjoints.of_h.shape[:-1], len(backward.gates), units)
        self.stacked, self.cubes = adjoints.of_h.unbind(0), cube.unbind(0)
        self.runs, self.single_gates = self._gates()
        self.before = {
            name: self._by_step(block.at.get(Previous(name), {})) for name in self.states
        }

    def _by_step(self, adjoint: Adjoint) -> list[tuple[Root, Sequence[Factor]]]:
        return [(root, self._each(factor)) for root, factor in adjoint.items()]

    def _each(self, factor: Factor) -> Sequence[Factor]:
        if isinstance(factor, Tensor) and factor.dim() == 3:
            return factor.unbind(0)
        return [factor] * self.block.steps

    def _gates(self) -> tuple[list[_Run], list[tuple[int, list[tuple[Root, Sequence[Factor]]]]]]:
        """Neighbouring gates with the same single root, as runs; all other gates singly."""
        runs: list[_Run] = []
        singles: list[tuple[int, list[tuple[Root, Sequence[Factor]]]]] = []
        block, backward = self.block, self.backward
        shape = (block.steps, backward.batch, backward.units)
        together: list[Tensor] = []

        def close() -> None:
            if together:
                runs[-1].factors = list(torch.stack(together, dim=2).unbind(0))
                together.clear()

        for k, gate in enumerate(backward.gates):
            adjoint = block.at.get(FromH(gate), {})
            if len(adjoint) != 1:
                close()
                singles.append((k, self._by_step(adjoint)))
                continue
            ((root, factor),) = adjoint.items()
            if not (together and runs[-1].root == root and runs[-1].last == k):
                close()
                runs.append(_Run(root, k, k))
            runs[-1].last = k + 1
            whole = torch.as_tensor(factor, dtype=block.x.dtype, device=block.x.device)
            together.append(whole.expand(shape))
        close()
        return runs, singles

    def back(self, t: int, valid: Tensor | None) -> None:
        """One step: the roots' adjoints, and what goes to the states before."""
        backward = self.backward
        padding = None if valid is None else ~valid[:, None]
        live: dict[Root, Tensor] = {}
        for root in self.block.roots:
            root_adjoint = self.roots[root][t]
            if isinstance(root, str):
                root_adjoint.add_(backward.carry[root])
                if padding is not None:
                    root_adjoint.masked_fill_(padding, 0)
                _accumulate(root_adjoint, self.feeds[root], live, t)
            else:
                matrix = backward.matrix(root)
                product = root_adjoint.new_zeros(*root_adjoint.shape[:-1], matrix.shape[0])
                _accumulate(product, self.feeds[root], live, t)
                torch.matmul(product, matrix, out=root_adjoint)
            live[root] = root_adjoint
        for run in self.runs:
            place = self.cubes[t][..., run.first : run.last, :]
            torch.mul(live[run.root].unsqueeze(-2), run.factors[t], out=place)
        for k, adjoint in self.single_gates:
            _accumulate(self.cubes[t][..., k, :].zero_(), adjoint, live, t)
        after: dict[str, Tensor] = {}
        for name in self.states:
            if name == "h" and backward.gates:
                value = torch.matmul(self.stacked[t], backward.hh)
                _accumulate(value, self.before[name], live, t)
            else:
                value = _summed(self.before[name], live, t, backward.carry[name])
            after[name] = keep_on_padding(value, backward.carry[name], valid)
        backward.carry = after


def _accumulate(
    into: Tensor, adjoint: list[tuple[Root, Sequence[Factor]]], live: Mapping[Root, Tensor], t: int
) -> None:
    for root, factors in adjoint:
        factor = factors[t]
        if isinstance(factor, float):
            into.add_(live[root], alpha=factor)
        else:
            into.addcmul_(live[root], factor)


def _summed(
    adjoint: list[tuple[Root, Sequence[Factor]]],
    live: Mapping[Root, Tensor],
    t: int,
    like: Tensor,
) -> Tensor:
    if not adjoint:
        return torch.zeros_like(like)
    (root, factors), *further = adjoint
    total = live[root] * factors[t]
    _accumulate(total, further, live, t)
    return total
