"""Steps of the output that are exactly zero: loops that are too short, rows that end earlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.facts.layered import States, layered, run_part
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


@dataclass(frozen=True)
class _Silent:
    """Of one call, (direction, time, batch): True where all units of a direction are zero."""

    flags: Tensor

    @classmethod
    def of(cls, model: Model, observation: Observation) -> _Silent | None:
        if observation.output is None or observation.output.shape[-1] % model.num_directions:
            return None
        halves = torch.stack(observation.output.chunk(model.num_directions, -1))
        flags = (halves == 0).all(-1)
        return cls(flags if observation.valid is None else flags & observation.valid[..., 0])

    @property
    def lengths(self) -> Tensor | None:
        """The steps of each row, where all directions are zero from some step on and nowhere
        before."""
        spoken = ~self.flags
        lengths = spoken[0].sum(0)
        alike = bool((spoken == valid_steps(lengths, spoken.shape[1])).all())
        return lengths if alike and bool((lengths > 0).all()) else None

    def interval(self, d: int) -> tuple[int, int] | None:
        """The steps of a direction that are not zero, the same in every row and without gaps."""
        spoken = ~self.flags[d]
        if not bool((spoken == spoken[:, :1]).all()):
            return None
        times = spoken[:, 0].nonzero().flatten().tolist()
        if not times:
            return 0, 0
        if len(times) != times[-1] + 1 - times[0]:
            return None
        return times[0], times[-1] + 1


def of_ends(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Steps that are zero in the output: rows that end earlier, steps that are never computed, or
    numbers that are wiped; and steps that only repeat the step before."""
    yield from _standing_still(model, shown)
    silent = [_Silent.of(model, observation) for observation in shown]
    if not all(silent) or not any(bool(s.flags.any()) for s in silent if s):
        return
    by_inputs = {
        id(observation.inputs): s for observation, s in zip(shown, silent, strict=True) if s
    }
    flags = torch.cat([s.flags.flatten() for s in silent if s])
    if int((~flags).sum()) < ENOUGH:
        return
    first = next(s for s in silent if s and bool(s.flags.any()))
    yield from _shorter_loops(model, shown, by_inputs, first)
    yield from _shorter_rows(model, shown, by_inputs, first)
    if int(flags.sum()) <= len(flags) // 2:
        yield _wiped(model, by_inputs, first)


