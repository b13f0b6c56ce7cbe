"""One unit followed over the steps of a sequence: each step by hand, then the check."""

from __future__ import annotations

import math
from typing import Any

from rnnscope._explain.address import Address, faithful
from rnnscope._explain.digits import Ruler, Shown, plain
from rnnscope._explain.document import Block, Chain, Chains, Document, Heading, Paragraph, Table
from rnnscope._explain.unit_step import Hand, Site
from rnnscope._record.traced import Traced
from rnnscope.cells.notation import Notation, text

__all__ = ["Walk", "difference", "walk"]

STEPS, EQUATIONS = 8, 20
"""A walk shows up to so many steps, and up to so many equations."""


def difference(one: float, other: float) -> str:
    """How far apart two numbers are, as 4e-09; 0 where they are equal or both NaN."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return "0"
    apart = abs(one - other)
    return f"{apart:.0e}" if math.isfinite(apart) else str(apart)


class Walk:
    """The steps of one unit, worked by hand, the printed state of each carried to the next."""

    def __init__(self, at: Address, unit: int, times: list[int] | None = None) -> None:
        self.at, self.unit = at, unit
        cell = at.trace.cell
        self.names = at.names(None, unit)
        most = max(1, min(STEPS, EQUATIONS // len(self.names)))
        self.times = at.times[:most] if times is None else times
        self.sites = [at.site(time, unit) for time in self.times]
        self.listed: dict[str, Shown] = {}
        self.hands = faithful(self._work, cell.states)
        self.single = len(cell.quantities) == 1

    @property
    def left_out(self) -> int:
        """Steps of the sequence that are not shown."""
        return self.at.length - len(self.times)

    def _work(self, ruler: Ruler) -> list[Hand]:
        self.listed = self._weights(ruler)
        found: list[Hand] = []
        carried: dict[str, Shown] = {}
        for time, site in zip(self.times, self.sites, strict=True):
            if found and abs(found[-1].site.step - site.step) != 1:
                carried = {}
            own = self.at.owns(site.cell.states, time, self.unit)
            hand = Hand(
                site, ruler, self.names, carried=carried, listed=self.listed or None, own=own
            )
            found.append(hand)
            carried = self._carried(hand, time)
        return found

    def _carried(self, hand: Hand, time: int) -> dict[str, Shown]:
        """The states as they were just printed, with the trace's value as their truth."""
        found = {}
        for state in hand.site.cell.states:
            own = self.at.own(state, time, self.unit) if state in hand.nodes else None
            if own is not None:
                shown = hand.nodes[state].shown
                if abs(shown.value - own) <= 1.01 * shown.unit:
                    found[state] = Shown(own, shown.text, shown.places)
        return found

    def _weights(self, ruler: Ruler) -> dict[str, Shown]:
        """Weights that stand in the equations by name, with digits for all steps."""
        found: dict[str, Shown] = {}
        for site in self.sites:
            hand = Hand(site, ruler, self.names)
            if hand.dots:
                return {}  # beside products that are given as one number, names would puzzle
            for symbol, shown in hand.singles.items():
                known = found.get(symbol)
                places = [
                    s.places for s in (known, shown) if s is not None and s.places is not None
                ]
                found[symbol] = ruler.given(shown.truth, max(places, default=None))
        return found

    def weights(self) -> Chains | None:
        """The weights that the equations name; None where they are given as products."""
        if not self.listed:
            return None
        notation = Notation(bias=self.sites[0].weights.b_ih is not None)
        return Chains(
            tuple(
                Chain(notation.vector(symbol), (), shown.text)
                for symbol, shown in self.listed.items()
            )
        )

    def blocks(self) -> list[Block]:
        """Every step."""
        if self.single:
            chains = tuple(self._chain(hand, time) for hand, time in self._steps())
            return [Chains(chains, spaced=True)]
        found: list[Block] = []
        for hand, time in self._steps():
            found.append(
                Heading(f"time={time}", f"step {hand.site.step}{self._lead(hand.site)}", 2)
            )
            notation = hand.site.notation
            found.append(
                Chains(
                    tuple(
                        Chain(notation.quantity(name), node.stages, node.shown.text)
                        if node.stages
                        else Chain(notation.quantity(name), (node.symbolic,), node.shown.text)
                        for name, node in hand.nodes.items()
                    )
                )
            )
        return found

    def _steps(self) -> list[tuple[Hand, int]]:
        return list(zip(self.hands, self.times, strict=True))

    def _chain(self, hand: Hand, time: int) -> Chain:
        ((name, node),) = hand.nodes.items()
        lead = self._lead(hand.site).removeprefix(", ")
        tail = f"time={time}"
        left = hand.site.notation.quantity(name)
        return Chain(left, node.stages, node.shown.text, lead=lead, tail=tail)

    def _lead(self, site: Site) -> str:
        if len(site.x) != 1:
            return ""
        value = Ruler(self.hands[0].ruler.places).given(float(site.x[0]))
        return f", x_{site.step} = {value.text}"

    def check(self) -> Table:
        """Each step's h by hand, beside what the layer returned; a layer that did not run returned
        nothing, and its trace's states stand there."""
        kind = self.at.trace.structure.kind
        ran = self.at.trace.deviation is not None
        header = ("", "by hand", kind if ran else "trace", "difference")
        rows = []
        for hand, time in self._steps():
            for state in ("h",) if ran else hand.site.cell.states:
                own = self.at.own(state, time, self.unit) if state in hand.nodes else None
                if own is not None:
                    shown = hand.nodes[state].shown
                    places = hand.ruler.places if shown.places is None else shown.places
                    own_text = hand.ruler.to(own, places).text
                    left = text(hand.site.notation.quantity(state))
                    rows.append((left, shown.text, own_text, difference(shown.truth, own)))
        return Table(header, tuple(rows))

    def facts(self) -> list[dict[str, Any]]:
        """Each step as plain values."""
        found = []
        for hand, time in self._steps():
            values = {name: plain(node.shown.truth) for name, node in hand.nodes.items()}
            found.append({"time": time, "by_hand": values})
        return found


