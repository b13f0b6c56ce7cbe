"""The command line: arguments in, the public API, text out.

Errors are one line on stderr and exit code 2.
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rnnscope import __version__
from rnnscope._cli.compare import Comparison, Printed, initial_states
from rnnscope._cli.inputs import MOST, read_sequence, sequence
from rnnscope._cli.layers import construction, drawn, read_layer, set_parameter
from rnnscope._cli.terminal import ArgumentError, Format, OneLine, say, show
from rnnscope._escaping import printable
from rnnscope._explain.lesson import lesson
from rnnscope._files import load, save
from rnnscope._files.json import JSON_ENDINGS, read_json
from rnnscope._files.load import READERS
from rnnscope._files.stored_layer import AmbiguousError
from rnnscope._files.summary import summarize
from rnnscope._layers.adopt import adopt
from rnnscope._layouts import LAYOUTS
from rnnscope._layouts.kinds import nonlinearity_of
from rnnscope._page import view as page
from rnnscope._trace.trace import trace
from rnnscope._trace.verbs import Trace
from rnnscope.errors import ShapeError

__all__ = ["app", "main"]

app = typer.Typer(
    cls=OneLine,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Opens the recurrent layers of PyTorch: every number inside, explained and proven.",
)


def main() -> None:
    """The command ``rnnscope``."""
    app()


# rnnscope ------------------------------------------------------------------------------------


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rnnscope {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Opens the recurrent layers of PyTorch: every number inside, explained and proven."""
    if context.invoked_subcommand is None:
        typer.echo(
            f"rnnscope {__version__} opens the recurrent layers of PyTorch. "
            "Four commands to try:\n"
            "\n"
            "    rnnscope explain 3 4 5\n"
            "        an RNN reads 3, 4, 5: three hidden states, each by hand, equal to PyTorch's\n"
            "    rnnscope explain 3 4 5 --cell lstm --hidden 2 --time 2 --unit 1\n"
            "        one number inside an LSTM, and all that it is made of\n"
            "    rnnscope shapes --cell lstm --layers 2 --bidirectional\n"
            "        what every slice of output and every row of h_n is\n"
            "    rnnscope view 3 4 5 -o page.html\n"
            "        a page to step through; change a number in it, and see what follows\n"
            "\n"
            "rnnscope --help lists all commands, rnnscope explain --help the options of one."
        )


# rnnscope explain ----------------------------------------------------------------------------


class CellKind(StrEnum):
    """The recurrent layers of torch.nn."""

    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"


class AnyCell(StrEnum):
    """The cells that a file may hold, or that may be drawn."""

    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"
    rnn_tanh = "rnn_tanh"
    rnn_relu = "rnn_relu"
    gru_reset_before = "gru_reset_before"
    lstm_peephole = "lstm_peephole"
    lstm_coupled = "lstm_coupled"
    lstm_coupled_peephole = "lstm_coupled_peephole"


class Nonlinearity(StrEnum):
    """The activations of nn.RNN."""

    tanh = "tanh"
    relu = "relu"


class Direction(StrEnum):
    """The directions of a layer."""

    forward = "forward"
    reverse = "reverse"


_LAYER, _WHERE, _FILES = "The layer", "Which number", "From files"


Steps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STEP...",
        help="The sequence, a number a step: 3 -4 5. A comma joins features: 3,1 4,0.",
    ),
]
CellOption = Annotated[
    AnyCell | None, typer.Option(help="Kind of layer.  [default: rnn]", show_default=False)
]
Activation = Annotated[
    Nonlinearity | None,
    typer.Option(help="Activation of an rnn.  [default: tanh]", show_default=False),
]
Hidden = Annotated[int | None, typer.Option(min=1, help="Units.  [default: 1]", show_default=False)]
Layers = Annotated[
    int | None, typer.Option(min=1, help="Stacked layers.  [default: 1]", show_default=False)
]
Both = Annotated[bool, typer.Option("--bidirectional", help="Read in both directions.")]
Bias = Annotated[bool, typer.Option("--bias", help="With the biases b_ih and b_hh.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="From which the weights are drawn.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set a parameter: weight_hh_l0=0.7, or one number of it: weight_hh_l0[0,1]=0.7. "
        "Repeatable.",
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file of weights, as for rnnscope show; the sizes follow from it.",
    ),
]
LayerName = Annotated[
    str | None,
    typer.Option("--layer", metavar="NAME", help="Which layer of that file, as in encoder.rnn."),
]
LayoutName = Annotated[
    str | None,
    typer.Option(metavar="LAYOUT", help="How that file stores it, as for rnnscope show."),
]
InputFile = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="The sequence in a file: .csv, a row a step; or .npy, (time, feature).",
    ),
]


