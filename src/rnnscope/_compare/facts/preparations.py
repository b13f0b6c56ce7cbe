"""What x may be made to before a layer reads it, by functions that leave nothing to be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

__all__ = ["PREPARATIONS"]

Function = Callable[[Tensor], Tensor]

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

ROUNDED: dict[str, Function] = {
    "rounded": torch.round,
    "truncated": torch.trunc,
    "rounded down": torch.floor,
}


def _standardised(
    x: Tensor, over: tuple[int, ...], sample: int, within: float, beside: float
) -> Tensor:
    """(x - mean) / deviation, with what is added to the variance and to the deviation."""
    moved = _moved(x, over)
    count = math.prod(x.shape[axis] for axis in over) - sample
    variance = moved.square().sum(over, keepdim=True) / count
    return moved / ((variance + within).sqrt() + beside)


def _spread(x: Tensor, over: tuple[int, ...]) -> Tensor:
    low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    return (x - low) / (high - low)


def _moved(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return x - x.mean(over, keepdim=True)


def _divided(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return x / x.abs().amax(over, keepdim=True)


def _normed(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return x / x.square().sum(over, keepdim=True).sqrt()


def _differences(x: Tensor, kept: bool) -> Tensor:
    return torch.cat([x[:1] if kept else 0 * x[:1], x[1:] - x[:-1]])


def _on_grid(x: Tensor, parts: int, way: Function) -> Tensor:
    return way(x * parts) / parts


def _all() -> Iterator[tuple[str, Function, str, str]]:
    for axes, (words, code) in OVER.items():
        for sample in (0, 1):
            for epsilon in EPSILONS:
                beside = partial(
                    _standardised, over=axes, sample=sample, within=0.0, beside=epsilon
                )
                inside = partial(
                    _standardised, over=axes, sample=sample, within=epsilon, beside=0.0
                )
                for reads in (beside, inside) if epsilon else (beside,):
                    title = f"x is standardised once more, {words}"
                    yield "standardised", reads, title, f"(x - mean({code})) / std({code})"
        of_range = partial(_spread, over=axes)
        yield "ranged", of_range, f"x is scaled to 0 ... 1, {words}", f"(x - min({code})) / range"
        moved = partial(_moved, over=axes)
        yield "centred", moved, f"the mean is subtracted from x, {words}", f"x - mean({code})"
        divided = partial(_divided, over=axes)
        title = f"x is divided by its largest absolute value, {words}"
        yield "divided", divided, title, f"x / max|x|({code})"
        normed = partial(_normed, over=axes)
        yield "normed", normed, f"x is divided by its norm, {words}", f"x / norm({code})"
    for name, function in FUNCTIONS.items():
        yield name, function, f"x is read through {name}", f"{name}(x)"
    for kept in (True, False):
        changes = partial(_differences, kept=kept)
        title = "x is read as its differences from step to step"
        yield "differences", changes, title, "x[t] - x[t - 1]"
    for parts in GRIDS:
        for name, way in ROUNDED.items():
            multiples = "whole numbers" if parts == 1 else f"multiples of 1/{parts}"
            code = {"rounded": "round", "truncated": "trunc", "rounded down": "floor"}[name]
            code = f"{code}(x)" if parts == 1 else f"{code}({parts} x) / {parts}"
            on_grid = partial(_on_grid, parts=parts, way=way)
            yield name, on_grid, f"x is {name} to {multiples}", code


PREPARATIONS: tuple[tuple[str, Function, str, str], ...] = tuple(_all())
"""Name, function of x (time, batch, feature), title, and the line of code."""
