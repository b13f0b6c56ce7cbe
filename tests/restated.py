"""Recurrent layers in NumPy loops, with something wrong around the steps: the judge of what the
comparison reads off the numbers.

Written from the equations that PyTorch documents, and from nothing of the package. Without options
it computes what torch.nn does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, Any]
Begins = Callable[[int, int], bool]

KINDS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def sigma(a: Array) -> Array:
    value: Array = 1 / (1 + np.exp(-a))
    return value


def layer_of(kind: str, *, seed: int = 0, size: float = 0.8, **options: Any) -> nn.Module:
    """A layer of torch with random parameters, 3 → 4 units unless told otherwise."""
    torch.manual_seed(seed)
    options = {"input_size": 3, "hidden_size": 4, **options}
    layer = KINDS[kind](**options)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -size, size)
    return layer.eval()


@dataclass
class Restated:
    """A layer of torch.nn, time first, as ``f(x, initial)``.

    ``begins(time, row)``: the state begins anew before that step, of the ``wiped`` states, from
    zeros or (``to_given``) the initial ones. ``limit`` cuts the state ``cut`` off, before it is
    used or (``carried``) where it is carried alone. ``steps(backward, T)`` are those that a loop
    takes. ``weights`` changes the state dict, ``between`` what a layer hands on, ``returned`` the
    output and the final states.
    """

    layer: nn.Module
    begins: Begins = lambda time, row: False
    wiped: str = "hc"
    to_given: bool = False
    limit: float = np.inf
    cut: str = "c"
    carried: bool = False
    steps: Callable[[bool, int], Sequence[int]] = lambda back, T: range(T)[:: -1 if back else 1]
    weights: Callable[[dict[str, Array]], Mapping[str, Array]] = lambda w: w
    between: Callable[[Array], Array] = lambda h: h
    returned: Callable[[Array, list[Array]], tuple[Array, list[Array]]] = lambda y, s: (y, s)

    def __call__(self, x: Any, initial: Any = None) -> Any:
        x = np.asarray(x)
        layer: Any = self.layer
        own = {k: v.detach().numpy().astype(x.dtype) for k, v in layer.state_dict().items()}
        w = dict(self.weights(own))
        L, D, H = layer.num_layers, 1 + layer.bidirectional, layer.hidden_size
        names = "hc" if isinstance(layer, nn.LSTM) else "h"
        given = initial if isinstance(initial, tuple | list) else [initial]
        zero = np.zeros((L * D, x.shape[1], H), x.dtype)
        start = {
            n: zero if g is None else np.asarray(g)
            for n, g in zip(names, [*given, None], strict=False)
        }
        ends: dict[str, list[Array]] = {n: [] for n in names}
        for k in range(L):
            halves = []
            for d in range(D):
                suffix = f"_l{k}" + "_reverse" * d
                part = {n[: -len(suffix)]: v for n, v in w.items() if n.endswith(suffix)}
                y, state = self._run(part, x, {n: start[n][k * D + d] for n in names}, bool(d))
                halves.append(y)
                for n in names:
                    ends[n].append(state[n])
            x = np.concatenate(halves, -1)
            x = self.between(x) if k < L - 1 else x
        y, states = self.returned(x, [np.stack(ends[n]) for n in names])
        return y, tuple(states) if len(states) > 1 else states[0]

    def _run(
        self, w: Mapping[str, Array], x: Array, first: dict[str, Array], back: bool
    ) -> tuple[Array, dict[str, Array]]:
        state = {n: v.copy() for n, v in first.items()}
        y = np.zeros((*x.shape[:2], first["h"].shape[-1]), x.dtype)
        for t in self.steps(back, len(x)):
            for row in range(x.shape[1]):
                if self.begins(t, row):
                    for n in self.wiped:
                        if n in state:
                            state[n][row] = first[n][row] if self.to_given else 0
            state, y[t] = self._step(w, x[t], state)
        return y, state

    def _step(
        self, w: Mapping[str, Array], x: Array, state: dict[str, Array]
    ) -> tuple[dict[str, Array], Array]:
        h = state["h"]
        none = np.zeros(len(w["weight_ih"]), x.dtype)
        a = x @ w["weight_ih"].T + w.get("bias_ih", none)
        b = h @ w["weight_hh"].T + w.get("bias_hh", none)
        limit = min(self.limit, np.finfo(x.dtype).max)
        if isinstance(self.layer, nn.RNN):
            function = np.tanh if self.layer.nonlinearity == "tanh" else lambda v: np.maximum(v, 0)
            h = function(a + b)
        elif isinstance(self.layer, nn.GRU):
            (ar, az, an), (br, bz, bn) = np.split(a, 3, -1), np.split(b, 3, -1)
            r, z = sigma(ar + br), sigma(az + bz)
            h = (1 - z) * np.tanh(an + r * bn) + z * h
        else:
            i, f, g, o = np.split(a + b, 4, -1)
            c = sigma(f) * state["c"] + sigma(i) * np.tanh(g)
            kept = np.clip(c, -limit, limit) if self.cut == "c" else c
            h = sigma(o) * np.tanh(c if self.carried else kept)
            if self.cut == "h":
                h = np.clip(h, -limit, limit)
            return {"h": h.astype(x.dtype), "c": kept.astype(x.dtype)}, h.astype(x.dtype)
        if self.cut == "h":
            h = np.clip(h, -limit, limit)
        return {"h": h.astype(x.dtype)}, h.astype(x.dtype)


def recorded(candidate: Any, x: torch.Tensor, initial: Any = None) -> dict[str, Array]:
    """What it returns, by name."""
    given = initial
    if isinstance(initial, tuple):
        given = tuple(value.numpy() for value in initial)
    elif initial is not None:
        given = initial.numpy()
    y, states = candidate(x.numpy(), given)
    states = states if isinstance(states, tuple) else (states,)
    names = ("h_n", "c_n")[: len(states)]
    return {"output": y} | dict(zip(names, states, strict=True))


def drawn(layer: Any, steps: int = 9, batch: int = 3, seed: int = 1) -> tuple[torch.Tensor, Any]:
    """An x, time first, and initial states."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(layer.parameters()).dtype
    x = torch.randn(steps, batch, layer.input_size, generator=generator, dtype=dtype)
    rows = layer.num_layers * (1 + layer.bidirectional)
    states = [
        torch.randn(rows, batch, layer.hidden_size, generator=generator, dtype=dtype) / 2
        for _ in range(1 + isinstance(layer, nn.LSTM))
    ]
    return x, tuple(states) if len(states) > 1 else states[0]
