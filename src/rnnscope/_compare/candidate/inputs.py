"""The inputs of a comparison, in one form: the caller's own, and drawn ones.

Drawn inputs tell mistakes apart: several steps and rows, sizes that differ, states not zero.
Default values hide mistakes: with h_0 = 0 and biases of zero, 41 of 158 mistakes of an LSTM show
nothing. So they come with initial states and without, with one step and with several.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._compare.candidate.tensors import short, tensor_of
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.recurrent import Recurrent
from rnnscope._layers.sequences import valid_steps
from rnnscope._layers.structure import Structure
from rnnscope.cells import GRU, LSTM, LSTM_PROJECTED, RNN_RELU, RNN_TANH, Cell
from rnnscope.errors import DtypeError, ShapeError

__all__ = [
    "built",
    "confirming",
    "described",
    "doubled",
    "drawn_inputs",
    "further",
    "given_inputs",
    "ordered_as",
    "searching",
    "tiny_layer",
    "unlike_its_calls",
]


def given_inputs(adopted: Adopted, x: Any, initial: Any, lengths: Any) -> Inputs:
    """Inputs and initial states, as the layer takes them, time first in float64.

    Raises ``ShapeError`` and ``DtypeError`` for what the layer cannot take, for numbers that are
    not finite, and for lengths that are no whole numbers or none of x.
    """
    dtype = adopted.weights(fresh=True)[0][0].ih.dtype
    states = _states(initial, dtype, several=len(adopted.cell.states) > 1)
    call = adopted.call((_as_tensor(x, dtype, "x"), states), {})
    for name, value in {"x": call.x, **{f"{k}_0": v for k, v in call.initial.items()}}.items():
        if not bool(torch.isfinite(value).all()):
            raise ShapeError(
                f"{name} holds NaN or infinite numbers, with which nothing can be compared; "
                f"expected finite numbers. Leave these rows out."
            )
    inputs = Inputs(
        call.x.double(), doubled(call.initial), call.has_initial, call.lengths, not call.batched
    )
    if lengths is None:
        return inputs
    # x keeps what stands on the padding: one who ignores the lengths reads it
    sizes = _sizes(lengths, inputs.batch, inputs.steps)
    return replace(inputs, lengths=sizes)


def _sizes(lengths: Any, batch: int, steps: int) -> Tensor:
    """The steps of each sequence, (batch) of int64."""
    expected = f"lengths must be {batch} whole number{'s'[: batch > 1]}, one a row of x"
    hint = "Give the steps of each sequence as a list of int."
    try:
        sizes = tensor_of(list(lengths) if isinstance(lengths, range) else lengths, "lengths")
    except (DtypeError, ShapeError) as error:
        if isinstance(lengths, Tensor):
            raise  # which says what kind of tensor it is
        raise type(error)(f"{expected}; got {reprlib.repr(lengths)}. {hint}") from error
    if sizes.is_floating_point() or sizes.is_complex() or sizes.dtype == torch.bool:
        raise DtypeError(f"{expected}; got {short(sizes.dtype)}. {hint}")
    if sizes.shape != (batch,):
        raise ShapeError(f"{expected}; got numbers of shape {tuple(sizes.shape)}. {hint}")
    if not bool(((sizes >= 1) & (sizes <= steps)).all()):
        raise ShapeError(
            f"lengths must lie between 1 and {steps}, the steps of x; got {sizes.tolist()}"
        )
    return sizes.long()


def _states(initial: Any, dtype: torch.dtype, several: bool) -> Any:
    """Initial states as tensors; of several, what is no tuple of them is left to the layer."""
    if several and isinstance(initial, tuple | list):
        return type(initial)(_as_tensor(state, dtype, "initial") for state in initial)
    return _as_tensor(initial, dtype, "initial")


def _as_tensor(value: Any, dtype: torch.dtype, label: str) -> Any:
    if value is None:
        return value
    if isinstance(value, PackedSequence):
        tensor_of(value.data, label)
        return value
    tensor = tensor_of(value, label)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def doubled(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in float64."""
    return {name: value.double() for name, value in states.items()}


def unlike_its_calls(adopted: Adopted) -> list[str]:
    """Notes on what a call of the reference would do now, and the comparison does not."""
    notes: list[str] = []
    if adopted.training and adopted.dropout and adopted.num_layers > 1:
        notes.append("the reference is compared in evaluation mode, without dropout")
    module = adopted.module
    if module._forward_hooks or module._forward_pre_hooks:
        notes.append("the reference has forward hooks, which are not run for the comparison")
    return notes


