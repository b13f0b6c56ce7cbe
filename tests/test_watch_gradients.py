"""Gradients of what runs inside a model: p.grad and rs.trace(...).gradients are the judges."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import rnnscope as rs
from rnnscope.cells import LSTM_PEEPHOLE

KINDS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def off(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max()) / max(float(other.abs().max()), 1e-30)


class Tagger(nn.Module):
    """An embedding, a recurrent layer and a head; reads every step, or the last states alone."""

    def __init__(self, kind: str = "LSTM", **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = KINDS[kind](6, 5, num_layers=2, bidirectional=True, **options)
        self.head = nn.Linear(10, 3)
        self.last = nn.Linear(5, 3)
        self.double()

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, last: bool = False) -> Tensor:
        x: Any = self.embed(tokens)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, states = self.rnn(x)
        h_n = states[0] if isinstance(states, tuple) else states
        if last:
            return self.last(h_n)
        return self.head(output.data if lengths is not None else output)


@pytest.mark.parametrize("last", [False, True], ids=["output", "h_n"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 3])], ids=["dense", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_input_are_those_of_backward(
    kind: str, lengths: Tensor | None, last: bool
) -> None:
    model = Tagger(kind, dropout=0.3)
    tokens = torch.randint(11, (5, 3))
    with rs.watch(model) as seen:
        loss = model(tokens, lengths, last).square().sum()
        assert seen["rnn"].grad is None
        loss.backward()
    g = seen["rnn"].grad
    for name, p in model.rnn.named_parameters():
        assert off(g.parameters[name], p.grad) < 1e-10
    assert g.deviation < 1e-10
    # the embedding's gradient is the sum of x's over the places of each token
    x = g["x", 0].transpose(0, 1)
    total = torch.zeros(11, 6).double().index_add(0, tokens.flatten(), x.reshape(-1, 6))
    assert off(total, model.embed.weight.grad) < 1e-10
    assert bool(g.direct["h", 0].any()) is last
    assert g.direct["h", 1].any()


def test_nothing_is_other_than_without() -> None:
    """Losses, gradients, hooks and attributes of the tensors that the model gets."""
    model = Tagger()
    twin = copy.deepcopy(model)
    tokens = torch.randint(11, (5, 3))
    outputs = []
    model.rnn.register_forward_hook(lambda _, __, result: outputs.append(result[0]))
    with rs.watch(model) as seen:
        model(tokens).square().sum().backward()
    twin(tokens).square().sum().backward()
    for mine, own in zip(model.parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (own.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, own.grad)
    assert not outputs[0]._backward_hooks
    grads = [p.grad.clone() for p in model.rnn.parameters()]
    assert seen["rnn"].grad.deviation < 1e-10
    after = [p.grad for p in model.rnn.parameters()]
    assert all(itertools.starmap(torch.equal, zip(grads, after, strict=True)))


def test_a_layer_used_twice() -> None:
    gru = nn.GRU(4, 4).double()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    with rs.watch(gru) as seen:
        first, h_n = gru(x)
        second, _ = gru(first, h_n)
        (first.sin().sum() + second.square().sum()).backward()
    one, other = (tr.grad for tr in seen.calls(""))
    for name, p in gru.named_parameters():
        assert off(one.parameters[name] + other.parameters[name], p.grad) < 1e-10
        assert off(one.parameters[name], p.grad) > 1e-3
    # what the first call gets from the second stands in what reaches its outputs
    tr = rs.trace(gru, x)
    after = rs.trace(gru, tr.output, tr.h_n)
    judge = tr.gradients(tr.output.sin().sum() + after.output.square().sum())
    assert all(off(one[name], judge[name]) < 1e-12 for name in judge)


def test_accumulation_over_batches_and_over_losses() -> None:
    lstm = nn.LSTM(3, 4).double()
    batches = torch.randn(3, 5, 2, 3, dtype=torch.float64)
    with rs.watch(lstm) as seen:
        for x in batches:
            lstm(x)[0].square().sum().backward()
    total = {name: torch.zeros_like(p) for name, p in lstm.named_parameters()}
    for tr in seen.calls(""):
        for name, gradient in tr.grad.parameters.items():
            total[name] += gradient
    assert all(off(total[name], p.grad) < 1e-10 for name, p in lstm.named_parameters())
    # two losses on one call
    lstm.zero_grad()
    with rs.watch(lstm) as seen:
        output, (_, c_n) = lstm(batches[0])
        output.square().sum().backward(retain_graph=True)
        before = seen.trace.grad
        (c_n.sin().sum() + output.sum()).backward()
    after = seen.trace.grad
    assert off(before["c"], after["c"]) > 1e-3
    assert all(off(after.parameters[name], p.grad) < 1e-10 for name, p in lstm.named_parameters())


def test_after_a_step_of_the_optimizer() -> None:
    lstm = nn.LSTM(3, 4).double()
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.5)
    with rs.watch(lstm) as seen:
        lstm(torch.randn(5, 2, 3, dtype=torch.float64))[0].square().sum().backward()
        grads = {name: p.grad.clone() for name, p in lstm.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
    g = seen.trace.grad
    assert all(off(g.parameters[name], grad) < 1e-10 for name, grad in grads.items())
    assert g.deviation < 1e-10


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing(kind: str, reentrant: bool) -> None:
    """The call that is made once more in backward gives its gradients to the one recorded."""
    model = Tagger(kind)
    tokens = torch.randint(11, (5, 3))
    with rs.watch(model) as seen:
        x = model.embed(tokens)

        def part(x: Tensor) -> Tensor:
            return model.head(model.rnn(x)[0])

        y = checkpoint(part, x, use_reentrant=reentrant)
        y.square().sum().backward()
    (tr,) = seen.calls("rnn")
    assert tr.recomputed
    for name, p in model.rnn.named_parameters():
        assert off(tr.grad.parameters[name], p.grad) < 1e-10
    assert not seen.skipped


def test_cells_in_a_loop() -> None:
    cell = nn.LSTMCell(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with rs.watch(cell) as seen:
        state = None
        for each in x:
            state = cell(each, state)
        (state[0].square().sum() + state[1].sin().sum()).backward()
    # the layer with these weights, in one call
    lstm = nn.LSTM(3, 4).double()
    lstm.load_state_dict({f"{name}_l0": p for name, p in cell.state_dict().items()})
    tr = rs.trace(lstm, x)
    judge = tr.gradients(tr.h_n.square().sum() + tr.c_n.sin().sum())
    total = {name: torch.zeros_like(p) for name, p in cell.named_parameters()}
    for t, call in enumerate(seen.calls("")):
        for name in judge:
            assert off(call.grad[name][..., 0, :], judge[name][..., t, :]) < 1e-10, (name, t)
        for name, gradient in call.grad.parameters.items():
            total[name] += gradient
    assert all(off(total[name], p.grad) < 1e-10 for name, p in cell.named_parameters())
    with pytest.raises(rs.RefusedError, match="joined from 5 calls"):
        _ = seen.joined("").grad


def test_a_declared_cell() -> None:
    model = nn.Sequential(rs.Recurrent(LSTM_PEEPHOLE, 3, 4, num_layers=2, dropout=0.3).double())
    with rs.watch(model) as seen:
        output, _ = model(torch.randn(5, 2, 3, dtype=torch.float64))
        output.square().sum().backward()
    for name, p in model[0].named_parameters():
        assert off(seen["0"].grad.parameters[name], p.grad) < 1e-10


def test_outside_of_the_watch_and_without_backward() -> None:
    gru, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    with rs.watch(gru) as seen:
        loss = gru(x)[0].sum()
        with torch.no_grad():
            gru(x)
    loss.backward()
    assert [tr.grad for tr in seen.calls("")] == [None, None]
    with seen:
        gru(x)[0].sum().backward()
    assert [tr.grad is None for tr in seen.calls("")] == [True, True, False]
    assert rs.trace(gru, x).grad is None


def test_the_caller_changes_the_outputs_in_place() -> None:
    """The gradient is that of the numbers as they were returned."""
    gru = nn.GRU(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with rs.watch(gru) as seen:
        output, h_n = gru(x)
        output.mul_(2)
        h_n.zero_()
        (output.sin().sum() + h_n.sum()).backward()
    tr = rs.trace(gru, x)
    judge = tr.gradients((2 * tr.output).sin().sum())
    assert all(off(seen.trace.grad[name], judge[name]) < 1e-12 for name in judge)


# ── of a loss that is computed after the call ────────────────────────────────────────────────────


@pytest.mark.parametrize("last", [False, True], ids=["output", "h_n"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_loss_before_its_backward(kind: str, last: bool) -> None:
    model = Tagger(kind)
    tokens = torch.randint(11, (5, 3))
    with rs.watch(model) as seen:
        loss = model(tokens, None, last).square().sum()
    g = seen["rnn"].gradients(loss)
    assert all(p.grad is None for p in model.parameters())
    expected = torch.autograd.grad(loss, list(model.rnn.parameters()), retain_graph=True)
    for (name, _), gradient in zip(model.rnn.named_parameters(), expected, strict=True):
        assert off(g.parameters[name], gradient) < 1e-10
    half = seen["rnn"].gradients(loss / 2)  # the graph is still there
    assert off(half["h"] * 2, g["h"]) < 1e-10
    loss.backward()
    with pytest.raises(rs.errors.GradientError, match=r"graph of the loss is gone.*seen\[name\]"):
        seen["rnn"].gradients(loss)
    with pytest.raises(rs.errors.GradientError, match="does not depend on this call"):
        seen["rnn"].gradients(model(tokens).sum())
    with pytest.raises(rs.errors.GradientError, match="the loss has no graph"):
        seen["rnn"].gradients(loss.detach())


def test_gradients_of_one_of_several_calls_of_a_cell() -> None:
    cell = nn.LSTMCell(3, 4).double()
    with rs.watch(cell) as seen:
        state = None
        for x in torch.randn(4, 2, 3, dtype=torch.float64):
            state = cell(x, state)
        loss = state[0].sum() + state[1].square().sum()
    parts = [tr.gradients(loss) for tr in seen.calls("")]
    expected = torch.autograd.grad(loss, list(cell.parameters()))
    for (name, _), gradient in zip(cell.named_parameters(), expected, strict=True):
        assert off(sum(g.parameters[name] for g in parts), gradient) < 1e-10


def test_no_graph_is_kept_alive() -> None:
    import gc
    import weakref

    layer = nn.GRU(3, 4)
    with rs.watch(layer) as seen:
        output, _ = layer(torch.randn(5, 2, 3))
        kept = weakref.ref(output)
        node = output.grad_fn
        assert node is not None
        del output, node
    gc.collect()
    assert kept() is None
    assert seen.trace.output.grad_fn is None


def test_a_frozen_layer_says_why_it_has_no_gradient() -> None:
    model = nn.Sequential(nn.GRU(3, 4).requires_grad_(False))
    with rs.watch(model) as seen:
        model(torch.randn(5, 2, 3))
    for ask in (lambda: seen["0"].grad, lambda: seen["0"].gradients(torch.ones(()))):
        with pytest.raises(rs.errors.GradientError, match=r"no parameter of this nn\.GRU requires"):
            ask()
    with torch.no_grad(), rs.watch(nn.GRU(3, 4)) as seen:
        seen._model(torch.randn(5, 2, 3))
    assert seen.trace.grad is None
    with pytest.raises(rs.errors.GradientError, match=r"under torch\.no_grad"):
        seen.trace.gradients(torch.ones(()))
    x = torch.randn(5, 2, 3, requires_grad=True)
    with rs.watch(model) as seen:
        model(x)[0].sum().backward()
    torch.testing.assert_close(seen["0"].grad["x", 0].transpose(0, 1), x.grad)
    g = seen["0"].gradients(output=torch.ones(5, 2, 4))
    torch.testing.assert_close(g["x", 0].transpose(0, 1), x.grad)


def test_states_that_a_module_passes_in_another_form_give_their_gradients() -> None:
    """A state (batch, 1, unit), and one of each layer in a list."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight_ih = nn.Parameter(torch.randn(4, 3))
            self.weight_hh = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor, state: Tensor | None = None) -> Any:
            h, states = x.new_zeros(2, 1, 4) if state is None else state, []
            for t in range(x.shape[1]):
                h = (x[:, t : t + 1] @ self.weight_ih.T + h @ self.weight_hh.T).tanh()
                states.append(h)
            return torch.cat(states, 1), h * 1.0

    layer = Step().double()
    adapter = rs.Adapter(
        rs.cells.RNN_TANH,
        parameters={"weight_ih": "weight_ih", "weight_hh": "weight_hh"},
        batch_first=True,
    )
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    with rs.watch(layer, cells={Step: adapter}) as seen:
        _, h = layer(x)
        h.square().sum().backward()
    for name in ("weight_ih", "weight_hh"):
        gradient = seen.trace.grad.parameters[f"{name}_l0"]
        assert off(gradient, getattr(layer, name).grad) < 1e-10
    tr = rs.trace(layer, x, cells={Step: adapter})
    g = tr.gradients(tr.h_n.square().sum())
    assert off(g.parameters["weight_hh_l0"], layer.weight_hh.grad) < 1e-10


def test_states_of_each_layer_in_a_list_are_refused_gradients() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.RNN(3, 3), nn.RNN(3, 3)])

        def forward(self, x: Tensor, hx: Any = None) -> Any:
            finals = []
            for k, layer in enumerate(self.layers):
                x, h = layer(x, None if hx is None else hx[k])
                finals.append(h[0])
            return x, finals

    layer, x = Listed(), torch.randn(5, 2, 3)
    names = {
        f"{kind}_{of}": f"layers.{{layer}}.{kind}_{of}_l0"
        for kind in ("weight", "bias")
        for of in ("ih", "hh")
    }
    adapter = rs.Adapter(rs.cells.RNN_TANH, parameters=names)
    with rs.watch(layer, cells={Listed: adapter}) as seen:
        y, finals = layer(x)
        (y.sum() + finals[0].sum()).backward()
    with pytest.raises(rs.errors.GradientError, match=r"returns h in several tensors"):
        _ = seen[""].grad
    ones = torch.zeros(2, 2, 3)
    ones[0] = 1
    g = seen[""].gradients(output=torch.ones(5, 2, 3), h_n=ones)
    expected = layer.layers[0].weight_hh_l0.grad
    torch.testing.assert_close(g.parameters["weight_hh_l0"], expected)
