"""Recurrent layers in NumPy with mistakes planted on purpose: the judge of the comparison.

Written from the equations that PyTorch documents for nn.RNN, nn.GRU and nn.LSTM, and from nothing
of the package. Without mistakes it computes what torch.nn does; `ORDER` names every mistake that
can be planted, alone or with others, everywhere or in one layer and direction.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
State = dict[str, Array]  # "h", and "c" of an LSTM
Probe = tuple[Any, Any, Any]  # x, initial, lengths

GATES = {"rnn_tanh": "h", "rnn_relu": "h", "gru": "rzn", "lstm": "ifgo", "lstm_projected": "ifgo"}
DIRECTIONS = ("forward", "reverse")

# Every mistake in the order in which several are applied, and what "choice/tensors" may be.
_ANY = "(all|W|W_ih|W_hh|b)"
ORDER = {
    # where parameters are read
    "flat": "(start|(read|stored):(weights_biases|biases_weights|ih_hh|biases_first|hh_first))/",
    "concatenated": "/",
    "rows_repeated": "[a-z]:[a-z]/(W_ih|W_hh)",
    # weights
    "gate_order": rf"[a-z]+/({_ANY}|ih|hh|b_ih|b_hh)",
    "interleaved": rf"(read|stored)/{_ANY}",
    "transposed": "/(W|W_ih|W_hh)",
    "reshaped": "(|kernel)/(W|W_ih|W_hh)",
    "matrices_exchanged": "/",
    "bias_missing": "(/b|/b_ih|(n|rz)?/b_hh)",
    "bias_doubled": "/(b_ih|b_hh)",
    "bias_twice": "/(b_ih|b_hh)",
    "biases_exchanged": "/",
    "bias_merged": "/",
    "bias_summed": "(|rz)/",
    "forget_bias": "(before|after|subtracted)/",
    "layers_exchanged": r"\d+,\d+/",
    "layers_repeated": r"\d+,\d+/",
    "directions_exchanged": "/",
    "directions_repeated": "(forward|reverse)/",
    "not_loaded": "/",
    # equations
    "reset_before": "/",
    "reset_whole": "/",
    "reset_input": "/",
    "no_reset": "/",
    "update_exchanged": "/",
    "activation": r"(\w:(relu|sigmoid|linear|tanh)|tanh:relu"
    r"|tanh:(hard_tanh|softsign)"
    r"|sigmoid:(tanh|sigmoid\(-a\)|sigmoid\(2a\)|hard_sigmoid(\(0.(2|25|5), 0.5\))?))/",
    "old_cell": "/",
    "coupled": "[if]/",
    "gate_unused": "[ifo]/",
    "unapplied": "([ifgorzn]|all)/",  # in what is recorded step by step
    "update": "(unused|both|added|new)/",
    "other_gate": "(f:i|i:f|i:o|f:o|z:r|r:z)/",  # the one in place of the other
    "inverted": "[fior]/",  # 1 - gate in place of the gate
    "squashed": "(|outside)/",
    "confused": "(fed|carried|both)/",  # c and h
    "summed": "[chm]/",  # a gate is added, not multiplied
    "clipped": r"[ch]:[\d.]+/",
    "mixed": r"h:[\d.]+/",
    "scaled": r"h:[\d.]+/",
    "projection": "(not_fed_back|skipped|unused)/",
    "emitted": "c/",
    # states
    "initial_ignored": "(all|h|c|upper|forward|reverse)/",
    "initial_exchanged": "[hc]?/",
    "initial_batch_first": "/",
    "initial_reshaped": "(|back)/",
    "initial_first": "(part|layer|h|c)/",
    "initial_order": "(|added|layers|directions)/",
    "first_bias": "(n|all)/",
    "never_carried": "(|h|c)/",
    "in_place": "/",  # unit by unit
    "rows_chained": "/",
    "calls_chained": "/",
    # time and batch
    "axes_exchanged": "/",
    "rows_joined": "/",
    "time_reversed": "(kept|turned|output)/",
    "delayed": "(output|input|wrapped|early|rolled)/",
    "padding": "(front|not_masked|reverse|last_at_end|sorted)/",
    # directions and layers
    "reverse_not_turned": "/",
    "reverse_forward": "/",
    "reverse_unused": "/",
    "directions_apart": "/",
    "directions_order": "(exchanged|interleaved)/",
    "directions_merged": "(sum|mean|forward|reverse)/",
    "reverse_start": "/",
    "upper_start": "/",
    "layer_skipped": r"\d+/",
    "lower_returned": "/",
    "final_handed_up": "/",
    "residual": "/",
    "outputs_alias": "/",
    "final_state": "output_(end|start)/",
    "between": "(relu|tanh|layer_norm)/",
    "turned_wrongly": "(feature|feature_only|batch|output)/",  # the reverse direction
    "state_shared": "/",
    # what is returned
    "final_exchanged": "(|h)/",
    "final_order": "(directions|layers|last|by_direction)/",
    "units_reversed": "/",
    "names_exchanged": "[ifgorzn]:[ifgorzn]/",  # of what is recorded step by step
    # around it
    "dropout": "/",
    "batch_dependent": "/",
    "precision": "(float16|bfloat16|tf32)/",
}
OF_SHARED = {"final_exchanged", "final_order", "units_reversed", "names_exchanged", "first_bias"}
OF_SHARED |= {"initial_ignored", "initial_exchanged", "initial_reshaped", "initial_batch_first"}
"""What may be wrong beside one state for all layers, besides weights and equations."""
_RANK = {name: rank for rank, name in enumerate(ORDER)}
_ONLY = {
    "gru": {
        "biases_exchanged",
        "bias_merged",
        "bias_summed",
        "reset_before",
        "reset_whole",
        "reset_input",
        "no_reset",
        "update_exchanged",
        "update",
    },
    "lstm": {
        "forget_bias",
        "old_cell",
        "coupled",
        "gate_unused",
        "squashed",
        "confused",
        "summed",
        "emitted",
        "projection",
        "initial_exchanged",
        "final_exchanged",
    },
}
_TWO_DIRECTIONS = {name for name in ORDER if name.startswith(("reverse_", "directions_"))}
_TWO_DIRECTIONS |= {"turned_wrongly"}
_CHOICES_OF_TWO_DIRECTIONS = {"output_end", "directions", "by_direction", "forward", "reverse"}


class UndefinedError(ValueError):
    """The mistake, or several together, mean nothing on this layer and these data."""


@dataclass(frozen=True)
class Mistake:
    """One mistake; a layer or direction of None is every one."""

    name: str
    choice: str = ""
    tensors: str = ""
    layer: int | None = None
    direction: str | None = None

    def __str__(self) -> str:
        said = [repr(self.choice)] if self.choice else []
        said += [f"tensors={self.tensors}"] if self.tensors else []
        said += [f"layer={self.layer}"] if self.layer is not None else []
        said += [f"direction={self.direction}"] if self.direction is not None else []
        return f"{self.name}({', '.join(said)})"


def _in_order(mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    """As the catalogue has them; one function of one equation before all functions of a name,
    and of these sigmoid before tanh."""
    functions = ("sigmoid:", "tanh:")

    def rank(mistake: Mistake) -> tuple[int, int]:
        last = [k for k, of in enumerate(functions, 1) if mistake.choice.startswith(of)]
        return _RANK[mistake.name], last[0] if last else 0

    return tuple(sorted(mistakes, key=rank))


# --- functions ------------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    sigma: Array = 1 / (1 + np.exp(-x))
    return sigma


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "sigmoid(-a)": lambda x: 1 - _sigmoid(x),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid(0.2, 0.5)": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_sigmoid(0.25, 0.5)": lambda x: np.clip(0.25 * x + 0.5, 0, 1),
    "hard_sigmoid(0.5, 0.5)": lambda x: np.clip(0.5 * x + 0.5, 0, 1),
    "sigmoid(2a)": lambda x: (np.tanh(x) + 1) / 2,
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
}


def functions_of(kind: str) -> dict[str, str]:
    """The outermost function of each quantity's equation; of h = o * tanh(c) it is that tanh."""
    return {
        "rnn_tanh": {"h": "tanh"},
        "rnn_relu": {"h": "relu"},
        "gru": {"r": "sigmoid", "z": "sigmoid", "n": "tanh"},
        "lstm": {**dict.fromkeys("ifo", "sigmoid"), "g": "tanh", "h": "tanh"},
        "lstm_projected": {**dict.fromkeys("ifo", "sigmoid"), "g": "tanh", "m": "tanh"},
    }[kind]


