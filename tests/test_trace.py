"""trace: every quantity over all configurations against the judges, which know no rnnscope."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from configurations import ALL, BATCH, INPUT, SOME, TIME, Case, Configuration, build, name_of
from judges import by_cells, gates_from_export, replayed_masks, step_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs

# States are of order 1 (those of three layers of relu reach 15) and pass through at most 3 layers
# of 5 steps, each a sum of some 20 products: in float64 (unit 1.1e-16) that is some 1e-15, in
# float32 (6e-8) some 1e-6, up to 1e-5 with relu. A wrong gate, mask, direction or state is off by
# 1e-2 and more.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5}

GROUPS: dict[str, list[Configuration]] = {}
for each in ALL:
    GROUPS.setdefault(f"{each.cell}-{each.num_layers}", []).append(each)


class Traced(NamedTuple):
    """A trace of a case, with the random state before and after the call."""

    case: Case
    tr: rs.Trace
    before: Tensor
    after: Tensor


def traced(configuration: Configuration, **options: Any) -> Traced:
    case = build(configuration)
    before = torch.get_rng_state()
    tr = rs.trace(case.layer, *case.args, **case.kwargs, **options)
    return Traced(case, tr, before, torch.get_rng_state())


def judged(case: Case, before: Tensor, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    masks = None
    if case.layer.training:
        masks = replayed_masks(
            case.layer, before, batch=len(case.padded_x), time=TIME, lengths=case.lengths
        )
    return by_cells(case.layer, case.padded_x, case.initial, case.lengths, masks, dtype)


def off(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    assert one.isfinite().all()
    assert other.isfinite().all()
    return float((one.double() - other.double()).abs().max())


def tensors(returned: Any) -> list[Tensor]:
    """What a layer returned, flat; of a PackedSequence all four parts."""
    if isinstance(returned, tuple):  # a PackedSequence is one
        return [t for part in returned if part is not None for t in tensors(part)]
    assert isinstance(returned, Tensor)
    return [returned]


def faults(configuration: Configuration, **options: Any) -> list[str]:
    """What a trace of this configuration has wrong, by the judges."""
    case, tr, before, after = traced(configuration, **options)
    expected = judged(case, before)
    found = [
        f"{name} off by {difference:.1e}"
        for name in tr
        if (difference := off(tr[name], expected[name])) >= TOLERANCE[configuration.dtype]
    ]
    if set(tr) != set(expected) - {"output", "h_n", "c_n"}:
        found.append(f"records {', '.join(tr)}")
    if any(t.dtype != configuration.dtype or t.requires_grad for t in tr.values()):
        found.append("of another type, or with a graph")
    # what it returns is what the layer returns, to the bit and to the draw
    torch.set_rng_state(before)
    own = case.layer(*case.args, **case.kwargs)
    if not torch.equal(after, torch.get_rng_state()):
        found.append("leaves another random state than the layer")
    states = (tr.h_n, tr.c_n) if isinstance(case.layer, nn.LSTM) else tr.h_n
    mine, theirs = tensors((tr.output, states)), tensors(own)
    if type(tr.output) is not type(own[0]) or len(mine) != len(theirs):
        found.append("returns another form")
    for one, other in zip(mine, theirs, strict=False):
        if not torch.equal(one, other) or one.requires_grad != other.requires_grad:
            found.append("returns other numbers than the layer")
    if not all(proof.ratio <= 1 for proof in tr.proofs.values()):
        found.append(f"proves nothing: {tr.proofs}")
    if list(tr.proofs) != list(tr.cell.states) or not tr.proofs["h"].every_step:
        found.append(f"proves {list(tr.proofs)}")
    return found


# ── all configurations ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("group", GROUPS)
def test_every_quantity_of_every_configuration(group: str, every: int) -> None:
    """Gates, states and parts; a group is a test, every failing configuration is named."""
    chosen = GROUPS[group][::every]
    wrong = {name_of(c): found for c in chosen if (found := faults(c, record="all"))}
    assert not wrong, "\n".join(f"{name}: {'; '.join(found)}" for name, found in wrong.items())


def test_one_configuration_in_five_has_every_choice() -> None:
    for field in dataclasses.fields(Configuration):
        chosen = {getattr(c, field.name) for group in GROUPS.values() for c in group[::5]}
        assert chosen == {getattr(c, field.name) for c in ALL}, field.name


def test_the_groups_hold_every_configuration() -> None:
    assert sum(map(len, GROUPS.values())) == len(ALL) == 1_920
    assert len(GROUPS) == 10


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_inputs_of_every_layer(configuration: Configuration) -> None:
    """x of each layer: what was given, then the states below, under the layer's own masks."""
    case, tr, before, _ = traced(configuration)
    expected = judged(case, before)
    given = case.padded_x.clone()
    for row, length in enumerate(case.lengths or []):
        given[row, length:] = 0
    assert torch.equal(tr["x", 0], given)
    masks = None
    if configuration.training:
        masks = replayed_masks(
            case.layer, before, batch=len(given), time=TIME, lengths=case.lengths
        )
    for layer in range(1, configuration.num_layers):
        below = torch.cat(tuple(expected["h"][layer - 1]), dim=-1)
        if masks is not None:
            below = below * masks[layer - 1]
        assert off(tr["x", layer], below) < TOLERANCE[configuration.dtype]


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_initial_states(configuration: Configuration) -> None:
    case, tr, *_ = traced(configuration)
    for k, state in enumerate(tr.cell.states):
        mine = getattr(tr, f"{state}_0")
        assert mine.shape == getattr(tr, f"{state}_n").shape
        if configuration.initial:
            own = case.initial[k] if isinstance(case.initial, tuple) else case.initial
            own = own[:, 0] if configuration.call == "unbatched" else own
            assert torch.equal(mine, own)
        else:
            assert not mine.any()


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_states_before(configuration: Configuration) -> None:
    """tr.before: one step of torch's own cell from there gives the state that is recorded."""
    case, tr, *_ = traced(configuration)
    lengths = case.lengths or [TIME] * len(case.padded_x)
    for layer, d in itertools.product(range(configuration.num_layers), range(len(tr.directions))):
        step = step_of(case.layer, layer, d, configuration.dtype)
        before = {s: tr.before(s, layer, tr.directions[d]) for s in tr.cell.states}
        for row, length in enumerate(lengths):
            for t in range(length):
                state = before["h"][row, t], before.get("c", before["h"])[row, t]
                with torch.no_grad():
                    numbers = step(tr["x", layer][row, t], state)
                for name in tr:
                    mine = tr[name][layer, d, row, t]
                    assert off(mine, numbers[name]) < TOLERANCE[configuration.dtype], name


