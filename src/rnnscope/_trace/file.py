"""A trace in a file, in the form of .safetensors: tensors and JSON, nothing that runs.

The header's metadata holds one JSON text with what the tensors belong to; a file is written
beside its place and then renamed, so that no reader sees half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._files.disk import (
    checksum,
    description,
    metadata_for,
    no_file,
    refuse_foreign,
    replacing,
)
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import valid_steps
from rnnscope._layers.structure import Structure, Weights
from rnnscope._opening.opening import Opened
from rnnscope._opening.part import Proof
from rnnscope._opening.threshold import Threshold
from rnnscope._record.labels import Labels, step_labels
from rnnscope._record.record import Place
from rnnscope.cells import (
    GRU,
    LSTM,
    LSTM_PROJECTED,
    RNN_RELU,
    RNN_TANH,
    Cell,
    quantity_names,
)
from rnnscope.cells.serialize import cell_of, data_of
from rnnscope.errors import DeclarationError, FileError, ShapeError

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

    Raises ``FileError`` where the place cannot be written, for the ending of another kind of file,
    and for a cell with a function of one's own.
    """
    place = Path(path)
    named = place if place.name else place / "gates"  # of "." and "/" there is none
    line = (
        f"Write tr.save({str(named.with_suffix('.trace'))!r}), to be read by rs.load_trace; for "
        f"tables there are tr.to_xarray() and tr.to_pandas()"
    )
    refuse_foreign(place, "a trace", line)
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
        for d, part in enumerate(row):
            tensors |= {f"weight/{layer}/{d}/{n}": t for n, t in _tensors_of(part).items()}
    if call.lengths is not None:
        tensors["lengths"] = call.lengths
    tensors |= _flat("packed", call.packed)
    output, *states = _flattened(contents.structure, contents.output)
    tensors |= _flat("output", output)
    tensors |= {f"final/{k}": state for k, state in enumerate(states)}
    facts = {
        "format": FORMAT,
        "structure": structure,
        "given": call.has_initial,
        "batched": call.batched,
        "products": None if opened.products is None else str(opened.products),
        "engine": opened.engine,
        "proofs": {name: _described(proof) for name, proof in opened.proofs.items()},
        "labels": contents.labels,
    }
    ready = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
    facts["crc32"] = checksum(ready)
    with replacing(Path(path)) as temporary:
        save_file(ready, temporary, metadata_for(facts, ready))


def _described(proof: Proof) -> dict[str, Any]:
    facts = asdict(replace(proof, threshold=None)) | {"shows": proof.shows}
    del facts["threshold"]
    return facts


def _structure_facts(structure: Structure) -> dict[str, Any]:
    facts = {field.name: getattr(structure, field.name) for field in fields(Structure)}
    return facts | {"cell": data_of(structure.cell)}


