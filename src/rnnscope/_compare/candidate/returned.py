"""What somebody's implementation returned, in one form; or an error that says what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnscope._compare.candidate.layout import (
    OUTPUT,
    by_known_names,
    is_steps,
    stacked,
    without_directions,
)
from rnnscope._compare.candidate.tensors import (
    as_numbers,
    check_depth,
    held_by_torch,
    is_array,
    kind_of,
)
from rnnscope._compare.gpu import on_gpu
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.structure import Structure
from rnnscope.errors import DtypeError, ShapeError

__all__ = ["OUTPUT", "Answer", "Final", "answered", "of_state", "widths"]


@dataclass(frozen=True)
class Answer:
    """What a candidate returned: ``output`` (time, batch, width), ``final`` maps states to
    (layer, direction, batch, unit), as far as they came back in a shape that is known.

    ``dtype`` is the type of the output as it came back. ``notes`` say what was done to read it.
    ``others`` holds what else came back, as it came. ``exchanged``: batch and time of the output
    were exchanged to read it. ``batch_first`` holds the states that came back batch first, by their
    shapes, with a note each. ``unread`` says which came back in a shape that is not known.
    ``on_gpu``: it was computed on a GPU, in float32.
    """

    output: Tensor
    final: Mapping[str, Tensor]
    dtype: torch.dtype
    notes: tuple[str, ...] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)
    exchanged: bool = False
    batch_first: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    on_gpu: bool = False


@dataclass(frozen=True)
class Final:
    """A final state that was read: ``value`` (layer, direction, batch, unit), None where its shape
    is not known; ``batch_first``: batch stood first; ``note`` says either."""

    value: Tensor | None
    batch_first: bool = False
    note: str = ""


def widths(structure: Structure) -> dict[int, str]:
    """The widths that an output may have, and what each would be."""
    directions, size = len(structure.directions), structure.output_size
    meanings = {directions * size: "every direction"}
    meanings.setdefault(size, "directions merged into one")
    meanings.setdefault(directions * structure.hidden_size, "not projected")
    return meanings


def answered(returned: Any, structure: Structure, inputs: Inputs, who: str) -> Answer:
    """What a call returned, in one form.

    Raises ``ShapeError`` and ``DtypeError`` where it is not the output of such a layer.
    """
    notes: list[str] = []
    unread: list[str] = []
    first, states, extras = _parts(returned, structure, inputs, who, notes, unread)
    label = f"the output of {who}"
    if isinstance(first, PackedSequence):
        output = held_by_torch(_padded(first, inputs), label)
        if structure.batch_first:
            output = output.transpose(0, 1)
    elif isinstance(first, list | tuple) and is_steps(first, inputs):
        output = stacked(first, structure, inputs, who, notes)
    else:
        output = without_directions(as_numbers(first, label), structure, inputs, notes)
    dtype = output.dtype
    output, exchanged = _time_major(output, structure, inputs, who, notes)
    final: dict[str, Tensor] = {}
    numbers_by_name: dict[str, Tensor] = {}
    batch_first: dict[str, str] = {}
    for name, value in states.items():
        numbers = as_numbers(value, f"{name}_n of {who}")
        reading = of_state(name, numbers, structure, inputs.batch)
        if reading.value is None:
            numbers_by_name[f"{name}_n"] = numbers
            notes.append(reading.note)
            unread.append(reading.note.replace(" is not used:", ":"))
            continue
        final[name] = reading.value
        if reading.batch_first:
            batch_first[name] = reading.note
        elif reading.note:
            notes.append(reading.note)
    missing = [f"{name}_n" for name in structure.cell.states if name not in states]
    if final and missing:
        came = ", ".join(f"{name}_n" for name in final)
        notes.append(f"one final state came back alone, read as {came}; no other is compared")
    for name, value in extras.items():
        try:
            numbers_by_name[name] = as_numbers(value, name)
        except (DtypeError, ShapeError) as error:
            notes.append(f"not used: {error}")
    return Answer(
        output,
        final,
        dtype,
        tuple(notes),
        numbers_by_name,
        exchanged,
        batch_first,
        tuple(unread),
        on_gpu(returned),
    )


def _padded(packed: PackedSequence, inputs: Inputs) -> Tensor:
    """(time, batch, unit), as long as x where its longest sequence is as long as given."""
    longest = inputs.steps if inputs.lengths is None else int(inputs.lengths.max())
    as_given = len(packed.batch_sizes) == longest
    return pad_packed_sequence(packed, total_length=inputs.steps if as_given else None)[0]


def of_state(name: str, value: Tensor, structure: Structure, batch: int) -> Final:
    """A final state as (layer, direction, batch, unit)."""
    layers, directions = structure.num_layers, len(structure.directions)
    size = structure.state_size(name)
    expected, got = (layers * directions, batch, size), tuple(value.shape)
    axes = f"(layers × directions, batch, unit) = {expected}"
    alone = layers * directions == 1 and got == (batch, size)
    alone = alone or (batch == 1 and got == (layers * directions, size))
    # of a list of what layers of one return each, stacked
    if alone or got in (expected, (layers * directions, 1, batch, size)):
        with_note = alone and not structure.single_step
        note = f"{name}_n came back as {got}; {structure.kind} returns {axes}" if with_note else ""
        return Final(value.reshape(layers, directions, batch, size), note=note)
    if got == (batch, layers * directions, size):
        note = f"{name}_n came back batch first, {got}; {structure.kind} returns {axes}"
        turned = value.transpose(0, 1).reshape(layers, directions, batch, size)
        return Final(turned, batch_first=True, note=f"{note}: read as transposed")
    return Final(None, note=f"{name}_n is not used: expected {axes}, got {got}")


def _parts(
    returned: Any,
    structure: Structure,
    inputs: Inputs,
    who: str,
    notes: list[str],
    unread: list[str],
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The output, the states by name, and what else came back by name."""
    expected = f"expected the output, or the output and the final states: {_form(structure)}"
    check_depth(returned, f"what {who} returned")
    if isinstance(returned, Mapping):
        return _by_name(returned, structure, who, expected)
    if isinstance(returned, PackedSequence) or not isinstance(returned, list | tuple):
        if not is_array(returned) and not hasattr(returned, "__array__"):
            if not isinstance(returned, PackedSequence):
                raise DtypeError(f"{who} returned {kind_of(returned)}; {expected}")
        elif structure.single_step:  # its output is its state
            return returned, {structure.cell.states[0]: returned}, {}
        return returned, {}, {}
    if not returned:
        raise ShapeError(f"{who} returned an empty {type(returned).__name__}; {expected}")
    if _is_nested_numbers(returned):
        notes.append("the output came back as nested lists of numbers")
        return returned, {}, {}
    if not structure.single_step and is_steps(returned, inputs):
        return returned, {}, {}
    first, *later_values = returned
    if structure.single_step:
        names = structure.cell.states
        return first, dict(zip(names, returned, strict=False)), {}
    _in_order(returned, structure, inputs, who)
    return first, *_states(later_values, structure, notes, unread)


