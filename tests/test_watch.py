"""watch: what runs inside a model is recorded as rs.trace would record it.

The judge of a single call is `rs.trace` of the same layer on the same input, whose own judges are
in test_trace.py.
"""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode
from watched import Decoder, OwnForward, OwnLoop, Tagger, Two, equal

import rnnscope as rs
from rnnscope._layers.adopt import RECURRENT

pytestmark = pytest.mark.usefixtures("classes_as_before")


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
    with contexts.get(mode, torch.enable_grad)():  # kernels of training round otherwise
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


def test_batches_are_printed_in_words() -> None:
    layer = nn.GRU(3, 4)
    with rs.watch(layer) as seen:
        for steps in (5, 7):
            layer(torch.randn(steps, 2, 3))
    assert str(seen.batches("")) == (
        "2 calls of nn.GRU(3, 4) along the batch: r z n h\n"
        "  layer 1, direction 1, batch 4, time 7; sequences of 5 to 7 steps; 0.00179 MB"
    )
