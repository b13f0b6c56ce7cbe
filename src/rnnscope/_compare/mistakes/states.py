"""Mistakes with the states: where they start, whether they are carried, what is fed back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.mistakes.gates import confusable, confuse
from rnnscope._compare.mistakes.weights import forget_gates, scaled_biases
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Change, Inputs, Model, Part

__all__ = ["STATES"]

States = Mapping[str, Tensor]


def _initial(
    change: Callable[[States, Cause], States | None],
) -> Callable[[Model, Cause], Model]:
    """An entry's change of the initial states, (layer, direction, batch, unit) each."""

    def on(model: Model, cause: Cause) -> Model:
        def changed(inputs: Inputs) -> Inputs | None:
            states = change(inputs.initial, cause)
            if states is None:
                return None
            # of a run that starts from zeros nobody sees what was given
            given = inputs.given and any(bool(value.any()) for value in states.values())
            return replace(inputs, initial=states, given=given)

        return model.adding("enter", Change((cause.name, cause.choice), changed))

    return on


def _ignored(model: Model) -> Iterator[Choice]:
    yield "all", ""
    if len(model.structure.cell.states) > 1:
        yield from ((state, "") for state in model.structure.cell.states)
    if model.num_layers > 1:
        yield "upper", ""


def _ignore(states: States, cause: Cause) -> States:
    if cause.choice == "upper":
        return {
            name: torch.cat([value[:1], torch.zeros_like(value[1:])])
            for name, value in states.items()
        }
    return {
        name: torch.zeros_like(value) if cause.choice in ("all", name) else value
        for name, value in states.items()
    }


def _ignored_words(cause: Cause, model: Model) -> Words:
    names = [f"{s}_0" for s in model.structure.cell.states]
    if cause.choice == "upper":
        return Words(
            "layers above the first start from zeros",
            "each has its own rows of h_0.",
            _row(model),
        )
    state_names = " and ".join(names) if cause.choice == "all" else f"{cause.choice}_0"
    return Words(
        f"{state_names} not used",
        "the run starts from zeros instead.",
        f"start from the given {state_names}",
    )


def _exchangeable(model: Model) -> Iterator[Choice]:
    states = model.structure.cell.states
    if len(states) == 2 and len({model.structure.state_size(s) for s in states}) == 1:
        yield "", ""
        yield from ((state, "") for state in states)


def _exchange(states: States, cause: Cause) -> States:
    if cause.choice:
        return dict.fromkeys(states, states[cause.choice])
    first, second = states
    return {first: states[second], second: states[first]}


def _many(model: Model) -> Iterator[Choice]:
    if model.num_layers * model.num_directions > 1:
        yield "", ""


def _batch_first(states: States, cause: Cause) -> States | None:
    layers, directions, batch = states["h"].shape[:3]
    if layers * directions != batch:
        return None
    return {
        name: value.flatten(0, 1).transpose(0, 1).reshape(layers, directions, batch, -1)
        for name, value in states.items()
    }


def _reshaped(states: States, cause: Cause) -> States | None:
    layers, directions, batch = states["h"].shape[:3]
    if batch == 1:
        return None
    if cause.choice == "back":
        return {
            name: value.flatten(0, 1).transpose(0, 1).reshape(layers, directions, batch, -1)
            for name, value in states.items()
        }
    return {
        name: value.reshape(batch, layers * directions, -1)
        .transpose(0, 1)
        .reshape(layers, directions, batch, -1)
        for name, value in states.items()
    }


def _reshapes(model: Model) -> Iterator[Choice]:
    if model.num_layers * model.num_directions > 1:
        yield from (("", ""), ("back", ""))


def _firsts(model: Model) -> Iterator[Choice]:
    if model.num_layers * model.num_directions > 1:
        yield "part", ""
        if model.num_directions > 1 and model.num_layers > 1:
            yield "layer", ""
        if len(model.structure.cell.states) > 1:
            yield from ((state, "") for state in model.structure.cell.states)


def _only_first(states: States, cause: Cause) -> States:
    if cause.choice in states:
        return {
            **states,
            cause.choice: states[cause.choice][:1, :1].expand_as(states[cause.choice]),
        }
    if cause.choice == "part":
        return {name: value[:1, :1].expand_as(value) for name, value in states.items()}
    return {name: value[:1].expand_as(value) for name, value in states.items()}


