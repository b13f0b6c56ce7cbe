"""A parameter that holds another one's numbers, or zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part, PartIndex

__all__ = ["columns_left_out", "of_parameters"]

FIELDS = {"ih": "weight_ih", "hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"} | {
    "hr": "weight_hr"
}

NAMES = {"ih": "W", "hh": "W", "b_ih": "b", "b_hh": "b"}

UNREAD = (0, 1, 4, 8, 16, 32)
"""Columns that are left out: the first, the last, those behind the last whole block of so many."""


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


def _unread(model: Model, parameters: Sequence[_Parameter]) -> Iterator[Finding]:
    """The last columns of matrices, or the first one, that a loop leaves out: in all of them, or in
    one."""
    for field, reads in (("ih", "x"), ("hh", "h")):
        each = [parameter for parameter in parameters if parameter.field == field]
        for chosen in dict.fromkeys((tuple(each), *((one,) for one in each))):
            for key in UNREAD:
                columns = [_left_out(parameter.value.shape[-1], key) for parameter in chosen]
                if not any(columns):
                    continue
                changes = []
                for parameter, numbers in zip(chosen, columns, strict=True):
                    value = parameter.value.clone()
                    value[:, numbers] = 0
                    changes.append((parameter, value, f"unread {key}"))
                numbers = next(filter(None, columns))
                also = ", or x is zero there" if field == "ih" else ""
                name = f"W_{field}" if len(chosen) > 1 else chosen[0].name
                words = Words(
                    f"{listed('column', numbers)} of {name} {'is' if len(numbers) == 1 else 'are'} "
                    f"never read",
                    f"the loop over {reads} leaves them out{also}.",
                    f"for k in range(len({reads})):   # all of them, in blocks or not",
                )
                yield Finding(
                    Cause("unread", listed("column", numbers), name), words, _with(model, *changes)
                )


def columns_left_out(width: int) -> list[list[int]]:
    """The columns of a matrix that may never be read."""
    return [_left_out(width, key) for key in UNREAD]


def _left_out(width: int, key: int) -> list[int]:
    """The columns that are left out: the first, the last, or those behind the last whole block."""
    if key == 0:
        return [0]
    start = width - 1 if key == 1 else width // key * key
    return list(range(start, width)) if 0 < start < width else []


def _of_gates(model: Model, parameters: Sequence[_Parameter]) -> Iterator[Finding]:
    """One gate's rows of a parameter zero, or transposed where they are as many as the columns: in
    every layer and direction, or in one."""
    gates, kind = model.structure.cell.gates, model.structure.kind
    for field in NAMES if len(gates) > 1 else ():
        each = [p for p in parameters if p.field == field and len(p.value) % len(gates) == 0]
        for chosen in dict.fromkeys((tuple(each), *((one,) for one in each))):
            for k, gate in enumerate(gates) if chosen else ():
                name = f"{NAMES[field]}_{'h' if field.endswith('hh') else 'i'}{gate}"
                place = "" if len(chosen) > 1 else f" in {chosen[0].name}"
                shapes = [(len(p.value) // len(gates), *p.value.shape[1:]) for p in chosen]
                words = Words(
                    f"{name} is zero{place}",
                    f"with zeros there {kind} gives these numbers: is it ever loaded?",
                    f"{name} = weights[{k} * hidden : {k + 1} * hidden]",
                )
                zero = _rows_changed(model, chosen, k, torch.zeros_like, "zero")
                yield Finding(Cause("parameter", "zero", f"{name}{place}"), words, zero)
                if all(len(shape) == 2 and shape[0] == shape[1] for shape in shapes):
                    words = Words(
                        f"{name} is transposed{place}",
                        f"the blocks of all gates lie alike in {kind}.",
                        f"x @ {name}.T   # as of all other gates",
                    )
                    turned = _rows_changed(model, chosen, k, lambda rows: rows.T, "transposed")
                    yield Finding(Cause("parameter", "transposed", f"{name}{place}"), words, turned)


def _rows_changed(
    model: Model,
    chosen: Sequence[_Parameter],
    gate: int,
    of: Callable[[Tensor], Tensor],
    how: str,
) -> Model:
    """The model with other numbers in one gate's rows of some parameters."""
    changes = []
    for parameter in chosen:
        value = parameter.value.clone()
        rows = value.chunk(len(model.structure.cell.gates))[gate]
        rows.copy_(of(rows.clone()))
        changes.append((parameter, value, f"{how} {gate}"))
    return _with(model, *changes)


def of_parameters(model: Model) -> Iterator[Finding]:
    """Each parameter in place of each other one of its shape, two exchanged, each one zero, and
    all of a layer and direction; a gate's rows zero or transposed, columns that are never read."""
    parameters = _parameters(model)
    kind = model.structure.kind
    yield from _never_loaded(model, parameters)
    yield from _unread(model, parameters)
    yield from _of_gates(model, parameters)
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
