"""What somebody's implementation returned, in one form; or an error that says what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnscope._compare.candidate.advice import on_state, on_steps
from rnnscope._compare.candidate.tensors import (
    as_numbers,
    check_depth,
    held_by_torch,
    is_array,
    kind_of,
    on_gpu,
)
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.structure import Structure
from rnnscope.errors import DtypeError, ShapeError

__all__ = [
    "OUTPUT",
    "Answer",
    "Final",
    "answered",
    "by_known_names",
    "joined",
    "of_state",
    "widths",
    "without_directions",
]

OUTPUT = ("output", "outputs", "out")
"""Names under which an output is read."""

ONNX = {"Y": "output", "Y_h": "h_n", "Y_c": "c_n"}
"""Names of ONNX, and ours."""


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
    return _Reading(structure, inputs, who).answer(returned)


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
        note = f"{name}_n came back as {got}; {structure.kind} returns {axes}" if alone else ""
        return Final(value.reshape(layers, directions, batch, size), note=note)
    if got == (batch, layers * directions, size):
        note = f"{name}_n came back batch first, {got}; {structure.kind} returns {axes}"
        turned = value.transpose(0, 1).reshape(layers, directions, batch, size)
        return Final(turned, batch_first=True, note=f"{note}: read as transposed")
    advice = on_state(name, got, structure, batch)
    return Final(None, note=f"{name}_n is not used: expected {axes}, got {got}{advice}")


def joined(answers: Sequence[Answer]) -> Answer:
    """What came back for each sequence as one answer for all; what came beside the output and the
    final states only where there is one sequence."""
    first = answers[0]
    names = [n for n in first.final if all(n in answer.final for answer in answers)]
    return replace(
        first,
        output=torch.cat([answer.output for answer in answers], 1),
        final={name: torch.cat([answer.final[name] for answer in answers], 2) for name in names},
        notes=tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
        others=first.others if len(answers) == 1 else {},
    )


class _Reading:
    """What one call returned while it is read, with notes on what was done for that."""

    def __init__(self, structure: Structure, inputs: Inputs, who: str) -> None:
        self.structure, self.inputs, self.who = structure, inputs, who
        self.states = structure.cell.states
        self.rows = structure.num_layers * len(structure.directions)
        self.notes: list[str] = []
        self.unread: list[str] = []
        self.unused: dict[str, Tensor] = {}

    def answer(self, returned: Any) -> Answer:
        """All of it in one form."""
        first, states, extras = self._parts(returned)
        output = self._output(first)
        dtype = output.dtype
        output, exchanged = self._time_major(output)
        final: dict[str, Tensor] = {}
        batch_first: dict[str, str] = {}
        for name, value in states.items():
            numbers = as_numbers(value, f"{name}_n of {self.who}")
            reading = of_state(name, numbers, self.structure, self.inputs.batch)
            if reading.value is None:
                self.unused[f"{name}_n"] = numbers
                self.unread.append(reading.note.replace(" is not used:", ":"))
            else:
                final[name] = reading.value
            if reading.batch_first:
                batch_first[name] = reading.note
            elif reading.note and not (self.inputs.single and numbers.dim() == 2):
                self.notes.append(reading.note)
        if final and any(name not in states for name in self.states):
            came = ", ".join(f"{name}_n" for name in final)
            self.notes.append(
                f"one final state came back alone, read as {came}; no other is compared"
            )
        for name, value in extras.items():
            try:
                self.unused[name] = as_numbers(value, name)
            except (DtypeError, ShapeError) as error:
                self.notes.append(f"not used: {error}")
        return Answer(
            output,
            final,
            dtype,
            tuple(self.notes),
            self.unused,
            exchanged,
            batch_first,
            tuple(self.unread),
            on_gpu(returned),
        )

    def _output(self, value: Any) -> Tensor:
        """Of one array of three axes, or of another form of it, with its axes as they came."""
        label = f"the output of {self.who}"
        if isinstance(value, PackedSequence):
            inputs = self.inputs
            longest = inputs.steps if inputs.lengths is None else int(inputs.lengths.max())
            # as long as x where its longest sequence is as long as given
            total = inputs.steps if len(value.batch_sizes) == longest else None
            padded = pad_packed_sequence(value, self.structure.batch_first, total_length=total)[0]
            return held_by_torch(padded, label)
        if isinstance(value, list | tuple) and is_steps(value, self.inputs):
            return stacked(value, self.structure, self.inputs, self.who, self.notes)
        return without_directions(as_numbers(value, label), self.structure, self.inputs, self.notes)

    # which is which -------------------------------------------------------------------------

    def _parts(self, returned: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The output, the states by name, and what else came back by name."""
        who = self.who
        expected = f"expected the output, or the output and the final states: {self._form}"
        check_depth(returned, f"what {who} returned")
        if isinstance(returned, Mapping):
            return self._by_name(returned, expected)
        if isinstance(returned, PackedSequence):
            return returned, {}, {}
        if not isinstance(returned, list | tuple):
            if not is_array(returned) and not hasattr(returned, "__array__"):
                raise DtypeError(f"{who} returned {kind_of(returned)}; {expected}")
            return returned, {}, {}
        if not returned:
            raise ShapeError(f"{who} returned an empty {type(returned).__name__}; {expected}")
        if _is_nested_numbers(returned):
            self.notes.append("the output came back as nested lists of numbers")
            return returned, {}, {}
        if is_steps(returned, self.inputs):
            return returned, {}, {}
        self._check_order(returned)
        return returned[0], *self._states_of(returned[1:])

    def _by_name(
        self, returned: Mapping[Any, Any], expected: str
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The same of a mapping, under the names that recorded numbers have."""
        named = by_known_names(returned)
        arrays = {str(name): value for name, value in named.items() if value is not None}
        output = next((name for name in OUTPUT if name in arrays), None)
        names = {f"{state}_n": state for state in self.states}
        if output is None:
            keys = ", ".join(map(repr, list(returned)[:4])) or "nothing"
            readable = ", ".join(["output", *names])
            raise DtypeError(
                f"{self.who} returned a {kind_of(returned)} of {keys}; {expected}, or these by "
                f"name: {readable}"
            )
        states = {names[name]: value for name, value in arrays.items() if name in names}
        extras = {n: value for n, value in arrays.items() if n != output and n not in names}
        return arrays[output], states, extras

    def _check_order(self, returned: Sequence[Any]) -> None:
        """Raises ``ShapeError`` where the shapes tell that the final states came before the
        output."""
        *before, last = returned
        arrays = [e for v in before for e in (v if isinstance(v, list | tuple) else [v])]
        if not arrays or not all(map(is_array, [*arrays, last])):
            return
        states, got = [tuple(array.shape) for array in arrays], tuple(last.shape)
        rows, batch = self.rows, self.inputs.batch
        of_states = {
            shape
            for n in map(self.structure.state_size, self.states)
            for shape in ((rows, batch, n), (batch, rows, n), (batch, n))
        }
        leads = {(self.inputs.steps, batch), (batch, self.inputs.steps)}

        def is_output(shape: tuple[int, ...]) -> bool:
            return shape[:-1] in leads and shape[-1] in widths(self.structure)

        if is_output(got) and not is_output(states[0]) and of_states.issuperset(states):
            raise ShapeError(
                f"{self.who} returned the final states before the output, of shapes "
                f"{', '.join(map(str, states))} and {got}; expected {self._form}. "
                f"Exchange them: return output, {self._states_form}."
            )

    def _states_of(self, values: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Final states by name, and what came back behind them."""
        names = self.states
        extras = {
            str(key): item for v in values if isinstance(v, Mapping) for key, item in v.items()
        }
        plain = [value for value in values if not isinstance(value, Mapping)]
        if plain and isinstance(plain[0], list | tuple) and not _is_nested_numbers(plain[0]):
            finals, more = self._of_list(plain[0]), plain[1:]
        else:
            finals, more = plain[: len(names)], plain[len(names) :]
            if len(finals) == len(names) > 1:
                flat = ", ".join(f"{name}_n" for name in names)
                self.notes.append(
                    f"the final states came back one by one, (output, {flat}); "
                    f"{self.structure.kind} returns (output, {self._states_form})"
                )
        if more:
            self.notes.append(
                f"not used: {len(more)} more values that came back behind the final states"
            )
        states = dict(zip(names, finals, strict=False))
        return {name: value for name, value in states.items() if value is not None}, extras

    def _of_list(self, finals: Sequence[Any]) -> list[Any]:
        """The final states in the order of the cell's, of a list of them, or of lists with an array
        for every layer and direction; none where it cannot be told what is what."""
        names, rows = self.states, self.rows
        each_row = "one for each layer and direction, stacked"

        def of_arrays(value: Any, count: int) -> bool:
            return (
                isinstance(value, list | tuple)
                and len(value) == count
                and all(map(is_array, value))
            )

        by_state = len(finals) == len(names) and all(of_arrays(item, rows) for item in finals)
        by_row = len(finals) == rows and all(of_arrays(item, len(names)) for item in finals)
        if by_state and by_row and rows > 1:
            # two layers of an LSTM: lists are of layers, tuples of states
            forms = type(finals), *{type(item) for item in finals}
            by_state, by_row = forms == (tuple, list), forms == (list, tuple)
        if len(names) == 1 and rows > 1 and of_arrays(finals, rows):
            self.notes.append(f"{names[0]}_n came back as a list of {rows} arrays, {each_row}")
            return [finals]
        if by_state:
            self.notes.append(f"each final state came back as a list, {each_row}")
            return list(finals)
        if by_row:
            states = ", ".join(f"{name}_n" for name in names)
            self.notes.append(f"the final states came back as a list of ({states}), {each_row}")
            return [list(arrays) for arrays in zip(*finals, strict=True)]
        if len(finals) > len(names) or (finals and isinstance(finals[0], list | tuple)):
            got = f"{type(finals).__name__} of {len(finals)}"
            problem = f"expected {self._states_form}, got a {got}"
            self.notes.append(f"the final states are not used: {problem}")
            self.unread.append(f"the final states: {problem}")
            return []
        return list(finals)

    @property
    def _form(self) -> str:
        return f"output, or (output, {self._states_form})"

    @property
    def _states_form(self) -> str:
        names = [f"{name}_n" for name in self.states]
        return names[0] if len(names) == 1 else f"({', '.join(names)})"

    # the axes of the output -----------------------------------------------------------------

    def _time_major(self, output: Tensor) -> tuple[Tensor, bool]:
        """(time, batch, width) of an output as the reference would return it, and whether batch and
        time had to be exchanged for that."""
        structure, steps, batch = self.structure, self.inputs.steps, self.inputs.batch
        got, first = tuple(output.shape), structure.batch_first
        if not got or got[-1] not in widths(structure):
            raise ShapeError(self._shape_message(got))
        lead = (batch, steps) if first else (steps, batch)
        if got[:-1] == lead:
            return (output.transpose(0, 1) if first else output).contiguous(), False
        if got[:-1] == lead[::-1]:
            has, needs = ("time", "batch") if first else ("batch", "time")
            self.notes.append(
                f"the output came back {has} first, {got}; the reference returns {needs} first, "
                f"{(*lead, got[-1])}: read as transposed"
            )
            return (output if first else output.transpose(0, 1)).contiguous(), True
        if len(got) == 2 and batch == 1 and got[0] == steps:
            if not self.inputs.single:
                self.notes.append(f"the output came back without its batch of 1, {got}")
            return output.unsqueeze(1), False
        if len(got) == 2 and steps == 1 and got[0] == batch:
            self.notes.append(f"the output came back without its one step, {got}")
            return output.unsqueeze(0), False
        raise ShapeError(self._shape_message(got))

    def _shape_message(self, got: tuple[int, ...]) -> str:
        structure, steps, batch = self.structure, self.inputs.steps, self.inputs.batch
        meanings = widths(structure)
        dims = "(batch, time, unit)" if structure.batch_first else "(time, batch, unit)"
        lead = (batch, steps) if structure.batch_first else (steps, batch)
        expected = (*lead, next(iter(meanings)))
        text = f"{self.who} returned an output of shape {got}; expected {dims} = {expected}"
        of_steps = on_steps(got, meanings, structure, self.inputs)
        if of_steps:
            return f"{text}. {of_steps}"
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


def _is_nested_numbers(value: Any) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, int | float | complex)


