"""What a GPU computes: no test needs one. Its tanh and sigmoid are those of a CPU, off by as much
as was measured on an H200 (cuDNN 9.19): up to 7.7e-6 in a step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._compare.candidate import call as candidate
from rnnscope._compare.candidate import recorded, tensors
from rnnscope._compare.candidate import returned as answer
from rnnscope._compare.model.model import Model
from rnnscope._layers.adopt import adopt
from rnnscope._opening.bounds import GPU_FUNCTION, GPU_OFF, Rounding

LAYERS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def rough(function: Any) -> Any:
    """A function whose values are off by up to ``GPU_OFF``, each argument's otherwise."""
    return lambda a: function(a) + GPU_OFF * torch.sin(1e4 * a)


def as_on_a_gpu(layer: Any, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """A step at a time, by the formulas of PyTorch's documentation."""
    sigmoid, tanh = rough(torch.sigmoid), rough(torch.tanh)
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in layer.parameters())
    zeros = torch.zeros(1, x.shape[1], layer.hidden_size)
    h, c = hx if isinstance(hx, tuple) else ((zeros if hx is None else hx), zeros)
    h, c = h[0], c[0]
    output: list[Tensor] = []
    for x_t in x:
        of_x, of_h = x_t @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if isinstance(layer, nn.LSTM):
            i, f, g, o = (of_x + of_h).chunk(4, -1)
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(c)
        elif isinstance(layer, nn.GRU):
            (a_r, a_z, a_n), (b_r, b_z, b_n) = of_x.chunk(3, -1), of_h.chunk(3, -1)
            r, z = sigmoid(a_r + b_r), sigmoid(a_z + b_z)
            h = (1 - z) * tanh(a_n + r * b_n) + z * h
        else:
            h = tanh(of_x + of_h)
        output.append(h)
    ends = h.unsqueeze(0)
    return torch.stack(output), (ends, c.unsqueeze(0)) if isinstance(layer, nn.LSTM) else ends


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is returned or recorded lies on a GPU."""
    for module in (answer, candidate, recorded):
        monkeypatch.setattr(module, "on_gpu", lambda value: True)


def plain(verdict: rs.Verdict) -> str:
    return " ".join(str(verdict).split())


@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_gpu_computes_differs_on_a_cpu_and_is_asked_about(kind: str) -> None:
    layer = LAYERS[kind](8, 16)

    def moved(x: Any, hx: Any = None) -> Any:
        return as_on_a_gpu(layer, x, hx)

    verdict = rs.compare(moved, layer, effort=0.1)
    assert not verdict
    assert not verdict.causes
    assert "those of tanh and sigmoid on a GPU" in plain(verdict)
    assert "was it computed there?" in plain(verdict)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("steps", [5, 300])
def test_it_agrees_where_it_lies_on_the_gpu(kind: str, steps: int) -> None:
    layer = LAYERS[kind](8, 16)
    x = torch.randn(steps, 3, 8)
    output, final = as_on_a_gpu(layer, x)
    verdict = rs.compare((output, final), layer, x)
    assert verdict.agrees, str(verdict)
    assert "it was computed on a GPU" in plain(verdict)
    called = rs.compare(lambda x, hx=None: as_on_a_gpu(layer, x, hx), layer)
    assert called.agrees, str(called)
    assert len([note for note in called.notes if "on a GPU" in note]) == 1


def reordered(lstm: nn.LSTM) -> None:
    """Rows as i, f, o, g."""
    for parameter in lstm.parameters():
        i, f, g, o = parameter.detach().clone().chunk(4)
        parameter.data = torch.cat([i, f, o, g])


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("kind", "change", "cause"),
    [
        ("lstm", reordered, "gate_order ifog of all"),
        ("gru", lambda gru: gru.bias_hh_l0.data.zero_(), "bias_missing of b_hh"),
    ],
)
def test_a_mistake_is_named_there_too(kind: str, change: Any, cause: str) -> None:
    layer = LAYERS[kind](8, 16)
    other = copy.deepcopy(layer)
    change(other)
    verdict = rs.compare(lambda x, hx=None: as_on_a_gpu(other, x, hx), layer)
    assert [str(each) for each in verdict.causes] == [cause]


def test_what_lies_on_a_gpu_is_found_in_what_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class There(Tensor):
        device = torch.device("cuda")  # type: ignore[assignment]

    on_cpu, on_gpu = torch.zeros(2), torch.zeros(2).as_subclass(There)
    endless: list[Any] = [on_cpu]
    endless.append(endless)
    for value in (on_cpu, (on_cpu, {"h": on_cpu}), endless, None, [1.0]):
        assert not tensors.on_gpu(value)
    for value in (on_gpu, (on_cpu, on_gpu), {"h": [on_gpu]}, [endless, on_gpu]):
        assert tensors.on_gpu(value)


def test_the_bound_of_a_trace_allows_what_was_measured() -> None:
    for device, function in (("cpu", 0.0), ("cuda", GPU_FUNCTION)):
        found = Rounding.of(torch.float32, torch.device(device), torch.float32)
        assert found.function == function
    assert GPU_OFF < GPU_FUNCTION < 4 * GPU_OFF
    in_double = Rounding.of(torch.float64, torch.device("cuda"), torch.float64)
    assert in_double.function == 0


def test_the_reference_s_weights_are_moved_to_the_cpu() -> None:
    layer = adopt(nn.GRU(3, 4, device="meta"))
    with pytest.raises(NotImplementedError, match="meta"):  # there is nothing to move
        Model.of(layer, torch.float64)
