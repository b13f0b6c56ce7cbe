"""The difference of two records, number by number."""

from __future__ import annotations

import torch

from rnnscope._record.record import Record
from rnnscope.errors import ShapeError

__all__ = ["difference"]


def difference(first: Record, second: Record) -> Record:
    """The numbers of ``first`` less those of ``second``, as a record; see ``Trace.difference``."""
    if first.sizes != second.sizes or first.directions != second.directions:
        raise ShapeError(
            f"the difference of two records of unequal sizes: {first.sizes} of "
            f"{' and '.join(first.directions)}, {second.sizes} of {' and '.join(second.directions)}"
        )
    if not torch.equal(first.lengths, second.lengths):
        raise ShapeError(
            f"the difference of two records of unequal lengths: {first.lengths.tolist()}, "
            f"{second.lengths.tolist()}"
        )
    values = {}
    for name in first:
        if name in second:
            if first[name].shape != second[name].shape:
                raise ShapeError(
                    f"{name} is {tuple(first[name].shape)} in one, {tuple(second[name].shape)} in "
                    f"the other"
                )
            values[name] = first[name] - second[name]
    inputs = tuple(
        first.layer_input(k) - second.layer_input(k) for k in range(first.sizes["layer"])
    )
    absent = {
        name: f"{name} is recorded in one of the two only"
        for name in set(first).symmetric_difference(second)
    }
    projected = {name: dims[-1] for name, dims in first.dims.items() if dims[-1] == "projected"}
    return Record(values, inputs, first.lengths, first.directions, projected, absent)
