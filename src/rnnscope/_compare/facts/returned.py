"""What was done to the numbers once they were right: a factor, a constant, a function, a half."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.facts.numbers import KEPT, few_digits, measured_numbers, why
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation

__all__ = [
    "alike_but_for_output",
    "of_dropout",
    "of_factors",
    "of_final_states",
    "of_functions",
    "of_halves",
    "of_handed_on",
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


def _on_output(model: Model, token: str, of: Laid, final: bool) -> Model:
    """The model with a function on its output, and with ``final`` on the last layer's h_n too."""

    def leave(outcome: Outcome, _: Inputs) -> Outcome:
        states = dict(outcome.final)
        if final and "h" in states:
            h = states["h"].clone()
            h[-1] = of(h[-1])
            states["h"] = h
        return replace(outcome, output=of(outcome.output), final=states)

    return model.adding("leave", Change(("on output", token, final), leave))


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
    square = float(right @ right)
    if square == 0 or len(right) < ENOUGH:
        return False
    scaled, moved = right * (numbers @ right / square), right + (numbers - right).mean()
    return any(_close(numbers, expected, [observation]) for expected in (scaled, moved))


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


# a factor, a constant --------------------------------------------------------------------------


def of_factors(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The output times a number, or plus one; or what a layer below hands on."""
    pairs = _pairs(model, shown)
    if pairs is not None:
        numbers, right = pairs
        square = float(right @ right)
        factor = float(numbers @ right) / square if square else 0.0
        if factor not in (0.0, 1.0) and _close(numbers, factor * right, shown):
            yield from _scaled(model, factor)
        constant = float((numbers - right).mean())
        if _close(numbers, right + constant, shown):
            yield from _moved(model, constant)
    yield from of_handed_on(model)


def of_handed_on(model: Model) -> Iterator[Finding]:
    """What a layer below hands on times a number that dropout has."""
    for layer in range(model.num_layers - 1):
        for kept in KEPT:
            for factor in (kept, 1 / kept):
                yield _handed_on(model, layer, factor)


def _close(numbers: Tensor, expected: Tensor, shown: Sequence[Observation]) -> bool:
    """Whether two are the same but for what may still be rounding."""
    unit = max(observation.unit for observation in shown)
    return bool(((numbers - expected).abs() <= 1e4 * unit * expected.abs().clamp_min(1)).all())


def _scaled(model: Model, exactly: float) -> Iterator[Finding]:
    kind = model.structure.kind
    for factor in measured_numbers(exactly, 1.0):
        words = Words(
            f"the output is multiplied by {factor:.6g}{why(factor)}",
            f"every number of the output is {factor:.6g} times that of {kind}.",
            "return output   # in evaluation nothing is dropped, and nothing scaled",
        )
        for final in (False, True):
            changed = _on_output(model, f"* {factor!r}", _times(factor), final)
            yield Finding(Cause("scaled", f"{factor:.6g}"), words, changed)


def _moved(model: Model, exactly: float) -> Iterator[Finding]:
    kind = model.structure.kind
    for constant in measured_numbers(exactly, 0.0):
        words = Words(
            f"{constant:.6g} is added to the output",
            f"every number of the output is that of {kind} plus {constant:.6g}.",
            "return output",
        )
        for final in (False, True):
            changed = _on_output(model, f"+ {constant!r}", _plus(constant), final)
            yield Finding(Cause("moved", f"{constant:.6g}"), words, changed)


def _handed_on(model: Model, layer: int, factor: float) -> Finding:
    words = Words(
        f"what is handed to the layer above is multiplied by {factor:.6g}{why(factor)}",
        f"layer {layer + 1} reads the output of layer {layer} as it is.",
        "x = outputs   # in evaluation nothing is dropped, and nothing scaled",
    )
    change = Change(("handed on", layer, factor), lambda value: value * factor)
    changed = model.adding("joins", change, layer)
    return Finding(Cause("scaled", f"{factor:.6g}", layer=layer), words, changed)


def of_dropout(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Numbers of the output that are zero, all others times one number."""
    pairs = _pairs(model, shown)
    if pairs is None:
        return
    numbers, right = pairs
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
    square = float(right[kept] @ right[kept])
    factor = float(numbers[kept] @ right[kept]) / square if square else 0.0
    if not _close(numbers[kept], factor * right[kept], shown):
        return
    factor = few_digits(factor)

    def gives(observation: Observation) -> Outcome | None:
        [outcome] = observation.simulator.run([model])
        if outcome is None or observation.output is None:
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
    yield Finding(Cause("dropped", f"{factor:.6g}"), words, gives=gives, scale=max(1.0, factor))


def _times(factor: float) -> Laid:
    return lambda value: value * factor


def _plus(constant: float) -> Laid:
    return lambda value: value + constant


# a function on top -----------------------------------------------------------------------------


def of_functions(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """The output through one more function."""
    pairs = _pairs(model, shown)
    if pairs is None:
        return
    for name, function in FUNCTIONS.items():
        words = Words(
            f"{name} is applied to the output",
            f"{model.structure.kind} returns h itself.",
            f"return output   # without {name}",
        )
        if name == "cumsum":
            words = Words(
                "the outputs are summed up over time",
                "output[t] is h after step t alone.",
                "output[t] = h   # not output[t - 1] + h, nor +=",
            )
        for final in (False, True):
            changed = _on_output(model, name, function, final)
            yield Finding(Cause("function_on_top", name), words, changed)


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
            change = Change(("on h_n", name, alone), partial(_on_finals, of=function, alone=alone))
            yield Finding(
                Cause("function_on_top", name, "h_n"), words, model.adding("leave", change)
            )
    for name, function in POOLED.items():
        words = Words(
            f"h_n is the {name} of the outputs of all steps",
            f"h_n of {kind} is h after the last step.",
            "h_n = h   # after the loop",
        )
        change = Change(("pooled", name), partial(_pooled, of=function))
        yield Finding(Cause("pooled", name, "h_n"), words, model.adding("leave", change))


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
