"""Lower precision, told by what rounding the operands of every product to it would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope.compare.catalogue import Words
from rnnscope.compare.cause import Cause
from rnnscope.compare.model import Model, Part
from rnnscope.compare.observed import Observation, predicted
from rnnscope.compare.parts import OpenedPart, opened_parts
from rnnscope.compare.simulate import Simulator, opened

__all__ = ["lower_precision"]

MANTISSAS = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Significant bits; tf32 has float16's."""
ALIKE = 0.6
"""Correlation, at least, of the differences with those of operands that are rounded."""
FEWEST = 100
"""Numbers from which on a correlation says anything."""
FIRST = 4
"""Steps of whole runs that are compared."""
WITHIN = 64
"""Differences of so many roundings to the lower precision may come of it."""


def lower_precision(
    model: Model, shown: Sequence[Observation]
) -> tuple[Cause, Words, float] | None:
    """The precision that the differences come of, or None.

    Either the numbers themselves have no more bits, or the differences are those of products
    whose operands are rounded: to these they are compared, number by number.
    """
    for name, bits in MANTISSAS.items():
        unit = 2.0**-bits
        if all(one.unit >= unit / 4 for one in shown):
            continue
        seen, expected = _differences(model, shown, bits)
        if len(seen) < 16 or not bool(torch.isfinite(seen).all()):
            continue
        largest = float(seen.abs().max())
        title = "float16 or tf32" if name == "float16" else name
        if largest < WITHIN * unit and _few_bits(shown, bits):
            text = f"every number that came back has no more than the {bits} bits of {name}."
            return Cause("precision", name), _words(title, text), largest
        alike = _correlation(seen, expected)
        size, likely = (float(v.pow(2).mean().sqrt()) for v in (seen, expected))
        if len(seen) < FEWEST or alike < ALIKE or not likely / 4 < size < likely * 4:
            continue
        if _spread_out(model, shown):
            text = (
                f"the differences are those of products whose operands are rounded to {bits} bits "
                f"(their correlation is {alike:.2f} over {len(seen)} numbers)."
            )
            return Cause("precision", name), _words(title, text), largest
    return None


def _words(title: str, sentence: str) -> Words:
    return Words(
        f"lower precision, {title}", sentence, 'torch.set_float32_matmul_precision("highest")'
    )


def _few_bits(shown: Sequence[Observation], bits: int) -> bool:
    outputs = [one.output for one in shown if one.output is not None]
    return bool(outputs) and all(bool((_rounded(out, bits) == out).all()) for out in outputs)


def _rounded(value: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(value)
    return torch.ldexp(torch.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def _differences(model: Model, shown: Sequence[Observation], bits: int) -> tuple[Tensor, Tensor]:
    """What was seen less what is right, and what rounded operands give less what is right: of
    single steps where the last layer's can be opened, else of the first steps of whole runs."""
    parts = opened_parts(model, shown)
    last = [part for (layer, _), part in parts.items() if layer == model.num_layers - 1]
    pairs = [_of_steps(part, bits) for part in last] or _of_runs(model, shown, bits)
    if not pairs:
        return torch.zeros(0), torch.zeros(0)
    return torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs])


def _lowered(part: Part, bits: int) -> Part:
    return part.with_weights(
        part.weights.map(lambda t: _rounded(t, bits)), token=("rounded", bits, part.token)
    )


def _of_steps(part: OpenedPart, bits: int) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []
    expected: list[Tensor] = []
    for steps in part.steps:
        known = steps.known
        rounded = replace(
            known,
            x=_rounded(known.x, bits),
            before={name: _rounded(value, bits) for name, value in known.before.items()},
        )
        right = opened([part.part], known, ["h"])["h"][0]
        other = opened([_lowered(part.part, bits)], rounded, ["h"])["h"][0]
        inside = slice(None) if known.valid is None else known.valid
        seen.append((steps.after["h"] - right)[inside].flatten())
        expected.append((other - right)[inside].flatten())
    return torch.cat(seen), torch.cat(expected)


def _of_runs(model: Model, shown: Sequence[Observation], bits: int) -> list[tuple[Tensor, Tensor]]:
    lowered = model.with_parts(
        {
            (layer, d): _lowered(part, bits)
            for layer, row in enumerate(model.parts)
            for d, part in enumerate(row)
        }
    )
    found: list[tuple[Tensor, Tensor]] = []
    for one in shown:
        # of the first steps, but where others come before them
        inwards = any(part.backward for row in model.parts for part in row)
        x = one.inputs.x if inwards or one.valid is not None else one.inputs.x[:FIRST]
        inputs = replace(
            one.inputs,
            x=_rounded(x, bits),
            initial={name: _rounded(v, bits) for name, v in one.inputs.initial.items()},
        )
        [right] = one.simulator.run([model])
        [other] = Simulator(inputs).run([lowered])
        if right is None or other is None or one.output is None:
            continue
        if right.output.shape != one.output.shape:
            return []
        mask = torch.isfinite(one.allowed["output"]).expand_as(one.output)
        if one.valid is not None:
            mask = mask & one.valid
        few, first = mask[:FIRST], right.output[:FIRST]
        away = predicted(other)["output"][:FIRST] - first
        found.append(((one.output[:FIRST] - first)[few], away[few]))
    return found


def _correlation(one: Tensor, other: Tensor) -> float:
    a, b = one - one.mean(), other - other.mean()
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm else 0.0


def _spread_out(model: Model, shown: Sequence[Observation]) -> bool:
    """Whether most units differ at the first step, as they do by rounding."""
    for one in shown:
        [right] = one.simulator.run([model])
        if right is None or one.output is None:
            continue
        away = (one.output - right.output).abs()
        width = away.shape[-1] // model.num_directions
        for d, part in enumerate(model.parts[-1]):
            half = away[-1 if part.backward else 0, :, d * width : (d + 1) * width].amax(0)
            if float(half.median()) < float(half.max()) / 1000:
                return False
    return True