def _standing_still(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Rows whose output is the same from some step on, as where there is room for no more steps."""
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    if not one_way or any(o.output is None or o.inputs.lengths is not None for o in shown):
        return
    lengths = {id(o.inputs): _moving(o.output) for o in shown if o.output is not None}
    still = [o for o in shown if bool((lengths[id(o.inputs)] < o.inputs.steps).any())]
    if not still:
        return

    def gives(observation: Observation) -> Outcome | None:
        counts = lengths[id(observation.inputs)]
        shorter = replace(observation.inputs, lengths=counts)
        [outcome] = Simulator(shorter, observation.simulator.names).run([model])
        if outcome is None:
            return None
        last = torch.minimum(torch.arange(len(outcome.output), device="cpu")[:, None], counts - 1)
        index = last[..., None].expand_as(outcome.output)
        return replace(outcome, output=outcome.output.gather(0, index))

    counts = lengths[id(still[0].inputs)]
    first = int(counts.min())
    rows = "" if bool((counts == first).all()) else " of some rows"
    words = Words(
        f"the state{rows} stands still from time {first} on",
        f"{model.structure.kind} goes on to the last step.",
        "for t in range(T):   # all of them",
        "the state stands still",
    )
    yield Finding(Cause("stands_still"), words, gives=gives)


def _moving(output: Tensor) -> Tensor:
    """How many steps of each row are not all the same to the end."""
    same = (output[1:] == output[:-1]).all(-1)
    counts: Tensor = len(output) - same.flip(0).long().cumprod(0).sum(0)
    return counts


def without_zeros(model: Model, shown: Sequence[Observation]) -> Iterator[list[Observation]]:
    """What was observed where it is not zero: of shorter rows, or each direction by itself from its
    first step to its last."""
    silent = [_Silent.of(model, observation) for observation in shown]
    if not any(bool(s.flags.any()) for s in silent if s):
        return
    pairs = [(o, s) for o, s in zip(shown, silent, strict=True) if s]
    lengths = [s.lengths for _, s in pairs]
    if all(one is not None for one in lengths):
        yield [_of_lengths(o, n) for (o, _), n in zip(pairs, lengths, strict=True)]
    if all(observation.inputs.lengths is None for observation in shown):
        yield [
            one_direction(model, observation, d, interval)
            for observation, s in pairs
            for d in range(model.num_directions)
            if (interval := s.interval(d)) is not None and interval[0] < interval[1]
        ]


def _of_lengths(observation: Observation, lengths: Tensor | None) -> Observation:
    inputs = replace(observation.inputs, lengths=lengths)
    names = observation.simulator.names
    return replace(observation, inputs=inputs, simulator=Simulator(inputs, names), final={})


def one_direction(
    model: Model, observation: Observation, d: int, interval: tuple[int, int]
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


def _shorter_rows(
    model: Model, shown: Sequence[Observation], silent: dict[int, _Silent], first: _Silent
) -> Iterator[Finding]:
    lengths = {id(o.inputs): silent[id(o.inputs)].lengths for o in shown}
    if any(value is None for value in lengths.values()):
        return

    def gives(observation: Observation) -> Outcome | None:
        shorter = replace(observation.inputs, lengths=lengths[id(observation.inputs)])
        return Simulator(shorter, observation.simulator.names).run([model])[0]

    words = Words(
        f"every row ends earlier: {_rows(first)}",
        f"{model.structure.kind} was given no lengths like these, and goes on to the last step.",
        f"compare(mine, layer, x, lengths={_listed(first)})   # if that is meant",
        "rows end earlier",
    )
    yield Finding(Cause("ends_earlier"), words, gives=gives)


def _listed(silent: _Silent) -> str:
    lengths = silent.lengths
    values = [] if lengths is None else lengths.tolist()
    return str(values) if len(values) <= MOST else "lengths"


def _rows(silent: _Silent) -> str:
    """From which step on each row is zero."""
    lengths = silent.lengths
    assert lengths is not None
    steps = silent.flags.shape[1]
    values = lengths.tolist()
    if len(set(values)) == 1:
        return f"the output is zero from time {values[0]} on"
    words = [f"row {row} from time {n} on" for row, n in enumerate(values) if n < steps]
    more = f" and {len(words) - MOST} more rows" if len(words) > MOST else ""
    return f"the output is zero in {', '.join(words[:MOST])}{more}"


def _shorter_loops(
    model: Model, shown: Sequence[Observation], silent: dict[int, _Silent], first: _Silent
) -> Iterator[Finding]:
    """Steps that a direction never computes, in the last layer or in all."""
    if any(observation.inputs.lengths is not None for observation in shown):
        return
    intervals = {
        key: [s.interval(d) for d in range(model.num_directions)] for key, s in silent.items()
    }
    if any(
        interval is None
        for intervals_of_call in intervals.values()
        for interval in intervals_of_call
    ):
        return
    words = _loop_words(model, first)
    for from_layer in dict.fromkeys((0, model.num_layers - 1)):

        def gives(observation: Observation, from_layer: int = from_layer) -> Outcome | None:
            intervals_of_call = [i for i in intervals[id(observation.inputs)] if i is not None]
            return _shortened(model, observation, intervals_of_call, from_layer)

        yield Finding(Cause("steps_missing"), words, gives=gives)


def _loop_words(model: Model, silent: _Silent) -> Words:
    steps = silent.flags.shape[1]
    texts, lines = [], []
    for d, part in enumerate(model.parts[-1]):
        interval = silent.interval(d)
        if interval is None or interval == (0, steps):
            continue
        missing = [*range(interval[0]), *range(interval[1], steps)]
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
    model: Model, observation: Observation, intervals: Sequence[tuple[int, int]], from_layer: int
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


def _wiped(model: Model, silent: dict[int, _Silent], first: _Silent) -> Finding:
    """Numbers that are set to zero once all is computed."""

    def gives(observation: Observation) -> Outcome | None:
        [outcome] = observation.simulator.run([model])
        flags = silent[id(observation.inputs)].flags
        if outcome is None or outcome.output.shape[-1] % len(flags):
            return None
        halves = outcome.output.chunk(len(flags), -1)
        kept = [half * ~flag.unsqueeze(-1) for half, flag in zip(halves, flags, strict=True)]
        return replace(outcome, output=torch.cat(kept, -1))

    count, total = int(first.flags.sum()), first.flags.numel()
    words = Words(
        f"the output is zero at {count} of {total} steps: {_first_places(model, first)}",
        "everywhere else it is right.",
        "output[t] = h   # at every step, in every row",
        "the output is zero at some steps",
    )
    return Finding(Cause("wiped"), words, gives=gives)


def _first_places(model: Model, silent: _Silent) -> str:
    names = model.structure.directions
    places = [
        (f"{names[d]}, " if len(names) > 1 else "") + f"time {t} of row {row}"
        for d, t, row in silent.flags.nonzero().tolist()
    ]
    more = f" and {len(places) - MOST} more" if len(places) > MOST else ""
    return "; ".join(places[:MOST]) + more
