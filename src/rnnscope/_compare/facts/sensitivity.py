"""What has influence: each parameter, feature, initial state and step of x is changed by itself.

No listed mistake is needed for it: a parameter that changes nothing was never loaded, whatever else
is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.simulate import Simulator
from rnnscope.errors import RnnscopeError

__all__ = ["Calls", "Numbers", "another", "without_influence"]

Numbers = tuple[Tensor, ...]
"""The output, (time, batch, unit), and the final states of a call."""

MOST = 16
"""Features, steps and parameters that are changed, of each so many."""


@dataclass(frozen=True)
class Calls:
    """How a candidate is called: with other inputs, or with one of its ``parameters`` changed."""

    call: Callable[[Inputs], Numbers]
    parameters: Mapping[str, Callable[[Inputs], Numbers]] = field(default_factory=dict)


def another(value: Tensor) -> Tensor:
    """Numbers of which none is the same."""
    return torch.where(value > 0, -1.0, 1.0).to(value) * (1 + value.abs())


def without_influence(calls: Calls, model: Model, inputs: Inputs) -> list[str]:
    """Sentences on what changes nothing in the candidate and does in the reference, and on when a
    step of x has influence first."""
    try:
        first = calls.call(inputs)
    except RnnscopeError:
        return []
    comparison = _Comparison(calls, model, inputs, first)
    return [
        *_sentence(list(comparison.parameters())),
        *comparison.features(),
        *_sentence(list(comparison.states())),
        *comparison.times(),
    ]


def _sentence(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    verb = "has" if len(names) == 1 else "have"
    return [f"{', '.join(names)} {verb} no influence"]


@dataclass(frozen=True)
class _Comparison:
    calls: Calls
    model: Model
    inputs: Inputs
    first: Numbers

    def parameters(self) -> Iterator[str]:
        """Those that change nothing."""
        for name, call in list(self.calls.parameters.items())[: 2 * MOST]:
            if self._same(call, self.inputs):
                yield name

    def features(self) -> Iterator[str]:
        """Those of x that change nothing, in words."""
        silent = []
        size = self.inputs.x.shape[-1]
        for k in range(size if size <= MOST else 0):
            x = self.inputs.x.clone()
            x[..., k] = another(x[..., k])
            if self._silent(replace(self.inputs, x=x)):
                silent.append(k)
        if silent:
            verb = "has" if len(silent) == 1 else "have"
            yield f"{listed('feature', silent)} of x {verb} no influence"

    def states(self) -> Iterator[str]:
        """Initial states that change nothing."""
        if not self.inputs.given:
            return
        for name, value in self.inputs.initial.items():
            initial = {**self.inputs.initial, name: another(value)}
            if self._silent(replace(self.inputs, initial=initial)):
                yield f"{name}_0"

    def times(self) -> Iterator[str]:
        """From which step on x has influence, where that is not its own."""
        steps = self.inputs.steps
        if self.inputs.lengths is not None or not 1 < steps <= MOST:
            return
        begins: dict[int, int | None] = {}
        for t in range(steps):
            x = self.inputs.x.clone()
            x[t] = another(x[t])
            numbers = self._numbers(self.calls.call, replace(self.inputs, x=x))
            if numbers is None or numbers[0].shape != self.first[0].shape:
                return
            moved = (numbers[0] != self.first[0]).flatten(1).any(1).nonzero().flatten().tolist()
            begins[t] = moved[0] if moved else None
            if not moved and not _equal(numbers, self.first):
                begins[t] = t  # seen in the final states alone
        silent = [t for t, begin in begins.items() if begin is None]
        both = self.model.num_directions > 1 or self.model.parts[0][0].backward
        shifts = {begin - t for t, begin in begins.items() if begin is not None}
        if not both and len(shifts) == 1 and (shift := shifts.pop()):
            sign = "+" if shift > 0 else "-"
            yield f"the x of time t has influence from time t {sign} {abs(shift)} on"
        elif silent and len(silent) < steps:
            ends = {0: "the first step", steps - 1: "the last step"}
            where = listed("time", silent) if len(silent) > 1 else ends.get(silent[0])
            where = where or listed("time", silent)
            yield f"the x of {where} has no influence (in a call of {steps} steps)"
        elif silent:
            yield "x has no influence"

    def _numbers(self, call: Callable[[Inputs], Numbers], inputs: Inputs) -> Numbers | None:
        try:
            return call(inputs)
        except RnnscopeError:
            return None

    def _same(self, call: Callable[[Inputs], Numbers], inputs: Inputs) -> bool:
        numbers = self._numbers(call, inputs)
        return numbers is not None and _equal(numbers, self.first)

    def _silent(self, inputs: Inputs) -> bool:
        """Whether other inputs give the same numbers, and the reference gives others."""
        return self._same(self.calls.call, inputs) and self._shows(inputs)

    def _shows(self, inputs: Inputs) -> bool:
        [right], [changed] = (Simulator(i).run([self.model]) for i in (self.inputs, inputs))
        return right is None or changed is None or not torch.equal(right.output, changed.output)


def _equal(numbers: Numbers, numbers_before: Numbers) -> bool:
    return len(numbers) == len(numbers_before) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(numbers, numbers_before, strict=True)
    )
