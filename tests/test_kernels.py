"""Compiled kernels: their functions against float64, their numbers against torch's engine and the
judges, on any number of threads, and what happens where nothing can be compiled."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import test_gradients
import torch
from configurations import ALL, SOME, Configuration, name_of
from test_trace import faults
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope import cells
from rnnscope._kernels import engine, lanes, products, smooth
from rnnscope._kernels.lanes import Lanes, Source, module
from rnnscope._kernels.machine import compiled
from rnnscope._opening import part
from rnnscope.cells import apply, from_h, from_x, previous, quantity, tanh, vector
from rnnscope.cells.functions import FAMILIES, FUNCTIONS, Function

# of the tanh and the logistic function, relative to the value and absolutely, in roundings: the
# proof allows two implementations 4 (FUNCTION_ROUNDINGS), so 2 to each; of the logistic function
# 2 more, of 1
RELATIVE = {"tangent": 2.0, "logistic": 3.0}
ABSOLUTE = {"tangent": 1.5, "logistic": 2.0}


@pytest.fixture
def llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNSCOPE_ENGINE", "llvm")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# memory -----------------------------------------------------------------------------------------


def test_vectors_are_read_and_written_where_they_are_said_to_stand(llvm: None) -> None:
    """A processor with AVX-512 stops where a vector's alignment is silently taken for granted."""
    for element in ("float", "double"):
        own = Source("own", element)
        own.variable(own.lanes(0.0)).get()
        own.table("sums", own.type, 3)
        sources = [
            own,
            products.rows_times_column(element, 6),
            products.row_times_columns(element, ([0, 1], [1]), 2),
        ]
        for source in sources:
            lines = [line.strip() for line in source.text().splitlines()]
            accesses = [line for line in lines if re.search(r"(load|store|alloca) <", line)]
            assert accesses, source.name
            for line in accesses:
                stated = re.search(r"align (\d+)$", line)
                assert stated, f"{source.name} leaves the alignment to the compiler: {line}"
                of_its_own = re.search(r"%[wt]\S+(, align| = alloca)", line)
                assert not of_its_own or int(stated[1]) == 64 >= lanes.BYTES, line


# the functions ----------------------------------------------------------------------------------


