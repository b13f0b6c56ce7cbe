"""compare: final states, gates and names in what comes back beside the output."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from planted import GATES, Planted
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


# --- final states and gates that stand elsewhere --------------------------------------------------


def of_final_states(change: Any) -> rs.Verdict:
    """The verdict on a layer of which the output is right, and the final states are changed."""
    layer = nn.LSTM(3, 4, 2, bidirectional=True)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        return output, change(*states)

    verdict = rs.compare(mine, layer, effort=0.2)
    assert "one step of nn.LSTM" not in plain(verdict)  # every step is right
    return verdict


def test_exchanged_final_states_are_named() -> None:
    assert [c.name for c in of_final_states(lambda h, c: (c, h)).causes] == ["final_exchanged"]


@pytest.mark.parametrize("form", ["called", "recorded", "by name"])
def test_c_n_alone_is_told_by_the_cause_and_the_note_alike(form: str) -> None:
    layer = nn.LSTM(3, 4)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, (_, c) = layer(x, initial)
        return {"output": output, "h_n": c} if form == "by name" else (output, c)

    x = torch.randn(5, 2, 3)
    verdict = rs.compare(mine(x) if form == "recorded" else mine, layer, x, effort=0.2)
    assert [cause.name for cause in verdict.causes] == ["final_exchanged"]
    alone = [note for note in verdict.notes if "alone" in note]
    assert alone == ["one final state came back alone, read as h_n; no other is compared"]


@pytest.mark.parametrize(
    ("names", "both_ways", "lengths"),
    [
        (("h_n",), False, None),
        (("h_n", "c_n"), True, None),
        (("c",), True, None),
        (("h_n",), False, [6, 4]),
    ],
)
def test_states_alone_that_nothing_explains_are_compared(
    names: tuple[str, ...], both_ways: bool, lengths: Any
) -> None:
    """No output came with them: what exchanges time and batch leaves states of another batch."""
    layer = nn.LSTM(3, 4, batch_first=True, bidirectional=both_ways)
    x = torch.randn(2, 6, 3)
    rows = x if lengths is None else pack_padded_sequence(x, lengths, batch_first=True)
    record = rs.trace(layer, rows)
    given = {"h_n": record.h_n.detach(), "c_n": record.c_n.detach(), "c": record["c"]}
    mine = {name: given[name] + 0.01 * torch.randn(given[name].shape) for name in names}
    verdict = rs.compare(mine, layer, x, lengths=lengths, effort=0.2)
    assert not verdict
    assert not verdict.causes


def test_a_mistake_that_h_n_alone_shows_is_named() -> None:
    layer = nn.GRU(3, 4, batch_first=True)
    x = torch.randn(6, 12, 3)
    other = nn.GRU(3, 4, batch_first=True)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            getattr(other, name).copy_(value.unflatten(0, (3, 4))[[1, 0, 2]].flatten(0, 1))
        mine = {"h_n": other(x)[1]}
    verdict = rs.compare(mine, layer, x)
    assert [cause.name for cause in verdict.causes] == ["gate_order"]


def test_final_states_in_another_order_are_named() -> None:
    verdict = of_final_states(lambda h, c: (h[[0, 2, 1, 3]], c[[0, 2, 1, 3]]))
    assert [str(c) for c in verdict.causes] == ["final_order by_direction"]


def test_final_states_in_an_order_that_no_entry_has_are_said_so() -> None:
    verdict = of_final_states(lambda h, c: (h[[1, 2, 0, 3]], c[[1, 2, 0, 3]]))
    assert not verdict.causes
    text = plain(verdict)
    assert "The output agrees; h_n and c_n do not." in text
    assert "hold the rows of nn.LSTM in the order 1, 2, 0, 3" in text


def test_gates_under_each_others_names_are_named() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    right = recorded(layer, x)
    verdict = rs.compare({**right, "i": right["f"], "f": right["i"]}, layer, x)
    assert [c.name for c in verdict.causes] == ["names_exchanged"]


def test_a_layer_that_starts_from_zeros_is_said_so() -> None:
    """Its single steps are right, but for where the first one starts."""
    layer = nn.LSTM(3, 4, 2, bidirectional=True)

    def mine(x: Tensor, initial: Any = None) -> Any:
        if initial is not None:
            initial = tuple(torch.cat([torch.zeros_like(s[:2]), s[2:]]) for s in initial)
        return layer(x, initial)

    text = plain(rs.compare(mine, layer, effort=0.2))
    assert "Layer 0: every single step agrees if it starts from zeros" in text
    assert "Layer 1: one step from states that are given agrees." in text
    assert "one step of nn.LSTM gives other" not in text


def test_what_is_said_of_every_layer_and_direction_is_said_once() -> None:
    layer, other = (nn.LSTM(3, 4, 2, bidirectional=True) for _ in range(2))
    verdict = rs.compare(lambda x, initial=None: other(x, initial), layer, effort=0.2)
    assert verdict.holds == (
        "every layer and direction: fed with your own state of the step before, one step of "
        "nn.LSTM gives other numbers in 4 of 4 units.",
    )


# --- final states in another shape ----------------------------------------------------------------


@pytest.mark.parametrize(
    "shaped",
    [lambda state: state[-2:], lambda state: state.transpose(0, 1).flatten(1)],
    ids=["last layer", "joined"],
)
def test_final_states_in_another_shape_are_no_agreement(shaped: Any) -> None:
    layer = nn.LSTM(3, 5, 2, bidirectional=True)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        return output, tuple(map(shaped, states))

    x = torch.randn(6, 3, 3)
    verdict = rs.compare(mine, layer, x)
    assert not verdict
    assert verdict.causes == ()
    assert "not all that came back can be compared" in plain(verdict)
    assert "h_n: expected (layers × directions, batch, unit) = (4, 3, 5)" in plain(verdict)
    with pytest.raises(AssertionError, match="h_n: expected"):
        rs.assert_agrees(mine, layer, x)


@pytest.mark.parametrize("batch", [3, 4, None], ids=["free", "square", "drawn"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("first", [True, False], ids=["batch first", "time first"])
def test_final_states_that_come_back_batch_first_are_named(
    kind: Any, first: bool, batch: int | None
) -> None:
    """By their shapes, or where there are as many rows as states by another input."""
    layer = kind(3, 5, 2, bidirectional=True, batch_first=first)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        if isinstance(states, tuple):
            return output, tuple(state.transpose(0, 1) for state in states)
        return output, states.transpose(0, 1)

    arguments = () if batch is None else (torch.randn((batch, 6, 3) if first else (6, batch, 3)),)
    verdict = rs.compare(mine, layer, *arguments)
    assert not verdict
    assert [cause.name for cause in verdict.causes] == ["final_axes"]
    assert verdict.explanations[0].left < 1e-6
    assert "batch first" in plain(verdict)
    assert ".swapaxes(0, 1)" in plain(verdict)
    with pytest.raises(AssertionError, match="batch first"):
        rs.assert_agrees(mine, layer, *arguments)


def test_one_final_state_that_comes_back_batch_first_beside_a_mistake() -> None:
    layer, other = nn.LSTM(3, 5, 2), nn.LSTM(3, 5, 2)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.bias_hh_l0.zero_()
        other.bias_hh_l1.zero_()

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, (h, c) = other(x, initial)
        return output, (h, c.transpose(0, 1))

    verdict = rs.compare(mine, layer)
    assert [cause.name for cause in verdict.causes] == ["final_axes", "bias_missing"]
    assert "c_n comes back batch first" in plain(verdict)
    assert "the final states" not in verdict.right


def test_recorded_final_states_batch_first_are_read_with_a_note() -> None:
    layer, x = nn.GRU(3, 5, 2), torch.randn(6, 3, 3)
    output, h_n = (value.detach() for value in layer(x))
    turned = h_n.transpose(0, 1)
    for recorded in ({"output": output, "h_n": turned}, (output, turned)):
        verdict = rs.compare(recorded, layer, x)
        assert verdict, str(verdict)
        assert "h_n came back batch first" in plain(verdict)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("as_lists", [True, False])
def test_final_states_before_the_output_are_named(kind: Any, options: Any, as_lists: bool) -> None:
    layer = kind(3, 5, **options)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        if as_lists and isinstance(states, tuple):
            return *states, output
        return states, output

    with pytest.raises(rs.ShapeError, match=r"states before the output.* return output, \(?h_n"):
        rs.compare(mine, layer)


# --- gates that are given by name -----------------------------------------------------------------


def recorded(layer: Any, x: Tensor, **changed: Any) -> dict[str, Any]:
    """The output and every gate of the layer, by the loop of another package's making: NumPy."""
    kind = "gru" if isinstance(layer, nn.GRU) else "lstm"
    weights = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    judge = Planted(kind, weights)
    output, _ = judge(x.numpy())
    gates = {name: judge.steps[name] for name in GATES[kind]}
    return {"output": output, **gates, **changed}


