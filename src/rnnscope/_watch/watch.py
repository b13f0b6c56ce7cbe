"""watch: the trace of every call of every recurrent layer inside a model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from types import FrameType
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._gradients.received import Received
from rnnscope._layers.adapter import Adapter, Cells, adapter_of, checked_cells
from rnnscope._layers.adopt import OPENED, adopt, own_forward
from rnnscope._layers.call import Call
from rnnscope._opening.capture import Captured
from rnnscope._opening.forwards import Forward, observe, unobserve
from rnnscope._opening.held import Held, PlainCall, weights_now
from rnnscope._opening.modes import settled, undisturbed
from rnnscope._record.names import recorded_names
from rnnscope._trace.trace import Check, open_captured
from rnnscope._trace.verbs import Trace
from rnnscope._watch.chains import same_numbers, tensors_in
from rnnscope._watch.hidden import hidden_layers, where_it_is
from rnnscope._watch.kept import CallStorage, MadeCall
from rnnscope._watch.layers import class_word, layers_of
from rnnscope._watch.listening import listen_to, listen_to_plain, why_no_graph
from rnnscope._watch.seen import Layer, Seen
from rnnscope.cells import Cell
from rnnscope.errors import (
    AddressError,
    NotRecurrentError,
    RnnscopeError,
    ShapeError,
    VerificationError,
)

__all__ = ["Watch", "watch"]


def watch(
    model: nn.Module | type[nn.Module],
    *,
    names: str | Iterable[str] | None = None,
    every: int = 1,
    last: int | None = None,
    record: str | Iterable[str] = "gates",
    check: Check = True,
    cells: Cells | None = None,
    labels: Any = None,
) -> Watch:
    """A context that records every call of every recurrent layer inside ``model``.

    The layers are named as in ``model.named_modules()``; the model itself has the empty name.
    They run once, unchanged. Of each call a copy is kept of what went in and what came out, and the
    weights that it used, one copy as long as they stay the same. The numbers inside follow, as
    ``trace`` gives them, when they are asked for, or at the end of the context, where ``check``
    wants their proof: many short calls as one batch, so that a loop of single steps keeps its pace.
    What is recorded is detached from the graph. What cannot be recorded is listed in
    ``seen.skipped`` with the reason.

    A watch records the calls of its own context: those of the thread or asyncio task that entered
    it, and of what takes over its context, as do tasks that are created inside,
    ``asyncio.to_thread``, and a thread whose function is run by
    ``contextvars.copy_context().run``. Calls from elsewhere, such as a thread pool's or a server's
    other requests, run as always, and ``seen.skipped`` counts them. A backward pass in another
    thread, such as torch's own on a GPU, gives its gradients all the same. The replicas that
    ``nn.DataParallel`` makes for each call are other modules, which no watch sees. Several watches
    may be on at once, in any threads; while any is, torch.compile runs compiled code as it was
    written in all of them, since the process has one setting for it.

    ``names``: only these layers, as exact names or patterns such as "decoder.*"; ``every``: every
    n-th call of each layer; ``last``: keep only the last n recorded calls of each. ``record`` and
    ``check`` are those of ``trace``, but for ``check=False``: the layer has run, so the deviation
    is measured all the same, and nothing is raised. ``labels`` names the steps of every call, or of
    the joined calls, whichever they fit.

    Of a subclass of torch's layers whose forward calls ``super().forward``, that inner call is
    recorded. A recurrent layer that is not torch's stands in ``seen.skipped`` with the line to
    write: ``cells={MyLSTM: rs.cells.LSTM}`` says which cell a class computes, with ``rs.Adapter``
    where its parameters have other names, and its calls are then opened and proven like any other.

    A class in the place of the model, as in ``watch(nn.LSTM)``, records every call of every layer
    of that class, named "LSTM.0", "LSTM.1" in the order of their first calls: for frameworks that
    train a copy of the model.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5))
    >>> with watch(model) as seen:
    ...     output, h_n = model(torch.randn(7, 2, 3))
    >>> seen["1"]["z"].shape                    # layer, direction, batch, time, unit
    torch.Size([1, 1, 2, 7, 5])

    ``backward()`` inside the context gives each call its gradients, ``seen[name].grad``: a record
    of the gradient of the loss with respect to every number inside, as ``Trace.gradients`` gives
    it; None until then.

    >>> with watch(model) as seen:
    ...     output, h_n = model(torch.randn(7, 2, 3))
    ...     h_n.square().sum().backward()
    >>> seen["1"].grad["z"].shape
    torch.Size([1, 1, 2, 7, 5])

    A call whose numbers cannot be proven raises ``VerificationError`` with the number of the call:
    at the end of the context (unless an exception is on its way already), or where its numbers are
    asked for. Calls that cannot wait are proven at once, out of the model's own forward: those on a
    GPU, under autocast, and of the classes in ``cells``. Entering raises ``NotRecurrentError`` for
    a model with no recurrent layer, and ``AddressError`` for a name in ``names`` or ``record`` that
    fits none.
    """
    for option, number in (("every", every), ("last", 1 if last is None else last)):
        if number != int(number) or number < 1:
            raise ValueError(f"{option} must be a whole number of at least 1; got {number!r}")
    if check not in (True, False, "thorough"):
        raise ValueError(f'check must be True, False or "thorough"; got {check!r}')
    adapters = checked_cells(cells)
    if isinstance(model, type):
        _check_class(model, adapters)
    elif not isinstance(model, nn.Module):
        raise NotRecurrentError(f"watch takes an nn.Module; got {type(model).__name__}")
    patterns = None if names is None else (names,) if isinstance(names, str) else tuple(names)
    quantities = record if isinstance(record, str) else tuple(record)
    selection = Selection(patterns, every, last, quantities, check, adapters)
    return Watch(model, selection, labels)


def _check_class(kind: type, adapters: Mapping[type[nn.Module], Adapter]) -> None:
    """Raise unless some layers of a class can be opened."""
    opened = (*OPENED, *adapters)
    if not any(issubclass(kind, base) or issubclass(base, kind) for base in opened):
        line = f"rs.watch({kind.__name__}, cells={{{kind.__name__}: my_cell}})"
        raise NotRecurrentError(
            f"watch takes a model, or a class of recurrent layers such as nn.LSTM; got the class "
            f"{kind.__name__}. Pass an instance of it, or say which cell it computes: {line}"
        )


@dataclass(frozen=True)
class Selection:
    """What to record."""

    names: tuple[str, ...] | None
    every: int
    last: int | None
    record: str | tuple[str, ...]
    check: Check
    cells: Mapping[type[nn.Module], Adapter]

    def chooses(self, names: Iterable[str]) -> bool:
        """Whether a layer that goes by ``names`` is to be recorded."""
        patterns = self.names
        return patterns is None or any(fnmatchcase(n, p) for n in names for p in patterns)


class _Exit:
    """``Watch.__exit__``: what a with statement reads before it enters, and alone holds.

    Where an interrupt comes before the first step of ``leave``, the statement lets go of what it
    read, and by that the watch leaves.
    """

    def __get__(self, watch: Watch | None, kind: type[Watch]) -> Callable[..., None]:
        if watch is None:
            return kind.leave
        if watch._on:
            return watch.leave
        leave = partial(watch.leave)
        finalize(leave, watch.leave).atexit = False
        return leave


class Watch(Seen):
    """The context: records while it is on. Entering it again goes on recording."""

    def __init__(
        self, model: nn.Module | type[nn.Module], selection: Selection, labels: Any = None
    ) -> None:
        super().__init__(model.__name__ if isinstance(model, type) else type(model).__name__)
        self._class = model if isinstance(model, type) else None
        self._of_class = self._class is not None
        self._model = nn.Module() if isinstance(model, type) else model
        self._selection = selection
        self._labels, self._misfit = labels, ""
        self._on = False
        # by identity: each layer's module with its first name, or None where it is not wanted
        self._modules: dict[int, tuple[nn.Module, str | None]] = {}

    @property
    def cells(self) -> Mapping[type[nn.Module], Adapter]:
        """Which cell the classes of others compute."""
        return self._selection.cells

    # the context ---------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        if self._on:
            raise RuntimeError("this watch is on already; for a second one call rs.watch again")
        if self._class is None:
            self._check_names(*layers_of(self._model, self.cells))
        self._look()
        self._check_record()
        try:
            self._on = True
            observe(self)
            self._listen(True)
        except BaseException:
            self.leave()
            raise
        return self

    __exit__ = _Exit()

    def leave(self, *raised: object) -> None:
        """Record no more, as at the end of the with statement; may be called again.

        Where nothing was ``raised`` inside that statement, every call is proven now, unless
        ``check`` is False; raises ``VerificationError`` where one cannot be.
        """
        if not self._on:
            return
        unobserve(self)
        self._listen(False)
        self._look()  # what was added meanwhile and cannot be recorded is told too
        self._tell_misses()
        for layer in self._layers.values():
            layer.interrupted = True
        self._on = False  # last: an interrupt before leaves something to be done again
        if raised and raised[0] is None:
            self.prove()

    def prove(self) -> None:
        """Open and prove what was not yet, where ``check`` wants it; raises ``VerificationError``
        where a call cannot be proven."""
        first: VerificationError | None = None
        for layer in self._layers.values() if self._selection.check is not False else ():
            try:
                layer.kept.open()
            except VerificationError as error:
                first = first or error
        if first is not None:
            raise first
        if self._labels is not None:
            self._tell_labels()

    def _tell_misses(self) -> None:
        """What was asked for and came to nothing."""
        for module, first in self._modules.values():
            foreign = adapter_of(module, self.cells) is not None
            if first is None or foreign or self._layers[first].count or not own_forward(module):
                continue
            why = (
                f"{type(module).__name__} has a forward of its own, and no call of "
                f"{class_word(module)}'s forward came from it: it was not called, or computes by "
                f"itself"
            )
            self._skipped.setdefault(first, Counter([why]))

    def _tell_labels(self) -> None:
        """Labels that fit neither single calls nor joined ones."""
        for layer in self._layers.values():
            layer.kept.opened()
        for layer in self._layers.values() if self._misfit else ():
            traces = [*layer.traces, *(self.segments(layer.name) if layer.kept else ())]
            if layer.kept and not any(trace.labels for trace in traces):
                self._skipped.setdefault(layer.name, Counter([f"its labels: {self._misfit}"]))

    def _listen(self, on: bool) -> None:
        for layer in self._layers.values():
            for made in layer.kept.receiving:
                if made.received is not None:
                    made.received.on = on

    def _look(self) -> None:
        """Find the layers that are in the model now; those that left it keep their names."""
        layers, refused = layers_of(self._model, self.cells)
        for key, (module, names) in layers.items():
            if key not in self._modules:
                self._enter(module, names)
        for name, why in refused.items():
            if self._selection.chooses([name]):
                self._skipped.setdefault(name, Counter([why]))
        for layer, name, container in hidden_layers(self._model, self._is_recurrent).values():
            if self._selection.chooses([name]):
                why = f"{where_it_is(container)}, rs.watch({class_word(layer)})"
                self._skipped.setdefault(name, Counter([why]))
            self._modules.setdefault(id(layer), (layer, None))

    def _is_recurrent(self, module: nn.Module) -> bool:
        return isinstance(module, OPENED) or adapter_of(module, self.cells) is not None

    def _enter(self, module: nn.Module, names: tuple[str, ...]) -> None:
        """A layer that goes by these names, wanted or not."""
        first = names[0] if self._selection.chooses(names) else None
        self._modules[id(module)] = module, first
        if first is not None:
            layer = Layer(first, CallStorage(first, self._selection.last, self), class_word(module))
            self._layers.setdefault(first, layer)
            self._first_names |= dict.fromkeys(names, first)

    def _check_names(
        self, layers: Mapping[int, tuple[nn.Module, tuple[str, ...]]], refused: Mapping[str, str]
    ) -> None:
        layer_names = [name for _, names in layers.values() for name in names] + list(refused)
        hidden = hidden_layers(self._model, self._is_recurrent).values()
        layer_names += [name for _, name, _ in hidden]
        if not layer_names:
            raise NotRecurrentError(
                f"{type(self._model).__name__} holds no recurrent layer: there is nothing to "
                f"watch. Expected nn.RNN, nn.GRU, nn.LSTM, one of their cells or rs.Recurrent "
                f"somewhere inside; which cell another class computes, says "
                f"rs.watch(model, cells={{MyLSTM: rs.cells.LSTM}}). Layers that are made inside "
                f"forward are seen by their class: rs.watch(nn.LSTM)."
            )
        for pattern in self._selection.names or ():
            if not any(fnmatchcase(name, pattern) for name in layer_names):
                raise AddressError(
                    f"names: no recurrent layer {pattern!r}; the model holds "
                    f"{', '.join(map(repr, layer_names))}. 'encoder.*' takes all inside encoder."
                )

    def _cell_of(self, module: nn.Module) -> Cell:
        adapter = adapter_of(module, self.cells)
        return adopt(module, inner=True).cell if adapter is None else adapter.cell

    def _check_record(self) -> None:
        """Raise where no layer has a quantity that is asked for."""
        cells = {
            self._cell_of(module) for module, first in self._modules.values() if first is not None
        }
        for name in _named(self._selection.record):
            errors = []
            for cell in cells:
                try:
                    recorded_names(cell, [name])
                except AddressError as error:
                    errors.append(error)
            if cells and len(errors) == len(cells):
                raise errors[0]

    # told by the wrapper of every forward ----------------------------------------------------

    def wants(self, forward: Forward, within: bool) -> bool:
        """Whether this forward is a call to record; what is none is listed or marked here."""
        with self._lock:
            look = within or self._class is not None
            layer = self._layer_of(forward.module) if look else self._watched(forward.module)
            if layer is None:
                if within and self._is_strange(forward.module):
                    self._outside[class_word(forward.module)] += 1
                    if self._runs():
                        self._unregistered[class_word(forward.module)] += 1
                return False
            # torch may run a backward pass in threads of its own
            in_backward = forward.in_backward
            if not (within or in_backward):
                layer.elsewhere += 1
                return False
            if forward.direct:
                why = "called as .forward(...), past its hooks: call the layer itself"
                self._skip(layer.name, why)
                return False
            if torch._C._get_tracing_state() is not None:
                why = "called while torch.jit.trace or an export recorded it"
                self._skip(layer.name, why)
                return False
            if in_backward and self._is_recomputation(layer, forward):
                return id(self) in forward.notes
            if not within:
                layer.elsewhere += 1
                return False
            layer.count += 1
            if (layer.count - 1) % self._selection.every:
                layer.interrupted = True
                return False
            forward.notes[id(self)] = layer, layer.count - 1
            return True

    def _is_strange(self, module: nn.Module) -> bool:
        """Whether a layer is none of the model's; one that is refused is told as that."""
        watched = self._class is not None or id(module) in self._modules
        return not watched and all(part is not module for part in self._model.modules())

    def _runs(self) -> bool:
        """Whether a module of the model is being called."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is nn.Module._call_impl.__code__:
                running = frame.f_locals.get("self")
                if any(part is running for part in self._model.modules()):
                    return True
            frame = frame.f_back
        return False

    def _layer_of(self, module: nn.Module) -> Layer | None:
        if id(module) not in self._modules:
            if self._class is None:
                if any(part is module for part in self._model.modules()):
                    self._look()  # it was added to the model since
            elif isinstance(module, self._class):
                name = type(module).__name__
                number = sum(type(known).__name__ == name for known, _ in self._modules.values())
                self._enter(module, (f"{name}.{number}",))
        return self._watched(module)

    def _watched(self, module: nn.Module) -> Layer | None:
        _, first = self._modules.get(id(module), (None, None))
        return None if first is None else self._layers[first]

    def _is_recomputation(self, layer: Layer, forward: Forward) -> bool:
        """Whether a call in the backward pass repeats an earlier one, which is then marked."""
        original = _original_of(layer, forward)
        if original is not None:
            original.recomputed = True
            if original.trace is not None:
                original.trace.recomputed = True
            if torch.is_grad_enabled() and original.received and not original.received.listening:
                forward.notes[id(self)] = original  # this alone makes its graph
            return True
        if not forward.in_checkpoint:
            return False
        if layer.count == len(layer.kept):
            self._skip(layer.name, "recomputed in backward for a call made outside of the watch")
        return True  # of a call that was not kept

    def held(self, forward: Forward, plain: PlainCall, held: Held, output: Any) -> None:
        """Keep a plain call that has just returned."""
        note = forward.notes.pop(id(self))
        if isinstance(note, MadeCall):
            assert note.received is not None, "a call of a checkpoint has one"
            listen_to_plain(note.received, held.adopted, output)
            return
        layer, number = note
        made = MadeCall(number, forward.module, held)
        for tensor in plain.states:
            made.cut |= tensor.grad_fn is None
        if held.grad_mode:
            made.had_graph = any(tensor.requires_grad for tensor in tensors_in(output))
        if made.had_graph or (not held.grad_mode and forward.in_checkpoint):
            made.received = Received(self._selection.check is not False)
            listen_to_plain(made.received, held.adopted, output)
        self._keep(layer, made, held.adopted.kind, held.grad_mode)

    def returned(self, forward: Forward, taken: Captured) -> None:
        """Keep a call that has just returned and was captured in full; open what may be opened
        now alone."""
        note = forward.notes.pop(id(self))
        if isinstance(note, MadeCall):
            assert note.received is not None, "a call of a checkpoint has one"
            undisturbed(listen_to, note.received, taken)
            return
        layer, number = note
        # a copy: the caller may change the tensors in place, as a reset of the state does
        copied = undisturbed(_with_copies, taken)
        made = MadeCall(number, forward.module, copied)
        received = Received(self._selection.check is not False)
        undisturbed(listen_to, received, taken)
        if not undisturbed(_may_wait, taken, torch.is_autocast_enabled("cpu")):
            try:
                made.trace = undisturbed(self._open_now, copied)
            except BaseException:
                layer.interrupted = True
                raise
        undisturbed(_tell_graphs, made, forward.initial, taken.output)
        if received.listening or forward.in_checkpoint:
            made.received = received
        self._keep(layer, made, taken.adopted.kind, taken.grad_mode)

    def _keep(self, layer: Layer, made: MadeCall, kind: str, grad_mode: bool) -> None:
        if made.received is None:
            made.silent, made.frozen = why_no_graph(kind, grad_mode), grad_mode
        with self._lock:  # the order of calls is that in which they are kept
            made.interrupted, layer.interrupted = layer.interrupted, False
            if made.trace is not None:
                self.completed(made.trace, made)
                made.source = None
            layer.kept.append(made)

    # how calls are opened --------------------------------------------------------------------

    def opened(self, taken: Captured) -> Trace:
        """A call that waited, as a trace; raises ``VerificationError`` where it is not proven."""
        return _unscaled(undisturbed, self._open_now, weights_now(taken))

    def _open_now(self, taken: Captured) -> Trace:
        return open_captured(taken, self._record_of(taken), self._selection.check)

    def completed(self, trace: Trace, made: MadeCall) -> None:
        """Give a trace its labels, and what backward() brings."""
        try:
            trace.labelled(self._labels)
        except ShapeError as error:  # they may be those of the joined calls
            self._misfit = str(error)
        trace.recomputed = made.recomputed
        trace.received = made.received
        if trace.received is None:
            trace.received = Received(self._selection.check is not False)
            trace.received.silent, trace.received.frozen = made.silent, made.frozen

    def refused(self, name: str, made: MadeCall, why: str) -> None:
        """List a call that was kept and cannot be opened."""
        # without the lock of the watch: whoever holds it may be waiting for calls to be opened
        self._skip(name, f"call {made.number}: {why}")

    def missed(self, forward: Forward, why: str) -> None:
        """List a call that was begun and cannot be recorded."""
        note = forward.notes.pop(id(self))
        if isinstance(note, MadeCall):
            return  # it was recorded when it was made
        layer, number = note
        with self._lock:
            self._skip(layer.name, f"call {number}: {why}")

    def _record_of(self, taken: Captured) -> frozenset[str]:
        cell = taken.adopted.cell
        recordable = recorded_names(cell, "all")
        record = self._selection.record
        names = _named(record)
        return recorded_names(cell, [n for n in names if n in recordable] if names else record)


def _original_of(layer: Layer, forward: Forward) -> MadeCall | None:
    """The latest kept call with the same input and initial state, one that was not yet
    recomputed if there is such; None where there is none."""
    try:
        call = forward.call
    except RnnscopeError:
        return None
    made_calls = reversed(layer.kept.receiving)
    alike = [made for made in made_calls if undisturbed(_same_call, made.call, call)]
    return next((made for made in alike if not made.recomputed), alike[0] if alike else None)


def _may_wait(taken: Captured, autocast: bool) -> bool:
    """Whether a call may be opened later: torch's own, on a CPU, in the types of its numbers."""
    adopted, x = taken.adopted, taken.call.x
    own = not (adopted.foreign or adopted.declared)
    plain = x.device.type == "cpu" and not autocast
    return own and plain and taken.products == x.dtype


