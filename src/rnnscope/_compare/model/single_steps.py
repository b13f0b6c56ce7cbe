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
from rnnscope.cells.algebra import Previous

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
    b_hh: list[Tensor | None] = [batch.b_hh] * steps
    if batch.first is not None and batch.b_hh is not None:
        b_hh = [
            torch.where(started(known.valid, t, rows)[:, None], batch.first, batch.b_hh)
            for t in range(steps)
        ]
    hidden = [name for name in part.cell.states if name not in before]
    width = len(parts)
    if not hidden and part.feeds == "h":
        flat_bias = batch.b_hh
        if batch.first is not None:
            flat_bias = torch.cat([_rows(value, rows) for value in b_hh if value is not None], 1)
        flat = {name: value.flatten(1, 2) for name, value in before.items()}
        step = Step(batch, from_x.flatten(1, 2), flat, flat_bias, units)
        if known.operand is not None:
            step.h, step.after = known.operand.unsqueeze(0).flatten(1, 2), known.product
        if known.overwritten is not None:
            _overwrite(step, known.overwritten.flatten(0, 1) - step.h, units)
        step.run()
        values = {name: step.recorded(name, part.unapplied) for name in names}
        return {
            name: value.reshape(value.shape[0], steps, rows, -1) for name, value in values.items()
        }
    run: dict[str, Tensor] = {
        name: of_units(known.initial[name].unsqueeze(0), units) for name in hidden
    }
    kept: dict[str, list[Tensor]] = {}
    fed: Tensor | None = None
    for t in range(steps):
        states = {name: value[:, t] for name, value in before.items()} | run
        if fed is not None:
            states["h"] = fed
        step = Step(batch, from_x[:, t], states, b_hh[t], units, hidden)
        if known.operand is not None:
            step.h, step.after = known.operand[t].unsqueeze(0), known.product
        if known.overwritten is not None:
            _overwrite(step, known.overwritten[t] - step.h, units)
        values = step.run()
        for name in hidden:
            after = values[name]
            if known.valid is not None:
                after = torch.where(known.valid[t, :, None], after, run[name])
            run[name] = after
        if part.feeds != "h":
            fed = values[part.feeds][..., : states["h"].shape[-1]]
        for name in names:
            kept.setdefault(name, []).append(step.recorded(name, part.unapplied))
    return {
        name: torch.stack([widened(value, width) for value in values], 1)
        for name, values in kept.items()
    }


def _overwrite(step: Step, more: Tensor, units: Tensor | None) -> None:
    """Lets each unit of a step read the h of those before it with ``more``, (1, n, unit)."""
    assert isinstance(step.batch.hh, Tensor), "a part that works in place shares no matrices"
    product = torch.matmul(step.h, step.batch.hh.mT)
    if step.b_hh is not None:
        product = product + step.b_hh
    overwritten = of_overwritten(more, step.batch.hh, units)
    step.products_of[Previous("h")] = product + overwritten


def _rows(bias: Tensor, rows: int) -> Tensor:
    return bias.expand(bias.shape[0], rows, bias.shape[-1])
