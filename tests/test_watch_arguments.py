"""Modules of others that take their state elsewhere than as the second argument.

The judge is a loop in plain operations, which is the module's own forward.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


def loop(module: nn.GRU, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
    h, states = x.new_zeros(x.shape[1], 4) if h is None else h, []
    for x_t in x:
        a = x_t @ module.weight_ih_l0.T + module.bias_ih_l0
        b = h @ module.weight_hh_l0.T + module.bias_hh_l0
        r, z = torch.sigmoid((a + b)[:, :8]).chunk(2, -1)
        n = torch.tanh(a[:, 8:] + r * b[:, 8:])
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.stack(states), h


class Own(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.GRU) -> None:
        super().__init__()
        for name, parameter in kind(3, 4).named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().double()))


class Behind(Own):
    def forward(self, X: Any, edge: Any = None, weight: Any = None, H: Any = None) -> Any:
        assert edge is None or edge.dtype == torch.int64
        return loop(self, X, H)


class KeywordOnly(Own):
    def forward(self, x: Tensor, *, scale: float = 1.0, hidden: Any = None) -> Any:
        return loop(self, x * scale, hidden)


class Gathered(Own):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return loop(self, args[0], kwargs.get("h0"))


class Unnamed(Own):
    def forward(self, x: Tensor, mask: Any = None, z: Any = None) -> Any:
        return loop(self, x, z)


class Second(Own):
    def forward(self, x: Tensor, z: Any = None) -> Any:
        return loop(self, x, z)


EDGE = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("kind", "call", "state"),
    [
        (Behind, lambda m, x, h: m(x, H=h), None),
        (Behind, lambda m, x, h: m(x, EDGE, None, h), None),
        (Behind, lambda m, x, h: m(X=x, weight=torch.rand(2, 4), H=h), None),
        (KeywordOnly, lambda m, x, h: m(x, hidden=h), None),
        (Gathered, lambda m, x, h: m(x, h0=h), None),
        (Second, lambda m, x, h: m(x, h), None),
        (Unnamed, lambda m, x, h: m(x, z=h), "z"),
        (Unnamed, lambda m, x, h: m(x, torch.ones(5, 2), h), ("z",)),
    ],
)
def test_the_state_is_found_wherever_it_is_taken(kind: Any, call: Any, state: Any) -> None:
    layer, x, h = kind(), torch.randn(5, 2, 3).double(), torch.randn(2, 4).double()
    adapter = rs.Adapter(rs.cells.GRU, state=state)
    with rs.watch(layer, cells={kind: adapter}) as seen:
        output, last = call(layer, x, h)
        call(layer, x, last)
    assert seen.skipped == {}
    torch.testing.assert_close(output, loop(layer, x, h)[0], rtol=0, atol=0)
    tr = seen.calls("")[0]
    assert torch.equal(tr.h_0, h[None])
    assert tr.deviation <= tr.tolerance < 1e-12
    assert seen.joined("").sizes["time"] == 10


class Apart(Own):
    """An LSTM that takes h and c apart."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM)

    def forward(self, X: Any, edge: Any = None, H: Any = None, C: Any = None) -> Any:
        judge = nn.LSTM(3, 4).double()
        weights = dict(self.named_parameters())
        return torch.func.functional_call(judge, weights, (X, (H[None], C[None])))


@pytest.mark.parametrize("state", [None, ("H", "C")])
@pytest.mark.parametrize(
    "call", [lambda m, x, h, c: m(x, C=c, H=h), lambda m, *a: m(a[0], 1, *a[1:])]
)
def test_h_and_c_apart(call: Any, state: Any) -> None:
    layer, x = Apart(), torch.randn(5, 2, 3).double()
    h, c = torch.randn(2, 2, 4).double()
    cells = {Apart: rs.Adapter(rs.cells.LSTM, state=state)}
    with rs.watch(layer, cells=cells) as seen:
        call(layer, x, h, c)
    tr = seen.calls("")[0]
    assert torch.equal(tr.h_0, h[None])
    assert torch.equal(tr.c_0, c[None])
    assert tr.deviation <= tr.tolerance < 1e-12


