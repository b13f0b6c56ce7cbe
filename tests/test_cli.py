"""The command line: what it prints, what it refuses, and how."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import assert_golden
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import rnnscope as rs
from rnnscope._cli.commands import AnyCell, app
from rnnscope._cli.questions import QUESTIONS
from rnnscope._cli.terminal import Format, show
from rnnscope._files.stored_layer import CELL_KINDS

RNNSCOPE = [sys.executable, "-m", "rnnscope"]


def run(*words: str | Path) -> Any:
    """The command in this process; a traceback is no answer."""
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="rnnscope")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def printed(*words: str | Path) -> str:
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(*words: str | Path) -> str:
    """The one line on stderr of a command that is refused."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("rnnscope: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# what is printed -----------------------------------------------------------------------------


def test_bare_command_names_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command and each line of Python, with files and a model as a reader has them."""
    monkeypatch.chdir(tmp_path)
    layer = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(1, 5, 3)
    torch.save(layer.state_dict(), "model.pt")
    np.save("x.npy", x.numpy())
    np.savez("mine.npz", output=layer(x)[0].detach().numpy())
    names = {"rs": rs, "layer": layer, "mine": layer, "model": layer, "batches": [x], "x": x}
    text = printed()
    for part in QUESTIONS.values():
        for question, answer in part.items():
            assert re.search(rf"^  {re.escape(question)} +{re.escape(answer)}$", text, re.MULTILINE)
            command, _, words = answer.partition(" ")
            if command != "rnnscope":
                exec(answer, names)
            elif words.startswith("check"):  # takes long, and may ask for a GPU
                options = re.findall(r"--\w+", words)
                assert all(option in printed("check", "--help") for option in options)
            else:
                assert printed(*words.split())
    assert max(map(len, text.splitlines())) <= 112


def test_bare_command_names_every_command() -> None:
    answers = {answer.split()[1] for part in QUESTIONS.values() for answer in part.values()}
    assert {command.name or command.callback.__name__ for command in app.registered_commands} <= (
        answers
    )


def test_shapes_about_some_words() -> None:
    text = printed("shapes", "--cell", "gru", "--about", "parameters")
    assert "Parameters: 165 numbers." in text
    assert "h_n" not in text.split("Parameters")[1]


def test_version() -> None:
    assert printed("--version") == f"rnnscope {rs.__version__}\n"


@pytest.mark.parametrize("command", ["explain", "shapes"])
def test_help_tells_every_option(command: str) -> None:
    text = printed(command, "--help")
    expected = {"explain": ["--set", "--weights", "--input", "--time"], "shapes": ["--lengths"]}
    for option in expected[command]:
        assert option in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("start", ""),
        ("explain_345", "explain 3 4 5"),
        ("explain_negative", "explain 3 -4 5"),
        ("explain_set", "explain 3 4 5 --set weight_hh_l0=0"),
        ("explain_lstm_step", "explain 3 4 --cell lstm --hidden 2 --time 1 --unit 1 --bias"),
        ("shapes_lstm", "shapes --cell lstm --layers 2 --bidirectional"),
        ("shapes_packed", "shapes --cell gru --lengths 2,5,3 --no-batch-first"),
    ],
)
def test_golden_text(name: str, words: str) -> None:
    text = re.sub(r"\d+e-\d\d", "#e-##", printed(*words.split()))  # rounding is the machine's
    assert_golden(f"cli_{name}.txt", text.replace(rs.__version__, "VERSION"))


def test_the_notebook_is_what_torch_computes() -> None:
    torch.manual_seed(8)
    rnn = nn.RNN(1, 1, bias=False, batch_first=True)
    output, _ = rnn(torch.tensor([[[3.0], [4.0], [5.0]]]))
    text = printed("explain", "3", "4", "5")
    for k, value in enumerate(output.flatten().tolist(), start=1):
        assert re.search(rf"h_{k}  {value:.6f}  {value:.6f}", text)
    assert "rnn = nn.RNN(input_size=1, hidden_size=1, bias=False, batch_first=True)" in text


def test_the_caller_random_state_stays() -> None:
    before = torch.get_rng_state()
    printed("explain", "3")
    printed("shapes", "--steps", "2")
    assert torch.equal(before, torch.get_rng_state())


def data_of(*words: str | Path) -> Any:
    return json.loads(printed("explain", *words, "--format", "json"))


def test_json_holds_the_numbers() -> None:
    torch.manual_seed(8)
    lstm = nn.LSTM(2, 3, batch_first=True)
    tr = rs.trace(lstm, torch.tensor([[[3.0, 1.0], [-4.0, 0.0]]]))
    words = ["3,1", "-4,0", "--cell", "lstm", "--hidden", "3", "--bias"]
    found = data_of(*words, "--time", "1", "--unit", "2")
    assert found["own"]["c"] == pytest.approx(float(tr["c"][0, 0, 0, 1, 2]), abs=1e-6)
    assert found["own"]["h"] == pytest.approx(float(tr["h"][0, 0, 0, 1, 2]), abs=1e-6)


@pytest.mark.parametrize("form", ["latex", "markdown"])
def test_other_forms_are_those_of_the_library(form: str) -> None:
    words = ["3,1", "4,0", "--cell", "gru", "--name", "z", "--time", "-1"]
    torch.manual_seed(8)
    layer = nn.GRU(2, 1, bias=False, batch_first=True)
    tr = rs.trace(layer, torch.tensor([[[3.0, 1.0], [4.0, 0.0]]]))
    text = getattr(tr.explain("z", time=-1), form)()
    assert printed("explain", *words, "--format", form) == text


def test_json_writes_nan_as_text() -> None:
    found = printed("explain", "nan", "-inf", "--time", "0", "--format", "json")
    json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert '"nan"' in found


def test_json_has_no_constants_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    class Found:
        def markdown(self) -> str:
            return ""

        def data(self) -> dict[str, Any]:
            return {"a": [float("nan"), -float("inf"), 0.5], "b": ({"c": float("inf")},)}

    show(Found(), Format.json)
    expected = {"a": ["nan", "-inf", 0.5], "b": [{"c": "inf"}]}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("words", ["-4 3", "3 -4 5", "-1e-3 -.5", "-3,-1 2,4", "inf -inf nan"])
def test_negative_numbers_are_inputs(words: str) -> None:
    assert "1 Input" in printed("explain", *words.split())


def test_set_fills_a_parameter_or_one_number() -> None:
    words = ["3", "4", "--hidden", "2", "--set", "weight_hh_l0=0.5", "--set"]
    found = data_of(*words, "weight_hh_l0[1,-1]=-2", "--time", "1", "--unit", "1")
    weights = data_of(*words, "weight_hh_l0[1,-1]=-2")["parameters"]["weight_hh_l0"]
    assert weights == [[0.5, 0.5], [0.5, -2.0]]
    assert found["own"]["h"] != data_of(*words[:-1], "--time", "1", "--unit", "1")["own"]["h"]


def test_directions_and_layers() -> None:
    words = ["3", "4", "--bidirectional", "--layers", "2", "--at-layer", "1", "--direction"]
    assert "h_(t+1)" in printed("explain", *words, "reverse")
    assert "h_(t-1)" in printed("explain", *words, "forward")


def test_last_is_where_a_direction_ends() -> None:
    words = ["3", "4", "--bidirectional", "--direction"]
    assert data_of(*words, "forward", "--time", "last")["address"]["time"] == 1
    assert data_of(*words, "reverse", "--time", "last")["address"]["time"] == 0


@pytest.mark.parametrize("cell", ["LSTM", "Gru", "rnn", "LSTM_Peephole"])
def test_cells_in_capitals(cell: str) -> None:
    assert printed("explain", "3", "--cell", cell) == printed(
        "explain", "3", "--cell", cell.lower()
    )


def own_states(layer: nn.Module, x: list[float], *state: Any) -> list[float]:
    return layer(torch.tensor(x).view(1, -1, 1), *state)[0].detach().flatten().tolist()


def test_initial_states_in_words_and_files(tmp_path: Path) -> None:
    torch.manual_seed(8)
    lstm = nn.LSTM(1, 2, bias=False, batch_first=True)
    states = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[2.0, 2.0]]])
    own = own_states(lstm, [3.0, 4.0], states)
    np.savez(tmp_path / "s.npz", h_0=states[0], c_0=states[1])
    words = ["3", "4", "--cell", "lstm", "--hidden", "2", "--time", "1", "--unit", "1", "--initial"]
    for given in (["h_0=0.5,-1", "--initial", "c_0=2"], [tmp_path / "s.npz"]):
        found = data_of(*words, *given)
        assert found["own"]["h"] == pytest.approx(own[3], abs=1e-6)
    text = printed("explain", *words[:6], "--initial", "h_0=0.5,-1")
    assert "h_0 = [0.5, -1], as it was given to the layer: no step came before" in text
    assert "c_0 = 0: no step came before" in text


def test_initial_states_of_each_layer_and_direction() -> None:
    torch.manual_seed(8)
    gru = nn.GRU(1, 1, 2, bias=False, batch_first=True, bidirectional=True)
    states = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1)
    own = own_states(gru, [3.0, 4.0], states)
    words = ["3", "4", "--cell", "gru", "--layers", "2", "--bidirectional", "--at-layer", "1"]
    words += ["--initial", "h_0=0.1,0.2,0.3,0.4", "--time", "0", "--direction", "reverse"]
    assert data_of(*words)["own"]["h"] == pytest.approx(own[1], abs=1e-6)
    walk = printed("explain", *words[:-4], "--direction", "reverse")
    assert re.search(r"h_3 = 0.40*, the initial state h_0, as it was given to the layer: ", walk)
    assert "the reverse direction starts here" in walk


def test_a_projection() -> None:
    torch.manual_seed(8)
    lstm = nn.LSTM(1, 3, bias=False, batch_first=True, proj_size=2)
    own = own_states(lstm, [3.0, 4.0])
    words = ["3", "4", "--cell", "lstm", "--hidden", "3", "--proj-size", "2", "--time", "1"]
    assert data_of(*words, "--unit", "1")["own"]["h"] == pytest.approx(own[3], abs=1e-6)


def test_lengths_are_those_of_a_packed_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[[3.0], [4.0], [5.0]], [[3.0], [4.0], [0.0]]]))
    words = ["--input", tmp_path / "x.npy", "--lengths", "3,2"]
    last = data_of(*words, "--batch", "1", "--time", "last")
    assert last["address"]["time"] == 1
    assert last["own"] == data_of("3", "4", "--time", "1")["own"]
    assert "two sequences of 3 and 2 steps" in printed("explain", *words)


def test_dropout_is_drawn_from_the_seed() -> None:
    words = ["3", "4", "--layers", "2", "--hidden", "2", "--dropout", "0.5", "--at-layer", "1"]
    before = torch.get_rng_state()
    text = printed("explain", *words)
    assert torch.equal(before, torch.get_rng_state())
    assert "dropout=0.5).train()" in text
    assert "after dropout 0.5, what it keeps times 2" in text
    torch.manual_seed(8)
    rnn = nn.RNN(1, 2, 2, bias=False, batch_first=True, dropout=0.5)
    torch.manual_seed(8)
    own = own_states(rnn, [3.0, 4.0])
    for step, unit in ((0, 0), (1, 1)):
        found = data_of(*words, "--time", str(step), "--unit", str(unit))
        assert found["own"]["h"] == pytest.approx(own[2 * step + unit], abs=1e-6)


def test_dropout_that_does_nothing_is_told() -> None:
    result = run("explain", "3", "--dropout", "0.5")
    assert result.exit_code == 0
    assert "no effect here: it drops between layers, and there is one" in result.stderr
    assert result.stdout.splitlines()[0].endswith("batch_first=True)   # seed 8")


def test_one_step_of_several_numbers_is_asked_about() -> None:
    result = run("explain", "3,4,5")
    assert (result.exit_code, "one number a step" in result.stdout) == (0, False)
    assert "Did you mean 3 4 5, 3 steps?" in result.stderr
    assert run("explain", "3,4", "5,6").stderr == ""


def test_one_step_where_the_layer_takes_one_number(tmp_path: Path) -> None:
    torch.save(nn.RNN(1, 1).state_dict(), tmp_path / "m.pt")
    line = refused("explain", "3,4,5", "--weights", tmp_path / "m.pt")
    assert "the layer takes 1 number a step; got 3. Did you mean 3 4 5, 3 steps?" in line


def test_words_are_answered_with_their_numbers() -> None:
    line = refused("explain", "I", "love", "I")
    assert "'I' is no number" in line
    rows = line.strip().rpartition("all others: ")[2].split()
    assert rows == ["1,0", "0,1", "1,0"]
    assert "three numbers a step" not in printed("explain", *rows)
    assert "1 in the place of the word" in refused("explain", *"abcdefghij")


def test_labels_with_spaces_are_answered_with_commas(tmp_path: Path) -> None:
    view = ["view", "3", "4", "5", "-o", tmp_path / "p.html"]
    words = [*view, "--labels"]
    line = refused(*words, "I love RNNs")
    assert "with commas, --labels I,love,RNNs, or write --text 'I love RNNs'" in line
    assert "labels must be 3" in refused(*words, "I,love")
    assert "wrote" in printed(*words, "I,love,RNNs")
    assert "wrote" in printed(*view, "--text", "I love RNNs")
    assert '"I","love","RNNs"' in (tmp_path / "p.html").read_text("utf-8").replace(" ", "")
    assert "labels must be 3" in refused(*view, "--text", "I love")
    assert "not both" in refused(*words, "a,b,c", "--text", "a b c")


def test_shapes_are_those_of_the_library() -> None:
    text = printed("shapes", "--cell", "rnn", "--hidden", "7", "--unbatched", "--steps", "2")
    assert "nn.RNN(4, 7, batch_first=True)" in text
    assert "x (time 2, feature 4): one sequence, no batch" in text
    data = json.loads(printed("shapes", "--lengths", "3,1", "--proj-size", "2", "--format", "json"))
    assert data["module"] == "nn.LSTM(4, 5, proj_size=2, batch_first=True)"
    assert printed("shapes", "--format", "markdown").startswith("**`nn.LSTM(4, 5")


# files ---------------------------------------------------------------------------------------


@pytest.fixture
def lstm() -> nn.LSTM:
    return nn.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True)


def save_torch(state: Any, path: Path) -> None:
    torch.save(state, path)


@pytest.mark.parametrize(("ending", "save"), [(".pt", save_torch), (".safetensors", save_file)])
def test_weights_from_a_file(
    tmp_path: Path, lstm: nn.LSTM, ending: str, save: Callable[[Any, Path], None]
) -> None:
    save(lstm.state_dict(), tmp_path / f"model{ending}")
    words = ["3,1", "4,0", "--weights", tmp_path / f"model{ending}", "--at-layer", "1"]
    found = data_of(*words, "--direction", "reverse", "--time", "0", "--unit", "2", "--batch", "0")
    tr = rs.trace(lstm, torch.tensor([[[3.0, 1.0], [4.0, 0.0]]]))
    assert found["own"]["c"] == pytest.approx(float(tr["c"][1, 1, 0, 0, 2]), abs=1e-6)
    assert "num_layers=2, batch_first=True, bidirectional=True" in printed("explain", *words)


@pytest.mark.parametrize(
    "layer",
    [
        nn.RNN(2, 3),
        nn.GRU(2, 3, bias=False),
        nn.LSTM(2, 3, proj_size=2, bidirectional=True),
        nn.GRUCell(2, 3),
        nn.LSTM(2, 3).double(),
        nn.LSTM(1, 1),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_kind_and_sizes_follow_from_the_file(tmp_path: Path, layer: nn.Module) -> None:
    torch.save({"epoch": 3, "model": layer.state_dict(), "optimizer": [1]}, tmp_path / "a.pth")
    words = ["1" if getattr(layer, "input_size", 0) == 1 else "3,1", "--weights"]
    found = data_of(*words, tmp_path / "a.pth")["parameters"]
    for name, value in layer.state_dict().items():
        key = name if "_l" in name else f"{name}_l0"
        assert torch.equal(torch.tensor(found[key], dtype=value.dtype), value)


def test_one_layer_of_several(tmp_path: Path) -> None:
    model = nn.ModuleDict({"encoder": nn.GRU(2, 3), "decoder": nn.GRU(1, 2)})
    torch.save(model.state_dict(), tmp_path / "m.pt")
    words = ["explain", "3", "--weights", tmp_path / "m.pt"]
    assert "2 recurrent layers, 'encoder', 'decoder'; choose one with --layer" in refused(*words)
    assert "no recurrent layer 'foo'; it holds 'encoder', 'decoder'" in refused(
        *words, "--layer", "foo"
    )
    text = printed(*words, "--layer", "decoder")
    assert "nn.GRU(input_size=1, hidden_size=2, batch_first=True)" in text
    assert "# weights from m.pt, decoder" in text
    assert "takes 2 numbers a step; got 1" in refused(*words, "--layer", "encoder")
    assert "leave out --hidden" in refused(*words, "--layer", "decoder", "--hidden", "2")
    assert "weights of nn.GRU, not lstm" in refused(*words, "--layer", "decoder", "--cell", "lstm")


def test_relu_cannot_be_seen_in_weights(tmp_path: Path) -> None:
    torch.save(nn.RNN(1, 1).state_dict(), tmp_path / "m.pt")
    text = printed("explain", "3", "--weights", tmp_path / "m.pt", "--nonlinearity", "relu")
    assert "nonlinearity='relu'" in text


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def test_hostile_pickles_are_refused_and_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight_ih_l0": Harm()}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Harm()))
    torch.save(nn.GRU(1, 1), tmp_path / "module.pt")
    said = {
        "new.pt": "refused: it holds posix.system",
        "old.pt": "which no model needs, and unpickling it could run code: do not load it",
        "module.pt": "refused: it holds torch.nn.modules.rnn.GRU",
    }
    for name, message in said.items():
        assert f"{name}: " in refused("explain", "3", "--weights", name)
        assert message in refused("explain", "3", "--weights", name)
    assert not (tmp_path / "harmed").exists()


def broken_weights(folder: Path) -> dict[str, str]:
    """Files that are no state dict of a recurrent layer, and what is said of each."""
    good = nn.LSTM(2, 3, num_layers=2).state_dict()
    torch.save(good, folder / "good.pt")
    whole = (folder / "good.pt").read_bytes()
    (folder / "half.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("weights, honestly")
    (folder / "half.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    huge = torch.zeros(1).expand(3_000_000, 1_000_000)
    changes: dict[str, Any] = {
        "list.pt": [1, 2],
        "linear.pt": nn.Linear(2, 3).state_dict(),
        "missing.pt": {k: v for k, v in good.items() if k != "bias_hh_l1"},
        "gap.pt": {k.replace("_l1", "_l2"): v for k, v in good.items()},
        "shape.pt": good | {"weight_hh_l1": torch.zeros(12, 4)},
        "rows.pt": good | {"weight_ih_l0": torch.zeros(7, 2)},
        "flat.pt": good | {"weight_ih_l0": torch.zeros(12)},
        "whole_numbers.pt": good | {"weight_ih_l0": torch.zeros(12, 2, dtype=torch.int8)},
        "mixed.pt": good | {"weight_hh_l0": torch.zeros(12, 3, dtype=torch.float64)},
        "huge.pt": {"weight_ih_l0": huge, "weight_hh_l0": huge},
        "many.pt": good | {"weight_ih_l999": torch.zeros(12, 3)},
        "stray.pt": good | {"weight_hr_l1": torch.zeros(2, 3)},
    }
    for name, state in changes.items():
        torch.save(state, folder / name)
    return {
        "none.pt": "no such file",
        ".": "expected a file ending in .pt, .pth, .ckpt",
        "text.dat": "expected a file ending in",
        "half.pt": "damaged",
        "empty.pt": "damaged",
        "text.pt": "damaged",
        "half.safetensors": "damaged",
        "list.pt": "no weights of a recurrent layer",
        "linear.pt": "no weights of a recurrent layer",
        "missing.pt": r"bias_hh_l1 \(12,\) is missing",
        "gap.pt": r"weight_ih_l1 \(12, 3\) is missing",
        "shape.pt": r"weight_hh_l1 must be \(12, 3\); got \(12, 4\)",
        "rows.pt": "weight_ih_l0 has 7 rows for 3 units",
        "flat.pt": r"expected matrices; weight_ih_l0 is \(12,\)",
        "whole_numbers.pt": "weight_ih_l0 is torch.int8",
        "mixed.pt": "weight_hh_l0 is torch.float64, unlike",
        "huge.pt": "huge.pt: ",
        "many.pt": "is missing",
        "stray.pt": "weight_hr_l1 does not fit",
    }


def test_broken_weights_are_named(tmp_path: Path) -> None:
    for name, message in broken_weights(tmp_path).items():
        line = refused("explain", "3,1", "--weights", tmp_path / name)
        assert re.search(message, line), line
        assert str(tmp_path / name) in line


def test_a_dict_that_holds_itself(tmp_path: Path) -> None:
    state: dict[str, Any] = {"a": {}}
    state["a"]["b"], state["c"] = state, state["a"]
    torch.save(state, tmp_path / "m.pt")
    assert "no weights" in refused("explain", "3", "--weights", tmp_path / "m.pt")


def lesson(*words: str) -> str:
    """What explain prints of numbers, without the line that says what else to try with them."""
    return printed("explain", *words).partition("\nNext: ")[0]


def test_csv_input(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\ufeff3,1\r\n\r\n-4, 0.5\n", encoding="utf-8")
    found = printed("explain", "--input", tmp_path / "x.csv")
    assert found == lesson("3,1", "-4,0.5")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([3, -4]), ["3", "-4"]),
        (np.array([[3.0, 1.0], [4.0, 0.0]], dtype=np.float16), ["3,1", "4,0"]),
        (np.asfortranarray([[3.0, 1.0], [4.0, 0.0]]), ["3,1", "4,0"]),
        (np.array([[3], [4]], dtype=">i4"), ["3", "4"]),
    ],
)
def test_npy_input(tmp_path: Path, array: Any, words: list[str]) -> None:
    np.save(tmp_path / "x.npy", array)
    assert printed("explain", "--input", tmp_path / "x.npy") == lesson(*words)


def test_npy_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[[3.0], [4.0]], [[5.0], [6.0]]]))
    words = ["--input", tmp_path / "x.npy", "--time", "1", "--batch", "1"]
    assert data_of(*words)["own"] == data_of("5", "6", "--time", "1")["own"]


def broken_inputs(folder: Path) -> dict[str, str]:
    """Files that hold no sequence, and what is said of each."""
    texts = {
        "empty.csv": "",
        "blank.csv": "\n\n",
        "ragged.csv": "1,2\n3,4\n5\n",
        "words.csv": "1,2\n3,four\n",
        "header.csv": "price,volume\n1,2\n",
        "hole.csv": "1,2\n3,\n",
        "large.csv": "1\n1e999\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "nul.csv").write_bytes(b"1,2\n3,\x00\n")
    arrays: dict[str, Any] = {
        "four.npy": np.zeros((1, 1, 1, 1)),
        "scalar.npy": np.array(3.0),
        "none.npy": np.zeros((0, 2)),
        "complex.npy": np.zeros(2, dtype=complex),
        "text.npy": np.array(["3", "4"]),
        "object.npy": np.array([Harm()], dtype=object),
    }
    for name, array in arrays.items():
        np.save(folder / name, array)
    whole = arrays["four.npy"].tobytes()
    (folder / "bytes.npy").write_bytes(whole)
    (folder / "zero.npy").write_bytes(b"")
    header = str({"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)}).encode()
    promised = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    (folder / "promise.npy").write_bytes(promised)
    np.savez(folder / "x.npz", a=np.zeros(2))
    (folder / "x.npz").rename(folder / "zip.npy")
    return {
        "absent.csv": "no such file",
        "x.txt": "expected a file ending in .csv, .npy; got .txt",
        "empty.csv": "empty",
        "blank.csv": "empty",
        "ragged.csv": "line 3: 1 columns, where the lines before have 2",
        "words.csv": "line 2, column 2: 'four' is no number",
        "header.csv": "line 1, column 1: 'price' is no number. If that is a header",
        "hole.csv": "line 2, column 2: '' is no number",
        "large.csv": "line 2, column 1: 1e999 is too large",
        "binary.csv": "not a text of comma-separated numbers",
        "nul.csv": "nul.csv",
        "four.npy": r"expected an array .* got \(1, 1, 1, 1\)",
        "scalar.npy": r"got \(\)",
        "none.npy": "no numbers|expected an array",
        "complex.npy": "holds complex128; expected real",
        "text.npy": "holds <U1",
        "object.npy": "Python objects",
        "bytes.npy": "not a whole .npy file",
        "zero.npy": "not a whole .npy file",
        "promise.npy": "not a whole .npy file",
        "zip.npy": "not a whole .npy file",
    }


def test_broken_inputs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, message in broken_inputs(tmp_path).items():
        line = refused("explain", "--input", name)
        assert re.search(message, line), line
        assert name in line
    assert not (tmp_path / "harmed").exists()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "x.csv")

    (tmp_path / "x.csv").write_text("1")
    monkeypatch.setattr(Path, "open", deny)
    assert "Permission denied" in refused("explain", "--input", tmp_path / "x.csv")


# refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("explain", "no input: give a number a step"),
        ("explain 3 x", "input 2 of 2: 'x' is no number"),
        ("explain 3 1e400", "1e400 is too large"),
        ("explain 3 1e39", "1e+39 is too large for the layer's numbers, torch.float32"),
        ("explain 3, 4", "input 1 of 2: '' is no number"),
        ("explain 3,1 4", "the first, '3,1', has 2, input 2, '4', has 1"),
        ("explain 3 --hiden 2", "no such option: --hiden. Did you mean --hidden?"),
        ("explain 3 -q", "no such option: -q"),
        ("explain 3 --hidden 0", "--hidden"),
        ("explain 3 --hidden x", "--hidden"),
        ("explain 3 --hidden 1000000", "weights; the most here is"),
        ("explain 3 --layers 999999999", "weights; the most here is"),
        ("explain 3 --seed -1", "--seed"),
        ("explain 3 --cell foo", "'foo' is not one of 'rnn', 'gru', 'lstm'"),
        ("explain 3 --cell gru --nonlinearity relu", "--nonlinearity is an option of --cell rnn"),
        ("explain 3 --layer rnn", "--layer chooses in a file"),
        ("explain 3 --layout keras", "--layout is of a file"),
        ("explain 3 --input x.csv", "not both"),
        (
            "explain 3 --cell gru --proj-size 1 --hidden 2",
            "--proj-size is an option of --cell lstm",
        ),
        ("explain 3 --cell lstm --proj-size 2 --hidden 2", "smaller than --hidden, 2; got 2"),
        ("explain 3 4 --lengths 3", "3 is longer than the input, which has 2 steps"),
        ("explain 3 4 --lengths 1,2", "2 lengths for 1 sequence; give one for each"),
        ("explain 3 4 --lengths 0", "expected whole numbers from 1"),
        ("explain 3 --initial c_0=1", "no state 'c_0'; the layer has h_0"),
        ("explain 3 --initial h_0=1,2", "--initial h_0: expected 1 number; got 2"),
        ("explain 3 --initial h_0=x", "'x' is no number"),
        ("explain 3 --initial 1", "--initial '1': expected h_0=0.5, h_0=0.5,-1 or an .npz file"),
        ("explain 3 --initial h_0=1e39", "too large for torch.float32"),
        ("explain 3 --initial 0.5", "expected"),
        ("explain 3 --initial h_0=1 --initial s.npz", "expected h_0=0.5"),
        ("explain 3 --layers 2 --dropout 1.5", "--dropout"),
        ("explain 3 --set foo=1", "no parameter 'foo'; the layer has weight_ih_l0 (1, 1)"),
        ("explain 3 --set bias_ih_l0=1", "--bias adds the biases"),
        ("explain 3 --set weight_ih_l0", "expected weight_hh_l0=0.7"),
        ("explain 3 --set weight_ih_l0=x", "'x' is no number"),
        ("explain 3 --set weight_ih_l0[0]=1", "expected weight_ih_l0[row,column]"),
        ("explain 3 --set weight_ih_l0[0,1]=1", "has shape (1, 1), numbered from 0"),
        ("explain 3 --time 1", "no time 1: there is 1"),
        ("explain 3 --time first", "expected a whole number, or last"),
        ("explain 3 --time 0 --name q", "'q'"),
        ("explain 3 --hidden 2 --time 0", "unit"),
        ("explain 3 --direction reverse", "reverse"),
        ("explain 3 --format pdf", "'pdf' is not one of"),
        ("explian", "No such command 'explian'. Did you mean 'explain'?"),
        ("shapes 3", "unexpected extra argument"),
        ("shapes --about nothing", "no title and no trap has the words 'nothing'"),
        ("shapes --format latex", "text, markdown or json"),
        ("shapes --lengths 3,0", "expected whole numbers from 1"),
        ("shapes --lengths 3 --batch 2", "leave out the others"),
        ("shapes --unbatched --batch 2", "leave out --batch"),
        ("shapes --cell gru --proj-size 2", "--proj-size is an option of --cell lstm"),
        ("shapes --proj-size 5", "smaller than --hidden, 5"),
        ("shapes --batch 100000000", "the most here is"),
        ("shapes --hidden 100000000", "the most here is"),
        ("explain 3 --layer=rnn --weights none.pt", "none.pt: no such file"),
    ],
)
def test_refusals_are_one_line(words: str, message: str) -> None:
    assert message in refused(*words.split())


# as a process --------------------------------------------------------------------------------


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RNNSCOPE, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | environment,
        check=False,
    )


def test_as_a_process() -> None:
    done = start("explain", "3", "-4", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == printed("explain", "3", "-4", "5")
    assert "\x1b" not in done.stdout
    failed = start("explain", "x")
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)


def test_a_terminal_without_greek_letters_shows_something() -> None:
    done = start("explain", "3", "--cell", "gru", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_pipe_is_quiet() -> None:
    words = " ".join([*RNNSCOPE, "explain", *["3"] * 400])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -n 1"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().startswith("rnn = nn.RNN")
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_on_a_terminal(environment: dict[str, str]) -> None:
    """Colours unless NO_COLOR, and no line is broken, however narrow the terminal is."""
    import pty

    mine, theirs = pty.openpty()
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "20"} | environment
    words = [*RNNSCOPE, "explain", "3", "4", "5"]
    with subprocess.Popen(words, stdout=theirs, env=variables) as process:
        os.close(theirs)
        found = b""
        while True:
            try:
                chunk = os.read(mine, 65536)
            except OSError:  # how Linux tells that the other end was closed
                break
            if not chunk:
                break
            found += chunk
    os.close(mine)
    assert process.returncode == 0
    text = found.decode().replace("\r\n", "\n")
    coloured = re.search(r"\x1b\[[\d;]*3[0-9]", text) is not None
    assert coloured == (not environment)
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert plain.rstrip() == printed("explain", "3", "4", "5").rstrip()


def test_shapes_in_colour_are_the_same_text() -> None:
    said = rs.trace(nn.LSTM(2, 3, bidirectional=True), torch.randn(3, 2, 2)).shapes()
    assert said.__rich__().plain == str(said)


# show and convert ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a model of two layers whose numbers are known."""
    layers = {"encoder.rnn": nn.LSTM(3, 4, num_layers=2, bidirectional=True), "out": nn.GRU(4, 2)}
    with torch.no_grad():
        for layer in layers.values():
            for parameter in layer.parameters():
                parameter.fill_(0.25)
        layers["out"].weight_ih_l0[0, 0] = float("nan")
    rs.save(layers, tmp_path / "m.pt")
    return tmp_path


