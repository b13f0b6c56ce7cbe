"""Where gradients differ first, in the order in which a backward pass computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rnnscope._compare.backward.evidence import Evidence
from rnnscope._compare.backward.verdict import GradientDifference
from rnnscope._compare.backward.whole import QUANTITY
from rnnscope._compare.model.model import PartIndex
from rnnscope._layers.sequences import running_order
from rnnscope.cells import quantity_names

__all__ = ["first_difference"]


def first_difference(evidence: Evidence) -> GradientDifference | None:
    """The first number beyond rounding: from the last layer down, in each the quantities from the
    step that ran last to the first, then the parameters, then the initial states; x at the end."""
    for layer in reversed(range(evidence.forward.layers)):
        for d in range(evidence.forward.directions):
            for difference in _in_part(evidence, (layer, d)):
                return difference
    return _in_x(evidence)


def _in_part(evidence: Evidence, place: PartIndex) -> Iterator[GradientDifference]:
    part = evidence.forward.parts[place]
    entries = list(evidence.in_part(place))
    ratios = evidence.ratios(evidence.exact)
    layer, d = place
    direction = evidence.forward.structure.directions[d]
    quantities = {name: ratios[name][layer, d] for name, *_ in entries if name.startswith(QUANTITY)}
    order = [f"{QUANTITY}{name}" for name in reversed(quantity_names(part.part.cell))]
    for t in running_order(range(evidence.inputs.steps), not part.backward):
        for name in (n for n in order if n in quantities):
            ratio = quantities[name][:, t]
            if bool((ratio > 1).any()):
                batch, unit = _place(ratio)
                at = (layer, d, batch, t, unit)
                yield GradientDifference(
                    name.removeprefix(QUANTITY),
                    *(layer, direction, *_both(evidence, name, at)),
                    time=t,
                    batch=batch,
                    unit=unit,
                )
    for name, key, *_ in entries:
        if name.startswith(QUANTITY) or key.endswith("_0"):
            continue
        if bool((ratios[name] > 1).any()):
            row, *column = _place(ratios[name])
            gate, unit = _gate(evidence, place, key, row)
            yield GradientDifference(
                name,
                *(layer, direction, *_both(evidence, name, (row, *column))),
                gate=gate,
                unit=unit,
                column=column[0] if column else None,
            )
    for name, key, *_ in entries:
        if not name.startswith(QUANTITY) and key.endswith("_0"):
            ratio = ratios[name][layer, d]
            if bool((ratio > 1).any()):
                batch, unit = _place(ratio)
                numbers = _both(evidence, name, (layer, d, batch, unit))
                yield GradientDifference(
                    name, *(layer, direction, *numbers), batch=batch, unit=unit
                )


def _in_x(evidence: Evidence) -> GradientDifference | None:
    if "x" not in evidence.candidate:
        return None
    ratio = evidence.ratios(evidence.exact)["x"]
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


def _gate(evidence: Evidence, place: PartIndex, key: str, row: int) -> tuple[str | None, int]:
    """The gate and unit that a row of a parameter belongs to."""
    part = evidence.forward.parts[place]
    gates = part.part.cell.gates_from_x if key.endswith("ih") else part.part.cell.gates_from_h
    if not key.startswith(("weight_ih", "weight_hh", "bias")):
        return None, row
    k, unit = divmod(row, part.weights.hidden_size)
    return (gates[k] if len(gates) > 1 else None), unit
