"""What to do about numbers that cannot be read, by their shapes, their types and their files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rnnscope._compare.model.model import Inputs
from rnnscope._layers.structure import Structure

__all__ = ["on_file", "on_state", "on_steps", "on_unequal_lists"]

LISTED = 8
"""Lengths that are listed."""

CONVERSIONS = {
    ".csv": 'np.save("{0}.npy", np.loadtxt("{1}", delimiter=","))',
    ".txt": 'np.save("{0}.npy", np.loadtxt("{1}"))',
    ".json": 'np.save("{0}.npy", np.array(json.load(open("{1}"))))',
    ".safetensors": 'np.savez("{0}.npz", **safetensors.numpy.load_file("{1}"))',
    ".pt": 'np.savez("{0}.npz", output=torch.load("{1}").numpy())',
}
CONVERSIONS[".pth"] = CONVERSIONS[".pt"]


def on_steps(
    got: tuple[int, ...], widths: Collection[int], structure: Structure, inputs: Inputs
) -> str:
    """A sentence on an output of other steps than x has; empty where something else is wrong with
    its shape."""
    steps, batch = inputs.steps, inputs.batch
    if len(got) < 2 or got[-1] not in widths:
        return ""
    if got[:-1] in {(batch,), (1, batch), (batch, 1)}:
        return (
            f"That is one step of {steps}, the last one, maybe: return the output of every step "
            f"(in Keras, return_sequences=True), or record it as a final state, by name: h_n."
        )
    if len(got) != 3 or batch not in got[:2]:
        return ""
    axis = 1 if got[0] == batch and (structure.batch_first or got[1] != batch) else 0
    count, part = got[axis], "[:, {0}]" if axis else "[{0}]"
    if count == steps + 1:
        return (
            f"That is one step more than the {steps} of x, the initial state before the first, "
            f"maybe: leave it out, output{part.format('1:')}."
        )
    if 1 < count < steps:
        return (
            f"That is {count} steps of {steps}: return the output of every step, or compare with "
            f"x of these steps alone and, where they are not the first, the states before as "
            f"initial."
        )
    return ""


def on_state(name: str, got: tuple[int, ...], structure: Structure, batch: int) -> str:
    """A sentence on a final state in a shape that is not known; empty of any that says nothing."""
    directions, size = len(structure.directions), structure.state_size(name)
    rows = structure.num_layers * directions
    if rows > 1 and got in {(batch, rows * size), (1, batch, rows * size)}:
        which = "both directions" if structure.num_layers == 1 else "all layers and directions"
        leading = f"{name}_n[0]" if len(got) == 3 else f"{name}_n"
        return (
            f". That is {which} side by side, maybe: np.stack(np.split({leading}, {rows}, -1)), "
            f"forward first"
        )
    if rows > 1 and got in {(batch, size), (1, batch, size)}:
        return f". That is one of {rows}, layer by layer and direction by direction: stack all"
    return ""


def on_unequal_lists(value: Sequence[Any]) -> str:
    """A sentence on lists in lists of unequal lengths; empty where they have one length."""
    level: list[Any] = list(value)
    first = True
    while level and all(isinstance(item, list | tuple) for item in level):
        lengths = [len(item) for item in level]
        if len(set(lengths)) > 1:
            listed = ", ".join(map(str, lengths[:LISTED])) + ", …" * (len(lengths) > LISTED)
            as_lengths = f", and give the steps of each sequence: lengths=[{listed}]"
            return (
                f"they are of unequal lengths, {listed}. Pad them with zeros to one length"
                f"{as_lengths if first else ''}."
            )
        level, first = [item for items in level for item in items], False
    return ""


def on_file(path: Path) -> str:
    """What was expected of a file whose kind is not read, and how to make one."""
    name, ending = str(path), path.suffix.lower()
    if "\n" in name or (ending and not ending[1:].isalnum()):
        return (
            f"a text is read as the path of a file, .npz or .npy; got one of {len(name)} "
            f"characters that begins {name[:20]!r}. Give numbers as an array."
        )
    text = f"{path}: expected a .npz or .npy file; got {path.suffix or 'no ending'}"
    conversion = CONVERSIONS.get(ending)
    if conversion is None:
        return text
    return f"{text}. Convert it: {conversion.format(path.stem, path.name)}"
