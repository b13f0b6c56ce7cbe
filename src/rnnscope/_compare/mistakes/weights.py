"""Mistakes in the weights: rows in another order, transposes, biases, layers exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations, permutations

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import OF, Cause
from rnnscope._compare.mistakes.changes import layers_of, two
from rnnscope._compare.mistakes.entry import Choice, Entry, changed_cell
from rnnscope._compare.mistakes.words import declared
from rnnscope._compare.model.model import Model, Part, PartIndex
from rnnscope._layers.structure import DIRECTIONS
from rnnscope._layouts import LAYOUTS
from rnnscope._layouts.layout import KINDS
from rnnscope.cells.algebra import Apply, FromH, Quantity, leaves, linear_recurrence, terms

__all__ = ["WEIGHTS", "forget_gates", "scaled_biases"]

FIELDS = {"W_ih": "ih", "W_hh": "hh", "b_ih": "b_ih", "b_hh": "b_hh", "W_hr": "hr"}
MATRICES = "W_ih and W_hh (not transposed)"
BIASES = "b_ih and b_hh"
SUBJECTS = {
    "all": "",
    "W": " of W_ih and W_hh",
    "b": " of the biases",
    "ih": " of W_ih and b_ih",
    "hh": " of W_hh and b_hh",
}


def _biased(model: Model) -> bool:
    return model.first.weights.b_ih is not None


def _tensors(model: Model) -> tuple[str, ...]:
    return ("all", "W", "W_ih", "W_hh", "b") if _biased(model) else ("all", "W_ih", "W_hh")


def _chosen(part: Part, tensors: str) -> dict[str, Tensor]:
    """The parameters that a cause concerns, by the field of ``Weights``."""
    parameters = {FIELDS[name]: part.parameter(FIELDS[name]) for name in OF[tensors]}
    return {name: value for name, value in parameters.items() if value is not None}


def _of(tensors: str) -> str:
    """The parameters that a cause concerns, behind "the rows"."""
    return SUBJECTS.get(tensors, f" of {tensors}")


# the order of rows ---------------------------------------------------------------------------


def _orders(model: Model) -> Iterator[Choice]:
    gates = "".join(model.first.cell.gates)
    if len(set(map(len, model.first.cell.gates))) > 1:
        return
    apart = ("ih", "hh", "b_ih", "b_hh") if _biased(model) else ()
    separate = bool(scaled_biases(model.first))  # the two parts of a sum are split one by one
    for order in map("".join, permutations(gates)):
        if order != gates:
            ported = separate or _users_of(gates, order)
            for tensors in (*_tensors(model), *(apart if ported else ())):
                yield order, tensors


@cache
def _order_rows(gates: tuple[str, ...], order: str, units: int) -> Tensor:
    blocks = torch.arange(len(gates) * units, device="cpu").reshape(len(gates), units)
    return torch.cat([blocks[order.index(gate)] for gate in gates])


def _permuted(part: Part, cause: Cause, rows: Tensor) -> Part:
    names = [FIELDS[n] for n in OF[cause.tensors] if getattr(part.stored, FIELDS[n]) is not None]
    return part.reordered(rows, names, cause.name, cause.choice, cause.tensors)


def _reorder(part: Part, cause: Cause) -> Part:
    rows = _order_rows(tuple(part.cell.gates), cause.choice, part.stored.hidden_size)
    return _permuted(part, cause, rows)


@cache
def _users_of(gates: str, order: str) -> str:
    """The frameworks that store gates in this order."""
    titles = [
        layout.name
        for layout in LAYOUTS.values()
        for kind, stored in layout.cells.items()
        if KINDS[kind] == gates and stored.gates == order and len(stored.arrays) > 0
    ]
    *front, last = list(dict.fromkeys(titles)) or [""]
    if not front:
        return f", as {last} stores them" if last else ""
    return f", as {', '.join(front)} and {last} store them"


def _order_facts(cause: Cause, model: Model) -> dict[str, object]:
    gates, order, of = "".join(model.first.cell.gates), cause.choice, _of(cause.tensors)
    kind, listed, right = model.structure.kind, ", ".join(order), ", ".join(gates)
    # what is split into gates: the sum, or where a gate scales one part, each part
    split = "x @ W_ih.T + b_ih" if scaled_biases(model.first) else "a"
    stored = f"{listed}{_users_of(gates, order)}"
    text = f"the rows{of} are taken as {stored}, the others as {kind} has them: {right}"
    repair = f"reorder the blocks{of} from {listed} to {right}"
    if cause.tensors == "all":
        text = f"you split the rows as {stored}; {kind} has {right}"
        repair = f"{right} = np.split({split}, {len(gates)}, axis=-1)"
    return {"text": text, "repair": repair, "short": f"gate order {listed}{of}"}


@cache
def _interleaved_rows(gates: int, units: int, choice: str) -> Tensor:
    rows = torch.arange(gates * units, device="cpu")
    if choice == "read":
        return rows.reshape(units, gates).T.reshape(-1)
    return rows.reshape(gates, units).T.reshape(-1)


def _interleavings(model: Model) -> Iterator[Choice]:
    if len(model.first.cell.gates) > 1 and model.first.weights.hidden_size > 1:
        for choice in ("read", "stored"):
            for tensors in _tensors(model):
                yield choice, tensors


def _interleave(part: Part, cause: Cause) -> Part:
    rows = _interleaved_rows(len(part.cell.gates), part.stored.hidden_size, cause.choice)
    return _permuted(part, cause, rows)


def _interleaved_facts(cause: Cause, model: Model) -> dict[str, object]:
    gates = model.first.cell.gates
    return {"of": _of(cause.tensors), "gates": ", ".join(gates), "count": len(gates)}


# matrices ------------------------------------------------------------------------------------


def _matrices(model: Model) -> Iterator[Choice]:
    for tensors in ("W_ih", "W_hh", "W"):
        yield "", tensors


def _transpose(part: Part, cause: Cause) -> Part | None:
    units, gates = part.stored.hidden_size, len(part.cell.gates)
    weights: dict[str, Tensor] = {}
    for name, weight in _chosen(part, cause.tensors).items():
        if weight.shape[1] != units or units == 1:
            return None
        weights[name] = weight.reshape(gates, units, units).mT.reshape(gates * units, units)
    return part.weighted(cause.name, cause.tensors, **weights)


def _reshapes(model: Model) -> Iterator[Choice]:
    for _, tensors in _matrices(model):
        yield from ((choice, tensors) for choice in ("", "kernel"))
    if model.first.stored.hr is not None:
        yield from ((choice, "W_hr") for choice in ("", "kernel"))


def _reshape(part: Part, cause: Cause) -> Part | None:
    weights: dict[str, Tensor] = {}
    for name, weight in _chosen(part, cause.tensors).items():
        if 1 in weight.shape:
            return None
        if cause.choice == "kernel":
            weights[name] = weight.T.reshape(weight.shape)
        else:
            weights[name] = weight.reshape(weight.shape[1], weight.shape[0]).T.contiguous()
    return part.weighted(cause.name, cause.choice, cause.tensors, **weights)


def _matrix_facts(cause: Cause, model: Model) -> dict[str, object]:
    products = {"W_ih": "x @ W_ih.T", "W_hh": "h @ W_hh.T"}
    return {
        "which": "W_ih and W_hh" if cause.tensors == "W" else cause.tensors,
        "are": "are" if cause.tensors == "W" else "is",
        "product": products.get(cause.tensors, "x @ W_ih.T + h @ W_hh.T"),
        "kernel": "hidden, projected" if cause.tensors == "W_hr" else "input, gates × hidden",
    }


def _exchange_matrices(part: Part, cause: Cause) -> Part | None:
    weights = part.weights
    if weights.ih.shape != weights.hh.shape:
        return None
    return part.weighted(cause.name, ih=weights.hh, hh=weights.ih)


# biases --------------------------------------------------------------------------------------

BOTH = {"b_ih": "b_hh", "b_hh": "b_ih"}


def _each_bias(model: Model) -> Iterator[Choice]:
    if _biased(model):
        yield from (("", name) for name in BOTH)


def _droppable(model: Model) -> Iterator[Choice]:
    yield from _each_bias(model)
    if _biased(model):
        yield "", "b"
        scaled = scaled_biases(model.first)
        yield from ((gate, "b_hh") for gate in scaled)
        if scaled:  # what is left where the others of b_hh have no place
            yield "".join(gate for gate in model.first.cell.gates if gate not in scaled), "b_hh"


def _drop_bias(part: Part, cause: Cause) -> Part | None:
    biases = {name: value.clone() for name, value in _chosen(part, cause.tensors).items()}
    for value in biases.values():
        for rows in map(part.stored.rows, cause.choice) if cause.choice else (slice(None),):
            value[rows] = 0
    return part.weighted(cause.name, cause.choice, cause.tensors, **biases) if biases else None


def _double_bias(part: Part, cause: Cause) -> Part | None:
    """With one bias twice, or in the place of the other."""
    name, value = cause.tensors, part.parameter(cause.tensors)
    if value is None:
        return None
    changed = {name: 2 * value} if cause.name == "bias_doubled" else {BOTH[name]: value}
    return part.weighted(cause.name, name, **changed)


PRODUCTS = "a = x @ W_ih.T + b_ih + h @ W_hh.T + b_hh"
APART = "a = x @ W_ih.T + b_ih; b = h @ W_hh.T + b_hh"


def _bias_facts(cause: Cause, model: Model) -> dict[str, object]:
    gates = [f"b_h{gate}" for gate in cause.choice]
    both = cause.tensors == "b" and not gates
    one_bias = "adds them too; where there is one bias it is the sum of both"
    adds = "adds two biases" if not gates else f"adds it to W_h{cause.choice} h"
    return {
        "of_x": " and ".join(f"b_i{gate}" for gate in cause.choice),
        "names": " and ".join(gates) or ("both biases" if both else cause.tensors),
        "are": "are" if both or len(gates) > 1 else "is",
        "adds": one_bias if len(gates) > 1 else adds,
        "other": BOTH.get(cause.tensors, ""),
        "which": "b_ih and b_hh are" if cause.tensors == "b" else f"{cause.tensors} is",
        # the line with both biases, as the cell adds them
        "products": APART if scaled_biases(model.first) else PRODUCTS,
        "PRODUCTS": PRODUCTS,
    }


def scaled_biases(part: Part) -> list[str]:
    """Gates whose W_hk h + b_hk is not simply added to W_ik x + b_ik: their two biases differ."""
    gates: list[str] = []
    for equation in part.cell.equations.values():
        argument = equation.argument if isinstance(equation, Apply) else equation
        added = [term for negative, term in terms(argument) if not negative]
        of_h = {leaf.gate for leaf in leaves(argument) if isinstance(leaf, FromH)}
        plain = {term.gate for term in added if isinstance(term, FromH)}
        gates += sorted(of_h - plain)
    return gates


def _apart(model: Model) -> bool:
    return _biased(model) and bool(scaled_biases(model.first))


def _exchange_biases(part: Part, cause: Cause) -> Part:
    b_ih, b_hh = part.parameter("b_hh"), part.parameter("b_ih")
    return part.weighted(cause.name, b_ih=b_ih, b_hh=b_hh)


def _merge_bias(part: Part, cause: Cause) -> Part | None:
    b_ih, b_hh = part.parameter("b_ih"), part.parameter("b_hh")
    if b_ih is None or b_hh is None:
        return None
    b_ih, b_hh = b_ih.clone(), b_hh.clone()
    for gate in scaled_biases(part):
        rows = part.stored.rows(gate)
        both, nothing = b_ih[rows] + b_hh[rows], torch.zeros_like(b_ih[rows])
        b_ih[rows] = nothing if cause.choice == "inside" else both
        b_hh[rows] = both if cause.choice else nothing
    return part.weighted(cause.name, cause.choice, b_ih=b_ih, b_hh=b_hh)


def _sum_biases(part: Part, cause: Cause) -> Part | None:
    """With b_hh added to b_ih, and b_hh still there."""
    b_ih, b_hh = part.parameter("b_ih"), part.parameter("b_hh")
    if b_ih is None or b_hh is None:
        return None
    b_ih = b_ih.clone()
    for rows in map(part.stored.rows, cause.choice) if cause.choice else (slice(None),):
        b_ih[rows] += b_hh[rows]
    return part.weighted(cause.name, cause.choice, b_ih=b_ih)


def _summable(model: Model) -> tuple[str, str]:
    scaled = scaled_biases(model.first)
    return "", "".join(gate for gate in model.first.cell.gates if gate not in scaled)


def _operands(model: Model) -> bool:
    hh = model.first.stored.hh
    return _biased(model) and len(hh) == hh.shape[1]


def _bias_before(part: Part, cause: Cause) -> Part | None:
    """W_hh (h + b) is W_hh h + W_hh b."""
    chosen, W_hh = _chosen(part, cause.tensors), part.parameter("hh")
    if W_hh is None or not chosen:
        return None
    biases = {name: torch.zeros_like(value) for name, value in chosen.items()}
    inside = W_hh @ sum(chosen.values(), torch.zeros_like(W_hh[0]))
    b_hh = biases.get("b_hh", part.parameter("b_hh"))
    assert b_hh is not None, "both biases are there"
    return part.weighted(cause.name, cause.tensors, **{**biases, "b_hh": b_hh + inside})


def forget_gates(part: Part) -> list[str]:
    """Gates that multiply a cell state of the step before: f of an LSTM."""
    gates: list[str] = []
    for state in part.cell.states:
        split = linear_recurrence(part.cell.equations[state], state) if state != "h" else None
        if split is not None and isinstance(split[0], Quantity):
            gate = split[0].name
            if gate in part.cell.gates:
                gates.append(gate)
    return gates


def _forget(part: Part, cause: Cause) -> Part:
    gates = forget_gates(part)
    if cause.choice == "after":
        changes = tuple((gate, part.cell.equations[gate] + 1) for gate in gates)
        return part.marked(cause.name, cause.choice, cell=changed_cell(part.cell, changes))
    b_ih = part.parameter("b_ih")
    bias = torch.zeros_like(part.stored.ih[:, 0]) if b_ih is None else b_ih.clone()
    for gate in gates:
        bias[part.stored.rows(gate)] += -1 if cause.choice == "subtracted" else 1
    return part.weighted(cause.name, cause.choice, b_ih=bias)


# layers and directions -----------------------------------------------------------------------


def _pairs(model: Model) -> Iterator[str]:
    for a, b in combinations(range(model.num_layers), 2):
        yield f"{a},{b}"


def _ordered_pairs(model: Model) -> Iterator[str]:
    for a, b in combinations(range(model.num_layers), 2):
        yield from (f"{a},{b}", f"{b},{a}")


Sources = Mapping[PartIndex, PartIndex]


def _taking(sources: Callable[[Model, Cause], Sources]) -> Callable[[Model, Cause], Model | None]:
    """An entry's change by which parts have the weights of others."""

    def taken(model: Model, cause: Cause) -> Model | None:
        changed: dict[PartIndex, Part] = {}
        parts = dict(model.places())
        for place, source_place in sources(model, cause).items():
            part, source = parts[place], parts[source_place]
            pairs = zip(part.weights.named().values(), source.weights.named().values(), strict=True)
            if any(tensor.shape != taken.shape for tensor, taken in pairs):
                return None
            weights = replace(source.weights, suffix=part.weights.suffix)
            after = part.with_weights(weights, first_b_hh=source.first_b_hh)
            changed[place] = after.marked(cause.name, source.token)
        return model.with_parts(changed)

    return taken


