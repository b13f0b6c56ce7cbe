"""The recorded calls of one layer: kept as they were made, opened and proven when asked for.

What a call leaves in a loop is little; the work is done for many calls at once, when a number is
asked for, or at the end of the context, where ``check`` wants the proof.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import ReferenceType, ref

from torch import nn

from rnnscope._gradients.received import Received
from rnnscope._kernels.engine import of_call
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.call import Call
from rnnscope._opening.capture import Captured
from rnnscope._opening.held import SMALL, Held
from rnnscope._opening.modes import undisturbed
from rnnscope._trace.verbs import Trace
from rnnscope._watch.stack import CallStack, form_of
from rnnscope.errors import DtypeError, RefusedError, ShapeError, VerificationError

__all__ = ["CallStorage", "MadeCall", "Opening"]

PACK = 64
"""So many short calls without a graph become one stack."""

FEW, TOGETHER = 16, 512
"""So many short calls are opened as one batch: of fewer, each has the last bits that ``trace``
gives, for a product of other sizes may round otherwise."""


class Opening(Protocol):
    """Whoever says how calls are opened."""

    def opened(self, taken: Captured) -> Trace:
        """A capture as a trace; raises ``VerificationError`` where it cannot be proven."""

    def completed(self, trace: Trace, made: MadeCall) -> None:
        """Give a trace what else is known of its call."""

    def refused(self, name: str, made: MadeCall, why: str) -> None:
        """A call cannot be recorded."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class MadeCall:
    """A call that was made, and ``source``, of which it is opened: what was held or captured of it,
    or its place in a stack.

    ``had_graph``: what it returned had a graph; ``cut``: an initial state came without one;
    ``interrupted``: a call that is not recorded was made just before; ``received`` is what
    backward() brings, None where nothing can; ``silent`` and ``frozen`` tell why.
    """

    number: int
    module: nn.Module
    source: Held | Captured | tuple[CallStack, int] | None
    had_graph: bool = False
    cut: bool = False
    interrupted: bool = False
    received: Received | None = None
    silent: str = ""
    frozen: bool = False
    recomputed: bool = False
    trace: Trace | None = None

    @property
    def call(self) -> Call:
        """What went in; raises what ``Adopted.call`` raises."""
        if self.trace is not None:
            return self.trace.call
        if isinstance(self.source, tuple):
            stack, k = self.source
            return stack.call(k)
        assert self.source is not None, "a call is held until it is opened"
        return self.source.call

    @property
    def computed(self) -> int:
        """How many numbers each layer and direction computes; 0 of a call that was opened."""
        if self.source is None or isinstance(self.source, tuple):
            return 0
        return _numbers(self.source.adopted, self.source.places)

    @property
    def packs(self) -> bool:
        """Whether it may be kept in a stack, where it has no more than its numbers."""
        return self.received is None and self.joins

    @property
    def joins(self) -> bool:
        """Whether it may be opened together with others."""
        return isinstance(self.source, Held) and self.source.count <= SMALL


@dataclass(eq=False, slots=True)
class Pack:
    """Calls of which nothing but their numbers is kept, in a stack from ``first`` on; ``flags``
    hold ``cut`` and ``interrupted`` of each."""

    stack: CallStack
    module: nn.Module
    silent: str
    frozen: bool
    numbers: array[int]
    flags: bytearray
    first: int = 0

    @property
    def computed(self) -> int:
        """How many numbers each layer and direction computes; 0 where they were opened."""
        return sum(_numbers(part.adopted, part.places) for part in self.stack.parts)

    def calls(self) -> Iterator[MadeCall]:
        """One by one."""
        for k, (number, flag) in enumerate(zip(self.numbers, self.flags, strict=True)):
            yield MadeCall(
                number,
                self.module,
                (self.stack, self.first + k),
                cut=bool(flag & 1),
                interrupted=bool(flag & 2),
                silent=self.silent,
                frozen=self.frozen,
            )


def _numbers(adopted: Adopted, places: int) -> int:
    """Of a call of so many steps of sequences, in each layer and direction."""
    return places * adopted.hidden_size * len(adopted.cell.equations)


