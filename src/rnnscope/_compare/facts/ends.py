"""Steps of the output that are exactly zero: loops that are too short, rows that end earlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import first_few, listed
from rnnscope._compare.facts.finding import Finding, of_each_call, returning
from rnnscope._compare.facts.restarts import States, layered, run_part
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome, Part, PartIndex
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.run import ModelRun
from rnnscope._compare.model.simulate import Simulator
from rnnscope._layers.sequences import valid_steps

__all__ = ["of_ends", "one_direction", "without_zeros"]

ENOUGH = 4
"""Steps of rows that must not be zero."""

MOST = 6
"""Rows that are named."""

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
