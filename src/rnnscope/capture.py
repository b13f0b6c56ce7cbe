"""Capture: one call of a module as it happens, what went in, the weights it used, what came out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from rnnscope.adopt import Adopted, Call, Weights
from rnnscope.cells import quantity_names
from rnnscope.errors import RefusedError
from rnnscope.recurrent import Heard, listening
from rnnscope.run import Ran

__all__ = [
    "Capture",
    "Captured",
    "Snapshot",
    "attending",
    "captured",
    "dropout_state",
    "snapshot_of",
]


class Snapshot:
    """The weights of a call, copied; a class of its own so that it can be weakly referenced."""

    def __init__(self, weights: tuple[tuple[Weights, ...], ...]) -> None:
        self.weights = weights

    def equals(self, live: tuple[tuple[Weights, ...], ...]) -> bool:
        """Whether the live weights still hold these numbers, bit for bit."""
        for mine, theirs in zip(_tensors(self.weights), _tensors(live), strict=True):
            if mine.dtype != theirs.dtype or mine.device != theirs.device:
                return False
            if not torch.equal(mine, theirs):
                return False
        return True


def _tensors(weights: tuple[tuple[Weights, ...], ...]) -> list[Tensor]:
    return [t for layer in weights for one in layer for t in one.named().values()]


_last_snapshots: WeakKeyDictionary[nn.Module, ReferenceType[Snapshot]] = WeakKeyDictionary()
# compared by value each time, so it cannot go stale; holds nothing alive


def snapshot_of(module: nn.Module, live: tuple[tuple[Weights, ...], ...]) -> Snapshot:
    """A copy of the live weights, shared with the module's last one where nothing changed."""
    reference = _last_snapshots.get(module)
    last = None if reference is None else reference()
    if last is not None and last.equals(live):
        return last
    fresh = Snapshot(tuple(tuple(w.map(_copy) for w in layer) for layer in live))
    _last_snapshots[module] = ref(fresh)
    return fresh


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Captured:
    """One call of a module as it happened: what went in, the weights used, what came out."""

    adopted: Adopted
    call: Call
    snapshot: Snapshot
    live: tuple[tuple[Weights, ...], ...]
    output: Any
    products: torch.dtype
    random_state: Tensor | None
    ran: Ran | None = None  # by a module that computes by the equations itself
    grad_mode: bool = False  # in which kernels may round otherwise


class Capture:
    """Hooks that take one module's calls as the module itself sees them.

    The first sees the input after every hook of the caller's, the second the output before any.
    Used as a context; leaves no hook behind.
    """

    def __init__(self, adopted: Adopted, heard: Heard | None) -> None:
        self.adopted, self.heard = adopted, heard
        self.before: tuple[Call, Tensor | None] | None = None
        self.taken: Captured | None = None
        self.thread = get_ident()

    def __enter__(self) -> Capture:
        module = self.adopted.module
        self.handles = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave, prepend=True, with_kwargs=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    # another thread may be calling the module meanwhile, and lose its flag that a hook takes
    # keywords between two of its steps: so the arguments are read from their ends

    def _enter(self, _: nn.Module, *given: Any) -> None:
        if get_ident() != self.thread:
            return
        args, kwargs = given
        self.before = self.adopted.call(args, kwargs), dropout_state(self.adopted)

    def _leave(self, _: nn.Module, *given: Any) -> None:
        if get_ident() != self.thread:
            return
        assert self.before is not None, "a forward has its hook before"
        call, random_state = self.before
        mode = torch.is_grad_enabled()
        self.taken = captured(self.adopted, call, given[-1], random_state, self.heard, mode)


def captured(
    adopted: Adopted,
    call: Call,
    output: Any,
    random_state: Tensor | None,
    heard: Heard | None,
    grad_mode: bool,
) -> Captured:
    """A call that has just returned, with the weights that it used and the type of its products.

    To be called in the caller's own autocast state; ``heard`` is what ``attending`` gave,
    ``grad_mode`` whether the layer ran with gradients enabled.
    """
    ran = None if heard is None else heard.ran
    if adopted.declared and ran is None:
        raise RefusedError(
            f"cannot be opened: {adopted.kind} ran compiled, or its forward was replaced, so its "
            f"numbers were not seen"
        )
    live = adopted.weights() if ran is None else ran.weights
    snapshot = snapshot_of(adopted.module, live)
    products = _product_type(call.x)
    return Captured(adopted, call, snapshot, live, output, products, random_state, ran, grad_mode)


@contextmanager
def attending(adopted: Adopted, names: Iterable[str] | None = None) -> Iterator[Heard | None]:
    """A context around a forward, after which the weights that it used are still known.

    A parametrized weight is computed anew at each reading, and spectral norm in training moves
    its state each time. A layer keeps the tensors that it used; a cell does not. A module that
    runs a declared cell leaves the numbers of these ``names`` themselves (all by default).
    """
    if adopted.declared:
        record = quantity_names(adopted.cell) if names is None else names
        with listening(adopted.module, frozenset(record)) as heard:
            yield heard
    elif adopted.single_step:
        with cached():
            yield None
    else:
        yield None


def dropout_state(adopted: Adopted) -> Tensor | None:
    """The random state from which a call would draw its dropout masks; None where it draws none.

    Raises ``RefusedError`` where the masks cannot be drawn again.
    """
    if not (adopted.training and adopted.dropout > 0 and adopted.num_layers > 1):
        return None
    if adopted.declared:
        return None  # nothing needs to be drawn again
    adopted.check_dropout_device()
    return torch.get_rng_state()


def _product_type(x: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype
