"""Layers in NumPy that are approximate on purpose, with mistakes beside it: written apart from the
package, on top of `planted`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from planted import FUNCTIONS, Array, Mistake, Planted


def int8_per_tensor(W: Array) -> Array:
    scale = np.abs(W).max() / 127
    return np.clip(np.round(W / scale), -127, 127) * scale


def int8_per_row(W: Array) -> Array:
    scale = np.abs(W).max(axis=-1, keepdims=True) / 127
    return np.round(W / scale).astype(np.int8) * scale


def int8_cut(W: Array) -> Array:
    scale = np.abs(W).max() / 127
    return (W / scale).astype(np.int8) * scale


def uint8_zero_point(W: Array) -> Array:
    low, high = min(W.min(), 0.0), max(W.max(), 0.0)
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.round(W / scale) + zero, 0, 255) - zero) * scale


def int4_per_row(W: Array) -> Array:
    scale = np.abs(W).max(axis=-1, keepdims=True) / 7
    return np.clip(np.round(W / scale), -7, 7) * scale


def fixed_q8(W: Array) -> Array:
    return np.round(W * 256) / 256


def fixed_q8_floor(W: Array) -> Array:
    return np.floor(W * 256) / 256


def three_decimals(W: Array) -> Array:
    return np.round(W, 3)


def power_of_two_scale(W: Array) -> Array:
    scale = 2.0 ** np.ceil(np.log2(np.abs(W).max() / 127))
    return np.round(W / scale) * scale


def half(W: Array) -> Array:
    return W.astype(np.float16).astype(np.float64)


WEIGHTS: dict[str, Callable[[Array], Array]] = {
    f.__name__: f
    for f in (
        int8_per_tensor,
        int8_per_row,
        int8_cut,
        uint8_zero_point,
        int4_per_row,
        fixed_q8,
        fixed_q8_floor,
        three_decimals,
        power_of_two_scale,
        half,
    )
}


def pade(x: Array) -> Array:
    return np.clip(x * (27 + x * x) / (27 + 9 * x * x), -1, 1)


def pade_open(x: Array) -> Array:
    return x * (27 + x * x) / (27 + 9 * x * x)


def pade_cut(x: Array) -> Array:
    x = np.clip(x, -3, 3)
    return x * (27 + x * x) / (27 + 9 * x * x)


def softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


def hard(x: Array) -> Array:
    return np.clip(x, -1, 1)


def quadratic(x: Array) -> Array:
    return np.where(np.abs(x) < 2, x * (1 - np.abs(x) / 4), np.sign(x))


def table_256(x: Array) -> Array:
    grid = np.linspace(-4, 4, 256)
    index = np.clip(np.round((x + 4) / 8 * 255), 0, 255).astype(int)
    return np.tanh(grid)[index]


def table_linear(x: Array) -> Array:
    grid = np.linspace(-5, 5, 65)
    return np.interp(x, grid, np.tanh(grid))


def schraudolph(x: Array) -> Array:
    bits = (x * (2**20 / np.log(2)) + (1072693248 - 60801)).astype(np.int64) << 32
    return bits.view(np.float64)


def exp_256(x: Array) -> Array:
    return (1 + x / 256) ** 256


TANH: dict[str, Callable[[Array], Array]] = {
    f.__name__: f
    for f in (pade, pade_open, pade_cut, softsign, hard, quadratic, table_256, table_linear)
}


def by_half(tanh: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: 0.5 * (1 + tanh(x / 2))


def by_exp(exp: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: 1 / (1 + exp(-x))


def table_sigmoid(x: Array) -> Array:
    grid = np.linspace(-8, 8, 1024)
    index = np.clip(np.round((x + 8) / 16 * 1023), 0, 1023).astype(int)
    return (1 / (1 + np.exp(-grid)))[index]


SIGMOID: dict[str, Callable[[Array], Array]] = {
    "pade": by_half(pade),
    "softsign": by_half(softsign),
    "schraudolph": by_exp(schraudolph),
    "exp_256": by_exp(exp_256),
    "table_1024": table_sigmoid,
}


def port(
    kind: str,
    weights: Mapping[str, Array],
    mistakes: Iterable[Mistake] = (),
    *,
    rounded: str = "",
    tanh: str = "",
    sigmoid: str = "",
    biases: bool = False,
) -> Planted:
    """A layer with mistakes, its weights rounded, its functions fast ones."""
    changed = {
        name: WEIGHTS[rounded](np.asarray(value, np.float64))
        if rounded and (biases or np.ndim(value) == 2)
        else np.asarray(value, np.float64)
        for name, value in weights.items()
    }
    layer = Planted(kind, changed, mistakes=mistakes)
    FUNCTIONS.update({f"tanh~{name}": f for name, f in TANH.items()})
    FUNCTIONS.update({f"sigmoid~{name}": f for name, f in SIGMOID.items()})
    swapped = {"tanh": f"tanh~{tanh}" if tanh else "tanh"}
    swapped["sigmoid"] = f"sigmoid~{sigmoid}" if sigmoid else "sigmoid"
    for place, cell in layer.cells.items():
        functions = {q: swapped.get(f, f) for q, f in cell.functions.items()}
        layer.cells[place] = replace(cell, functions=functions)
    return layer


def arrays(layer: Any) -> dict[str, Array]:
    """The state dict of a layer of torch, in NumPy."""
    return {name: value.detach().numpy() for name, value in layer.state_dict().items()}