# other forms than one array of three axes: an array for each step, an axis of directions --------


def by_known_names(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same with the names of ONNX replaced, where none of ours stands beside them."""
    taken = set(map(str, values))
    return {
        ONNX[name] if name in ONNX and ONNX[name] not in taken else name: value
        for name, value in values.items()
    }


def is_steps(returned: Sequence[Any], inputs: Inputs) -> bool:
    """Whether it is [h_1, h_2, …], one array for each step, (batch, unit) or that with an axis of
    length 1; not [h, h, c] of a layer that returns the last step."""
    if len(returned) != inputs.steps or not all(is_array(array) for array in returned):
        return False
    shapes = {tuple(array.shape) for array in returned}
    if len(shapes) != 1 or _of_step(next(iter(shapes)), inputs.batch) is None:
        return False
    if len(returned) == 1:
        return True
    first, second = (as_numbers(step, "a step of the output") for step in returned[:2])
    return not torch.equal(first, second)


def _of_step(shape: tuple[int, ...], batch: int) -> tuple[int, int] | None:
    """(batch, unit) of the shape of one step; None where it is none."""
    if shape and shape in ((batch, shape[-1]), (1, batch, shape[-1]), (batch, 1, shape[-1])):
        return batch, shape[-1]
    return (1, shape[0]) if batch == 1 and len(shape) == 1 else None


def stacked(
    returned: Sequence[Any], structure: Structure, inputs: Inputs, who: str, notes: list[str]
) -> Tensor:
    """The output of one array for each step, as the reference lays its axes."""
    notes.append(f"the output came back as a list of {len(returned)} arrays, stacked")
    steps = [as_numbers(array, f"the output of {who}") for array in returned]
    shape = _of_step(tuple(steps[0].shape), inputs.batch)
    assert shape is not None, "is_steps was asked"
    return torch.stack([step.reshape(shape) for step in steps], int(structure.batch_first))


def without_directions(
    output: Tensor, structure: Structure, inputs: Inputs, notes: list[str]
) -> Tensor:
    """An output as ONNX has it, (time, direction, batch, unit), with three axes as the reference
    returns it; any other as it is."""
    directions, got = len(structure.directions), tuple(output.shape)
    if got != (inputs.steps, directions, inputs.batch, structure.output_size):
        return output
    notes.append(
        f"the output came back as (time, direction, batch, unit) {got}, as ONNX has it: its "
        f"directions were joined"
    )
    joined = output.transpose(1, 2).flatten(2)
    return (joined.transpose(0, 1) if structure.batch_first else joined).contiguous()
