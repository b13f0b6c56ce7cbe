"""What was observed, as the parts of a mistaken model gave it: changes outside the cells undone."""

from __future__ import annotations

from dataclasses import replace

import torch

from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator, changed_inputs

__all__ = ["undo"]


def undo(model: Model, observation: Observation) -> Observation | None:
    """What a model read and gave before its changes of inputs and of what is returned; None where
    these cannot be undone."""
    stages = changed_inputs(observation.inputs, model)
    if stages is None or model.inner or model.shared_state:
        return None
    unchanged = _turned_back(model, observation)
    if unchanged is None:
        return None
    output, inputs = unchanged.output, stages[-1]
    for change, before in zip(model.enter, stages, strict=False):
        if change.undo is not None and output is not None:
            # the output lies as the input does
            turned = change(replace(before, x=output))
            output = None if turned is None else turned.x
    laid = any(change.undo is not None for change in model.enter)
    keep = inputs.batch == observation.inputs.batch  # one row of states for each of the input
    quantities = {} if laid else unchanged.quantities
    return replace(
        unchanged,
        inputs=inputs,
        output=output,
        final=unchanged.final if keep else {},
        quantities=quantities,
        simulator=Simulator(inputs, tuple(quantities)),
    )


def _turned_back(model: Model, observation: Observation) -> Observation | None:
    """What there was before what is returned was changed, where a change undoes itself."""
    if not model.leave:
        return observation
    nothing = observation.inputs.x[..., :0]
    output = nothing if observation.output is None else observation.output
    outcome = Outcome(output, observation.final)
    for change in reversed(model.leave):
        once = change(outcome, observation.inputs)
        twice = None if once is None else change(once, observation.inputs)
        if twice is None or not torch.equal(twice.output, outcome.output):
            return None
        if any(not torch.equal(value, outcome.final[name]) for name, value in twice.final.items()):
            return None
        outcome = once
    present = observation.output is not None
    return replace(observation, output=outcome.output if present else None, final=outcome.final)
