"""Capture: one call of a module as it happens, what went in, the weights it used, what came out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.adopt import Adopted
from rnnscope._layers.attention import Attention
from rnnscope._layers.call import Call
from rnnscope._layers.derived import MOST_KEPT
from rnnscope._layers.run import Ran
from rnnscope._layers.structure import Weights
from rnnscope._opening.memory import same_numbers
from rnnscope.cells import LSTM, quantity_names
from rnnscope.errors import RefusedError

__all__ = [
    "Capture",
    "Captured",
    "Snapshot",
    "attention_to",
    "captured",
    "check_dropout",
    "lower_states",
    "snapshot_of",
    "stacked",
]


class Snapshot:
    """The weights of a call, copied; a class of its own so that it can be weakly referenced."""

    def __init__(self, weights: tuple[tuple[Weights, ...], ...]) -> None:
        self.weights = weights

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All of them, in PyTorch's order."""
        return _tensors(self.weights)

    def equals(self, live: tuple[tuple[Weights, ...], ...]) -> bool:
        """Whether the live weights still hold these numbers, bit for bit, of the same cell."""
        if [len(row) for row in self.weights] != [len(row) for row in live]:
            return False
        if self.weights[0][0].cell is not live[0][0].cell:
            return False
        pairs = zip(self.tensors, _tensors(live), strict=True)
        return all(same_numbers(copy, tensor) for copy, tensor in pairs)


def _tensors(weights: tuple[tuple[Weights, ...], ...]) -> list[Tensor]:
    return [
        t
        for layer in weights
        for direction_weights in layer
        for t in direction_weights.named().values()
    ]


_last_snapshots: WeakKeyDictionary[nn.Module, ReferenceType[Snapshot]] = WeakKeyDictionary()
# compared by value each time, so it cannot go stale; holds nothing alive
_small_snapshots: WeakKeyDictionary[nn.Module, Snapshot] = WeakKeyDictionary()
# those of modules with few weights, as long as the module is


def snapshot_of(module: nn.Module, live: tuple[tuple[Weights, ...], ...]) -> Snapshot:
    """A copy of the live weights, shared with the module's last one where nothing changed."""
    reference = _last_snapshots.get(module)
    last = None if reference is None else reference()
    if last is not None and last.equals(live):
        return last
    fresh = Snapshot(tuple(tuple(w.map(_copy) for w in layer) for layer in live))
    _last_snapshots[module] = ref(fresh)
    kept = (
        sum(t.numel() for t in fresh.tensors) <= MOST_KEPT and not torch.is_inference_mode_enabled()
    )
    if kept:
        _small_snapshots[module] = fresh
    else:
        _small_snapshots.pop(module, None)
    return fresh


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Captured:
    """One call of a module as it happened: what went in, the weights used, what came out.

    ``masks`` are what dropout multiplied the layers' outputs with, in the layer's own layout; None
    where it was not at work. ``lower`` are the states of the layers below the top, (time, batch,
    direction × unit), where the call let them be seen, else none.
    """

    adopted: Adopted
    call: Call
    snapshot: Snapshot
    live: tuple[tuple[Weights, ...], ...]
    output: Any
    products: torch.dtype
    masks: tuple[Tensor, ...] | None
    ran: Ran | None = None  # by a module that computes by the equations itself
    grad_mode: bool = False  # in which kernels may round otherwise
    final_states: tuple[str, ...] = ()  # of which the module returned the last ones
    # the tensors that the module returned, where ``output`` has them in another form, by their
    # place in it
    sources: Mapping[int, Tensor] = field(default_factory=dict)
    lower: tuple[Tensor, ...] = ()

    @property
    def places(self) -> int:
        """Steps of sequences."""
        return self.call.steps * self.call.batch


class _ThreadCapture(threading.local):
    capture: Capture | None = None


_thread = _ThreadCapture()
_keys = count(-1, -1)  # torch's own count upwards, and lose one where two threads count at once


