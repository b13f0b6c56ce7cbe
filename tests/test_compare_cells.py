"""A reference that is not torch's: ``rs.compare(..., cells=)`` says which cell it computes.

Judges: torch.nn with the same weights, and the modules of the tests of watch, loops of their own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from tests.test_watch_cells import LI_GRU, LI_GRU_NAMES, MIN_GRU, LiGRU, LoopLSTM, MinGRU

LSTM_CELLS = {LoopLSTM: rs.cells.LSTM}
LI_GRU_CELLS = {LiGRU: rs.Adapter(LI_GRU, parameters=LI_GRU_NAMES, batch_first=True)}
MIN_GRU_CELLS = {
    MinGRU: rs.Adapter(
        MIN_GRU, parameters={"weight_ih": "to_hidden_and_gate.weight"}, batch_first=True
    )
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {"num_layers": 2, "bidirectional": True, "batch_first": True}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_torchs_own_layer_agrees(options: dict[str, Any]) -> None:
    theirs = LoopLSTM(3, 4, **options)
    mine = nn.LSTM(3, 4, **options)
    mine.load_state_dict(theirs.state_dict())
    verdict = rs.compare(mine, theirs, cells=LSTM_CELLS)
    assert verdict.agrees, verdict
    assert "the reference is LoopLSTM; nn.LSTM(3, 4" in str(verdict)
    rs.assert_agrees(mine, theirs, torch.randn(2, 5, 3), cells=LSTM_CELLS)


def swapped(x: Tensor, initial: Any, weights: dict[str, Tensor]) -> Tensor:
    """The blocks of g and o are exchanged."""
    h, c = (state[0] for state in initial)
    outputs = []
    for x_t in x:
        a = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        a = a + h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        i, f, o, g = a.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


def test_a_mistake_is_named() -> None:
    verdict = rs.compare(swapped, LoopLSTM(3, 4), cells=LSTM_CELLS)
    assert not verdict.agrees
    assert str(verdict.causes[0]) == "gate_order ifog of all"
    with pytest.raises(AssertionError, match="differ"):
        rs.assert_agrees(swapped, LoopLSTM(3, 4), cells=LSTM_CELLS, effort=0)


def light_gru(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Written independently, from the paper, with PyTorch's names; time second."""
    for k in (0, 1):
        h, outputs = initial[k], []
        for t in range(x.shape[1]):
            a = x[:, t] @ weights[f"weight_ih_l{k}"].T + h @ weights[f"weight_hh_l{k}"].T
            n, z = a[:, :5].relu(), a[:, 5:].sigmoid()
            h = z * h + (1 - z) * n
            outputs.append(h)
        x = torch.stack(outputs, 1)
    return x


@pytest.mark.parametrize("given", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_declared_cell(given: bool) -> None:
    x = torch.randn(3, 6, 3) if given else None
    assert rs.compare(light_gru, LiGRU(), x, cells=LI_GRU_CELLS).agrees

    def no_update(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return light_gru(x, initial, weights | {"weight_hh_l1": weights["weight_hh_l1"] * 2})

    verdict = rs.compare(no_update, LiGRU(), x, cells=LI_GRU_CELLS, effort=0)
    assert not verdict.agrees
    assert verdict.first.layer == 1 or verdict.first.name in ("h", "output")


def test_a_cell_without_a_matrix_for_h() -> None:
    theirs = MinGRU()
    assert rs.compare(theirs, theirs, cells=MIN_GRU_CELLS).agrees
    other = MinGRU()
    assert not rs.compare(other, theirs, cells=MIN_GRU_CELLS, effort=0).agrees


def test_nothing_of_the_module_changes() -> None:
    theirs = LoopLSTM(3, 4).train()
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    state = torch.get_rng_state()
    rs.compare(theirs, theirs, cells=LSTM_CELLS)
    assert theirs.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


class OtherLSTM(LoopLSTM):
    """The output gate sees twice its input."""

    def forward(self, input: Any, state_init: Any = None) -> Any:
        with torch.no_grad():
            self.weight_ih_l0[-4:] *= 2
        output = super().forward(input, state_init)
        with torch.no_grad():
            self.weight_ih_l0[-4:] /= 2
        return output


class NeedsMore(LoopLSTM):
    def forward(self, input: Any, lengths: Any) -> Any:  # type: ignore[override]
        return super().forward(input)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh = (nn.Parameter(torch.randn(4, n)) for n in (3, 4))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight_ih.T + h @ self.weight_hh.T)


def test_refusals() -> None:
    lstm = nn.LSTM(3, 4)
    with pytest.raises(rs.errors.VerificationError, match="does not compute the cell LSTM"):
        rs.compare(lstm, OtherLSTM(3, 4), cells={OtherLSTM: rs.cells.LSTM})
    with pytest.raises(rs.errors.RefusedError, match="called with x alone"):
        rs.compare(lstm, NeedsMore(3, 4), cells={NeedsMore: rs.cells.LSTM})
    step = rs.Adapter(rs.cells.RNN_TANH, single_step=True)
    with pytest.raises(rs.errors.ShapeError, match="makes one step"):
        rs.compare(lstm, Step(), cells={Step: step})
    with pytest.raises(rs.errors.NotRecurrentError, match="cells maps classes"):
        rs.compare(lstm, lstm, cells={"LSTM": rs.cells.LSTM})  # type: ignore[dict-item]
    with pytest.raises(rs.errors.NotRecurrentError, match=r"cells=\{LoopLSTM"):
        rs.compare(lstm, LoopLSTM(3, 4))
