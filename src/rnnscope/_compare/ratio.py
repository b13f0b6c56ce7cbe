"""Whether recorded numbers agree, and nothing else: no cause is searched for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rnnscope._compare.backward.request import recorded_ratio, without_gradients
from rnnscope._compare.candidate.arrays import OfArrays
from rnnscope._compare.candidate.inputs import given_inputs
from rnnscope._compare.compare import on_one_thread
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.steps import worst_step
from rnnscope._layers.adopt import adopt

__all__ = ["ratio_to_rounding"]


def ratio_to_rounding(
    numbers: Mapping[str, Any], reference: nn.Module, x: Tensor, initial: Any, lengths: Any
) -> float:
    """How far recorded numbers, and gradients among them, are from a layer's, relative to what
    rounding allows: above 1 they differ. Takes what ``compare`` takes."""
    with on_one_thread():
        outputs, recorded = without_gradients(numbers)
        adopted = adopt(reference)
        inputs = given_inputs(adopted, x, initial, lengths)
        subject = OfArrays(outputs, adopted, inputs, None)
        shown = subject.shown()
        ratio = max(worst(subject.model, shown), worst_step(subject.model, shown))
        if recorded is None or ratio > 1:
            return ratio
        return max(ratio, recorded_ratio(recorded, reference, subject.model, inputs))
