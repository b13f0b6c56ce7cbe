"""A state that begins anew inside the sequence: at every chunk, or where an episode starts.

Each row is followed from its beginning. Where its output is not what comes of the state before, the
state is set to zero, or to what was given, and only if that gives the output it goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import first_few, listed
from rnnscope._compare.facts.finding import Finding, Gives, of_each_call
from rnnscope._compare.facts.walked import Schedule, Standing, States, Walk, layered, run_part
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Inputs, Model, Outcome, Part, PartIndex
from rnnscope._compare.model.observed import Observation, distance, some_rows
from rnnscope._compare.model.run import ModelRun
from rnnscope._compare.search.trials import NEAR
from rnnscope._layers.sequences import running_order, turned

__all__ = ["listed_places", "of_restarts"]

MOST = 6
"""Restarts of one row, and rows, that are named."""

LARGEST = 65
"""Below so many steps a chunk is tried of several layers in two directions."""


@dataclass(frozen=True)
class _Kind:
    """Which states begin anew, and whether from zeros or from what the caller gave."""

    states: tuple[str, ...]
    zero: bool

    def start(self, initial: States) -> States:
        """What these states are set to."""
        return {
            name: torch.zeros_like(initial[name]) if self.zero else initial[name]
            for name in self.states
        }


_How = tuple[int, int | None, bool]
"""Steps of a chunk, what shifts those of the reverse direction, and whether it begins anew at
once."""


def of_restarts(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """States that begin anew at some steps of some rows, read off the output."""
    wiped = [_wiped(model, observation) for observation in shown]
    for kind in _kinds(model, shown):
        if model.num_directions == 1 and any(bool(mask.any()) for mask in wiped) and kind.zero:
            yield from _after_wiped(model, shown, wiped, kind)
        if min(model.num_directions, model.num_layers) == 1:
            yield from _followed(model, shown, kind)
        else:
            yield from _chunked(model, shown, kind)


def _kinds(model: Model, shown: Sequence[Observation]) -> Iterator[_Kind]:
    states = tuple(model.structure.cell.states)
    not_zero = any(
        bool(v.any()) for observation in shown for v in observation.inputs.initial.values()
    )
    for names in dict.fromkeys((states, *((state,) for state in states))):
        yield from (_Kind(names, zero) for zero in (True, False)[: 1 + not_zero])


# one layer, or one direction: step by step -------------------------------------------------------


def _followed(model: Model, shown: Sequence[Observation], kind: _Kind) -> Iterator[Finding]:
    schedules: list[list[Schedule]] = []
    for observation in shown:
        directions = [_schedule(model, observation, kind, d) for d in range(model.num_directions)]
        schedules.append([schedule for schedule in directions if schedule is not None])
        if len(schedules[-1]) < model.num_directions:
            return
    yield from _findings(model, shown, schedules, kind)


def _wiped(model: Model, observation: Observation) -> Schedule:
    """Where the output is zero in all units, and the reference's is not, (time, batch)."""
    inputs, output = observation.inputs, observation.output
    [right] = observation.simulator.run([model])
    if right is None or output is None or right.output.shape != output.shape:
        return torch.zeros(inputs.steps, inputs.batch, dtype=torch.bool, device="cpu")
    zero, usable = (output == 0).all(-1), observation.usable("output").all(-1)
    return zero & usable & (right.output != 0).any(-1)


def _after_wiped(
    model: Model, shown: Sequence[Observation], wiped: Sequence[Schedule], kind: _Kind
) -> Iterator[Finding]:
    """States that are set to zero after a step, whose output is zero too."""
    schedules: list[list[Schedule]] = []
    for observation, mask in zip(shown, wiped, strict=True):
        schedule = _schedule(model, observation, kind, 0, mask)
        after = turned(mask, model.parts[-1][0].backward)
        if schedule is None or bool(schedule[0].any()) or not torch.equal(schedule[1:], after[:-1]):
            return
        schedules.append([schedule])
    for finding in _findings(model, shown, schedules, kind):
        gives = finding.gives
        assert gives is not None, "it depends on the call"

        def zeroed(
            observation: Observation, mask: Schedule, gives: Gives = gives
        ) -> Outcome | None:
            outcome = gives(observation)
            if outcome is None:
                return None
            last = turned(mask, model.parts[-1][0].backward)[-1].unsqueeze(-1)
            final = {
                name: torch.where(last, 0.0, value) if name in kind.states else value
                for name, value in outcome.final.items()
            }
            output = torch.where(mask.unsqueeze(-1), 0.0, outcome.output)
            return replace(outcome, output=output, final=final)

        where, _ = listed_places(model, [next(mask for mask in wiped if bool(mask.any()))], "at")
        names = " and ".join(kind.states)
        words = Words(
            f"{names} {'is' if len(kind.states) == 1 else 'are'} set to zero after a step, and "
            f"so returned, {where}",
            f"the output is zero there and the next step starts from zero; {model.structure.kind} "
            f"returns h itself. Where an episode ends, mask what is carried on, not what is "
            f"returned.",
            "outputs.append(h); h = h * (1 - done)",
        )
        yield replace(finding, words=words, gives=of_each_call(shown, wiped, zeroed))


