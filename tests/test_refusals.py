"""Bad input and what cannot be opened: an error of our own that says expected, got, what to do."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import rnnscope as rs
from rnnscope._layers import adopt

KINDS = {"nn.RNN": nn.RNN, "nn.GRU": nn.GRU, "nn.LSTM": nn.LSTM}
CELLS = {"nn.RNNCell": nn.RNNCell, "nn.GRUCell": nn.GRUCell, "nn.LSTMCell": nn.LSTMCell}


def message(
    error: type[rs.RnnscopeError], module: Any, *args: Any, says: tuple[str, ...], **kwargs: Any
) -> str:
    """What a refusal says; every one of `says` is in it."""
    with pytest.raises(error, match=re.escape(says[0])) as raised:
        rs.trace(module, *args, **kwargs)
    text = str(raised.value)
    for part in says:
        assert part in text, text
    assert "\n" not in text
    return text


# ── the input ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("check", [True, "thorough", False])
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_dims(kind: str, check: Any) -> None:
    layer = KINDS[kind](3, 4, batch_first=True)
    says = ("x must be (batch, time, input=3) or unbatched (time, input=3)", "got (3,)")
    message(rs.ShapeError, layer, torch.randn(3), says=(*says, "write x.unsqueeze(0)"), check=check)
    four = torch.randn(2, 2, 5, 3)
    message(rs.ShapeError, layer, four, says=("x must be", "got (2, 2, 5, 3)"), check=check)
    message(rs.ShapeError, layer, torch.tensor(3.0), says=("x must be", "got ()"), check=check)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_single_numbers(kind: str, batch_first: bool) -> None:
    """The learner's 3, 4, 5: the message holds the line that makes it right."""
    layer = KINDS[kind](1, 2, batch_first=batch_first)
    numbers = torch.tensor([3.0, 4.0, 5.0])
    add = "unsqueeze(0)" if batch_first else "unsqueeze(1)"
    says = (f"x.unsqueeze(-1).{add}", "got (3,)", "or unbatched x.unsqueeze(-1)")
    message(rs.ShapeError, layer, numbers, says=says)
    order = "(batch, time)" if batch_first else "(time, batch)"
    table = numbers[None] if batch_first else numbers[:, None].repeat(1, 3)
    message(rs.ShapeError, layer, table, says=("x.unsqueeze(-1)", order))
    # what the messages say is right
    for x in (numbers.unsqueeze(-1).unsqueeze(0 if batch_first else 1), numbers.unsqueeze(-1)):
        assert rs.trace(layer, x).sizes["time"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_features(kind: str) -> None:
    layer = KINDS[kind](3, 4)
    message(
        rs.ShapeError, layer, torch.randn(5, 2, 7), says=("input=3", "got (5, 2, 7)", "input_size")
    )
    x = torch.randn(5, 3, 2)
    text = message(rs.ShapeError, layer, x, says=("input=3", "got (5, 3, 2)", "x.movedim(1, -1)"))
    assert "move it last" in text
    rs.trace(layer, x.movedim(1, -1))
    message(rs.ShapeError, layer, pack_sequence([torch.randn(4, 2)]), says=("input=3", "got"))


@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind: str) -> None:
    cell = CELLS[kind](3, 4)
    says = ("x must be (batch, input=3) or (input=3)", "got (5, 2, 3)")
    message(rs.ShapeError, cell, torch.randn(5, 2, 3), says=says)
    message(rs.ShapeError, cell, torch.randn(2, 4), says=("input=3", "got (2, 4)"))
    message(rs.ShapeError, cell, torch.randn(0, 3), says=("no sequence",))
    message(rs.DtypeError, cell, pack_sequence([torch.randn(2, 3)]), says=("PackedSequence",))
    wrong = torch.randn(2, 5)
    hx = (wrong, torch.randn(2, 4)) if kind == "nn.LSTMCell" else wrong
    message(rs.ShapeError, cell, torch.randn(2, 3), hx, says=("h_0 must be", "(2, 4)", "(2, 5)"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_trace(kind: str) -> None:
    layer = KINDS[kind](3, 4)
    message(rs.ShapeError, layer, torch.randn(0, 2, 3), says=("x has no step", "at least one"))
    message(rs.ShapeError, layer, torch.randn(0, 3), says=("x has no step",))
    message(rs.ShapeError, layer, torch.randn(5, 0, 3), says=("x has no sequence", "at least one"))


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_numbers(kind: str) -> None:
    layer = KINDS[kind](3, 4)
    integers = torch.ones(5, 2, 3, dtype=torch.int64)
    message(rs.DtypeError, layer, integers, says=("floating point", "torch.int64", "x.float()"))
    message(rs.DtypeError, layer, pack_sequence([integers[:, 0]]), says=("torch.int64",))
    double = torch.randn(5, 2, 3, dtype=torch.float64)
    says = ("x is torch.float64", "weights are torch.float32", "x.to(torch.float32)")
    message(rs.DtypeError, layer, double, says=says)
    h_0 = torch.zeros(1, 2, 4, dtype=torch.float64)
    hx = (h_0, h_0) if kind == "nn.LSTM" else h_0
    says = ("h_0 is torch.float64", "weights are torch.float32", "h_0.to(torch.float32)")
    message(rs.DtypeError, layer, double.float(), hx, says=says)
    message(rs.DtypeError, layer, [[1.0, 2.0, 3.0]], says=("takes a tensor", "list", "as_tensor"))
    message(rs.DtypeError, layer, double.numpy(), says=("takes a tensor", "ndarray", "as_tensor"))


# ── the initial states ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 2, 9), ("(4, 3, 9)", "got (3, 2, 9)")),
        ((4, 3, 8), ("(4, 3, 9)", "got (4, 3, 8)")),
        ((2, 3, 9), ("(4, 3, 9)", "got (2, 3, 9)")),
        ((4, 9), ("(4, 3, 9)", "got (4, 9)")),
        (
            (3, 4, 9),
            ("(4, 3, 9)", "got (3, 4, 9)", "batch_first does not apply", "h_0.transpose(0, 1)"),
        ),
    ],
)
def test_wrong_shapes(kind: str, shape: tuple[int, ...], says: tuple[str, ...]) -> None:
    layer = KINDS[kind](2, 9, num_layers=2, bidirectional=True, batch_first=True)
    h_0 = torch.zeros(shape)
    hx = (h_0, torch.zeros(4, 3, 9)) if kind == "nn.LSTM" else h_0
    says = ("h_0 must be (layers × directions, batch, hidden)", *says)
    message(rs.ShapeError, layer, torch.randn(3, 5, 2), hx, says=says)
    message(rs.ShapeError, layer, pack_sequence([torch.randn(5, 2)] * 3), hx, says=says)