class Both(Own):
    def forward(self, x: Tensor, memory: Any = None, hidden: Any = None) -> Any:
        return loop(self, x, hidden)


class Sized(Own):
    """What looks like a state is a factor on the output."""

    def forward(self, x: Tensor, factor: Any = None) -> Any:
        output, h = loop(self, x, None)
        return (output, h) if factor is None else (output * factor, h)


def test_where_the_state_is_in_doubt_the_argument_is_named() -> None:
    x, h = torch.randn(5, 2, 3).double(), torch.randn(2, 4).double()
    gru = rs.cells.GRU
    with pytest.raises(rs.ShapeError, match=r'Unnamed: z may be .* state="NAME"'):
        rs.trace(Unnamed(), x, z=h, cells={Unnamed: gru})
    with pytest.raises(rs.ShapeError, match=r"which of memory, hidden is its initial state"):
        rs.trace(Both(), x, h, h, cells={Both: gru})
    tr = rs.trace(Both(), x, h, h, cells={Both: rs.Adapter(gru, state="hidden")})
    assert torch.equal(tr.h_0, h[None])
    with pytest.raises(rs.ShapeError, match=r"its initial state H must be a tensor.*; got dict"):
        rs.trace(Behind(), x, H={"h": h}, cells={Behind: gru})
    with pytest.raises(rs.NotRecurrentError, match="takes no hx behind its input; it takes edge"):
        rs.trace(Behind(), x, cells={Behind: rs.Adapter(gru, state="hx")})
    with pytest.raises(rs.NotRecurrentError, match="or one for each of h, c; got"):
        rs.Adapter(rs.cells.LSTM, state=("a", "b", "c"))


def test_tensors_that_are_no_state_are_named_where_the_numbers_differ() -> None:
    x, factor = torch.randn(5, 2, 3).double(), torch.tensor(2.0).double()
    with pytest.raises(rs.VerificationError, match="factor: passed on, in no equation"):
        rs.trace(Sized(), x, factor, cells={Sized: rs.cells.GRU})
    none = rs.Adapter(rs.cells.GRU, state=())
    with pytest.raises(rs.VerificationError, match="factor: passed on"):
        rs.trace(Sized(), x, torch.full((2, 4), 2.0).double(), cells={Sized: none})
    assert rs.trace(Sized(), x, torch.ones(2, 4).double(), cells={Sized: none}).deviation < 1e-12


class ByNames(nn.Module):
    """One step that returns a dict of its states and gates, as neuralhydrology's cell does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTMCell(3, 4)

    def forward(self, x_t: Tensor, h_0: Tensor, c_0: Tensor) -> dict[str, Tensor]:
        h, c = self.inner(x_t, (h_0, c_0))
        return {"i": h * 7, "h_n": h, "c_n": c}


class LayerByNames(nn.Module):
    """A layer that returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(3, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        output, (h_n, c_n) = self.inner(x)
        return {"c_n": c_n, "output": output, "h_n": h_n}


def test_what_is_returned_by_names() -> None:
    names = {
        f"{n}{end}": f"inner.{n}{end}"
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for end in ("", "_l0")
    }
    adapter = rs.Adapter(
        rs.cells.LSTM, {k: v for k, v in names.items() if "_l0" not in k}, None, True
    )
    cell, x = ByNames(), torch.randn(5, 2, 3)
    with rs.watch(cell, cells={ByNames: adapter}) as seen:
        h = c = torch.zeros(2, 4)
        for x_t in x:
            states = cell(x_t=x_t, h_0=h, c_0=c)
            h, c = states["h_n"], states["c_n"]
    judge = nn.LSTM(3, 4)
    judge.load_state_dict({f"{n}_l0": p for n, p in cell.inner.state_dict().items()})
    expected = rs.trace(judge, x)
    for name in "ifgoch":
        torch.testing.assert_close(seen.joined("")[name], expected[name])
    adapter = rs.Adapter(rs.cells.LSTM, {k: v for k, v in names.items() if "_l0" in k})
    layer = LayerByNames()
    tr = rs.trace(layer, x, cells={LayerByNames: adapter})
    assert torch.equal(tr["f"], rs.trace(layer.inner, x)["f"])
    assert torch.equal(tr.c_n, layer(x)["c_n"])
