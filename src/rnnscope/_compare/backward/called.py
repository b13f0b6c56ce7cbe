"""A candidate's gradients: by autograd through its forward pass, or by its backward function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.backward.forward import stored_parameters
from rnnscope._compare.backward.received import ReceivedGradients
from rnnscope._compare.backward.whole import Reached, Trial
from rnnscope._compare.candidate.arguments import arguments_of
from rnnscope._compare.candidate.call import Candidate
from rnnscope._compare.candidate.returned import Answer, answered
from rnnscope._compare.candidate.signature import Signature, parameters_of
from rnnscope._compare.candidate.tensors import keeping_graphs
from rnnscope._compare.model.model import Model
from rnnscope.errors import CandidateError, NotRecurrentError

__all__ = ["backward_function", "by_autograd", "by_function"]


# by autograd ------------------------------------------------------------------------------------


def by_autograd(made: Candidate, layer: nn.Module, model: Model, trial: Trial) -> ReceivedGradients:
    """The gradients of x, the initial states and the parameters through a candidate's graph.

    Raises ``CandidateError`` where it raises, has no graph, or breaks it by changes in place.
    """
    structure, inputs, reached = model.structure, trial.inputs, trial.reached
    asked, _ = made.suited(inputs.to(next(layer.parameters()).dtype))
    leaves: dict[str, Tensor] = {"x": asked.x.clone().requires_grad_()}
    if inputs.given and made.signature.takes_initial:
        for name, value in asked.initial.items():
            leaves[f"{name}_0"] = value.clone().requires_grad_()
    initial = {name: leaves.get(f"{name}_0", value) for name, value in asked.initial.items()}
    # not leaves, as inside a network: what changes them in place is no error then
    live = replace(
        asked, x=leaves["x"] * 1, initial={name: value * 1 for name, value in initial.items()}
    )
    weights = None
    if made.takes_weights:
        parameters = {n: v.detach().clone().requires_grad_() for n, v in layer.state_dict().items()}
        leaves |= parameters
        weights = {name: value * 1 for name, value in parameters.items()}
    else:
        leaves |= _own_parameters(made, model)
    packed = inputs.lengths is not None and not made.takes_lengths
    values = arguments_of(made.signature, structure, live, weights, packed)

    def gradients(returned: Any) -> tuple[dict[str, Tensor], Answer]:
        with keeping_graphs():
            answer = answered(returned, structure, live, made.name)
        pairs = [(answer.output, reached.h)]
        pairs += [(value, reached.final[name]) for name, value in answer.final.items()]
        live_pairs = [(value, g) for value, g in pairs if value.requires_grad]
        if not live_pairs:
            raise CandidateError(
                f"{made.name} has no gradient: what it returns has no graph (NumPy, detach() or "
                f"no_grad inside). Compute it with tensors throughout, or give its backward pass, "
                f"compare(..., backward=my_backward)"
            )
        total = torch.stack([(value * g.to(value.dtype)).sum() for value, g in live_pairs]).sum()
        wanted = list(leaves.values())
        backward: tuple[Tensor | None, ...] = torch.autograd.grad(total, wanted, allow_unused=True)
        filled = {
            name: torch.zeros_like(leaf) if g is None else g
            for (name, leaf), g in zip(leaves.items(), backward, strict=True)
        }
        return filled, answer

    try:
        by_name, answer = made.differentiated(values, gradients)
    except CandidateError as error:
        raise CandidateError(_explained(str(error))) from error.__cause__
    final = {
        name: value if name in answer.final else torch.zeros_like(value)
        for name, value in reached.final.items()
    }
    if structure.batch_first:
        by_name["x"] = by_name["x"].transpose(0, 1)
    used = replace(trial, reached=Reached(reached.h, final))
    received = ReceivedGradients(by_name, model, used, f"autograd through {made.name}")
    received.dtype = answer.dtype
    return received


def _own_parameters(made: Candidate, model: Model) -> dict[str, Tensor]:
    """The parameters of a candidate's module that have the reference's names, alone or behind a
    dot."""
    module = made.module
    if module is None:
        return {}
    stored = stored_parameters(model)
    parameters: dict[str, Tensor] = {}
    for path, parameter in module.named_parameters():
        name = path.rpartition(".")[2]
        fits = name in stored and stored[name].shape == parameter.shape
        if fits and name not in parameters:
            parameters[name] = parameter.requires_grad_() if made.is_copy else parameter
    return {name: value for name, value in parameters.items() if value.requires_grad}


_IN_PLACE = re.compile(r"modified by an inplace operation|in-place operation")


def _explained(text: str) -> str:
    """With what to do, where autograd's own words do not say it."""
    if _IN_PLACE.search(text):
        return (
            f"{text}. A tensor that the backward pass needs is overwritten: write x = x + ... in "
            f"place of x += ..., and collect outputs in a list, torch.stack(outputs)"
        )
    if "Can't call numpy()" in text:
        return (
            f"{text}. NumPy keeps no graph: give the backward pass, "
            f"compare(..., backward=my_backward)"
        )
    return text


