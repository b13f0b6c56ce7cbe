"""What all tests share: how Hypothesis runs, and a random state of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from judges import lacks_kernel

from rnnscope._kernels import engine

pytest_plugins = ["browsing", "watched"]  # the fixtures browser, page, classes_as_before

# deadlines measure the machine, not the code; the same examples in every run, so that a failure in
# CI is the same failure elsewhere
settings.register_profile(
    "rnnscope", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("rnnscope")

SLOWEST = (
    "test_browser",
    "test_compare_mutations",
    "test_compare_alarms",
    "test_trace",
    "test_alarms",
)
"""Files whose tests take longest; they begin first, so that no worker waits at the end."""


LONGER = frozenset((Path(__file__).parent / "longer.txt").read_text("utf-8").splitlines())
"""Tests that only `make test-all` runs: those that take long, of which others of a kind stay."""


@pytest.hookimpl(tryfirst=True)  # before the marker chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        name = item.path.stem
        return SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)

    for item in items:
        if item.nodeid.removeprefix("tests/") in LONGER:
            item.add_marker(pytest.mark.slow)
    items.sort(key=turn)


# the tensors are tiny: two threads that wait for each other on a busy machine take ten times longer
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_random_state() -> Iterator[None]:
    """Every test starts from the same random state, and leaves none behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _cold_kernels() -> Iterator[None]:
    """Kernels that a test asks for compute no other test's calls: their last bits differ."""
    warm = set(engine._warm)
    yield
    engine._warm.clear()
    engine._warm.update(warm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Torch hands LSTMs in bfloat16 to oneDNN, which has none for some processors: what the layer
    itself cannot compute there, no test can judge."""
    try:
        return (yield)
    except Exception as error:  # compare tells it in an error of its own
        if lacks_kernel(error):
            pytest.skip("oneDNN has no LSTM in bfloat16 for this processor")
        raise
