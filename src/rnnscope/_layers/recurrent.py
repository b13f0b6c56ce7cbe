"""Recurrent: a module that runs any declared cell as ``nn.LSTM`` runs its own.

Made of plain operations, step by step, so that autograd, ``torch.func`` and ``torch.compile``
can follow; where nothing of them follows, a kernel runs it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.adopt import Adopted, Declared, adopt
from rnnscope._layers.attention import attention
from rnnscope._layers.call import Call
from rnnscope._layers.observers import numbers_alone
from rnnscope._layers.run import CallByEquations, run_call
from rnnscope._layers.structure import Structure, Weights
from rnnscope.cells import DECLARED, LSTM, LSTM_PROJECTED, Cell, as_declared
from rnnscope.errors import DeclarationError, RefusedError, ShapeError

__all__ = ["CELL_KEY", "Recurrent", "unfuse"]

CELL_KEY = "rnnscope.cell"
"""Under which a state dict's metadata, beside the version, says which cell a module has."""


class Recurrent(Declared):
    """A declared cell over time: layers, directions, packed input and states as ``nn.LSTM`` has.

    ``x`` is (time, batch, input), with ``batch_first`` (batch, time, input), unbatched
    (time, input), or a PackedSequence; the initial state is one tensor
    (layers × directions, batch, hidden), or a tuple of them in the order of ``cell.states``.
    Returned are the output, h of the last layer at every step, and the last states in the form of
    the initial ones. ``reverse`` runs from the end only. With ``proj_size``, h has that size, in a
    cell that declares it by ``project``.

    Parameters are named as PyTorch's (``weight_ih_l0``, ``bias_hh_l1_reverse``; a vector parameter
    ``peephole_i`` is ``peephole_i_l0``) and drawn as PyTorch draws them, so the state dict of an
    ``nn.LSTM`` fits a ``Recurrent`` of the ``LSTM`` cell, in both ways. There are the rows of those
    gates whose equations use them: a cell without ``from_h`` has no ``weight_hh``.

    It runs step by step by plain operations of torch. Without gradients (``torch.no_grad()``), and
    where nothing else looks at the operations, a kernel runs a call that is large enough, or after
    ``rnnscope.warm_up(cell)`` any of more than a few steps: the same numbers but for rounding.

    >>> from rnnscope.cells import LSTM_PEEPHOLE
    >>> layer = Recurrent(LSTM_PEEPHOLE, 3, 5, num_layers=2, bidirectional=True)
    >>> output, (h_n, c_n) = layer(torch.randn(7, 2, 3))
    >>> output.shape, c_n.shape
    (torch.Size([7, 2, 10]), torch.Size([4, 2, 5]))
    >>> layer.peephole_o_l1_reverse.shape
    torch.Size([5])

    Raises ``ShapeError`` for sizes that no layer has, ``DeclarationError`` for a cell that does
    not fit the options, and ``ShapeError`` and ``DtypeError`` for a call that it cannot take.
    """

    _plain = False  # of ``unfuse``: plain operations, whatever is asked for

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        reverse: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if proj_size and cell is LSTM:
            cell = LSTM_PROJECTED  # as nn.LSTM does
        self.cell = cell
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.reverse = float(dropout), bidirectional, reverse
        self.proj_size = proj_size
        self._check()
        for layer in range(num_layers):
            for end in self.structure.suffixes(layer):
                for name, shape in self._shapes(layer).items():
                    empty = torch.empty(shape, device=device, dtype=dtype)
                    setattr(self, name + end, nn.Parameter(empty))
        self.reset_parameters()

    def _check(self) -> None:
        cell = self.cell
        if not isinstance(cell, Cell):
            raise DeclarationError(
                f"Recurrent takes a Cell, such as rnnscope.cells.LSTM_PEEPHOLE; got {cell!r}"
            )
        sizes = {"input_size": self.input_size, "hidden_size": self.hidden_size}
        for name, size in (sizes | {"num_layers": self.num_layers}).items():
            if size < 1:
                raise ShapeError(f"{name} must be at least 1; got {size}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be between 0 and 1; got {self.dropout}")
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout} drops between layers, and there is one", stacklevel=3
            )
        if self.reverse and self.bidirectional:
            raise ValueError("reverse runs from the end only, bidirectional from both: choose one")
        _ = (
            cell.states,
            cell.affine,
            cell.gates_from_x,
            cell.gates_from_h,
        )  # known from here on: torch.compile cannot follow how
        if not cell.gates:
            raise DeclarationError(f"cell {cell.name} names no gate, so it would have no weights")
        if cell.projected != bool(self.proj_size):
            does = (
                "projects h, and needs a proj_size"
                if cell.projected
                else ("does not project h; declare h as project(...) for a proj_size")
            )
            raise DeclarationError(f"cell {cell.name} {does}; got proj_size={self.proj_size}")
        if not 0 <= self.proj_size < self.hidden_size:
            raise ShapeError(
                f"proj_size must be smaller than hidden_size={self.hidden_size}; "
                f"got {self.proj_size}"
            )
        for name in cell.vectors:
            if not name.isidentifier() or name.startswith(("weight_", "bias_")):
                raise DeclarationError(
                    f"cell {cell.name}: the vector {name!r} cannot name a parameter; write a word "
                    f"of letters, digits and _ that begins neither with weight_ nor with bias_"
                )

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """The parameters of one direction, in PyTorch's order: what the equations use."""
        structure = self.structure
        of_x = len(self.cell.gates_from_x) * self.hidden_size
        of_h = len(self.cell.gates_from_h) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (of_x, structure.feature_size(layer)),
            "weight_hh": (of_h, structure.output_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (of_x,), "bias_hh": (of_h,)}
        shapes = {name: shape for name, shape in shapes.items() if shape[0]}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        return shapes | dict.fromkeys(self.cell.vectors, (self.hidden_size,))

    def reset_parameters(self) -> None:
        """Draw every parameter between -1/√hidden and 1/√hidden, in the order of PyTorch's."""
        limit = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -limit, limit)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # the parameters' names are PyTorch's, and do not tell: a GRU that resets before the
        # product has those of nn.GRU
        super()._save_to_state_dict(destination, prefix, keep_vars)
        library_cell = as_declared(self.cell)
        name = next((key for key, cell in DECLARED.items() if cell is library_cell), None)
        metadata = getattr(destination, "_metadata", {})
        metadata.setdefault(prefix[:-1], {})[CELL_KEY] = name or f"own: {self.cell.name}"

    @property
    def structure(self) -> Structure:
        """The cell, sizes and options as they are now."""
        return Structure(
            kind="rs.Recurrent",
            cell=self.cell,
            input_size=self.input_size,
            hidden_size=self.hidden_size,
            output_size=self.proj_size or self.hidden_size,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            bias=self.bias,
            batch_first=self.batch_first,
            dropout=self.dropout,
            single_step=False,
            training=self.training,
            reverse=self.reverse,
            declared=True,
        )

    def weights(self) -> tuple[tuple[Weights, ...], ...]:
        """The parameters by layer and direction, not copied."""
        structure = self.structure
        return tuple(
            tuple(self._of(layer, end) for end in structure.suffixes(layer))
            for layer in range(self.num_layers)
        )

    def _of(self, layer: int, end: str) -> Weights:
        structure = self.structure
        named = {name + end: getattr(self, name + end) for name in self._shapes(layer)}
        sizes = (self.hidden_size, structure.feature_size(layer), structure.output_size)
        return Weights.of_named(self.cell, named, end, sizes)

    def flatten_parameters(self) -> None:
        """Nothing: for models that call it of their ``nn.LSTM``; there is no flat copy here."""

    def refusal(self) -> str | None:
        """Why it cannot be opened: a subclass that computes in a way of its own."""
        kind = type(self)
        if "forward" in vars(self) or kind.forward is not Recurrent.forward:
            name = f"{kind.__module__}.{kind.__qualname__}"
            return f"{name} replaces the forward of rs.Recurrent; nothing is known of its own"
        return None

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """(output, h_n), or (output, (h_n, c_n, ...)) where the cell has more states."""
        # a compiled graph is not listened to; what pays attention would break it
        graph = torch.compiler.is_compiling()
        listener = None if graph else attention()
        if listener is not None and listener.module is not self:
            listener = None
        call = Adopted.of(self).call((input, hx), {}, live=True)
        record = frozenset() if listener is None else listener.record
        weights = self.weights()
        compiled = not graph and self._numbers_alone(call, weights)
        forward = CallByEquations(self.structure, call, weights, record)
        ran = run_call(forward, compiled=compiled, steady=True)
        if listener is not None:
            listener.ran = ran
        return ran.output

    def _numbers_alone(self, call: Call, weights: tuple[tuple[Weights, ...], ...]) -> bool:
        """Whether a kernel may run a call, as nothing but its numbers is asked for."""
        of_weights = (t for row in weights for direction in row for t in direction.tensors())
        return not self._plain and numbers_alone([call.x, *call.initial.values(), *of_weights])

    def extra_repr(self) -> str:
        """The cell, sizes and options."""
        return str(self.structure).partition("(")[2].removesuffix(")")


