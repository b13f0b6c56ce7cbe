"""The memory of a record while it is filled: time first, and laid out so that no copy is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rnnscope._layers.adopt import Adopted
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import frame_states
from rnnscope._layers.tensors import fresh
from rnnscope.cells import quantity_names

__all__ = ["Buffers", "working_type"]


def working_type(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: at least float32, so that opening adds no error of its own."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class Buffers:
    """The memory of a record: one tensor per quantity, time first, for all layers and directions.

    States have a place before the first step and one after the last, where the initial state of
    the forward and the reverse direction stands: so the states before all steps are a view.
    """

    def __init__(
        self, adopted: Adopted, call: Call, dtype: torch.dtype, record: frozenset[str]
    ) -> None:
        self.cell = adopted.cell
        self.call = call
        self.dtype = dtype
        self.record = record
        self.output_size, self.hidden_size = adopted.output_size, adopted.hidden_size
        lead = (adopted.num_layers, len(adopted.directions))
        self.lead, self.directions = lead, adopted.directions
        kept = record.union(self.cell.states)
        steps, batch = call.x.shape[:2]
        states = self.cell.states
        self.values = {
            name: fresh(
                (*lead, steps + 2 * (name in states), batch, self.size(name)), call.x, dtype
            )
            for name in quantity_names(self.cell)
            if name in kept
        }

    def size(self, name: str) -> int:
        """Units of a quantity."""
        return self.output_size if name == "h" else self.hidden_size

    def take(self, layer: int, hidden: Tensor, initial: Mapping[str, Tensor]) -> None:
        """Copy a layer's hidden states (time, batch, direction × output), and what precedes."""
        h = self.values["h"][layer]
        for d, direction in enumerate(self.directions):
            part = hidden[..., d * self.output_size : (d + 1) * self.output_size]
            frame_states(h[d], part, initial["h"][d], self.call.valid, direction == "reverse")

    def input_of(self, layer: int) -> Callable[[int, int], Tensor]:
        """The input of a layer above the first, block by block: the states of the layer below."""
        h = self.values["h"][layer - 1]

        def block(start: int, stop: int) -> Tensor:
            parts = [h[d, start + 1 : stop + 1] for d in range(self.lead[1])]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

        return block

    def finished(self) -> dict[str, Tensor]:
        """The record: (layer, direction, batch, time, unit), zeros on padding."""
        valid = self.call.valid
        padding = None if valid is None else ~valid
        quantities: dict[str, Tensor] = {}
        for name, value in self.values.items():
            inner = value[:, :, 1:-1] if name in self.cell.states else value
            if padding is not None:
                inner.masked_fill_(padding[None, None, :, :, None], 0)
            quantities[name] = inner.transpose(2, 3)
        return quantities