def _by_name(
    returned: Mapping[Any, Any], structure: Structure, who: str, expected: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The same of a mapping, under the names that recorded numbers have."""
    named = by_known_names(returned)
    arrays = {str(name): value for name, value in named.items() if value is not None}
    output = next((name for name in OUTPUT if name in arrays), None)
    names = {f"{state}_n": state for state in structure.cell.states}
    if output is None:
        keys = ", ".join(map(repr, list(returned)[:4]))
        description = (
            f"{kind_of(returned)} of {keys}" if keys else f"{kind_of(returned)} of nothing"
        )
        readable = ", ".join(["output", *names])
        raise DtypeError(
            f"{who} returned a {description}; {expected}, or these by name: {readable}"
        )
    states = {names[name]: value for name, value in arrays.items() if name in names}
    extras = {n: value for n, value in arrays.items() if n != output and n not in names}
    return arrays[output], states, extras


def _in_order(returned: Sequence[Any], structure: Structure, inputs: Inputs, who: str) -> None:
    """Raises ``ShapeError`` where the shapes tell that the final states came before the output."""
    *before, last = returned
    arrays = [e for item in before for e in (item if isinstance(item, list | tuple) else [item])]
    if not arrays or not all(map(is_array, [*arrays, last])):
        return
    states, got = [tuple(array.shape) for array in arrays], tuple(last.shape)
    rows, batch = structure.num_layers * len(structure.directions), inputs.batch
    sizes = {structure.state_size(name) for name in structure.cell.states}
    of_states = [{(rows, batch, n), (batch, rows, n), (batch, n)} for n in sizes]
    leads = {(inputs.steps, batch), (batch, inputs.steps)}

    def of_output(shape: tuple[int, ...]) -> bool:
        return shape[:-1] in leads and shape[-1] in widths(structure)

    if not of_output(got) or of_output(states[0]):
        return
    if all(any(shape in shapes for shapes in of_states) for shape in states):
        states_form = _states_form(structure)
        raise ShapeError(
            f"{who} returned the final states before the output, of shapes "
            f"{', '.join(map(str, states))} and {got}; expected {_form(structure)}. "
            f"Exchange them: return output, {states_form}."
        )


def _states(
    later_values: Sequence[Any], structure: Structure, notes: list[str], unread: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Final states by name, and what came back behind them."""
    names = structure.cell.states
    extras: dict[str, Any] = {}
    plain = []
    for value in later_values:
        if isinstance(value, Mapping):
            extras |= {str(key): item for key, item in value.items()}
        else:
            plain.append(value)
    if plain and isinstance(plain[0], list | tuple) and not _is_nested_numbers(plain[0]):
        finals, more = _of_list(plain[0], structure, notes, unread), plain[1:]
    else:
        finals, more = plain[: len(names)], plain[len(names) :]
        if len(finals) == len(names) > 1:
            flat = ", ".join(f"{name}_n" for name in names)
            notes.append(
                f"the final states came back one by one, (output, {flat}); {structure.kind} "
                f"returns {_form(structure, alone=False)}"
            )
    if more:
        notes.append(f"not used: {len(more)} more values that came back behind the final states")
    states = {name: value for name, value in zip(names, finals, strict=False) if value is not None}
    return states, extras


def _of_list(
    finals: Sequence[Any], structure: Structure, notes: list[str], unread: list[str]
) -> list[Any]:
    """The final states in the order of the cell's, of a list of them, or of lists with an array for
    every layer and direction; none where it cannot be told what is what."""
    names = structure.cell.states
    rows = structure.num_layers * len(structure.directions)
    each_row = "one for each layer and direction, stacked"

    def of_arrays(value: Any, count: int) -> bool:
        return isinstance(value, list | tuple) and len(value) == count and all(map(is_array, value))

    by_state = len(finals) == len(names) and all(of_arrays(item, rows) for item in finals)
    by_row = len(finals) == rows and all(of_arrays(item, len(names)) for item in finals)
    if by_state and by_row and rows > 1:
        # two layers of an LSTM: lists are of layers, tuples of states
        forms = type(finals), *{type(item) for item in finals}
        by_state, by_row = forms == (tuple, list), forms == (list, tuple)
    if len(names) == 1 and rows > 1 and of_arrays(finals, rows):
        notes.append(f"{names[0]}_n came back as a list of {rows} arrays, {each_row}")
        return [finals]
    if by_state:
        notes.append(f"each final state came back as a list, {each_row}")
        return list(finals)
    if by_row:
        states = ", ".join(f"{name}_n" for name in names)
        notes.append(f"the final states came back as a list of ({states}), {each_row}")
        return [list(arrays) for arrays in zip(*finals, strict=True)]
    if len(finals) > len(names) or (finals and isinstance(finals[0], list | tuple)):
        got = f"expected {_states_form(structure)}, got a {type(finals).__name__} of {len(finals)}"
        notes.append(f"the final states are not used: {got}")
        unread.append(f"the final states: {got}")
        return []
    return list(finals)


def _form(structure: Structure, alone: bool = True) -> str:
    both = f"(output, {_states_form(structure)})"
    return f"output, or {both}" if alone else both


def _states_form(structure: Structure) -> str:
    names = [f"{name}_n" for name in structure.cell.states]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _is_nested_numbers(value: Any) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, int | float | complex)


