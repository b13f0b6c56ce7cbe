"""A sequence that is run in pieces: what becomes of the states between chunks, and windows.

A chunk begins where the output is not what comes of the states before; what is done to these there
is told from what gives the output. In windows each output comes of a few steps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.finding import Finding, of_each_call, runs_forward
from rnnscope._compare.facts.restarts import listed_places
from rnnscope._compare.facts.walked import Schedule, Standing, States, Walk
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.simulate import Simulator

__all__ = ["of_chunks", "of_windows"]

TWICE = 8
"""Steps, at most, of which it is tried whether chunks overlap by so many."""

SHORT = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types in which states may be kept."""

WIDEST = 256
"""Steps of the widest window."""

TOGETHER = 2**15
"""Steps of windows that are run together."""


@dataclass(frozen=True)
class _Slip:
    """What becomes of the states where a chunk begins, in words."""

    choice: str
    title: str
    repair: str
    change: Callable[[Standing], Sequence[States]]


def _slips(model: Model) -> Iterator[_Slip]:
    """Those that a model may have, of which no other finding tells."""
    names, layers = model.structure.cell.states, model.num_layers
    carried = names[0] if len(names) == 1 else f"({', '.join(names)})"
    on = f"output, {carried} = rnn(chunk, {carried})"
    if len(names) > 1 and model.structure.output_size == model.structure.hidden_size:
        yield _Slip(
            "exchanged",
            f"{' and '.join(names)} are exchanged between chunks",
            f"{on}   # in the same order",
            lambda at: [
                dict(zip(state, reversed([*state.values()]), strict=True)) for state in at.states
            ],
        )
    for layer in range(layers) if layers > 1 else ():
        yield _Slip(
            f"layer {layer}",
            f"the state of layer {layer} is set to zero between chunks",
            f"{on}   # with the state of every layer",
            partial(_without, layer),
        )
    if layers > 1:
        yield _Slip(
            "last",
            "the state of the last layer is handed to every layer between chunks",
            f"{on}   # not h[-1] for every layer",
            lambda at: [at.states[-1]] * layers,
        )
        yield _Slip(
            "reversed",
            "the states of the layers are in reverse order between chunks",
            f"{on}   # row 0 of h_n is the first layer",
            lambda at: at.states[::-1],
        )
    for name, dtype in SHORT.items():
        yield _Slip(
            name,
            f"the states are kept in {name} between chunks",
            f"{carried} = ...   # in the type of the layer",
            partial(_rounded, dtype),
        )
    for count in range(1, TWICE + 1):
        steps = "1 step" if count == 1 else f"{count} steps"
        yield _Slip(
            f"twice {count}",
            f"chunks overlap by {steps}, taken twice",
            f"start += size   # not size - {count}, where the state is carried on",
            partial(_repeated, count),
        )


def _without(layer: int, at: Standing) -> Sequence[States]:
    return [
        {name: torch.zeros_like(value) for name, value in state.items()} if k == layer else state
        for k, state in enumerate(at.states)
    ]


def _rounded(dtype: torch.dtype, at: Standing) -> Sequence[States]:
    return [{n: v.to(dtype).to(v.dtype) for n, v in state.items()} for state in at.states]


def _repeated(count: int, at: Standing) -> Sequence[States]:
    return at.replayed(count)


# chunks -------------------------------------------------------------------------------------------


