"""One number that is fitted: some parameters are multiplied by it, or it is added to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rnnscope._compare.evidence import differing
from rnnscope._compare.facts.complete import TOLD
from rnnscope._compare.facts.finding import Finding, confirmed_left
from rnnscope._compare.facts.numbers import Family, fitted_numbers, measured_numbers
from rnnscope._compare.facts.parameters import NAMES
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation, few_steps

__all__ = ["fitted_findings"]

CHANCE = 20.0
"""Decimal digits that agreement must prove beside the usual: one number is chosen freely, for some
hundred sets of parameters."""

STEPS, ROWS = 6, 4
"""First steps, where later ones do not reach back, and rows that a number is fitted to."""

LEAST = 1e-6
"""No number is smaller than this."""


def fitted_findings(model: Model, shown: Sequence[Observation]) -> Iterator[tuple[Finding, float]]:
    """The findings of one fitted number that explain everything to rounding, with what they
    leave."""
    if differing(model, shown) < TOLD:
        return
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    short = [few_steps(o, STEPS if one_way else o.inputs.steps, ROWS) for o in shown[:2]]
    for family, fitted in fitted_numbers(model, list(_families(model)), short):
        if abs(fitted) < LEAST:
            continue  # nothing is added, or what is multiplied is missing, which is listed
        for number in measured_numbers(fitted, family.neutral):
            finding = family.finding(number)
            left = confirmed_left(finding, shown, CHANCE)
            if left is not None:
                yield finding, left
                break


def _families(model: Model) -> Iterator[Family]:
    """The parameters that are tried, those of all gates first."""
    part = model.parts[0][0]
    gates = tuple(part.cell.gates)
    single = [(field,) for field in NAMES if part.parameter(field) is not None]
    several: list[tuple[str, ...]] = [("ih", "hh")]
    if part.stored.b_ih is not None:
        several += [("b_ih", "b_hh"), ("ih", "b_ih"), ("hh", "b_hh"), tuple(NAMES)]
    for gate in (None, *(gates if len(gates) > 1 else ())):
        yield from (_family(model, fields, gate, False) for fields in (*single, *several))
        yield from (_family(model, fields, gate, True) for fields in single)


def _family(model: Model, fields: Sequence[str], gate: str | None, adds: bool) -> Family:
    """Parameters, with their rows of one gate or of all, that are multiplied or added to."""
    kinds = [NAMES[field] for field in fields]
    names = " and ".join(kinds)
    what = names if gate is None else f"the rows of {gate} in {names}"
    verb = "is" if gate is None and len(fields) == 1 else "are"

    def finding(number: float) -> Finding:
        def changed(part: Part) -> Part:
            values = {}
            for field in fields:
                before = part.parameter(field)
                assert before is not None, "parts are alike"
                rows = slice(None) if gate is None else part.stored.rows(gate)
                values[field] = before.clone()
                values[field][rows] = before[rows] + number if adds else before[rows] * number
            return part.weighted("fitted", names, gate, adds, number, **values)

        shown = f"{number:.6g}"
        words = Words(
            f"{shown} is added to {what}" if adds else f"{what} {verb} multiplied by {shown}",
            "with that the two agree; the number is fitted to your output.",
            f"leave out the {shown}" if adds else f"leave out the factor {shown}",
        )
        cause = Cause("fitted", f"{'+'.join(kinds)}:{gate or 'all'}")
        return Finding(cause, words, model.with_each_part(changed))

    return Family(finding, 0.0 if adds else 1.0)
