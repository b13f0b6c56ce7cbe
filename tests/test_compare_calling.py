"""Forms in which an output comes back, and what is said where a candidate raises."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli_compare import Case, run
from torch import nn

import rnnscope as rs

GRU, BOTH, FIRST = nn.GRU(3, 4), nn.GRU(3, 4, bidirectional=True), nn.GRU(3, 4, batch_first=True)


def each_step(x: Any, initial: Any = None) -> list[Any]:
    return list(GRU(x, initial)[0])


FORMS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "list": (GRU, lambda x, h: each_step(x, h)),
    "tuple": (GRU, lambda x, h: tuple(each_step(x, h))),
    "list of (1, batch, unit)": (GRU, lambda x, h: [step[None] for step in each_step(x, h)]),
    "list of arrays": (GRU, lambda x, h: [step.detach().numpy() for step in each_step(x, h)]),
    "list and h_n": (GRU, lambda x, h: (each_step(x, h), GRU(x, h)[1])),
    "by name": (GRU, lambda x, h: {"output": each_step(x, h), "h_n": GRU(x, h)[1]}),
    "batch first": (FIRST, lambda x, h: list(FIRST(x, h)[0].transpose(0, 1))),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_array_for_each_step_is_stacked(form: str) -> None:
    layer, call = FORMS[form]
    verdict = rs.compare(lambda x, initial: call(x, initial), layer)
    assert verdict, str(verdict)
    assert any("as a list of 6 arrays, stacked" in note for note in verdict.notes)
    wrong = rs.compare(lambda x, initial: call(x, initial * 0), layer)
    assert [cause.name for cause in wrong.causes] == ["initial_ignored"]


def test_a_recorded_list_of_steps_is_stacked() -> None:
    x = torch.randn(6, 1, 3)
    steps = [step.detach().numpy() for step in GRU(x)[0]]
    assert rs.compare(steps, GRU, x)
    assert rs.compare([step[0] for step in steps], GRU, x)
    assert not rs.compare(steps[::-1], GRU, x, effort=0.1)


def as_onnx(x: Any, initial: Any = None, layer: Any = BOTH) -> tuple[Any, Any]:
    output, final = layer(x, initial)
    sizes = (*output.shape[:2], 1 + layer.bidirectional, layer.hidden_size)
    return output.reshape(sizes).permute(0, 2, 1, 3).detach(), final.detach()


@pytest.mark.parametrize("layer", [GRU, BOTH])
def test_the_four_axes_of_onnx_are_read(layer: Any) -> None:
    verdict = rs.compare(lambda x, initial: as_onnx(x, initial, layer), layer)
    assert verdict, str(verdict)
    assert any("(time, direction, batch, unit)" in note for note in verdict.notes)
    x = torch.randn(6, 3, 3)
    Y, Y_h = as_onnx(x, None, layer)
    assert rs.compare(Y.numpy(), layer, x)
    assert rs.compare({"Y": Y, "Y_h": Y_h}, layer, x)
    turned = rs.compare({"Y": Y.flip(0), "Y_h": Y_h}, layer, x)
    assert [cause.name for cause in turned.causes] == ["time_reversed"]


def test_other_orders_of_four_axes_are_refused_with_what_to_do() -> None:
    def unjoined(x: Any, initial: Any) -> Any:
        return as_onnx(x, initial)[0].permute(0, 2, 1, 3)

    x = torch.randn(6, 3, 3)
    with pytest.raises(rs.ShapeError, match=r"Join the directions: output.flatten\(-2\)"):
        rs.compare(lambda x: unjoined(x, None), BOTH, x)


# --- what raises ----------------------------------------------------------------------------------


def product(h: Any) -> Any:
    return h @ torch.zeros(3, 3)  # the line that is at fault


class Faulty(nn.Module):
    def forward(self, x: Any, h: Any = None) -> Any:
        return product(GRU(x, h)[0])


def faulty_builder(layer: nn.Module) -> Any:
    raise KeyError("missing")


@pytest.mark.parametrize(
    ("candidate", "function"),
    [
        (Faulty(), "product"),
        (lambda x: product(GRU(x)[0]), "product"),
        (faulty_builder, "faulty_builder"),
    ],
)
def test_the_callers_own_line_is_told(candidate: Any, function: str) -> None:
    with pytest.raises(rs.CandidateError) as error:
        rs.compare(candidate, GRU, builder=candidate is faulty_builder)
    text = str(error.value)
    source = (
        "return h @ torch.zeros(3, 3)" if function == "product" else 'raise KeyError("missing")'
    )
    lines = Path(__file__).read_text(encoding="utf-8").split("\n")
    number = next(k for k, line in enumerate(lines, 1) if line.strip().startswith(source))
    assert f"at {__file__}:{number}, in {function}: {source}" in text
    cause = error.value.__cause__
    assert cause is not None
    frames = traceback.extract_tb(cause.__traceback__)
    assert frames[0].filename == __file__


# --- JSON -----------------------------------------------------------------------------------------


def test_json_is_printed_where_nothing_can_be_compared(tmp_path: Path) -> None:
    case = Case(tmp_path, "gru")
    np.save(tmp_path / "odd.npy", np.zeros((2, 2, 2, 2, 2)))
    odd = ["--candidate", str(tmp_path / "odd.npy")]
    result = run(*case.words, *odd, "--format", "json")
    assert result.exit_code == 2
    data = json.loads(result.stdout)
    assert data["agrees"] is None
    assert data["error"] == "ShapeError"
    assert "fits under no order of its axes" in data["message"]
    missing = run(*case.words, "--candidate", str(tmp_path / "none.npy"), "--format", "json")
    assert missing.exit_code == 2
    assert json.loads(missing.stdout)["error"] == "FileError"
    assert run(*case.words, *odd).stdout == ""


def test_an_approximation_is_accepted_on_the_command_line(tmp_path: Path) -> None:
    case = Case(tmp_path, "gru")
    layer = nn.GRU(
        case.layer.input_size, case.layer.hidden_size, batch_first=case.layer.batch_first
    )
    layer.load_state_dict({n: torch.round(v * 64) / 64 for n, v in case.layer.state_dict().items()})
    close = case.npy(layer(case.x)[0])
    assert run(*case.words, *close).exit_code == 1
    accepted = run(*case.words, *close, "--within", "0.1")
    assert accepted.exit_code == 0
    assert "agrees within 0.100" in accepted.stdout
    assert "--within 0." in run(*case.words, *close).stdout
    assert run(*case.words, *close, "--within", "1e-6").exit_code == 1


def test_a_packed_x_is_compared_as_the_layer_takes_it() -> None:
    layer = nn.GRU(3, 4)
    lengths = torch.tensor([2, 5, 3])
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 3, 3), lengths, enforce_sorted=False)
    verdict = rs.compare(layer, layer, packed)
    assert verdict, str(verdict)
    assert "lengths 2, 5, 3" in str(verdict)


@pytest.mark.parametrize("name", ["x", "h_0"])
def test_what_is_given_must_be_finite(name: str) -> None:
    layer, values = nn.GRU(3, 4), {"x": torch.zeros(5, 2, 3), "h_0": torch.zeros(1, 2, 4)}
    values[name][0, 1, 2] = torch.inf
    with pytest.raises(rs.ShapeError, match=f"{name} holds NaN or infinite numbers"):
        rs.compare(layer, layer, *values.values())


# --- a function of one sequence -------------------------------------------------------------------


def one_sequence(kind: str, gates: str = "") -> Any:
    """A loop over one sequence, (time, feature), with vectors for states; ``gates`` in an order."""

    def mine(x: Any, initial: Any, weights: Any) -> Any:
        W, U, b, d = (weights[f"{n}_l0"] for n in PARAMETERS)
        h, c = (initial[0][0], initial[1][0]) if kind == "lstm" else (initial[0], None)
        output = []
        for v in x:
            a, u = W @ v + b, U @ h + d  # of a matrix and one vector
            if kind == "lstm":
                parts = dict(zip(gates or "ifgo", (a + u).chunk(4), strict=True))
                i, f, g, o = (parts[gate] for gate in "ifgo")
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                h = (a + u).tanh()
            output.append(h)
        return torch.stack(output), h[None]

    return mine


PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_function_of_one_sequence_is_given_one_at_a_time(
    kind: str, batch_first: bool, size: int
) -> None:
    layer = {"rnn": nn.RNN, "lstm": nn.LSTM}[kind](3, size, batch_first=batch_first)
    verdict = rs.compare(one_sequence(kind), layer, torch.randn(9, 3))
    assert verdict, str(verdict)
    assert "mine was given one sequence at a time, x (time, feature)" in " ".join(
        str(verdict).split()
    )
    assert "came back as" not in str(verdict)  # without a batch, as the layer's own would


def test_a_mistake_in_a_function_of_one_sequence_is_named() -> None:
    verdict = rs.compare(one_sequence("lstm", "iogf"), nn.LSTM(3, 4), torch.randn(9, 3))
    assert [cause.name for cause in verdict.causes] == ["gate_order"], str(verdict)


def test_a_function_of_one_sequence_is_given_no_batch_of_several() -> None:
    with pytest.raises(rs.errors.CandidateError, match=r"x \(9, 2, 3\)"):
        rs.compare(one_sequence("rnn"), nn.RNN(3, 4), torch.randn(9, 2, 3))
    with pytest.raises(
        rs.errors.CandidateError, match=r"x \(9, 1, 3\).*without a batch, x \(9, 3\)"
    ):
        rs.compare(lambda x: 1 / 0, nn.RNN(3, 4), torch.randn(9, 3))
