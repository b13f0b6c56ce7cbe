"""compare: a candidate against a reference layer; what differs first, and why."""

from __future__ import annotations

import sys
import threading
import time as clock
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope._compare.backward.request import (
    RecordedGradients,
    Request,
    gradient_verdict,
    recorded_ratio,
    without_gradients,
)
from rnnscope._compare.candidate.callable import OfCalls
from rnnscope._compare.candidate.inputs import given_inputs, unlike_its_calls
from rnnscope._compare.candidate.recorded import OfArrays
from rnnscope._compare.candidate.subject import Subject, dtype_of
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.candidate.timeout import Interruption, limit
from rnnscope._compare.deciding import Decision, Settings
from rnnscope._compare.foreign import layer_of, note_on
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.observed import UNIT
from rnnscope._compare.model.steps import worst_step
from rnnscope._compare.verdict import Verdict
from rnnscope._compare.work import SECONDS
from rnnscope._escaping import printable
from rnnscope._layers.adapter import Cells, adapter_of, checked_cells
from rnnscope._layers.adopt import adopt
from rnnscope.errors import CandidateError, DtypeError, NotRecurrentError, RefusedError, ShapeError

__all__ = ["assert_agrees", "compare", "ratio_to_rounding"]

LONGEST = 1e8
"""Seconds above which no call need be watched."""