def of_chunks(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """What is done to the states between chunks, in one direction."""
    if model.num_directions > 1 or any(o.output is None or o.quantities for o in shown):
        return
    walks = [_walk(model, observation) for observation in shown]
    starts = [walk.first_wrong(o) for walk, o in zip(walks, shown, strict=True)]
    # before the first step no state was carried
    for slip in _slips(model) if all(starts) else ():
        schedules = _schedules(zip(walks, shown, starts, strict=True), slip)
        flags = [flag for flag in schedules if bool(flag.any())]
        if flags and not all(bool(flag[1:].all()) for flag in flags):
            taken = partial(_taken, model, slip)
            gives = of_each_call(shown, schedules, taken)
            where, _ = listed_places(model, [flags[0]])
            yield Finding(
                Cause("between_chunks", slip.choice),
                Words(
                    f"{slip.title}, {where}",
                    f"all other steps follow from the step before; {model.structure.kind} carries "
                    f"each layer's state on as it is.",
                    slip.repair,
                    slip.title,
                ),
                gives=gives,
            )


def _schedules(calls: Iterable[tuple[Walk, Observation, int]], slip: _Slip) -> list[Schedule]:
    """Where chunks begin in each call, from its first wrong step on; none where that does not give
    the output."""
    schedules: list[Schedule] = []
    for walk, observation, start in calls:
        agrees = partial(_agrees, walk, observation)
        walked = walk.taken(partial(_differs, walk, observation), slip.change, agrees, start)
        if walked is None:
            return []
        schedules.append(walked.changed)
    return schedules


def _walk(model: Model, observation: Observation) -> Walk:
    valid = None if observation.valid is None else observation.valid[..., 0]
    return Walk(model, 0, observation.inputs, valid)


def _agrees(walk: Walk, observation: Observation, k: int, output: Tensor) -> Tensor:
    """Whether a row of a step is what was observed, (batch)."""
    t, seen = walk.order[k], observation.output
    assert seen is not None, "what has no output has no chunks"
    if seen.shape[-1] != output.shape[-1]:
        return torch.zeros(len(output), dtype=torch.bool, device="cpu")
    near = distance(output, seen[t]) <= observation.allowed["output"][t]
    return (near | ~observation.usable("output")[t]).all(-1)


def _differs(walk: Walk, observation: Observation, k: int, output: Tensor) -> Tensor:
    return ~_agrees(walk, observation, k, output)


def _taken(model: Model, slip: _Slip, observation: Observation, flags: Schedule) -> Outcome | None:
    """What a slip gives where chunks begin at these steps."""
    walk = _walk(model, observation)
    start = int(flags.any(1).int().argmax())
    walked = walk.taken(lambda k, _: flags[k], slip.change, start=start)
    if walked is None:
        return None
    ended = Standing(walk, observation.inputs.steps, walked.states)
    # what is done between chunks may be done after the last one too
    options = [_finals(states) for states in (walked.states, slip.change(ended))]
    return Outcome(walked.output, min(options, key=partial(_apart, observation)))


def _finals(states: Sequence[States]) -> dict[str, Tensor]:
    """(layer, direction, batch, unit) of each state."""
    return {n: torch.stack([state[n].unsqueeze(0) for state in states]) for n in states[0]}


def _apart(observation: Observation, final: Mapping[str, Tensor]) -> float:
    """How far final states are from those that were observed."""
    seen = observation.final.items()
    return sum(float(distance(final[n], v).sum()) for n, v in seen if v.shape == final[n].shape)


# windows ------------------------------------------------------------------------------------------


def of_windows(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Outputs each of which comes of the last steps alone, from initial states: of shorter windows
    at the beginning, or of such that begin with zeros."""
    first = shown[0]
    if any(o.output is None or o.quantities or o.inputs.lengths is not None for o in shown):
        return
    agreeing = _agreeing_steps(model, first)
    if agreeing is None or bool(agreeing.all()):
        return
    wrong = (~agreeing).nonzero().flatten()
    right = agreeing.nonzero().flatten()
    short = int(wrong[0])  # the first output that a window of so many steps does not reach from
    padded = int(right[0]) + 1 if len(right) else 0
    for size, zeros in ((short, False), (padded, True)):
        if not 1 < size <= min(WIDEST, first.inputs.steps - 1) or (zeros and short):
            continue
        if not _agrees_in_first(model, first, size, 0 if zeros else size):
            continue
        gives = of_each_call(shown, [size] * len(shown), partial(_of_windows, model, zeros))
        before = ", after zeros" if zeros else ""
        yield Finding(
            Cause("windows", str(size)),
            Words(
                f"each output is computed from the last {size} steps alone{before}",
                f"the state starts anew for every output; {model.structure.kind} carries it over "
                f"all steps.",
                "output, state = rnn(x)   # the whole sequence, not a window for each output",
            ),
            gives=gives,
        )


def _agreeing_steps(model: Model, observation: Observation) -> Tensor | None:
    """Which steps of the output, or of its forward half, are right in every row, (time); None where
    it has another form."""
    [outcome] = observation.simulator.run([model])
    seen = observation.output
    if outcome is None or seen is None or outcome.output.shape != seen.shape:
        return None
    near = distance(outcome.output, seen) <= observation.allowed["output"]
    forward = (near | ~observation.usable("output"))[..., : model.structure.output_size]
    return forward.flatten(1).all(1)


def _agrees_in_first(model: Model, observation: Observation, size: int, last: int) -> bool:
    """Whether the output at step ``last``, which is wrong, is that of a window of so many steps."""
    inputs, seen = observation.inputs, observation.output
    assert seen is not None, "what has no output has no windows"
    x = torch.cat([torch.zeros_like(inputs.x[: size - 1]), inputs.x])[last : last + size]
    [outcome] = Simulator(replace(inputs, x=x)).run([model])
    if outcome is None:
        return False
    near = distance(outcome.output[-1], seen[last]) <= observation.allowed["output"][last]
    return bool((near | ~observation.usable("output")[last]).all())


def _of_windows(model: Model, zeros: bool, observation: Observation, size: int) -> Outcome | None:
    """The last output of every window of so many steps."""
    inputs, size = observation.inputs, min(size, observation.inputs.steps)
    x, rows = inputs.x, inputs.batch
    if zeros:
        x = torch.cat([torch.zeros_like(x[: size - 1]), x])
    windows = x.unfold(0, size, 1)  # (window, batch, feature, step)
    outputs = [] if zeros else [_of_short_ones(model, inputs, size - 1)]
    final: dict[str, Tensor] = {}
    for several in torch.split(windows, max(1, TOGETHER // (rows * size))):
        count = len(several)
        of_all = replace(
            inputs,
            x=several.permute(3, 0, 1, 2).flatten(1, 2),
            initial={name: value.repeat(1, 1, count, 1) for name, value in inputs.initial.items()},
        )
        [outcome] = Simulator(of_all).run([model])
        if outcome is None:
            return None
        outputs.append(outcome.output[-1].reshape(count, rows, -1))
        final = {name: value[:, :, -rows:] for name, value in outcome.final.items()}
    return Outcome(torch.cat(outputs), final)


def _of_short_ones(model: Model, inputs: Inputs, most: int) -> Tensor:
    """The last outputs of the windows of 1, 2, ... steps."""
    lengths = [most] if runs_forward(model) else range(1, most + 1)
    outcomes = [Simulator(replace(inputs, x=inputs.x[:n])).run([model])[0] for n in lengths]
    outputs = [outcome.output for outcome in outcomes if outcome is not None]
    return outputs[0] if runs_forward(model) else torch.stack([output[-1] for output in outputs])
