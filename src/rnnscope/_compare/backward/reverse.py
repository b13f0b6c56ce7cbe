"""The reverse pass of one layer in one direction, many wrong ones at once.

It derives from the cell's equations as that of ``_gradients`` does, by the same ``Block``. What a
mistake changes is a slot: a way that an adjoint goes down, a slope, a matrix, what is carried, what
the parameters' gradients are summed of. Variants differ in the slots; each is one place of a dim
of its own, so that hundreds cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.backward.forward import PartForward
from rnnscope._gradients.backward import Adjoint, Block, Factor
from rnnscope._layers.sequences import running_order
from rnnscope.cells.algebra import Apply, Expr, FromH, FromX, Previous, Project, Vector, evaluate
from rnnscope.cells.derivation import Root, adjoint_of

__all__ = ["Pass", "Slots", "UpstreamGradients", "merged", "parameters", "reverse"]

Slots = Mapping[tuple[Any, ...], Any]
"""What is changed, and how. ``("edge", equation, leaf)``: "cut", "bare" (the factors between the
equation and the leaf left out) or "negated"; ``("slope", equation, function)``: see ``SLOPES``, of
the outer function of an equation "outer", else "inner"; ``("hh",)``: "transposed" or "cut";
``("truncated",)``: ("every", k) or ("last", k); ``("direct",)``: a factor as text, or "last";
``("final", state)``: "cut". The others concern ``parameters``."""

LOOP = ("edge", "slope", "hh", "truncated", "direct", "final")
"""Slots that change the loop over time."""


SLOPES: dict[str, Callable[[Apply, Tensor, Tensor], Tensor]] = {
    "missing": lambda expr, value, argument: torch.ones_like(value),
    "at_argument": lambda expr, value, argument: expr.function.derivative(argument),
    "of_output": lambda expr, value, argument: expr.function.slope(
        value, expr.function.forward(value)
    ),
    "value": lambda expr, value, argument: value,
}
"""Wrong slopes of a function f at a, with y = f(a): 1; f' written in y, taken of a; f'(y); y."""


def merged(*together: Slots) -> Slots | None:
    """The slots of several mistakes; None where two change the same."""
    total: dict[tuple[Any, ...], Any] = {}
    for slots in together:
        if total.keys() & slots.keys():
            return None
        total.update(slots)
    return total


@dataclass(frozen=True)
class UpstreamGradients:
    """What reaches a part from outside: ``h`` (time, variant or 1, batch, unit), and each state's
    last value (batch, unit)."""

    h: Tensor
    final: Mapping[str, Tensor]


class _Variants(Block):
    """The numbers of all steps, (time, 1, batch, unit), with factors of each variant."""

    def __init__(self, part: PartForward, variants: Sequence[Slots]) -> None:
        def wide(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.unsqueeze(1) for name, value in values.items()}

        super().__init__(
            part.cell,
            part.weights,
            wide(part.values),
            wide(part.before),
            part.x.unsqueeze(1),
        )
        self.variants = variants
        self.top: Adjoint | None = None
        keys = {key for slots in variants for key in slots if key[0] in ("edge", "slope")}
        self.rules = {key: self._rules(key) for key in keys}

    def _rules(self, key: tuple[Any, ...]) -> dict[str, Tensor]:
        """Each rule for a slot with the variants that have it, (variant, 1, 1)."""
        rules = [slots.get(key) for slots in self.variants]
        kinds = dict.fromkeys(rule for rule in rules if rule is not None)
        return {rule: _column([rule == r for r in rules]) for rule in kinds}

    def _descend(self, expr: Expr, adjoint: Adjoint) -> None:
        outermost = self.top is None
        if outermost:
            self.top = adjoint
        super()._descend(expr, adjoint)
        if outermost:
            self.top = None

    def _arrived(self, leaf: Expr, adjoint: Adjoint) -> Adjoint:
        changed = dict(adjoint)
        for rule, where in self.rules.get(("edge", self.equation, leaf), {}).items():
            for root, factor in changed.items():
                value = self._tensor(factor)
                if rule == "bare":
                    assert self.top is not None, "something descends"
                    changed[root] = torch.where(where, self._tensor(self.top[root]), value)
                else:
                    changed[root] = torch.where(where, -value if rule == "negated" else 0, value)
        return changed

    def _tensor(self, factor: Factor) -> Tensor:
        return torch.as_tensor(factor, dtype=self.x.dtype, device=self.x.device)

    def slope(self, expr: Apply, value: Tensor, name: str | None) -> Tensor:
        slope = super().slope(expr, value, name)
        depth = "inner" if name is None else "outer"
        for rule, where in self.rules.get(("slope", self.equation, depth), {}).items():
            argument = evaluate(expr.argument, self)
            slope = torch.where(where, SLOPES[rule](expr, value, argument), slope)
        return slope


def _column(values: Sequence[bool | float]) -> Tensor:
    """(variant, 1, 1)."""
    kind = torch.bool if isinstance(values[0], bool) else torch.float64
    return torch.tensor(values, dtype=kind, device="cpu").view(-1, 1, 1)


@dataclass
class Pass:
    """A reverse pass, of all variants: the adjoints of its roots and of the gates' products with h
    and x (time, variant, batch, ...), those of the initial states (variant, batch, unit), of what
    it read (time, variant, batch, feature)."""

    part: PartForward
    block: Block
    roots: dict[Root, Tensor]
    initial: dict[str, Tensor]
    of_h: dict[str, Tensor]
    of_x: dict[str, Tensor]
    x: Tensor

    def combined(self, adjoint: Adjoint) -> Tensor:
        """Σ factor × root, (time, variant, batch, unit)."""
        first, *further = [self.roots[root] * factor for root, factor in adjoint.items()]
        return sum(further, first)

    def adjoint(self, name: str) -> Tensor | None:
        """Of a quantity, (time, variant, batch, unit); None where there is none."""
        adjoint = adjoint_of(self.block, name)
        return self.combined(adjoint) if adjoint else None

    def variant(self, k: int) -> Tensor:
        """The x of one variant, (time, 1, batch, feature)."""
        return self.x[:, k : k + 1]


def reverse(
    part: PartForward,
    upstream: UpstreamGradients,
    valid: Tensor | None,
    variants: Sequence[Slots] = ({},),
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> Pass:
    """One layer in one direction backwards, with each of these changes; ``rounded`` changes what
    is carried, at every step."""
    block = _Variants(part, variants).derived()
    return _Loop(part, block, upstream, valid, variants, rounded).run()


class _Loop:
    """The loop over time, from the step that ran last to the first."""

    def __init__(
        self,
        part: PartForward,
        block: Block,
        upstream: UpstreamGradients,
        valid: Tensor | None,
        variants: Sequence[Slots],
        rounded: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.part, self.block, self.valid, self.rounded = part, block, valid, rounded
        self.steps, self.batch = part.x.shape[:2]
        order = torch.arange(self.steps, device="cpu")
        self.order = order.flip(0) if part.backward else order
        """The place of each step in the order in which the part runs."""
        self.variants, weights = variants, part.weights
        self.gates = [affine.gate for affine in part.cell.affine if affine.h is not None]
        rows = [weights.hh[weights.rows(gate)] for gate in self.gates]
        right = torch.cat(rows) if rows else weights.hh[:0]
        self.hh = right
        rules = [slots.get(("hh",)) for slots in variants]
        if any(rules) and rows:
            square = weights.hh.shape[1] == weights.hidden_size
            turned = torch.cat([matrix.T for matrix in rows]) if square else right
            self.hh = torch.where(_column([rule == "transposed" for rule in rules]), turned, right)
            self.hh = self.hh * _column([0.0 if rule == "cut" else 1.0 for rule in rules])
        count = len(variants)
        self.carry: dict[str, Tensor] = {}
        for state in part.cell.states:
            kept = _column([0.0 if ("final", state) in slots else 1.0 for slots in variants])
            self.carry[state] = upstream.final[state] * kept.expand(count, 1, 1)
        self.direct = self._direct(upstream.h)
        self.handed, self.reached = self._dropped("every"), self._dropped("last")

    def _direct(self, h: Tensor) -> Tensor:
        """What reaches h at every step, (time, variant, batch, unit)."""
        if self.valid is not None:
            h = h * self.valid[:, None, :, None]
        choices = [slots.get(("direct",), "1") for slots in self.variants]
        last = [choice == "last" for choice in choices]
        scaled = h * _column([1.0 if choice == "last" else float(choice) for choice in choices])
        if any(last):
            is_earlier = (self.order != self.steps - 1).view(-1, 1, 1, 1)
            scaled = torch.where(_column(last) & is_earlier, 0, scaled)
        return scaled

    def _dropped(self, kind: str) -> Tensor | None:
        """(time, variant, 1, 1): 0 where a truncation takes effect, else 1. "every": on what a step
        that starts a new stretch hands back; "last": on all that reaches a step before the last."""
        rules = [slots.get(("truncated",), ("", 0)) for slots in self.variants]
        if not any(rule == kind for rule, _ in rules):
            return None
        kept = torch.ones(self.steps, len(rules), 1, 1, dtype=torch.float64, device="cpu")
        for k, (rule, count) in enumerate(rules):
            if rule == kind:
                starts = (self.order > 0) & (self.order % count == 0)
                kept[starts if kind == "every" else self.order < self.steps - count, k] = 0
        return kept

    def run(self) -> Pass:
        block, order = self.block, running_order(range(self.steps), not self.part.backward)
        by_step: dict[Root, dict[int, Tensor]] = {root: {} for root in block.roots}
        for t in order:
            for root, adjoint in self._step(t).items():
                by_step[root][t] = adjoint
        roots = {
            root: torch.stack([values[t] for t in range(self.steps)])
            for root, values in by_step.items()
        }
        count, units = len(self.variants), self.part.weights.hidden_size
        whole = Pass(self.part, block, roots, self.carry, {}, {}, self.part.x[:, None])
        shape = (self.steps, count, self.batch, units)
        weights = self.part.weights
        total = torch.zeros(*shape[:3], weights.ih.shape[1], dtype=weights.ih.dtype, device="cpu")
        for leaf, sums in block.at.items():
            if not sums or not isinstance(leaf, FromX | FromH):
                continue
            value = whole.combined(sums).expand(shape)
            if isinstance(leaf, FromX):
                whole.of_x[leaf.gate] = value
                total += value @ weights.of_x(leaf.gate)[0]
            else:
                whole.of_h[leaf.gate] = value
        whole.x = total
        return whole

    def _step(self, t: int) -> dict[Root, Tensor]:
        """The adjoints of one step's roots; what goes to the states before is carried."""
        block = self.block
        live: dict[Root, Tensor] = {}
        valid = None if self.valid is None else self.valid[t, None, :, None]
        for root in block.roots:
            if isinstance(root, str):
                adjoint = self.carry[root] if valid is None else self.carry[root] * valid
                if root == "h":
                    adjoint = adjoint + self.direct[t]
                if self.reached is not None:
                    adjoint = adjoint * self.reached[t]
                live[root] = self._sum(block.feeds[root], live, t, adjoint)
            else:
                product = self._sum(block.feeds[root], live, t, None)
                assert product is not None, "a root has something above it"
                live[root] = product @ self._matrix(root)
        for state, carried in self.carry.items():
            after = self._sum(block.at.get(Previous(state), {}), live, t, None)
            if state == "h" and self.gates:
                parts = [self._sum(block.at.get(FromH(g), {}), live, t, None) for g in self.gates]
                like = carried.new_zeros(*carried.shape[:2], self.part.weights.hidden_size)
                full = [like if p is None else p.expand_as(like) for p in parts]
                product = torch.cat(full, -1) @ self.hh
                after = product if after is None else after + product
            if after is None:
                after = torch.zeros_like(carried)
            if self.handed is not None:
                after = after * self.handed[t]
            if self.rounded is not None:
                after = self.rounded(after)
            self.carry[state] = after if valid is None else torch.where(valid, after, carried)
        return live

    def _matrix(self, root: Expr) -> Tensor:
        weights = self.part.weights
        return weights.of_h(root.gate)[0] if isinstance(root, FromH) else weights.projection

    def _sum(self, adjoint: Adjoint, live: Mapping[Root, Tensor], t: int, total: Any) -> Any:
        for root, factor in adjoint.items():
            if isinstance(factor, Tensor) and factor.dim() == 4:
                factor = factor[t]
            value = live[root] * factor
            total = value if total is None else total + value
        return total


