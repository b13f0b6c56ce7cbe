"""A step that reads the state of some steps before, as a skip connection in time does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator

__all__ = ["of_lags"]

LAGS = (2, 3, 4)


def of_lags(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Each step from the state so many steps before, the first ones from the initial state."""
    if model.num_directions > 1 or any(o.inputs.lengths is not None for o in shown):
        return
    for lag in LAGS:
        if not any(observation.inputs.steps > lag for observation in shown):
            return

        def gives(observation: Observation, lag: int = lag) -> Outcome | None:
            return _lagged(model, observation, lag)

        words = Words(
            f"each step reads the state of {lag} steps before",
            f"{model.structure.kind} reads that of the step before.",
            f"h = step(x[t], states[t - 1])   # not states[t - {lag}]",
        )
        yield Finding(Cause("lagged", str(lag)), words, gives=gives)


def _lagged(model: Model, observation: Observation, lag: int) -> Outcome | None:
    """What comes where every so many steps are a sequence of their own."""
    inputs, output, last = observation.inputs, None, None
    for first in range(min(lag, inputs.steps)):
        places = torch.arange(first, inputs.steps, lag, device="cpu")
        some = replace(inputs, x=inputs.x[places])
        [outcome] = Simulator(some).run([model])
        if outcome is None:
            return None
        if output is None:
            output = outcome.output.new_zeros(inputs.steps, *outcome.output.shape[1:])
        output[places] = outcome.output
        if inputs.steps - 1 in places:
            last = outcome
    if output is None or last is None:
        return None
    return replace(last, output=output)
