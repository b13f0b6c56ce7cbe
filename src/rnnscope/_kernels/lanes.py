"""Vectors of numbers, written as LLVM's assembly: what kernels are made of.

``Source`` is a function that is being written; ``Lanes`` are some numbers in it, side by side, with
Python's operators. The functions of ``cells.functions`` are written in these, so that a kernel
derives from the declared equations. A vector has 16 numbers of float32 or 8 of float64; a processor
with narrower registers takes several.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rnnscope._kernels import smooth

__all__ = ["Lanes", "Mask", "Source", "LaneTable", "Variable", "Whole", "module"]

BYTES = 64
"""Of a vector: two registers of AVX2, so that one works while the other waits for its numbers."""
ALIGNED = BYTES
"""Bytes at whose multiples a vector of the function's own stands: its size, which an instruction
of AVX-512 takes for granted."""


@dataclass(frozen=True)
class Whole:
    """A whole number, such as a size or an address."""

    source: Source
    name: str

    def _of(self, operation: str, operand: Whole | int) -> Whole:
        name = operand.name if isinstance(operand, Whole) else str(operand)
        return self.source.whole(f"{operation} i64 {self.name}, {name}")

    def __add__(self, operand: Whole | int) -> Whole:
        return self._of("add", operand)

    def __sub__(self, operand: Whole | int) -> Whole:
        return self._of("sub", operand)

    def __mul__(self, operand: Whole | int) -> Whole:
        return self._of("mul", operand)

    def divided(self, operand: Whole | int) -> Whole:
        """Rounded down; both are positive."""
        return self._of("udiv", operand)

    def remainder(self, operand: Whole | int) -> Whole:
        """What a division leaves; both are positive."""
        return self._of("urem", operand)

    def compared(self, relation: str, operand: Whole | int) -> str:
        """The name of a truth, as ``Source.choice`` takes it; ``relation`` as in slt, eq."""
        name = operand.name if isinstance(operand, Whole) else str(operand)
        return self.source.new(f"icmp {relation} i64 {self.name}, {name}")

    def smaller(self, operand: Whole | int) -> Whole:
        """The smaller of two."""
        return self.source.choice(self.compared("slt", operand), self, operand)


@dataclass(frozen=True)
class Mask:
    """A truth in each lane."""

    source: Source
    name: str


@dataclass(frozen=True)
class Lanes:
    """Numbers side by side."""

    source: Source
    name: str

    def _of(self, operation: str, operand: Lanes | float, swapped: bool = False) -> Lanes:
        left, right = self.name, self.source.lanes(operand).name
        if swapped:
            left, right = right, left
        return self.source.vector(f"{operation} {self.source.type} {left}, {right}")

    def __add__(self, operand: Lanes | float) -> Lanes:
        return self._of("fadd", operand)

    def __radd__(self, operand: float) -> Lanes:
        return self._of("fadd", operand)

    def __sub__(self, operand: Lanes | float) -> Lanes:
        return self._of("fsub", operand)

    def __rsub__(self, operand: float) -> Lanes:
        return self._of("fsub", operand, swapped=True)

    def __mul__(self, operand: Lanes | float) -> Lanes:
        return self._of("fmul", operand)

    def __rmul__(self, operand: float) -> Lanes:
        return self._of("fmul", operand)

    def __truediv__(self, operand: Lanes | float) -> Lanes:
        return self._of("fdiv", operand)

    def __rtruediv__(self, operand: float) -> Lanes:
        return self._of("fdiv", operand, swapped=True)

    def __neg__(self) -> Lanes:
        return self.source.vector(f"fneg {self.source.type} {self.name}")

    def __abs__(self) -> Lanes:
        return self.source.intrinsic("fabs", self)

    def times_plus(self, factor: Lanes | float, addend: Lanes | float) -> Lanes:
        """Self × factor + addend, rounded once."""
        return self.source.intrinsic("fma", self, self.source.lanes(factor), addend)

    def below(self, operand: Lanes | float) -> Mask:
        """Where a number is smaller; of NaN False."""
        return self._compared("olt", operand)

    def above(self, operand: Lanes | float) -> Mask:
        """Where a number is larger; of NaN False."""
        return self._compared("ogt", operand)

    def at_most(self, operand: Lanes | float) -> Mask:
        """Where a number is not larger; of NaN False."""
        return self._compared("ole", operand)

    def _compared(self, relation: str, operand: Lanes | float) -> Mask:
        source = self.source
        other = source.lanes(operand).name
        return Mask(source, source.new(f"fcmp {relation} {source.type} {self.name}, {other}"))

    def where(self, mask: Mask, otherwise: Lanes | float) -> Lanes:
        """This where a mask is True, else the other."""
        source, other = self.source, self.source.lanes(otherwise).name
        kind = f"<{source.width} x i1>"
        return source.vector(
            f"select {kind} {mask.name}, {source.type} {self.name}, {source.type} {other}"
        )

    def at_least(self, operand: Lanes | float) -> Mask:
        """Where a number is not smaller; of NaN False."""
        return self._compared("oge", operand)

    def unless(self, mask: Mask, otherwise: Lanes | float) -> Lanes:
        """The other where a mask is True, else this."""
        return self.source.lanes(otherwise).where(mask, self)

    def filled(self, value: float) -> Lanes:
        """A number in every lane."""
        return self.source.lanes(value)

    def tangent(self) -> Lanes:
        """Tanh."""
        return smooth.tangent(self)

    def logistic(self) -> Lanes:
        """1 / (1 + exp(-x))."""
        return smooth.logistic(self)

    def clamped(self, low: float, high: float) -> Lanes:
        """Cut to what lies between; NaN stays."""
        raised = self.source.lanes(low).where(self.below(low), self)
        return self.source.lanes(high).where(raised.above(high), raised)

    def with_sign_of(self, operand: Lanes) -> Lanes:
        """The magnitude of this, with the sign of another."""
        return self.source.intrinsic("copysign", self, operand)

    @property
    def bits(self) -> str:
        """The name of the numbers' bits, as whole numbers of their size."""
        source = self.source
        return source.new(f"bitcast {source.type} {self.name} to {source.bits_type}")


