"""Recurrent layers that are not torch's: found, told, and opened as the cell that they compute.

The modules here are written in the styles of packages in use; judges are torch.nn with the same
weights, loops written here, and autograd.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnscope as rs
from rnnscope.cells import Cell, Function, apply, from_h, from_x, previous, quantity, relu, sigmoid

z, n = quantity("z"), quantity("n")
LI_GRU = Cell(
    "Li-GRU",
    "nz",
    {
        "n": relu(from_x("n") + from_h("n")),
        "z": sigmoid(from_x("z") + from_h("z")),
        "h": z * previous("h") + (1 - z) * n,
    },
    source="Ravanelli et al. 2018",
)
MIN_GRU = Cell(
    "minGRU",
    "nz",
    {"z": sigmoid(from_x("z")), "n": from_x("n"), "h": (1 - z) * previous("h") + z * n},
)


class LoopLSTM(nn.Module):
    """Torch's parameters and call, a loop of its own: as opacus' DPLSTM and torchrl's LSTM."""

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__()
        judge = nn.LSTM(input_size, hidden_size, **options)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.bidirectional = judge.num_layers, judge.bidirectional
        self.batch_first, self.bias = judge.batch_first, judge.bias
        for name, parameter in judge.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def forward(self, input: Any, state_init: Any = None) -> Any:
        packed = input if isinstance(input, nn.utils.rnn.PackedSequence) else None
        x, lengths = (input, None) if packed is None else pad_packed_sequence(packed)
        x = x.transpose(0, 1) if self.batch_first and packed is None else x
        steps, batch = x.shape[:2]
        lengths = torch.full((batch,), steps) if lengths is None else lengths
        ways = ("", "_reverse") if self.bidirectional else ("",)
        finals = []
        for layer in range(self.num_layers):
            outputs = []
            for way in ways:
                w_ih, w_hh = (getattr(self, f"weight_{k}_l{layer}{way}") for k in ("ih", "hh"))
                b_ih, b_hh = (getattr(self, f"bias_{k}_l{layer}{way}") for k in ("ih", "hh"))
                h = c = x.new_zeros(batch, self.hidden_size)
                if state_init is not None:
                    h, c = (s[len(finals)] for s in state_init)
                states: list[Any] = [None] * steps
                for t in range(steps)[:: -1 if way else 1]:
                    gates = x[t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh
                    i, f, g, o = gates.chunk(4, 1)
                    c_t = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    h_t = o.sigmoid() * c_t.tanh()
                    inside = (t < lengths)[:, None]
                    h, c = torch.where(inside, h_t, h), torch.where(inside, c_t, c)
                    states[t] = h_t * inside
                outputs.append(torch.stack(states))
                finals.append((h, c))
            x = torch.cat(outputs, -1)
        h_n, c_n = (torch.stack(s) for s in zip(*finals, strict=True))
        if packed is not None:
            x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, (h_n, c_n)


class LiGRU(nn.Module):
    """Two layers with linear parts, batch first, states as a tensor: as speechbrain's."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.ModuleList([nn.ModuleDict(self.parts(k)) for k in (3, 5)])

    def parts(self, size: int) -> dict[str, nn.Module]:
        return {"w": nn.Linear(size, 10, bias=False), "u": nn.Linear(5, 10, bias=False)}

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:
        finals = []
        for k, layer in enumerate(self.rnn):
            h, states = x.new_zeros(len(x), 5) if hx is None else hx[k], []
            for t in range(x.shape[1]):
                a, b = (layer["w"](x[:, t]) + layer["u"](h)).chunk(2, 1)
                h = b.sigmoid() * h + (1 - b.sigmoid()) * a.relu()
                states.append(h)
            x = torch.stack(states, 1)
            finals.append(h)
        return x, torch.stack(finals)


LI_GRU_NAMES = {"weight_ih": "rnn.{layer}.w.weight", "weight_hh": "rnn.{layer}.u.weight"}


class MinGRU(nn.Module):
    """No state but by h, no W_hh; returns the output alone."""

    def __init__(self) -> None:
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(3, 10, bias=False)

    def forward(self, x: Tensor, prev_hidden: Tensor | None = None) -> Tensor:
        new, gate = self.to_hidden_and_gate(x).chunk(2, -1)
        gate, states = gate.sigmoid(), []
        h = torch.zeros_like(new[:, :1]) if prev_hidden is None else prev_hidden
        for t in range(x.shape[1]):
            h = torch.lerp(h, new[:, t : t + 1], gate[:, t : t + 1])
            states.append(h)
        return torch.cat(states, 1)


class SplitCell(nn.Module):
    """One step, a matrix for each gate: as written by hand for a course."""

    def __init__(self) -> None:
        super().__init__()
        for gate in "rzn":
            self.register_parameter(f"W_{gate}", nn.Parameter(torch.randn(4, 3)))
            self.register_parameter(f"U_{gate}", nn.Parameter(torch.randn(4, 4)))
            self.register_parameter(f"b_{gate}", nn.Parameter(torch.randn(4)))

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        h = x.new_zeros(len(x), 4) if h is None else h
        r = (x @ self.W_r.T + h @ self.U_r.T + self.b_r).sigmoid()
        z = (x @ self.W_z.T + h @ self.U_z.T + self.b_z).sigmoid()
        n = (x @ self.W_n.T + self.b_n + r * (h @ self.U_n.T)).tanh()
        return (1 - z) * n + z * h


SPLIT = rs.Adapter(
    rs.cells.GRU,
    parameters={
        "weight_ih": ["W_r", "W_z", "W_n"],
        "weight_hh": lambda m: torch.cat([m.U_r, m.U_z, m.U_n]),
        "bias_ih": ["b_r", "b_z", "b_n"],
    },
    single_step=True,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_initial", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}], ids=str
)
def test_a_layer_with_torchs_parameters(options: Any, with_initial: bool, dtype: Any) -> None:
    layer = LoopLSTM(3, 4, **options).to(dtype)
    judge = nn.LSTM(3, 4, **options).to(dtype)
    judge.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=dtype)
    rows = judge.num_layers * (1 + judge.bidirectional)
    batch = 5 if judge.batch_first else 2
    initial = tuple(torch.randn(rows, batch, 4, dtype=dtype) for _ in range(2))
    args = (x, initial) if with_initial else (x,)
    model = nn.Sequential(layer)
    with rs.watch(model, cells={LoopLSTM: rs.cells.LSTM}, record="all") as seen:
        out, (h_n, _) = layer(*args)
        (out.square().sum() + h_n.sum()).backward()
    assert seen.names == ("0",)
    assert seen.skipped == {}
    tr, expected = seen["0"], rs.trace(judge, *args, record="all")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for name in expected:
        torch.testing.assert_close(tr[name], expected[name], rtol=0, atol=tolerance)
    torch.testing.assert_close(tr.c_n, expected.c_n, rtol=0, atol=tolerance)
    assert tr.deviation <= tr.tolerance < 1e-4
    assert "Equal to LoopLSTM's own h at every step, c at the end" in tr.proof
    for name, p in layer.named_parameters():
        gradient = tr.grad.parameters[name]
        torch.testing.assert_close(gradient, p.grad, rtol=0, atol=20 * tolerance)
    again = rs.trace(layer, *args, cells={LoopLSTM: rs.cells.LSTM}, record="all")
    for name in expected:
        assert torch.equal(again[name], tr[name])


def test_packed_sequences_and_joined_calls() -> None:
    layer = LoopLSTM(3, 4, bidirectional=True)
    packed = pack_padded_sequence(
        torch.randn(5, 3, 3), torch.tensor([2, 5, 1]), enforce_sorted=False
    )
    judge = nn.LSTM(3, 4, bidirectional=True)
    judge.load_state_dict(layer.state_dict())
    tr = rs.trace(layer, packed, cells={LoopLSTM: rs.cells.LSTM})
    expected = rs.trace(judge, packed)
    for name in expected:
        torch.testing.assert_close(tr[name], expected[name], rtol=0, atol=1e-5)
    layer = LoopLSTM(3, 4)
    with rs.watch(layer, cells={LoopLSTM: rs.cells.LSTM}) as seen:
        state = None
        for x in torch.randn(6, 2, 2, 3):
            _, state = layer(x, state)
    assert seen.joined("").sizes["time"] == 12


def test_parameters_under_other_names() -> None:
    layer = LiGRU().double()
    adapter = rs.Adapter(LI_GRU, parameters=LI_GRU_NAMES, batch_first=True)
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    tr = rs.trace(layer, x, cells={LiGRU: adapter}, record="all")
    assert tr.structure.num_layers == 2
    output, final = layer(x)
    torch.testing.assert_close(tr["h", 1, "forward"], output, rtol=0, atol=1e-14)
    assert torch.equal(tr.h_n, final)
    first = layer.rnn[0]
    a = first["w"](x) + torch.cat(
        [x.new_zeros(2, 1, 10), first["u"](tr["h", 0, "forward"])[:, :-1]], 1
    )
    torch.testing.assert_close(tr["n", 0, "forward"], a[..., :5].relu(), rtol=0, atol=1e-14)
    torch.testing.assert_close(tr["z", 0, "forward"], a[..., 5:].sigmoid(), rtol=0, atol=1e-14)
    assert tr.deviation <= tr.tolerance < 1e-12
    g = tr.gradients(tr.output.sum())
    expected = torch.autograd.grad(layer(x)[0].sum(), first["u"].weight)[0]
    torch.testing.assert_close(g.parameters["weight_hh_l0"], expected, rtol=0, atol=1e-13)
    hx = torch.rand(2, 2, 5, dtype=torch.float64)
    again = rs.trace(layer, x, hx, cells={LiGRU: adapter})
    assert torch.equal(again.h_0, hx)


def test_a_layer_without_recurrent_weights_that_returns_its_output_alone() -> None:
    layer = MinGRU().double()
    names = {"weight_ih": "to_hidden_and_gate.weight"}
    adapter = rs.Adapter(MIN_GRU, parameters=names, batch_first=True)
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    with rs.watch(layer, cells={MinGRU: adapter}) as seen:
        out = layer(x)
        layer(x[:, :1], out[:, -1:]).sum().backward()
    joined = seen.joined("")
    assert joined.sizes["time"] == 7
    torch.testing.assert_close(joined["h", 0, "forward"][:, :6], out, rtol=0, atol=1e-14)
    first, second = seen.calls("")
    assert torch.equal(first.h_n[0], out[:, -1])
    assert list(first.parameters) == ["weight_ih_l0"]
    assert first.deviation <= first.tolerance < 1e-12
    total = first.grad.parameters["weight_ih_l0"] + second.grad.parameters["weight_ih_l0"]
    torch.testing.assert_close(total, layer.to_hidden_and_gate.weight.grad, rtol=0, atol=1e-13)


def test_a_cell_of_one_step_with_a_matrix_for_each_gate() -> None:
    cell = SplitCell().double()
    xs = torch.randn(5, 2, 3, dtype=torch.float64)
    with rs.watch(cell, cells={SplitCell: SPLIT}) as seen:
        h = None
        for x in xs:
            h = cell(x, h)
    judge = nn.GRU(3, 4).double()
    with torch.no_grad():
        judge.weight_ih_l0.copy_(torch.cat([cell.W_r, cell.W_z, cell.W_n]))
        judge.weight_hh_l0.copy_(torch.cat([cell.U_r, cell.U_z, cell.U_n]))
        judge.bias_ih_l0.copy_(torch.cat([cell.b_r, cell.b_z, cell.b_n]))
        judge.bias_hh_l0.zero_()
    expected, joined = rs.trace(judge, xs), seen.joined("")
    for name in expected:
        torch.testing.assert_close(joined[name], expected[name], rtol=0, atol=1e-14)


class WrongLSTM(LoopLSTM):
    """The forget gate is not applied."""

    def forward(self, input: Any, state_init: Any = None) -> Any:
        out, (h, c) = super().forward(input, state_init)
        return out * 1.001, (h, c)


def test_what_a_module_does_not_compute_is_not_proven() -> None:
    x = torch.randn(5, 2, 3)
    with pytest.raises(rs.VerificationError, match="WrongLSTM does not compute the cell LSTM"):
        rs.trace(WrongLSTM(3, 4), x, cells={WrongLSTM: rs.cells.LSTM})
    with (
        pytest.raises(rs.VerificationError, match="SplitCell does not compute the cell GRU"),
        rs.watch(
            cell := SplitCell(),
            cells={
                SplitCell: rs.Adapter(rs.cells.GRU_RESET_BEFORE, SPLIT.parameters, single_step=True)
            },
        ),
    ):
        cell(torch.randn(2, 3), torch.randn(2, 4))
    tr = rs.trace(WrongLSTM(3, 4), x, cells={WrongLSTM: rs.cells.LSTM}, check=False)
    assert tr.deviation is None


def test_the_classes_are_as_before() -> None:
    before = vars(LoopLSTM)["forward"]
    layer = WrongLSTM(3, 4)
    with rs.watch(layer, cells={LoopLSTM: rs.cells.LSTM}, check=False):
        assert vars(WrongLSTM)["forward"] is not None
    assert vars(LoopLSTM)["forward"] is before


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({LoopLSTM: nn.LSTM}, "cells maps classes of modules to cells"),
        ([LoopLSTM], "got list"),
        ({"rnn": rs.cells.LSTM}, "in the place of a class"),
        ({nn.LSTM: rs.cells.LSTM}, "opened as it is: leave it out of cells"),
        ({LoopLSTM: rs.cells.GRU}, r"weight_ih_l0 has 16 rows; .* expected"),
        ({LoopLSTM: rs.cells.LSTM_PEEPHOLE}, "has no peephole_i_l0"),
    ],
)
def test_cells_that_do_not_fit(cells: Any, says: str) -> None:
    with pytest.raises((rs.NotRecurrentError, rs.RefusedError), match=says):
        rs.trace(LoopLSTM(3, 4), torch.randn(5, 2, 3), cells=cells)


def test_missing_parameters_are_told_with_those_that_there_are() -> None:
    with pytest.raises(rs.RefusedError, match=r"no weight_ih_l0\. Say where it is.*rnn\.0\.w\.w"):
        rs.trace(LiGRU(), torch.randn(2, 5, 3), cells={LiGRU: LI_GRU})
    with rs.watch(LiGRU(), cells={LiGRU: LI_GRU}) as seen:
        pass
    assert "no weight_ih_l0" in seen.skipped[""]
    layer = LiGRU()
    layer.rnn[0]["drop"] = nn.Dropout(0.5)
    adapter = rs.Adapter(LI_GRU, parameters=LI_GRU_NAMES, batch_first=True)
    with rs.watch(layer, cells={LiGRU: adapter}) as seen:
        layer(torch.randn(2, 5, 3))
        layer.eval()(torch.randn(2, 5, 3))
    assert "dropout in training" in seen.skipped[""]
    assert len(seen.calls("")) == 1


class Leaky(nn.Module):
    """A spiking neuron: a state in and out, no weights."""

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        mem = 0.9 * (torch.zeros_like(input_) if mem is None else mem) + input_
        return (mem > 1).to(input_.dtype), mem


class KernelLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 16))
        self.recurrent_kernel = nn.Parameter(torch.randn(4, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.kernel


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(3, 3)

    def forward(self, hidden_states: Tensor, attention_mask: Any = None) -> Tensor:
        return self.query(hidden_states)


class CharRNN(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.attention = layer, Attention()

    def forward(self, x: Tensor, hidden: Any = None) -> Any:
        return self.layer(x, hidden)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: LoopLSTM(3, 4), "cells={LoopLSTM: rs.cells.LSTM}"),
        (LiGRU, "rnn.0.w.weight (10, 3)"),
        (MinGRU, "cells={MinGRU: rs.cells.GRU}"),
        (SplitCell, "W_r (4, 3)"),
        (Leaky, "the state that it takes"),
        (KernelLSTM, "recurrent_kernel (4, 16)"),
    ],
)
def test_what_looks_recurrent_is_told_with_the_line_to_write(make: Any, line: str) -> None:
    for model, name in ((make(), ""), (CharRNN(make()), "layer")):
        with rs.watch(model) as seen:
            pass
        assert seen.names == ()
        assert name in seen.skipped, seen.skipped
        assert line in seen.skipped[name]
        assert f"'{name}'" in repr(seen)
    mixed = nn.Sequential(nn.GRU(3, 4), make())
    with rs.watch(mixed) as seen:
        pass
    assert seen.names == ("0",)
    assert list(seen.skipped) == ["1"]
    with pytest.raises(rs.AddressError, match="'1' was skipped"):
        seen["1"]


def test_what_does_not_look_recurrent_is_not_told() -> None:
    for model in (nn.TransformerEncoderLayer(4, 2), nn.Sequential(Attention(), nn.Linear(2, 2))):
        with pytest.raises(rs.NotRecurrentError):
            rs.watch(model).__enter__()
    with rs.watch(CharRNN(nn.GRU(3, 4))) as seen:  # what runs is recorded
        pass
    assert seen.skipped == {}
    assert seen.names == ("layer",)


def test_gates_in_another_order_are_a_cell_with_that_order() -> None:
    import dataclasses

    class Reordered(LoopLSTM):
        """Rows i, f, o, g, as Caffe and JAX packages have them."""

        def forward(self, input: Any, state_init: Any = None) -> Any:
            twin = LoopLSTM(3, 4).to(input.dtype)
            with torch.no_grad():
                for name, p in twin.named_parameters():
                    i, f, o, g = getattr(self, name).chunk(4)
                    p.copy_(torch.cat([i, f, g, o]))
            return twin(input, state_init)

    cell = dataclasses.replace(rs.cells.LSTM, gates="ifog")
    layer, x = Reordered(3, 4).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    tr = rs.trace(layer, x, cells={Reordered: cell})
    assert tr.deviation <= tr.tolerance < 1e-12
    with pytest.raises(rs.VerificationError):
        rs.trace(layer, x, cells={Reordered: rs.cells.LSTM})


class PeepholeLSTM(nn.Module):
    """A loop over rs.Recurrent's equations, written by hand: f and i see c of the step before."""

    def __init__(self, layers: int = 1, ways: int = 1) -> None:
        super().__init__()
        judge = rs.Recurrent(
            rs.cells.LSTM_PEEPHOLE, 3, 4, num_layers=layers, bidirectional=ways == 2
        )
        self.num_layers, self.bidirectional = layers, ways == 2
        for name, parameter in judge.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach() * 3))

    def forward(self, x: Any, hx: Any = None) -> Any:
        packed = x if isinstance(x, nn.utils.rnn.PackedSequence) else None
        x, lengths = (x, None) if packed is None else pad_packed_sequence(packed)
        lengths = torch.full((x.shape[1],), len(x)) if lengths is None else lengths
        finals = []
        for layer in range(self.num_layers):
            outputs = []
            for way in ("", "_reverse")[: 1 + self.bidirectional]:
                p = {n.removesuffix(f"_l{layer}{way}"): v for n, v in self.named_parameters()}
                h = c = x.new_zeros(x.shape[1], 4)
                if hx is not None:
                    h, c = (s[len(finals)] for s in hx)
                states: list[Any] = [None] * len(x)
                for t in range(len(x))[:: -1 if way else 1]:
                    gates = x[t] @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T
                    i, f, g, o = (gates + p["bias_hh"]).chunk(4, 1)
                    i = (i + p["peephole_i"] * c).sigmoid()
                    f = (f + p["peephole_f"] * c).sigmoid()
                    c_t = f * c + i * g.tanh()
                    h_t = (o + p["peephole_o"] * c_t).sigmoid() * c_t.tanh()
                    inside = (t < lengths)[:, None]
                    h, c = torch.where(inside, h_t, h), torch.where(inside, c_t, c)
                    states[t] = h_t * inside
                outputs.append(torch.stack(states))
                finals.append((h, c))
            x = torch.cat(outputs, -1)
        final = tuple(torch.stack(s) for s in zip(*finals, strict=True))
        if packed is not None:
            x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return x, final


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("layers", "ways"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_gates_that_see_the_cell_state(layers: int, ways: int, packed: bool, dtype: Any) -> None:
    torch.manual_seed(0)
    cell = rs.cells.LSTM_PEEPHOLE
    layer = PeepholeLSTM(layers, ways).to(dtype)
    judge = rs.Recurrent(cell, 3, 4, num_layers=layers, bidirectional=ways == 2).to(dtype)
    judge.load_state_dict(layer.state_dict())
    x: Any = torch.randn(6, 3, 3, dtype=dtype)
    if packed:
        x = pack_padded_sequence(x, torch.tensor([2, 6, 1]), enforce_sorted=False)
    initial = tuple(torch.randn(layers * ways, 3, 4, dtype=dtype) for _ in range(2))
    tr = rs.trace(layer, x, initial, cells={PeepholeLSTM: cell}, record="all")
    expected = rs.trace(judge, x, initial, record="all")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for name in expected:
        torch.testing.assert_close(tr[name], expected[name], rtol=0, atol=tolerance)
    torch.testing.assert_close(tr.c_n, expected.c_n, rtol=0, atol=tolerance)
    assert tr.deviation <= tr.tolerance
    assert tr.tolerance < (1e-3 if dtype == torch.float32 else 1e-11)
    with torch.no_grad():
        layer.peephole_f_l0.mul_(1.01)

    class Wrong(PeepholeLSTM):
        def forward(self, x: Any, hx: Any = None) -> Any:
            out, final = super().forward(x, hx)
            return (out if packed else out * 1.01), tuple(t * 1.01 for t in final)

    wrong = Wrong(layers, ways).to(dtype)
    with pytest.raises(rs.VerificationError, match="Wrong does not compute"):
        rs.trace(wrong, x, initial, cells={PeepholeLSTM: cell})


def test_options_that_a_class_does_not_tell_are_asked_for() -> None:
    class Step(SplitCell):
        pass

    adapter = rs.Adapter(rs.cells.GRU, parameters=SPLIT.parameters)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    with rs.watch(step := Step(), cells={Step: adapter}) as seen:
        step(x, h)
    assert "single_step=True" in seen.skipped[""]

    class Plain(nn.Module):
        """Torch's names without a layer's number."""

        def __init__(self) -> None:
            super().__init__()
            self.weight_ih = nn.Parameter(torch.randn(4, 3))
            self.weight_hh = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            h, states = x.new_zeros(x.shape[1], 4), []
            for x_t in x:
                h = (x_t @ self.weight_ih.T + h @ self.weight_hh.T).tanh()
                states.append(h)
            return torch.stack(states)

    layer = Plain().double()
    tr = rs.trace(layer, torch.randn(5, 2, 3).double(), cells={Plain: rs.cells.RNN_TANH})
    assert list(tr.parameters) == ["weight_ih_l0", "weight_hh_l0"]
    assert tr.deviation <= tr.tolerance < 1e-12


def test_traces_of_such_layers_are_saved_rerun_explained_and_shown(tmp_path: Any) -> None:
    layer, x = LoopLSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)
    tr = rs.trace(layer, x, cells={LoopLSTM: rs.cells.LSTM})
    tr.save(tmp_path / "loop.trace")
    again = rs.load_trace(tmp_path / "loop.trace")
    assert torch.equal(again["f"], tr["f"])
    assert again.proof == tr.proof
    edited = tr.rerun(rs.Edit("c", layer=0, time=2, unit=1, to=0.0))
    assert not torch.equal(edited.output, tr.output)
    at = {"layer": 1, "direction": "forward", "batch": 1}
    assert "LoopLSTM" in str(tr.explain("h", time=3, unit=0, **at))
    assert "LoopLSTM" in str(tr.shapes())
    assert "LoopLSTM" in tr.view().html
    thorough = rs.trace(layer, x, cells={LoopLSTM: rs.cells.LSTM}, check="thorough")
    assert thorough.proofs["c"].every_step


