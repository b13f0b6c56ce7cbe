"""The notebook: input, weights, equation, hidden states by hand, check, what the layer returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._explain.address import Address
from rnnscope._explain.digits import plain
from rnnscope._explain.document import (
    Block,
    Chain,
    Chains,
    Document,
    Heading,
    Listing,
    Paragraph,
    Table,
)
from rnnscope._explain.steps import UnitSteps, equations, omitted, proof, weights_of
from rnnscope._record.traced import Traced
from rnnscope.cells.notation import Notation, text

__all__ = ["lesson"]

FEW, WIDE = 24, 100
"""Tensors of up to so many numbers are printed, on up to so many columns."""
MOST = 10_000
"""Weights of up to so many numbers are given as data."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def lesson(
    trace: Traced,
    *,
    construction: str,
    layer: int = 0,
    direction: str = "forward",
    batch: int = 0,
    unit: int = 0,
) -> Document:
    """A trace explained from its input to what the layer returns, in six sections.

    ``construction`` is the line that built the layer. Of a larger layer one unit is followed
    through the steps: the one of the address.

    >>> import torch
    >>> from rnnscope import trace
    >>> tr = trace(torch.nn.RNN(1, 1, batch_first=True), torch.tensor([[[3.0], [4.0], [5.0]]]))
    >>> print(lesson(tr, construction="rnn = nn.RNN(1, 1, batch_first=True)"))
    rnn = nn.RNN(1, 1, batch_first=True)
    <BLANKLINE>
    1 Input: one sequence, three steps, one number a step
        x (batch 1, time 3, feature 1)       [[[3], [4], [5]]]
    ...

    Raises ``AddressError`` for a place that is not there.
    """
    at = Address(trace, layer, direction, batch)
    steps = UnitSteps(at, at.unit(None, unit))
    blocks: list[Block] = [Heading(construction, level=0)]
    blocks += _input(at, steps)
    blocks += _weights(at, steps, construction.partition(" = ")[0])
    blocks += [Heading("3 Equation" if len(trace.cell.equations) == 1 else "3 Equations")]
    blocks += [equations(at), *_initial(at, steps)]
    blocks += [Heading("4 By hand", _followed(at, steps)), *steps.blocks(), *omitted(steps)]
    blocks += [Heading("5 Check"), steps.check(), Paragraph(proof(trace))]
    blocks += _returned(at, steps, construction.partition(" = ")[0])
    facts = {
        "construction": construction,
        "parameters": {name: _plain(value) for name, value in trace.parameters.items()},
        "steps": steps.facts(),
        "proof": trace.proof,
    }
    return Document(tuple(blocks), facts, indent=4)


# sections ----------------------------------------------------------------------------------


def _input(at: Address, steps: UnitSteps) -> list[Block]:
    trace = at.trace
    x = trace.layer_input(0)
    batch, time, feature = x.shape
    title = f"1 Input: {_count(batch, 'sequence')}, {_count(time, 'step')}"
    if trace.call.lengths is not None:
        title = f"1 Input: {_count(batch, 'sequence')} of {_lengths(trace)} steps"
    title += f", {_count(feature, 'number')} a step"
    axes = {"batch": batch, "time": time, "feature": feature}
    order = ["batch", "time", "feature"]
    if not trace.structure.batch_first and trace.call.packed is None:
        order = ["time", "batch", "feature"]
        x = x.transpose(0, 1)
    if not trace.call.batched:
        order.remove("batch")
        x = x.squeeze(1)
    if trace.structure.single_step:
        order.remove("time")
        x = x[0]
    shape = ", ".join(f"{axis} {axes[axis]}" for axis in order)
    lines = [_beside(f"x ({shape})", x, _input_writer(at, steps))]
    if trace.call.packed is not None:
        lines.append("packed: steps behind a sequence's end are not computed")
    return [Heading(title), Paragraph(tuple(lines))]


def _input_writer(at: Address, steps: UnitSteps) -> Writer:
    """The digits of an input: where the steps use the number, those that it has there."""
    printed: dict[float, str] = {}
    if at.layer == 0:
        for operands in steps.operands:
            for k, value in enumerate(operands.x.tolist()):
                printed[value] = steps.number(f"x_{operands.step}[{k}]", value)
    return lambda value: printed.get(value) or steps.number("", value)


