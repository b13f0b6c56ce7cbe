"""Which mistakes can be planted in a layer, and where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from planted import DIRECTIONS, GATES, Mistake, functions_of

PORTED = ("ifog", "igfo", "iofg")
"""Orders of an LSTM's gates in other frameworks: what belongs to x or to h alone may have them."""


def applicable(
    kind: str,
    layers: int,
    directions: int,
    input_size: int,
    hidden_size: int,
    batch: int,
    *,
    bias: bool = True,
    proj_size: int = 0,
    lengths: bool = False,
    scoped: bool = True,
    steps: bool = False,
) -> list[Mistake]:
    """Every mistake of a search that fits, in the order of the catalogue.

    A scope is given where it fits in all of its parts. Left out is what is always the same as
    another or as none: layer= on one layer, W without biases (all), layer 0's states for every
    layer on one layer. Of padding there is something with lengths only; then neither
    axes_exchanged nor rows_joined. axes_exchanged wants no initial states. What is wrong in what
    is recorded shows where ``steps`` are.
    """
    L, D, H, R = layers, directions, hidden_size, proj_size or hidden_size
    inputs = [input_size] + [D * R] * (L - 1)  # by layer
    over_layers = [None, *range(L)] if L > 1 and scoped else [None]
    over_directions = [None, *DIRECTIONS] if D > 1 and scoped else [None]

    def everywhere(name: str, choice: str = "", tensors: str = "") -> Iterator[Mistake]:
        yield Mistake(name, choice, tensors)

    def by_layer(
        name: str, choice: str = "", fits: Callable[[int], bool] = lambda _: True, lowest: int = 0
    ) -> Iterator[Mistake]:
        for layer in over_layers:
            covered = range(lowest, L) if layer is None else [layer]
            if covered and min(covered) >= lowest and all(fits(inputs[each]) for each in covered):
                yield Mistake(name, choice, layer=layer)

    def by_part(
        name: str,
        choice: str = "",
        tensors: str = "",
        fits: Callable[[int], bool] = lambda _: True,
    ) -> Iterator[Mistake]:
        for mistake, direction in itertools.product(by_layer(name, choice, fits), over_directions):
            yield Mistake(name, choice, tensors, mistake.layer, direction)

    found = itertools.chain(
        _of_weights(kind, L, D, inputs, H, R, bias, everywhere, by_layer, by_part),
        _of_equations(kind, L, bool(proj_size), everywhere, by_layer, by_part),
        _of_steps(kind, everywhere, by_part) if steps else (),
        _of_states(kind, L, D, batch, bias, R == H, everywhere, by_part),
        _of_time(D, batch, lengths, everywhere),
        _of_directions(kind, L, D, inputs, D * R, everywhere, by_layer),
        _of_returned(kind, L, D, R == H, D * R, everywhere),
    )
    return list(found)


Entries = Callable[..., Iterator[Mistake]]


def _of_weights(
    kind: str,
    L: int,
    D: int,
    inputs: list[int],
    H: int,
    R: int,
    bias: bool,
    everywhere: Entries,
    by_layer: Entries,
    by_part: Entries,
) -> Iterator[Mistake]:
    gates = GATES[kind]
    if R == H:
        yield from everywhere("flat", "start")
        several = ("weights_biases", "biases_weights") if L * D > 1 else ()
        for order in (*several, "ih_hh", "biases_first", "hh_first") if bias else ("hh_first",):
            for way in ("read", "stored"):
                yield from everywhere("flat", f"{way}:{order}")
    yield from by_part("concatenated", "", "", lambda size: size != R)
    for used, gate in itertools.permutations(gates, 2):
        for which in ("W_ih", "W_hh"):
            yield from by_part("rows_repeated", f"{used}:{gate}", which)
    tensors = ("all", "W", "W_ih", "W_hh", "b") if bias else ("all", "W_ih", "W_hh")
    for order in map("".join, itertools.permutations(gates)):
        ported = bias and (kind == "gru" or order in PORTED)
        for which in (*tensors, "ih", "hh", "b_ih", "b_hh") if ported else tensors:
            if order != gates:
                yield from by_part("gate_order", order, which)
    if len(gates) > 1:
        for choice, which in itertools.product(("read", "stored"), tensors):
            yield from by_part("interleaved", choice, which)
    yield from by_part("transposed", "", "W_ih", lambda size: size == H)
    if R == H:
        yield from by_part("transposed", "", "W_hh")
        yield from by_part("transposed", "", "W", lambda size: size == H)
    for choice, which in itertools.product(("", "kernel"), ("W_ih", "W_hh", "W")):
        yield from by_part("reshaped", choice, which)
    yield from by_part("matrices_exchanged", "", "", lambda size: size == R)
    if bias:
        for name in ("bias_missing", "bias_doubled", "bias_twice"):
            for which in ("b_ih", "b_hh"):
                yield from by_part(name, "", which)
        yield from by_part("bias_missing", "", "b")
        if kind == "gru":
            yield from by_part("bias_missing", "n", "b_hh")
            yield from by_part("bias_missing", "rz", "b_hh")
            yield from by_part("biases_exchanged")
            yield from by_part("bias_merged")
            yield from by_part("bias_summed")
            yield from by_part("bias_summed", "rz")
    if kind.startswith("lstm"):
        yield from by_part("forget_bias", "before")
        yield from by_part("forget_bias", "after")
        yield from by_part("forget_bias", "subtracted")
    for name in ("layers_exchanged", "layers_repeated"):
        for a, b in itertools.permutations(range(L), 2):
            if inputs[a] == inputs[b] and (name == "layers_repeated" or a < b):
                yield from everywhere(name, f"{a},{b}")
    if D > 1:
        yield from by_layer("directions_exchanged")
        yield from by_layer("directions_repeated", "forward")
        yield from by_layer("directions_repeated", "reverse")


