"""Lower precision, told by what rounding the operands of every product to it would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.candidate.tensors import GPU_ROUNDINGS, short
from rnnscope._compare.confirmed import EVIDENCE, proved
from rnnscope._compare.evidence import largest
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import (
    UNIT,
    Observation,
    distance,
    few_steps,
)
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.model.single_steps import opened
from rnnscope._compare.model.steps import OpenedPart, opened_parts, worst_step
from rnnscope._compare.tolerance import LEAST
from rnnscope._opening.bounds import GPU_OFF

__all__ = [
    "Grid",
    "coarse_unit",
    "grid_of",
    "lower_precision",
    "of_a_gpu",
    "of_a_grid",
    "of_the_size",
    "too_coarse",
]

Pairs = tuple[list[Tensor], list[Tensor]]

LOWER = (torch.float16, torch.bfloat16)
MANTISSAS = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Significant bits; tf32 has float16's."""
ALIKE = 0.6
"""Correlation, at least, of the differences with those of operands that are rounded."""
SEVERAL = 4
"""Times the differences of operands that are rounded, or the output's own rounding: more than these
is not of precision alone."""
ROUNDED = 2.25
"""Of an output of few bits the same: torch's own layers in bfloat16 and float16 are off by up to
2.03 times these (RNN, GRU and LSTM of one and two layers, weights up to 3 times the usual)."""
OUTLIER = 6
"""Times the median beyond which the differences of rounding hardly go."""
FEWEST = 100
"""Numbers from which on a correlation says anything."""
FEW = 16
"""Numbers from which on their size says anything."""
FARTHEST = 16.0
"""How many units of a precision a number may be off, where it is that precision's rounding."""
ONE_SIDED = 0.75
"""How far the differences of a unit have one sign, on average: rounding goes both ways."""
DECIMALS = range(1, 7)
"""So many may be all that numbers were written with."""
SLACK = 1.1
"""Half steps by which numbers on a grid may be off: what is measured on them is off too."""
FIRST = 4
"""Steps of whole runs that are compared."""
WAYS = ((False, False), (True, False), (True, True))
"""Whether the biases are rounded as the matrices are, and what comes of each product."""
WITHIN = 64
"""Differences of so many roundings to the lower precision may come of it; and those of states and
gates may be so many times those of the output."""


def lower_precision(
    model: Model, shown: Sequence[Observation], dtypes: Sequence[torch.dtype]
) -> tuple[Cause, Words, float] | None:
    """The precision that the differences come of, or None; ``dtypes`` are those of the layer and of
    the output.

    Either the numbers themselves have no more bits or decimals, or the differences are those of
    products whose operands are rounded: to these they are compared, number by number.
    """
    grid = grid_of(model, shown)
    explanation = None if grid is None else _of_grid(model, shown, grid)
    explanation = explanation or _of_weights(model, shown, dtypes)
    if explanation is not None or grid is not None:
        return explanation
    returned = _returned(dtypes)
    for name in [returned] if returned else MANTISSAS:
        bits = MANTISSAS[name]
        unit = 2.0**-bits
        if all(observation.unit >= unit / 4 for observation in shown):
            continue
        pairs = max((_differences(model, shown, bits, way) for way in WAYS), key=_correlation)
        differences, expected = (
            torch.cat([torch.zeros(0, dtype=torch.float32, device="cpu"), *map(torch.flatten, s)])
            for s in pairs
        )
        if len(differences) < FEW or not bool(torch.isfinite(differences).all()):
            continue
        largest = float(differences.abs().max())
        if _beside(model, shown) > WITHIN * max(largest, unit):
            continue  # what else came back is wrong
        title = "float16 or tf32" if name == "float16" else name
        size, likely = (float(v.pow(2).mean().sqrt()) for v in (differences, expected))
        if size > SEVERAL * max(likely, unit * _size(shown)):
            continue  # more than rounding is wrong
        if not _throughout(model, shown, bits):
            continue  # later ones are wrong by more
        of_bits = size <= ROUNDED * max(likely, unit * _size(shown)) and _few_bits(shown, bits)
        alike = _correlation(pairs)
        if largest < WITHIN * unit and of_bits:
            text = (
                f"every number of the output has no more than the {bits} bits of {name}. A mistake "
                f"that changes less does not show."
            )
        elif (
            len(differences) >= FEWEST
            and alike >= ALIKE
            and likely / 2 < size < likely * 2
            and _spread_out(model, shown)
        ):
            text = (
                f"the differences are those of products whose operands are rounded to {bits} bits "
                f"(their correlation is {alike:.2f} over {len(differences)} numbers)."
            )
        else:
            continue
        words = _of_output(model, name, dtypes) if returned else _words(title, text, dtypes)
        return Cause("precision", name), words, largest
    return None


