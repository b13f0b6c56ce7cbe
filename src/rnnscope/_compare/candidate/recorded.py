"""Numbers that an implementation gave elsewhere: arrays and files, with their axes told apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnscope._compare.candidate.advice import on_file, on_steps
from rnnscope._compare.candidate.returned import (
    OUTPUT,
    answered,
    by_known_names,
    of_state,
    widths,
    without_directions,
)
from rnnscope._compare.candidate.subject import Subject, Told, dtype_of, rounding, turned
from rnnscope._compare.candidate.tensors import ON_GPU, as_numbers, on_gpu
from rnnscope._compare.model.model import Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation, distance, some_rows
from rnnscope._files.arrays import read_npz
from rnnscope._files.disk import LazyArray, as_tensor, first_line, no_file
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.structure import Structure
from rnnscope.cells import quantity_names
from rnnscope.errors import AddressError, DtypeError, FileError, ShapeError

__all__ = ["OfArrays", "Recorded", "arrays_of", "read_array"]

LIKE = 0.75
"""From this likeness on a name may be meant for another, as 'hn' and 'h_N' for 'h_n'."""

_AXES = {"b": "batch", "t": "time", "u": "unit"}


class Recorded:
    """Recorded numbers in one form.

    ``output`` (time, batch, width) or None; ``final`` maps states to (layer, direction, batch,
    unit), ``quantities`` names to (layer, direction, batch, time, unit). ``dtype`` is the type in
    which they were recorded; ``notes`` say what was done to read them, ``unread`` which arrays have
    a name that may be meant for one that is known.
    """

    def __init__(self, structure: Structure, inputs: Inputs, where: str = "") -> None:
        self.structure, self.inputs, self.where = structure, inputs, where
        self.output: Tensor | None = None
        self.final: dict[str, Tensor] = {}
        self.quantities: dict[str, Tensor] = {}
        self.dtype = torch.float64
        self.notes: list[str] = []
        self.unread: list[str] = []
        self._quantities = tuple(quantity_names(structure.cell))
        self._states = {f"{state}_n": state for state in structure.cell.states}

    @classmethod
    def of(
        cls, value: Any, structure: Structure, inputs: Inputs, axes: str | None = None
    ) -> Recorded:
        """From an array (the output), a mapping of names, (output, states), or the path of a
        ``.npz`` or ``.npy`` file.

        Names are ``output``, ``h_n``, ``c_n``, and those of quantities, each (layer, direction,
        batch, time, unit) or without axes of length 1. ``axes`` tells the output's, as in "btu"
        for (batch, time, unit); else they are inferred from the sizes.

        Raises ``ShapeError``, ``DtypeError``, ``AddressError`` where no name is known, and
        ``FileError`` for a file that cannot be read.
        """
        if isinstance(value, tuple | list) and axes is None:
            answer = answered(value, structure, inputs, "the recording")
            recorded = cls(structure, inputs)
            recorded.output, recorded.final = answer.output, dict(answer.final)
            recorded.dtype, recorded.unread = answer.dtype, list(answer.unread)
            recorded.notes = [*answer.notes, *answer.batch_first.values()]
            return recorded
        where = ""
        if isinstance(value, str | Path):
            where, value = f"{Path(value)}: ", arrays_of(Path(value))
        recorded = cls(structure, inputs, where)
        recorded._read(value if isinstance(value, Mapping) else {"output": value}, axes)
        return recorded

    @classmethod
    def beside_the_output(
        cls, values: Mapping[str, Tensor], structure: Structure, inputs: Inputs
    ) -> Recorded:
        """What a call gave by name beside its output and states, each (layer, direction, batch,
        time, unit), with notes on what is not used."""
        recorded = cls(structure, inputs)
        for name, value in values.items():
            if name not in recorded._states:  # those that could not be read are told already
                try:
                    recorded._add(name, value, None)
                except (ShapeError, DtypeError) as error:
                    recorded.notes.append(f"{name} is not used: {error}")
        return recorded

    @property
    def _known(self) -> str:
        """The names that are read."""
        short = [name for name in self._quantities if "_" not in name]
        return ", ".join(["output", *self._states, *short])

    def _read(self, values: Mapping[str, Any], axes: str | None) -> None:
        if list(values) == ["arr_0"]:
            self.notes.append("the only array, 'arr_0', is read as the output")
            values = {"output": values["arr_0"]}
        for name, value in by_known_names(values).items():
            self._add(str(name), value, axes)
        h = self.quantities.get("h")
        if self.output is None and h is not None:
            # (direction, batch, time, unit) → (time, batch, direction × unit)
            self.output = h[-1].permute(2, 1, 0, 3).flatten(2).contiguous()
            self.notes.append("the output is h of the last layer, as recorded")
        if self.output is None and not self.final and not self.quantities:
            got = ", ".join(map(repr, values))
            problem = f"no name is known of {got}" if got else "there is no array"
            raise AddressError(f"{self.where}{problem}; expected {self._known}")

    def _add(self, name: str, value: Any, axes: str | None) -> None:
        """One array by its name."""
        label = f"{self.where}{name}"
        if name in OUTPUT and self.output is None:
            self.output = self._read_output(self._numbers(value, label), label, axes)
        elif name in self._states:
            state = self._states[name]
            numbers = self._numbers(value, label)
            reading = of_state(state, numbers, self.structure, self.inputs.batch)
            if reading.value is None:
                raise ShapeError(f"{self.where}{reading.note.replace(' is not used:', ':')}")
            self.final[state] = reading.value
            if reading.note:
                self.notes.append(reading.note)
        elif name in self._quantities:
            self.quantities[name] = self._quantity(name, self._numbers(value, label), label)
        else:
            meant = get_close_matches(name.lower(), [*OUTPUT, *self._states], 1, LIKE)
            if meant:
                self.unread.append(f"{name!r} is not read: is it {meant[0]!r}?")
                self.notes.append(f"{name!r} is not used: is it {meant[0]!r}?")
            else:
                self.notes.append(f"{name!r} is not used; known are {self._known}")

    def _numbers(self, value: Any, label: str) -> Tensor:
        numbers = as_numbers(read_array(value, label), label)
        if numbers.numel() == 0:
            raise ShapeError(
                f"{label} is empty, {tuple(numbers.shape)}: there is nothing to compare"
            )
        is_first = self.output is None and not self.final and not self.quantities
        if is_first or label.endswith(OUTPUT):
            self.dtype = numbers.dtype
        return numbers

    # shapes -----------------------------------------------------------------------------

    @property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (self.inputs.batch,),
            "t": (self.inputs.steps,),
            "u": tuple(widths(self.structure)),
        }

    def _read_output(self, numbers: Tensor, label: str, axes: str | None) -> Tensor:
        if axes is None:
            numbers = without_directions(numbers, self.structure, self.inputs, self.notes)
        got = tuple(numbers.shape)
        order = self._told(got, label, axes) if axes is not None else self._inferred(got, label)
        full = numbers
        for letter in "btu":
            if letter not in order:
                full, order = full.unsqueeze(-1), order + letter
        return full.permute([order.index(letter) for letter in "tbu"]).contiguous()

    def _told(self, got: tuple[int, ...], label: str, axes: str) -> str:
        order = axes.lower()
        if set(order) - set("btu") or len(set(order)) != len(order) or not order:
            raise ShapeError(
                f"axes must name each axis of the output once with b (batch), t (time) and "
                f"u (unit), as in 'btu'; got {axes!r}"
            )
        if not self._fits(got, order):
            raise ShapeError(
                f"{label} of shape {got} is not {self._as_words(order)} = {self._expected(order)}; "
                f"say other axes than {axes!r}, or none"
            )
        return order

    def _inferred(self, got: tuple[int, ...], label: str) -> str:
        reference_order = "btu" if self.structure.batch_first else "tbu"
        orders = (
            ["".join(axes) for axes in permutations(reference_order, len(got))]
            if 0 < len(got) < 4
            else []
        )
        fitting = [order for order in orders if self._fits(got, order)]
        lasting = [order for order in fitting if order[-1] == "u"] or fitting
        if not lasting:
            advice = on_steps(got, widths(self.structure), self.structure, self.inputs)
            raise ShapeError(
                f"{label} of shape {got} fits under no order of its axes; expected "
                f"{self._as_words(reference_order)} = {self._expected(reference_order)}"
                f"{'. ' if advice else ''}{advice}"
            )
        chosen = lasting[0]  # the reference's, if it fits: it comes first
        if chosen != reference_order and len(lasting) > 1 and len(got) == 3:
            choices = " or ".join(repr(order) for order in lasting)
            raise ShapeError(f"{label} of shape {got} may be {choices}: say which, axes={choices}")
        if len(lasting) > 1 and len(got) == 3:
            alternatives = ", ".join(repr(order) for order in lasting if order != chosen)
            self.notes.append(
                f"{label} {got} is read as {self._as_words(chosen)}, the reference's order; by its "
                f"sizes it may also be {alternatives}: say axes={alternatives} if it is"
            )
        elif chosen != reference_order:
            self.notes.append(f"{label} {got} is read as {self._as_words(chosen)}")
        return chosen

    def _fits(self, got: tuple[int, ...], order: str) -> bool:
        """Whether the sizes are right, those of axes that are left out being 1."""
        if len(got) != len(order):
            return False
        sizes = dict.fromkeys("btu", 1) | dict(zip(order, got, strict=True))
        return all(sizes[letter] in expected for letter, expected in self._sizes.items())

    def _expected(self, order: str) -> tuple[int, ...]:
        return tuple(self._sizes[letter][0] for letter in order)

    def _as_words(self, order: str) -> str:
        return f"({', '.join(_AXES[letter] for letter in order)})"

    def _quantity(self, name: str, numbers: Tensor, label: str) -> Tensor:
        structure, inputs = self.structure, self.inputs
        lead = (structure.num_layers, len(structure.directions))
        unit = structure.state_size(name) if name == "h" else structure.hidden_size
        expected = (*lead, inputs.batch, inputs.steps, unit)
        swapped = (*lead, inputs.steps, inputs.batch, unit)
        got = tuple(numbers.shape)
        if len(got) == 5 and got == expected:
            return numbers
        if _squeezed(got) == _squeezed(expected) and _without_ones(got, expected):
            if inputs.batch == inputs.steps > 1:
                self.notes.append(f"{label} {got} is read as (…, batch, time, unit)")
            return numbers.reshape(expected)
        if _squeezed(got) == _squeezed(swapped) and _without_ones(got, swapped):
            self.notes.append(f"{label} {got} is read as (…, time, batch, unit)")
            return numbers.reshape(swapped).transpose(2, 3).contiguous()
        raise ShapeError(
            f"{label} must be (layer, direction, batch, time, unit) = {expected}, or that without "
            f"axes of length 1; got {got}"
        )


def read_array(value: Any, label: str) -> Any:
    """An array that a file holds is read when it is asked for."""
    if not isinstance(value, LazyArray):
        return value
    try:
        return value.read()
    except TypeError as error:  # text, dates and whatever else torch has no type for
        raise DtypeError(f"{label} must hold floating point numbers: {error}") from error


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _without_ones(got: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Whether ``got`` has no axis of length 1 that ``full`` has not."""
    return len(got) <= len(full) and got.count(1) <= full.count(1)


