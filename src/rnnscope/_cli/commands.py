"""The command line: arguments in, the public API, text out.

Errors are one line on stderr and exit code 2. What a command computes with is imported when it
runs: a help text needs no torch.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rnnscope._cli.choices import (
    LAYOUT_NAMES,
    AnyCell,
    CheckedType,
    Format,
    PaperSize,
    VerdictFormat,
)
from rnnscope._cli.options import (
    FILE_HELP,
    AddressOptions,
    CallOptions,
    ComparisonOptions,
    ConversionOptions,
    FittingCell,
    FormatOption,
    FormatWithoutLatex,
    IgnoredArrays,
    ShapeOptions,
    flattened,
)
from rnnscope._cli.terminal import ArgumentError, OneLine, say, show
from rnnscope.errors import FileError, RnnscopeError

__all__ = ["AnyCell", "app", "main"]

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


def _version() -> str:
    from rnnscope import __version__

    return f"rnnscope {__version__}"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(_version())
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
        from rnnscope._cli.questions import which_command

        typer.echo(which_command(_version()))


# rnnscope explain ----------------------------------------------------------------------------


@app.command(
    # negative numbers are no options; what else is unknown is complained of below
    context_settings={"ignore_unknown_options": True},
    short_help="Every hidden state by hand, checked against PyTorch.",
)
@flattened
def explain(
    context: typer.Context,
    call: CallOptions,
    address: AddressOptions,
    form: FormatOption = Format.text,
) -> None:
    """Every hidden state of a small layer, worked out by hand and checked against PyTorch.

    Input, weights, equation, arithmetic, check, outputs. Of a larger layer one unit is followed:
    --at-layer, --direction, --unit say which. --time explains one step, --name one number of it.
    """
    words = call.steps or []
    _refuse_options(context, words)
    from rnnscope._cli.traces import coordinates, trace_of
    from rnnscope._explain.lesson import lesson

    trace, construction = trace_of(call)
    chosen = coordinates(address)
    if address.name is not None or address.time is not None:
        show(trace.explain(address.name, **chosen), form)
        return
    show(lesson(trace, construction=construction, **chosen), form)
    if words and replace(call, steps=None) == CallOptions() and form is Format.text:
        command = f"rnnscope view {' '.join(words)} -o page.html"
        say(f"\nNext: {command}  ·  --cell lstm  ·  --set weight_hh_l0=0")


def _refuse_options(context: typer.Context, words: Sequence[str]) -> None:
    """A misspelt option has landed among the numbers."""
    options = [option for parameter in context.command.params for option in parameter.opts]
    for word in words:
        if re.match(r"--?[^\d.,\-]", word) and not re.match(r"-(inf|nan)", word, re.IGNORECASE):
            near = difflib.get_close_matches(word.split("=")[0], options, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ArgumentError(f"no such option: {word}.{hint}")


# rnnscope view -------------------------------------------------------------------------------


@app.command(
    context_settings={"ignore_unknown_options": True},
    short_help="A page through which one can walk, step by step.",
)
@flattened
def view(
    context: typer.Context,
    call: CallOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="Where the page is written."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="A name for each step, such as the tokens."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar='"A B ..."', help="The same as words, with spaces between them."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="The sequence, where --input holds several.")
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What stands on top of the page.")
    ] = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="What is not shown: results (until a step is clicked), weights, arithmetic, "
            "text, prediction, cell, unrolled, maps.",
        ),
    ] = None,
) -> None:
    """One HTML file that shows a layer at work: every number, its equation, and what follows when
    it is changed. It needs no network and nothing else: open it in a browser.
    """
    if output is None:
        raise ArgumentError("say where the page is written: rnnscope view 3 4 5 -o page.html")
    _refuse_options(context, call.steps or [])
    from rnnscope._cli.traces import step_labels, trace_of
    from rnnscope._page import Appearance
    from rnnscope._page import view as page

    appearance = Appearance.of(title, [name for names in hide or [] for name in names.split(",")])
    trace, construction = trace_of(call)
    names = step_labels(labels, text, trace)
    if names is not None:
        trace.labelled(names)
    made = page(trace, output, batch=batch, construction=construction, appearance=appearance)
    say(f"wrote {made}")


# rnnscope worksheet --------------------------------------------------------------------------


@app.command(
    context_settings={"ignore_unknown_options": True},
    short_help="A sheet to print: a small layer to compute by hand, and its key.",
)
@flattened
def worksheet(
    context: typer.Context,
    call: CallOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="Where the page is written."),
    ] = None,
    pdf: Annotated[
        Path | None,
        typer.Option(metavar="FILE.pdf", help="Print it into a PDF; needs Chromium."),
    ] = None,
    paper: Annotated[
        PaperSize, typer.Option(help="Paper of the PDF.", case_sensitive=False)
    ] = PaperSize.a4,
    digits: Annotated[
        int, typer.Option(min=1, max=6, help="Decimals of the weights and of every result.")
    ] = 3,
) -> None:
    """A page to print, on which a class computes a small layer by hand: all weights, every step,
    boxes to fill; the key behind them.

    Weights are rounded first, and every result is rounded again: the arithmetic of the class gives
    exactly the key. The key says how far it is from the layer's own numbers.
    """
    _refuse_options(context, call.steps or [])
    if output is None and pdf is None:
        raise ArgumentError("say where it is written: -o sheet.html, or --pdf sheet.pdf")
    from rnnscope._cli.worksheet import rounded_sheet, written

    for path in written(rounded_sheet(call, digits), output, pdf, paper.value):
        say(f"wrote {path}")


# rnnscope show, rnnscope convert ---------------------------------------------------------------


@app.command("show", short_help="The recurrent layers in a file.")
def show_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=FILE_HELP)],
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="This layer alone, as in encoder.rnn.")
    ] = None,
    cell: FittingCell = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="LAYOUT", help=f"How it is stored: {', '.join(LAYOUT_NAMES)}."),
    ] = None,
    ignore: IgnoredArrays = None,
    form: FormatWithoutLatex = Format.text,
) -> None:
    """The recurrent layers in a file: cell, sizes, layout, and how its numbers look.

    Nothing in the file is run. Beside each layer stands what no file of its kind tells and was
    assumed, and the arrays under its name that it does not use. The radius of W_hh is the largest
    absolute eigenvalue of a gate's matrix.
    """
    from rnnscope._cli.layers import options_named
    from rnnscope._files.summary import summarize

    kind = cell.value if cell else None
    with options_named(layout="--layout"):
        layers = summarize(file, layer=layer, cell=kind, layout=layout, ignore=ignore or ())
    show(layers, form, "show")


@app.command(short_help="A file's recurrent layers in another framework's layout.")
@flattened
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help=FILE_HELP)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    options: ConversionOptions,
) -> None:
    """Read the recurrent layers of IN and write them to OUT, in the layout of any framework.

    Only recurrent layers are written, and of a model in JSON its head where OUT is JSON too; an
    existing OUT is replaced whole, or not at all.
    """
    from rnnscope._cli.conversion import report, write
    from rnnscope._cli.layers import options_named
    from rnnscope._files import load

    if target.exists() and target.samefile(source):
        raise FileError(
            f"{target}: OUT is IN, and only its recurrent layers would stay: write to another file"
        )
    kind = options.cell.value if options.cell else None
    with options_named(layout="--from"):
        layers = load(
            source,
            layer=options.layer,
            cell=kind,
            layout=options.stored,
            ignore=options.ignore or (),
        )
    write(layers, target, options.layout)
    for line in report(layers, target, options.layout):
        say(line)


# rnnscope compare ----------------------------------------------------------------------------


DIFFERS = 1  # the exit code
UNDECIDED = 2  # as errors have: it cannot be compared


@app.command(short_help="Whether recorded numbers are what a layer computes, and if not why.")
@flattened
def compare(
    numbers: ComparisonOptions,
    within: Annotated[
        float | None,
        typer.Option(
            min=0, help="Accept an approximation on purpose, off by no more than this anywhere."
        ),
    ] = None,
    effort: Annotated[
        float,
        typer.Option(min=0, help="So many times the usual work of a search for causes, at most."),
    ] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    form: Annotated[
        VerdictFormat, typer.Option("--format", help="How it is printed.")
    ] = VerdictFormat.text,
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
    from rnnscope._cli.compare import PrintedError, verdict_of

    try:
        printed = verdict_of(numbers, effort, within)
    except (RnnscopeError, OSError) as error:
        if form is VerdictFormat.json:
            show(PrintedError(error), Format.json, "compare")
        raise
    show(printed, Format(form.value), "compare")
    verdict = printed.verdict
    if not verdict:
        raise typer.Exit(UNDECIDED if verdict.unread or verdict.undecided else DIFFERS)


# rnnscope check ------------------------------------------------------------------------------


@app.command(short_help="Whether this machine's own layers compute their equations.")
def check(
    device: Annotated[
        str, typer.Option(help="Where the layers run: cpu, cuda, cuda:1, mps, ...")
    ] = "cpu",
    dtype: Annotated[CheckedType, typer.Option(help="The type of number.")] = CheckedType.float32,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I,H,B,T",
            help="Input size, hidden size, batch and time, as 3,4,2,5; once for each. "
            "Otherwise those in which kernels have been wrong.",
        ),
    ] = None,
    form: Annotated[
        VerdictFormat, typer.Option("--format", help="How it is printed.")
    ] = VerdictFormat.text,
) -> None:
    """Whether this machine's nn.RNN, nn.GRU and nn.LSTM compute their equations, forward and
    backward: a line for each kernel, and what differs.

    Exit code 0: all agree; 1: some differ; 2: nothing can be checked.
    """
    from rnnscope._cli.check import checked

    report = checked(device, dtype.value, sizes)
    show(report, Format(form.value), "check")
    if not report:
        raise typer.Exit(DIFFERS)


# rnnscope record-info --------------------------------------------------------------------------


@app.command("record-info", short_help="What a store of rs.record holds.")
def record_info(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A folder or URL that rs.record wrote.")
    ],
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Read all numbers: means, deviations, saturation, correlations.",
        ),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Statistics of what is whole, where shards are damaged."),
    ] = False,
    form: FormatWithoutLatex = Format.text,
) -> None:
    """What a recorded data set holds: layers, sequences, steps, the proof, what was skipped or is
    damaged.
    """
    from rnnscope._cli.corpus import RecordInfo

    show(RecordInfo(store, statistics, partial), form, "record-info")


# rnnscope shapes -----------------------------------------------------------------------------


@app.command(short_help="What output and h_n are, slice by slice; how many parameters.")
@flattened
def shapes(
    sizes: ShapeOptions,
    about: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Only the parts with these words: parameters, h_n.view"),
    ] = None,
    form: FormatWithoutLatex = Format.text,
) -> None:
    """What each slice of output and each row of h_n is, how many parameters there are, and the
    traps: checked on numbers.

    The layer and its input are made up from the sizes; no data is needed.
    """
    from rnnscope._cli.traces import trace_of_sizes

    said = trace_of_sizes(sizes).shapes()
    show(said if about is None else said.about(about), form, "shapes")
