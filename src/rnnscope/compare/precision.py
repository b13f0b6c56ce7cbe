"""Lower precision, told by what rounding the operands of every product to it would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope.compare.catalogue import Words
from rnnscope.compare.cause import Cause
from rnnscope.compare.model import Model
from rnnscope.compare.observed import Observation, predicted
from rnnscope.compare.simulate import Simulator

__all__ = ["lower_precision"]

MANTISSAS = {"bfloat16": 8, "float16": 11, "tf32": 11, "float32": 24}
ALIKE = 0.3
"""Correlation of the differences with those of operands that are rounded."""


def lower_precision(
    model: Model, shown: Sequence[Observation]
) -> tuple[Cause, Words, float] | None:
    """The precision whose rounding of weights and inputs looks like the differences; None where
    none does."""
    for name, bits in MANTISSAS.items():
        unit = 2.0**-bits
        if all(one.unit >= unit / 4 for one in shown):
            continue
        seen, expected = _differences(model, shown, bits)
        if len(seen) < 8 or not bool(torch.isfinite(seen).all()):
            continue
        size = float(seen.pow(2).mean().sqrt())
        likely = float(expected.pow(2).mean().sqrt())
        if likely == 0 or not likely / 8 < size < likely * 8:
            continue
        if _correlation(seen, expected) < ALIKE or not _spread_out(seen):
            continue
        title = "float16 or tf32" if name in ("float16", "tf32") else name
        return (
            Cause("precision", name),
            Words(
                f"lower precision, {title}",
                f"the differences are those of products whose operands are rounded to {bits} bits "
                f"(a correlation of {_correlation(seen, expected):.2f}).",
                'torch.set_float32_matmul_precision("highest")',
            ),
            float(seen.abs().max()),
        )
    return None


def _rounded(value: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(value)
    return torch.ldexp(torch.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def _differences(
    model: Model, shown: Sequence[Observation], bits: int
) -> tuple[Tensor, Tensor]:
    """What was seen less what is right, and what rounded operands give less what is right."""
    parts = {
        (layer, d): part.with_weights(
            part.weights.map(lambda t: _rounded(t, bits)), token=("rounded", bits, layer, d)
        )
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
    }
    lowered = model.with_parts(parts)
    seen: list[Tensor] = []
    expected: list[Tensor] = []
    for one in shown:
        inputs = replace(
            one.inputs,
            x=_rounded(one.inputs.x, bits),
            initial={name: _rounded(v, bits) for name, v in one.inputs.initial.items()},
        )
        [right] = Simulator(one.inputs).run([model])
        [other] = Simulator(inputs).run([lowered])
        if right is None or other is None or one.output is None:
            continue
        if right.output.shape != one.output.shape:
            return torch.zeros(0), torch.zeros(0)
        mask = torch.isfinite(one.allowed["output"]).expand_as(one.output)
        if one.valid is not None:
            mask = mask & one.valid
        few = mask & (torch.arange(one.inputs.steps) < 4)[:, None, None]
        seen.append((one.output - right.output)[few])
        expected.append((predicted(other)["output"] - right.output)[few])
    if not seen:
        return torch.zeros(0), torch.zeros(0)
    return torch.cat(seen), torch.cat(expected)


def _correlation(one: Tensor, other: Tensor) -> float:
    a, b = one - one.mean(), other - other.mean()
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm else 0.0


def _spread_out(seen: Tensor) -> bool:
    """Whether most numbers differ, not a few."""
    return float(seen.abs().median()) > 0.02 * float(seen.abs().max())
