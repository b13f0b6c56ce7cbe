"""Parts of a dataset: what a person chose, computed or turned round of it, in the one form that is
summed up and searched."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from rnnscope._corpus.disk.chunks import most_rows
from rnnscope._record.extras import package_of_extra
from rnnscope.errors import AddressError

__all__ = ["axis_labels", "lazy_column", "lazy_quantity", "with_steps"]

UNITS = ("unit", "projected")


def with_steps(dataset: Any) -> Any:
    """The dataset with its dim ``step``, which a single sequence calls ``time``.

    Raises ``AddressError`` where it has no steps.
    """
    dims = tuple(map(str, getattr(dataset, "dims", ())))
    if not hasattr(dataset, "data_vars"):
        raise AddressError(
            f"expected a dataset of rs.open_record, which gives one for each layer; got "
            f"{type(dataset).__name__}"
        )
    if "step" in dims:
        return dataset
    if "time" in dims:
        return dataset.swap_dims(time="step")
    raise AddressError(
        f"expected a dataset of rs.open_record, or a part of it that has steps; got one of "
        f"({', '.join(dims)}). Of one step keep the dim: ds.isel(step=[3])"
    )


def lazy_quantity(dataset: Any, name: str) -> Any:
    """A quantity of a dataset with steps as (step, layer, direction, unit), in blocks of steps;
    what was chosen before is a dim of one.

    Raises ``AddressError`` where it is not there, or has other dims.
    """
    if name not in dataset.data_vars:
        raise AddressError(f"no quantity {name!r}; recorded are {', '.join(dataset.data_vars)}")
    quantity = dataset[name]
    unit = next((axis for axis in UNITS if axis in quantity.dims), None)
    unit = unit or next((axis for axis in UNITS if axis in quantity.coords), UNITS[0])
    dims = ("step", "layer", "direction", unit)
    strange = [axis for axis in quantity.dims if axis not in dims]
    if strange or "step" not in quantity.dims:
        raise AddressError(
            f"{name} must be (step, layer, direction, unit), or a part of it that has steps; got "
            f"{tuple(quantity.dims)}"
        )
    for axis in dims:
        if axis not in quantity.dims:
            quantity = quantity.expand_dims(axis)
    quantity = quantity.transpose(*dims)
    if quantity.chunks is None:
        row_bytes = quantity.dtype.itemsize * math.prod(quantity.shape[1:])
        quantity = quantity.chunk({"step": most_rows(row_bytes)})
    return quantity.chunk(dict.fromkeys(dims[1:], -1))


def axis_labels(quantity: Any, axis: Hashable) -> list[Any]:
    """What the places of a dim are called: by its coordinate, else counted."""
    if axis in quantity.coords:
        labels: list[Any] = quantity[axis].values.tolist()
        return labels
    size = quantity.sizes[axis]
    return ["forward", "reverse"][:size] if axis == "direction" else list(range(size))


def lazy_column(dataset: Any, name: str) -> Any:
    """A coordinate of the steps as an array of Dask.

    Raises ``AddressError`` where the dataset lacks it.
    """
    if name not in dataset.coords:
        raise AddressError(
            f"the dataset lacks the coordinate {name!r}, which rs.open_record gives; it has "
            f"{', '.join(map(repr, dataset.coords))}"
        )
    array = package_of_extra("dask.array", "record")
    data = dataset[name].data
    return data if hasattr(data, "dask") else array.from_array(data, chunks=-1)
