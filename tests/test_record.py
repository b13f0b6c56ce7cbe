"""Records: one grammar of addresses, names of dims, what is padding, and tables."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import xarray
from configurations import BATCH, HIDDEN, INPUT, LENGTHS, PROJECTED, TIME, Configuration, build
from torch import Tensor, nn

import rnnscope as rs

LAYERS = 3


def traced(cell: str = "lstm_proj", call: str = "packed", **options: Any) -> rs.Trace:
    """Three layers in two directions, unsorted lengths: every axis has a length of its own."""
    case = build(Configuration(cell, LAYERS, True, initial=True, call=call))
    return rs.trace(case.layer, *case.args, **case.kwargs, **options)


@pytest.fixture(scope="module")
def tr() -> rs.Trace:
    return traced()


# ── as a mapping ─────────────────────────────────────────────────────────────────────────────


def test_mapping(tr: rs.Trace) -> None:
    assert isinstance(tr, Mapping)
    assert list(tr) == list(tr.keys()) == ["i", "f", "g", "o", "c", "m", "h"]
    assert len(tr) == 7
    assert "f" in tr
    assert "r" not in tr
    assert "x" not in tr  # addressed alike, but no recorded quantity
    assert dict(tr.items())["c"] is not None
    assert tr.get("r") is None
    assert tr == tr
    assert tr != traced()
    assert len({tr, tr}) == 1


@pytest.mark.parametrize(
    ("record", "names"),
    [
        ("gates", ["r", "z", "n", "h"]),
        (["z"], ["z", "h"]),
        ("n_pre", ["n_pre", "h"]),
        ((name for name in ("r_from_h", "n")), ["r_from_h", "n", "h"]),
        ([], ["h"]),
    ],
)
def test_what_is_recorded(record: Any, names: list[str]) -> None:
    tr = traced("gru", record=record)
    assert list(tr) == names
    everything = traced("gru", record="all")
    for name in names:
        torch.testing.assert_close(tr[name], everything[name], atol=1e-13, rtol=0)
    assert set(everything) == {"h"} | {
        f"{gate}{part}" for gate in "rzn" for part in ("", "_pre", "_from_x", "_from_h")
    }


def test_sizes(tr: rs.Trace) -> None:
    assert tr.sizes == {"layer": LAYERS, "direction": 2, "batch": BATCH, "time": TIME}
    assert tr.directions == ("forward", "reverse")
    for name, value in tr.items():
        units = PROJECTED if name == "h" else HIDDEN
        assert value.shape == (LAYERS, 2, BATCH, TIME, units)
        assert tr.dims[name][:4] == ("layer", "direction", "batch", "time")
        assert tr.dims[name][4] == ("projected" if name == "h" else "unit")
    assert tr.dims["x"] == ("layer", "batch", "time", "feature")
    assert traced("lstm").dims["h"][4] == "unit"
    assert tr.nbytes == sum(value.numel() * 8 for value in tr.values())
    assert tr.valid.tolist() == [[t < length for t in range(TIME)] for length in LENGTHS]
    assert tr.lengths.tolist() == LENGTHS


def test_dims_of_the_smallest_call() -> None:
    """One layer, one direction, unbatched: all dims are there all the same."""
    tr = rs.trace(nn.RNN(1, 1), torch.ones(3, 1))
    assert tr["h"].shape == (1, 1, 1, 3, 1)
    assert tr.sizes == {"layer": 1, "direction": 1, "batch": 1, "time": 3}
    assert tr.directions == ("forward",)
    assert tr.valid.all()
    assert tr["x"].shape == (1, 1, 3, 1)
    assert tr["x", 0].shape == (1, 3, 1)


# ── addresses ────────────────────────────────────────────────────────────────────────────────


def test_square_brackets(tr: rs.Trace) -> None:
    c = tr["c"]
    assert torch.equal(tr["c", 1], c[1])
    assert torch.equal(tr["c", -1], c[2])
    assert torch.equal(tr["c", 1, "reverse"], c[1, 1])
    assert torch.equal(tr["c", 1, "forward"], c[1, 0])
    assert torch.equal(tr["c", 0:2, "reverse"], c[0:2, 1])
    assert torch.equal(tr[("c",)], c)


@pytest.mark.parametrize("layer", [None, 0, -1, slice(1, None), slice(-2, -1), slice(5, 9)])
@pytest.mark.parametrize("batch", [None, 2, -BATCH, slice(None, None, 2)])
@pytest.mark.parametrize("time", [None, 4, -2, slice(0, 3), slice(-2, None), slice(1, 100)])
@pytest.mark.parametrize("unit", [None, 7, -1, slice(2, 5)])
def test_positions_and_slices(tr: rs.Trace, layer: Any, batch: Any, time: Any, unit: Any) -> None:
    """As Python and NumPy index: a position drops its dim, a slice keeps it."""
    everything = slice(None)
    for name in ("h", "f"):
        for d, direction in ((everything, None), (0, "forward"), (1, "reverse")):
            wanted = (layer, d, batch, time, unit)
            index = tuple(everything if at is None else at for at in wanted)
            found = tr.sel(
                name, layer=layer, direction=direction, batch=batch, time=time, unit=unit
            )
            expected = tr[name].numpy()[index]
            assert found.shape == expected.shape
            assert (found.numpy() == expected).all()


def test_without_a_name(tr: rs.Trace) -> None:
    found = tr.sel(layer=1, direction="reverse", batch=1, time=-1, unit=3)
    assert list(found) == list(tr)
    for name, value in found.items():
        assert value.shape == ()
        assert value == tr[name][1, 1, 1, -1, 3]
    assert all(torch.equal(value, tr[name]) for name, value in tr.sel().items())


def test_other_whole_numbers(tr: rs.Trace) -> None:
    for two in (np.int64(2), torch.tensor(2)):
        assert torch.equal(tr.sel("h", layer=two), tr["h"][2])
        assert torch.equal(tr.sel("h", time=two), tr["h"][:, :, :, 2])


def test_the_last_step(tr: rs.Trace) -> None:
    """Each sequence's own, in each direction: what the layer returns as h_n and c_n."""
    for name, returned in (("h", tr.h_n), ("c", tr.c_n)):
        last = tr.sel(name, time="last")
        assert last.shape == (LAYERS, 2, BATCH, returned.shape[-1])
        torch.testing.assert_close(
            last.reshape(returned.shape), returned.detach(), atol=1e-13, rtol=0
        )
    for row, length in enumerate(LENGTHS):
        for name, value in tr.items():
            forward = tr.sel(name, layer=1, direction="forward", batch=row, time="last")
            assert torch.equal(forward, value[1, 0, row, length - 1])
            reverse = tr.sel(name, layer=1, direction="reverse", batch=row, time="last", unit=2)
            assert torch.equal(reverse, value[1, 1, row, 0, 2])
    x = tr.sel("x", layer=0, direction="forward", time="last", unit=slice(0, 2))
    ends = [tr["x", 0][row, length - 1, :2] for row, length in enumerate(LENGTHS)]
    assert torch.equal(x, torch.stack(ends))
    assert torch.equal(tr.sel("x", layer=0, direction="reverse", time="last"), tr["x", 0][:, 0])


