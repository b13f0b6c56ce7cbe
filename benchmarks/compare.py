"""What a verdict costs: computing time on one thread, beside the bars and the layer's own forward.

The candidate is a function around an nn.LSTM (nn.GRU, nn.RNN) whose weights or output were changed
as a port would change them. It is given to be called, or as the output and final states that it
returned for one input of 30 steps and 8 rows. Time of the process on the processor, the median of
several runs.

    python benchmarks/compare.py [--kind lstm gru rnn] [--shape 10-20 ...] [--repeat 3]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import rnnscope as rs

GOALS = {"agrees": 1.0, "one cause": 1.0, "two causes": 2.0, "unexplained": 4.0}
"""Seconds."""

SHAPES: dict[str, dict[str, Any]] = {
    "10-20": {"input_size": 10, "hidden_size": 20},
    "64-128": {"input_size": 64, "hidden_size": 128},
    "128-256": {"input_size": 128, "hidden_size": 256},
    "2x2x64": {"input_size": 64, "hidden_size": 64, "num_layers": 2, "bidirectional": True},
}

LETTERS = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
"""Gates in torch's order."""

Layer = Any
Change = Callable[[Layer], None]


def rotated(layer: Layer) -> None:
    """Rows as a framework with another gate order would read them; of the one gate of an RNN the
    bias of the state left out."""
    gates = len(LETTERS[layer.mode[:4].lower().rstrip("_")])
    if gates == 1:
        return without_bias(layer)
    for parameter in layer.parameters():
        first, second, *others = parameter.data.chunk(gates)
        parameter.data = torch.cat([second, first, *others])
    return None


def without_bias(layer: Layer) -> None:
    """One bias of every layer left out."""
    for name, parameter in layer.named_parameters():
        if name.startswith("bias_hh"):
            parameter.data.zero_()


def transposed(layer: Layer) -> None:
    """W_hh of the first layer transposed, gate by gate."""
    weight = layer.weight_hh_l0
    blocks = weight.data.split(layer.hidden_size)
    weight.data = torch.cat([block.T for block in blocks])


def noisy(layer: Layer) -> None:
    """All weights a little off: in the catalogue there is no such mistake."""
    for parameter in layer.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)


def drawn_again(layer: Layer) -> None:
    """Other weights altogether."""
    for parameter in layer.parameters():
        parameter.data.uniform_(-0.1, 0.1)


def backwards(output: torch.Tensor) -> torch.Tensor:
    """The output turned around in time."""
    return output.flip(0)


def cubed(output: torch.Tensor) -> torch.Tensor:
    """A function that no entry has."""
    return output + 0.1 * output**3


Case = tuple[str, tuple[Change, ...], Callable[[torch.Tensor], torch.Tensor] | None]

CASES: dict[str, Case] = {
    "right": ("agrees", (), None),
    "gate order": ("one cause", (rotated,), None),
    "output reversed": ("one cause", (), backwards),
    "order, bias": ("two causes", (transposed, without_bias), None),
    "order, reversed": ("two causes", (rotated,), backwards),
    "noise": ("unexplained", (noisy,), None),
    "other weights": ("unexplained", (drawn_again,), None),
    "output cubed": ("unexplained", (), cubed),
}


def candidate(reference: Layer, case: Case) -> Callable[..., Any]:
    """A port with the mistakes of a case."""
    _, changes, after = case
    layer = copy.deepcopy(reference)
    torch.manual_seed(1)
    for change in changes:
        change(layer)

    def port(x: torch.Tensor, initial: Any = None) -> Any:
        with torch.no_grad():
            output, final = layer(x, initial)
        return (output if after is None else after(output)), final

    return port


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Of the process on the processor, with what the function returned."""
    started = time.process_time()
    value = function()
    return time.process_time() - started, value


def row(kind: str, shape: str, name: str, given: str, repeat: int) -> tuple[float, str]:
    """Seconds of a verdict, and a line."""
    torch.manual_seed(0)
    reference = getattr(nn, kind.upper())(**SHAPES[shape])
    port = candidate(reference, CASES[name])
    x = torch.randn(30, 8, reference.input_size)
    output, final = port(x)
    finals = dict(zip(("h_n", "c_n"), final if kind == "lstm" else (final,), strict=False))
    recorded = {"output": output, **finals}
    times: list[float] = []
    forward: list[float] = []
    for _ in range(repeat):
        with torch.no_grad():
            forward.append(seconds(lambda: reference(x))[0])
        compared = (port, reference) if given == "called" else (recorded, reference, x)
        spent, verdict = seconds(lambda: rs.compare(*compared, progress=False))  # noqa: B023
        times.append(spent)
    goal, median = GOALS[CASES[name][0]], statistics.median(times)
    causes = "; ".join(map(str, verdict.causes)) or ("-" if verdict else "none found")
    mark = " " if median <= goal else "!"
    return median, (
        f"{kind:5}{shape:9}{given:10}{name:17}{median:8.2f}{mark}{goal:5.0f}"
        f"{1000 * statistics.median(forward):9.1f}   {causes}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each layer and case, then the most of each bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=LETTERS, default=["lstm"])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--given", nargs="+", default=["called", "recorded"])
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rs.compare(torch.zeros(2, 1, 2), nn.GRU(1, 2), torch.ones(2, 1, 1))  # imports
    print(f"{'layer':14}{'given':10}{'case':17}{'seconds':>8}{'bar':>6}{'run, ms':>9}   causes")
    most: dict[str, float] = {}
    for kind in options.kind:
        for shape in options.shape:
            for name in options.case:
                for given in options.given:
                    median, line = row(kind, shape, name, given, options.repeat)
                    print(line, flush=True)
                    goal = CASES[name][0]
                    most[goal] = max(most.get(goal, 0.0), median)
    print("most  " + "   ".join(f"{goal} {value:.2f} s" for goal, value in most.items()))


if __name__ == "__main__":
    main()
