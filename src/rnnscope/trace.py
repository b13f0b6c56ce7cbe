"""trace: call a layer, open what it returned, and prove the numbers."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope import tracefile
from rnnscope.addressing import Address
from rnnscope.adopt import Adopted, Call, Returned, Structure, Weights, adopt
from rnnscope.capture import Capture, Captured, Snapshot, attending, dropout_state, snapshot_of
from rnnscope.cells import Cell
from rnnscope.direction import Proof, deviations
from rnnscope.edit import Edit, difference, rerun
from rnnscope.errors import AddressError, GradientError, RefusedError, ShapeError
from rnnscope.explain import Explanation, explain
from rnnscope.flow import Memory, flow, jacobian, memory
from rnnscope.gradients import Gradients, Received, given
from rnnscope.gradients import captured as captured_upstream
from rnnscope.labels import Labels, step_labels
from rnnscope.listing import html, text
from rnnscope.names import absent_names, recorded_names
from rnnscope.nonfinite import first_nonfinite
from rnnscope.opening import Opened, batch_first, open_call
from rnnscope.page import View, view
from rnnscope.proving import sentence, unverified, verify, worst
from rnnscope.record import Index, Place, Record
from rnnscope.run import Ran, run_call
from rnnscope.shapes import Shapes, shapes

__all__ = ["Rerun", "Trace", "load_trace", "trace"]

Check = bool | Literal["thorough"]


def trace(
    module: nn.Module,
    *args: Any,
    record: str | Iterable[str] = "gates",
    check: Check = True,
    labels: Any = None,
    **kwargs: Any,
) -> Trace:
    """Call a recurrent layer as it is called, and open it: every number inside, proven.

    ``args`` and ``kwargs`` go to the module as they are: a tensor (time, batch, input), with
    ``batch_first`` (batch, time, input), unbatched (time, input), or a PackedSequence; and the
    initial states. The module runs once, unchanged; nothing of it or of the random state is
    other than after a plain call.

    ``record``: "gates" keeps gates and states, "all" also their parts (``f_from_x``,
    ``f_from_h``, ``f_pre``), names keep those; states are always kept. ``check``: True proves h
    at every step and the cell state at the end against the layer; "thorough" also proves every
    state at every step against an independent loop of torch's own cells; False gives the numbers
    by the equations alone, without running the layer. ``labels`` names the steps for pictures
    and pages: a list of texts (tokens, dates), or one for each sequence.

    >>> rnn = nn.RNN(1, 1, bias=False, batch_first=True)
    >>> tr = trace(rnn, torch.tensor([[[3.0], [4.0], [5.0]]]))
    >>> tr["h"].shape                           # layer, direction, batch, time, unit
    torch.Size([1, 1, 1, 3, 1])
    >>> tr.deviation <= tr.tolerance
    True

    Raises ``NotRecurrentError`` and ``RefusedError`` for a module that cannot be opened,
    ``ShapeError`` and ``DtypeError`` for a call that the layer cannot take, ``AddressError`` for
    an unknown name in ``record``, and ``VerificationError`` where the equations do not give the
    layer's own numbers.
    """
    adopted = adopt(module)
    names = recorded_names(adopted.cell, record)
    if not (isinstance(check, bool) or check == "thorough"):
        raise ValueError(f'check must be True, False or "thorough"; got {check!r}')
    if check is False:
        return _by_equations(adopted, adopted.call(args, kwargs), names).labelled(labels)
    with attending(adopted, names) as heard, Capture(adopted, heard) as capture:
        module(*args, **kwargs)
    assert capture.taken is not None, "the module ran, so its hook did"
    return open_captured(capture.taken, names, check).labelled(labels)


def open_captured(taken: Captured, names: frozenset[str], check: Check) -> Trace:
    """The trace of a call that was captured; raises ``VerificationError`` unless ``check`` is
    False."""
    adopted, call = taken.adopted, taken.call
    returned = adopted.returned(taken.output, call)
    with torch.no_grad():
        if taken.ran is not None:
            opened = _recorded(taken.ran, returned, names)
        else:
            opened = open_call(
                adopted,
                call,
                returned,
                taken.snapshot.weights,
                taken.live,
                names,
                taken.products,
                taken.random_state,
                thorough=check == "thorough",
            )
    if check is not False:
        verify(adopted, opened.proofs)
    return Trace(adopted.structure, call, taken.snapshot, opened, taken.output)


def _recorded(ran: Ran, returned: Returned, names: frozenset[str]) -> Opened:
    """The numbers of a module that computes by the declared equations, from that very run;
    compared with what it returned, which no rounding can make different."""
    with torch.inference_mode(False):
        values = {name: value.clone() for name, value in ran.record(names).items()}
        inputs = batch_first(None if x is None else x.detach() for x in ran.inputs)
        inputs = tuple(x.clone() if x is not None and x.is_inference() else x for x in inputs)
        masks = batch_first(None if mask is None else mask != 0 for mask in ran.masks)
    off = {name: deviations(t, returned.final[name]).amax(-1) for name, t in ran.final.items()}
    proofs = {}
    for name, each in off.items():
        layer, d, batch = (int(k) for k in (each == each.max()).nonzero()[0])
        place = Place(layer, ran.structure.directions[d], batch, ran.call.steps - 1)
        largest = float(each.max())
        ratio = 0.0 if largest == 0 else math.inf
        proofs[name] = Proof(largest, 0.0, ratio, name, place, False, each.numel(), 0)
    apart = deviations(ran.hidden, returned.h).amax(-1)
    if (largest := float(apart.max())) > 0:
        t, batch = (int(k) for k in (apart == apart.max()).nonzero()[0])
        place = Place(ran.structure.num_layers - 1, ran.structure.directions[0], batch, t)
        proofs["h"] = replace(proofs["h"], deviation=largest, ratio=math.inf, place=place)
    proofs["h"] = replace(proofs["h"], every_step=True)
    return Opened(values, inputs, proofs, masks=masks)


def _by_equations(adopted: Adopted, call: Call, names: frozenset[str]) -> Trace:
    """The numbers by the equations alone, in the layer's own precision."""
    if adopted.module._forward_pre_hooks:
        raise RefusedError(
            f"{adopted.kind} has hooks that run before its forward and may change the input or, as "
            f"weight_norm's does, the weights; check=False does not run it. Leave check at True."
        )
    # no forward has taken note of weights that were changed by functional_call or parametrizations
    snapshot = snapshot_of(adopted.module, adopted.weights(fresh=True))
    dropout_state(adopted)
    with torch.no_grad(), torch.autocast(call.x.device.type, enabled=False):
        names = names.union(adopted.cell.states)
        ran = run_call(adopted.structure, call, snapshot.weights, names)
        values = ran.record(names)
        masks = batch_first(None if mask is None else mask != 0 for mask in ran.masks)
        opened = Opened(values, batch_first(ran.inputs), {}, masks=masks)
        return Trace(adopted.structure, call, snapshot, opened, ran.output)


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace that ``Trace.save`` wrote; nothing in the file is run.

    Raises ``FileError`` where the file is missing, damaged, or holds no trace.
    """
    found = tracefile.read(path)
    snapshot = Snapshot(found.weights)
    loaded = Trace(found.structure, found.call, snapshot, found.opened, found.output)
    loaded.labels = found.labels
    return loaded


class Trace(Record):
    """The numbers inside one call of a recurrent layer, with their proof.

    A mapping from names to tensors (layer, direction, batch, time, unit). ``output``, ``h_n``
    and ``c_n`` are what the layer returned, with their graph; all else is a detached copy.
    ``recomputed`` tells of a call seen by ``watch`` whether activation checkpointing made it once
    more in the backward pass.
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
        lengths = call.lengths
        if lengths is None:
            lengths = torch.full((call.batch,), call.steps, device=call.x.device)
        super().__init__(
            opened.values,
            opened.inputs,
            lengths,
            structure.directions,
            {"h": "projected"} if cell.projected else {},
            absent_names(cell, opened.values),
        )
        self.structure = structure
        self.call = call
        self.proofs: Mapping[str, Proof] = opened.proofs
        self._opened_in = opened.products
        self.recomputed = False
        self.received: Received | None = None
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
            name: t for layer in self.weights for one in layer for name, t in one.named().items()
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
            raise AttributeError(f"{self.structure.kind} has no {state}_{suffix}; it has {have}")
        return states.index(state)

    def _final(self, state: str) -> Tensor:
        k = self._state_index(state, "n")
        states: Any = self._returned if self.structure.single_step else self._returned[1]
        found: Tensor = states[k] if isinstance(states, tuple | list) else states
        return found

    def _initial(self, state: str) -> Tensor:
        self._state_index(state, "0")
        shape = self.structure.state_shape(state, self.call.batch, self.call.batched)
        return self.call.initial[state].reshape(shape)

    def before(self, state: str, layer: int, direction: str) -> Tensor:
        """The state before each step, (batch, time, unit): h_(t-1) for forward, h_(t+1) for
        reverse, the initial state before a sequence's first."""
        d = self.directions.index(direction)
        value = self[state, layer, direction]
        start = self.call.initial[state][layer, d].to(value.dtype).unsqueeze(1)
        if direction == "forward":
            return torch.cat([start, value[:, :-1]], dim=1)
        shifted = torch.cat([value[:, 1:], start], dim=1)
        last = (self.lengths - 1).view(-1, 1, 1)
        steps = torch.arange(value.shape[1], device=value.device).view(1, -1, 1)
        return torch.where(steps == last, start, shifted)

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
    def precision(self) -> str:
        """The type in which the layer formed its products (autocast may lower it)."""
        return str(self._opened_in or self.call.x.dtype).removeprefix("torch.")

    # backwards -------------------------------------------------------------------------------

    def gradients(
        self,
        loss: Tensor | None = None,
        *,
        output: Tensor | PackedSequence | None = None,
        check: bool = True,
        **final: Tensor,
    ) -> Gradients:
        """The gradient of a loss with respect to every number inside, total through time.

        ``loss`` is one number, computed from ``tr.output``, ``tr.h_n`` and ``tr.c_n``, directly or
        through more modules; its graph stays as it is. Instead of it, ``output``, ``h_n`` and
        ``c_n`` may say what reaches these from a loss, in their shapes. The gradients are derived
        from the declared equations with this trace's own numbers and weights, so they are right
        after ``optimizer.step()`` too; no ``p.grad`` is touched. ``check``: compare with autograd
        in a private run of the layer, and raise where they differ.

        The result is a record with the trace's names, dims and addresses; ``g.direct["h"]`` is what
        reaches h_t straight from the loss, ``g.parameters`` the totals by PyTorch's names,
        ``g.parameters_at(time)`` one step's part, ``g.h_0`` and ``g.c_0`` the initial states'.

        >>> from rnnscope import trace
        >>> tr = trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
        >>> g = tr.gradients(tr.output[-1].square().sum())
        >>> g["c"].shape                            # layer, direction, batch, time, unit
        torch.Size([1, 1, 2, 5, 4])
        >>> g.direct.sel("h", time=2).any()         # the loss reads the last step alone
        tensor(False)
        >>> g.parameters["weight_hh_l0"].shape
        torch.Size([16, 4])
        >>> g.deviation < g.tolerance
        True

        Source: Werbos 1990, backpropagation through time. Raises ``GradientError`` where the loss
        does not depend on this trace, where the trace or the loss has no graph or the graph is
        gone; ``ShapeError`` and ``DtypeError`` for a loss or upstream gradients of another form;
        ``VerificationError`` where autograd's gradients are others.
        """
        self._whole()
        given_ = {"output": output, **final}
        given_ = {name: value for name, value in given_.items() if value is not None}
        if (loss is None) == (not given_):
            raise ValueError(
                "give a loss, or what reaches the layer's outputs from one: gradients(loss), or "
                "gradients(output=..., h_n=...)"
            )
        if loss is None:
            return Gradients(self, given(self, self._returned, given_), check)
        return Gradients(self, captured_upstream(self, self._returned, loss), check)

    def jacobian(
        self,
        of: str,
        to: str,
        *,
        layer: int | None = None,
        direction: str | None = None,
        batch: Index = None,
        time: int | Literal["last"] = "last",
        to_layer: int | None = None,
        to_direction: str | None = None,
        to_time: Index = None,
    ) -> Tensor:
        """∂of/∂to as matrices: how each unit of a state moves with each unit of a quantity.

        ``of`` is a state ("h", "c") of ``layer`` and ``direction`` at ``time``; ``to`` any
        quantity, "x", or an initial state ("h_0"), at ``to_time`` (all steps where left out), of
        the same layer and direction, or of a layer below. The derivative is total through time,
        as in ``gradients``: ∂h_t/∂c_s includes what comes through h_s. Shape (batch, to_time, unit
        of ``of``, unit of ``to``); one position drops its dim. It costs as much as the gradients
        of as many losses as ``of`` has units; name the sequences with ``batch`` where there are
        many.

        >>> from rnnscope import trace
        >>> tr = trace(nn.RNN(1, 1, bias=False), torch.tensor([[3.0], [4.0], [5.0]]))
        >>> step = tr.jacobian("h", "h", batch=0, time=2, to_time=1)
        >>> w_hh, h_3 = tr.parameters["weight_hh_l0"], tr["h"][0, 0, 0, 2]
        >>> torch.allclose(step, w_hh * (1 - h_3**2))
        True

        Raises ``AddressError`` for a place that is not there, for padding, and for a layer that
        ``of`` does not depend on.
        """
        self._whole()
        return jacobian(
            self,
            of,
            to,
            layer=layer,
            direction=direction,
            batch=batch,
            time=time,
            to_layer=to_layer,
            to_direction=to_direction,
            to_time=to_time,
        )

    def flow(
        self,
        of: str = "h",
        to: str = "h",
        *,
        layer: int | None = None,
        direction: str | None = None,
        batch: Index = None,
        time: int | Literal["last"] | None = None,
        norm: float | Literal["fro", "nuc"] = 2,
    ) -> Tensor:
        """The norms of ∂of_t/∂to_s: how much of a change at step s arrives at step t.

        For all pairs, (batch, t, s), 0 where s comes after t; with ``time`` for that t alone,
        (batch, s). They vanish or explode with the distance. ``norm`` is that of
        ``torch.linalg.matrix_norm``: 2 is the spectral norm, the largest stretch of any change
        (Pascanu et al. 2013, eq. 7); "fro" is cheaper to compute. All pairs cost a pass for each
        t: name ``batch`` where there are many sequences.

        >>> from rnnscope import trace
        >>> tr = trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
        >>> tr.flow().shape, tr.flow("c", "x", time="last", batch=0).shape
        (torch.Size([2, 5, 5]), torch.Size([5]))

        Raises as ``jacobian`` does.
        """
        self._whole()
        return flow(
            self,
            of,
            to,
            layer=layer,
            direction=direction,
            batch=batch,
            time=time,
            norm=norm,
        )

    def memory(self, state: str | None = None, *, time: int | Literal["last"] = "last") -> Memory:
        """What a state at ``time`` holds of each earlier step, where it is a sum over the past.

        In an LSTM c_T = Σ_t (Π_(s>t) f_s) i_t g_t + (Π f) c_0, in a GRU h_T in the same way, with
        z for f and (1 - z) n for i g: so ``memory["written"]`` (layer, direction, batch, time,
        unit) tells how much was written when, and together with ``memory.initial`` sums to the
        state, exactly. Without a name the state that is such a sum; the split is derived from the
        declared equation.

        >>> from rnnscope import trace
        >>> tr = trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
        >>> memory = tr.memory()
        >>> total = memory["written"].sum(3) + memory.initial
        >>> torch.allclose(total, tr.sel("c", time="last"), atol=1e-6)
        True

        Raises ``AddressError`` for a state that is no such sum, and for padding.
        """
        self._whole()
        return memory(self, state, time)

    @property
    def grad(self) -> Gradients | None:
        """Of a call seen by ``watch``: the gradients that ``backward()`` inside it gave, as
        ``gradients`` would; None until then. Several passes sum, as in ``p.grad``.

        Computed when first asked for; raises ``VerificationError`` where autograd's are others.
        """
        return None if self.received is None else self.received.found(self, self._returned)

    # run again -------------------------------------------------------------------------------

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
            name: self._final(name).detach().reshape(*lead, structure.state_size(name))
            for name in self.cell.states
        }

    def _whole(self) -> None:
        """Raise where this is not one call of one layer."""

    def rerun(self, *edits: Edit, weights: Mapping[str, Tensor] | None = None) -> Rerun:
        """The call once more with edits, or with other weights: what would have come out.

        An edit changes a quantity where ``rnnscope.Edit`` says, and all later steps and the layers
        above follow. The steps before, and the sequences that no edit addresses, are this
        trace's own, bit for bit; the others are run by the equations, so what an edit leaves as it
        was comes out equal to rounding. ``weights`` are other parameters by PyTorch's names, for
        all steps. The result is a trace with its own ``output``; it costs the steps from the
        first edit on, in that layer and those above. Where a tensor in an edit or in ``weights``
        requires grad, the result keeps the graph to it, in its quantities too.

        >>> from rnnscope import Edit, trace
        >>> tr = trace(nn.GRU(3, 4, num_layers=2), torch.randn(6, 2, 3))
        >>> edited = tr.rerun(Edit("h", layer=0, batch=1, time=2, unit=3, to=0.0))
        >>> edited.output.shape
        torch.Size([6, 2, 4])
        >>> torch.equal(edited["h", 1][..., :2, :], tr["h", 1][..., :2, :])
        True
        >>> no_memory = tr.rerun(weights={"weight_hh_l0": torch.zeros(12, 4)})

        Raises ``AddressError`` for an edit that addresses nothing, padding, what is only returned,
        or what another edit addresses too; ``ShapeError`` for numbers that do not fit there.
        """
        self._whole()
        return Rerun(self, edits, dict(weights or {}))

    def difference(self, other: Trace) -> Record:
        """These numbers less those of another trace of the same sizes: a record with the same
        names, dims and addresses, ``x`` included.

        >>> from rnnscope import Edit, trace
        >>> tr = trace(nn.GRU(3, 4), torch.randn(6, 2, 3))
        >>> difference = tr.rerun(Edit("h", time=3, unit=0, add=1.0)).difference(tr)
        >>> round(float(difference.sel("h", layer=0, direction="forward", batch=0, time=3, unit=0)))
        1

        Raises ``ShapeError`` where sizes or lengths differ.
        """
        return difference(self, other)

    # on disk ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a .safetensors file, from which ``load_trace`` makes it again.

        Outputs are written without their graph. Raises ``FileError`` where the place cannot be
        written; an existing file is then as it was.
        """
        opened = Opened(self._values, self._inputs, dict(self.proofs), self._opened_in, self._masks)
        tracefile.write(
            path,
            tracefile.Contents(
                self.structure, self.call, self.weights, opened, self._returned, self.labels
            ),
        )

    @property
    def nonfinite(self) -> str | None:
        """The first place that holds NaN or inf, in the order of computation; None without."""
        return first_nonfinite(self, self.call, self.parameters)

    def shapes(self) -> Shapes:
        """What each slice of ``output`` and each row of ``h_n`` is in this call, checked on its
        numbers; see ``rnnscope.shapes``."""
        return shapes(self)

    # seen ------------------------------------------------------------------------------------

    def view(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        labels: Any = None,
        gradients: Gradients | None = None,
        batch: int | None = None,
    ) -> View:
        """A page through which one can walk, step by step: one HTML file that needs nothing else.

        Written to ``path`` where one is given; without, the result shows itself in a notebook.
        ``labels`` names the steps as ``trace(labels=...)`` does, for this page; ``gradients`` adds
        those of ``tr.gradients(loss)``; ``batch`` keeps one sequence. In the page numbers can be
        changed, and what follows is computed again by the same equations.

        >>> from rnnscope import trace
        >>> tr = trace(nn.RNN(1, 1, bias=False), torch.tensor([[3.0], [4.0], [5.0]]))
        >>> page = tr.view()
        >>> page.html.startswith("<!doctype html>")
        True

        Raises ``ShapeError`` for labels and gradients that do not fit and for more than a page can
        hold (20 MB), ``AddressError`` for a sequence that is not there and for gates that were not
        recorded, ``FileError`` where the place cannot be written.
        """
        self._whole()
        if gradients is not None:
            if not isinstance(gradients, Gradients):
                kind = type(gradients).__name__
                raise TypeError(f"gradients must be those of tr.gradients(loss); got {kind}")
            if gradients.call is not self.call:
                raise ShapeError("these gradients are of another trace: tr.gradients(loss)")
        shown = self if labels is None else copy.copy(self).labelled(labels)
        return view(shown, path, gradients=gradients, batch=batch)

    # explained -------------------------------------------------------------------------------

    def explain(
        self,
        name: str | None = None,
        *,
        layer: int | None = None,
        direction: str | None = None,
        batch: int | None = None,
        time: int | Literal["last"] | None = None,
        unit: int | None = None,
    ) -> Explanation:
        """One number as its equation, with this trace's numbers filled in; without a name all
        equations of a step, without a time as well the walk over the steps.

        An axis may be left out where its length is 1. The result prints as text, shows itself
        in a notebook, and has ``text()``, ``latex()``, ``markdown()`` and ``data()``.

        >>> from rnnscope import trace
        >>> tr = trace(nn.LSTM(2, 3), torch.ones(4, 1, 2))
        >>> sorted(tr.explain("c", time="last", unit=1).data()["by_hand"])
        ['c', 'f', 'g', 'i']

        Raises ``AddressError`` for a name or a place that is not there, for an axis left out
        that is longer than 1, and for padding.
        """
        return explain(
            self, name, layer=layer, direction=direction, batch=batch, time=time, unit=unit
        )

    # as text ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Few numbers: the numbers, a row a step; many: names, dims and sizes. The proof last."""
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)


