"""Rows, lengths, axes and final states that are those of others: each is named by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnscope as rs

Finals = tuple[Tensor, ...]
KINDS = [nn.LSTM, pytest.param(nn.GRU, marks=pytest.mark.slow)]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


def named(verdict: rs.Verdict) -> str:
    """The one cause of the one explanation."""
    assert not verdict
    assert len(verdict.explanations) == 1, str(verdict)
    [cause] = verdict.causes
    return str(cause)


# --- axes of x ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "which"),
    [(0, 2, "time and features"), (1, 2, "batch and features")],
)
def test_two_axes_of_x_are_exchanged(
    kind: Any, batch_first: bool, first: int, second: int, which: str
) -> None:
    """``first`` and ``second`` of (time, batch, feature)."""
    layer = kind(7, 5, batch_first=batch_first)
    sizes = [4, 4, 7]
    sizes[first] = 7
    x = torch.randn(*sizes)
    exchanged = x.transpose(first, second)
    if batch_first:
        x, exchanged = x.transpose(0, 1), exchanged.transpose(0, 1)
    verdict = rs.compare(layer(exchanged)[0], layer, x)
    named(verdict)
    assert f"{which} of x are exchanged" in plain(verdict)
    position = {0: int(batch_first), 1: int(not batch_first), 2: 2}
    assert f"not x.swapaxes({position[first]}, {position[second]})" in plain(verdict)
    assert "reshaped" not in plain(verdict)


def test_x_that_is_reshaped_is_still_told_as_reshaped() -> None:
    layer, x = nn.GRU(6, 5, batch_first=True), torch.randn(4, 9, 6)
    reshaped = x.transpose(1, 2).reshape(4, 9, 6)
    verdict = rs.compare(layer(reshaped)[0], layer, x)
    assert named(verdict) == "read features_first of x"
    assert "reshaped to (time, feature), not transposed" in plain(verdict)


# --- rows -----------------------------------------------------------------------------------------


def zero_from(first: int) -> Callable[[Tensor], Tensor]:
    return lambda value: torch.cat([value[:, :first], 0 * value[:, first:]], 1)


ROWS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "zero": (zero_from(4), "rows zero", "rows 4 and 5 are zero"),
    "last": (
        lambda value: value[:, -1:].expand_as(value),
        "rows repeated",
        "every row holds the numbers of row 5",
    ),
    "rolled": (
        lambda value: value.roll(1, 1),
        "rows order",
        "the rows are in the order 5, 0, 1, 2, 3, 4",
    ),
    "doubled": (
        lambda value: value[:, [0, 0, 2, 2, 4, 4]],
        "rows others",
        "the rows are those of rows 0, 0, 2, 2, 4, 4",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("two", [False, True])
def test_rows_that_are_zero_or_those_of_others(kind: Any, rows: str, two: bool) -> None:
    change, cause, words = ROWS[rows]
    layer, x = kind(5, 6, bidirectional=two), torch.randn(9, 6, 5)
    output, finals = layer(x)
    verdict = rs.compare(change(output), layer, x)
    assert named(verdict) == cause
    assert words in plain(verdict)
    h_n = finals[0] if isinstance(finals, tuple) else finals
    verdict = rs.compare({"output": change(output), "h_n": h_n}, layer, x)
    assert named(verdict) == f"{cause} of output"
    assert named(rs.compare({"output": change(output), "h_n": change(h_n)}, layer, x)) == cause


@pytest.mark.parametrize("rows", ["zero", "last"])
def test_rows_of_final_states_beside_a_right_output(rows: str) -> None:
    change, cause, _ = ROWS[rows]
    layer, x = nn.LSTM(5, 6), torch.randn(9, 6, 5)
    output, (h, c) = layer(x)
    verdict = rs.compare({"output": output, "h_n": change(h), "c_n": c}, layer, x)
    assert named(verdict) == f"{cause} of h_n"
    verdict = rs.compare({"output": output, "h_n": change(h), "c_n": change(c)}, layer, x)
    assert named(verdict) == f"{cause} of h_n, c_n"


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("rows", ["zero", "last", "rolled"])
def test_a_function_whose_rows_are_zero_or_those_of_others(rows: str, given: bool) -> None:
    change, cause, _ = ROWS[rows]
    layer = nn.LSTM(5, 6)

    def port(x: Tensor, initial: Any = None) -> Any:
        output, finals = layer(x, initial)
        return change(output), tuple(map(change, finals))

    verdict = rs.compare(port, layer, torch.randn(9, 6, 5)) if given else rs.compare(port, layer)
    assert named(verdict) == cause
    if rows == "zero" and not given:
        assert "rows 4 to 15 are zero" in plain(verdict)


def test_every_row_that_reads_row_0_is_told_of_x() -> None:
    layer, x = nn.LSTM(5, 6), torch.randn(9, 4, 5)
    verdict = rs.compare(layer(x[:, :1].expand_as(x))[0], layer, x)
    assert named(verdict) == "read first_row of x"


def test_a_row_that_is_no_other_row_is_not_told_as_one() -> None:
    layer, x = nn.LSTM(5, 6), torch.randn(9, 4, 5)
    output = layer(x)[0].detach().clone()
    output[:, 1], output[3, 2] = output[:, 2].clone(), 0.1
    verdict = rs.compare(output, layer, x)
    assert not verdict
    assert not any(cause.name == "rows" for cause in verdict.causes)


# --- final states ---------------------------------------------------------------------------------


def with_finals(
    change: Callable[..., Finals], layers: int = 1, kind: Any = nn.LSTM
) -> list[rs.Verdict]:
    """The verdicts on changed final states beside a right output, and on these alone."""
    layer, x = kind(5, 6, layers, bidirectional=True), torch.randn(9, 3, 5)
    output, finals = layer(x)
    finals = change(*(finals if isinstance(finals, tuple) else (finals,)))
    states = dict(zip(("h_n", "c_n"), finals, strict=False))
    return [
        rs.compare({"output": output, **states}, layer, x),
        rs.compare(states, layer, x),
    ]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("d", "direction"), [(0, "forward"), (1, "reverse")])
def test_final_states_that_hold_one_direction_twice(layers: int, d: int, direction: str) -> None:
    rows = [2 * layer + d for layer in range(layers) for _ in range(2)]
    for verdict in with_finals(lambda h, c: (h[rows], c[rows]), layers):
        assert named(verdict) == f"final_slots {direction} of h_n, c_n"
        assert f"h_n and c_n hold the {direction} direction twice" in plain(verdict)
    for verdict in with_finals(lambda h: (h[rows],), layers, nn.GRU):
        assert named(verdict) == f"final_slots {direction} of h_n"
        assert f"h_n holds the {direction} direction twice" in plain(verdict)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("together", [False, True])
def test_a_list_of_h_and_c_that_is_cut_in_the_middle(layers: int, together: bool) -> None:
    def cut(h: Tensor, c: Tensor) -> Finals:
        pairs = torch.stack([h, c], 1)  # (layer and direction, state, ...)
        if together:
            first, second = pairs.flatten(0, 1).chunk(2)
            return first, second
        halves = [pairs[2 * k : 2 * k + 2].flatten(0, 1).chunk(2) for k in range(layers)]
        return torch.cat([a for a, _ in halves]), torch.cat([b for _, b in halves])

    for verdict in with_finals(cut, layers):
        assert named(verdict) == "final_slots interleaved of h_n, c_n"
        assert "lie h, c, h, c, and are read as h_n, then c_n" in plain(verdict)


def test_other_final_states_are_named_one_by_one() -> None:
    for verdict in with_finals(lambda h, c: (h[[0, 2, 1, 3]], c), 2):
        assert named(verdict) in ("final_slots others of h_n", "final_order by_direction:h")
    for verdict in with_finals(lambda h, c: (h[[0, 1, 1, 3]], c), 2):
        assert named(verdict) == "final_slots others of h_n"
        assert "h_n holds other final states: h_n[2] is h_n[1]" in plain(verdict)


# --- lengths --------------------------------------------------------------------------------------


def run(layer: Any, x: Tensor, lengths: Sequence[int], initial: Any = None) -> Any:
    """What a layer gives for rows of these lengths, padded to the steps of x."""
    packed = pack_padded_sequence(x, torch.as_tensor(lengths), enforce_sorted=False)
    output, finals = layer(packed, initial)
    return pad_packed_sequence(output, total_length=len(x))[0], finals


def padded(lengths: Sequence[int]) -> Tensor:
    x = torch.randn(max(lengths), len(lengths), 5)
    for row, length in enumerate(lengths):
        x[length:, row] = 0
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_rows_that_end_before_their_length(kind: Any, two: bool, layers: int) -> None:
    layer, lengths = kind(5, 6, layers, bidirectional=two), [14, 9, 5]
    x = padded(lengths)
    output, _ = run(layer, x, [13, 8, 4])
    verdict = rs.compare(output, layer, x, lengths=lengths)
    assert named(verdict) == "ends_earlier 1"
    assert "every row ends one step before its length" in plain(verdict)
    assert ("reverse starts there" in plain(verdict)) == two

    def port(x: Tensor, initial: Any, lengths: Tensor) -> Any:
        return run(layer, x, [max(int(n) - 1, 1) for n in lengths], initial)

    assert named(rs.compare(port, layer, x, lengths=lengths)) == "ends_earlier 1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_lengths_that_are_sorted_beside_rows_that_are_not(
    kind: Any, two: bool, layers: int
) -> None:
    layer, lengths = kind(5, 6, layers, bidirectional=two), [12, 5, 9]
    x = padded(lengths)
    verdict = rs.compare(run(layer, x, [12, 9, 5])[0], layer, x, lengths=lengths)
    assert named(verdict) == "other_lengths sorted"
    text = "row 1 ends after 9 steps, not after 5, row 2 ends after 5 steps, not after 9"
    assert text in plain(verdict)


def test_other_lengths_are_read_off_the_zeros() -> None:
    layer, lengths = nn.LSTM(5, 6, bidirectional=True), [12, 5, 9, 10]
    x = padded(lengths)
    verdict = rs.compare(run(layer, x, [12, 5, 7, 10])[0], layer, x, lengths=lengths)
    assert named(verdict) == "other_lengths"
    assert "row 2 ends after 7 steps, not after 9" in plain(verdict)
