"""watch: the trace of every call of every recurrent layer inside a model."""

from __future__ import annotations

import difflib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope.adopt import RECURRENT, Call, adopt, refusal
from rnnscope.errors import AddressError, NotRecurrentError, RnnscopeError
from rnnscope.forwards import Forward, observe, undisturbed, unobserve
from rnnscope.joining import Beginning, Handed, Joined, begin, same_numbers, segments
from rnnscope.trace import Captured, Check, Trace, open_captured, recorded_names

__all__ = ["Seen", "watch"]


def watch(
    model: nn.Module,
    *,
    names: str | Iterable[str] | None = None,
    every: int = 1,
    last: int | None = None,
    record: str | Iterable[str] = "gates",
    check: Check = True,
) -> Seen:
    """A context that records every call of every recurrent layer inside ``model``.

    The layers are named as in ``model.named_modules()``; the model itself has the empty name.
    They run once, unchanged, and each call is opened right after it, as ``trace`` would, with the
    weights that it used. What is recorded is detached from the graph. What cannot be recorded is
    listed in ``seen.skipped`` with the reason.

    ``names``: only these layers, as exact names or patterns such as "decoder.*"; ``every``: every
    n-th call of each layer; ``last``: keep only the last n recorded calls of each. ``record`` and
    ``check`` are those of ``trace``, but for ``check=False``: the layer has run, so the deviation
    is measured all the same, and nothing is raised.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5))
    >>> with watch(model) as seen:
    ...     output, h_n = model(torch.randn(7, 2, 3))
    >>> seen["1"]["z"].shape                    # layer, direction, batch, time, unit
    torch.Size([1, 1, 2, 7, 5])

    Inside the context, a call whose numbers cannot be proven raises ``VerificationError`` at
    once, out of the model's own forward. Entering raises ``NotRecurrentError`` for a model with no
    recurrent layer, and ``AddressError`` for a name in ``names`` or ``record`` that fits none.
    """
    for what, number in (("every", every), ("last", 1 if last is None else last)):
        if number != int(number) or number < 1:
            raise ValueError(f"{what} must be a whole number of at least 1; got {number!r}")
    if check not in (True, False, "thorough"):
        raise ValueError(f'check must be True, False or "thorough"; got {check!r}')
    if not isinstance(model, nn.Module):
        raise NotRecurrentError(f"watch takes an nn.Module; got {type(model).__name__}")
    patterns = None if names is None else (names,) if isinstance(names, str) else tuple(names)
    wanted = record if isinstance(record, str) else tuple(record)
    return Seen(model, Wanted(patterns, every, last, wanted, check))


@dataclass(frozen=True)
class Wanted:
    """What to record."""

    names: tuple[str, ...] | None
    every: int
    last: int | None
    record: str | tuple[str, ...]
    check: Check

    def chooses(self, names: Iterable[str]) -> bool:
        """Whether a layer that goes by ``names`` is to be recorded."""
        patterns = self.names
        return patterns is None or any(fnmatchcase(n, p) for n in names for p in patterns)


@dataclass
class Layer:
    """The calls that go by one name; ``count`` is the number of calls made, kept or not.

    ``handed`` is what the last call returned, where that call was recorded.
    """

    name: str
    kept: deque[tuple[Trace, Beginning]]
    count: int = 0
    handed: Handed | None = None

    @property
    def traces(self) -> list[Trace]:
        """The kept calls, in order."""
        return [trace for trace, _ in self.kept]

    def original_of(self, forward: Forward) -> Trace | None:
        """The latest kept call with the same input and initial state, one that was not yet
        recomputed if there is such; None where there is none."""
        try:
            call = forward.call
        except RnnscopeError:
            return None
        with undisturbed():
            alike = [trace for trace in reversed(self.traces) if _same_call(trace.call, call)]
        return next((trace for trace in alike if not trace.recomputed), alike[0] if alike else None)


