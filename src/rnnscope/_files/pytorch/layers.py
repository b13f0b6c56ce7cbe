"""A layer of PyTorch from its own names, checked array by array."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rnnscope._files.disk import LazyArray
from rnnscope._layouts import Converted
from rnnscope.cells import GRU, LSTM, LSTM_PROJECTED, RNN_TANH
from rnnscope.errors import FileError

__all__ = ["assemble"]

_KINDS = {1: "rnn", 3: "gru", 4: "lstm"}
_CELLS = {"rnn": RNN_TANH, "gru": GRU, "lstm": LSTM}


def assemble(place: str, parameters: Mapping[str, LazyArray]) -> tuple[str, Converted]:
    """The kind and the layer of arrays such as ``weight_ih_l0``.

    Raises ``FileError`` with the array that is missing or does not fit.
    """
    arrays = dict(parameters)
    reverse = all(name.endswith("_reverse") for name in arrays)  # as Recurrent(reverse=True) has it
    if reverse:
        arrays = {name.removesuffix("_reverse"): array for name, array in arrays.items()}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in arrays:
            raise FileError(f"{place}: {name} is missing; it holds {', '.join(list(arrays)[:8])}")
    ih, hh, hr = (arrays.get(f"weight_{which}_l0") for which in ("ih", "hh", "hr"))
    assert ih is not None
    assert hh is not None
    if len(ih.shape) != 2 or len(hh.shape) != 2 or 0 in (*ih.shape, *hh.shape):
        raise FileError(f"{place}: expected matrices; weight_ih_l0 is {ih.shape}")
    if hr is not None and (len(hr.shape) != 2 or 0 in hr.shape):
        raise FileError(f"{place}: expected matrices; weight_hr_l0 is {hr.shape}")
    hidden = hh.shape[1] if hr is None else hr.shape[1]
    kind = _KINDS.get(ih.shape[0] // hidden) if ih.shape[0] % hidden == 0 else None
    if kind is None:
        raise FileError(
            f"{place}: weight_ih_l0 has {ih.shape[0]} rows for {hidden} units; expected as many "
            f"(nn.RNN), three times (nn.GRU) or four times (nn.LSTM). A cell of other gates is "
            f"loaded with cells={{name: cell}}, an rnnscope.Cell; without the layer, with "
            f"ignore=..., the names of its arrays"
        )
    highest = max(int(name.split("_l")[-1].removesuffix("_reverse")) for name in arrays)
    options: dict[str, int | bool] = {
        "input_size": ih.shape[1],
        "hidden_size": hidden,
        "num_layers": highest + 1,
        "bias": "bias_ih_l0" in arrays,
        "bidirectional": "weight_ih_l0_reverse" in arrays,
    }
    output = hidden
    if hr is not None:
        if kind != "lstm":
            raise FileError(f"{place}: weight_hr_l0 does not fit with weights of nn.{kind.upper()}")
        output = options["proj_size"] = hr.shape[0]
    rows = ih.shape[0]
    expected = _expected(options, rows, output)
    for name, shape in expected.items():
        if name not in arrays:
            raise FileError(f"{place}: {name} {shape} is missing")
        if arrays[name].shape != shape:
            raise FileError(
                f"{place}: {name} must be {shape}; got {arrays[name].shape}"
                f"{_half(name, shape, arrays[name].shape)}"
            )
    for name in arrays:
        if name == "bias_hh_l0" and "bias_ih_l0" not in arrays:
            raise FileError(f"{place}: bias_ih_l0 is missing beside bias_hh_l0")
        if name not in expected:
            raise FileError(f"{place}: {name} does not fit with the other weights")
    state = {name: _read(place, name, arrays) for name in expected}
    for name, value in state.items():
        if value.dtype != state["weight_ih_l0"].dtype:
            raise FileError(f"{place}: {name} is {value.dtype}, unlike weight_ih_l0")
    if reverse:
        options["reverse"] = True
    cell = LSTM_PROJECTED if hr is not None else _CELLS[kind]
    return kind, Converted(cell, state, dict(options))


def _half(name: str, shape: tuple[int, ...], got: tuple[int, ...]) -> str:
    """What is said of an upper layer that reads two directions, of which the file has one."""
    if name.startswith("weight_ih") and len(got) == 2 and got[1] == 2 * shape[1]:
        return ": as if the layer below had two directions, and the file lacks the reverse one"
    return ""


def _read(place: str, name: str, arrays: Mapping[str, LazyArray]) -> Tensor:
    value = arrays[name].read()
    if not arrays[name].floating:
        raise FileError(f"{place}: {name} is {value.dtype}; expected plain floating point")
    return value


def _expected(options: Mapping[str, int], rows: int, output: int) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape, in PyTorch's order."""
    shapes: dict[str, tuple[int, ...]] = {}
    ends = ("", "_reverse") if options["bidirectional"] else ("",)
    for layer in range(options["num_layers"]):
        feature = options["input_size"] if layer == 0 else output * len(ends)
        for end in ends:
            shapes[f"weight_ih_l{layer}{end}"] = (rows, feature)
            shapes[f"weight_hh_l{layer}{end}"] = (rows, output)
            if options["bias"]:
                shapes[f"bias_ih_l{layer}{end}"] = (rows,)
                shapes[f"bias_hh_l{layer}{end}"] = (rows,)
            if "proj_size" in options:
                shapes[f"weight_hr_l{layer}{end}"] = (output, options["hidden_size"])
    return shapes