def unfuse(layer: nn.Module) -> Recurrent:
    """The layer without its fused call: a module of plain operations with the same parameters.

    The parameters are the very ones of ``layer`` (shared, not copied: training one trains the
    other); the call, what it returns and the ``state_dict`` keys are those of ``layer``, the
    numbers equal to rounding. Being plain operations by the declared equations at all times (no
    kernel runs it, as one may run another ``Recurrent``), it works where the fused call does not:
    ``torch.func.vmap``, ``grad``, ``jvp`` and ``hessian``, second derivatives, gradients in
    evaluation mode on a GPU, gradients of each sample. Under ``torch.compile`` its loop is
    unrolled, step by step: compile it for short sequences (up to 16 steps); the time to
    compile grows with their length. It is slower than the fused call, about as a loop over time
    written by hand is. Hooks on ``layer`` stay there.

    >>> lstm = nn.LSTM(3, 4)
    >>> plain = unfuse(lstm)
    >>> plain.weight_hh_l0 is lstm.weight_hh_l0
    True
    >>> x = torch.randn(6, 5, 3)                                # six sequences
    >>> torch.func.vmap(lambda each: plain(each)[0])(x).shape   # nn.LSTM itself raises here
    torch.Size([6, 5, 4])

    Source of the equations: the cell's ``source``. Raises ``NotRecurrentError`` for a module that
    is no recurrent layer, and ``RefusedError`` for one that cannot be opened, for a cell such as
    ``nn.LSTMCell`` (a single step, which PyTorch itself makes of plain operations), and for
    weights that a parametrization or a hook computes.
    """
    adopted = adopt(layer)
    if adopted.single_step:
        raise RefusedError(
            f"{adopted.kind} is one step, without a loop to unfuse; call it as it is, or "
            f"unfuse an {adopted.kind.removesuffix('Cell')} with its weights"
        )
    plain = Recurrent(
        adopted.cell,
        adopted.input_size,
        adopted.hidden_size,
        num_layers=adopted.num_layers,
        bias=adopted.bias,
        batch_first=adopted.batch_first,
        bidirectional=adopted.bidirectional,
        reverse=adopted.reverse,
        proj_size=adopted.output_size if adopted.cell.projected else 0,
        device="meta",  # nothing is drawn from the random state
    )
    for name, _ in list(plain.named_parameters()):
        parameter = layer._parameters.get(name)
        if parameter is None:
            raise RefusedError(
                f"cannot be unfused: {name} of this {adopted.kind} is computed anew at each call, "
                f"by a parametrization or a hook, and is no parameter that could be shared. "
                f"Remove it first, as torch.nn.utils.parametrize.remove_parametrizations does."
            )
        setattr(plain, name, parameter)
    plain.dropout, plain._plain = adopted.dropout, True
    return plain.train(adopted.training)
