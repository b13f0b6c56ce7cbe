"""A state that is cut off at a largest value, or of which some units are zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import attained, largest_state, listed
from rnnscope._compare.facts.finding import Finding, leaving
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import changed_cell
from rnnscope._compare.model.model import Inputs, Model, Outcome, Part
from rnnscope._compare.model.observed import Observation
from rnnscope.cells.algebra import Apply, Expr, Quantity
from rnnscope.cells.functions import FUNCTIONS

__all__ = ["of_clipping", "of_missing_units"]

LIMITS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 16.0, 20.0, 30.0, 32.0, 50.0, 64.0, 100.0)
"""Limits that are tried of a cell state that is not given."""

OFTEN = 2
"""Numbers that must all be the largest one before it is taken for a limit."""


def of_clipping(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Each state cut off, before it is used or where it is carried; and the output alone."""
    for state in model.structure.cell.states:
        reached = largest_state(model, shown, state)
        largest, count = attained(shown, state)
        limits = [largest] if count >= OFTEN else []
        if state != "h":
            limits = [*limits, *(k for k in LIMITS if k not in limits)]
        for limit in (k for k in limits if 0 < k < reached):
            cause = Cause("clipped", f"{limit:.6g}", state)
            words = Words(
                f"{state} is clipped at ±{limit:.6g}",
                f"|{state}| never exceeds {limit:.6g}; {model.structure.kind} does not limit it.",
                f"do not clip {state} (cell_clip, cell_clip_threshold, clamp)",
            )
            yield Finding(cause, words, _of_cells(model, state, limit, carried=False))
            if state == "h":
                yield leaving(model, cause, words, partial(_on_output, limit=limit))
            else:
                yield Finding(cause, words, _of_cells(model, state, limit, carried=True))


def _of_cells(model: Model, state: str, limit: float, carried: bool) -> Model:
    """With the state cut before it is used, or where it is ``carried`` alone."""

    def change(part: Part) -> Part:
        whole = part.cell.equations[state]
        changes: dict[str, Expr] = {state: Apply(f"clip({limit!r})", whole)}
        if carried:
            changes |= {
                name: equation.map(lambda expr: whole if expr == Quantity(state) else None)
                for name, equation in part.cell.equations.items()
                if name != state
            }
        cell = changed_cell(part.cell, tuple(changes.items()))
        return part.marked("clipped", state, limit, carried, cell=cell)

    return model.with_each_part(change)


def _on_output(outcome: Outcome, _: Inputs, limit: float) -> Outcome:
    return replace(outcome, output=outcome.output.clamp(-limit, limit))


# units that are zero -----------------------------------------------------------------------------


def of_missing_units(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Units of the output that are zero in all that was observed: in every layer, where h is
    carried on too; or in what is returned alone."""
    width = model.structure.output_size * model.num_directions
    outputs = [observation.output for observation in shown if observation.output is not None]
    if not outputs or any(output.shape[-1] != width for output in outputs):
        return
    if getattr(model.structure.cell.equations["h"], "name", "") == "relu":
        return  # a unit may be zero by itself
    present = torch.stack([(output != 0).flatten(0, 1).any(0) for output in outputs]).any(0)
    halves = present.chunk(model.num_directions)
    if bool(present.all()) or not all(bool(half.any()) for half in halves):
        return
    missing = (~halves[0]).nonzero().flatten().tolist()
    same = all(bool((half == halves[0]).all()) for half in halves)
    places = missing if same else (~present).nonzero().flatten().tolist()
    words = Words(
        f"{listed('unit', places)} {'is' if len(places) == 1 else 'are'} zero at every step",
        "all others are right: a loop over units ends early, or there is no room for more.",
        "for unit in range(hidden_size):   # all of them, in blocks or not",
    )
    cause = Cause("units_missing", listed("unit", places))
    if same and not model.structure.cell.projected:
        yield Finding(cause, words, model.with_each_part(lambda part: _carried(part, halves[0])))

    def leave(outcome: Outcome, _: Inputs) -> Outcome:
        return replace(outcome, output=outcome.output * present)

    yield leaving(model, cause, words, leave)


def _carried(part: Part, present: Tensor) -> Part:
    """A part in which these units alone are computed."""

    def masked(value: Tensor) -> Tensor:
        return value * present

    function = replace(
        FUNCTIONS["linear"], forward=masked, forward_=lambda value: value.copy_(masked(value))
    )
    equation = Apply("linear", part.cell.equations["h"], function)
    cell = changed_cell(part.cell, (("h", equation),))
    return part.marked("units", *present.tolist(), cell=cell)
