"""States that are set to zero after a step, and so returned: a done mask at the wrong place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs

DONE = torch.zeros(9, 3)
DONE[2, 0] = DONE[3, 0] = DONE[5, 1] = 1


def rollout(cell: nn.RNNCellBase, x: Tensor, done: Tensor, wiped: str = "hc") -> tuple[Any, ...]:
    """A loop over torch's own cell, masked after each step; the output, and the last states."""
    state: Any = tuple(x.new_zeros(x.shape[1], cell.hidden_size) for _ in range(2))
    state = state if isinstance(cell, nn.LSTMCell) else state[0]
    outputs = []
    with torch.no_grad():
        for x_t, mask in zip(x, 1 - done, strict=True):
            state = cell(x_t, state)
            keep = mask.unsqueeze(1)
            if isinstance(state, tuple):
                state = state[0] * keep, state[1] * keep if "c" in wiped else state[1]
            else:
                state = state * keep
            outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs), state


@pytest.mark.parametrize(
    ("kind", "wiped"), [("GRU", "h"), ("RNN", "h"), ("LSTM", "hc"), ("LSTM", "h")]
)
def test_a_mask_after_the_step_is_named(kind: str, wiped: str) -> None:
    layer, cell, x = getattr(nn, kind)(4, 5), getattr(nn, f"{kind}Cell")(4, 5), torch.randn(9, 3, 4)
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in layer.state_dict().items()})
    output, _ = rollout(cell, x, DONE, wiped)
    verdict = rs.compare(output, layer, x)
    text = " ".join(str(verdict).split())
    names = "h and c are" if wiped == "hc" else "h is"
    assert [cause.name for cause in verdict.causes] == ["begins_anew"]
    assert f"{names} set to zero after a step, and so returned" in text
    assert "in row 0 at times 2 and 3, in row 1 at time 5" in text


def test_a_mask_after_the_last_step_reaches_the_final_state() -> None:
    layer, cell, x = nn.GRU(4, 5), nn.GRUCell(4, 5), torch.randn(9, 3, 4)
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in layer.state_dict().items()})
    done = DONE.clone()
    done[-1, 2] = 1
    output, h = rollout(cell, x, done)
    verdict = rs.compare((output, h.unsqueeze(0)), layer, x)
    assert [cause.name for cause in verdict.causes] == ["begins_anew"]
    assert "in row 2 at time 8" in " ".join(str(verdict).split())


def test_zeros_that_are_not_carried_on_are_no_mask_of_the_state() -> None:
    layer, x = nn.GRU(4, 5), torch.randn(9, 3, 4)
    output = layer(x)[0].detach() * (1 - DONE).unsqueeze(-1)
    verdict = rs.compare(output, layer, x, effort=0.05)
    assert "set to zero after a step" not in " ".join(str(verdict).split())
