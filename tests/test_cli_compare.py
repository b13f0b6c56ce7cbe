"""The command compare: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from typer.testing import CliRunner

import rnnscope as rs
from rnnscope._cli.commands import app
from rnnscope._layouts import from_torch
from rnnscope.cells import LSTM

BATCH, TIME, INPUT, HIDDEN = 3, 6, 4, 5
KINDS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def run(*words: str | Path) -> Any:
    """The command in this process; a traceback is no answer."""
    result = CliRunner().invoke(
        app, ["compare", *(str(word) for word in words)], prog_name="rnnscope"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words: str | Path) -> str:
    """The one line on stderr where nothing can be compared."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("rnnscope: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def without_b_hh(layer: nn.RNNBase) -> nn.RNNBase:
    """The same layer, its second bias left out."""
    other: nn.RNNBase = type(layer)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        batch_first=True,
        bidirectional=layer.bidirectional,
    )
    other.load_state_dict(
        {n: t * 0 if n.startswith("bias_hh") else t for n, t in layer.state_dict().items()}
    )
    return other


class Case:
    """A layer, an input and what the layer makes of it, as files in a folder."""

    def __init__(self, folder: Path, kind: str = "lstm", **options: Any) -> None:
        self.folder = folder
        torch.manual_seed(0)
        self.layer = KINDS[kind](INPUT, HIDDEN, batch_first=True, **options)
        torch.save(self.layer.state_dict(), folder / "weights.pt")
        self.x = torch.randn(BATCH, TIME, INPUT)
        np.save(folder / "x.npy", self.x.numpy())
        self.words = ["--weights", str(folder / "weights.pt"), "--input", str(folder / "x.npy")]

    def states(self) -> Any:
        """Initial states that are not zero, as the layer takes them and in ``initial.npz``."""
        rows = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        names = ["h_0", "c_0"] if isinstance(self.layer, nn.LSTM) else ["h_0"]
        held = {name: torch.randn(rows, BATCH, HIDDEN) for name in names}
        np.savez(self.folder / "initial.npz", **{n: t.numpy() for n, t in held.items()})
        return tuple(held.values()) if len(names) == 2 else held["h_0"]

    def npz(self, **arrays: Tensor) -> list[str]:
        """``--candidate`` with these arrays."""
        path = self.folder / "theirs.npz"
        np.savez(path, **{name: value.detach().numpy() for name, value in arrays.items()})
        return ["--candidate", str(path)]

    def npy(self, value: Tensor) -> list[str]:
        """``--candidate`` with this output alone."""
        path = self.folder / "theirs.npy"
        np.save(path, value.detach().numpy())
        return ["--candidate", str(path)]


@pytest.fixture
def lstm(tmp_path: Path) -> Case:
    return Case(tmp_path)


# it agrees, or not ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_what_the_layer_computed_agrees(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    case = Case(tmp_path, kind, **options)
    initial = case.states()
    output, final = case.layer(case.x, initial)
    states = dict(zip(("h_n", "c_n"), final if kind == "lstm" else (final,), strict=False))
    candidate = case.npz(output=output, **states)
    result = run(*case.words, *candidate, "--initial", tmp_path / "initial.npz")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("agrees: ")


def test_a_mistake_is_named_with_its_line(lstm: Case) -> None:
    candidate = lstm.npz(output=without_b_hh(lstm.layer)(lstm.x)[0])
    result = run(*lstm.words, *candidate)
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.startswith("differs by ")
    assert "b_hh is missing" in result.stdout
    assert "a = x @ W_ih.T + b_ih + h @ W_hh.T + b_hh" in result.stdout


def test_the_text_is_that_of_the_library(lstm: Case) -> None:
    output = without_b_hh(lstm.layer)(lstm.x)[0].detach()
    verdict = rs.compare(output, lstm.layer, lstm.x)
    assert run(*lstm.words, *lstm.npy(output)).stdout == str(verdict)


