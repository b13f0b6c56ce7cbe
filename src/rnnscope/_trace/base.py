"""A call of a layer, opened: what went in, what came out, every number between, and the proof."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from rnnscope._escaping import printable
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import states_before
from rnnscope._layers.structure import Structure, Weights
from rnnscope._layers.tensors import plain
from rnnscope._opening.capture import Snapshot
from rnnscope._opening.opening import Opened
from rnnscope._opening.part import Proof
from rnnscope._opening.proof import sentence, unverified, worst
from rnnscope._record.labels import Labels, step_labels
from rnnscope._record.names import absent_names
from rnnscope._record.record import Place, Record
from rnnscope._trace.listing import html, text
from rnnscope.cells import Cell
from rnnscope.errors import RefusedError

__all__ = ["CallRecord"]


class CallRecord(Record):
    """One call of a recurrent layer as a record, with all that is known of it.

    ``structure`` is what the layer is, ``call`` how it was called; ``proofs`` tells for each state
    how far the equations lie from what it returned; ``labels`` are the names of the steps, if any;
    ``engine`` tells what computed the numbers: "llvm", kernels compiled by it, or "torch".
    """

    def __init__(
        self,
        structure: Structure,
        call: Call,
        snapshot: Snapshot,
        opened: Opened,
        output: Any,
    ) -> None:
        cell = structure.cell
        super().__init__(
            opened.values,
            opened.inputs,
            call.every_length,
            structure.directions,
            {"h": "projected"} if cell.projected else {},
            absent_names(cell, opened.values),
        )
        self.structure = structure
        self.call = call
        self.proofs: Mapping[str, Proof] = opened.proofs
        self._opened_in = opened.products
        self.engine = opened.engine
        self._masks = opened.masks
        self._snapshot = snapshot
        self._returned = output
        self.labels: Labels = ()

    def labelled(self, labels: Any) -> Self:
        """The same trace, its steps named: a list of texts, or one for each sequence; None leaves
        it as it is.

        Raises ``ShapeError`` where there are more or fewer than steps.
        """
        if labels is not None:
            self.labels = step_labels(labels, self.lengths.tolist())
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Everything, for pickle. Raises ``RefusedError`` where a function of one's own in the
        cell cannot be pickled."""
        try:
            pickle.dumps(self.cell)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RefusedError(
                f"this trace cannot be pickled, as its cell holds a function of one's own "
                f"({error}). Write the function at the top of a module; tr.save(path) and "
                f"rs.load_trace(path) serve where all functions are those of rnnscope.cells"
            ) from error
        return self.__dict__

    # what went in and came out -------------------------------------------------------------

    @property
    def cell(self) -> Cell:
        """The cell's declaration: its equations."""
        return self.structure.cell

    @property
    def weights(self) -> tuple[tuple[Weights, ...], ...]:
        """The weights as they were used in this call, by layer and direction."""
        return self._snapshot.weights

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The same under PyTorch's names."""
        return {
            name: t for layer in self.weights for part in layer for name, t in part.named().items()
        }

    @property
    def output(self) -> Any:
        """What the layer itself returned as output: every h of the last layer; of a cell, its h.

        It is taken before forward hooks: where one changes the output, the caller got another.
        """
        if self.structure.single_step:
            return self.h_n
        return self._returned[0]

    @property
    def h_n(self) -> Tensor:
        """The last hidden states, as the layer returned them: (layers × directions, batch,
        output)."""
        return self._final("h")

    @property
    def c_n(self) -> Tensor:
        """The last cell states, as the layer returned them; only an LSTM has them."""
        return self._final("c")

    @property
    def h_0(self) -> Tensor:
        """The initial hidden states in the layer's own form; zeros where none were given."""
        return self._initial("h")

    @property
    def c_0(self) -> Tensor:
        """The initial cell states in the layer's own form; only an LSTM has them."""
        return self._initial("c")

    if not TYPE_CHECKING:  # h_n and its like are known to a type checker, others to nobody

        def __getattr__(self, name: str) -> Tensor:
            """``s_n`` and ``s_0`` of a declared cell's state s."""
            state, _, suffix = name.rpartition("_")
            if suffix not in ("n", "0") or "structure" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return self._final(state) if suffix == "n" else self._initial(state)

    def _state_index(self, state: str, suffix: str) -> int:
        states = self.cell.states
        if state not in states:
            have = ", ".join(f"{name}_{suffix}" for name in states)
            asked = printable(f"{state}_{suffix}")
            raise AttributeError(f"{self.structure.kind} has no {asked}; it has {have}")
        return states.index(state)

    def _final(self, state: str) -> Tensor:
        k = self._state_index(state, "n")
        states: Any = self._returned if self.structure.single_step else self._returned[1]
        final: Tensor = states[k] if isinstance(states, tuple | list) else states
        return final

    def _initial(self, state: str) -> Tensor:
        self._state_index(state, "0")
        shape = self.structure.state_shape(state, self.call.batch, self.call.batched)
        return self.call.initial[state].reshape(shape)

    @property
    def masks(self) -> tuple[Tensor | None, ...]:
        """What dropout let pass of each layer's input, (batch, time, feature); None where it was
        not at work.

        Raises ``RefusedError`` where dropout was at work and what passed is not in the trace.
        """
        structure = self.structure
        layers = structure.num_layers
        masks = self._masks or (None,) * layers
        if structure.training and structure.dropout > 0 and None in masks[1:]:
            raise RefusedError(
                "this trace does not hold which numbers dropout let pass (an older version wrote "
                "it): trace the call again"
            )
        return masks

    @property
    def final(self) -> dict[str, Tensor]:
        """The last states as the layer returned them, detached: (layer, direction, batch, unit)."""
        structure = self.structure
        lead = (structure.num_layers, len(self.directions), self.call.batch)
        return {
            name: plain(self._final(name)).detach().reshape(*lead, structure.state_size(name))
            for name in self.cell.states
        }

    def before(self, state: str, layer: int, direction: str) -> Tensor:
        """The state before each step, (batch, time, unit): h_(t-1) for forward, h_(t+1) for
        reverse, the initial state before a sequence's first."""
        states = self[state, layer, direction].transpose(0, 1)
        initial = self.call.initial[state][layer, self.directions.index(direction)]
        before = states_before(states, initial, self.lengths, direction == "reverse")
        return before.transpose(0, 1)

    # the proof -------------------------------------------------------------------------------

    @property
    def deviation(self) -> float | None:
        """The largest deviation of the equations from the layer's own states; None where the
        layer did not run (``check=False``)."""
        largest = worst(self.proofs)
        return None if largest is None else largest.deviation

    @property
    def tolerance(self) -> float | None:
        """What rounding allows at the place of the largest deviation; None as above."""
        largest = worst(self.proofs)
        return None if largest is None else largest.tolerance

    @property
    def unverified(self) -> tuple[str, ...]:
        """The states whose bound is too wide to prove anything, as c in bfloat16."""
        return unverified(self.proofs)

    @property
    def proof(self) -> str:
        """One sentence: what was compared with what, and how far apart they are."""
        said = sentence(self.structure, self.proofs, self.precision)
        nonfinite = self.nonfinite
        return said if nonfinite is None else f"{said} Not finite: {nonfinite}."

    @property
    def proven(self) -> bool:
        """Whether every state was compared where it can be, and nothing is NaN or infinite."""
        loose = any(proof.loose for proof in self.proofs.values())
        return bool(self.proofs) and not (loose or self.unverified or self.nonfinite)

    @property
    def nonfinite(self) -> str | None:
        """The first place that holds NaN or inf, in the order of computation: parameters, initial
        states, then layer after layer its input and its quantities; None where there is none."""
        for name, weight in self.parameters.items():
            if not torch.isfinite(weight).all():
                return f"{_kind_of(weight)} first in {name}"
        for name, value in self.call.initial.items():
            if not torch.isfinite(value).all():
                return f"{_kind_of(value)} first in {name}_0"
        for layer in range(self.sizes["layer"]):
            values = {"x": self.layer_input(layer).unsqueeze(0)}
            values |= {name: self[name, layer] for name in self}
            for name, value in values.items():
                nonfinite = ~torch.isfinite(value)
                if nonfinite.any():
                    t, d, batch, unit = _first_by_time(nonfinite)
                    place = Place(layer, self.directions[d], batch, t, unit)
                    return f"{_kind_of(value[d, batch, t, unit])} first in {name} at {place}"
        return None

    @property
    def precision(self) -> str:
        """The type in which the layer formed its products (autocast may lower it)."""
        return str(self._opened_in or self.call.x.dtype).removeprefix("torch.")

    # as text ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Few numbers: the numbers, a row a step; many: names, dims and sizes. The proof last."""
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)


def _first_by_time(true: Tensor) -> tuple[int, int, int, int]:
    """The first True of (direction, batch, time, unit), by time: (time, direction, batch, unit)."""
    t, d, batch, unit = (int(k) for k in true.movedim(2, 0).nonzero()[0])
    return t, d, batch, unit


def _kind_of(value: Tensor) -> str:
    return "NaN" if value.isnan().any() else "inf"
