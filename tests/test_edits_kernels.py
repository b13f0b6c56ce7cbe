"""Reruns by kernels: the loop of test_edits and torch's engine in float64 are the judges."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import test_edits
import torch
from configurations import SOME, Case, Configuration, name_of
from loops import looped
from test_edits import size
from test_kernels import leaky
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnscope as rs
from rnnscope import cells
from rnnscope._kernels import engine
from rnnscope._layers import stretches
from rnnscope.cells import quantity_names

LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
COMPILED = [c for c in SOME if c.cell != "lstm_proj"]  # which no kernel runs
STEPS, LENGTHS = 23, [23, 9, 1, 17]


@pytest.fixture
def llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNSCOPE_ENGINE", "llvm")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many steps each run of an engine has."""
    counted: dict[str, list[int]] = {"llvm": [], "torch": []}
    fill, by_torch = stretches.Frames.fill, stretches.run_direction

    def counting_fill(frames: Any, kernel: Any, packed: Any, x: Tensor, span: Any = None) -> None:
        counted["llvm"].append(len(x) if span is None else span[1] - span[0])
        fill(frames, kernel, packed, x, span)

    def counting_torch(entry: Any, *args: Any) -> Any:
        counted["torch"].append(len(entry.x))
        return by_torch(entry, *args)

    monkeypatch.setattr(stretches.Frames, "fill", counting_fill)
    monkeypatch.setattr(stretches, "run_direction", counting_torch)
    return counted


# the judges of test_edits ------------------------------------------------------------------------


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("configuration", COMPILED[3::15], ids=name_of)
def test_edits_propagate_as_in_a_loop(configuration: Configuration) -> None:
    test_edits.test_an_edit_propagates_as_in_a_loop(configuration)
    test_edits.test_several_edits_of_every_kind(configuration)
    test_edits.test_an_edit_that_changes_nothing(configuration)
    test_edits.test_other_weights(configuration)


@pytest.mark.slow
@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("configuration", COMPILED, ids=name_of)
def test_edits_propagate_as_in_a_loop_in_every_configuration(configuration: Configuration) -> None:
    test_edits.test_an_edit_propagates_as_in_a_loop(configuration)
    test_edits.test_several_edits_of_every_kind(configuration)
    test_edits.test_an_edit_that_changes_nothing(configuration)
    test_edits.test_other_weights(configuration)


@pytest.mark.usefixtures("llvm")
def test_what_holds_of_edits_by_torch() -> None:
    test_edits.test_patching_from_another_call()
    test_edits.test_a_rerun_goes_on_from_a_rerun()
    test_edits.test_a_cell_of_one_step()
    for cell in ("gru", "lstm"):
        test_edits.test_sequences_that_ended_before_the_run_begins(cell)


# kernels between edited steps --------------------------------------------------------------------


def padded_case(kind: str, dtype: torch.dtype = torch.float64, **options: Any) -> Case:
    """A call of sequences of unequal length, in which a kernel has some steps to run."""
    layer = LAYERS[kind](3, 5, dtype=dtype, **options)
    x = torch.randn(len(LENGTHS), STEPS, 3, dtype=dtype)
    packed = pack_padded_sequence(x.transpose(0, 1), torch.tensor(LENGTHS), enforce_sorted=False)
    return Case(layer, (packed,), {}, x, list(LENGTHS), None)


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_kernel_runs_between_the_edited_steps(
    kind: str, direction: str, ran: dict[str, list[int]]
) -> None:
    """A gate at some steps, h at others, over padding and two layers."""
    case = padded_case(kind, num_layers=2, bidirectional=True)
    tr = rs.trace(case.layer, *case.args, record="all")
    gate, way = tr.cell.gates[0], tr.directions.index(direction)
    ran["llvm"].clear()
    at = {"layer": 0, "direction": direction}
    edited = tr.rerun(
        rs.Edit(f"{gate}_from_h", **at, time=slice(7, 9), unit=1, add=0.5),
        rs.Edit(f"{gate}_pre", **at, batch=0, time=18, scale=0.5),
        rs.Edit("h", **at, time=slice(3, 4), unit=2, to=0.25),
        rs.Edit("h", **at, batch=3, time=13, add=0.125),
        rs.Edit("x", layer=1, batch=0, time=11, unit=0, add=1.0),
    )
    assert edited.engine == "llvm"

    def change(name: str, layer: int, d: int, b: int, t: int, value: Tensor) -> Tensor:
        value = value.clone()
        if name == "x" and (layer, b, t) == (1, 0, 11):
            value[0] += 1
        if (layer, d) != (0, way):
            return value
        if name == f"{gate}_from_h" and t in (7, 8):
            value[1] += 0.5
        if name == f"{gate}_pre" and (b, t) == (0, 18):
            value *= 0.5
        if name == "h" and t == 3:
            value[2] = 0.25
        if name == "h" and (b, t) == (3, 13):
            value += 0.125
        return value

    expected = looped(case.layer, case.padded_x, None, case.lengths, None, change)
    test_edits.compare(edited, expected, 1e-12)
    # an RNN's h is read by nothing in its step; so are those of the others
    if direction == "forward":  # from step 3, where h is changed behind the kernel
        assert ran["torch"] == [2, 1]
        assert ran["llvm"] == [1, 3, 5, 4, 4, 20, 23]
    else:  # from step 18 to 0
        assert ran["torch"] == [1, 2]
        assert ran["llvm"] == [5, 4, 4, 3, 23, 19]


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_unit_ablated_over_all_time(
    kind: str, dtype: torch.dtype, ran: dict[str, list[int]]
) -> None:
    """The kernel runs each step, and h is changed behind it."""
    case = padded_case(kind, dtype, num_layers=2)
    tr = rs.trace(case.layer, *case.args, record="all")
    ran["llvm"].clear()
    edited = tr.rerun(rs.Edit("h", layer=0, unit=1, to=0.0))
    assert ran == {"llvm": [1] * STEPS + [STEPS], "torch": []}

    def change(name: str, layer: int, d: int, b: int, t: int, value: Tensor) -> Tensor:
        value = value.clone()
        if (name, layer) == ("h", 0):
            value[1] = 0
        return value

    expected = looped(case.layer, case.padded_x, None, case.lengths, None, change)
    test_edits.compare(edited, expected, 1e-12 if dtype == torch.float64 else 3e-6)


