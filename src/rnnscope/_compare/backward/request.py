"""What a caller asks of gradients, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.backward.called import (
    Called,
    backward_function,
    by_autograd,
    by_function,
    takes_masks,
)
from rnnscope._compare.backward.deciding import (
    Trial,
    candidates_own,
    drawn_masks,
    drawn_upstream,
    judged,
    largest_ratio,
)
from rnnscope._compare.backward.received import read_gradients
from rnnscope._compare.backward.verdict import GradientVerdict
from rnnscope._compare.backward.whole import Reached
from rnnscope._compare.candidate.callable import OfCalls
from rnnscope._compare.candidate.inputs import confirming, drawn_inputs
from rnnscope._compare.candidate.recorded import arrays_of, read_array
from rnnscope._compare.candidate.returned import of_state
from rnnscope._compare.candidate.subject import Subject
from rnnscope._compare.candidate.tensors import as_numbers, kind_of
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.verdict import Verdict
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.structure import Structure
from rnnscope.errors import DtypeError, ShapeError

__all__ = [
    "RecordedGradients",
    "Request",
    "gradient_verdict",
    "recorded_ratio",
    "without_gradients",
]

PREFIX = "grad."


@dataclass(frozen=True)
class RecordedGradients:
    """Gradients that were recorded: by name, with what reached the outputs and the final states,
    and dropout's masks, each as it came; None for what was not given."""

    gradients: Mapping[str, Any]
    output: Any = None
    final: Mapping[str, Any] | None = None
    masks: Any = None


@dataclass(frozen=True)
class Request:
    """What is asked of gradients: by autograd, of a ``backward`` function, or ``recorded``."""

    backward: Any = None
    recorded: RecordedGradients | None = None
    seed: int = 0
    effort: float = 1.0


def without_gradients(candidate: Any) -> tuple[Any, RecordedGradients | None]:
    """Recorded numbers apart from recorded gradients, which stand under "grad", or one by one under
    "grad.x" and so on; with "grad_output", "grad_h_n", "grad_c_n" and "masks"."""
    values = candidate
    if isinstance(candidate, str | Path):
        if Path(candidate).suffix.lower() != ".npz" or not Path(candidate).is_file():
            return candidate, None
        values = arrays_of(Path(candidate))
        if any(name == "grad" or name.startswith(PREFIX) for name in values):
            values = {name: read_array(value, name) for name, value in values.items()}
    if not isinstance(values, Mapping):
        return candidate, None
    names = [name for name in map(str, values) if name == "grad" or name.startswith(PREFIX)]
    if not names:
        return candidate, None
    by_name: dict[str, Any] = {}
    for name in names:
        if name != "grad":
            by_name[name.removeprefix(PREFIX)] = values[name]
        elif isinstance(values[name], Mapping):
            by_name |= values[name]
        else:
            raise DtypeError(
                f"'grad' must be a dict of gradients by name, such as {{'x': dx}}; got "
                f"{kind_of(values[name])}"
            )
    final = {state: values[f"grad_{state}_n"] for state in "hc" if f"grad_{state}_n" in values}
    taken = {*names, "grad_output", "masks", *(f"grad_{state}_n" for state in final)}
    outputs = {name: value for name, value in values.items() if name not in taken}
    recorded = RecordedGradients(by_name, values.get("grad_output"), final, values.get("masks"))
    return outputs, recorded


def gradient_verdict(
    request: Request,
    subject: Subject | None,
    reference: nn.Module,
    adopted: Adopted,
    inputs: Inputs | None,
    forward: Verdict | None,
) -> GradientVerdict:
    """The verdict on gradients; ``subject`` and ``forward`` are None where no outputs were given.

    Raises ``CandidateError``, ``ShapeError`` and ``DtypeError`` for what gives none.
    """
    layer = subject.layer if isinstance(subject, OfCalls) else reference
    model = subject.model if subject is not None else Model.of(adopted, torch.float64)
    dtype = next(layer.parameters()).dtype
    asking = _Asking(request, model, layer, dtype, subject)
    candidate_model = model if forward is None else candidates_own(forward, model)
    facts = GradientVerdict(
        agrees=True,
        forward=None if forward is None else forward.agrees,
        kind=model.structure.kind,
        own=forward is not None and candidate_model is not None and not forward.agrees,
        probe="gradients alone were given" if forward is None else "",
    )
    masks = asking.draws_masks and adopted.training and adopted.dropout > 0
    trials, further = asking.trials(inputs, masks)
    if candidate_model is not model:
        trials, further = [replace(t, masks=None) for t in trials], []
    return judged(asking.source, candidate_model, trials, further, facts, dtype, request.effort)


def recorded_ratio(
    recorded: RecordedGradients, reference: nn.Module, model: Model, inputs: Inputs
) -> float:
    """How far recorded gradients are off, relative to what rounding allows them."""
    dtype = next(reference.parameters()).dtype
    asking = _Asking(Request(recorded=recorded), model, reference, dtype, None)
    [trial], _ = asking.trials(inputs, False)
    return largest_ratio(asking.source, model, trial, dtype)


