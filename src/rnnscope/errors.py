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
    """The root of the tree: catch this to catch all of rnnscope's errors.

    >>> import torch, rnnscope as rs
    >>> try:
    ...     rs.trace(torch.nn.Linear(3, 4), torch.randn(2, 3))
    ... except rs.RnnscopeError as error:
    ...     print(type(error).__name__)
    NotRecurrentError
    """

    def __str__(self) -> str:
        """The message, in which names of files, layers and arrays do nothing to a terminal."""
        return printable(super().__str__())


class NotRecurrentError(RnnscopeError, TypeError):
    """The module is not a recurrent layer, or holds none.

    >>> import torch, rnnscope as rs
    >>> rs.trace(torch.nn.Linear(3, 4), torch.randn(2, 3))
    Traceback (most recent call last):
    rnnscope.errors.NotRecurrentError: ...
    """


class RefusedError(RnnscopeError, TypeError):
    """A recurrent layer that cannot be opened exactly; the message says why.

    >>> import torch, rnnscope as rs
    >>> rs.trace(torch.nn.GRU(3, 4, device="meta"), torch.randn(5, 1, 3, device="meta"))
    Traceback (most recent call last):
    rnnscope.errors.RefusedError: ...
    """


class ShapeError(RnnscopeError, ValueError):
    """A tensor has the wrong number of dims, or a wrong size.

    >>> import torch, rnnscope as rs
    >>> rs.trace(torch.nn.RNN(1, 1), torch.tensor([3.0, 4.0, 5.0]))
    Traceback (most recent call last):
    rnnscope.errors.ShapeError: x must be ...
    """


class DtypeError(RnnscopeError, TypeError):
    """A tensor has a type of number that the layer does not take.

    >>> import torch, rnnscope as rs
    >>> rs.trace(torch.nn.RNN(1, 1), torch.tensor([[3], [4], [5]]))
    Traceback (most recent call last):
    rnnscope.errors.DtypeError: ...
    """


class AddressError(RnnscopeError, KeyError):
    """A name or coordinate that the record does not hold.

    >>> import torch, rnnscope as rs
    >>> rs.trace(torch.nn.GRU(3, 4), torch.randn(5, 1, 3))["f"]
    Traceback (most recent call last):
    rnnscope.errors.AddressError: ...
    """

    def __str__(self) -> str:
        """The message as written (a plain KeyError would put it in quotes)."""
        return printable(str(self.args[0])) if self.args else ""


class DeclarationError(RnnscopeError, ValueError):
    """The equations of a declared cell do not fit together.

    >>> import torch, rnnscope as rs
    >>> rs.Cell("memory without an h", "c", {"c": rs.cells.from_x("c")})
    Traceback (most recent call last):
    rnnscope.errors.DeclarationError: cell memory without an h: no equation for h, ...
    """


class FileError(RnnscopeError, ValueError):
    """A file is missing, damaged, or not what its name says.

    >>> import torch, rnnscope as rs
    >>> rs.load("missing.safetensors")
    Traceback (most recent call last):
    rnnscope.errors.FileError: ...
    """


class GradientError(RnnscopeError, RuntimeError):
    """A gradient that cannot be had: no graph leads to the trace, or it is gone.

    >>> import torch, rnnscope as rs
    >>> tr = rs.trace(torch.nn.GRU(3, 4), torch.randn(5, 1, 3))
    >>> tr.gradients(tr.output.detach().sum())
    Traceback (most recent call last):
    rnnscope.errors.GradientError: ...
    """


class MissingExtraError(RnnscopeError, ImportError):
    """An optional dependency is needed and not installed; the message names the extra.

    >>> import torch, rnnscope as rs
    >>> issubclass(rs.MissingExtraError, ImportError)
    True
    """


class VerificationError(RnnscopeError, RuntimeError):
    """The equations do not give the layer's own numbers; the message names the place.

    >>> import torch, rnnscope as rs
    >>> class Doubled(torch.nn.RNN):
    ...     def forward(self, x, h=None):
    ...         output, h_n = super().forward(x, h)
    ...         return 2 * output, 2 * h_n
    >>> rs.trace(Doubled(3, 4), torch.randn(5, 1, 3), cells={Doubled: rs.cells.RNN_TANH})
    Traceback (most recent call last):
    rnnscope.errors.VerificationError: ...
    """


class CandidateError(RnnscopeError, RuntimeError):
    """The candidate raised: its own exception, with its traceback, is the ``__cause__``.

    >>> import torch, rnnscope as rs
    >>> def unfinished(x):
    ...     raise NotImplementedError("the reset gate")
    >>> rs.compare(unfinished, torch.nn.GRU(3, 4))
    Traceback (most recent call last):
    rnnscope.errors.CandidateError: ...
    """


class BatchError(RnnscopeError, RuntimeError):
    """A batch that is recorded raised: the exception, with its traceback, is the ``__cause__``.

    >>> import torch, rnnscope as rs
    >>> issubclass(rs.BatchError, RuntimeError)
    True
    """
