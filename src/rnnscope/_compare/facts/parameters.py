"""Parameters that hold other numbers: another one's, zeros, or what stands at other places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, permutations, product

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated, listed
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part, PartIndex

__all__ = ["columns_left_out", "of_memory", "of_parameters"]

NAMES = {"ih": "weight_ih", "hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}

UNREAD = (0, 1, 4, 8, 16, 32)
"""Columns that are left out: the first, the last, those behind the last whole block of so many."""

NUMBERS = {1: "one number", 2: "two numbers"}
"""By how many numbers a header may be longer or shorter than was thought."""


@dataclass(frozen=True, eq=False)
class _Parameter:
    """One parameter of a model: where it stands, and its name in PyTorch."""

    place: PartIndex
    part: Part
    field: str
    name: str
    value: Tensor


Values = Mapping[_Parameter, Tensor]
"""What parameters hold in place of their own numbers."""

Columns = Mapping[_Parameter, Sequence[int]]
"""Columns of matrices."""


def _parameters(model: Model) -> list[_Parameter]:
    return [
        _Parameter((layer, d), part, field, f"{name}{part.stored.suffix}", value)
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
        for field, name in (*NAMES.items(), ("hr", "weight_hr"))
        if (value := part.parameter(field)) is not None
    ]


def _finding(model: Model, cause: Cause, words: Words, values: Values) -> Finding:
    """The finding that parameters hold other numbers."""
    parts: dict[PartIndex, Part] = {}
    for parameter, value in values.items():
        part = parts.get(parameter.place, parameter.part)
        changed = {parameter.field: value.reshape(parameter.value.shape)}
        parts[parameter.place] = part.weighted(str(cause), parameter.field, **changed)
    return Finding(cause, words, model.with_parts(parts))


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
        zeros = {parameter: torch.zeros_like(parameter.value)}
        yield _finding(model, Cause("parameter", "zero", parameter.name), words, zeros)
    for target, source in permutations(parameters, 2):
        if target.value.shape == source.value.shape:
            words = Words(
                f"{target.name} holds {source.name}'s numbers",
                f"with {source.name} in both places {kind} gives these numbers.",
                f'{target.name} = weights["{target.name}"]',
            )
            cause = Cause("parameter", source.name, target.name)
            yield _finding(model, cause, words, {target: source.value})
    for target, source in combinations(parameters, 2):
        if target.value.shape == source.value.shape:
            words = Words(
                f"{target.name} and {source.name} are exchanged",
                f"with each in the other's place {kind} gives these numbers.",
                f'{target.name} = weights["{target.name}"]; '
                f'{source.name} = weights["{source.name}"]',
            )
            cause = Cause("parameter", "exchanged", f"{target.name}, {source.name}")
            yield _finding(model, cause, words, {target: source.value, source: target.value})


def _never_loaded(model: Model, parameters: Sequence[_Parameter]) -> Iterator[Finding]:
    """All parameters of a layer and direction zero."""
    names = model.structure.directions
    for place in dict.fromkeys(parameter.place for parameter in parameters):
        zeros = {p: torch.zeros_like(p.value) for p in parameters if p.place == place}
        name = next(iter(zeros)).name
        where = f"layer {place[0]}" + (f", {names[place[1]]}," if len(names) > 1 else "")
        words = Words(
            f"all parameters of {where} are zero",
            f"with zeros there {model.structure.kind} gives these numbers: are they ever loaded?",
            f'{name} = weights["{name}"]   # and all others of it',
        )
        yield _finding(model, Cause("parameter", "zero", "all"), words, zeros)


def _everywhere_or_in_one(parameters: Sequence[_Parameter]) -> Iterator[Sequence[_Parameter]]:
    """All of some parameters, and each by itself."""
    if len(parameters) > 1:
        yield parameters
    yield from ([parameter] for parameter in parameters)


def _unread(model: Model, parameters: Sequence[_Parameter]) -> Iterator[Finding]:
    """The last columns of matrices, or the first one, that a loop leaves out: in all of them, in
    one, or in all W_ih and W_hh alike."""
    of_x, of_h = ([p for p in parameters if p.field == field] for field in ("ih", "hh"))
    for reads, matrices in (("x", of_x), ("h", of_h)):
        for chosen in _everywhere_or_in_one(matrices):
            name = f"W_{chosen[0].field}" if len(chosen) > 1 else chosen[0].name
            for key in UNREAD:
                columns = _columns_by_matrix(chosen, key)
                if columns:
                    which = f"{listed('column', next(iter(columns.values())))} of {name}"
                    yield _without_columns(model, columns, which, reads)
    for key in UNREAD:
        sides = [_columns_by_matrix(matrices, key) for matrices in (of_x, of_h)]
        if all(sides):
            which_x, which_h = (listed("column", next(iter(side.values()))) for side in sides)
            which = f"{which_x} of W_ih and {which_h} of W_hh"
            if which_x == which_h:
                which = f"{which_x} of W_ih and W_hh"
            yield _without_columns(model, sides[0] | sides[1], which, "x and h")


def _columns_by_matrix(matrices: Sequence[_Parameter], key: int) -> dict[_Parameter, list[int]]:
    """The columns that are left out of each matrix, of those that have such."""
    columns = {p: _left_out(p.value.shape[-1], key) for p in matrices}
    return {p: left_out for p, left_out in columns.items() if left_out}


def _without_columns(model: Model, columns: Columns, which: str, reads: str) -> Finding:
    """The finding that columns are never read."""
    one = which.startswith("column ") and " and " not in which
    also = ", or x is zero there" if reads == "x" else ""
    said, matrices = which.split(" of ", 1)
    words = Words(
        f"{which} {'is' if one else 'are'} never read",
        f"the loop over {reads} leaves them out{also}.",
        f"for k in range(len({reads[0]})):   # all of them, in blocks or not",
    )
    values = {
        p: p.value.index_fill(1, torch.tensor(left_out, device="cpu", dtype=torch.long), 0)
        for p, left_out in columns.items()
    }
    return _finding(model, Cause("unread", said, matrices), words, values)


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
        of_field = [p for p in parameters if p.field == field]
        for chosen, (k, gate) in product(_everywhere_or_in_one(of_field), enumerate(gates)):
            name = f"{'b' if field.startswith('b') else 'W'}_{field[-2]}{gate}"
            place = "" if len(chosen) > 1 else f" in {chosen[0].name}"
            words = Words(
                f"{name} is zero{place}",
                f"with zeros there {kind} gives these numbers: is it ever loaded?",
                f"{name} = weights[{k} * hidden : {k + 1} * hidden]",
            )
            zeros = {p: _rows_changed(p, gate, torch.zeros_like) for p in chosen}
            yield _finding(model, Cause("parameter", "zero", f"{name}{place}"), words, zeros)
            if all(p.value[0].shape == (p.part.stored.hidden_size,) for p in chosen):
                words = Words(
                    f"{name} is transposed{place}",
                    f"the blocks of all gates lie alike in {kind}.",
                    f"x @ {name}.T   # as of all other gates",
                )
                turned = {p: _rows_changed(p, gate, lambda rows: rows.T) for p in chosen}
                cause = Cause("parameter", "transposed", f"{name}{place}")
                yield _finding(model, cause, words, turned)


def _rows_changed(parameter: _Parameter, gate: str, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A parameter with other numbers in one gate's rows."""
    value, rows = parameter.value.clone(), parameter.part.stored.rows(gate)
    value[rows] = of(parameter.value[rows])
    return value


