"""What does every number cost? One table: the layer, traces, gradients, a loop by hand, jax.

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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from opening import LAYERS, SHAPES, plain_loop
from torch import Tensor, nn

import rnnscope as rs

RESULTS = Path(__file__).parent / "RESULTS.md"
SINGLE = {"RNN": "h", "GRU": "z", "LSTM": "f"}
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
    try:
        import jax
    except ImportError:
        return None
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


def forwards(layer: nn.Module, x: Tensor, name: str) -> dict[str, Side]:
    """The sides of a row without gradients."""
    sides: dict[str, Callable[[], object]] = {
        "layer": lambda: layer(x),
        "verified": lambda: rs.trace(layer, x),
        "check=False": lambda: rs.trace(layer, x, check=False),
        "one quantity": lambda: rs.trace(layer, x, check=False, record=(SINGLE[name],)),
        "plain loop": lambda: plain_loop(layer, x),
    }
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

    return {
        "backward": own,
        "gradients": timed(lambda: tr.gradients(output=upstream)),
        "gradients, check=False": timed(lambda: tr.gradients(output=upstream, check=False)),
    }


def written(spread: tuple[float, float, float]) -> str:
    """A ratio and its quartiles."""
    middle, low, high = spread
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def table(repeats: int) -> list[str]:
    """All shapes and layers, and the geometric means."""
    lines: list[str] = []
    for name, make in LAYERS.items():
        means: dict[str, list[float]] = {}
        for shape in SHAPES:
            inputs, hidden, batch, steps = shape
            layer, x = make(inputs, hidden), torch.randn(steps, batch, inputs)
            with torch.no_grad():
                times = rounds(forwards(layer, x, name), repeats)
            spread = ratios(times, "layer")
            back = rounds(backwards(layer, x), repeats)
            spread_back = ratios(back, "backward")
            del spread_back["backward"]
            own = statistics.median(times["layer"])
            columns = {**spread, **spread_back}
            if not lines:
                names = [column for column in columns if column != "layer"]
                lines.append(f"| | {'shape':<22} | layer | {' | '.join(names)} |")
                lines.append("|---" * (len(names) + 3) + "|")
            del columns["layer"]
            label = f"{inputs}→{hidden}, b {batch}, t {steps}"
            cells = " | ".join(written(value) for value in columns.values())
            lines.append(f"| {name} | {label:<22} | {own * 1e3:.1f} ms | {cells} |")
            print(lines[-1], flush=True)
            for column, value in columns.items():
                means.setdefault(column, []).append(value[0])
        cells = " | ".join(f"**{statistics.geometric_mean(v):.2f}**" for v in means.values())
        lines.append(f"| {name} | **geometric mean** | | {cells} |")
        print(lines[-1], flush=True)
    return lines


def growth(repeats: int) -> list[str]:
    """Exponents of the time of an LSTM's verified trace over a factor of 16 in each size."""
    base = {"steps": 64, "batch": 8, "hidden": 32, "layers": 1}
    lines = ["| grows | from | to | layer | verified |", "|---|---|---|---|---|"]
    for name in base:
        first = base[name]
        seconds: dict[str, list[tuple[float, float]]] = {"layer": [], "verified": []}
        for factor in (1, 4, 16):
            sizes = base | {name: first * factor}
            layer = nn.LSTM(32, sizes["hidden"], num_layers=sizes["layers"])
            x = torch.randn(sizes["steps"], sizes["batch"], 32)
            with torch.no_grad():
                sides = {
                    "layer": timed(lambda layer=layer, x=x: layer(x)),
                    "verified": timed(lambda layer=layer, x=x: rs.trace(layer, x)),
                }
                for side, values in rounds(sides, repeats).items():
                    seconds[side].append((math.log(factor), math.log(statistics.median(values))))
        exponents = [
            statistics.linear_regression(*zip(*points, strict=True)).slope
            for points in seconds.values()
        ]
        cells = " | ".join(f"{exponent:.2f}" for exponent in exponents)
        lines.append(f"| {name} | {first} | {first * 16} | {cells} |")
        print(lines[-1], flush=True)
    return lines


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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    rs.warm_up()
    what = "Time on the wall" if options.clock == "wall" else "Time of all threads on the processor"
    lines = [
        "# What every number costs",
        "",
        f"`python benchmarks/speed.py`, {datetime.date.today():%Y-%m-%d}: {machine()}. {what}, as "
        f"a ratio to that of the layer's own forward, of gradients to that of its backward; "
        f"medians of {options.repeats} rounds in which the sides took turns, with quartiles.",
        "",
        *table(options.repeats),
        "",
        "How time grows, as an exponent over a factor of 16 (an LSTM 32→32, 64 steps, batch 8):",
        "",
        *growth(options.repeats),
        "",
    ]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
