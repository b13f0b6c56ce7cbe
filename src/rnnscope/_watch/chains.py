"""Which call goes on from which: calls that hand the state on, by equal numbers.

A call goes on from the one whose last states its initial states are, bit for bit, whatever way they
took: as the very tensor, a copy, through NumPy or an array kept in place. Several chains of one
layer may run at once. Where some sequences of the batch go on and others do not, these were reset
or replaced: they begin a new sequence there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._record.difference import same
from rnnscope._trace.verbs import Trace

__all__ = ["Beginning", "CallChains", "same_numbers", "tensors_in"]


@dataclass(frozen=True)
class Beginning:
    """How a call began: it goes on from the call ``previous``, or ``why`` it goes on from none.

    ``detached``: the state was handed on without its graph; ``replaced``: the sequences whose
    state was not, and which begin anew.
    """

    previous: int | None
    why: str = ""
    detached: bool = False
    replaced: tuple[int, ...] = ()


@dataclass(frozen=True)
class End:
    """The end of a chain, as long as no call goes on from it; ``rows`` tell its last states apart,
    sequence by sequence."""

    module: nn.Module
    trace: Trace
    had_graph: bool
    rows: tuple[bytes, ...]


class CallChains:
    """The ends of the chains of one layer's calls."""

    def __init__(self) -> None:
        self._ends: dict[int, End] = {}  # by the number of the call
        self._places: dict[bytes, list[tuple[int, int]]] = {}  # of a row: its calls and sequences
        self._latest: int | None = None

    def interrupt(self) -> None:
        """A call was made that is not recorded."""
        self._latest = None

    def begin(self, module: nn.Module, trace: Trace, cut: bool) -> Beginning:
        """How the call of ``trace`` began; ``cut``: its initial state came without a graph."""
        if not trace.call.has_initial:
            return Beginning(None, "no initial state was given")
        rows = _rows(trace.call.initial)
        matches = Counter(
            call
            for sequence, row in enumerate(rows)
            for call, place in self._places.get(row, ())
            if place == sequence
        )
        for call, _ in sorted(matches.items(), key=lambda pair: (-pair[1], -pair[0])):
            end = self._ends[call]
            if _incompatibility(end, module, trace) is None:
                replaced = tuple(k for k, row in enumerate(rows) if end.rows[k] != row)
                return Beginning(call, "", end.had_graph and cut, replaced)
        return Beginning(None, self._why(module, trace, rows))

    def _why(self, module: nn.Module, trace: Trace, rows: tuple[bytes, ...]) -> str:
        if self._latest is None:
            return "no call of it was recorded just before"
        end = self._ends[self._latest]
        incompatible = _incompatibility(end, module, trace)
        if incompatible is not None:
            return incompatible
        if set(rows) <= set(end.rows):
            return "the initial state holds the sequences of the call before in another order"
        names = trace.cell.states
        initial, final = trace.call.initial, end.trace.final
        changed = (name for name in names if not same_numbers(initial[name], final[name]))
        return f"{next(changed, names[0])}_0 holds other numbers than the call before returned"

    def finish(self, module: nn.Module, trace: Trace, had_graph: bool, number: int) -> None:
        """The call returned: others may go on from it."""
        rows = _rows(trace.final)
        self._ends[number] = End(module, trace, had_graph, rows)
        for sequence, row in enumerate(rows):
            self._places.setdefault(row, []).append((number, sequence))
        self._latest = number

    def forget(self, number: int | None) -> None:
        """Keep nothing of a call that another went on from, or that is not kept itself."""
        end = None if number is None else self._ends.pop(number, None)
        for row in set(() if end is None else end.rows):
            places = [place for place in self._places[row] if place[0] != number]
            if places:
                self._places[row] = places
            else:
                del self._places[row]


def _incompatibility(end: End, module: nn.Module, trace: Trace) -> str | None:
    """Why two calls could not be one trace, whatever state was handed on."""
    call, earlier = trace.call, end.trace.call
    if module is not end.module:
        return "the layer was replaced by another"
    if trace.structure != end.trace.structure:
        return f"the layer was changed from {end.trace.structure}, or between train and eval"
    if "reverse" in trace.directions:
        whose = "a bidirectional layer's" if len(trace.directions) > 1 else "its"
        return f"{whose} reverse direction runs against the order of the calls"
    if call.packed is not None or earlier.packed is not None:
        return "a packed call's sequences end at different steps"
    if call.batch != earlier.batch:
        return f"the batch changed from {earlier.batch} to {call.batch}"
    if call.batched != earlier.batched or call.x.dtype != earlier.x.dtype:
        return "the form of the input changed"
    if trace.weights is not end.trace.weights:  # equal weights are shared between traces
        current, earlier_parameters = trace.parameters, end.trace.parameters
        if not all(
            same_numbers(current[name], earlier_parameters[name]) for name in earlier_parameters
        ):
            return "the weights had changed"
    return None


def _rows(states: Mapping[str, Tensor]) -> tuple[bytes, ...]:
    """A digest of the bits of all states of each sequence; (layer, direction, batch, unit) each."""
    parts = []
    for state in states.values():
        by_sequence = state.detach().movedim(2, 0).flatten(1)
        # a zero has no sign here: h * mask makes -0
        parts.append((by_sequence + 0.0).contiguous().view(torch.uint8).cpu().numpy())
    return tuple(
        hashlib.blake2b(b"".join(part[k].tobytes() for part in parts), digest_size=16).digest()
        for k in range(len(parts[0]))
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for member in value:
            yield from tensors_in(member)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, type and every number; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return torch.equal(a, b) or bool(same(a, b).all())