class Capture:
    """One call of a module, taken by hooks as the module itself sees it.

    The first hook sees the input after every hook of the caller's, the second the output before
    any. Other threads may be calling the module, or copying it: to them the hooks are functions
    that do nothing.
    """

    def __init__(self, adopted: Adopted, names: Iterable[str]) -> None:
        self.adopted, self.key = adopted, next(_keys)
        self.attention = attention_to(adopted, names)
        self.call: Call | None = None
        self.taken: Captured | None = None
        self.outer = _thread.capture

    def start(self) -> None:
        """Take the next call of the module in this thread."""
        module: Any = self.adopted.module
        key = self.key
        _thread.capture = self
        # not by register_forward_hook: the key must be known before anything is left
        module._forward_pre_hooks_with_kwargs[key] = module._forward_hooks_with_kwargs[key] = True
        module._forward_pre_hooks[key] = partial(_before, key)
        module._forward_hooks[key] = partial(_after, key)
        module._forward_hooks.move_to_end(key, last=False)

    def stop(self) -> None:
        """Leave no hook behind; may be called again."""
        module, key = self.adopted.module, self.key
        module._forward_pre_hooks.pop(key, None)
        module._forward_hooks.pop(key, None)
        module._forward_pre_hooks_with_kwargs.pop(key, None)
        module._forward_hooks_with_kwargs.pop(key, None)
        self.attention.stop()
        _thread.capture = self.outer

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module is about to run."""
        self.call = self.adopted.call(args, kwargs)
        check_dropout(self.adopted)
        self.attention.start()

    def leave(self, output: Any) -> None:
        """The module has run."""
        self.attention.stop()
        assert self.call is not None, "a forward has its hook before"
        self.taken = captured(self.adopted, self.call, output, self.attention)


# another thread that calls the module meanwhile may lose the flag that a hook takes keywords
# between two of its steps: so the arguments are read only in the capture's own thread


def _before(key: int, module: nn.Module, *passed: Any) -> None:
    if (capture := _capture(key, module)) is not None:
        capture.enter(*passed)


def _after(key: int, module: nn.Module, *passed: Any) -> None:
    if (capture := _capture(key, module)) is not None:
        capture.leave(passed[-1])


def _capture(key: int, module: nn.Module) -> Capture | None:
    """What takes the calls of this module in this thread; None of a copy, or in another thread."""
    capture = _thread.capture
    if capture is None or capture.key != key or capture.adopted.module is not module:
        return None
    return capture


def captured(adopted: Adopted, call: Call, output: Any, attention: Attention) -> Captured:
    """A call that has just returned, with the weights that it used and the type of its products.

    To be called in the caller's own autocast state.
    """
    returned = output
    output, final_states = adopted.canonical(returned, call)
    ran = attention.ran
    if adopted.declared and ran is None:
        raise RefusedError(
            f"cannot be opened: {adopted.kind} ran compiled, or its forward was replaced, so its "
            f"numbers were not seen"
        )
    if ran is not None:
        live = ran.weights
    elif attention.weights is not None:
        live = ((Weights(adopted.cell, *attention.weights, None, ""),),)
    else:
        live = adopted.weights()
    snapshot = snapshot_of(adopted.module, live)
    products = _product_type(call.x)
    masks = _masks(adopted, attention)
    mode = attention.grad_mode
    taken = Captured(adopted, call, snapshot, live, output, products, masks, ran, mode)
    sources = {} if output is returned else _sources(output, returned)
    lower = () if call.packed is not None else lower_states(adopted, attention, live)
    return replace(taken, final_states=final_states, sources=sources, lower=lower)


def lower_states(
    adopted: Adopted, attention: Attention, live: tuple[tuple[Weights, ...], ...]
) -> tuple[Tensor, ...]:
    """The states of the layers below the top as the fused call computed them with the ``live``
    weights, (time, batch, direction × unit); none where they were not seen."""
    parts = [part for row in live for part in row]
    seen = attention.layers[-len(parts) :]
    used = [(ih.data_ptr(), hh.data_ptr()) for ih, hh, _ in seen]
    if used != [(part.ih.data_ptr(), part.hh.data_ptr()) for part in parts]:
        return ()
    states = [h.detach() for _, _, h in seen]
    count = len(adopted.directions)
    layers = [states[k : k + count] for k in range(0, len(states) - count, count)]
    return tuple(row[0] if count == 1 else torch.cat(row, -1) for row in layers)


def _sources(output: Any, returned: Any) -> dict[int, Tensor]:
    """Which tensors that a module returned stand in ``output`` in another shape."""
    originals = list(_tensors_in(returned))
    return {
        k: original
        for k, tensor in enumerate(_tensors_in(output))
        for original in originals
        if original.data_ptr() == tensor.data_ptr() and original.numel() == tensor.numel()
    }


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, tuple | list):
        for member in value:
            yield from _tensors_in(member)


def attention_to(adopted: Adopted, names: Iterable[str] | None = None) -> Attention:
    """What is to pay attention to a forward, so that the weights and masks that it used are known.

    A parametrized weight is computed anew at each reading, and spectral norm in training moves
    its state each time. A layer keeps the tensors that it used; a cell does not. A module that
    runs a declared cell leaves the numbers of these ``names`` themselves (all by default).
    """
    record = quantity_names(adopted.cell) if names is None else names
    deep = adopted.single_step or _drops(adopted) or stacked(adopted)
    by_torch = not (adopted.declared or adopted.foreign)
    return Attention(adopted.module, frozenset(record), deep and by_torch)


def stacked(adopted: Adopted) -> bool:
    """Whether the states of layers below the top may be seen while they are computed."""
    return adopted.num_layers > 1 and adopted.cell is LSTM


def _drops(adopted: Adopted) -> bool:
    """Whether dropout between layers is at work."""
    return adopted.training and adopted.dropout > 0 and adopted.num_layers > 1


def check_dropout(adopted: Adopted) -> None:
    """Raise ``RefusedError`` where a call draws dropout masks that cannot be seen."""
    if _drops(adopted) and not adopted.declared:
        adopted.check_dropout_device()


def _masks(adopted: Adopted, attention: Attention) -> tuple[Tensor, ...] | None:
    """What dropout multiplied the output of each layer but the last with."""
    if adopted.declared or not _drops(adopted):
        return None
    boundaries = adopted.num_layers - 1
    if adopted.dropout == 1:
        return (
            torch.zeros((), dtype=torch.float32, device="cpu"),
        ) * boundaries  # nothing is drawn
    # a weight that is computed in the forward may be dropped from too: the fused call comes last
    masks = attention.masks[-boundaries:]
    if len(masks) < boundaries:
        raise RefusedError(
            f"cannot be opened: {adopted.kind} with dropout={adopted.dropout} in training drew "
            f"no masks that could be seen, as under a TorchDispatchMode in inference mode. Call "
            f".eval(), or call the layer outside of such a mode."
        )
    return tuple(masks)


def _product_type(x: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype
