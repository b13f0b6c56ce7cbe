"""Mistakes in where parameters are read: at another place of one array, or of another gate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.changes import several_parts
from rnnscope._compare.mistakes.entry import Choice, Entry
from rnnscope._compare.mistakes.gates import PAIRS
from rnnscope._compare.mistakes.weights import scaled_biases
from rnnscope._compare.mistakes.words import Words, declared
from rnnscope._compare.model.model import Model, Part, PartIndex

__all__ = ["STORED"]

NAMES = ("ih", "hh", "b_ih", "b_hh")

# all parameters in one array ------------------------------------------------------------------

Place = tuple[PartIndex, str]
"""A parameter: its layer and direction, and its name."""


def _places(model: Model) -> list[Place]:
    """Every parameter in PyTorch's order: layer by layer, in each direction W_ih, W_hh, b_ih,
    b_hh."""
    return [
        (place, name)
        for place, part in model.places()
        for name in NAMES
        if getattr(part.stored, name) is not None
    ]


ORDERS = {
    "weights_biases": lambda place: place[1].startswith("b_"),
    "biases_weights": lambda place: not place[1].startswith("b_"),
}
"""Of all parameters, as a key by which PyTorch's order is sorted."""

WITHIN = {
    "ih_hh": ("ih", "b_ih", "hh", "b_hh"),
    "biases_first": ("b_ih", "b_hh", "ih", "hh"),
    "hh_first": ("hh", "ih", "b_hh", "b_ih"),
}
"""In each layer and direction the order of the parameters."""


START = "start"
"""Every parameter is read from the start of the array."""


def _order(model: Model, choice: str) -> list[Place]:
    """The order in which the parameters are read, or in which they were stored."""
    places = _places(model)
    if choice in WITHIN:
        return sorted(places, key=lambda place: (place[0], WITHIN[choice].index(place[1])))
    return sorted(places, key=ORDERS[choice])


def _flat_choices(model: Model) -> Iterator[str]:
    stored, several = model.first.stored, several_parts(model)
    if stored.hr is not None or stored.vectors:
        return
    yield START
    for choice in (*(ORDERS if several else ()), *WITHIN):  # of one part those orders are others
        if stored.b_ih is not None or choice == "hh_first":
            yield from (f"read:{choice}", f"stored:{choice}")


def _size(model: Model, place: Place) -> Tensor:
    (layer, d), name = place
    value: Tensor = getattr(model.parts[layer][d].stored, name)
    return value


def _of_one_size(model: Model) -> bool:
    """Whether W_ih and W_hh are of one size, so that W_hh before W_ih exchanges both, and the
    biases."""
    return all(part.stored.ih.shape == part.stored.hh.shape for _, part in model.places())


def _read_flat(model: Model, cause: Cause) -> Model | None:
    way, _, choice = cause.choice.partition(":")
    if choice == "hh_first" and _of_one_size(model):
        biases = model.first.stored.b_ih is not None and scaled_biases(model.first)
        if way == "stored" or not biases:
            return None  # which is that of reading, or what ``matrices_exchanged`` says
    reference_order = _places(model)
    order = reference_order if way == START else _order(model, choice)
    stored, read = (reference_order, order) if way == "read" else (order, reference_order)
    array = torch.cat([_size(model, place).reshape(-1) for place in stored])
    tensors: dict[PartIndex, dict[str, Tensor]] = {}
    start = 0
    for place in read:
        value = _size(model, place)
        taken = array[start : start + value.numel()].reshape(value.shape)
        tensors.setdefault(place[0], {})[place[1]] = taken
        start += 0 if way == START else value.numel()
    parts = {
        (layer, d): model.parts[layer][d].weighted(cause.name, cause.choice, **named)
        for (layer, d), named in tensors.items()
    }
    unchanged = all(
        torch.equal(getattr(part.stored, name), _size(model, (place, name)))
        for place, part in parts.items()
        for name in tensors[place]
    )
    return None if unchanged else model.with_parts(parts)


WORDS = {
    "weights_biases": "all weights, then all biases",
    "biases_weights": "all biases, then all weights",
    "ih_hh": "W_ih, b_ih, W_hh, b_hh layer by layer",
    "biases_first": "b_ih, b_hh, W_ih, W_hh layer by layer",
    "hh_first": "W_hh, W_ih, b_hh, b_ih layer by layer",
}


