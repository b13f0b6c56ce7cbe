"""How a framework stores recurrent layers, as data that checks itself.

A ``Layout`` holds one ``Stored`` for each kind of cell, and a ``Stored`` holds one ``Array`` for
each array, or for each gate's array. Conversion in both directions is derived from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from rnnscope.errors import DeclarationError

__all__ = [
    "BIASES",
    "DIRECTIONS",
    "KINDS",
    "UNUSED",
    "Array",
    "Layout",
    "Position",
    "Stored",
    "positions",
]

DIRECTIONS = ("forward", "reverse")

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "rnn": "h",
        "gru": "rzn",
        "gru_reset_before": "rzn",
        "lstm": "ifgo",
        "lstm_peephole": "ifgo",
        "lstm_coupled": "igo",
        "lstm_coupled_peephole": "igo",
    }
)
"""The kinds of cell that layouts know, each with its gates in PyTorch's order."""

UNUSED = "-"
PEEPHOLES = "ifo"  # the gates that see the cell state; g does not
MATRICES = ("W_ih", "W_hh")
BIASES = ("b_ih", "b_hh")
PARTS = {MATRICES, BIASES} | {(part,) for part in (*MATRICES, *BIASES, "W_hr", "peephole")}


@dataclass(frozen=True)
class Array:
    """One stored array: its name, and which parameters of which gates it holds.

    ``part`` is ``W_ih``, ``W_hh``, ``b_ih``, ``b_hh``, ``W_hr`` (the projection) or ``peephole``;
    two parts, as in ``"W_ih W_hh"`` and ``"b_ih b_hh"``, lie in one array, the first of them first.
    ``gates`` are stacked in this order; empty means those of the ``Stored``. With ``{gate}`` in
    the name there is an array for each gate. ``{layer}`` and ``{direction}`` stand for the
    layout's texts.

    >>> from rnnscope._layouts import Array
    >>> Array("kernel", "W_ih W_hh").parts
    ('W_ih', 'W_hh')
    """

    name: str
    part: str
    gates: str = ""

    def __post_init__(self) -> None:
        if self.parts not in PARTS:
            raise DeclarationError(
                f"array {self.name}: unknown part {self.part!r}; expected one of "
                f"{', '.join(' '.join(parts) for parts in sorted(PARTS))}"
            )
        try:
            self.name.format(layer="", direction="", gate="")
        except (KeyError, IndexError, ValueError):
            raise DeclarationError(
                f"array {self.name}: only {{layer}}, {{direction}} and {{gate}} may stand in braces"
            ) from None
        if "{gate}" in self.name and self.part == "W_hr":
            raise DeclarationError(f"array {self.name}: the projection W_hr has no gates")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parameters in the array, in their order."""
        return tuple(self.part.split())

    @property
    def is_bias(self) -> bool:
        """Whether it holds biases, which a layer may be without."""
        return self.parts[0] in BIASES


@dataclass(frozen=True)
class Stored:
    """How one kind of cell is stored.

    ``gates`` is the order in which gates are stacked, in PyTorch's letters; ``-`` is a block that
    the framework stores and does not use. ``orientation``:
    ``rows`` is (gates × hidden, input), ``columns`` is (input, gates × hidden), ``reshaped`` is
    columns whose numbers lie as those of rows do, gate by gate (old cuDNN files of Keras).
    A bias ``b_ih`` whose gate has no ``b_hh`` is the sum of the two. ``biases`` says how two of
    them lie in one array: ``joined`` (2 × gates × hidden) or ``stacked`` (2, gates × hidden).
    ``update``: whether z of a GRU ``keeps`` the old state or ``takes`` the new one.
    ``forget_bias`` is what the framework adds to the forget gate at run time. ``biased`` says
    that bias arrays are always there. ``gate_names`` are the framework's names for ``{gate}``.
    ``nonlinearity`` is what the framework's ``rnn`` has unless it is told otherwise, and
    ``nonlinearity_fixed`` says that it cannot be told otherwise.

    >>> from rnnscope import Array, Stored
    >>> stored = Stored("rzn", (Array("W", "W_ih"), Array("U", "W_hh")), orientation="columns")
    >>> stored.biased, stored.update
    (False, 'keeps')
    """

    gates: str
    arrays: tuple[Array, ...]
    orientation: Literal["rows", "columns", "reshaped"] = "rows"
    biases: Literal["joined", "stacked"] = "joined"
    update: Literal["keeps", "takes"] = "keeps"
    forget_bias: float = 0.0
    biased: bool = False
    gate_names: Mapping[str, str] = field(default_factory=dict)
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    nonlinearity_fixed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", tuple(self.arrays))
        object.__setattr__(self, "gate_names", MappingProxyType(dict(self.gate_names)))
        for name, allowed in (
            ("orientation", ("rows", "columns", "reshaped")),
            ("biases", ("joined", "stacked")),
            ("update", ("keeps", "takes")),
            ("nonlinearity", ("tanh", "relu")),
        ):
            if getattr(self, name) not in allowed:
                raise DeclarationError(
                    f"{name} must be {' or '.join(allowed)}; got {getattr(self, name)!r}"
                )
        if self.orientation == "reshaped" and any(a.parts == MATRICES for a in self.arrays):
            raise DeclarationError("a kernel of both W_ih and W_hh cannot be reshaped gate by gate")

    def gates_of(self, array: Array) -> str:
        """The gates in an array, in their order."""
        if array.gates:
            return array.gates
        if array.parts == ("peephole",):
            return "".join(gate for gate in self.gates if gate in PEEPHOLES + UNUSED)
        return self.gates

    def holders(self, part: str) -> str:
        """The gates whose ``part`` is stored, in the order in which they are found."""
        return "".join(
            self.gates_of(array).replace(UNUSED, "") for array in self.arrays if part in array.parts
        )

    def check(self, kind: str) -> None:
        """Raise ``DeclarationError`` where gates are missing, or stored twice."""
        gates = KINDS[kind]
        expected = {"W_ih": gates, "W_hh": gates}
        if kind.endswith("peephole"):
            expected["peephole"] = "".join(gate for gate in gates if gate in PEEPHOLES)
        for part, wanted in expected.items():
            if sorted(self.holders(part)) != sorted(wanted):
                raise DeclarationError(
                    f"{kind}: {part} must be stored once for each of the gates {wanted}; "
                    f"got {self.holders(part) or 'none'}"
                )
        merged, apart = self.holders("b_ih"), self.holders("b_hh")
        if merged and sorted(merged) != sorted(gates):
            raise DeclarationError(f"{kind}: b_ih is stored for {merged}, not for all of {gates}")
        if len(set(apart)) != len(apart) or not set(apart) <= set(merged):
            raise DeclarationError(
                f"{kind}: b_hh is stored for {apart}; expected some of {merged or 'no gate'}, once"
            )
        if self.update == "takes" and "z" not in gates:
            raise DeclarationError(f"{kind}: there is no update gate z to be exchanged")
        if self.forget_bias and not ("f" in gates and merged):
            raise DeclarationError(f"{kind}: forget_bias needs a forget gate f and a bias")


@dataclass(frozen=True)
class Position:
    """One layer in one direction, and the stack that it lies in: names tell them apart only where
    there are several."""

    layer: int
    direction: str
    num_layers: int
    bidirectional: bool


def positions(num_layers: int, bidirectional: bool) -> Iterator[Position]:
    """Every position of a stack: layer by layer, forward before reverse."""
    for layer in range(num_layers):
        for direction in DIRECTIONS[: 1 + bidirectional]:
            yield Position(layer, direction, num_layers, bidirectional)


@dataclass(frozen=True)
class Layout:
    """One framework's way to store recurrent layers.

    ``cells`` maps kinds of cell (those of ``KINDS``) to how each is stored. Where names hold no
    ``{layer}``, an array's name gets the texts ``layer`` (with ``{number}``) and ``directions``
    in front of it, but only where there are several layers, or two directions. With
    ``direction_axis`` every array has a first axis of directions instead. ``source`` is where the
    framework states its convention.

    >>> from rnnscope._layouts import Array, Layout, Stored
    >>> mine = Layout("mine", cells={"lstm": Stored(
    ...     gates="fiog",
    ...     arrays=(Array("Wx", "W_ih"), Array("Wh", "W_hh"), Array("b", "b_ih")),
    ...     orientation="columns",
    ... )})
    >>> mine.names("lstm")
    ('Wx', 'Wh', 'b')
    >>> mine.names("lstm", num_layers=2)[-1]
    'layer1/b'

    Raises ``DeclarationError`` where the declaration does not fit together.
    """

    name: str
    cells: Mapping[str, Stored]
    title: str = ""
    layer: str = "layer{number}/"
    directions: tuple[str, str] = ("forward/", "reverse/")
    direction_axis: bool = False
    source: str = ""
    remark: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", MappingProxyType(dict(self.cells)))
        for kind, stored in self.cells.items():
            if kind not in KINDS:
                raise DeclarationError(
                    f"layout {self.name}: unknown kind of cell {kind!r}; "
                    f"expected some of {', '.join(KINDS)}"
                )
            try:
                stored.check(kind)
            except DeclarationError as error:
                raise DeclarationError(f"layout {self.name}: {error}") from None
        if not self.cells:
            raise DeclarationError(f"layout {self.name}: it stores no kind of cell")

    def stored(self, kind: str) -> Stored:
        """How a kind of cell is stored; ``DeclarationError`` where the layout has no such kind."""
        if kind not in self.cells:
            raise DeclarationError(
                f"layout {self.name} stores no {kind}; it stores {', '.join(self.cells)}"
            )
        return self.cells[kind]

    def array_names(
        self, kind: str, array: Array, position: Position
    ) -> tuple[tuple[str, str], ...]:
        """Each (name, gates) under which an array stands for one layer in one direction."""
        number = self.layer.format(number=position.layer)
        text = self.directions[DIRECTIONS.index(position.direction)]
        before = ""
        if "{layer}" not in array.name:
            before = number if position.num_layers > 1 else ""
            if (
                position.bidirectional
                and not self.direction_axis
                and "{direction}" not in array.name
            ):
                before += text
        stored = self.stored(kind)
        gates = stored.gates_of(array)
        if "{gate}" not in array.name:
            return ((before + array.name.format(layer=number, direction=text), gates),)
        return tuple(
            (
                before
                + array.name.format(
                    layer=number, direction=text, gate=stored.gate_names.get(gate, gate)
                ),
                gate,
            )
            for gate in gates
        )

    def names(self, kind: str, num_layers: int = 1, bidirectional: bool = False) -> tuple[str, ...]:
        """The names of all arrays of a stack of layers, projection included where there is one."""
        return tuple(
            dict.fromkeys(
                name
                for position in positions(num_layers, bidirectional)
                for array in self.stored(kind).arrays
                for name, _ in self.array_names(kind, array, position)
            )
        )