# the parameters ----------------------------------------------------------------------------------


def parameters(run: Pass, slots: Slots) -> dict[str, Tensor]:
    """The gradients of the parameters by PyTorch's names without suffix, of the initial states
    ("h_0") and so on, (variant, ...), with changes that do not concern the loop.

    ``("h_of_hh",)``: "after" (h_t in place of h_(t-1)) or "zeros" (in place of h_0);
    ``("x_of_ih",)``: "earlier" or "later"; ``("steps",)``: "first" or "last"; ``("bias", name)``:
    "zero" or "copied" from the other; ``("weight_hh",)``: "transposed"; ``("scale",)`` a factor;
    ``("clip",)`` a limit; ``("initial", state)``: "zero".
    """
    part, cell = run.part, run.part.cell
    kept = _steps_kept(part, slots.get(("steps",)))
    x, before = _x_read(part, slots), _h_read(part, slots)
    like = next(iter(run.of_x.values()))

    def summed(adjoint: Tensor | None, read: Tensor | None) -> Tensor:
        """Over steps and rows: (variant, unit, feature), or (variant, unit) of a bias."""
        value = torch.zeros_like(like) if adjoint is None else adjoint
        if kept is not None:
            value = value * kept
        if read is None:
            return value.sum((0, 2))
        flat = value.permute(1, 3, 0, 2).flatten(2)
        return flat @ read.flatten(0, 1)

    inside = {leaf.gate: leaf.of for leaf in run.block.at if isinstance(leaf, FromH)}
    reads = {
        gate: before if of == Previous("h") else evaluate(of, run.block).squeeze(1)
        for gate, of in ((gate, inside.get(gate, Previous("h"))) for gate in cell.gates_from_h)
    }
    total: dict[str, Tensor] = {}
    for kind, adjoints, read_by in (
        ("ih", run.of_x, dict.fromkeys(cell.gates_from_x, x)),
        ("hh", run.of_h, reads),
    ):
        pairs = [(adjoints.get(gate), read) for gate, read in read_by.items()]
        if pairs:
            total[f"weight_{kind}"] = torch.cat([summed(a, read) for a, read in pairs], 1)
        if pairs and part.weights.b_ih is not None:
            total[f"bias_{kind}"] = torch.cat([summed(a, None) for a, _ in pairs], 1)
    for leaf, adjoint in run.block.at.items():
        if isinstance(leaf, Project):
            of = evaluate(leaf.of, run.block).squeeze(1)
            total["weight_hr"] = summed(run.combined(adjoint), of)
        elif isinstance(leaf, Vector):
            total[leaf.name] = summed(run.combined(adjoint), None)
    return _finished(total, run, slots)


