"""Gradients: autograd is the judge, through a loop written for the tests, through the layer and
through unfuse; and finite differences of edited reruns."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from configurations import SOME, Configuration, build, name_of
from loops import by_loop
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnscope as rs
from rnnscope._gradients.judge import TOLERANCE
from rnnscope.cells import DECLARED, GRU, RNN_TANH, quantity_names
from rnnscope.cells.algebra import Apply
from rnnscope.cells.functions import FAMILIES, FUNCTIONS

# relative to the largest: rounding of sums over some hundred places
ALLOWED = {torch.float64: 1e-10, torch.float32: 1e-5}


def flat(value: Any) -> list[Tensor]:
    """Every tensor with numbers in what a layer returns."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in flat(each)]


def size(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def off(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest of the judge's."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return size(one.double() - other.double()) / max(size(other), 1e-30)


def weighted(tensors: list[Tensor]) -> Tensor:
    """A loss in which every number has a weight of its own, linear and not."""
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=tensors[0].dtype)
    for tensor in tensors:
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        total = total + (weights.to(tensor.dtype) * (tensor + tensor.square() / 2)).sum()
    return total


def traced(configuration: Configuration, record: str = "gates") -> tuple[Any, Tensor, rs.Trace]:
    case = build(configuration)
    before = torch.get_rng_state()
    return case, before, rs.trace(case.layer, *case.args, **case.kwargs, record=record)


# ── every quantity ───────────────────────────────────────────────────────────────────────────────


class Probes(dict[tuple[Any, ...], Tensor]):
    """Zeros that are added to every number of a loop, so that autograd tells its gradient."""

    def __call__(self, *place: Any) -> Tensor:
        *key, value = place
        self[tuple(key)] = torch.zeros_like(value, requires_grad=True)
        return value + self[tuple(key)]


def in_form(tr: rs.Trace, found: dict[str, Tensor]) -> list[Tensor]:
    """The loop's results in the form in which the layer returned them."""
    h = torch.cat(list(found["h"][-1]), dim=-1)
    if isinstance(tr.output, PackedSequence):
        rows = [h[b, :n] for b, n in enumerate(tr.lengths.tolist())]
        output = pack_sequence(rows, enforce_sorted=False).data
    elif not tr.call.batched:
        output = h[0]
    else:
        output = h if tr.structure.batch_first else h.transpose(0, 1)
    shapes = [getattr(tr, f"{state}_n").shape for state in tr.cell.states]
    finals = [
        found[f"{s}_n"].reshape(shape) for s, shape in zip(tr.cell.states, shapes, strict=True)
    ]
    return [output, *finals]


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_every_gradient_is_autograds(configuration: Configuration) -> None:
    """Of every gate, part, pre-activation and state, of x of every layer, of initial states."""
    case, before, tr = traced(configuration)
    g = tr.gradients(weighted(flat([tr.output, tr._returned[1]])))
    probes = Probes()
    found = by_loop(case, before, probes)
    places = list(probes)
    own = torch.autograd.grad(
        weighted(in_form(tr, found)), [probes[place] for place in places], allow_unused=True
    )
    expected: dict[str, Tensor] = {name: torch.zeros_like(g[name]) for name in g}
    for state in tr.cell.states:
        expected[f"{state}_0"] = torch.zeros_like(g.initial[state])
    xs = [torch.zeros_like(g["x", layer]) for layer in range(tr.sizes["layer"])]
    for (name, layer, d, b, t), gradient in zip(places, own, strict=True):
        if gradient is None:
            continue  # of padding, or of c_0 in a cell without c
        if name == "x":
            xs[layer][b, t] = gradient
        elif name.endswith("_0"):
            expected[name][layer, d, b] = gradient
        else:
            expected[name][layer, d, b, t] = gradient
    assert set(g) == set(quantity_names(tr.cell))
    allowed = ALLOWED[configuration.dtype]
    for name in g:
        assert off(g[name], expected[name]) < allowed, name
        assert not g[name][:, :, ~tr.valid].any(), name
        assert g[name].dtype == configuration.dtype
    for layer, x in enumerate(xs):
        assert off(g["x", layer], x) < allowed, layer
    for state in tr.cell.states:
        assert off(g.initial[state], expected[f"{state}_0"]) < allowed
        assert getattr(g, f"{state}_0").shape == getattr(tr, f"{state}_0").shape
    assert g.deviation <= g.tolerance == allowed


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_parameters_are_those_of_backward(configuration: Configuration) -> None:
    """Through the layer itself and through unfuse; each step's parts sum to the total."""
    case, before, tr = traced(configuration, record="all")
    parameters = dict(case.layer.named_parameters())
    loss = weighted(flat([tr.output, tr._returned[1]]))
    g = tr.gradients(loss)
    loss.backward()  # the graph was left as it was
    judges = [{name: p.grad for name, p in parameters.items()}]
    torch.set_rng_state(before)
    plain = rs.unfuse(case.layer)(*case.args, **case.kwargs)
    own = torch.autograd.grad(weighted(flat(plain)), list(parameters.values()))
    judges.append(dict(zip(parameters, own, strict=True)))
    allowed = ALLOWED[configuration.dtype]
    for judge in judges:
        assert list(g.parameters) == list(judge)
        for name, expected in judge.items():
            assert off(g.parameters[name], expected) < allowed, name
    parts = [g.parameters_at(time) for time in range(tr.sizes["time"])]
    for name, total in g.parameters.items():
        assert off(sum((part[name] for part in parts), torch.zeros(())), total) < allowed, name
    assert off(g.parameters_at(-1)["weight_ih_l0"], parts[-1]["weight_ih_l0"]) == 0


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"reverse": True}]
)
def test_declared_cells(name: str, options: dict[str, Any]) -> None:
    cell = DECLARED[name]
    extra = {"proj_size": 2} if cell.projected else {}
    layer = rs.Recurrent(cell, 3, 4, **options, **extra).double()
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 6, 1)]
    tr = rs.trace(layer, pack_sequence(sequences, enforce_sorted=False))
    loss = weighted(flat([tr.output, tr._returned[1]]))
    g = tr.gradients(loss)
    own = torch.autograd.grad(loss, list(layer.parameters()))
    for (key, _), expected in zip(layer.named_parameters(), own, strict=True):
        assert off(g.parameters[key], expected) < 1e-10, key
    assert g.deviation < 1e-10
    parts = [g.parameters_at(time) for time in range(6)]
    for key, total in g.parameters.items():
        assert off(sum((part[key] for part in parts), torch.zeros(())), total) < 1e-10, key


