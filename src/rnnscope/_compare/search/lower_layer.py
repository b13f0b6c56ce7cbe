"""Two layers of which only the upper one's steps are known: two mistakes in the lower one, or one
in each, in any direction.

The lower layer runs with every set of up to two mistakes. What it emits under each is what the
upper layer may have read, whose first steps then tell which of these it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Model, Part, PartIndex
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.model.steps import OpenedPart, entered, opened_parts
from rnnscope._compare.search.choices import Choices, tensors_of, unique_rows
from rnnscope._compare.search.few_steps import (
    CHUNK,
    ROWS,
    SLACK,
    STEPS,
    FewSteps,
    Products,
    Reads,
    fits,
)
from rnnscope._compare.search.merging import merged
from rnnscope._compare.search.one_part import PartSearch, plain
from rnnscope._compare.work import SUM, Account, counted, is_over, spend
from rnnscope.cells import Cell

__all__ = ["in_two_layers"]

MOST = 256
"""Sets that fit, above which the first steps tell too little."""

LOWER = 0.15
"""Of the work of a search what the runs of the lower layer may take, single mistakes first."""

NONE = -1
"""In place of a mistake, or of a set that is not among those of a table."""

PAIRS = 2
"""All pairs of mistakes are combined."""

FIRST = torch.zeros(1, dtype=torch.long, device="cpu")
"""The one unit that is looked at first."""


def in_two_layers(
    model: Model, observations: Sequence[Observation], parts: PartSearch, work: float
) -> list[Causes]:
    """Sets of mistakes that explain the first steps of the upper layer; none where that is not the
    only one of two that is seen. A share of so much ``work`` goes into running the lower one."""
    observation = _telling(model, observations)
    if model.num_layers != 2 or observation is None:
        return []
    inputs, [outcome] = entered(model, observation.inputs), observation.simulator.run([model])
    if inputs is None or outcome is None or not all(plain(p) for row in model.parts for p in row):
        return []
    opened = opened_parts(model, [observation], {(0, 1): outcome.layers[0]})
    directions = range(model.num_directions)
    upper = [opened.get((1, d)) for d in directions]
    lower: list[_Emissions] = []
    for d in directions:
        initial = {name: value[0, d] for name, value in inputs.initial.items()}
        final = {
            name: (value[0, d], SLACK * observation.allowed[f"{name}_n"][0, d])
            for name, value in observation.final.items()
        }
        run = _LowerRun(model.parts[0][d], parts.choices, inputs.x, initial, final)
        with counted(Account(LOWER * work / model.num_directions)):
            emissions = run.emissions()
        if emissions is None:
            return []
        lower.append(emissions)
    search = _TwoLayers(model, parts.choices, tuple(lower))
    opened_above = [part for part in upper if part is not None]
    return search.sets(opened_above) if len(opened_above) == len(upper) else []


def _telling(model: Model, observations: Sequence[Observation]) -> Observation | None:
    """A few rows of a call whose output is known: the first steps, or where one direction reads
    from the end the whole of a short call."""
    whole = [call for call in observations if call.output is not None]
    # of one step from zeros W_hh does not show
    telling = [call for call in whole if call.inputs.lengths is None]
    telling = [call for call in telling if call.inputs.given or call.inputs.steps > 1]
    if not telling:
        return None
    if model.num_directions == 1:
        return few_steps(max(telling, key=lambda call: call.fullness), STEPS, ROWS)
    shortest = min(telling, key=lambda call: (not call.inputs.given, call.inputs.steps))
    return few_steps(shortest, shortest.inputs.steps, ROWS)


@dataclass(frozen=True)
class _Sets:
    """Sets of up to two mistakes with the same equations: ``members`` (set, 2) the places of the
    mistakes in the list of all, NONE where there is one fewer; ``variants`` (distinct, group) what
    they do to the weights, and ``which`` (set) of these each has."""

    cell: Cell
    members: Tensor
    variants: Tensor
    which: Tensor


def _sets(part: Part, choices: Choices, units: Tensor | None) -> Iterator[_Sets]:
    """All sets of up to two mistakes."""
    order = {cause: k for k, cause in enumerate(choices.combined)}

    def places(causes: Iterable[Cause]) -> Tensor:
        return torch.tensor([order[c] for c in causes], dtype=torch.long, device="cpu")

    of_weights = places(choices.effects(part).weights)
    for size in range(3):
        for weights, cells in choices.sets(part, size, units, PAIRS):
            count = len(weights.members)
            none = torch.full((count, 2 - size), NONE, dtype=torch.long, device="cpu")
            for cell, equations in cells:
                of_cell = places(equations).expand(count, -1)
                members = torch.cat([of_weights[weights.members], of_cell, none], 1)
                spend(SUM * count)
                yield _Sets(cell, members, weights.variants, weights.which)


def _number_of(members: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The number of the set of two mistakes of so many, (count + 1, count + 1), NONE where there is
    none; the last mistake stands for none."""
    table = torch.full((count + 1, count + 1), NONE, dtype=torch.long, device="cpu")
    first, second = members.unbind(1)
    table[first, second] = table[second, first] = numbers
    return table


