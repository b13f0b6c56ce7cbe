"""Recurrent: torch's own layers, loops in NumPy and autograd are the judges."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from configurations import HIDDEN, INPUT, PROJECTED, SOME, Case, Configuration, build, name_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import rnnscope as rs
from rnnscope._layers import run
from rnnscope.cells import (
    DECLARED,
    GRU,
    GRU_RESET_BEFORE,
    LSTM,
    LSTM_COUPLED,
    LSTM_COUPLED_PEEPHOLE,
    LSTM_PEEPHOLE,
    LSTM_PROJECTED,
    RNN_RELU,
    RNN_TANH,
    Cell,
    Function,
    apply,
    cells,
    from_h,
    from_x,
    previous,
    project,
    quantity,
    sigmoid,
    tanh,
    vector,
)

TORCHS = {
    "rnn_tanh": RNN_TANH,
    "rnn_relu": RNN_RELU,
    "gru": GRU,
    "lstm": LSTM,
    "lstm_proj": LSTM,
}
BEYOND = {name: cell for name, cell in DECLARED.items() if name not in cells.CELLS}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 3, "bidirectional": True, "batch_first": True},
    "reverse": {"reverse": True, "num_layers": 2},
    "no bias": {"bias": False},
}


# ── two declarations of a user's, of about ten lines ─────────────────────────────────────────

i, f, c, o = (quantity(name) for name in "ifco")
GERS = Cell(  # Gers and Schmidhuber 2000, "Recurrent nets that time and count", eq. 1-5
    name="Gers",
    gates="ifgo",
    equations={
        "i": sigmoid(from_x("i") + from_h("i") + vector("w_ic") * previous("c")),
        "f": sigmoid(from_x("f") + from_h("f") + vector("w_fc") * previous("c")),
        "g": tanh(from_x("g") + from_h("g")),
        "c": f * previous("c") + i * quantity("g"),
        "o": sigmoid(from_x("o") + from_h("o") + vector("w_oc") * c),
        "h": o * tanh(c),
    },
)
DT_BY_TAU = 0.25
LEAKY = Cell(  # τ s' = -s + U tanh(s) + W x + b by Euler's steps of dt; the rate tanh(s) is read
    name="leaky",
    gates="s",
    equations={
        "s": (1 - DT_BY_TAU) * previous("s") + DT_BY_TAU * (from_x("s") + from_h("s")),
        "h": tanh(quantity("s")),
    },
    words={"s": "potential", "h": "rate"},
)
LEARNT = Cell(  # the same with a rate that is learnt, one a unit
    name="learnt rate",
    gates="s",
    equations={
        "a": sigmoid(vector("rate")),
        "half": 0.5 * tanh(quantity("a")) * 2,
        "s": (1 - quantity("a")) * previous("s") + quantity("a") * (from_x("s") + from_h("s")),
        "h": tanh(quantity("s")),
    },
)
OWN = {"gers": GERS, "leaky": LEAKY, "learnt": LEARNT}
EVERY = {**BEYOND, **OWN}


def recurrent(cell: Cell, **options: Any) -> rs.Recurrent:
    """A layer in float64 with weights of order 1 and biases that are not zero."""
    layer = rs.Recurrent(cell, 3, 4, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.7)
    return layer


def flat(value: Any) -> list[Tensor]:
    """Every tensor in what a layer returns."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value if each is not None for tensor in flat(each)]


def size(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())


# ── torch's own cells ────────────────────────────────────────────────────────────────────────


