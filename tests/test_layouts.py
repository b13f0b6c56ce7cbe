"""Every layout, both ways: PyTorch's numbers come back, and what cannot be held is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rnnscope._layers.recurrent import Recurrent
from rnnscope._layouts import (
    LAYOUTS,
    Array,
    Layout,
    Stored,
    candidates,
    from_torch,
    layout_named,
    to_torch,
)
from rnnscope._layouts.kinds import cell_of, kind_of
from rnnscope._layouts.layout import KINDS
from rnnscope._layouts.records import PYTORCH, RNNSCOPE
from rnnscope.cells import (
    CELLS,
    DECLARED,
    GRU,
    LSTM,
    RNN_RELU,
    RNN_TANH,
    Cell,
    from_h,
    from_x,
    sigmoid,
    tanh,
)
from rnnscope.errors import DeclarationError, DtypeError, FileError, RefusedError, ShapeError

EVERY = [(layout, kind) for layout in LAYOUTS.values() for kind in layout.cells]
NAMES = [f"{layout.name}-{kind}" for layout, kind in EVERY]


def layer(
    kind: str,
    sizes: tuple[int, int] = (3, 2),
    num_layers: int = 1,
    two: bool = False,
    bias: bool = True,
    projected: int = 0,
) -> dict[str, Tensor]:
    """Random parameters of a layer, under PyTorch's names; torch's own modules judge the names."""
    feature, hidden = sizes
    rows, output = len(KINDS[kind]) * hidden, projected or hidden
    state: dict[str, Tensor] = {}
    for number in range(num_layers):
        for suffix in (f"_l{number}", f"_l{number}_reverse")[: 1 + two]:
            width = output * (1 + two) if number else feature
            state[f"weight_ih{suffix}"] = torch.randn(rows, width)
            state[f"weight_hh{suffix}"] = torch.randn(rows, output)
            if bias:
                state[f"bias_ih{suffix}"] = torch.randn(rows)
                state[f"bias_hh{suffix}"] = torch.randn(rows)
            if kind.endswith("peephole"):
                for gate in "ifo" if kind == "lstm_peephole" else "io":
                    state[f"peephole_{gate}{suffix}"] = torch.randn(hidden)
            if projected:
                state[f"weight_hr{suffix}"] = torch.randn(projected, hidden)
    return state


def own_cell(layout: Layout, kind: str) -> Cell:
    """The cell of a kind as the framework has it unless told otherwise."""
    return cell_of(kind, nonlinearity=layout.stored(kind).nonlinearity)


def without_b_hn(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same GRU with b_hn = 0, which a layout with one bias can hold."""
    changed = dict(state)
    for name, tensor in state.items():
        if name.startswith("bias_hh"):
            changed[name] = tensor.clone()
            changed[name][2 * len(tensor) // 3 :] = 0
    return changed


def biases_of(layout: Layout, kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What comes back: the same, except that a merged bias is in b_ih, and b_hh is 0."""
    stored = layout.stored(kind)
    apart = stored.holders("b_hh")
    back = dict(state)
    for name in [name for name in state if name.startswith("bias_ih")]:
        other = name.replace("_ih", "_hh")
        b_ih, b_hh = state[name].clone(), state[other].clone()
        hidden = len(b_ih) // len(KINDS[kind])
        for k, gate in enumerate(KINDS[kind]):
            rows = slice(k * hidden, (k + 1) * hidden)
            if gate not in apart:
                b_ih[rows] += b_hh[rows]
                b_hh[rows] = 0
            if gate == "f" and stored.forget_bias:
                b_ih[rows] = (b_ih[rows] - stored.forget_bias) + stored.forget_bias
        back[name], back[other] = b_ih, b_hh
    return back


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


# ── there and back ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("layout", "kind"), EVERY, ids=NAMES)
@settings(max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    num_layers=st.integers(1, 3),
    two=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_layer_comes_back_exactly(
    layout: Layout, kind: str, sizes: tuple[int, int], num_layers: int, two: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    state = layer(kind, sizes, num_layers, two)
    if kind == "gru" and "n" not in layout.stored(kind).holders("b_hh"):
        state = without_b_hn(state)
    cell = own_cell(layout, kind)
    arrays = from_torch(layout, cell, state)
    assert list(arrays) == [n for n in layout.names(kind, num_layers, two) if n in arrays]
    again = to_torch(layout, arrays, kind=kind)
    assert again.cell is cell
    same(again.state_dict, biases_of(layout, kind, state))
    assert again.options == {
        "input_size": sizes[0],
        "hidden_size": sizes[1],
        "num_layers": num_layers,
        "bias": True,
        "bidirectional": two,
    }


@pytest.mark.parametrize(("layout", "kind"), EVERY, ids=NAMES)
@pytest.mark.parametrize("two", [False, True])
def test_a_layer_without_bias_comes_back(layout: Layout, kind: str, two: bool) -> None:
    """Where a framework always has a bias it is zero, and so the layer gets one of zeros."""
    state = layer(kind, num_layers=2, two=two, bias=False)
    arrays = from_torch(layout, own_cell(layout, kind), state)
    again = to_torch(layout, arrays, kind=kind)
    assert again.options["bias"] == layout.stored(kind).biased
    for name, tensor in again.state_dict.items():
        if name.startswith("bias"):
            assert not tensor.count_nonzero()
        else:
            assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("name", ["pytorch", "mxnet", "tensorflow1_lstm", "rnnscope"])
def test_a_projection_comes_back(name: str) -> None:
    state = layer("lstm", (3, 4), num_layers=2, two=True, projected=2)
    own = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
    own.load_state_dict(state)  # the names and shapes are torch's own
    cell = DECLARED["lstm_projected"]
    again = to_torch(name, from_torch(name, cell, state), kind="lstm")
    assert again.cell is cell
    assert again.options["proj_size"] == 2
    same(again.state_dict, biases_of(LAYOUTS[name], "lstm", state))


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_options_build_the_module_of_torch(kind: str) -> None:
    module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.get(kind, torch.nn.RNN)
    cell, state, options = to_torch(
        "onnx", from_torch("onnx", CELLS[kind], module(3, 5, 2).state_dict()), kind=kind
    )
    assert cell is CELLS[kind]
    module(**options).load_state_dict(state)


# ── the conventions themselves, by hand ──────────────────────────────────────────────────────


def test_gates_of_an_lstm_change_their_order() -> None:
    state = {
        "weight_ih_l0": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),  # i f g o
        "weight_hh_l0": torch.tensor([[10.0], [20.0], [30.0], [40.0]]),
        "bias_ih_l0": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "bias_hh_l0": torch.tensor([0.5, 0.5, 0.5, 0.5]),
    }
    onnx = from_torch("onnx", LSTM, state)
    assert onnx["W"].ravel().tolist() == [1, 4, 2, 3]
    assert np.allclose(onnx["B"], [[0.1, 0.4, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5]])
    keras = from_torch("keras", LSTM, state)
    assert keras["kernel"].tolist() == [[1, 2, 3, 4]]
    assert np.allclose(keras["bias"], [0.6, 0.7, 0.8, 0.9])
    tf1 = from_torch("tensorflow1", LSTM, state)
    assert tf1["basic_lstm_cell/kernel"].tolist() == [[1, 3, 2, 4], [10, 30, 20, 40]]
    assert np.allclose(tf1["basic_lstm_cell/bias"], [0.6, 0.8, 0.7 - 1, 0.9])


def test_a_cudnn_block_of_keras_is_reshaped_not_transposed() -> None:
    """As Keras's own _convert_rnn_weights turns it: kernel.T.reshape(shape, order="F")."""
    kernel = np.arange(2 * 3 * 4, dtype=np.float32).reshape(3, 8)  # input 3, hidden 2
    recurrent = np.arange(2 * 8, dtype=np.float32).reshape(2, 8)
    bias = np.arange(16, dtype=np.float32)
    _, state, _ = to_torch(
        "keras_cudnn", {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias}
    )
    plain = np.hstack([k.T.reshape(k.shape, order="F") for k in np.hsplit(kernel, 4)])
    assert np.array_equal(state["weight_ih_l0"].numpy(), plain.T)
    plain = np.hstack([k.T for k in np.hsplit(recurrent, 4)])
    assert np.array_equal(state["weight_hh_l0"].numpy(), plain.T)
    assert state["bias_hh_l0"].tolist() == list(range(8, 16))


def test_z_that_takes_the_new_state_is_negated() -> None:
    state = layer("gru_reset_before")
    arrays = from_torch("haiku", DECLARED["gru_reset_before"], state)
    assert np.array_equal(arrays["gru/w_i"][:, :2], -state["weight_ih_l0"][2:4].numpy().T)
    assert np.array_equal(arrays["gru/w_i"][:, 2:4], state["weight_ih_l0"][:2].numpy().T)


def test_forget_bias_is_an_argument() -> None:
    state = layer("lstm")
    arrays = from_torch("tensorflow1", LSTM, state, forget_bias=0.0)
    one = from_torch("tensorflow1", LSTM, state)
    difference = arrays["basic_lstm_cell/bias"] - one["basic_lstm_cell/bias"]
    assert np.allclose(difference, [0, 0, 0, 0, 1, 1, 0, 0])
    again = to_torch("tensorflow1", arrays, kind="lstm", forget_bias=0.0)
    same(again.state_dict, biases_of(replaced(0.0), "lstm", state))


def replaced(forget_bias: float) -> Layout:
    layout = LAYOUTS["tensorflow1"]
    return replace(layout, cells={"lstm": replace(layout.cells["lstm"], forget_bias=forget_bias)})


def test_a_layout_of_ones_own() -> None:
    mine = Layout(
        "mine",
        cells={
            "lstm": Stored(
                gates="fiog",
                arrays=(Array("W{gate}", "W_ih W_hh"), Array("b{gate}", "b_ih")),
                gate_names={"g": "c"},
            )
        },
    )
    state = layer("lstm")
    arrays = from_torch(mine, LSTM, state)
    assert list(arrays) == ["Wf", "Wi", "Wo", "Wc", "bf", "bi", "bo", "bc"]
    expected = torch.cat([state["weight_ih_l0"][4:6], state["weight_hh_l0"][4:6]], 1)
    assert np.array_equal(arrays["Wc"], expected.numpy())
    same(to_torch(mine, arrays).state_dict, biases_of(mine, "lstm", state))


def test_nested_mappings_and_other_orders_of_bytes_are_read() -> None:
    state = layer("lstm")
    flat = from_torch("flax", LSTM, state)
    nested: dict[str, dict[str, Any]] = {}
    for name, array in flat.items():
        gate, leaf = name.split("/")
        nested.setdefault(gate, {})[leaf] = array.astype(">f4")
    same(to_torch("flax", nested).state_dict, to_torch("flax", flat).state_dict)


def test_a_layer_that_runs_in_reverse_only() -> None:
    arrays = from_torch("onnx", LSTM, layer("lstm"))
    cell, state, options = to_torch("onnx", arrays, kind="lstm", reverse=True)
    assert options["reverse"] is True
    module = Recurrent(cell, **options)
    module.load_state_dict(state)
    again = from_torch("onnx", cell, module.state_dict())
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    with pytest.raises(ShapeError, match="one direction; the arrays hold two"):
        to_torch("pytorch", layer("lstm", two=True), reverse=True)


@pytest.mark.parametrize("name", list(DECLARED))
@pytest.mark.parametrize("two", [False, True])
def test_names_are_those_of_recurrent(name: str, two: bool) -> None:
    cell = DECLARED[name]
    projected = {"proj_size": 2} if cell.projected else {}
    module = Recurrent(cell, 3, 4, num_layers=2, bidirectional=two, **projected)
    arrays = from_torch("rnnscope", cell, module.state_dict())
    again = to_torch("rnnscope", arrays, kind=name)
    assert again.cell is cell
    Recurrent(cell, **again.options).load_state_dict(again.state_dict)
    same(again.state_dict, dict(module.state_dict()))


# ── the kind of cell ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", list(DECLARED))
def test_a_cell_is_stored_as_its_structure_says(name: str) -> None:
    kinds = {"rnn_tanh": "rnn", "rnn_relu": "rnn", "lstm_projected": "lstm"}
    assert kind_of(DECLARED[name]) == kinds.get(name, name)


def test_activations_do_not_change_how_a_cell_is_stored() -> None:
    n = tanh(from_x("h") + from_h("h"))
    assert kind_of(Cell("Elman", "h", {"h": n})) == "rnn"
    assert kind_of(Cell("Elman", "h", {"h": sigmoid(from_x("h") + from_h("h"))})) == "rnn"


def test_an_rnn_has_the_nonlinearity_of_its_framework() -> None:
    """Haiku's VanillaRNN is relu and nothing else; MXNet's RNN is relu unless told otherwise,
    its RNNCell tanh, as everybody else's."""
    relu = {layout.name for layout, kind in EVERY if layout.cells[kind].nonlinearity == "relu"}
    assert relu == {"haiku", "mxnet"}
    arrays = from_torch("mxnet", RNN_TANH, layer("rnn"))
    assert to_torch("mxnet", arrays, kind="rnn").cell is RNN_RELU
    assert to_torch("mxnet", arrays, kind="rnn_tanh").cell is RNN_TANH
    arrays = from_torch("haiku", RNN_RELU, layer("rnn"))
    assert to_torch("haiku", arrays).cell is RNN_RELU
    with pytest.raises(RefusedError, match="haiku has relu alone; the layer is tanh"):
        from_torch("haiku", RNN_TANH, layer("rnn"))
    with pytest.raises(RefusedError, match="haiku has relu alone; the layer is softsign"):
        from_torch("haiku", RNN_TANH.with_functions({"h": "softsign"}), layer("rnn"))
    with pytest.raises(DeclarationError, match="haiku has relu alone; got kind='rnn_tanh'"):
        to_torch("haiku", arrays, kind="rnn_tanh")


def test_a_cell_that_no_layout_knows_is_refused() -> None:
    cell = Cell("odd", "h", {"h": tanh(from_x("h") - from_h("h"))})
    with pytest.raises(RefusedError, match="odd is stored by no layout"):
        from_torch("keras", cell, layer("rnn"))


def test_a_kind_is_found_by_names_and_shapes() -> None:
    assert candidates("pytorch", layer("lstm")) == ("lstm",)
    assert candidates("pytorch", layer("gru")) == ("gru",)
    keras = from_torch("keras", GRU, layer("gru"))
    assert candidates("keras", keras) == ("gru",)
    assert to_torch("keras", keras).cell is GRU
    del keras["bias"]
    assert candidates("keras", keras) == ("gru", "gru_reset_before")
    with pytest.raises(FileError, match="fit gru and gru_reset_before; say which: kind='gru'"):
        to_torch("keras", keras)


# ── what cannot be held ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("haiku", "gru", "resets before the product with W_hn, this one after it"),
        ("pytorch", "gru_reset_before", "resets after the product with W_hn, this one before it"),
        ("keras", "lstm_peephole", "no place for peepholes"),
        ("equinox", "rnn", "it has no such cell; it stores gru, lstm"),
        ("keras", "lstm_coupled", "here f is 1 - i"),
    ],
)
def test_a_cell_of_another_kind_is_refused(name: str, kind: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        from_torch(name, cell_of(kind), layer(kind))


@pytest.mark.parametrize("name", [n for n in LAYOUTS if "lstm" in LAYOUTS[n].cells])
def test_a_projection_is_held_or_refused(name: str) -> None:
    state = layer("lstm", (3, 4), projected=2)
    cell = DECLARED["lstm_projected"]
    if any(array.part == "W_hr" for array in LAYOUTS[name].cells["lstm"].arrays):
        assert from_torch(name, cell, state)
    else:
        with pytest.raises(RefusedError, match=r"no projection.*proj_size=2"):
            from_torch(name, cell, state)


def test_b_hn_cannot_be_merged() -> None:
    with pytest.raises(RefusedError, match=r"b_hn cannot be added to b_in"):
        from_torch("flax_nnx", GRU, layer("gru"))
    assert from_torch("flax_nnx", GRU, without_b_hn(layer("gru")))


def test_a_layout_without_biases_takes_only_zeros() -> None:
    bare = Layout("bare", {"rnn": Stored("h", (Array("W", "W_ih"), Array("U", "W_hh")))})
    with pytest.raises(RefusedError, match=r"no biases.*layer 0, forward"):
        from_torch(bare, DECLARED["rnn_tanh"], layer("rnn"))
    state = layer("rnn", bias=False)
    assert to_torch(bare, from_torch(bare, DECLARED["rnn_tanh"], state)).options["bias"] is False


# ── what does not fit ────────────────────────────────────────────────────────────────────────


def keras_lstm() -> dict[str, Any]:
    return dict(from_torch("keras", LSTM, layer("lstm")))


def test_a_transposed_array_is_said_to_be() -> None:
    arrays = keras_lstm()
    arrays["kernel"] = arrays["kernel"].T
    with pytest.raises(ShapeError, match=r"kernel must be \(8, 8\).*got \(8, 3\)"):
        to_torch("keras", arrays, kind="lstm")
    arrays = dict(from_torch("pytorch", LSTM, layer("lstm", two=True, num_layers=2)))
    arrays["weight_hh_l1"] = arrays["weight_hh_l1"].T
    with pytest.raises(ShapeError, match=r"weight_hh_l1.*it is transposed|weight_hh_l1 must have"):
        to_torch("pytorch", arrays, kind="lstm")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kernel": None}, FileError, "stores lstm as kernel, recurrent_kernel, bias; missing ker"),
        ({"recurrent_kernel": np.ones((2, 7))}, ShapeError, "4 × hidden columns.*got"),
        ({"bias": np.ones(7, np.float32)}, ShapeError, r"bias must be \(8,\).*got \(7,\)"),
        ({"bias": np.ones((2, 8), np.float32)}, ShapeError, r"bias must be \(8,\)"),
        ({"more": np.ones(2, np.float32)}, FileError, "no place for more in lstm"),
        ({"kernel": np.ones((3, 8), int)}, DtypeError, "kernel must hold floating-point numbers"),
        ({"kernel": np.ones((3, 8))}, DtypeError, "one type of number; got float32, float64"),
        ({"kernel": np.ones(8, np.float32)}, ShapeError, "kernel must have 2 dims"),
        ({"kernel": np.float32(1)}, ShapeError, "kernel must have 2 dims"),
        ({"kernel": np.array("a")}, DtypeError, "kernel must hold"),
        ({"recurrent_kernel": np.ones((0, 0), np.float32)}, ShapeError, "4 × hidden columns"),
    ],
)
def test_what_does_not_fit_is_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arrays = {n: a for n, a in (keras_lstm() | change).items() if a is not None}
    if "columns" in message:
        arrays = {n: np.asarray(a, np.float32) for n, a in arrays.items()}
    with pytest.raises(error, match=message):
        to_torch("keras", arrays, kind="lstm")


