"""Numbers that were recorded elsewhere, to be compared."""

from __future__ import annotations

from typing import Any

import torch

from rnnscope.adopt import Adopted
from rnnscope.compare.checks import ParameterDifference
from rnnscope.compare.given import described
from rnnscope.compare.model import Inputs, Model
from rnnscope.compare.observed import Observation
from rnnscope.compare.recorded import Recorded
from rnnscope.compare.subject import Told, dtype_of, observed, on_padding, rounding, sliced

__all__ = ["OfArrays"]


class OfArrays:
    """Numbers that were recorded elsewhere."""

    given = True
    raised = False
    keeps_state = False
    sliced = True

    def __init__(self, value: Any, adopted: Adopted, inputs: Inputs, axes: str | None):
        recorded = Recorded.of(value, adopted.structure, inputs, axes)
        self.model = Model.of(adopted, torch.float64)
        kind = adopted.structure.kind
        self.notes = [*recorded.notes, *on_padding(recorded.output, inputs, kind)]
        self.unread = list(recorded.unread)
        self.untried: set[str] = {"the final states"} if recorded.unread else set()
        self.findings: list[str] = []
        self.dtypes: tuple[torch.dtype, ...] = (dtype_of(adopted), recorded.dtype)
        self._adopted = adopted
        self._observation = observed(
            self.model,
            inputs,
            rounding(*self.dtypes),
            recorded.output,
            recorded.final,
            recorded.quantities,
        )

    def shown(self) -> list[Observation]:
        """All numbers."""
        return [self._observation]

    def searched(self) -> list[Observation]:
        """Some of them, where there are many."""
        return [sliced(self._observation, self._adopted)]

    def described(self, inputs: Inputs) -> str:
        """Sizes, states and biases, in a line."""
        return described(self._adopted, inputs, self.model, None)

    def others(self) -> list[Observation]:
        """None: there are no more numbers."""
        return []

    def read(self) -> list[Told]:
        """None: numbers from anywhere may have their own order of axes."""
        return []

    def direct(self) -> list[Told]:
        """None: they cannot be called."""
        return []

    def other_kind(self) -> tuple[str, bool]:
        """Unknown: they are numbers."""
        return "", False

    def other_weights(self) -> tuple[list[ParameterDifference], Model | None]:
        """None: they have no parameters."""
        return [], None
