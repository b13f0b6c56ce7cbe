"""Steps that are not taken as they should: loops that are too short, rows that end earlier, and
steps that are skipped or read the state of some steps before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import first_few, listed
from rnnscope._compare.facts.finding import Finding, of_each_call, returning, runs_forward
from rnnscope._compare.facts.walked import States, layered, run_part
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome, Part, PartIndex
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.run import ModelRun
from rnnscope._compare.model.simulate import Simulator
from rnnscope._layers.sequences import shifted, valid_steps

__all__ = ["of_ends", "of_held_steps", "of_lags", "one_direction", "without_zeros"]

ENOUGH = 4
"""Steps of rows that must not be zero."""

MOST, HELD = 6, 4
"""Rows that are named, and those whose held steps are."""

LAGS = (2, 3, 4)
"""Steps before, of which the state may be read."""

Interval = tuple[int, int]
"""The first step, and the one behind the last."""


def _zeros(model: Model, observation: Observation) -> Tensor | None:
    """True where all units of a direction are zero, (direction, time, batch)."""
    output = observation.output
    if output is None or output.shape[-1] % model.num_directions:
        return None
    zeros = (torch.stack(output.chunk(model.num_directions, -1)) == 0).all(-1)
    return zeros if observation.valid is None else zeros & observation.valid[..., 0]


def _lengths(zeros: Tensor) -> Tensor | None:
    """The steps of each row, where all directions are zero from some step on and nowhere before."""
    lengths = (~zeros[0]).sum(0)
    alike = bool((~zeros == valid_steps(lengths, zeros.shape[1])).all())
    return lengths if alike and bool((lengths > 0).all()) else None


def _interval(zeros: Tensor) -> Interval | None:
    """The steps of a direction, (time, batch), that are not zero, the same in every row and
    without gaps."""
    times = (~zeros[:, 0]).nonzero().flatten().tolist()
    start, stop = (times[0], times[-1] + 1) if times else (0, 0)
    alike = bool((zeros == zeros[:, :1]).all())
    return (start, stop) if alike and len(times) == stop - start else None


def of_ends(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Steps that are zero in the output: rows that end earlier, steps that are never computed, or
    numbers that are wiped."""
    zeros = [z for observation in shown if (z := _zeros(model, observation)) is not None]
    if len(zeros) < len(shown):
        return
    count = sum(int(z.sum()) for z in zeros)
    total = sum(z.numel() for z in zeros)
    if count == 0 or total - count < ENOUGH:
        return
    yield from _shorter_loops(model, shown, zeros)
    yield from _shorter_rows(model, shown, zeros)
    if count <= total // 2:
        yield _wiped(model, zeros)


def _first(zeros: Sequence[Tensor]) -> Tensor:
    """Those of the first call that has any."""
    return next(z for z in zeros if bool(z.any()))


def without_zeros(model: Model, shown: Sequence[Observation]) -> Iterator[list[Observation]]:
    """What was observed where it is not zero: of shorter rows, or each direction by itself from its
    first step to its last."""
    pairs = [(o, z) for o in shown if (z := _zeros(model, o)) is not None]
    if not any(bool(z.any()) for _, z in pairs):
        return
    lengths = [_lengths(z) for _, z in pairs]
    if all(of_rows is not None for of_rows in lengths):
        yield [_of_lengths(o, of_rows) for (o, _), of_rows in zip(pairs, lengths, strict=True)]
    if all(observation.inputs.lengths is None for observation in shown):
        yield [
            one_direction(model, observation, d, interval)
            for observation, z in pairs
            for d in range(model.num_directions)
            if (interval := _interval(z[d])) is not None and interval[0] < interval[1]
        ]


def _of_lengths(observation: Observation, lengths: Tensor | None) -> Observation:
    inputs = replace(observation.inputs, lengths=lengths)
    names = observation.simulator.names
    return replace(observation, inputs=inputs, simulator=Simulator(inputs, names), final={})


def one_direction(
    model: Model, observation: Observation, d: int, interval: Interval
) -> Observation:
    """Some steps of one direction: nothing of the other is compared."""
    start, stop = interval
    inputs = replace(observation.inputs, x=observation.inputs.x[start:stop])
    assert observation.output is not None, "it has zeros"
    output = observation.output[start:stop]
    allowed = observation.allowed["output"][start:stop].expand_as(output).clone()
    for k, half in enumerate(allowed.chunk(model.num_directions, -1)):
        if k != d:
            half.fill_(torch.inf)
    return Observation(inputs, output, observation.unit, allowed={"output": allowed})


# rows that end earlier ---------------------------------------------------------------------------


def _shorter_rows(
    model: Model, shown: Sequence[Observation], zeros: Sequence[Tensor]
) -> Iterator[Finding]:
    lengths = [_lengths(z) for z in zeros]
    ends = _lengths(_first(zeros))
    if ends is None or any(of_rows is None for of_rows in lengths):
        return

    def shorter(observation: Observation, of_rows: Tensor | None) -> Outcome | None:
        inputs = replace(observation.inputs, lengths=of_rows)
        return Simulator(inputs, observation.simulator.names).run([model])[0]

    steps, numbers = _first(zeros).shape[1], ends.tolist()
    rows = [f"row {row} from time {n} on" for row, n in enumerate(numbers) if n < steps]
    where = f"in {first_few(rows, MOST, 'more rows')}"
    if len(set(numbers)) == 1:
        where = f"from time {numbers[0]} on"
    argument = numbers if len(numbers) <= MOST else "lengths"
    words = Words(
        f"every row ends earlier: the output is zero {where}",
        f"{model.structure.kind} was given no lengths like these, and goes on to the last step.",
        f"compare(mine, layer, x, lengths={argument})   # if that is meant",
        "rows end earlier",
    )
    yield Finding(Cause("ends_earlier"), words, gives=of_each_call(shown, lengths, shorter))