@pytest.mark.parametrize("name", [*FUNCTIONS, *FAMILIES])
def test_every_function(name: str) -> None:
    """A cell in which a function stands alone and inside another, its slope by autograd."""
    written = {"elu": "elu(-0.5)", "leaky_relu": "leaky_relu(-0.1)", "affine": "affine(0.5, 0.1)"}
    written |= {"thresholded_relu": "thresholded_relu(0.1)", "hard_sigmoid": "hard_sigmoid"}
    written |= {"scaled_tanh": "scaled_tanh(1.7, 0.6)", "clip": "clip(0.3)"}
    function = written.get(name, name)
    layer = rs.Recurrent(RNN_TANH.with_functions({"h": function}), 3, 4).double()
    inner = rs.Recurrent(DECLARED["lstm"].with_functions({"h": function}), 3, 4).double()
    for each in (layer, inner):
        tr = rs.trace(each, torch.randn(5, 2, 3, dtype=torch.float64))
        assert isinstance(tr.cell.equations["i" if each is inner else "h"], Apply)
        assert tr.gradients(weighted(flat(tr.output))).deviation < 1e-10


def test_cells_of_a_user() -> None:
    """Numbers alone, vectors alone, two products of one gate, a state that is no root of h."""
    from rnnscope.cells import Cell, from_h, from_x, previous, quantity, sigmoid, tanh, vector

    a, s, h = quantity("a"), quantity("s"), previous("h")
    odd = Cell(
        name="odd",
        gates="abs",
        equations={
            "a": sigmoid(vector("rate")),
            "k": 0.5 * tanh(a) * 2,
            "b": tanh(from_x("b") - from_h("b", a * h) + from_h("a") * previous("s")),
            "s": (1 - a) * previous("s") - quantity("b") * (from_x("s") + from_h("s")),
            "h": tanh(s) * quantity("k") + 0.1 * h - from_x("a") * s,
        },
    )
    layer = rs.Recurrent(odd, 3, 4, num_layers=2, bidirectional=True).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(2)
    tr = rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64))
    g = tr.gradients(weighted(flat([tr.output, tr._returned[1]])))
    assert g.deviation < 1e-10
    assert set(g) == set(quantity_names(odd))
    assert g.s_0.shape == tr.s_0.shape
    edited_and_found(tr, g, weighted, [("b", 0), ("k", 1), ("s_pre", None), ("b_from_x", 1)])


