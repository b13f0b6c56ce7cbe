"""One unit followed over the steps of a sequence: each step by hand, then the check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from rnnscope._explain.address import Address, faithful
from rnnscope._explain.digits import Numeral, Ruler, plain
from rnnscope._explain.document import Block, Chain, Chains, Document, Heading, Paragraph, Table
from rnnscope._explain.unit_step import Operands, PrintedNumbers, UnitStep
from rnnscope._record.traced import Traced
from rnnscope.cells.notation import Notation, text

__all__ = ["UnitSteps", "difference", "explain_steps"]

STEPS, EQUATIONS = 8, 20
"""The walk over a sequence shows up to so many steps, and up to so many equations."""


def difference(a: float, b: float) -> str:
    """How far apart two numbers are, as 4e-09; 0 where they are equal or both NaN."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return "0"
    gap = abs(a - b)
    return f"{gap:.0e}" if math.isfinite(gap) else str(gap)


class UnitSteps:
    """The steps of one unit, worked by hand, the printed state of each carried to the next."""

    def __init__(self, at: Address, unit: int, times: list[int] | None = None) -> None:
        self.at, self.unit = at, unit
        cell = at.trace.cell
        self.names = at.names(None, unit)
        most = max(1, min(STEPS, EQUATIONS // len(self.names)))
        self.times = at.times[:most] if times is None else times
        self.operands = [at.operands(time, unit) for time in self.times]
        self.weight_numerals: dict[str, Numeral] = {}
        self.unit_steps = faithful(self._work, cell.states)
        self.single = len(cell.quantities) == 1

    @property
    def omitted_steps(self) -> int:
        """Steps of the sequence that are not shown."""
        return self.at.length - len(self.times)

    def _work(self, ruler: Ruler) -> list[UnitStep]:
        self.weight_numerals = self._weights(ruler)
        unit_steps: list[UnitStep] = []
        states: dict[str, Numeral] = {}
        for time, operands in zip(self.times, self.operands, strict=True):
            if unit_steps and abs(unit_steps[-1].operands.step - operands.step) != 1:
                states = {}
            values = self.at.trace_values(operands.cell.states, time, self.unit)
            printed = PrintedNumbers(states, self.weight_numerals, values)
            unit_step = UnitStep(operands, ruler, self.names, printed=printed)
            unit_steps.append(unit_step)
            states = self._printed_states(unit_step)
        return unit_steps

    def _printed_states(self, unit_step: UnitStep) -> dict[str, Numeral]:
        """The states as they were just printed, with the trace's value as their truth."""
        numerals = {}
        for state, trace_value in self._compared(unit_step, unit_step.operands.cell.states):
            numeral = unit_step.result(state)
            if abs(numeral.value - trace_value) <= 1.01 * numeral.unit:
                numerals[state] = Numeral(trace_value, numeral.text, numeral.places)
        return numerals

    def _compared(self, unit_step: UnitStep, states: Iterable[str]) -> Iterator[tuple[str, float]]:
        """Each state that was worked by hand and is recorded, with the trace's value."""
        for state in states:
            if state in unit_step.computations:
                value = self.at.trace_value(state, unit_step.operands.time, self.unit)
                if value is not None:
                    yield state, value

    def _weights(self, ruler: Ruler) -> dict[str, Numeral]:
        """Weights that stand in the equations by name, with digits for all steps."""
        numerals: dict[str, Numeral] = {}
        for operands in self.operands:
            unit_step = UnitStep(operands, ruler, self.names)
            if unit_step.dots:
                return {}  # beside products that are given as one number, names would puzzle
            for symbol, numeral in unit_step.singles.items():
                earlier = numerals.get(symbol)
                places = [
                    s.places for s in (earlier, numeral) if s is not None and s.places is not None
                ]
                numerals[symbol] = ruler.numeral(numeral.truth, max(places, default=None))
        return numerals

    def weights(self) -> Chains | None:
        """The weights that the equations name; None where they are given as products."""
        if not self.weight_numerals:
            return None
        notation = Notation(bias=self.operands[0].weights.b_ih is not None)
        return Chains(
            tuple(
                Chain(notation.vector(symbol), (), numeral.text)
                for symbol, numeral in self.weight_numerals.items()
            )
        )

    def blocks(self) -> list[Block]:
        """Every step."""
        if self.single:
            chains = tuple(map(self._chain, self.unit_steps))
            return [Chains(chains, spaced=True)]
        blocks: list[Block] = []
        for unit_step in self.unit_steps:
            operands = unit_step.operands
            aside = f"step {operands.step}{self._lead(operands)}"
            blocks.append(Heading(f"time={operands.time}", aside, 2))
            chains = tuple(
                Chain(
                    operands.notation.quantity(name),
                    computation.stages or (computation.symbolic,),
                    computation.numeral.text,
                )
                for name, computation in unit_step.computations.items()
            )
            blocks.append(Chains(chains))
        return blocks

    def _chain(self, unit_step: UnitStep) -> Chain:
        ((name, computation),) = unit_step.computations.items()
        lead = self._lead(unit_step.operands).removeprefix(", ")
        tail = f"time={unit_step.operands.time}"
        symbol = unit_step.operands.notation.quantity(name)
        return Chain(symbol, computation.stages, computation.numeral.text, lead=lead, tail=tail)

    def _lead(self, operands: Operands) -> str:
        if len(operands.x) != 1:
            return ""
        value = Ruler(self.unit_steps[0].ruler.places).numeral(float(operands.x[0]))
        return f", x_{operands.step} = {value.text}"

    def check(self) -> Table:
        """Each step's h by hand beside the layer's. Where the layer did not run, the trace's states
        stand in its place."""
        kind = self.at.trace.structure.kind
        ran = self.at.trace.deviation is not None
        header = ("", "by hand", kind if ran else "trace", "difference")
        rows = []
        for unit_step in self.unit_steps:
            states = ("h",) if ran else unit_step.operands.cell.states
            for state, value in self._compared(unit_step, states):
                numeral = unit_step.result(state)
                places = unit_step.ruler.places if numeral.places is None else numeral.places
                trace_text = unit_step.ruler.to(value, places).text
                symbol = text(unit_step.operands.notation.quantity(state))
                rows.append((symbol, numeral.text, trace_text, difference(numeral.truth, value)))
        return Table(header, tuple(rows))

    def facts(self) -> list[dict[str, Any]]:
        """Each step as plain values."""
        return [
            {
                "time": unit_step.operands.time,
                "by_hand": {
                    name: plain(computation.numeral.truth)
                    for name, computation in unit_step.computations.items()
                },
            }
            for unit_step in self.unit_steps
        ]


def explain_steps(at: Address, unit: int) -> Document:
    """The walk over the steps, as an explanation."""
    steps = UnitSteps(at, unit)
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
    return Chains(tuple(Chain(left_side, (right,)) for left_side, right in pairs))


def omitted(steps: UnitSteps) -> list[Block]:
    """What the steps leave out, and how to see it."""
    lines = []
    if steps.omitted_steps:
        lines.append(
            f"{steps.omitted_steps} more steps: tr.explain(time=..., ...) shows one, "
            f'tr.explain("h", time="last", ...) the last'
        )
    if steps.unit_steps[0].dots:
        lines.append("W x and W h are sums of products: tr.explain(time=..., ...) shows each")
    return [Paragraph(tuple(lines))] if lines else []