def _schedule(
    model: Model, observation: Observation, kind: _Kind, d: int, wiped: Schedule | None = None
) -> Schedule | None:
    """The steps before which each row of a direction begins anew; None where that does not give
    the output, but for where it is ``wiped``."""
    inputs, size = observation.inputs, model.structure.output_size
    if observation.output is None or observation.output.shape[-1] != size * model.num_directions:
        return None
    half = slice(d * size, (d + 1) * size)
    seen, unseen = observation.output[..., half], ~observation.usable("output")[..., half]
    unseen = unseen if wiped is None else unseen | wiped.unsqueeze(-1)
    valid = None if observation.valid is None else observation.valid[..., 0]
    walk = Walk(model, d, inputs, valid)

    def agrees(k: int, output: Tensor) -> Tensor:
        t = walk.order[k]
        near = distance(output, seen[t]) <= observation.allowed["output"][t]
        return (near | unseen[t]).all(-1)

    def off(k: int, output: Tensor) -> Tensor:
        wrong = ~agrees(k, output)
        return wrong if wiped is None or not k else wrong | wiped[walk.order[k - 1]]

    def begun_anew(standing: Standing) -> Sequence[States]:
        starts = zip(standing.states, walk.initial, strict=True)
        return [{**state, **kind.start(begin)} for state, begin in starts]

    # with one direction what comes before the first wrong step is right
    start = walk.first_wrong(observation) if model.num_directions == 1 and wiped is None else 0
    walked = walk.taken(off, begun_anew, agrees, start)
    return None if walked is None else walked.changed


# several layers in two directions: chunk by chunk ------------------------------------------------


def _chunked(model: Model, shown: Sequence[Observation], kind: _Kind) -> Iterator[Finding]:
    longest = max(observation.inputs.steps for observation in shown)
    # the reverse direction may begin anew where a chunk ends, where it starts, or by its own
    # count; either direction also before its first step
    every = list(product(range(1, min(longest, LARGEST)), (1, 0, None), (False, True)))
    for how in _close(model, shown[0], every, kind):
        schedules = [_flags(model, observation.inputs, how) for observation in shown]
        yield from _findings(model, shown, schedules, kind)


def _close(
    model: Model, observation: Observation, every: Sequence[_How], kind: _Kind
) -> Sequence[_How]:
    """The ways that come close on the first row, which is run in all of them as in one batch."""
    first = some_rows(observation, torch.zeros(1, dtype=torch.long, device="cpu"))
    if first.output is None or not len(every):
        return every
    inputs, rows = first.inputs, len(every)
    many = replace(
        inputs,
        x=inputs.x.expand(-1, rows, -1),
        initial={name: value.expand(-1, -1, rows, -1) for name, value in inputs.initial.items()},
        lengths=None if inputs.lengths is None else inputs.lengths.expand(rows),
    )
    flags = zip(*(_flags(model, inputs, how) for how in every), strict=True)
    outcome = _run(model, many, (), [torch.cat(flag, 1) for flag in flags], kind)
    if outcome.output.shape[-1] != first.output.shape[-1]:
        return ()
    ratio = distance(outcome.output, first.output) / first.allowed["output"]
    close = (torch.where(first.usable("output"), ratio, 0.0) <= NEAR).flatten(2).all(-1).all(0)
    return [how for how, near in zip(every, close.tolist(), strict=True) if near]


def _flags(model: Model, inputs: Inputs, how: _How) -> list[Schedule]:
    """Where each direction begins anew, in the order of computing."""
    size, shift, first = how
    steps = inputs.steps
    times = torch.arange(steps, device="cpu")
    forward = times % size == 0
    reverse = forward if shift is None else ((times + shift) % size == 0).flip(0)
    flags = []
    for part in model.parts[-1]:
        anew = (reverse if part.backward else forward) & (times > 0)
        anew[0] = first
        flags.append(anew[:, None].expand(steps, inputs.batch))
    return flags


# what such a state gives -------------------------------------------------------------------------