def edited_and_found(tr: rs.Trace, g: Any, loss: Any, places: list[tuple[str, int | None]]) -> None:
    """Gradients at some places are central differences of edited reruns."""
    step = 1e-5
    for name, layer in places:
        if layer is None:
            continue
        d = len(tr.directions) - 1
        at: dict[str, Any] = {"layer": layer, "direction": tr.directions[d], "batch": 1, "unit": 2}
        at |= {} if name.endswith("_0") else {"time": 1}
        ends = []
        for sign in (1, -1):
            edited = tr.rerun(rs.Edit(name, **at, add=sign * step))
            ends.append(float(loss(flat([edited.output, edited._returned[1]]))))
        central = (ends[0] - ends[1]) / (2 * step)
        found = g.initial[name[:-2]][layer, d, 1, 2] if name.endswith("_0") else g.sel(name, **at)
        # step² times a third derivative, and the rounding of the loss over the step: some 1e-8;
        # a wrong factor is off by 1e-2
        assert abs(float(found) - central) < 1e-6 * (1 + abs(central)), name


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm", "lstm_proj"])
def test_gradients_are_finite_differences_of_edited_reruns(cell: str) -> None:
    """dL/dh_t and all others, in both layers, both directions, a packed batch."""
    case = build(Configuration(cell, 3, True, initial=True, call="packed"))
    tr = rs.trace(case.layer, *case.args, **case.kwargs)
    g = tr.gradients(weighted(flat([tr.output, tr._returned[1]])))
    names = [*quantity_names(tr.cell), *(f"{state}_0" for state in tr.cell.states)]
    edited_and_found(tr, g, weighted, list(itertools.product(names, (0, 2))))


# ── what a hook shows ────────────────────────────────────────────────────────────────────────────


def test_the_five_numbers_of_a_hook() -> None:
    """A 5-step LSTM read at its last step: 0, 0, 0, 0 and the last by a hook; the truth falls off
    step by step, as .029, .065, .104, .378, 2.06 does for another seed."""
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4)
    tr = rs.trace(lstm, torch.randn(5, 1, 3))
    shown: list[Tensor] = []
    tr.output.register_hook(shown.append)
    loss = tr.output[-1].sum()
    g = tr.gradients(loss)
    loss.backward()
    hook = shown[0].abs().sum((1, 2))
    assert torch.equal(g.direct["h"][0, 0, 0].abs().sum(-1), hook)
    assert hook[:4].tolist() == [0, 0, 0, 0]
    total = g["h"][0, 0, 0].abs().sum(-1)
    assert all(one < other for one, other in itertools.pairwise(total.tolist()))
    assert total[0] > 1e-3
    assert total[-1] == hook[-1]