def on_lanes(function: Callable[[Lanes], Lanes], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What a kernel makes of numbers, whose count is a whole number of vectors."""
    source = Source("each", "float" if x.dtype == np.float32 else "double")
    with source.loop(0, source.argument(4), source.width) as k:
        value = source.load(source.argument(2), k)
        source.store(source.argument(3), k, function(value))
    y = np.empty_like(x)
    compiled(module(source, []), "each")([x.ctypes.data, y.ctypes.data, len(x)], 1)
    return y


def numbers(dtype: type[np.floating[Any]]) -> np.ndarray[Any, Any]:
    """Every 4,096th float32 there is, with subnormals, infinities and NaN; of float64 as many
    drawn ones of every size, and those that matter."""
    if dtype is np.float32:
        return np.arange(0, 1 << 32, 1 << 12, dtype=np.uint32).view(np.float32)
    drawn = np.random.default_rng(0)
    sizes = np.exp(drawn.uniform(-740, 7, 1 << 19)) * drawn.choice([-1, 1], 1 << 19)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e308]
    return np.concatenate([sizes, drawn.uniform(-40, 40, 1 << 19), np.resize(special, 64)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RELATIVE)
def test_functions_are_within_the_roundings_that_the_proof_allows(name: str, dtype: Any) -> None:
    x = numbers(dtype)
    y = on_lanes(getattr(smooth, name), x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64 if dtype is np.float32 else np.longdouble)
        expected = np.tanh(wide) if name == "tangent" else 1 / (1 + np.exp(-wide))
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    kept = ~np.isnan(expected)
    off, size = np.abs(y[kept] - expected[kept]), np.abs(expected[kept])
    rounding, tiny = np.finfo(dtype).eps / 2, np.finfo(dtype).tiny
    normal = size >= tiny
    assert off.max() <= ABSOLUTE[name] * rounding
    assert (off[normal] / size[normal]).max() <= RELATIVE[name] * rounding
    assert off[~normal].max() <= tiny  # may be flushed to zero, which the bound knows too
    assert np.array_equal(np.sign(y[kept][normal]), np.sign(expected[kept][normal]))


@pytest.mark.parametrize(
    "name",
    [
        *("relu", "linear", "hard_sigmoid", "softsign", "leaky_relu(0.2)", "leaky_relu(-0.5)"),
        *("thresholded_relu(0.5)", "thresholded_relu(-0.5)", "scaled_tanh(1.7, 0.6)"),
        *("affine(0.3, -0.2)", "hard_sigmoid(0.2, 0.5)", "clip(0.8)"),
    ],
)
def test_every_other_function_is_torch_s(name: str) -> None:
    function = cells.functions.function_named(name)
    x = np.random.default_rng(0).normal(0, 3, 1 << 12)
    x[:5] = [0.0, -0.0, np.nan, np.inf, -np.inf]
    assert function.kernel is not None
    y, expected = on_lanes(function.kernel, x), function.forward(torch.from_numpy(x.copy()))
    assert np.allclose(y, expected.numpy(), rtol=1e-14, atol=1e-14, equal_nan=True)


# the numbers --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("configuration", SOME[::8], ids=name_of)
def test_every_quantity_is_that_of_the_judges(configuration: Configuration) -> None:
    """As in test_trace, whose judges are torch's cells in float64."""
    assert not faults(configuration, record="all")


@pytest.mark.slow
@pytest.mark.usefixtures("llvm")
def test_every_quantity_of_every_configuration() -> None:
    wrong = {name_of(c): found for c in ALL if (found := faults(c, record="all"))}
    assert not wrong, wrong


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("configuration", SOME[4::12], ids=name_of)
def test_every_gradient_is_that_of_autograd(configuration: Configuration) -> None:
    test_gradients.test_every_gradient_is_autograds(configuration)
    test_gradients.test_parameters_are_those_of_backward(configuration)


@pytest.mark.usefixtures("llvm")
def test_gradients_of_declared_cells_and_of_every_function() -> None:
    for name in cells.DECLARED:
        test_gradients.test_declared_cells(name, DEEP)
    test_gradients.test_cells_of_a_user()
    for name in [*FUNCTIONS, *FAMILIES]:
        test_gradients.test_every_function(name)


@pytest.mark.slow
@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_every_gradient_of_every_configuration(configuration: Configuration) -> None:
    test_gradients.test_every_gradient_is_autograds(configuration)


@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_gradients_of_many_sizes_agree_between_engines(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and partial vectors of units, whole and partial blocks of rows, on two threads too."""
    for units, batch, steps in ((1, 1, 1), (16, 6, 3), (21, 7, 4), (33, 13, 2)):
        layer = make(5, units, num_layers=2, bidirectional=True)
        packed = pack_padded_sequence(
            torch.randn(steps, batch, 5),
            torch.randint(1, steps + 1, (batch,)).index_fill(0, torch.tensor([0]), steps),
            enforce_sorted=False,
        )
        taken = []
        for choice in ("torch", "llvm"):
            tr = rs.trace(layer, packed)
            upstream = torch.ones_like(tr.output.data)
            monkeypatch.setenv("RNNSCOPE_ENGINE", choice)
            taken.append(tr.gradients((tr.output.data * upstream).sum(), check=False))
        for name in taken[0]:
            assert torch.allclose(taken[0][name], taken[1][name], rtol=1e-4, atol=1e-6), name
        for name, value in taken[0].parameters.items():
            assert torch.allclose(value, taken[1].parameters[name], rtol=1e-4, atol=1e-5), name


def test_gradients_are_the_same_bits_on_any_number_of_threads(
    llvm: None, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PIECE", 1)
    layer, x = nn.LSTM(3, 21), torch.randn(5, 13, 3)
    tr = rs.trace(layer, x)
    taken = []
    for count in (1, 2, 3):
        threads(count)
        taken.append(tr.gradients(output=torch.ones_like(tr.output), check=False))
    for name in taken[0]:
        assert torch.equal(taken[0][name], taken[1][name]), name
        assert torch.equal(taken[0][name], taken[2][name]), name


DEEP = {"num_layers": 2, "bidirectional": True}


def both(
    monkeypatch: pytest.MonkeyPatch, layer: nn.Module, *args: Any, **options: Any
) -> tuple[rs.Trace, rs.Trace]:
    """The trace by torch, and by kernels."""
    traces = []
    for choice in ("torch", "llvm"):
        monkeypatch.setenv("RNNSCOPE_ENGINE", choice)
        traces.append(rs.trace(layer, *args, **options))
    assert traces[0].engine == "torch"
    return traces[0], traces[1]


def apart(one: rs.Trace, other: rs.Trace) -> float:
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("record", ["gates", "all", "h"])
@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_engines_agree(
    make: Any, record: Any, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(torch.float32, 21), (torch.float32, 16), (torch.float32, 1), (torch.float64, 21)]
    for dtype, units in sizes if record == "gates" else sizes[:1]:
        layer = make(5, units, **DEEP).to(dtype)
        record = ("h",) if record == "h" else record
        x = torch.randn(9, 7, 5, dtype=dtype)
        packed = pack_padded_sequence(x, [9, 9, 8, 5, 2, 1, 1])
        for given in (x, packed):
            ours = both(monkeypatch, layer, given, record=record, check=check)
            assert ours[1].engine == "llvm"
            assert apart(*ours) < (3e-6 if dtype is torch.float32 else 1e-14)
            states = zip(ours[0]._returned[1], ours[1]._returned[1], strict=True)
            assert all((a - b).abs().max() < 3e-6 for a, b in states)
            for name, proof in ours[1].proofs.items():
                torch_s = ours[0].proofs[name]
                # the same rules; where a norm tells that tanh is nearly linear, a closer bound
                assert 0.3 * torch_s.widest <= proof.widest <= 1.001 * torch_s.widest
                assert proof.ratio <= 1
                assert (proof.places, proof.loose) == (torch_s.places, torch_s.loose)


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("sizes", [(150, 33), (5, 131), (64, 64), (65, 128), (129, 1)])
@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_sums_of_many_terms_are_whole(make: Any, sizes: tuple[int, int], check: bool) -> None:
    """More terms than are multiplied at once, of x or of h, and rows that fill no block: against
    torch's layer in float64, every h that depends on every number before it."""
    layer = make(*sizes, bidirectional=True).double()
    x = torch.randn(14, 7, sizes[0], dtype=torch.float64)
    tr = rs.trace(layer, x, check=check, record="all")
    h = torch.cat([tr["h"][0, d] for d in range(2)], -1).transpose(0, 1)
    torch.testing.assert_close(h, layer(x)[0], rtol=0, atol=1e-13)
    w_ih, b_ih = layer.weight_ih_l0, layer.bias_ih_l0
    gate = tuple(tr.cell.gates)[-1]
    part = (x @ w_ih.T + b_ih)[..., -sizes[1] :].transpose(0, 1)
    torch.testing.assert_close(tr[f"{gate}_from_x"][0, 0], part, rtol=0, atol=1e-13)


def test_wide_bounds_are_told_by_unit_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (nn.GRU, nn.LSTM):
        layer = make(20, 40, bidirectional=True)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(4)
        x = torch.randn(30, 4, 20)
        for given in (x, pack_padded_sequence(x, [30, 20, 11, 1])):
            ours = both(monkeypatch, layer, given)
            for name, proof in ours[1].proofs.items():
                torch_s = ours[0].proofs[name]
                assert proof.shows is not None
                assert torch_s.shows is not None
                assert 0.9 * torch_s.widest < proof.widest < 12 * torch_s.widest
                assert proof.ratio < 1


def wide(make: Any, *sizes: int, **options: Any) -> nn.Module:
    """A layer whose bound on rounding is wide."""
    layer = make(*sizes, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    return layer


@pytest.mark.parametrize("record", ["gates", "h", "all"])
@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_wide_bounds_have_a_kernel_whatever_opened_the_call(
    make: Any, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a call that torch opens too, and where the kernel must compute what is not recorded; as
    torch tells them, and as the kernel does that opened the same call."""
    layer = wide(make, 20, 40, bidirectional=True)
    record = ("h",) if record == "h" else record
    x = torch.randn(30, 4, 20)
    for given in (x, pack_padded_sequence(x, [30, 20, 11, 1])):
        ours = both(monkeypatch, layer, given, record=record)
        with monkeypatch.context() as patch:
            patch.delenv("RNNSCOPE_ENGINE")
            patch.setattr(engine, "LARGE_OF_UNITS", 30)
            patch.setattr(part, "Independent", None)  # torch's
            tr = rs.trace(layer, given, record=record)
        assert tr.engine == "torch"
        assert apart(tr, ours[0]) == 0
        for name, proof in tr.proofs.items():
            by_torch, by_kernel = (other.proofs[name] for other in ours)
            assert proof.shows is not None
            assert 0.9 * by_torch.widest < proof.widest < 12 * by_torch.widest
            assert 0.999 * by_kernel.widest < proof.widest < 1.001 * by_kernel.widest
            assert proof.ratio < 1


def test_bounds_of_small_calls_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ready", set())
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    tr = rs.trace(wide(nn.GRU, 20, 40), torch.randn(30, 4, 20))
    assert tr.proofs["h"].shows is not None
    assert not engine._ready


def leaky() -> cells.Cell:
    return cells.Cell(
        name="leaky",
        gates="nz",
        equations={
            "z": apply("hard_sigmoid(0.2, 0.5)", from_x("z") + vector("w") * previous("h")),
            "n": tanh(from_x("n") + from_h("n")),
            "h": previous("h") - quantity("z") * (previous("h") - quantity("n")),
        },
    )


@pytest.mark.parametrize(
    "cell", [cells.LSTM_PEEPHOLE, cells.LSTM_COUPLED, leaky()], ids=lambda cell: cell.name
)
def test_declared_cells_have_kernels_too(cell: cells.Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = rs.Recurrent(cell, 5, 19, num_layers=2, bidirectional=True)
    x = torch.randn(9, 4, 5)
    ours = both(monkeypatch, layer, x, check=False)
    assert ours[1].engine == "llvm"
    assert apart(*ours) < 3e-6


def test_cells_without_a_kernel_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    sine = Function(
        name="sine", symbol="sin", latex=r"\sin", forward=torch.sin, forward_=torch.sin_,
        derivative=lambda y: y, steepest=1.0, range=(-1.0, 1.0), through_zero=True, script="",
        derivative_at=torch.cos,
    )  # fmt: skip
    mine = cells.Cell("mine", "h", {"h": apply(sine, from_x("h") + from_h("h"))})
    for layer in (rs.Recurrent(mine, 3, 4), rs.Recurrent(cells.GRU_RESET_BEFORE, 3, 4)):
        assert both(monkeypatch, layer, torch.randn(5, 2, 3), check=False)[1].engine == "torch"
    projected = nn.LSTM(3, 4, proj_size=2)
    assert both(monkeypatch, projected, torch.randn(5, 2, 3))[1].engine == "torch"


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("value", [1e-30, 1e25, float("inf"), float("nan")])
def test_extreme_inputs_are_opened_and_proven(value: float) -> None:
    layer = nn.GRU(3, 20)
    x = torch.randn(6, 2, 3)
    x[2, 0, 1] = value
    tr = rs.trace(layer, x)
    expected = layer(x)[0].transpose(0, 1)
    assert torch.equal(tr["h", 0, "forward"].isnan(), expected.isnan())
    assert all(proof.ratio <= 1 for proof in tr.proofs.values())


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("batch", [1, 5, 29])
def test_numbers_do_not_depend_on_how_many_rows_are_taken_at_once(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more registers more rows at once: each sum adds the same terms in the same order."""
    monkeypatch.setattr(engine, "forward_kernel", engine.forward_kernel.__wrapped__)
    monkeypatch.setattr(engine, "reverse_kernel", engine.reverse_kernel.__wrapped__)
    for make in (nn.RNN, nn.GRU, nn.LSTM):
        layer, x = make(70, 35), torch.randn(7, batch, 70)
        found: list[dict[str, Tensor]] = []
        for at_once in ((), products.AT_ONCE, products.AT_ONCE_WIDE):
            monkeypatch.setattr(products, "at_once", lambda at_once=at_once: at_once)
            run = rs.trace(layer, x, check=False)
            opened = rs.trace(layer, x)
            gradients = opened.gradients(output=torch.ones_like(opened.output), check=False)
            found.append(
                {f"run {name}": run[name] for name in run}
                | {f"opened {name}": opened[name] for name in opened}
                | {f"adjoint {name}": gradients[name] for name in gradients}
            )
        for other in found[1:]:
            for name, numbers in found[0].items():
                assert torch.equal(numbers, other[name]), name


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("check", [True, False])
def test_numbers_do_not_depend_on_threads(check: bool, threads: Callable[[int], None]) -> None:
    """In float64, so that work is cut; h of a verified trace is the layer's own."""
    for make, shape in itertools.product((nn.GRU, nn.LSTM), ((300, 1), (40, 30))):
        layer, x = make(9, 70), torch.randn(*shape, 9)
        found = []
        for count in (1, 2, 3):
            threads(count)
            found.append(rs.trace(layer, x, check=check))
        if check and not torch.equal(found[0]["h"], found[1]["h"]):
            continue  # the layer itself rounds otherwise on several threads
        for name, other in itertools.product(found[0], found[1:]):
            assert torch.equal(found[0][name], other[name])


@pytest.mark.usefixtures("llvm")
def test_a_wrong_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = torch._VF.lstm

    def wrong(*args: Any) -> tuple[Tensor, ...]:
        output, *states = fused(*args)
        output[3, 1, 17] += 1e-3
        return (output, *states)

    layer, x = nn.LSTM(5, 18), torch.randn(8, 2, 5)
    monkeypatch.setattr(torch._VF, "lstm", wrong, raising=False)
    with pytest.raises(rs.VerificationError, match=r"first at .*time 3|time=3|step 3"):
        rs.trace(layer, x)


# the choice ---------------------------------------------------------------------------------------


def test_a_small_first_call_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ready", set())
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    layer, x = nn.GRU(2, 3), torch.randn(4, 1, 2)
    for _ in range(3):  # what was computed before changes nothing
        assert rs.trace(layer, x).engine == "torch"
    monkeypatch.setattr(engine, "LARGE", 30)
    assert rs.trace(layer, x).engine == "llvm"
    monkeypatch.setenv("RNNSCOPE_ENGINE", "torch")
    assert rs.trace(layer, x).engine == "torch"


def test_of_many_calls_smaller_ones_have_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    monkeypatch.setattr(engine, "LARGE_OF_MANY", 30)
    layer, x = nn.GRU(2, 3), torch.randn(4, 1, 2)
    with engine.bulk():
        assert rs.trace(layer, x).engine == "llvm"
    assert rs.trace(layer, x).engine == "torch"


def test_calls_that_are_opened_at_once_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    layer, x = nn.GRU(2, 3, num_layers=2, batch_first=True), torch.randn(1, 4, 2)
    monkeypatch.setattr(engine, "LARGE", 3 * 4 * 3 * 4)  # calls × steps × units × quantities
    for calls, by in ((2, "torch"), (3, "llvm"), (20, "llvm")):
        with rs.watch(layer) as seen:
            for _ in range(calls):
                layer(x)
        assert {tr.engine for tr in seen.calls("")} == {by}
    with rs.watch(layer) as seen:  # what is asked for in between is opened by itself
        for _ in range(3):
            layer(x)
            engines = [tr.engine for tr in seen.calls("")]
    assert engines == ["torch"] * 3


def test_warm_up_compiles_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ready", set())
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    layer, x = nn.RNN(2, 3), torch.randn(4, 1, 2)
    rs.warm_up(cells.RNN_TANH)
    assert rs.trace(layer, x).engine == rs.trace(layer, x, check=False).engine == "llvm"
    with pytest.raises(rs.DtypeError, match=r"float32 or float64; got torch\.float16"):
        rs.warm_up(dtype=torch.float16)


def test_a_compile_that_fails_is_told_once_and_torch_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(kernel: object) -> None:
        raise RuntimeError("no memory may be executed here")

    monkeypatch.setattr(engine, "_ready", set())
    monkeypatch.setattr(engine, "_reason", None)
    monkeypatch.setattr(engine.ForwardKernel, "compile", fails)
    monkeypatch.setenv("RNNSCOPE_ENGINE", "llvm")
    layer, x = nn.GRU(2, 3), torch.randn(4, 1, 2)
    with pytest.warns(UserWarning, match="RuntimeError: no memory may be executed here"):
        assert rs.trace(layer, x).engine == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rs.trace(layer, x).engine == "torch"


def test_without_llvmlite_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "available", lambda: False)
    monkeypatch.setattr("rnnscope._opening.warm.available", lambda: False)
    monkeypatch.setenv("RNNSCOPE_ENGINE", "llvm")
    assert rs.trace(nn.GRU(2, 3), torch.randn(4, 1, 2)).engine == "torch"
    with pytest.raises(rs.MissingExtraError, match=r"pip install 'rnnscope\[fast\]'"):
        rs.warm_up()


def test_another_word_for_an_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNSCOPE_ENGINE", "numba")
    with pytest.raises(ValueError, match="RNNSCOPE_ENGINE is 'numba'; it may be auto, llvm, torch"):
        rs.trace(nn.GRU(2, 3), torch.randn(4, 1, 2))


def test_the_engine_is_kept_in_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for tr in both(monkeypatch, nn.GRU(2, 3), torch.randn(4, 1, 2)):
        tr.save(tmp_path / f"{tr.engine}.trace")
        assert rs.load_trace(tmp_path / f"{tr.engine}.trace").engine == tr.engine
