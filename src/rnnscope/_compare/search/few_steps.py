"""A few steps of a few rows of one part, under very many choices of its weights at once.

Each choice is three indices: into the products of W_ih, into those of W_hh, and into the biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from rnnscope._compare.model.batched import Batch, Picked, Step, of_overwritten, separable
from rnnscope._compare.model.model import Part
from rnnscope._compare.model.observed import distance
from rnnscope._compare.model.single_steps import restricted
from rnnscope._compare.model.steps import OpenedPart, Steps, tolerances
from rnnscope._compare.search.choices import Choices, Level, tensors_of
from rnnscope._compare.work import GATE, PICK, spend
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Expr, Previous, Quantity, evaluate, leaves

__all__ = ["CHUNK", "ROWS", "SLACK", "STEPS", "FewSteps", "Products", "Reads", "fits"]

ROWS = 2
STEPS = 3
"""Rows and steps that are looked at."""

SLACK = 4
"""Times what rounding allows the right part: a mistaken one may round more."""

CHUNK = 2**19
"""Numbers of gates that are computed at once."""

FEW = 64
"""Choices that need no further step to be told apart."""

States = dict[str, Tensor]


@dataclass(frozen=True)
class Products:
    """``of_x`` the product of x with every variant of W_ih, (variant, time, batch, rows of gates),
    ``of_h`` that of h with every variant of W_hh, of all steps or of the first alone; every
    variant of the biases, (variant, rows), and of the matrices themselves."""

    of_x: Tensor
    of_h: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    ih: Tensor
    hh: Tensor

    @classmethod
    def of(
        cls,
        x: Tensor,
        h: Tensor,
        tensors: Mapping[str, Tensor | None],
        overwritten: Tensor | None = None,
        units: Tensor | None = None,
    ) -> Products:
        """Of x and h (time, batch, feature); and h after the step where ``units``, or all, read
        what was ``overwritten``."""
        ih, hh = tensors["ih"], tensors["hh"]
        assert ih is not None, "every part has W_ih"
        assert hh is not None, "every part has W_hh"
        spend(x.shape[0] * x.shape[1] * ih.numel() + h.shape[0] * h.shape[1] * hh.numel())
        of_x, of_h = (
            torch.einsum("tbi,voi->vtbo", values, matrices)
            for values, matrices in ((x, ih), (h, hh))
        )
        if overwritten is not None:
            more = of_overwritten((overwritten - h).flatten(0, 1), hh, units)
            of_h = of_h + more.reshape(of_h.shape)
        return cls(of_x, of_h, tensors["b_ih"], tensors["b_hh"], ih, hh)

    def step(
        self,
        part: Part,
        t: int,
        rows: slice,
        chosen: Tensor,
        before: Mapping[str, Tensor],
        units: Tensor | None = None,
        computed: Iterable[str] = (),
        of_x: Tensor | None = None,
    ) -> Step:
        """A step, (choice, batch, unit), from the states ``before``; ``units`` and ``computed`` as
        ``Step`` has them. ``of_x`` (choice, batch, rows of gates) is the product with what is
        read, where that is not the same for all."""
        i, j, k = chosen.unbind(1)
        multiply = t >= self.of_h.shape[1]
        numbers = len(chosen) * before["h"].shape[-2] * self.ih.shape[1]
        spend(numbers * (PICK + self.hh.shape[-1] * multiply))
        of_x = self.of_x[:, t, rows][i] if of_x is None else of_x
        of_h = torch.matmul(before["h"], self.hh[j].mT) if multiply else self.of_h[:, t, rows][j]
        b_hh: Tensor | None = None
        if self.b_ih is not None:
            of_x = of_x + self.b_ih[k].unsqueeze(1)
        if self.b_hh is not None:
            b_hh = self.b_hh[k].unsqueeze(1)
            of_h = of_h + b_hh
        batch = Batch([part if units is None else restricted(part, units)])
        batch.hh = Picked(self.hh, j)
        step = Step(batch, of_x, before, b_hh, units, computed)
        step.products_of[Previous("h")] = of_h
        return step

    def of_unit(self, unit: int, size: int) -> Products:
        """Of one unit of so many."""

        def cut(value: Tensor) -> Tensor:
            return value.reshape(*value.shape[:-1], -1, size)[..., unit]

        b_ih, b_hh = (None if b is None else cut(b) for b in (self.b_ih, self.b_hh))
        ih, hh = (cut(matrices.mT).mT for matrices in (self.ih, self.hh))
        return Products(cut(self.of_x), cut(self.of_h), b_ih, b_hh, ih, hh)


def computed(step: Step, cells: Iterable[Cell]) -> Iterator[dict[str, Tensor]]:
    """Every quantity of a step by the equations of each cell; what cells have in common is computed
    once."""
    start, values_of = step.values, dict[tuple[int, ...], Tensor]()
    quantities: dict[int, list[Quantity]] = {}
    for cell in cells:
        values = step.values = dict(start)
        step.batch.cell = cell
        for name, equation in cell.equations.items():
            if id(equation) not in quantities:
                within = [leaf for leaf in leaves(equation) if isinstance(leaf, Quantity)]
                quantities[id(equation)] = within
            key = (id(equation), *(id(values[leaf]) for leaf in quantities[id(equation)]))
            if key not in values_of:
                values_of[key] = evaluate(equation, step)
                spend(GATE * values_of[key].numel(), calls=1)
            values[Quantity(name)] = values_of[key]
        yield {name: values[Quantity(name)] for name in cell.equations}
    step.values = start


def of_all_units(step: Step, expr: Expr, cell: Cell) -> Tensor:
    """The value of an expression at a step, and of no more quantities than stand in it."""
    for leaf in leaves(expr):
        if isinstance(leaf, Quantity) and leaf not in step.values:
            step.values[leaf] = of_all_units(step, cell.equations[leaf.name], cell)
    return evaluate(expr, step)


def fits(
    values: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    count: int,
) -> Tensor:
    """(choice): whether all states are what was seen, as far as rounding allows."""
    fit = torch.ones(count, dtype=torch.bool, device="cpu")
    for name, value in observed.items():
        fit &= (distance(values[name], value) <= allowed[name]).flatten(1).all(1)
        if not fit.any():
            break
    return fit


@dataclass(frozen=True)
class Reads:
    """What a part reads where it is not the same for all choices: of each the numbers ``which``
    (choice, direction) of what the layer below may have ``emitted`` in each direction, (number,
    time, batch, unit) in the order of computing."""

    emitted: tuple[Tensor, ...]
    which: Tensor

    def at(self, t: int, rows: slice, places: slice) -> Tensor:
        """What some choices read at a step, (choice, batch, feature)."""
        numbers = self.which[places].unbind(1)
        pairs = zip(self.emitted, numbers, strict=True)
        return torch.cat([emitted[:, t, rows][k] for emitted, k in pairs], -1)

    def of(self, remaining: Tensor) -> Reads:
        """What some of the choices read."""
        return replace(self, which=self.which[remaining])


@dataclass(frozen=True)
class FewSteps:
    """The first steps of some rows: ``before`` and ``after``, states (time, batch, unit), with what
    rounding ``allowed``; ``hidden`` states that are run along from ``initial`` ones. ``units``: the
    units that are computed, None for all; ``whole``: products of the first step with
    all of them."""

    units: Tensor | None
    initial: Mapping[str, Tensor]
    hidden: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    allowed: Mapping[str, Tensor]
    products: Products
    whole: Callable[[], Products]

    @classmethod
    def of(
        cls, witness: OpenedPart, choices: Choices, units: Tensor | None, level: Level
    ) -> FewSteps | None:
        """With what mistakes make of each parameter; None where no h is known."""
        part = witness.part
        [steps] = witness.richest.steps
        call, rows = steps.known, _rows(steps)
        if "h" not in call.before or "h" not in steps.after or not len(rows):
            return None
        index = (slice(0, STEPS), rows)
        x, before = call.x[index], {name: value[index] for name, value in call.before.items()}
        tolerance = tolerances(part, steps)
        initial = {n: call.initial[n][rows] for n in part.cell.states if n not in before}
        after = {n: value[index] for n, value in steps.after.items() if n in part.cell.states}
        allowed = {n: SLACK * tolerance[n].expand_as(steps.after[n])[index] for n in after}
        hidden = initial
        if units is not None:
            hidden, after, allowed = (
                {name: value[..., units] for name, value in values.items()}
                for values in (hidden, after, allowed)
            )
        overwritten = None if call.overwritten is None else call.overwritten[index]
        tensors = tensors_of(choices.variants(part, units, level))
        products = Products.of(x, before["h"], tensors, overwritten, units)
        whole = cache(partial(_of_all_rows, choices, part, level, x[0], before["h"][0]))
        return cls(units, initial, hidden, before, after, allowed, products, whole)

    def of_unit(self, unit: int) -> FewSteps:
        """Of one of the units alone."""
        assert self.units is not None, "of all units none is alone"
        place = slice(unit, unit + 1)
        hidden, after, allowed = (
            {name: value[..., place] for name, value in values.items()}
            for values in (self.hidden, self.after, self.allowed)
        )
        return replace(
            self,
            units=self.units[place],
            hidden=hidden,
            after=after,
            allowed=allowed,
            products=self.products.of_unit(unit, len(self.units)),
        )

    def fitting(
        self,
        part: Part,
        cells: Sequence[Cell],
        chosen: Tensor,
        reads: Reads | None = None,
        most: int = FEW,
    ) -> Iterator[Tensor]:
        """For the equations of each cell, which choices fit; by the first step alone where some
        units need all others of the same step, or no more than so many are left."""
        # most are told from the others by one unit of one row
        first = self if self.units is None or reads is not None else self.of_unit(0)
        beginnings = first.beginning(part, cells, chosen, reads)
        for cell, remaining in zip(cells, beginnings, strict=True):
            hidden: States = {n: v.unsqueeze(0) for n, v in self.hidden.items()}
            steps = self.products.of_x.shape[1]
            if len(remaining) and self.units is not None and not separable(cell):
                steps = 1
            for t in range(steps):
                if not len(remaining) or (t and reads is None and len(remaining) <= most):
                    break
                flow = None if reads is None else reads.of(remaining)
                at = t, slice(None)
                [(fit, hidden)] = self._step(part, [cell], at, chosen[remaining], hidden, flow)
                remaining = remaining[fit]
            yield remaining

    def beginning(
        self, part: Part, cells: Sequence[Cell], chosen: Tensor, reads: Reads | None = None
    ) -> list[Tensor]:
        """For the equations of each cell, which choices fit the first step of the first row."""
        if not len(chosen):
            return [torch.arange(0, device="cpu")] * len(cells)
        hidden: States = {n: v.unsqueeze(0) for n, v in self.hidden.items()}
        steps = self._step(part, cells, (0, slice(0, 1)), chosen, hidden, reads)
        return [fit.nonzero().flatten() for fit, _ in steps]

    @torch.inference_mode()
    def _step(
        self,
        part: Part,
        cells: Sequence[Cell],
        at: tuple[int, slice],
        chosen: Tensor,
        hidden: Mapping[str, Tensor],
        reads: Reads | None,
    ) -> list[tuple[Tensor, States]]:
        """For the equations of each cell which of some choices fit a step, and the states that are
        run along, of those."""
        (t, rows), of_x = at, None
        fitting: list[list[Tensor]] = [[] for _ in cells]
        states: list[list[States]] = [[] for _ in cells]
        observed, allowed = (
            {name: value[t, rows] for name, value in values.items()}
            for values in (self.after, self.allowed)
        )
        before = {name: value[t, rows].unsqueeze(0) for name, value in self.before.items()}
        ih = self.products.ih
        most = max(1, CHUNK // (ih.shape[1] if reads is None else ih[0].numel()))
        for start in range(0, len(chosen), most):
            places = slice(start, start + most)
            chunk = chosen[places]
            carried = _part_of(hidden, places, len(chosen))
            carried = {name: value[:, rows] for name, value in carried.items()}
            if reads is not None:
                of_x = torch.matmul(reads.at(t, rows, places), ih[chunk[:, 0]].mT)
                spend(of_x.shape[1] * len(chunk) * ih[0].numel())
            cell_part = replace(part, cell=cells[0])
            step = self.products.step(
                cell_part, t, rows, chunk, before | carried, self.units, hidden, of_x
            )
            if self.units is not None:
                step.whole = partial(self._of_all_units, step, part, rows, chunk)
            for k, values in enumerate(computed(step, cells)):
                fit = fits(values, observed, allowed, len(chunk))
                fitting[k].append(fit)
                states[k].append(_part_of({n: values[n] for n in hidden}, fit, len(chunk)))
        return [
            (
                torch.cat(fit),
                {name: torch.cat([state[name] for state in cell_states]) for name in hidden},
            )
            for fit, cell_states in zip(fitting, states, strict=True)
        ]

    def _of_all_units(
        self, step: Step, part: Part, rows: slice, chosen: Tensor, expr: Expr
    ) -> Tensor:
        """The value of an expression at the first step of some rows."""
        known = {name: value[0] for name, value in self.before.items()} | dict(self.initial)
        before = {name: value[rows].unsqueeze(0) for name, value in known.items()}
        if isinstance(expr, Previous):
            return before[expr.name]
        first = self.whole().step(part, 0, rows, chosen, before)
        return of_all_units(first, expr, step.batch.cell)


def _of_all_rows(choices: Choices, part: Part, level: Level, x: Tensor, h: Tensor) -> Products:
    """The products of x and h (batch, feature) with all rows of every variant of the weights."""
    of_x, of_h = (
        choices.multiplied(part, group, level, value).unsqueeze(1)
        for group, value in enumerate((x, h))
    )
    biases = choices.biases(part, level)
    ih, hh = part.stored.ih[None], part.stored.hh[None]
    return Products(of_x, of_h, biases["b_ih"], biases["b_hh"], ih, hh)


def _part_of(values: Mapping[str, Tensor], where: slice | Tensor, count: int) -> States:
    """Of what each of so many choices has, or all have in common, that of some."""
    return {n: v.expand(count, *v.shape[1:])[where] for n, v in values.items()}


def _rows(steps: Steps) -> Tensor:
    """Rows that take steps from the first on."""
    valid = steps.known.valid
    if valid is None:
        return torch.arange(min(ROWS, steps.known.x.shape[1]), device="cpu")
    whole = valid[:STEPS].all(0).nonzero().flatten()
    return whole[:ROWS]