@app.command(
    # negative numbers are no options; what else is unknown is complained of below
    context_settings={"ignore_unknown_options": True},
    short_help="Every hidden state by hand, checked against PyTorch.",
)
def explain(
    context: typer.Context,
    steps: Steps = None,
    cell: CellOption = None,
    nonlinearity: Activation = None,
    hidden: Hidden = None,
    layers: Layers = None,
    bidirectional: Both = False,
    bias: Bias = False,
    seed: Seed = 8,
    changes: Changes = None,
    weights: WeightsFile = None,
    layer_name: LayerName = None,
    layout: LayoutName = None,
    input_file: InputFile = None,
    name: Annotated[
        str | None,
        typer.Option(help="Explain this quantity alone, such as h, c, f, at --time."),
    ] = None,
    at_layer: Annotated[int | None, typer.Option(help="The layer that is followed.")] = None,
    direction: Annotated[Direction | None, typer.Option(help="The direction.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="The sequence, where --input holds several.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="K|last", help="Explain this step alone; 0 is the first, -1 or last the last."
        ),
    ] = None,
    unit: Annotated[int | None, typer.Option(help="The unit.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How it is printed.")] = Format.text,
) -> None:
    """Every hidden state of a small layer, worked out by hand and checked against PyTorch.

    Input, weights, equation, arithmetic, check, outputs. Of a larger layer one unit is followed:
    --at-layer, --direction, --unit say which. --time explains one step, --name one number of it.
    """
    words = steps or []
    _refuse_options(context, words)
    drawn_as = Drawn(
        cell.value if cell else None,
        nonlinearity.value if nonlinearity else None,
        hidden,
        layers,
        bidirectional,
        bias,
        seed,
    )
    stored = Stored(weights, layer_name, layout)
    traced, built = _traced(_sequence(words, input_file), drawn_as, stored, changes or [])
    at: dict[str, Any] = {"layer": at_layer, "batch": batch, "time": _time(time), "unit": unit}
    at |= {"direction": direction.value if direction else None}
    chosen = {axis: index for axis, index in at.items() if index is not None}
    if name is None and time is None:
        show(lesson(traced, construction=built, **chosen), form)
        plain = (drawn_as, stored, changes) == (Drawn(), Stored(), None)
        if words and plain and form is Format.text:
            asked = f"rnnscope view {' '.join(words)} -o page.html"
            say(f"\nNext: {asked}  ·  --cell lstm  ·  --set weight_hh_l0=0")
    else:
        show(traced.explain(name, **chosen), form)


# rnnscope view -------------------------------------------------------------------------------


