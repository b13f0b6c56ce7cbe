"""What was done to x and to the initial states before they were read: another place, a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated, first_few
from rnnscope._compare.facts.finding import Finding, entering, first_steps
from rnnscope._compare.facts.numbers import (
    DIGITS,
    KEPT,
    Family,
    fitted_numbers,
    measured_numbers,
    why,
)
from rnnscope._compare.facts.preparations import FEATURES, ORDERS, READ, SHIFTS, shifted
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Inputs, Model
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.search.trials import NEAR

__all__ = ["of_dropout_on_x", "of_entering", "read_as"]

ROUNDS = 16
"""Steps of Gauss and Newton, after which a number that is far from 1 is found too."""

STEPS, ROWS = 2, 4
"""First steps, where later ones do not reach back, and rows that a number is fitted to."""

MOST, FEW = 16, 6
"""Rows of which each may start from the initial states of another, and of these so many that are
named."""


def of_entering(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """X in another order, of another row or step; initial states of another row; both times a
    number or plus one."""
    for name in READ:
        if name in ORDERS and model.structure.input_size < FEATURES:
            continue  # the columns of W_ih may be, for all that is known
        yield read_as(model, name)
    for shift, ends, what in SHIFTS:
        yield _shifted(model, shift, ends, what)
    yield from _of_initial_rows(model, shown)
    yield from _of_numbers(model, shown)


def read_as(model: Model, name: str) -> Finding:
    """The finding that x is read as one of ``READ``."""
    function, title, sentence, repair = READ[name]
    batch_first = model.structure.batch_first
    repair = repair.format(time=int(batch_first), batch=int(not batch_first))
    words = Words(title, f"{sentence}.", repair)
    return entering(model, Cause("read", name, "x"), words, partial(_with_x, of=function))


def _with_x(inputs: Inputs, of: Callable[[Tensor], Tensor]) -> Inputs:
    return replace(inputs, x=of(inputs.x))


def _shifted(model: Model, shift: int, ends: str, what: str) -> Finding:
    count, when = abs(shift), "early" if shift > 0 else "late"
    index = f"t {'+' if shift > 0 else '-'} {count}"
    nearest = f"min({index}, T - 1)" if shift > 0 else f"max({index}, 0)"
    place = {"zeros": index, "around": f"({index}) % T", "held": nearest}[ends]
    words = Words(
        f"x is read {'one step' if count == 1 else f'{count} steps'} {when}: x[{index}] at step t, "
        f"{what}",
        "h_t is made from x_t.",
        f"h = step(x[t], h)   # not x[{place}]",
    )
    cause = Cause("read", when if ends == "zeros" else f"{when}_{ends}", "x")
    reads = partial(shifted, shift=shift, ends=ends)
    return entering(model, cause, words, partial(_with_x, of=reads))


# initial states of other rows --------------------------------------------------------------------


def _of_initial_rows(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """One row's initial states for all, or those of one state; or those of other rows."""
    states = tuple(model.structure.cell.states)
    given = [observation for observation in shown if observation.inputs.given]
    calls = [observation.inputs for observation in given]
    all_or_each = dict.fromkeys((states, *((state,) for state in states)))
    for several in all_or_each if calls else ():
        names = " and ".join(f"{state}_0" for state in several)
        words = Words(
            f"every row starts from the {names} of row 0",
            "each row has its own initial state.",
            "h = h_0[layer, row]   # with the stride of a row"
            if several == states
            else f"{several[0]} = {several[0]}_0[layer]   # of all rows",
        )
        yield _initial(model, "first_row", several, words, _first_row)
    if any(inputs.lengths is not None for inputs in calls):
        for choice, sentence, rows_of in (
            ("by_length", "they are sorted by length, and x is not.", _by_length),
            ("not_sorted", "x is sorted by length, and they are not.", _not_sorted),
        ):
            words = Words(
                "rows start from the initial states of other rows",
                sentence,
                "x, h_0, lengths = x[order], h_0[:, order], lengths[order]",
            )
            yield _initial(model, choice, states, words, rows_of)
    for several in all_or_each if calls else ():
        yield from _of_other_rows(model, given, several)


def _of_other_rows(
    model: Model, shown: Sequence[Observation], states: Sequence[str]
) -> Iterator[Finding]:
    """Each row from those initial states of the row that explains its first steps, the same in all
    batches of one size."""
    sources: dict[int, list[int]] = {}
    for observation in shown:
        batch = observation.inputs.batch
        rows = _rows_that_explain(model, observation, states) if batch <= MOST else None
        if rows is None or sources.setdefault(batch, rows) != rows:
            return
    others = {n: [k for k in range(n) if rows[k] != k] for n, rows in sources.items()}
    if not any(others.values()):
        return
    names = [f"{state}_0" for state in states]
    own = [f"{name}[:, k]" for name in names]
    largest = max(n for n, rows in others.items() if rows)
    that = "those" if len(names) > 1 else "that"
    pairs = [f"row {k} from {that} of row {sources[largest][k]}" for k in others[largest]]
    words = Words(
        f"rows start from the {enumerated(names)} of other rows",
        f"{first_few(pairs, FEW)}; row k starts from {enumerated(own)}.",
        f"{states[0]} = {names[0]}[layer, row]   # of the same row as x",
    )

    def entered(inputs: Inputs) -> Inputs | None:
        rows = sources.get(inputs.batch)
        if rows is None:
            return None
        moved = {name: inputs.initial[name][:, :, rows] for name in states}
        return replace(inputs, initial={**inputs.initial, **moved})

    measured = sum(n * math.log10(n) for n in sources)
    yield entering(model, Cause("read", "other_rows", ", ".join(names)), words, entered, measured)