def test_what_reaches_states_directly() -> None:
    """From the output in the last layer, from last states at each sequence's own last step."""
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (3, 5)]
    tr = rs.trace(lstm, pack_sequence(sequences, enforce_sorted=False))
    g = tr.gradients((3 * tr.h_n).sum() + (2 * tr.c_n).sum() + tr.output.data.sum())
    direct = g.direct
    assert direct.dims["h"] == ("layer", "direction", "batch", "time", "unit")
    last = {"forward": (2, 4), "reverse": (0, 0)}
    for (layer, top), direction in itertools.product(enumerate((0, 1)), tr.directions):
        for b, length in enumerate((3, 5)):
            expected = torch.zeros(5, 4, dtype=torch.float64)
            expected[:length] = top
            expected[last[direction][b]] += 3
            assert torch.equal(direct["h", layer, direction][b], expected)
            expected = torch.zeros(5, 4, dtype=torch.float64)
            expected[last[direction][b]] = 2
            assert torch.equal(direct["c", layer, direction][b], expected)


# ── how it is asked ──────────────────────────────────────────────────────────────────────────────


def test_upstream_gradients_instead_of_a_loss() -> None:
    for configuration in SOME[::4]:
        _, _, tr = traced(configuration)
        names = ["output", *(f"{state}_n" for state in tr.cell.states)]
        outputs = flat([tr.output, tr._returned[1]])
        upstream = [torch.randn_like(t) for t in outputs]
        loss = sum((t * u).sum() for t, u in zip(outputs, upstream, strict=True))
        one = tr.gradients(loss)
        given = dict(zip(names, upstream, strict=True))
        other = tr.gradients(**given, check=False)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert other.deviation is None
        assert "Not verified" in other.proof
        assert "Equal to autograd's" in repr(one)
        if isinstance(tr.output, PackedSequence):
            given["output"] = PackedSequence(given["output"], *tr.output[1:])
            assert torch.equal(tr.gradients(**given)["h"], one["h"])


def test_through_more_modules_after_a_step_and_twice() -> None:
    """The user's graph, p.grad and requires_grad are not touched; weights may have moved on."""
    torch.manual_seed(0)
    gru, head = nn.GRU(3, 4, dtype=torch.float64), nn.Linear(4, 2, dtype=torch.float64)
    gru.weight_hh_l0.requires_grad_(False)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    tr = rs.trace(gru, x)
    loss = head(tr.output).square().sum() + tr.output.sin().sum()
    before = [copy.deepcopy(p) for p in gru.parameters()]
    g = tr.gradients(loss)
    assert all(p.grad is None for p in [*gru.parameters(), *head.parameters()])
    assert [p.requires_grad for p in gru.parameters()] == [p.requires_grad for p in before]
    assert not x.requires_grad
    assert g.parameters["weight_hh_l0"].any()  # frozen in training, and still known
    loss.backward(retain_graph=True)
    assert off(g.parameters["weight_ih_l0"], gru.weight_ih_l0.grad) < 1e-10
    torch.optim.SGD(gru.parameters(), lr=0.5).step()
    again = tr.gradients(loss)
    assert all(torch.equal(again[name], g[name]) for name in g)
    assert again.deviation < 1e-10
    # a layer that is used twice: each call has its own, p.grad is the sum
    gru.zero_grad()
    first = rs.trace(gru, x)
    second = rs.trace(gru, first.output[..., :3], first.h_n)
    loss = second.output.square().sum()
    one, other = first.gradients(loss), second.gradients(loss)
    loss.backward()
    total = one.parameters["weight_ih_l0"] + other.parameters["weight_ih_l0"]
    assert off(total, gru.weight_ih_l0.grad) < 1e-10


def test_frozen_input_and_inference_mode() -> None:
    lstm = nn.LSTM(3, 4, dtype=torch.float64)
    with torch.inference_mode():
        tr = rs.trace(lstm, torch.randn(5, 2, 3, dtype=torch.float64))
        g = tr.gradients(output=torch.ones(5, 2, 4, dtype=torch.float64))
    assert g.deviation < 1e-10
    assert not g["h"].is_inference()


