"""Pictures: the numbers that are drawn against other computations, and every drawing once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope.plot import data, drawing

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def traced(kind: Any = nn.LSTM, layers: int = 2, both: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    layer = kind(3, 5, num_layers=layers, bidirectional=both, batch_first=True, **options)
    return rs.trace(layer, torch.randn(2, 7, 3))


def packed() -> Any:
    torch.manual_seed(1)
    x = pack_padded_sequence(
        torch.randn(3, 6, 2), torch.tensor([6, 2, 4]), batch_first=True, enforce_sorted=False
    )
    return rs.trace(nn.GRU(2, 4, batch_first=True), x)


# --- data -----------------------------------------------------------------------------------------


def test_a_map_holds_the_traces_numbers_and_no_padding() -> None:
    tr = packed()
    drawn = data.quantity(tr, "z", batch=1)
    assert np.array_equal(drawn.values[:, :2], tr["z"][0, 0, 1, :2].numpy().T.astype(float))
    assert np.isnan(drawn.values[:, 2:]).all()
    assert drawn.valid.tolist() == [True, True, False, False, False, False]
    assert (drawn.limits, drawn.signed) == ((0.0, 1.0), False)
    state = data.quantity(tr, "h", batch=1)
    assert state.signed
    assert state.limits[1] == -state.limits[0] == np.nanmax(np.abs(state.values))


def test_what_is_no_number_does_not_spoil_the_scale() -> None:
    rnn = nn.RNN(1, 2, nonlinearity="relu", batch_first=True)
    tr = rs.trace(rnn, torch.tensor([[[1.0], [2.0], [float("nan")]]]))
    drawn = data.quantity(tr, "h")
    assert np.isfinite(drawn.limits).all()


def test_units_that_move_together_stand_together() -> None:
    rng = np.random.default_rng(0)
    families = np.repeat([0, 1, 2], 4)
    waves = np.stack([np.sin(np.arange(40) * f + p) for f, p in ((0.2, 0), (0.5, 1), (0.9, 2))])
    rows = waves[families] + 0.02 * rng.normal(size=(12, 40))
    shuffled = rng.permutation(12)
    order = data.similar(rows[shuffled])
    found = families[shuffled][list(order)]
    assert sorted(order) == list(range(12))
    assert np.count_nonzero(np.diff(found)) == 2  # three blocks


def test_saturation_counts_steps_without_padding() -> None:
    tr = packed()
    found = data.saturation(tr, low=0.45, high=0.55)
    for g, name in enumerate(("r", "z")):
        steps = torch.cat([tr[name][0, 0, b, :n] for b, n in enumerate((6, 2, 4))])
        assert np.allclose(found.left[0, 0, g], (steps < 0.45).float().mean(0).numpy())
        assert np.allclose(found.right[0, 0, g], (steps > 0.55).float().mean(0).numpy())
    with pytest.raises(rs.AddressError, match="no gates"):
        data.saturation(traced(nn.RNN))
    with pytest.raises(ValueError, match="low < high"):
        data.saturation(tr, low=0.9, high=0.1)


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("direction", [None, "reverse"])
@pytest.mark.parametrize("layer", [None, 1, -1])
def test_one_layer_direction_and_sequence_of_gradients_and_gates(
    layer: int | None, direction: str | None, batch: int | None
) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    packed = pack_padded_sequence(
        torch.randn(3, 6, 3), torch.tensor([6, 2, 4]), batch_first=True, enforce_sorted=False
    )
    tr = rs.trace(lstm, packed)
    g = tr.gradients(tr.output.data.square().sum())
    at: dict[str, Any] = {"layer": layer, "direction": direction, "batch": batch}
    norms, shares = data.gradient_norm(g, "c", **at), data.saturation(tr, low=0.45, **at)
    layers = (0, 1) if layer is None else (1,)
    directions = ("forward", "reverse") if direction is None else ("reverse",)
    rows = range(3) if batch is None else [1]
    assert norms.layers == shares.layers == layers
    assert norms.directions == shares.directions == directions
    for k, one_layer in enumerate(layers):
        for d, way in enumerate(directions):
            for t in range(6):
                present = [b for b in rows if t < (6, 2, 4)[b]]
                sizes = [g["c", one_layer, way][b, t].double().norm().item() for b in present]
                expected = np.mean(sizes) if sizes else np.nan
                assert np.allclose(norms.values[k, d, t], expected, equal_nan=True)
            steps = torch.cat([tr["f", one_layer, way][b, : (6, 2, 4)[b]] for b in rows])
            expected_shares = (steps < 0.45).float().mean(0).numpy()
            assert np.allclose(shares.left[k, d, shares.gates.index("f")], expected_shares)
    counted = "12 valid steps (of 18 with padding)" if batch is None else "2 valid steps (of 6"
    assert counted in norms.title
    assert counted in shares.title
    lines = rs.plot.gradient_norm(g, "c", **at).lines
    assert len(lines) == len(layers) * len(directions)
    clouds = rs.plot.saturation(tr, low=0.45, **at).collections
    assert len(clouds) == 3 * len(layers) * len(directions)
    with pytest.raises(rs.AddressError, match="no layer 2"):
        data.saturation(tr, layer=2)


def test_gradient_norms_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 4).double()
    layer = nn.GRU(3, 4, batch_first=True).double()
    layer.load_state_dict({f"{k}_l0": v for k, v in cell.state_dict().items()})
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    tr = rs.trace(layer, x)
    drawn = data.gradient_norm(tr.gradients(tr.output[:, -1].square().sum()))
    h, states = torch.zeros(2, 4, dtype=torch.float64), []
    for t in range(6):
        h = cell(x[:, t], h)
        h.retain_grad()
        states.append(h)
    h.square().sum().backward()
    expected = [state.grad.norm(dim=-1).mean().item() for state in states]  # type: ignore[union-attr]
    assert np.allclose(drawn.values[0, 0], expected, rtol=1e-9)


def test_flow_is_the_norm_of_autograds_jacobian() -> None:
    torch.manual_seed(0)
    tr = rs.trace(nn.RNN(2, 3, batch_first=True).double(), torch.randn(1, 5, 2).double())
    drawn = data.flow(tr)
    cell = nn.RNNCell(2, 3).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in tr.parameters.items()})
    x = tr.layer_input(0)

    def last(h: Any, start: int) -> Any:
        for t in range(start + 1, 5):
            h = cell(x[:, t], h)
        return h[0]

    for s in range(5):
        jacobian = torch.autograd.functional.jacobian(
            lambda h, s=s: last(h, s), tr["h"][0, 0, :, s]
        )
        norm = torch.linalg.matrix_norm(jacobian[:, 0], 2).item()
        assert drawn.values[s] == pytest.approx(norm, rel=1e-9)
    assert drawn.time == 4


def test_memory_sums_to_the_last_cell_state() -> None:
    tr = traced()
    drawn = data.memory(tr, layer=1, direction="reverse", batch=1)
    start = tr.memory().initial[1, 1, 1].numpy()
    assert np.allclose(drawn.values.sum(1) + start, tr.c_n[3, 1].detach().numpy(), atol=1e-6)


def test_eigenvalues_are_roots_of_each_block() -> None:
    tr = traced(nn.GRU)
    drawn = data.eigenvalues(tr, layer=1)
    blocks = tr.parameters["weight_hh_l1"].double().reshape(3, 5, 5)
    for values, block in zip(drawn.values, blocks, strict=True):
        assert values.sum() == pytest.approx(block.trace().item(), abs=1e-6)
        assert np.prod(values) == pytest.approx(torch.linalg.det(block).item(), abs=1e-6)
    with pytest.raises(rs.ShapeError, match="square"):
        data.eigenvalues(traced(nn.LSTM, proj_size=2))


def test_the_unrolled_layer_names_weights_and_shapes() -> None:
    tr = traced()
    drawn = data.unrolled(tr)
    texts = {box.text for box in drawn.boxes}
    assert {"output[:, 0]", "output[:, 6]", "…"} <= texts
    assert {arrow.text for arrow in drawn.arrows} >= {"weight_hh_l0", "weight_hh_l1_reverse"}
    back = next(a for a in drawn.arrows if a.text == "weight_hh_l0_reverse")
    assert back.start[0] > back.end[0]
    assert "output (batch, time, unit) = (2, 7, 10)" in drawn.notes
    assert "h_n (layer × direction, batch, unit) = (4, 2, 5)" in drawn.notes
    single = data.unrolled(traced(nn.RNN, 1, False))
    assert "weight_ih_l0" in {arrow.text for arrow in single.arrows}


def outputs(tr: Any, **options: Any) -> list[str]:
    return [box.text for box in data.unrolled(tr, **options).boxes if box.kind == "output"]


def test_the_unrolled_output_is_written_as_one_indexes_it() -> None:
    x = torch.randn(3, 2, 4)
    assert outputs(rs.trace(nn.GRU(4, 5), x)) == ["output[0]", "output[1]", "output[2]"]
    unbatched = rs.trace(nn.GRU(4, 5, batch_first=True), x[:, 0])
    assert outputs(unbatched) == ["output[0]", "output[1]", "output[2]"]
    assert outputs(packed(), batch=1) == ["output,\nstep 1", "output,\nstep 2"]
    assert "2 of 6 steps" in data.unrolled(packed(), batch=1).title
    cell = data.unrolled(rs.trace(nn.LSTMCell(4, 5), x[0]))
    assert cell.notes == (
        "x (batch, feature) = (2, 4)",
        "h (batch, unit) = (2, 5)",
        "c (batch, unit) = (2, 5)",
    )
    assert rs.plot.unrolled(rs.trace(nn.LSTMCell(4, 5), x[0])).figure.get_size_inches()[0] >= 6


def test_what_is_left_of_the_initial_state_is_told_beside_the_memory() -> None:
    lstm, x = nn.LSTM(2, 3), torch.randn(4, 1, 2)
    assert "initial" not in data.memory(rs.trace(lstm, x)).title
    tr = rs.trace(lstm, x, (torch.randn(1, 1, 3), torch.randn(1, 1, 3)))
    left = tr["c"][0, 0, 0, -1].numpy() - data.memory(tr).values.sum(1)
    assert f"up to {np.abs(left).max():.2g} that is left of the initial state" in (
        data.memory(tr).title
    )


def test_steps_without_numbers_are_no_steps_of_a_gate_in_between() -> None:
    lstm, x = nn.LSTM(2, 3), torch.randn(6, 1, 2)
    x[3] = torch.nan
    shown, whole = (
        data.saturation(rs.trace(lstm, each), low=0.49, high=0.51) for each in (x, x[:3])
    )
    assert np.allclose(shown.left, whole.left)
    assert np.allclose(shown.right, whole.right)


def test_labels_may_be_numbers() -> None:
    tr = rs.trace(nn.GRU(2, 3), torch.randn(3, 2, 2), labels=torch.arange(3))
    assert tr.labels == (("0", "1", "2"),) * 2
    tr.labelled(np.array([[1.5, 2, 3], [4, 5, 6]]))
    assert tr.labels[0] == ("1.5", "2.0", "3.0")
    with pytest.raises(rs.ShapeError, match="dict"):
        tr.labelled({"a": 1, "b": 2, "c": 3})


def test_labels_come_from_the_trace_or_from_the_call() -> None:
    tr = traced().labelled(list("abcdefg"))
    assert data.quantity(tr, "f").labels == tuple("abcdefg")
    assert data.units(tr, labels=list("hijklmn")).labels == tuple("hijklmn")
    with pytest.raises(rs.ShapeError, match="labels must be 7"):
        data.quantity(tr, "f", labels=list("abcdefgh"))
    with pytest.raises(rs.AddressError, match="no unit 9"):
        data.units(tr, "h", [9])
    with pytest.raises(rs.AddressError):
        data.quantity(tr, "q")


# --- drawing --------------------------------------------------------------------------------------

DRAWN: dict[str, Any] = {
    "quantity": lambda tr, **o: rs.plot.quantity(tr, "h", order="similar", **o),
    "units": lambda tr, **o: rs.plot.units(tr, "h", [0, 2], **o),
    "saturation": rs.plot.saturation,
    "flow": rs.plot.flow,
    "gradient_norm": lambda tr, **o: rs.plot.gradient_norm(tr.gradients(_summed(tr.output)), **o),
    "memory": rs.plot.memory,
    "eigenvalues": rs.plot.eigenvalues,
    "unrolled": rs.plot.unrolled,
}


def _summed(output: Any) -> Any:
    return (output.data if hasattr(output, "batch_sizes") else output).square().sum()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM, "packed", "unbatched"])
@pytest.mark.parametrize("name", DRAWN)
def test_every_picture_is_drawn_on_the_axes_that_are_given(name: str, kind: Any) -> None:
    if kind is nn.RNN and name in ("saturation", "memory"):
        with pytest.raises(rs.AddressError):
            DRAWN[name](traced(kind))
        return
    if kind == "packed":
        tr = packed()
    elif kind == "unbatched":
        tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 3))
    else:
        tr = traced(kind)
    before = dict(matplotlib.rcParams)
    figure, ax = pyplot.subplots()
    assert DRAWN[name](tr, ax=ax) is ax
    figure.canvas.draw()
    assert ax.has_data() or ax.texts
    assert dict(matplotlib.rcParams) == before
    own = DRAWN[name](tr)
    assert own.figure is not figure


def test_what_is_drawn_are_the_numbers() -> None:
    tr = traced()
    ax = rs.plot.quantity(tr, "f", layer=1, direction="reverse", batch=1)
    assert np.allclose(ax.images[0].get_array(), tr["f"][1, 1, 1].numpy().T)
    assert ax.images[0].get_clim() == (0, 1)
    low, high = rs.plot.quantity(tr, "c").images[0].get_clim()
    assert low == -high
    lines = rs.plot.units(tr, "h", [3], layer=1).lines
    assert np.allclose(lines[0].get_ydata(), tr["h"][1, 0, 0, :, 3].numpy())


def test_points_and_curves_are_the_numbers() -> None:
    tr = traced(nn.GRU)
    found = data.eigenvalues(tr, layer=1)
    clouds = rs.plot.eigenvalues(tr, layer=1).collections
    for cloud, values in zip(clouds, found.values, strict=True):
        assert np.allclose(cloud.get_offsets(), np.stack([values.real, values.imag], 1))
    shares = data.saturation(tr, low=0.45, high=0.55)
    clouds = rs.plot.saturation(tr, low=0.45, high=0.55).collections
    assert len(clouds) == 2 * 2 * 2  # gates, layers, directions
    for g in range(2):
        at = np.stack([shares.right[1, 0, g], shares.left[1, 0, g]], 1)
        away = np.asarray(clouds[4 * g + 2].get_offsets()) - at
        assert np.abs(away).max() < 0.005  # set aside, so that points of gates do not hide
    curve = rs.plot.flow(tr, layer=1).lines[0].get_ydata()
    assert np.allclose(curve, data.flow(tr, layer=1).values)
    gradients = tr.gradients(tr.output.sum())
    norms = data.gradient_norm(gradients).values.reshape(4, -1)
    drawn = [line.get_ydata() for line in rs.plot.gradient_norm(gradients).lines]
    assert np.allclose(drawn, norms)
    image = rs.plot.memory(tr, layer=1).images[0].get_array()
    assert np.allclose(image, data.memory(tr, layer=1).values)


def test_colours_are_the_pages_blue_above_zero_and_magenta_where_there_is_no_number() -> None:
    script = (files("rnnscope._page") / "static" / "draw.js").read_text(encoding="utf-8")
    found = re.search(r"signed: (\[\[.*?\]\])", script)
    assert found is not None
    page = ["#" + bytes(stop).hex() for stop in json.loads(found[1])]
    assert page == list(drawing.SIGNED)
    rnn = nn.RNN(1, 2, batch_first=True)
    tr = rs.trace(rnn, torch.tensor([[[1.0], [2.0], [float("nan")]]]))
    image = rs.plot.quantity(tr, "h").images[0]
    assert to_hex(image.cmap(image.norm(image.norm.vmax))) == drawing.SIGNED[-1]
    assert to_hex(image.cmap(image.norm(image.get_array()))[0, 2]) == "#c800a0"


def test_a_short_logarithmic_axis_has_numbers() -> None:
    rnn = nn.RNN(1, 1, bias=False)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(0.8)
    ax = rs.plot.flow(rs.trace(rnn, torch.zeros(5, 1, 1)))  # from 0.8^4 to 1
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    shown = [t for t in ax.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert [tick.label1.get_text() for tick in shown] == ["0.4", "0.6", "0.8", "1"]


def test_a_dollar_in_a_label_is_no_formula() -> None:
    tr = traced().labelled(["$x$", "a_b", "%", "\\alpha", "{", "}", "$"])
    rs.plot.units(tr).figure.canvas.draw()


def test_importing_the_package_does_not_import_matplotlib() -> None:
    script = "import sys, rnnscope; print(rnnscope.plot.data.Map, 'matplotlib' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.endswith("False\n")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(rs.MissingExtraError, match=r"rnnscope\[plot\]"):
        rs.plot.units(traced())


MISUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a layer": (lambda tr: rs.plot.units(nn.LSTM(2, 3)), TypeError, "expected a trace"),
    "a layer, as a map": (lambda tr: rs.plot.quantity(nn.GRU(2, 3), "h"), TypeError, "a trace"),
    "its weights": (lambda tr: rs.plot.eigenvalues(nn.GRU(2, 3)), TypeError, "a trace"),
    "a trace as gradients": (lambda tr: rs.plot.gradient_norm(tr), TypeError, "tr.gradients"),
    "no axes": (lambda tr: rs.plot.flow(tr, ax=3), TypeError, "axes of matplotlib"),
    "an order": (lambda tr: rs.plot.quantity(tr, "h", order="foo"), rs.AddressError, "similar"),
    "no units": (lambda tr: rs.plot.units(tr, "h", []), rs.AddressError, "no unit is named"),
    "a direction": (lambda tr: rs.plot.eigenvalues(tr, direction="up"), rs.AddressError, "'up'"),
    "a layer too many": (lambda tr: rs.plot.eigenvalues(tr, layer=7), rs.AddressError, "layer 7"),
    "all sequences": (lambda tr: rs.plot.units(tr, batch=None), rs.AddressError, "one whole"),
    "no sequence": (lambda tr: rs.plot.unrolled(tr, batch=9), rs.AddressError, "batch 9"),
    "half a step": (lambda tr: rs.plot.unrolled(tr, steps=1.5), ValueError, "from 1 on"),
    "no steps": (lambda tr: rs.plot.unrolled(tr, steps=0), ValueError, "from 1 on"),
}


@pytest.mark.parametrize("what", MISUSED)
def test_what_cannot_be_drawn_is_told(what: str) -> None:
    call, kind, words = MISUSED[what]
    with pytest.raises(kind, match=words):
        call(traced())


def test_places_count_from_the_end_too() -> None:
    tr = traced()
    last = int(tr.sizes["layer"]) - 1
    drawn = rs.plot.data.units(tr, "h", -1, layer=-1)
    assert drawn.units == (tr["h"].shape[-1] - 1,)
    assert f"layer {last}" in drawn.title


# --- images: a picture that has changed is looked at, and kept with --mpl-generate-path -----------

COMPARED = {"baseline_dir": "images", "tolerance": 3, "style": "default", "remove_text": True}
"""The tolerance (root mean square of grey levels) is that of other versions of matplotlib's
rasteriser; texts are left out since fonts differ."""


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_a_map() -> Any:
    return rs.plot.quantity(packed(), "z", batch=1, labels=list("abcdef")).figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_lines() -> Any:
    return rs.plot.units(traced(), "h").figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_the_unrolled_layer() -> Any:
    return rs.plot.unrolled(traced(nn.LSTM, 1, False)).figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_a_map_of_signed_numbers() -> Any:
    x = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(2))
    x[1, 3] = torch.nan
    torch.manual_seed(3)
    return rs.plot.quantity(rs.trace(nn.RNN(2, 5, batch_first=True), x), "h", batch=1).figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_saturation() -> Any:
    return rs.plot.saturation(traced(), low=0.45, high=0.55).figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_eigenvalues() -> Any:
    return rs.plot.eigenvalues(traced(nn.GRU), layer=1).figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_gradient_norms() -> Any:
    tr = traced()
    return rs.plot.gradient_norm(tr.gradients(tr.output[:, -1].square().sum())).figure


@pytest.mark.mpl_image_compare(**COMPARED)
def test_image_of_both_directions_unrolled() -> Any:
    return rs.plot.unrolled(traced(nn.GRU)).figure