def _rows_that_explain(
    model: Model, observation: Observation, states: Sequence[str]
) -> list[int] | None:
    """For each row the one whose initial states give its output in the first steps, its own where
    they do; None where there is a row for which none does."""
    first = first_steps(model, observation, STEPS, observation.inputs.batch)
    batch, output = first.inputs.batch, first.output
    shifts = [_initial_shifted(model, shift, states) for shift in range(batch)]
    ratios: list[Tensor] = []
    for outcome in first.simulator.run(shifts):
        if output is None or outcome is None or outcome.output.shape != output.shape:
            return None
        away = distance(outcome.output, output) / first.allowed["output"]
        ratios.append(torch.where(first.usable("output"), away, 0.0).amax((0, 2)))
    least, nearest = torch.stack(ratios).min(0)
    if bool((least > NEAR).any()):
        return None
    nearest = torch.where(ratios[0] <= 1, 0, nearest)
    return ((torch.arange(batch, device="cpu") + nearest) % batch).tolist()


def _initial_shifted(model: Model, shift: int, states: Sequence[str]) -> Model:
    """With the initial states of row k + ``shift`` in row k."""

    def entered(inputs: Inputs) -> Inputs:
        shifted = {name: inputs.initial[name].roll(-shift, 2) for name in states}
        return replace(inputs, initial={**inputs.initial, **shifted})

    token = ("rows", shift, *states)
    return replace(model, enter=(Change(token, entered), *model.enter))


def _initial(
    model: Model,
    choice: str,
    states: Sequence[str],
    words: Words,
    rows_of: Callable[[Tensor, Tensor | None], Tensor],
) -> Finding:
    """With the rows of some initial states, (layer, direction, batch, unit), as a function takes
    them, which is given the lengths too."""

    def entered(inputs: Inputs) -> Inputs:
        changed = {name: rows_of(inputs.initial[name], inputs.lengths) for name in states}
        return replace(inputs, initial={**inputs.initial, **changed})

    cause = Cause("read", choice, ", ".join(f"{state}_0" for state in states))
    return entering(model, cause, words, entered)


def _first_row(value: Tensor, lengths: Tensor | None) -> Tensor:
    return value[:, :, :1].expand_as(value)


def _by_length(value: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return value
    return value[:, :, lengths.argsort(descending=True, stable=True)]


def _not_sorted(value: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return value
    return value[:, :, lengths.argsort(descending=True, stable=True).argsort()]


# numbers -----------------------------------------------------------------------------------------


def of_dropout_on_x(model: Model) -> Iterator[Finding]:
    """X times a number that dropout has."""
    for kept in KEPT:
        for factor in (kept, 1 / kept):
            yield _scaled(model, factor)


def _scaled(model: Model, factor: float) -> Finding:
    words = Words(
        f"x, or weight_ih_l0, is multiplied by {factor:.6g}{why(factor)}",
        f"{model.structure.kind} reads both as they are.",
        "x = x   # as it is, or scale it for both",
    )
    cause = Cause("scaled", f"{factor:.6g}", "x")
    return entering(model, cause, words, partial(_with_x, of=lambda x: factor * x))


def _moved(model: Model, constant: float) -> Finding:
    words = Words(
        f"{constant:.6g} is added to x",
        f"{model.structure.kind} reads x as it is.",
        "x = x   # as it is, or move it for both",
    )
    cause = Cause("moved", f"{constant:.6g}", "x")
    return entering(model, cause, words, partial(_with_x, of=lambda x: x + constant))


def _scaled_states(model: Model, factor: float) -> Finding:
    names = [f"{state}_0" for state in model.structure.cell.states]
    words = Words(
        f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} multiplied by {factor:.6g}",
        f"{model.structure.kind} starts from what it is given.",
        "h, c = initial" if len(names) > 1 else "h = initial",
    )

    def entered(inputs: Inputs) -> Inputs:
        return replace(inputs, initial={n: factor * v for n, v in inputs.initial.items()})

    return entering(model, Cause("scaled", f"{factor:.6g}", ", ".join(names)), words, entered)


def _of_numbers(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """With the number that fits best, where it is one."""
    fullest = max(shown, key=lambda observation: observation.fullness)
    short = first_steps(model, fullest, STEPS, ROWS)
    families: list[Family] = []
    if model.structure.input_size > 1:  # else it is the weights or the bias, for all that is known
        families += [Family(partial(_scaled, model), 1.0), Family(partial(_moved, model), 0.0)]
    if short.inputs.given:
        families.append(Family(partial(_scaled_states, model), 1.0))
    for family, fitted in fitted_numbers(model, families, [short], ROUNDS):
        if min(abs(fitted), abs(fitted - family.neutral)) > DIGITS:  # of 0, it is not read at all
            yield from map(family.finding, measured_numbers(fitted, family.neutral))
