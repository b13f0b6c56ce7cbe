"""What is said of an approximation."""

from __future__ import annotations

from collections.abc import Sequence

from rnnscope._compare.approximate.approximation import Approximation
from rnnscope._compare.approximate.fit import changed
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Words
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, predicted

__all__ = ["APPROXIMATE", "effect", "in_words"]

APPROXIMATE = "approximate"
"""The name of the cause."""

LARGEST = 8.0
"""Arguments of tanh and sigmoid that are hardly exceeded."""


def effect(
    model: Model, approximations: Sequence[Approximation], shown: Sequence[Observation]
) -> float:
    """The largest change that approximations alone make in what the reference gives."""
    whole = changed(model, (), tuple(approximations))
    most = 0.0
    for one in shown:
        if whole is None:
            continue
        right, other = one.simulator.run([model, whole])
        if right is None or other is None:
            continue
        values = predicted(other)
        for name, value in predicted(right).items():
            if name in one.targets() and one.targets()[name].shape == value.shape:
                away = (values[name] - value).abs()[one.usable(name)]
                most = max(most, float(away.max()) if away.numel() else 0.0)
    return most


def in_words(
    model: Model, approximation: Approximation, shown: Sequence[Observation]
) -> tuple[Cause, Words]:
    """An approximation as a cause, with its words."""
    size = f"{effect(model, [approximation], shown):.2g}"
    cause = Cause(APPROXIMATE, approximation.name, approximation.kind)
    meant = "On purpose? Then nothing is to be changed."
    curve = approximation.curve
    if curve is None:
        sentence = f"{size} by itself. {meant}"
        return cause, Words(approximation.title, sentence, "", approximation.title)
    arguments = min(LARGEST, _largest_argument(model, shown))
    names = ("tanh", "sigmoid") if approximation.kind == "functions" else (approximation.kind,)
    errors = [f"its {name} is off by at most {curve.error(name, arguments):.2g}" for name in names]
    kind = " and ".join(names)
    brief = f"a fast {kind}"
    sentence = f"{curve.name}. {size} by itself. {meant}"
    return cause, Words(", ".join(errors), sentence, "", brief)


def _largest_argument(model: Model, shown: Sequence[Observation]) -> float:
    """How large arguments of the first layer's functions are, at most."""
    weights = model.parts[0][0].weights
    states = float(weights.hh.abs().sum(1).max())
    biases = sum(float(b.abs().max()) for b in (weights.b_ih, weights.b_hh) if b is not None)
    inputs = max(float((one.inputs.x.abs() @ weights.ih.abs().mT).max()) for one in shown)
    return inputs + states + biases
