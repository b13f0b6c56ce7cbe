"""`rnnscope record-info`: what a store holds, as text, Markdown and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpora import batches, encoder, run, texts
from test_cli import printed, refused
from torch import nn

import rnnscope as rs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "gates"
    rs.record(encoder(), batches(8), path, call=run, labels=texts, names=("f", "c"), shard_bytes=1)
    return path


def test_text(store: Path) -> None:
    text = printed("record-info", store)
    steps = sum(len(word) for part in batches(8) for word in part)
    assert f"{store}: 2 batches of corpora.Encoder, complete\n" in text
    assert f"f c: 8 sequences, {steps} steps" in text
    assert f"largest deviation from the layer's own output over {steps} steps" in text
    assert text == f"{rs.record(encoder(), batches(8), store, **same())}\n"


def same() -> dict[str, object]:
    return {"call": run, "labels": texts, "names": ("f", "c")}


def test_json_and_markdown(store: Path) -> None:
    data = json.loads(printed("record-info", store, "--format", "json"))
    assert data["layers"]["rnn"]["quantities"] == ["f", "c"]
    assert data["complete"] is True
    assert data["shards"] == 2
    assert "| rnn | nn.LSTM" in printed("record-info", store, "--format", "markdown")


def test_statistics_are_means_over_units(store: Path) -> None:
    data = json.loads(printed("record-info", store, "--statistics", "--format", "json"))
    f = rs.open_record(store)["rnn"]["f"].values.astype(np.float64)
    told = data["statistics"]["rnn"]["f"]
    np.testing.assert_allclose(told["mean"], f.mean(), rtol=1e-9)
    np.testing.assert_allclose(told["deviation"], f.std(0).mean(), rtol=1e-9)
    np.testing.assert_allclose(told["low"], (f < 0.1).mean(), atol=1e-12)
    pairs = [
        abs(np.corrcoef(f[:, layer, d].T))[~np.eye(6, dtype=bool)]
        for layer in range(2)
        for d in range(2)
    ]
    np.testing.assert_allclose(told["correlation"], np.mean(pairs), rtol=1e-9)
    text = printed("record-info", store, "--statistics")
    assert f"{told['mean']:.4g}" in text
    assert "mean    deviation" in text


def test_what_is_damaged_missing_or_skipped_is_listed(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "gates")
    (tmp_path / "gates" / "batches-00000000-00000000" / "zarr.json").write_text("{")
    text = printed("record-info", tmp_path / "gates")
    assert "damaged: " in text
    assert "missing: batch 0\n" in text
    assert "unfinished: rs.record goes on with it" in text
    assert "shard batches-00000000-00000000 is damaged" in refused(
        "record-info", tmp_path / "gates", "--statistics"
    )
    assert "over its units" in printed(
        "record-info", tmp_path / "gates", "--statistics", "--partial"
    )
    assert "there is no store" in refused("record-info", tmp_path / "nothing")


def test_names_of_strangers_do_nothing(tmp_path: Path) -> None:
    import torch

    hostile = "a\x1b[31mb\nc"
    model = nn.ModuleDict({hostile: nn.GRU(3, 4)})

    def call(model: nn.ModuleDict, batch: torch.Tensor) -> None:
        if len(batch) == 3:
            raise ValueError(hostile)
        model[hostile](batch)

    parts = [torch.ones(5, 2, 3), torch.ones(3, 2, 3)]
    rs.record(model, parts, tmp_path / "gates", call=call, on_error="skip")
    assert list(rs.open_record(tmp_path / "gates")) == [hostile]
    for form in ("text", "markdown"):
        text = printed("record-info", tmp_path / "gates", "--format", form)
        assert "\x1b" not in text
        assert "\nc" not in text
        assert r"a\x1b[31mb\nc" in text.replace("&#92;", "\\")
