"""trace: call a layer, open what it returned, and prove the numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from rnnscope._layers.adapter import Cells, adapter_of, checked_cells
from rnnscope._layers.adopt import Adopted, calls_base, own_forward
from rnnscope._layers.call import Call
from rnnscope._layers.foreign import adopt_with
from rnnscope._layers.run import CallByEquations, Ran, run_call
from rnnscope._layers.structure import Returned
from rnnscope._layers.tensors import plain
from rnnscope._opening.capture import Capture, Captured, Snapshot, check_dropout, snapshot_of
from rnnscope._opening.forwards import InnerCalls, observe, unobserve
from rnnscope._opening.held import plain_call
from rnnscope._opening.modes import ensured, settled
from rnnscope._opening.opening import Opened, batch_first, open_call
from rnnscope._opening.part import Proof
from rnnscope._opening.proof import verify
from rnnscope._record.difference import absolute_difference
from rnnscope._record.names import recorded_names
from rnnscope._record.record import Place, Record
from rnnscope._trace import file as tracefile
from rnnscope._trace.foreign_rounding import with_foreign_rounding
from rnnscope._trace.verbs import Rerun, Trace
from rnnscope.errors import RefusedError

__all__ = ["Rerun", "Trace", "load_trace", "trace"]

Check = bool | Literal["thorough"]


@settled
def trace(
    module: nn.Module,
    *args: Any,
    record: str | Iterable[str] = "gates",
    check: Check = True,
    labels: Any = None,
    cells: Cells | None = None,
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
    and pages: a list of texts (tokens, dates), or one for each sequence. ``cells`` says which cell
    the modules of a class compute that is not torch's: ``cells={MyLSTM: rs.cells.LSTM}``, or
    ``rs.Adapter`` where parameters have other names; the cell is then proven against what the
    module itself returned.

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
    plainly = plain_call(module, args, kwargs) if cells is None else None
    if plainly is not None and plainly.alone:
        names = recorded_names(plainly.adopted.cell, record)
        _require_check(check)
        if check is False:
            return _by_equations(plainly.adopted, plainly.call, names).labelled(labels)
        return open_captured(plainly.made(), names, check).labelled(labels)
    adapters = checked_cells(cells)
    wraps = check is not False and _wraps(module) and adapter_of(module, adapters) is None
    adopted = adopt_with(module, adapters, inner=wraps)
    names = recorded_names(adopted.cell, record)
    _require_check(check)
    if check is False:
        return _by_equations(adopted, adopted.call(args, kwargs), names).labelled(labels)
    if wraps:
        taken = _inner_call(module, args, kwargs)
        return open_captured(taken, names, check).labelled(labels)
    capture = Capture(adopted, names)

    def run() -> None:
        capture.start()
        module(*args, **kwargs)

    ensured(run, capture.stop)
    if capture.taken is None and adopted.foreign:
        raise RefusedError(
            f"cannot be opened: a call of {adopted.kind} does not come by the __call__ of "
            f"torch.nn.Module, so nothing of it was seen"
        )
    assert capture.taken is not None, "the module ran, so its hook did"
    return open_captured(capture.taken, names, check).labelled(labels)


def _require_check(check: Any) -> None:
    if not (isinstance(check, bool) or check == "thorough"):
        raise ValueError(f'check must be True, False or "thorough"; got {check!r}')


def _wraps(module: Any) -> bool:
    """Whether a module's own forward calls that of torch's layer."""
    return isinstance(module, nn.Module) and own_forward(module) and calls_base(module)


def _inner_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """The call of torch's forward that a module's own makes; raises ``RefusedError`` where there
    is none, or more than one."""
    inner = InnerCalls(module)

    def run() -> None:
        observe(inner)
        module(*args, **kwargs)

    ensured(run, partial(unobserve, inner))
    name = type(module).__name__
    if inner.why is not None:
        raise RefusedError(f"cannot be opened: {inner.why}")
    if len(inner.taken) != 1:
        calls = "never" if not inner.taken else f"{len(inner.taken)} times"
        raise RefusedError(
            f"cannot be opened: {name} replaces the forward of torch's layer and calls it {calls}; "
            f"one call is traced. rs.watch(layer) records every call"
        )
    return inner.taken[0]


def open_captured(taken: Captured, names: frozenset[str], check: Check) -> Trace:
    """The trace of a call that was captured; raises ``VerificationError`` unless ``check`` is
    False."""
    adopted, call = taken.adopted, taken.call
    returned = adopted.returned(taken.output, call)
    final = {name: returned.final[name] for name in taken.final_states}
    if len(final) < len(returned.final):
        returned = replace(returned, final=final)
    grad_mode = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)
    try:
        opened = _opened(taken, returned, names, check)
    finally:
        torch._C._set_grad_enabled(grad_mode)
    if any(proof.ratio > 1 for proof in opened.proofs.values()):
        opened = replace(opened, proofs=with_foreign_rounding(taken, opened.proofs))
    if check is not False:
        verify(adopted, opened.proofs)
    output = taken.output
    if len(final) < len(adopted.cell.states):
        output = _completed(adopted, call, opened, output)
    return Trace(adopted.structure, call, taken.snapshot, opened, output)


def _opened(taken: Captured, returned: Returned, names: frozenset[str], check: Check) -> Opened:
    if taken.ran is not None:
        return _recorded(taken.ran, returned, names)
    return open_call(
        taken.adopted,
        taken.call,
        returned,
        taken.snapshot.weights,
        taken.live,
        names,
        taken.products,
        taken.masks,
        taken.grad_mode,
        thorough=check == "thorough",
        lower=taken.lower,
    )


def _completed(adopted: Adopted, call: Call, opened: Opened, output: Any) -> Any:
    """What a module returned, with the last states of the record where it returned none."""
    form = adopted.returned(output, call)
    record = Record(opened.values, opened.inputs, call.every_length, adopted.directions)
    final = {
        name: torch.where(value.isnan(), record.sel(name, time="last"), value)
        for name, value in form.final.items()
    }
    structure = adopted.structure
    completed = structure.returning(None, final, call)
    return completed if structure.single_step else (output[0], completed)


def _recorded(ran: Ran, returned: Returned, names: frozenset[str]) -> Opened:
    """The numbers of a module that computes by the declared equations, from that very run;
    compared with what it returned, which no rounding can make different."""
    with torch._C._InferenceMode(False):  # in C: an interrupt cannot leave it on
        values = {name: plain(value).clone() for name, value in ran.record(names).items()}
        inputs = batch_first(None if x is None else plain(x).detach() for x in ran.inputs)
        inputs = tuple(x.clone() if x is not None and x.is_inference() else x for x in inputs)
        masks = batch_first(None if mask is None else plain(mask) != 0 for mask in ran.masks)
    off = {
        name: absolute_difference(plain(t), returned.final[name]).amax(-1)
        for name, t in ran.final.items()
    }
    proofs = {}
    for name, distances in off.items():
        layer, d, batch = (int(k) for k in (distances == distances.max()).nonzero()[0])
        place = Place(layer, ran.structure.directions[d], batch, ran.call.steps - 1)
        largest = float(distances.max())
        ratio = 0.0 if largest == 0 else math.inf
        proofs[name] = Proof(largest, 0.0, ratio, name, place, False, distances.numel(), 0)
    hidden_distances = absolute_difference(plain(ran.hidden), returned.h).amax(-1)
    if (largest := float(hidden_distances.max())) > 0:
        t, batch = (int(k) for k in (hidden_distances == hidden_distances.max()).nonzero()[0])
        place = Place(ran.structure.num_layers - 1, ran.structure.directions[0], batch, t)
        proofs["h"] = replace(proofs["h"], deviation=largest, ratio=math.inf, place=place)
    proofs["h"] = replace(proofs["h"], every_step=True)
    return Opened(values, inputs, proofs, masks=masks, engine=ran.engine)


def _by_equations(adopted: Adopted, call: Call, names: frozenset[str]) -> Trace:
    """The numbers by the equations alone, in the layer's own precision."""
    if adopted.module._forward_pre_hooks:
        raise RefusedError(
            f"{adopted.kind} has hooks that run before its forward and may change the input or, as "
            f"weight_norm's does, the weights; check=False does not run it. Leave check at True."
        )
    # no forward has taken note of weights that were changed by functional_call or parametrizations
    snapshot = snapshot_of(adopted.module, adopted.weights(fresh=True))
    check_dropout(adopted)
    with torch.no_grad(), torch.autocast(call.x.device.type, enabled=False):
        names = names.union(adopted.cell.states)
        forward = CallByEquations(adopted.structure, call, snapshot.weights, names)
        ran = run_call(forward, compiled=True)
        values = ran.record(names)
        masks = batch_first(None if mask is None else mask != 0 for mask in ran.masks)
        opened = Opened(values, batch_first(ran.inputs), {}, masks=masks, engine=ran.engine)
        return Trace(adopted.structure, call, snapshot, opened, ran.output)


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace that ``Trace.save`` wrote; nothing in the file is run.

    >>> import os, tempfile, torch, rnnscope as rs
    >>> tr = rs.trace(torch.nn.GRU(3, 4), torch.randn(5, 2, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.trace")
    ...     tr.save(path)
    ...     again = rs.load_trace(path)
    >>> torch.equal(again["z"], tr["z"])
    True

    Raises ``FileError`` where the file is missing, damaged, or holds no trace.
    """
    contents = tracefile.read(path)
    snapshot = Snapshot(contents.weights)
    loaded = Trace(contents.structure, contents.call, snapshot, contents.opened, contents.output)
    loaded.labels = contents.labels
    return loaded
