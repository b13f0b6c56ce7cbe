"""What was done to the numbers once they were right: a factor, a constant, a function, a half."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import add, mul

import torch
from torch import Tensor

from rnnscope._compare.facts.finding import Finding, leaving, returning
from rnnscope._compare.facts.numbers import KEPT, few_digits, measured_numbers, why
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation

__all__ = [
    "alike_but_for_output",
    "of_final_states",
    "of_halves",
    "of_handed_on",
    "of_numbers",
    "undone",
]

Laid = Callable[[Tensor], Tensor]

ENOUGH = 4
"""Numbers from which on a factor or a constant is read off."""

FUNCTIONS: dict[str, Laid] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda value: torch.softmax(value, -1),
    "log_softmax": lambda value: torch.log_softmax(value, -1),
    "layer_norm": lambda value: torch.nn.functional.layer_norm(value, value.shape[-1:]),
    "abs": torch.abs,
    "softsign": torch.nn.functional.softsign,
    "cumsum": lambda value: value.cumsum(0),
}

POOLED: dict[str, Laid] = {
    "mean": lambda value: value.mean(0),
    "sum": lambda value: value.sum(0),
    "largest": lambda value: value.amax(0),
}
"""What is made of the outputs of all steps."""

INVERSES: dict[str, Laid] = {
    "tanh": torch.atanh,
    "sigmoid": torch.logit,
    "softsign": lambda value: value / (1 - value.abs()),
}
"""Those that can be undone."""


def _pairs(model: Model, shown: Sequence[Observation]) -> tuple[Tensor, Tensor] | None:
    """What was seen of the output and what is right, where rounding leaves numbers to compare."""
    numbers, right = [], []
    for observation in shown:
        [outcome] = observation.simulator.run([model])
        if (
            outcome is None
            or observation.output is None
            or outcome.output.shape != observation.output.shape
        ):
            return None
        usable = observation.usable("output") & torch.isfinite(observation.output)
        numbers.append(observation.output[usable])
        right.append(outcome.output[usable])
    values = torch.cat(numbers), torch.cat(right)
    return values if len(values[0]) else None


def alike_but_for_output(models: Sequence[Model], observation: Observation) -> list[int]:
    """The models whose output is the same but for a factor, a constant, a function, zeros in place
    of some numbers, or one half in place of the other."""
    seen = observation.output
    if seen is None:
        return []
    usable = observation.usable("output") & torch.isfinite(seen)
    masks = [usable & (seen != 0)]
    if seen.shape[-1] % 2 == 0 and _equal(seen):
        first = torch.arange(seen.shape[-1], device="cpu") < seen.shape[-1] // 2
        masks = [usable & first, usable & ~first]
    alike = []
    for k, outcome in enumerate(observation.simulator.run(models)):
        if outcome is not None and outcome.output.shape == seen.shape:
            pairs = [(seen[mask], outcome.output[mask]) for mask in masks]
            through = (function(outcome.output)[usable] for function in FUNCTIONS.values())
            if any(_alike(numbers, right, observation) for numbers, right in pairs) or any(
                _close(seen[usable], expected, [observation]) for expected in through
            ):
                alike.append(k)
    return alike


def _alike(numbers: Tensor, right: Tensor, observation: Observation) -> bool:
    """Whether two are the same but for a factor or a constant."""
    if len(right) < ENOUGH or not bool(right.any()):
        return False
    scaled, moved = right * _factor(numbers, right), right + (numbers - right).mean()
    return any(_close(numbers, expected, [observation]) for expected in (scaled, moved))


def _factor(numbers: Tensor, right: Tensor) -> float:
    """The factor between two that leaves the least squares; 0 where there is none."""
    square = float(right @ right)
    return float(numbers @ right) / square if square else 0.0


def _close(numbers: Tensor, expected: Tensor, shown: Sequence[Observation]) -> bool:
    """Whether two are the same but for what may still be rounding."""
    unit = max(observation.unit for observation in shown)
    return bool(((numbers - expected).abs() <= 1e4 * unit * expected.abs().clamp_min(1)).all())


def undone(finding: Finding, shown: Sequence[Observation]) -> list[list[Observation]]:
    """What was observed before a factor, a constant or a function was put on the output, alone or
    on the last layer's h_n too; nothing where that cannot be told."""
    name, choice = finding.cause.name, finding.cause.choice
    before = {
        "scaled": lambda value: value / float(choice),
        "moved": lambda value: value - float(choice),
        "function_on_top": INVERSES.get(choice),
    }.get(name)
    if before is None or finding.cause.layer is not None:
        return []
    outputs = [_before(before, observation, "output") for observation in shown]
    both = [one and _before(before, one, "h_n") for one in outputs]
    return [
        [one for one in each if one is not None]
        for each in (outputs, both)
        if all(one is not None for one in each)
    ]


