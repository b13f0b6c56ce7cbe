"""Steps that a port skips, as masks of other frameworks do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


def masked(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The outputs where a step under the mask changes no state of its row, by torch's own layer,
    row by row; they are held there, or zero before the first."""
    outputs = x.new_zeros(*x.shape[:2], layer.hidden_size * (1 + layer.bidirectional))
    for row in range(x.shape[1]):
        steps = (~mask[:, row]).nonzero().flatten().tolist()
        output, _ = layer(x[steps, row : row + 1])
        halves = output[:, 0].chunk(1 + layer.bidirectional, -1)
        size = layer.hidden_size
        for t in range(len(x)):
            before = [k for k, step in enumerate(steps) if step <= t]
            behind = [k for k, step in enumerate(steps) if step >= t]
            if before:
                outputs[t, row, :size] = halves[0][before[-1]]
            if layer.bidirectional and behind:
                outputs[t, row, size:] = halves[1][behind[0]]
    return outputs


MASKS = {
    "inside": [(2, 2), (4, 0), (5, 0), (6, 1)],
    "before": [(0, 0), (1, 0), (0, 2)],
    "all rows": [(3, 0), (3, 1), (3, 2)],
}


@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.LSTM, {}), (nn.GRU, {"bidirectional": True}), (nn.RNN, {"num_layers": 2})],
)
def test_skipped_steps(kind: Any, options: Any, where: str) -> None:
    layer, x = kind(3, 5, **options), torch.randn(9, 3, 3)
    mask = torch.zeros(9, 3, dtype=torch.bool)
    for place in MASKS[where]:
        mask[place] = True
    x[mask] = 0
    with torch.no_grad():
        verdict = rs.compare(masked(layer, x, mask), layer, x=x)
    assert [cause.name for cause in verdict.causes] == ["held"]
    text = " ".join(str(verdict).split())
    assert "where x is zero, are skipped" in text
    t, row = MASKS[where][0]
    said = {"inside": f"time {t} of row {row}", "before": "times 0 and 1 of row 0"}
    assert said.get(where, "the state is held at time 3:") in text


def test_a_step_that_is_zero_is_not_skipped() -> None:
    layer, x = nn.GRU(3, 5), torch.randn(6, 2, 3)
    x[2] = 0
    with torch.no_grad():
        assert rs.compare(layer(x)[0], layer, x=x)


def test_a_state_that_stands_still_beside_gates_that_end_there() -> None:
    layer, x = nn.GRU(3, 5), torch.randn(7, 2, 3)
    with torch.no_grad():
        tr = rs.trace(layer, x)
    h = tr.output.clone()
    h[4:] = h[3]
    gates = {name: tr[name][0, 0].transpose(0, 1).clone() for name in "rzn"}
    for value in gates.values():
        value[4:] = 0
    verdict = rs.compare({"output": h, "h_n": h[-1:], **gates}, layer, x)
    assert [cause.name for cause in verdict.causes] == ["stands_still"]
