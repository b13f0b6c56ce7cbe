"""Mistakes as porters make them, in loops of torch and NumPy, and slips that make two at once."""

from __future__ import annotations

import copy
from typing import Any

import mutations
import numpy as np
import pytest
import torch
from museum.plain import arrays, lstm_run, lstm_step, part, sigmoid, trained, zeros
from planted import Mistake
from planting import Setting, plant
from torch import nn

import rnnscope as rs
from rnnscope import cells
from rnnscope._compare.mistakes import CATALOGUE

Array = np.ndarray[Any, Any]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def named(verdict: Any) -> list[str]:
    return [str(cause) for cause in verdict.causes]


# --- what a porter writes -------------------------------------------------------------------------


def test_one_state_for_all_cells() -> None:
    """`for cell in cells: h, c = cell(inp, (h, c)); inp = h`, by torch's own cells."""
    layer = trained(nn.LSTM(3, 4, 3))
    steps = [nn.LSTMCell(size, 4).double() for size in (3, 4, 4)]
    for k, cell in enumerate(steps):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell.load_state_dict({name: layer.state_dict()[f"{name}_l{k}"] for name in names})

    def port(x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[1], 4, dtype=x.dtype)
        outputs = []
        for inp in x:
            for cell in steps:
                h, c = cell(inp, (h, c))
                inp = h
            outputs.append(h)
        return torch.stack(outputs)

    assert named(rs.compare(port, layer)) == ["state_shared"]


@pytest.mark.parametrize("name", ["relu", slow("tanh"), "layer_norm"])
def test_a_function_between_layers(name: str) -> None:
    layer = trained(nn.GRU(3, 4, 3))
    parts = [trained(nn.GRU(size, 4)) for size in (3, 4, 4)]
    for k, each in enumerate(parts):
        state = layer.state_dict()
        each.load_state_dict(
            {key: state[key.replace("_l0", f"_l{k}")] for key in each.state_dict()}
        )
    functions = {"relu": torch.relu, "tanh": torch.tanh, "layer_norm": nn.LayerNorm(4).double()}

    def port(x: torch.Tensor) -> torch.Tensor:
        for k, each in enumerate(parts):
            x = each(x if k == 0 else functions[name](x))[0]
        return x

    assert named(rs.compare(port, layer)) == [f"between {name}"]


def test_h_and_x_are_joined_in_the_other_order() -> None:
    layer = trained(nn.LSTM(3, 4))

    def port(x: Array) -> Array:
        W_ih, W_hh, b_ih, b_hh = part(arrays(layer))
        W = np.concatenate([W_ih, W_hh], 1)
        h, c, outputs = zeros(x, 4), zeros(x, 4), []
        for x_t in x:
            i, f, g, o = np.split(np.concatenate([h, x_t], 1) @ W.T + b_ih + b_hh, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs)

    assert named(rs.compare(port, layer)) == ["concatenated"]


def test_a_flat_array_in_cudnns_order() -> None:
    layer = trained(nn.GRU(4, 4, 2))
    flat = torch.cat([p.detach().reshape(-1) for p in layer.parameters()])
    read = trained(nn.GRU(4, 4, 2), seed=1)
    parameters = dict(read.named_parameters())
    start = 0
    with torch.no_grad():
        for name in sorted(parameters, key=lambda name: name.startswith("bias")):
            value = parameters[name]
            value.copy_(flat[start : start + value.numel()].reshape(value.shape))
            start += value.numel()
    assert named(rs.compare(lambda x, initial=None: read(x, initial), layer)) == [
        "flat read:weights_biases"
    ]


