"""What can be found out about a candidate without a catalogue of mistakes.

Calls of the candidate are compared with other calls of it, so no reference is needed: the same
input twice, one row alone, a changed last step. In a layer that is chaotic, numbers that differ by
rounding drift apart, so each comparison allows what a change of x in its last bits does to the
output at that step, and what rounding allows the reference there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rnnscope._compare.candidate.call import Candidate
from rnnscope._compare.candidate.returned import Answer
from rnnscope._compare.candidate.sandbox import Random
from rnnscope._compare.model.model import Inputs
from rnnscope._record.difference import absolute_difference

__all__ = ["CallFinding", "Checks"]

MOST_ROWS = 8
"""Rows that are run alone."""
AMPLIFIED = 100.0
"""How much further than a change of x by a few last bits other roundings may lead."""


@dataclass(frozen=True)
class CallFinding:
    """Something that a recurrent layer does not do: ``name`` is "random", "dropout", "kept",
    "batch" or "causal"."""

    name: str
    sentence: str


class _Place(NamedTuple):
    """The largest difference of two outputs, and the first place where there is one."""

    largest: float
    time: int
    batch: int

    @property
    def up_to(self) -> str:
        """How large it is."""
        if math.isfinite(self.largest):
            return f"by up to {self.largest:.2g}"
        return "NaN or infinite on one side"


class Checks:
    """The calls of one candidate, each compared with the first, which is made here and raises what
    it raises.

    ``call`` calls the candidate; ``inputs`` hold several steps and rows; ``tolerance`` is 64
    roundings, by which two outputs may lie apart at any step.
    """

    def __init__(
        self,
        candidate: Candidate,
        call: Callable[[Inputs], Answer],
        inputs: Inputs,
        tolerance: float,
    ) -> None:
        self.candidate, self.call, self.tolerance = candidate, call, tolerance
        self.inputs = replace(inputs, lengths=None)
        self._random = candidate.random or Random.now()
        self.first = call(self.inputs).output.double()
        self.allowed = self.first.new_full((self.first.shape[0],), tolerance)

    def repeats(self) -> CallFinding | None:
        """Whether calls with the same input differ, and how. Three calls tell: the second is given
        the first one's random numbers, the third other ones."""
        self.candidate.random = self._random
        second = self._output(self.inputs)
        place = self._differs(second, self.first)
        third = self._output(self.inputs)
        if place is not None:
            settles = second is not None and self._differs(third, second) is None
            explanation = (
                " (the first call differs from all later ones)"
                if settles
                else ", or draws random numbers of its own (every call differs from the one before)"
            )
            return CallFinding(
                "kept",
                f"called again with the same input and the same random numbers it returns other "
                f"numbers, {place.up_to}, first at time={place.time}, batch {place.batch}: it "
                f"keeps something from call to call, such as a hidden state that is not reset"
                f"{explanation}",
            )
        place = self._differs(third, self.first)
        if place is None:
            return None
        dropout = _dropout(self.candidate)
        return CallFinding(
            "dropout" if dropout else "random",
            f"called again with the same input it returns other numbers, {place.up_to}, first at "
            f"time={place.time}, batch {place.batch}, and the same ones with the same random "
            f"numbers: it draws them{dropout}",
        )

    def dependences(self, grown: Tensor) -> list[CallFinding]:
        """What an output depends on that it should not, where calls repeat: other rows, a later
        step. ``grown`` (time) is what roundings grow to in the reference, inf where that is of no
        use."""
        self.allowed = torch.maximum(self.allowed + AMPLIFIED * self._sensitivity(), grown)
        return [f for f in (self._depends_on_batch(), self._causal()) if f is not None]

    def _output(self, inputs: Inputs) -> Tensor | None:
        """The output for other inputs; None where it could not be called."""
        try:
            return self.call(inputs).output.double()
        except Exception:
            return None

    def _differs(
        self, output: Tensor | None, expected: Tensor, steps: slice = slice(None)
    ) -> _Place | None:
        """The first place that differs by more than is allowed at these steps; None where there is
        none, or no such output."""
        if output is None or output.shape != expected.shape or not output.numel():
            return None
        apart = absolute_difference(output, expected).amax(-1)
        beyond = apart > self.allowed[steps, None]
        if not bool(beyond.any()):
            return None
        time, row = (int(k) for k in beyond.nonzero()[0])
        return _Place(float(apart[beyond].max()), time, row)

    def _sensitivity(self) -> Tensor:
        """(time): how far a change of x and the initial states in their last bits moves the
        output."""
        generator = torch.Generator("cpu").manual_seed(0)

        def changed(value: Tensor) -> Tensor:
            signs = torch.randint(0, 2, value.shape, generator=generator, device="cpu")
            return value * (1 + self.tolerance / 8 * (signs.to(value) * 2 - 1))

        initial = {name: changed(value) for name, value in self.inputs.initial.items()}
        moved = self._output(replace(self.inputs, x=changed(self.inputs.x), initial=initial))
        if moved is None or moved.shape != self.first.shape:
            return torch.zeros_like(self.allowed)
        return absolute_difference(moved, self.first).amax((-1, -2))

    def _row(self, row: int, count: int = 1) -> Tensor | None:
        """The output of a batch that holds one row so many times."""
        inputs, rows = self.inputs, slice(row, row + 1)
        initial = {
            name: value[:, :, rows].expand(-1, -1, count, -1).contiguous()
            for name, value in inputs.initial.items()
        }
        x = inputs.x[:, rows].expand(-1, count, -1).contiguous()
        return self._output(replace(inputs, x=x, initial=initial))

    def _depends_on_batch(self) -> CallFinding | None:
        worst: _Place | None = None
        for row in range(min(self.inputs.batch, MOST_ROWS) if self.inputs.batch > 1 else 0):
            alone = self._row(row)
            if alone is None or alone.shape != self.first[:, :1].shape:
                break
            place = self._differs(alone, self.first[:, row : row + 1])
            if place is not None and (worst is None or place.largest > worst.largest):
                worst = place._replace(batch=row)
        if worst is None:
            return None
        return CallFinding(
            "batch",
            f"row {worst.batch} alone gives other numbers than in the batch, {worst.up_to}, first "
            f"at time={worst.time}: the output of a row depends on {self._on(worst.batch)}",
        )

    def _on(self, row: int) -> str:
        """What the output of a row depends on, as a batch tells that holds it many times."""
        output = self._row(row, self.inputs.batch)
        if output is None or output.shape != self.first.shape:
            return "the other rows"
        same = output[:, row : row + 1]
        if self._differs(same, self.first[:, row : row + 1]) is not None:
            return "the other rows"
        alike = self._differs(output, same.expand_as(output)) is None
        return "how many rows there are" if alike else "its place among the rows"

    def _causal(self) -> CallFinding | None:
        """Whether a step of x that is still to come is known already."""
        directions, steps = self.candidate.structure.directions, self.inputs.steps
        if len(directions) > 1 or steps < 2:
            return None
        reverse = directions == ("reverse",)
        changed = 0 if reverse else steps - 1
        kept = slice(1, None) if reverse else slice(0, steps - 1)
        x = self.inputs.x.clone()
        x[changed] = torch.where(x[changed] > 0, -1.0, 1.0) * (1 + x[changed].abs().nan_to_num(0.0))
        output = self._output(replace(self.inputs, x=x))
        place = None if output is None else self._differs(output[kept], self.first[kept], kept)
        if place is None:
            return None
        return CallFinding(
            "causal",
            f"another x at time={changed} changes the output at time={place.time + reverse} "
            f"already, {place.up_to}: a layer that runs {'from the end' if reverse else 'forward'} "
            f"cannot know it {'until' if reverse else 'before'} time={changed}",
        )


def _dropout(candidate: Candidate) -> str:
    """Where a module that is called drops numbers out."""
    module = candidate.module
    if module is None:
        return ""
    for name, submodule in module.named_modules():
        p = getattr(submodule, "dropout", None) if isinstance(submodule, nn.RNNBase) else None
        if isinstance(submodule, nn.modules.dropout._DropoutNd):
            p = submodule.p
        if submodule.training and p:
            where = f"its {name} ({type(submodule).__name__})" if name else "it"
            return f" for dropout: {where} has p={p} and is in training mode; call .eval()"
    return ""
