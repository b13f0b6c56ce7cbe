"""Edits: a loop written here, one sequence, step and unit block at a time, is the judge."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from configurations import LENGTHS, SOME, TIME, Case, Configuration, build, name_of
from judges import output_size
from loops import by_loop
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnscope as rs
from rnnscope.cells import DECLARED, LSTM_PEEPHOLE, quantity_names

# rounding of three layers of five steps, in states of order 1; relu's reach 15
ALLOWED = {torch.float64: 1e-12, torch.float32: 3e-5}


def size(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())


def traced(configuration: Configuration) -> tuple[Case, Tensor, rs.Trace]:
    case = build(configuration)
    before = torch.get_rng_state()
    return case, before, rs.trace(case.layer, *case.args, **case.kwargs, record="all")


def compare(found: rs.Trace, expected: dict[str, Tensor], allowed: float) -> None:
    """Every quantity and state, and the output, which is the last layer's h."""
    for name in found:
        assert size(found[name] - expected[name]) < allowed, name
    for state in found.cell.states:
        rows = getattr(found, f"{state}_n")
        assert size(rows.flatten() - expected[f"{state}_n"].flatten()) < allowed
    output = found.output.data if isinstance(found.output, PackedSequence) else found.output
    h = torch.cat(list(expected["h"][-1]), dim=-1)
    if isinstance(found.output, PackedSequence):
        h = pack_sequence(
            [h[b, :n] for b, n in enumerate(found.lengths.tolist())], enforce_sorted=False
        ).data
    elif found.call.batched and not found.structure.batch_first:
        h = h.transpose(0, 1)
    assert size(output - h.reshape(output.shape)) < allowed


# ── every quantity, layer, direction and form of call ────────────────────────────────────────────


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_an_edit_propagates_as_in_a_loop(configuration: Configuration) -> None:
    """Each quantity in turn, at one place in the middle; then several at once."""
    case, before, tr = traced(configuration)
    allowed = ALLOWED[configuration.dtype]
    compare(tr, by_loop(case, before), allowed)  # the judge itself, with no change
    layers, ways = tr.sizes["layer"], len(tr.directions)
    row = 1 if case.lengths else len(case.padded_x) - 1
    step = 2
    for k, name in enumerate((*tr, *(f"{state}_0" for state in tr.cell.states))):
        layer, d = k % layers, k % ways
        at = {"layer": layer, "direction": tr.directions[d], "batch": row, "unit": 3}
        initial = name.endswith("_0")
        edited = tr.rerun(rs.Edit(name, **at, **({} if initial else {"time": step}), add=0.5))

        def change(
            which: str,
            index: int,
            way: int,
            b: int,
            t: int,
            value: Tensor,
            wanted: Any = (name, layer, d, row, 0 if initial else step),
        ) -> Tensor:
            if (which, index, way, b, t) != wanted:
                return value
            value = value.clone()
            value[3] += 0.5
            return value

        compare(edited, by_loop(case, before, change), allowed)
        assert size(edited[name if not initial else name[0]] - tr[name if not initial else name[0]])
        # what comes before is the trace's own: other sequences, layers below, earlier steps
        reverse = tr.directions[d] == "reverse"
        earlier = slice(step + 1, None) if reverse else slice(0, step)
        for each in tr:
            for index in range(layers):
                same = edited[each, index] == tr[each, index]
                assert same[:, [b for b in range(tr.sizes["batch"]) if b != row]].all()
                if index < layer:
                    assert same.all()
                elif index == layer and not initial:
                    assert same[d, :, earlier].all()
                    assert ways == 1 or same[1 - d].all()


