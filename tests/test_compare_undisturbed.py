"""What a candidate changes is put back, and what it does ends: every setting of one list."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._compare.candidate.sandbox import SETTINGS

# pytest tells of a thread that ends by SystemExit, which Python lets end in silence
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

Change = Callable[[], Any]


def trap(*_: Any) -> None:
    pass


def enter(context: Any) -> Change:
    """A context that is entered and not left; it is kept, for some end with their last name."""

    def change() -> None:
        ENTERED.append(context())
        ENTERED[-1].__enter__()

    return change


ENTERED: list[Any] = []
TINY = torch.tensor(1e-310, dtype=torch.float64)


def mask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def shower() -> Any:
    return vars(warnings).get("_showwarnmsg_impl")


def numeric() -> str:
    return locale.setlocale(locale.LC_NUMERIC)


# By the setting's name: what changes it, and what tells whether it is changed.
CHANGES: dict[str, list[tuple[Change, Callable[[], Any]]]] = {
    "the alarm": [
        (lambda: signal.setitimer(signal.ITIMER_REAL, 1000), lambda: signal.alarm(0)),
    ],
    "signal handlers": [
        (lambda: signal.signal(signal.SIGUSR1, trap), lambda: signal.getsignal(signal.SIGUSR1)),
        (lambda: signal.signal(signal.SIGINT, trap), lambda: signal.getsignal(signal.SIGINT)),
    ],
    "torch's modes and default device": [
        (lambda: torch.set_default_device("meta"), lambda: torch.zeros(1).device),
        (enter(lambda: torch.device("meta")), lambda: torch.zeros(1).device),
    ],
    "inference mode": [(enter(torch.inference_mode), lambda: torch.zeros(1).is_inference())],
    "whether gradients are kept": [
        (lambda: torch.set_grad_enabled(not torch.is_grad_enabled()), torch.is_grad_enabled),
    ],
    "autocast": [
        (
            enter(lambda: torch.autocast("cpu", torch.bfloat16)),
            lambda: (torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
        ),
        (
            lambda: torch.set_autocast_dtype("cpu", torch.half),
            lambda: torch.get_autocast_dtype("cpu"),
        ),
        (lambda: torch.set_autocast_cache_enabled(False), torch.is_autocast_cache_enabled),
    ],
    "anomaly mode": [
        (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    ],
    "torch's default dtype": [
        (lambda: torch.set_default_dtype(torch.float64), lambda: torch.zeros(1).dtype),
    ],
    "torch's threads": [(lambda: torch.set_num_threads(7), torch.get_num_threads)],
    "deterministic algorithms": [
        (
            lambda: torch.use_deterministic_algorithms(True, warn_only=True),
            lambda: torch.get_deterministic_debug_mode(),
        ),
    ],
    "the precision of products": [
        (
            lambda: torch.set_float32_matmul_precision("medium"),
            torch.get_float32_matmul_precision,
        ),
    ],
    "cuDNN": [
        (
            lambda: setattr(torch.backends.cudnn, "benchmark", True),
            lambda: torch.backends.cudnn.benchmark,
        ),
    ],
    "oneDNN": [
        (
            lambda: setattr(torch.backends.mkldnn, "enabled", False),
            lambda: torch.backends.mkldnn.enabled,
        ),
    ],
    "denormal numbers": [
        # as a text: where such numbers are zero, they are so in comparisons too
        (lambda: torch.set_flush_denormal(True), lambda: str(float(TINY / 2))),
    ],
    "whether torch warns always": [
        (lambda: torch.set_warn_always(True), torch.is_warn_always_enabled),
    ],
    "torch's print options": [
        (lambda: torch.set_printoptions(precision=1), lambda: str(torch.tensor(0.123456))),
    ],
    "hooks of all modules": [
        (
            lambda: nn.modules.module.register_module_forward_hook(lambda m, a, out: out + 1),
            lambda: float(nn.Identity()(torch.zeros(()))),
        ),
    ],
    "random numbers": [
        (lambda: torch.rand(3), lambda: torch.get_rng_state().numpy().tobytes()),
        (lambda: np.random.rand(3), lambda: np.random.get_state()[2]),
        (lambda: random.random(), lambda: hash(random.getstate())),
    ],
    "NumPy's errors": [(lambda: np.seterr(all="raise"), np.geterr)],
    "NumPy's call for errors": [(lambda: np.seterrcall(trap), np.geterrcall)],
    "NumPy's print options": [
        (lambda: np.set_printoptions(precision=1), lambda: str(np.array([0.123456]))),
    ],
    "decimal numbers": [
        (lambda: setattr(decimal.getcontext(), "prec", 3), lambda: str(decimal.Decimal(1) / 7)),
    ],
    "warnings": [
        (lambda: warnings.simplefilter("ignore"), lambda: warnings.filters[0]),
        (enter(lambda: warnings.catch_warnings(record=True)), shower),
    ],
    "logging": [(lambda: logging.disable(99), lambda: logging.getLogger().isEnabledFor(50))],
    "the level of logging": [
        (lambda: logging.getLogger().setLevel(99), lambda: logging.getLogger().isEnabledFor(50)),
    ],
    "the working directory": [(lambda: os.chdir("/"), os.getcwd)],
    "the environment": [
        (lambda: os.environ.update(RNNSCOPE_TEST="1"), lambda: os.getenv("RNNSCOPE_TEST")),
        (lambda: os.environ.pop("PATH"), lambda: os.getenv("PATH")),
    ],
    "the mask of new files": [(lambda: os.umask(0o777), mask)],
    "the locale": [
        (lambda: locale.setlocale(locale.LC_NUMERIC, "C.UTF-8"), numeric),
    ],
    "sys.path": [
        (lambda: sys.path.insert(0, "/nowhere"), lambda: list(sys.path)),
        (lambda: setattr(sys, "path", ["/nowhere"]), lambda: list(sys.path)),
    ],
    "sys.argv": [(lambda: sys.argv.append("--nothing"), lambda: list(sys.argv))],
    "standard streams": [(lambda: setattr(sys, "stdout", sys.stderr), lambda: sys.stdout)],
    "how deep calls go": [(lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit)],
    "how threads take turns": [(lambda: sys.setswitchinterval(1.0), sys.getswitchinterval)],
    "the collection of cycles": [(gc.disable, gc.isenabled)],
    "the timeout of sockets": [(lambda: socket.setdefaulttimeout(1), socket.getdefaulttimeout)],
}


def test_every_setting_of_the_list_is_changed_here() -> None:
    assert sorted(CHANGES) == sorted(setting.name for setting in SETTINGS)


@pytest.fixture
def settings() -> Any:
    """Those of the process, put back though a test fails."""
    before = [(setting, setting.read()) for setting in SETTINGS]
    yield
    for setting, value in before:
        setting.write(value)


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize(
    ("change", "read"),
    [pytest.param(*pair, id=name) for name, pairs in CHANGES.items() for pair in pairs],
)
def test_what_a_candidate_changes_is_put_back(
    change: Change, read: Callable[[], Any], raises: bool, settings: None
) -> None:
    layer, changed = nn.GRU(2, 3), []
    before = read()

    def candidate(x: Tensor, h: Any = None) -> Any:
        found = layer(x, h)
        inside = read()
        change()
        changed.append(read() != inside or read() != before)
        if raises:
            raise ValueError("after the change")
        return found

    if raises:
        with pytest.raises(rs.CandidateError, match="after the change"):
            rs.compare(candidate, layer)
    else:
        assert rs.compare(candidate, layer)
    after = read()
    assert after == before
    assert any(changed)


def test_autocast_that_a_candidate_leaves_on_changes_no_verdict(settings: None) -> None:
    """Also where it is in the making of a candidate that it is entered."""
    layer = nn.GRU(3, 4)

    def build(inner: nn.GRU) -> Any:
        enter(lambda: torch.autocast("cpu", torch.bfloat16))()
        return lambda x, h=None: inner(x, h)

    verdict = rs.compare(build, layer, builder=True)
    assert verdict, str(verdict)
    assert not torch.is_autocast_enabled("cpu")


# --- what does not end ----------------------------------------------------------------------------


def loops(x: Any, h: Any = None) -> Any:
    while True:
        pass


def sleeps(x: Any, h: Any = None) -> Any:
    time.sleep(1000)


def catches(x: Any, h: Any = None) -> Any:
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


def waits_for_a_thread(x: Any, h: Any = None) -> Any:
    thread = threading.Thread(target=loops, args=(x,))
    thread.start()
    thread.join()


@pytest.mark.parametrize("candidate", [loops, sleeps, catches, waits_for_a_thread])
def test_a_candidate_that_does_not_end_is_interrupted(candidate: Any) -> None:
    before = set(threading.enumerate())
    match = rf"{candidate.__name__} was still running after 0\.2 seconds.*timeout=2;"
    with pytest.raises(rs.CandidateError, match=match):
        rs.compare(candidate, nn.GRU(3, 4), timeout=0.2)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    for thread in set(threading.enumerate()) - before:
        thread.join(60)  # one that runs on would keep the process from ending
        assert not thread.is_alive()


def test_a_builder_and_a_copy_that_do_not_end_are_interrupted() -> None:
    class Endless(nn.GRU):
        def __deepcopy__(self, memo: Any) -> Any:
            loops(memo)

    for candidate, options in ((loops, {"builder": True}), (Endless(3, 4), {})):
        with pytest.raises(rs.CandidateError, match="was still running after"):
            rs.compare(candidate, nn.GRU(3, 4), timeout=0.2, **options)  # type: ignore[arg-type]


def test_a_loop_is_interrupted_in_another_thread_and_beside_a_timer_of_the_caller() -> None:
    errors: list[str] = []

    def compare() -> None:
        try:
            rs.compare(loops, nn.GRU(3, 4), timeout=0.2)
        except rs.CandidateError as error:
            errors.append(str(error))

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGALRM, trap)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        compare()
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        assert signal.getsignal(signal.SIGALRM) == trap
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(errors) == 2
    assert all("was still running after 0.2 seconds" in error for error in errors)


PROFILED = """
import cProfile, signal, threading, time
import torch, rnnscope as rs

