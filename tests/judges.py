"""Judges: what the numbers inside a recurrent layer are, found without rnnscope.

`by_cells`         a slow loop over `nn.*Cell`, one sequence and one step at a time.
`by_export`        the activations of the graph that `torch.export` makes of the layer.
`gates_from_export` the same, as named quantities.
`replayed_masks`   the dropout masks of a call in training, from the random state before it.

Quantities have dims (layer, direction, batch, time, unit) and zeros on padding; `time` is the
position in the input for both directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

Layer = nn.RNN | nn.GRU | nn.LSTM
State = tuple[Tensor, Tensor | None]  # one sequence's h and, for an LSTM, c
Step = Callable[[Tensor, State], dict[str, Tensor]]


def lacks_kernel(error: Exception) -> bool:
    """Whether torch has no LSTM in bfloat16 for this processor: it hands these to oneDNN."""
    return "primitive descriptor for the LSTM" in str(error)


ROWS = {"RNN_TANH": "h", "RNN_RELU": "h", "GRU": "rzn", "LSTM": "ifgo"}
"""The order in which PyTorch stacks the gates in the rows of its weights."""


def directions(layer: Layer) -> int:
    return 2 if layer.bidirectional else 1


def output_size(layer: Layer) -> int:
    """Units of h in one direction."""
    return layer.proj_size or layer.hidden_size


# ── the loop over cells ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Block:
    """The weights of one layer in one direction, copied."""

    gates: str
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
    biased: bool
    weight_hr: Tensor | None

    @classmethod
    def of(cls, layer: Layer, index: int, direction: int, dtype: torch.dtype) -> Block:
        def weight(kind: str) -> Tensor:
            name = f"{kind}_l{index}{'_reverse' if direction else ''}"
            return getattr(layer, name).detach().to(dtype, copy=True)

        weight_ih = weight("weight_ih")
        zeros = weight_ih.new_zeros(len(weight_ih))
        return cls(
            gates=ROWS[layer.mode],
            weight_ih=weight_ih,
            weight_hh=weight("weight_hh"),
            bias_ih=weight("bias_ih") if layer.bias else zeros,
            bias_hh=weight("bias_hh") if layer.bias else zeros,
            biased=layer.bias,
            weight_hr=weight("weight_hr") if layer.proj_size else None,
        )

    def parts(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
        """`k_from_x` and `k_from_h` of every gate k, each by its own matrix product."""
        units = len(self.weight_ih) // len(self.gates)
        found = {}
        for position, gate in enumerate(self.gates):
            rows = slice(position * units, (position + 1) * units)
            found[f"{gate}_from_x"] = self.weight_ih[rows].matmul(x) + self.bias_ih[rows]
            found[f"{gate}_from_h"] = self.weight_hh[rows].matmul(h) + self.bias_hh[rows]
        return found

    def cell(self, kind: type[nn.RNNCellBase], **options: Any) -> nn.RNNCellBase:
        units = len(self.weight_ih) // len(self.gates)
        cell = kind(
            self.weight_ih.shape[1], units, bias=self.biased, dtype=self.weight_ih.dtype, **options
        )
        with torch.no_grad():
            for name, parameter in cell.named_parameters():
                parameter.copy_(getattr(self, name))
        return cell


def rnn_step(block: Block, nonlinearity: str) -> Step:
    cell = block.cell(nn.RNNCell, nonlinearity=nonlinearity)

    def step(x: Tensor, state: State) -> dict[str, Tensor]:
        found = block.parts(x, state[0])
        found["h_pre"] = found["h_from_x"] + found["h_from_h"]
        return found | {"h": cell(x, state[0])}

    return step


def gru_step(block: Block) -> Step:
    cell = block.cell(nn.GRUCell)

    def step(x: Tensor, state: State) -> dict[str, Tensor]:
        found = block.parts(x, state[0])
        for gate in "rz":
            found[f"{gate}_pre"] = found[f"{gate}_from_x"] + found[f"{gate}_from_h"]
            found[gate] = torch.sigmoid(found[f"{gate}_pre"])
        found["n_pre"] = found["n_from_x"] + found["r"] * found["n_from_h"]
        found["n"] = torch.tanh(found["n_pre"])
        return found | {"h": cell(x, state[0])}

    return step


def lstm_step(block: Block) -> Step:
    # nn.LSTMCell knows no projection: with one, the state too is computed by hand
    cell = block.cell(nn.LSTMCell) if block.weight_hr is None else None

    def step(x: Tensor, state: State) -> dict[str, Tensor]:
        h, c = state
        assert c is not None
        found = block.parts(x, h)
        for gate in "ifgo":
            found[f"{gate}_pre"] = found[f"{gate}_from_x"] + found[f"{gate}_from_h"]
            activation = torch.tanh if gate == "g" else torch.sigmoid
            found[gate] = activation(found[f"{gate}_pre"])
        if cell is not None:
            found["h"], found["c"] = cell(x, (h, c))
        else:
            found["c"] = found["f"] * c + found["i"] * found["g"]
            found["m"] = found["o"] * torch.tanh(found["c"])
            found["h"] = block.weight_hr.matmul(found["m"])
        return found

    return step


def step_of(layer: Layer, index: int, direction: int, dtype: torch.dtype) -> Step:
    block = Block.of(layer, index, direction, dtype)
    if layer.mode == "GRU":
        return gru_step(block)
    if layer.mode == "LSTM":
        return lstm_step(block)
    return rnn_step(block, layer.nonlinearity)


def states_of(layer: Layer, initial: Any, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """h_0 and c_0 (zeros where none are given), each (layers * directions, batch, units)."""
    rows = layer.num_layers * directions(layer)
    if initial is None:
        h_0 = torch.zeros(rows, batch, output_size(layer), dtype=dtype)
        return h_0, torch.zeros(rows, batch, layer.hidden_size, dtype=dtype)
    if layer.mode == "LSTM":
        return initial[0].to(dtype), initial[1].to(dtype)
    return initial.to(dtype), initial.to(dtype)


@torch.no_grad()
def by_cells(
    layer: Layer,
    x: Tensor,
    initial: Any = None,
    lengths: Sequence[int] | None = None,
    masks: Sequence[Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Every quantity of a call, by `nn.*Cell`, one sequence and one step at a time.

    `x` is (batch, time, feature), whatever the layer's `batch_first`; `initial` is what the layer
    takes for a batch; `masks` are the scaled dropout masks (batch, time, features) that multiply
    what goes from each layer to the next. `dtype` is the precision of the judge: the layer's own
    if left out, float64 to judge a less precise layer.

    Returns the quantities and "output" (batch, time, directions * units), "h_n" and "c_n".
    """
    dtype = dtype or layer.weight_ih_l0.dtype
    batch, time, _ = x.shape
    lengths = [time] * batch if lengths is None else [int(length) for length in lengths]
    layers, ways = layer.num_layers, directions(layer)
    h_0, c_0 = states_of(layer, initial, batch, dtype)
    h_n, c_n = torch.zeros_like(h_0), torch.zeros_like(c_0)
    found: dict[str, Tensor] = {}
    below = x.detach().to(dtype)
    for index in range(layers):
        for direction in range(ways):
            with torch.random.fork_rng(devices=[]):  # building a cell draws its first weights
                step = step_of(layer, index, direction, dtype)
            row = index * ways + direction
            for sequence, length in enumerate(lengths):
                h, c = h_0[row, sequence], c_0[row, sequence]
                for t in reversed(range(length)) if direction else range(length):
                    numbers = step(below[sequence, t], (h, c))
                    h, c = numbers["h"], numbers.get("c", c)
                    for name, value in numbers.items():
                        if name not in found:
                            shape = (layers, ways, batch, time, len(value))
                            found[name] = torch.zeros(shape, dtype=dtype)
                        found[name][index, direction, sequence, t] = value
                h_n[row, sequence], c_n[row, sequence] = h, c
        below = torch.cat(list(found["h"][index]), dim=-1)
        if masks is not None and index < layers - 1:
            below = below * masks[index].to(dtype)
    returned = {"output": below, "h_n": h_n}
    return found | returned | ({"c_n": c_n} if layer.mode == "LSTM" else {})


