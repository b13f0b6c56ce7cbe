"""Candidates in every form, hostile ones too: numbers, messages, and nothing left changed."""

from __future__ import annotations

import copy
import functools
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._compare.candidate.call import Candidate
from rnnscope._compare.candidate.recorded import Recorded
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.adopt import adopt

T, B, F, H = 5, 3, 2, 4

LAYERS = {
    "lstm": lambda: nn.LSTM(F, H),
    "lstm_2x2_batch_first": lambda: nn.LSTM(F, H, 2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(F, H, 2, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(F, H, 2, batch_first=True),
    "rnn": lambda: nn.RNN(F, H, bidirectional=True),
    "relu": lambda: nn.RNN(F, H, 3, nonlinearity="relu", bias=False),
    "declared": lambda: rs.Recurrent(rs.cells.LSTM_PEEPHOLE, F, H, reverse=True),
}


def inputs_of(layer: nn.Module, given: bool = True, steps: int = T, batch: int = B) -> Inputs:
    s = adopt(layer).structure
    shape = (s.num_layers, len(s.directions), batch)
    initial = {n: torch.randn(*shape, s.state_size(n)) * given for n in s.cell.states}
    return Inputs(torch.randn(steps, batch, s.input_size), initial, given)


def of(candidate: Any, layer: nn.Module, **options: Any) -> Candidate:
    return Candidate.of(candidate, adopt(layer).structure, **options)


@pytest.fixture
def lstm() -> nn.LSTM:
    return nn.LSTM(F, H)


@pytest.fixture
def gru() -> nn.GRU:
    return nn.GRU(F, H, batch_first=True)


def expected(layer: nn.Module, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """What the layer itself returns, by its own call."""
    adopted = adopt(layer)
    x = inputs.x.transpose(0, 1) if adopted.batch_first else inputs.x
    states = [v.reshape(adopted.state_shape(n, inputs.batch)) for n, v in inputs.initial.items()]
    hx = (states[0] if len(states) == 1 else tuple(states)) if inputs.given else None
    with torch.no_grad():
        returned = layer(x, hx)
    found = adopted.returned(returned, adopted.call((x, hx), {}))
    return found.h, dict(found.final)


# forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_module_is_called_as_the_reference_is(name: str, given: bool) -> None:
    layer = LAYERS[name]()
    inputs = inputs_of(layer, given)
    answer = of(layer, layer).call(inputs)
    output, final = expected(layer, inputs)
    torch.testing.assert_close(answer.output, output, rtol=0, atol=0)
    assert answer.final.keys() == final.keys()
    for state, value in final.items():
        torch.testing.assert_close(answer.final[state], value, rtol=0, atol=0)
    assert (answer.dtype, answer.notes, dict(answer.others)) == (torch.float32, (), {})


def np_gru(x: Any, w: Any, h: Any) -> Any:
    """(batch, time, feature) → (batch, time, unit), with what NumPy has and torch has not."""
    out = np.empty((*x.shape[:2], H), x.dtype)
    h = h[0]
    for t in range(x.shape[1]):
        a = np.dot(x[:, t], w["weight_ih_l0"].T) + w["bias_ih_l0"]
        b = np.dot(h, w["weight_hh_l0"].T) + w["bias_hh_l0"]
        r, z = (1 / (1 + np.exp(-(a + b)[:, k * H : (k + 1) * H])) for k in (0, 1))
        n = np.tanh(a[:, 2 * H :] + r * b[:, 2 * H :])
        out[:, t] = h = (1 - z) * n + z * h
    return out


@pytest.mark.parametrize("form", ["function", "partial", "behind a dict"])
def test_a_function_of_numpy_gets_arrays_and_weights(gru: nn.GRU, form: str) -> None:
    seen = []

    def candidate(x: Any, initial: Any, weights: Any) -> Any:
        seen.append(type(x))
        assert isinstance(x, np.ndarray)
        assert isinstance(weights["bias_ih_l0"], np.ndarray)
        return np_gru(x, weights, initial)

    inputs = inputs_of(gru)
    functions = {"gru": candidate}
    forms: dict[str, Any] = {
        "function": candidate,
        "partial": functools.partial(candidate),
        "behind a dict": lambda x, initial, weights: functions["gru"](x, initial, weights),
    }
    one = of(forms[form], gru)
    assert one.signature.takes_initial
    assert one.takes_weights
    assert not one.takes_lengths
    for _ in range(2):
        answer = one.call(inputs, gru.state_dict())
        torch.testing.assert_close(answer.output, expected(gru, inputs)[0], rtol=0, atol=1e-6)
    # what worked is remembered
    tried = [Tensor] if form == "behind a dict" else []
    assert seen == [*tried, np.ndarray, np.ndarray]


def test_a_function_that_would_take_both_gets_what_it_is_written_for(gru: nn.GRU) -> None:
    """std() of a tensor divides by n − 1, that of an array by n, and neither raises."""

    def spread(x: Any) -> Any:
        return np.ones((B, T, H), np.float32) * np.float32(x.std())

    inputs = inputs_of(gru)
    answer = of(spread, gru).call(inputs)
    assert float(answer.output[0, 0, 0]) == pytest.approx(inputs.x.numpy().std(), rel=1e-6)


def run(layer: nn.Module, x: Any, *states: Any) -> Any:
    return layer(x, states if len(states) == 2 else states[0] if states else None)[0]


FORMS: dict[str, Any] = {
    "f(x, hx)": lambda m: lambda x, hx: m(x, hx)[0],
    "f(x, anything)": lambda m: lambda x, anything: m(x, anything)[0],
    "f(x, *, initial_state)": lambda m: functools.partial(lambda m, x, *, state: m(x, state)[0], m),
    "f(x, h_0, c_0)": lambda m: lambda x, h_0, c_0: m(x, (h_0, c_0))[0],
    "f(x, a, c0)": lambda m: lambda x, a, c0: m(x, (a, c0))[0],
    "f(x, c0, h0)": lambda m: lambda x, c0, h0: m(x, (h0, c0))[0],
    "f(weights, x, hx)": lambda m: (
        lambda weights, x, hx: torch.func.functional_call(m, weights, (x, hx))[0]
    ),
    "f(x, a, b)": lambda m: lambda x, a, b: torch.func.functional_call(m, b, (x, a))[0],
    "f(*args)": lambda m: lambda *args: m(*args),
    "f(*args, **kwargs)": lambda m: lambda *args, **kwargs: m(*args, **kwargs),
    "f(x, scale=1, hx=None)": lambda m: lambda x, scale=1.0, hx=None: m(x, hx)[0] * scale,
    "bound method": lambda m: m.forward,
    "partial": lambda m: functools.partial(run_with_weights, weights=m.state_dict(), m=m),
    "scripted": lambda m: torch.jit.script(Called(m)),
    "traced": lambda m: torch.jit.trace(
        Called(m), (torch.zeros(T, B, F), (torch.zeros(1, B, H), torch.zeros(1, B, H)))
    ),
    "compiled": lambda m: torch.compile(Called(m), backend="eager"),
}


class Called(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor]) -> Tensor:
        output, _ = self.inner(x, hx)
        return output


def run_with_weights(x: Any, initial: Any = None, *, weights: Any, m: nn.Module) -> Any:
    return torch.func.functional_call(m, weights, (x, initial))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("form", FORMS)
def test_parameters_are_understood_by_name_and_place(lstm: nn.LSTM, form: str) -> None:
    inputs = inputs_of(lstm)
    candidate = of(FORMS[form](lstm), lstm)
    assert candidate.signature.takes_initial
    answer = candidate.call(inputs, lstm.state_dict())
    torch.testing.assert_close(answer.output, expected(lstm, inputs)[0], rtol=0, atol=0)


@pytest.mark.parametrize("form", ["f(x, h_0, c_0)", "f(x, hx)", "f(x, a, b)"])
def test_states_that_are_not_given_are_zeros_where_they_must_be_given(
    lstm: nn.LSTM, form: str
) -> None:
    inputs = inputs_of(lstm, given=False)
    answer = of(FORMS[form](lstm), lstm).call(inputs, lstm.state_dict())
    torch.testing.assert_close(answer.output, expected(lstm, inputs)[0], rtol=0, atol=0)


def test_args_that_take_x_alone_are_told(gru: nn.GRU) -> None:
    def alone(x: Tensor) -> Tensor:
        return gru(x)[0]

    candidate = of(lambda *args: alone(*args), gru)
    answer = candidate.call(inputs_of(gru))
    assert not candidate.signature.takes_initial
    assert answer.notes == ("the function takes no initial states",)


def test_defaults_are_the_callers_choice(gru: nn.GRU) -> None:
    given = []

    def candidate(x: Tensor, initial: Any = None, weights: Any = "mine", mask: Any = None) -> Any:
        given.append((initial is not None, weights, mask))
        return gru(x)[0]

    one = of(candidate, gru)
    one.call(inputs_of(gru), gru.state_dict())
    assert (given, one.takes_weights) == ([(True, "mine", None)], False)
    assert not of(functools.partial(candidate, initial=None), gru).signature.takes_initial


@pytest.mark.parametrize("directions", [1, 2])
def test_a_layer_like_those_of_keras(directions: int) -> None:
    layer = nn.LSTM(F, H, bidirectional=directions == 2, batch_first=True)

    class Keras:
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.call(*args, **kwargs)

        def call(self, sequences: Any, initial_state: Any = None, mask: Any = None) -> Any:
            assert mask is None
            hx = None
            if initial_state is not None:
                assert len(initial_state) == 2 * directions
                hx = tuple(torch.stack(initial_state[k::2]) for k in (0, 1))
            output, (h, c) = layer(sequences, hx)
            return [output, *(v[d] for d in range(directions) for v in (h, c))]

    inputs = inputs_of(layer)
    answer = of(Keras(), layer).call(inputs)
    output, final = expected(layer, inputs)
    torch.testing.assert_close(answer.output, output, rtol=0, atol=0)
    if directions == 1:
        torch.testing.assert_close(dict(answer.final), final, rtol=0, atol=0)


def test_lengths_as_a_packed_sequence_or_beside_padded_x() -> None:
    layer = nn.GRU(F, H, bidirectional=True, batch_first=True)
    inputs = inputs_of(layer)
    lengths = torch.tensor([2, 5, 3])
    inputs = Inputs(inputs.x, inputs.initial, True, lengths)

    def padded(x: Tensor, lengths: Tensor, h0: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        output, h = layer(packed, h0)
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0], h

    a = of(layer, layer).call(inputs, packed=True)
    b = of(padded, layer).call(inputs)
    assert of(padded, layer).takes_lengths
    torch.testing.assert_close(a.output, b.output, rtol=0, atol=0)
    torch.testing.assert_close(a.final["h"], b.final["h"], rtol=0, atol=0)
    assert a.output.shape == (T, B, 2 * H)
    assert not a.output[2:, 0].any()
    assert a.output[1, 0].all()
    # one that knows of no lengths gets padded x
    assert of(layer, layer).call(inputs).output[2:, 0].all()


def test_a_function_that_takes_no_packed_sequence_gets_padded_x() -> None:
    layer = nn.GRU(F, H)
    inputs = inputs_of(layer)
    inputs = Inputs(inputs.x, inputs.initial, True, torch.tensor([2, 5, 3]))
    seen = []

    def candidate(x: Any, h0: Any) -> Any:
        seen.append(type(x).__name__)
        assert x.shape == (T, B, F)
        return layer(x, h0)

    one = of(candidate, layer)
    for _ in range(2):
        answer = one.call(inputs, packed=True)
        assert answer.notes == (
            "candidate was given padded x, and no lengths: it has no parameter for them, such as "
            "lengths",
        )
        torch.testing.assert_close(answer.output, expected(layer, inputs)[0], rtol=0, atol=0)
    # as tensors and as arrays: what worked is remembered
    assert seen == ["PackedSequence", "PackedSequence", "Tensor", "Tensor"]
    # one that takes it is given it, and told nothing
    answer = of(lambda x, h0: layer(x, h0), layer).call(inputs, packed=True)
    assert (answer.notes, bool(answer.output[2:, 0].any())) == ((), False)


@pytest.mark.parametrize(
    ("fails", "match"),
    [
        (lambda x: x.shape[7], r"x \(5, 3, 2\) float32, raised IndexError"),
        (lambda x: x.data.relu().view(7), r"x packed \(10, 2\) float32, raised RuntimeError"),
    ],
)
def test_a_function_that_takes_neither_padded_nor_packed_x(fails: Any, match: str) -> None:
    layer = nn.GRU(F, H)
    inputs = inputs_of(layer, given=False)
    inputs = Inputs(inputs.x, inputs.initial, False, torch.tensor([2, 5, 3]))
    with pytest.raises(rs.CandidateError, match=match) as info:
        of(fails, layer).call(inputs, packed=True)
    assert type(info.value.__cause__).__name__ == match.rpartition(" ")[2]


# builders ------------------------------------------------------------------------------------


def port(layer: nn.LSTM, device: str = "cpu") -> Any:
    with torch.no_grad():
        layer.weight_hh_l0 *= 2
    return lambda x, hx=None: layer(x, hx)


class Port(nn.Module):
    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.inner = source

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


def test_a_builder_gets_a_copy_of_the_layer(lstm: nn.LSTM) -> None:
    before = copy.deepcopy(lstm.state_dict())
    inputs = inputs_of(lstm)
    for builder in (port, lambda lstm: port(lstm), lambda torch_layer: port(torch_layer)):
        candidate = of(builder, lstm)
        assert candidate.is_builder
        built = candidate.build(lstm)
        assert not built.is_builder
        doubled = copy.deepcopy(lstm)
        doubled.weight_hh_l0.data *= 2
        torch.testing.assert_close(built.call(inputs).output, expected(doubled, inputs)[0])
    assert of(Port, lstm).is_builder
    assert of(lambda x: port(x), lstm, builder=True).is_builder
    assert not of(lambda x: lstm(x), lstm).is_builder
    assert not of(lambda net: net, lstm, builder=False).is_builder
    torch.testing.assert_close(lstm.state_dict(), before, rtol=0, atol=0)


def test_a_builder_that_fails(lstm: nn.LSTM) -> None:
    def fails(layer: nn.LSTM) -> None:
        raise KeyError("kernel")

    with pytest.raises(rs.CandidateError, match="fails, called with LSTM, raised KeyError") as info:
        of(fails, lstm).build(lstm)
    assert isinstance(info.value.__cause__, KeyError)
    with pytest.raises(rs.NotRecurrentError, match="given a layer, returned None; expected a mod"):
        of(lambda layer: None, lstm).build(lstm)


@pytest.mark.parametrize(
    ("candidate", "match"),
    [
        (None, "expected a module, a function .*; got None"),
        ("lstm.pt", "got str"),
        (nn.LSTM, "LSTM is a class.*Make an instance of it"),
        (lambda: 0, "the function takes no argument"),
        (lambda x, a, b, size: 0, "what its parameter 'size' should be given is not known"),
    ],
)
def test_what_is_no_candidate(lstm: nn.LSTM, candidate: Any, match: str) -> None:
    with pytest.raises(rs.NotRecurrentError, match=match):
        of(candidate, lstm)


# what comes back -----------------------------------------------------------------------------


def forms_of_output(output: Tensor) -> dict[str, Any]:
    class Elsewhere:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.array

    class Shared(Elsewhere):
        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    array = output.detach().numpy()
    return {
        "requires grad": output,
        "numpy": array,
        "long double": array.astype(np.longdouble),
        "big endian": array.astype(">f4"),
        "reversed strides": array[::-1].copy()[::-1],
        "__array__": Elsewhere(array),
        "dlpack": Shared(array),
        "list of steps": list(array),
        "list of tensors": list(output),
        "one in a tuple": (output,),
        "in a tuple with None": (output, None),
        "a list of lists": output.tolist(),
    }


@pytest.mark.parametrize("form", forms_of_output(torch.zeros(1, 1, 1)))
def test_outputs_of_any_kind(lstm: nn.LSTM, form: str) -> None:
    inputs = inputs_of(lstm)
    answer = of(lambda x: forms_of_output(lstm(x)[0])[form], lstm).call(inputs)
    want = lstm(inputs.x)[0].detach()
    # with gradients another kernel of torch computes, which may round otherwise
    torch.testing.assert_close(answer.output.float(), want, rtol=0, atol=1e-6)
    assert not answer.output.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_kept(lstm: nn.LSTM, dtype: torch.dtype) -> None:
    answer = of(lambda x: lstm(x)[0].to(dtype), lstm).call(inputs_of(lstm))
    assert (answer.output.dtype, answer.dtype) == (dtype, dtype)
    own = copy.deepcopy(lstm).to(dtype)
    answer = of(own, lstm).call(inputs_of(lstm))
    assert answer.dtype == dtype
    short = str(dtype).removeprefix("torch.")
    assert answer.notes == (f"LSTM has parameters in {short}: x was given in {short}, not float32",)


def test_nan_and_inf_come_through(lstm: nn.LSTM) -> None:
    output = of(lambda x: lstm(x)[0] * torch.nan, lstm).call(inputs_of(lstm)).output
    assert output.isnan().all()


def states(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("form", ["tuple", "flat", "list", "without the axis of 1", "h only"])
def test_final_states_in_any_form(lstm: nn.LSTM, form: str) -> None:
    h, c = states((1, B, H)), states((1, B, H)) + 100
    forms: dict[str, Any] = {
        "tuple": ((h, c),),
        "flat": (h, c),
        "list": ([h.numpy(), c.numpy()],),
        "without the axis of 1": (h[0], c[0]),
        "h only": (h,),
    }
    answer = of(lambda x: (lstm(x)[0], *forms[form]), lstm).call(inputs_of(lstm))
    torch.testing.assert_close(answer.final["h"], h[None])
    if form != "h only":
        torch.testing.assert_close(answer.final["c"], c[None])
    told = {"flat": ["one by one"], "h only": ["alone"], "without the axis of 1": ["one by one"]}
    told["without the axis of 1"] += ["h_n came back as", "c_n came back as"]
    assert len(answer.notes) == len(told.get(form, []))
    for note, words in zip(answer.notes, told.get(form, []), strict=True):
        assert words in note


def test_a_last_step_with_its_states_is_no_list_of_steps(lstm: nn.LSTM) -> None:
    """[h, h, c] of a layer that returns one step, where x has three."""
    h, c = states((B, H)), states((B, H)) + 1
    with pytest.raises(rs.ShapeError, match="That is one step of 3, the last one"):
        of(lambda x: [h, h.clone(), c], lstm).call(inputs_of(lstm, steps=3))


def test_final_states_of_other_shapes_are_not_used(lstm: nn.LSTM) -> None:
    answer = of(lambda x: (lstm(x)[0], lstm(x)[1][0][..., None]), lstm).call(inputs_of(lstm))
    assert answer.final == {}
    assert answer.notes == (
        "h_n is not used: expected (layers × directions, batch, unit) = (1, 3, 4), got "
        "(1, 3, 4, 1)",
    )
    assert answer.others["h_n"].shape == (1, B, H, 1)


def test_final_states_batch_first_are_read(lstm: nn.LSTM) -> None:
    inputs = inputs_of(lstm)
    answer = of(lambda x: (lstm(x)[0], lstm(x)[1][0].transpose(0, 1)), lstm).call(inputs)
    assert torch.equal(answer.final["h"][0, 0], answer.output[-1])
    assert answer.batch_first == {
        "h": "h_n came back batch first, (3, 1, 4); nn.LSTM returns (layers × directions, batch, "
        "unit) = (1, 3, 4): read as transposed",
    }


def test_what_else_comes_back_by_name(lstm: nn.LSTM) -> None:
    gates = {"f": states((B, T, H)), "label": "mine"}
    answer = of(lambda x: (*lstm(x), gates), lstm).call(inputs_of(lstm))
    assert sorted(answer.final) == ["c", "h"]
    torch.testing.assert_close(answer.others["f"], gates["f"])
    assert answer.notes == (
        "not used: label must be a tensor or an array of floating point numbers; got str",
    )


@pytest.mark.parametrize("name", ["output", "outputs", "out"])
def test_what_comes_back_by_name_alone(lstm: nn.LSTM, name: str) -> None:
    """As numbers that were recorded elsewhere."""

    def candidate(x: Tensor, hx: Any = None) -> Any:
        output, (h, c) = lstm(x, hx)
        return {"c_n": c, name: output, "h_n": h.transpose(0, 1), "f": output, "loss": None}

    inputs = inputs_of(lstm)
    answer = of(candidate, lstm).call(inputs)
    output, final = expected(lstm, inputs)
    torch.testing.assert_close(answer.output, output, rtol=0, atol=0)
    torch.testing.assert_close(dict(answer.final), final, rtol=0, atol=0)
    assert list(answer.batch_first) == ["h"]
    assert list(answer.others) == ["f"]
    assert answer.notes == ()


def returning(value: Any) -> Any:
    return lambda x: value


class Unshared:
    """It says that it is an array, and cannot be read as one."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no numbers")

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("not shared")


BIDIRECTIONAL = nn.LSTM(F, H, bidirectional=True, batch_first=True)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (None, rs.DtypeError, "returned None; expected the output, or the output and the final "),
        ("h", rs.DtypeError, "returned str; expected the output"),
        ({"output": 0}, rs.DtypeError, "the output of .* must be a tensor .*; got int"),
        (
            {"y": 0, "h_n": 0},
            rs.DtypeError,
            "returned a dict of 'y', 'h_n'; expected the output, .*, or these by name: output, h_n",
        ),
        ({}, rs.DtypeError, "returned a dict of nothing; expected the output"),
        ((), rs.ShapeError, "returned an empty tuple"),
        (torch.zeros(B, T, 8).int(), rs.DtypeError, r"floating point numbers; got int32\. Return"),
        (torch.zeros(B, T, 8).cfloat(), rs.DtypeError, "got complex64. Return real numbers"),
        (np.array([None, 1]), rs.DtypeError, "got an array of object"),
        (torch.zeros(B, T, 8).to_sparse(), rs.DtypeError, "plain tensor; got one that is sparse"),
        (torch.zeros(B, T, 8, device="meta"), rs.DtypeError, "meta device"),
        (
            torch.zeros(B, 8),
            rs.ShapeError,
            r"of shape \(3, 8\); expected \(batch, time, unit\) = \(3, 5, 8\)\. "
            r"That is one step of 5, the last one, maybe: return the output of every step",
        ),
        (torch.zeros(B, 1, 8), rs.ShapeError, "return the output of every step"),
        (torch.zeros(B, T, 7), rs.ShapeError, r"width 7 .*; known are 8 \(every direction\), 4 "),
        (torch.zeros(B, 8, T), rs.ShapeError, "Move the axes into that order"),
        (torch.zeros(B, T + 2, 8), rs.ShapeError, "as many steps and rows as x"),
        (torch.zeros(B, T + 1, 8), rs.ShapeError, "one step more than the 5 of x"),
        (torch.zeros(0, T, 8), rs.ShapeError, "It is empty"),
        (torch.zeros(()), rs.ShapeError, "one array of three axes"),
        ([[1.0], [2.0, 3.0]], rs.DtypeError, "its lists make no array"),
        (
            {"output": [torch.zeros(T, 8), torch.zeros(B, 8)]},
            rs.ShapeError,
            r"is a list of arrays of different shapes, \(3, 8\), \(5, 8\); expected one array",
        ),
        (Unshared(), rs.DtypeError, "numpy.asarray makes no array of Unshared: no numbers"),
    ],
)
def test_what_is_no_output(value: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        of(returning(value), BIDIRECTIONAL).call(inputs_of(BIDIRECTIONAL))


def test_an_output_without_its_axis_of_length_one_is_read_with_a_note(lstm: nn.LSTM) -> None:
    for sizes, axis, note in (
        ({"batch": 1}, 1, "the output came back without its batch of 1, (5, 4)"),
        ({"steps": 1}, 0, "the output came back without its one step, (3, 4)"),
    ):
        inputs = inputs_of(lstm, given=False, **sizes)
        answer = of(lambda x, axis=axis: lstm(x)[0].squeeze(axis), lstm).call(inputs)
        torch.testing.assert_close(answer.output, expected(lstm, inputs)[0], rtol=0, atol=0)
        assert answer.notes == (note,)


@pytest.mark.parametrize("form", ["by layer", "by state", "of the one state"])
def test_final_states_in_lists(form: str) -> None:
    layer = nn.GRU(F, H, 3) if form == "of the one state" else nn.LSTM(F, H, 2)
    forms: dict[str, Any] = {
        "by layer": lambda y, s: (y, [(h, c) for h, c in zip(*s, strict=True)]),
        "by state": lambda y, s: (y, (list(s[0]), list(s[1]))),
        "of the one state": lambda y, s: (y, list(s)),
    }
    inputs = inputs_of(layer, given=False)
    answer = of(lambda x: forms[form](*layer(x)), layer).call(inputs)
    torch.testing.assert_close(dict(answer.final), expected(layer, inputs)[1], rtol=0, atol=0)
    [note] = answer.notes
    assert note.endswith("one for each layer and direction, stacked")


def test_final_states_before_the_output_are_refused(lstm: nn.LSTM) -> None:
    with pytest.raises(rs.ShapeError, match=r"Exchange them: return output, \(h_n, c_n\)\."):
        of(lambda x: lstm(x)[::-1], lstm).call(inputs_of(lstm))


def test_a_thing_that_has_a_call_of_its_own_is_called_by_it(lstm: nn.LSTM) -> None:
    class Port:
        def call(self, x: Tensor) -> Any:
            return lstm(x)[0]

    inputs = inputs_of(lstm, given=False)
    answer = of(Port(), lstm).call(inputs)
    torch.testing.assert_close(answer.output, expected(lstm, inputs)[0], rtol=0, atol=0)


def test_functions_of_any_arguments_are_called_as_the_reference_is(gru: nn.GRU) -> None:
    inputs = inputs_of(gru)
    for function in (lambda *given: gru(*given), lambda x, *given: gru(x, *given)):
        answer = of(function, gru).call(inputs)
        torch.testing.assert_close(answer.output, expected(gru, inputs)[0], rtol=0, atol=0)


def test_a_function_without_a_parameter_for_x_is_refused(gru: nn.GRU) -> None:
    def mine(*, hidden: Any) -> Any:
        return hidden

    with pytest.raises(rs.NotRecurrentError, match="mine has no parameter that could be x"):
        of(mine, gru)


def test_axes_exchanged_are_undone_with_a_note(gru: nn.GRU) -> None:
    inputs = inputs_of(gru)
    answer = of(lambda x, hx: gru(x, hx)[0].transpose(0, 1), gru).call(inputs)
    torch.testing.assert_close(answer.output, expected(gru, inputs)[0], rtol=0, atol=0)
    assert answer.notes == (
        "the output came back time first, (5, 3, 4); the reference returns batch first, "
        "(3, 5, 4): read as transposed",
    )


@pytest.mark.parametrize("width", [6, 3, 8])
def test_widths_of_merged_directions_and_skipped_projections(width: int) -> None:
    layer = nn.LSTM(F, H, proj_size=3, bidirectional=True)
    answer = of(lambda x: x.new_ones(T, B, width), layer).call(inputs_of(layer))
    assert answer.output.shape == (T, B, width)
    assert answer.notes == ()


# no side effects -----------------------------------------------------------------------------


class Hostile(nn.Module):
    """Changes everything that it can reach."""

    def __init__(self, refuses_copies: bool = False) -> None:
        super().__init__()
        self.inner = nn.GRU(F, H, batch_first=True)
        self.register_buffer("count", torch.zeros(()))
        self.refuses_copies = refuses_copies
        self.state: Any = None

    def __deepcopy__(self, memo: Any) -> Any:
        if self.refuses_copies:
            raise RuntimeError("no copies")
        new = Hostile()
        new.load_state_dict(self.state_dict())
        return new.train(self.training)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:
        self.count += 1
        self.inner.weight_ih_l0.data.mul_(1.5)
        self.inner.weight_ih_l0.grad = torch.ones_like(self.inner.weight_ih_l0)
        self.eval()
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        x += 1
        self.state = torch.ones(1)
        if hx is not None:
            hx.zero_()
        if x.shape[0] == 1:
            raise ValueError("one row")
        return self.inner(x, hx)


@pytest.mark.parametrize("refuses_copies", [False, True])
@pytest.mark.parametrize("rows", [B, 1])
def test_nothing_is_left_changed(gru: nn.GRU, refuses_copies: bool, rows: int) -> None:
    module = Hostile(refuses_copies)
    module.inner.weight_hh_l0.grad = torch.full((3 * H, H), 2.0)
    kept = copy.deepcopy(module.state_dict())
    inputs = inputs_of(gru, batch=rows)
    x, h = inputs.x.clone(), inputs.initial["h"].clone()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states_before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    candidate = of(module, gru)
    if rows == 1:
        with pytest.raises(
            rs.CandidateError, match=r"Hostile, called with x .*ValueError: one row"
        ):
            candidate.call(inputs)
    else:
        notes = candidate.call(inputs).notes
        assert notes[-1] == "Hostile changes its input and its initial states in place"
        if refuses_copies:
            assert notes[0] == (
                "Hostile cannot be copied (RuntimeError), so it was run itself and put back as it "
                "was"
            )
    torch.testing.assert_close(module.state_dict(), kept, rtol=0, atol=0)
    assert module.training
    assert module.inner.training
    assert module.state is None
    assert module.inner.weight_ih_l0.grad is None
    assert torch.equal(module.inner.weight_hh_l0.grad, torch.full((3 * H, H), 2.0))
    assert torch.equal(inputs.x, x)
    assert torch.equal(inputs.initial["h"], h)
    assert torch.equal(torch.get_rng_state(), states_before[0])
    assert np.array_equal(np.random.get_state()[1], states_before[1])
    assert random.getstate() == states_before[2]


def settings_now() -> dict[str, Any]:
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "numpy": np.geterr(),
    }


@pytest.fixture
def settings() -> Any:
    """Those of the process, put back though a test fails."""
    before = settings_now()
    yield before
    torch.set_default_dtype(before["dtype"])
    torch.set_default_device(None)
    torch.set_num_threads(before["threads"])
    torch.set_grad_enabled(before["grad"])
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn_only"])
    torch.set_float32_matmul_precision(before["matmul"])
    np.seterr(**before["numpy"])


def change_settings() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    np.seterr(all="raise")


@pytest.mark.parametrize("fails", [False, True])
def test_settings_that_a_call_changes_are_put_back(
    gru: nn.GRU, settings: dict[str, Any], fails: bool
) -> None:
    def candidate(x: Tensor) -> Tensor:
        output = gru(x)[0]
        change_settings()
        if fails:
            raise ValueError("after the settings")
        return output

    def build(layer: nn.GRU) -> Any:
        change_settings()
        return candidate

    inputs = inputs_of(gru)
    for one in (candidate, build):
        made = of(one, gru)
        made = made.build(gru) if made.is_builder else made
        assert settings_now() == settings
        if fails:
            with pytest.raises(rs.CandidateError, match="after the settings"):
                made.call(inputs)
        else:
            made.call(inputs)
        assert settings_now() == settings


def test_a_default_device_that_the_caller_set_stays(gru: nn.GRU, settings: dict[str, Any]) -> None:
    candidate, inputs = of(lambda x: change_settings() or gru(x)[0], gru), inputs_of(gru)
    with torch.device("cpu"):
        candidate.call(inputs)
        assert torch.get_default_device().type == "cpu"
    torch.set_default_device("cpu:0")
    candidate.call(inputs)
    assert torch.get_default_device() == torch.device("cpu:0")


def test_a_module_that_holds_part_of_a_graph_is_copied(gru: nn.GRU) -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = gru
            self.h: Any = None

        def forward(self, x: Tensor) -> Tensor:
            output, self.h = self.inner(x, self.h)
            return output

    module = Stateful()
    module(torch.randn(B, T, F))
    before = module.h
    answer = of(module, gru).call(inputs_of(gru))
    assert answer.notes == ()
    assert module.h is before


def test_changed_weights_are_told_and_do_not_reach_the_caller(gru: nn.GRU) -> None:
    def candidate(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Tensor:
        weights["weight_ih_l0"].zero_()
        return torch.func.functional_call(gru, weights, (x, initial))[0]

    kept = copy.deepcopy(gru.state_dict())
    answer = of(candidate, gru).call(inputs_of(gru), gru.state_dict())
    assert answer.notes == ("candidate changes its weights in place",)
    torch.testing.assert_close(gru.state_dict(), kept, rtol=0, atol=0)


def test_no_graph_is_made_unless_the_candidate_needs_one(gru: nn.GRU) -> None:
    seen = []

    def plain(x: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return gru(x)[0]

    def derives(x: Tensor) -> Tensor:
        output = gru(x)[0]
        torch.autograd.grad(output.sum(), gru.weight_ih_l0)
        return output

    inputs = inputs_of(gru)
    of(plain, gru).call(inputs)
    assert seen == [False]
    assert not of(derives, gru).call(inputs).output.requires_grad
    assert torch.equal(of(derives, gru).call(inputs).output, of(plain, gru).call(inputs).output)


def test_dropout_differs_from_call_to_call_and_stays_reproducible(gru: nn.GRU) -> None:
    layer = nn.GRU(F, H, 2, dropout=0.5, batch_first=True)
    inputs = inputs_of(layer)

    def calls() -> list[Tensor]:
        torch.manual_seed(3)
        candidate = of(layer, layer)
        return [candidate.call(inputs).output for _ in range(2)]

    first, second = calls()
    assert not torch.equal(first, second)
    torch.testing.assert_close(calls(), [first, second], rtol=0, atol=0)


def test_what_the_candidate_raises_is_the_cause(gru: nn.GRU) -> None:
    def broken(x: Tensor, h0: Tensor) -> Tensor:
        return x @ h0

    with pytest.raises(
        rs.CandidateError,
        match=r"broken, called with tensors: x \(3, 5, 2\) float32, initial \(1, 3, 4\) float32, "
        r"raised RuntimeError: .*With NumPy arrays it raised ValueError",
    ) as info:
        of(broken, gru).call(inputs_of(gru))
    cause = info.value.__cause__
    assert isinstance(cause, RuntimeError)
    assert cause.__traceback__ is not None
    frames = []
    trace = cause.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[-1] == "broken"


def test_warnings_pass(gru: nn.GRU) -> None:
    def warns(x: Tensor) -> Tensor:
        import warnings

        warnings.warn("slow path", stacklevel=1)
        return gru(x)[0]

    with pytest.warns(UserWarning, match="slow path"):
        of(warns, gru).call(inputs_of(gru))


# recorded arrays -----------------------------------------------------------------------------


def recorded(value: Any, layer: nn.Module, inputs: Inputs, axes: str | None = None) -> Recorded:
    return Recorded.of(value, adopt(layer).structure, inputs, axes)


def test_an_array_is_the_output(gru: nn.GRU) -> None:
    inputs = inputs_of(gru)
    output = expected(gru, inputs)[0]
    own = output.transpose(0, 1)
    for value, axes, note in (
        (own, None, None),
        (own.double().numpy(), None, None),
        (output, None, "read as (time, batch, unit)"),
        (output, "tbu", None),
        (own.permute(2, 0, 1), None, "read as (unit, batch, time)"),
        (own.permute(2, 0, 1), "ubt", None),
    ):
        found = recorded(value, gru, inputs, axes)
        assert found.output is not None
        torch.testing.assert_close(found.output.float(), output, rtol=0, atol=0)
        assert [note in each for each in found.notes] == ([True] if note else [])
    assert recorded(own.double(), gru, inputs).dtype == torch.float64


def test_axes_that_sizes_do_not_tell(gru: nn.GRU) -> None:
    inputs = inputs_of(gru, batch=T)
    output = expected(gru, inputs)[0].transpose(0, 1)
    found = recorded(output, gru, inputs)
    assert torch.equal(found.output, output.transpose(0, 1))
    assert found.notes == [
        "output (5, 5, 4) is read as (batch, time, unit), the reference's order; by its sizes it "
        "may also be 'tbu': say axes='tbu' if it is",
    ]
    assert torch.equal(recorded(output, gru, inputs, "tbu").output, output)


def test_axes_of_length_one_may_be_missing(gru: nn.GRU) -> None:
    inputs = inputs_of(gru, batch=1)
    output = expected(gru, inputs)[0]
    assert torch.equal(recorded(output[:, 0], gru, inputs).output, output)
    inputs = inputs_of(gru, steps=1)
    output = expected(gru, inputs)[0]
    assert torch.equal(recorded(output[0], gru, inputs).output, output)


def test_quantities_by_name() -> None:
    layer = nn.LSTM(F, H, 2, bidirectional=True)
    inputs = inputs_of(layer)
    trace = rs.trace(layer, inputs.x, tuple(v.flatten(0, 1) for v in inputs.initial.values()))
    names = {name: trace[name] for name in "hcifgo"}
    found = recorded({**names, "h_n": trace.h_n, "c_n": trace.c_n, "mine": 0}, layer, inputs)
    torch.testing.assert_close(found.output, trace.output, rtol=0, atol=1e-6)
    for name in names:
        assert torch.equal(found.quantities[name], trace[name])
    assert torch.equal(found.final["c"].flatten(0, 1), trace.c_n)
    assert (
        recorded({"f": names["f"].half(), "output": trace.output}, layer, inputs).dtype
        == torch.float32
    )
    assert "'mine' is not used; known are output, h_n, c_n, i, f, g, o, c, h" in found.notes


def test_quantities_without_axes_of_length_one(gru: nn.GRU) -> None:
    inputs = inputs_of(gru)
    full = states((1, 1, B, T, H))
    assert torch.equal(recorded({"z": full[0, 0]}, gru, inputs).quantities["z"], full)
    found = recorded({"z": full[0, 0].transpose(0, 1)}, gru, inputs)
    assert torch.equal(found.quantities["z"], full)
    assert "read as (…, time, batch, unit)" in found.notes[0]
    with pytest.raises(
        rs.ShapeError, match=r"z must be \(layer, .*\(1, 1, 3, 5, 4\).*got \(3, 5\)"
    ):
        recorded({"z": full[0, 0, ..., 0]}, gru, inputs)


@pytest.mark.parametrize(
    ("value", "axes", "error", "match"),
    [
        (np.zeros((B, T, H), int), None, rs.DtypeError, "output must hold floating .*got int64"),
        (np.zeros((0, T, H)), None, rs.ShapeError, r"output is empty, \(0, 5, 4\)"),
        (np.zeros((B, T, 7)), None, rs.ShapeError, r"fits under no order .*\(3, 5, 4\)"),
        (np.zeros((B, T, H)), "tbu", rs.ShapeError, r"\(3, 5, 4\) is not \(time, batch, unit\) ="),
        (np.zeros((B, T, H)), "bth", rs.ShapeError, "axes must name each axis .*got 'bth'"),
        (
            {"y": np.zeros(3)},
            None,
            rs.AddressError,
            "no name is known of 'y'; expected output, h_n",
        ),
        ({"h_n": np.zeros((2, B, H))}, None, rs.ShapeError, r"h_n: expected .*got \(2, 3, 4\)"),
        (np.zeros((B, T)), None, rs.ShapeError, "fits under no order"),
        (
            np.zeros((B, T + 1, H)),
            None,
            rs.ShapeError,
            r"one step more than the 5 of x, .*: leave it out, output\[:, 1:\]",
        ),
        (np.zeros((T + 1, B, H)), None, rs.ShapeError, r"leave it out, output\[1:\]"),
        (np.zeros((B, H)), None, rs.ShapeError, "one step of 5, the last one.* by name: h_n"),
        (np.zeros((B, 2, H)), None, rs.ShapeError, "2 steps of 5: return .* with x of these steps"),
        (np.zeros((B, T, H), "int8"), None, rs.DtypeError, "got int8.* quantised .* scale"),
        ([[["0.1"] * H] * T] * B, None, rs.DtypeError, "That is text: .*dtype=float"),
        (
            [[[0.1] * H] * T, [[0.1] * H] * 2, [[0.1] * H] * 2],
            None,
            rs.DtypeError,
            r"unequal lengths, 5, 2, 2\. Pad .*: lengths=\[5, 2, 2\]",
        ),
        ("0.1 0.2\n0.3", None, rs.FileError, "a text is read as the path of a file"),
    ],
)
def test_recordings_that_cannot_be_read(
    gru: nn.GRU, value: Any, axes: Any, error: Any, match: str
) -> None:
    with pytest.raises(error, match=match):
        recorded(value, gru, inputs_of(gru), axes)


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (
            nn.GRU(F, H, bidirectional=True),
            (B, 2 * H),
            r"both directions side by side.*\(h_n, 2, -1",
        ),
        (nn.GRU(F, H, 2), (1, B, 2 * H), r"all layers and directions.*\(h_n\[0\], 2, -1\)"),
        (nn.GRU(F, H, 2), (B, H), "That is one of 2, layer by layer"),
    ],
)
def test_final_states_that_stand_side_by_side(layer: nn.GRU, shape: Any, match: str) -> None:
    with pytest.raises(rs.ShapeError, match=match):
        recorded({"h_n": np.zeros(shape)}, layer, inputs_of(layer))


def test_files(gru: nn.GRU, tmp_path: Any) -> None:
    inputs = inputs_of(gru)
    output, final = expected(gru, inputs)
    own = output.transpose(0, 1).numpy().astype(np.float16)
    own[0, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", own)
    np.savez(tmp_path / "a.npz", output=own, h_n=final["h"][0], names=np.array(["a", "b"]))
    np.savez(tmp_path / "b.npz", own)
    for name in ("a.npy", "a.npz", "b.npz"):
        found = recorded(str(tmp_path / name), gru, inputs)
        assert found.output is not None
        assert np.array_equal(found.output.transpose(0, 1).numpy(), own, equal_nan=True)
        assert found.dtype == torch.float16
    assert torch.equal(recorded(tmp_path / "a.npz", gru, inputs).final["h"], final["h"])


def write(path: Any, content: Any) -> Any:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("a.npz", b"PK\x03\x04 and no more", rs.FileError, "a.npz.*damaged"),
        ("a.npz", b"", rs.FileError, "a.npz.*damaged"),
        ("a.npy", b"\x93NUMPY\x01\x00", rs.FileError, "a.npy: not a whole .npy file"),
        ("a.npy", np.array([{}], dtype=object), rs.FileError, "a.npy: holds Python objects"),
        ("a.npz", {"output": np.array([{}])}, rs.FileError, "a.npz, output.npy: holds Python obj"),
        ("a.npz", {"output": np.array(["a"])}, rs.DtypeError, "a.npz: output must hold floating"),
        ("a.npz", {"output": np.zeros(3, int)}, rs.DtypeError, "a.npz: output .*got int64"),
        ("a.npz", {"output": np.zeros((2, 2))}, rs.ShapeError, "a.npz: output of shape"),
        ("a.npz", {"z": np.zeros((2, 2))}, rs.ShapeError, "a.npz: z must be"),
        ("a.npz", {}, rs.FileError, "a.npz: holds no array"),
        ("a.npy", np.array(["a"]), rs.DtypeError, "a.npy must hold floating point numbers; got <U"),
        ("a.txt", b"1", rs.FileError, "expected a .npz or .npy file; got .txt"),
        ("a.csv", b"1", rs.FileError, r"got .csv\. Convert it: np.save\(\"a.npy\", np.loadtxt"),
        ("a.json", b"1", rs.FileError, r"got .json\. Convert it: .*json.load\(open\(\"a.json"),
        ("a.safetensors", b"1", rs.FileError, r"np.savez\(\"a.npz\", \*\*safetensors.numpy"),
    ],
)
def test_files_that_cannot_be_read(
    gru: nn.GRU, tmp_path: Any, name: str, content: Any, error: Any, match: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(error, match=match):
        recorded(path, gru, inputs_of(gru))


def test_an_empty_file_and_an_order_that_sizes_do_not_tell(gru: nn.GRU, tmp_path: Any) -> None:
    path = write(tmp_path / "a.npy", np.zeros((0, T, H)))
    with pytest.raises(
        rs.ShapeError, match=r"a\.npy: output is empty, \(0, 5, 4\): there is nothing"
    ):
        recorded(path, gru, inputs_of(gru))
    found = recorded({"z": states((T, T, H))}, gru, inputs_of(gru, batch=T))
    assert torch.equal(found.quantities["z"], states((1, 1, T, T, H)))
    assert found.notes == ["z (5, 5, 4) is read as (…, batch, time, unit)"]
    with pytest.raises(rs.ShapeError, match=r"is not \(batch, time\) = \(3, 5\); say other axes"):
        recorded(states((B, T, H)), gru, inputs_of(gru), "bt")


def test_a_file_that_is_not_there(gru: nn.GRU, tmp_path: Any) -> None:
    with pytest.raises(rs.FileError, match=r"none\.npz: no such file"):
        recorded(tmp_path / "none.npz", gru, inputs_of(gru))
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(rs.FileError, match="this is a folder"):
        recorded(tmp_path / "folder.npy", gru, inputs_of(gru))


def test_a_header_that_promises_more_than_is_there(gru: nn.GRU, tmp_path: Any) -> None:
    path = write(tmp_path / "a.npy", np.zeros((B, T, H)))
    data = path.read_bytes().replace(b"(3, 5, 4), }          ", b"(3000000, 5000, 4), } ", 1)
    path.write_bytes(data[: len(path.read_bytes())])
    with pytest.raises(rs.FileError, match=r"not a whole \.npy file"):
        recorded(path, gru, inputs_of(gru))


def _gates_of_numpy(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def _step_of_numpy(x: Any, h: Any, w: Any) -> Any:
    a = x @ w["weight_ih_l0"].T + w["bias_ih_l0"]
    b = h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
    (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(a, 3, -1), np.split(b, 3, -1)
    z = _gates_of_numpy(z_x + z_h)
    return (1 - z) * np.tanh(n_x + _gates_of_numpy(r_x + r_h) * n_h) + z * h


class _Stepping:
    """A candidate whose own call names no package."""

    def forward(self, x: Any, initial: Any, weights: Any) -> Any:
        h, outputs = initial[0], []
        for x_t in x:
            h = self.step(x_t, h, weights)
            outputs.append(h)
        return outputs

    __call__ = forward

    def step(self, x: Any, h: Any, weights: Any) -> Any:
        return _step_of_numpy(x, h, weights)


def test_numpy_in_helper_functions_is_given_arrays() -> None:
    """Tensors would go through NumPy's functions with warnings, or otherwise."""
    gru = nn.GRU(F, H)
    given: list[str] = []

    def watched(x: Any, h: Any, w: Any) -> Any:
        given.append(type(x).__module__.split(".")[0])
        return _step_of_numpy(x, h, w)

    def enclosing(x: Any, initial: Any, weights: Any) -> Any:
        h, outputs = initial[0], []
        for x_t in x:
            h = watched(x_t, h, weights)
            outputs.append(h)
        return outputs

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rs.compare(enclosing, gru)
        assert rs.compare(_Stepping(), gru)
        assert rs.compare(_Stepping().forward, gru)
    assert set(given) == {"numpy"}
