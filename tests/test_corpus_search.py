"""rs.top and rs.statistics against NumPy over all numbers at once."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import batches, encoder, run, texts
from rich.console import Console
from torch import nn

import rnnscope as rs


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of 40 words in several shards, with several blocks."""
    path = tmp_path_factory.mktemp("store") / "gates"
    rs.record(encoder(), batches(24), path, call=run, labels=texts, shard_bytes=25_000)
    return rs.open_record(path)["rnn"]


# top -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowest", [False, True])
def test_top_steps_are_those_that_a_sort_gives(ds: Any, lowest: bool) -> None:
    assert ds["c"].data.numblocks[0] > 1
    values = ds["c"].values[:, 1, 1, 3]
    order = np.argsort(values if lowest else -values, kind="stable")[:9]
    found = rs.top(ds, "c", unit=3, layer=1, direction="reverse", k=9, lowest=lowest)
    assert [hit.row for hit in found.hits] == order.tolist()
    for hit in found.hits:
        assert hit.value == values[hit.row]
        assert hit.sequence == ds["sequence"].values[hit.row]
        assert hit.time == ds["time"].values[hit.row]


def test_around_a_step_is_its_own_sequence_alone(ds: Any) -> None:
    found = rs.top(ds, "h", unit=0, layer=0, direction="forward", k=7, around=2)
    for hit in found.hits:
        one = rs.sequence(ds, hit.sequence)
        lo, hi = max(0, hit.time - 2), hit.time + 3
        assert hit.times == tuple(range(lo, min(hi, one.sizes["time"])))
        assert hit.labels == tuple(one["label"].values[lo:hi])
        assert hit.values == tuple(one["h"].values[lo:hi, 0, 0, 0].astype(float))
        assert hit.times[hit.at] == hit.time


def test_distinct_takes_one_step_of_a_sequence(ds: Any) -> None:
    values = ds["f"].values[:, 0, 0, 2]
    sequences = ds["sequence"].values
    best = {s: values[sequences == s].max() for s in range(24)}
    expected = sorted(best, key=lambda s: -best[s])[:12]
    found = rs.top(ds, "f", unit=2, layer=0, direction="forward", k=12, distinct=True)
    assert [hit.sequence for hit in found.hits] == expected


def test_nan_is_not_largest(tmp_path: Path) -> None:
    x = torch.randn(6, 1, 3)
    x[4:] = torch.nan
    rs.record(nn.GRU(3, 4), [x], tmp_path / "gates")
    found = rs.top(rs.open_record(tmp_path / "gates")[""], "h", unit=1)
    assert {hit.time for hit in found.hits} == {0, 1, 2, 3}
    assert "nan" in rs.top(rs.open_record(tmp_path / "gates")[""], "h", unit=1).to_html()


def test_text_marks_the_step_and_colours_follow_the_values(ds: Any) -> None:
    found = rs.top(ds, "c", unit=3, layer=1, direction="reverse", k=5)
    hit = found.hits[0]
    line = str(found).splitlines()[1]
    assert str(found).startswith("c of unit 3, layer 1, reverse: the largest over ")
    assert f"{hit.value:.4g}  sequence {hit.sequence}, time {hit.time}" in line
    assert re.findall(r"\[(\w+)\]", line) == [hit.labels[hit.at]]
    console = Console(force_terminal=True, color_system="truecolor", width=300)
    gate = rs.top(ds, "f", unit=0, layer=0, direction="forward", k=1)
    with console.capture() as captured:
        console.print(gate)
    # the largest of all is the reddest, bold and underlined; what follows was written in words
    assert f"\x1b[1;4;30;48;2;255;64;64m{gate.hits[0].labels[gate.hits[0].at]}" in captured.get()
    blue = found.to_html().count(",255)")
    assert blue == sum(value < 0 for hit in found.hits for value in hit.values)