def test_a_bias_is_there_or_not() -> None:
    state = layer("lstm")
    del state["bias_hh_l0"]
    with pytest.raises(FileError, match="the bias bias_hh_l0 is missing"):
        to_torch("pytorch", state, kind="lstm")
    arrays = dict(from_torch("haiku", LSTM, layer("lstm")))
    del arrays["lstm/linear/b"]
    with pytest.raises(FileError, match="the bias lstm/linear/b is missing"):
        to_torch("haiku", arrays, kind="lstm")


def test_layers_that_do_not_feed_each_other_are_refused() -> None:
    state = layer("lstm", num_layers=2)
    state["weight_ih_l1"] = torch.randn(8, 5)
    with pytest.raises(ShapeError, match=r"weight_ih_l1 must be \(8, 2\).*got \(8, 5\)"):
        to_torch("pytorch", state, kind="lstm")


def test_a_missing_layer_or_direction_is_no_smaller_stack() -> None:
    state = layer("lstm", num_layers=3, two=True)
    del state["weight_hh_l1_reverse"]
    with pytest.raises(FileError):
        to_torch("pytorch", state)


def test_directions_of_onnx_are_an_axis() -> None:
    arrays = dict(from_torch("onnx", LSTM, layer("lstm", two=True)))
    arrays["B"] = arrays["B"][:1]
    with pytest.raises(ShapeError, match="B must have a first axis of 2 directions"):
        to_torch("onnx", arrays, kind="lstm")
    arrays["W"] = np.concatenate([arrays["W"]] * 2)
    with pytest.raises(ShapeError, match="W must have a first axis of 1 or 2 directions"):
        to_torch("onnx", arrays, kind="lstm")


