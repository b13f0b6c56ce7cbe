"""What a page holds: a trace as plain data, numbers exact, within a size."""

from __future__ import annotations

import base64
import json
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from rnnscope._layers.structure import Weights
from rnnscope._page.model import TokenModel
from rnnscope._page.readout import BEST, LinearStage, Readout, Stage
from rnnscope._page.script import equations, functions
from rnnscope._record.labels import Labels
from rnnscope._record.record import Record
from rnnscope._record.traced import Traced
from rnnscope.cells import Cell
from rnnscope.errors import AddressError, ShapeError

__all__ = ["MOST", "PageTrace", "contents", "json_text"]

MOST = 20 * 2**20
"""Bytes that a page may have."""
_REST = 200_000
"""Of these, what is no number: the script, the style, the equations."""


class PageTrace(Traced, Protocol):
    """What a page needs of a trace."""

    labels: Labels

    @property
    def masks(self) -> tuple[Tensor | None, ...]:
        """What dropout let pass of each layer's input."""

    @property
    def proven(self) -> bool:
        """Whether every number was compared."""

    @property
    def deviation(self) -> float | None:
        """The largest deviation from the layer's own numbers."""

    @property
    def tolerance(self) -> float | None:
        """What rounding allows there."""


def contents(
    trace: PageTrace,
    gradients: Record | None,
    batch: int | None,
    construction: str,
    model: TokenModel | None = None,
) -> dict[str, Any]:
    """A trace as JSON's plain values; arrays as base64 of little-endian floats.

    Where all sequences are more than a page may hold, the first ones are kept, and the page says
    so; ``batch`` keeps one. Raises ``ShapeError`` where even one sequence is too much, and
    ``AddressError`` where gates were not recorded.
    """
    structure, cell = trace.structure, trace.cell
    missing = [name for name in cell.quantities if name not in trace]
    if missing:
        raise AddressError(
            f"a page shows every gate; not recorded are {', '.join(missing)}: leave "
            f'record="gates" in rs.trace and rs.watch'
        )
    model = TokenModel() if model is None else model
    labels = trace.labels or model.labels(trace.lengths.tolist())
    rows, left_out = _rows(trace, gradients, batch, model, labels)
    lengths = trace.lengths[rows].tolist()
    values = {name: _array(trace[name][:, :, rows]) for name in cell.quantities}
    scale = 1 / (1 - structure.dropout) if structure.dropout < 1 else 0.0
    masks = [
        None if m is None else _array(m[rows].to(trace.call.x.dtype) * scale) for m in _masks(trace)
    ]
    return {
        "title": str(structure),
        "construction": construction,
        "kind": structure.kind,
        "cell": {
            "name": cell.name,
            "gates": list(cell.gates),
            "gates_from_x": list(cell.gates_from_x),
            "gates_from_h": list(cell.gates_from_h),
            "states": list(cell.states),
            "functions": functions(cell) | _functions(model),
            "equations": equations(cell, structure.bias),
            "quantities": [_quantity(cell, name) for name in cell.equations],
        },
        "layers": structure.num_layers,
        "directions": list(structure.directions),
        "time": int(trace.call.steps),
        "rows": rows,
        "lengths": lengths,
        "padded": trace.call.lengths is not None,
        "labels": [list(labels[row]) for row in rows] if labels else None,
        "values": values,
        "x": _array(trace.layer_input(0)[rows]),
        "masks": masks,
        "initial": {name: _array(value[:, :, rows]) for name, value in trace.call.initial.items()},
        "weights": [[_weights(part) for part in row] for row in trace.weights],
        "gradients": None if gradients is None else _gradients(gradients, rows),
        "proof": trace.proof,
        "proven": trace.proven,
        "dtype": str(trace.call.x.dtype).removeprefix("torch."),
        "left_out": left_out,
        "vocabulary": None if model.vocabulary is None else _vocabulary(model),
        "readout": None if model.readout is None else _readout(trace, model, model.readout, rows),
    }


def _masks(trace: PageTrace) -> tuple[Tensor | None, ...]:
    working = trace.structure.training and trace.structure.dropout > 0
    return trace.masks if working else (None,) * trace.structure.num_layers