# ── the exported graph ───────────────────────────────────────────────────────────────────────

ACTIVATIONS = {
    torch.ops.aten.sigmoid.default: "sigmoid",
    torch.ops.aten.tanh.default: "tanh",
    torch.ops.aten.relu.default: "relu",
}


class Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps each activation: its name, its argument and its value."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.calls: list[tuple[str, Tensor, Tensor]] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_function(target, args, kwargs)
        if target in ACTIVATIONS:
            self.calls.append((ACTIVATIONS[target], args[0].clone(), value.clone()))
        return value


@torch.no_grad()
def by_export(layer: Layer, x: Tensor, initial: Any = None) -> dict[str, Any]:
    """The activations in the graph of the layer, in the order in which the graph runs them.

    The layer, in eval mode, is called as `layer(x)` or `layer(x, initial)`, dense. Returns
    "sigmoid", "tanh", "relu" (lists of values), "calls" (all of them, in order, each as name,
    argument and value) and "returned", what the graph returns.
    """
    args = (x,) if initial is None else (x, initial)
    with warnings.catch_warnings():
        # torch 2.13 warns about nn.RNN's own _flat_weights, and about its own pytree
        warnings.simplefilter("ignore")
        program = torch.export.export(layer, args).run_decompositions()
        module = program.module()
    recorder = Recorder(module)
    returned = recorder.run(*args)
    found: dict[str, Any] = {"calls": recorder.calls, "returned": returned}
    for activation in ACTIVATIONS.values():
        found[activation] = [value for name, _, value in recorder.calls if name == activation]
    return found


