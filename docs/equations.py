"""The page of equations, from the declared cells: `python docs/equations.py` renews it.

It writes docs/equations.md: every cell that is declared in `rnnscope.cells`, as it is declared. A
test holds it current.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from rnnscope import cells
from rnnscope.cells import notation
from rnnscope.cells.functions import FAMILIES, FUNCTIONS

PAGE = Path(__file__).resolve().parent / "equations.md"

HEAD = """\
# The equations of every cell

Each cell is declared once, in `rnnscope.cells`. These equations, the numbers of a trace, its
explanations, its gradients and its page all derive from that declaration. $x_t$ is the input of a
step; in a layer above the first it is the output of the layer below. $\\odot$ multiplies unit by
unit, $\\sigma$ is the logistic function. In the reverse direction the step before is $t + 1$.
A layer with `bias=False` has the same equations without the biases.

This page is written by `python docs/equations.py`.

| Cell | Layer | Source |
| --- | --- | --- |
"""

TITLES = {
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN with relu",
    "lstm_projected": "LSTM with projection",
    "gru_reset_before": "GRU with the reset before the product",
}
"""What cells are called that share their own name with another cell."""

LAYERS = {
    "rnn_tanh": "nn.RNN",
    "rnn_relu": "nn.RNN(nonlinearity='relu')",
    "gru": "nn.GRU",
    "lstm": "nn.LSTM",
    "lstm_projected": "nn.LSTM(proj_size=P)",
}
"""The layers of PyTorch that compute each cell; the others are run by ``rs.Recurrent``."""


def public_cells() -> dict[str, cells.Cell]:
    """Every cell that ``rnnscope.cells`` has, by its name there, in the order of ``DECLARED``.

    Raises ``LookupError`` for a declared cell without a public name.
    """
    values = {name: getattr(cells, name) for name in cells.__all__}
    named = {name: value for name, value in values.items() if isinstance(value, cells.Cell)}
    unnamed = [key for key, cell in cells.DECLARED.items() if cell not in named.values()]
    if unnamed:
        raise LookupError(f"declared, but without a public name in rnnscope.cells: {unnamed}")
    order = list(cells.DECLARED)
    return dict(sorted(named.items(), key=lambda item: (*order, None).index(key_of(item[1]))))


def key_of(cell: cells.Cell) -> str | None:
    """The name of a cell in ``DECLARED``."""
    return next((key for key, known in cells.DECLARED.items() if known is cell), None)


def title(cell: cells.Cell) -> str:
    """What a cell is called on the page."""
    return TITLES.get(key_of(cell) or "", cell.name)


def heading(cell: cells.Cell) -> str:
    """The heading of a cell's section, with the words and the module that one searches for."""
    module = LAYERS.get(key_of(cell) or "", "").partition("(")[0]
    return f"Equations of the {title(cell)}" + (f" ({module})" if module else "")


def layer_of(name: str, cell: cells.Cell) -> str:
    """How a layer of this cell is written."""
    return LAYERS.get(key_of(cell) or "", f"rs.Recurrent(rs.cells.{name}, …)")


def page() -> str:
    """The whole page."""
    public = public_cells()
    rows = [
        f"| [{title(cell)}](#{anchor(name)}) | `{layer_of(name, cell)}` | {cell.source} |"
        for name, cell in public.items()
    ]
    sections = [section(name, cell) for name, cell in public.items()]
    return HEAD + "\n".join([*rows, "", *sections, functions()])


def anchor(name: str) -> str:
    """The place of a cell in the page."""
    return f"cell-{name.lower()}"


def section(name: str, cell: cells.Cell) -> str:
    """One cell: its equations, what each quantity is called, where it comes from."""
    layout = notation.Notation()
    equations = [layout.equation(*item) for item in cell.equations.items()]
    rows = [
        f"| ${notation.latex(equation)}$ | {cell.words.get(quantity, '')} |"
        for quantity, equation in zip(cell.equations, equations, strict=True)
    ]
    states = " and ".join(f"`{state}`" for state in cell.states)
    parts = [
        f'<a id="{anchor(name)}"></a>\n\n## {heading(cell)}',
        f"`rs.cells.{name}`; a layer of it is `{layer_of(name, cell)}`.",
        "\n".join(["| Equation | What it gives |", "| --- | --- |", *rows]),
        f"Carried from step to step: {states}. Source: {cell.source}."
        + (f" Departures from the source: {cell.departures}." if cell.departures else ""),
        "As text:",
        fenced("\n".join(map(notation.text, equations)), "text"),
        '<details markdown="1">\n<summary>As LaTeX</summary>',
        fenced("\n".join(map(notation.latex, equations)), "latex"),
        "</details>",
    ]
    return "\n\n".join(parts) + "\n"


def functions() -> str:
    """The table of elementwise functions that an equation may use."""
    rows = []
    for name, function in FUNCTIONS.items():
        low, high = function.range or (None, None)
        span = "no largest" if low is None else f"{low:g} to {high:g}"
        rows.append(f"| `{name}` | {escape(function.symbol)} | {span} | {function.steepest:g} |")
    families = ", ".join(f"`{name}`" for name in FAMILIES)
    return "\n".join(
        [
            "## The functions that a cell may use",
            "",
            "By name in `rs.cells.apply(name, argument)`; `rs.cells.Function` declares another.",
            "",
            "| Name | Written | Values | Steepest slope |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"With parameters in the name, as in `leaky_relu(0.01)`: {families}.",
            "",
        ]
    )


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
