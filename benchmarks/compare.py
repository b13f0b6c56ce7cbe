"""How long a verdict takes: LSTM, hidden size 256, 2 layers, batch 16, 100 steps.

The candidate is an nn.LSTM whose weights were changed as a port would change them, called with
the reference's own input. Wall seconds, the median of several runs; beside each the time of one
fused run of the layer on the same input, measured in the same loop.

    python benchmarks/compare.py [--repeat 3] [--hidden 256]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import rnnscope as rs

GOALS = {
    "agrees": 1.0,
    "one cause": 1.0,
    "two causes": 4.0,
    "three causes": 6.0,
    "unexplained": 6.0,
}


def order(layer: nn.LSTM, gates: str) -> None:
    """Rows as a framework with another gate order would read them."""
    for name, parameter in layer.named_parameters():
        if not name.startswith("weight_hr"):
            blocks = dict(zip("ifgo", parameter.data.chunk(4), strict=True))
            parameter.data = torch.cat([blocks["ifgo"[gates.index(g)]] for g in "ifgo"])


def drop(layer: nn.LSTM, name: str) -> None:
    """One bias of every layer left out."""
    for k in range(layer.num_layers):
        getattr(layer, f"{name}_l{k}").data.zero_()


def swap_layer(layer: nn.LSTM) -> None:
    """W_hh of layer 1 transposed, gate by gate."""
    weight = layer.weight_hh_l1
    blocks = weight.data.chunk(4)
    weight.data = torch.cat([block.T for block in blocks])


def noise(layer: nn.LSTM) -> None:
    """All weights a little off: in the catalogue there is no such mistake."""
    for parameter in layer.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)


CASES: dict[str, tuple[Callable[[nn.LSTM], None], ...]] = {
    "agrees": (),
    "one cause": (lambda layer: order(layer, "ifog"),),
    "two causes": (lambda layer: order(layer, "ifog"), lambda layer: drop(layer, "bias_hh")),
    "three causes": (
        lambda layer: order(layer, "ifog"),
        lambda layer: drop(layer, "bias_hh"),
        swap_layer,
    ),
    "unexplained": (noise,),
}


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    options = parser.parse_args()
    torch.manual_seed(0)
    reference = nn.LSTM(64, options.hidden, num_layers=2)
    x = torch.randn(100, 16, 64)
    print(f"{'':14}{'seconds':>9}{'goal':>7}{'fused runs':>12}   causes")
    for name, changes in CASES.items():
        candidate = nn.LSTM(64, options.hidden, num_layers=2)
        candidate.load_state_dict(reference.state_dict())
        for change in changes:
            change(candidate)
        seconds: list[float] = []
        fused: list[float] = []
        for _ in range(options.repeat):
            started = time.perf_counter()
            with torch.no_grad():
                reference(x)
            fused.append(time.perf_counter() - started)
            started = time.perf_counter()
            verdict = rs.compare(candidate, reference, x)
            seconds.append(time.perf_counter() - started)
        median = statistics.median(seconds)
        causes = "; ".join(map(str, verdict.causes)) or ("-" if verdict else "none found")
        ratio = median / statistics.median(fused)
        print(f"{name:14}{median:9.2f}{GOALS[name]:7.1f}{ratio:12.0f}   {causes}")


if __name__ == "__main__":
    main()
