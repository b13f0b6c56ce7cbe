"""Single steps of many parts at once, from states that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.model.batched import (
    MOST_BYTES,
    Batch,
    Step,
    from_input,
    of_overwritten,
    of_units,
    started,
    widened,
)
from rnnscope._compare.model.model import Part, Token, with_fields
from rnnscope._compare.work import GATE, spend
from rnnscope.cells.algebra import Previous, Quantity

__all__ = ["KnownStates", "opened", "restricted"]


@dataclass(frozen=True)
class KnownStates:
    """What is known of one part: its input (time, batch, feature), and each state before every
    step, (time, batch, unit), in the order of computing; a state that is not known is absent from
    ``before`` and is run along from ``initial``. ``valid`` (time, batch) is False on padding.
    With ``units`` only these are computed, which a cell allows whose matrices meet nothing but x
    and h. ``operand`` is h before every step as W_hh meets it, where that is another; ``product``
    changes what comes of every product. ``overwritten`` is h after every step, of a part that works
    in place: each unit reads what those before it have written.
    """

    x: Tensor
    before: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    valid: Tensor | None = None
    units: Tensor | None = None
    operand: Tensor | None = None
    overwritten: Tensor | None = None
    product: Callable[[Tensor], Tensor] | None = None


def restricted(part: Part, units: Tensor) -> Part:
    """The part with the rows of some units only; itself where it has no others."""
    if part.only is units:
        return part
    stored, pending = part.stored, part.pending
    size = stored.hidden_size
    rows = torch.cat([k * size + units for k in range(len(part.cell.gates))])

    def of(name: str) -> Any:
        value = getattr(stored, name)
        return None if value is None else value[pending[name][rows] if name in pending else rows]

    fewer = with_fields(
        stored,
        **{name: of(name) for name in ("ih", "hh", "b_ih", "b_hh")},
        vectors={name: v[units] for name, v in stored.vectors.items()},
    )
    first = None if part.first_b_hh is None else part.first_b_hh[rows]
    return part.with_weights(fewer, first_b_hh=first, only=units)


def opened(
    parts: Sequence[Part], known: KnownStates, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Quantities of every single step, (part, time, batch, unit), for parts with their weights;
    every quantity unless ``names`` are told."""
    groups: dict[Token, list[int]] = {}
    for k, part in enumerate(parts):
        shape = part.stored.ih.shape
        present = tuple(t is None for t in (part.stored.b_ih, part.stored.b_hh, part.first_b_hh))
        key = (id(part.cell), shape, present, part.restarts, part.feeds, part.unapplied)
        groups.setdefault(key, []).append(k)
    first = parts[0].stored
    share = 1.0 if known.units is None else len(known.units) / first.hidden_size
    size = int(share * (first.ih.nbytes + first.hh.nbytes)) + known.x.nbytes * 8
    most = max(1, MOST_BYTES // max(1, size))
    wanted = tuple(dict.fromkeys(parts[0].cell.equations if names is None else names))
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    order: list[int] = []
    with torch.inference_mode():
        for places in groups.values():
            for start in range(0, len(places), most):
                chunk = places[start : start + most]
                order += chunk
                values = _opened([parts[k] for k in chunk], known, wanted)
                for name in wanted:
                    found[name].append(widened(values[name], len(chunk)))
        back = torch.tensor(order, dtype=torch.long, device="cpu").argsort()
        return {name: torch.cat(values)[back] for name, values in found.items()}


def _opened(parts: Sequence[Part], known: KnownStates, names: Sequence[str]) -> dict[str, Tensor]:
    part = parts[0]
    units = known.units
    batch = Batch(parts if units is None else [restricted(one, units) for one in parts])
    steps, rows = known.x.shape[:2]
    weights = part.stored
    share = 1.0 if units is None else len(units) / weights.hidden_size
    numbers = weights.ih.numel() + weights.hh.numel() + GATE * len(weights.ih)
    spend(len(parts) * steps * rows * share * numbers, calls=len(part.cell.equations))
    from_x = from_input(batch, known.x.unsqueeze(0))
    if known.product is not None:
        from_x = known.product(from_x)
    before = {name: value.unsqueeze(0) for name, value in known.before.items()}
    before |= {
        name: known.initial[name].expand(1, steps, *known.initial[name].shape)
        for name in part.restarts
    }
    hidden = [name for name in part.cell.states if name not in before]
    b_hh = [batch.b_hh] * steps
    if batch.first is not None and batch.b_hh is not None:
        begun = (started(known.valid, t, rows)[:, None] for t in range(steps))
        b_hh = [torch.where(starts, batch.first, batch.b_hh) for starts in begun]

    def stepped(
        x: Tensor, states: Mapping[str, Tensor], bias: Tensor | None, of: Callable[[Tensor], Tensor]
    ) -> Step:
        """A step, or all at once, with what ``of`` takes of the operand at all steps."""
        step = Step(batch, x, states, bias, units, hidden)
        if known.operand is not None:
            step.h, step.after = of(known.operand).unsqueeze(0), known.product
        if known.overwritten is not None:
            _overwrite(step, of(known.overwritten) - step.h, units)
        step.run()
        return step

    if not hidden and part.feeds == "h":
        bias = batch.b_hh
        if batch.first is not None:
            wide = (value.expand(len(value), rows, -1) for value in b_hh if value is not None)
            bias = torch.cat(list(wide), 1)
        flat = {name: value.flatten(1, 2) for name, value in before.items()}
        step = stepped(from_x.flatten(1, 2), flat, bias, lambda value: value.flatten(0, 1))
        values = {name: step.recorded(name, part.unapplied) for name in names}
        return {n: value.reshape(len(value), steps, rows, -1) for n, value in values.items()}
    run = {name: of_units(known.initial[name].unsqueeze(0), units) for name in hidden}
    recorded: dict[str, list[Tensor]] = {name: [] for name in names}
    fed: Tensor | None = None
    for t in range(steps):
        states = {name: value[:, t] for name, value in before.items()} | run
        if fed is not None:
            states["h"] = fed
        step = stepped(from_x[:, t], states, b_hh[t], lambda value, t=t: value[t])  # type: ignore[misc]
        for name in hidden:
            after = step.values[Quantity(name)]
            if known.valid is not None:
                after = torch.where(known.valid[t, :, None], after, run[name])
            run[name] = after
        if part.feeds != "h":
            fed = step.values[Quantity(part.feeds)][..., : states["h"].shape[-1]]
        for name in names:
            recorded[name].append(step.recorded(name, part.unapplied))
    return {
        name: torch.stack([widened(value, len(parts)) for value in values], 1)
        for name, values in recorded.items()
    }


def _overwrite(step: Step, more: Tensor, units: Tensor | None) -> None:
    """Lets each unit of a step read the h of those before it with ``more``, (1, n, unit)."""
    assert isinstance(step.batch.hh, Tensor), "a part that works in place shares no matrices"
    product = torch.matmul(step.h, step.batch.hh.mT)
    if step.b_hh is not None:
        product = product + step.b_hh
    overwritten = of_overwritten(more, step.batch.hh, units)
    step.products_of[Previous("h")] = product + overwritten
