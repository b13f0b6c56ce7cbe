"""shapes: what every slice of ``output`` and every row of ``h_n`` is, in one call of a layer.

Each line that is printed is Python, evaluated on the numbers of that call before it is printed.
"""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_packed_sequence

from rnnscope._explain.statements import (
    Checker,
    Section,
    Shapes,
    Statement,
    Trap,
    largest_difference,
)
from rnnscope._layers.structure import Weights
from rnnscope._record.traced import Traced

__all__ = ["Shapes", "shapes"]

MANY_ROWS, MANY_SEQUENCES = 12, 8
"""Of more rows of h_n, or sequences of a packed batch, the text gives the rule alone."""


def shapes(trace: Traced) -> Shapes:
    """What each slice of ``output`` and each row of ``h_n`` and ``c_n`` is, in this very call.

    Every equation is evaluated on the trace's numbers; ``VerificationError`` is raised where one
    does not hold, as after ``output`` was changed in place.

    >>> from rnnscope import trace
    >>> lstm = torch.nn.LSTM(4, 5, bidirectional=True, batch_first=True)
    >>> said = trace(lstm, torch.randn(3, 6, 4)).shapes()
    >>> for statement in said.sections[1].statements:
    ...     print(statement.code, "is", statement.equals)
    h_n[0] is output[:, -1, :5]
    h_n[1] is output[:, 0, 5:]
    """
    with torch.no_grad():
        return _of_a_cell(trace) if trace.structure.single_step else _Layer(trace).shapes()


