"""What the command convert writes, and what it says of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rnnscope._escaping import printable
from rnnscope._files import Layers, save
from rnnscope._files.json import JSON_ENDINGS, read_json
from rnnscope._layers.adopt import adopt
from rnnscope._layouts import LAYOUTS
from rnnscope._layouts.kinds import nonlinearity_of

__all__ = ["report", "write"]


def write(layers: Layers, target: Path, layout: str | None) -> None:
    """Write the layers; one without a name may be given one."""
    save(layers[""] if list(layers) == [""] else layers, target, layout=layout)


def report(layers: Layers, target: Path, layout: str | None) -> Iterator[str]:
    """Lines on what was written: each layer, what was assumed of it, what a reader must say."""
    for name, module in layers.items():
        yield f"{printable(name) or '(no name)'}: {module}"
        for assumption in layers.assumed[name]:
            yield f"    assumed {printable(assumption)}"
        for companion in layers.ignored[name]:
            yield f"    ignored {printable(companion)}"
        activation = nonlinearity_of(adopt(module).cell)
        usual = _nonlinearity(layout, target)
        if activation is not None and usual not in (None, activation):
            yield (
                f"    an rnn of {layout or 'pytorch'} is {usual} unless told otherwise: "
                f"activation={activation!r}"
            )
    if target.suffix.lower() in JSON_ENDINGS:
        for note in read_json(target).config.notes:
            yield f"    {printable(note)}"
    yield f"written to {printable(str(target))}"


def _nonlinearity(layout: str | None, target: Path) -> str | None:
    """What an rnn of a layout is unless told otherwise; None where the file itself tells."""
    if target.suffix.lower() == ".onnx":
        return None
    storage = LAYOUTS[layout or "pytorch"].cells.get("rnn")
    return storage.nonlinearity if storage else None
