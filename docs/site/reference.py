"""The reference: every public name, from its docstring, sorted by what it is for.

A new public name must be given its place here: a name without one is an error of the build, and of
a test. The pages hold directives for mkdocstrings; what is data, not code, is written out.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import docstrings
import equations

import rnnscope
from rnnscope import cells, errors, plot

HEADS = {"": "rs", "cells": "rs.cells", "errors": "rs.errors", "plot": "rs.plot"}


@dataclass(frozen=True)
class Group:
    """One page: public names, and the objects that they give, which have no public name."""

    page: str
    title: str
    intro: str
    names: tuple[str, ...]
    results: tuple[str, ...] = ()


GROUPS = (
    Group(
        "trace",
        "Trace a call",
        "`rs.trace` opens one call of a layer; what it returns has the verbs.",
        ("trace", "Trace", "load_trace", "load_record", "warm_up"),
        (
            "_explain.explain.Explanation",
            "_explain.statements.Shapes",
            "_record.tables.Rows",
        ),
    ),
    Group(
        "gradients",
        "Gradients, edits, other runs",
        "What `tr.gradients`, `tr.memory`, `tr.step_jacobian` and `tr.rerun` give, and layers as "
        "plain operations.",
        ("Edit", "unfuse", "Recurrent"),
        (
            "_gradients.gradients.Gradients",
            "_gradients.memory.Memory",
            "_gradients.step_jacobian.StepJacobian",
            "_trace.verbs.Rerun",
        ),
    ),
    Group(
        "watch",
        "Watch a model",
        "Every call of every recurrent layer inside a model. [How to watch](../watch.md) shows it "
        "at work.",
        ("watch", "Adapter"),
        ("_watch.seen.Seen", "_watch.join.Joined", "_watch.batches.Batches"),
    ),
    Group(
        "compare",
        "Compare and check",
        "Whether an implementation computes what a layer computes, and which mistakes explain the "
        "difference. [Comparing](../comparing.md) shows it at work.",
        ("compare", "assert_agrees", "Verdict", "Cause", "check"),
        ("_check.report.MachineReport",),
    ),
    Group(
        "files",
        "Files and layouts",
        "Recurrent layers in files of every common kind. [Layouts](../layouts.md) lists how each "
        "framework stores them.",
        ("load", "save", "Layout", "Stored", "Array"),
        ("_files.layers.Layers",),
    ),
    Group(
        "record",
        "Record a data set",
        "Every step of every layer over many batches, on disk. [Recording](../record.md) shows it "
        "at work.",
        ("record", "open_record", "sequence", "top", "statistics"),
        ("_corpus.reading.corpus.Corpus", "_corpus.reading.top.Top"),
    ),
    Group(
        "cells",
        "Cells and their equations",
        "The words in which a cell is declared, and the cells that are. "
        "[The equations](../equations.md) are written out.",
        ("Cell",),
    ),
    Group(
        "plot",
        "Pictures",
        "Each function draws on axes of matplotlib and returns them (`pip install "
        "'rnnscope[plot]'`). [Plots](../plots.md) shows the pictures.",
        ("plot",),
    ),
    Group(
        "errors",
        "Errors",
        "Everything that is raised on purpose is an `rs.RnnscopeError`, and the built-in exception "
        "that a caller would expect too.",
        tuple(errors.__all__),
    ),
)

MADE = ("Adapter", "Array", "Cause", "Cell", "Edit", "Function", "Layout", "Recurrent", "Stored")
"""Classes of which a user makes objects, so that their arguments are shown."""

MODULES = {"cells": cells, "errors": errors, "plot": plot}
OBJECTS = {
    "tr": ("trace", "Trace"),
    "seen": ("watch", "_watch.seen.Seen"),
    "g": ("gradients", "_gradients.gradients.Gradients"),
}
"""What the pages call by a short name, with the page that documents it."""


OPTION = re.compile(r"(?<![\w`-])--[a-z][\w-]*")

PLOT_EXAMPLE = """\
>>> import torch, rnnscope as rs
>>> tr = rs.trace(torch.nn.LSTM(3, 4), torch.randn(6, 3))
>>> rs.plot.data.units(tr, "c", [0, 1]).values.shape    # what rs.plot.units(tr, "c", [0, 1]) draws
(2, 6)"""


def public_names() -> tuple[str, ...]:
    """Every public name as a user writes it, without ``rs.``."""
    inside = (f"{name}.{entry}" for name, module in MODULES.items() for entry in module.__all__)
    return (*rnnscope.__all__, *inside)


def value(name: str) -> Any:
    """What a public name stands for."""
    thing: Any = rnnscope
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def imported(path: str) -> Any:
    """A class that has no public name, by its path inside rnnscope."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"rnnscope.{module}"), name)