class _Layer:
    """The statements about a call of nn.RNN, nn.GRU or nn.LSTM, as the call was made."""

    def __init__(self, trace: Traced) -> None:
        self.trace, self.structure, self.call = trace, trace.structure, trace.call
        s = self.structure
        self.two = s.bidirectional
        self.only_reverse = s.directions == ("reverse",)
        self.rows = s.num_layers * len(s.directions)
        self.size = s.output_size
        self.top = s.num_layers - 1
        names = {"output": trace.output}
        self.name = "output"
        if self.call.packed is not None:
            self.name = "padded"
            names["padded"], names["lengths"] = pad_packed_sequence(trace.output, s.batch_first)
        self.check = Checker(trace, names)

    # code ------------------------------------------------------------------------------------

    def at(self, time: str, direction: str | None, batch: str = ":") -> str:
        """The place of output at one time: all of it, or the half of a direction."""
        half = ""
        if self.two and direction is not None:
            half = f":{self.size}" if direction == "forward" else f"{self.size}:"
        index = [time]
        if self.call.batched:
            index = [batch, time] if self.structure.batch_first else [time, batch]
        index += [half] if half else []
        while index and index[-1] == ":":
            index.pop()
        return f"{self.name}[{', '.join(index)}]" if index else self.name

    def end(self, direction: str) -> str:
        """The place of output that holds a direction's last state, of every sequence."""
        if direction == "reverse":
            return self.at("0", direction)
        if self.ragged:
            return self.at("lengths - 1", direction, f"torch.arange({self.call.batch})")
        return self.at("-1", direction)

    @property
    def ragged(self) -> bool:
        return self.call.lengths is not None

    def dims(self, *names: str) -> str:
        """The axes that there are in this call: (batch 3, time 6, hidden 5)."""
        sizes = {
            "batch": self.call.batch,
            "time": self.call.steps,
            "rows": self.rows,
            "hidden": self.structure.hidden_size,
            "projected": self.size,
            "feature": self.structure.input_size,
            "both": len(self.structure.directions) * self.size,
        }
        inner = "projected" if self.structure.cell.projected else "hidden"
        words = {
            "rows": "layers × directions" if self.two else "layers",
            "both": f"2 × {inner} =" if self.two else inner,
        }
        kept = [name for name in names if name != "batch" or self.call.batched]
        return f"({', '.join(f'{words.get(name, name)} {sizes[name]}' for name in kept)})"

    @property
    def outer(self) -> tuple[str, str]:
        return ("batch", "time") if self.structure.batch_first else ("time", "batch")

    # sections --------------------------------------------------------------------------------

    def shapes(self) -> Shapes:
        sections = [self.output(), self.h_n(), self.split(), *self.c_n()]
        sections += [self.last(), self.record()]
        sections.append(_parameters(self.trace, self.check))
        call = (self.called(), *self.read())
        traps = tuple(self.traps())
        return Shapes(str(self.structure), call, tuple(sections), traps, self.check.source)

    def called(self) -> str:
        """The call as it was written."""
        name = self.structure.kind.rpartition(".")[2].lower()
        returned, initial = (_tuple(self.structure.cell.states, suffix) for suffix in ("n", "0"))
        return f"output, {returned} = {name}({f'x, {initial}' if self.call.has_initial else 'x'})"

    def read(self) -> list[str]:
        x = self.dims(*self.outer, "feature")
        if self.call.packed is None:
            extra = "" if self.call.batched else ": one sequence, no batch"
            return [f"x {x}{extra}"]
        first = ", batch_first=True" if self.structure.batch_first else ""
        lengths = self.trace.lengths.tolist()
        shown = ", ".join(map(str, lengths[:MANY_SEQUENCES]))
        more = ", ..." if len(lengths) > MANY_SEQUENCES else ""
        return [
            f"x packed: {len(lengths)} sequences of {shown}{more} steps, feature "
            f"{self.structure.input_size}",
            f"padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(output{first})",
        ]

    def output(self) -> Section:
        """Which slice is which direction."""
        layer = "the layer" if self.top == 0 else f"the last layer, layer {self.top}"
        title = f"{self.name} {self.dims(*self.outer, 'both')}: h of {layer}, at every step"
        statements = []
        for direction in self.structure.directions:
            record = f'tr["h", -1, "{direction}"]'
            if not self.call.batched:
                record += "[0]"
            elif not self.structure.batch_first:
                record += ".transpose(0, 1)"
            statements.append(self.check.equal(self.at(":", direction), direction, record))
        return Section(title, tuple(statements))

    def h_n(self) -> Section:
        """Which row is which layer and direction, and where output holds it."""
        inner = "projected" if self.structure.cell.projected else "hidden"
        title = f"h_n {self.dims('rows', 'batch', inner)}: the last h of each"
        title += " layer and direction" if self.two else " layer"
        rows = [(k, d) for k in range(self.top + 1) for d in self.structure.directions]
        statements = []
        for row, (layer, direction) in enumerate(rows):
            if len(rows) > MANY_ROWS and layer not in (0, self.top):
                continue
            says = f"layer {layer}, {direction}" if self.two else f"layer {layer}"
            place = self.end(direction)
            if layer < self.top:
                says += self.missing(row, place)
                place = self.end_of(layer, direction)
            statements.append(self.check.equal(f"h_n[{row}]", says, place))
        return Section(title, tuple(statements))

    def c_n(self) -> list[Section]:
        """The same rows for c, or for another state of the cell; output does not hold them."""
        sections = []
        for state in self.structure.cell.states[1:]:
            dims = self.dims("rows", "batch", "hidden")
            title = f"{state}_n {dims}: rows as in h_n; output holds no {state}"
            code = f"{self.last_of(state)}.flatten(0, 1)"
            sections.append(Section(title, (self.check.equal(f"{state}_n", "every row", code),)))
        return sections

    def missing(self, row: int, place: str) -> str:
        """The words for a lower layer's state: it is not in output, unless by chance."""
        elsewhere = largest_difference(self.check.value(f"h_n[{row}]"), self.check.value(place))
        return ", not in output" if elsewhere else ", by chance also in output"

    def end_of(self, layer: int, direction: str) -> str:
        """Where the record holds the last state of a layer and direction."""
        if self.ragged:
            return self.last_of("h", f'layer={layer}, direction="{direction}"')
        batch, time = ":" if self.call.batched else "0", "-1" if direction == "forward" else "0"
        return f'tr["h", {layer}, "{direction}"][{batch}, {time}]'

    def split(self) -> Section:
        """How the rows of h_n become two axes, layers and directions."""
        batch = ["batch"] if self.call.batched else []
        words = ", ".join(["num_layers", "num_directions", *batch, "hidden"])
        sizes = [self.structure.num_layers, len(self.structure.directions), self.size]
        sizes[2:2] = [self.call.batch] if self.call.batched else []
        way = "view" if self.trace.h_n.is_contiguous() else "reshape"
        code = f"h_n.{way}({', '.join(map(str, sizes))})"
        place = f"[-1, {len(self.structure.directions) - 1}]"
        last = f"the last layer, {self.structure.directions[-1]}" if self.two else "the last layer"
        statements = (
            self.check.equal(code, "all", self.last_of("h")),
            self.check.equal(code + place, last, "h_n[-1]"),
        )
        return Section(f"h_n.{way}({words}): its rows by layer and direction", statements)

    def last_of(self, state: str, at: str = "") -> str:
        parts = [
            f'"{state}"',
            *([at] if at else []),
            *(["batch=0"] if not self.call.batched else []),
        ]
        return f'tr.sel({", ".join(parts)}, time="last")'

    def last(self) -> Section:
        """What "last" means, for each sequence where they differ."""
        statements: list[Statement] = []
        forward = self.rows - len(self.structure.directions)
        if self.ragged and self.only_reverse:
            says = "reverse ends at time=0 in all of them"
            statements.append(self.check.equal(self.end("reverse"), says, f"h_n[{forward}]"))
        elif self.ragged:
            for b, length in enumerate(self.trace.lengths.tolist()[:MANY_SEQUENCES]):
                says = f"sequence {b}: {length} step{'s' * (length > 1)}, last time={length - 1}"
                place = self.at(str(length - 1), "forward", str(b))
                statements.append(self.check.equal(place, says, f"h_n[{forward}, {b}]"))
            statements.append(
                self.check.equal(self.end("forward"), "all of them", f"h_n[{forward}]")
            )
            if self.two:
                says = "reverse ends at time=0 in all of them"
                statements.append(
                    self.check.equal(self.end("reverse"), says, f"h_n[{forward + 1}]")
                )
        code, place = "h_n[-1]", self.end(self.structure.directions[0])
        if self.two:
            code = "torch.cat([h_n[-2], h_n[-1]], dim=-1)"
            place = f"torch.cat([{place}, {self.end('reverse')}], dim=-1)"
        says = "one vector a sequence" if self.call.batched else "the sequence in one vector"
        statements.append(self.check.equal(code, says, place))
        title = 'The last state: "last" is where a direction has read the whole sequence'
        return Section(title, tuple(statements))

    def record(self) -> Section:
        """How the record gives back what the layer returned."""
        direction = self.structure.directions[0]
        h = 'torch.cat(tuple(tr["h", -1]), dim=-1)' if self.two else f'tr["h", -1, "{direction}"]'
        if not self.call.batched:
            h += "[0]"
        elif not self.structure.batch_first:
            h += ".transpose(0, 1)"
        statements = [self.check.equal(self.name, "", h)]
        if self.call.packed is not None:
            first = "batch_first=True, " if self.structure.batch_first else ""
            pack = "torch.nn.utils.rnn.pack_padded_sequence"
            code = f"{pack}(padded, lengths, {first}enforce_sorted=False)"
            statements.append(self.check.equal("output", "", code))
        statements.append(self.check.equal("h_n", "", f"{self.last_of('h')}.flatten(0, 1)"))
        return Section("From the record: what rebuilds each", tuple(statements))

    # traps -----------------------------------------------------------------------------------

    def traps(self) -> list[Trap]:
        """The mistakes that this very call invites; each runs without an error."""
        call, trap = self.call, self.check.trap
        invited = []
        if (self.two or self.only_reverse) and call.steps > 1:
            why = "The reverse direction starts at the last step and ends at time=0."
            invited.append(trap(why, self.at("-1", "reverse"), self.end("reverse")))
        if self.two:
            why = "h_n[-1] is the reverse direction alone."
            invited.append(trap(why, "h_n[-1]", "torch.cat([h_n[-2], h_n[-1]], dim=-1)"))
        if self.ragged:
            short = (self.trace.lengths < call.steps).nonzero().flatten().tolist()
            places = self.at("-1", None, str(short))
            zeros = self.check.equal(places, "", f"torch.zeros_like({places})")
            why = f"{zeros.code} is padding, zeros: these sequences are shorter than {call.steps}."
            if len(short) > MANY_SEQUENCES:
                why = f"{len(short)} sequences are shorter than {call.steps}: they end in zeros."
            if not self.only_reverse:
                invited.append(trap(why, self.at("-1", "forward"), self.end("forward")))
        if self.two and self.top:
            why = "Rows go layer by layer: the reverse direction is not the second half of h_n."
            invited.append(trap(why, f"h_n[{self.top + 1}:]", "h_n[1::2]"))
        if not call.batched:
            return invited
        swapped = call.packed is None and not self.structure.batch_first
        if swapped and call.steps * call.batch > 1:
            why = "Time comes first here: output[:, -1] is the last sequence, not the last step."
            invited.append(trap(why, "output[:, -1]", f"output[{0 if self.only_reverse else -1}]"))
        if self.structure.batch_first and self.rows * call.batch > 1:
            why = "batch_first does not change h_n: layers come first, sequence 0 is h_n[:, 0]."
            invited.append(trap(why, "h_n[0]", "h_n[:, 0]"))
        if self.rows > 1 and call.batch > 1:
            b = call.batch
            sequences = _listed(min(self.rows, b))
            why = f"view(batch, -1) leaves the layers in front: row 0 holds {sequences}."
            invited.append(trap(why, f"h_n.view({b}, -1)", f"h_n.transpose(0, 1).reshape({b}, -1)"))
        if self.rows == call.batch > 1:
            layers = "layers × directions" if self.two else "layers"
            why = f"batch = {layers} = {call.batch}: a transposed state is taken as h_0, no error."
            invited.append(trap(why, "h_n.transpose(0, 1)", "h_n"))
        return invited


