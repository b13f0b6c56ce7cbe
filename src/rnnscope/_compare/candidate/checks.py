"""What can be found out about a candidate without a catalogue of mistakes.

Calls of the candidate are compared with other calls of it, so no reference is needed: the same
input twice, one row alone, a shorter sequence, a changed last step. In a layer that is chaotic,
numbers that differ by rounding drift apart, so each comparison allows what a change of x in its
last bits does to the output at that step, and what rounding allows the reference there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rnnscope._compare.candidate.call import Candidate
from rnnscope._compare.candidate.returned import Answer
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.model.model import Inputs
from rnnscope._record.difference import absolute_difference

__all__ = [
    "Checks",
    "CallFinding",
    "ParameterDifference",
    "compare_parameters",
    "repeats",
    "run_checks",
]

MOST_ROWS = 8
"""Rows that are run alone."""
AMPLIFIED = 100.0
"""How much further than a change of x by a few last bits other roundings may lead."""


@dataclass(frozen=True)
class CallFinding:
    """Something that a recurrent layer does not do.

    ``name`` is "random", "dropout", "kept", "batch", "causal" or "prefix"; ``largest`` is the
    largest difference, ``time`` and ``batch`` the first place where there is one.
    """

    name: str
    sentence: str
    largest: float
    time: int
    batch: int


@dataclass(frozen=True)
class Checks:
    """What was found; None where nothing was. ``skipped`` says in sentences what could not be
    checked, and why."""

    repeats: CallFinding | None = None
    depends_on_batch: CallFinding | None = None
    causal: CallFinding | None = None
    prefix: CallFinding | None = None
    skipped: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[CallFinding, ...]:
        """All that was found."""
        results = (self.repeats, self.depends_on_batch, self.causal, self.prefix)
        return tuple(finding for finding in results if finding is not None)


@dataclass
class _CheckRun:
    """The calls of one candidate, with the first answer to compare with."""

    candidate: Candidate
    call: Callable[[Inputs], Answer]
    inputs: Inputs
    tolerance: float
    first: Tensor
    skipped: list[str]
    allowed: Tensor

    @classmethod
    def of(
        cls,
        candidate: Candidate,
        call: Callable[[Inputs], Answer],
        inputs: Inputs,
        tolerance: float,
    ) -> _CheckRun:
        """With the first call made; raises what it raises."""
        first = call(inputs).output.double()
        allowed = first.new_full((first.shape[0],), tolerance)
        return cls(candidate, call, inputs, tolerance, first, [], allowed)

    def output(self, inputs: Inputs, description: str) -> Tensor | None:
        """The output for other inputs, or None where it could not be called."""
        try:
            return self.call(inputs).output.double()
        except Exception as error:
            self.skipped.append(f"not checked with {description}: {_line(error)}")
            return None

    def differs(self, output: Tensor | None, expected: Tensor, allowed: Tensor) -> _Place | None:
        """The first place that differs by more than is allowed; ``allowed`` is (time)."""
        if output is None:
            return None
        if output.shape != expected.shape:
            self.skipped.append(
                f"not compared: outputs of shapes {tuple(output.shape)} and {tuple(expected.shape)}"
            )
            return None
        apart = (
            absolute_difference(output, expected).amax(-1)
            if output.numel()
            else output.new_zeros(0, 0)
        )
        beyond = apart > allowed[:, None]
        if not bool(beyond.any()):
            return None
        time, row = (int(k) for k in beyond.nonzero()[0])
        return _Place(float(apart[beyond].max()), time, row)


@dataclass(frozen=True)
class _Place:
    largest: float
    time: int
    batch: int


def run_checks(
    candidate: Candidate,
    call: Callable[[Inputs], Answer],
    inputs: Inputs,
    tolerance: float,
    grown: Tensor | None = None,
) -> Checks:
    """What the candidate does that no recurrent layer does; nothing is raised.

    ``call`` calls the candidate; ``inputs`` hold several steps and rows; ``tolerance`` is 64
    roundings, by which two outputs may lie apart at any step, ``grown`` (time) what roundings grow
    to in the reference, inf where that is of no use.
    """
    inputs = replace(inputs, lengths=None)
    stream = candidate.stream
    try:
        run = _CheckRun.of(candidate, call, inputs, tolerance)
    except Exception as error:
        return Checks(skipped=(f"not checked: {_line(error)}",))
    skipped = run.skipped
    repetition = _repeats(run, stream)
    if repetition is not None:
        skipped.append("its dependence on batch, time and length: calls cannot be compared")
        return Checks(repeats=repetition, skipped=tuple(skipped))
    run.allowed = run.allowed + AMPLIFIED * _sensitivity(run)
    if grown is not None:
        run.allowed = torch.maximum(run.allowed, grown)
    batch = _depends_on_batch(run)
    causal = _causal(run)
    prefix = _prefix(run)
    return Checks(None, batch, causal, prefix, tuple(skipped))


def repeats(
    candidate: Candidate,
    call: Callable[[Inputs], Answer],
    inputs: Inputs,
    tolerance: float,
) -> CallFinding | None:
    """Whether calls with the same input differ, and how; as ``run_checks`` finds it."""
    stream = candidate.stream
    try:
        run = _CheckRun.of(candidate, call, replace(inputs, lengths=None), tolerance)
    except Exception:
        return None  # where it cannot be called there is nothing to compare
    return _repeats(run, stream)


def _repeats(run: _CheckRun, stream: object) -> CallFinding | None:
    """Three calls: the second is given the first one's random numbers, the third other ones."""
    run.candidate.stream = stream
    second = run.output(run.inputs, "the same input again")
    place = run.differs(second, run.first, run.allowed)
    if place is not None:
        third = run.output(run.inputs, "the same input again")
        settles = second is not None and run.differs(third, second, run.allowed) is None
        explanation = (
            " (the first call differs from all later ones)"
            if settles
            else ", or draws random numbers of its own (every call differs from the one before)"
        )
        return CallFinding(
            "kept",
            f"called again with the same input and the same random numbers it returns other "
            f"numbers, {_by(place)}: it keeps something from call to call, such as a hidden state "
            f"that is not reset{explanation}",
            *_where(place),
        )
    third = run.output(run.inputs, "the same input again")
    place = run.differs(third, run.first, run.allowed)
    if place is None:
        return None
    dropout = _dropout(run.candidate)
    return CallFinding(
        "dropout" if dropout else "random",
        f"called again with the same input it returns other numbers, {_by(place)}, and the same "
        f"ones with the same random numbers: it draws them{dropout}",
        *_where(place),
    )