def test_the_input_of_a_layer(tr: rs.Trace) -> None:
    assert tr["x", 0].shape == (BATCH, TIME, INPUT)
    assert tr["x", 1].shape == (BATCH, TIME, 2 * PROJECTED)
    assert torch.equal(tr["x", 2], torch.cat([tr["h", 1, "forward"], tr["h", 1, "reverse"]], -1))
    assert torch.equal(tr["x", 0:1], tr["x", 0][None])
    assert torch.equal(tr["x", -1], tr["x", 2])
    assert torch.equal(tr["x", 1, "reverse"], tr["x", 1])
    some = tr.sel("x", layer=0, batch=-1, time=slice(0, 2), unit=3)
    assert torch.equal(some, tr["x", 0][-1, 0:2, 3])


def refused(says: str, call: Any) -> None:
    with pytest.raises(rs.AddressError) as raised:
        call()
    assert says in str(raised.value)
    assert isinstance(raised.value, KeyError)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("q", "no quantity 'q'; recorded are i, f, g, o, c, m, h."),
        ("ff", "Did you mean 'f'?"),
        ("h_n", "write tr.h_n"),
        ("c_n", "write tr.c_n"),
        ("c_0", "write tr.c_0"),
        ("h_prev", 'tr.before("h", layer, direction)'),
        ("f_pre", 'trace(..., record="all") or record=[..., "f_pre"]'),
        ("output", "write tr.output"),
        ("x", "address it with one layer"),
        (3, "addressed by its name; got 3"),
        (None, "addressed by its name; got None"),
        (["f"], "addressed by its name; got ['f']"),
        ((), "square brackets take name, layer, direction; got 0"),
        (("c", 0, "forward", 1), "square brackets take name, layer, direction; got 4"),
        (("c", 3), "no layer 3: there are 3, numbered 0 to 2"),
        (("c", 0, "backward"), "no direction 'backward'; there is 'forward' and 'reverse'"),
        (("c", 0, 1), "no direction 1; there is 'forward' and 'reverse'"),
    ],
)
def test_names_that_are_not_there(tr: rs.Trace, name: Any, says: str) -> None:
    refused(says, lambda: tr[name])


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ({"layer": 3}, "no layer 3: there are 3, numbered 0 to 2"),
        ({"layer": -4}, "no layer -4"),
        ({"batch": 4}, "no batch 4: there are 4, numbered 0 to 3"),
        ({"time": 5}, "no time 5: there are 5, numbered 0 to 4"),
        ({"time": -6}, "no time -6"),
        ({"unit": 8}, "no unit 8: there are 8, numbered 0 to 7"),
        ({"direction": "Forward"}, "no direction 'Forward'"),
        ({"time": "first"}, "time must be a whole number, a slice or \"last\"; got 'first'"),
        ({"time": 1.0}, 'time must be a whole number or a slice or "last"; got 1.0'),
        ({"layer": "0"}, "layer must be a whole number or a slice; got '0'"),
        ({"batch": True}, "batch must be a whole number or a slice; got True"),
        ({"unit": [0, 1]}, "unit must be a whole number or a slice; got [0, 1]"),
        ({"time": slice(None, None, -1)}, "slices run forward"),
        ({"time": slice(0.5, 2)}, "whole numbers"),
    ],
)
def test_coordinates_that_are_not_there(tr: rs.Trace, at: dict[str, Any], says: str) -> None:
    refused(says, lambda: tr.sel("h", **at))
    refused(says, lambda: tr.sel(**at))