@pytest.mark.parametrize("layer", [nn.GRU(3, 4), nn.LSTM(3, 4, 2, bidirectional=True)], ids=str)
def test_gates_that_are_right_agree(layer: Any) -> None:
    x = torch.randn(5, 2, 3)
    assert rs.compare(recorded(layer, x), layer, x)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_gate_that_is_wrong_is_no_agreement_though_the_output_is_right(layers: int) -> None:
    layer, x = nn.LSTM(3, 4, layers), torch.randn(5, 2, 3)
    right = recorded(layer, x)
    f = right["f"].copy()
    f[0, 0, 1, 2, 3] += 1e-3  # layer, direction, batch, time, unit
    verdict = rs.compare({**right, "f": f}, layer, x, effort=0.02)
    assert not verdict
    assert verdict.causes == ()
    first = verdict.first
    assert first is not None
    assert (first.name, first.layer, first.batch, first.time, first.unit) == ("f", 0, 1, 2, 3)
    assert first.yours - first.expected == pytest.approx(1e-3, rel=1e-3)
    assert "The output agrees; f does not" in plain(verdict)


def test_gates_recorded_before_their_function_are_named() -> None:
    """As some home-made loops return them."""
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    right = recorded(layer, x)
    before = {"r": np.log(right["r"] / (1 - right["r"])), "n": np.arctanh(right["n"])}
    verdict = rs.compare({**right, **before}, layer, x)
    assert {str(cause) for cause in verdict.causes} == {"unapplied r", "unapplied n"}
    verdict = rs.compare({**right, "r": before["r"]}, layer, x)
    assert [str(cause) for cause in verdict.causes] == ["unapplied r"]
    assert "r is recorded before its function: this is r_pre" in plain(verdict)


