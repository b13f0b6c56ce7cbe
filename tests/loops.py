"""A judge: a call by the equations of PyTorch's documentation, one quantity of a step after the
other, which lets a test change any of them on its way, or follow it with autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from configurations import TIME, Case
from judges import directions, replayed_masks, states_of
from torch import Tensor

Change = Callable[[str, int, int, int, int, Tensor], Tensor]
"""(name, layer, direction, sequence, time, the number computed) to the number that is used."""


def nothing(name: str, layer: int, d: int, b: int, t: int, value: Tensor) -> Tensor:
    return value


def looped(
    layer: Any,
    x: Tensor,
    initial: Any,
    lengths: list[int] | None,
    masks: list[Tensor] | None,
    change: Change,
    weights: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """A call by the equations of PyTorch's documentation, with a change of any number on its way.

    ``x`` (batch, time, feature). Returns the quantities (layer, direction, batch, time, unit), and
    the last states as ``h_n`` and ``c_n`` (layer, direction, batch, unit).
    """
    p = dict(layer.named_parameters() if weights is None else _detached(layer) | weights)
    batch, steps, _ = x.shape
    lengths = lengths or [steps] * batch
    gates = {"RNN_TANH": "h", "RNN_RELU": "h", "GRU": "rzn", "LSTM": "ifgo"}[layer.mode]
    h_0, c_0 = states_of(layer, initial, batch, x.dtype)
    found: dict[str, Tensor] = {}
    finals: dict[str, Tensor] = {}
    below = x
    for index in range(layer.num_layers):
        rows_x = torch.stack(
            [
                torch.stack([change("x", index, 0, b, t, below[b, t]) for t in range(steps)])
                for b in range(batch)
            ]
        )
        for d in range(directions(layer)):
            end = f"_l{index}" + "_reverse" * d
            row = index * directions(layer) + d
            for b, length in enumerate(lengths):

                def at(name: str, t: int, value: Tensor) -> Tensor:
                    value = change(name, index, d, b, t, value)  # noqa: B023
                    if name not in found:
                        shape = (layer.num_layers, directions(layer), batch, steps, len(value))
                        found[name] = torch.zeros(shape, dtype=x.dtype)
                    found[name][index, d, b, t] = value  # noqa: B023
                    return value

                h = change("h_0", index, d, b, 0, h_0[row, b])
                c = change("c_0", index, d, b, 0, c_0[row, b])
                for t in range(length)[:: -1 if d else 1]:
                    parts = {}
                    for k, gate in enumerate(gates):
                        own = slice(k * layer.hidden_size, (k + 1) * layer.hidden_size)
                        for what, value in (("x", rows_x[b, t]), ("h", h)):
                            letter = {"x": "ih", "h": "hh"}[what]
                            part = p[f"weight_{letter}{end}"][own] @ value
                            if layer.bias:
                                part = part + p[f"bias_{letter}{end}"][own]
                            parts[gate + what] = at(f"{gate}_from_{what}", t, part)

                    def gate_of(gate: str, function: Any, scale: Any = 1) -> Tensor:
                        pre = parts[gate + "x"] + scale * parts[gate + "h"]  # noqa: B023
                        return at(gate, t, function(at(f"{gate}_pre", t, pre)))  # noqa: B023

                    if layer.mode == "GRU":
                        r, z = gate_of("r", torch.sigmoid), gate_of("z", torch.sigmoid)
                        n = gate_of("n", torch.tanh, r)
                        h = at("h", t, (1 - z) * n + z * h)
                    elif layer.mode == "LSTM":
                        i, f = gate_of("i", torch.sigmoid), gate_of("f", torch.sigmoid)
                        g, o = gate_of("g", torch.tanh), gate_of("o", torch.sigmoid)
                        c = at("c", t, f * c + i * g)
                        h = o * torch.tanh(c)
                        if layer.proj_size:
                            h = p[f"weight_hr{end}"] @ at("m", t, h)
                        h = at("h", t, h)
                    else:
                        h = gate_of("h", torch.tanh if layer.mode == "RNN_TANH" else torch.relu)
                for name, value in (("h_n", h), ("c_n", c)):
                    if name not in finals:
                        shape = (layer.num_layers, directions(layer), batch, len(value))
                        finals[name] = torch.zeros(shape, dtype=x.dtype)
                    finals[name][index, d, b] = value
        below = torch.cat(list(found["h"][index]), dim=-1)
        if masks is not None and index < layer.num_layers - 1:
            below = below * masks[index]
    return found | finals


def _detached(layer: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in layer.named_parameters()}


def by_loop(case: Case, before: Tensor, change: Change = nothing, **options: Any) -> Any:
    masks = None
    if case.layer.training:
        masks = replayed_masks(
            case.layer, before, batch=len(case.padded_x), time=TIME, lengths=case.lengths
        )
    return looped(case.layer, case.padded_x, case.initial, case.lengths, masks, change, **options)
