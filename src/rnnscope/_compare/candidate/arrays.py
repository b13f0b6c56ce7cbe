"""Numbers that were recorded elsewhere, to be compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.candidate.recorded import Recorded
from rnnscope._compare.candidate.subject import Subject, Told, dtype_of, rounding, turned
from rnnscope._compare.candidate.tensors import ON_GPU, on_gpu
from rnnscope._compare.model.model import Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation, distance, some_rows
from rnnscope._layers.adopt import Adopted

__all__ = ["OfArrays"]


class OfArrays(Subject):
    """Numbers that were recorded elsewhere."""

    def __init__(self, value: Any, adopted: Adopted, inputs: Inputs, axes: str | None):
        super().__init__()
        recorded = Recorded.of(value, adopted.structure, inputs, axes)
        self.adopted, self.model = adopted, Model.of(adopted, torch.float64)
        lies_on_gpu = on_gpu(value)
        padding = self.on_padding(recorded.output, inputs)
        self.notes = [*[ON_GPU] * lies_on_gpu, *recorded.notes, *padding]
        self.unread = recorded.unread
        self.untried = {"the final states"} if recorded.unread else set()
        self.dtypes = (dtype_of(adopted), recorded.dtype)
        self._observation = self.observation(
            self.model,
            inputs,
            rounding(*self.dtypes, on_gpu=lies_on_gpu),
            recorded.output,
            recorded.final,
            recorded.quantities,
        )
        self._batch_first = self._turned_back()

    def _turned_back(self) -> list[str]:
        """The final states that agree if they are read batch first, and not as they stand: where
        there are as many rows as sequences, their shape does not tell. They are put in order."""
        observation = self._observation
        [outcome] = observation.simulator.run([self.model])
        if outcome is None or observation.inputs.batch != self.rows:
            return []
        reordered = {
            name: turned(state)
            for name, state in observation.final.items()
            if not self._fits(name, state, outcome) and self._fits(name, turned(state), outcome)
        }
        self._observation = replace(observation, final={**observation.final, **reordered})
        return list(reordered)

    def _fits(self, name: str, state: Tensor, outcome: Outcome) -> bool:
        within = self._observation.allowed[f"{name}_n"]
        return bool((distance(outcome.final[name], state) <= within).all())

    def shown(self) -> list[Observation]:
        """All numbers."""
        return [self._observation]

    def searched(self) -> list[Observation]:
        """Some of them, where there are many."""
        return [self.some_of(self._observation)]

    def read(self) -> list[Told]:
        """Final states that lie batch first; the axes of the output may have any order."""
        return self.batch_first(self._batch_first)

    def only_rows(self, rows: Sequence[int]) -> OfArrays:
        """Some of the rows, as if there were no others."""
        fewer = copy.copy(self)
        index = torch.tensor(rows, dtype=torch.long, device="cpu")
        fewer._observation = some_rows(self._observation, index)
        return fewer

    def as_coarse(self, unit: float) -> OfArrays:
        """The same, as if computing had rounded to ``unit``."""
        coarse, seen = copy.copy(self), self._observation
        coarse._observation = self.observation(
            self.model, seen.inputs, unit, seen.output, seen.final, seen.quantities
        )
        return coarse