def test_evaluation_mode_and_single_steps() -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.5).eval()
    tr = rs.trace(lstm, torch.randn(5, 2, 3))
    assert tr.gradients(tr.output.sum()).deviation < 1e-5
    for kind, hx in ((nn.LSTMCell, None), (nn.GRUCell, torch.randn(2, 4)), (nn.RNNCell, None)):
        cell = kind(3, 4)
        x = torch.randn(2, 3, requires_grad=True)
        tr = rs.trace(cell, x, hx)
        states = [tr.h_n, tr.c_n] if kind is nn.LSTMCell else [tr.h_n]
        loss = weighted(states[:1]) + weighted(states)
        g = tr.gradients(loss)
        loss.backward()
        assert off(g.parameters["weight_ih"], cell.weight_ih.grad) < 1e-5
        assert off(g["x", 0][:, 0], x.grad) < 1e-5
        assert g.h_0.shape == (2, 4)
    tr = rs.trace(nn.LSTMCell(3, 4), torch.randn(3))
    assert tr.gradients(tr.c_n.sum()).c_0.shape == (4,)


@pytest.mark.parametrize("record", ["h", "f", "all"])
def test_whatever_was_recorded(record: str) -> None:
    """What is missing is computed from the states."""
    torch.manual_seed(1)
    lstm = nn.LSTM(3, 4, num_layers=2, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = rs.trace(lstm, x).gradients(output=torch.ones(5, 2, 4, dtype=torch.float64))
    found = rs.trace(lstm, x, record=record).gradients(
        output=torch.ones_like(expected["h"][0, 0, 0])[:, None].expand(5, 2, 4)
    )
    assert list(found) == list(expected)
    assert all(off(found[name], expected[name]) < 1e-12 for name in found)


def test_from_a_file(tmp_path: Any) -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.4)
    tr = rs.trace(lstm, torch.randn(5, 2, 3))
    tr.save(tmp_path / "t.safetensors")
    back = rs.load_trace(tmp_path / "t.safetensors")
    upstream = torch.randn(5, 2, 4)
    one, other = tr.gradients(output=upstream), back.gradients(output=upstream)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precisions_are_computed_in_float32(dtype: torch.dtype) -> None:
    gru = nn.GRU(3, 4).to(dtype)
    tr = rs.trace(gru, torch.randn(5, 2, 3, dtype=dtype))
    g = tr.gradients(output=torch.ones(5, 2, 4, dtype=dtype))
    assert g["h"].dtype == torch.float32
    assert g.tolerance is None
    assert 0 < g.deviation < 0.1  # the states were rounded to 8 or 11 bits
    assert f"Not verified in {str(dtype)[6:]}" in g.proof


def test_products_in_tf32_prove_nothing() -> None:
    """The layer's states were rounded to 11 bits on the way; a private run rounds otherwise."""
    before = torch.get_float32_matmul_precision()
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    torch.set_float32_matmul_precision("high")
    try:
        g = tr.gradients(output=torch.ones(5, 2, 4))
        assert g.tolerance is None
        assert "Not verified in float32 with TF32" in g.proof
    finally:
        torch.set_float32_matmul_precision(before)


def test_long_sequences_do_not_cost_more_than_their_record() -> None:
    """Blocks of time: beside the record there are a few numbers a step."""
    tr = rs.trace(nn.LSTM(8, 16), torch.randn(2000, 2, 8))
    g = tr.gradients(output=torch.randn(2000, 2, 16), check=True)
    storages = {g[name].untyped_storage().data_ptr(): g[name].untyped_storage() for name in g}
    held = sum(storage.nbytes() for storage in storages.values())
    assert held == 10 * 2000 * 2 * 16 * 4  # i f g o, their arguments, c, h: parts share memory


