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

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.facts.parameters import columns_left_out
from rnnscope._compare.facts.preparations import PREPARATIONS
from rnnscope._compare.facts.solved import SolvedX, solved_x
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Inputs, Model
from rnnscope._compare.model.observed import Observation, few_steps

__all__ = ["of_another_x", "of_prepared"]

Reads = Callable[[Tensor], Tensor | None]

WORK = 4e8
"""Products of least squares that are made once x is known to be what differs."""

ROWS, STEPS = (2, 16), (4, 64)
"""Rows and steps that are solved, at least and at most."""

ROUNDINGS = 8
"""Roundings that a number of x may be off by in any case."""

SHIFTS = (1, -1, 2, -2)
"""Steps by which x may be read early, or late."""

SEVERAL = 4
"""So many features, steps or rows are named one by one."""


@dataclass(frozen=True)
class _Reading:
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


def of_prepared(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """What was read in place of x, where each step tells the x that it read."""
    fullest = max(shown, key=lambda observation: observation.fullness)
    reading = _reading(model, fullest)
    if reading is None or bool(reading.near(reading.x).all()):
        return
    for describe in (_of_preparations, _of_limits, _of_shifts, _of_features, _of_steps):
        findings = list(describe(model, reading))
        yield from findings
        if findings:
            return


def _reading(model: Model, fullest: Observation) -> _Reading | None:
    inputs, structure = fullest.inputs, model.structure
    most = int(WORK / (structure.hidden_size * structure.input_size**2))
    rows = max(ROWS[0], min(ROWS[1], inputs.batch, most // STEPS[0]))
    seen = few_steps(fullest, max(STEPS[0], min(STEPS[1], most // rows)), rows)
    solution = solved_x(model, seen)
    return None if solution is None else _Reading(inputs.x, solution, fullest.unit)


def _finding(
    model: Model, cause: str, title: str, repair: str, reads: Reads, measured: float = 0.0
) -> Finding:
    """The finding that x is read as a function of x, ``measured`` digits of which were."""
    words = Words(title, f"{model.structure.kind} reads x as it is.", repair)
    change = Change(("x read as", title), partial(_entered, reads=reads))
    changed = replace(model, enter=(change, *model.enter))
    # what reads other steps or rows shows in whole calls alone
    return Finding(
        Cause("prepared", cause, "x"), words, changed, mixes_rows=True, measured=measured
    )


def _entered(inputs: Inputs, reads: Reads) -> Inputs | None:
    x = reads(inputs.x)
    return None if x is None else replace(inputs, x=x)


def _of_preparations(model: Model, reading: _Reading) -> Iterator[Finding]:
    """A function of x without any number that is measured."""
    for name, reads, title, code in PREPARATIONS:
        if reading.is_read_as(reads):
            yield _finding(model, name, title, f"x = x   # not {code}", reads)


# limits ------------------------------------------------------------------------------------------


def _of_limits(model: Model, reading: _Reading) -> Iterator[Finding]:
    """X clipped, from above, from below, or both."""
    solution = reading.solution
    away = ~reading.near(reading.x)
    above, below = away & (reading.x > solution.x), away & (reading.x < solution.x)
    limits = [
        _mean(solution.x[cut], reading.error[cut]) if bool(cut.any()) else None
        for cut in (below, above)
    ]
    short = tuple(None if limit is None else _short(*limit) for limit in limits)
    exact = tuple(None if limit is None else limit[0] for limit in limits)
    for low, high in dict.fromkeys((short, exact)):
        reads = partial(torch.clamp, min=low, max=high)
        if (low is None or high is None or low < high) and reading.is_read_as(reads):
            where = " and ".join(f"{v:.6g}" for v in (low, high) if v is not None)
            if low is not None and high == -low:
                where = f"±{high:.6g}"
            repair = f"x = x   # not clipped at {where}"
            measured = reading.digits * sum(limit is not None for limit in limits)
            yield _finding(model, "clipped", f"x is clipped at {where}", repair, reads, measured)


def _mean(values: Tensor, error: Tensor) -> tuple[float, float]:
    """The mean of what is known to some error, and its own."""
    weight = error**-2
    total = float(weight.sum())
    return float((weight * values).sum()) / total, total**-0.5


def _short(value: float, error: float) -> float:
    """The number of fewest digits that is as near as the error, else the value."""
    if abs(value) <= error:
        return 0.0
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 8))
    return next((near for near in candidates if abs(near - value) <= error), value)


# other steps -------------------------------------------------------------------------------------


def _of_shifts(model: Model, reading: _Reading) -> Iterator[Finding]:
    """X some steps early or late, with something in place of what is not there."""
    for shift in SHIFTS:
        count = abs(shift)
        if len(reading.given) <= count + 1:
            continue
        interior = _shifted(reading.given, shift, torch.full_like(reading.given[:count], torch.nan))
        missing = reading.part(interior).isnan()
        told = reading.solution.solved.unsqueeze(-1) & ~missing
        if not bool(told.any()) or not bool((reading.near(reading.part(interior)) | missing).all()):
            continue
        when = "early" if shift > 0 else "late"
        title = f"x is read {'one step' if count == 1 else f'{count} steps'} {when}"
        place = "at the end" if shift > 0 else "at the start"
        step = f"x[t {'+' if shift > 0 else '-'} {count}]"
        for ends, what, measured in _ends(reading, shift):
            reads = partial(_with_ends, shift=shift, ends=ends)
            if reading.is_read_as(reads):
                words = f"{title}: {step} at step t, {what} {place}"
                repair = f"h = step(x[t], h)   # not {step}"
                yield _finding(model, when, words, repair, reads, measured * reading.digits)


def _shifted(x: Tensor, shift: int, ends: Tensor) -> Tensor:
    ends = ends.expand(abs(shift), *x.shape[1:])
    return torch.cat([x[shift:], ends]) if shift > 0 else torch.cat([ends, x[:shift]])


Ends = Callable[[Tensor], Tensor | None]


def _ends(reading: _Reading, shift: int) -> Iterator[tuple[Ends, str, int]]:
    """What may stand where x has nothing, in words, and how many numbers of it were measured."""
    count = abs(shift)
    beyond = slice(0, count) if shift > 0 else slice(-count, None)
    yield lambda x: torch.zeros_like(x[:count]), "zeros", 0
    yield lambda x: x[beyond], "what stands at the other end", 0
    yield lambda x: x[-1:] if shift > 0 else x[:1], "the nearest once more", 0
    solution = reading.solution
    if len(solution.x) < len(reading.given) and shift > 0:
        return
    here = slice(-count, None) if shift > 0 else slice(0, count)
    if not bool(solution.solved[here].all()):
        return
    of_rows, error = solution.x[here], reading.error[here]
    weight = error**-2
    alike = (weight * of_rows).sum((0, 1)) / weight.sum((0, 1))
    short = torch.tensor(
        [_short(v, e) for v, e in zip(alike.tolist(), error.amin((0, 1)).tolist(), strict=True)],
        dtype=alike.dtype,
        device="cpu",
    )
    if bool(((of_rows - short).abs() <= error).all()):
        yield lambda _: short, f"{_listed_numbers(short)} in all rows", len(short)

    def measured(x: Tensor) -> Tensor | None:
        return of_rows if x.shape[1:] == of_rows.shape[1:] else None

    yield measured, "numbers that your x has nowhere", of_rows.numel()


def _with_ends(x: Tensor, shift: int, ends: Ends) -> Tensor | None:
    if len(x) <= abs(shift):
        ends_of_few = ends(x)
        return (
            None if ends_of_few is None else ends_of_few.expand(abs(shift), *x.shape[1:])[: len(x)]
        )
    values = ends(x)
    return None if values is None else _shifted(x, shift, values)


def _listed_numbers(values: Tensor) -> str:
    hot = values.nonzero().flatten().tolist()
    if len(hot) == 1 and float(values[hot[0]]) == 1 and len(values) > 1:
        return f"1 in feature {hot[0]}, else 0,"
    numbers = [f"{value:.4g}" for value in values[:SEVERAL].tolist()]
    return f"({', '.join(numbers)}{', ...' if len(values) > SEVERAL else ''})"


# other features ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Affine:
    """What one feature is read as: ``factor`` × feature ``source`` + ``constant``."""

    source: int
    factor: float = 1.0
    constant: float = 0.0

    def words(self, name: str) -> str:
        """As in 1.8 x + 32, or (x - 0.13) / 0.31, whichever has fewer digits."""
        if self.factor == 0:
            return f"{self.constant:.6g}"
        scaled = name if self.factor == 1 else f"{self.factor:.6g} {name}"
        direct = f"{scaled}{_signed(self.constant)}"
        mean = f"{name}{_signed(self.constant / self.factor)}"
        inverse = f"({mean}) / {1 / self.factor:.6g}" if self.constant else direct
        return min((direct, inverse), key=_digits)

    def shortened(self, error: tuple[float, float]) -> _Affine:
        """With numbers of few digits, of the factor and the constant, or of what is subtracted and
        what divides; whichever are fewer."""
        if self.factor == 0:
            return replace(self, constant=_short(self.constant, error[1]))
        factor = _short(self.factor, error[0])
        direct = replace(self, factor=factor, constant=_short(self.constant, error[1]))
        size = abs(self.factor)
        divisor = _short(1 / self.factor, error[0] / size**2)
        if divisor == 0:
            return direct
        mean = _short(-self.constant / self.factor, error[1] / size)
        inverse = replace(self, factor=1 / divisor, constant=-mean / divisor)
        return min((direct, inverse), key=lambda affine: _digits(affine.words("")))


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _signed(value: float) -> str:
    return "" if value == 0 else f" {'+' if value > 0 else '-'} {abs(value):.6g}"


def _of_features(model: Model, reading: _Reading) -> Iterator[Finding]:
    """Every feature times a number plus one, the same for all or its own; of another feature."""
    features = reading.x.shape[-1]
    alike = _fitted(reading, slice(None), slice(None), 0)
    if alike is not None:
        for affine in dict.fromkeys(alike):
            what = affine.words("x")
            repair = f"x = x   # as it is, not {what}"
            reads = _affine([replace(affine, source=j) for j in range(features)])
            title = f"x is read as {what}"
            yield _finding(model, "affine", title, repair, reads, 2 * reading.digits)
        return
    found = []
    for j in range(features):
        pair = _of_feature(reading, j)
        if pair is None:
            return
        found.append(pair)
    short, exact = (tuple(pair[k] for pair in found) for k in (0, 1))
    changed = [j for j, column in enumerate(short) if column != _Affine(j)]
    dead = all(short[j] == _Affine(j, 0.0) for j in changed)
    if dead and model.num_layers == 1 and changed in columns_left_out(features):
        return  # which is told of W_ih's columns
    for columns in dict.fromkeys((short, exact)):
        title, cause, code = _in_words(columns)
        numbers = sum((c.factor not in (0, 1)) + (c.constant != 0) for c in columns)
        measured = numbers * reading.digits + len(changed) * math.log10(features + 1)
        repair = f"x = x   # not {code}" if code else "x = x   # each feature as it is"
        yield _finding(model, cause, title, repair, _affine(columns), measured)


def _affine(columns: Sequence[_Affine]) -> Reads:
    sources = [column.source for column in columns]

    def reads(x: Tensor) -> Tensor:
        factors = x.new_tensor([column.factor for column in columns])
        constants = x.new_tensor([column.constant for column in columns])
        return x[..., sources] * factors + constants

    return reads


def _of_feature(reading: _Reading, j: int) -> tuple[_Affine, _Affine] | None:
    """What feature j is read as, in short numbers and as measured: rather itself, a number, another
    as it is, itself changed, another changed."""
    features = reading.x.shape[-1]
    order = [j, *(k for k in range(features) if k != j)]
    near = (reading.x - reading.solution.x[..., j : j + 1]).abs() <= reading.error[..., j : j + 1]
    same = (near | ~reading.solution.solved.unsqueeze(-1)).flatten(0, 1).all(0)
    solved = reading.solution.solved
    value, spread = _mean(reading.solution.x[..., j][solved], reading.error[..., j][solved])
    constant = _Affine(j, 0.0, value)
    number = reading.near(torch.full_like(reading.x, value))[..., j].all()
    if bool(same[j]):
        return _Affine(j), _Affine(j)
    if bool(number):
        return constant.shortened((0.0, spread)), constant
    for k in order:
        if bool(same[k]):
            return _Affine(k), _Affine(k)
    alike = _alike(reading, j).argsort(descending=True)[:SEVERAL].tolist()
    for k in dict.fromkeys((j, *alike)):
        fitted = _fitted(reading, slice(k, k + 1), slice(j, j + 1), k)
        if fitted is not None:
            return fitted
    return None


def _alike(reading: _Reading, j: int) -> Tensor:
    """How far what is read as feature j goes up and down with each feature, (feature)."""
    solved = reading.solution.solved
    x, y = reading.x[solved], reading.solution.x[..., j][solved]
    x, y = x - x.mean(0), y - y.mean()
    return (y @ x).abs() / x.square().sum(0).sqrt().clamp_min(torch.finfo(x.dtype).tiny)


def _fitted(
    reading: _Reading, of: slice, into: slice, source: int
) -> tuple[_Affine, _Affine] | None:
    """The factor and the constant with which some features are others, in short numbers and as they
    are measured; None where none give all."""
    solved = reading.solution.solved
    x, y = reading.x[..., of][solved], reading.solution.x[..., into][solved]
    error = reading.error[..., into][solved]
    weight = error**-2
    weight = weight / weight.max()
    total = float(weight.sum())
    mean_x, mean_y = float((weight * x).sum()) / total, float((weight * y).sum()) / total
    square = float((weight * (x - mean_x) ** 2).sum())
    if not square > 1e-12 * total * max(1.0, mean_x**2):
        return None
    factor = float((weight * (x - mean_x) * (y - mean_y)).sum()) / square
    exact = _Affine(source, factor, mean_y - factor * mean_x)
    if not bool(((x * factor + exact.constant - y).abs() <= error).all()):
        return None
    least = float(error.min())
    of_factor = least / square**0.5
    of_constant = math.hypot(least / total**0.5, mean_x * of_factor)
    return exact.shortened((of_factor, of_constant)), exact


def _in_words(columns: Sequence[_Affine]) -> tuple[str, str, str]:
    """What is said of features that are read as others, the cause's name, and a line of code."""
    changed = [(j, c) for j, c in enumerate(columns) if c != _Affine(j)]
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
        for j, c in changed[:SEVERAL]
    ]
    more = f" and {len(changed) - SEVERAL} more" if len(changed) > SEVERAL else ""
    return f"x is read with {', '.join(parts)}{more}", "affine", ""


# some steps --------------------------------------------------------------------------------------


def _of_steps(model: Model, reading: _Reading) -> Iterator[Finding]:
    """Some steps of x alone that are zero, or others."""
    away = ~reading.near(reading.x).all(-1)
    some = away.nonzero().tolist()
    if not some or 2 * len(some) > away.numel():
        return
    times = sorted({t for t, _ in some})
    rows = reading.given.shape[1]
    everywhere = len(some) == len(times) * away.shape[1] and away.shape[1] == rows
    digits = (len(times) if everywhere else len(some)) * math.log10(2 * away.numel())
    where = _where(some, everywhere, times)
    shape = reading.given.shape

    def replaced(x: Tensor, by: Callable[[Tensor], Tensor]) -> Tensor | None:
        if not everywhere and x.shape != shape:
            return None
        y, inside = x.clone(), [(t, b) for t, b in some if t < len(x)]
        if everywhere:
            inside_times = [t for t in times if t < len(x)]
            y[inside_times] = by(x)
            return y
        for t, b in inside:
            y[t, b] = by(x)
        return y

    repair = "x[t]   # at every step its own"
    zeros = partial(replaced, by=lambda x: x.new_zeros(x.shape[-1]))
    if reading.is_read_as(zeros):
        yield _finding(model, "zeroed", f"x is zero {where}", repair, zeros, digits)
        return
    value = reading.solution.x[away]
    weight = reading.error[away] ** -2
    alike = (weight * value).sum(0) / weight.sum(0)
    same = partial(replaced, by=lambda _: alike)
    if reading.is_read_as(same):
        title = f"x is {_listed_numbers(alike)} {where}"
        measured = digits + len(alike) * reading.digits
        yield _finding(model, "replaced", title, repair, same, measured)


def _where(some: Sequence[Sequence[int]], everywhere: bool, times: Sequence[int]) -> str:
    if everywhere:
        return f"at {listed('time', times)}"
    places = [f"time {t} of row {b}" for t, b in some[:SEVERAL]]
    more = f" and {len(some) - SEVERAL} more" if len(some) > SEVERAL else ""
    return f"at {', '.join(places)}{more}"


# nothing that is known ---------------------------------------------------------------------------


def of_another_x(model: Model, observation: Observation) -> str:
    """A sentence where all is right but x, and nothing tells what was done to it; else empty."""
    reading = _reading(model, observation)
    if reading is None or not bool((reading.solution.solved | ~reading.solution.valid).all()):
        return ""
    away = ~reading.near(reading.x)
    if not bool(away.any()):
        return ""
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
        f"{float(reading.solution.x[t, b, j]):.4g}, not {float(reading.x[t, b, j]):.4g}."
    )
