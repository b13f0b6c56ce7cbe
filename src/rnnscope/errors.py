"""Everything that rnnscope raises on purpose.

    RnnscopeError
    ├── NotRecurrentError  (TypeError)    the module holds no recurrent layer that can be meant
    ├── RefusedError       (TypeError)    a recurrent layer that cannot be opened, with the reason
    ├── ShapeError         (ValueError)   a tensor has the wrong number of dims or a wrong size
    ├── DtypeError         (TypeError)    a tensor has a type of number the layer does not take
    ├── AddressError       (KeyError)     a name or a coordinate that the record does not hold
    ├── DeclarationError   (ValueError)   a cell's equations do not fit together
    ├── FileError          (ValueError)   a file is missing, damaged or of another kind
    ├── GradientError      (RuntimeError) a gradient that cannot be had, with the reason
    ├── MissingExtraError  (ImportError)  an optional dependency is not installed
    ├── VerificationError  (RuntimeError) the equations do not give the layer's own numbers
    ├── CandidateError     (RuntimeError) what is to be compared raised, which is its cause
    └── BatchError         (RuntimeError) a batch of a data set raised, which is its cause

Each is also the built-in exception that a caller would expect, so that
``except ValueError`` goes on working.
"""

from __future__ import annotations

from rnnscope._escaping import printable

__all__ = [
    "AddressError",
    "BatchError",
    "CandidateError",
    "DeclarationError",
    "DtypeError",
    "FileError",
    "GradientError",
    "MissingExtraError",
    "NotRecurrentError",
    "RefusedError",
    "RnnscopeError",
    "ShapeError",
    "VerificationError",
]


class RnnscopeError(Exception):
    """The root of the tree: catch this to catch all of rnnscope's errors."""

    def __str__(self) -> str:
        """The message, in which names of files, layers and arrays do nothing to a terminal."""
        return printable(super().__str__())


class NotRecurrentError(RnnscopeError, TypeError):
    """The module is not a recurrent layer, or holds none."""


class RefusedError(RnnscopeError, TypeError):
    """A recurrent layer that cannot be opened exactly; the message says why."""


class ShapeError(RnnscopeError, ValueError):
    """A tensor has the wrong number of dims, or a wrong size."""


class DtypeError(RnnscopeError, TypeError):
    """A tensor has a type of number that the layer does not take."""


class AddressError(RnnscopeError, KeyError):
    """A name or coordinate that the record does not hold."""

    def __str__(self) -> str:
        """The message as written (a plain KeyError would put it in quotes)."""
        return printable(str(self.args[0])) if self.args else ""


class DeclarationError(RnnscopeError, ValueError):
    """The equations of a declared cell do not fit together."""


class FileError(RnnscopeError, ValueError):
    """A file is missing, damaged, or not what its name says."""


class GradientError(RnnscopeError, RuntimeError):
    """A gradient that cannot be had: no graph leads to the trace, or it is gone."""


class MissingExtraError(RnnscopeError, ImportError):
    """An optional dependency is needed and not installed; the message names the extra."""


class VerificationError(RnnscopeError, RuntimeError):
    """The equations do not give the layer's own numbers; the message names the place."""


class CandidateError(RnnscopeError, RuntimeError):
    """The candidate raised: its own exception, with its traceback, is the ``__cause__``."""


class BatchError(RnnscopeError, RuntimeError):
    """A batch that is recorded raised: the exception, with its traceback, is the ``__cause__``."""