def _whole(group: list[MadeCall | Pack]) -> CallStack:
    """Calls of one form as one stack."""
    stacks: list[CallStack] = []
    alone: list[Held] = []
    for entry in group:
        if isinstance(entry, Pack):
            stacks += [CallStack.of(alone)] if alone else []
            stacks.append(entry.stack)
            alone = []
        else:
            assert isinstance(entry.source, Held), "these calls are not opened yet"
            alone.append(entry.source)
    stacks += [CallStack.of(alone)] if alone else []
    return CallStack.merged(stacks) if len(stacks) > 1 else stacks[0]


class CallStorage:
    """The calls of a layer, in order, no more than the last ``most``."""

    def __init__(self, name: str, most: int | None, opening: Opening) -> None:
        self.name, self.most = name, most
        # weakly: so the memory of a watch that is gone is free at once
        self._opening: ReferenceType[Opening] | None = ref(opening)
        self.lock = threading.RLock()
        self.dropped = 0
        self._entries: list[MadeCall | Pack] = []
        self._pending = 0  # entries from the first that is not opened on
        # calls at the end that make a pack: how many, and of what form
        self._run = 0
        self._form: tuple[Any, ...] | None = None
        self._module: nn.Module | None = None
        self._made: list[MadeCall] | None = None  # one by one, once they were asked for

    def __len__(self) -> int:
        return sum(len(e.numbers) if isinstance(e, Pack) else 1 for e in self._entries)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: every call opened."""
        calls = self.opened()
        settled = {"_opening": None, "lock": None, "_entries": calls, "_made": calls, "_pending": 0}
        return vars(self) | settled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.lock = threading.RLock()

    def append(self, made: MadeCall) -> None:
        """One more call."""
        with self.lock:
            self._append(made)

    def _append(self, made: MadeCall) -> None:
        self._made = None
        self._entries.append(made)
        self._pending += self._pending > 0 or made.trace is None
        if self.most is not None:
            if len(self._entries) > self.most:
                del self._entries[0]
                self.dropped += 1
                self._pending = min(self._pending, len(self._entries))
            return
        form = form_of(made.source) if made.packs else None  # type: ignore[arg-type]
        same = form is not None and form == self._form and made.module is self._module
        self._run = self._run + 1 if same else int(form is not None)
        self._form, self._module = form, made.module
        if self._run > PACK:
            undisturbed(self._pack)

    def _pack(self) -> None:
        """Make a stack of the calls before the last one, which the next may go on from."""
        last = self._entries.pop()
        calls: list[Any] = self._entries[-PACK:]
        del self._entries[-PACK:]
        stack = CallStack.of([made.source for made in calls])
        flags = bytearray(made.cut | made.interrupted << 1 for made in calls)
        numbers = array("q", [made.number for made in calls])
        first = calls[0]
        pack = Pack(stack, first.module, first.silent, first.frozen, numbers, flags)
        self._entries += [pack, last]
        self._pending -= PACK - 1
        self._run = 1
        self._merge()

    def _merge(self) -> None:
        """Make one pack of as many as are opened together: few large pieces of memory, and no small
        ones that nothing else fits in."""
        count = TOGETHER // PACK
        packs = [
            entry
            for entry in self._entries[-count - 1 : -1]
            if isinstance(entry, Pack) and len(entry.numbers) == PACK and entry.stack.parts
        ]
        first = packs[0] if packs else None
        if first is None or len(packs) < count:
            return
        if any(p.stack.form != first.stack.form or p.module is not first.module for p in packs):
            return
        stack = CallStack.merged([pack.stack for pack in packs])
        stack.join()
        numbers = array("q", [number for pack in packs for number in pack.numbers])
        flags = bytearray(flag for pack in packs for flag in pack.flags)
        whole = Pack(stack, first.module, first.silent, first.frozen, numbers, flags)
        self._entries[-count - 1 : -1] = [whole]
        self._pending -= count - 1

    def made(self) -> list[MadeCall]:
        """Every call, opened or not."""
        entries = tuple(self._entries)  # another thread may be adding one
        return [
            made
            for entry in entries
            for made in (entry.calls() if isinstance(entry, Pack) else (entry,))
        ]

    def opened(self) -> list[MadeCall]:
        """Every call with its trace; raises ``VerificationError`` where one cannot be proven."""
        with self.lock:
            if self._made is None:
                self.open()
                calls = self.made()
                undisturbed(self._complete_all, calls)
                self._made = calls
            return self._made

    def _complete_all(self, calls: list[MadeCall]) -> None:
        for made in calls:
            self._trace_of(made)

    @property
    def traces(self) -> list[Trace]:
        """Every call as a trace; raises as ``opened``."""
        return [self._trace_of(made) for made in self.opened()]

    @property
    def receiving(self) -> list[MadeCall]:
        """The calls of which backward() may bring something."""
        entries = tuple(self._entries)
        return [e for e in entries if isinstance(e, MadeCall) and e.received is not None]

    # opening -------------------------------------------------------------------------------

    @property
    def opening(self) -> Opening:
        """Who opens the calls."""
        opening = None if self._opening is None else self._opening()
        assert opening is not None, "it is there as long as calls are not opened"
        return opening

    def open(self) -> None:
        """Open and prove every call that was not yet; raises ``VerificationError`` where one cannot
        be proven."""
        with self.lock:
            undisturbed(self._open_pending)

    def _open_pending(self) -> None:
        pending = self._entries[len(self._entries) - self._pending :]
        with of_call(sum(entry.computed for entry in pending)):
            self._open()

    def _open(self) -> None:
        refused: list[MadeCall | Pack] = []
        while self._pending > 0:
            start = len(self._entries) - self._pending
            group = self._group(start)
            entry = self._entries[start]
            if group:
                left = self._pending - len(group)
                self._open_together(group)
                self._pending = left
            else:
                assert isinstance(entry, MadeCall), "a pack is a group by itself"
                if entry.trace is None and not self._open_alone(entry):
                    refused.append(entry)
                self._pending -= 1
        if refused:
            self._entries = [entry for entry in self._entries if entry not in refused]

    def _group(self, start: int) -> list[MadeCall | Pack]:
        """Entries from ``start`` on that are opened as one batch; none where that is one call."""
        group: list[MadeCall | Pack] = []
        form, count = None, 0
        for entry in self._entries[start:]:
            if isinstance(entry, Pack):
                entry_form, size = entry.stack.form, entry.stack.count
            elif entry.trace is None and entry.joins:
                entry_form, size = form_of(entry.source), 1  # type: ignore[arg-type]
            else:
                break
            if group and (entry_form != form or count + size > TOGETHER):
                break
            group.append(entry)
            form, count = entry_form, count + size
        packed = any(isinstance(entry, Pack) for entry in group)
        return group if packed or count >= FEW else []

    def _open_together(self, group: list[MadeCall | Pack]) -> None:
        """Open calls as one batch; one by one where the proof of all is not that of each."""
        whole = _whole(group)
        try:
            opened = self.opening.opened(whole.held.captured())
        except VerificationError:
            opened = None
        if opened is None or any(proof.loose for proof in opened.proofs.values()):
            self._open_one_by_one(whole, group)
            return
        whole.settle(opened)
        k = 0
        for entry in group:
            if isinstance(entry, Pack):
                entry.stack, entry.first = whole, k
                k += len(entry.numbers)
            else:
                entry.source = whole, k
                k += 1

    def _open_one_by_one(self, whole: CallStack, group: list[MadeCall | Pack]) -> None:
        calls = [
            made
            for entry in group
            for made in (entry.calls() if isinstance(entry, Pack) else (entry,))
        ]
        for k, made in enumerate(calls):
            made.source = whole.one(k)
        start = next(k for k, entry in enumerate(self._entries) if entry is group[0])
        self._entries[start : start + len(group)] = calls
        self._pending += len(calls) - len(group)
        for made in calls:
            self._open_alone(made)
            self._pending -= 1

    def _open_alone(self, made: MadeCall) -> bool:
        """Whether a call could be opened; its refusal is told."""
        source = made.source
        assert isinstance(source, Held | Captured), "this call is not opened yet"
        try:
            captured = source.captured() if isinstance(source, Held) else source
            made.trace = self.opening.opened(captured)
        except VerificationError as error:
            whose = f"{self.name!r}, call" if self.name else "call"
            raise VerificationError(f"{whose} {made.number}: {error}") from error
        except (RefusedError, ShapeError, DtypeError) as error:
            self.opening.refused(self.name, made, str(error))
            return False
        self._complete(made)
        return True

    def _trace_of(self, made: MadeCall) -> Trace:
        """The trace of an opened call."""
        if made.trace is None:
            assert isinstance(made.source, tuple), "every call is opened"
            stack, k = made.source
            made.trace = stack.trace(k)
            self._complete(made)
        return made.trace

    def _complete(self, made: MadeCall) -> None:
        made.source = None
        assert made.trace is not None, "it was opened"
        self.opening.completed(made.trace, made)
