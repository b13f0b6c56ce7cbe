"""How what ``data`` gives is drawn, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rnnscope._gradients.gradients import Gradients
from rnnscope._record.record import Record
from rnnscope._trace.verbs import Trace
from rnnscope.errors import MissingExtraError
from rnnscope.plot import data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

__all__ = [
    "eigenvalues",
    "flow",
    "gradient_norm",
    "memory",
    "quantity",
    "saturation",
    "units",
    "unrolled",
]

SIGNED = ("#7f3b08", "#d68228", "#f7f7f7", "#4393c3", "#053061")
"""From the most negative to the most positive, as on the page: blue is above zero."""
GATE = "viridis"  # like the other, it keeps its order for the colour-blind, and in grey
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, told apart with any colour vision."""
MANY = 40
"""So many labels of steps are shown; of more, some."""


def quantity(
    trace: Record,
    name: str,
    *,
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    order: Literal["similar"] | Sequence[int] | None = None,
    labels: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """A map of a quantity over time and units: gates from 0 to 1, signed numbers centred at zero.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.GRU(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.quantity(tr, "z", ax=Figure().subplots())      # without ax=, a new figure
    >>> ax.images[0].get_array().shape                              # unit, time
    (4, 6)

    Takes what ``data.quantity`` takes, and raises what it raises; padding is hatched, NaN magenta.
    """
    at = {"layer": layer, "direction": direction, "batch": batch}
    drawn = data.quantity(trace, name, order=order, labels=labels, **at)  # type: ignore[arg-type]
    return _map(drawn, ax)


def memory(
    trace: Trace,
    state: str | None = None,
    *,
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    order: Literal["similar"] | Sequence[int] | None = None,
    labels: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """A map of what the last state holds of each step: what was written when, and kept.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.memory(tr, ax=Figure().subplots())
    >>> ax.images[0].get_array().shape[0]
    4
    """
    at = {"layer": layer, "direction": direction, "batch": batch}
    drawn = data.memory(trace, state, order=order, labels=labels, **at)  # type: ignore[arg-type]
    return _map(drawn, ax)


def units(
    trace: Trace,
    name: str = "h",
    chosen: int | Sequence[int] | None = None,
    *,
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    labels: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Units of a quantity over time, with the steps' labels, or the input where there are none.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.units(tr, "c", [0, 1], ax=Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['unit 0', 'unit 1']
    """
    at = {"layer": layer, "direction": direction, "batch": batch}
    drawn = data.units(trace, name, chosen, labels=labels, **at)  # type: ignore[arg-type]
    ax = _axes(ax, (7.5, 3.2))
    steps = np.arange(drawn.values.shape[1])
    for k, (unit, row) in enumerate(zip(drawn.units, drawn.values, strict=True)):
        style = "-" if k < len(LINES) else "--"
        colour = LINES[k % len(LINES)]
        ax.plot(steps, row, style, color=colour, marker=".", label=f"unit {unit}")
    labelled = drawn.labels
    if not labelled and drawn.inputs.shape[1] == 1:
        labelled = tuple(f"{value:.3g}" for value in drawn.inputs[:, 0])
        ax.set_xlabel("input at each step")
    if drawn.limits is not None:
        low, high = drawn.limits
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if drawn.limits is None or drawn.limits[0] < 0:
        ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    _steps(ax, len(steps), labelled)
    ax.set_ylabel(name)
    ax.set_title(drawn.title, fontsize=10)
    if len(drawn.units) > 1:
        columns = -(-len(drawn.units) // 14)
        ax.legend(
            frameon=False,
            fontsize=8 if columns == 1 else 6.5,
            ncols=columns,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    _plain(ax)
    return ax


def saturation(
    trace: Trace,
    *,
    low: float = 0.1,
    high: float = 0.9,
    layer: int | None = None,
    direction: str | None = None,
    batch: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Every unit of every gate by how often it is nearly shut and nearly open: on the right are
    gates stuck open, at the top gates stuck shut, at the origin those that move in between.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.saturation(tr, ax=Figure().subplots())
    >>> ax.get_xlim()[1].item() >= 1
    True
    """
    at: dict[str, Any] = {"layer": layer, "direction": direction, "batch": batch}
    drawn = data.saturation(trace, low=low, high=high, **at)
    ax = _axes(ax, (5.2, 4.6))
    marks = "os^Dv<>P"
    layers, directions = len(drawn.layers), len(drawn.directions)
    for g, gate in enumerate(drawn.gates):
        for k in range(layers):
            for d in range(directions):
                where = f" layer {drawn.layers[k]}" * (layers > 1)
                where += f" {drawn.directions[d]}" * (directions > 1)
                aside = 0.008 * (g - (len(drawn.gates) - 1) / 2)  # shares are few: side by side
                ax.scatter(
                    drawn.right[k, d, g] + aside,
                    drawn.left[k, d, g] + aside,
                    s=26,
                    alpha=0.6,
                    marker=marks[(k * directions + d) % len(marks)],
                    color=LINES[g % len(LINES)],
                    edgecolors="white",
                    linewidths=0.5,
                    label=f"{gate}{where}",
                )
    ax.plot([0, 1], [1, 0], color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    ax.set_xlabel(f"share of steps above {high:g}")
    ax.set_ylabel(f"share of steps below {low:g}")
    ax.set_title(drawn.title, fontsize=10)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    _plain(ax)
    return ax


def gradient_norm(
    gradients: Gradients,
    name: str = "h",
    *,
    layer: int | None = None,
    direction: str | None = None,
    batch: int | None = None,
    labels: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """The size of a gradient at every step, of every layer and direction or of one, on a
    logarithmic axis; zeros are left out.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.gradient_norm(tr.gradients(tr.output[-1].sum()), ax=Figure().subplots())
    >>> ax.get_yscale()
    'log'
    """
    at: dict[str, Any] = {"layer": layer, "direction": direction, "batch": batch}
    drawn = data.gradient_norm(gradients, name, labels=labels, **at)
    ax = _axes(ax, (7, 3.2))
    k = 0
    for layer, row in zip(drawn.layers, drawn.values, strict=True):
        for d, values in enumerate(row):
            shown = np.where(values > 0, values, np.nan)
            ax.plot(shown, marker=".", color=LINES[k % len(LINES)], label=_lane(layer, drawn, d))
            k += 1
    _logarithmic(ax)
    _steps(ax, drawn.values.shape[2], drawn.labels)
    ax.set_title(drawn.title, fontsize=10)
    if k > 1:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _plain(ax)
    return ax


def flow(
    trace: Trace,
    *,
    of: str = "h",
    to: str = "h",
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    time: int | Literal["last"] = "last",
    labels: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """How much of a change at each step arrives at one: above 1 it grows on its way, below it
    fades.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.flow(tr, time="last", ax=Figure().subplots())
    >>> ax.get_yscale()
    'log'
    """
    at = {"layer": layer, "direction": direction, "batch": batch, "time": time}
    drawn = data.flow(trace, of=of, to=to, labels=labels, **at)  # type: ignore[arg-type]
    ax = _axes(ax, (7, 3.2))
    shown = np.where(drawn.values > 0, drawn.values, np.nan)
    ax.plot(shown, marker=".", color=LINES[0])
    ax.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    ax.axvline(drawn.time, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    _logarithmic(ax)
    _steps(ax, len(drawn.values), drawn.labels)
    ax.set_title(drawn.title, fontsize=10)
    _plain(ax)
    return ax


def eigenvalues(
    trace: Trace, *, layer: int = 0, direction: str | None = None, ax: Axes | None = None
) -> Axes:
    """The eigenvalues of each gate's block of W_hh in the complex plane, with the unit circle.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.eigenvalues(tr, ax=Figure().subplots())
    >>> len(ax.collections)                              # one for each gate
    4
    """
    drawn = data.eigenvalues(trace, layer=layer, direction=direction)
    ax = _axes(ax, (5.4, 4.2))
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="black", linewidth=1.2, zorder=3)
    for k, (gate, values) in enumerate(zip(drawn.gates, drawn.values, strict=True)):
        ax.scatter(
            values.real,
            values.imag,
            s=14,
            color=LINES[k % len(LINES)],
            marker="osD^v<>P"[k % 8],
            alpha=0.55,
            linewidths=0,
            label=f"$W_{{h{gate}}}$" if len(drawn.gates) > 1 else "$W_{hh}$",
        )
    ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("real part")
    ax.set_ylabel("imaginary part")
    ax.set_title(drawn.title, fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    _plain(ax)
    return ax


def unrolled(
    trace: Trace,
    *,
    steps: int = 3,
    labels: Any = None,
    batch: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The layer over time as a diagram, with the names of its weights and the shapes.

    >>> import torch, rnnscope as rs
    >>> from matplotlib.figure import Figure
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
    >>> ax = rs.plot.unrolled(tr, ax=Figure().subplots())
    >>> any("weight_hh_l0" in text.get_text() for text in ax.texts)
    True
    """
    drawn = data.unrolled(trace, steps=steps, labels=labels, batch=batch)
    columns = 1 + max(box.column for box in drawn.boxes)
    rows = 1 + max(box.row for box in drawn.boxes)
    ax = _axes(ax, (max(6.0, 1.9 * columns + 0.4), 0.95 * rows + 1.1))
    lanes = {box.row for box in drawn.boxes if box.kind == "layer"}
    fill = {"layer": "#dcebf6", "input": "#fbe8d3", "output": "#e3f1e6", "joined": "white"}
    for arrow in drawn.arrows:
        (x1, y1), (x2, y2) = arrow.start, arrow.end
        sideways = y1 == y2
        straight = sideways or y2 - y1 == 1
        aside = 0.0 if straight else 0.06 if y1 in lanes else -0.06  # around the box between
        ax.annotate(
            "",
            xy=(x2 - 0.14 * np.sign(x2 - x1) + aside, y2 - 0.17 * (not sideways)),
            xytext=(x1 + 0.14 * np.sign(x2 - x1) + aside, y1 + 0.17 * (not sideways)),
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#0072b2" if sideways else "0.45",
                "linewidth": 1.4,
                "shrinkA": 0,
                "shrinkB": 0,
                "connectionstyle": "arc3"
                if straight
                else f"arc3,rad={0.4 if y1 in lanes else -0.4}",
            },
        )
        if arrow.text:
            at = (
                ((x1 + x2) / 2 + 0.08, y1 + 0.14) if sideways else (x1 + 0.06, (y1 + y2) / 2 - 0.02)
            )
            shade = "#0072b2" if sideways else "0.3"
            ax.text(*at, arrow.text, ha="center" if sideways else "left", fontsize=6.5, color=shade)
    for box in drawn.boxes:
        ax.text(
            box.column,
            box.row,
            box.text,
            ha="center",
            va="center",
            fontsize={"dots": 14, "joined": 7}.get(box.kind, 9),
            bbox=None
            if box.kind == "dots"
            else {"boxstyle": "round,pad=0.4", "facecolor": fill[box.kind], "edgecolor": "0.5"},
        )
    ax.set(xlim=(-0.7, columns - 0.3), ylim=(-0.9 - 0.26 * len(drawn.notes), rows - 0.5))
    for k, note in enumerate(drawn.notes):
        ax.text(-0.55, -0.8 - 0.28 * k, note, fontsize=8.5, family="monospace", color="0.25")
    ax.set_title(drawn.title, fontsize=10)
    ax.set_axis_off()
    return ax


# what they share -----------------------------------------------------------------------------


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        if not hasattr(ax, "transData"):
            raise TypeError(f"ax must be axes of matplotlib; got {type(ax).__name__}")
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError(
            "drawing needs matplotlib, which is not installed: pip install 'rnnscope[plot]'"
        ) from error
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _logarithmic(ax: Axes) -> None:
    """A logarithmic axis whose ticks can be read where it spans less than two decades, too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if low > 0 and high < 100 * low:
        few = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
        ax.yaxis.set_major_locator(few if high < 6 * low else LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _map(drawn: data.Map, ax: Axes | None) -> Axes:
    rows = len(drawn.units)
    ax = _axes(ax, (7.5, max(2.2, min(6, 0.9 + 0.16 * rows))))
    shown = np.ma.masked_invalid(drawn.values)
    low, high = drawn.limits
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    signed = LinearSegmentedColormap.from_list("signed", SIGNED)
    colours = signed if drawn.signed else matplotlib.colormaps[GATE]
    colours = colours.with_extremes(bad="#c800a0")
    image = ax.imshow(
        shown, aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest"
    )
    length = int(drawn.valid.sum())
    total = drawn.values.shape[1]
    if length < total:
        ax.axvspan(
            length - 0.5, total - 0.5, facecolor="white", edgecolor="0.75", hatch="///", linewidth=0
        )
    _steps(ax, total, drawn.labels)
    ax.set_ylabel("unit")
    if rows <= 24:
        ax.set_yticks(range(rows), [str(unit) for unit in drawn.units], fontsize=7)
    elif drawn.units != tuple(range(rows)):
        ax.set_yticks([])
        ax.set_ylabel("unit, alike together")
    box = ax.get_window_extent()
    thin = 46 * box.height / box.width  # as high as the map, and narrow
    bar = ax.figure.colorbar(image, ax=ax, pad=0.015, fraction=0.025, aspect=thin)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    ax.set_title(drawn.title, fontsize=10)
    return ax


def _lane(layer: int, drawn: data.Norms, d: int) -> str:
    return f"layer {layer}" + f", {drawn.directions[d]}" * (len(drawn.directions) > 1)


def _steps(ax: Axes, count: int, labels: Sequence[str]) -> None:
    """Ticks of the axis of time: labels, or positions; of many some."""
    stride = max(1, -(-count // MANY)) if labels else max(1, -(-count // 16))
    ticks = list(range(0, count, stride))
    texts = [labels[k] if labels and k < len(labels) else "" if labels else str(k) for k in ticks]
    long = sum(map(len, texts)) > 80 or max(map(len, texts), default=0) > 80 / max(1, len(ticks))
    texts = [data.short(text) for text in texts]
    turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if labels and long else {}
    ax.set_xticks(ticks, texts, fontsize=8, **turned)  # type: ignore[arg-type]
    ax.set_xlim(-0.5, count - 0.5)
    if not ax.get_xlabel():
        ax.set_xlabel("" if labels else "time")


def _plain(ax: Axes) -> None:
    for side in ("top", "right"):
        if side in ax.spines:
            ax.spines[side].set_visible(False)