def _lowered(x: Array, precision: str) -> Array:
    """x with the mantissa of a lower precision."""
    if precision == "float16":
        return x.astype(np.float16).astype(x.dtype)
    bits = {"bfloat16": 8, "tf32": 11}[precision]  # the leading one counted
    mantissa, exponent = np.frexp(x)
    lowered: Array = np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(x.dtype)
    return lowered


def _turn(x: Array, lengths: Array) -> Array:
    """Each row's valid steps from the last to the first; x is (time, batch, ...)."""
    time = np.arange(len(x))[:, None]
    index = np.where(time < lengths, lengths - 1 - time, time)
    return x[index, np.arange(x.shape[1])]


def _valid(x: Array, lengths: Array) -> Array:
    """x with zeros on padding."""
    return np.where((np.arange(len(x))[:, None] < lengths)[..., None], x, 0).astype(x.dtype)


def _moved(x: Array, shifts: Array) -> Array:
    """Each row moved in time by its own number of steps, around the end."""
    return np.stack([np.roll(x[:, b], shift, axis=0) for b, shift in enumerate(shifts)], axis=1)


# --- one part: the cells, as PyTorch documents them -----------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The equations of one layer in one direction, with what is planted in them."""

    weights: dict[str, Array]  # W_ih, W_hh, b_ih, b_hh and, with a projection, W_hr
    functions: dict[str, str]
    planted: frozenset[tuple[str, str]]  # name, choice
    precision: str = ""

    def times(self, W: Array, x: Array) -> Array:
        if self.precision:
            W, x = _lowered(W, self.precision), _lowered(x, self.precision)
        return x @ W.T

    def apply(self, quantity: str, x: Array) -> Array:
        return FUNCTIONS[self.functions[quantity]](x)

    def wrong(self, name: str, choice: str = "") -> bool:
        return (name, choice) in self.planted

    def recorded(self, arguments: dict[str, Array], values: State) -> State:
        """The values as they are recorded: of some gates the argument of their function."""
        every = self.wrong("unapplied", "all")
        chosen = [name for name in arguments if every or self.wrong("unapplied", name)]
        return values | {name: arguments[name] for name in chosen}

    def number(self, name: str, state: str) -> float | None:
        """The number of a choice like c:3, where it is planted."""
        for planted, choice in self.planted:
            if planted == name and choice.startswith(f"{state}:"):
                return float(choice[2:])
        return None

    def as_kept(self, state: str, new: Array, old: Array) -> Array:
        """A state as it is kept: clipped, then mixed with the old one, then scaled."""
        limit = self.number("clipped", state)
        share, scale = self.number("mixed", state), self.number("scaled", state)
        if limit is not None:
            new = np.minimum(np.maximum(new, -limit), limit)
        if share is not None:
            new = share * old + (1 - share) * new
        return new if scale is None else scale * new

    def scales(self, state: str, gate: Any, value: Array) -> Array:
        """What a gate makes of a value."""
        if not self.wrong("summed", state):
            return gate * value
        if isinstance(gate, int):
            raise UndefinedError("the gate is not used, so it is not added either")
        added: Array = gate + value
        return added

    def first(self) -> Cell:
        """The cell of the first step, where b_hh may be left out."""
        weights = dict(self.weights)
        if self.wrong("first_bias", "n"):
            b_hr, b_hz, b_hn = np.split(weights["b_hh"], 3)
            weights["b_hh"] = np.concatenate([b_hr, b_hz, 0 * b_hn])
        if self.wrong("first_bias", "all"):
            weights["b_hh"] = 0 * weights["b_hh"]
        return Cell(weights, self.functions, self.planted, self.precision)


def rnn_step(cell: Cell, x: Array, state: State) -> State:
    w = cell.weights
    a = cell.times(w["W_ih"], x) + w["b_ih"] + cell.times(w["W_hh"], state["h"]) + w["b_hh"]
    return {"h": cell.as_kept("h", cell.apply("h", a), state["h"])}


def gru_step(cell: Cell, x: Array, state: State) -> State:
    w, h = cell.weights, state["h"]
    ir, iz, in_ = np.split(cell.times(w["W_ih"], x) + w["b_ih"], 3, axis=-1)
    hr, hz, hn = np.split(cell.times(w["W_hh"], h) + w["b_hh"], 3, axis=-1)
    r = cell.apply("r", ir + hr)
    z = cell.apply("z", iz + hz)
    reset = z if cell.wrong("other_gate", "z:r") else r
    if cell.wrong("inverted", "r"):
        if any(name in ("other_gate", "reset_before", "no_reset") for name, _ in cell.planted):
            raise UndefinedError("which gate is inverted is not told")
        reset = 1 - reset
    if cell.wrong("no_reset"):
        a_n = in_ + hn
    elif cell.wrong("reset_input"):
        a_n = reset * in_ + hn
    elif cell.wrong("reset_whole"):
        a_n = reset * (in_ + hn)
    elif cell.wrong("reset_before"):
        W_hn, b_hn = np.split(w["W_hh"], 3)[2], np.split(w["b_hh"], 3)[2]
        a_n = in_ + cell.times(W_hn, reset * h) + b_hn
    else:
        a_n = in_ + reset * hn
    n = cell.apply("n", a_n)
    old: Any = r if cell.wrong("other_gate", "r:z") else z
    new: Any = 1 - old
    if cell.wrong("update_exchanged"):
        new, old = old, new
    if cell.wrong("update", "both"):
        new = old
    if cell.wrong("update", "unused"):
        new, old = 1, 0
    if cell.wrong("update", "added"):
        new = 1
    if cell.wrong("update", "new"):
        old = 0
    values = {"r": r, "z": z, "n": n, "h": cell.as_kept("h", new * n + old * h, h)}
    return cell.recorded({"r": ir + hr, "z": iz + hz, "n": a_n}, values)


