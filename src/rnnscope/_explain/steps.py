"""One unit followed over the steps of a sequence: each step by hand, then the check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from rnnscope._explain.address import Address, faithful
from rnnscope._explain.digits import Numeral, Ruler, plain
from rnnscope._explain.document import Block, Chain, Chains, Document, Heading, Paragraph, Table
from rnnscope._explain.products import short_products, weights_table
from rnnscope._explain.unit_step import PrintedNumbers, UnitStep
from rnnscope._record.traced import Traced
from rnnscope.cells.algebra import FromH, FromX
from rnnscope.cells.notation import Notation, text

__all__ = ["UnitSteps", "difference", "explain_steps"]

WRITTEN_OUT = 16
"""Up to so many products of one sum are written out in the walk."""

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
        self.places: dict[str, int] = {}
        self._known_places: dict[tuple[int, int], tuple[dict[str, int], dict[str, Numeral]]] = {}
        self.unit_steps = faithful(self._work, cell.states)

    @property
    def omitted_steps(self) -> int:
        """Steps of the sequence that are not shown."""
        return self.at.length - len(self.times)

    @property
    def single(self) -> bool:
        """Whether a step is one equation and nothing else."""
        return len(self.at.trace.cell.quantities) == 1 and not self.unit_steps[0].dots

    @property
    def written_out(self) -> bool:
        """Whether every product of the steps is written."""
        return all(dot.remainder is None for dot in self.unit_steps[0].dots.values())

    def _work(self, ruler: Ruler) -> list[UnitStep]:
        if (ruler.places, ruler.guard) not in self._known_places:
            # a first pass, which tells how many digits each number needs in all its products
            self.places, self.weight_numerals = {}, {}
            unit_steps = self._steps(ruler)
            singles = {}
            if not any(unit_step.dots for unit_step in unit_steps):
                for symbol, numeral in unit_steps[0].singles.items():
                    singles[symbol] = ruler.numeral(numeral.truth, self.places[symbol])
            self._known_places[ruler.places, ruler.guard] = self.places, singles
        self.places, self.weight_numerals = self._known_places[ruler.places, ruler.guard]
        return self._steps(ruler)

    def _steps(self, ruler: Ruler) -> list[UnitStep]:
        unit_steps: list[UnitStep] = []
        states: dict[str, Numeral] = {}
        for time, operands in zip(self.times, self.operands, strict=True):
            follows = bool(unit_steps) and abs(unit_steps[-1].operands.step - operands.step) == 1
            if not follows:
                states = {}
            values = self.at.trace_values(operands.cell.states, time, self.unit)
            printed = PrintedNumbers(
                states,
                self.weight_numerals,
                values,
                self.places,
                carried=not follows or self._recorded <= states.keys(),
                written_out=WRITTEN_OUT,
            )
            unit_step = UnitStep(operands, ruler, self.names, printed=printed)
            unit_steps.append(unit_step)
            states = self._printed_states(unit_step)
        return unit_steps

    @property
    def _recorded(self) -> set[str]:
        """The states that are worked by hand and recorded."""
        trace = self.at.trace
        return {state for state in trace.cell.states if state in self.names and state in trace}

    def _printed_states(self, unit_step: UnitStep) -> dict[str, Numeral]:
        """The states as they were just printed, with the trace's value as their truth; not those
        that are further from it than one unit of their last digit."""
        numerals = {}
        for state, trace_value in self._compared(unit_step, unit_step.operands.cell.states):
            numeral = unit_step.result(state)
            gap = abs(numeral.value - trace_value)
            if gap <= 1.01 * numeral.unit or numeral.text == str(trace_value):
                numerals[state] = Numeral(trace_value, numeral.text, numeral.places)
        return numerals

    def _compared(self, unit_step: UnitStep, states: Iterable[str]) -> Iterator[tuple[str, float]]:
        """Each state that was worked by hand and is recorded, with the trace's value."""
        for state in states:
            if state in unit_step.computations:
                value = self.at.trace_value(state, unit_step.operands.time, self.unit)
                if value is not None:
                    yield state, value

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

    def number(self, name: str, value: float) -> str:
        """A number that is not computed, with the digits that it has in the steps."""
        ruler = self.unit_steps[0].ruler
        return ruler.of_states.numeral(value, self.places.get(name, ruler.natural(value))).text

    def state(self, value: float) -> str:
        """A state of the layer, with the digits that it has in the steps, or that states have."""
        return self._state_texts.get(value) or self._state_ruler.numeral(value).text

    @property
    def _state_ruler(self) -> Ruler:
        return self.unit_steps[0].ruler.of_states

    @cached_property
    def _state_texts(self) -> dict[float, str]:
        """The digits of each state that a weight multiplies."""
        return {
            term.input.truth: term.input.text
            for unit_step in self.unit_steps
            for dot in unit_step.dots.values()
            if unit_step.multiplies_states(dot.leaf)
            for k, term in dot.terms
            if k != self.unit or isinstance(dot.leaf, FromX)  # the unit's own are worked by hand
        }

    def blocks(self) -> list[Block]:
        """Every step."""
        if self.single:
            chains = tuple(map(self._chain, self.unit_steps))
            return [Chains(chains, spaced=True)]
        blocks: list[Block] = []
        for unit_step in self.unit_steps:
            operands = unit_step.operands
            aside = f"step {operands.step}{self._lead(unit_step)}"
            blocks.append(Heading(f"time={operands.time}", aside, 2))
            blocks += self._worked(unit_step)
        return blocks

    def _worked(self, unit_step: UnitStep) -> list[Block]:
        """The equations of a step, each product before the equation that uses it."""
        notation = unit_step.operands.notation
        first = short_products(unit_step, of_step=False) if self.written_out else ()
        chains: list[Chain] = []
        for name, computation in unit_step.computations.items():
            if self.written_out:
                chains += short_products(unit_step, of_step=True, name=name)
            stages = computation.stages or (computation.symbolic,)
            chains.append(Chain(notation.quantity(name), stages, computation.numeral.text))
        return [*([Chains(tuple(first))] if first else []), Chains(tuple(chains))]

    def _chain(self, unit_step: UnitStep) -> Chain:
        ((name, computation),) = unit_step.computations.items()
        lead = self._lead(unit_step).removeprefix(", ")
        tail = f"time={unit_step.operands.time}"
        symbol = unit_step.operands.notation.quantity(name)
        return Chain(symbol, computation.stages, computation.numeral.text, lead=lead, tail=tail)

    def _lead(self, unit_step: UnitStep) -> str:
        """What goes into a step and was not printed before it."""
        operands = unit_step.operands
        lead = ""
        if len(operands.x) == 1:
            value = float(operands.x[0])
            name = f"x_{operands.step}"
            number = self.state(value) if operands.stacked else self.number(f"{name}[0]", value)
            lead += f", {name} = {number}"
        if self.written_out:
            vectors = {
                text(dot.vector): ", ".join(term.input.text for _, term in dot.terms)
                for dot in unit_step.dots.values()
                if not dot.zero_state and dot.size > 1
            }
            lead += "".join(f", {name} = [{numbers}]" for name, numbers in vectors.items())
        if not unit_step.printed.carried:
            for state, values in operands.before.items():
                if state in self._recorded:
                    number = self.state(float(values[self.unit]))
                    lead += f", {state}_{operands.notation.before} = {number} in the layer"
        return lead

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
                ruler = unit_step.ruler.of_states
                places = ruler.places if numeral.places is None else numeral.places
                trace_text = ruler.to(value, places).text
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
    weights = steps.weights() or weights_of(steps)
    if weights is not None:
        blocks += [Heading("Weights", "the same at every step"), weights]
    blocks += [Paragraph(tuple(at.start(state) for state in at.trace.cell.states))]
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
        more = "1 more step" if steps.omitted_steps == 1 else f"{steps.omitted_steps} more steps"
        lines.append(
            f"{more}: tr.explain(time=..., ...) shows one, "
            f'tr.explain("h", time="last", ...) the last'
        )
    dots = steps.unit_steps[0].dots
    if not steps.written_out:
        size = max(dot.size for dot in dots.values())
        lines.append(
            f"W x and W h are sums of up to {size} products, more than the {WRITTEN_OUT} that are "
            f"written out: tr.explain(time=..., ...) shows the largest"
        )
    elif dots and any(
        isinstance(dot.leaf, FromH) and dot.size > 1 and dot.remainder is None
        for dot in dots.values()
    ):
        lines.append(
            f"h of the other units is the layer's own: "
            f"tr.explain(..., unit={1 if steps.unit == 0 else 0}) follows another unit"
        )
    lines += lower_layer(steps.at)
    return [Paragraph(tuple(lines))] if lines else []


def weights_of(steps: UnitSteps) -> Table | None:
    """Every weight that the steps use; None where their products are not all written out."""
    return weights_table(steps.unit_steps) if steps.written_out else None


def lower_layer(at: Address) -> Iterator[str]:
    """What x of a further layer is."""
    if at.layer == 0:
        return
    below = f"x of layer {at.layer} is h of layer {at.layer - 1} at the same time"
    if len(at.trace.directions) > 1:
        size = at.trace.structure.output_size
        below += f": forward is [0] to [{size - 1}], reverse [{size}] to [{2 * size - 1}]"
        if size == 1:
            below = below.partition(":")[0] + ": [0] is forward, [1] reverse"
    if at.trace.structure.training and at.trace.structure.dropout:
        dropout = at.trace.structure.dropout
        kept = f", what it keeps times {1 / (1 - dropout):g}" if dropout < 1 else ""
        below += f", after dropout {dropout:g}{kept}"
    yield below
