"""The page of equations: every cell that is declared, as it is declared."""

from __future__ import annotations

from html import escape

from rnnscope import cells
from rnnscope.cells import notation

HEAD = """\
# The equations of every cell

Each cell is declared once, in `rnnscope.cells`. These equations, the numbers of a trace, its
explanations, its gradients and its page all derive from that declaration. x<sub>t</sub> is the
input of a step; ⊙ multiplies unit by unit; σ is the logistic function. Biases are left out of a
layer with `bias=False`.

In the reverse direction the state before is that of the step t + 1. In a layer above the first,
x<sub>t</sub> is the output of the layer below.

| Cell | Layer | Source |
|---|---|---|
"""

LAYERS = {
    "rnn_tanh": "nn.RNN",
    "rnn_relu": "nn.RNN(nonlinearity='relu')",
    "gru": "nn.GRU",
    "lstm": "nn.LSTM",
    "lstm_projected": "nn.LSTM(proj_size=P)",
}
"""The layers of PyTorch that compute each cell; the others are run by ``rs.Recurrent``."""


def public_cells() -> dict[str, cells.Cell]:
    """Every cell that ``rnnscope.cells`` has, by its name there."""
    values = {name: getattr(cells, name) for name in cells.__all__}
    named = {name: value for name, value in values.items() if isinstance(value, cells.Cell)}
    unnamed = [key for key, cell in cells.DECLARED.items() if cell not in named.values()]
    if unnamed:
        raise LookupError(f"declared, but without a public name in rnnscope.cells: {unnamed}")
    return dict(sorted(named.items(), key=lambda item: _place(item[1])))


def _place(cell: cells.Cell) -> int:
    declared = list(cells.DECLARED.values())
    return next((k for k, known in enumerate(declared) if known is cell), len(declared))


def title(name: str, cell: cells.Cell) -> str:
    """What a cell is called in headings."""
    key = next((key for key, known in cells.DECLARED.items() if known is cell), None)
    return {
        "rnn_tanh": "RNN",
        "rnn_relu": "RNN with relu",
        "lstm_projected": "LSTM with projection",
        "gru_reset_before": "GRU with the reset before the product",
    }.get(key or "", cell.name)


def layer_of(name: str, cell: cells.Cell) -> str:
    """How a layer of this cell is written."""
    for key, layer in LAYERS.items():
        if cells.DECLARED[key] is cell:
            return layer
    return f"rs.Recurrent(rs.cells.{name}, …)"


def page() -> str:
    """The whole page, as Markdown with MathML inside."""
    public = public_cells()
    rows = [
        f"| [{title(name, cell)}](#{name.lower()}) | `{layer_of(name, cell)}` | {cell.source} |"
        for name, cell in public.items()
    ]
    sections = [section(name, cell) for name, cell in public.items()]
    return HEAD + "\n".join([*rows, "", *sections, functions(), ""])


def section(name: str, cell: cells.Cell) -> str:
    """One cell: equations, what each quantity is called, where it comes from."""
    layout = notation.Notation()
    lines = []
    for quantity, expression in cell.equations.items():
        equation = layout.equation(quantity, expression)
        word = cell.words.get(quantity, "")
        formula = notation.mathml(equation).replace("<math>", '<math display="block">', 1)
        lines.append(
            f'<div class="equation" role="listitem"><div class="formula">{formula}</div>'
            f'<div class="word">{escape(word)}</div></div>'
        )
    plain = "\n".join(
        notation.text(layout.equation(quantity, expression))
        for quantity, expression in cell.equations.items()
    )
    latex = "\n".join(
        notation.latex(layout.equation(quantity, expression))
        for quantity, expression in cell.equations.items()
    )
    parts = [
        f"## {title(name, cell)} {{ #{name.lower()} }}",
        f"`rs.cells.{name}`, as `{layer_of(name, cell)}`.",
        '<div class="equations" role="list">\n' + "\n".join(lines) + "\n</div>",
        f"**Source**: {cell.source}.",
    ]
    if cell.departures:
        parts.append(f"**Departures from it**: {cell.departures}.")
    states = ", ".join(f"`{state}`" for state in cell.states)
    parts.append(f"Carried from step to step: {states}.")
    parts.append(f'=== "As text"\n\n{indented(fenced(plain, "text"))}')
    parts.append(f'=== "As LaTeX"\n\n{indented(fenced(latex, "latex"))}')
    return "\n\n".join(parts) + "\n"


def functions() -> str:
    """The table of elementwise functions that an equation may use."""
    from rnnscope.cells.functions import FAMILIES, FUNCTIONS

    rows = []
    for name, function in FUNCTIONS.items():
        span = "without bound" if function.range is None else "{:g} to {:g}".format(*function.range)
        rows.append(f"| `{name}` | {escape(function.symbol)} | {span} | {function.steepest:g} |")
    families = ", ".join(f"`{name}`" for name in FAMILIES)
    return (
        "## The functions that a cell may use { #functions }\n\n"
        "By name in `rs.cells.apply(name, argument)`; `rs.cells.Function` declares one of your own.\n\n"
        "| Name | Written | Values | Steepest slope |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nWith parameters in the name, as in `leaky_relu(0.01)`: {families}.\n"
    )


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def indented(text: str) -> str:
    """Four spaces in front of every line."""
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())
