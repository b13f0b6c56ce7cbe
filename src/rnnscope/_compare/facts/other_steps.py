"""X of other steps than its own: some steps early or late, or some steps alone that are others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.affine import shortest
from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.facts.reading import Reading, reads_as
from rnnscope._compare.model.model import Model

__all__ = ["of_shifts", "of_some_steps"]

SHIFTS = (1, -1, 2, -2)
"""Steps by which x may be read early, or late."""

SEVERAL = 4
"""So many numbers or places are named one by one."""

Ends = Callable[[Tensor], Tensor | None]
"""What stands where x has nothing, (steps, batch, feature) or what is alike in all."""


def of_shifts(model: Model, reading: Reading) -> Iterator[Finding]:
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
                yield reads_as(model, when, words, repair, reads, measured * reading.digits)


def _shifted(x: Tensor, shift: int, ends: Tensor) -> Tensor:
    ends = ends.expand(abs(shift), *x.shape[1:])
    moved = [x[shift:], ends] if shift > 0 else [ends, x[:shift]]
    return torch.cat(moved)[: len(x)]


def _ends(reading: Reading, shift: int) -> Iterator[tuple[Ends, str, int]]:
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
        [shortest(v, e) for v, e in zip(alike.tolist(), error.amin((0, 1)).tolist(), strict=True)],
        dtype=alike.dtype,
        device="cpu",
    )
    if bool(((of_rows - short).abs() <= error).all()):
        yield lambda _: short, f"{_listed_numbers(short)} in all rows", len(short)

    def measured(x: Tensor) -> Tensor | None:
        return of_rows if x.shape[1:] == of_rows.shape[1:] else None

    yield measured, "numbers that your x has nowhere", of_rows.numel()


def _with_ends(x: Tensor, shift: int, ends: Ends) -> Tensor | None:
    values = ends(x)
    return None if values is None else _shifted(x, shift, values)


def _listed_numbers(values: Tensor) -> str:
    hot = values.nonzero().flatten().tolist()
    if len(hot) == 1 and float(values[hot[0]]) == 1 and len(values) > 1:
        return f"1 in feature {hot[0]}, else 0,"
    numbers = [f"{value:.4g}" for value in values[:SEVERAL].tolist()]
    return f"({', '.join(numbers)}{', ...' if len(values) > SEVERAL else ''})"


def of_some_steps(model: Model, reading: Reading) -> Iterator[Finding]:
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
    weight = reading.error[away] ** -2
    alike = (weight * reading.solution.x[away]).sum(0) / weight.sum(0)
    same = partial(replaced, by=alike)
    if reading.is_read_as(same):
        title = f"x is {_listed_numbers(alike)} {where}"
        measured = digits + len(alike) * reading.digits
        yield reads_as(model, "replaced", title, repair, same, measured)


def _where(some: Sequence[Sequence[int]], everywhere: bool, times: Sequence[int]) -> str:
    if everywhere:
        return f"at {listed('time', times)}"
    places = [f"time {t} of row {b}" for t, b in some[:SEVERAL]]
    more = f" and {len(some) - SEVERAL} more" if len(some) > SEVERAL else ""
    return f"at {', '.join(places)}{more}"