def compare(
    candidate: Any,
    reference: nn.Module,
    x: Any = None,
    initial: Any = None,
    *,
    lengths: Any = None,
    builder: bool | None = None,
    axes: str | None = None,
    seed: int = 0,
    within: float | None = None,
    effort: float = 1.0,
    timeout: float | None = 600.0,
    cells: Cells | None = None,
    seconds: float | None = None,
    progress: bool | None = None,
    gradients: bool = False,
    backward: Any = None,
) -> Verdict:
    """Whether a candidate computes what a recurrent layer computes; if not, where it differs
    first and which mistakes explain it to rounding.

    ``candidate`` is a module or function called as the reference is; ``f(x, initial, weights)``,
    given the state dict; a ``builder`` that takes a layer and returns one of these; or numbers
    recorded elsewhere: an array of the output, a mapping of ``output``, ``h_n``, ``c_n`` and
    quantities by name, or the path of a ``.npz`` or ``.npy`` file, with the ``x`` that gave them.
    What is called may return such a mapping too. Where a call has no initial states, a parameter
    for them is given nothing if it has a default, else zeros, never None. ``reference`` is a layer
    of ``torch.nn`` or an ``rnnscope.Recurrent``; or a module of another class, of which ``cells``
    says which cell it computes, as in ``trace``: a layer of that cell stands for it (``weights``
    and a ``builder`` get that one's, under PyTorch's names), once its numbers are those that the
    module returns.

    Without ``x``, inputs are drawn (``seed``) that tell mistakes apart. ``x`` is as the reference
    takes it, ``initial`` too; with ``lengths`` (batch), x is padded. ``axes`` tells those of a
    recorded output, as in "btu" for (batch, time, unit). ``effort`` multiplies the work of the
    search, which is counted: the verdict is the same on every machine, beside any other work.
    ``within`` accepts an approximation on purpose (rounded weights, a fast tanh): the two agree
    where no number of the output and the final states differs by more, and no mistake is named.

    ``gradients=True`` compares the gradients of x, the initial states and the parameters too, by
    autograd through the candidate. ``backward`` is a backward pass that is written by hand,
    ``backward(x, initial, weights, grad_output, grad_final)``, given what the reference takes and
    what reaches its output and final states; it returns gradients by name, {"x": ..., "h_0": ...,
    "weight_ih_l0": ...}, any of them, and those of quantities ("grad.f") at every step. Recorded
    numbers may hold "grad_output" and "grad", a dict of the same names. What is found is
    ``verdict.gradients``.

    Neither model is changed: copies are called, and settings of the process that a call changes are
    put back. A call that takes longer than ``timeout`` seconds (None: any) is interrupted; outside
    the main thread that ends what runs in Python, not what waits or computes in C.

    >>> import torch, rnnscope as rs
    >>> lstm = torch.nn.LSTM(3, 4, bias=False)
    >>> def mine(x, initial, weights):
    ...     h, c = (state[0] for state in initial)
    ...     outputs = []
    ...     for x_t in x:
    ...         a = x_t @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T
    ...         i, f, o, g = a.chunk(4, -1)
    ...         c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    ...         h = o.sigmoid() * c.tanh()
    ...         outputs.append(h)
    ...     return torch.stack(outputs)
    >>> verdict = rs.compare(mine, lstm)
    >>> verdict.agrees, str(verdict.causes[0])
    (False, 'gate_order ifog of all')

    Raises ``NotRecurrentError`` and ``RefusedError`` for a reference that cannot be read,
    ``ShapeError`` and ``DtypeError`` for numbers that fit under no reading, ``DtypeError`` for a
    reference coarser than float32, ``VerificationError`` where it computes another cell than
    ``cells`` says, ``CandidateError`` where the candidate raises or takes too long,
    ``FileError`` for a file that cannot be read, ``ValueError`` for an ``effort``, a ``within`` or
    a ``timeout`` that is no number and a ``seed`` that is no whole number.
    """
    effort = _effort(effort, seconds, 3)
    seed = _whole(seed)
    if within is not None:
        expected = (
            "within must be a number, 0 or more: the largest difference that is accepted, as in "
            "within=0.01"
        )
        within = _number(within, lambda value: 0 <= value < float("inf"), expected)
    if x is None and (initial is not None or not isinstance(lengths, bool | None)):
        raise ShapeError(
            "initial and lengths belong to an x; got none: compare(candidate, layer, x, initial, "
            "lengths=lengths), or lengths=True for padded inputs that are drawn"
        )
    outputs, recorded = without_gradients(candidate)
    gradients_alone = isinstance(outputs, Mapping) and not outputs and recorded is not None
    request = _request(gradients, backward, recorded, _is_recorded(candidate), seed, effort)
    if axes is not None and (not _is_recorded(candidate) or not isinstance(axes, str)):
        raise ShapeError(
            f"axes tells the order of a recorded output's axes, as 'btu'; got {axes!r} for "
            f"{type(candidate).__name__}"
        )
    if not isinstance(reference, nn.Module):
        raise NotRecurrentError(
            f"compare(candidate, reference) takes a recurrent layer of torch.nn as its reference; "
            f"got {type(reference).__name__}"
        )
    if any(parameter.is_meta for parameter in reference.parameters()):
        raise RefusedError(
            "the reference lies on the meta device, which holds no numbers to compare with; build "
            "it on the CPU, or load its weights: layer.load_state_dict(weights, assign=True)"
        )
    notes: list[str] = []
    adapter = adapter_of(reference, checked_cells(cells))
    if adapter is not None:
        module, reference = reference, layer_of(reference, adapter, x, seed)
        notes.append(note_on(module, reference))
    adopted = adopt(reference)
    if adopted.single_step:
        raise ShapeError(
            f"{adopted.kind} makes one step; expected a layer that runs over time, such as "
            f"nn.LSTM, with the same weights"
        )
    if dtype_of(adopted) not in UNIT:
        raise DtypeError(
            f"the reference is {short(dtype_of(adopted))}, too coarse to tell a mistake from "
            f"rounding; expected float32 or float64: compare with copy.deepcopy(layer).float()"
        )
    inputs = None if x is None else given_inputs(adopted, x, initial, lengths)
    if inputs is None and _is_recorded(candidate):
        raise ShapeError("recorded numbers need the x that gave them: compare(numbers, layer, x)")
    with _on_one_thread(), _limited(timeout):
        subject: Subject | None
        if _is_recorded(candidate):
            assert inputs is not None, "recorded numbers come with x"
            subject = OfArrays(outputs, adopted, inputs, axes) if not gradients_alone else None
        else:
            padded = inputs.lengths is not None if inputs is not None else lengths is True
            subject = OfCalls(candidate, reference, inputs, builder, seed, padded)
        verdict = None
        if subject is not None:
            subject.notes += [*notes, *unlike_its_calls(adopted)]
            verdict = Decision(subject, Settings(effort, _teller(progress)), within).verdict()
        if request is None:
            assert verdict is not None, "there are outputs"
            return verdict
        on_gradients = gradient_verdict(request, subject, reference, adopted, inputs, verdict)
        if verdict is None:
            verdict = Verdict(True, 0.0, 0.0, 0.0, on_gradients.dtype, on_gradients.kind)
        agrees = verdict.agrees and on_gradients.agrees
        return replace(verdict, agrees=agrees, gradients=on_gradients)


