"""The names that a call is recorded under, and what to write instead of those that it is not."""

from __future__ import annotations

from collections.abc import Container, Iterable

from rnnscope.cells import Cell, quantity_names
from rnnscope.errors import AddressError

__all__ = ["absent_names", "recorded_names"]


def recorded_names(cell: Cell, record: str | Iterable[str]) -> frozenset[str]:
    """What ``record`` asks for, as names; raises ``AddressError`` for an unknown one."""
    if record == "gates":
        return frozenset(cell.quantities)
    if record == "all":
        return frozenset(quantity_names(cell))
    names = frozenset([record] if isinstance(record, str) else record)
    recordable = quantity_names(cell)
    unknown = sorted(map(str, names.difference(recordable)))
    if unknown:
        raise AddressError(
            f'record must be "gates", "all" or names of {cell.name}: {", ".join(recordable)}; '
            f"got {', '.join(unknown)}"
        )
    return names.union(cell.states)


def absent_names(cell: Cell, recorded: Container[str]) -> dict[str, str]:
    """Names that a person may try, and what to write instead."""
    hints = {
        name: f'{name} is not recorded here; trace(..., record="all") or record=[..., "{name}"]'
        for name in quantity_names(cell)
        if name not in recorded
    }
    for state in cell.states:
        hints[f"{state}_n"] = (
            f"{state}_n is no quantity of every step: write tr.{state}_n for what the layer "
            f'returned, or tr.sel("{state}", time="last")'
        )
        hints[f"{state}_0"] = f"{state}_0 is no quantity of every step: write tr.{state}_0"
        hints[f"{state}_prev"] = (
            f"{state} of the step before is {state} at time - 1; "
            f'tr.before("{state}", layer, direction) gives it for all steps'
        )
    hints["output"] = 'output is what the layer returned: write tr.output, or tr["h"]'
    return hints
