"""What does opening a layer cost, beside the layer's own forward?

Run: ``python benchmarks/opening.py``. Each line is measured in one run, the two sides taking
turns; the figures are medians and their ratio. README.md beside this file says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import rnnscope as rs

SHAPES = (  # input, hidden, batch, steps
    (32, 64, 1, 256),
    (32, 64, 8, 256),
    (64, 128, 32, 256),
    (256, 512, 32, 128),
    (16, 32, 256, 1000),
)
STACK = (64, 128, 32, 256)
LAYERS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def medians(sides: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each side, taking turns; the first round is not counted."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for k, side in enumerate(sides):
            start = time.perf_counter()
            side()
            if turn:
                times[k].append(time.perf_counter() - start)
    return [statistics.median(each) for each in times]


def plain_loop(layer: nn.Module, x: Tensor) -> list[tuple[Tensor, ...]]:
    """The same numbers by a loop over time, as people write it by hand."""
    w_ih, w_hh, b_ih, b_hh = layer._flat_weights
    size = layer.hidden_size
    h = c = x.new_zeros(x.shape[1], size)
    found = []
    for x_t in x:
        from_x = torch.nn.functional.linear(x_t, w_ih, b_ih)
        from_h = torch.nn.functional.linear(h, w_hh, b_hh)
        if isinstance(layer, nn.LSTM):
            i, f, g, o = (from_x + from_h).chunk(4, dim=1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            h = o * c.tanh()
            found.append((i, f, g, o, c, h))
        elif isinstance(layer, nn.GRU):
            (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
            r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
            n = (xn + r * hn).tanh()
            h = (1 - z) * n + z * h
            found.append((r, z, n, h))
        else:
            h = (from_x + from_h).tanh()
            found.append((h,))
    return [torch.stack(each) for each in zip(*found, strict=True)]


def against_layer(
    layer: nn.Module, shape: tuple[int, ...], repeats: int, loop: bool
) -> tuple[list[float], str]:
    """Seconds of the layer, its trace and a plain loop; and the first two as text."""
    inputs, _, batch, steps = shape
    x = torch.randn(steps, batch, inputs)
    sides = [lambda: layer(x), lambda: rs.trace(layer, x), lambda: plain_loop(layer, x)]
    times = medians(sides if loop else sides[:2], repeats)
    own, traced = times[:2]
    return times, f"{own * 1e3:>8.2f}ms{traced * 1e3:>8.2f}ms{traced / own:>8.2f}"


def speed(repeats: int) -> None:
    """Print the table of times and ratios."""
    print(f"{'layer':<6}{'shape':<24}{'forward':>10}{'trace':>10}{'ratio':>8}{'plain loop':>12}")
    for name, make in LAYERS.items():
        ratios = []
        for shape in SHAPES:
            inputs, hidden, batch, steps = shape
            times, text = against_layer(make(inputs, hidden), shape, repeats, loop=True)
            own, traced, loop = times
            ratios.append(traced / own)
            label = f"{inputs}->{hidden}, {batch}, {steps}"
            print(f"{name:<6}{label:<24}{text}{loop / own:>12.2f}")
        print(f"{name:<6}geometric mean {statistics.geometric_mean(ratios):>35.2f}")
    for name, make in LAYERS.items():
        layer = make(*STACK[:2], num_layers=3, bidirectional=True)
        _, text = against_layer(layer, STACK, repeats, loop=False)
        print(f"{name:<6}{'3 layers, 2 directions':<24}{text}")


def memory() -> None:
    """Peak memory of a trace beyond the layer's own forward, each in a process of its own."""
    print(f"\n{'layer':<6}{'shape':<24}{'record':>10}{'extra peak':>12}{'ratio':>8}")
    for name in LAYERS:
        for shape, layers in ((SHAPES[-1], 1), (STACK, 3)):
            peaks = [_peak(name, shape, layers, side) for side in ("forward", "trace")]
            (own, _), (traced, record) = peaks
            inputs, _, batch, steps = shape
            extra = traced - own - 4 * inputs * batch * steps
            label = f"{shape}, {layers} layers"
            print(
                f"{name:<6}{label:<24}{record / 1e6:>8.1f}MB{extra / 1e6:>10.1f}MB"
                f"{extra / record:>8.2f}"
            )


def _peak(name: str, shape: tuple[int, ...], layers: int, side: str) -> tuple[int, int]:
    command = [sys.executable, __file__, "--peak", name, *map(str, shape), str(layers), side]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, record = found.stdout.split()
    return int(peak), int(record)


def measure_peak(name: str, sizes: list[int], side: str) -> None:
    """Print how far memory rose above what stood before the call, and the record's size."""
    inputs, hidden, batch, steps, layers = sizes
    layer = LAYERS[name](inputs, hidden, num_layers=layers, bidirectional=layers > 1)
    x = torch.randn(steps, batch, inputs)
    small = x[:2, :1].clone()
    rs.trace(layer, small) if side == "trace" else layer(small)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
    before = _status("VmRSS")
    found = rs.trace(layer, x) if side == "trace" else layer(x)
    print(_status("VmHWM") - before, found.nbytes if isinstance(found, rs.Trace) else 0)


def _status(name: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peak", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with torch.no_grad():
        if options.peak:
            name, *sizes, side = options.peak
            measure_peak(name, [int(size) for size in sizes], side)
        else:
            speed(options.repeats)
            memory()