@pytest.mark.parametrize("configuration", SOME[::3], ids=name_of)
def test_several_edits_of_every_kind(configuration: Configuration) -> None:
    case, before, tr = traced(configuration)
    last = tr.sizes["layer"] - 1
    gate = tr.cell.gates[0]
    halved = "h_from_x" if gate == "h" else gate  # the h of an RNN is edited otherwise
    wide = output_size(case.layer)
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(wide, generator=generator, dtype=torch.float64).to(configuration.dtype)
    edited = tr.rerun(
        rs.Edit(halved, layer=last, time="last", scale=0.5),
        rs.Edit("h", layer=0, direction="forward", time=slice(1, 3), to=numbers),
        rs.Edit("x", layer=last, time=slice(0, 1), unit=slice(0, 2), by=lambda x: x.square()),
        rs.Edit(f"{gate}_pre", layer=0, direction="forward", time=slice(0, 1), unit=-1, add=1.0),
    )
    lengths = case.lengths or [TIME] * len(case.padded_x)

    def change(name: str, index: int, d: int, b: int, t: int, value: Tensor) -> Tensor:
        value = value.clone()
        if (name, index) == (halved, last) and t == (0 if d else lengths[b] - 1):
            value *= 0.5
        if (name, index, d) == ("h", 0, 0) and t in (1, 2):
            value[:] = numbers
        if (name, index, t) == ("x", last, 0):
            value[:2] = value[:2].square()
        if (name, index, d, t) == (f"{gate}_pre", 0, 0, 0):
            value[-1] += 1
        return value

    compare(edited, by_loop(case, before, change), 10 * ALLOWED[configuration.dtype])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_sequences_that_ended_before_the_run_begins(cell: str) -> None:
    """Their last states are their own: of layer 0 only the last step is run, of layer 1 all."""
    case, before, tr = traced(Configuration(cell, 3, call="packed"))
    assert tr.lengths[:2].tolist() == [2, 5]
    edited = tr.rerun(
        rs.Edit("h", layer=0, batch=1, time=4, unit=0, add=0.5),
        rs.Edit("h", layer=1, batch=0, time=0, unit=0, add=0.5),
    )

    def change(name: str, index: int, d: int, b: int, t: int, value: Tensor) -> Tensor:
        if (name, index, b, t) in (("h", 0, 1, 4), ("h", 1, 0, 0)):
            value = value.clone()
            value[0] += 0.5
        return value

    compare(edited, by_loop(case, before, change), 1e-12)


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_an_edit_that_changes_nothing(configuration: Configuration) -> None:
    """Over all steps, layers and sequences: the fused call and the equations, to rounding."""
    _, _, tr = traced(configuration)
    for edit in (rs.Edit("h", add=0.0), rs.Edit("x", layer=0, scale=1), rs.Edit("h_0", add=0.0)):
        difference = tr.rerun(edit).difference(tr)
        assert list(difference) == list(tr)
        for name, value in difference.items():
            assert size(value) < ALLOWED[configuration.dtype], name


@pytest.mark.parametrize("configuration", SOME[::3], ids=name_of)
def test_other_weights(configuration: Configuration) -> None:
    case, before, tr = traced(configuration)
    name = f"weight_hh_l{tr.sizes['layer'] - 1}"
    weights = {name: 1.5 * tr.parameters[name]}
    edited = tr.rerun(weights=weights)
    compare(edited, by_loop(case, before, weights=weights), ALLOWED[configuration.dtype] * 10)
    assert torch.equal(edited.parameters[name], weights[name])
    assert torch.equal(tr.parameters[name], case.layer.get_parameter(name))
    if tr.sizes["layer"] > 1:
        assert torch.equal(edited["h", 0], tr["h", 0])


# ── what they are for ────────────────────────────────────────────────────────────────────────────


def test_patching_from_another_call() -> None:
    """All states of the other call, from a step on: its numbers come out."""
    lstm = nn.LSTM(3, 4, dtype=torch.float64)
    one, other = (rs.trace(lstm, torch.randn(6, 2, 3, dtype=torch.float64)) for _ in range(2))
    at = {"layer": 0, "direction": "forward", "time": 2}
    patched = one.rerun(
        rs.Edit("c", **at, to=other.sel("c", **at)),
        rs.Edit("h", **at, to=other.sel("h", **at)),
        rs.Edit("x", layer=0, time=slice(3, None), to=other["x", 0][:, 3:]),
    )
    assert torch.equal(patched["h"][..., :2, :], one["h"][..., :2, :])
    assert size(patched["h"][..., 2:, :] - other["h"][..., 2:, :]) < 1e-14
    whole = one.rerun(rs.Edit("c", layer=0, to=other["c", 0]))
    assert torch.equal(whole["c"], other["c"])
    assert not torch.allclose(whole["h"], other["h"])


def test_the_example_of_a_zeroed_state() -> None:
    """h_2 set to zero changes what comes after; a hook on the output changes a copy."""
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4)
    x = torch.randn(5, 1, 3)
    tr = rs.trace(lstm, x)

    def zeroed(_: nn.Module, __: Any, result: Any) -> Any:
        output = result[0].clone()
        output[1] = 0
        return output, result[1]

    with lstm.register_forward_hook(zeroed):
        hooked, _ = lstm(x)
    assert torch.equal(hooked[-1], tr.output[-1])
    edited = tr.rerun(rs.Edit("h", time=1, to=0.0))
    assert not edited.output[1].any()
    assert size(edited.output[-1] - tr.output[-1]) > 1e-4


