"""Products with packed weights: what rows of numbers say through a matrix, added to sums.

Each sum adds its terms in their order, however many rows are taken at once: so the numbers do not
depend on how work is cut into pieces.
"""

from __future__ import annotations

from rnnscope._kernels.lanes import Source, Whole

__all__ = ["ROWS", "row_times_columns", "rows_times_column"]

ROWS = 6
"""Taken at once: their sums fill 12 registers of AVX2, and 4 remain for what is multiplied."""


def rows_times_column(element: str) -> Source:
    """For a tile's rows, whose addresses stand in a table: one column of a vector of units. Sums of
    neighbouring rows stand ``apart`` vectors from each other."""
    parameters = ("ptr %rows", "i64 %weights", "i64 %length", "ptr %sums", "i64 %apart")
    source = Source("rows_times_column", element, parameters)
    length, weights = Whole(source, "%length"), Whole(source, "%weights")
    rows, places = [], []
    for r in range(ROWS):
        pointer = source.new(f"getelementptr i64, ptr %rows, i64 {r}")
        rows.append(source.whole(f"load i64, ptr {pointer}"))
        offset = source.new(f"mul i64 %apart, {r}")
        places.append(source.new(f"getelementptr {source.type}, ptr %sums, i64 {offset}"))
    sums = [source.variable(source.vector(f"load {source.type}, ptr {p}")) for p in places]
    with source.loop(0, length) as k:
        weight = source.load(weights, k * source.width)
        for row, total in zip(rows, sums, strict=True):
            total.set(source.broadcast(row, k).times_plus(weight, total.get()))
    for place, total in zip(places, sums, strict=True):
        source.line(f"store {source.type} {total.get().name}, ptr {place}")
    return source


def row_times_columns(name: str, element: str, count: int) -> Source:
    """For a single row: all columns, whose sums stand at the addresses that are given."""
    parameters = ["i64 %row", "i64 %weights", "i64 %length", *(f"ptr %s{c}" for c in range(count))]
    source = Source(f"row_times_columns_{name}", element, parameters)
    row, weights, length = (Whole(source, f"%{word}") for word in ("row", "weights", "length"))
    sums = [source.variable(source.vector(f"load {source.type}, ptr %s{c}")) for c in range(count)]
    block = length * source.width
    with source.loop(0, length) as k:
        value = source.broadcast(row, k)
        for c, total in enumerate(sums):
            weight = source.load(weights, block * c + k * source.width)
            total.set(value.times_plus(weight, total.get()))
    for c, total in enumerate(sums):
        source.line(f"store {source.type} {total.get().name}, ptr %s{c}")
    return source
