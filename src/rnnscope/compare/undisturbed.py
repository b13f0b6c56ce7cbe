"""What a call of somebody's code may leave behind: random numbers, settings, a changed module."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope.compare.arguments import equal

__all__ = ["Kept", "Random", "Settings", "detached"]


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


@dataclass(frozen=True)
class Settings:
    """What torch and NumPy are set to, for everything that runs in the process."""

    dtype: torch.dtype
    device: torch.device
    threads: int
    grad: bool
    deterministic: tuple[bool, bool]
    matmul: str
    numpy: Any

    @classmethod
    def now(cls) -> Settings:
        """As they are."""
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        return cls(
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            (torch.are_deterministic_algorithms_enabled(), warn_only),
            _matmul(),
            np.geterr(),
        )

    def restore(self) -> None:
        """Put back those that were changed."""
        found = Settings.now()
        if found.dtype != self.dtype:
            torch.set_default_dtype(self.dtype)
        if found.device != self.device:
            _set_device(self.device)
        if found.threads != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.grad)
        if found.deterministic != self.deterministic:
            enabled, warn_only = self.deterministic
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        if found.matmul != self.matmul and self.matmul:
            torch.set_float32_matmul_precision(self.matmul)
        np.seterr(**self.numpy)


def _matmul() -> str:
    """The precision of products of float32; empty where it is set another way."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch.backends was told one precision for each kind of product
        return ""


def _set_device(device: torch.device) -> None:
    # inside `with torch.device(...)`, that device is the default again once none is set
    torch.set_default_device(None)
    if torch.get_default_device() != device:
        torch.set_default_device(device)


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
        seen: set[int] = set()  # a list may contain itself
        while waiting:
            held = waiting.pop()
            if id(held) in seen:
                continue
            seen.add(id(held))
            if isinstance(held, Tensor) and not held.is_leaf:
                memo[id(held)] = held.detach().clone()
            elif isinstance(held, list | tuple):
                waiting.extend(held)
            elif isinstance(held, dict):
                waiting.extend(held.values())
    return memo