# steps that are never computed -------------------------------------------------------------------


def _shorter_loops(
    model: Model, shown: Sequence[Observation], zeros: Sequence[Tensor]
) -> Iterator[Finding]:
    """Steps that a direction never computes, in the last layer or in all."""
    intervals = [[i for half in z if (i := _interval(half)) is not None] for z in zeros]
    padded = any(observation.inputs.lengths is not None for observation in shown)
    if padded or any(len(of_call) < model.num_directions for of_call in intervals):
        return
    words = _loop_words(model, _first(zeros))
    for from_layer in dict.fromkeys((0, model.num_layers - 1)):

        def shortened(
            observation: Observation, of_call: Sequence[Interval], from_layer: int = from_layer
        ) -> Outcome:
            return _shortened(model, observation, of_call, from_layer)

        gives = of_each_call(shown, intervals, shortened)
        yield Finding(Cause("steps_missing"), words, gives=gives)


def _loop_words(model: Model, zeros: Tensor) -> Words:
    texts, lines = [], []
    for d, (part, half) in enumerate(zip(model.parts[-1], zeros, strict=True)):
        missing = half[:, 0].nonzero().flatten().tolist()
        if missing:
            side = f"{model.structure.directions[d]} " if model.num_directions > 1 else ""
            texts.append(f"the {side}loop leaves out {listed('time', missing)}")
            lines.append("for t in reversed(range(T)):" if part.backward else "for t in range(T):")
    return Words(
        " and ".join(texts),
        "the output is zero there; each direction takes every step.",
        "; ".join(dict.fromkeys(lines)),
        "steps are left out",
    )


def _shortened(
    model: Model, observation: Observation, intervals: Sequence[Interval], from_layer: int
) -> Outcome:
    """What is returned if each direction takes these steps alone, in layers from one on."""

    def some_steps(part: Part, x: Tensor, begin: States, place: PartIndex) -> ModelRun:
        layer, d = place
        start, stop = intervals[d] if layer >= from_layer else (0, len(x))
        names = observation.simulator.names
        run = run_part(part, x[start : max(stop, start + 1)], begin, None, names)
        if start == stop:
            run = replace(run, final=begin)

        def laid(value: Tensor) -> Tensor:
            whole = value.new_zeros(len(x), *value.shape[1:])
            whole[start:stop] = value[: stop - start]
            return whole

        return replace(
            run, emitted=laid(run.emitted), steps={n: laid(v) for n, v in run.steps.items()}
        )

    return layered(model, observation.inputs, some_steps)


# numbers that are wiped --------------------------------------------------------------------------


def _wiped(model: Model, zeros: Sequence[Tensor]) -> Finding:
    """Numbers that are set to zero once all is computed."""

    def wiped(outcome: Outcome, observation: Observation) -> Outcome | None:
        flags = _zeros(model, observation)
        if flags is None or outcome.output.shape[-1] % len(flags):
            return None
        halves = outcome.output.chunk(len(flags), -1)
        kept = [half * ~flag.unsqueeze(-1) for half, flag in zip(halves, flags, strict=True)]
        return replace(outcome, output=torch.cat(kept, -1))

    first, names = _first(zeros), model.structure.directions
    places = [
        (f"{names[d]}, " if len(names) > 1 else "") + f"time {t} of row {row}"
        for d, t, row in first.nonzero().tolist()
    ]
    where = first_few(places, MOST, separator="; ")
    words = Words(
        f"the output is zero at {len(places)} of {first.numel()} steps: {where}",
        "everywhere else it is right.",
        "output[t] = h   # at every step, in every row",
        "the output is zero at some steps",
    )
    return Finding(Cause("wiped"), words, gives=returning(model, wiped))


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

    if any(bool((mask[:-1] & ~mask[1:]).any()) for mask in masks):
        words = _held_words(model, masks[first], shown[first].inputs.x)
        gives = of_each_call(shown, masks, partial(_skipping, model))
        yield Finding(Cause("held", "steps"), words, gives=gives)
    elif runs_forward(model):
        gives = of_each_call(shown, masks, partial(_ending, model))
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
        before = shifted(half, inputs.initial["h"][-1, d], part.backward)
        held &= (half == before).all(-1)
    return held


def _held_words(model: Model, mask: Tensor, x: Tensor) -> Words:
    rows = [(row, flags.nonzero().flatten().tolist()) for row, flags in enumerate(mask.T)]
    places = [f"{listed('time', times)} of row {row}" for row, times in rows if times]
    if mask.any(1).equal(mask.all(1)):
        places = [listed("time", mask.any(1).nonzero().flatten().tolist())]
    more = f" and in {len(places) - HELD} more rows" if len(places) > HELD else ""
    why = ", where x is zero," if torch.equal((x == 0).all(-1), mask) else ""
    return Words(
        f"the state is held at {', '.join(places[:HELD])}{more}",
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


def _ending(model: Model, observation: Observation, mask: Tensor) -> Outcome | None:
    """What comes where each row ends at its last step that is not held, which the output repeats;
    what is recorded beside the output ends there."""
    counts = (~mask).sum(0)
    if bool((counts == 0).any()):
        return None
    shorter = replace(observation.inputs, lengths=counts)
    [outcome] = Simulator(shorter, observation.simulator.names).run([model])
    if outcome is None:
        return None
    last = torch.minimum(torch.arange(len(outcome.output), device="cpu")[:, None], counts - 1)
    return replace(
        outcome, output=outcome.output.gather(0, last[..., None].expand_as(outcome.output))
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