# what the lower layer emits ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Emissions:
    """What one direction may emit: ``members`` (set, 2) of every set the places of its mistakes in
    a list, and ``numbers`` (set), which of those ``emitted``, (number, time, batch, unit) by place
    in time, it is; NONE where its final states are not those that were seen."""

    members: Tensor
    numbers: Tensor
    emitted: Tensor


@dataclass(frozen=True)
class _LowerRun:
    """A part with what it reads, (time, batch, feature), its initial states, and its final ones,
    with what rounding allows them, as far as they were seen."""

    part: Part
    choices: Choices
    x: Tensor
    initial: dict[str, Tensor]
    final: dict[str, tuple[Tensor, Tensor]]

    @torch.inference_mode()
    def emissions(self) -> _Emissions | None:
        """What it emits under every set of up to two mistakes; None where no work is left."""
        members: list[Tensor] = []
        numbers: list[Tensor] = []
        emitted: list[Tensor] = []
        count = 0
        for sets in _sets(self.part, self.choices, None):
            if is_over():
                break
            emission, fit = self._run(sets.cell, sets.variants)
            number = torch.where(fit, fit.cumsum(0) - 1 + count, NONE)
            emitted.append(emission[fit])
            count += len(emitted[-1])
            members.append(sets.members)
            numbers.append(number[sets.which])
        if not members:
            return None
        return _Emissions(torch.cat(members), torch.cat(numbers), torch.cat(emitted))

    @cached_property
    def _products(self) -> Products:
        x = self.x.flip(0) if self.part.backward else self.x
        tensors = tensors_of(self.choices.variants(self.part, None, PAIRS))
        return Products.of(x, self.initial["h"].unsqueeze(0), tensors)

    def _run(self, cell: Cell, variants: Tensor) -> tuple[Tensor, Tensor]:
        """What variants of the weights emit, and whether they end as was seen."""
        part, products = replace(self.part, cell=cell), self._products
        emitted: list[Tensor] = []
        fit: list[Tensor] = []
        most = max(1, CHUNK // products.hh[0].numel())
        for start in range(0, len(variants), most):
            chunk = variants[start : start + most]
            states = {name: value.unsqueeze(0) for name, value in self.initial.items()}
            steps: list[Tensor] = []
            for t in range(len(self.x)):
                values = products.step(part, t, slice(None), chunk, states).run()
                spend(calls=len(cell.equations))
                states = {name: values[name] for name in states}
                steps.append(values["h"].expand(len(chunk), *values["h"].shape[1:]))
            emission = torch.stack(steps, 1)
            emitted.append(emission.flip(1) if part.backward else emission)
            expected = {name: value for name, (value, _) in self.final.items()}
            allowed = {name: value for name, (_, value) in self.final.items()}
            fit.append(fits(states, expected, allowed, len(chunk)))
        return torch.cat(emitted), torch.cat(fit)


# what the upper layer makes of it ----------------------------------------------------------------


@dataclass(frozen=True)
class _Hypotheses:
    """Mistakes in the directions of the lower layer: ``below`` (hypothesis, direction, 2) which of
    them, and ``emitted`` (hypothesis, direction) the number of what each emits; ``together``
    (hypothesis, 2) all of them."""

    below: Tensor
    emitted: Tensor
    together: Tensor

    @classmethod
    def of(cls, lower: Sequence[_Emissions], count: int) -> _Hypotheses:
        """Of every set of up to two mistakes, each in one direction, or in both."""
        tables = [_number_of(emissions.members, emissions.numbers, count) for emissions in lower]
        below: list[Tensor] = []
        unions: list[Tensor] = []
        for kept in product(product((True, False), repeat=2), repeat=len(lower)):
            if not all(any(mistake) for mistake in zip(*kept, strict=True)):
                continue  # of a mistake that stands nowhere
            members = lower[0].members
            sets = [
                torch.where(torch.tensor(keep, dtype=torch.bool, device="cpu"), members, NONE)
                for keep in kept
            ]
            # a single mistake has none beside it, which is kept once
            once = (members[:, 0] >= 0) & ((members[:, 1] >= 0) | all(keep[1] for keep in kept))
            below.append(torch.stack(sets, 1)[once])
            unions.append(members[once])
        sets_below, together = torch.cat(below), torch.cat(unions)
        columns = zip(tables, sets_below.unbind(1), strict=True)
        emitted = torch.stack([table[s[:, 0], s[:, 1]] for table, s in columns], 1)
        valid = (emitted >= 0).all(1)
        return cls(sets_below[valid], emitted[valid], together[valid])


@dataclass(frozen=True)
class _Upper:
    """One direction of the upper layer under every set of up to two mistakes: ``members`` (set, 2),
    its place among the ``cells`` and its ``variants`` (set, group)."""

    witness: OpenedPart
    choices: Choices
    cells: tuple[Cell, ...]
    cell_of: Tensor
    members: Tensor
    variants: Tensor

    @classmethod
    def of(cls, witness: OpenedPart, choices: Choices) -> _Upper:
        """Of what is known of it."""
        sets = list(_sets(witness.part, choices, None))
        counts = torch.tensor([len(s.members) for s in sets], dtype=torch.long, device="cpu")
        return cls(
            witness,
            choices,
            tuple(s.cell for s in sets),
            torch.arange(len(sets), device="cpu").repeat_interleave(counts),
            torch.cat([s.members for s in sets]),
            torch.cat([s.variants[s.which] for s in sets]),
        )

    def fitting(
        self, hypotheses: _Hypotheses, remaining: Tensor, emitted: Sequence[Tensor]
    ) -> Tensor:
        """Of the ``remaining`` hypotheses those under which its first steps fit with a set of its
        own, no more than two mistakes in all: (fit, 2), hypothesis and set."""
        count = len(self.choices.combined)
        numbers = torch.arange(len(self.members), device="cpu")
        table = _number_of(self.members, numbers, count)
        first, second = hypotheses.together[remaining].unbind(1)
        none = torch.full_like(first, NONE)
        pairs = [(remaining, table[a, b]) for a in (first, none) for b in (second, none)]
        alone = second < 0
        single, additions = torch.meshgrid(
            remaining[alone], torch.arange(count, device="cpu"), indexing="ij"
        )
        single, additions = single.flatten(), additions.flatten()
        lone = hypotheses.together[single, 0]
        pairs += [(single, table[a, additions]) for a in (lone, torch.full_like(lone, NONE))]
        tests = torch.cat([torch.stack(pair, 1) for pair in pairs])
        tests, _ = unique_rows(tests[tests[:, 1] >= 0])
        spend(SUM * len(tests))
        backward = self.witness.part.backward
        flows = tuple(flow.flip(1) if backward else flow for flow in emitted)
        fitting: list[Tensor] = []
        cell_of = self.cell_of[tests[:, 1]]
        order = cell_of.argsort(stable=True)
        ends = torch.bincount(cell_of, minlength=len(self.cells)).cumsum(0).tolist()
        for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if start < end and not is_over():
                chosen = tests[order[start:end]]
                reads = Reads(flows, hypotheses.emitted[chosen[:, 0]])
                fitting.append(chosen[self._fit(self.cells[k], chosen[:, 1], reads)])
        return torch.cat(fitting) if fitting else tests[:0]

    def _fit(self, cell: Cell, sets: Tensor, reads: Reads) -> Tensor:
        """Which of some sets with the same equations fit, under what each reads."""
        part, variants = self.witness.part, self.variants[sets]
        remaining = torch.arange(len(sets), device="cpu")
        for few in (self._first, self._whole):
            if few is not None and (few.units is None or separable(cell)):
                fit = few.beginning if few.units is not None else few.fitting
                [fits] = fit(part, [cell], variants[remaining], reads.of(remaining))
                remaining = remaining[fits]
        return remaining

    @cached_property
    def _first(self) -> FewSteps | None:
        return self._few(FIRST) if separable(self.witness.part.cell) else None

    @cached_property
    def _whole(self) -> FewSteps | None:
        return self._few(None)

    def _few(self, units: Tensor | None) -> FewSteps | None:
        few = FewSteps.of(self.witness, self.choices, units, PAIRS)
        if few is None:
            return None
        # the lower layer's rounding comes to the upper one's
        return replace(few, allowed={name: SLACK * value for name, value in few.allowed.items()})


@dataclass(frozen=True)
class _TwoLayers:
    """The search of both layers together."""

    model: Model
    choices: Choices
    lower: tuple[_Emissions, ...]

    def sets(self, upper: Sequence[OpenedPart]) -> list[Causes]:
        """What explains the upper layer's first steps, in every direction."""
        emitted = [emissions.emitted for emissions in self.lower]
        hypotheses = _Hypotheses.of(self.lower, len(self.choices.combined))
        remaining = torch.arange(len(hypotheses.emitted), device="cpu")
        options: list[dict[int, list[Causes]]] = []
        for witness in upper:
            part = _Upper.of(witness, self.choices)
            fits = part.fitting(hypotheses, remaining, emitted)
            remaining = torch.tensor(
                sorted(set(fits[:, 0].tolist())), dtype=torch.long, device="cpu"
            )
            if len(remaining) > MOST:
                return []
            options.append({})
            for k, number in fits.tolist():
                options[-1].setdefault(k, []).append(self._named(part.members[number]))
        explaining: list[Causes] = []
        for k in remaining.tolist():
            below = [self._named(members) for members in hypotheses.below[k]]
            for above in product(*(option[k] for option in options)):
                if len(frozenset().union(*below, *above)) <= 2:
                    explaining += merged(self.model, _by_part(below, above))
        return list(dict.fromkeys(explaining))

    def _named(self, members: Tensor) -> Causes:
        return frozenset(self.choices.combined[k] for k in members.tolist() if k >= 0)


def _by_part(below: Sequence[Causes], above: Sequence[Causes]) -> dict[PartIndex, list[Causes]]:
    return {(layer, d): [s] for layer, row in enumerate((below, above)) for d, s in enumerate(row)}
