"""Final states that hold those of another layer, direction or state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated, first_few
from rnnscope._compare.facts.finding import Finding, returning
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation, distance

__all__ = ["of_final_slots"]

MOST = 4
"""Final states that are named."""

Slot = tuple[str, int, int]
"""A state, a layer and a direction."""

Sources = dict[Slot, Slot]
"""For each final state that came back the one that it is."""


def of_final_slots(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Every final state is right or is another one, beside an output that agrees or is not
    given."""
    wrong = {
        name
        for observation in shown
        for name, beyond in observation.beyond(model)
        if beyond is None or bool(beyond.any())
    }
    if not wrong or not all(name.endswith("_n") for name in wrong):
        return
    of_calls = _sources(model, shown)
    if of_calls is None:
        return
    sources, scale = of_calls
    moved = {slot: source for slot, source in sources.items() if slot != source}
    if not moved:
        return

    def taken(outcome: Outcome, _: Observation) -> Outcome:
        changed = {name: value.clone() for name, value in outcome.final.items()}
        for (name, layer, d), (source, from_layer, from_d) in moved.items():
            changed[name][layer, d] = outcome.final[source][from_layer, from_d]
        return replace(outcome, final=changed)

    words, choice = _words(model, sources, moved)
    names = list(dict.fromkeys(f"{name}_n" for name, *_ in moved))
    yield Finding(
        Cause("final_slots", choice, ", ".join(names)),
        words,
        gives=returning(model, taken),
        scale=scale,
        measured=len(moved) * math.log10(len(model.structure.cell.states) * _count(model)),
    )


def _count(model: Model) -> int:
    """Layers in their directions."""
    return model.num_layers * model.num_directions


# which one it is ----------------------------------------------------------------------------------


def _sources(model: Model, shown: Sequence[Observation]) -> tuple[Sources, float] | None:
    """Which of the reference's final states each one is in all calls, and by how much rounding may
    be larger there; None where one is none of them."""
    outcomes = [observation.simulator.run([model])[0] for observation in shown]
    calls = [(o, outcome.final) for o, outcome in zip(shown, outcomes, strict=True) if outcome]
    names = list(dict.fromkeys(name for observation, _ in calls for name in observation.final))
    if len(calls) < len(shown) or any(set(names) - set(final) for _, final in calls):
        return None
    places = list(product(range(model.num_layers), range(model.num_directions)))
    known = [(name, *place) for name in calls[0][1] for place in places]
    sources, scale = {}, 1.0
    for name, place in product(names, places):
        slot = (name, *place)
        for source in (slot, *known):
            larger = [_larger(o, final, slot, source) for o, final in calls if name in o.final]
            if all(larger):
                sources[slot] = source
                scale = max(scale, *larger)
                break
        else:
            return None
    return sources, scale


def _larger(
    observation: Observation, final: Mapping[str, Tensor], slot: Slot, source: Slot
) -> float:
    """0 where a final state is not another one; else by how much rounding may be larger there."""
    (name, *place), (of_name, *of_place) = slot, source
    whole = observation.final[name]
    if of_name not in final or final[of_name].shape != whole.shape:
        return 0.0
    seen, right = whole[tuple(place)], final[of_name][tuple(of_place)]
    own = observation.allowed[f"{name}_n"].expand_as(whole)[tuple(place)]
    usable = torch.isfinite(own)
    if slot == source:
        return float(not bool(((distance(right, seen) > own) & usable).any()))
    its = observation.allowed.get(f"{of_name}_n", own)
    its = its.expand_as(whole)[tuple(of_place)] if its is not own else own
    wide = torch.maximum(own, its)
    if not bool(usable.any()) or bool(((distance(right, seen) > wide) & usable).any()):
        return 0.0
    ratio = float((wide / own)[usable].max())
    return ratio if math.isfinite(ratio) else 0.0


# words --------------------------------------------------------------------------------------------


def _words(model: Model, sources: Sources, moved: Sources) -> tuple[Words, str]:
    """What is said of final states that are others, and the choice."""
    which = enumerated(list(dict.fromkeys(f"{name}_n" for name, *_ in moved)))
    several = len({name for name, *_ in moved}) > 1
    hold = "hold" if several else "holds"
    for d, direction in enumerate(model.structure.directions):
        twice = {(name, layer, k): (name, layer, d) for name, layer, k in sources}
        chosen = {
            slot: twice[slot] if slot[0] in {n for n, *_ in moved} else slot for slot in twice
        }
        if model.num_directions > 1 and sources == chosen:
            missing = model.structure.directions[1 - d]
            words = Words(
                f"{which} {hold} the {direction} direction twice",
                f"the final states of {missing} are never returned; in each layer forward comes "
                f"first, then reverse.",
                "; ".join(
                    f"{name}_n = stack([{name}_forward, {name}_reverse])"
                    for name in dict.fromkeys(name for name, *_ in moved)
                ),
            )
            return words, direction
    if sources in _interleaved(model):
        each = "direction" if model.num_directions > 1 else "layer"
        words = Words(
            "the final states lie h, c, h, c, and are read as h_n, then c_n",
            f"the list [h, c] of each {each}, as Keras returns it, was cut in the middle; "
            f"h_n holds every h, c_n every c.",
            "h_n, c_n = states[0::2], states[1::2]",
        )
        return words, "interleaved"
    texts = [f"{_named(model, a)} is {_named(model, b)}" for a, b in moved.items()]
    words = Words(
        f"{which} {hold} other final states: {first_few(texts, MOST)}",
        "layer 0 comes first, in each layer forward, then reverse; the tuple is (h_n, c_n)."
        if "c" in model.structure.cell.states
        else "layer 0 comes first, in each layer forward, then reverse.",
        "h_n[layer] = h" if model.num_directions == 1 else "h_n[2 * layer + direction] = h",
        f"{which} {hold} other final states",
    )
    return words, "others"


def _named(model: Model, slot: Slot) -> str:
    """As in ``h_n[1]``."""
    name, layer, d = slot
    return f"{name}_n[{layer * model.num_directions + d}]"


def _interleaved(model: Model) -> list[Sources]:
    """What comes where h and c of each direction lie side by side, of all layers in one list or of
    each layer in a list of its own, and the first half is read as h_n."""
    states = list(model.structure.cell.states)
    if len(states) != 2 or _count(model) == 1:
        return []
    layers, directions = range(model.num_layers), range(model.num_directions)
    of_layers = [_cut_in_halves(states, list(product([layer], directions))) for layer in layers]
    together = _cut_in_halves(states, list(product(layers, directions)))
    return [together, {slot: source for part in of_layers for slot, source in part.items()}]


def _cut_in_halves(states: Sequence[str], places: Sequence[tuple[int, int]]) -> Sources:
    """What comes where both states lie side by side, place by place, and are read one after the
    other."""
    read = [(state, *place) for state in states for place in places]
    lie = [(state, *place) for place in places for state in states]
    return dict(zip(read, lie, strict=True))