# read at other places of memory ------------------------------------------------------------------


def of_memory(model: Model) -> Iterator[Finding]:
    """What is read where all parameters, or one of them, are read at other places."""
    fields: dict[str, list[_Parameter]] = {}
    for parameter in _parameters(model):
        fields.setdefault(parameter.field, []).append(parameter)
    projected = fields.pop("hr", None)
    if not projected and not model.parts[0][0].stored.vectors:
        yield from _late(model, fields)
        yield from _strided(model, fields)
    if "b_ih" in fields:
        yield from _biases_interleaved(model, fields)
        yield from _bias_rows(model, fields)
    yield from _shifted_rows(model, fields)


Fields = Mapping[str, Sequence[_Parameter]]
"""The parameters of every layer and direction by their kind."""


def _moved(array: Tensor, by: int) -> Tensor:
    """An array read so many numbers late, or early if below zero; zeros where nothing is."""
    nothing = array.new_zeros(abs(by))
    return torch.cat([array[by:], nothing] if by > 0 else [nothing, array[:by]])


def _late(model: Model, fields: Fields) -> Iterator[Finding]:
    in_order = _parameters(model)
    array = torch.cat([parameter.value.flatten() for parameter in in_order])
    for number, written in NUMBERS.items():
        for by, way in ((number, "late"), (-number, "early")):
            pieces = torch.split(_moved(array, by), [p.value.numel() for p in in_order])
            words = Words(
                f"all parameters are read {written} too {way} from one array",
                "as behind a header of another length than it has.",
                "flat = np.frombuffer(data, dtype, offset=header)   # header in bytes",
            )
            values = dict(zip(in_order, pieces, strict=True))
            yield _finding(model, Cause("laid", f"{way}:{number}"), words, values)
    for field, parameters in fields.items():
        for by, way in ((1, "late"), (-1, "early")):
            words = Words(
                f"{NAMES[field]} is read one number too {way}",
                "every number stands one place beside its own.",
                "array[offset : offset + size]",
            )
            values = {p: _moved(p.value.flatten(), by) for p in parameters}
            yield _finding(model, Cause("laid", f"{field}:{way}"), words, values)


