"""What a state that is a sum over the past holds of each step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnscope._gradients.backward import Block
from rnnscope._gradients.coordinates import Resolver, Time
from rnnscope._gradients.differentiable import Differentiable, part_values, without_graph
from rnnscope._gradients.saved import save_record
from rnnscope._layers.sequences import last_steps, ran_until, shifted, turned
from rnnscope._opening.buffers import working_type
from rnnscope._record.absent import OF_A_TRACE, absent_attribute
from rnnscope._record.record import Record
from rnnscope.cells.algebra import Expr, affine_split, evaluate
from rnnscope.errors import AddressError

__all__ = ["Memory", "memory"]


ABSENT = OF_A_TRACE | {
    "plot": "rs.plot.memory(tr) draws it",
    "added": "memory['added'] is what each step adds",
    "kept": "memory['kept'] is the share of it that is left",
    "written": "memory['written'] is their product",
    "gradients": "tr.gradients(loss) gives the gradients of a loss; tr.flow() those of a state",
}
"""What is asked of a memory and stands elsewhere."""


class Memory(Record):
    """What a state holds of each step: c_T = Σ_t (Π_(s>t) f_s) i_t g_t + (Π f) c_0, exactly.

    A record: ``added`` is what each step adds (i × g), ``kept`` the share of it that is left at the
    end (the product of the forget gates behind it), ``written`` their product, all with dims
    (layer, direction, batch, time, unit). ``initial`` (layer, direction, batch, unit) is what is
    left of the initial state; ``state`` names the state. ``written`` summed over time and
    ``initial`` are the state.
    """

    def __init__(
        self,
        trace: Differentiable,
        state: str,
        parts: dict[str, Tensor],
        initial: Tensor,
        ends: Tensor,
    ) -> None:
        inputs = tuple(trace.layer_input(k) for k in range(trace.structure.num_layers))
        projected = trace.structure.output_size != trace.structure.hidden_size
        names = dict.fromkeys(parts, "projected") if projected and state == "h" else {}
        absent = {
            name: f"{name} is a quantity of the call: write tr[{name!r}]; a memory holds "
            f"{', '.join(parts)}"
            for name in trace.cell.quantities
        }
        super().__init__(parts, inputs, trace.lengths, trace.directions, names, absent)
        self.labels = trace.labels
        self.state, self.initial = state, initial
        self._kind, self._ends = trace.structure.kind, ends

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory to a file, as "run.record", from which ``load_record`` reads it.

        Raises ``FileError`` where the place cannot be written, an existing file is then as it was,
        and for the ending of another kind of file, as .pt.
        """
        save_record(path, self, "memory", {"initial": {self.state: self.initial}})

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Nothing else; what is asked of a trace is told with the line."""
            raise absent_attribute("Memory", name, ABSENT)

    def __str__(self) -> str:
        """For each layer and direction: how far back what the state holds was written."""
        layers, directions = self.sizes["layer"], self.directions
        several = layers * len(directions) > 1
        header = (
            f"What {self.state} of {self._kind} holds at each sequence's end (batch "
            f"{self.sizes['batch']}), by size:"
            if bool((self._ends == _last(self)).all())
            else f"What {self.state} of {self._kind} holds at the chosen step, by size:"
        )
        lines = [header]
        for layer in range(layers):
            for d, direction in enumerate(directions):
                place = f"layer {layer}, {direction}: " if several else ""
                lines.append(f"  {place}{self._ages(layer, d)}")
        lines.append(
            f"  {', '.join(self)}: (layer, direction, batch, time, unit); written summed over time "
            f"+ initial = {self.state}"
        )
        return "\n".join(lines)

    __repr__ = __str__

    def _ages(self, layer: int, d: int) -> str:
        """How many steps back half, and nine tenths, of what is held was written."""
        sizes = self["written"][layer, d].abs().nan_to_num().sum(-1).double()  # (batch, time)
        steps = torch.arange(sizes.shape[1], device=sizes.device)
        ages = (self._ends[d].unsqueeze(1) - steps).abs()
        by_age = torch.zeros(sizes.shape[1], dtype=torch.float64, device=sizes.device)
        by_age.index_add_(0, ages.flatten(), sizes.flatten())
        begun = float(self.initial[layer, d].abs().nan_to_num().sum())
        total = float(by_age.sum()) + begun
        if total == 0:
            return "nothing: it is 0"
        reached = (by_age.cumsum(0) / total).tolist()
        counts = [next((k + 1 for k, r in enumerate(reached) if r >= s), 0) for s in (0.5, 0.9)]
        steps_back = ["the last step" if k == 1 else f"the last {k} steps" for k in counts]
        parts = []
        if counts[0]:
            parts.append(f"half of it was written in {steps_back[0]}")
            if counts[1]:
                parts[0] += f", nine tenths in {steps_back[1]}"
        parts.append(f"{begun / total:.0%} is left of {self.state}_0")
        return "; ".join(parts)


def _last(record: Record) -> Tensor:
    """(direction, batch): each sequence's own last step in each direction."""
    lengths = record.lengths
    return torch.stack([last_steps(lengths, name == "reverse") for name in record.directions])


