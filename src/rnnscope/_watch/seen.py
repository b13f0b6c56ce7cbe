"""Seen: what a watch saw, by the names of the layers."""

from __future__ import annotations

import difflib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnscope._escaping import printable
from rnnscope._opening.modes import undisturbed
from rnnscope._record.absent import OF_A_TRACE, absent_attribute
from rnnscope._trace.verbs import Trace
from rnnscope._watch.batches import Batches
from rnnscope._watch.join import Joined, segments
from rnnscope._watch.kept import CallStorage
from rnnscope._watch.saving import save_calls
from rnnscope.errors import AddressError, ShapeError

__all__ = ["Layer", "Seen"]


@dataclass
class Layer:
    """The calls that go by one name; ``count`` is the number of calls made, kept or not.

    ``kind`` is what its class is called; ``interrupted``: the latest call is not recorded;
    ``elsewhere`` is the number of calls that came from other contexts.
    """

    name: str
    kept: CallStorage
    kind: str = ""
    count: int = 0
    interrupted: bool = False
    elsewhere: int = 0

    @property
    def traces(self) -> list[Trace]:
        """The kept calls, in order; raises ``VerificationError`` where one cannot be proven."""
        return self.kept.traces


class Seen:
    """The calls of each layer of a model, by the layer's name; iterates over the names.

    >>> import torch
    >>> from rnnscope import watch
    >>> cell = torch.nn.GRUCell(3, 4)
    >>> with watch(cell) as seen:
    ...     h = None
    ...     for x in torch.randn(6, 2, 3):
    ...         h = cell(x, h)
    >>> len(seen.calls(""))                     # the model itself has the empty name
    6
    >>> seen.joined("")["h"].shape
    torch.Size([1, 1, 2, 6, 4])
    """

    def __init__(self, model: str) -> None:
        self._of = model  # the name of its class
        self._of_class = False
        self._layers: dict[str, Layer] = {}
        self._first_names: dict[str, str] = {}  # of every name: tied layers have several
        self._skipped: dict[str, Counter[str]] = {}
        self._outside: Counter[str] = Counter()  # calls of these classes by other modules
        self._unregistered: Counter[str] = Counter()  # the same, made inside this model's forward
        self._labels: Any = None
        self._lock = threading.RLock()  # tasks and threads that share a context record at once

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold what was seen, not the model: they record nothing more."""
        facts = ["_layers", "_first_names", "_skipped", "_outside", "_unregistered", "_labels"]
        return Seen, (self._of,), {name: getattr(self, name) for name in [*facts, "_of_class"]}

    def _skip(self, name: str, why: str) -> None:
        self._skipped.setdefault(name, Counter())[why] += 1

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that are watched, in the order of ``named_modules()``."""
        return tuple(self._layers)

    @property
    def skipped(self) -> dict[str, str]:
        """What was not recorded, and why, by the name of the layer."""
        reasons_of = {
            name: [why if n == 1 else f"{why} ({n} times)" for why, n in reasons.items()]
            for name, reasons in self._skipped.items()
        }
        for layer in self._layers.values():
            if layer.elsewhere:
                reasons_of.setdefault(layer.name, []).append(_elsewhere(layer.elsewhere))
            if not layer.count and self._outside[layer.kind]:
                reason = _outside(layer.kind, self._outside[layer.kind])
                reasons_of.setdefault(layer.name, []).append(reason)
        for kind, count in self._unregistered.items():
            reasons_of.setdefault(kind, []).append(_unregistered(kind, count))
        return {name: "; ".join(reasons) for name, reasons in reasons_of.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded quantities; the copies of inputs and weights not counted."""
        return sum(trace.nbytes for layer in self._layers.values() for trace in layer.traces)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, name: object) -> bool:
        return name in self._first_names

    def calls(self, name: str) -> list[Trace]:
        """The kept calls of a layer, in the order in which they were made.

        Raises ``AddressError`` for a name that is not watched.
        """
        return self._named(name).traces

    def __getitem__(self, name: str) -> Trace:
        """The only call of a layer; raises ``AddressError`` where there are none, or several."""
        if isinstance(name, tuple) and name and name[0] in self._first_names:
            rest = ", ".join(map(repr, name[1:]))
            raise AddressError(
                f"seen takes the name of a layer; its numbers are addressed in the trace: write "
                f"seen[{name[0]!r}][{rest}]"
            )
        traces = self.calls(name)
        if len(traces) == 1:
            return traces[0]
        if not traces:
            raise AddressError(f"{name!r} {self._never_called(name)}")
        raise AddressError(
            f"{name!r} was called {len(traces)} times: seen.calls({name!r}) lists the calls, and "
            f"seen.joined({name!r}) chains those that hand the state on into one trace over time"
        )

    @property
    def trace(self) -> Trace:
        """The only call, where the model is the recurrent layer itself, or a class of which one
        layer was called."""
        if self._of_class and len(self._layers) == 1:
            return self[next(iter(self._layers))]
        if "" not in self._first_names:
            raise AddressError(
                f"the model itself is no watched layer: write seen[name]; {self._watched_names()}"
            )
        return self[""]

    def segments(self, name: str) -> list[Joined]:
        """The calls of a layer, chained: each segment is one trace over time.

        A call goes on from an earlier one where its initial state holds the numbers that the
        earlier one returned last, bit for bit, whatever way they took (a copy, ``detach()``, NumPy,
        an array kept in place). Several chains of one layer may run at once. ``detach()`` is listed
        in the segment's ``boundaries``; sequences of the batch whose state was reset or replaced
        while others went on are listed in its ``restarts``. No initial state, other numbers in
        every sequence, another batch, other weights begin a new segment, whose ``why`` tells which
        it was. So do bidirectional layers and packed sequences, which do not go on from call to
        call.

        Raises ``AddressError`` for a name that is not watched.
        """
        kept = self._named(name).kept
        chains = undisturbed(segments, kept.opened(), kept.dropped > 0)
        return [self._named_steps(joined) for joined in chains]

    def _named_steps(self, joined: Joined) -> Joined:
        try:
            return joined.labelled(self._labels)
        except ShapeError:  # they are of single calls
            return joined

    def batches(self, name: str) -> Batches:
        """All kept calls of a layer as one record along the batch: a data set that went through
        the model in batches.

        Shorter calls are padded with zeros, as ``lengths`` and ``valid`` tell.

        >>> import torch
        >>> from rnnscope import watch
        >>> layer = torch.nn.GRU(3, 4)
        >>> with watch(layer) as seen:
        ...     for steps in (5, 7):
        ...         output, h_n = layer(torch.randn(steps, 2, 3))
        >>> seen.batches("")["h"].shape, seen.batches("").lengths
        (torch.Size([1, 1, 4, 7, 4]), tensor([5, 5, 7, 7]))

        Raises ``AddressError`` for a name that is not watched or has no recorded call, and
        ``ShapeError`` where the layer changed between the calls.
        """
        traces = self.calls(name)
        if not traces:
            raise AddressError(f"{name!r} {self._never_called(name)}")
        return Batches(traces)

    def joined(self, name: str) -> Joined:
        """The only segment: all calls of a layer as one trace over time.

        Raises ``AddressError`` where there are none or several; ``segments`` lists them.
        """
        chains = self.segments(name)
        if len(chains) == 1:
            return chains[0]
        if not chains:
            raise AddressError(f"{name!r} {self._never_called(name)}")
        number = self.calls(name).index(chains[1].calls[0])
        raise AddressError(
            f"the calls of {name!r} are {len(chains)} segments: call {number} does not go on from "
            f"call {number - 1}, because {chains[1].why}. seen.segments({name!r}) lists them."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write every kept call as a trace into a new folder: ``encoder.rnn.0.trace`` is the first
        kept call of encoder.rnn, ``0.trace`` that of a model that is the layer itself. Each is read
        by ``load_trace``.

        Raises ``FileError`` where the folder holds something already, or cannot be written.
        """
        save_calls(Path(path), {name: layer.traces for name, layer in self._layers.items()})

    def _named(self, name: str) -> Layer:
        if name in self._first_names:
            return self._layers[self._first_names[name]]
        if name in self._skipped:
            raise AddressError(f"{name!r} was skipped: {self.skipped[name]}")
        holders = [layer.name for layer in self._layers.values() if self._holds(layer, name)]
        if holders:
            raise AddressError(
                f"{name!r} is a quantity of a call, and seen takes the name of a layer: write "
                f"seen[{holders[0]!r}][{name!r}]"
            )
        near = difflib.get_close_matches(str(name), list(self._first_names), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise AddressError(f"no watched layer {name!r}; {self._watched_names()}.{hint}")

    def _holds(self, layer: Layer, name: object) -> bool:
        return len(layer.kept) > 0 and any(name in trace for trace in layer.traces[:1])

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What is asked of a single call stands in its trace."""
            layers = self.__dict__.get("_layers", {})
            if name.startswith("_") or not (name in OF_A_TRACE or hasattr(Trace, name)):
                raise absent_attribute("Watch", name, {})
            first = next(iter(layers), "rnn")
            several = len(layers) > 0 and len(layers[first].traces) > 1
            call = f"seen.joined({first!r})" if several else f"seen[{first!r}]"
            brackets = "(...)" if callable(getattr(Trace, name, None)) else ""
            line = f"it is of one layer's trace: write {call}.{name}{brackets}"
            raise absent_attribute("Watch", name, {name: line})

    def _watched_names(self) -> str:
        return f"watched are {', '.join(map(repr, self._first_names)) or 'none'}"

    def _never_called(self, name: str) -> str:
        skipped = self.skipped.get(self._first_names[name])
        return "has no recorded call" + (f": {skipped}" if skipped else " in this context")

    def __repr__(self) -> str:
        count = len(self._layers)
        lines = [f"Watched {self._of}: {count} recurrent layer{'s' * (count != 1)}"]
        width = max((len(repr(name)) for name in (*self._layers, *self.skipped)), default=0)
        lines += [
            f"  {layer.name!r:<{width}}  {_summary(layer)}" for layer in self._layers.values()
        ]
        lines += [
            f"  {name!r:<{width}}  skipped: {reason}" for name, reason in self.skipped.items()
        ]
        lines.append(f"{self.nbytes / 1e6:.3g} MB of recorded numbers")
        return "\n".join(map(printable, lines))


def _outside(kind: str, count: int) -> str:
    calls = f"{count} call{'s' * (count != 1)}"
    return (
        f"{calls} of {kind} outside this model: was it copied, as frameworks do that train a "
        f"copy? Watch the class with rs.watch({kind}), or pass the copy to rs.watch"
    )


def _unregistered(kind: str, count: int) -> str:
    calls = f"{count} call{'s' * (count != 1)}"
    return (
        f"{calls} in the model's forward, of layers that are no modules of it: are they made "
        f"there, or kept where nn.Module does not look? Make them in __init__ as self.name, or in "
        f"nn.ModuleList, to have them in parameters() too; or watch the class with "
        f"rs.watch({kind})"
    )


def _elsewhere(count: int) -> str:
    came, are = ("1 call came", "is") if count == 1 else (f"{count} calls came", "are")
    return (
        f"{came} from other threads or asyncio tasks and {are} not recorded: a watch records the "
        f"calls of the thread or task that entered it; enter it there, or start the thread's "
        f"function by contextvars.copy_context().run"
    )


def _summary(layer: Layer) -> str:
    """One line: how often it was called, and with what sizes."""
    calls = f"{layer.count} call{'s' * (layer.count != 1)}"
    traces = layer.traces
    if len(traces) != layer.count:
        calls += f", {len(traces)} kept"
    recomputed = sum(trace.recomputed for trace in traces)
    if recomputed:
        calls += f", {recomputed} recomputed in backward"
    if not traces:
        return calls
    sizes = [
        f"{axis} {_range([trace.sizes[axis] for trace in traces])}" for axis in ("batch", "time")
    ]
    return f"{calls}  {traces[-1].structure}  {', '.join(sizes)}"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
