"""What do gradients, reruns and unfused layers cost?

Run: ``python benchmarks/gradients.py``. Each line is measured in one run, the sides taking turns;
the figures are medians and their ratio. README.md beside this file says how to read it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from opening import LAYERS, _status, medians
from torch import Tensor, nn
from torch.nn.functional import linear

import rnnscope as rs

SHAPE = (64, 128, 32, 256)  # input, hidden, batch, steps
LONG = (64, 256, 8, 2000)


def loop(layer: nn.Module, x: Tensor) -> Tensor:
    """A plain loop over time, written by hand, with the operations of the equations: one product
    with x for all steps, one with h a step, no step's gradient as large as all steps'."""
    w_ih, w_hh, b_ih, b_hh = layer._flat_weights
    h = c = x.new_zeros(x.shape[1], layer.hidden_size)
    output = []
    for from_x in linear(x, w_ih, b_ih).unbind(0):
        from_h = linear(h, w_hh, b_hh)
        if isinstance(layer, nn.LSTM):
            i, f, g, o = (from_x + from_h).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        elif isinstance(layer, nn.GRU):
            size = layer.hidden_size
            (x_rz, x_n), (h_rz, h_n) = (t.split([2 * size, size], 1) for t in (from_x, from_h))
            r, z = (x_rz + h_rz).sigmoid().chunk(2, dim=1)
            h = (1 - z) * (x_n + r * h_n).tanh() + z * h
        else:
            h = (from_x + from_h).tanh()
        output.append(h)
    return torch.stack(output)


def backward_alone(layer: nn.Module, x: Tensor, upstream: Tensor) -> float:
    """Seconds of the layer's own backward, for parameters and input."""
    output = layer(x)[0]
    start = time.perf_counter()
    torch.autograd.grad(output, [x, *layer.parameters()], upstream)
    return time.perf_counter() - start


def timed(side: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


def line(name: str, what: str, base: float, own: float, limit: str = "") -> None:
    """Print two times and their ratio."""
    print(f"{name:<6}{what:<50}{base * 1e3:>9.1f}ms{own * 1e3:>9.1f}ms{own / base:>7.2f}  {limit}")


def gradients(repeats: int) -> None:
    """Beside the layer's own backward."""
    inputs, hidden, batch, steps = SHAPE
    for name, make in LAYERS.items():
        layer = make(inputs, hidden)
        x = torch.randn(steps, batch, inputs, requires_grad=True)
        upstream = torch.randn(steps, batch, hidden)
        tr = rs.trace(layer, x)
        sides: list[Callable[[], float]] = [
            lambda layer=layer, x=x, up=upstream: backward_alone(layer, x, up),
            lambda tr=tr, up=upstream: timed(lambda: tr.gradients(output=up, check=False)),
            lambda tr=tr, up=upstream: timed(lambda: tr.gradients(output=up)),
        ]
        own, ours, checked = middle(sides, repeats)
        line(name, "backward -> gradients(check=False)", own, ours, "2 allowed for the LSTM")
        line(name, "backward -> gradients()", own, checked)


def middle(sides: list[Callable[[], float]], repeats: int) -> list[float]:
    """Medians of sides that measure themselves, taking turns; the first round is not counted."""
    times = [[side() for side in sides] for _ in range(repeats + 1)][1:]
    return [sorted(each)[len(times) // 2] for each in zip(*times, strict=True)]


def unfused(repeats: int) -> None:
    """Forward and backward beside the loop written by hand, and the fused layer."""
    inputs, hidden, batch, steps = SHAPE
    for name, make in LAYERS.items():
        layer = make(inputs, hidden)
        plain = rs.unfuse(layer)
        x = torch.randn(steps, batch, inputs)
        parameters = list(layer.parameters())

        def both(run: Callable[[], Tensor], parameters: list[Tensor] = parameters) -> object:
            return torch.autograd.grad(run().square().sum(), parameters)

        fused, by_hand, ours = medians(
            [
                lambda layer=layer, x=x, both=both: both(lambda: layer(x)[0]),
                lambda layer=layer, x=x, both=both: both(lambda: loop(layer, x)),
                lambda plain=plain, x=x, both=both: both(lambda: plain(x)[0]),
            ],
            repeats,
        )
        line(name, "loop by hand -> unfuse, forward + backward", by_hand, ours, "1.2 allowed")
        line(name, "fused -> unfuse, forward + backward", fused, ours)


def reruns(repeats: int) -> None:
    """From a step on, in a stack of three: beside a rerun of everything."""
    inputs, hidden, batch, steps = SHAPE
    for name, make in LAYERS.items():
        with torch.no_grad():
            tr = rs.trace(make(inputs, hidden, num_layers=3), torch.randn(steps, batch, inputs))
            edits = {
                "step 0 of layer 0": rs.Edit("h", layer=0, time=0, add=0.1),
                "step 192 of 256, layer 0": rs.Edit("h", layer=0, time=192, add=0.1),
                "step 0, layer 2 of 3": rs.Edit("h", layer=2, time=0, add=0.1),
                "the last step, layer 2": rs.Edit("h", layer=2, time=-1, add=0.1),
            }
            sides = [lambda tr=tr, edit=edit: tr.rerun(edit) for edit in edits.values()]
            whole, *rest = medians(sides, repeats)
        for what, seconds in zip(list(edits)[1:], rest, strict=True):
            line(name, f"rerun from step 0 -> from {what}", whole, seconds)


def memory() -> None:
    """Peak memory of the gradients of a long sequence, each in a process of its own."""
    print(f"\n{'layer':<6}{'shape':<28}{'record':>10}{'result':>10}{'extra peak':>12}")
    for name in LAYERS:
        for steps in (500, LONG[-1]):
            command = [sys.executable, __file__, "--peak", name, str(steps)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            record, result, peak = (int(word) / 1e6 for word in found.stdout.split())
            shape = str((*LONG[:-1], steps))
            print(f"{name:<6}{shape:<28}{record:>8.1f}MB{result:>8.1f}MB{peak:>10.1f}MB")


def measure_peak(name: str, steps: int) -> None:
    """Print the bytes of the record, of the gradients, and how far memory rose for them."""
    inputs, hidden, batch, _ = LONG
    layer = LAYERS[name](inputs, hidden)
    with torch.no_grad():
        small = rs.trace(layer, torch.randn(2, 1, inputs))
        small.gradients(output=torch.ones(2, 1, hidden), check=False)
        tr = rs.trace(layer, torch.randn(steps, batch, inputs))
    upstream = torch.randn(steps, batch, hidden)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    g = tr.gradients(output=upstream, check=False)
    peak = _status("VmHWM") - before
    storages = {g[n].untyped_storage().data_ptr(): g[n].untyped_storage().nbytes() for n in g}
    print(tr.nbytes, sum(storages.values()), peak)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        measure_peak(options.peak[0], int(options.peak[1]))
    else:
        gradients(options.repeats)
        unfused(options.repeats)
        reruns(options.repeats)
        memory()