@pytest.mark.parametrize(
    "cell", [cells.LSTM_PEEPHOLE, cells.LSTM_COUPLED, leaky()], ids=lambda cell: cell.name
)
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True}], ids=str)
def test_declared_cells_agree_between_engines(
    cell: cells.Cell, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every quantity and part in turn, at two steps."""
    layer = rs.Recurrent(cell, 3, 5, num_layers=2, dtype=torch.float64, **options)
    x = torch.randn(11, 3, 3, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([11, 6, 2]))
    tr = rs.trace(layer, packed, record="all")
    for name in quantity_names(cell):
        edits = [rs.Edit(name, time=slice(t, t + 1), unit=slice(1, 3), add=0.5) for t in (1, 7)]
        reruns = []
        for choice in ("torch", "llvm"):
            monkeypatch.setenv("RNNSCOPE_ENGINE", choice)
            reruns.append(tr.rerun(*edits))
        assert [each.engine for each in reruns] == ["torch", "llvm"]
        for quantity in tr:
            assert size(reruns[0][quantity] - reruns[1][quantity]) < 1e-13, (name, quantity)
        assert size(reruns[0].output.data - reruns[1].output.data) < 1e-13
        for state in cell.states:
            last = [getattr(each, f"{state}_n") for each in reruns]
            assert size(last[0] - last[1]) < 1e-13


def drawn(seed: int) -> tuple[rs.Trace, list[rs.Edit]]:
    """A call of a layer and up to five edits of it, of any kind anywhere."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    steps, batch, inputs = draw.randint(1, 30), draw.randint(1, 5), draw.randint(1, 6)
    hidden, way = draw.choice([1, 3, 8, 17]), draw.choice([{}, {"bidirectional": True}])
    kind = draw.choice([*LAYERS, cells.LSTM_PEEPHOLE, cells.LSTM_COUPLED])
    options = {"num_layers": draw.randint(1, 3), "bias": draw.random() < 0.8, **way}
    if isinstance(kind, str):
        layer = LAYERS[kind](inputs, hidden, **options).double()
    else:
        options |= {"reverse": not way and draw.random() < 0.4}
        layer = rs.Recurrent(kind, inputs, hidden, **options).double()
    x: Any = torch.randn(steps, batch, inputs, dtype=torch.float64)
    if draw.random() < 0.6:
        lengths = torch.tensor([draw.randint(1, steps) for _ in range(batch)])
        lengths[draw.randrange(batch)] = steps
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
    tr = rs.trace(layer, x, record=draw.choice(["all", "gates"]))
    edits = []
    for _ in range(draw.randint(1, 5)):
        states = [f"{state}_0" for state in tr.cell.states]
        name = draw.choice([*quantity_names(tr.cell), *["h"] * 4, *states, "x"])
        at: dict[str, Any] = {}
        if name == "x" or draw.random() < 0.7:
            at["layer"] = draw.randrange(options["num_layers"])
        if name != "x" and draw.random() < 0.5:
            at |= {"direction": draw.choice(tr.directions), "unit": draw.randrange(hidden)}
        if name not in states and draw.random() < 0.8:
            start = draw.randrange(steps)
            some = slice(start, draw.randint(start + 1, steps), draw.choice([1, 1, 2, 5]))
            at["time"] = draw.choice(["last", some, some, some])
        if draw.random() < 0.4:
            at["batch"] = draw.randrange(batch)
        changes: list[dict[str, Any]] = [{"to": 0.3}, {"add": 0.2}, {"scale": 0.7}]
        edits.append(rs.Edit(name, **at, **draw.choice([*changes, {"by": torch.square}])))
    return tr, edits


@pytest.mark.slow
def test_drawn_reruns_agree_between_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, to rounding; torch's engine is judged by the loop of test_edits."""
    compiled = 0
    for seed in range(300):
        monkeypatch.setenv("RNNSCOPE_ENGINE", "torch")
        tr, edits = drawn(seed)
        reruns = []
        try:
            for choice in ("torch", "llvm"):
                monkeypatch.setenv("RNNSCOPE_ENGINE", choice)
                reruns.append(tr.rerun(*edits))
        except rs.AddressError:  # two edits of a place, or padding alone
            continue
        one, other = reruns
        compiled += other.engine == "llvm"
        returned = [(each.output, each.h_n, each.h_0) for each in reruns]
        pairs = [(one[name], other[name]) for name in tr] + list(zip(*returned, strict=True))
        for a, b in pairs:
            a, b = (t.data if isinstance(t, PackedSequence) else t for t in (a, b))
            assert size(a - b) < 1e-12, (seed, [*map(str, edits)])
    assert compiled > 100


@pytest.mark.usefixtures("llvm")
def test_what_no_edit_reaches_stays_bit_for_bit() -> None:
    case = padded_case("lstm", torch.float32, num_layers=2)
    tr = rs.trace(case.layer, *case.args)
    edited = tr.rerun(rs.Edit("f", layer=1, batch=3, time=6, to=1.0))
    assert edited.engine == "llvm"
    for name in tr:
        assert torch.equal(edited[name][0], tr[name][0])
        assert torch.equal(edited[name][..., :6, :], tr[name][..., :6, :])
        assert torch.equal(edited[name][:, :, :3], tr[name][:, :, :3])
    assert not torch.equal(edited["h"], tr["h"])


@pytest.mark.usefixtures("llvm")
def test_the_same_bits_on_any_number_of_threads(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PIECE", 1)
    layer, x = nn.LSTM(5, 21, num_layers=2, bidirectional=True), torch.randn(12, 13, 5)
    tr = rs.trace(layer, x)
    edits = rs.Edit("f", layer=0, time=4, to=1.0), rs.Edit("h", layer=0, time=8, unit=3, to=0.0)
    reruns = []
    for count in (1, 2, 3):
        threads(count)
        reruns.append(tr.rerun(*edits))
    for name in tr:
        assert torch.equal(reruns[0][name], reruns[1][name])
        assert torch.equal(reruns[0][name], reruns[2][name])


# graphs ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("name", ["h", "f"])
def test_a_function_that_brings_in_a_graph(name: str, direction: str) -> None:
    """From there on torch goes on, so that autograd follows; finite differences are the judge. One
    of the sequences that run has ended before."""
    case = padded_case("lstm", num_layers=2, bidirectional=True)
    tr = rs.trace(case.layer, *case.args)

    def last(weight: Tensor) -> Tensor:
        at = {"layer": 0, "direction": direction}
        edited = tr.rerun(
            rs.Edit(name, **at, time=slice(12, 13), by=lambda value: value * weight),
            rs.Edit("h", **at, time=slice(4, 5), add=0.5),
        )
        return torch.stack([edited["c"].sum(), edited.output.data.square().sum(), edited.h_n.sum()])

    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(last, (weight,))
    with torch.no_grad():
        compiled = last(weight)
    assert not compiled.requires_grad
    assert size(compiled - last(weight)) < 1e-12


@pytest.mark.usefixtures("llvm")
def test_differentiable_when_asked() -> None:
    test_edits.test_differentiable_when_asked()


# the choice --------------------------------------------------------------------------------------


def test_the_size_of_a_rerun_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ready", set())
    monkeypatch.setattr(engine, "_warm", set())
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    tr = rs.trace(nn.GRU(2, 3), torch.randn(10, 4, 2))
    edit = rs.Edit("h", time=0, to=0.0)
    for _ in range(3):  # what was computed before changes nothing
        assert tr.rerun(edit).engine == "torch"
    monkeypatch.setattr(engine, "LARGE", 10 * 4 * 3 * 4)  # steps, batch, units, quantities
    assert tr.rerun(edit).engine == "llvm"
    assert tr.rerun(rs.Edit("h", time=1, to=0.0)).engine == "torch"
    assert tr.rerun(rs.Edit("h", batch=0, time=0, to=0.0)).engine == "torch"
    rs.warm_up(cells.GRU)
    assert tr.rerun(rs.Edit("h", batch=0, time=8, to=0.0)).engine == "llvm"
    assert tr.rerun(rs.Edit("h", batch=0, time=9, to=0.0)).engine == "torch"  # a single step
    monkeypatch.setattr(engine, "PACKED", 22)  # of 45 weights
    assert tr.rerun(rs.Edit("h", batch=0, time=8, to=0.0)).engine == "torch"
    assert tr.rerun(rs.Edit("h", batch=0, time=7, to=0.0)).engine == "llvm"
    monkeypatch.setenv("RNNSCOPE_ENGINE", "torch")
    assert tr.rerun(edit).engine == "torch"


@pytest.mark.usefixtures("llvm")
def test_a_projection_is_torch_s() -> None:
    tr = rs.trace(nn.LSTM(2, 4, proj_size=3), torch.randn(6, 2, 2))
    assert tr.rerun(rs.Edit("h", time=1, to=0.0)).engine == "torch"
