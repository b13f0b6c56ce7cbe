"""Statistics of each unit over a whole data set, in one pass that holds a block at a time.

Blocks are summed up alone and their sums joined two by two (Chan, Golub and LeVeque 1983, eq. 2.1),
so that no large mean is subtracted from large sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnscope._corpus.disk.journal import Array
from rnnscope._corpus.reading.lazily import computed
from rnnscope._record.extras import package_of_extra
from rnnscope.errors import AddressError

__all__ = ["statistics"]


@dataclass(frozen=True)
class Sums:
    """Of some steps, (layer, direction, unit) each: how many are finite, their mean, the sum of
    squared differences from it, how many are below and above the bounds. ``together`` (layer,
    direction) counts the steps at which all units are finite, ``centre`` is the mean over these and
    ``products`` (layer, direction, unit, unit) the sums of products of differences from it."""

    count: Array
    mean: Array
    squares: Array
    below: Array
    above: Array
    together: Array
    centre: Array
    products: Array

    def joined(self, other: Sums) -> Sums:
        """Of both sets of steps."""
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        together = self.together + other.together
        between = other.centre - self.centre
        part = (other.together / np.maximum(together, 1))[..., None]
        outer = between[..., :, None] * between[..., None, :]
        return Sums(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
            self.below + other.below,
            self.above + other.above,
            together,
            self.centre + between * part,
            self.products + other.products + outer * (self.together[..., None] * part)[..., None],
        )


def statistics(
    dataset: Any,
    names: str | Iterable[str] | None = None,
    *,
    low: float = 0.1,
    high: float = 0.9,
    correlations: bool = False,
) -> Any:
    """Mean, variance and saturation of each unit over all steps of a dataset of ``open_record``.

    An ``xarray.Dataset``: for a quantity f, ``f_mean`` and ``f_variance`` (layer, direction, unit);
    for those whose function has bounds also ``f_low`` and ``f_high``, the share of the steps in the
    lowest ``low`` and above ``high`` of the range from 0 to 1 (of tanh: below -0.8, above 0.8);
    ``correlations=True`` adds ``f_correlation`` (layer, direction, unit, unit_2), NaN for units
    that do not vary. NaN and infinities do not count; ``f_count`` is the number of steps that do.
    Blocks are read one after another, by the Dask client where there is one.

    >>> import tempfile, torch
    >>> from rnnscope import record, open_record
    >>> path = f"{tempfile.mkdtemp()}/gates.zarr"
    >>> store = record(torch.nn.GRU(3, 4, batch_first=True), [torch.zeros(2, 5, 3)], path)
    >>> found = statistics(open_record(path)[""], "z")
    >>> list(found.data_vars)
    ['z_count', 'z_mean', 'z_variance', 'z_low', 'z_high']

    Raises ``AddressError`` for a name that is not there, ``ValueError`` for bounds that are none.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"expected 0 <= low < high <= 1; got {low} and {high}")
    wanted = _names(dataset, names)
    delayed = package_of_extra("dask", "record").delayed
    sums = []
    for name in wanted:
        bounds = _bounds(dataset[name], low, high)
        blocks = dataset[name].data.to_delayed().ravel().tolist()
        parts = [delayed(sums_of)(block, bounds, correlations) for block in blocks]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [delayed(Sums.joined)(*pair) for pair in pairs] + parts[len(parts) // 2 * 2 :]
        sums.append(parts[0])
    variables: dict[str, Any] = {}
    for name, result in zip(wanted, computed(sums), strict=True):
        variables |= _variables(dataset[name], name, result, correlations)
    xarray = package_of_extra("xarray", "record")
    coordinates = {"direction": dataset["direction"].values}
    return xarray.Dataset(variables, coords=coordinates, attrs=dict(dataset.attrs))


def _names(dataset: Any, names: str | Iterable[str] | None) -> list[str]:
    if names is None:
        return list(dataset.data_vars)
    wanted = [names] if isinstance(names, str) else list(names)
    absent = [name for name in wanted if name not in dataset.data_vars]
    if absent:
        raise AddressError(
            f"no quantity {absent[0]!r}; recorded are {', '.join(dataset.data_vars)}"
        )
    return wanted


def _bounds(quantity: Any, low: float, high: float) -> tuple[float, float] | None:
    """The bounds as numbers of the quantity; None of one whose function has none."""
    if "range" not in quantity.attrs:
        return None
    least, most = quantity.attrs["range"]
    return least + low * (most - least), least + high * (most - least)


def sums_of(values: Array, bounds: tuple[float, float] | None, correlations: bool) -> Sums:
    """The sums of one block (step, layer, direction, unit)."""
    numbers = np.asarray(values, np.float64)
    finite = np.asarray(np.isfinite(numbers))
    numbers = np.where(finite, numbers, 0.0)
    count = finite.sum(0)
    mean = numbers.sum(0) / np.maximum(count, 1)
    squares = (np.where(finite, numbers - mean, 0.0) ** 2).sum(0)
    below = above = np.zeros(count.shape, np.int64)
    if bounds is not None:
        below = (finite & (numbers < bounds[0])).sum(0)
        above = (finite & (numbers > bounds[1])).sum(0)
    units = count.shape[-1] if correlations else 0
    whole = np.asarray(finite.all(-1))  # (step, layer, direction)
    together = whole.sum(0)
    kept = numbers * whole[..., None]
    centre = (kept.sum(0) / np.maximum(together, 1)[..., None])[..., :units]
    apart = (np.where(whole[..., None], numbers[..., :units] - centre, 0.0)).transpose(1, 2, 3, 0)
    products = apart @ apart.swapaxes(-1, -2)
    return Sums(count, mean, squares, below, above, together, centre, products)


def _variables(quantity: Any, name: str, sums: Sums, correlations: bool) -> dict[str, Any]:
    dims = tuple(quantity.dims[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        variables = {
            f"{name}_count": (dims, sums.count),
            f"{name}_mean": (dims, np.where(sums.count > 0, sums.mean, np.nan)),
            f"{name}_variance": (dims, sums.squares / sums.count),
        }
        if "range" in quantity.attrs:
            variables[f"{name}_low"] = (dims, sums.below / sums.count)
            variables[f"{name}_high"] = (dims, sums.above / sums.count)
        if correlations:
            spread = np.sqrt(np.diagonal(sums.products, axis1=-2, axis2=-1))
            scale = spread[..., :, None] * spread[..., None, :]
            variables[f"{name}_correlation"] = ((*dims, f"{dims[-1]}_2"), sums.products / scale)
    return variables
