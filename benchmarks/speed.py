"""What does every number cost? One table: the layer, traces, reruns, gradients, a loop by hand, a
scan of jax, TorchLens, and the limit.

Run: ``make bench``, or ``python benchmarks/speed.py``, which writes RESULTS.md beside this file.
The sides of a row take turns; each figure is the median of the rounds' ratios to the layer, with
the quartiles. ``--clock cpu`` measures the time of all threads on the processor in place of that
on the wall: for a machine that does other work too. README.md says how to read the table.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from opening import LAYERS, SHAPES, plain_loop
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._layers.tensors import fresh

RESULTS = Path(__file__).parent / "RESULTS.md"
SINGLE = {"RNN": "h", "GRU": "z", "LSTM": "f"}
QUANTITIES = {"RNN": 1, "GRU": 4, "LSTM": 6}
CELLS = {"RNN": nn.RNNCell, "GRU": nn.GRUCell, "LSTM": nn.LSTMCell}
BENCH = "jax", "torchlens"
"""Packages of the extra "bench", each of which may be missing."""
Side = Callable[[], float]

clock = time.perf_counter


def timed(call: Callable[[], object]) -> Side:
    """A side that measures a whole call."""

    def side() -> float:
        start = clock()
        call()
        return clock() - start

    return side


def rounds(sides: dict[str, Side], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, taking turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            seconds = side()
            if turn:
                times[name].append(seconds)
    return times


def ratios(times: dict[str, list[float]], base: str) -> dict[str, tuple[float, float, float]]:
    """(median, lower and upper quartile) of each round's ratio to a side."""
    spread = {}
    for name, seconds in times.items():
        values = sorted(a / b for a, b in zip(seconds, times[base], strict=True))
        quarter = len(values) // 4
        spread[name] = statistics.median(values), values[quarter], values[-1 - quarter]
    return spread


def scan_by_jax(layer: nn.Module, x: Tensor) -> Callable[[], object] | None:
    """The same numbers by a jitted ``jax.lax.scan``; None where jax is not installed."""
    if find_spec("jax") is None:
        return None
    import jax

    jnp, sigmoid = jax.numpy, jax.nn.sigmoid
    w_ih, w_hh, b_ih, b_hh = (jnp.asarray(t.detach().numpy()) for t in layer._flat_weights)
    size, steps_of_x = layer.hidden_size, jnp.asarray(x.numpy())

    def step(state: Any, x_t: Any) -> Any:
        h, c = state
        from_x, from_h = x_t @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if isinstance(layer, nn.LSTM):
            i, f, g, o = jnp.split(from_x + from_h, 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), jnp.tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * jnp.tanh(c)
            return (h, c), (i, f, g, o, c, h)
        if isinstance(layer, nn.GRU):
            (xr, xz, xn), (hr, hz, hn) = jnp.split(from_x, 3, axis=1), jnp.split(from_h, 3, axis=1)
            r, z = sigmoid(xr + hr), sigmoid(xz + hz)
            n = jnp.tanh(xn + r * hn)
            h = (1 - z) * n + z * h
            return (h, c), (r, z, n, h)
        h = jnp.tanh(from_x + from_h)
        return (h, c), (h,)

    start = jnp.zeros((x.shape[1], size))
    run = jax.jit(lambda values: jax.lax.scan(step, (start, start), values))
    return lambda: jax.block_until_ready(run(steps_of_x))