# ── copies ───────────────────────────────────────────────────────────────────────────────────────


def test_a_copy_that_is_trained_is_told() -> None:
    import copy

    model = nn.Sequential(nn.LSTM(3, 4))
    with rs.watch(model) as seen:
        twin = copy.deepcopy(model)
        for _ in range(12):
            twin(torch.randn(5, 2, 3))
    said = seen.skipped["0"]
    assert "12 calls of nn.LSTM outside this model: was it copied" in said
    assert "rs.watch(nn.LSTM)" in said
    with pytest.raises(rs.AddressError, match=r"12 calls of nn\.LSTM outside"):
        seen["0"]
    assert "12 calls of nn.LSTM" in repr(seen)
    with rs.watch(model) as seen:  # it was called itself: others are nobody's concern
        model(torch.randn(5, 2, 3))
        twin(torch.randn(5, 2, 3))
    assert seen.skipped == {}


def test_a_class_is_watched_whichever_module_is_called() -> None:
    import copy

    model = nn.Sequential(nn.LSTM(3, 4))
    x = torch.randn(5, 2, 3)
    with rs.watch(nn.LSTM) as seen:
        nn.GRU(3, 4)(x)
        twin = copy.deepcopy(model)
        twin(x)[0].sum().backward()
        model(x)
        twin(x)
    assert seen.names == ("LSTM.0", "LSTM.1")
    assert [len(seen.calls(name)) for name in seen] == [2, 1]
    assert torch.equal(seen["LSTM.1"]["f"], rs.trace(model[0], x)["f"])
    assert seen.calls("LSTM.0")[0].grad is not None
    with rs.watch(nn.RNNBase, names="GRU.*") as seen:
        model(x)
        nn.GRU(3, 4)(x)
    assert [name for name in seen if seen.calls(name)] == ["GRU.0"]
    layer = LoopLSTM(3, 4)
    with rs.watch(LoopLSTM, cells={LoopLSTM: rs.cells.LSTM}) as seen:
        layer(x)
    assert seen.trace["f"].shape == (1, 1, 2, 5, 4)
    import threading

    with rs.watch(nn.LSTM) as seen:
        thread = threading.Thread(target=lambda: model(x))
        thread.start()
        thread.join()
    assert "1 call came from other threads" in seen.skipped["LSTM.0"]
    with rs.watch(nn.LSTM) as seen:
        pass
    assert seen.names == ()
    with pytest.raises(rs.NotRecurrentError, match="or a class of recurrent layers"):
        rs.watch(nn.Linear)