def test_parts_of_a_gate_are_compared_too() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    tr = rs.trace(layer, x, record="all")
    parts = {name: tr[name].numpy() for name in ("f", "f_pre", "f_from_x", "f_from_h")}
    assert rs.compare({"output": tr.output.detach(), **parts}, layer, x)
    parts["f_from_x"] = parts["f_from_x"] - layer.bias_ih_l0.detach().numpy()[4:8]
    verdict = rs.compare({"output": tr.output.detach(), **parts}, layer, x)
    assert not verdict
    assert verdict.first is not None
    assert verdict.first.name == "f_from_x"


def test_gates_that_a_function_returns_by_name_are_compared() -> None:
    layer = nn.GRU(3, 4)

    def mine(x: Any, initial: Any = None) -> Any:
        x = torch.as_tensor(x)
        tr = rs.trace(layer, x, None if initial is None else torch.as_tensor(initial))
        return tr.output, tr.h_n, {"z": 1 - tr["z"], "r": tr["r"]}

    verdict = rs.compare(mine, layer)
    assert not verdict
    assert verdict.first is not None
    assert verdict.first.name == "z"
    assert "The output agrees; z does not" in plain(verdict)


@pytest.mark.parametrize("as_module", [True, False])
def test_a_mapping_that_is_returned_is_read_as_a_recorded_one(as_module: bool) -> None:
    layer, other = nn.LSTM(3, 4), nn.LSTM(3, 4)

    class Named(nn.Module):
        def __init__(self, inner: nn.Module, wrong: str = "") -> None:
            super().__init__()
            self.inner, self.wrong = inner, wrong

        def forward(self, x: Tensor, initial: Any = None) -> Any:
            tr = rs.trace(self.inner, x, initial)
            found = {"output": tr.output, "h_n": tr.h_n, "c_n": tr.c_n, "f": tr["f"]}
            return {**found, self.wrong: 1 - found[self.wrong]} if self.wrong else found

    def candidate(*args: Any) -> Any:
        module = Named(*args)
        return module if as_module else lambda x, initial=None: module(x, initial)

    assert rs.compare(candidate(layer), layer)
    for wrong in ("f", "h_n", "c_n"):
        verdict = rs.compare(candidate(layer, wrong), layer, effort=0.2)
        assert not verdict
        assert verdict.first is not None
        assert verdict.first.name == wrong
    assert not rs.compare(candidate(other), layer, effort=0.2)


