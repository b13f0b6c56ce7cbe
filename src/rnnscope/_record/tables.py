"""A record's numbers as tables: rows of valid steps, an xarray dataset, a pandas frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rnnscope._layers.tensors import plain
from rnnscope._record.extras import package_of_extra
from rnnscope._record.labels import Labels

__all__ = ["AXES", "Rows", "data_frame", "dataset", "valid_rows"]

AXES = ("layer", "direction", "batch", "time", "unit")
"""The dims of every recorded quantity, in order."""


class Tabular(Protocol):
    """What the tables read of a record."""

    lengths: Tensor
    labels: Labels

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis but the last."""

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions."""

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dims of each quantity."""

    @property
    def valid(self) -> Tensor:
        """(batch, time), False on padding."""

    def items(self) -> Any:
        """The quantities by name."""

    def layer_input(self, layer: int) -> Tensor:
        """A layer's input (batch, time, feature)."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A quantity of one layer and direction at its valid steps alone, a row for each step.

    ``values`` is (step, unit): sequence after sequence, each in the order of time. ``index``
    (step, 2) says of each row which sequence (batch) and which position (time) it is; ``labels``
    has its text, where the steps are labelled. ``numpy.asarray(rows)`` and scikit-learn take the
    values.
    """

    values: Tensor
    index: Tensor
    labels: tuple[str, ...] = ()

    @property
    def batch(self) -> Tensor:
        """(step): the sequence of each row."""
        return self.index[:, 0]

    @property
    def time(self) -> Tensor:
        """(step): the position of each row in its sequence."""
        return self.index[:, 1]

    @property
    def shape(self) -> torch.Size:
        """(steps, units)."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(_exported(self.values)[0], dtype=dtype, copy=True if copy is None else copy)

    def mean(self, dim: int | None = None) -> Tensor:
        """The mean over valid steps: of all numbers, or along a dim, as ``Tensor.mean`` has it."""
        return self.values.mean() if dim is None else self.values.mean(dim)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``: a row for each step, a column for each unit, index (batch, time),
        and a column ``label`` where the steps are labelled. Needs pandas, of the extra
        ``xarray``."""
        pandas = package_of_extra("pandas", "xarray")
        index = pandas.MultiIndex.from_arrays(self.index.cpu().numpy().T, names=["batch", "time"])
        frame = pandas.DataFrame(_exported(self.values)[0], index=index)
        frame.columns.name = "unit"
        if self.labels:
            frame["label"] = list(self.labels)
        return frame

    def __repr__(self) -> str:
        steps, units = self.values.shape
        labelled = ", labelled" if self.labels else ""
        return f"Rows of {steps} valid steps, {units} units{labelled}: values, index (batch, time)"


def valid_rows(record: Tabular, values: Tensor) -> Rows:
    """A quantity (batch, time, unit) at the steps that are no padding."""
    index = record.valid.nonzero()
    texts = record.labels
    labels = tuple(texts[b][t] for b, t in index.tolist()) if texts else ()
    return Rows(plain(values)[index[:, 0], index[:, 1]], index, labels)


def dataset(record: Tabular, attributes: Mapping[str, Any]) -> Any:
    """See ``Record.to_xarray``."""
    xarray = package_of_extra("xarray", "xarray")
    valid = record.valid
    variables: dict[str, Any] = {}
    for name, value in record.items():
        array, notes = _exported(value.masked_fill(~valid[None, None, :, :, None], float("nan")))
        variables[name] = (record.dims[name], array, notes)
    for layer in range(record.sizes["layer"]):
        layer_x = record.layer_input(layer).masked_fill(~valid[:, :, None], float("nan"))
        array, notes = _exported(layer_x)
        variables[f"x_l{layer}"] = (("batch", "time", f"feature_l{layer}"), array, notes)
    coordinates: dict[str, Any] = {
        "direction": list(record.directions),
        "length": ("batch", record.lengths.cpu().numpy()),
        "valid": (("batch", "time"), valid.cpu().numpy()),
    }
    if record.labels:
        steps = record.sizes["time"]
        texts = [[*row, *[""] * (steps - len(row))] for row in record.labels]
        coordinates["label"] = (("batch", "time"), np.array(texts, dtype=object))
    return xarray.Dataset(variables, coords=coordinates, attrs=dict(attributes))


def data_frame(record: Tabular, attributes: Mapping[str, Any]) -> Any:
    """See ``Record.to_pandas``."""
    pandas = package_of_extra("pandas", "xarray")
    columns, converted = [], []
    valid = record.valid.cpu().numpy()
    for name, value in record.items():
        array, notes = _exported(value)
        if notes:
            converted.append(name)
        sizes = dict(zip(AXES, array.shape, strict=True))
        levels = [
            list(record.directions) if axis == "direction" else range(size)
            for axis, size in sizes.items()
        ]
        index = pandas.MultiIndex.from_product(levels, names=AXES)
        kept = np.broadcast_to(valid[None, None, :, :, None], array.shape).reshape(-1)
        columns.append(pandas.Series(array.reshape(-1), index=index, name=name)[kept])
    if not columns:
        return pandas.DataFrame()
    frame = pandas.concat(columns, axis=1)
    if record.labels:
        batch, time = (frame.index.get_level_values(axis) for axis in ("batch", "time"))
        frame["label"] = [record.labels[b][t] for b, t in zip(batch, time, strict=True)]
    frame.attrs.update(attributes)
    if converted:
        frame.attrs["stored_as"] = f"float32, from bfloat16: {', '.join(converted)}"
    return frame


def _exported(value: Tensor) -> tuple[Any, dict[str, str]]:
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        return value.float().numpy(), {"stored_as": "float32, from bfloat16"}
    return value.numpy(), {}
