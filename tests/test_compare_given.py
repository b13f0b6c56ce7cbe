"""compare: what the caller gives it: lengths, states, a reference; in any form, wrong ones too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


# --- lengths that a candidate does not take -------------------------------------------------------


def loop(layer: nn.GRU) -> Any:
    """A GRU as many write it: it knows of one array, and of no lengths."""

    def mine(x: Tensor, h0: Any = None) -> Any:
        h = torch.zeros(x.shape[1], layer.hidden_size) if h0 is None else h0[0]
        output = []
        for x_t in x:
            a = (x_t @ layer.weight_ih_l0.T + layer.bias_ih_l0).chunk(3, -1)
            b = (h @ layer.weight_hh_l0.T + layer.bias_hh_l0).chunk(3, -1)
            r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            h = (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h
            output.append(h)
        return torch.stack(output), h[None]

    return mine


@pytest.mark.parametrize("drawn", [True, False])
def test_a_function_without_lengths_is_compared_on_padded_x(drawn: bool) -> None:
    layer = nn.GRU(3, 4)
    x, lengths = (None, True) if drawn else (torch.randn(5, 3, 3), [2, 5, 3])
    verdict = rs.compare(loop(layer), layer, x, lengths=lengths, effort=0.2)
    assert not verdict
    assert [cause.name for cause in verdict.causes] == ["padding"]
    note = "mine was given padded x, and no lengths: it has no parameter for them, such as lengths"
    assert verdict.notes.count(note) == 1


def test_a_function_that_takes_a_packed_sequence_is_given_one() -> None:
    layer = nn.GRU(3, 4)
    verdict = rs.compare(
        lambda x, h0=None: layer(x, h0), layer, torch.randn(5, 3, 3), lengths=[2, 5, 3]
    )
    assert verdict, str(verdict)
    assert not any("padded x" in note for note in verdict.notes)


# --- what cannot be read --------------------------------------------------------------------------


def cyclic(times: int = 1) -> list[Any]:
    """A list that contains itself."""
    found: list[Any] = []
    found.extend([found] * times)
    return found


LAYER, X = nn.LSTM(3, 4), torch.randn(5, 2, 3)


@pytest.mark.parametrize(
    ("lengths", "error", "got"),
    [
        ("a", rs.DtypeError, "'a'"),
        (True, rs.DtypeError, "True"),
        (3, rs.DtypeError, "3"),
        ([3, None], rs.DtypeError, r"\[3, None\]"),
        (["3", "2"], rs.DtypeError, r"\['3', '2'\]"),
        ([[3], [2, 1]], rs.DtypeError, r"\[\[3\], \[2, 1\]\]"),
        ([10**30, 1], rs.DtypeError, r"\[10+"),
        ({3: 2}, rs.DtypeError, "{3: 2}"),
        ([3.0, 2.0], rs.DtypeError, "float64"),
        (torch.tensor([3.0, 2.0]), rs.DtypeError, "float32"),
        ([3 + 1j, 2], rs.DtypeError, "complex128"),
        ([True, True], rs.DtypeError, "bool"),
        ([], rs.ShapeError, r"\[\]"),
        ([3], rs.ShapeError, r"numbers of shape \(1,\)"),
        ([[3, 2]], rs.ShapeError, r"numbers of shape \(1, 2\)"),
        (cyclic(), rs.ShapeError, r"\[+"),
        (cyclic(2), rs.ShapeError, r"\[+"),
    ],
)
def test_lengths_that_are_none_are_refused(lengths: Any, error: Any, got: str) -> None:
    match = rf"lengths must be 2 whole numbers, one a row of x; got {got}.*Give the steps of each"
    with pytest.raises(error, match=match):
        rs.compare(LAYER, LAYER, X, lengths=lengths)


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        (torch.zeros(2, dtype=torch.int64, device="meta"), "lengths lies on the meta device"),
        (torch.tensor([3, 2]).to_sparse(), "lengths must be a plain tensor; got one that is spar"),
    ],
    ids=["meta", "sparse"],
)
def test_lengths_in_a_tensor_without_plain_numbers_are_refused(lengths: Any, match: str) -> None:
    with pytest.raises(rs.DtypeError, match=match):
        rs.compare(LAYER, LAYER, X, lengths=lengths)


@pytest.mark.parametrize(
    "lengths",
    [[4, 5], (4, 5), range(4, 6), np.array([4, 5], np.uint16), [torch.tensor(4), torch.tensor(5)]],
    ids=lambda lengths: type(lengths).__name__,
)
def test_lengths_of_any_kind(lengths: Any) -> None:
    verdict = rs.compare(LAYER, LAYER, X, lengths=lengths)
    assert verdict
    assert "lengths 4, 5" in verdict.probe


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.LSTM(3, 4, batch_first=True)], ids=str)
def test_x_may_be_longer_than_its_longest_sequence(layer: nn.LSTM) -> None:
    x = X.transpose(0, 1) if layer.batch_first else X
    verdict = rs.compare(layer, layer, x, lengths=[3, 2])
    assert verdict, str(verdict)


ON_META = torch.zeros(5, 2, 3, device="meta")


@pytest.mark.parametrize(
    ("x", "initial", "error", "match"),
    [
        ("a", None, rs.DtypeError, "x must be a tensor or an array .*; got str"),
        (ON_META, None, rs.DtypeError, "x lies on the meta device"),
        (list(ON_META), None, rs.DtypeError, "x lies on the meta device"),
        (
            nn.utils.rnn.PackedSequence(ON_META[0], torch.tensor([1, 1])),
            None,
            rs.DtypeError,
            "x lies on the meta device",
        ),
        (cyclic(), None, rs.ShapeError, "x must be .*; got a list that contains itself"),
        (cyclic(2), None, rs.ShapeError, "x must be .*; got a list that contains itself"),
        (X, "a", rs.DtypeError, "initial must be a tensor or an array .*; got str"),
        (X, ("a", "b"), rs.DtypeError, "initial must be a tensor or an array .*; got str"),
        (X, np.array(["a"]), rs.DtypeError, "initial must hold .*; got an array of <U1"),
        (X, {"h": X}, rs.DtypeError, "initial must be a tensor or an array .*; got dict"),
        (X, (ON_META, ON_META), rs.DtypeError, "initial lies on the meta device"),
        (X, cyclic(), rs.ShapeError, "initial must be .*; got a list that contains itself"),
        (X, (cyclic(2), X), rs.ShapeError, "initial must be .*; got a list that contains itself"),
        (X, (None, None), rs.DtypeError, "h_0 must be a tensor; got NoneType"),
        (X, X, rs.ShapeError, r"takes the initial states as \(h_0, c_0\)"),
    ],
)
def test_x_and_initial_that_hold_no_numbers_are_refused(
    x: Any, initial: Any, error: Any, match: str
) -> None:
    with pytest.raises(error, match=match):
        rs.compare(LAYER, LAYER, x, initial)


def test_x_and_initial_of_lists() -> None:
    h, c = torch.randn(2, 1, 2, 4)
    expected = LAYER(X, (h, c))[0].detach()
    assert rs.compare(expected, LAYER, list(X.requires_grad_()), [h.tolist(), c.numpy()])
    gru = nn.GRU(3, 4)
    assert rs.compare(gru(X, h)[0].detach(), gru, X.tolist(), h.tolist())


@pytest.mark.parametrize("candidate", [LAYER, torch.zeros(5, 2, 4)], ids=["module", "numbers"])
@pytest.mark.parametrize("x", [None, X], ids=["drawn", "given"])
def test_a_reference_on_the_meta_device_is_refused(candidate: Any, x: Any) -> None:
    with pytest.raises(rs.RefusedError, match=r"the reference lies on the meta device.*build it"):
        rs.compare(candidate, nn.LSTM(3, 4, device="meta"), x)


@pytest.mark.parametrize("times", [1, 2])
def test_a_list_that_contains_itself_is_no_output(times: int) -> None:
    itself = cyclic(times)
    for candidate in (itself, lambda x: itself, {"output": itself}, lambda x: {"output": itself}):
        with pytest.raises(rs.ShapeError, match="got a list that contains itself"):
            rs.compare(candidate, LAYER, X)


def test_a_module_that_holds_a_list_that_contains_itself_is_compared() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.held = LAYER, cyclic()

        def forward(self, x: Tensor, initial: Any = None) -> Any:
            return self.inner(x, initial)

    assert rs.compare(Holding(), LAYER)


# --- a reference that a call would run otherwise --------------------------------------------------


def notes_of(reference: nn.Module, recorded: bool) -> list[str]:
    """Those of a comparison with a layer of the same weights, which agrees."""
    plain_layer = nn.GRU(3, 4, reference.num_layers)
    plain_layer.load_state_dict(reference.state_dict())
    x = torch.randn(5, 2, 3)
    if recorded:
        verdict = rs.compare(plain_layer(x)[0].detach(), reference, x)
    else:
        verdict = rs.compare(plain_layer, reference)
    assert verdict, str(verdict)
    return list(verdict.notes)


@pytest.mark.parametrize("recorded", [True, False])
def test_dropout_of_the_reference_is_said_not_to_be_drawn(recorded: bool) -> None:
    layer = nn.GRU(3, 4, 2, dropout=0.5)
    note = "the reference is compared in evaluation mode, without dropout"
    assert notes_of(layer, recorded) == [note]
    assert layer.training
    assert notes_of(layer.eval(), recorded) == []
    assert notes_of(nn.GRU(3, 4, 2), recorded) == []


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_the_reference_are_said_not_to_run(register: str, recorded: bool) -> None:
    layer, ran = nn.GRU(3, 4), []
    handle = getattr(layer, register)(lambda *args: ran.append(args))
    note = "the reference has forward hooks, which are not run for the comparison"
    assert notes_of(layer, recorded) == [note]
    assert ran == []
    handle.remove()
    assert notes_of(layer, recorded) == []
