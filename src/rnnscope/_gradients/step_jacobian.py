"""How all states of a step depend on all states of the step before: one block matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._gradients.backward import Backward
from rnnscope._gradients.coordinates import Resolver, Time
from rnnscope._gradients.differentiable import Differentiable, part_values, without_graph
from rnnscope.errors import AddressError

__all__ = ["StepJacobian", "step_jacobian"]


@dataclass(frozen=True)
class StepJacobian:
    """∂(all states after a step)/∂(all states before it): ``matrix`` (..., of, to), in which each
    state has the rows and columns ``places[state]``; h and c before the step are independent, so
    that each path is counted once.

    ``block("h", "c")`` is ∂h_t/∂c_(t-1); ``eigenvalues`` and ``spectral_radius`` are the whole
    matrix's, the latter the factor by which a change grows or shrinks at such steps in the long
    run. ``names`` tells each row and column, as ("h", 0).
    """

    matrix: Tensor
    places: Mapping[str, slice]

    @property
    def names(self) -> tuple[tuple[str, int], ...]:
        """(state, unit) of each row and column."""
        return tuple(
            (state, unit)
            for state, place in self.places.items()
            for unit in range(place.stop - place.start)
        )

    def block(self, of: str, to: str) -> Tensor:
        """∂of_t/∂to_(t-1), (..., unit of ``of``, unit of ``to``). Raises ``AddressError`` for what
        is no state."""
        for state in (of, to):
            if state not in self.places:
                raise AddressError(f"no state {state!r}; there is {' and '.join(self.places)}")
        return self.matrix[..., self.places[of], self.places[to]]

    @property
    def eigenvalues(self) -> Tensor:
        """Complex, (..., row), the largest first."""
        values: Tensor = torch.linalg.eigvals(self.matrix)
        ordered: Tensor = values.gather(-1, values.abs().argsort(-1, descending=True))
        return ordered

    @property
    def spectral_radius(self) -> Tensor:
        """The largest size of an eigenvalue, (...)."""
        radius: Tensor = self.eigenvalues[..., 0].abs()
        return radius

    def __repr__(self) -> str:
        states = ", ".join(
            f"{state} {place.stop - place.start}" for state, place in self.places.items()
        )
        radii = [f"{radius:.3f}" for radius in self.spectral_radius.flatten()[:4].tolist()]
        more = ", ..." if self.spectral_radius.numel() > 4 else ""
        return (
            f"StepJacobian of ({states}), shape {tuple(self.matrix.shape)}; "
            f"spectral radius {', '.join(radii)}{more}"
        )


def step_jacobian(
    trace: Differentiable,
    time: Time,
    layer: int | None,
    direction: str | None,
    batch: int | slice | None,
) -> StepJacobian:
    """See ``Trace.step_jacobian``."""
    resolver = Resolver(trace)
    number, d = resolver.position("layer", layer), resolver.direction(direction)
    rows, single_row = resolver.rows(batch)
    times = resolver.times(time, d, rows)
    structure, states = trace.structure, trace.cell.states
    places: dict[str, slice] = {}
    for state in states:
        start = max((place.stop for place in places.values()), default=0)
        places[state] = slice(start, start + structure.state_size(state))
    size = max(place.stop for place in places.values())
    with without_graph(trace):
        part = part_values(trace, number, d)
        matrices = part.x.new_zeros(len(rows), size, size, dtype=part.weights.ih.dtype)
        for t in sorted(set(times.tolist())):
            chosen = (times == t).nonzero()[:, 0]
            section = part.section(t, t + 1, rows[chosen])
            for state, place in places.items():
                units = place.stop - place.start
                # the identity, one seed for each unit: (time, seed, batch, unit)
                seeds = torch.eye(units, dtype=matrices.dtype, device=matrices.device)
                seeds = seeds[None, :, None].expand(1, units, len(chosen), units)
                backward = Backward(section, {state: seeds}, False, None, (units,))
                for _ in backward.blocks():
                    pass
                for before, columns in places.items():
                    block = backward.carry[before].transpose(0, 1)  # (batch, seed, unit)
                    matrices[chosen, place, columns] = block
    return StepJacobian(matrices[0] if single_row else matrices, places)