def places() -> dict[str, str]:
    """From a public name to the page that has it.

    Raises ``LookupError`` for a public name that no group has, and for one that is not public.
    """
    placed = {name: group.page for group in GROUPS for name in group.names}
    unknown = sorted(set(placed) - set(rnnscope.__all__))
    missing = sorted(set(rnnscope.__all__) - set(placed))
    if unknown or missing:
        raise LookupError(
            "docs/site/reference.py: every public name of rnnscope has a place in GROUPS; "
            f"without a place: {missing}; not public: {unknown}"
        )
    placed |= {f"{name}.{entry}": name for name, mod in MODULES.items() for entry in mod.__all__}
    return placed


def pages() -> dict[str, str]:
    """The Markdown of every page, by its name."""
    places()
    texts = {"index": overview()}
    for group in GROUPS:
        texts[group.page] = page(group)
    texts["command-line"] = command_line()
    return texts


def page(group: Group) -> str:
    """One page: the public names, then what they return."""
    pieces = [f"# {group.title}", group.intro]
    if group.page in MODULES:
        pieces += module_entries(group.page)
    else:
        pieces += [entry(name, f"rs.{name}") for name in group.names]
    if group.results:
        pieces.append("## What they return")
        pieces.append("These have no public name; you meet them as results.")
        pieces += [result(path) for path in group.results]
    return "\n\n".join(pieces) + "\n"


def module_entries(module: str) -> list[str]:
    """The public names of ``rs.cells``, ``rs.plot`` or ``rs.errors``."""
    pieces = []
    if module == "plot":
        pieces.append("## `rs.plot` { #rnnscope.plot }")
        pieces.append(docstrings.as_markdown(inspect.getdoc(plot) or ""))
        pieces.append(fenced(PLOT_EXAMPLE))
    if module == "errors":
        tree = inspect.getdoc(errors) or ""
        drawn = "\n".join(line[4:] for line in tree.splitlines() if line.startswith("    "))
        pieces.append(f"```text\n{drawn}\n```")
    for name in MODULES[module].__all__:
        thing = getattr(MODULES[module], name)
        alias = f'<a id="rnnscope.{name}"></a>\n\n' if name in rnnscope.__all__ else ""
        written = f"rs.{name}" if alias else f"rs.{module}.{name}"
        if inspect.ismodule(thing):
            pieces.append(f"## `{written}` {{ #rnnscope.{module}.{name} }}")
            pieces.append(docstrings.as_markdown(inspect.getdoc(thing) or ""))
            pieces += [
                entry(f"{module}.{name}.{inner}", f"{written}.{inner}", level=3)
                for inner in thing.__all__
            ]
        elif isinstance(thing, cells.Cell):
            pieces.append(declared(name, thing))
        elif isinstance(thing, dict):
            pieces.append(mapping(module, name, thing))
        else:
            pieces.append(alias + entry(f"{module}.{name}", written))
    return pieces


def entry(name: str, written: str, level: int = 2) -> str:
    """The directive for what has a docstring.

    A function that is imported into a room from a module of its own name is named with its module:
    for a reader of the sources alone, the name in the room is the module.
    """
    thing = value(name)
    home = getattr(thing, "__module__", "")
    if home.endswith(f".{name}") and rnnscope._HOMES.get(name) != home:
        return (
            f'<a id="rnnscope.{name}"></a>\n\n{directive(f"{home}.{name}", thing, written, level)}'
        )
    return directive(f"rnnscope.{name}", thing, written, level)


def result(path: str) -> str:
    """The directive for a class that has no public name; what a trace has too stands there."""
    kind = imported(path)
    text = directive(f"rnnscope.{path}", kind, path.rpartition(".")[2], 3)
    shared = [name for name in members(kind) if name not in own_members(kind)]
    if shared:
        links = ", ".join(f"[`{name}`](trace.md#rnnscope.Trace.{name})" for name in shared)
        text += f"\nIt also has, as a trace has them: {links}.\n"
    return text


