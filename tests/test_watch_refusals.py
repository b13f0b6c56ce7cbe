"""watch: errors, calls that cannot be recorded, and code that is scripted or compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from watched import Decoder, OwnForward, OwnLoop, equal

import rnnscope as rs

pytestmark = pytest.mark.usefixtures("classes_as_before")


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