class LogSpaceGRU(MinGRU):
    """The same, by a scan in logarithms over all steps, which rounds more in float32."""

    def forward(self, x: Tensor, prev_hidden: Tensor | None = None) -> Tensor:
        new, gate = self.to_hidden_and_gate(x).chunk(2, -1)
        kept = nn.functional.logsigmoid(-gate).cumsum(1)
        added = nn.functional.logsigmoid(gate) + new.exp().log() - kept
        return (kept + added.logcumsumexp(1)).exp()


LOG_NAMES = {"weight_ih": "to_hidden_and_gate.weight"}
EXPONENTIAL = Function(
    name="exp",
    symbol="exp",
    latex=r"\exp",
    forward=torch.exp,
    forward_=torch.exp_,
    derivative=lambda y: y,
    steepest=20.0,
    range=None,
    through_zero=False,
    script="Math.exp(x)",
)
LOG_CELL = Cell("minGRU", "nz", {**MIN_GRU.equations, "n": apply(EXPONENTIAL, from_x("n"))})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_way_of_computing_that_rounds_more_is_no_alarm_and_a_mistake_is(dtype: Any) -> None:
    torch.manual_seed(0)
    layer = LogSpaceGRU().to(dtype)
    x = torch.randn(2, 400, 3, dtype=dtype)
    adapter = rs.Adapter(LOG_CELL, parameters=LOG_NAMES, batch_first=True)
    with rs.watch(layer, cells={LogSpaceGRU: adapter}) as seen:
        out = layer(x)
    tr = seen.trace
    assert len(seen.calls("")) == 1
    assert seen.skipped == {}
    assert torch.equal(tr["h", 0, "forward"], out)
    assert tr.deviation <= tr.tolerance < (1e-2 if dtype == torch.float32 else 1e-9)

    class Wrong(LogSpaceGRU):
        def forward(self, x: Tensor, prev_hidden: Tensor | None = None) -> Tensor:
            return super().forward(x, prev_hidden) * 1.001

    wrong = Wrong().to(dtype)
    with pytest.raises(rs.VerificationError, match="does not compute"):
        rs.trace(wrong, x, cells={Wrong: adapter})


