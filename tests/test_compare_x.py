"""How x was prepared: what is read in place of x is named, as each step tells what it read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from restated import Restated, layer_of

import rnnscope as rs

SLOW = pytest.mark.slow
KINDS = ["rnn", "gru", "lstm"]
DTYPES = [torch.float32, torch.float64]
Array = np.ndarray[Any, Any]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


def read_as(
    of: Callable[[Array], Array],
    kind: str,
    dtype: torch.dtype = torch.float32,
    *,
    x: torch.Tensor | None = None,
    layer: Any = None,
) -> rs.Verdict:
    """Of numbers that were recorded with a function of x, of 4 features and 7 units."""
    layer = layer_of(kind, input_size=4, hidden_size=7, size=0.6) if layer is None else layer
    layer = layer.to(dtype)
    if x is None:
        x = torch.randn(12, 3, layer.input_size, generator=torch.Generator().manual_seed(3))
    x = x.to(dtype)
    output, _ = Restated(layer)(np.ascontiguousarray(of(x.numpy())).astype(x.numpy().dtype))
    return rs.compare({"output": output}, layer, x)


def named(verdict: rs.Verdict) -> str:
    """The title of what is named, where that is one cause that leaves rounding."""
    assert not verdict
    assert len(verdict.explanations) == 1, plain(verdict)
    [explanation] = verdict.explanations
    assert explanation.left < 1e-4
    [words] = explanation.words
    return words.title


def with_feature(k: int, of: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def changed(x: Array) -> Array:
        y = x.copy()
        y[..., k] = of(x[..., k])
        return y

    return changed


def with_steps(steps: Any, value: float = 0.0) -> Callable[[Array], Array]:
    def changed(x: Array) -> Array:
        y = x.copy()
        y[steps] = value
        return y

    return changed


def standardised(axes: tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda x: (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


def early(x: Array, end: Array) -> Array:
    return np.concatenate([x[1:], end])


EOS = np.array([1, 0, 0, 0], np.float32)

READ: list[tuple[str, Callable[[Array], Array], str]] = [
    ("twice", lambda x: (x - 0.1307) / 0.3081, "x is read as (x - 0.1307) / 0.3081"),
    ("range", lambda x: 2 * x - 1, "x is read as 2 x - 1"),
    ("units", with_feature(2, lambda v: 1.8 * v + 0.32), "feature 2 as 1.8 x + 0.32"),
    ("raw", lambda x: x * [1.5, 0.2, 1, 0.7] + [0.5, -1, 0, 0.25], "feature 0 as 1.5 x + 0.5"),
    ("order", lambda x: x[..., [2, 0, 3, 1]], "the features of x are read in another order"),
    ("swapped", lambda x: x[..., [0, 2, 1, 3]], "features 1 and 2 of x are exchanged"),
    ("dead", with_feature(2, lambda v: 0 * v), "feature 2 of x is zero"),
    ("last dead", with_feature(3, lambda v: 0 * v), "column 3 of W_ih is never read"),
    ("constant", with_feature(1, lambda v: 0 * v + 0.5), "feature 1 as 0.5"),
    ("copied", lambda x: x[..., [0, 1, 1, 3]], "x[..., [0, 1, 1, 3]]"),
    ("look ahead", lambda x: early(x, 0 * x[:1]), "one step early: x[t + 1] at step t, zeros"),
    ("around", lambda x: early(x, x[:1]), "one step early: x[t + 1] at step t, x[0]"),
    ("held", lambda x: early(x, x[-1:]), "one step early: x[t + 1] at step t, the last once more"),
    (
        "ended",
        lambda x: early(x, 0 * x[:1] + EOS),
        "1 in feature 0, else 0, in all rows at the end",
    ),
    (
        "far",
        lambda x: np.concatenate([x[2:], 0 * x[:2]]),
        "2 steps early: x[t + 2] at step t, zeros",
    ),
    ("late", lambda x: np.concatenate([x[:1], x[:-1]]), "one step late"),
    ("row", standardised((0,)), "standardised once more, each feature of each row, over time"),
    ("whole row", standardised((0, 2)), "standardised once more, each row"),
    ("set", standardised((0, 1)), "standardised once more, each feature, over all rows and steps"),
    ("norm", standardised((2,)), "standardised once more, each step, over its features"),
    ("clipped", lambda x: x.clip(-1, 1), "x is clipped at ±1"),
    ("above", lambda x: x.clip(None, 0.8), "x is clipped at 0.8"),
    ("relu", lambda x: x.clip(0, None), "x is read through relu"),
    ("uint8", lambda x: np.trunc(x * 127) / 127, "x is truncated to multiples of 1/127"),
    ("half", lambda x: x.astype(np.float16), "x is read through float16"),
    ("hot", lambda x: np.concatenate([0 * x[..., :1], x[..., :-1]], -1), "one place too late"),
    ("holes", with_steps(([2, 5, 9], [0, 2, 2])), "x is zero at time 2 of row 0, time 5 of row 2"),
    ("unread", with_steps(slice(0, 2)), "x is zero at times 0 and 1"),
    ("start", with_steps(0, 0.5), "x is (0.5, 0.5, 0.5, 0.5) at time 0"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of", "words"), [pytest.param(*r[1:], id=r[0]) for r in READ])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_in_place_of_x(kind: str, of: Any, words: str, dtype: torch.dtype) -> None:
    verdict = read_as(of, kind, dtype)
    named(verdict)
    assert words in plain(verdict)
