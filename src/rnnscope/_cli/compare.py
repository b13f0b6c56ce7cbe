"""What the command compare reads and prints: a layer, its input, initial states; a verdict.

Files are data: nothing in them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rnnscope._cli.inputs import afford, in_precision, read_lengths, read_sequence
from rnnscope._cli.layers import LayerFile, cell_name
from rnnscope._cli.options import ComparisonOptions
from rnnscope._cli.states import initial_states
from rnnscope._cli.terminal import ArgumentError
from rnnscope._compare import Verdict, compare
from rnnscope._escaping import fenced, printable
from rnnscope.errors import RnnscopeError

__all__ = ["PrintedVerdict", "verdict_of"]


def verdict_of(
    options: ComparisonOptions, effort: float, within: float | None = None
) -> PrintedVerdict:
    """What ``rnnscope.compare`` says, and what was assumed of the file of weights.

    Raises what ``compare`` raises, with options for arguments.
    """
    kind, activation = cell_name(options.cell, options.nonlinearity)
    stored = LayerFile(options.weights, options.layer_name, kind, options.layout, activation)
    layers = stored.read_whole()
    layer: Any = next(iter(layers.values()))
    layer.batch_first = options.batch_first
    x = in_precision(read_sequence(options.input_file), layer)
    if x.shape[-1] != layer.input_size:
        raise ArgumentError(
            f"{options.input_file}: the layer takes {layer.input_size} numbers a step; got "
            f"{x.shape[-1]} in {tuple(x.shape)}"
        )
    afford(x[..., 0].numel(), layer.num_layers * layer.hidden_size)
    initial = None if options.initial is None else initial_states(options.initial, layer)
    lengths = None if options.lengths is None else read_lengths(options.lengths)
    try:
        verdict = compare(
            options.candidate,
            layer,
            x,
            initial,
            lengths=lengths,
            axes=options.axes,
            effort=effort,
            within=within,
        )
    except RnnscopeError as error:
        text = _in_options(str(error))
        raise (ArgumentError(text) if text != str(error) else error) from error
    said = [
        text for texts in (layers.assumed, layers.ignored) for text in next(iter(texts.values()))
    ]
    return PrintedVerdict(verdict, options.weights.name, tuple(said))


@dataclass(frozen=True)
class PrintedVerdict:
    """A verdict in the forms that a command prints, and what was assumed of ``weights``, a file."""

    verdict: Verdict
    weights: str
    assumed: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = _in_options(str(self.verdict))
        if self.assumed and not self.verdict:
            lines = "".join(f"\n  {printable(assumption)}" for assumption in self.assumed)
            text = f"{text.rstrip()}\n\nOf {printable(self.weights)} was assumed:{lines}"
        return text

    def markdown(self) -> str:
        """The text as a block that keeps its columns."""
        return fenced(str(self).rstrip("\n")) + "\n"

    def data(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**self.verdict.to_dict(), "assumed": list(self.assumed)}


@dataclass(frozen=True)
class PrintedError:
    """Why nothing was compared, as plain values."""

    error: Exception

    def markdown(self) -> str:
        """The sentence."""
        return str(self.error)

    def data(self) -> dict[str, Any]:
        """What a program reads: that nothing is known, and why."""
        return {"agrees": None, "error": type(self.error).__name__, "message": str(self.error)}


def _in_options(text: str) -> str:
    """Arguments of Python as options of the command.

    >>> _in_options("say which, axes='tbu' or 'btu'")
    'say which, --axes tbu or btu'
    >>> _in_options("rs.assert_agrees(mine, layer, within=0.01) holds")
    '--within 0.01 accepts it'
    """
    text = re.sub(
        r"rs\.assert_agrees\(mine,\s+layer,\s+within=([\d.e+-]+)\)\s+holds",
        r"--within \1 accepts it",
        text,
    )
    said = re.sub(r"\baxes='(\w*)'", r"--axes \1", text)
    if said != text:
        said = re.sub(r"'([btu]{1,3})'", r"\1", said)
    return said
