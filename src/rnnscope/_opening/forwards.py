"""The ``forward`` of the recurrent classes, wrapped while somebody observes.

No module is touched. The wrapper sees exactly what a layer gets, after every hook of the
caller's, and what it returns, before any; copies and pickles that are made meanwhile hold nothing
of ours; and a direct ``.forward()``, which skips all hooks, does not go by unnoticed.

The classes and torch.compile are the process's, observers belong to a context (of a thread, or of
an asyncio task): the first observer anywhere switches both, the last one switches them back, in
whatever order they come and go.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType, FunctionType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch

from rnnscope._layers.adapter import Adapter, adapter_of
from rnnscope._layers.adopt import RECURRENT, Adopted, own_forward
from rnnscope._layers.attention import Attention
from rnnscope._layers.call import Call
from rnnscope._layers.foreign import adopt_with
from rnnscope._layers.recurrent import Recurrent
from rnnscope._opening.capture import Captured, attention_to, captured, check_dropout
from rnnscope._opening.held import Held, PlainCall, plain_call
from rnnscope._opening.modes import ensured, settled, undisturbed
from rnnscope.errors import DtypeError, RefusedError, ShapeError

__all__ = ["Forward", "InnerCalls", "Observer", "observe", "owner_of", "unobserve", "unobserved"]


class Observer(Protocol):
    """Who is told of forwards; ``cells`` says which cell the classes of others compute."""

    @property
    def cells(self) -> Mapping[type[nn.Module], Adapter]:
        """By class."""

    def wants(self, forward: Forward, within: bool) -> bool:
        """Whether to be told what this forward returned, or why there is nothing to tell;
        ``within``: whether it is called in the observer's own context."""

    def returned(self, forward: Forward, taken: Captured) -> None:
        """The layer returned."""

    def held(self, forward: Forward, plain: PlainCall, held: Held, output: Any) -> None:
        """The layer returned ``output`` from a plain call, of which ``held`` is kept."""

    def missed(self, forward: Forward, why: str) -> None:
        """The layer raised, or returned what cannot be captured."""


@dataclass(eq=False)
class Forward:
    """One forward of a recurrent module: ``direct`` where it was called past ``__call__``, and
    not by a forward of the module's own; ``cells`` are those of the observers; ``notes`` are what
    each of these notes of it, by its id."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    direct: bool
    cells: Mapping[type[nn.Module], Adapter]
    notes: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def adopted(self) -> Adopted:
        """The module as it is now; raises ``RefusedError``."""
        return adopt_with(self.module, self.cells, inner=True)

    @cached_property
    def call(self) -> Call:
        """What went in, copied; raises what ``Adopted.call`` raises."""
        return undisturbed(self.adopted.call, self.args, self.kwargs)

    @property
    def initial(self) -> Any:
        """The initial state as it was passed; None where none was."""
        return self.adopted.passed(self.args, self.kwargs)[1]

    @property
    def in_backward(self) -> bool:
        """Whether the backward pass is running, so that this may be a recomputation."""
        return torch._C._current_graph_task_id() != -1

    @property
    def in_checkpoint(self) -> bool:
        """Whether torch.utils.checkpoint called."""
        checkpoint = sys.modules.get("torch.utils.checkpoint")
        if checkpoint is None:
            return False
        names = vars(checkpoint)
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_globals is names:
                return True
            frame = frame.f_back
        return False

    def run_plain(
        self, plain: PlainCall, original: Callable[..., Any], observers: list[Observer]
    ) -> Any:
        """Run the layer in a plain call and tell the observers."""
        attention = plain.attention
        if attention is None:
            output = self._original(original, observers)
        else:

            def attended() -> Any:
                attention.start()
                return self._original(original, observers)

            output = ensured(attended, attention.stop)
        held = plain.held(output)
        if attention is not None:
            held.lower = undisturbed(plain.lower, attention)
        for observer in observers:
            observer.held(self, plain, held, output)
        return output

    @settled
    def run(self, original: Callable[..., Any], observers: list[Observer]) -> Any:
        """Run the layer and tell the observers; the layer's own exceptions come first."""
        why: str | None = None
        try:
            check_dropout(self.adopted)
        except RefusedError as error:
            output = original(self.module, *self.args, **self.kwargs)
            why = str(error)
        else:
            attention = attention_to(self.adopted)

            def attended() -> Any:
                attention.start()
                return self._original(original, observers)

            output = ensured(attended, attention.stop)
            try:
                taken = self._taken(output, attention)
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

    def _taken(self, output: Any, attention: Attention) -> Captured:
        plain = torch._C._disabled_torch_dispatch_impl
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and type(first).__torch_dispatch__ is not plain:
            raise RefusedError(f"it ran on {type(first).__name__}, not on tensors of numbers")
        return undisturbed(captured, self.adopted, self.call, output, attention)