@pytest.mark.parametrize("name", ["hn", "H_n"])
def test_a_returned_name_that_nearly_is_a_known_one_is_no_agreement(name: str) -> None:
    layer = nn.GRU(3, 4)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, h = layer(x, initial)
        return {"output": output, name: h, "c_n": h}

    verdict = rs.compare(mine, layer)
    assert not verdict
    assert f"'{name}' is not read: is it 'h_n'?" in plain(verdict)
    assert any(note.startswith("'c_n' is not used") for note in verdict.notes)


def test_gates_on_padding_do_not_matter() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    weights = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    judge = Planted("lstm", weights)
    output, _ = judge(x.numpy(), None, np.array([5, 3]))
    f = judge.steps["f"].copy()
    f[:, :, 1, 3:] = 7
    assert rs.compare({"output": output, "f": f}, layer, x, lengths=[5, 3])
    f[:, :, 1, 2] = 0.5
    assert not rs.compare({"output": output, "f": f}, layer, x, lengths=[5, 3])


def test_an_output_of_few_bits_does_not_hide_wrong_states() -> None:
    layer = nn.LSTM(3, 4)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, (h, c) = layer(x, initial)
        return output.half(), (c, h)

    verdict = rs.compare(mine, layer, effort=0.2)
    assert not verdict
    assert all(cause.name != "precision" for cause in verdict.causes)


def test_a_candidate_that_runs_on_long_inputs_only_is_compared_on_these() -> None:
    layer = nn.LSTM(3, 4)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        output = output.clone()
        output[4, 1] = output[4, 1].flip(0)  # raises where there are fewer steps
        return output, states

    verdict = rs.compare(mine, layer, effort=0.2)
    assert not verdict
    assert "it raised at all shorter inputs" in plain(verdict)


def test_no_cause_is_named_where_nothing_changes_with_it() -> None:
    layer = nn.LSTM(3, 4, 2, bidirectional=True)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, (h, c) = layer(x, initial)
        joined = h.reshape(2, 2, 3, -1).transpose(1, 2).reshape(2, 3, -1)  # of three rows alone
        return output, (joined, c)

    verdict = rs.compare(mine, layer, effort=0.2)
    assert not verdict
    assert not verdict.causes
    assert verdict.tried == 0  # nothing is searched for where nothing differs
    assert "h_n" in plain(verdict)


def test_a_layer_of_other_sizes_is_said_so_at_once() -> None:
    verdict = rs.compare(nn.LSTM(3, 4), nn.LSTM(3, 4, 2, bidirectional=True))
    assert "nn.LSTM(3, 4), the reference nn.LSTM(3, 4, num_layers=2, bidirectional=True)." in plain(
        verdict
    )
    assert verdict.tried == 0


def test_a_number_that_is_none_is_not_said_to_be_far() -> None:
    layer = nn.LSTM(3, 4)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        output = output.clone()
        output[0, 0, 2] = torch.nan
        return output, states

    text = plain(rs.compare(mine, layer, effort=0.2))
    assert "inf" not in text.replace("infinite", "")
    assert "output is NaN at time 0, batch 0, unit 2" in text


