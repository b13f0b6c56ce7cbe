"""The x that a candidate's numbers come from, where all but x is right.

Each step has as many equations as units, h_t = step(x_t, h_(t-1)), and as many unknowns as x has
features. Where these are fewer, least squares leave nothing but rounding only if weights, equations
and states are right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.model.batched import Batch, Step, from_input, separable
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.steps import Steps, opened_parts, tolerances
from rnnscope._compare.work import spend

__all__ = ["FIRST", "SolvedX", "may_be_solved", "solved_x"]

FIRST, WORK = (3, 2), 2e8
"""Steps and rows that are solved first: where few of them are, nothing else is. One step alone
where these take more products."""

SHARE = 1 / 3
"""Of the steps that are solved at least so many, or it is not x that is wrong."""

CALLS = 40
"""Of torch in a round, as many as equations are told to cost."""

ROUNDS, RESTARTS = 24, 6
"""Steps of Levenberg and Marquardt, at most, and from how many other places they start anew."""

DAMPING, LEAST = 1e-3, 1e-14
"""How much a step is damped at first, and always, relative to the slope's own size."""

EASED, STIFFER = 0.1, 30.0
"""By which the damping is multiplied after a step that helped, and after one that did not."""

STIFFEST = 1e5
"""Damping at which no step helps any more."""

SOON, MUCH = 2, 0.3
"""Steps after which what starts from the given x alone is given up, where in each row more than so
much of the squares is left."""

ENOUGH = 0.9
"""A step that leaves more than this of the squares has come to the end."""


@dataclass(frozen=True)
class SolvedX:
    """``x`` (time, batch, feature) of some first steps and rows, how far rounding may have moved
    each of its numbers (``error``), and which of the steps are ``solved`` (time, batch), of those
    that are no padding (``valid``)."""

    x: Tensor
    error: Tensor
    solved: Tensor
    valid: Tensor

    @property
    def enough(self) -> bool:
        """Whether so much is solved that chance is excluded."""
        return bool(self.solved.sum() >= SHARE * self.valid.sum())


def may_be_solved(model: Model) -> bool:
    """Whether steps of the first layer may have more equations than x has features."""
    sizes = model.structure
    return len(sizes.cell.states) * sizes.hidden_size > sizes.input_size


def solved_x(model: Model, seen: Observation, restarts: int = RESTARTS) -> SolvedX | None:
    """The x with which the first layer's single steps give what was observed, to rounding; None
    where there is none, or where units are too few to tell. With fewer ``restarts`` some that are
    far from the x that was given are not found."""
    if model.enter or model.inner or model.reads[0]:
        return None
    opened = opened_parts(model, [seen]).get((0, 0))
    if opened is None or not _is_plain(opened.part):
        return None
    [steps] = opened.steps
    states = [name for name in opened.part.cell.states if name in steps.after]
    equations, features = (
        sum(steps.after[name].shape[-1] for name in states),
        seen.inputs.x.shape[-1],
    )
    if equations <= features or not _is_finite(steps):
        return None
    first = FIRST if math.prod(FIRST) * equations * features**2 <= WORK else (1, 1)
    with torch.inference_mode(False), torch.enable_grad():
        if not _solved(opened.part, _cut(steps, *first), restarts).enough:
            return None
        solution = _solved(opened.part, steps, restarts)
        return solution if solution.enough else None


def _is_plain(part: Part) -> bool:
    """Whether a step reads x by W_ih alone, unit by unit, and h as it was handed on."""
    changed = part.backward or part.in_place or any(part.flipped) or part.unapplied
    fed = (part.feeds, part.emits) == ("h", "h") and part.first_b_hh is None
    return separable(part.cell) and fed and not changed and not part.restarts


def _is_finite(steps: Steps) -> bool:
    arrays = (steps.known.x, *steps.after.values(), *steps.known.initial.values())
    return all(bool(torch.isfinite(value).all()) for value in arrays)


def _cut(steps: Steps, most: int, rows: int) -> Steps:
    """The first of some rows."""
    known = steps.known
    fewer = replace(
        known,
        x=known.x[:most, :rows],
        before={name: value[:most, :rows] for name, value in known.before.items()},
        initial={name: value[:rows] for name, value in known.initial.items()},
        valid=None if known.valid is None else known.valid[:most, :rows],
    )
    return replace(
        steps,
        known=fewer,
        after={name: value[:most, :rows] for name, value in steps.after.items()},
    )