def _of_a_cell(trace: Traced) -> Shapes:
    """A cell module makes one step: no layers, no directions, no time in what it returns."""
    structure, call = trace.structure, trace.call
    check = Checker(trace, {"output": trace.output})
    states = structure.cell.states
    batch = f"batch {call.batch}, " if call.batched else ""
    row = ":" if call.batched else "0"
    statements = tuple(
        check.equal(
            f"{name}_n", structure.cell.words[name], f'tr["{name}", 0, "forward"][{row}, -1]'
        )
        for name in states
    )
    title = f"Each ({batch}hidden {structure.hidden_size}): the state after this one step"
    returned = ", ".join(f"{name}_n" for name in states)
    arguments = f"x, {_tuple(states, '0')}" if call.has_initial else "x"
    lines = (
        f"{returned} = {structure.kind.removeprefix('nn.').lower()}({arguments})",
        f"x ({batch}feature {structure.input_size}): one step{'' if batch else ', no batch'}",
    )
    sections = (Section(title, statements), _parameters(trace, check))
    return Shapes(str(structure), lines, sections, (), check.source)


# parameters ----------------------------------------------------------------------------------


def _parameters(trace: Traced, check: Checker) -> Section:
    """How many numbers the layer learns: a product for each layer and direction, and the sum."""
    runs: list[tuple[str, list[int]]] = []  # layers that follow each other with the same product
    words: dict[str, None] = {}
    total = 0
    for layer, directions in enumerate(trace.weights):
        for weights in directions:
            total += sum(tensor.numel() for tensor in weights.named().values())
            words[_product(weights, names=True)] = None
        formula = " and ".join(dict.fromkeys(_product(weights) for weights in directions))
        if not runs or runs[-1][0] != formula:
            runs.append((formula, []))
        runs[-1][1].append(layer)
    several = len(trace.weights[0]) > 1
    statements = []
    for formula, layers in runs:
        says = "" if trace.structure.single_step else _named(layers)
        if several or len(layers) > 1:
            says += ", each direction" if several else ", each"
        weights = trace.weights[layers[0]][0]
        count = sum(tensor.numel() for tensor in weights.named().values())
        statements.append(check.equal(formula, says, str(count)))
    code = "sum(p.numel() for p in tr.parameters.values())"
    statements.append(check.equal(code, "all of them", str(total)))
    owner = "Each direction of a layer: " if several else "Each layer: "
    owner = "" if trace.structure.single_step else owner
    # of a class that is not torch's, a bias may be nowhere, and stand for zeros here
    numbers = f"{total:,} numbers" + (" by PyTorch's names" if trace.structure.foreign else "")
    title = f"Parameters: {numbers}. {owner}{' or '.join(words)}"
    return Section(title, tuple(statements))