class InnerCalls:
    """An observer of the calls that a module's own forward makes of torch's: ``taken``, or ``why``
    one could not be."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.cells: Mapping[type[nn.Module], Adapter] = {}
        self.taken: list[Captured] = []
        self.why: str | None = None

    def wants(self, forward: Forward, within: bool) -> bool:
        """Whether this is a call of the module."""
        return within and forward.module is self.module

    def returned(self, forward: Forward, taken: Captured) -> None:
        """The layer returned."""
        self.taken.append(taken)

    def held(self, forward: Forward, plain: PlainCall, held: Held, output: Any) -> None:
        """Never: the calls of a module with a forward of its own are captured in full."""

    def missed(self, forward: Forward, why: str) -> None:
        """The layer raised, or returned what cannot be captured."""
        self.why = why


_compiled_by: Callable[[], Any] = torch._C._dynamo.eval_frame.get_eval_frame_callback
"""What torch.compile has taken over the evaluation of frames with; None where it has not."""

_lock = threading.RLock()  # a watch may leave while the garbage collector runs
_observers: tuple[Observer, ...] = ()  # of every context; replaced, never changed
_context: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())
_wrapped_kinds: tuple[type[nn.Module], ...] = ()
_stance: Any = None  # what torch.compile was set to before the first observer came
_originals: WeakKeyDictionary[Any, Callable[..., Any]] = WeakKeyDictionary()  # of each wrapper


def observe(observer: Observer) -> None:
    """Tell ``observer`` of every forward of a recurrent module from now on."""
    global _observers
    _context.set((*_context.get(), observer))
    with _lock:
        _observers = (*_observers, observer)
        _match()


def unobserve(observer: Observer) -> None:
    """Tell it no more; the classes are as before when nobody observes. May be called again."""
    global _observers
    with _lock:
        _observers = tuple(o for o in _observers if o is not observer)
        _match()
    _context.set(tuple(o for o in _context.get() if o is not observer))


@contextmanager
def unobserved() -> Iterator[None]:
    """Within it, no observer of this context is told of anything."""
    token = _context.set(())
    try:
        yield
    finally:
        _context.reset(token)


def _match() -> None:
    """Let the classes and torch.compile be as the observers need them, however they were left."""
    global _wrapped_kinds
    observed: dict[type[nn.Module], None] = {}
    if _observers:
        observed = dict.fromkeys((*RECURRENT, Recurrent))
        foreign = (kind for observer in _observers for kind in observer.cells)
        observed |= {owner: None for kind in foreign if (owner := owner_of(kind)) is not None}
    # what was wrapped before comes first off this list when all is put back
    kinds = dict.fromkeys((*_wrapped_kinds, *observed))
    _wrapped_kinds = tuple(kinds)
    for kind in kinds:
        forward = vars(kind)["forward"]
        original = _originals.get(forward)
        if kind in observed and original is None:
            kind.forward = _wrapped(kind, forward)
        elif kind not in observed and original is not None:
            kind.forward = original
    _wrapped_kinds = tuple(observed)
    _match_stance()


def owner_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that defines the forward of a class; None where none but nn.Module does."""
    owners = (base for base in kind.__mro__ if "forward" in vars(base))
    owner = next(owners, None)
    return None if owner in (None, nn.Module) else owner


def _match_stance() -> None:
    """While somebody observes, what torch.compile compiled runs as it was written.

    A graph that was compiled before holds the cells that it met as plain operations, and calls no
    forward that could be observed.
    """
    global _stance
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if not hasattr(dynamo, "_set_stance"):
        return  # nothing is compiled yet, or torch is older than the switch
    if _observers and dynamo._stance.stance != "force_eager":
        _stance = dynamo._stance
        dynamo._set_stance(type(_stance)("force_eager"))
    elif not _observers and _stance is not None:
        dynamo._set_stance(_stance)
        _stance = None


def _wrapped(kind: type[nn.Module], original: Callable[..., Any]) -> Callable[..., Any]:
    tell = functools.partial(_forward, kind, original)

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tell(module, args, kwargs)

    # with the globals of the original: there TorchScript looks up the names in its source
    wrapper = FunctionType(
        forward.__code__, getattr(original, "__globals__", {}), "forward", None, forward.__closure__
    )
    _originals[wrapper] = original
    return functools.update_wrapper(wrapper, original)


def _forward(
    kind: type[nn.Module],
    original: Callable[..., Any],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if "torch._dynamo" not in sys.modules or _compiled_by() is None:
        return _tell_observers(kind, original, module, args, kwargs)
    # compiled code may be calling, after a break of its graph: what follows is not to be compiled
    # (made anew each time: Dynamo, which may be looking on here, ignores caches, and warns)
    untouched: Callable[..., Any] = torch.compiler.disable(_tell_observers)  # type: ignore[no-untyped-call]
    return untouched(kind, original, module, args, kwargs)


def _tell_observers(
    kind: type[nn.Module],
    original: Callable[..., Any],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    cells = _cells()
    foreign = bool(cells) and adapter_of(module, cells) is not None
    if foreign != (kind not in (*RECURRENT, Recurrent)) or (
        foreign and kind is not owner_of(type(module))
    ):
        # a forward inside that of a class which is opened as a whole, or above one that is not
        return original(module, *args, **kwargs)
    by_caller = _caller().f_globals is not vars(modules_of_torch)
    direct = by_caller and (foreign or not own_forward(module))
    this = Forward(module, args, kwargs, direct, cells)
    context = _context.get()
    interested = [o for o in _observers if o.wants(this, within=o in context)]
    if not interested:
        return original(module, *args, **kwargs)
    plain = plain_call(module, args, kwargs)
    if plain is not None:
        return this.run_plain(plain, original, interested)
    return this.run(original, interested)


def _cells() -> dict[type[nn.Module], Adapter]:
    """Which cell the classes of others compute, by what all observers say; the first counts."""
    cells: dict[type[nn.Module], Adapter] = {}
    for observer in _observers:
        if observer.cells:
            cells = {**observer.cells, **cells}
    return cells


def _caller() -> FrameType:
    """Who called the function that stands in the class."""
    frame = sys._getframe(3)  # below: this function, who called it, and the wrapper
    # by names, for torch.compile replaces the code
    while frame.f_code.co_filename == __file__ or _module_of(frame).startswith("torch._dynamo"):
        assert frame.f_back is not None, "somebody called"
        frame = frame.f_back
    return frame


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