# ── the exported graph ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "configuration",
    [c for c in SOME if c.call != "packed" and not c.training],
    ids=name_of,
)
def test_gates_are_those_of_the_exported_graph(configuration: Configuration) -> None:
    case, tr, *_ = traced(configuration, record="all")
    exported = gates_from_export(case.layer, *case.args, *case.kwargs.values())
    assert set(exported) <= set(tr)
    for name, value in exported.items():
        assert off(tr[name], value) < TOLERANCE[configuration.dtype], name


# ── check="thorough" and check=False ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_thorough(configuration: Configuration) -> None:
    """The same numbers, and every state proven at every step."""
    assert faults(configuration, record="all", check="thorough") == []
    _, plain, before, _ = traced(configuration)
    torch.set_rng_state(before)
    thorough = traced(configuration, check="thorough").tr
    assert all(torch.equal(plain[name], thorough[name]) for name in plain)
    assert all(proof.every_step for proof in thorough.proofs.values())
    assert thorough.deviation >= plain.deviation


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_by_the_equations_alone(configuration: Configuration) -> None:
    case, tr, before, after = traced(configuration, record="all", check=False)
    expected = judged(case, before)
    tolerance = TOLERANCE[configuration.dtype]
    assert set(tr) == set(expected) - {"output", "h_n", "c_n"}
    for name in tr:
        assert tr[name].dtype == configuration.dtype
        assert off(tr[name], expected[name]) < tolerance, name
    torch.set_rng_state(before)
    own = case.layer(*case.args, **case.kwargs)
    assert torch.equal(after, torch.get_rng_state())
    states = (tr.h_n, tr.c_n) if isinstance(case.layer, nn.LSTM) else tr.h_n
    mine, theirs = tensors((tr.output, states)), tensors(own)
    assert type(tr.output) is type(own[0])
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == other.dtype
        assert off(one, other.detach()) < tolerance
        assert not one.requires_grad
    assert tr.deviation is None
    assert tr.tolerance is None
    assert tr.proof.startswith("Not verified")


def test_by_the_equations_alone_does_not_run_the_layer() -> None:
    layer = nn.GRU(3, 4)
    called = []
    layer.register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(5, 2, 3)
    rs.trace(layer, x, check=False)
    assert called == []
    rs.trace(layer, x)
    assert called == [1]


