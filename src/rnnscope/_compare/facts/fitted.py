"""One number that is fitted: some of the parameters are multiplied by it, or it is added to them.

The candidate's output tells the number: from right weights on, by steps of Gauss and Newton in one
variable, many parameters at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.evidence import differing
from rnnscope._compare.facts.complete import TOLD
from rnnscope._compare.facts.finding import Finding, confirmed_left
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._layers.structure import Weights

__all__ = ["fitted_findings"]

ROUNDS = 7
"""Steps of Gauss and Newton, after which a number that fits is found to its last digits."""
CLOSE = 0.3
"""Of what is left without a number, how much one may leave after half of the steps to be gone on
with."""
STEP = 1e-3
"""By which a number is moved to see what that changes."""
CHANCE = 20.0
"""Decimal digits that agreement must prove beside the usual: one number is chosen freely, for some
hundred sets of parameters."""
STEPS, ROWS = 6, 4
"""First steps, where later ones do not reach back, and rows that a number is fitted to."""
LEAST = 1e-6
LARGEST = 100.0
"""No number is smaller or larger than these."""


@dataclass(frozen=True)
class _Change:
    """Parameters, with their rows of one gate or of all, that are multiplied or added to."""

    kinds: tuple[str, ...]
    gate: str | None
    adds: bool

    @property
    def neutral(self) -> float:
        """The number that changes nothing."""
        return 0.0 if self.adds else 1.0

    def model(self, model: Model, number: float) -> Model:
        """The model with the number in it."""
        return model.with_each_part(lambda part: self._part(part, number))

    def _part(self, part: Part, number: float) -> Part:
        weights = part.weights
        rows = slice(None) if self.gate is None else weights.rows(self.gate)

        def changed(kind: str, value: Tensor | None) -> Tensor | None:
            if value is None or kind not in self.kinds:
                return value
            value = value.clone()
            value[rows] = value[rows] + number if self.adds else value[rows] * number
            return value

        ih, hh = changed("weight_ih", weights.ih), changed("weight_hh", weights.hh)
        assert ih is not None, "every layer has W_ih"
        assert hh is not None, "every layer has W_hh"
        other: Weights = replace(
            weights,
            ih=ih,
            hh=hh,
            b_ih=changed("bias_ih", weights.b_ih),
            b_hh=changed("bias_hh", weights.b_hh),
        )
        token = ("fitted", self.kinds, self.gate, self.adds, number, part.token)
        return part.with_weights(other, token=token)

    def words(self, number: float) -> Words:
        """What is said of it."""
        names = " and ".join(self.kinds)
        what = names if self.gate is None else f"the rows of {self.gate} in {names}"
        shown = f"{number:.6g}"
        singular = self.gate is None and len(self.kinds) == 1
        if self.adds:
            title = f"{shown} is added to {what}"
            repair = f"leave out the {shown}"
        else:
            title = f"{what} {'is' if singular else 'are'} multiplied by {shown}"
            repair = f"leave out the factor {shown}"
        return Words(title, "with that the two agree; the number is fitted to your output.", repair)


def fitted_findings(model: Model, shown: Sequence[Observation]) -> Iterator[tuple[Finding, float]]:
    """The findings of one fitted number that explain everything to rounding, with what they
    leave."""
    if differing(model, shown) < TOLD:
        return
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    short = [few_steps(o, STEPS if one_way else o.inputs.steps, ROWS) for o in shown[:2]]
    changes = list(_changes(model))
    for change, number in _fits(model, short, changes):
        if abs(number) < LEAST:
            continue  # nothing is added, or what is multiplied is missing, which is listed
        cause = Cause("fitted", f"{'+'.join(change.kinds)}:{change.gate or 'all'}")
        for tried in dict.fromkeys((float(f"{number:.3g}"), float(f"{number:.6g}"), number)):
            finding = Finding(cause, change.words(tried), change.model(model, tried))
            left = confirmed_left(finding, shown, CHANCE)
            if left is not None:
                yield finding, left
                break


def _changes(model: Model) -> Iterator[_Change]:
    """The parameters that are tried, those of all gates first."""
    part = model.parts[0][0]
    gates = tuple(part.cell.gates)
    biased = part.stored.b_ih is not None
    kinds: list[tuple[str, ...]] = [("weight_ih",), ("weight_hh",)]
    kinds += [("weight_ih", "weight_hh")]
    if biased:
        kinds += [("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")]
        kinds += [("weight_ih", "bias_ih"), ("weight_hh", "bias_hh")]
        kinds += [("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    for gate in (None, *(gates if len(gates) > 1 else ())):
        yield from (_Change(names, gate, adds=False) for names in kinds)
        yield from (_Change((name,), gate, adds=True) for name in ("weight_ih", "weight_hh"))
        if biased:
            yield from (_Change((name,), gate, adds=True) for name in ("bias_ih", "bias_hh"))


def _fits(
    model: Model, short: Sequence[Observation], changes: Sequence[_Change]
) -> list[tuple[_Change, float]]:
    """The changes whose number makes much of the difference vanish, with it, the best first."""
    start = _residuals([model], short)[0]
    if start is None:
        return []
    nothing = float(start.norm())
    numbers = {change: change.neutral for change in changes}
    left = dict.fromkeys(changes, nothing)
    for turn in range(ROUNDS):
        tried = list(numbers)
        here = _residuals([c.model(model, numbers[c]) for c in tried], short)
        moved = _residuals([c.model(model, numbers[c] + STEP) for c in tried], short)
        for change, residual, other in zip(tried, here, moved, strict=True):
            if residual is None or other is None:
                del numbers[change]
                continue
            slope = (other - residual) / STEP
            square = float(slope @ slope)
            left[change] = float(residual.norm())
            if square == 0:
                del numbers[change]
                continue
            numbers[change] -= float(slope @ residual) / square
            if abs(numbers[change]) > LARGEST:
                del numbers[change]
        if turn >= ROUNDS // 2:
            numbers = {c: n for c, n in numbers.items() if left[c] < CLOSE * nothing}
    return sorted(numbers.items(), key=lambda pair: left[pair[0]])


def _residuals(models: Sequence[Model], short: Sequence[Observation]) -> list[Tensor | None]:
    """Of each model how far its outputs are from what was observed, in one array; None where it
    gives none."""
    arrays: list[list[Tensor]] = [[] for _ in models]
    valid = [True] * len(models)
    for observation in short:
        if observation.output is None:
            continue
        usable = observation.usable("output")
        for k, outcome in enumerate(observation.simulator.run(models)):
            if outcome is None or outcome.output.shape != observation.output.shape:
                valid[k] = False
                continue
            arrays[k].append(((outcome.output - observation.output) * usable).flatten())
    return [
        torch.cat(a) if ok and a and bool(torch.isfinite(torch.cat(a)).all()) else None
        for a, ok in zip(arrays, valid, strict=True)
    ]