def _named(layers: list[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {layers[0]} {'and' if len(layers) == 2 else 'to'} {layers[-1]}"


def _product(weights: Weights, names: bool = False) -> str:
    """The number of parameters of one layer and direction from its sizes; in words with ``names``.

    Matrices and biases with a row for each unit of each gate share a factor.
    """
    gates, hidden = len(weights.cell.gates), weights.hidden_size
    stacked, apart, biases = [], [], 0
    inner = "projected" if weights.hr is not None else "hidden"
    columns = {"weight_ih": "input", "weight_hh": inner, "weight_hr": "projected × hidden"}
    for full_name, tensor in weights.named().items():
        name = full_name.removesuffix(weights.suffix)
        if tensor.shape[0] != gates * hidden or name in ("weight_hr", *weights.vectors):
            sizes = " * ".join(map(str, tensor.shape))
            apart.append(columns.get(name, name) if names else sizes)
        elif tensor.dim() == 1:
            biases += 1
        else:
            stacked.append(columns[name] if names else str(tensor.shape[1]))
    if biases:
        stacked.append(f"{biases} bias{'es' * (biases > 1)}" if names else str(biases))
    sign = " × " if names else " * "
    factors = [] if gates == 1 else [f"{gates} gates" if names else str(gates)]
    factors.append("hidden" if names else str(hidden))
    products = [sign.join([*factors, f"({' + '.join(stacked)})"])] if stacked else []
    return " + ".join([*products, *apart]) or ("none" if names else "0")


def _tuple(states: tuple[str, ...], suffix: str) -> str:
    names = [f"{name}_{suffix}" for name in states]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _listed(count: int) -> str:
    names = [str(k) for k in range(count)]
    if count > MANY_SEQUENCES:
        return f"sequences 0 to {count - 1}"
    return f"sequences {', '.join(names[:-1])} and {names[-1]}"