class CellLoop(nn.Module):
    """A layer as a loop over torch's own cell: what a tool that saves operations can look into."""

    def __init__(self, name: str, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell = CELLS[name](inputs, hidden)

    def forward(self, x: Tensor) -> Tensor:
        state, output = None, []
        for x_t in x:
            state = self.cell(x_t, state)
            output.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(output)


def torchlens(name: str, shape: tuple[int, ...]) -> str | None:
    """How often the layer's own time TorchLens takes for a loop over the cell: in a process of its
    own, as it puts something around every function of torch. None where it is not installed."""
    if find_spec("torchlens") is None:
        return None
    command = [sys.executable, __file__, "--torchlens", name, *map(str, shape)]
    command += ["--clock", "cpu" if clock is time.process_time else "wall"]
    command += ["--threads", str(torch.get_num_threads())]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return finished.stdout.split()[-1]


def measure_torchlens(name: str, shape: tuple[int, ...]) -> None:
    """Print that ratio."""
    inputs, hidden, batch, steps = shape
    layer, x = LAYERS[name](inputs, hidden), torch.randn(steps, batch, inputs)
    with torch.no_grad():
        own = statistics.median(timed(lambda: layer(x))() for _ in range(9))
        import torchlens

        model = CellLoop(name, inputs, hidden)
        torchlens.trace(model, x[:2])
        lens = timed(lambda: torchlens.trace(model, x))()
    print(f"{lens / own:.0f}")


def limit(name: str, shape: tuple[int, ...]) -> dict[str, Side]:
    """What nothing can be faster than: the products of the layer as one product, and its record
    written once to memory that is fresh."""
    inputs, hidden, batch, steps = shape
    rows = {"RNN": 1, "GRU": 3, "LSTM": 4}[name] * hidden
    factor, weight = torch.randn(steps * batch, inputs + hidden), torch.randn(inputs + hidden, rows)
    product = torch.empty(steps * batch, rows)

    def write() -> None:
        for _ in range(QUANTITIES[name]):
            fresh((steps, batch, hidden), factor, factor.dtype).fill_(1.0)

    return {
        "arithmetic": timed(lambda: torch.mm(factor, weight, out=product)),
        "writing": timed(write),
    }


def recurrent(layer: nn.Module) -> rs.Recurrent:
    """The same cell as it is declared."""
    plain = rs.unfuse(layer)
    options = {"num_layers": plain.num_layers}
    declared = rs.Recurrent(plain.cell, plain.input_size, plain.hidden_size, **options)
    declared.load_state_dict(layer.state_dict())
    return declared


def of_layer(layer: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """What rnnscope does with a layer, without gradients."""
    tr, declared = rs.trace(layer, x, check=False), recurrent(layer)
    return {
        "layer": lambda: layer(x),
        "verified": lambda: rs.trace(layer, x),
        "check=False": lambda: rs.trace(layer, x, check=False),
        "rerun": lambda: tr.rerun(rs.Edit("h", layer=0, time=0, add=0.1)),
        "Recurrent": lambda: declared(x),
    }


def forwards(layer: nn.Module, x: Tensor, name: str) -> dict[str, Side]:
    """The sides of a row without gradients."""
    sides = of_layer(layer, x)
    single = (SINGLE[name],)
    sides["one quantity"] = lambda: rs.trace(layer, x, check=False, record=single)
    sides["plain loop"] = lambda: plain_loop(layer, x)
    scan = scan_by_jax(layer, x)
    if scan is not None:
        sides["jax scan"] = scan
    return {side: timed(call) for side, call in sides.items()}


def backwards(layer: nn.Module, x: Tensor) -> dict[str, Side]:
    """The layer's own backward, and gradients of every number."""
    x = x.clone().requires_grad_()
    upstream = torch.randn(*x.shape[:2], layer.hidden_size)
    tr = rs.trace(layer, x)

    def own() -> float:
        output = layer(x)[0]
        return timed(lambda: torch.autograd.grad(output, [x, *layer.parameters()], upstream))()

    def judge() -> None:
        torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], upstream)

    return {
        "backward": own,
        "its judge": timed(judge),
        "gradients": timed(lambda: tr.gradients(output=upstream)),
        "gradients, check=False": timed(lambda: tr.gradients(output=upstream, check=False)),
    }


