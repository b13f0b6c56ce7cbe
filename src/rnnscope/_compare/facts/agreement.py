"""Where the two agree, before why they do not; and what the data did not reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor

from rnnscope._compare.facts.cells import with_cells
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.model.steps import OpenedPart, opened_parts
from rnnscope._layers.sequences import running_order, turned

__all__ = [
    "agrees_in_part",
    "all_equal",
    "attained",
    "enumerated",
    "first_few",
    "largest_state",
    "listed",
    "not_reached",
    "what_is_plain",
    "where_it_agrees",
    "wrong_rows",
]

CLEAR = 10.0
"""How many times what rounding allows a difference must be before a place is said to be wrong and
others right."""

MOST = 8
"""Numbers of rows, times and units that are named."""

FAR = 3.0
"""The magnitude from which on tanh(c) is nearly flat: what is cut off there shows nowhere else."""


def where_it_agrees(model: Model, observation: Observation) -> tuple[str, ...]:
    """What agrees of a call that differs: rows, times, units, halves."""
    return tuple(_of_output(model, observation))


def what_is_plain(model: Model, observation: Observation) -> tuple[str, ...]:
    """Sentences on the candidate's own numbers: zeros, halves and layers that are equal, a largest
    magnitude."""
    return (*_plain(model, observation), *_limits(model, observation))


def wrong_rows(model: Model, observation: Observation) -> list[int]:
    """The rows in which any number differs, where others agree; else none."""
    wrong = torch.zeros(observation.inputs.batch, dtype=torch.bool, device="cpu")
    for name, beyond in observation.beyond(model):
        if beyond is None:
            return []
        off = beyond.any(-1)  # (time, batch), or behind layers and directions (batch[, time])
        wrong |= (
            off.any(0) if name == "output" else off.flatten(0, 1).any(0).view(len(wrong), -1).any(1)
        )
    rows: list[int] = wrong.nonzero().flatten().tolist()
    return rows if len(rows) < len(wrong) else []


def agrees_in_part(model: Model, observation: Observation) -> bool:
    """Whether whole rows agree, or all rows in the first two steps, in numbers that are not zero:
    what is approximate on purpose, such as rounded weights, would show in each of them."""
    output = observation.output
    wrong = wrong_rows(model, observation)
    if output is None:
        return False
    right = [row for row in range(output.shape[1]) if row not in wrong]
    if wrong and bool(output[:, right].any()):
        return True
    beyond = dict(observation.beyond(model))["output"]
    if beyond is None or model.num_directions == 2 or len(output) < 3:
        return False
    return bool(output[:2].any()) and not bool(beyond[:2].any())


# of the candidate's own numbers ------------------------------------------------------------------


def _plain(model: Model, observation: Observation) -> Iterator[str]:
    output = observation.output
    if output is not None and output.numel():
        if not bool(output.any()):
            yield "the output is 0 throughout"
        elif len(output) > 1 and bool((output == output[:1]).all()):
            yield "the output is the same at every step"
        elif model.num_directions == 2 and output.shape[-1] % 2 == 0:
            first, second = output.chunk(2, -1)
            if torch.equal(first, second):
                yield "both halves of the output are equal"
            for name, half in (("forward", first), ("reverse", second)):
                if not bool(half.any()):
                    yield f"the {name} half of the output is 0 throughout"
    for name, value in observation.final.items():
        rows = [
            ((layer, d), value[layer, d])
            for layer in range(value.shape[0])
            for d in range(value.shape[1])
        ]
        for (place, state), (another_place, another) in combinations(rows, 2):
            if bool(state.any()) and torch.equal(state, another):
                places = f"{_part(model, place)} and {_part(model, another_place)}"
                yield f"{name}_n is the same in {places}"


def _part(model: Model, place: tuple[int, int]) -> str:
    words = [f"layer {place[0]}"] if model.num_layers > 1 else []
    words += [model.structure.directions[place[1]]] if model.num_directions > 1 else []
    return " ".join(words)


# rows, times, units ------------------------------------------------------------------------------


def _of_output(model: Model, observation: Observation) -> Iterator[str]:
    [outcome] = observation.simulator.run([model])
    output = observation.output
    if outcome is None or output is None or outcome.output.shape != output.shape:
        return
    ratios = distance(outcome.output, output) / observation.allowed["output"]
    ratios = torch.where(observation.usable("output"), ratios, 0.0)
    if float(ratios.max()) <= 1:
        yield from _of_finals(model, observation)
        return
    good, bad = _apart(ratios.amax(-1).amax(0))
    if good:
        yield f"{listed('row', good)}, not {listed('row', bad)}"
    parts = opened_parts(model, [observation])
    for d, half in enumerate(ratios.chunk(model.num_directions, -1)):
        name, place = model.structure.directions[d], (model.num_layers - 1, d)
        if float(half.max()) <= 1:
            yield f"the {name} half of the output"
            continue
        steps = with_cells(parts[place]) if place in parts else None
        side = f"{name}: " if model.num_directions > 1 else ""
        texts = (*_of_times(half, model.parts[-1][d].backward, steps), *_of_units(half, steps))
        yield from (side + text for text in texts)


def _apart(ratios: Tensor) -> tuple[list[int], list[int]]:
    """The places that agree and those that do not, of (place); none where that may be chance, as of
    differences that rounding nearly allows."""
    bad = ratios > 1
    if not 0 < int(bad.sum()) < len(bad) or float(ratios[bad].min()) < CLEAR:
        return [], []
    return (~bad).nonzero().flatten().tolist(), bad.nonzero().flatten().tolist()


def _of_finals(model: Model, observation: Observation) -> Iterator[str]:
    """Which final states agree, beside an output that does."""
    good: list[str] = []
    bad: list[str] = []
    for name, beyond in observation.beyond(model):
        if beyond is not None and name.endswith("_n"):
            (bad if bool(beyond.any()) else good).append(name)
    if bad:
        yield f"the output{''.join(f' and {name}' for name in good)}, not {' and '.join(bad)}"


def _of_times(ratios: Tensor, backward: bool, steps: OpenedPart | None) -> Iterator[str]:
    """Of (time, batch, unit): up to which step every row agrees, and which single steps do not
    follow from the step before."""
    by_time = ratios.amax(-1).amax(-1)
    in_order = turned(by_time, backward)
    last, times = len(by_time) - 1, running_order(range(len(by_time)), backward)
    again = [] if steps is None else [times[k] for k in _wrong_steps(steps)]
    few = 0 < len(again) <= len(by_time) // 3
    wrong = (in_order > 1).nonzero().flatten().tolist()
    if not wrong or float(in_order[wrong[0]]) < CLEAR:
        return
    first = times[wrong[0]]
    if wrong != list(range(wrong[0], last + 1)):
        good, bad = _apart(by_time)
        if good:
            yield f"{listed('time', good)} in every row, not {listed('time', bad)}"
    elif wrong[0]:
        before = range(first + 1, last + 1) if backward else range(first)
        text = f"{listed('time', list(before))} in every row; wrong from {first}"
        if few and len(again) > 1 and first in again:
            later = [t for t in again if t != first]
            yield f"{text}, again from {_numbers(later)}{_every(again)}"
        elif few and again == [first]:
            yield f"{text} on, where one step is wrong; all later ones follow from the step before"
        else:
            yield f"{text} on"
    elif few:
        remaining = [t for t in range(len(by_time)) if t not in again]
        where = f"at {listed('time', remaining)}, not at {listed('time', sorted(again))}"
        yield f"single steps, each from your own state before it, {where}{_every(sorted(again))}"


def _every(times: Sequence[int]) -> str:
    gaps = {abs(after - before) for before, after in pairwise(times)}
    return (
        f" (every {gaps.pop()} steps)"
        if len(times) > 2 and len(gaps) == 1 and 1 not in gaps
        else ""
    )


def _wrong_steps(part: OpenedPart) -> list[int]:
    """The steps, in the order of computing, at which some row does not follow."""
    [call] = part.ratios(part.part)
    wrong = torch.stack([(ratio > 1).any(-1).any(-1) for ratio in call]).any(0)
    return wrong.nonzero().flatten().tolist()


def _of_units(ratios: Tensor, steps: OpenedPart | None) -> Iterator[str]:
    """Which units agree, of the whole output or of single steps: after one step a wrong unit is
    read by all others."""
    by_unit, text = ratios.amax(0).amax(0), ""
    if bool((by_unit > 1).all()) and steps is not None:
        by_unit, text = steps.units(steps.part), " of single steps"
    good, bad = _apart(by_unit)
    if good:
        yield f"{listed('unit', good)}{text}, not {listed('unit', bad)}"


# limits ------------------------------------------------------------------------------------------


def _limits(model: Model, observation: Observation) -> Iterator[str]:
    """A largest magnitude that several numbers have, and the reference exceeds."""
    for name in model.structure.cell.states:
        largest, count = attained([observation], name)
        right = largest_state(model, [observation], name)
        if count >= 2 + (name == "h") and 0 < 1.01 * largest < right:
            yield (
                f"|{name}| never exceeds {largest:.6g}; that of {model.structure.kind} reaches "
                f"{right:.3g}"
            )


def attained(shown: Sequence[Observation], state: str) -> tuple[float, int]:
    """The largest magnitude of a state in what was observed, and how many numbers have it."""
    values: list[Tensor | None] = []
    for observation in shown:
        values += [observation.final.get(state), observation.quantities.get(state)]
        values += [observation.output] if state == "h" else []
    sizes = [value.flatten().nan_to_num(0.0).abs() for value in values if value is not None]
    if not sizes or not any(map(len, sizes)):
        return 0.0, 0
    together = torch.cat(sizes)
    return float(together.max()), int((together == together.max()).sum())


# what the data did not reach --------------------------------------------------------------------


def not_reached(model: Model, shown: Sequence[Observation]) -> tuple[str, ...]:
    """What the caller's own data leave open: large cell states, sequences of unequal length."""
    words = [
        f"what happens where |{state}| exceeds {largest:.3g}"
        for state in model.structure.cell.states
        if state != "h" and (largest := largest_state(model, shown, state)) < FAR
    ]
    if all(observation.inputs.lengths is None for observation in shown):
        words.append("sequences of unequal length")
    return tuple(words)