def _solved(part: Part, steps: Steps, restarts: int) -> SolvedX:
    """The solution of all these steps; at once where each state is known, else one after another,
    in each row until one is not solved."""
    known = steps.known
    names = tuple(name for name in part.cell.states if name in steps.after)
    equations = _Equations(part, names, restarts)
    hidden = [name for name in part.cell.states if name not in known.before]
    target = torch.cat([steps.after[name] for name in equations.names], -1).clone()
    allowed = torch.stack(list(tolerances(part, steps).values())).amax(0)
    time, rows = known.x.shape[:2]
    whole = torch.ones(time, rows, dtype=torch.bool, device="cpu")
    valid = whole if known.valid is None else known.valid
    run = {name: known.initial[name].clone() for name in hidden}
    going = torch.ones(rows, dtype=torch.bool, device="cpu")
    solutions: list[_Solution] = []
    past = _Pairs(known.x[:0].flatten(0, 1), known.x[:0].flatten(0, 1))
    width = 1 if hidden else time
    for start in range(0, time, width):
        here = slice(start, start + width)
        before = {name: value[here].flatten(0, 1).clone() for name, value in known.before.items()}
        x = known.x[here].flatten(0, 1).clone()
        wanted = (going & valid[here]).flatten()
        solution = equations.solved(
            x, before | run, target[here].flatten(0, 1), allowed[here].flatten(0, 1), wanted, past
        )
        past = _Pairs(
            torch.cat([past.given, x[solution.ratio <= 1]]),
            torch.cat([past.found, solution.x[solution.ratio <= 1]]),
        )
        if hidden:
            going = going & ((solution.ratio <= 1) | ~valid[start])
            solution = replace(solution, ratio=solution.ratio.masked_fill(~going, torch.inf))
            run = {
                name: torch.where(valid[start, :, None], solution.values[name], run[name])
                for name in hidden
            }
        solutions.append(solution)
        if not bool(going.any()):
            break
    done = len(solutions) * width
    found = torch.zeros(time, rows, dtype=torch.bool, device="cpu")
    found[:done] = torch.cat([s.ratio for s in solutions]).reshape(done, rows) <= 1
    if bool(going.any()):
        found &= going  # where a row came to no end, it may have gone astray before
    x, error = known.x.clone(), torch.full_like(known.x, torch.inf)
    x[:done] = torch.cat([s.x for s in solutions]).reshape(done, rows, -1)
    error[:done] = torch.cat([s.error for s in solutions]).reshape(done, rows, -1)
    return SolvedX(x, error, found & valid, valid)


@dataclass(frozen=True)
class _Solution:
    """Of n steps x (n, feature) with its error, every state after them, and the largest residual
    relative to what rounding allows (n)."""

    x: Tensor
    error: Tensor
    values: Mapping[str, Tensor]
    ratio: Tensor

    def improved(self, places: Tensor, other: _Solution) -> _Solution:
        """With those of another at some of the n that come closer."""
        better = other.ratio < self.ratio[places]
        places = places[better]

        def put(value: Tensor, more: Tensor) -> Tensor:
            return value.index_copy(0, places, more[better])

        values = {name: put(value, other.values[name]) for name, value in self.values.items()}
        return _Solution(
            put(self.x, other.x), put(self.error, other.error), values, put(self.ratio, other.ratio)
        )


@dataclass(frozen=True)
class _Pairs:
    """The x that were ``given`` at steps that are solved, and those ``found``, (n, feature)."""

    given: Tensor
    found: Tensor

    def start(self, x: Tensor, restart: int) -> Tensor:
        """Where other steps may start from: zeros, then their own x as these were changed, feature
        by feature; then the x that were found."""
        if restart == 0:
            return torch.zeros_like(x)
        if restart == 1:
            mean, center = self.found.mean(0), self.given.mean(0)
            moved = self.given - center
            square = moved.square().sum(0).clamp_min(torch.finfo(x.dtype).tiny)
            return mean + (moved * (self.found - mean)).sum(0) / square * (x - center)
        return self.found[(torch.arange(len(x), device="cpu") - restart) % len(self.found)]