# ── cells ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
@pytest.mark.parametrize("check", [True, "thorough", False])
def test_cell_modules(kind: str, bias: bool, initial: bool, batched: bool, check: Any) -> None:
    """nn.RNNCell, nn.GRUCell and nn.LSTMCell against one step of the layer with their weights."""
    call = "batched" if batched else "unbatched"
    case = build(Configuration(kind, bias=bias, batch_first=True, initial=initial, call=call))
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    made = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}.get(kind, nn.RNNCell)
    cell = made(INPUT, case.layer.hidden_size, bias=bias, dtype=torch.float64, **options)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in case.layer.state_dict().items()})
    one_step = case.padded_x[:, :1]
    expected = by_cells(case.layer, one_step, case.initial)
    x = one_step[:, 0] if batched else one_step[0, 0]
    hx = None
    if initial:
        row = (lambda s: s[0]) if batched else (lambda s: s[0, 0])
        hx = tuple(map(row, case.initial)) if kind == "lstm" else row(case.initial)

    tr = rs.trace(cell, x, hx, record="all", check=check)
    assert set(tr) == set(expected) - {"output", "h_n", "c_n"}
    for name in tr:
        assert tr.dims[name] == ("layer", "direction", "batch", "time", "unit")
        assert off(tr[name], expected[name]) < 1e-12, name
    own = cell(x, hx)
    states = [tr.h_n, tr.c_n] if kind == "lstm" else [tr.h_n]
    for mine, theirs in zip(states, tensors(own), strict=True):
        assert mine.shape == theirs.shape
        assert off(mine.detach(), theirs.detach()) <= (1e-14 if check is False else 0)
    assert tr.output is tr.h_n
    assert (tr.deviation is None) == (check is False)


# ── lower precisions ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj"])
@pytest.mark.parametrize("both", [False, True])
def test_lower_precisions(cell: str, precision: str, both: bool) -> None:
    """Each gate is what float64 makes of the layer's own h_(t-1), to one rounding of the record.

    c is carried by the equations in float32, the layer's own in the lower precision, so at the
    end it may differ by the bound, and c and what follows from it are judged from the record's
    own c of the step before.
    """
    case = build(Configuration(cell, 2, both, initial=True, dtype=torch.float32))
    dtype = torch.float32 if precision == "autocast" else getattr(torch, precision)
    layer = case.layer.to(dtype)
    x, hx = case.args
    hx = tuple(s.to(dtype) for s in hx) if isinstance(hx, tuple) else hx.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        tr = rs.trace(layer, x.to(dtype), hx)
        own = layer(x.to(dtype), hx)
    assert torch.equal(tr.output, own[0])
    assert {t.dtype for t in tr.values()} == {own[0].dtype}
    assert all(proof.ratio <= 1 for proof in tr.proofs.values())
    eps = torch.finfo(own[0].dtype).eps
    for index, d in itertools.product(range(2), range(len(tr.directions))):
        step = step_of(layer, index, d, torch.float64)
        before = {s: tr.before(s, index, tr.directions[d]).double() for s in tr.cell.states}
        for row, t in itertools.product(range(BATCH), range(TIME)):
            state = before["h"][row, t], before.get("c", before["h"])[row, t]
            with torch.no_grad():
                numbers = step(tr["x", index][row, t].double(), state)
            for name in set(tr) & set("rznifg"):
                # half a unit to round into the record; the rest for float32 inside
                assert off(tr[name][index, d, row, t], numbers[name]) < 0.51 * eps + 1e-6, name


@pytest.mark.parametrize("lengths", [[1, 1], [3, 3], [3, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_of_packed_data_whatever_the_lengths(lengths: list[int], dtype: torch.dtype) -> None:
    """The upper layer as a layer of its own, fed with what dropout let pass of the lower one."""
    torch.manual_seed(0)
    layer = nn.LSTM(3, 8, num_layers=2, dropout=0.4, dtype=dtype)
    x = torch.randn(max(lengths), 2, 3, dtype=dtype)
    tr = rs.trace(layer, pack_padded_sequence(x, torch.tensor(lengths)))
    mask = tr.masks[1]
    assert mask is not None
    assert 0 < int(mask.sum()) < mask.numel()
    upper = nn.LSTM(8, 8, dtype=dtype)
    names = {name: f"{name.removesuffix('0')}1" for name in upper.state_dict()}
    upper.load_state_dict({name: layer.state_dict()[name_of] for name, name_of in names.items()})
    flow = (tr["h", 0, "forward"] * mask / 0.6).transpose(0, 1)
    output, _ = upper(pack_padded_sequence(flow, torch.tensor(lengths)))
    # one layer in the place of the upper of two: kernels may sum in another order
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(tr.output.data, output.data, rtol=0, atol=tolerance)