def _strided(model: Model, fields: Fields) -> Iterator[Finding]:
    for field, stride_of in (("hh", "ih"), ("ih", "hh")):
        values = {}
        for parameter, neighbour in zip(fields[field], fields[stride_of], strict=True):
            (rows, columns), stride = parameter.value.shape, neighbour.value.shape[1]
            places = torch.arange(rows, device="cpu")[:, None] * stride
            places = places + torch.arange(columns, device="cpu")
            behind = parameter.value.new_zeros(rows * stride)
            values[parameter] = torch.cat([parameter.value.flatten(), behind])[places]
        if all(torch.equal(parameter.value, value) for parameter, value in values.items()):
            continue
        words = Words(
            f"{NAMES[field]} is read with the stride of {NAMES[stride_of]}",
            "each matrix has as many numbers in a row as what it multiplies.",
            "W_hh[j * H + k]" if field == "hh" else "W_ih[j * I + k]",
        )
        yield _finding(model, Cause("laid", f"stride:{field}"), words, values)


def _biases_interleaved(model: Model, fields: Fields) -> Iterator[Finding]:
    gates = len(model.structure.cell.gates)
    ways: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
        ("the array of both was transposed before it was read", lambda b: b.T.reshape(2, -1)),
        ("they are read in turn, one of each", lambda b: b.reshape(-1, 2).T),
        (
            "they are read as both of each gate in turn",
            lambda b: b.reshape(gates, 2, -1).transpose(0, 1).flatten(1),
        ),
        (
            "they stand as both of each gate in turn",
            lambda b: b.reshape(2, gates, -1).transpose(0, 1).reshape(2, -1),
        ),
    )
    for k, (sentence, way) in enumerate(ways):
        values: dict[_Parameter, Tensor] = {}
        for pair in zip(fields["b_ih"], fields["b_hh"], strict=True):
            both = way(torch.stack([parameter.value for parameter in pair])).contiguous()
            values |= zip(pair, both, strict=True)
        words = Words(
            "bias_ih and bias_hh are mixed up in memory",
            f"{sentence}; {model.structure.kind} has all of bias_ih, then all of bias_hh.",
            "b_ih, b_hh = array.reshape(2, -1)   # where all of b_ih comes first",
        )
        yield _finding(model, Cause("laid", f"biases:{k}"), words, values)


def _bias_rows(model: Model, fields: Fields) -> Iterator[Finding]:
    """The biases of one gate for others too."""
    gates = model.structure.cell.gates
    for used in gates:
        others = [gate for gate in gates if gate != used]
        sizes = range(1, len(others) + 1)
        for replaced in chain.from_iterable(combinations(others, size) for size in sizes):
            values = {}
            for parameter in (*fields["b_ih"], *fields["b_hh"]):
                blocks = dict(zip(gates, parameter.value.chunk(len(gates)), strict=True))
                blocks |= dict.fromkeys(replaced, blocks[used])
                values[parameter] = torch.cat(list(blocks.values()))
            last = replaced[-1]
            words = Words(
                f"the biases of {used} are used for {enumerated(replaced)} too",
                "every gate has biases of its own.",
                f"a_{last} = x @ W_i{last}.T + b_i{last} + h @ W_h{last}.T + b_h{last}",
            )
            yield _finding(model, Cause("laid", f"{used}:{''.join(replaced)}"), words, values)


def _shifted_rows(model: Model, fields: Fields) -> Iterator[Finding]:
    """One gate's rows, or all, that begin one row too early or too late: in all parameters, in one
    matrix, or in the biases."""
    gates = tuple(model.structure.cell.gates)
    kinds = [tuple(fields), ("ih",), ("hh",), *([("b_ih", "b_hh")] if "b_ih" in fields else [])]
    every_gate = (None, *(gates if len(gates) > 1 else ()))
    for gate, names, by, wraps in product(every_gate, kinds, (1, -1), (False, True)):
        if wraps and gate not in (None, gates[0 if by < 0 else -1]):
            continue  # there are rows on both sides
        values = {p: _rows_beside(p, gate, by, wraps) for name in names for p in fields[name]}
        which, side = enumerated([NAMES[name] for name in names]), "late" if by > 0 else "early"
        k = 0 if gate is None else gates.index(gate)
        words = Words(
            f"the rows of {which} are read one row too {side}"
            if gate is None
            else f"the rows of {gate} in {which} are taken one row too {side}",
            "every unit has the weights of the one beside it.",
            "array[first : first + rows]   # mind where the first row stands"
            if gate is None
            else f"a[:, {k} * H : {k + 1} * H]",
        )
        cause = Cause("laid", f"{gate}:{'+'.join(names)}:{by}:{wraps}")
        yield _finding(model, cause, words, values)


def _rows_beside(parameter: _Parameter, gate: str | None, by: int, wraps: bool) -> Tensor:
    """A parameter in which the rows of a gate are those beside them; what lies beyond an end is
    the last row there, or the first one of the other end."""
    rows = torch.arange(len(parameter.value), device="cpu")
    chosen = slice(None) if gate is None else parameter.part.stored.rows(gate)
    beside = rows[chosen] + by
    rows[chosen] = beside % len(rows) if wraps else beside.clamp(0, len(rows) - 1)
    return parameter.value[rows]
