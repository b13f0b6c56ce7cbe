"""Right numbers at other places: outputs, final and recorded states of other axes, rows, steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated
from rnnscope._compare.facts.finding import Finding, Gives, returning, runs_forward
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.simulate import Simulator
from rnnscope._layers.sequences import shifted

__all__ = ["of_finals", "of_places"]

Axes = tuple[int, ...]
States = Mapping[str, Tensor]
"""Each state, (layer, direction, batch, unit)."""

OUTPUT_AXES = ("time", "batch", "direction", "unit")
FINAL_AXES = ("layer", "batch", "unit")
"""Of a final state as it is returned; directions lie beside each other in the first."""

BEHIND, BEFORE = 32, 2
"""Steps behind and before a row's last one at which its final states may have been taken."""

CHUNKS = (4, 5, 8, 10, 16, 20, 25, 32)
"""Steps to which a last chunk may have been filled up."""


def _laid(cube: Tensor, order: Axes, read: Axes) -> Tensor:
    """The numbers in one order of axes, read as if they stood in another."""
    numbers = cube.permute(order).reshape([cube.shape[k] for k in read])
    return numbers.permute([read.index(k) for k in range(len(read))])


# the output ---------------------------------------------------------------------------------------


def of_places(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The orders of axes in which the reference's output has the numbers of the candidate, one
    after the other in memory."""
    one_way, units = model.num_directions == 1, model.structure.output_size
    axes = tuple(axis for axis in OUTPUT_AXES if axis != "direction" or not one_way)
    inner = (units,) if one_way else (model.num_directions, units)
    time_first = tuple(range(len(axes)))
    own = (1, 0, *time_first[2:]) if model.structure.batch_first else time_first
    swapped = (own[1], own[0], *own[2:])
    width = model.num_directions * units
    indices = [
        torch.arange(o.output.numel(), device="cpu").view(*o.output.shape[:2], *inner)
        for o in shown
        if o.output is not None and o.output.shape[-1] == width
    ]
    others = permutations(time_first) if one_way else ()
    for read, order in product(dict.fromkeys((own, swapped, *others)), permutations(time_first)):
        if all(torch.equal(_laid(numbers, order, read), numbers) for numbers in indices):
            continue  # it is no other order for these sizes

        def moved(
            outcome: Outcome, _: Observation, order: Axes = order, read: Axes = read
        ) -> Outcome:
            laid = _laid(outcome.output.reshape(*outcome.output.shape[:2], *inner), order, read)
            return replace(outcome, output=laid.reshape(outcome.output.shape))

        stored, taken = (", ".join(axes[k] for k in ks) for ks in (order, read))
        words = Words(
            "the numbers of the output stand at other places",
            f"they are those of {model.structure.kind} in the order ({stored}), read as ({taken}).",
            _put_back(indices[0].shape, order, read, own),
        )
        cause = Cause("places", ",".join(axes[k] for k in order))
        yield Finding(cause, words, gives=returning(model, moved))


def _put_back(sizes: Axes, order: Axes, read: Axes, own: Axes) -> str:
    """The line that puts an output back, which has its axes in the order ``own``."""
    first = f".transpose({', '.join(str(own.index(k)) for k in read)})"
    if read == own:
        first = ""
    elif read == (own[1], own[0], *own[2:]):
        first = ".swapaxes(0, 1)"
    places = [order.index(k) for k in own]
    line = f"np.asarray(output){first}.reshape{tuple(sizes[k] for k in order)}"
    if places != sorted(places):
        line += f".transpose({', '.join(map(str, places))})"
    if len(own) > 3:
        line += f".reshape({sizes[own[0]]}, {sizes[own[1]]}, {sizes[2] * sizes[3]})"
    return line


# final states beside an output that agrees --------------------------------------------------------


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
        yield from _other_axes(model, finals)
        yield from _other_steps(model, shown, finals)
    else:
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


def _changing(
    model: Model, names: Sequence[str], change: Callable[[Observation, str, Tensor], Tensor]
) -> Gives:
    """What the model gives with some of the final states changed."""

    def changed(outcome: Outcome, observation: Observation) -> Outcome:
        changes = {
            state: change(observation, state, value)
            for state, value in outcome.final.items()
            if f"{state}_n" in names
        }
        return replace(outcome, final={**outcome.final, **changes})

    return returning(model, changed)


def _other_rows(
    model: Model, shown: Sequence[Observation], names: Sequence[str]
) -> Iterator[Finding]:
    orders = {id(o.inputs): _order_of_rows(model, o, names[0]) for o in shown}
    moved = [order for order in orders.values() if order != sorted(order)]
    if not all(orders.values()) or not moved:
        return
    which = enumerated(names)
    words = Words(
        f"the rows of {which} are in the order {', '.join(map(str, moved[0]))}",
        "row k belongs to row k of x, as that of the output does.",
        f"{names[0]} = {names[0]}[:, inverse]   # as the output",
        f"the rows of {which} are in another order",
    )
    if all(orders[id(o.inputs)] == _by_length(o) for o in shown):
        words = replace(
            words,
            title=f"the rows of {which} are left in the order of falling length",
            sentence="they were sorted for the loop, and the output alone was put back.",
        )
    gives = _changing(model, names, lambda o, _, value: value[:, :, orders[id(o.inputs)]])
    yield Finding(Cause("final_rows", tensors=", ".join(names)), words, gives=gives)


def _by_length(observation: Observation) -> list[int]:
    """The rows of a call in the order of falling length, as they are without lengths."""
    lengths = observation.inputs.lengths
    if lengths is None:
        return list(range(observation.inputs.batch))
    order: list[int] = lengths.argsort(descending=True, stable=True).tolist()
    return order


def _order_of_rows(model: Model, observation: Observation, name: str) -> list[int]:
    """For each row of a final state the one of the reference that it is, each once; empty where
    there is no such order."""
    targets = {n: (seen, right) for n, seen, right in observation.beside(model)}
    seen, right = targets.get(name, (None, None))
    if seen is None or right is None:
        return []
    away = distance(right.unsqueeze(2), seen.unsqueeze(3)) / observation.allowed[name].max()
    same = (away <= 1).movedim((2, 3), (0, 1)).flatten(2).all(2)
    order: list[int] = same.to(torch.uint8).argmax(1).tolist()
    each_once = len(set(order)) == len(order) and bool(same.any(1).all())
    return order if each_once else []


def _other_axes(model: Model, names: Sequence[str]) -> Iterator[Finding]:
    for order, read in product(permutations(range(3)), ((0, 1, 2), (1, 0, 2))):
        if order == read:
            continue

        def laid(
            _: Observation, state: str, value: Tensor, order: Axes = order, read: Axes = read
        ) -> Tensor:
            return _laid(value.flatten(0, 1), order, read).reshape(value.shape)

        stored, taken = (", ".join(FINAL_AXES[k] for k in axes) for axes in (order, read))
        words = Words(
            f"the numbers of {enumerated(names)} stand at other places",
            f"they are those of {model.structure.kind} in the order ({stored}), read as ({taken}).",
            f"{names[0]}.swapaxes(0, 1)   # not reshape or view, to exchange two axes",
        )
        cause = Cause("final_places", f"{stored}:{taken}", ", ".join(names))
        yield Finding(cause, words, gives=_changing(model, names, laid))


def _other_steps(
    model: Model, shown: Sequence[Observation], names: Sequence[str]
) -> Iterator[Finding]:
    """Final states that were taken some steps before the last one or behind it, where x goes on
    with what stands in the padding, and then with zeros."""
    if not runs_forward(model):
        return
    runs = [_run_on(model, observation) for observation in shown]
    for choice, behind, held, words in _step_words(model, shown, names):
        places = [_steps(o, k, held) for o, k in zip(shown, behind, strict=True)]
        if not any(behind) or any(bool((at < 0).any()) for at in places):
            continue
        by_inputs = {
            id(o.inputs): (run, at) for o, run, at in zip(shown, runs, places, strict=True)
        }

        def taken(
            observation: Observation,
            state: str,
            _: Tensor,
            by_inputs: Mapping[int, tuple[States, Tensor]] = by_inputs,
        ) -> Tensor:
            steps, at = by_inputs[id(observation.inputs)]
            return steps[state][:, :, at, torch.arange(len(at), device="cpu")]

        cause = Cause("final_steps", choice, ", ".join(names))
        yield Finding(cause, words, gives=_changing(model, names, taken))


def _step_words(
    model: Model, shown: Sequence[Observation], names: Sequence[str]
) -> Iterator[tuple[str, list[int], bool, Words]]:
    """Each way to take final states, how many steps behind the last one in each call, whether no
    later than the last of x, and its words."""
    subject = f"{enumerated(names)} {'is' if len(names) == 1 else 'are'} taken"
    for chunk in CHUNKS:
        words = Words(
            f"{subject} behind the zeros that fill up the last chunk",
            f"with chunks of {chunk} steps the loop runs on over the zeros behind x; "
            f"the states of {model.structure.kind} are those after the last step of x.",
            "h_n = h   # before the loop runs on over what fills up the chunk",
        )
        yield f"chunk:{chunk}", [-o.inputs.steps % chunk for o in shown], False, words
    for more in (*range(1, BEHIND + 1), *range(-1, -BEFORE - 1, -1)):
        steps, side = f"step{'s' * (abs(more) > 1)}", "after" if more > 0 else "before"
        words = Words(
            f"{subject} {abs(more)} {steps} {side} the last one",
            "the final states of a row are those after its own last step.",
            "h = np.where(t < length, h_new, h)   # with t from 0",
        )
        yield str(more), [more] * len(shown), False, words
        yield str(more), [more] * len(shown), True, words


def _run_on(model: Model, observation: Observation) -> States:
    """The states after every step of x and of zeros behind it, (layer, direction, time, ...)."""
    inputs = observation.inputs
    behind = inputs.x.new_zeros(BEHIND, *inputs.x.shape[1:])
    longer = replace(inputs, x=torch.cat([inputs.x, behind]), lengths=None)
    [outcome] = Simulator(longer, tuple(inputs.initial)).run([model])
    assert outcome is not None, "the output agrees"
    return outcome.steps


def _steps(observation: Observation, behind: int, held: bool) -> Tensor:
    """The step so many behind each row's last one; no later than the last of x where states are
    ``held`` there."""
    inputs = observation.inputs
    whole = torch.full((inputs.batch,), inputs.steps, dtype=torch.long, device="cpu")
    at = (whole if inputs.lengths is None else inputs.lengths) - 1 + behind
    return at.clamp_max(inputs.steps - 1) if held else at


# recorded states ----------------------------------------------------------------------------------


def _step_before(model: Model, names: Sequence[str]) -> Finding:
    def delayed(outcome: Outcome, observation: Observation) -> Outcome:
        initial = observation.inputs.initial
        late = {name: _delayed(model, outcome.steps[name], initial[name]) for name in names}
        return replace(outcome, steps={**outcome.steps, **late})

    which, first = enumerated(names), names[0]
    verb = "is that" if len(names) == 1 else "are those"
    words = Words(
        f"the recorded {which} {verb} of the step before",
        f"what is called {first} at time t is {first}_t, after the step; yours is {first}_(t-1).",
        f'record["{first}"].append({first})   # once the step has computed it',
    )
    cause = Cause("recorded_before", tensors=", ".join(names))
    return Finding(cause, words, gives=returning(model, delayed))


def _delayed(model: Model, value: Tensor, initial: Tensor) -> Tensor:
    """Each state one step late, the initial one first, (layer, direction, time, batch, unit)."""
    halves = [
        shifted(value[:, d].transpose(0, 1), initial[:, d], part.backward).transpose(0, 1)
        for d, part in enumerate(model.parts[0])
    ]
    return torch.stack(halves, 1)