def _finished(total: dict[str, Tensor], run: Pass, slots: Slots) -> dict[str, Tensor]:
    stored = {"ih": "weight_ih", "hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    for name, order in run.part.part.pending.items():
        value = total[stored[name]]
        total[stored[name]] = torch.zeros_like(value).index_copy(1, order, value)
    for name in ("bias_ih", "bias_hh"):
        rule = slots.get(("bias", name))
        if rule == "zero":
            total[name] = torch.zeros_like(total[name])
        elif rule == "copied":
            total[name] = total["bias_hh" if name == "bias_ih" else "bias_ih"]
    if ("weight_hh",) in slots:
        blocks = torch.split(total["weight_hh"], run.part.weights.hidden_size, 1)
        total["weight_hh"] = torch.cat([block.transpose(1, 2) for block in blocks], 1)
    scale, limit = slots.get(("scale",)), slots.get(("clip",))
    for name, value in total.items():
        scaled = value if scale is None else value * scale
        total[name] = scaled if limit is None else scaled.clamp(-limit, limit)
    for state, value in run.initial.items():
        is_zero = ("initial", state) in slots
        total[f"{state}_0"] = torch.zeros_like(value) if is_zero else value
    return total


def _steps_kept(part: PartForward, choice: str | None) -> Tensor | None:
    if choice is None:
        return None
    steps = part.x.shape[0]
    kept = torch.zeros(steps, 1, 1, 1, dtype=part.x.dtype, device="cpu")
    kept[0 if (choice == "first") != part.backward else steps - 1] = 1
    return kept


def _moved(value: Tensor, back: bool) -> Tensor:
    """(time, ...) a step later in time, or earlier, zeros where there is none."""
    gap = torch.zeros_like(value[:1])
    return torch.cat([value[1:], gap]) if back else torch.cat([gap, value[:-1]])


def _x_read(part: PartForward, slots: Slots) -> Tensor:
    choice = slots.get(("x_of_ih",))
    return part.x if choice is None else _moved(part.x, (choice == "later") != part.backward)


def _h_read(part: PartForward, slots: Slots) -> Tensor:
    match slots.get(("h_of_hh",)):
        case "after":
            return part.values["h"]
        case "zeros":
            return _moved(part.values["h"], part.backward)
    return part.before["h"]
