"""The cell state of an LSTM where it is not given: c_t = atanh(h_t / o_t), from its own h.

The gates of a step need x and the h before it alone. So every single step can be judged by the
candidate's own states, without the reference's c being carried into what is somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rnnscope._compare.model.model import Part
from rnnscope._compare.model.observed import distance
from rnnscope._compare.model.single_steps import opened
from rnnscope._compare.model.steps import OpenedPart, Steps, scale, tolerances
from rnnscope._layers.sequences import shifted
from rnnscope.cells.algebra import Apply, Product, Quantity

__all__ = ["with_cells"]

STEP = 16
"""Roundings by which h may be off, from which its cell state is computed."""


@dataclass(frozen=True)
class _Recovered(OpenedPart):
    """A part whose hidden state was computed; ``beside`` is what rounding allows it, by call,
    (time, batch, unit), before every step."""

    beside: tuple[Tensor, ...] = ()

    @cached_property
    def tolerances(self) -> list[dict[str, Tensor]]:
        """What rounding allows each state, with that of the computed one handed on."""
        return [
            {name: value + uncertain for name, value in tolerances(self.part, steps).items()}
            for steps, uncertain in zip(self.steps, self.beside, strict=True)
        ]


def with_cells(part: OpenedPart) -> OpenedPart:
    """The same with the state that is not given computed from the one that is; itself where there
    is none, or it does not follow."""
    names = _gate_and_state(part.part)
    if names is None:
        return part
    gate, hidden = names
    if any(hidden in steps.known.before or "h" not in steps.after for steps in part.steps):
        return part
    pairs = [_with_cell(part.part, steps, gate, hidden) for steps in part.steps]
    return _Recovered(
        part.place,
        part.part,
        tuple(steps for steps, _ in pairs),
        part.direction,
        tuple(uncertain for _, uncertain in pairs),
    )


def _gate_and_state(part: Part) -> tuple[str, str] | None:
    """Of h = gate × tanh(state) the two names; None of any other cell."""
    match part.cell.equations["h"]:
        case Product(Quantity(gate), Apply("tanh", Quantity(state))) if state in part.cell.states:
            return gate, state
    return None


def _with_cell(part: Part, steps: Steps, gate: str, hidden: str) -> tuple[Steps, Tensor]:
    known = steps.known
    opening = opened([part], known, [gate])[gate][0]
    ratio = steps.after["h"] / opening
    inside = ratio.abs() < 1
    state = torch.atanh(torch.where(inside, ratio, 0.0))
    off = STEP * steps.unit * scale(part, known)
    slope = opening.abs() * (1 - ratio**2)
    uncertain = torch.where(inside & (slope > 0), off * (1 + state.abs()) / slope, torch.inf)
    start = known.initial[hidden]
    before = shifted(state, start, False)
    doubt = shifted(uncertain, torch.zeros_like(uncertain[0]), False)
    if known.valid is not None:
        fresh = known.valid.clone()
        fresh[1:] &= ~known.valid[:-1]
        before = torch.where(fresh.unsqueeze(-1), start, before)
        doubt = torch.where(fresh.unsqueeze(-1), 0.0, doubt)
    completed = replace(steps, known=replace(known, before={**known.before, hidden: before}))
    # what is handed on passes the gate, and at most itself
    handed = torch.where(torch.isinf(doubt), torch.inf, opening.abs() * doubt)
    return completed, _after_right_steps(part, completed, handed)


def _after_right_steps(part: Part, steps: Steps, uncertain: Tensor) -> Tensor:
    """The same, with nothing known of a unit at the step after one that is wrong: its gates may
    not have been those with which its state was computed."""
    right = opened([part], steps.known, ["h"])["h"][0]
    within = tolerances(part, steps)["h"] + uncertain
    wrong = distance(right, steps.after["h"]) > within
    uncertain = uncertain.clone()
    for t in range(1, len(wrong)):
        after_wrong = wrong[t - 1]
        uncertain[t] = torch.where(after_wrong, torch.inf, uncertain[t])
        wrong[t] &= ~after_wrong
    return uncertain