def test_nothing_fits() -> None:
    with pytest.raises(FileError, match="fits none of its kinds"):
        to_torch("keras", {"a": np.ones(3)})
    with pytest.raises(FileError, match="fits none of its kinds"):
        to_torch("keras", {})
    with pytest.raises(DeclarationError, match="unknown layout 'theano'"):
        layout_named("theano")
    with pytest.raises(DeclarationError, match="unknown kind of cell 'mgu'"):
        to_torch("keras", keras_lstm(), kind="mgu")
    with pytest.raises(DeclarationError, match="equinox stores no rnn"):
        to_torch("equinox", keras_lstm(), kind="rnn")


def test_types_of_numbers() -> None:
    state = {name: tensor.bfloat16() for name, tensor in layer("lstm").items()}
    assert to_torch("pytorch", state).state_dict["weight_ih_l0"].dtype is torch.bfloat16
    with pytest.raises(DtypeError, match="NumPy has no bfloat16"):
        from_torch("keras", LSTM, state)
    for dtype in (torch.float16, torch.float64):
        state = {name: tensor.to(dtype) for name, tensor in layer("lstm").items()}
        same(to_torch("pytorch", from_torch("pytorch", LSTM, state)).state_dict, state)


def test_the_callers_arrays_are_not_touched() -> None:
    arrays = {name: np.array(a) for name, a in from_torch("haiku", LSTM, layer("lstm")).items()}
    copies = {name: a.copy() for name, a in arrays.items()}
    for a in arrays.values():
        a.flags.writeable = False
    state = to_torch("haiku", arrays).state_dict
    for tensor in state.values():
        tensor.add_(1)
    assert all(np.array_equal(arrays[name], copies[name]) for name in arrays)
    tensors = {name: torch.tensor(a) for name, a in copies.items()}
    for tensor in to_torch("haiku", tensors).state_dict.values():
        tensor.add_(1)
    assert all(np.array_equal(tensors[name], copies[name]) for name in arrays)
    module = torch.nn.LSTM(3, 2)
    written = from_torch("pytorch", LSTM, module.state_dict())
    before = module.weight_ih_l0.detach().clone()
    written["weight_ih_l0"] += 1
    assert torch.equal(module.weight_ih_l0, before)