def lstm_step(cell: Cell, x: Array, state: State) -> State:
    w = cell.weights
    exchanged = cell.wrong("confused", "both")
    fed = state["c"] if exchanged or cell.wrong("confused", "fed") else state["fed"]
    a = cell.times(w["W_ih"], x) + w["b_ih"] + cell.times(w["W_hh"], fed) + w["b_hh"]
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
    a_f = a_f + 1 if cell.wrong("forget_bias", "before") else a_f
    a_f = a_f - 1 if cell.wrong("forget_bias", "subtracted") else a_f
    i = cell.apply("i", a_i)
    f = cell.apply("f", a_f)
    g = cell.apply("g", a_g)
    o = cell.apply("o", a_o)
    arguments = {"i": a_i, "f": a_f, "g": a_g, "o": a_o}
    if cell.wrong("forget_bias", "after"):
        f = f + 1
        del arguments["f"]
    if cell.wrong("coupled", "f"):
        f = 1 - i
        arguments.pop("f", None)
    if cell.wrong("coupled", "i"):
        i = 1 - f
        del arguments["i"]
    values = {"i": i, "f": f, "g": g, "o": o}
    i, f, o = (1 if cell.wrong("gate_unused", k) else values[k] for k in "ifo")
    for choice in ("f:i", "i:f", "i:o", "f:o"):
        if cell.wrong("other_gate", choice):
            used, gate = choice.split(":")
            scales = {"i": i, "f": f, "o": o} | {gate: values[used]}
            i, f, o = scales["i"], scales["f"], scales["o"]
    scales = {"i": i, "f": f, "o": o}
    for gate in scales:
        if cell.wrong("inverted", gate):
            if any(name in ("other_gate", "gate_unused", "summed") for name, _ in cell.planted):
                raise UndefinedError("which gate is inverted is not told")
            scales[gate] = 1 - scales[gate]
    i, f, o = scales["i"], scales["f"], scales["o"]
    old = state["h"] if exchanged or cell.wrong("confused", "carried") else state["c"]
    c = f * old + cell.scales("c", i, g)
    quantity = "m" if "W_hr" in w else "h"
    outside = cell.wrong("squashed", "outside")
    if cell.wrong("squashed"):
        c = cell.apply(quantity, c)
    values["c"] = c = cell.as_kept("c", c, state["c"])
    seen = state["c"] if cell.wrong("old_cell") else c
    seen = seen if outside or cell.wrong("squashed") else cell.apply(quantity, seen)
    if "W_hr" not in w:
        made = cell.scales("h", o, seen)
        h = cell.as_kept("h", cell.apply("h", made) if outside else made, state["h"])
        return {**cell.recorded(arguments, values), "h": h, "fed": h}
    made = cell.scales("m", o, seen)
    m = cell.apply("m", made) if outside else made
    h = cell.as_kept("h", cell.times(w["W_hr"], m), state["h"])
    unfed = any(cell.wrong("projection", choice) for choice in ("not_fed_back", "unused"))
    fed = m[:, : h.shape[-1]] if unfed else h
    return {**cell.recorded(arguments, values), "m": m, "h": h, "fed": fed}


STEPS = {
    "rnn_tanh": rnn_step,
    "rnn_relu": rnn_step,
    "gru": gru_step,
    "lstm": lstm_step,
    "lstm_projected": lstm_step,
}


# --- weights --------------------------------------------------------------------------------------

Parts = dict[tuple[int, str], dict[str, Array]]


def _parts(weights: Mapping[str, Array]) -> Parts:
    """PyTorch's state_dict, by layer and direction; biases that are not there are zeros."""
    parts: Parts = {}
    for key, value in weights.items():
        found = re.fullmatch(r"(weight|bias)_(ih|hh|hr)_l(\d+)(_reverse)?", key)
        if not found:
            raise ValueError(f"{key} is no name of torch.nn's recurrent layers")
        letter = "W" if found[1] == "weight" else "b"
        part = parts.setdefault((int(found[3]), DIRECTIONS[bool(found[4])]), {})
        part[f"{letter}_{found[2]}"] = np.asarray(value)
    for part in parts.values():
        for name in ("b_ih", "b_hh"):
            part.setdefault(name, np.zeros(len(part["W_hh"]), part["W_hh"].dtype))
    return parts


def _named(tensors: str) -> tuple[str, ...]:
    return {
        "all": ("W_ih", "W_hh", "b_ih", "b_hh"),
        "W": ("W_ih", "W_hh"),
        "b": ("b_ih", "b_hh"),
        "ih": ("W_ih", "b_ih"),
        "hh": ("W_hh", "b_hh"),
    }.get(tensors, (tensors,))


def _square(block: Array) -> Array:
    if block.shape[0] != block.shape[1]:
        raise UndefinedError(f"a block of {block.shape} cannot be used transposed")
    return block


def _tensor_changed(mistake: Mistake, gates: str, M: Array) -> Array:
    """One tensor, (rows,) or (rows, columns), as a mistake of reading reads it."""
    G = len(gates)
    H = len(M) // G
    match mistake.name, mistake.choice:
        case "gate_order", order:
            if sorted(order) != sorted(gates):
                raise UndefinedError(f"{order} is no order of {gates}")
            return np.concatenate([np.split(M, G)[order.index(gate)] for gate in gates])
        case "interleaved", "read":  # row k*H + u comes from row u*G + k
            return M[[u * G + k for k in range(G) for u in range(H)]]
        case "interleaved", "stored":  # row u*G + k comes from row k*H + u
            return M[[k * H + u for u in range(H) for k in range(G)]]
        case "transposed", _:
            return np.concatenate([_square(block).T for block in np.split(M, G)])
        case "reshaped", "kernel":
            return M.T.reshape(M.shape)
        case "reshaped", _:
            return M.reshape(M.shape[1], M.shape[0]).T
        case "bias_missing", "n":
            return np.concatenate([M[: 2 * H], 0 * M[2 * H :]])
        case "bias_missing", "rz":
            return np.concatenate([0 * M[: 2 * H], M[2 * H :]])
        case "bias_missing", _:
            return 0 * M
        case "bias_doubled", _:
            return 2 * M
    raise AssertionError(mistake)


