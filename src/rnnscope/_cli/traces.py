"""From the options of a command to a trace: the layer is built or read, and called."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rnnscope._cli.choices import CellKind
from rnnscope._cli.inputs import afford, in_precision, read_lengths, read_sequence, sequence
from rnnscope._cli.layers import (
    LayerFile,
    cell_name,
    construction,
    drawn,
    set_parameter,
)
from rnnscope._cli.options import AddressOptions, CallOptions, ShapeOptions
from rnnscope._cli.terminal import ArgumentError
from rnnscope._trace.trace import trace
from rnnscope._trace.verbs import Trace

__all__ = ["coordinates", "trace_of", "trace_of_sizes"]


def trace_of(options: CallOptions) -> tuple[Trace, str]:
    """The trace of the layer that the options mean, and the line that builds the layer."""
    x = _sequence(options)
    if options.weights is None:
        name, module = "", _drawn(options, x.shape[-1])
        origin = f"seed {options.seed}"
    else:
        name, module = _stored(options)
        origin = f"weights from {options.weights.name}"
        origin += f", {options.layer_name}" if options.layer_name else ""
    changes = options.changes or []
    for change in changes:
        set_parameter(module, change)
    origin = ", ".join([origin, *changes])
    if x.shape[-1] != module.input_size:
        example = ",".join("12345678"[: module.input_size]) if module.input_size <= 8 else "3,1,..."
        raise ArgumentError(
            f"the layer takes {module.input_size} numbers a step; got {x.shape[-1]}. "
            f"A comma joins the numbers of a step, as in {example}"
        )
    afford(x[..., 0].numel(), module.num_layers * module.hidden_size)
    opened = trace(module, in_precision(x, module).reshape(-1, *x.shape[-2:]))
    return opened, f"{construction(module, options.weights, name)}   # {origin}"


def _sequence(options: CallOptions) -> Tensor:
    if options.steps and options.input_file is not None:
        raise ArgumentError("give the numbers or --input FILE, not both")
    if options.input_file is not None:
        return read_sequence(options.input_file)
    if not options.steps:
        raise ArgumentError("no input: give a number a step, as in 3 4 5, or --input FILE")
    return sequence(options.steps)


def _drawn(options: CallOptions, input_size: int) -> Any:
    """The layer whose weights are drawn from the seed."""
    kind, activation = cell_name(options.cell, options.nonlinearity)
    if options.layer_name is not None:
        raise ArgumentError("--layer chooses in a file: give --weights FILE too")
    if options.layout is not None:
        raise ArgumentError("--layout is of a file: give --weights FILE too")
    nonlinearity = {"nonlinearity": activation} if activation else {}
    return drawn(
        options.seed,
        kind or "rnn",
        input_size,
        options.hidden or 1,
        num_layers=options.layers or 1,
        bias=options.bias,
        batch_first=True,
        bidirectional=options.bidirectional,
        **nonlinearity,
    )


def _stored(options: CallOptions) -> tuple[str, Any]:
    """The layer in the file of weights, and its name there."""
    assert options.weights is not None
    kind, activation = cell_name(options.cell, options.nonlinearity)
    sizes = {"--hidden": options.hidden, "--layers": options.layers}
    sizes |= {"--bidirectional": options.bidirectional, "--bias": options.bias}
    for option, size in sizes.items():
        if size:
            raise ArgumentError(f"sizes follow from {options.weights.name}: leave out {option}")
    layer = LayerFile(options.weights, options.layer_name, kind, options.layout, activation)
    return layer.read()


def coordinates(address: AddressOptions) -> dict[str, Any]:
    """The coordinates that were given, by axis."""
    direction = address.direction.value if address.direction else None
    place = {"layer": address.at_layer, "batch": address.batch, "time": _time(address.time)}
    place |= {"unit": address.unit, "direction": direction}
    return {axis: index for axis, index in place.items() if index is not None}


def _time(word: str | None) -> int | str | None:
    """A position, or "last", where a direction has read the whole sequence."""
    if word is None or word == "last":
        return word
    if not re.fullmatch(r"[+-]?\d{1,9}", word):
        raise ArgumentError(f"--time {word!r}: expected a whole number, or last")
    return int(word)


def trace_of_sizes(options: ShapeOptions) -> Trace:
    """The trace of a layer of these sizes, called on made-up numbers."""
    packed = None if options.lengths is None else read_lengths(options.lengths)
    sized = options.batch is not None or options.steps is not None or options.unbatched
    if packed is not None and sized:
        raise ArgumentError("--lengths tells batch and steps: leave out the others")
    if options.unbatched and options.batch is not None:
        raise ArgumentError("--unbatched is one sequence: leave out --batch")
    if options.proj_size and options.cell is not CellKind.lstm:
        raise ArgumentError("--proj-size is an option of --cell lstm")
    if options.proj_size >= options.hidden:
        raise ArgumentError(f"--proj-size must be smaller than --hidden, {options.hidden}")
    sizes = (len(packed), max(packed)) if packed else (options.batch or 3, options.steps or 6)
    projection = {"proj_size": options.proj_size} if options.proj_size else {}
    afford(math.prod(sizes), max(options.input_size, 2 * options.layers * options.hidden))
    seed = 0
    module = drawn(
        seed,
        options.cell.value,
        options.input_size,
        options.hidden,
        num_layers=options.layers,
        batch_first=options.batch_first,
        bidirectional=options.bidirectional,
        **projection,
    )
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(
        *sizes, options.input_size, generator=generator, dtype=torch.float32, device="cpu"
    )
    return trace(module, _argument(x, module, packed, options.unbatched))


def _argument(x: Tensor, module: nn.RNNBase, packed: list[int] | None, unbatched: bool) -> Any:
    """The input in the form in which the layer takes it; x is (batch, time, feature)."""
    if unbatched:
        return x[0]
    if not module.batch_first:
        x = x.transpose(0, 1)
    if packed is None:
        return x
    return pack_padded_sequence(x, packed, batch_first=module.batch_first, enforce_sorted=False)