def _weights(at: Address, steps: UnitSteps, variable: str) -> list[Block]:
    trace = at.trace
    count, several = _number(_size(trace)), len(at.times) > 1
    state_dict = f"{variable}.state_dict()"
    if _scalar(trace):
        if not trace.structure.bias:
            lines = ['"l0" is a letter l and a zero: layer 0. No biases (--bias adds them).']
        else:
            lines = ['"l0" is a letter l and a zero: layer 0.']
        title = f"2 Weights: the same {count} at every step"
        title = title if several else f"2 Weights: {count} numbers"
        return [Heading(title, state_dict), _scalar_chains(at, steps), Paragraph(tuple(lines))]
    title = f"2 Weights: {count} numbers in all{', the same at every step' * several}"
    blocks: list[Block] = [Heading(title, state_dict), _parameters(trace)]
    lines = []
    size = trace.structure.hidden_size
    if len(trace.cell.gates) > 1:
        lines.append(
            f"Rows stand one gate below another, {size} each: {', '.join(trace.cell.gates)}; "
            f"row k of a gate belongs to unit k."
        )
    elif size > 1:
        lines.append(f"Row k belongs to unit k, of {size}.")
    if trace.structure.num_layers > 1:
        lines.append("l0, l1, ...: layer 0 reads x, each further layer the h of the one below.")
    if lines:
        blocks.append(Paragraph(tuple(lines)))
    used = _scalar_chains(at, steps) if steps.weight_numerals else weights_of(steps)
    if used is not None:
        whose = _followed(at, steps) or f"unit {steps.unit}"
        blocks += [Heading("Used below", whose, 2), used]
    return blocks


def _size(trace: Traced) -> int:
    """How many numbers the layer's parameters hold."""
    return sum(value.numel() for value in trace.parameters.values())


def _parameters(trace: Traced) -> Table:
    """Each parameter with its shape, how many numbers it holds, and the blocks of its rows."""
    rows = []
    for name, value in trace.parameters.items():
        letter = "b" if name.startswith("bias") else "W"
        of = "i" if "_ih" in name else "h"
        blocks = " ".join(f"{letter}_{of}{gate}" for gate in trace.cell.gates)
        blocks = "W_hr" if "_hr" in name else blocks
        known = any(part in name for part in ("_ih", "_hh", "_hr"))
        count = f"{_number(value.numel())} number{'s' * (value.numel() != 1)}"
        rows.append((name, str(tuple(value.shape)), count, blocks if known else ""))
    return Table(("", "", "", ""), tuple(rows), left_columns=4)


def _scalar_chains(at: Address, steps: UnitSteps) -> Chains:
    return Chains(
        tuple(
            Chain(notation, (), steps.weight_numerals[text(notation)].text, lead=lead, tail=tail)
            for notation, lead, tail in _scalars(at, steps)
        )
    )


def _scalars(at: Address, steps: UnitSteps) -> list[tuple[Any, str, str]]:
    """Each weight that is one number: its symbol, where it stands, what it is for."""
    notation = Notation()
    several = len(at.trace.cell.gates) > 1
    scalars = []
    for name, value in at.weights.named().items():
        letter = "b" if name.startswith("bias") else "W"
        of = "i" if "_ih" in name else "h"
        word = "times the input" if of == "i" else "times the state before"
        for row, gate in enumerate(at.trace.cell.gates):
            if "_hr" in name and row:
                continue
            key = "W_hr" if "_hr" in name else f"{letter}_{of}{gate}"
            lead = f"{name}[{row}]" if several else f"{name} {tuple(value.shape)}"
            if key in steps.weight_numerals:
                tail = "added" if letter == "b" else word
                if several:
                    tail = f"{at.trace.cell.words.get(gate, gate)}: {tail}"
                scalars.append((notation.vector(key), lead, tail))
    return scalars


def _scalar(trace: Traced) -> bool:
    structure = trace.structure
    sizes = (structure.input_size, structure.hidden_size, structure.output_size)
    return sizes == (1, 1, 1) and len(trace.parameters) <= len(trace.weights[0][0].named())


def _initial(at: Address, steps: UnitSteps) -> list[Block]:
    """The states before the first step, and a word on each quantity."""
    trace = at.trace
    lines = []
    for state in trace.cell.states:
        numbers = [steps.state(value) for value in at.initial(state).tolist()]
        written = numbers[0] if len(numbers) == 1 else _listed(numbers)
        lines.append(at.start(state, written if len(numbers) <= FEW else ""))
    words = [f"{name} {word}" for name, word in trace.cell.words.items() if name != "h"]
    if words:
        lines.append(", ".join(words) + "; × is taken unit by unit")
    return [Paragraph(tuple(lines))]


def _followed(at: Address, steps: UnitSteps) -> str:
    """The address of the unit that the lesson follows, without axes of length 1."""
    sizes = at.trace.sizes
    parts = [f"layer {at.layer}"] if sizes["layer"] > 1 else []
    parts += [at.direction] if sizes["direction"] > 1 else []
    parts += [f"batch {at.batch}"] if sizes["batch"] > 1 else []
    units = at.units(at.trace.cell.quantities[0])
    parts += [f"unit {steps.unit} of {units}"] if units > 1 else []
    return ", ".join(parts)