def _part_changed(mistake: Mistake, gates: str, part: dict[str, Array]) -> dict[str, Array]:
    """The weights of one layer in one direction with one mistake."""
    match mistake.name:
        case "concatenated":
            if part["W_ih"].shape == part["W_hh"].shape:
                raise UndefinedError("which is W_ih and W_hh exchanged")
            R = part["W_hh"].shape[1]
            both = np.hstack([part["W_ih"], part["W_hh"]])
            return {**part, "W_hh": both[:, :R], "W_ih": both[:, R:]}
        case "rows_repeated":
            used, gate = mistake.choice.split(":")
            if not {used, gate} <= set(gates):
                raise UndefinedError(f"{gates} has no such gates")
            blocks = dict(zip(gates, np.split(part[mistake.tensors], len(gates)), strict=True))
            blocks[gate] = blocks[used]
            return {**part, mistake.tensors: np.concatenate([blocks[k] for k in gates])}
        case "matrices_exchanged":
            if part["W_ih"].shape != part["W_hh"].shape:
                raise UndefinedError("W_ih and W_hh have different shapes")
            return {**part, "W_ih": part["W_hh"], "W_hh": part["W_ih"]}
        case "bias_twice":
            return {**part, "b_ih": part[mistake.tensors], "b_hh": part[mistake.tensors]}
        case "biases_exchanged":
            return {**part, "b_ih": part["b_hh"], "b_hh": part["b_ih"]}
        case "bias_merged":
            b_ir, b_iz, b_in = np.split(part["b_ih"], 3)
            b_hr, b_hz, b_hn = np.split(part["b_hh"], 3)
            b_ih = np.concatenate([b_ir, b_iz, b_in + b_hn])
            return {**part, "b_ih": b_ih, "b_hh": np.concatenate([b_hr, b_hz, 0 * b_hn])}
        case "bias_summed":
            b_ih, again = part["b_ih"].copy(), part["b_hh"]
            rows = slice(0, len(b_ih) * 2 // 3) if mistake.choice == "rz" else slice(None)
            b_ih[rows] += again[rows]
            return {**part, "b_ih": b_ih}
    changed = {
        name: _tensor_changed(mistake, gates, part[name]) for name in _named(mistake.tensors)
    }
    return {**part, **changed}


def _parts_changed(mistake: Mistake, gates: str, parts: Parts) -> Parts:
    """The weights of all layers and directions with one mistake."""
    comes_from: dict[tuple[int, str], tuple[int, str]] = {}
    chosen = [layer for layer, _ in parts if mistake.layer in (None, layer)]
    match mistake.name:
        case "layers_exchanged" | "layers_repeated":
            a, b = map(int, mistake.choice.split(","))
            for direction in {direction for _, direction in parts}:
                comes_from[b, direction] = a, direction
                if mistake.name == "layers_exchanged":
                    comes_from[a, direction] = b, direction
        case "directions_exchanged":
            for layer in chosen:
                comes_from[layer, "forward"] = layer, "reverse"
                comes_from[layer, "reverse"] = layer, "forward"
        case "directions_repeated":
            for layer, direction in itertools.product(chosen, DIRECTIONS):
                comes_from[layer, direction] = layer, mistake.choice
        case "flat":
            return _flat(mistake.choice, parts)
        case "not_loaded":
            rng = np.random.default_rng(20)
            return {
                place: {
                    name: np.asarray(rng.uniform(-0.5, 0.5, M.shape), M.dtype)
                    for name, M in part.items()
                }
                for place, part in parts.items()
            }
        case _:
            return {
                place: _part_changed(mistake, gates, part) if _covers(mistake, *place) else part
                for place, part in parts.items()
            }
    for place, source in comes_from.items():
        if any(parts[place][name].shape != M.shape for name, M in parts[source].items()):
            raise UndefinedError(f"the weights of {source} do not fit {place}")
    return {place: parts[comes_from.get(place, place)] for place in parts}


def _flat(choice: str, parts: Parts) -> Parts:
    """The parameters out of one array whose order is another than that in which it is cut."""
    names = ("W_ih", "W_hh", "b_ih", "b_hh")
    if any("W_hr" in part for part in parts.values()):
        raise UndefinedError("where W_hr stands is not told")
    torchs = [(place, name) for place in sorted(parts) for name in names]
    matrices = [each for each in torchs if each[1].startswith("W")]
    vectors = [each for each in torchs if each[1].startswith("b")]
    way, _, order = choice.partition(":")
    within = {
        "ih_hh": ("W_ih", "b_ih", "W_hh", "b_hh"),
        "biases_first": ("b_ih", "b_hh", "W_ih", "W_hh"),
        "hh_first": ("W_hh", "W_ih", "b_hh", "b_ih"),
    }
    if way == "start":
        others = torchs
    elif order in within:
        others = [(place, name) for place in sorted(parts) for name in within[order]]
    else:
        others = matrices + vectors if order == "weights_biases" else vectors + matrices
    written, read = (torchs, others) if way == "read" else (others, torchs)
    array = np.concatenate([parts[place][name].ravel() for place, name in written])
    if way == "start":
        return {
            place: {k: array[: M.size].reshape(M.shape) for k, M in part.items()}
            for place, part in parts.items()
        }
    changed: Parts = {place: {} for place in parts}
    for place, name in read:
        shape = parts[place][name].shape
        count = int(np.prod(shape))
        changed[place][name], array = array[:count].reshape(shape), array[count:]
    return changed


def _covers(mistake: Mistake, layer: int, direction: str | None) -> bool:
    return mistake.layer in (None, layer) and mistake.direction in (None, direction)


_IN_WEIGHTS = set(list(ORDER)[: _RANK["not_loaded"] + 1]) - {"forget_bias"}


# --- the whole layer ------------------------------------------------------------------------------


class Planted:
    """A recurrent layer of torch.nn in NumPy, with mistakes.

    `weights` is the layer's state_dict as arrays; sizes, layers and directions are read from it,
    and numbers are computed in its dtype. After a call, `steps` holds h, (c), every gate and, with
    a projection, m, each (layers, directions, batch, time, units), lying in time as the outputs of
    their part do; of a layer that does not run they are NaN.
    """

    def __init__(
        self,
        kind: str,
        weights: Mapping[str, Array],
        *,
        mistakes: Iterable[Mistake] = (),
        batch_first: bool = False,
        seed: int = 0,
    ) -> None:
        self.kind, self.batch_first = kind, batch_first
        self.gates = GATES[kind]
        self.mistakes = _in_order(mistakes)
        parts = _parts(weights)
        self.layers = 1 + max(layer for layer, _ in parts)
        self.directions = DIRECTIONS[: len({direction for _, direction in parts})]
        GH, self.R = parts[0, "forward"]["W_hh"].shape
        self.H = GH // len(self.gates)
        self.dtype = parts[0, "forward"]["W_hh"].dtype
        self.steps: dict[str, Array] = {}
        self._before: State | None = None  # where the call before ended, for calls_chained
        self._rng = np.random.default_rng(seed)  # for dropout
        for mistake in self.mistakes:
            self._refuse(mistake)
        for mistake in self.mistakes:
            if mistake.name in _IN_WEIGHTS:
                parts = _parts_changed(mistake, self.gates, parts)
        self.cells = {place: self._cell(*place, part) for place, part in parts.items()}

    def __repr__(self) -> str:
        return f"Planted({self.kind}: {', '.join(map(str, self.mistakes)) or 'no mistake'})"

    def __call__(self, x: Any, initial: Any = None, lengths: Any = None) -> tuple[Array, Any]:
        """Output and final states in PyTorch's shapes: (output, h_n) or (output, (h_n, c_n))."""
        x = np.asarray(x, self.dtype)
        x = x.swapaxes(0, 1) if self.batch_first else x
        if self._has("calls_chained") and self._before is not None:
            start = self._before
        else:
            start = self._initial(self._given(x, initial))
        with np.errstate(over="ignore", invalid="ignore"):
            output, final = self._in_time(x, start, lengths)
        output = output.swapaxes(0, 1) if self.batch_first else output
        return output, (final["h"], final["c"]) if "c" in final else final["h"]

    def output(self, x: Any, initial: Any = None, lengths: Any = None) -> Array:
        """The output alone."""
        return self(x, initial, lengths)[0]

    # what is planted where

    def _has(self, name: str, choice: str = "", *, layer: int | None = None) -> bool:
        """Is it planted (in this layer)?"""
        return any(
            (m.name, m.choice) == (name, choice) and m.layer in (None, layer) for m in self.mistakes
        )

    def _refuse(self, mistake: Mistake) -> None:
        """What no layer of this kind and number of layers and directions can have wrong."""
        name, family = mistake.name, self.kind.split("_")[0]
        if not re.fullmatch(ORDER[name], f"{mistake.choice}/{mistake.tensors}"):
            raise UndefinedError(f"{mistake} is not in the catalogue")
        if name in ("other_gate", "names_exchanged") and not {*mistake.choice.split(":")} <= {
            *self.gates
        }:
            raise UndefinedError(f"{self.kind} has no such gates")
        if name == "bias_missing" and mistake.choice and family != "gru":
            raise UndefinedError(f"{self.kind} has no n")
        if any(name in names and family != owner for owner, names in _ONLY.items()):
            raise UndefinedError(f"{mistake} is none of {self.kind}")
        if name == "in_place" and self.R != self.H:
            raise UndefinedError(f"{mistake} needs h and c of one size")
        if (name, mistake.choice) == ("projection", "unused") and self.layers > 1:
            raise UndefinedError("the layer above reads as many numbers as the projection gives")
        if name == "inverted" and mistake.choice not in self.gates:
            raise UndefinedError(f"{self.kind} has no such gate")
        if name == "state_shared" and len(self.directions) > 1:
            raise UndefinedError(f"{mistake} needs one direction")
        if mistake.choice.startswith("c:") and family != "lstm":
            raise UndefinedError(f"{self.kind} has no c")
        if name == "summed" and (mistake.choice == "m") != (
            self.kind == "lstm_projected" and mistake.choice != "c"
        ):
            raise UndefinedError(f"{self.kind} has no such product")
        if name == "projection" and self.kind != "lstm_projected":
            raise UndefinedError(f"{mistake} needs a projection")
        if name in ("emitted", "final_exchanged", "confused") and self.R != self.H:
            raise UndefinedError(f"{mistake} needs h and c of one size")
        two = name in _TWO_DIRECTIONS or mistake.choice in _CHOICES_OF_TWO_DIRECTIONS
        if two and len(self.directions) == 1:
            raise UndefinedError(f"{mistake} needs two directions")
        places = itertools.product(range(self.layers), self.directions)
        if not any(_covers(mistake, *place) for place in places):
            raise UndefinedError(f"{mistake} lies outside the layer")
        if mistake.choice == "c" and family != "lstm":
            raise UndefinedError(f"{self.kind} has no c")
        two = name in ("lower_returned", "upper_start", "between", "state_shared")
        two = two or name == "directions_apart"
        if (
            two or mistake.choice in ("layers", "last", "by_direction", "upper")
        ) and self.layers == 1:
            raise UndefinedError(f"{mistake} needs two layers")

    def _cell(self, layer: int, direction: str, weights: dict[str, Array]) -> Cell:
        here = [m for m in self.mistakes if _covers(m, layer, direction)]
        functions = functions_of(self.kind)
        for mistake in here:
            if mistake.name == "activation":
                which, function = mistake.choice.split(":")
                if which not in {**functions, "tanh": "", "sigmoid": ""}:
                    raise UndefinedError(f"{self.kind} has no function in {which}")
                for quantity, own in functions.items():
                    if which in (quantity, own):
                        functions[quantity] = function
        precision = next((m.choice for m in here if m.name == "precision"), "")
        planted = frozenset((m.name, m.choice) for m in here)
        return Cell(weights, functions, planted, precision)

    # states

    def _given(self, x: Array, initial: Any) -> State:
        """The initial states as given, or zeros."""
        if initial is not None and self._has("axes_exchanged"):
            raise UndefinedError("with the axes exchanged no initial states can be given")
        rows = x.shape[0 if self._has("axes_exchanged") else 1]
        parts, lstm = self.layers * len(self.directions), self.kind.startswith("lstm")
        if initial is None:
            shapes = {"h": (parts, rows, self.R)} | ({"c": (parts, rows, self.H)} if lstm else {})
            return {name: np.zeros(shape, self.dtype) for name, shape in shapes.items()}
        arrays = initial if lstm else (initial,)
        return {name: np.asarray(a, self.dtype) for name, a in zip("hc", arrays, strict=False)}

    def _initial(self, start: State) -> State:
        """The initial states, (parts, batch, units), as mistakes read them."""
        L, D = self.layers, len(self.directions)
        for mistake in self.mistakes:
            match mistake.name, mistake.choice:
                case "initial_ignored", "upper":
                    start = {k: np.concatenate([v[:D], 0 * v[D:]]) for k, v in start.items()}
                case "initial_ignored", "forward" | "reverse" as choice:
                    kept = np.tile(np.array(self.directions) != choice, L)[:, None, None]
                    start = {k: np.where(kept, v, 0 * v) for k, v in start.items()}
                case "initial_ignored", choice:
                    start = {k: 0 * v if choice in ("all", k) else v for k, v in start.items()}
                case "initial_exchanged", choice:
                    if start["h"].shape != start["c"].shape:
                        raise UndefinedError("h_0 and c_0 have different sizes")
                    start = (
                        dict.fromkeys(start, start[choice])
                        if choice
                        else {"h": start["c"], "c": start["h"]}
                    )
                case "initial_batch_first", _:
                    if start["h"].shape[1] != L * D:
                        raise UndefinedError("the batch is not the number of layers and directions")
                    start = {k: v.swapaxes(0, 1) for k, v in start.items()}
                case "initial_reshaped", "back":
                    start = {k: v.swapaxes(0, 1).reshape(v.shape) for k, v in start.items()}
                case "initial_reshaped", _:
                    start = {
                        k: v.reshape(v.shape[1], L * D, v.shape[2]).swapaxes(0, 1)
                        for k, v in start.items()
                    }
                case "initial_first", "part":
                    start = {k: v[[0] * (L * D)] for k, v in start.items()}
                case "initial_first", "layer":
                    start = {k: v[list(range(D)) * L] for k, v in start.items()}
                case "initial_first", state:
                    start = {**start, state: start[state][[0] * (L * D)]}
                case "initial_order", "layers" | "directions" as choice:
                    axis = ("layers", "directions").index(choice)
                    start = {
                        k: np.flip(v.reshape(L, D, *v.shape[1:]), axis).reshape(v.shape)
                        for k, v in start.items()
                    }
                case "initial_order", "added":
                    order = [layer + d for layer in range(L) for d in range(D)]
                    start = {k: v[order] for k, v in start.items()}
                case "initial_order", _:
                    order = [d * L + layer for layer in range(L) for d in range(D)]
                    start = {k: v[order] for k, v in start.items()}
        return start

    # time and batch

    def _in_time(self, x: Array, start: State, given: Any) -> tuple[Array, State]:
        """The layers, with what happens to time and batch on the way in and on the way out."""
        T, B, _ = x.shape
        asked = np.full(B, T) if given is None else np.asarray(given)
        if given is not None and (self._has("axes_exchanged") or self._has("rows_joined")):
            raise UndefinedError("time and batch cannot be exchanged or joined with lengths")
        lengths = asked
        back: list[Callable[[Array], Array]] = []  # for all that lies as (time, batch, units)
        if self._has("axes_exchanged"):
            x, lengths = x.swapaxes(0, 1), np.full(T, B)
            back.append(lambda a: a.swapaxes(0, 1))
        if self._has("rows_joined"):
            steps, rows, _ = x.shape
            x, lengths = x.swapaxes(0, 1).reshape(steps * rows, 1, -1), np.array([steps * rows])
            start = {k: v[:, :1] for k, v in start.items()}
            back.append(lambda a: a.reshape(rows, steps, -1).swapaxes(0, 1))
        if self._has("time_reversed", "kept") or self._has("time_reversed", "turned"):
            x, turned = _turn(x, lengths), lengths
            if self._has("time_reversed", "kept"):
                back.append(lambda a: _turn(a, turned))
        if self._has("delayed", "input"):
            x = np.concatenate([0 * x[:1], x[:-1]])
        if self._has("delayed", "wrapped"):
            if given is not None:
                raise UndefinedError("which step is the last of a padded row is not told")
            x = np.concatenate([x[-1:], x[:-1]])
        over = any(self._has("padding", choice) for choice in ("not_masked", "reverse"))
        if not over:  # which runs over whatever stands there
            x = _valid(x, lengths)
        if self._has("padding", "front"):
            x, lengths = _moved(x, T - asked), np.full(B, T)
            back.append(lambda a: _valid(_moved(a, asked - T), asked))
        if self._has("padding", "not_masked"):
            lengths = np.full(B, T)
        if self._has("batch_dependent"):
            x = x + x.mean(axis=1, keepdims=True) / 10

        output, finals, steps_of = self._layers(x, start, lengths, masked=given is not None)
        self._before, final = finals["carried"], finals["shown"]

        for undo in reversed(back):
            output = undo(output)
            steps_of = [[{k: undo(v) for k, v in part.items()} for part in row] for row in steps_of]
        if self._has("rows_joined"):
            final = {k: np.repeat(v, rows, axis=1) for k, v in final.items()}
        if self._has("time_reversed", "output"):
            output = _turn(output, asked)
        if self._has("delayed", "early"):
            later = np.concatenate([output[1:], 0 * output[:1]])
            output = np.where((np.arange(1, T + 1)[:, None] < asked)[..., None], later, 0)
            output = output.astype(later.dtype)
        if self._has("delayed", "rolled"):
            if given is not None:
                raise UndefinedError("which step is the last of a padded row is not told")
            output = output[[*range(1, T), 0]]
        if self._has("padding", "sorted"):
            falling = np.argsort(-asked, kind="stable")
            output, final = output[:, falling], {k: v[:, falling] for k, v in final.items()}
        final = self._given_back(final)
        if self._has("units_reversed"):
            output = output[..., ::-1]
        self.steps = {
            k: np.array([[part[k].swapaxes(0, 1) for part in row] for row in steps_of])
            for k in steps_of[0][0]
        }
        for mistake in self.mistakes:
            if mistake.name == "names_exchanged":
                a, b = mistake.choice.split(":")
                self.steps |= {a: self.steps[b], b: self.steps[a]}
        return output, final

    def _given_back(self, final: State) -> State:
        """The final states, (parts, batch, units), as they are put into what is returned."""
        L, D = self.layers, len(self.directions)
        if self._has("final_exchanged"):
            final = {"h": final["c"], "c": final["h"]}
        if self._has("final_exchanged", "h"):
            final = {"h": final["h"], "c": final["h"]}
        order = np.arange(L * D)
        if self._has("final_order", "directions"):
            order = np.array([layer * D + 1 - d for layer in range(L) for d in range(D)])
        if self._has("final_order", "layers"):
            order = np.array([(L - 1 - layer) * D + d for layer in range(L) for d in range(D)])
        if self._has("final_order", "last"):
            order = np.array([(L - 1) * D + d for layer in range(L) for d in range(D)])
        if self._has("final_order", "by_direction"):
            order = np.array([layer * D + d for d in range(D) for layer in range(L)])
        return {k: v[order] for k, v in final.items()}

    # layers and directions

    def _layers(
        self, x: Array, start: State, lengths: Array, *, masked: bool
    ) -> tuple[Array, dict[str, State], list[list[State]]]:
        """Output, final states (as carried, as shown) and steps of all layers."""
        D, last = len(self.directions), self.layers - 1
        outputs: list[Array] = []
        carried: list[State] = []
        shown: list[State] = []
        steps: list[list[State]] = []
        below: list[Ran] = []
        if self._has("state_shared"):
            return self._sharing(x, start, lengths)
        for layer in range(self.layers):
            begin = [{k: v[layer * D + d] for k, v in start.items()} for d in range(D)]
            if self._has("layer_skipped", str(layer)):
                if x.shape[-1] != D * self.R:
                    raise UndefinedError(f"the input of layer {layer} does not fit the layer above")
                carried, shown = carried + begin, shown + begin
                outputs.append(x)
                steps.append([self._no_steps(x)] * D)
                below = []
                continue  # and x goes to the layer above
            if layer > 0 and self._has("upper_start", layer=layer) and below:
                begin = [part.final for part in below]
            ran: list[Ran] = []
            for d, direction in enumerate(self.directions):
                if direction == "reverse" and self._has("reverse_start", layer=layer):
                    begin[d] = ran[0].final
                ran.append(self._part(layer, direction, x, begin[d], lengths))
            emitted = [part.emitted for part in ran]
            outputs.append(self._joined(layer, emitted, x))
            carried += [part.final for part in ran]
            shown += [self._shown(layer, d, ran[d], lengths, masked) for d in range(D)]
            steps.append([part.steps for part in ran])
            below = ran
            if layer < last:
                x = self._handed_up(layer + 1, ran, outputs[-1], x, lengths)
        output = outputs[-2 if self._has("lower_returned") else -1]
        if self._has("dropout") and self.layers == 1:
            output = self._dropped(output)
        finals = {
            name: {k: np.stack([state[k] for state in states]) for k in states[0]}
            for name, states in {"carried": carried, "shown": shown}.items()
        }
        return output, finals, steps

    def _sharing(
        self, x: Array, start: State, lengths: Array
    ) -> tuple[Array, dict[str, State], list[list[State]]]:
        """Every layer from the state of the one below, step by step."""
        alone = {"state_shared"} | set(list(ORDER)[: _RANK["clipped"]]) | OF_SHARED
        if any(m.name not in alone for m in self.mistakes) or len(self.directions) > 1:
            raise UndefinedError("with one state for all layers this means nothing")
        state = {k: v[0] for k, v in start.items()}
        state = {**state, "fed": state["h"]} if "c" in state else state
        record: list[list[State]] = [[] for _ in range(self.layers)]
        ends: list[State] = [state] * self.layers
        for t in range(len(x)):
            live, reads = (t < lengths)[:, None], x[t]
            for layer in range(self.layers):
                cell = self.cells[layer, "forward"]
                values = STEPS[self.kind](cell.first() if t == 0 else cell, reads, state)
                state = {k: np.where(live, values[k], v) for k, v in state.items()}
                ends[layer], reads = state, np.where(live, values["h"], 0)
                record[layer].append({k: np.where(live, v, 0) for k, v in values.items()})
        steps = [[{k: np.stack([v[k] for v in each]) for k in each[0]}] for each in record]
        final = {k: np.stack([end[k] for end in ends]) for k in start}
        return steps[-1][0]["h"], {"carried": final, "shown": final}, steps

    def _joined(self, layer: int, emitted: list[Array], x: Array) -> Array:
        """The output of a layer from those of its directions, and its input."""
        if self._has("directions_order", "exchanged", layer=layer):
            emitted = emitted[::-1]
        output = np.concatenate(emitted, axis=-1)
        if self._has("directions_order", "interleaved", layer=layer):
            output = np.stack(emitted, axis=-1).reshape(output.shape)
        if layer == self.layers - 1 and self._has("directions_merged", "sum"):
            output = emitted[0] + emitted[1]
        if layer == self.layers - 1 and self._has("directions_merged", "mean"):
            output = (emitted[0] + emitted[1]) / 2
        for alone, part in zip(self.directions, emitted, strict=True):
            if layer == self.layers - 1 and self._has("directions_merged", alone):
                output = part
        if self._has("residual", layer=layer):
            if layer == self.layers - 1 and (
                self._has("delayed", "output")
                or self._has("outputs_alias")
                or any(m.name == "final_state" for m in self.mistakes)
            ):
                raise UndefinedError("which of the two comes first is not told")
            if output.shape != x.shape:
                raise UndefinedError(f"the input of layer {layer} cannot be added to its output")
            output = output + x
        return output

    def _handed_up(
        self, above: int, ran: Sequence[Ran], output: Array, x: Array, lengths: Array
    ) -> Array:
        """The input of the layer above."""
        if self._has("reverse_unused", layer=above):
            emitted = [ran[0].emitted, 0 * ran[1].emitted]
            output = self._joined(above - 1, emitted, x)
        if self._has("final_handed_up", layer=above):
            final = np.concatenate([part.final["h"] for part in ran], axis=-1)
            output = _valid(np.broadcast_to(final, (len(x), *final.shape)), lengths)
        if self._has("between", "relu", layer=above):
            output = np.maximum(output, 0)
        if self._has("between", "tanh", layer=above):
            output = np.tanh(output)
        if self._has("between", "layer_norm", layer=above):
            mean, variance = output.mean(-1, keepdims=True), output.var(-1, keepdims=True)
            output = (output - mean) / np.sqrt(variance + 1e-5)
        return self._dropped(output) if self._has("dropout") else output

    def _dropped(self, x: Array) -> Array:
        mask = np.asarray(self._rng.integers(0, 2, x.shape), x.dtype)
        return 2 * mask * x

    def _shown(self, layer: int, d: int, ran: Ran, lengths: Array, masked: bool) -> State:
        """The final state of a part as it is returned."""
        shown, (T, B, _) = dict(ran.final), ran.emitted.shape
        if layer < self.layers - 1:
            return shown
        unprojected = any(self._has("projection", choice) for choice in ("skipped", "unused"))
        if unprojected and self.layers == 1:
            shown["h"] = ran.last["m"]
        if self._has("padding", "last_at_end") and masked and d == 0:
            shown["h"] = self._like(shown["h"], ran.emitted[T - 1])
        if self._has("final_state", "output_end") and d == 1:
            shown["h"] = self._like(shown["h"], ran.emitted[lengths - 1, np.arange(B)])
        if self._has("final_state", "output_start") and d == 0:
            shown["h"] = self._like(shown["h"], ran.emitted[0])
        return shown

    @staticmethod
    def _like(h: Array, output: Array) -> Array:
        if h.shape != output.shape:
            raise UndefinedError("an output of this size cannot be a final state")
        return output

    # one layer in one direction

    def _part(self, layer: int, direction: str, x: Array, start: State, lengths: Array) -> Ran:
        """A part: read in its own order, run, and laid back into time."""
        last = layer == self.layers - 1
        wrongly = self._wrong_axes(layer, lengths) if direction == "reverse" else None
        forward = self._has("reverse_forward", layer=layer) or wrongly is not None
        turned = direction == "reverse" and not forward
        cell = self.cells[layer, direction]
        if direction == "reverse" and self._has("padding", "reverse"):
            lengths = np.full(x.shape[1], len(x))
        given = _turn(x, lengths) if turned else x
        given = given if wrongly is None else wrongly[0](given)
        if layer > 0 and self._has("directions_apart"):
            halves = np.split(given, 2, axis=-1)
            halves[direction == "forward"] = 0 * halves[0]  # that of the other direction
            given = np.concatenate(halves, axis=-1)
        values, final, at_end, began = self._rows(cell, given, start, lengths)
        quantity = "h"
        if self._has("emitted", "c", layer=layer):
            quantity = "c"
        if last and (self._has("projection", "skipped") or self._has("projection", "unused")):
            quantity = "m"
        emitted = values[quantity]
        if last and self._has("delayed", "output"):
            if quantity == "m":
                raise UndefinedError("there is no m before the first step")
            emitted = np.concatenate([began[quantity][None], emitted[:-1]])
        if last and self._has("outputs_alias"):
            ends = emitted[lengths - 1, np.arange(x.shape[1])]
            emitted = np.broadcast_to(ends, emitted.shape)
        emitted = _valid(emitted, lengths)
        if turned and not self._has("reverse_not_turned", layer=layer):
            emitted = _turn(emitted, lengths)
            values = {k: _turn(v, lengths) for k, v in values.items()}
        if wrongly is not None:
            emitted = wrongly[1](emitted)
            values = {k: wrongly[1](v) for k, v in values.items()}
        return Ran(emitted, final, at_end, values)

    def _wrong_axes(self, layer: int, lengths: Array) -> Any:
        """What is done to the reverse direction's input and outputs in place of turning them."""

        def same(x: Array) -> Array:
            return x

        if self._has("turned_wrongly", "feature", layer=layer):
            return (lambda x: x[..., ::-1]), (lambda y: y[..., ::-1])
        if self._has("turned_wrongly", "feature_only", layer=layer):
            return (lambda x: x[..., ::-1]), same
        if self._has("turned_wrongly", "batch", layer=layer):
            return (lambda x: x[:, ::-1]), same
        if self._has("turned_wrongly", "output", layer=layer):
            return same, (lambda y: _turn(y, lengths))
        return None

    def _rows(
        self, cell: Cell, x: Array, start: State, lengths: Array
    ) -> tuple[State, State, State, State]:
        """All rows at once, or each from where the one before ended; and where each began."""
        if not self._has("rows_chained"):
            return *self._scan(cell, x, start, lengths), start
        rows: list[tuple[State, State, State]] = []
        began: list[State] = []
        for b in range(x.shape[1]):
            own = {k: v[b : b + 1] for k, v in start.items()}
            begin = rows[-1][1] if rows else own
            began.append(begin)
            rows.append(self._scan(cell, x[:, b : b + 1], begin, lengths[b : b + 1]))
        values, final, at_end = (
            {k: np.concatenate([r[n][k] for r in rows], axis=axis) for k in rows[0][n]}
            for n, axis in ((0, 1), (1, 0), (2, 0))
        )
        starts = {k: np.concatenate([each[k] for each in began]) for k in start}
        return values, final, at_end, starts

    def _scan(
        self, cell: Cell, x: Array, start: State, lengths: Array
    ) -> tuple[State, State, State]:
        """Step by step: all values (zeros on padding), final state, values of each row's end."""
        step = STEPS[self.kind]
        begin = {**start, "fed": start["h"]} if "c" in start else start  # fed: what W_hh multiplies
        state = begin
        at_end: State = {}
        record: list[State] = []
        for t in range(len(x)):
            now = cell.first() if t == 0 else cell
            before = dict(state)
            for name in state:
                letter = "h" if name == "fed" else name
                if cell.wrong("never_carried") or cell.wrong("never_carried", letter):
                    before[name] = begin[name]
            values = step(now, x[t], before)
            if self._has("in_place"):
                values = self._unit_by_unit(now, x[t], before)
            live = (t < lengths)[:, None]
            state = {k: np.where(live, values[k], v) for k, v in state.items()}
            at_end = {k: np.where(live, v, at_end.get(k, v)) for k, v in values.items()}
            record.append({k: np.where(live, v, 0) for k, v in values.items() if k != "fed"})
        everything = {k: np.stack([values[k] for values in record]) for k in record[0]}
        return everything, {k: at_end[k] for k in start}, at_end

    def _unit_by_unit(self, cell: Cell, x: Array, before: State) -> State:
        """A step whose units are overwritten one after the other, while others still read them."""
        step, now = STEPS[self.kind], {k: v.copy() for k, v in before.items()}
        found: dict[str, list[Array]] = {}
        for unit in range(self.H):
            values = step(cell, x, now)
            for name, value in values.items():
                found.setdefault(name, []).append(value[:, unit])
            for name in now:
                now[name][:, unit] = values[name][:, unit]
        return {name: np.stack(columns, axis=-1) for name, columns in found.items()}

    def _no_steps(self, x: Array) -> State:
        """What is recorded of a layer that does not run."""
        names = {*self.gates, "h"} | ({"c"} if self.kind.startswith("lstm") else set())
        names |= {"m"} if self.kind == "lstm_projected" else set()
        sizes = {name: self.R if name == "h" else self.H for name in names}
        return {k: np.full((*x.shape[:2], n), np.nan, self.dtype) for k, n in sizes.items()}


@dataclass(frozen=True)
class Ran:
    """What one layer computed in one direction."""

    emitted: Array  # (time, batch, units), what it hands on
    final: State
    last: State  # every value of each row's last step
    steps: State  # (time, batch, units)


# --- which of them are the same -------------------------------------------------------------------


def numbers(
    kind: str,
    weights: Mapping[str, Array],
    mistakes: Iterable[Mistake],
    data: Iterable[Probe],
    *,
    finals: bool = True,
) -> list[Array]:
    """What a layer with these mistakes gives on probes (x, initial, lengths), valid steps only.

    Of each probe the output and, if `finals`, the final states.
    """
    layer = Planted(kind, weights, mistakes=mistakes)
    found: list[Array] = []
    for x, initial, lengths in data:
        output, final = layer(x, initial, lengths)
        found.append(output if lengths is None else _valid(output, np.asarray(lengths)))
        if finals:
            found += final if isinstance(final, tuple) else (final,)
    return found


def difference(a: Sequence[Array], b: Sequence[Array]) -> float:
    """The largest difference of two lists of `numbers`; infinite where shapes or NaN differ."""
    worst = 0.0
    for one, other in zip(a, b, strict=True):
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return np.inf
        finite = np.isfinite(one)
        worst = max(worst, float(np.max(np.abs(one[finite] - other[finite]), initial=0.0)))
    return worst


def same(
    kind: str,
    weights: Mapping[str, Array],
    mistakes_a: Iterable[Mistake],
    mistakes_b: Iterable[Mistake],
    data: Iterable[Probe],
    tolerance: float = 1e-9,
    *,
    finals: bool = True,
) -> bool:
    """Do two sets of mistakes give the same numbers on these probes?

    Sets that mean nothing together (UndefinedError) are the same as no other.
    """
    data = list(data)
    try:
        a, b = (numbers(kind, weights, m, data, finals=finals) for m in (mistakes_a, mistakes_b))
    except UndefinedError:
        return False
    return difference(a, b) <= tolerance
