"""watch: what runs inside a model is recorded as rs.trace would record it, and joined over time.

The judge of a single call is `rs.trace` of the same layer on the same input, whose own judges are
in test_trace.py; the judge of joined calls is a loop over the layer written here.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import rnnscope as rs
from rnnscope._layers.adopt import RECURRENT

FORWARDS = {kind: vars(kind)["forward"] for kind in RECURRENT}


@pytest.fixture(autouse=True)
def classes_as_found() -> Iterator[None]:
    yield
    assert {kind: vars(kind)["forward"] for kind in RECURRENT} == FORWARDS


def equal(one: rs.Trace, other: rs.Trace) -> None:
    """All numbers of two traces are the same, bit for bit."""
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name
    for layer in range(one.sizes["layer"]):
        assert torch.equal(one.layer_input(layer), other.layer_input(layer))
    assert torch.equal(one.h_n, other.h_n)
    assert torch.equal(one.h_0, other.h_0)


class Tagger(nn.Module):
    """An embedding, a bidirectional LSTM and a head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = nn.LSTM(
            6, 5, num_layers=2, bidirectional=True, batch_first=True, dropout=dropout
        )
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        x: Any = self.embed(tokens)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, _ = self.rnn(x)
        return self.head(output.data if lengths is not None else output)


class Decoder(nn.Module):
    """Calls nn.GRU with one step at a time, teacher-forced."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=layers)
        self.head = nn.Linear(4, 3)
        self.between: Callable[[Tensor], Tensor] = lambda h: h

    def forward(self, targets: Tensor, h: Tensor | None = None) -> Tensor:
        outputs = []
        for x in targets:
            y, h = self.gru(x[None], None if h is None else self.between(h))
            outputs.append(self.head(y))
        return torch.cat(outputs)


class Cells(nn.Module):
    """An LSTMCell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)
        self.between: Callable[[int, Any], Any] = lambda t, state: state

    def forward(self, xs: Tensor) -> Tensor:
        state = None
        for t, x in enumerate(xs):
            state = self.cell(x, None if state is None else self.between(t, state))
        return state[0]


# ── one call ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 3])], ids=["dense", "packed"])
@pytest.mark.parametrize("mode", ["train", "eval", "no_grad", "inference"])
def test_a_call_is_what_trace_gives(lengths: Tensor | None, mode: str) -> None:
    model = Tagger(dropout=0.4).train(mode == "train")
    tokens = torch.randint(11, (3, 5))
    contexts = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
    state = torch.get_rng_state()
    with contexts.get(mode, torch.enable_grad)(), rs.watch(model, record="all") as seen:
        model(tokens, lengths)
    after = torch.get_rng_state()
    x: Any = model.embed(tokens).detach()
    if lengths is not None:
        x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    torch.set_rng_state(state)
    judge = rs.trace(model.rnn, x, record="all")
    assert torch.equal(torch.get_rng_state(), after)  # the state is that after the layer alone
    equal(seen["rnn"], judge)
    assert seen["rnn"].deviation == judge.deviation
    assert not seen["rnn"].h_n.requires_grad
    assert not seen["rnn"]["h"].is_inference()
    assert seen.names == ("rnn",)
    assert seen.skipped == {}


def test_the_model_is_the_layer() -> None:
    layer, x = nn.GRU(3, 4), torch.randn(6, 2, 3)
    with rs.watch(layer) as seen:
        layer(x)
    equal(seen.trace, rs.trace(layer, x))
    assert seen.trace is seen[""]
    with rs.watch(nn.Sequential(layer)) as seen:
        layer(x)
    with pytest.raises(rs.AddressError, match=r"write seen\[name\]; watched are '0'"):
        _ = seen.trace


@pytest.mark.parametrize("kind", RECURRENT, ids=lambda kind: kind.__name__)
def test_every_class_of_layer(kind: type[nn.Module]) -> None:
    model = nn.ModuleDict({"it": kind(3, 4)})
    x = torch.randn(2, 3) if kind.__name__.endswith("Cell") else torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        model["it"](x)
    equal(seen["it"], rs.trace(model["it"], x))


