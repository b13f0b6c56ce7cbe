"""A few rows of one part, run with very many variants of its weights at once.

Each variant is three indices: into the products of W_ih, into those of W_hh, and into the biases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._compare.model.batched import Batch, Step, separable
from rnnscope._compare.model.model import Part
from rnnscope._compare.model.observed import distance
from rnnscope._compare.model.runs import Run, RunPart
from rnnscope._compare.model.single_steps import restricted
from rnnscope._compare.model.steps import OpenedPart, Steps, tolerances
from rnnscope._compare.work import GATE, is_over, spend
from rnnscope.cells.algebra import Previous

__all__ = [
    "CHUNK",
    "ROWS",
    "SLACK",
    "STEPS",
    "FirstSteps",
    "Products",
    "WholeRun",
    "fits",
]

ROWS = 2
STEPS = 3
"""Rows and steps that are looked at."""

SLACK = 4
"""Times what rounding allows the right part: a mistaken one may round more."""

CHUNK = 2**19
"""Numbers of gates that are computed at once."""

FEW = 64
"""Variants that need no further step to be told apart."""

UNITS = 4
"""Units that are computed of those whose step needs no other unit of it."""

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
    def of(cls, x: Tensor, h: Tensor, tensors: Mapping[str, Tensor | None]) -> Products:
        """Of x and h (time, batch, feature)."""
        ih, hh = tensors["ih"], tensors["hh"]
        assert ih is not None, "every part has W_ih"
        assert hh is not None, "every part has W_hh"
        spend(x.shape[0] * x.shape[1] * ih.numel() + h.shape[0] * h.shape[1] * hh.numel())
        of_x, of_h = (
            torch.einsum("tbi,voi->vtbo", values, matrices)
            for values, matrices in ((x, ih), (h, hh))
        )
        return cls(of_x, of_h, tensors["b_ih"], tensors["b_hh"], ih, hh)

    def of_rows(self, rows: Tensor) -> Products:
        """The same of some rows of the gates."""
        b_ih, b_hh = (None if b is None else b[:, rows] for b in (self.b_ih, self.b_hh))
        of_x, of_h = self.of_x[..., rows], self.of_h[..., rows]
        return Products(of_x, of_h, b_ih, b_hh, self.ih[:, rows], self.hh[:, rows])

    def step(
        self,
        part: Part,
        t: int,
        rows: slice,
        chosen: Tensor,
        before: Mapping[str, Tensor],
        units: Tensor | None = None,
        own: Iterable[str] = (),
        of_x: Tensor | None = None,
    ) -> Mapping[str, Tensor]:
        """Every quantity of a step, (variant, batch, unit), from the states ``before``; ``units``
        and ``own`` as ``Step`` has them. ``of_x`` (variant, batch, rows of gates) is the product
        with what each reads, where that is not the same."""
        i, j, k = chosen.unbind(1)
        rows_of_gates = self.ih.shape[1]
        product = t >= self.of_h.shape[1]
        numbers = len(chosen) * before["h"].shape[-2] * rows_of_gates
        spend(numbers * (GATE + self.hh.shape[-1] * product), calls=len(part.cell.equations))
        of_x = self.of_x[:, t, rows][i] if of_x is None else of_x
        of_h = torch.matmul(before["h"], self.hh[j].mT) if product else self.of_h[:, t, rows][j]
        b_hh: Tensor | None = None
        if self.b_ih is not None:
            of_x = of_x + self.b_ih[k].unsqueeze(1)
        if self.b_hh is not None:
            b_hh = self.b_hh[k].unsqueeze(1)
            of_h = of_h + b_hh
        batch = Batch([part if units is None else restricted(part, units)])
        if not separable(part.cell):
            batch.hh = self.hh[j]
        step = Step(batch, of_x, before, b_hh, units, own)
        step.products_of[Previous("h")] = of_h
        return step.run()


def fits(
    values: Mapping[str, Tensor],
    seen: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    count: int,
) -> Tensor:
    """(variant): whether all states are what was seen, as far as rounding allows."""
    found = torch.ones(count, dtype=torch.bool, device="cpu")
    for name, each in seen.items():
        found &= (distance(values[name], each) <= allowed[name]).flatten(1).all(1)
    return found


def _some(values: Mapping[str, Tensor], where: slice | Tensor, count: int) -> States:
    """Of what each of so many variants has, or all have in common, that of some."""
    return {n: v.expand(count, *v.shape[1:])[where] for n, v in values.items()}


@dataclass(frozen=True)
class FirstSteps:
    """The first steps of some rows: ``before`` and ``after``, states (time, batch, unit), with what
    rounding ``allowed``; ``hidden`` states that are run along. ``units``: the units that are
    computed, None for all."""

    units: Tensor | None
    hidden: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    allowed: Mapping[str, Tensor]
    products: Products
    whole: FirstSteps | None = None

    @classmethod
    def of(cls, witness: OpenedPart, tensors: Mapping[str, Tensor | None]) -> FirstSteps | None:
        """With these variants of each parameter; None where no h is known."""
        part = witness.part
        [steps] = witness.richest.steps
        known, rows = steps.known, _rows(steps)
        if "h" not in known.before or "h" not in steps.after or not len(rows):
            return None
        index = (slice(0, STEPS), rows)
        before = {name: value[index] for name, value in known.before.items()}
        tolerance = tolerances(part, steps)
        states = [name for name in steps.after if name in part.cell.states]
        first = cls(
            None,
            {n: known.initial[n][rows] for n in part.cell.states if n not in before},
            before,
            {name: steps.after[name][index] for name in states},
            {name: SLACK * tolerance[name].expand_as(steps.after[name])[index] for name in states},
            Products.of(known.x[index], before["h"], tensors),
        )
        return first._of_units(part)

    def _of_units(self, part: Part) -> FirstSteps:
        """The same of a few units, with the whole beside it."""
        size = part.stored.hidden_size
        if size <= UNITS or any(v.shape[-1] != size for v in self.after.values()):
            return self
        units = torch.linspace(0, size - 1, UNITS, dtype=torch.float32, device="cpu").long()
        rows = torch.cat([k * size + units for k in range(len(part.cell.gates))])
        hidden, after, allowed = (
            {name: value[..., units] for name, value in values.items()}
            for values in (self.hidden, self.after, self.allowed)
        )
        return FirstSteps(
            units, hidden, self.before, after, allowed, self.products.of_rows(rows), self
        )

    def fitting(self, part: Part, variants: Tensor) -> Tensor:
        """Which variants fit, with the equations of a part."""
        if self.whole is not None and not separable(part.cell):
            return self.whole.fitting(part, variants)
        left = torch.arange(len(variants), device="cpu")
        if not len(left):
            return left
        hidden: States = {n: v.unsqueeze(0) for n, v in self.hidden.items()}
        with torch.inference_mode():
            # most are told from the rest by one row
            left = left[self._step(part, 0, slice(0, 1), variants, hidden)[0]]
            for t in range(self.products.of_x.shape[1]):
                if not len(left) or (t and len(left) <= FEW):
                    break
                whole, hidden = self._step(part, t, slice(None), variants[left], hidden)
                left = left[whole]
        return left

    def _step(
        self, part: Part, t: int, rows: slice, chosen: Tensor, hidden: Mapping[str, Tensor]
    ) -> tuple[Tensor, States]:
        """Which of some variants fit a step, and the states that are run along, of those."""
        found: list[Tensor] = []
        states: list[States] = []
        seen, allowed = (
            {name: value[t, rows] for name, value in values.items()}
            for values in (self.after, self.allowed)
        )
        before = {name: value[t, rows].unsqueeze(0) for name, value in self.before.items()}
        most = max(1, CHUNK // self.products.of_x.shape[-1])
        for start in range(0, len(chosen), most):
            some = chosen[start : start + most]
            mine = _some(hidden, slice(start, start + most), len(chosen))
            mine = {name: value[:, rows] for name, value in mine.items()}
            values = self.products.step(part, t, rows, some, before | mine, self.units, hidden)
            fit = fits(values, seen, allowed, len(some))
            found.append(fit)
            states.append(_some({name: values[name] for name in hidden}, fit, len(some)))
        joined = {name: torch.cat([one[name] for one in states]) for name in hidden}
        return torch.cat(found), joined


def _rows(steps: Steps) -> Tensor:
    """Rows that take steps from the first on."""
    valid = steps.known.valid
    if valid is None:
        return torch.arange(min(ROWS, steps.known.x.shape[1]), device="cpu")
    whole = valid[:STEPS].all(0).nonzero().flatten()
    return whole[:ROWS]


@dataclass(frozen=True)
class WholeRun:
    """One row from its initial states to those in which it ends, (batch, unit), with what rounding
    ``allowed``."""

    initial: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    allowed: Mapping[str, Tensor]
    products: Products

    @classmethod
    def of(
        cls,
        witness: RunPart,
        tensors: Mapping[str, Tensor | None],
    ) -> WholeRun | None:
        """Of the shortest run, with these variants of each parameter; None where there is none of
        which all steps are the row's own."""
        runs = [run for run in witness.runs if run.lengths is None]
        if not runs:
            return None
        run = min(runs, key=_length)
        x = run.x[:, :1].flip(0) if witness.part.backward else run.x[:, :1]
        initial = {name: value[:1] for name, value in run.initial.items()}
        return cls(
            initial,
            {name: value[:1] for name, value in run.final.items()},
            {name: SLACK * value[:1] for name, value in run.allowed.items()},
            Products.of(x, initial["h"].unsqueeze(0), tensors),
        )

    def fitting(self, part: Part, variants: Tensor) -> Tensor:
        """Which variants fit, with the equations of a part."""
        found: list[Tensor] = []
        hh = self.products.hh
        most = max(1, CHUNK // hh[0].numel())
        every = slice(None)
        with torch.inference_mode():
            for start in range(0, len(variants), most):
                if is_over():
                    break
                some = variants[start : start + most]
                states: Mapping[str, Tensor] = {n: v.unsqueeze(0) for n, v in self.initial.items()}
                for t in range(self.products.of_x.shape[1]):
                    values = self.products.step(part, t, every, some, states)
                    states = {name: values[name] for name in self.initial}
                found.append(fits(states, self.final, self.allowed, len(some)))
        fit = torch.cat(found) if found else torch.zeros(0, dtype=torch.bool, device="cpu")
        return fit.nonzero().flatten()


def _length(run: Run) -> tuple[bool, int]:
    """Runs from other states than zeros before others, short ones before long ones."""
    zeros = not all(bool(value.any()) for value in run.initial.values())
    return zeros, len(run.x)
