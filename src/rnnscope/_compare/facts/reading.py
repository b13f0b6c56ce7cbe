"""What a candidate read in place of x, as far as its single steps tell; and functions of x that may
have given that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from rnnscope._compare.facts.finding import Finding, entering
from rnnscope._compare.facts.solved import SolvedX, solved_x
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import Observation, few_steps

__all__ = ["Reading", "Reads", "reading_of", "reads_as"]

Reads = Callable[[Tensor], Tensor | None]
"""A function of the whole x (time, batch, feature); None where it cannot be."""

WORK = 4e8
"""Products of least squares that are made once x is known to be what differs."""

ROWS, STEPS = (2, 16), (4, 64)
"""Rows and steps that are solved, at least and at most."""

FINE, NEARLY = 0.1, 0.9
"""Of how x varies so much may a number be off that is known; so many must be."""

ROUNDINGS = 8
"""Roundings that a number of x may be off by in any case."""


@dataclass(frozen=True)
class Reading:
    """The x that was ``given``, whole, and what was solved of it."""

    given: Tensor
    solution: SolvedX
    unit: float

    @cached_property
    def x(self) -> Tensor:
        """Of the x that was given what was solved."""
        return self.part(self.given)

    def part(self, x: Tensor) -> Tensor:
        """Of another whole x the same steps and rows."""
        steps, rows = self.solution.x.shape[:2]
        return x[:steps, :rows]

    @cached_property
    def error(self) -> Tensor:
        """How far each number that was solved may be off, (time, batch, feature)."""
        size = self.solution.x.abs().clamp_min(1)
        return self.solution.error + ROUNDINGS * self.unit * size

    def near(self, x: Tensor) -> Tensor:
        """Where another x is what was solved, (time, batch, feature), and where none was."""
        return ((x - self.solution.x).abs() <= self.error) | ~self.solution.solved.unsqueeze(-1)

    @property
    def tells_all(self) -> bool:
        """Whether nearly every number that was solved is known much better than x varies: where
        functions saturate, any x gives the same."""
        known = self.error <= FINE * float(self.given.std())
        return bool(known[self.solution.valid].double().mean() >= NEARLY)

    def is_read_as(self, reads: Reads) -> bool:
        """Whether a function of x gives all that was solved."""
        x = reads(self.given)
        if x is None or x.shape != self.given.shape:
            return False
        return bool(self.near(self.part(x)).all())

    @cached_property
    def digits(self) -> float:
        """Decimal digits that a number which was measured may explain by itself."""
        return -math.log10(self.unit)


def reading_of(model: Model, observation: Observation) -> Reading | None:
    """What was read in some first steps and rows; None where that cannot be told."""
    inputs, structure = observation.inputs, model.structure
    most = int(WORK / (structure.hidden_size * structure.input_size**2))
    rows = max(ROWS[0], min(ROWS[1], inputs.batch, most // STEPS[0]))
    seen = few_steps(observation, max(STEPS[0], min(STEPS[1], most // rows)), rows)
    solution = solved_x(model, seen)
    return None if solution is None else Reading(inputs.x, solution, observation.unit)


def reads_as(
    model: Model, cause: str, title: str, repair: str, reads: Reads, measured: float = 0.0
) -> Finding:
    """The finding that x is read as a function of x, ``measured`` digits of which were."""

    def entered(inputs: Inputs) -> Inputs | None:
        x = reads(inputs.x)
        return None if x is None else replace(inputs, x=x)

    words = Words(title, f"{model.structure.kind} reads x as it is.", repair)
    return entering(model, Cause("prepared", cause, "x"), words, entered, measured)