def _dropout(candidate: Candidate) -> str:
    """Where a module that is called drops numbers out."""
    module = candidate.module
    if module is None:
        return ""
    for name, submodule in module.named_modules():
        p = getattr(submodule, "dropout", None) if isinstance(submodule, nn.RNNBase) else None
        if isinstance(submodule, nn.modules.dropout._DropoutNd):
            p = submodule.p
        if submodule.training and p:
            where = f"its {name} ({type(submodule).__name__})" if name else "it"
            return f" for dropout: {where} has p={p} and is in training mode; call .eval()"
    return ""


def _sensitivity(run: _CheckRun) -> Tensor:
    """(time): how far a change of x and the initial states in their last bits moves the output."""
    x = run.inputs.x
    if not x.is_floating_point():
        return run.allowed.new_zeros(run.allowed.shape)
    generator = torch.Generator("cpu").manual_seed(0)

    def changed(value: Tensor) -> Tensor:
        signs = (
            torch.randint(0, 2, value.shape, generator=generator, device="cpu").to(value) * 2 - 1
        )
        return value * (1 + run.tolerance / 8 * signs)

    initial = {name: changed(value) for name, value in run.inputs.initial.items()}
    moved = run.output(
        replace(run.inputs, x=changed(x), initial=initial), "x changed in its last bits"
    )
    if moved is None or moved.shape != run.first.shape:
        return run.allowed.new_zeros(run.allowed.shape)
    return absolute_difference(moved, run.first).amax((-1, -2))