def directive(path: str, thing: Any, written: str, level: int) -> str:
    """As mkdocstrings takes it."""
    lines = [
        f"::: {path}",
        "    options:",
        f'      heading: "{written}"',
        f'      toc_label: "{written}"',
        f"      heading_level: {level}",
    ]
    if path.rpartition(".")[2] in MADE:
        lines.append("      merge_init_into_class: true")
    if inspect.isclass(thing):
        names = ", ".join(own_members(thing))
        lines.append(f"      members: [{names}]" if names else "      inherited_members: false")
    return "\n".join([*lines, ""])


def own_members(kind: type) -> list[str]:
    """What a class documents and a trace does not have in the same way."""
    if kind is rnnscope.Trace:
        return members(kind)
    shared = rnnscope.Trace.__mro__
    return [
        name
        for name in members(kind)
        if next(base for base in kind.__mro__ if name in vars(base)) not in shared
    ]


def members(kind: type) -> list[str]:
    """What a class documents: its own verbs, its own properties, then those that it inherits."""
    names: list[str] = []
    for base in kind.__mro__:
        if not base.__module__.startswith("rnnscope"):
            continue
        documented = [
            name
            for name, member in vars(base).items()
            if not name.startswith("_") and name not in names and _is_documented(member)
        ]
        names += sorted(documented, key=lambda name: not inspect.isfunction(vars(base)[name]))
    return names


def _is_documented(member: Any) -> bool:
    is_code = inspect.isfunction(member) or hasattr(member, "__get__")
    return is_code and bool(inspect.getdoc(member))


def declared(name: str, cell: cells.Cell) -> str:
    """A declared cell: what it is, and an example that runs."""
    sizes = "proj_size=2" if cell.projected else ""
    layer = equations.layer_of(name, cell)
    if layer.startswith("nn."):
        arguments = layer.partition("(")[2].rstrip(")").replace("proj_size=P", sizes)
        made = f"{layer.partition('(')[0]}(3, 4{', ' if arguments else ''}{arguments})"
        lines = [
            ">>> import torch, rnnscope as rs",
            ">>> from torch import nn",
            f">>> tr = rs.trace({made}, torch.randn(5, 2, 3))",
            f">>> tr.cell is rs.cells.{name}",
            "True",
        ]
    else:
        lines = [
            ">>> import torch, rnnscope as rs",
            f">>> layer = rs.Recurrent(rs.cells.{name}, 3, 4)",
            ">>> output, *states = layer(torch.randn(5, 2, 3))",
            ">>> tuple(output.shape)                    # time, batch, unit",
            "(5, 2, 4)",
        ]
    lines += [f">>> rs.cells.{name}.quantities", repr(cell.quantities)]
    anchor = f"rnnscope.cells.{name}"
    return (
        f"## `rs.cells.{name}` {{ #{anchor} }}\n\n"
        f"The cell of `{layer}`: [its equations](../equations.md#{equations.anchor(name)}). "
        f"Source: {cell.source}.\n\n" + fenced("\n".join(lines))
    )


def mapping(module: str, name: str, thing: dict[str, Any]) -> str:
    """A public mapping: what it holds, and an example that runs."""
    about = {
        "CELLS": "Every cell that `torch.nn` has, under the name by which files refer to it.",
        "DECLARED": "These, and the cells that `torch.nn` lacks and `rs.Recurrent` runs.",
    }[name]
    shown = f">>> import rnnscope as rs\n>>> sorted(rs.{module}.{name})\n{sorted(thing)!r}"
    return f"## `rs.{module}.{name}` {{ #rnnscope.{module}.{name} }}\n\n{about}\n\n{fenced(shown)}"


def fenced(example: str) -> str:
    """An example as a block of code."""
    return f"```pycon\n{example}\n```"


def first_sentence(thing: Any) -> str:
    """The first sentence of a docstring, as Markdown."""
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    sentence = re.split(r"(?<=[.:;])\s", " ".join(paragraph.split()) + " ", maxsplit=1)[0]
    return docstrings.inline(sentence).rstrip(".:;").replace("|", "\\|")


