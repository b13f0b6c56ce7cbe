"""Opening: from a layer's own outputs to every number inside, without re-running the recurrence.

The outputs are the hidden states, so at every step the state before is known, and all gates of
all steps come from matrix products over many steps at once. What is left is elementwise; only a
cell state is a scan over time. The work goes in blocks of time that stay in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._layers.adopt import Adopted
from rnnscope._layers.call import Call
from rnnscope._layers.structure import Returned, Weights
from rnnscope._opening.bounds import Rounding
from rnnscope._opening.buffers import Buffers
from rnnscope._opening.part import Direction, Proof
from rnnscope._opening.per_unit import Judged
from rnnscope._opening.threshold import Threshold
from rnnscope._record.difference import absolute_difference

__all__ = ["Opened", "batch_first", "open_call"]


@dataclass(frozen=True)
class Opened:
    """The numbers inside one call. ``values`` maps names to tensors (layer, direction, batch,
    time, unit), ``inputs`` holds each layer's input (batch, time, feature), or None where that is
    the states of the layer below, joined over directions; ``products`` is the type in which the
    layer formed its products, where it ran; ``masks`` are True where dropout let a number of an
    input pass, None where it was not at work; ``engine`` is what computed: "llvm" or "torch"."""

    values: dict[str, Tensor]
    inputs: tuple[Tensor | None, ...]
    proofs: dict[str, Proof]
    products: torch.dtype | None = None
    masks: tuple[Tensor | None, ...] = ()
    engine: str = "torch"


def open_call(
    adopted: Adopted,
    call: Call,
    returned: Returned,
    weights: tuple[tuple[Weights, ...], ...],
    live: tuple[tuple[Weights, ...], ...],
    record: frozenset[str],
    products: torch.dtype,
    drawn: tuple[Tensor, ...] | None,
    grad_mode: bool,
    thorough: bool = False,
    lower: tuple[Tensor, ...] = (),
) -> Opened:
    """Every recorded quantity of a call, with the proof against what the layer returned.

    ``live`` are the tensors that the call itself used: a copy of them elsewhere in memory may
    round differently, so layers below the top run with these. ``products`` is the type in which
    the layer formed its products (autocast may lower it); ``drawn`` are the masks that dropout
    drew for it, None where dropout was not at work; ``grad_mode`` whether it ran with gradients
    enabled; ``lower`` are the states of the layers below the top, where the call let them be seen.
    Nothing raises here when the proof fails: the caller decides.
    """
    buffers = Buffers(adopted, call, returned.h.dtype, record)
    rounding = Rounding.of(returned.h.dtype, call.x.device, products)
    proofs: list[Proof] = []
    engines: set[str] = set()
    inputs: list[Tensor | None] = [call.x]
    masks: list[Tensor | None] = [None]
    flow = call.x if call.packed is None else call.packed.data
    x_error: Callable[[], Tensor] | None = None
    exact = call.faithful and call.x.device.type == "cpu"  # every layer that runs again
    for layer, layer_weights in enumerate(weights):
        initial = {name: value[layer] for name, value in call.initial.items()}
        # a module of somebody's own may return not all of its last states
        layer_final = {name: value[layer] for name, value in returned.final.items()}
        replayed = False
        if layer == adopted.num_layers - 1:
            hidden = returned.h
            del flow  # what the layer below returned is in the record by now
        elif lower:
            flow = hidden = lower[layer]
        else:
            replay = partial(
                adopted.replay,
                packed=call.packed,
                initial=initial,
                weights=live[layer],
                grad_mode=grad_mode,
            )
            entering = flow
            flow, ends = replay(entering)
            replayed = (
                x_error is not None
                or not layer_final  # there is nothing to compare with
                or not (
                    _same(ends, layer_final)
                    or (exact and not _rounding_explains(replay, entering, ends, layer_final))
                )
            )
            hidden = flow if call.packed is None else call.unpacked(flow)
        buffers.take(layer, hidden, initial)
        del hidden
        below = _blocks(inputs[layer]) or buffers.input_of(layer)
        judges: list[Callable[[], Judged]] = []
        for d, direction_weights in enumerate(layer_weights):
            opener = Direction(
                adopted, call, direction_weights, buffers, (layer, d), rounding, below
            )
            opener.run()
            engines.add(opener.engine)
            judge: Callable[[], Judged] = _Once(partial(opener.judged, x_error, replayed))
            judges.append(judge)
            steps = opener.step_by_step(adopted, direction_weights) if thorough else {}
            final = {name: value[d] for name, value in layer_final.items()}
            proofs += opener.prove(final, steps, replayed, judge)
        x_error = partial(_apart, judges, adopted) if replayed else None
        if layer < adopted.num_layers - 1:
            if drawn is not None:
                # oneDNN pads packed data where all sequences are full: its mask has that shape
                mask = drawn[layer].flatten().expand(flow.numel()).view(flow.shape)
                flow = flow * mask
                padded = [t if call.packed is None else call.unpacked(t) for t in (flow, mask)]
                inputs.append(padded[0])
                masks.append(padded[1] != 0)
            else:
                inputs.append(None)
                masks.append(None)
    return Opened(
        buffers.finished(),
        batch_first(inputs),
        _worst(proofs),
        products,
        batch_first(masks),
        "torch" if "torch" in engines else "llvm",
    )


class _Once:
    """A judgement that is made when it is first asked for."""

    def __init__(self, judge: Callable[[], Judged]) -> None:
        self.judge = judge
        self.judged: Judged | None = None

    def __call__(self) -> Judged:
        if self.judged is None:
            self.judged = self.judge()
        return self.judged


def _same(rerun_final: Mapping[str, Tensor], layer_final: Mapping[str, Tensor]) -> bool:
    """Bit for bit."""
    return not any(
        absolute_difference(rerun_final[name], value).any() for name, value in layer_final.items()
    )


LAST_BITS = 64
"""So many times what the last bits of its input move, a run may end beside another of the same
numbers: another kernel, another order of sums."""


def _rounding_explains(
    replay: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
    entering: Tensor,
    ends: Mapping[str, Tensor],
    layer_final: Mapping[str, Tensor],
) -> bool:
    """Whether the ends of a layer's second run differ from its own no more than by the order in
    which a kernel adds, which a run shows whose input is moved by its last bits."""
    unit = torch.finfo(entering.dtype).eps
    _, moved = replay(entering * (1 + unit))
    for name, own in layer_final.items():
        rounding = unit * float(own.abs().max().clamp(min=1))
        apart = float(absolute_difference(moved[name], ends[name]).max())
        if float(absolute_difference(ends[name], own).max()) > LAST_BITS * max(apart, rounding):
            return False
    return True


def _apart(judges: list[Callable[[], Judged]], adopted: Adopted) -> Tensor:
    """How far the run of a layer may lie from the layer's own, as the next one's input."""
    apart = [judge().apart for judge in judges]
    joined = torch.cat([t for t in apart if t is not None], dim=-1)
    keeps = 1 - adopted.dropout if adopted.training else 1.0
    return joined / keeps if keeps > 0 else torch.zeros_like(joined)


def batch_first(values: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """(time, batch, feature) to (batch, time, feature)."""
    return tuple(None if value is None else value.transpose(0, 1) for value in values)


def _blocks(x: Tensor | None) -> Callable[[int, int], Tensor] | None:
    return None if x is None else lambda start, stop: x[start:stop]


def _worst(proofs: list[Proof]) -> dict[str, Proof]:
    """For each state the first that fails; else the largest deviation, the largest ratio, and
    the place that comes closest to failing."""
    by_state: dict[str, Proof] = {}
    for state in dict.fromkeys(p.state for p in proofs):
        of_state = [p for p in proofs if p.state == state]
        if len(of_state) == 1:
            by_state[state] = of_state[0]
            continue
        failed = next((p for p in of_state if p.ratio > 1), None)
        if failed is not None:
            by_state[state] = failed
            continue
        at_all_steps = [p for p in of_state if p.every_step] or of_state
        # a step that was compared twice (check="thorough") is proven where one of them proves it
        best: dict[tuple[int, str], Proof] = {}
        for p in sorted(at_all_steps, key=lambda p: (-p.loose, -p.widest)):
            best[p.place.layer, p.place.direction] = p
        counted = list(best.values())
        proven = [p for p in of_state if p.loose < p.places]
        if all(p.loose == p.places for p in counted):
            proven = counted  # nothing of the steps is proven: what they show is told
        closest = max(of_state, key=lambda p: p.ratio)
        parts = [part for p in counted if p.threshold is not None for part in p.threshold.parts]
        by_state[state] = replace(
            max(proven, key=lambda p: p.deviation),
            ratio=closest.ratio,
            place=closest.place,
            every_step=counted[0].every_step,
            places=sum(p.places for p in counted),
            loose=sum(p.loose for p in counted),
            widest=max(p.widest for p in counted),
            threshold=Threshold(*parts) if parts else None,
        )
    return by_state