def _rows(
    trace: PageTrace, gradients: Record | None, batch: int | None, model: TokenModel, labels: Labels
) -> tuple[list[int], list[str]]:
    """The sequences that a page can hold, and a sentence where these are not all."""
    count = trace.call.batch
    if batch is not None:
        place = trace.position("batch", batch)
        if isinstance(place, slice):
            raise AddressError(f"batch must be one whole number here; got {batch!r}")
        chosen = [place]
    else:
        chosen = list(range(count))
    size = 8 if trace.call.x.dtype == torch.float64 else 4
    weights = sum(t.numel() for t in trace.parameters.values())
    kept = sum(trace[name].numel() for name in trace.cell.quantities)
    kept += trace.layer_input(0).numel() + sum(t.numel() for t in trace.call.initial.values())
    kept += sum(m.numel() for m in _masks(trace) if m is not None)
    if gradients is not None:
        kept += sum(gradients[name].numel() for name in gradients)
        kept += sum(gradients.layer_input(k).numel() for k in range(trace.structure.num_layers))
    if model.readout is not None:
        kept += 2 * BEST * trace.call.steps * count
    numbers = kept / count * size * 4 / 3
    texts = [len(json_text(list(row)).encode()) for row in labels] or [0] * count
    sizes = list(accumulate(numbers + texts[row] for row in chosen))
    around = model.numbers * size * 4 / 3 + len(json_text(model.texts).encode())
    needed = _REST + weights * size * 4 / 3 + around
    if needed + sizes[0] > MOST and around > MOST / 2:
        raise ShapeError(
            f"{_around(model)} make a page of {(needed + sizes[0]) / 2**20:.0f} MB; the most is "
            f"{MOST >> 20}. "
            f"Keep the tokens that you need: "
            f"nn.Embedding.from_pretrained(embedding.weight[:1000]), the same rows of the readout, "
            f"vocabulary[:1000]; without embedding= no text can be typed, without readout= nothing "
            f"is predicted"
        )
    fits = sum(needed + total <= MOST for total in sizes)
    if fits < 1:
        raise ShapeError(
            f"one sequence of {trace.call.steps} steps with its weights and labels makes a page of "
            f"{(needed + sizes[0]) / 2**20:.0f} MB; the most is {MOST >> 20}. Trace fewer steps "
            f"(x[:, :200]), or look at the numbers with rs.plot and tr.sel"
        )
    if fits >= len(chosen):
        return chosen, []
    sentence = (
        f"Sequences {fits} to {count - 1} of the batch are left out: a page holds "
        f"{MOST >> 20} MB. view(batch=K) shows another."
    )
    return chosen[:fits], [sentence]


def _functions(model: TokenModel) -> dict[str, str]:
    stages = () if model.readout is None else model.readout.stages
    return {stage.name: stage.script for stage in stages if not isinstance(stage, LinearStage)}


def _around(model: TokenModel) -> str:
    """The tables of a model with their sizes, in words."""
    names = []
    if model.embedding is not None:
        names.append(f"the embedding ({' × '.join(map(str, model.embedding.shape))})")
    if model.readout is not None:
        names.append(f"the readout ({model.readout.outputs} × {model.readout.features})")
    names.append(f"the {len(model.texts)} texts of tokens")
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def json_text(facts: Any) -> str:
    """JSON that ends no element and opens no comment."""
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    # what no UTF-8 can hold, half of a pair, is shown as unknown
    return text.encode("utf-8", "replace").decode("utf-8")


def _array(value: Tensor) -> dict[str, Any]:
    kind = torch.float64 if value.dtype == torch.float64 else torch.float32
    numbers = value.detach().to("cpu", kind).contiguous().numpy()
    data = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    kept = "f8" if kind == torch.float64 else "f4"
    return {
        "shape": list(value.shape),
        "type": kept,
        "data": base64.b64encode(data).decode("ascii"),
    }


def _weights(weights: Weights) -> dict[str, Any]:
    """The parameters that the layer has: a gate whose equation uses no W_hh h has no rows there."""
    fields = {"weight_ih": "ih", "weight_hh": "hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    fields |= {"weight_hr": "hr"}
    facts: dict[str, Any] = {"hidden": weights.hidden_size, "tensors": {}, "vectors": {}}
    for name, value in weights.named().items():
        plain = name.removesuffix(weights.suffix)
        place = facts["tensors"] if plain in fields else facts["vectors"]
        place[fields.get(plain, plain)] = {"name": name, **_array(value)}
    return facts


def _vocabulary(model: TokenModel) -> dict[str, Any]:
    vocabulary = model.vocabulary
    assert vocabulary is not None
    return {
        "tokens": list(vocabulary.tokens),
        "split": vocabulary.split,
        "unknown": vocabulary.unknown,
        "untyped": model.untyped,
        "embedding": None if model.embedding is None else _array(model.embedding),
    }


def _readout(
    trace: PageTrace, model: TokenModel, readout: Readout, rows: list[int]
) -> dict[str, Any]:
    """The readout's stages, and what PyTorch predicts at each step of the page's sequences."""
    top = trace["h"][-1][:, rows]
    places, values = readout.predictions(torch.cat(list(top), dim=-1))
    vocabulary = model.vocabulary.tokens if model.vocabulary else None
    names = None if readout.single and model.classes is None else model.classes
    return {
        "text": readout.text,
        "single": readout.single,
        # the vocabulary's own texts stand in the page once
        "names": "vocabulary" if names is not None and names == vocabulary else names,
        "stages": [_stage(stage) for stage in readout.stages],
        "places": _array(places),
        "values": _array(values),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    if not isinstance(stage, LinearStage):
        return {"apply": stage.name}
    bias = None if stage.bias is None else {"name": f"{stage.name}bias", **_array(stage.bias)}
    return {"weight": {"name": f"{stage.name}weight", **_array(stage.weight)}, "bias": bias}


def _gradients(gradients: Record, rows: list[int]) -> dict[str, Any]:
    values: dict[str, Any] = {name: _array(gradients[name][:, :, rows]) for name in gradients}
    return {"values": values, "x": _array(gradients.layer_input(0)[rows])}


def _quantity(cell: Cell, name: str) -> dict[str, Any]:
    """What is known of a quantity without its numbers: its word, its range, whether it is carried,
    and what its equation uses."""
    return {
        "name": name,
        "word": cell.words.get(name, ""),
        "state": name in cell.states,
        "range": cell.range(name),
    }
