"""Statistics of each unit over a whole data set, in one pass that holds a block at a time.

Blocks are summed up alone and their sums joined two by two (Chan, Golub and LeVeque 1983, eq. 2.1),
so that no large mean is subtracted from large sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnscope._corpus.disk.chunks import Array
from rnnscope._corpus.reading.lazily import computed
from rnnscope._corpus.reading.parts import axis_labels, lazy_quantity, with_steps
from rnnscope._record.extras import package_of_extra

__all__ = ["statistics"]


@dataclass(frozen=True)
class PairSums:
    """Of the steps at which both units of a pair are finite, (layer, direction, unit, unit): how
    many they are, the mean of the first unit, its sum of squared differences from that mean, and
    the sum of products of both units' differences. Where all numbers are finite, what is the same
    for all pairs of a unit stands once: (layer, direction, 1, 1) and (layer, direction, unit, 1).
    """

    count: Array
    mean: Array
    squares: Array
    products: Array

    @classmethod
    def of(cls, numbers: Array, finite: Array) -> PairSums:
        """Of a block (step, layer, direction, unit), whose other numbers are 0."""
        shown = finite.transpose(1, 2, 3, 0)
        apart, means = _centred(numbers.transpose(1, 2, 3, 0), shown)
        products = apart @ apart.swapaxes(-1, -2)
        if shown.all():
            count = np.full((*products.shape[:2], 1, 1), len(numbers))
            return cls(count, means, (apart**2).sum(-1, keepdims=True), products)
        present = shown.astype(np.float64).swapaxes(-1, -2)
        count = shown @ present
        share = np.maximum(count, 1)
        sums, raw = apart @ present, apart**2 @ present
        squares = raw - sums**2 / share
        products = products - sums * sums.swapaxes(-1, -2) / share
        mean = np.where(count > 0, means + sums / share, 0.0)
        # where little is left of a difference of large sums, the pair is summed up by itself; of a
        # unit that does not vary nothing is left but the rounding of its mean
        varies = raw > count * (1e-14 * means) ** 2
        poor = varies & (squares < 1e-6 * raw)
        for layer, side, i, j in zip(*np.nonzero(poor | poor.swapaxes(-1, -2)), strict=True):
            both = finite[:, layer, side, i] & finite[:, layer, side, j]
            pair = numbers[both][:, layer, side][:, [i, j]]
            center = pair.mean(0) if len(pair) else np.zeros(2)
            first, second = (pair - center).T
            mean[layer, side, i, j] = center[0]
            squares[layer, side, i, j] = first @ first
            products[layer, side, i, j] = first @ second
        return cls(count, mean, squares, products)

    def joined(self, other: PairSums) -> PairSums:
        """Of both sets of steps."""
        count = self.count + other.count
        between = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        weight = self.count * share
        return PairSums(
            count,
            self.mean + between * share,
            self.squares + other.squares + between**2 * weight,
            self.products + other.products + between * between.swapaxes(-1, -2) * weight,
        )

    @property
    def correlation(self) -> Array:
        """Of each pair; NaN where one does not vary."""
        spread = np.sqrt(self.squares)
        correlation: Array = self.products / (spread * spread.swapaxes(-1, -2))
        return correlation


def _centred(numbers: Array, shown: Array) -> tuple[Array, Array]:
    """Differences from the mean of the finite numbers along the last axis, 0 for others; and the
    mean."""
    count = shown.sum(-1, keepdims=True)
    means = numbers.sum(-1, keepdims=True) / np.maximum(count, 1)
    return np.where(shown, numbers - means, 0.0), means


@dataclass(frozen=True)
class Sums:
    """Of some steps, (layer, direction, unit) each: how many are finite, their mean, the sum of
    squared differences from it, how many are below and above the bounds; and the sums of ``pairs``
    of units, where these are asked for."""

    count: Array
    mean: Array
    squares: Array
    below: Array
    above: Array
    pairs: PairSums | None

    def joined(self, other: Sums) -> Sums:
        """Of both sets of steps."""
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        pairs = None
        if self.pairs is not None and other.pairs is not None:
            pairs = self.pairs.joined(other.pairs)
        return Sums(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
            self.below + other.below,
            self.above + other.above,
            pairs,
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
    that do not vary. NaN and infinities do not count; ``f_count`` is the number of steps that do,
    for a pair of units ``f_correlation_count`` that of the steps at which both are finite.
    The dataset may be a part of one (``ds.sel(direction="forward")``), computed or not.
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
    dataset = with_steps(dataset)
    quantities = {name: lazy_quantity(dataset, name) for name in _names(dataset, names)}
    delayed = package_of_extra("dask", "record").delayed
    sums = []
    for quantity in quantities.values():
        bounds = _bounds(quantity, low, high)
        blocks = quantity.data.to_delayed().ravel().tolist()
        parts = [delayed(sums_of)(block, bounds, correlations) for block in blocks]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [delayed(Sums.joined)(*pair) for pair in pairs] + parts[len(parts) // 2 * 2 :]
        sums.append(parts[0])
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    for (name, quantity), result in zip(quantities.items(), computed(sums), strict=True):
        variables |= _variables(quantity, name, result)
        coordinates |= {axis: axis_labels(quantity, axis) for axis in quantity.dims[1:]}
    xarray = package_of_extra("xarray", "record")
    return xarray.Dataset(variables, coords=coordinates, attrs=dict(dataset.attrs))


def _names(dataset: Any, names: str | Iterable[str] | None) -> list[str]:
    if names is None:
        return list(dataset.data_vars)
    return [names] if isinstance(names, str) else list(names)


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
    pairs = PairSums.of(numbers, finite) if correlations else None
    return Sums(count, mean, squares, below, above, pairs)


def _variables(quantity: Any, name: str, sums: Sums) -> dict[str, Any]:
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
        if sums.pairs is not None:
            pair = (*dims, f"{dims[-1]}_2")
            correlation = sums.pairs.correlation
            counts = np.broadcast_to(sums.pairs.count, correlation.shape)
            variables[f"{name}_correlation"] = (pair, correlation)
            variables[f"{name}_correlation_count"] = (pair, counts.astype(np.int64))
    return variables
