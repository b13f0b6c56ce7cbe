"""The options of the commands, as records: an option is declared here once, with its help text.

A command that takes such a record is ``flattened``: on the command line each field is an option.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rnnscope._cli.choices import (
    ENDINGS,
    LAYOUT_NAMES,
    AnyCell,
    CellKind,
    Format,
    Nonlinearity,
    ReadingDirection,
)

__all__ = [
    "FILE_HELP",
    "AddressOptions",
    "CallOptions",
    "ComparisonOptions",
    "ConversionOptions",
    "FittingCell",
    "IgnoredArrays",
    "FormatOption",
    "FormatWithoutLatex",
    "ShapeOptions",
    "flattened",
]

Activation = Annotated[
    Nonlinearity | None,
    typer.Option(
        help="Activation of an rnn.  [default: tanh]", show_default=False, case_sensitive=False
    ),
]
Bidirectional = Annotated[bool, typer.Option("--bidirectional", help="Read in both directions.")]
IgnoredArrays = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="An array that the layer computes without, or a pattern, *.gamma; may be repeated.",
    ),
]
FittingCell = Annotated[
    AnyCell | None,
    typer.Option(help="Which cell, where names and shapes fit several.", case_sensitive=False),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How it is printed.")]
FormatWithoutLatex = Annotated[
    Format, typer.Option("--format", help="How it is printed (no latex here).")
]
FILE_HELP = f"A file ending in {', '.join(ENDINGS)}."


@dataclass(frozen=True)
class CallOptions:
    """A layer, drawn from a seed or read from a file of weights, and the sequence that it reads.

    None stands for an option that was left out.
    """

    steps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STEP...",
            help="The sequence, a number a step: 3 -4 5. A comma joins features: 3,1 4,0.",
        ),
    ] = None
    cell: Annotated[
        AnyCell | None,
        typer.Option(
            help="Kind of layer.  [default: rnn]", show_default=False, case_sensitive=False
        ),
    ] = None
    nonlinearity: Activation = None
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Units.  [default: 1]", show_default=False)
    ] = None
    layers: Annotated[
        int | None, typer.Option(min=1, help="Stacked layers.  [default: 1]", show_default=False)
    ] = None
    bidirectional: Bidirectional = False
    bias: Annotated[bool, typer.Option("--bias", help="With the biases b_ih and b_hh.")] = False
    proj_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Size to which an lstm projects h, below --hidden.", show_default=False
        ),
    ] = None
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Probability with which, in training, a number between two layers is dropped.",
            show_default=False,
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="From which the weights are drawn.")
    ] = 8
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Set a parameter: weight_hh_l0=0.7, or one number of it: "
            "weight_hh_l0[0,1]=0.7. Repeatable.",
        ),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file of weights, as for rnnscope show; the sizes follow from it.",
        ),
    ] = None
    layer_name: Annotated[
        str | None,
        typer.Option(
            "--layer", metavar="NAME", help="Which layer of that file, as in encoder.rnn."
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(metavar="LAYOUT", help="How that file stores it, as for rnnscope show."),
    ] = None
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="The sequence in a file: .csv, a row a step; or .npy, (time, feature).",
        ),
    ] = None
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="5,3,2", help="Steps of each sequence; those behind are padding, and packed."
        ),
    ] = None
    initial: Annotated[
        list[str] | None,
        typer.Option(
            metavar="h_0=VALUES",
            help="The state before the first step: h_0=0.5 for every unit, h_0=0.5,-1 for two, "
            "c_0=1; or an .npz file with h_0, of an LSTM c_0 too. Repeatable.  [default: zeros]",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class AddressOptions:
    """Which number of a trace is explained."""

    name: Annotated[
        str | None,
        typer.Option(help="Explain this quantity alone, such as h, c, f, at --time."),
    ] = None
    at_layer: Annotated[int | None, typer.Option(help="The layer that is followed.")] = None
    direction: Annotated[ReadingDirection | None, typer.Option(help="The direction.")] = None
    batch: Annotated[
        int | None, typer.Option(help="The sequence, where --input holds several.")
    ] = None
    time: Annotated[
        str | None,
        typer.Option(
            metavar="K|last", help="Explain this step alone; 0 is the first, -1 or last the last."
        ),
    ] = None
    unit: Annotated[int | None, typer.Option(help="The unit.")] = None


@dataclass(frozen=True)
class ComparisonOptions:
    """A layer in a file of weights, its input, and what was computed elsewhere from that input."""

    weights: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help=f"The layer's weights: a file ending in {', '.join(ENDINGS)}."
        ),
    ]
    input_file: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="x: .npy, (batch, time, feature), or (time, feature) of one sequence without a "
            "batch; .csv, a row a step.",
        ),
    ]
    candidate: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="What was computed elsewhere from that x: .npz with output, and if you have "
            "them h_n, c_n and gates by name; or .npy, the output alone.",
        ),
    ]
    layer_name: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="Which layer of the file of weights."),
    ] = None
    cell: FittingCell = None
    nonlinearity: Activation = None
    layout: Annotated[
        str | None,
        typer.Option(metavar="LAYOUT", help="How the weights are stored, as for rnnscope show."),
    ] = None
    batch_first: Annotated[
        bool,
        typer.Option(
            "--batch-first/--no-batch-first",
            help="x is (batch, time, feature), or (time, batch, feature). A file of weights does "
            "not tell.",
        ),
    ] = True
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="btu|tbu|...",
            help="The output's axes: b batch, t time, u unit.  [default: by their sizes, as x "
            "where several fit]",
        ),
    ] = None
    initial: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Initial states: .npz with h_0, of an LSTM c_0 too, (layers × directions, batch, "
            "hidden).  [default: zeros]",
            show_default=False,
        ),
    ] = None
    lengths: Annotated[
        str | None,
        typer.Option(metavar="5,3,2", help="Steps of each sequence, where x is padded."),
    ] = None


@dataclass(frozen=True)
class ConversionOptions:
    """How the layers of a file are stored, which of them are meant, and how they are written."""

    layout: Annotated[
        str | None,
        typer.Option(
            metavar="LAYOUT",
            help=f"How it is to be stored: {', '.join(LAYOUT_NAMES)}.  [default: onnx in .onnx, "
            "nam in .nam, else pytorch]",
            show_default=False,
        ),
    ] = None
    stored: Annotated[
        str | None, typer.Option("--from", metavar="LAYOUT", help="How IN is stored.")
    ] = None
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="This layer alone.")] = None
    cell: FittingCell = None
    ignore: IgnoredArrays = None


@dataclass(frozen=True)
class ShapeOptions:
    """The sizes of a layer and of its input, both made up."""

    cell: Annotated[CellKind, typer.Option(help="Kind of layer.", case_sensitive=False)] = (
        CellKind.lstm
    )
    layers: Annotated[int, typer.Option(min=1, help="Stacked layers.")] = 1
    bidirectional: Bidirectional = False
    hidden: Annotated[int, typer.Option(min=1, help="Units.")] = 5
    input_size: Annotated[int, typer.Option(min=1, help="Features of each step.")] = 4
    proj_size: Annotated[
        int, typer.Option(min=0, help="Size to which an LSTM projects h; 0 is without.")
    ] = 0
    batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences.  [default: 3]", show_default=False)
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of each sequence.  [default: 6]", show_default=False),
    ] = None
    lengths: Annotated[
        str | None,
        typer.Option(metavar="5,3,2", help="Steps of each sequence of a packed batch."),
    ] = None
    batch_first: Annotated[
        bool,
        typer.Option("--batch-first/--no-batch-first", help="Input as (batch, time, feature)."),
    ] = True
    unbatched: Annotated[
        bool, typer.Option("--unbatched", help="One sequence, without a dim for the batch.")
    ] = False


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: a record among its parameters becomes the record's fields."""
    parameters: list[inspect.Parameter] = []
    records: dict[str, type] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        record = parameter.annotation
        if not is_dataclass(record):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        assert isinstance(record, type)
        records[name] = record
        options = get_type_hints(record, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                # a class has no attribute for a field without a default
                default=getattr(record, field.name, inspect.Parameter.empty),
                annotation=options[field.name],
            )
            for field in fields(record)
        ]

    def flat(**values: Any) -> None:
        built = {
            name: record(**{field.name: values.pop(field.name) for field in fields(record)})
            for name, record in records.items()
        }
        command(**values, **built)

    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {}
    return flat