@dataclass(frozen=True)
class Grid:
    """Multiples of one step, a power of 2 or of 10: numbers of fixed point, or written with few
    decimals. Floating point has finer steps for smaller numbers."""

    name: str
    step: float
    decimals: int = 0

    def holds(self, values: Tensor, unit: float) -> bool:
        """Whether all values are multiples of the step, but for a rounding to ``unit``."""
        exact = 2 * unit * float(values.abs().max())
        apart = (values / self.step - (values / self.step).round()).abs() * self.step
        return exact < self.step / 16 and bool((apart <= exact).all())

    def nearest(self, values: Tensor) -> Tensor:
        """Each value's nearest multiple."""
        return (values / self.step).round() * self.step

    def words(self, how: str) -> Words:
        """What is said of it where it explains everything, ``how`` numbers come to lie on it."""
        if self.decimals:
            return Words(
                self.name,
                f"every number that came back has no more than {self.name}, and is off by no "
                f"more than {how}.",
                'np.save("theirs.npy", output)   # or text with "%.9g"',
            )
        return Words(
            self.name,
            f"the output is in {self.name}, as fixed point is, and off by no more than {how}. A "
            f"mistake that changes less does not show.",
            "compute and return floating point",
        )


GRIDS = sorted(
    [
        *(Grid(f"{n} decimal{'s' * (n > 1)}", 10.0**-n, n) for n in DECIMALS),
        *(Grid("multiples of 1" + f"/{2**n}" * (n > 0), 2.0**-n) for n in range(24)),
    ],
    key=lambda grid: -grid.step,
)

FLOATS = (3, 4, 8, 11, 24, 53)
"""Significant bits of the types of floating point that there are."""

CARRIED = 2.0
"""Steps of a grid by which numbers may be off where states and weights are rounded to it."""
TURNED = 0.03
"""Share of the numbers of a state that is rounded at every step that may be rounded the other way:
those that lie half-way between two multiples, and what follows of them."""
SPREAD = 1.0
"""Steps of a grid, as a root mean square, that rounding of states and weights to it comes to."""

UNLIKELY = 14
"""Numbers that floating point could hold more finely, after which it is no chance that it does
not."""


def grid_of(model: Model, shown: Sequence[Observation]) -> Grid | None:
    """The widest grid on which the output lies, and the reference's own does not; None where there
    is none, or where as few bits of floating point would lie on it too."""
    numbers, right, unit = _outputs(model, shown)
    if not len(numbers) or not bool(torch.isfinite(numbers).all()):
        return None
    for grid in GRIDS:
        if not grid.holds(numbers[:FEWEST], unit) or not grid.holds(numbers, unit):
            continue
        if grid.holds(right, unit):
            return None
        # what the type of the fewest bits that holds all of them would hold more finely
        bits = next(
            (b for b in FLOATS if bool((_rounded(numbers, b) == numbers).all())), FLOATS[-1]
        )
        finer = (torch.frexp(numbers).exponent < bits + math.log2(grid.step)) & (numbers != 0)
        return grid if int(finer.sum()) >= UNLIKELY else None
    return None


