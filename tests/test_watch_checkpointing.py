"""watch: what is computed again for a backward pass is marked, and counted once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rnnscope as rs

pytestmark = pytest.mark.usefixtures("classes_as_before")


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, num_layers=2, dropout=0.3)
        self.head = nn.Linear(4, 3)
        self.use_reentrant = use_reentrant

    def block(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = checkpoint(self.block, x, use_reentrant=self.use_reentrant)
        return x


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("options", [{}, {"last": 1}, {"every": 2}], ids=str)
def test_a_recomputation_is_marked_and_counted_once(
    use_reentrant: bool, options: dict[str, int]
) -> None:
    results = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = Checkpointed(use_reentrant)
        x = torch.randn(5, 2, 3, requires_grad=True)
        if watched:
            with rs.watch(model, **options) as seen:
                y = model(x).square().sum()
                calls = seen.calls("rnn")
                assert not any(trace.recomputed for trace in calls)
                y.backward()
        else:
            model(x).square().sum().backward()
        results.append([x.grad, *(p.grad for p in model.parameters()), torch.get_rng_state()])
    assert all(itertools.starmap(torch.equal, zip(*results, strict=True)))
    assert len(calls) == {"last": 1, "every": 2}.get(next(iter(options), ""), 3)
    assert seen.calls("rnn") == calls
    assert all(trace.recomputed for trace in calls)
    assert f"{len(calls)} recomputed in backward" in repr(seen)
    assert seen.skipped == {}


def test_selective_checkpointing_is_undisturbed() -> None:
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    def save(*_: Any) -> Any:
        return torch.utils.checkpoint.CheckpointPolicy.MUST_SAVE

    cell, head = nn.GRUCell(3, 3), nn.Linear(3, 3)

    def block(x: Tensor) -> Tensor:
        return head(cell(head(x)).relu()).sigmoid()

    results = []
    x = torch.randn(2, 3, requires_grad=True)
    for watched in (False, True):
        seen = rs.watch(cell) if watched else None
        if seen is not None:
            seen.__enter__()
        ops = [torch.ops.aten.addmm.default, torch.ops.aten.mm.default]
        y = checkpoint(
            block,
            x,
            use_reentrant=False,
            context_fn=lambda ops=ops: create_selective_checkpoint_contexts(ops),
        )
        y.sum().backward()
        if seen is not None:
            seen.__exit__()
        results.append(x.grad)
        x.grad = None
    assert torch.equal(*results)


def test_a_recomputation_of_a_call_made_before_is_told() -> None:
    model = Checkpointed(False)
    y = model(torch.randn(5, 2, 3, requires_grad=True))
    with rs.watch(model) as seen:
        y.sum().backward()
    assert seen.calls("rnn") == []
    assert seen.skipped["rnn"].endswith("made outside of the watch (3 times)")


def test_a_call_in_backward_that_repeats_none_is_a_call() -> None:
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
    with rs.watch(layer) as seen:
        y, _ = layer(x)
        y.register_hook(lambda grad: layer(x.detach() * 2) and None)
        y.sum().backward()
    assert len(seen.calls("")) == 2
    assert not seen.calls("")[0].recomputed