def test_as_a_table() -> None:
    tr = rs.trace(nn.LSTM(3, 4, proj_size=2, bidirectional=True), torch.randn(5, 2, 3))
    g = tr.gradients(tr.output.sum())
    assert g.dims["h"][-1] == "projected"
    data = g.to_xarray()
    assert set(data.data_vars) >= {"f", "f_pre", "h", "x_l0"}
    assert torch.equal(torch.as_tensor(data["f"].values), g["f"])
    assert g.to_pandas().shape[0] == 2 * 2 * 5 * 4
    with pytest.raises(rs.AddressError, match="no layer 3"):
        g["h", 3]
    with pytest.raises(AttributeError, match="no attribute 's_0'"):
        _ = g.s_0


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


def test_losses_that_say_nothing() -> None:
    gru = nn.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    tr, other = rs.trace(gru, x), rs.trace(gru, x)
    with pytest.raises(rs.GradientError, match="the loss does not depend on this trace"):
        tr.gradients(other.output.sum())
    with pytest.raises(rs.GradientError, match="the loss has no graph"):
        tr.gradients(tr.output.detach().sum())
    with pytest.raises(rs.ShapeError, match=r"the loss must be one number; got \(5, 2, 4\)"):
        tr.gradients(tr.output)
    with pytest.raises(rs.DtypeError, match="must be a tensor of one number; got float"):
        tr.gradients(1.0)
    loss = tr.output.square().sum()
    loss.backward()
    with pytest.raises(rs.GradientError, match=r"graph of the loss is gone.*retain_graph=True"):
        tr.gradients(loss)
    with pytest.raises(ValueError, match="give a loss, or what reaches"):
        tr.gradients()
    with pytest.raises(ValueError, match="give a loss, or what reaches"):
        tr.gradients(loss, h_n=tr.h_n)
    with pytest.raises(ValueError, match="check must be True or False"):
        tr.gradients(h_n=tr.h_n, check="thorough")


def test_traces_without_what_is_needed() -> None:
    gru, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    with torch.no_grad():
        tr = rs.trace(gru, x)
    for each in (tr, rs.trace(gru, x, check=False)):
        with pytest.raises(rs.GradientError, match="has no graph"):
            each.gradients(each.output.sum())
        each.gradients(output=torch.ones(5, 2, 4))
    edited = rs.trace(gru, x).rerun(rs.Edit("z", time=2, to=0.0))
    with pytest.raises(rs.GradientError, match=r"do not hold where an edit stands \(z at"):
        edited.gradients(output=torch.ones(5, 2, 4))
    moved = rs.trace(gru, x).rerun(rs.Edit("x", layer=0, add=0.1), rs.Edit("h_0", to=1.0))
    assert moved.gradients(output=torch.ones(5, 2, 4)).deviation < 1e-5


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (
            {"output": torch.ones(5, 4)},
            rs.ShapeError,
            r"output must be .* \(5, 2, 4\); got \(5, 4\)",
        ),
        ({"h_n": torch.ones(2, 4)}, rs.ShapeError, r"with respect to tr\.h_n, \(1, 2, 4\)"),
        ({"h_n": 1.0}, rs.DtypeError, "h_n must be a tensor.*got float"),
        ({"c_n": torch.ones(1, 2, 4)}, rs.AddressError, r"returns no c_n; it returns output, h_n"),
    ],
)
def test_upstream_gradients_that_cannot_be(
    given: dict[str, Any], error: type[Exception], says: str
) -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    with pytest.raises(error, match=says):
        tr.gradients(**given)


def test_parameters_at_no_step() -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    g = tr.gradients(tr.output.sum())
    with pytest.raises(rs.AddressError, match="no time 5: there are 5"):
        g.parameters_at(5)
    with pytest.raises(rs.AddressError, match="takes one step"):
        g.parameters_at(slice(0, 2))