def test_batched_states_of_an_unbatched_call() -> None:
    layer = nn.GRU(3, 4)
    says = ("as x is unbatched", "(1, 4)", "got (1, 1, 4)")
    message(rs.ShapeError, layer, torch.randn(5, 3), torch.zeros(1, 1, 4), says=says)


def test_an_lstm_needs_both_states() -> None:
    layer = nn.LSTM(3, 4, proj_size=2)
    x, h_0, c_0 = torch.randn(5, 2, 3), torch.zeros(1, 2, 2), torch.zeros(1, 2, 4)
    for hx in (h_0, (h_0,), (h_0, c_0, c_0)):
        message(rs.ShapeError, layer, x, hx, says=("takes the initial states as (h_0, c_0)", "got"))
    message(rs.ShapeError, layer, x, (c_0, c_0), says=("h_0 must be", "(1, 2, 2)", "(1, 2, 4)"))
    message(rs.ShapeError, layer, x, (h_0, h_0), says=("c_0 must be", "(1, 2, 4)", "(1, 2, 2)"))
    message(rs.DtypeError, layer, x, (h_0, None), says=("c_0 must be a tensor", "NoneType"))
    rs.trace(layer, x, (h_0, c_0))


@pytest.mark.parametrize("kind", KINDS)
def test_other_arguments(kind: str) -> None:
    layer = KINDS[kind](3, 4)
    x = torch.randn(5, 2, 3)
    says = ("is called as layer(input, hx=None)",)
    message(rs.ShapeError, layer, says=says)
    message(rs.ShapeError, layer, x, None, None, says=says)
    message(rs.ShapeError, layer, x, lengths=[5, 5], says=(*says, "lengths"))
    assert torch.equal(rs.trace(layer, input=x).output, layer(x)[0])


# ── what is asked for ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("record", ["gate", ["f", "cell"], ["r"], "n", [3]])
def test_unknown_names_to_record(record: Any, check: bool) -> None:
    layer = nn.LSTM(3, 4)
    called = []
    layer.register_forward_hook(lambda *_: called.append(1))
    unknown = [name for name in ([record] if isinstance(record, str) else record) if name != "f"]
    says = ("record must be", '"gates", "all"', "i_from_x", f"got {unknown[0]}")
    message(rs.AddressError, layer, torch.randn(5, 2, 3), says=says, record=record, check=check)
    assert called == []