def test_one_direction() -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    refused("no direction 'reverse'; there is 'forward'", lambda: tr["h", 0, "reverse"])
    refused("no layer 1: there is 1, numbered 0 to 0", lambda: tr["h", 1])
    with pytest.raises(AttributeError, match=r"nn\.GRU has no c_n; it has h_n"):
        _ = tr.c_n
    with pytest.raises(AttributeError, match=r"nn\.GRU has no c_0; it has h_0"):
        _ = tr.c_0


def test_the_last_step_of_x_needs_a_direction(tr: rs.Trace) -> None:
    refused("needs a direction", lambda: tr.sel("x", layer=0, time="last"))


# ── tables ───────────────────────────────────────────────────────────────────────────────────


def test_xarray(tr: rs.Trace) -> None:
    found = tr.to_xarray()
    assert isinstance(found, xarray.Dataset)
    assert set(found.data_vars) == {*tr, "x_l0", "x_l1", "x_l2"}
    assert set(found.coords) == {"direction", "valid", "length"}
    for name, value in tr.items():
        assert found[name].dims == tr.dims[name]
        assert found[name].dtype == np.float64
        assert same_but_nan_on_padding(found[name].values.transpose(2, 3, 0, 1, 4), value, tr)
    assert found["valid"].dims == ("batch", "time")
    assert (found["valid"].values == tr.valid.numpy()).all()
    assert found["length"].values.tolist() == list(LENGTHS)
    for layer in range(LAYERS):
        array = found[f"x_l{layer}"].values
        assert same_but_nan_on_padding(array, tr["x", layer][None, None], tr)
    one = found["c"].sel(direction="reverse").isel(layer=1, batch=0)
    there = tr.sel("c", layer=1, direction="reverse", batch=0).numpy()[: LENGTHS[0]]
    assert (one.values[: LENGTHS[0]] == there).all()


