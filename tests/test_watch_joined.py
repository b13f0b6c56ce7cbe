"""watch: calls that hand the state on are joined over time, and calls of batches along the batch.

The judge is a loop over the layer written here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from watched import Cells, Decoder

import rnnscope as rs

pytestmark = pytest.mark.usefixtures("classes_as_before")


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_a_decoder_of_single_steps_is_one_trace(grad: bool, inference: bool) -> None:
    model, xs = Decoder().double(), torch.randn(7, 2, 3, dtype=torch.float64)
    grads = torch.enable_grad() if grad else torch.no_grad()
    with torch.inference_mode(inference), grads, rs.watch(model, record="all") as seen:
        model(xs)
    assert len(seen.calls("gru")) == 7
    joined = seen.joined("gru")
    judge = rs.trace(model.gru, xs, record="all")
    assert list(joined) == list(judge)
    for name in judge:  # one product over all steps rounds differently from one a step
        torch.testing.assert_close(joined[name], judge[name], rtol=0, atol=1e-14)
    for layer in (0, 1):
        torch.testing.assert_close(
            joined.layer_input(layer), judge.layer_input(layer), rtol=0, atol=1e-14
        )
    torch.testing.assert_close(joined.output, judge.output, rtol=0, atol=1e-14)
    assert joined.output.shape == (7, 2, 4)
    assert torch.equal(joined.h_n, seen.calls("gru")[-1].h_n)
    assert torch.equal(joined.sel("h", layer=1, time=3), seen.calls("gru")[3]["h", 1][:, :, 0])
    assert joined.boundaries == ()
    assert joined.deviation == max(trace.deviation for trace in seen.calls("gru"))
    assert joined.why == "no initial state was given"
    assert joined.sizes["time"] == 7
    with pytest.raises(rs.AddressError, match=r"called 7 times: seen.calls\('gru'\).*seen.joined"):
        seen["gru"]


def test_a_cell_in_a_loop() -> None:
    model, xs = Cells().double(), torch.randn(6, 2, 3, dtype=torch.float64)
    layer = nn.LSTM(3, 4, dtype=torch.float64)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, f"{name}_l0").copy_(getattr(model.cell, name))
    with rs.watch(model) as seen:
        model(xs)
    joined, judge = seen.joined("cell"), rs.trace(layer, xs)
    for name in judge:
        torch.testing.assert_close(joined[name], judge[name], rtol=0, atol=1e-14)
    torch.testing.assert_close(joined.output, judge.output, rtol=0, atol=1e-14)
    assert joined.proofs["c"].every_step
    assert torch.equal(joined.c_n, seen.calls("cell")[-1].c_n)
    assert repr(joined).endswith("Joined from 6 calls.")


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_chunks(batch_first: bool, batched: bool) -> None:
    layer = nn.GRU(3, 4, batch_first=batch_first).double()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    x = x[:, 0] if not batched else x.transpose(0, 1) if batch_first else x
    h = torch.randn(layer(x)[1].shape, dtype=torch.float64)
    with rs.watch(layer) as seen:
        h_n = h
        for chunk in x.split([3, 1, 3], dim=1 if batch_first and batched else 0):
            _, h_n = layer(chunk, h_n)
    joined, judge = seen.joined(""), rs.trace(layer, x, h)
    for name in judge:
        torch.testing.assert_close(joined[name], judge[name], rtol=0, atol=1e-14)
    torch.testing.assert_close(joined.output, judge.output, rtol=0, atol=1e-14)
    assert torch.equal(joined.h_0, h)
    assert joined.why == "no call of it was recorded just before"


def alter_detach(h: Tensor) -> Tensor:
    return h.detach()


def alter_data(h: Tensor) -> Tensor:
    return h.data


def alter_leaf(h: Tensor) -> Tensor:
    return h.detach().requires_grad_()


@pytest.mark.parametrize("alter", [alter_detach, alter_data, alter_leaf])
def test_a_detach_is_a_boundary(alter: Callable[[Tensor], Tensor]) -> None:
    layer, xs = nn.GRU(3, 4), torch.randn(6, 2, 3)
    with rs.watch(layer) as seen:
        h = None
        for t, x in enumerate(xs.split(2)):
            _, h = layer(x, h)
            if t == 1:
                h = alter(h)
    assert seen.joined("").boundaries == (4,)
    assert "detached before time=4" in repr(seen.joined(""))


def test_without_a_graph_a_detach_cuts_nothing() -> None:
    layer, xs = nn.GRU(3, 4), torch.randn(6, 2, 3)
    with torch.no_grad(), rs.watch(layer) as seen:
        h = None
        for x in xs.split(2):
            _, h = layer(x, None if h is None else h.detach())
    assert seen.joined("").boundaries == ()


OTHER = "h_0 holds other numbers than the call before returned"
RESETS: dict[str, tuple[Callable[[Tensor], Tensor | None], str]] = {
    "zero_": (lambda h: h.zero_(), OTHER),
    "through data": (lambda h: h.data.zero_(), OTHER),
    "through numpy": (lambda h: torch.from_numpy(h.numpy()).zero_(), OTHER),
    "reordered": (lambda h: h.index_select(1, torch.tensor([1, 0])), "the initial state holds the"),
    "shrunk": (lambda h: h[:, :1], "the batch changed from 2 to 1"),
    "none": (lambda h: None, "no initial state was given"),
}


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("name", RESETS)
def test_resets_begin_a_segment(name: str, inference: bool) -> None:
    change, why = RESETS[name]
    layer, xs = nn.GRU(3, 4), torch.randn(6, 2, 3)
    with torch.inference_mode(inference), torch.no_grad(), rs.watch(layer) as seen:
        h = None
        for t, x in enumerate(xs):
            if t == 4:
                changed = change(h)
                h = h if name.startswith("through") else changed
            _, h = layer(x[None] if h is None else x[None, : h.shape[1]], h)
    found = seen.segments("")
    assert [len(segment.calls) for segment in found] == [4, 2]
    assert found[1].why.startswith(why)
    assert found[1].sizes["time"] == 2
    with pytest.raises(rs.AddressError, match="2 segments: call 4 does not go on from call 3"):
        seen.joined("")


SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda h: h,
    "in place": lambda h: h.mul_(1.0),
    "clone": lambda h: h.clone(),
    "through numpy": lambda h: torch.from_numpy(h.numpy().copy()),
    "mask": lambda h: h * torch.ones(1, 2, 1),
    "detach": lambda h: h.detach(),
    "a list": lambda h: torch.tensor(h.tolist()),
    "cache": lambda h: torch.zeros(1, 2, 4).copy_(h),
}


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("name", SAME)
def test_equal_numbers_hand_the_state_on_whatever_way_they_took(name: str, inference: bool) -> None:
    layer, xs = nn.GRU(3, 4), torch.randn(6, 2, 3)
    with torch.inference_mode(inference), torch.no_grad(), rs.watch(layer) as seen:
        h = None
        for x in xs:
            _, h = layer(x[None], None if h is None else SAME[name](h))
    joined = seen.joined("")
    assert len(joined.calls) == 6
    assert joined.restarts == {}
    torch.testing.assert_close(joined["h"], rs.trace(layer, xs)["h"])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.LSTMCell])
@pytest.mark.parametrize("to", [0.0, 0.5])
def test_rows_that_were_reset_begin_anew_in_the_same_trace(kind: Any, to: float) -> None:
    """As at the end of an episode: h * (1 - done)."""
    layer, xs = kind(3, 4).double(), torch.randn(6, 3, 3, dtype=torch.float64)
    single = kind is nn.LSTMCell
    states = 1 if kind is nn.GRU else 2

    def reset(state: Any, rows: list[int]) -> Any:
        mask = torch.ones(3, 1, dtype=torch.float64)
        mask[rows] = 0
        changed = [t * mask + to * (1 - mask) for t in (state if states == 2 else [state])]
        return tuple(changed) if states == 2 else changed[0]

    with rs.watch(layer) as seen:
        state = None
        for t, x in enumerate(xs):
            if t in (2, 4):
                state = reset(state, [1] if t == 2 else [0, 2])
            out = layer(x if single else x[None], state)
            state = out if single else out[1]
    joined = seen.joined("")
    assert joined.restarts == {2: (1,), 4: (0, 2)}
    assert "batch 1 begins anew at time=2; batch 0, 2 begin anew at time=4" in repr(joined)
    before = joined.before("h", 0, "forward")
    assert torch.equal(before[1, 2], torch.full((4,), to, dtype=torch.float64))
    assert torch.equal(before[0, 2], joined["h"][0, 0, 0, 1])
    # each row alone, begun anew where it was reset, is the judge
    for row, cuts in ((0, [0, 4, 6]), (1, [0, 2, 6]), (2, [0, 4, 6])):
        for start, stop in itertools.pairwise(cuts):
            hx = None if start == 0 else torch.full((1, 4), to, dtype=torch.float64)
            for t in range(start, stop):
                x = xs[t, row : row + 1]
                whole = hx is None or states == 1 or isinstance(hx, tuple)
                begin = hx if whole else (hx, hx)
                if single:
                    hx = layer(x, begin)
                    h = hx[0]
                else:
                    lead = None if begin is None else tuple(b[None] for b in begin)
                    if states == 1:
                        lead = None if begin is None else begin[None]
                    out, final = layer(x[None], lead)
                    h = out[0]
                    hx = tuple(f[0] for f in final) if states == 2 else final[0]
                torch.testing.assert_close(joined["h"][0, 0, row, t], h[0], rtol=0, atol=1e-14)
    text = str(joined.explain("h", layer=0, direction="forward", batch=1, time=2, unit=0))
    assert f"{to:g}" in text


def test_chains_of_one_cell_run_side_by_side() -> None:
    cell, xs = nn.LSTMCell(3, 4).double(), torch.randn(2, 5, 2, 3, dtype=torch.float64)
    with rs.watch(cell) as seen:
        states: list[Any] = [None, None]
        for t in range(5):
            for k in (0, 1) if t % 2 else (1, 0):
                states[k] = cell(xs[k, t], states[k])
    chains = seen.segments("")
    assert [len(chain.calls) for chain in chains] == [5, 5]
    for chain, k in zip(chains, (1, 0), strict=True):
        state = None
        for t in range(5):
            state = cell(xs[k, t], state)
            torch.testing.assert_close(chain["h"][0, 0, :, t], state[0], rtol=0, atol=1e-14)
    with pytest.raises(rs.AddressError, match="call 1 does not go on from call 0, because no init"):
        seen.joined("")


def test_a_state_that_two_calls_go_on_from_is_a_fork() -> None:
    cell, x = nn.GRUCell(3, 4), torch.randn(2, 3)
    with rs.watch(cell) as seen:
        h = cell(x)
        first = cell(x, h)
        cell(x * 2, h)
        cell(x, first)
    chains = seen.segments("")
    assert [len(chain.calls) for chain in chains] == [3, 1]
    assert "other numbers" in chains[1].why
    with rs.watch(cell) as seen:
        h = cell(x)
        cell(x * 2, h)
        for _ in range(3):
            cell(x * 3, h)
    assert [len(chain.calls) for chain in seen.segments("")] == [2, 1, 1, 1]


def test_batches_of_a_data_set_join_along_the_batch() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    batches = [torch.randn(2, 5, 3), torch.randn(3, 7, 3), torch.randn(1, 2, 3)]
    packed = pack_padded_sequence(
        batches[1], torch.tensor([7, 1, 3]), batch_first=True, enforce_sorted=False
    )
    with torch.no_grad(), rs.watch(nn.Sequential(layer)) as seen:
        for x in (batches[0], packed, batches[2]):
            layer(x)
    whole = seen.batches("0")
    assert whole.lengths.tolist() == [5, 5, 7, 1, 3, 2]
    assert whole["c"].shape == (2, 2, 6, 7, 4)
    for start, tr in zip((0, 2, 5), seen.calls("0"), strict=True):
        steps, batch = tr.sizes["time"], tr.sizes["batch"]
        part = whole["h"][:, :, start : start + batch]
        assert torch.equal(part[:, :, :, :steps], tr["h"])
        assert not part[:, :, :, steps:].any()
        for k in (0, 1):
            x = whole.layer_input(k)[start : start + batch, :steps]
            assert torch.equal(x, tr.layer_input(k))
    last = whole.sel("h", layer=1, direction="forward", time="last")
    assert torch.equal(last[3], seen.calls("0")[1]["h"][1, 0, 1, 0])
    assert torch.equal(whole.valid.sum(1), whole.lengths)
    with pytest.raises(rs.AddressError, match="no recorded call"), rs.watch(layer) as seen:
        seen.batches("")


def test_memory_of_ends_is_bounded() -> None:
    cell = nn.GRUCell(3, 4)
    with torch.no_grad(), rs.watch(cell, last=2) as seen:
        for _ in range(20):
            h = None
            for x in torch.randn(3, 2, 3):
                h = cell(x, h)
        assert len(seen._layers[""].kept._entries) == 2
        assert seen._layers[""].kept._pending <= 2


def test_a_view_of_the_output_hands_the_state_on() -> None:
    layer, xs = nn.GRU(3, 4, batch_first=True), torch.randn(2, 6, 3)
    with rs.watch(layer) as seen:
        h = None
        for x in xs.split(2, dim=1):
            y, _ = layer(x, h)
            h = y[:, -1:].transpose(0, 1)
    assert len(seen.joined("").calls) == 3


def test_half_of_the_state_altered() -> None:
    model, xs = Cells(), torch.randn(5, 2, 3)
    model.between = lambda t, state: (state[0], state[1] * 2) if t == 3 else state
    with rs.watch(model) as seen:
        model(xs)
    assert [segment.why for segment in seen.segments("cell")][1:] == [
        "c_0 holds other numbers than the call before returned"
    ]


def test_a_beam_that_shrinks() -> None:
    model = Decoder()
    with torch.no_grad(), rs.watch(model) as seen:
        h, x = None, torch.randn(1, 5, 3)
        for keep in (5, 5, 3, 3, 2):
            if h is not None and h.shape[1] != keep:
                h, x = h.index_select(1, torch.arange(keep)), x[:, :keep]
            _, h = model.gru(x, h)
    found = seen.segments("gru")
    assert [(s.sizes["batch"], s.sizes["time"]) for s in found] == [(5, 2), (3, 2), (2, 1)]
    assert found[1].why == "the batch changed from 5 to 3"
    assert "batch 2 to 5, time 1" in repr(seen)


def test_an_optimiser_step_between_begins_a_segment() -> None:
    layer, xs = nn.GRU(3, 4), torch.randn(6, 2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    with rs.watch(layer) as seen:
        h = None
        for x in xs.split(2):
            y, h = layer(x, h)
            y.sum().backward()
            optimizer.step()
            h = h.detach()
    assert [s.why for s in seen.segments("")][1:] == ["the weights had changed"] * 2
    for trace in seen.calls(""):
        assert trace.deviation <= trace.tolerance


def test_what_does_not_go_on_from_call_to_call() -> None:
    layer, x = nn.GRU(3, 4, bidirectional=True), torch.randn(2, 2, 3)
    with rs.watch(layer) as seen:
        _, h = layer(x)
        layer(x, h)
    assert "bidirectional" in seen.segments("")[1].why
    layer = nn.GRU(3, 4)
    packed = pack_padded_sequence(x, torch.tensor([2, 1]))
    with rs.watch(layer) as seen:
        _, h = layer(packed)
        layer(x, h)
    assert "packed" in seen.segments("")[1].why
    with rs.watch(layer) as seen:
        _, h = layer(x)
        layer.eval()
        layer(x, h)
    assert "train and eval" in seen.segments("")[1].why
