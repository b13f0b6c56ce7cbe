"""What is said of an approximation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rnnscope._compare.approximate.approximation import Approximation
from rnnscope._compare.approximate.beside import Data
from rnnscope._compare.approximate.fit import Fit, changed
from rnnscope._compare.confirmed import by_own_rounding
from rnnscope._compare.evidence import largest, left_by
from rnnscope._compare.mistakes import CATALOGUE
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Words
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, predicted
from rnnscope._compare.verdict import APPROXIMATE, Explanation, Verdict

__all__ = ["with_fit", "with_near", "with_quantised"]

LARGEST = 8.0
"""Arguments of tanh and sigmoid that are hardly exceeded."""


def with_fit(
    verdict: Verdict, fit: Fit, data: Data, read: Sequence[tuple[Cause, Words]]
) -> Verdict:
    """The verdict with what approximations explain to rounding, alone or beside mistakes; what was
    ``read`` otherwise stands first."""
    size = _effect(data.model, fit.approximations, data.shown)
    return replace(verdict, explanations=(_explanation(fit, data, read),), approximation=size)


def with_quantised(verdict: Verdict, bits: str, left: float) -> Verdict:
    """The verdict where the candidate is the reference as torch quantises it."""
    of_steps = ", and x and h before every product, with one scale for the whole batch"
    words = Words(
        "torch has quantised it: its weights are float16"
        if bits == "float16"
        else f"torch has quantised it: its weights have {bits}{of_steps}",
        f"{verdict.kind} quantised by torch in the same way gives these numbers, so nothing else "
        f"is wrong. On purpose? Then nothing is to be changed.",
        "",
        f"torch's quantisation to {bits}",
    )
    cause = Cause(APPROXIMATE, f"quantize_dynamic:{bits}", "weights")
    explanation = Explanation((cause,), (words,), left, (left,))
    return replace(verdict, explanations=(explanation,), approximation=verdict.difference)


def with_near(
    verdict: Verdict, fit: Fit | None, data: Data, read: Sequence[tuple[Cause, Words]]
) -> Verdict:
    """The verdict with what explains most of the difference, if anything does."""
    return verdict if fit is None else replace(verdict, near=_explanation(fit, data, read))


def _explanation(fit: Fit, data: Data, read: Sequence[tuple[Cause, Words]]) -> Explanation:
    model, shown, order = data.model, data.shown, list(CATALOGUE)
    causes = sorted(fit.causes, key=lambda c: (order.index(c.name), str(c)))
    mistakes = [(c, CATALOGUE[c.name].words(c, model)) for c in causes]
    approximations = [_in_words(model, a, shown) for a in fit.approximations]
    sets = [replace(fit, causes=(c,), approximations=()) for c in causes]
    sets += [replace(fit, causes=(), approximations=(a,)) for a in fit.approximations]
    whole = fit.model(model)
    assert whole is not None, "what was fitted applies"
    compared = shown if worst(whole, shown) <= 1 else by_own_rounding(whole, shown)
    pairs = [*read, *mistakes, *approximations]
    return Explanation(
        tuple(cause for cause, _ in pairs),
        tuple(words for _, words in pairs),
        largest(whole, compared)[0],
        tuple(left_by(s.model(model), shown) for s in sets),
        len(read),
    )


def _effect(
    model: Model, approximations: Sequence[Approximation], shown: Sequence[Observation]
) -> float:
    """The largest change that approximations alone make in what the reference gives."""
    whole = changed(model, (), tuple(approximations))
    most = 0.0
    for observation in shown:
        if whole is None:
            continue
        right, rounded = observation.simulator.run([model, whole])
        if right is None or rounded is None:
            continue
        values = predicted(rounded)
        for name, value in predicted(right).items():
            if name in observation.targets() and observation.targets()[name].shape == value.shape:
                away = (values[name] - value).abs()[observation.usable(name)]
                most = max(most, float(away.max()) if away.numel() else 0.0)
    return most


def _in_words(
    model: Model, approximation: Approximation, shown: Sequence[Observation]
) -> tuple[Cause, Words]:
    """An approximation as a cause, with its words."""
    size = f"{_effect(model, [approximation], shown):.2g}"
    d = approximation.direction
    side = None if d is None else model.structure.directions[d]
    cause = Cause(APPROXIMATE, approximation.name, approximation.kind, direction=side)
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
    inputs = max(
        float((observation.inputs.x.abs() @ weights.ih.abs().mT).max()) for observation in shown
    )
    return inputs + states + biases