def memory(trace: Differentiable, state: str | None, time: Time) -> Memory:
    """See ``Trace.memory``."""
    cell, resolver = trace.cell, Resolver(trace)
    splits = {
        name: split
        for name in cell.states
        if (split := affine_split(cell.equations[name], name)) is not None
    }
    if state is not None:
        resolver.state(state)
    name = next(iter(splits), None) if state is None else state
    if name is None or name not in splits:
        states = " and ".join(cell.states) if state is None else state
        raise AddressError(
            f"a memory is of a state that is a sum over the past (a factor × the state before + "
            f"what is added); in {cell.name} {states} {'is' if ' ' not in states else 'are'} "
            f"computed otherwise. "
            + (
                f"{' and '.join(splits)} is such a sum: tr.memory({next(iter(splits))!r}). "
                if splits
                else ""
            )
            + "tr.flow() tells how a state depends on earlier steps"
        )
    structure, dtype = trace.structure, working_type(trace.call.x.dtype)
    shape = (
        *(structure.num_layers, len(trace.directions)),
        *(trace.call.steps, trace.call.batch, structure.state_size(name)),
    )
    rows = torch.arange(trace.call.batch, device=trace.lengths.device)
    with without_graph(trace):
        added, kept, written = (trace.call.x.new_empty(shape, dtype=dtype) for _ in range(3))
        initial = trace.call.x.new_empty((*shape[:2], *shape[3:]), dtype=dtype)
        ends = torch.stack([resolver.times(time, d, rows) for d in range(shape[1])])
        for layer in range(shape[0]):
            for d, direction in enumerate(trace.directions):
                part, reverse = part_values(trace, layer, d), direction == "reverse"
                parts = _products(
                    part.block(0, trace.call.steps),
                    splits[name],
                    ran_until(ends[d], trace.lengths, trace.call.steps, reverse).unsqueeze(-1),
                    reverse,
                )
                added[layer, d], kept[layer, d], whole = parts
                torch.mul(added[layer, d], kept[layer, d], out=written[layer, d])
                initial[layer, d] = whole * trace.call.initial[name][layer, d]
    values = {"written": written, "added": added, "kept": kept}
    return Memory(trace, name, {n: v.transpose(2, 3) for n, v in values.items()}, initial, ends)


def _products(
    block: Block, split: tuple[Expr, Expr], inside: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What is added (time, batch, unit), the product of the factors behind it, and of all.

    Products that underflow are 0, as what they stand for: nothing is divided by them.
    """
    units = block.weights.hidden_size
    shape = (*inside.shape[:2], units)
    factor, added = (evaluate(e, block).to(block.x.dtype).expand(shape) for e in split)
    factor, added = torch.where(inside, factor, 1.0), torch.where(inside, added, 0.0)
    products = turned(factor, not reverse).cumprod(0)
    kept = turned(shifted(products, torch.ones_like(products[0]), False), not reverse)
    return added, torch.where(inside, kept, 0.0), products[-1]
