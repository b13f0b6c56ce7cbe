"""One call of a layer in one form, whatever the form in which it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """One call of a layer, in one form whatever the form in which it was made.

    ``x`` (time, batch, feature), in the caller's order of the batch, zeros on padding;
    ``packed`` is the PackedSequence where one was given; ``lengths`` (batch) or None where all
    are full; ``initial`` maps each state to (layer, direction, batch, unit).
    """

    x: Tensor
    initial: Mapping[str, Tensor]
    given: bool
    batched: bool
    packed: PackedSequence | None
    lengths: Tensor | None

    @property
    def valid(self) -> Tensor | None:
        """(time, batch), False on padding; None where there is none."""
        if self.lengths is None:
            return None
        return torch.arange(self.steps, device=self.x.device)[:, None] < self.lengths

    def dropout(self, like: Tensor, p: float) -> Tensor:
        """What dropout multiplies with, (time, batch, feature), drawn as the layer draws it: on
        the packed data where the call was packed."""
        ones = torch.ones_like(like)
        if self.packed is None:
            return torch.dropout(ones, p, True)
        return self.unpacked(torch.dropout(self.pack(ones), p, True))

    def unpacked(self, data: Tensor) -> Tensor:
        """The packed data's own layout to (time, batch, ...) in the caller's order."""
        assert self.packed is not None
        return pad_packed_sequence(PackedSequence(data, *self.packed[1:]))[0]

    def pack(self, padded: Tensor) -> Tensor:
        """(time, batch, ...) in the caller's order to the packed data's own layout."""
        assert self.packed is not None
        order = self.packed.sorted_indices
        ordered = padded if order is None else padded.index_select(1, order)
        sizes = self.packed.batch_sizes.tolist()
        return torch.cat([ordered[t, :size] for t, size in enumerate(sizes)])

    @property
    def steps(self) -> int:
        """Steps of the longest sequence."""
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.x.shape[1]