class Rerun(Trace):
    """A call run once more with edits: what ``Trace.rerun`` gives.

    ``base`` is the trace that was run again, ``edits`` what was changed in it, ``changed`` the
    names of the weights that were others.
    """

    def __init__(self, base: Trace, edits: tuple[Edit, ...], weights: Mapping[str, Tensor]) -> None:
        found = rerun(base, edits, weights)
        super().__init__(
            base.structure, found.call, Snapshot(found.weights), found.opened, found.output
        )
        self.base, self.edits, self.changed = base, edits, tuple(weights)
        self.labels = base.labels
        self._new_weights = weights
        self._sites = found.sites

    def _whole(self) -> None:
        inside = [edit for edit in self.edits if edit.name != "x" and not edit.name.endswith("_0")]
        inside += [edit for edit in self.edits if edit.name == "x" and self._sites_above()]
        if inside:
            raise GradientError(
                f"the equations do not hold where an edit stands ({inside[0]}), so they give no "
                f"gradients, Jacobians or memory: rerun with numbers that require grad, and "
                f"differentiate the result's output, which keeps the graph to them"
            )

    def _sites_above(self) -> bool:
        return any(name == "x" and layer > 0 for name, layer, _ in self._sites)

    def rerun(self, *edits: Edit, weights: Mapping[str, Tensor] | None = None) -> Rerun:
        """The base once more, with these edits beside those that there are."""
        return Rerun(self.base, (*self.edits, *edits), {**self._new_weights, **(weights or {})})

    @property
    def proof(self) -> str:
        """What was changed, and what the numbers are."""
        changes = [f"edit of {edit}" for edit in self.edits[:3]]
        if len(self.edits) > 3:
            changes.append(f"{len(self.edits) - 3} more edits")
        changes += [f"other {name}" for name in self.changed]
        return (
            f"Run again by the equations with {', '.join(changes)}; what comes before is the "
            f"trace's own."
        )

    def view(self, *args: Any, **options: Any) -> View:
        """Not shown: the page runs edits itself, from a trace. Raises ``RefusedError``."""
        raise RefusedError(
            "a rerun is not shown as a page, in which every number follows from those before it: "
            "show the trace itself (.base.view(...)), and make the edit in the page"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Not written: a file would not tell which numbers an edit set. Raises ``RefusedError``."""
        raise RefusedError(
            "a rerun is not saved, for a file would not tell which numbers an edit set: save the "
            "trace itself (.base), and run the edits again after load_trace"
        )

    def explain(self, name: str | None = None, **at: Any) -> Explanation:
        """As ``Trace.explain``; raises ``AddressError`` where an edit stands in what is to be
        explained, for no equation gives that number."""
        place = {axis: at.get(axis) for axis in ("layer", "direction", "batch")}
        found = Address(self, **place)
        times = found.times if at.get("time") is None else [found.time(at["time"])]
        for (edited, layer, d), sites in self._sites.items():
            if (layer, d) != (found.layer, self.directions.index(found.direction)):
                continue
            unit = found.unit(name, at.get("unit"))
            base = edited.removesuffix("_pre").partition("_from_")[0]
            if base in found.names(name, unit):
                for site in sites:
                    steps = site.times.new_tensor(times)
                    here = (site.rows == found.batch) & torch.isin(site.times, steps)
                    if here.any() and unit in site.units.tolist():
                        raise AddressError(
                            f"{edited} at {found.place(int(site.times[here][0]), unit)} was set by "
                            f"an edit, no equation gives it: explain another place, or the trace "
                            f"before the edit"
                        )
        return super().explain(name, **at)