def _time_major(
    output: Tensor, structure: Structure, inputs: Inputs, who: str, notes: list[str]
) -> tuple[Tensor, bool]:
    """(time, batch, width) of an output as the reference would return it, and whether batch and
    time had to be exchanged for that."""
    steps, batch = inputs.steps, inputs.batch
    got = tuple(output.shape)
    meanings = widths(structure)
    width = got[-1] if got else 0
    fits = width in meanings
    first = structure.batch_first
    if structure.single_step:
        if got == (batch, structure.output_size):
            return output.unsqueeze(0), False
        raise ShapeError(
            f"{who} returned an output of shape {got}; expected (batch, hidden) = "
            f"{(batch, structure.output_size)}, as {structure.kind} does."
        )
    lead = (batch, steps) if first else (steps, batch)
    if fits and got[:-1] == lead:
        return (output.transpose(0, 1) if first else output).contiguous(), False
    if fits and got[:-1] == lead[::-1]:
        has, needs = ("time", "batch") if first else ("batch", "time")
        notes.append(
            f"the output came back {has} first, {got}; the reference returns {needs} first, "
            f"{(*lead, width)}: read as transposed"
        )
        return (output if first else output.transpose(0, 1)).contiguous(), True
    if fits and len(got) == 2 and batch == 1 and got[0] == steps:
        notes.append(f"the output came back without its batch of 1, {got}")
        return output.unsqueeze(1), False
    if fits and len(got) == 2 and steps == 1 and got[0] == batch:
        notes.append(f"the output came back without its one step, {got}")
        return output.unsqueeze(0), False
    raise ShapeError(_shape_message(got, structure, inputs, who))


