"""Final and recorded states beside a right output: of other rows, places or steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations, product

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated
from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.simulate import Simulator

__all__ = ["of_finals"]

States = Mapping[str, Tensor]
"""Each state, (layer, direction, batch, unit)."""

BEHIND, BEFORE = 32, 2
"""Steps behind and before a row's last one at which its final states may have been taken."""

CHUNKS = (4, 5, 8, 10, 16, 20, 25, 32)
"""Steps to which a last chunk may have been filled up."""

AXES = ("layer", "batch", "unit")
"""Of a final state as it is returned; directions lie beside each other in the first."""


def of_finals(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """What differs beside an output that agrees: final states of other rows, at other places, of
    other steps; recorded states of the step before."""
    wrong = _wrong(model, shown)
    finals = [name for name in wrong if name.endswith("_n")]
    states = [name for name in wrong if name in model.structure.cell.states]
    if not wrong or len(finals) + len(states) < len(wrong):
        return
    if finals:
        yield from _other_rows(model, shown, finals)
        yield from _other_places(model, finals)
        yield from _other_steps(model, shown, finals)
    if states and not finals:
        yield _step_before(model, states)


def _wrong(model: Model, shown: Sequence[Observation]) -> list[str]:
    """What differs by name, where the output agrees; else nothing."""
    names: dict[str, None] = {}
    for observation in shown:
        if observation.output is None:
            return []
        for name, beyond in observation.beyond(model):
            if beyond is None or bool(beyond.any()):
                names[name] = None
    return [] if "output" in names else list(names)


def _changed(
    model: Model, observation: Observation, names: Sequence[str], change: Callable[[Tensor], Tensor]
) -> Outcome | None:
    """What the model gives with some of the final states changed."""
    [outcome] = observation.simulator.run([model])
    if outcome is None:
        return None
    final = {n: change(v) if f"{n}_n" in names else v for n, v in outcome.final.items()}
    return replace(outcome, final=final)


# other rows ---------------------------------------------------------------------------------------


def _other_rows(
    model: Model, shown: Sequence[Observation], names: Sequence[str]
) -> Iterator[Finding]:
    orders = {id(o.inputs): _order_of_rows(model, o, names) for o in shown}
    if any(order is None for order in orders.values()):
        return

    def gives(observation: Observation) -> Outcome | None:
        order = orders[id(observation.inputs)]
        return (
            None if order is None else _changed(model, observation, names, lambda v: v[:, :, order])
        )

    told = next((o for o in orders.values() if o is not None and o != sorted(o)), None)
    if told is None:
        return
    sorted_by_length = all(orders[id(o.inputs)] == _by_length(o) for o in shown)
    which = enumerated(names)
    words = Words(
        f"the rows of {which} are in the order {', '.join(map(str, told))}",
        "row k belongs to row k of x, as that of the output does.",
        f"{names[0]} = {names[0]}[:, inverse]   # as the output",
        f"the rows of {which} are in another order",
    )
    if sorted_by_length:
        words = replace(
            words,
            title=f"the rows of {which} are left in the order of falling length",
            sentence="they were sorted for the loop, and the output alone was put back.",
        )
    yield Finding(
        Cause("final_rows", tensors=", ".join(names)), words, gives=gives, mixes_rows=True
    )


def _by_length(observation: Observation) -> list[int]:
    """The rows of a call in the order of falling length, as they are without lengths."""
    lengths = observation.inputs.lengths
    if lengths is None:
        return list(range(observation.inputs.batch))
    order: list[int] = lengths.argsort(descending=True, stable=True).tolist()
    return order


def _order_of_rows(
    model: Model, observation: Observation, names: Sequence[str]
) -> list[int] | None:
    """For each row of final states the one of the reference that it is, each once; None where
    there is no such order."""
    [outcome] = observation.simulator.run([model])
    if outcome is None:
        return None
    for name in names:
        state = name.removesuffix("_n")
        right, seen = outcome.final[state], observation.final.get(state)
        if seen is None or seen.shape != right.shape:
            return None
        away = distance(right.unsqueeze(2), seen.unsqueeze(3)) / observation.allowed[name].max()
        same = (away <= 1).movedim((2, 3), (0, 1)).flatten(2).all(2)
        order: list[int] = same.to(torch.uint8).argmax(1).tolist()
        if len(set(order)) < len(order) or not bool(same.any(1).all()):
            return None
        return order
    return None


# other places -------------------------------------------------------------------------------------


def _other_places(model: Model, names: Sequence[str]) -> Iterator[Finding]:
    which, kind = enumerated(names), model.structure.kind
    for order, read in product(permutations(range(3)), ((0, 1, 2), (1, 0, 2))):
        if order == read:
            continue
        change = partial(_laid, order=order, read=read)

        def gives(
            observation: Observation, change: Callable[[Tensor], Tensor] = change
        ) -> Outcome | None:
            return _changed(model, observation, names, change)

        stored, taken = (", ".join(AXES[k] for k in axes) for axes in (order, read))
        words = Words(
            f"the numbers of {which} stand at other places",
            f"they are those of {kind} in the order ({stored}), read as ({taken}).",
            f"{names[0]}.swapaxes(0, 1)   # not reshape or view, to exchange two axes",
        )
        cause = Cause("final_places", f"{stored}:{taken}", ", ".join(names))
        yield Finding(cause, words, gives=gives, mixes_rows=True)


def _laid(value: Tensor, order: tuple[int, ...], read: tuple[int, ...]) -> Tensor:
    """The numbers in one order of axes, read as if they stood in another."""
    cube = value.flatten(0, 1)
    numbers = cube.permute(order).reshape([cube.shape[k] for k in read])
    return numbers.permute([read.index(k) for k in range(3)]).reshape(value.shape)


# other steps --------------------------------------------------------------------------------------


def _other_steps(
    model: Model, shown: Sequence[Observation], names: Sequence[str]
) -> Iterator[Finding]:
    """Final states that were taken some steps before the last one or behind it, where x goes on
    with what stands in the padding, and then with zeros."""
    if model.num_directions > 1 or model.parts[0][0].backward:
        return
    runs = {id(o.inputs): _run_on(model, o) for o in shown}
    which, kind = enumerated(names), model.structure.kind

    def of(by: Mapping[int, int], held: bool, words: Words, choice: str) -> Finding:
        def gives(observation: Observation) -> Outcome | None:
            taken = _after(observation, runs[id(observation.inputs)], by, held)
            [outcome] = observation.simulator.run([model])
            if outcome is None or taken is None:
                return None
            final = {n: taken[n] if f"{n}_n" in names else v for n, v in outcome.final.items()}
            return replace(outcome, final=final)

        cause = Cause("final_steps", choice, ", ".join(names))
        return Finding(cause, words, gives=gives, mixes_rows=True)

    for chunk in CHUNKS:
        words = Words(
            f"{which} {'is' if len(names) == 1 else 'are'} taken behind the zeros that fill up the "
            f"last chunk",
            f"with chunks of {chunk} steps the loop runs on over the zeros behind x; "
            f"the states of {kind} are those after the last step of x.",
            "h_n = h   # before the loop runs on over what fills up the chunk",
        )
        by = {id(o.inputs): -o.inputs.steps % chunk for o in shown}
        if any(by.values()):
            yield of(by, False, words, f"chunk:{chunk}")
    for more in (*range(1, BEHIND + 1), *range(-1, -BEFORE - 1, -1)):
        for held in (False, True):
            steps, side = f"step{'s' * (abs(more) > 1)}", "after" if more > 0 else "before"
            words = Words(
                f"{which} {'is' if len(names) == 1 else 'are'} taken {abs(more)} {steps} {side} "
                f"the last one",
                "the final states of a row are those after its own last step.",
                "h = np.where(t < length, h_new, h)   # with t from 0",
            )
            by = dict.fromkeys(map(id, (o.inputs for o in shown)), more)
            yield of(by, held, words, f"{more}")


def _run_on(model: Model, observation: Observation) -> States | None:
    """The states after every step of x and of zeros behind it, (layer, direction, time, ...)."""
    inputs = observation.inputs
    behind = inputs.x.new_zeros(BEHIND, *inputs.x.shape[1:])
    longer = replace(inputs, x=torch.cat([inputs.x, behind]), lengths=None)
    [outcome] = Simulator(longer, tuple(inputs.initial)).run([model])
    return None if outcome is None else outcome.steps


def _after(
    observation: Observation, steps: States | None, by: Mapping[int, int], held: bool
) -> States | None:
    """The states of each row so many steps after its last one; no later than the last of x where
    they are ``held`` there."""
    inputs = observation.inputs
    if steps is None:
        return None
    whole = torch.full((inputs.batch,), inputs.steps, dtype=torch.long, device="cpu")
    at = (whole if inputs.lengths is None else inputs.lengths) - 1 + by[id(inputs)]
    at = at.clamp_max(inputs.steps - 1) if held else at
    if bool((at < 0).any()):
        return None
    rows = torch.arange(inputs.batch, device="cpu")
    return {name: value[:, :, at, rows] for name, value in steps.items()}


# the step before ----------------------------------------------------------------------------------


def _step_before(model: Model, names: Sequence[str]) -> Finding:
    def gives(observation: Observation) -> Outcome | None:
        [outcome] = observation.simulator.run([model])
        if outcome is None:
            return None
        steps = dict(outcome.steps)
        for name in names:
            steps[name] = _delayed(model, steps[name], observation.inputs.initial[name])
        return replace(outcome, steps=steps)

    which, first = enumerated(names), names[0]
    verb = "is that" if len(names) == 1 else "are those"
    words = Words(
        f"the recorded {which} {verb} of the step before",
        f"what is called {first} at time t is {first}_t, after the step; yours is {first}_(t-1).",
        f'record["{first}"].append({first})   # once the step has computed it',
    )
    return Finding(Cause("recorded_before", tensors=", ".join(names)), words, gives=gives)


def _delayed(model: Model, value: Tensor, initial: Tensor) -> Tensor:
    """Each state one step late, the initial one first, (layer, direction, time, batch, unit)."""
    late = torch.cat([initial.unsqueeze(2), value[:, :, :-1]], 2)
    early = torch.cat([value[:, :, 1:], initial.unsqueeze(2)], 2)
    backward = [part.backward for part in model.parts[0]]
    return torch.stack([(early if b else late)[:, d] for d, b in enumerate(backward)], 1)