def test_show(files: Path) -> None:
    assert_golden("cli_show.txt", printed("show", files / "m.pt"))


def test_show_as_data(files: Path) -> None:
    text = printed("show", files / "m.pt", "--layer", "encoder.rnn", "--format", "json")
    (layer,) = json.loads(text)["layers"]
    assert layer["forget_bias"] == dict.fromkeys(layer["spectral_radius"], 0.5)
    for radii in layer["spectral_radius"].values():  # of a matrix of 4 × 4 quarters
        assert radii == pytest.approx(dict.fromkeys("ifgo", 1.0))
    assert (layer["layout"], layer["gates"], layer["not_finite"]) == ("pytorch", list("ifgo"), {})


def test_convert_there_and_back(files: Path) -> None:
    words = ["convert", files / "m.pt", files / "m.npz", "--layout", "burn", "--layer", "out"]
    assert "out: GRU(4, 2)" in printed(*words)
    np.savez(files / "bare.npz", **np.load(files / "m.npz"))  # which says of itself no more
    back = ["convert", files / "bare.npz", files / "back.onnx"]
    choice = "--cell gru --{0} burn; or --cell gru_reset_before --{0} burn"
    assert choice.format("from") in refused(*back)
    for words in (["show"], ["explain", "1,2,3,4", "--weights"]):
        assert choice.format("layout") in refused(*words, files / "bare.npz")
        pair = ["--cell", "gru_reset_before", "--layout", "burn"]
        assert "Recurrent" in printed(*words, files / "bare.npz", *pair)
    assert printed(*back, "--cell", "gru").endswith("back.onnx\n")
    text = printed("show", files / "back.onnx")
    assert "nn.GRU(4, 2)" in text
    assert "gates in the order z r n" in text
    assert "1 in weight_ih_l0" in text