def _tensors_of(weights: Weights) -> dict[str, Tensor]:
    names = ("ih", "hh", "b_ih", "b_hh", "hr")
    matrices = {name: t for name in names if (t := getattr(weights, name)) is not None}
    return matrices | {f"vector/{name}": t for name, t in weights.vectors.items()}


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

    Raises ``FileError`` where the file is missing, damaged, or holds no trace; of a part that is
    missing or does not fit the others it names that part.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{no_file(path)}: {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if "rnnscope" not in metadata:
                raise FileError(
                    f"{path} holds no trace: it is a .safetensors file of something else. "
                    f"A trace is written by trace.save(path)"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileError:
        raise
    # a type of numbers that torch lacks is told as an error of many kinds
    except (SafetensorError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise FileError(f"{path} is damaged, or no .safetensors file: {error}") from error
    try:
        text = description(metadata, tensors)
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    assert text is not None, "it was looked for"
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: its description is no JSON ({error})") from error
    if isinstance(facts, dict) and str(facts.get("format")).startswith("rnnscope record"):
        raise FileError(f"{path} holds gradients or a memory: rs.load_record reads it")
    try:
        return _FileParts(_fact({"it": facts}, "it", dict), tensors).contents()
    except (_UnfitError, DeclarationError, ShapeError) as error:
        raise FileError(f"{path} is damaged: its parts do not fit together: {error}") from error


class _UnfitError(Exception):
    """A part that is missing, or does not fit the others."""


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise _UnfitError(reason)


def _fact(facts: Mapping[str, Any], name: str, *kinds: type, within: str = "") -> Any:
    """A fact of one of these kinds; True and False are no numbers."""
    place = f"{within}{name}"
    _require(name in facts, f"it lacks {place}")
    value = facts[name]
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    wanted = " or ".join(kind.__name__ for kind in kinds)
    _require(fits, f"{place} must be {wanted}; got {str(value)[:40]!r}")
    return value


ENGINES = ("torch", "llvm")
"""What may have computed a record."""

_KINDS: dict[str, tuple[Cell, ...]] = {
    "nn.RNN": (RNN_TANH, RNN_RELU),
    "nn.GRU": (GRU,),
    "nn.LSTM": (LSTM, LSTM_PROJECTED),
    "nn.RNNCell": (RNN_TANH, RNN_RELU),
    "nn.GRUCell": (GRU,),
    "nn.LSTMCell": (LSTM,),
}
"""The modules of torch, and what each computes; all others are ``rs.Recurrent``."""
_DECLARED = "rs.Recurrent"
_PRODUCTS = {
    str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


@dataclass(frozen=True)
class _FileParts:
    """What a file holds, read part by part: each is there, of its kind and size."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def contents(self) -> Contents:
        written = _fact(self.facts, "format", str)
        _require(written == FORMAT, f"format {written[:40]!r}; this version reads {FORMAT!r}")
        same = _fact(self.facts, "crc32", int) == checksum(self.tensors)
        _require(same, "its numbers are not those that were written: the checksum differs")
        structure = self.structure()
        weights = self.weights(structure)
        call = self.call(structure)
        lead = (structure.num_layers, len(structure.directions), call.batch, call.steps)
        values = {
            name: self.tensor(f"value/{name}", (*lead, structure.state_size(name)))
            for name in quantity_names(structure.cell)
            if f"value/{name}" in self.tensors or name in structure.cell.states
        }
        inputs: list[Tensor | None] = [call.x.transpose(0, 1)]
        masks: list[Tensor | None] = []
        for layer in range(structure.num_layers):
            shape = (call.batch, call.steps, structure.feature_size(layer))
            if layer > 0:
                inputs.append(self.optional(f"input/{layer}", shape))
            masks.append(self.optional(f"mask/{layer}", shape, torch.bool))
        opened = Opened(
            *(values, tuple(inputs), self.proofs(structure, call), self.products(), tuple(masks)),
            self.engine(),
        )
        output = self.output(structure, call)
        self.types(weights[0][0].ih.dtype)
        return Contents(structure, call, weights, opened, output, self.labels(call))

    # tensors ---------------------------------------------------------------------------------

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of this shape, of real floating point numbers where no type is named."""
        _require(name in self.tensors, f"it lacks {name}")
        value = self.tensors[name]
        fits = str(value.dtype) in _PRODUCTS if dtype is None else value.dtype == dtype
        wanted = "floating point numbers" if dtype is None else str(dtype)
        _require(fits, f"{name} must hold {wanted}; got {value.dtype}")
        got = tuple(value.shape)
        _require(got == shape, f"{name} must be {shape}; got {got}")
        return value

    def optional(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """The same; None where the file has none."""
        return self.tensor(name, shape, dtype) if name in self.tensors else None

    # what it is made of ----------------------------------------------------------------------

    def structure(self) -> Structure:
        kinds = get_type_hints(Structure)
        # an older version wrote no reverse and no declared
        usual = {f.name: f.default for f in fields(Structure) if f.default is not MISSING}
        description = usual | _fact(self.facts, "structure", dict)
        within = "structure/"
        cell = cell_of(_fact(description, "cell", str, dict, within=within))
        read = {
            name: _fact(
                description, name, *((int, float) if kind is float else (kind,)), within=within
            )
            for name, kind in kinds.items()
            if name != "cell"
        }
        extra = sorted(set(description) - set(kinds))
        _require(not extra, f"structure holds {', '.join(extra)[:80]}, which no layer has")
        structure = Structure(cell=cell, **read)
        for name in ("input_size", "hidden_size", "output_size", "num_layers"):
            _require(read[name] >= 1, f"structure/{name} must be at least 1; got {read[name]}")
        _require(0 <= structure.dropout <= 1, "structure/dropout must be between 0 and 1")
        kind, declared = structure.kind, structure.declared
        foreign = structure.foreign and kind not in (*_KINDS, _DECLARED)
        computes = (
            cell in _KINDS[kind]
            if kind in _KINDS
            else (kind == _DECLARED or foreign) and bool(cell.gates)
        )
        _require(computes, f"structure/kind {kind[:40]!r} computes no cell {cell.name[:40]!r}")
        words = all(name.isidentifier() for name in cell.vectors)
        _require(words, "structure/cell names a parameter that is no word")
        _require(declared == (kind == _DECLARED), "structure/declared does not fit its kind")
        _require(
            foreign or structure.single_step == kind.endswith("Cell"),
            "structure/single_step does not fit its kind",
        )
        size = structure.output_size
        _require(
            size < structure.hidden_size if cell.projected else size == structure.hidden_size,
            "structure/output_size does not fit its cell",
        )
        several = structure.num_layers > 1 or structure.bidirectional or structure.dropout > 0
        _require(
            not (structure.single_step and (several or structure.batch_first)),
            "structure: a cell has one layer and one direction",
        )
        _require(
            not structure.reverse or (declared and not structure.bidirectional),
            "structure/reverse does not fit its kind",
        )
        return structure

    def weights(self, structure: Structure) -> tuple[tuple[Weights, ...], ...]:
        cell, hidden, size = structure.cell, structure.hidden_size, structure.output_size
        rows = len(cell.gates) * hidden

        def read(layer: int, d: int, suffix: str) -> Weights:
            place = f"weight/{layer}/{d}/"
            return Weights(
                cell,
                self.tensor(f"{place}ih", (rows, structure.feature_size(layer))),
                self.tensor(f"{place}hh", (rows, size)),
                self.tensor(f"{place}b_ih", (rows,)) if structure.bias else None,
                self.tensor(f"{place}b_hh", (rows,)) if structure.bias else None,
                self.tensor(f"{place}hr", (size, hidden)) if cell.projected else None,
                suffix,
                {n: self.tensor(f"{place}vector/{n}", (hidden,)) for n in cell.vectors},
            )

        return tuple(
            tuple(read(layer, d, suffix) for d, suffix in enumerate(structure.suffixes(layer)))
            for layer in range(structure.num_layers)
        )

    def call(self, structure: Structure) -> Call:
        _require("x" in self.tensors, "it lacks x")
        sizes = tuple(self.tensors["x"].shape)
        _require(len(sizes) == 3 and min(sizes) > 0, f"x must be (time, batch, input); got {sizes}")
        steps, batch = sizes[:2]
        x = self.tensor("x", (steps, batch, structure.input_size))
        batched = _fact(self.facts, "batched", bool)
        _require(batched or batch == 1, f"batched is false, and x holds {batch} sequences")
        _require(steps == 1 or not structure.single_step, f"a cell has one step; x holds {steps}")
        lead = (structure.num_layers, len(structure.directions), batch)
        initial = {
            name: self.tensor(f"initial/{name}", (*lead, structure.state_size(name)))
            for name in structure.cell.states
        }
        lengths = self.optional("lengths", (batch,), torch.int64)
        inside = lengths is None or (int(lengths.min()) >= 1 and int(lengths.max()) == steps)
        _require(inside, f"lengths must be 1 to {steps}, and the longest {steps}")
        given = _fact(self.facts, "given", bool)
        call = Call(x, initial, given, batched, None, lengths)
        counts = call.every_length.tolist()
        whole = "packed/data" not in self.tensors or len(self.tensors["packed/data"]) == sum(counts)
        _require(lengths is not None or whole, "it lacks lengths, or packed/data is another")
        packed = self.packed("packed", call.every_length, structure.input_size)
        free = batched and not structure.single_step
        _require(packed is None or free, "packed does not fit the form of the call")
        _require(packed is not None or lengths is None, "it lacks packed/data, and has lengths")
        return replace(call, packed=packed)

    def packed(self, prefix: str, lengths: Tensor, size: int) -> PackedSequence | None:
        """A PackedSequence of sequences of these lengths; None where the file has none."""
        data, sizes, order, back = (f"{prefix}/{name}" for name in _PACKED)
        if data not in self.tensors:
            return None
        steps, batch = int(lengths.max()), len(lengths)
        counts = valid_steps(lengths, steps).sum(1)
        packed = PackedSequence(
            self.tensor(data, (int(lengths.sum()), size)),
            self.tensor(sizes, (steps,), torch.int64),
            self.optional(order, (batch,), torch.int64),
            self.optional(back, (batch,), torch.int64),
        )
        same = torch.equal(packed.batch_sizes, counts)
        _require(same, f"{sizes} are not those of the lengths")
        orders = (packed.sorted_indices, packed.unsorted_indices)
        permutations = [
            list(range(batch)) if indices is None else indices.tolist() for indices in orders
        ]
        _require((orders[0] is None) == (orders[1] is None), f"it lacks {order} or {back}")
        _require(sorted(permutations[0]) == list(range(batch)), f"{order} is no order of {batch}")
        undone = [permutations[0].index(k) for k in range(batch)] == permutations[1]
        _require(undone, f"{back} undoes no {order}")
        ascends = bool((lengths[permutations[0]].diff() > 0).any())
        _require(not ascends, f"{order} does not sort the lengths")
        return packed

    def output(self, structure: Structure, call: Call) -> Any:
        """In the forms in which modules return it."""
        states = tuple(
            self.tensor(f"final/{k}", structure.state_shape(name, call.batch, call.batched))
            for k, name in enumerate(structure.cell.states)
        )
        final = states[0] if len(states) == 1 else states
        if structure.single_step:
            return final
        size = structure.output_size * len(structure.directions)
        if call.packed is not None:
            packed = self.packed("output", call.every_length, size)
            _require(packed is not None, "it lacks output/data")
            return packed, final
        lead = (call.steps, call.batch) if call.batched else (call.steps,)
        return self.tensor(
            "output", (*(lead[::-1] if structure.batch_first else lead), size)
        ), final

    # what is said of it ----------------------------------------------------------------------

    def types(self, of_weights: torch.dtype) -> None:
        """Numbers that are computed together are of one type; autocast alone lets x be another."""
        for prefix in (("weight/",), ("value/", "final/")):
            kinds = {str(t.dtype) for name, t in self.tensors.items() if name.startswith(prefix)}
            place = " and ".join(prefix)
            _require(len(kinds) == 1, f"{place} hold numbers of several types: {sorted(kinds)}")
        autocast = self.products() not in (None, of_weights)
        x = self.tensors["x"].dtype
        _require(autocast or x == of_weights, f"x is {x}, and the weights are {of_weights}")

    def products(self) -> torch.dtype | None:
        name = _fact(self.facts, "products", str, type(None))
        _require(
            name is None or name in _PRODUCTS, f"products is {str(name)[:40]!r}, no type of numbers"
        )
        return None if name is None else _PRODUCTS[name]

    def engine(self) -> str:
        name = _fact({"engine": "torch", **self.facts}, "engine", str)
        _require(name in ENGINES, f"engine is {name[:40]!r}, not {' or '.join(ENGINES)}")
        return str(name)

    def proofs(self, structure: Structure, call: Call) -> dict[str, Proof]:
        descriptions = _fact(self.facts, "proofs", dict)
        states = structure.cell.states
        _require(
            set(descriptions) in (set(), set(states)), f"proofs must be of {' and '.join(states)}"
        )
        proofs = {}
        for name in descriptions:
            within = f"proofs/{name}/"
            description = _fact(descriptions, name, dict, within="proofs/")
            deviation, tolerance, ratio = (
                float(_fact(description, key, int, float, within=within))
                for key in ("deviation", "tolerance", "ratio")
            )
            _require(deviation >= 0, f"{within}deviation must be at least 0; got {deviation}")
            places, loose = (
                _fact(description, key, int, within=within) for key in ("places", "loose")
            )
            every_step = _fact(description, "every_step", bool, within=within)
            _require(description.get("state") == name, f"{within}state must be {name}")
            at = _fact(description, "place", dict, within=within)
            place = self.place(at, f"{within}place/", structure, call)
            # an older version wrote neither of these
            widest, shows = (
                _fact(description, key, int, float, type(None), within=within)
                if key in description
                else None
                for key in ("widest", "shows")
            )
            proofs[name] = Proof(
                *(deviation, tolerance, ratio, name, place, every_step, places, loose),
                widest=float(widest or 0.0),
                threshold=None if shows is None else Threshold.of_size(float(shows)),
            )
        return {name: proofs[name] for name in states if name in proofs}

    def place(self, at: Mapping[str, Any], within: str, structure: Structure, call: Call) -> Place:
        ends = {"layer": structure.num_layers, "batch": call.batch, "time": call.steps}
        indices = {axis: _fact(at, axis, int, within=within) for axis in ends}
        for axis, end in ends.items():
            _require(0 <= indices[axis] < end, f"{within}{axis} must be 0 to {end - 1}")
        direction = _fact(at, "direction", str, within=within)
        _require(direction in structure.directions, f"{within}direction is no direction of it")
        unit = _fact(at, "unit", int, type(None), within=within)
        return Place(indices["layer"], direction, indices["batch"], indices["time"], unit)

    def labels(self, call: Call) -> Labels:
        if "labels" not in self.facts:  # an older version wrote it
            return ()
        rows = _fact(self.facts, "labels", list)
        for row in rows:
            texts = isinstance(row, list) and all(isinstance(text, str) for text in row)
            _require(texts, "labels must be lists of texts")
        return step_labels(rows, call.every_length.tolist()) if rows else ()