def _rows(inputs: Inputs, row: int) -> Inputs:
    rows = slice(row, row + 1)
    initial = {name: value[:, :, rows] for name, value in inputs.initial.items()}
    return replace(inputs, x=inputs.x[:, rows], initial=initial)


def _depends_on_batch(run: _CheckRun) -> CallFinding | None:
    if run.inputs.batch < 2:
        run.skipped.append("not checked whether a row depends on the others: there is one row")
        return None
    worst: _Place | None = None
    for row in range(min(run.inputs.batch, MOST_ROWS)):
        before = len(run.skipped)
        alone = run.output(_rows(run.inputs, row), "one row alone")
        place = run.differs(alone, run.first[:, row : row + 1], run.allowed)
        if place is not None and (worst is None or place.largest > worst.largest):
            worst = _Place(place.largest, place.time, row)
        if len(run.skipped) > before:
            break
    if worst is None:
        return None
    return CallFinding(
        "batch",
        f"row {worst.batch} alone gives other numbers than in the batch, "
        f"{_up_to(worst.largest)}, first at time={worst.time}: the output of a row depends on "
        f"{_on(run, worst.batch)}",
        *_where(worst),
    )


def _on(run: _CheckRun, row: int) -> str:
    """What the output of a row depends on, as a batch tells that holds it many times."""
    row_inputs = _rows(run.inputs, row)
    count = run.inputs.batch
    initial = {
        name: value.expand(-1, -1, count, -1).contiguous()
        for name, value in row_inputs.initial.items()
    }
    x = row_inputs.x.expand(-1, count, -1).contiguous()
    output = run.output(replace(row_inputs, x=x, initial=initial), "one row many times")
    if output is None or output.shape != run.first.shape:
        return "the other rows"
    same = slice(row, row + 1)
    if run.differs(output[:, same], run.first[:, same], run.allowed) is not None:
        return "the other rows"
    everywhere = output[:, same].expand_as(output)
    alike = run.differs(output, everywhere, run.allowed) is None
    return "how many rows there are" if alike else "its place among the rows"


def _causal(run: _CheckRun) -> CallFinding | None:
    """Whether a step of x that is still to come is known already."""
    directions, steps = run.candidate.structure.directions, run.inputs.steps
    if len(directions) > 1 or steps < 2:
        return None
    reverse = directions == ("reverse",)
    changed = 0 if reverse else steps - 1
    kept = slice(1, None) if reverse else slice(0, steps - 1)
    x = run.inputs.x.clone()
    x[changed] = torch.where(x[changed] > 0, -1.0, 1.0) * (1 + x[changed].abs().nan_to_num(0.0))
    output = run.output(replace(run.inputs, x=x), "a changed last step")
    if output is None or output.shape != run.first.shape:
        return None
    place = run.differs(output[kept], run.first[kept], run.allowed[kept])
    if place is None:
        return None
    start = 1 if reverse else 0
    time = place.time + start
    place = _Place(place.largest, time, place.batch)
    return CallFinding(
        "causal",
        f"another x at time={changed} changes the output at time={time} already, "
        f"{_up_to(place.largest)}: a layer that runs {'from the end' if reverse else 'forward'} "
        f"cannot know it {'until' if reverse else 'before'} time={changed}",
        *_where(place),
    )