def _outputs(model: Model, shown: Sequence[Observation]) -> tuple[Tensor, Tensor, float]:
    """All numbers of the output that are compared, those that are right, and their rounding; of
    what came back without an output all its numbers."""
    numbers: list[Tensor] = []
    right: list[Tensor] = []
    without = all(observation.output is None for observation in shown)
    for observation in shown:
        for name, values, value in observation.beside(model):
            if (without or name == "output") and value is not None:
                inside = observation.usable(name)
                numbers.append(values[inside])
                right.append(value[inside])
    numbers.append(torch.zeros(0, dtype=torch.float64, device="cpu"))  # of no output at all
    right.append(numbers[-1])
    return torch.cat(numbers), torch.cat(right), max(observation.unit for observation in shown)


def _output(model: Model, observation: Observation) -> tuple[Tensor, Tensor] | None:
    """The output that came back and the right one; None where there is none, or one of another
    shape."""
    for name, seen, right in observation.beside(model):
        if name == "output":
            return None if right is None else (seen, right)
    return None


def _of_grid(
    model: Model, shown: Sequence[Observation], grid: Grid
) -> tuple[Cause, Words, float] | None:
    """Numbers that are right but for lying on a grid, rounded at the end or at every step; None
    for others."""
    for model_of, carried in (
        (lambda observation: observation, False),
        (partial(_on_grid, grid=grid), True),
    ):
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        for observation in shown:
            for name, target, value in model_of(observation).beside(model):
                if value is None:
                    return None
                inside = observation.usable(name)
                within = observation.allowed[name].expand_as(target)[inside]
                pairs.append((target[inside], value[inside], within))
        # what is right without it need not lie on it
        wrong = [p for p in pairs if bool(((p[0] - p[1]).abs() > p[2]).any()) or carried]
        numbers, right, within = (torch.cat(tensors) for tensors in zip(*wrong, strict=True))
        unit = max(observation.unit for observation in shown)
        how = _way(numbers, right, within, grid, carried) if grid.holds(numbers, unit) else ""
        if how:
            away = float((numbers - right).abs().max())
            return Cause("precision", grid.name), grid.words(how), away
    return None


def _on_grid(observation: Observation, grid: Grid) -> Observation:
    """The same, to be compared with what comes of states that lie on a grid at every step."""
    return replace(
        observation,
        simulator=Simulator(observation.inputs, observation.simulator.names, grid.nearest),
    )


def _way(numbers: Tensor, right: Tensor, within: Tensor, grid: Grid, carried: bool) -> str:
    """How numbers come to lie on a grid, where it is by that alone, and there are so many that
    chance is excluded; else empty."""
    away, most = (numbers - right).abs(), grid.step + within
    ways = {
        "rounding to them": (away <= 0.51 * grid.step + within, 0.51),
        "cutting to them, towards zero": (
            (away <= most) & (numbers.abs() <= right.abs() + within) & (numbers * right >= -within),
            1.0,
        ),
        "cutting to them, downwards": ((away <= most) & (numbers <= right + within), 1.0),
    }
    if carried:
        turned = away > within
        fits = (away <= CARRIED * grid.step + within) & (turned.double().mean() <= TURNED)
        ways = {"rounding the state to them at every step": (fits, CARRIED)}
    for how, (fits, share) in ways.items():
        if bool(fits.all()) and _digits(right, share * grid.step + within) >= EVIDENCE:
            return how
    return ""


def of_a_grid(model: Model, shown: Sequence[Observation]) -> str:
    """A question, where an output that lies on a grid is off by no more than rounding of states and
    weights to it comes to; else empty."""
    grid = grid_of(model, shown)
    if grid is None or grid.decimals:
        return ""
    seen, right, _ = _outputs(model, shown)
    steps = (seen - right).abs() / grid.step
    if float(steps.max()) > 2 * CARRIED or float(steps.square().mean().sqrt()) > SPREAD:
        return ""
    return (
        f"The differences are at most {float(steps.max()):.1f} of these steps, as where states "
        f"and weights are rounded to {grid.name}: is it computed in fixed point? A mistake that "
        f"changes less does not show."
    )