def test_exit_codes_are_those_of_the_process(lstm: Case) -> None:
    output = lstm.layer(lstm.x)[0]
    codes = []
    for value in (output, output + 0.1, output[:, :, :2]):
        words = [sys.executable, "-m", "rnnscope", "compare", *lstm.words, *lstm.npy(value)]
        codes.append(subprocess.run(words, capture_output=True, check=False).returncode)
    assert codes == [0, 1, 2]


def test_what_cannot_be_compared_ends_as_an_error_does(lstm: Case) -> None:
    output, (h, _) = lstm.layer(lstm.x)
    result = run(*lstm.words, *lstm.npz(output=output, hn=h))
    assert result.exit_code == 2
    assert "is it 'h_n'?" in result.stdout


def test_initial_states_are_used(lstm: Case) -> None:
    candidate = lstm.npz(output=lstm.layer(lstm.x, lstm.states())[0])
    assert run(*lstm.words, *candidate).exit_code == 1
    initial = ["--initial", str(lstm.folder / "initial.npz")]
    assert run(*lstm.words, *candidate, *initial).exit_code == 0


def test_time_first(lstm: Case) -> None:
    np.save(lstm.folder / "x.npy", lstm.x.transpose(0, 1).numpy())
    candidate = lstm.npy(lstm.layer(lstm.x)[0].transpose(0, 1))
    assert run(*lstm.words, *candidate, "--no-batch-first").exit_code == 0
    assert run(*lstm.words, *candidate).exit_code == 1  # time and batch in each other's place


def test_axes_of_the_output(lstm: Case) -> None:
    candidate = lstm.npy(lstm.layer(lstm.x)[0].permute(2, 1, 0))
    assert run(*lstm.words, *candidate, "--axes", "utb").exit_code == 0


@pytest.mark.parametrize("ending", [".npy", ".csv"])
def test_one_sequence_without_a_batch(lstm: Case, ending: str) -> None:
    x, output = lstm.x[0], lstm.layer(lstm.x[0])[0]
    path = lstm.folder / f"one{ending}"
    if ending == ".npy":
        np.save(path, x.numpy())
    else:
        np.savetxt(path, x.numpy(), delimiter=",")
    words = ["--weights", lstm.folder / "weights.pt", "--input", path]
    assert run(*words, *lstm.npy(output)).exit_code == 0


def test_padded(lstm: Case) -> None:
    packed = pack_padded_sequence(lstm.x, torch.tensor([6, 4, 2]), batch_first=True)
    output, _ = pad_packed_sequence(lstm.layer(packed)[0], batch_first=True)
    candidate = lstm.npy(output)
    assert run(*lstm.words, *candidate, "--lengths", "6,4,2").exit_code == 0
    assert run(*lstm.words, *candidate).exit_code == 1


def test_a_layer_of_several_in_its_own_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = {"encoder": nn.GRU(INPUT, HIDDEN), "decoder": nn.GRU(INPUT, HIDDEN)}
    rs.save(layers, tmp_path / "model.safetensors", layout="keras")
    x = torch.randn(TIME, BATCH, INPUT)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "theirs.npy", layers["decoder"](x)[0].detach().numpy())
    words = ["--weights", tmp_path / "model.safetensors", "--input", tmp_path / "x.npy"]
    words += ["--candidate", tmp_path / "theirs.npy", "--no-batch-first"]
    assert "choose one with --layer NAME" in refused(*words)
    assert run(*words, "--layer", "decoder", "--layout", "keras").exit_code == 0
    assert run(*words, "--layer", "encoder").exit_code == 1


def test_an_rnn_of_relu(tmp_path: Path) -> None:
    case = Case(tmp_path, "rnn", nonlinearity="relu")
    candidate = case.npy(case.layer(case.x)[0])
    assert run(*case.words, *candidate, "--nonlinearity", "relu").exit_code == 0
    assert "tanh" in run(*case.words, *candidate, "--nonlinearity", "tanh").stdout