class Seen:
    """What a watch saw: the calls of each layer, by the layer's name; iterates over the names.

    >>> cell = nn.GRUCell(3, 4)
    >>> with watch(cell) as seen:
    ...     h = None
    ...     for x in torch.randn(6, 2, 3):
    ...         h = cell(x, h)
    >>> len(seen.calls(""))                     # the model itself has the empty name
    6
    >>> seen.joined("")["h"].shape
    torch.Size([1, 1, 2, 6, 4])

    Entering the context again goes on recording.
    """

    def __init__(self, model: nn.Module, wanted: Wanted) -> None:
        self._model = model
        self._wanted = wanted
        self._on = False
        # by identity: each layer's module with its first name, or None where it is not wanted
        self._modules: dict[int, tuple[nn.Module, str | None]] = {}
        self._first_names: dict[str, str] = {}
        self._layers: dict[str, Layer] = {}
        self._skipped: dict[str, Counter[str]] = {}

    # the context ---------------------------------------------------------------------------

    def __enter__(self) -> Seen:
        if self._on:
            raise RuntimeError("this watch is on already; for a second one call rs.watch again")
        self._check_names(*_layers_of(self._model))
        self._look()
        self._check_record()
        observe(self)
        self._on = True
        return self

    def __exit__(self, *_: object) -> None:
        unobserve(self)
        self._on = False
        self._look()  # what was added meanwhile and cannot be recorded is told too
        for layer in self._layers.values():
            layer.handed = None

    def _look(self) -> None:
        """Find the layers that are in the model now; those that left it keep their names."""
        layers, refused = _layers_of(self._model)
        for key, (module, names) in layers.items():
            if key in self._modules:
                continue
            first = names[0] if self._wanted.chooses(names) else None
            self._modules[key] = module, first
            if first is not None:
                self._layers.setdefault(first, Layer(first, deque(maxlen=self._wanted.last)))
                self._first_names |= dict.fromkeys(names, first)
        for name, why in refused.items():
            if self._wanted.chooses([name]):
                self._skipped.setdefault(name, Counter([why]))

    def _check_names(
        self, layers: Mapping[int, tuple[nn.Module, tuple[str, ...]]], refused: Mapping[str, str]
    ) -> None:
        known = [name for _, names in layers.values() for name in names] + list(refused)
        if not known:
            raise NotRecurrentError(
                f"{type(self._model).__name__} holds no recurrent layer: there is nothing to "
                f"watch. Expected nn.RNN, nn.GRU, nn.LSTM or one of their cells somewhere inside."
            )
        for pattern in self._wanted.names or ():
            if not any(fnmatchcase(name, pattern) for name in known):
                raise AddressError(
                    f"names: no recurrent layer {pattern!r}; the model holds "
                    f"{', '.join(map(repr, known))}. 'encoder.*' takes all inside encoder."
                )

    def _check_record(self) -> None:
        """Raise where no layer has a quantity that is asked for."""
        cells = {
            adopt(module).cell for module, first in self._modules.values() if first is not None
        }
        for name in _named(self._wanted.record):
            errors = []
            for cell in cells:
                try:
                    recorded_names(cell, [name])
                except AddressError as error:
                    errors.append(error)
            if cells and len(errors) == len(cells):
                raise errors[0]

    # told by the wrapper of every forward ----------------------------------------------------

    def wants(self, forward: Forward) -> bool:
        """Whether this forward is a call to record; what is none is listed or marked here."""
        layer = self._layer_of(forward.module)
        if layer is None:
            return False
        if forward.direct:
            self._skip(layer.name, "called as .forward(...), past its hooks: call the layer itself")
            return False
        if torch._C._get_tracing_state() is not None:
            self._skip(layer.name, "called while torch.jit.trace or an export recorded it")
            return False
        if forward.in_backward and self._is_recomputation(layer, forward):
            return False
        layer.count += 1
        if (layer.count - 1) % self._wanted.every:
            layer.handed = None
            return False
        return True

    def _layer_of(self, module: nn.Module) -> Layer | None:
        if id(module) not in self._modules:
            self._look()  # it may have been added to the model since
        _, first = self._modules.get(id(module), (None, None))
        return None if first is None else self._layers[first]

    def _is_recomputation(self, layer: Layer, forward: Forward) -> bool:
        """Whether a call in the backward pass repeats an earlier one, which is then marked."""
        original = layer.original_of(forward)
        if original is not None:
            original.recomputed = True
            return True
        if not forward.in_checkpoint:
            return False
        if layer.count == len(layer.kept):
            self._skip(layer.name, "recomputed in backward for a call made outside of the watch")
        return True  # of a call that was not kept

    def returned(self, forward: Forward, taken: Captured) -> None:
        """Open a call that has just returned."""
        layer = self._layer_of(forward.module)
        assert layer is not None, "it was wanted"
        with undisturbed():
            # a copy: the caller may change the tensors in place, as a reset of the state does
            mine = replace(taken, output=_copied(taken.output))
            trace = open_captured(mine, self._record_of(taken), self._wanted.check)
            beginning = begin(layer.handed, forward.module, trace, forward.initial)
            layer.handed = Handed.of(forward.module, trace, taken.output)
        layer.kept.append((trace, beginning))

    def missed(self, forward: Forward, why: str) -> None:
        """List a call that was begun and cannot be recorded."""
        layer = self._layer_of(forward.module)
        assert layer is not None, "it was wanted"
        layer.handed = None
        self._skip(layer.name, f"call {layer.count - 1}: {why}")

    def _record_of(self, taken: Captured) -> frozenset[str]:
        cell = taken.adopted.cell
        known = recorded_names(cell, "all")
        record = self._wanted.record
        names = _named(record)
        return recorded_names(cell, [n for n in names if n in known] if names else record)

    def _skip(self, name: str, why: str) -> None:
        self._skipped.setdefault(name, Counter())[why] += 1

    # what was seen -----------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that are watched, in the order of ``named_modules()``."""
        return tuple(self._layers)

    @property
    def skipped(self) -> dict[str, str]:
        """What was not recorded, and why, by the name of the layer."""
        return {
            name: "; ".join(why if n == 1 else f"{why} ({n} times)" for why, n in reasons.items())
            for name, reasons in self._skipped.items()
        }

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
        """The only call, where the model is the recurrent layer itself."""
        if "" not in self._first_names:
            raise AddressError(
                f"the model itself is no watched layer: write seen[name]; {self._known()}"
            )
        return self[""]

    def segments(self, name: str) -> list[Joined]:
        """The calls of a layer, chained: each segment is one trace over time.

        A call goes on from the one before where its initial state is the very tensor that the one
        before returned, by storage and version, or a view of it. ``detach()`` keeps the segment,
        and is listed in its ``boundaries``. No initial state, a change in place, another tensor,
        another batch, other weights begin a new segment, whose ``why`` tells which it was. So do
        bidirectional layers and packed sequences, which do not go on from call to call.

        Raises ``AddressError`` for a name that is not watched.
        """
        return segments(list(self._named(name).kept))

    def joined(self, name: str) -> Joined:
        """The only segment: all calls of a layer as one trace over time.

        Raises ``AddressError`` where there are none or several; ``segments`` lists them.
        """
        found = self.segments(name)
        if len(found) == 1:
            return found[0]
        if not found:
            raise AddressError(f"{name!r} {self._never_called(name)}")
        before = len(found[0].calls)
        raise AddressError(
            f"the calls of {name!r} are {len(found)} segments: call {before} does not go on from "
            f"call {before - 1}, because {found[1].why}. seen.segments({name!r}) lists them."
        )

    def _named(self, name: str) -> Layer:
        if name in self._first_names:
            return self._layers[self._first_names[name]]
        if name in self._skipped:
            raise AddressError(f"{name!r} was skipped: {self.skipped[name]}")
        near = difflib.get_close_matches(str(name), list(self._first_names), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise AddressError(f"no watched layer {name!r}; {self._known()}.{hint}")

    def _known(self) -> str:
        return f"watched are {', '.join(map(repr, self._first_names)) or 'none'}"

    def _never_called(self, name: str) -> str:
        skipped = self.skipped.get(self._first_names[name])
        return "has no recorded call" + (f": {skipped}" if skipped else " in this context")

    def __repr__(self) -> str:
        count = len(self._layers)
        lines = [
            f"Watched {type(self._model).__name__}: {count} recurrent layer{'s' * (count != 1)}"
        ]
        width = max((len(repr(name)) for name in (*self._layers, *self._skipped)), default=0)
        lines += [
            f"  {layer.name!r:<{width}}  {_summary(layer)}" for layer in self._layers.values()
        ]
        lines += [
            f"  {name!r:<{width}}  skipped: {reason}" for name, reason in self.skipped.items()
        ]
        return "\n".join([*lines, f"{self.nbytes / 1e6:.3g} MB of recorded numbers"])


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


def _same_call(one: Call, other: Call) -> bool:
    return same_numbers(one.x, other.x) and all(
        same_numbers(one.initial[name], value) for name, value in other.initial.items()
    )


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


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


def _layers_of(
    model: nn.Module,
) -> tuple[dict[int, tuple[nn.Module, tuple[str, ...]]], dict[str, str]]:
    """The recurrent layers in a model by identity, with all their names (tied layers have
    several); and those that cannot be recorded, by name, with the reason."""
    layers: dict[int, tuple[nn.Module, tuple[str, ...]]] = {}
    refused: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if "_orig_mod" in module._modules:
            continue  # torch.compile's shell of a module, which follows: its calls are seen there
        why = refusal(module)
        if why is None and isinstance(module, RECURRENT):
            names = layers[id(module)][1] if id(module) in layers else ()
            layers[id(module)] = (module, (*names, name))
        # the parts of what is refused already need not be told
        if why is not None and not any(_is_inside(name, above) for above in refused):
            refused[name] = why
    return layers, refused


def _is_inside(name: str, above: str) -> bool:
    return not above or name == above or name.startswith(f"{above}.")
