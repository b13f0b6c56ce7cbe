"""Sequences one by one, without an axis for the batch: what a function of one sequence takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from rnnscope._compare.candidate.returned import Answer
from rnnscope._compare.model.model import Inputs

__all__ = ["each_alone", "joined", "without_batch"]


def each_alone(inputs: Inputs) -> list[Inputs]:
    """Each sequence of a call by itself, still with an axis for the batch, of length 1."""
    return [
        replace(
            inputs,
            x=inputs.x[:, row : row + 1],
            initial={name: value[:, :, row : row + 1] for name, value in inputs.initial.items()},
            lengths=None if inputs.lengths is None else inputs.lengths[row : row + 1],
            single=True,
        )
        for row in range(inputs.batch)
    ]


def without_batch(arguments: Mapping[str, Any], batch_first: bool) -> dict[str, Any]:
    """The arguments of a call with one sequence without the axis of the batch: x (time, feature),
    each initial state (layers × directions, unit)."""

    def of_role(role: str, value: Any) -> Any:
        if role == "x":
            return value.squeeze(0 if batch_first else 1)
        if role == "flat":
            return [state.squeeze(0) for state in value]
        if role == "initial" and isinstance(value, tuple):
            return tuple(state.squeeze(1) for state in value)
        if role == "initial" or role.startswith("state:"):
            return value.squeeze(1)
        return value

    return {role: of_role(role, value) for role, value in arguments.items()}


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
