"""What a candidate gave for one input, and how far models are from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rnnscope.compare.model import Inputs, Model, Outcome, Part, Token
from rnnscope.compare.simulate import Simulator

__all__ = [
    "Group",
    "Misfit",
    "Observation",
    "allowed",
    "distance",
    "few_steps",
    "misfits",
    "most_allowed",
    "numbers_alone",
]

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}
LOWER = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}

GROWN = 1e4
"""Roundings that have grown so many times grow by chance: in a chaotic layer by more or by less."""

FREE = 16
"""How many times the deviation of runs that differ by rounding alone is allowed."""


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
        if self.inputs.lengths is None:
            return None
        return (torch.arange(self.inputs.steps)[:, None] < self.inputs.lengths).unsqueeze(-1)

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


def few_steps(observation: Observation, steps: int, rows: int) -> Observation:
    """The first steps and rows of what was observed; all of it where rows are padded."""
    inputs = observation.inputs
    steps, rows = min(steps, inputs.steps), min(rows, inputs.batch)
    if (rows, steps) == (inputs.batch, inputs.steps) or inputs.lengths is not None:
        return observation
    return _cut(observation, steps, torch.arange(rows))


def numbers_alone(observation: Observation, model: Model) -> Observation | None:
    """The rows in which nothing is NaN or infinite but where the model is too, or the first steps
    of all rows; None where nothing is left."""
    inputs = observation.inputs
    good = torch.ones(inputs.steps, inputs.batch, dtype=torch.bool)
    for name, seen, value in observation.beside(model):
        if value is None:
            continue
        wrong = ~torch.isfinite(seen) & torch.isfinite(value)
        if (real := observation.inside(name)) is not None:
            wrong = wrong & real
        if name == "output":
            good &= ~wrong.any(-1)
        elif seen.dim() == 5:
            good &= ~wrong.any(-1).flatten(0, 1).any(0).T
        else:
            good &= ~wrong.any(-1).flatten(0, 1).any(0)
    rows = good.all(0).nonzero().flatten()
    if len(rows) == inputs.batch:
        return observation
    if len(rows):
        return _cut(observation, inputs.steps, rows)
    steps = int(good.all(1).long().cumprod(0).sum())
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    if steps == 0 or not one_way or inputs.lengths is not None:
        return None
    return _cut(observation, steps, torch.arange(inputs.batch))


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


def allowed(
    model: Model,
    inputs: Inputs,
    unit: float,
    simulator: Simulator | None = None,
    keep: bool = False,
) -> dict[str, Tensor]:
    """What rounding to ``unit`` allows: ``FREE`` times how far runs move whose weights, inputs
    and states are changed by a rounding's size, at each time and row the largest over units; and
    never less than a few roundings of the numbers themselves. Inf from where it is of no use.

    (time, batch, 1) for the output, (layer, direction, batch, 1) for states, (layer, direction,
    batch, time, 1) for the quantities that ``simulator`` records. With ``keep`` the weights as
    they were changed last are kept, for other inputs.
    """
    generator = torch.Generator().manual_seed(0)
    kept = model.shaken if keep else {}

    def shaken(value: Tensor) -> Tensor:
        return _shaken(value, unit, generator)

    simulator = simulator or Simulator(inputs)
    [exact] = simulator.run([model])
    if exact is None:
        return {}
    floor = predicted(exact)
    found = {
        name: 8 * unit * value.abs().amax(-1, keepdim=True).clamp_min(1)
        for name, value in floor.items()
    }
    for _ in range(2):
        parts = _shaken_parts(model, unit, generator, kept)
        moved = replace(
            inputs,
            x=shaken(inputs.x),
            initial={name: shaken(value) for name, value in inputs.initial.items()},
        )
        [other] = Simulator(moved, simulator.names).run([model.with_parts(parts)])
        if other is None:
            continue
        for name, value in predicted(other).items():
            away = FREE * (value - floor[name]).abs().amax(-1, keepdim=True)
            found[name] = torch.maximum(found[name], away.nan_to_num(torch.inf))
    return _beyond_use(found, floor, unit, model)


def _shaken(value: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return value * (1 + 2 * unit * noise)


KEPT = 2
"""Sets of weights that roundings have moved, of which the first is the same for all inputs."""


def _shaken_parts(
    model: Model, unit: float, generator: torch.Generator, kept: dict[Token, Any]
) -> dict[tuple[int, int], Part]:
    """The parts with weights moved by a rounding's size; drawn again only where ``kept`` does not
    hold what this generator would draw."""
    key = (unit, generator.get_state().numpy().tobytes())
    if key in kept:
        kept[key] = kept.pop(key)  # the last used comes last
        known, state = kept[key]
        generator.set_state(state)
        return dict(known)
    parts = {
        (layer, d): part.with_weights(
            part.weights.map(lambda value: _shaken(value, unit, generator)),
            token=("shaken", layer, d),
        )
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
    }
    kept[key] = parts, generator.get_state()
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
    return parts


def _beyond_use(
    found: dict[str, Tensor], floor: dict[str, Tensor], unit: float, model: Model
) -> dict[str, Tensor]:
    """Inf where the tolerance is more than a hundredth of the numbers' spread, or roundings have
    grown so much that chance decides how far; and from there on, in the order of computing."""
    limits = {name: _limit(value, unit) for name, value in floor.items()}
    directions = {part.backward for part in model.parts[-1]}

    def wild(name: str) -> Tensor:
        grown = GROWN * 8 * unit * floor[name].abs().amax(-1, keepdim=True).clamp_min(1)
        return found[name] > torch.clamp(grown, max=limits[name])

    def from_there_on(beyond: Tensor, time: int) -> Tensor:
        ways = [
            (beyond.flip(time).cummax(time).values.flip(time) if b else beyond.cummax(time).values)
            for b in directions
        ]
        return torch.stack(ways).any(0)

    beyond = from_there_on(wild("output"), 0)
    result = {"output": torch.where(beyond, torch.inf, found["output"])}
    lost = beyond.any(0)  # (batch, 1): rows whose last states chance decides
    for name, tolerance in found.items():
        if tolerance.dim() == 5:
            result[name] = torch.where(from_there_on(wild(name), 3), torch.inf, tolerance)
        elif name != "output":
            far = tolerance > limits[name]
            if tolerance.shape[2] == len(lost):  # else a mistake has exchanged the axes
                far = far | lost
            result[name] = torch.where(far, torch.inf, tolerance)
    return result


def most_allowed(
    model: Model, inputs: Inputs, unit: float, simulator: Simulator
) -> dict[str, Tensor]:
    """No less than ``allowed`` where that is of use, from one run alone."""
    [exact] = simulator.run([model])
    if exact is None:
        return {}
    return {
        name: torch.full_like(value[..., :1], _limit(value, unit))
        for name, value in predicted(exact).items()
    }


def _limit(value: Tensor, unit: float) -> float:
    finite = value[torch.isfinite(value)]
    if finite.numel() == 0:
        return 100 * unit
    spread = float(finite.std()) if finite.numel() > 1 else float(finite.abs().max())
    # numbers that are all the same are told from others all the same
    return max(spread / 100, 100 * unit * max(1.0, float(finite.abs().max())))


@dataclass(frozen=True)
class Group:
    """Some of the numbers that are compared, told apart so that a search sees what fits where."""

    observation: int
    target: str
    place: tuple[object, ...]


@dataclass(frozen=True)
class Misfit:
    """How far many models are from what was observed: (model, group) the root mean square and
    the largest ratio to what rounding allows; ``count`` (group) numbers in each."""

    groups: tuple[Group, ...]
    squares: Tensor
    ratios: Tensor
    count: Tensor

    @classmethod
    def gathered(cls, found: Iterable[tuple[Group, Tensor, Tensor]]) -> Misfit:
        """Of differences and of their ratios to what rounding allows, (model, ...), by group."""
        groups, away, ratios = zip(*found, strict=True)
        return cls(
            groups,
            torch.stack([(one.flatten(1) ** 2).mean(1).sqrt() for one in away], 1),
            torch.stack([one.flatten(1).amax(1) for one in ratios], 1),
            torch.tensor([one[0].numel() for one in away]),
        )

    @property
    def total(self) -> Tensor:
        """(model): root mean square over everything."""
        return ((self.squares**2 * self.count).sum(1) / self.count.sum()).sqrt()

    @property
    def worst(self) -> Tensor:
        """(model): the largest ratio to what rounding allows."""
        return self.ratios.amax(1)

    def rows(self, chosen: Sequence[int]) -> Misfit:
        """The misfit of some of the models."""
        index = torch.tensor(chosen, dtype=torch.long)
        return replace(self, squares=self.squares[index], ratios=self.ratios[index])

    def beside(self, other: Misfit) -> Misfit:
        """The misfits of both, one after the other."""
        return replace(
            self,
            squares=torch.cat([self.squares, other.squares]),
            ratios=torch.cat([self.ratios, other.ratios]),
        )

    def closest(self, beam: int, each: int) -> list[int]:
        """The models to go on from: the best by the whole, by the groups that fit, and by each
        group of numbers alone."""
        fits = (self.ratios <= 1).double().sum(1)
        by_count = fits - self.total / self.total.max().clamp_min(1e-300)
        orders = [(by_count.argsort(descending=True), beam), (self.total.argsort(), beam)]
        orders += [(self.squares[:, g].argsort(), each) for g in range(len(self.groups))]
        return list(dict.fromkeys(k for order, count in orders for k in order[:count].tolist()))


def misfits(
    observations: Sequence[Observation],
    models: Sequence[Model],
    simulators: Sequence[Simulator],
) -> Misfit:
    """How far each model is from each observation, group by group; inf where it does not fit."""
    groups: list[Group] = []
    squares: list[Tensor] = []
    ratios: list[Tensor] = []
    counts: list[int] = []
    for k, (observation, simulator) in enumerate(zip(observations, simulators, strict=True)):
        outcomes = simulator.run(models)
        with torch.inference_mode():
            for target, seen in observation.targets().items():
                away = _away(target, seen, outcomes)
                tolerance = observation.allowed[target]
                mask = observation.usable(target)
                for place, index in _places(target, seen, models[0]):
                    inside = mask[index]
                    if not bool(inside.any()):
                        continue
                    values = away[(slice(None), *index)] * inside
                    within = tolerance.expand_as(seen)[index]
                    groups.append(Group(k, target, place))
                    count = int(inside.sum())
                    counts.append(count)
                    squares.append((values.flatten(1) ** 2).sum(1).div(count).sqrt())
                    share = values / torch.where(inside, within, 1)
                    ratios.append(share.flatten(1).amax(1))
    return Misfit(
        tuple(groups), torch.stack(squares, 1), torch.stack(ratios, 1), torch.tensor(counts)
    )


MISSING = 1e30
"""The distance of what is not there: finite, so that sums of squares stay numbers."""


def _away(target: str, seen: Tensor, outcomes: Sequence[Outcome | None]) -> Tensor:
    """Absolute differences, (model, *shape of what was seen)."""
    values: list[Tensor] = []
    for outcome in outcomes:
        value = None if outcome is None else predicted(outcome).get(target)
        fits = value is not None and value.shape == seen.shape
        values.append(value if fits and value is not None else seen.new_full(seen.shape, torch.nan))
    return distance(torch.stack(values), seen)


def distance(values: Tensor, seen: Tensor) -> Tensor:
    """Absolute differences; equal infinities do not differ, nor do two that are no numbers; what
    is no number on one side only is far."""
    same = (values == seen) | (values.isnan() & seen.isnan())
    away = torch.where(same, 0.0, (values - seen).abs())
    return away.nan_to_num(MISSING, posinf=MISSING).clamp_max(MISSING)


def _places(
    target: str, seen: Tensor, model: Model
) -> list[tuple[tuple[object, ...], tuple[slice, ...]]]:
    """The groups of one array: of the output each direction's first step in its own order, and
    the rest; of a state or a quantity each layer and direction."""
    whole = slice(None)
    if target != "output":
        return [
            ((layer, d), (slice(layer, layer + 1), slice(d, d + 1), *[whole] * (seen.dim() - 2)))
            for layer in range(seen.shape[0])
            for d in range(seen.shape[1])
        ]
    directions = model.num_directions
    width = seen.shape[-1] // directions if seen.shape[-1] % directions == 0 else seen.shape[-1]
    halves = [slice(k, k + width) for k in range(0, seen.shape[-1], width)]
    found: list[tuple[tuple[object, ...], tuple[slice, ...]]] = []
    for d, half in enumerate(halves):
        backward = d < directions and model.parts[-1][d].backward
        first = slice(-1, None) if backward else slice(0, 1)
        rest = slice(0, -1) if backward else slice(1, None)
        found.append(((d, "first"), (first, whole, half)))
        if seen.shape[0] > 1:
            found.append(((d, "rest"), (rest, whole, half)))
    return found
