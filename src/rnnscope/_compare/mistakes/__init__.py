"""The mistakes that people make, each a declared change of the model.

A new mistake is one ``Entry`` in one of the tuples joined here.
"""

from collections.abc import Iterable, Sequence

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Changed, Entry
from rnnscope._compare.mistakes.equations import EQUATIONS
from rnnscope._compare.mistakes.gates import UPDATES
from rnnscope._compare.mistakes.layers import WIRING
from rnnscope._compare.mistakes.limits import LIMITS
from rnnscope._compare.mistakes.returned import RETURNED
from rnnscope._compare.mistakes.states import STATES
from rnnscope._compare.mistakes.stored import STORED
from rnnscope._compare.mistakes.time import TIME
from rnnscope._compare.mistakes.weights import WEIGHTS
from rnnscope._compare.mistakes.words import Words
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.work import spend

__all__ = [
    "CATALOGUE",
    "CONCERNS",
    "SECTIONS",
    "Changed",
    "Entry",
    "Words",
    "applied",
    "causes",
    "changed_part",
]

SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Weights": (*STORED, *WEIGHTS),
    "Equations": (*EQUATIONS, *UPDATES, *LIMITS),
    "States": STATES,
    "Time, batch and padding": TIME,
    "Directions, layers and outputs": WIRING,
    "What is returned": RETURNED,
}
"""The entries as the page has them."""

CATALOGUE: dict[str, Entry] = {
    entry.name: entry for section in SECTIONS.values() for entry in section
}
"""Every entry by name, in the order in which several are applied."""

GATES = ("the forget gate", "the reset", "z and 1 - z", "which gate is used")

CONCERNS: dict[str, tuple[str, ...]] = {
    "gate_order": GATES,
    "other_gate": GATES,
    "update_exchanged": GATES,
    "coupled": GATES,
    "gate_unused": GATES,
    "squashed": ("the carried state",),
    "old_cell": ("the carried state",),
    "confused": ("the carried state",),
    "upper_start": ("the initial states",),
    "reverse_start": ("the initial states",),
    "reverse_forward": ("the order of time",),
    "padding": ("the final states", "the output"),
}
"""Families that a mistake concerns beside its own: a mistake of one may be written as one of the
other, so that nothing is said to be right about them."""

CONCERNS |= {entry.name: entry.concerns for entry in CATALOGUE.values() if entry.concerns}

_ORDER = {name: k for k, name in enumerate(CATALOGUE)}


def _in_order(cause: Cause) -> tuple[int, str]:
    return _ORDER[cause.name], str(cause)


def causes(
    model: Model, scoped: bool = True, observations: Sequence[Observation] = ()
) -> list[Cause]:
    """Every cause that applies to a model; with ``scoped`` at every layer and direction, and with
    ``observations`` those whose numbers are measured on them."""
    candidates = [
        c for entry in CATALOGUE.values() for c in entry.causes(model, scoped, observations)
    ]
    return [cause for cause in candidates if applied(model, (cause,)) is not None]


def applied(
    model: Model, together: tuple[Cause, ...], known: Changed | None = None
) -> Model | None:
    """The model with these mistakes, in the catalogue's order; None where one does not apply.
    ``known`` gathers changed parts, to be used again."""
    spend(sets=1)
    for cause in sorted(together, key=_in_order):
        changed = CATALOGUE[cause.name].apply(model, cause, known)
        if changed is None:
            return None
        model = changed
    return model


def changed_part(part: Part, together: Iterable[Cause], known: Changed) -> Part | None:
    """One part with mistakes of cells, in the catalogue's order; None where one does not apply."""
    spend(sets=1)
    changed: Part | None = part
    for cause in sorted(together, key=_in_order):
        if changed is None:
            return None
        changed = CATALOGUE[cause.name].changed(changed, cause, known)
    return changed
