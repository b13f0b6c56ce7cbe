"""Inputs that tell mistakes apart: several steps and rows, sizes that differ, states not zero.

Default values hide mistakes: with h_0 = 0 and biases of zero, 41 of 158 mistakes of an LSTM show
nothing. So probes come with initial states and without, with one step and with several.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.model.model import Inputs
from rnnscope._layers.recurrent import Recurrent
from rnnscope._layers.sequences import valid_steps
from rnnscope._layers.structure import Structure

__all__ = ["confirming", "drawn_inputs", "further", "searching", "tiny_layer"]


def drawn_inputs(
    structure: Structure,
    steps: int,
    batch: int,
    with_states: bool,
    generator: torch.Generator,
    lengths: Tensor | None = None,
) -> Inputs:
    """Random x, and random initial states or zeros, float64."""
    x = torch.randn(
        steps, batch, structure.input_size, generator=generator, dtype=torch.float64, device="cpu"
    )
    if lengths is not None:
        x = x * valid_steps(lengths, steps).unsqueeze(-1)
    initial: dict[str, Tensor] = {}
    for name in structure.cell.states:
        shape = (
            structure.num_layers,
            len(structure.directions),
            batch,
            structure.state_size(name),
        )
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        initial[name] = 0.7 * drawn if with_states else torch.zeros_like(drawn)
    return Inputs(x, initial, with_states, lengths)


def searching(structure: Structure, seed: int, initial: bool, padded: bool) -> list[Inputs]:
    """The inputs with which mistakes are searched for: short, so that thousands can be tried."""
    generator = torch.Generator("cpu").manual_seed(seed)
    rows = structure.num_layers * len(structure.directions)
    wanted = [(1, 3, False), (1, 3, True), (4, 3, False), (4, 3, True), (3, 3, True)]
    if rows not in (1, 3):
        wanted.append((3, rows, True))
    lengths = torch.tensor([2, 4, 3], dtype=torch.long, device="cpu")
    sizes: list[tuple[int, int, bool, Tensor | None]] = [(*size, None) for size in wanted]
    sizes += [(4, 3, False, lengths), (4, 3, True, lengths)] if padded else []
    return [
        drawn_inputs(structure, steps, batch, with_states, generator, ends)
        for steps, batch, with_states, ends in sizes
        if initial or not with_states
    ]


def confirming(structure: Structure, seed: int, initial: bool, padded: bool) -> list[Inputs]:
    """The inputs on which what was found must hold, and which the verdict speaks of."""
    generator = torch.Generator("cpu").manual_seed(seed + 1)
    lengths = torch.tensor([4, 6, 5, 2], dtype=torch.long, device="cpu") if padded else None
    batch = 4 if padded else 3
    probes = [drawn_inputs(structure, 6, batch, initial, generator, lengths)]
    if initial:
        probes.append(drawn_inputs(structure, 6, batch, False, generator))
        rows = structure.num_layers * len(structure.directions)
        if rows not in (1, batch):
            # with as many rows as states, those who read them batch first raise no error
            probes.append(drawn_inputs(structure, 5, rows, True, generator))
    return probes


def further(structure: Structure, seed: int, initial: bool) -> list[Inputs]:
    """Many rows of large inputs and states: what is cut off, and units of relu that are zero for
    all others, may show; and one row of many steps."""
    generator = torch.Generator("cpu").manual_seed(seed + 2)
    inputs = drawn_inputs(structure, 4, 16, initial, generator)
    states = {name: 10 * value for name, value in inputs.initial.items()}
    long = drawn_inputs(structure, 40, 1, initial, generator)
    return [replace(inputs, x=10 * inputs.x, initial=states), long]


def tiny_layer(structure: Structure, seed: int) -> nn.Module:
    """A small layer of the same kind and options with random weights and biases, none of them
    zero, in which every mistake shows."""
    hidden = 4
    options: dict[str, Any] = {
        "num_layers": structure.num_layers,
        "bias": structure.bias,
        "batch_first": structure.batch_first,
        "bidirectional": structure.bidirectional,
        "dtype": torch.float32,
        "device": "cpu",
    }
    if structure.cell.projected:
        options["proj_size"] = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer: nn.Module
        if structure.declared:
            layer = Recurrent(structure.cell, 3, hidden, **options, reverse=structure.reverse)
        else:
            if structure.kind == "nn.RNN":
                options["nonlinearity"] = structure.cell.equations["h"].name  # type: ignore[attr-defined]
            layer = getattr(nn, structure.kind.removeprefix("nn."))(3, hidden, **options)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -0.8, 0.8)
    return layer.eval()