def walk(at: Address, unit: int) -> Document:
    """The walk over the steps, as an explanation."""
    steps = Walk(at, unit)
    units = at.units(at.trace.cell.quantities[0])
    where = f"layer {at.layer}, {at.direction}, batch {at.batch}, unit {unit} of {units}"
    blocks: list[Block] = [Heading(f"{at.length} steps of {at.trace.structure.kind}", where)]
    blocks.append(equations(at))
    weights = steps.weights()
    if weights is not None:
        blocks += [Heading("Weights", "the same at every step"), weights]
    blocks += [Heading("By hand"), *steps.blocks(), *omitted(steps)]
    blocks += [Heading("Check"), steps.check(), Paragraph(proof(at.trace))]
    return Document(tuple(blocks), {"steps": steps.facts(), "proof": at.trace.proof})


def proof(trace: Traced) -> tuple[str, ...]:
    """What was verified, and in which precision each side was computed."""
    precision = str(trace.call.x.dtype).removeprefix("torch.")
    if precision == "float64":
        return (trace.proof,)
    return (
        f"By hand is float64 arithmetic on the layer's {precision} weights.",
        f"All its numbers, computed in {precision}: {trace.proof[0].lower()}{trace.proof[1:]}",
    )


def equations(at: Address) -> Chains:
    """The equations of a step with symbols."""
    bias = at.weights.b_ih is not None
    notation = Notation(bias=bias, reverse=at.reverse, element=True)
    pairs = (notation.equation(*item) for item in at.trace.cell.equations.items())
    return Chains(tuple(Chain(left, (right,)) for left, right in pairs))


def omitted(steps: Walk) -> list[Block]:
    """What a walk leaves out, and how to see it."""
    lines = []
    if steps.left_out:
        lines.append(
            f"{steps.left_out} more steps: tr.explain(time=..., ...) shows one, "
            f'tr.explain("h", time="last", ...) the last'
        )
    if steps.hands[0].dots:
        lines.append("W x and W h are sums of products: tr.explain(time=..., ...) shows each")
    return [Paragraph(tuple(lines))] if lines else []
