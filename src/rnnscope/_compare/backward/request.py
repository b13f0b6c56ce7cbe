"""What a caller asks of gradients, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.backward.called import backward_function, by_autograd, by_function
from rnnscope._compare.backward.deciding import Source, candidates_own, judged, largest_ratio
from rnnscope._compare.backward.received import ReceivedGradients
from rnnscope._compare.backward.verdict import GradientVerdict
from rnnscope._compare.backward.whole import Reached, Trial
from rnnscope._compare.candidate.callable import OfCalls
from rnnscope._compare.candidate.inputs import confirming, drawn_inputs
from rnnscope._compare.candidate.recorded import arrays_of, read_array
from rnnscope._compare.candidate.returned import of_state
from rnnscope._compare.candidate.subject import Subject
from rnnscope._compare.candidate.tensors import as_numbers, kind_of
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.verdict import Verdict
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.sequences import valid_steps
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
    candidate_model = model if forward is None else candidates_own(forward, model)
    facts = GradientVerdict(
        agrees=True,
        forward=None if forward is None else forward.agrees,
        kind=model.structure.kind,
        own=forward is not None and candidate_model is not None and not forward.agrees,
        probe="gradients alone were given" if forward is None else "",
    )
    further: list[Trial] = []
    if request.recorded is not None:
        assert inputs is not None, "recorded numbers come with x"
        source = _source(request.recorded, model)
        trials = [_recorded_trial(request.recorded, model.structure, inputs)]
    else:
        initial, takes_masks = True, False
        if request.backward is not None:
            function = backward_function(request.backward, model)
            source = partial(by_function, function, layer, model)
            takes_masks = function.signature.takes("masks")
        else:
            assert isinstance(subject, OfCalls), "recorded numbers have no graph"
            source, initial = partial(_through, subject, layer, model), subject.takes_initial
        several = adopted.num_layers > 1
        draws_masks = takes_masks and several and adopted.training and adopted.dropout > 0
        drawing = _Drawing(model.structure, dtype, request.seed, draws_masks)
        trials = drawing.trials(initial)
        if inputs is not None:
            trials, further = [drawing.trial(inputs)], trials[:1]
    if candidate_model is not model:
        trials, further = [replace(t, masks=None) for t in trials], []
    return judged(source, candidate_model, trials, further, facts, dtype, request.effort)


def recorded_ratio(
    recorded: RecordedGradients, reference: nn.Module, model: Model, inputs: Inputs
) -> float:
    """How far recorded gradients are off, relative to what rounding allows them."""
    trial = _recorded_trial(recorded, model.structure, inputs)
    dtype = next(reference.parameters()).dtype
    return largest_ratio(_source(recorded, model), model, trial, dtype)


def _through(subject: OfCalls, layer: nn.Module, model: Model, trial: Trial) -> ReceivedGradients:
    return by_autograd(subject.made(), layer, model, trial)


# drawn -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawing:
    """Calls of a layer whose numbers are drawn, as a type of numbers holds them; ``masks``: those
    of dropout too."""

    structure: Structure
    dtype: torch.dtype
    seed: int
    masks: bool

    def trials(self, initial: bool) -> list[Trial]:
        """Calls that tell mistakes apart, with ``initial`` states or without."""
        generator = torch.Generator("cpu").manual_seed(self.seed + 3)
        drawn = confirming(self.structure, self.seed, initial, False)
        drawn = [inputs for inputs in drawn if inputs.steps != inputs.batch]
        return [
            self.trial(inputs)
            for inputs in (*drawn, drawn_inputs(self.structure, 1, 2, initial, generator))
        ]

    def trial(self, inputs: Inputs) -> Trial:
        """One call, with random gradients of the outputs and the final states."""
        inputs = inputs.to(self.dtype).to(torch.float64)
        generator = torch.Generator("cpu").manual_seed(self.seed + 7)

        def drawn(*shape: int) -> Tensor:
            value = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            return value.to(self.dtype).double()

        h = drawn(*_output_shape(self.structure, inputs))
        if inputs.lengths is not None:
            h = h * valid_steps(inputs.lengths, inputs.steps).unsqueeze(-1)
        final = {name: drawn(*value.shape) for name, value in inputs.initial.items()}
        return Trial(inputs, Reached(h, final), self._masks(inputs) if self.masks else None)

    def _masks(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """What dropout multiplies each layer's outputs with, but the last's: 0 or 1 / (1 - p)."""
        generator = torch.Generator("cpu").manual_seed(self.seed + 11)
        shape, keep = _output_shape(self.structure, inputs), 1 - self.structure.dropout
        uniform = (
            torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
            for _ in range(self.structure.num_layers - 1)
        )
        return tuple((value < keep).to(self.dtype).double() / keep for value in uniform)


# recorded ----------------------------------------------------------------------------------------


def _source(recorded: RecordedGradients, model: Model) -> Source:
    return lambda trial: ReceivedGradients(recorded.gradients, model, trial, "the recording")


def _output_shape(structure: Structure, inputs: Inputs) -> tuple[int, int, int]:
    """(time, batch, width)."""
    return inputs.steps, inputs.batch, structure.output_size * len(structure.directions)


def _recorded_trial(recorded: RecordedGradients, structure: Structure, inputs: Inputs) -> Trial:
    shape = _output_shape(structure, inputs)
    h = torch.zeros(shape, dtype=torch.float64, device="cpu")
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
        by_layer = recorded.masks
        by_layer = by_layer.values() if isinstance(by_layer, Mapping) else by_layer
        masks = tuple(_output_shaped(mask, "masks", structure, shape) for mask in by_layer)
        if len(masks) != structure.num_layers - 1:
            raise ShapeError(
                f"masks must hold one mask for each layer but the last, "
                f"{structure.num_layers - 1}; got {len(masks)}"
            )
    return Trial(inputs, Reached(h, final), masks)


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