def test_explain_a_layer_that_torch_lacks(tmp_path: Path) -> None:
    layer = rs.Recurrent(rs.cells.GRU_RESET_BEFORE, 1, 2)
    rs.save({"g": layer}, tmp_path / "m.onnx")
    words = ["3", "4", "--weights", tmp_path / "m.onnx", "--time", "1", "--unit", "0"]
    found = data_of(*words)
    tr = rs.trace(layer, torch.tensor([[3.0], [4.0]]))
    assert found["own"]["h"] == pytest.approx(float(tr["h"][0, 0, 0, 1, 0]), abs=1e-6)
    assert "rnnscope.load('m.onnx')['g']" in printed("explain", *words[:4])


@pytest.mark.parametrize("cell", list(AnyCell))
def test_explain_each_cell_without_a_file(cell: str) -> None:
    """The layer that its first line builds, with the weights that the seed draws."""
    words = ["3", "-4", "--cell", cell, "--hidden", "2", "--seed", "3", "--bias"]
    found = data_of(*words, "--time", "last", "--unit", "1")
    line = printed("explain", *words, "--unit", "1").splitlines()[0]
    torch.manual_seed(3)
    layer = eval(line.partition(" = ")[2].partition("#")[0], {"nn": nn, "rnnscope": rs})
    h = layer(torch.tensor([[[3.0], [-4.0]]]))[0].detach()
    assert found["own"]["h"] == pytest.approx(float(h[0, 1, 1]), abs=1e-6)