@app.command(
    context_settings={"ignore_unknown_options": True},
    short_help="A page through which one can walk, step by step.",
)
def view(
    context: typer.Context,
    steps: Steps = None,
    cell: CellOption = None,
    nonlinearity: Activation = None,
    hidden: Hidden = None,
    layers: Layers = None,
    bidirectional: Both = False,
    bias: Bias = False,
    seed: Seed = 8,
    changes: Changes = None,
    weights: WeightsFile = None,
    layer_name: LayerName = None,
    layout: LayoutName = None,
    input_file: InputFile = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="Where the page is written."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="A name for each step, such as the tokens."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="The sequence, where --input holds several.")
    ] = None,
) -> None:
    """One HTML file that shows a layer at work: every number, its equation, and what follows when
    it is changed. It needs no network and nothing else: open it in a browser.
    """
    if output is None:
        raise ArgumentError("say where the page is written: rnnscope view 3 4 5 -o page.html")
    words = steps or []
    _refuse_options(context, words)
    drawn_as = Drawn(
        cell.value if cell else None,
        nonlinearity.value if nonlinearity else None,
        hidden,
        layers,
        bidirectional,
        bias,
        seed,
    )
    stored = Stored(weights, layer_name, layout)
    traced, built = _traced(_sequence(words, input_file), drawn_as, stored, changes or [])
    named = None if labels is None else labels.split(",")
    if named is not None:
        traced.labelled(named)
    say(f"wrote {page(traced, output, batch=batch, construction=built)}")


@dataclass(frozen=True)
class Drawn:
    """A layer that is drawn from a seed; None for what was not said."""

    kind: str | None = None
    nonlinearity: str | None = None
    hidden: int | None = None
    layers: int | None = None
    bidirectional: bool = False
    bias: bool = False
    seed: int = 8


@dataclass(frozen=True)
class Stored:
    """A layer in a file of weights; ``path`` None where there is none."""

    path: Path | None = None
    layer: str | None = None
    layout: str | None = None


def _traced(x: Tensor, asked: Drawn, stored: Stored, changes: Sequence[str]) -> tuple[Trace, str]:
    """The trace of the layer that was asked for, and the line that builds it."""
    if asked.nonlinearity is not None and asked.kind not in (None, "rnn"):
        raise ArgumentError("--nonlinearity is an option of --cell rnn")
    if stored.path is None:
        if stored.layer is not None:
            raise ArgumentError("--layer chooses in a file: give --weights FILE too")
        if stored.layout is not None:
            raise ArgumentError("--layout is of a file: give --weights FILE too")
        options = {"nonlinearity": asked.nonlinearity} if asked.nonlinearity else {}
        module: Any = drawn(
            asked.seed,
            asked.kind or "rnn",
            x.shape[-1],
            asked.hidden or 1,
            num_layers=asked.layers or 1,
            bias=asked.bias,
            batch_first=True,
            bidirectional=asked.bidirectional,
            **options,
        )
        origin, found_name = f"seed {asked.seed}", ""
    else:
        given = {"--hidden": asked.hidden, "--layers": asked.layers}
        given |= {"--bidirectional": asked.bidirectional, "--bias": asked.bias}
        _refuse_sizes(stored.path, given)
        with _options_told(layout="--layout"):
            found_name, module = read_layer(
                stored.path, stored.layer, asked.kind, stored.layout, asked.nonlinearity
            )
        origin = f"weights from {stored.path.name}" + (f", {stored.layer}" if stored.layer else "")
    for change in changes:
        set_parameter(module, change)
    origin = ", ".join([origin, *changes])
    if x.shape[-1] != module.input_size:
        example = ",".join("12345678"[: module.input_size]) if module.input_size <= 8 else "3,1,..."
        raise ArgumentError(
            f"the layer takes {module.input_size} numbers a step; got {x.shape[-1]}. "
            f"A comma joins the numbers of a step, as in {example}"
        )
    _afford(x[..., 0].numel(), module.num_layers * module.hidden_size)
    traced = trace(module, _in_precision(x, module).reshape(-1, *x.shape[-2:]))
    return traced, f"{construction(module, stored.path, found_name)}   # {origin}"