# --- what came back otherwise than the reference returns it ---------------------------------------


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (
            lambda y, h, c: (y, h),
            "one final state came back alone, read as h_n; no other is compared",
        ),
        (lambda y, h, c: (y, h, c), "one by one, (output, h_n, c_n); nn.LSTM returns (output, (h"),
        (lambda y, h, c: (y, (h[0], c)), "h_n came back as (3, 4); nn.LSTM returns (layers"),
        (lambda y, h, c: (y, [[h[0]], [c[0]]]), "each final state came back as a list, one for"),
        (lambda y, h, c: (y, [(h[0], c[0])]), "came back as a list of (h_n, c_n), one for each"),
        (lambda y, h, c: (y, (h, c)), ""),
        (lambda y, h, c: y, ""),
    ],
)
def test_other_forms_of_the_final_states_are_noted(returned: Any, told: str) -> None:
    layer = nn.LSTM(3, 4)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, (h, c) = layer(x, initial)
        return returned(output, h, c)

    verdict = rs.compare(mine, layer)
    assert verdict
    assert [told in note for note in verdict.notes] == [True] * bool(told)


STATES_OF_LAYERS: list[tuple[str, Any, bool]] = [
    ("a pair for each layer", lambda h, c: list(zip(h, c, strict=True)), True),
    ("a list for each state", lambda h, c: (list(h), list(c)), True),
    ("as the second, or the first", lambda h, c: [list(h), list(c)], False),
    ("too few", lambda h, c: [(h[0], c[0])], False),
]


@pytest.mark.parametrize(
    ("form", "read"), [each[1:] for each in STATES_OF_LAYERS], ids=[n for n, *_ in STATES_OF_LAYERS]
)
def test_final_states_as_lists_of_layers(form: Any, read: bool) -> None:
    """What a loop over layers collects; of two layers of an LSTM lists alone do not tell."""
    layer = nn.LSTM(3, 4, 2)

    def mine(x: Tensor, initial: Any = None, wrong: float = 0.0) -> Any:
        output, (h, c) = layer(x, initial)
        return output, form(h, c + wrong)

    verdict = rs.compare(mine, layer)
    assert bool(verdict) == read
    if not read:
        assert "expected (h_n, c_n), got a list of" in plain(verdict)
    verdict = rs.compare(lambda x, initial=None: mine(x, initial, 0.01), layer, effort=0)
    assert not verdict


@pytest.mark.parametrize("rows", [list, lambda h: list(h.split(1))], ids=["row", "of one layer"])
def test_a_list_of_the_layers_states_is_read(rows: Any) -> None:
    layer = nn.GRU(3, 4, 3)

    def mine(x: Tensor, initial: Any = None, wrong: float = 0.0) -> Any:
        output, h = layer(x, initial)
        return output, rows(h + wrong)

    verdict = rs.compare(mine, layer)
    assert verdict
    assert "h_n came back as a list of 3 arrays" in plain(verdict)
    assert not rs.compare(lambda x, initial=None: mine(x, initial, 0.01), layer, effort=0)


def test_masked_numbers_are_refused() -> None:
    """A mask would be lost, and what lies under it compared."""
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    output = np.ma.array(layer(x)[0].detach().numpy())
    assert rs.compare({"output": output}, layer, x)
    output[3:, 1] = np.ma.masked
    with pytest.raises(rs.DtypeError, match="a masked array, 8 numbers of which are masked"):
        rs.compare({"output": output}, layer, x)
    with pytest.raises(rs.DtypeError, match=r"filled\(0.0\)"):
        rs.compare(lambda x: output, layer, x)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_a_note_on_a_shape_is_told_once_and_of_the_callers_own_x(given: bool, right: bool) -> None:
    """More inputs are drawn, of sizes that nobody asked for."""
    layer, other = nn.GRU(3, 4), nn.GRU(3, 4)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.bias_hh_l0 *= right

    def mine(x: Tensor, initial: Any = None) -> Any:
        tr = rs.trace(other, x, initial)
        gates = {"z": tr["z"].transpose(2, 3), "r": tr["r"][..., 0]}
        return tr.output.transpose(0, 1), tr.h_n[0], gates

    verdict = rs.compare(mine, layer, torch.randn(9, 7, 3) if given else None, effort=0.2)
    steps, batch = (9, 7) if given else (6, 3)
    starts = [
        f"the output came back batch first, ({batch}, {steps}, 4); the reference returns",
        f"h_n came back as ({batch}, 4); nn.GRU returns",
        f"z (1, 1, {steps}, {batch}, 4) is read as (…, time, batch, unit)",
        "r is not used: r must be",
    ]
    about = [n for n in verdict.notes if re.match("the output came|h_n|z|r", n)]
    assert len(about) == len(starts), verdict.notes
    for start in starts:
        assert any(note.startswith(start) for note in about)


