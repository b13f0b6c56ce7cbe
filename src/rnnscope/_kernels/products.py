"""Products with packed weights: what rows of x and of h say through their matrices, added to sums.

Each sum adds its terms in one order, however many rows are taken at once: so the numbers do not
depend on how work is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

from rnnscope._kernels.lanes import Source, Variable, Whole, own
from rnnscope._kernels.machine import has_wide_registers

__all__ = [
    "MOST",
    "TERMS",
    "at_once",
    "groups",
    "products",
    "row_times_columns",
    "rows_times_column",
]

AT_ONCE, AT_ONCE_WIDE = (6,), (16, 8)
"""Rows taken at once. The sums of 6 fill 12 registers of AVX2, and 4 remain for what is multiplied;
those of 16 fill half of the 32 of AVX-512, of which 8 must be in work to keep it busy."""

MOST = max(*AT_ONCE, *AT_ONCE_WIDE)
"""Rows taken at once, at most."""

TERMS = 64
"""Of x and of h so many are multiplied for all rows of a block before the next ones: their weights
of a column, 4 KiB each, stay in the nearest cache."""

RANGE = ("i64 %first_{0}", "i64 %last_{0}")


def _parameters(*words: str) -> list[str]:
    return [word.format(name) for name in "xh" for word in (*words, *RANGE)]


def at_once() -> tuple[int, ...]:
    """How many rows this processor takes at once, most first; what is left is taken one by one."""
    return AT_ONCE_WIDE if has_wide_registers() else AT_ONCE


def groups(source: Source, first: Whole | int, last: Whole) -> Iterator[tuple[int, Whole]]:
    """Loops over rows: how many at once, and the first of them; those that are left one by one."""
    for rows in (*at_once(), 1):
        left = last - first
        with source.loop(first, last - left.remainder(rows), rows) as row:
            yield rows, row
        first = last - left.remainder(rows)


def products(element: str, columns: tuple[list[int], list[int]], count: int) -> list[Source]:
    """All functions that ``groups`` needs; as ``row_times_columns``."""
    several = (rows_times_column(element, rows) for rows in at_once())
    return [*several, row_times_columns(element, columns, count)]


def rows_times_column(element: str, count: int) -> Source:
    """For ``count`` rows, whose addresses stand in a table: one column of a vector of units. Sums
    of neighbouring rows stand ``apart`` vectors from each other; they start from what stands at
    ``start``, ``start_apart`` vectors from each other."""
    parameters = [
        *_parameters("ptr %rows_{0}", "i64 %weights_{0}"),
        *("ptr %start", "i64 %start_apart", "ptr %sums", "i64 %apart"),
    ]
    source = Source(f"times_column_{count}", element, parameters)
    kind = source.type

    def places(base: str, apart: str) -> list[str]:
        offsets = [source.new(f"mul i64 {apart}, {r}") for r in range(count)]
        return [source.new(f"getelementptr {kind}, ptr {base}, i64 {o}") for o in offsets]

    sums = [_loaded(source, place) for place in places("%start", "%start_apart")]
    for name in "xh":
        weights = Whole(source, f"%weights_{name}")
        rows = []
        for r in range(count):
            pointer = source.new(f"getelementptr i64, ptr %rows_{name}, i64 {r}")
            rows.append(source.whole(f"load i64, ptr {pointer}"))
        with source.loop(Whole(source, f"%first_{name}"), Whole(source, f"%last_{name}")) as k:
            weight = source.load(weights, k * source.width)
            for row, total in zip(rows, sums, strict=True):
                total.set(source.broadcast(row, k).times_plus(weight, total.get()))
    _keep(source, places("%sums", "%apart"), sums)
    return source


def row_times_columns(element: str, columns: tuple[list[int], list[int]], count: int) -> Source:
    """For a single row: all ``count`` columns, whose sums stand side by side; ``columns`` are those
    that x and those that h adds to, whose weights stand ``block`` numbers from each other."""
    parameters = [
        *_parameters("i64 %row_{0}", "i64 %weights_{0}", "i64 %block_{0}"),
        *("ptr %start", "ptr %sums"),
    ]
    source = Source("row_times_columns", element, parameters)
    kind = source.type

    def places(base: str) -> list[str]:
        return [source.new(f"getelementptr {kind}, ptr {base}, i64 {c}") for c in range(count)]

    sums = [_loaded(source, place) for place in places("%start")]
    for name, added_to in zip("xh", columns, strict=True):
        row, weights = Whole(source, f"%row_{name}"), Whole(source, f"%weights_{name}")
        block = Whole(source, f"%block_{name}")
        with source.loop(Whole(source, f"%first_{name}"), Whole(source, f"%last_{name}")) as k:
            value = source.broadcast(row, k)
            for j, column in enumerate(added_to):
                weight = source.load(weights, block * j + k * source.width)
                sums[column].set(value.times_plus(weight, sums[column].get()))
    _keep(source, places("%sums"), sums)
    return source


def _loaded(source: Source, place: str) -> Variable:
    """A sum that begins with what stands somewhere: with biases, which may stand anywhere."""
    value = source.vector(f"load {source.type}, ptr {place}, align {source.bytes}")
    return source.variable(value)


def _keep(source: Source, places: list[str], sums: list[Variable]) -> None:
    for place, total in zip(places, sums, strict=True):
        source.line(own(f"store {source.type} {total.get().name}, ptr {place}"))
