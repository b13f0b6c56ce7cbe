"""From which size on an error shows: computed when asked for, with the numbers of the call."""

from __future__ import annotations

import copy
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._opening import threshold
from rnnscope._opening.per_unit import Independent, LayerRun
from rnnscope._opening.threshold import Threshold
from rnnscope._opening.worst_case import WorstCase

LAYERS = {
    "GRU": lambda: nn.GRU(20, 40),
    "LSTM": lambda: nn.LSTM(20, 40, num_layers=2, bidirectional=True),
    "LSTM projected": lambda: nn.LSTM(20, 40, proj_size=13, bias=False),
    "RNN": lambda: nn.RNN(20, 40),
}


def wide(name: str) -> nn.Module:
    """A layer whose bound on rounding is wide."""
    torch.manual_seed(0)
    layer: nn.Module = LAYERS[name]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(30 if name == "RNN" else 4)
    return layer


def overwrite(*tensors: Tensor) -> None:
    """Past what autograd counts."""
    for tensor in tensors:
        tensor.detach().fill_(1e3)


@pytest.fixture
def traced(request: Any) -> tuple[nn.Module, Tensor, rs.Trace]:
    layer = wide(request.param)
    x = torch.randn(30, 4, 20, generator=torch.Generator().manual_seed(1))
    return layer, x, rs.trace(layer, x)


every_layer = pytest.mark.parametrize("traced", LAYERS, indirect=True)


@every_layer
def test_a_trace_does_not_compute_it(traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, tr = traced
    assert tr.proofs["h"].shows is not None

    def refuse(run: LayerRun) -> None:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(threshold, "WorstCase", refuse)
    again = rs.trace(layer, x)
    assert again.proofs["h"].threshold is not None
    with pytest.raises(AssertionError, match="nobody asked"):
        _ = again.proof


@every_layer
def test_it_is_the_number_of_the_call_whatever_changes_afterwards(traced: Any) -> None:
    layer, x, tr = traced
    at_once = {name: proof.shows for name, proof in tr.proofs.items()}
    assert at_once["h"] is not None
    later = rs.trace(layer, x)
    overwrite(x, *layer.parameters(), *later.values(), later.output, later.call.x)
    overwrite(*(t for row in later.weights for part in row for t in part.tensors()))
    assert {name: proof.shows for name, proof in later.proofs.items()} == at_once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@every_layer
def test_the_caller_s_modes_do_not_change_it(traced: Any, dtype: torch.dtype) -> None:
    layer, x, tr = traced
    at_once = tr.proofs["h"].shows
    later = rs.trace(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode(), torch.device("meta"):
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            assert later.proofs["h"].shows == at_once
        finally:
            torch.set_default_dtype(before)


@every_layer
def test_copies_pickles_and_files_hold_it(traced: Any, tmp_path: Path) -> None:
    layer, x, tr = traced
    at_once = {name: proof.shows for name, proof in tr.proofs.items()}
    copies = [pickle.loads(pickle.dumps(rs.trace(layer, x))), copy.deepcopy(rs.trace(layer, x))]
    place = tmp_path / "run.trace"
    rs.trace(layer, x).save(place)
    for same in [*copies, rs.load_trace(place)]:
        assert {name: proof.shows for name, proof in same.proofs.items()} == at_once
        assert same.proofs == tr.proofs
        assert same.proof == tr.proof
    assert not copies[0].proofs["h"].threshold.parts  # no sample goes with a pickle


def test_it_is_what_the_two_bounds_say_of_these_steps_and_rows() -> None:
    """By numbers: with the whole matrices, whose rows and steps are chosen here once more."""
    choose = random.Random(0)
    for sizes in ((20, 40, 7), (3, 5, 1), (5, 90, 11)):
        features, units, batch = sizes
        layer = nn.LSTM(features, units)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(choose.uniform(4, 8))
        tr = rs.trace(layer, torch.randn(40, batch, features))
        size = tr.proofs["h"].threshold
        if size is None:
            continue
        ((sample, widest),) = size.parts
        weights, hidden = tr.weights[0][0], tr["h"][0, 0].transpose(0, 1)
        before = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        x = tr.call.x
        whole = LayerRun(
            *(weights, sample.run.rounding, tr.call, False, lambda a, b, x=x: x[a:b]),
            before,
            hidden,
        )
        places, length = 40 * batch, 4 * units
        chosen = [k * places // min(32, places) for k in range(min(32, places))]
        rows = torch.tensor([k * length // min(64, length) for k in range(min(64, length))])
        factors = torch.cat([x.flatten(0, 1), before.flatten(0, 1)], 1)[chosen]
        largest = 1.0
        for worst, usual in zip(
            WorstCase(whole).product_errors(factors, rows),
            Independent(whole).product_errors(factors, rows),
            strict=True,
        ):
            largest = max(largest, float((worst / usual.double()).max()))
        assert tr.proofs["h"].shows == pytest.approx(2 * largest * widest, rel=1e-6)


def test_what_is_kept_for_it_is_small() -> None:
    layer = nn.LSTM(256, 512)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    tr = rs.trace(layer, torch.randn(64, 2, 256))
    size = tr.proofs["h"].threshold
    assert size is not None
    assert size.parts
    for sample, _ in size.parts:
        run = sample.run
        for tensor in (run.call.x, run.before, *run.weights.tensors()):
            assert tensor.untyped_storage().nbytes() <= 64 * 512 * 4


def test_sizes_are_equal_where_their_numbers_are() -> None:
    assert Threshold.of_size(1.0) == Threshold.of_size(1.0) != Threshold.of_size(2.0)
    assert hash(Threshold.of_size(1.0)) == hash(Threshold.of_size(1.0))
    assert Threshold.of_size(1.0) != 1.0
    assert repr(Threshold.of_size(1.5)) == "Threshold(1.5)"
