"""From the options of a command to a trace: the layer is built or read, and called."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

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
from rnnscope._cli.states import named_states
from rnnscope._cli.terminal import ArgumentError, note
from rnnscope._trace.trace import trace
from rnnscope._trace.verbs import Trace

__all__ = ["coordinates", "step_labels", "trace_of", "trace_of_sizes"]


def trace_of(
    options: CallOptions, rounded: Callable[[Tensor], Tensor] | None = None
) -> tuple[Trace, str]:
    """The trace of the layer that the options mean, and the line that builds the layer; weights,
    input and initial states are ``rounded`` before it runs, where that is wanted."""
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
    _check_features(options, x, module)
    afford(x[..., 0].numel(), module.num_layers * module.hidden_size)
    x = in_precision(x, module).reshape(-1, *x.shape[-2:])
    states = () if options.initial is None else (named_states(options.initial, module, len(x)),)
    if rounded is not None:
        given, x = x, rounded(x)
        if float((given - x).abs().max()) > 1e-6 * float(given.abs().max()):
            note("the input was rounded too; --digits gives more decimals")
        states = tuple(_each(rounded, state) for state in states)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(rounded(parameter))
    argument = x if options.lengths is None else _packed(x, options.lengths)
    with _drawn_from(options.seed, module):
        opened = trace(module, argument, *states)
    return opened, f"{construction(module, options.weights, name)}   # {origin}"


def _each(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """A state, or each of several, changed."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def _check_features(options: CallOptions, x: Tensor, module: Any) -> None:
    """Refuse steps that the layer does not take, and ask whether one step was meant as several."""
    size, got = module.input_size, x.shape[-1]
    joined = options.steps is not None and len(options.steps) == 1 and got > 1
    steps = " ".join(options.steps[0].split(",")) if options.steps and joined else ""
    if got != size:
        example = ",".join("12345678"[:size]) if size <= 8 else "3,1,..."
        advice = f"A comma joins the numbers of a step, as in {example}"
        if size == 1 and joined:
            advice = f"Did you mean {steps}, {got} steps?"
        raise ArgumentError(
            f"the layer takes {size} number{'s' * (size != 1)} a step; got {got}. {advice}"
        )
    if joined and options.weights is None:
        note(f"{options.steps[0]} is one step of {got} numbers. Did you mean {steps}, {got} steps?")  # type: ignore[index]


def _packed(x: Tensor, words: str) -> PackedSequence:
    """The sequences of these lengths, what stands behind them being padding."""
    lengths = read_lengths(words)
    if len(lengths) != len(x):
        raise ArgumentError(
            f"--lengths {words}: {len(lengths)} length{'s' * (len(lengths) != 1)} for {len(x)} "
            f"sequence{'s' * (len(x) != 1)}; give one for each"
        )
    if max(lengths) > x.shape[1]:
        raise ArgumentError(
            f"--lengths {words}: {max(lengths)} is longer than the input, which has "
            f"{x.shape[1]} step{'s' * (x.shape[1] != 1)}"
        )
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


@contextmanager
def _drawn_from(seed: int, module: nn.Module) -> Iterator[None]:
    """Dropout draws from the seed, and the caller's random state stays as it was."""
    if not module.training:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


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
    choices: dict[str, Any] = {"nonlinearity": activation} if activation else {}
    hidden = options.hidden or 1
    if options.proj_size is not None:
        if kind != "lstm":
            raise ArgumentError("--proj-size is an option of --cell lstm: an LSTM projects its h")
        if options.proj_size >= hidden:
            raise ArgumentError(
                f"--proj-size must be smaller than --hidden, {hidden}; got {options.proj_size}"
            )
        choices["proj_size"] = options.proj_size
    module = drawn(
        options.seed,
        kind or "rnn",
        input_size,
        hidden,
        num_layers=options.layers or 1,
        bias=options.bias,
        batch_first=True,
        bidirectional=options.bidirectional,
        **choices,
    )
    _drop(options, module)
    return module


def _drop(options: CallOptions, module: Any) -> None:
    """Dropout between the layers, which is at work in training alone."""
    if options.dropout is None:
        return
    if module.num_layers == 1:
        note(
            "--dropout has no effect here: it drops between layers, and there is one. "
            "--layers 2 adds a layer"
        )
        return
    module.dropout = options.dropout
    module.train(options.dropout > 0)


def _stored(options: CallOptions) -> tuple[str, Any]:
    """The layer in the file of weights, and its name there."""
    assert options.weights is not None
    kind, activation = cell_name(options.cell, options.nonlinearity)
    sizes = {"--hidden": options.hidden, "--layers": options.layers}
    sizes |= {"--bidirectional": options.bidirectional, "--bias": options.bias}
    sizes |= {"--proj-size": options.proj_size}
    for option, size in sizes.items():
        if size:
            raise ArgumentError(f"sizes follow from {options.weights.name}: leave out {option}")
    layer = LayerFile(options.weights, options.layer_name, kind, options.layout, activation)
    name, module = layer.read()
    _drop(options, module)
    return name, module


def step_labels(labels: str | None, text: str | None, opened: Trace) -> list[str] | None:
    """A name for each step: those of ``labels``, separated by commas, or the words of ``text``.

    Raises ``ArgumentError`` where both are given, and where spaces separate labels.
    """
    if labels is None:
        return None if text is None else text.split()
    if text is not None:
        raise ArgumentError("write --labels or --text, not both")
    names, words = labels.split(","), labels.split()
    if len(names) == 1 and len(words) > 1 and opened.sizes["time"] > 1:
        raise ArgumentError(
            f"--labels {labels!r}: separate the labels with commas, --labels {','.join(words)}, or "
            f"write --text {labels!r}"
        )
    return names


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
