"""Layers below the top: their states are those that the fused call itself computed, where it lets
them be seen, and are not computed a second time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._layers.adopt import Adopted

OPTIONS = [
    {"num_layers": 3, "bidirectional": both, "batch_first": first, "bias": first or both}
    for both, first in itertools.product((False, True), repeat=2)
]


def alone(stack: nn.LSTM, layer: int, inputs: int) -> nn.LSTM:
    """One layer of a stack, as a module of its own."""
    both, bias = stack.bidirectional, stack.bias
    single = nn.LSTM(inputs, stack.hidden_size, bias=bias, bidirectional=both)
    parts = (name.removesuffix("_l0") for name, _ in single.named_parameters() if "rev" not in name)
    with torch.no_grad():
        for part, end in itertools.product(parts, ("", "_reverse") if both else ("",)):
            value = getattr(stack, f"{part}_l{layer}{end}")
            getattr(single, f"{part}_l0{end}").copy_(value)
    return single


def layer_by_layer(stack: nn.LSTM, x: Tensor) -> list[Tensor]:
    """The outputs of all layers, (time, batch, direction × unit), each run by torch alone."""
    flow = x.transpose(0, 1) if stack.batch_first else x
    outputs = []
    with torch.no_grad():
        for layer in range(stack.num_layers):
            flow = alone(stack, layer, flow.shape[-1])(flow)[0]
            outputs.append(flow)
    return outputs


@pytest.fixture
def only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def replay(self: Adopted, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a layer ran again")

    monkeypatch.setattr(Adopted, "replay", replay)


@pytest.mark.usefixtures("only_once")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_layer_s_states_are_its_own(options: Any, grad: bool) -> None:
    stack = nn.LSTM(40, 9, **options).train(grad)
    x = torch.randn(12, 11, 40)
    with torch.set_grad_enabled(grad):
        tr = rs.trace(stack, x)
        with rs.watch(stack) as seen:
            output, _ = stack(x)
    assert output.requires_grad == grad
    count = 2 if stack.bidirectional else 1
    for k, expected in enumerate(layer_by_layer(stack, x)):
        for d, direction in enumerate(("forward", "reverse")[:count]):
            own = expected[..., d * 9 : (d + 1) * 9].transpose(0, 1)
            for trace in (tr, seen.trace):
                torch.testing.assert_close(trace["h", k, direction], own, rtol=0, atol=1e-6)
                assert not trace["h"].requires_grad
    assert all(proof.ratio <= 1 for proof in tr.proofs.values())


@pytest.mark.usefixtures("only_once")
def test_dropout_between_layers_is_applied_to_them() -> None:
    stack = nn.LSTM(40, 9, num_layers=3, dropout=0.4).train()
    x = torch.randn(12, 11, 40)
    tr = rs.trace(stack, x)
    for layer in (1, 2):
        entering, below = tr.layer_input(layer), tr["h", layer - 1, "forward"]
        kept = entering != 0
        assert 0.3 < float(kept.float().mean()) < 0.9
        torch.testing.assert_close(entering[kept], (below / 0.6)[kept])


def test_where_they_are_not_seen_they_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oneDNN, in float64, and of layers that compute step by step."""
    again: list[str] = []
    right = Adopted.replay

    def replay(self: Adopted, *args: Any, **kwargs: Any) -> Any:
        again.append(self.kind)
        return right(self, *args, **kwargs)

    monkeypatch.setattr(Adopted, "replay", replay)
    x = torch.randn(12, 11, 40)
    rs.trace(nn.GRU(40, 9, num_layers=2), x)
    rs.trace(nn.LSTM(40, 9, num_layers=2).double(), x.double())
    torch._C._set_mkldnn_enabled(False)
    try:
        rs.trace(nn.LSTM(40, 9, num_layers=2), x)
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert len(again) == 3


@pytest.mark.usefixtures("only_once")
def test_a_layer_that_computes_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused call gets a lower layer's weights changed: it does not compute what the module's
    weights say."""
    fused: Any = torch._VF.lstm

    def changed(x: Tensor, hx: Any, flat: list[Tensor], *options: Any) -> Any:
        with torch.no_grad():
            flat[0][3, 2] += 0.01
        output = fused(x, hx, flat, *options)
        with torch.no_grad():
            flat[0][3, 2] -= 0.01
        return output

    stack, x = nn.LSTM(40, 9, num_layers=2), torch.randn(12, 11, 40)
    monkeypatch.setattr(torch._VF, "lstm", changed, raising=False)
    with pytest.raises(rs.VerificationError, match="layer 0"):
        rs.trace(stack, x)


def test_a_call_whose_weights_are_not_the_module_s_is_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was seen with other tensors is not taken for the layer's own."""
    fused: Any = torch._VF.lstm

    def copied(x: Tensor, hx: Any, flat: list[Tensor], *options: Any) -> Any:
        return fused(x, hx, [t.clone() for t in flat], *options)

    stack, x = nn.LSTM(40, 9, num_layers=2), torch.randn(12, 11, 40)
    expected = layer_by_layer(stack, x)[0].transpose(0, 1)
    monkeypatch.setattr(torch._VF, "lstm", copied, raising=False)
    tr = rs.trace(stack, x)
    torch.testing.assert_close(tr["h", 0, "forward"], expected, rtol=0, atol=1e-6)