def _tell_graphs(made: MadeCall, initial: Any, output: Any) -> None:
    """Whether the state came and went with a graph."""
    made.had_graph = any(tensor.requires_grad for tensor in tensors_in(output))
    made.cut = any(tensor.grad_fn is None for tensor in tensors_in(initial))


def _with_copies(taken: Captured) -> Captured:
    return replace(taken, output=_copied(taken.output))


@settled
def _unscaled(work: Callable[..., Trace], *args: Any) -> Trace:
    """Outside of an autocast that whoever asks may be in."""
    if not torch.is_autocast_enabled("cpu"):
        return work(*args)
    with torch.autocast("cpu", enabled=False):
        return work(*args)


def _same_call(earlier: Call, call: Call) -> bool:
    return same_numbers(earlier.x, call.x) and all(
        same_numbers(earlier.initial[name], value) for name, value in call.initial.items()
    )


def _named(record: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names in ``record``; none for "gates" and "all"."""
    if record in ("gates", "all"):
        return ()
    return (record,) if isinstance(record, str) else record


def _copied(output: Any) -> Any:
    """What a layer returned, detached and copied."""
    if isinstance(output, Tensor):
        return output.detach().clone()
    if isinstance(output, PackedSequence):
        return PackedSequence(output.data.detach().clone(), *output[1:])
    return tuple(map(_copied, output))