def assert_agrees(candidate: Any, reference: nn.Module, *args: Any, **options: Any) -> None:
    """Raise ``AssertionError`` with the verdict's text unless ``compare`` finds agreement; takes
    what ``compare`` takes, such as ``within=0.01`` where the candidate is approximate on purpose.

    >>> import torch, rnnscope as rs
    >>> gru = torch.nn.GRU(3, 4)
    >>> rs.assert_agrees(gru, gru)
    """
    __tracebackhide__ = True
    if options.get("seconds") is not None:
        options["effort"] = _effort(options.get("effort", 1.0), options.pop("seconds"), 3)
    verdict = compare(candidate, reference, *args, **options)
    if not verdict:
        raise AssertionError(str(verdict))


def ratio_to_rounding(
    numbers: Mapping[str, Any], reference: nn.Module, x: Tensor, initial: Any, lengths: Any
) -> float:
    """How far recorded numbers, and gradients among them, are from a layer's, relative to what
    rounding allows: above 1 they differ. No cause is searched for."""
    with _on_one_thread():
        outputs, recorded = without_gradients(numbers)
        adopted = adopt(reference)
        inputs = given_inputs(adopted, x, initial, lengths)
        subject = OfArrays(outputs, adopted, inputs, None)
        shown = subject.shown()
        ratio = max(worst(subject.model, shown), worst_step(subject.model, shown))
        if recorded is None or ratio > 1:
            return ratio
        return max(ratio, recorded_ratio(recorded, reference, subject.model, inputs))


_LOCK = threading.RLock()
"""What a candidate may change belongs to the process, so two comparisons do not run at once."""


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """On one thread: sums in another order round otherwise, and small products gain nothing."""
    with _LOCK:
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _limited(seconds: Any) -> Iterator[None]:
    """Every call of the candidate takes so many seconds at most."""
    expected = "timeout must be a number of seconds above 0, or None for any"
    most = None if seconds is None else _number(seconds, lambda value: value > 0, expected)
    try:
        with limit(None if most is None or most > LONGEST else most):
            yield
    except Interruption as error:
        raise CandidateError(str(error)) from error


def _number(value: Any, fits: Callable[[float], bool], expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(float(value)):
        raise ValueError(f"{expected}; got {value!r}")
    return float(value)


def _effort(effort: Any, seconds: Any, level: int) -> float:
    """The effort, also of a caller who gives ``seconds``, ``level`` frames up."""
    times = _number(effort, lambda value: value >= 0, "effort must be a number, 0 or more")
    if seconds is not None:
        expected = "seconds must be a number, 0 or more"
        times = _number(seconds, lambda value: value >= 0, expected) / SECONDS
        warnings.warn(
            f"seconds is deprecated, work is counted: write effort=seconds / {SECONDS:g}, "
            f"here effort={times:.3g}",
            DeprecationWarning,
            stacklevel=level,
        )
    return times


def _whole(seed: Any) -> int:
    try:
        whole = -1 if isinstance(seed, bool) else index(seed)
    except TypeError:
        whole = -1
    if not 0 <= whole < 2**63:
        raise ValueError(f"seed must be a whole number, 0 or more and below 2**63; got {seed!r}")
    return whole


def _request(
    gradients: Any,
    backward: Any,
    recorded: RecordedGradients | None,
    is_recorded: bool,
    seed: int,
    effort: float,
) -> Request | None:
    """What is asked of gradients; None where nothing is."""
    if not isinstance(gradients, bool):
        raise ValueError(
            f"gradients must be True or False; got {gradients!r}. A backward pass of your own is "
            f"backward=my_backward, recorded gradients stand under 'grad' beside the output"
        )
    if backward is not None and (gradients or recorded is not None):
        raise ValueError(
            "of a backward pass and other gradients one can be compared at a time: leave out "
            "gradients=True, or 'grad', beside backward="
        )
    if gradients and is_recorded and recorded is None:
        raise ValueError(
            "gradients=True needs gradients in what was recorded: {'output': y, 'grad_output': g, "
            "'grad': {'x': dx, 'weight_ih_l0': dW, ...}}"
        )
    if backward is None and recorded is None and not gradients:
        return None
    return Request(backward, recorded, seed, effort)


def _is_recorded(candidate: Any) -> bool:
    if isinstance(candidate, Tensor | np.ndarray | Mapping | str | Path):
        return True
    return isinstance(candidate, tuple | list) and not callable(candidate)


def _teller(progress: bool | None) -> Callable[[str], None] | None:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    started = clock.monotonic()

    def tell(text: str) -> None:
        if clock.monotonic() - started > 2:
            print(printable(f"rnnscope compare: {text} ..."), file=sys.stderr)

    return tell
