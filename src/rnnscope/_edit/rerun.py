"""A call run once more with some of its numbers changed, and what follows from that.

Where an edit comes first the run begins, from the trace's own states; all before it is the
trace's own, bit for bit, and so are the sequences and layers that no edit reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._edit.edits import Edit, Key, Site, place_edits
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import state_before, without_padding
from rnnscope._layers.steps import DirectionInput, StepChange
from rnnscope._layers.stretches import run_entry
from rnnscope._layers.structure import Weights
from rnnscope._layers.tensors import plain, require_numbers
from rnnscope._opening.opening import Opened, batch_first
from rnnscope._record.traced import RecordedCall
from rnnscope.cells import quantity_names
from rnnscope.errors import AddressError, DtypeError, ShapeError

__all__ = ["EditedCall", "rerun"]


@dataclass(frozen=True)
class EditedCall:
    """A call run once more with edits: all that its trace is made of."""

    call: Call
    weights: tuple[tuple[Weights, ...], ...]
    opened: Opened
    output: Any
    sites: Mapping[Key, Sequence[Site]]


def rerun(
    trace: RecordedCall, edits: Sequence[Edit], weights: Mapping[str, Tensor] | None = None
) -> EditedCall:
    """A trace's call with edits and other weights; see ``Trace.rerun``."""
    if not edits and not weights:
        raise ValueError("nothing to change: give rs.Edit(...), or weights={name: tensor}")
    graph = torch.is_grad_enabled()
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(graph),
        torch.autocast(trace.call.x.device.type, enabled=False),
    ):
        return _Rerun(trace, place_edits(trace, edits), _new_weights(trace, weights or {})).run()


def _new_weights(
    trace: RecordedCall, changes: Mapping[str, Tensor]
) -> tuple[tuple[Weights | None, ...], ...]:
    """The weights with changes, by layer and direction; None where nothing changes."""
    parameters = trace.parameters
    for name, value in changes.items():
        if name not in parameters:
            raise AddressError(f"weights: no parameter {name!r}; there are {', '.join(parameters)}")
        parameter = parameters[name]
        if not isinstance(value, Tensor):
            raise DtypeError(f"weights: {name} must be a tensor; got {type(value).__name__}")
        require_numbers(f"weights: {name}", value)
        if value.shape != parameter.shape:
            raise ShapeError(
                f"weights: {name} must be {tuple(parameter.shape)}; got {tuple(value.shape)}"
            )
        if value.dtype != parameter.dtype:
            raise DtypeError(f"weights: {name} must be {parameter.dtype}; got {value.dtype}")

    def changed(weights: Weights) -> Weights | None:
        replacements = {name: plain(changes[name]) for name in weights.named() if name in changes}
        return weights.replaced(replacements) if replacements else None

    return tuple(tuple(map(changed, row)) for row in trace.weights)