def _of_equations(
    kind: str, L: int, projected: bool, everywhere: Entries, by_layer: Entries, by_part: Entries
) -> Iterator[Mistake]:
    if kind == "gru":
        for name in ("reset_before", "reset_whole", "reset_input", "no_reset", "update_exchanged"):
            yield from by_part(name)
        for choice in ("unused", "both", "added", "new"):
            yield from by_part("update", choice)
        yield from by_part("inverted", "r")
        for choice in ("z:r", "r:z"):
            yield from by_part("other_gate", choice)
    functions = functions_of(kind)
    for quantity, own in functions.items():
        others = {"tanh": ("relu", "sigmoid", "linear"), "relu": ("tanh", "linear")}.get(own, ())
        for other in others:
            yield from by_part("activation", f"{quantity}:{other}")
    if list(functions.values()).count("tanh") > 1:
        yield from by_part("activation", "tanh:relu")
    if "tanh" in functions.values():
        yield from by_part("activation", "tanh:hard_tanh")
        yield from by_part("activation", "tanh:softsign")
    if "sigmoid" in functions.values():
        yield from by_part("activation", "sigmoid:hard_sigmoid")
        yield from by_part("activation", "sigmoid:hard_sigmoid(0.2, 0.5)")
        yield from by_part("activation", "sigmoid:hard_sigmoid(0.25, 0.5)")
        yield from by_part("activation", "sigmoid:hard_sigmoid(0.5, 0.5)")
        yield from by_part("activation", "sigmoid:sigmoid(2a)")
        yield from by_part("activation", "sigmoid:tanh")
        yield from by_part("activation", "sigmoid:sigmoid(-a)")
    if kind.startswith("lstm"):
        yield from by_part("old_cell")
        yield from by_part("coupled", "f")
        yield from by_part("coupled", "i")
        for gate in "ifo":
            yield from by_part("gate_unused", gate)
        for choice in ("f:i", "i:f", "i:o", "f:o"):
            yield from by_part("other_gate", choice)
        yield from by_part("squashed")
        yield from by_part("squashed", "outside")
        for gate in "fio":
            yield from by_part("inverted", gate)
        for state in ("c", "m" if projected else "h"):
            yield from by_part("summed", state)
        if L == 1 and not projected:  # the limit is read from c, which the output tells there
            yield from by_part("clipped", "c:0.35")
        if projected:
            yield from by_part("projection", "not_fed_back")
            yield from everywhere("projection", "skipped")
            if L == 1:
                yield from everywhere("projection", "unused")
        else:
            yield from by_layer("emitted", "c")
            for choice in ("fed", "carried", "both"):
                yield from by_part("confused", choice)
    if L == 1:  # measured where the layers below are right
        yield from by_part("mixed", "h:0.1")
        yield from by_part("scaled", "h:0.9")
    if not projected:
        for limit in ("0.5",):  # others are read off the numbers: test_compare_facts
            yield from by_part("clipped", f"h:{limit}")


def _of_steps(kind: str, everywhere: Entries, by_part: Entries) -> Iterator[Mistake]:
    if not kind.startswith("rnn"):
        for choice in (*GATES[kind], "all"):
            yield from by_part("unapplied", choice)
        for pair in itertools.combinations(GATES[kind], 2):
            yield from everywhere("names_exchanged", ":".join(pair))


