"""One call of a layer in one form, whatever the form in which it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.sequences import pack, unpack, valid_steps

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """One call of a layer, in one form whatever the form in which it was made.

    ``x`` (time, batch, feature), in the caller's order of the batch, zeros on padding;
    ``packed`` is the PackedSequence where one was given; ``lengths`` (batch) or None where all
    are full; ``initial`` maps each state to (layer, direction, batch, unit). ``faithful``: the
    copies lie in memory as the caller's tensors did, so that a kernel rounds in the same way.
    """

    x: Tensor
    initial: Mapping[str, Tensor]
    has_initial: bool
    batched: bool
    packed: PackedSequence | None
    lengths: Tensor | None
    faithful: bool = False

    @property
    def valid(self) -> Tensor | None:
        """(time, batch), False on padding; None where there is none."""
        return None if self.lengths is None else valid_steps(self.lengths, self.steps)

    @property
    def every_length(self) -> Tensor:
        """(batch): the steps of each sequence, also where all are full."""
        if self.lengths is not None:
            return self.lengths
        return self.x.new_full((self.batch,), self.steps, dtype=torch.long)

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
        return unpack(data, self.packed)

    def pack(self, padded: Tensor) -> Tensor:
        """(time, batch, ...) in the caller's order to the packed data's own layout."""
        assert self.packed is not None
        return pack(padded, self.packed)

    @property
    def steps(self) -> int:
        """Steps of the longest sequence."""
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.x.shape[1]