# by a backward function -------------------------------------------------------------------------

NAMES = {
    "x": ("x", "xs", "input", "inputs"),
    "initial": ("initial", "hx", "state", "states", "h0", "h_0", "h", "hidden"),
    "weights": ("weights", "w", "params", "parameters", "state_dict"),
    "grad_output": ("grad_output", "grad_outputs", "dy", "dout", "doutput", "dh", "upstream"),
    "grad_final": ("grad_final", "grad_h_n", "grad_hn", "dfinal", "dh_n", "dhn", "grad_state"),
    "masks": ("masks", "mask", "dropout_masks"),
    "lengths": ("lengths", "lens"),
}
"""Parameters by name; those that no name tells are told by their place."""

ROLES = ("x", "initial", "weights", "grad_output", "grad_final")
EXPECTED = "backward(x, initial, weights, grad_output, grad_final) -> {'x': dx, ...}"


def backward_function(function: Any, model: Model) -> Candidate:
    """A backward function, as data can be given to it. Raises ``NotRecurrentError`` for what is no
    function of these parameters."""
    if not callable(function):
        raise NotRecurrentError(f"expected {EXPECTED}; got {type(function).__name__}")
    kinds = inspect.Parameter
    parameters = parameters_of(function)
    named = [p for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    if len(named) < len(parameters) or not parameters:
        named = [kinds(role, kinds.POSITIONAL_OR_KEYWORD) for role in ROLES]
    roles: dict[str, str] = {}
    for parameter in named:
        for role, names in NAMES.items():
            if parameter.name.lower() in names and role not in roles.values():
                roles[parameter.name] = role
                break
    free = [role for role in ROLES if role not in roles.values()]
    for parameter in named:
        required = parameter.default is kinds.empty
        if parameter.name not in roles and required:
            if not free:
                raise NotRecurrentError(
                    f"what the parameter {parameter.name!r} of the backward function should be "
                    f"given is not known; expected {EXPECTED}, and masks or lengths by name"
                )
            roles[parameter.name] = free.pop(0)
    if "grad_output" not in roles.values():
        raise NotRecurrentError(f"the backward function takes no grad_output; expected {EXPECTED}")
    return Candidate(function, model.structure, signature=Signature(tuple(named), roles))


def by_function(made: Candidate, layer: nn.Module, model: Model, trial: Trial) -> ReceivedGradients:
    """What a backward function returns. Raises ``CandidateError`` where it raises, ``ShapeError``
    and ``DtypeError`` for what are no gradients."""
    structure, inputs, reached = model.structure, trial.inputs, trial.reached
    dtype = next(layer.parameters()).dtype

    def laid(value: Tensor) -> Tensor:
        value = value.to(dtype)
        return (value.transpose(0, 1) if structure.batch_first else value).contiguous()

    def together(states: Mapping[str, Tensor]) -> Any:
        shaped = tuple(
            value.to(dtype).reshape(structure.state_shape(name, inputs.batch))
            for name, value in states.items()
        )
        return shaped if len(shaped) > 1 else shaped[0]

    full = torch.full((inputs.batch,), inputs.steps, dtype=torch.long, device="cpu")
    values = {
        "x": laid(inputs.x),
        "initial": together(inputs.initial),
        "weights": {name: value.detach().clone() for name, value in layer.state_dict().items()},
        "grad_output": laid(reached.h),
        "grad_final": together(reached.final),
        "masks": [laid(mask) for mask in trial.masks or ()],
        "lengths": full if inputs.lengths is None else inputs.lengths,
    }
    taken = made.signature.required
    returned, mutated = made.given({role: values[role] for role in taken})
    if "grad_final" not in taken:
        zero = {name: torch.zeros_like(value) for name, value in reached.final.items()}
        trial = replace(trial, reached=Reached(reached.h, zero))
    received = ReceivedGradients(returned, model, trial, f"what {made.name} returned")
    if mutated:
        received.notes.insert(0, f"{made.name} changes {' and '.join(mutated)} in place")
    return received
