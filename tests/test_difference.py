"""The absolute difference that knows NaN and infinities, judged by numpy.testing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rnnscope._record.difference import absolute_difference, same

NUMBERS = (0.0, -0.0, 1.5, -2.0, 1e308, 5e-324, math.inf, -math.inf, math.nan)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NUMBERS, NUMBERS)))
def test_every_pair_of_special_numbers(a: float, b: float) -> None:
    try:
        np.testing.assert_array_equal(a, b)  # NaN equals NaN
        equal = True
    except AssertionError:
        equal = False
    values = torch.tensor([a, b], dtype=torch.float64)
    difference = float(absolute_difference(*values))
    finite = math.isfinite(a) and math.isfinite(b)
    expected = 0.0 if equal else abs(a - b) if finite else math.inf
    assert difference == expected
    assert bool(same(*values)) == equal


def test_arrays_broadcast_and_stay_in_their_type() -> None:
    a = torch.tensor([[1.0, math.nan], [math.inf, 4.0]], dtype=torch.float32)
    apart = absolute_difference(a, torch.tensor([2.0, math.nan]))
    assert apart.dtype == torch.float32
    assert apart.tolist() == [[1.0, 0.0], [math.inf, math.inf]]