def _prefix(run: _CheckRun) -> CallFinding | None:
    """Whether the outputs so far are those of the sequence so far."""
    directions, steps = run.candidate.structure.directions, run.inputs.steps
    if len(directions) > 1 or steps < 2:
        return None
    reverse = directions == ("reverse",)
    for count in sorted({max(1, steps // 2), steps - 1}):
        kept = slice(steps - count, steps) if reverse else slice(0, count)
        description = f"the {'last' if reverse else 'first'} {count} of {steps} steps"
        output = run.output(replace(run.inputs, x=run.inputs.x[kept]), description)
        place = run.differs(output, run.first[kept], run.allowed[kept])
        if place is not None:
            time = place.time + (kept.start or 0)
            return CallFinding(
                "prefix",
                f"{description} alone give other outputs than in the whole sequence, "
                f"{_up_to(place.largest)}, first at time={time}: the output depends on how many "
                f"steps there are",
                place.largest,
                time,
                place.batch,
            )
    return None


def _up_to(largest: float) -> str:
    return f"by up to {largest:.2g}" if math.isfinite(largest) else "NaN or infinite on one side"


def _by(place: _Place) -> str:
    return f"{_up_to(place.largest)}, first at time={place.time}, batch {place.batch}"


def _where(place: _Place) -> tuple[float, int, int]:
    return place.largest, place.time, place.batch


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# parameters ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterDifference:
    """A parameter that candidate and reference both have: ``name`` as the candidate calls it,
    ``largest`` the largest difference, ``places`` how many of ``count`` numbers differ;
    ``rounded`` the type of which they are the reference's numbers, ``holds`` what it holds instead
    of its own, each or empty."""

    name: str
    largest: float
    places: int
    count: int
    rounded: str = ""
    holds: str = ""

    @property
    def differs(self) -> bool:
        """Whether any number does."""
        return self.places > 0

    @property
    def sentence(self) -> str:
        """What is said of it."""
        if not self.differs:
            return f"{self.name} is the reference's"
        if self.holds:
            return f"{self.name} holds {self.holds}"
        if self.rounded:
            return f"{self.name} holds the reference's numbers rounded to {self.rounded}"
        how = f"{self.places} of {self.count} numbers, by up to {self.largest:.2g}"
        if self.places == self.count and self.count > 1:
            how += " (was it ever loaded?)"
        return f"{self.name} differs from the reference's in {how}"


def compare_parameters(module: nn.Module, layer: nn.Module) -> list[ParameterDifference]:
    """The parameters of the same name and shape in both, in the layer's order.

    A name may stand behind those of the modules around it (``encoder.lstm.weight_ih_l0``), if it
    does so once. Numbers are compared in the candidate's precision.

    >>> lstm = nn.LSTM(2, 3)
    >>> [each.differs for each in compare_parameters(lstm, lstm)]
    [False, False, False, False]
    """
    tensors: Mapping[str, Tensor] = {
        **dict(module.named_buffers()),
        **dict(module.named_parameters()),
    }
    differences = []
    for name, parameter in layer.named_parameters():
        ends = [path for path in tensors if path == name or path.endswith(f".{name}")]
        chosen = name if name in ends else ends[0] if len(ends) == 1 else None
        if chosen is None or tensors[chosen].shape != parameter.shape:
            continue
        numbers = tensors[chosen].detach().cpu()
        if numbers.is_meta or parameter.is_meta or not numbers.is_floating_point():
            continue
        right = parameter.detach().cpu()
        apart = absolute_difference(numbers.double(), right.to(numbers.dtype).double())
        largest = float(apart.max()) if apart.numel() else 0.0
        rounded = next((short(low) for low in LOWER if _is_rounded(numbers, right, low)), "")
        places, count = int((apart > 0).sum()), apart.numel()
        instead = _instead(numbers, name, layer) if places else ""
        differences.append(ParameterDifference(chosen, largest, places, count, rounded, instead))
    return differences


def _instead(value: Tensor, name: str, layer: nn.Module) -> str:
    """What stands in place of a parameter, if that is zeros or another one; else empty."""
    if not bool(value.any()):
        return "zeros"
    for another, parameter in layer.named_parameters():
        same = another != name and parameter.shape == value.shape and value.numel() > 1
        if same and torch.equal(value, parameter.detach().cpu().to(value.dtype)):
            return f"{another}'s numbers"
    return ""


LOWER = (torch.float32, torch.float16, torch.bfloat16)


def _is_rounded(value: Tensor, right: Tensor, dtype: torch.dtype) -> bool:
    """Whether these are the numbers of ``right`` as ``dtype`` holds them."""
    finer = torch.finfo(dtype).eps > torch.finfo(right.dtype).eps
    return finer and torch.equal(value.double(), right.to(dtype).double())