def _returned(at: Address, steps: UnitSteps, variable: str) -> list[Block]:
    trace = at.trace
    structure = trace.structure
    states = trace.cell.states
    names = " ".join(f"{state}_n," for state in states).rstrip(",")
    returned = f"output, ({names})" if len(states) > 1 else f"output, {names}"
    if structure.single_step:
        returned = f"({names.replace('_n', '_1')})" if len(states) > 1 else f"{states[0]}_1"
    lines: list[str] = []
    write = _state_writer(steps)
    if not structure.single_step:
        lines += _output_lines(trace, write)
    for state in states:
        value: Tensor = trace.h_n if state == "h" else trace.c_n
        size = structure.state_size(state)
        shape = _state_shape(trace, size)
        label = f"{state}_{'1' if structure.single_step else 'n'}"
        lines.append(f"{label:<6} ({shape})  {_last_words(trace, state)}".rstrip())
        if _few(value, write):
            lines.append(f"       {_nested(value.detach(), write)}")
    if trace.call.batched and not structure.single_step and structure.batch_first:
        lines.append("h_n has layers first, batch_first or not")
    return [
        Heading("6 What the layer returns", f"{returned} = {variable}(x)"),
        Listing(tuple(lines)),
    ]


def _state_writer(steps: UnitSteps) -> Writer:
    """The digits of a state: those of the layer's own numbers in the check."""
    return steps.state


def _output_lines(trace: Traced, write: Writer) -> list[str]:
    structure = trace.structure
    output: Any = trace.output
    last = structure.num_layers - 1
    words = "every h" if last == 0 else f"every h of layer {last}, the last"
    if len(trace.directions) > 1:
        size = structure.output_size
        words += f": forward in [..., :{size}], reverse in [..., {size}:]"
    if isinstance(output, PackedSequence):
        rows, width = output.data.shape
        return [f"output (PackedSequence; data: {rows} steps, hidden {width})  {words}"]
    axes = ["batch", "time"] if structure.batch_first else ["time", "batch"]
    axes = axes if trace.call.batched else ["time"]
    shape = ", ".join(f"{a} {n}" for a, n in zip([*axes, "hidden"], output.shape, strict=True))
    lines = [f"output ({shape})  {words}"]
    if _few(output, write):
        lines.append(f"       {_nested(output.detach(), write)}")
    return lines


def _last_words(trace: Traced, state: str) -> str:
    """Where ``output`` holds a last state; the text says it only where these numbers agree."""
    if trace.structure.single_step:
        return ""
    words = f"the last {state}"
    plain = trace.call.batched and not isinstance(trace.output, PackedSequence)
    if state != "h" or not plain:
        return words + (" of each sequence" if trace.call.packed is not None else "")
    output: Any = trace.output
    first = trace.structure.batch_first
    ends = (output[:, -1], output[:, 0]) if first else (output[-1], output[0])
    shown = ("output[:, -1", "output[:, 0") if first else ("output[-1", "output[0")
    size = trace.structure.output_size
    if len(trace.directions) == 1:
        if torch.equal(trace.h_n[-1], ends[0]):
            return f"{words}: h_n[-1] = {shown[0]}]"
    elif torch.equal(trace.h_n[-2], ends[0][..., :size]) and torch.equal(
        trace.h_n[-1], ends[1][..., size:]
    ):
        colon = "" if first else ", :"
        return (
            f"{words}: h_n[-2] = {shown[0]}{colon}, :{size}], h_n[-1] = {shown[1]}{colon}, {size}:]"
        )
    return words


# words and numbers ---------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{_number(number)} {noun}" + ("" if number == 1 else "s")


def _number(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else f"{number:,}"


def _lengths(trace: Traced) -> str:
    lengths = [int(n) for n in trace.lengths]
    if len(lengths) > 6:
        return f"{min(lengths)} to {max(lengths)}"
    return ", ".join(map(str, lengths[:-1])) + f" and {lengths[-1]}"


def _state_shape(trace: Traced, size: int) -> str:
    structure = trace.structure
    parts = []
    if not structure.single_step:
        rows = structure.num_layers * len(structure.directions)
        axis = "layer" if len(structure.directions) == 1 else "layer × direction"
        parts.append(f"{axis} {rows}")
    if trace.call.batched:
        parts.append(f"batch {trace.call.batch}")
    return ", ".join([*parts, f"hidden {size}"])


Writer = Callable[[float], str]
"""Writes a number with its digits."""


def _beside(label: str, value: Tensor, write: Writer) -> str:
    return f"{label:<36} {_nested(value, write)}" if _few(value, write) else label


def _few(value: Tensor, write: Writer) -> bool:
    return value.numel() <= FEW and len(_nested(value.detach(), write)) <= WIDE


def _nested(value: Tensor, write: Writer) -> str:
    if value.dim() == 0:
        return write(value.item())
    return _listed([_nested(part, write) for part in value])


def _listed(texts: Iterable[str]) -> str:
    return "[" + ", ".join(texts) + "]"


def _plain(value: Tensor) -> Any:
    if value.numel() > MOST:
        return f"{value.numel()} numbers"
    if value.dim() == 0:
        return plain(value.item())
    return [_plain(part) for part in value]