def short(ratio: float) -> str:
    """A ratio in as many digits as it tells."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.2f}"


def written(spread: tuple[float, float, float]) -> str:
    """A ratio and its quartiles."""
    middle, low, high = spread
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


COLUMNS = (
    *("limit", "verified", "check=False", "one quantity", "rerun", "Recurrent"),
    *("plain loop", "jax scan", "TorchLens", "its judge", "gradients"),
    "gradients, check=False",
)
ABSENT = "not installed"


def row(name: str, shape: tuple[int, ...], repeats: int) -> tuple[float, dict[str, Any]]:
    """Seconds of the layer, and each column: a ratio with its quartiles, or a text."""
    inputs, hidden, batch, steps = shape
    layer, x = LAYERS[name](inputs, hidden), torch.randn(steps, batch, inputs)
    with torch.no_grad():
        times = rounds(forwards(layer, x, name) | limit(name, shape), repeats)
    columns: dict[str, Any] = dict(ratios(times, "layer"))
    columns["limit"] = max(columns.pop("arithmetic"), columns.pop("writing"))
    columns |= ratios(rounds(backwards(layer, x), repeats), "backward")
    columns.setdefault("jax scan", ABSENT)
    columns["TorchLens"] = torchlens(name, shape) or ABSENT
    return statistics.median(times["layer"]), columns


def table(repeats: int, shapes: tuple[tuple[int, ...], ...]) -> list[str]:
    """All shapes and layers, and the geometric means."""
    lines = [f"| | shape | layer | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name in LAYERS:
        means: dict[str, list[float]] = {column: [] for column in COLUMNS}
        for shape in shapes:
            own, columns = row(name, shape, repeats)
            inputs, hidden, batch, steps = shape
            label = f"{inputs}→{hidden}, b {batch}, t {steps}"
            cells = []
            for column in COLUMNS:
                value = columns[column]
                cells.append(value if isinstance(value, str) else written(value))
                if value != ABSENT:
                    means[column].append(float(value) if isinstance(value, str) else value[0])
            lines.append(f"| {name} | {label:<22} | {own * 1e3:.1f} ms | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        cells = [f"**{short(statistics.geometric_mean(v))}**" if v else "" for v in means.values()]
        lines.append(f"| {name} | **geometric mean** | | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


GROWING = ("layer", "verified", "check=False", "rerun", "Recurrent", "gradients, check=False")


def growth(repeats: int) -> list[str]:
    """Exponents of the time of an LSTM over a factor of 16 in each size."""
    base = {"steps": 64, "batch": 8, "hidden": 32, "layers": 1}
    lines = [f"| grows | from | to | {' | '.join(GROWING)} |", "|---" * (3 + len(GROWING)) + "|"]
    for name in base:
        first = base[name]
        points: dict[str, list[tuple[float, float]]] = {side: [] for side in GROWING}
        for factor in (1, 4, 16):
            sizes = base | {name: first * factor}
            layer = nn.LSTM(32, sizes["hidden"], num_layers=sizes["layers"])
            x = torch.randn(sizes["steps"], sizes["batch"], 32)
            with torch.no_grad():
                sides = {side: timed(call) for side, call in of_layer(layer, x).items()}
                times = rounds(sides, repeats)
            times |= rounds(backwards(layer, x), repeats)
            for side in GROWING:
                seconds = statistics.median(times[side])
                points[side].append((math.log(factor), math.log(seconds)))
        exponents = (
            statistics.linear_regression(*zip(*points[side], strict=True)).slope for side in GROWING
        )
        cells = " | ".join(f"{exponent:.2f}" for exponent in exponents)
        lines.append(f"| {name} | {first} | {first * 16} | {cells} |")
        print(lines[-1], flush=True)
    return lines


def versions() -> str:
    """The packages of others beside which it was measured."""
    named = (
        f"{name} {version(name)}" if find_spec(name) else f"{name} (not installed)"
        for name in BENCH
    )
    return f"Beside {' and '.join(named)}."


def machine() -> str:
    """What it was measured on."""
    facts = Path("/proc/cpuinfo")
    names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(": ")[2] if names else platform.processor()
    return (
        f"{model}, {os.cpu_count()} cores, torch {torch.__version__} on "
        f"{torch.get_num_threads()} thread(s), float32, {platform.system()}"
    )


def main() -> None:
    """Measure, and write the table."""
    global clock
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="the first so many only")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--torchlens", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    if options.torchlens:
        name, *sizes = options.torchlens
        measure_torchlens(name, tuple(map(int, sizes)))
        return
    rs.warm_up()
    what = "Time on the wall" if options.clock == "wall" else "Time of all threads on the processor"
    lines = [
        "# What every number costs",
        "",
        f"`python benchmarks/speed.py`, {datetime.date.today():%Y-%m-%d}: {machine()}. {what}, as "
        f"a ratio to that of the layer's own forward, of gradients to that of its backward; "
        f"medians of {options.repeats} rounds in which the sides took turns, with quartiles. "
        f"Calls of rnnscope are computed by kernels, after `rs.warm_up()`. The limit is the larger "
        f"of all products as a single one and of the record written once. {versions()}",
        "",
        *table(options.repeats, SHAPES[: options.shapes]),
        "",
        "How time grows, as an exponent over a factor of 16 (an LSTM 32→32, 64 steps, batch 8):",
        "",
        *growth(options.repeats),
        "",
    ]
    options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
