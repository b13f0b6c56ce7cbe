"""Traces: an opened call, and what can be asked of it; and a trace run again with edits."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._edit import Edit, difference, rerun
from rnnscope._explain.address import Address
from rnnscope._explain.explain import Explanation, explain
from rnnscope._explain.shapes import Shapes, shapes
from rnnscope._gradients.coordinates import Coordinates
from rnnscope._gradients.gradients import Gradients
from rnnscope._gradients.jacobian import flow, jacobian
from rnnscope._gradients.memory import Memory, memory
from rnnscope._gradients.received import Received
from rnnscope._gradients.step_jacobian import StepJacobian, step_jacobian
from rnnscope._gradients.upstream import upstream_from_arguments, upstream_from_loss
from rnnscope._opening.capture import Snapshot
from rnnscope._opening.opening import Opened
from rnnscope._page import Appearance, TokenModel, View, view
from rnnscope._record.record import Index, Record
from rnnscope._trace import file as tracefile
from rnnscope._trace.base import CallRecord
from rnnscope.errors import AddressError, GradientError, RefusedError, ShapeError

__all__ = ["Rerun", "Trace"]


class Trace(CallRecord):
    """The numbers inside one call of a recurrent layer, with their proof.

    A mapping from names to tensors (layer, direction, batch, time, unit). ``output``, ``h_n``
    and ``c_n`` are what the layer returned, with their graph; all else is a detached copy.
    ``recomputed`` tells of a call seen by ``watch`` whether activation checkpointing made it once
    more in the backward pass. ``copy.deepcopy`` and ``pickle`` give a trace of which no graph leads
    back to the layer; ``gradients(loss)`` follows a loss computed from the copy's own outputs.

    >>> import torch, rnnscope as rs
    >>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(5, 2, 3))
    >>> tuple(tr), tr["c"].shape                # layer, direction, batch, time, unit
    (('i', 'f', 'g', 'o', 'c', 'h'), torch.Size([1, 1, 2, 5, 4]))
    >>> tr.deviation <= tr.tolerance
    True
    """

    recomputed: bool = False
    received: Received | None = None  # from the backward passes of a call seen by ``watch``

    def _require_single_call(self) -> None:
        """Raise where this is no single call whose numbers all follow from the equations."""

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
        through more modules; of a call seen by ``watch``, from what the layer returned in the
        model, before its backward(). Its graph stays as it is. Instead of it, ``output``, ``h_n``
        and ``c_n`` may say what reaches these from a loss, in their shapes. The gradients are
        derived from the declared equations with this trace's own numbers and weights, so they are
        right after ``optimizer.step()`` too; no ``p.grad`` is touched. ``check``: compare with
        autograd in a private run of the layer, and raise where they differ.

        The result is a record with the trace's names, dims and addresses; ``g.direct["h"]`` is what
        reaches h_t straight from the loss, ``g.parameters`` the totals by PyTorch's names,
        ``g.parameters_at(time)`` one step's part, ``g.h_0`` and ``g.c_0`` the initial states'.

        >>> from rnnscope import trace
        >>> tr = trace(torch.nn.LSTM(3, 4), torch.randn(5, 2, 3))
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
        self._require_single_call()
        upstream = {"output": output, **final}
        upstream = {name: value for name, value in upstream.items() if value is not None}
        if (loss is None) == (not upstream):
            raise ValueError(
                "give a loss, or what reaches the layer's outputs from one: gradients(loss), or "
                "gradients(output=..., h_n=...)"
            )
        if loss is None:
            arguments = upstream_from_arguments(self, self._returned, upstream)
            return Gradients(self, arguments, check)
        if self.received is not None:
            return Gradients(self, self.received.upstream(self, self._returned, loss), check)
        return Gradients(self, upstream_from_loss(self, self._returned, loss), check)

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
        >>> tr = trace(torch.nn.RNN(1, 1, bias=False), torch.tensor([[3.0], [4.0], [5.0]]))
        >>> step = tr.jacobian("h", "h", batch=0, time=2, to_time=1)
        >>> w_hh, h_3 = tr.parameters["weight_hh_l0"], tr["h"][0, 0, 0, 2]
        >>> torch.allclose(step, w_hh * (1 - h_3**2))
        True

        Raises ``AddressError`` for a place that is not there, for padding, and for a layer that
        ``of`` does not depend on.
        """
        self._require_single_call()
        return jacobian(
            self,
            Coordinates(of, layer, direction, batch, time),
            Coordinates(to, to_layer, to_direction),
            to_time,
        )

    def step_jacobian(
        self,
        time: int | Literal["last"] = "last",
        *,
        layer: int | None = None,
        direction: str | None = None,
        batch: Index = None,
    ) -> StepJacobian:
        """∂(all states after one step)/∂(all states before it), as one named matrix.

        For an LSTM that is (h, c) → (h, c). Stacking ``jacobian("h", "h")``, ``jacobian("h", "c")``
        and so on is not this matrix: those are total derivatives, in which the path from c through
        h of the earlier step is counted too. Its eigenvalues tell how a change grows or shrinks.
        Shape (batch, of, to); one position of the batch drops its dim.

        >>> from rnnscope import trace
        >>> tr = trace(torch.nn.LSTM(3, 4), torch.ones(5, 1, 3))
        >>> step = tr.step_jacobian(time=2, batch=0)
        >>> step.matrix.shape, step.block("h", "c").shape
        (torch.Size([8, 8]), torch.Size([4, 4]))

        Raises ``AddressError`` for a place that is not there, and for padding.
        """
        self._require_single_call()
        return step_jacobian(self, time, layer, direction, batch)

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
        t: name ``batch`` where there are many sequences. In an LSTM h holds c fixed, and what c
        carries is not in it: ask for ``tr.flow("c", "c")``.

        >>> from rnnscope import trace
        >>> tr = trace(torch.nn.LSTM(3, 4), torch.randn(5, 2, 3))
        >>> tr.flow().shape, tr.flow("c", "x", time="last", batch=0).shape
        (torch.Size([2, 5, 5]), torch.Size([5]))

        Raises as ``jacobian`` does.
        """
        self._require_single_call()
        return flow(self, Coordinates(of, layer, direction, batch, time), to, norm)

    def memory(self, state: str | None = None, *, time: int | Literal["last"] = "last") -> Memory:
        """What a state at ``time`` holds of each earlier step, where it is a sum over the past.

        In an LSTM c_T = Σ_t (Π_(s>t) f_s) i_t g_t + (Π f) c_0, in a GRU h_T in the same way, with
        z for f and (1 - z) n for i g: so ``memory["written"]`` (layer, direction, batch, time,
        unit) tells how much was written when, and together with ``memory.initial`` sums to the
        state, exactly. Without a name the state that is such a sum; the split is derived from the
        declared equation.

        >>> from rnnscope import trace
        >>> tr = trace(torch.nn.LSTM(3, 4), torch.randn(5, 2, 3))
        >>> memory = tr.memory()
        >>> total = memory["written"].sum(3) + memory.initial
        >>> torch.allclose(total, tr.sel("c", time="last"), atol=1e-6)
        True

        Raises ``AddressError`` for a state that is no such sum, and for padding.
        """
        self._require_single_call()
        return memory(self, state, time)

    @property
    def grad(self) -> Gradients | None:
        """Of a call seen by ``watch``: the gradients that ``backward()`` inside it gave, as
        ``gradients`` would; None until then. Several passes sum, as in ``p.grad``.

        Computed when first asked for; raises ``VerificationError`` where autograd's are others, and
        ``GradientError`` with the reason where the layer is frozen, so that none can come.
        """
        return None if self.received is None else self.received.call_gradients(self, self._returned)

    # run again -------------------------------------------------------------------------------

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
        >>> tr = trace(torch.nn.GRU(3, 4, num_layers=2), torch.randn(6, 2, 3))
        >>> edited = tr.rerun(Edit("h", layer=0, batch=1, time=2, unit=3, to=0.0))
        >>> edited.output.shape
        torch.Size([6, 2, 4])
        >>> torch.equal(edited["h", 1][..., :2, :], tr["h", 1][..., :2, :])
        True
        >>> no_memory = tr.rerun(weights={"weight_hh_l0": torch.zeros(12, 4)})

        Raises ``AddressError`` for an edit that addresses nothing, padding, what is only returned,
        or what another edit addresses too; ``ShapeError`` for numbers that do not fit there.
        """
        self._require_single_call()
        return Rerun(self, edits, dict(weights or {}))

    def difference(self, other: Trace) -> Record:
        """These numbers less those of another trace of the same sizes: a record with the same
        names, dims and addresses, ``x`` included.

        >>> from rnnscope import Edit, trace
        >>> tr = trace(torch.nn.GRU(3, 4), torch.randn(6, 2, 3))
        >>> difference = tr.rerun(Edit("h", time=3, unit=0, add=1.0)).difference(tr)
        >>> round(float(difference.sel("h", layer=0, direction="forward", batch=0, time=3, unit=0)))
        1

        Raises ``ShapeError`` where sizes or lengths differ.
        """
        return difference(self, other)

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
        >>> tr = trace(torch.nn.LSTM(2, 3), torch.ones(4, 1, 2))
        >>> sorted(tr.explain("c", time="last", unit=1).data()["by_hand"])
        ['c', 'f', 'g', 'i']

        Raises ``AddressError`` for a name or a place that is not there, for an axis left out
        that is longer than 1, and for padding.
        """
        return explain(
            self, name, layer=layer, direction=direction, batch=batch, time=time, unit=unit
        )

    def shapes(self) -> Shapes:
        """What each slice of ``output`` and each row of ``h_n`` is in this call, checked on its
        numbers; and the mistakes that its shapes invite."""
        return shapes(self)

    # seen ------------------------------------------------------------------------------------

    def view(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        labels: Any = None,
        gradients: Gradients | None = None,
        batch: int | None = None,
        readout: nn.Module | None = None,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
        embedding: nn.Embedding | None = None,
        classes: Sequence[str] | None = None,
        title: str | None = None,
        hide: str | Iterable[str] = (),
    ) -> View:
        """A page through which one can walk, step by step: one HTML file that needs nothing else.

        Written to ``path`` where one is given; without, the result shows itself in a notebook.
        ``labels`` names the steps as ``trace(labels=...)`` does, for this page; ``gradients`` adds
        those of ``tr.gradients(loss)``; ``batch`` keeps one sequence. In the page numbers can be
        changed, and what follows is computed again by the same equations.

        ``readout``, an nn.Linear that reads a step of the output (or an nn.Sequential that ends
        with one, a softmax behind it or not), adds the prediction at every step. ``vocabulary`` are
        the texts of the tokens by number, a list or a dict; they stand under the steps, and a text
        typed into the page is read by the same layer. For that the input must be one-hot, or
        ``embedding`` the nn.Embedding of which it came. ``classes`` names what the readout
        predicts where that is not the next token. Weights of both are those of now.

        ``title`` stands on top; ``hide`` names what is not shown: "results" (until a step is
        clicked), "weights", "arithmetic", "text", "prediction", "cell", "unrolled", "maps".

        >>> from rnnscope import trace
        >>> tr = trace(torch.nn.RNN(1, 1, bias=False), torch.tensor([[3.0], [4.0], [5.0]]))
        >>> page = tr.view()
        >>> page.html.startswith("<!doctype html>")
        True
        >>> letters, rnn, linear = "abc", torch.nn.GRU(3, 4), torch.nn.Linear(4, 3)
        >>> x = torch.nn.functional.one_hot(torch.tensor([0, 1, 2]), 3).float()
        >>> page = trace(rnn, x).view(readout=linear, vocabulary=letters)

        Raises ``ShapeError`` for labels, gradients, a vocabulary, an embedding and a readout that
        do not fit and for more than a page can hold (20 MB), ``TypeError`` for a readout that it
        cannot compute, ``AddressError`` for a sequence that is not there and for gates that were
        not recorded, ``FileError`` where the place cannot be written.
        """
        self._require_single_call()
        if gradients is not None:
            if not isinstance(gradients, Gradients):
                kind = type(gradients).__name__
                raise TypeError(f"gradients must be those of tr.gradients(loss); got {kind}")
            if gradients.call is not self.call:
                raise ShapeError("these gradients are of another trace: tr.gradients(loss)")
        shown = self if labels is None else copy.copy(self).labelled(labels)
        return view(
            shown,
            path,
            gradients=gradients,
            batch=batch,
            model=TokenModel.of(shown, readout, vocabulary, classes, embedding),
            appearance=Appearance.of(title, hide),
        )

    # on disk ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file, as "run.trace", from which ``load_trace`` makes it again.

        The form is that of .safetensors, and a name may end so too. Outputs are written without
        their graph. Raises ``FileError`` where the place cannot be written, an existing file is
        then as it was, and for the ending of another kind of file, as .pt.
        """
        self._require_single_call()
        proofs = dict(self.proofs)
        opened = Opened(
            *(self._values, self._inputs, proofs, self._opened_in, self._masks), self.engine
        )
        tracefile.write(
            path,
            tracefile.Contents(
                self.structure, self.call, self.weights, opened, self._returned, self.labels
            ),
        )


