"""How far rounding may carry the gradients of a right candidate; the one home of these bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.backward.forward import run_forward
from rnnscope._compare.backward.reverse import Pass
from rnnscope._compare.backward.whole import Trial, WholePass
from rnnscope._compare.model.model import Model
from rnnscope._compare.tolerance import FREE, LEAST

__all__ = ["allowed", "useless"]

RUNS = 4
"""Runs that differ by rounding alone."""

TINY = {True: 1e-300, False: 1e-36}
"""What is always allowed, in float64 and in float32: numbers so small lose their digits."""

USELESS = 0.01
"""Of the largest gradient of a tensor: where rounding may change that much, nothing is compared."""


def allowed(
    model: Model, trial: Trial, unit: float, right: WholePass, exact: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What rounding to ``unit`` allows each gradient of the ``right`` pass: ``FREE`` times how far
    it moves in runs whose weights, inputs, states and what is carried back are changed by a
    rounding's size, and the roundings of the sums over steps and rows that a parameter's gradient
    is.

    In the shape of each gradient, its last dim of length 1.
    """
    inputs = trial.inputs
    generator = torch.Generator("cpu").manual_seed(0)

    def shaken(value: Tensor) -> Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device="cpu")
        return value * (1 + 2 * unit * noise)

    def rounded(state: Tensor) -> Tensor:
        noise = torch.randn(state.shape, generator=generator, dtype=state.dtype, device="cpu")
        return state + unit / 2 * noise * state.abs().clamp_min(1)

    away = {name: torch.zeros_like(value[..., :1]) for name, value in exact.items()}
    for run in range(RUNS):
        parts = {
            (layer, d): part.with_weights(part.weights.map(shaken), token=("shaken", run, layer, d))
            for layer, row in enumerate(model.parts)
            for d, part in enumerate(row)
        }
        moved = replace(
            inputs,
            x=shaken(inputs.x),
            initial={name: shaken(value) for name, value in inputs.initial.items()},
        )
        forward = run_forward(model.with_parts(parts), moved, trial.masks, rounded)
        pass_back = WholePass.of(forward, trial.reached.map(shaken), rounded=shaken)
        near = pass_back.gradients(exact)
        for name, value in exact.items():
            # rows of a changed order have their gradients in it too
            distance = (near[name] - value).abs().amax(-1, keepdim=True)
            away[name] = torch.maximum(away[name], distance)
    least = _least(exact, right.runs, unit)
    tiny = TINY[unit < 2.0**-40]
    return {name: FREE * away[name] + least[name] + tiny for name in exact}


def _least(
    exact: Mapping[str, Tensor], runs: Mapping[tuple[int, int], Pass], unit: float
) -> dict[str, Tensor]:
    """Roundings of the numbers themselves, and of the sums that they are."""
    least = {
        name: LEAST * unit * value.abs().amax(-1, keepdim=True) for name, value in exact.items()
    }
    for run in runs.values():
        part, weights = run.part, run.part.weights
        steps, batch = part.x.shape[:2]
        sums = unit * (LEAST + 4 * math.sqrt(steps * batch))
        biggest = max(
            float(v.abs().max()) for v in (part.x, part.before["h"], *part.values.values())
        )
        sizes = {
            "ih": (run.of_x, weights.cell.gates_from_x),
            "hh": (run.of_h, weights.cell.gates_from_h),
        }
        for kind, (adjoints, gates) in sizes.items():
            rows = [adjoints[g].abs().sum((0, 1, 2)) if g in adjoints else None for g in gates]
            full = [weights.ih.new_zeros(weights.hidden_size) if r is None else r for r in rows]
            if not full:
                continue
            total = torch.cat(full)
            for name, factor in ((f"weight_{kind}", biggest), (f"bias_{kind}", 1.0)):
                key = name + weights.suffix
                if key in least:
                    bound = sums * factor * total
                    if key.startswith("bias"):
                        least[key] = least[key] + bound.max()
                    else:
                        least[key] = least[key] + bound.unsqueeze(-1)
        for key in (n for n in least if n == f"weight_hr{weights.suffix}"):
            root = next(v for r, v in run.roots.items() if r == "h")
            least[key] = least[key] + sums * biggest * root.abs().sum((0, 1, 2)).unsqueeze(-1)
    return least


def useless(exact: Tensor, within: Tensor) -> bool:
    """Whether rounding alone may change a gradient by more than a hundredth of its largest."""
    largest = float(exact.abs().max())
    return largest > 0 and not float(within.max()) <= USELESS * largest