def _before(before: Laid, observation: Observation, name: str) -> Observation | None:
    """The same with one of the targets as it was, of h_n the last layer's; and with as much
    rounding allowed as it then has."""
    seen = observation.targets().get(name)
    if seen is None:
        return None
    near = observation.allowed[name]
    last = slice(None) if name == "output" else slice(-1, None)
    value = before(seen[last])
    wide = torch.stack([(before((seen + k * near)[last]) - value).abs() for k in (1, -1)]).amax(0)
    wide = torch.where(torch.isfinite(near[last]), wide.amax(-1, keepdim=True), near[last])
    if not bool(torch.isfinite(value).all()) or bool(wide.isnan().any()):
        return None
    allowed = {**observation.allowed, name: torch.cat([near[: len(near) - len(wide)], wide])}
    if name == "output":
        return replace(observation, output=value, allowed=allowed)
    whole = torch.cat([seen[:-1], value])
    return replace(observation, final={**observation.final, "h": whole}, allowed=allowed)


# a factor, a constant, a function ---------------------------------------------------------------


def of_numbers(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The output times a number, plus one, or through one more function; some of it zero and the
    rest times a number; or times a number what a layer below hands on."""
    pairs, kind = _pairs(model, shown), model.structure.kind
    if pairs is None:
        yield from of_handed_on(model)
        return
    numbers, right = pairs
    factor, constant = _factor(numbers, right), float((numbers - right).mean())
    if factor not in (0.0, 1.0) and _close(numbers, factor * right, shown):
        for number in measured_numbers(factor, 1.0):
            words = Words(
                f"the output is multiplied by {number:.6g}{why(number)}",
                f"every number of the output is {number:.6g} times that of {kind}.",
                "return output   # in evaluation nothing is dropped, and nothing scaled",
            )
            cause = Cause("scaled", f"{number:.6g}")
            yield from _through(model, cause, words, partial(mul, number))
    if _close(numbers, right + constant, shown):
        for number in measured_numbers(constant, 0.0):
            words = Words(
                f"{number:.6g} is added to the output",
                f"every number of the output is that of {kind} plus {number:.6g}.",
                "return output",
            )
            yield from _through(model, Cause("moved", f"{number:.6g}"), words, partial(add, number))
    yield from of_handed_on(model)
    for name, function in FUNCTIONS.items():
        words = Words(
            f"{name} is applied to the output",
            f"{kind} returns h itself.",
            f"return output   # without {name}",
        )
        if name == "cumsum":
            words = Words(
                "the outputs are summed up over time",
                "output[t] is h after step t alone.",
                "output[t] = h   # not output[t - 1] + h, nor +=",
            )
        yield from _through(model, Cause("function_on_top", name), words, function)
    yield from _of_dropout(model, shown, numbers, right)


def _through(model: Model, cause: Cause, words: Words, of: Laid) -> Iterator[Finding]:
    """The output through a function: alone, or the last layer's h_n too."""

    def output(outcome: Outcome, _: Inputs) -> Outcome:
        return replace(outcome, output=of(outcome.output))

    def both(outcome: Outcome, inputs: Inputs) -> Outcome:
        return _on_finals(output(outcome, inputs), inputs, of, alone=True)

    yield leaving(model, cause, words, output)
    yield leaving(model, cause, words, both)


def of_handed_on(model: Model) -> Iterator[Finding]:
    """What a layer below hands on times a number that dropout has."""
    for layer in range(model.num_layers - 1):
        for factor in (factor for kept in KEPT for factor in (kept, 1 / kept)):
            words = Words(
                f"what is handed to the layer above is multiplied by {factor:.6g}{why(factor)}",
                f"layer {layer + 1} reads the output of layer {layer} as it is.",
                "x = outputs   # in evaluation nothing is dropped, and nothing scaled",
            )
            change = Change(("handed on", layer, factor), partial(mul, factor))
            changed = model.adding("joins", change, layer)
            yield Finding(Cause("scaled", f"{factor:.6g}", layer=layer), words, changed)


def _of_dropout(
    model: Model, shown: Sequence[Observation], numbers: Tensor, right: Tensor
) -> Iterator[Finding]:
    """Numbers of the output that are zero, all others times one number."""
    kept = numbers != 0
    share = float(kept.double().mean())
    zeros = [
        half[..., half.flatten(0, -2).any(0)] == 0  # units that are always zero are another fact
        for observation in shown
        if observation.output is not None
        for half in observation.output.chunk(model.num_directions, -1)
    ]
    partly = any(bool((half.any(-1) & ~half.all(-1)).any()) for half in zeros)
    if not 0.02 < share < 0.98 or int(kept.sum()) < 12 or not partly:
        return
    exactly = _factor(numbers[kept], right[kept])
    if not _close(numbers[kept], exactly * right[kept], shown):
        return
    factor = few_digits(exactly)

    def dropped(outcome: Outcome, observation: Observation) -> Outcome | None:
        if observation.output is None:
            return None
        return replace(outcome, output=outcome.output * factor * (observation.output != 0))

    title = f"{1 - share:.0%} of the numbers of the output are zero"
    words = Words(title, "all others are right.", "return output")
    if factor != 1:
        words = Words(
            f"{title}, the others multiplied by {factor:.6g}{why(factor)}",
            "dropout was active when the numbers were made.",
            "model.eval()   # before they are recorded",
        )
    cause = Cause("dropped", f"{factor:.6g}")
    yield Finding(cause, words, gives=returning(model, dropped), scale=max(1.0, factor))


# final states ------------------------------------------------------------------------------------


def of_final_states(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """h_n through one more function, or made of the outputs of all steps."""
    if not any("h" in observation.final for observation in shown):
        return
    kind = model.structure.kind
    for name, function in FUNCTIONS.items():
        words = Words(
            f"{name} is applied to h_n", f"{kind} returns h itself.", f"h_n = h   # without {name}"
        )
        for alone in (False, True):
            changed = partial(_on_finals, of=function, alone=alone)
            yield leaving(model, Cause("function_on_top", name, "h_n"), words, changed)
    for name, function in POOLED.items():
        words = Words(
            f"h_n is the {name} of the outputs of all steps",
            f"h_n of {kind} is h after the last step.",
            "h_n = h   # after the loop",
        )
        pooled = partial(_pooled, of=function)
        yield leaving(model, Cause("pooled", name, "h_n"), words, pooled)


def _on_finals(outcome: Outcome, _: Inputs, of: Laid, alone: bool) -> Outcome:
    """A function on the final h of all layers, or of the last alone."""
    h = outcome.final["h"]
    changed = torch.cat([h[:-1], of(h[-1:])]) if alone else of(h)
    return replace(outcome, final={**outcome.final, "h": changed})


def _pooled(outcome: Outcome, _: Inputs, of: Laid) -> Outcome:
    h = outcome.final["h"]
    last = torch.stack(of(outcome.output).chunk(h.shape[1], -1))
    return replace(outcome, final={**outcome.final, "h": torch.cat([h[:-1], last[None]])})


# the two halves --------------------------------------------------------------------------------


def _one_half(value: Tensor, kept: int, twice: bool, dim: int) -> Tensor:
    """One half in both places, or zeros in place of the other one."""
    half = value.chunk(2, dim)[kept]
    second = half if twice else torch.zeros_like(half)
    return torch.cat([half, second][:: -1 if kept else 1], dim)


def _equal(value: Tensor) -> bool:
    first, second = value.chunk(2, -1)
    return torch.equal(first, second)


def of_halves(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Both halves of a bidirectional output equal, or one of them zero."""
    outputs = [observation.output for observation in shown if observation.output is not None]
    if model.num_directions < 2 or not outputs or any(o.shape[-1] % 2 for o in outputs):
        return
    joined = "torch.cat([forward, reverse], -1)"
    halves: list[tuple[str, str, str, int]] = []
    if all(map(_equal, outputs)):
        title = "both halves of the output are equal"
        halves = [
            ("forward", title, "the reverse half is the forward one.", 0),
            ("reverse", title, "the forward half is the reverse one.", 1),
        ]
    else:
        for kept, name in ((0, "reverse"), (1, "forward")):
            if not any(bool(o.chunk(2, -1)[1 - kept].any()) for o in outputs):
                title = f"the {name} half of the output is zero throughout"
                halves = [("zero", title, "that direction's outputs are never written.", kept)]
                break
    for choice, title, sentence, kept in halves:
        words = Words(title, sentence, joined)
        for changed in _half_models(model, choice, kept):
            yield Finding(Cause("halves", choice), words, changed)


def _half_models(model: Model, choice: str, kept: int) -> Iterator[Model]:
    """In the output alone or in every layer's, with final states as they are or treated alike."""
    halved = partial(_one_half, kept=kept, twice=choice != "zero")

    def alike(outcome: Outcome, _: Inputs) -> Outcome:
        final = {name: halved(value, dim=1) for name, value in outcome.final.items()}
        return replace(outcome, final=final)

    last = model.num_layers - 1
    change = Change(("halves", choice, kept), partial(halved, dim=-1))
    everywhere = model
    for layer in range(model.num_layers):
        everywhere = everywhere.adding("joins", change, layer)
    for changed in (model.adding("joins", change, last), everywhere)[: 1 + (last > 0)]:
        yield changed
        yield changed.adding("leave", Change(("final halves", choice, kept), alike))
