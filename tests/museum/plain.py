"""What the exhibits share: a layer with weights that show mistakes, as arrays, and plain steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, Any]


def sigmoid(a: Array) -> Array:
    value: Array = 1 / (1 + np.exp(-a))
    return value


def trained(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer in float64 with weights and biases as large as trained ones."""
    rng = np.random.default_rng(seed)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(rng.uniform(-0.8, 0.8, tuple(parameter.shape))))
    return layer


def arrays(layer: nn.Module) -> dict[str, Array]:
    """The parameters by PyTorch's names."""
    return {name: value.detach().numpy().copy() for name, value in layer.named_parameters()}


def part(weights: dict[str, Array], suffix: str = "_l0") -> tuple[Array, Array, Array, Array]:
    """W_ih, W_hh, b_ih, b_hh of one layer in one direction."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    W_ih, W_hh, b_ih, b_hh = (weights[name + suffix] for name in names)
    return W_ih, W_hh, b_ih, b_hh


def lstm_step(
    weights: tuple[Array, Array, Array, Array], x: Array, h: Array, c: Array
) -> tuple[Array, Array]:
    """One right step, of x (batch, feature)."""
    W_ih, W_hh, b_ih, b_hh = weights
    i, f, g, o = np.split(x @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(weights: tuple[Array, Array, Array, Array], x: Array, h: Array) -> Array:
    """One right step, of x (batch, feature)."""
    W_ih, W_hh, b_ih, b_hh = weights
    x_r, x_z, x_n = np.split(x @ W_ih.T + b_ih, 3, axis=-1)
    h_r, h_z, h_n = np.split(h @ W_hh.T + b_hh, 3, axis=-1)
    z = sigmoid(x_z + h_z)
    new: Array = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
    return new


def lstm_run(
    weights: tuple[Array, Array, Array, Array], x: Array, h: Array, c: Array
) -> tuple[Array, Array, Array]:
    """All outputs of x (time, batch, feature), and the last h and c."""
    outputs = []
    for x_t in x:
        h, c = lstm_step(weights, x_t, h, c)
        outputs.append(h)
    return np.stack(outputs), h, c


def _sigmoid_slope(y: Array) -> Array:
    return y * (1 - y)


def _tanh_slope(y: Array) -> Array:
    return 1 - y**2


def lstm_backward(
    x: Array,
    initial: tuple[Array, Array],
    weights: dict[str, Array],
    grad_output: Array,
    grad_final: tuple[Array, Array],
    slopes: tuple[Callable[[Array], Array], ...] = (_sigmoid_slope, _tanh_slope),
    back: Callable[[Array, Array], Array] = lambda dc, f: dc * f,
) -> dict[str, Array]:
    """A right backward pass of one LSTM, of x (time, batch, feature); ``slopes`` are those of
    sigmoid and tanh, of their values, and ``back`` gives dc of the step before."""
    W_ih, W_hh, b_ih, b_hh = part(weights)
    of_sigmoid, of_tanh = slopes
    (h, c), steps = (initial[0][0], initial[1][0]), []
    for x_t in x:
        i, f, g, o = np.split(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        steps.append((x_t, h, c, i, f, g, o, f * c + i * g))
        c = f * c + i * g
        h = o * np.tanh(c)
    total = {name: np.zeros_like(value) for name, value in weights.items()}
    dx, dh, dc = [], grad_final[0][0], grad_final[1][0]
    for t in reversed(range(len(x))):
        x_t, h_prev, c_prev, i, f, g, o, c = steps[t]
        dh = dh + grad_output[t]
        dc = dc + dh * o * of_tanh(np.tanh(c))
        di, df, dg = dc * g * of_sigmoid(i), dc * c_prev * of_sigmoid(f), dc * i * of_tanh(g)
        da = np.concatenate([di, df, dg, dh * np.tanh(c) * of_sigmoid(o)], -1)
        for name, read in (("weight_ih_l0", x_t), ("weight_hh_l0", h_prev)):
            total[name] += da.T @ read
        for name in ("bias_ih_l0", "bias_hh_l0"):
            total[name] += da.sum(0)
        dx.insert(0, da @ W_ih)
        dh, dc = da @ W_hh, back(dc, f)
    return total | {"x": np.stack(dx), "h_0": dh, "c_0": dc}


def zeros(x: Array, hidden: int) -> Array:
    """A state of zeros for x (time, batch, feature)."""
    return np.zeros((x.shape[1], hidden), x.dtype)


def start(initial: Any, x: Array, hidden: int) -> tuple[Array, Array]:
    """h_0 and c_0 of a single LSTM, zeros where none were given."""
    if initial is None:
        return zeros(x, hidden), zeros(x, hidden)
    return np.asarray(initial[0])[0], np.asarray(initial[1])[0]


def first(initial: Any, x: Array, hidden: int) -> Array:
    """h_0 of a single GRU or RNN, zeros where none was given."""
    return zeros(x, hidden) if initial is None else np.asarray(initial)[0]