@pytest.mark.parametrize(
    ("cell", "parameters", "says"),
    [
        ("LSTM", {}, "takes a cell first"),
        (None, {}, "takes a cell first"),
        (
            rs.cells.GRU,
            {"weight_xx": "w.weight"},
            "got 'weight_xx': the parameters of cell GRU are",
        ),
        (rs.cells.GRU, {"weight_ih": 3}, "got 3 for weight_ih: a path"),
        (rs.cells.GRU, ["weight_ih"], "got list in the place of a mapping"),
    ],
)
def test_adapters_that_there_are_not(cell: Any, parameters: Any, says: str) -> None:
    with pytest.raises(rs.NotRecurrentError, match=says):
        rs.Adapter(cell, parameters=parameters)


@pytest.mark.parametrize("state", ["h", "H", "prev", "memory", "hx", "carry"])
def test_a_step_that_takes_a_state_is_listed(state: str) -> None:
    code = f"lambda self, x, {state}: torch.tanh(self.a(x) + self.b({state}))"
    step = type("Step", (nn.Module,), {"forward": eval(code)})()
    step.a, step.b = nn.Linear(3, 4), nn.Linear(4, 4)
    with rs.watch(nn.ModuleDict({"gru": nn.GRU(3, 4), "step": step})) as seen:
        step(torch.randn(2, 3), torch.randn(2, 4))
    assert "step" in seen.skipped
