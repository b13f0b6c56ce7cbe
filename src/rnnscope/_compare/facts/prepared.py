"""How x was prepared: what was read in place of x, described by the x that the numbers come from.

Each description is a function of the whole x that gives all that was solved, within its error; the
layer then reads that, and all data judge as of any other finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from rnnscope._compare.confirmed import by_own_rounding
from rnnscope._compare.facts.agreement import first_few, listed
from rnnscope._compare.facts.finding import Finding, entering
from rnnscope._compare.facts.numbers import ReadAs, fitted_affine, mean_within, shortest
from rnnscope._compare.facts.parameters import columns_left_out
from rnnscope._compare.facts.preparations import PREPARATIONS, shifted
from rnnscope._compare.facts.solved import SolvedX, solved_x
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import Observation, few_steps

__all__ = ["of_another_x", "of_prepared"]

Reads = Callable[[Tensor], Tensor | None]
"""A function of the whole x (time, batch, feature); None where it cannot be."""

WORK = 4e8
"""Products of least squares that are made once x is known to be what differs."""

ROWS, STEPS = (2, 16), (4, 64)
"""Rows and steps that are solved, at least and at most."""

FINE, NEARLY = 0.1, 0.9
"""Of how x varies so much may a number be off that is known; so many must be."""

ROUNDINGS = 8
"""Roundings that a number of x may be off by in any case."""

SEVERAL = 4
"""So many features, numbers or places are named one by one, or tried in place of one."""

MOVED = (1, -1, 2, -2)
"""Steps by which x may be read early, or late."""


@dataclass(frozen=True)
class Reading:
    """The x that was ``given``, whole, and what was solved of it."""

    given: Tensor
    solution: SolvedX
    unit: float

    @cached_property
    def x(self) -> Tensor:
        """Of the x that was given what was solved."""
        return self.part(self.given)

    def part(self, x: Tensor) -> Tensor:
        """Of another whole x the same steps and rows."""
        steps, rows = self.solution.x.shape[:2]
        return x[:steps, :rows]

    @cached_property
    def error(self) -> Tensor:
        """How far each number that was solved may be off, (time, batch, feature)."""
        size = self.solution.x.abs().clamp_min(1)
        return self.solution.error + ROUNDINGS * self.unit * size

    def near(self, x: Tensor) -> Tensor:
        """Where another x is what was solved, (time, batch, feature), and where none was."""
        return ((x - self.solution.x).abs() <= self.error) | ~self.solution.solved.unsqueeze(-1)

    @property
    def tells_all(self) -> bool:
        """Whether nearly every number that was solved is known much better than x varies: where
        functions saturate, any x gives the same."""
        known = self.error <= FINE * float(self.given.std())
        return bool(known[self.solution.valid].double().mean() >= NEARLY)

    def is_read_as(self, reads: Reads) -> bool:
        """Whether a function of x gives all that was solved."""
        x = reads(self.given)
        if x is None or x.shape != self.given.shape:
            return False
        return bool(self.near(self.part(x)).all())

    @cached_property
    def digits(self) -> float:
        """Decimal digits that a number which was measured may explain by itself."""
        return -math.log10(self.unit)


def reading_of(model: Model, observation: Observation) -> Reading | None:
    """What was read in some first steps and rows; None where that cannot be told."""
    inputs, structure = observation.inputs, model.structure
    most = int(WORK / (structure.hidden_size * structure.input_size**2))
    rows = max(ROWS[0], min(ROWS[1], inputs.batch, most // STEPS[0]))
    seen = few_steps(observation, max(STEPS[0], min(STEPS[1], most // rows)), rows)
    solution = solved_x(model, seen)
    return None if solution is None else Reading(inputs.x, solution, observation.unit)


def reads_as(
    model: Model, cause: str, title: str, repair: str, reads: Reads, measured: float = 0.0
) -> Finding:
    """The finding that x is read as a function of x, ``measured`` digits of which were."""

    def entered(inputs: Inputs) -> Inputs | None:
        x = reads(inputs.x)
        return None if x is None else replace(inputs, x=x)

    words = Words(title, f"{model.structure.kind} reads x as it is.", repair)
    return entering(model, Cause("prepared", cause, "x"), words, entered, measured)


def of_prepared(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """What was read in place of x, where each step tells the x that it read."""
    reading = reading_of(model, max(shown, key=lambda observation: observation.fullness))
    if reading is None or bool(reading.near(reading.x).all()):
        return
    for describe in (_of_preparations, _of_limits, _of_ends, _of_features, _of_some_steps):
        findings = list(describe(model, reading))
        yield from findings
        if findings:
            return


def _of_preparations(model: Model, reading: Reading) -> Iterator[Finding]:
    """A function of x without any number that is measured."""
    for name, reads, title, code in PREPARATIONS:
        if reading.is_read_as(reads):
            yield reads_as(model, name, title, f"x = x   # not {code}", reads)


# limits ------------------------------------------------------------------------------------------


def _of_limits(model: Model, reading: Reading) -> Iterator[Finding]:
    """X clipped, from above, from below, or both."""
    solution = reading.solution
    away = ~reading.near(reading.x)
    above, below = away & (reading.x > solution.x), away & (reading.x < solution.x)
    limits = [
        mean_within(solution.x[cut], reading.error[cut]) if bool(cut.any()) else None
        for cut in (below, above)
    ]
    short = tuple(None if limit is None else shortest(*limit) for limit in limits)
    exact = tuple(None if limit is None else limit[0] for limit in limits)
    for low, high in dict.fromkeys((short, exact)):
        reads = partial(torch.clamp, min=low, max=high)
        if (low is None or high is None or low < high) and reading.is_read_as(reads):
            where = " and ".join(f"{v:.6g}" for v in (low, high) if v is not None)
            if low is not None and high == -low:
                where = f"±{high:.6g}"
            repair = f"x = x   # not clipped at {where}"
            measured = reading.digits * sum(limit is not None for limit in limits)
            yield reads_as(model, "clipped", f"x is clipped at {where}", repair, reads, measured)


# other steps -------------------------------------------------------------------------------------


def _of_ends(model: Model, reading: Reading) -> Iterator[Finding]:
    """X some steps early or late, with numbers in place of what is not there that x has nowhere."""
    for shift in MOVED:
        count, solution = abs(shift), reading.solution
        if len(reading.given) <= count + 1:
            continue
        interior = reading.part(shifted(reading.given, shift, reading.given.new_tensor(torch.nan)))
        missing = interior.isnan()
        told = solution.solved.unsqueeze(-1) & ~missing
        if not bool(told.any()) or not bool((reading.near(interior) | missing).all()):
            continue
        if shift > 0 and len(solution.x) < len(reading.given):
            continue  # its end was not solved
        place = slice(-count, None) if shift > 0 else slice(0, count)
        if not bool(solution.solved[place].all()):
            continue
        when, step = "early" if shift > 0 else "late", f"x[t {'+' if shift > 0 else '-'} {count}]"
        title = (
            f"x is read {'one step' if count == 1 else f'{count} steps'} {when}: {step} at step t, "
        )
        for beyond, what in _beyond(solution.x[place], reading.error[place]):
            reads = partial(_with_ends, shift=shift, ends=beyond)
            if reading.is_read_as(reads):
                words = f"{title}{what} at the {'end' if shift > 0 else 'start'}"
                repair, measured = f"h = step(x[t], h)   # not {step}", beyond.numel()
                yield reads_as(model, when, words, repair, reads, measured * reading.digits)


def _beyond(of_rows: Tensor, error: Tensor) -> Iterator[tuple[Tensor, str]]:
    """What stands where x has nothing, (step, row, feature), in words: alike in rows, or not."""
    alike, near = _alike_in(of_rows, error), error.amin((0, 1))
    pairs = zip(alike.tolist(), near.tolist(), strict=True)
    short = alike.new_tensor([shortest(value, off) for value, off in pairs])
    if bool(((of_rows - short).abs() <= error).all()):
        yield short, f"{_listed_numbers(short)} in all rows"
    yield of_rows, "numbers that your x has nowhere"


def _alike_in(of_rows: Tensor, error: Tensor) -> Tensor:
    """The mean of each feature over all else, of numbers that are known to some error."""
    weight = error.flatten(0, -2) ** -2
    return (weight * of_rows.flatten(0, -2)).sum(0) / weight.sum(0)


def _with_ends(x: Tensor, shift: int, ends: Tensor) -> Tensor | None:
    if ends.dim() > 1 and ends.shape[1:] != x.shape[1:]:
        return None
    return shifted(x, shift, ends)


def _listed_numbers(values: Tensor) -> str:
    hot = values.nonzero().flatten().tolist()
    if len(hot) == 1 and float(values[hot[0]]) == 1 and len(values) > 1:
        return f"1 in feature {hot[0]}, else 0,"
    numbers = [f"{value:.4g}" for value in values[:SEVERAL].tolist()]
    return f"({', '.join(numbers)}{', ...' if len(values) > SEVERAL else ''})"


def _of_some_steps(model: Model, reading: Reading) -> Iterator[Finding]:
    """Some steps of x alone that are zero, or others."""
    away = ~reading.near(reading.x).all(-1)
    some = away.nonzero().tolist()
    if not some or 2 * len(some) > away.numel():
        return
    times = sorted({t for t, _ in some})
    rows = reading.given.shape[1]
    everywhere = len(some) == len(times) * away.shape[1] and away.shape[1] == rows
    digits = (len(times) if everywhere else len(some)) * math.log10(2 * away.numel())
    places = first_few([f"time {t} of row {b}" for t, b in some], SEVERAL)
    where = f"at {listed('time', times) if everywhere else places}"
    shape = reading.given.shape

    def replaced(x: Tensor, by: Tensor) -> Tensor | None:
        if not everywhere and x.shape != shape:
            return None
        places = torch.zeros(x.shape[:2], dtype=torch.bool, device="cpu")
        for t, b in some:
            places[t : t + 1, slice(None) if everywhere else b] = True
        return torch.where(places.unsqueeze(-1), by, x)

    repair = "x[t]   # at every step its own"
    zeros = partial(replaced, by=reading.given.new_zeros(()))
    if reading.is_read_as(zeros):
        yield reads_as(model, "zeroed", f"x is zero {where}", repair, zeros, digits)
        return
    alike = _alike_in(reading.solution.x[away], reading.error[away])
    same = partial(replaced, by=alike)
    if reading.is_read_as(same):
        title = f"x is {_listed_numbers(alike)} {where}"
        measured = digits + len(alike) * reading.digits
        yield reads_as(model, "replaced", title, repair, same, measured)


# features ----------------------------------------------------------------------------------------


def _of_features(model: Model, reading: Reading) -> Iterator[Finding]:
    """Every feature times a number plus one, the same for all or its own; of another feature."""
    features = reading.x.shape[-1]
    solved = reading.solution.solved
    alike = fitted_affine(reading.x[solved], reading.solution.x[solved], reading.error[solved], 0)
    for affine in dict.fromkeys(alike):
        what = affine.words("x")
        reads = _affine([replace(affine, source=j) for j in range(features)])
        repair = f"x = x   # as it is, not {what}"
        yield reads_as(model, "affine", f"x is read as {what}", repair, reads, 2 * reading.digits)
    if alike:
        return
    found: list[list[ReadAs]] = []
    for j in range(features):
        found.append(_of_feature(reading, j))
        if not found[-1]:
            return
    ways = max(map(len, found))
    short, *others = (tuple(way[min(k, len(way) - 1)] for way in found) for k in range(ways))
    changed = [j for j, column in enumerate(short) if column != ReadAs(j)]
    dead = all(short[j] == ReadAs(j, 0.0) for j in changed)
    if dead and model.num_layers == 1 and changed in columns_left_out(features):
        return  # which is told of W_ih's columns
    for columns in dict.fromkeys((short, *others)):
        title, cause, code = _in_words(columns)
        numbers = sum((c.factor not in (0, 1)) + (c.constant != 0) for c in columns)
        measured = numbers * reading.digits + len(changed) * math.log10(features + 1)
        repair = f"x = x   # not {code}" if code else "x = x   # each feature as it is"
        yield reads_as(model, cause, title, repair, _affine(columns), measured)


def _affine(columns: Sequence[ReadAs]) -> Reads:
    sources = [column.source for column in columns]

    def reads(x: Tensor) -> Tensor:
        factors = x.new_tensor([column.factor for column in columns])
        constants = x.new_tensor([column.constant for column in columns])
        return x[..., sources] * factors + constants

    return reads


def _of_feature(reading: Reading, j: int) -> list[ReadAs]:
    """What feature j is read as, in short numbers and as measured: rather itself, a number, another
    as it is, itself changed, another changed."""
    features, solved = reading.x.shape[-1], reading.solution.solved
    y, error = reading.solution.x[..., j][solved], reading.error[..., j][solved]
    x = reading.x[solved]
    same = ((x - y.unsqueeze(-1)).abs() <= error.unsqueeze(-1)).all(0)
    if bool(same[j]):
        return [ReadAs(j)]
    value, spread = mean_within(y, error)
    if bool(((y - value).abs() <= error).all()):
        return [ReadAs(j, 0.0, number) for number in (shortest(value, spread), value)]
    for k in range(features):
        if bool(same[k]):
            return [ReadAs(k)]
    for k in dict.fromkeys((j, *_alike(x, y).argsort(descending=True)[:SEVERAL].tolist())):
        fitted = fitted_affine(x[:, k], y, error, k)
        if fitted:
            return fitted
    return []


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """How far some numbers y (n) go up and down with each feature of x (n, feature), (feature)."""
    x, y = x - x.mean(0), y - y.mean()
    return (y @ x).abs() / x.square().sum(0).sqrt().clamp_min(torch.finfo(x.dtype).tiny)


def _in_words(columns: Sequence[ReadAs]) -> tuple[str, str, str]:
    """What is said of features that are read as others, the cause's name, and a line of code."""
    changed = [(j, c) for j, c in enumerate(columns) if c != ReadAs(j)]
    sources = [c.source for c in columns]
    if all((c.factor, c.constant) == (1, 0) for c in columns):
        if len(changed) == 2 and sorted(sources) == list(range(len(columns))):
            names = " and ".join(str(j) for j, _ in changed)
            return f"features {names} of x are exchanged", "permuted", ""
        return "the features of x are read in another order", "permuted", f"x[..., {sources}]"
    if all(c.factor == 0 == c.constant for _, c in changed):
        which = listed("feature", [j for j, _ in changed])
        return f"{which} of x {'is' if len(changed) == 1 else 'are'} zero", "zeroed", ""
    parts = [
        f"feature {j} as {c.words('x' if c.source == j else f'feature {c.source}')}"
        for j, c in changed
    ]
    return f"x is read with {first_few(parts, SEVERAL)}", "affine", ""


