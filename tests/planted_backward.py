"""Backpropagation through time in NumPy with mistakes planted on purpose: the judge of causes.

Written from the chain rule on the equations that PyTorch documents for nn.RNN, nn.GRU and nn.LSTM,
and from nothing of the package. Without mistakes it gives what autograd gives; a mistake is a name
with a choice, everywhere or in one layer and direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Step = dict[str, Array]

GATES = {"rnn_tanh": "h", "rnn_relu": "h", "gru": "rzn", "lstm": "ifgo", "lstm_projected": "ifgo"}


@dataclass(frozen=True)
class Mistake:
    """One mistake; a layer or direction of None is every one."""

    name: str
    choice: str = ""
    layer: int | None = None
    direction: str | None = None


def sigmoid(a: Array) -> Array:
    value: Array = 1 / (1 + np.exp(-a))
    return value


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda a: np.maximum(a, 0),
}
DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda y: 1 - y**2,
    "sigmoid": lambda y: y * (1 - y),
    "relu": lambda y: (y > 0).astype(y.dtype),
}
"""Of the value."""


@dataclass
class Part:
    """One layer in one direction: its parameters and the mistakes in it. ``spoiled`` changes the
    gates' gradients of a step, in a way of its own."""

    kind: str
    W_ih: Array
    W_hh: Array
    b_ih: Array
    b_hh: Array
    W_hr: Array | None
    mistakes: Sequence[Mistake]
    spoiled: Callable[[Array, int], Array] | None = None
    steps: list[Step] = field(default_factory=list)

    def has(self, name: str, choice: str) -> bool:
        return any(m.name == name and m.choice == choice for m in self.mistakes)

    def chosen(self, name: str) -> list[str]:
        return [m.choice for m in self.mistakes if m.name == name]

    # forward

    def forward(self, xs: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
        outputs = []
        for x in xs:
            step = self._step(x, h, c)
            self.steps.append(step)
            h, c = step["h"], step.get("c", c)
            outputs.append(h)
        return np.stack(outputs), h, c

    def _step(self, x: Array, h: Array, c: Array) -> Step:
        a_x, a_h = x @ self.W_ih.T + self.b_ih, h @ self.W_hh.T + self.b_hh
        step = {"x": x, "h_prev": h, "c_prev": c}
        if self.kind.startswith("rnn"):
            a = a_x + a_h
            return step | {"a_h": a, "h": FUNCTIONS[self.kind.removeprefix("rnn_")](a)}
        if self.kind == "gru":
            (rx, zx, nx), (rh, zh, nh) = np.split(a_x, 3, -1), np.split(a_h, 3, -1)
            r, z = sigmoid(rx + rh), sigmoid(zx + zh)
            a_n = nx + r * nh
            n = np.tanh(a_n)
            named = {
                "a_r": rx + rh,
                "a_z": zx + zh,
                "a_n": a_n,
                "r": r,
                "z": z,
                "n": n,
                "W_hn h": nh,
            }
            return step | named | {"h": (1 - z) * n + z * h}
        a_i, a_f, a_g, a_o = np.split(a_x + a_h, 4, -1)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c = f * c + i * g
        m = o * np.tanh(c)
        named = {"a_i": a_i, "a_f": a_f, "a_g": a_g, "a_o": a_o, "i": i, "f": f, "g": g, "o": o}
        h = m if self.W_hr is None else m @ self.W_hr.T
        return step | named | {"c": c, "m": m, "h": h}

    # backward

    def through(self, equation: str, leaf: str, upstream: Array, factor: Array) -> Array:
        """The gradient that goes from an equation to what it uses."""
        way = f"{equation} to {leaf}"
        value = upstream if self.has("factor", way) else upstream * factor
        if self.has("way_missing", way):
            value = 0 * value
        return -value if self.has("sign", way) else value

    def slope(self, where: str, function: str, y: Array, a: Array) -> Array:
        """The derivative of a function, right or wrong."""
        for choice in self.chosen("slope"):
            rule, _, place = choice.partition(" ")
            if place in (where, f"every {function}", "every function"):
                return {
                    "missing": lambda: np.ones_like(y),
                    "at_argument": lambda: DERIVATIVES[function](a),
                    "of_output": lambda: DERIVATIVES[function](FUNCTIONS[function](y)),
                    "value": lambda: y,
                }[rule]()
        return DERIVATIVES[function](y)

    def backward(self, d_out: Array, dh: Array, dc: Array) -> dict[str, Array]:
        count = len(self.steps)
        names = ("W_ih", "W_hh", "b_ih", "b_hh")
        total = {name: np.zeros_like(getattr(self, name)) for name in names}
        if self.W_hr is not None:
            total["W_hr"] = np.zeros_like(self.W_hr)
        if self.chosen("final_ignored"):
            dh = (
                0 * dh if self.has("final_ignored", "h") or self.has("final_ignored", "all") else dh
            )
            dc = (
                0 * dc if self.has("final_ignored", "c") or self.has("final_ignored", "all") else dc
            )
        dxs = []
        for s in reversed(range(count)):
            step, direct = self.steps[s], d_out[s]
            if self.has("direct_part", "0") or (self.has("direct_part", "last") and s < count - 1):
                direct = 0 * direct
            dh = dh + (2 if self.has("direct_part", "2") else 1) * direct
            for choice in self.chosen("truncated"):
                rule, _, k = choice.partition(" ")
                if rule == "last" and s < count - int(k):
                    dh, dc = 0 * dh, 0 * dc
            of_x, of_h, dh, dc = self._back(step, dh, dc, total, s)
            for choice in self.chosen("truncated"):
                rule, _, k = choice.partition(" ")
                if rule == "every" and s and s % int(k) == 0:
                    dh, dc = 0 * dh, 0 * dc
            used = not (
                (self.has("one_step", "first") and s > 0)
                or (self.has("one_step", "last") and s < count - 1)
            )
            if used:
                total["W_ih"] += of_x.T @ self._x(s)
                total["W_hh"] += of_h.T @ self._h(s)
                total["b_ih"] += of_x.sum(0)
                total["b_hh"] += of_h.sum(0)
            dxs.append(of_x @ self.W_ih)
        total |= {"x": np.stack(dxs[::-1]), "h_0": dh, "c_0": dc}
        return self._finished(total)

    def _x(self, s: int) -> Array:
        shift = {"earlier": -1, "later": 1}
        for choice in self.chosen("x_of_dw"):
            at = s + shift[choice]
            return self.steps[at]["x"] if 0 <= at < len(self.steps) else 0 * self.steps[s]["x"]
        return self.steps[s]["x"]

    def _h(self, s: int) -> Array:
        if self.has("h_of_dw", "after"):
            return self.steps[s]["h"]
        if self.has("h_of_dw", "zeros") and s == 0:
            return 0 * self.steps[0]["h_prev"]
        return self.steps[s]["h_prev"]

    def _to_h(self, of_h: Array, direct: Array | None) -> Array:
        """dL/dh_(t-1), of the gates' gradients and of what goes there straight."""
        W = self.W_hh
        if self.chosen("w_hh_transposed"):
            W = np.concatenate([block.T for block in np.split(W, len(GATES[self.kind]))])
        by_matrix = of_h @ W
        if self.has("through_state", "h"):
            return 0 * by_matrix
        if self.has("through_state", "W_hh"):
            by_matrix = 0 * by_matrix
        if direct is None:
            return by_matrix
        return by_matrix + (0 * direct if self.has("through_state", "direct h") else direct)

    def _back(
        self, step: Step, dh: Array, dc: Array, total: dict[str, Array], s: int
    ) -> tuple[Array, Array, Array, Array]:
        """The gradients of a step's gates as x and h enter them, of h_(t-1) and of c_(t-1)."""
        if self.kind.startswith("rnn"):
            function = self.kind.removeprefix("rnn_")
            da = dh * self.slope("h", function, step["h"], step["a_h"])
            da = da if self.spoiled is None else self.spoiled(da, s)
            return da, da, self._to_h(da, None), dc
        if self.kind == "gru":
            return (*self._back_gru(step, dh, s), dc)
        dm = dh
        if self.W_hr is not None:
            dm = dh @ self.W_hr
            if not (
                (self.has("one_step", "first") and s > 0)
                or (self.has("one_step", "last") and s < len(self.steps) - 1)
            ):
                total["W_hr"] += dh.T @ step["m"]
        of = "h" if self.W_hr is None else "m"
        tanh_c = np.tanh(step["c"])
        do = self.through(of, "o", dm, tanh_c)
        slope = self.slope("tanh(c)", "tanh", tanh_c, step["c"])
        dc = dc + self.through(of, "c", dm, step["o"] * slope)
        df = self.through("c", "f", dc, step["c_prev"])
        di = self.through("c", "i", dc, step["g"])
        dg = self.through("c", "g", dc, step["i"])
        da = np.concatenate(
            [
                d * self.slope(k, "tanh" if k == "g" else "sigmoid", step[k], step[f"a_{k}"])
                for k, d in (("i", di), ("f", df), ("g", dg), ("o", do))
            ],
            -1,
        )
        da = da if self.spoiled is None else self.spoiled(da, s)
        dc_prev = self.through("c", "c_(t-1)", dc, step["f"])
        if self.has("through_state", "c"):
            dc_prev = 0 * dc_prev
        return da, da, self._to_h(da, None), dc_prev

    def _back_gru(self, step: Step, dh: Array, s: int) -> tuple[Array, Array, Array]:
        r, z, n, h_prev = step["r"], step["z"], step["n"], step["h_prev"]
        dn = self.through("h", "n", dh, 1 - z)
        dz = self.through("h", "z", dh, h_prev - n)
        da_n = dn * self.slope("n", "tanh", n, step["a_n"])
        dr = self.through("n", "r", da_n, step["W_hn h"])
        da_hn = self.through("n", "W_hn h", da_n, r)
        da_r = dr * self.slope("r", "sigmoid", r, step["a_r"])
        da_z = dz * self.slope("z", "sigmoid", z, step["a_z"])
        of_x = np.concatenate([da_r, da_z, da_n], -1)
        of_h = np.concatenate([da_r, da_z, da_hn], -1)
        if self.spoiled is not None:
            of_x, of_h = self.spoiled(of_x, s), self.spoiled(of_h, s)
        direct = self.through("h", "h_(t-1)", dh, z)
        return of_x, of_h, self._to_h(of_h, direct)

    def _finished(self, total: dict[str, Array]) -> dict[str, Array]:
        for choice in self.chosen("bias"):
            rule, _, name = choice.partition(" ")
            other = "b_hh" if name == "b_ih" else "b_ih"
            total[name] = 0 * total[name] if rule == "missing" else total[other].copy()
        if self.chosen("dw_transposed"):
            blocks = np.split(total["W_hh"], len(GATES[self.kind]))
            total["W_hh"] = np.concatenate([block.T for block in blocks])
        steps, batch = len(self.steps), self.steps[0]["x"].shape[0]
        scales = {
            "mean over batch": 1 / batch,
            "mean over steps": 1 / steps,
            "mean over both": 1 / (batch * steps),
            "twice": 2.0,
        }
        for name in ("W_ih", "W_hh", "b_ih", "b_hh", "W_hr"):
            if name not in total:
                continue
            for choice in self.chosen("scale"):
                factor = scales.get(choice) or float(choice.removeprefix("times "))
                total[name] = total[name] * factor
            for choice in self.chosen("clipped"):
                total[name] = np.clip(total[name], -float(choice), float(choice))
        for state in "hc":
            if self.has("initial_zero", state) or self.has("initial_zero", "all"):
                total[f"{state}_0"] = 0 * total[f"{state}_0"]
        return total


NAMES = {"W_ih": "weight_ih", "W_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
NAMES |= {"W_hr": "weight_hr"}


@dataclass
class Planted:
    """A whole layer with the parameters of a torch layer, by their names, and mistakes in it."""

    kind: str
    weights: dict[str, Array]
    layers: int
    directions: tuple[str, ...]
    mistakes: Sequence[Mistake] = ()
    spoiled: Callable[[Array, int], Array] | None = None

    def gradients(
        self, x: Array, h_0: Array, c_0: Array, d_out: Array, d_h: Array, d_c: Array
    ) -> dict[str, Array]:
        """By name; x (time, batch, feature), states (layers × directions, batch, unit)."""
        D = len(self.directions)
        read = x
        runs: list[list[Part]] = []
        for layer in range(self.layers):
            outputs, row = [], []
            for d, direction in enumerate(self.directions):
                part = self._part(layer, direction)
                k = layer * D + d
                xs = read[::-1] if direction == "reverse" else read
                out, _, _ = part.forward(xs, h_0[k], c_0[k])
                outputs.append(out[::-1] if direction == "reverse" else out)
                row.append(part)
            runs.append(row)
            read = np.concatenate(outputs, -1)
        total: dict[str, Array] = {}
        states: dict[int, dict[str, Array]] = {}
        for layer in reversed(range(self.layers)):
            shares = []
            for d, direction in enumerate(self.directions):
                k, size = layer * D + d, d_out.shape[-1] // D
                half = d_out[..., d * size : (d + 1) * size]
                turned = half[::-1] if direction == "reverse" else half
                found = runs[layer][d].backward(turned, d_h[k], d_c[k])
                suffix = f"_l{layer}" + ("_reverse" if direction == "reverse" else "")
                total |= {NAMES[n] + suffix: v for n, v in found.items() if n in NAMES}
                states[k] = {n: found[n] for n in ("h_0", "c_0")}
                shares.append(found["x"][::-1] if direction == "reverse" else found["x"])
            d_out = self._down(layer, shares)
        total["x"] = d_out
        total["h_0"] = np.stack([states[k]["h_0"] for k in sorted(states)])
        if self.kind.startswith("lstm"):
            total["c_0"] = np.stack([states[k]["c_0"] for k in sorted(states)])
        return total

    def _down(self, layer: int, shares: list[Array]) -> Array:
        for mistake in self.mistakes:
            if mistake.name == "handed_down" and mistake.layer in (None, layer):
                if mistake.choice == "zero":
                    return 0 * shares[0]
                return shares[self.directions.index(mistake.choice)]
        whole: Array = sum(shares[1:], shares[0])
        return whole

    def _part(self, layer: int, direction: str) -> Part:
        suffix = f"_l{layer}" + ("_reverse" if direction == "reverse" else "")
        tensors = [self.weights.get(name + suffix) for name in NAMES.values()]
        here = [
            m
            for m in self.mistakes
            if m.layer in (None, layer) and m.direction in (None, direction)
        ]
        W_ih, W_hh, b_ih, b_hh, W_hr = tensors
        assert W_ih is not None
        assert W_hh is not None
        assert b_ih is not None
        assert b_hh is not None
        return Part(self.kind, W_ih, W_hh, b_ih, b_hh, W_hr, here, self.spoiled)


# what can be planted -----------------------------------------------------------------------------


def choices_of(kind: str, steps: int, directions: int) -> list[tuple[str, str]]:
    """Every (name, choice) that means something in a layer of this kind."""
    lstm, gru = kind.startswith("lstm"), kind == "gru"
    every = [("through_state", "h"), ("direct_part", "0"), ("direct_part", "2")]
    every += [("direct_part", "last"), ("final_ignored", "h"), ("initial_zero", "h")]
    every += [("truncated", f"{rule} {k}") for rule in ("every", "last") for k in (1, 2, 3)]
    every += [("h_of_dw", "after"), ("h_of_dw", "zeros")]
    every += [("x_of_dw", "earlier"), ("x_of_dw", "later")]
    every += [("one_step", "first"), ("one_step", "last")]
    every += [("bias", "missing b_ih"), ("bias", "missing b_hh")]
    every += [("scale", f"mean over {what}") for what in ("batch", "steps", "both")]
    every += [("scale", "twice"), ("scale", "times 0.37"), ("clipped", "")]
    every += [("handed_down", "zero")]
    if directions > 1:
        every += [("handed_down", "forward"), ("handed_down", "reverse")]
    if kind != "lstm_projected":
        every += [("w_hh_transposed", ""), ("dw_transposed", "")]
    rules = ("missing", "at_argument", "of_output")
    if kind == "rnn_relu":
        return [*every, ("slope", "missing h")]
    places = {"rnn_tanh": ["h"], "gru": ["n"]}.get(kind, ["g", "tanh(c)", "every tanh"])
    if lstm or gru:
        places += [*("rz" if gru else "ifo"), "every sigmoid", "every function"]
    every += [("slope", f"{rule} {place}") for rule in rules for place in places]
    sigmoids = [p for p in places if p in ("every sigmoid", *"rzifo")]
    every += [("slope", f"value {place}") for place in sigmoids]
    if gru:
        every += [("through_state", "W_hh"), ("through_state", "direct h")]
        every += [("bias", "copied b_ih"), ("bias", "copied b_hh")]
        factors = ["h to n", "h to h_(t-1)", "n to r", "n to W_hn h"]
        ways = ["h to z", "h to n", "n to r"]
    elif lstm:
        every += [("through_state", "c"), ("final_ignored", "c"), ("final_ignored", "all")]
        every += [("initial_zero", "c"), ("initial_zero", "all")]
        of = "h" if kind == "lstm" else "m"
        factors = [f"{of} to o", f"{of} to c", "c to f", "c to i", "c to g", "c to c_(t-1)"]
        ways = [f"{of} to o", f"{of} to c", "c to f", "c to i", "c to g"]
    else:
        return every
    every += [("factor", choice) for choice in factors]
    return [*every, *((name, choice) for name in ("way_missing", "sign") for choice in ways)]