def _refuse_options(context: typer.Context, words: Sequence[str]) -> None:
    """A misspelt option has landed among the numbers."""
    known = [option for parameter in context.command.params for option in parameter.opts]
    for word in words:
        if re.match(r"--?[^\d.,\-]", word) and not re.match(r"-(inf|nan)", word, re.IGNORECASE):
            near = difflib.get_close_matches(word.split("=")[0], known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ArgumentError(f"no such option: {word}.{hint}")


def _time(word: str | None) -> int | str | None:
    """A position, or "last", where a direction has read the whole sequence."""
    if word is None or word == "last":
        return word
    if not re.fullmatch(r"[+-]?\d{1,9}", word):
        raise ArgumentError(f"--time {word!r}: expected a whole number, or last")
    return int(word)


def _afford(steps: int, units: int) -> None:
    """Refuse what would fill the memory; a trace in Python has no such bound."""
    if steps * units > MOST // 8:
        raise ShapeError(
            f"these sizes make {steps * units} numbers of each gate; the most here is {MOST // 8}"
        )


def _sequence(words: Sequence[str], file: Path | None) -> Tensor:
    if words and file is not None:
        raise ArgumentError("give the numbers or --input FILE, not both")
    if file is not None:
        return read_sequence(file)
    if not words:
        raise ArgumentError("no input: give a number a step, as in 3 4 5, or --input FILE")
    return sequence(words)


def _refuse_sizes(file: Path, given: dict[str, Any]) -> None:
    for option, value in given.items():
        if value:
            raise ArgumentError(f"sizes follow from {file.name}: leave out {option}")


def _in_precision(x: Tensor, module: nn.Module) -> Tensor:
    """The input in the type of the weights; refused where it becomes infinite."""
    dtype = next(module.parameters()).dtype
    found = x.to(dtype)
    lost = found.isinf() & x.isfinite()
    if lost.any():
        raise ShapeError(f"{float(x[lost][0])!r} is too large for the layer's numbers, {dtype}")
    return found


# rnnscope show, rnnscope convert ---------------------------------------------------------------


_ENDINGS = ", ".join(READERS)


@app.command("show", short_help="The recurrent layers in a file.")
def show_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=f"A file ending in {_ENDINGS}.")],
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="This layer alone, as in encoder.rnn.")
    ] = None,
    cell: Annotated[
        AnyCell | None, typer.Option(help="Which cell, where names and shapes fit several.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="LAYOUT", help=f"How it is stored: {', '.join(LAYOUTS)}.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="How it is printed (no latex here).")
    ] = Format.text,
) -> None:
    """The recurrent layers in a file: cell, sizes, layout, and how its numbers look.

    Nothing in the file is run. Beside each layer stands what no file of its kind tells and was
    assumed. The radius of W_hh is the largest absolute eigenvalue of a gate's matrix.
    """
    kind = cell.value if cell else None
    with _options_told(layout="--layout"):
        found = summarize(file, layer=layer, cell=kind, layout=layout)
    show(found, form, "show")


