"""A module of somebody's own that rounds in a way of its own: judged by its copy in another type.

The bound on rounding supposes that a step is computed as the equations are written. A module may
compute the same otherwise, as by a scan in logarithms over all steps, which rounds more. Where its
numbers exceed the bound, a copy of it runs on the same input in float64: where the deviation
shrinks with the unit roundoff, as no mistake does, the module computes the cell, and what its
float32 numbers differ by from the copy's is its own rounding. A module that is in float64 itself
has a copy in float32, and rounds as much less as the unit roundoff is smaller.
"""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.foreign import Foreign
from rnnscope._opening.capture import Captured
from rnnscope._opening.forwards import unobserved
from rnnscope._opening.opening import open_call
from rnnscope._opening.part import Proof
from rnnscope._record.difference import absolute_difference

__all__ = ["with_foreign_rounding"]


SHRINKS = 2.0**-16
"""The deviation in float64 is at most this share of that in float32; the unit roundoff is 2^-29."""
SMALLER = 2.0**-26
"""What rounding in float64 allows, of how far the numbers of float32 lie from those of float64."""


def with_foreign_rounding(taken: Captured, proofs: Mapping[str, Proof]) -> dict[str, Proof]:
    """The proofs, with what a foreign module's own way of computing rounds; as they are where its
    copy in float64 does not compute the cell, or cannot be made."""
    adopted = taken.adopted
    if not isinstance(adopted, Foreign):
        return dict(proofs)
    context = contextvars.copy_context()
    try:
        apart = context.run(_apart, adopted, taken, proofs)
    except Exception:  # whatever a stranger's copy raises: then the usual bound decides
        return dict(proofs)
    if apart is None:
        return dict(proofs)
    share = 2.0 if taken.call.x.dtype != torch.float64 else SMALLER
    return {name: _allowing(proof, share * apart[name]) for name, proof in proofs.items()}


def _allowing(proof: Proof, rounding: float) -> Proof:
    tolerance = max(proof.deviation / max(proof.ratio, 1), proof.tolerance) + rounding
    if proof.ratio <= 1 or proof.deviation > tolerance:
        return proof
    return replace(proof, tolerance=tolerance, ratio=proof.deviation / tolerance)


def _apart(
    adopted: Foreign, taken: Captured, proofs: Mapping[str, Proof]
) -> dict[str, float] | None:
    """How far the module's states lie from those of its copy in float64, by state; None where the
    copy does not compute the cell."""
    args, kwargs = adopted.passed_on
    wide = taken.call.x.dtype == torch.float64
    dtype = torch.float32 if wide else torch.float64
    recast = _recast(args, dtype), {name: _recast(value, dtype) for name, value in kwargs.items()}
    module = copy.deepcopy(adopted.module).to(dtype)
    with unobserved(), torch.no_grad(), torch.autocast(taken.call.x.device.type, enabled=False):
        output = module(*recast[0], **recast[1])
        other_type = Foreign.of_adapter(module, adopted.adapter)
        call = other_type.call(*recast)
        output, final_states = other_type.canonical(output, call)
        returned = other_type.returned(output, call)
        final = {name: returned.final[name] for name in final_states}
        weights = other_type.weights()
        opened = open_call(
            other_type,
            call,
            replace(returned, final=final),
            weights,
            weights,
            frozenset(other_type.cell.states),
            dtype,
            None,
            False,
        )
    for name, proof in opened.proofs.items():
        here, there = proofs[name].deviation, proof.deviation
        single, double = (there, here) if wide else (here, there)
        if double > SHRINKS * single and (wide or proof.ratio > 1):
            return None
    form = adopted.returned(taken.output, taken.call)
    apart = {"h": _largest(form.h, returned.h)}
    for name in final:
        distance = _largest(form.final[name], final[name])
        apart[name] = max(distance, apart.get(name, 0.0))
    return {name: apart.get(name, apart["h"]) for name in other_type.cell.states}


def _largest(ours: Tensor, theirs: Tensor) -> float:
    return float(absolute_difference(ours.double(), theirs.double()).max())


def _recast(value: Any, dtype: torch.dtype) -> Any:
    """The same with floating point numbers of this type."""
    if isinstance(value, Tensor):
        return value.detach().to(dtype) if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return PackedSequence(_recast(value.data, dtype), *value[1:])
    if isinstance(value, tuple | list):
        return type(value)(_recast(member, dtype) for member in value)
    return value