def _digits(values: Tensor, within: Tensor) -> float:
    """How many decimal digits of agreement within a tolerance prove."""
    spread = float(values.std()) if len(values) > 1 else 0.0
    return float((spread / within).log10().clamp_min(0).sum()) if spread else 0.0


def _of_weights(
    model: Model, shown: Sequence[Observation], dtypes: Sequence[torch.dtype]
) -> tuple[Cause, Words, float] | None:
    """Weights that are rounded, where these alone explain everything; None for others."""
    for dtype in (d for d in (torch.float32, *LOWER) if d not in dtypes):
        if all(observation.unit >= torch.finfo(dtype).eps / 8 for observation in shown):
            continue
        name, needed = short(dtype), short(dtypes[0])
        first = [few_steps(observation, observation.inputs.steps, 1) for observation in shown]
        for biases in (True, False):
            lowered = model.with_each_part(partial(_lowered, to=dtype, biases=biases))
            if worst(lowered, first) > 1 or not proved(lowered, shown):
                continue
            but = "" if biases else ", the biases are not"
            words = Words(
                f"the weights are rounded to {name}{but}",
                f"with the reference's weights as {name} has them the two agree.",
                f"store the weights in {needed}",
            )
            return Cause("precision", name), words, largest(lowered, shown)[0]
    return None


def _size(shown: Sequence[Observation]) -> float:
    """The root mean square of the output."""
    outputs = [
        observation.output[observation.usable("output")]
        for observation in shown
        if observation.output is not None
    ]
    values = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), *outputs])
    return float(values.nan_to_num(0.0).pow(2).mean().sqrt())


def _beside(model: Model, shown: Sequence[Observation]) -> float:
    """The largest difference of what came back beside the output, relative to what is above 1."""
    worst = 0.0
    for observation in shown:
        for name, target, value in observation.beside(model):
            if name == "output" or value is None:
                continue
            away = distance(value, target) / value.abs().nan_to_num(1.0).clamp_min(1)
            worst = max(worst, float(torch.where(observation.usable(name), away, 0.0).max()))
    return worst


def coarse_unit(
    model: Model, shown: Sequence[Observation], dtypes: Sequence[torch.dtype]
) -> tuple[str, float] | None:
    """What the numbers that came back have no more than, with a rounding of computing that allows
    as much as that hides: half a step, or half of the last bit. None where all digits came back."""
    returned = _returned(dtypes)
    grid = None if returned else grid_of(model, shown)
    if grid is not None:
        return grid.name, SLACK * grid.step / 2 / LEAST
    return (returned, 2.0 ** -MANTISSAS[returned] / LEAST) if returned else None


def too_coarse(dtypes: Sequence[torch.dtype]) -> str:
    """A sentence where the type of the output hides what a mistake would leave; else empty."""
    returned, needed = _returned(dtypes), short(dtypes[0])
    return (
        f"Your output is {returned}, too coarse to search for mistakes in: compute in "
        f"{needed} and return {needed} to have mistakes searched for."
        if returned
        else ""
    )


def _returned(dtypes: Sequence[torch.dtype]) -> str:
    """The type of the output, where it holds fewer bits than the layer's; else empty."""
    name = short(dtypes[-1])
    return name if dtypes[-1] in LOWER and dtypes[0] not in LOWER else ""


def _of_output(model: Model, name: str, dtypes: Sequence[torch.dtype]) -> Words:
    needed = short(dtypes[0])
    return Words(
        f"lower precision, {name}",
        f"your output is {name}, of {MANTISSAS[name]} significant bits; that of "
        f"{model.structure.kind} is {needed}.",
        f"compute in {needed} and return {needed}",
    )