def _grid(model: Model) -> Iterator[Choice]:
    if model.num_layers > 1 and model.num_directions > 1:
        yield from (("", ""), ("added", ""))
    if model.num_layers > 1:
        yield "layers", ""
    if model.num_directions > 1:
        yield "directions", ""


def _reorder(states: States, cause: Cause) -> States:
    if cause.choice == "added":
        layers, directions = states["h"].shape[:2]
        rows = torch.arange(layers, device="cpu")[:, None] + torch.arange(directions, device="cpu")
        return {name: value.flatten(0, 1)[rows] for name, value in states.items()}
    if cause.choice:
        axis = ("layers", "directions").index(cause.choice)
        return {name: value.flip(axis) for name, value in states.items()}
    return {
        name: value.reshape(value.shape[1], value.shape[0], *value.shape[2:]).transpose(0, 1)
        for name, value in states.items()
    }


def _row(model: Model) -> str:
    if model.num_directions == 1:
        return "h = h_0[layer]"
    return f"h = h_0[layer * {model.num_directions} + direction]"


def _initial_words(cause: Cause, model: Model) -> Words:
    order = "(layers × directions, batch, hidden), batch_first or not"
    match cause.name, cause.choice:
        case "initial_exchanged", state if state:
            target = next(s for s in model.structure.cell.states if s != state)
            return Words(
                f"{target} starts from {state}_0", "the tuple is (h_0, c_0).", "h, c = initial"
            )
        case "initial_exchanged", _:
            return Words("h_0 and c_0 exchanged", "the tuple is (h_0, c_0).", "h, c = initial")
        case "initial_batch_first", _:
            return Words(
                "the initial state is read batch first", f"it is {order}.", "h = h_0[layer]"
            )
        case "initial_reshaped", "back":
            return Words(
                "the initial state is reshaped from (batch, layers × directions, hidden)",
                f"it is {order}; reshape scrambles it.",
                "h = h_0[layer]   # of h_0.transpose(0, 1), where batch comes first",
            )
        case "initial_reshaped", _:
            return Words(
                "the initial state is reshaped to (batch, layers × directions, hidden)",
                f"it is {order}; reshape scrambles it.",
                "h = h_0[layer]   # or h_0.transpose(0, 1)",
            )
        case "initial_first", "part":
            firsts = " and ".join(f"{s}_0[0]" for s in model.structure.cell.states)
            return Words(
                f"every layer and direction starts from {firsts}",
                "each has its own row of h_0.",
                _row(model),
            )
        case "initial_first", state if state in model.structure.cell.states:
            return Words(
                f"every layer and direction takes {state} from {state}_0[0]",
                f"each has its own row of {state}_0.",
                _row(model).replace("h", state, 1).replace("h_0", f"{state}_0"),
            )
        case "initial_first", _:
            return Words(
                "every layer starts from the initial states of layer 0",
                "each has its own rows of h_0.",
                _row(model),
            )
    if cause.choice == "layers":
        return Words(
            "the layers of the initial states are in the opposite order",
            "layer 0 comes first.",
            _row(model),
        )
    if cause.choice == "directions":
        return Words(
            "the directions of the initial states are exchanged",
            "in each layer forward comes first.",
            _row(model),
        )
    if cause.choice == "added":
        return Words(
            "the rows of h_0 are read as h_0[layer + direction]",
            "h_0 lies layer by layer, the directions of a layer next to each other.",
            _row(model),
        )
    return Words(
        "the rows of h_0 are read direction by direction",
        "h_0 lies layer by layer, the directions of a layer next to each other.",
        _row(model),
    )


# the first step, and what is carried ---------------------------------------------------------


def _carryable(model: Model) -> Iterator[Choice]:
    if any(True for _ in confusable(model)):
        yield "", ""


def _carry_exchanged(model: Model, cause: Cause) -> Model | None:
    """With h in c's place at every step but the first: at every step, and before all too, which
    puts the initial states right."""
    parts = {
        (layer, d): confuse(part, replace(cause, choice="both"))
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
    }
    changed = {place: part for place, part in parts.items() if part is not None}
    if len(changed) < len(parts):
        return None
    return _initial(_exchange)(model.with_parts(changed), cause)