def test_a_rerun_goes_on_from_a_rerun() -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(6, 2, 3))
    one, other = rs.Edit("z", time=1, to=1.0), rs.Edit("h", time=3, unit=0, to=0.0)
    both, chained = tr.rerun(one, other), tr.rerun(one).rerun(other)
    assert all(torch.equal(both[name], chained[name]) for name in tr)
    assert chained.base is tr
    assert "edit of z at time=1, edit of h at time=3, unit=0" in chained.proof
    assert both.deviation is None
    weights = {"weight_hh_l0": torch.zeros(12, 4)}
    assert torch.equal(
        tr.rerun(one).rerun(weights=weights)["h"], tr.rerun(one, weights=weights)["h"]
    )


def test_differentiable_when_asked() -> None:
    """With respect to an edit and to weights; finite differences of reruns are the judge."""
    tr = rs.trace(nn.LSTM(3, 4, num_layers=2, dtype=torch.float64), torch.randn(5, 2, 3).double())
    assert not tr.rerun(rs.Edit("c", time=2, to=0.0)).output.requires_grad

    def last(value: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        edited = tr.rerun(
            rs.Edit("c", layer=0, direction="forward", batch=1, time=2, to=value),
            weights={"weight_hh_l1": weight},
        )
        return edited.output, edited["c"]

    value = torch.randn(4, dtype=torch.float64, requires_grad=True)
    weight = tr.parameters["weight_hh_l1"].clone().requires_grad_()
    assert torch.autograd.gradcheck(last, (value, weight))
    with torch.no_grad():
        assert not last(value, weight)[0].requires_grad


@pytest.mark.parametrize("name", ["lstm_peephole", "gru_reset_before", "lstm_coupled"])
def test_declared_cells(name: str) -> None:
    """A quantity set to what another call computed gives the numbers of that call."""
    layer = rs.Recurrent(DECLARED[name], 3, 4, num_layers=2, bidirectional=True).double()
    one, other = (
        rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64), record="all") for _ in range(2)
    )
    for each in quantity_names(layer.cell):
        edited = one.rerun(rs.Edit(each, layer=0, to=other[each, 0]))
        assert torch.equal(edited[each, 0], other[each, 0])
        assert size(edited["h", 1] - one["h", 1]) > 1e-6
    same = one.rerun(rs.Edit("x", layer=0, to=other["x", 0]))
    assert all(size(same[each] - other[each]) < 1e-14 for each in one)


def test_a_cell_of_one_step() -> None:
    cell = nn.LSTMCell(3, 4)
    x = torch.randn(2, 3)
    tr = rs.trace(cell, x)
    edited = tr.rerun(rs.Edit("f", to=0.0))
    assert edited.output.shape == (2, 4)
    assert size(edited.c_n - (tr["i"] * tr["g"])[0, 0, :, 0]) < 1e-6


# ── what it costs ────────────────────────────────────────────────────────────────────────────────