ORDER = {
    "RNN_TANH": [("tanh", "h")],
    "RNN_RELU": [("relu", "h")],
    "GRU": [("sigmoid", "r"), ("sigmoid", "z"), ("tanh", "n")],
    "LSTM": [("sigmoid", "i"), ("sigmoid", "f"), ("tanh", "g"), ("sigmoid", "o"), ("tanh", "c")],
}
"""The activations of one step in the graph of torch 2.13; an LSTM's last is the tanh of c."""


def gates_from_export(layer: Layer, x: Tensor, initial: Any = None) -> dict[str, Tensor]:
    """The gates `k` and their arguments `k_pre`, and an LSTM's `c`, from the exported graph.

    The graph runs the layers in order, in each the forward direction and then the reverse one,
    which starts at the end of the input. An LSTM's c is the argument of its last tanh.
    """
    calls = by_export(layer, x, initial)["calls"]
    order = ORDER[layer.mode]
    batch_dim = 0 if layer.batch_first else 1
    batch, time = (1, len(x)) if x.dim() == 2 else (x.shape[batch_dim], x.shape[1 - batch_dim])
    layers, ways = layer.num_layers, directions(layer)
    expected = [activation for activation, _ in order] * (layers * ways * time)
    assert [name for name, _, _ in calls] == expected, "the graph's order is not torch 2.13's"

    found: dict[str, Tensor] = {}
    remaining = iter(calls)
    for index in range(layers):
        for direction in range(ways):
            for t in reversed(range(time)) if direction else range(time):
                for _, gate in order:
                    _, argument, value = next(remaining)
                    named = (
                        {"c": argument} if gate == "c" else {gate: value, f"{gate}_pre": argument}
                    )
                    for name, number in named.items():
                        if name not in found:
                            shape = (layers, ways, batch, time, layer.hidden_size)
                            found[name] = torch.zeros(shape, dtype=number.dtype)
                        found[name][index, direction, :, t] = number.reshape(batch, -1)
    return found


# ── dropout in training ──────────────────────────────────────────────────────────────────────


def replayed_masks(
    layer: Layer,
    random_state: Tensor,
    *,
    batch: int,
    time: int,
    lengths: Sequence[int] | None = None,
) -> list[Tensor]:
    """The scaled masks of a call in training on CPU, each (batch, time, directions * units).

    `random_state` is `torch.get_rng_state()` from before the call; `lengths` are given for a
    packed call only. The layer draws one mask for each boundary between two layers, from below
    to above, in its own layout: (time, batch, features) whatever `batch_first`, and for a packed
    call (sum of lengths, features) in the order of the packed data. Padding gets zeros. The
    global random state stays as it was.
    """
    if not layer.training:
        raise ValueError("a layer in eval mode draws no masks")
    features = directions(layer) * output_size(layer)
    dtype = layer.weight_ih_l0.dtype
    masks = []
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random_state)
        for _ in range(layer.num_layers - 1):
            if lengths is None:
                drawn = torch.dropout(
                    torch.ones(time, batch, features, dtype=dtype), layer.dropout, True
                )
                masks.append(drawn.transpose(0, 1).contiguous())
            else:
                ones = torch.ones(batch, time, features, dtype=dtype)
                packed = pack_padded_sequence(
                    ones, torch.as_tensor(lengths), batch_first=True, enforce_sorted=False
                )
                drawn = torch.dropout(packed.data, layer.dropout, True)
                replayed = PackedSequence(
                    drawn, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
                )
                masks.append(pad_packed_sequence(replayed, batch_first=True, total_length=time)[0])
    return masks
