"""A few steps of a few rows of one part, under very many choices of its weights at once.

Each choice is three indices: into the products of W_ih, into those of W_hh, and into the biases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.model.batched import Batch, Step, separable
from rnnscope._compare.model.model import Part
from rnnscope._compare.model.observed import distance
from rnnscope._compare.model.single_steps import restricted
from rnnscope._compare.model.steps import OpenedPart, Steps, tolerances
from rnnscope._compare.search.choices import Choices, tensors_of
from rnnscope._compare.work import PICK, spend
from rnnscope.cells.algebra import Previous

__all__ = ["CHUNK", "ROWS", "SLACK", "STEPS", "FewSteps", "Products", "Reads", "fits", "units_of"]

ROWS = 2
STEPS = 3
"""Rows and steps that are looked at."""

SLACK = 4
"""Times what rounding allows the right part: a mistaken one may round more."""

CHUNK = 2**19
"""Numbers of gates that are computed at once."""

FEW = 64
"""Choices that need no further step to be told apart."""

UNITS = 4
"""Units that are computed where a step of each needs no other unit of the same step."""

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
    ) -> Mapping[str, Tensor]:
        """Every quantity of a step, (choice, batch, unit), from the states ``before``; ``units``
        and ``own`` as ``Step`` has them. ``of_x`` (choice, batch, rows of gates) is the product
        with what is read, where that is not the same for all."""
        i, j, k = chosen.unbind(1)
        multiply = t >= self.of_h.shape[1]
        numbers = len(chosen) * before["h"].shape[-2] * self.ih.shape[1]
        spend(numbers * (PICK + self.hh.shape[-1] * multiply), calls=len(part.cell.equations))
        of_x = self.of_x[:, t, rows][i] if of_x is None else of_x
        of_h = torch.matmul(before["h"], self.hh[j].mT) if multiply else self.of_h[:, t, rows][j]
        b_hh: Tensor | None = None
        if self.b_ih is not None:
            of_x = of_x + self.b_ih[k].unsqueeze(1)
        if self.b_hh is not None:
            b_hh = self.b_hh[k].unsqueeze(1)
            of_h = of_h + b_hh
        batch = Batch([part if units is None else restricted(part, units)])
        if not separable(part.cell):
            batch.hh = self.hh[j]
        step = Step(batch, of_x, before, b_hh, units, computed)
        step.products_of[Previous("h")] = of_h
        return step.run()


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
    return fit


def units_of(part: Part) -> Tensor | None:
    """The units that are computed of a part whose units need no other; None where it is all."""
    size = part.stored.hidden_size
    if size <= UNITS or not separable(part.cell):
        return None
    return torch.linspace(0, size - 1, UNITS, dtype=torch.float32, device="cpu").long()


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
    rounding ``allowed``; ``hidden`` states that are run along. ``units``: the units that are
    computed, None for all."""

    units: Tensor | None
    hidden: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    allowed: Mapping[str, Tensor]
    products: Products

    @classmethod
    def of(
        cls, witness: OpenedPart, choices: Choices, units: Tensor | None, depth: int
    ) -> FewSteps | None:
        """With what up to so many mistakes make of each parameter; None where no h is known."""
        part = witness.part
        [steps] = witness.richest.steps
        call, rows = steps.known, _rows(steps)
        if "h" not in call.before or "h" not in steps.after or not len(rows):
            return None
        index = (slice(0, STEPS), rows)
        before = {name: value[index] for name, value in call.before.items()}
        tolerance = tolerances(part, steps)
        hidden = {n: call.initial[n][rows] for n in part.cell.states if n not in before}
        after = {n: value[index] for n, value in steps.after.items() if n in part.cell.states}
        allowed = {n: SLACK * tolerance[n].expand_as(steps.after[n])[index] for n in after}
        if units is not None:
            hidden, after, allowed = (
                {name: value[..., units] for name, value in values.items()}
                for values in (hidden, after, allowed)
            )
        tensors = tensors_of(choices.variants(part, units, depth))
        products = Products.of(call.x[index], before["h"], tensors)
        return cls(units, hidden, before, after, allowed, products)

    def fitting(self, part: Part, chosen: Tensor, reads: Reads | None = None) -> Tensor:
        """Which choices fit, with the equations of a part."""
        # most are told from the rest by one row
        remaining = self.beginning(part, chosen, reads)
        hidden: States = {n: v.unsqueeze(0) for n, v in self.hidden.items()}
        for t in range(self.products.of_x.shape[1]):
            if not len(remaining) or (t and reads is None and len(remaining) <= FEW):
                break
            flow = None if reads is None else reads.of(remaining)
            fit, hidden = self._step(part, (t, slice(None)), chosen[remaining], hidden, flow)
            remaining = remaining[fit]
        return remaining

    def beginning(self, part: Part, chosen: Tensor, reads: Reads | None = None) -> Tensor:
        """Which choices fit the first step of the first row."""
        if not len(chosen):
            return torch.arange(0, device="cpu")
        hidden: States = {n: v.unsqueeze(0) for n, v in self.hidden.items()}
        fit, _ = self._step(part, (0, slice(0, 1)), chosen, hidden, reads)
        return fit.nonzero().flatten()

    @torch.inference_mode()
    def _step(
        self,
        part: Part,
        at: tuple[int, slice],
        chosen: Tensor,
        hidden: Mapping[str, Tensor],
        reads: Reads | None,
    ) -> tuple[Tensor, States]:
        """Which of some choices fit a step, and the states that are run along, of those."""
        (t, rows), of_x = at, None
        fit: list[Tensor] = []
        states: list[States] = []
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
            states_before = before | carried
            values = self.products.step(
                part, t, rows, chunk, states_before, self.units, hidden, of_x
            )
            fit.append(fits(values, observed, allowed, len(chunk)))
            states.append(_part_of({n: values[n] for n in hidden}, fit[-1], len(chunk)))
        joined = {name: torch.cat([state[name] for state in states]) for name in hidden}
        return torch.cat(fit), joined


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