def _carried_words(cause: Cause, model: Model) -> Words:
    return Words(
        "h and c are exchanged from one step to the next",
        "the first step takes them in order, and hands them on in the other one.",
        "return (h, c)   # in the order in which the step takes them",
    )


def _first_choices(model: Model) -> Iterator[Choice]:
    part = model.parts[0][0]
    if part.weights.b_hh is None:
        return
    yield from ((gate, "") for gate in scaled_biases(part))
    yield "all", ""


def _skip_first(part: Part, cause: Cause) -> Part | None:
    b_hh = part.parameter("b_hh")
    if b_hh is None:
        return None
    first = (b_hh if part.first_b_hh is None else part.first_b_hh).clone()
    if cause.choice == "all":
        first = torch.zeros_like(first)
    else:
        first[part.stored.rows(cause.choice)] = 0
    return part.marked(cause.name, cause.choice, first_b_hh=first)


def _first_words(cause: Cause, model: Model) -> Words:
    bias = "b_hh" if cause.choice == "all" else f"b_h{cause.choice}"
    return Words(
        f"{bias} is skipped at the first step",
        "also where the state before is zero, W_hh h + b_hh is not: b_hh is left.",
        "h @ W_hh.T + b_hh at every step",
    )


def _always(model: Model) -> Iterator[Choice]:
    yield "", ""


def _forgotten(model: Model) -> Iterator[Choice]:
    yield "", ""
    if len(model.structure.cell.states) > 1:
        yield from ((state, "") for state in model.structure.cell.states)


def _never(part: Part, cause: Cause) -> Part:
    restarts = frozenset({cause.choice} if cause.choice else part.cell.states)
    return part.marked(cause.name, cause.choice, restarts=restarts)


def _never_words(cause: Cause, model: Model) -> Words:
    if cause.choice:
        return Words(
            f"{cause.choice} is never carried on",
            f"every step takes {cause.choice} from the initial state.",
            "h, c = step(x[t], (h, c))   # and use both in the next step",
        )
    return Words(
        "the state is never carried on",
        "every step starts from the initial state.",
        "h = step(x[t], h)   # and use this h in the next step",
    )


FEW = 64
"""Units up to which it is tried whether a state is overwritten unit by unit."""


def _overwritable(model: Model) -> Iterator[Choice]:
    part = model.parts[0][0]
    if 1 < part.stored.hidden_size <= FEW and separable(part.cell):
        yield "", ""


def _overwrite(model: Model, cause: Cause) -> Model:
    return model.with_parts(
        {
            (layer, d): part.marked(cause.name, in_place=True)
            for layer, row in enumerate(model.parts)
            for d, part in enumerate(row)
        }
    )


def _overwritten_words(cause: Cause, model: Model) -> Words:
    return Words(
        "the state is overwritten while the step still reads it",
        "each unit reads the new h of the units before it; all read the h of the step before.",
        "new[k] = ... for every unit k; then h = new",
    )


def _chain(model: Model, cause: Cause) -> Model:
    def alone(inputs: Inputs) -> Inputs | None:
        return inputs if inputs.batch > 1 else None

    return replace(model.adding("enter", Change((cause.name,), alone)), rows="chained")


def _chained_words(cause: Cause, model: Model) -> Words:
    return Words(
        "each row starts where the row before ended",
        "the rows of a batch are separate sequences.",
        "h = h_0[:, row] before each row",
    )


# projection and what is handed on ------------------------------------------------------------


def _projecting(model: Model) -> Iterator[Choice]:
    if model.structure.cell.projected:
        yield from (("not_fed_back", ""), ("skipped", ""), ("unused", ""))