@app.command(short_help="A file's recurrent layers in another framework's layout.")
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help=f"A file ending in {_ENDINGS}.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="LAYOUT",
            help=f"How it is to be stored: {', '.join(LAYOUTS)}.  [default: onnx in .onnx, "
            "nam in .nam, else pytorch]",
            show_default=False,
        ),
    ] = None,
    stored: Annotated[
        str | None, typer.Option("--from", metavar="LAYOUT", help="How IN is stored.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="This layer alone.")] = None,
    cell: Annotated[
        AnyCell | None, typer.Option(help="Which cell, where names and shapes fit several.")
    ] = None,
) -> None:
    """Read the recurrent layers of IN and write them to OUT, in the layout of any framework.

    Only recurrent layers are written, and of a model in JSON its head where OUT is JSON too; an
    existing OUT is replaced whole, or not at all.
    """
    kind = cell.value if cell else None
    with _options_told(layout="--from"):
        layers = load(source, layer=layer, cell=kind, layout=stored)
    # one without a name may be given one
    save(layers[""] if list(layers) == [""] else layers, target, layout=layout)
    for name, module in layers.items():
        say(f"{printable(name) or '(no name)'}: {module}")
        for assumed in layers.assumed[name]:
            say(f"    assumed {printable(assumed)}")
        own = nonlinearity_of(adopt(module).cell)
        usual = _nonlinearity(layout, target)
        if own is not None and usual not in (None, own):
            say(
                f"    an rnn of {layout or 'pytorch'} is {usual} unless told otherwise: "
                f"activation={own!r}"
            )
    if target.suffix.lower() in JSON_ENDINGS:
        for note in read_json(target).config.notes:
            say(f"    {printable(note)}")
    say(f"written to {printable(str(target))}")


def _nonlinearity(layout: str | None, target: Path) -> str | None:
    """What an rnn of a layout is unless told otherwise; None where the file itself tells."""
    if target.suffix.lower() == ".onnx":
        return None
    stored = LAYOUTS[layout or "pytorch"].cells.get("rnn")
    return stored.nonlinearity if stored else None


@contextmanager
def _options_told(layout: str) -> Iterator[None]:
    """Where several readings of a file fit, the options that choose; ``layout`` is one's name."""
    try:
        yield
    except AmbiguousError as error:
        raise ArgumentError(error.in_options({"cell": "--cell", "layout": layout})) from error


# rnnscope compare ----------------------------------------------------------------------------


class Form(StrEnum):
    """The forms in which a verdict can be printed."""

    text = "text"
    json = "json"


DIFFERS = 1  # the exit code
UNDECIDED = 2  # as errors have: it cannot be compared


@app.command(short_help="Whether recorded numbers are what a layer computes, and if not why.")
def compare(
    weights: Annotated[
        Path,
        typer.Option(metavar="FILE", help=f"The layer's weights: a file ending in {_ENDINGS}."),
    ],
    input_file: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="x: .npy, (batch, time, feature), or (time, feature) of one sequence without a "
            "batch; .csv, a row a step.",
        ),
    ],
    candidate: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="What was computed elsewhere from that x: .npz with output, and if you have "
            "them h_n, c_n and gates by name; or .npy, the output alone.",
        ),
    ],
    layer_name: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="Which layer of the file of weights."),
    ] = None,
    cell: Annotated[
        AnyCell | None, typer.Option(help="Which cell, where names and shapes fit several.")
    ] = None,
    nonlinearity: Annotated[
        Nonlinearity | None,
        typer.Option(help="Activation of an rnn.  [default: tanh]", show_default=False),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="LAYOUT", help="How the weights are stored, as for rnnscope show."),
    ] = None,
    batch_first: Annotated[
        bool,
        typer.Option(
            "--batch-first/--no-batch-first",
            help="x is (batch, time, feature), or (time, batch, feature). A file of weights does "
            "not tell.",
        ),
    ] = True,
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="btu|tbu|...",
            help="The output's axes: b batch, t time, u unit.  [default: by their sizes, as x "
            "where several fit]",
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Initial states: .npz with h_0, of an LSTM c_0 too, (layers × directions, batch, "
            "hidden).  [default: zeros]",
            show_default=False,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(metavar="5,3,2", help="Steps of each sequence, where x is padded."),
    ] = None,
    effort: Annotated[
        float,
        typer.Option(min=0, help="So many times the usual work of a search for causes, at most."),
    ] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    form: Annotated[Form, typer.Option("--format", help="How it is printed.")] = Form.text,
) -> None:
    """Whether numbers computed elsewhere are what a layer computes: where they differ first, and
    which mistakes explain it.

    Exit code 0: they agree; 1: they differ; 2: they cannot be compared.
    """
    if seconds is not None:
        effort = seconds / 6
        with warnings.catch_warnings():
            warnings.simplefilter("default", DeprecationWarning)
            text = f"--seconds is deprecated, work is counted: write --effort {effort:.3g}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
    kind = cell.value if cell else None
    activation = nonlinearity.value if nonlinearity else None
    if activation is not None and kind not in (None, "rnn"):
        raise ArgumentError("--nonlinearity is an option of --cell rnn")
    with _options_told(layout="--layout"):
        _, module = read_layer(weights, layer_name, kind, layout, activation)
    layer: Any = module
    layer.batch_first = batch_first
    x = _in_precision(read_sequence(input_file), layer)
    if x.shape[-1] != layer.input_size:
        raise ArgumentError(
            f"{input_file}: the layer takes {layer.input_size} numbers a step; got "
            f"{x.shape[-1]} in {tuple(x.shape)}"
        )
    _afford(x[..., 0].numel(), layer.num_layers * layer.hidden_size)
    verdict = Comparison(
        layer,
        x,
        candidate,
        initial_states(initial, layer) if initial else None,
        _lengths(lengths) if lengths is not None else None,
        axes,
        effort,
    ).verdict()
    show(Printed(verdict), Format(form.value), "compare")
    if not verdict:
        raise typer.Exit(UNDECIDED if verdict.unread or verdict.undecided else DIFFERS)


