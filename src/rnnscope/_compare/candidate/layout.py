"""Outputs in other forms than one array of three axes: an array for each step, an axis of
directions as ONNX has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.candidate.tensors import as_numbers, is_array
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.structure import Structure

__all__ = ["OUTPUT", "by_known_names", "is_steps", "stacked", "without_directions"]

OUTPUT = ("output", "outputs", "out")
"""Names under which an output is read."""

ONNX = {"Y": "output", "Y_h": "h_n", "Y_c": "c_n"}
"""Names of ONNX, and ours."""


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