@pytest.mark.parametrize("both", [False, True])
def test_a_fused_bias_inside_of_the_reset(both: bool) -> None:
    layer = trained(nn.GRU(3, 4))

    def port(x: Array) -> Array:
        W_ih, W_hh, b_ih, b_hh = part(arrays(layer))
        h, bias, outputs = zeros(x, 4), b_ih + b_hh, []
        of_x = bias if both else np.concatenate([bias[:8], np.zeros(4)])
        for x_t in x:
            a_r, a_z, a_n = np.split(x_t @ W_ih.T + of_x, 3, axis=1)
            u_r, u_z, u_n = np.split(h @ W_hh.T, 3, axis=1)
            z = sigmoid(a_z + u_z)
            n = np.tanh(a_n + sigmoid(a_r + u_r) * (u_n + bias[8:]))
            h = (1 - z) * n + z * h
            outputs.append(h)
        return np.stack(outputs)

    assert named(rs.compare(port, layer)) == [f"bias_merged {'both' if both else 'inside'}"]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("gates", "layers"), [("", 1), ("rz", 1), ("", 2)])
def test_a_bias_of_x_that_holds_both_beside_that_of_h(
    gates: str, layers: int, recorded: bool
) -> None:
    """As converters sum the biases, and add that of h again."""
    layer = trained(nn.GRU(3, 4, layers, bidirectional=layers == 2))
    port = copy.deepcopy(layer)
    with torch.no_grad():
        for name, bias in port.named_parameters():
            if "bias_ih" in name:
                rows = slice(8 if gates else None)
                bias[rows] += port.get_parameter(name.replace("ih", "hh"))[rows]
    x = torch.randn(7, 2, 3).double()
    verdict = rs.compare(port(x)[0] if recorded else lambda x: port(x)[0], layer, *[x] * recorded)
    assert named(verdict) == [f"bias_summed{' ' * bool(gates)}{gates}"]


@pytest.mark.parametrize("order", ["zrn", "nzr"])
def test_summed_biases_beside_another_order_of_gates(order: str) -> None:
    layer = trained(nn.GRU(3, 4))
    port, blocks = copy.deepcopy(layer), ["rzn".index(gate) for gate in order]
    with torch.no_grad():
        port.bias_ih_l0 += port.bias_hh_l0
        for value in port.parameters():
            value.copy_(torch.cat([value.chunk(3)[block] for block in blocks]))
    causes = named(rs.compare(lambda x: port(x)[0], layer))
    assert sorted(causes) == ["bias_summed", *[c for c in causes if c.startswith("gate_order")]]


@pytest.mark.parametrize("zeros_above", [False, True])
def test_a_bias_that_is_added_before_the_product(zeros_above: bool) -> None:
    layer = trained(nn.RNN(3, 4, 2))

    def port(x: Array, initial: Array) -> Array:
        for k in range(2):
            W_ih, W_hh, b_ih, b_hh = part(arrays(layer), f"_l{k}")
            h, outputs = initial[k] * (not zeros_above or k == 0), []
            for x_t in x:
                h = np.tanh(x_t @ W_ih.T + b_ih + (h + b_hh) @ W_hh.T)
                outputs.append(h)
            x = np.stack(outputs)
        return x

    causes = named(rs.compare(port, layer))
    assert causes == ["bias_before of b_hh", *["initial_ignored upper"] * zeros_above]


@pytest.mark.parametrize("decimals", [None, 4])
def test_tanh_and_sigmoid_are_exchanged(decimals: int | None) -> None:
    layer, x = trained(nn.GRU(3, 4)), torch.randn(9, 2, 3).double()
    W_ih, W_hh, b_ih, b_hh = part(arrays(layer))
    h, recorded = zeros(x.numpy(), 4), []
    for x_t in x.numpy():
        a_r, a_z, a_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=1)
        u_r, u_z, u_n = np.split(h @ W_hh.T + b_hh, 3, axis=1)
        r, z = np.tanh(a_r + u_r), np.tanh(a_z + u_z)
        n = sigmoid(a_n + r * u_n)
        h = (1 - z) * n + z * h
        recorded.append((h, r, z, n))
    names = ("output", "r", "z", "n")
    numbers = dict(zip(names, map(np.stack, zip(*recorded, strict=True)), strict=True))
    if decimals is not None:
        numbers = {name: value.round(decimals) for name, value in numbers.items()}
    causes = named(rs.compare(numbers, layer, x))
    assert causes[0] == "activation exchanged"
    assert len(causes) == 1 + (decimals is not None)