@pytest.mark.parametrize("training", [True, False])
def test_watching_changes_nothing(training: bool) -> None:
    torch.manual_seed(3)
    model = Tagger(dropout=0.5).train(training)
    twin = copy.deepcopy(model)
    tokens = torch.randint(11, (3, 5))
    results = []
    for each, watched in ((model, True), (twin, False)):
        torch.manual_seed(1)
        before = dict(vars(each.rnn))
        if watched:
            with rs.watch(each):
                assert dict(vars(each.rnn)) == before  # not even meanwhile
                loss = each(tokens).square().sum()
                loss.backward()
        else:
            loss = each(tokens).square().sum()
            loss.backward()
        assert dict(vars(each.rnn)) == before
        assert not each.rnn._forward_hooks
        assert not each.rnn._forward_pre_hooks
        grads = [p.grad for p in each.parameters()]
        modes = [(m.training, p.requires_grad) for m in each.modules() for p in m.parameters()]
        results.append((loss, torch.get_rng_state(), grads, modes))
    (loss, state, grads, modes), (twin_loss, twin_state, twin_grads, twin_modes) = results
    assert torch.equal(loss, twin_loss)
    assert torch.equal(state, twin_state)
    assert all(itertools.starmap(torch.equal, zip(grads, twin_grads, strict=True)))
    assert modes == twin_modes


def test_a_trace_is_a_snapshot() -> None:
    layer, x = nn.GRU(3, 4), torch.randn(6, 2, 3)
    judge = rs.trace(layer, x)
    expected = [judge.output.clone(), judge.h_n.clone(), judge["r"].clone()]
    with torch.no_grad(), rs.watch(layer) as seen:
        output, h_n = layer(x)
        x.zero_()
        output.zero_()
        h_n.zero_()
        for p in layer.parameters():
            p.zero_()
    found = [seen.trace.output, seen.trace.h_n, seen.trace["r"]]
    assert all(itertools.starmap(torch.equal, zip(found, expected, strict=True)))
    assert seen.trace.parameters["weight_ih_l0"].any()


# ── hooks, weights, precision ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("when", ["before the watch", "inside it"])
def test_the_users_hooks(when: str) -> None:
    model = Decoder(1)

    def hooks() -> None:
        model.gru.register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
        model.gru.register_forward_hook(lambda *call: (call[-1][0] + 5, call[-1][1] + 5))
        model.gru.register_forward_hook(lambda *call: None, prepend=True)

    x = torch.randn(1, 2, 3)
    plain = copy.deepcopy(model.gru)
    if when == "before the watch":
        hooks()
    with rs.watch(model) as seen:
        if when == "inside it":
            hooks()
        y, h = model.gru(x, torch.ones(1, 2, 4))
        model.gru(x, h)
    first, second = seen.calls("gru")
    equal(first, rs.trace(plain, x * 2, torch.ones(1, 2, 4)))  # the layer's own input and output
    assert torch.equal(first.output + 5, y)
    equal(second, rs.trace(plain, x * 2, h))
    assert len(seen.segments("gru")) == 2  # the hook's h is not what the layer returned
    assert len(model.gru._forward_hooks) == 2


def test_functional_call_counts_with_its_weights() -> None:
    model, x = Decoder(), torch.randn(1, 2, 3)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(-0.5)
    with rs.watch(model) as seen:
        functional_call(model, dict(other.named_parameters()), (x,))
    equal(seen["gru"], rs.trace(other.gru, x))
    assert torch.equal(seen["gru"].parameters["weight_hh_l0"], other.gru.weight_hh_l0)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "change", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm]
)
@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_weights_that_are_computed(kind: Any, change: Any) -> None:
    x = torch.randn(2, 3) if kind is nn.GRUCell else torch.randn(5, 2, 3)
    results = []
    for watched in (True, False):
        torch.manual_seed(4)
        model = nn.ModuleList([kind(3, 4)])
        model[0] = change(model[0], "weight_hh" if kind is nn.GRUCell else "weight_hh_l0")
        if watched:
            with rs.watch(model) as seen:
                model[0](x)
            assert seen["0"].deviation <= seen["0"].tolerance
        else:
            model[0](x)
        results.append(list(model.state_dict().values()))
    # the power iteration of spectral norm has run as often as without watching
    assert all(itertools.starmap(torch.equal, zip(*results, strict=True)))


