"""A cell as data: the form in which files have held it since the first version."""

from __future__ import annotations

import json
from typing import Any

import pytest

import rnnscope as rs
from rnnscope.cells import Cell, from_h, from_x, previous, project, quantity, tanh, vector
from rnnscope.cells.serialize import cell_of, data_of

H = ["previous", "h"]
EQUATIONS: dict[str, Any] = {
    "a": ["apply", "tanh", ["+", ["from_x", "a"], ["from_h", "a", H]]],
    "b": ["-", 1.0, ["*", ["quantity", "a"], ["vector", "w"]]],
    "h": ["project", ["from_h", "a", ["*", ["quantity", "b"], ["previous", "a"]]]],
}
FACTS = {"name": "mine", "gates": ["a"], "words": {}, "source": "", "departures": ""}
CELL = Cell(
    name="mine",
    gates="a",
    equations={
        "a": tanh(from_x("a") + from_h("a")),
        "b": 1 - quantity("a") * vector("w"),
        "h": project(from_h("a", quantity("b") * previous("a"))),
    },
)


def test_every_operation_in_the_form_of_the_first_version() -> None:
    """Written by hand: another form would make the files of older versions unreadable."""
    assert data_of(CELL) == FACTS | {"equations": EQUATIONS}
    read = cell_of(json.loads(json.dumps(FACTS | {"equations": EQUATIONS})))
    assert read.equations == CELL.equations


def test_a_function_of_ones_own_is_no_data() -> None:
    function = rs.cells.Function(**{**vars(rs.cells.algebra.FUNCTIONS["tanh"]), "name": "mine"})
    cell = CELL.with_functions({"a": function})
    with pytest.raises(rs.DeclarationError, match="'mine' is a function of one's own"):
        data_of(cell)
