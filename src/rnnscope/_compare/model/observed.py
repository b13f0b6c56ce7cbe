"""What a candidate gave for one input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rnnscope._compare.model.model import Inputs, Model, Outcome
from rnnscope._compare.model.simulate import Simulator
from rnnscope._layers.sequences import valid_steps
from rnnscope._record.difference import absolute_difference

__all__ = [
    "MISSING",
    "UNIT",
    "Observation",
    "distance",
    "few_steps",
    "numbers_alone",
    "predicted",
    "some_rows",
]


UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}

MISSING = 1e30
"""The distance of what is not there: finite, so that sums of squares stay numbers."""


@dataclass(frozen=True)
class Observation:
    """An input with what the candidate returned for it, in float64.

    ``output`` (time, batch, width) or None; ``final`` maps states, ``quantities`` whatever else
    was given, (layer, direction, batch, unit) and (layer, direction, batch, time, unit).
    ``allowed`` is what rounding allows, in the shapes of the output (time, batch, 1), of each
    state and each quantity, inf where rounding alone may have grown beyond use.
    """

    inputs: Inputs
    output: Tensor | None
    unit: float
    final: Mapping[str, Tensor] = field(default_factory=dict)
    quantities: Mapping[str, Tensor] = field(default_factory=dict)
    allowed: Mapping[str, Tensor] = field(default_factory=dict)
    simulator: Simulator = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.simulator is None:
            object.__setattr__(self, "simulator", Simulator(self.inputs, tuple(self.quantities)))

    @property
    def valid(self) -> Tensor | None:
        """(time, batch, 1), False on padding; None where there is none."""
        lengths = self.inputs.lengths
        return None if lengths is None else valid_steps(lengths, self.inputs.steps).unsqueeze(-1)

    def targets(self) -> dict[str, Tensor]:
        """Every array that is compared."""
        found = {} if self.output is None else {"output": self.output}
        found |= {f"{name}_n": value for name, value in self.final.items()}
        return found | dict(self.quantities)

    def inside(self, name: str) -> Tensor | None:
        """False on the padding of one of the targets, to be expanded to it; None where it has
        none."""
        if self.valid is None or name.endswith("_n"):
            return None
        return self.valid if name == "output" else self.valid.transpose(0, 1)

    @property
    def count(self) -> int:
        """Numbers that are compared."""
        return sum(int(self.usable(name).sum()) for name in self.targets())

    @property
    def fullness(self) -> tuple[bool, int]:
        """How much it tells: more with initial states than without."""
        return self.inputs.given, self.count

    def usable(self, name: str) -> Tensor:
        """False on the padding of one of the targets, and where rounding alone may have grown
        beyond use; in the target's shape."""
        usable = torch.isfinite(self.allowed[name]).expand_as(self.targets()[name])
        real = self.inside(name)
        return usable if real is None else usable & real

    def beside(self, model: Model) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Every target by name with what a model gives; None where that has another shape."""
        [outcome] = self.simulator.run([model])
        values = {} if outcome is None else predicted(outcome)
        for name, seen in self.targets().items():
            value = values.get(name)
            fits = value is not None and value.shape == seen.shape
            yield name, seen, value if fits else None

    def as_given_by(self, model: Model) -> Observation:
        """What a model gives, in place of what was observed; without what it does not give, such as
        the steps of a layer that it skips."""
        [outcome] = self.simulator.run([model])
        if outcome is None:
            return self
        value = predicted(outcome)
        return replace(
            self,
            output=None if self.output is None else value["output"],
            final={n: value[f"{n}_n"] for n in self.final if f"{n}_n" in value},
            quantities={name: value[name] for name in self.quantities if name in value},
        )

    def beyond(self, model: Model) -> Iterator[tuple[str, Tensor | None]]:
        """Every target by name, True where it differs from a model's number by more than rounding;
        None where that has another shape."""
        for name, seen, value in self.beside(model):
            if value is None:
                yield name, None
            else:
                yield name, (distance(value, seen) > self.allowed[name]) & self.usable(name)

    def lost(self, model: Model) -> Iterator[tuple[str, Tensor]]:
        """Every target by name, True where it is NaN or infinite and a model's number is not."""
        for name, seen, value in self.beside(model):
            if value is not None:
                wrong = ~torch.isfinite(seen) & torch.isfinite(value)
                real = self.inside(name)
                yield name, wrong if real is None else wrong & real


def few_steps(observation: Observation, steps: int, rows: int) -> Observation:
    """The first steps and rows of what was observed; all of it where rows are padded."""
    inputs = observation.inputs
    steps, rows = min(steps, inputs.steps), min(rows, inputs.batch)
    if (rows, steps) == (inputs.batch, inputs.steps) or inputs.lengths is not None:
        return observation
    return _cut(observation, steps, torch.arange(rows, device="cpu"))


def numbers_alone(observation: Observation, model: Model) -> Observation | None:
    """The rows in which nothing is NaN or infinite but where the model is too, or the first steps
    of all rows; None where nothing is left."""
    inputs = observation.inputs
    good = torch.ones(inputs.steps, inputs.batch, dtype=torch.bool, device="cpu")
    for name, lost in observation.lost(model):
        wrong = lost.any(-1)  # (time, batch), or behind layers and directions (batch[, time])
        good &= ~(wrong if name == "output" else wrong.flatten(0, 1).any(0).movedim(0, -1))
    rows = good.all(0).nonzero().flatten()
    if len(rows) == inputs.batch:
        return observation
    if len(rows):
        return _cut(observation, inputs.steps, rows)
    steps = int(good.all(1).long().cumprod(0).sum())
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    if steps == 0 or not one_way or inputs.lengths is not None:
        return None
    return _cut(observation, steps, torch.arange(inputs.batch, device="cpu"))


def some_rows(observation: Observation, rows: Tensor) -> Observation:
    """Some rows of what was observed."""
    return _cut(observation, observation.inputs.steps, rows)


def _cut(observation: Observation, steps: int, rows: Tensor) -> Observation:
    """The first steps of some rows."""
    inputs, whole = observation.inputs, steps == observation.inputs.steps
    fewer = replace(
        inputs,
        x=inputs.x[:steps, rows],
        initial={name: value[:, :, rows] for name, value in inputs.initial.items()},
        lengths=None if inputs.lengths is None else inputs.lengths[rows],
    )

    def states(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value[:, :, rows, :steps] if value.dim() == 5 else value[:, :, rows]
            for name, value in values.items()
        }

    allowed = states({k: v for k, v in observation.allowed.items() if k != "output"})
    if "output" in observation.allowed:
        allowed["output"] = observation.allowed["output"][:steps, rows]
    return replace(
        observation,
        inputs=fewer,
        simulator=Simulator(fewer, observation.simulator.names),
        output=None if observation.output is None else observation.output[:steps, rows],
        final=states(observation.final) if whole else {},
        quantities=states(observation.quantities),
        allowed=allowed,
    )


def predicted(outcome: Outcome) -> dict[str, Tensor]:
    """What a model returns, under the names of ``Observation.targets``."""
    found = {"output": outcome.output}
    found |= {f"{name}_n": value for name, value in outcome.final.items()}
    return found | {name: value.transpose(2, 3) for name, value in outcome.steps.items()}


def distance(values: Tensor, seen: Tensor) -> Tensor:
    """Absolute differences; equal infinities do not differ, nor do two that are no numbers; what
    is no number on one side only is far."""
    return absolute_difference(values, seen).clamp_max(MISSING)
