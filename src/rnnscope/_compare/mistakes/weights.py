"""Mistakes in the weights: rows in another order, transposes, biases, layers exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, permutations

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words, changed_cell
from rnnscope._compare.model.model import Model, Part
from rnnscope._layers.structure import DIRECTIONS
from rnnscope._layouts import LAYOUTS
from rnnscope._layouts.layout import KINDS
from rnnscope.cells.algebra import Apply, FromH, Quantity, leaves, linear_recurrence, terms

__all__ = ["WEIGHTS", "forget_gates", "scaled_biases"]

FIELDS = {"W_ih": "ih", "W_hh": "hh", "b_ih": "b_ih", "b_hh": "b_hh", "W_hr": "hr"}
MATRICES = "W_ih and W_hh (not transposed)"
BIASES = "b_ih and b_hh"
OF = {
    "all": ("W_ih", "W_hh", "b_ih", "b_hh"),
    "W": ("W_ih", "W_hh"),
    "W_ih": ("W_ih",),
    "W_hh": ("W_hh",),
    "b": ("b_ih", "b_hh"),
    "ih": ("W_ih", "b_ih"),
    "hh": ("W_hh", "b_hh"),
    "b_ih": ("b_ih",),
    "b_hh": ("b_hh",),
    "W_hr": ("W_hr",),
}
SUBJECTS = {
    "all": "",
    "W": " of W_ih and W_hh",
    "b": " of the biases",
    "ih": " of W_ih and b_ih",
    "hh": " of W_hh and b_hh",
}


def _first(model: Model) -> Part:
    return model.parts[0][0]


def _biased(model: Model) -> bool:
    return _first(model).weights.b_ih is not None


def _tensors(model: Model) -> tuple[str, ...]:
    return ("all", "W", "W_ih", "W_hh", "b") if _biased(model) else ("all", "W_ih", "W_hh")


def _chosen(part: Part, tensors: str) -> dict[str, Tensor]:
    """The parameters that a cause concerns, by the field of ``Weights``."""
    parameters = {FIELDS[name]: part.parameter(FIELDS[name]) for name in OF[tensors]}
    return {name: value for name, value in parameters.items() if value is not None}


def _listed(gates: str) -> str:
    return ", ".join(gates)


# the order of rows ---------------------------------------------------------------------------


def _orders(model: Model) -> Iterator[Choice]:
    gates = "".join(_first(model).cell.gates)
    if len(set(map(len, _first(model).cell.gates))) > 1:
        return
    apart = ("ih", "hh", "b_ih", "b_hh") if _biased(model) else ()
    separate = bool(scaled_biases(_first(model)))  # the two parts of a sum are split one by one
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


def _split(model: Model) -> str:
    """What is split into gates: the sum, or where a gate scales one part, each part."""
    return "x @ W_ih.T + b_ih" if scaled_biases(_first(model)) else "a"


def _order_words(cause: Cause, model: Model) -> Words:
    gates = "".join(_first(model).cell.gates)
    kind, order = model.structure.kind, cause.choice
    if cause.tensors == "all":
        return Words(
            "gate order",
            f"you split the rows as {_listed(order)}{_users_of(gates, order)}; "
            f"{kind} has {_listed(gates)}.",
            f"{_listed(gates)} = np.split({_split(model)}, {len(gates)}, axis=-1)",
            f"gate order {_listed(order)}",
        )
    of = SUBJECTS.get(cause.tensors, f" of {cause.tensors}")
    return Words(
        "gate order",
        f"the rows{of} are taken as {_listed(order)}{_users_of(gates, order)}, the others as "
        f"{kind} has them: {_listed(gates)}.",
        f"reorder the blocks{of} from {_listed(order)} to {_listed(gates)}",
        f"gate order {_listed(order)}{of}",
    )


@cache
def _interleaved_rows(gates: int, units: int, choice: str) -> Tensor:
    rows = torch.arange(gates * units, device="cpu")
    if choice == "read":
        return rows.reshape(units, gates).T.reshape(-1)
    return rows.reshape(gates, units).T.reshape(-1)


def _interleavings(model: Model) -> Iterator[Choice]:
    if len(_first(model).cell.gates) > 1 and _first(model).weights.hidden_size > 1:
        for choice in ("read", "stored"):
            for tensors in _tensors(model):
                yield choice, tensors


def _interleave(part: Part, cause: Cause) -> Part:
    rows = _interleaved_rows(len(part.cell.gates), part.stored.hidden_size, cause.choice)
    return _permuted(part, cause, rows)


def _interleaved_words(cause: Cause, model: Model) -> Words:
    of = SUBJECTS.get(cause.tensors, f" of {cause.tensors}")
    gates = _listed("".join(_first(model).cell.gates))
    kind, count = model.structure.kind, len(_first(model).cell.gates)
    if cause.choice == "read":
        text = f"the rows{of} are read unit by unit ({gates} of unit 0, then of unit 1)"
        repair = f"{gates} = np.split(a, {count}, axis=-1)   # not a[:, k::{count}]"
    else:
        text = f"the rows{of} are stored unit by unit ({gates} of unit 0, then of unit 1)"
        repair = f"W = W.reshape(hidden, {count}, -1).swapaxes(0, 1).reshape({count} * hidden, -1)"
    return Words(
        "gates interleaved", f"{text}; {kind} has one block a gate: {gates}.", repair, text
    )


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
    if _first(model).stored.hr is not None:
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


def _both(tensors: str) -> str:
    return "W_ih and W_hh" if tensors == "W" else tensors


def _transpose_words(cause: Cause, model: Model) -> Words:
    which = _both(cause.tensors)
    product = {"W_ih": "x @ W_ih.T", "W_hh": "h @ W_hh.T"}.get(
        cause.tensors, "x @ W_ih.T + h @ W_hh.T"
    )
    verb = "are" if cause.tensors == "W" else "is"
    return Words(
        f"{which} {verb} transposed",
        f"{model.structure.kind} multiplies each gate's block from the left: W x.",
        product,
    )


def _reshape_words(cause: Cause, model: Model) -> Words:
    which = _both(cause.tensors)
    verb = "are" if cause.tensors == "W" else "is"
    if cause.choice == "kernel":
        kernel = "hidden, projected" if cause.tensors == "W_hr" else "input, gates × hidden"
        return Words(
            f"a kernel ({kernel}) is reshaped to {which}, not transposed",
            "reshape keeps the order of the numbers in memory; .T moves them.",
            f"{cause.tensors} = kernel.T",
        )
    return Words(
        f"{which} {verb} reshaped, not transposed",
        "reshape keeps the order of the numbers in memory; .T moves them.",
        f"{cause.tensors if cause.tensors != 'W' else 'W'}.T",
    )


def _exchange_matrices(part: Part, cause: Cause) -> Part | None:
    weights = part.weights
    if weights.ih.shape != weights.hh.shape:
        return None
    return part.weighted(cause.name, ih=weights.hh, hh=weights.ih)


def _exchange_words(cause: Cause, model: Model) -> Words:
    return Words(
        "W_ih and W_hh exchanged",
        "W_ih multiplies the input, W_hh the state.",
        "x @ W_ih.T + h @ W_hh.T",
    )


# biases --------------------------------------------------------------------------------------

BOTH = {"b_ih": "b_hh", "b_hh": "b_ih"}


def _each_bias(model: Model) -> Iterator[Choice]:
    if _biased(model):
        yield from (("", name) for name in BOTH)


def _droppable(model: Model) -> Iterator[Choice]:
    yield from _each_bias(model)
    if _biased(model):
        yield "", "b"
        scaled = scaled_biases(_first(model))
        yield from ((gate, "b_hh") for gate in scaled)
        if scaled:  # what is left where the others of b_hh have no place
            yield "".join(gate for gate in _first(model).cell.gates if gate not in scaled), "b_hh"


def _drop_bias(part: Part, cause: Cause) -> Part | None:
    biases = {name: value.clone() for name, value in _chosen(part, cause.tensors).items()}
    for value in biases.values():
        for rows in map(part.stored.rows, cause.choice) if cause.choice else (slice(None),):
            value[rows] = 0
    return part.weighted(cause.name, cause.choice, cause.tensors, **biases) if biases else None


def _double_bias(part: Part, cause: Cause) -> Part | None:
    value = part.parameter(cause.tensors)
    if value is None:
        return None
    return part.weighted(cause.name, cause.tensors, **{cause.tensors: 2 * value})


def _same_bias(part: Part, cause: Cause) -> Part | None:
    value = part.parameter(cause.tensors)
    if value is None:
        return None
    return part.weighted(cause.name, cause.tensors, **{BOTH[cause.tensors]: value})


PRODUCTS = "a = x @ W_ih.T + b_ih + h @ W_hh.T + b_hh"
APART = "a = x @ W_ih.T + b_ih; b = h @ W_hh.T + b_hh"


def _products(model: Model) -> str:
    """The line with both biases, as the cell adds them."""
    return APART if scaled_biases(_first(model)) else PRODUCTS


def _dropped_words(cause: Cause, model: Model) -> Words:
    if len(cause.choice) > 1:
        names = " and ".join(f"b_h{gate}" for gate in cause.choice)
        return Words(
            f"{names} are missing",
            f"{model.structure.kind} adds them too; where there is one bias it is the sum of both.",
            _products(model),
        )
    if cause.choice:
        return Words(
            f"b_h{cause.choice} is missing",
            f"{model.structure.kind} adds it to W_h{cause.choice} h.",
            _products(model),
        )
    if cause.tensors == "b":
        return Words(
            "both biases are missing", f"{model.structure.kind} adds two biases.", _products(model)
        )
    return Words(
        f"{cause.tensors} is missing", f"{model.structure.kind} adds two biases.", _products(model)
    )


def _doubled_words(cause: Cause, model: Model) -> Words:
    return Words(f"{cause.tensors} is added twice", "each bias is added once.", _products(model))


def _same_words(cause: Cause, model: Model) -> Words:
    bias = BOTH[cause.tensors]
    return Words(
        f"{cause.tensors} in place of {bias}",
        f"{cause.tensors} is used for both biases; {model.structure.kind} has two.",
        _products(model),
    )


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


def _apart(model: Model) -> Iterator[Choice]:
    if _biased(model) and scaled_biases(_first(model)):
        yield "", ""


def _mergings(model: Model) -> Iterator[Choice]:
    for _ in _apart(model):
        yield from ((choice, "") for choice in ("", "inside", "both"))


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


def _exchanged_bias_words(cause: Cause, model: Model) -> Words:
    return Words(
        "b_ih and b_hh exchanged",
        "the reset gate scales b_hn, not b_in, so the two may not be exchanged.",
        "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))",
    )


def _merged_words(cause: Cause, model: Model) -> Words:
    if cause.choice:
        return Words(
            "b_in is inside of the reset" + " too" * (cause.choice == "both"),
            "the two biases of n are merged"
            + ", and their sum is added to both parts" * (cause.choice == "both")
            + "; the reset gate must scale b_hn alone.",
            "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))",
        )
    return Words(
        "b_hn is outside of the reset",
        "the two biases of n are merged; the reset gate must scale b_hn.",
        "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))",
    )


def _operands(model: Model) -> Iterator[Choice]:
    part = _first(model)
    if _biased(model) and len(part.stored.hh) == part.stored.hh.shape[1]:
        yield from (("", tensors) for tensors in ("b_hh", "b_ih", "b"))


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


def _before_words(cause: Cause, model: Model) -> Words:
    which = "b_ih and b_hh are" if cause.tensors == "b" else f"{cause.tensors} is"
    return Words(
        f"{which} added to h before the product with W_hh",
        f"{model.structure.kind} adds both biases to the products.",
        PRODUCTS,
    )


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


def _forget_choices(model: Model) -> Iterator[Choice]:
    if forget_gates(_first(model)):
        yield from (("before", ""), ("after", ""), ("subtracted", ""))


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


def _forget_words(cause: Cause, model: Model) -> Words:
    if cause.choice == "subtracted":
        return Words(
            "1 is subtracted from the forget gate's bias",
            f"that is right for TensorFlow 1, which adds 1 as it runs; {model.structure.kind} adds "
            f"no forget bias of its own.",
            "f = sigmoid(a_f)",
        )
    where = "before the sigmoid" if cause.choice == "before" else "after the sigmoid"
    return Words(
        f"an extra 1 is added to the forget gate, {where}",
        f"{model.structure.kind} adds no forget bias of its own"
        f"{'; TensorFlow 1 adds this one as it runs' * (cause.choice == 'before')}.",
        "f = sigmoid(a_f)",
    )


# layers and directions -----------------------------------------------------------------------


def _pairs(model: Model) -> Iterator[Choice]:
    yield from ((f"{a},{b}", "") for a, b in combinations(range(model.num_layers), 2))


def _ordered_pairs(model: Model) -> Iterator[Choice]:
    for a, b in combinations(range(model.num_layers), 2):
        yield from ((f"{a},{b}", ""), (f"{b},{a}", ""))


def _taking(part: Part, source: Part, *token: object) -> Part | None:
    tensors, source_tensors = part.weights.named(), source.weights.named()
    if [t.shape for t in tensors.values()] != [t.shape for t in source_tensors.values()]:
        return None
    weights = replace(source.weights, suffix=part.weights.suffix)
    first = source.first_b_hh
    taken = part.with_weights(weights, first_b_hh=first)
    return taken.marked(*token, source.token)


def _exchange_layers(model: Model, cause: Cause) -> Model | None:
    a, b = map(int, cause.choice.split(","))
    changed: dict[tuple[int, int], Part] = {}
    for layer, source_layer in ((a, b), (b, a)):
        for d, (part, source) in enumerate(
            zip(model.parts[layer], model.parts[source_layer], strict=True)
        ):
            taken = _taking(part, source, cause.name)
            if taken is None:
                return None
            changed[layer, d] = taken
    return model.with_parts(changed)


def _repeat_layer(model: Model, cause: Cause) -> Model | None:
    a, b = map(int, cause.choice.split(","))
    changed: dict[tuple[int, int], Part] = {}
    for d, (part, source) in enumerate(zip(model.parts[b], model.parts[a], strict=True)):
        taken = _taking(part, source, cause.name)
        if taken is None:
            return None
        changed[b, d] = taken
    return model.with_parts(changed)


def _layer_words(cause: Cause, model: Model) -> Words:
    a, b = cause.choice.split(",")
    if cause.name == "layers_exchanged":
        return Words(
            f"the weights of layers {a} and {b} are exchanged",
            "layer k has the parameters that end in _lk.",
            f"weight_ih_l{a} in layer {a}, weight_ih_l{b} in layer {b}",
        )
    return Words(
        f"layer {b} uses the weights of layer {a}",
        "every layer has its own.",
        f"layer {b}: weight_ih_l{b}, weight_hh_l{b}",
    )


def _directions(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield "", ""


def _one_direction(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield from ((direction, "") for direction in DIRECTIONS)


def _layers_of(model: Model, cause: Cause) -> range:
    return range(model.num_layers) if cause.layer is None else range(cause.layer, cause.layer + 1)


def _exchange_directions(model: Model, cause: Cause) -> Model | None:
    changed: dict[tuple[int, int], Part] = {}
    for layer in _layers_of(model, cause):
        forward, reverse = model.parts[layer]
        for d, (part, taken) in enumerate(((forward, reverse), (reverse, forward))):
            after = _taking(part, taken, cause.name)
            if after is None:
                return None
            changed[layer, d] = after
    return model.with_parts(changed)


def _repeat_direction(model: Model, cause: Cause) -> Model | None:
    source = DIRECTIONS.index(cause.choice)
    changed: dict[tuple[int, int], Part] = {}
    for layer in _layers_of(model, cause):
        row = model.parts[layer]
        after = _taking(row[1 - source], row[source], cause.name)
        if after is None:
            return None
        changed[layer, 1 - source] = after
    return model.with_parts(changed)


def _direction_words(cause: Cause, model: Model) -> Words:
    if cause.name == "directions_exchanged":
        return Words(
            "the weights of the two directions are exchanged",
            "the reverse direction has the parameters that end in _reverse.",
            "reverse: weight_ih_l0_reverse, weight_hh_l0_reverse",
        )
    direction = DIRECTIONS[1 - DIRECTIONS.index(cause.choice)]
    return Words(
        f"the {direction} direction uses the weights of {cause.choice}",
        "each direction has its own; those of reverse end in _reverse.",
        "reverse: weight_ih_l0_reverse, weight_hh_l0_reverse"
        if direction == "reverse"
        else "forward: weight_ih_l0, weight_hh_l0   # without _reverse",
    )


WEIGHTS = (
    Entry("gate_order", "the order of the rows", "parts", _orders, _order_words, _reorder),
    Entry(
        "interleaved",
        "the order of the rows",
        "parts",
        _interleavings,
        _interleaved_words,
        _interleave,
    ),
    Entry(
        "transposed",
        MATRICES,
        "parts",
        _matrices,
        _transpose_words,
        _transpose,
    ),
    Entry(
        "reshaped",
        MATRICES,
        "parts",
        _reshapes,
        _reshape_words,
        _reshape,
        concerns=("the projection",),
    ),
    Entry(
        "matrices_exchanged",
        MATRICES,
        "parts",
        lambda model: iter([("", "")]),
        _exchange_words,
        _exchange_matrices,
    ),
    Entry("bias_missing", BIASES, "parts", _droppable, _dropped_words, _drop_bias),
    Entry("bias_doubled", BIASES, "parts", _each_bias, _doubled_words, _double_bias),
    Entry("bias_twice", BIASES, "parts", _each_bias, _same_words, _same_bias),
    Entry(
        "biases_exchanged",
        "b_ih and b_hh",
        "parts",
        _apart,
        _exchanged_bias_words,
        _exchange_biases,
    ),
    Entry(
        "bias_merged",
        BIASES,
        "parts",
        _mergings,
        _merged_words,
        _merge_bias,
        exactly="`inside`: b_in + b_hn stands where b_hn does; `both`: where b_in does too.",
    ),
    Entry(
        "bias_before",
        BIASES,
        "parts",
        _operands,
        _before_words,
        _bias_before,
        exactly="W_hh (h_(t-1) + b): where b has as many numbers as h.",
    ),
    Entry("forget_bias", "the forget gate", "parts", _forget_choices, _forget_words, _forget),
    Entry(
        "layers_exchanged",
        "each layer's weights",
        "global",
        _pairs,
        _layer_words,
        model=_exchange_layers,
    ),
    Entry(
        "layers_repeated",
        "each layer's weights",
        "global",
        _ordered_pairs,
        _layer_words,
        model=_repeat_layer,
    ),
    Entry(
        "directions_exchanged",
        "each direction's weights",
        "layer",
        _directions,
        _direction_words,
        model=_exchange_directions,
    ),
    Entry(
        "directions_repeated",
        "each direction's weights",
        "layer",
        _one_direction,
        _direction_words,
        model=_repeat_direction,
    ),
)