# nothing that is known ---------------------------------------------------------------------------


def of_another_x(model: Model, observation: Observation) -> str:
    """A sentence where all is right but x, and nothing tells what was done to it; else empty."""
    reading = reading_of(model, observation)
    if reading is None or not bool((reading.solution.solved | ~reading.solution.valid).all()):
        return ""
    if not reading.tells_all:
        return ""
    away, x = ~reading.near(reading.x), reading.solution.x
    if not bool(away.any()) or x.shape != reading.given.shape:
        return ""
    changed = reads_as(model, "", "", "", lambda _: x).model
    assert changed is not None, "what is read as another x is a model"
    if worst(changed, by_own_rounding(changed, [observation])) > 1:
        return ""  # in another direction, layer or state something else is wrong
    t, b, j = away.nonzero()[0].tolist()
    names = ("time", "row", "feature")
    axes = [sorted(set(away.nonzero()[:, axis].tolist())) for axis in range(3)]
    where = [
        listed(name, places)
        for name, places, size in zip(names, axes, away.shape, strict=True)
        if len(places) < size
    ]
    inside = f" in {', '.join(where)} alone" if where else ""
    return (
        f"All is right but x: {model.structure.kind} gives your numbers for an x that "
        f"differs{inside}; at time {t}, row {b}, feature {j} it is "
        f"{float(x[t, b, j]):.4g}, not {float(reading.x[t, b, j]):.4g}."
    )
