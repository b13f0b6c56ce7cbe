"""What the reverse pass needs of a trace: its numbers and weights, time first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from rnnscope._gradients.backward import PartValues
from rnnscope._opening.buffers import working_type
from rnnscope._record.labels import Labels
from rnnscope._record.traced import RecordedCall

__all__ = ["Differentiable", "part_values", "without_graph"]


class Differentiable(RecordedCall, Protocol):
    """What the reverse pass needs of a trace."""

    labels: Labels

    @property
    def precision(self) -> str:
        """The type in which the layer formed its products."""


@contextmanager
def without_graph(trace: Differentiable) -> Iterator[None]:
    """Compute without a graph and in the numbers' own precision, whatever the caller has set."""
    device = trace.call.x.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        yield


def part_values(trace: Differentiable, layer: int, d: int) -> PartValues:
    """The numbers of one layer in one direction, time first."""
    direction = trace.directions[d]
    dtype = working_type(trace.call.x.dtype)
    weights = trace.weights[layer][d]
    return PartValues(
        trace.cell,
        weights if weights.ih.dtype == dtype else weights.map(lambda t: t.to(dtype)),
        {name: value[layer, d].transpose(0, 1) for name, value in trace.items()},
        {s: trace.before(s, layer, direction).transpose(0, 1) for s in trace.cell.states},
        trace.layer_input(layer).transpose(0, 1),
    )