@pytest.mark.parametrize("check", ["full", None, 3])
def test_unknown_checks(check: Any) -> None:
    with pytest.raises(ValueError, match='check must be True, False or "thorough"; got'):
        rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3), check=check)


# ── the module ───────────────────────────────────────────────────────────────────────────────

X = torch.zeros(5, 2, 3)


@pytest.mark.parametrize("thing", ["lstm", None, nn.LSTM, lambda x: x])
def test_no_module(thing: Any) -> None:
    message(rs.NotRecurrentError, thing, X, says=("takes a recurrent layer of torch.nn", "got"))


def test_no_recurrent_layer() -> None:
    message(rs.NotRecurrentError, nn.Linear(3, 4), X, says=("Linear", "nn.LSTM", "nn.GRUCell"))


def test_a_model_that_holds_some() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"rnn": nn.GRU(3, 4)}))
    message(rs.NotRecurrentError, model, X, says=("holds '1.rnn'", "rs.watch(model)"))


class OwnForward(nn.LSTM):
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        return x @ self.weight_ih_l0.T, hx


class OwnCell(nn.GRUCell):
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        return (x @ self.weight_ih.T).tanh()


class OwnBase(nn.RNNBase):
    def __init__(self) -> None:
        super().__init__("GRU", 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x


def patched() -> nn.Module:
    layer = nn.GRU(3, 4)
    layer.forward = lambda x: x  # type: ignore[method-assign,assignment]
    return layer


def compiled() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own imports use what torch has deprecated
        return torch.compile(nn.LSTM(3, 4))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.LSTM(3, 4))


def jit_traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.GRU(3, 4), X)


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LSTM(3, 4))
        return torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})[0]


def quantisable() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.nn.quantizable.LSTM(3, 4)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OwnForward(3, 4), "OwnForward replaces the forward of nn.LSTM"),
        (lambda: OwnCell(3, 4), "OwnCell replaces the forward of nn.GRUCell"),
        (OwnBase, "OwnBase has a forward of its own"),
        (patched, "replaces the forward of nn.GRU"),
        (compiled, "compiled by torch.compile"),
        (scripted, "a scripted LSTM"),
        (jit_traced, "a scripted GRU"),
        (quantised, "quantised"),
        (quantisable, "quantisable"),
    ],
)
def test_refused(make: Callable[[], nn.Module], reason: str, check: bool) -> None:
    message(rs.RefusedError, make(), X, says=(reason, "cannot be opened"), check=check)


# ── tensors that hold no numbers, or not those of one call ───────────────────────────────────


@pytest.mark.parametrize("check", [True, False])
def test_meta(check: bool) -> None:
    message(rs.RefusedError, nn.GRU(3, 4), X.to("meta"), says=("meta device",), check=check)
    layer = nn.GRU(3, 4, device="meta")
    message(rs.RefusedError, layer, X.to("meta"), says=("meta device",), check=check)
    message(rs.RefusedError, layer, X, says=("meta device",), check=check)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_and_sparse(check: bool) -> None:
    rows = [torch.randn(2, 3), torch.randn(4, 3)]
    for layout in (torch.strided, torch.jagged):
        x = torch.nested.nested_tensor(rows, layout=layout)
        says = ("nested", "pack_sequence")
        message(rs.RefusedError, nn.GRU(3, 4), x, says=says, check=check)
    message(rs.RefusedError, nn.GRU(3, 4), X.to_sparse(), says=("sparse", "pad"), check=check)


@pytest.mark.parametrize("check", [True, False])
def test_transformations(check: bool) -> None:
    layer = nn.GRU(3, 4)
    x = torch.randn(6, 5, 3)  # a batch of unbatched calls
    with pytest.raises(rs.RefusedError, match=r"inside torch.func.vmap or grad"):
        torch.vmap(lambda one: rs.trace(layer, one, check=check)["h"])(x)
    with pytest.raises(rs.RefusedError, match=r"inside torch.func.vmap or grad"):
        torch.func.grad(lambda one: rs.trace(layer, one, check=check).output.sum())(x)
    h_0 = torch.randn(6, 1, 4)
    with pytest.raises(rs.RefusedError, match=r"inside torch.func.vmap or grad, as h_0 is"):
        torch.vmap(lambda one: rs.trace(layer, x[0], one, check=check)["h"])(h_0)

    class Opening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self) -> Tensor:
            return rs.trace(self.rnn, x[0], check=check)["h"]

    model = Opening()
    ensemble = {k: torch.stack([p.detach()] * 2) for k, p in model.named_parameters()}
    with pytest.raises(rs.RefusedError, match=r"inside torch.func.vmap or grad, as weight_ih_l0"):
        torch.vmap(lambda weights: torch.func.functional_call(model, weights, ()))(ensemble)


