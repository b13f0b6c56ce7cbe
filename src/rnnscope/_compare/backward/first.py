"""Where gradients differ first, in the order in which a backward pass computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.backward.evidence import Evidence
from rnnscope._compare.backward.forward import PartForward
from rnnscope._compare.backward.verdict import GradientDifference
from rnnscope._compare.backward.whole import QUANTITY
from rnnscope._compare.model.model import PartIndex
from rnnscope._layers.sequences import running_order
from rnnscope.cells import quantity_names

__all__ = ["first_difference"]


def first_difference(evidence: Evidence) -> GradientDifference | None:
    """The first number beyond rounding: from the last layer down, in each the quantities from the
    step that ran last to the first, then the parameters, then the initial states; x at the end."""
    ratios = evidence.ratios(evidence.exact)
    for layer in reversed(range(evidence.forward.layers)):
        for d in range(evidence.forward.directions):
            for difference in _in_part(evidence, ratios, (layer, d)):
                return difference
    return _in_x(evidence, ratios["x"]) if "x" in ratios else None


def _in_part(
    evidence: Evidence, ratios: Mapping[str, Tensor], place: PartIndex
) -> Iterator[GradientDifference]:
    part, (layer, d) = evidence.forward.parts[place], place
    direction = evidence.forward.structure.directions[d]

    def difference(name: str, at: tuple[int, ...], **where: Any) -> GradientDifference:
        shown = name.removeprefix(QUANTITY)
        return GradientDifference(shown, layer, direction, *_both(evidence, name, at), **where)

    keys = {name: key for name, key, *_ in evidence.in_part(place)}
    order = [f"{QUANTITY}{name}" for name in reversed(quantity_names(part.cell))]
    for time in running_order(range(evidence.inputs.steps), not part.backward):
        for name in (n for n in order if n in keys):
            ratio = ratios[name][layer, d, :, time]
            if bool((ratio > 1).any()):
                batch, unit = _place(ratio)
                at = (layer, d, batch, time, unit)
                yield difference(name, at, time=time, batch=batch, unit=unit)
    rest = {name: key for name, key in keys.items() if name not in order}
    for name in sorted(rest, key=lambda name: rest[name].endswith("_0")):  # states come last
        if rest[name].endswith("_0"):
            ratio = ratios[name][layer, d]
            if bool((ratio > 1).any()):
                batch, unit = _place(ratio)
                yield difference(name, (layer, d, batch, unit), batch=batch, unit=unit)
        elif bool((ratios[name] > 1).any()):
            row, *columns = _place(ratios[name])
            gate, unit = _gate(part, rest[name], row)
            column = columns[0] if columns else None
            yield difference(name, (row, *columns), gate=gate, unit=unit, column=column)


def _in_x(evidence: Evidence, ratio: Tensor) -> GradientDifference | None:
    steps = (ratio > 1).flatten(1).any(1).nonzero().flatten().tolist()
    if not steps:
        return None
    parts = [part for (layer, _), part in evidence.forward.parts.items() if layer == 0]
    backward = all(part.backward for part in parts)
    time = min(steps) if backward else max(steps)
    batch, unit = _place(ratio[time])
    direction = "reverse" if backward else "forward"
    numbers = _both(evidence, "x", (time, batch, unit))
    return GradientDifference("x", 0, direction, *numbers, time=time, batch=batch, unit=unit)


def _place(ratio: Tensor) -> tuple[int, ...]:
    return tuple(int(k) for k in torch.unravel_index(ratio.argmax(), ratio.shape))


def _both(evidence: Evidence, name: str, at: tuple[int, ...]) -> tuple[float, float]:
    return float(evidence.candidate[name][at]), float(evidence.exact[name][at])


def _gate(part: PartForward, key: str, row: int) -> tuple[str | None, int]:
    """The gate and unit that a row of a parameter belongs to."""
    if not key.startswith(("weight_ih", "weight_hh", "bias")):
        return None, row
    gates = part.cell.gates_from_x if key.endswith("ih") else part.cell.gates_from_h
    k, unit = divmod(row, part.weights.hidden_size)
    return (gates[k] if len(gates) > 1 else None), unit