# ── declarations ─────────────────────────────────────────────────────────────────────────────

KERNELS = (Array("W", "W_ih"), Array("U", "W_hh"))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Array("W", "W_x"), "unknown part 'W_x'"),
        (lambda: Array("W{unit}", "W_ih"), "only {layer}, {direction} and {gate}"),
        (lambda: Array("W{", "W_ih"), "only {layer}"),
        (lambda: Array("W{gate}", "W_hr"), "has no gates"),
        (lambda: Stored("ifgo", KERNELS, orientation="up"), "orientation must be rows or columns"),
        (lambda: Stored("h", (Array("W", "W_ih W_hh"),), orientation="reshaped"), "reshaped"),
        (lambda: Layout("x", {"lstm": Stored("ifg", KERNELS)}), "once for each of the gates ifgo"),
        (lambda: Layout("x", {"lstm": Stored("iffo", KERNELS)}), "once for each of the gates"),
        (lambda: Layout("x", {"rnn": Stored("h", KERNELS[:1])}), "W_hh must be stored.*got none"),
        (lambda: Layout("x", {"mgu": Stored("h", KERNELS)}), "unknown kind of cell 'mgu'"),
        (lambda: Layout("x", {}), "it stores no kind of cell"),
        (
            lambda: Layout("x", {"gru": Stored("rzn", (*KERNELS, Array("b", "b_hh")))}),
            "b_hh is stored for rzn; expected some of no gate",
        ),
        (
            lambda: Layout("x", {"gru": Stored("rzn", (*KERNELS, Array("b", "b_ih", "rz")))}),
            "not for all of rzn",
        ),
        (lambda: Layout("x", {"rnn": Stored("h", KERNELS, update="takes")}), "no update gate z"),
        (lambda: Stored("h", KERNELS, nonlinearity="gelu"), "nonlinearity must be tanh or relu"),
        (lambda: Layout("x", {"lstm": Stored("ifgo", KERNELS, forget_bias=1)}), "and a bias"),
        (lambda: Layout("x", {"lstm_peephole": Stored("ifgo", KERNELS)}), "gates ifo; got none"),
    ],
)
def test_a_declaration_checks_itself(declare: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare()


def test_layouts_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        LAYOUTS["keras"].name = "mine"  # type: ignore[misc]
    with pytest.raises(TypeError):
        LAYOUTS["keras"].cells["lstm"] = LAYOUTS["keras"].cells["gru"]  # type: ignore[index]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_each_layout_cites_its_source(layout: Layout) -> None:
    assert layout.title
    assert layout.source.startswith("https://") or layout is RNNSCOPE
    assert PYTORCH.cells.keys() <= RNNSCOPE.cells.keys()
