"""One call of a layer on a device, and everything that came back, on the CPU."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnscope._check.kernels import Configuration

__all__ = ["DeviceCall", "called", "called_without_gradients", "quiet"]


@dataclass(frozen=True)
class DeviceCall:
    """A layer on a device, what it was called with, and ``numbers`` that came back, as ``compare``
    takes recorded ones; ``reference`` is the same layer on the CPU."""

    layer: nn.RNNBase
    reference: nn.RNNBase
    x: Tensor
    initial: Any
    lengths: Tensor | None
    numbers: dict[str, Any]


def called(configuration: Configuration, device: torch.device, dtype: torch.dtype) -> DeviceCall:
    """A call with gradients, forward and backward; draws from the random state.

    Raises what the device raises.
    """
    sizes, reference = configuration.sizes, configuration.layer().to(dtype)
    x = torch.randn(sizes.time, sizes.batch, sizes.input, dtype=dtype, device="cpu")
    lengths = _lengths(configuration)
    initial = _initial(configuration, reference, dtype)
    layer = copy.deepcopy(reference).to(device)
    inputs = x.to(device).requires_grad_()
    states = [state.to(device).requires_grad_() for state in initial]
    output, finals = _run(layer, inputs, states, lengths)
    upstream = torch.randn(output.shape, dtype=dtype, device="cpu")
    parameters = dict(layer.named_parameters())
    with quiet():
        wanted = [inputs, *states, *parameters.values()]
        gradients = torch.autograd.grad(output, wanted, upstream.to(device))
    names = ["x", *(f"{name}_0" for name in _state_names(layer)[: len(states)]), *parameters]
    numbers = _numbers(layer, output, finals) | {
        "grad_output": upstream,
        "grad": {name: g.cpu() for name, g in zip(names, gradients, strict=True)},
    }
    return DeviceCall(layer, reference, x, _as_given(initial), lengths, numbers)


def called_without_gradients(call: DeviceCall) -> DeviceCall:
    """The same call without gradients, which another kernel may compute."""
    device = next(call.layer.parameters()).device
    initial = () if call.initial is None else call.initial
    initial = (initial,) if isinstance(initial, Tensor) else initial
    states = [state.to(device) for state in initial]
    with torch.no_grad():
        output, finals = _run(call.layer, call.x.to(device), states, call.lengths)
    numbers = _numbers(call.layer, output, finals)
    return DeviceCall(call.layer, call.reference, call.x, call.initial, call.lengths, numbers)


@contextmanager
def quiet() -> Iterator[None]:
    """Which code torch chooses is no news here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not supported with oneDNN")
        yield


def _run(
    layer: nn.RNNBase, x: Tensor, states: list[Tensor], lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, padded with zeros, and the final states."""
    read: Any = x
    if lengths is not None:
        read = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with quiet():
        output, finals = layer(read, _as_given(states))
    if isinstance(output, PackedSequence):
        output, _ = pad_packed_sequence(output, total_length=len(x))
    return output, finals if isinstance(finals, tuple) else (finals,)


def _numbers(layer: nn.RNNBase, output: Tensor, finals: tuple[Tensor, ...]) -> dict[str, Any]:
    names = (f"{name}_n" for name in _state_names(layer))
    states = {name: value.detach().cpu() for name, value in zip(names, finals, strict=True)}
    return {"output": output.detach().cpu(), **states}


def _state_names(layer: nn.RNNBase) -> tuple[str, ...]:
    return ("h", "c") if layer.mode == "LSTM" else ("h",)


def _as_given(states: list[Tensor]) -> Any:
    """Initial states as the layer takes them."""
    if not states:
        return None
    return states[0] if len(states) == 1 else tuple(states)


def _initial(configuration: Configuration, layer: nn.RNNBase, dtype: torch.dtype) -> list[Tensor]:
    if not configuration.initial:
        return []
    rows = layer.num_layers * (1 + layer.bidirectional)
    widths = {"h": layer.proj_size or layer.hidden_size, "c": layer.hidden_size}
    return [
        torch.randn(rows, configuration.sizes.batch, widths[name], dtype=dtype, device="cpu")
        for name in _state_names(layer)
    ]


def _lengths(configuration: Configuration) -> Tensor | None:
    """Lengths in no order, the longest among them; None where nothing is packed."""
    sizes = configuration.sizes
    if not configuration.packed:
        return None
    drawn = torch.randint(1, sizes.time + 1, (sizes.batch,), device="cpu")
    drawn[sizes.batch // 2] = sizes.time
    return drawn
