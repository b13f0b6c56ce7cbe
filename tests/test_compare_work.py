"""A verdict depends on no clock, no load, no number of threads and no order of a set."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli_compare import Case, run
from torch import nn

import rnnscope as rs
from rnnscope._compare.work import EFFORT

SCRIPT = """
import sys
import torch, rnnscope as rs
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
layer, wrong = (torch.nn.GRU(3, 4, bidirectional=True) for _ in range(2))
wrong.load_state_dict(layer.state_dict())
with torch.no_grad():
    wrong.weight_hh_l0.copy_(torch.cat([block.T for block in wrong.weight_hh_l0.chunk(3)]))
    wrong.bias_ih_l0_reverse.zero_()
x = torch.randn(9, 3, 3)
far = torch.nn.GRU(3, 4, bidirectional=True)
for candidate, effort in ((wrong(x)[0].detach(), 1.0), (far(x)[0].detach(), 0.05)):
    verdict = rs.compare(candidate, layer, x, effort=effort)
    print(verdict, verdict.to_dict(), verdict.work)
assert torch.get_num_threads() == int(sys.argv[1])
"""


@pytest.fixture
def burning() -> Iterator[None]:
    """Another process that takes all the time that it gets."""
    loop = [sys.executable, "-c", "while True: pass"]
    process = subprocess.Popen(loop)
    yield
    process.kill()
    process.wait()


def text(threads: int, hashing: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hashing), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", SCRIPT, str(threads)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_same_text_and_work_beside_other_work_and_on_more_threads(burning: None) -> None:
    first = text(threads=1, hashing=1)
    assert "Cause   two mistakes together" in first
    assert "searches further" in first
    assert first == text(threads=2, hashing=2)


def test_comparisons_in_several_threads_are_those_of_one() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(6, 3, 3)
    output = layer(x)[0].detach().flip(-1)
    alone = rs.compare(output, layer, x)
    texts: list[Any] = []

    def compare() -> None:
        verdict = rs.compare(output, layer, x)
        texts.append((str(verdict), verdict.work, torch.get_num_threads()))

    threads = [threading.Thread(target=compare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [(str(alone), alone.work, torch.get_num_threads())] * 2


@pytest.mark.parametrize("raises", [False, True])
def test_one_thread_computes_and_the_number_is_put_back(raises: bool) -> None:
    layer, threads = nn.GRU(3, 4), []

    def candidate(x: Any, h: Any = None) -> Any:
        threads.append(torch.get_num_threads())
        if raises:
            raise ValueError("no")
        return layer(x, h)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        if raises:
            with pytest.raises(rs.CandidateError):
                rs.compare(candidate, layer)
        else:
            assert rs.compare(candidate, layer)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


def test_a_larger_effort_is_suggested_where_it_would_try_more_and_nowhere_else() -> None:
    layer, other = (nn.RNN(2, 2, bias=False) for _ in range(2))
    x = torch.randn(6, 3, 2)
    output = other(x)[0].detach()
    whole = rs.compare(output, layer, x, effort=20)
    assert whole.finished
    assert "searches further" not in str(whole)
    # what has just the work that it needs is not cut
    exact = rs.compare(output, layer, x, effort=(1 + 1e-9) * whole.work / EFFORT)
    assert exact.work == whole.work
    assert str(exact) == str(whole)
    cut = rs.compare(output, layer, x, effort=0.005)
    assert not cut.finished
    assert cut.work < whole.work
    assert "effort=1 searches further" in " ".join(str(cut).split())


def test_seconds_are_deprecated_and_say_what_to_write() -> None:
    layer, x = nn.GRU(3, 4), torch.randn(6, 3, 3)
    output = layer(x)[0].detach()
    with pytest.warns(DeprecationWarning, match=r"effort=seconds / 6, here effort=0\.5") as told:
        assert rs.compare(output, layer, x, seconds=3)
    assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="effort=seconds / 6") as told:
        rs.assert_agrees(output, layer, x, seconds=3)
    assert told[0].filename == __file__
    with pytest.raises(ValueError, match="seconds must be a number, 0 or more; got '3'"):
        rs.compare(output, layer, x, seconds="3")


def test_the_option_seconds_is_deprecated_and_says_what_to_write(tmp_path: Path) -> None:
    case = Case(tmp_path, "gru")
    good = case.npy(case.layer(case.x)[0])
    with pytest.warns(DeprecationWarning, match=r"write --effort 0\.5"):
        assert run(*case.words, *good, "--seconds", "3").exit_code == 0
    wrong = case.npy(case.layer(case.x)[0] ** 3)
    result = run(*case.words, *wrong, "--effort", "0")
    assert "--effort 1 searches further" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_a_search_that_has_no_work_left_in_a_second_direction_says_so() -> None:
    """Of two directions of a lower layer the first may take what there is."""
    layer = torch.nn.LSTM(5, 7, 2, bidirectional=True, proj_size=3)
    x = torch.randn(6, 4, 5)
    with torch.no_grad():
        output, (h_n, c_n) = layer(x)
    output[-1, 2:] += 0.01  # in no list
    numbers = {"output": output, "h_n": h_n, "c_n": c_n}
    verdict = rs.compare(numbers, layer, x, effort=0.2)
    assert not verdict.agrees
    assert not verdict.causes
    assert verdict.agreement[0] == "rows 0 and 1, not rows 2 and 3"
