"""What a GPU computes in float32: its tanh and sigmoid are not a CPU's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rnnscope._compare.candidate.tensors import tensors_within
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import UNIT, Observation
from rnnscope._compare.model.steps import worst_step
from rnnscope._opening.bounds import GPU_OFF

__all__ = ["GPU_ROUNDINGS", "ON_GPU", "of_a_gpu", "on_gpu"]

GPU_ROUNDINGS = 32
"""Times float32's rounding that is allowed what a GPU computed: a step may then be off by about
four times what was measured."""

ON_GPU = (
    f"it was computed on a GPU, where tanh and sigmoid of cuDNN in float32 may be off by "
    f"{GPU_OFF:.0e}: {GPU_ROUNDINGS} times a CPU's rounding is allowed"
)
"""A note."""


def on_gpu(value: Any) -> bool:
    """Whether some tensor in what was returned or recorded lies on a GPU, in float32."""
    tensors = tensors_within(value)
    return any(t.device.type == "cuda" and t.dtype == torch.float32 for t in tensors)


def of_a_gpu(model: Model, shown: Sequence[Observation]) -> str:
    """A question, where the differences are no larger than what a GPU's functions are off by; else
    empty."""
    if any(observation.unit != UNIT[torch.float32] for observation in shown):
        return ""
    if max(worst(model, shown), worst_step(model, shown)) > GPU_ROUNDINGS:
        return ""
    return (
        f"The differences are as small as those of tanh and sigmoid on a GPU, where those of cuDNN "
        f"in float32 may be off by {GPU_OFF:.0e}: was it computed there? Numbers that are given as "
        f"they lie on the GPU are compared with that in mind."
    )
