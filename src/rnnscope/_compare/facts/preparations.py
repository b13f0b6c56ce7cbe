"""What x may be made to before a layer reads it, by functions that leave nothing to be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

__all__ = ["FEATURES", "ORDERS", "PREPARATIONS", "READ", "SHIFTS", "shifted"]

Function = Callable[[Tensor], Tensor]


def _exchanged(x: Tensor, first: int, second: int) -> Tensor:
    """Two axes exchanged where they are equally long; else x as it is."""
    return x.transpose(first, second) if x.shape[first] == x.shape[second] else x


READ: dict[str, tuple[Function, str, str, str]] = {
    "rolled": (
        lambda x: x.roll(1, -1),
        "x is read one place too early: feature k in place of k + 1",
        "each weight meets its own feature",
        "x = x   # not np.roll(x, 1, -1): mind where the first number stands",
    ),
    "rolled_back": (
        lambda x: x.roll(-1, -1),
        "x is read one place too late: feature k + 1 in place of k",
        "each weight meets its own feature",
        "x = x   # not np.roll(x, -1, -1): mind where the first number stands",
    ),
    "reversed": (
        lambda x: x.flip(-1),
        "the features of x are read in the opposite order",
        "each weight meets its own feature",
        "x = x   # not x[..., ::-1]",
    ),
    "exchanged_time_feature": (
        partial(_exchanged, first=0, second=2),
        "time and features of x are exchanged",
        "both are equally long, so that no shape tells it: step t reads feature t of all steps",
        "x = x   # not x.swapaxes({time}, 2)",
    ),
    "exchanged_batch_feature": (
        partial(_exchanged, first=1, second=2),
        "batch and features of x are exchanged",
        "both are equally long, so that no shape tells it: row k reads feature k of all rows",
        "x = x   # not x.swapaxes({batch}, 2)",
    ),
    "exchanged_time_batch": (
        partial(_exchanged, first=0, second=1),
        "time and batch of x are exchanged",
        "both are equally long, so that no shape tells it: at step t row k reads row t at step k",
        "x = x   # not x.swapaxes(0, 1)",
    ),
    "reshaped": (
        lambda x: x.transpose(0, 1).reshape(x.shape),
        "x is reshaped from (batch, time) to (time, batch), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(0, 1)   # not x.reshape(time, batch, -1)",
    ),
    "reshaped_back": (
        lambda x: x.reshape(x.shape[1], x.shape[0], -1).transpose(0, 1),
        "x is reshaped from (time, batch) to (batch, time), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(0, 1)   # not x.reshape(batch, time, -1)",
    ),
    "features_first": (
        lambda x: x.permute(1, 2, 0).reshape(x.shape[1], *x.shape[::2]).transpose(0, 1),
        "x of (feature, time) is reshaped to (time, feature), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(-1, -2)   # not x.reshape(time, feature)",
    ),
    "time_first": (
        lambda x: x.transpose(0, 1).reshape(*x.shape[1:], -1).permute(2, 0, 1),
        "x of (time, feature) is reshaped to (feature, time), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(-1, -2)   # not x.reshape(feature, time)",
    ),
    "first_row": (
        lambda x: x[:, :1].expand_as(x),
        "every row reads the x of row 0",
        "each row has its own x",
        "x[t, row]   # with the stride of a row",
    ),
    "held": (
        lambda x: x[torch.arange(len(x), device="cpu") // 2 * 2],
        "every second step of x is read twice, the others never",
        "each step has its own x",
        "for t in range(T):   # one step at a time",
    ),
    "off_by_one": (
        lambda x: torch.cat([0 * x[..., :1], x[..., :-1]], -1),
        "x is read one place too late: feature k - 1 in place of k, the first is zero",
        "each weight meets its own feature",
        "x = x   # mind whether the first index is 0 or 1",
    ),
    "off_by_one_back": (
        lambda x: torch.cat([x[..., 1:], 0 * x[..., :1]], -1),
        "x is read one place too early: feature k + 1 in place of k, the last is zero",
        "each weight meets its own feature",
        "x = x   # mind whether the first index is 0 or 1",
    ),
}
"""What x may be read as, with title, sentence and line, in which ``{time}`` and ``{batch}`` are the
numbers of these axes."""

ORDERS, FEATURES = ("rolled", "rolled_back", "reversed", "off_by_one", "off_by_one_back"), 3
"""Those that exchange features, and how many there must be."""

SHIFTS = (
    (1, "zeros", "zeros at the end"),
    (1, "around", "x[0] at the end"),
    (1, "held", "the last once more at the end"),
    (-1, "around", "the last at the start"),
    (-1, "held", "the first twice"),
    (2, "zeros", "zeros at the end"),
    (2, "around", "what stands at the other end at the end"),
    (2, "held", "the nearest once more at the end"),
    (-2, "zeros", "zeros at the start"),
    (-2, "around", "what stands at the other end at the start"),
    (-2, "held", "the nearest once more at the start"),
)
"""Steps by which x may be read early, or late, and what stands where x has nothing, in words; one
step late with zeros is listed."""


def shifted(x: Tensor, shift: int, ends: str | Tensor) -> Tensor:
    """X some steps early, or late where below zero; with zeros, what stands at the other end, the
    nearest once more, or some numbers where x has nothing."""
    count = abs(shift)
    if ends == "around":
        return x.roll(-shift, 0)
    nearest = x[-1:] if shift > 0 else x[:1]
    beyond = ends if isinstance(ends, Tensor) else nearest if ends == "held" else 0 * nearest
    beyond = beyond.expand(count, *x.shape[1:])
    return torch.cat([x[shift:], beyond] if shift > 0 else [beyond, x[:shift]])[: len(x)]


OVER: dict[tuple[int, ...], tuple[str, str]] = {
    (0,): ("each feature of each row, over time", "time"),
    (0, 2): ("each row", "(time, feature)"),
    (2,): ("each step, over its features", "feature"),
    (0, 1): ("each feature, over all rows and steps", "(time, batch)"),
    (0, 1, 2): ("all of it together", "all"),
    (1,): ("each feature of each step, over the batch", "batch"),
}
"""Axes of (time, batch, feature) over which x may be standardised."""

EPSILONS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3)
"""What is added so as not to divide by zero."""

GRIDS = (1, 2, 4, 8, 10, 16, 32, 64, 100, 127, 128, 255, 256, 1000, 4096, 10000, 32767, 32768)
"""Of so many parts of one x may be rounded to a multiple."""

FUNCTIONS: dict[str, Function] = {
    "relu": torch.relu,
    "abs": torch.abs,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "log1p": torch.log1p,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "sign": torch.sign,
    "softmax": lambda x: torch.softmax(x, -1),
    "cumsum": lambda x: x.cumsum(0),
    "float16": lambda x: x.to(torch.float16).to(x.dtype),
    "bfloat16": lambda x: x.to(torch.bfloat16).to(x.dtype),
}

ROUNDED: dict[str, tuple[Function, str]] = {
    "rounded": (torch.round, "round"),
    "truncated": (torch.trunc, "trunc"),
    "rounded down": (torch.floor, "floor"),
}


def _centred(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return x - x.mean(over, keepdim=True)


def _ranged(x: Tensor, over: tuple[int, ...]) -> Tensor:
    low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    return (x - low) / (high - low)


OVER_AXES: dict[str, tuple[Callable[..., Tensor], str, str]] = {
    "ranged": (_ranged, "x is scaled to 0 ... 1", "(x - min({0})) / range"),
    "centred": (_centred, "the mean is subtracted from x", "x - mean({0})"),
    "divided": (
        lambda x, over: x / x.abs().amax(over, keepdim=True),
        "x is divided by its largest absolute value",
        "x / max|x|({0})",
    ),
    "normed": (
        lambda x, over: x / x.square().sum(over, keepdim=True).sqrt(),
        "x is divided by its norm",
        "x / norm({0})",
    ),
}
"""What x may be made to over some axes, with title and code."""


def _standardised(
    x: Tensor, over: tuple[int, ...], sample: int, within: float, beside: float
) -> Tensor:
    """(x - mean) / deviation, with what is added to the variance and to the deviation."""
    centred, count = _centred(x, over), math.prod(x.shape[axis] for axis in over) - sample
    variance = centred.square().sum(over, keepdim=True) / count
    return centred / ((variance + within).sqrt() + beside)


def _all() -> Iterator[tuple[str, Function, str, str]]:
    for axes, (words, code) in OVER.items():
        title, line = f"x is standardised once more, {words}", f"(x - mean({code})) / std({code})"
        for sample, epsilon in product((0, 1), EPSILONS):
            for within, beside in dict.fromkeys(((0.0, epsilon), (epsilon, 0.0))):
                way = partial(_standardised, over=axes, sample=sample, within=within, beside=beside)
                yield "standardised", way, title, line
        for name, (function, title, line) in OVER_AXES.items():
            yield name, partial(function, over=axes), f"{title}, {words}", line.format(code)
    for name, simple in FUNCTIONS.items():
        yield name, simple, f"x is read through {name}", f"{name}(x)"
    for first in (0.0, 1.0):
        title = "x is read as its differences from step to step"
        yield "differences", partial(_differences, first=first), title, "x[t] - x[t - 1]"
    for parts, (name, (nearest, code)) in product(GRIDS, ROUNDED.items()):
        multiples = "whole numbers" if parts == 1 else f"multiples of 1/{parts}"
        code = f"{code}(x)" if parts == 1 else f"{code}({parts} x) / {parts}"
        on_grid = partial(_on_grid, parts=parts, way=nearest)
        yield name, on_grid, f"x is {name} to {multiples}", code


def _differences(x: Tensor, first: float) -> Tensor:
    return torch.cat([first * x[:1], x[1:] - x[:-1]])


def _on_grid(x: Tensor, parts: int, way: Function) -> Tensor:
    return way(x * parts) / parts


PREPARATIONS: tuple[tuple[str, Function, str, str], ...] = tuple(_all())
"""Name, function of x (time, batch, feature), title, and the line of code."""
