"""What has influence, and what has none once it is zero in both: parts of a call are changed by
themselves.

No listed mistake is needed for it: a parameter that changes nothing was never loaded, whatever else
is wrong; and where both agree with some parameters at zero, it is in the use of these that they
differ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator
from rnnscope._layers.adopt import Adopted, adopt
from rnnscope.errors import RnnscopeError

__all__ = ["Called", "Calls", "Numbers", "agrees_at_zero", "another", "without_influence"]

Numbers = tuple[Tensor, ...]
"""The output, (time, batch, unit), and the final states of a call."""

MOST = 16
"""Features, steps and parameters that are changed, of each so many."""

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
class Calls:
    """How a candidate is called: with other inputs, or with one of its ``parameters`` changed."""

    call: Callable[[Inputs], Numbers]
    parameters: Mapping[str, Callable[[Inputs], Numbers]] = field(default_factory=dict)


def another(value: Tensor) -> Tensor:
    """Numbers of which none is the same."""
    return torch.where(value > 0, -1.0, 1.0).to(value) * (1 + value.abs())


def without_influence(calls: Calls, model: Model, inputs: Inputs) -> list[str]:
    """Sentences on what changes nothing in the candidate and does in the reference, and on when a
    step of x has influence first."""
    first = _returned(calls.call, inputs)
    if first is None:
        return []

    def silent(changed: Inputs) -> bool:
        return _same(_returned(calls.call, changed), first) and _shows(model, inputs, changed)

    features, states = inputs.x.shape[-1], inputs.initial if inputs.given else {}
    unread = [
        k
        for k in range(features if features <= MOST else 0)
        if silent(_with_other_x(inputs, (..., k)))
    ]
    unused = [
        name
        for name, call in list(calls.parameters.items())[: 2 * MOST]
        if _same(_returned(call, inputs), first)
    ]
    ignored = [
        f"{name}_0"
        for name, value in states.items()
        if silent(replace(inputs, initial={**inputs.initial, name: another(value)}))
    ]
    return [
        *_no_influence(", ".join(unused), len(unused)),
        *(_no_influence(f"{listed('feature', unread)} of x", len(unread)) if unread else ()),
        *_no_influence(", ".join(ignored), len(ignored)),
        *_times(calls, model, inputs, first),
    ]


def _no_influence(names: str, count: int) -> list[str]:
    return [f"{names} {'has' if count == 1 else 'have'} no influence"] if count else []


def _with_other_x(inputs: Inputs, place: Any) -> Inputs:
    x = inputs.x.clone()
    x[place] = another(x[place])
    return replace(inputs, x=x)


def _times(calls: Calls, model: Model, inputs: Inputs, first: Numbers) -> Iterator[str]:
    """From which step on x has influence, where that is not its own."""
    steps = inputs.steps
    if inputs.lengths is not None or not 1 < steps <= MOST:
        return
    begins: dict[int, int | None] = {}
    for t in range(steps):
        numbers = _returned(calls.call, _with_other_x(inputs, t))
        if numbers is None or numbers[0].shape != first[0].shape:
            return
        moved = (numbers[0] != first[0]).flatten(1).any(1).nonzero().flatten().tolist()
        begins[t] = moved[0] if moved else None
        if not moved and not _same(numbers, first):
            begins[t] = t  # seen in the final states alone
    silent = [t for t, begin in begins.items() if begin is None]
    both = model.num_directions > 1 or model.parts[0][0].backward
    shifts = {begin - t for t, begin in begins.items() if begin is not None}
    if not both and len(shifts) == 1 and (shift := shifts.pop()):
        sign = "+" if shift > 0 else "-"
        yield f"the x of time t has influence from time t {sign} {abs(shift)} on"
    elif silent and len(silent) < steps:
        where = listed("time", silent)
        if len(silent) == 1:
            where = {0: "the first step", steps - 1: "the last step"}.get(silent[0], where)
        yield f"the x of {where} has no influence (in a call of {steps} steps)"
    elif silent:
        yield "x has no influence"


def _returned(call: Callable[[Inputs], Numbers], inputs: Inputs) -> Numbers | None:
    try:
        return call(inputs)
    except RnnscopeError:
        return None


def _same(numbers: Numbers | None, first: Numbers) -> bool:
    return (
        numbers is not None
        and len(numbers) == len(first)
        and all(
            a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
            for a, b in zip(numbers, first, strict=True)
        )
    )


def _shows(model: Model, inputs: Inputs, changed: Inputs) -> bool:
    """Whether the reference gives other numbers for other inputs."""
    [right], [after] = (Simulator(i).run([model]) for i in (inputs, changed))
    return right is None or after is None or not torch.equal(right.output, after.output)


# with zeros in both ------------------------------------------------------------------------------


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