def test_only_the_steps_from_the_edit_on_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In that layer and those above, of the sequences that are edited."""
    module = importlib.import_module("rnnscope._edit.rerun")
    ran: list[tuple[int, int]] = []
    original = module.run_entry

    def counted(entry: Any, *args: Any) -> Any:
        ran.append(tuple(entry.x.shape[:2]))
        return original(entry, *args)

    monkeypatch.setattr(module, "run_entry", counted)
    tr = rs.trace(nn.GRU(3, 4, num_layers=3), torch.randn(20, 5, 3))
    tr.rerun(rs.Edit("h", layer=1, time=17, to=0.0))
    assert ran == [(3, 5), (3, 5)]
    ran.clear()
    tr.rerun(rs.Edit("x", layer=2, batch=3, time=-1, to=0.0))
    assert ran == [(1, 1)]
    ran.clear()
    two = rs.trace(nn.GRU(3, 4, num_layers=2, bidirectional=True), torch.randn(20, 5, 3))
    two.rerun(rs.Edit("h", layer=0, direction="reverse", time=4, to=0.0))
    assert ran == [(5, 5), (20, 5), (5, 5)]  # above: forward from time 0, reverse from time 4


# ── refused ──────────────────────────────────────────────────────────────────────────────────────

PACKED = Configuration("lstm", 3, True, call="packed")


@pytest.mark.parametrize(
    ("edits", "error", "says"),
    [
        (
            [{"name": "q", "to": 0.0}],
            rs.AddressError,
            "no quantity 'q' to edit; there are",
        ),
        ([{"name": "output", "to": 0.0}], rs.AddressError, "output is only returned.*edit 'h'"),
        ([{"name": "c_n", "to": 0.0}], rs.AddressError, "c_n is only returned.*edit 'c'"),
        ([{"name": "h_0", "time": 0, "to": 0.0}], rs.AddressError, "h_0 .* has no time"),
        ([{"name": "h", "layer": 7, "to": 0.0}], rs.AddressError, "no layer 7: there are 3"),
        ([{"name": "h", "time": slice(9, 12), "to": 0.0}], rs.AddressError, "addresses nothing"),
        ([{"name": "h", "direction": "up", "to": 0.0}], rs.AddressError, "no direction 'up'"),
        ([{"name": "h", "time": "first", "to": 0.0}], rs.AddressError, '"last"; got'),
        (
            [{"name": "h", "time": 3, "to": 0.0}],
            rs.AddressError,
            r"the edit of h at time=3 is on padding: batch 0 has length 2",
        ),
        (
            [{"name": "h", "batch": 2, "time": slice(1, 3), "to": 0.0}],
            rs.AddressError,
            "reaches padding only",
        ),
        ([{"name": "x", "to": 0.0}], rs.AddressError, "an edit of x needs one layer"),
        (
            [{"name": "x", "layer": 0, "direction": "reverse", "to": 0.0}],
            rs.AddressError,
            "an edit of x has no direction",
        ),
        (
            [{"name": "h", "layer": 1, "to": torch.zeros(7)}],
            rs.ShapeError,
            r"must be one number or broadcast to \(direction 2, batch 4, time 5, unit 9\).*\(7,\)",
        ),
        ([{"name": "h", "to": "zero"}], rs.DtypeError, "a number or a tensor; got str"),
        (
            [{"name": "h", "time": 0, "by": lambda h: h[:, :2]}],
            rs.ShapeError,
            r"by of the edit of h at time=0 must return \(sequences, units\) = \(4, 9\)",
        ),
        (
            [
                {"name": "c", "layer": 1, "time": slice(0, 2), "to": 0.0},
                {"name": "c", "direction": "reverse", "batch": 3, "time": "last", "add": 1.0},
            ],
            rs.AddressError,
            r"two edits of the same place: c at layer 1, reverse, batch 3, time=0, unit 0",
        ),
    ],
)
def test_edits_that_cannot_be(
    edits: list[dict[str, Any]], error: type[Exception], says: str
) -> None:
    _, _, tr = traced(PACKED)
    assert tr.lengths.tolist() == LENGTHS
    with pytest.raises(error, match=says):
        tr.rerun(*(rs.Edit(**each) for each in edits))


def test_edits_beside_each_other_are_two() -> None:
    _, _, tr = traced(PACKED)
    tr.rerun(rs.Edit("h", unit=0, to=0.0), rs.Edit("h", unit=1, to=0.0), rs.Edit("c", to=0.0))
    with pytest.raises(ValueError, match=r"Edit\('h'\) needs one of to=.*got none"):
        rs.Edit("h", time=0)
    with pytest.raises(ValueError, match="got to and scale"):
        rs.Edit("h", to=1.0, scale=2.0)
    with pytest.raises(ValueError, match="nothing to change"):
        tr.rerun()


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        ({"weight_hh_10": torch.zeros(36, 9)}, rs.AddressError, "no parameter 'weight_hh_10'"),
        ({"weight_hh_l0": torch.zeros(9, 36)}, rs.ShapeError, r"must be \(36, 9\); got \(9, 36\)"),
        ({"weight_hh_l0": 0.0}, rs.DtypeError, "must be a tensor; got float"),
        ({"weight_hh_l0": torch.zeros(36, 9)}, rs.DtypeError, "must be torch.float64"),
    ],
)
def test_weights_that_cannot_be(weights: Any, error: type[Exception], says: str) -> None:
    _, _, tr = traced(PACKED)
    with pytest.raises(error, match=says):
        tr.rerun(weights=weights)


def test_what_an_edit_set_is_not_explained() -> None:
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(6, 1, 3))
    edited = tr.rerun(rs.Edit("c", time=2, unit=1, to=0.0))
    for name in ("c", "h"):
        with pytest.raises(rs.AddressError, match=r"c at .*time=2, unit 1 was set by an edit"):
            edited.explain(name, time=2, unit=1)
    explained = edited.explain("h", time=3, unit=1).data()
    assert abs(explained["value"] - float(edited["h"][0, 0, 0, 3, 1])) < 1e-6
    edited.explain("f", time=2, unit=1)
    value = torch.zeros((), requires_grad=True)
    with_graph = tr.rerun(rs.Edit("c", time=2, unit=1, to=value))
    assert with_graph.explain("h", time=3, unit=1).data()["value"] == explained["value"]


def test_differences_of_unlike_traces() -> None:
    gru = nn.GRU(3, 4)
    tr, longer = (rs.trace(gru, torch.randn(n, 2, 3)) for n in (5, 6))
    with pytest.raises(rs.ShapeError, match="of unequal sizes"):
        tr.difference(longer)
    assert not any(value.any() for value in tr.difference(tr).values())
    with pytest.raises(rs.AddressError, match="r is recorded in one of the two only"):
        tr.difference(rs.trace(gru, torch.randn(5, 2, 3), record="z"))["r"]


def test_a_file_keeps_what_dropout_let_pass(tmp_path: Any) -> None:
    layer = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    tr = rs.trace(layer, torch.randn(5, 2, 3))
    tr.save(tmp_path / "t.safetensors")
    back = rs.load_trace(tmp_path / "t.safetensors")
    edit = rs.Edit("h", layer=0, time=2, to=0.0)
    one, other = tr.rerun(edit), back.rerun(edit)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(rs.RefusedError, match=r"a rerun is not saved.*save the trace itself"):
        one.save(tmp_path / "edited.safetensors")
    assert not (tmp_path / "edited.safetensors").exists()
    back._masks = ()
    with pytest.raises(rs.RefusedError, match="which numbers dropout let pass"):
        back.rerun(edit)


def test_whatever_mode_the_caller_is_in() -> None:
    """Autocast and inference mode leave the numbers, and the kind of tensors, as they are."""
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    asked = [
        lambda: tr.rerun(rs.Edit("c", time=1, to=0.0))["h"],
        lambda: tr.jacobian("h", "c"),
        lambda: tr.flow(),
        lambda: tr.memory()["written"],
        lambda: tr.gradients(output=torch.ones(5, 2, 4))["f"],
    ]
    for ask in asked:
        expected = ask()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ask(), expected)
        with torch.inference_mode():
            found = ask()
        assert torch.equal(found, expected)
        assert not found.is_inference()


def test_joined_calls_are_not_run_again() -> None:
    cell = nn.GRUCell(3, 4)
    with rs.watch(cell) as seen:
        h = None
        for x in torch.randn(4, 2, 3):
            h = cell(x, h)
    with pytest.raises(rs.RefusedError, match=r"joined from 4 calls.*joined\.calls\[0\]"):
        seen.joined("").rerun(rs.Edit("h", to=0.0))
    with rs.watch(cell) as seen:
        cell(torch.randn(2, 3)).sum().backward()
    joined = seen.joined("")
    assert size(joined.rerun(rs.Edit("h", to=0.0))["h"]) == 0
    assert torch.equal(joined.grad["z"], seen.trace.grad["z"])
    assert joined.gradients(h_n=torch.ones(2, 4)).deviation < 1e-5
    assert size(seen.joined("").calls[0].rerun(rs.Edit("h", to=0.0))["h"]) == 0


def test_a_rerun_leaves_the_trace_alone() -> None:
    layer = rs.Recurrent(LSTM_PEEPHOLE, 3, 4, num_layers=2)
    tr = rs.trace(layer, torch.randn(5, 2, 3))
    before = {name: value.clone() for name, value in tr.items()}
    tr.rerun(rs.Edit("c", to=1.0), rs.Edit("x", layer=0, to=0.0), rs.Edit("h_0", to=2.0))
    assert all(torch.equal(tr[name], value) for name, value in before.items())
    assert not tr.h_0.any()


@pytest.mark.parametrize("kind", ["to", "add", "scale"])
def test_a_number_is_taken_in_the_trace_s_own_type(kind: str) -> None:
    tr = rs.trace(nn.GRU(3, 4).double(), torch.randn(5, 1, 3, dtype=torch.float64))
    edited = tr.rerun(rs.Edit("h", time=2, unit=0, **{kind: 0.1}))
    was = tr["h"][0, 0, 0, 2, 0].item()
    wanted = {"to": 0.1, "add": was + 0.1, "scale": was * 0.1}[kind]
    assert edited["h"][0, 0, 0, 2, 0].item() == pytest.approx(wanted, rel=1e-15, abs=0)


def test_complex_numbers_are_refused() -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 1, 3))
    with pytest.raises(rs.DtypeError, match="real numbers"):
        tr.rerun(rs.Edit("h", time=2, unit=0, to=torch.tensor(1j)))