# rnnscope shapes -----------------------------------------------------------------------------


@app.command(short_help="What each slice of output and each row of h_n is.")
def shapes(
    cell: Annotated[CellKind, typer.Option(help="Kind of layer.")] = CellKind.lstm,
    layers: Annotated[int, typer.Option(min=1, help="Stacked layers.")] = 1,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Read in both directions.")
    ] = False,
    hidden: Annotated[int, typer.Option(min=1, help="Units.")] = 5,
    input_size: Annotated[int, typer.Option(min=1, help="Features of each step.")] = 4,
    proj_size: Annotated[
        int, typer.Option(min=0, help="Size to which an LSTM projects h; 0 is without.")
    ] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences.  [default: 3]", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of each sequence.  [default: 6]", show_default=False),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(metavar="5,3,2", help="Steps of each sequence of a packed batch."),
    ] = None,
    batch_first: Annotated[
        bool,
        typer.Option("--batch-first/--no-batch-first", help="Input as (batch, time, feature)."),
    ] = True,
    unbatched: Annotated[
        bool, typer.Option("--unbatched", help="One sequence, without a dim for the batch.")
    ] = False,
    form: Annotated[
        Format, typer.Option("--format", help="How it is printed (no latex here).")
    ] = Format.text,
) -> None:
    """What each slice of output and each row of h_n is, and the traps: checked on numbers.

    The layer and its input are made up from the sizes; no data is needed.
    """
    packed = None if lengths is None else _lengths(lengths)
    if packed is not None and (batch is not None or steps is not None or unbatched):
        raise ArgumentError("--lengths tells batch and steps: leave out the others")
    if unbatched and batch is not None:
        raise ArgumentError("--unbatched is one sequence: leave out --batch")
    if proj_size and cell is not CellKind.lstm:
        raise ArgumentError("--proj-size is an option of --cell lstm")
    if proj_size >= hidden:
        raise ArgumentError(f"--proj-size must be smaller than --hidden, {hidden}")
    sizes = (len(packed), max(packed)) if packed else (batch or 3, steps or 6)
    options: dict[str, Any] = {"proj_size": proj_size} if proj_size else {}
    if bidirectional:
        options["bidirectional"] = True
    _afford(math.prod(sizes), max(input_size, 2 * layers * hidden))
    seed = 0
    module = drawn(
        seed, cell.value, input_size, hidden, num_layers=layers, batch_first=batch_first, **options
    )
    traced = _called(module, sizes, packed, unbatched, seed)
    show(traced.shapes(), form, "shapes")


def _called(
    module: nn.RNNBase, sizes: tuple[int, int], packed: list[int] | None, unbatched: bool, seed: int
) -> Trace:
    """The layer called on made-up numbers, (batch, time) of these sizes."""
    drawn = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(*sizes, module.input_size, generator=drawn, dtype=torch.float32, device="cpu")
    if unbatched:
        return trace(module, x[0])
    if not module.batch_first:
        x = x.transpose(0, 1)
    if packed is None:
        return trace(module, x)
    options = {"batch_first": module.batch_first, "enforce_sorted": False}
    return trace(module, pack_padded_sequence(x, packed, **options))


def _lengths(text: str) -> list[int]:
    words = text.split(",")
    if not all(re.fullmatch(r"\s*0*[1-9]\d{0,8}\s*", word) for word in words):
        raise ArgumentError(f"--lengths {text!r}: expected whole numbers from 1, as in 5,3,2")
    return [int(word) for word in words]
