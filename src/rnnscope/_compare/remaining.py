"""What can be said where nothing explains it: what agrees, and where the rest lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.candidate.subject import turned
from rnnscope._compare.facts.agreement import listed
from rnnscope._compare.facts.cells import with_cells
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model, Part, PartIndex
from rnnscope._compare.model.observed import Observation, distance, predicted
from rnnscope._compare.model.single_steps import opened
from rnnscope._compare.model.steps import OpenedPart, Steps, opened_parts, tolerances
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    Previous,
    Product,
    Project,
    Quantity,
    Sum,
    leaves,
)

__all__ = ["not_numbers", "what_holds"]


MOST = 4
"""Steps that differ that are named."""

AGREES = "every single step agrees."
ALONE = "one step from states that are given agrees."


def what_holds(
    model: Model, observations: Sequence[Observation], main: Observation
) -> tuple[str, ...]:
    """Sentences on what agrees and which units do not, as far as single steps tell; places are
    those of the call ``main``, of which the verdict speaks."""
    output_sentences = _beside_the_output(model, observations)
    if output_sentences:
        return tuple(output_sentences)  # every step is right: what is returned beside it is not
    sentences = _of_steps(
        model, [_consistent(model, observation) for observation in observations], main
    )
    return (*sentences, *_by_initial(model, observations), *_rows_in_order(model, main))


# which calls, and which rows ---------------------------------------------------------------------


def _by_initial(model: Model, observations: Sequence[Observation]) -> list[str]:
    """A sentence where calls with initial states agree and those without do not, or the other way
    round."""
    agree = {
        given: {worst(model, [o]) <= 1 for o in observations if o.inputs.given == given}
        for given in (True, False)
    }
    if agree[True] == {True} and agree[False] == {False}:
        return [
            "where initial states are given it agrees, and where none are given it does not: does "
            "it start from zeros then?"
        ]
    if agree[True] == {False} and agree[False] == {True}:
        return [
            "where no initial states are given it agrees, and where they are it does not: how are "
            "they used?"
        ]
    return []


def _rows_in_order(model: Model, observation: Observation) -> list[str]:
    """A sentence where every row of the output is another row of the reference."""
    [outcome] = observation.simulator.run([model])
    output = observation.output
    if outcome is None or output is None or outcome.output.shape != output.shape:
        return []
    order = _matched(
        outcome.output.transpose(0, 1), output.transpose(0, 1), _most(observation, "output")
    )
    if order == sorted(order):
        return []
    kind = model.structure.kind
    return [f"the rows of your output are those of {kind} in the order {_list(order)}."]


def _most(observation: Observation, name: str) -> float:
    """The most that rounding allows."""
    finite = observation.allowed[name][torch.isfinite(observation.allowed[name])]
    return float(finite.max()) if len(finite) else 0.0


def _matched(rows: Tensor, returned_rows: Tensor, allowed: float) -> list[int]:
    """For each row that was seen the one that it is of ``rows``, each once; else empty."""
    order: list[int] = []
    for row in returned_rows:
        same = (distance(rows, row.expand_as(rows)) <= allowed).flatten(1).all(1).nonzero()
        if len(same) != 1:
            return []
        order.append(int(same))
    return order if len(set(order)) == len(order) else []


def not_numbers(model: Model, observations: Sequence[Observation]) -> str:
    """A sentence on NaN and infinities where the reference has numbers."""
    kind = model.structure.kind
    for observation in observations:
        for name, lost in observation.lost(model):
            count = int(lost.sum())
            if count:
                be, those = ("is", "that") if count == 1 else ("are", "those")
                return (
                    f"{count} of {lost.numel()} numbers of {name} {be} NaN or infinite where "
                    f"{those} of {kind} {be} not."
                )
    return ""


# where the output agrees -------------------------------------------------------------------------


def _beside_the_output(model: Model, observations: Sequence[Observation]) -> list[str]:
    """Sentences on what differs although every output agrees; none where an output does not."""
    units: dict[str, set[int]] = {}  # that differ
    for observation in observations:
        for name, beyond in observation.beyond(model):
            if beyond is None:
                return []
            wrong = beyond.flatten(0, -2).any(0).nonzero().flatten().tolist()
            units.setdefault(name, set()).update(wrong)
    differing = [name for name, wrong in units.items() if wrong]
    if "output" not in units or "output" in differing or not differing:
        return []
    sentences = [f"The output agrees; {_joined(differing)} do{'es' * (len(differing) == 1)} not."]
    return sentences + _instead(model, observations, {name: units[name] for name in differing})


Reading = Callable[[Tensor], Tensor | None]


def _instead(
    model: Model, observations: Sequence[Observation], differing: Mapping[str, set[int]]
) -> list[str]:
    """What stands there: the numbers of another name, other rows, or few units that are wrong."""
    kind = model.structure.kind
    outcomes = (observation.simulator.run([model])[0] for observation in observations)
    values = [predicted(outcome) for outcome in outcomes if outcome is not None]

    calls = {
        name: [(o, v) for o, v in zip(observations, values, strict=True) if name in o.targets()]
        for name in differing
    }

    def holds(name: str, source: str, as_read: Reading = Tensor.detach) -> bool:
        return all(_fits(o, name, as_read(v[source])) for o, v in calls[name])

    sources = {
        name: next((n for n in calls[name][0][1] if n != name and holds(name, n)), "")
        for name in differing
    }
    said: dict[str, list[str]] = {}
    for name, units in differing.items():
        source, order = sources[name], _order_of_rows(calls[name], name)
        if source and sources.get(source) == name:
            pair = _joined([n for n in differing if n in (name, source)])
            text = f"The names {pair} are exchanged: each holds the numbers of the other."
            said[text] = []
        elif source:
            said.setdefault(f"{{}} the numbers that {kind} has in {source}.", []).append(name)
        elif order:
            text = f"{{}} the rows of {kind} in the order {_list(order)}."
            said.setdefault(text, []).append(name)
        elif name.endswith("_n") and holds(name, name, _batch_first):
            said.setdefault("{} what agrees if it is read batch first.", []).append(name)
        elif len(units) <= max(1, calls[name][0][1][name].shape[-1] // 4):
            which = listed("unit", sorted(units))
            said[f"In {name} only {which} differ{'s' * (len(units) == 1)}."] = []
    return [
        text.format(f"{_joined(names)} hold{'s' * (len(names) == 1)}")
        for text, names in said.items()
    ]


def _fits(observation: Observation, name: str, value: Tensor | None) -> bool:
    """Whether what came back under a name is these numbers."""
    target, real = observation.targets()[name], observation.inside(name)
    if value is None or value.shape != target.shape:
        return False
    away = distance(value, target) * (1 if real is None else real)
    return bool((away <= _most(observation, name)).all())


def _order_of_rows(
    calls: Sequence[tuple[Observation, Mapping[str, Tensor]]], name: str
) -> list[int]:
    """The reference's rows of a final state in the order in which they came back, where each is
    found once."""
    if not name.endswith("_n") or calls[0][1][name].shape[:2].numel() == 1:
        return []
    orders = [
        _matched(v[name].flatten(0, 1), o.targets()[name].flatten(0, 1), _most(o, name))
        for o, v in calls
    ]
    return orders[0] if all(order == orders[0] for order in orders) else []


def _batch_first(value: Tensor) -> Tensor | None:
    """A state of as many rows as sequences with the two exchanged; None of any other."""
    return turned(value) if value.shape[:2].numel() == value.shape[2] else None


# single steps ------------------------------------------------------------------------------------


def _consistent(model: Model, observation: Observation) -> Observation:
    """Without the final states of a single step that are not its output: they may be other ones,
    or stand elsewhere."""
    h, output = observation.final.get("h"), observation.output
    if h is None or output is None or observation.inputs.steps != 1:
        return observation
    last = h[-1].permute(1, 0, 2).flatten(1)  # (batch, direction × unit)
    if last.shape != output[0].shape:
        return observation
    same = bool((distance(last, output[0]) <= 8 * observation.unit).all())
    return observation if same else replace(observation, final={})


def _of_steps(model: Model, observations: Sequence[Observation], main: Observation) -> list[str]:
    """Of every part of which single steps are known; what is the same of several is said once."""
    kind = model.structure.kind
    premise = "fed with your own state of the step before"
    said: dict[str, list[PartIndex]] = {}
    sizes: dict[str, float] = {}
    main_parts = {place: with_cells(part) for place, part in opened_parts(model, [main]).items()}
    for place, part in sorted(opened_parts(model, observations).items()):
        part = with_cells(part)
        zero = _first_step_from_zero(part, observations)
        inputs_right = zero is not None and zero[0] <= 1
        if zero is not None and inputs_right:
            text = (
                "with zero initial states the first step agrees ({size:.1e}): the input weights "
                f"and biases are right{_unseen_gates(part)}."
            )
            said.setdefault(text, []).append(place)
            sizes[text] = max(sizes.get(text, 0.0), zero[1])
        few = _few_steps(main_parts[place]) if place in main_parts else ""
        text = _of_part(part, premise, inputs_right, few, kind)
        said.setdefault(text, []).append(place)
    sentences = [
        _where(model, places) + text.format(size=sizes.get(text)) for text, places in said.items()
    ]
    whole = sum(map(len, model.parts))
    alone = len(said.get(ALONE, ()))
    if len(said.get(AGREES, ())) + alone == whole > 1:
        finding = "one step of each is right" if alone else "each computes what it should"
        carried = "what is carried on, " if alone else ""
        sentences.append(
            f"so {finding}: what differs is {carried}what it is given, in which order it takes the "
            f"steps, or how the results are joined."
        )
    return sentences


def _of_part(part: OpenedPart, premise: str, inputs_right: bool, few: str, kind: str) -> str:
    """What the single steps of one layer in one direction tell."""
    ratios = part.units(part.part)
    wrong = (ratios > 1).nonzero().flatten().tolist()
    one_step = _one_step(part) if len(wrong) == len(ratios) > 1 else None
    if not wrong:
        differing = [name for name, ratio in part.states().items() if ratio > 1]
        sentence = f"{premise}, one step of {kind} gives another {_joined(differing)}."
        several = any(len(steps.known.x) > 1 for steps in part.steps)
        return sentence if differing else AGREES if several else ALONE
    if _starts_from_zeros(part):
        return "every single step agrees if it starts from zeros: are the initial states used?"
    if one_step == "first":
        return "every single step agrees but the first: did it start from other initial states?"
    if one_step == "last":
        return "every single step agrees but the last: is it computed?"
    if few and len(wrong) <= max(1, len(ratios) // 4):
        # a weight would show at every step
        return f"{premise}, only {_units_that_differ(wrong)}, and {few}."
    if len(wrong) <= max(1, len(ratios) // 4):
        return _units(part, premise, wrong, inputs_right)
    if few:
        return f"{premise}, {few}."
    return (
        f"{premise}, one step of {kind} gives other numbers in {len(wrong)} of {len(ratios)} units."
    )


def _where(model: Model, places: Sequence[PartIndex]) -> str:
    """Layers and directions in words, before what is said of them."""
    names, layers = model.structure.directions, model.num_layers
    if layers * len(names) == 1:
        return ""
    if len(places) < layers * len(names):
        whole = [n for n in range(layers) if all((n, d) in places for d in range(len(names)))]
        words = [f"layer {n}" for n in whole]
        words += [f"layer {n} {names[d]}" for n, d in places if n not in whole]
        return f"{_joined(words)}: "
    if len(names) == 1:
        return "every layer: "
    return "both directions: " if layers == 1 else "every layer and direction: "


def _starts_from_zeros(part: OpenedPart) -> bool:
    """Whether every step agrees if it is the initial states that are zero."""
    zeroed: list[Steps] = []
    for steps in part.steps:
        known = steps.known
        if known.valid is not None:
            return False
        initial = {name: torch.zeros_like(value) for name, value in known.initial.items()}
        before = {
            name: torch.cat([torch.zeros_like(value[:1]), value[1:]])
            for name, value in known.before.items()
        }
        zeroed.append(replace(steps, known=replace(known, before=before, initial=initial)))
    return replace(part, steps=tuple(zeroed)).largest()[0] <= 1


def _unseen_gates(part: OpenedPart) -> str:
    """Of a first step from zeros, what it does not show."""
    gates = _of_the_state(part.part)
    if not gates:
        return ""
    scale = "scales" if len(gates) == 1 else "scale"
    return (
        f", but for those of {_joined(gates)}, which {scale} what comes of a state of zeros there"
    )


def _of_the_state(part: Part) -> list[str]:
    """Gates that scale nothing but what comes of the state before: f of an LSTM, r of a GRU."""
    equations = part.cell.equations.values()
    return [
        gate
        for gate in part.cell.gates
        if gate in part.cell.equations
        and gate not in part.cell.states
        and all(_scales_the_state(equation, Quantity(gate)) for equation in equations)
    ]


def _scales_the_state(expr: Expr, gate: Quantity) -> bool:
    """Whether a gate, wherever it stands in an equation, multiplies what comes of the state."""
    match expr:
        case Product(left, right) if gate in (left, right):
            factor = right if left == gate else left
            return all(isinstance(leaf, Previous | FromH) for leaf in leaves(factor))
        case Sum(left, right) | Product(left, right):
            return _scales_the_state(left, gate) and _scales_the_state(right, gate)
        case Apply(_, argument):
            return _scales_the_state(argument, gate)
        case FromH(_, of) | Project(of):
            return _scales_the_state(of, gate)
    return expr != gate


def _differing(part: OpenedPart) -> Iterator[Tensor]:
    """Call by call which single steps of which rows differ, (time, batch), in the order of
    computing."""
    for call in part.ratios(part.part):
        yield torch.stack([ratio.amax(-1) for ratio in call]).amax(0) > 1


def _one_step(part: OpenedPart) -> str | None:
    """Which step is the only one that differs, the first or the last, in all calls of several."""
    places: set[str] = set()
    for differs in _differing(part):
        wrong = differs.any(1).nonzero().flatten().tolist()
        if len(wrong) > 1 or (wrong and 0 < wrong[0] < len(differs) - 1):
            return None
        if wrong and len(differs) > 2:
            places.add("last" if wrong[0] else "first")
    return places.pop() if len(places) == 1 else None


def _few_steps(part: OpenedPart) -> str:
    """Which steps of which rows differ, where they are few of many; else empty."""
    differing: list[str] = []
    wrong = total = 0
    for steps, differs in zip(part.steps, _differing(part), strict=True):
        valid = steps.known.valid
        total += differs.numel() if valid is None else int(valid.sum())
        wrong += int(differs.sum())
        last = len(differs) - 1
        differing += [
            f"time {last - t if part.part.backward else t} of row {row}"
            for t, row in differs.nonzero().tolist()
        ]
    if not 0 < wrong <= total // 4:
        return ""
    places = list(dict.fromkeys(differing))
    more = f" and {len(places) - MOST} more" if len(places) > MOST else ""
    verb = "differs" if wrong == 1 else "differ"
    return f"only {', '.join(places[:MOST])}{more} {verb}; all other single steps agree"


def _first_step_from_zero(
    part: OpenedPart, observations: Sequence[Observation]
) -> tuple[float, float] | None:
    """The worst ratio and difference of first steps from zero states, where there are any."""
    worst: tuple[float, float] | None = None
    for steps in part.steps:
        if any(bool(value.any()) for value in steps.known.initial.values()):
            continue
        values = opened([part.part], steps.known, steps.after)
        tolerance = tolerances(part.part, steps)
        for name, state in steps.after.items():
            away = distance(values[name][0], state)
            ratio = float((away / tolerance[name])[0].max())
            pair = (ratio, float(away[0].max()))
            worst = pair if worst is None or ratio > worst[0] else worst
    return worst


def _units(part: OpenedPart, premise: str, wrong: Sequence[int], inputs_right: bool) -> str:
    weights = part.part.weights
    units = _units_that_differ(wrong)
    rows = [
        gate * weights.hidden_size + unit
        for gate in range(len(part.part.cell.gates))
        for unit in wrong
    ]
    names = [f"weight_hh{weights.suffix}"]
    inputs = [f"weight_ih{weights.suffix}"] + ["the biases"] * (weights.b_ih is not None)
    gates = list(part.part.cell.gates)
    hidden = [
        gates.index(gate) * weights.hidden_size + unit
        for gate in _of_the_state(part.part)
        for unit in wrong
    ]
    also = ""
    if not inputs_right:
        names = [inputs[0], *names, *inputs[1:]]
    elif hidden:
        also = f", and at {listed('row', sorted(hidden))} of {_joined(inputs)}"
    only = "only " if len(rows) < len(weights.hh) else ""
    return (
        f"{premise}, {only}{units}: look at {listed('row', sorted(rows))} of "
        f"{_joined(names)}{also}."
    )


def _units_that_differ(wrong: Sequence[int]) -> str:
    return f"{listed('unit', sorted(wrong))} differ{'s' * (len(wrong) == 1)}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