def _shape_message(got: tuple[int, ...], structure: Structure, inputs: Inputs, who: str) -> str:
    steps, batch = inputs.steps, inputs.batch
    meanings = widths(structure)
    dims = "(batch, time, unit)" if structure.batch_first else "(time, batch, unit)"
    lead = (batch, steps) if structure.batch_first else (steps, batch)
    expected = (*lead, next(iter(meanings)))
    text = f"{who} returned an output of shape {got}; expected {dims} = {expected}"
    last = {(batch,), (1, batch), (batch, 1)}
    if len(got) > 1 and got[:-1] in last and got[-1] in meanings:
        return (
            f"{text}. That is one step of {steps}, the last one, maybe: return the output of "
            f"every step (in Keras, return_sequences=True)."
        )
    if 0 in got:
        return f"{text}. It is empty: return the output of every step."
    if len(got) == 3 and got[-1] not in meanings and set(got[:2]) == {steps, batch}:
        readable = ", ".join(f"{size} ({meaning})" for size, meaning in meanings.items())
        return f"{text}. Of the width {got[-1]} nothing can be read; known are {readable}."
    if len(got) == 4 and got[-2:] == (len(structure.directions), structure.output_size):
        return f"{text}. Join the directions: output.flatten(-2)."
    if sorted(got) == sorted(expected):
        return f"{text}. Move the axes into that order, for instance with movedim."
    if len(got) == 3 and got[-1] in meanings:
        return f"{text}. It must have as many steps and rows as x, padded where they are fewer."
    return f"{text}. Return one array of three axes with every step of the last layer."