def test_upper_layers_read_forward_twice() -> None:
    layer = trained(nn.RNN(3, 4, 2, bidirectional=True))
    layers = [trained(nn.RNN(size, 4, bidirectional=True)) for size in (3, 8)]
    for k, each in enumerate(layers):
        state = layer.state_dict()
        each.load_state_dict({n: state[n.replace("_l0", f"_l{k}")] for n in each.state_dict()})

    def port(x: torch.Tensor) -> torch.Tensor:
        below, _ = layers[0](x)
        result: torch.Tensor = layers[1](below[..., :4].repeat(1, 1, 2))[0]
        return result

    assert named(rs.compare(port, layer)) == ["reverse_unused twice"]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("layers", [2, slow(3)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, slow(nn.RNN)])
def test_two_stacks_that_meet_at_the_top_alone(kind: Any, layers: int, recorded: bool) -> None:
    """TensorFlow's bidirectional_dynamic_rnn over MultiRNNCell, by stacks of one direction."""
    layer, stacks = trained(kind(3, 4, layers, bidirectional=True)), []
    for d, end in enumerate(("", "_reverse")):
        stack = kind(3, 4, layers).double()
        state = {n: layer.state_dict()[n + end] for n in stack.state_dict()}
        for name, value in state.items():
            if name.startswith("weight_ih") and not name.endswith("l0"):
                state[name] = value[:, 4 * d : 4 * d + 4]
        stack.load_state_dict(state)
        stacks.append(stack)

    def port(x: torch.Tensor) -> torch.Tensor:
        forward, reverse = stacks[0](x)[0], stacks[1](x.flip(0))[0].flip(0)
        return torch.cat([forward, reverse], -1)

    x = torch.randn(6, 2, 3).double()
    verdict = rs.compare(port(x) if recorded else port, layer, *[x] * recorded)
    assert named(verdict) == ["directions_apart"]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("ignored", [0, slow(1)])
@pytest.mark.parametrize(("kind", "layers"), [(nn.LSTM, 1), (nn.GRU, 2), slow(nn.RNN, 2)])
def test_one_direction_starts_from_zeros(
    kind: Any, layers: int, ignored: int, recorded: bool
) -> None:
    layer = trained(kind(3, 4, layers, bidirectional=True))

    def port(x: torch.Tensor, initial: Any) -> torch.Tensor:
        states = initial if isinstance(initial, tuple) else (initial,)
        states = tuple(value.clone() for value in states)
        for value in states:
            value[ignored::2] = 0
        output: torch.Tensor = layer(x, states if len(states) > 1 else states[0])[0]
        return output

    x = torch.randn(6, 2, 3).double()
    h_0 = torch.randn(2 * layers, 2, 4).double()
    initial = (h_0, h_0.flip(0)) if kind is nn.LSTM else h_0
    verdict = (
        rs.compare(port(x, initial), layer, x, initial) if recorded else rs.compare(port, layer)
    )
    assert named(verdict) == [f"initial_ignored {('forward', 'reverse')[ignored]}"]


@pytest.mark.parametrize("masked", [False, True])
def test_an_output_with_its_padding_in_front(masked: bool) -> None:
    layer, x = trained(nn.LSTM(3, 4)), torch.randn(7, 3, 3).double()
    lengths = torch.tensor([7, 5, 2])
    output = torch.zeros(7, 3, 4).double()
    for k, length in enumerate(lengths.tolist()):
        x[length:, k] = 0
        front = torch.cat([x[length:, k], x[:length, k]])[:, None]
        run = layer(front[7 - length :])[0] if masked else layer(front)[0][7 - length :]
        output[7 - length :, k] = run[:, 0].detach()
        if not masked:
            output[: 7 - length, k] = layer(front)[0][: 7 - length, 0].detach()
    verdict = rs.compare({"output": output}, layer, x, lengths=lengths)
    assert named(verdict) == [f"padding {'moved' if masked else 'front_kept'}"]