def same_but_nan_on_padding(array: Any, value: Tensor, tr: rs.Trace) -> bool:
    """An array (batch, time, ...) against (layer, direction, batch, time, unit)."""
    valid = tr.valid.numpy()
    expected = value.numpy().transpose(2, 3, 0, 1, 4)
    array = array.reshape(expected.shape) if array.ndim == 3 else array
    return bool((array[valid] == expected[valid]).all() and np.isnan(array[~valid]).all())


def test_means_over_valid_steps(tr: rs.Trace) -> None:
    """However it is asked for, a mean is that of the steps that are there."""
    by_hand = [
        float(tr["f"][1, 0, b, t, u])
        for b, length in enumerate(LENGTHS)
        for t in range(length)
        for u in range(HIDDEN)
    ]
    mean = sum(by_hand) / len(by_hand)
    data, rows = tr.to_xarray(), tr.rows("f", layer=1, direction="forward")
    assert float(tr["f"][1, 0].mean()) != pytest.approx(mean)  # zeros on padding
    assert float(rows.mean()) == float(rows.values.mean()) == pytest.approx(mean)
    assert float(data["f"].isel(layer=1).sel(direction="forward").mean()) == pytest.approx(mean)
    frame = tr.to_pandas()["f"].xs((1, "forward"), level=("layer", "direction"))
    assert frame.mean() == pytest.approx(mean)
    assert rows.to_pandas().to_numpy().mean() == pytest.approx(mean)


def test_rows() -> None:
    tr = traced().labelled([[f"{b}-{t}" for t in range(n)] for b, n in enumerate(LENGTHS)])
    rows = tr.rows("h", layer=2, direction="reverse")
    assert rows.shape == rows.values.shape == (sum(LENGTHS), PROJECTED)
    assert len(rows) == len(rows.labels) == sum(LENGTHS)
    for row, (b, t) in zip(rows.values, rows.index.tolist(), strict=True):
        assert t < LENGTHS[b]
        assert torch.equal(row, tr["h", 2, "reverse"][b, t])
    assert rows.labels == tuple(f"{b}-{t}" for b, t in rows.index.tolist())
    assert torch.equal(rows.batch, rows.index[:, 0])
    assert torch.equal(rows.time, rows.index[:, 1])
    assert (np.asarray(rows) == rows.values.numpy()).all()
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
    assert torch.equal(rows.mean(0), rows.values.mean(0))
    frame = rows.to_pandas()
    assert list(frame["label"]) == list(rows.labels)
    assert frame.index.names == ["batch", "time"]
    for layer in range(LAYERS):
        x = tr.rows("x", layer=layer)
        assert torch.equal(x.values, tr["x", layer][tr.valid])
    assert "35 valid steps" in repr(rows) or f"{sum(LENGTHS)} valid steps" in repr(rows)


def test_rows_of_one_layer_and_direction_need_no_address() -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    assert torch.equal(tr.rows("z").values, tr["z", 0, "forward"].flatten(0, 1))
    assert torch.equal(tr.gradients(tr.output.sum()).rows("z").index, tr.rows("z").index)
    unbatched = rs.trace(nn.GRU(3, 4), torch.randn(5, 3))
    assert unbatched.rows("h").index.tolist() == [[0, t] for t in range(5)]


def test_rows_that_there_are_not(tr: rs.Trace) -> None:
    refused("rows are of one layer, and there are 3: choose one, layer=0", lambda: tr.rows("f"))
    refused("rows are of one direction, and there are 2", lambda: tr.rows("f", layer=0))
    refused("no layer 7", lambda: tr.rows("f", layer=7, direction="forward"))
    refused("no quantity 'q'", lambda: tr.rows("q", layer=0, direction="forward"))
    refused("a whole number", lambda: tr.rows("f", layer=slice(0, 1), direction="forward"))  # type: ignore[arg-type]


