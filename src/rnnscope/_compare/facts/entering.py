"""What was done to x and to the initial states before they were read: another place, a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.facts.returned import DIGITS, KEPT, few_digits, why
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Inputs, Model
from rnnscope._compare.model.observed import Observation, few_steps

__all__ = ["of_dropout_on_x", "of_entering"]

ITERATIONS = 12
"""After so many steps of Newton's a number that is one is known to all its digits."""

SLOPE = 1e-5
"""By so much a number is moved to see what it changes."""

ROWS = 4
"""Rows on which a number is fitted."""

X: dict[str, tuple[Callable[[Tensor], Tensor], str, str, str]] = {
    "rolled": (
        lambda x: x.roll(1, -1),
        "x is read one place too early: feature k in place of k + 1",
        "each weight meets its own feature",
        "x = x   # not np.roll(x, 1, -1): mind where the first number stands",
    ),
    "rolled_back": (
        lambda x: x.roll(-1, -1),
        "x is read one place too late: feature k + 1 in place of k",
        "each weight meets its own feature",
        "x = x   # not np.roll(x, -1, -1): mind where the first number stands",
    ),
    "reversed": (
        lambda x: x.flip(-1),
        "the features of x are read in the opposite order",
        "each weight meets its own feature",
        "x = x   # not x[..., ::-1]",
    ),
    "reshaped": (
        lambda x: x.transpose(0, 1).reshape(x.shape),
        "x is reshaped from (batch, time) to (time, batch), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(0, 1)   # not x.reshape(time, batch, -1)",
    ),
    "reshaped_back": (
        lambda x: x.reshape(x.shape[1], x.shape[0], -1).transpose(0, 1),
        "x is reshaped from (time, batch) to (batch, time), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(0, 1)   # not x.reshape(batch, time, -1)",
    ),
    "features_first": (
        lambda x: x.permute(1, 2, 0).reshape(x.shape[1], *x.shape[::2]).transpose(0, 1),
        "x of (feature, time) is reshaped to (time, feature), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(-1, -2)   # not x.reshape(time, feature)",
    ),
    "time_first": (
        lambda x: x.transpose(0, 1).reshape(*x.shape[1:], -1).permute(2, 0, 1),
        "x of (time, feature) is reshaped to (feature, time), not transposed",
        "reshape keeps the order of the numbers in memory",
        "x = x.swapaxes(-1, -2)   # not x.reshape(feature, time)",
    ),
    "first_row": (
        lambda x: x[:, :1].expand_as(x),
        "every row reads the x of row 0",
        "each row has its own x",
        "x[t, row]   # with the stride of a row",
    ),
    "held": (
        lambda x: x[torch.arange(len(x), device="cpu") // 2 * 2],
        "every second step of x is read twice, the others never",
        "each step has its own x",
        "for t in range(T):   # one step at a time",
    ),
    "off_by_one": (
        lambda x: torch.cat([0 * x[..., :1], x[..., :-1]], -1),
        "x is read one place too late: feature k - 1 in place of k, the first is zero",
        "each weight meets its own feature",
        "x = x   # mind whether the first index is 0 or 1",
    ),
    "off_by_one_back": (
        lambda x: torch.cat([x[..., 1:], 0 * x[..., :1]], -1),
        "x is read one place too early: feature k + 1 in place of k, the last is zero",
        "each weight meets its own feature",
        "x = x   # mind whether the first index is 0 or 1",
    ),
    "early": (
        lambda x: torch.cat([x[1:], 0 * x[:1]]),
        "x is read one step early: x[t + 1] at step t, zeros at the end",
        "h_t is made from x_t",
        "h = step(x[t], h)   # not x[t + 1]",
    ),
    "early_around": (
        lambda x: x.roll(-1, 0),
        "x is read one step early: x[t + 1] at step t, x[0] at the end",
        "h_t is made from x_t",
        "h = step(x[t], h)   # not x[(t + 1) % T]",
    ),
    "early_held": (
        lambda x: torch.cat([x[1:], x[-1:]]),
        "x is read one step early: x[t + 1] at step t, the last once more at the end",
        "h_t is made from x_t",
        "h = step(x[t], h)   # not x[min(t + 1, T - 1)]",
    ),
    "late_around": (
        lambda x: x.roll(1, 0),
        "x is read one step late: x[t - 1] at step t, the last at the start",
        "h_t is made from x_t",
        "h = step(x[t], h)   # not x[t - 1]",
    ),
    "late_held": (
        lambda x: torch.cat([x[:1], x[:-1]]),
        "x is read one step late: x[t - 1] at step t, the first twice",
        "h_t is made from x_t",
        "h = step(x[t], h)   # not x[max(t - 1, 0)]",
    ),
}
"""What x may be read as, with title, sentence and line."""

ORDERS, FEATURES = ("rolled", "rolled_back", "reversed", "off_by_one", "off_by_one_back"), 3
"""Those that exchange features, and how many there must be."""

SHIFTED = ("early", "early_around", "early_held", "late_around", "late_held")
"""Those that read other steps."""

MIXING = ("reshaped", "reshaped_back", "features_first", "time_first", "first_row", *SHIFTED)
"""Those that read other rows, or other steps."""


def of_entering(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """X in another order, of another row; x and the initial states times a number or plus one."""
    features = model.structure.input_size
    for name, (function, title, sentence, repair) in X.items():
        if name in ORDERS and features < FEATURES:
            continue  # the columns of W_ih may be, for all that is known
        change = Change(("x", name), partial(_with_x, of=function))
        words = Words(title, f"{sentence}.", repair)
        cause, mixes = Cause("read", name, "x"), name in MIXING
        yield Finding(cause, words, _entering(model, change), mixes_rows=mixes)
    if any(observation.inputs.given for observation in shown):
        names = " and ".join(f"{state}_0" for state in model.structure.cell.states)
        words = Words(
            f"every row starts from the {names} of row 0",
            "each row has its own initial state.",
            "h = h_0[layer, row]   # with the stride of a row",
        )
        first = _entering(model, Change(("initial", "first_row"), _of_first_row))
        cause = Cause("read", "first_row", names.replace(" and ", ", "))
        yield Finding(cause, words, first, mixes_rows=True)
    yield from _of_numbers(model, shown)


def of_dropout_on_x(model: Model) -> Iterator[Finding]:
    """X times a number that dropout has."""
    for kept in KEPT:
        for factor in (kept, 1 / kept):
            yield _scaled(model, factor)


def _entering(model: Model, change: Change) -> Model:
    return replace(model, enter=(change, *model.enter))


def _with_x(inputs: Inputs, of: Callable[[Tensor], Tensor]) -> Inputs:
    return replace(inputs, x=of(inputs.x))


def _of_first_row(inputs: Inputs) -> Inputs:
    initial = {name: v[:, :, :1].expand_as(v) for name, v in inputs.initial.items()}
    return replace(inputs, initial=initial)


def _times_initial(inputs: Inputs, factor: float) -> Inputs:
    return replace(inputs, initial={name: factor * v for name, v in inputs.initial.items()})


# numbers ----------------------------------------------------------------------------------------


def _scaled(model: Model, factor: float) -> Finding:
    words = Words(
        f"x, or weight_ih_l0, is multiplied by {factor:.6g}{why(factor)}",
        f"{model.structure.kind} reads both as they are.",
        "x = x   # as it is, or scale it for both",
    )
    change = Change(("x *", factor), partial(_with_x, of=lambda x: factor * x))
    return Finding(Cause("scaled", f"{factor:.6g}", "x"), words, _entering(model, change))


def _moved(model: Model, constant: float) -> Finding:
    words = Words(
        f"{constant:.6g} is added to x",
        f"{model.structure.kind} reads x as it is.",
        "x = x   # as it is, or move it for both",
    )
    change = Change(("x +", constant), partial(_with_x, of=lambda x: x + constant))
    return Finding(Cause("moved", f"{constant:.6g}", "x"), words, _entering(model, change))


def _scaled_states(model: Model, factor: float) -> Finding:
    names = " and ".join(f"{state}_0" for state in model.structure.cell.states)
    verb = "are" if " " in names else "is"
    words = Words(
        f"{names} {verb} multiplied by {factor:.6g}",
        f"{model.structure.kind} starts from what it is given.",
        "h, c = initial" if " " in names else "h = initial",
    )
    change = Change(("initial *", factor), partial(_times_initial, factor=factor))
    cause = Cause("scaled", f"{factor:.6g}", names.replace(" and ", ", "))
    return Finding(cause, words, _entering(model, change))


def _of_numbers(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """With the number that fits best, where it is one."""
    fullest = max(shown, key=lambda observation: observation.fullness)
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    short = few_steps(fullest, 2 if one_way else fullest.inputs.steps, ROWS)
    for make, without in ((_scaled, 1.0), (_moved, 0.0), (_scaled_states, 1.0)):
        if make is _scaled_states and not short.inputs.given:
            continue
        if make is not _scaled_states and model.structure.input_size == 1:
            continue  # it is the weights or the bias, for all that is known
        value = _fitted(model, short, make, without)
        if value is not None and make is not _moved and abs(value) <= DIGITS:
            continue  # it is not read at all
        if value is not None and abs(value - without) > DIGITS:
            for number in dict.fromkeys((few_digits(value), value)):
                yield make(model, number)


def _fitted(
    model: Model, short: Observation, make: Callable[[Model, float], Finding], value: float
) -> float | None:
    """The number with which a model comes closest, by steps of Newton's; None where they lead
    nowhere."""
    if short.output is None:
        return None
    inside = short.usable("output") & torch.isfinite(short.output)
    step = 1.0
    for _ in range(ITERATIONS):
        models = [make(model, number).model for number in (value, value + SLOPE)]
        now, moved = short.simulator.run([m for m in models if m is not None])
        if now is None or moved is None or now.output.shape != short.output.shape:
            return None
        slope = (moved.output - now.output)[inside] / SLOPE
        square = float(slope @ slope)
        if not 0 < square < torch.inf:
            return None
        step = float(slope @ (short.output - now.output)[inside]) / square
        value += step
    return value if abs(step) <= DIGITS * max(1.0, abs(value)) else None