def test_matrices_and_biases_are_exchanged() -> None:
    """Of one size: no array of all parameters need be there."""
    layer = trained(nn.GRU(4, 4))
    wrong = copy.deepcopy(layer)
    state = layer.state_dict()
    pairs = (("weight_ih_l0", "weight_hh_l0"), ("bias_ih_l0", "bias_hh_l0"))
    wrong.load_state_dict({a: state[b] for one in pairs for a, b in (one, one[::-1])})
    verdict = rs.compare(lambda x, initial: wrong(x, initial), layer)
    assert named(verdict) == ["flat read:hh_first"]
    assert len(verdict.explanations) == 1
    assert verdict.explanations[0].words[0].title.startswith("W_ih and W_hh are exchanged, and so")


@pytest.mark.parametrize("wrong_one", ["forward", "reverse"])
def test_the_line_to_write_is_that_of_the_direction_that_is_wrong(wrong_one: str) -> None:
    layer = trained(nn.RNN(3, 4, bidirectional=True))
    wrong = copy.deepcopy(layer)
    state = layer.state_dict()
    for name in list(state):
        if name.endswith("_reverse") == (wrong_one == "reverse"):
            other = name.removesuffix("_reverse") if wrong_one == "reverse" else f"{name}_reverse"
            wrong.get_parameter(name).data.copy_(state[other])
    verdict = rs.compare(lambda x, initial: wrong(x, initial), layer)
    assert verdict.explanations[0].words[0].repair.startswith(f"{wrong_one}: weight_ih_l0")


@pytest.mark.parametrize("missing", [(), ("b_hh",), ("tanh",)])
def test_a_gate_that_is_cut_from_the_place_of_another(missing: tuple[str, ...]) -> None:
    """`o = sigmoid(a[:, 2 * H : 3 * H])`, alone and beside another mistake."""
    layer = trained(nn.LSTM(3, 4))

    def port(x: Array) -> Array:
        W_ih, W_hh, b_ih, b_hh = part(arrays(layer))
        h, c, outputs = zeros(x, 4), zeros(x, 4), []
        for x_t in x:
            a = x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh * ("b_hh" not in missing)
            i, f, g, _ = np.split(a, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * (g if "tanh" in missing else np.tanh(g))
            h = sigmoid(g) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs)

    verdict = rs.compare(port, layer)
    assert "rows_repeated g:o" in named(verdict)
    assert len(verdict.causes) == 1 + len(missing)


@pytest.mark.parametrize("limit", [slow(1.0), 3.0, slow(2.25)])
def test_a_cell_state_that_is_clipped(limit: float) -> None:
    """Where the data reach the limit; an unusual one is read from c_n."""
    layer = trained(nn.LSTM(3, 4))

    def port(x: Array) -> Any:
        h, c, outputs = zeros(x, 4), zeros(x, 4), []
        W_ih, W_hh, b_ih, b_hh = part(arrays(layer))
        for x_t in x:
            i, f, g, o = np.split(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=1)
            c = np.clip(sigmoid(f) * c + sigmoid(i) * np.tanh(g), -limit, limit)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs), (h[None], c[None])

    x = 5 * np.random.default_rng(1).normal(size=(1, 6, 3)).repeat(16, 0)
    text = " ".join(str(rs.compare(port, layer, x)).split())
    assert f"c is clipped at {limit:g}" in text or f"c is clipped at ±{limit:g}" in text


def test_what_the_data_do_not_reach_is_said() -> None:
    layer = trained(nn.LSTM(3, 4))
    verdict = rs.compare(layer, layer, torch.randn(5, 2, 3, dtype=torch.float64) / 10)
    assert verdict.agrees
    assert any("|c| exceeds" in words for words in verdict.unseen)


@pytest.mark.parametrize("share", [0.1, slow(0.35)])
@pytest.mark.parametrize("kind", ["LSTM", slow("GRU"), slow("RNN")])
def test_zoneout_of_h(share: float, kind: str) -> None:
    layer = trained(getattr(nn, kind)(3, 4))
    cell = getattr(nn, f"{kind}Cell")(3, 4).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})

    def port(x: torch.Tensor) -> torch.Tensor:
        state: Any = None
        old = torch.zeros(x.shape[1], 4, dtype=x.dtype)
        outputs = []
        for x_t in x:
            state = cell(x_t, state)
            new = state[0] if kind == "LSTM" else state
            old = share * old + (1 - share) * new
            state = (old, state[1]) if kind == "LSTM" else old
            outputs.append(old)
        return torch.stack(outputs)

    assert named(rs.compare(port, layer)) == [f"mixed h:{share:g}"]


