"""Wrong backward passes drawn, compared and judged: what is planted is what is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from planted_backward import GATES, Array, Mistake, Planted, choices_of
from torch import nn

import rnnscope as rs

CONFIGURATIONS = [
    (kind, layers, directions)
    for kind in GATES
    for layers in (1, 2)
    for directions in (("forward",), ("forward", "reverse"))
]


def layer_of(kind: str, layers: int, directions: Sequence[str], seed: int) -> nn.Module:
    """A layer of torch in float64, 3 features, 4 units, with weights that hide nothing."""
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": len(directions) > 1}
    if kind.startswith("rnn"):
        options["nonlinearity"] = kind.removeprefix("rnn_")
    if kind == "lstm_projected":
        options["proj_size"] = 2
    name = {"g": "GRU", "l": "LSTM", "r": "RNN"}[kind[0]]
    layer: nn.Module = getattr(nn, name)(3, 4, **options).double()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(rng.uniform(-0.8, 0.8, tuple(parameter.shape))))
    return layer


@dataclass
class Case:
    """A layer with one call's numbers, of which wrong gradients can be recorded."""

    kind: str
    layer: nn.Module
    layers: int
    directions: tuple[str, ...]
    x: Array
    h_0: Array
    c_0: Array
    d_out: Array
    d_h: Array
    d_c: Array

    @classmethod
    def drawn(
        cls,
        kind: str,
        layers: int,
        directions: tuple[str, ...],
        seed: int,
        steps: int = 6,
        batch: int = 3,
    ) -> Case:
        rng = np.random.default_rng(seed)
        rows, out = layers * len(directions), 2 if kind == "lstm_projected" else 4
        return cls(
            kind,
            layer_of(kind, layers, directions, seed),
            layers,
            directions,
            rng.standard_normal((steps, batch, 3)),
            0.7 * rng.standard_normal((rows, batch, out)),
            0.7 * rng.standard_normal((rows, batch, 4)),
            rng.standard_normal((steps, batch, out * len(directions))),
            rng.standard_normal((rows, batch, out)),
            rng.standard_normal((rows, batch, 4)),
        )

    def gradients(
        self,
        mistakes: Sequence[Mistake] = (),
        spoiled: Callable[[Array, int], Array] | None = None,
        dtype: Any = np.float64,
    ) -> dict[str, Array]:
        """Those of a backward pass with mistakes, in a type of numbers."""
        weights = {
            name: value.detach().numpy().astype(dtype)
            for name, value in self.layer.named_parameters()
        }
        arrays = [self.x, self.h_0, self.c_0, self.d_out, self.d_h, self.d_c]
        planted = Planted(self.kind, weights, self.layers, self.directions, mistakes, spoiled)
        return planted.gradients(*(array.astype(dtype) for array in arrays))

    def compared(self, gradients: dict[str, Array]) -> rs.Verdict:
        """The verdict on recorded gradients."""
        lstm = self.kind.startswith("lstm")
        recorded = {"grad": gradients, "grad_output": self.d_out, "grad_h_n": self.d_h}
        initial = (self.h_0, self.c_0) if lstm else self.h_0
        if lstm:
            recorded["grad_c_n"] = self.d_c
        layer = self.layer
        dtype = gradients["x"].dtype
        if dtype == np.float32:
            layer = layer_of(self.kind, self.layers, self.directions, 0).float()
            layer.load_state_dict(self.layer.state_dict())
        return rs.compare(recorded, layer, self.x, initial)

    def rounded(self) -> Case:
        """The same with numbers that float32 holds."""
        arrays = ("x", "h_0", "c_0", "d_out", "d_h", "d_c")
        for name in arrays:
            setattr(self, name, getattr(self, name).astype(np.float32).astype(np.float64))
        self.layer = self.layer.float().double()
        return self