def test_single_letters_stand_side_by_side(tmp_path: Path) -> None:
    layer = nn.GRU(3, 4, batch_first=True)
    rs.record(layer, [torch.randn(1, 5, 3)], tmp_path / "gates", labels=lambda batch: "chair")
    found = rs.top(rs.open_record(tmp_path / "gates")[""], "h", unit=1, k=1)
    assert str(found).replace("[", "").replace("]", "").endswith("  chair")


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_labels_of_strangers_do_nothing(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>\x1b[31m\nc\u202e\"'&"
    layer = nn.GRU(3, 4, batch_first=True)
    rs.record(layer, [torch.randn(1, 3, 3)], tmp_path / "gates", labels=lambda b: [hostile] * 3)
    ds = rs.open_record(tmp_path / "gates")[""]
    assert ds["label"].values.tolist() == [hostile] * 3
    found = rs.top(ds, "h", unit=1, k=2)
    for page in (found.to_html(), found._repr_html_()):
        assert set(Elements(page).tags) <= {
            *("html", "head", "meta", "title", "style", "body", "p", "table", "tr", "td", "span")
        }
    assert "\x1b" not in str(found)
    assert len(str(found).splitlines()) == 3
    found.to_html(tmp_path / "top.html")
    assert (tmp_path / "top.html").read_text(encoding="utf-8") == found.to_html()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unit": 6}, "no unit 6: there are 6, numbered 0 to 5"),
        ({"unit": "c"}, "unit must be a whole number"),
        ({"unit": 0, "layer": None}, "choose a layer: layer=0 to layer=1"),
        ({"unit": 0, "direction": None}, "choose a direction"),
        ({"unit": 0, "direction": "back"}, "no direction 'back'; there is forward and reverse"),
    ],
)
def test_addresses_that_are_not_there(ds: Any, options: Any, words: str) -> None:
    with pytest.raises(rs.AddressError, match=words):
        rs.top(ds, "c", **{"layer": 1, "direction": "forward", **options})
    with pytest.raises(rs.AddressError, match="no quantity 'z'; recorded are i, f, g, o, c, h"):
        rs.top(ds, "z", unit=0)
    with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
        rs.top(ds, "c", unit=0, layer=0, direction="forward", k=0)


def test_sequences_that_are_not_there(ds: Any) -> None:
    with pytest.raises(rs.AddressError, match=r"no sequence 24 has rows here.*numbered 0 to 23"):
        rs.sequence(ds, 24)
    with pytest.raises(rs.AddressError, match="addressed by its number; got 'first'"):
        rs.sequence(ds, "first")
    with pytest.raises(rs.AddressError, match="no call 1: the layer was called once"):
        rs.sequence(ds, 0, call=1)


# statistics ------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_numbers_at_once(ds: Any) -> None:
    found = rs.statistics(ds, correlations=True)
    for name in ds.data_vars:
        values = ds[name].values.astype(np.float64)
        np.testing.assert_allclose(found[f"{name}_mean"], values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found[f"{name}_variance"], values.var(0), rtol=1e-10)
        assert (found[f"{name}_count"].values == len(values)).all()
        for layer in range(2):
            for d in range(2):
                np.testing.assert_allclose(
                    found[f"{name}_correlation"].values[layer, d],
                    np.corrcoef(values[:, layer, d].T),
                    atol=1e-10,
                )
    for name, (least, most) in {"f": (0, 1), "g": (-1, 1)}.items():
        share = (ds[name].values - least) / (most - least)
        got = rs.statistics(ds, name, low=0.3, high=0.6)
        np.testing.assert_allclose(got[f"{name}_low"], (share < 0.3).mean(0))
        np.testing.assert_allclose(got[f"{name}_high"], (share > 0.6).mean(0))
        assert 0 < float(got[f"{name}_low"].mean()) < 1
    assert "c_low" not in found


def test_a_large_mean_costs_no_digits() -> None:
    """The judge is the variance of the same numbers without the mean, which are exact."""
    import xarray

    small = torch.randint(-8, 9, (5000, 1, 1, 2)).numpy().astype(np.float64)
    column = ("step", "layer", "direction", "unit"), small + 2.0**30
    far = xarray.Dataset({"c": column}, coords={"direction": ["forward"]})
    got = rs.statistics(far.chunk(step=100))
    np.testing.assert_allclose(got["c_variance"], small.var(0), rtol=1e-8)


def test_nan_does_not_count(tmp_path: Path) -> None:
    x = torch.randn(6, 1, 3)
    x[4:] = torch.nan
    rs.record(nn.GRU(3, 4), [x], tmp_path / "gates")
    ds = rs.open_record(tmp_path / "gates")[""]
    got = rs.statistics(ds, "h", correlations=True)
    finite = ds["h"].values[:4].astype(np.float64)
    assert got["h_count"].values.tolist() == [[[4] * 4]]
    np.testing.assert_allclose(got["h_mean"], finite.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        got["h_correlation"].values[0, 0], np.corrcoef(finite[:, 0, 0].T), atol=1e-10
    )


def test_statistics_refuse(ds: Any) -> None:
    with pytest.raises(rs.AddressError, match="no quantity 'z'"):
        rs.statistics(ds, "z")
    with pytest.raises(ValueError, match="expected 0 <= low < high <= 1"):
        rs.statistics(ds, low=0.9, high=0.1)
