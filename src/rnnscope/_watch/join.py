"""Joining: calls that hand the state on, chained into one trace over time.

Whether a call goes on from the one before is decided when it happens, by the storage and the
version of its initial state; see ``begin``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._gradients.gradients import Gradients
from rnnscope._layers.call import Call
from rnnscope._opening.opening import Opened
from rnnscope._opening.part import Proof
from rnnscope._record.difference import same
from rnnscope._trace.verbs import Trace
from rnnscope.errors import RefusedError

__all__ = ["Beginning", "Handover", "Joined", "begin", "same_numbers", "segments"]


@dataclass(frozen=True)
class Beginning:
    """How a call began: ``why`` it does not go on from the call before, None where it does.

    ``detached``: the state was handed on without its graph.
    """

    why: str | None
    detached: bool = False


@dataclass(frozen=True)
class Handover:
    """What a call returned, to know it again when it comes back as an initial state.

    ``aliases`` are detached views of the very tensors. They keep the storage from being given to
    another tensor, and share its version, which every change in place raises.
    """

    module: nn.Module
    trace: Trace
    aliases: tuple[Tensor, ...]
    versions: tuple[int | None, ...]
    had_graph: bool

    @classmethod
    def of(cls, module: nn.Module, trace: Trace, output: Any) -> Handover:
        """Remember ``output``, the tensors that the caller has."""
        tensors = tuple(_tensors(output))
        aliases = tuple(t.detach() for t in tensors)
        versions = tuple(map(_version, aliases))
        return cls(module, trace, aliases, versions, any(t.requires_grad for t in tensors))

    def find(self, state: Tensor) -> int | None:
        """Which of the tensors shares its storage with ``state``."""
        storage = state.untyped_storage().data_ptr()
        places = (t.untyped_storage().data_ptr() for t in self.aliases)
        return next((k for k, place in enumerate(places) if place == storage), None)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for member in output:
            yield from _tensors(member)


def _version(tensor: Tensor) -> int | None:
    # tensors of inference mode have no version: there the numbers alone tell
    return None if tensor.is_inference() else tensor._version


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, type and every number; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return torch.equal(a, b) or bool(same(a, b).all())


def begin(before: Handover | None, module: nn.Module, trace: Trace, initial: Any) -> Beginning:
    """Whether the call of ``trace`` goes on from the one ``before`` it.

    ``initial`` is the initial state as the caller passed it. The call goes on where every state
    lies in a storage that the call before returned, unchanged since (by version), and holds the
    numbers of its last state; anything else starts anew, and the reason is told.
    """
    if not trace.call.has_initial:
        return Beginning("no initial state was given")
    if before is None:
        return Beginning("no call of it was recorded just before")
    why = _incompatibility(before, module, trace) or _broken_handover(before, trace.call, initial)
    if why is not None:
        return Beginning(why)
    detached = before.had_graph and any(t.grad_fn is None for t in _tensors(initial))
    return Beginning(None, detached)


def _incompatibility(before: Handover, module: nn.Module, trace: Trace) -> str | None:
    """Why the two calls could not be one trace, whatever state was handed on."""
    call, earlier = trace.call, before.trace.call
    if module is not before.module:
        return "the layer was replaced by another"
    if trace.structure != before.trace.structure:
        return f"the layer was changed from {before.trace.structure}, or between train and eval"
    if "reverse" in trace.directions:
        whose = "a bidirectional layer's" if len(trace.directions) > 1 else "its"
        return f"{whose} reverse direction runs against the order of the calls"
    if call.packed is not None or earlier.packed is not None:
        return "a packed call's sequences end at different steps"
    if call.batch != earlier.batch:
        return f"the batch changed from {earlier.batch} to {call.batch}"
    if call.batched != earlier.batched or call.x.dtype != earlier.x.dtype:
        return "the form of the input changed"
    if trace.weights is not before.trace.weights:  # equal weights are shared between traces
        current, earlier_parameters = trace.parameters, before.trace.parameters
        if not all(
            same_numbers(current[name], earlier_parameters[name]) for name in earlier_parameters
        ):
            return "the weights had changed"
    return None


def _broken_handover(before: Handover, call: Call, passed: Any) -> str | None:
    states = before.trace.cell.states
    for name, state in zip(states, _tensors(passed), strict=True):
        k = before.find(state)
        if k is None:
            return f"{name}_0 is not the tensor that the call before returned"
        if _version(before.aliases[k]) != before.versions[k]:
            return f"{name}_0 was changed in place"
        final = getattr(before.trace, f"{name}_n").reshape(call.initial[name].shape)
        if not same_numbers(call.initial[name], final):
            return f"{name}_0 does not hold the numbers that the call before returned"
    return None


class Joined(Trace):
    """Calls that handed the state on, as one trace over time.

    ``calls`` are the traces of the single calls; ``boundaries`` the steps before which the state
    was detached, so that no gradient passes; ``why`` tells why the trace does not go on from the
    call before its first. ``output`` is every h, of a cell too: (time, batch, unit).
    """

    def __init__(
        self, calls: Sequence[Trace], boundaries: Iterable[int] = (), why: str = ""
    ) -> None:
        first, last = calls[0], calls[-1]
        self.calls = tuple(calls)
        self.boundaries = tuple(boundaries)
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


def segments(calls: Sequence[tuple[Trace, Beginning]]) -> list[Joined]:
    """Chain calls in order; a segment ends where the next call does not go on from it."""
    chains: list[tuple[str, list[Trace], list[int]]] = []
    for trace, beginning in calls:
        if beginning.why is None and chains:
            _, members, boundaries = chains[-1]
            if beginning.detached:
                boundaries.append(sum(tr.call.steps for tr in members))
            members.append(trace)
        else:
            why = beginning.why or "the calls before it were not kept"
            chains.append((why, [trace], []))
    return [Joined(members, boundaries, why) for why, members, boundaries in chains]
