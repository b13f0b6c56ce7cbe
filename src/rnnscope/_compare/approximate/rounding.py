"""How numbers are rounded on purpose: integers with a scale, fixed point, short floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

__all__ = ["FIXED", "SCALED", "Quantiser"]

Towards = Literal["nearest", "zero", "below"]
Sharing = Literal["tensor", "row", "gate"]

SHARINGS: tuple[Sharing, ...] = ("tensor", "row", "gate")
TOWARDS: dict[Towards, Callable[[Tensor], Tensor]] = {
    "nearest": torch.round,
    "zero": torch.trunc,
    "below": torch.floor,
}
VERBS: dict[Towards, tuple[str, str]] = {
    "nearest": ("rounded", ""),
    "zero": ("cut", ", towards zero"),
    "below": ("cut", ", downwards"),
}
LEVELS = {
    127: 8,
    128: 8,
    7: 4,
    8: 4,
    3: 3,
    15: 5,
    31: 6,
    63: 7,
    511: 10,
    2047: 12,
    32767: 16,
    32768: 16,
}
"""The largest integer, and the bits of it with its sign."""


@dataclass(frozen=True)
class Quantiser:
    """A way in which numbers are rounded: ``of`` a tensor the rounded one, given how many rows a
    gate has; ``verb`` and ``name`` are said of it, as in "rounded to 3 decimals"."""

    name: str
    verb: str
    of: Callable[[Tensor, int], Tensor]

    def __call__(self, value: Tensor, units: int = 0) -> Tensor:
        """The rounded numbers."""
        return self.of(value, units or len(value))

    def together(self, value: Tensor) -> Tensor:
        """The rounded numbers of an array that has one scale."""
        return self(value.flatten()).reshape(value.shape)


def _grouped(value: Tensor, units: int, sharing: Sharing) -> Tensor:
    """(group, numbers) of the numbers that have one scale."""
    if sharing == "row" and value.dim() > 1:
        return value.flatten(1)
    if sharing == "gate" and len(value) % units == 0:
        return value.reshape(len(value) // units, -1)
    return value.reshape(1, -1)


def _symmetric(
    value: Tensor, units: int, levels: int, sharing: Sharing, power: bool, towards: Towards
) -> Tensor:
    groups = _grouped(value, units, sharing)
    scale = groups.abs().amax(1, keepdim=True).clamp_min(1e-30) / levels
    if power:
        scale = torch.exp2(torch.ceil(torch.log2(scale) - 1e-9))
    even = levels % 2 == 0  # of -128 … 127
    whole = TOWARDS[towards](groups / scale).clamp(-levels, levels - even)
    return (whole * scale).reshape(value.shape)


def _affine(value: Tensor, units: int, levels: int, sharing: Sharing, through_zero: bool) -> Tensor:
    groups = _grouped(value, units, sharing)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    if through_zero:
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = (high - low).clamp_min(1e-30) / levels
        zero = torch.round(-low / scale)
        whole = (torch.round(groups / scale) + zero).clamp(0, levels)
        return ((whole - zero) * scale).reshape(value.shape)
    scale = (high - low).clamp_min(1e-30) / levels
    return (torch.round((groups - low) / scale) * scale + low).reshape(value.shape)


def _fixed(value: Tensor, units: int, step: float, towards: Towards) -> Tensor:
    return TOWARDS[towards](value / step) * step


def _decimal(value: Tensor, units: int, places: int, towards: Towards) -> Tensor:
    return TOWARDS[towards](value * 10.0**places) / 10.0**places


def _held(value: Tensor, units: int, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).to(value.dtype)


def _mantissa(value: Tensor, units: int, bits: int) -> Tensor:
    """Cut to so many significant bits, as where the low half of a float32 is dropped."""
    mantissa, exponent = torch.frexp(value)
    return torch.ldexp(torch.trunc(mantissa * 2.0**bits) / 2.0**bits, exponent)


def _power_of_two(value: Tensor, units: int) -> Tensor:
    exponent = torch.round(torch.log2(value.abs().clamp_min(1e-30)))
    return torch.where(value == 0, 0.0, value.sign() * torch.exp2(exponent))


def _scaled() -> Iterator[Quantiser]:
    """Integers with a scale that the numbers themselves give."""
    for levels, bits in LEVELS.items():
        for sharing in SHARINGS:
            for power in (False, True):
                for towards in TOWARDS:
                    if (power or towards != "nearest") and (
                        bits not in (4, 8) or sharing == "gate"
                    ):
                        continue
                    if power and towards != "nearest":
                        continue
                    verb, how = VERBS[towards]
                    scale = f"one scale per {sharing}"
                    name = f"multiples of their largest / {levels}{how} ({bits} bits, {scale})"
                    if power:
                        name = f"{bits} bits times a power of two (at most {levels}, {scale})"
                    of = partial(
                        _symmetric, levels=levels, sharing=sharing, power=power, towards=towards
                    )
                    yield Quantiser(name, verb, of)
    for levels, bits in ((255, 8), (15, 4)):
        for sharing in SHARINGS[:2]:
            for through_zero in (True, False):
                point = "with a zero point, " if through_zero else ""
                name = (
                    f"{levels + 1} values between their smallest and largest ({bits} bits, "
                    f"{point}one scale per {sharing})"
                )
                yield Quantiser(
                    name,
                    "rounded",
                    partial(_affine, levels=levels, sharing=sharing, through_zero=through_zero),
                )


def _absolute() -> Iterator[Quantiser]:
    """Roundings that do not depend on how large the numbers are."""
    for towards in TOWARDS:
        verb, how = VERBS[towards]
        for k in range(2, 17):
            name = f"multiples of 1/{2**k}{how}"
            yield Quantiser(name, verb, partial(_fixed, step=2.0**-k, towards=towards))
        for levels in (7, 15, 31, 63, 127, 255, 32767):
            name = f"multiples of 1/{levels}{how}"
            yield Quantiser(name, verb, partial(_fixed, step=1 / levels, towards=towards))
    for towards in ("nearest", "zero"):
        verb, how = VERBS[towards]
        for places in range(1, 6):
            name = f"{places} decimal{'s' * (places > 1)}{how}"
            yield Quantiser(name, verb, partial(_decimal, places=places, towards=towards))
    for dtype, name in (
        (torch.float16, "float16"),
        (torch.bfloat16, "bfloat16"),
        (torch.float8_e4m3fn, "float8 (e4m3)"),
        (torch.float8_e5m2, "float8 (e5m2)"),
    ):
        yield Quantiser(name, "rounded", partial(_held, dtype=dtype))
    yield Quantiser("the upper 16 bits of float32", "cut", partial(_mantissa, bits=8))
    yield Quantiser("powers of two", "rounded", _power_of_two)


SCALED = tuple(_scaled())
"""Roundings to integers with a scale."""

FIXED = tuple(_absolute())
"""Roundings that do not depend on how large the numbers are."""
