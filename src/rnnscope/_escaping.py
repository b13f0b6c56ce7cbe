"""Text of strangers (names in files, labels, messages of others): it is shown, and does nothing.

A name may hold what a terminal, Markdown or LaTeX would obey: colours, a line that is wiped, text
that runs backwards, an element of HTML, the end of a block. Everything that prints passes here.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["code", "fenced", "latex", "lines", "markdown", "printable", "verbatim"]

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that do something: controls, formats, halves of pairs, ends of lines."""
_JOINERS = "\u200c\u200d"
"""Formats that letters of some scripts, and signs such as families, are made with."""


def printable(text: str) -> str:
    r"""One line of text, with what a terminal would obey written out.

    >>> printable("red\x1b[31m, two\nlines, \u202esdrawkcab")
    'red\\x1b[31m, two\\nlines, \\u202esdrawkcab'
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(sign: str) -> str:
    if unicodedata.category(sign) in _OBEYED and sign not in _JOINERS:
        return sign.encode("unicode_escape").decode("ascii")
    return sign


def lines(text: str) -> str:
    """Lines of text, each printable; what ends a line is the newline alone."""
    return "\n".join(map(printable, text.split("\n")))


# Markdown --------------------------------------------------------------------------------------

_MARKDOWN = {c: f"\\{c}" for c in "|_*"} | {c: f"&#{ord(c)};" for c in "<>&`$\\"}


def markdown(text: str) -> str:
    r"""Words in one line of Markdown, a cell of a table too: no element, no link, no formula.

    >>> markdown("W_hh | <b> [x](y)")
    'W\\_hh \\| &#60;b&#62; [x\\](y)'
    """
    written = "".join(_MARKDOWN.get(sign, sign) for sign in printable(text))
    return re.sub(r"\](?=[(\[:])", r"\\]", written)


def code(text: str) -> str:
    """Code within a line of Markdown.

    >>> code("h[-1]"), code("a`b")
    ('`h[-1]`', '`` a`b ``')
    """
    ticks = "`" * (_longest(text, "`") + 1)
    gap = " " * (len(ticks) > 1)
    return f"{ticks}{gap}{printable(text)}{gap}{ticks}"


def fenced(text: str) -> str:
    """A block of Markdown that keeps its columns."""
    fence = "`" * max(_longest(text, "`") + 1, 3)
    return f"{fence}\n{lines(text)}\n{fence}"


def _longest(text: str, sign: str) -> int:
    """The longest run of a sign."""
    return max(map(len, re.findall(re.escape(sign) + "+", text)), default=0)


# LaTeX -----------------------------------------------------------------------------------------

_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "σ": r"$\sigma$",
    "⊙": r"$\odot$",
    "–": "--",
}


def latex(text: str) -> str:
    """Words in LaTeX, outside of formulas."""
    return "".join(_LATEX.get(sign, sign) for sign in printable(text))


def verbatim(text: str) -> str:
    """Lines of code in LaTeX."""
    inside = lines(text).replace(r"\end{verbatim}", r"\end {verbatim}")
    return f"\\begin{{verbatim}}\n{inside}\n\\end{{verbatim}}"