def _of_states(
    kind: str,
    L: int,
    D: int,
    B: int,
    bias: bool,
    same_size: bool,
    everywhere: Entries,
    by_part: Entries,
) -> Iterator[Mistake]:
    lstm = kind.startswith("lstm")
    for choice in ("all", "h", "c") if lstm else ("all",):
        yield from everywhere("initial_ignored", choice)
    if L > 1:
        yield from everywhere("initial_ignored", "upper")
    for direction in DIRECTIONS if D > 1 else ():
        yield from everywhere("initial_ignored", direction)
    if lstm and same_size:
        for choice in ("", "h", "c"):
            yield from everywhere("initial_exchanged", choice)
    if L * D == B > 1:
        yield from everywhere("initial_batch_first")
    if L * D > 1 and B > 1:
        yield from everywhere("initial_reshaped")
    if L * D > 1:
        yield from everywhere("initial_first", "part")
        for choice in ("h", "c") if lstm else ():
            yield from everywhere("initial_first", choice)
    if L > 1 and D > 1:
        yield from everywhere("initial_first", "layer")
        yield from everywhere("initial_order")
        yield from everywhere("initial_order", "added")
    if bias:
        for choice in ("n", "all") if kind == "gru" else ("all",):
            yield from by_part("first_bias", choice)
    for choice in ("", "h", "c") if lstm else ("",):
        yield from by_part("never_carried", choice)
    if same_size:
        yield from everywhere("in_place")
    if B > 1:
        yield from everywhere("rows_chained")


def _of_time(D: int, B: int, lengths: bool, everywhere: Entries) -> Iterator[Mistake]:
    if not lengths:
        yield from everywhere("axes_exchanged")
    if not lengths and B > 1:
        yield from everywhere("rows_joined")
    for choice in ("kept", "turned", "output"):
        yield from everywhere("time_reversed", choice)
    for choice in ("output", "input", "early"):
        yield from everywhere("delayed", choice)
    if not lengths:
        for choice in ("wrapped", "rolled"):
            yield from everywhere("delayed", choice)
    if lengths:
        for choice in ("front", "not_masked", "last_at_end", "sorted", *["reverse"] * (D > 1)):
            yield from everywhere("padding", choice)


def _of_directions(
    kind: str,
    L: int,
    D: int,
    inputs: list[int],
    width: int,
    everywhere: Entries,
    by_layer: Entries,
) -> Iterator[Mistake]:
    if D > 1:
        yield from by_layer("reverse_not_turned")
        yield from by_layer("reverse_forward")
        yield from by_layer("reverse_unused", lowest=1)
        yield from by_layer("directions_order", "exchanged")
        yield from by_layer("directions_order", "interleaved")
        for choice in ("sum", "mean", *DIRECTIONS):
            yield from everywhere("directions_merged", choice)
        yield from by_layer("reverse_start")
        for choice in ("feature", "feature_only", "batch", "output"):
            yield from by_layer("turned_wrongly", choice)
    if L > 1 and D > 1:
        yield from everywhere("directions_apart")
    if L > 1:
        for layer in range(L):
            if inputs[layer] == width:
                yield from everywhere("layer_skipped", str(layer))
        yield from everywhere("lower_returned")
        yield from by_layer("upper_start", lowest=1)
        yield from by_layer("final_handed_up", lowest=1)
        for choice in ("relu", "tanh", "layer_norm")[kind == "rnn_relu" :]:
            yield from by_layer("between", choice, lowest=1)
        if D == 1:
            yield from everywhere("state_shared")
    yield from by_layer("residual", fits=lambda size: size == width)
    yield from everywhere("outputs_alias")
    yield from everywhere("final_state", "output_start")
    if D > 1:
        yield from everywhere("final_state", "output_end")


def _of_returned(
    kind: str, L: int, D: int, same_size: bool, width: int, everywhere: Entries
) -> Iterator[Mistake]:
    if kind.startswith("lstm") and same_size:
        yield from everywhere("final_exchanged")
        yield from everywhere("final_exchanged", "h")
    if D > 1:
        yield from everywhere("final_order", "directions")
    if L > 1:
        yield from everywhere("final_order", "layers")
        yield from everywhere("final_order", "last")
    if L > 1 and D > 1:
        yield from everywhere("final_order", "by_direction")
    if width > 1:
        yield from everywhere("units_reversed")