@pytest.mark.parametrize("right", [True, False])
def test_a_name_that_nearly_is_a_known_one_is_no_agreement(right: bool) -> None:
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    output, h = layer(x)
    output = output if right else output + 0.1
    verdict = rs.compare({"output": output, "hn": h, "loss": output[0]}, layer, x, effort=0.1)
    assert not verdict
    assert "is it 'h_n'?" in plain(verdict)
    assert "'loss' is not used" in plain(verdict)
    with pytest.raises(rs.AddressError, match="there is no array; expected output, h_n"):
        rs.compare({}, layer, x)


def test_few_steps_that_differ_are_named() -> None:
    layer, x = nn.GRU(3, 7), torch.randn(9, 2, 3)
    output = layer(x)[0].detach().clone()
    output[3, 1] += 0.1
    text = plain(rs.compare(output, layer, x, effort=0.2))
    assert "only time 3 of row 1, time 4 of row 1 differ; all other single steps agree." in text


@pytest.mark.parametrize("reference", [None, lambda x: x, "nn.LSTM"])
def test_a_reference_that_is_no_module_is_refused(reference: Any) -> None:
    with pytest.raises(rs.NotRecurrentError, match=r"compare\(candidate, reference\) takes a rec"):
        rs.compare(nn.LSTM(3, 4), reference)


def test_final_states_of_the_last_layer_for_every_layer_are_named() -> None:
    layer = nn.LSTM(3, 4, num_layers=2)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, states = layer(x, initial)
        return output, tuple(state[-1:].expand_as(state) for state in states)

    assert [str(cause) for cause in rs.compare(mine, layer).causes] == ["final_order last"]


@pytest.mark.parametrize("which", [("h_n",), ("h_n", "c_n")])
def test_recorded_final_states_that_lie_batch_first_are_named(which: tuple[str, ...]) -> None:
    """Where there are as many rows as sequences, the shape does not tell."""
    layer, x = nn.LSTM(3, 4, 2), torch.randn(5, 2, 3)
    output, (h, c) = layer(x)
    numbers = {"output": output, "h_n": h, "c_n": c}
    mine = {n: v.detach().transpose(0, 1) if n in which else v.detach() for n, v in numbers.items()}
    verdict = rs.compare(mine, layer, x)
    assert [cause.name for cause in verdict.causes] == ["final_axes"]
    assert f"{which[0]}.swapaxes(0, 1)" in plain(verdict)


@pytest.mark.parametrize("recorded", [True, False])
def test_of_mistakes_beside_an_unknown_one_those_of_the_output_are_named(recorded: bool) -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    other = nn.LSTM(3, 4)
    blocks = {n: v.chunk(4) for n, v in layer.state_dict().items()}
    other.load_state_dict({n: torch.cat([b[1], b[2], b[3], b[0]]) for n, b in blocks.items()})

    def mine(x: Any, initial: Any = None) -> Any:
        output, (h, c) = other(x, initial)
        return output, (h, c.tanh())

    if recorded:
        output, (h, c) = mine(x)
        given = {"output": output.detach(), "h_n": h.detach(), "c_n": c.detach()}
        verdict = rs.compare(given, layer, x)
    else:
        verdict = rs.compare(mine, layer)
    assert not verdict.causes
    text = "The output alone is explained, c_n is not: gate order: you split the rows as o, i, f, g"
    assert text in plain(verdict)


def test_h_of_every_layer_beside_an_output_that_nothing_explains() -> None:
    """Of a layer that is skipped, as is tried too, no step is known."""
    layer, x = nn.RNN(3, 4, 2, bidirectional=True, batch_first=True), torch.randn(1, 3, 3)
    h = rs.trace(layer, x)["h"].clone()
    h[..., -1] = 0
    verdict = rs.compare({"h": h, "output": layer(x)[0].detach()}, layer, x, effort=0.1)
    assert not verdict
