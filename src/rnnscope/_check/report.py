"""What a check of a machine came to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import indent
from typing import Any

__all__ = ["Failure", "KernelReport", "MachineReport"]


@dataclass(frozen=True)
class Failure:
    """One layer that does not compute its equations, and the verdict on it."""

    configuration: str
    text: str


@dataclass(frozen=True)
class KernelReport:
    """How one kernel fared: ``count`` layers that were checked, the largest deviation relative to
    what rounding allows it, ``failures``, and ``refused``, each with the device's own reason."""

    title: str
    count: int
    largest: float
    failures: tuple[Failure, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether all is right, and nothing was refused."""
        return not self.failures and not self.refused and self.count > 0

    def line(self, width: int) -> str:
        """One line, titles as wide as the widest."""
        right = self.count - len(self.failures)
        if not self.count:
            outcome = "not checked"
        elif self.failures:
            outcome = f"WRONG: {len(self.failures)} of {self.count} layers differ"
        else:
            outcome = f"{right} layers agree; at most {self.largest:.2f} of what rounding allows"
        refused = f"; {len(self.refused)} refused" if self.refused else ""
        return f"{self.title:<{width}}  {outcome}{refused}"


@dataclass(frozen=True)
class MachineReport:
    """What ``check`` found: true where every kernel computes its equations, forward and backward;
    ``str`` has a line per kernel, then every difference."""

    device: str
    dtype: str
    torch: str
    kernels: tuple[KernelReport, ...]

    def __bool__(self) -> bool:
        return all(kernel.agrees for kernel in self.kernels)

    @property
    def agrees(self) -> bool:
        """Whether every kernel computes its equations."""
        return bool(self)

    def __str__(self) -> str:
        width = max((len(kernel.title) for kernel in self.kernels), default=0)
        head = f"{self.device}, {self.dtype}, torch {self.torch}: layers against their equations"
        lines = [head, "", *(f"  {kernel.line(width)}" for kernel in self.kernels), ""]
        for kernel in self.kernels:
            for failure in kernel.failures:
                lines += [f"{kernel.title}: {failure.configuration}"]
                lines += [indent(failure.text.rstrip(), "  "), ""]
            lines += [f"{kernel.title}: {reason}" for reason in kernel.refused]
        count = sum(kernel.count for kernel in self.kernels)
        wrong = sum(len(kernel.failures) for kernel in self.kernels)
        missing = [kernel.title for kernel in self.kernels if not kernel.count]
        refused = sum(len(kernel.refused) for kernel in self.kernels)
        last = f"{wrong} of {count} layers differ" if wrong else f"All {count} layers agree"
        last += f"; {refused} more were refused." if refused else "."
        if missing:
            last += f" Not checked: {'; '.join(missing)}."
        return "\n".join([*lines, last])

    def __repr__(self) -> str:
        return str(self)

    def markdown(self) -> str:
        """The text as a block that keeps its columns."""
        return f"```\n{self}\n```\n"

    def data(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "agrees": self.agrees,
            "device": self.device,
            "dtype": self.dtype,
            "torch": self.torch,
            "kernels": [_kernel_data(kernel) for kernel in self.kernels],
        }

    to_dict = data


def _kernel_data(kernel: KernelReport) -> dict[str, Any]:
    return {
        "kernel": kernel.title,
        "agrees": kernel.agrees,
        "layers": kernel.count,
        "largest": kernel.largest,
        "failures": _failures(kernel.failures),
        "refused": list(kernel.refused),
    }


def _failures(failures: Iterable[Failure]) -> list[dict[str, str]]:
    return [{"layer": failure.configuration, "verdict": failure.text} for failure in failures]