def _findings(
    model: Model,
    shown: Sequence[Observation],
    schedules: Sequence[Sequence[Schedule]],
    kind: _Kind,
) -> Iterator[Finding]:
    by_direction = list(zip(*schedules, strict=True))
    if not any(bool(flag.any()) for flags in by_direction for flag in flags):
        return
    if any(all(bool(flag[1:].all()) for flag in flags) for flags in by_direction):
        return  # never carried, which is another mistake

    def beginning_anew(observation: Observation, of_call: Sequence[Schedule]) -> Outcome:
        return _run(model, observation.inputs, observation.simulator.names, of_call, kind)

    some = next(of_call for of_call in schedules if any(bool(flag.any()) for flag in of_call))
    cause = Cause("begins_anew", "".join(kind.states) + ("" if kind.zero else "_0"))
    gives = of_each_call(shown, schedules, beginning_anew)
    yield Finding(cause, _words(model, some, kind), gives=gives)


def _run(
    model: Model,
    inputs: Inputs,
    names: Sequence[str],
    schedules: Sequence[Schedule],
    kind: _Kind,
) -> Outcome:
    """The layer with states that begin anew: each part is run from each place where a row begins
    anew to the next."""
    lengths = inputs.lengths

    def pieces(part: Part, x: Tensor, begin: States, place: PartIndex) -> ModelRun:
        anew = schedules[place[1]]
        steps, states = x.shape[0], begin
        runs: list[ModelRun] = []
        for start, stop in pairwise([0, *anew.any(1).nonzero().flatten().tolist(), steps]):
            if start == stop:
                continue
            fresh = kind.start(begin)
            again = anew[start][:, None]
            states = {**states} | {
                name: torch.where(again, value, states[name]) for name, value in fresh.items()
            }
            first = steps - stop if part.backward else start
            real = None if lengths is None else (lengths - first).clamp(0, stop - start)
            runs.append(run_part(part, x[first : first + stop - start], states, real, names))
            states = runs[-1].final
        in_time = runs[::-1] if part.backward else runs
        return replace(
            runs[-1],
            emitted=torch.cat([run.emitted for run in in_time]),
            steps={name: torch.cat([run.steps[name] for run in in_time]) for name in names},
        )

    return layered(model, inputs, pieces)


# in words ----------------------------------------------------------------------------------------


def _words(model: Model, schedules: Sequence[Schedule], kind: _Kind) -> Words:
    cell, layer_kind = model.structure.cell, model.structure.kind
    whole = kind.states == tuple(cell.states)
    names = " and ".join(kind.states)
    where, chunks = listed_places(model, schedules)
    subject = "the state is" if whole else f"{names} alone is"
    to = "zero" if kind.zero else "the initial state" if whole else f"{names}_0"
    title = f"{subject} set to {to} inside the sequence, {where}"
    sentence = f"all other steps follow from the step before; {layer_kind} carries its state on."
    if chunks:
        repair = f"{', '.join(cell.states)} = initial   # once, before the first chunk"
        return Words(title, sentence, repair, f"{subject} set to {to} in every chunk")
    sentence += (
        " Where an episode starts that may be meant: give the parts as sequences of their own."
    )
    return Words(title, sentence, "h = h   # not h * (1 - start)", f"{subject} set to {to} inside")


def listed_places(
    model: Model, schedules: Sequence[Schedule], side_of: str = "before"
) -> tuple[str, bool]:
    """Where rows begin anew, and whether that is at every so many steps."""
    texts: list[str] = []
    regular = True
    for part, anew in zip(model.parts[-1], schedules, strict=True):
        order = running_order(range(len(anew)), part.backward)
        rows = {
            row: [order[k] for k in flags.nonzero().flatten().tolist()]
            for row, flags in enumerate(anew.T)
        }
        side = ""
        if model.num_directions > 1:
            side = "reverse " if part.backward else "forward "
        everywhere = len({tuple(times) for times in rows.values()}) == 1
        regular = regular and everywhere
        if everywhere and rows[0]:
            texts.append(f"{side}{_times(rows[0], part.backward, side_of)}")
        elif not everywhere:
            texts += [
                f"{side}in row {row} {_times(times, part.backward, side_of)}"
                for row, times in rows.items()
                if times
            ]
    return first_few(texts, MOST, "more rows"), regular


def _times(times: Sequence[int], backward: bool, side_of: str) -> str:
    """In words; a direction that runs backward comes to a step from later ones."""
    gaps = {after - before for before, after in pairwise(times)}
    text = f"{side_of} {listed('time', times)}"
    text += " (from the end)" if backward else ""
    every = abs(next(iter(gaps), 0))
    # two times alone are a period where the first comes as long after the start
    regular = len(gaps) == 1 and (len(times) > 2 or backward or times[0] == every)
    return f"{text} (every {every} steps)" if regular and every > 1 else text