class Rerun(Trace):
    """A call run once more with edits: what ``Trace.rerun`` gives.

    ``base`` is the trace that was run again, ``edits`` what was changed in it, ``changed`` the
    names of the weights that were others.
    """

    def __init__(self, base: Trace, edits: tuple[Edit, ...], weights: Mapping[str, Tensor]) -> None:
        result = rerun(base, edits, weights)
        super().__init__(
            base.structure, result.call, Snapshot(result.weights), result.opened, result.output
        )
        self.base, self.edits, self.changed = base, edits, tuple(weights)
        self.labels = base.labels
        self._new_weights = weights
        self._sites = result.sites

    def _require_single_call(self) -> None:
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
        address = Address(self, **place)
        times = address.times if at.get("time") is None else [address.time(at["time"])]
        for (edited, layer, d), sites in self._sites.items():
            if (layer, d) != (address.layer, self.directions.index(address.direction)):
                continue
            unit = address.unit(name, at.get("unit"))
            base = edited.removesuffix("_pre").partition("_from_")[0]
            if base in address.names(name, unit):
                for site in sites:
                    steps = site.times.new_tensor(times)
                    same_steps = (site.rows == address.batch) & torch.isin(site.times, steps)
                    if same_steps.any() and unit in site.units.tolist():
                        edit = address.place(int(site.times[same_steps][0]), unit)
                        raise AddressError(
                            f"{edited} at {edit} was set by an edit, no equation gives it: "
                            f"explain another place, or the trace before the edit"
                        )
        return super().explain(name, **at)