class OfArrays(Subject):
    """Numbers that were recorded elsewhere, to be compared."""

    def __init__(self, value: Any, adopted: Adopted, inputs: Inputs, axes: str | None):
        super().__init__()
        recorded = Recorded.of(value, adopted.structure, inputs, axes)
        self.adopted, self.model = adopted, Model.of(adopted, torch.float64)
        lies_on_gpu = on_gpu(value)
        padding = self.on_padding(recorded.output, inputs)
        self.notes = [*[ON_GPU] * lies_on_gpu, *recorded.notes, *padding]
        self.unread = recorded.unread
        self.untried = {"the final states"} if recorded.unread else set()
        self.dtypes = (dtype_of(adopted), recorded.dtype)
        self._observation = self.observation(
            self.model,
            inputs,
            rounding(*self.dtypes, on_gpu=lies_on_gpu),
            recorded.output,
            recorded.final,
            recorded.quantities,
        )
        self._batch_first = self._turned_back()

    def _turned_back(self) -> list[str]:
        """The final states that agree if they are read batch first, and not as they stand: where
        there are as many rows as sequences, their shape does not tell. They are put in order."""
        observation = self._observation
        [outcome] = observation.simulator.run([self.model])
        if outcome is None or observation.inputs.batch != self.rows:
            return []
        reordered = {
            name: turned(state)
            for name, state in observation.final.items()
            if not self._fits(name, state, outcome) and self._fits(name, turned(state), outcome)
        }
        self._observation = replace(observation, final={**observation.final, **reordered})
        return list(reordered)

    def _fits(self, name: str, state: Tensor, outcome: Outcome) -> bool:
        within = self._observation.allowed[f"{name}_n"]
        return bool((distance(outcome.final[name], state) <= within).all())

    def shown(self) -> list[Observation]:
        """All numbers."""
        return [self._observation]

    def searched(self) -> list[Observation]:
        """Some of them, where there are many."""
        return [self.some_of(self._observation)]

    def read(self) -> list[Told]:
        """Final states that lie batch first; the axes of the output may have any order."""
        return self.batch_first(self._batch_first)

    def only_rows(self, rows: Sequence[int]) -> OfArrays:
        """Some of the rows, as if there were no others."""
        fewer = copy.copy(self)
        index = torch.tensor(rows, dtype=torch.long, device="cpu")
        fewer._observation = some_rows(self._observation, index)
        return fewer

    def as_coarse(self, unit: float) -> OfArrays:
        """The same, as if computing had rounded to ``unit``."""
        coarse, seen = copy.copy(self), self._observation
        coarse._observation = self.observation(
            self.model, seen.inputs, unit, seen.output, seen.final, seen.quantities
        )
        return coarse

    def with_dropout(self) -> list[str]:
        """Whether the numbers are those of training mode."""
        p = self.adopted.dropout
        if not p or self.adopted.num_layers == 1:
            return []
        return [
            f"the reference has dropout={p:g} between layers, and is compared without it: were the "
            f"numbers recorded in evaluation mode, by layer.eval()?"
        ]


# files ---------------------------------------------------------------------------------------


def arrays_of(path: Path) -> dict[str, Any]:
    """The arrays of a file by name; that of a ``.npy`` is the output. Nothing is unpickled."""
    kinds = {".npz": _read_npz, ".npy": _read_npy}
    reader = kinds.get(path.suffix.lower())
    if reader is None:
        raise FileError(on_file(path))
    if not path.is_file():
        raise FileError(f"{path}: {no_file(path)}")
    try:
        return reader(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_npz(path: Path) -> dict[str, Any]:
    raw = read_npz(path)
    if not raw.arrays:
        raise FileError(f"{path}: holds no array")
    return dict(raw.arrays)


def _read_npy(path: Path) -> dict[str, Any]:
    try:
        # mapped, so that a header which promises more than the file holds allocates nothing
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy and Python's parser raise many kinds for a damaged one
        if "Python objects" in str(error):
            raise FileError(
                f"{path}: holds Python objects, which could run code when read; expected numbers"
            ) from error
        raise FileError(f"{path}: not a whole .npy file: {first_line(error)}") from error
    if array.dtype.kind not in "biufc":
        raise DtypeError(f"{path} must hold floating point numbers; got {array.dtype}")
    return {"output": as_tensor(np.asarray(array))}
