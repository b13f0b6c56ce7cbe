"""Sets of up to three mistakes in two layers of which only the upper one is seen.

What the upper layer reads is what the lower one gives under each set of mistakes in it. So both
take their first steps together, with mistakes in the lower one alone, in the upper one alone, or
the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import torch
from torch import Tensor

from rnnscope._compare.mistakes import Changed, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.mistakes.compatible import compatible
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.steps import entered, opened_parts, tolerances
from rnnscope._compare.search.factored import GROUPS, Thorough, plain, tensors_of
from rnnscope._compare.search.few_rows import CHUNK, ROWS, SLACK, STEPS, Products, fits
from rnnscope._compare.work import SUM, is_over, spend
from rnnscope.cells import Cell

__all__ = ["Stacked"]

MORE = 4 * SLACK
"""Times what rounding allows a step of the upper layer: the lower one's rounding comes to it."""

FIRST = torch.zeros(1, dtype=torch.long, device="cpu")
"""The one unit that is looked at first."""

SETS = 2**17
"""Sets that are looked at together."""

MOST = 256
"""Sets that fit, above which the first steps tell too little."""


@dataclass(frozen=True)
class _Placed:
    """Sets of mistakes in the weights: ``lower`` (n, group) variants of the lower layer; of each
    set ``which`` of these and the variants of the ``upper`` one, (set, group); ``names`` gives a
    set's mistakes."""

    lower: Tensor
    which: Tensor
    upper: Tensor
    names: Callable[[int], Causes]

    @cached_property
    def reading(self) -> tuple[Tensor, Tensor]:
        """What is read by which variant of W_ih, each pair once (pair, 2), and that of each set."""
        most = int(self.upper[:, 0].max()) + 1
        keys, index = torch.unique(self.which * most + self.upper[:, 0], return_inverse=True)
        return torch.stack([keys // most, keys % most], 1), index


@dataclass(frozen=True)
class _Rows:
    """A few rows: the products of both layers, and those of a ``single`` unit of the upper one;
    their initial states, and h of the upper layer, (time, batch, unit), with what rounding
    ``allowed``."""

    products: tuple[Products, Products]
    single: Products
    initial: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    before: Tensor
    after: Tensor
    allowed: Tensor

    def fitting(self, lower: Part, upper: Part, placed: _Placed) -> list[int]:
        """The sets that fit, with the equations of both parts."""
        left = torch.arange(len(placed.which), device="cpu")
        with torch.inference_mode():
            if separable(upper.cell):  # most are told from the rest by one number
                left = left[self._by_one_unit(lower, upper, placed)]
            if len(left):
                mine, theirs = placed.lower[placed.which[left]], placed.upper[left]
                left = left[self._by_steps(lower, upper, mine, theirs)]
        return left.tolist()

    def _by_one_unit(self, lower: Part, upper: Part, placed: _Placed) -> Tensor:
        """Which sets fit one unit of the first row's first step."""
        first = slice(0, 1)
        [reads] = self._emitted(lower, placed.lower, first, 1)
        pairs, index = placed.reading
        of_x = torch.matmul(reads[pairs[:, 0]], self.single.ih[pairs[:, 1]].mT)[index]
        spend(len(pairs) * self.single.ih[0].numel())
        states = self._initial(first)
        states = {name: value[..., FIRST] for name, value in states.items()}
        before = {"h": self.before[0, first].unsqueeze(0), **states}
        values = self.single.step(upper, 0, first, placed.upper, before, FIRST, states, of_x)
        seen = {"h": self.after[0, first][..., FIRST]}
        return fits(values, seen, {"h": self.allowed[0, first]}, len(placed.upper))

    def _by_steps(self, lower: Part, upper: Part, mine: Tensor, theirs: Tensor) -> Tensor:
        """Which variants of the lower and the upper layer fit some steps of all rows."""
        products, every = self.products[1], slice(None)
        found: list[Tensor] = []
        most = max(1, CHUNK // products.ih[0].numel())
        for start in range(0, len(mine), most):
            some = slice(start, start + most)
            reads = self._emitted(lower, mine[some], every, len(self.before))
            variants, states = theirs[some], self._initial(every)
            fit = torch.ones(len(variants), dtype=torch.bool, device="cpu")
            for t, x in enumerate(reads):
                before = {"h": self.before[t].unsqueeze(0), **states}
                spend(x.shape[1] * len(variants) * products.ih[0].numel())
                of_x = torch.matmul(x, products.ih[variants[:, 0]].mT)
                values = products.step(upper, t, every, variants, before, of_x=of_x)
                fit &= fits(values, {"h": self.after[t]}, {"h": self.allowed[t]}, len(variants))
                states = {name: values[name] for name in states}
            found.append(fit)
        return torch.cat(found)

    def _initial(self, rows: slice) -> dict[str, Tensor]:
        """The upper layer's initial states that are run along, (1, batch, unit)."""
        return {n: v[rows].unsqueeze(0) for n, v in self.initial[1].items() if n != "h"}

    def _emitted(self, lower: Part, variants: Tensor, rows: slice, steps: int) -> list[Tensor]:
        """What the lower layer hands on at each step under each variant, (variant, batch, unit)."""
        products = self.products[0]
        most = max(1, CHUNK // products.hh[0].numel())
        found: list[list[Tensor]] = [[] for _ in range(min(steps, len(self.before)))]
        for start in range(0, len(variants), most):
            some = variants[start : start + most]
            states = {n: v[rows].unsqueeze(0) for n, v in self.initial[0].items()}
            for t, each in enumerate(found):
                values = products.step(lower, t, rows, some, states)
                states = {name: values[name] for name in states}
                each.append(values["h"].expand(len(some), *values["h"].shape[1:]))
        return [torch.cat(each) for each in found]


class Stacked:
    """All sets of mistakes in two layers of one direction, told by what the upper one gives."""

    def __init__(
        self,
        thorough: Thorough,
        parts: tuple[Part, Part],
        rows: _Rows,
        known: Changed,
    ):
        self._parts, self._rows, self._known = parts, rows, known
        self._few: dict[int, list[_Placed]] = {}
        lower, upper = parts
        self._kinds = thorough.kinds(lower, known), thorough.kinds(upper, known)
        self._variants = tuple(
            thorough.variants(part, kinds) for part, kinds in zip(parts, self._kinds, strict=True)
        )
        below, above = self._kinds
        # where a mistake of the lower layer stands among those of the upper one; -1 for nowhere
        places = [above.places.get(c, -1) for c in below.weights]
        self._above = torch.tensor(places, dtype=torch.long, device="cpu")

    @classmethod
    def of(
        cls,
        thorough: Thorough,
        model: Model,
        seen: Observation,
        known: Changed,
    ) -> Stacked | None:
        """Of a call; None where it is not one of two such layers."""
        if (model.num_layers, model.num_directions) != (2, 1) or seen.inputs.lengths is not None:
            return None
        [[lower], [upper]] = model.parts
        inputs, [outcome] = entered(model, seen.inputs), seen.simulator.run([model])
        if inputs is None or outcome is None or not (plain(lower) and plain(upper)):
            return None
        opened = opened_parts(model, [seen], {(0, 1): outcome.layers[0]}).get((1, 0))
        if opened is None or "h" not in opened.steps[0].after:
            return None
        [steps] = opened.steps
        index = slice(0, STEPS), slice(0, ROWS)
        initial = tuple(
            {name: value[layer, 0, :ROWS] for name, value in inputs.initial.items()}
            for layer in range(2)
        )
        tensors = [
            tensors_of(thorough.variants(part, thorough.kinds(part, known)))
            for part in (lower, upper)
        ]
        before, after = steps.known.before["h"][index], steps.after["h"]
        tolerance = tolerances(opened.part, steps)["h"].expand_as(after)
        below = Products.of(inputs.x[index], initial[0]["h"].unsqueeze(0), tensors[0])
        above = Products.of(steps.known.x[index], before, tensors[1])
        size = upper.stored.hidden_size
        gates = [k * size + FIRST for k in range(len(upper.cell.gates))]
        rows = _Rows(
            (below, above),
            above.of_rows(torch.cat(gates)),
            (initial[0], initial[1]),
            before,
            after[index],
            MORE * tolerance[index].amax(-1, keepdim=True),
        )
        return cls(thorough, (lower, upper), rows, known)

    def covers(self, together: Causes) -> bool:
        """Whether a pair of mistakes is one of those with at most one in the equations."""
        places, everywhere = {c.layer for c in together}, [c.everywhere() for c in together]
        kinds = [self._kinds[layer] for layer in (0, 1) if places & {None, layer}]
        return len(together) == 2 and all(one.covers(everywhere, 1) for one in kinds)

    def fitting(self, size: int, equations: int) -> Iterator[list[Causes]]:
        """The sets of so many mistakes, some of them in the lower layer and so many in the
        ``equations``, that fit, as they are found; none any more where that is no few. With one
        mistake more than in the equations, those of one less too."""
        lower, upper = self._parts
        count = 0
        for below, above, together in self._cells(equations):
            parts = replace(lower, cell=below), replace(upper, cell=above)
            for placed in self._placed(size - equations):
                if count > MOST or is_over():
                    return
                chosen = self._rows.fitting(*parts, placed)
                found = [together | placed.names(k) for k in chosen]
                found = [s for s in found if any(c.layer != 1 for c in s)]
                count += len(found)
                if found:
                    yield found[:MOST]

    def _cells(self, size: int) -> Iterator[tuple[Cell, Cell, Causes]]:
        """The cells of both layers with so many mistakes in the equations."""
        lower, upper = self._parts
        below, above = (kinds.equations for kinds in self._kinds)
        both = [c for c in below if c in above]
        for counts in _shares(size):
            for mine, theirs, shared in product(
                *(
                    combinations(some, n)
                    for some, n in zip((below, above, both), counts, strict=True)
                )
            ):
                one = self._cell(lower, (*mine, *shared))
                other = self._cell(upper, (*theirs, *shared))
                if one is not None and other is not None:
                    yield one, other, _named(mine, theirs, shared)

    def _cell(self, part: Part, together: Sequence[Cause]) -> Cell | None:
        changed = changed_part(part, together, self._known) if compatible(together) else None
        return None if changed is None else changed.cell

    def _placed(self, size: int) -> Iterator[_Placed]:
        """All sets of so many mistakes in the weights, some at a time; with one that of none."""
        if size > 2:
            for counts in _shares(size):
                yield from self._sharing(counts)
            return
        if size not in self._few:
            shares = _shares(0) + _shares(1) if size == 1 else _shares(size)
            every = [one for counts in shares for one in self._sharing(counts)]
            self._few[size] = [_joined(every)] if every else []
        yield from self._few[size]

    def _sharing(self, counts: tuple[int, int, int]) -> Iterator[_Placed]:
        """Sets of so many mistakes below, above, and in both."""
        below, above = self._kinds
        of_below, of_above = self._variants
        mine, theirs = below.members(counts[0]), above.members(counts[1])
        shared = below.members(counts[2])
        shared = shared[(self._above[shared] >= 0).all(1)]
        pairs = _beside(mine, shared, below.compatible)
        zeros = torch.zeros(1, len(GROUPS), dtype=torch.long, device="cpu")
        most = max(1, SETS // max(1, len(theirs)))
        for start in range(0, len(pairs), most):
            some = pairs[start : start + most]
            own, same = mine[some[:, 0]], shared[some[:, 1]]
            lower = below.with_these(
                zeros.expand(len(some), -1), torch.cat([own, same], 1), of_below
            )
            upward = self._above[same]
            which, other = _beside(upward, theirs, above.compatible).unbind(1)
            upper = above.with_these(
                zeros.expand(len(which), -1), torch.cat([upward[which], theirs[other]], 1), of_above
            )
            kept = (lower[which] >= 0).all(1) & (upper >= 0).all(1)
            which, other, upper = which[kept], other[kept], upper[kept]

            def names(
                k: int,
                own: Tensor = own,
                same: Tensor = same,
                which: Tensor = which,
                other: Tensor = other,
            ) -> Causes:
                n = int(which[k])
                return _named(
                    [below.weights[m] for m in own[n].tolist()],
                    [above.weights[m] for m in theirs[other[k]].tolist()],
                    [below.weights[m] for m in same[n].tolist()],
                )

            spend(sets=len(pairs[start : start + most]), numbers=SUM * len(which))
            if len(which):
                yield _Placed(lower, which, upper, names)


def _shares(size: int) -> list[tuple[int, int, int]]:
    """How many of so many stand below, above, and in both; the likely ones first."""
    counts = [
        (a, b, size - a - b) for a in range(size + 1) for b in range(size + 1) if a + b <= size
    ]
    return sorted(counts, key=lambda one: -max(one))


def _named(mine: Sequence[Cause], theirs: Sequence[Cause], shared: Sequence[Cause]) -> Causes:
    placed = [replace(c, layer=0) for c in mine] + [replace(c, layer=1) for c in theirs]
    return frozenset([*placed, *shared])


def _beside(mine: Tensor, shared: Tensor, compatible: Tensor) -> Tensor:
    """Which of some sets may stand beside which of others, in one place: (pair, 2)."""
    fit = torch.ones(len(mine), len(shared), dtype=torch.bool, device="cpu")
    for a, b in product(range(mine.shape[1]), range(shared.shape[1])):
        fit &= compatible[mine[:, a]][:, shared[:, b]]
    return fit.nonzero()


def _joined(every: Sequence[_Placed]) -> _Placed:
    """Several as one."""
    ends: list[int] = []
    lower: list[Tensor] = []
    which: list[Tensor] = []
    for one in every:
        which.append(one.which + sum(map(len, lower)))
        lower.append(one.lower)
        ends.append(sum(map(len, which)))

    def names(k: int) -> Causes:
        at = next(n for n, end in enumerate(ends) if k < end)
        return every[at].names(k - (ends[at - 1] if at else 0))

    return _Placed(
        torch.cat(lower), torch.cat(which), torch.cat([one.upper for one in every]), names
    )
