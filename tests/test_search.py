"""What rounding allows an explanation, and layers of which some units are looked at."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import Mistake
from planting import Setting, plant
from torch import Tensor, nn

import rnnscope as rs
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


@pytest.mark.parametrize(
    ("kind", "mistakes"),
    [
        # r is needed of all units, n of those alone that are looked at
        ("gru", [Mistake("reset_before"), Mistake("transposed", "", "W_hh")]),
        ("gru", [Mistake("reset_before"), Mistake("activation", "n:relu")]),
        # W_hh meets c
        ("lstm", [Mistake("confused", "fed"), Mistake("gate_order", "iofg", "W")]),
        (
            "lstm",
            [
                Mistake("gate_order", "iofg", "W_hh"),
                Mistake("bias_missing", "", "b_hh"),
                Mistake("coupled", "f"),
            ],
        ),
    ],
    ids=["reset, weights", "reset, function", "h and c", "three"],
)
def test_mistakes_in_a_layer_of_more_units_than_are_looked_at(
    kind: str, mistakes: list[Mistake]
) -> None:
    """Of a layer of more than four units the steps of four are computed for every choice."""
    result = plant(Setting(kind, hidden_size=9), mistakes, "call", effort=1)
    assert result.outcome == "explained", str(result)


def test_a_large_layer_of_which_nothing_is_known_is_searched_to_the_end() -> None:
    """What equations have in common is computed once: all sets of three with effort 1."""
    layer, other = nn.LSTM(4, 9), nn.LSTM(4, 9)
    x = torch.randn(6, 3, 4)
    verdict = rs.compare(other(x)[0].detach(), layer, x)
    assert not verdict.causes
    assert verdict.finished


def test_a_mistake_that_returns_states_of_another_size_is_searched_beside() -> None:
    """Of a projected layer the state before its projection is larger than h_n."""
    layer = nn.LSTM(1, 6, proj_size=2, bidirectional=True)
    verdict = rs.compare(lambda x, initial: layer(x.sin(), initial), layer, effort=0.3)
    assert verdict.causes == ()


# --- two layers of two directions, of which the output alone was recorded ------------------------


def ordered_and_exchanged(layer: nn.Module) -> nn.Module:
    """Gates in the order i, f, o, g, and the weights of the two directions exchanged."""
    wrong = copy.deepcopy(layer)
    order = (0, 1, 3, 2)
    rows = {n: torch.cat([v.chunk(4)[k] for k in order]) for n, v in layer.state_dict().items()}
    other = {n: n[:-8] if n.endswith("_reverse") else f"{n}_reverse" for n in rows}
    wrong.load_state_dict({name: rows[other[name]] for name in rows})
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("steps", [8, 12])
def test_a_gate_order_beside_directions_that_are_exchanged(steps: int) -> None:
    """With the usual effort: no step is known by itself, and the search must come to this pair."""
    layer = nn.LSTM(5, 6, 2, bidirectional=True)
    x = torch.randn(steps, 3, 5)
    with torch.no_grad():
        output, _ = ordered_and_exchanged(layer)(x)
    verdict = rs.compare(output, layer, x)
    assert {cause.name for cause in verdict.causes} == {"gate_order", "directions_exchanged"}
