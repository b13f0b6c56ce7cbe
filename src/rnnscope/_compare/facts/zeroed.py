"""Where candidate and reference agree once some of the parameters are zero in both: it is in the
use of these that they differ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation
from rnnscope._layers.adopt import Adopted, adopt
from rnnscope.errors import RnnscopeError

__all__ = ["Called", "agrees_at_zero"]

Called = Callable[[nn.Module, Model], Observation]
"""What the candidate returns for some input with the weights of a layer, to be compared with a
model of it."""

SEVERAL = 2
"""Kinds of parameters, or gates, at most: where it agrees without any of more, this tells nothing
of any."""
VARIED = 1e-3
"""What the reference's output must vary by, where parameters are zero, for agreement to mean
something."""

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class _Zeroed:
    """A layer with some parameters at zero, called as the candidate and as the reference: for each
    input for which these differ, and for all others."""

    layer: nn.Module
    adopted: Adopted
    differing: Sequence[Called]
    others: Sequence[Called]

    def agrees(self, kinds: Sequence[str], gates: Sequence[str]) -> bool:
        """Whether both agree where the rows of these gates are zero in parameters of these kinds,
        in all layers and directions."""
        changed = copy.deepcopy(self.layer)
        order = self.adopted.cell.gates
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                if name.startswith(tuple(kinds)):
                    blocks = parameter.chunk(len(order))
                    for gate in gates:
                        blocks[order.index(gate)].zero_()
        model = Model.of(adopt(changed), torch.float64)
        varies = False
        try:
            for call in self.differing:
                observation = call(changed, model)
                if worst(model, [observation]) > 1:
                    return False
                varies = varies or _varies(observation)
            # where all is the same, agreement for what differed tells nothing
            return varies and all(worst(model, [call(changed, model)]) <= 1 for call in self.others)
        except RnnscopeError:
            return False


def _varies(observation: Observation) -> bool:
    """Whether agreement means something: not all numbers of a unit are the same."""
    if observation.output is None or observation.count == 0:
        return False
    low, high = observation.output.flatten(0, 1).aminmax(dim=0)
    return bool((high - low).max() > VARIED)


def agrees_at_zero(
    layer: nn.Module, differing: Sequence[Called], others: Sequence[Called]
) -> list[str]:
    """Sentences on the parameters without which both agree for every input, as closely as calls
    tell; for some these are ``differing``."""
    adopted = adopt(layer)
    gates = adopted.cell.gates
    zeroed = _Zeroed(layer, adopted, differing, others)
    parameters = {n: p for n, p in layer.named_parameters() if n.startswith(KINDS)}
    kinds = [kind for kind in KINDS if any(name.startswith(kind) for name in parameters)]
    rows = len(gates) * adopted.structure.hidden_size
    if not kinds or any(len(parameter) != rows for parameter in parameters.values()):
        return []  # a declared cell has no rows of gates that its equations do not use
    of_kinds = [kind for kind in kinds if zeroed.agrees([kind], gates)]
    of_gates = [gate for gate in gates if len(gates) > 1 and zeroed.agrees(kinds, [gate])]
    if len(of_kinds) > SEVERAL or len(of_gates) > SEVERAL:
        return []
    closest = [
        f"the rows of {gate} in {kind}"
        for gate in of_gates
        for kind in kinds
        if zeroed.agrees([kind], [gate])
    ]
    if 0 < len(closest) <= SEVERAL:
        return [_sentence(closest)]
    if of_gates:
        return [_sentence([f"all rows of {gate}" for gate in of_gates])]
    biases = [kind for kind in kinds if kind.startswith("bias")]
    if not of_kinds and len(biases) > 1 and zeroed.agrees(biases, gates):
        return [_sentence([" and ".join(biases)])]
    return [_sentence(of_kinds)] if of_kinds else []


def _sentence(zeros: Sequence[str]) -> str:
    singular = len(zeros) == 1 and zeros[0] in KINDS
    return (
        f"it agrees if {', or '.join(zeros)} {'is' if singular else 'are'} zero in both: look at "
        f"how you use {'it' if singular else 'them'}"
    )
