"""Files in which no layout finds a layer: the line that the error proposes reads them rightly.

The judges are modules as people write them, run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs

D, H = 3, 5


class OneMatrix(nn.Module):
    """[x, h] times one matrix, for all gates."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(D + H, 4 * H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class MatrixForEachGate(nn.Module):
    """[x, h] times a matrix for each gate."""

    def __init__(self) -> None:
        super().__init__()
        self.W_f, self.W_i = nn.Linear(D + H, H), nn.Linear(D + H, H)
        self.W_c, self.W_o = nn.Linear(D + H, H), nn.Linear(D + H, H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([x, h], 1)
        f, i, o = (gate(both).sigmoid() for gate in (self.W_f, self.W_i, self.W_o))
        c = f * c + i * self.W_c(both).tanh()
        return o * c.tanh(), c


class NamedGates(nn.Module):
    """A matrix for x and one for h, for each gate, by words."""

    def __init__(self) -> None:
        super().__init__()
        for gate in ("input", "forget", "cell", "output"):
            setattr(self, f"{gate}_gate", nn.Linear(D + H, H))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        both: Any = torch.cat([x, h], 1)
        f, i = self.forget_gate(both).sigmoid(), self.input_gate(both).sigmoid()
        c = f * c + i * self.cell_gate(both).tanh()
        return self.output_gate(both).sigmoid() * c.tanh(), c


class TwoMatrices(nn.Module):
    """Linear layers of x and of h."""

    def __init__(self) -> None:
        super().__init__()
        self.i2h, self.h2h = nn.Linear(D, 4 * H), nn.Linear(H, 4 * H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (self.i2h(x) + self.h2h(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Parameters(nn.Module):
    """x @ W + h @ U + b."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(D, 4 * H))
        self.U = nn.Parameter(torch.randn(H, 4 * H))
        self.b = nn.Parameter(torch.randn(4 * H))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ self.W + h @ self.U + self.b).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ParametersForEachGate(nn.Module):
    """x @ W_xi + h @ W_hi + b_i, and so on."""

    def __init__(self) -> None:
        super().__init__()
        for gate in "ifco":
            self.register_parameter(f"W_x{gate}", nn.Parameter(torch.randn(D, H)))
            self.register_parameter(f"W_h{gate}", nn.Parameter(torch.randn(H, H)))
            self.register_parameter(f"b_{gate}", nn.Parameter(torch.randn(H)))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a = {
            gate: x @ getattr(self, f"W_x{gate}")
            + h @ getattr(self, f"W_h{gate}")
            + getattr(self, f"b_{gate}")
            for gate in "ifco"
        }
        c = a["f"].sigmoid() * c + a["i"].sigmoid() * a["c"].tanh()
        return a["o"].sigmoid() * c.tanh(), c


class Transposed(nn.Module):
    """The names of nn.LSTMCell, and x @ W."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(D, 4 * H))
        self.weight_hh = nn.Parameter(torch.randn(H, 4 * H))
        self.bias = nn.Parameter(torch.randn(4 * H))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ self.weight_ih + h @ self.weight_hh + self.bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Peepholes(nn.Module):
    """The names of nn.LSTMCell, and vectors through which gates see c."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(D, H)
        for gate in "ifo":
            self.cell.register_parameter(f"w_c{gate}", nn.Parameter(torch.randn(H)))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        cell: Any = self.cell
        i, f, g, o = (
            x @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh
        ).chunk(4, 1)
        i, f = (i + cell.w_ci * c).sigmoid(), (f + cell.w_cf * c).sigmoid()
        c = f * c + i * g.tanh()
        return (o + cell.w_co * c).sigmoid() * c.tanh(), c


class Elman(nn.Module):
    """The RNN of PyTorch's tutorial on names: one matrix for [x, h], another for the output."""

    def __init__(self) -> None:
        super().__init__()
        self.i2h, self.i2o = nn.Linear(D + H, H), nn.Linear(D + H, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.i2h(torch.cat([x, h], 1)).tanh(), c


class ResetBefore(nn.Module):
    """A GRU by its paper: r multiplies h before the product."""

    def __init__(self) -> None:
        super().__init__()
        self.reset_gate, self.update_gate = nn.Linear(D + H, H), nn.Linear(D + H, H)
        self.new_gate = nn.Linear(D + H, H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r, z = (
            gate(torch.cat([x, h], 1)).sigmoid() for gate in (self.reset_gate, self.update_gate)
        )
        n = self.new_gate(torch.cat([x, r * h], 1)).tanh()
        return (1 - z) * n + z * h, c


class Reset3Biases(nn.Module):
    """Kernels and two biases, as haste names them: gates z, r, n, the reset after the product."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(D, 3 * H))
        self.recurrent_kernel = nn.Parameter(torch.randn(H, 3 * H))
        self.bias, self.recurrent_bias = (nn.Parameter(torch.randn(3 * H)) for _ in range(2))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        of_x = (x @ self.kernel + self.bias).chunk(3, 1)
        of_h = (h @ self.recurrent_kernel + self.recurrent_bias).chunk(3, 1)
        z, r = (of_x[0] + of_h[0]).sigmoid(), (of_x[1] + of_h[1]).sigmoid()
        return z * h + (1 - z) * (of_x[2] + r * of_h[2]).tanh(), c


class OneBias(nn.Module):
    """nn.LSTMCell's names, but one bias, of h."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(4 * H, D))
        self.weight_hh = nn.Parameter(torch.randn(4 * H, H))
        self.bias_hh = nn.Parameter(torch.randn(4 * H))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ self.weight_ih.T + h @ self.weight_hh.T + self.bias_hh).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GatesAndCandidate(nn.Module):
    """A GRU with one matrix for r and z."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.candidate = nn.Linear(D + H, 2 * H), nn.Linear(D + H, H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r, z = self.gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
        n = self.candidate(torch.cat([x, r * h], 1)).tanh()
        return (1 - z) * n + z * h, c


class EquationsOfTheDocs(nn.Module):
    """A GRU with the names of nn.GRU's equations: W_ir, W_hr, b_ir, b_hr, ..."""

    def __init__(self) -> None:
        super().__init__()
        for gate in "rzn":
            self.register_parameter(f"W_i{gate}", nn.Parameter(torch.randn(H, D)))
            self.register_parameter(f"W_h{gate}", nn.Parameter(torch.randn(H, H)))
            for side in "ih":
                self.register_parameter(f"b_{side}{gate}", nn.Parameter(torch.randn(H)))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a = dict(self.named_parameters())
        of_x = {gate: x @ a[f"W_i{gate}"].T + a[f"b_i{gate}"] for gate in "rzn"}
        of_h = {gate: h @ a[f"W_h{gate}"].T + a[f"b_h{gate}"] for gate in "rzn"}
        r, z = (of_x["r"] + of_h["r"]).sigmoid(), (of_x["z"] + of_h["z"]).sigmoid()
        return (1 - z) * (of_x["n"] + r * of_h["n"]).tanh() + z * h, c


class UForXVForH(nn.Module):
    """x @ U_i + h @ V_i + b_i."""

    def __init__(self) -> None:
        super().__init__()
        for gate in "ifco":
            for letter in "UV":
                size = D if letter == "U" else H
                self.register_parameter(f"{letter}_{gate}", nn.Parameter(torch.randn(size, H)))
            self.register_parameter(f"b_{gate}", nn.Parameter(torch.randn(H)))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        p = dict(self.named_parameters())
        a = {gate: x @ p[f"U_{gate}"] + h @ p[f"V_{gate}"] + p[f"b_{gate}"] for gate in "ifco"}
        c = a["f"].sigmoid() * c + a["i"].sigmoid() * a["c"].tanh()
        return a["o"].sigmoid() * c.tanh(), c


CELLS: list[Callable[[], nn.Module]] = [
    OneMatrix,
    MatrixForEachGate,
    NamedGates,
    TwoMatrices,
    Parameters,
    ParametersForEachGate,
    Transposed,
    Peepholes,
    Elman,
    ResetBefore,
    Reset3Biases,
    OneBias,
    GatesAndCandidate,
    EquationsOfTheDocs,
    UForXVForH,
]


def proposed_line(path: Path) -> str:
    """The line of the error."""
    with pytest.raises(rs.FileError) as caught:
        rs.load(path)
    text = str(caught.value)
    del caught  # its traceback holds this frame, and that the file
    start = text.index("rs.load(path, layout=")
    return text[start : text.index(" (import rnnscope as rs)")]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("prefix", ["", "model.encoder."])
@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_the_line_that_is_proposed_reads_the_file(
    tmp_path: Path, cell: Callable[[], nn.Module], prefix: str, ending: str
) -> None:
    torch.manual_seed(0)
    module = cell()
    state = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    path = tmp_path / f"m{ending}"
    if ending == ".pt":
        torch.save(state | {"head.weight": torch.randn(2, 4), "head.bias": torch.randn(2)}, path)
    else:
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    layers = eval(proposed_line(path), {"rs": rs, "path": path})
    (layer,) = layers.values()
    x, h, c = torch.randn(6, 2, D), torch.zeros(2, H), torch.zeros(2, H)
    expected = []
    for step in x:
        h, c = module(step, h, c)
        expected.append(h)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_numbers_of_several_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: Callable[[], nn.Module], ending: str
) -> None:
    """The line is that of the whole layer, after one that writes its numbers in one type."""
    torch.manual_seed(0)
    module = cell()
    state = dict(module.state_dict())
    vectors = [name for name, value in state.items() if value.dim() == 1]
    state |= {name: state[name].double() for name in vectors}
    state |= {"hidden.ids": torch.arange(15).view(3, 5), "vocabulary": torch.arange(40).view(8, 5)}
    monkeypatch.chdir(tmp_path)
    path = Path(f"m{ending}")
    if ending == ".pt":
        torch.save(state, path)
    else:
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    try:
        rs.load(path)
        raise AssertionError("no layout has these names")
    except rs.FileError as error:
        text = str(error)
    if not vectors:
        assert "several types" not in text
        return
    first, second = text[text.index("several types: ") + 15 :].split("; rs.load(")
    exec(first, {"torch": torch, "numpy": np})
    (layer,) = eval(f"rs.load({second}", {"rs": rs}).values()
    x, h, c = torch.randn(6, 2, D), torch.zeros(2, H), torch.zeros(2, H)
    expected = []
    for step in x:
        h, c = module(step, h, c)
        expected.append(h)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_what_is_no_recurrent_layer_gets_no_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = {
        "mlp": nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)),
        "conv": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)),
        "attention": nn.TransformerEncoderLayer(8, 2, 16),
    }
    for name, network in networks.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
        with pytest.raises(rs.FileError, match="no weights of a recurrent layer") as caught:
            rs.load(tmp_path / f"{name}.pt")
        assert "rs.Layout" not in str(caught.value)


def test_a_stack_and_two_directions(tmp_path: Path) -> None:
    """Each is a layer of its own; of one whose name says that it runs from the end, it is said."""

    def linear(name: str, inputs: int) -> dict[str, Tensor]:
        return {f"{name}.gates.weight": torch.randn(4 * H, inputs + H)}

    torch.save(linear("cells.0", D) | linear("cells.1", H), tmp_path / "m.pt")
    line = proposed_line(tmp_path / "m.pt")
    layers = eval(line, {"rs": rs, "path": tmp_path / "m.pt"})
    assert {name: layer.input_size for name, layer in layers.items()} == {
        "cells.0": D,
        "cells.1": H,
    }
    torch.save(linear("fwd", D) | linear("bwd", D), tmp_path / "m.pt")
    layers = eval(proposed_line(tmp_path / "m.pt"), {"rs": rs, "path": tmp_path / "m.pt"})
    assert "its name, bwd, may say the reverse" in " ".join(layers.assumed["bwd"])
    assert "reverse" not in " ".join(layers.assumed["fwd"])
