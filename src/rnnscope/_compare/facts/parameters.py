"""A parameter that holds another one's numbers, or zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from torch import Tensor

from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part, PartIndex

__all__ = ["of_parameters"]

FIELDS = {"ih": "weight_ih", "hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"} | {
    "hr": "weight_hr"
}


@dataclass(frozen=True)
class _Parameter:
    """One parameter of a model: where it stands, and its name in PyTorch."""

    place: PartIndex
    field: str
    name: str
    value: Tensor


def _parameters(model: Model) -> list[_Parameter]:
    return [
        _Parameter((layer, d), field, f"{name}{part.stored.suffix}", value)
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
        for field, name in FIELDS.items()
        if (value := part.parameter(field)) is not None
    ]


def _with(model: Model, *changes: tuple[_Parameter, Tensor, str]) -> Model:
    """The model with other numbers in some parameters; the last of each change tells them apart."""
    parts: dict[PartIndex, Part] = {}
    for parameter, value, source in changes:
        layer, d = parameter.place
        part = parts.get(parameter.place, model.parts[layer][d])
        token = ("holds", parameter.name, source)
        parts[parameter.place] = part.weighted(*token, **{parameter.field: value})
    return model.with_parts(parts)


def _never_loaded(model: Model, parameters: Sequence[_Parameter]) -> Iterator[Finding]:
    """All parameters of a layer and direction zero."""
    names = model.structure.directions
    for place in dict.fromkeys(parameter.place for parameter in parameters):
        of_place = [parameter for parameter in parameters if parameter.place == place]
        where = f"layer {place[0]}" + (f", {names[place[1]]}," if len(names) > 1 else "")
        words = Words(
            f"all parameters of {where} are zero",
            f"with zeros there {model.structure.kind} gives these numbers: are they ever loaded?",
            f'{of_place[0].name} = weights["{of_place[0].name}"]   # and all others of it',
        )
        changed = _with(
            model,
            *((parameter, torch.zeros_like(parameter.value), "zeros") for parameter in of_place),
        )
        yield Finding(Cause("parameter", "zero", "all"), words, changed)


def of_parameters(model: Model) -> Iterator[Finding]:
    """Each parameter in place of each other one of its shape, two exchanged, each one zero, and
    all of a layer and direction."""
    parameters = _parameters(model)
    kind = model.structure.kind
    yield from _never_loaded(model, parameters)
    for parameter in parameters:
        words = Words(
            f"{parameter.name} is zero",
            f"with zeros in {parameter.name} {kind} gives these numbers: is it ever loaded?",
            f'{parameter.name} = weights["{parameter.name}"]',
        )
        zeros = torch.zeros_like(parameter.value)
        changed = _with(model, (parameter, zeros, "zeros"))
        yield Finding(Cause("parameter", "zero", parameter.name), words, changed)
    for target, source in permutations(parameters, 2):
        if target.value.shape == source.value.shape:
            words = Words(
                f"{target.name} holds {source.name}'s numbers",
                f"with {source.name} in both places {kind} gives these numbers.",
                f'{target.name} = weights["{target.name}"]',
            )
            changed = _with(model, (target, source.value, source.name))
            yield Finding(Cause("parameter", source.name, target.name), words, changed)
    for target, source in combinations(parameters, 2):
        if target.value.shape == source.value.shape:
            words = Words(
                f"{target.name} and {source.name} are exchanged",
                f"with each in the other's place {kind} gives these numbers.",
                f'{target.name} = weights["{target.name}"]; '
                f'{source.name} = weights["{source.name}"]',
            )
            changed = _with(
                model,
                (target, source.value, source.name),
                (source, target.value, target.name),
            )
            names = f"{target.name}, {source.name}"
            yield Finding(Cause("parameter", "exchanged", names), words, changed)
