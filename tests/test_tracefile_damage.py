"""A trace's file of which any part is missing or another: an error that names the file, or a trace
of which every verb answers or refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from verbs import Bench

import rnnscope as rs
from rnnscope._files.disk import checksum
from rnnscope.cells.serialize import cell_of

OTHER_FACTS = [None, "x", 0, [], True, -1, 10**30, 1.5, float("nan"), "\x1b[31m", {}, [[]]]
FEW = 4
OTHER_TENSORS = {
    "whole numbers": lambda t: t.to(torch.int32),
    "eight bits": lambda t: t.float().to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "flat": lambda t: t.reshape(-1),
    "cut": lambda t: t[:-1],
    "one more dim": lambda t: t[None],
    "nothing": lambda t: t[:0],
    "other numbers": lambda t: ~t if t.dtype == torch.bool else -t,
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
}

Facts = dict[str, Any]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def parts(tr: rs.Trace, path: Path) -> tuple[Facts, Tensors]:
    tr.save(path)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["rnnscope"])
    return facts, load_file(path)


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of JSON data."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in pairs:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def changed(facts: Facts, place: tuple[Any, ...], *value: Any) -> Facts:
    """The facts with another value at a place, or without one."""
    fresh = copy.deepcopy(facts)
    node: Any = fresh
    for key in place[:-1]:
        node = node[key]
    if value:
        node[place[-1]] = value[0]
    else:
        del node[place[-1]]
    return fresh


def files(facts: Facts, tensors: Tensors, others: int) -> Iterator[tuple[str, Facts, Tensors]]:
    for place in places(facts):
        yield f"without {place}", changed(facts, place), tensors
        for value in OTHER_FACTS[:others]:
            yield f"{place} {value!r}", changed(facts, place, value), tensors
    for name in tensors:
        yield f"without {name}", facts, {n: t for n, t in tensors.items() if n != name}
        for what, change in OTHER_TENSORS.items():
            fresh = change(tensors[name]).contiguous().clone()
            yield f"{name}: {what}", facts, tensors | {name: fresh}


def use(tr: rs.Trace) -> None:
    """Everything that could stumble over a part."""
    at = {"layer": 0, "direction": tr.directions[0], "batch": 0, "time": "last", "unit": 0}
    assert repr(tr)
    assert tr._repr_html_()
    for verb in (
        lambda: tr.explain("h", **at),
        tr.shapes,
        tr.view,
        lambda: tr.gradients(h_n=torch.ones_like(tr.h_n)),
        lambda: tr.rerun(rs.Edit("h", time=0, to=0.5)),
    ):
        try:
            verb()
        except rs.RnnscopeError:
            continue


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("gru", FEW),
        *(
            pytest.param(name, len(OTHER_FACTS), marks=pytest.mark.slow)
            for name in ("gru", "lstm", "cell", "soft")
        ),
    ],
)
def test_every_part_that_is_missing_or_another_is_told(
    name: str, others: int, bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    facts, tensors = parts(bench.traces[name], path)
    messages = []
    for _, other, numbers in files(facts, tensors, others):
        if other.get("crc32") == facts["crc32"]:
            other = {**other, "crc32": checksum(numbers)}
        save_file(numbers, path, {"rnnscope": json.dumps(other)})
        try:
            tr = rs.load_trace(path)
        except rs.FileError as error:
            messages.append(str(error))
            continue
        use(tr)
    assert len(messages) > 200
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "cell", "declared", "soft"])
def test_a_part_that_is_missing_is_named(name: str, bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    facts, tensors = parts(bench.traces[name], path)
    optional = ("mask/", "input/", "value/")
    states = [f"value/{state}" for state in bench.traces[name].cell.states]
    needed = [n for n in tensors if n in states or not n.startswith(optional)]
    for missing in needed:
        numbers = {n: t for n, t in tensors.items() if n != missing}
        other = {**facts, "crc32": checksum(numbers)}
        save_file(numbers, path, {"rnnscope": json.dumps(other)})
        with pytest.raises(rs.FileError, match=r"it lacks|of the lengths|packed") as told:
            rs.load_trace(path)
        assert missing in str(told.value) or "packed" in missing
    for missing in facts.keys() - {"labels", "engine"}:  # an older version wrote none
        save_file(tensors, path, {"rnnscope": json.dumps(changed(facts, (missing,)))})
        with pytest.raises(rs.FileError, match=f"it lacks {missing}"):
            rs.load_trace(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "null", "[]", '"x"', "NaN", "\ud800"],
    ids=lambda text: text[:3] or "empty",
)
def test_a_description_that_is_no_json_of_a_trace_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    text = text.encode("utf-8", "replace").decode()
    save_file({"x": torch.zeros(1)}, path, {"rnnscope": text})
    with pytest.raises(rs.FileError, match=r"t\.safetensors is damaged"):
        rs.load_trace(path)


@pytest.mark.parametrize("kind", ["F8_E8M0", "F4", "X9", "BF16", "I4", "C64"])
def test_numbers_of_any_type_are_told(kind: str, tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"rnnscope": "{}"},
            "x": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]},
        }
    ).encode()
    path = tmp_path / "t.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(rs.FileError, match=r"t\.safetensors is damaged"):
        rs.load_trace(path)


def test_an_equation_nested_or_repeated_without_end_is_told_or_read_at_once(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    facts, tensors = parts(bench.traces["soft"], path)
    deep: Any = ["from_x", "h"]
    for _ in range(900):
        deep = ["+", deep, 1.0]
    save_file(
        tensors,
        path,
        {"rnnscope": json.dumps(changed(facts, ("structure", "cell", "equations", "h"), deep))},
    )
    with pytest.raises(rs.FileError, match="more than 200 operations"):
        rs.load_trace(path)
    # each is the square of the one above: 2^60 products, where they are not shared
    squares = {"q0": ["from_x", "h"]} | {
        f"q{k}": ["*", ["quantity", f"q{k - 1}"], ["quantity", f"q{k - 1}"]] for k in range(1, 60)
    }
    equations = squares | {"h": ["apply", "tanh", ["quantity", "q59"]]}
    cell = cell_of({**facts["structure"]["cell"], "equations": equations})
    assert cell.range("h") == (-1.0, 1.0)
    assert cell.range("q59") is None


def test_a_joined_trace_of_several_calls_is_not_written(bench: Bench, tmp_path: Path) -> None:
    """Its file could not tell the calls apart, and lacked the output."""
    for layer, inputs in ((bench.cell, bench.x), (bench.gru, [bench.x, bench.x])):
        with rs.watch(layer) as seen:
            state = None
            for x in inputs:
                returned = layer(x, state)
                state = returned if layer is bench.cell else returned[1]
        with pytest.raises(rs.RefusedError, match=r"joined\.calls\[0\]"):
            seen.joined("").save(tmp_path / "t.safetensors")
        assert not list(tmp_path.iterdir())
        seen.joined("").calls[0].save(tmp_path / "t.safetensors")
        rs.load_trace(tmp_path / "t.safetensors")
        (tmp_path / "t.safetensors").unlink()
