"""How a state depends on earlier ones: Jacobians through time, and their norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._gradients.backward import Backward, BlockAdjoints, ByStep, adjoints_of_x
from rnnscope._gradients.coordinates import Coordinates, Resolver
from rnnscope._gradients.differentiable import Differentiable, part_values, without_graph
from rnnscope._opening.buffers import working_type
from rnnscope._record.record import Index
from rnnscope.cells import quantity_names
from rnnscope.cells.derivation import adjoint_of
from rnnscope.errors import AddressError

__all__ = ["flow", "jacobian"]


@dataclass(frozen=True)
class Ends:
    """Both ends of a derivative, for the sequences ``rows``: ``of``, a state at a layer, direction
    and step; ``to``, a quantity, x or an initial state of a layer and direction."""

    of: str
    to: str
    layer: int
    d: int
    to_layer: int
    to_d: int
    rows: Tensor
    times: Tensor  # of each sequence


class _Seeds:
    """The identity matrix at each sequence's step, by blocks: (time, seed, batch, unit)."""

    def __init__(self, times: Tensor, units: int, like: Tensor) -> None:
        self.times, self.units, self.like = times, units, like

    def __getitem__(self, steps: slice, /) -> Tensor:
        shape = (steps.stop - steps.start, self.units, len(self.times), self.units)
        seeds = self.like.new_zeros(shape)
        inside = (self.times >= steps.start) & (self.times < steps.stop)
        rows = inside.nonzero()[:, 0]
        identity = torch.eye(self.units, dtype=seeds.dtype, device=seeds.device)
        seeds[self.times[rows] - steps.start, :, rows] = identity
        return seeds


def _sweep(trace: Differentiable, ends: Ends) -> Iterator[tuple[int, int, Tensor]]:
    """∂of/∂to, block by block of the steps of ``to``: (start, stop, (steps, seed, batch, unit)).

    An initial state comes as one block of one step.
    """
    structure, dtype = trace.structure, working_type(trace.call.x.dtype)
    units = structure.state_size(ends.of)
    like = torch.empty(0, dtype=dtype, device=trace.call.x.device)
    # steps behind those of ``of`` know nothing of it
    reverse = trace.directions[ends.d] == "reverse"
    first = int(ends.times.min()) if reverse else 0
    last = trace.call.steps if reverse else int(ends.times.max()) + 1
    reached: Tensor | None = None
    for layer in range(ends.layer, ends.to_layer - 1, -1):
        arrived = layer == ends.to_layer
        begin, end = (first, last) if layer == ends.layer else (0, trace.call.steps)
        below: Tensor | None = None
        for d, direction in enumerate(trace.directions):
            if layer == ends.layer and d != ends.d:
                continue
            if arrived and ends.to != "x" and d != ends.to_d:
                continue
            section = part_values(trace, layer, d).section(begin, end, ends.rows)
            direct: dict[str, ByStep]
            if reached is None:
                direct = {ends.of: _Seeds(ends.times - begin, units, like)}
            else:
                size = structure.output_size
                direct = {"h": reached[..., d * size : (d + 1) * size]}
            valid = trace.call.valid
            if valid is not None:
                valid = valid[begin:end, ends.rows]
            backward = Backward(section, direct, direction == "reverse", valid, (units,))
            needs_x = not arrived or ends.to == "x"
            if needs_x and below is None:
                shape = (trace.call.steps, units, len(ends.rows), section.x.shape[-1])
                below = like.new_zeros(shape)
            for start, stop, adjoints in backward.blocks():
                at = slice(begin + start, begin + stop)
                if needs_x:
                    assert below is not None, "it was made above"
                    below[at] += adjoints_of_x(adjoints, section.weights) @ section.weights.ih
                elif ends.to in quantity_names(trace.cell):
                    yield (
                        at.start,
                        at.stop,
                        _adjoints_of(adjoints, ends.to, structure.state_size(ends.to)),
                    )
            if arrived and ends.to not in ("x", *quantity_names(trace.cell)):
                yield 0, 1, backward.carry[ends.to.removesuffix("_0")].unsqueeze(0)
        if below is not None:
            mask = trace.masks[layer]
            if arrived:
                yield 0, trace.call.steps, below
            elif mask is not None:
                scale = structure.dropout_factor(mask, dtype).transpose(0, 1)[:, ends.rows]
                below = below * scale.unsqueeze(1)
            reached = below