@pytest.mark.parametrize("choice", ["old", "unused", "outside"])
def test_peepholes(choice: str) -> None:
    layer = trained(rs.Recurrent(rs.cells.LSTM_PEEPHOLE, 3, 4))

    def port(x: Array) -> Array:
        weights = arrays(layer)
        W_ih, W_hh, b_ih, b_hh = part(weights)
        p_i, p_f, p_o = (weights[f"peephole_{gate}_l0"] for gate in "ifo")
        h, c, outputs = zeros(x, 4), zeros(x, 4), []

        def gate(a: Array, p: Array, seen: Array) -> Array:
            if choice == "unused":
                return sigmoid(a)
            return sigmoid(a) + p * seen if choice == "outside" else sigmoid(a + p * seen)

        for x_t in x:
            i, f, g, o = np.split(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=1)
            new = gate(f, p_f, c) * c + gate(i, p_i, c) * np.tanh(g)
            h = gate(o, p_o, c if choice == "old" else new) * np.tanh(new)
            c = new
            outputs.append(h)
        return np.stack(outputs)

    verdict = rs.compare(port, layer)
    assert named(verdict) == [f"peepholes {choice}"]


# --- one slip that makes two ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "mistake"),
    [
        (Setting("lstm"), Mistake("confused", "both")),
        slow(Setting("lstm", 2, 2), Mistake("confused", "both")),
        (Setting("lstm_projected"), Mistake("projection", "unused")),
        (Setting("lstm"), Mistake("forget_bias", "subtracted")),
        (Setting("gru", 1, 2), Mistake("turned_wrongly", "output")),
        slow(Setting("lstm", 1, 2), Mistake("turned_wrongly", "output")),
    ],
    ids=str,
)
@pytest.mark.parametrize("given", ["call", "output"])
def test_a_slip_that_makes_two(setting: Setting, mistake: Mistake, given: str) -> None:
    result = plant(setting, [mistake], given)
    assert result.outcome == "explained", str(result)
    assert named(result.verdict) == [str(mistake_cause(mistake))]


def mistake_cause(mistake: Mistake) -> Any:
    from rnnscope._compare.mistakes.cause import Cause

    return Cause(mistake.name, mistake.choice, mistake.tensors, mistake.layer, mistake.direction)


@pytest.mark.parametrize("order", ["ifgo", "ifog"])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_carry_that_is_handed_on_in_the_other_order(recorded: bool, order: str) -> None:
    """The first step takes h_0 and c_0 in order, every later one c as h and h as c."""
    layer = trained(nn.LSTM(3, 4))
    W, U, b, d = part(arrays(layer))

    def port(x: Array, initial: Any) -> Array:
        h, c = initial[0][0], initial[1][0]
        outputs = []
        for x_t in x:
            gates = dict(zip(order, np.split(x_t @ W.T + b + h @ U.T + d, 4, axis=1), strict=True))
            i, f, o = (sigmoid(gates[gate]) for gate in "ifo")
            c = f * c + i * np.tanh(gates["g"])
            h = o * np.tanh(c)
            outputs.append(h)
            h, c = c, h
        return np.stack(outputs)

    rng = np.random.default_rng(0)
    x, initial = rng.normal(size=(6, 2, 3)), tuple(rng.normal(size=(2, 1, 2, 4)))
    verdict = (
        rs.compare(port(x, initial), layer, x, initial) if recorded else rs.compare(port, layer)
    )
    more = ["gate_order ifog of all"] if order == "ifog" else []
    assert named(verdict) == [*more, "carried_exchanged"], str(verdict)


