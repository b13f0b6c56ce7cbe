"""Layers that share one state: at every step each starts from the state of the layer below.

So ``for cell in cells: h, c = cell(x, (h, c)); x = h`` runs. No layer can run by itself, so all of
them take a step before any takes the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rnnscope._compare.model.batched import Batch, Step, from_input, started, widened
from rnnscope._compare.model.model import Inputs, Model, Part, Token
from rnnscope._compare.model.run import ModelRun
from rnnscope._compare.work import GATE, spend
from rnnscope._layers.sequences import keep_on_padding, valid_steps

__all__ = ["can_share", "fits_sharing", "run_sharing"]

CHUNK = 128
"""Models that run together, at most."""


def can_share(model: Model) -> bool:
    """Whether the layers may share a state: in one direction, each plain but for its weights and
    equations, with nothing between them."""
    changes = (*model.reads, *model.joins, *model.writes)
    return (
        model.num_layers > 1
        and model.num_directions == 1
        and model.rows == "own"
        and not model.skipped
        and not any(changes)
        and all(_plain(part) for (part,) in model.parts)
    )


def _plain(part: Part) -> bool:
    alone = part.feeds == part.emits == part.ends == "h" and not part.restarts
    starts = part.after_forward or part.after_below or part.backward
    return alone and not starts and not part.unmasked and not any(part.flipped)


def fits_sharing(model: Model, inputs: Inputs) -> bool:
    """Whether the first layer fits these inputs."""
    weights = model.parts[0][0].stored
    rows = {value.shape[2] for value in inputs.initial.values()}
    return inputs.x.shape[-1] == weights.ih.shape[-1] and rows == {inputs.batch}


def run_sharing(
    models: Sequence[tuple[Model, Inputs]],
    names: Sequence[str],
    rounded: Callable[[Tensor], Tensor] | None,
) -> list[list[ModelRun]]:
    """The run of every layer of each model on its inputs."""
    groups: dict[Token, list[int]] = {}
    for k, (model, inputs) in enumerate(models):
        alike = tuple(
            (id(p.cell), p.stored.ih.shape, p.stored.b_ih is None, p.first_b_hh is None)
            for (p,) in model.parts
        )
        groups.setdefault((alike, id(inputs)), []).append(k)
    by_model: dict[int, list[ModelRun]] = {}
    for places in groups.values():
        for start in range(0, len(places), CHUNK):
            chunk = places[start : start + CHUNK]
            _, inputs = models[chunk[0]]
            runs = _run([models[k][0] for k in chunk], inputs, names, rounded)
            by_model |= dict(zip(chunk, runs, strict=True))
    return [by_model[k] for k in range(len(models))]


def _run(
    models: Sequence[Model],
    inputs: Inputs,
    names: Sequence[str],
    rounded: Callable[[Tensor], Tensor] | None,
) -> list[list[ModelRun]]:
    """The runs of models whose layers are alike."""
    batches = [Batch([model.parts[layer][0] for model in models]) for layer in _layers(models)]
    valid = None if inputs.lengths is None else valid_steps(inputs.lengths, inputs.steps)
    state = {name: value[0, 0].unsqueeze(0) for name, value in inputs.initial.items()}
    emitted: list[list[Tensor]] = [[] for _ in batches]
    recordings: list[dict[str, list[Tensor]]] = [{name: [] for name in names} for _ in batches]
    finals: list[dict[str, Tensor]] = [state for _ in batches]
    for t in range(inputs.steps):
        x = inputs.x[t].unsqueeze(0)
        for layer, batch in enumerate(batches):
            part = models[0].parts[layer][0]
            b_hh = batch.b_hh
            if batch.first is not None and b_hh is not None:
                b_hh = torch.where(started(valid, t, x.shape[1])[:, None], batch.first, b_hh)
            step = Step(batch, from_input(batch, x.unsqueeze(1))[:, 0], state, b_hh)
            values = step.run()
            after = {name: values[name] for name in state}
            if rounded is not None:
                after = {name: rounded(value) for name, value in after.items()}
            hands = after["h"]
            recorded = {name: step.recorded(name, part.unapplied) for name in names}
            if valid is not None:
                inside = valid[t, :, None]
                after = {n: keep_on_padding(v, state[n], valid[t]) for n, v in after.items()}
                hands = hands * inside
                recorded = {name: value * inside for name, value in recorded.items()}
            numbers = sum(w.numel() for w in (part.stored.ih, part.stored.hh))
            rows = len(models) * x.shape[1]
            spend(rows * (numbers + GATE * len(part.stored.ih)), calls=len(part.cell.equations))
            state = finals[layer] = after
            emitted[layer].append(hands)
            for name, value in recorded.items():
                recordings[layer][name].append(value)
            x = hands
    width = len(models)

    def over_time(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([widened(value, width) for value in values], 1)

    steps = [
        {name: over_time(values) for name, values in recording.items()} for recording in recordings
    ]
    outputs = [over_time(values) for values in emitted]
    return [
        [
            ModelRun(
                outputs[layer][k],
                outputs[layer][k],
                {name: widened(value, width)[k] for name, value in finals[layer].items()},
                (),
                {name: value[k] for name, value in steps[layer].items()},
            )
            for layer in range(len(batches))
        ]
        for k in range(width)
    ]


def _layers(models: Sequence[Model]) -> range:
    return range(models[0].num_layers)