def loops(x, h=None):
    while True:
        pass

def waits(x, h=None):
    threading.Thread(target=time.sleep, args=(0.5,)).start()
    loops(x, h)

def compare(candidate):
    try:
        rs.compare(candidate, torch.nn.GRU(3, 4), timeout=0.1)
    except rs.CandidateError:
        pass

def profiled():
    return sum(map(abs, range(5)))

signal.signal(signal.SIGALRM, signal.SIG_IGN)
for candidate in loops, waits:
    for timer in 0, 1000:  # with a timer of the caller a thread interrupts, as in other threads
        signal.setitimer(signal.ITIMER_REAL, timer)
        compare(candidate)
        print(cProfile.Profile().runcall(profiled), flush=True)
    thread = threading.Thread(target=compare, args=(candidate,))
    thread.start()
    thread.join()
    print(cProfile.Profile().runcall(profiled), flush=True)
"""


def test_a_profiler_runs_after_an_interruption() -> None:
    """With one pending, Python 3.11 never leaves the first step of a function that is profiled."""
    command = [sys.executable, "-c", PROFILED]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.stdout, result.returncode) == ("10\n" * 6, 0), result.stderr


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1", True], ids=str)
def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0, or None"):
        rs.compare(nn.GRU(3, 4), nn.GRU(3, 4), timeout=timeout)


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e9, 50])
def test_a_timeout_that_is_not_reached_changes_nothing(timeout: Any) -> None:
    layer = nn.GRU(3, 4)
    assert str(rs.compare(layer, layer, timeout=timeout)) == str(rs.compare(layer, layer))


SCRIPT = """
import os, sys, threading
import torch, rnnscope as rs
torch.manual_seed(0)
layer = torch.nn.LSTM(3, 4)

def forks(x, h=None):
    output = layer(x, h)
    process = os.fork()
    if process:
        os.waitpid(process, 0)
    elif sys.argv[1] == "raises":
        raise ValueError
    return output

def threads(x, h=None):
    found = []
    thread = threading.Thread(target=lambda: found.append(layer(x, h)))
    thread.start()
    thread.join()
    return found[0]

print(bool(rs.compare(forks, layer)), bool(rs.compare(threads, layer)), flush=True)
"""


@pytest.mark.parametrize("child", ["returns", "raises"])
def test_a_candidate_that_forks_or_starts_threads_is_compared_once(child: str) -> None:
    command = [sys.executable, "-c", SCRIPT, child]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.stdout, result.returncode) == ("True True\n", 0), result.stderr