def _other_layers(model: Model, cause: Cause) -> Sources:
    a, b = map(int, cause.choice.split(","))
    layers = {a: b, b: a} if cause.name == "layers_exchanged" else {b: a}
    return {(k, d): (layers[k], d) for k in layers for d in range(model.num_directions)}


def _other_directions(model: Model, cause: Cause) -> Sources:
    directions = {0: 1, 1: 0}
    if cause.choice:
        source = DIRECTIONS.index(cause.choice)
        directions = {1 - source: source}
    return {(k, d): (k, directions[d]) for k in layers_of(model, cause) for d in directions}


def _place_facts(cause: Cause, model: Model) -> dict[str, object]:
    a, _, b = cause.choice.partition(",")
    return {"a": a, "b": b}


WEIGHTS = declared(
    """
    gate_order
        gate order
        {text}.
        {repair}
        {short}
    interleaved read
        gates interleaved
        the rows{of} are read unit by unit ({gates} of unit 0, then of unit 1); {kind} has one \
        block a gate: {gates}.
        {gates} = np.split(a, {count}, axis=-1)   # not a[:, k::{count}]
        the rows{of} are read unit by unit ({gates} of unit 0, then of unit 1)
    interleaved stored
        gates interleaved
        the rows{of} are stored unit by unit ({gates} of unit 0, then of unit 1); {kind} has one \
        block a gate: {gates}.
        W = W.reshape(hidden, {count}, -1).swapaxes(0, 1).reshape({count} * hidden, -1)
        the rows{of} are stored unit by unit ({gates} of unit 0, then of unit 1)
    transposed
        {which} {are} transposed
        {kind} multiplies each gate's block from the left: W x.
        {product}
    reshaped
        {which} {are} reshaped, not transposed
        reshape keeps the order of the numbers in memory; .T moves them.
        {tensors}.T
    reshaped kernel
        a kernel ({kernel}) is reshaped to {which}, not transposed
        reshape keeps the order of the numbers in memory; .T moves them.
        {tensors} = kernel.T
    matrices_exchanged
        W_ih and W_hh exchanged
        W_ih multiplies the input, W_hh the state.
        x @ W_ih.T + h @ W_hh.T
    bias_missing
        {names} {are} missing
        {kind} {adds}.
        {products}
    bias_doubled
        {tensors} is added twice
        each bias is added once.
        {products}
    bias_twice
        {tensors} in place of {other}
        {tensors} is used for both biases; {kind} has two.
        {products}
    biases_exchanged
        b_ih and b_hh exchanged
        the reset gate scales b_hn, not b_in, so the two may not be exchanged.
        {RESET}
    bias_merged
        b_hn is outside of the reset
        the two biases of n are merged; the reset gate must scale b_hn.
        {RESET}
    bias_merged inside
        b_in is inside of the reset
        the two biases of n are merged; the reset gate must scale b_hn alone.
        {RESET}
    bias_merged both
        b_in is inside of the reset too
        the two biases of n are merged, and their sum is added to both parts; the reset gate must \
        scale b_hn alone.
        {RESET}
    bias_summed
        b_ih already holds b_ih + b_hh, and b_hh is added again
        {kind} adds each bias once; of n the reset gate scales b_hn, which then stands outside too.
        {products}   # b_ih without b_hh in it
    bias_summed *
        {of_x} already hold the sum of both biases, and {names} are added again
        {kind} adds each bias once.
        {products}   # b_ih without b_hh in it
    bias_before
        {which} added to h before the product with W_hh
        {kind} adds both biases to the products.
        {PRODUCTS}
    forget_bias before
        an extra 1 is added to the forget gate, before the sigmoid
        {kind} adds no forget bias of its own; TensorFlow 1 adds this one as it runs.
        f = sigmoid(a_f)
    forget_bias after
        an extra 1 is added to the forget gate, after the sigmoid
        {kind} adds no forget bias of its own.
        f = sigmoid(a_f)
    forget_bias subtracted
        1 is subtracted from the forget gate's bias
        that is right for TensorFlow 1, which adds 1 as it runs; {kind} adds no forget bias of its \
        own.
        f = sigmoid(a_f)
    layers_exchanged
        the weights of layers {a} and {b} are exchanged
        layer k has the parameters that end in _lk.
        weight_ih_l{a} in layer {a}, weight_ih_l{b} in layer {b}
    layers_repeated
        layer {b} uses the weights of layer {a}
        every layer has its own.
        layer {b}: weight_ih_l{b}, weight_hh_l{b}
    directions_exchanged
        the weights of the two directions are exchanged
        the reverse direction has the parameters that end in _reverse.
        reverse: weight_ih_l0_reverse, weight_hh_l0_reverse
    directions_repeated forward
        the reverse direction uses the weights of forward
        each direction has its own; those of reverse end in _reverse.
        reverse: weight_ih_l0_reverse, weight_hh_l0_reverse
    directions_repeated reverse
        the forward direction uses the weights of reverse
        each direction has its own; those of reverse end in _reverse.
        forward: weight_ih_l0, weight_hh_l0   # without _reverse
    """,
    Entry(
        "gate_order",
        "the order of the rows",
        "parts",
        _reorder,
        options=_orders,
        facts=_order_facts,
    ),
    Entry(
        "interleaved",
        "the order of the rows",
        "parts",
        _interleave,
        options=_interleavings,
        facts=_interleaved_facts,
    ),
    Entry("transposed", MATRICES, "parts", _transpose, options=_matrices, facts=_matrix_facts),
    Entry(
        "reshaped",
        MATRICES,
        "parts",
        _reshape,
        options=_reshapes,
        facts=_matrix_facts,
        concerns=("the projection",),
    ),
    Entry("matrices_exchanged", MATRICES, "parts", _exchange_matrices),
    Entry("bias_missing", BIASES, "parts", _drop_bias, options=_droppable),
    Entry("bias_doubled", BIASES, "parts", _double_bias, options=_each_bias),
    Entry("bias_twice", BIASES, "parts", _double_bias, options=_each_bias),
    Entry("biases_exchanged", BIASES, "parts", _exchange_biases, where=_apart),
    Entry(
        "bias_merged",
        BIASES,
        "parts",
        _merge_bias,
        where=_apart,
        exactly="`inside`: b_in + b_hn stands where b_hn does; `both`: where b_in does too.",
    ),
    Entry(
        "bias_summed",
        BIASES,
        "parts",
        _sum_biases,
        options=_summable,
        where=_apart,
        alone=True,
        exactly="b_ih + b_hh stands where b_ih does, b_hh stays; `rz`: in the rows of r and z.",
    ),
    Entry(
        "bias_before",
        BIASES,
        "parts",
        _bias_before,
        options=lambda model: (("", tensors) for tensors in ("b_hh", "b_ih", "b")),
        where=_operands,
        exactly="W_hh (h_(t-1) + b): where b has as many numbers as h.",
    ),
    Entry(
        "forget_bias",
        "the forget gate",
        "parts",
        _forget,
        where=lambda model: forget_gates(model.first),
    ),
    Entry(
        "layers_exchanged",
        "each layer's weights",
        "global",
        model=_taking(_other_layers),
        options=_pairs,
        facts=_place_facts,
    ),
    Entry(
        "layers_repeated",
        "each layer's weights",
        "global",
        model=_taking(_other_layers),
        options=_ordered_pairs,
        facts=_place_facts,
    ),
    Entry(
        "directions_exchanged",
        "each direction's weights",
        "layer",
        model=_taking(_other_directions),
        where=two,
    ),
    Entry(
        "directions_repeated",
        "each direction's weights",
        "layer",
        model=_taking(_other_directions),
        where=two,
    ),
    facts=_bias_facts,
)
