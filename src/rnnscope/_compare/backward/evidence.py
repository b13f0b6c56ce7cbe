"""One call's gradients, a candidate's and the reference's, with what rounding allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rnnscope._compare.backward.forward import ForwardPass, run_forward
from rnnscope._compare.backward.tolerance import allowed, useless
from rnnscope._compare.backward.whole import QUANTITY, RIGHT, Mistaken, Reached, Trial, gradients
from rnnscope._compare.model.model import Inputs, Model, PartIndex

__all__ = ["Evidence", "allowed_for"]


def allowed_for(wrong: Tensor, exact: Tensor, within: Tensor, variants: bool = False) -> Tensor:
    """What rounding allows a wrong gradient: as many times more as its largest number is larger
    than the right one's, and its own share of each number, which may be 0 where right. With
    ``variants`` the first dim of ``wrong`` is one of several."""
    if not wrong.numel():
        return within
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
        forward = run_forward(model, trial.inputs, trial.masks)
        assert forward is not None, "the reference fits its own inputs"
        exact = gradients(forward, trial.reached, RIGHT, candidate)
        within = allowed(model, trial, unit, candidate)
        lost = tuple(name for name in candidate if useless(exact[name], within[name]))
        kept = {name: value for name, value in candidate.items() if name not in lost}
        return cls(trial.inputs, forward, trial.reached, kept, exact, within, lost)

    @property
    def count(self) -> int:
        """Numbers that came back."""
        return sum(value.numel() for value in self.candidate.values())

    @property
    def size(self) -> int:
        """Steps and rows: what a reverse pass costs."""
        return self.inputs.steps * self.inputs.batch

    def of_mistaken(self, mistaken: Mistaken) -> dict[str, Tensor]:
        """The gradients of a wrong reverse pass."""
        return gradients(self.forward, self.reached, mistaken, self.candidate)

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
        largest = [float(r.max()) for r in self.ratios(expected).values() if r.numel()]
        return max(largest, default=0.0)

    def largest(self, expected: Mapping[str, Tensor]) -> tuple[float, float, str]:
        """The largest difference beyond what is allowed, else of all; what is allowed there, and
        of what it is."""
        best = (-1.0, 0.0, "")
        failing = self.worst(expected) > 1
        for name in self.candidate:
            away = self.away(name, expected)
            if not away.numel():
                continue
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
