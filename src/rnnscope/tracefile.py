"""A trace in a .safetensors file: tensors and JSON, nothing that runs.

The header's metadata holds one JSON text with what the tensors belong to; a file is written
beside its place and then renamed, so that no reader sees half of one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope.adopt import Call, Structure, Weights
from rnnscope.cells import quantity_names
from rnnscope.declaration import cell_of, data_of
from rnnscope.direction import Proof
from rnnscope.errors import DeclarationError, FileError, ShapeError
from rnnscope.labels import Labels, step_labels
from rnnscope.opening import Opened
from rnnscope.record import Place
from rnnscope.writing import no_file, replacing

__all__ = ["Contents", "read", "write"]

FORMAT = "rnnscope trace 1"
_PACKED = ("data", "batch_sizes", "sorted_indices", "unsorted_indices")


@dataclass(frozen=True)
class Contents:
    """All that a trace is made of."""

    structure: Structure
    call: Call
    weights: tuple[tuple[Weights, ...], ...]
    opened: Opened
    output: Any
    labels: Labels = ()


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write a trace; an existing file is replaced whole, or not at all.

    Raises ``FileError`` where the place cannot be written, and for a cell with a function of
    one's own.
    """
    try:
        structure = _structure_facts(contents.structure)
    except DeclarationError as error:
        raise FileError(
            f"cannot write {path}: cell {contents.structure.cell.name}: {error}"
        ) from error
    call, opened = contents.call, contents.opened
    tensors = {"x": call.x}
    tensors |= {f"value/{name}": value for name, value in opened.values.items()}
    tensors |= {f"input/{k}": x for k, x in enumerate(opened.inputs[1:], 1) if x is not None}
    tensors |= {f"mask/{k}": mask for k, mask in enumerate(opened.masks) if mask is not None}
    tensors |= {f"initial/{name}": value for name, value in call.initial.items()}
    for layer, row in enumerate(contents.weights):
        for d, one in enumerate(row):
            tensors |= {f"weight/{layer}/{d}/{n}": t for n, t in _parts(one).items()}
    if call.lengths is not None:
        tensors["lengths"] = call.lengths
    tensors |= _flat("packed", call.packed)
    output, *states = _flattened(contents.structure, contents.output)
    tensors |= _flat("output", output)
    tensors |= {f"final/{k}": state for k, state in enumerate(states)}
    facts = {
        "format": FORMAT,
        "structure": structure,
        "given": call.given,
        "batched": call.batched,
        "products": None if opened.products is None else str(opened.products),
        "proofs": {name: asdict(proof) for name, proof in opened.proofs.items()},
        "labels": contents.labels,
    }
    ready = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
    facts["crc32"] = _checksum(ready)
    with replacing(Path(path)) as beside:
        save_file(ready, beside, {"rnnscope": json.dumps(facts)})


def _structure_facts(structure: Structure) -> dict[str, Any]:
    facts = {field.name: getattr(structure, field.name) for field in fields(Structure)}
    return facts | {"cell": data_of(structure.cell)}


