"""Joining: calls that hand the state on, chained into one trace over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._gradients.gradients import Gradients
from rnnscope._layers.call import Call
from rnnscope._opening.opening import Opened
from rnnscope._opening.part import Proof
from rnnscope._trace.verbs import Trace
from rnnscope._watch.chains import Beginning, CallChains
from rnnscope._watch.kept import MadeCall
from rnnscope.errors import RefusedError

__all__ = ["Joined", "segments"]


class Joined(Trace):
    """Calls that handed the state on, as one trace over time.

    ``calls`` are the traces of the single calls; ``boundaries`` the steps before which the state
    was detached, so that no gradient passes; ``restarts`` maps a step to the sequences of the batch
    whose state was reset or replaced before it, so that they begin anew there; ``why`` tells why
    the trace does not go on from the call before its first. ``output`` is every h, of a cell too:
    (time, batch, unit).
    """

    def __init__(
        self,
        calls: Sequence[Trace],
        boundaries: Iterable[int] = (),
        why: str = "",
        restarts: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        first, last = calls[0], calls[-1]
        self.calls = tuple(calls)
        self.boundaries = tuple(boundaries)
        self.restarts = dict(restarts or {})
        self.why = why
        super().__init__(
            last.structure,
            first.call if len(calls) == 1 else _joined_call(calls),
            last._snapshot,
            Opened(
                {name: torch.cat([tr[name] for tr in calls], dim=3) for name in first},
                _joined_inputs(calls),
                {
                    state: _joined_proof([tr.proofs[state] for tr in calls], calls)
                    for state in first.proofs
                },
                masks=first._masks if len(calls) == 1 else (),
                engine=min(calls, key=lambda tr: tr.engine == "llvm").engine,
            ),
            None,
        )
        self.recomputed = any(tr.recomputed for tr in calls)
        final = last._returned if last.structure.single_step else last._returned[1]
        self._returned = final if last.structure.single_step else (None, final)
        if len(calls) == 1:
            self._returned, self.received = last._returned, last.received

    @property
    def output(self) -> Any:
        """Every h of the last layer, in the form in which the layer returns it; of a cell
        (time, batch, unit)."""
        if len(self.calls) == 1 and not self.structure.single_step:
            return self.calls[0].output
        # only the forward direction is joined; a single call may be of any
        h = self["h", -1, self.directions[0]].transpose(0, 1)
        if not self.structure.single_step:
            return self.structure.outgoing(h, self.call)
        return h if self.call.batched else h[:, 0]

    def before(self, state: str, layer: int, direction: str) -> Tensor:
        """The state before each step, (batch, time, unit), as each call itself began."""
        return torch.cat([tr.before(state, layer, direction) for tr in self.calls], dim=1)

    @property
    def grad(self) -> Gradients | None:
        """Of a single call; raises ``RefusedError`` where there are several, each of which has
        its own."""
        self._require_single_call()
        return self.calls[0].grad

    def _require_single_call(self) -> None:
        if len(self.calls) > 1:
            raise RefusedError(
                f"this trace is joined from {len(self.calls)} calls: ask this of one of them, as "
                f"in joined.calls[0]"
            )

    def __repr__(self) -> str:
        text = f"{super().__repr__()}\nJoined from {_count(len(self.calls), 'call')}"
        if self.boundaries:
            places = ", ".join(f"time={time}" for time in self.boundaries)
            text += f"; the state was detached before {places}"
        for time, sequences in self.restarts.items():
            names = ", ".join(map(str, sequences))
            begin = f"batch {names} begins" if len(sequences) == 1 else f"batch {names} begin"
            text += f"; {begin} anew at time={time}"
        return f"{text}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _joined_call(calls: Sequence[Trace]) -> Call:
    x = torch.cat([tr.call.x for tr in calls])
    return replace(calls[0].call, x=x)


def _joined_inputs(calls: Sequence[Trace]) -> tuple[Tensor | None, ...]:
    layers = range(calls[0].structure.num_layers)
    if len(calls) == 1:
        return calls[0]._inputs
    return tuple(
        None
        if all(tr._inputs[layer] is None for tr in calls)
        else torch.cat([tr.layer_input(layer) for tr in calls], dim=1)
        for layer in layers
    )


def _joined_proof(proofs: Sequence[Proof], calls: Sequence[Trace]) -> Proof:
    """The worst of the proofs, its place counted over all calls."""
    moved, start = [], 0
    for proof, tr in zip(proofs, calls, strict=True):
        place = replace(proof.place, time=proof.place.time + start)
        # the end of a call of one step is every step of it
        every_step = proof.every_step or tr.call.steps == 1
        moved.append(replace(proof, place=place, every_step=every_step))
        start += tr.call.steps
    largest = max(moved, key=lambda p: p.deviation)
    closest = max(moved, key=lambda p: p.ratio)
    return replace(
        closest,
        deviation=largest.deviation,
        tolerance=largest.tolerance,
        every_step=all(p.every_step for p in moved),
        places=sum(p.places for p in moved),
        loose=sum(p.loose for p in moved),
    )


@dataclass
class _Chain:
    """Calls that hand the state on, as they are found."""

    why: str
    calls: list[Trace] = field(default_factory=list)
    boundaries: list[int] = field(default_factory=list)
    restarts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    steps: int = 0

    def add(self, trace: Trace, beginning: Beginning) -> None:
        if self.calls and beginning.detached:
            self.boundaries.append(self.steps)
        if self.calls and beginning.replaced:
            self.restarts[self.steps] = beginning.replaced
        self.calls.append(trace)
        self.steps += trace.call.steps


def segments(calls: Sequence[MadeCall], dropped: bool) -> list[Joined]:
    """Chain calls in order; several chains may run side by side. ``dropped``: there were more
    before the first."""
    chains: list[_Chain] = []
    by_last_call: dict[int, _Chain] = {}
    ends = CallChains()
    for k, made in enumerate(calls):
        trace = made.trace
        assert trace is not None, "every call is opened"
        if made.interrupted:
            ends.interrupt()
        beginning = ends.begin(made.module, trace, made.cut)
        ends.forget(beginning.previous)
        ends.finish(made.module, trace, made.had_graph, made.number)
        previous = beginning.previous
        chain = None if previous is None else by_last_call.pop(previous, None)
        if chain is None:
            gone = k == 0 and dropped and trace.call.has_initial and not made.interrupted
            chain = _Chain("the calls before it were not kept" if gone else beginning.why)
            chains.append(chain)
        chain.add(trace, beginning)
        by_last_call[made.number] = chain
    return [Joined(c.calls, c.boundaries, c.why, c.restarts) for c in chains]