class _Asking:
    """Where gradients come from, and for which calls."""

    def __init__(
        self,
        request: Request,
        model: Model,
        layer: nn.Module,
        dtype: torch.dtype,
        subject: Subject | None,
    ) -> None:
        self.request, self.model, self.layer, self.dtype = request, model, layer, dtype
        self.subject = subject
        self.function = None
        if request.backward is not None:
            self.function = backward_function(request.backward, model)

    @property
    def draws_masks(self) -> bool:
        """Whether dropout's masks can be given to the candidate."""
        several = self.model.structure.num_layers > 1
        return several and self.function is not None and takes_masks(self.function)

    def source(self, inputs: Inputs, reached: Reached, masks: tuple[Tensor, ...] | None) -> Called:
        """The gradients for one call."""
        if self.request.recorded is not None:
            gradients = self.request.recorded.gradients
            return Called(read_gradients(gradients, self.model, inputs, "the recording"), reached)
        if self.function is not None:
            return by_function(self.function, self.layer, self.model, inputs, reached, masks)
        assert isinstance(self.subject, OfCalls), "recorded numbers have no graph"
        return by_autograd(self.subject.fresh(), self.layer, self.model, inputs, reached)

    def trials(self, inputs: Inputs | None, masks: bool) -> tuple[list[Trial], list[Trial]]:
        """The calls that the verdict speaks of, and those that tell mistakes apart."""
        structure, seed = self.model.structure, self.request.seed
        recorded = self.request.recorded
        if recorded is not None:
            assert inputs is not None, "recorded numbers come with x"
            return [_recorded_trial(recorded, structure, inputs)], []
        initial = not isinstance(self.subject, OfCalls) or self.subject.takes_initial
        initial = initial or self.function is not None
        generator = torch.Generator("cpu").manual_seed(seed + 3)
        drawn = [d for d in confirming(structure, seed, initial, False) if d.steps != d.batch]
        drawn.append(drawn_inputs(structure, 1, 2, initial, generator))
        drawn_trials = [self._trial(call, masks) for call in drawn]
        if inputs is None:
            return drawn_trials, []
        return [self._trial(inputs, masks)], drawn_trials[:1]

    def _trial(self, inputs: Inputs, masks: bool) -> Trial:
        structure, seed = self.model.structure, self.request.seed
        inputs = inputs.to(self.dtype).to(torch.float64)
        reached = drawn_upstream(structure, inputs, self.dtype, seed)
        dropped = drawn_masks(structure, inputs, self.dtype, seed) if masks else None
        return Trial(inputs, reached, dropped)


# recorded ----------------------------------------------------------------------------------------


def _recorded_trial(recorded: RecordedGradients, structure: Structure, inputs: Inputs) -> Trial:
    width = structure.output_size * len(structure.directions)
    shape = (inputs.steps, inputs.batch, width)
    zeros = torch.zeros(shape, dtype=torch.float64, device="cpu")
    h = zeros
    if recorded.output is not None:
        h = _output_shaped(recorded.output, "grad_output", structure, shape)
    final = {name: torch.zeros_like(value) for name, value in inputs.initial.items()}
    for state, value in (recorded.final or {}).items():
        numbers = as_numbers(value, f"grad_{state}_n").double()
        reading = of_state(state, numbers, structure, inputs.batch)
        if state not in final or reading.value is None:
            raise ShapeError(
                f"grad_{state}_n must have the shape of {state}_n; got {tuple(numbers.shape)}"
            )
        final[state] = reading.value
    if recorded.output is None and not recorded.final:
        raise ShapeError(
            "recorded gradients need what reached the outputs: give 'grad_output', of the shape of "
            "the output, or 'grad_h_n'"
        )
    masks = None
    if recorded.masks is not None:
        masks = tuple(
            _output_shaped(mask, "masks", structure, shape) for mask in _each(recorded.masks)
        )
        if len(masks) != structure.num_layers - 1:
            raise ShapeError(
                f"masks must hold one mask for each layer but the last, "
                f"{structure.num_layers - 1}; got {len(masks)}"
            )
    return Trial(inputs, Reached(h, final), masks)


def _each(masks: Any) -> list[Any]:
    return list(masks.values()) if isinstance(masks, Mapping) else list(masks)


def _output_shaped(
    value: Any, name: str, structure: Structure, shape: tuple[int, int, int]
) -> Tensor:
    """(time, batch, width) of what has the shape of the output."""
    numbers = as_numbers(value, name).double()
    steps, batch, width = shape
    expected = (batch, steps, width) if structure.batch_first else shape
    got = tuple(numbers.shape)
    if got == expected:
        return numbers.transpose(0, 1) if structure.batch_first else numbers
    if batch == 1 and got == (steps, width):
        return numbers.unsqueeze(1)
    raise ShapeError(f"{name} must have the shape of the output, {expected}; got {got}")