def overview() -> str:
    """The first page of the reference: every public name in one table for each page."""
    pieces = [
        "# Every public name",
        "The reference, from the docstrings. The examples are run by the tests; they assume",
        fenced(">>> import torch, rnnscope as rs\n>>> from torch import nn"),
        "`tr` is a trace, `g` its gradients, `seen` what a watch saw. The command line has "
        "[a page of its own](command-line.md).",
    ]
    for group in GROUPS:
        names: list[tuple[str, str]]
        if group.page in MODULES:
            names = [
                (f"{group.page}.{name}", f"rs.{group.page}.{name}")
                for name in MODULES[group.page].__all__
            ]
            if group.page == "plot":
                names.insert(0, ("plot", "rs.plot"))
            if group.page == "errors":
                names = [(name, written.replace(".errors", "")) for name, written in names]
        else:
            names = [(name, f"rs.{name}") for name in group.names]
        rows = []
        for name, written in names:
            thing = value(name)
            if isinstance(thing, cells.Cell):
                about = f"the cell of `{equations.layer_of(name.rpartition('.')[2], thing)}`"
            elif isinstance(thing, dict):
                about = f"a mapping: {len(thing)} cells by name"
            else:
                about = first_sentence(thing)
            rows.append(f"| [`{written}`]({group.page}.md#rnnscope.{name}) | {about} |")
        pieces.append(f"## [{group.title}]({group.page}.md) {{ #{group.page} }}")
        pieces.append("\n".join(["| Name | What it is |", "|---|---|", *rows]))
    return "\n\n".join(pieces) + "\n"


def written_anchors() -> dict[str, str]:
    """From code as a user writes it, up to its first bracket, to the place in the reference.

    ``tr.`` stands for a trace, ``seen.`` for what a watch saw, ``g.`` for gradients.
    """
    anchors = {
        f"rs.{name}": f"reference/{page}.html#rnnscope.{name}" for name, page in places().items()
    }
    for name in places():
        if name[0].isupper():  # a class; its name alone says what it is
            anchors[name] = anchors[f"rnnscope.{name}"] = anchors[f"rs.{name}"]
    for written, (page, path) in OBJECTS.items():
        kind = value(path) if path in rnnscope.__all__ else imported(path)
        own = own_members(kind)
        for name in members(kind):
            home = f"{page}.html#rnnscope.{path}" if name in own else "trace.html#rnnscope.Trace"
            place = f"reference/{home}.{name}"
            anchors[f"{written}.{name}"] = anchors[f"{kind.__name__}.{name}"] = place
    return anchors


def command_line() -> str:
    """The commands of ``rnnscope`` with their arguments and options, from the program itself."""
    import typer

    from rnnscope._cli.commands import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    pieces = [
        "# The command line",
        "The command `rnnscope` asks the same questions without a script. An error is one line and "
        "exit code 2.",
    ]
    for name, command in commands.items():
        rows = []
        for parameter in command.params:
            about = getattr(parameter, "help", None)
            if about is None or getattr(parameter, "hidden", False):
                continue
            if parameter.param_type_name == "argument":
                written = f"`{parameter.name.upper()}`"
            else:
                written = ", ".join(
                    f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts)
                )
            rows.append(f"| {written} | {cell_text(about)} |")
        text = inspect.cleandoc(command.help or "")
        pieces.append(f"## `rnnscope {name}` {{ #{name} }}")
        pieces.append(prose(text))
        if rows:
            pieces.append("\n".join(["| Argument or option | What it says |", "|---|---|", *rows]))
    return "\n\n".join(pieces) + "\n"


def prose(text: str) -> str:
    """The help of a command: paragraphs, with what is set off by indentation as code."""
    pieces = []
    for paragraph in text.replace("\b\n", "").split("\n\n"):
        lines = paragraph.splitlines()
        if lines and all(line.startswith("  ") for line in lines):
            pieces.append("```text\n" + inspect.cleandoc("\n" + paragraph) + "\n```")
        else:
            pieces.append(OPTION.sub(r"`\g<0>`", escape(docstrings.inline(paragraph), quote=False)))
    return "\n\n".join(pieces)


def cell_text(text: str) -> str:
    """A text inside a cell of a table."""
    return OPTION.sub(r"`\g<0>`", escape(" ".join(text.split()), quote=False)).replace("|", "\\|")