def places(case: Case, name: str) -> Iterator[tuple[int | None, str | None]]:
    """Where a mistake may stand."""
    yield None, None
    if name in ("clipped", "scale"):
        return
    if name == "handed_down":
        return
    for layer in range(case.layers) if case.layers > 1 else ():
        yield layer, None
    for direction in case.directions if len(case.directions) > 1 else ():
        yield None, direction
    if case.layers > 1 and len(case.directions) > 1:
        yield from ((layer, d) for layer in range(case.layers) for d in case.directions)


def drawn_mistakes(case: Case, count: int, rng: np.random.Generator) -> list[Mistake]:
    """So many different mistakes, each somewhere."""
    every = choices_of(case.kind, len(case.x), len(case.directions))
    if count > 1:
        every = [pair for pair in every if pair != ("scale", "times 0.37")]
    mistakes: list[Mistake] = []
    while len(mistakes) < count:
        name, choice = every[rng.integers(len(every))]
        # two slopes may be those of one function, of which only one can be taken
        if name not in [m.name for m in mistakes]:
            where = list(places(case, name))
            mistakes.append(Mistake(name, choice, *where[rng.integers(len(where))]))
    return [placed(case, mistake, mistakes) for mistake in mistakes]


def hides(case: Case, mistakes: Sequence[Mistake]) -> bool:
    """Whether one of two mistakes leaves nothing of the other to be seen."""
    together = case.gradients(mistakes)
    return any(
        all(np.allclose(together[k], alone[k], rtol=1e-9, atol=1e-12) for k in together)
        for alone in (case.gradients([mistake]) for mistake in mistakes)
    )


def placed(case: Case, mistake: Mistake, others: Sequence[Mistake]) -> Mistake:
    """With a limit that these gradients reach, where one is asked for."""
    if mistake.name != "clipped":
        return mistake
    right = case.gradients([m for m in others if m.name != "clipped"])
    states = ("x", "h_0", "c_0")
    largest = max(float(np.abs(v).max()) for name, v in right.items() if name not in states)
    return Mistake("clipped", repr(0.5 * largest))


def names(verdict: rs.Verdict) -> list[set[tuple[str, str, int | None, str | None]]]:
    """The causes of every explanation, as they can be told from what was planted."""
    assert verdict.gradients is not None
    return [
        {(c.name, _plain(c.name, c.choice), c.layer, c.direction) for c in explanation.causes}
        for explanation in verdict.gradients.explanations
    ]


def _plain(name: str, choice: str) -> str:
    if name == "clipped":
        return f"{float(choice):.6g}"
    return f"times {float(choice[6:]):.6g}" if choice.startswith("times") else choice


def is_named(mistakes: Sequence[Mistake], verdict: rs.Verdict) -> bool:
    """Whether one of the explanations is what was planted."""
    planted = {(m.name, _plain(m.name, m.choice), m.layer, m.direction) for m in mistakes}
    return planted in names(verdict)


# in ways that are not listed ---------------------------------------------------------------------


def spoils(rng: np.random.Generator) -> Callable[[Array, int], Array]:
    """A way to spoil the gradients of a step's gates that no catalogue has."""
    factor = rng.uniform(0.5, 1.5)
    unit = int(rng.integers(4))

    def scaled_unit(a: Array, s: int) -> Array:
        a = a.copy()
        a[:, unit] *= factor
        return a

    def squashed(a: Array, s: int) -> Array:
        return np.tanh(factor * a)

    def shrunk(a: Array, s: int) -> Array:
        return a * factor ** (s + 1)

    def shifted(a: Array, s: int) -> Array:
        return a + 0.1 * factor

    def rolled(a: Array, s: int) -> Array:
        return np.roll(a, unit + 1, axis=-1)

    def mixed(a: Array, s: int) -> Array:
        return a + 0.3 * factor * a[::-1]

    def every_second(a: Array, s: int) -> Array:
        return a * (0.5 * factor if s % 2 else 1)

    def of_row(a: Array, s: int) -> Array:
        a = a.copy()
        a[0] *= factor
        return a

    ways = (scaled_unit, squashed, shrunk, shifted, rolled, mixed, every_second, of_row)
    return ways[int(rng.integers(len(ways)))]
