"""What is opened may be cut, computed and turned round before it is summed up and searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import batches, encoder, run, texts, words
from torch import nn

import rnnscope as rs


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of 24 words in several shards, with several blocks."""
    path = tmp_path_factory.mktemp("store") / "gates"
    rs.record(encoder(), batches(24), path, call=run, labels=texts, shard_bytes=25_000)
    return rs.open_record(path)["rnn"]


KEYS = [3, -1, slice(None, None, -1), slice(40, 2, -3), slice(5, 5), slice(1, None, 7), [9, 2, 2]]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_steps_are_chosen_as_of_an_array(ds: Any, key: Any) -> None:
    whole = ds.compute()
    for name in ("c", "label", "sequence", "time", "batch"):
        assert np.array_equal(ds[name][key].values, whole[name].values[key]), name
    assert np.array_equal(ds["h"][key, 1, 0, 2:4].values, whole["h"].values[:, 1, 0, 2:4][key])
    assert ds.isel(step=key).load().equals(whole.isel(step=key))


def test_every_step_says_its_batch(ds: Any) -> None:
    judge = [k // 4 for k, word in enumerate(words(24)) for _ in word]
    assert ds["batch"].values.tolist() == judge


# parts of a dataset ------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Any], Any]] = {
    "computed": lambda ds: ds.compute(),
    "one variable loaded": lambda ds: ds.assign(c=ds["c"].compute()),
    "other blocks": lambda ds: ds.chunk({"step": 5, "unit": 2}),
    "a layer": lambda ds: ds.isel(layer=1),
    "a list of layers": lambda ds: ds.isel(layer=[1]),
    "a direction": lambda ds: ds.sel(direction="reverse"),
    "turned round": lambda ds: ds.transpose("unit", "direction", "layer", "step"),
    "some units": lambda ds: ds.isel(unit=[5, 3]),
    "a unit, a layer, a direction": lambda ds: ds.isel(unit=3, layer=1, direction=1),
    "some steps": lambda ds: ds.isel(step=ds["time"].values % 2 == 0),
    "a sequence": lambda ds: rs.sequence(ds, 5),
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_summed_up_and_searched(ds: Any, part: str) -> None:
    chosen = PARTS[part](ds)
    values = chosen["c"].compute()
    steps = "time" if part == "a sequence" else "step"
    values = values.transpose(steps, ...)
    got = rs.statistics(chosen, "c")
    mean = got["c_mean"].values.ravel()
    rest = tuple(d for d in ("layer", "direction", "unit") if d in values.dims)
    judge = values.transpose(steps, *rest).values.astype(np.float64).mean(0)
    np.testing.assert_allclose(mean, judge.ravel(), rtol=1e-12)
    for axis in ("layer", "direction", "unit"):
        assert got[axis].values.tolist() == np.atleast_1d(chosen[axis].values).tolist()
    unit = values
    for axis, label in {"layer": 1, "direction": "reverse", "unit": 3}.items():
        unit = unit.sel({axis: label}) if axis in unit.dims else unit
    found = rs.top(chosen, "c", unit=3, layer=1, direction="reverse", k=2)
    assert found.title.startswith("c of unit 3, layer 1, reverse")
    assert [hit.value for hit in found.hits] == sorted(unit.values.tolist())[:-3:-1]
    assert rs.sequence(chosen, 5)["c"].sizes["time"] == int((chosen["sequence"] == 5).sum())


def test_a_sequence_whose_steps_stand_apart(ds: Any) -> None:
    shuffled = ds.isel(step=np.random.default_rng(0).permutation(ds.sizes["step"]))
    alone = rs.sequence(shuffled, 4)
    judge = rs.sequence(ds, 4)
    assert alone.sortby("time").equals(judge)


def test_parts_that_cannot_be_summed_up(ds: Any) -> None:
    for verb in (rs.statistics, lambda d: rs.top(d, "c", unit=0), lambda d: rs.sequence(d, 0)):
        with pytest.raises(rs.AddressError, match=r"keep the dim: ds\.isel\(step=\[3\]\)"):
            verb(ds.isel(step=3))
        with pytest.raises(rs.AddressError, match=r"expected a dataset of rs\.open_record"):
            verb(ds["c"])
    with pytest.raises(rs.AddressError, match="lacks the coordinate 'sequence'"):
        rs.sequence(ds.drop_vars("sequence"), 0)
    with pytest.raises(rs.AddressError, match="no unit 4: there are 2, numbered 5, 3"):
        rs.top(ds.isel(unit=[5, 3]), "c", unit=4, layer=0, direction="forward")


def test_sequences_without_rows_are_told_by_those_that_have(tmp_path: Path) -> None:
    def not_two(batch: list[torch.Tensor]) -> torch.Tensor:
        mask = torch.ones(4, max(map(len, batch)), dtype=torch.bool)
        mask[2] = False
        return mask

    rs.record(encoder(), batches(12), tmp_path / "gates", call=run, steps=not_two)
    opened = rs.open_record(tmp_path / "gates")["rnn"]
    with pytest.raises(rs.AddressError, match=r"steps= chose none.*0 to 1, 3 to 5, 7 to 9, 11$"):
        rs.sequence(opened, 6)


# the reverse direction ---------------------------------------------------------------------------


def test_the_last_step_of_the_reverse_direction_is_the_first(tmp_path: Path) -> None:
    model, x = nn.GRU(3, 4, batch_first=True, bidirectional=True), torch.randn(2, 5, 3)
    rs.record(model, [x], tmp_path / "gates", steps="last", labels=lambda batch: "abcde")
    opened = rs.open_record(tmp_path / "gates")[""]
    with torch.no_grad():
        tr = rs.trace(model, x)
    for direction, time, labels in (("forward", 4, ("e",)), ("reverse", 0, ("",))):
        (hit, *_) = rs.top(opened, "h", unit=0, direction=direction, k=1).hits
        assert (hit.time, hit.labels) == (time, labels)
        assert hit.value == float(tr["h", 0, direction][hit.sequence, time, 0])
        assert (opened["time"].sel(direction=direction).values == time).all()
    assert rs.sequence(opened, 1)["time"].values.tolist() == [[4, 0]]


# correlations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [0.0, 2.0**40], ids=["near", "far"])
def test_each_pair_is_correlated_over_the_steps_at_which_both_are_finite(far: float) -> None:
    """Where ``far``, a unit is large just where another is infinite: their sums are no help."""
    import xarray

    drawn = np.random.default_rng(3)
    values = drawn.normal(size=(90, 1, 1, 5)) + drawn.normal(size=(90, 1, 1, 1))
    values[drawn.random(values.shape) < 0.1] = np.nan
    values[:, 0, 0, 0] = drawn.normal(size=90)
    values[20:50, 0, 0, 1] = np.inf
    values[20:50, 0, 0, 0] += far
    values[:, 0, 0, 4] = 0.3
    column = ("step", "layer", "direction", "unit"), values
    whole = xarray.Dataset({"h": column}, coords={"direction": ["forward"]})
    for steps in (7, 40, 90):
        got = rs.statistics(whole.chunk(step=steps), correlations=True)
        for i in range(5):
            for j in range(5):
                pair = values[:, 0, 0, [i, j]]
                pair = pair[np.isfinite(pair).all(1)]
                assert got["h_correlation_count"].values[0, 0, i, j] == len(pair)
                if 4 not in (i, j):
                    judge = np.corrcoef(pair.T)[0, 1]
                    ours = float(got["h_correlation"].values[0, 0, i, j])
                    assert abs(ours - judge) < 1e-9, (i, j, steps)


def test_finite_numbers_have_one_count(ds: Any) -> None:
    got = rs.statistics(ds, "h", correlations=True)
    assert (got["h_correlation_count"].values == ds.sizes["step"]).all()
    assert got["h_correlation_count"].dims == ("layer", "direction", "unit", "unit_2")