def largest_state(model: Model, shown: Sequence[Observation], state: str) -> float:
    """The largest magnitude that a state has in the reference."""
    largest = 0.0
    for observation in shown:
        [outcome] = Simulator(observation.inputs, (state,)).run([model])
        values = None if outcome is None else outcome.steps.get(state)
        if values is not None and values.numel():
            largest = max(largest, float(values.nan_to_num(0.0).abs().max()))
    return largest


def all_equal(model: Model, shown: Sequence[Observation], given: bool) -> list[str]:
    """Notes where every number of the weights, or of the caller's x, is the same: then no order of
    anything shows."""
    notes = []
    matrices = [m for row in model.parts for p in row for m in (p.stored.ih, p.stored.hh)]
    if all(map(_constant, matrices)) and any(m.numel() > 1 for m in matrices):
        values = sorted({float(m.flatten()[0]) for m in matrices})
        notes.append(
            f"these data can tell nothing: all weights of the reference are equal "
            f"({', '.join(f'{v:.3g}' for v in values)})"
        )
    if given and all(
        observation.inputs.x.numel() > 1 and _constant(observation.inputs.x)
        for observation in shown
    ):
        notes.append(
            f"these data can tell nothing of order: all values of x are equal "
            f"({float(shown[0].inputs.x.flatten()[0]):.3g})"
        )
    return notes


def _constant(value: Tensor) -> bool:
    return value.numel() > 0 and bool(torch.all(value == value.flatten()[0]))


# words -------------------------------------------------------------------------------------------


def enumerated(names: Sequence[str]) -> str:
    """As "i, f and o"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def first_few(texts: Sequence[str], most: int, more: str = "more", separator: str = ", ") -> str:
    """The first of some texts, and how many more there are."""
    behind = f" and {len(texts) - most} {more}" if len(texts) > most else ""
    return separator.join(texts[:most]) + behind


def listed(noun: str, numbers: Sequence[int]) -> str:
    """As "rows 0 and 2", "times 0 to 6"."""
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    return f"{noun}s {_numbers(numbers)}"


def _numbers(numbers: Sequence[int]) -> str:
    """As "0 to 3, 5 and 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words: list[str] = []
    for run in runs:
        words += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else list(map(str, run))
    return first_few(words, MOST) if len(words) > MOST else enumerated(words)