def of_the_size(model: Model, shown: Sequence[Observation], searched: Sequence[Observation]) -> str:
    """A question, where the differences are as large as rounding to a lower precision, in most
    units from the first step on, in every row, and of no part the single steps agree, as far as
    what was ``searched`` tells; else empty."""
    away: list[Tensor] = []
    numbers: list[Tensor] = []
    for observation in shown:
        outputs = _output(model, observation)
        if outputs is None:
            return ""
        seen, right = outputs
        inside = observation.usable("output").all(-1)
        wrong = (seen - right).abs() > observation.allowed["output"]
        if not bool((wrong.any(-1) & inside).any(0).all()):
            return ""  # that precision would show in every row
        away.append((seen - right)[inside])
        numbers.append(right[inside])
    differences, expected = torch.cat(away), torch.cat(numbers)
    if (
        differences.numel() < FEW
        or _one_sided(differences)
        or _one_sided(differences * expected.sign())
    ):
        return ""
    steps = opened_parts(model, [*searched, *shown]).values()
    if any(float(part.misfit([part.part]).worst[0]) <= 1 for part in steps):
        return ""  # and in every layer
    size = float(differences.pow(2).mean().sqrt())
    usual = float(expected.pow(2).mean().sqrt())
    largest = float((differences.abs() / expected.abs().clamp(min=usual)).max()) if usual else 0.0
    for name, bits in MANTISSAS.items():
        unit = 2.0**-bits
        coarser = all(observation.unit < unit / 4 for observation in shown)
        alike = coarser and unit / 16 < size < 4 * unit and largest < FARTHEST * unit
        if alike and _spread_out(model, shown, unit / 16):
            which = "float16's or tf32's" if name == "float16" else f"{name}'s"
            return (
                f"In most units the differences are as large as {which} rounding "
                f"({size:.1e} on average), from the first step on: is something computed in that "
                f"precision?"
            )
    return ""


def of_a_gpu(model: Model, shown: Sequence[Observation]) -> str:
    """A question, where the differences are no larger than what a GPU's functions are off by; else
    empty."""
    if any(observation.unit != UNIT[torch.float32] for observation in shown):
        return ""
    if max(worst(model, shown), worst_step(model, shown)) > GPU_ROUNDINGS:
        return ""
    return (
        f"The differences are as small as those of tanh and sigmoid on a GPU, where those of cuDNN "
        f"in float32 may be off by {GPU_OFF:.0e}: was it computed there? Numbers that are given as "
        f"they lie on the GPU are compared with that in mind."
    )


def _one_sided(away: Tensor) -> bool:
    """Whether the differences (row, unit) of most units have one sign, as those of a factor or of a
    constant have, and of rounding have not."""
    return float(away.sign().mean(0).abs().mean()) > ONE_SIDED


def _words(title: str, sentence: str, dtypes: Sequence[torch.dtype]) -> Words:
    line = 'torch.set_float32_matmul_precision("highest")   # and no autocast, no .half()'
    repair = line if dtypes[0] == torch.float32 else f"compute in {short(dtypes[0])}"
    return Words(f"lower precision, {title}", sentence, repair)


def _few_bits(shown: Sequence[Observation], bits: int) -> bool:
    outputs = [observation.output for observation in shown if observation.output is not None]
    return bool(outputs) and all(bool((_rounded(out, bits) == out).all()) for out in outputs)