class Source:
    """A function of LLVM's assembly that is being written; ``parameters`` are addresses and sizes.

    ``element`` is "float" or "double".
    """

    def __init__(self, name: str, element: str, parameters: Sequence[str] = ("ptr %args",)) -> None:
        self.name, self.element, self.parameters = name, element, parameters
        self.bytes = 4 if element == "float" else 8
        self.width = BYTES // self.bytes
        self.type = f"<{self.width} x {element}>"
        self.bits_type = f"<{self.width} x i{8 * self.bytes}>"
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.declared: set[str] = set()
        self.count = 0

    # lines -------------------------------------------------------------------------------

    def new(self, expression: str) -> str:
        """A line that names what an expression gives."""
        self.count += 1
        self.lines.append(f"%v{self.count} = {expression}")
        return f"%v{self.count}"

    def line(self, text: str) -> None:
        """A line that gives nothing."""
        self.lines.append(text)

    def whole(self, expression: str) -> Whole:
        """A whole number."""
        return Whole(self, self.new(expression))

    def vector(self, expression: str) -> Lanes:
        """Numbers side by side."""
        return Lanes(self, self.new(expression))

    def argument(self, place: int) -> Whole:
        """What stands at a place of the arguments, read once, at the beginning."""
        name = f"%a{place}"
        if not any(line.startswith(f"{name} =") for line in self.entry):
            self.entry.append(f"{name}p = getelementptr i64, ptr %args, i64 {place}")
            self.entry.append(f"{name} = load i64, ptr {name}p")
        return Whole(self, name)

    def constant(self, value: float) -> str:
        """A number as LLVM writes it, exactly."""
        if self.bytes == 4:
            (value,) = struct.unpack("f", struct.pack("f", value))
        return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"

    def lanes(self, value: Lanes | float) -> Lanes:
        """A number in every lane."""
        if isinstance(value, Lanes):
            return value
        return Lanes(self, self._splat(self.element, self.constant(value)))

    def _splat(self, kind: str, value: str) -> str:
        return "<" + ", ".join([f"{kind} {value}"] * self.width) + ">"

    def bit_constant(self, value: int) -> str:
        """A whole number of the numbers' size in every lane."""
        return self._splat(f"i{8 * self.bytes}", str(value))

    def of_bits(self, name: str) -> Lanes:
        """The numbers that bits mean."""
        return self.vector(f"bitcast {self.bits_type} {name} to {self.type}")

    def intrinsic(self, operation: str, *operands: Lanes | float) -> Lanes:
        """An operation of LLVM's own on vectors."""
        suffix = f"v{self.width}f{8 * self.bytes}"
        kinds = ", ".join([self.type] * len(operands))
        self.declared.add(f"declare {self.type} @llvm.{operation}.{suffix}({kinds})")
        given = ", ".join(f"{self.type} {self.lanes(operand).name}" for operand in operands)
        return self.vector(f"call {self.type} @llvm.{operation}.{suffix}({given})")

    # memory --------------------------------------------------------------------------------

    def address(self, base: Whole, index: Whole) -> str:
        """The place of a number in an array."""
        pointer = self.new(f"inttoptr i64 {base.name} to ptr")
        return self.new(f"getelementptr {self.element}, ptr {pointer}, i64 {index.name}")

    def load(self, base: Whole, index: Whole, mask: Mask | None = None) -> Lanes:
        """Neighbouring numbers of an array; where a mask is False, zeros, and nothing is read."""
        place = self.address(base, index)
        if mask is None:
            return self.vector(f"load {self.type}, ptr {place}, align {self.bytes}")
        suffix = f"v{self.width}f{8 * self.bytes}.p0"
        truths = f"<{self.width} x i1>"
        self.declared.add(
            f"declare {self.type} @llvm.masked.load.{suffix}(ptr, i32, {truths}, {self.type})"
        )
        return self.vector(
            f"call {self.type} @llvm.masked.load.{suffix}(ptr {place}, i32 {self.bytes}, "
            f"{truths} {mask.name}, {self.type} zeroinitializer)"
        )

    def store(self, base: Whole, index: Whole, value: Lanes, mask: Mask | None = None) -> None:
        """Write neighbouring numbers of an array; where a mask is False, nothing."""
        place = self.address(base, index)
        if mask is None:
            self.line(f"store {self.type} {value.name}, ptr {place}, align {self.bytes}")
            return
        suffix = f"v{self.width}f{8 * self.bytes}.p0"
        truths = f"<{self.width} x i1>"
        self.declared.add(
            f"declare void @llvm.masked.store.{suffix}({self.type}, ptr, i32, {truths})"
        )
        self.line(
            f"call void @llvm.masked.store.{suffix}({self.type} {value.name}, ptr {place}, "
            f"i32 {self.bytes}, {truths} {mask.name})"
        )

    def broadcast(self, base: Whole, index: Whole) -> Lanes:
        """One number of an array in every lane."""
        return self.spread(self.new(f"load {self.element}, ptr {self.address(base, index)}"))

    def spread(self, number: str) -> Lanes:
        """A single number in every lane."""
        single = self.new(f"insertelement {self.type} poison, {self.element} {number}, i32 0")
        return self.vector(
            f"shufflevector {self.type} {single}, {self.type} poison, "
            f"<{self.width} x i32> zeroinitializer"
        )

    def store_single(self, base: Whole, index: Whole, number: str) -> None:
        """Write a single number."""
        self.line(f"store {self.element} {number}, ptr {self.address(base, index)}")

    def load_whole(self, base: Whole, index: Whole) -> Whole:
        """A whole number of an array."""
        pointer = self.new(f"inttoptr i64 {base.name} to ptr")
        place = self.new(f"getelementptr i64, ptr {pointer}, i64 {index.name}")
        return self.whole(f"load i64, ptr {place}")

    # what keeps a value over a loop --------------------------------------------------------

    def variable(self, value: Lanes) -> Variable:
        """Numbers that change."""
        self.count += 1
        name = f"%w{self.count}"
        self.entry.append(f"{name} = alloca {self.type}, align {ALIGNED}")
        variable = Variable(self, name)
        variable.set(value)
        return variable

    def choice(self, truth: str, left: Whole, right: Whole | int) -> Whole:
        """One of two whole numbers."""
        name = right.name if isinstance(right, Whole) else str(right)
        return self.whole(f"select i1 {truth}, i64 {left.name}, i64 {name}")

    def number(self, value: int) -> Whole:
        """A whole number that stands in the source."""
        return Whole(self, str(value))

    @contextmanager
    def loop(self, start: Whole | int, stop: Whole, step: int = 1) -> Iterator[Whole]:
        """A loop over start, start + step, … below stop."""
        self.count += 1
        k = self.count
        first = start.name if isinstance(start, Whole) else str(start)
        self.entry.append(f"%i{k} = alloca i64")
        self.line(f"store i64 {first}, ptr %i{k}")
        self.line(f"br label %head{k}")
        self.line(f"head{k}:")
        index = self.whole(f"load i64, ptr %i{k}")
        self.line(f"br i1 {index.compared('slt', stop)}, label %body{k}, label %end{k}")
        self.line(f"body{k}:")
        yield index
        self.line(f"store i64 {(index + step).name}, ptr %i{k}")
        self.line(f"br label %head{k}")
        self.line(f"end{k}:")

    @contextmanager
    def only_if(self, truth: str) -> Iterator[None]:
        """What is done only where a truth holds."""
        self.count += 1
        k = self.count
        self.line(f"br i1 {truth}, label %then{k}, label %else{k}")
        self.line(f"then{k}:")
        yield
        self.line(f"br label %else{k}")
        self.line(f"else{k}:")

    @contextmanager
    def pieces(self, count: Whole) -> Iterator[Whole]:
        """Pieces of work, each taken by one of the threads that run this function: the first
        argument counts those that are taken."""
        self.count += 1
        k = self.count
        self.line(f"br label %next{k}")
        self.line(f"next{k}:")
        piece = self.whole("atomicrmw add ptr %args, i64 1 monotonic")
        self.line(f"br i1 {piece.compared('slt', count)}, label %work{k}, label %done{k}")
        self.line(f"work{k}:")
        yield piece
        self.line(f"br label %next{k}")
        self.line(f"done{k}:")

    def over_units(self, units: Whole, write: Callable[[Whole, bool], None]) -> None:
        """A loop over units, a vector at a time; ``write`` is told where some lanes are none."""
        whole = units.divided(self.width) * self.width
        with self.loop(0, whole, self.width) as unit:
            write(unit, False)
        with self.only_if(whole.compared("slt", units)):
            write(whole, True)

    def table(self, name: str, kind: str, length: int) -> LaneTable:
        """Memory of the function's own."""
        self.entry.append(f"%t_{name} = alloca {kind}, i64 {length}, align {ALIGNED}")
        return LaneTable(self, f"%t_{name}", kind)

    def whole_of(self, name: str) -> Whole:
        """A whole number by its name."""
        return Whole(self, name)

    def lanes_of(self, name: str) -> Lanes:
        """Numbers by their name."""
        return Lanes(self, name)

    def everywhere(self, truth: str) -> Mask:
        """A truth in every lane."""
        kind = f"<{self.width} x i1>"
        single = self.new(f"insertelement {kind} poison, i1 {truth}, i32 0")
        return Mask(
            self,
            self.new(
                f"shufflevector {kind} {single}, {kind} poison, "
                f"<{self.width} x i32> zeroinitializer"
            ),
        )

    def root(self, number: str) -> str:
        """The square root of a single number."""
        suffix = f"f{8 * self.bytes}"
        self.declared.add(f"declare {self.element} @llvm.sqrt.{suffix}({self.element})")
        return self.new(f"call {self.element} @llvm.sqrt.{suffix}({self.element} {number})")

    def first_lanes(self, count: Whole) -> Mask:
        """True in so many lanes."""
        kind = f"<{self.width} x i64>"
        single = self.new(f"insertelement {kind} poison, i64 {count.name}, i32 0")
        limit = self.new(
            f"shufflevector {kind} {single}, {kind} poison, <{self.width} x i32> zeroinitializer"
        )
        lanes = ", ".join(f"i64 {k}" for k in range(self.width))
        return Mask(self, self.new(f"icmp sgt {kind} {limit}, <{lanes}>"))

    # over the lanes ------------------------------------------------------------------------

    def total(self, value: Lanes) -> str:
        """The name of the sum over the lanes."""
        suffix = f"v{self.width}f{8 * self.bytes}"
        self.declared.add(
            f"declare {self.element} @llvm.vector.reduce.fadd.{suffix}({self.element}, {self.type})"
        )
        return self.new(
            f"call reassoc {self.element} @llvm.vector.reduce.fadd.{suffix}"
            f"({self.element} {self.constant(0.0)}, {self.type} {value.name})"
        )

    def largest(self, sizes: Lanes) -> str:
        """The name of the largest of magnitudes, as a number; NaN where there is one."""
        kind = f"i{8 * self.bytes}"
        suffix = f"v{self.width}{kind}"
        self.declared.add(f"declare {kind} @llvm.vector.reduce.umax.{suffix}({self.bits_type})")
        bits = self.new(
            f"call {kind} @llvm.vector.reduce.umax.{suffix}({self.bits_type} {sizes.bits})"
        )
        return self.new(f"bitcast {kind} {bits} to {self.element}")

    def larger(self, left: Lanes, right: Lanes) -> Lanes:
        """The larger of two magnitudes in each lane; NaN where there is one.

        Compared as whole numbers, which have the order of the magnitudes, with NaN at the end.
        """
        kind, suffix = self.bits_type, f"v{self.width}i{8 * self.bytes}"
        self.declared.add(f"declare {kind} @llvm.umax.{suffix}({kind}, {kind})")
        return self.of_bits(
            self.new(f"call {kind} @llvm.umax.{suffix}({kind} {left.bits}, {kind} {right.bits})")
        )

    # the whole -----------------------------------------------------------------------------

    def text(self, linkage: str = "") -> str:
        """The function in LLVM's assembly."""
        body = "\n  ".join([*self.entry, *self.lines, "ret void"])
        head = f"define {linkage} void @{self.name}({', '.join(self.parameters)})"
        return f"{head} {'noinline' if linkage else ''} {{\nentry:\n  {body}\n}}"


