"""Sequences that a port runs in pieces: what becomes of the states between these is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs

SLOW = pytest.mark.slow
KINDS = [pytest.param(nn.RNN, marks=SLOW), nn.GRU, pytest.param(nn.LSTM, marks=SLOW)]
States = tuple[Tensor, ...]


def of_kind(kind: Any, layers: int = 1, units: int = 8, **options: Any) -> tuple[Any, Tensor]:
    """A layer, and x of 26 steps."""
    torch.manual_seed(3)
    return kind(5, units, layers, **options), torch.randn(26, 3, 5)


def in_chunks(
    layer: Any, x: Tensor, between: Callable[[States], States], size: int = 8
) -> tuple[Tensor, States]:
    """Output and final states of x in chunks; ``between`` changes the states where one ends."""
    outputs, states = [], None
    with torch.no_grad():
        for piece in x.split(size):
            if states is not None:
                changed = between(states)
                states = changed if isinstance(layer, nn.LSTM) else changed[0]
            output, states = layer(piece, states)
            outputs.append(output)
            states = states if isinstance(states, tuple) else (states,)
    assert states is not None
    return torch.cat(outputs), states


def said(verdict: Any) -> tuple[list[str], str]:
    """The causes, and the text in one line."""
    return [str(cause) for cause in verdict.causes], " ".join(str(verdict).split())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [0, 1])
def test_the_state_of_one_layer_begins_anew(kind: Any, of: int) -> None:
    layer, x = of_kind(kind, 2)

    def lost(states: States) -> States:
        kept = torch.ones(2, 1, 1)
        kept[of] = 0
        return tuple(state * kept for state in states)

    output, finals = in_chunks(layer, x, lost)
    causes, text = said(rs.compare({"output": output, "h_n": finals[0]}, layer, x))
    assert causes == [f"between_chunks layer {of}"], text
    assert f"the state of layer {of} is set to zero between chunks, before times 8, 16 and" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_goes_on_from_the_last_one(kind: Any) -> None:
    layer, x = of_kind(kind, 3)
    output, _ = in_chunks(layer, x, lambda states: tuple(s[-1:].repeat(3, 1, 1) for s in states))
    causes, text = said(rs.compare(output, layer, x))
    assert causes == ["between_chunks last"], text
    output, _ = in_chunks(layer, x, lambda states: tuple(s.flip(0) for s in states))
    causes, text = said(rs.compare(output, layer, x))
    assert causes == ["between_chunks reversed"], text


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [5, 8])
def test_h_and_c_are_exchanged_between_chunks(layers: int, size: int) -> None:
    layer, x = of_kind(nn.LSTM, layers)
    output, finals = in_chunks(layer, x, lambda states: states[::-1], size)
    given = {"output": output, "h_n": finals[0], "c_n": finals[1]}
    causes, text = said(rs.compare(given, layer, x))
    assert causes == ["between_chunks exchanged"], text
    assert "h and c are exchanged between chunks" in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_are_kept_in_few_bits_between_chunks(kind: Any, dtype: torch.dtype) -> None:
    layer, x = of_kind(kind, 2)
    output, finals = in_chunks(layer, x, lambda states: tuple(s.to(dtype).float() for s in states))
    for h_n in (finals[0], finals[0].to(dtype).float()):  # of the last chunk too, or not
        causes, text = said(rs.compare({"output": output, "h_n": h_n}, layer, x))
        assert causes == [f"between_chunks {str(dtype).removeprefix('torch.')}"], text


def overlapping(layer: Any, x: Tensor, hop: int, twice: int) -> Tensor:
    """Chunks of which the last steps are run again at the start of the next one."""
    outputs, states, start = [], None, 0
    with torch.no_grad():
        while start < len(x):
            output, states = layer(x[start : start + hop + twice], states)
            outputs.append(output[twice if start else 0 :])
            start += hop
    return torch.cat(outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "hop", "twice"), [(1, 6, 2), (2, 7, 3), (1, 4, 1)])
def test_steps_of_chunks_that_overlap_are_taken_twice(
    kind: Any, layers: int, hop: int, twice: int
) -> None:
    layer, x = of_kind(kind, layers)
    output = overlapping(layer, x, hop, twice)
    causes, text = said(rs.compare(output, layer, x[: len(output)]))
    assert causes == [f"between_chunks twice {twice}"], text
    assert f"before times {hop + twice}, " in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "two"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("padded", [False, True])
def test_each_output_is_of_the_last_steps_alone(
    kind: Any, layers: int, two: bool, padded: bool
) -> None:
    """A window of five steps for each output, the first ones shorter, or with zeros before."""
    layer, x = of_kind(kind, layers, bidirectional=two)
    long = torch.cat([torch.zeros(4, 3, 5), x])
    with torch.no_grad():
        windows = [
            layer(long[t : t + 5] if padded else x[max(0, t - 4) : t + 1])[0][-1] for t in range(26)
        ]
    causes, text = said(rs.compare(torch.stack(windows), layer, x))
    assert causes == ["windows 5"], text
    assert "computed from the last 5 steps alone" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunked_function_is_named_where_x_is_given(kind: Any) -> None:
    layer, x = of_kind(kind, 2)

    def port(x: Any, initial: Any = None) -> Tensor:
        return in_chunks(layer, torch.as_tensor(x), lambda s: tuple(v * 0 for v in s[:1]) + s[1:])[
            0
        ]

    causes, text = said(rs.compare(port, layer, x))
    assert causes[0].startswith("begins_anew"), text


@pytest.mark.parametrize(
    "change",
    [
        lambda states: tuple(s / 2 for s in states),
        pytest.param(lambda states: tuple(s.roll(1, -1) for s in states), marks=SLOW),
        pytest.param(
            lambda states: tuple(s + 0.1 * torch.randn_like(s) for s in states), marks=SLOW
        ),
    ],
    ids=["halved", "rolled", "noisy"],
)
def test_other_states_between_chunks_get_no_name(change: Callable[[States], States]) -> None:
    """A state that is halved, rolled or noisy where a chunk ends is none of these."""
    layer, x = of_kind(nn.GRU, 2)
    output, _ = in_chunks(layer, x, change)
    causes, text = said(rs.compare(output, layer, x))
    assert not causes, text