# ── NaN and inf are data ─────────────────────────────────────────────────────────────────────

VALUES = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
EVERY = pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj"])


def layer_of(cell: str) -> nn.RNNBase:
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "lstm_proj": nn.LSTM}.get(cell, nn.RNN)
    own = {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {}
    own |= {"proj_size": 2} if cell == "lstm_proj" else {}
    return kind(3, 4, num_layers=2, bidirectional=True, **own)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


@EVERY
@VALUES
@pytest.mark.parametrize("check", [True, "thorough", False])
def test_in_the_input(cell: str, value: float, check: Any) -> None:
    layer = layer_of(cell)
    x = torch.randn(5, 2, 3)
    x[3, 1, 2] = value
    tr = rs.trace(layer, x, record="all", check=check)
    kind = "NaN" if math.isnan(value) else "inf"
    assert tr.nonfinite == f"{kind} first in x at layer 0, forward, batch 1, time=3, unit 2"
    assert tr.nonfinite in tr.proof
    if check is not False:
        assert same(tr.output, layer(x)[0])
    # the other sequence is as if it were alone
    other = rs.trace(layer, x[:, :1], record="all", check=check)
    for name in tr:
        torch.testing.assert_close(tr[name][:, :, :1], other[name], atol=1e-6, rtol=1e-5)
        assert torch.isfinite(tr[name][0, 0, 1, :3]).all()
    if math.isnan(value):
        assert tr["h", 0, "forward"][1, 3:].isnan().all()


@EVERY
@VALUES
@pytest.mark.parametrize("name", ["weight_ih_l1", "weight_hh_l0_reverse", "bias_hh_l1"])
def test_in_a_weight(cell: str, value: float, name: str) -> None:
    layer = layer_of(cell)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        getattr(layer, name).view(-1)[0] = value
    tr = rs.trace(layer, x)
    assert tr.nonfinite == f"{'NaN' if math.isnan(value) else 'inf'} first in {name}"
    assert same(tr.output, layer(x)[0])
    assert tr.deviation is not None
    assert tr.tolerance is not None
    assert tr.deviation <= tr.tolerance
    assert "nan" not in tr.proof


@EVERY
@VALUES
def test_in_an_initial_state(cell: str, value: float) -> None:
    layer = layer_of(cell)
    x = torch.randn(5, 2, 3)
    h_0, c_0 = torch.randn(4, 2, layer.proj_size or 4), torch.randn(4, 2, 4)
    (c_0 if "lstm" in cell else h_0)[1, 0, 1] = value
    tr = rs.trace(layer, x, (h_0, c_0) if "lstm" in cell else h_0, check="thorough")
    state = "c_0" if "lstm" in cell else "h_0"
    assert tr.nonfinite == f"{'NaN' if math.isnan(value) else 'inf'} first in {state}"


def test_infinity_times_nothing() -> None:
    """c_0 is inf and the forget gate exactly 0: NaN by the layer and by the equations."""
    layer = nn.LSTM(3, 4)
    with torch.no_grad():
        layer.bias_ih_l0[4:8] = -2_000
    c_0 = torch.full((1, 2, 4), math.inf)
    for check in (True, "thorough", False):
        tr = rs.trace(layer, torch.randn(5, 2, 3), (torch.zeros(1, 2, 4), c_0), check=check)
        assert tr["c"].isnan().all()


def test_a_wrong_nan_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN equals NaN, and nothing else does."""

    right = adopt.Adopted.returned

    def altered(self: Any, *args: Any) -> Any:
        found = right(self, *args)
        h = found.h.clone()
        h[4, 1, 0] = math.nan
        return replace(found, h=h)

    monkeypatch.setattr(adopt.Adopted, "returned", altered)
    with pytest.raises(rs.VerificationError, match="batch 1, time=4"):
        rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))


def test_what_is_finite_is_not_reported() -> None:
    assert rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3)).nonfinite is None
