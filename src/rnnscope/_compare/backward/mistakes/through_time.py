"""Mistakes in what goes from step to step: states, truncation, what enters from outside."""

from __future__ import annotations

from collections.abc import Iterator

from rnnscope._compare.backward.mistakes.entry import (
    BackwardMistake,
    ReverseSetting,
    outer_leaves,
    uses,
)
from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.words import declared
from rnnscope.cells import Cell
from rnnscope.cells.algebra import FromH, Previous

__all__ = ["THROUGH_TIME"]


LONG = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 25, 30, 32, 35, 40, 50, 64, 100, 128)
"""After how many steps a backward pass is truncated, as people write it."""


def _states(setting: ReverseSetting) -> Iterator[str]:
    cell = setting.cell
    yield from cell.states
    direct = any(Previous("h") in outer_leaves(equation) for equation in cell.equations.values())
    if direct and cell.gates_from_h and not _composite(cell):
        yield from ("W_hh", "direct h")


def _composite(cell: Cell) -> bool:
    return any(isinstance(e, FromH) and e.of != Previous("h") for _, e in uses(cell, FromH))


def _through_state(setting: ReverseSetting, choice: str) -> Slots:
    state = choice.removeprefix("direct ")
    slots: dict[tuple[object, ...], object] = {}
    if choice in ("h", "W_hh"):
        slots[("hh",)] = "cut"
    if choice != "W_hh":
        for name, leaf in uses(setting.cell, Previous):
            if leaf == Previous(state):
                slots[("edge", name, leaf)] = "cut"
    return slots


def _state_facts(setting: ReverseSetting, choice: str) -> dict[str, object]:
    back = "dh_prev = da @ W_hh" if choice == "h" else f"d{choice}_prev = d{choice} * f"
    more = " + dh * z" if choice == "h" and "z" in setting.cell.equations else ""
    return {"line": back + more}


def _truncations(setting: ReverseSetting) -> Iterator[str]:
    for k in LONG:
        if k < setting.steps:
            yield from (f"every {k}", f"last {k}")


def _truncated(setting: ReverseSetting, choice: str) -> Slots:
    kind, _, count = choice.partition(" ")
    return {("truncated",): (kind, int(count))}


def _truncated_facts(setting: ReverseSetting, choice: str) -> dict[str, object]:
    kind, _, count = choice.partition(" ")
    steps = f"{count} step{'s' * (count != '1')}"
    extent = f"cut after every {steps}" if kind == "every" else f"stopped after the last {steps}"
    return {"extent": extent}


def _finals(setting: ReverseSetting) -> Iterator[str]:
    yield from setting.cell.states
    if len(setting.cell.states) > 1:
        yield "all"


def _chosen_states(setting: ReverseSetting, choice: str) -> tuple[str, ...]:
    return setting.cell.states if choice == "all" else (choice,)


def _final_facts(setting: ReverseSetting, choice: str) -> dict[str, object]:
    names = _chosen_states(setting, choice)
    return {
        "finals": " and ".join(f"{name}_n" for name in names),
        "initial": " and ".join(f"{name}_0" for name in names),
        "lines": "; ".join(f"d{name}_next = grad_{name}_n" for name in names),
    }


THROUGH_TIME = declared(
    """
    through_state W_hh
        no gradient through W_hh to h_(t-1)
        the gates of {kind} read h_(t-1), so their gradients go back to it.
        dh_prev = dh_prev + da @ W_hh
    through_state direct h
        no gradient straight from h_t to h_(t-1)
        h_t of {kind} holds a share of h_(t-1), so dL/dh_t goes back to it too.
        dh_prev = dh_prev + dh * z
    through_state *
        no gradient through {choice}_(t-1)
        {choice} is carried from step to step, and its gradient goes back the same way; here no \
        step hands it to the one before.
        {line}
    truncated
        truncated: the gradient is {extent}
        it goes back through every step to the initial state.
        for t in reversed(range(T)):   # and no detach() of the state between steps
    w_hh_transposed
        W_hh is transposed on the way back
        forward h_(t-1) is multiplied by the transpose of W_hh, backward by W_hh itself.
        dh_prev = da @ W_hh   # not da @ W_hh.T
    direct_part 0
        the direct part of dL/dh_t is missing
        only what later steps hand back is used; every h_t is returned and gets the loss's own \
        gradient once, beside what step t+1 hands back.
        dh = dh_next + grad_output[t]
    direct_part 2
        the direct part of dL/dh_t is counted twice
        it is added two times; every h_t is returned and gets the loss's own gradient once, beside \
        what step t+1 hands back.
        dh = dh_next + grad_output[t]
    direct_part last
        only the last step gets dL/doutput
        what reaches the other steps is left out; every h_t is returned and gets the loss's own \
        gradient once, beside what step t+1 hands back.
        dh = dh_next + grad_output[t]
    final_ignored
        the gradient of {finals} is not used
        what reaches {finals} straight from the loss is where the pass starts.
        {lines}
    initial_zero
        the gradient of {initial} is zero
        it is what the first step hands back.
        return {initial}'s gradient: what is carried after the loop
    """,
    BackwardMistake("through_state", _through_state, _states, facts=_state_facts),
    BackwardMistake("truncated", _truncated, _truncations, facts=_truncated_facts),
    BackwardMistake(
        "w_hh_transposed",
        lambda setting, choice: {("hh",): "transposed"},
        ReverseSetting.where_square,
    ),
    BackwardMistake("direct_part", "direct"),
    BackwardMistake(
        "final_ignored",
        lambda s, choice: {("final", n): "cut" for n in _chosen_states(s, choice)},
        _finals,
    ),
    BackwardMistake(
        "initial_zero",
        lambda s, choice: {("initial", n): "zero" for n in _chosen_states(s, choice)},
        _finals,
    ),
    facts=_final_facts,
)
"""Mistakes from step to step."""
