"""Steps that are skipped, or that read the state of some steps before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding, of_each_call
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator

__all__ = ["of_held_steps", "of_lags"]

MOST = 4
"""Rows whose steps are told."""

LAGS = (2, 3, 4)


# the state is held -------------------------------------------------------------------------------


def of_held_steps(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The output repeats what it was at some steps, and goes on from there: held, or, where there
    was nothing before, zero; or it repeats it to the end, as where there is room for no more."""
    if any(o.inputs.lengths is not None for o in shown):
        return
    masks = [_held(model, observation) for observation in shown]
    first = next((k for k, mask in enumerate(masks) if bool(mask.any())), None)
    if first is None:
        return

    def skipping(observation: Observation, mask: Tensor) -> Outcome | None:
        return _skipping(model, observation, mask)

    gives = of_each_call(shown, masks, skipping)
    if any(bool((mask[:-1] & ~mask[1:]).any()) for mask in masks):
        words = _held_words(model, masks[first], shown[first].inputs.x)
        yield Finding(Cause("held", "steps"), words, gives=gives)
    elif model.num_directions == 1 and not model.parts[0][0].backward:
        yield Finding(Cause("stands_still"), _still_words(model, masks[first]), gives=gives)


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


def _held_words(model: Model, mask: Tensor, x: Tensor) -> Words:
    rows = [(row, flags.nonzero().flatten().tolist()) for row, flags in enumerate(mask.T)]
    places = [f"{listed('time', times)} of row {row}" for row, times in rows if times]
    if mask.any(1).equal(mask.all(1)):
        places = [listed("time", mask.any(1).nonzero().flatten().tolist())]
    more = f" and in {len(places) - MOST} more rows" if len(places) > MOST else ""
    why = ", where x is zero," if torch.equal((x == 0).all(-1), mask) else ""
    return Words(
        f"the state is held at {', '.join(places[:MOST])}{more}",
        f"these steps{why} are skipped, as Keras skips what is masked; {model.structure.kind} "
        f"takes every step. Leave them out of x, or give lengths where they are padding.",
        "pack_padded_sequence(x, lengths, enforce_sorted=False)   # padding at the end",
    )


def _still_words(model: Model, mask: Tensor) -> Words:
    taken = (~mask).sum(0)
    rows = "" if bool((taken == taken[0]).all()) else " of some rows"
    return Words(
        f"the state{rows} stands still from time {int(taken.min())} on",
        f"{model.structure.kind} goes on to the last step.",
        "for t in range(T):   # all of them",
        "the state stands still",
    )


def _skipping(model: Model, observation: Observation, mask: Tensor) -> Outcome | None:
    """What comes where each row has no other steps than those it does not skip."""
    inputs, taken = observation.inputs, ~mask
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


# the state of some steps before ------------------------------------------------------------------


def of_lags(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Each step from the state so many steps before, the first ones from the initial state, as a
    skip connection in time has it."""
    if model.num_directions > 1 or any(o.inputs.lengths is not None for o in shown):
        return
    longest = max(observation.inputs.steps for observation in shown)
    for lag in (lag for lag in LAGS if lag < longest):

        def lagged(observation: Observation, lag: int = lag) -> Outcome | None:
            return _lagged(model, observation, lag)

        words = Words(
            f"each step reads the state of {lag} steps before",
            f"{model.structure.kind} reads that of the step before.",
            f"h = step(x[t], states[t - 1])   # not states[t - {lag}]",
        )
        yield Finding(Cause("lagged", str(lag)), words, gives=lagged)


def _lagged(model: Model, observation: Observation, lag: int) -> Outcome | None:
    """What comes where every so many steps are a sequence of their own."""
    inputs = observation.inputs
    pieces = [
        Simulator(replace(inputs, x=inputs.x[first::lag])).run([model])[0]
        for first in range(min(lag, inputs.steps))
    ]
    output = inputs.x.new_zeros(inputs.steps, inputs.batch, model.structure.output_size)
    for first, piece in enumerate(pieces):
        if piece is None:
            return None
        output[first::lag] = piece.output
    last = pieces[(inputs.steps - 1) % lag]
    return None if last is None else replace(last, output=output)
