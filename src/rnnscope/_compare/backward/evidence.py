"""One call's gradients, a candidate's and the reference's, with what rounding allows; and where
they differ first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.backward.forward import ForwardPass, PartForward, run_forward
from rnnscope._compare.backward.tolerance import allowed, useless
from rnnscope._compare.backward.verdict import GradientDifference
from rnnscope._compare.backward.whole import QUANTITY, Mistaken, Reached, Trial, WholePass
from rnnscope._compare.model.model import Inputs, Model, PartIndex
from rnnscope._layers.sequences import running_order
from rnnscope.cells import quantity_names

__all__ = ["Evidence", "allowed_for", "first_difference"]


def allowed_for(wrong: Tensor, exact: Tensor, within: Tensor, variants: bool = False) -> Tensor:
    """What rounding allows a wrong gradient: as many times more as its largest number is larger
    than the right one's, and its own share of each number, which may be 0 where right. With
    ``variants`` the first dim of ``wrong`` is one of several."""
    dims = tuple(range(1, wrong.dim())) if variants else None
    largest = wrong.abs().max() if dims is None else wrong.abs().amax(dims, keepdim=True)
    size = exact.abs().max().clamp_min(1e-300)
    grown = (largest / size).clamp(1.0, 1e12).nan_to_num(1.0)
    share = (within.max() / size).clamp(max=1e-3)
    return within * grown + share * wrong.abs().amax(-1, keepdim=True).nan_to_num(0.0)


@dataclass(frozen=True)
class Evidence:
    """The ``candidate``'s gradients for one call, in float64 by name (see ``whole.gradients``), and
    what reached the outputs; ``exact`` are the reference's gradients, ``within`` what rounding
    allows each, ``lost`` the names of which rounding alone may change a hundredth."""

    inputs: Inputs
    forward: ForwardPass
    reached: Reached
    candidate: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]
    within: Mapping[str, Tensor]
    lost: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        trial: Trial,
        candidate: Mapping[str, Tensor],
        unit: float,
    ) -> Evidence:
        """With the reference's gradients computed, and their bounds."""
        right = WholePass.of(run_forward(model, trial.inputs, trial.masks), trial.reached)
        exact = right.gradients(candidate)
        within = allowed(model, trial, unit, right, exact)
        lost = tuple(name for name in candidate if useless(exact[name], within[name]))
        kept = {name: value for name, value in candidate.items() if name not in lost}
        return cls(trial.inputs, right.forward, trial.reached, kept, exact, within, lost)

    @property
    def size(self) -> int:
        """Steps and rows: what a reverse pass costs."""
        return self.inputs.steps * self.inputs.batch

    def of_mistaken(self, mistaken: Mistaken) -> dict[str, Tensor]:
        """The gradients of a wrong reverse pass."""
        return WholePass.of(self.forward, self.reached, mistaken).gradients(self.candidate)

    def ratios(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How far each number is away, in units of what is allowed."""
        return {
            name: self.away(name, expected) / self._allowed(name, expected)
            for name in self.candidate
        }

    def _allowed(self, name: str, expected: Mapping[str, Tensor]) -> Tensor:
        right, within = self.exact[name], self.within[name]
        wrong = expected[name]
        return within if wrong is right else allowed_for(wrong, right, within)

    def away(self, name: str, expected: Mapping[str, Tensor]) -> Tensor:
        """The absolute difference, infinite where the candidate's is no number; 0 on padding."""
        difference = (self.candidate[name] - expected[name]).abs().nan_to_num(math.inf, math.inf)
        valid = self.forward.valid
        if valid is not None and name == "x":
            difference = torch.where(valid.unsqueeze(-1), difference, 0)
        if valid is not None and name.startswith(QUANTITY):
            difference = torch.where(valid.T.unsqueeze(-1), difference, 0)
        return difference

    def worst(self, expected: Mapping[str, Tensor]) -> float:
        """The largest ratio."""
        return max((float(r.max()) for r in self.ratios(expected).values()), default=0.0)

    def largest(self, expected: Mapping[str, Tensor]) -> tuple[float, float, str]:
        """The largest difference beyond what is allowed, else of all; what is allowed there, and
        of what it is."""
        best = (-1.0, 0.0, "")
        failing = self.worst(expected) > 1
        for name in self.candidate:
            away = self.away(name, expected)
            within = self._allowed(name, expected).expand_as(away)
            if failing:
                away = torch.where(away > within, away, -1.0)
            place = int(away.argmax())
            value = float(away.flatten()[place])
            if value > best[0]:
                best = value, float(within.flatten()[place]), name
        return max(best[0], 0.0), best[1], best[2]

    @cached_property
    def agrees(self) -> bool:
        """Whether all are the reference's to rounding."""
        return self.worst(self.exact) <= 1

    def in_part(self, place: PartIndex) -> Iterator[tuple[str, str, Tensor, Tensor]]:
        """What came back that is of one part: (name, its key within the part, the numbers, what is
        allowed)."""
        layer, d = place
        suffix = self.forward.parts[place].weights.suffix
        for name, value in self.candidate.items():
            within = self.within[name]
            if name.startswith(QUANTITY) or name.removesuffix("_0") in self.reached.final:
                yield name, name, value[layer, d], within[layer, d]
            elif name != "x" and name.endswith(suffix):
                yield name, name.removesuffix(suffix), value, within


# where two differ first --------------------------------------------------------------------------


def first_difference(evidence: Evidence) -> GradientDifference:
    """The first number beyond rounding, where there is one: from the last layer down, in each the
    quantities from the step that ran last to the first, then the parameters, then the initial
    states; x at the end."""
    ratios = evidence.ratios(evidence.exact)
    for layer in reversed(range(evidence.forward.layers)):
        for d in range(evidence.forward.directions):
            for difference in _in_part(evidence, ratios, (layer, d)):
                return difference
    return _in_x(evidence, ratios["x"])


def _in_part(
    evidence: Evidence, ratios: Mapping[str, Tensor], place: PartIndex
) -> Iterator[GradientDifference]:
    part, (layer, d) = evidence.forward.parts[place], place
    direction = evidence.forward.structure.directions[d]

    def difference(name: str, at: tuple[int, ...], **where: Any) -> GradientDifference:
        shown = name.removeprefix(QUANTITY)
        return GradientDifference(shown, layer, direction, *_both(evidence, name, at), **where)

    keys = {name: key for name, key, *_ in evidence.in_part(place)}
    order = [f"{QUANTITY}{name}" for name in reversed(quantity_names(part.cell))]
    for time in running_order(range(evidence.inputs.steps), not part.backward):
        for name in (n for n in order if n in keys):
            ratio = ratios[name][layer, d, :, time]
            if bool((ratio > 1).any()):
                batch, unit = _place(ratio)
                at = (layer, d, batch, time, unit)
                yield difference(name, at, time=time, batch=batch, unit=unit)
    totals = {name: key for name, key in keys.items() if name not in order}
    for name in sorted(totals, key=lambda name: totals[name].endswith("_0")):  # states come last
        if totals[name].endswith("_0"):
            ratio = ratios[name][layer, d]
            if bool((ratio > 1).any()):
                batch, unit = _place(ratio)
                yield difference(name, (layer, d, batch, unit), batch=batch, unit=unit)
        elif bool((ratios[name] > 1).any()):
            row, *columns = _place(ratios[name])
            gate, unit = _gate(part, totals[name], row)
            column = columns[0] if columns else None
            yield difference(name, (row, *columns), gate=gate, unit=unit, column=column)


def _in_x(evidence: Evidence, ratio: Tensor) -> GradientDifference:
    steps = (ratio > 1).flatten(1).any(1).nonzero().flatten().tolist()
    parts = [part for (layer, _), part in evidence.forward.parts.items() if layer == 0]
    backward = all(part.backward for part in parts)
    time = min(steps) if backward else max(steps)
    batch, unit = _place(ratio[time])
    direction = "reverse" if backward else "forward"
    numbers = _both(evidence, "x", (time, batch, unit))
    return GradientDifference("x", 0, direction, *numbers, time=time, batch=batch, unit=unit)


def _place(ratio: Tensor) -> tuple[int, ...]:
    return tuple(int(k) for k in torch.unravel_index(ratio.argmax(), ratio.shape))


def _both(evidence: Evidence, name: str, at: tuple[int, ...]) -> tuple[float, float]:
    return float(evidence.candidate[name][at]), float(evidence.exact[name][at])


def _gate(part: PartForward, key: str, row: int) -> tuple[str | None, int]:
    """The gate and unit that a row of a parameter belongs to."""
    if not key.startswith(("weight_ih", "weight_hh", "bias")):
        return None, row
    gates = part.cell.gates_from_x if key.endswith("ih") else part.cell.gates_from_h
    k, unit = divmod(row, part.weights.hidden_size)
    return (gates[k] if len(gates) > 1 else None), unit
