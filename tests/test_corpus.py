"""rs.record and rs.open_record: the numbers on disk are those of rs.trace, and of nothing else."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import batches, check_store, encoder, expected, run, texts, words
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset
from watched import Cells, Tagger, Two

import rnnscope as rs


def test_every_number_is_that_of_a_trace_of_the_same_batch(tmp_path: Path) -> None:
    model, parts = encoder(), batches(16)
    store = rs.record(model, parts, tmp_path / "gates", call=run, labels=texts)
    check_store(tmp_path / "gates", model, parts)
    assert store.names == ("rnn",)
    assert store.batches == len(parts)


def test_each_sequence_alone_is_the_same_within_rounding(tmp_path: Path) -> None:
    """A product over more sequences may add up in another order, so bits may differ."""
    model, parts = encoder(), batches(16)
    rs.record(model, parts, tmp_path / "gates", call=run)
    ds = rs.open_record(tmp_path / "gates")["rnn"]
    for k, word in list(enumerate(words(16)))[::5]:
        with torch.no_grad():
            tr = rs.trace(model.rnn, model.embed(word)[:, None])
        one = rs.sequence(ds, k)
        assert one["f"].dims == ("time", "layer", "direction", "unit")
        assert one["time"].values.tolist() == list(range(len(word)))
        for name in tr:
            alone = tr[name][:, :, 0].permute(2, 0, 1, 3)
            torch.testing.assert_close(torch.from_numpy(one[name].values), alone)


@pytest.mark.slow
def test_batches_of_one_sequence_equal_its_trace_bit_for_bit(tmp_path: Path) -> None:
    model, parts = encoder(), batches(12, size=1)
    rs.record(model, parts, tmp_path / "gates", call=run)
    check_store(tmp_path / "gates", model, parts)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"compress": False}, marks=pytest.mark.slow),
        pytest.param({"shard_bytes": 1}, marks=pytest.mark.slow),
        {"shard_bytes": 30_000},
    ],
)
def test_the_numbers_do_not_depend_on_how_they_are_stored(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model, parts = encoder(), batches(16)
    rs.record(model, parts, tmp_path / "gates", call=run, labels=texts, **options)
    check_store(tmp_path / "gates", model, parts)


def test_padded_batches_of_a_layer_leave_no_padding_on_disk(tmp_path: Path) -> None:
    """The model itself is the layer; its sequences are packed by the user."""
    layer = nn.GRU(3, 4)
    every = [torch.randn(length, 3) for length in (4, 1, 3)]
    rs.record(layer, [pack_sequence(every, enforce_sorted=False)], tmp_path / "gates")
    ds = rs.open_record(tmp_path / "gates")[""]
    assert ds.sizes == {"step": 8, "layer": 1, "direction": 1, "unit": 4}
    assert ds["direction"].values.tolist() == ["forward"]


FORMS = {
    "list": lambda parts: parts,
    "functions": lambda parts: [lambda part=part: part for part in parts],
    "generator": iter,
    "loader": lambda parts: DataLoader(
        [w for p in parts for w in p], batch_size=4, collate_fn=list, shuffle=False
    ),
}


class Batches(Dataset[Any]):
    """A Dataset whose items are batches."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Any:
        return self.parts[number]


QUICK = ("functions", "loader")


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[pytest.mark.slow] * (form not in QUICK))
        for form in (*FORMS, "dataset", "bag")
    ],
)
def test_batches_may_come_in_any_form(tmp_path: Path, form: str) -> None:
    model, parts = encoder(), batches(14)
    if form == "bag":
        from dask import bag

        source: Any = bag.from_sequence(parts, npartitions=3)
    else:
        source = Batches(parts) if form == "dataset" else FORMS[form](parts)
    rs.record(model, source, tmp_path / "gates", call=run, labels=texts)
    check_store(tmp_path / "gates", model, parts)


def test_the_model_is_called_as_the_batch_says(tmp_path: Path) -> None:
    model = Tagger().eval()
    tokens, lengths = torch.randint(11, (3, 5)), torch.tensor([5, 2, 4])
    for k, batch in enumerate(
        (tokens, (tokens, lengths), [tokens, lengths], {"tokens": tokens, "lengths": lengths})
    ):
        rs.record(model, [batch], tmp_path / f"{k}")
        steps = rs.open_record(tmp_path / f"{k}")["rnn"].sizes["step"]
        assert steps == (15 if k == 0 else 11)


