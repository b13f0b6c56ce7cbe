"""Steps that are skipped: the state is held there, as a mask of Keras holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator

__all__ = ["of_held_steps"]

MOST = 4
"""Rows whose steps are told."""


def of_held_steps(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The output repeats what it was at some steps, and goes on from there: held, or, where there
    was nothing before, zero."""
    if model.structure.cell.projected or any(o.inputs.lengths is not None for o in shown):
        return
    masks = [_held(model, observation) for observation in shown]
    # what is held to the end of every row stands still there, or is padding
    if not any(bool((mask[:-1] & ~mask[1:]).any()) for mask in masks):
        return
    by_inputs = {id(o.inputs): mask for o, mask in zip(shown, masks, strict=True)}

    def gives(observation: Observation) -> Outcome | None:
        mask = by_inputs.get(id(observation.inputs))
        return None if mask is None else _skipping(model, observation.inputs, mask)

    k = next(k for k, mask in enumerate(masks) if bool(mask.any()))
    mask, x = masks[k], shown[k].inputs.x
    rows = [(row, flags.nonzero().flatten().tolist()) for row, flags in enumerate(mask.T)]
    places = [f"{listed('time', times)} of row {row}" for row, times in rows if times]
    if mask.any(1).equal(mask.all(1)):
        places = [listed("time", mask.any(1).nonzero().flatten().tolist())]
    more = f" and in {len(places) - MOST} more rows" if len(places) > MOST else ""
    zero = (x == 0).all(-1)
    why = ", where x is zero," if torch.equal(zero, mask) else ""
    words = Words(
        f"the state is held at {', '.join(places[:MOST])}{more}",
        f"these steps{why} are skipped, as Keras skips what is masked; {model.structure.kind} "
        f"takes every step. Leave them out of x, or give lengths where they are padding.",
        "pack_padded_sequence(x, lengths, enforce_sorted=False)   # padding at the end",
    )
    yield Finding(Cause("held", "steps"), words, gives=gives, mixes_rows=True)


def _held(model: Model, observation: Observation) -> Tensor:
    """Where every direction of the output repeats what it was a step before, (time, batch)."""
    inputs, size = observation.inputs, model.structure.output_size
    output = observation.output
    nothing = torch.zeros(inputs.steps, inputs.batch, dtype=torch.bool, device="cpu")
    if output is None or output.shape[-1] != size * model.num_directions:
        return nothing
    held = ~nothing
    for d, part in enumerate(model.parts[-1]):
        half = output[..., d * size : (d + 1) * size]
        half = half.flip(0) if part.backward else half
        begin = inputs.initial["h"][-1, d].unsqueeze(0)
        repeats = (half == torch.cat([begin, half[:-1]])).all(-1)
        held &= repeats.flip(0) if part.backward else repeats
    return held


def _skipping(model: Model, inputs: Inputs, mask: Tensor) -> Outcome | None:
    """What comes where each row has no other steps than those it does not skip."""
    taken = ~mask
    lengths = taken.sum(0)
    if bool((lengths == 0).any()):
        return None
    # the steps of a row that are taken come first, in their order
    order = mask.to(torch.uint8).sort(dim=0, stable=True).indices
    rows = torch.arange(inputs.batch, device="cpu")
    short = replace(inputs, x=inputs.x[order, rows][: int(lengths.max())], lengths=lengths)
    [outcome] = Simulator(short).run([model])
    if outcome is None:
        return None
    size = model.structure.output_size
    halves: list[Tensor] = []
    for d, part in enumerate(model.parts[-1]):
        half = outcome.output[..., d * size : (d + 1) * size]
        begin = inputs.initial["h"][-1, d].unsqueeze(0)
        steps = taken.flip(0) if part.backward else taken
        # the number of the last step that was taken, from 0 for what a row begins with
        counted = steps.cumsum(0)
        if part.backward:
            counted = torch.where(counted > 0, lengths - counted + 1, 0).flip(0)
        halves.append(torch.cat([begin, half])[counted, rows])
    return replace(outcome, output=torch.cat(halves, -1))