def _flat_words(cause: Cause, model: Model) -> Words:
    if cause.choice == START:
        return Words(
            "every parameter is read from the start of one array",
            "PyTorch keeps them all in one storage, each from its own offset on.",
            "storage[offset : offset + size]",
        )
    way, _, choice = cause.choice.partition(":")
    if choice == "hh_first" and _of_one_size(model):
        return Words(
            "W_ih and W_hh are exchanged, and so are b_ih and b_hh",
            "W_ih and b_ih belong to the input, W_hh and b_hh to the state; one array of all may "
            "have been read with those of the state first.",
            "x @ W_ih.T + b_ih; h @ W_hh.T + b_hh",
        )
    cudnn = ", as cuDNN has them" * (choice == "weights_biases")
    order = f"{WORDS[choice]}{cudnn}"
    torchs = "W_ih, W_hh, b_ih, b_hh of each layer and direction in turn"
    if way == "read":
        return Words(
            f"one array of all parameters is read as {order}",
            f"it holds PyTorch's order, {torchs}.",
            "np.split(flat, ends)   # ends of the parameters in layer.parameters()' order",
        )
    return Words(
        f"the parameters were written into one array as {order}",
        f"they are read in PyTorch's order, {torchs}.",
        "flat = torch.cat([p.reshape(-1) for p in layer.parameters()])",
    )


# x and h in one product -------------------------------------------------------------------------


def _concatenate(part: Part, cause: Cause) -> Part | None:
    weights = part.weights
    ih, hh = weights.ih, weights.hh
    if ih.shape == hh.shape:  # which is what matrices_exchanged says
        return None
    both = torch.cat([ih, hh], 1)
    size = hh.shape[1]
    return part.weighted(cause.name, ih=both[:, size:].contiguous(), hh=both[:, :size].contiguous())


# rows of another gate ---------------------------------------------------------------------------

FIELDS = {"W_ih": ("ih",), "W_hh": ("hh",), "": ("ih", "hh", "b_ih", "b_hh")}
"""Parameters whose rows are taken, of all where none is said."""


def _repeats(model: Model) -> Iterator[Choice | str]:
    gates = model.first.cell.gates
    for used, gate in permutations(gates, 2):
        for tensors in ("W_hh", "W_ih"):
            yield f"{used}:{gate}", tensors
        if (used, gate) not in PAIRS:  # of these the values themselves are used
            yield f"{used}:{gate}"


def _repeat_rows(part: Part, cause: Cause) -> Part:
    """The part in whose parameters the rows of one gate stand in place of another's."""
    used, gate = cause.choice.split(":")
    tensors: dict[str, Tensor | None] = {}
    for name in FIELDS[cause.tensors]:
        value = part.parameter(name)
        if value is not None:
            value = value.clone()
            value[part.stored.rows(gate)] = value[part.stored.rows(used)]
        tensors[name] = value
    return part.weighted(cause.name, cause.choice, cause.tensors, **tensors)


def _repeated_facts(cause: Cause, model: Model) -> dict[str, object]:
    used, gate = cause.choice.split(":")
    matrix = cause.tensors
    title, has = f"{gate} is computed from the rows of {used}", "of its own in all parameters"
    line = f"a_{gate} = x @ W_i{gate}.T + b_i{gate} + h @ W_h{gate}.T + b_h{gate}"
    if matrix:
        taken, replaced = f"{matrix[:-1]}{used}", f"{matrix[:-1]}{gate}"
        title, has = f"{taken} is used in place of {replaced}", f"of {matrix} of its own"
        line = f"a_{gate} += {'x' if matrix == 'W_ih' else 'h'} @ {replaced}.T"
    return {"title": title, "gate": gate, "has": has, "line": line}


STORED = declared(
    """
    concatenated
        [h, x] is multiplied by [W_ih, W_hh]
        the first columns belong to x, those behind them to h.
        np.concatenate([x, h], -1) @ np.concatenate([W_ih, W_hh], 1).T
    rows_repeated
        {title}
        {gate} has rows {has}.
        {line}
    """,
    Entry(
        "flat",
        "the order of the rows",
        "global",
        model=_read_flat,
        options=_flat_choices,
        words_of=_flat_words,
        concerns=("W_ih and W_hh (not transposed)", "b_ih and b_hh"),
        exactly="`start`: each is the first numbers of W_ih of layer 0 and of what follows it. "
        "`read:`: an array in PyTorch's order is cut in this order; `stored:`: an array in this "
        "order is cut in PyTorch's. `ih_hh`: W_ih, b_ih, W_hh, b_hh; `biases_first`: b_ih, b_hh, "
        "W_ih, W_hh; `hh_first`: W_hh, W_ih, b_hh, b_ih of each layer and direction.",
    ),
    Entry(
        "concatenated",
        "W_ih and W_hh (not transposed)",
        "parts",
        _concatenate,
        exactly="The first H columns of [W_ih, W_hh] multiply h, the others x; where the input has "
        "another size than h.",
    ),
    Entry(
        "rows_repeated",
        "the order of the rows",
        "parts",
        _repeat_rows,
        options=_repeats,
        facts=_repeated_facts,
        alone=True,
        concerns=("b_ih and b_hh",),
        exactly="`z:r of W_hh`: W_hz stands in the place of W_hr too. `g:o`: so do g's rows of all "
        "parameters in the place of o's.",
    ),
)