def test_labels_in_tables() -> None:
    tr = traced().labelled([[f"{b}-{t}" for t in range(n)] for b, n in enumerate(LENGTHS)])
    data, frame = tr.to_xarray(), tr.to_pandas()
    for b, length in enumerate(LENGTHS):
        for t in range(TIME):
            expected = f"{b}-{t}" if t < length else ""
            assert data["label"].values[b, t] == data["f"].label.values[b, t] == expected
    for (_, _, b, t, _), label in frame["label"].items():
        assert label == f"{b}-{t}"
    for record in (tr.gradients(tr.output.data.sum()), tr.memory()):
        assert record.to_xarray()["label"].values[0, 0] == "0-0"
        assert record.to_pandas()["label"].iloc[0] == "0-0"


def test_padding_is_told() -> None:
    padding = BATCH * TIME - sum(LENGTHS)
    assert f"{padding} of {BATCH * TIME} steps are padding" in str(traced())
    assert 'tr.rows("i", layer=2, direction="forward")' in str(traced())
    assert f"{padding} of {BATCH * TIME} steps" in traced()._repr_html_()
    assert "padding" not in str(rs.trace(nn.GRU(3, 4), torch.randn(50, 2, 3)))


def test_pandas(tr: rs.Trace) -> None:
    """A row a place that is no padding; where h is projected, its missing units are NaN."""
    found = tr.to_pandas()
    assert isinstance(found, pandas.DataFrame)
    assert list(found.columns) == list(tr)
    assert found.index.names == ["layer", "direction", "batch", "time", "unit"]
    assert len(found) == LAYERS * 2 * sum(LENGTHS) * HIDDEN
    for place, row in found.iterrows():
        layer, direction, batch, time, unit = place
        assert time < LENGTHS[batch]
        d = ("forward", "reverse").index(direction)
        for name in ("f", "c", "m"):
            assert row[name] == tr[name][layer, d, batch, time, unit].item()
        if unit < PROJECTED:
            assert row["h"] == tr["h"][layer, d, batch, time, unit].item()
        else:
            assert math.isnan(row["h"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_in_tables(dtype: torch.dtype) -> None:
    """NumPy has no bfloat16: it becomes float32, which holds it exactly, and that is said."""
    tr = rs.trace(nn.GRU(3, 4).to(dtype), torch.randn(5, 2, 3).to(dtype))
    said = "float32, from bfloat16"
    exported = np.float16 if dtype == torch.float16 else np.float32
    dataset, frame = tr.to_xarray(), tr.to_pandas()
    for name, value in tr.items():
        assert value.dtype == dtype
        assert dataset[name].dtype == frame[name].dtype == exported
        assert (dataset[name].values == value.float().numpy().astype(exported)).all()
        assert (frame[name].to_numpy() == value.reshape(-1).float().numpy()).all()
        assert dataset[name].attrs.get("stored_as") == (said if dtype == torch.bfloat16 else None)
    if dtype == torch.bfloat16:
        assert frame.attrs["stored_as"].startswith(said)
        assert all(name in frame.attrs["stored_as"] for name in tr)
    else:
        assert "stored_as" not in frame.attrs


@pytest.mark.parametrize("missing", ["xarray", "pandas"])
def test_without_the_extra(tr: rs.Trace, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(rs.MissingExtraError, match=r"pip install 'rnnscope\[xarray\]'"):
        tr.to_xarray() if missing == "xarray" else tr.to_pandas()


def test_optional_packages_are_imported_where_they_are_used() -> None:
    """`import rnnscope` alone loads none of them."""
    code = "import sys, rnnscope; print(*{'xarray', 'pandas', 'matplotlib'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_a_record_holds_plain_tensors(tr: rs.Trace) -> None:
    assert all(type(value) is Tensor for value in tr.values())
