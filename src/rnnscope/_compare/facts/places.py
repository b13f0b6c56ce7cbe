"""Right numbers at other places: an output whose memory was read with its axes in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product

import torch
from torch import Tensor

from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation

__all__ = ["of_places"]

Axes = tuple[int, ...]

AXES = ("time", "batch", "direction", "unit")


def of_places(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The orders of axes in which the reference's output has the numbers of the candidate, one
    after the other in memory."""
    one_way = model.num_directions == 1
    axes = tuple(axis for axis in AXES if axis != "direction" or not one_way)
    time_first = tuple(range(len(axes)))
    batch_first = (1, 0, *time_first[2:])
    own = batch_first if model.structure.batch_first else time_first
    [right] = shown[0].simulator.run([model])
    if right is None:
        return
    swapped = (own[1], own[0], *own[2:])
    others = permutations(time_first) if one_way else ()
    for read, order in product(dict.fromkeys((own, swapped, *others)), permutations(time_first)):
        if not any(_moves(model, observation, order, read) for observation in shown):
            continue

        def gives(
            observation: Observation, order: Axes = order, read: Axes = read
        ) -> Outcome | None:
            [outcome] = observation.simulator.run([model])
            if outcome is None:
                return None
            return replace(outcome, output=_laid(model, outcome.output, order, read))

        names = [", ".join(axes[k] for k in ks) for ks in (order, read)]
        sizes = tuple(_cube(model, right.output).permute(order).shape)
        taken = ", ".join(str(own.index(k)) for k in read)
        first = {own: "", swapped: ".swapaxes(0, 1)"}.get(read, f".transpose({taken})")
        places = [order.index(k) for k in own]
        back = f".transpose({', '.join(map(str, places))})" if places != sorted(places) else ""
        words = Words(
            "the numbers of the output stand at other places",
            f"they are those of {model.structure.kind} in the order ({names[0]}), read as "
            f"({names[1]}).",
            f"np.asarray(output){first}.reshape{sizes}{back}"
            + (
                ""
                if one_way
                else f".reshape({', '.join(str(n) for n in _flat(sizes, order, own))})"
            ),
        )
        cause = Cause("places", ",".join(axes[k] for k in order))
        yield Finding(cause, words, gives=gives, mixes_rows=True)


def _flat(sizes: Axes, order: Axes, own: Axes) -> Axes:
    """The sizes of an output whose directions stand side by side."""
    first, second, directions, units = (sizes[order.index(k)] for k in own)
    return first, second, directions * units


def _cube(model: Model, output: Tensor) -> Tensor:
    """(time, batch, unit), or (time, batch, direction, unit) where there are two."""
    directions = model.num_directions
    return output if directions == 1 else output.reshape(*output.shape[:2], directions, -1)


def _moves(model: Model, observation: Observation, order: Axes, read: Axes) -> bool:
    """Whether this order is another one for these sizes."""
    width = model.num_directions * model.structure.output_size
    if observation.output is None or observation.output.shape[-1] != width:
        return False
    numbers = torch.arange(observation.output.numel(), device="cpu").view(observation.output.shape)
    return not torch.equal(_laid(model, numbers, order, read), numbers)


def _laid(model: Model, output: Tensor, order: Axes, read: Axes) -> Tensor:
    """The numbers in the given order, read as if they stood in another."""
    cube = _cube(model, output)
    numbers = cube.permute(order).reshape([cube.shape[k] for k in read])
    return numbers.permute([read.index(k) for k in range(len(read))]).reshape(output.shape)