def test_effort_reaches_the_search(lstm: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def compare(*args: Any, effort: float, **options: Any) -> rs.Verdict:
        given.append(effort)
        return rs.compare(*args, **options)

    monkeypatch.setattr("rnnscope._cli.compare.compare", compare)
    good = lstm.npy(lstm.layer(lstm.x)[0])
    run(*lstm.words, *good)
    run(*lstm.words, *good, "--effort", "2.5")
    assert given == [1.0, 2.5]
    assert "--effort" in refused(*lstm.words, *good, "--effort", "-1")


# json ----------------------------------------------------------------------------------------


def data_of(case: Case, candidate: list[str]) -> Any:
    text = run(*case.words, *candidate, "--format", "json").stdout
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_was_assumed_of_the_weights_is_said(lstm: Case) -> None:
    """Of TensorFlow 1, that 1 is added to the forget gate, which these numbers lack."""
    arrays = from_torch("tensorflow1", LSTM, lstm.layer.state_dict())
    path = lstm.folder / "weights.npz"
    np.savez(path, **{f"rnn/{name}": value for name, value in arrays.items()})  # type: ignore[arg-type]
    layer = rs.load(path, batch_first=True)["rnn"]
    with torch.no_grad():
        layer.bias_ih_l0[HIDDEN : 2 * HIDDEN] -= 1  # type: ignore[index, operator]
    lstm.words[1] = str(path)
    candidate = lstm.npy(layer(lstm.x)[0])
    text = run(*lstm.words, *candidate).stdout
    said = "forget_bias=1.0, added to the forget gate's bias"
    assert text.endswith(f"Of weights.npz was assumed:\n  {said}\n")
    assert data_of(lstm, candidate)["assumed"] == [said]
    same = run(*lstm.words, *lstm.npy(rs.load(path, batch_first=True)["rnn"](lstm.x)[0])).stdout
    assert "assumed" not in same


@pytest.mark.parametrize("agrees", [True, False])
def test_json_is_the_verdict(lstm: Case, agrees: bool) -> None:
    layer = lstm.layer if agrees else without_b_hh(lstm.layer)
    output = layer(lstm.x)[0].detach()
    found = data_of(lstm, lstm.npy(output))
    assert found.pop("assumed") == []
    assert found == json.loads(json.dumps(rs.compare(output, lstm.layer, lstm.x).to_dict()))
    assert found["agrees"] is agrees
    assert {"difference", "allowed", "first", "explanations", "right", "cannot_show"} <= set(found)
    if not agrees:
        causes = [c for one in found["explanations"] for c in one["causes"]]
        assert {"name", "choice", "title", "sentence", "repair"} <= set(causes[0])
        assert ("bias_missing", "b_hh") in {(c["name"], c["tensors"]) for c in causes}
        assert found["first"]["time"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_differ_and_are_json(lstm: Case, value: float) -> None:
    output = lstm.layer(lstm.x)[0].detach().clone()
    output[1, 2, 3] = value
    found = data_of(lstm, lstm.npy(output))
    assert found["agrees"] is False
    place = found["first"]
    assert [place[k] for k in ("batch", "time", "unit")] == [1, 2, 3]
    assert place["yours"] == str(value)
    result = run(*lstm.words, *lstm.npy(output))
    assert result.exit_code == 1


# refused -------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Case], list[str]], str]] = {
    "no such file": (lambda _: ["--candidate", "nowhere.npz"], "nowhere.npz: no such file"),
    "no array": (lambda case: case.npz(), "holds no array"),
    "no output": (lambda case: case.npz(foo=torch.zeros(2)), "expected output, h_n, c_n"),
    "width": (lambda case: case.npy(torch.zeros(BATCH, TIME, 7)), "fits under no order"),
    "steps": (lambda case: case.npy(torch.zeros(BATCH, 9, HIDDEN)), "fits under no order"),
    "empty": (lambda case: case.npy(torch.zeros(0, TIME, HIDDEN)), "empty"),
    "whole numbers": (
        lambda case: case.npy(torch.zeros(BATCH, TIME, HIDDEN, dtype=torch.int64)),
        "floating point",
    ),
    "complex": (
        lambda case: case.npy(torch.zeros(BATCH, TIME, HIDDEN, dtype=torch.complex64)),
        "real",
    ),
    "axes": (
        lambda case: [*case.npy(torch.zeros(BATCH, TIME, HIDDEN)), "--axes", "tbu"],
        "is not (time, batch, unit)",
    ),
    "unknown axes": (
        lambda case: [*case.npy(torch.zeros(BATCH, TIME, HIDDEN)), "--axes", "xyz"],
        "b (batch), t (time) and u (unit)",
    ),
    "kind of file": (lambda case: ["--candidate", case.words[1]], "expected a .npz or .npy file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_candidates_that_cannot_be_compared(lstm: Case, case: str) -> None:
    words, expected = REFUSED[case]
    assert expected in refused(*lstm.words, *words(lstm))


def test_which_axes_is_asked_as_an_option(lstm: Case) -> None:
    np.save(lstm.folder / "x.npy", lstm.x[:, :BATCH].numpy())
    output = lstm.layer(lstm.x[:, :BATCH])[0]
    assert "--axes tbu if it is" in " ".join(run(*lstm.words, *lstm.npy(output)).stdout.split())
    turned = lstm.npy(output.permute(2, 0, 1))
    assert "say which, --axes ubt or utb" in refused(*lstm.words, *turned)
    assert run(*lstm.words, *turned, "--axes", "ubt").exit_code == 0


def test_inputs_that_do_not_fit(lstm: Case) -> None:
    good = lstm.npy(lstm.layer(lstm.x)[0])
    other = lstm.folder / "other.npy"
    words = ["--weights", lstm.folder / "weights.pt", "--input", other]
    assert "other.npy: no such file" in refused(*words, *good)
    np.save(other, np.zeros((BATCH, TIME, INPUT + 1)))
    assert "the layer takes 4 numbers a step; got 5" in refused(*words, *good)
    np.save(other, np.full((BATCH, TIME, INPUT), 1e300))
    assert "too large for the layer's numbers" in refused(*words, *good)


def test_initial_states_that_do_not_fit(lstm: Case) -> None:
    good = lstm.npy(lstm.layer(lstm.x)[0])
    initial = lstm.folder / "initial.npz"
    words = [*lstm.words, *good, "--initial", initial]
    assert "initial.npz: no such file" in refused(*words)
    np.savez(initial, h_0=np.zeros((1, BATCH, HIDDEN)))
    assert "expected h_0 and c_0" in refused(*words)
    np.savez(initial, h_0=np.zeros((1, BATCH, HIDDEN)), c_0=np.zeros((BATCH, 1, HIDDEN)))
    assert "(1, 3, 5)" in refused(*words)
    np.savez(initial, h_0=np.zeros((1, BATCH, HIDDEN)), c_0=np.array(["a"]))
    assert "c_0 must hold real numbers" in refused(*words)


@pytest.mark.parametrize("lengths", ["6,4", "7,4,2", "6,4,0", "6,x,2"])
def test_lengths_that_do_not_fit(lstm: Case, lengths: str) -> None:
    good = lstm.npy(lstm.layer(lstm.x)[0])
    assert "lengths" in refused(*lstm.words, *good, "--lengths", lengths)


def test_weights_that_do_not_fit(lstm: Case) -> None:
    good = lstm.npy(lstm.layer(lstm.x)[0])
    assert "weights of nn.LSTM, not gru" in refused(*lstm.words, *good, "--cell", "gru")
    words = ["--nonlinearity", "relu", "--cell", "lstm"]
    assert "an option of --cell rnn" in refused(*lstm.words, *good, *words)


@pytest.mark.parametrize("missing", ["--weights", "--input", "--candidate"])
def test_what_is_left_out_is_named(lstm: Case, missing: str) -> None:
    words = [*lstm.words, *lstm.npy(lstm.layer(lstm.x)[0])]
    at = words.index(missing)
    assert missing in refused(*words[:at], *words[at + 2 :])


def test_forms_are_text_and_json(lstm: Case) -> None:
    good = lstm.npy(lstm.layer(lstm.x)[0])
    assert "'text', 'json'" in refused(*lstm.words, *good, "--format", "latex")
