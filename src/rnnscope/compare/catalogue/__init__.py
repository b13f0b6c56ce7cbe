"""The mistakes that people make, each a declared change of the model.

A new mistake is one ``Entry`` in one of the tuples joined here.
"""

from rnnscope.compare.catalogue.entry import Entry, Words
from rnnscope.compare.catalogue.equations import EQUATIONS
from rnnscope.compare.catalogue.returned import RETURNED
from rnnscope.compare.catalogue.states import STATES
from rnnscope.compare.catalogue.time import TIME
from rnnscope.compare.catalogue.updates import UPDATES
from rnnscope.compare.catalogue.weights import WEIGHTS
from rnnscope.compare.catalogue.wiring import WIRING
from rnnscope.compare.cause import Cause
from rnnscope.compare.model import Model

__all__ = ["CATALOGUE", "Entry", "Words", "applied", "causes"]

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (*WEIGHTS, *EQUATIONS, *UPDATES, *STATES, *TIME, *WIRING, *RETURNED)
}
"""Every entry by name, in the order in which several are applied."""

_ORDER = {name: k for k, name in enumerate(CATALOGUE)}


def causes(model: Model, scoped: bool = True) -> list[Cause]:
    """Every cause that applies to a model; with ``scoped`` at every layer and direction."""
    found = [c for entry in CATALOGUE.values() for c in entry.causes(model, scoped)]
    return [cause for cause in found if applied(model, (cause,)) is not None]


def applied(model: Model, together: tuple[Cause, ...]) -> Model | None:
    """The model with these mistakes, in the catalogue's order; None where one does not apply."""
    for cause in sorted(together, key=lambda cause: (_ORDER[cause.name], str(cause))):
        changed = CATALOGUE[cause.name].apply(model, cause)
        if changed is None:
            return None
        model = changed
    return model