def test_the_command_takes_each_cell_that_load_takes() -> None:
    assert set(AnyCell) == CELL_KINDS.keys() - {"lstm_projected"}  # which is an lstm, in files


def test_convert_says_what_the_target_cannot(tmp_path: Path) -> None:
    rs.save({"r": nn.RNN(2, 3)}, tmp_path / "m.pt")
    words = ["convert", tmp_path / "m.pt", tmp_path / "m.npz", "--layout"]
    said = "an rnn of mxnet is relu unless told otherwise: activation='tanh'"
    assert said not in printed(*words, "flax")
    assert "r: RNN(2, 3)\n" in printed(*words, "mxnet")
    assert said in printed(*words, "mxnet")
    assert "has relu alone" in refused(*words, "haiku")


def test_show_and_convert_refuse(files: Path) -> None:
    assert "no recurrent layer 'x'; it holds 'encoder.rnn', 'out'" in refused(
        "show", files / "m.pt", "--layer", "x"
    )
    assert "unknown layout 'kears'" in refused("show", files / "m.pt", "--layout", "kears")
    assert "show prints no formulas: text, markdown or json" in refused(
        "show", files / "m.pt", "--format", "latex"
    )
    refusal = refused("convert", files / "m.pt", files / "m.keras")
    assert "load_weights" in refusal
    assert not (files / "m.keras").exists()
    assert "no such file" in refused("convert", files / "none.pt", files / "m.npz")
