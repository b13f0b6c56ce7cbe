"""What the proofs of one call say together: whether they hold, and how to tell it in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rnnscope._escaping import printable
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.arguments import SAY_WHICH
from rnnscope._layers.foreign import Foreign
from rnnscope._layers.structure import Structure
from rnnscope._opening.part import Proof
from rnnscope.errors import VerificationError

__all__ = ["sentence", "unverified", "verify", "worst"]


def verify(adopted: Adopted, proofs: Mapping[str, Proof]) -> None:
    """Raise ``VerificationError`` where a deviation is larger than rounding allows."""
    failed = [proof for proof in proofs.values() if proof.ratio > 1]
    if not failed:
        return
    first = min(failed, key=lambda p: (p.place.layer, p.state != "h"))
    if adopted.declared:
        raise VerificationError(
            f"what {adopted.kind} returned as {first.state} is not what it computed, first at "
            f"{first.place}: the largest difference is {first.deviation:.3g}. Was it changed on "
            f"its way out? trace(..., check=False) gives the numbers by the declared equations."
        )
    if isinstance(adopted, Foreign):
        unused = ", ".join(adopted.unused_arguments)
        aside = f" {unused}: passed on, in no equation. {SAY_WHICH}." if unused else ""
        raise VerificationError(
            f"{adopted.kind} does not compute the cell {adopted.cell.name} that cells= names for "
            f"it: {first.state} by the equations differs first at {first.place}, by up to "
            f"{first.deviation:.3g}, {first.ratio:.3g} times what rounding allows. Are its "
            f"parameters, the order of its gates and its equations those of {adopted.cell.name}?"
            f"{aside} trace(..., check=False) gives the numbers by the equations alone."
        )
    if first.tolerance == 0:
        raise VerificationError(
            f"{first.state}_n is not the last {first.state} of {adopted.kind}'s own, which it "
            f"copies, first at {first.place}: the largest difference is {first.deviation:.3g}. "
            f"Did another backend or a patched forward return it? trace(..., check=False) gives "
            f"the numbers by the equations alone."
        )
    raise VerificationError(
        f"{first.state} by the equations is not {adopted.kind}'s own, first at {first.place}: "
        f"the largest difference, {first.deviation:.3g}, is up to {first.ratio:.3g} times what "
        f"rounding allows. Either {adopted.kind} did not compute what its documentation says "
        f"(another backend, a patched forward), or rnnscope errs: please report it. "
        f"trace(..., check=False) gives the numbers by the equations alone."
    )


def unverified(proofs: Mapping[str, Proof]) -> tuple[str, ...]:
    """The states whose bound is too wide to prove anything."""
    return tuple(n for n, proof in proofs.items() if proof.loose == proof.places)


def worst(proofs: Mapping[str, Proof]) -> Proof | None:
    """The largest deviation of what is proven; of all, where nothing is; None without proofs."""
    loose = unverified(proofs)
    proven = [p for name, p in proofs.items() if name not in loose]
    return max(proven or proofs.values(), key=lambda p: p.deviation, default=None)


def sentence(structure: Structure, proofs: Mapping[str, Proof], precision: str) -> str:
    """What was compared with what, and how far apart they are; ``precision`` is the type in which
    the layer formed its products."""
    kind = printable(structure.kind)
    largest = worst(proofs)
    if largest is None:
        return f"Not verified: computed by the equations alone, {kind} did not run."
    if structure.declared:
        return (
            f"Computed by the declared equations; there is no other implementation to compare "
            f"with. What {kind} returned is {', '.join(proofs)} of this record: largest "
            f"difference {_short(largest.deviation)}."
        )
    loose = unverified(proofs)
    proven = [proof.words for name, proof in proofs.items() if name not in loose]
    allows = f"largest difference {_short(largest.deviation)}"
    if largest.deviation or math.isfinite(largest.tolerance):
        allows += f"; rounding in {precision} allows {_short(largest.tolerance)}"
    if not proven:
        return f"Not verified, as rounding allows too much: {allows}."
    text = f"Equal to {kind}'s own {', '.join(proven)}: {allows}."
    shown = [
        f"above {_short(proof.shows)} in {name}{'' if proof.every_step else ' at the end'}"
        for name, proof in proofs.items()
        if name not in loose and proof.shows is not None and math.isfinite(proof.shows)
    ]
    if shown:
        text += f" Any error {', '.join(shown)} would show, and most that are far smaller."
    for name in loose:
        text += f" {name} not verified: rounding in {precision} allows too much."
    return text


def _short(number: float) -> str:
    return "0" if number == 0 else f"{number:.0e}"
