"""Initial, final and recorded states of other rows, places and steps, beside a right output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnscope as rs

Finals = tuple[Tensor, ...]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


def recorded(change: Callable[..., Finals], kind: Any = nn.LSTM, **options: Any) -> rs.Verdict:
    """The verdict on a right output with final states that are changed."""
    layer = kind(4, 5, **options).double()
    x = torch.randn(7, 3, 4).double()
    with torch.no_grad():
        output, finals = layer(x)
    finals = finals if isinstance(finals, tuple) else (finals,)
    names = dict(zip(("h_n", "c_n"), change(*finals), strict=False))
    return rs.compare({"output": output, **names}, layer, x)


def named(verdict: rs.Verdict) -> list[str]:
    assert not verdict
    return [str(cause) for cause in verdict.causes]


# --- final states -----------------------------------------------------------------------------


def test_rows_of_final_states_in_another_order() -> None:
    verdict = recorded(lambda h, c: (h[:, [2, 0, 1]], c[:, [2, 0, 1]]))
    assert named(verdict) == ["final_rows of h_n, c_n"]
    assert "the rows of h_n and c_n are in the order 2, 0, 1" in plain(verdict)
    assert named(recorded(lambda h, c: (h[:, [2, 0, 1]], c))) == ["final_rows of h_n"]


def test_rows_of_final_states_that_stay_sorted_by_length() -> None:
    layer = nn.GRU(4, 5, batch_first=True)

    def port(x: Tensor, initial: Tensor, lengths: Tensor) -> Any:
        lengths, order = lengths.sort(descending=True, stable=True)
        packed = pack_padded_sequence(x[order], lengths, batch_first=True)
        output, h = layer(packed, initial[:, order].contiguous())
        padded, _ = pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
        return padded[order.argsort()], h

    x, lengths = torch.randn(5, 7, 4), torch.tensor([3, 7, 2, 6, 4])
    verdict = rs.compare(port, layer, x, lengths=lengths)
    assert named(verdict) == ["final_rows of h_n"]
    assert "h_n are left in the order of falling length" in plain(verdict)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_final_states_that_are_viewed_where_they_are_to_be_transposed(
    options: dict[str, Any],
) -> None:
    def viewed(h: Tensor) -> Finals:
        rows = h.contiguous().view(3, len(h), 5) if options else h.permute(0, 2, 1).reshape(1, 3, 5)
        return (rows.transpose(0, 1) if options else rows,)

    verdict = recorded(viewed, nn.GRU, **options)
    assert [cause.name for cause in verdict.causes] == ["final_places"]
    assert "the numbers of h_n stand at other places" in plain(verdict)


@pytest.mark.parametrize("also", [False, True])
def test_h_n_of_every_layer_from_the_end_of_its_output(also: bool) -> None:
    """``also``: c_n lies direction by direction."""
    layer = nn.LSTM(4, 5, 2, bidirectional=True)
    sizes = (4, 10)
    layers = [nn.LSTM(size, 5, bidirectional=True) for size in sizes]
    for k, one in enumerate(layers):
        state = layer.state_dict()
        one.load_state_dict({n: state[n.replace("_l0", f"_l{k}")] for n in one.state_dict()})

    def port(x: Tensor, initial: Any) -> Any:
        h, c = [], []
        for k, one in enumerate(layers):
            x, (_, c_k) = one(x, tuple(s[2 * k : 2 * k + 2].contiguous() for s in initial))
            h += list(x[-1].chunk(2, -1))
            c.append(c_k)
        return x, (torch.stack(h), torch.stack(c, int(also)).flatten(0, 1))

    verdict = rs.compare(port, layer)
    assert named(verdict) == ["final_state every_end", *["final_order by_direction:c"] * also]


def test_final_states_from_behind_a_chunk_that_is_filled_up() -> None:
    layer = nn.LSTM(4, 5)

    def port(x: Tensor, initial: Any) -> Any:
        filled = torch.cat([x, torch.zeros(-len(x) % 4, *x.shape[1:])])
        output, finals = layer(filled, initial)
        return output[: len(x)], finals

    verdict = rs.compare(port, layer)
    assert named(verdict) == ["final_steps chunk:4 of h_n, c_n"]
    assert "taken behind the zeros that fill up the last chunk" in plain(verdict)


def test_final_states_of_the_step_behind_the_last_one() -> None:
    layer = nn.LSTM(4, 5)
    x, lengths = torch.randn(7, 4, 4), torch.tensor([7, 5, 4, 2])

    def port(x: Tensor, initial: Any, lengths: Tensor) -> Any:
        states, outputs = initial, []
        for t, step in enumerate(x):
            inside, beside = (t < lengths)[:, None], (t <= lengths)[:, None]
            output, after = layer(step[None], states)
            states = tuple(torch.where(beside, a, b) for a, b in zip(after, states, strict=True))
            outputs.append(output[0] * inside)
        return torch.stack(outputs), states

    verdict = rs.compare(port, layer, x, lengths=lengths)
    assert named(verdict) == ["final_steps 1 of h_n, c_n"]
    assert "h_n and c_n are taken 1 step after the last one" in plain(verdict)


def test_final_states_of_nothing_that_is_known_are_not_named() -> None:
    verdict = recorded(lambda h, c: (h + torch.randn_like(h), c))
    assert not verdict.causes


# --- recorded states --------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_state_that_is_recorded_before_the_step(bidirectional: bool) -> None:
    layer = nn.LSTM(4, 5, bidirectional=bidirectional).double()
    x = torch.randn(7, 3, 4).double()
    c = rs.trace(layer, x)["c"][0]  # (direction, batch, time, unit)
    zero = torch.zeros_like(c[:1, :, :1])
    late = [torch.cat([zero[0], c[0, :, :-1]], 1)]
    late += [torch.cat([c[1, :, 1:], zero[0]], 1)] if bidirectional else []
    before = torch.stack(late)[None]
    verdict = rs.compare({"output": layer(x)[0].detach(), "c": before}, layer, x)
    assert named(verdict) == ["recorded_before of c"]
    assert "the recorded c is that of the step before" in plain(verdict)


# --- initial states ---------------------------------------------------------------------------


def test_one_state_of_row_0_for_all_rows() -> None:
    layer = nn.LSTM(4, 5)

    def port(x: Tensor, initial: Any) -> Any:
        h, c = initial
        return layer(x, (h[:, :1].expand_as(h).contiguous(), c))[0]

    assert named(rs.compare(port, layer)) == ["read first_row of h_0"]


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (1, 2, 3, 0), (0, 2, 1, 3)])
@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional"), [(nn.LSTM, 1, False), (nn.GRU, 2, True)]
)
def test_rows_that_start_from_the_initial_states_of_other_rows(
    kind: Any, layers: int, bidirectional: bool, order: tuple[int, ...]
) -> None:
    layer, x = kind(4, 5, layers, bidirectional=bidirectional), torch.randn(7, 4, 4)
    h_0 = torch.randn(layers * (1 + bidirectional), 4, 5)
    states = (h_0, h_0.flip(1) ** 2) if kind is nn.LSTM else (h_0,)
    others = tuple(value[:, list(order)] for value in states)
    first, moved = (each if len(each) > 1 else each[0] for each in (states, others))
    verdict = rs.compare(layer(x, moved)[0].detach(), layer, x, first)
    names = "h_0, c_0" if kind is nn.LSTM else "h_0"
    assert named(verdict) == [f"read other_rows of {names}"]
    rows = [k for k in range(4) if order[k] != k]
    of = ", ".join(f"row {k} from that of row {order[k]}" for k in rows)
    assert of.replace("that", "those" if kind is nn.LSTM else "that") in plain(verdict)


def test_h_0_of_other_rows_beside_c_0_of_its_own() -> None:
    """As where a beam search moves h and forgets c."""
    layer, x = nn.LSTM(4, 5), torch.randn(7, 4, 4)
    h_0, c_0 = torch.randn(2, 1, 4, 5)
    output = layer(x, (h_0[:, [0, 0, 1, 3]], c_0))[0].detach()
    verdict = rs.compare(output, layer, x, (h_0, c_0))
    assert named(verdict) == ["read other_rows of h_0"]
    assert "row 1 from that of row 0, row 2 from that of row 1; row k" in plain(verdict)


@pytest.mark.parametrize("change", [lambda h: h.roll(1, 1), lambda h: h.flip(1)])
def test_a_port_whose_rows_start_from_the_initial_state_of_others(change: Any) -> None:
    layer = nn.GRU(4, 5)

    def port(x: Tensor, initial: Tensor) -> Any:
        return layer(x, change(initial))[0]

    assert named(rs.compare(port, layer)) == ["read other_rows of h_0"]


def test_initial_states_that_no_row_has_are_not_told_as_those_of_other_rows() -> None:
    layer, x, h_0 = nn.GRU(4, 5), torch.randn(7, 4, 4), torch.randn(1, 4, 5)
    moved = h_0[:, [2, 0, 3, 1]].clone()
    moved[:, 1] += 0.01
    assert not rs.compare(layer(x, moved)[0].detach(), layer, x, h_0).causes


@pytest.mark.parametrize("sorts", ["x", "h_0"])
def test_rows_that_are_sorted_in_one_of_x_and_h_0(sorts: str) -> None:
    layer = nn.GRU(4, 5)
    x, lengths = torch.randn(7, 5, 4), torch.tensor([3, 7, 2, 6, 4])

    def port(x: Tensor, initial: Tensor, lengths: Tensor) -> Any:
        order = lengths.argsort(descending=True, stable=True)
        h = initial[:, order if sorts == "h_0" else order.argsort()].contiguous()
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return pad_packed_sequence(layer(packed, h)[0], total_length=len(x))[0]

    verdict = rs.compare(port, layer, x, torch.randn(1, 5, 5), lengths=lengths)
    choice = "by_length" if sorts == "h_0" else "not_sorted"
    assert named(verdict) == [f"read {choice} of h_0"]


def other_layers(h: Tensor) -> Tensor:
    return h.flip(0)


def reshaped(h: Tensor) -> Tensor:
    return h.transpose(0, 1).reshape(h.shape)


@pytest.mark.parametrize(
    ("change", "cause"),
    [(other_layers, "initial_order layers"), (reshaped, "initial_reshaped back")],
)
def test_initial_states_at_other_places(change: Callable[[Tensor], Tensor], cause: str) -> None:
    layer = nn.GRU(4, 5, 2)
    verdict = rs.compare(lambda x, initial: layer(x, change(initial).contiguous())[0], layer)
    assert named(verdict) == [cause]


def test_initial_states_of_exchanged_directions() -> None:
    layer = nn.GRU(4, 5, bidirectional=True)
    verdict = rs.compare(lambda x, initial: layer(x, initial.flip(0))[0], layer)
    assert named(verdict) == ["initial_order directions"]
    assert np.isclose(verdict.explanations[0].left, 0, atol=1e-5)
