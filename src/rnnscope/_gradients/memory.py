"""What a state that is a sum over the past holds of each step."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnscope._gradients.backward import Block
from rnnscope._gradients.coordinates import Resolver, Time
from rnnscope._gradients.gradients import Differentiable, part_values, without_graph
from rnnscope._layers.sequences import ran_until, shifted, turned
from rnnscope._opening.buffers import working_type
from rnnscope._record.record import Record
from rnnscope.cells.algebra import Expr, evaluate, linear_recurrence
from rnnscope.errors import AddressError

__all__ = ["Memory", "memory"]


class Memory(Record):
    """What a state holds of each step: c_T = Σ_t (Π_(s>t) f_s) i_t g_t + (Π f) c_0, exactly.

    A record: ``added`` is what each step adds (i × g), ``kept`` the share of it that is left at the
    end (the product of the forget gates behind it), ``written`` their product, all with dims
    (layer, direction, batch, time, unit). ``initial`` (layer, direction, batch, unit) is what is
    left of the initial state; ``state`` names the state. ``written`` summed over time and
    ``initial`` are the state.
    """

    def __init__(
        self, trace: Differentiable, state: str, parts: dict[str, Tensor], initial: Tensor
    ) -> None:
        inputs = tuple(trace.layer_input(k) for k in range(trace.structure.num_layers))
        projected = trace.structure.output_size != trace.structure.hidden_size
        names = dict.fromkeys(parts, "projected") if projected and state == "h" else {}
        super().__init__(parts, inputs, trace.lengths, trace.directions, names)
        self.state, self.initial = state, initial


def memory(trace: Differentiable, state: str | None, time: Time) -> Memory:
    """See ``Trace.memory``."""
    cell, resolver = trace.cell, Resolver(trace)
    splits = {
        name: split
        for name in cell.states
        if (split := linear_recurrence(cell.equations[name], name)) is not None
    }
    if state is not None:
        resolver.state(state)
    name = next(iter(splits), None) if state is None else state
    if name is None or name not in splits:
        have = f"; {' and '.join(splits)} is" if splits else ""
        raise AddressError(
            f"{name or 'no state'} of {cell.name} is no sum over the past (factor × the state "
            f"before + what is added){have}: ask tr.flow() how it depends on earlier steps"
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
        for layer in range(shape[0]):
            for d, direction in enumerate(trace.directions):
                part = part_values(trace, layer, d)
                ends, reverse = resolver.times(time, d, rows), direction == "reverse"
                parts = _products(
                    part.block(0, trace.call.steps),
                    splits[name],
                    ran_until(ends, trace.lengths, trace.call.steps, reverse).unsqueeze(-1),
                    reverse,
                )
                added[layer, d], kept[layer, d], whole = parts
                torch.mul(added[layer, d], kept[layer, d], out=written[layer, d])
                initial[layer, d] = whole * trace.call.initial[name][layer, d]
    values = {"written": written, "added": added, "kept": kept}
    return Memory(trace, name, {n: v.transpose(2, 3) for n, v in values.items()}, initial)


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