def _adjoints_of(adjoints: BlockAdjoints, name: str, units: int) -> Tensor:
    return adjoints.combined(adjoint_of(adjoints.block, name), units)


def jacobian(
    trace: Differentiable, of: Coordinates, to: Coordinates, to_time: Index = None
) -> Tensor:
    """See ``Trace.jacobian``; ``to_time`` are the steps of ``to``."""
    ends, single_row = _ends(trace, of, to)
    initial = to.name not in ("x", *quantity_names(trace.cell))
    if initial and to_time is not None:
        raise AddressError(f"{to.name} is the state before the first step: it has no time")
    steps = 1 if initial else trace.call.steps
    chosen = slice(None) if initial else trace.position("time", to_time)
    kept = torch.arange(steps, device=ends.rows.device)[chosen].reshape(-1)
    with without_graph(trace):
        matrices: Tensor | None = None
        for start, stop, block in _sweep(trace, ends):
            if matrices is None:
                shape = (len(ends.rows), len(kept), block.shape[1], block.shape[-1])
                matrices = block.new_zeros(shape)
            inside = (kept >= start) & (kept < stop)
            matrices[:, inside] = block[kept[inside] - start].permute(2, 0, 1, 3)
        assert matrices is not None, "there is a step"
    if initial or isinstance(chosen, int):
        matrices = matrices[:, 0]
    return matrices[0] if single_row else matrices


def _ends(trace: Differentiable, of: Coordinates, to: Coordinates) -> tuple[Ends, bool]:
    """Both ends, checked; and whether one position of the batch drops its dim."""
    resolver = Resolver(trace)
    layer, d = resolver.position("layer", of.layer), resolver.direction(of.direction)
    rows, single_row = resolver.rows(of.batch)
    target = resolver.target(to.name)
    to_layer = layer if to.layer is None else resolver.position("layer", to.layer)
    if to_layer > layer:
        raise AddressError(
            f"layer {layer} does not depend on layer {to_layer}, which is above it: to_layer is at "
            f"most {layer}"
        )
    to_d = d
    if to_layer < layer:
        to_d = 0 if target == "x" else resolver.direction(to.direction)
    elif to.direction is not None and resolver.direction(to.direction) != d:
        raise AddressError(
            f"in one layer the directions do not depend on each other: to_direction is "
            f"{trace.directions[d]!r}, or left out"
        )
    times = resolver.times(of.time, d, rows)
    state = resolver.state(of.name)
    return Ends(state, target, layer, d, to_layer, to_d, rows, times), single_row


def flow(trace: Differentiable, of: Coordinates, to: str, norm: float | str) -> Tensor:
    """See ``Trace.flow``; without a time of ``of`` for all of its steps."""
    resolver = Resolver(trace)
    if resolver.target(to) not in ("x", *quantity_names(trace.cell)):
        raise AddressError(f"flow is to a quantity of the steps; got {to!r}, which has no time")
    rows, single_row = resolver.rows(of.batch)
    d = resolver.direction(of.direction)
    with without_graph(trace):
        if of.time is not None:
            norms = _norms(trace, _ends(trace, of, Coordinates(to))[0], norm)
        else:
            layer, steps = resolver.position("layer", of.layer), trace.call.steps
            state, dtype = resolver.state(of.name), working_type(trace.call.x.dtype)
            norms = torch.zeros(len(rows), steps, steps, dtype=dtype, device=rows.device)
            for t in range(steps):
                long = (trace.lengths[rows] > t).nonzero()[:, 0]
                times = torch.full_like(rows[long], t)
                ends = Ends(state, to, layer, d, layer, d, rows[long], times)
                norms[long, t] = _norms(trace, ends, norm)
    return norms[0] if single_row else norms


def _norms(trace: Differentiable, ends: Ends, norm: float | str) -> Tensor:
    """(batch, time): the norm of each matrix."""
    dtype = working_type(trace.call.x.dtype)
    by_time = torch.zeros(len(ends.rows), trace.call.steps, dtype=dtype, device=ends.rows.device)
    for start, stop, block in _sweep(trace, ends):
        matrices = block.permute(2, 0, 1, 3)
        # a sequence that holds NaN has no singular values, and must not take the others with it
        lost = ~matrices.isfinite().flatten(-2).all(-1)
        whole = matrices.masked_fill(lost[..., None, None], 0)
        norms = torch.linalg.matrix_norm(whole, ord=norm)
        by_time[:, start:stop] = norms.masked_fill(lost, torch.nan)
    return by_time
