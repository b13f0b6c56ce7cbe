"""The ``forward`` of the recurrent classes, wrapped while somebody observes.

No module is touched. The wrapper sees exactly what a layer gets, after every hook of the
caller's, and what it returns, before any; copies and pickles that are made meanwhile hold nothing
of ours; and a direct ``.forward()``, which skips all hooks, does not go by unnoticed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import FrameType, FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch
from torch.utils._python_dispatch import _disable_current_modes

from rnnscope.adopt import RECURRENT, Adopted, Call, adopt
from rnnscope.capture import Captured, attending, captured, dropout_state
from rnnscope.errors import DtypeError, RefusedError, ShapeError
from rnnscope.recurrent import Heard, Recurrent

__all__ = ["Forward", "Observer", "observe", "uncompiled", "undisturbed", "unobserve"]


def uncompiled() -> AbstractContextManager[object]:
    """While it lasts, what torch.compile compiled runs as it was written.

    A graph that was compiled before holds the cells that it met as plain operations, and calls no
    forward that could be observed.
    """
    stance = getattr(torch.compiler, "set_stance", None) if "torch._dynamo" in sys.modules else None
    return nullcontext() if stance is None else stance("force_eager")


class Observer(Protocol):
    """Who is told of forwards."""

    def wants(self, forward: Forward) -> bool:
        """Whether to be told what this forward returned, or why there is nothing to tell."""

    def returned(self, forward: Forward, taken: Captured) -> None:
        """The layer returned."""

    def missed(self, forward: Forward, why: str) -> None:
        """The layer raised, or returned what cannot be captured."""


@dataclass(frozen=True)
class Forward:
    """One forward of a recurrent module: ``direct`` where it was called past ``__call__``."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    direct: bool

    @cached_property
    def adopted(self) -> Adopted:
        """The module as it is now; raises ``RefusedError``."""
        return adopt(self.module)

    @cached_property
    def call(self) -> Call:
        """What went in, copied; raises what ``Adopted.call`` raises."""
        with undisturbed():
            return self.adopted.call(self.args, self.kwargs)

    @property
    def initial(self) -> Any:
        """The initial state as it was passed; None where none was."""
        return self.args[1] if len(self.args) > 1 else self.kwargs.get("hx")

    @property
    def in_backward(self) -> bool:
        """Whether the backward pass is running, so that this may be a recomputation."""
        return torch._C._current_graph_task_id() != -1

    @property
    def in_checkpoint(self) -> bool:
        """Whether torch.utils.checkpoint called."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if _module_of(frame) == "torch.utils.checkpoint":
                return True
            frame = frame.f_back
        return False

    def run(self, original: Callable[..., Any], observers: list[Observer]) -> Any:
        """Run the layer and tell the observers; the layer's own exceptions come first."""
        why: str | None = None
        try:
            random_state = dropout_state(self.adopted)
        except RefusedError as error:
            output = original(self.module, *self.args, **self.kwargs)
            why = str(error)
        else:
            with attending(self.adopted) as heard:
                output = self._original(original, observers)
                try:
                    taken = self._taken(output, random_state, heard)
                except (RefusedError, ShapeError, DtypeError) as error:
                    why = str(error)
        for observer in observers:
            if why is not None:
                observer.missed(self, why)
            else:
                observer.returned(self, taken)
        return output

    def _original(self, original: Callable[..., Any], observers: list[Observer]) -> Any:
        try:
            return original(self.module, *self.args, **self.kwargs)
        except BaseException as error:
            for observer in observers:
                observer.missed(self, f"it raised {type(error).__name__}")
            raise

    def _taken(self, output: Any, random_state: Tensor | None, heard: Heard | None) -> Captured:
        plain = torch._C._disabled_torch_dispatch_impl
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and type(first).__torch_dispatch__ is not plain:
            raise RefusedError(f"it ran on {type(first).__name__}, not on tensors of numbers")
        mode = torch.is_grad_enabled()
        with undisturbed():
            return captured(self.adopted, self.call, output, random_state, heard, mode)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without graph, and unseen by whatever mode the caller has set: inference mode (the record
    is of ordinary tensors), a default device, selective checkpointing, a counter of operations."""
    with (
        torch._C.DisableTorchFunction(),
        torch.inference_mode(False),
        torch.no_grad(),
        _disable_current_modes(),
    ):
        yield


_observers: list[Observer] = []
_originals: dict[type[nn.Module], Callable[..., Any]] = {}


def observe(observer: Observer) -> None:
    """Tell ``observer`` of every forward of a recurrent module from now on."""
    _observers.append(observer)
    if not _originals:
        for kind in (*RECURRENT, Recurrent):
            _originals[kind] = vars(kind)["forward"]
            setattr(kind, "forward", _wrapped(_originals[kind]))  # noqa: B010


def unobserve(observer: Observer) -> None:
    """Tell it no more; the classes are as before when nobody observes."""
    _observers.remove(observer)
    if not _observers:
        for kind, original in _originals.items():
            setattr(kind, "forward", original)  # noqa: B010
        _originals.clear()


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    tell = functools.partial(_forward, original)

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tell(module, args, kwargs)

    # with the globals of the original: there TorchScript looks up the names in its source
    found = FunctionType(
        forward.__code__, getattr(original, "__globals__", {}), "forward", None, forward.__closure__
    )
    return functools.wraps(original)(found)


def _forward(
    original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if "torch._dynamo" not in sys.modules:
        return _told(original, module, args, kwargs)
    # compiled code may be calling, after a break of its graph: what follows is not to be compiled
    # (made anew each time: Dynamo, which may be looking on here, ignores caches, and warns)
    untouched: Callable[..., Any] = torch.compiler.disable(_told)  # type: ignore[no-untyped-call]
    return untouched(original, module, args, kwargs)


def _told(
    original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    this = Forward(module, args, kwargs, _caller().f_globals is not vars(modules_of_torch))
    interested = [observer for observer in _observers if observer.wants(this)]
    if not interested:
        return original(module, *args, **kwargs)
    return this.run(original, interested)


def _caller() -> FrameType:
    """Who called the function that stands in the class."""
    frame = sys._getframe()
    # by names, for torch.compile replaces the code
    while frame.f_code.co_filename == __file__ or _module_of(frame).startswith("torch._dynamo"):
        assert frame.f_back is not None, "somebody called"
        frame = frame.f_back
    return frame


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
