"""A trace as text and as HTML: few numbers as a table, many as names, dims and sizes."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Protocol

from torch import Tensor

from rnnscope._escaping import lines as escaped_lines
from rnnscope._escaping import printable
from rnnscope._record.traced import Traced

__all__ = ["html", "text"]

SMALL = 60
"""Up to so many numbers a trace is shown as a table of all of them."""


class ListedTrace(Traced, Protocol):
    """What is shown of a trace."""

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dims of each quantity."""

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded quantities."""

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """The quantities by name."""


def text(trace: ListedTrace) -> str:
    """Few numbers: the numbers, a row a step; many: names, dims and sizes. The proof last."""
    lines = [f"Trace of {trace.structure}"]
    if _count(trace) <= SMALL:
        header, rows = _table(trace)
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  " + "  ".join(cells).rstrip())
    else:
        lines += _overview(trace)
    return "\n".join(map(printable, [*lines, *_padding(trace), trace.proof]))


def html(trace: ListedTrace) -> str:
    """The same for a notebook."""
    title = escape(printable(f"Trace of {trace.structure}"))
    proof = escape(printable(trace.proof))
    if _count(trace) > SMALL:
        overview = "\n".join([*_overview(trace), *_padding(trace)])
        body = f"<pre>{escape(escaped_lines(overview))}</pre>"
    else:
        header, rows = _table(trace)
        head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
        inner = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table>"
    return f"<div><p><b>{title}</b></p>{body}<p>{proof}</p></div>"


def _count(trace: ListedTrace) -> int:
    """Numbers in a trace, inputs included."""
    inputs = sum(trace.layer_input(k).numel() for k in range(trace.structure.num_layers))
    return inputs + sum(value.numel() for _, value in trace.items())


def _table(trace: ListedTrace) -> tuple[list[str], list[list[str]]]:
    """A row for each step of each sequence, direction and layer; axes of length 1 left out."""
    sizes = trace.sizes
    axes = [axis for axis in ("layer", "direction", "batch") if sizes[axis] > 1]
    features = max(trace.layer_input(layer).shape[-1] for layer in range(sizes["layer"]))
    columns = _columns("x", features)
    for name, value in trace.items():
        columns += _columns(name, value.shape[-1])
    rows: list[list[str]] = []
    for layer in range(sizes["layer"]):
        x = trace.layer_input(layer)
        for d, direction in enumerate(trace.directions):
            for batch in range(sizes["batch"]):
                for time in range(int(trace.lengths[batch])):
                    at = {"layer": str(layer), "direction": direction, "batch": str(batch)}
                    cells = [f"{number:.6g}" for number in x[batch, time].tolist()]
                    cells += [""] * (features - len(cells))  # of a layer that reads fewer
                    for _, value in trace.items():
                        numbers = value[layer, d, batch, time].tolist()
                        cells += [f"{number:.6g}" for number in numbers]
                    rows.append([*(at[axis] for axis in axes), f"time={time}", *cells])
    return [*axes, "", *columns], rows


def _overview(trace: ListedTrace) -> list[str]:
    """Names, dims and sizes."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, value in trace.items():
        groups.setdefault(tuple(value.shape), []).append(name)
    lines = []
    for shape, names in groups.items():
        dims = ", ".join(
            f"{dim} {size}" for dim, size in zip(trace.dims[names[0]], shape, strict=True)
        )
        lines.append(f"  {' '.join(names):<12} ({dims})")
    for layer in range(trace.structure.num_layers):
        batch, time, feature = trace.layer_input(layer).shape
        lines.append(f"  {f'x, layer {layer}':<12} (batch {batch}, time {time}, feature {feature})")
    if trace.call.lengths is not None:
        shortest, longest = int(trace.lengths.min()), int(trace.lengths.max())
        lines.append(f"  lengths      {shortest} to {longest}")
    lines.append(f"  {trace.nbytes / 1e6:.3g} MB of recorded numbers")
    return lines


def _padding(trace: ListedTrace) -> list[str]:
    """How many steps are padding, and what leaves them out."""
    steps = trace.sizes["batch"] * trace.sizes["time"]
    padding = steps - int(trace.lengths.sum())
    if padding == 0 or not tuple(trace.items()):
        return []
    layers, directions = trace.sizes["layer"], trace.directions
    at = f", layer={layers - 1}" if layers > 1 else ""
    at += f', direction="{directions[0]}"' if len(directions) > 1 else ""
    name = next(name for name, _ in trace.items())
    return [
        f"  {padding} of {steps} steps are padding, 0 in every tensor, and a mean counts them;",
        f'  tr.rows("{name}"{at}) has the valid steps alone, tr.to_xarray() NaN for the others',
    ]


def _columns(name: str, size: int) -> list[str]:
    """A quantity's columns; the unit is told where there are several."""
    return [name] if size == 1 else [f"{name}[{unit}]" for unit in range(size)]
