"""Batches: calls of one layer as one record along the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnscope._escaping import printable
from rnnscope._record.record import Record
from rnnscope._trace.verbs import Trace
from rnnscope.errors import ShapeError

__all__ = ["Batches"]


class Batches(Record):
    """Calls of one layer, joined along the batch: a record, with zeros behind shorter sequences.

    ``calls`` are the traces of the single calls, in order; their sequences follow each other.
    """

    def __init__(self, calls: Sequence[Trace]) -> None:
        first = calls[0]
        for k, trace in enumerate(calls):
            alike = list(trace) == list(first) and trace.directions == first.directions
            sizes = [value.shape[-1] for value in trace.values()]
            if not alike or sizes != [value.shape[-1] for value in first.values()]:
                raise ShapeError(
                    f"the layer changed between call 0 ({first.structure}) and call {k} "
                    f"({trace.structure}): they are no one record; take seen.calls(name) apart"
                )
        self.calls = tuple(calls)
        steps = max(trace.call.steps for trace in calls)
        layers = range(len(first._inputs))
        super().__init__(
            {name: torch.cat([_padded(tr[name], steps) for tr in calls], dim=2) for name in first},
            tuple(
                None
                if all(tr._inputs[layer] is None for tr in calls)
                else torch.cat([_padded(tr.layer_input(layer), steps) for tr in calls])
                for layer in layers
            ),
            torch.cat([trace.lengths for trace in calls]),
            first.directions,
            {"h": "projected"} if first.cell.projected else {},
        )
        if all(trace.labels for trace in calls):
            self.labels = tuple(row for trace in calls for row in trace.labels)

    def __repr__(self) -> str:
        calls = f"{len(self.calls)} call{'s' * (len(self.calls) != 1)}"
        sizes = ", ".join(f"{axis} {size}" for axis, size in self.sizes.items())
        low, high = int(self.lengths.min()), int(self.lengths.max())
        lengths = str(low) if low == high else f"{low} to {high}"
        lines = (
            f"{calls} of {self.calls[0].structure} along the batch: {' '.join(self)}",
            f"  {sizes}; sequences of {lengths} steps; {self.nbytes / 1e6:.3g} MB",
        )
        return "\n".join(map(printable, lines))


def _padded(values: Tensor, steps: int) -> Tensor:
    """(…, time, unit) with zeros behind, to this many steps."""
    return pad(values, (0, 0, 0, steps - values.shape[-2]))