def test_names_modules_and_dtype_choose(tmp_path: Path) -> None:
    model = Two()
    x = torch.randn(5, 2, 3)
    rs.record(model, [x], tmp_path / "a", names=("z", "c"))
    opened = rs.open_record(tmp_path / "a")
    assert {name: list(ds.data_vars) for name, ds in opened.items()} == {
        "encoder.rnn": ["c"],
        "decoder.rnn": ["z"],
        "decoder.cell": ["z"],
    }
    rs.record(model, [x], tmp_path / "b", names="z_pre", modules="decoder.*", dtype=torch.float16)
    opened = rs.open_record(tmp_path / "b")
    assert set(opened) == {"decoder.rnn", "decoder.cell"}
    with torch.no_grad():
        y = model.encoder["rnn"](x)[0]
        tr = rs.trace(model.decoder["rnn"], y, record="all")
    half = tr["z_pre"].half().permute(2, 3, 0, 1, 4).flatten(0, 1)
    ds = opened["decoder.rnn"]
    assert np.array_equal(ds["z_pre"].values, half.numpy())
    assert ds["z_pre"].attrs["stored_as"] == "float16, from float32"


def test_last_steps_are_those_of_each_direction(tmp_path: Path) -> None:
    model, parts = encoder(), batches(12)
    rs.record(model, parts, tmp_path / "last", call=run, steps="last", labels=texts)
    ds = rs.open_record(tmp_path / "last")["rnn"]
    every = words(12)
    assert ds["time"].dims == ("step", "direction")
    assert ds["time"].values.tolist() == [[len(word) - 1, 0] for word in every]
    assert ds["label"].values.tolist() == [[f"w{int(word[-1])}", ""] for word in every]
    rs.record(model, parts, tmp_path / "all", call=run)
    whole = rs.open_record(tmp_path / "all")["rnn"]
    for k in (0, 5, 11):
        steps = rs.sequence(whole, k)["c"].values
        got = rs.sequence(ds, k)["c"].values[0]
        assert np.array_equal(got[:, 0], steps[-1, :, 0])
        assert np.array_equal(got[:, 1], steps[0, :, 1])


def test_a_mask_chooses_steps(tmp_path: Path) -> None:
    model, parts = encoder(), batches(12)

    def vowels(batch: list[torch.Tensor]) -> torch.Tensor:
        longest = max(map(len, batch))
        mask = torch.ones(len(batch), longest, dtype=torch.bool)  # of padding too
        for b, word in enumerate(batch):
            mask[b, : len(word)] = word % 2 == 0
        return mask

    rs.record(model, parts, tmp_path / "gates", call=run, steps=vowels, labels=texts)
    ds = rs.open_record(tmp_path / "gates")["rnn"]
    chosen = torch.cat([word % 2 == 0 for word in words(12)]).numpy()
    assert 0 < chosen.sum() < len(chosen)
    assert np.array_equal(ds["h"].values, expected(model, parts)["h"][chosen])
    assert set(ds["label"].values.tolist()) <= {f"w{n}" for n in range(0, 11, 2)}


def test_calls_that_hand_the_state_on_are_sequences_over_time(tmp_path: Path) -> None:
    model = Cells()
    xs = [torch.randn(6, 2, 3), torch.randn(4, 3, 3)]
    rs.record(model, xs, tmp_path / "gates")
    ds = rs.open_record(tmp_path / "gates")["cell"]
    with rs.watch(model) as seen, torch.no_grad():
        model(xs[1])
    joined = seen.joined("cell")
    assert ds["sequence"].values.tolist() == [0] * 6 + [1] * 6 + [2] * 4 + [3] * 4 + [4] * 4
    alone = rs.sequence(ds, 3)["c"].values
    assert np.array_equal(alone, joined["c"][:, :, 1].permute(2, 0, 1, 3).numpy())


def test_several_calls_with_one_batch_are_told_apart(tmp_path: Path) -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.gru(left)[1] - self.gru(right)[1]

    model = Siamese()
    pairs = [(torch.randn(5, 2, 3), torch.randn(3, 2, 3)) for _ in range(2)]
    rs.record(model, pairs, tmp_path / "gates")
    ds = rs.open_record(tmp_path / "gates")["gru"]
    for call in (0, 1):
        with torch.no_grad():
            tr = rs.trace(model.gru, pairs[1][call])
        alone = rs.sequence(ds, 3, call=call)["h"].values
        assert np.array_equal(alone, tr["h"][:, :, 1].permute(2, 0, 1, 3).numpy())


