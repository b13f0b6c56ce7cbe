"""A watch keeps calls as they were made, and opens them later: what is promised holds all the same.

Judges: ``rs.trace`` of the same call, made apart; and cells of torch on copied weights.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._opening import held as held_calls
from rnnscope._watch.kept import Pack

KINDS = [nn.RNNCell, nn.GRUCell, nn.LSTMCell]


def loop(cell: nn.Module, x: Tensor, state: Any = None) -> list[Any]:
    states = []
    for x_t in x:
        state = cell(x_t, state)
        states.append(state)
    return states


def assert_close(tr: rs.Trace, expected: rs.Trace) -> None:
    assert list(tr) == list(expected)
    for name in tr:
        torch.testing.assert_close(tr[name], expected[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "unbatched", "mode", "check"),
    [
        (nn.RNNCell, False, torch.inference_mode, True),
        (nn.GRUCell, True, torch.no_grad, "thorough"),
        (nn.LSTMCell, False, torch.no_grad, True),
        (nn.LSTMCell, True, torch.inference_mode, False),
        (nn.LSTMCell, False, torch.enable_grad, True),
        *(
            pytest.param(kind, unbatched, mode, check, marks=pytest.mark.slow)
            for kind in KINDS
            for unbatched in (False, True)
            for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad)
            for check in (True, False, "thorough")
        ),
    ],
)
def test_many_steps_are_what_single_traces_give(
    kind: Any, unbatched: bool, mode: Any, check: Any
) -> None:
    cell, x = kind(3, 4), torch.randn(*((150, 3) if unbatched else (150, 2, 3)))
    with mode(), rs.watch(cell, record="all", check=check) as seen:
        states = loop(cell, x)
    calls = seen.calls("")
    assert len(calls) == 150
    for k in (0, 1, 63, 64, 65, 127, 128, 149):
        with mode():
            judge = rs.trace(cell, x[k], *([] if k == 0 else [states[k - 1]]), record="all")
        assert_close(calls[k], judge)
        assert torch.equal(calls[k].h_n, judge.h_n)
        assert calls[k].h_n.shape == judge.h_n.shape
        assert torch.equal(calls[k].call.x, judge.call.x)
        assert calls[k].call.has_initial == judge.call.has_initial
        assert calls[k].sizes == judge.sizes
        assert calls[k].deviation <= calls[k].tolerance < 1e-5
        assert calls[k].proofs.keys() == judge.proofs.keys()
        assert all(p.places == judge.proofs[n].places for n, p in calls[k].proofs.items())
    joined = seen.joined("")
    assert joined.sizes["time"] == 150
    h = torch.stack([s[0] if kind is nn.LSTMCell else s for s in states])
    assert torch.equal(joined.output, h)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_layers_of_one_step(kind: Any, options: dict[str, Any]) -> None:
    layer = kind(3, 4, **options).eval()
    x = torch.randn(100, *((2, 1, 3) if "batch_first" in options else (1, 2, 3)))
    with torch.no_grad(), rs.watch(layer) as seen:
        state, states = None, []
        for x_t in x:
            _, state = layer(x_t, state)
            states.append(state)
    for k in (0, 1, 64, 99):
        with torch.no_grad():  # kernels of training round otherwise
            judge = rs.trace(layer, x[k], *([] if k == 0 else [states[k - 1]]))
        assert_close(seen.calls("")[k], judge)
        assert torch.equal(seen.calls("")[k].output, judge.output)
        assert torch.equal(seen.calls("")[k].h_n, judge.h_n)
    assert seen.joined("").sizes["time"] == 100


def by_optimizer(cell: nn.Module) -> None:
    torch.optim.SGD(cell.parameters(), lr=0.5).step()


def past_the_version(cell: nn.Module) -> None:
    for p in cell.parameters():
        p.data.mul_(0.5)


def one_number_through_numpy(cell: nn.Module) -> None:
    cell.weight_hh.detach().numpy()[2, 1] += 3.0  # type: ignore[operator]


@pytest.mark.parametrize("change", [by_optimizer, past_the_version, one_number_through_numpy])
@pytest.mark.parametrize("steps", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_weights_that_change_after_the_call(change: Any, steps: int) -> None:
    cell, x = nn.LSTMCell(3, 4), torch.randn(steps, 2, 3)
    copies = []
    with rs.watch(cell) as seen:
        for _ in range(3):
            copies.append(copy.deepcopy(cell))
            h, _ = loop(cell, x)[-1]
            cell.zero_grad()
            h.sum().backward()
            with torch.no_grad():
                change(cell)
    assert not torch.equal(copies[0].weight_hh, copies[2].weight_hh)
    for k, used in enumerate(copies):
        calls = seen.calls("")[k * steps : (k + 1) * steps]
        for tr, expected in zip(calls, [rs.trace(used, x[0])], strict=False):
            assert_close(tr, expected)
        assert torch.equal(calls[-1].parameters["weight_hh"], used.weight_hh)
        assert torch.equal(calls[-1].h_n, loop(used, x)[-1][0])


def test_what_is_changed_in_place_after_the_call() -> None:
    cell, x = nn.GRUCell(3, 4), torch.randn(40, 2, 3)
    kept = x.clone()
    with torch.no_grad(), rs.watch(cell) as seen:
        h, outputs = torch.zeros(2, 4), []
        for k in range(40):
            new = cell(x[k], h)
            outputs.append(new.clone())
            x[k] = 7.0  # the input
            h.copy_(new)  # the state that went in
            new.fill_(torch.nan)  # what came out
    for k, tr in enumerate(seen.calls("")):
        assert torch.equal(tr.call.x[0], kept[k])
        assert torch.equal(tr.h_n, outputs[k])
        assert torch.equal(tr.h_0, torch.zeros(2, 4) if k == 0 else outputs[k - 1])
    assert seen.joined("").sizes["time"] == 40


def test_no_number_is_computed_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from rnnscope._watch import watch as watching

    opened: list[int] = []
    original = watching.open_captured
    monkeypatch.setattr(
        watching,
        "open_captured",
        lambda taken, *rest: opened.append(taken.call.batch) or original(taken, *rest),  # type: ignore[func-returns-value]
    )
    cell, layer = nn.GRUCell(3, 4), nn.LSTM(3, 4)
    model = nn.ModuleDict({"cell": cell, "layer": layer})
    with torch.no_grad(), rs.watch(model, check=False) as seen:
        loop(cell, torch.randn(200, 2, 3))
        layer(torch.randn(5, 2, 3))
    assert opened == []
    assert seen["layer"].sizes["time"] == 5
    assert opened == [2]
    seen.calls("cell")
    assert opened == [2, 2, 398]  # the first call has no state: another form
    assert seen.joined("cell").calls[3] is seen.calls("cell")[3]
    assert opened == [2, 2, 398]
    opened.clear()
    with torch.no_grad(), rs.watch(model) as seen:
        loop(cell, torch.randn(200, 2, 3))
        assert opened == []
    assert opened == [2, 398]


def corrupted(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let what is kept of one call be off by a little."""
    original, count = held_calls.PlainCall.held, iter(range(10**6))

    def held(self: Any, output: Any) -> Any:
        call = original(self, output)
        if next(count) == number:
            call.parts[0][..., -1] += 0.01
        return call

    monkeypatch.setattr(held_calls.PlainCall, "held", held)


