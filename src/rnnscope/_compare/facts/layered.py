"""The layers run one after the other, each direction in a way of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rnnscope._compare.model.model import Inputs, Model, Outcome, Part, PartIndex
from rnnscope._compare.model.run import Job, ModelRun, run_jobs
from rnnscope._compare.model.simulate import joined

__all__ = ["RunOfPart", "States", "layered", "run_part"]

States = Mapping[str, Tensor]
"""Each state, (batch, unit)."""

RunOfPart = Callable[[Part, Tensor, States, PartIndex], ModelRun]
"""Of a part, what it reads, (time, batch, feature), where it starts, and its place."""


def run_part(
    part: Part, x: Tensor, initial: States, lengths: Tensor | None, names: Sequence[str] = ()
) -> ModelRun:
    """A part's run, with the quantities of each step that are named."""
    with torch.inference_mode():
        [run] = run_jobs([Job(part, x, initial, ())], lengths, False, names)
    return run


def layered(model: Model, inputs: Inputs, run: RunOfPart) -> Outcome:
    """What the reference's layers return if each part is run like this."""
    flow = inputs.x
    runs: list[list[ModelRun]] = []
    for layer, row in enumerate(model.parts):
        runs.append(
            [
                run(part, flow, {n: v[layer, d] for n, v in inputs.initial.items()}, (layer, d))
                for d, part in enumerate(row)
            ]
        )
        after = joined(model, layer, [ran.emitted for ran in runs[-1]], flow)
        assert after is not None, "the reference adds nothing to what a layer hands on"
        flow = after
    return Outcome(
        flow,
        {
            name: _stacked([[part.final[name] for part in row] for row in runs])
            for name in inputs.initial
        },
        steps={
            name: _stacked([[part.steps[name] for part in row] for row in runs])
            for name in runs[0][0].steps
        },
    )


def _stacked(values: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(list(row)) for row in values])
