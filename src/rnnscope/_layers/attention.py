"""Attention to one forward: what it drew and used, of which nothing tells afterwards.

Dropout between the layers of ``nn.LSTM`` is drawn inside one fused call, from the random state
that all threads share; drawing the masks again from a state that was read before gives others
where another thread drew meanwhile. So the masks are taken as the fused call draws them, and the
weights as a cell hands them to its own fused call. Of layers on top of each other the fused call
returns the states of the last alone: where it computes each layer by an operation of its own, as
that of ``nn.LSTM`` does by oneDNN, these tell those of the others. Nothing of torch's numbers is
touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Attention", "attention"]

# A dispatch key that torch keeps for tests: an operation comes by the functions below only in a
# thread that has the key on, and while it has. Modes would do the same, but every operation would
# call Python, and some of torch's own choose another way to compute under a mode.
_NAME = "TESTING_ONLY_GenericMode"
_KEY: Any = torch._C._parse_dispatch_key(_NAME)


class _ThreadAttention(threading.local):
    attention: Attention | None = None


_thread = _ThreadAttention()


def attention() -> Attention | None:
    """What pays attention in this thread now."""
    return _thread.attention


class Attention:
    """What a forward of ``module`` draws and uses between ``start`` and ``stop``.

    ``masks``: what dropout inside a fused call multiplied with, in the order of the layers;
    ``layers``: of each layer and direction that an operation of its own computed, its two matrices
    and its states (time, batch, unit), in order;
    ``weights``: what a cell handed to its fused call, in PyTorch's order; ``ran``: the numbers
    named in ``record``, of a module that computes by the equations itself; ``grad_mode``: whether
    gradients were enabled. ``deep``: whether to look into fused calls.
    """

    def __init__(self, module: nn.Module, record: frozenset[str], deep: bool) -> None:
        self.module, self.record, self.deep = module, record, deep
        self.masks: list[Tensor] = []
        self.layers: list[tuple[Tensor, Tensor, Tensor]] = []
        self.weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None = None
        self.ran: Any = None
        self.grad_mode = False
        self._before: Attention | None = None

    def start(self) -> None:
        """Pay attention to this thread from now on."""
        self.grad_mode = torch.is_grad_enabled()
        self._before = _thread.attention
        _thread.attention = self
        _switch()

    def stop(self) -> None:
        """Pay attention no more; may be called again."""
        if _thread.attention is self:
            _thread.attention = self._before
        _switch()


def _switch(on: bool = True) -> None:
    deep = _thread.attention is not None and _thread.attention.deep
    torch._C._dispatch_tls_set_dispatch_key_included(_KEY, on and deep)


def _passed_on(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    _switch(False)
    try:
        return operation(*args, **kwargs)
    finally:
        _switch()


def _drawn(noise: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    _passed_on(torch.ops.aten.bernoulli_.float, noise, p, generator=generator)
    if _thread.attention is not None:
        _thread.attention.masks.append(noise)  # which dropout scales in place
    return noise


def _cell(operation: Callable[..., Any]) -> Callable[..., Any]:
    def called(
        x: Tensor,
        states: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        if _thread.attention is not None:
            _thread.attention.weights = w_ih, w_hh, b_ih, b_hh
        return _passed_on(operation, x, states, w_ih, w_hh, b_ih, b_hh)

    return called


def _layer(operation: Callable[..., Any]) -> Callable[..., Any]:
    def called(x: Tensor, w_ih: Tensor, w_hh: Tensor, *further: Any) -> Any:
        returned = _passed_on(operation, x, w_ih, w_hh, *further)
        if _thread.attention is not None:
            _thread.attention.layers.append((w_ih, w_hh, returned[0]))
        return returned

    return called


_fallthrough = torch._C._dispatch_library("IMPL", "_", _NAME, "", 0)
_fallthrough.fallback_fallthrough()
_observers: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
_observers.impl("bernoulli_.float", _drawn, _NAME)
for _name in ("rnn_tanh_cell", "rnn_relu_cell", "gru_cell", "lstm_cell"):
    _observers.impl(_name, _cell(getattr(torch.ops.aten, _name).default), _NAME)
_observers.impl("mkldnn_rnn_layer", _layer(torch.ops.aten.mkldnn_rnn_layer.default), _NAME)