def described(adopted: Adopted, inputs: Inputs, model: Model, seed: int | None) -> str:
    """Sizes, states and biases of what was compared, in a line."""
    structure = adopted.structure
    sizes = f"time {inputs.steps}, batch {inputs.batch}, input {structure.input_size}, hidden "
    sizes += str(structure.hidden_size)
    if structure.num_layers > 1:
        sizes += f", {structure.num_layers} layers"
    if len(structure.directions) > 1:
        sizes += ", bidirectional"
    zero = [f"{n}_0" for n, v in inputs.initial.items() if not bool(v.any())]
    states = ", ".join(zero or (f"{n}_0" for n in inputs.initial))
    facts = [f"{states} {'zero' if zero else 'not zero'}"]
    biases = [t for row in model.parts for p in row for t in (p.weights.b_ih, p.weights.b_hh)]
    if any(t is None for t in biases):
        facts.append("no biases")
    else:
        nonzero = any(bool(t.any()) for t in biases if t is not None)
        facts.append("biases not zero" if nonzero else "biases zero")
    if inputs.lengths is not None:
        facts.append(f"lengths {', '.join(map(str, inputs.lengths.tolist()))}")
    start = "" if seed is None else f"seed {seed}: "
    return f"{start}{sizes}; {', '.join(facts)}"


# drawn -------------------------------------------------------------------------------------------


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


def ordered_as(lengths: Tensor, others: Tensor | None) -> Tensor:
    """Lengths in falling or rising order where others fall or rise, (batch): what takes sorted
    sequences alone is given no others."""
    if others is None:
        return lengths
    for falling in (True, False):
        if torch.equal(others.sort(descending=falling).values, others):
            return lengths.sort(descending=falling).values
    return lengths


def searching(
    structure: Structure, seed: int, initial: bool, padded: bool, ends: Tensor | None = None
) -> list[Inputs]:
    """The inputs with which mistakes are searched for: short, so that thousands can be tried; of
    those that are ``padded`` the lengths fall or rise as ``ends`` do, those of the caller."""
    generator = torch.Generator("cpu").manual_seed(seed)
    rows = structure.num_layers * len(structure.directions)
    wanted = [(1, 3, False), (1, 3, True), (4, 3, False), (4, 3, True), (3, 3, True)]
    if rows not in (1, 3):
        wanted.append((3, rows, True))
    lengths = ordered_as(torch.tensor([2, 4, 3], dtype=torch.long, device="cpu"), ends)
    sizes: list[tuple[int, int, bool, Tensor | None]] = [(*size, None) for size in wanted]
    sizes += [(4, 3, False, lengths), (4, 3, True, lengths)] if padded else []
    return [
        drawn_inputs(structure, steps, batch, with_states, generator, sequences)
        for steps, batch, with_states, sequences in sizes
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


_TORCH: Mapping[Cell, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    RNN_TANH: nn.RNN,
    RNN_RELU: nn.RNN,
    GRU: nn.GRU,
    LSTM: nn.LSTM,
    LSTM_PROJECTED: nn.LSTM,
}


def built(structure: Structure, sizes: tuple[int, int, int], **options: Any) -> nn.Module:
    """A new layer of the same cell and options, of torch unless it is declared, with ``sizes`` of
    input, hidden and projected state."""
    for name in ("num_layers", "bias", "batch_first", "bidirectional"):
        options[name] = getattr(structure, name)
    if structure.cell.projected:
        options["proj_size"] = sizes[2]
    kind = None if structure.declared else _TORCH.get(structure.cell)
    if kind is None:
        return Recurrent(structure.cell, *sizes[:2], **options, reverse=structure.reverse)
    if kind is nn.RNN:
        options["nonlinearity"] = "relu" if structure.cell is RNN_RELU else "tanh"
    return kind(*sizes[:2], **options)


def tiny_layer(structure: Structure, seed: int) -> nn.Module:
    """A small layer of the same kind and options with random weights and biases, none of them
    zero, in which every mistake shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = built(structure, (3, 4, 2), dtype=torch.float32, device="cpu")
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -0.8, 0.8)
    return layer.eval()
