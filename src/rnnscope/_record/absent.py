"""What an object cannot do, told with the line that does it."""

from __future__ import annotations

from collections.abc import Mapping

from rnnscope._escaping import printable

__all__ = ["OF_A_TRACE", "absent_attribute"]

OF_A_TRACE = {
    "explain": "tr.explain(name, ...) explains a number of the trace",
    "shapes": "tr.shapes() tells what each slice of the output is",
    "view": "tr.view(path) makes a page of the trace",
    "rerun": "tr.rerun(rs.Edit(...)) runs the trace again",
    "difference": "edited.difference(tr) subtracts two traces",
    "gradients": "tr.gradients(loss) gives the gradients of the trace",
    "grad": "seen[name].grad gives what backward() brought to a call",
    "jacobian": "tr.jacobian(of, to) differentiates the trace's states",
    "flow": "tr.flow() tells how far a change arrives",
    "memory": "tr.memory() tells what a state holds of each step",
    "output": "tr.output is what the layer returned",
    "h_n": "tr.h_n is what the layer returned",
    "c_n": "tr.c_n is what the layer returned",
    "h_0": "tr.h_0 is the initial state",
    "c_0": "tr.c_0 is the initial state",
    "weights": "tr.parameters holds the weights of the call",
    "parameters": "tr.parameters holds the weights of the call",
    "before": "tr.before(state, layer, direction) is the state before each step",
    "proof": "tr.proof tells what was compared",
    "deviation": "tr.deviation is the largest deviation from the layer",
    "tolerance": "tr.tolerance is what rounding allows",
    "labels": "tr.labels are the names of the steps",
    "save": "tr.save(path) writes the trace",
}
"""What is asked of a trace alone, and how."""


def absent_attribute(owner: str, name: str, lines: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that is not there; ``lines`` say where what is asked for is."""
    line = "" if name.startswith("_") else lines.get(name, "")
    text = f"{owner!r} object has no attribute {printable(name)!r}"
    return AttributeError(f"{text}: {line}" if line else text)