def _parts(weights: Weights) -> dict[str, Tensor]:
    names = ("ih", "hh", "b_ih", "b_hh", "hr")
    found = {name: t for name in names if (t := getattr(weights, name)) is not None}
    return found | {f"vector/{name}": t for name, t in weights.vectors.items()}


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of all names and numbers, so that a changed bit is told."""
    total = 0
    for name in sorted(tensors):
        numbers = tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        total = zlib.crc32(numbers, zlib.crc32(name.encode(), total))
    return total


def _flat(prefix: str, value: Tensor | PackedSequence | None) -> dict[str, Tensor]:
    if isinstance(value, PackedSequence):
        pairs = zip(_PACKED, value, strict=True)
        return {f"{prefix}/{name}": t for name, t in pairs if t is not None}
    return {} if value is None else {prefix: value}


def _flattened(structure: Structure, output: Any) -> list[Any]:
    """[output, h_n, c_n] in the forms in which modules return them; a cell has no output."""
    if structure.single_step:
        return [None, *(output if isinstance(output, tuple) else (output,))]
    states = output[1]
    return [output[0], *(states if isinstance(states, tuple | list) else (states,))]


def read(path: str | os.PathLike[str]) -> Contents:
    """The contents of a file that ``write`` wrote.

    Raises ``FileError`` where the file is missing, damaged, or holds no trace.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{no_file(path)}: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("rnnscope")
            if metadata is None:
                raise FileError(
                    f"{path} holds no trace: it is a .safetensors file of something else. "
                    f"A trace is written by trace.save(path)"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise FileError(f"{path} is damaged, or no .safetensors file: {error}") from error
    try:
        return _contents(json.loads(metadata), tensors)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise FileError(f"{path} is damaged: its parts do not fit together ({error!r})") from error


def _contents(facts: Any, tensors: dict[str, Tensor]) -> Contents:
    if facts["format"] != FORMAT:
        raise ValueError(f"format {facts['format']!r}; this version reads {FORMAT!r}")
    if facts["crc32"] != _checksum(tensors):
        raise ValueError("its numbers are not those that were written: the checksum differs")
    structure = Structure(**{**facts["structure"], "cell": cell_of(facts["structure"]["cell"])})
    weights = tuple(
        tuple(
            Weights(
                structure.cell,
                tensors[f"weight/{layer}/{d}/ih"],
                tensors[f"weight/{layer}/{d}/hh"],
                tensors.get(f"weight/{layer}/{d}/b_ih"),
                tensors.get(f"weight/{layer}/{d}/b_hh"),
                tensors.get(f"weight/{layer}/{d}/hr"),
                suffix,
                {n: tensors[f"weight/{layer}/{d}/vector/{n}"] for n in structure.cell.vectors},
            )
            for d, suffix in enumerate(structure.suffixes(layer))
        )
        for layer in range(structure.num_layers)
    )
    call = Call(
        tensors["x"],
        {name: tensors[f"initial/{name}"] for name in structure.cell.states},
        facts["given"],
        facts["batched"],
        _packed("packed", tensors),
        tensors.get("lengths"),
    )
    values = {
        name: tensors[f"value/{name}"]
        for name in quantity_names(structure.cell)
        if f"value/{name}" in tensors
    }
    lead = (structure.num_layers, len(structure.directions), call.batch, call.steps)
    for name in (*structure.cell.states, *values):
        if tuple(values[name].shape[:4]) != lead:
            raise ValueError(f"{name} is {tuple(values[name].shape)}, not {lead} and units")
    inputs = (call.x.transpose(0, 1), *(tensors.get(f"input/{k}") for k in range(1, lead[0])))
    proofs = {
        name: Proof(**{**proof, "place": Place(**proof["place"])})
        for name, proof in facts["proofs"].items()
    }
    name = facts["products"]
    products = None if name is None else getattr(torch, name.removeprefix("torch."))
    if not isinstance(products, torch.dtype | None):
        raise TypeError(f"products is {name!r}, no type of numbers")
    if not (facts["given"] in (True, False) and facts["batched"] in (True, False)):
        raise TypeError("given and batched must be true or false")
    states = tuple(tensors[f"final/{k}"] for k in range(len(structure.cell.states)))
    final = states[0] if len(states) == 1 else states
    output: Any = final
    if not structure.single_step:
        packed = _packed("output", tensors)
        output = (tensors["output"] if packed is None else packed, final)
    masks = tuple(tensors.get(f"mask/{k}") for k in range(lead[0]))
    opened = Opened(values, inputs, proofs, products, masks)
    labels = _labels(facts.get("labels", ()), call)
    return Contents(structure, call, weights, opened, output, labels)


def _labels(found: Any, call: Call) -> Labels:
    lengths = [call.steps] * call.batch if call.lengths is None else call.lengths.tolist()
    try:
        return step_labels(found, lengths) if found else ()
    except ShapeError as error:
        raise ValueError(str(error)) from error


def _packed(prefix: str, tensors: Mapping[str, Tensor]) -> PackedSequence | None:
    if f"{prefix}/data" not in tensors:
        return None
    order = (tensors.get(f"{prefix}/{name}") for name in _PACKED[1:])
    return PackedSequence(tensors[f"{prefix}/data"], *order)