@dataclass(frozen=True)
class _Equations:
    """The states of these names after a step of one part, as functions of x."""

    part: Part
    names: tuple[str, ...]
    restarts: int

    def _at(
        self, batch: Batch, x: Tensor, before: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Each state, those observed side by side (n, equation), and their slope by x."""
        weights = self.part.weights
        spend(len(x) * weights.ih.numel() * (2 + x.shape[-1] / 4), calls=CALLS)
        from_x = from_input(batch, x[None, None])[0].detach().requires_grad_()
        step = Step(batch, from_x, {k: v[None] for k, v in before.items()}, batch.b_hh)
        states = step.run()
        gates = len(self.part.cell.gates)
        ih = weights.ih.reshape(gates, -1, x.shape[-1])
        slopes = []
        for name in self.names:
            # each unit needs its own rows of W_ih alone
            [by_rows] = torch.autograd.grad(states[name].sum(), from_x, retain_graph=True)
            slopes.append(torch.einsum("ngh,ghi->nhi", by_rows.reshape(len(x), gates, -1), ih))
        values = {name: states[name][0].detach() for name in self.part.cell.states}
        return values, torch.cat([values[n] for n in self.names], -1), torch.cat(slopes, 1)

    def solved(
        self,
        x: Tensor,
        before: Mapping[str, Tensor],
        target: Tensor,
        allowed: Tensor,
        wanted: Tensor,
        past: _Pairs,
    ) -> _Solution:
        """The x that comes closest, from the x that was given and from zeros; and if that leads to
        the end in some of the steps that are ``wanted`` alone, from what was found there."""
        batch = Batch([self.part])
        solution = self._from(batch, x, before, target, allowed)
        for restart in range(self.restarts):
            solved = solution.ratio <= 1
            left = (~solved & wanted).nonzero().flatten()
            found = _Pairs(
                torch.cat([past.given, x[solved]]), torch.cat([past.found, solution.x[solved]])
            )
            if not len(left) or (restart and not len(found.given)):
                break
            start = found.start(x[left], restart)
            fewer = {name: value[left] for name, value in before.items()}
            again = self._from(batch, start, fewer, target[left], allowed[left])
            solution = solution.improved(left, again)
        return solution

    def _from(
        self,
        batch: Batch,
        x: Tensor,
        before: Mapping[str, Tensor],
        target: Tensor,
        allowed: Tensor,
    ) -> _Solution:
        values, given, slope = self._at(batch, x, before)
        squares = (target - given).square().sum(-1)
        damping, first = torch.full_like(squares, DAMPING), squares
        for turn in range(ROUNDS):
            if turn == SOON and not self.restarts and bool((squares > MUCH * first).all()):
                break
            step = _damped(slope, target - given, damping)
            moved_values, moved, moved_slope = self._at(batch, x + step, before)
            left = (target - moved).square().sum(-1)
            helped = left < squares
            ended = (left > ENOUGH * squares) & helped | ~helped & (damping > STIFFEST)
            x = torch.where(helped[:, None], x + step, x)
            values = {k: torch.where(helped[:, None], moved_values[k], values[k]) for k in values}
            given = torch.where(helped[:, None], moved, given)
            slope = torch.where(helped[:, None, None], moved_slope, slope)
            close = (target - given).abs().amax(-1) <= allowed[:, 0] / 2
            squares = torch.where(helped, left, squares)
            damping = (damping * torch.where(helped, EASED, STIFFER)).clamp_min(LEAST)
            if bool((ended | close & ~helped | (squares == 0)).all()):
                break
        # larger x, as in other units, round more
        size = x.abs() @ self.part.weights.ih.abs().mT
        allowed = allowed * size.amax(-1, keepdim=True).clamp_min(1)
        error = _spread(slope) * allowed
        return _Solution(x, error, values, ((target - given).abs() / allowed).amax(-1))


def _damped(slope: Tensor, residual: Tensor, damping: Tensor) -> Tensor:
    """A step of least squares, (n, feature); zero where there is none."""
    square = slope.mT @ slope
    size = square.diagonal(dim1=-2, dim2=-1)
    least = LEAST * size.amax(-1, keepdim=True) + torch.finfo(size.dtype).tiny
    square = square + torch.diag_embed(damping[:, None] * size + least)
    step: Tensor = torch.linalg.solve_ex(square, slope.mT @ residual.unsqueeze(-1))[0]
    return step.squeeze(-1).nan_to_num(0.0, 0.0, 0.0)


def _spread(slope: Tensor) -> Tensor:
    """How far each feature moves with a residual of one, (n, feature)."""
    square = slope.mT @ slope
    size = square.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    least = LEAST * size + torch.finfo(size.dtype).tiny
    damped = square + torch.diag_embed(least.expand_as(slope[:, 0]))
    inverse: Tensor = torch.linalg.inv_ex(damped)[0]
    return inverse.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt().nan_to_num(torch.inf)