def own(access: str) -> str:
    """A load or a store of a vector that stands in a function's own memory."""
    return f"{access}, align {ALIGNED}"


def module(entry: Source, internal: Sequence[Source]) -> str:
    """A function and those that it calls, as a module."""
    functions = [entry, *internal]
    declared = sorted(set[str]().union(*(function.declared for function in functions)))
    texts = [entry.text(), *(function.text("internal") for function in internal)]
    return "\n".join([*declared, *texts])


@dataclass(frozen=True)
class Variable:
    """Numbers that change, such as a sum."""

    source: Source
    name: str

    def get(self) -> Lanes:
        """What they are."""
        return self.source.vector(own(f"load {self.source.type}, ptr {self.name}"))

    def set(self, value: Lanes) -> None:
        """What they become."""
        self.source.line(own(f"store {self.source.type} {value.name}, ptr {self.name}"))


@dataclass(frozen=True)
class LaneTable:
    """Memory of a function's own, by index."""

    source: Source
    name: str
    kind: str

    def place(self, index: Whole) -> str:
        """The name of an address."""
        return self.source.new(f"getelementptr {self.kind}, ptr {self.name}, i64 {index.name}")

    def get(self, index: Whole) -> str:
        """The name of what stands there."""
        return self.source.new(f"load {self.kind}, ptr {self.place(index)}")

    def set(self, index: Whole, value: str) -> None:
        """Write there."""
        self.source.line(f"store {self.kind} {value}, ptr {self.place(index)}")
