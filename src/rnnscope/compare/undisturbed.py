"""What a call of somebody's code may leave behind: random numbers, and a module that it changed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope.compare.arguments import equal

__all__ = ["Kept", "Random", "detached"]


@dataclass(frozen=True)
class Random:
    """The states of the random numbers of torch, NumPy and Python."""

    torch_state: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> Random:
        """As they are."""
        initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if initialized else []
        return cls(torch.get_rng_state(), tuple(cuda), np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Put them back."""
        torch.set_rng_state(self.torch_state)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        np.random.set_state(self.numpy)
        random.setstate(self.python)


class Kept:
    """A module as it is, to be put back: attributes, numbers and gradients."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = [
            (each, dict(each.__dict__), dict(each._buffers)) for each in module.modules()
        ]
        held = (*module.parameters(), *module.buffers())
        self._numbers = [(each, each.detach().clone()) for each in held]
        self._gradients = [
            (each, each.grad, None if each.grad is None else each.grad.clone())
            for each in module.parameters()
        ]

    def restore(self) -> None:
        """Put it back, in place."""
        for module, attributes, buffers in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, numbers in self._numbers:
                if not equal(tensor, numbers):
                    tensor.copy_(numbers)
            for parameter, gradient, numbers_of in self._gradients:
                parameter.grad = gradient
                if gradient is not None and numbers_of is not None:
                    gradient.copy_(numbers_of)


def detached(function: Any) -> dict[int, Any]:
    """What deepcopy is told beforehand: tensors that are part of a graph, which it refuses."""
    memo: dict[int, Any] = {}
    owner = getattr(function, "__self__", function)
    for module in owner.modules() if isinstance(owner, nn.Module) else [owner]:
        waiting = list(getattr(module, "__dict__", {}).values())
        while waiting:
            held = waiting.pop()
            if isinstance(held, Tensor) and not held.is_leaf:
                memo[id(held)] = held.detach().clone()
            elif isinstance(held, list | tuple):
                waiting.extend(held)
            elif isinstance(held, dict):
                waiting.extend(held.values())
    return memo
