"""Parameters that were read at other places of memory: too early or late, with another stride."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations, product

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part

__all__ = ["of_memory"]

NAMES = {"ih": "weight_ih", "hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}

NUMBERS = {1: "one number", 2: "two numbers"}
"""By how many numbers a header may be longer or shorter than was thought."""

Laid = Mapping[str, Tensor]


def of_memory(model: Model) -> Iterator[Finding]:
    """What is read where all parameters, or one of them, are read at other places."""
    part = model.parts[0][0]
    if part.stored.hr is None and not part.stored.vectors:
        yield from _late(model)
        yield from _strided(model)
    if part.stored.b_ih is not None:
        yield from _biases_interleaved(model)
        yield from _bias_rows(model)
    yield from _shifted_rows(model)


def _finding(model: Model, choice: str, words: Words, read: Sequence[Laid]) -> Finding:
    """With what each part, in the order of layers and directions, reads."""
    laid = iter(read)
    changed = model.with_each_part(lambda part: part.weighted("laid", choice, **next(laid)))
    return Finding(Cause("laid", choice), words, changed)


def _parts(model: Model) -> list[Part]:
    return [part for row in model.parts for part in row]


def _tensors(part: Part) -> dict[str, Tensor]:
    tensors = {name: getattr(part.stored, name) for name in NAMES}
    return {name: value for name, value in tensors.items() if value is not None}


def _moved(array: Tensor, by: int) -> Tensor:
    """An array read so many numbers late, or early if below zero; zeros where nothing is."""
    nothing = array.new_zeros(abs(by))
    return torch.cat([array[by:], nothing] if by > 0 else [nothing, array[:by]])


def _late(model: Model) -> Iterator[Finding]:
    parts = _parts(model)
    every = [
        (k, name, value) for k, part in enumerate(parts) for name, value in _tensors(part).items()
    ]
    array = torch.cat([value.flatten() for *_, value in every])
    for number, written in NUMBERS.items():
        for by in (number, -number):
            way = "late" if by > 0 else "early"
            whole = torch.split(_moved(array, by), [value.numel() for *_, value in every])
            read: list[dict[str, Tensor]] = [{} for _ in parts]
            for (k, name, value), moved in zip(every, whole, strict=True):
                read[k][name] = moved.reshape(value.shape)
            words = Words(
                f"all parameters are read {written} too {way} from one array",
                "as behind a header of another length than it has.",
                "flat = np.frombuffer(data, dtype, offset=header)   # header in bytes",
            )
            yield _finding(model, f"{way}:{number}", words, read)
    for name in NAMES:
        tensors_of = [_tensors(part) for part in parts]
        for by in (1, -1) if name in tensors_of[0] else ():
            way = "late" if by > 0 else "early"
            read = [
                {name: _moved(one[name].flatten(), by).reshape(one[name].shape)}
                for one in tensors_of
            ]
            words = Words(
                f"{NAMES[name]} is read one number too {way}",
                "every number stands one place beside its own.",
                "array[offset : offset + size]",
            )
            yield _finding(model, f"{name}:{way}", words, read)


def _strided(model: Model) -> Iterator[Finding]:
    parts = _parts(model)
    for name, stride_of in (("hh", "ih"), ("ih", "hh")):
        read: list[dict[str, Tensor]] = []
        for part in parts:
            value, stride = _tensors(part)[name], getattr(part.stored, stride_of).shape[1]
            rows, columns = value.shape
            places = torch.arange(rows, device="cpu")[:, None] * stride
            places = places + torch.arange(columns, device="cpu")
            behind = value.new_zeros(max(0, int(places[-1, -1]) + 1 - value.numel()))
            read.append({name: torch.cat([value.flatten(), behind])[places]})
        tensors_of = [_tensors(part)[name] for part in parts]
        if all(torch.equal(one[name], value) for one, value in zip(read, tensors_of, strict=True)):
            continue
        words = Words(
            f"{NAMES[name]} is read with the stride of {NAMES[stride_of]}",
            "each matrix has as many numbers in a row as what it multiplies.",
            "W_hh[j * H + k]" if name == "hh" else "W_ih[j * I + k]",
        )
        yield _finding(model, f"stride:{name}", words, read)


def _biases_interleaved(model: Model) -> Iterator[Finding]:
    parts = _parts(model)
    gates = len(parts[0].cell.gates)
    ways: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
        ("the array of both was transposed before it was read", _transposed),
        ("they are read in turn, one of each", _in_turn),
        ("they are read as both of each gate in turn", partial(_by_gate, gates=gates)),
        ("they stand as both of each gate in turn", partial(_halves, gates=gates)),
    )
    for k, (sentence, way) in enumerate(ways):
        read: list[dict[str, Tensor]] = []
        for part in parts:
            tensors_of = _tensors(part)
            first, second = way(torch.stack([tensors_of["b_ih"], tensors_of["b_hh"]])).contiguous()
            read.append({"b_ih": first, "b_hh": second})
        words = Words(
            "bias_ih and bias_hh are mixed up in memory",
            f"{sentence}; {model.structure.kind} has all of bias_ih, then all of bias_hh.",
            "b_ih, b_hh = array.reshape(2, -1)   # where all of b_ih comes first",
        )
        yield _finding(model, f"biases:{k}", words, read)


def _transposed(both: Tensor) -> Tensor:
    return both.T.reshape(2, -1)


def _in_turn(both: Tensor) -> Tensor:
    return both.reshape(-1, 2).T


def _by_gate(both: Tensor, gates: int) -> Tensor:
    """Two rows, one after the other, as of every gate b_ih and then b_hh."""
    return both.reshape(gates, 2, -1).transpose(0, 1).reshape(2, -1)


def _halves(both: Tensor, gates: int) -> Tensor:
    return both.reshape(2, gates, -1).transpose(0, 1).reshape(2, -1)


def _bias_rows(model: Model) -> Iterator[Finding]:
    """The biases of one gate for others too."""
    parts = _parts(model)
    gates = tuple(parts[0].cell.gates)
    for used in gates:
        others = [gate for gate in gates if gate != used]
        sizes = range(1, len(others) + 1)
        for replaced in chain.from_iterable(combinations(others, size) for size in sizes):
            read: list[dict[str, Tensor]] = []
            for part in parts:
                tensors_of = _tensors(part)
                biases = {name: tensors_of[name].clone() for name in ("b_ih", "b_hh")}
                for value in biases.values():
                    for gate in replaced:
                        value[part.stored.rows(gate)] = value[part.stored.rows(used)]
                read.append(biases)
            last = replaced[-1]
            words = Words(
                f"the biases of {used} are used for {enumerated(replaced)} too",
                "every gate has biases of its own.",
                f"a_{last} = x @ W_i{last}.T + b_i{last} + h @ W_h{last}.T + b_h{last}",
            )
            yield _finding(model, f"{used}:{''.join(replaced)}", words, read)


def _shifted_rows(model: Model) -> Iterator[Finding]:
    """One gate's rows, or all, that begin one row too early or too late: in all parameters, in one
    matrix, or in the biases."""
    parts = _parts(model)
    gates = tuple(parts[0].cell.gates)
    every = tuple(_tensors(parts[0]))
    fields = [every, ("ih",), ("hh",), *([("b_ih", "b_hh")] if "b_ih" in every else [])]
    for gate in (None, *(gates if len(gates) > 1 else ())):
        for names in fields:
            for by, wraps in product((1, -1), (False, True)):
                if wraps and gate not in (None, gates[0 if by < 0 else -1]):
                    continue  # there are rows on both sides
                read = [
                    {
                        name: _rows_from(_tensors(part)[name], part, gate, by, wraps)
                        for name in names
                    }
                    for part in parts
                ]
                words = _shifted_words(gate, gates, enumerated([NAMES[name] for name in names]), by)
                yield _finding(model, f"{gate}:{'+'.join(names)}:{by}:{wraps}", words, read)


def _rows_from(value: Tensor, part: Part, gate: str | None, by: int, wraps: bool) -> Tensor:
    """A parameter in which the rows of a gate are those beside them; what lies beyond an end is
    the last row there, or the first one of the other end."""
    rows = torch.arange(len(value), device="cpu")
    chosen = slice(None) if gate is None else part.stored.rows(gate)
    beside = rows[chosen] + by
    rows[chosen] = beside % len(rows) if wraps else beside.clamp(0, len(rows) - 1)
    return value[rows]


def _shifted_words(gate: str | None, gates: Sequence[str], names: str, by: int) -> Words:
    side = "late" if by > 0 else "early"
    if gate is None:
        return Words(
            f"the rows of {names} are read one row too {side}",
            "every unit has the weights of the one beside it.",
            "array[first : first + rows]   # mind where the first row stands",
        )
    k = list(gates).index(gate)
    return Words(
        f"the rows of {gate} in {names} are taken one row too {side}",
        "every unit has the weights of the one beside it.",
        f"a[:, {k} * H : {k + 1} * H]",
    )