def twin(configuration: Configuration, case: Case) -> rs.Recurrent:
    """A Recurrent with the weights of torch's layer."""
    layer = rs.Recurrent(
        TORCHS[configuration.cell],
        INPUT,
        HIDDEN,
        num_layers=configuration.num_layers,
        bias=configuration.bias,
        batch_first=configuration.batch_first,
        dropout=configuration.dropout,
        bidirectional=configuration.bidirectional,
        proj_size=PROJECTED if configuration.cell == "lstm_proj" else 0,
        dtype=configuration.dtype,
    )
    layer.load_state_dict(case.layer.state_dict())
    return layer.train(configuration.training)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_as_torchs_own(configuration: Configuration) -> None:
    """Outputs, states, gradients and dropout masks; types and shapes too."""
    case = build(configuration)
    layer = twin(configuration, case)
    returned, states = [], []
    for module in (case.layer, layer):
        torch.manual_seed(3)
        returned.append(module(*case.args, **case.kwargs))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    double = configuration.dtype == torch.float64
    theirs, ours = map(flat, returned)
    assert type(returned[0][0]) is type(returned[1][0])
    assert isinstance(returned[0][1], tuple) == isinstance(returned[1][1], tuple)
    for one, other in zip(theirs, ours, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert size(one - other) < (1e-12 if double else 1e-5) * (1 + size(one))
    gradients = []
    for module, tensors in ((case.layer, theirs), (layer, ours)):
        loss = sum((t.double() ** 2).sum() for t in tensors if t.requires_grad)
        parameters = dict(module.named_parameters())
        found = torch.autograd.grad(loss, list(parameters.values()))
        gradients.append(dict(zip(parameters, found, strict=True)))
    assert list(gradients[0]) == list(gradients[1])
    for name, one in gradients[0].items():
        allowed = (1e-11 if double else 1e-3) * (1 + size(one))
        assert size(one - gradients[1][name]) < allowed


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_weights_are_drawn_and_named_as_torchs(kind: str) -> None:
    cell = {"RNN": RNN_TANH, "GRU": GRU, "LSTM": LSTM}[kind]
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    if kind == "LSTM":
        options["proj_size"] = 2
    torch.manual_seed(5)
    theirs = getattr(nn, kind)(3, 4, **options)
    torch.manual_seed(5)
    ours = rs.Recurrent(cell, 3, 4, **options)
    one, other = theirs.state_dict(), ours.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    theirs.load_state_dict(other)


# ── loops in NumPy ───────────────────────────────────────────────────────────────────────────


def logistic(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def stepped(
    name: str, p: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray, s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of one sequence: (h, the other state), from the paper's or the format's text."""
    hidden = len(h)
    order = {"gru_reset_before": "rzn", "leaky": "s", "learnt": "s"}.get(name, "ifgo")
    if "coupled" in name:
        order = "igo"

    def block(stacked: str, gate: str) -> np.ndarray:
        k = order.index(gate)
        return p[stacked][k * hidden : (k + 1) * hidden]

    def of_x(gate: str) -> np.ndarray:
        return block("weight_ih", gate) @ x + block("bias_ih", gate)

    def of_h(gate: str, state: np.ndarray) -> np.ndarray:
        return block("weight_hh", gate) @ state + block("bias_hh", gate)

    if name == "gru_reset_before":  # Cho et al. 2014, eq. 5-8
        r = logistic(of_x("r") + of_h("r", h))
        z = logistic(of_x("z") + of_h("z", h))
        new = np.tanh(of_x("n") + of_h("n", r * h))
        return z * h + (1 - z) * new, s
    if name in ("leaky", "learnt"):
        rate = DT_BY_TAU if name == "leaky" else logistic(p["rate"])
        s = s + rate * (-s + of_x("s") + of_h("s", h))
        return np.tanh(s), s
    peep = {
        gate: p.get(f"peephole_{gate}", p.get(f"w_{gate}c", np.zeros(hidden))) for gate in "ifo"
    }
    i = logistic(of_x("i") + of_h("i", h) + peep["i"] * s)
    f = 1 - i if "coupled" in name else logistic(of_x("f") + of_h("f", h) + peep["f"] * s)
    s = f * s + i * np.tanh(of_x("g") + of_h("g", h))
    o = logistic(of_x("o") + of_h("o", h) + peep["o"] * s)
    return o * np.tanh(s), s


def looped(name: str, layer: rs.Recurrent, x: np.ndarray, start: list[Any]) -> Any:
    """All layers and directions over one sequence (time, feature): output, and each last state."""
    state = {key: value.detach().numpy() for key, value in layer.state_dict().items()}
    ends, flow = [], x
    directions = layer.structure.directions
    for k in range(layer.num_layers):
        outputs = []
        for d, direction in enumerate(directions):
            suffix = f"_l{k}" + ("_reverse" if direction == "reverse" else "")
            p = {
                key.removesuffix(suffix): value
                for key, value in state.items()
                if key.endswith(suffix)
            }
            if not layer.bias:
                p |= {which: np.zeros(len(p["weight_ih"])) for which in ("bias_ih", "bias_hh")}
            row = k * len(directions) + d
            h, s = (start[0][row], start[1][row])
            found = []
            for step in flow[::-1] if direction == "reverse" else flow:
                h, s = stepped(name, p, step, h, s)
                found.append(h)
            outputs.append(np.stack(found[::-1] if direction == "reverse" else found))
            ends.append((h, s))
        flow = np.concatenate(outputs, axis=-1)
    return flow, ends


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("call", ["batched", "packed", "unbatched"])
def test_against_a_loop_in_numpy(name: str, options: str, call: str) -> None:
    layer = recurrent(EVERY[name], **OPTIONS[options])
    structure = layer.structure
    lengths = [2, 5, 3] if call == "packed" else [5] if call == "unbatched" else [5, 5]
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in lengths]
    rows = layer.num_layers * len(structure.directions)
    states = torch.randn(2, rows, len(lengths), 4, dtype=torch.float64)
    given = states[:, :, 0] if call == "unbatched" else states
    hx = tuple(given) if len(layer.cell.states) == 2 else given[0]
    if call == "packed":
        x: Any = pack_sequence(sequences, enforce_sorted=False)
    elif call == "unbatched":
        x = sequences[0]
    else:
        x = torch.stack(sequences, dim=0 if layer.batch_first else 1)
    output, final = layer(x, hx)
    if call == "packed":
        assert isinstance(output, PackedSequence)
        output = pad_packed_sequence(output, batch_first=True)[0]
    elif call == "unbatched":
        output = output[None]
    elif not layer.batch_first:
        output = output.transpose(0, 1)
    final = final if isinstance(final, tuple) else (final,)
    for b, sequence in enumerate(sequences):
        expected, ends = looped(name, layer, sequence.numpy(), list(states[:, :, b].numpy()))
        assert np.abs(output[b, : len(sequence)].detach().numpy() - expected).max() < 1e-12
        assert not output[b, len(sequence) :].any()
        for k, value in enumerate(final):
            mine = (value if call == "unbatched" else value[:, b]).detach().numpy()
            assert np.abs(mine - np.stack([end[k] for end in ends])).max() < 1e-12


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=["lstm", "gru"])
def test_reverse_only_is_the_flipped_sequence_run_forward(cell: Cell) -> None:
    backward = recurrent(cell, reverse=True)
    forward = recurrent(cell)
    assert [f"{name}_reverse" for name in forward.state_dict()] == list(backward.state_dict())
    forward.load_state_dict(
        {name.removesuffix("_reverse"): t for name, t in backward.state_dict().items()}
    )
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 2, 6)]
    output, states = backward(pack_sequence(sequences, enforce_sorted=False))
    flipped, ends = forward(pack_sequence([s.flip(0) for s in sequences], enforce_sorted=False))
    (one, lengths), (other, _) = pad_packed_sequence(output), pad_packed_sequence(flipped)
    # to rounding: how a row of a product rounds depends on its place among the rows
    for b, length in enumerate(lengths.tolist()):
        assert size(one[:length, b] - other[:length, b].flip(0)) < 1e-14
    assert all(size(a - b) < 1e-14 for a, b in zip(flat(states), flat(ends), strict=True))
    assert backward.structure.directions == ("reverse",)


def test_a_projection_with_a_cell_that_torch_lacks() -> None:
    m = quantity("m")
    projected = Cell(
        name="projected",
        gates="a",
        equations={"m": tanh(from_x("a") + from_h("a")), "h": project(m)},
    )
    layer = rs.Recurrent(projected, 3, 4, proj_size=2, num_layers=2, dtype=torch.float64)
    output, h_n = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    assert output.shape == (5, 2, 2)
    assert h_n.shape == (2, 2, 2)
    tr = rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64))
    assert tr["m"].shape[-1] == 4
    w = layer.weight_hr_l1
    assert size(tr["h", 1, "forward"] - tr["m", 1, "forward"] @ w.T) < 1e-14


# ── derivatives and transformations ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name: str) -> None:
    layer = recurrent(EVERY[name])
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    names = [key for key, _ in layer.named_parameters()]

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        return flat(torch.func.functional_call(layer, parameters, (x,)))[0]

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(loss, (x, *values))
    few = [v[:1] if v.dim() == 1 else v for v in values[:1]]
    assert torch.autograd.gradgradcheck(lambda x, w: loss(x, w, *values[1:]), (x, *few))


@pytest.mark.parametrize("name", ["lstm_peephole", "gru_reset_before", "leaky"])
def test_vmap_and_grad_of_torch_func(name: str) -> None:
    layer = recurrent(EVERY[name], num_layers=2)
    x = torch.randn(6, 5, 3, dtype=torch.float64)  # six sequences
    parameters = dict(layer.named_parameters())
    alone = torch.func.vmap(lambda each: layer(each)[0])(x)
    assert size(alone - layer(x.transpose(0, 1))[0].transpose(0, 1)) < 1e-13

    def loss(parameters: dict[str, Tensor], each: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (each,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    total = torch.autograd.grad(
        layer(x.transpose(0, 1))[0].square().sum(), list(parameters.values())
    )
    for key, expected in zip(parameters, total, strict=True):
        assert size(each[key].sum(0) - expected) < 1e-11 * (1 + size(expected))


def test_compiled_as_one_graph() -> None:
    layer = recurrent(LSTM_PEEPHOLE.with_functions({"g": "leaky_relu(0.1)"}), bidirectional=True)
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x)[0], layer(x)[0])
    with pytest.raises(rs.RefusedError, match=r"trace the module that was compiled"):
        rs.trace(compiled, x)


def test_copies_and_pickles_have_the_same_cell() -> None:
    for cell in (LSTM_PEEPHOLE, LEAKY, GRU.with_functions({"n": "leaky_relu(0.1)"})):
        layer = recurrent(cell)
        x = torch.randn(5, 2, 3, dtype=torch.float64)
        expected = layer(x)[0]
        assert torch.equal(copy.deepcopy(layer)(x)[0], expected)
        assert copy.deepcopy(layer).cell is cell
        back = pickle.loads(pickle.dumps(layer))
        assert torch.equal(back(x)[0], expected)
        assert (back.cell is cell) == (cell is LSTM_PEEPHOLE)


# ── opened ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", EVERY)
def test_a_trace_holds_the_numbers_of_the_run(name: str, options: str) -> None:
    layer = recurrent(EVERY[name], **OPTIONS[options])
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    x = x if layer.batch_first else x.transpose(0, 1)
    output, final = layer(x)
    tr = rs.trace(layer, x, record="all")
    assert torch.equal(tr.output, output)
    assert all(torch.equal(a, b) for a, b in zip(flat(tr._returned[1]), flat(final), strict=True))
    assert tr.deviation == tr.tolerance == 0
    assert "Computed by the declared equations; there is no other implementation" in tr.proof
    assert "largest difference 0" in tr.proof
    assert set(tr) == set(cells.quantity_names(layer.cell))
    assert tr.directions == layer.structure.directions
    h = torch.cat(tuple(tr["h", -1]), dim=-1)
    assert torch.equal(h if layer.batch_first else h.transpose(0, 1), output)
    for state in layer.cell.states:
        rows = tr.sel(state, time="last").flatten(0, 1)
        assert torch.equal(rows, getattr(tr, f"{state}_n"))
        assert not getattr(tr, f"{state}_0").any()
    # the parts are those of the equations, from the states that the trace itself holds
    for direction in tr.directions:
        before = tr.before("h", 0, direction)
        for gate in layer.cell.gates:
            if f"{gate}_from_h" in tr and name != "gru_reset_before":
                w = tr.weights[0][tr.directions.index(direction)]
                weight, bias = w.of_h(gate)
                expected = before @ weight.T + (0 if bias is None else bias)
                assert size(tr[f"{gate}_from_h", 0, direction] - expected) < 1e-13
    by_equations = rs.trace(layer, x, record="all", check=False)
    assert by_equations.deviation is None
    if by_equations.engine == "torch":
        assert all(torch.equal(by_equations[each], tr[each]) for each in tr)
    assert all(size(by_equations[each] - tr[each]) < 1e-13 for each in tr)
    assert set(rs.trace(layer, x, record="h")) == set(layer.cell.states)


@pytest.mark.parametrize("name", EVERY)
def test_explanations_agree_with_the_run(name: str) -> None:
    layer = recurrent(EVERY[name], bidirectional=True, num_layers=2)
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 2)]
    tr = rs.trace(layer, pack_sequence(sequences), record="all")
    for direction in tr.directions:
        at = {"layer": 1, "direction": direction, "batch": 1, "time": 1, "unit": 2}
        for each in cells.quantity_names(layer.cell):
            explained = tr.explain(each, **at)
            own = float(tr.sel(each, **at))
            assert abs(explained.data()["value"] - own) < 1e-13
            assert "difference 0 before" in str(explained) or "e-1" in str(explained)
            explained.latex()
        assert f"{name}" != "lstm_peephole" or "peephole_o × c_2" in str(tr.explain("o", **at))
    small = rs.trace(rs.Recurrent(EVERY[name], 1, 1), torch.ones(3, 1))
    assert "By hand" in str(small.explain())


@pytest.mark.parametrize("call", ["batched", "packed", "unbatched"])
@pytest.mark.parametrize("options", OPTIONS)
def test_shapes_hold(options: str, call: str) -> None:
    layer = recurrent(LEAKY, **OPTIONS[options])
    x: Any = torch.randn(5, 3, dtype=torch.float64)
    if call == "batched":
        x = torch.randn(4, 5, 3, dtype=torch.float64)
    elif call == "packed":
        x = pack_sequence([x[:2], x, x[:3]], enforce_sorted=False)
    said = str(rs.trace(layer, x).shapes())
    assert "s_n" in said
    assert "= recurrent(x)" in said
    assert layer.reverse is ('tr["h", -1, "reverse"]' in said and "forward" not in said)


def test_dropout_is_recorded_as_it_fell() -> None:
    layer = recurrent(GRU_RESET_BEFORE, num_layers=2, dropout=0.5).train()
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (5, 3)]
    for x in (pack_sequence(sequences), torch.randn(5, 2, 3, dtype=torch.float64)):
        torch.manual_seed(1)
        expected = layer(x)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        tr = rs.trace(layer, x)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(
            torch.equal(a, b) for a, b in zip(flat(tr.output), flat(expected[0]), strict=True)
        )
        below, above = tr["h", 0, "forward"], tr.layer_input(1)
        dropped = above == 0
        assert dropped[tr.valid].any()
        assert torch.equal(above, torch.where(dropped, 0, below * 2))


def test_a_trace_leaves_the_graph_and_nothing_else() -> None:
    layer = recurrent(LSTM_PEEPHOLE)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    tr = rs.trace(layer, x)
    assert tr.output.requires_grad
    assert tr.c_n.requires_grad
    assert not any(value.requires_grad for value in tr.values())
    tr.output.sum().backward()
    assert x.grad is not None
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    assert tr.parameters.keys() == layer.state_dict().keys()
    before = tr.parameters["peephole_i_l0"].clone()
    with torch.no_grad():
        layer.peephole_i_l0.fill_(0)
    assert torch.equal(tr.parameters["peephole_i_l0"], before)


def test_another_layer_that_runs_in_a_hook_is_not_taken_for_it() -> None:
    layer, other = recurrent(LSTM_PEEPHOLE), recurrent(LEAKY)
    layer.register_forward_pre_hook(lambda _, args: (other(args[0])[0][..., :3],))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    tr = rs.trace(layer, x)
    assert torch.equal(tr.output, layer(x)[0])
    assert torch.equal(tr.layer_input(0).transpose(0, 1), other(x)[0][..., :3])


def test_weights_that_are_computed_at_each_reading() -> None:
    """The record is of the weights that the run used."""
    layer = recurrent(LSTM_PEEPHOLE)
    nn.utils.parametrizations.spectral_norm(layer, "weight_hh_l0")
    tr = rs.trace(layer.train(), torch.randn(5, 2, 3, dtype=torch.float64))
    expected = tr.explain("h", batch=1, time=3, unit=2).data()
    assert abs(expected["value"] - expected["own"]["h"]) < 1e-13


def test_what_is_changed_on_its_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = recurrent(LSTM_PEEPHOLE)
    original = run.Ran.output.fget
    assert original is not None

    def changed(ran: run.Ran) -> Any:
        output, states = original(ran)
        return output + 1e-13, states

    monkeypatch.setattr(run.Ran, "output", property(changed))
    with pytest.raises(rs.VerificationError, match=r"what rs\.Recurrent returned as h is not what"):
        rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64))


def test_nan_is_data() -> None:
    layer = recurrent(LEAKY)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    x[2, 1] = math.nan
    tr = rs.trace(layer, x)
    assert tr.deviation == 0
    assert "Not finite: NaN first in x at" in tr.proof


def test_watched_inside_a_model() -> None:
    model = nn.Sequential(rs.Recurrent(LSTM_PEEPHOLE, 3, 4, num_layers=2, dropout=0.2))
    x = torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        output, state = model(x)
        output.sum().backward()
        model[0](x, state)
    assert not seen.skipped
    first, second = seen.calls("0")
    assert torch.equal(first.output, output)
    assert torch.equal(second.c_0, state[1])
    assert first.deviation == second.deviation == 0
    assert rs.Recurrent.forward.__name__ == "forward"
    with rs.watch(model, record="f", names="0") as seen:
        model(x)
    assert set(seen["0"]) == {"f", "c", "h"}


def test_a_reverse_layer_is_not_joined_over_calls() -> None:
    layer = recurrent(LEAKY, reverse=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with rs.watch(layer) as seen:
        _, state = layer(x)
        layer(x, state)
    _, second = seen.segments("")
    assert torch.equal(second.output, layer(x, state)[0])
    assert "its reverse direction runs against" in second.why


# ── on disk ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", EVERY)
def test_a_trace_comes_back(name: str, options: str, tmp_path: Any) -> None:
    cell = EVERY[name]
    layer = recurrent(cell, **OPTIONS[options])
    tr = rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64), record="all")
    tr.save(tmp_path / "t.safetensors")
    back = rs.load_trace(tmp_path / "t.safetensors")
    assert repr(back) == repr(tr)
    assert dict(back.cell.equations) == dict(cell.equations)
    assert (back.cell is cell) == (name in BEYOND)
    assert list(back.parameters) == list(tr.parameters)
    assert all(torch.equal(back[each], tr[each]) for each in tr)
    at = {"layer": 0, "direction": tr.directions[0], "batch": 0, "time": 1, "unit": 1}
    assert str(back.explain("h", **at)) == str(tr.explain("h", **at))


def sine() -> Function:
    return Function(
        name="sin",
        symbol="sin",
        latex=r"\sin",
        forward=torch.sin,
        forward_=torch.sin_,
        derivative=torch.zeros_like,
        derivative_at=torch.cos,
        steepest=1.0,
        range=(-1.0, 1.0),
        through_zero=True,
        script="Math.sin(x)",
    )


def test_a_function_of_ones_own_is_computed_and_explained_and_not_stored(tmp_path: Any) -> None:
    layer = recurrent(RNN_TANH.with_functions({"h": sine()}))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    tr = rs.trace(layer, x, record="all")
    assert torch.equal(tr["h"], tr["h_pre"].sin())
    assert "h_2 = sin(W_ih x_2" in str(tr.explain("h", batch=0, time=1, unit=2))
    with pytest.raises(rs.FileError, match=r"cannot write.*'sin' is a function of one's own"):
        tr.save(tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "cell",
    [
        "transformer",
        7,
        {},
        {"h": 1},
        {"name": "a", "gates": "h", "equations": [], "words": {}, "source": "", "departures": ""},
    ],
)
def test_a_file_with_a_cell_that_is_none(cell: Any, tmp_path: Any) -> None:
    damaged(tmp_path, cell)


@pytest.mark.parametrize(
    "equation",
    [
        ["apply", "os.system", ["from_x", "s"]],
        ["from_x", "k"],
        ["quantity", "k"],
        ["+", 1],
        ["*", 1, None],
        [],
        "h",
        ["project", []],
        ["apply", "affine(1, inf)", 1],
    ],
)
def test_a_file_with_an_equation_that_is_none(equation: Any, tmp_path: Any) -> None:
    damaged(tmp_path, {"equations": {"s": equation, "h": ["quantity", "s"]}})


def test_a_file_with_an_equation_without_end(tmp_path: Any) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = ["+", deep, 1]
    damaged(tmp_path, {"equations": {"s": deep, "h": ["quantity", "s"]}})


def damaged(tmp_path: Any, change: Any) -> None:
    """A saved trace with another declaration is refused, with an error of ours."""
    path = tmp_path / "t.safetensors"
    rs.trace(recurrent(LEAKY), torch.randn(5, 2, 3, dtype=torch.float64)).save(path)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["rnnscope"])
    whole = facts["structure"]["cell"]
    part = isinstance(change, dict) and list(change) == ["equations"]
    facts["structure"]["cell"] = whole | change if part else change
    save_file(load_file(path), path, {"rnnscope": json.dumps(facts)})
    with pytest.raises(rs.FileError, match=r"t\.safetensors is damaged"):
        rs.load_trace(path)


# ── refused ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "says", "cell", "options"),
    [
        (rs.ShapeError, "hidden_size must be at least 1", GRU, {"hidden_size": 0}),
        (rs.ShapeError, "num_layers must be at least 1; got 0", GRU, {"num_layers": 0}),
        (rs.ShapeError, "proj_size must be smaller", LSTM, {"proj_size": 4}),
        (rs.DeclarationError, "does not project h.*proj_size=2", GRU, {"proj_size": 2}),
        (rs.DeclarationError, "needs a proj_size", LSTM_PROJECTED, {}),
        (rs.DeclarationError, "takes a Cell", nn.LSTM, {}),
        (ValueError, "choose one", GRU, {"reverse": True, "bidirectional": True}),
        (ValueError, "dropout must be between 0 and 1", GRU, {"dropout": 1.5, "num_layers": 2}),
    ],
)
def test_layers_that_cannot_be(
    error: type[Exception], says: str, cell: Any, options: dict[str, Any]
) -> None:
    sizes = {"input_size": 3, "hidden_size": 4}
    with pytest.raises(error, match=says):
        rs.Recurrent(cell, **{**sizes, **options})


def test_cells_that_make_no_layer() -> None:
    still = Cell(name="still", gates="", equations={"h": previous("h") + 1})
    with pytest.raises(rs.DeclarationError, match="names no gate"):
        rs.Recurrent(still, 3, 4)
    for name in ("weight_ih", "a.b", ""):
        cell = Cell(name="v", gates="h", equations={"h": from_x("h") * vector(name)})
        with pytest.raises(rs.DeclarationError, match="cannot name a parameter"):
            rs.Recurrent(cell, 3, 4)
    for name in ("x", "h'", "a b"):
        with pytest.raises(rs.DeclarationError, match="cannot name a quantity"):
            Cell(name="q", gates="h", equations={name: from_x("h"), "h": quantity(name)})


def test_calls_that_it_cannot_take() -> None:
    layer = rs.Recurrent(LSTM_PEEPHOLE, 3, 4)
    for call in (layer, lambda *args: rs.trace(layer, *args)):
        with pytest.raises(rs.ShapeError, match=r"x must be \(time, batch, input=3\)"):
            call(torch.randn(5, 2, 7))
        with pytest.raises(rs.ShapeError, match="no step"):
            call(torch.randn(0, 2, 3))
        with pytest.raises(rs.DtypeError, match=r"the weights are torch\.float32"):
            call(torch.randn(5, 2, 3, dtype=torch.float64))
        with pytest.raises(rs.ShapeError, match=r"takes the initial states as \(h_0, c_0\)"):
            call(torch.randn(5, 2, 3), torch.zeros(1, 2, 4))
        with pytest.raises(rs.ShapeError, match=r"c_0 must be .* = \(1, 2, 4\)"):
            call(torch.randn(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)))
    assert layer(torch.randn(5, 0, 3))[0].shape == (5, 0, 4)  # as nn.LSTM


def test_a_forward_of_ones_own_runs_and_is_not_opened() -> None:
    class Twice(rs.Recurrent):
        def forward(self, input: Any, hx: Any = None) -> Any:
            output, states = super().forward(input, hx)
            return 2 * output, states

    layer, x = Twice(GRU_RESET_BEFORE, 3, 4), torch.randn(5, 2, 3)
    assert layer(x)[0].shape == (5, 2, 4)
    with pytest.raises(rs.RefusedError, match=r"Twice replaces the forward of rs\.Recurrent"):
        rs.trace(layer, x)
    with pytest.raises(rs.NotRecurrentError, match="it holds '0'"):
        rs.trace(nn.Sequential(rs.Recurrent(GRU, 3, 4)), x)


def test_dropout_of_a_single_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="drops between layers, and there is one"):
        rs.Recurrent(GRU, 3, 4, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rs.Recurrent(GRU, 3, 4, num_layers=2, dropout=0.5)


def test_said_as_it_would_be_written() -> None:
    layer = rs.Recurrent(LSTM_COUPLED, 3, 4, num_layers=2, reverse=True, bias=False)
    said = "Recurrent(LSTM with f = 1 - i, 3, 4, num_layers=2, reverse=True, bias=False)"
    assert repr(layer) == said
    assert str(layer.structure) == f"rs.{said}"
    assert "peephole" in LSTM_COUPLED_PEEPHOLE.name
    assert apply("softsign", c) != apply("tanh", c)