def _rounded(value: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(value)
    return torch.ldexp(torch.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def _differences(
    model: Model, shown: Sequence[Observation], bits: int, way: tuple[bool, bool]
) -> Pairs:
    """What was seen less what is right, and what rounded operands give less what is right: of
    single steps where the last layer's can be opened, else of the first steps of whole runs. Each
    a list of (row, unit)."""
    parts = opened_parts(model, shown)
    last = [part for (layer, _), part in parts.items() if layer == model.num_layers - 1]
    pairs = [_of_steps(part, bits, *way) for part in last]
    pairs = pairs or _of_runs(model, shown, bits, way[0])
    return [difference for difference, _ in pairs], [rounding for _, rounding in pairs]


def _lowered(part: Part, to: int | torch.dtype, biases: bool) -> Part:
    """The part with matrices of so many bits, or as a type holds them, and with such biases if
    these are rounded too."""

    def rounded(value: Tensor) -> Tensor:
        if value.dim() == 1 and not biases:
            return value
        return _rounded(value, to) if isinstance(to, int) else value.to(to).double()

    token = ("rounded", str(to), biases, part.token)
    return part.with_weights(part.weights.map(rounded), token=token)


def _of_steps(part: OpenedPart, bits: int, biases: bool, results: bool) -> tuple[Tensor, Tensor]:
    differences: list[Tensor] = []
    expected: list[Tensor] = []
    for steps in part.steps:
        states = steps.known
        # what stands in no product stays as it is
        operand = _rounded(states.before["h"], bits)
        product = partial(_rounded, bits=bits) if results else None
        rounded = replace(states, x=_rounded(states.x, bits), operand=operand, product=product)
        right = opened([part.part], states, ["h"])["h"][0]
        lowered = opened([_lowered(part.part, bits, biases)], rounded, ["h"])["h"][0]
        inside = slice(None) if states.valid is None else states.valid
        differences.append((steps.after["h"] - right)[inside].flatten(0, -2))
        expected.append((lowered - right)[inside].flatten(0, -2))
    return torch.cat(differences), torch.cat(expected)


def _of_runs(
    model: Model, shown: Sequence[Observation], bits: int, biases: bool
) -> list[tuple[Tensor, Tensor]]:
    pairs: list[tuple[Tensor, Tensor]] = []
    for observation in shown:
        run = _of_run(model, observation, bits, biases)
        if run is None:
            return []
        away, rounding, mask = (value[:FIRST] for value in run)
        pairs.append((away[mask], rounding[mask]))
    return pairs


def _of_run(
    model: Model, observation: Observation, bits: int, biases: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """What was seen less what is right, and what rounded operands give less what is right, (time,
    batch, unit), with which are compared, (time, batch). None where there is no output, or one of
    another shape."""
    inputs, outputs = observation.inputs, _output(model, observation)
    lowered = model.with_each_part(partial(_lowered, to=bits, biases=biases))
    initial = {name: _rounded(value, bits) for name, value in inputs.initial.items()}
    rounded = replace(inputs, x=_rounded(inputs.x, bits), initial=initial)
    [outcome] = Simulator(rounded).run([lowered])
    if outputs is None or outcome is None:
        return None
    seen, right = outputs
    return seen - right, outcome.output - right, observation.usable("output").all(-1)


def _throughout(model: Model, shown: Sequence[Observation], bits: int) -> bool:
    """Whether no number at any time is off by more than rounded operands come to, many times over:
    what was compared are single steps, or the first ones."""
    least = 2.0**-bits * _size(shown)
    for observation in shown:
        run = _of_run(model, observation, bits, True)
        if run is None:
            continue
        away, rounding, mask = run
        off = (away.abs() * mask.unsqueeze(-1)).amax((1, 2))
        usual = (rounding.abs() * mask.unsqueeze(-1)).amax((1, 2)).cummax(0).values
        if bool((off > OUTLIER * usual.clamp_min(least)).any()):
            return False
    return True


def _correlation(pairs: Pairs) -> float:
    """About each unit's own mean: what is always the same in a unit is no rounding of operands
    that change. The few that are much larger than the others, as where a layer is chaotic, count no
    more than others do."""
    if not pairs[0]:
        return 0.0
    a, b = (
        _cut(torch.cat([(values - values.mean(0)).flatten() for values in side])) for side in pairs
    )
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm else 0.0


def _cut(away: Tensor) -> Tensor:
    """Without what is beyond a few times the median."""
    most = OUTLIER * float(away.abs().median())
    return away.clamp(-most, most)


def _spread_out(model: Model, shown: Sequence[Observation], least: float = 0.0) -> bool:
    """Whether most units differ at the first step, as they do by rounding, some by ``least``."""
    for observation in shown:
        outputs = _output(model, observation)
        if outputs is None:
            continue
        seen, right = outputs
        away = (seen - right).abs()
        width = away.shape[-1] // model.num_directions
        for d, part in enumerate(model.parts[-1]):
            half = away[-1 if part.backward else 0, :, d * width : (d + 1) * width].amax(0)
            if float(half.max()) < least or float(half.median()) < float(half.max()) / 1000:
                return False
    return True
