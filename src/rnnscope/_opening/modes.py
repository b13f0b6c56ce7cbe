"""What a thread has switched: gradients, autocast, modes; put back after an interrupt too.

An interrupt (Ctrl-C) may come between any two steps of Python, so also between the steps of a
context's own ``__exit__``, or before it. The contexts of torch that are written in Python then
leave behind what they switched, and so does the one that passes by ``__torch_function__``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from operator import call
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _push_mode

__all__ = ["ensured", "settled", "undisturbed"]

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_AUTOCAST = ("cpu", "cuda")

_STATES: Any = torch._C  # two functions of it have no types

# the modes of an export lie in one place for all threads, so they are passed by, not taken off
_WithoutPreDispatch = partial(
    torch._C._ExcludeDispatchKeyGuard, torch._C.DispatchKeySet(torch._C.DispatchKey.PreDispatch)
)


def ensured(work: Callable[[], _Result], undo: Callable[[], None]) -> _Result:
    """What ``work`` returns; ``undo`` has run to its end afterwards, whatever was raised.

    ``undo`` runs twice, since an interrupt may cut the first short: it does nothing where nothing
    is left to undo.
    """
    try:
        try:
            return work()
        finally:
            undo()
    finally:
        undo()


def settled(work: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """The same function, after whose exceptions the thread's modes are what they were before."""

    @wraps(work)
    def settled_work(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        modes = _Modes.now()
        try:
            return work(*args, **kwargs)
        except BaseException:
            modes.restore()
            raise

    return settled_work


def undisturbed(
    work: Callable[_Given, _Result], *args: _Given.args, **kwargs: _Given.kwargs
) -> _Result:
    """What ``work`` returns without a graph, and unseen by whatever mode the caller has set:
    inference mode (the record is of ordinary tensors), a default device, selective checkpointing,
    a counter of operations."""
    # contexts in C; the second puts the whole state of autograd back
    with torch._C.DisableTorchFunction(), torch._C._InferenceMode(False), _WithoutPreDispatch():
        torch._C._set_grad_enabled(False)
        return _without_dispatch_modes(work, *args, **kwargs)


def _without_dispatch_modes(
    work: Callable[_Given, _Result], *args: _Given.args, **kwargs: _Given.kwargs
) -> _Result:
    popped: list[Any] = []
    try:
        while torch._C._len_torch_dispatch_stack():
            popped.append(torch._C._pop_torch_dispatch_stack(None))
        return work(*args, **kwargs)
    finally:
        while popped:
            _push_mode(popped.pop())


def _dispatch_modes() -> list[Any]:
    """The dispatch modes of this thread, the lowest first."""
    return [*map(torch._C._get_dispatch_stack_at, range(torch._C._len_torch_dispatch_stack()))]


@dataclass(frozen=True)
class _Modes:
    """The modes of a thread at one moment."""

    grad: bool
    dispatch: list[Any]
    autocast: tuple[tuple[bool, torch.dtype], ...]
    autocast_cache: bool
    autocast_nesting: int
    torch_function: Any

    @classmethod
    def now(cls) -> _Modes:
        return cls(
            torch.is_grad_enabled(),
            _dispatch_modes(),
            tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST),
            torch.is_autocast_cache_enabled(),
            _autocast_nesting(),
            _STATES._get_torch_function_state(),
        )

    def restore(self) -> None:
        _STATES._set_torch_function_state(self.torch_function)
        torch._C._set_grad_enabled(self.grad)
        if _dispatch_modes() != self.dispatch:
            while torch._C._len_torch_dispatch_stack():
                torch._C._pop_torch_dispatch_stack(None)
            for mode in self.dispatch:
                _push_mode(mode)
        for device, (enabled, dtype) in zip(_AUTOCAST, self.autocast, strict=True):
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)
        while _autocast_nesting() > self.autocast_nesting:
            torch.autocast_decrement_nesting()
        if self.autocast_nesting == 0:
            torch.clear_autocast_cache()


def _autocast_nesting() -> int:
    # called from C, without a step of Python between them at which an interrupt could come
    _, nesting = map(call, (torch.autocast_increment_nesting, torch.autocast_decrement_nesting))
    return nesting
