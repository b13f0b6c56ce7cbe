"""Units that are zero at every step, as where a loop over units ends early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import changed_cell
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome, Part
from rnnscope._compare.model.observed import Observation
from rnnscope.cells.algebra import Apply
from rnnscope.cells.functions import FUNCTIONS

__all__ = ["of_missing_units"]


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

    token = ("units missing", *places)
    yield Finding(cause, words, model.adding("leave", Change(token, leave)))


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
