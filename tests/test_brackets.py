"""The trained layer of tutorial 3: it counts, one unit does so, and an edit of it shows that."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import rnnscope as rs

SCRIPT = Path(__file__).parents[1] / "tutorial" / "brackets.py"


@pytest.fixture(scope="module")
def brackets() -> Any:
    spec = importlib.util.spec_from_file_location("brackets", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_the_depths_are_those_of_the_brackets(brackets: Any) -> None:
    symbols, depths = brackets.sentences(20, 30, seed=0)
    for row, expected in zip(symbols.tolist(), depths.tolist(), strict=True):
        steps = [{"(": 1, ")": -1}.get(brackets.SYMBOLS[k], 0) for k in row]
        assert list(itertools.accumulate(steps)) == expected
        assert min(expected) >= 0
        assert max(expected) <= brackets.DEEPEST


def test_the_committed_weights_count(brackets: Any) -> None:
    assert brackets.WEIGHTS.stat().st_size < 50_000
    model = brackets.load()
    assert brackets.accuracy(model) > 0.995
    assert brackets.accuracy(model, length=200, seed=3) > 0.99  # longer than it was trained on


def test_the_script_trains_such_a_layer(brackets: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = brackets.train(steps=600)
    assert "loss" in capsys.readouterr().out
    assert brackets.accuracy(model) > 0.9


def test_one_unit_counts_and_an_edit_of_it_makes_the_model_miscount(brackets: Any) -> None:
    model = brackets.load()
    symbols, depths = brackets.sentences(count=300, length=60, seed=2)
    tr = rs.trace(model.lstm, brackets.one_hot(symbols))
    c = tr["c"][0, 0].double()
    at, later = 20, slice(25, 40)
    room = (depths[:, at] > 0) & (depths[:, at:].amax(1) < brackets.DEEPEST)
    assert int(room.sum()) > 100
    counts: list[int] = []
    for unit in range(brackets.HIDDEN):
        pair = torch.stack([c[..., unit].flatten(), depths.flatten().double()])
        step = float(torch.cov(pair)[0, 1] / pair[1].var())
        edited = tr.rerun(rs.Edit("c", layer=0, time=at, unit=unit, add=step))
        said = model.head(edited.output).squeeze(-1).round()[room, later]
        more = said - depths[room, later]
        if float((more == 1).float().mean()) > 0.98:
            counts.append(unit)
            assert float(torch.corrcoef(pair)[0, 1]) > 0.99
        else:
            assert float((more == 0).float().mean()) > 0.98  # forgotten
    assert len(counts) == 1
