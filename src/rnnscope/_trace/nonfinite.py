"""Where the first NaN or infinity of a call stands."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rnnscope._layers.call import Call
from rnnscope._record.record import Place, Record

__all__ = ["first_nonfinite"]


def first_nonfinite(record: Record, call: Call, parameters: Mapping[str, Tensor]) -> str | None:
    """What it is and where, in the order of computation: parameters, initial states, then layer
    after layer its input and its quantities; None where every number is finite."""
    for name, weight in parameters.items():
        if not torch.isfinite(weight).all():
            return f"{_kind_of(weight)} first in {name}"
    for name, value in call.initial.items():
        if not torch.isfinite(value).all():
            return f"{_kind_of(value)} first in {name}_0"
    for layer in range(record.sizes["layer"]):
        values = {"x": record.layer_input(layer).unsqueeze(0)}
        values |= {name: record[name, layer] for name in record}
        for name, value in values.items():
            bad = ~torch.isfinite(value)
            if bad.any():
                t, d, batch, unit = _first_by_time(bad)
                at = Place(layer, record.directions[d], batch, t, unit)
                return f"{_kind_of(value[d, batch, t, unit])} first in {name} at {at}"
    return None


def _first_by_time(bad: Tensor) -> tuple[int, int, int, int]:
    """The first True of (direction, batch, time, unit), by time: (time, direction, batch, unit)."""
    t, d, batch, unit = (int(k) for k in bad.movedim(2, 0).nonzero()[0])
    return t, d, batch, unit


def _kind_of(value: Tensor) -> str:
    return "NaN" if value.isnan().any() else "inf"
