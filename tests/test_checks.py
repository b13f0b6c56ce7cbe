"""What the checks find in candidates that are wrong in one way, and that they find no more."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._compare.candidate.call import Candidate
from rnnscope._compare.candidate.callable import OfCalls
from rnnscope._compare.candidate.checks import CallFinding, Checks
from rnnscope._compare.candidate.own_weights import compare_parameters
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.adopt import adopt

T, B, F, H = 6, 3, 2, 4
TOLERANCE = 1e-5


def inputs_of(layer: nn.Module, steps: int = T, batch: int = B) -> Inputs:
    s = adopt(layer).structure
    shape = (s.num_layers, len(s.directions), batch)
    initial = {n: torch.randn(*shape, s.state_size(n)) for n in s.cell.states}
    dtype = next(layer.parameters()).dtype
    return Inputs(torch.randn(steps, batch, s.input_size), initial, True).to(dtype)


def checked(
    function: Any, layer: nn.Module, inputs: Inputs | None = None
) -> dict[str, CallFinding]:
    """What is found, by name: that calls differ, or else on what an output depends."""
    inputs = inputs_of(layer) if inputs is None else inputs
    candidate = Candidate.of(function, adopt(layer).structure)
    checks = Checks(candidate, candidate.call, inputs, TOLERANCE)
    repeats = checks.repeats()
    findings = [repeats] if repeats else checks.dependences(torch.zeros(inputs.steps))
    return {finding.name: finding for finding in findings}


@pytest.fixture
def gru() -> nn.GRU:
    return nn.GRU(F, H)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNN(F, H),
    "gru_2x2": lambda: nn.GRU(F, H, 2, bidirectional=True, batch_first=True),
    "lstm": lambda: nn.LSTM(F, H, 2),
    "dropout in eval": lambda: nn.LSTM(F, H, 2, dropout=0.5).eval(),
    "float64": lambda: nn.LSTM(F, H).double(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_found_in_the_layers_themselves(name: str) -> None:
    layer = LAYERS[name]()
    assert checked(layer, layer) == {}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_found_in_a_chaotic_layer(seed: int) -> None:
    """Rounding differs with the size of the batch; after 100 steps it has grown to everything."""
    torch.manual_seed(seed)
    layer = nn.RNN(8, 64)
    with torch.no_grad():
        layer.weight_hh_l0.normal_().mul_(0.5)
    inputs = inputs_of(layer, 100, 4)
    output = layer(inputs.x, inputs.initial["h"][0])[0]
    alone = layer(inputs.x[:, :1], inputs.initial["h"][0][:, :1])[0]
    assert (output[:, :1] - alone).abs().max() > 1000 * TOLERANCE  # so it is chaotic
    assert checked(layer, layer, inputs) == {}


def test_dropout_is_named() -> None:
    layer = nn.LSTM(F, H, 2, dropout=0.5)
    found = checked(layer, layer)
    assert list(found) == ["dropout"]
    sentence = found["dropout"].sentence
    assert "with the same random numbers: it draws them for dropout: it has p=0.5 and is in " in (
        sentence
    )
    assert sentence.endswith("call .eval()")


@pytest.mark.parametrize("source", ["torch", "numpy"])
def test_random_numbers_are_told_from_state(gru: nn.GRU, source: str) -> None:
    def candidate(x: Tensor) -> Tensor:
        output = gru(x)[0]
        noise = torch.rand(output.shape) if source == "torch" else np.random.rand(*output.shape)
        return output + torch.as_tensor(noise).to(output)

    found = checked(candidate, gru)
    assert list(found) == ["random"]
    size, place = re.fullmatch(
        r".* by up to (0\.\d+), first at (time=\d, batch \d), and .*", found["random"].sentence
    ).groups()
    assert 0.5 < float(size) < 1
    assert place == "time=0, batch 0"


class Stateful(nn.Module):
    def __init__(self, inner: nn.GRU) -> None:
        super().__init__()
        self.inner = inner
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.h if self.h is not None and self.h.shape[1] == x.shape[1] else None
        output, self.h = self.inner(x, h)
        return output


def test_state_that_is_kept_is_named(gru: nn.GRU) -> None:
    inputs = inputs_of(gru)
    found = checked(Stateful(gru), gru, inputs)
    with torch.no_grad():
        first, h = gru(inputs.x)
        second, _ = gru(inputs.x, h)
    assert list(found) == ["kept"]
    assert f"by up to {float((first - second).abs().max()):.2g}, " in found["kept"].sentence
    assert "it keeps something from call to call, such as a hidden state that is not" in (
        found["kept"].sentence
    )


def test_a_generator_of_its_own_is_something_kept(gru: nn.GRU) -> None:
    generator = np.random.default_rng(0)

    def candidate(x: Tensor) -> Tensor:
        return gru(x)[0] + torch.from_numpy(generator.random((T, B, H), np.float32))

    found = checked(candidate, gru)
    assert list(found) == ["kept"]
    assert "every call differs from the one before" in found["kept"].sentence


@pytest.mark.parametrize("on", ["the other rows", "its place among the rows"])
def test_dependence_on_the_batch(gru: nn.GRU, on: str) -> None:
    inputs = inputs_of(gru)
    of_row, by_place = inputs.x[0, 1, 0], on == "its place among the rows"

    def candidate(x: Tensor) -> Tensor:
        output = gru(x)[0].clone()
        if x.shape[1] > 1:
            # the row at this place, or any where another row of the batch is not the same
            others = x.new_tensor(1.0 if by_place else float(x[0, 0, 0] != of_row))
            output[2:, 1] += 0.5 * others
        return output

    found = checked(candidate, gru, inputs)
    assert list(found) == ["batch"]
    assert found["batch"].sentence == (
        "row 1 alone gives other numbers than in the batch, by up to 0.5, first at time=2: the "
        f"output of a row depends on {on}"
    )


def test_dependence_on_the_number_of_rows(gru: nn.GRU) -> None:
    found = checked(lambda x: gru(x)[0] * (1.0 if x.shape[1] > 1 else 1.01), gru)
    assert found["batch"].sentence.endswith("depends on how many rows there are")


def test_a_step_that_is_to_come_is_not_known(gru: nn.GRU) -> None:
    def ahead(x: Tensor) -> Tensor:
        return gru(torch.cat([x[1:], x[:1]]))[0]

    found = checked(ahead, gru)
    assert list(found) == ["causal"]
    # x_0 comes last, so the last input is seen a step early, and only there
    assert found["causal"].sentence.startswith(
        f"another x at time={T - 1} changes the output at time={T - 2} already"
    )


def test_a_step_that_is_to_come_is_not_known_from_the_end_on() -> None:
    """Of a layer that runs from the end the first step is the last that it reads."""
    layer = rs.Recurrent(rs.cells.GRU, F, H, reverse=True)
    found = checked(lambda x: layer(x[[-1, *range(T - 1)]])[0], layer)
    assert list(found) == ["causal"]
    assert found["causal"].sentence.startswith(
        "another x at time=0 changes the output at time=1 already"
    )
    assert found["causal"].sentence.endswith("runs from the end cannot know it until time=0")


def test_nan_on_one_side_is_a_difference_and_on_both_is_none(gru: nn.GRU) -> None:
    assert checked(lambda x: gru(x)[0] * torch.nan, gru) == {}

    def candidate(x: Tensor) -> Tensor:
        output = gru(x)[0].clone()
        if x.shape[1] > 1:
            output[1, 2] = torch.nan
        return output

    assert checked(candidate, gru)["batch"].sentence.startswith(
        "row 2 alone gives other numbers than in the batch, NaN or infinite on one side, first at "
        "time=1: "
    )


def test_what_cannot_be_called_otherwise_is_not_checked(gru: nn.GRU) -> None:
    def fixed(x: Tensor) -> Tensor:
        if x.shape != (T, B, F):
            raise ValueError("made for one size")
        return gru(x)[0]

    assert checked(fixed, gru) == {}

    def broken(x: Tensor) -> Tensor:
        raise ValueError("never")

    with pytest.raises(rs.CandidateError, match="broken, called with tensors"):
        checked(broken, gru)


def test_the_callers_module_and_random_state_are_left_alone() -> None:
    layer, module = nn.LSTM(F, H, 2, dropout=0.5), Stateful(nn.GRU(F, H))
    inputs, other = inputs_of(layer), inputs_of(module.inner)
    x, state = inputs.x.clone(), torch.get_rng_state()
    checked(layer, layer, inputs)
    checked(module, module.inner, other)
    assert module.h is None
    assert torch.equal(inputs.x, x)
    assert torch.equal(torch.get_rng_state(), state)


# parameters ----------------------------------------------------------------------------------


def test_parameters_of_the_same_name_are_compared(gru: nn.GRU) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = copy.deepcopy(gru)

    model = Model()
    with torch.no_grad():
        model.encoder.bias_ih_l0[2] += 0.5
        model.encoder.weight_hh_l0.add_(1)
    found = {each.name: each for each in compare_parameters(model, gru)}
    assert list(found) == [f"encoder.{name}" for name, _ in gru.named_parameters()]
    assert [each.differs for each in found.values()] == [False, True, True, False]
    bias = found["encoder.bias_ih_l0"]
    assert (bias.places, bias.count) == (1, 3 * H)
    assert bias.largest == pytest.approx(0.5, abs=1e-6)
    assert bias.sentence == (
        "encoder.bias_ih_l0 differs from the reference's in 1 of 12 numbers, by up to 0.5"
    )
    assert found["encoder.weight_hh_l0"].sentence.endswith("by up to 1 (was it ever loaded?)")


def test_what_stands_in_place_of_a_parameter_is_told(gru: nn.GRU) -> None:
    other = copy.deepcopy(gru)
    with torch.no_grad():
        other.weight_ih_l0.zero_()
        other.bias_ih_l0.copy_(gru.bias_hh_l0)
        other.weight_hh_l0.copy_(gru.weight_hh_l0.half())
    found = {each.name: each.sentence for each in compare_parameters(other, gru) if each.differs}
    assert found == {
        "weight_ih_l0": "weight_ih_l0 holds zeros",
        "bias_ih_l0": "bias_ih_l0 holds bias_hh_l0's numbers",
        "weight_hh_l0": "weight_hh_l0 holds the reference's numbers rounded to float16",
    }


def test_dropout_inside_is_named_by_its_module(gru: nn.GRU) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.drop = gru, nn.Dropout(0.25)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.gru(x)[0])

    sentence = checked(Model(), gru)["dropout"].sentence
    assert "for dropout: its drop (Dropout) has p=0.25 and is in training mode" in sentence
    # without it, or where it is switched off, numbers that are drawn are no dropout
    noisy = nn.Sequential(nn.Dropout(0.5).eval())
    noisy.forward = lambda x: gru(x)[0] + torch.rand(())  # type: ignore[method-assign]
    assert list(checked(noisy, gru)) == ["random"]


def test_parameters_are_compared_in_the_candidates_precision(gru: nn.GRU) -> None:
    found = compare_parameters(copy.deepcopy(gru).bfloat16(), gru)
    assert [each.differs for each in found] == [False] * 4


def test_parameters_of_other_shapes_or_of_two_layers_are_not_compared(gru: nn.GRU) -> None:
    assert [each.name for each in compare_parameters(nn.GRU(F + 1, H), gru)] == [
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
    ]
    assert compare_parameters(nn.ModuleList([nn.GRU(F, H), nn.GRU(F, H)]), gru) == []


@pytest.mark.parametrize("seed", [996, 665, 963])
def test_rows_of_a_correct_layer_of_large_weights_depend_on_no_others(seed: int) -> None:
    """Their roundings grow, or are cut off by units that are saturated; a single row is multiplied
    by other instructions than a batch."""
    torch.manual_seed(seed)
    layer = nn.RNN(3, 16, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(20)
    subject = OfCalls(layer, layer, inputs_of(layer, 300), None, 0, False)
    subject.direct()
    assert subject.findings == []