def test_tracing_a_spectral_norm_cell_moves_its_state_once() -> None:
    cell = parametrizations.spectral_norm(nn.GRUCell(3, 4), "weight_hh")
    twin = copy.deepcopy(cell)
    x = torch.randn(2, 3)
    rs.trace(cell, x)
    twin(x)
    for name, value in twin.state_dict().items():
        assert torch.equal(cell.state_dict()[name], value), name


def test_autocast() -> None:
    model, x = Decoder(), torch.randn(3, 2, 3)
    with torch.autocast("cpu", torch.bfloat16), rs.watch(model) as seen:
        model(x)
    assert len(seen.calls("gru")) == 3
    for trace in seen.calls("gru"):
        assert trace.deviation <= trace.tolerance
    with torch.autocast("cpu", torch.bfloat16):
        equal(seen.calls("gru")[0], rs.trace(model.gru, x[:1]))


class Functions(TorchFunctionMode):
    """Counts the calls of functions of torch."""

    called = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.called += 1
        return function(*args, **(kwargs or {}))


def test_modes_of_the_caller_see_the_layer_only() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, x = Decoder(), torch.randn(3, 2, 3)
    counts = []
    for watched in (False, True):
        with FlopCounterMode(display=False) as counter:
            if watched:
                with rs.watch(model) as seen:
                    model(x)
            else:
                model(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    counts = []
    for watched in (False, True):
        with Functions() as functions:
            if watched:
                with rs.watch(model) as seen:
                    model(x)
            else:
                model(x)
        counts.append(functions.called)
    assert counts[0] == counts[1]
    with torch.device("meta"), rs.watch(model) as seen:
        model(x)
    assert seen.joined("gru").deviation is not None


# ── joined over time ─────────────────────────────────────────────────────────────────────────────


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
        chains = seen._layers[""].chains
        assert len(chains._ends) <= 3
        assert len(chains._places) <= 6


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


# ── which calls ──────────────────────────────────────────────────────────────────────────────────


def test_every_and_last_and_record_bound_memory() -> None:
    model, xs = Decoder(), torch.randn(7, 2, 3)
    with rs.watch(model) as all_of:
        model(xs)
    with rs.watch(model, every=3) as seen:
        model(xs)
    for one, other in zip(seen.calls("gru"), all_of.calls("gru")[::3], strict=True):
        equal(one, other)
    assert [segment.why for segment in seen.segments("gru")[1:]] == [
        "no call of it was recorded just before"
    ] * 2
    with rs.watch(model, last=2, record=["r"]) as seen:
        model(xs)
    assert [list(trace) for trace in seen.calls("gru")] == [["r", "h"]] * 2
    assert torch.equal(seen.calls("gru")[0]["r"], all_of.calls("gru")[5]["r"])
    assert seen.joined("gru").why == "the calls before it were not kept"
    assert seen.nbytes == sum(t.nbytes for t in seen.calls("gru")) < all_of.nbytes / 4
    assert "7 calls, 2 kept" in repr(seen)
    for bad in ({"every": 0}, {"last": 0}, {"every": 1.5}, {"check": "yes"}):
        with pytest.raises(ValueError, match="must be"):
            rs.watch(model, **bad)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"rnn": nn.LSTM(3, 4)})
        self.decoder = nn.ModuleDict({"rnn": nn.GRU(4, 4), "cell": nn.GRUCell(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.encoder["rnn"](x)
        z, h = self.decoder["rnn"](y)
        return self.decoder["cell"](z[-1], h[0])


def test_names() -> None:
    model, x = Two(), torch.randn(5, 2, 3)
    expected = {
        None: ["encoder.rnn", "decoder.rnn", "decoder.cell"],
        "decoder.*": ["decoder.rnn", "decoder.cell"],
        ("*.rnn",): ["encoder.rnn", "decoder.rnn"],
        ("decoder.cell", "enc*"): ["encoder.rnn", "decoder.cell"],
    }
    for names, found in expected.items():
        with rs.watch(model, names=names) as seen:
            model(x)
        assert list(seen) == found
        assert [seen[name].structure.kind for name in seen]
    with pytest.raises(rs.AddressError, match=r"'encoder'; the model holds 'encoder.rnn', 'dec"):
        rs.watch(model, names="encoder").__enter__()
    with rs.watch(model, record=["f", "r"]) as seen:  # each layer has its own
        model(x)
    assert list(seen["encoder.rnn"]) == ["f", "c", "h"]
    assert list(seen["decoder.rnn"]) == ["r", "h"]
    with pytest.raises(rs.AddressError, match="got q"):
        rs.watch(model, record=["q"]).__enter__()
    with pytest.raises(rs.AddressError, match=r"watched are 'encoder.rnn'.*Did you mean 'dec"):
        seen["decoder.rn"]
    with rs.watch(model) as seen:
        pass
    with pytest.raises(rs.AddressError, match="no recorded call in this context"):
        seen["decoder.cell"]
    assert "0 calls" in repr(seen)


def test_tied_layers_are_recorded_once() -> None:
    model = Two()
    model.twin = model.decoder["cell"]
    x = torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        model(x)
        model.twin(torch.randn(2, 4))
    assert seen.names == ("encoder.rnn", "decoder.rnn", "decoder.cell")
    assert len(seen.calls("decoder.cell")) == 2
    assert seen.calls("twin") == seen.calls("decoder.cell")
    assert "twin" in seen
    with rs.watch(model, names="twin") as seen:
        model(x)
    assert seen["twin"] is seen["decoder.cell"]


def test_a_model_without_layers() -> None:
    with pytest.raises(rs.NotRecurrentError, match="Sequential holds no recurrent layer"):
        rs.watch(nn.Sequential(nn.Linear(2, 2))).__enter__()
    with pytest.raises(rs.NotRecurrentError, match=r"takes an nn\.Module; got int"):
        rs.watch(3)  # type: ignore[arg-type]


def test_modules_added_and_replaced_meanwhile() -> None:
    model, x = Decoder(1), torch.randn(1, 2, 3)
    with rs.watch(model) as seen:
        _, h = model.gru(x)
        old = model.gru
        model.gru = nn.GRU(3, 4)
        _, h = model.gru(x, h)
        model.extra = nn.GRUCell(3, 4)
        model.extra(x[0])
        old(x)
        nn.GRU(3, 4)(x)  # not in the model
        model.late = OwnForward(3, 4)
        model.loop = OwnLoop(3, 4)
    assert [len(seen.calls(name)) for name in seen] == [3, 1, 0]
    equal(seen.calls("gru")[1], rs.trace(model.gru, x, seen.calls("gru")[0].h_n))
    assert seen.segments("gru")[1].why == "the layer was replaced by another"
    equal(seen["extra"], rs.trace(model.extra, x[0]))
    assert "no call of" in seen.skipped["late"]
    assert "replaces the forward" in seen.skipped["loop"]


def test_nested_and_repeated() -> None:
    model, xs = Decoder(), torch.randn(4, 2, 3)
    with rs.watch(model) as outer:
        model(xs[:1])
        with rs.watch(model, record="all") as inner:
            model(xs[1:2])
            with pytest.raises(RuntimeError, match="on already"):
                inner.__enter__()
        model(xs[2:3])
        tr = rs.trace(model.gru, xs[:1])  # a call like any other
    equal(outer.calls("gru")[3], tr)
    assert [len(outer.calls("gru")), len(inner.calls("gru"))] == [4, 1]
    assert torch.equal(outer.calls("gru")[1]["h"], inner["gru"]["h"])
    with outer:
        model(xs[3:])
    assert len(outer.calls("gru")) == 5
    model(xs)
    assert len(outer.calls("gru")) == 5


def test_copies_and_pickles_made_meanwhile_are_plain() -> None:
    model, xs = Decoder(1), torch.randn(3, 2, 3)
    with rs.watch(model) as seen:
        twin = copy.deepcopy(model.gru)
        again = pickle.loads(pickle.dumps(model.gru))
        with torch.no_grad():
            twin.weight_hh_l0.zero_()
        assert not torch.equal(twin(xs)[0], model.gru(xs)[0])
        assert torch.equal(again(xs)[0], model.gru(xs)[0])
    assert len(seen.calls("gru")) == 2


# ── checkpointing ────────────────────────────────────────────────────────────────────────────────


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


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────


def test_an_exception_in_the_middle() -> None:
    model, xs = Decoder(), torch.randn(5, 2, 3)
    count = iter(range(9))

    def fail(h: Tensor) -> Tensor:
        if next(count) == 2:
            raise KeyError("mine")
        return h

    model.between = fail
    seen = rs.watch(model)
    with pytest.raises(KeyError, match="mine"), seen:
        model(xs)
    assert len(seen.calls("gru")) == 3
    assert seen.joined("gru").sizes["time"] == 3
    model.between = lambda h: h
    model(xs)
    assert len(seen.calls("gru")) == 3


def test_the_layers_own_errors_come_first() -> None:
    model = Decoder()
    with pytest.raises(RuntimeError) as plain:
        model.gru(torch.randn(1, 2, 9))
    with rs.watch(model) as seen:
        with pytest.raises(RuntimeError) as watched:
            model.gru(torch.randn(1, 2, 9))
        _, h = model.gru(torch.randn(1, 2, 3))
        with pytest.raises(RuntimeError):
            model.gru(torch.randn(1, 2, 9), h)
        model.gru(torch.randn(1, 2, 3), h)  # what raised took nothing away
    assert (type(watched.value), str(watched.value)) == (type(plain.value), str(plain.value))
    kind = type(plain.value).__name__
    assert seen.skipped == {"gru": f"call 0: it raised {kind}; call 2: it raised {kind}"}
    assert len(seen.joined("gru").calls) == 2


def test_what_cannot_be_verified_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch._VF.gru
    model, x = Decoder(1), torch.randn(1, 2, 3)

    def wrong(*args: Any) -> Any:
        y, h = true(*args)
        return y + 0.1, h

    monkeypatch.setattr(torch._VF, "gru", wrong)
    with pytest.raises(rs.VerificationError, match=r"is not nn\.GRU's own"), rs.watch(model):
        model(x)
    with rs.watch(model, check=False) as seen:
        model(x)
    assert seen["gru"].deviation == pytest.approx(0.1, rel=1e-4)
    with pytest.raises(rs.VerificationError), rs.watch(model, check="thorough"):
        model(x)


def test_direct_forwards_are_listed() -> None:
    model, xs = Decoder(), torch.randn(2, 2, 3)
    with rs.watch(model) as seen:
        model.gru.forward(xs)
        nn.GRU.forward(model.gru, xs)
        model.forward(xs)  # the model's own forward calls its layers as one should
    assert len(seen.calls("gru")) == 2
    assert list(seen.skipped) == ["gru"]
    assert "called as .forward(...)" in seen.skipped["gru"]
    assert "(2 times)" in seen.skipped["gru"]
    assert "'gru'  skipped: called as .forward" in repr(seen)


class OwnForward(nn.LSTM):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * 2)


class OwnLoop(nn.LSTM):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return x @ self.weight_ih_l0.T


def test_a_subclass_that_calls_its_superclass_is_recorded_as_that_call() -> None:
    """As the layers of pytorch-forecasting: a forward of their own around super().forward."""

    class Wrapped(nn.GRU):
        def forward(self, x: Tensor, hx: Any = None, lengths: Any = None) -> Any:  # type: ignore
            if lengths is None:
                return super().forward(x, hx)
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            out, h = super().forward(packed, hx)
            return nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0], h

    layer, x = Wrapped(3, 4, batch_first=True), torch.randn(2, 5, 3)
    plain = nn.GRU(3, 4, batch_first=True)
    plain.load_state_dict(layer.state_dict())
    lengths = torch.tensor([2, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    with rs.watch(nn.Sequential(layer)) as seen:
        output, _ = layer(x)
        layer(x, lengths=lengths)
        output.sum().backward()
    assert seen.skipped == {}
    equal(seen.calls("0")[0], rs.trace(plain, x))
    equal(seen.calls("0")[1], rs.trace(plain, packed))
    assert seen.calls("0")[0].grad["r"].any()
    equal(rs.trace(layer, x, lengths=lengths), rs.trace(plain, packed))
    with pytest.raises(rs.RefusedError, match="replaces the forward"):
        rs.trace(OwnLoop(3, 4), x)
    with rs.watch(OwnForward(3, 4)) as seen:
        pass
    assert "no call of OwnForward" in seen.skipped[""]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit and torch.ao
def test_what_cannot_be_opened_is_listed() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good = nn.GRU(3, 4)
            self.scripted = torch.jit.script(nn.Sequential(nn.GRU(3, 4)))
            self.own = OwnLoop(3, 4)
            held = nn.Sequential(nn.LSTM(3, 4), nn.GRUCell(3, 4))
            self.quantised = torch.ao.quantization.quantize_dynamic(held)
            self.patched = nn.GRU(3, 4)
            self.patched.forward = lambda x: x  # type: ignore[method-assign]

        def forward(self, x: Tensor) -> Tensor:
            self.good(x), self.scripted(x), self.own(x), self.patched(x)
            self.quantised[1](x[0])
            return self.quantised[0](x)[0]

    model, x = Model(), torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        model(x)
    assert seen.names == ("good",)
    equal(seen["good"], rs.trace(model.good, x))
    reasons = {
        "scripted.0": "a scripted GRU",
        "own": "replaces the forward",
        "quantised.0": "quantised",
        "quantised.1": "quantised",
        "patched": "replaces the forward",
    }
    assert list(seen.skipped) == list(reasons)
    for name, reason in reasons.items():
        assert reason in seen.skipped[name]
        with pytest.raises(rs.AddressError, match=f"{name!r} was skipped"):
            seen[name]
    quantisable = nn.Sequential(torch.ao.nn.quantizable.LSTM(3, 4))  # it has LSTMs of its own
    with rs.watch(quantisable) as seen:
        pass
    assert list(seen.skipped) == ["0"]
    with rs.watch(model.quantised) as seen:  # nothing to record, and it says so
        model.quantised[0](x)
    assert seen.names == ()
    assert list(seen.skipped) == ["0", "1"]


def test_inputs_that_cannot_be_opened_are_listed() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = Decoder()
    with rs.watch(model) as seen:
        torch.func.vmap(lambda h: model.head(h))(torch.randn(3, 4))
        torch.func.grad(lambda x: model.gru(x)[0].sum())(torch.randn(5, 2, 3))
        model.gru(torch.randn(5, 0, 3))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model.gru(mode.from_tensor(torch.randn(5, 2, 3)))
    assert seen.calls("gru") == []
    for reason in ("vmap or grad", "no sequence", "FakeTensor"):
        assert reason in seen.skipped["gru"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_scripting_and_tracing_meanwhile() -> None:
    model, x = nn.Sequential(nn.GRU(3, 4)), torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        torch.jit.trace(model, x, check_trace=False)
        # a class that no other test scripts, for TorchScript keeps what it has compiled
        scripted = torch.jit.script(nn.Sequential(nn.LSTM(3, 4)))
    assert "torch.jit.trace" in seen.skipped["0"]
    assert scripted(x)[0].shape == (5, 2, 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch._dynamo's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # also
@pytest.mark.parametrize("before", [True, False], ids=["compiled before", "compiled inside"])
@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
@pytest.mark.parametrize("how", ["module", "function", "method", "layer"])
def test_compiled_code_is_seen(how: str, kind: Any, before: bool) -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 3) if kind is nn.GRUCell else torch.randn(5, 2, 3)
    inner = nn.Sequential(nn.Linear(3, 3), kind(3, 4))
    plain = inner[1]
    model, call = inner, inner
    if how == "module":
        model = nn.Sequential(torch.compile(inner, backend="eager"))
        call = model
    elif how == "function":
        call = torch.compile(lambda x: inner(x), backend="eager")
    elif how == "method":
        inner.compile(backend="eager")
    else:
        inner[1] = torch.compile(plain, backend="eager")
    if before:
        call(x)
    with rs.watch(model) as seen:
        for _ in range(3):
            call(x)
    call(x)
    (name,) = seen
    equal(seen.calls(name)[2], rs.trace(plain, inner[0](x).detach()))
    assert len(seen.calls(name)) == 3
    assert seen.skipped == {}
    torch._dynamo.reset()


def test_nan_is_data() -> None:
    layer, xs = nn.GRU(3, 4), torch.randn(4, 2, 3)
    xs[1, 0, 0] = torch.nan
    with rs.watch(layer) as seen:
        h = None
        for x in xs.split(1):
            _, h = layer(x, h)
    joined = seen.joined("")
    assert joined["h"][0, 0, 0, 1:].isnan().all()
    assert joined["h"][0, 0, 1].isfinite().all()


def test_a_loop_of_cells_compiled_before_is_seen() -> None:
    """Its graph holds the cell as plain operations; while it is watched it runs as written."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = c = x.new_zeros(x.shape[0], 4)
            for t in range(x.shape[1]):
                h, c = self.cell(x[:, t], (h, c))
            return h

    model = Loop()
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(2, 5, 3)
    expected = compiled(x)
    with rs.watch(model) as seen:
        found = compiled(x)
    assert len(seen.calls("cell")) == 5
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(seen.joined("cell")["h"][0, 0, :, -1], expected, atol=1e-6)


# ── what it cannot do ────────────────────────────────────────────────────────────────────────────


def test_what_a_watch_gradients_and_memory_cannot_do_is_told_with_the_line() -> None:
    model, x = Two(), torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        model(x)
    for name, line in {
        "explain": "seen['encoder.rnn'].explain(...)",
        "gradients": "seen['encoder.rnn'].gradients(...)",
        "to_xarray": "seen['encoder.rnn'].to_xarray(...)",
        "sel": "seen['encoder.rnn'].sel(...)",
        "output": "seen['encoder.rnn'].output",
        "h_n": "seen['encoder.rnn'].h_n",
        "deviation": "seen['encoder.rnn'].deviation",
    }.items():
        with pytest.raises(AttributeError) as error:
            getattr(seen, name)
        assert f"write {line}" in str(error.value)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = seen.nonsense
    with pytest.raises(rs.AddressError, match=r"'f' is a quantity.*seen\['encoder.rnn'\]\['f'\]"):
        seen["f"]
    with pytest.raises(rs.AddressError, match=r"write seen\['encoder.rnn'\]\['f', 0\]"):
        seen["encoder.rnn", "f", 0]
    assert not hasattr(seen, "explain")
    assert copy.deepcopy(seen).names == seen.names
    tr = rs.trace(nn.LSTM(3, 4), x)
    g, memory = tr.gradients(tr.output.sum()), tr.memory()
    for record, lines in (
        (
            g,
            {
                "explain": "tr.explain",
                "view": "gradients=g",
                "rerun": "tr.rerun",
                "h_n": "g.direct",
            },
        ),
        (memory, {"explain": "tr.explain", "plot": "rs.plot.memory(tr)", "written": "memory['"}),
    ):
        for name, line in lines.items():
            with pytest.raises(AttributeError) as error:
                getattr(record, name)
            assert line in str(error.value), name
        copy.deepcopy(record)
        pickle.loads(pickle.dumps(record))
    for name, line in {
        "weight_hh_l0": "g.parameters['weight_hh_l0']",
        "h_0": "g.h_0",
        "c_n": "g.direct['c']",
    }.items():
        with pytest.raises(rs.AddressError) as error:
            g[name]
        assert f"write {line}" in str(error.value)
    with pytest.raises(rs.AddressError, match=r"write tr\['f'\]"):
        memory["f"]


# ── labels ───────────────────────────────────────────────────────────────────────────────────────


def test_labels_name_the_steps_of_the_calls_that_they_fit() -> None:
    words = ["the", "cat", "sat"]
    layer = nn.GRU(3, 4)
    with rs.watch(layer, labels=words) as seen:
        layer(torch.randn(3, 2, 3))
    assert seen.trace.labels == (tuple(words),) * 2
    assert seen.skipped == {}
    with rs.watch(layer, labels=[words, words[:2]]) as seen:
        layer(pack_padded_sequence(torch.randn(3, 2, 3), torch.tensor([3, 2])))
    assert seen.trace.labels == (tuple(words), tuple(words[:2]))


def test_labels_name_the_steps_of_joined_calls() -> None:
    words = ["the", "cat", "sat"]
    model = Decoder(1)
    with rs.watch(model, labels=words) as seen:
        model(torch.randn(3, 2, 3))
    assert seen.joined("gru").labels == (tuple(words),) * 2
    assert seen.skipped == {}
    assert rs.plot.data.quantity(seen.joined("gru"), "h").labels == tuple(words)


def test_labels_that_fit_no_call_are_told() -> None:
    model = Decoder(1)
    with rs.watch(model, labels=["a", "b"]) as seen:
        model(torch.randn(3, 2, 3))
    assert "its labels: labels must be" in seen.skipped["gru"]
    assert len(seen.joined("gru").calls) == 3