def test_a_wrong_derivative_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge catches a factor that is off by a thousandth."""
    from rnnscope.cells import functions

    wrong = functions.FUNCTIONS["sigmoid"]
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    original = wrong.derivative
    object.__setattr__(wrong, "derivative", lambda y: original(y) * 1.001)
    try:
        with pytest.raises(rs.VerificationError, match="by the equations is not autograd's"):
            tr.gradients(tr.output.sum())
    finally:
        object.__setattr__(wrong, "derivative", original)
    assert tr.gradients(tr.output.sum()).deviation < 1e-5


def test_a_judge_that_rounds_badly_is_judged_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's gradient of an LSTM's biases is off by 4e-6 over 64,000 places; float64 tells that
    ours is not."""
    torch.manual_seed(1)
    tr = rs.trace(nn.LSTM(16, 32), torch.randn(1000, 64, 16), check=False)
    upstream = torch.randn(1000, 64, 32)
    assert tr.gradients(output=upstream).deviation > 3e-6
    monkeypatch.setitem(TOLERANCE, torch.float32, 2e-6)
    assert tr.gradients(output=upstream).deviation < 1e-6


def test_nan_is_data() -> None:
    x = torch.randn(5, 2, 3)
    x[2, 0, 0] = math.nan
    tr = rs.trace(rs.Recurrent(GRU, 3, 4), x)
    g = tr.gradients(output=torch.ones(5, 2, 4))
    assert g["h"][0, 0, 1].isfinite().all()
    assert g["r"][0, 0, 0, 2].isnan().all()


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_what_is_not_finite_proves_nothing(factor: float) -> None:
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    g = tr.gradients(tr.output.sum() * factor)
    assert math.isnan(g.deviation)
    assert g.proof.startswith("Not verified: the gradient of")


@pytest.mark.parametrize("seed", range(12))
def test_a_chaotic_layer_raises_no_false_alarm(seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.RNN(4, 32)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(3)
    tr = rs.trace(layer, torch.randn(100, 2, 4))
    g = tr.gradients(tr.output[-1].sum())
    assert g.deviation <= g.tolerance


def test_a_tiny_loss_raises_no_false_alarm() -> None:
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    g = tr.gradients(tr.output.sum() * 1e-40)
    assert g.deviation <= g.tolerance


def test_a_penalty_on_gradients_is_refused() -> None:
    """Its dependence on the layer is more than what reaches the outputs."""
    layer = nn.GRU(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    tr = rs.trace(layer, x)
    (gradient,) = torch.autograd.grad(tr.output.sum(), x, create_graph=True)
    for loss in (tr.output.sum() + gradient.square().sum(), gradient.square().sum()):
        with pytest.raises(rs.GradientError, match="computed from gradients that went through"):
            tr.gradients(loss)
    # of what comes behind the layer alone it is a loss like any other
    head = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    y = head(tr.output)
    (of_head,) = torch.autograd.grad(y.sum(), tr.output, create_graph=True)
    loss = y.square().sum() + of_head.square().sum()
    g = tr.gradients(loss)
    by_autograd = torch.autograd.grad(loss, layer.weight_hh_l0)[0]
    torch.testing.assert_close(g.parameters["weight_hh_l0"], by_autograd)


def test_nan_in_relu_passes_the_gradient_on_as_torch_does() -> None:
    layer = nn.RNN(3, 4, nonlinearity="relu").double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    x[3, 0, 0] = torch.nan
    tr = rs.trace(layer, x)
    loss = tr.output.sum()
    g = tr.gradients(loss)
    by_autograd = torch.autograd.grad(loss, list(layer.parameters()))
    for (name, _), expected in zip(layer.named_parameters(), by_autograd, strict=True):
        torch.testing.assert_close(g.parameters[name], expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_weights_raise_no_alarm(dtype: torch.dtype) -> None:
    """Where the gradients move with the last bits of the weights, so may ours."""
    for seed in range(12):
        torch.manual_seed(seed)
        layer: Any = (nn.LSTM(3, 16), nn.GRU(3, 32), nn.RNN(3, 16))[seed % 3].to(dtype)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(1e3)
        tr = rs.trace(layer, torch.randn(12, 2, 3, dtype=dtype))
        tr.gradients((tr.output * torch.randn_like(tr.output)).sum())