def _unproject(model: Model, cause: Cause) -> Model | None:
    source = next(
        (
            name
            for name in model.structure.cell.equations
            if name not in model.structure.cell.gates and name not in model.structure.cell.states
        ),
        None,
    )
    if source is None or (cause.choice != "not_fed_back" and cause != cause.everywhere()):
        return None  # what is returned is skipped as a whole
    if cause.choice == "unused" and model.num_layers > 1:
        return None  # the layer above reads as many numbers as the projection gives
    changed: dict[tuple[int, int], Part] = {}
    for layer, row in enumerate(model.parts):
        for d, part in enumerate(row):
            if cause.choice == "not_fed_back":
                if cause.layer not in (None, layer):
                    continue
                if cause.direction not in (None, model.structure.directions[d]):
                    continue
                changed[layer, d] = part.marked(cause.name, cause.choice, feeds=source)
            elif cause.choice == "unused":
                unprojected = {"feeds": source, "emits": source, "ends": source}
                changed[layer, d] = part.marked(cause.name, cause.choice, **unprojected)
            elif layer == model.num_layers - 1:
                # of several layers h_n stays as it is: the sizes would differ from layer to layer
                ends = source if model.num_layers == 1 else part.ends
                changed[layer, d] = part.marked(cause.name, cause.choice, emits=source, ends=ends)
    return model.with_parts(changed)


def _projection_words(cause: Cause, model: Model) -> Words:
    if cause.choice == "unused":
        return Words(
            "the projection is not used, neither in what is returned nor in what is fed back",
            "with proj_size h is W_hr (o × tanh(c)), which W_hh multiplies in the next step.",
            "h = (o * tanh(c)) @ W_hr.T",
        )
    if cause.choice == "skipped":
        return Words(
            "the projection is skipped",
            "with proj_size the output is W_hr (o × tanh(c)).",
            "h = (o * tanh(c)) @ W_hr.T",
        )
    return Words(
        "the projected state is not fed back",
        "W_hh multiplies the projected h of the step before.",
        "h = (o * tanh(c)) @ W_hr.T   # and this h in the next step",
    )


def _emitted(model: Model) -> Iterator[Choice]:
    if forget_gates(model.parts[0][0]) and not model.structure.cell.projected:
        yield from ((s, "") for s in model.structure.cell.states if s != "h")


def _emit(part: Part, cause: Cause) -> Part:
    return part.marked(cause.name, cause.choice, emits=cause.choice)


def _emitted_words(cause: Cause, model: Model) -> Words:
    return Words(
        f"{cause.choice} is returned in place of h",
        "the output is h at every step.",
        "outputs.append(h)",
    )


STATES = (
    Entry(
        "initial_ignored",
        "the initial states",
        "global",
        _ignored,
        _ignored_words,
        model=_initial(_ignore),
    ),
    Entry(
        "initial_exchanged",
        "the initial states",
        "global",
        _exchangeable,
        _initial_words,
        model=_initial(_exchange),
    ),
    Entry(
        "initial_batch_first",
        "the initial states",
        "global",
        _many,
        _initial_words,
        model=_initial(_batch_first),
    ),
    Entry(
        "initial_reshaped",
        "the initial states",
        "global",
        _reshapes,
        _initial_words,
        model=_initial(_reshaped),
    ),
    Entry(
        "initial_first",
        "the initial states",
        "global",
        _firsts,
        _initial_words,
        model=_initial(_only_first),
    ),
    Entry(
        "initial_order",
        "the initial states",
        "global",
        _grid,
        _initial_words,
        model=_initial(_reorder),
    ),
    Entry(
        "carried_exchanged",
        "the carried state",
        "global",
        _carryable,
        _carried_words,
        model=_carry_exchanged,
        concerns=("the cell state",),
        exactly="At every step but the first h stands in c's place and c in h's; searched where "
        "initial states are not zero, else it is `confused both`.",
    ),
    Entry("first_bias", "b_ih and b_hh", "parts", _first_choices, _first_words, _skip_first),
    Entry("never_carried", "the carried state", "parts", _forgotten, _never_words, _never),
    Entry(
        "in_place",
        "the states within a step",
        "global",
        _overwritable,
        _overwritten_words,
        model=_overwrite,
        alone=True,
        concerns=("the carried state",),
        exactly="Unit k is computed from the new h of units 0 to k - 1, the old h of the others.",
    ),
    Entry("rows_chained", "the rows of the batch", "global", _always, _chained_words, model=_chain),
    Entry(
        "projection", "the projection", "parts", _projecting, _projection_words, model=_unproject
    ),
    Entry("emitted", "the output", "layer", _emitted, _emitted_words, _emit),
)