def test_layers_that_a_batch_does_not_reach_have_no_rows_of_it(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GRU(3, 4), nn.RNN(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.first if len(x) > 3 else self.second)(x)[0]

    model = Branches()
    xs = [torch.randn(steps, 1, 3) for steps in (2, 5, 3)]
    rs.record(model, xs, tmp_path / "gates")
    opened = rs.open_record(tmp_path / "gates")
    assert opened["first"].sizes["step"] == 5
    assert opened["second"]["sequence"].values.tolist() == [0, 0, 2, 2, 2]
    assert opened["first"]["sequence"].values.tolist() == [1] * 5
    assert opened["second"]["batch"].values.tolist() == [0, 0, 2, 2, 2]


def test_nan_is_recorded_and_counted(tmp_path: Path) -> None:
    layer = nn.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    x[3, 1, 0] = torch.nan
    store = rs.record(layer, [x], tmp_path / "gates", names=("h", "z"))
    ds = rs.open_record(tmp_path / "gates")[""]
    assert int(np.isnan(ds["h"].values).sum()) == 2 * 4
    assert store.data()["layers"][""]["nonfinite"] == {"h": 8, "z": 8}
    assert "NaN or infinite: 8 in h, 8 in z" in str(store)


def test_bfloat16_becomes_float32_and_says_so(tmp_path: Path) -> None:
    layer = nn.GRU(3, 4).bfloat16()
    x = torch.randn(5, 2, 3).bfloat16()
    rs.record(layer, [x], tmp_path / "gates")
    ds = rs.open_record(tmp_path / "gates")[""]
    with torch.no_grad():
        tr = rs.trace(layer, x)
    assert np.array_equal(
        ds["h"].values, tr["h"].float().permute(2, 3, 0, 1, 4).flatten(0, 1).numpy()
    )
    assert ds["h"].attrs["stored_as"] == "float32, from bfloat16"


def test_a_projection_names_its_own_dim(tmp_path: Path) -> None:
    layer = nn.LSTM(3, 5, proj_size=2, batch_first=True)
    rs.record(layer, [torch.randn(2, 4, 3)], tmp_path / "gates")
    ds = rs.open_record(tmp_path / "gates")[""]
    assert ds["h"].dims == ("step", "layer", "direction", "projected")
    assert ds.sizes["projected"] == 2
    assert ds.sizes["unit"] == 5


def test_the_proof_and_the_origin_stand_in_the_store(tmp_path: Path) -> None:
    model, parts = encoder(), batches(12)
    store = rs.record(model, parts, tmp_path / "gates", call=run)
    facts = store.data()["layers"]["rnn"]
    deviations = []
    for part in parts:
        with torch.no_grad():
            deviations.append(rs.trace(model.rnn, model.packed(part)).deviation)
    assert facts["deviation"] == max(deviations)
    assert facts["deviation"] <= facts["tolerance"] < 1e-4
    assert facts["steps_compared"] == facts["rows"] == sum(map(len, words(12)))
    attributes = json.loads((tmp_path / "gates" / "zarr.json").read_text())["attributes"]
    assert set(attributes["rnnscope_record"]["weights"]) == set(model.state_dict())


@pytest.mark.slow
def test_a_shard_is_an_ordinary_group_of_zarr(tmp_path: Path) -> None:
    import xarray

    model, parts = encoder(), batches(12)
    rs.record(model, parts, tmp_path / "gates", call=run)
    (shard,) = tmp_path.glob("gates/batches-*")
    with xarray.open_zarr(shard, group="rnn", consolidated=False) as ds:
        assert np.array_equal(ds["c"].values, expected(model, parts)["c"])


@pytest.mark.slow
def test_a_url_serves_as_a_path(tmp_path: Path) -> None:
    model, parts = encoder(), batches(16)
    url = f"file://{tmp_path}/gates"
    rs.record(model, parts[:4], url, call=run, labels=texts, shard_bytes=9999)
    rs.record(model, parts, url, call=run, labels=texts, shard_bytes=9999)
    check_store(url, model, parts)
    check_store(tmp_path / "gates", model, parts)


def test_nothing_outlives_the_call(tmp_path: Path) -> None:
    import zarr

    before = threading.enumerate(), dict(zarr.config.config), torch.is_grad_enabled()
    rs.record(encoder(), batches(12), tmp_path / "gates", call=run)
    ds = rs.open_record(tmp_path / "gates")["rnn"]
    rs.sequence(ds, 3)
    assert (threading.enumerate(), dict(zarr.config.config), torch.is_grad_enabled()) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    rs.record(encoder(), batches(12), tmp_path / "gates", call=run)
    steps = sum(map(len, words(12)))
    assert f"12 sequences, {steps} steps" in terminal.getvalue()
    quiet = Terminal()
    monkeypatch.setattr("sys.stderr", quiet)
    rs.record(encoder(), batches(12), tmp_path / "quiet", call=run, progress=False)
    assert quiet.getvalue() == ""


def test_a_function_is_told_how_far_it_is(tmp_path: Path, capsys: Any) -> None:
    model, parts = encoder(), batches(12)
    states: list[Any] = []
    rs.record(model, parts, tmp_path / "gates", call=run, progress=states.append)
    assert [state.batches for state in states] == [1, 2, 3]
    assert {state.total for state in states} == {3}
    last = states[-1]
    assert last.sequences == 12
    assert last.steps == sum(map(len, words(12)))
    assert last.bytes == last.steps * 2 * 2 * 6 * 6 * 4
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
