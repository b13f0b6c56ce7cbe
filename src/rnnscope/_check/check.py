"""check: whether a machine's own recurrent layers compute their equations, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import index
from typing import Any, TypeVar

import torch

from rnnscope._check.calls import DeviceCall, called, called_without_gradients
from rnnscope._check.dropout import wrong_slope
from rnnscope._check.kernels import (
    KERNELS,
    SIZES,
    Configuration,
    Kernel,
    LayerSizes,
    configurations,
)
from rnnscope._check.report import Failure, KernelReport, MachineReport
from rnnscope._compare import compare
from rnnscope._compare.compare import ratio_to_rounding
from rnnscope.errors import DtypeError, RefusedError, ShapeError

__all__ = ["check"]

Answer = TypeVar("Answer")

DTYPES = (torch.float32, torch.float64)

EFFORT = 0.05
"""Of the search for what is wrong with a kernel."""

LARGEST = 1e9
"""A deviation that is told is no larger, relative to what rounding allows."""


def check(
    device: Any = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    sizes: Iterable[Sequence[int]] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> MachineReport:
    """Whether this machine's ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` compute their equations on a
    device, forward and backward: true where all do; printed, a line per kernel and what differs.

    The layers run on the device, with gradients and without, which are different kernels of torch.
    Every hidden state and every gradient is judged on the CPU in float64, from the numbers that
    came back. ``sizes`` are (input, hidden, batch, time) each, instead of those in which kernels
    have been wrong: batch × time above 65,536, a batch of 110, odd sizes. Stacked, bidirectional,
    projected and packed layers are among them, and dropout in training, whose gradient is compared
    with the slope between two calls with the same masks. ``progress`` is called with each kernel's
    title before it is checked. The random state is left as it was.

    Source of the equations: the documentation of ``torch.nn``.

    >>> import rnnscope as rs
    >>> report = rs.check(sizes=[(3, 4, 2, 5)])
    >>> bool(report)
    True

    Raises ``RefusedError`` for a device that is not there, ``DtypeError`` for numbers coarser than
    float32, ``ShapeError`` for sizes that are not four whole numbers above 0.
    """
    place = _device(device)
    if dtype not in DTYPES:
        raise DtypeError(
            f"check judges float32 and float64; got {dtype}, too coarse to tell a wrong kernel "
            f"from rounding: check(dtype=torch.float32)"
        )
    all_sizes = SIZES if sizes is None else tuple(map(_sizes, sizes))
    if not all_sizes:
        raise ShapeError("sizes is empty; expected (input, hidden, batch, time), as [(3, 4, 2, 5)]")
    reports: list[KernelReport] = []
    with _random_state(place):
        for kernel in KERNELS:
            if progress is not None:
                progress(kernel.title)
            torch.manual_seed(seed)
            reports += _checked(kernel, all_sizes, place, dtype)
    name = str(dtype).removeprefix("torch.")
    return MachineReport(_named(place), name, torch.__version__, tuple(reports))


@dataclass
class _Tally:
    """What is known so far of one kernel."""

    title: str
    count: int = 0
    largest: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def report(self) -> KernelReport:
        return KernelReport(
            self.title, self.count, self.largest, tuple(self.failures), tuple(self.refused)
        )


def _checked(
    kernel: Kernel, all_sizes: Sequence[LayerSizes], device: torch.device, dtype: torch.dtype
) -> list[KernelReport]:
    """One kernel with gradients, and without."""
    training = _Tally(f"{kernel.title}, with gradients")
    inference = _Tally(f"{kernel.title}, without")
    for configuration in configurations(kernel, all_sizes):
        if configuration.dropout:
            ask = partial(wrong_slope, configuration, device, dtype)
            slope = _answer([training], configuration, ask)
            _note_slope(training, configuration, slope)
            continue
        ask_call = partial(called, configuration, device, dtype)
        call = _answer([training, inference], configuration, ask_call)
        if call is None:
            continue
        _judge(training, configuration, call)
        plain = _answer([inference], configuration, partial(called_without_gradients, call))
        if plain is not None:
            _judge(inference, configuration, plain)
    return [tally.report() for tally in (training, inference)]


def _answer(
    tallies: Sequence[_Tally], configuration: Configuration, ask: Callable[[], Answer]
) -> Answer | None:
    """What the device answers; None where it refuses, which is noted with its own reason."""
    try:
        return ask()
    except (RuntimeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        for tally in tallies:
            tally.refused.append(f"{configuration}: {reason}")
        return None


def _judge(tally: _Tally, configuration: Configuration, call: DeviceCall) -> None:
    """Note how far the numbers of a call are off, and what differs."""
    ratio = ratio_to_rounding(call.numbers, call.reference, call.x, call.initial, call.lengths)
    tally.count += 1
    tally.largest = max(tally.largest, min(ratio, LARGEST))
    if not ratio <= 1 and tally.failures:  # the first tells what is wrong
        text = f"differs by {min(ratio, LARGEST):.3g} times what rounding allows"
        tally.failures.append(Failure(str(configuration), text))
    elif not ratio <= 1:
        verdict = compare(
            call.numbers, call.reference, call.x, call.initial, lengths=call.lengths, effort=EFFORT
        )
        tally.failures.append(Failure(str(configuration), str(verdict)))


def _note_slope(tally: _Tally, configuration: Configuration, wrong: str | None) -> None:
    """Note what is wrong with a gradient through dropout; None where the device refused."""
    if wrong is not None:
        tally.count += 1
    if wrong:
        tally.failures.append(Failure(str(configuration), wrong))


# what was asked for ------------------------------------------------------------------------------


def _device(device: Any) -> torch.device:
    """The device, on which a tensor was made."""
    try:
        place = torch.device(device)
        torch.zeros(1, dtype=torch.float32, device=place).add_(1).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RefusedError(
            f"nothing can be computed on device {str(device)!r}: {reason} Expected one that this "
            f"machine has, such as 'cpu', 'cuda' or 'mps'"
        ) from error
    return place


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _sizes(sizes: Sequence[int]) -> LayerSizes:
    try:
        numbers = [-1 if isinstance(number, bool) else index(number) for number in sizes]
    except TypeError:
        numbers = []
    if len(numbers) != 4 or min(numbers) < 1:
        raise ShapeError(
            f"sizes are (input, hidden, batch, time), four whole numbers above 0; got {sizes!r}: "
            f"check(sizes=[(3, 4, 2, 5)])"
        )
    return LayerSizes(*numbers)


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Puts the random state back, of the CPU and of the device."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        yield