class _Rerun:
    """The run, layer by layer from below; a layer begins where a change first reaches it."""

    def __init__(
        self,
        trace: RecordedCall,
        edited: dict[Key, list[Site]],
        weights: tuple[tuple[Weights | None, ...], ...],
    ) -> None:
        self.trace, self.edited, self.new = trace, edited, weights
        self.structure, self.call = trace.structure, trace.call
        self.rows = self._rows()
        batch = self.call.batch
        self.local = torch.zeros(batch, dtype=torch.long, device=self.call.x.device)
        self.local[self.rows] = torch.arange(len(self.rows), device=self.local.device)
        self.whole = len(self.rows) == batch
        self.names = frozenset(name for name, _ in trace.items())
        # what was run, by layer and direction: its first step, and (time, sequences, unit) by name
        self.ran: dict[tuple[int, int], tuple[int, dict[str, Tensor]]] = {}
        self.final = {name: [list(row) for row in value] for name, value in trace.final.items()}
        self.initial = {name: [list(row) for row in v] for name, v in self.call.initial.items()}
        self.inputs: list[Tensor | None] = []
        self.engine = "torch"

    def _rows(self) -> Tensor:
        """The sequences that a change reaches; sequences do not influence each other."""
        device = self.call.x.device
        if any(weights is not None for row in self.new for weights in row):
            return torch.arange(self.call.batch, device=device)
        site_rows = [site.rows for sites in self.edited.values() for site in sites]
        reached: Tensor = torch.unique(torch.cat(site_rows))
        return reached

    def run(self) -> EditedCall:
        """All layers, and the record of what came out."""
        reached: tuple[int, int] | None = None  # the steps at which a layer's input is another
        for layer, row in enumerate(self.trace.weights):
            x, reached = self._input(layer, reached)
            spans = []
            for d, weights in enumerate(row):
                span = self._span(layer, d, reached)
                if span is not None:
                    self._run(layer, d, self.new[layer][d] or weights, x, span)
                    spans.append(span)
            reached = (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None
        return self._edited_call()

    def _input(
        self, layer: int, reached: tuple[int, int] | None
    ) -> tuple[Tensor, tuple[int, int] | None]:
        """A layer's input (time, batch, feature), and the first and last step that change."""
        x = self.trace.layer_input(layer).transpose(0, 1)
        mask = self.trace.masks[layer]
        if reached is not None:
            below = [self._merged("h", layer - 1, d) for d in range(len(self.trace.directions))]
            x = below[0] if len(below) == 1 else torch.cat(below, dim=-1)
            if mask is not None:
                x = x * self.structure.dropout_factor(mask, x.dtype).transpose(0, 1)
        for site in self.edited.get(("x", layer, 0), ()):
            x = site.apply(x)
            low, high = site.span
            reached = (
                (low, high) if reached is None else (min(low, reached[0]), max(high, reached[1]))
            )
        separate = layer == 0 or mask is not None or ("x", layer, 0) in self.edited
        self.inputs.append(x if separate else None)
        return x, reached

    def _span(self, layer: int, d: int, reached: tuple[int, int] | None) -> tuple[int, int] | None:
        """The first and the last step that may change; None where none does."""
        last = self.call.steps - 1
        reverse = self.structure.directions[d] == "reverse"
        times = [] if reached is None else list(reached)
        if self.new[layer][d] is not None:
            times += [0, last]
        for (name, at_layer, at_d), sites in self.edited.items():
            if (at_layer, at_d) == (layer, d) and name != "x":
                for site in sites:
                    initial = name.endswith("_0") and name not in quantity_names(self.trace.cell)
                    times += [0, last] if initial else list(site.span)
        if not times:
            return None
        return (0, max(times)) if reverse else (min(times), last)

    def _run(self, layer: int, d: int, weights: Weights, x: Tensor, span: tuple[int, int]) -> None:
        start, stop = span[0], span[1] + 1
        reverse = self.structure.directions[d] == "reverse"
        valid = None if self.call.valid is None else self._of(self.call.valid)[start:stop]
        initial = {state: self._before(state, layer, d, span) for state in self.trace.cell.states}
        entry = DirectionInput(weights, self._of(x)[start:stop], initial, valid, reverse)
        passage = run_entry(entry, self.names, self._changes(layer, d, start))
        if passage.compiled:
            self.engine = "llvm"
        quantities = {
            name: without_padding(value, valid) for name, value in passage.quantities.items()
        }
        self.ran[layer, d] = start, quantities
        for name, value in passage.final.items():
            states = self.final[name][layer][d]
            self.final[name][layer][d] = states.index_copy(0, self.rows, value.to(states.dtype))

    def _merged(self, name: str, layer: int, d: int) -> Tensor:
        """A quantity (time, batch, unit): the trace's, with the steps that were run anew."""
        original = self.trace[name][layer, d].transpose(0, 1)
        if (layer, d) not in self.ran:
            return original
        merged = original.clone()
        self._write(merged, name, layer, d)
        return merged

    def _write(self, into: Tensor, name: str, layer: int, d: int) -> None:
        start, quantities = self.ran[layer, d]
        value = quantities[name]
        stop = start + len(value)
        if self.whole:
            into[start:stop] = value
        else:
            into[start:stop, self.rows] = value

    def _of(self, value: Tensor) -> Tensor:
        """(time, batch, ...) of the sequences that are reached."""
        return value if self.whole else value[:, self.rows]

    def _before(self, state: str, layer: int, d: int, span: tuple[int, int]) -> Tensor:
        """A state before the first step of the run; of a sequence that ended earlier, its last."""
        initial = self.initial[state][layer][d]
        for site in self.edited.get((f"{state}_0", layer, d), ()):
            initial = site.apply(initial.unsqueeze(0))[0]
        self.initial[state][layer][d] = initial
        value = self.trace[state][layer, d].transpose(0, 1)
        reverse = self.structure.directions[d] == "reverse"
        start = state_before(value, initial, self.trace.lengths, span[int(reverse)], reverse)
        return start if self.whole else start[self.rows]

    def _changes(self, layer: int, d: int, start: int) -> dict[str, StepChange]:
        """The edits of the quantities of one layer and direction, for a run that begins at
        ``start``."""
        changes: dict[str, StepChange] = {}
        for (name, at_layer, at_d), sites in self.edited.items():
            if (at_layer, at_d) == (layer, d) and name in quantity_names(self.trace.cell):
                changes[name] = self._change(sites, start)
        return changes

    def _change(self, sites: list[Site], start: int) -> StepChange:
        # by step: the site, its places there, and where they are in (sequences that run, units)
        at: dict[int, list[tuple[Site, Tensor, tuple[Tensor, Tensor]]]] = {}
        for site in sites:
            rows, units = self.local[site.rows][:, None], site.units[None, :]
            order = torch.argsort(site.times, stable=True)
            times, counts = torch.unique_consecutive(site.times[order], return_counts=True)
            for time, chosen in zip(
                times.tolist(), torch.split(order, counts.tolist()), strict=True
            ):
                at.setdefault(time - start, []).append((site, chosen, (rows[chosen], units)))

        def change(t: int, value: Tensor) -> Tensor:
            for site, chosen, place in at[t]:
                value = value.index_put(place, site.changed(value[place], chosen))
            return value

        return StepChange(frozenset(at), change)

    def _quantity(self, name: str, original: Tensor) -> Tensor:
        """A quantity (layer, direction, batch, time, unit): the trace's, and what was run anew."""
        if original.shape[:2] == (1, 1) and self.whole and (0, 0) in self.ran:
            value = self.ran[0, 0][1][name]
            if len(value) == self.call.steps:  # all of it
                return value.transpose(0, 1)[None, None]
        merged = original.clone()
        for layer, d in self.ran:
            self._write(merged[layer, d].transpose(0, 1), name, layer, d)
        return merged

    def _edited_call(self) -> EditedCall:
        trace, call, structure = self.trace, self.call, self.structure
        values = {name: self._quantity(name, quantity) for name, quantity in trace.items()}
        final = {n: torch.stack([torch.stack(row) for row in v]) for n, v in self.final.items()}
        initial = {n: torch.stack([torch.stack(row) for row in v]) for n, v in self.initial.items()}
        x = self.inputs[0]
        assert x is not None, "the first layer's input is nobody's output"
        packed = call.packed
        if packed is not None and ("x", 0, 0) in self.edited:
            packed = PackedSequence(call.pack(x).detach(), *packed[1:])
        changed = any(name.endswith("_0") for name, _, _ in self.edited)
        fresh = replace(
            call,
            x=x.detach(),
            packed=packed,
            initial={n: v.detach() for n, v in initial.items()} if changed else call.initial,
            has_initial=call.has_initial or changed,
        )
        top = [h.transpose(0, 1) for h in values["h"][-1]]
        hidden = top[0] if len(top) == 1 else torch.cat(top, dim=-1)
        output = structure.returning(None if structure.single_step else hidden, final, call)
        weights = tuple(
            tuple(
                old if new is None else new.map(lambda t: t.detach().clone())
                for old, new in zip(old_row, new_row, strict=True)
            )
            for old_row, new_row in zip(trace.weights, self.new, strict=True)
        )
        opened = Opened(values, batch_first(self.inputs), {}, masks=trace.masks, engine=self.engine)
        return EditedCall(fresh, weights, opened, output, self.edited)