@pytest.mark.parametrize("steps", [5, 150])
def test_a_failed_proof_names_the_call(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    model = nn.ModuleDict({"cell": nn.GRUCell(3, 4)})
    corrupted(monkeypatch, 3)
    seen = rs.watch(model)
    seen.__enter__()
    with torch.no_grad():
        loop(model["cell"], torch.randn(steps, 2, 3))
    with pytest.raises(rs.VerificationError, match=r"^'cell', call 3: "):
        seen.__exit__(None, None, None)
    with pytest.raises(rs.VerificationError, match="call 3"):
        seen.calls("cell")
    corrupted(monkeypatch, 3)
    with torch.no_grad(), rs.watch(model) as seen:
        loop(model["cell"], torch.randn(steps, 2, 3))
        with pytest.raises(rs.VerificationError, match="call 3"):
            seen.joined("cell")
        seen.leave()
    corrupted(monkeypatch, 3)
    with torch.no_grad(), rs.watch(model, check=False) as seen:
        loop(model["cell"], torch.randn(steps, 2, 3))
    assert seen.calls("cell")[3].deviation > 5e-3


def test_the_callers_own_exception_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = nn.GRUCell(3, 4)
    corrupted(monkeypatch, 1)
    seen = rs.watch(cell)

    def work() -> None:
        with seen:
            loop(cell, torch.randn(4, 2, 3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert seen._layers[""].count == 4


def test_what_a_call_leaves_in_memory() -> None:
    """Of a long loop few objects are kept, and tensors of no more numbers than the record has."""
    cell, x = nn.LSTMCell(20, 20), torch.randn(1, 20)
    objects = []
    with torch.no_grad(), rs.watch(cell, check=False) as seen:
        for steps in (300, 1000):
            loop(cell, x.expand(steps, 1, 20))
            gc.collect()
            objects.append(len(gc.get_objects()))
    assert objects[1] - objects[0] < 0.5 * 1000  # that the collector knows; a trace alone has more
    kept = seen._layers[""].kept
    held = [
        part for entry in kept._entries if isinstance(entry, Pack) for part in entry.stack.parts
    ]
    numbers = sum(t.untyped_storage().nbytes() for h in held for t in h.tensors[:1])
    assert sum(len(e.numbers) for e in kept._entries if isinstance(e, Pack)) > 1100
    assert numbers < 2 * 6 * 20 * 4 * 1300


def test_threads_that_share_a_watch() -> None:
    import contextvars

    cell, x = nn.GRUCell(3, 4), torch.randn(80, 2, 3)
    with torch.no_grad(), rs.watch(cell) as seen:
        contexts = [contextvars.copy_context() for _ in range(4)]
        threads = [
            threading.Thread(target=c.run, args=(loop, cell, x * (k + 1)))
            for k, c in enumerate(contexts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen.calls("")) == 320
    assert sorted(s.sizes["time"] for s in seen.segments("")) == [80] * 4


def test_copies_and_pickles_hold_every_call() -> None:
    cell = nn.GRUCell(3, 4)
    with torch.no_grad(), rs.watch(cell, check=False) as seen:
        loop(cell, torch.randn(70, 2, 3))
    for other in (copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))):
        assert len(other.calls("")) == 70
        assert torch.equal(other.joined("")["h"], seen.joined("")["h"])
    one = pickle.dumps(seen.calls("")[3])
    assert len(one) < 30_000  # its own numbers, not those of all


def test_the_last_calls_only() -> None:
    cell, x = nn.GRUCell(3, 4), torch.randn(100, 2, 3)
    with torch.no_grad(), rs.watch(cell, last=20, every=2) as seen:
        states = loop(cell, x)
    calls = seen.calls("")
    assert len(calls) == 20
    assert torch.equal(calls[-1].h_n, states[98])
    assert torch.equal(calls[0].h_n, states[60])


def test_gradients_of_calls_that_wait() -> None:
    cell, x = nn.LSTMCell(3, 4).double(), torch.randn(30, 2, 3, dtype=torch.float64)
    with rs.watch(cell) as seen:
        h, c = loop(cell, x)[-1]
        (h.sum() + c.square().sum()).backward()
    judge = nn.LSTM(3, 4).double()
    judge.load_state_dict({f"{n}_l0": p for n, p in cell.state_dict().items()})
    tr = rs.trace(judge, x)
    g = tr.gradients(tr.h_n.sum() + tr.c_n.square().sum())
    for k in (0, 13, 29):
        torch.testing.assert_close(
            seen.calls("")[k].grad["i"][0, 0, :, 0], g["i"][0, 0, :, k], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("calls", [1, 40])
def test_a_layer_that_changes_its_type_between_calls(calls: int, back: bool) -> None:
    """The weights are the same parameters, and hold the same numbers, before and after."""
    layer, x = nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3)
    with torch.no_grad(), rs.watch(layer) as seen:
        judges = [layer(x)[0] for _ in range(calls)]
        layer.double()
        judges += [layer(x.double(), torch.ones(1, 2, 4).double())[0] for _ in range(calls)]
        if back:
            layer.float()
    assert not seen.skipped
    for tr, judge in zip(seen.calls(""), judges, strict=True):
        assert tr["h"].dtype == judge.dtype
        torch.testing.assert_close(tr["h"][0, 0], judge)
