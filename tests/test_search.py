"""What rounding allows an explanation, beside what it allows the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rnnscope._compare.model.model import Inputs
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.search.trials import larger_tolerance

INF = torch.inf


def column(*values: float) -> Tensor:
    """(time, 1, 1)."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)


def seen(**allowed: Tensor) -> Observation:
    x = torch.zeros(3, 1, 1, dtype=torch.float64)
    inputs = Inputs(x, {"h": torch.zeros(1, 1, 1, 1, dtype=torch.float64)}, False)
    return Observation(inputs, x, 1e-16, allowed=allowed)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (column(1, 5, 2), column(2, 5, 3)),
        (column(1, 5, INF), column(2, 5, INF)),  # rounding takes steps to grow
        (column(INF, INF, INF), column(2, 2, 3)),  # beyond use at once: it is no measure
    ],
)
def test_more_is_allowed_of_the_two_but_not_everything(own: Tensor, expected: Tensor) -> None:
    one = seen(output=column(2, 2, 3), h_n=column(1, 1, 1))
    found = larger_tolerance(one, {"output": own, "h_n": column(4, 4, 4)})
    everything = bool(torch.isinf(own).all())
    assert torch.equal(found["output"], expected)
    assert torch.equal(found["h_n"], column(1, 1, 1) if everything else column(4, 4, 4))


def test_of_another_shape_nothing_is_taken() -> None:
    one = seen(output=column(2, 2, 3))
    assert torch.equal(larger_tolerance(one, {"output": column(9, 9)})["output"], column(2, 2, 3))
