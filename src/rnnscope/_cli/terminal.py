"""How commands print and fail: text in several forms; errors as one line and exit code 2."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import typer
from typer.core import TyperGroup

from rnnscope._cli.choices import Format
from rnnscope._escaping import lines, printable
from rnnscope.errors import AddressError, RnnscopeError

__all__ = ["ArgumentError", "Format", "OneLine", "note", "say", "show"]

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # the last two as a shell reports the signals
# the one error that typer and the click inside or beside it have in common
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


class ArgumentError(RnnscopeError):
    """Arguments of a command that do not fit together."""


class OneLine(TyperGroup):
    """A group of commands whose errors are one line on stderr, never a traceback."""

    def main(self, args: Sequence[str] | None = None, *extra: Any, **options: Any) -> Any:
        """Run a command; ends the process with its exit code."""
        options["standalone_mode"] = False
        if sys.stdout is None:  # closed, as by >&-
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that lacks σ shows ?
        code = 0
        try:
            with warnings.catch_warnings():
                # how torch computes it is no news to a reader of numbers
                warnings.filterwarnings("ignore", message=".*not supported with oneDNN")
                code = super().main(args, *extra, **options) or 0
                sys.stdout.flush()
        except BrokenPipeError:  # whoever read it has read enough, as in `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except _UsageError as error:
            code = _complain(error.format_message())  # type: ignore[attr-defined]
        except AddressError as error:
            code = _complain(_advice(str(error)))
        except (RnnscopeError, OSError) as error:
            code = _complain(str(error))
        except MemoryError:
            code = _complain("not enough memory for these sizes")
        sys.exit(code)


def _complain(message: str) -> int:
    print(printable(f"rnnscope: {' '.join(message.split())}"), file=sys.stderr)
    return USAGE


class Printable(Protocol):
    """What can be printed in several forms."""

    def markdown(self) -> str: ...
    def data(self) -> dict[str, Any]: ...


_OPTIONS = {"layer": "--at-layer"} | {
    axis: f"--{axis}" for axis in ("direction", "batch", "time", "unit")
}
_ADDRESS = re.compile(rf"\b({'|'.join(_OPTIONS)})=(?:\"(\w+)\"|(-?\d+)|(\.\.\.))")


def in_options(text: str) -> str:
    """Addresses of Python as options of the command: there is no ``tr`` in a shell.

    >>> in_options('h_1 is h at time=0: tr.explain("h", layer=1, time=0)')
    'h_1 is h at time=0: --name h --at-layer 1 --time 0'
    """

    def call(match: re.Match[str]) -> str:
        words = [f"--name {match[1]}"] if match[1] else []
        for axis, *values in _ADDRESS.findall(match[2]):
            word = "".join(values)
            words.append(f"{_OPTIONS[axis]} {'0' if word == '...' else word}")
        return " ".join(words)

    text = re.sub(r"\beffort=(\d+(?:\.\d+)?)", r"--effort \1", text)
    return re.sub(r'tr\.explain\((?:"(\w+)"(?:, )?)?([^()]*)\)', call, text)


def _advice(message: str) -> str:
    """What to write, where a message says it in Python: write layer=0 to layer=1."""
    head, write, tail = message.partition("write ")
    return (
        head + write + _ADDRESS.sub(lambda m: f"{_OPTIONS[m[1]]} {''.join(m.groups('')[1:])}", tail)
    )


def say(text: str) -> None:
    """Print lines, in which names of files and layers do nothing to the terminal."""
    typer.echo(lines(text))


def note(text: str) -> None:
    """A line on stderr, beside what is printed: what an option does not do, or a question."""
    print(printable(f"rnnscope: {text}"), file=sys.stderr)


def show(answer: Printable, form: Format, command: str = "explain") -> None:
    """Print in a form; in colours where stdout is a terminal. Errors name the ``command``."""
    if form is Format.json:
        text = json.dumps(_jsonable(answer.data()), ensure_ascii=False, indent=2)
        typer.echo("\n".join(map(_unicode_escaped, text.split("\n"))))
    elif form is Format.markdown:
        say(answer.markdown().rstrip("\n"))
    elif form is Format.latex:
        if not hasattr(answer, "latex"):
            raise ArgumentError(f"{command} prints no formulas: text, markdown or json")
        say(answer.latex().rstrip("\n"))
    elif sys.stdout.isatty() and hasattr(answer, "__rich__"):
        from rich.console import Console  # a plain text needs no colours

        # long lines are left to the terminal: broken ones would misplace what stands below
        console = Console(highlight=False)
        with console.capture() as captured:
            console.print(answer, soft_wrap=True)
        sys.stdout.write(in_options(captured.get()))
    else:
        say(in_options(str(answer)).rstrip("\n"))


def _unicode_escaped(line: str) -> str:
    """A line of JSON that a terminal shows and does not obey, equal to what it was for a reader."""
    if line.isprintable():
        return line
    return "".join(sign if printable(sign) == sign else json.dumps(sign)[1:-1] for sign in line)


def _jsonable(value: Any) -> Any:
    """The same without NaN and inf, which JSON lacks: they become strings."""
    if isinstance(value, dict):
        return {str(key): _jsonable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