def test_reverse_that_runs_forward_and_is_not_turned_back() -> None:
    """Neither the input nor the outputs are turned: one mistake, and said as one."""
    layer = trained(nn.LSTM(3, 4, bidirectional=True))

    def port(x: Array) -> Array:
        weights = arrays(layer)
        halves = [
            lstm_run(part(weights, suffix), x, zeros(x, 4), zeros(x, 4))[0]
            for suffix in ("_l0", "_l0_reverse")
        ]
        return np.concatenate(halves, -1)

    assert named(rs.compare(port, layer)) == ["reverse_forward"]


@pytest.mark.parametrize(
    "beside",
    [
        Mistake("gate_order", "ifog", "all"),
        slow(Mistake("bias_missing", "", "b_hh")),
        slow(Mistake("activation", "tanh:hard_tanh")),
        slow(Mistake("concatenated")),
    ],
    ids=str,
)
def test_a_state_that_is_never_carried_beside_another_mistake(beside: Mistake) -> None:
    result = plant(Setting("lstm", input_size=3), [Mistake("never_carried"), beside], "call")
    assert result.outcome == "explained", str(result)


# --- the declarations -----------------------------------------------------------------------------


def test_every_entry_stands_once_and_has_words() -> None:
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert (entry.part is None) != (entry.model is None), name
        assert entry.measured is None or entry.examples or entry.only_seen, name


def test_a_state_that_is_written_while_it_is_read() -> None:
    """By a loop over units, of which each takes its step from what the others have left."""
    layer = trained(nn.LSTM(3, 4))

    def port(x: Array) -> Array:
        h, c, outputs = zeros(x, 4), zeros(x, 4), []
        for x_t in x:
            for unit in range(4):
                new_h, new_c = lstm_step(part(arrays(layer)), x_t, h, c)
                h, c = h.copy(), c.copy()
                h[:, unit], c[:, unit] = new_h[:, unit], new_c[:, unit]
            outputs.append(h)
        return np.stack(outputs)

    assert named(rs.compare(port, layer)) == ["in_place"]


UNNAMED_GATES = {
    "one": {"h": cells.tanh(cells.from_x("a") + cells.from_h("b"))},
    "two": {
        "n": cells.tanh(cells.from_x("n") + cells.sigmoid(cells.from_x("z") + cells.from_h("z"))),
        "h": cells.quantity("n") * 0.5,
    },
    "four": {
        "c": cells.sigmoid(cells.from_x("f") + cells.from_h("f")) * cells.previous("c")
        + cells.sigmoid(cells.from_x("i") + cells.from_h("i"))
        * cells.tanh(cells.from_x("g") + cells.from_h("g")),
        "h": cells.tanh(cells.quantity("c")),
    },
}


@pytest.mark.parametrize(("name", "gates"), [("one", "ab"), ("two", "zn"), ("four", "ifg")])
def test_gates_that_are_no_quantities_of_their_own(name: str, gates: str) -> None:
    cell = cells.Cell(name=name, gates=gates, equations=UNNAMED_GATES[name])
    layer = rs.Recurrent(cell, 3, 4)
    assert rs.compare(layer, layer).agrees
    wrong = copy.deepcopy(layer)
    with torch.no_grad():
        wrong.bias_ih_l0.zero_()
    verdict = rs.compare(lambda x, h=None: wrong(x, h), layer)
    assert not verdict.agrees
    assert "b_ih" in str(verdict.causes[0])


@pytest.mark.parametrize(
    ("kind", "beside"),
    [("lstm", Mistake("bias_missing", "", "b_hh")), ("gru", Mistake("initial_ignored", "all"))],
)
def test_rows_of_another_gate_beside_one_more_mistake(kind: str, beside: Mistake) -> None:
    repeated = Mistake("rows_repeated", "o:g" if kind == "lstm" else "n:r", "W_ih")
    result = plant(Setting(kind), [repeated, beside], "call")
    assert result.outcome == "explained", str(result)


def test_a_measured_number_is_not_proved_by_the_number_it_was_measured_on() -> None:
    """Of one number of a layer of one unit any share of the old state makes it agree."""
    assert mutations.unexplained(5000027, 1.0).outcome == "right"
